//! Images in the engine's words: the image store, with this engine's errors, events and its containers in view.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sampan_base::{Class, ImageRef};
use sampan_image::{IdMapping, InitLayer, Remains, Store};
use sampan_oci::image::ImageConfig;

pub use sampan_image::{
    Change, ChangeKind, Image, ImageError, ImageId, LayerProgress, ResolveError, SnapshotError,
};
/// What an image says about the process.
pub use sampan_oci::image::ContainerConfig as ImageProcess;
/// How an image says to find out whether a container is well.
pub use sampan_oci::image::Healthcheck as ImageHealth;
/// The machine that an image is for.
pub use sampan_oci::image::{InvalidPlatform, Platform};

use crate::error::{EngineError, Result};
use crate::events::EventKind;
use crate::{Engine, Inner, blocking, long_blocking};

/// The image store with the engine's errors. Calls block.
#[derive(Clone, Debug)]
pub(crate) struct Images {
    pub(crate) store: Store,
    /// Files of snapshots that could not be removed yet, by the snapshots' keys.
    unremoved: Arc<Mutex<BTreeMap<String, Remains>>>,
}

pub(crate) fn snapshot_failed(doing: impl Into<String>) -> impl FnOnce(SnapshotError) -> EngineError {
    let doing = doing.into();
    move |error| EngineError::layer(error.class(), doing)(error)
}

pub(crate) fn image_failed(doing: impl Into<String>) -> impl FnOnce(ImageError) -> EngineError {
    let doing = doing.into();
    move |error| EngineError::layer(error.class(), doing)(error)
}

impl Images {
    pub(crate) fn open(root: &Path) -> Result<Images> {
        let failed = |error: sampan_image::OpenError| {
            EngineError::layer(error.class(), format!("cannot open the image store in `{}`", root.display()))(
                error,
            )
        };
        Ok(Images { store: Store::open(root).map_err(failed)?, unremoved: Arc::default() })
    }

    /// The image that a person means by `text`.
    pub(crate) fn resolve(&self, text: &str) -> Result<Image> {
        self.store.resolve(text).map_err(|error| match error {
            ResolveError::NotFound { .. } => {
                let name = text.parse::<ImageRef>().map_or_else(|_| text.to_owned(), |name| name.familiar());
                EngineError::NoSuchImage { name }
            }
            error => EngineError::layer(error.class(), "invalid reference format")(error),
        })
    }

    /// The image of a stored id.
    pub(crate) fn resolve_id(&self, id: &str) -> Result<Image> {
        self.resolve(id)
    }

    pub(crate) fn prepare_snapshot(
        &self,
        key: &str,
        image: &Image,
        working_dir: &str,
        short_lived: bool,
    ) -> Result<()> {
        let mut init = InitLayer::docker();
        if !working_dir.trim_matches('/').is_empty() {
            init = init.with_directory(working_dir);
        }
        let prepared = match short_lived {
            true => self.store.prepare_short_lived(key, image.chain_id(), &init),
            false => self.store.prepare(key, image.chain_id(), &init),
        };
        prepared.map(drop).map_err(snapshot_failed("cannot prepare the container's file system"))
    }

    /// A snapshot that only shows an image.
    pub(crate) fn prepare_view(&self, key: &str, image: &Image) -> Result<()> {
        let prepared = self.store.prepare(key, image.chain_id(), &InitLayer::empty());
        prepared.map(drop).map_err(snapshot_failed("cannot prepare the image's file system"))
    }

    pub(crate) fn mount_snapshot(&self, key: &str, at: &Path) -> Result<()> {
        self.store.mount(key, at).map_err(snapshot_failed("cannot mount the container's file system"))
    }

    /// It is no error if nothing is mounted there.
    pub(crate) fn unmount_snapshot(&self, at: &Path) -> Result<()> {
        self.store.unmount(at).map_err(snapshot_failed("cannot unmount the container's file system"))
    }

    /// As [`Images::mount_snapshot`], for the user namespace `owner` with the mapping `mapping`.
    pub(crate) fn mount_mapped_snapshot(
        &self,
        key: &str,
        owner: BorrowedFd<'_>,
        mapping: &IdMapping,
        at: &Path,
    ) -> Result<()> {
        let mounted = self.store.mount_mapped(key, owner, mapping, at);
        mounted.map_err(snapshot_failed("cannot mount the container's file system"))
    }

