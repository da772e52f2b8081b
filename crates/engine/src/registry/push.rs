//! An image goes to a registry: its layers, several at once, its configuration, and last its manifest.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use sampan_base::{Class, Digest, ImageRef};
use sampan_image::{Image, Sendable};
use sampan_oci::image::{Descriptor, Index, media};
use sampan_registry::{Cancel, Credentials, Repository, Uploaded, Which};

use crate::error::{EngineError, Result};
use crate::{Engine, Inner, long_blocking};

/// How many layers go at once. More than a few do not make one connection's other end faster.
const AT_ONCE: usize = 4;
/// From how many other repositories a layer is asked for before it is sent.
const MOST_MOUNT_TRIES: usize = 2;

/// What happens in a push, in order; those of layers come from several threads.
#[derive(Clone, Debug)]
pub enum PushEvent {
    /// How far a layer is.
    Layer {
        /// Its diff id.
        layer: Digest,
        /// The blob's length.
        size: u64,
        /// How far.
        state: PushState,
    },
    /// The registry has the image.
    Done {
        /// The manifest's digest.
        digest: Digest,
        /// Its length.
        size: u64,
    },
}

/// How far a layer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PushState {
    /// It is being packed, or others come first.
    Preparing,
    /// The registry has so many bytes.
    Sending {
        /// How many.
        bytes: u64,
    },
    /// It was sent.
    Sent,
    /// It was there.
    Exists,
    /// The registry took it from another repository.
    Mounted {
        /// Which.
        from: String,
    },
}

fn cannot_push(name: &ImageRef) -> String {
    format!("cannot push {name}")
}

fn tag_of(name: &ImageRef) -> Which {
    Which::Tag(name.tag().unwrap_or("latest").to_owned())
}

/// Told what happens, from several threads.
pub type Events<'a> = dyn Fn(PushEvent) + Send + Sync + 'a;

impl Inner {
    /// Pushes the image that has this name, which has a tag. Blocks.
    ///
    /// # Errors
    /// If there is no such image, or the registry does not take it.
    pub(crate) fn push_blocking(
        &self,
        name: &ImageRef,
        credentials: &Credentials,
        cancel: &Cancel,
        events: &Events<'_>,
    ) -> Result<Digest> {
        let store = &self.images.store;
        let named = store.named(name).map_err(|e| EngineError::layer(e.class(), cannot_push(name))(e))?;
        let image = named.ok_or_else(|| self.nothing_to_push(name))?;
        let repository = self.access.registries().repository(name, credentials, cancel);
        let repository = repository.map_err(|e| EngineError::layer(e.class(), cannot_push(name))(e))?;
        let pushed = self.push_image(name, &image, Some(name), &repository, cancel, events)?;
        let noted = store.set_repo_digest(name, &pushed.digest);
        noted.map_err(|e| EngineError::layer(e.class(), "cannot remember where the image went")(e))?;
        self.transfer_event("push", &image, name);
        events(PushEvent::Done { digest: pushed.digest.clone(), size: pushed.size });
        Ok(pushed.digest)
    }

    /// Pushes images as one: each for its platform, and an index of them under this name, which has a tag. Blocks.
    ///
    /// # Errors
    /// If one of the images is not there, two are for one platform, or the registry does not take them.
    pub(crate) fn push_index_blocking(
        &self,
        name: &ImageRef,
        images: &[String],
        credentials: &Credentials,
        cancel: &Cancel,
        events: &Events<'_>,
    ) -> Result<Digest> {
        let images: Vec<Image> =
            images.iter().map(|text| self.images.resolve(text)).collect::<Result<_>>()?;
        let mut platforms: Vec<String> = images.iter().map(|i| i.config.platform().to_string()).collect();
        platforms.sort();
        if let Some(twice) = platforms.windows(2).find(|w| w[0] == w[1]) {
            return Err(EngineError::Invalid(format!("cannot push {name}: two images are for {}", twice[0])));
        }
        let repository = self.access.registries().repository(name, credentials, cancel);
        let repository = repository.map_err(|e| EngineError::layer(e.class(), cannot_push(name))(e))?;
        let mut manifests = Vec::new();
        for image in &images {
            let mut pushed = self.push_image(name, image, None, &repository, cancel, events)?;
            pushed.platform = Some(image.config.platform());
            manifests.push(pushed);
        }
        let index = Index {
            schema_version: 2,
            media_type: Some(media::INDEX.to_owned()),
            manifests,
            annotations: std::collections::BTreeMap::new(),
            other: serde_json::Map::new(),
        };
        let bytes =
            serde_json::to_vec(&index).map_err(EngineError::layer(Class::Internal, cannot_push(name)))?;
        let put = repository.put_document(&tag_of(name), media::INDEX, &bytes);
        let digest = put.map_err(|e| EngineError::layer(e.class(), cannot_push(name))(e))?;
        events(PushEvent::Done { digest: digest.clone(), size: bytes.len() as u64 });
        Ok(digest)
    }

    /// Layers, configuration, and then the manifest: under a name's tag, or by its digest alone.
    fn push_image(
        &self,
        name: &ImageRef,
        image: &Image,
        tagged: Option<&ImageRef>,
        repository: &Repository,
        cancel: &Cancel,
        events: &Events<'_>,
    ) -> Result<Descriptor> {
        for layer in &image.layers {
            events(PushEvent::Layer {
                layer: layer.diff_id.0.clone(),
                size: layer.blob_size,
                state: PushState::Preparing,
            });
        }
        let sendable = self.images.store.to_send(&image.id);
        let sendable = sendable.map_err(|e| EngineError::layer(e.class(), cannot_push(name))(e))?;
        self.push_layers(name, image, &sendable, repository, cancel, events)?;
        let manifest = sendable.manifest_descriptor;
        let which = tagged.map_or_else(|| Which::Digest(manifest.digest.clone()), tag_of);
        let put = repository.put_document(&which, &manifest.media_type, &sendable.manifest);
        put.map_err(|e| EngineError::layer(e.class(), cannot_push(name))(e))?;
        Ok(manifest)
    }

