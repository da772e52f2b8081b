//! The bundle of a container: config.json for the OCI runtime, from what the container is to be and what the host has.
//!
//! [`plan`] is pure; the facts it needs (resolved user, files to bind, namespaces to join) come as [`Facts`].

pub(crate) mod mounts;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use sampan_image::IdMapping;
use sampan_oci::runtime::defaults;
use sampan_oci::runtime::{
    BlockIo, Capabilities, ConsoleSize, Cpu, Device as OciDevice, DeviceRule, IdMapping as OciIdMapping,
    Linux, Memory, Namespace, NamespaceKind, Pids, Process, Resources as OciResources, Rlimit, Root, Spec,
    ThrottleDevice, User, WeightDevice,
};

use crate::error::{EngineError, Result};
use crate::spec::{ContainerSpec, DeviceNumber, IpcMode, NamespaceMode, Resources, SeccompChoice, Security};
use crate::user::ResolvedUser;

/// What the host contributes to a container's config.json.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// The container's id.
    pub id: String,
    /// The mounted root file system.
    pub rootfs: PathBuf,
    /// Command and arguments.
    pub args: Vec<String>,
    /// The image's environment.
    pub image_env: Vec<String>,
    /// The working directory.
    pub cwd: String,
    /// Who runs it.
    pub user: Option<ResolvedUser>,
    /// The host name inside; `None` where the host-name namespace is not its own.
    pub hostname: Option<String>,
    /// Namespaces to join instead of making them.
    pub join: BTreeMap<NamespaceKind, PathBuf>,
    /// Namespaces to share with the host.
    pub share_with_host: Vec<NamespaceKind>,
    /// Files that are bound over /etc/hosts, /etc/hostname, /etc/resolv.conf: path inside to path outside.
    pub files: Vec<(&'static str, PathBuf)>,
    /// What volume and image mounts bind, by target.
    pub sources: BTreeMap<String, PathBuf>,
    /// Targets of bind mounts whose files have the ids of an image: these become the container's own.
    pub image_owned: BTreeSet<String>,
    /// What becomes /dev/shm, if it is not the container's own.
    pub shm: Option<PathBuf>,
    /// The executable that is its first process, if it wants a small init.
    pub init: Option<PathBuf>,
    /// Whether the kernel can make mounts below a mount read-only with it.
    pub can_rro: bool,
    /// The kernel's release.
    pub kernel: String,
    /// Block devices' numbers, by path.
    pub block_devices: BTreeMap<String, (i64, i64)>,
    /// Which ids of the host its ids are.
    pub mapping: Option<IdMapping>,
    /// All capabilities that this host's kernel knows.
    pub all_capabilities: Vec<String>,
    /// Devices to pass in, looked up.
    pub devices: Vec<OciDevice>,
    /// Devices that are bound instead: path inside and path outside.
    pub bound_devices: Vec<(String, PathBuf)>,
    /// Their rules.
    pub device_rules: Vec<DeviceRule>,
    /// Rows and columns of the terminal.
    pub console: Option<(u32, u32)>,
}