    /// Forgets a snapshot, so that it holds no layer any more; its files go with what is answered. None if there is none.
    pub(crate) fn forget_snapshot(&self, key: &str) -> Result<Option<Remains>> {
        match self.store.forget_snapshot(key) {
            Err(error) if error.class() == Class::NotFound => Ok(None),
            other => other.map(Some).map_err(snapshot_failed("cannot remove the container's file system")),
        }
    }

    /// Forgets a snapshot at once and leaves its files to a thread. It is no error if there is none.
    pub(crate) fn remove_snapshot(&self, key: &str) -> Result<()> {
        let Some(remains) = self.forget_snapshot(key)? else { return Ok(()) };
        let (images, key) = (self.clone(), key.to_owned());
        // Nobody waits: if the daemon ends first, the store removes them when it opens.
        tokio::task::spawn_blocking(move || images.remove_files(key, remains));
        Ok(())
    }

    /// Removes the files of a snapshot that is forgotten. What can't be removed is kept for [`Images::remove_again`].
    pub(crate) fn remove_files(&self, key: String, remains: Remains) {
        if let Err(error) = remains.remove() {
            tracing::warn!(
                snapshot = key,
                error = sampan_base::chain(&error),
                "cannot remove a snapshot's files"
            );
            self.unremoved().insert(key, remains);
        }
    }

    /// Tries again to remove what could not be removed.
    pub(crate) fn remove_again(&self) {
        let unremoved = std::mem::take(&mut *self.unremoved());
        unremoved.into_iter().for_each(|(key, remains)| self.remove_files(key, remains));
    }

    /// Whether files of snapshots are left that could not be removed.
    pub(crate) fn has_unremoved(&self) -> bool {
        !self.unremoved().is_empty()
    }

    fn unremoved(&self) -> MutexGuard<'_, BTreeMap<String, Remains>> {
        self.unremoved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn snapshot_keys(&self) -> Result<Vec<String>> {
        let all = self.store.snapshots().map_err(snapshot_failed("cannot list the snapshots"))?;
        Ok(all.into_iter().map(|s| s.key).collect())
    }

    /// Fills a new volume with what the image has where it is mounted.
    pub(crate) fn copy_up(
        &self,
        image: &Image,
        target: &str,
        mapping: Option<&IdMapping>,
        into: &Path,
    ) -> Result<()> {
        let Some(chain) = image.chain_id() else { return Ok(()) };
        let copied = self.store.copy_directory(chain, Path::new(target), mapping, into);
        copied.map_err(snapshot_failed("cannot fill the volume from the image"))
    }
}

/// What a name's removal did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removed {
    /// A name is gone.
    Untagged(ImageRef),
    /// An image or layer is gone.
    Deleted(String),
}

/// How an import or a commit names and describes its image.
#[derive(Clone, Debug, Default)]
pub struct NewImage {
    /// Of a commit: what the image is to say where the container's own configuration does not count.
    pub config: Option<ImageProcess>,
    /// Its name.
    pub name: Option<ImageRef>,
    /// A message for its history.
    pub message: String,
    /// Who made it.
    pub author: String,
    /// Dockerfile instructions that change its configuration: `CMD ["x"]`, `ENV a=b`.
    pub changes: Vec<String>,
}

impl Inner {
    /// Tells of an image by its id, with its labels; where a name was given to it, by that name.
    pub(crate) fn image_event(&self, action: &str, image: &Image, name: Option<&ImageRef>) {
        let mut attributes = image.config.config.labels.clone();
        let name = name.map_or_else(|| image.id.to_string(), ImageRef::familiar);
        attributes.insert("name".to_owned(), name);
        self.events.publish(EventKind::Image, action, image.id.as_str(), attributes);
    }

    /// Tells of a pull or push: Docker names these by the name alone.
    pub(crate) fn transfer_event(&self, action: &str, image: &Image, name: &ImageRef) {
        let mut attributes = image.config.config.labels.clone();
        attributes.insert("name".to_owned(), name.familiar_repository());
        self.events.publish(EventKind::Image, action, &name.familiar(), attributes);
    }

