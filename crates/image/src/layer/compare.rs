//! Whether two trees are the same: names, kinds, owners, modes, times, attributes, content, and which names are links of
//! one file. What only overlayfs keeps for itself does not count, but for what it hides.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use sampan_kernel::beneath::{self, RootDir};

use super::{is_opaque, is_overlays_own};

/// The first difference: its path, and in what.
pub(crate) type Difference = (PathBuf, &'static str);

/// Compares two layers' directories.
///
/// # Errors
/// If one can't be read.
pub(crate) fn first_difference(a: &Path, b: &Path) -> io::Result<Option<Difference>> {
    let mut walk = Walk { links: HashMap::new(), path: PathBuf::from("/") };
    let found = walk.directory(RootDir::open(a)?.as_fd(), RootDir::open(b)?.as_fd())?;
    Ok(found.map(|what| (walk.path, what)))
}

struct Walk {
    /// Which file of the one tree is which of the other, for files with several names.
    links: HashMap<(u64, u64), (u64, u64)>,
    /// Where the difference is, once there is one.
    path: PathBuf,
}

type Found = io::Result<Option<&'static str>>;

impl Walk {
    fn directory(&mut self, a: BorrowedFd<'_>, b: BorrowedFd<'_>) -> Found {
        super::check_depth(&self.path)?;
        // A socket is in no tar.
        let names = |d: BorrowedFd<'_>| -> io::Result<Vec<_>> {
            let mut names = beneath::sorted_names(d)?;
            names.retain(|name| {
                !rustix::fs::statat(d, name, AtFlags::SYMLINK_NOFOLLOW)
                    .is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::Socket)
            });
            Ok(names)
        };
        let (left, right) = (names(a)?, names(b)?);
        if let Some(odd) = left.iter().find(|n| right.binary_search(n).is_err()) {
            self.path.push(odd);
            return Ok(Some("it should not be there"));
        }
        if let Some(odd) = right.iter().find(|n| left.binary_search(n).is_err()) {
            self.path.push(odd);
            return Ok(Some("it is missing"));
        }
        for name in left {
            self.path.push(&name);
            if let Some(what) = self.entry(a, b, &name)? {
                return Ok(Some(what));
            }
            self.path.pop();
        }
        Ok(None)
    }

    fn entry(&mut self, a: BorrowedFd<'_>, b: BorrowedFd<'_>, name: &OsStr) -> Found {
        let stat = |d: BorrowedFd<'_>| rustix::fs::statat(d, name, AtFlags::SYMLINK_NOFOLLOW);
        let (left, right) = (stat(a)?, stat(b)?);
        let kind = FileType::from_raw_mode(left.st_mode);
        let owner = |s: &Stat| (s.st_uid, s.st_gid);
        let time = |s: &Stat| (s.st_mtime, s.st_mtime_nsec);
        if kind != FileType::from_raw_mode(right.st_mode) || left.st_rdev != right.st_rdev {
            return Ok(Some("its kind"));
        }
        // A mark of overlayfs has no attributes that count.
        if super::is_whiteout(&left) {
            return Ok(None);
        }
        if owner(&left) != owner(&right) {
            return Ok(Some("its owner"));
        }
        if left.st_mode != right.st_mode {
            return Ok(Some("its mode"));
        }
        if time(&left) != time(&right) {
            return Ok(Some("its time"));
        }
        if xattrs(a, name)? != xattrs(b, name)? {
            return Ok(Some("its extended attributes"));
        }
        if kind != FileType::Directory && (left.st_nlink > 1 || right.st_nlink > 1) {
            let (from, to) = ((left.st_dev, left.st_ino), (right.st_dev, right.st_ino));
            if *self.links.entry(from).or_insert(to) != to || left.st_nlink != right.st_nlink {
                return Ok(Some("its hard links"));
            }
        }
        match kind {
            FileType::RegularFile if left.st_size != right.st_size => Ok(Some("its size")),
            FileType::RegularFile => {
                Ok(if same(open(a, name, OFlags::RDONLY)?, open(b, name, OFlags::RDONLY)?)? {
                    None
                } else {
                    Some("its content")
                })
            }
            FileType::Symlink => {
                let target = |d: BorrowedFd<'_>| rustix::fs::readlinkat(d, name, Vec::new());
                Ok((target(a)? != target(b)?).then_some("its target"))
            }
            FileType::Directory => {
                if is_opaque(a, name)? != is_opaque(b, name)? {
                    return Ok(Some("whether it hides what is below"));
                }
                let flags = OFlags::PATH | OFlags::DIRECTORY;
                self.directory(open(a, name, flags)?.as_fd(), open(b, name, flags)?.as_fd())
            }
            _ => Ok(None),
        }
    }
}

fn open(directory: BorrowedFd<'_>, name: &OsStr, flags: OFlags) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(directory, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?)
}

fn xattrs(directory: BorrowedFd<'_>, name: &OsStr) -> io::Result<Vec<(std::ffi::OsString, Vec<u8>)>> {
    let mut found = Vec::new();
    for key in beneath::xattr_names(directory, name)? {
        if !is_overlays_own(key.as_encoded_bytes()) {
            found.extend(beneath::xattr(directory, name, &key)?.map(|value| (key, value)));
        }
    }
    Ok(found)
}

fn same(a: OwnedFd, b: OwnedFd) -> io::Result<bool> {
    let (mut a, mut b) = (File::from(a), File::from(b));
    let (mut left, mut right) = (vec![0u8; 128 * 1024], vec![0u8; 128 * 1024]);
    loop {
        let n = a.read(&mut left)?;
        if n == 0 {
            return Ok(b.read(&mut right)? == 0);
        }
        if b.read_exact(&mut right[..n]).is_err() || left[..n] != right[..n] {
            return Ok(false);
        }
    }
}
