//! From the engine's words to Docker's: how containers, images, volumes and events look on the wire. Pure.

pub(crate) mod mounts;

use std::collections::BTreeMap;

use super::networks;
use sampan_base::Timestamp;
use sampan_docker_api::Empty;
use sampan_docker_api::container::{
    ContainerConfig, ContainerInspect, ContainerState, ContainerSummary, GraphDriver, Health, HealthResult,
    Healthcheck, SummaryHostConfig, SummaryNetworks,
};
use sampan_docker_api::host_config::{
    DeviceMapping, HostConfig, LogConfig, RestartPolicy, ThrottleDevice, WeightDevice,
};
use sampan_docker_api::network::PortBinding;
use sampan_docker_api::system::{Actor, Event};
use sampan_docker_api::units::human_duration;
use sampan_engine::container::View;
use sampan_engine::container::health::HealthStatus;
use sampan_engine::container::state::Phase;
use sampan_engine::events::EventKind;
use sampan_engine::spec::{
    self, ContainerSpec, DeviceNumber, HealthSpec, IpcMode, NamespaceMode, UsernsMode,
};

/// What Docker writes where there is no time.
const NO_TIME: &str = "0001-01-01T00:00:00Z";
/// Directories that the engine tells about a container.
#[derive(Debug, Default)]
pub(crate) struct Paths {
    pub(crate) directory: std::path::PathBuf,
    pub(crate) log: Option<std::path::PathBuf>,
    pub(crate) volumes: std::path::PathBuf,
    /// By role: LowerDir, UpperDir, ….
    pub(crate) layers: BTreeMap<String, String>,
}

/// A container as `inspect` shows it.
pub(crate) fn inspect(
    view: &View,
    execs: Vec<String>,
    paths: &Paths,
    host_cgroup_default: bool,
) -> ContainerInspect {
    let record = &view.record;
    let file = |name: &str| paths.directory.join(name).display().to_string();
    let (path, args) = match record.args.split_first() {
        Some((path, args)) => (path.clone(), args.to_vec()),
        None => (String::new(), Vec::new()),
    };
    ContainerInspect {
        id: record.id.clone(),
        created: record.created.to_string(),
        path,
        args,
        state: ContainerState { health: record.health.as_ref().map(health), ..state(&record.phase) },
        restart_count: i64::from(record.restart_count),
        image: record.image_id.clone(),
        resolv_conf_path: file("resolv.conf"),
        hostname_path: file("hostname"),
        hosts_path: file("hosts"),
        log_path: paths.log.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
        name: format!("/{}", record.name),
        driver: "overlay2".to_owned(),
        platform: "linux".to_owned(),
        exec_ids: (!execs.is_empty()).then_some(execs),
        host_config: HostConfig {
            links: networks::links(&record.spec, &record.name),
            ..host_config(&record.spec, host_cgroup_default)
        },
        graph_driver: GraphDriver { data: Some(paths.layers.clone()), name: "overlay2".to_owned() },
        mounts: record.spec.mounts.iter().filter_map(|m| mounts::point(m, &paths.volumes)).collect(),
        config: config(&record.spec, &record.id),
        network_settings: networks::settings(view),
        ..ContainerInspect::default()
    }
}

fn state(phase: &Phase) -> ContainerState {
    let none = || NO_TIME.to_owned();
    let base = ContainerState { started_at: none(), finished_at: none(), ..ContainerState::default() };
    match phase {
        Phase::Created { error: None } => ContainerState { status: "created".to_owned(), ..base },
        Phase::Created { error: Some(failure) } => ContainerState {
            status: "created".to_owned(),
            exit_code: i64::from(failure.exit_code),
            error: failure.message.clone(),
            ..base
        },
        Phase::Running { pid, started_at } | Phase::Paused { pid, started_at } => {
            let paused = matches!(phase, Phase::Paused { .. });
            ContainerState {
                status: if paused { "paused" } else { "running" }.to_owned(),
                running: true,
                paused,
                pid: i64::from(*pid),
                started_at: started_at.to_string(),
                ..base
            }
        }
        Phase::Exited(exit) | Phase::Restarting(exit) => ContainerState {
            status: status_word(phase).to_owned(),
            running: phase.is_on(),
            restarting: phase.is_on(),
            exit_code: i64::from(exit.code),
            oom_killed: exit.oom_killed,
            error: exit.error.clone(),
            started_at: exit.started_at.to_string(),
            finished_at: exit.finished_at.to_string(),
            ..base
        },
    }
}

