//! Running a step: what the builder asks of whoever can run containers and fetch images.

use std::error::Error;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rustix::event::EventfdFlags;
use sampan_base::{Class, Digest};
use sampan_image::{Image, UserNamespace};
use sampan_oci::image::Platform;

use crate::solve::CacheStore;

/// Runs the commands of `RUN`, and gets images that are not in the store; the engine does the one in a container, with a
/// network, the other from a registry. Several steps of a build run at once.
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

    /// The user namespace in which it runs commands, if that is not the host's: file systems of steps are mounted for it.
    fn users(&self) -> Option<&UserNamespace> {
        None
    }

    /// Brings an image into the store and says how far it is; `None` from whoever has no registries to ask.
    fn pull(
        &self,
        name: &str,
        platform: &Platform,
        progress: &(dyn Fn(Transfer<'_>) + Sync),
    ) -> Option<Result<Image, RunnerError>> {
        let _ = (name, platform, progress);
        None
    }

    /// A build cache in a registry; `None` from whoever has no registries to ask.
    fn cache_store(&self, name: &str) -> Option<Result<Box<dyn CacheStore + '_>, RunnerError>> {
        let _ = name;
        None
    }
}

/// How far one blob of a transfer is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transfer<'a> {
    /// Which.
    pub blob: &'a Digest,
    /// Bytes that are there.
    pub current: u64,
    /// Bytes that there will be.
    pub total: u64,
}

/// One command to run.
#[derive(Clone, Debug)]
pub struct RunStep<'a> {
    /// Where its root file system is mounted, for [`StepRunner::users`] if there are such. It has the mount points of Docker's init layer, and those of `mounts`.
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
    /// `--security=insecure`: with all privileges.
    pub privileged: bool,
    /// Lines `address name` for its `/etc/hosts`.
    pub extra_hosts: Vec<String>,
    /// Bounds on what it may use.
    pub limits: Limits,
    /// Set when nobody wants the result any more.
    pub cancel: Cancel,
}

/// Something to mount for a command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StepMount {
    /// A file, directory or socket of the host.
    Bind {
        /// On the host; has no links that the image made.
        source: PathBuf,
        /// In the container, absolute.
        target: String,
        /// Whether it can't be written.
        read_only: bool,
        /// Whose its files are.
        owners: Owners,
    },
    /// Memory.
    Tmpfs {
        /// In the container, absolute.
        target: String,
        /// Bytes at most; `None`: as the kernel has it.
        size: Option<u64>,
    },
}

/// Whose the files of a bind mount are, where commands run in a user namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owners {
    /// They have the ids of an image: 0 is the command's root, so they are to be mounted with its mapping.
    Image,
    /// They belong to the ids of the host that the command's are, already.
    Host,
}

/// What a command may use at most; `None` and empty: no bound.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Limits {
    /// Bytes of memory.
    pub memory: Option<i64>,
    /// Bytes of memory and swap together; -1: any.
    pub memory_swap: Option<i64>,
    /// Microseconds of a period.
    pub cpu_period: Option<u64>,
    /// Microseconds of processor time in a period.
    pub cpu_quota: Option<i64>,
    /// The weight among others, 1024 being usual.
    pub cpu_shares: Option<u64>,
    /// Processors, as `0-2,4`.
    pub cpuset_cpus: String,
    /// Memory nodes, as `0,1`.
    pub cpuset_mems: String,
    /// Bytes of `/dev/shm`.
    pub shm_size: Option<u64>,
    /// Names, soft and hard values: `nofile`.
    pub ulimits: Vec<(String, i64, i64)>,
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

/// Why a command could not be run, or an image not be had.
#[derive(Debug)]
pub struct RunnerError {
    /// The class to report.
    pub class: Class,
    /// Why.
    pub source: Box<dyn Error + Send + Sync>,
}

// As the error itself: this layer tried nothing of its own.
impl std::fmt::Display for RunnerError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.source.fmt(f)
    }
}

impl Error for RunnerError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.source()
    }
}

/// Tells a build, from another thread, that nobody wants its result any more.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<Flag>);

#[derive(Debug, Default)]
struct Flag {
    set: AtomicBool,
    /// Readable for ever once the flag is set; made for the first who waits.
    event: std::sync::OnceLock<OwnedFd>,
    told: Told,
}

/// Called once, when the flag is set.
#[derive(Default)]
struct Told(Mutex<Vec<Box<dyn Fn() + Send>>>);

impl std::fmt::Debug for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(listeners)")
    }
}

impl Cancel {
    /// Asks the build to end.
    pub fn set(&self) {
        self.0.set.store(true, Ordering::SeqCst);
        if let Some(event) = self.0.event.get() {
            signal(event);
        }
        for tell in self.listeners().drain(..) {
            tell();
        }
    }

    /// Calls `tell` when the build is asked to end; at once if it was before.
    pub fn when_set(&self, tell: impl Fn() + Send + 'static) {
        let mut listeners = self.listeners();
        // Under the lock: whoever sets the flag after this finds it.
        if self.is_set() {
            return tell();
        }
        listeners.push(Box::new(tell));
    }

    fn listeners(&self) -> std::sync::MutexGuard<'_, Vec<Box<dyn Fn() + Send>>> {
        self.0.told.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Whether it was asked to.
    pub fn is_set(&self) -> bool {
        self.0.set.load(Ordering::SeqCst)
    }

    /// Becomes readable when the build is asked to end, and stays so: for `poll(2)`.
    ///
    /// # Errors
    /// If the process has no descriptor left.
    pub fn event(&self) -> std::io::Result<BorrowedFd<'_>> {
        if self.0.event.get().is_none() {
            let made = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            // Whoever was faster has made one as good.
            let _ = self.0.event.set(made);
        }
        let event = self.0.event.get().ok_or(std::io::ErrorKind::NotFound)?;
        // Whoever set the flag before there was an event has told nobody.
        if self.is_set() {
            signal(event);
        }
        Ok(event.as_fd())
    }
}

fn signal(event: &OwnedFd) {
    // It fails only when the counter is full, and then it is readable already.
    let _ = rustix::io::write(event, &1u64.to_ne_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    #[test]
    fn a_cancelled_build_is_told_to_those_who_wait_and_those_who_come_late() {
        let readable = |cancel: &Cancel| {
            let event = cancel.event().unwrap();
            poll(&mut [PollFd::new(&event, PollFlags::IN)], Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))
                .unwrap()
                == 1
        };
        let early = Cancel::default();
        assert!(!readable(&early));
        early.clone().set();
        assert!(readable(&early) && readable(&early) && early.is_set());
        let late = Cancel::default();
        late.set();
        assert!(readable(&late));
        let told = Arc::new(AtomicBool::new(false));
        let listening = Cancel::default();
        for cancel in [&listening, &late] {
            let flag = Arc::clone(&told);
            cancel.when_set(move || flag.store(true, Ordering::SeqCst));
            cancel.set();
            assert!(told.swap(false, Ordering::SeqCst));
        }
    }
}
