//! A context that is a directory of this host: listed once, its files read where they are.
//!
//! Nothing keeps the directory as it is while the build goes on. So a file's content is believed only as long as its
//! inode, size and times are those that were listed, and is held against the digest that its step was keyed by: a file
//! that changes under the build's hands fails the build, and never gets into a layer under another file's key.

use std::collections::HashMap;
use std::collections::btree_map::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Bound;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use sampan_base::Digest;
use sampan_base::digest::{Hasher, Hashing};
use sampan_image::limits;
use sampan_image::tar::Mtime;
use sampan_kernel::beneath::{self, RootDir};

use super::{
    Context, ContextError, Entry, EntryKind, FileContent, MAX_CONTEXT_ENTRIES, Source, ignore_rules,
    read_text,
};
use crate::ignore::Ignore;

/// Which file it is and in which state, as `stat(2)` tells.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    /// Nanoseconds since 1970. The change time can't be set by anybody, so no content changes without it.
    modified: i128,
    changed: i128,
}

impl Identity {
    fn of(stat: &Stat) -> Identity {
        let time =
            |seconds: i64, nanoseconds: u64| i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
        Identity {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            modified: time(stat.st_mtime, stat.st_mtime_nsec),
            changed: time(stat.st_ctime, stat.st_ctime_nsec),
        }
    }
}

/// Digests of files that were hashed before, by what `stat(2)` says of them; shared by all builds of a process.
#[derive(Debug, Default)]
pub struct Digests(Mutex<HashMap<Identity, Digest>>);

/// How many files are remembered, at some 150 bytes each; beyond it, all are forgotten.
const MAX_DIGESTS: usize = 50_000;
/// A file that was changed so shortly before it was hashed may change again and keep its times: the kernel's
/// timestamps are those of its clock's last tick, 10 ms apart at most (`CONFIG_HZ` >= 100).
const RACY_NANOSECONDS: i128 = 50_000_000;
/// On file systems that know only seconds, or every second one.
const RACY_COARSE_NANOSECONDS: i128 = 2_000_000_000;

impl Identity {
    /// How long a file must have rested so that its times prove its content.
    fn rest(&self) -> i128 {
        match self.changed % 1_000_000_000 {
            0 => RACY_COARSE_NANOSECONDS,
            _ => RACY_NANOSECONDS,
        }
    }
}

impl Digests {
    fn get(&self, identity: &Identity) -> Option<Digest> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(identity).cloned()
    }

    /// `hashed` is when reading began.
    fn put(&self, identity: Identity, digest: &Digest, hashed: SystemTime) {
        let hashed =
            hashed.duration_since(UNIX_EPOCH).map_or(0, |d| i128::try_from(d.as_nanos()).unwrap_or(0));
        if identity.changed.max(identity.modified) + identity.rest() > hashed {
            return;
        }
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_DIGESTS {
            known.clear();
        }
        known.insert(identity, digest.clone());
    }
}

/// The directory of a context.
#[derive(Debug)]
pub(super) struct Directory {
    root: RootDir,
    digests: Arc<Digests>,
    /// What was hashed in this build, so that what is copied is held against it.
    seen: Mutex<HashMap<PathBuf, Digest>>,
}

impl Context {
    /// A context that is the directory at `path`, for the Dockerfile at `dockerfile` in it: what that one's
    /// `.dockerignore` leaves out is not listed.
    ///
    /// # Errors
    /// If the directory can't be listed, or has too many files.
    pub fn from_directory(
        path: &Path,
        dockerfile: &str,
        digests: Arc<Digests>,
    ) -> Result<Context, ContextError> {
        let failed = |source| ContextError::Host { path: path.to_owned(), source };
        Context::from_root(RootDir::open(path).map_err(failed)?, dockerfile, digests)
    }

    /// As [`Context::from_directory`], of a directory that is open.
    ///
    /// # Errors
    /// As there.
    pub fn from_root(
        root: RootDir,
        dockerfile: &str,
        digests: Arc<Digests>,
    ) -> Result<Context, ContextError> {
        let inside =
            |path: &str| super::relative(Path::new(path)).map_or(Ok(None), |path| text(&root, &path));
        let ignore = ignore_rules(dockerfile, inside)?;
        let mut listing = Listing { ignore: &ignore, entries: BTreeMap::new(), path: PathBuf::new() };
        listing.directory(root.as_fd())?;
        let entries = listing.entries;
        let directory = Directory { root, digests, seen: Mutex::default() };
        Ok(Context { entries, source: Source::Host(directory) })
    }
}

struct Listing<'a> {
    ignore: &'a Ignore,
    entries: BTreeMap<PathBuf, Entry>,
    path: PathBuf,
}

