//! Blobs by digest: `content/blobs/sha256/<hex>`, with `content/oci-layout` and `content/index.json`: an OCI layout.
//!
//! A blob is written to `content/ingest/<random>`, hashed on the way, and renamed when it is whole and has the
//! digest it should have. What is in `ingest` when the store opens was left by a crash and is removed. Syncing is
//! [`crate::metadata`]'s business: a blob counts once a committed record names it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use sampan_base::digest::Hasher;
use sampan_base::{Digest, FileError, files};

/// The directory of blobs.
#[derive(Debug)]
pub(crate) struct Content {
    root: PathBuf,
}

/// A blob on its way in; dropped before [`Ingest::finish`], it leaves nothing.
pub(crate) struct Ingest<'a> {
    content: &'a Content,
    file: File,
    path: PathBuf,
    hasher: Hasher,
    size: u64,
    /// How many bytes are on their way to disk already.
    written_back: u64,
    finished: bool,
}

/// Bytes after which they are sent on their way to disk: the sync before the record then has little to wait for.
const WRITE_BACK_BYTES: u64 = 8 * 1024 * 1024;

impl Content {
    pub(crate) fn open(root: &Path) -> Result<Content, FileError> {
        let content = Content { root: root.join("content") };
        files::create_directories(&content.blobs(), 0o700)?;
        let ingest = content.root.join("ingest");
        files::remove_if_exists(&ingest)?;
        files::create_directories(&ingest, 0o700)?;
        let layout = content.root.join("oci-layout");
        if !layout.exists() {
            files::write_atomic(&layout, br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644)?;
        }
        Ok(content)
    }

    pub(crate) fn blobs(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    pub(crate) fn path(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.hex())
    }

    pub(crate) fn has(&self, digest: &Digest) -> bool {
        self.path(digest).exists()
    }

    pub(crate) fn open_blob(&self, digest: &Digest) -> Result<File, FileError> {
        let path = self.path(digest);
        File::open(&path).map_err(FileError::on("open", path))
    }

    /// A small blob whole, its digest checked.
    pub(crate) fn read(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, FileError> {
        let path = self.path(digest);
        let bytes = files::read_limited(&path, limit)?;
        if Digest::of(&bytes) == *digest {
            return Ok(bytes);
        }
        let source = io::Error::new(io::ErrorKind::InvalidData, "its content does not have its digest");
        Err(FileError { action: "read", path, source })
    }

    pub(crate) fn ingest(&self) -> Result<Ingest<'_>, FileError> {
        let name = sampan_base::id::random_id().map_err(FileError::on("name a file in", &self.root))?;
        let path = self.root.join("ingest").join(name);
        let file = File::options().write(true).create_new(true).open(&path);
        let file = file.map_err(FileError::on("create", &path))?;
        Ok(Ingest {
            content: self,
            file,
            path,
            hasher: Hasher::new(),
            size: 0,
            written_back: 0,
            finished: false,
        })
    }

    pub(crate) fn write(&self, bytes: &[u8]) -> Result<Digest, FileError> {
        let digest = Digest::of(bytes);
        if self.has(&digest) {
            return Ok(digest);
        }
        let mut ingest = self.ingest()?;
        let path = ingest.path.clone();
        ingest.write_all(bytes).map_err(FileError::on("write", path))?;
        Ok(ingest.finish()?.0)
    }

    pub(crate) fn remove(&self, digest: &Digest) -> Result<(), FileError> {
        files::remove_if_exists(&self.path(digest))
    }

    /// Reads a blob to its end; its digest and size.
    pub(crate) fn measure(&self, digest: &Digest) -> Result<(Digest, u64), FileError> {
        let mut hashing = sampan_base::digest::Hashing::new(self.open_blob(digest)?);
        io::copy(&mut hashing, &mut io::sink()).map_err(FileError::on("read", self.path(digest)))?;
        let (_, computed, size) = hashing.finish();
        Ok((computed, size))
    }

    /// The digests of all blobs; other files there are not ours and stay.
    pub(crate) fn all(&self) -> Result<Vec<Digest>, FileError> {
        let blobs = self.blobs();
        let listed = fs::read_dir(&blobs).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let entries = listed.map_err(FileError::on("list", blobs))?;
        Ok(entries.iter().filter_map(|e| Digest::from_hex(e.file_name().to_str()?).ok()).collect())
    }
}

impl Ingest<'_> {
    /// Where the bytes are until [`Ingest::finish`].
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The digest of what was written so far.
    pub(crate) fn digest(&self) -> Digest {
        self.hasher.clone().finish()
    }

    /// Bytes written so far.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// The blob is whole: gives it its name. One of the same digest that is there already is left as it is.
    pub(crate) fn finish(mut self) -> Result<(Digest, u64), FileError> {
        let digest = self.digest();
        let path = self.content.path(&digest);
        if !path.exists() {
            fs::rename(&self.path, &path).map_err(FileError::on("create", path))?;
            self.finished = true;
        }
        Ok((digest, self.size))
    }
}

impl Write for Ingest<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.file.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        self.size += n as u64;
        if self.size - self.written_back >= WRITE_BACK_BYTES {
            // A file system without it writes later.
            let _ =
                sampan_kernel::writeback::start(&self.file, self.written_back, self.size - self.written_back);
            self.written_back = self.size;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Ingest<'_> {
    fn drop(&mut self) {
        if !self.finished {
            // What stays here is removed when the store opens the next time.
            let _ = fs::remove_file(&self.path);
        }
    }
}