/// The word for a phase.
pub(crate) fn status_word(phase: &Phase) -> &'static str {
    match phase {
        Phase::Created { .. } => "created",
        Phase::Running { .. } => "running",
        Phase::Paused { .. } => "paused",
        Phase::Restarting(_) => "restarting",
        Phase::Exited(_) => "exited",
    }
}

fn health(health: &sampan_engine::container::health::Health) -> Health {
    Health {
        status: health.status.word().to_owned(),
        failing_streak: i64::from(health.failing_streak),
        log: health
            .log
            .iter()
            .map(|r| HealthResult {
                start: r.start.to_string(),
                end: r.end.to_string(),
                exit_code: i64::from(r.exit_code),
                output: r.output.clone(),
            })
            .collect(),
    }
}

/// The sentence for a phase: `Up 3 minutes (healthy)`, `Exited (0) 2 hours ago`.
fn status_text(phase: &Phase, health: Option<HealthStatus>, now: Timestamp) -> String {
    let since = |t: &Timestamp| human_duration(now.unix_seconds() - t.unix_seconds());
    match phase {
        Phase::Created { .. } => "Created".to_owned(),
        Phase::Running { started_at, .. } => {
            let health = match health {
                None => "",
                Some(HealthStatus::Starting) => " (health: starting)",
                Some(HealthStatus::Healthy) => " (healthy)",
                Some(HealthStatus::Unhealthy) => " (unhealthy)",
            };
            format!("Up {}{health}", since(started_at))
        }
        Phase::Paused { started_at, .. } => format!("Up {} (Paused)", since(started_at)),
        Phase::Restarting(exit) => format!("Restarting ({}) {} ago", exit.code, since(&exit.finished_at)),
        Phase::Exited(exit) => format!("Exited ({}) {} ago", exit.code, since(&exit.finished_at)),
    }
}

/// A row of the listing.
pub(crate) fn summary(view: &View, volumes: &std::path::Path, now: Timestamp) -> ContainerSummary {
    let record = &view.record;
    let networks = networks::settings(view).networks;
    ContainerSummary {
        id: record.id.clone(),
        names: vec![format!("/{}", record.name)],
        image: record.spec.image.clone(),
        image_id: record.image_id.clone(),
        command: command_text(&record.args),
        created: record.created.unix_seconds(),
        ports: networks::ports(view),
        labels: record.spec.labels.clone(),
        state: status_word(&record.phase).to_owned(),
        status: status_text(&record.phase, record.health.as_ref().map(|h| h.status), now),
        host_config: SummaryHostConfig { network_mode: networks::word(&record.spec) },
        network_settings: SummaryNetworks { networks },
        mounts: record.spec.mounts.iter().filter_map(|m| mounts::point(m, volumes)).collect(),
        ..ContainerSummary::default()
    }
}

/// Command and arguments in one line; one with spaces is quoted, as Docker does.
fn command_text(args: &[String]) -> String {
    let quoted = args.iter().map(|a| if a.contains(' ') { format!("'{a}'") } else { a.clone() });
    quoted.collect::<Vec<_>>().join(" ")
}

fn namespace_word(mode: &NamespaceMode, private: &str) -> String {
    match mode {
        NamespaceMode::Private => private.to_owned(),
        NamespaceMode::Host => "host".to_owned(),
        NamespaceMode::Container(id) => format!("container:{id}"),
    }
}

