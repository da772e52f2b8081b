//! From Docker's words to the engine's: what `POST /containers/create` asks for as a [`ContainerSpec`].
//!
//! Pure. What this engine can't do is refused by name; what has no meaning here (Windows' fields, links without
//! names) is refused only if it is set.

mod mounts;
mod security;

use std::collections::BTreeMap;
use std::path::PathBuf;

use sampan_docker_api::container::{ContainerConfig, CreateRequest, Healthcheck};
use sampan_docker_api::host_config::{self, HostConfig, ThrottleDevice};
use sampan_docker_api::network::PortBinding;
use sampan_engine::images::{ImageHealth, ImageProcess};
use sampan_engine::spec::{
    ContainerSpec, Device, DeviceNumber, Dns, HealthSpec, IpcMode, LogSpec, NamespaceMode, Port, Publish,
    Resources, RestartPolicy, Ulimit, UsernsMode,
};

use serde_json::{Value, json};

use super::error::{Answer, ApiError};

/// How many ports one entry may publish: a guard against `1-65535` by mistake and lists without end.
const MAX_PORT_RANGE: u32 = 4096;

/// The configuration of an image, as a commit may be told it.
pub(crate) fn image_process(config: ContainerConfig) -> ImageProcess {
    fn set<V>(keys: Option<BTreeMap<String, V>>) -> BTreeMap<String, serde_json::Map<String, Value>> {
        keys.unwrap_or_default().into_keys().map(|key| (key, serde_json::Map::new())).collect()
    }
    let other = [
        ("Hostname", json!(config.hostname)),
        ("Domainname", json!(config.domainname)),
        ("AttachStdin", json!(config.attach_stdin)),
        ("AttachStdout", json!(config.attach_stdout)),
        ("AttachStderr", json!(config.attach_stderr)),
        ("Tty", json!(config.tty)),
        ("OpenStdin", json!(config.open_stdin)),
        ("StdinOnce", json!(config.stdin_once)),
        ("Image", json!(config.image)),
        ("StopTimeout", json!(config.stop_timeout)),
    ];
    ImageProcess {
        user: config.user,
        exposed_ports: set(config.exposed_ports),
        env: config.env.unwrap_or_default(),
        entrypoint: config.entrypoint,
        cmd: config.cmd,
        healthcheck: config.healthcheck.map(|check| {
            let h = health(check);
            ImageHealth {
                test: h.test,
                interval: h.interval,
                timeout: h.timeout,
                start_period: h.start_period,
                start_interval: h.start_interval,
                retries: h.retries,
            }
        }),
        volumes: set(config.volumes),
        working_dir: config.working_dir,
        on_build: config.on_build.unwrap_or_default(),
        labels: config.labels.unwrap_or_default(),
        stop_signal: config.stop_signal.unwrap_or_default(),
        shell: config.shell,
        other: other.into_iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.to_owned(), v)).collect(),
        ..ImageProcess::default()
    }
}

