//! A service as the API takes a container.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use sampan_compose::labels;
use sampan_compose::model::{Mount as Wanted, Project, Service, ServiceNetwork};
use sampan_docker_api::Empty;
use sampan_docker_api::container::{ContainerConfig, CreateRequest, Healthcheck};
use sampan_docker_api::host_config::{
    BindOptions, DeviceMapping, HostConfig, LogConfig, Mount, RestartPolicy, ThrottleDevice, TmpfsOptions,
    Ulimit, VolumeOptions, WeightDevice,
};
use sampan_docker_api::network::{EndpointSettings, NetworkingConfig, PortBinding};

use crate::commands::options::{limits, networks, restart_policy, security};

/// A container that is to be made.
pub(super) struct Body {
    pub(super) request: CreateRequest,
    /// The networks that it joins when it is there.
    pub(super) later: Vec<(String, EndpointSettings)>,
    /// Files to be put into it: path, content, owner, group, permissions.
    pub(super) files: Vec<PutFile>,
}

/// A file that is put into a container.
pub(super) struct PutFile {
    pub(super) path: String,
    pub(super) content: Vec<u8>,
    pub(super) uid: u64,
    pub(super) gid: u64,
    pub(super) mode: u32,
}

/// A container of another service.
#[derive(Clone, Debug)]
pub(super) struct Other {
    pub(super) id: String,
    pub(super) name: String,
}

/// What a container is beside its service.
pub(super) struct Place<'p> {
    pub(super) project: &'p Project,
    pub(super) service: &'p str,
    pub(super) number: u32,
    pub(super) one_off: bool,
    /// Its name.
    pub(super) name: &'p str,
    /// The image's id, for its label.
    pub(super) image_id: &'p str,
    /// A container of each service that it may share something with.
    pub(super) others: &'p BTreeMap<String, Other>,
    /// Anonymous volumes of the container that it replaces: target and name.
    pub(super) kept_volumes: &'p [(String, String)],
    /// Known by its service's name in its networks.
    pub(super) aliases: bool,
}

/// The labels that tell whose container it is.
fn own_labels(place: &Place<'_>, service: &Service) -> BTreeMap<String, String> {
    let project = place.project;
    let files: Vec<String> = project.files.iter().map(|f| f.display().to_string()).collect();
    let env_files: Vec<String> = project.env_files.iter().map(|f| f.display().to_string()).collect();
    let depends: Vec<String> = service
        .depends_on
        .iter()
        .map(|(name, d)| {
            let condition = serde_json::to_value(d.condition).ok();
            let condition = condition.as_ref().and_then(|c| c.as_str()).unwrap_or_default();
            format!("{name}:{condition}:{}", d.restart)
        })
        .collect();
    let mut all = service.labels.clone();
    let mut set = |key: &str, value: String| all.insert(key.to_owned(), value);
    set(labels::PROJECT, project.name.clone());
    set(labels::SERVICE, place.service.to_owned());
    set(labels::ONE_OFF, if place.one_off { "True" } else { "False" }.to_owned());
    set(labels::CONFIG_HASH, labels::config_hash(project, service));
    set(labels::WORKING_DIR, project.directory.display().to_string());
    set(labels::CONFIG_FILES, files.join(","));
    set(labels::DEPENDS_ON, depends.join(","));
    set(labels::IMAGE, place.image_id.to_owned());
    set(labels::VERSION, env!("CARGO_PKG_VERSION").to_owned());
    if !env_files.is_empty() {
        set(labels::ENVIRONMENT_FILES, env_files.join(","));
    }
    if place.one_off {
        set(labels::SLUG, place.name.rsplit('-').next().unwrap_or_default().to_owned());
    }
    set(labels::NUMBER, place.number.to_string());
    all
}

/// What a mode that names a service stands for.
fn mode_of(mode: &str, place: &Place<'_>) -> Result<String> {
    let Some(other) = mode.strip_prefix("service:") else { return Ok(mode.to_owned()) };
    let other = place
        .others
        .get(other)
        .with_context(|| format!("service {other:?} has no container to share with"))?;
    Ok(format!("container:{}", other.id))
}

