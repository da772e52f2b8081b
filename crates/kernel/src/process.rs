//! Children in new namespaces, exec, and what only the calling process can do to itself.

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use rustix::process::Pid;

use crate::checked;

bitflags::bitflags! {
    /// Namespaces, as `clone3(2)`, `unshare(2)` and `setns(2)` name them.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Namespaces: u64 {
        /// The monotonic and boot clocks.
        const TIME = 0x80;
        /// Mounts.
        const MOUNT = 0x0002_0000;
        /// The view of the cgroup tree.
        const CGROUP = 0x0200_0000;
        /// Host and domain name.
        const UTS = 0x0400_0000;
        /// System V IPC and message queues.
        const IPC = 0x0800_0000;
        /// Users, groups, capabilities.
        const USER = 0x1000_0000;
        /// Processes.
        const PID = 0x2000_0000;
        /// Network devices, addresses, ports.
        const NET = 0x4000_0000;
    }
}

/// How to make a child.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clone<'a> {
    /// The namespaces that are new for it.
    pub namespaces: Namespaces,
    /// The directory of the cgroup (v2) that it starts in.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// Whether it becomes a child of this process's parent.
    pub sibling: bool,
    /// Descriptors that it does not get: they belong to what only the parent does from here on.
    pub without: &'a [BorrowedFd<'a>],
}

/// A child that was made.
#[derive(Debug)]
pub struct Child {
    /// Its number in this process's PID namespace.
    pub pid: Pid,
    /// A handle that can't come to mean another process.
    pub pidfd: OwnedFd,
}

/// Makes a child that runs `body` and then ends with the status it returned. The child has a copy of everything,
/// as after `fork(2)`: only the calling thread lives in it, so this is refused to a process with more than one.
///
/// # Errors
/// If this process has several threads, or the kernel refuses.
pub fn clone(how: &Clone<'_>, body: impl FnOnce() -> i32) -> io::Result<Child> {
    const CLONE_PARENT: u64 = 0x8000;
    const CLONE_PIDFD: u64 = 0x1000;
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    require_single_thread()?;
    let mut pidfd: RawFd = -1;
    let mut arguments = libc::clone_args {
        flags: how.namespaces.bits() | CLONE_PIDFD,
        pidfd: (&raw mut pidfd).addr() as u64,
        // A sibling's end is told to the parent by the signal that this process's own end will send.
        exit_signal: if how.sibling { 0 } else { libc::SIGCHLD as u64 },
        ..NO_ARGUMENTS
    };
    if how.sibling {
        arguments.flags |= CLONE_PARENT;
    }
    if let Some(cgroup) = how.cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = u64::from(cgroup.as_raw_fd().unsigned_abs());
    }
    // SAFETY: without CLONE_VM the child runs on a copy of this memory, as after fork(2). This process has one
    // thread, so no lock of another one is held in the copy. The kernel reads `size_of` bytes of the arguments and
    // writes a descriptor to `pidfd`; both live through the call.
    let pid = checked(unsafe {
        libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<libc::clone_args>())
    })?;
    if pid == 0 {
        for fd in how.without {
            // SAFETY: the owners are in the parent's frames, to which this process never returns: it leaves by
            // `exit_now` or exec, so nobody here uses or closes the number again.
            unsafe { libc::close(fd.as_raw_fd()) };
        }
        // A panic must not unwind into the caller's frames: they are the parent's business.
        let status = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).unwrap_or(101);
        exit_now(status);
    }
    // SAFETY: the kernel has just made this descriptor for us, so nobody else owns it.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    Ok(Child { pid: pid.ok_or_else(|| io::Error::other("the kernel returned no process number"))?, pidfd })
}

/// clone3(2), as fork(2) but that nobody hears of the end.
pub(crate) const NO_ARGUMENTS: libc::clone_args = libc::clone_args {
    flags: 0,
    pidfd: 0,
    child_tid: 0,
    parent_tid: 0,
    exit_signal: 0,
    stack: 0,
    stack_size: 0,
    tls: 0,
    set_tid: 0,
    set_tid_size: 0,
    cgroup: 0,
};

/// Ends this process without running any handler or flushing any buffer.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: _exit(2) has no preconditions and does not return.
    unsafe { libc::_exit(status) }
}

pub(crate) fn require_single_thread() -> io::Result<()> {
    // A task directory has two links and one for each thread.
    let links = rustix::fs::stat("/proc/self/task").map(|stat| stat.st_nlink);
    match links {
        Ok(3) => Ok(()),
        Ok(n) => {
            Err(io::Error::other(format!("{} threads are running, only one may be", n.saturating_sub(2))))
        }
        Err(e) => Err(e.into()),
    }
}

/// Moves this process (of one thread) into new namespaces of its own.
///
/// # Errors
/// If the kernel refuses.
pub fn unshare(namespaces: Namespaces) -> io::Result<()> {
    // SAFETY: unshare(2) touches no memory; without CLONE_FILES, CLONE_FS and CLONE_VM no safety promise of std
    // depends on what it changes.
    checked(unsafe { libc::syscall(libc::SYS_unshare, namespaces.bits()) })?;
    Ok(())
}

