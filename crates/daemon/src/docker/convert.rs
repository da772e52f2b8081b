//! From Docker's words to the engine's: what `POST /containers/create` asks for as a [`ContainerSpec`].
//!
//! Pure. What this engine can't do is refused by name; what has no meaning here (Windows' fields, links without
//! names) is refused only if it is set.

use std::collections::BTreeMap;
use std::path::PathBuf;

use sampan_docker_api::container::{CreateRequest, Healthcheck};
use sampan_docker_api::host_config::{self, HostConfig, Mount};
use sampan_docker_api::network::PortBinding;
use sampan_engine::spec::{
    ContainerSpec, Device, Dns, HealthSpec, IpcMode, LogSpec, MountForm, MountSource, MountSpec,
    NamespaceMode, Port, Publish, ReadOnlyBelow, Resources, RestartPolicy, SeccompChoice, Security, Ulimit,
};

use super::error::{Answer, ApiError};

/// How many ports one entry may publish: a guard against `1-65535` by mistake and lists without end.
const MAX_PORT_RANGE: u32 = 4096;

/// What is to be created.
pub(crate) fn container_spec(request: CreateRequest) -> Answer<ContainerSpec> {
    let config = request.config;
    let host = request.host_config.unwrap_or_default();
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
        mounts: mounts(&host)?,
        anonymous_volumes: config.volumes.unwrap_or_default().into_keys().collect(),
        resources: resources(&host)?,
        security: security(&host)?,
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
        ..ContainerSpec::default()
    })
}

