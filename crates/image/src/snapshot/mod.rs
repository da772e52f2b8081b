//! Snapshots: file systems made of an image's layers.
//!
//! A container's file system has three parts, mounted as one overlay:
//!
//! ```text
//!   read-write layer   snapshots/<n>/fs       what the container changes; `changes` and `commit` read it
//!   init layer         snapshots/<n>/init     mount points and /etc files, see InitLayer; never committed
//!   layers             snapshots/<m>/fs …     read-only, one a chain id, shared by all
//! ```
//!
//! A snapshot is prepared under a *key* (the container's id) on top of a *parent* (the chain id of the image), is
//! mounted and unmounted any number of times, survives restarts, and goes by [`Store::remove_snapshot`].
//!
//! Where overlayfs is missing the whole file system is a copy ([`Snapshotter::Copy`]), and the read-write layer is made of
//! it when it is read.
//!
//! A step of a build has a [`Scratch`], which has the same parts but no key.

mod copied;
mod init;
mod mapped;
mod mount;
pub(crate) mod overlay;
mod scratch;
mod times;

use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Gid, Mode, Uid};
use sampan_base::{ChainId, Class, DiffId, FileError, Timestamp, files};
use sampan_kernel::beneath::{self, RootDir};

pub use init::InitLayer;
pub use mapped::{IdMapping, IdRange};
use mount::refresh_upper;
pub use mount::{NotMapped, Snapshotter};
pub use scratch::{Scratch, UserNamespace, Workspace};

use crate::layer::changes::{self, Change};
use crate::layer::diff;
use crate::metadata::{MetadataError, SNAPSHOTS, SnapshotRecord};
use crate::recover::About;
use crate::store::{Lease, NewDirectory, Store};
use crate::unpack::UnpackError;

/// A container's read-write layer and what it lies on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Snapshot {
    /// Its name.
    pub key: String,
    /// The layers that it lies on; `None`: none.
    pub parent: Option<ChainId>,
    /// When it was prepared.
    pub created: Timestamp,
    /// Where changes go.
    pub upper: PathBuf,
}

/// The files of a snapshot that is gone. What is not removed goes when the store opens the next time.
#[derive(Debug)]
#[must_use = "the files are still there"]
pub struct Remains {
    path: PathBuf,
    /// Nobody's litter as long as someone is about to remove it.
    _busy: crate::store::Busy,
}

impl Remains {
    /// Removes them.
    ///
    /// # Errors
    /// If one can't be removed; it may be tried again.
    pub fn remove(&self) -> Result<(), SnapshotError> {
        Ok(remove_directory(&self.path)?)
    }
}

