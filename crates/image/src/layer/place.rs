//! One name in one directory: made, replaced, given its attributes. Nothing here follows a link or takes a path.

use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid};
use rustix::io::Errno;
use sampan_kernel::beneath;

use super::apply::EntryError;
use super::{OPAQUE_XATTR, is_directory, is_overlays_own};
use crate::tar::{Kind, Member, Mtime, Piece};

/// Files of at least this size are sent on their way to disk at once.
const WRITE_BACK_BYTES: u64 = 1024 * 1024;

/// The directory in which names are made.
pub(super) struct Place<'a> {
    pub(super) fd: BorrowedFd<'a>,
    /// A new file there belongs to root and has just the mode that is asked for, less these bits; `None`: it may
    /// inherit a group or an access list, so that each file's owner and mode are set.
    pub(super) umask: Option<u32>,
}

impl Place<'_> {
    /// Whether creating alone gives the member its owner and mode.
    fn creates_right(&self, member: &Member) -> bool {
        member.uid == 0 && member.gid == 0 && self.umask.is_some_and(|mask| member.mode & mask == 0)
    }

    /// The mode to create the member with.
    fn creation_mode(&self, member: &Member) -> Mode {
        Mode::from_raw_mode(if self.creates_right(member) { member.mode } else { 0o600 })
    }

    /// A regular file with its content and attributes.
    pub(super) fn file(
        &self,
        name: &OsStr,
        member: &Member,
        size: u64,
        pieces: Option<&[Piece]>,
        content: &mut impl BufRead,
    ) -> Result<(), EntryError> {
        let file = replacing(self.fd, name, || {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(self.fd, name, flags, self.creation_mode(member))
        })
        .map_err(|e| refine(e, "create the file"))?;
        let whole = [Piece { offset: 0, length: size }];
        for piece in pieces.unwrap_or(&whole) {
            copy_piece(&file, *piece, content)?;
        }
        if self.umask.is_some() && size >= WRITE_BACK_BYTES {
            // A layer's file: it is synced before anyone is told of it. A file system that can't begin early does it then.
            let _ = sampan_kernel::writeback::start(&file, 0, size);
        }
        if pieces.is_some() {
            rustix::fs::ftruncate(&file, size).map_err(on("set the file's length"))?;
        }
        // Chown clears setuid bits and capabilities, so it comes first; a mode may depend on an ACL, so it comes after.
        let right = self.creates_right(member);
        if !right {
            rustix::fs::fchown(&file, Some(Uid::from_raw(member.uid)), Some(Gid::from_raw(member.gid)))
                .map_err(on("set the owner"))?;
        }
        xattrs(self.fd, name, &member.xattrs)?;
        // Writing clears setuid bits, too.
        if !right || member.mode & 0o6000 != 0 || !member.xattrs.is_empty() {
            rustix::fs::fchmod(&file, Mode::from_raw_mode(member.mode)).map_err(on("set the mode"))?;
        }
        rustix::fs::futimens(&file, &timestamps(member.mtime)).map_err(on("set the time"))
    }

    pub(super) fn symlink(&self, name: &OsStr, member: &Member, target: &OsStr) -> Result<(), EntryError> {
        replacing(self.fd, name, || rustix::fs::symlinkat(target, self.fd, name))
            .map_err(|e| refine(e, "create the symbolic link"))?;
        self.attributes(name, member)
    }

    pub(super) fn node(
        &self,
        name: &OsStr,
        member: &Member,
        kind: FileType,
        (major, minor): (u32, u32),
    ) -> Result<(), EntryError> {
        let device = rustix::fs::makedev(major, minor);
        let mode = self.creation_mode(member);
        replacing(self.fd, name, || rustix::fs::mknodat(self.fd, name, kind, mode, device))
            .map_err(|e| refine(e, "create the device"))?;
        self.attributes(name, member)
    }

    /// A directory, whose time is set when nothing is created in it any more; one that is there stays.
    pub(super) fn directory(&self, name: &OsStr, member: &Member) -> Result<(), EntryError> {
        match rustix::fs::mkdirat(self.fd, name, self.creation_mode(member) | Mode::RWXU) {
            Err(Errno::EXIST) => {
                let stat = stat(self.fd, name).map_err(on("look at what is there"))?;
                if !is_directory(&stat) {
                    beneath::remove_tree(self.fd, name).map_err(on_io("replace what is there"))?;
                    rustix::fs::mkdirat(self.fd, name, Mode::RWXU).map_err(on("create the directory"))?;
                }
                Place { umask: None, ..*self }.attributes(name, member)
            }
            other => {
                other.map_err(on("create the directory"))?;
                // mkdir(2) has no setuid and setgid bits, and the owner's bits were added.
                let exact = member.mode & 0o7000 == 0 && member.mode & 0o700 == 0o700;
                Place { umask: self.umask.filter(|_| exact), ..*self }.attributes(name, member)
            }
        }
    }

    /// Owner, attributes, mode and, but for directories, time of what `name` is.
    pub(super) fn attributes(&self, name: &OsStr, member: &Member) -> Result<(), EntryError> {
        let link = matches!(member.kind, Kind::Symlink { .. });
        let owned = self.umask.is_some() && member.uid == 0 && member.gid == 0;
        if !owned {
            let owner = (Some(Uid::from_raw(member.uid)), Some(Gid::from_raw(member.gid)));
            rustix::fs::chownat(self.fd, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(on("set the owner"))?;
        }
        xattrs(self.fd, name, &member.xattrs)?;
        if !link && (!self.creates_right(member) || !member.xattrs.is_empty()) {
            rustix::fs::chmodat(self.fd, name, Mode::from_raw_mode(member.mode), AtFlags::empty())
                .map_err(on("set the mode"))?;
        }
        if member.kind != Kind::Directory {
            rustix::fs::utimensat(self.fd, name, &timestamps(member.mtime), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(on("set the time"))?;
        }
        Ok(())
    }
}

pub(super) fn on(action: &'static str) -> impl Fn(Errno) -> EntryError {
    move |errno| match errno {
        Errno::PERM | Errno::ACCESS => EntryError::NeedsPrivilege { what: action },
        errno => EntryError::Kernel { action, source: errno.into() },
    }
}

pub(super) fn on_io(action: &'static str) -> impl Fn(io::Error) -> EntryError {
    move |source| EntryError::Kernel { action, source }
}

pub(super) fn refine(error: io::Error, action: &'static str) -> EntryError {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(errno) => on(action)(errno),
        None => EntryError::Kernel { action, source: error },
    }
}

