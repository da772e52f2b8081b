//! Care of the images: whether the store is whole, what an image's bytes are, several layers made one.

use sampan_base::ImageRef;
pub use sampan_image::{Analysis, CheckOptions, Report};

use crate::error::{EngineError, Result};
use crate::images::Image;
use crate::{Engine, long_blocking};

/// Which layers stay as they are when the others are merged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Keep {
    /// The first so many.
    Layers(usize),
    /// Those of this image, which must be the base of the one that is squashed.
    Base(String),
}

impl Engine {
    /// Looks at everything in the image store, and mends it if that is wanted.
    ///
    /// # Errors
    /// If the store can't be read or written.
    pub async fn check_store(&self, options: CheckOptions) -> Result<Report> {
        let images = self.inner.images.clone();
        long_blocking(move || {
            let report = images.store.check(options);
            report.map_err(|e| EngineError::layer(e.class(), "cannot check the image store")(e))
        })
        .await
    }

    /// What an image's bytes are. Reads all its layers.
    ///
    /// # Errors
    /// If there is no such image or a layer can't be read.
    pub async fn analyze(&self, text: &str) -> Result<Analysis> {
        let (images, text) = (self.inner.images.clone(), text.to_owned());
        long_blocking(move || {
            let image = images.resolve(&text)?;
            let analysis = images.store.analyze(&image);
            analysis.map_err(|e| EngineError::layer(e.class(), format!("cannot analyze `{text}`"))(e))
        })
        .await
    }

    /// Merges an image's layers into one, but for those that are kept, and names the new image.
    ///
    /// # Errors
    /// If there is no such image, it does not lie on what is to be kept, or the disk is full.
    pub async fn squash(&self, text: &str, keep: Keep, name: Option<ImageRef>) -> Result<Image> {
        let (inner, text) = (self.inner.clone(), text.to_owned());
        long_blocking(move || {
            let images = &inner.images;
            let image = images.resolve(&text)?;
            let keep = match keep {
                Keep::Layers(layers) => layers,
                Keep::Base(base) => {
                    let of_base = images.resolve(&base)?.layers;
                    let same = of_base.iter().zip(&image.layers).all(|(a, b)| a.diff_id == b.diff_id);
                    if !same || of_base.len() > image.layers.len() {
                        return Err(EngineError::Invalid(format!("`{text}` does not lie on `{base}`")));
                    }
                    of_base.len()
                }
            };
            let squashed = images.store.squash(&image, keep);
            let squashed =
                squashed.map_err(|e| EngineError::layer(e.class(), format!("cannot squash `{text}`"))(e))?;
            if let Some(name) = &name {
                let tagged = images.store.tag(&squashed.id, name);
                tagged.map_err(|e| EngineError::layer(e.class(), "cannot tag the image")(e))?;
                inner.image_event("tag", &squashed, Some(name));
            }
            images.resolve(squashed.id.as_str())
        })
        .await
    }
}
