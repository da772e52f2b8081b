//! Network namespaces that live by a file: made on a thread of their own, kept by a bind mount, entered the same way. (What
//! keeps them keeps namespaces of other kinds, too.)
//!
//! A thread that has entered a namespace ends there; the caller's thread never changes its own.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

/// Makes a network namespace with `lo` up, and keeps it at `path`, which must not exist.
///
/// # Errors
/// If the file, the namespace or the mount can't be made; nothing is left then.
pub fn create(path: &Path) -> io::Result<()> {
    keep(&make(|| Ok(()))?, path)
}

/// Makes a network namespace with `lo` up, and calls `setup` in it. It lives by the descriptor until it is kept.
///
/// # Errors
/// If it can't be made, or what `setup` says.
pub fn make(setup: impl FnOnce() -> io::Result<()> + Send) -> io::Result<File> {
    on_a_thread(|| {
        // SAFETY: only this thread changes its network namespace; it shares no socket with others and ends here.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?;
        raise_loopback()?;
        setup()?;
        File::open("/proc/thread-self/ns/net")
    })
}

/// Keeps a namespace at `path`, which must not exist.
///
/// # Errors
/// If the file or the mount can't be made; nothing is left then.
pub fn keep(namespace: &File, path: &Path) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    OpenOptions::new().write(true).create_new(true).mode(0o444).open(path)?;
    let kept = mount_bind(format!("/proc/self/fd/{}", namespace.as_raw_fd()), path);
    if kept.is_err() {
        let _ = std::fs::remove_file(path); // made above, and of no use
    }
    Ok(kept?)
}

/// Takes the namespace at `path` away. It ends when no process and no descriptor is in it any more.
///
/// # Errors
/// If what is there can't be unmounted or removed; no error if nothing is there.
pub fn remove(path: &Path) -> io::Result<()> {
    loop {
        match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL) => break, // the bare file
            Err(rustix::io::Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    std::fs::remove_file(path)
}

/// Opens the namespace at `path`.
///
/// # Errors
/// If it can't be opened, or is no network namespace (a bare file that a crash left, for one).
pub fn open(path: &Path) -> io::Result<File> {
    let file = File::open(path)?;
    let kind = ioctl_ns_type(file.as_fd())?;
    if kind != libc::CLONE_NEWNET {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a network namespace"));
    }
    Ok(file)
}

/// Runs `work` on a thread that is in the network namespace `namespace`.
///
/// # Errors
/// If the thread can't be started or can't enter, or what `work` says.
pub fn within<T: Send>(
    namespace: BorrowedFd<'_>,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    on_a_thread(|| {
        rustix::thread::move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network))?;
        work()
    })
}

fn on_a_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        // A small stack: the work is a few system calls.
        let thread = std::thread::Builder::new().stack_size(128 << 10).spawn_scoped(scope, work)?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread in the namespace panicked")))
    })
}

fn ioctl_ns_type(fd: BorrowedFd<'_>) -> io::Result<i32> {
    use std::os::fd::AsRawFd;
    const NS_GET_NSTYPE: libc::c_ulong = 0xb703;
    // SAFETY: NS_GET_NSTYPE takes no argument; on another kind of file it fails with ENOTTY.
    match unsafe { libc::ioctl(fd.as_raw_fd(), NS_GET_NSTYPE) } {
        kind if kind >= 0 => Ok(kind),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Brings up `lo` of the calling thread's network namespace.
///
/// # Errors
/// If the kernel refuses.
pub fn raise_loopback() -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: all zeros is a valid `ifreq`, which is plain data.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo\0") {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads an `ifreq`, which `request` is, and keeps no pointer to it.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