/// The environment variable that every container gets when it has none.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The config.json of a container.
///
/// # Errors
/// If the spec names a capability, limit or option that does not exist.
pub(crate) fn plan(spec: &ContainerSpec, facts: &Facts) -> Result<Spec> {
    let user = facts.user.clone().unwrap_or(ResolvedUser {
        uid: 0,
        gid: 0,
        groups: Vec::new(),
        home: "/".to_owned(),
    });
    let capabilities = capabilities(&spec.security, user.uid, &facts.all_capabilities)?;
    let security = &spec.security;
    let seccomp = match &security.seccomp {
        _ if security.privileged => None,
        SeccompChoice::Default => Some(defaults::default_seccomp(&capabilities.bounding)),
        SeccompChoice::Unconfined => None,
        SeccompChoice::Profile(json) => crate::seccomp::filter(json, &capabilities.bounding, &facts.kernel)
            .map_err(EngineError::Invalid)?,
    };
    let shares = |kind| facts.share_with_host.contains(&kind);
    let namespaces = [
        NamespaceKind::Mount,
        NamespaceKind::Network,
        NamespaceKind::Uts,
        NamespaceKind::Pid,
        NamespaceKind::Ipc,
        NamespaceKind::Cgroup,
    ]
    .into_iter()
    .filter(|kind| !shares(*kind))
    .chain(facts.mapping.as_ref().map(|_| NamespaceKind::User))
    .map(|kind| Namespace { kind, path: facts.join.get(&kind).cloned() })
    .collect();
    let paths = |chosen: &Option<Vec<String>>, default: fn() -> Vec<String>| match chosen {
        Some(list) => list.clone(),
        None if security.privileged => Vec::new(),
        None => default(),
    };
    let mut sysctl = spec.sysctls.clone();
    // Docker lets unprivileged processes bind low ports and ping in a network namespace of its own.
    if !shares(NamespaceKind::Network) && spec.network != crate::spec::NetworkMode::Host {
        sysctl.entry("net.ipv4.ip_unprivileged_port_start".to_owned()).or_insert_with(|| "0".to_owned());
        let last = facts.mapping.as_ref().map_or(i32::MAX.unsigned_abs(), crate::userns::last_group);
        sysctl.entry("net.ipv4.ping_group_range".to_owned()).or_insert_with(|| format!("0 {last}"));
    }
    Ok(Spec {
        oci_version: "1.0.2".to_owned(),
        process: Some(Process {
            terminal: spec.tty,
            console_size: facts.console.map(|(height, width)| ConsoleSize { height, width }),
            user: User {
                uid: user.uid,
                gid: user.gid,
                additional_gids: user.groups.clone(),
                ..User::default()
            },
            args: match &facts.init {
                Some(_) => [mounts::INIT_PATH, "--"]
                    .into_iter()
                    .map(str::to_owned)
                    .chain(facts.args.iter().cloned())
                    .collect(),
                None => facts.args.clone(),
            },
            env: environment(spec, facts, &user),
            cwd: facts.cwd.clone(),
            capabilities: Some(capabilities),
            rlimits: spec.ulimits.iter().map(rlimit).collect::<Result<_>>()?,
            no_new_privileges: security.no_new_privileges,
            oom_score_adj: Some(spec.resources.oom_score_adj),
            ..Process::default()
        }),
        root: Some(Root { path: facts.rootfs.clone(), readonly: security.read_only_root }),
        hostname: facts.hostname.clone(),
        domainname: spec.domainname.clone().filter(|_| facts.hostname.is_some()),
        mounts: mounts::plan(spec, facts)?,
        linux: Some(Linux {
            sysctl,
            resources: Some(resources(&spec.resources, device_rules(spec, facts), &facts.block_devices)),
            cgroups_path: Some(cgroups_path(spec, &facts.id)),
            namespaces,
            devices: facts.devices.clone(),
            seccomp,
            masked_paths: paths(&security.masked_paths, defaults::masked_paths),
            readonly_paths: paths(&security.readonly_paths, defaults::readonly_paths),
            rootfs_propagation: mounts::root_propagation(spec),
            uid_mappings: facts.mapping.as_ref().map(|m| ranges(&m.uids)).unwrap_or_default(),
            gid_mappings: facts.mapping.as_ref().map(|m| ranges(&m.gids)).unwrap_or_default(),
            ..Linux::default()
        }),
        annotations: spec.annotations.clone(),
        ..Spec::default()
    })
}

fn ranges(list: &[sampan_image::IdRange]) -> Vec<OciIdMapping> {
    let range = |r: &sampan_image::IdRange| OciIdMapping {
        container_id: r.inside,
        host_id: r.outside,
        size: r.length,
    };
    list.iter().map(range).collect()
}

/// The cgroup of a container: `<parent>/<id>`, by default below `/sampan`.
pub(crate) fn cgroups_path(spec: &ContainerSpec, id: &str) -> String {
    let parent = spec.cgroup_parent.as_deref().unwrap_or("/sampan");
    format!("/{}/{id}", parent.trim_matches('/'))
}

