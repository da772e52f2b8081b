//! Decides how the root file system is put together; [`super::execute`] does it.

use std::path::{Component, Path, PathBuf};

use rustix::fs::FileType;
use rustix::mount::MountPropagationFlags as Propagation;
use sampan_oci::runtime::{Linux, Mount, NamespaceKind, Spec};

use super::idmap::{self, IdMap};
use super::options::{self, MountOptions};
use crate::error::Refused;

/// How the root file system is put together.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its directory on the host, absolute.
    pub path: PathBuf,
    /// Which ids of its files are shown as which.
    pub idmap: Option<IdMap>,
    /// Whether hooks are to look at it before it is the root.
    pub for_hooks: bool,
    /// Whether it is read-only at last.
    pub readonly: bool,
    /// How mount events pass between host and container: what everything taken from the host gets first.
    pub from_host: (Propagation, bool),
    /// config.json's `rootfsPropagation`, for the container's `/` at last.
    pub propagation: Option<(Propagation, bool)>,
    /// What is mounted, in this order.
    pub mounts: Vec<MountPlan>,
    /// Device nodes.
    pub devices: Vec<DevicePlan>,
    /// Whether nodes are bound from the host: in a user namespace none can be made.
    pub bind_devices: bool,
    /// Whether `/dev` is the container's own, to be filled.
    pub fill_dev: bool,
    /// What may not be read.
    pub masked: Vec<PathBuf>,
    /// What may not be written.
    pub readonly_paths: Vec<PathBuf>,
    /// The process's working directory, made if missing.
    pub cwd: PathBuf,
}

/// One mount.
#[derive(Clone, Debug)]
pub struct MountPlan {
    /// Where in the container, without a leading slash.
    pub destination: PathBuf,
    /// What.
    pub what: What,
    /// How.
    pub options: MountOptions,
    /// Which ids are shown as which.
    pub idmap: Option<IdMap>,
}

/// What is mounted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum What {
    /// A part of the host's tree, with the mounts below it or not.
    Bind {
        /// The path on the host, absolute.
        source: PathBuf,
        /// Whether with the mounts below it.
        recursive: bool,
    },
    /// A new file system.
    FileSystem {
        /// Its type.
        kind: String,
        /// Its source, as the type understands it.
        source: Option<String>,
    },
    /// The container's own control groups.
    Cgroups,
    /// Nothing: what is mounted there is changed.
    Change {
        /// Whether only the mount, not the file system as a whole.
        bind: bool,
    },
}

/// A device node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DevicePlan {
    /// Where, without a leading slash.
    pub path: PathBuf,
    /// What kind.
    pub kind: FileType,
    /// Its number.
    pub number: u64,
    /// Permissions.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
}

/// The devices that every container has: null, zero, full, random, urandom, tty.
const DEFAULT_DEVICES: [(&str, u32, u32); 6] = [
    ("dev/null", 1, 3),
    ("dev/zero", 1, 5),
    ("dev/full", 1, 7),
    ("dev/random", 1, 8),
    ("dev/urandom", 1, 9),
    ("dev/tty", 5, 0),
];

/// Files of proc over which something may be mounted: they show the container itself, as lxcfs does better.
const MOUNTABLE_IN_PROC: [&str; 11] = [
    "proc/cpuinfo",
    "proc/diskstats",
    "proc/loadavg",
    "proc/meminfo",
    "proc/net/dev",
    "proc/slabinfo",
    "proc/stat",
    "proc/swaps",
    "proc/sys/crypto/fips_enabled",
    "proc/sys/kernel/ns_last_pid",
    "proc/uptime",
];

/// Whether something may be mounted at this place inside of proc.
pub(super) fn mountable_in_proc(destination: &Path) -> bool {
    MOUNTABLE_IN_PROC.iter().any(|allowed| Path::new(allowed) == destination)
}

/// Plans the root file system of a bundle.
///
/// # Errors
/// If config.json asks for what makes no sense or is not supported.
pub fn plan(spec: &Spec, bundle: &Path) -> Result<Plan, Refused> {
    let default_linux = Linux::default();
    let linux = spec.linux.as_ref().unwrap_or(&default_linux);
    let Some(root) = &spec.root else {
        return Err(Refused::Invalid("config.json has no `root`".to_owned()));
    };
    let mounts: Vec<MountPlan> =
        spec.mounts.iter().map(|mount| plan_mount(mount, bundle, linux)).collect::<Result<_, _>>()?;
    let dev_is_the_hosts =
        mounts.iter().any(|m| m.destination == Path::new("dev") && matches!(m.what, What::Bind { .. }));
    let propagation = options::rootfs_propagation(linux.rootfs_propagation.as_deref())?;
    // An unbindable tree could not be copied; and what no word says, the host decides for the container.
    let from_host = match propagation {
        Some((kind, recursive)) if kind != Propagation::UNBINDABLE => (kind, recursive),
        _ => (Propagation::DOWNSTREAM, true),
    };
    Ok(Plan {
        path: bundle.join(&root.path),
        idmap: plan_root_idmap(spec, linux)?,
        for_hooks: spec.hooks.as_ref().is_some_and(|hooks| {
            !hooks.prestart.is_empty()
                || !hooks.create_runtime.is_empty()
                || !hooks.create_container.is_empty()
        }),
        readonly: root.readonly,
        from_host,
        propagation,
        mounts,
        devices: plan_devices(linux)?,
        bind_devices: linux.namespaces.iter().any(|n| n.kind == NamespaceKind::User),
        fill_dev: !dev_is_the_hosts,
        masked: linux.masked_paths.iter().map(|p| relative(p)).collect(),
        readonly_paths: linux.readonly_paths.iter().map(|p| relative(p)).collect(),
        cwd: relative(spec.process.as_ref().map_or("/", |p| &p.cwd)),
    })
}

