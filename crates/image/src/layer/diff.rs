//! A read-write layer back to a tar: what overlayfs put there, in an order that depends on the names alone.
//!
//! Whiteouts and opaque directories become the marks of the tar format. Nothing of the layers below is read, so the
//! init layer can't get in.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use sampan_base::FileError;
use sampan_kernel::beneath::{self, RootDir};

use super::place::mtime_of;
use super::{CAPABILITY, OPAQUE, WHITEOUT, is_opaque, is_overlays_own, is_whiteout};
use crate::snapshot::IdMapping;
use crate::tar::{Kind, Member, Writer};

/// How overlayfs's marks are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Marks {
    /// The directory is a layer: whiteouts and opaque directories become marks.
    Layer,
    /// The directory is a whole mounted file system: there are none.
    Flat,
}

/// Writes the tree at `directory` as a tar.
///
/// # Errors
/// If something in the tree can't be read, or the output fails.
pub(crate) fn write(directory: &Path, marks: Marks, output: impl Write) -> Result<Written, FileError> {
    write_mapped(directory, marks, &IdMapping::default(), output)
}

/// As [`write`], of a layer that a user namespace wrote: owners are written as the namespace knows them.
///
/// # Errors
/// As [`write`].
pub(crate) fn write_mapped(
    directory: &Path,
    marks: Marks,
    mapping: &IdMapping,
    output: impl Write,
) -> Result<Written, FileError> {
    let root = RootDir::open(directory).map_err(FileError::on("open", directory))?;
    let mut walk = Walk {
        writer: Writer::new(output),
        marks,
        mapping,
        links: HashMap::new(),
        path: Vec::new(),
        written: Written::default(),
    };
    match walk.directory(root.as_fd()).and_then(|()| walk.writer.finish()) {
        Ok(_) => Ok(walk.written),
        Err(source) => {
            let path = directory.join(OsStr::from_bytes(&walk.path));
            Err(FileError { action: "read the layer's", path, source })
        }
    }
}

/// Bytes of the files in the tree at `directory`; hard links count once. Reads no file.
///
/// # Errors
/// If something in the tree can't be looked at.
pub(crate) fn size(directory: &Path) -> Result<u64, FileError> {
    fn sum(directory: BorrowedFd<'_>, depth: usize, seen: &mut HashSet<(u64, u64)>) -> io::Result<u64> {
        if depth > crate::limits::MAX_PATH_DEPTH {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "directories are nested too deep"));
        }
        let mut bytes = 0;
        for name in beneath::sorted_names(directory)? {
            let stat = match rustix::fs::statat(directory, &name, AtFlags::SYMLINK_NOFOLLOW) {
                // A running container removes files while they are counted.
                Err(rustix::io::Errno::NOENT) => continue,
                other => other?,
            };
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    match rustix::fs::openat(directory, &name, flags, Mode::empty()) {
                        Err(rustix::io::Errno::NOENT) => {}
                        other => bytes += sum(other?.as_fd(), depth + 1, seen)?,
                    }
                }
                FileType::RegularFile if stat.st_nlink < 2 || seen.insert((stat.st_dev, stat.st_ino)) => {
                    bytes += u64::try_from(stat.st_size).unwrap_or(0);
                }
                _ => {}
            }
        }
        Ok(bytes)
    }
    let failed = || FileError::on("look at the files in", directory);
    let root = RootDir::open(directory).map_err(failed())?;
    sum(root.as_fd(), 0, &mut HashSet::new()).map_err(failed())
}

/// What was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Written {
    /// How many bytes the files have together; hard links count once.
    pub(crate) bytes: u64,
    /// How many entries: none means that nothing was changed.
    pub(crate) entries: u64,
}

struct Walk<'a, W> {
    writer: Writer<W>,
    marks: Marks,
    mapping: &'a IdMapping,
    /// The first path of each file that has several.
    links: HashMap<(u64, u64), Vec<u8>>,
    /// Where the walk is, relative to the root.
    path: Vec<u8>,
    written: Written,
}

