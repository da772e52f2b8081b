//! `tmpcopyup`: a tmpfs that begins as a copy of the directory that it hides.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};

/// Directories deeper than this are refused: each holds two descriptors while it is copied.
const MAX_DEPTH: u32 = 128;

/// Copies all of the directory `from` into the empty directory `to`, with `own_mode` its own owner and permissions.
pub(super) fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>, own_mode: bool) -> io::Result<()> {
    let from = reopen(from)?;
    contents(&from, to, MAX_DEPTH)?;
    if own_mode { itself(&from, to) } else { Ok(()) }
}

/// A directory that can be listed, from a handle.
fn reopen(handle: BorrowedFd<'_>) -> io::Result<std::os::fd::OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(handle, c".", flags, Mode::empty())?)
}

fn contents(from: &std::os::fd::OwnedFd, to: BorrowedFd<'_>, depth: u32) -> io::Result<()> {
    if depth == 0 {
        return Err(io::Error::other("directories are nested too deep"));
    }
    for entry in Dir::read_from(from)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if matches!(name.as_bytes(), b"." | b"..") {
            continue;
        }
        let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        one(from.as_fd(), to, name, &stat, depth)?;
    }
    Ok(())
}

/// Gives a directory the owner and permissions of another.
fn itself(from: &std::os::fd::OwnedFd, to: BorrowedFd<'_>) -> io::Result<()> {
    let stat = rustix::fs::fstat(from)?;
    own(to, OsStr::new("."), &stat)?;
    Ok(rustix::fs::chmodat(to, c".", permissions(&stat), AtFlags::empty())?)
}

fn one(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &OsStr, stat: &Stat, depth: u32) -> io::Result<()> {
    let kind = FileType::from_raw_mode(stat.st_mode);
    let open = OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match kind {
        FileType::Directory => {
            rustix::fs::mkdirat(to, name, Mode::from_raw_mode(0o700))?;
            let flags = open | OFlags::DIRECTORY | OFlags::RDONLY;
            let below = rustix::fs::openat(from, name, flags, Mode::empty())?;
            let made = rustix::fs::openat(to, name, flags, Mode::empty())?;
            contents(&below, made.as_fd(), depth - 1)?;
            return itself(&below, made.as_fd());
        }
        FileType::RegularFile => {
            let flags = open | OFlags::RDONLY | OFlags::NONBLOCK;
            let mut source = std::fs::File::from(rustix::fs::openat(from, name, flags, Mode::empty())?);
            let flags = open | OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
            let made = rustix::fs::openat(to, name, flags, Mode::from_raw_mode(0o600))?;
            io::copy(&mut source, &mut std::fs::File::from(made))?;
        }
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(from, name, Vec::new())?;
            rustix::fs::symlinkat(target.as_c_str(), to, name)?;
            return own(to, name, stat);
        }
        _ => rustix::fs::mknodat(to, name, kind, permissions(stat), stat.st_rdev)?,
    }
    own(to, name, stat)?;
    Ok(rustix::fs::chmodat(to, name, permissions(stat), AtFlags::empty())?)
}

fn permissions(stat: &Stat) -> Mode {
    Mode::from_raw_mode(stat.st_mode & 0o7777)
}

fn own(directory: BorrowedFd<'_>, name: &OsStr, stat: &Stat) -> io::Result<()> {
    let (uid, gid) = (rustix::fs::Uid::from_raw(stat.st_uid), rustix::fs::Gid::from_raw(stat.st_gid));
    Ok(rustix::fs::chownat(directory, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
}
