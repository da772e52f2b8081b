//! The build context: the files that a build may copy, and its Dockerfile.
//!
//! It comes in one of these ways, and looks the same to the steps:
//! * as a tar ([`Context::from_tar`]): indexed, never unpacked. The content of its files goes to one temporary file
//!   without a name (nothing is left of it, however the build ends), and is hashed on the way.
//! * as a directory of this host ([`Context::from_directory`]): listed, never copied. A file is hashed when a step asks
//!   for it, unless [`Digests`] knows it from an earlier build.
//! * from another host ([`Context::from_remote`]): made a tar, or one already.

mod archive;
mod host;
mod remote;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use sampan_base::{Class, Digest, FileError};
use sampan_image::tar::{Kind, Member, Mtime, TarError};

pub use host::Digests;

use crate::dockerfile::MAX_DOCKERFILE_BYTES;
use crate::error::RemoteError;
use crate::ignore::{Ignore, IgnoreError};

/// Entries of a context: the index is held in memory, some 200 bytes each.
pub const MAX_CONTEXT_ENTRIES: usize = 2_000_000;

/// The files that a build may copy, and its Dockerfile.
#[derive(Debug)]
pub struct Context {
    entries: BTreeMap<PathBuf, Entry>,
    source: Source,
}

/// Where the content of files is.
#[derive(Debug)]
enum Source {
    /// One after another in a file without a name.
    Spooled(File),
    /// In the directory itself; what is ignored is not among the entries.
    Host(host::Directory),
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
    File { size: u64, content: FileContent },
    Directory,
    Symlink { target: Vec<u8> },
    Fifo,
    Device { block: bool, major: u32, minor: u32 },
}

/// How the content of a file is found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum FileContent {
    /// From this byte of the spool on.
    Spooled { offset: u64, digest: Digest },
    /// In the directory, as the file was when it was listed.
    Host(host::Identity),
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
    /// It is on another host.
    #[error("cannot read the build context {url}")]
    Remote {
        /// Where.
        url: String,
        /// Why.
        source: Box<RemoteError>,
    },
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
    /// A file or directory of the host's that is the context.
    #[error("cannot read the build context's `{}`", path.display())]
    Host {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
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
            ContextError::Remote { source, .. } => source.class(),
            _ => Class::Invalid,
        }
    }
}

impl Context {
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

    /// The rules of `.dockerignore`: that of the Dockerfile's own name, or the common one.
    pub(crate) fn ignore(&self, dockerfile: &str) -> Result<Ignore, ContextError> {
        ignore_rules(dockerfile, |path| self.text(path))
    }

    /// What of the context `.dockerignore` leaves: that of the Dockerfile's own name, or the common one.
    pub(crate) fn visible(&self, dockerfile: &str) -> Result<BTreeMap<&Path, &Entry>, ContextError> {
        let all = self.entries.iter().map(|(path, entry)| (path.as_path(), entry));
        if let Source::Host(_) = self.source {
            return Ok(all.collect());
        }
        let ignore = self.ignore(dockerfile)?;
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

    /// A file as text; `None` if there is none.
    fn text(&self, path: &str) -> Result<Option<String>, ContextError> {
        let Some(path) = relative(Path::new(path)) else { return Ok(None) };
        match &self.source {
            Source::Host(directory) => host::text(directory.root(), &path),
            Source::Spooled(_) => {
                let Some(Entry { kind: EntryKind::File { size, .. }, .. }) = self.entries.get(&path) else {
                    return Ok(None);
                };
                let content =
                    self.content(&path).map_err(FileError::on("read the build context's", &path))?;
                read_text(&path, *size, content).map(Some)
            }
        }
    }

    /// The content of the file at `path`, which is no link.
    pub(crate) fn content(&self, path: &Path) -> io::Result<Box<dyn Read + '_>> {
        match (&self.source, self.entries.get(path).map(|e| &e.kind)) {
            (
                Source::Spooled(file),
                Some(EntryKind::File { size, content: FileContent::Spooled { offset, .. } }),
            ) => Ok(Box::new(archive::Content::new(file, *offset, *size))),
            (Source::Host(directory), Some(EntryKind::File { content: FileContent::Host(identity), .. })) => {
                Ok(Box::new(directory.content(path, identity)?))
            }
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// The digest of that content.
    pub(crate) fn digest(&self, path: &Path) -> io::Result<Digest> {
        match (&self.source, self.entries.get(path).map(|e| &e.kind)) {
            (_, Some(EntryKind::File { content: FileContent::Spooled { digest, .. }, .. })) => {
                Ok(digest.clone())
            }
            (Source::Host(directory), Some(EntryKind::File { content: FileContent::Host(identity), .. })) => {
                directory.digest(path, identity)
            }
            _ => Err(io::ErrorKind::NotFound.into()),
        }
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

/// The rules of what is no part of the context: the Dockerfile's own ones if it has some, else the context's.
fn ignore_rules(
    dockerfile: &str,
    text: impl Fn(&str) -> Result<Option<String>, ContextError>,
) -> Result<Ignore, ContextError> {
    let own = format!("{dockerfile}.dockerignore");
    let (file, text) = match text(&own)? {
        Some(text) => (own, text),
        None => (".dockerignore".to_owned(), text(".dockerignore")?.unwrap_or_default()),
    };
    Ignore::parse(&text).map_err(|source| ContextError::Ignore { file, source })
}

fn read_text(path: &Path, size: u64, content: impl Read) -> Result<String, ContextError> {
    let not_text = |why| ContextError::NotText { path: path.display().to_string(), why };
    if size > MAX_DOCKERFILE_BYTES as u64 {
        return Err(not_text("is too long"));
    }
    let mut bytes = Vec::new();
    let read = content.take(MAX_DOCKERFILE_BYTES as u64).read_to_end(&mut bytes);
    read.map_err(FileError::on("read the build context's", path))?;
    String::from_utf8(bytes).map_err(|_| not_text("is not UTF-8 text"))
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
