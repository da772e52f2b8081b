//! The store: one directory that one process owns.
//!
//! ```text
//! <root>/image.lock        held (flock) by the process that has the store open
//!        image.redb        what there is; see metadata.rs
//!        content/          blobs by digest: an OCI layout, its index made from the database
//!        snapshots/<n>/    fs: a layer unpacked (overlayfs's form), read-only once a chain id names it; or
//!                          fs, work, init: a snapshot's parts, and rootfs: where a build step's is mounted
//!        snapshots/<n>/about.json   what the directory is, should the database be lost; see recover.rs
//! ```
//!
//! Directories have numbers because their paths go into mount calls; a number is never used twice in the life of
//! a process, and one that no record names is left over from a crash: [`Store::open`] removes it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sampan_base::{ChainId, Class, DiffId, Digest, FileError, Turn, Turns, files};

use crate::content::{Content, Ingest};
use crate::layer::diff;
use crate::metadata::{CHAINS, ChainRecord, DiffRecord, Metadata, MetadataError};
use crate::recover::{self, About, Recovered};
use crate::snapshot::{IdMapping, Snapshotter, chain_on, overlay, remove_directory};

/// The images of one host; see the module. Clones share one store.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    root: PathBuf,
    metadata: Metadata,
    content: Content,
    /// What is in use besides what records say. Also serialises collecting garbage against taking things in.
    held: Mutex<Held>,
    next_directory: AtomicU64,
    /// Directories that are being made or removed: no record names them.
    busy: Mutex<BTreeSet<u64>>,
    /// What was done about a database that could not be read.
    recovered: Option<Recovered>,
    /// Images that are being received, by their configurations.
    receiving: Turns<Digest>,
    snapshotter: Snapshotter,
    /// Locked as long as it is open.
    _lock: File,
}

/// Blobs and chains that leases hold, with how often.
#[derive(Default)]
pub(crate) struct Held {
    pub(crate) blobs: HashMap<Digest, usize>,
    pub(crate) chains: HashMap<ChainId, usize>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Store").field(&self.0.root).finish()
    }
}

/// A layer of an image.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Layer {
    /// The digest of its tar.
    pub diff_id: DiffId,
    /// It and all below it.
    pub chain_id: ChainId,
    /// Its tar, perhaps packed, in the content store.
    pub blob: Digest,
    /// Bytes of the blob.
    pub blob_size: u64,
    /// How the blob is packed.
    pub media_type: String,
    /// Bytes of its files.
    pub size: u64,
}

/// Why a store can't be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process has it open.
    #[error("the image store `{}` is in use by another process", root.display())]
    InUse {
        /// The store.
        root: PathBuf,
    },
    /// A file of it.
    #[error(transparent)]
    File(#[from] FileError),
    /// Its database.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
}

impl OpenError {
    /// The class to report.
    pub fn class(&self) -> Class {
        match self {
            OpenError::InUse { .. } => Class::Unavailable,
            OpenError::File(e) => e.class(),
            OpenError::Metadata(e) => e.class(),
        }
    }
}

impl Store {
    /// Opens the store at `root`, made if it is not there, and removes what a crash left half-made: temporary
    /// files, directories and mounts of build steps, blobs that no record names.
    ///
    /// # Errors
    /// If another process has it open, or it can't be read or mended.
    pub fn open(root: &Path) -> Result<Store, OpenError> {
        Store::open_with(root, Snapshotter::detect())
    }