/// The body of a container's creation.
pub(super) fn body(service: &Service, place: &Place<'_>) -> Result<Body> {
    let (mut exposed, mut bindings) = (BTreeMap::new(), BTreeMap::<String, Option<Vec<PortBinding>>>::new());
    for port in &service.expose {
        let key = if port.contains('/') { port.clone() } else { format!("{port}/tcp") };
        exposed.insert(key, Empty {});
    }
    for port in &service.ports {
        let protocol = if port.protocol.is_empty() { "tcp" } else { &port.protocol };
        let key = format!("{}/{protocol}", port.target);
        exposed.insert(key.clone(), Empty {});
        let binding = PortBinding { host_ip: port.host_ip.clone(), host_port: port.published.clone() };
        bindings.entry(key).or_default().get_or_insert_default().push(binding);
    }
    let some = |list: &Vec<String>| (!list.is_empty()).then(|| list.clone());
    let text = |text: &String| (!text.is_empty()).then(|| text.clone());
    let environment: Vec<String> = service
        .environment
        .iter()
        .map(|(name, value)| value.as_ref().map_or(name.clone(), |value| format!("{name}={value}")))
        .collect();
    let tty = service.tty.unwrap_or(false);
    let config = ContainerConfig {
        hostname: service.hostname.clone(),
        domainname: service.domainname.clone(),
        user: service.user.clone(),
        attach_stdout: true,
        attach_stderr: true,
        exposed_ports: Some(exposed),
        tty,
        open_stdin: service.stdin_open.unwrap_or(false),
        env: Some(environment),
        cmd: service.command.clone(),
        healthcheck: health(service),
        image: service.image_name(&place.project.name, place.service),
        working_dir: service.working_dir.clone(),
        // An empty list takes the image's away.
        entrypoint: service.entrypoint.clone().map(|e| if e.is_empty() { vec![String::new()] } else { e }),
        mac_address: text(&service.mac_address),
        labels: Some(own_labels(place, service)),
        stop_signal: text(&service.stop_signal),
        stop_timeout: service.stop_grace_period.map(|d| (d.0 + 999_999_999) / 1_000_000_000),
        ..ContainerConfig::default()
    };
    let (binds, mut mounts) = volumes(service, place)?;
    let mut files = Vec::new();
    file_mounts(service, place, &mut mounts, &mut files)?;
    let tmpfs: BTreeMap<String, String> = service
        .tmpfs
        .iter()
        .map(|t| t.split_once(':').unwrap_or((t, "")))
        .map(|(target, options)| (target.to_owned(), options.to_owned()))
        .collect();
    let mut volumes_from = Vec::new();
    for from in &service.volumes_from {
        if let Some(container) = from.strip_prefix("container:") {
            volumes_from.push(container.to_owned());
            continue;
        }
        let (other, mode) = from.split_once(':').unwrap_or((from, "rw"));
        let other = place
            .others
            .get(other)
            .with_context(|| format!("service {other:?} has no container to share with"))?;
        volumes_from.push(format!("{}:{mode}", other.id));
    }
    let (mode, first, later) = joins(service, place)?;
    let limits_of = service.deploy.as_ref().and_then(|d| d.resources.limits.as_ref());
    let reserved = service.deploy.as_ref().and_then(|d| d.resources.reservations.as_ref());
    if reserved.is_some_and(|r| !r.devices.is_empty()) {
        bail!(
            "service {:?}: reserved devices are not supported: pass the device files with `devices`",
            place.service
        );
    }
    let hosts: Vec<String> = service
        .extra_hosts
        .iter()
        .flat_map(|(name, list)| list.iter().map(move |a| format!("{name}:{a}")))
        .collect();
    let blkio = service.blkio_config.clone().unwrap_or_default();
    let rates = |list: &[sampan_compose::model::BlkioRate]| {
        let all: Vec<ThrottleDevice> = list
            .iter()
            .map(|r| ThrottleDevice { path: r.path.clone(), rate: u64::try_from(r.rate.0).unwrap_or(0) })
            .collect();
        (!all.is_empty()).then_some(all)
    };
    let weights: Vec<WeightDevice> =
        blkio.weight_device.iter().map(|w| WeightDevice { path: w.path.clone(), weight: w.weight }).collect();
    let devices = service.devices.iter().map(|d| DeviceMapping {
        path_on_host: d.source.clone(),
        path_in_container: if d.target.is_empty() { d.source.clone() } else { d.target.clone() },
        cgroup_permissions: if d.permissions.is_empty() { "rwm".to_owned() } else { d.permissions.clone() },
    });
    let ulimits: Vec<Ulimit> = service
        .ulimits
        .iter()
        .map(|(name, u)| Ulimit { name: name.clone(), soft: u.soft, hard: u.hard })
        .collect();
    let logging = service.logging.clone().unwrap_or_default();
    let host_config = HostConfig {
        binds: some(&binds),
        mounts: (!mounts.is_empty()).then_some(mounts),
        tmpfs: (!tmpfs.is_empty()).then_some(tmpfs),
        volume_driver: service.volume_driver.clone(),
        volumes_from: some(&volumes_from),
        log_config: LogConfig { kind: logging.driver, config: logging.options },
        network_mode: mode,
        links: some(&service.external_links.clone()).filter(|_| !service.network_mode.is_empty()),
        port_bindings: bindings,
        restart_policy: restart(service)?,
        annotations: (!service.annotations.is_empty()).then(|| service.annotations.clone()),
        cap_add: some(&service.cap_add),
        cap_drop: some(&service.cap_drop),
        cgroupns_mode: service.cgroup.clone(),
        cgroup_parent: service.cgroup_parent.clone(),
        dns: service.dns.clone(),
        dns_options: service.dns_opt.clone(),
        dns_search: service.dns_search.clone(),
        extra_hosts: some(&hosts),
        group_add: some(&service.group_add),
        ipc_mode: mode_of(&service.ipc, place)?,
        pid_mode: mode_of(&service.pid, place)?,
        uts_mode: service.uts.clone(),
        userns_mode: service.userns_mode.clone(),
        privileged: service.privileged.unwrap_or(false),
        readonly_rootfs: service.read_only.unwrap_or(false),
        security_opt: some(&security::options(&service.security_opt)?),
        storage_opt: (!service.storage_opt.is_empty()).then(|| service.storage_opt.clone()),
        shm_size: service.shm_size.map_or(0, |b| b.0),
        sysctls: (!service.sysctls.is_empty()).then(|| service.sysctls.clone()),
        runtime: service.runtime.clone(),
        isolation: service.isolation.clone(),
        cpu_shares: service.cpu_shares.unwrap_or(0),
        cpu_period: service.cpu_period.unwrap_or(0),
        cpu_quota: service.cpu_quota.unwrap_or(0),
        cpu_realtime_period: service.cpu_rt_period.unwrap_or(0),
        cpu_realtime_runtime: service.cpu_rt_runtime.unwrap_or(0),
        cpuset_cpus: service.cpuset.clone(),
        nano_cpus: limits::nano_cpus(service.cpus.or(limits_of.and_then(|l| l.cpus))),
        memory: service.mem_limit.or(limits_of.and_then(|l| l.memory)).map_or(0, |b| b.0),
        memory_swap: service.memswap_limit.map_or(0, |b| b.0),
        memory_reservation: service.mem_reservation.or(reserved.and_then(|r| r.memory)).map_or(0, |b| b.0),
        memory_swappiness: service.mem_swappiness,
        oom_kill_disable: service.oom_kill_disable,
        oom_score_adj: service.oom_score_adj.unwrap_or(0),
        pids_limit: service.pids_limit.or(limits_of.and_then(|l| l.pids)),
        blkio_weight: blkio.weight,
        blkio_weight_device: (!weights.is_empty()).then_some(weights),
        blkio_device_read_bps: rates(&blkio.device_read_bps),
        blkio_device_write_bps: rates(&blkio.device_write_bps),
        blkio_device_read_iops: rates(&blkio.device_read_iops),
        blkio_device_write_iops: rates(&blkio.device_write_iops),
        ulimits: (!ulimits.is_empty()).then_some(ulimits),
        devices: Some(devices.collect()),
        device_cgroup_rules: some(&service.device_cgroup_rules),
        init: service.init,
        ..HostConfig::default()
    };
    let request = CreateRequest {
        config,
        host_config: Some(host_config),
        networking_config: first,
        ..CreateRequest::default()
    };
    Ok(Body { request, later, files })
}

