//! Paths inside a directory tree that someone else filled: nothing resolved here leaves the tree.
//!
//! A [`RootDir`] is a directory descriptor. Its paths resolve by `openat2(2)` with `RESOLVE_IN_ROOT`: absolute
//! names, `..` and symbolic links all end inside, and `/proc`'s magic links are refused. Whoever then acts on the
//! last name of a path does it relative to the parent's descriptor and without following a link.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

/// The root of a tree; see the module.
#[derive(Debug)]
pub struct RootDir(OwnedFd);

impl RootDir {
    /// Opens the directory at `path`, which is trusted.
    ///
    /// # Errors
    /// If there is no such directory.
    pub fn open(path: &Path) -> io::Result<RootDir> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(RootDir(rustix::fs::openat(CWD, path, flags, Mode::empty())?))
    }

    /// Opens what `path` names inside the tree, links followed inside it.
    ///
    /// # Errors
    /// As `openat2(2)`.
    pub fn open_at(&self, path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        loop {
            // The kernel answers EAGAIN when a rename elsewhere made `..` unsure; asking again is what it wants.
            match rustix::fs::openat2(&self.0, path, flags | OFlags::CLOEXEC, mode, resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
    }

    /// The directory at `path`, to act in (not to list: `O_PATH`).
    ///
    /// # Errors
    /// If it does not resolve to a directory.
    pub fn directory(&self, path: &Path) -> io::Result<OwnedFd> {
        self.open_at(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())
    }

    /// A file inside the tree to read; anything but a regular file is refused, and a fifo does not block.
    ///
    /// # Errors
    /// If it does not resolve to a regular file.
    pub fn file(&self, path: &Path) -> io::Result<File> {
        let fd = self.open_at(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY, Mode::empty())?;
        match FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) {
            FileType::RegularFile => Ok(File::from(fd)),
            FileType::Directory => Err(Errno::ISDIR.into()),
            _ => Err(Errno::INVAL.into()),
        }
    }

    /// What `path` is; a link at its end is not followed, those before it are, inside the tree.
    ///
    /// # Errors
    /// If there is nothing.
    pub fn stat(&self, path: &Path) -> io::Result<Stat> {
        let fd = self.open_at(path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())?;
        Ok(rustix::fs::fstat(&fd)?)
    }
}

impl AsFd for RootDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A path for the calls that take no descriptor: `name` in `directory`, by way of `/proc/self/fd`.
pub fn path_in(directory: impl AsFd, name: &OsStr) -> PathBuf {
    let mut path = PathBuf::from(format!("/proc/self/fd/{}", directory.as_fd().as_raw_fd()));
    path.push(name);
    path
}

/// The names in a directory, `.` and `..` left out, in the order of their bytes.
///
/// # Errors
/// If `directory` can't be read.
pub fn sorted_names(directory: impl AsFd) -> io::Result<Vec<OsString>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let readable = rustix::fs::openat(directory, c".", flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in Dir::new(readable)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name));
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Directories nested deeper than this are moved up before they are emptied, so that neither descriptors nor the
/// stack grow with the depth of a hostile tree.
const REMOVE_DEPTH: u32 = 64;

/// Removes `name` in `parent`, with all that is in it, following no link. It is no error if nothing is there.
///
/// # Errors
/// The first thing that can't be removed.
pub fn remove_tree(parent: impl AsFd, name: &OsStr) -> io::Result<()> {
    let parent = parent.as_fd();
    let mut moved = 0u64;
    // Each round empties the tree down to REMOVE_DEPTH and hangs what is deeper directly below the top.
    loop {
        let before = moved;
        match remove_level(parent, name, None, 0, &mut moved) {
            Ok(()) => return Ok(()),
            Err(e) if e.raw_os_error() == Some(Errno::NOTEMPTY.raw_os_error()) && moved > before => {}
            Err(e) => return Err(e),
        }
    }
}

