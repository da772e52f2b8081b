//! Images from registries and to them, in the engine's words: the registry crate speaks to the registry, the image crate
//! keeps what came. Everything here blocks and can be cancelled; the engine's async verbs are thin.
//!
//! * [`pull`]: an image comes. * [`push`]: an image goes.
//! * Here: logging in, listing tags, asking what a name means there.

pub(crate) mod cache;
pub mod pull;
pub mod push;

use std::sync::{Arc, PoisonError, RwLock};

use sampan_base::{Class, Digest, ImageRef, Turns};
use sampan_oci::image::{Descriptor, Index, Platform, media};

pub use sampan_oci::image::InvalidPlatform;
pub use sampan_registry::{Cancel, Credentials, RegistryConfig, RegistryError, Secret};
use sampan_registry::{Registries, Which};

use crate::error::{EngineError, Result};
use crate::{Engine, long_blocking};

/// What the engine needs to speak to registries.
#[derive(Debug)]
pub(crate) struct Access {
    client: RwLock<Arc<Registries>>,
    /// Images that are being pulled: a second pull of one waits for the first and then finds its layers.
    pub(crate) pulls: Turns<String>,
}

impl Access {
    pub(crate) fn new(config: &RegistryConfig) -> Access {
        Access { client: RwLock::new(Access::client(config)), pulls: Turns::default() }
    }

    pub(crate) fn client(config: &RegistryConfig) -> Arc<Registries> {
        Arc::new(Registries::new(config.clone()))
    }

    /// The client that holds now.
    pub(crate) fn registries(&self) -> Arc<Registries> {
        Arc::clone(&self.client.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Uses another client from now on.
    pub(crate) fn replace(&self, client: Arc<Registries>) {
        *self.client.write().unwrap_or_else(PoisonError::into_inner) = client;
    }
}

/// What a name means at its registry.
#[derive(Clone, Debug)]
pub struct Distribution {
    /// The manifest or index.
    pub descriptor: Descriptor,
    /// For which platforms there are images.
    pub platforms: Vec<Platform>,
}

/// A registry's failure with Docker's words for what a name that leads nowhere may mean.
pub(crate) fn failed(name: &ImageRef, doing: String) -> impl FnOnce(RegistryError) -> EngineError {
    let familiar = name.clone();
    move |error| {
        let class = error.class();
        let (class, doing) = match error.refusal() {
            Some(r) if r.has("NAME_UNKNOWN") => {
                (Class::NotFound, format!("repository {} not found", familiar.familiar_repository()))
            }
            Some(r) if r.status == 404 => (Class::NotFound, format!("manifest for {familiar} not found")),
            // A registry that does not tell strangers what it has says the same of both; Docker takes it for a 404.
            Some(r) if matches!(r.status, 401 | 403) => (
                Class::NotFound,
                format!(
                    "pull access denied for {}, repository does not exist or may require 'docker login'",
                    familiar.familiar_repository()
                ),
            ),
            _ => (class, doing),
        };
        EngineError::layer(class, doing)(error)
    }
}

impl Engine {
    /// Asks a registry whether it knows these credentials; answers the token that stands for them from now on, if it gives
    /// one.
    ///
    /// # Errors
    /// If it does not answer, or does not know them.
    pub async fn login(&self, registry: &str, credentials: Credentials) -> Result<Option<Secret>> {
        let (inner, registry) = (self.inner.clone(), registry.to_owned());
        long_blocking(move || {
            let logged_in = inner.access.registries().login(&registry, &credentials, &Cancel::default());
            logged_in.map_err(|e| EngineError::layer(e.class(), format!("cannot log in to {registry}"))(e))
        })
        .await
    }

    /// The tags of a name's repository.
    ///
    /// # Errors
    /// If there is no such repository, or the registry does not answer.
    pub async fn tags(&self, name: &ImageRef, credentials: Credentials) -> Result<Vec<String>> {
        let (inner, name) = (self.inner.clone(), name.clone());
        long_blocking(move || {
            let tags = inner
                .access
                .registries()
                .repository(&name, &credentials, &Cancel::default())
                .and_then(|repository| repository.tags());
            tags.map_err(failed(&name, format!("cannot list the tags of {}", name.familiar_repository())))
        })
        .await
    }

    /// What refers to what a name means: signatures, attestations and the like.
    ///
    /// # Errors
    /// If there is no such manifest, or the registry does not answer.
    pub async fn referrers(
        &self,
        name: &ImageRef,
        artifact_type: Option<String>,
        credentials: Credentials,
    ) -> Result<Vec<Descriptor>> {
        let (inner, name) = (self.inner.clone(), name.clone());
        long_blocking(move || {
            let ask = || {
                let repository =
                    inner.access.registries().repository(&name, &credentials, &Cancel::default())?;
                let digest: Digest = match name.digest() {
                    Some(digest) => digest.clone(),
                    None => repository.document(&Which::of(&name))?.descriptor.digest,
                };
                repository.referrers(&digest, artifact_type.as_deref())
            };
            ask().map_err(failed(&name, format!("cannot list what refers to {name}")))
        })
        .await
    }

    /// What a name means at its registry, without pulling it.
    ///
    /// # Errors
    /// If there is no such manifest, or the registry does not answer.
    pub async fn distribution(&self, name: &ImageRef, credentials: Credentials) -> Result<Distribution> {
        let (inner, name) = (self.inner.clone(), name.clone());
        long_blocking(move || {
            let ask = || {
                let repository =
                    inner.access.registries().repository(&name, &credentials, &Cancel::default())?;
                let document = repository.document(&Which::of(&name))?;
                if media::is_index(&document.descriptor.media_type)
                    && let Ok(index) = serde_json::from_slice::<Index>(&document.bytes)
                {
                    let platforms = index.manifests.into_iter().filter_map(|m| m.platform).collect();
                    return Ok(Distribution { descriptor: document.descriptor, platforms });
                }
                let found = repository.find(&Which::of(&name), &Platform::host())?;
                let config: sampan_oci::image::ImageConfig =
                    serde_json::from_slice(&found.config).unwrap_or_default();
                Ok(Distribution { descriptor: document.descriptor, platforms: vec![config.platform()] })
            };
            ask().map_err(failed(&name, format!("cannot ask for {name}")))
        })
        .await
    }
}
