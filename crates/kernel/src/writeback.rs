//! Writing files back early: `sync_file_range(2)`.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Starts to write what is dirty in a part of a file to disk, and does not wait for it: who syncs the file system later
/// has less to wait for.
///
/// # Errors
/// If the file is none that is on a disk.
pub fn start(file: impl AsFd, offset: u64, length: u64) -> io::Result<()> {
    let range = |n: u64| i64::try_from(n).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
    let (offset, length) = (range(offset)?, range(length)?);
    let descriptor = file.as_fd().as_raw_fd();
    // SAFETY: the call takes no pointers, and the descriptor is open as long as `file` lives.
    let done = unsafe { libc::sync_file_range(descriptor, offset, length, libc::SYNC_FILE_RANGE_WRITE) };
    crate::checked(libc::c_long::from(done)).map(drop)
}
