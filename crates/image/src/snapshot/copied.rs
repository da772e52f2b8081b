//! Snapshots where overlayfs is missing: the file system is a copy of its layers, in `snapshots/<n>/copy`, that is bound
//! to where it is wanted.
//!
//! [`assemble`] makes the copy; [`write_upper`] makes of the copy what overlayfs would have in its upper directory, by
//! comparing it with the layers. So whatever reads the upper directory (`diff`, `commit`, a frozen build step) is
//! the same for both. A file counts as changed if its kind, owner, mode, size, time or attributes are not as they
//! were: one that is overwritten by as many bytes and given its old time again goes unnoticed.

use std::collections::{BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;
use sampan_base::FileError;
use sampan_kernel::beneath::{self, RootDir};

use crate::layer::place::{mtime_of, timestamps};
use crate::layer::{is_directory, is_opaque, is_overlays_own, is_whiteout};
use crate::limits::MAX_PATH_DEPTH;

/// Copies what the layers `lower` (the nearest first) are together into the empty directory `into`.
pub(super) fn assemble(lower: &[PathBuf], into: &Path) -> Result<(), FileError> {
    let merged = Merged::open(lower)?;
    let target = RootDir::open(into).map_err(FileError::on("open", into))?;
    let mut copier = Copier { links: HashMap::new(), target: &target, path: PathBuf::new() };
    let copied = copier.directory(&merged, 0).and_then(|()| match merged.0.first() {
        Some(root) => attributes(root, OsStr::new("."), target.as_fd(), OsStr::new(".")),
        None => Ok(()),
    });
    copied.map_err(|source| FileError { action: "copy to", path: into.join(&copier.path), source })
}

/// Fills the empty directory `upper` with what `copy` changes of the layers `lower`, in overlayfs's form.
pub(super) fn write_upper(copy: &Path, lower: &[PathBuf], upper: &Path) -> Result<(), FileError> {
    let merged = Merged::open(lower)?;
    let open = |path: &Path| RootDir::open(path).map_err(FileError::on("open", path));
    let (copy, target) = (open(copy)?, open(upper)?);
    let mut copier = Copier { links: HashMap::new(), target: &target, path: PathBuf::new() };
    let whole = Merged(vec![copy.as_fd().try_clone_to_owned().map_err(FileError::on("open", upper))?]);
    let written = copier
        .changed(&whole, &merged, 0)
        .and_then(|()| attributes(&whole.0[0], OsStr::new("."), target.as_fd(), OsStr::new(".")));
    written.map_err(|source| FileError { action: "compare", path: copier.path, source })
}

/// A directory as several layers have it, the nearest first; what one hides of those below is left out.
struct Merged(Vec<OwnedFd>);

/// What a name is: which layer has it, and if it is a directory, what it is made of.
struct Found {
    layer: usize,
    stat: Stat,
    directory: Option<Merged>,
}

impl Merged {
    fn open(layers: &[PathBuf]) -> Result<Merged, FileError> {
        let open = |path: &PathBuf| {
            RootDir::open(path)
                .and_then(|r| r.as_fd().try_clone_to_owned())
                .map_err(FileError::on("open", path))
        };
        Ok(Merged(layers.iter().map(open).collect::<Result<_, _>>()?))
    }

    fn names(&self) -> io::Result<BTreeSet<OsString>> {
        let mut names = BTreeSet::new();
        for layer in &self.0 {
            names.extend(beneath::sorted_names(layer)?);
        }
        Ok(names)
    }

    fn find(&self, name: &OsStr) -> io::Result<Option<Found>> {
        let mut found: Option<Found> = None;
        for (layer, directory) in self.0.iter().enumerate() {
            let stat = match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue,
                other => other?,
            };
            if !is_directory(&stat) {
                if found.is_none() && !is_whiteout(&stat) {
                    return Ok(Some(Found { layer, stat, directory: None }));
                }
                break;
            }
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let inside = rustix::fs::openat(directory, name, flags, Mode::empty())?;
            let opaque = is_opaque(directory, name)?;
            let merged = found.get_or_insert(Found { layer, stat, directory: Some(Merged(Vec::new())) });
            if let Some(Merged(parts)) = &mut merged.directory {
                parts.push(inside);
            }
            if opaque {
                break;
            }
        }
        Ok(found)
    }
}

struct Copier<'a> {
    /// Where the first name of a file with several was written.
    links: HashMap<(u64, u64), PathBuf>,
    target: &'a RootDir,
    path: PathBuf,
}

