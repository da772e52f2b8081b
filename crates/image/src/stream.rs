//! A layer's way from a stream to its files, by two threads:
//!
//! ```text
//!   read, hash, write the blob, unpack ──chunks──▶ hash (if it was packed), apply
//!                      ◀──empty chunks──
//! ```
//!
//! A byte is hashed once packed and once not, and is copied from the unpacker's output to its file.

use std::cell::{Cell, RefCell};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use sampan_base::digest::Hasher;
use sampan_base::{Digest, FileError};

use crate::compression::{self, BUFFER_BYTES, Compression};
use crate::content::Ingest;
use crate::layer::apply::{self, Applied, ApplyError, Lower, Unfinished};
use crate::limits::{MAX_RATIO, MAX_UNQUESTIONED_BYTES};
use crate::unpack::UnpackError;

/// The size of the pieces that go from thread to thread, and how many may wait.
const CHUNK_BYTES: usize = 256 * 1024;
const CHUNKS_WAITING: usize = 6;

/// What came of a stream that was read to its end.
pub(crate) struct Streamed<'a> {
    pub(crate) compression: Compression,
    /// The digest of the tar; `None` if it was not packed, and so is the blob's.
    pub(crate) diff_id: Option<Digest>,
    pub(crate) files: Files<'a>,
}

pub(crate) enum Files<'a> {
    Unfinished(Unfinished<'a>),
    Measured(Applied),
}

impl Files<'_> {
    /// Waits for the layers below, if it must.
    pub(crate) fn finish(self) -> Result<Applied, ApplyError> {
        match self {
            Files::Unfinished(files) => files.with_root_as_below().finish(),
            Files::Measured(applied) => Ok(applied),
        }
    }
}

/// Reads a layer to its end and copies it to `blob`, if there is one. Its files are written to the empty directory
/// `target` on top of the layers below; without it the layer is only checked.
///
/// # Errors
/// If the stream is no tar, is damaged or hostile, or the disk is full.
pub(crate) fn stream<'a>(
    input: &mut dyn Read,
    blob: Option<&mut Ingest<'_>>,
    target: Option<(&Path, &'a dyn Lower)>,
) -> Result<Streamed<'a>, UnpackError> {
    let (full, to_apply) = sync_channel(CHUNKS_WAITING);
    let (back, empty) = channel();
    let counted = Cell::new(0u64);
    let failed = RefCell::new(None);
    let blob_path = blob.as_ref().map(|b| b.path().to_owned()).unwrap_or_default();
    let tee = Tee { input, blob, counted: &counted, failed: &failed };
    let read = |source| match failed.take() {
        Some(source) => FileError { action: "write", path: blob_path.clone(), source }.into(),
        None => UnpackError::Read { source },
    };
    let buffered = BufReader::with_capacity(BUFFER_BYTES, tee);
    let (compression, mut unpacked) = compression::decoder(buffered).map_err(&read)?;
    if matches!(compression, Compression::Xz | Compression::Bzip2) {
        return Err(UnpackError::Packed { how: if compression == Compression::Xz { "xz" } else { "bzip2" } });
    }
    std::thread::scope(|scope| {
        let worker = scope.spawn(move || {
            let hasher = (compression != Compression::None).then(Hasher::new);
            let mut chunks =
                Chunks { from: to_apply, back, current: Vec::new(), at: 0, ended: false, hasher };
            let files = match target {
                Some((path, lower)) => apply::apply(&mut chunks, path, lower).map(Files::Unfinished),
                None => apply::measure(&mut chunks).map(Files::Measured),
            };
            files.map(|files| (files, chunks.hasher.map(Hasher::finish)))
        });
        let fed = feed(&mut *unpacked, &counted, &full, &empty);
        drop(full);
        // A worker that gave up tells more than the channel that it closed; a panic is a bug and goes on here.
        let result = worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        match fed {
            Err(Fed::Read(source)) => Err(read(source)),
            Err(Fed::Bomb) => Err(UnpackError::Bomb { packed: counted.get() }),
            Ok(()) | Err(Fed::WorkerGone) => {
                let (files, diff_id) = result?;
                Ok(Streamed { compression, diff_id, files })
            }
        }
    })
}

