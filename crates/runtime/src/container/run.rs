//! `run`: create, start, and unless detached, wait and delete.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use sampan_base::Class;

use super::attach;
use super::create::{CreateError, GateKind, Options, create};
use super::delete::{DeleteError, clear};
use super::start::{StartError, start_created};
use crate::channel::receive_descriptor;
use crate::error::Step;
use crate::log::Log;
use crate::state::StateRoot;

/// A container that can't be run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It can't be created.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// It can't be started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// It can't be removed.
    #[error(transparent)]
    Delete(#[from] DeleteError),
    /// A step failed.
    #[error(transparent)]
    Step(#[from] Step),
}

impl RunError {
    /// The class to report.
    pub fn class(&self) -> Class {
        match self {
            RunError::Create(error) => error.class(),
            RunError::Start(error) => error.class(),
            RunError::Delete(error) => error.class(),
            RunError::Step(error) => error.class(),
        }
    }
}

/// What becomes of the container after its start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// It is left alone.
    Detached,
    /// We stay with it, and delete it at its end.
    Foreground,
    /// We stay with it, and leave it to be deleted.
    Kept,
}

/// Runs a container. Returns its process's exit code, or 0 if it was left alone.
///
/// # Errors
/// If it can't be; nothing of it remains then.
pub fn run(root: &StateRoot, id: &str, options: &Options, mode: Mode, log: &Log) -> Result<i32, RunError> {
    let signals = match mode {
        Mode::Detached => None,
        _ => Some(attach::take_signals().map_err(Step::on(|| "take signals"))?),
    };
    let terminal = Console::new(options, mode)?;
    let options = &Options { console: terminal.theirs.clone(), ..options.clone() };
    // A terminal of our own is asked for only in the foreground; else the socket of the caller gets it.
    let gate = GateKind::Runtime;
    let created = create(root, id, options, gate, log)?;
    drop(terminal.theirs);
    if let Err(error) = start_created(&created, log) {
        // The process has told why, and ends.
        let _ = crate::ending::wait_status(&created.process);
        if let Err(error) = clear(&created.directory, &created.record, &created.hooks, log) {
            log.warn(&sampan_base::chain(&error));
        }
        return Err(error.into());
    }
    let Some(signals) = signals else { return Ok(0) };
    let super::Created { directory, record, hooks, process, channel, lock } = created;
    drop((channel, lock));
    let controller = terminal.ours.map(|socket| receive_terminal(&socket)).transpose()?.flatten();
    let ending = attach::stay(&process, &signals, controller)
        .map_err(Step::on(|| "stay with the container's process"))?;
    if mode == Mode::Foreground {
        let _lock = directory.lock().map_err(CreateError::from)?;
        clear(&directory, &record, &hooks, log)?;
    }
    Ok(ending.exit_code())
}

/// The socket by which a terminal comes to ourselves.
pub(super) struct Console {
    pub(super) ours: Option<UnixStream>,
    pub(super) theirs: Option<std::rc::Rc<UnixStream>>,
}

impl Console {
    pub(super) fn new(options: &Options, mode: Mode) -> Result<Console, Step> {
        if options.console_socket.is_some() || mode == Mode::Detached {
            return Ok(Console { ours: None, theirs: None });
        }
        Console::pair()
    }

    pub(super) fn pair() -> Result<Console, Step> {
        let (ours, theirs) = UnixStream::pair().map_err(Step::on(|| "make a socket pair"))?;
        Ok(Console { ours: Some(ours), theirs: Some(std::rc::Rc::new(theirs)) })
    }
}

/// The terminal that came, if one did: the process has sent it before it was ready.
pub(super) fn receive_terminal(socket: &UnixStream) -> Result<Option<OwnedFd>, Step> {
    let receive = || -> io::Result<Option<OwnedFd>> {
        socket.set_nonblocking(true)?;
        match receive_descriptor(socket.as_fd(), &mut [0; 64]) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            other => Ok(other?.1),
        }
    };
    receive().map_err(Step::on(|| "receive the terminal"))
}
