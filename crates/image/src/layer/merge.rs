//! Lays a layer onto a mounted file system: what it deletes is removed, what it has is written. The mount's own read-write
//! layer then holds what came of all that were laid on.

use std::collections::BTreeMap;
use std::io::{self, BufRead};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};
use sampan_kernel::beneath;

use super::apply::{Applier, ApplyError, EntryError, Unfinished, clean_path, each_member, open, run};
use super::place::{mtime_of, on, on_io, timestamps};
use super::{OPAQUE, WHITEOUT, WHITEOUT_META};
use crate::tar::{Mtime, TarError};

/// Lays the layer that `tar` opens onto `rootfs`. A directory that it does not describe keeps its time.
///
/// # Errors
/// If the tar is damaged or the file system refuses; a part may be there then.
pub(crate) fn merge<R: BufRead>(tar: impl Fn() -> io::Result<R>, rootfs: &Path) -> Result<(), ApplyError> {
    let again = || tar().map_err(|source| ApplyError::Archive { source: TarError::Read { source } });
    let mut times = BTreeMap::new();
    let nothing = Vec::new();
    let root = open(rootfs)?;
    // Marks concern the layers below alone: first what they delete, wherever in the tar they are.
    each_member(&mut again()?, |member, path, _| {
        let marked = clean_path(&member.path).and_then(|clean| {
            note_time(&root, clean.parent(), &mut times);
            delete(&root, &clean)
        });
        marked.map(|()| 0).map_err(|source| ApplyError::Entry { path: path(), source })
    })?;
    let mut applier = Applier::new(open(rootfs)?, &nothing, true);
    run(&mut again()?, &mut applier, Ok)?;
    let described: Vec<PathBuf> = applier.described().map(Path::to_owned).collect();
    Unfinished::of(applier).finish()?;
    for path in described {
        times.remove(&path);
    }
    for (path, mtime) in times {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY;
        if let Ok(directory) = root.open_at(&path, flags, Mode::empty()) {
            rustix::fs::utimensat(&directory, c".", &timestamps(mtime), AtFlags::empty())
                .map_err(on("set the time"))
                .map_err(|source| ApplyError::Entry { path: path.display().to_string(), source })?;
        }
    }
    Ok(())
}

/// Remembers the time of a directory in which something is about to change.
fn note_time(root: &beneath::RootDir, path: Option<&Path>, times: &mut BTreeMap<PathBuf, Mtime>) {
    let Some(path) = path.filter(|p| !times.contains_key(*p)) else { return };
    if let Ok(stat) = root.stat(path) {
        times.insert(path.to_owned(), mtime_of(&stat));
    }
}

/// Does what the name of an entry says, if it is a mark.
fn delete(root: &beneath::RootDir, path: &Path) -> Result<(), EntryError> {
    let (Some(name), Some(parent)) = (path.file_name(), path.parent()) else { return Ok(()) };
    let Some(hidden) = name.as_bytes().strip_prefix(WHITEOUT) else { return Ok(()) };
    // What is not there need not go.
    let Ok(parent) = root.directory(parent) else { return Ok(()) };
    if name.as_bytes() == OPAQUE {
        for name in beneath::sorted_names(&parent).map_err(on_io("list the directory"))? {
            beneath::remove_tree(parent.as_fd(), &name).map_err(on_io("delete what is there"))?;
        }
    } else if !name.as_bytes().starts_with(WHITEOUT_META) && !matches!(hidden, b"" | b"." | b"..") {
        let hidden = std::ffi::OsStr::from_bytes(hidden);
        beneath::remove_tree(parent.as_fd(), hidden).map_err(on_io("delete what is there"))?;
    }
    Ok(())
}
