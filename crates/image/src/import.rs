//! `docker import`: a tar of a whole file system becomes an image of one layer.

use std::io::Read;

use sampan_base::{Class, ImageRef, Timestamp};
use sampan_oci::image::{ContainerConfig, History, ImageConfig};

use crate::image::{Image, ImageError};
use crate::store::Store;
use crate::unpack::{Expected, UnpackError};

/// What the image is to be besides its files.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ImportOptions {
    /// Its names.
    pub names: Vec<ImageRef>,
    /// The comment in its history.
    pub message: String,
    /// What runs in a container of it.
    pub config: ContainerConfig,
    /// When it was made; `None`: now.
    pub created: Option<Timestamp>,
}

/// Why a file system can't be imported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The tar.
    #[error("cannot import the file system")]
    Layer {
        /// What is wrong with it.
        source: UnpackError,
    },
    /// The image.
    #[error(transparent)]
    Image(#[from] ImageError),
}

impl ImportError {
    /// The class to report.
    pub fn class(&self) -> Class {
        match self {
            ImportError::Layer { source } => source.class(),
            ImportError::Image(e) => e.class(),
        }
    }
}

impl Store {
    /// Makes an image of the file system in `tar`, which may be packed by gzip or zstd.
    ///
    /// # Errors
    /// If the tar is damaged or hostile, or the disk is full; nothing is left then.
    pub fn import_rootfs(&self, tar: &mut dyn Read, options: &ImportOptions) -> Result<Image, ImportError> {
        let lease = self.lease();
        let layer = self.add_layer(tar, None, &Expected::default(), &lease);
        let layer = layer.map_err(|source| ImportError::Layer { source })?;
        let created = options.created.unwrap_or_else(Timestamp::now);
        let config = ImageConfig {
            created: Some(created),
            config: options.config.clone(),
            history: vec![History {
                created: Some(created),
                comment: options.message.clone(),
                ..History::default()
            }],
            ..ImageConfig::for_host()
        };
        Ok(self.create_image(config, &[layer], &options.names)?)
    }
}
