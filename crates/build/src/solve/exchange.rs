//! Build caches that go from host to host: `--cache-from` and `--cache-to`.
//!
//! A cache lies in an OCI layout or in a registry, as an image whose layers are those of all its steps and whose
//! configuration tells of the steps, under a key of its own ([`STEPS_KEY`]). An image that is pushed can carry the cache of
//! its own build in the same way (`type=inline`). Records are read at the beginning of a build; a layer is fetched only
//! when a step needs it, and is what its digests say or is not used.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, Read};

use sampan_base::{DiffId, Digest, Timestamp};
use sampan_image::Expected;
use sampan_oci::image::{Descriptor, ImageConfig, Manifest, media};
use serde::{Deserialize, Serialize};

use super::cache::Outcome;
use super::layout::Layout;
use super::{Result, Solve, lock};
use crate::error::BuildError;
use crate::run::RunnerError;

/// Where steps that others did may come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CacheSource {
    /// A directory: an OCI layout that [`CacheTarget::Local`] wrote.
    Local(std::path::PathBuf),
    /// An image in a registry: a cache, or one with a cache inside.
    Registry(String),
}

/// Where to tell others of the steps of a build.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CacheTarget {
    /// A directory, made an OCI layout.
    Local {
        /// Which.
        directory: std::path::PathBuf,
        /// All steps, not only those whose layers are in the image.
        all: bool,
    },
    /// A name in a registry.
    Registry {
        /// Which.
        name: String,
        /// As above.
        all: bool,
    },
    /// The image itself.
    Inline,
}

/// A place for one cache: a manifest and the blobs that it names.
pub trait CacheStore: Sync {
    /// The manifest; `None` if there is no cache yet.
    ///
    /// # Errors
    /// If the place can't be read.
    fn manifest(&self) -> std::result::Result<Option<Vec<u8>>, RunnerError>;

    /// Opens a blob.
    ///
    /// # Errors
    /// If it is not there.
    fn open(&self, blob: &Descriptor) -> io::Result<Box<dyn Read + Send>>;

    /// Puts a blob, which `file` holds; one that is there already is left as it is.
    ///
    /// # Errors
    /// If the place can't be written.
    fn put(&self, blob: &Descriptor, file: std::fs::File) -> std::result::Result<(), RunnerError>;

    /// Puts a small blob.
    ///
    /// # Errors
    /// As [`CacheStore::put`].
    fn put_bytes(&self, blob: &Descriptor, bytes: &[u8]) -> std::result::Result<(), RunnerError>;

    /// Puts the manifest; from now on the cache is the new one.
    ///
    /// # Errors
    /// As [`CacheStore::put`].
    fn put_manifest(&self, manifest: &[u8]) -> std::result::Result<(), RunnerError>;
}

/// The key of an image's configuration under which the steps are.
const STEPS_KEY: &str = "sampan.buildcache.v1";
/// Bytes of a manifest and of a configuration with steps: some 300 bytes a step.
const MAX_DOCUMENT_BYTES: u64 = 16 << 20;

/// One step, for others.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Record {
    key: Digest,
    created: Timestamp,
    /// The layers that it was done on, the base first, as numbers in the list of diff ids.
    below: Vec<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    layer: Option<usize>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    text: String,
}

/// The steps, and the layers that they speak of.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
struct Steps {
    layers: Vec<DiffId>,
    records: Vec<Record>,
}

/// A step that was made or recalled in this build.
#[derive(Clone, Debug)]
pub(super) struct Made {
    pub(super) outcome: Outcome,
    /// The layers that it was done on.
    pub(super) below: Vec<DiffId>,
    pub(super) text: String,
}

/// What others made.
pub(super) struct Imported<'a> {
    store: Box<dyn CacheStore + 'a>,
    records: HashMap<Digest, Record>,
    layers: Vec<DiffId>,
    /// Where each layer's blob is.
    blobs: HashMap<DiffId, Descriptor>,
}

