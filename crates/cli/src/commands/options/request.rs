//! The flags put together as Docker's API takes them.

use anyhow::{Context, Result, bail};
use sampan_docker_api::Empty;
use sampan_docker_api::container::{ContainerConfig, CreateRequest};
use sampan_docker_api::host_config::{HostConfig, LogConfig, RestartPolicy};
use sampan_docker_api::written;

use super::environment::{environment, labels};
use super::{Options, limits, mounts, networks, pairs, security};

/// The body of `POST /containers/create` for these flags; `attach` tells the streams that are attached to.
pub(crate) fn create_request(options: &Options, attach: [bool; 3]) -> Result<CreateRequest> {
    refuse(options)?;
    let (image, command) = options.image_and_command.split_first().context("no image was named")?;
    let (exposed, bindings) =
        written::ports(&options.publish, &options.expose).map_err(anyhow::Error::msg)?;
    let (binds, anonymous): (Vec<String>, Vec<String>) =
        options.volume.iter().cloned().partition(|v| v.contains(':'));
    let binds: Vec<String> = binds.into_iter().map(|bind| mounts::absolute(&bind)).collect();
    let wish = networks::wish(options)?;
    let config = ContainerConfig {
        hostname: options.hostname.clone(),
        domainname: options.domainname.clone(),
        user: options.user.clone(),
        attach_stdin: attach[0],
        attach_stdout: attach[1],
        attach_stderr: attach[2],
        exposed_ports: Some(exposed),
        tty: options.tty,
        open_stdin: options.interactive,
        stdin_once: options.interactive && attach[0],
        env: Some(environment(&options.env, &options.env_file)?),
        cmd: (!command.is_empty()).then(|| command.to_vec()),
        healthcheck: limits::health(options)?,
        image: image.clone(),
        volumes: Some(anonymous.into_iter().map(|path| (path, Empty {})).collect()),
        working_dir: options.workdir.clone(),
        // The empty entrypoint takes the image's away, which the API is told by one empty word.
        entrypoint: options.entrypoint.as_ref().map(|e| vec![e.clone()]),
        mac_address: Some(options.mac_address.clone()).filter(|a| !a.is_empty()),
        labels: Some(labels(&options.label, &options.label_file)?),
        stop_signal: options.stop_signal.clone(),
        stop_timeout: options.stop_timeout,
        ..ContainerConfig::default()
    };
    let some = |list: &Vec<String>| (!list.is_empty()).then(|| list.clone());
    let mounts = options.mount.iter().map(|text| mounts::mount(text)).collect::<Result<Vec<_>>>()?;
    let tmpfs = mounts::tmpfs(&options.tmpfs);
    let (cap_add, cap_drop) = security::capabilities(&options.cap_add, &options.cap_drop);
    let host_config = HostConfig {
        binds: some(&binds),
        container_id_file: options.cidfile.clone().unwrap_or_default(),
        mounts: (!mounts.is_empty()).then_some(mounts),
        tmpfs: (!tmpfs.is_empty()).then_some(tmpfs),
        volume_driver: options.volume_driver.clone(),
        volumes_from: some(&options.volumes_from),
        storage_opt: (!options.storage_opt.is_empty()).then(|| pairs(&options.storage_opt)),
        log_config: LogConfig { kind: options.log_driver.clone(), config: pairs(&options.log_opt) },
        network_mode: wish.mode,
        links: some(&options.link),
        port_bindings: bindings,
        publish_all_ports: options.publish_all,
        restart_policy: restart_policy(&options.restart)?,
        auto_remove: options.rm,
        annotations: (!options.annotation.is_empty()).then(|| pairs(&options.annotation)),
        cap_add,
        cap_drop,
        cgroupns_mode: options.cgroupns.clone(),
        cgroup_parent: options.cgroup_parent.clone(),
        dns: options.dns.clone(),
        dns_options: options.dns_option.clone(),
        dns_search: options.dns_search.clone(),
        extra_hosts: some(&networks::extra_hosts(&options.add_host)?),
        group_add: some(&options.group_add),
        ipc_mode: options.ipc.clone(),
        pid_mode: options.pid.clone(),
        uts_mode: options.uts.clone(),
        userns_mode: options.userns.clone(),
        privileged: options.privileged,
        readonly_rootfs: options.read_only,
        security_opt: some(&security::options(&options.security_opt)?),
        shm_size: options.shm_size,
        sysctls: (!options.sysctl.is_empty()).then(|| pairs(&options.sysctl)),
        runtime: options.runtime.clone(),
        isolation: options.isolation.clone(),
        cpu_shares: options.cpu_shares,
        cpu_period: options.cpu_period,
        cpu_quota: options.cpu_quota,
        cpu_realtime_period: options.cpu_rt_period,
        cpu_realtime_runtime: options.cpu_rt_runtime,
        cpuset_cpus: options.cpuset_cpus.clone(),
        cpuset_mems: options.cpuset_mems.clone(),
        nano_cpus: limits::nano_cpus(options.cpus),
        memory: options.memory,
        memory_swap: options.memory_swap,
        memory_reservation: options.memory_reservation,
        // -1 is the engine's choice, as when nothing is said.
        memory_swappiness: options.memory_swappiness.filter(|s| *s != -1),
        oom_kill_disable: options.oom_kill_disable.then_some(true),
        oom_score_adj: options.oom_score_adj,
        pids_limit: options.pids_limit,
        blkio_weight: options.blkio_weight,
        blkio_weight_device: limits::weights(&options.blkio_weight_device)?,
        blkio_device_read_bps: limits::throttles("device-read-bps", &options.device_read_bps, true)?,
        blkio_device_write_bps: limits::throttles("device-write-bps", &options.device_write_bps, true)?,
        blkio_device_read_iops: limits::throttles("device-read-iops", &options.device_read_iops, false)?,
        blkio_device_write_iops: limits::throttles("device-write-iops", &options.device_write_iops, false)?,
        ulimits: Some(limits::ulimits(&options.ulimit)?),
        devices: Some(options.device.iter().map(|text| limits::device(text)).collect::<Result<_>>()?),
        device_cgroup_rules: some(&options.device_cgroup_rule),
        init: options.init.then_some(true),
        ..HostConfig::default()
    };
    Ok(CreateRequest {
        config,
        host_config: Some(host_config),
        networking_config: wish.config,
        ..CreateRequest::default()
    })
}