    /// As [`Store::open`], with snapshots made so.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_with(root: &Path, snapshotter: Snapshotter) -> Result<Store, OpenError> {
        // Containers of other users pass through to their files; they list nothing on the way.
        files::create_directories(root, 0o711)?;
        // Paths from here on are held against the mount table, which knows no links.
        let root = root.canonicalize().map_err(FileError::on("open", root))?;
        let lock_path = root.join("image.lock");
        let lock = File::options().create(true).truncate(false).write(true).open(&lock_path);
        let lock = lock.map_err(FileError::on("open", &lock_path))?;
        if !files::lock(&lock).map_err(FileError::on("lock", &lock_path))? {
            return Err(OpenError::InUse { root });
        }
        let content = Content::open(&root)?;
        let (metadata, recovered) = recover::open_metadata(&root, &content)?;
        recover::adopt_snapshots(&root, &metadata)?;
        let last = sweep_directories(&root, &metadata)?;
        let store = Store(Arc::new(Inner {
            root,
            metadata,
            content,
            held: Mutex::default(),
            next_directory: AtomicU64::new(last + 1),
            busy: Mutex::default(),
            recovered,
            receiving: Turns::default(),
            snapshotter,
            _lock: lock,
        }));
        // A record that can't be read must not keep the daemon from starting, nor let anything be collected.
        let _ = store.gc();
        store.write_index();
        Ok(store)
    }

    /// Where the store is.
    pub fn root(&self) -> &Path {
        &self.0.root
    }

    /// A lease that holds nothing yet: what is taken in or used through it stays at least as long as it lives.
    pub fn lease(&self) -> Lease {
        Lease { store: self.clone(), things: Mutex::default() }
    }

    /// How snapshots become file systems.
    pub fn snapshotter(&self) -> Snapshotter {
        self.0.snapshotter
    }

    pub(crate) fn metadata(&self) -> &Metadata {
        &self.0.metadata
    }

    pub(crate) fn content(&self) -> &Content {
        &self.0.content
    }

    pub(crate) fn held(&self) -> MutexGuard<'_, Held> {
        // Counters stay right when a thread panics: they change in drops, too.
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn directory_path(&self, number: u64) -> PathBuf {
        directories(&self.0.root).join(number.to_string())
    }

    /// A directory that vanishes unless it is kept.
    pub(crate) fn new_directory(&self) -> Result<NewDirectory, FileError> {
        let number = self.0.next_directory.fetch_add(1, Ordering::Relaxed);
        let path = self.directory_path(number);
        let directory = NewDirectory { path, number, kept: false, _busy: self.busy(number) };
        files::create_directories(&directory.path, 0o700)?;
        Ok(directory)
    }

    /// The numbers of directories that are being made or removed.
    pub(crate) fn busy_directories(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.0.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks a directory as being made or removed.
    pub(crate) fn busy(&self, number: u64) -> Busy {
        self.busy_directories().insert(number);
        Busy { store: self.clone(), number }
    }

    /// Waits until nobody else receives this image: who comes second finds its layers.
    pub(crate) fn turn_to_receive(&self, config: &Digest) -> Turn<'_, Digest> {
        self.0.receiving.take(config.clone())
    }

    /// Whether a record names the directory.
    pub(crate) fn names_directory(&self, number: Option<u64>) -> Result<bool, MetadataError> {
        let Some(number) = number else { return Ok(false) };
        let pending = self.metadata().pending().chains.values().any(|r| r.directory == Some(number));
        Ok(pending
            || self.metadata().all::<ChainRecord>(CHAINS)?.iter().any(|(_, r)| r.directory == Some(number))
            || self.metadata().snapshots()?.iter().any(|(_, r)| r.directory == number))
    }

    /// What was done when the store was opened, if its database could not be read.
    pub fn recovered(&self) -> Option<&Recovered> {
        self.0.recovered.as_ref()
    }

    /// Gives a whole blob its name and records that it is the layer `diff_id`; one that is there already stays.
    pub(crate) fn adopt_blob(
        &self,
        ingest: Ingest<'_>,
        diff_id: DiffId,
        diff: DiffRecord,
        parent: Option<&ChainId>,
        lease: &Lease,
    ) -> Result<Layer, AdoptError> {
        let chain_id = chain_on(parent, &diff_id);
        let mut held = self.held();
        // The same layer may be here packed in another way; one copy is enough.
        let known = self.metadata().diff(&diff_id)?.filter(|known| self.content().has(&known.blob));
        let diff = match known {
            Some(known) => known,
            None => {
                ingest.finish()?;
                self.metadata().pending().diffs.insert(diff_id.clone(), diff.clone());
                diff
            }
        };
        lease.hold_blob_in(&mut held, &diff.blob);
        Ok(Layer {
            diff_id,
            chain_id,
            blob: diff.blob,
            blob_size: diff.blob_size,
            media_type: diff.media_type,
            size: diff.size,
        })
    }

    /// Lets the chain id name an unpacked directory; `false` if another one has it already.
    pub(crate) fn adopt_chain(
        &self,
        chain: &ChainId,
        record: ChainRecord,
        lease: &Lease,
    ) -> Result<bool, MetadataError> {
        let mut held = self.held();
        lease.hold_chain_in(&mut held, chain);
        let known = self.metadata().chain(chain)?;
        if known.is_some_and(|k| k.directory.is_some() || record.directory.is_none()) {
            return Ok(false);
        }
        if let Some(number) = record.directory {
            About::Layer {
                chain: chain.clone(),
                diff_id: record.diff_id.clone(),
                parent: record.parent.clone(),
            }
            .write(&self.directory_path(number))?;
        }
        self.metadata().pending().chains.insert(chain.clone(), record);
        Ok(true)
    }

    /// Writes the read-write layer at `upper` as a blob; `None` if it is empty.
    pub(crate) fn store_layer(
        &self,
        upper: &Path,
        parent: Option<&ChainId>,
        mapping: &IdMapping,
        lease: &Lease,
    ) -> Result<Option<Layer>, AdoptError> {
        let mut ingest = self.content().ingest()?;
        let written = diff::write_mapped(
            upper,
            diff::Marks::Layer,
            mapping,
            std::io::BufWriter::with_capacity(256 * 1024, &mut ingest),
        )?;
        if written.entries == 0 {
            return Ok(None);
        }
        let digest = ingest.digest();
        let diff = DiffRecord {
            blob: digest.clone(),
            blob_size: ingest.size(),
            media_type: sampan_oci::image::media::LAYER.to_owned(),
            size: written.bytes,
        };
        self.adopt_blob(ingest, DiffId(digest), diff, parent, lease).map(Some)
    }
}

