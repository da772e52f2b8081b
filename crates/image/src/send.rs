//! Images go out: as they are to be pushed. Registries want layers packed; what came packed goes as it came, and a layer
//! that was made here, a bare tar, is packed once: the packed blob takes the bare one's place.

use std::fs::File;
use std::io;

use sampan_base::{Class, DiffId, Digest, FileError};
use sampan_oci::image::{Descriptor, ImageConfig, Manifest, media};

use crate::image::{Image, ImageError, ImageId};
use crate::limits::MAX_JSON_BYTES;
use crate::metadata::{DiffRecord, IMAGES, ImageRecord, MetadataError};
use crate::store::{Lease, Store};

/// An image as it is to be pushed. Its blobs are in the store as long as this lives; [`Store::open_blob`] reads them.
pub struct Sendable {
    /// The manifest's own bytes.
    pub manifest: Vec<u8>,
    /// Their digest, size and media type.
    pub manifest_descriptor: Descriptor,
    /// The configuration.
    pub config: Descriptor,
    /// The layers, the base first.
    pub layers: Vec<Descriptor>,
    /// Keeps the blobs.
    pub lease: Lease,
}

/// Why an image can't be made ready to be sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A layer can't be packed.
    #[error("cannot pack the layer `{digest}`")]
    Pack {
        /// Its bare tar.
        digest: Digest,
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

impl SendError {
    /// The class to report.
    pub fn class(&self) -> Class {
        match self {
            SendError::Image(e) => e.class(),
            SendError::Pack { source, .. } => sampan_base::error::class_of_io(source),
            SendError::File(e) => e.class(),
            SendError::Metadata(e) => e.class(),
        }
    }
}

impl Store {
    /// The image's documents and layers as they are to be pushed: every layer packed. The second time nothing is packed;
    /// the image is then the same as what was pushed, digest for digest.
    ///
    /// # Errors
    /// If there is no such image, or the disk is full.
    pub fn to_send(&self, id: &ImageId) -> Result<Sendable, SendError> {
        let bare = |image: &Image| image.layers.iter().any(|l| l.media_type == media::LAYER);
        let mut image = self.image(id)?;
        if bare(&image) {
            let lease = self.lease();
            self.hold(&image, &lease);
            for layer in image.layers.iter().filter(|l| l.media_type == media::LAYER) {
                self.pack_layer(layer, &lease)?;
            }
            drop(lease);
            // The bare tars have done their work; whoever still reads one has a lease of his own.
            self.gc()?;
            image = self.image(id)?;
        }
        let lease = self.lease();
        self.hold(&image, &lease);
        let manifest = self.content().read(&image.manifest, MAX_JSON_BYTES)?;
        let read: Manifest = serde_json::from_slice(&manifest).map_err(|source| ImageError::Damaged {
            what: "manifest",
            digest: image.manifest.clone(),
            source,
        })?;
        let kind = read.media_type.as_deref().unwrap_or(media::MANIFEST);
        Ok(Sendable {
            manifest_descriptor: Descriptor::new(kind, image.manifest, manifest.len() as u64),
            manifest,
            config: read.config,
            layers: read.layers,
            lease,
        })
    }

    /// A blob to read; see [`Sendable`].
    ///
    /// # Errors
    /// If it is not in the store.
    pub fn open_blob(&self, digest: &Digest) -> Result<File, FileError> {
        self.content().open_blob(digest)
    }

    /// Puts a packed blob in the place of a bare one, for all images that have the layer.
    fn pack_layer(&self, layer: &crate::Layer, lease: &Lease) -> Result<(), SendError> {
        let bare = &layer.blob;
        let known =
            self.metadata().diff(&layer.diff_id)?.filter(|d| d.blob != *bare && self.content().has(&d.blob));
        let packed = match known {
            // Packed already, but this image's manifest is older.
            Some(known) if known.media_type != media::LAYER => {
                lease.hold_blob_in(&mut self.held(), &known.blob);
                known
            }
            _ => self.packed_blob(layer, lease)?,
        };
        self.replace_blob(&layer.diff_id, bare, &packed, lease)
    }

    /// Puts another blob of the same layer in the place of `old`, in its record and in all images' manifests.
    pub(crate) fn replace_blob(
        &self,
        diff_id: &DiffId,
        old: &Digest,
        new: &DiffRecord,
        lease: &Lease,
    ) -> Result<(), SendError> {
        let mut images: Vec<(String, ImageRecord)> = Vec::new();
        for (id, record) in self.metadata().all::<ImageRecord>(IMAGES)? {
            // An image that can't be read is none of this one's business.
            let Ok(mut manifest) = self.document::<Manifest>("manifest", &record.manifest) else { continue };
            let Ok(config) = id
                .parse()
                .map_err(|_| ())
                .and_then(|id| self.document::<ImageConfig>("configuration", &id).map_err(|_| ()))
            else {
                continue;
            };
            let mut changed = false;
            for (descriptor, said) in manifest.layers.iter_mut().zip(&config.rootfs.diff_ids) {
                if said == diff_id && descriptor.digest == *old {
                    *descriptor = Descriptor::new(&new.media_type, new.blob.clone(), new.blob_size);
                    changed = true;
                }
            }
            if changed {
                let bytes = serde_json::to_vec(&manifest).map_err(|source| ImageError::Damaged {
                    what: "manifest",
                    digest: record.manifest.clone(),
                    source,
                })?;
                let mut held = self.held();
                self.metadata().pending().blobs = true;
                let manifest = self.content().write(&bytes)?;
                lease.hold_blob_in(&mut held, &manifest);
                images.push((id, ImageRecord { manifest, ..record }));
            }
        }
        self.metadata().pending().diffs.insert(diff_id.clone(), new.clone());
        self.metadata().flush(|t| {
            for (id, record) in &images {
                // An image that was removed meanwhile does not come back.
                if self.metadata().get_in::<ImageRecord>(t, IMAGES, id)?.is_some() {
                    self.metadata().put(t, IMAGES, id, record)?;
                }
            }
            Ok(())
        })?;
        self.write_index();
        Ok(())
    }

    fn packed_blob(&self, layer: &crate::Layer, lease: &Lease) -> Result<DiffRecord, SendError> {
        let mut bare = self.content().open_blob(&layer.blob)?;
        let mut ingest = self.content().ingest()?;
        crate::pack::gzip(&mut bare, &mut ingest)
            .map_err(|source| SendError::Pack { digest: layer.blob.clone(), source })?;
        let mut held = self.held();
        let (blob, blob_size) = ingest.finish()?;
        lease.hold_blob_in(&mut held, &blob);
        Ok(DiffRecord { blob, blob_size, media_type: media::LAYER_GZIP.to_owned(), size: layer.size })
    }
}