/// What is to be created.
pub(crate) fn container_spec(request: CreateRequest) -> Answer<ContainerSpec> {
    let config = request.config;
    let mut host = request.host_config.unwrap_or_default();
    if host.runtime.is_empty() {
        host.runtime = request.runtime;
    }
    refuse_unsupported(&host)?;
    if config.image.is_empty() {
        return Err(ApiError::invalid("no image was named"));
    }
    let ports = config.exposed_ports.unwrap_or_default();
    let exposed = ports.keys().map(|text| port(text)).collect::<Answer<Vec<_>>>()?;
    let text = |s: String| Some(s).filter(|s| !s.is_empty());
    let networks = super::networks::places(&host, request.networking_config, config.mac_address.as_deref())?;
    Ok(ContainerSpec {
        image: config.image,
        entrypoint: config.entrypoint,
        cmd: config.cmd,
        env: config.env.unwrap_or_default(),
        working_dir: text(config.working_dir),
        user: text(config.user),
        group_add: host.group_add.clone().unwrap_or_default(),
        hostname: text(config.hostname),
        domainname: text(config.domainname),
        tty: config.tty,
        open_stdin: config.open_stdin,
        stdin_once: config.stdin_once,
        attach: [config.attach_stdin, config.attach_stdout, config.attach_stderr],
        labels: config.labels.unwrap_or_default(),
        exposed,
        publish: publish(&host.port_bindings)?,
        publish_all: host.publish_all_ports,
        stop_signal: config.stop_signal.and_then(text),
        stop_timeout: config.stop_timeout,
        network: networks.mode,
        network_word: host.network_mode.clone(),
        endpoints: networks.endpoints,
        links: host.links.clone().unwrap_or_default(),
        dns: Dns {
            servers: host.dns.clone(),
            search: host.dns_search.clone(),
            options: host.dns_options.clone(),
        },
        extra_hosts: host.extra_hosts.clone().unwrap_or_default(),
        mounts: mounts::mounts(&host)?,
        volumes_from: mounts::volumes_from(&host)?,
        volume_driver: host.volume_driver.clone(),
        anonymous_volumes: config.volumes.unwrap_or_default().into_keys().collect(),
        resources: resources(&host)?,
        security: security::security(&host)?,
        pid: namespace("PID", &host.pid_mode)?,
        ipc: match host.ipc_mode.as_str() {
            "shareable" => IpcMode::Shareable,
            "none" => IpcMode::None,
            other => match namespace("IPC", other)? {
                NamespaceMode::Private => IpcMode::Private,
                NamespaceMode::Host => IpcMode::Host,
                NamespaceMode::Container(id) => IpcMode::Container(id),
            },
        },
        uts: namespace("UTS", &host.uts_mode)?,
        cgroup: match host.cgroupns_mode.as_str() {
            "" => None,
            other => Some(namespace("cgroup", other)?),
        },
        cgroup_parent: text(host.cgroup_parent.clone()),
        shm_size: host.shm_size,
        sysctls: host.sysctls.clone().unwrap_or_default(),
        ulimits: host
            .ulimits
            .iter()
            .flatten()
            .map(|u| Ulimit { name: u.name.clone(), soft: u.soft, hard: u.hard })
            .collect(),
        devices: host
            .devices
            .iter()
            .flatten()
            .map(|d| Device {
                host: PathBuf::from(&d.path_on_host),
                container: d.path_in_container.clone(),
                permissions: d.cgroup_permissions.clone(),
            })
            .collect(),
        device_rules: host.device_cgroup_rules.clone().unwrap_or_default(),
        auto_remove: host.auto_remove,
        restart_policy: restart_policy(&host.restart_policy)?,
        health: config.healthcheck.map(health),
        log: LogSpec { driver: host.log_config.kind.clone(), options: host.log_config.config.clone() },
        init: host.init,
        userns: match host.userns_mode.as_str() {
            "host" => UsernsMode::Host,
            "private" => UsernsMode::Private,
            _ => UsernsMode::Default,
        },
        annotations: host.annotations.clone().unwrap_or_default(),
        isolation: host.isolation.clone(),
        runtime: host.runtime.clone(),
        console_size: host.console_size,
        id_file: host.container_id_file.clone(),
        network_disabled: config.network_disabled.unwrap_or(false),
        shell: config.shell,
        on_build: config.on_build.unwrap_or_default(),
    })
}

fn refuse_unsupported(host: &HostConfig) -> Answer<()> {
    if !matches!(host.isolation.as_str(), "" | "default") {
        return Err(ApiError::invalid(format!(
            "Invalid isolation: {:?} - linux only supports 'default'",
            host.isolation
        )));
    }
    if !matches!(host.runtime.as_str(), "" | "sampan-runtime" | "runc" | "sampan" | "io.containerd.runc.v2") {
        return Err(ApiError::invalid(format!("Unknown runtime specified {}", host.runtime)));
    }
    if !matches!(host.userns_mode.as_str(), "" | "host" | "private") {
        return Err(ApiError::invalid(format!("invalid user namespace mode: {}", host.userns_mode)));
    }
    let refused = [
        (
            host.device_requests.as_ref().is_some_and(|l| !l.is_empty()),
            "--gpus and other device requests: name the devices with --device",
        ),
        (
            host.storage_opt.as_ref().is_some_and(|o| !o.is_empty()),
            "--storage-opt is supported only for overlay over xfs with 'pquota' mount option",
        ),
        (host.cpu_percent != 0, "--cpu-percent, which is for Windows"),
        (host.io_maximum_iops != 0 || host.io_maximum_bandwidth != 0, "--io-max…, which are for Windows"),
    ];
    match refused.iter().find(|(is_set, _)| *is_set) {
        Some((_, what)) => Err(ApiError::unsupported(format!("not supported: {what}"))),
        None => Ok(()),
    }
}