/// The image's environment, overridden by the container's; a name without `=` removes the image's.
fn environment(spec: &ContainerSpec, facts: &Facts, user: &ResolvedUser) -> Vec<String> {
    let mut env = vec![DEFAULT_PATH.to_owned()];
    if let Some(hostname) = &facts.hostname {
        env.push(format!("HOSTNAME={hostname}"));
    }
    if spec.tty {
        env.push("TERM=xterm".to_owned());
    }
    for entry in facts.image_env.iter().chain(&spec.env) {
        let name = entry.split('=').next().unwrap_or(entry);
        env.retain(|e| e.split('=').next() != Some(name));
        if entry.contains('=') {
            env.push(entry.clone());
        }
    }
    if !env.iter().any(|e| e.starts_with("HOME=")) {
        env.push(format!("HOME={}", user.home));
    }
    env
}

/// The capabilities of a process: the default ones, more, less; none effective for users other than root.
fn capabilities(security: &Security, uid: u32, all: &[String]) -> Result<Capabilities> {
    let full = |name: &str| {
        let name = name.to_uppercase();
        let name = if name.starts_with("CAP_") { name } else { format!("CAP_{name}") };
        if all.contains(&name) || name == "CAP_ALL" {
            Ok(name)
        } else {
            Err(EngineError::Invalid(format!("unknown capability `{name}` to add or drop")))
        }
    };
    let add = security.cap_add.iter().map(|n| full(n)).collect::<Result<Vec<_>>>()?;
    let drop = security.cap_drop.iter().map(|n| full(n)).collect::<Result<Vec<_>>>()?;
    let has_all = |list: &[String]| list.iter().any(|n| n == "CAP_ALL");
    let mut bounding: Vec<String> = if security.privileged || has_all(&add) {
        all.to_vec()
    } else if has_all(&drop) {
        Vec::new()
    } else {
        defaults::default_capabilities()
    };
    if !security.privileged {
        bounding.retain(|name| !drop.contains(name));
    }
    for name in add {
        if name != "CAP_ALL" && !bounding.contains(&name) {
            bounding.push(name);
        }
    }
    let effective = if uid == 0 { bounding.clone() } else { Vec::new() };
    // Inheritable stays empty: CVE-2022-24769.
    Ok(Capabilities { permitted: effective.clone(), effective, bounding, ..Capabilities::default() })
}

fn rlimit(limit: &crate::spec::Ulimit) -> Result<Rlimit> {
    const NAMES: &[&str] = &[
        "as",
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ];
    if !NAMES.contains(&limit.name.as_str()) {
        return Err(EngineError::Invalid(format!("unknown ulimit `{}`", limit.name)));
    }
    let value = |n: i64| u64::try_from(n).unwrap_or(u64::MAX);
    Ok(Rlimit {
        kind: format!("RLIMIT_{}", limit.name.to_uppercase()),
        soft: value(limit.soft),
        hard: value(limit.hard),
    })
}

fn device_rules(spec: &ContainerSpec, facts: &Facts) -> Vec<DeviceRule> {
    if spec.security.privileged {
        return vec![DeviceRule { allow: true, access: Some("rwm".to_owned()), ..DeviceRule::default() }];
    }
    let mut rules = defaults::default_devices_cgroup();
    rules.extend(facts.device_rules.iter().cloned());
    rules
}

pub(crate) fn resources(
    limits: &Resources,
    devices: Vec<DeviceRule>,
    block_devices: &BTreeMap<String, (i64, i64)>,
) -> OciResources {
    let positive = |n: i64| (n > 0).then_some(n);
    // `--cpus 0.2` is a quota of 20 ms in each period of 100 ms.
    const PERIOD: u64 = 100_000;
    let (period, quota) = if limits.nano_cpus > 0 {
        let quota = i128::from(limits.nano_cpus) * i128::from(PERIOD) / 1_000_000_000;
        (Some(PERIOD), i64::try_from(quota).ok())
    } else {
        (
            (limits.cpu_period > 0).then_some(limits.cpu_period),
            (limits.cpu_quota != 0).then_some(limits.cpu_quota),
        )
    };
    let text = |s: &String| (!s.is_empty()).then(|| s.clone());
    let swap = Some(limits.swap_limit()).filter(|n| *n != 0);
    OciResources {
        devices,
        memory: Some(Memory {
            limit: positive(limits.memory),
            reservation: positive(limits.memory_reservation),
            swap,
            swappiness: limits.memory_swappiness,
            kernel_tcp: positive(limits.kernel_memory_tcp),
            disable_oom_killer: limits.oom_kill_disable.then_some(true),
            ..Memory::default()
        }),
        cpu: Some(Cpu {
            shares: (limits.cpu_shares > 0).then_some(limits.cpu_shares),
            quota,
            period,
            realtime_period: (limits.cpu_rt_period > 0).then_some(limits.cpu_rt_period),
            realtime_runtime: (limits.cpu_rt_runtime != 0).then_some(limits.cpu_rt_runtime),
            cpus: text(&limits.cpuset_cpus),
            mems: text(&limits.cpuset_mems),
            ..Cpu::default()
        }),
        pids: limits.pids.filter(|n| *n != 0).map(|limit| Pids { limit: Some(limit) }),
        block_io: block_io(limits, block_devices),
        ..OciResources::default()
    }
}

