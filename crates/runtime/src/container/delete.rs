//! Deletes a container: its processes if it is forced, its cgroups, its state.

use std::os::fd::AsFd;

use rustix::process::Signal;
use sampan_base::{Class, FileError};
use sampan_oci::runtime::{Hooks, Status};

use crate::cgroup;
use crate::ending;
use crate::error::Step;
use crate::hooks;
use crate::log::Log;
use crate::state::{self, Directory, LookupError, Record, StateRoot};

/// A container that can't be deleted.
#[derive(Debug, thiserror::Error)]
pub enum DeleteError {
    /// It can't be found.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// Its process runs.
    #[error("cannot delete container {id} that is not stopped: {}", status.name())]
    NotStopped {
        /// The container.
        id: String,
        /// Where it is.
        status: Status,
    },
    /// Its directory can't be removed.
    #[error(transparent)]
    File(#[from] FileError),
    /// A step failed.
    #[error(transparent)]
    Step(#[from] Step),
}

impl DeleteError {
    /// The class to report.
    pub fn class(&self) -> Class {
        match self {
            DeleteError::Lookup(error) => error.class(),
            DeleteError::NotStopped { .. } => Class::Conflict,
            DeleteError::File(error) => error.class(),
            DeleteError::Step(error) => error.class(),
        }
    }
}

/// Deletes a container that is stopped or was never started; with `force`, any, and none is no error.
///
/// # Errors
/// If it runs, or something of it can't be removed.
pub fn delete(root: &StateRoot, id: &str, force: bool, log: &Log) -> Result<(), DeleteError> {
    let directory = match root.directory(id) {
        Err(LookupError::NotFound { .. }) if force => return Ok(()),
        other => other?,
    };
    // A `create` that still runs holds the lock: what is there when we have it, nobody works on.
    let _lock = directory.lock()?;
    let record = match directory.record() {
        Ok(record) => record,
        // Nothing but the directory was made: no record, no cgroup.
        Err(LookupError::NotFound { .. }) if force => return Ok(directory.forget()?),
        // A record that nobody understands would stay for ever.
        Err(error @ (LookupError::Malformed { .. } | LookupError::Format { .. })) if force => {
            log.warn(&sampan_base::chain(&error));
            return Ok(directory.forget()?);
        }
        Err(error) => return Err(error.into()),
    };
    let status = directory.status(&record);
    if !force && matches!(status, Status::Running | Status::Paused) {
        return Err(DeleteError::NotStopped { id: id.to_owned(), status });
    }
    if let Some(process) =
        state::open_process(&record).map_err(Step::on(|| "open the container's process"))?
    {
        end(&record, process.as_fd())?;
    }
    let hooks = directory.config().ok().and_then(|spec| spec.hooks).unwrap_or_default();
    clear(&directory, &record, &hooks, log)
}

/// Removes the groups, but leaves one that another container shares.
fn remove_groups(record: &Record, log: &Log) -> Result<(), DeleteError> {
    let Err(step) = cgroup::remove(&record.cgroups) else { return Ok(()) };
    let others = cgroup::processes(&record.cgroups)?.len();
    if step.source.kind() != std::io::ErrorKind::ResourceBusy || others == 0 {
        return Err(step.into());
    }
    log.warn(&format!("the cgroup stays: {others} process(es) of another container are in it"));
    Ok(())
}

/// Kills the container's process and waits for its end.
fn end(record: &Record, process: std::os::fd::BorrowedFd<'_>) -> Result<(), DeleteError> {
    match rustix::process::pidfd_send_signal(process, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(e) => return Err(Step::on(|| "kill the container's process")(e).into()),
    }
    if cgroup::is_frozen(&record.cgroups) {
        cgroup::freezer::thaw(&record.cgroups)?;
    }
    let ended = ending::wait_for(process, ending::KILL_DEADLINE);
    if ended.map_err(Step::on(|| "wait for the end of the container's process"))? {
        return Ok(());
    }
    let why = format!("it is still there after {} s", ending::KILL_DEADLINE.as_secs());
    Err(Step::refused("end the container's process", why).into())
}

/// Removes what is left of a container whose process has ended.
///
/// # Errors
/// If something can't be removed; it can be tried again then.
pub fn clear(directory: &Directory, record: &Record, hooks: &Hooks, log: &Log) -> Result<(), DeleteError> {
    if record.pid == 0 {
        // Its runtime was killed before it could tell more than this. Its process, if it has made one, ends by
        // itself when it finds that out; whoever else is in the groups is not ours.
        cgroup::await_empty(&record.cgroups)?;
        remove_groups(record, log)?;
    } else if let Some(unit) = &record.unit {
        cgroup::kill_all(&record.cgroups)?;
        unit.stop()?;
        // Hierarchies of v1 that systemd does not know.
        remove_groups(record, log)?;
    } else if record.shares_cgroups {
        // Whoever was there first clears up; what can't be removed is in use.
        let _ = cgroup::remove(&record.cgroups);
    } else {
        // A PID namespace has ended with its first process. Without one, others live on.
        if !record.has_own_pids() {
            cgroup::kill_all(&record.cgroups)?;
        }
        remove_groups(record, log)?;
    }
    if let Some(resctrl) = &record.resctrl {
        resctrl.release()?;
    }
    directory.forget()?;
    // The container is gone now, and its id free: that is what these hooks are to see.
    let state = record.state(Status::Stopped);
    for error in hooks::run_all("poststop", &hooks.poststop, &state, &record.bundle) {
        log.warn(&sampan_base::chain(&error));
    }
    Ok(())
}
