//! A context from another host: a git repository, a tar, or a Dockerfile alone.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use sampan_base::FileError;
use sampan_image::compression;
use sampan_image::tar::{Kind, Member, Mtime, Reader, Writer};
use sampan_kernel::beneath::{self, RootDir};
use sampan_registry::{Downloaded, Known};

use super::archive::unnamed_file;
use super::{Context, ContextError};
use crate::dockerfile::MAX_DOCKERFILE_BYTES;
use crate::error::RemoteError;
use crate::git::{Git, GitRef};
use crate::run::Cancel;
use crate::tree::{NodeKind, Tree, inside};

/// Bytes of a context that is downloaded.
const MAX_DOWNLOAD_BYTES: u64 = 64 * 1024 * 1024 * 1024;

impl Context {
    /// Reads the context at `url`: `https://host/x.git#branch:directory` and the like are repositories, other addresses
    /// by HTTP are files: a tar, perhaps packed, or a Dockerfile. Temporary files are in `spool`; `agent` is the socket of
    /// an SSH agent for repositories that need one.
    ///
    /// # Errors
    /// If it can't be had, or is none of these.
    pub fn from_remote(
        url: &str,
        spool: &Path,
        agent: Option<&Path>,
        cancel: &Cancel,
    ) -> Result<Context, ContextError> {
        let failed = |source| ContextError::Remote { url: url.to_owned(), source: Box::new(source) };
        // As docker's client has it.
        let whole = if url.starts_with("github.com/") { format!("https://{url}") } else { url.to_owned() };
        let repository = GitRef::parse(&whole).or_else(|| GitRef::of_github(&whole));
        match repository {
            Some(wanted) => {
                let git = Git { agent: agent.map(Path::to_owned) };
                let tar = checked_out(&git, &wanted, spool).map_err(failed)?;
                Context::from_tar(&mut &tar, spool)
            }
            None => downloaded(&whole, spool, cancel, &failed),
        }
    }
}

/// A directory that goes when this is dropped.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        if let (Some(parent), Some(name)) = (self.0.parent(), self.0.file_name())
            && let Ok(parent) = File::open(parent)
        {
            // What can't be removed is removed with the next build's leftovers by whoever owns the directory.
            let _ = beneath::remove_tree(parent, name);
        }
    }
}

/// The files of a repository as a tar: theirs are modes and times that git knows, and no `.git`.
fn checked_out(git: &Git, wanted: &GitRef, spool: &Path) -> Result<File, RemoteError> {
    let read = |source| RemoteError::Read { source };
    let commit = git.commit(wanted)?;
    let name = sampan_base::id::random_id().map_err(read)?;
    let directory = Temporary(spool.join(format!("git-{name}")));
    std::fs::create_dir(&directory.0).map_err(read)?;
    let time = git.checkout(wanted, &commit, &directory.0)?;
    let tree = Tree::Mounted(RootDir::open(&directory.0).map_err(read)?);
    let part = inside(wanted.directory.as_deref().unwrap_or(""));
    let base =
        tree.resolve(&part).ok_or_else(|| RemoteError::NoDirectory { path: part.display().to_string() })?;
    let mut file = unnamed_file(spool).map_err(|e| read(e.source))?;
    pack(&tree, &base, time, &file).map_err(read)?;
    file.rewind().map_err(read)?;
    Ok(file)
}

fn pack(tree: &Tree<'_>, base: &Path, time: Mtime, file: &File) -> io::Result<()> {
    let mut writer = Writer::new(io::BufWriter::new(file));
    let mut next = vec![PathBuf::new()];
    while let Some(directory) = next.pop() {
        for name in tree.children(&base.join(&directory)).map_err(io::Error::other)? {
            let path = directory.join(&name);
            let node = tree.node(&base.join(&path)).map_err(io::Error::other)?;
            let kind = match node.kind {
                _ if name == ".git" => continue,
                NodeKind::File { size } => Kind::File { size, pieces: None },
                NodeKind::Symlink { target } => Kind::Symlink { target },
                NodeKind::Directory => {
                    next.push(path.clone());
                    Kind::Directory
                }
                // Git has nothing else.
                NodeKind::Fifo | NodeKind::Device { .. } => continue,
            };
            let executable = node.mode & 0o100 != 0 || kind == Kind::Directory;
            let content = matches!(kind, Kind::File { .. }).then(|| tree.content(&base.join(&path)));
            let mut content =
                content.transpose().map_err(io::Error::other)?.unwrap_or_else(|| Box::new(io::empty()));
            let mode = if executable { 0o755 } else { 0o644 };
            let path = std::os::unix::ffi::OsStringExt::into_vec(path.into_os_string());
            let member = Member { path, kind, mode, uid: 0, gid: 0, mtime: time, xattrs: Vec::new() };
            writer.append(&member, &mut content)?;
        }
    }
    writer.finish()?.flush()
}

fn downloaded(
    url: &str,
    spool: &Path,
    cancel: &Cancel,
    failed: &dyn Fn(RemoteError) -> ContextError,
) -> Result<Context, ContextError> {
    let read = |source| failed(RemoteError::Read { source });
    let answer = sampan_registry::download(
        url,
        &Known::default(),
        MAX_DOWNLOAD_BYTES,
        &sampan_registry::Cancel::default(),
    );
    let mut coming = match answer.map_err(|e| failed(RemoteError::Download(Box::new(e))))? {
        Downloaded::New(coming) => coming,
        Downloaded::Unchanged => return Err(failed(RemoteError::Changed)),
    };
    let mut file = unnamed_file(spool).map_err(|FileError { source, .. }| read(source))?;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        if cancel.is_set() {
            return Err(read(io::ErrorKind::Interrupted.into()));
        }
        match coming.read(&mut buffer).map_err(read)? {
            0 => break,
            n => file.write_all(&buffer[..n]).map_err(read)?,
        }
    }
    file.rewind().map_err(read)?;
    let archive = compression::unpacked(&file)
        .is_ok_and(|unpacked| matches!(Reader::new(unpacked).next_member(), Ok(Some(_))));
    file.rewind().map_err(read)?;
    if archive {
        return Context::from_tar(&mut &file, spool);
    }
    // It is a Dockerfile then, with no files to copy.
    let mut text = String::new();
    let limit = MAX_DOCKERFILE_BYTES as u64 + 1;
    (&file).take(limit).read_to_string(&mut text).map_err(read)?;
    Context::of_dockerfile(&text, spool)
}
