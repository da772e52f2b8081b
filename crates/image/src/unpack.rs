//! Layers come in: from a stream to a blob and an unpacked directory at once, or later from the blob alone.
//!
//! ```text
//!   caller's thread: read, hash, write the blob ──┬─▶ (if packed) thread: unpack, hash ─▶ thread: apply
//!                                                 └─▶ (if not)                            thread: apply
//! ```
//!
//! Life of a layer: its directory is new and nobody's ([`NewDirectory`]) until it is whole and its digests are
//! known to fit; then its chain id names it. What fails or is cut off before that leaves nothing.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use sampan_base::digest::Hashing;
use sampan_base::{ChainId, Class, DiffId, Digest, FileError};
use sampan_kernel::beneath::RootDir;

use crate::compression::{self, Compression};
use crate::content::Ingest;
use crate::layer::apply::{self, Applied, ApplyError};
use crate::metadata::{ChainRecord, DiffRecord, MetadataError};
use crate::store::{Layer, Lease, NewDirectory, Store};

/// Why a layer can't be brought in or unpacked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnpackError {
    /// No image in the store has these layers.
    #[error("no layer `{}` in the store", chain.0)]
    UnknownChain {
        /// The layers.
        chain: ChainId,
    },
    /// The layer is known, but its content is not in the store.
    #[error("the content of layer `{}` is not in the store", diff_id.0)]
    MissingBlob {
        /// The layer.
        diff_id: DiffId,
    },
    /// The content is not what was said.
    #[error("the layer has the digest `{computed}`, not `{expected}`")]
    WrongDigest {
        /// As said.
        expected: Digest,
        /// As found.
        computed: Digest,
    },
    /// The tar.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The stream could not be read to its end.
    #[error("cannot read the layer")]
    Read {
        /// Why.
        source: io::Error,
    },
    /// A file of the store.
    #[error(transparent)]
    File(#[from] FileError),
    /// The database.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
}

impl UnpackError {
    /// The class to report.
    pub fn class(&self) -> Class {
        match self {
            UnpackError::UnknownChain { .. } => Class::NotFound,
            UnpackError::MissingBlob { .. } => Class::Internal,
            UnpackError::WrongDigest { .. } => Class::Invalid,
            UnpackError::Apply(e) => e.class(),
            UnpackError::Read { source } => match sampan_base::error::class_of_io(source) {
                Class::Exhausted => Class::Exhausted,
                _ => Class::Invalid,
            },
            UnpackError::File(e) => match e.class() {
                Class::NotFound => Class::Internal,
                class => class,
            },
            UnpackError::Metadata(e) => e.class(),
        }
    }
}

/// What a layer is expected to be, where that is known beforehand.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    /// The digest of the bytes as they come.
    pub blob: Option<Digest>,
    /// The digest of the tar.
    pub diff_id: Option<DiffId>,
}

/// The size of the pieces that go from thread to thread, and how many may wait.
const CHUNK_BYTES: usize = 128 * 1024;
const CHUNKS_WAITING: usize = 16;

impl Store {
    /// Takes in a layer, bare or packed by gzip or zstd, on top of `parent`, and unpacks it on the way. It is held
    /// by `lease` until an image has it.
    ///
    /// # Errors
    /// If the stream is no tar, is damaged or hostile, is not what was `expected`, or the disk is full. Nothing is
    /// left then.
    pub fn add_layer(
        &self,
        input: &mut dyn Read,
        parent: Option<&ChainId>,
        expected: &Expected,
        lease: &Lease,
    ) -> Result<Layer, UnpackError> {
        let below = match parent {
            Some(parent) => self.unpacked(parent, lease)?,
            None => Vec::new(),
        };
        let directory = self.new_layer_directory(&below)?;
        let mut start = Vec::new();
        input.take(4).read_to_end(&mut start).map_err(|source| UnpackError::Read { source })?;
        let compression = Compression::detect(&start);
        let mut ingest = self.content().ingest()?;
        let blob_path = ingest.path().to_owned();
        let mut input = io::Cursor::new(start).chain(input);
        let target = directory.path().join("fs");
        let (to_unpack, from_caller) = sync_channel(CHUNKS_WAITING);
        let unpacked = std::thread::scope(|scope| {
            let worker = scope.spawn(|| match compression {
                // The blob's digest is the diff id: it is computed once, by the caller's thread.
                Compression::None => {
                    Ok((apply::apply(&mut Chunks::new(from_caller), &target, &below)?, None))
                }
                _ => unpack_and_apply(Chunks::new(from_caller), &target, &below).map(|(a, d)| (a, Some(d))),
            });
            let fed = feed(&mut input, &mut ingest, &to_unpack);
            drop(to_unpack);
            // A worker that gave up tells more than the channel that it closed; a panic is a bug and goes on here.
            let result = worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            match fed {
                Err(Fed::Read(source)) => Err(UnpackError::Read { source }),
                Err(Fed::Write(source)) => {
                    Err(FileError { action: "write", path: blob_path.clone(), source }.into())
                }
                Ok(()) | Err(Fed::WorkerGone) => result,
            }
        });
        let (applied, diff_id): (Applied, Option<Digest>) = unpacked?;
        let blob = ingest.digest();
        let diff_id = DiffId(diff_id.unwrap_or_else(|| blob.clone()));
        check(expected.blob.as_ref(), &blob)?;
        check(expected.diff_id.as_ref().map(|d| &d.0), &diff_id.0)?;
        let diff = DiffRecord {
            blob,
            blob_size: ingest.size(),
            media_type: compression.layer_media_type().to_owned(),
            size: applied.bytes,
        };
        let layer = self.adopt_blob(ingest, diff_id, diff, parent, lease)?;
        let record = ChainRecord {
            diff_id: layer.diff_id.clone(),
            parent: parent.cloned(),
            directory: Some(directory.number()),
        };
        if self.adopt_chain(&layer.chain_id, record, lease)? {
            directory.keep();
        }
        Ok(layer)
    }

