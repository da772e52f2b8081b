//! User namespaces that live by a descriptor, and network namespaces that belong to them.
//!
//! A process of several threads can't enter a new user namespace, so each is made with a process of its own: a copy of
//! this one that makes nothing but system calls, waits, and is ended as soon as its namespaces are held by descriptors.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::event::{EventfdFlags, PollFd, PollFlags};
use rustix::process::{Signal, WaitId, WaitIdOptions};

use crate::checked;
use crate::process::{NO_ARGUMENTS, Namespaces, exit_now};

/// Which ids of the host a namespace's ids are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Maps {
    /// Lines of `/proc/PID/uid_map`: the first inside, the first outside, how many.
    pub uids: String,
    /// Lines of `/proc/PID/gid_map`.
    pub gids: String,
}

/// A user namespace and a network namespace that belongs to it.
#[derive(Debug)]
pub struct Pair {
    /// The user namespace.
    pub user: File,
    /// The network namespace; its `lo` is down.
    pub network: File,
}

/// Makes a user namespace: for the mapping of mounts, or for processes to join.
///
/// # Errors
/// If the kernel refuses, the mapping for one.
pub fn make(maps: &Maps) -> io::Result<File> {
    let helper = Helper::new(Namespaces::USER, None)?;
    helper.map(maps)?;
    helper.namespace("user")
}

/// Makes a user namespace and a network namespace that belongs to it.
///
/// # Errors
/// As [`make`].
pub fn make_pair(maps: &Maps) -> io::Result<Pair> {
    let helper = Helper::new(Namespaces::USER | Namespaces::NET, None)?;
    helper.map(maps)?;
    Ok(Pair { user: helper.namespace("user")?, network: helper.namespace("net")? })
}

/// Makes a network namespace that belongs to the user namespace `owner`. Its `lo` is down.
///
/// # Errors
/// If the kernel refuses.
pub fn make_network(owner: BorrowedFd<'_>) -> io::Result<File> {
    Helper::new(Namespaces::empty(), Some(owner))?.namespace("net")
}

/// Whether `namespace` belongs to the user namespace `owner`.
///
/// # Errors
/// If one of them is no namespace, or belongs to one that we must not know.
pub fn belongs(namespace: BorrowedFd<'_>, owner: BorrowedFd<'_>) -> io::Result<bool> {
    const NS_GET_USERNS: libc::c_ulong = 0xb701;
    // SAFETY: NS_GET_USERNS takes no argument and returns a new descriptor; on another kind of file it fails.
    let found = checked(libc::c_long::from(unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_USERNS) }))?;
    let found = RawFd::try_from(found).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us, so nobody else owns it.
    let found = unsafe { OwnedFd::from_raw_fd(found) };
    let identity = |fd: BorrowedFd<'_>| rustix::fs::fstat(fd).map(|stat| (stat.st_dev, stat.st_ino));
    Ok(identity(found.as_fd())? == identity(owner)?)
}

/// The process that namespaces are made with; ended when dropped.
struct Helper {
    pid: i32,
    pidfd: OwnedFd,
}

