//! Images: list, inspect, history, delete, commit.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::container::{ContainerConfig, GraphDriver};
use crate::null_default;

/// A row of `GET /images/json`.
#[derive(Serialize, Deserialize, Debug, Clone, Default)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageSummary {
    /// How many containers use it, -1 if not counted.
    pub containers: i64,
    /// Seconds since 1970.
    pub created: i64,
    /// The image's id.
    pub id: String,
    /// Labels.
    pub labels: Option<BTreeMap<String, String>>,
    /// The image it was built on, if it is here.
    pub parent_id: String,
    /// Names with digests.
    pub repo_digests: Option<Vec<String>>,
    /// Names with tags.
    pub repo_tags: Option<Vec<String>>,
    /// Bytes it shares with others, -1 if not counted.
    pub shared_size: i64,
    /// Bytes of all its layers.
    pub size: i64,
    /// As `size`, for clients before API 1.44.
    pub virtual_size: i64,
}

/// The answer to `GET /images/{name}/json`.
#[derive(Serialize, Deserialize, Debug, Clone, Default)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageInspect {
    /// The image's id.
    pub id: String,
    /// Names with tags.
    #[serde(deserialize_with = "null_default")]
    pub repo_tags: Vec<String>,
    /// Names with digests.
    #[serde(deserialize_with = "null_default")]
    pub repo_digests: Vec<String>,
    /// The image it was built on, if it is here.
    pub parent: String,
    /// The message of the commit or import.
    pub comment: String,
    /// RFC 3339.
    pub created: String,
    /// The container it was committed from.
    pub container: String,
    /// That container's configuration.
    pub container_config: ContainerConfig,
    /// The version of the engine that made it.
    pub docker_version: String,
    /// Who made it.
    pub author: String,
    /// What containers of it run.
    pub config: ContainerConfig,
    /// `amd64`, ….
    pub architecture: String,
    /// `linux`.
    pub os: String,
    /// Bytes of all its layers.
    pub size: i64,
    /// As `size`, for clients before API 1.44.
    pub virtual_size: i64,
    /// Where its layers are.
    pub graph_driver: GraphDriver,
    /// Its layers.
    #[serde(rename = "RootFS")]
    pub root_fs: RootFs,
    /// What the engine keeps beside it.
    pub metadata: ImageMetadata,
}

/// An image's layers.
#[derive(Serialize, Deserialize, Debug, Clone, Default)]
#[serde(rename_all = "PascalCase", default)]
pub struct RootFs {
    /// `layers`.
    #[serde(rename = "Type")]
    pub kind: String,
    /// Their diff ids, the base first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<String>,
}

/// What the engine keeps beside an image.
#[derive(Serialize, Deserialize, Debug, Clone, Default)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageMetadata {
    /// When it was last given a name, RFC 3339.
    pub last_tag_time: String,
}

/// A row of `GET /images/{name}/history`.
#[derive(Serialize, Deserialize, Debug, Clone, Default)]
#[serde(rename_all = "PascalCase", default)]
pub struct HistoryRow {
    /// The message.
    pub comment: String,
    /// Seconds since 1970.
    pub created: i64,
    /// The instruction.
    pub created_by: String,
    /// The image at this step, or `<missing>`.
    pub id: String,
    /// Bytes the step added.
    pub size: i64,
    /// Names of the image at this step.
    pub tags: Option<Vec<String>>,
}

/// A row of the answer to `DELETE /images/{name}`: one of the two is set.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageDeleted {
    /// A name that is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub untagged: Option<String>,
    /// An image or layer that is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deleted: Option<String>,
}

/// The answer to `POST /images/prune`.
#[derive(Serialize, Deserialize, Debug, Clone, Default)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImagesPruned {
    /// What is gone.
    pub images_deleted: Option<Vec<ImageDeleted>>,
    /// Bytes that are free again.
    pub space_reclaimed: u64,
}