/// What to do when it ends.
pub(crate) fn restart_policy(asked: &host_config::RestartPolicy) -> Answer<RestartPolicy> {
    let retries = asked.maximum_retry_count;
    let policy = match asked.name.as_str() {
        "" | "no" => RestartPolicy::No,
        "always" => RestartPolicy::Always,
        "unless-stopped" => RestartPolicy::UnlessStopped,
        "on-failure" => {
            let max_retries = u32::try_from(retries)
                .map_err(|_| ApiError::invalid("maximum retry count cannot be negative"))?;
            return Ok(RestartPolicy::OnFailure { max_retries });
        }
        other => return Err(ApiError::invalid(format!("invalid restart policy '{other}'"))),
    };
    if retries != 0 && !asked.name.is_empty() {
        return Err(ApiError::invalid(format!(
            "maximum retry count cannot be used with restart policy '{}'",
            asked.name
        )));
    }
    Ok(policy)
}

fn health(asked: Healthcheck) -> HealthSpec {
    HealthSpec {
        test: asked.test.unwrap_or_default(),
        interval: asked.interval,
        timeout: asked.timeout,
        start_period: asked.start_period,
        start_interval: asked.start_interval,
        retries: asked.retries,
    }
}

fn port(text: &str) -> Answer<Port> {
    text.parse().map_err(ApiError::invalid)
}

fn namespace(kind: &str, text: &str) -> Answer<NamespaceMode> {
    match text {
        "" | "private" => Ok(NamespaceMode::Private),
        "host" => Ok(NamespaceMode::Host),
        other => match other.strip_prefix("container:") {
            Some(id) if !id.is_empty() => Ok(NamespaceMode::Container(id.to_owned())),
            _ => Err(ApiError::invalid(format!("invalid {kind} mode: {other}"))),
        },
    }
}

/// `{"80/tcp": [{"HostPort": "8080"}]}`; a range of the host's ports means any free one of them.
fn publish(bindings: &BTreeMap<String, Option<Vec<PortBinding>>>) -> Answer<Vec<Publish>> {
    let mut list = Vec::new();
    for (inside, hosts) in bindings {
        let port = port(inside)?;
        for binding in hosts.iter().flatten() {
            if !binding.host_ip.is_empty() && binding.host_ip.parse::<std::net::IpAddr>().is_err() {
                return Err(ApiError::invalid(format!(
                    "invalid IP address to publish {inside} on: {}",
                    binding.host_ip
                )));
            }
            let (host_port, host_port_end) = match binding.host_port.split_once('-') {
                Some((first, last)) => {
                    let (first, last) = (host_port(first)?, host_port(last)?);
                    if first == 0 || last < first || u32::from(last - first) >= MAX_PORT_RANGE {
                        return Err(ApiError::invalid(format!(
                            "invalid range of host ports: {}",
                            binding.host_port
                        )));
                    }
                    (first, last)
                }
                None if binding.host_port.is_empty() => (0, 0),
                None => (host_port(&binding.host_port)?, 0),
            };
            list.push(Publish { port, host_ip: binding.host_ip.clone(), host_port, host_port_end });
        }
        if hosts.as_ref().is_none_or(Vec::is_empty) {
            list.push(Publish { port, host_ip: String::new(), host_port: 0, host_port_end: 0 });
        }
    }
    Ok(list)
}

fn host_port(text: &str) -> Answer<u16> {
    text.parse().map_err(|_| ApiError::invalid(format!("invalid host port: {text}")))
}

fn throttles(list: Option<&[ThrottleDevice]>) -> Vec<DeviceNumber> {
    let row = |d: &ThrottleDevice| DeviceNumber { path: d.path.clone(), number: d.rate };
    list.unwrap_or_default().iter().map(row).collect()
}