    /// As [`Store::add_layer`], for a blob that is written already.
    pub(crate) fn add_ingested(
        &self,
        ingest: Ingest<'_>,
        parent: Option<&ChainId>,
        expected: &Expected,
        lease: &Lease,
    ) -> Result<Layer, UnpackError> {
        let below = match parent {
            Some(parent) => self.unpacked(parent, lease)?,
            None => Vec::new(),
        };
        let directory = self.new_layer_directory(&below)?;
        let open = || std::fs::File::open(ingest.path()).map_err(FileError::on("open", ingest.path()));
        let mut start = Vec::new();
        open()?.take(4).read_to_end(&mut start).map_err(|source| UnpackError::Read { source })?;
        let (applied, diff_id) = unpack_and_apply(open()?, &directory.path().join("fs"), &below)?;
        check(expected.diff_id.as_ref().map(|d| &d.0), &diff_id)?;
        let diff = DiffRecord {
            blob: ingest.digest(),
            blob_size: ingest.size(),
            media_type: Compression::detect(&start).layer_media_type().to_owned(),
            size: applied.bytes,
        };
        let layer = self.adopt_blob(ingest, DiffId(diff_id), diff, parent, lease)?;
        let record = ChainRecord {
            diff_id: layer.diff_id.clone(),
            parent: parent.cloned(),
            directory: Some(directory.number()),
        };
        if self.adopt_chain(&layer.chain_id, record, lease)? {
            directory.keep();
        }
        Ok(layer)
    }

    /// A layer whose content is in the store, on top of `parent`; it is unpacked when it is first needed.
    ///
    /// # Errors
    /// If the store does not have the content.
    pub fn known_layer(
        &self,
        diff_id: &DiffId,
        parent: Option<&ChainId>,
        lease: &Lease,
    ) -> Result<Layer, UnpackError> {
        let missing = || UnpackError::MissingBlob { diff_id: diff_id.clone() };
        let chain_id = ChainId::extend(parent, diff_id);
        let diff = {
            let mut held = self.held();
            let diff =
                self.metadata().diff(diff_id)?.filter(|d| self.content().has(&d.blob)).ok_or_else(missing)?;
            lease.hold_blob_in(&mut held, &diff.blob);
            diff
        };
        let record = ChainRecord { diff_id: diff_id.clone(), parent: parent.cloned(), directory: None };
        self.adopt_chain(&chain_id, record, lease)?;
        Ok(Layer {
            diff_id: diff_id.clone(),
            chain_id,
            blob: diff.blob,
            blob_size: diff.blob_size,
            media_type: diff.media_type,
            size: diff.size,
        })
    }

    /// The directories of the layers of `chain`, the uppermost first; those that are not unpacked yet are, from
    /// their blobs. `lease` holds them.
    pub(crate) fn unpacked(&self, chain: &ChainId, lease: &Lease) -> Result<Vec<PathBuf>, UnpackError> {
        lease.hold_chain(chain);
        let mut stack = Vec::new();
        let mut next = Some(chain.clone());
        while let Some(chain) = next {
            let record = self
                .metadata()
                .chain(&chain)?
                .ok_or_else(|| UnpackError::UnknownChain { chain: chain.clone() })?;
            next = record.parent.clone();
            stack.push((chain, record));
        }
        let mut directories: Vec<PathBuf> = Vec::new();
        for (chain, record) in stack.into_iter().rev() {
            let number = match record.directory {
                Some(number) => number,
                None => self.unpack_from_blob(&chain, record, &directories, lease)?,
            };
            directories.insert(0, self.directory_path(number).join("fs"));
        }
        Ok(directories)
    }

