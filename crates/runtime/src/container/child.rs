//! The birth of a container's process, seen from the runtime.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::process::{DumpableBehavior, Pid, PidfdFlags, Rlimit};
use sampan_kernel::process::{self as kernel, Child, Clone, Namespaces};
use sampan_oci::runtime::NamespaceKind;

use super::create::CreateError;
use crate::channel::{Channel, Message, Report};
use crate::ending::wait_status;
use crate::error::Step;
use crate::init::{self, Hands, namespaces};
use crate::log::Log;

/// Makes the container's process, by way of a helper if namespaces ask for it.
pub(super) fn give_birth(
    plan: &init::Plan,
    hands: Hands,
    cgroup: Option<BorrowedFd<'_>>,
    without: &[BorrowedFd<'_>],
) -> Result<Child, CreateError> {
    hide_children()?;
    let at_birth = plan.namespaces.at_birth();
    // A helper joins the PID namespace itself: born in it, it would tell a number from in there.
    let helped = plan.namespaces.needs_intermediate();
    let own_pids = if !helped && hands.tools.join.join_for_children()? {
        let file = File::open("/proc/self/ns/pid");
        Some(file.map_err(Step::on(|| "open the runtime's own PID namespace"))?)
    } else {
        None
    };
    let failed = || Step::on::<io::Error, _>(|| "make the container's process");
    let child = if helped {
        let how = Clone { cgroup, without, ..Clone::default() };
        // Not by the channel of the process itself, which may be the first to say something.
        let (heard, told) = Channel::pair().map_err(failed())?;
        let helper = kernel::clone(&how, || intermediate(plan, hands, at_birth, told)).map_err(failed())?;
        let moved = heard.receive().map_err(failed())?;
        let ending = wait_status(&helper.pidfd).map_err(failed())?;
        match moved {
            Some((Message::Moved(pid), _)) => adopt(pid).map_err(failed())?,
            Some((Message::Failed(report), _)) => return Err(CreateError::Init(report)),
            _ => return Err(CreateError::Died { how: format!("{ending:?}") }),
        }
    } else {
        let how = Clone { namespaces: at_birth, cgroup, without, sibling: false };
        kernel::clone(&how, || init::run(plan, hands)).map_err(failed())?
    };
    if let Some(own) = own_pids {
        // Hooks are not the container's.
        kernel::join(own.as_fd(), Namespaces::PID)
            .map_err(Step::on(|| "return to the runtime's PID namespace"))?;
    }
    Ok(child)
}

/// Makes children that are hidden from ptrace from their first instruction on: those that are born in a container's PID
/// namespace are seen there before they can do it themselves. Not for an ordinary user, who could not map the ids of a
/// hidden child; his hide themselves when that is done.
pub(super) fn hide_children() -> Result<(), Step> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(Step::on(|| "hide the container's process from ptrace"))
}

/// The helper: joins what is to be joined, and makes the container's process as the runtime's child.
fn intermediate(plan: &init::Plan, mut hands: Hands, at_birth: Namespaces, told: Channel) -> i32 {
    let join = std::mem::take(&mut hands.tools.join);
    if plan.namespaces.joins(NamespaceKind::User) {
        // Whoever is root in that namespace may soon look at this process. (With a new one, the runtime may have to
        // map ids, which for an ordinary user takes a process that he may look at.)
        let _ = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
    }
    let born = join.join_for_children().and_then(|_| join.join()).and_then(|()| {
        let how = Clone { namespaces: at_birth, cgroup: None, without: &[], sibling: true };
        kernel::clone(&how, || init::run(plan, hands)).map_err(Step::on(|| "make the container's process"))
    });
    i32::from(!report_birth(&told, &born))
}

/// Makes a process that is added to a container, by way of a helper that joins the container's user and PID namespaces
/// before it: what may be joined only from inside the one, and is only for children with the other.
pub(super) fn give_birth_inside(
    init: BorrowedFd<'_>,
    first: Namespaces,
    how: &Clone<'_>,
    channel: Channel,
    live: impl FnOnce(Channel) -> i32,
) -> Result<Child, Step> {
    let failed = || Step::on::<io::Error, _>(|| "make the process");
    // Not by the channel of the process itself, which may be the first to say something.
    let (heard, told) = Channel::pair().map_err(failed())?;
    let helper = kernel::clone(how, move || {
        let born = || -> Result<Child, Step> {
            rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
                .map_err(Step::on(|| "hide from ptrace"))?;
            kernel::join(init, first)
                .map_err(Step::on(|| format!("join the container's namespaces ({first:?})")))?;
            namespaces::become_root()?;
            let how = Clone { sibling: true, ..Clone::default() };
            kernel::clone(&how, || live(channel)).map_err(failed())
        };
        i32::from(!report_birth(&told, &born()))
    });
    let helper = helper.map_err(failed())?;
    let moved = heard.receive().map_err(failed())?;
    let ending = wait_status(&helper.pidfd).map_err(failed())?;
    match moved {
        Some((Message::Moved(pid), _)) => adopt(pid).map_err(failed()),
        Some((Message::Failed(report), _)) => Err(Step::refused("make the process", report.text)),
        _ => Err(Step::refused("make the process", format!("its helper ended: {ending:?}"))),
    }
}