fn block_io(limits: &Resources, devices: &BTreeMap<String, (i64, i64)>) -> Option<BlockIo> {
    let throttles = |list: &[DeviceNumber]| {
        let throttle = |d: &DeviceNumber| {
            let (major, minor) = *devices.get(&d.path)?;
            Some(ThrottleDevice { major, minor, rate: d.number })
        };
        list.iter().filter_map(throttle).collect::<Vec<_>>()
    };
    let weight = |d: &DeviceNumber| {
        let (major, minor) = *devices.get(&d.path)?;
        Some(WeightDevice { major, minor, weight: u16::try_from(d.number).ok(), leaf_weight: None })
    };
    let block_io = BlockIo {
        weight: (limits.blkio_weight > 0).then_some(limits.blkio_weight),
        leaf_weight: None,
        weight_device: limits.blkio_weight_device.iter().filter_map(weight).collect(),
        throttle_read_bps_device: throttles(&limits.device_read_bps),
        throttle_write_bps_device: throttles(&limits.device_write_bps),
        throttle_read_iops_device: throttles(&limits.device_read_iops),
        throttle_write_iops_device: throttles(&limits.device_write_iops),
    };
    (block_io != BlockIo::default()).then_some(block_io)
}

/// Which namespaces are joined or shared, from the spec's modes. `process_of` gives the process of a container.
///
/// # Errors
/// What `process_of` gives for a container that does not run.
pub(crate) fn namespaces(
    spec: &ContainerSpec,
    host_cgroup_default: bool,
    process_of: impl Fn(&str) -> Result<u32>,
) -> Result<(BTreeMap<NamespaceKind, PathBuf>, Vec<NamespaceKind>)> {
    let mut join = BTreeMap::new();
    let mut share = Vec::new();
    let default = if host_cgroup_default { NamespaceMode::Host } else { NamespaceMode::Private };
    let cgroup = spec.cgroup.clone().unwrap_or(default);
    let ipc = match &spec.ipc {
        IpcMode::Host => NamespaceMode::Host,
        IpcMode::Container(id) => NamespaceMode::Container(id.clone()),
        IpcMode::Private | IpcMode::Shareable | IpcMode::None => NamespaceMode::Private,
    };
    let modes = [
        (NamespaceKind::Pid, &spec.pid),
        (NamespaceKind::Ipc, &ipc),
        (NamespaceKind::Uts, &spec.uts),
        (NamespaceKind::Cgroup, &cgroup),
    ];
    for (kind, mode) in modes {
        match mode {
            NamespaceMode::Private => {}
            NamespaceMode::Host => share.push(kind),
            NamespaceMode::Container(id) => {
                let path = format!("/proc/{}/ns/{}", process_of(id)?, kind.proc_name());
                join.insert(kind, PathBuf::from(path));
            }
        }
    }
    Ok((join, share))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{MountSource, MountSpec};

    fn facts() -> Facts {
        let all = defaults::default_capabilities().into_iter().chain(["CAP_SYS_ADMIN".to_owned()]).collect();
        Facts {
            id: "abc".to_owned(),
            rootfs: "/r".into(),
            args: vec!["true".to_owned()],
            image_env: vec!["A=1".to_owned(), "B=2".to_owned()],
            cwd: "/".to_owned(),
            hostname: Some("h".to_owned()),
            all_capabilities: all,
            ..Facts::default()
        }
    }

    #[test]
    fn the_containers_environment_overrides_the_images() {
        let spec = ContainerSpec { env: vec!["A=9".into(), "B".into(), "C=".into()], ..Default::default() };
        let env = plan(&spec, &facts()).unwrap().process.unwrap().env;
        let expected = [DEFAULT_PATH, "HOSTNAME=h", "A=9", "C=", "HOME=/"];
        assert_eq!(env, expected);
    }

    #[test]
    fn fractions_of_a_cpu_become_a_quota_and_memory_brings_its_swap() {
        let limits = Resources { nano_cpus: 200_000_000, memory: 64 << 20, ..Default::default() };
        let planned = resources(&limits, Vec::new(), &BTreeMap::new());
        let cpu = planned.cpu.unwrap();
        assert_eq!((cpu.period, cpu.quota), (Some(100_000), Some(20_000)));
        let memory = planned.memory.unwrap();
        assert_eq!((memory.limit, memory.swap), (Some(64 << 20), Some(128 << 20)));
    }

    #[test]
    fn capabilities_are_added_dropped_and_refused_by_name() {
        let check = |add: &[&str], drop: &[&str], uid| {
            let own = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect();
            let security = Security { cap_add: own(add), cap_drop: own(drop), ..Default::default() };
            capabilities(&security, uid, &facts().all_capabilities)
                .map(|c| (c.bounding.len(), c.effective.len()))
        };
        assert_eq!(check(&[], &[], 0).unwrap(), (14, 14));
        assert_eq!(check(&[], &[], 1000).unwrap(), (14, 0));
        assert_eq!(check(&["sys_admin"], &["ALL"], 0).unwrap(), (1, 1));
        assert_eq!(check(&["ALL"], &["CAP_CHOWN"], 0).unwrap(), (14, 14));
        assert!(check(&["nonsense"], &[], 0).unwrap_err().to_string().contains("CAP_NONSENSE"));
    }

    #[test]
    fn a_privileged_container_has_no_filter_and_no_masks() {
        let mut spec = ContainerSpec::default();
        let linux = plan(&spec, &facts()).unwrap().linux.unwrap();
        assert!(linux.seccomp.is_some() && !linux.masked_paths.is_empty());
        spec.security.privileged = true;
        let linux = plan(&spec, &facts()).unwrap().linux.unwrap();
        assert!(linux.seccomp.is_none() && linux.masked_paths.is_empty());
    }

    #[test]
    fn outer_mounts_come_before_inner_ones_and_override_defaults() {
        let bind =
            |target: &str| MountSpec { read_only: true, ..MountSpec::new(MountSource::bind("/x"), target) };
        let spec =
            ContainerSpec { mounts: vec![bind("/a/b"), bind("/a"), bind("/dev/shm")], ..Default::default() };
        let mounts = plan(&spec, &facts()).unwrap().mounts;
        let at = |d: &str| mounts.iter().position(|m| m.destination == d).unwrap();
        assert!(at("/a") < at("/a/b"));
        assert_eq!(mounts.iter().filter(|m| m.destination == "/dev/shm").count(), 1);
        assert_eq!(mounts[at("/a")].options, ["rbind", "ro", "rprivate"]);
        let mounts = plan(&spec, &Facts { can_rro: true, ..facts() }).unwrap().mounts;
        assert_eq!(mounts[at("/a")].options, ["rbind", "ro", "rprivate", "rro"]);
    }

    #[test]
    fn what_has_the_ids_of_an_image_is_mounted_with_the_mapping() {
        let bind = |target: &str| MountSpec::new(MountSource::bind("/x"), target);
        let spec = ContainerSpec { mounts: vec![bind("/cache"), bind("/secret")], ..Default::default() };
        let mapped = |mapping| {
            let image_owned = BTreeSet::from(["/cache".to_owned()]);
            let mounts = plan(&spec, &Facts { mapping, image_owned, ..facts() }).unwrap().mounts;
            let mounts = mounts.into_iter().filter(|m| m.options.iter().any(|o| o == "idmap"));
            mounts.map(|m| m.destination).collect::<Vec<_>>()
        };
        assert_eq!(mapped(Some(IdMapping::default())), ["/cache"]);
        assert!(mapped(None).is_empty());
    }
}