fn health(service: &Service) -> Option<Healthcheck> {
    let check = service.healthcheck.as_ref()?;
    if check.disable {
        return Some(Healthcheck { test: Some(vec!["NONE".to_owned()]), ..Healthcheck::default() });
    }
    let nanoseconds = |d: Option<sampan_compose::model::Duration>| d.map_or(0, |d| d.0);
    Some(Healthcheck {
        test: (!check.test.is_empty()).then(|| check.test.clone()),
        interval: nanoseconds(check.interval),
        timeout: nanoseconds(check.timeout),
        start_period: nanoseconds(check.start_period),
        start_interval: nanoseconds(check.start_interval),
        retries: check.retries.unwrap_or(0),
    })
}

fn restart(service: &Service) -> Result<RestartPolicy> {
    if !service.restart.is_empty() {
        return restart_policy(&service.restart);
    }
    let Some(policy) = service.deploy.as_ref().and_then(|d| d.restart_policy.as_ref()) else {
        return Ok(RestartPolicy::default());
    };
    let name = match policy.condition.as_str() {
        "none" => "no",
        "on-failure" => "on-failure",
        "unless-stopped" => "unless-stopped",
        _ => "always",
    };
    let times = if name == "on-failure" { policy.max_attempts.unwrap_or(0) } else { 0 };
    Ok(RestartPolicy { name: name.to_owned(), maximum_retry_count: times })
}

