//! What an image's bytes are: by layer, by instruction, and which of them nobody needs.
//!
//! The layers' tars are read in order, and a picture of the file system is kept as a container would see it ([`files`]):
//! what a later layer hides of an earlier one is *wasted*, for it is sent and stored all the same. What is visible at
//! last is looked through for duplicates and [`leftovers`]; [`advice`] says what to change in the Dockerfile.

mod advice;
mod files;
mod leftovers;
mod tree;

use std::collections::BTreeMap;

use sampan_base::{Class, Digest};
use sampan_oci::image::ImageConfig;
use serde::Serialize;

pub use advice::Advice;
pub use leftovers::{Kind, Leftover};
pub use tree::Node;

use crate::image::{Image, ImageError};
use crate::layer::apply::ApplyError;
use crate::store::Store;
use files::View;

/// How many single paths and duplicates a list has at most; the sums count all.
const MAX_LISTED: usize = 50;

/// What an image's bytes are.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Analysis {
    /// The image's id.
    pub id: String,
    /// Its names.
    pub names: Vec<String>,
    /// Bytes of the files of all its layers.
    pub size: u64,
    /// Bytes of its layers as they are stored.
    pub stored: u64,
    /// Files that a container of it sees, and their bytes.
    pub visible_files: u64,
    /// Bytes of these; hard links count once.
    pub visible_bytes: u64,
    /// Bytes that a later layer overwrote or deleted.
    pub wasted_bytes: u64,
    /// How much of its bytes a container can see, from 0 to 1.
    pub efficiency: f64,
    /// Its layers, the base first.
    pub layers: Vec<LayerAnalysis>,
    /// What was overwritten or deleted, the largest first.
    pub wasted: Vec<Wasted>,
    /// Bytes of copies of files that are there already, hard links not counted.
    pub duplicate_bytes: u64,
    /// These files, those that take the most first.
    pub duplicates: Vec<Duplicate>,
    /// Caches, build tools and the like that are visible, the largest first.
    pub leftovers: Vec<Leftover>,
    /// Other images of this store that have some of the same layers.
    pub shared: Vec<Shared>,
    /// An image of this store that has much of the first layer's content, but not the layer.
    pub similar: Option<Similar>,
    /// What to do, what saves the most first.
    pub advice: Vec<Advice>,
}

/// An image that could be the base.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Similar {
    /// Its first name.
    pub image: String,
    /// Bytes of the first layer's files that it has, too.
    pub bytes: u64,
}

/// How many images are compared with one that lies on none of them, and how large all of them together may be: each is
/// read whole.
const MAX_COMPARED: usize = 8;
const MAX_COMPARED_BYTES: u64 = 2 * 1024 * 1024 * 1024;
/// Less in common is chance.
const SIMILAR_BYTES: u64 = 1024 * 1024;

/// One layer.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct LayerAnalysis {
    /// Its place, the base is 1.
    pub number: usize,
    /// The digest of its tar.
    pub diff_id: String,
    /// The instruction that made it.
    pub created_by: String,
    /// Bytes of its files.
    pub size: u64,
    /// Bytes of its blob.
    pub stored: u64,
    /// Files in it, directories and marks not counted.
    pub files: u64,
    /// Names that no layer below had.
    pub added: u64,
    /// Names in place of others.
    pub modified: u64,
    /// Names deleted.
    pub deleted: u64,
    /// Bytes of its files that a later layer hides.
    pub wasted_bytes: u64,
    /// Its largest directories and files.
    pub tree: Node,
}

/// A file that a later layer hides.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Wasted {
    /// Its path.
    pub path: String,
    /// Its bytes.
    pub bytes: u64,
    /// The layer that has it.
    pub layer: usize,
    /// The layer that hides it.
    pub hidden_by: usize,
    /// How.
    pub how: Hidden,
}

/// How a layer hides a file of one below.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Hidden {
    /// Another content is in its place.
    Overwritten,
    /// The same content is in its place, with another owner, mode or time.
    Copied,
    /// It is deleted.
    Deleted,
}

