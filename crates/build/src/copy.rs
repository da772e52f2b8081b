//! Copying into a root file system: parents made, links in it followed inside it, owners, modes and times kept or set.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;
use sampan_base::Class;
use sampan_image::ApplyError;
use sampan_image::compression;
use sampan_image::tar::{Mtime, Reader};
use sampan_kernel::beneath::{self, RootDir};

use crate::chmod::Chmod;
use crate::context::relative;
use crate::select::{Item, Part};
use crate::tree::{Node, NodeKind, Tree, TreeError};

/// How a copy is to look.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Look {
    /// `--chown`; `None`: as in the tree.
    pub(crate) owner: Option<(u32, u32)>,
    /// `--chmod`
    pub(crate) mode: Option<Chmod>,
    /// Unpack archives: `ADD`.
    pub(crate) unpack: bool,
}

/// Why files can't be copied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CopyError {
    /// A source.
    #[error(transparent)]
    Source(#[from] TreeError),
    /// The destination can't be had.
    #[error("cannot {action} `{}`", path.display())]
    Destination {
        /// What was tried.
        action: &'static str,
        /// In the image.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A directory where a file should go, or the reverse.
    #[error("cannot copy {what} over {there} `{}`", path.display())]
    Kind {
        /// What should go there.
        what: &'static str,
        /// What is there.
        there: &'static str,
        /// In the image.
        path: PathBuf,
    },
    /// An archive of `ADD`.
    #[error("cannot unpack the archive `{}`", path.display())]
    Archive {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: ApplyError,
    },
}

impl CopyError {
    /// The class to report.
    pub fn class(&self) -> Class {
        match self {
            CopyError::Source(TreeError::Read { source, .. }) | CopyError::Destination { source, .. } => {
                match sampan_base::error::class_of_io(source) {
                    Class::NotFound => Class::Invalid,
                    class => class,
                }
            }
            CopyError::Source(_) | CopyError::Kind { .. } => Class::Invalid,
            CopyError::Archive { source, .. } => source.class(),
        }
    }
}

/// Copies the `items` of `tree` to `destination` in the file system mounted at `rootfs`. One that ends with a slash is a
/// directory, and what is copied goes into it; of a directory, its content goes there.
pub(crate) fn copy(
    tree: &Tree<'_>,
    items: &[Item],
    rootfs: &Path,
    destination: &str,
    look: &Look,
) -> Result<(), CopyError> {
    let root = RootDir::open(rootfs).map_err(|source| CopyError::Destination {
        action: "open",
        path: rootfs.to_owned(),
        source,
    })?;
    let into_directory = destination.ends_with('/') || destination.ends_with("/.") || items.len() > 1;
    let target = relative(Path::new(destination)).unwrap_or_default();
    let mut copier =
        Copier { tree, rootfs, root, look, directories: Vec::new(), buffer: vec![0; 128 * 1024] };
    for item in items {
        let (path, name) = match item {
            Item::Content { path, only } => {
                copier.directory_into(path, &target, only.as_deref())?;
                continue;
            }
            Item::File { path, name } => (path, name),
        };
        let node = tree.node(path)?;
        if look.unpack && copier.unpacked(path, &node, &target)? {
            continue;
        }
        let inside = into_directory || copier.root.directory(&target).is_ok();
        let target = if inside { target.join(name) } else { target.clone() };
        copier.parents(target.parent().unwrap_or(Path::new("")))?;
        copier.file_to(path, &node, &target, !inside)?;
    }
    copier.finish()
}

/// Makes the directory `path` with its parents, each new one `owner`'s; answers whether it was there.
pub(crate) fn make_directories(root: &RootDir, path: &Path, owner: (u32, u32)) -> Result<(), CopyError> {
    let at = |action| {
        move |e: Errno| CopyError::Destination { action, path: Path::new("/").join(path), source: e.into() }
    };
    // What is there already, links followed, needs no making.
    if root.directory(path).is_ok() {
        return Ok(());
    }
    let mut made = PathBuf::new();
    for name in path {
        let parent = root.directory(&made).map_err(|source| CopyError::Destination {
            action: "create the directory",
            path: Path::new("/").join(path),
            source,
        })?;
        made.push(name);
        match rustix::fs::mkdirat(&parent, name, Mode::RWXU) {
            Err(Errno::EXIST) => continue,
            other => other.map_err(at("create the directory"))?,
        }
        let (uid, gid) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
        rustix::fs::chownat(&parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(at("set the owner of"))?;
        rustix::fs::chmodat(&parent, name, Mode::from_raw_mode(0o755), AtFlags::empty())
            .map_err(at("set the mode of"))?;
    }
    match root.directory(path) {
        Ok(_) => Ok(()),
        Err(source) => Err(CopyError::Destination {
            action: "create the directory",
            path: Path::new("/").join(path),
            source,
        }),
    }
}

struct Copier<'a> {
    tree: &'a Tree<'a>,
    rootfs: &'a Path,
    root: RootDir,
    look: &'a Look,
    /// Directories get their times when nothing is created in them any more.
    directories: Vec<(PathBuf, Option<Mtime>)>,
    buffer: Vec<u8>,
}

impl Copier<'_> {
    fn owner(&self, node: &Node) -> (u32, u32) {
        self.look.owner.unwrap_or(node.owner)
    }

    fn mode(&self, node: &Node) -> Mode {
        let directory = node.kind == NodeKind::Directory;
        let changed = self.look.mode.as_ref().map(|chmod| chmod.apply(node.mode, directory));
        Mode::from_raw_mode(changed.unwrap_or(node.mode))
    }

    fn parents(&self, path: &Path) -> Result<(), CopyError> {
        make_directories(&self.root, path, self.look.owner.unwrap_or((0, 0)))
    }

    /// The content of a directory into `target`. One that is there stays as it is, a new one is made like any parent:
    /// only what is in the source is copied, not the source itself.
    fn directory_into(
        &mut self,
        source: &Path,
        target: &Path,
        only: Option<&[Part]>,
    ) -> Result<(), CopyError> {
        let shown = Path::new("/").join(target);
        match self.root.directory(target) {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                self.parents(target)?;
            }
            Err(e) if e.kind() == io::ErrorKind::NotADirectory => {
                return Err(CopyError::Kind { what: "a directory", there: "the file", path: shown });
            }
            Err(source) => return Err(CopyError::Destination { action: "open", path: shown, source }),
        }
        if let Some(parts) = only {
            return self.parts_into(source, target, parts);
        }
        // A list, not the stack: trees may be deep.
        let mut next = vec![(source.to_owned(), target.to_owned())];
        while let Some((source, target)) = next.pop() {
            let parent = self.root.directory(&target).map_err(|source| {
                let path = Path::new("/").join(&target);
                CopyError::Destination { action: "open", path, source }
            })?;
            for name in self.tree.children(&source)? {
                let (source, target) = (source.join(&name), target.join(&name));
                let node = self.tree.node(&source)?;
                self.node(&source, &node, parent.as_fd(), &name, &target)?;
                if node.kind == NodeKind::Directory {
                    next.push((source, target));
                }
            }
        }
        Ok(())
    }

    /// Some of what is in a directory. A directory that is there for what is in it, and in the image already, stays as
    /// it is.
    fn parts_into(&mut self, source: &Path, target: &Path, parts: &[Part]) -> Result<(), CopyError> {
        for part in parts {
            let (source, target) = (source.join(&part.path), target.join(&part.path));
            if part.implied && self.root.directory(&target).is_ok() {
                continue;
            }
            let parent = target.parent().unwrap_or(Path::new(""));
            let parent = self.root.directory(parent).map_err(|e| {
                let path = Path::new("/").join(parent);
                CopyError::Destination { action: "open", path, source: e }
            })?;
            let name = part.path.file_name().unwrap_or_default();
            let node = self.tree.node(&source)?;
            self.node(&source, &node, parent.as_fd(), name, &target)?;
        }
        Ok(())
    }

    /// One source that is no directory, to exactly `target`. A link that is there is replaced, or written through if
    /// the Dockerfile named it.
    fn file_to(&mut self, source: &Path, node: &Node, target: &Path, named: bool) -> Result<(), CopyError> {
        let shown = Path::new("/").join(target);
        let fail = |source| CopyError::Destination { action: "write", path: shown.clone(), source };
        let parent = self.root.directory(target.parent().unwrap_or(Path::new(""))).map_err(fail)?;
        let name = target.file_name().ok_or_else(|| CopyError::Kind {
            what: "a file",
            there: "the directory",
            path: shown.clone(),
        })?;
        let is_link = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::Symlink);
        if named && is_link && matches!(node.kind, NodeKind::File { .. }) {
            let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::TRUNC | OFlags::NOCTTY | OFlags::NONBLOCK;
            let file = self.root.open_at(target, flags, Mode::RUSR | Mode::WUSR).map_err(fail)?;
            return self.fill(source, node, &file, &shown);
        }
        self.node(source, node, parent.as_fd(), name, target)
    }

    /// One file or bare directory, in place of what is there.
    fn node(
        &mut self,
        source: &Path,
        node: &Node,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        target: &Path,
    ) -> Result<(), CopyError> {
        let shown = Path::new("/").join(target);
        let failed = |action| {
            let path = shown.clone();
            move |e: Errno| CopyError::Destination { action, path, source: e.into() }
        };
        let there = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).ok();
        let there_directory =
            there.as_ref().is_some_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::Directory);
        if node.kind == NodeKind::Directory {
            match there {
                None => {
                    rustix::fs::mkdirat(parent, name, Mode::RWXU).map_err(failed("create the directory"))?
                }
                Some(_) if there_directory => {}
                Some(_) => {
                    return Err(CopyError::Kind { what: "a directory", there: "the file", path: shown });
                }
            }
            self.attributes(parent, name, node, &shown)?;
            self.directories.push((target.to_owned(), node.mtime));
            return Ok(());
        }
        if there_directory {
            return Err(CopyError::Kind { what: "a file", there: "the directory", path: shown });
        }
        if there.is_some() {
            rustix::fs::unlinkat(parent, name, AtFlags::empty()).map_err(failed("replace"))?;
        }
        let device = |kind, major, minor| {
            rustix::fs::mknodat(
                parent,
                name,
                kind,
                Mode::RUSR | Mode::WUSR,
                rustix::fs::makedev(major, minor),
            )
        };
        match &node.kind {
            NodeKind::File { .. } => {
                let flags =
                    OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR);
                return self.fill(source, node, &file.map_err(failed("create"))?, &shown);
            }
            NodeKind::Symlink { target } => rustix::fs::symlinkat(OsStr::from_bytes(target), parent, name),
            NodeKind::Fifo => device(FileType::Fifo, 0, 0),
            NodeKind::Device { block: true, major, minor } => device(FileType::BlockDevice, *major, *minor),
            NodeKind::Device { block: false, major, minor } => {
                device(FileType::CharacterDevice, *major, *minor)
            }
            NodeKind::Directory => Ok(()),
        }
        .map_err(failed("create"))?;
        self.attributes(parent, name, node, &shown)
    }

    /// Content, owner, mode and time of a file that is open and empty.
    fn fill(&mut self, source: &Path, node: &Node, file: &OwnedFd, shown: &Path) -> Result<(), CopyError> {
        let failed = |action| {
            let path = shown.to_owned();
            move |e: io::Error| CopyError::Destination { action, path, source: e }
        };
        let mut content = self.tree.content(source)?;
        let mut out = File::from(file.try_clone().map_err(failed("write"))?);
        loop {
            let n = match content.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(TreeError::Read { path: source.to_owned(), source: e }.into()),
            };
            io::Write::write_all(&mut out, &self.buffer[..n]).map_err(failed("write"))?;
        }
        let (uid, gid) = self.owner(node);
        let set = rustix::fs::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        set.map_err(|e| failed("set the owner of")(e.into()))?;
        for (key, value) in &node.xattrs {
            let set = rustix::fs::fsetxattr(file, key, value, rustix::fs::XattrFlags::empty());
            set.map_err(|e| failed("set an extended attribute of")(e.into()))?;
        }
        rustix::fs::fchmod(file, self.mode(node)).map_err(|e| failed("set the mode of")(e.into()))?;
        match node.mtime {
            Some(time) => {
                rustix::fs::futimens(file, &timestamps(time)).map_err(|e| failed("set the time of")(e.into()))
            }
            None => Ok(()),
        }
    }

    fn attributes(
        &self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        node: &Node,
        shown: &Path,
    ) -> Result<(), CopyError> {
        let failed =
            |action| move |e: io::Error| CopyError::Destination { action, path: shown.to_owned(), source: e };
        let (uid, gid) = self.owner(node);
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::chownat(parent, name, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), flags)
            .map_err(|e| failed("set the owner of")(e.into()))?;
        for (key, value) in &node.xattrs {
            beneath::set_xattr(parent, name, key, value).map_err(failed("set an extended attribute of"))?;
        }
        if !matches!(node.kind, NodeKind::Symlink { .. }) {
            rustix::fs::chmodat(parent, name, self.mode(node), AtFlags::empty())
                .map_err(|e| failed("set the mode of")(e.into()))?;
        }
        if let Some(time) = node.mtime.filter(|_| node.kind != NodeKind::Directory) {
            rustix::fs::utimensat(parent, name, &timestamps(time), flags)
                .map_err(|e| failed("set the time of")(e.into()))?;
        }
        Ok(())
    }

    /// Unpacks `source` into `target` if it is an archive; `false` if it is none.
    fn unpacked(&self, source: &Path, node: &Node, target: &Path) -> Result<bool, CopyError> {
        if !matches!(node.kind, NodeKind::File { .. }) {
            return Ok(false);
        }
        let Ok(unpacked) = compression::unpacked(self.tree.content(source)?) else { return Ok(false) };
        // It is an archive if it has a first entry; a packed file that is no tar is just a file.
        if !matches!(Reader::new(unpacked).next_member(), Ok(Some(_))) {
            return Ok(false);
        }
        self.parents(target)?;
        let mut content = self.tree.content(source)?;
        // As in BuildKit, `--chown` is not about what archives say.
        sampan_image::extract(&mut content, self.rootfs, target)
            .map_err(|e| CopyError::Archive { path: source.to_owned(), source: e })?;
        Ok(true)
    }

    fn finish(self) -> Result<(), CopyError> {
        for (path, mtime) in &self.directories {
            let Some(mtime) = mtime else { continue };
            let failed = |source| CopyError::Destination {
                action: "set the time of",
                path: Path::new("/").join(path),
                source,
            };
            let directory = self.root.directory(path).map_err(failed)?;
            let set = rustix::fs::utimensat(&directory, c".", &timestamps(*mtime), AtFlags::empty());
            set.map_err(|e| failed(e.into()))?;
        }
        Ok(())
    }
}

fn timestamps(mtime: Mtime) -> Timestamps {
    let time = Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}