/// Binds, and mounts in the long form.
fn volumes(service: &Service, place: &Place<'_>) -> Result<(Vec<String>, Vec<Mount>)> {
    let (mut binds, mut mounts) = (Vec::new(), Vec::new());
    for wanted in &service.volumes {
        match wanted.kind.as_str() {
            "bind" => bind(wanted, &mut binds, &mut mounts),
            "volume" => {
                let named = place.project.volumes.get(&wanted.source);
                let kept = place.kept_volumes.iter().find(|(target, _)| *target == wanted.target);
                let source = match (named, kept) {
                    (Some(volume), _) => volume.name.clone(),
                    (None, Some((_, name))) => name.clone(),
                    (None, None) => String::new(),
                };
                let options = wanted.volume.as_ref().map(|o| VolumeOptions {
                    no_copy: o.nocopy,
                    labels: o.labels.clone(),
                    subpath: o.subpath.clone(),
                    driver_config: None,
                });
                mounts.push(Mount {
                    kind: "volume".to_owned(),
                    source,
                    target: wanted.target.clone(),
                    read_only: wanted.read_only,
                    volume_options: options,
                    ..Mount::default()
                });
            }
            "tmpfs" => {
                let options = wanted.tmpfs.clone().unwrap_or_default();
                mounts.push(Mount {
                    kind: "tmpfs".to_owned(),
                    target: wanted.target.clone(),
                    read_only: wanted.read_only,
                    tmpfs_options: Some(TmpfsOptions {
                        size_bytes: options.size.map_or(0, |b| b.0),
                        mode: options.mode.unwrap_or(0),
                        ..TmpfsOptions::default()
                    }),
                    ..Mount::default()
                });
            }
            kind => bail!("service {:?}: mounts of type {kind} are not supported", place.service),
        }
    }
    // What the image, not the file, made volumes of, goes on in the container that takes over.
    let has = |target: &str| service.volumes.iter().any(|v| v.target == target);
    binds.extend(
        place
            .kept_volumes
            .iter()
            .filter(|(target, _)| !has(target))
            .map(|(target, name)| format!("{name}:{target}")),
    );
    Ok((binds, mounts))
}

fn bind(wanted: &Wanted, binds: &mut Vec<String>, mounts: &mut Vec<Mount>) {
    let options = wanted.bind.clone().unwrap_or_default();
    if options.create_host_path == Some(false) || !matches!(options.recursive.as_str(), "" | "enabled") {
        mounts.push(Mount {
            kind: "bind".to_owned(),
            source: wanted.source.clone(),
            target: wanted.target.clone(),
            read_only: wanted.read_only,
            bind_options: Some(BindOptions {
                propagation: options.propagation,
                non_recursive: options.recursive == "disabled",
                read_only_non_recursive: options.recursive == "writable",
                read_only_force_recursive: options.recursive == "readonly",
                ..BindOptions::default()
            }),
            ..Mount::default()
        });
        return;
    }
    // Only this form makes a source that is missing.
    let mut modes = vec![if wanted.read_only { "ro".to_owned() } else { "rw".to_owned() }];
    modes.extend([options.propagation, options.selinux].into_iter().filter(|m| !m.is_empty()));
    binds.push(format!("{}:{}:{}", wanted.source, wanted.target, modes.join(",")));
}

