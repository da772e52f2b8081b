//! Which namespaces a container's process is born in, makes itself, or joins.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;

use sampan_kernel::process::{self as kernel, Namespaces};
use sampan_oci::runtime::{Linux, NamespaceKind};

use crate::error::{Refused, Step};
use crate::rootfs::idmap::lines;

/// The namespaces of a container.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// New ones.
    pub new: Namespaces,
    /// Those to join, in an order that works: the PID namespace first, the user namespace last.
    pub join: Vec<(NamespaceKind, PathBuf)>,
    /// Lines of `/proc/PID/uid_map`; of a user namespace that is joined, what the configuration says of it.
    pub uid_map: String,
    /// Lines of `/proc/PID/gid_map`.
    pub gid_map: String,
    /// Lines of `/proc/self/timens_offsets`.
    pub time_offsets: String,
}

/// The kernel's bit of a kind.
pub fn flag(kind: NamespaceKind) -> Namespaces {
    match kind {
        NamespaceKind::Pid => Namespaces::PID,
        NamespaceKind::Network => Namespaces::NET,
        NamespaceKind::Mount => Namespaces::MOUNT,
        NamespaceKind::Ipc => Namespaces::IPC,
        NamespaceKind::Uts => Namespaces::UTS,
        NamespaceKind::User => Namespaces::USER,
        NamespaceKind::Cgroup => Namespaces::CGROUP,
        NamespaceKind::Time => Namespaces::TIME,
    }
}

/// Plans a container's namespaces.
///
/// # Errors
/// If config.json asks for what makes no sense or is not supported.
pub fn plan(linux: &Linux) -> Result<Plan, Refused> {
    let mut plan = Plan::default();
    for namespace in &linux.namespaces {
        let kind = namespace.kind;
        if plan.has(kind) {
            return Err(Refused::Invalid(format!("linux.namespaces has `{}` twice", kind.name())));
        }
        match &namespace.path {
            Some(path) if path.is_absolute() => plan.join.push((kind, path.clone())),
            Some(path) if !path.as_os_str().is_empty() => {
                let why =
                    format!("the path `{}` of the {} namespace is not absolute", path.display(), kind.name());
                return Err(Refused::Invalid(why));
            }
            _ => plan.new |= flag(kind),
        }
    }
    plan.join.sort_by_key(|(kind, _)| match kind {
        NamespaceKind::Pid => 0,
        NamespaceKind::User => 2,
        _ => 1,
    });
    if !plan.has(NamespaceKind::Mount) {
        return Err(Refused::Unsupported("a container without a mount namespace".to_owned()));
    }
    let mapped = !linux.uid_mappings.is_empty() || !linux.gid_mappings.is_empty();
    if plan.new.contains(Namespaces::USER) {
        if linux.uid_mappings.is_empty() || linux.gid_mappings.is_empty() {
            return Err(Refused::Invalid(
                "a new user namespace needs uidMappings and gidMappings".to_owned(),
            ));
        }
    } else if mapped && !plan.has(NamespaceKind::User) {
        return Err(Refused::Invalid("uidMappings and gidMappings need a user namespace".to_owned()));
    }
    plan.uid_map = lines(&linux.uid_mappings);
    plan.gid_map = lines(&linux.gid_mappings);
    if !linux.time_offsets.is_empty() && !plan.new.contains(Namespaces::TIME) {
        return Err(Refused::Invalid("timeOffsets need a new time namespace".to_owned()));
    }
    for (clock, offset) in &linux.time_offsets {
        if !matches!(clock.as_str(), "monotonic" | "boottime") {
            return Err(Refused::Invalid(format!(
                "timeOffsets: `{clock}` is neither monotonic nor boottime"
            )));
        }
        plan.time_offsets.push_str(&format!("{clock} {} {}\n", offset.secs, offset.nanosecs));
    }
    Ok(plan)
}

impl Plan {
    /// Whether the container has a namespace of this kind that is not the runtime's.
    pub fn has(&self, kind: NamespaceKind) -> bool {
        self.new.contains(flag(kind)) || self.join.iter().any(|(k, _)| *k == kind)
    }

    /// Whether one of this kind is joined.
    pub fn joins(&self, kind: NamespaceKind) -> bool {
        self.join.iter().any(|(k, _)| *k == kind)
    }

    /// Whether the process needs a helper between it and the runtime: what is joined must be joined with the host's
    /// privileges before a user namespace takes them away, and a PID namespace is only for a child born after that.
    pub fn needs_intermediate(&self) -> bool {
        let others =
            self.join.iter().any(|(kind, _)| !matches!(kind, NamespaceKind::Pid | NamespaceKind::User));
        self.joins(NamespaceKind::User) || (self.new.contains(Namespaces::USER) && others)
    }

    /// Those the process is born in: the ones that it can't make for itself. With a new user namespace the others
    /// have to wait until the ids are mapped, so that what the kernel puts into them at once (message queues) belongs
    /// to a user who exists there. Without one, the process makes them while the runtime makes its cgroups.
    pub fn at_birth(&self) -> Namespaces {
        self.new & (Namespaces::USER | Namespaces::PID)
    }

    /// Those the process makes itself.
    pub fn later(&self) -> Namespaces {
        // The cgroup namespace shows the cgroup that its maker is in, so it is made after joining that.
        self.new - self.at_birth() - Namespaces::CGROUP
    }
}

/// Namespaces to join, opened.
#[derive(Debug, Default)]
pub struct Opened(Vec<(NamespaceKind, PathBuf, File)>);