/// Reads the records of all sources. One that is not there, or is none, is told and left out: a cache is no need.
pub(super) fn import<'a>(solve: &Solve<'a>) -> Vec<Imported<'a>> {
    let mut all = Vec::new();
    for source in &solve.options.cache_from {
        let (shown, store) = match source {
            CacheSource::Local(directory) => {
                let layout: Box<dyn CacheStore + 'a> = Box::new(Layout::new(directory));
                (directory.display().to_string(), Some(Ok(layout)))
            }
            CacheSource::Registry(name) => (name.clone(), solve.runner.cache_store(name)),
        };
        let read = match store {
            Some(store) => store.map_err(|e| sampan_base::chain(&e)).and_then(read),
            None => Err("no registries can be asked here".to_owned()),
        };
        match read {
            Ok(Some(imported)) => all.push(imported),
            Ok(None) => solve.warn(&format!("there is no build cache at {shown} yet")),
            Err(why) => solve.warn(&format!("cannot use the build cache at {shown}: {why}")),
        }
    }
    all
}

fn text(error: impl std::error::Error + 'static) -> String {
    sampan_base::chain(&error)
}

fn read<'a>(store: Box<dyn CacheStore + 'a>) -> std::result::Result<Option<Imported<'a>>, String> {
    let Some(manifest) = store.manifest().map_err(text)? else { return Ok(None) };
    let manifest: Manifest = serde_json::from_slice(&manifest).map_err(text)?;
    let mut config = Vec::new();
    let opened = store.open(&manifest.config).map_err(text)?;
    opened.take(MAX_DOCUMENT_BYTES).read_to_end(&mut config).map_err(text)?;
    if Digest::of(&config) != manifest.config.digest {
        return Err("its configuration is not what its digest says".to_owned());
    }
    let config: ImageConfig = serde_json::from_slice(&config).map_err(text)?;
    let Some(steps) = config.other.get(STEPS_KEY) else {
        return Err("it is an image without a build cache".to_owned());
    };
    let steps: Steps = serde_json::from_value(steps.clone()).map_err(text)?;
    let known = |index: &usize| *index < steps.layers.len();
    let records = steps.records.into_iter().filter(|r| r.below.iter().chain(&r.layer).all(known));
    Ok(Some(Imported {
        records: records.map(|record| (record.key.clone(), record)).collect(),
        blobs: config.rootfs.diff_ids.into_iter().zip(manifest.layers).collect(),
        layers: steps.layers,
        store,
    }))
}