/// Makes `name` a whiteout; what this layer itself has there stays (as whiteouts concern the layers below only),
/// a directory of its own is made opaque.
pub(super) fn hide(parent: BorrowedFd<'_>, name: &OsStr) -> Result<(), EntryError> {
    match rustix::fs::mknodat(parent, name, FileType::CharacterDevice, Mode::empty(), 0) {
        Err(Errno::EXIST) => {
            let stat = stat(parent, name).map_err(on("look at what is there"))?;
            if is_directory(&stat) { set_opaque(parent, name) } else { Ok(()) }
        }
        other => other.map_err(on("create the whiteout")),
    }
}

pub(super) fn set_opaque(parent: BorrowedFd<'_>, name: &OsStr) -> Result<(), EntryError> {
    beneath::set_xattr(parent, name, OsStr::new(OPAQUE_XATTR), b"y")
        .map_err(on_io("make the directory opaque"))
}

/// Runs `create`; what is in its way is removed first.
pub(super) fn replacing<T>(
    parent: BorrowedFd<'_>,
    name: &OsStr,
    create: impl Fn() -> Result<T, Errno>,
) -> Result<T, io::Error> {
    match create() {
        Err(Errno::EXIST) => {
            beneath::remove_tree(parent, name)?;
            Ok(create()?)
        }
        other => Ok(other?),
    }
}

pub(super) fn stat(parent: impl AsFd, name: &OsStr) -> Result<Stat, Errno> {
    rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
}

/// Writes straight from the reader's own buffer.
fn copy_piece(file: &OwnedFd, piece: Piece, content: &mut impl BufRead) -> Result<(), EntryError> {
    let mut done = 0;
    while done < piece.length {
        let bytes = match content.fill_buf() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            other => other.map_err(|source| EntryError::Content { source })?,
        };
        if bytes.is_empty() {
            return Err(EntryError::Content { source: io::ErrorKind::UnexpectedEof.into() });
        }
        let part = usize::try_from(piece.length - done).unwrap_or(usize::MAX).min(bytes.len());
        let written =
            rustix::io::retry_on_intr(|| rustix::io::pwrite(file, &bytes[..part], piece.offset + done))
                .map_err(on("write the file"))?;
        content.consume(written);
        done += written as u64;
    }
    Ok(())
}

fn xattrs(parent: BorrowedFd<'_>, name: &OsStr, xattrs: &[(Vec<u8>, Vec<u8>)]) -> Result<(), EntryError> {
    for (key, value) in xattrs.iter().filter(|(key, _)| !is_overlays_own(key)) {
        match beneath::set_xattr(parent, name, &OsString::from_vec(key.clone()), value) {
            // A file system without this kind of attribute, or an archive from one with kinds that Linux lacks.
            Err(e) if e.raw_os_error() == Some(Errno::NOTSUP.raw_os_error()) => {}
            other => other.map_err(|e| refine(e, "set an extended attribute"))?,
        }
    }
    Ok(())
}

pub(crate) fn timestamps(mtime: Mtime) -> Timestamps {
    let time = Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}

pub(crate) fn mtime_of(stat: &Stat) -> Mtime {
    // The kernel keeps nanoseconds below a second.
    Mtime { seconds: stat.st_mtime, nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or(0) }
}
