//! A container's control groups: one in each hierarchy of the host, all of the same path.
//!
//! Life of a group: [`create`] makes the directories, [`apply`] writes the limits, the container's process is born in
//! it or moves itself into it ([`Joiner`]), [`remove`] takes the directories away when no process is left.
//!
//! A process moves *itself* into v1 groups, by writing `0` to `tasks`: only that way the kernel needs no grace period
//! of several milliseconds. Into the v2 group it is born (`CLONE_INTO_CGROUP`), for the same reason.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal};
use sampan_base::files;
use sampan_kernel::cgroup::{Hierarchy, Layout, Version};
use sampan_oci::runtime::{DeviceRule, Resources};
use serde::{Deserialize, Serialize};

use crate::ending;
use crate::error::{Refused, Step};

mod devices;
pub mod freezer;
pub mod owner;
pub mod stats;
pub mod systemd;
mod tree;
mod v1;
mod v2;

pub use freezer::is_frozen;

/// A control group of a container.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Group {
    /// Its directory.
    pub path: PathBuf,
    /// The v1 hierarchy's controllers; empty for v2.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub controllers: Vec<String>,
    /// Whether v2 is all that the host has, so that it limits, not only holds.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub limits: bool,
}

impl Group {
    /// The interface of its hierarchy.
    pub fn version(&self) -> Version {
        if self.controllers.is_empty() { Version::V2 } else { Version::V1 }
    }

    /// Whether it can freeze what is in it.
    pub fn freezes(&self) -> bool {
        self.has("freezer") || self.limits
    }

    fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|c| c == controller)
    }
}

/// config.json's `cgroupsPath`, checked: the groups' path below each hierarchy's root, or below our own group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupPath {
    below_own: bool,
    path: PathBuf,
}

impl GroupPath {
    /// Checks a path; without one, the container's id is its own.
    ///
    /// # Errors
    /// If it leads upwards or to the root itself.
    pub fn new(path: Option<&str>, id: &str) -> Result<GroupPath, Refused> {
        let text = path.filter(|p| !p.is_empty());
        let given = Path::new(text.unwrap_or(id));
        let mut clean = PathBuf::new();
        for part in given.components() {
            match part {
                Component::Normal(name) => clean.push(name),
                Component::RootDir | Component::CurDir => {}
                Component::ParentDir | Component::Prefix(_) => {
                    return Err(Refused::Invalid(format!(
                        "cgroupsPath `{}` has `..` in it",
                        given.display()
                    )));
                }
            }
        }
        if clean.as_os_str().is_empty() {
            return Err(Refused::Invalid(format!("cgroupsPath `{}` names no group", given.display())));
        }
        Ok(GroupPath { below_own: text.is_some() && !given.is_absolute(), path: clean })
    }

    /// The path of a group that is there already, from the root of every hierarchy.
    fn given(path: &Path) -> GroupPath {
        GroupPath { below_own: false, path: path.strip_prefix("/").unwrap_or(path).to_owned() }
    }

    fn below(&self, hierarchy: &Hierarchy) -> PathBuf {
        let own = hierarchy.own.strip_prefix("/").unwrap_or(&hierarchy.own);
        let base = if self.below_own { hierarchy.mount.join(own) } else { hierarchy.mount.clone() };
        base.join(&self.path)
    }
}

/// Which groups a container gets on this host.
pub fn plan(layout: &Layout, path: &GroupPath) -> Vec<Group> {
    let group = |hierarchy: &Hierarchy| Group {
        path: path.below(hierarchy),
        controllers: hierarchy.controllers.clone(),
        limits: layout.is_unified(),
    };
    layout.hierarchies.iter().map(group).collect()
}

/// How many processes other than `newcomer` are in groups that existed already.
///
/// # Errors
/// If they are frozen: what is put into them would be, too.
pub fn others(groups: &[Group], newcomer: Pid) -> Result<usize, Refused> {
    if is_frozen(groups) {
        let path = groups.first().map_or(Path::new("/"), |group| &group.path).display();
        return Err(Refused::Invalid(format!("container's cgroup unexpectedly frozen: `{path}`")));
    }
    let newcomer = newcomer.as_raw_nonzero().get();
    let count = |group: &Group| {
        let pids = tree::processes(&group.path).unwrap_or_default();
        pids.into_iter().filter(|pid| *pid != newcomer).count()
    };
    Ok(groups.iter().map(count).max().unwrap_or(0))
}