impl Solve<'_> {
    fn warn(&self, text: &str) {
        (self.events)(super::BuildEvent::Warning { line: 0, text });
    }

    /// What another host made of a step, its layer fetched.
    pub(super) fn recall_imported(&self, key: &Digest) -> Option<Outcome> {
        for imported in &self.imported {
            let Some(record) = imported.records.get(key) else { continue };
            match self.fetch(imported, record) {
                Ok(layer) => return Some(Outcome { created: record.created, layer }),
                // Then it is made here.
                Err(why) => self.warn(&format!("a layer of the imported build cache is not used: {why}")),
            }
        }
        None
    }

    fn fetch(&self, imported: &Imported<'_>, record: &Record) -> std::result::Result<Option<DiffId>, String> {
        let Some(layer) = record.layer else { return Ok(None) };
        let mut parent = None;
        for index in record.below.iter().chain([&layer]) {
            let diff_id = &imported.layers[*index];
            let layer = match self.store.known_layer(diff_id, parent.as_ref(), &self.lease) {
                Ok(layer) => layer,
                Err(_) => {
                    let blob = imported.blobs.get(diff_id).ok_or("its blob is missing")?;
                    let mut content = imported.store.open(blob).map_err(|e| e.to_string())?;
                    let expected =
                        Expected { blob: Some(blob.digest.clone()), diff_id: Some(diff_id.clone()) };
                    let added = self.store.add_layer(&mut *content, parent.as_ref(), &expected, &self.lease);
                    added.map_err(|e| sampan_base::chain(&e))?
                }
            };
            parent = Some(layer.chain_id);
        }
        Ok(Some(imported.layers[layer].clone()))
    }

    /// The steps of this build, for the configuration of its own image.
    pub(super) fn add_inline_cache(&self, image: &mut ImageConfig, layers: &[DiffId]) {
        if self.options.cache_to.contains(&CacheTarget::Inline) {
            let own: BTreeSet<&DiffId> = layers.iter().collect();
            let steps = self.steps(&|layer| own.contains(layer));
            // Numbers and digests become JSON.
            if let Ok(value) = serde_json::to_value(&steps) {
                image.other.insert(STEPS_KEY.to_owned(), value);
            }
        }
    }

    /// Tells all targets of the steps of this build. `layers` are the image's.
    pub(super) fn export_cache(&self, layers: &[DiffId]) -> Result<()> {
        let own: BTreeSet<&DiffId> = layers.iter().collect();
        for target in &self.options.cache_to {
            let (shown, store, all): (String, Box<dyn CacheStore + '_>, bool) = match target {
                CacheTarget::Inline => continue,
                CacheTarget::Local { directory, all } => {
                    (directory.display().to_string(), Box::new(Layout::new(directory)), *all)
                }
                CacheTarget::Registry { name, all } => {
                    let failed = |source| BuildError::ExportCache { to: name.clone(), source };
                    let store = self.runner.cache_store(name).ok_or_else(|| {
                        let source = "no registries can be asked here".into();
                        failed(RunnerError { class: sampan_base::Class::Unsupported, source })
                    })?;
                    (name.clone(), store.map_err(failed)?, *all)
                }
            };
            let steps = self.steps(&|layer| all || own.contains(layer));
            self.put(&*store, &steps).map_err(|source| BuildError::ExportCache { to: shown, source })?;
        }
        Ok(())
    }

    /// The steps of this build whose layers are wanted.
    fn steps(&self, wanted: &dyn Fn(&DiffId) -> bool) -> Steps {
        let mut steps = Steps::default();
        let mut numbers: BTreeMap<DiffId, usize> = BTreeMap::new();
        let mut number = |steps: &mut Steps, layer: &DiffId| {
            *numbers.entry(layer.clone()).or_insert_with(|| {
                steps.layers.push(layer.clone());
                steps.layers.len() - 1
            })
        };
        // In the order of their keys: the same build gives the same cache.
        let made: BTreeMap<Digest, Made> =
            lock(&self.made).iter().map(|(key, made)| (key.clone(), made.clone())).collect();
        for (key, made) in made {
            if made.outcome.layer.as_ref().is_some_and(|layer| !wanted(layer)) {
                continue;
            }
            // What a step without a layer was done on nobody needs to fetch.
            let layer = made.outcome.layer.as_ref().map(|layer| number(&mut steps, layer));
            let below = match layer {
                Some(_) => made.below.iter().map(|layer| number(&mut steps, layer)).collect(),
                None => Vec::new(),
            };
            let (created, text) = (made.outcome.created, made.text);
            steps.records.push(Record { key, created, below, layer, text });
        }
        steps
    }

    fn put(&self, store: &dyn CacheStore, steps: &Steps) -> std::result::Result<(), RunnerError> {
        let failed = |e: Box<dyn std::error::Error + Send + Sync>| RunnerError {
            class: sampan_base::Class::Internal,
            source: e,
        };
        let mut image = ImageConfig::for_host();
        let mut blobs: Vec<Descriptor> = Vec::new();
        for diff_id in &steps.layers {
            let blob = self.store.blob_of(diff_id, &self.lease).map_err(|e| failed(e.into()))?;
            let file = self.store.open_blob(&blob.digest).map_err(|e| failed(e.into()))?;
            store.put(&blob, file)?;
            image.rootfs.diff_ids.push(diff_id.clone());
            blobs.push(blob);
        }
        image.other.insert(STEPS_KEY.to_owned(), serde_json::to_value(steps).map_err(|e| failed(e.into()))?);
        let config = serde_json::to_vec(&image).map_err(|e| failed(e.into()))?;
        let descriptor = Descriptor::new(media::CONFIG, Digest::of(&config), config.len() as u64);
        store.put_bytes(&descriptor, &config)?;
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(media::MANIFEST.to_owned()),
            config: descriptor,
            layers: blobs,
            annotations: BTreeMap::new(),
            other: serde_json::Map::new(),
        };
        store.put_manifest(&serde_json::to_vec(&manifest).map_err(|e| failed(e.into()))?)
    }
}