fn remove_level(
    parent: BorrowedFd<'_>,
    name: &OsStr,
    top: Option<BorrowedFd<'_>>,
    depth: u32,
    moved: &mut u64,
) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(e) => return Err(e.into()),
    }
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTEMPTY | Errno::EXIST) => {}
        Err(e) => return Err(e.into()),
    }
    if let Some(top) = top.filter(|_| depth >= REMOVE_DEPTH) {
        *moved += 1;
        // A name of ours that exists already is tried again with the next number, in the next round.
        let aside = format!(".sampan-removing-{}-{moved}", std::process::id());
        return Ok(rustix::fs::renameat(parent, name, top, aside)?);
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    for entry in sorted_names(&directory)? {
        let top = top.unwrap_or(directory.as_fd());
        remove_level(directory.as_fd(), &entry, Some(top), depth + 1, moved)?;
    }
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// The extended attributes of `name` in `directory` (of the link itself, if it is one): names, in order.
/// A file system without them has none.
///
/// # Errors
/// If they can't be listed.
pub fn xattr_names(directory: impl AsFd, name: &OsStr) -> io::Result<Vec<OsString>> {
    let path = path_in(directory, name);
    let list = match grow(|buffer| rustix::fs::llistxattr(&path, buffer)) {
        Err(Errno::NOTSUP | Errno::NODATA) => return Ok(Vec::new()),
        other => other?,
    };
    let names = list.split(|b| *b == 0).filter(|n| !n.is_empty());
    let mut names: Vec<OsString> = names.map(|n| OsStr::from_bytes(n).to_owned()).collect();
    names.sort_unstable();
    Ok(names)
}

/// The value of the extended attribute `key` of `name` in `directory`, or `None` if it has none such.
///
/// # Errors
/// If it can't be read.
pub fn xattr(directory: impl AsFd, name: &OsStr, key: &OsStr) -> io::Result<Option<Vec<u8>>> {
    let path = path_in(directory, name);
    match grow(|buffer| rustix::fs::lgetxattr(&path, key, buffer)) {
        Err(Errno::NOTSUP | Errno::NODATA) => Ok(None),
        other => Ok(Some(other?)),
    }
}

/// Sets the extended attribute `key` of `name` in `directory` (of the link itself, if it is one).
///
/// # Errors
/// If it can't be set.
pub fn set_xattr(directory: impl AsFd, name: &OsStr, key: &OsStr, value: &[u8]) -> io::Result<()> {
    let path = path_in(directory, name);
    Ok(rustix::fs::lsetxattr(&path, key, value, rustix::fs::XattrFlags::empty())?)
}

/// Calls `read` with a buffer large enough; attributes rarely need more than the first one.
fn grow(mut read: impl FnMut(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0u8; 256];
    loop {
        match read(&mut buffer) {
            Ok(n) => {
                buffer.truncate(n);
                return Ok(buffer);
            }
            // 64 KiB is the kernel's bound for a value and for a list of names.
            Err(Errno::RANGE) if buffer.len() <= 65536 => buffer = vec![0u8; buffer.len() * 16],
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("sampan-beneath-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir(&dir).unwrap();
        dir
    }

    #[test]
    fn links_and_dots_end_inside() {
        let dir = scratch("links");
        fs::create_dir(dir.join("root")).unwrap();
        fs::write(dir.join("secret"), "outside").unwrap();
        fs::write(dir.join("root/secret"), "inside").unwrap();
        std::os::unix::fs::symlink("/secret", dir.join("root/absolute")).unwrap();
        std::os::unix::fs::symlink("../../secret", dir.join("root/up")).unwrap();
        let root = RootDir::open(&dir.join("root")).unwrap();
        for path in ["secret", "/secret", "../secret", "absolute", "up", "../../../../secret"] {
            let text = io::read_to_string(root.file(Path::new(path)).unwrap()).unwrap();
            assert_eq!(text, "inside", "{path}");
        }
        assert!(root.file(Path::new("")).is_err(), "a directory is not a file");
        remove_tree(CWD, dir.as_os_str()).unwrap();
    }

    #[test]
    fn removes_trees_of_any_depth_and_follows_no_link() {
        let dir = scratch("deep");
        fs::write(dir.join("kept"), "").unwrap();
        let mut at = rustix::fs::openat(CWD, &dir, OFlags::DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&at, "dd", Mode::RWXU).unwrap();
            rustix::fs::symlinkat(dir.join("kept"), &at, "link").unwrap();
            at = rustix::fs::openat(&at, "dd", OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        let top = rustix::fs::openat(CWD, &dir, OFlags::DIRECTORY, Mode::empty()).unwrap();
        remove_tree(&top, OsStr::new("dd")).unwrap();
        remove_tree(&top, OsStr::new("dd")).unwrap();
        assert_eq!(sorted_names(&top).unwrap(), ["kept", "link"]);
        remove_tree(CWD, dir.as_os_str()).unwrap();
    }

    #[test]
    fn attributes_come_back() {
        let dir = scratch("xattr");
        let fd = rustix::fs::openat(CWD, &dir, OFlags::DIRECTORY, Mode::empty()).unwrap();
        fs::write(dir.join("f"), "").unwrap();
        let (name, key) = (OsStr::new("f"), OsStr::new("user.k"));
        assert_eq!(xattr(&fd, name, key).unwrap(), None);
        let value = vec![7u8; 3000];
        set_xattr(&fd, name, key, &value).unwrap();
        assert_eq!(xattr(&fd, name, key).unwrap(), Some(value));
        assert_eq!(xattr_names(&fd, name).unwrap(), ["user.k"]);
        remove_tree(CWD, dir.as_os_str()).unwrap();
    }
}
