//! Images: a configuration and its layers under zero or more names.
//!
//! An image is known by the digest of its configuration ([`ImageId`]). A name is a tag that can move to another image;
//! the old one then has no name, but stays until it is removed.

use std::path::PathBuf;

use sampan_base::{ChainId, Class, DiffId, Digest, FileError, ImageRef, Timestamp};
use sampan_oci::image::{Descriptor, ImageConfig, Manifest, media};

use crate::limits::{MAX_JSON_BYTES, MAX_LAYERS};
use crate::metadata::{CHAINS, ChainRecord, DIGESTS, IMAGES, ImageRecord, MetadataError, NAMES, Table};
use crate::store::{Layer, Lease, Store};

/// Names an image for good: the digest of its configuration.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct ImageId(pub Digest);

impl ImageId {
    /// The whole text, `sha256:…`.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The first 12 hex digits, as people are shown them.
    pub fn short(&self) -> &str {
        self.0.short()
    }
}

impl std::fmt::Display for ImageId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// An image in the store.
#[derive(Clone, PartialEq, Debug)]
pub struct Image {
    /// Its id.
    pub id: ImageId,
    /// The digest of its manifest.
    pub manifest: Digest,
    /// Its names, in order.
    pub names: Vec<ImageRef>,
    /// By what it was pulled or pushed, `repository@digest`, in order.
    pub digests: Vec<ImageRef>,
    /// Its configuration.
    pub config: ImageConfig,
    /// Its layers, the base first.
    pub layers: Vec<Layer>,
    /// Bytes of the files of all its layers.
    pub size: u64,
    /// When it was made, as its configuration says.
    pub created: Option<Timestamp>,
    /// When it came into this store.
    pub added: Timestamp,
}

impl Image {
    /// Names its whole stack of layers; `None` if it has none.
    pub fn chain_id(&self) -> Option<&ChainId> {
        self.layers.last().map(|l| &l.chain_id)
    }
}