/// Limits, of a container that is made or updated.
pub(crate) fn resources(host: &HostConfig) -> Answer<Resources> {
    let unsigned = |what: &str, n: i64| {
        u64::try_from(n).map_err(|_| ApiError::invalid(format!("{what} must not be negative: {n}")))
    };
    Ok(Resources {
        cpu_shares: unsigned("CPU shares", host.cpu_shares)?,
        nano_cpus: host.nano_cpus,
        cpu_period: unsigned("the CPU period", host.cpu_period)?,
        cpu_quota: host.cpu_quota,
        cpuset_cpus: host.cpuset_cpus.clone(),
        cpuset_mems: host.cpuset_mems.clone(),
        memory: host.memory,
        memory_reservation: host.memory_reservation,
        memory_swap: host.memory_swap,
        // -1 is what docker's command line sends for "not given".
        memory_swappiness: match host.memory_swappiness {
            None | Some(-1) => None,
            Some(n) => Some(u64::try_from(n).map_err(|_| {
                ApiError::invalid(format!("Invalid value: {n}, valid memory swappiness range is 0-100"))
            })?),
        },
        oom_kill_disable: host.oom_kill_disable.unwrap_or(false),
        oom_score_adj: i32::try_from(host.oom_score_adj).map_err(|_| {
            ApiError::invalid(format!(
                "Invalid value {}, range for oom score adj is [-1000, 1000]",
                host.oom_score_adj
            ))
        })?,
        pids: host.pids_limit,
        blkio_weight: host.blkio_weight,
        blkio_weight_device: host
            .blkio_weight_device
            .iter()
            .flatten()
            .map(|d| DeviceNumber { path: d.path.clone(), number: d.weight.into() })
            .collect(),
        device_read_bps: throttles(host.blkio_device_read_bps.as_deref()),
        device_write_bps: throttles(host.blkio_device_write_bps.as_deref()),
        device_read_iops: throttles(host.blkio_device_read_iops.as_deref()),
        device_write_iops: throttles(host.blkio_device_write_iops.as_deref()),
        cpu_rt_period: unsigned("the real-time period", host.cpu_realtime_period)?,
        cpu_rt_runtime: host.cpu_realtime_runtime,
        kernel_memory: host.kernel_memory,
        kernel_memory_tcp: host.kernel_memory_tcp,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str) -> Result<ContainerSpec, String> {
        container_spec(serde_json::from_str(json).unwrap()).map_err(|e| e.message)
    }

    #[test]
    fn what_the_docker_client_sends_for_a_web_server() {
        let spec = check(
            r#"{"Hostname":"","User":"","Cmd":null,"Image":"web:latest","Env":null,"Volumes":{},"Entrypoint":null,
            "ExposedPorts":{"80/tcp":{}},"Labels":{},"HostConfig":{"Binds":null,"NetworkMode":"default",
            "PortBindings":{"80/tcp":[{"HostIp":"","HostPort":"8080"}]},"RestartPolicy":{"Name":"no"},"NanoCpus":200000000,
            "Memory":67108864,"MemorySwappiness":-1,"PidsLimit":0,"OomKillDisable":false,"Dns":[],"ConsoleSize":[0,0]},
            "NetworkingConfig":{"EndpointsConfig":{}}}"#,
        )
        .unwrap();
        assert_eq!(spec.publish.len(), 1);
        assert_eq!(
            (spec.publish[0].port.to_string(), spec.publish[0].host_port),
            ("80/tcp".to_owned(), 8080)
        );
        assert_eq!((spec.resources.nano_cpus, spec.resources.memory), (200_000_000, 64 << 20));
        assert_eq!(spec.resources.memory_swappiness, None);
        assert_eq!(spec.network, sampan_engine::spec::NetworkMode::Bridge);
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for (json, words) in [
            (r#"{}"#, "no image"),
            (r#"{"Image":"a","ExposedPorts":{"x":{}}}"#, "invalid port `x`"),
            (r#"{"Image":"a","HostConfig":{"NetworkMode":"container:"}}"#, "invalid network mode"),
            (r#"{"Image":"a","HostConfig":{"PidMode":"x"}}"#, "invalid PID mode: x"),
            (r#"{"Image":"a","HostConfig":{"SecurityOpt":["x=y"]}}"#, "invalid --security-opt"),
            (r#"{"Image":"a","HostConfig":{"VolumesFrom":["b:x"]}}"#, "invalid mode: x"),
            (r#"{"Image":"a","HostConfig":{"StorageOpt":{"size":"1G"}}}"#, "--storage-opt is supported only"),
            (r#"{"Image":"a","HostConfig":{"Runtime":"x"}}"#, "Unknown runtime specified x"),
            (r#"{"Image":"a","HostConfig":{"UsernsMode":"x"}}"#, "invalid user namespace mode"),
            (r#"{"Image":"a","HostConfig":{"Binds":["/a:/b","/c:/b/"]}}"#, "Duplicate mount point"),
            (r#"{"Image":"a","HostConfig":{"PortBindings":{"80":[{"HostIp":"x"}]}}}"#, "invalid IP address"),
        ] {
            let error = check(json).unwrap_err();
            assert!(error.contains(words), "{json}: {error}");
        }
    }
}
