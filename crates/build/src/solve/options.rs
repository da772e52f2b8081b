//! What to build besides the context.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use sampan_base::ImageRef;
use sampan_oci::image::Platform;

use super::exchange::{CacheSource, CacheTarget};
use crate::context::Context;
use crate::run::{Cancel, Limits, NetworkMode};

/// What to build besides the context.
#[derive(Debug)]
pub struct BuildOptions {
    /// The Dockerfile's path in the context.
    pub dockerfile: String,
    /// The Dockerfile's text, where it is not in the context.
    pub dockerfile_text: Option<String>,
    /// Names for the image.
    pub names: Vec<ImageRef>,
    /// The stage to build, by name or number; `None`: the last.
    pub target: Option<String>,
    /// Values for `ARG`s.
    pub build_args: BTreeMap<String, String>,
    /// Labels to add.
    pub labels: BTreeMap<String, String>,
    /// What to build for; `None`: the host.
    pub platform: Option<Platform>,
    /// Do every step anew.
    pub no_cache: bool,
    /// Do the steps of these stages anew.
    pub no_cache_stages: BTreeSet<String>,
    /// Ask the registries for newer base images.
    pub pull: bool,
    /// The network of `RUN`, where the Dockerfile does not say.
    pub network: NetworkMode,
    /// Lines `address name` for the `/etc/hosts` of `RUN`.
    pub extra_hosts: Vec<String>,
    /// Bounds on what a `RUN` may use.
    pub limits: Limits,
    /// What `RUN --mount=type=secret` may ask for, by id.
    pub secrets: BTreeMap<String, Secret>,
    /// The sockets of agents that `RUN --mount=type=ssh` may ask for, by id.
    pub ssh: BTreeMap<String, PathBuf>,
    /// More to copy from, by name; a name here wins over a stage's and an image's.
    pub contexts: BTreeMap<String, NamedContext>,
    /// Allow `RUN --security=insecure`.
    pub allow_insecure: bool,
    /// Allow `RUN --network=host`.
    pub allow_host_network: bool,
    /// Make one layer of what the build adds to its base.
    pub squash: bool,
    /// Where steps that others did may come from.
    pub cache_from: Vec<CacheSource>,
    /// Where to tell others of the steps of this build.
    pub cache_to: Vec<CacheTarget>,
    /// To give up.
    pub cancel: Cancel,
}

/// A value that is in no layer, no history and no log.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({} bytes)", self.0.len())
    }
}

/// Something to copy or start from that has a name of its own in this build.
#[derive(Debug)]
pub enum NamedContext {
    /// Files.
    Files(Context),
    /// An image, by its name.
    Image(String),
}

impl Default for BuildOptions {
    fn default() -> Self {
        BuildOptions {
            dockerfile: "Dockerfile".to_owned(),
            dockerfile_text: None,
            names: Vec::new(),
            target: None,
            build_args: BTreeMap::new(),
            labels: BTreeMap::new(),
            platform: None,
            no_cache: false,
            no_cache_stages: BTreeSet::new(),
            pull: false,
            network: NetworkMode::Default,
            extra_hosts: Vec::new(),
            limits: Limits::default(),
            secrets: BTreeMap::new(),
            ssh: BTreeMap::new(),
            contexts: BTreeMap::new(),
            allow_insecure: false,
            allow_host_network: true,
            squash: false,
            cache_from: Vec::new(),
            cache_to: Vec::new(),
            cancel: Cancel::default(),
        }
    }
}

impl BuildOptions {
    /// The time that everything made by this build has: the build argument `SOURCE_DATE_EPOCH`, seconds since 1970.
    pub(super) fn epoch(&self) -> Option<i64> {
        self.build_args.get("SOURCE_DATE_EPOCH")?.trim().parse().ok()
    }
}