/// Makes the directories of groups. What exists already is taken over, and added to `existed`.
///
/// # Errors
/// If one can't be made.
pub fn create<'a>(
    groups: impl IntoIterator<Item = &'a Group>,
    layout: &Layout,
    existed: &mut Vec<PathBuf>,
) -> Result<(), Step> {
    for group in groups {
        let of = |h: &&Hierarchy| h.controllers == group.controllers;
        let mount = layout.hierarchies.iter().find(of).map_or(Path::new("/"), |h| &h.mount);
        let was_there = match group.version() {
            Version::V1 => v1::create(&group.path, mount, group.has("cpuset")),
            Version::V2 => v2::create(&group.path, mount, group.limits),
        }?;
        if was_there {
            existed.push(group.path.clone());
        }
    }
    Ok(())
}

/// Waits until no process is left in groups, for as long as one takes to end that is about to.
///
/// # Errors
/// If the processes can't be listed.
pub fn await_empty(groups: &[Group]) -> Result<(), Step> {
    const PATIENCE: Duration = Duration::from_secs(2);
    let began = Instant::now();
    for pid in processes(groups)? {
        let Some(pid) = Pid::from_raw(pid) else { continue };
        // One that is gone meanwhile is what is waited for.
        let Ok(handle) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else { continue };
        let left = PATIENCE.saturating_sub(began.elapsed());
        ending::wait_for(handle.as_fd(), left)
            .map_err(Step::on(|| "wait for the end of the container's processes"))?;
    }
    Ok(())
}

/// Writes limits to groups. Returns warnings: what could not be had and is done without.
///
/// # Errors
/// If a limit can't be set.
pub fn apply(groups: &[Group], resources: &Resources) -> Result<Vec<String>, Step> {
    let mut warnings = Vec::new();
    for group in groups {
        match group.version() {
            Version::V1 => v1::apply(group, resources, &mut warnings)?,
            Version::V2 if group.limits => v2::apply(&group.path, resources, &mut warnings)?,
            Version::V2 => {}
        }
    }
    if !resources.unified.is_empty() && !groups.iter().any(|g| g.limits) {
        return Err(Step::refused(
            "apply linux.resources.unified",
            "this host has no unified cgroup hierarchy",
        ));
    }
    Ok(warnings)
}

/// Lets groups use the devices of `rules`, and the ones that every container may use.
///
/// # Errors
/// If the kernel refuses.
pub fn apply_devices(groups: &[Group], rules: &[DeviceRule]) -> Result<(), Step> {
    let rules = devices::with_defaults(rules)?;
    for group in groups {
        match group.version() {
            Version::V1 if group.has("devices") => devices::apply_v1(&group.path, &rules)?,
            Version::V2 if group.limits => match devices::apply_v2(&group.path, &rules) {
                // In a user namespace nobody can make devices, and those that are there have owners: the rules would
                // only take away what is mounted there on purpose.
                Err(step) if step.source.kind() == io::ErrorKind::PermissionDenied && !is_host_root() => {}
                other => other?,
            },
            _ => {}
        }
    }
    Ok(())
}

/// The v2 group among `groups`, for a child to be born in; `None` if there is none or this user may not put anybody
/// into it.
///
/// # Errors
/// If it is gone.
pub fn birthplace(groups: &[Group]) -> Result<Option<File>, Step> {
    match groups.iter().find(|group| group.version() == Version::V2) {
        Some(group) => open_birthplace(group.path.clone()),
        None => Ok(None),
    }
}

/// As [`birthplace`], for a process that joins the container of `init`. A container that has handed controllers on to
/// groups of its own has no processes in its group itself: then it is the group that `init` is in.
///
/// # Errors
/// If it is gone.
pub fn birthplace_beside(groups: &[Group], init: i32) -> Result<Option<File>, Step> {
    let Some(group) = groups.iter().find(|group| group.version() == Version::V2) else { return Ok(None) };
    let shared =
        group.limits && read(&group.path, "cgroup.subtree_control").is_ok_and(|c| !c.trim().is_empty());
    if !shared {
        return open_birthplace(group.path.clone());
    }
    let find = || -> io::Result<Option<PathBuf>> {
        let text = fs::read_to_string(format!("/proc/{init}/cgroup"))?;
        let own = text.lines().find_map(|line| line.strip_prefix("0::/"));
        let layout = Layout::detect()?;
        Ok(layout.unified().zip(own).map(|(unified, own)| unified.mount.join(own)))
    };
    let found = find().map_err(Step::on(|| "find the cgroup of the container's process"))?;
    open_birthplace(found.unwrap_or_else(|| group.path.clone()))
}

fn open_birthplace(path: PathBuf) -> Result<Option<File>, Step> {
    if !may_enter(&path) {
        return Ok(None);
    }
    let open = File::open(&path);
    open.map(Some).map_err(Step::on(|| format!("open `{}`", path.display())))
}

