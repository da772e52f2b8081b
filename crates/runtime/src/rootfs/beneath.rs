//! Paths inside a root file system, resolved by the kernel so that none leads out: links, absolute ones and `..` too,
//! are taken as inside. Nothing joins strings and hopes.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// The directory that is the container's `/`.
#[derive(Debug)]
pub struct Root {
    directory: OwnedFd,
    /// File systems that were made for the container and are mounted at these paths, none of which leads over a link.
    /// Nobody else has put anything into them: what is directly inside is found by its name.
    own: Vec<(PathBuf, OwnedFd)>,
}

/// A place to mount something at.
#[derive(Debug)]
pub enum Place<'a> {
    /// A handle on it.
    At(OwnedFd),
    /// The name of it, in a file system of the container's own.
    In(BorrowedFd<'a>, &'a OsStr),
}

/// What is done with symbolic links on the way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Links {
    /// They are followed, inside.
    Inside,
    /// They are refused.
    Refused,
}

/// What is made if it is missing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A directory.
    Directory,
    /// An empty file.
    File,
}

/// How often a resolution is tried that the kernel gave up because something was renamed meanwhile.
const MAX_TRIES: u32 = 128;
/// As the kernel's own limit.
const MAX_LINKS: u32 = 40;
/// Longer paths are refused by the kernel, too.
const MAX_PARTS: usize = 4096;

impl Root {
    /// The root that a descriptor is open on.
    pub fn new(directory: OwnedFd) -> Root {
        Root { directory, own: Vec::new() }
    }

    /// Remembers a file system that was made for the container and mounted at `path`.
    pub fn add_own(&mut self, path: &Path, root: OwnedFd) {
        self.own.push((path.to_owned(), root));
    }

    /// Something else was mounted at `path`, which may cover what is remembered.
    pub fn cover(&mut self, path: &Path) {
        self.own.retain(|(own, _)| !own.starts_with(path));
    }

    /// All that is open.
    pub fn into_descriptors(self) -> impl Iterator<Item = OwnedFd> {
        self.own.into_iter().map(|(_, root)| root).chain([self.directory])
    }

    /// Nobody knows any more what is where: paths are resolved from the root again.
    pub fn forget_own(&mut self) {
        self.own.clear();
    }

    /// The file system of the container's own that `path` is directly inside of, and its name there.
    pub fn in_own<'a>(&'a self, path: &'a Path) -> Option<(BorrowedFd<'a>, &'a OsStr)> {
        let (parent, name) = (path.parent()?, path.file_name()?);
        let own = self.own.iter().rfind(|(own, _)| own == parent);
        own.map(|(_, root)| (root.as_fd(), name))
    }

    /// The file system of the container's own that is mounted at `path`.
    pub fn own_at(&self, path: &Path) -> Option<BorrowedFd<'_>> {
        self.own.iter().rfind(|(own, _)| own == path).map(|(_, root)| root.as_fd())
    }

    /// A handle on what is at `path`.
    ///
    /// # Errors
    /// If there is nothing, or links are refused and one is on the way.
    pub fn open(&self, path: &Path, links: Links) -> io::Result<OwnedFd> {
        self.open_with(path, links, OFlags::PATH)
    }

    /// As [`Root::open`], with other flags than those of a handle.
    ///
    /// # Errors
    /// As [`Root::open`].
    pub fn open_with(&self, path: &Path, links: Links, flags: OFlags) -> io::Result<OwnedFd> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let resolve = if links == Links::Refused { resolve | ResolveFlags::NO_SYMLINKS } else { resolve };
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let mut tries = 0;
        loop {
            match rustix::fs::openat2(&self.directory, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
            {
                Err(Errno::AGAIN | Errno::INTR) if tries < MAX_TRIES => tries += 1,
                other => return Ok(other?),
            }
        }
    }

    /// A handle on what is at `path`, which is made, with the directories above it, if it is missing.
    ///
    /// # Errors
    /// If it can't be made.
    pub fn ensure(&self, path: &Path, kind: Kind, links: Links) -> io::Result<OwnedFd> {
        Ok(self.ensure_known(path, kind, links)?.0)
    }

    /// As [`Root::ensure`]; tells, too, whether it was there.
    ///
    /// # Errors
    /// As [`Root::ensure`].
    pub fn ensure_known(&self, path: &Path, kind: Kind, links: Links) -> io::Result<(OwnedFd, bool)> {
        match self.open(path, links) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok((self.make(path, kind, links)?, false)),
            other => Ok((other?, true)),
        }
    }

    /// The directory above `path`, made if missing, and the last part of `path`.
    ///
    /// # Errors
    /// If it can't be made, or `path` has no last part.
    pub fn parent(&self, path: &Path, links: Links) -> io::Result<(OwnedFd, OsString)> {
        match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) => Ok((self.ensure(parent, Kind::Directory, links)?, name.to_owned())),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// Walks a path by hand, part by part, and makes what is missing, also where a dangling link points to. `here` is
    /// always the path of `at` without a link in it, so `..` can be resolved again from the root.
    fn make(&self, path: &Path, kind: Kind, links: Links) -> io::Result<OwnedFd> {
        let mut to_do = parts(path);
        let mut here = PathBuf::new();
        let mut at = self.open(&here, Links::Refused)?;
        let mut followed = 0;
        let mut steps = 0;
        while let Some(name) = to_do.pop_front() {
            steps += 1;
            if steps > MAX_PARTS {
                return Err(Errno::NAMETOOLONG.into());
            }
            if name == ".." {
                here.pop();
                at = self.open(&here, Links::Refused)?;
                continue;
            }
            let last = to_do.is_empty();
            match open_child(at.as_fd(), &name) {
                Err(Errno::NOENT) => {
                    let made = if last && kind == Kind::File {
                        let mode = Mode::from_raw_mode(0o644);
                        rustix::fs::mknodat(&at, &name, FileType::RegularFile, mode, 0)
                    } else {
                        rustix::fs::mkdirat(&at, &name, Mode::from_raw_mode(0o755))
                    };
                    match made {
                        // What is there now, ours or another's, is looked at like everything else.
                        Ok(()) | Err(Errno::EXIST) => to_do.push_front(name),
                        Err(e) => return Err(e.into()),
                    }
                }
                Err(e) => return Err(e.into()),
                Ok(child) => match FileType::from_raw_mode(rustix::fs::fstat(&child)?.st_mode) {
                    FileType::Symlink => {
                        followed += 1;
                        if links == Links::Refused || followed > MAX_LINKS {
                            return Err(Errno::LOOP.into());
                        }
                        let target = rustix::fs::readlinkat(&child, c"", Vec::new())?.into_bytes();
                        let target = PathBuf::from(OsString::from_vec(target));
                        if target.is_absolute() {
                            here.clear();
                            at = self.open(&here, Links::Refused)?;
                        }
                        for part in parts(&target).into_iter().rev() {
                            to_do.push_front(part);
                        }
                    }
                    FileType::Directory => {
                        here.push(&name);
                        at = child;
                    }
                    _ if last => return Ok(child),
                    _ => return Err(Errno::NOTDIR.into()),
                },
            }
        }
        Ok(at)
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

fn parts(path: &Path) -> VecDeque<OsString> {
    let part = |component: Component<'_>| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().filter_map(part).collect()
}

fn open_child(directory: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::empty())
}

