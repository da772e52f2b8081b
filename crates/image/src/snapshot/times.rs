//! Times that do not tell when a layer was made: `SOURCE_DATE_EPOCH` (reproducible-builds.org).

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use sampan_base::FileError;
use sampan_kernel::beneath::{self, RootDir};

use crate::layer::place::{mtime_of, timestamps};
use crate::limits::MAX_PATH_DEPTH;
use crate::tar::Mtime;

/// Sets the modification time of everything in the tree that is younger than `epoch` to it.
pub(super) fn not_after(tree: &Path, epoch: i64) -> Result<(), FileError> {
    let failed = || FileError::on("set the times of the files in", tree);
    let root = RootDir::open(tree).map_err(failed())?;
    directory(root.as_fd(), epoch, 0).map_err(failed())
}

fn directory(directory_fd: BorrowedFd<'_>, epoch: i64, depth: usize) -> io::Result<()> {
    if depth > MAX_PATH_DEPTH {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "directories are nested too deep"));
    }
    for name in beneath::sorted_names(directory_fd)? {
        entry(directory_fd, &name, epoch, depth)?;
    }
    Ok(())
}

fn entry(parent: BorrowedFd<'_>, name: &OsStr, epoch: i64, depth: usize) -> io::Result<()> {
    let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let inside = rustix::fs::openat(parent, name, flags, Mode::empty())?;
        directory(inside.as_fd(), epoch, depth + 1)?;
    }
    let limit = Mtime { seconds: epoch, nanoseconds: 0 };
    let mtime = mtime_of(&stat);
    if (mtime.seconds, mtime.nanoseconds) > (limit.seconds, 0) {
        rustix::fs::utimensat(parent, name, &timestamps(limit), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}