/// Moves this process (of one thread) into the namespaces of the process of a pidfd, or into the one namespace that
/// a descriptor of `/proc/PID/ns` refers to. A PID namespace takes effect for children only.
///
/// # Errors
/// If the kernel refuses.
pub fn join(target: BorrowedFd<'_>, namespaces: Namespaces) -> io::Result<()> {
    // SAFETY: setns(2) touches no memory.
    checked(unsafe { libc::syscall(libc::SYS_setns, target.as_raw_fd(), namespaces.bits()) })?;
    Ok(())
}

/// Strings as the kernel takes them: terminated, and listed by a terminated array of pointers.
#[derive(Debug)]
pub struct StringArray {
    strings: Vec<CString>,
}

impl StringArray {
    /// Takes `strings`.
    ///
    /// # Errors
    /// If one of them has a NUL byte in it.
    pub fn new<S: Into<Vec<u8>>>(strings: impl IntoIterator<Item = S>) -> io::Result<StringArray> {
        let strings = strings.into_iter().map(CString::new).collect::<Result<_, _>>()?;
        Ok(StringArray { strings })
    }

    fn pointers(&self) -> Vec<*const libc::c_char> {
        self.strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
    }
}

/// Becomes the program at `path`.
///
/// # Errors
/// Always, if it returns.
pub fn execute(path: &CStr, arguments: &StringArray, environment: &StringArray) -> io::Result<Infallible> {
    let (argv, envp) = (arguments.pointers(), environment.pointers());
    // SAFETY: `path` is terminated; both arrays are terminated by null and their strings by NUL, and all live here.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    Err(io::Error::last_os_error())
}

/// Becomes the program that `file` is open on.
///
/// # Errors
/// Always, if it returns.
pub fn execute_file(
    file: BorrowedFd<'_>,
    arguments: &StringArray,
    environment: &StringArray,
) -> io::Result<Infallible> {
    let (argv, envp) = (arguments.pointers(), environment.pointers());
    // SAFETY: as in `execute`; the path is empty, so AT_EMPTY_PATH takes the descriptor itself.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            file.as_raw_fd(),
            c"".as_ptr(),
            argv.as_ptr(),
            envp.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    Err(io::Error::last_os_error())
}

/// Makes every descriptor from `first` on close when a program is executed.
///
/// # Errors
/// If the kernel refuses, or is older than 5.11 (`ENOSYS`, `EINVAL`).
pub fn close_from_on_exec(first: u32) -> io::Result<()> {
    // SAFETY: only marks descriptors; nothing is closed here, so no owner loses one.
    checked(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) })?;
    Ok(())
}

/// Closes descriptors, neighbours by one call.
pub fn close_all(fds: impl IntoIterator<Item = OwnedFd>) {
    let mut numbers: Vec<RawFd> = fds.into_iter().map(OwnedFd::into_raw_fd).collect();
    numbers.sort_unstable();
    for run in numbers.chunk_by(|one, next| one + 1 == *next) {
        let (first, last) = (run[0], run[run.len() - 1]);
        // SAFETY: all from the first to the last are ours, and nobody uses them any more. What the kernel says is of
        // no interest, as for any close; one before 5.9 leaves them open until exec or exit.
        unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    }
}

/// Closes every descriptor from `first` on but those of `keep`. For a process that is about to become another program
/// and must not take along, until then, what others opened in it: a path like `/proc/self/fd/7/..` would lead there.
///
/// # Errors
/// If the kernel refuses, or is older than 5.9 (`ENOSYS`).
pub fn close_all_from(first: u32, keep: &[BorrowedFd<'_>]) -> io::Result<()> {
    let close = |first: u32, last: u32| -> io::Result<()> {
        // SAFETY: as for the descriptors that a child of `clone` does not get: their owners are in frames of the
        // parent, which this process never returns to, and who is alive in this process is in `keep`.
        checked(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) })?;
        Ok(())
    };
    let mut kept: Vec<u32> = keep.iter().map(|fd| fd.as_raw_fd().unsigned_abs()).collect();
    kept.sort_unstable();
    let mut next = first;
    for fd in kept.into_iter().filter(|fd| *fd >= first) {
        if fd > next {
            close(next, fd - 1)?;
        }
        next = fd + 1;
    }
    close(next, u32::MAX)
}

/// Joins a new session keyring, so that keys of the caller's session are out of reach. It has no name of its own: one
/// that has could be there already, made by somebody who wants to share it.
///
/// # Errors
/// If the kernel refuses or has no keyrings.
pub fn new_session_keyring() -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    let no_name = std::ptr::null::<libc::c_char>();
    // SAFETY: a null pointer stands for no name; no memory is touched.
    checked(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, no_name) })?;
    Ok(())
}