/// Whether a handle is on a directory.
///
/// # Errors
/// If the kernel does not tell.
pub fn is_directory(handle: BorrowedFd<'_>) -> io::Result<bool> {
    let stat = rustix::fs::statat(handle, c"", AtFlags::EMPTY_PATH)?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn root() -> (tempfile::TempDir, Root) {
        let temporary = tempfile::tempdir().unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let fd = rustix::fs::open(temporary.path(), flags, Mode::empty()).unwrap();
        (temporary, Root::new(fd))
    }

    #[test]
    fn what_is_missing_is_made_inside_even_behind_links() {
        let (temporary, root) = root();
        let at = |path: &str| temporary.path().join(path);
        fs::create_dir(at("var")).unwrap();
        symlink("/run", at("var/run")).unwrap();
        symlink("../../../../etc/real", at("var/up")).unwrap();
        root.ensure(Path::new("/var/run/a/b"), Kind::Directory, Links::Inside).unwrap();
        assert!(at("run/a/b").is_dir());
        root.ensure(Path::new("/var/up"), Kind::File, Links::Inside).unwrap();
        assert!(at("etc/real").is_file());
        root.ensure(Path::new("x/../y/./z"), Kind::File, Links::Inside).unwrap();
        assert!(at("y/z").is_file());
        assert!(is_directory(root.open(Path::new("/"), Links::Refused).unwrap().as_fd()).unwrap());
    }

    #[test]
    fn links_are_refused_where_asked_and_loops_end() {
        let (temporary, root) = root();
        let at = |path: &str| temporary.path().join(path);
        symlink("real", at("link")).unwrap();
        symlink("loop", at("loop")).unwrap();
        fs::write(at("file"), "").unwrap();
        let ensure = |path: &str, links| root.ensure(Path::new(path), Kind::Directory, links);
        assert_eq!(ensure("link/x", Links::Refused).unwrap_err().raw_os_error(), Some(40));
        assert!(!at("real").exists());
        assert_eq!(ensure("loop/x", Links::Inside).unwrap_err().raw_os_error(), Some(40));
        assert_eq!(ensure("file/x", Links::Inside).unwrap_err().raw_os_error(), Some(20));
        assert!(ensure("link/x", Links::Inside).is_ok() && at("real/x").is_dir());
    }
}