/// A content that several files have.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Duplicate {
    /// Bytes of one.
    pub bytes: u64,
    /// How many there are.
    pub count: usize,
    /// The first of their paths.
    pub paths: Vec<String>,
}

/// Another image with the same base.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Shared {
    /// Its first name, or its id.
    pub image: String,
    /// How many layers, from the base, both have.
    pub layers: usize,
    /// Bytes of these.
    pub bytes: u64,
    /// Whether all layers of the other are in this one: it is the base.
    pub is_base: bool,
}

/// Why an image can't be analyzed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AnalyzeError {
    /// The image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A layer can't be read.
    #[error("cannot read the layer `{digest}`")]
    Layer {
        /// Its blob.
        digest: Digest,
        /// Why.
        source: ApplyError,
    },
}

impl AnalyzeError {
    /// The class to report.
    pub fn class(&self) -> Class {
        match self {
            AnalyzeError::Image(e) => e.class(),
            AnalyzeError::Layer { source, .. } => source.class(),
        }
    }
}

impl Store {
    /// Reads all layers of the image and says what their bytes are.
    ///
    /// # Errors
    /// If a layer can't be read.
    pub fn analyze(&self, image: &Image) -> Result<Analysis, AnalyzeError> {
        let lease = self.lease();
        self.hold(image, &lease);
        let instructions = instructions(&image.config);
        let mut view = View::default();
        let mut layers = Vec::new();
        for (index, layer) in image.layers.iter().enumerate() {
            let blob = self.open_blob(&layer.blob).map_err(ImageError::from)?;
            let read = view.add_layer(index, blob);
            let read = read.map_err(|source| AnalyzeError::Layer { digest: layer.blob.clone(), source })?;
            layers.push(LayerAnalysis {
                number: index + 1,
                diff_id: layer.diff_id.0.to_string(),
                created_by: instructions.get(index).cloned().unwrap_or_default(),
                size: read.bytes,
                stored: layer.blob_size,
                files: read.files,
                added: read.added,
                modified: read.modified,
                deleted: read.deleted,
                wasted_bytes: 0,
                tree: Node::default(),
            });
        }
        let (hidden, trees) = view.hidden_and_trees();
        for (layer, tree) in layers.iter_mut().zip(trees) {
            layer.wasted_bytes = tree.wasted;
            layer.tree = tree;
        }
        let size: u64 = layers.iter().map(|l| l.size).sum();
        let wasted_bytes: u64 = layers.iter().map(|l| l.wasted_bytes).sum();
        let duplicates = view.duplicates();
        let leftovers = leftovers::find(&view);
        let shared = self.shared_with(image)?;
        let similar = if shared.is_empty() { self.similar_to(image, &view)? } else { None };
        let (visible_files, visible_bytes) = view.visible();
        let mut analysis = Analysis {
            id: image.id.to_string(),
            names: image.names.iter().map(sampan_base::ImageRef::familiar).collect(),
            size,
            stored: layers.iter().map(|l| l.stored).sum(),
            visible_files,
            visible_bytes,
            wasted_bytes,
            efficiency: efficiency(size, wasted_bytes),
            duplicate_bytes: duplicates.iter().map(|d| d.bytes * (d.count as u64 - 1)).sum(),
            layers,
            wasted: hidden,
            duplicates,
            leftovers,
            shared,
            similar,
            advice: Vec::new(),
        };
        analysis.advice = advice::of(&analysis);
        analysis.wasted.truncate(MAX_LISTED);
        analysis.duplicates.truncate(MAX_LISTED);
        Ok(analysis)
    }

