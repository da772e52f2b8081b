//! A container's first process under `--init`: starts the program, passes signals on to it, and reaps what is left to it.
//!
//! It is this executable under the name `docker-init` (`docker-init [--] PROGRAM [ARGUMENT…]`), bound read-only into the
//! container, so nothing of it has to be in the image. It ends as the program does; the kernel then ends the rest.
//!
//! The program stays in this process's group. So what a terminal sends (Ctrl-C) reaches it without help, and only what
//! others send is passed on.

use std::ffi::OsString;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions};
use sampan_kernel::signals::{self, SignalFd};

const SIGCHLD: i32 = 17;
/// The last signal that has a name; above them are the real-time ones.
const LAST_NAMED: i32 = 31;
/// What can't be blocked (KILL, STOP), and what tells of a mistake in this program itself.
const OWN: [i32; 9] = [4, 5, 6, 7, 8, 9, 11, 19, 31];

/// Whether the program was called by this name.
pub fn is_called() -> bool {
    let name = std::env::args_os().next().unwrap_or_default();
    std::path::Path::new(&name).file_name().is_some_and(|name| name == "docker-init")
}

/// Runs; answers the exit status.
pub fn main() -> u8 {
    let mut arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "--") {
        arguments.remove(0);
    }
    let Some((program, arguments)) = arguments.split_first() else {
        return fail("docker-init: there is no program to run", 127);
    };
    // Where it is not the first process of a PID namespace, what is orphaned would go to somebody else.
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
    let passed: Vec<i32> = (1..=LAST_NAMED).chain(34..=64).filter(|n| !OWN.contains(n)).collect();
    let signals = match signals::open(&passed) {
        Ok(signals) => signals,
        Err(error) => return fail(&format!("docker-init: cannot take signals: {error}"), 126),
    };
    let mut command = Command::new(program);
    command.args(arguments);
    signals::unblock_in(&mut command);
    let child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            let status = if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 };
            return fail(&format!("docker-init: cannot run {}: {error}", program.to_string_lossy()), status);
        }
    };
    let Some(child) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) else { return 126 };
    look_after(child, &signals)
}

fn fail(text: &str, status: u8) -> u8 {
    // Nobody is left to tell if that fails.
    let _ = writeln!(std::io::stderr(), "{text}");
    status
}

fn look_after(child: Pid, signals: &SignalFd) -> u8 {
    loop {
        let mut polled = [PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN)];
        match rustix::event::poll(&mut polled, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return fail(&format!("docker-init: cannot wait: {error}"), 126),
        }
        while let Ok(Some(received)) = signals.next() {
            if received.signal == SIGCHLD {
                if let Some(status) = reap(child) {
                    return status;
                }
            } else if !received.by_kernel {
                let signal =
                    Signal::from_named_raw(received.signal).or_else(|| signals::real_time(received.signal));
                if let Some(signal) = signal {
                    // It may have ended just now: its end is told next.
                    let _ = rustix::process::kill_process(child, signal);
                }
            }
        }
    }
}

/// Takes every child that has ended; answers the status to end with, if the program is among them.
fn reap(child: Pid) -> Option<u8> {
    let mut ended = None;
    while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
        if pid == child {
            let status = ExitStatus::from_raw(status.as_raw());
            let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
            ended = Some(u8::try_from(code).unwrap_or(255));
        }
    }
    ended
}