    /// Tells that what nobody used is gone.
    pub(crate) fn prune_event(&self, kind: EventKind, bytes: u64) {
        let attributes = BTreeMap::from([("reclaimed".to_owned(), bytes.to_string())]);
        self.events.publish(kind, "prune", "", attributes);
    }
}

impl Engine {
    /// All images, the newest first.
    ///
    /// # Errors
    /// If the store can't be read.
    pub async fn images(&self) -> Result<Vec<Image>> {
        let images = self.inner.images.clone();
        blocking(move || images.store.list().map_err(image_failed("cannot list the images"))).await
    }

    /// The image of this name, id or unique beginning of an id.
    ///
    /// # Errors
    /// If there is none, or more than one.
    pub async fn image(&self, text: &str) -> Result<Image> {
        let (images, text) = (self.inner.images.clone(), text.to_owned());
        blocking(move || images.resolve(&text)).await
    }

    /// The image that this one is one step more than, if it is here. The store keeps no parents: what they say follows
    /// from the histories.
    ///
    /// # Errors
    /// If the store can't be read.
    pub async fn image_parent(&self, image: Image) -> Result<Option<ImageId>> {
        // Nothing is less than one step.
        if image.config.history.len() < 2 {
            return Ok(None);
        }
        let images = self.inner.images.clone();
        blocking(move || {
            let all = images.store.list().map_err(image_failed("cannot list the images"))?;
            Ok(all.into_iter().find(|other| is_parent(other, &image)).map(|other| other.id))
        })
        .await
    }

    /// Gives an image another name.
    ///
    /// # Errors
    /// If there is no such image or the name can't be one.
    pub async fn image_tag(&self, text: &str, name: ImageRef) -> Result<()> {
        let (inner, text) = (self.inner.clone(), text.to_owned());
        blocking(move || {
            let image = inner.images.resolve(&text)?;
            inner.images.store.tag(&image.id, &name).map_err(image_failed("cannot tag the image"))?;
            inner.image_event("tag", &image, Some(&name));
            Ok(())
        })
        .await
    }

    /// Removes a name of an image, and with its last name the image. An image that a container uses stays: by its last
    /// name it is refused unless `force` takes the name of a stopped container's image away.
    ///
    /// # Errors
    /// If there is no such image, or a container uses it.
    pub async fn image_remove(&self, text: &str, force: bool) -> Result<Vec<Removed>> {
        let users: Vec<(String, String, bool)> = self
            .containers()
            .into_iter()
            .map(|v| (v.record.id, v.record.image_id, v.record.phase.is_alive()))
            .collect();
        let (inner, text) = (self.inner.clone(), text.to_owned());
        blocking(move || remove_image(&inner, &text, force, &users)).await
    }

    /// Takes in a root file system as an image of one layer.
    ///
    /// # Errors
    /// If the tar is broken or hostile, or the disk is full; nothing is left then.
    pub async fn import(&self, mut tar: Box<dyn Read + Send>, new: NewImage) -> Result<Image> {
        let inner = self.inner.clone();
        long_blocking(move || {
            let mut changed = ImageConfig::for_host();
            crate::build::apply_changes(&mut changed, &new.changes)?;
            let options = sampan_image::ImportOptions {
                names: new.name.iter().cloned().collect(),
                message: new.message,
                config: changed.config,
                created: None,
            };
            let imported = inner.images.store.import_rootfs(&mut tar, &options);
            let image =
                imported.map_err(|e| EngineError::layer(e.class(), "cannot import the archive")(e))?;
            if let Some(name) = &new.name {
                inner.image_event("tag", &image, Some(name));
            }
            inner.image_event("import", &image, None);
            Ok(image)
        })
        .await
    }

    /// What a container changed of its image.
    ///
    /// # Errors
    /// If there is no such container or its file system can't be read.
    pub async fn changes(&self, text: &str) -> Result<Vec<Change>> {
        let id = self.inner.find_container(text)?.id.clone();
        let images = self.inner.images.clone();
        blocking(move || images.store.changes(&id).map_err(snapshot_failed("cannot compare the file system")))
            .await
    }

