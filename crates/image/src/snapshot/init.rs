//! The init layer: what every container's file system has besides its image, so that the runtime finds places to
//! mount on, and that neither `diff` nor `commit` shows them.

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use sampan_base::FileError;
use sampan_kernel::beneath::RootDir;

use crate::layer::apply::EntryError;
use crate::layer::below::make_directories;

/// A list of files to make; paths are absolute, inside the container.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct InitLayer {
    entries: Vec<(PathBuf, Entry)>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Entry {
    Directory,
    File { content: Vec<u8>, mode: u32 },
    Symlink { target: PathBuf },
}

impl InitLayer {
    /// Nothing: for a file system in which no container runs.
    pub fn empty() -> InitLayer {
        InitLayer::default()
    }

    /// What Docker's containers have: mount points `/proc`, `/sys`, `/dev/pts`, `/dev/shm`, `/dev/console`, empty
    /// `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf` to mount on, `/.dockerenv`, and `/etc/mtab`.
    pub fn docker() -> InitLayer {
        let mut init = InitLayer::empty();
        for path in ["/.dockerenv", "/dev/console", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf"] {
            init = init.with_file(path, b"", 0o755);
        }
        init = init.with_symlink("/etc/mtab", "/proc/mounts");
        for path in ["/dev/pts", "/dev/shm", "/proc", "/sys"] {
            init = init.with_directory(path);
        }
        init
    }

    /// Also a file, in place of one of the image.
    #[must_use]
    pub fn with_file(mut self, path: impl Into<PathBuf>, content: &[u8], mode: u32) -> InitLayer {
        self.entries.push((path.into(), Entry::File { content: content.to_vec(), mode }));
        self
    }

    /// Also a directory, if the image has none there.
    #[must_use]
    pub fn with_directory(mut self, path: impl Into<PathBuf>) -> InitLayer {
        self.entries.push((path.into(), Entry::Directory));
        self
    }

    /// Also a symbolic link, in place of what the image has.
    #[must_use]
    pub fn with_symlink(mut self, path: impl Into<PathBuf>, target: impl Into<PathBuf>) -> InitLayer {
        self.entries.push((path.into(), Entry::Symlink { target: target.into() }));
        self
    }

    /// Makes the files in `directory`, which lies on top of `below` (the nearest first). An entry whose parent is
    /// not a directory in the image, but a link or a file, is left out: it would hide what the image means.
    pub(super) fn write(&self, directory: &Path, below: &[RootDir]) -> Result<(), FileError> {
        let root = RootDir::open(directory).map_err(FileError::on("open", directory))?;
        let mut times = Vec::new();
        for (path, entry) in &self.entries {
            let made = write_entry(&root, below, path, entry);
            times.extend(
                made.map_err(|e| in_init_layer(e, directory.join(path.strip_prefix("/").unwrap_or(path))))?,
            );
        }
        for (path, mtime) in times {
            let directory_fd = root.directory(&path).map_err(FileError::on("open", directory.join(&path)))?;
            let times = crate::layer::place::timestamps(mtime);
            rustix::fs::utimensat(&directory_fd, c".", &times, AtFlags::empty()).map_err(|e| FileError {
                action: "set the time of",
                path: directory.join(&path),
                source: e.into(),
            })?;
        }
        Ok(())
    }
}

fn write_entry(
    root: &RootDir,
    below: &[RootDir],
    path: &Path,
    entry: &Entry,
) -> Result<Vec<(PathBuf, crate::tar::Mtime)>, EntryError> {
    let relative = crate::layer::apply::clean_path(path.as_os_str().as_encoded_bytes())?;
    let (Some(name), Some(parent)) = (relative.file_name(), relative.parent()) else { return Ok(Vec::new()) };
    let is_directory = |path: &Path| match below.iter().find_map(|layer| layer.stat(path).ok()) {
        Some(stat) => rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory,
        None => true,
    };
    if !parent.ancestors().all(is_directory) {
        return Ok(Vec::new());
    }
    if *entry == Entry::Directory {
        return if is_directory(&relative) {
            make_directories(root, below, &relative)
        } else {
            Ok(Vec::new())
        };
    }
    let made = make_directories(root, below, parent)?;
    let parent =
        root.directory(parent).map_err(|source| EntryError::Kernel { action: "open the parent", source })?;
    let written = match entry {
        Entry::File { content, mode } => write_file(parent.as_fd(), name, content, *mode),
        Entry::Symlink { target } => rustix::fs::symlinkat(target, &parent, name).map_err(io::Error::from),
        Entry::Directory => Ok(()),
    };
    written.map_err(|source| EntryError::Kernel { action: "create it", source })?;
    Ok(made)
}

fn write_file(
    parent: std::os::fd::BorrowedFd<'_>,
    name: &OsStr,
    content: &[u8],
    mode: u32,
) -> io::Result<()> {
    let flags = OFlags::CREATE | OFlags::TRUNC | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(mode))?;
    let mut rest = content;
    while !rest.is_empty() {
        match rustix::io::write(&file, rest) {
            Ok(n) => rest = &rest[n..],
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?)
}

fn in_init_layer(error: EntryError, path: PathBuf) -> FileError {
    let source = match error {
        EntryError::Kernel { source, .. } => source,
        other => io::Error::other(other),
    };
    FileError { action: "create in the init layer", path, source }
}
