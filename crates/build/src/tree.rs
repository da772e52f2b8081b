//! Where `COPY` and `ADD` take files from: the context, the file system of a stage or image, or the Dockerfile's own
//! here-documents. One interface, so that patterns, digests and copying are written once.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::FileType;
use sampan_base::Digest;
use sampan_base::digest::Hasher;
use sampan_image::Scratch;
use sampan_image::limits::MAX_PATH_DEPTH;
use sampan_image::tar::Mtime;
use sampan_kernel::beneath::{self, RootDir};

use crate::context::{Context, Entry, EntryKind};
use crate::pattern::{BadPattern, Pattern, is_pattern};

/// Files to copy from.
pub(crate) enum Tree<'a> {
    /// The build context, what `.dockerignore` leaves out left out.
    Context { context: &'a Context, visible: &'a BTreeMap<&'a Path, &'a Entry> },
    /// A mounted file system.
    Mounted(RootDir),
    /// Here-documents: name and text.
    Inline(Vec<(String, String)>),
    /// A file that was downloaded.
    Fetched(Fetched),
    /// A git checkout: of modes only whether a file is executable is git's, and times are the commit's.
    Checkout {
        root: RootDir,
        time: Mtime,
        #[expect(dead_code, reason = "held, not read")]
        directory: Scratch,
    },
}

/// A file that was downloaded.
pub(crate) struct Fetched {
    /// Its name in a directory.
    pub(crate) name: String,
    pub(crate) content: File,
    pub(crate) size: u64,
    pub(crate) digest: Digest,
    pub(crate) time: Mtime,
    /// Where it is; goes after it.
    #[expect(dead_code, reason = "held, not read")]
    pub(crate) directory: Scratch,
}

/// A file of a tree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Node {
    pub(crate) kind: NodeKind,
    pub(crate) mode: u32,
    /// The owner; the context's files are root's.
    pub(crate) owner: (u32, u32),
    /// `None`: the time of copying.
    pub(crate) mtime: Option<Mtime>,
    pub(crate) xattrs: Vec<(OsString, Vec<u8>)>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum NodeKind {
    File { size: u64 },
    Directory,
    Symlink { target: Vec<u8> },
    Fifo,
    Device { block: bool, major: u32, minor: u32 },
}

