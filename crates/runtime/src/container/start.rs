//! Starts a created container: opens the gate its process waits at.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use sampan_base::{Class, FileError};
use sampan_oci::runtime::{Hooks, Status};

use crate::channel::{Message, Report};
use crate::container::create::Created;
use crate::ending;
use crate::error::Step;
use crate::hooks::{self, HookError};
use crate::log::{Log, milestone};
use crate::state::{self, Directory, LookupError, Record, StateRoot};

/// A container that can't be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It can't be found.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// It is not where a container has to be to be started.
    #[error("cannot start {}", in_state(*status))]
    WrongState {
        /// Where it is.
        status: Status,
    },
    /// Its directory can't be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// A step failed.
    #[error(transparent)]
    Step(#[from] Step),
    /// A hook failed.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// Its process reported an error.
    #[error("unable to start container process")]
    Init(#[source] Report),
}

/// As callers of runc know it.
fn in_state(status: Status) -> &'static str {
    match status {
        Status::Creating => "a container in the creating state",
        Status::Created => "a container in the created state",
        Status::Running => "an already running container",
        Status::Paused => "a container in the paused state",
        Status::Stopped => "a container that has stopped",
    }
}

impl StartError {
    /// The class to report.
    pub fn class(&self) -> Class {
        match self {
            StartError::Lookup(error) => error.class(),
            StartError::WrongState { .. } => Class::Conflict,
            StartError::File(error) => error.class(),
            StartError::Step(error) => error.class(),
            StartError::Hook(_) => Class::Internal,
            StartError::Init(report) => report.class,
        }
    }
}

/// Starts a created container. Returns when its program runs.
///
/// # Errors
/// If it is not created, or its program can't be run.
pub fn start(root: &StateRoot, id: &str, log: &Log) -> Result<(), StartError> {
    let (directory, _) = root.find(id)?;
    let _lock = directory.lock()?;
    let record = directory.record()?;
    let process = state::open_process(&record).map_err(Step::on(|| "open the container's process"))?;
    let status = directory.status_of(&record, process.is_some());
    if status != Status::Created {
        return Err(StartError::WrongState { status });
    }
    log.debug(|| milestone::INIT.to_owned());
    if let Err(error) = open_gate(&directory) {
        if let (StartError::Init(_), Some(process)) = (&error, &process) {
            // It has told why, and ends: who deletes it next must find it stopped.
            let _ = ending::wait_for(process.as_fd(), ending::KILL_DEADLINE);
        }
        return Err(error);
    }
    let hooks = directory.config()?.hooks.unwrap_or_default();
    if hooks.poststart.is_empty() {
        return Ok(());
    }
    poststart(&hooks, &record, process.as_ref().map(AsFd::as_fd))
}

/// Starts a container that this very command created.
///
/// # Errors
/// If its program can't be run.
pub fn start_created(created: &Created, log: &Log) -> Result<(), StartError> {
    let lost = || Step::on::<io::Error, _>(|| "talk with the container's process");
    log.debug(|| milestone::INIT.to_owned());
    created.channel.send(&Message::Go).map_err(lost())?;
    loop {
        match created.channel.receive().map_err(lost())? {
            Some((Message::Warning(text), _)) => log.warn(&text),
            Some((Message::Failed(report), _)) => return Err(StartError::Init(report)),
            // Its end of the socket closed when the program was executed.
            None => break,
            Some(_) => {}
        }
    }
    poststart(&created.hooks, &created.record, Some(created.process.as_fd()))
}

/// Runs the poststart hooks. Since version 1.3 of the specification (and in runc always), the container ends if one
/// fails.
fn poststart(hooks: &Hooks, record: &Record, process: Option<BorrowedFd<'_>>) -> Result<(), StartError> {
    let failed = hooks::run("poststart", &hooks.poststart, &record.state(Status::Running), &record.bundle);
    if let (Err(_), Some(process)) = (&failed, process) {
        // One that has ended already needs no signal.
        let _ = rustix::process::pidfd_send_signal(process, Signal::KILL);
        let _ = ending::wait_for(process, ending::KILL_DEADLINE);
    }
    Ok(failed?)
}

fn open_gate(directory: &Directory) -> Result<(), StartError> {
    let gate = directory.gate();
    let talk = || -> io::Result<Vec<u8>> {
        let (_open, address) = short_address(&gate)?;
        let mut stream = UnixStream::connect(address)?;
        stream.write_all(b"!")?;
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            // The process closed its listener, with us in line: another `start` was first.
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => Err(e),
            other => other.map(|_| answer),
        }
    };
    let answer = match talk() {
        Ok(answer) => answer,
        // Nobody is at the gate: the process has ended since we looked.
        Err(e) if matches!(e.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset) => {
            return Err(StartError::WrongState { status: Status::Stopped });
        }
        Err(e) => return Err(Step::on(|| format!("open the gate `{}`", gate.display()))(e).into()),
    };
    fs::remove_file(&gate).map_err(FileError::on("remove", &gate))?;
    match Report::decode(&answer) {
        None => Ok(()),
        Some(report) => Err(StartError::Init(report)),
    }
}

/// A socket's address that is short enough, by way of its directory's descriptor, which has to stay open meanwhile.
pub(super) fn short_address(path: &Path) -> io::Result<(File, PathBuf)> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let open = File::open(directory)?;
    let address = Path::new("/proc/self/fd").join(open.as_raw_fd().to_string()).join(name);
    Ok((open, address))
}
