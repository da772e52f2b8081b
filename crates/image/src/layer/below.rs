//! What a layer takes from the layers below it: how directories look that it needs but does not describe, and files
//! that it makes hard links to.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use sampan_kernel::beneath::{self, RootDir};

use super::apply::EntryError;
use super::place::{mtime_of, on, on_io, set_opaque, stat, timestamps};
use super::{is_directory, is_overlays_own, is_whiteout};
use crate::tar::Mtime;

/// Makes what is missing of the directory `path` in `root`, each part as the nearest layer below has it, or
/// root's with mode 0755. Returns those that were made and have a time to get.
pub(crate) fn make_directories(
    root: &RootDir,
    below: &[RootDir],
    path: &Path,
) -> Result<Vec<(PathBuf, Mtime)>, EntryError> {
    let mut made = Vec::new();
    let mut at = PathBuf::new();
    for name in path {
        let parent = root.directory(&at).map_err(on_io("open the parent directory"))?;
        at.push(name);
        match rustix::fs::mkdirat(&parent, name, Mode::RWXU) {
            Err(Errno::EXIST) => {
                if stat(&parent, name).is_ok_and(|s| is_whiteout(&s)) {
                    beneath::remove_tree(&parent, name).map_err(on_io("replace what is there"))?;
                    rustix::fs::mkdirat(&parent, name, Mode::RWXU).map_err(on("create the directory"))?;
                    set_opaque(parent.as_fd(), name)?;
                    rustix::fs::chmodat(&parent, name, Mode::from_raw_mode(0o755), AtFlags::empty())
                        .map_err(on("set the mode"))?;
                }
                continue;
            }
            other => other.map_err(on("create the directory"))?,
        }
        let like = below.iter().find_map(|layer| layer.stat(&at).ok().map(|s| (layer, s)));
        let mut mode = Mode::from_raw_mode(0o755);
        if let Some((layer, stat)) = like.filter(|(_, s)| is_directory(s)) {
            let owner = (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)));
            rustix::fs::chownat(&parent, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(on("set the owner"))?;
            let source = layer.directory(&at).map_err(on_io("open the directory below"))?;
            copy_xattrs(source.as_fd(), OsStr::new("."), parent.as_fd(), name)?;
            mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
            made.push((at.clone(), mtime_of(&stat)));
        }
        rustix::fs::chmodat(&parent, name, mode, AtFlags::empty()).map_err(on("set the mode"))?;
    }
    Ok(made)
}

/// Gives a directory that is there already the looks of the nearest one below; answers the time that it is to get.
/// One that is not below, or is none, stays as it is.
pub(super) fn look_as_below(
    root: &RootDir,
    below: &[RootDir],
    path: &Path,
) -> Result<Option<Mtime>, EntryError> {
    let like = below.iter().find_map(|layer| layer.stat(path).ok().map(|s| (layer, s)));
    let Some((layer, stat)) = like.filter(|(_, s)| is_directory(s)) else { return Ok(None) };
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY;
    let Ok(directory) = root.open_at(path, flags, Mode::empty()) else { return Ok(None) };
    let here = OsStr::new(".");
    let owner = (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)));
    rustix::fs::chownat(&directory, here, owner.0, owner.1, AtFlags::empty()).map_err(on("set the owner"))?;
    let source = layer.directory(path).map_err(on_io("open the directory below"))?;
    copy_xattrs(source.as_fd(), here, directory.as_fd(), here)?;
    rustix::fs::chmodat(&directory, here, Mode::from_raw_mode(stat.st_mode & 0o7777), AtFlags::empty())
        .map_err(on("set the mode"))?;
    Ok(Some(mtime_of(&stat)))
}

/// A directory to act in, and those made on the way with the times that they are to get.
type Made = (OwnedFd, Vec<(PathBuf, Mtime)>);

/// Brings a file of a layer below up into this one; answers its parent here, or `None` if no layer has it.
pub(super) fn copy_up(root: &RootDir, below: &[RootDir], path: &Path) -> Result<Option<Made>, EntryError> {
    let (Some(name), Some(parent_path)) = (path.file_name(), path.parent()) else { return Ok(None) };
    for layer in below {
        let Ok(found) = layer.stat(path) else { continue };
        if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
            return Ok(None);
        }
        let made = make_directories(root, below, parent_path)?;
        let parent = root.directory(parent_path).map_err(on_io("open the parent directory"))?;
        let mut source = layer.file(path).map_err(on_io("open the file below"))?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let copy = rustix::fs::openat(&parent, name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(on("create the link's target"))?;
        let mut copy = std::fs::File::from(copy);
        io::copy(&mut source, &mut copy).map_err(on_io("copy the link's target"))?;
        rustix::fs::fchown(&copy, Some(Uid::from_raw(found.st_uid)), Some(Gid::from_raw(found.st_gid)))
            .map_err(on("set the owner"))?;
        let source_parent = layer.directory(parent_path).map_err(on_io("open the directory below"))?;
        copy_xattrs(source_parent.as_fd(), name, parent.as_fd(), name)?;
        rustix::fs::fchmod(&copy, Mode::from_raw_mode(found.st_mode & 0o7777)).map_err(on("set the mode"))?;
        rustix::fs::futimens(&copy, &timestamps(mtime_of(&found))).map_err(on("set the time"))?;
        return Ok(Some((parent, made)));
    }
    Ok(None)
}

fn copy_xattrs(
    from: BorrowedFd<'_>,
    from_name: &OsStr,
    to: BorrowedFd<'_>,
    to_name: &OsStr,
) -> Result<(), EntryError> {
    for key in beneath::xattr_names(from, from_name).map_err(on_io("list extended attributes"))? {
        if is_overlays_own(key.as_bytes()) {
            continue;
        }
        let value = beneath::xattr(from, from_name, &key).map_err(on_io("read an extended attribute"))?;
        beneath::set_xattr(to, to_name, &key, &value.unwrap_or_default())
            .map_err(on_io("set an extended attribute"))?;
    }
    Ok(())
}