/// A file of the store or its database; each public error takes it apart.
#[derive(Debug)]
pub(crate) enum AdoptError {
    File(FileError),
    Metadata(MetadataError),
}

impl From<FileError> for AdoptError {
    fn from(e: FileError) -> Self {
        AdoptError::File(e)
    }
}

impl From<MetadataError> for AdoptError {
    fn from(e: MetadataError) -> Self {
        AdoptError::Metadata(e)
    }
}

/// Lets `?` turn an [`AdoptError`] into the public errors that have both kinds.
macro_rules! from_adopt_error {
    ($($error:ty),*) => {$(
        impl From<AdoptError> for $error {
            fn from(e: AdoptError) -> Self {
                match e {
                    AdoptError::File(e) => e.into(),
                    AdoptError::Metadata(e) => e.into(),
                }
            }
        }
    )*};
}
from_adopt_error!(crate::UnpackError, crate::SnapshotError);

/// Keeps blobs and layers from being collected while something is made of them that no record names yet.
///
/// Leases live in memory: one process owns the store, and what it was making when it died is not wanted any more.
pub struct Lease {
    store: Store,
    things: Mutex<(Vec<Digest>, Vec<ChainId>)>,
}

impl Lease {
    pub(crate) fn hold_chain(&self, chain: &ChainId) {
        self.hold_chain_in(&mut self.store.held(), chain);
    }

    pub(crate) fn hold_chain_in(&self, held: &mut Held, chain: &ChainId) {
        *held.chains.entry(chain.clone()).or_default() += 1;
        self.things().1.push(chain.clone());
    }

    pub(crate) fn hold_blob_in(&self, held: &mut Held, blob: &Digest) {
        *held.blobs.entry(blob.clone()).or_default() += 1;
        self.things().0.push(blob.clone());
    }

    fn things(&self) -> MutexGuard<'_, (Vec<Digest>, Vec<ChainId>)> {
        self.things.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut held = self.store.held();
        let things = self.things();
        for blob in &things.0 {
            release(&mut held.blobs, blob);
        }
        for chain in &things.1 {
            release(&mut held.chains, chain);
        }
    }
}

fn release<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

/// A directory on its way to become a layer or a snapshot; dropped before [`NewDirectory::keep`], it leaves nothing.
pub(crate) struct NewDirectory {
    path: PathBuf,
    number: u64,
    kept: bool,
    /// Dropped last: until then the directory is nobody's litter.
    _busy: Busy,
}

/// A directory that is being made or removed.
#[derive(Debug)]
pub(crate) struct Busy {
    store: Store,
    number: u64,
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.store.busy_directories().remove(&self.number);
    }
}

impl NewDirectory {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// A record names it now.
    pub(crate) fn keep(mut self) -> PathBuf {
        self.kept = true;
        self.path.clone()
    }
}

impl Drop for NewDirectory {
    fn drop(&mut self) {
        if !self.kept {
            // What can't be removed now is removed when the store opens the next time.
            let _ = remove_directory(&self.path);
        }
    }
}

fn directories(root: &Path) -> PathBuf {
    root.join("snapshots")
}

/// Removes the directories that no record names, with what is mounted in them; answers the highest number.
fn sweep_directories(root: &Path, metadata: &Metadata) -> Result<u64, OpenError> {
    let path = directories(root);
    // Not for other users: images have setuid programs that are not meant for the host's.
    files::create_directories(&path, 0o700)?;
    let mut named: BTreeMap<u64, ()> = BTreeMap::new();
    named.extend(metadata.all::<ChainRecord>(CHAINS)?.iter().filter_map(|(_, r)| Some((r.directory?, ()))));
    named.extend(metadata.snapshots()?.iter().map(|(_, r)| (r.directory, ())));
    let unnamed = |p: &Path| -> Option<u64> {
        p.file_name()?.to_str()?.parse().ok().filter(|n| !named.contains_key(n))
    };
    for mount in overlay::mounts_below(&path).map_err(FileError::on("read", "/proc/self/mountinfo"))? {
        let part = mount.strip_prefix(&path).ok().and_then(|p| p.iter().next()).map(|n| path.join(n));
        if part.is_some_and(|p| unnamed(&p).is_some()) {
            overlay::unmount(&mount).map_err(FileError::on("unmount", mount))?;
        }
    }
    let listed = fs::read_dir(&path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    for entry in listed.map_err(FileError::on("list", &path))? {
        if unnamed(&entry.path()).is_some() {
            remove_directory(&entry.path())?;
        }
    }
    Ok(named.keys().next_back().copied().unwrap_or(0))
}