/// Configs and secrets: files of the host are mounted, what is only text is put into the container.
fn file_mounts(
    service: &Service,
    place: &Place<'_>,
    mounts: &mut Vec<Mount>,
    files: &mut Vec<PutFile>,
) -> Result<()> {
    let kinds = [
        ("/run/secrets/", &service.secrets, &place.project.secrets),
        ("/", &service.configs, &place.project.configs),
    ];
    for (directory, wanted, objects) in kinds {
        for mount in wanted {
            let Some(object) = objects.get(&mount.source) else { continue };
            let target = match mount.target.as_str() {
                "" => format!("{directory}{}", mount.source),
                target if target.starts_with('/') => target.to_owned(),
                target => format!("{directory}{target}"),
            };
            if !object.file.is_empty() {
                mounts.push(Mount {
                    kind: "bind".to_owned(),
                    source: object.file.clone(),
                    target,
                    read_only: true,
                    ..Mount::default()
                });
                continue;
            }
            let content = match (&object.content, object.environment.as_str()) {
                (Some(content), _) => content.clone().into_bytes(),
                (None, name) => std::env::var(name)
                    .with_context(|| format!("`{}`: the variable {name} is not set", mount.source))?
                    .into_bytes(),
            };
            let number = |text: &str| -> Result<u64> {
                if text.is_empty() {
                    Ok(0)
                } else {
                    text.parse().with_context(|| format!("`{text}` is no number of an owner"))
                }
            };
            files.push(PutFile {
                path: target,
                content,
                uid: number(&mount.uid)?,
                gid: number(&mount.gid)?,
                mode: mount.mode.unwrap_or(0o444),
            });
        }
    }
    Ok(())
}

type Joins = (String, Option<NetworkingConfig>, Vec<(String, EndpointSettings)>);

/// The network that it is made in, with what it is there, and those that it joins later.
fn joins(service: &Service, place: &Place<'_>) -> Result<Joins> {
    if !service.network_mode.is_empty() {
        return Ok((mode_of(&service.network_mode, place)?, None, Vec::new()));
    }
    let mut wanted: Vec<(&String, ServiceNetwork)> =
        service.networks.iter().map(|(key, network)| (key, network.clone().unwrap_or_default())).collect();
    // Of the highest priority first; else by name, as they are.
    wanted.sort_by_key(|(_, network)| -network.priority);
    let mut all = Vec::new();
    for (key, network) in wanted {
        let name = place.project.networks.get(key).map_or_else(|| key.clone(), |n| n.name.clone());
        let mut aliases = vec![place.name.to_owned()];
        if place.aliases {
            aliases.push(place.service.to_owned());
            aliases.extend(network.aliases.iter().cloned());
        }
        let mut links = Vec::new();
        for link in &service.links {
            let (other, alias) = link.split_once(':').unwrap_or((link, link));
            if let Some(other) = place.others.get(other) {
                links.push(format!("{}:{alias}", other.name));
            }
        }
        links.extend(
            service
                .external_links
                .iter()
                .map(|l| if l.contains(':') { l.clone() } else { format!("{l}:{l}") }),
        );
        all.push((
            name,
            EndpointSettings {
                ipam_config: networks::ipam(
                    &network.ipv4_address,
                    &network.ipv6_address,
                    &network.link_local_ips,
                ),
                links: (!links.is_empty()).then_some(links),
                aliases: Some(aliases),
                mac_address: network.mac_address.clone(),
                driver_opts: (!network.driver_opts.is_empty()).then(|| network.driver_opts.clone()),
                gw_priority: network.gw_priority,
                ..EndpointSettings::default()
            },
        ));
    }
    if all.is_empty() {
        return Ok(("none".to_owned(), None, Vec::new()));
    }
    let (mode, endpoint) = all.remove(0);
    let config = NetworkingConfig { endpoints_config: BTreeMap::from([(mode.clone(), Some(endpoint))]) };
    Ok((mode, Some(config), all))
}
