//! Acting on files as somebody else: the user and group that the kernel asks for alone where files are concerned.
//!
//! They are a thread's, so what is to be done is done on a thread of its own, which is then gone: nothing has to be put back,
//! and nobody else is ever somebody else.

use std::io;

/// Does `work` with the ids `uid` and `gid` for files and all of this thread's capabilities. What is made belongs to these ids,
/// and so what the kernel keeps to act with later: overlayfs, for one, acts with those of whoever mounted it.
///
/// # Errors
/// If there can be no thread, or it may not take these ids.
///
/// # Panics
/// If `work` does.
pub fn as_user<T: Send>(uid: u32, gid: u32, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let other = std::thread::Builder::new().name("fs-user".into()).spawn_scoped(scope, || {
            become_user(uid, gid)?;
            Ok(work())
        });
        match other?.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

fn become_user(uid: u32, gid: u32) -> io::Result<()> {
    let capabilities = rustix::thread::capabilities(None)?;
    for (call, id) in [(libc::SYS_setfsgid, gid), (libc::SYS_setfsuid, uid)] {
        // The kernel answers what was before, whether it obeys or not; -1 is no id and changes nothing.
        // SAFETY: setfsgid(2) and setfsuid(2) take a number, and change the calling thread alone.
        unsafe { libc::syscall(call, libc::c_ulong::from(id)) };
        // SAFETY: as above.
        if unsafe { libc::syscall(call, libc::c_ulong::from(u32::MAX)) } != libc::c_long::from(id) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
    }
    // Whoever is no longer 0 here loses those that are about files.
    Ok(rustix::thread::set_capabilities(None, capabilities)?)
}