    /// The image that has most of the content of the first layer, if it has at least half.
    fn similar_to(&self, image: &Image, view: &View) -> Result<Option<Similar>, ImageError> {
        let wanted = view.contents_of_layer(0);
        let all: u64 = wanted.values().sum();
        let mut best: Option<Similar> = None;
        let mut left = MAX_COMPARED_BYTES;
        let others = self.list()?.into_iter().filter(|o| o.id != image.id && !o.names.is_empty());
        for other in others.take(MAX_COMPARED) {
            if all < SIMILAR_BYTES || other.size > left {
                continue;
            }
            left -= other.size;
            let mut compared = View::default();
            for (index, layer) in other.layers.iter().enumerate() {
                // One that can't be read is not the base to advise.
                let Ok(blob) = self.open_blob(&layer.blob) else { break };
                if compared.add_layer(index, blob).is_err() {
                    break;
                }
            }
            let has = compared.visible_contents();
            let bytes = wanted.iter().filter(|(c, _)| has.contains(*c)).map(|(_, bytes)| bytes).sum();
            if bytes >= SIMILAR_BYTES && bytes >= all / 2 && best.as_ref().is_none_or(|b| bytes > b.bytes) {
                best = Some(Similar { image: other.names[0].familiar(), bytes });
            }
        }
        Ok(best)
    }

    fn shared_with(&self, image: &Image) -> Result<Vec<Shared>, ImageError> {
        let mut shared = Vec::new();
        for other in self.list()?.into_iter().filter(|o| o.id != image.id) {
            let same = image.layers.iter().zip(&other.layers).take_while(|(a, b)| a.diff_id == b.diff_id);
            let sizes: Vec<u64> = same.map(|(layer, _)| layer.size).collect();
            if !sizes.is_empty() {
                let name = other.names.first().map(sampan_base::ImageRef::familiar);
                shared.push(Shared {
                    image: name.unwrap_or_else(|| other.id.short().to_owned()),
                    layers: sizes.len(),
                    bytes: sizes.iter().sum(),
                    is_base: sizes.len() == other.layers.len() && sizes.len() < image.layers.len(),
                });
            }
        }
        shared.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.image.cmp(&b.image)));
        Ok(shared)
    }
}

#[expect(clippy::cast_precision_loss, reason = "a share of bytes, for people")]
fn efficiency(size: u64, wasted: u64) -> f64 {
    if size == 0 { 1.0 } else { (size - wasted.min(size)) as f64 / size as f64 }
}

/// The instruction of each layer, as it stands in a Dockerfile.
fn instructions(config: &ImageConfig) -> Vec<String> {
    config.history.iter().filter(|h| !h.empty_layer).map(|h| instruction(&h.created_by)).collect()
}

fn instruction(created_by: &str) -> String {
    let text = created_by.trim().trim_end_matches("# buildkit").trim();
    // The classic builder writes what its shell ran; arguments come before it as `|1 NAME=value`.
    if let Some(rest) = text.strip_prefix("/bin/sh -c #(nop)") {
        return rest.trim().to_owned();
    }
    let known = ["RUN ", "COPY ", "ADD ", "WORKDIR ", "FROM "];
    if known.iter().any(|k| text.starts_with(k)) {
        return text.replace("RUN /bin/sh -c ", "RUN ");
    }
    match text.split_once("/bin/sh -c ") {
        Some((arguments, command)) if arguments.is_empty() || arguments.starts_with('|') => {
            format!("RUN {command}")
        }
        _ => text.to_owned(),
    }
}

/// Sums of bytes and counts by a key.
type Sums<K> = BTreeMap<K, (u64, u64)>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_read_as_in_a_dockerfile() {
        for (created_by, expected) in [
            ("/bin/sh -c #(nop) COPY file:1 in / ", "COPY file:1 in /"),
            ("/bin/sh -c apt-get update", "RUN apt-get update"),
            ("|1 A=b /bin/sh -c make", "RUN make"),
            ("RUN /bin/sh -c make # buildkit", "RUN make"),
            ("COPY a b # buildkit", "COPY a b"),
            ("sh", "sh"),
        ] {
            assert_eq!(instruction(created_by), expected);
        }
    }
}