impl Listing<'_> {
    fn directory(&mut self, directory: BorrowedFd<'_>) -> Result<(), ContextError> {
        let names = beneath::sorted_names(directory).map_err(|e| self.failed(e))?;
        for name in names {
            self.path.push(&name);
            if self.path.as_os_str().len() > limits::MAX_PATH_BYTES
                || self.path.iter().count() > limits::MAX_PATH_DEPTH
            {
                return Err(self.wrong("is too long or too deep"));
            }
            match rustix::fs::statat(directory, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => self.entry(directory, &name, &stat)?,
                // It went while the directory was listed: it is no part of the context.
                Err(Errno::NOENT) => {}
                Err(e) => return Err(self.failed(e.into())),
            }
            self.path.pop();
        }
        Ok(())
    }

    fn entry(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &std::ffi::OsStr,
        stat: &Stat,
    ) -> Result<(), ContextError> {
        let excluded = !self.ignore.is_empty() && self.ignore.excludes(&self.path.to_string_lossy());
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                if excluded && !self.ignore.takes_back() {
                    return Ok(());
                }
                self.add(EntryKind::Directory, stat)?;
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let directory = rustix::fs::openat(parent, name, flags, Mode::empty());
                self.directory(directory.map_err(|e| self.failed(e.into()))?.as_fd())?;
                // A directory that is left out is only there for what is brought back in it.
                let below = (Bound::Excluded(&self.path), Bound::Unbounded);
                let next = self.entries.range::<PathBuf, _>(below).next();
                if excluded && !next.is_some_and(|(path, _)| path.starts_with(&self.path)) {
                    self.entries.remove(&self.path);
                }
                return Ok(());
            }
            _ if excluded => return Ok(()),
            FileType::RegularFile => {
                let identity = Identity::of(stat);
                EntryKind::File { size: identity.size, content: FileContent::Host(identity) }
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(parent, name, Vec::new());
                EntryKind::Symlink { target: target.map_err(|e| self.failed(e.into()))?.into_bytes() }
            }
            FileType::Fifo => EntryKind::Fifo,
            FileType::CharacterDevice | FileType::BlockDevice => EntryKind::Device {
                block: FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice,
                major: rustix::fs::major(stat.st_rdev),
                minor: rustix::fs::minor(stat.st_rdev),
            },
            // A socket is nothing without its process; Docker leaves them out, too.
            _ => return Ok(()),
        };
        self.add(kind, stat)
    }

    fn add(&mut self, kind: EntryKind, stat: &Stat) -> Result<(), ContextError> {
        if self.entries.len() >= MAX_CONTEXT_ENTRIES {
            return Err(ContextError::TooMany);
        }
        // What is brought back by a rule brings its directories along.
        let missing: Vec<PathBuf> = self
            .path
            .ancestors()
            .skip(1)
            .take_while(|p| !p.as_os_str().is_empty() && !self.entries.contains_key(*p))
            .map(Path::to_owned)
            .collect();
        for parent in missing {
            let directory = Entry { kind: EntryKind::Directory, mode: 0o755, mtime: Mtime::default() };
            self.entries.insert(parent, directory);
        }
        let nanoseconds = u32::try_from(stat.st_mtime_nsec).unwrap_or(0);
        let mtime = Mtime { seconds: stat.st_mtime, nanoseconds };
        self.entries.insert(self.path.clone(), Entry { kind, mode: stat.st_mode & 0o7777, mtime });
        Ok(())
    }

    fn failed(&self, source: io::Error) -> ContextError {
        ContextError::Host { path: self.path.clone(), source }
    }

    fn wrong(&self, why: &'static str) -> ContextError {
        ContextError::Entry { path: self.path.to_string_lossy().chars().take(200).collect(), why }
    }
}

impl Directory {
    pub(super) fn root(&self) -> &RootDir {
        &self.root
    }

    /// The file, if it is still the one that was listed.
    fn open(&self, path: &Path, identity: &Identity) -> io::Result<File> {
        let file = self.root.file(path)?;
        if Identity::of(&rustix::fs::fstat(&file)?) != *identity {
            return Err(changed());
        }
        Ok(file)
    }

    pub(super) fn digest(&self, path: &Path, identity: &Identity) -> io::Result<Digest> {
        let digest = match self.digests.get(identity) {
            Some(digest) => digest,
            None => {
                let now = SystemTime::now();
                let mut hashing = Hashing::new(self.open(path, identity)?);
                io::copy(&mut hashing, &mut io::sink())?;
                let digest = hashing.finish().1;
                self.digests.put(*identity, &digest, now);
                digest
            }
        };
        self.seen().insert(path.to_owned(), digest.clone());
        Ok(digest)
    }

