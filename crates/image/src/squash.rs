//! Several layers become one: what they delete of each other is gone, and so are its bytes.

use std::io::BufReader;

use sampan_base::{Class, Timestamp};
use sampan_oci::image::{History, ImageConfig};

use crate::compression::{self, BUFFER_BYTES};
use crate::image::{Image, ImageError};
use crate::layer::apply::ApplyError;
use crate::layer::merge::merge;
use crate::snapshot::{InitLayer, SnapshotError};
use crate::store::Store;

/// Why an image can't be squashed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SquashError {
    /// It has fewer layers than are to be kept.
    #[error("the image has {layers} layers: {keep} of them can't be kept")]
    TooFewLayers {
        /// Its layers.
        layers: usize,
        /// How many were to be kept.
        keep: usize,
    },
    /// A layer can't be laid onto those below.
    #[error("cannot merge the layer `{digest}`")]
    Layer {
        /// Its blob.
        digest: sampan_base::Digest,
        /// Why.
        source: ApplyError,
    },
    /// The file system in which they are merged.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The image.
    #[error(transparent)]
    Image(#[from] ImageError),
}

impl SquashError {
    /// The class to report.
    pub fn class(&self) -> Class {
        match self {
            SquashError::TooFewLayers { .. } => Class::Invalid,
            SquashError::Layer { source, .. } => source.class(),
            SquashError::Snapshot(e) => e.class(),
            SquashError::Image(e) => e.class(),
        }
    }
}

impl Store {
    /// The image with all but its first `keep` layers merged into one. It has no names, and its history tells the same
    /// steps, as Docker does it: those that were merged add no layer any more, and a last one tells of the merge. An image
    /// with nothing to merge is answered as it is.
    ///
    /// # Errors
    /// If it has fewer layers, or they can't be read, or the disk is full.
    pub fn squash(&self, image: &Image, keep: usize) -> Result<Image, SquashError> {
        let lease = self.lease();
        self.hold(image, &lease);
        let layers = image.layers.len();
        let Some((base, merged)) = image.layers.split_at_checked(keep) else {
            return Err(SquashError::TooFewLayers { layers, keep });
        };
        if merged.len() < 2 {
            return Ok(image.clone());
        }
        let parent = base.last().map(|l| &l.chain_id);
        let scratch = self.scratch(parent, &InitLayer::empty(), &lease)?;
        for layer in merged {
            let open = || {
                let blob = self.open_blob(&layer.blob).map_err(|e| e.source)?;
                Ok(BufReader::with_capacity(BUFFER_BYTES, compression::unpacked(blob)?))
            };
            merge(open, scratch.rootfs())
                .map_err(|source| SquashError::Layer { digest: layer.blob.clone(), source })?;
        }
        let merged = scratch.freeze(&lease, None)?;
        let made_layer = merged.is_some();
        let layers: Vec<_> = base.iter().cloned().chain(merged).collect();
        Ok(self.create_image(squashed_config(image, keep, made_layer), &layers, &[])?)
    }
}

fn squashed_config(image: &Image, keep: usize, made_layer: bool) -> ImageConfig {
    let mut config = image.config.clone();
    let now = Timestamp::now();
    let mut kept = 0;
    for step in &mut config.history {
        if kept == keep {
            step.empty_layer = true;
        }
        kept += usize::from(!step.empty_layer);
    }
    let comment = match keep {
        0 => format!("create new from {}", image.id),
        _ => format!("merge {} to its first {keep} layers", image.id),
    };
    let merged = History { created: Some(now), comment, empty_layer: !made_layer, ..History::default() };
    config.history.push(merged);
    config.created = Some(now);
    config
}