/// Why a source can't be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TreeError {
    /// It is not there.
    #[error("file not found in {place}: {path}")]
    NotFound {
        /// Where it was looked for.
        place: &'static str,
        /// As written.
        path: String,
    },
    /// It is no pattern.
    #[error(transparent)]
    Pattern(#[from] BadPattern),
    /// It can't be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// How many symbolic links a path may go through: the kernel's own limit.
const MAX_LINKS: usize = 40;

impl Tree<'_> {
    fn place(&self) -> &'static str {
        match self {
            Tree::Context { .. } => "build context or excluded by .dockerignore",
            Tree::Mounted(_) => "the stage or image",
            Tree::Inline(_) => "the Dockerfile",
            Tree::Fetched(_) => "what was downloaded",
            Tree::Checkout { .. } => "the repository",
        }
    }

    pub(crate) fn not_found(&self, source: &str) -> TreeError {
        TreeError::NotFound { place: self.place(), path: source.to_owned() }
    }

    /// The paths that a source means, in order; a pattern may mean none. Each keeps its own name, whatever a link at
    /// its end leads to.
    ///
    /// # Errors
    /// If a path that is no pattern leads nowhere, or it is malformed.
    pub(crate) fn select(&self, source: &str) -> Result<Vec<PathBuf>, TreeError> {
        let not_found = || self.not_found(source);
        let path = inside(source);
        if !is_pattern(source) || matches!(self, Tree::Inline(_) | Tree::Fetched(_)) {
            return self.resolve(&path).map(|_| vec![path]).ok_or_else(not_found);
        }
        let mut found = vec![PathBuf::new()];
        for name in path.iter().map(OsStr::to_string_lossy) {
            let mut next = Vec::new();
            let pattern = Pattern::for_copy(&name)?;
            for directory in found {
                let Some(directory) = self.resolve(&directory) else { continue };
                if !is_pattern(&name) {
                    let path = directory.join(&*name);
                    next.extend(self.resolve(&path).filter(|p| self.node(p).is_ok()).map(|_| path));
                    continue;
                }
                if self.node(&directory).is_ok_and(|n| n.kind == NodeKind::Directory) {
                    let names = self.children(&directory)?;
                    let fitting = names.iter().filter(|n| pattern.matches(&n.to_string_lossy()));
                    next.extend(fitting.map(|n| directory.join(n)));
                }
            }
            found = next;
        }
        Ok(found)
    }

    /// The path without links, all followed inside the tree; `None` if one leads nowhere.
    pub(crate) fn resolve(&self, path: &Path) -> Option<PathBuf> {
        let mut rest: Vec<OsString> = path.iter().rev().map(OsStr::to_owned).collect();
        let mut at = PathBuf::new();
        let mut links = 0;
        while let Some(name) = rest.pop() {
            match name.as_bytes() {
                b"/" | b"." => continue,
                b".." => {
                    at.pop();
                    continue;
                }
                _ => {}
            }
            at.push(&name);
            let NodeKind::Symlink { target } = self.node(&at).ok()?.kind else { continue };
            links += 1;
            if links > MAX_LINKS {
                return None;
            }
            at.pop();
            let target = Path::new(OsStr::from_bytes(&target));
            if target.is_absolute() {
                at = PathBuf::new();
            }
            rest.extend(target.iter().rev().map(OsStr::to_owned));
        }
        Some(at)
    }

    /// What is at `path`, a link not followed.
    pub(crate) fn node(&self, path: &Path) -> Result<Node, TreeError> {
        let not_found = || TreeError::NotFound { place: self.place(), path: path.display().to_string() };
        let root =
            Node { kind: NodeKind::Directory, mode: 0o755, owner: (0, 0), mtime: None, xattrs: Vec::new() };
        match self {
            Tree::Context { .. } | Tree::Inline(_) | Tree::Fetched(_) if path.as_os_str().is_empty() => {
                Ok(root)
            }
            Tree::Context { visible, .. } => {
                let entry = visible.get(path).ok_or_else(not_found)?;
                let kind = match &entry.kind {
                    EntryKind::File { size, .. } => NodeKind::File { size: *size },
                    EntryKind::Directory => NodeKind::Directory,
                    EntryKind::Symlink { target } => NodeKind::Symlink { target: target.clone() },
                    EntryKind::Fifo => NodeKind::Fifo,
                    EntryKind::Device { block, major, minor } => {
                        NodeKind::Device { block: *block, major: *major, minor: *minor }
                    }
                };
                Ok(Node { kind, mode: entry.mode, mtime: Some(entry.mtime), ..root })
            }
            Tree::Mounted(tree) => mounted_node(tree, path).map_err(|e| match e.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => not_found(),
                _ => TreeError::Read { path: path.to_owned(), source: e },
            }),
            Tree::Checkout { root: tree, time, .. } => {
                let node = mounted_node(tree, path).map_err(|e| match e.kind() {
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => not_found(),
                    _ => TreeError::Read { path: path.to_owned(), source: e },
                })?;
                let executable = node.mode & 0o100 != 0;
                let mode = if executable || node.kind == NodeKind::Directory { 0o755 } else { 0o644 };
                Ok(Node { mode, owner: (0, 0), mtime: Some(*time), xattrs: Vec::new(), ..node })
            }
            Tree::Fetched(file) if path == Path::new(&file.name) => {
                // Nobody said who may read it.
                let kind = NodeKind::File { size: file.size };
                Ok(Node { kind, mode: 0o600, mtime: Some(file.time), ..root })
            }
            Tree::Fetched(_) => Err(not_found()),
            Tree::Inline(files) => {
                let (_, text) =
                    files.iter().find(|(name, _)| Path::new(name) == path).ok_or_else(not_found)?;
                Ok(Node { kind: NodeKind::File { size: text.len() as u64 }, mode: 0o644, ..root })
            }
        }
    }

    /// The names in the directory `path`, in order.
    pub(crate) fn children(&self, path: &Path) -> Result<Vec<OsString>, TreeError> {
        // A command can make trees deeper than any path can say.
        if path.iter().count() > MAX_PATH_DEPTH {
            let source = io::Error::new(io::ErrorKind::InvalidInput, "directories are nested too deep");
            return Err(TreeError::Read { path: path.iter().take(10).collect(), source });
        }
        match self {
            Tree::Context { visible, .. } => {
                let below = visible.range(path..).map(|(p, _)| *p).skip_while(|p| *p == path);
                let below = below.take_while(|p| p.starts_with(path));
                let direct = below.filter(|p| p.parent() == Some(path));
                Ok(direct.filter_map(|p| p.file_name()).map(OsStr::to_owned).collect())
            }
            Tree::Fetched(file) => Ok(vec![file.name.clone().into()]),
            Tree::Mounted(tree) | Tree::Checkout { root: tree, .. } => tree
                .directory(path)
                .and_then(beneath::sorted_names)
                .map_err(|source| TreeError::Read { path: path.to_owned(), source }),
            Tree::Inline(files) => Ok(files.iter().map(|(name, _)| name.into()).collect()),
        }
    }

    /// The content of the file at `path`.
    pub(crate) fn content(&self, path: &Path) -> Result<Box<dyn Read + '_>, TreeError> {
        let not_found = || TreeError::NotFound { place: self.place(), path: path.display().to_string() };
        match self {
            Tree::Context { context, visible } => {
                if !visible.contains_key(path) {
                    return Err(not_found());
                }
                context.content(path).map_err(|source| TreeError::Read { path: path.to_owned(), source })
            }
            Tree::Fetched(file) => Ok(Box::new(Reading { file: &file.content, at: 0 })),
            Tree::Mounted(tree) | Tree::Checkout { root: tree, .. } => match tree.file(path) {
                Ok(file) => Ok(Box::new(file)),
                Err(source) => Err(TreeError::Read { path: path.to_owned(), source }),
            },
            Tree::Inline(files) => {
                let file = files.iter().find(|(name, _)| Path::new(name) == path);
                Ok(Box::new(file.ok_or_else(not_found)?.1.as_bytes()))
            }
        }
    }

    /// Takes everything that copying `path` under `name` would copy into `hasher`; times do not count.
    pub(crate) fn hash(&self, path: &Path, name: &Path, hasher: &mut Hasher) -> Result<(), TreeError> {
        let mut next = vec![(path.to_owned(), name.to_owned())];
        while let Some((path, name)) = next.pop() {
            if self.hash_node(&path, &name, hasher)? == NodeKind::Directory {
                next.extend(self.children(&path)?.iter().rev().map(|c| (path.join(c), name.join(c))));
            }
        }
        Ok(())
    }

    /// As [`Tree::hash`], without what is in a directory.
    pub(crate) fn hash_node(
        &self,
        path: &Path,
        name: &Path,
        hasher: &mut Hasher,
    ) -> Result<NodeKind, TreeError> {
        let mut add = |bytes: &[u8]| {
            // Lengths keep neighbours apart: nothing can be said in two ways.
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        let node = self.node(path)?;
        add(name.as_os_str().as_bytes());
        add(format!("{:o} {:?} {}", node.mode, node.owner, node.xattrs.len()).as_bytes());
        for (key, value) in &node.xattrs {
            add(key.as_bytes());
            add(value);
        }
        match &node.kind {
            NodeKind::File { .. } => add(self.digest(path)?.as_str().as_bytes()),
            other => add(format!("{other:?}").as_bytes()),
        }
        Ok(node.kind)
    }

    fn digest(&self, path: &Path) -> Result<Digest, TreeError> {
        if let Tree::Context { context, .. } = self {
            let digest = context.digest(path);
            return digest.map_err(|source| TreeError::Read { path: path.to_owned(), source });
        }
        if let Tree::Fetched(file) = self {
            return Ok(file.digest.clone());
        }
        let mut hashing = sampan_base::digest::Hashing::new(self.content(path)?);
        io::copy(&mut hashing, &mut io::sink())
            .map_err(|source| TreeError::Read { path: path.to_owned(), source })?;
        Ok(hashing.finish().1)
    }
}

