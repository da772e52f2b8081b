//! Freezing all processes of a container, for `pause`.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use sampan_kernel::cgroup::Version;

use super::{Group, write};
use crate::error::Step;

/// How long the kernel may take to freeze everything: a process in an uninterruptible wait holds it up.
const DEADLINE: Duration = Duration::from_secs(10);

/// The group that freezes: that of v1's freezer, or the v2 one.
fn freezing(groups: &[Group]) -> Option<&Group> {
    let v2 = || groups.iter().find(|g| g.version() == Version::V2);
    groups.iter().find(|g| g.has("freezer")).or_else(v2)
}

/// Whether the processes are frozen, or about to be.
pub fn is_frozen(groups: &[Group]) -> bool {
    // A group that is gone meanwhile is not frozen.
    let says = |group: &Group, file| super::read(&group.path, file).unwrap_or_default();
    match freezing(groups) {
        Some(group) if group.version() == Version::V1 => {
            matches!(says(group, "freezer.state").trim(), "FROZEN" | "FREEZING")
        }
        Some(group) => says(group, "cgroup.freeze").trim() == "1",
        None => false,
    }
}

/// Freezes all processes, and returns when all stand still.
///
/// # Errors
/// If there is no freezer, or they don't come to a stop; they are thawed again then.
pub fn freeze(groups: &[Group]) -> Result<(), Step> {
    let Some(group) = freezing(groups) else {
        return Err(Step::refused("freeze the container", "this host has no freezer cgroup"));
    };
    let frozen = match group.version() {
        Version::V1 => freeze_v1(&group.path),
        Version::V2 => freeze_v2(&group.path),
    };
    if frozen.is_err() {
        // The first error is the one to report.
        let _ = thaw(groups);
    }
    frozen
}

/// Lets all processes run again.
///
/// # Errors
/// If there is no freezer or the kernel refuses.
pub fn thaw(groups: &[Group]) -> Result<(), Step> {
    match freezing(groups) {
        Some(group) if group.version() == Version::V1 => write(&group.path, "freezer.state", "THAWED"),
        Some(group) => write(&group.path, "cgroup.freeze", "0"),
        None => Err(Step::refused("thaw the container", "this host has no freezer cgroup")),
    }
}

/// As [`thaw`], if there is something to thaw.
pub(super) fn thaw_if_frozen(groups: &[Group]) -> Result<(), Step> {
    let there = freezing(groups).is_some_and(|g| g.path.exists());
    if there && is_frozen(groups) { thaw(groups) } else { Ok(()) }
}

fn freeze_v1(path: &Path) -> Result<(), Step> {
    let began = Instant::now();
    loop {
        // Written anew each time: a process that was forked meanwhile has to be told, too.
        write(path, "freezer.state", "FROZEN")?;
        let state = fs::read_to_string(path.join("freezer.state"));
        let state = state.map_err(Step::on(|| format!("read `{}/freezer.state`", path.display())))?;
        if state.trim() == "FROZEN" {
            return Ok(());
        }
        if began.elapsed() > DEADLINE {
            return Err(too_long());
        }
        // The kernel has no event for this: v1 computes the state when it is read.
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn freeze_v2(path: &Path) -> Result<(), Step> {
    let events = path.join("cgroup.events");
    let failed = || Step::on::<io::Error, _>(|| format!("watch `{}`", events.display()));
    let mut file = File::open(&events).map_err(failed())?;
    write(path, "cgroup.freeze", "1")?;
    let began = Instant::now();
    loop {
        let mut text = String::new();
        io::Seek::rewind(&mut file).map_err(failed())?;
        io::Read::read_to_string(&mut file, &mut text).map_err(failed())?;
        if text.lines().any(|line| line == "frozen 1") {
            return Ok(());
        }
        let Some(left) = DEADLINE.checked_sub(began.elapsed()) else { return Err(too_long()) };
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        let mut poll = [PollFd::new(&file, PollFlags::PRI)];
        match rustix::event::poll(&mut poll, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(failed()(e.into())),
        }
    }
}

fn too_long() -> Step {
    Step::refused("freeze the container", format!("its processes still ran after {} s", DEADLINE.as_secs()))
}
