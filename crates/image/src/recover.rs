//! A database that can't be read any more is set aside, and a new one is made of what else is on disk:
//!
//! ```text
//!   content/index.json        which manifests there are, with the images' names
//!   content/blobs             manifests, configurations, layers
//!   snapshots/<n>/about.json  which layer or whose snapshot a directory is
//! ```
//!
//! `about.json` is written before the record that names the directory, and says what that says. Lost are the build cache, the
//! images' digests in registries, and when images were taken in; layers are read once to learn their sizes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use sampan_base::{ChainId, DiffId, FileError, ImageRef, Timestamp, files};
use sampan_oci::image::{ImageConfig, Index, Manifest};
use sampan_records::Opening;
use serde::{Deserialize, Serialize};

use crate::content::Content;
use crate::image::ImageId;
use crate::limits::MAX_JSON_BYTES;
use crate::metadata::{
    CACHE, CHAINS, CacheRecord, ChainRecord, DIFFS, DiffRecord, IMAGES, ImageRecord, Metadata, MetadataError,
    NAMES, SNAPSHOTS, SnapshotRecord,
};
use crate::snapshot::IdMapping;
use crate::store::OpenError;

/// What was done about a database that could not be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recovered {
    /// Where it lies now.
    pub set_aside: PathBuf,
    /// What was wrong with it.
    pub why: String,
    /// How many images the new one has.
    pub images: usize,
    /// How many containers' file systems.
    pub snapshots: usize,
    /// Manifests of the index that could not be read, with the reason.
    pub lost: Vec<String>,
}

/// What a directory of the store is; `about.json` in it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum About {
    Layer {
        chain: ChainId,
        diff_id: DiffId,
        parent: Option<ChainId>,
    },
    Snapshot {
        key: String,
        parent: Option<ChainId>,
        created: Timestamp,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mapping: Option<IdMapping>,
    },
}

const ABOUT: &str = "about.json";

impl About {
    /// Synced with all else before a record names the directory.
    pub(crate) fn write(&self, directory: &Path) -> Result<(), FileError> {
        let path = directory.join(ABOUT);
        let json = serde_json::to_vec(self).map_err(std::io::Error::from);
        json.and_then(|json| std::fs::write(&path, json)).map_err(FileError::on("write", path))
    }

    /// As [`About::write`], over one that is there.
    pub(crate) fn replace(&self, directory: &Path) -> Result<(), FileError> {
        let path = directory.join(ABOUT);
        let json = serde_json::to_vec(self).map_err(std::io::Error::from);
        let json = json.map_err(FileError::on("write", &path))?;
        files::write_atomic(&path, &json, 0o644)
    }

    pub(crate) fn read(directory: &Path) -> Option<About> {
        let bytes = files::read_limited(&directory.join(ABOUT), 64 * 1024).ok()?;
        serde_json::from_slice(&bytes).ok()
    }
}

/// Opens the database, or makes a new one if it is damaged. One that can't be read for another reason, or is newer than
/// this program, is left alone.
pub(crate) fn open_metadata(
    root: &Path,
    content: &Content,
) -> Result<(Metadata, Option<Recovered>), OpenError> {
    let path = root.join("image.redb");
    let opening = Opening::begin(&path);
    let opened = open_or_mend(root, content, &path, opening.is_hopeless());
    opening.end();
    opened
}

fn open_or_mend(
    root: &Path,
    content: &Content,
    path: &Path,
    hopeless: bool,
) -> Result<(Metadata, Option<Recovered>), OpenError> {
    let why = if hopeless && path.exists() {
        "processes before this one ended while they opened it".to_owned()
    } else {
        match Metadata::open(root).and_then(|metadata| read_all(&metadata).map(|()| metadata)) {
            Ok(metadata) => return Ok((metadata, None)),
            Err(error) if error.is_damage() => sampan_base::chain(&error),
            Err(error) => return Err(error.into()),
        }
    };
    let aside = sampan_records::set_aside(path)?;
    let metadata = Metadata::open(root)?;
    let recovered = rebuild(root, content, &metadata, aside, why)?;
    Ok((metadata, Some(recovered)))
}

/// Finds the snapshots again whose records an earlier process had in memory only.
pub(crate) fn adopt_snapshots(root: &Path, metadata: &Metadata) -> Result<(), OpenError> {
    let known = metadata.snapshots()?;
    let directories: BTreeSet<u64> = known.iter().map(|(_, record)| record.directory).collect();
    let keys: BTreeSet<String> = known.into_iter().map(|(key, _)| key).collect();
    let mut found: BTreeMap<String, SnapshotRecord> = BTreeMap::new();
    for (number, path) in numbered(root).filter(|(number, _)| !directories.contains(number)) {
        let Some(About::Snapshot { key, parent, created, mapping }) = About::read(&path) else { continue };
        let has_layers = match &parent {
            Some(parent) => metadata.chain(parent)?.is_some(),
            None => true,
        };
        // Of two with one key the later is the one that was made when the earlier was being removed.
        let is_later = found.get(&key).is_none_or(|other| other.directory < number);
        if has_layers && is_later && !keys.contains(&key) {
            found.insert(key, SnapshotRecord { directory: number, parent, created, mapping });
        }
    }
    metadata.pending().snapshots.extend(found);
    Ok(())
}

/// The directories of layers and snapshots.
fn numbered(root: &Path) -> impl Iterator<Item = (u64, PathBuf)> {
    let listed = std::fs::read_dir(root.join("snapshots")).into_iter().flatten().flatten();
    listed.filter_map(|e| Some((e.file_name().to_str()?.parse().ok()?, e.path())))
}