pub(super) fn plan_mount(mount: &Mount, bundle: &Path, linux: &Linux) -> Result<MountPlan, Refused> {
    let refuse = |why: &str| Refused::Invalid(format!("mount at `{}`: {why}", mount.destination));
    if mount.destination.is_empty() {
        return Err(refuse("it needs a destination"));
    }
    let mut options = MountOptions::parse(&mount.options);
    let idmap = plan_idmap(mount, &options, linux)?;
    let kind = mount.kind.as_deref().unwrap_or_default();
    let bind = match (kind, options.bind) {
        (_, Some(recursive)) => Some(recursive),
        ("bind", None) => Some(false),
        ("rbind", None) => Some(true),
        _ => None,
    };
    let destination = relative(&mount.destination);
    if destination.as_os_str().is_empty() && !options.remount {
        // It would lie over the root beside it: `/` the one, `/..` the other, and only one of them protected.
        return Err(refuse("what the root is, `root.path` says"));
    }
    let labelled = !matches!(kind, "" | "proc" | "sysfs" | "mqueue" | "cgroup" | "cgroup2");
    if let (Some(label), true, None) =
        (linux.mount_label.as_deref().filter(|l| !l.is_empty()), labelled, bind)
        && options.data.iter().all(|(key, _)| key != "context")
    {
        options.data.push(("context".to_owned(), Some(label.to_owned())));
    }
    let what = match (bind, kind) {
        (bind, _) if options.remount => What::Change { bind: bind.is_some() },
        (Some(recursive), _) => match mount.source.as_deref() {
            None | Some("") => return Err(refuse("a bind mount needs a source")),
            Some(source) => What::Bind { source: bundle.join(source), recursive },
        },
        (None, "") => return Err(refuse("it needs a type, or the option `bind`")),
        (None, "cgroup" | "cgroup2") => What::Cgroups,
        (None, kind) => What::FileSystem { kind: kind.to_owned(), source: mount.source.clone() },
    };
    if options.copy_up && kind != "tmpfs" {
        return Err(refuse("`tmpcopyup` is for tmpfs"));
    }
    let in_proc = destination.starts_with("proc") && destination != Path::new("proc");
    if in_proc && !mountable_in_proc(&destination) {
        return Err(refuse("nothing may be mounted there, it is inside of proc"));
    }
    if idmap.is_some() && !matches!(what, What::Bind { .. }) {
        return Err(refuse("only bind mounts are id-mapped"));
    }
    Ok(MountPlan { destination, what, options, idmap })
}

/// A mount's own mappings, or with the option `idmap` alone, those of the container.
fn plan_idmap(mount: &Mount, options: &MountOptions, linux: &Linux) -> Result<Option<IdMap>, Refused> {
    let refuse = |why: &str| Refused::Invalid(format!("mount at `{}`: {why}", mount.destination));
    let (uids, gids) = match (mount.uid_mappings.is_empty(), mount.gid_mappings.is_empty()) {
        (true, true) if options.idmap.is_none() => return Ok(None),
        (true, true) => (&linux.uid_mappings, &linux.gid_mappings),
        (false, false) => (&mount.uid_mappings, &mount.gid_mappings),
        _ => return Err(refuse("uidMappings and gidMappings go together")),
    };
    if uids.is_empty() || gids.is_empty() {
        return Err(refuse("`idmap` needs mappings, its own or the container's"));
    }
    let recursive = options.idmap.unwrap_or(false);
    Ok(Some(IdMap { uids: idmap::lines(uids), gids: idmap::lines(gids), recursive }))
}

/// An annotation of ours: the root file system's files are shown with the ids that the container's mappings give them.
/// The specification has no word for that yet.
pub const ROOT_IDMAP: &str = "org.sampan.root.idmap";