    fn unpack_from_blob(
        &self,
        chain: &ChainId,
        record: ChainRecord,
        below: &[PathBuf],
        lease: &Lease,
    ) -> Result<u64, UnpackError> {
        let missing = || UnpackError::MissingBlob { diff_id: record.diff_id.clone() };
        let diff = self.metadata().diff(&record.diff_id)?.ok_or_else(missing)?;
        let blob = self.content().open_blob(&diff.blob).map_err(|e| match e.class() {
            Class::NotFound => missing(),
            _ => e.into(),
        })?;
        let directory = self.new_layer_directory(below)?;
        let target = directory.path().join("fs");
        let (_, computed) = unpack_and_apply(blob, &target, below)?;
        check(Some(&record.diff_id.0), &computed)?;
        let number = directory.number();
        let adopted = self.adopt_chain(chain, ChainRecord { directory: Some(number), ..record }, lease)?;
        if adopted {
            directory.keep();
            return Ok(number);
        }
        // Another thread was faster.
        let now = self.metadata().chain(chain)?.and_then(|r| r.directory);
        now.ok_or_else(|| UnpackError::UnknownChain { chain: chain.clone() })
    }

    fn new_layer_directory(&self, below: &[PathBuf]) -> Result<NewDirectory, FileError> {
        let directory = self.new_directory()?;
        let target = directory.path().join("fs");
        sampan_base::files::create_directories(&target, 0o755)?;
        if let Some(uppermost) = below.first() {
            let model = RootDir::open(uppermost).map_err(FileError::on("open", uppermost))?;
            crate::snapshot::like(&target, &model)?;
        }
        Ok(directory)
    }
}

fn check(expected: Option<&Digest>, computed: &Digest) -> Result<(), UnpackError> {
    match expected.filter(|e| *e != computed) {
        Some(expected) => {
            Err(UnpackError::WrongDigest { expected: expected.clone(), computed: computed.clone() })
        }
        None => Ok(()),
    }
}

/// Unpacks, hashes and applies `input`; hashing has a thread of its own.
fn unpack_and_apply(
    input: impl Read + Send,
    target: &Path,
    below: &[PathBuf],
) -> Result<(Applied, Digest), UnpackError> {
    let (to_apply, from_unpack) = sync_channel(CHUNKS_WAITING);
    std::thread::scope(|scope| {
        let worker = scope.spawn(move || apply::apply(&mut Chunks::new(from_unpack), target, below));
        let mut hashing = Hashing::new(io::sink());
        let fed = match compression::unpacked(input) {
            Ok(mut unpacked) => feed(&mut *unpacked, &mut hashing, &to_apply),
            Err(e) => Err(Fed::Read(e)),
        };
        drop(to_apply);
        let applied = worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        match fed {
            Err(Fed::Read(source) | Fed::Write(source)) => Err(UnpackError::Read { source }),
            Ok(()) | Err(Fed::WorkerGone) => Ok((applied?, hashing.finish().1)),
        }
    })
}

/// What goes from thread to thread; a sender that goes away without [`Chunk::End`] has failed.
enum Chunk {
    Data(Vec<u8>),
    End,
}

enum Fed {
    Read(io::Error),
    Write(io::Error),
    WorkerGone,
}

/// Copies all of `input` to `copy` and, in pieces, to another thread.
fn feed(input: &mut dyn Read, copy: &mut dyn Write, to: &SyncSender<Chunk>) -> Result<(), Fed> {
    loop {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        let n = input.take(CHUNK_BYTES as u64).read_to_end(&mut chunk).map_err(Fed::Read)?;
        copy.write_all(&chunk).map_err(Fed::Write)?;
        let last = n < CHUNK_BYTES;
        to.send(Chunk::Data(chunk)).map_err(|_| Fed::WorkerGone)?;
        if last {
            return to.send(Chunk::End).map_err(|_| Fed::WorkerGone);
        }
    }
}

/// The reading end of [`feed`].
struct Chunks {
    from: Receiver<Chunk>,
    current: io::Cursor<Vec<u8>>,
    ended: bool,
}

impl Chunks {
    fn new(from: Receiver<Chunk>) -> Chunks {
        Chunks { from, current: io::Cursor::default(), ended: false }
    }
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let n = self.current.read(buffer)?;
            if n > 0 || self.ended || buffer.is_empty() {
                return Ok(n);
            }
            match self.from.recv() {
                Ok(Chunk::Data(data)) => self.current = io::Cursor::new(data),
                Ok(Chunk::End) => self.ended = true,
                Err(_) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the stream broke off")),
            }
        }
    }
}