/// Why a text leads to no image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// There is none of that name or id.
    #[error("no such image: `{text}`")]
    NotFound {
        /// The text.
        text: String,
    },
    /// It is no name and no id.
    #[error(transparent)]
    Invalid(#[from] sampan_base::reference::InvalidImageRef),
    /// Several ids start so.
    #[error("`{text}` is the start of more than one image id")]
    Ambiguous {
        /// The text.
        text: String,
    },
    /// The image is there, but damaged.
    #[error(transparent)]
    Image(#[from] ImageError),
}

impl ResolveError {
    /// The class to report.
    pub fn class(&self) -> Class {
        match self {
            ResolveError::NotFound { .. } => Class::NotFound,
            ResolveError::Invalid(_) | ResolveError::Ambiguous { .. } => Class::Invalid,
            ResolveError::Image(e) => e.class(),
        }
    }
}

/// Why an image can't be read, made, named or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// There is none of that id.
    #[error("no such image: `{id}`")]
    NotFound {
        /// The id.
        id: String,
    },
    /// Its configuration or manifest is not one.
    #[error("the {what} `{digest}` is damaged")]
    Damaged {
        /// Which document.
        what: &'static str,
        /// Its digest.
        digest: Digest,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// Its documents contradict each other, or a layer is not known.
    #[error("the layer `{}` of image `{id}` is not in the store", diff_id.0)]
    MissingLayer {
        /// The image.
        id: ImageId,
        /// The layer.
        diff_id: DiffId,
    },
    /// More layers than can be mounted.
    #[error("an image can't have {layers} layers; the limit is {MAX_LAYERS}")]
    TooManyLayers {
        /// How many it would have.
        layers: usize,
    },
    /// A name with a digest can't be given by hand.
    #[error("cannot tag an image as `{name}`: a name with a digest is given by its content")]
    DigestInName {
        /// The name.
        name: ImageRef,
    },
    /// A file of the store.
    #[error(transparent)]
    File(#[from] FileError),
    /// The database.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
}

impl ImageError {
    /// The class to report.
    pub fn class(&self) -> Class {
        match self {
            ImageError::NotFound { .. } => Class::NotFound,
            ImageError::Damaged { .. } | ImageError::MissingLayer { .. } => Class::Internal,
            ImageError::TooManyLayers { .. } | ImageError::DigestInName { .. } => Class::Invalid,
            ImageError::File(e) => match e.class() {
                Class::NotFound => Class::Internal,
                class => class,
            },
            ImageError::Metadata(e) => e.class(),
        }
    }
}

/// The shortest start of an id that is taken for one.
const MIN_ID_PREFIX: usize = 2;

impl Store {
    /// The image that `text` means: a name (`debian:bookworm`), an id, or the start of one that fits no other.
    /// A name wins over an id.
    ///
    /// # Errors
    /// If there is no such image or more than one.
    pub fn resolve(&self, text: &str) -> Result<Image, ResolveError> {
        let not_found = || ResolveError::NotFound { text: text.to_owned() };
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        let may_be_id = (MIN_ID_PREFIX..=64).contains(&hex.len())
            && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !text.starts_with("sha256:") {
            match text.parse::<ImageRef>() {
                Ok(name) => {
                    if let Some(image) = self.named(&name)? {
                        return Ok(image);
                    }
                }
                // Docker takes 64 hex digits for an id, never for a name.
                Err(e) if !may_be_id => return Err(e.into()),
                Err(_) => {}
            }
        }
        if !may_be_id {
            return Err(not_found());
        }
        let images = self.metadata().all::<ImageRecord>(IMAGES).map_err(ImageError::from)?;
        let mut fitting = images.into_iter().filter(|(id, _)| id["sha256:".len()..].starts_with(hex));
        match (fitting.next(), fitting.next()) {
            (Some((id, record)), None) => Ok(self.image_of(&id, record)?),
            (Some(_), Some(_)) => Err(ResolveError::Ambiguous { text: text.to_owned() }),
            (None, _) => Err(not_found()),
        }
    }

    /// The image that has exactly this name, if one has. A name with a digest means the image of that manifest.
    ///
    /// # Errors
    /// If the image is damaged.
    pub fn named(&self, name: &ImageRef) -> Result<Option<Image>, ImageError> {
        if let Some(id) = self.metadata().get::<ImageId>(NAMES, &name.canonical())? {
            return self.image(&id).map(Some);
        }
        let Some(digest) = name.digest() else { return Ok(None) };
        if let Some(id) = self.metadata().get::<ImageId>(DIGESTS, &name.with_digest(digest).canonical())? {
            return self.image(&id).map(Some);
        }
        let images = self.metadata().all::<ImageRecord>(IMAGES)?;
        let found = images.into_iter().find(|(id, r)| r.manifest == *digest || id == digest.as_str());
        found.map(|(id, record)| self.image_of(&id, record)).transpose()
    }

    /// The image of that id.
    ///
    /// # Errors
    /// If there is none, or it is damaged.
    pub fn image(&self, id: &ImageId) -> Result<Image, ImageError> {
        let record = self.metadata().get(IMAGES, id.as_str())?;
        self.image_of(id.as_str(), record.ok_or_else(|| ImageError::NotFound { id: id.to_string() })?)
    }

    /// All images, the newest first; damaged ones are left out.
    ///
    /// # Errors
    /// If the database can't be read.
    pub fn list(&self) -> Result<Vec<Image>, ImageError> {
        let records = self.metadata().all::<ImageRecord>(IMAGES)?;
        let mut images: Vec<Image> =
            records.into_iter().filter_map(|(id, record)| self.image_of(&id, record).ok()).collect();
        images.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.id.cmp(&b.id)));
        Ok(images)
    }

    /// Makes an image of `layers`, the base first, and gives it `names`; its configuration gets the layers' diff ids.
    /// When this returns, the image is on disk. Doing it again with the same values changes nothing.
    ///
    /// # Errors
    /// If it has too many layers or the disk is full; nothing is left then.
    pub fn create_image(
        &self,
        mut config: ImageConfig,
        layers: &[Layer],
        names: &[ImageRef],
    ) -> Result<Image, ImageError> {
        if layers.len() > MAX_LAYERS {
            return Err(ImageError::TooManyLayers { layers: layers.len() });
        }
        if let Some(name) = names.iter().find(|n| n.digest().is_some()) {
            return Err(ImageError::DigestInName { name: name.clone() });
        }
        config.rootfs.diff_ids = layers.iter().map(|l| l.diff_id.clone()).collect();
        let damaged = |what, source| ImageError::Damaged { what, digest: Digest::of(b""), source };
        let config_bytes = serde_json::to_vec(&config).map_err(|e| damaged("configuration", e))?;
        let id = ImageId(Digest::of(&config_bytes));
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(media::MANIFEST.to_owned()),
            config: Descriptor::new(media::CONFIG, id.0.clone(), config_bytes.len() as u64),
            layers: layers
                .iter()
                .map(|l| Descriptor::new(&l.media_type, l.blob.clone(), l.blob_size))
                .collect(),
            annotations: std::collections::BTreeMap::new(),
            other: serde_json::Map::new(),
        };
        let manifest_bytes = serde_json::to_vec(&manifest).map_err(|e| damaged("manifest", e))?;
        self.put_image(&config_bytes, &manifest_bytes, layers, names)
    }

    /// As [`Store::create_image`], with the documents' own bytes. A name with a digest is one of [`Image::digests`].
    pub(crate) fn put_image(
        &self,
        config: &[u8],
        manifest: &[u8],
        layers: &[Layer],
        names: &[ImageRef],
    ) -> Result<Image, ImageError> {
        let id = ImageId(Digest::of(config));
        let lease = self.lease();
        let known = self.metadata().get::<ImageRecord>(IMAGES, id.as_str())?;
        let mut unnamed = Vec::new();
        for (table, key) in names.iter().map(key_of_name) {
            if self.metadata().get::<ImageId>(table, &key)?.as_ref() != Some(&id) {
                unnamed.push((table, key));
            }
        }
        let record = match known {
            Some(record) if unnamed.is_empty() => return self.image_of(id.as_str(), record),
            Some(record) => record,
            None => {
                let mut held = self.held();
                self.metadata().pending().blobs = true;
                let manifest = self.content().write(manifest)?;
                self.content().write(config)?;
                lease.hold_blob_in(&mut held, &manifest);
                lease.hold_blob_in(&mut held, &id.0);
                ImageRecord { manifest, added: Timestamp::now() }
            }
        };
        // Chains of layers that were never unpacked become known with the image.
        let mut chains: Vec<(ChainId, ChainRecord)> = Vec::new();
        let mut parent: Option<ChainId> = None;
        for layer in layers {
            let chain = ChainId::extend(parent.as_ref(), &layer.diff_id);
            if self.metadata().chain(&chain)?.is_none() {
                let record = ChainRecord { diff_id: layer.diff_id.clone(), parent, directory: None };
                chains.push((chain.clone(), record));
            }
            parent = Some(chain);
        }
        self.metadata().flush(|t| {
            for (chain, record) in &chains {
                self.metadata().put(t, CHAINS, chain.0.as_str(), record)?;
            }
            self.metadata().put(t, IMAGES, id.as_str(), &record)?;
            for (table, key) in &unnamed {
                self.metadata().put(t, *table, key, &id)?;
            }
            Ok(())
        })?;
        self.write_index();
        self.image(&id)
    }

    /// Gives the image another name; an image that has it loses it.
    ///
    /// # Errors
    /// If there is no such image, or the name has a digest.
    pub fn tag(&self, id: &ImageId, name: &ImageRef) -> Result<(), ImageError> {
        if name.digest().is_some() {
            return Err(ImageError::DigestInName { name: name.clone() });
        }
        self.metadata()
            .get::<ImageRecord>(IMAGES, id.as_str())?
            .ok_or_else(|| ImageError::NotFound { id: id.to_string() })?;
        self.metadata().write(|t| self.metadata().put(t, NAMES, &name.canonical(), id))?;
        self.write_index();
        Ok(())
    }

    /// Remembers that what is named so was pulled from, or pushed to, its repository as the manifest or index
    /// `digest`; from then on `repository@digest` means it, too.
    ///
    /// # Errors
    /// If nothing has that name, or the database can't be written.
    pub fn set_repo_digest(&self, name: &ImageRef, digest: &Digest) -> Result<(), ImageError> {
        let image = self.named(name)?.ok_or_else(|| ImageError::NotFound { id: name.to_string() })?;
        let key = name.with_digest(digest).canonical();
        if self.metadata().get::<ImageId>(DIGESTS, &key)?.as_ref() != Some(&image.id) {
            self.metadata().write(|t| self.metadata().put(t, DIGESTS, &key, &image.id))?;
        }
        Ok(())
    }

    /// Takes a name from its image, which stays; answers the image's id, or `None` if nothing had that name. With the
    /// last tag of a repository the image's digests of that repository go, too.
    ///
    /// # Errors
    /// If the database can't be written.
    pub fn untag(&self, name: &ImageRef) -> Result<Option<ImageId>, ImageError> {
        let (table, key) = key_of_name(name);
        let id = self.metadata().get::<ImageId>(table, &key)?;
        let Some(id) = id else { return Ok(None) };
        let others = self.names_of(NAMES, &id)?;
        let last = !others.iter().any(|n| n != name && n.same_repository(name));
        let mut digests = self.names_of(DIGESTS, &id)?;
        digests.retain(|d| last && name.digest().is_none() && d.same_repository(name));
        self.metadata().write(|t| {
            self.metadata().delete(t, table, &key)?;
            digests.iter().try_for_each(|d| self.metadata().delete(t, DIGESTS, &d.canonical()))
        })?;
        self.write_index();
        Ok(Some(id))
    }

    /// Removes the image with all its names, and then what nothing else uses of its layers and documents.
    ///
    /// # Errors
    /// If there is no such image or the database can't be written.
    pub fn remove(&self, id: &ImageId) -> Result<(), ImageError> {
        self.metadata()
            .get::<ImageRecord>(IMAGES, id.as_str())?
            .ok_or_else(|| ImageError::NotFound { id: id.to_string() })?;
        let mut names = self.names_of(NAMES, id)?;
        names.extend(self.names_of(DIGESTS, id)?);
        self.metadata().write(|t| {
            for (table, key) in names.iter().map(key_of_name) {
                self.metadata().delete(t, table, &key)?;
            }
            self.metadata().delete(t, IMAGES, id.as_str())
        })?;
        self.write_index();
        self.gc()?;
        Ok(())
    }

    fn names_of(&self, table: Table, id: &ImageId) -> Result<Vec<ImageRef>, ImageError> {
        let names = self.metadata().all::<ImageId>(table)?;
        Ok(names.into_iter().filter(|(_, i)| i == id).filter_map(|(name, _)| name.parse().ok()).collect())
    }

    fn image_of(&self, id: &str, record: ImageRecord) -> Result<Image, ImageError> {
        let id = ImageId(id.parse().map_err(|_| ImageError::NotFound { id: id.to_owned() })?);
        let config: ImageConfig = self.document("configuration", &id.0)?;
        let manifest: Manifest = self.document("manifest", &record.manifest)?;
        let mut layers: Vec<Layer> = Vec::new();
        for (diff_id, descriptor) in config.rootfs.diff_ids.iter().zip(&manifest.layers) {
            let missing = || ImageError::MissingLayer { id: id.clone(), diff_id: diff_id.clone() };
            let diff = self.metadata().diff(diff_id)?.ok_or_else(missing)?;
            layers.push(Layer {
                diff_id: diff_id.clone(),
                chain_id: ChainId::extend(layers.last().map(|l| &l.chain_id), diff_id),
                blob: descriptor.digest.clone(),
                blob_size: descriptor.size,
                media_type: descriptor.media_type.clone(),
                size: diff.size,
            });
        }
        if let Some(diff_id) = config.rootfs.diff_ids.get(layers.len()) {
            return Err(ImageError::MissingLayer { id, diff_id: diff_id.clone() });
        }
        Ok(Image {
            names: self.names_of(NAMES, &id)?,
            digests: self.names_of(DIGESTS, &id)?,
            manifest: record.manifest,
            size: layers.iter().map(|l| l.size).sum(),
            created: config.created,
            added: record.added,
            layers,
            config,
            id,
        })
    }

    pub(crate) fn document<T: serde::de::DeserializeOwned>(
        &self,
        what: &'static str,
        digest: &Digest,
    ) -> Result<T, ImageError> {
        let bytes = self.content().read(digest, MAX_JSON_BYTES)?;
        serde_json::from_slice(&bytes).map_err(|source| ImageError::Damaged {
            what,
            digest: digest.clone(),
            source,
        })
    }

    /// The bytes of the image's configuration: what `docker image inspect --format '{{.Id}}'` is the digest of.
    ///
    /// # Errors
    /// If there is no such image.
    pub fn config_bytes(&self, id: &ImageId) -> Result<Vec<u8>, ImageError> {
        Ok(self.content().read(&id.0, MAX_JSON_BYTES)?)
    }

    /// Where the blob lies; it is there as long as an image or a lease holds it.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.content().path(digest)
    }

    /// Keeps the image's documents and layers as long as `lease` lives, whoever removes the image meanwhile.
    pub fn hold(&self, image: &Image, lease: &Lease) {
        let mut held = self.held();
        lease.hold_blob_in(&mut held, &image.id.0);
        lease.hold_blob_in(&mut held, &image.manifest);
        for layer in &image.layers {
            lease.hold_blob_in(&mut held, &layer.blob);
            lease.hold_chain_in(&mut held, &layer.chain_id);
        }
    }
}

/// Where a name is recorded: tags and digests have a table each.
fn key_of_name(name: &ImageRef) -> (Table, String) {
    match name.digest() {
        Some(digest) => (DIGESTS, name.with_digest(digest).canonical()),
        None => (NAMES, name.canonical()),
    }
}
