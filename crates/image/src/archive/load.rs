//! `docker load`.
//!
//! An archive names its layers only after it has shown them, perhaps, so every file is first taken in as a blob
//! that nobody knows (it is gone if the load fails), and becomes a layer when a manifest asks for it.

use std::collections::HashMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use sampan_base::{Class, Digest, FileError, ImageRef};
use sampan_oci::image::{ArchivedImage, Descriptor, ImageConfig, Index, Manifest, Platform, media};

use super::{NAME_ANNOTATION, REF_ANNOTATION};
use crate::compression;
use crate::content::Ingest;
use crate::image::{Image, ImageError};
use crate::layer::apply::clean_path;
use crate::limits::{MAX_JSON_BYTES, MAX_LAYERS};
use crate::stack::{LayerError, Origin, Wanted};
use crate::store::{Layer, Lease, Store};
use crate::tar::{Kind, Reader, TarError};
use crate::unpack::UnpackError;

/// Why an archive can't be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The tar itself.
    #[error("cannot read the archive")]
    Archive {
        /// What is wrong with it.
        source: TarError,
    },
    /// It holds no images.
    #[error("the archive has neither a `manifest.json` nor an `index.json`: it holds no saved images")]
    NoManifest,
    /// It speaks of a file that it does not have.
    #[error("the archive has no file `{path}`")]
    MissingFile {
        /// The file.
        path: String,
    },
    /// A document in it is not one.
    #[error("the file `{path}` in the archive is damaged")]
    Document {
        /// The file.
        path: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// What it says of an image does not fit together.
    #[error("the file `{path}` in the archive is damaged: {what}")]
    Inconsistent {
        /// The file.
        path: String,
        /// What does not fit.
        what: String,
    },
    /// A layer.
    #[error("cannot load the layer `{path}`")]
    Layer {
        /// Its file.
        path: String,
        /// Why.
        source: UnpackError,
    },
    /// The image can't be made.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A file of the store.
    #[error(transparent)]
    File(#[from] FileError),
}

impl LoadError {
    /// The class to report.
    pub fn class(&self) -> Class {
        match self {
            LoadError::Archive { source } => source.class(),
            LoadError::Layer { source, .. } => source.class(),
            LoadError::Image(e) => e.class(),
            LoadError::File(e) => e.class(),
            _ => Class::Invalid,
        }
    }
}

/// The files of an archive, each as a blob that has no name yet.
struct Files<'a> {
    blobs: HashMap<PathBuf, Ingest<'a>>,
    /// Old archives say "the same layer as that one" by a link.
    links: HashMap<PathBuf, PathBuf>,
}

/// How many files an archive may have: three a layer in the oldest format, and some documents.
const MAX_FILES: usize = 10_000;
/// How deep indexes may point to indexes.
const MAX_INDEX_DEPTH: usize = 4;

/// `image` with only those of its names that are among `names`.
fn only(mut image: Image, names: &[ImageRef]) -> Image {
    image.names.retain(|name| names.contains(name));
    image
}

impl Store {
    /// Takes in all images of an archive, perhaps packed by gzip, zstd, xz or bzip2, with their names. Of an index of
    /// several platforms it takes the image for `platform`, or for this machine; if a platform is asked for, all
    /// images must be for it.
    ///
    /// Each image is told with the names that the archive gives it, whatever others it has.
    ///
    /// # Errors
    /// If the archive is damaged or holds no images, or the disk is full; images that were whole before that stay.
    pub fn load(&self, tar: &mut dyn Read, platform: Option<&Platform>) -> Result<Vec<Image>, LoadError> {
        let host = Platform::host();
        let wanted = platform.unwrap_or(&host);
        let lease = self.lease();
        let mut files = self.spool(tar)?;
        if files.find("manifest.json").is_some() {
            let archived: Vec<ArchivedImage> = files.document("manifest.json")?;
            let images = archived.iter().map(|image| self.load_archived(&mut files, image, platform, &lease));
            return images.collect();
        }
        if files.find("index.json").is_none() {
            return Err(LoadError::NoManifest);
        }
        let index: Index = files.document("index.json")?;
        let mut images = Vec::new();
        for descriptor in &index.manifests {
            let names = names_of(descriptor);
            let manifest = files.manifest_for(descriptor.clone(), wanted)?;
            images.push(only(self.load_manifest(&mut files, &manifest, &names, platform, &lease)?, &names));
        }
        Ok(images)
    }