/// Sets the I/O scheduling class (1 real time, 2 best effort, 3 idle) and priority of this process.
///
/// # Errors
/// If the kernel refuses.
pub fn set_io_priority(class: u16, priority: u16) -> io::Result<()> {
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    let value = (libc::c_int::from(class) << 13) | libc::c_int::from(priority & 0x1fff);
    // SAFETY: touches no memory; process 0 is the caller.
    checked(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, value) })?;
    Ok(())
}

/// A scheduling policy and its parameters, `sched_setattr(2)`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Scheduling {
    /// The policy's number.
    pub policy: u32,
    /// `SCHED_FLAG_…`.
    pub flags: u64,
    /// The nice value.
    pub nice: i32,
    /// The static priority.
    pub priority: u32,
    /// Nanoseconds of SCHED_DEADLINE.
    pub runtime: u64,
    /// Nanoseconds of SCHED_DEADLINE.
    pub deadline: u64,
    /// Nanoseconds of SCHED_DEADLINE.
    pub period: u64,
}

/// Sets how this process is scheduled.
///
/// # Errors
/// If the kernel refuses.
pub fn set_scheduling(how: &Scheduling) -> io::Result<()> {
    #[repr(C)]
    struct SchedAttr {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        runtime: u64,
        deadline: u64,
        period: u64,
    }
    let attributes = SchedAttr {
        size: size_of::<SchedAttr>() as u32,
        policy: how.policy,
        flags: how.flags,
        nice: how.nice,
        priority: how.priority,
        runtime: how.runtime,
        deadline: how.deadline,
        period: how.period,
    };
    // SAFETY: the kernel reads `size` bytes of the structure, which lives through the call; process 0 is the caller.
    checked(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) })?;
    Ok(())
}

/// Sets the NUMA memory policy: the mode with its flags, and the nodes, bit n of word n/64 for node n.
///
/// # Errors
/// If the kernel refuses.
pub fn set_memory_policy(mode: u32, nodes: &[u64]) -> io::Result<()> {
    // The kernel takes one bit less than it is told.
    let bits = nodes.len() * 64 + 1;
    let pointer = if nodes.is_empty() { std::ptr::null() } else { nodes.as_ptr() };
    // SAFETY: the kernel reads as many bits as it is told, less one: those of the slice, which lives through the call.
    checked(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, pointer, bits) })?;
    Ok(())
}

/// Sets the execution domain: `0` Linux, `8` Linux with 32 bits.
///
/// # Errors
/// If the kernel refuses.
pub fn set_personality(domain: u32) -> io::Result<()> {
    // SAFETY: touches no memory.
    checked(unsafe { libc::syscall(libc::SYS_personality, libc::c_ulong::from(domain)) })?;
    Ok(())
}

/// Gives the signals that callers commonly ignore their default effect, and blocks none: what a program expects that
/// was executed afresh. (Handlers go with exec, but what is ignored stays ignored.)
///
/// # Errors
/// Only if the kernel refuses an empty mask, which it does not.
pub fn reset_signals() -> io::Result<()> {
    const SIGNALS: [libc::c_int; 10] = [
        libc::SIGHUP,
        libc::SIGINT,
        libc::SIGQUIT,
        libc::SIGUSR1,
        libc::SIGUSR2,
        libc::SIGPIPE,
        libc::SIGTERM,
        libc::SIGCHLD,
        libc::SIGTTIN,
        libc::SIGTTOU,
    ];
    for signal in SIGNALS {
        // SAFETY: the default action is no handler, so no code of ours is named.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    crate::signals::unblock_all()
}

/// Brings up the loopback interface of this process's network namespace.
///
/// # Errors
/// If the kernel refuses.
pub fn loopback_up() -> io::Result<()> {
    #[repr(C)]
    struct Request {
        name: [u8; 16],
        flags: libc::c_short,
        padding: [u8; 22],
    }
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    let mut request = Request { name: [0; 16], flags: 0, padding: [0; 22] };
    request.name[..2].copy_from_slice(b"lo");
    request.flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the kernel reads a structure of the size of `ifreq` (40 bytes), which `Request` has and which lives
    // through the call.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    checked(libc::c_long::from(done))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_threads_may_not_clone() {
        // The test harness runs tests in threads.
        let error = clone(&Clone::default(), || 0).unwrap_err();
        assert!(error.to_string().contains("threads are running"), "{error}");
    }

    #[test]
    fn what_is_closed_is_closed_and_nothing_else() {
        use std::io::Read;
        let (mut reader, kept) = std::io::pipe().unwrap();
        let copies: Vec<OwnedFd> = (0..5).map(|_| kept.try_clone().unwrap().into()).collect();
        close_all(copies);
        drop(kept);
        // The end is seen only when no writer is left.
        assert_eq!(reader.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn strings_with_nul_are_refused() {
        assert!(StringArray::new(["a", "b\0c"]).is_err());
        assert_eq!(StringArray::new(["a", "b"]).unwrap().pointers().len(), 3);
    }
}
