//! Applies a layer: a tar's entries become files beneath one directory.
//!
//! Never trusts the tar: each entry's parent is resolved beneath the directory's descriptor (`openat2`, in root),
//! its last name is acted on without following a link, and entries and bytes are bounded by [`crate::limits`].
//!
//! The layers below are only read: a directory that the tar does not describe but needs looks as it does below, and
//! a hard link to a file below brings that file up.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid};
use rustix::io::Errno;
use sampan_base::Class;
use sampan_kernel::beneath::{self, RootDir};

use super::below::{copy_up, make_directories};
use super::{OPAQUE, OPAQUE_XATTR, WHITEOUT, WHITEOUT_META, is_directory, is_overlays_own, is_whiteout};
use crate::limits;
use crate::tar::{Kind, Member, Mtime, Reader, TarError};

/// What was applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Applied {
    /// How many bytes the files have together; hard links count once, holes not.
    pub(crate) bytes: u64,
}

/// Why a layer can't be applied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// The archive itself.
    #[error("cannot read the layer")]
    Archive {
        /// What is wrong with it.
        source: TarError,
    },
    /// One entry.
    #[error("cannot unpack the entry `{path}`")]
    Entry {
        /// Its path as the archive has it.
        path: String,
        /// What is wrong with it.
        source: EntryError,
    },
    /// More than [`crate::limits`] allows.
    #[error("the layer has more than {limit} {what}")]
    Limit {
        /// Of what.
        what: &'static str,
        /// How many are allowed.
        limit: u64,
    },
    /// The directory to unpack into.
    #[error("cannot open `{}` to unpack into", path.display())]
    Target {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Why one entry can't be applied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// Its path climbs out with `..`.
    #[error("its path leads out of the root")]
    EscapesRoot,
    /// Its path is longer or deeper than [`crate::limits`] allows, or no path.
    #[error("its path is not one: {why}")]
    BadPath {
        /// What is wrong.
        why: &'static str,
    },
    /// A hard link to nothing.
    #[error("the target `{target}` of the hard link does not exist")]
    HardLinkTargetMissing {
        /// The target's path.
        target: String,
    },
    /// Only root may make it.
    #[error("making {what} needs more privilege")]
    NeedsPrivilege {
        /// What.
        what: &'static str,
    },
    /// The archive broke off inside its content.
    #[error("cannot read its content")]
    Content {
        /// Why.
        source: io::Error,
    },
    /// The file system refused.
    #[error("cannot {action}")]
    Kernel {
        /// What was tried.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
}

impl ApplyError {
    /// The class to report.
    pub fn class(&self) -> Class {
        match self {
            ApplyError::Archive { source } => source.class(),
            ApplyError::Entry { source: EntryError::NeedsPrivilege { .. }, .. } => Class::Forbidden,
            ApplyError::Entry { source: EntryError::Kernel { source, .. }, .. } => {
                match sampan_base::error::class_of_io(source) {
                    Class::Exhausted => Class::Exhausted,
                    _ => Class::Internal,
                }
            }
            ApplyError::Target { .. } => Class::Internal,
            ApplyError::Entry { .. } | ApplyError::Limit { .. } => Class::Invalid,
        }
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

/// Applies the tar `input` to the empty directory `target`, which lies on top of `below` (the nearest first).
/// Reads `input` to its end, padding after the archive included.
///
/// # Errors
/// If the archive is damaged or hostile or the file system refuses; `target` then holds a part of the layer.
pub(crate) fn apply(input: &mut dyn Read, target: &Path, below: &[PathBuf]) -> Result<Applied, ApplyError> {
    let root = open(target)?;
    let below = below.iter().map(|path| open(path)).collect::<Result<Vec<_>, _>>()?;
    run(input, Applier::new(root, below, true), Ok)
}

/// Unpacks the tar `input`, bare or packed, into the directory `under` of the file system mounted at `rootfs`: what
/// `ADD` of a local archive does. Entries named like whiteouts are plain files.
///
/// # Errors
/// If the archive is damaged or hostile or the file system refuses; a part may be unpacked then.
pub fn extract(input: &mut dyn Read, rootfs: &Path, under: &Path) -> Result<(), ApplyError> {
    let unpacked = crate::compression::unpacked(input);
    let mut input = unpacked.map_err(|source| ApplyError::Archive { source: TarError::Read { source } })?;
    let inside = |raw: &[u8]| -> Result<Vec<u8>, EntryError> {
        Ok(under.join(clean_path(raw)?).into_os_string().into_vec())
    };
    run(&mut *input, Applier::new(open(rootfs)?, Vec::new(), false), |mut member| {
        member.path = inside(&member.path)?;
        if let Kind::HardLink { target } = &mut member.kind {
            *target = inside(target)?;
        }
        Ok(member)
    })?;
    Ok(())
}

fn open(path: &Path) -> Result<RootDir, ApplyError> {
    RootDir::open(path).map_err(|source| ApplyError::Target { path: path.to_owned(), source })
}

fn run(
    input: &mut dyn Read,
    mut applier: Applier,
    adjust: impl Fn(Member) -> Result<Member, EntryError>,
) -> Result<Applied, ApplyError> {
    let archive = |source| ApplyError::Archive { source };
    let mut reader = Reader::new(input);
    let mut entries = 0u64;
    while let Some(member) = reader.next_member().map_err(archive)? {
        entries += 1;
        if entries > limits::MAX_LAYER_ENTRIES {
            return Err(ApplyError::Limit { what: "entries", limit: limits::MAX_LAYER_ENTRIES });
        }
        if applier.bytes.saturating_add(member.stored_bytes()) > limits::MAX_LAYER_BYTES {
            return Err(ApplyError::Limit { what: "bytes", limit: limits::MAX_LAYER_BYTES });
        }
        let path: String = String::from_utf8_lossy(&member.path).chars().take(200).collect();
        let applied = adjust(member).and_then(|member| applier.member(&member, &mut reader));
        applied.map_err(|source| ApplyError::Entry { path, source })?;
    }
    let mut rest = reader.into_inner();
    io::copy(&mut rest, &mut io::sink()).map_err(|source| archive(TarError::Read { source }))?;
    applier.finish()
}

/// A path inside the root, made from what an archive says: no `..`, no empty names, relative.
pub(crate) fn clean_path(raw: &[u8]) -> Result<PathBuf, EntryError> {
    if raw.len() > limits::MAX_PATH_BYTES {
        return Err(EntryError::BadPath { why: "it is too long" });
    }
    let mut names: Vec<&[u8]> = Vec::new();
    for name in raw.split(|b| *b == b'/') {
        match name {
            b"" | b"." => {}
            b".." => {
                names.pop().ok_or(EntryError::EscapesRoot)?;
            }
            name if name.contains(&0) => return Err(EntryError::BadPath { why: "it has a NUL byte" }),
            name => names.push(name),
        }
    }
    if names.len() > limits::MAX_PATH_DEPTH {
        return Err(EntryError::BadPath { why: "it is too deep" });
    }
    Ok(names.into_iter().map(OsStr::from_bytes).collect())
}

struct Applier {
    root: RootDir,
    below: Vec<RootDir>,
    /// The parent directory of the last entry: the next one is mostly in the same.
    parent: Option<(PathBuf, OwnedFd)>,
    /// Directories and the times that they get when nothing is created in them any more.
    directories: Vec<(PathBuf, Mtime)>,
    buffer: Vec<u8>,
    bytes: u64,
    /// Whether names that mark deletions do so.
    whiteouts: bool,
}

impl Applier {
    fn new(root: RootDir, below: Vec<RootDir>, whiteouts: bool) -> Applier {
        let buffer = vec![0; 128 * 1024];
        Applier { root, below, parent: None, directories: Vec::new(), buffer, bytes: 0, whiteouts }
    }

    fn member(&mut self, member: &Member, content: &mut impl Read) -> Result<(), EntryError> {
        let path = clean_path(&member.path)?;
        let Some(name) = path.file_name() else {
            // The root itself.
            return if member.kind == Kind::Directory {
                self.attributes(self.root.as_fd(), OsStr::new("."), member)?;
                self.directories.push((PathBuf::from("."), member.mtime));
                Ok(())
            } else {
                Err(EntryError::BadPath { why: "it is the root, but not a directory" })
            };
        };
        let parent_path = path.parent().unwrap_or(Path::new(""));
        if self.whiteouts && name.as_bytes().starts_with(WHITEOUT) {
            return self.whiteout(parent_path, name);
        }
        let entered = self.enter(parent_path)?;
        let parent = entered.1.as_fd();
        match &member.kind {
            Kind::Directory => {
                self.make_directory(parent, name, member)?;
                self.directories.push((path.clone(), member.mtime));
            }
            Kind::File { size, pieces } => {
                let file = replacing(parent, name, || {
                    let flags =
                        OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR)
                })
                .map_err(|e| refine(e, "create the file"))?;
                let whole = [crate::tar::Piece { offset: 0, length: *size }];
                for piece in pieces.as_deref().unwrap_or(&whole) {
                    copy_piece(&file, *piece, content, &mut self.buffer)?;
                }
                if pieces.is_some() {
                    rustix::fs::ftruncate(&file, *size).map_err(on("set the file's length"))?;
                }
                file_attributes(&file, parent, name, member)?;
            }
            Kind::HardLink { target } => {
                let target = clean_path(target)?;
                self.hard_link(parent, name, &target)?;
            }
            Kind::Symlink { target } => {
                let target = OsStr::from_bytes(target);
                replacing(parent, name, || rustix::fs::symlinkat(target, parent, name))
                    .map_err(|e| refine(e, "create the symbolic link"))?;
                self.attributes(parent, name, member)?;
            }
            Kind::CharDevice { major, minor } => {
                self.node(parent, name, member, FileType::CharacterDevice, (*major, *minor))?;
            }
            Kind::BlockDevice { major, minor } => {
                self.node(parent, name, member, FileType::BlockDevice, (*major, *minor))?;
            }
            Kind::Fifo => self.node(parent, name, member, FileType::Fifo, (0, 0))?,
        }
        self.bytes += member.stored_bytes();
        self.parent = Some(entered);
        Ok(())
    }

    /// The directory `path` with its descriptor; what is missing of it is made as it is below.
    fn enter(&mut self, path: &Path) -> Result<(PathBuf, OwnedFd), EntryError> {
        if let Some(entered) = self.parent.take().filter(|(p, _)| p == path) {
            return Ok(entered);
        }
        let fd = match self.root.directory(path) {
            Ok(fd) => fd,
            // NotADirectory: perhaps a whiteout that the directory takes the place of.
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                let made = make_directories(&self.root, &self.below, path)?;
                self.directories.extend(made);
                self.root.directory(path).map_err(on_io("open the parent directory"))?
            }
            Err(e) => return Err(on_io("open the parent directory")(e)),
        };
        Ok((path.to_owned(), fd))
    }

    fn make_directory(
        &self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        member: &Member,
    ) -> Result<(), EntryError> {
        let made = rustix::fs::mkdirat(parent, name, Mode::RWXU);
        if made == Err(Errno::EXIST) {
            let stat = stat(parent, name).map_err(on("look at what is there"))?;
            if !is_directory(&stat) {
                beneath::remove_tree(parent, name).map_err(on_io("replace what is there"))?;
                rustix::fs::mkdirat(parent, name, Mode::RWXU).map_err(on("create the directory"))?;
                if is_whiteout(&stat) {
                    // The layer deletes the old directory and makes a new one: nothing of the old may show through.
                    set_opaque(parent, name)?;
                }
            }
        } else {
            made.map_err(on("create the directory"))?;
        }
        self.attributes(parent, name, member)
    }

    fn node(
        &self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        member: &Member,
        kind: FileType,
        (major, minor): (u32, u32),
    ) -> Result<(), EntryError> {
        let device = rustix::fs::makedev(major, minor);
        replacing(parent, name, || rustix::fs::mknodat(parent, name, kind, Mode::RUSR | Mode::WUSR, device))
            .map_err(|e| refine(e, "create the device"))?;
        self.attributes(parent, name, member)
    }

    fn hard_link(&self, parent: BorrowedFd<'_>, name: &OsStr, target: &Path) -> Result<(), EntryError> {
        let missing = || EntryError::HardLinkTargetMissing { target: target.display().to_string() };
        let target_name = target.file_name().ok_or_else(missing)?;
        let target_parent_path = target.parent().unwrap_or(Path::new(""));
        let here = self.root.directory(target_parent_path).ok().filter(|p| stat(p, target_name).is_ok());
        let target_parent = match here {
            Some(target_parent) => target_parent,
            None => copy_up(&self.root, &self.below, target)?.ok_or_else(missing)?,
        };
        let same = |a: Stat, b: Stat| (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino);
        if let (Ok(a), Ok(b)) = (stat(&target_parent, target_name), stat(parent, name))
            && same(a, b)
        {
            return Ok(());
        }
        replacing(parent, name, || {
            rustix::fs::linkat(&target_parent, target_name, parent, name, AtFlags::empty())
        })
        .map_err(|e| refine(e, "create the hard link"))
    }

    /// `.wh.NAME` deletes what the layers below have; `.wh..wh..opq` all that they have in its directory.
    fn whiteout(&mut self, parent_path: &Path, name: &OsStr) -> Result<(), EntryError> {
        let hidden = OsStr::from_bytes(&name.as_bytes()[WHITEOUT.len()..]);
        if name.as_bytes() == OPAQUE {
            if self.below.is_empty() {
                return Ok(());
            }
            self.enter(parent_path)?;
            return match parent_path.file_name() {
                // The root of a layer can't be opaque for overlayfs, so what is below is deleted by name.
                None => self.hide_all_of_root(),
                Some(name) => {
                    let above = parent_path.parent().unwrap_or(Path::new(""));
                    let above = self.root.directory(above).map_err(on_io("open the parent directory"))?;
                    set_opaque(above.as_fd(), name)
                }
            };
        }
        if name.as_bytes().starts_with(WHITEOUT_META) {
            return Ok(());
        }
        if matches!(hidden.as_bytes(), b"" | b"." | b"..") {
            return Err(EntryError::BadPath { why: "it is a whiteout of nothing" });
        }
        let path = parent_path.join(hidden);
        if !self.below.iter().any(|layer| layer.stat(&path).is_ok()) {
            return Ok(());
        }
        let entered = self.enter(parent_path)?;
        hide(entered.1.as_fd(), hidden)?;
        self.parent = Some(entered);
        Ok(())
    }

    fn hide_all_of_root(&self) -> Result<(), EntryError> {
        for layer in &self.below {
            for name in beneath::sorted_names(layer).map_err(on_io("list the layer below"))? {
                hide(self.root.as_fd(), &name)?;
            }
        }
        Ok(())
    }

    /// Owner, attributes, mode and, but for directories, time of what `name` is.
    fn attributes(&self, parent: BorrowedFd<'_>, name: &OsStr, member: &Member) -> Result<(), EntryError> {
        let owner = (Some(Uid::from_raw(member.uid)), Some(Gid::from_raw(member.gid)));
        rustix::fs::chownat(parent, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(on("set the owner"))?;
        xattrs(parent, name, &member.xattrs)?;
        if !matches!(member.kind, Kind::Symlink { .. }) {
            rustix::fs::chmodat(parent, name, Mode::from_raw_mode(member.mode), AtFlags::empty())
                .map_err(on("set the mode"))?;
        }
        if member.kind != Kind::Directory {
            rustix::fs::utimensat(parent, name, &timestamps(member.mtime), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(on("set the time"))?;
        }
        Ok(())
    }

    fn finish(self) -> Result<Applied, ApplyError> {
        // In order: a directory that came twice ends with its last time. Those that vanished meanwhile are no error.
        for (path, mtime) in &self.directories {
            let set =
                self.root.open_at(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY, Mode::empty());
            if let Ok(directory) = set {
                let set = rustix::fs::utimensat(&directory, c".", &timestamps(*mtime), AtFlags::empty());
                set.map_err(on("set the time"))
                    .map_err(|source| ApplyError::Entry { path: path.display().to_string(), source })?;
            }
        }
        Ok(Applied { bytes: self.bytes })
    }
}

/// Makes `name` a whiteout; what this layer itself has there stays (as whiteouts concern the layers below only),
/// a directory of its own is made opaque.
fn hide(parent: BorrowedFd<'_>, name: &OsStr) -> Result<(), EntryError> {
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
fn replacing<T>(
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

fn refine(error: io::Error, action: &'static str) -> EntryError {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(errno) => on(action)(errno),
        None => EntryError::Kernel { action, source: error },
    }
}

pub(super) fn stat(parent: impl AsFd, name: &OsStr) -> Result<Stat, Errno> {
    rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
}

fn copy_piece(
    file: &OwnedFd,
    piece: crate::tar::Piece,
    content: &mut impl Read,
    buffer: &mut [u8],
) -> Result<(), EntryError> {
    let mut done = 0;
    while done < piece.length {
        let part = usize::try_from(piece.length - done).unwrap_or(usize::MAX).min(buffer.len());
        let n = match content.read(&mut buffer[..part]) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            other => other.map_err(|source| EntryError::Content { source })?,
        };
        if n == 0 {
            return Err(EntryError::Content { source: io::ErrorKind::UnexpectedEof.into() });
        }
        let mut written = 0;
        while written < n {
            let at = piece.offset + done + written as u64;
            written += rustix::io::retry_on_intr(|| rustix::io::pwrite(file, &buffer[written..n], at))
                .map_err(on("write the file"))?;
        }
        done += n as u64;
    }
    Ok(())
}

/// As [`Applier::attributes`], by the file's own descriptor: fewer look-ups for the most frequent kind.
fn file_attributes(
    file: &OwnedFd,
    parent: BorrowedFd<'_>,
    name: &OsStr,
    member: &Member,
) -> Result<(), EntryError> {
    // Chown clears setuid bits and capabilities, so it comes first; a mode may depend on an ACL, so it comes after.
    rustix::fs::fchown(file, Some(Uid::from_raw(member.uid)), Some(Gid::from_raw(member.gid)))
        .map_err(on("set the owner"))?;
    xattrs(parent, name, &member.xattrs)?;
    rustix::fs::fchmod(file, Mode::from_raw_mode(member.mode)).map_err(on("set the mode"))?;
    rustix::fs::futimens(file, &timestamps(member.mtime)).map_err(on("set the time"))
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