/// Tells the runtime of the child that a helper made, or why it made none. Returns whether all is well.
fn report_birth(channel: &Channel, born: &Result<Child, Step>) -> bool {
    let message = match born {
        Ok(child) => Message::Moved(child.pid.as_raw_nonzero().get()),
        Err(step) => Message::Failed(Report { class: step.class(), text: sampan_base::chain(step) }),
    };
    channel.send(&message).is_ok() && born.is_ok()
}

/// A handle on a child that a helper made for us. It is ours to wait for, so its number can't be another's.
fn adopt(pid: i32) -> io::Result<Child> {
    let pid = Pid::from_raw(pid).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok(Child { pid, pidfd: rustix::process::pidfd_open(pid, PidfdFlags::empty())? })
}

/// What takes the host's privileges, done to the child from outside.
pub(super) fn prepare_child(
    plan: &init::Plan,
    child: &Child,
    ours: &Channel,
    log: &Log,
) -> Result<(), CreateError> {
    let pid = child.pid.as_raw_nonzero().get();
    if let Some(score) = plan.process.oom_score_adj {
        set_oom_score(pid, score, log)?;
    }
    if !plan.namespaces.has(NamespaceKind::User) {
        return Ok(());
    }
    raise_limits(&plan.process, child.pid);
    if plan.namespaces.new.contains(Namespaces::USER) {
        map_ids(plan, pid)?;
    }
    ours.send(&Message::Go).map_err(Step::on(|| "talk with the container's process"))?;
    Ok(())
}

/// Raises hard limits for a child in a user namespace, whose own privileges do not reach beyond that. The soft limit is
/// its own matter, and so is a hard limit that can't be raised.
pub(super) fn raise_limits(plan: &crate::process::Plan, pid: Pid) {
    for &(resource, _, hard) in &plan.rlimits {
        let old = rustix::process::getrlimit(resource);
        let raise = Rlimit { current: old.current, maximum: (hard != u64::MAX).then_some(hard) };
        if old.maximum.is_some_and(|old| hard > old) {
            let _ = rustix::process::prlimit(Some(pid), resource, raise);
        }
    }
}

/// Sets how likely the process is chosen when memory runs out. To make it less likely takes CAP_SYS_RESOURCE; a
/// container that is a little more likely to be chosen is better than none.
pub(super) fn set_oom_score(pid: i32, score: i32, log: &Log) -> Result<(), Step> {
    let path = format!("/proc/{pid}/oom_score_adj");
    match fs::write(&path, score.to_string()) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            log.warn(&format!(
                "oomScoreAdj {score} is not applied: lowering it needs CAP_SYS_RESOURCE, which the runtime has not"
            ));
            Ok(())
        }
        other => other.map_err(Step::on(|| format!("write `{score}` to `{path}`"))),
    }
}

fn map_ids(plan: &init::Plan, pid: i32) -> Result<(), Step> {
    let ids = &plan.namespaces;
    let write = |file: &str, text: &str| {
        let path = format!("/proc/{pid}/{file}");
        fs::write(&path, text).map_err(Step::on(|| format!("write `{}` to `{path}`", text.trim_end())))
    };
    if rustix::process::geteuid().is_root() {
        write("uid_map", &ids.uid_map)?;
        return write("gid_map", &ids.gid_map);
    }
    // An ordinary user maps himself alone; for more there are two set-uid programs that know what he was given.
    let alone = |map: &str, own: u32| {
        let numbers: Vec<&str> = map.split_whitespace().collect();
        matches!(numbers[..], [_, host, "1"] if host == own.to_string())
    };
    let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    if alone(&ids.uid_map, own.0) && alone(&ids.gid_map, own.1) {
        write("setgroups", "deny")?;
        write("uid_map", &ids.uid_map)?;
        return write("gid_map", &ids.gid_map);
    }
    for (program, map) in [("newuidmap", &ids.uid_map), ("newgidmap", &ids.gid_map)] {
        let run =
            std::process::Command::new(program).arg(pid.to_string()).args(map.split_whitespace()).output();
        let output = run.map_err(Step::on(|| format!("run `{program}`")))?;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(Step::refused(format!("map ids with `{program}`"), why));
        }
    }
    Ok(())
}