fn refuse_unsupported(host: &HostConfig) -> Answer<()> {
    let set = |list: &Option<Vec<_>>| list.as_ref().is_some_and(|l: &Vec<String>| !l.is_empty());
    let refused = [
        (set(&host.volumes_from), "--volumes-from"),
        (host.device_requests.as_ref().is_some_and(|l| !l.is_empty()), "--gpus and other device requests"),
        (host.init == Some(true), "--init"),
        (host.storage_opt.as_ref().is_some_and(|o| !o.is_empty()), "--storage-opt"),
        (!matches!(host.userns_mode.as_str(), "" | "host"), "--userns"),
        (!matches!(host.runtime.as_str(), "" | "sampan-runtime" | "runc" | "sampan"), "--runtime"),
        (
            host.cpu_realtime_period != 0 || host.cpu_realtime_runtime != 0,
            "--cpu-rt-period and --cpu-rt-runtime",
        ),
        (!matches!(host.isolation.as_str(), "" | "default"), "--isolation"),
        (
            [&host.blkio_device_read_bps, &host.blkio_device_write_bps]
                .iter()
                .any(|l| l.as_ref().is_some_and(|l| !l.is_empty())),
            "--device-read-bps and --device-write-bps",
        ),
        (
            [&host.blkio_device_read_iops, &host.blkio_device_write_iops]
                .iter()
                .any(|l| l.as_ref().is_some_and(|l| !l.is_empty())),
            "--device-read-iops and --device-write-iops",
        ),
        (host.blkio_weight_device.as_ref().is_some_and(|l| !l.is_empty()), "--blkio-weight-device"),
    ];
    match refused.iter().find(|(is_set, _)| *is_set) {
        Some((_, what)) => Err(ApiError::unsupported(format!("not supported yet: {what}"))),
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

fn mounts(host: &HostConfig) -> Answer<Vec<MountSpec>> {
    let mut list = Vec::new();
    for text in host.binds.iter().flatten() {
        list.push(bind(text)?);
    }
    for mount in host.mounts.iter().flatten() {
        list.push(long_mount(mount)?);
    }
    for (target, text) in host.tmpfs.iter().flatten() {
        let options = text.split(',').filter(|o| !o.is_empty()).map(str::to_owned).collect();
        list.push(MountSpec {
            form: MountForm::Tmpfs(text.clone()),
            ..MountSpec::new(MountSource::Tmpfs { options }, target)
        });
    }
    for (i, mount) in list.iter().enumerate() {
        if list[..i].iter().any(|m| m.target.trim_end_matches('/') == mount.target.trim_end_matches('/')) {
            return Err(ApiError::invalid(format!("Duplicate mount point: {}", mount.target)));
        }
    }
    Ok(list)
}

const PROPAGATIONS: [&str; 6] = ["private", "rprivate", "slave", "rslave", "shared", "rshared"];

/// `source:target[:options]`: an absolute source is a path of the host, another one a volume's name.
fn bind(text: &str) -> Answer<MountSpec> {
    let invalid = |why: &str| ApiError::invalid(format!("invalid volume specification: '{text}': {why}"));
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, mode) = match parts[..] {
        [source, target] => (source, target, ""),
        [source, target, mode] => (source, target, mode),
        _ => return Err(invalid("expected source:target[:options]")),
    };
    if !target.starts_with('/') {
        return Err(invalid(&format!("mount path must be absolute: {target}")));
    }
    let (mut read_only, mut recursive, mut copy_up, mut propagation) = (false, true, true, "");
    for option in mode.split(',').filter(|o| !o.is_empty()) {
        match option {
            "ro" => read_only = true,
            // z and Z relabel for SELinux, which has no effect where it is absent; consistency hints are for other hosts.
            "rw" | "z" | "Z" | "cached" | "delegated" | "consistent" => {}
            "nocopy" => copy_up = false,
            "bind" | "private-bind" => recursive = false,
            "rbind" => recursive = true,
            other if PROPAGATIONS.contains(&other) => propagation = other,
            other => return Err(invalid(&format!("unknown option: {other}"))),
        }
    }
    let source = if source.starts_with('/') {
        MountSource::Bind {
            path: PathBuf::from(source),
            recursive,
            create: true,
            read_only_below: ReadOnlyBelow::IfPossible,
        }
    } else if source.is_empty() {
        return Err(invalid("the source is empty"));
    } else {
        MountSource::Volume {
            name: source.to_owned(),
            anonymous: false,
            copy_up,
            subpath: String::new(),
            labels: BTreeMap::new(),
            driver: None,
        }
    };
    Ok(MountSpec {
        source,
        target: target.to_owned(),
        read_only,
        mode: mode.to_owned(),
        propagation: propagation.to_owned(),
        form: MountForm::Short(text.to_owned()),
    })
}

fn long_mount(mount: &Mount) -> Answer<MountSpec> {
    let invalid =
        |why: String| ApiError::invalid(format!("invalid mount config for type \"{}\": {why}", mount.kind));
    if mount.target.is_empty() {
        return Err(invalid("field Target must not be empty".to_owned()));
    }
    let mut propagation = String::new();
    let source = match mount.kind.as_str() {
        "bind" => {
            let options = mount.bind_options.clone().unwrap_or_default();
            if !mount.source.starts_with('/') {
                return Err(invalid(format!(
                    "invalid mount path: '{}' mount path must be absolute",
                    mount.source
                )));
            }
            if !options.propagation.is_empty() && !PROPAGATIONS.contains(&options.propagation.as_str()) {
                return Err(invalid(format!("invalid propagation mode: {}", options.propagation)));
            }
            propagation = options.propagation;
            MountSource::Bind {
                path: PathBuf::from(&mount.source),
                recursive: !options.non_recursive,
                create: options.create_mountpoint,
                read_only_below: ReadOnlyBelow::IfPossible,
            }
        }
        "volume" if mount.source.is_empty() => {
            return Err(ApiError::unsupported("a volume mount without a source: use VOLUME or `-v TARGET`"));
        }
        "volume" => MountSource::Volume {
            name: mount.source.clone(),
            anonymous: false,
            copy_up: !mount.volume_options.as_ref().is_some_and(|o| o.no_copy),
            subpath: String::new(),
            labels: BTreeMap::new(),
            driver: None,
        },
        "tmpfs" => {
            let options = mount.tmpfs_options.clone().unwrap_or_default();
            let mut list = Vec::new();
            if options.size_bytes > 0 {
                list.push(format!("size={}", options.size_bytes));
            }
            if options.mode > 0 {
                list.push(format!("mode={:o}", options.mode));
            }
            MountSource::Tmpfs { options: list }
        }
        other => return Err(invalid(format!("mount type unknown: \"{other}\""))),
    };
    Ok(MountSpec {
        source,
        target: mount.target.clone(),
        read_only: mount.read_only,
        mode: String::new(),
        propagation,
        form: MountForm::Long(String::new()),
    })
}

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
        memory_swappiness: host.memory_swappiness.and_then(|n| u64::try_from(n).ok()),
        oom_kill_disable: host.oom_kill_disable.unwrap_or(false),
        oom_score_adj: i32::try_from(host.oom_score_adj)
            .ok()
            .filter(|n| (-1000..=1000).contains(n))
            .ok_or_else(|| ApiError::invalid("Invalid value for OOM score: the range is [-1000, 1000]"))?,
        pids: host.pids_limit,
        blkio_weight: host.blkio_weight,
        ..Resources::default()
    })
}

