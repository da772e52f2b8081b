//! A process in the foreground: its signals are ours, its end is ours, and its terminal is the one we are at.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::process::Signal;
use rustix::termios::{OptionalActions, Termios};
use sampan_kernel::signals::{self, SignalFd};

use crate::ending::{Ending, wait_status};
use crate::process::terminal;

/// What is passed on: all that people and programs send on purpose.
const PASSED_ON: [Signal; 10] = [
    Signal::HUP,
    Signal::INT,
    Signal::QUIT,
    Signal::USR1,
    Signal::USR2,
    Signal::ALARM,
    Signal::TERM,
    Signal::CONT,
    Signal::WINCH,
    Signal::POWER,
];

/// How many bytes of input wait for the process to read them.
const BUFFER: usize = 16 * 1024;

/// Takes the signals that are passed on. Before the process exists, so that none is lost.
///
/// # Errors
/// If the kernel has no descriptors left.
pub fn take_signals() -> io::Result<SignalFd> {
    signals::open(&PASSED_ON.map(Signal::as_raw))
}

/// Stays with a child until it has ended; `terminal` is the other end of its terminal, if it has one.
///
/// # Errors
/// If the kernel fails us; the child is left alone then.
pub fn stay(child: &OwnedFd, signals: &SignalFd, terminal: Option<OwnedFd>) -> io::Result<Ending> {
    let _raw = terminal.as_ref().map(|_| RawMode::enter(io::stdin().as_fd()));
    let mut relay = match terminal {
        Some(controller) => {
            rustix::io::ioctl_fionbio(&controller, true)?;
            copy_size(controller.as_fd());
            Some(Relay { controller, input: Vec::new(), input_open: true, output_open: true })
        }
        None => None,
    };
    loop {
        let (ended, signalled, input, output, room) = poll(child, signals, relay.as_ref())?;
        if signalled {
            while let Some(received) = signals.next()? {
                pass_on(child, received.signal, relay.as_ref());
            }
        }
        if let Some(relay) = &mut relay {
            relay.work(input, output, room)?;
        }
        if ended {
            if let Some(relay) = &mut relay {
                // What it said last is still in the terminal.
                relay.output()?;
            }
            return wait_status(child);
        }
    }
}

fn poll(
    child: &OwnedFd,
    signals: &SignalFd,
    relay: Option<&Relay>,
) -> io::Result<(bool, bool, bool, bool, bool)> {
    let stdin = io::stdin();
    let mut fds = vec![PollFd::new(child, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
    if let Some(relay) = relay {
        let mut wanted = PollFlags::empty();
        wanted.set(PollFlags::IN, relay.output_open);
        wanted.set(PollFlags::OUT, !relay.input.is_empty());
        if !wanted.is_empty() {
            fds.push(PollFd::new(&relay.controller, wanted));
        }
        if relay.input_open && relay.input.is_empty() {
            fds.push(PollFd::new(&stdin, PollFlags::IN));
        }
    }
    match rustix::event::poll(&mut fds, None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(e) => return Err(e.into()),
    }
    let happened = |index: usize, flags| fds.get(index).is_some_and(|fd| fd.revents().intersects(flags));
    let any_in = PollFlags::IN | PollFlags::HUP | PollFlags::ERR;
    let controller_polled = relay.is_some_and(|r| r.output_open || !r.input.is_empty());
    let (controller, stdin) = if controller_polled { (2, 3) } else { (usize::MAX, 2) };
    Ok((
        happened(0, any_in),
        happened(1, any_in),
        happened(stdin, any_in),
        happened(controller, any_in),
        happened(controller, PollFlags::OUT),
    ))
}

fn pass_on(child: &OwnedFd, signal: i32, relay: Option<&Relay>) {
    match (Signal::from_named_raw(signal), relay) {
        (Some(Signal::WINCH), Some(relay)) => copy_size(relay.controller.as_fd()),
        // A child that has ended needs no signal.
        (Some(signal), _) => drop(rustix::process::pidfd_send_signal(child, signal)),
        (None, _) => {}
    }
}

/// Gives a terminal the size of the one we are at, if we are at one.
fn copy_size(controller: BorrowedFd<'_>) {
    if let Some((rows, columns)) = terminal::own_size() {
        // A size that can't be set is cosmetic.
        let _ = terminal::set_size(controller, rows, columns);
    }
}

/// Bytes on their way between our standard streams and a terminal's other end.
struct Relay {
    controller: OwnedFd,
    input: Vec<u8>,
    input_open: bool,
    output_open: bool,
}

impl Relay {
    fn work(&mut self, input: bool, output: bool, room: bool) -> io::Result<()> {
        if output {
            self.output()?;
        }
        if input {
            let mut buffer = vec![0; BUFFER];
            match rustix::io::read(io::stdin(), &mut buffer) {
                Ok(0) => self.input_open = false,
                Ok(length) => self.input.extend(&buffer[..length]),
                Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
                Err(_) => self.input_open = false,
            }
        }
        if (room || input) && !self.input.is_empty() {
            match rustix::io::write(&self.controller, &self.input) {
                Ok(length) => drop(self.input.drain(..length)),
                Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
                // Nobody reads any more.
                Err(_) => self.input.clear(),
            }
        }
        Ok(())
    }

    /// Shows what there is to be shown.
    fn output(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        while self.output_open {
            match rustix::io::read(&self.controller, &mut buffer) {
                // Every process has closed its end.
                Ok(0) | Err(rustix::io::Errno::IO) => self.output_open = false,
                Ok(length) => io::Write::write_all(&mut io::stdout().lock(), &buffer[..length])?,
                Err(rustix::io::Errno::AGAIN) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        io::Write::flush(&mut io::stdout().lock())
    }
}

/// The terminal we are at, raw until dropped: every key goes to the container.
struct RawMode {
    before: Option<Termios>,
}

impl RawMode {
    fn enter(terminal: BorrowedFd<'_>) -> RawMode {
        let before = rustix::termios::tcgetattr(terminal).ok();
        if let Some(before) = &before {
            let mut raw = before.clone();
            raw.make_raw();
            let _ = rustix::termios::tcsetattr(terminal, OptionalActions::Now, &raw);
        }
        RawMode { before }
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = rustix::termios::tcsetattr(io::stdin(), OptionalActions::Now, before);
        }
    }
}
