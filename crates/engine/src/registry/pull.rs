//! An image comes from its registry.

use std::io::{self, Read};
use std::sync::Arc;

use sampan_base::{Class, Digest, ImageRef};
use sampan_image::{BlobSource, Image, LayerProgress, Progress, ReceiveError};
use sampan_oci::image::{Descriptor, ImageConfig, Platform};
use sampan_registry::{Cancel, Credentials, Repository, Which};

use super::failed;
use crate::error::{EngineError, Result};
use crate::{Engine, Inner, long_blocking};

/// What to pull.
#[derive(Clone, Debug)]
pub struct PullRequest {
    /// The image's name: with a tag, or a digest.
    pub name: ImageRef,
    /// For another machine than this one.
    pub platform: Option<Platform>,
    /// Who asks.
    pub credentials: Credentials,
}

/// What happens in a pull, in order; those of layers come from several threads.
#[derive(Clone, Debug)]
pub enum PullEvent {
    /// The registry has the image.
    Found {
        /// The repository at the registry: `library/debian`.
        repository: String,
        /// The tag or digest.
        which: String,
    },
    /// How far a layer is.
    Layer {
        /// Its blob.
        digest: Digest,
        /// The blob's length.
        size: u64,
        /// How far.
        state: LayerProgress,
    },
    /// The image is here.
    Done {
        /// What the name stands for at the registry: an index or a manifest.
        digest: Digest,
        /// Whether it was here all the same.
        up_to_date: bool,
    },
}

/// Told what happens, from several threads.
pub type Events<'a> = dyn Fn(PullEvent) + Send + Sync + 'a;

impl Inner {
    /// Pulls an image. Blocks.
    ///
    /// # Errors
    /// If the registry does not give it, it is not what its digest says, or the disk is full. Nothing of it is visible
    /// then.
    pub(crate) fn pull_blocking(
        &self,
        request: &PullRequest,
        cancel: &Cancel,
        events: &Events<'_>,
    ) -> Result<Image> {
        let name = &request.name;
        let pull = || format!("cannot pull {name}");
        let wanted = request.platform.clone().unwrap_or_else(Platform::host);
        let _turn = self.access.pulls.take(format!("{} {wanted}", name.canonical()));
        let repository = self
            .access
            .registries()
            .repository(name, &request.credentials, cancel)
            .map_err(failed(name, pull()))?;
        let which = Which::of(name);
        if let Some(done) = self.up_to_date(name, &wanted, &repository, &which) {
            let (image, digest) = done;
            events(PullEvent::Found { repository: name.repository().to_owned(), which: which.to_string() });
            events(PullEvent::Done { digest, up_to_date: true });
            return Ok(image);
        }
        let found = repository.find(&which, &wanted).map_err(failed(name, pull()))?;
        if let Some(wanted) = &request.platform {
            check_platform(name, &found.config, wanted)?;
        }
        events(PullEvent::Found { repository: name.repository().to_owned(), which: which.to_string() });
        let before = self.images.store.named(name).ok().flatten().map(|i| i.id);
        let received = self.images.store.receive(
            &found.manifest.bytes,
            &found.config,
            std::slice::from_ref(name),
            &Blobs(repository),
            &Told(events),
        );
        let image = received.map_err(|e| receive_failed(name, cancel, e))?;
        let root = found.root.digest;
        if name.digest().is_none() {
            let noted = self.images.store.set_repo_digest(name, &root);
            noted
                .map_err(|e| EngineError::layer(e.class(), "cannot remember where the image came from")(e))?;
        }
        self.transfer_event("pull", &image, name);
        events(PullEvent::Done { digest: root, up_to_date: before.as_ref() == Some(&image.id) });
        Ok(image)
    }
}

impl Inner {
    /// The image that is here under this name already, if the registry still means the same by it. Asked by HEAD, which
    /// registries that count pulls do not count; whatever speaks against it is left to the pull itself to find.
    fn up_to_date(
        &self,
        name: &ImageRef,
        wanted: &Platform,
        repository: &Repository,
        which: &Which,
    ) -> Option<(Image, Digest)> {
        let image = self.images.store.named(name).ok().flatten()?;
        let has = image.config.platform();
        sampan_registry::fits(&has, wanted)?;
        if image.digests.iter().all(|d| !d.same_repository(name)) {
            return None;
        }
        let digest = match which {
            Which::Digest(digest) => digest.clone(),
            Which::Tag(_) => repository.head(which).ok()??.digest,
        };
        image.digests.contains(&name.with_digest(&digest)).then_some((image, digest))
    }
}

fn receive_failed(name: &ImageRef, cancel: &Cancel, error: ReceiveError) -> EngineError {
    let class = if cancel.is_set() { Class::Unavailable } else { error.class() };
    EngineError::layer(class, format!("cannot pull {name}"))(error)
}

/// An image that is all there is under its name may still not be the one that was asked for.
fn check_platform(name: &ImageRef, config: &[u8], wanted: &Platform) -> Result<()> {
    // One that can't be read is refused by name when it is taken in.
    let Ok(config) = serde_json::from_slice::<ImageConfig>(config) else { return Ok(()) };
    let has = config.platform();
    if sampan_registry::fits(&has, wanted).is_some() || has.fits(wanted) {
        return Ok(());
    }
    Err(EngineError::Platform { name: name.familiar(), wanted: wanted.to_string(), has: has.to_string() })
}

struct Blobs(Repository);

impl BlobSource for Blobs {
    fn open(&self, blob: &Descriptor) -> io::Result<Box<dyn Read + Send>> {
        let reader = self.0.blob(blob).map_err(io::Error::other)?;
        Ok(Box::new(reader))
    }
}

struct Told<'a>(&'a Events<'a>);

impl Progress for Told<'_> {
    fn layer(&self, layer: &Descriptor, state: LayerProgress) {
        (self.0)(PullEvent::Layer { digest: layer.digest.clone(), size: layer.size, state });
    }
}

impl Engine {
    /// Pulls an image; tells `events` what happens, on threads that may block. Setting `cancel` ends it.
    ///
    /// # Errors
    /// If the registry does not give it, it is not what its digest says, or the disk is full.
    pub async fn pull(
        &self,
        request: PullRequest,
        cancel: Cancel,
        events: Box<dyn Fn(PullEvent) + Send + Sync>,
    ) -> Result<Image> {
        let inner = Arc::clone(&self.inner);
        long_blocking(move || inner.pull_blocking(&request, &cancel, &*events)).await
    }
}
