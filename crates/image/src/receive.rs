//! Images come in from elsewhere: a registry, another store. The caller brings the two documents and a
//! [`BlobSource`]; the layers that are not here yet are read from it.
//!
//! Nothing is visible before it is verified and on disk: a layer has its digest, its size and its diff id, or leaves
//! nothing; the image gets its record when all its layers are synced.

use std::io::{self, Read};

use sampan_base::{Class, Digest, ImageRef};
use sampan_oci::image::{Descriptor, ImageConfig, Manifest, Platform, media};

use crate::image::{Image, ImageError};
use crate::limits::{MAX_JSON_BYTES, MAX_LAYERS};
use crate::stack::{Fetch, LayerError, Origin, Wanted};
use crate::store::{Layer, Store};
use crate::unpack::UnpackError;

/// Where the blobs of an image come from.
pub trait BlobSource: Sync {
    /// Opens a blob; the reader reconnects by itself. The store checks digest and size.
    ///
    /// # Errors
    /// If the blob can't be had.
    fn open(&self, blob: &Descriptor) -> io::Result<Box<dyn Read + Send>>;
}

/// Told, from several threads, how far each layer is.
pub trait Progress: Sync {
    /// The layer is so far now.
    fn layer(&self, layer: &Descriptor, state: LayerProgress);
}

/// How far a layer is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LayerProgress {
    /// Others come first.
    Waiting,
    /// It is here already and is not fetched.
    Exists,
    /// It is coming.
    Receiving {
        /// How much came so far, of the descriptor's size.
        bytes: u64,
    },
    /// All came; its files are not all written.
    Unpacking,
    /// Its files are there.
    Done,
}

/// Tells nobody.
impl Progress for () {
    fn layer(&self, _: &Descriptor, _: LayerProgress) {}
}

/// Why an image can't be received.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiveError {
    /// A document is longer than [`crate::limits`] allows.
    #[error("the {what} of the image has {bytes} bytes; the limit is {MAX_JSON_BYTES}")]
    TooLong {
        /// Which document.
        what: &'static str,
        /// Its length.
        bytes: u64,
    },
    /// A document is not one.
    #[error("the {what} of the image is damaged")]
    Document {
        /// Which document.
        what: &'static str,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The configuration is not the one that the manifest names.
    #[error("the configuration of the image has the digest `{computed}`, not `{expected}`")]
    WrongConfig {
        /// As the manifest says.
        expected: Digest,
        /// As it is.
        computed: Digest,
    },
    /// The manifest is of something else: a chart, a signature.
    #[error("`{media_type}` is not a container image's configuration")]
    NotAnImage {
        /// What it is.
        media_type: String,
    },
    /// The manifest and the configuration contradict each other.
    #[error("the image has {diff_ids} diff ids for {layers} layers")]
    Mismatch {
        /// In its configuration.
        diff_ids: usize,
        /// In its manifest.
        layers: usize,
    },
    /// A layer could not be had.
    #[error("cannot receive the layer `{digest}`")]
    Fetch {
        /// The layer's blob.
        digest: Digest,
        /// Why.
        source: io::Error,
    },
    /// A layer is longer or shorter than the manifest says.
    #[error("the layer `{digest}` has {found} bytes, not {expected}")]
    WrongSize {
        /// The layer's blob.
        digest: Digest,
        /// As the manifest says.
        expected: u64,
        /// As it came; at least so many, if it is too long.
        found: u64,
    },
    /// A layer is not what it should be or can't be unpacked.
    #[error("cannot take in the layer `{digest}`")]
    Layer {
        /// The layer's blob.
        digest: Digest,
        /// Why.
        source: UnpackError,
    },
    /// The image can't be recorded.
    #[error(transparent)]
    Image(#[from] ImageError),
}

impl ReceiveError {
    /// The class to report.
    pub fn class(&self) -> Class {
        match self {
            ReceiveError::NotAnImage { .. } => Class::Unsupported,
            ReceiveError::Fetch { source, .. } => match sampan_base::error::class_of_io(source) {
                Class::Internal => Class::Unavailable,
                class => class,
            },
            ReceiveError::Layer { source, .. } => source.class(),
            ReceiveError::Image(e) => e.class(),
            _ => Class::Invalid,
        }
    }
}

impl Store {
    /// An image whose documents are `manifest` and `config`: its layers are fetched from `source` if they are not here
    /// yet, and it gets `names`. A name with a digest is remembered as where the image came from. Several layers come
    /// at once. An image of another platform is taken in, too; its layers are unpacked when they are first needed.
    ///
    /// # Errors
    /// If the documents contradict each other, a layer can't be had or is not what it should be, or the disk is full.
    /// Layers that came whole are kept until the next collection of garbage.
    pub fn receive(
        &self,
        manifest: &[u8],
        config: &[u8],
        names: &[ImageRef],
        source: &dyn BlobSource,
        progress: &dyn Progress,
    ) -> Result<Image, ReceiveError> {
        let lease = self.lease();
        let documents = Documents::check(manifest, config)?;
        let _turn = self.turn_to_receive(&documents.manifest.config.digest);
        for layer in &documents.manifest.layers {
            progress.layer(layer, LayerProgress::Waiting);
        }
        let fetches: Vec<OneLayer<'_>> =
            documents.manifest.layers.iter().map(|layer| OneLayer { layer, source, progress }).collect();
        let diff_ids = documents.config.rootfs.diff_ids.iter();
        let wanted = diff_ids
            .zip(&fetches)
            .map(|(diff_id, fetch)| Wanted { diff_id: diff_id.clone(), origin: Origin::Elsewhere(fetch) })
            .collect();
        let layers = self.take_in(wanted, documents.for_host(), &lease).map_err(|(index, error)| {
            let digest = documents.manifest.layers[index].digest.clone();
            match error {
                LayerError::Fetch(source) => ReceiveError::Fetch { digest, source },
                LayerError::Size { expected, found } => ReceiveError::WrongSize { digest, expected, found },
                LayerError::Unpack(source) => ReceiveError::Layer { digest, source },
            }
        })?;
        let manifest = documents.manifest_for(&layers, manifest)?;
        // Most of the waiting is done here, where nobody else waits for it.
        self.metadata().sync().map_err(ImageError::from)?;
        Ok(self.put_image(config, &manifest, &layers, names)?)
    }
}

/// A layer with where it comes from and who is told.
struct OneLayer<'a> {
    layer: &'a Descriptor,
    source: &'a dyn BlobSource,
    progress: &'a dyn Progress,
}

