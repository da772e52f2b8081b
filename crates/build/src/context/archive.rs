//! A context from a tar: every file is hashed on its way into one spool without a name.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use sampan_base::FileError;
use sampan_base::digest::Hasher;
use sampan_image::tar::{Kind, Member, Mtime, Reader, TarError};
use sampan_image::{compression, limits};

use super::{Context, ContextError, Entry, EntryKind, FileContent, MAX_CONTEXT_ENTRIES, Source, relative};

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
        Ok(Context { entries: index.entries, source: Source::Spooled(content) })
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
                let content = FileContent::Spooled { offset, digest: hasher.finish() };
                EntryKind::File { size, content }
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
pub(super) struct Content<'a> {
    file: &'a File,
    at: u64,
    left: u64,
}

impl<'a> Content<'a> {
    pub(super) fn new(file: &'a File, at: u64, size: u64) -> Content<'a> {
        Content { file, at, left: size }
    }
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

fn os_path(bytes: &[u8]) -> &Path {
    Path::new(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(bytes))
}

/// A file that has no name, or loses it at once where the file system can't make one without.
pub(super) fn unnamed_file(directory: &Path) -> Result<File, FileError> {
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