/// What can't be done here is said before anything is made.
fn refuse(options: &Options) -> Result<()> {
    if options.gpus.is_some() {
        bail!("--gpus is not supported: pass the device files with --device, such as --device /dev/dri");
    }
    if !matches!(options.isolation.as_str(), "" | "default") {
        bail!("--isolation {}: only Windows has other isolations", options.isolation);
    }
    if let Some(bytes) = options.kernel_memory.filter(|b| *b > 0) {
        super::super::tell(format_args!(
            "WARNING: --kernel-memory {bytes} is left out: kernels have no such limit"
        ));
    }
    if options.rm && !matches!(options.restart.as_str(), "" | "no") {
        bail!("conflicting options: cannot specify both --restart and --rm");
    }
    if options.oom_kill_disable && options.memory <= 0 {
        super::super::tell(
            "WARNING: Disabling the OOM killer on containers without setting a '-m/--memory' limit may be dangerous.",
        );
    }
    Ok(())
}

/// `no`, `always`, `unless-stopped`, `on-failure[:TIMES]`.
pub(crate) fn restart_policy(text: &str) -> Result<RestartPolicy> {
    let (name, times) = match text.split_once(':') {
        Some((name, times)) => (name, Some(times)),
        None => (text, None),
    };
    if name.is_empty() && times.is_some() {
        bail!("invalid restart policy format: no policy provided before colon");
    }
    let times = match times {
        None => 0,
        Some(times) => times
            .parse()
            .ok()
            .with_context(|| "invalid restart policy format: maximum retry count must be an integer")?,
    };
    Ok(RestartPolicy { name: name.to_owned(), maximum_retry_count: times })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        Options { image_and_command: vec!["busybox".into()], restart: "no".into(), ..Options::default() }
    }

    #[test]
    fn what_can_not_be_done_is_refused() {
        let mut wrong = options();
        wrong.gpus = Some("all".into());
        assert!(create_request(&wrong, [false; 3]).unwrap_err().to_string().contains("--gpus"));
        let mut wrong = options();
        (wrong.rm, wrong.restart) = (true, "always".into());
        assert!(create_request(&wrong, [false; 3]).is_err());
    }

    #[test]
    fn restart_policies() {
        let policy = restart_policy("on-failure:3").unwrap();
        assert_eq!((policy.name.as_str(), policy.maximum_retry_count), ("on-failure", 3));
        assert_eq!(restart_policy("always").unwrap().name, "always");
        assert!(restart_policy("on-failure:x").is_err() && restart_policy(":3").is_err());
    }

    #[test]
    fn an_empty_entrypoint_takes_the_images_away() {
        let mut options = options();
        options.entrypoint = Some(String::new());
        let request = create_request(&options, [false; 3]).unwrap();
        assert_eq!(request.config.entrypoint, Some(vec![String::new()]));
    }
}