    pub(super) fn content(&self, path: &Path, identity: &Identity) -> io::Result<Content> {
        let file = self.open(path, identity)?;
        let expected = self.seen().get(path).cloned();
        Ok(Content { file, checked: expected.map(|digest| (Hasher::new(), digest)) })
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, HashMap<PathBuf, Digest>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A file being read, held against the digest that its step is known by.
pub(super) struct Content {
    file: File,
    checked: Option<(Hasher, Digest)>,
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read(buffer)?;
        match &mut self.checked {
            Some((hasher, _)) if n > 0 => hasher.update(&buffer[..n]),
            Some(_) if !buffer.is_empty() => {
                if let Some((hasher, expected)) = self.checked.take()
                    && hasher.finish() != expected
                {
                    return Err(changed());
                }
            }
            _ => {}
        }
        Ok(n)
    }
}

fn changed() -> io::Error {
    io::Error::other("it was changed while the build read it: build again")
}

/// A file of the context as text; `None` if there is none.
pub(super) fn text(root: &RootDir, path: &Path) -> Result<Option<String>, ContextError> {
    match root.file(path) {
        Ok(file) => {
            let size = file.metadata().map_or(0, |m| m.len());
            read_text(path, size, file).map(Some)
        }
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(source) => Err(ContextError::Host { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(dir: &Path, digests: &Arc<Digests>) -> Context {
        Context::from_directory(dir, "Dockerfile", Arc::clone(digests)).unwrap()
    }

    #[test]
    fn what_is_ignored_is_not_listed_and_what_is_brought_back_is() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["a/x", "a/keep/y", "b/z", "Dockerfile"] {
            std::fs::create_dir_all(dir.path().join(path).parent().unwrap()).unwrap();
            std::fs::write(dir.path().join(path), path).unwrap();
        }
        std::fs::write(dir.path().join(".dockerignore"), "a\n!a/keep\nDockerfile\n").unwrap();
        let context = context(dir.path(), &Arc::default());
        let paths: Vec<_> = context.entries.keys().map(|p| p.to_str().unwrap()).collect();
        assert_eq!(paths, [".dockerignore", "a", "a/keep", "a/keep/y", "b", "b/z"]);
        assert_eq!(context.dockerfile("Dockerfile").unwrap(), "Dockerfile");
    }

    #[test]
    fn a_file_that_changes_under_the_build_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        std::fs::write(&file, "one").unwrap();
        let digests = Arc::default();
        let read = |context: &Context| {
            let mut text = String::new();
            context.content(Path::new("f")).and_then(|mut f| f.read_to_string(&mut text)).map(|_| text)
        };
        let before = context(dir.path(), &digests);
        assert_eq!(before.digest(Path::new("f")).unwrap(), Digest::of(b"one"));
        assert_eq!(read(&before).unwrap(), "one");
        // Another size, and so another state, whatever the clock's ticks.
        std::fs::write(&file, "other").unwrap();
        assert!(read(&before).unwrap_err().to_string().contains("changed while"));
        assert!(before.digest(Path::new("f")).is_err() || digests.0.lock().unwrap().is_empty());
        let after = context(dir.path(), &digests);
        assert_eq!(after.digest(Path::new("f")).unwrap(), Digest::of(b"other"));
        assert_eq!(read(&after).unwrap(), "other");
    }

    #[test]
    fn only_files_that_rested_are_remembered() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("new"), "new").unwrap();
        let digests = Arc::default();
        context(dir.path(), &digests).digest(Path::new("new")).unwrap();
        assert!(digests.0.lock().unwrap().is_empty(), "changed just now: its times prove nothing");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let ago = |nanoseconds: i128| {
            let changed = i128::try_from(now.as_nanos()).unwrap() - nanoseconds;
            Identity { device: 1, inode: 1, size: 1, modified: 0, changed }
        };
        for (identity, remembered) in [
            (ago(1_000_000), false),
            (ago(100_000_000), true),
            (Identity { changed: i128::from(now.as_secs() - 1) * 1_000_000_000, ..ago(0) }, false),
        ] {
            digests.put(identity, &Digest::of(b"y"), UNIX_EPOCH + now);
            assert_eq!(digests.get(&identity).is_some(), remembered, "{identity:?}");
        }
        let identity = Identity { device: 1, inode: 2, size: 3, modified: 0, changed: 0 };
        digests.put(identity, &Digest::of(b"x"), SystemTime::now());
        assert_eq!(digests.get(&identity), Some(Digest::of(b"x")));
        assert_eq!(digests.get(&Identity { changed: 1, ..identity }), None);
    }
}
