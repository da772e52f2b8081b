//! Layers come in: one from a stream to a blob and an unpacked directory at once ([`crate::stream`]), or several, also
//! later from the blobs alone ([`crate::stack`]).
//!
//! Life of a layer: its directory is new and nobody's ([`NewDirectory`]) until it is whole and its digests are
//! known to fit; then its chain id names it. What fails or is cut off before that leaves nothing.

use std::io::{self, Read};
use std::path::PathBuf;

use sampan_base::{ChainId, Class, DiffId, Digest, FileError};
use sampan_oci::image::Descriptor;

use crate::layer::apply::ApplyError;
use crate::limits::MAX_RATIO;
use crate::metadata::{ChainRecord, DiffRecord, MetadataError};
use crate::stack::{LayerError, Origin, Wanted};
use crate::store::{Layer, Lease, NewDirectory, Store};
use crate::stream::stream;

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
    /// No layer is packed so.
    #[error("a layer packed by {how} is not supported: gzip and zstd are")]
    Packed {
        /// How.
        how: &'static str,
    },
    /// It was packed as only a bomb is.
    #[error("the layer unpacks to more than {MAX_RATIO} times its {packed} bytes")]
    Bomb {
        /// Bytes that were read of it.
        packed: u64,
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
            UnpackError::Packed { .. } => Class::Unsupported,
            UnpackError::WrongDigest { .. } | UnpackError::Bomb { .. } => Class::Invalid,
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
        let directory = self.new_layer_directory()?;
        let mut ingest = self.content().ingest()?;
        let streamed = stream(input, Some(&mut ingest), Some((&directory.path().join("fs"), &below)))?;
        let blob = ingest.digest();
        let diff_id = DiffId(streamed.diff_id.unwrap_or_else(|| blob.clone()));
        check(expected.blob.as_ref(), &blob)?;
        check(expected.diff_id.as_ref().map(|d| &d.0), &diff_id.0)?;
        let diff = DiffRecord {
            blob,
            blob_size: ingest.size(),
            media_type: streamed.compression.layer_media_type().to_owned(),
            size: streamed.files.finish()?.bytes,
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

    /// The blob of a layer, held by `lease`.
    ///
    /// # Errors
    /// If the store does not have it.
    pub fn blob_of(&self, diff_id: &DiffId, lease: &Lease) -> Result<Descriptor, UnpackError> {
        let mut held = self.held();
        let diff = self.metadata().diff(diff_id)?.filter(|d| self.content().has(&d.blob));
        let diff = diff.ok_or_else(|| UnpackError::MissingBlob { diff_id: diff_id.clone() })?;
        lease.hold_blob_in(&mut held, &diff.blob);
        Ok(Descriptor::new(&diff.media_type, diff.blob, diff.blob_size))
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
        let (directories, wanted) = self.stack_of(chain)?;
        if directories.len() == wanted.len() {
            return Ok(directories);
        }
        let wanted = wanted.into_iter().map(|diff_id| Wanted { diff_id, origin: Origin::Here }).collect();
        self.take_in(wanted, true, lease).map_err(|(_, error)| match error {
            LayerError::Unpack(error) => error,
            // Nothing was fetched.
            LayerError::Fetch(source) => UnpackError::Read { source },
            LayerError::Size { .. } => UnpackError::UnknownChain { chain: chain.clone() },
        })?;
        Ok(self.stack_of(chain)?.0)
    }

    /// The directories of those layers of `chain` that have one, the uppermost first, and the diff ids of all, the base
    /// first.
    fn stack_of(&self, chain: &ChainId) -> Result<(Vec<PathBuf>, Vec<DiffId>), UnpackError> {
        let (mut directories, mut diff_ids) = (Vec::new(), Vec::new());
        let mut next = Some(chain.clone());
        while let Some(chain) = next {
            let record = self.metadata().chain(&chain)?;
            let record = record.ok_or(UnpackError::UnknownChain { chain })?;
            directories.extend(record.directory.map(|n| self.directory_path(n).join("fs")));
            diff_ids.push(record.diff_id);
            next = record.parent;
        }
        diff_ids.reverse();
        Ok((directories, diff_ids))
    }

    pub(crate) fn new_layer_directory(&self) -> Result<NewDirectory, FileError> {
        let directory = self.new_directory()?;
        sampan_base::files::create_directories(&directory.path().join("fs"), 0o755)?;
        Ok(directory)
    }
}

/// # Errors
/// If something was expected and is not what was computed.
pub(crate) fn check(expected: Option<&Digest>, computed: &Digest) -> Result<(), UnpackError> {
    match expected.filter(|e| *e != computed) {
        Some(expected) => {
            Err(UnpackError::WrongDigest { expected: expected.clone(), computed: computed.clone() })
        }
        None => Ok(()),
    }
}