impl<W: Write> Walk<'_, W> {
    fn directory(&mut self, directory: BorrowedFd<'_>) -> io::Result<()> {
        super::check_depth(Path::new(OsStr::from_bytes(&self.path)))?;
        for name in beneath::sorted_names(directory)? {
            let length = self.path.len();
            if length > 0 {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(name.as_bytes());
            self.entry(directory, &name)?;
            self.path.truncate(length);
        }
        Ok(())
    }

    fn entry(&mut self, parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
        let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if self.marks == Marks::Layer && is_whiteout(&stat) {
            return self.mark(WHITEOUT, name);
        }
        let file_type = FileType::from_raw_mode(stat.st_mode);
        let id = (stat.st_dev, stat.st_ino);
        if file_type != FileType::Directory && stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&id) {
                let kind = Kind::HardLink { target: first.clone() };
                // A link has no attributes of its own; what is said of it is said of the first.
                return self.append(&self.member(kind, &stat, Vec::new()), &mut io::empty());
            }
            self.links.insert(id, self.path.clone());
        }
        let xattrs = self.xattrs(parent, name)?;
        let device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        let kind = match file_type {
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOATIME;
                let mut file = File::from(rustix::fs::openat(parent, name, flags, Mode::empty())?);
                // The size is the opened file's: a running container may have written since.
                let stat = rustix::fs::fstat(&file)?;
                let size = u64::try_from(stat.st_size).unwrap_or(0);
                self.written.bytes += size;
                return self
                    .append(&self.member(Kind::File { size, pieces: None }, &stat, xattrs), &mut file);
            }
            FileType::Directory => {
                self.append(&self.member(Kind::Directory, &stat, xattrs), &mut io::empty())?;
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let directory = rustix::fs::openat(parent, name, flags, Mode::empty())?;
                if self.marks == Marks::Layer && is_opaque(parent, name)? {
                    self.path.extend_from_slice(b"/");
                    self.path.extend_from_slice(OPAQUE);
                    let mark = self.marker();
                    self.append(&mark, &mut io::empty())?;
                    self.path.truncate(self.path.len() - OPAQUE.len() - 1);
                }
                return self.directory(directory.as_fd());
            }
            FileType::Symlink => {
                Kind::Symlink { target: rustix::fs::readlinkat(parent, name, Vec::new())?.into_bytes() }
            }
            FileType::CharacterDevice => Kind::CharDevice { major: device.0, minor: device.1 },
            FileType::BlockDevice => Kind::BlockDevice { major: device.0, minor: device.1 },
            FileType::Fifo => Kind::Fifo,
            // A socket is nothing without its process; Docker leaves them out, too.
            _ => return Ok(()),
        };
        self.append(&self.member(kind, &stat, xattrs), &mut io::empty())
    }

    /// The empty file that says that `name` is deleted.
    fn mark(&mut self, prefix: &[u8], name: &OsStr) -> io::Result<()> {
        let at = self.path.len() - name.len();
        self.path.splice(at..at, prefix.iter().copied());
        let mark = self.marker();
        self.append(&mark, &mut io::empty())
    }

    fn marker(&self) -> Member {
        Member {
            path: self.path.clone(),
            kind: Kind::File { size: 0, pieces: None },
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: crate::tar::Mtime::default(),
            xattrs: Vec::new(),
        }
    }

    fn member(&self, kind: Kind, stat: &Stat, xattrs: Vec<(Vec<u8>, Vec<u8>)>) -> Member {
        let (uid, gid) = self.mapping.to_image(stat.st_uid, stat.st_gid);
        Member {
            path: self.path.clone(),
            kind,
            mode: stat.st_mode & 0o7777,
            uid,
            gid,
            mtime: mtime_of(stat),
            xattrs,
        }
    }

    fn xattrs(&self, parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut xattrs = Vec::new();
        for key in beneath::xattr_names(parent, name)? {
            if is_overlays_own(key.as_bytes()) {
                continue;
            }
            if let Some(value) = beneath::xattr(parent, name, &key)? {
                let value = if key == CAPABILITY { self.mapping.capability_to_image(value) } else { value };
                xattrs.push((key.as_bytes().to_vec(), value));
            }
        }
        Ok(xattrs)
    }

    fn append(&mut self, member: &Member, content: &mut dyn Read) -> io::Result<()> {
        self.written.entries += 1;
        self.writer.append(member, content)
    }
}