fn config(spec: &ContainerSpec, id: &str) -> ContainerConfig {
    let set =
        |keys: Vec<String>| (!keys.is_empty()).then(|| keys.into_iter().map(|k| (k, Empty {})).collect());
    ContainerConfig {
        hostname: spec.hostname.clone().unwrap_or_else(|| id[..12].to_owned()),
        domainname: spec.domainname.clone().unwrap_or_default(),
        user: spec.user.clone().unwrap_or_default(),
        attach_stdin: spec.attach[0],
        attach_stdout: spec.attach[1],
        attach_stderr: spec.attach[2],
        exposed_ports: set(spec.exposed.iter().map(ToString::to_string).collect()),
        tty: spec.tty,
        open_stdin: spec.open_stdin,
        stdin_once: spec.stdin_once,
        env: (!spec.env.is_empty()).then(|| spec.env.clone()),
        cmd: spec.cmd.clone(),
        image: spec.image.clone(),
        volumes: set(spec.anonymous_volumes.clone()),
        working_dir: spec.working_dir.clone().unwrap_or_default(),
        entrypoint: spec.entrypoint.clone(),
        labels: Some(spec.labels.clone()),
        stop_signal: spec.stop_signal.clone(),
        stop_timeout: spec.stop_timeout,
        network_disabled: spec.network_disabled.then_some(true),
        shell: spec.shell.clone(),
        on_build: some(&spec.on_build),
        healthcheck: spec.health.as_ref().map(healthcheck),
        ..ContainerConfig::default()
    }
}

fn healthcheck(spec: &HealthSpec) -> Healthcheck {
    Healthcheck {
        test: some(&spec.test),
        interval: spec.interval,
        timeout: spec.timeout,
        start_interval: spec.start_interval,
        retries: spec.retries,
        start_period: spec.start_period,
    }
}

fn some<T: Clone>(list: &[T]) -> Option<Vec<T>> {
    (!list.is_empty()).then(|| list.to_vec())
}