impl Helper {
    /// Makes it in new namespaces; or in a new network namespace of the user namespace `owner`.
    fn new(namespaces: Namespaces, owner: Option<BorrowedFd<'_>>) -> io::Result<Helper> {
        const CLONE_FILES: u64 = 0x400;
        const CLONE_PIDFD: u64 = 0x1000;
        let ready = rustix::event::eventfd(0, EventfdFlags::CLOEXEC)?;
        let (told, owner) = (ready.as_raw_fd(), owner.map(|fd| fd.as_raw_fd()));
        let parent = rustix::process::getpid().as_raw_nonzero().get();
        let mut pidfd: RawFd = -1;
        let arguments = libc::clone_args {
            // The descriptors are shared: copies of them would keep alive what others close.
            flags: namespaces.bits() | CLONE_FILES | CLONE_PIDFD,
            pidfd: (&raw mut pidfd).addr() as u64,
            exit_signal: libc::SIGCHLD as u64,
            ..NO_ARGUMENTS
        };
        // SAFETY: without CLONE_VM the child runs on a copy of this memory, as after fork(2). Other threads may hold locks
        // in that copy, so the child takes none and allocates nothing: `live` makes system calls on numbers alone and
        // does not return. The kernel reads `size_of` bytes of the arguments and writes a descriptor to `pidfd`; both
        // live through the call.
        let pid = checked(unsafe {
            libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<libc::clone_args>())
        })?;
        if pid == 0 {
            live(parent, owner, told);
        }
        // SAFETY: the kernel has just made this descriptor for us, so nobody else owns it.
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        let helper = Helper { pid: i32::try_from(pid).map_err(io::Error::other)?, pidfd };
        helper.wait_until_ready(&ready)?;
        Ok(helper)
    }

    /// Until it has said that it is ready, or has ended.
    fn wait_until_ready(&self, ready: &OwnedFd) -> io::Result<()> {
        let mut polled = [PollFd::new(ready, PollFlags::IN), PollFd::new(&self.pidfd, PollFlags::IN)];
        loop {
            match rustix::event::poll(&mut polled, None) {
                Err(rustix::io::Errno::INTR) => {}
                other => {
                    other?;
                    break;
                }
            }
        }
        if !polled[0].revents().is_empty() {
            return Ok(());
        }
        // Its status is the number of the error; that it can be waited for once more is no matter.
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        let status = rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), options)?;
        let number = status.and_then(|s| s.exit_status()).unwrap_or(libc::EIO);
        Err(io::Error::from_raw_os_error(number))
    }

    fn map(&self, maps: &Maps) -> io::Result<()> {
        std::fs::write(format!("/proc/{}/uid_map", self.pid), &maps.uids)?;
        std::fs::write(format!("/proc/{}/gid_map", self.pid), &maps.gids)
    }

    fn namespace(&self, kind: &str) -> io::Result<File> {
        // It has not been waited for, so the number is still its.
        File::open(format!("/proc/{}/ns/{kind}", self.pid))
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // One that has ended needs no signal, and can be waited for all the same.
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
        let _ = rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED);
    }
}

/// Lives as the helper. Nothing here may allocate or take a lock; what is changed is this process's own, which shares nothing
/// with its parent but the table of descriptors.
fn live(parent: i32, owner: Option<RawFd>, told: RawFd) -> ! {
    let need = |returned: libc::c_long| {
        if returned < 0 {
            exit_now(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO));
        }
    };
    // What it holds of its parent's memory is not for those who are root in the namespace.
    // SAFETY: prctl(2) with these takes numbers.
    need(unsafe { libc::syscall(libc::SYS_prctl, libc::PR_SET_DUMPABLE, 0, 0, 0, 0) });
    if let Some(owner) = owner {
        // SAFETY: setns(2) takes numbers.
        need(unsafe { libc::syscall(libc::SYS_setns, owner, Namespaces::USER.bits()) });
        // SAFETY: unshare(2) takes a number.
        need(unsafe { libc::syscall(libc::SYS_unshare, Namespaces::NET.bits()) });
    }
    // It must not outlive the thread that made it and waits for it; which may be gone by now.
    // SAFETY: prctl(2) with these takes numbers.
    need(unsafe { libc::syscall(libc::SYS_prctl, libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) });
    // SAFETY: getppid(2) takes nothing.
    if unsafe { libc::getppid() } != parent {
        exit_now(0);
    }
    let one = 1u64;
    // SAFETY: write(2) reads the eight bytes of `one`, which lives through the call.
    need(unsafe { libc::syscall(libc::SYS_write, told, &raw const one, size_of::<u64>()) });
    loop {
        // SAFETY: pause(2) takes nothing.
        unsafe { libc::pause() };
    }
}
