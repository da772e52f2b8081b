//! The build context: a tar that is indexed, never unpacked.
//!
//! While it comes in, the content of its files goes to one temporary file without a name (nothing is left of it,
//! however the build ends), and is hashed on the way: later steps look up digests, and read only what they copy.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};

use sampan_base::{Class, Digest, FileError, digest::Hasher};
use sampan_image::tar::{Kind, Member, Mtime, Reader, TarError};
use sampan_image::{compression, limits};

use crate::dockerfile::MAX_DOCKERFILE_BYTES;
use crate::ignore::{Ignore, IgnoreError};

/// Entries of a context: the index is held in memory, some 200 bytes each.
pub const MAX_CONTEXT_ENTRIES: usize = 2_000_000;

/// The files that a build may copy, and its Dockerfile.
#[derive(Debug)]
pub struct Context {
    entries: BTreeMap<PathBuf, Entry>,
    content: File,
}

/// A file of the context.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    pub(crate) kind: EntryKind,
    pub(crate) mode: u32,
    pub(crate) mtime: Mtime,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum EntryKind {
    File { offset: u64, size: u64, digest: Digest },
    Directory,
    Symlink { target: Vec<u8> },
    Fifo,
    Device { block: bool, major: u32, minor: u32 },
}

/// Why a context can't be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContextError {
    /// The tar.
    #[error("cannot read the build context")]
    Archive {
        /// What is wrong with it.
        source: TarError,
    },
    /// An entry.
    #[error("the build context has an entry `{path}` that {why}")]
    Entry {
        /// Its path.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Too many entries.
    #[error("the build context has more than {MAX_CONTEXT_ENTRIES} entries")]
    TooMany,
    /// The file that keeps the content.
    #[error(transparent)]
    Spool(#[from] FileError),
    /// `.dockerignore`.
    #[error("cannot read `{file}`")]
    Ignore {
        /// Which file.
        file: String,
        /// What is wrong with it.
        source: IgnoreError,
    },
    /// There is no such Dockerfile.
    #[error("no Dockerfile: the build context has no file `{path}`")]
    NoDockerfile {
        /// Its path.
        path: String,
    },
    /// A file that should be text.
    #[error("`{path}` in the build context {why}")]
    NotText {
        /// Its path.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
}

impl ContextError {
    /// The class to report.
    pub fn class(&self) -> Class {
        match self {
            ContextError::Archive { source } => source.class(),
            ContextError::Spool(e) => e.class(),
            _ => Class::Invalid,
        }
    }
}

impl Context {
    /// Reads a context from a tar, perhaps packed by gzip or zstd. Content is kept in a file without a name in the
    /// directory `spool`.
    ///
    /// # Errors
    /// If the tar is damaged, or the disk is full.
    pub fn from_tar(tar: &mut dyn Read, spool: &Path) -> Result<Context, ContextError> {
        let archive = |source| ContextError::Archive { source };
        let content = unnamed_file(spool)?;
        let unpacked = compression::unpacked(tar).map_err(|source| archive(TarError::Read { source }))?;
        let mut reader = Reader::new(unpacked);
        let mut out = io::BufWriter::with_capacity(256 * 1024, &content);
        let mut index = Index { entries: BTreeMap::new(), written: 0 };
        let mut buffer = vec![0; 64 * 1024];
        while let Some(member) = reader.next_member().map_err(archive)? {
            index.add(member, &mut reader, &mut out, &mut buffer, spool)?;
        }
        out.flush().map_err(FileError::on("write a temporary file in", spool))?;
        drop(out);
        Ok(Context { entries: index.entries, content })
    }

    /// A context of one Dockerfile: `docker build - < Dockerfile`.
    ///
    /// # Errors
    /// If no temporary file can be made in `spool`.
    pub fn of_dockerfile(text: &str, spool: &Path) -> Result<Context, ContextError> {
        let mut writer = sampan_image::tar::Writer::new(Vec::new());
        let member = Member {
            path: b"Dockerfile".to_vec(),
            kind: Kind::File { size: text.len() as u64, pieces: None },
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: Mtime::default(),
            xattrs: Vec::new(),
        };
        let written = writer.append(&member, &mut text.as_bytes()).and_then(|()| writer.finish());
        let tar = written.map_err(FileError::on("make a context in", spool))?;
        Context::from_tar(&mut &*tar, spool)
    }

    /// The text of the Dockerfile at `path`.
    pub(crate) fn dockerfile(&self, path: &str) -> Result<String, ContextError> {
        self.text(path)?.ok_or_else(|| ContextError::NoDockerfile { path: path.to_owned() })
    }

    /// What of the context `.dockerignore` leaves: that of the Dockerfile's own name, or the common one.
    pub(crate) fn visible(&self, dockerfile: &str) -> Result<BTreeMap<&Path, &Entry>, ContextError> {
        let own = format!("{dockerfile}.dockerignore");
        let (file, text) = match self.text(&own)? {
            Some(text) => (own, text),
            None => (".dockerignore".to_owned(), self.text(".dockerignore")?.unwrap_or_default()),
        };
        let ignore = Ignore::parse(&text).map_err(|source| ContextError::Ignore { file, source })?;
        let all = self.entries.iter().map(|(path, entry)| (path.as_path(), entry));
        if ignore.is_empty() {
            return Ok(all.collect());
        }
        let mut kept: BTreeSet<&Path> = BTreeSet::new();
        for (path, entry) in &self.entries {
            if !ignore.excludes(&path.to_string_lossy()) {
                kept.insert(path);
                // What is brought back brings its directories along.
                if entry.kind != EntryKind::Directory {
                    kept.extend(path.ancestors().skip(1).filter(|p| !p.as_os_str().is_empty()));
                }
            }
        }
        Ok(all.filter(|(path, _)| kept.contains(path)).collect())
    }

    fn text(&self, path: &str) -> Result<Option<String>, ContextError> {
        let Some(path) = relative(Path::new(path)) else { return Ok(None) };
        let Some(Entry { kind: EntryKind::File { offset, size, .. }, .. }) = self.entries.get(&path) else {
            return Ok(None);
        };
        let not_text = |why| ContextError::NotText { path: path.display().to_string(), why };
        if *size > MAX_DOCKERFILE_BYTES as u64 {
            return Err(not_text("is too long"));
        }
        let mut bytes = Vec::new();
        let read = Content { file: &self.content, at: *offset, left: *size }.read_to_end(&mut bytes);
        read.map_err(FileError::on("read the build context's", &path))?;
        String::from_utf8(bytes).map(Some).map_err(|_| not_text("is not UTF-8 text"))
    }

    /// The content of a file.
    pub(crate) fn content(&self, offset: u64, size: u64) -> Content<'_> {
        Content { file: &self.content, at: offset, left: size }
    }

    /// How many entries it has.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it has no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

struct Index {
    entries: BTreeMap<PathBuf, Entry>,
    written: u64,
}

impl Index {
    fn add(
        &mut self,
        member: Member,
        content: &mut impl Read,
        out: &mut impl Write,
        buffer: &mut [u8],
        spool: &Path,
    ) -> Result<(), ContextError> {
        let shown = || String::from_utf8_lossy(&member.path).chars().take(200).collect::<String>();
        let wrong = |why| ContextError::Entry { path: shown(), why };
        let path = relative(os_path(&member.path)).ok_or_else(|| wrong("leads out of it"))?;
        if path.as_os_str().is_empty() {
            return Ok(());
        }
        if path.as_os_str().len() > limits::MAX_PATH_BYTES || path.iter().count() > limits::MAX_PATH_DEPTH {
            return Err(wrong("is too long or too deep"));
        }
        if self.entries.len() >= MAX_CONTEXT_ENTRIES {
            return Err(ContextError::TooMany);
        }
        let kind = match member.kind {
            Kind::File { pieces: Some(_), .. } => return Err(wrong("is a sparse file")),
            Kind::File { size, .. } => {
                let offset = self.written;
                let mut hasher = Hasher::new();
                let mut left = size;
                while left > 0 {
                    let part = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
                    let read = content.read_exact(&mut buffer[..part]);
                    read.map_err(|source| ContextError::Archive { source: TarError::Read { source } })?;
                    hasher.update(&buffer[..part]);
                    out.write_all(&buffer[..part])
                        .map_err(FileError::on("write a temporary file in", spool))?;
                    left -= part as u64;
                }
                self.written += size;
                EntryKind::File { offset, size, digest: hasher.finish() }
            }
            Kind::HardLink { target } => {
                let target = relative(os_path(&target)).and_then(|t| self.entries.get(&t).cloned());
                let target = target.ok_or_else(|| ContextError::Entry {
                    path: path.display().to_string(),
                    why: "is a hard link to nothing",
                })?;
                self.entries.insert(path, target);
                return Ok(());
            }
            Kind::Directory => EntryKind::Directory,
            Kind::Symlink { target } => EntryKind::Symlink { target },
            Kind::Fifo => EntryKind::Fifo,
            Kind::CharDevice { major, minor } => EntryKind::Device { block: false, major, minor },
            Kind::BlockDevice { major, minor } => EntryKind::Device { block: true, major, minor },
        };
        // Some archives have no entries for directories.
        for parent in path.ancestors().skip(1).filter(|p| !p.as_os_str().is_empty()) {
            let directory = Entry { kind: EntryKind::Directory, mode: 0o755, mtime: Mtime::default() };
            self.entries.entry(parent.to_owned()).or_insert(directory);
        }
        self.entries.insert(path, Entry { kind, mode: member.mode, mtime: member.mtime });
        Ok(())
    }
}

/// Reads a part of the spooled content.
pub(crate) struct Content<'a> {
    file: &'a File,
    at: u64,
    left: u64,
}

impl Read for Content<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let part = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if part == 0 {
            return Ok(0);
        }
        let n = self.file.read_at(&mut buffer[..part], self.at)?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += n as u64;
        self.left -= n as u64;
        Ok(n)
    }
}

/// A path without `.`, `..` and leading slashes; `None` if it climbs out.
pub(crate) fn relative(path: &Path) -> Option<PathBuf> {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => out.push(name),
            Component::ParentDir if !out.pop() => return None,
            _ => {}
        }
    }
    Some(out)
}

fn os_path(bytes: &[u8]) -> &Path {
    Path::new(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(bytes))
}

/// A file that has no name, or loses it at once where the file system can't make one without.
fn unnamed_file(directory: &Path) -> Result<File, FileError> {
    use rustix::fs::{CWD, Mode, OFlags};
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::openat(CWD, directory, flags, Mode::RUSR | Mode::WUSR) {
        Ok(fd) => Ok(File::from(fd)),
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR) => {
            let failed = || FileError::on("make a temporary file in", directory);
            let path = directory.join(sampan_base::id::random_id().map_err(failed())?);
            let file =
                File::options().read(true).write(true).create_new(true).open(&path).map_err(failed())?;
            std::fs::remove_file(&path).map_err(FileError::on("remove", path))?;
            Ok(file)
        }
        Err(e) => Err(FileError {
            action: "make a temporary file in",
            path: directory.to_owned(),
            source: e.into(),
        }),
    }
}