impl Opened {
    /// Opens the paths of a plan.
    ///
    /// # Errors
    /// If one is not there.
    pub fn open(plan: &Plan) -> Result<Opened, Step> {
        let open = |(kind, path): &(NamespaceKind, PathBuf)| {
            let doing = || format!("open the {} namespace `{}`", kind.name(), path.display());
            Ok((*kind, path.clone(), File::open(path).map_err(Step::on(doing))?))
        };
        Ok(Opened(plan.join.iter().map(open).collect::<Result<_, Step>>()?))
    }

    /// Joins the PID namespace, if there is one to join: for the children that this process makes next.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn join_for_children(&self) -> Result<bool, Step> {
        let pid = self.0.iter().find(|(kind, ..)| *kind == NamespaceKind::Pid);
        pid.map(join).transpose().map(|joined| joined.is_some())
    }

    /// Joins the others.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn join(self) -> Result<(), Step> {
        let others = self.0.iter().filter(|(kind, ..)| *kind != NamespaceKind::Pid);
        for namespace in others {
            join(namespace)?;
            if namespace.0 == NamespaceKind::User {
                become_root()?;
            }
        }
        Ok(())
    }
}

fn join((kind, path, file): &(NamespaceKind, PathBuf, File)) -> Result<(), Step> {
    let doing = || format!("join the {} namespace `{}`", kind.name(), path.display());
    kernel::join(file.as_fd(), flag(*kind)).map_err(Step::on(doing))
}

/// Becomes user and group 0 of a user namespace just entered, so that what is made belongs to a user who exists
/// there. One that maps no 0 leaves us who we are.
///
/// # Errors
/// If the kernel refuses for another reason.
pub fn become_root() -> Result<(), Step> {
    use rustix::process::{Gid, Uid};
    let (uid, gid) = (Uid::ROOT, Gid::ROOT);
    let become_both = || {
        rustix::thread::set_thread_res_gid(gid, gid, gid)?;
        rustix::thread::set_thread_res_uid(uid, uid, uid)
    };
    match become_both() {
        Ok(()) | Err(rustix::io::Errno::INVAL) => Ok(()),
        Err(e) => Err(Step::on(|| "become root in the user namespace")(e)),
    }
}

/// Makes the cgroup namespace, if there is to be one. The process is in its cgroups.
///
/// # Errors
/// If the kernel refuses.
pub fn make_cgroup(plan: &Plan) -> Result<(), Step> {
    if !plan.new.contains(Namespaces::CGROUP) {
        return Ok(());
    }
    kernel::unshare(Namespaces::CGROUP).map_err(Step::on(|| "make a cgroup namespace"))
}

/// Makes the namespaces that are made by the process itself.
///
/// # Errors
/// If the kernel refuses.
pub fn make(plan: &Plan) -> Result<(), Step> {
    let later = plan.later();
    if later.is_empty() {
        return Ok(());
    }
    kernel::unshare(later).map_err(Step::on(|| format!("make namespaces ({later:?})")))?;
    if later.contains(Namespaces::TIME) {
        let enter = || -> io::Result<()> {
            if !plan.time_offsets.is_empty() {
                fs::write("/proc/self/timens_offsets", &plan.time_offsets)?;
            }
            let made = File::open("/proc/self/ns/time_for_children")?;
            kernel::join(made.as_fd(), Namespaces::TIME)
        };
        enter().map_err(Step::on(|| "enter the time namespace"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(linux: &str) -> Result<Plan, String> {
        plan(&serde_json::from_str(linux).unwrap()).map_err(|e| e.to_string())
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for (linux, why) in [
            (r#"{"namespaces":[{"type":"mount"},{"type":"mount"}]}"#, "`mount` twice"),
            (r#"{"namespaces":[{"type":"pid"}]}"#, "without a mount namespace"),
            (r#"{"namespaces":[{"type":"mount"},{"type":"user"}]}"#, "needs uidMappings"),
            (r#"{"namespaces":[{"type":"mount"},{"type":"network","path":"x"}]}"#, "not absolute"),
            (
                r#"{"namespaces":[{"type":"mount"}],"uidMappings":[{"containerID":0,"hostID":0,"size":1}]}"#,
                "need a user namespace",
            ),
            (
                r#"{"namespaces":[{"type":"mount"}],"timeOffsets":{"boottime":{"secs":1}}}"#,
                "new time namespace",
            ),
        ] {
            let error = check(linux).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn a_user_namespace_comes_before_what_it_owns() {
        let plan = check(
            r#"{"namespaces":[{"type":"pid"},{"type":"mount"},{"type":"ipc"},{"type":"user"},{"type":"cgroup"}],
                "uidMappings":[{"containerID":0,"hostID":1000,"size":5}],
                "gidMappings":[{"containerID":0,"hostID":1000,"size":5}]}"#,
        )
        .unwrap();
        assert_eq!(plan.at_birth(), Namespaces::USER | Namespaces::PID);
        assert_eq!(plan.later(), Namespaces::MOUNT | Namespaces::IPC);
        assert_eq!(plan.uid_map, "0 1000 5\n");
        assert!(!plan.needs_intermediate());
    }

    #[test]
    fn joining_with_a_user_namespace_takes_a_helper() {
        let plan = check(
            r#"{"namespaces":[{"type":"user","path":"/u"},{"type":"network","path":"/n"},{"type":"pid","path":"/p"},
                {"type":"mount"}]}"#,
        )
        .unwrap();
        assert!(plan.needs_intermediate());
        let order: Vec<_> = plan.join.iter().map(|(kind, _)| kind.name()).collect();
        assert_eq!(order, ["pid", "network", "user"]);
    }
}