    fn spool(&self, tar: &mut dyn Read) -> Result<Files<'_>, LoadError> {
        let archive = |source| LoadError::Archive { source };
        let unpacked = compression::unpacked(tar).map_err(|source| archive(TarError::Read { source }))?;
        let mut reader = Reader::new(unpacked);
        let mut files = Files { blobs: HashMap::new(), links: HashMap::new() };
        while let Some(member) = reader.next_member().map_err(archive)? {
            let Ok(path) = clean_path(&member.path) else { continue };
            if files.blobs.len() + files.links.len() >= MAX_FILES {
                return Err(archive(TarError::Limit {
                    at: reader.position(),
                    what: "files",
                    limit: MAX_FILES as u64,
                }));
            }
            match member.kind {
                Kind::File { pieces: None, .. } => {
                    let mut ingest = self.content().ingest()?;
                    let spooled = ingest.path().to_owned();
                    let copied = io::copy(&mut reader, &mut ingest);
                    copied.map_err(|source| match source.kind() {
                        io::ErrorKind::UnexpectedEof => archive(TarError::Read { source }),
                        _ => FileError { action: "write", path: spooled, source }.into(),
                    })?;
                    files.blobs.insert(path, ingest);
                }
                Kind::Symlink { target } => {
                    let beside = path.parent().unwrap_or(Path::new("")).join(os(&target));
                    if let Ok(target) = clean_path(beside.as_os_str().as_encoded_bytes()) {
                        files.links.insert(path, target);
                    }
                }
                Kind::HardLink { target } => {
                    if let Ok(target) = clean_path(&target) {
                        files.links.insert(path, target);
                    }
                }
                _ => {}
            }
        }
        Ok(files)
    }

    /// One image of Docker's format.
    fn load_archived(
        &self,
        files: &mut Files<'_>,
        image: &ArchivedImage,
        platform: Option<&Platform>,
        lease: &Lease,
    ) -> Result<Image, LoadError> {
        let config_bytes = files.bytes(&image.config)?;
        let config = parse::<ImageConfig>(&image.config, &config_bytes)?;
        check_platform(&image.config, &config, platform)?;
        let layers = self.load_layers(files, &image.config, &config, &image.layers, lease)?;
        let names: Vec<ImageRef> = image.repo_tags.iter().filter_map(|t| t.parse().ok()).collect();
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(media::MANIFEST.to_owned()),
            config: Descriptor::new(media::CONFIG, Digest::of(&config_bytes), config_bytes.len() as u64),
            layers: layers
                .iter()
                .map(|l| Descriptor::new(&l.media_type, l.blob.clone(), l.blob_size))
                .collect(),
            annotations: std::collections::BTreeMap::new(),
            other: serde_json::Map::new(),
        };
        let manifest = serde_json::to_vec(&manifest)
            .map_err(|source| LoadError::Document { path: "manifest.json".to_owned(), source })?;
        Ok(only(self.put_image(&config_bytes, &manifest, &layers, &names)?, &names))
    }

    /// One image of an OCI layout; its manifest is kept byte for byte.
    fn load_manifest(
        &self,
        files: &mut Files<'_>,
        descriptor: &Descriptor,
        names: &[ImageRef],
        platform: Option<&Platform>,
        lease: &Lease,
    ) -> Result<Image, LoadError> {
        let path = blob_path(&descriptor.digest);
        let manifest_bytes = files.blob(&descriptor.digest)?;
        let manifest = parse::<Manifest>(&path, &manifest_bytes)?;
        let config_path = blob_path(&manifest.config.digest);
        let config_bytes = files.blob(&manifest.config.digest)?;
        let config = parse::<ImageConfig>(&config_path, &config_bytes)?;
        check_platform(&config_path, &config, platform)?;
        let paths: Vec<String> = manifest.layers.iter().map(|l| blob_path(&l.digest)).collect();
        let layers = self.load_layers(files, &config_path, &config, &paths, lease)?;
        let same = layers.iter().zip(&manifest.layers).all(|(have, said)| have.blob == said.digest);
        if same {
            return Ok(self.put_image(&config_bytes, &manifest_bytes, &layers, names)?);
        }
        // A layer is here already, packed in another way: the image speaks of that copy.
        let mut manifest = manifest;
        manifest.layers =
            layers.iter().map(|l| Descriptor::new(&l.media_type, l.blob.clone(), l.blob_size)).collect();
        let bytes = serde_json::to_vec(&manifest).map_err(|source| LoadError::Document { path, source })?;
        Ok(self.put_image(&config_bytes, &bytes, &layers, names)?)
    }

    fn load_layers(
        &self,
        files: &mut Files<'_>,
        config_path: &str,
        config: &ImageConfig,
        paths: &[String],
        lease: &Lease,
    ) -> Result<Vec<Layer>, LoadError> {
        let diff_ids = &config.rootfs.diff_ids;
        if diff_ids.len() != paths.len() || paths.len() > MAX_LAYERS {
            let what = format!("it has {} diff ids for {} layers", diff_ids.len(), paths.len());
            return Err(LoadError::Inconsistent { path: config_path.to_owned(), what });
        }
        let mut wanted = Vec::new();
        for (path, diff_id) in paths.iter().zip(diff_ids) {
            // A file that an earlier image of the archive used is a blob of the store by now.
            let spooled = files.blobs.remove(&files.resolve(path)?);
            let origin = spooled.map_or(Origin::Here, Origin::Spooled);
            wanted.push(Wanted { diff_id: diff_id.clone(), origin });
        }
        self.take_in(wanted, config.platform().fits(&Platform::host()), lease).map_err(|(index, error)| {
            let path = paths[index].clone();
            match error {
                LayerError::Unpack(source) => LoadError::Layer { path, source },
                // Nothing was fetched.
                LayerError::Fetch(_) | LayerError::Size { .. } => LoadError::MissingFile { path },
            }
        })
    }
}