impl Copier<'_> {
    fn directory(&mut self, from: &Merged, depth: usize) -> io::Result<()> {
        check_depth(depth)?;
        for name in from.names()? {
            let Some(found) = from.find(&name)? else { continue };
            self.path.push(&name);
            self.entry(from, &name, &found)?;
            if let Some(inside) = &found.directory {
                self.directory(inside, depth + 1)?;
                self.looks(from, &name, found.layer)?;
            }
            self.path.pop();
        }
        Ok(())
    }

    /// Copies what `copy` has and `before` has not, or otherwise, and marks what only `before` has.
    fn changed(&mut self, copy: &Merged, before: &Merged, depth: usize) -> io::Result<()> {
        check_depth(depth)?;
        let mut names = copy.names()?;
        names.extend(before.names()?);
        for name in names {
            let (now, then) = (copy.find(&name)?, before.find(&name)?);
            self.path.push(&name);
            match (now, then) {
                (Some(now), then) => self.compared(copy, &name, &now, before, then, depth)?,
                (None, Some(_)) => {
                    let parent = self.parent()?;
                    rustix::fs::mknodat(&parent, &name, FileType::CharacterDevice, Mode::empty(), 0)?;
                }
                (None, None) => {}
            }
            self.path.pop();
        }
        Ok(())
    }

    fn compared(
        &mut self,
        copy: &Merged,
        name: &OsStr,
        now: &Found,
        before: &Merged,
        then: Option<Found>,
        depth: usize,
    ) -> io::Result<()> {
        let same = match &then {
            Some(then) => same((&copy.0[now.layer], now), (&before.0[then.layer], then), name)?,
            None => false,
        };
        if !same {
            self.parent()?;
            self.entry(copy, name, now)?;
        }
        let Some(inside) = &now.directory else { return Ok(()) };
        match then.and_then(|t| t.directory) {
            Some(below) => self.changed(inside, &below, depth + 1)?,
            None => self.directory(inside, depth + 1)?,
        }
        // It is here if it was changed itself, or something in it was.
        if self.target.stat(&self.path).is_ok() { self.looks(copy, name, now.layer) } else { Ok(()) }
    }

    /// The directory in the target in which the current name belongs; made, if it is not there yet. It is given its looks
    /// when the walk comes back to it.
    fn parent(&self) -> io::Result<OwnedFd> {
        let path = self.path.parent().unwrap_or(Path::new(""));
        if let Ok(parent) = self.target.directory(path) {
            return Ok(parent);
        }
        let mut at = PathBuf::new();
        for name in path {
            let above = self.target.directory(&at)?;
            at.push(name);
            match rustix::fs::mkdirat(&above, name, Mode::RWXU) {
                Err(Errno::EXIST) => {}
                other => other?,
            }
        }
        self.target.directory(path)
    }

    /// Copies one name, without what is in it.
    fn entry(&mut self, from: &Merged, name: &OsStr, found: &Found) -> io::Result<()> {
        let source = &from.0[found.layer];
        let parent = self.target.directory(self.path.parent().unwrap_or(Path::new("")))?;
        let stat = &found.stat;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::Directory && stat.st_nlink > 1 {
            let id = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.links.get(&id) {
                let first_parent = self.target.directory(first.parent().unwrap_or(Path::new("")))?;
                let first_name = first.file_name().unwrap_or_default();
                return Ok(rustix::fs::linkat(&first_parent, first_name, &parent, name, AtFlags::empty())?);
            }
            self.links.insert(id, self.path.clone());
        }
        match kind {
            FileType::Directory => match rustix::fs::mkdirat(&parent, name, Mode::RWXU) {
                Err(Errno::EXIST) => {}
                other => other?,
            },
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let mut input = File::from(rustix::fs::openat(source, name, flags, Mode::empty())?);
                let flags =
                    OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let output = rustix::fs::openat(&parent, name, flags, Mode::RUSR | Mode::WUSR)?;
                // By the kernel, and without copying where the file system can share blocks.
                io::copy(&mut input, &mut File::from(output))?;
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(source, name, Vec::new())?;
                rustix::fs::symlinkat(target, &parent, name)?;
            }
            FileType::Socket => return Ok(()),
            kind => rustix::fs::mknodat(&parent, name, kind, Mode::RUSR, stat.st_rdev)?,
        }
        attributes(source, name, parent.as_fd(), name)
    }

    /// Gives a directory all of whose content is written its attributes and its time.
    fn looks(&self, from: &Merged, name: &OsStr, layer: usize) -> io::Result<()> {
        let parent = self.target.directory(self.path.parent().unwrap_or(Path::new("")))?;
        attributes(&from.0[layer], name, parent.as_fd(), name)
    }
}

/// Owner, attributes, mode and time, from one name to another.
fn attributes(from: impl AsFd, from_name: &OsStr, to: impl AsFd, to_name: &OsStr) -> io::Result<()> {
    let stat = rustix::fs::statat(&from, from_name, AtFlags::SYMLINK_NOFOLLOW)?;
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::chownat(&to, to_name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    for (key, value) in xattrs(&from, from_name)? {
        beneath::set_xattr(&to, to_name, &key, &value)?;
    }
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        rustix::fs::chmodat(&to, to_name, mode, AtFlags::empty())?;
    }
    let times = timestamps(mtime_of(&stat));
    Ok(rustix::fs::utimensat(&to, to_name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

fn xattrs(directory: impl AsFd, name: &OsStr) -> io::Result<Vec<(OsString, Vec<u8>)>> {
    let mut found = Vec::new();
    for key in beneath::xattr_names(&directory, name)? {
        if !is_overlays_own(key.as_encoded_bytes()) {
            found.extend(beneath::xattr(&directory, name, &key)?.map(|value| (key, value)));
        }
    }
    Ok(found)
}

fn same(now: (&OwnedFd, &Found), then: (&OwnedFd, &Found), name: &OsStr) -> io::Result<bool> {
    let (a, b) = (&now.1.stat, &then.1.stat);
    let looks = |s: &Stat| (s.st_mode, s.st_uid, s.st_gid, s.st_rdev, s.st_mtime, s.st_mtime_nsec);
    if looks(a) != looks(b) || (!is_directory(a) && a.st_size != b.st_size) {
        return Ok(false);
    }
    Ok(xattrs(now.0, name)? == xattrs(then.0, name)?)
}

fn check_depth(depth: usize) -> io::Result<()> {
    if depth > MAX_PATH_DEPTH {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "directories are nested too deep"));
    }
    Ok(())
}
