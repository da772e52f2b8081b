//! The image formats: what a registry sends, an OCI layout holds and `docker save` writes.
//!
//! An image is a [`Manifest`] that names one [`ImageConfig`] and the layers in order, the base first, each by a
//! [`Descriptor`]; an [`Index`] names several manifests, one a platform. Digests are checked for form while
//! reading; whether bytes have that digest is the store's business.
//!
//! The types keep what they do not know (`other`), so that an image that passes through us loses nothing.

mod config;
pub mod media;
mod platform;

use std::collections::BTreeMap;

use sampan_base::Digest;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use config::{ContainerConfig, Healthcheck, History, ImageConfig, RootFs};
pub use platform::InvalidPlatform;

/// Says what some content is, how long, and under which digest.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the bytes are; see [`media`].
    #[serde(default)]
    pub media_type: String,
    /// The digest of the bytes.
    pub digest: Digest,
    /// How many bytes.
    pub size: u64,
    /// For which platform, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Free text by key.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// What we do not know (`urls`, `data`, `artifactType`, …).
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Descriptor {
    /// A descriptor without platform or annotations.
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Descriptor {
        Descriptor {
            media_type: media_type.to_owned(),
            digest,
            size,
            platform: None,
            annotations: BTreeMap::new(),
            other: Map::new(),
        }
    }
}

/// The machine that an image is for.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Platform {
    /// As Go names it: `amd64`, `arm64`.
    #[serde(default)]
    pub architecture: String,
    /// As Go names it: `linux`.
    #[serde(default)]
    pub os: String,
    /// The variant of the CPU: `v7`, `v8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Only for Windows.
    #[serde(rename = "os.version", default, skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// What we do not know.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Platform {
    /// The platform that this program was built for.
    pub fn host() -> Platform {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            other => other,
        };
        Platform { architecture: architecture.to_owned(), os: "linux".to_owned(), ..Platform::default() }
    }
}

/// One image: its configuration and its layers.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// [`media::MANIFEST`] or Docker's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The [`ImageConfig`].
    pub config: Descriptor,
    /// The layers, the base first.
    #[serde(default)]
    pub layers: Vec<Descriptor>,
    /// Free text by key.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// What we do not know (`subject`, `artifactType`, …).
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// Several manifests, one a platform; also the `index.json` of an OCI layout.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// [`media::INDEX`] or Docker's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The manifests.
    #[serde(default)]
    pub manifests: Vec<Descriptor>,
    /// Free text by key.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// What we do not know.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// One element of `manifest.json` in what `docker save` writes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ArchivedImage {
    /// The configuration's file in the archive.
    pub config: String,
    /// The image's names.
    #[serde(default, deserialize_with = "config::null_is_default")]
    pub repo_tags: Vec<String>,
    /// The layers' files in the archive, the base first.
    #[serde(default, deserialize_with = "config::null_is_default")]
    pub layers: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_keeps_what_it_does_not_know() {
        let digest = Digest::of(b"x");
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"{m}","config":{{"mediaType":"{c}","digest":"{digest}","size":3,"urls":["http://x"]}},"layers":[],"subject":{{"a":1}}}}"#,
            m = media::MANIFEST,
            c = media::CONFIG
        );
        let manifest: Manifest = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_value(&manifest).unwrap(), serde_json::from_str::<Value>(&text).unwrap());
    }

    #[test]
    fn a_digest_that_is_none_is_refused_with_its_text() {
        let bad = r#"{"mediaType":"m","digest":"sha256:12","size":3}"#;
        assert!(serde_json::from_str::<Descriptor>(bad).unwrap_err().to_string().contains("sha256:12"));
    }
}