/// A path of a Dockerfile without `.`, `..` and slashes in front; none climbs higher than the root.
pub(crate) fn inside(path: &str) -> PathBuf {
    let mut out = PathBuf::new();
    for component in Path::new(path).components() {
        match component {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => {
                out.pop();
            }
            _ => {}
        }
    }
    out
}

/// Reads a file from its beginning, whoever else reads it.
struct Reading<'a> {
    file: &'a File,
    at: u64,
}

impl Read for Reading<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read_at(buffer, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

fn mounted_node(tree: &RootDir, path: &Path) -> io::Result<Node> {
    let stat = tree.stat(path)?;
    let parent = tree.directory(path.parent().unwrap_or(Path::new("")))?;
    let name = path.file_name().unwrap_or(OsStr::new("."));
    let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => NodeKind::File { size: u64::try_from(stat.st_size).unwrap_or(0) },
        FileType::Directory => NodeKind::Directory,
        FileType::Symlink => {
            NodeKind::Symlink { target: rustix::fs::readlinkat(&parent, name, Vec::new())?.into_bytes() }
        }
        FileType::CharacterDevice => NodeKind::Device { block: false, major, minor },
        FileType::BlockDevice => NodeKind::Device { block: true, major, minor },
        // Sockets can't be copied; they become what is nearest and as useless without its process.
        _ => NodeKind::Fifo,
    };
    let mut xattrs = Vec::new();
    for key in beneath::xattr_names(&parent, name)? {
        if !key.as_bytes().starts_with(b"trusted.overlay.") {
            let value = beneath::xattr(&parent, name, &key)?.unwrap_or_default();
            xattrs.push((key, value));
        }
    }
    Ok(Node {
        kind,
        mode: stat.st_mode & 0o7777,
        owner: (stat.st_uid, stat.st_gid),
        mtime: Some(Mtime {
            seconds: stat.st_mtime,
            nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
        }),
        xattrs,
    })
}