/// A damaged page is found now, not when a container starts.
fn read_all(metadata: &Metadata) -> Result<(), MetadataError> {
    metadata.all::<ImageId>(NAMES)?;
    metadata.all::<ImageRecord>(IMAGES)?;
    metadata.all::<ChainRecord>(CHAINS)?;
    metadata.all::<DiffRecord>(DIFFS)?;
    metadata.all::<SnapshotRecord>(SNAPSHOTS)?;
    metadata.all::<CacheRecord>(CACHE)?;
    Ok(())
}

fn rebuild(
    root: &Path,
    content: &Content,
    metadata: &Metadata,
    set_aside: PathBuf,
    why: String,
) -> Result<Recovered, OpenError> {
    let mut recovered = Recovered { set_aside, why, images: 0, snapshots: 0, lost: Vec::new() };
    let mut names: BTreeMap<String, ImageId> = BTreeMap::new();
    let mut images: BTreeMap<ImageId, ImageRecord> = BTreeMap::new();
    let mut chains: BTreeMap<ChainId, ChainRecord> = BTreeMap::new();
    let mut diffs: BTreeMap<DiffId, DiffRecord> = BTreeMap::new();
    let mut snapshots: BTreeMap<String, SnapshotRecord> = BTreeMap::new();
    let mut directories: BTreeMap<ChainId, u64> = BTreeMap::new();
    for (number, path) in numbered(root) {
        match About::read(&path) {
            Some(About::Layer { chain, diff_id, parent }) => {
                directories.insert(chain.clone(), number);
                // A container may lie on layers that no image has any more.
                chains.insert(chain, ChainRecord { diff_id, parent, directory: Some(number) });
            }
            Some(About::Snapshot { key, parent, created, mapping }) => {
                snapshots.insert(key, SnapshotRecord { directory: number, parent, created, mapping });
            }
            None => {}
        }
    }
    let index = files::read_limited(&content.blobs().join("../../index.json"), MAX_JSON_BYTES);
    let index: Option<Index> = index.ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    for descriptor in index.map(|i| i.manifests).unwrap_or_default() {
        let image = read_image(content, &descriptor.digest, &mut diffs);
        let (id, config) = match image {
            Ok(image) => image,
            Err(why) => {
                recovered.lost.push(format!("{}: {why}", descriptor.digest));
                continue;
            }
        };
        let mut parent: Option<ChainId> = None;
        for diff_id in config.rootfs.diff_ids {
            let chain = ChainId::extend(parent.as_ref(), &diff_id);
            let directory = directories.get(&chain).copied();
            chains.insert(chain.clone(), ChainRecord { diff_id, parent, directory });
            parent = Some(chain);
        }
        let name = descriptor.annotations.get(crate::archive::REF_ANNOTATION);
        if let Some(name) = name.and_then(|n| n.parse::<ImageRef>().ok()) {
            names.insert(name.canonical(), id.clone());
        }
        images.insert(id, ImageRecord { manifest: descriptor.digest, added: Timestamp::now() });
    }
    (recovered.images, recovered.snapshots) = (images.len(), snapshots.len());
    metadata.write(|t| {
        names.iter().try_for_each(|(k, v)| metadata.put(t, NAMES, k, v))?;
        images.iter().try_for_each(|(k, v)| metadata.put(t, IMAGES, k.as_str(), v))?;
        chains.iter().try_for_each(|(k, v)| metadata.put(t, CHAINS, k.0.as_str(), v))?;
        diffs.iter().try_for_each(|(k, v)| metadata.put(t, DIFFS, k.0.as_str(), v))?;
        snapshots.iter().try_for_each(|(k, v)| metadata.put(t, SNAPSHOTS, k, v))
    })?;
    Ok(recovered)
}

/// An image's documents, with its layers' records; the reason why not, for people.
fn read_image(
    content: &Content,
    manifest: &sampan_base::Digest,
    diffs: &mut BTreeMap<DiffId, DiffRecord>,
) -> Result<(ImageId, ImageConfig), String> {
    let document = |digest| content.read(digest, MAX_JSON_BYTES).map_err(|e| sampan_base::chain(&e));
    let damaged = |e: serde_json::Error| e.to_string();
    let manifest: Manifest = serde_json::from_slice(&document(manifest)?).map_err(damaged)?;
    let config: ImageConfig = serde_json::from_slice(&document(&manifest.config.digest)?).map_err(damaged)?;
    if config.rootfs.diff_ids.len() != manifest.layers.len() {
        return Err("its manifest and its configuration do not fit".to_owned());
    }
    for (diff_id, layer) in config.rootfs.diff_ids.iter().zip(&manifest.layers) {
        if diffs.contains_key(diff_id) {
            continue;
        }
        let mut blob = content.open_blob(&layer.digest).map_err(|e| sampan_base::chain(&e))?;
        let streamed = crate::stream::stream(&mut blob, None, None).map_err(|e| sampan_base::chain(&e))?;
        if streamed.diff_id.as_ref().is_some_and(|d| *d != diff_id.0) {
            return Err(format!("the layer {} is not what it should be", layer.digest));
        }
        let size = streamed.files.finish().map_err(|e| sampan_base::chain(&e))?.bytes;
        let record = DiffRecord {
            blob: layer.digest.clone(),
            blob_size: layer.size,
            media_type: streamed.compression.layer_media_type().to_owned(),
            size,
        };
        diffs.insert(diff_id.clone(), record);
    }
    Ok((ImageId(manifest.config.digest), config))
}
