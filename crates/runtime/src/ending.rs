//! How processes end, and waiting for it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{WaitId, WaitIdOptions};

/// How long a killed process may take to end: one in an uninterruptible wait may take for ever, and its caller must
/// be told instead of hanging.
pub const KILL_DEADLINE: Duration = Duration::from_secs(10);

/// How a process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// With this exit status.
    Status(i32),
    /// By this signal.
    Signal(i32),
}

impl Ending {
    /// As shells tell it: the status, or 128 and the signal.
    pub fn exit_code(self) -> i32 {
        match self {
            Ending::Status(status) => status,
            Ending::Signal(signal) => 128 + signal,
        }
    }
}

/// Waits for a child and takes its ending.
///
/// # Errors
/// If it is no child of ours, or its ending was taken already.
pub fn wait_status(child: &OwnedFd) -> io::Result<Ending> {
    loop {
        match rustix::process::waitid(WaitId::PidFd(child.as_fd()), WaitIdOptions::EXITED) {
            Ok(Some(status)) => {
                let signal = status.terminating_signal();
                return Ok(signal.map_or(Ending::Status(status.exit_status().unwrap_or(0)), Ending::Signal));
            }
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Waits until the process of a handle has ended, child or not. Returns whether it has, within `limit`.
///
/// # Errors
/// If the kernel fails us.
pub fn wait_for(process: BorrowedFd<'_>, limit: Duration) -> io::Result<bool> {
    let began = Instant::now();
    loop {
        let Some(left) = limit.checked_sub(began.elapsed()) else { return Ok(false) };
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        match rustix::event::poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&timeout)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(true),
            Err(e) => return Err(e.into()),
        }
    }
}
