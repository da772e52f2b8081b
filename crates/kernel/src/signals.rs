//! Signals as a descriptor to poll: block them, then read them from a `signalfd(2)`.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// A descriptor that becomes readable when one of its signals is pending for this process.
#[derive(Debug)]
pub struct SignalFd(OwnedFd);

/// One signal taken from a [`SignalFd`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Received {
    /// The signal's number.
    pub signal: i32,
    /// The process that sent it, 0 if the kernel did, or one that this PID namespace does not see.
    pub sender: u32,
    /// The kernel sent it: a terminal's key, a child's end, …
    pub by_kernel: bool,
}

/// Blocks `signals` in this thread (and in the threads it starts later) and opens a descriptor for them.
/// A program calls it first thing in `main`, before any thread exists.
///
/// # Errors
/// If a number is no signal, or the descriptor can't be made.
pub fn open(signals: &[i32]) -> io::Result<SignalFd> {
    let set = set_of(signals)?;
    // SAFETY: both pointers are to initialised sets or null, and pthread_sigmask(3) only reads `set`.
    let blocked = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
    if blocked != 0 {
        return Err(io::Error::from_raw_os_error(blocked));
    }
    // SAFETY: `set` is initialised and only read; -1 asks for a new descriptor.
    let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: signalfd(2) has just returned this descriptor, so nobody else owns it.
    Ok(SignalFd(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// Unblocks every signal in this thread: for a child, between fork and exec, which inherits the mask.
///
/// # Errors
/// Only if the kernel refuses an empty mask, which it does not.
pub fn unblock_all() -> io::Result<()> {
    let set = set_of(&[])?;
    // SAFETY: `set` is initialised and only read; the old mask is not asked for.
    match unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()) } {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// A reader that is gone becomes an error to report, not a reason to die.
pub fn ignore_broken_pipes() {
    // SAFETY: to ignore a signal names no code.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// Lets the program that `command` starts begin with no signal blocked, whatever this one blocks.
pub fn unblock_in(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    // SAFETY: between fork and exec the closure only fills a set on its stack and calls pthread_sigmask(3), which are
    // async-signal-safe.
    unsafe { command.pre_exec(unblock_all) };
}

fn set_of(signals: &[i32]) -> io::Result<libc::sigset_t> {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset(3) writes a whole set through the pointer, which is valid for that.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: initialised on the line above.
    let mut set = unsafe { set.assume_init() };
    for &signal in signals {
        // SAFETY: `set` is initialised; a number that is no signal is refused with EINVAL.
        if unsafe { libc::sigaddset(&raw mut set, signal) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(set)
}

impl SignalFd {
    /// The next pending signal, or `None` if there is none now.
    ///
    /// # Errors
    /// If the descriptor can't be read.
    pub fn next(&self) -> io::Result<Option<Received>> {
        let mut info = std::mem::MaybeUninit::<libc::signalfd_siginfo>::uninit();
        let size = size_of::<libc::signalfd_siginfo>();
        // SAFETY: the buffer is valid for `size` bytes of writes.
        let n = unsafe { libc::read(self.0.as_raw_fd(), info.as_mut_ptr().cast(), size) };
        if n < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::WouldBlock { Ok(None) } else { Err(error) };
        }
        // SAFETY: signalfd(2) gives whole records only, so a successful read filled all of it.
        let info = unsafe { info.assume_init() };
        Ok(Some(Received {
            signal: i32::try_from(info.ssi_signo).unwrap_or(0),
            sender: info.ssi_pid,
            // What processes send has codes that are not positive (sigaction(2)).
            by_kernel: info.ssi_code > 0,
        }))
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The real-time signal of this number, for sending to another process; `None` if it is none.
pub fn real_time(number: i32) -> Option<rustix::process::Signal> {
    if !(34..=64).contains(&number) {
        return None;
    }
    // SAFETY: the number is a signal's and not 0. It is only for sending: what the C library keeps for itself are
    // numbers below 34, and those of *this* process, not of the receiver.
    Some(unsafe { rustix::process::Signal::from_raw_unchecked(number) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_sent_to_this_thread_is_read_once() {
        let fd = open(&[libc::SIGUSR1]).unwrap();
        assert_eq!(fd.next().unwrap(), None);
        // SAFETY: raise(3) has no preconditions; the signal is blocked.
        unsafe { libc::raise(libc::SIGUSR1) };
        let received = fd.next().unwrap().unwrap();
        assert_eq!((received.signal, received.sender), (libc::SIGUSR1, std::process::id()));
        assert_eq!(fd.next().unwrap(), None);
    }
}