fn plan_root_idmap(spec: &Spec, linux: &Linux) -> Result<Option<IdMap>, Refused> {
    let recursive = match spec.annotations.get(ROOT_IDMAP).map(String::as_str) {
        None | Some("" | "false") => return Ok(None),
        Some("idmap" | "true") => false,
        Some("ridmap") => true,
        Some(other) => {
            let why = format!("the annotation {ROOT_IDMAP} is `{other}`, not idmap, ridmap or false");
            return Err(Refused::Invalid(why));
        }
    };
    let (uids, gids) = (&linux.uid_mappings, &linux.gid_mappings);
    if uids.is_empty() || gids.is_empty() {
        let why = format!("the annotation {ROOT_IDMAP} needs linux.uidMappings and linux.gidMappings");
        return Err(Refused::Invalid(why));
    }
    Ok(Some(IdMap { uids: idmap::lines(uids), gids: idmap::lines(gids), recursive }))
}

fn plan_devices(linux: &Linux) -> Result<Vec<DevicePlan>, Refused> {
    let mut devices = Vec::new();
    for device in &linux.devices {
        let refuse = |why: &str| Refused::Invalid(format!("device `{}`: {why}", device.path));
        let kind = match device.kind.as_str() {
            "c" | "u" => FileType::CharacterDevice,
            "b" => FileType::BlockDevice,
            "p" => FileType::Fifo,
            _ => return Err(refuse("its type is none of c, u, b, p")),
        };
        let number = |n: i64| u32::try_from(n).map_err(|_| refuse("its numbers can't be negative"));
        let path = relative(&device.path);
        if path.as_os_str().is_empty() {
            return Err(refuse("it needs a path"));
        }
        devices.push(DevicePlan {
            path,
            kind,
            number: rustix::fs::makedev(number(device.major)?, number(device.minor)?),
            mode: device.file_mode.unwrap_or(0o666) & 0o7777,
            owner: (device.uid.unwrap_or(0), device.gid.unwrap_or(0)),
        });
    }
    for (path, major, minor) in DEFAULT_DEVICES {
        if devices.iter().all(|d| d.path != Path::new(path)) {
            let number = rustix::fs::makedev(major, minor);
            let (kind, mode) = (FileType::CharacterDevice, 0o666);
            devices.push(DevicePlan { path: path.into(), kind, number, mode, owner: (0, 0) });
        }
    }
    Ok(devices)
}

/// A path of the container without a leading slash, `.`, and `..` resolved by name, as every runtime does.
pub(super) fn relative(path: &str) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(config: &str) -> Result<Plan, String> {
        let spec: Spec = serde_json::from_str(config).unwrap();
        plan(&spec, Path::new("/bundle")).map_err(|e| e.to_string())
    }

    #[test]
    fn paths_are_taken_from_the_bundle_and_from_the_root() {
        let plan = check(
            r#"{"root":{"path":"rootfs"},"mounts":[
                {"destination":"/a/../b","type":"bind","source":"x"},
                {"destination":"/c","source":"/y","options":["rbind"]}]}"#,
        )
        .unwrap();
        assert_eq!(plan.path, Path::new("/bundle/rootfs"));
        assert_eq!(plan.mounts[0].destination, Path::new("b"));
        assert!(
            matches!(&plan.mounts[0].what, What::Bind { source, recursive: false } if source == Path::new("/bundle/x"))
        );
        assert!(
            matches!(&plan.mounts[1].what, What::Bind { source, recursive: true } if source == Path::new("/y"))
        );
        assert_eq!(plan.devices.len(), 6);
        assert!(plan.fill_dev);
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for (config, why) in [
            (r#"{}"#, "no `root`"),
            (
                r#"{"root":{"path":"r"},"mounts":[{"destination":"/x","type":"bind"}]}"#,
                "`/x`: a bind mount needs",
            ),
            (r#"{"root":{"path":"r"},"mounts":[{"destination":"/x"}]}"#, "needs a type"),
            (r#"{"root":{"path":"r"},"mounts":[{"type":"tmpfs"}]}"#, "needs a destination"),
            (
                r#"{"root":{"path":"r"},"mounts":[{"destination":"/x/../","type":"tmpfs"}]}"#,
                "what the root is",
            ),
            (
                r#"{"root":{"path":"r"},"mounts":[{"destination":"/proc/sys/x","type":"tmpfs"}]}"#,
                "inside of proc",
            ),
            (
                r#"{"root":{"path":"r"},"mounts":[{"destination":"//proc/./self","type":"tmpfs"}]}"#,
                "inside of proc",
            ),
            (
                r#"{"root":{"path":"r"},"linux":{"devices":[{"path":"/dev/x","type":"z"}]}}"#,
                "none of c, u, b, p",
            ),
            (r#"{"root":{"path":"r"},"linux":{"rootfsPropagation":"wide"}}"#, "`wide`"),
        ] {
            let error = check(config).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        assert!(check(r#"{"root":{"path":"r"},"mounts":[{"destination":"/proc/meminfo","source":"/m","type":"bind"}]}"#).is_ok());
    }
}