/// Whether a process of ours may be put into a v2 group: for others than the host's root, the kernel asks whether they
/// may change the group, and the nearest one that it has in common with their own.
fn may_enter(path: &Path) -> bool {
    if is_host_root() {
        return true;
    }
    let may_write =
        |group: &Path| rustix::fs::access(group.join("cgroup.procs"), rustix::fs::Access::WRITE_OK).is_ok();
    let Ok(layout) = Layout::detect() else { return false };
    let Some(unified) = layout.unified() else { return false };
    let own = unified.mount.join(unified.own.strip_prefix("/").unwrap_or(&unified.own));
    let common = path.ancestors().find(|ancestor| own.starts_with(ancestor));
    may_write(path) && common.is_some_and(may_write)
}

/// Whether this process has the privileges of root on the host, not only in a user namespace.
pub(crate) fn is_host_root() -> bool {
    rustix::process::geteuid().is_root() && !in_user_namespace()
}

/// Whether this is not the host's own user namespace: root in it is somebody else outside.
fn in_user_namespace() -> bool {
    let map = files::read_page(Path::new("/proc/self/uid_map")).unwrap_or_default();
    let map = String::from_utf8_lossy(&map);
    map.split_whitespace().ne(["0", "0", "4294967295"])
}

/// What a process needs to get into groups of v1, opened ahead: v1 checks who opened the file, not who writes.
#[derive(Debug, Default)]
pub struct Joiner {
    tasks: Vec<(File, PathBuf)>,
}

impl Joiner {
    /// Opens what is needed for `groups`.
    ///
    /// # Errors
    /// If a group is gone or is not ours.
    pub fn open(groups: &[Group]) -> Result<Joiner, Step> {
        let mut joiner = Joiner::default();
        for group in groups {
            match group.version() {
                Version::V1 => {
                    let path = group.path.join("tasks");
                    let file = OpenOptions::new().write(true).open(&path);
                    let file = file.map_err(Step::on(|| format!("open `{}`", path.display())))?;
                    joiner.tasks.push((file, path));
                }
                Version::V2 => {}
            }
        }
        Ok(joiner)
    }

    /// From the open `tasks` files of the v1 groups among `groups`, in their order.
    pub fn from_tasks(groups: &[Group], tasks: impl IntoIterator<Item = OwnedFd>) -> Joiner {
        let legacy = groups.iter().filter(|group| group.version() == Version::V1);
        let named = legacy.zip(tasks).map(|(group, file)| (File::from(file), group.path.join("tasks")));
        Joiner { tasks: named.collect() }
    }

    /// The `tasks` files, for whoever closes them.
    pub fn into_tasks(self) -> impl Iterator<Item = OwnedFd> {
        self.tasks.into_iter().map(|(file, _)| file.into())
    }

    /// The open `tasks` files of v1 groups.
    pub fn tasks(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.tasks.iter().map(|(file, _)| file.as_fd())
    }

    /// Moves this process (of one thread) into the v1 groups.
    ///
    /// # Errors
    /// If the kernel refuses, as a cpuset without CPUs does.
    pub fn join(self) -> Result<(), Step> {
        for (mut file, path) in self.tasks {
            file.write_all(b"0").map_err(Step::on(|| format!("join the cgroup by `{}`", path.display())))?;
        }
        Ok(())
    }
}

/// All processes in groups and in groups below them, each once.
///
/// # Errors
/// If the lists can't be read.
pub fn processes(groups: &[Group]) -> Result<Vec<i32>, Step> {
    // All hierarchies hold the same processes; the first that is there tells.
    for group in groups.iter().rev() {
        match tree::processes(&group.path) {
            Ok(mut pids) => {
                pids.sort_unstable();
                pids.dedup();
                return Ok(pids);
            }
            Err(e) if is_gone(&e) => {}
            Err(e) => {
                return Err(Step::on(|| format!("list the processes of `{}`", group.path.display()))(e));
            }
        }
    }
    Ok(Vec::new())
}

/// Whether an error says that a group was removed, before or while it was looked at.
fn is_gone(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::NODEV))
}

/// Sends a signal to every process in groups.
///
/// # Errors
/// If the processes can't be listed or one can't be signalled.
pub fn signal_all(groups: &[Group], signal: Signal) -> Result<(), Step> {
    for (pid, handle) in members(groups)? {
        match rustix::process::pidfd_send_signal(&handle, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(e) => return Err(Step::on(|| format!("send a signal to process {pid}"))(e)),
        }
    }
    Ok(())
}

/// Handles on the processes in groups. A number that was listed may be another process's when it is opened, perhaps one
/// of the host's; one that is listed again afterwards is that of the process that was opened.
fn members(groups: &[Group]) -> Result<Vec<(i32, OwnedFd)>, Step> {
    let open = |pid: i32| rustix::process::pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok();
    let mut opened: Vec<_> =
        processes(groups)?.into_iter().filter_map(|pid| Some((pid, open(pid)?))).collect();
    if !opened.is_empty() {
        let still = processes(groups)?;
        opened.retain(|(pid, _)| still.binary_search(pid).is_ok());
    }
    Ok(opened)
}