    /// Docker's words differ for a repository of which nothing is here.
    fn nothing_to_push(&self, name: &ImageRef) -> EngineError {
        let images = self.images.store.list().unwrap_or_default();
        if images.iter().flat_map(|i| &i.names).any(|n| n.same_repository(name)) {
            return EngineError::NoSuchTag { name: name.familiar() };
        }
        EngineError::NotToPush { name: name.familiar_repository() }
    }

    /// The layers and the configuration: whatever the manifest names must be there before it.
    fn push_layers(
        &self,
        name: &ImageRef,
        image: &Image,
        sendable: &Sendable,
        repository: &Repository,
        cancel: &Cancel,
        events: &Events<'_>,
    ) -> Result<()> {
        let mut seen = BTreeSet::new();
        let mut jobs: VecDeque<(&Descriptor, Option<&Digest>)> = VecDeque::new();
        for (blob, layer) in sendable.layers.iter().zip(&image.layers) {
            if seen.insert(&blob.digest) {
                jobs.push_back((blob, Some(&layer.diff_id.0)));
            }
        }
        // The longest first: the others then fill the time until it is there.
        jobs.make_contiguous().sort_by_key(|(blob, _)| std::cmp::Reverse(blob.size));
        jobs.push_back((&sendable.config, None));
        let elsewhere = self.elsewhere(name);
        let workers = jobs.len().min(AT_ONCE);
        let jobs = Mutex::new(jobs);
        let first_error: Mutex<Option<EngineError>> = Mutex::new(None);
        let failed = |error: EngineError| {
            first_error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        };
        let work = || {
            loop {
                let stop =
                    first_error.lock().unwrap_or_else(PoisonError::into_inner).is_some() || cancel.is_set();
                let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                let Some((blob, layer)) = job.filter(|_| !stop) else { return };
                if let Err(error) = self.push_blob(name, blob, layer, repository, &elsewhere, events) {
                    failed(error);
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..workers {
                scope.spawn(work);
            }
            work();
        });
        if let Some(error) = first_error.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        if cancel.is_set() {
            return Err(EngineError::layer(Class::Unavailable, cannot_push(name))("cancelled"));
        }
        Ok(())
    }

    fn push_blob(
        &self,
        name: &ImageRef,
        blob: &Descriptor,
        layer: Option<&Digest>,
        repository: &Repository,
        elsewhere: &[(String, BTreeSet<Digest>)],
        events: &Events<'_>,
    ) -> Result<()> {
        let tell = |state| {
            if let Some(layer) = layer {
                events(PushEvent::Layer { layer: layer.clone(), size: blob.size, state });
            }
        };
        let file = self.images.store.open_blob(&blob.digest).map_err(EngineError::file)?;
        let having = elsewhere.iter().filter(|(_, blobs)| blobs.contains(&blob.digest));
        let from: Vec<String> = having.map(|(r, _)| r.clone()).take(MOST_MOUNT_TRIES).collect();
        let uploaded = repository.upload(blob, &file, &from, &|bytes| tell(PushState::Sending { bytes }));
        let uploaded = uploaded.map_err(|e| EngineError::layer(e.class(), cannot_push(name))(e))?;
        tell(match uploaded {
            Uploaded::Sent => PushState::Sent,
            Uploaded::There => PushState::Exists,
            Uploaded::Mounted { from } => PushState::Mounted { from },
        });
        Ok(())
    }

    /// Other repositories of the same registry that images here came from or went to, with their blobs.
    fn elsewhere(&self, name: &ImageRef) -> Vec<(String, BTreeSet<Digest>)> {
        // Without it all is sent, which is slower and no worse.
        let images = self.images.store.list().unwrap_or_default();
        let mut found: Vec<(String, BTreeSet<Digest>)> = Vec::new();
        for image in images {
            for known in image.digests.iter().filter(|n| n.registry() == name.registry()) {
                if known.repository() != name.repository() {
                    let blobs = image.layers.iter().map(|l| l.blob.clone()).collect();
                    found.push((known.repository().to_owned(), blobs));
                }
            }
        }
        found
    }
}

impl Engine {
    /// Pushes images as one: each for its platform, and an index of them under this name.
    ///
    /// # Errors
    /// If one of the images is not there, two are for one platform, or the registry does not take them.
    pub async fn push_index(
        &self,
        name: ImageRef,
        images: Vec<String>,
        credentials: Credentials,
        cancel: Cancel,
        events: Box<dyn Fn(PushEvent) + Send + Sync>,
    ) -> Result<Digest> {
        let inner = Arc::clone(&self.inner);
        long_blocking(move || inner.push_index_blocking(&name, &images, &credentials, &cancel, &*events))
            .await
    }

    /// Pushes the image that has this name; tells `events` what happens, on threads that may block. Setting `cancel`
    /// ends it.
    ///
    /// # Errors
    /// If there is no such image, or the registry does not take it.
    pub async fn push(
        &self,
        name: ImageRef,
        credentials: Credentials,
        cancel: Cancel,
        events: Box<dyn Fn(PushEvent) + Send + Sync>,
    ) -> Result<Digest> {
        let inner = Arc::clone(&self.inner);
        long_blocking(move || inner.push_blocking(&name, &credentials, &cancel, &*events)).await
    }
}