fn security(host: &HostConfig) -> Answer<Security> {
    let mut security = Security {
        privileged: host.privileged,
        cap_add: host.cap_add.clone().unwrap_or_default(),
        cap_drop: host.cap_drop.clone().unwrap_or_default(),
        read_only_root: host.readonly_rootfs,
        options: host.security_opt.clone().unwrap_or_default(),
        masked_paths: host.masked_paths.clone(),
        readonly_paths: host.readonly_paths.clone(),
        ..Security::default()
    };
    for option in &security.options {
        // Older clients write `key:value`.
        let (key, value) = option.split_once('=').or_else(|| option.split_once(':')).unwrap_or((option, ""));
        match (key, value) {
            ("no-new-privileges", "" | "true") => security.no_new_privileges = true,
            ("no-new-privileges", "false") => {}
            ("seccomp", "unconfined") => security.seccomp = SeccompChoice::Unconfined,
            ("seccomp", "builtin" | "default") => {}
            ("systempaths", "unconfined") => {
                (security.masked_paths, security.readonly_paths) = (Some(Vec::new()), Some(Vec::new()));
            }
            // There is nothing to be confined by where the kernel has no such module.
            ("apparmor" | "label", "unconfined" | "disable") => {}
            ("seccomp", _) => {
                return Err(ApiError::unsupported(
                    "a seccomp profile of one's own is not supported yet: use `unconfined`",
                ));
            }
            ("apparmor" | "label", _) => {
                return Err(ApiError::unsupported(format!(
                    "`{option}`: labels of security modules are not supported yet"
                )));
            }
            _ => return Err(ApiError::invalid(format!("invalid --security-opt: {option:?}"))),
        }
    }
    Ok(security)
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
    fn binds_in_the_short_form() {
        let show = |text: &str| match bind(text) {
            Ok(m) => {
                let source = match m.source {
                    MountSource::Bind { path, recursive, .. } => {
                        format!("bind {} {recursive}", path.display())
                    }
                    MountSource::Volume { name, copy_up, .. } => format!("volume {name} {copy_up}"),
                    other => format!("{other:?}"),
                };
                format!("{source} at {} ro={} {}", m.target, m.read_only, m.propagation)
            }
            Err(e) => e.message,
        };
        assert_eq!(show("/a:/b"), "bind /a true at /b ro=false ");
        assert_eq!(show("/a:/b:ro,rslave"), "bind /a true at /b ro=true rslave");
        assert_eq!(show("v:/b:nocopy"), "volume v false at /b ro=false ");
        for bad in ["/a", "/a:b", ":/b", "/a:/b:what", "/a:/b:ro:x"] {
            assert!(show(bad).starts_with("invalid volume specification"), "{bad}");
        }
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for (json, words) in [
            (r#"{}"#, "no image"),
            (r#"{"Image":"a","ExposedPorts":{"x":{}}}"#, "invalid port `x`"),
            (r#"{"Image":"a","HostConfig":{"NetworkMode":"container:"}}"#, "invalid network mode"),
            (r#"{"Image":"a","HostConfig":{"PidMode":"x"}}"#, "invalid PID mode: x"),
            (r#"{"Image":"a","HostConfig":{"SecurityOpt":["x=y"]}}"#, "invalid --security-opt"),
            (r#"{"Image":"a","HostConfig":{"VolumesFrom":["b"]}}"#, "--volumes-from"),
            (r#"{"Image":"a","HostConfig":{"Binds":["/a:/b","/c:/b/"]}}"#, "Duplicate mount point"),
            (r#"{"Image":"a","HostConfig":{"PortBindings":{"80":[{"HostIp":"x"}]}}}"#, "invalid IP address"),
        ] {
            let error = check(json).unwrap_err();
            assert!(error.contains(words), "{json}: {error}");
        }
    }
}