fn host_config(spec: &ContainerSpec, host_cgroup_default: bool) -> HostConfig {
    let limits = &spec.resources;
    let security = &spec.security;
    let asked = mounts::asked(&spec.mounts);
    let mut port_bindings: BTreeMap<String, Option<Vec<PortBinding>>> = BTreeMap::new();
    for publish in &spec.publish {
        let host_port = match (publish.host_port, publish.host_port_end) {
            (0, _) => String::new(),
            (port, 0) => port.to_string(),
            (first, last) => format!("{first}-{last}"),
        };
        let binding = PortBinding { host_ip: publish.host_ip.clone(), host_port };
        port_bindings.entry(publish.port.to_string()).or_default().get_or_insert_default().push(binding);
    }
    let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    HostConfig {
        binds: some(&asked.binds),
        mounts: some(&asked.long),
        tmpfs: (!asked.tmpfs.is_empty()).then_some(asked.tmpfs),
        volumes_from: some(&spec.volumes_from.iter().map(|v| v.given.clone()).collect::<Vec<_>>()),
        volume_driver: spec.volume_driver.clone(),
        container_id_file: spec.id_file.clone(),
        console_size: spec.console_size,
        init: spec.init,
        userns_mode: match spec.userns {
            UsernsMode::Default => "",
            UsernsMode::Host => "host",
            UsernsMode::Private => "private",
        }
        .to_owned(),
        annotations: (!spec.annotations.is_empty()).then(|| spec.annotations.clone()),
        log_config: LogConfig {
            kind: if spec.log.driver.is_empty() { "json-file".to_owned() } else { spec.log.driver.clone() },
            config: spec.log.options.clone(),
        },
        network_mode: networks::word(spec),
        port_bindings,
        restart_policy: restart_policy(spec.restart_policy),
        auto_remove: spec.auto_remove,
        cap_add: some(&security.cap_add),
        cap_drop: some(&security.cap_drop),
        cgroupns_mode: match &spec.cgroup {
            Some(mode) => namespace_word(mode, "private"),
            None => if host_cgroup_default { "host" } else { "private" }.to_owned(),
        },
        dns: spec.dns.servers.clone(),
        dns_options: spec.dns.options.clone(),
        dns_search: spec.dns.search.clone(),
        extra_hosts: some(&spec.extra_hosts),
        group_add: some(&spec.group_add),
        ipc_mode: ipc_word(&spec.ipc),
        oom_score_adj: i64::from(limits.oom_score_adj),
        pid_mode: namespace_word(&spec.pid, ""),
        privileged: security.privileged,
        publish_all_ports: spec.publish_all,
        readonly_rootfs: security.read_only_root,
        security_opt: some(&security.options),
        uts_mode: namespace_word(&spec.uts, ""),
        shm_size: if spec.shm_size > 0 { spec.shm_size } else { 64 << 20 },
        sysctls: (!spec.sysctls.is_empty()).then(|| spec.sysctls.clone()),
        isolation: spec.isolation.clone(),
        runtime: if spec.runtime.is_empty() { "sampan-runtime".to_owned() } else { spec.runtime.clone() },
        cpu_shares: signed(limits.cpu_shares),
        memory: limits.memory,
        nano_cpus: limits.nano_cpus,
        cgroup_parent: spec.cgroup_parent.clone().unwrap_or_default(),
        blkio_weight: limits.blkio_weight,
        blkio_weight_device: Some(
            limits
                .blkio_weight_device
                .iter()
                .map(|d| WeightDevice { path: d.path.clone(), weight: u16::try_from(d.number).unwrap_or(0) })
                .collect(),
        ),
        blkio_device_read_bps: throttles(&limits.device_read_bps),
        blkio_device_write_bps: throttles(&limits.device_write_bps),
        blkio_device_read_iops: throttles(&limits.device_read_iops),
        blkio_device_write_iops: throttles(&limits.device_write_iops),
        cpu_realtime_period: signed(limits.cpu_rt_period),
        cpu_realtime_runtime: limits.cpu_rt_runtime,
        kernel_memory: limits.kernel_memory,
        kernel_memory_tcp: limits.kernel_memory_tcp,
        cpu_period: signed(limits.cpu_period),
        cpu_quota: limits.cpu_quota,
        cpuset_cpus: limits.cpuset_cpus.clone(),
        cpuset_mems: limits.cpuset_mems.clone(),
        devices: Some(
            spec.devices
                .iter()
                .map(|d| DeviceMapping {
                    path_on_host: d.host.display().to_string(),
                    path_in_container: d.container.clone(),
                    cgroup_permissions: d.permissions.clone(),
                })
                .collect(),
        ),
        device_cgroup_rules: some(&spec.device_rules),
        memory_reservation: limits.memory_reservation,
        memory_swap: limits.swap_limit(),
        memory_swappiness: limits.memory_swappiness.map(signed),
        oom_kill_disable: Some(limits.oom_kill_disable),
        pids_limit: limits.pids,
        ulimits: Some(
            spec.ulimits
                .iter()
                .map(|u| sampan_docker_api::host_config::Ulimit {
                    name: u.name.clone(),
                    hard: u.hard,
                    soft: u.soft,
                })
                .collect::<Vec<_>>(),
        ),
        masked_paths: Some(
            security.masked_paths.clone().unwrap_or_else(|| default_paths(true, security.privileged)),
        ),
        readonly_paths: Some(
            security.readonly_paths.clone().unwrap_or_else(|| default_paths(false, security.privileged)),
        ),
        ..HostConfig::default()
    }
}

fn throttles(list: &[DeviceNumber]) -> Option<Vec<ThrottleDevice>> {
    Some(list.iter().map(|d| ThrottleDevice { path: d.path.clone(), rate: d.number }).collect())
}

fn restart_policy(policy: spec::RestartPolicy) -> RestartPolicy {
    let (name, retries) = match policy {
        spec::RestartPolicy::No => ("no", 0),
        spec::RestartPolicy::Always => ("always", 0),
        spec::RestartPolicy::UnlessStopped => ("unless-stopped", 0),
        spec::RestartPolicy::OnFailure { max_retries } => ("on-failure", max_retries),
    };
    RestartPolicy { name: name.to_owned(), maximum_retry_count: i64::from(retries) }
}

fn ipc_word(mode: &IpcMode) -> String {
    match mode {
        IpcMode::Private => "private".to_owned(),
        IpcMode::Shareable => "shareable".to_owned(),
        IpcMode::None => "none".to_owned(),
        IpcMode::Host => "host".to_owned(),
        IpcMode::Container(id) => format!("container:{id}"),
    }
}