enum Fed {
    Read(io::Error),
    Bomb,
    WorkerGone,
}

/// What goes from thread to thread; a sender that goes away without [`Chunk::End`] has failed.
enum Chunk {
    Data(Vec<u8>),
    End,
}

/// Sends all of `input` in pieces. `counted` are the bytes that it was made of.
fn feed(
    input: &mut dyn Read,
    counted: &Cell<u64>,
    full: &SyncSender<Chunk>,
    empty: &Receiver<Vec<u8>>,
) -> Result<(), Fed> {
    let mut total = 0u64;
    loop {
        // Buffers go round: fresh ones would cost a page fault for every page.
        let mut chunk = empty.try_recv().unwrap_or_else(|_| Vec::with_capacity(CHUNK_BYTES));
        let n = input.take(CHUNK_BYTES as u64).read_to_end(&mut chunk).map_err(Fed::Read)?;
        total += n as u64;
        if is_bomb(counted.get(), total) {
            return Err(Fed::Bomb);
        }
        full.send(Chunk::Data(chunk)).map_err(|_| Fed::WorkerGone)?;
        if n < CHUNK_BYTES {
            return full.send(Chunk::End).map_err(|_| Fed::WorkerGone);
        }
    }
}

fn is_bomb(packed: u64, unpacked: u64) -> bool {
    unpacked > MAX_UNQUESTIONED_BYTES && unpacked / MAX_RATIO > packed
}

/// The reading end of [`feed`].
struct Chunks {
    from: Receiver<Chunk>,
    back: Sender<Vec<u8>>,
    current: Vec<u8>,
    at: usize,
    ended: bool,
    hasher: Option<Hasher>,
}

impl BufRead for Chunks {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.at == self.current.len() && !self.ended {
            let mut used = std::mem::take(&mut self.current);
            self.at = 0;
            if used.capacity() > 0 {
                used.clear();
                // The sender is gone when it has sent all.
                let _ = self.back.send(used);
            }
            match self.from.recv() {
                Ok(Chunk::Data(data)) => self.current = data,
                Ok(Chunk::End) => self.ended = true,
                Err(_) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the stream broke off")),
            }
            if let Some(hasher) = &mut self.hasher {
                hasher.update(&self.current);
            }
        }
        Ok(&self.current[self.at..])
    }

    fn consume(&mut self, bytes: usize) {
        self.at += bytes;
    }
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut available = self.fill_buf()?;
        let n = available.read(buffer)?;
        self.consume(n);
        Ok(n)
    }
}

/// Copies what is read from it to the blob.
struct Tee<'a, 'i> {
    input: &'a mut dyn Read,
    blob: Option<&'a mut Ingest<'i>>,
    counted: &'a Cell<u64>,
    /// Why the blob can't be written: for the reader an error like any other.
    failed: &'a RefCell<Option<io::Error>>,
}

impl Read for Tee<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.input.read(buffer)?;
        if let Some(blob) = &mut self.blob
            && let Err(error) = blob.write_all(&buffer[..n])
        {
            let kind = error.kind();
            *self.failed.borrow_mut() = Some(error);
            return Err(kind.into());
        }
        self.counted.set(self.counted.get() + n as u64);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_large_and_packed_beyond_reason_is_a_bomb() {
        assert!(!is_bomb(1, MAX_UNQUESTIONED_BYTES));
        assert!(is_bomb(1 << 20, MAX_UNQUESTIONED_BYTES + 1));
        assert!(!is_bomb(MAX_UNQUESTIONED_BYTES / 1000, MAX_UNQUESTIONED_BYTES + 1));
    }
}
