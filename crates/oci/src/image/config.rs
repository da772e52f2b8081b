//! An image's configuration: what runs in a container of it, of which layers it is made, and how.
//!
//! Our own type, because the fields that Docker adds to OCI's (Healthcheck, OnBuild, Shell, …) must survive.

use std::collections::BTreeMap;

use sampan_base::{ChainId, DiffId, Timestamp};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

/// The configuration; the digest of its bytes is the image's id.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct ImageConfig {
    /// As Go names it: `amd64`.
    #[serde(default, deserialize_with = "null_is_default")]
    pub architecture: String,
    /// Who made it.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// What runs in a container of it.
    #[serde(default, deserialize_with = "null_is_default")]
    pub config: ContainerConfig,
    /// When it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
    /// How it was made, a step an element, the oldest first.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<History>,
    /// As Go names it: `linux`.
    #[serde(default, deserialize_with = "null_is_default")]
    pub os: String,
    /// The layers' diff ids.
    #[serde(default, deserialize_with = "null_is_default")]
    pub rootfs: RootFs,
    /// The variant of the CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// What we do not know.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl ImageConfig {
    /// A configuration for this machine, with no layers.
    pub fn for_host() -> ImageConfig {
        let platform = super::Platform::host();
        ImageConfig { architecture: platform.architecture, os: platform.os, ..ImageConfig::default() }
    }

    /// The machine that it is for.
    pub fn platform(&self) -> super::Platform {
        super::Platform {
            architecture: self.architecture.clone(),
            os: self.os.clone(),
            variant: self.variant.clone(),
            ..super::Platform::default()
        }
    }

    /// Names the whole stack of layers; `None` without layers.
    pub fn chain_id(&self) -> Option<ChainId> {
        ChainId::of(&self.rootfs.diff_ids)
    }
}

/// What runs in a container, and how; also what `docker create` sends.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ContainerConfig {
    /// `name`, `uid`, `name:group` or `uid:gid`; empty: root.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// Ports that the image's service listens on: `80/tcp`.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub exposed_ports: BTreeMap<String, Map<String, Value>>,
    /// `NAME=value`.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// The program and its first arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// The program, or the arguments for `entrypoint`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// How to find out whether a container is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// Only for Windows.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "std::ops::Not::not")]
    pub args_escaped: bool,
    /// Directories that get a volume.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: BTreeMap<String, Map<String, Value>>,
    /// Where the program starts; empty: `/`.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// Instructions for builds on top of this image.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub on_build: Vec<String>,
    /// Free text by key.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The signal that asks the program to end.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    /// The shell of shell-form instructions; `None`: `/bin/sh -c`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shell: Option<Vec<String>>,
    /// What we do not know (`Hostname`, `Tty`, `StopTimeout`, …).
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// How to find out whether a container is well. Times are in nanoseconds; 0 means the default.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", args…]` or `["CMD-SHELL", command]`.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<String>,
    /// Between two probes.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub interval: i64,
    /// How long one probe may take.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub timeout: i64,
    /// How long failures do not count at first.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub start_period: i64,
    /// Between two probes in the start period.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    /// How many failures in a row make it unhealthy.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub retries: i64,
}

/// The layers' diff ids, the base first.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// The digest of each layer's tar, not compressed.
    #[serde(default, deserialize_with = "null_is_default")]
    pub diff_ids: Vec<DiffId>,
}

impl Default for RootFs {
    fn default() -> Self {
        RootFs { kind: "layers".to_owned(), diff_ids: Vec::new() }
    }
}

/// One step of how an image was made.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct History {
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
    /// By which instruction or command.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub created_by: String,
    /// By whom.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// Free text.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// Whether the step added no layer.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

/// Go writes `null` for an empty list or map.
pub(super) fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's skip_serializing_if passes a reference")]
fn is_zero(n: &i64) -> bool {
    *n == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Docker writes for a built image, shortened; nulls and Docker's own fields included.
    const DOCKERS: &str = r#"{"architecture":"amd64","config":{"Hostname":"","User":"","AttachStdin":false,"Env":["PATH=/bin"],
        "Cmd":["sh"],"Healthcheck":{"Test":["CMD-SHELL","true"],"Interval":1000000000},"Volumes":null,"WorkingDir":"/srv",
        "Entrypoint":null,"OnBuild":["RUN x"],"Labels":{"a":"b"},"Shell":["/bin/bash","-c"]},
        "container_config":{"Cmd":["x"]},"created":"2026-11-21T10:00:00.123456789Z","docker_version":"20.10.24",
        "history":[{"created":"2026-11-21T10:00:00Z","created_by":"/bin/sh -c #(nop) CMD","empty_layer":true}],
        "os":"linux","rootfs":{"type":"layers","diff_ids":null}}"#;

    #[test]
    fn keeps_dockers_fields_and_reads_nulls_as_empty() {
        let config: ImageConfig = serde_json::from_str(DOCKERS).unwrap();
        assert_eq!(config.config.on_build, ["RUN x"]);
        assert!(config.config.entrypoint.is_none() && config.chain_id().is_none());
        let again = serde_json::to_value(&config).unwrap();
        for pointer in ["/docker_version", "/container_config/Cmd/0", "/config/Hostname", "/config/Shell/0"] {
            assert!(again.pointer(pointer).is_some(), "{pointer} is lost");
        }
        assert_eq!(again.pointer("/created").unwrap(), "2026-11-21T10:00:00.123456789Z");
        assert_eq!(serde_json::from_value::<ImageConfig>(again).unwrap(), config);
    }
}
