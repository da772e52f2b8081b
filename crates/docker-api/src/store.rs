//! sampan's own routes beside Docker's, under `/sampan`: the check of the store, and what an image's bytes are.
//!
//! ```text
//!   POST /sampan/check?deep=1&repair=1               -> CheckReport
//!   GET  /sampan/analyze?image=NAME                  -> Analysis
//!   POST /sampan/squash?image=NAME&keep=N&from=BASE&repo=…&tag=…   -> IdAnswer
//! ```

use serde::{Deserialize, Serialize};

/// What a check of the store found.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(default)]
pub struct CheckReport {
    /// Images looked at.
    pub images: usize,
    /// Blobs read.
    pub blobs: usize,
    /// Their bytes.
    pub blob_bytes: u64,
    /// Unpacked layers.
    pub layers: usize,
    /// Containers' file systems.
    pub snapshots: usize,
    /// What is not as it should be.
    pub problems: Vec<Problem>,
}

/// Something that is not as it should be.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(default)]
pub struct Problem {
    /// The thing.
    pub subject: String,
    /// What is wrong with it.
    pub what: String,
    /// What was done about it.
    pub mended: Option<String>,
}

/// What an image's bytes are.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(default)]
pub struct Analysis {
    /// The image's id.
    pub id: String,
    /// Its names.
    pub names: Vec<String>,
    /// Bytes of the files of all its layers.
    pub size: u64,
    /// Bytes of its layers as they are stored.
    pub stored: u64,
    /// Files that a container sees.
    pub visible_files: u64,
    /// Their bytes.
    pub visible_bytes: u64,
    /// Bytes that a later layer hides.
    pub wasted_bytes: u64,
    /// From 0 to 1.
    pub efficiency: f64,
    /// Its layers, the base first.
    pub layers: Vec<LayerAnalysis>,
    /// What is hidden, the largest first.
    pub wasted: Vec<Wasted>,
    /// Bytes of copies.
    pub duplicate_bytes: u64,
    /// Contents that several files have.
    pub duplicates: Vec<Duplicate>,
    /// Caches, build tools and the like.
    pub leftovers: Vec<Leftover>,
    /// Images with the same base.
    pub shared: Vec<Shared>,
    /// An image that could be the base.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub similar: Option<Similar>,
    /// What to change.
    pub advice: Vec<Advice>,
}

/// An image that has much of the first layer's content, but not the layer.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(default)]
pub struct Similar {
    /// Its name.
    pub image: String,
    /// Bytes that it has, too.
    pub bytes: u64,
}

/// One layer of an [`Analysis`].
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(default)]
pub struct LayerAnalysis {
    /// Its place, from 1.
    pub number: usize,
    /// The digest of its tar.
    pub diff_id: String,
    /// The instruction that made it.
    pub created_by: String,
    /// Bytes of its files.
    pub size: u64,
    /// Bytes of its blob.
    pub stored: u64,
    /// Files in it.
    pub files: u64,
    /// New names.
    pub added: u64,
    /// Names in place of others.
    pub modified: u64,
    /// Names deleted.
    pub deleted: u64,
    /// Bytes that a later layer hides.
    pub wasted_bytes: u64,
    /// Its largest directories and files.
    pub tree: Node,
}

/// A directory or file.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(default)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Bytes in it.
    pub bytes: u64,
    /// Of these hidden by later layers.
    pub wasted: u64,
    /// Files in it.
    pub files: u64,
    /// What is in it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<Node>,
}

/// A file that a later layer hides.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(default)]
pub struct Wasted {
    /// Its path.
    pub path: String,
    /// Its bytes.
    pub bytes: u64,
    /// The layer that has it.
    pub layer: usize,
    /// The layer that hides it.
    pub hidden_by: usize,
    /// `overwritten`, `copied` or `deleted`.
    pub how: String,
}

/// A content that several files have.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(default)]
pub struct Duplicate {
    /// Bytes of one.
    pub bytes: u64,
    /// How many.
    pub count: usize,
    /// The first of their paths.
    pub paths: Vec<String>,
}

/// Leftovers of one kind in one layer.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(default)]
pub struct Leftover {
    /// What: `apt-lists`, `git`, ….
    pub kind: String,
    /// The layer that has them.
    pub layer: usize,
    /// Their bytes.
    pub bytes: u64,
    /// How many.
    pub files: u64,
    /// One of them.
    pub example: String,
}

/// Another image with the same base.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(default)]
pub struct Shared {
    /// Its name or id.
    pub image: String,
    /// How many layers both have.
    pub layers: usize,
    /// Bytes of these.
    pub bytes: u64,
    /// Whether it is the base.
    pub is_base: bool,
}

/// Something to change.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(default)]
pub struct Advice {
    /// Bytes that it saves.
    pub saves: u64,
    /// What to do.
    pub text: String,
}