fn default_paths(masked: bool, privileged: bool) -> Vec<String> {
    match (privileged, masked) {
        (true, _) => Vec::new(),
        (false, true) => sampan_engine::spec::default_masked_paths(),
        (false, false) => sampan_engine::spec::default_readonly_paths(),
    }
}

/// An image's process configuration.
pub(crate) fn image_config(config: &sampan_engine::images::ImageProcess) -> ContainerConfig {
    // What an image has of the container that it was made of.
    let text = |key: &str| config.other.get(key).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
    let on = |key: &str| config.other.get(key).and_then(serde_json::Value::as_bool).unwrap_or_default();
    let set = |keys: Vec<&String>| {
        (!keys.is_empty()).then(|| keys.into_iter().map(|k| (k.clone(), Empty {})).collect())
    };
    ContainerConfig {
        user: config.user.clone(),
        exposed_ports: set(config.exposed_ports.keys().collect()),
        env: some(&config.env),
        cmd: config.cmd.clone(),
        healthcheck: config.healthcheck.as_ref().map(|of_image| healthcheck(&of_image.into())),
        volumes: set(config.volumes.keys().collect()),
        working_dir: config.working_dir.clone(),
        entrypoint: config.entrypoint.clone(),
        on_build: some(&config.on_build),
        labels: (!config.labels.is_empty()).then(|| config.labels.clone()),
        stop_signal: Some(config.stop_signal.clone()).filter(|s| !s.is_empty()),
        stop_timeout: config.other.get("StopTimeout").and_then(serde_json::Value::as_i64),
        shell: config.shell.clone(),
        hostname: text("Hostname"),
        domainname: text("Domainname"),
        image: text("Image"),
        attach_stdin: on("AttachStdin"),
        attach_stdout: on("AttachStdout"),
        attach_stderr: on("AttachStderr"),
        tty: on("Tty"),
        open_stdin: on("OpenStdin"),
        stdin_once: on("StdinOnce"),
        ..ContainerConfig::default()
    }
}

/// An event's line.
pub(crate) fn event(event: &sampan_engine::events::Event) -> Event {
    let kind = match event.kind {
        EventKind::Container => "container",
        EventKind::Image => "image",
        EventKind::Volume => "volume",
        EventKind::Network => "network",
        EventKind::Builder => "builder",
        EventKind::Daemon => "daemon",
    };
    // Old clients read containers' and images' events by these fields.
    let old = matches!(event.kind, EventKind::Container | EventKind::Image);
    let container = event.kind == EventKind::Container;
    Event {
        status: old.then(|| event.action.clone()),
        id: old.then(|| event.id.clone()),
        from: event.attributes.get("image").filter(|_| container).cloned(),
        kind: kind.to_owned(),
        action: event.action.clone(),
        actor: Actor { id: event.id.clone(), attributes: event.attributes.clone() },
        scope: "local".to_owned(),
        time: event.at.unix_seconds(),
        time_nano: i64::try_from(event.at.unix_nanos()).unwrap_or(i64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sampan_engine::container::state::Exit;

    #[test]
    fn phases_for_people() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let (start, end, now) =
            (at("2026-01-01T00:00:00Z"), at("2026-01-01T00:01:00Z"), at("2026-01-01T00:03:00Z"));
        let exit =
            Exit { code: 3, oom_killed: false, started_at: start, finished_at: end, error: String::new() };
        assert_eq!(status_text(&Phase::Exited(exit), None, now), "Exited (3) 2 minutes ago");
        let running = Phase::Running { pid: 1, started_at: start };
        assert_eq!(status_text(&running, None, now), "Up 3 minutes");
        assert_eq!(
            status_text(&running, Some(HealthStatus::Starting), now),
            "Up 3 minutes (health: starting)"
        );
        let paused = Phase::Paused { pid: 1, started_at: start };
        assert_eq!(status_text(&paused, Some(HealthStatus::Unhealthy), now), "Up 3 minutes (Paused)");
    }
}