impl Files<'_> {
    /// The file that `path` means, links followed.
    fn find(&self, path: &str) -> Option<PathBuf> {
        let mut path = clean_path(path.as_bytes()).ok()?;
        for _ in 0..8 {
            match self.links.get(&path) {
                Some(target) => path = target.clone(),
                None => break,
            }
        }
        self.blobs.contains_key(&path).then_some(path)
    }

    /// As [`Files::find`]; a file that was taken out already counts.
    fn resolve(&self, path: &str) -> Result<PathBuf, LoadError> {
        let missing = || LoadError::MissingFile { path: path.to_owned() };
        let mut resolved = clean_path(path.as_bytes()).map_err(|_| missing())?;
        for _ in 0..8 {
            match self.links.get(&resolved) {
                Some(target) => resolved = target.clone(),
                None => break,
            }
        }
        Ok(resolved)
    }

    fn bytes(&self, path: &str) -> Result<Vec<u8>, LoadError> {
        let missing = || LoadError::MissingFile { path: path.to_owned() };
        let file = self.find(path).ok_or_else(missing)?;
        let ingest = self.blobs.get(&file).ok_or_else(missing)?;
        Ok(sampan_base::files::read_limited(ingest.path(), MAX_JSON_BYTES)?)
    }

    /// A document of an OCI layout, its digest checked.
    fn blob(&self, digest: &Digest) -> Result<Vec<u8>, LoadError> {
        let path = blob_path(digest);
        let bytes = self.bytes(&path)?;
        if Digest::of(&bytes) == *digest {
            return Ok(bytes);
        }
        Err(LoadError::Inconsistent { path, what: "its content does not have that digest".to_owned() })
    }

    fn document<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<T, LoadError> {
        parse(path, &self.bytes(path)?)
    }

    /// Follows indexes to the manifest for a platform.
    fn manifest_for(&self, mut descriptor: Descriptor, wanted: &Platform) -> Result<Descriptor, LoadError> {
        for _ in 0..MAX_INDEX_DEPTH {
            if !media::is_index(&descriptor.media_type) {
                return Ok(descriptor);
            }
            let path = blob_path(&descriptor.digest);
            let index: Index = parse(&path, &self.blob(&descriptor.digest)?)?;
            let fits = |d: &&Descriptor| d.platform.as_ref().is_none_or(|p| p.fits(wanted));
            let what = || format!("it has no image for {wanted}");
            descriptor = index
                .manifests
                .iter()
                .find(fits)
                .cloned()
                .ok_or_else(|| LoadError::Inconsistent { path, what: what() })?;
        }
        let what = "its indexes are nested too deep".to_owned();
        Err(LoadError::Inconsistent { path: "index.json".to_owned(), what })
    }
}

fn check_platform(path: &str, config: &ImageConfig, wanted: Option<&Platform>) -> Result<(), LoadError> {
    let is = config.platform();
    match wanted.filter(|wanted| !is.fits(wanted)) {
        Some(wanted) => {
            let what = format!("the image is for {is}, not for {wanted}");
            Err(LoadError::Inconsistent { path: path.to_owned(), what })
        }
        None => Ok(()),
    }
}

/// The full name, if the archive has it; a bare tag alone names no image.
fn names_of(descriptor: &Descriptor) -> Vec<ImageRef> {
    let full = descriptor.annotations.get(NAME_ANNOTATION);
    let reference = descriptor.annotations.get(REF_ANNOTATION).filter(|r| r.contains(['/', ':']));
    full.or(reference).and_then(|name| name.parse().ok()).into_iter().collect()
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn parse<T: serde::de::DeserializeOwned>(path: &str, bytes: &[u8]) -> Result<T, LoadError> {
    serde_json::from_slice(bytes).map_err(|source| LoadError::Document { path: path.to_owned(), source })
}

fn os(bytes: &[u8]) -> &std::ffi::OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(bytes)
}