    /// Removes the images that no container uses and that are `wanted` away. Answers what went and the bytes freed.
    ///
    /// # Errors
    /// If the store can't be read or written.
    pub async fn images_prune(&self, wanted: impl Fn(&Image) -> bool + Send) -> Result<(Vec<Removed>, u64)> {
        let used: Vec<String> = self.containers().into_iter().map(|v| v.record.image_id).collect();
        let before = self.images().await?;
        let bytes = layer_bytes(&before);
        let mut removed = Vec::new();
        for image in before {
            if !used.contains(&image.id.to_string()) && wanted(&image) {
                removed.extend(self.image_remove(&image.id.to_string(), true).await?);
            }
        }
        // Layers that others have, too, are still there.
        let freed = bytes.saturating_sub(layer_bytes(&self.images().await?));
        self.inner.prune_event(EventKind::Image, freed);
        Ok((removed, freed))
    }

    /// Writes a container's whole file system as a tar.
    ///
    /// # Errors
    /// If there is no such container or it can't be read.
    pub async fn export(&self, text: &str, mut output: Box<dyn std::io::Write + Send>) -> Result<()> {
        let view = self.container(text)?;
        let (inner, id) = (self.inner.clone(), view.record.id);
        long_blocking(move || {
            let at = inner
                .config
                .state
                .join("exports")
                .join(sampan_base::id::random_id().map_err(EngineError::io("cannot make a name"))?);
            sampan_base::files::create_directories(&at, 0o700).map_err(EngineError::file)?;
            let mounted = inner.config.bundle(&id).join("rootfs");
            // A running container's file system is mounted already, and an overlay must not be mounted twice.
            let alive = view.live.is_some();
            let mapping = view.record.mapping.as_ref();
            let mut export = |from: &Path| {
                let exported = inner.images.store.export(from, mapping, &mut output);
                exported.map_err(snapshot_failed("cannot export the container's file system"))
            };
            let result = if alive {
                export(&mounted)
            } else {
                crate::userns::mount(&inner, &id, mapping, &at).and_then(|()| export(&at))
            };
            if !alive {
                inner.images.unmount_snapshot(&at)?;
            }
            sampan_base::files::remove_if_exists(&at).map_err(EngineError::file)?;
            result
        })
        .await
    }
}

/// Whether `image` is `other` and one step more.
fn is_parent(other: &Image, image: &Image) -> bool {
    let (before, after) = (&other.config.history, &image.config.history);
    let layers_below = |below: &Image| {
        below.layers.len() <= image.layers.len()
            && below.layers.iter().zip(&image.layers).all(|(a, b)| a.diff_id == b.diff_id)
    };
    !before.is_empty()
        && before.len() + 1 == after.len()
        && before.iter().zip(after).all(|(a, b)| a == b)
        && layers_below(other)
}

/// Bytes of the layers of some images, each layer counted once.
pub fn layer_bytes(images: &[Image]) -> u64 {
    let layers: BTreeMap<_, _> =
        images.iter().flat_map(|i| &i.layers).map(|l| (&l.chain_id, l.size)).collect();
    layers.values().sum()
}

fn remove_image(
    inner: &Inner,
    text: &str,
    force: bool,
    users: &[(String, String, bool)],
) -> Result<Vec<Removed>> {
    let image = inner.images.resolve(text)?;
    let id = image.id.to_string();
    let by_name = text.parse::<ImageRef>().ok().filter(|name| image.names.contains(name));
    let named = by_name.is_some();
    let using: Vec<_> = users.iter().filter(|(_, image_id, _)| *image_id == id).collect();
    let store = &inner.images.store;
    let mut removed = Vec::new();
    let last = image.names.len() <= 1;
    if let Some(name) = by_name.filter(|_| !last || (force && !using.is_empty())) {
        if last && let Some((user, _, true)) = using.iter().find(|(_, _, alive)| *alive) {
            return Err(in_use(&image, text, user, true, !force));
        }
        store.untag(&name).map_err(image_failed("cannot remove the name"))?;
        inner.image_event("untag", &image, None);
        return Ok(vec![Removed::Untagged(name)]);
    }
    if let Some((user, _, alive)) = using.iter().max_by_key(|(_, _, alive)| *alive) {
        return Err(in_use(&image, text, user, *alive, named && !force));
    }
    if image.names.len() > 1 && !force {
        return Err(EngineError::Conflict(format!(
            "conflict: unable to delete {} (must be forced) - image is referenced in multiple repositories",
            image.id.short()
        )));
    }
    let chains: Vec<String> = image.layers.iter().rev().map(|l| l.chain_id.0.to_string()).collect();
    store.remove(&image.id).map_err(image_failed("cannot remove the image"))?;
    for name in &image.names {
        inner.image_event("untag", &image, None);
        removed.push(Removed::Untagged(name.clone()));
    }
    // Its labels are gone with it.
    let attributes = BTreeMap::from([("name".to_owned(), id.clone())]);
    inner.events.publish(EventKind::Image, "delete", &id, attributes);
    removed.push(Removed::Deleted(id));
    let kept: Vec<String> = store
        .list()
        .map_err(image_failed("cannot list the images"))?
        .iter()
        .flat_map(|i| i.layers.iter().map(|l| l.chain_id.0.to_string()))
        .collect();
    removed.extend(chains.into_iter().filter(|c| !kept.contains(c)).map(Removed::Deleted));
    Ok(removed)
}

