//! Running a step: what the builder asks of whoever can run containers.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sampan_base::Class;

/// Runs the commands of `RUN`; the engine does it in a container, with a network.
pub trait StepRunner: Sync {
    /// Runs a command to its end in the file system that is mounted at `step.rootfs`, and passes on what it writes.
    /// When this returns, no process of it is left, and nothing else is mounted below `step.rootfs`.
    ///
    /// # Errors
    /// If the command could not be run at all, or was stopped because [`RunStep::cancel`] was set; that it failed is
    /// no error.
    fn run(
        &self,
        step: &RunStep<'_>,
        output: &mut dyn FnMut(Stream, &[u8]),
    ) -> Result<ExitStatus, RunnerError>;
}

/// One command to run.
#[derive(Clone, Debug)]
pub struct RunStep<'a> {
    /// Where its root file system is mounted. It has the mount points of Docker's init layer.
    pub rootfs: &'a Path,
    /// The program and its arguments; the program is looked for in the `PATH` of `env`.
    pub args: Vec<String>,
    /// `NAME=value`; `HOME` is not set unless the image sets it.
    pub env: Vec<String>,
    /// Where it starts, absolute; the directory may be missing, and is then to be made.
    pub cwd: String,
    /// `user[:group]`, names or numbers, as in the image; empty: root.
    pub user: String,
    /// More to mount, in order.
    pub mounts: Vec<StepMount>,
    /// Its network.
    pub network: NetworkMode,
    /// Lines `address name` for its `/etc/hosts`.
    pub extra_hosts: Vec<String>,
    /// Set when nobody wants the result any more.
    pub cancel: Cancel,
}

/// A file or directory of the host to show the command, read-only.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StepMount {
    /// On the host.
    pub source: PathBuf,
    /// In the container, absolute.
    pub target: String,
}

/// The network of a step.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum NetworkMode {
    /// As containers have it by default.
    #[default]
    Default,
    /// Only the loopback device.
    None,
    /// The host's.
    Host,
    /// Another, by its name.
    Named(String),
}

/// Which of a command's outputs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stream {
    /// Its standard output.
    Stdout,
    /// Its standard error.
    Stderr,
}

/// How a command ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExitStatus {
    /// Its exit code; 128 and the signal's number if a signal ended it.
    pub code: i32,
}

/// Why a command could not be run.
#[derive(Debug, thiserror::Error)]
#[error("cannot run the command")]
pub struct RunnerError {
    /// The class to report.
    pub class: Class,
    /// Why.
    pub source: Box<dyn Error + Send + Sync>,
}

/// Tells a build, from another thread, that nobody wants its result any more.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Asks the build to end.
    pub fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether it was asked to.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}
