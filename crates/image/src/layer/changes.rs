//! What a container changed in its file system, as `docker diff` tells it.
//!
//! The read-write layer is compared with the layers below, the init layer among them: a name that is a whiteout was
//! deleted; one that a layer below has, too, was modified, unless both are directories that look the same (then it
//! is only there because something in it changed); any other was added. The parent of what was added or deleted
//! counts as modified.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};
use sampan_base::FileError;
use sampan_kernel::beneath::{self, RootDir};

use super::{is_directory, is_whiteout};
use crate::snapshot::IdMapping;

/// One changed path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// In which way.
    pub kind: ChangeKind,
    /// Absolute, inside the container.
    pub path: PathBuf,
}

/// In which way a path was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChangeKind {
    /// It was not there before.
    Added,
    /// It, or for a directory its entries, is not as before.
    Modified,
    /// It is no more.
    Deleted,
}

impl ChangeKind {
    /// The letter that `docker diff` prints.
    pub fn letter(self) -> char {
        match self {
            ChangeKind::Added => 'A',
            ChangeKind::Modified => 'C',
            ChangeKind::Deleted => 'D',
        }
    }
}

/// What `upper` changes of `below` (the nearest layer first), in the order of the paths.
///
/// # Errors
/// If a layer can't be read.
pub(crate) fn changes(
    upper: &Path,
    below: &[PathBuf],
    mapping: &IdMapping,
) -> Result<Vec<Change>, FileError> {
    let open = |path: &Path| RootDir::open(path).map_err(FileError::on("open", path));
    let root = open(upper)?;
    let below = below.iter().map(|p| open(p)).collect::<Result<Vec<_>, _>>()?;
    let path = PathBuf::from("/");
    let mut walk = Walk { below, changes: Vec::new(), reported: HashSet::new(), path, mapping };
    let walked = walk.directory(root.as_fd());
    walked.map_err(|source| FileError { action: "look at the changed", path: walk.path, source })?;
    Ok(walk.changes)
}

struct Walk<'a> {
    /// How the owners in the upper layer are those below.
    mapping: &'a IdMapping,
    below: Vec<RootDir>,
    changes: Vec<Change>,
    /// The directories among the changes.
    reported: HashSet<PathBuf>,
    path: PathBuf,
}

impl Walk<'_> {
    fn directory(&mut self, directory: BorrowedFd<'_>) -> io::Result<()> {
        super::check_depth(&self.path)?;
        for name in beneath::sorted_names(directory)? {
            self.path.push(&name);
            self.entry(directory, &name)?;
            self.path.pop();
        }
        Ok(())
    }

    fn entry(&mut self, parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
        let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let before = self.below.iter().find_map(|layer| layer.stat(&self.path).ok());
        let before = before.filter(|s| !is_whiteout(s));
        let same = before.as_ref().is_some_and(|before| {
            let times = |s: &rustix::fs::Stat| (s.st_mtime, s.st_mtime_nsec);
            is_directory(before)
                && is_directory(&stat)
                && before.st_mode == stat.st_mode
                && (before.st_uid, before.st_gid) == self.mapping.to_image(stat.st_uid, stat.st_gid)
                && times(before) == times(&stat)
        });
        if !same {
            let kind = match (is_whiteout(&stat), before.is_some()) {
                (true, _) => ChangeKind::Deleted,
                (false, true) => ChangeKind::Modified,
                (false, false) => ChangeKind::Added,
            };
            self.report(kind);
        }
        if is_directory(&stat) {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let directory = rustix::fs::openat(parent, name, flags, Mode::empty())?;
            if !same {
                self.reported.insert(self.path.clone());
            }
            self.directory(directory.as_fd())?;
        }
        Ok(())
    }

    fn report(&mut self, kind: ChangeKind) {
        if kind != ChangeKind::Modified
            && let Some(parent) = self.path.parent().filter(|p| *p != Path::new("/"))
            && self.reported.insert(parent.to_owned())
        {
            self.changes.push(Change { kind: ChangeKind::Modified, path: parent.to_owned() });
        }
        self.changes.push(Change { kind, path: self.path.clone() });
    }
}