/// Docker's words for a refusal: by name it asks for force, by id it says what uses the image.
fn in_use(image: &Image, text: &str, user: &str, alive: bool, by_name: bool) -> EngineError {
    let (id, user) = (image.id.short(), &user[..12]);
    EngineError::Conflict(match (by_name, alive) {
        (true, _) => format!(
            "conflict: unable to remove repository reference \"{text}\" (must force) - container {user} is using its referenced image {id}"
        ),
        (false, true) => format!(
            "conflict: unable to delete {id} (cannot be forced) - image is being used by running container {user}"
        ),
        (false, false) => format!(
            "conflict: unable to delete {id} (must be forced) - image is being used by stopped container {user}"
        ),
    })
}

impl Engine {
    /// Takes in the images of an archive (`docker save`'s, or an OCI layout's): those for `platform`, or for this machine
    /// where there is a choice.
    ///
    /// # Errors
    /// If the archive is broken or the disk is full.
    pub async fn load(
        &self,
        mut tar: Box<dyn Read + Send>,
        platform: Option<Platform>,
    ) -> Result<Vec<Image>> {
        let inner = self.inner.clone();
        long_blocking(move || {
            let loaded = inner.images.store.load(&mut tar, platform.as_ref());
            let images = loaded.map_err(|e| EngineError::layer(e.class(), "cannot load the archive")(e))?;
            for image in &images {
                inner.image_event("load", image, None);
            }
            Ok(images)
        })
        .await
    }

    /// Writes images as one archive that both `docker load` and OCI tools read.
    ///
    /// # Errors
    /// If one is not there or the output fails.
    pub async fn save(
        &self,
        names: Vec<String>,
        platform: Option<Platform>,
        mut output: Box<dyn std::io::Write + Send>,
    ) -> Result<()> {
        let inner = self.inner.clone();
        long_blocking(move || {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let saved = inner.images.store.save(&names, platform.as_ref(), &mut output);
            saved.map_err(|e| EngineError::layer(e.class(), "cannot save the images")(e))?;
            for image in names.iter().filter_map(|name| inner.images.resolve(name).ok()) {
                inner.image_event("save", &image, None);
            }
            Ok(())
        })
        .await
    }

    /// Where a container's writable layer lies, in Docker's words for its parts.
    pub async fn snapshot_directories(&self, container_id: &str) -> BTreeMap<String, String> {
        let (inner, id) = (self.inner.clone(), container_id.to_owned());
        let merged = inner.config.bundle(&id).join("rootfs");
        let snapshot = blocking(move || inner.images.store.snapshot(&id)).await;
        let upper = snapshot.ok().map(|s| ("UpperDir".to_owned(), s.upper.display().to_string()));
        upper.into_iter().chain([("MergedDir".to_owned(), merged.display().to_string())]).collect()
    }

    /// Bytes of what a container wrote.
    ///
    /// # Errors
    /// If there is no such container or it can't be read.
    pub async fn written_bytes(&self, container_id: &str) -> Result<u64> {
        let (images, id) = (self.inner.images.clone(), container_id.to_owned());
        long_blocking(move || {
            images
                .store
                .snapshot_size(&id)
                .map_err(snapshot_failed("cannot size the container's file system"))
        })
        .await
    }
}