/// Why a snapshot can't be prepared, mounted, read or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The key is taken.
    #[error("a snapshot `{key}` exists already")]
    Exists {
        /// The key.
        key: String,
    },
    /// There is none of that key.
    #[error("no snapshot `{key}`")]
    NotFound {
        /// The key.
        key: String,
    },
    /// A layer to lie on is not in the store.
    #[error("cannot prepare the layers `{}`", chain.0)]
    Parent {
        /// The layers.
        chain: ChainId,
        /// Why.
        source: Box<UnpackError>,
    },
    /// Its directory was removed by somebody else.
    #[error("what `{key}` wrote is gone: `{}` is not there any more", directory.display())]
    Gone {
        /// Its key.
        key: String,
        /// Where it was.
        directory: PathBuf,
    },
    /// The kernel does not mount it.
    #[error("cannot mount the file system of `{key}` at `{}`", at.display())]
    Mount {
        /// Its key.
        key: String,
        /// Where.
        at: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The kernel does not unmount it.
    #[error("cannot unmount `{}`", at.display())]
    Unmount {
        /// Where.
        at: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file of the store.
    #[error(transparent)]
    File(#[from] FileError),
    /// The database.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
}

impl SnapshotError {
    /// The class to report.
    pub fn class(&self) -> Class {
        match self {
            SnapshotError::Exists { .. } => Class::Conflict,
            SnapshotError::NotFound { .. } => Class::NotFound,
            SnapshotError::Gone { .. } => Class::Internal,
            SnapshotError::Parent { source, .. } => source.class(),
            SnapshotError::Mount { source, .. } | SnapshotError::Unmount { source, .. } => {
                match source.kind() {
                    std::io::ErrorKind::Unsupported => Class::Unsupported,
                    _ => Class::Internal,
                }
            }
            SnapshotError::File(e) => match e.class() {
                Class::NotFound => Class::Internal,
                class => class,
            },
            SnapshotError::Metadata(e) => e.class(),
        }
    }
}

impl Store {
    /// Makes the snapshot `key` on top of the layers `parent`, unpacking those that are not yet. It is durable, but
    /// not mounted.
    ///
    /// # Errors
    /// If the key is taken, a layer is missing, or the disk is full; nothing is left then.
    pub fn prepare(
        &self,
        key: &str,
        parent: Option<&ChainId>,
        init: &InitLayer,
    ) -> Result<Snapshot, SnapshotError> {
        let (directory, record) = self.make_snapshot(key, parent, init)?;
        let put = |t: &_| self.metadata().put(t, SNAPSHOTS, key, &record);
        // A parent that is not on disk yet must be first; usually it is, and nothing is synced.
        if parent.is_some_and(|p| self.metadata().pending().chains.contains_key(p)) {
            self.metadata().flush(put)?;
        } else {
            self.metadata().write(put)?;
        }
        directory.keep();
        Ok(self.snapshot_of(key.to_owned(), record))
    }

    /// As [`Store::prepare`], for a container that ends with the machine, if not before: nothing is synced. It
    /// survives this process.
    ///
    /// # Errors
    /// As [`Store::prepare`].
    pub fn prepare_short_lived(
        &self,
        key: &str,
        parent: Option<&ChainId>,
        init: &InitLayer,
    ) -> Result<Snapshot, SnapshotError> {
        if parent.is_some_and(|p| self.metadata().pending().chains.contains_key(p)) {
            // The next process must find its layers.
            return self.prepare(key, parent, init);
        }
        let (directory, record) = self.make_snapshot(key, parent, init)?;
        self.metadata().pending().snapshots.insert(key.to_owned(), record.clone());
        directory.keep();
        Ok(self.snapshot_of(key.to_owned(), record))
    }

    /// All of a snapshot but its record.
    fn make_snapshot(
        &self,
        key: &str,
        parent: Option<&ChainId>,
        init: &InitLayer,
    ) -> Result<(NewDirectory, SnapshotRecord), SnapshotError> {
        let lease = self.lease();
        if self.metadata().snapshot(key)?.is_some() {
            return Err(SnapshotError::Exists { key: key.to_owned() });
        }
        let below = self.layers_below(parent, &lease)?;
        let directory = self.new_directory()?;
        make_parts(directory.path(), &below, init)?;
        let record = SnapshotRecord {
            directory: directory.number(),
            parent: parent.cloned(),
            created: Timestamp::now(),
            mapping: None,
        };
        let about = About::Snapshot {
            key: key.to_owned(),
            parent: record.parent.clone(),
            created: record.created,
            mapping: None,
        };
        about.write(directory.path())?;
        Ok((directory, record))
    }

    /// Mounts the snapshot `key` at the directory `at`.
    ///
    /// # Errors
    /// If there is no such snapshot or the kernel refuses.
    pub fn mount(&self, key: &str, at: &Path) -> Result<(), SnapshotError> {
        let record = self.snapshot_record(key)?;
        let below = self.layers_below(record.parent.as_ref(), &self.lease())?;
        let parts = self.directory_path(record.directory);
        if record.mapping.is_some() {
            let what = "it belongs to a user namespace, and is mounted with its mapping only";
            let source = std::io::Error::new(std::io::ErrorKind::Unsupported, what);
            return Err(SnapshotError::Mount { key: key.to_owned(), at: at.to_owned(), source });
        }
        self.mount_parts(&parts, below, false, at).map_err(|source| {
            let key = key.to_owned();
            if parts.exists() {
                SnapshotError::Mount { key, at: at.to_owned(), source }
            } else {
                SnapshotError::Gone { key, directory: parts }
            }
        })
    }

    /// Unmounts whatever is mounted at `at`, at once for all that look from now on; no error if nothing is.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn unmount(&self, at: &Path) -> Result<(), SnapshotError> {
        overlay::unmount(at).map_err(|source| SnapshotError::Unmount { at: at.to_owned(), source })
    }

    /// Removes the snapshot `key`, which must not be mounted any more. Its layers stay as long as an image or
    /// another snapshot uses them.
    ///
    /// # Errors
    /// If there is none, or its files can't be removed (they then go when the store opens the next time).
    pub fn remove_snapshot(&self, key: &str) -> Result<(), SnapshotError> {
        self.forget_snapshot(key)?.remove()
    }

    /// As [`Store::remove_snapshot`], but its files are left to be removed when there is time: a tree takes the file
    /// system a while.
    ///
    /// # Errors
    /// If there is none.
    pub fn forget_snapshot(&self, key: &str) -> Result<Remains, SnapshotError> {
        let record = self.snapshot_record(key)?;
        let busy = self.busy(record.directory);
        self.metadata().remove_snapshot(key)?;
        Ok(Remains { path: self.directory_path(record.directory), _busy: busy })
    }

    /// All snapshots, ordered by key.
    ///
    /// # Errors
    /// If the database can't be read.
    pub fn snapshots(&self) -> Result<Vec<Snapshot>, SnapshotError> {
        let records = self.metadata().snapshots()?;
        Ok(records.into_iter().map(|(key, record)| self.snapshot_of(key, record)).collect())
    }

    /// The snapshot `key`.
    ///
    /// # Errors
    /// If there is none.
    pub fn snapshot(&self, key: &str) -> Result<Snapshot, SnapshotError> {
        Ok(self.snapshot_of(key.to_owned(), self.snapshot_record(key)?))
    }

    /// What the snapshot `key` changed of its layers, in the order of the paths: `docker diff`.
    ///
    /// # Errors
    /// If there is no such snapshot or it can't be read.
    pub fn changes(&self, key: &str) -> Result<Vec<Change>, SnapshotError> {
        let record = self.snapshot_record(key)?;
        let parts = self.directory_path(record.directory);
        let layers = self.layers_below(record.parent.as_ref(), &self.lease())?;
        refresh_upper(&parts, &layers)?;
        let mut below = vec![parts.join("init")];
        below.extend(layers);
        Ok(changes::changes(&parts.join("fs"), &below, &record.mapping.unwrap_or_default())?)
    }

    /// Bytes of the files in the read-write layer of `key`.
    ///
    /// # Errors
    /// If there is no such snapshot or it can't be read.
    pub fn snapshot_size(&self, key: &str) -> Result<u64, SnapshotError> {
        let record = self.snapshot_record(key)?;
        self.refresh_snapshot(&record)?;
        let upper = self.directory_path(record.directory).join("fs");
        Ok(diff::size(&upper)?)
    }

    fn snapshot_record(&self, key: &str) -> Result<SnapshotRecord, SnapshotError> {
        let record = self.metadata().snapshot(key)?;
        record.ok_or_else(|| SnapshotError::NotFound { key: key.to_owned() })
    }

    fn snapshot_of(&self, key: String, record: SnapshotRecord) -> Snapshot {
        let upper = self.directory_path(record.directory).join("fs");
        Snapshot { key, parent: record.parent, created: record.created, upper }
    }

    /// The directories of the layers of `chain`, the uppermost first, unpacked and held by `lease`.
    fn layers_below(&self, chain: Option<&ChainId>, lease: &Lease) -> Result<Vec<PathBuf>, SnapshotError> {
        let Some(chain) = chain else { return Ok(Vec::new()) };
        self.unpacked(chain, lease)
            .map_err(|source| SnapshotError::Parent { chain: chain.clone(), source: Box::new(source) })
    }
}

/// The parts of a snapshot in its directory. The roots look as the root below does, since the uppermost one's owner
/// and mode are what the container sees.
fn make_parts(directory: &Path, below: &[PathBuf], init: &InitLayer) -> Result<(), FileError> {
    for part in ["fs", "work", "init"] {
        files::create_directories(&directory.join(part), 0o755)?;
    }
    let open = |path: &PathBuf| RootDir::open(path).map_err(FileError::on("open", path));
    let below = below.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    init.write(&directory.join("init"), &below)?;
    for part in ["fs", "init"] {
        if let Some(root) = below.first() {
            like(&directory.join(part), root)?;
        }
    }
    Ok(())
}

/// Gives a new directory the owner, mode and time of the root `model`.
pub(crate) fn like(directory: &Path, model: &RootDir) -> Result<(), FileError> {
    let copied = (|| {
        let stat = rustix::fs::fstat(model)?;
        let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
        rustix::fs::chownat(CWD, directory, Some(uid), Some(gid), AtFlags::empty())?;
        rustix::fs::chmodat(CWD, directory, Mode::from_raw_mode(stat.st_mode & 0o7777), AtFlags::empty())?;
        let times = crate::layer::place::timestamps(crate::layer::place::mtime_of(&stat));
        rustix::fs::utimensat(CWD, directory, &times, AtFlags::empty())
    })();
    copied.map_err(|e| FileError {
        action: "set the owner and mode of",
        path: directory.to_owned(),
        source: e.into(),
    })
}

/// Removes a tree of the store; no error if it is gone.
pub(crate) fn remove_directory(path: &Path) -> Result<(), FileError> {
    beneath::remove_tree(CWD, path.as_os_str()).map_err(FileError::on("remove", path))
}

/// The chain id of `diff_id` on top of `parent`.
pub(crate) fn chain_on(parent: Option<&ChainId>, diff_id: &DiffId) -> ChainId {
    ChainId::extend(parent, diff_id)
}
