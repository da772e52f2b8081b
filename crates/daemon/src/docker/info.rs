//! What the engine is and what it runs on: `/version` and `/info`.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use sampan_base::Timestamp;
use sampan_docker_api::system::{Component, Platform, Version};
use sampan_docker_api::{API_VERSION, MIN_API_VERSION};
use sampan_engine::Engine;
use sampan_engine::container::state::Phase;
use serde_json::{Value, json};

use super::error::Answer;

pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn kernel() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

pub(crate) async fn version() -> Json<Version> {
    let details = [
        ("ApiVersion", API_VERSION),
        ("MinAPIVersion", MIN_API_VERSION),
        ("Os", "linux"),
        ("Arch", architecture()),
        ("Experimental", "false"),
    ];
    let mut details: BTreeMap<String, String> =
        details.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    details.insert("KernelVersion".to_owned(), kernel());
    let component =
        |name: &str, details| Component { name: name.to_owned(), version: VERSION.to_owned(), details };
    Json(Version {
        platform: Platform { name: "sampan".to_owned() },
        components: vec![component("Engine", details), component("sampan-runtime", BTreeMap::new())],
        version: VERSION.to_owned(),
        api_version: API_VERSION.to_owned(),
        min_api_version: MIN_API_VERSION.to_owned(),
        os: "linux".to_owned(),
        arch: architecture().to_owned(),
        kernel_version: kernel(),
        ..Version::default()
    })
}

fn os_release(key: &str) -> String {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    value.unwrap_or_default().trim_matches('"').to_owned()
}

/// Whether a setting of the kernel's is on; one that is not there is off.
fn kernel_setting(path: &str) -> bool {
    std::fs::read_to_string(path).is_ok_and(|text| text.trim() == "1")
}

pub(crate) async fn info(State(engine): State<Engine>) -> Answer<Json<Value>> {
    let views = engine.containers();
    let count = |wanted: fn(&Phase) -> bool| views.iter().filter(|v| wanted(&v.record.phase)).count();
    let host = engine.host();
    let config = engine.config();
    let settings = engine.settings();
    let images = engine.images().await?.len();
    let uname = rustix::system::uname();
    let entries = |path: &str| std::fs::read_dir(path).map_or(0, Iterator::count);
    let proxy =
        |name: &str| std::env::var(name).or_else(|_| std::env::var(name.to_lowercase())).unwrap_or_default();
    let mut security = vec![json!("name=seccomp,profile=builtin")];
    if config.userns.is_some() {
        security.push(json!("name=userns"));
    }
    if !host.cgroup_v1 {
        security.push(json!("name=cgroupns"));
    }
    let insecure: Vec<&String> = settings.registries.insecure.iter().filter(|r| r.contains('/')).collect();
    let hub_mirrors = settings.registries.mirrors.get("docker.io").cloned().unwrap_or_default();
    let mut registries = BTreeMap::from([(
        "docker.io".to_owned(),
        json!({"Name": "docker.io", "Mirrors": hub_mirrors, "Secure": true, "Official": true}),
    )]);
    for name in settings.registries.insecure.iter().filter(|r| !r.contains('/')) {
        let about = json!({"Name": name, "Mirrors": [], "Secure": false, "Official": false});
        registries.insert(name.clone(), about);
    }
    let version = json!({"ID": VERSION, "Expected": VERSION});
    Ok(Json(json!({
        "ID": engine.id(),
        "Containers": views.len(),
        "ContainersRunning": count(|p| matches!(p, Phase::Running { .. })),
        "ContainersPaused": count(|p| matches!(p, Phase::Paused { .. })),
        "ContainersStopped": count(|p| !p.is_alive()),
        "Images": images,
        "Driver": "overlay2",
        "DriverStatus": [["Supports d_type", "true"], ["Native Overlay Diff", "true"], ["userxattr", "false"]],
        "Plugins": {
            "Volume": ["local"],
            "Network": ["bridge", "host", "macvlan", "null"],
            "Authorization": null,
            "Log": sampan_engine::logs::driver::DRIVERS,
        },
        "MemoryLimit": true,
        "SwapLimit": true,
        "CpuCfsPeriod": true,
        "CpuCfsQuota": true,
        "CPUShares": true,
        "CPUSet": true,
        "PidsLimit": true,
        "OomKillDisable": host.cgroup_v1,
        "IPv4Forwarding": kernel_setting("/proc/sys/net/ipv4/ip_forward"),
        "BridgeNfIptables": kernel_setting("/proc/sys/net/bridge/bridge-nf-call-iptables"),
        "BridgeNfIp6tables": kernel_setting("/proc/sys/net/bridge/bridge-nf-call-ip6tables"),
        "Debug": tracing::enabled!(tracing::Level::DEBUG),
        "NFd": entries("/proc/self/fd"),
        "NGoroutines": entries("/proc/self/task"),
        "NEventsListener": engine.events().listeners(),
        "SystemTime": Timestamp::now().to_string(),
        "LoggingDriver": settings.log.driver,
        "CgroupDriver": "cgroupfs",
        "CgroupVersion": if host.cgroup_v1 { "1" } else { "2" },
        "KernelVersion": kernel(),
        "OperatingSystem": os_release("PRETTY_NAME"),
        "OSVersion": os_release("VERSION_ID"),
        "OSType": "linux",
        "Architecture": uname.machine().to_string_lossy(),
        "IndexServerAddress": "https://index.docker.io/v1/",
        "RegistryConfig": {
            "AllowNondistributableArtifactsCIDRs": [],
            "AllowNondistributableArtifactsHostnames": [],
            "IndexConfigs": registries,
            "InsecureRegistryCIDRs": std::iter::once("127.0.0.0/8").chain(insecure.iter().map(|s| s.as_str())).collect::<Vec<_>>(),
            "Mirrors": hub_mirrors,
        },
        "NCPU": host.cpus,
        "MemTotal": host.memory,
        "GenericResources": null,
        "DockerRootDir": config.root,
        "HttpProxy": proxy("HTTP_PROXY"),
        "HttpsProxy": proxy("HTTPS_PROXY"),
        "NoProxy": proxy("NO_PROXY"),
        "Name": uname.nodename().to_string_lossy(),
        "Labels": settings.labels,
        "ExperimentalBuild": false,
        "ServerVersion": VERSION,
        "Runtimes": {"sampan-runtime": {"path": config.runtime}},
        "DefaultRuntime": "sampan-runtime",
        "Swarm": {"NodeID": "", "NodeAddr": "", "LocalNodeState": "inactive", "ControlAvailable": false, "Error": "", "RemoteManagers": null},
        "LiveRestoreEnabled": true,
        "Isolation": "",
        "InitBinary": "sampan-runtime",
        "ContainerdCommit": {"ID": "", "Expected": ""},
        "RuncCommit": version,
        "InitCommit": version,
        "SecurityOptions": security,
        "DefaultAddressPools": [],
        "CDISpecDirs": [],
        "Warnings": null,
    })))
}
