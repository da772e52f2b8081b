//! A shim that is started before there is a container for it: a start then finds one that has everything behind it but what it
//! is for ([`sampan_rpc::spare`]).
//!
//! There is one at most, and the next is made when a container has been started, behind the answer. It ends with the
//! daemon: the pair of sockets that joins them does.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sampan_rpc::spare::{NO_ID, Work};

use crate::shim::{self, ShimError};
use crate::{EngineConfig, Inner};

/// The shim that waits, if one does.
#[derive(Debug)]
pub(crate) struct Spare {
    program: PathBuf,
    /// Stands for the bundle that it will have.
    bundle: PathBuf,
    waiting: Mutex<Option<UnixStream>>,
}

/// How long after a start the next shim is started: a container that lives for some milliseconds, and whoever waits for
/// its end, need the processors more.
const LATER: Duration = Duration::from_millis(20);

/// Starts the next one when the start that took one is over.
pub(crate) fn refill_later(inner: &Arc<Inner>) {
    let inner = Arc::downgrade(inner);
    tokio::spawn(async move {
        // Nothing is waited for: it leaves the processors to the start that was just made.
        tokio::time::sleep(LATER).await;
        if let Some(inner) = inner.upgrade() {
            inner.spare.refill();
        }
    });
}

impl Spare {
    pub(crate) fn new(config: &EngineConfig) -> Spare {
        Spare { program: config.shim.clone(), bundle: config.bundle(NO_ID), waiting: Mutex::default() }
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Option<UnixStream>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts one if none waits. It only saves time, so what fails is seen when the next one is needed. For within the
    /// async runtime, which reaps it.
    pub(crate) fn refill(&self) {
        let mut waiting = self.waiting();
        if waiting.is_none() {
            match self.make() {
                Ok(socket) => *waiting = Some(socket),
                Err(error) => {
                    tracing::debug!(error = sampan_base::chain(&error), "cannot start a shim ahead");
                }
            }
        }
    }

    fn make(&self) -> Result<UnixStream, ShimError> {
        let failed = |source| ShimError::Start { program: self.program.clone(), source };
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        let socket = shim::socket_path(&self.bundle);
        let mut command = shim::command(&self.program, NO_ID, &self.bundle, &socket);
        command.stdin(Stdio::from(OwnedFd::from(theirs))).stderr(Stdio::null());
        drop(command.spawn().map_err(failed)?);
        Ok(ours)
    }

    /// Tells the one that waits what it is for, with the listening socket and the log. Answers whether it was told.
    pub(crate) fn hand_over(&self, id: &str, bundle: &Path, socket: &Path, fds: [BorrowedFd<'_>; 2]) -> bool {
        let Some(waiting) = self.waiting().take() else { return false };
        let (Some(bundle), Some(socket)) = (bundle.to_str(), socket.to_str()) else { return false };
        let work = Work { id: id.to_owned(), bundle: bundle.to_owned(), socket: socket.to_owned() };
        // One that has ended meanwhile is no loss.
        sampan_kernel::descriptors::send(waiting.as_fd(), &work.encode(), &fds).is_ok()
    }
}
