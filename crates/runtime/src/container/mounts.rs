//! Adds mounts to a running container, and removes mounts from it.
//!
//! What comes from the host is taken by the runtime; a helper enters the container's namespaces with it and attaches
//! it there. The helper is not the container's: it is in none of its cgroups, and nothing in the container may look
//! into it.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::process::DumpableBehavior;
use sampan_base::{Class, FileError};
use sampan_kernel::process::{self as kernel, Clone, Namespaces};
use sampan_oci::runtime::{Mount, Status};

use super::child::hide_children;
use super::exec::shared_namespaces;
use crate::bundle::{self, BundleError};
use crate::channel::{Channel, Message, Report};
use crate::ending::wait_status;
use crate::error::{Refused, Step};
use crate::init::namespaces;
use crate::rootfs::live::{self, AddError};
use crate::state::{self, LookupError, Record, StateRoot};

/// Mounts that can't be added or removed.
#[derive(Debug, thiserror::Error)]
pub enum MountsError {
    /// The container can't be found.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// The container has no mount namespace any more.
    #[error("cannot change the mounts of a container that is {}", status.name())]
    WrongState {
        /// Where it is.
        status: Status,
    },
    /// What is asked for cannot be had.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// A step failed.
    #[error(transparent)]
    Step(#[from] Step),
    /// A step failed in the container.
    #[error("cannot change the mounts of the container")]
    Inside(#[source] Report),
}

impl From<AddError> for MountsError {
    fn from(error: AddError) -> MountsError {
        match error {
            AddError::Refused(refused) => refused.into(),
            AddError::Step(step) => step.into(),
        }
    }
}

impl MountsError {
    /// The class to report.
    pub fn class(&self) -> Class {
        match self {
            MountsError::Lookup(error) => error.class(),
            MountsError::WrongState { .. } => Class::Conflict,
            MountsError::Refused(error) => error.class(),
            MountsError::Step(error) => error.class(),
            MountsError::Inside(report) => report.class,
        }
    }
}

/// Adds mounts, in their order.
///
/// # Errors
/// At the first that can't be added; those before it stay.
pub fn add_mounts(root: &StateRoot, id: &str, mounts: &[Mount]) -> Result<(), MountsError> {
    let (directory, record) = root.find(id)?;
    let _lock = directory.lock().map_err(LookupError::from)?;
    check(directory.status(&record))?;
    let spec = directory.config()?;
    let added = live::open(mounts, &record.bundle, &spec.linux.unwrap_or_default())?;
    within(&record, || live::add(added))
}

/// Removes mounts by their destinations, in their order.
///
/// # Errors
/// At the first that can't be removed; those before it are gone.
pub fn remove_mounts(root: &StateRoot, id: &str, destinations: &[String]) -> Result<(), MountsError> {
    let (directory, record) = root.find(id)?;
    let _lock = directory.lock().map_err(LookupError::from)?;
    check(directory.status(&record))?;
    within(&record, || live::remove(destinations))
}

fn check(status: Status) -> Result<(), MountsError> {
    match status {
        Status::Created | Status::Running | Status::Paused => Ok(()),
        status => Err(MountsError::WrongState { status }),
    }
}

/// Runs `work` in a helper that is in the container's namespaces.
fn within(record: &Record, work: impl FnOnce() -> Result<(), Step>) -> Result<(), MountsError> {
    let init = state::open_process(record).map_err(Step::on(|| "open the container's process"))?;
    let Some(init) = init else { return Err(MountsError::WrongState { status: Status::Stopped }) };
    let (ours, theirs) = Channel::pair().map_err(Step::on(|| "make a socket pair"))?;
    hide_children()?;
    let to_join = shared_namespaces(record)?;
    if to_join.contains(Namespaces::PID) {
        // A proc file system shows the namespace of its maker; this makes the helper one of the container's.
        kernel::join(init.as_fd(), Namespaces::PID)
            .map_err(Step::on(|| "join the container's PID namespace"))?;
    }
    let how = Clone { without: &[ours.as_fd()], ..Clone::default() };
    let body = || match enter(init.as_fd(), to_join - Namespaces::PID).and_then(|()| work()) {
        Ok(()) => 0,
        Err(step) => {
            let report = Report { class: step.class(), text: sampan_base::chain(&step) };
            // If the runtime is gone, nobody is left to tell.
            let _ = theirs.send(&Message::Failed(report));
            1
        }
    };
    let child = kernel::clone(&how, body).map_err(Step::on(|| "make a helper process"))?;
    drop(theirs);
    let lost = || Step::on::<std::io::Error, _>(|| "talk with the helper process");
    let said = ours.receive().map_err(lost())?;
    let ending = wait_status(&child.pidfd).map_err(lost())?;
    match said {
        Some((Message::Failed(report), _)) => Err(MountsError::Inside(report)),
        _ if ending.exit_code() == 0 => Ok(()),
        _ => {
            Err(Step::refused("change the mounts of the container", format!("the helper ended: {ending:?}"))
                .into())
        }
    }
}

fn enter(init: BorrowedFd<'_>, namespaces: Namespaces) -> Result<(), Step> {
    // An ordinary user's helper was born visible. From here on, processes of the container can see it.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(Step::on(|| "hide from ptrace"))?;
    kernel::join(init, namespaces)
        .map_err(Step::on(|| format!("join the container's namespaces ({namespaces:?})")))?;
    if namespaces.contains(Namespaces::USER) {
        namespaces::become_root()?;
    }
    rustix::process::umask(rustix::fs::Mode::empty());
    Ok(())
}

/// The mounts of a file: a list, or an object with config.json's `mounts`. `-` is standard input.
///
/// # Errors
/// If it can't be read or is neither.
pub fn load(path: &Path) -> Result<Vec<Mount>, BundleError> {
    #[derive(serde::Deserialize)]
    struct Section {
        mounts: Vec<Mount>,
    }
    let bytes = if path == Path::new("-") {
        let mut bytes = Vec::new();
        let read = std::io::stdin().take(state::MAX_DOCUMENT).read_to_end(&mut bytes);
        read.map_err(FileError::on("read", path))?;
        bytes
    } else {
        bundle::read(path)?
    };
    match bytes.trim_ascii_start().first() {
        Some(b'[') => bundle::parse(path, &bytes),
        _ => Ok(bundle::parse::<Section>(path, &bytes)?.mounts),
    }
}