/// Ends every process in groups, and returns when all have ended.
///
/// # Errors
/// If the processes can't be listed or signalled.
pub fn kill_all(groups: &[Group]) -> Result<(), Step> {
    // Frozen processes of v1 would die only when thawed.
    freezer::thaw_if_frozen(groups)?;
    for group in groups.iter().filter(|g| g.version() == Version::V2) {
        // Where the kernel has it (5.14), it leaves no process that forks a chance.
        match fs::write(group.path.join("cgroup.kill"), "1") {
            Ok(()) => {}
            Err(e) if is_gone(&e) || e.kind() == io::ErrorKind::Unsupported => {}
            Err(e) => return Err(Step::on(|| format!("kill the cgroup `{}`", group.path.display()))(e)),
        }
    }
    let began = Instant::now();
    loop {
        let handles = members(groups)?;
        if handles.is_empty() && processes(groups)?.is_empty() {
            return Ok(());
        }
        for (_, handle) in &handles {
            // One that has ended meanwhile needs no signal.
            let _ = rustix::process::pidfd_send_signal(handle, Signal::KILL);
        }
        // Also where they fork faster than they are ended.
        if began.elapsed() > ending::KILL_DEADLINE {
            let why = format!("they are still coming after {} s", ending::KILL_DEADLINE.as_secs());
            return Err(Step::refused("end the container's processes", why));
        }
        for (_, handle) in &handles {
            let left = ending::KILL_DEADLINE.saturating_sub(began.elapsed());
            let ended = ending::wait_for(handle.as_fd(), left);
            if !ended.map_err(Step::on(|| "wait for the end of the container's processes"))? {
                let why =
                    format!("{} still there after {} s", handles.len(), ending::KILL_DEADLINE.as_secs());
                return Err(Step::refused("end the container's processes", why));
            }
        }
    }
}

/// Removes the directories of groups, and of groups that were made below them. What is gone already is no error.
///
/// # Errors
/// If one can't be removed: processes are left in it, as a rule.
pub fn remove(groups: &[Group]) -> Result<(), Step> {
    let mut failed = None;
    for group in groups {
        if let Err(e) = tree::remove(&group.path) {
            let step = Step::on(|| format!("remove the cgroup `{}`", group.path.display()))(e);
            failed.get_or_insert(step);
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Writes to a file of a group. The file must be there: the kernel makes it.
fn write(directory: &Path, file: &str, value: &str) -> Result<(), Step> {
    let path = directory.join(file);
    let open = || OpenOptions::new().write(true).open(&path)?.write_all(value.as_bytes());
    open().map_err(Step::on(|| format!("write `{value}` to `{}`", path.display())))
}

/// Writes several values to a file of a group, which takes one at a time.
fn write_each<'a>(
    directory: &Path,
    file: &str,
    values: impl IntoIterator<Item = &'a str>,
) -> Result<(), Step> {
    let path = directory.join(file);
    let opened = OpenOptions::new().write(true).open(&path);
    let mut opened = opened.map_err(Step::on(|| format!("open `{}`", path.display())))?;
    for value in values {
        opened
            .write_all(value.as_bytes())
            .map_err(Step::on(|| format!("write `{value}` to `{}`", path.display())))?;
    }
    Ok(())
}

/// Reads a file of a group.
fn read(directory: &Path, file: &str) -> Result<String, Step> {
    let path = directory.join(file);
    let text = files::read_page(&path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    text.map_err(Step::on(|| format!("read `{}`", path.display())))
}

/// As [`write`], but a file that this kernel does not have is told and done without.
fn write_if_there(directory: &Path, file: &str, value: &str, warnings: &mut Vec<String>) -> Result<(), Step> {
    match write(directory, file, value) {
        Err(step) if step.source.kind() == io::ErrorKind::NotFound => {
            warnings.push(format!("this kernel has no `{file}`: `{value}` is not applied"));
            Ok(())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_path_leads_nowhere_but_down() {
        let layout = Layout {
            hierarchies: vec![Hierarchy {
                version: Version::V1,
                controllers: vec!["pids".into()],
                mount: "/c/pids".into(),
                own: "/me".into(),
            }],
        };
        let path = |text: Option<&str>| {
            GroupPath::new(text, "id").map(|p| plan(&layout, &p)[0].path.display().to_string())
        };
        assert_eq!(path(None).unwrap(), "/c/pids/id");
        assert_eq!(path(Some("")).unwrap(), "/c/pids/id");
        assert_eq!(path(Some("/a//b/.")).unwrap(), "/c/pids/a/b");
        assert_eq!(path(Some("a/b")).unwrap(), "/c/pids/me/a/b");
        assert!(path(Some("/a/../../b")).is_err());
        assert!(path(Some("/")).is_err());
    }
}