impl Fetch for OneLayer<'_> {
    fn expected(&self) -> (&Digest, u64) {
        (&self.layer.digest, self.layer.size)
    }

    fn open(&self) -> io::Result<Box<dyn Read + Send>> {
        self.source.open(self.layer)
    }

    fn received(&self, bytes: u64) {
        self.progress.layer(self.layer, LayerProgress::Receiving { bytes });
    }

    fn unpacking(&self) {
        self.progress.layer(self.layer, LayerProgress::Unpacking);
    }

    fn done(&self, existed: bool) {
        self.progress.layer(self.layer, if existed { LayerProgress::Exists } else { LayerProgress::Done });
    }
}

/// What a manifest and a configuration say, once they are known to belong together.
pub(crate) struct Documents {
    pub(crate) manifest: Manifest,
    pub(crate) config: ImageConfig,
}

impl Documents {
    pub(crate) fn check(manifest: &[u8], config: &[u8]) -> Result<Documents, ReceiveError> {
        for (what, bytes) in [("manifest", manifest), ("configuration", config)] {
            if bytes.len() as u64 > MAX_JSON_BYTES {
                return Err(ReceiveError::TooLong { what, bytes: bytes.len() as u64 });
            }
        }
        let document = |what| move |source| ReceiveError::Document { what, source };
        let manifest: Manifest = serde_json::from_slice(manifest).map_err(document("manifest"))?;
        let kind = manifest.config.media_type.as_str();
        if !matches!(kind, "" | media::CONFIG | media::DOCKER_CONFIG) {
            return Err(ReceiveError::NotAnImage { media_type: kind.chars().take(200).collect() });
        }
        let computed = Digest::of(config);
        if computed != manifest.config.digest {
            return Err(ReceiveError::WrongConfig { expected: manifest.config.digest, computed });
        }
        let config: ImageConfig = serde_json::from_slice(config).map_err(document("configuration"))?;
        let (diff_ids, layers) = (config.rootfs.diff_ids.len(), manifest.layers.len());
        if layers > MAX_LAYERS {
            return Err(ImageError::TooManyLayers { layers }.into());
        }
        if diff_ids != layers {
            return Err(ReceiveError::Mismatch { diff_ids, layers });
        }
        Ok(Documents { manifest, config })
    }

    /// Whether its programs run on this machine; the layers of others may stay packed.
    fn for_host(&self) -> bool {
        self.config.platform().fits(&Platform::host())
    }

    /// The manifest's own bytes if the store has just the blobs that it names. A layer that is here packed in another
    /// way is not fetched again: the manifest speaks of that copy then.
    pub(crate) fn manifest_for(&self, layers: &[Layer], own: &[u8]) -> Result<Vec<u8>, ReceiveError> {
        if layers.iter().zip(&self.manifest.layers).all(|(have, said)| have.blob == said.digest) {
            return Ok(own.to_vec());
        }
        let layers =
            layers.iter().map(|l| Descriptor::new(&l.media_type, l.blob.clone(), l.blob_size)).collect();
        let manifest = Manifest { layers, ..self.manifest.clone() };
        serde_json::to_vec(&manifest).map_err(|source| ReceiveError::Document { what: "manifest", source })
    }
}
