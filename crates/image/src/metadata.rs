//! What the store knows, in one redb file: which names, images, layers and snapshots there are.
//!
//! ```text
//! image.redb, format 2; keys are text, values JSON
//!   meta       "format"            -> 2
//!   names      canonical reference -> image id
//!   digests    repository@digest   -> image id         (as what it was pulled or pushed)
//!   images     image id            -> ImageRecord      (the id is the digest of the configuration's bytes)
//!   chains     chain id            -> ChainRecord      (a layer on top of those below it)
//!   diffs      diff id             -> DiffRecord       (which blob holds the layer's tar)
//!   snapshots  key                 -> SnapshotRecord   (a container's read-write layer)
//!   cache      build cache key     -> CacheRecord
//! ```
//!
//! A record is committed only when what it speaks of is on disk. Layers and blobs are many files; syncing each
//! would cost more than making them. So their records (`chains`, `diffs`, `cache`) first wait in memory
//! ([`Pending`]), where every reader sees them, and [`Metadata::flush`] syncs the file system once and then commits
//! them together. A crash before that loses records of which nobody was told, and the next
//! [`crate::Store::open`] removes the files that no record names.
//!
//! The record of a short-lived container's snapshot waits there, too; its directory says the same (recover.rs), so
//! that it survives the process without any sync.
//!
//! Format 1 had no `digests`; it is made into format 2 when it is opened, in one transaction.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use redb::{ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use sampan_base::{ChainId, Class, DiffId, Digest, FileError, Timestamp};
use sampan_records::RecordFile;
use serde::{Deserialize, Serialize};

use crate::snapshot::IdMapping;

pub(crate) type Table = TableDefinition<'static, &'static str, &'static [u8]>;

const META: Table = TableDefinition::new("meta");
pub(crate) const NAMES: Table = TableDefinition::new("names");
pub(crate) const DIGESTS: Table = TableDefinition::new("digests");
pub(crate) const IMAGES: Table = TableDefinition::new("images");
pub(crate) const CHAINS: Table = TableDefinition::new("chains");
pub(crate) const DIFFS: Table = TableDefinition::new("diffs");
pub(crate) const SNAPSHOTS: Table = TableDefinition::new("snapshots");
pub(crate) const CACHE: Table = TableDefinition::new("cache");

const FORMAT: u32 = 2;
const OLDEST_FORMAT: u32 = 1;

/// An image.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    pub(crate) manifest: Digest,
    pub(crate) added: Timestamp,
}

/// A layer on top of those below it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct ChainRecord {
    pub(crate) diff_id: DiffId,
    pub(crate) parent: Option<ChainId>,
    /// Where it is unpacked: `snapshots/<number>/fs`. `None`: only its blob is there.
    pub(crate) directory: Option<u64>,
}

/// Where a layer's tar is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct DiffRecord {
    pub(crate) blob: Digest,
    /// Bytes of the blob.
    pub(crate) blob_size: u64,
    pub(crate) media_type: String,
    /// Bytes of the layer's files.
    pub(crate) size: u64,
}

/// A container's read-write layer: `snapshots/<number>/{init,fs,work}`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct SnapshotRecord {
    pub(crate) directory: u64,
    pub(crate) parent: Option<ChainId>,
    pub(crate) created: Timestamp,
    /// The user namespace's ids, if it was mounted for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mapping: Option<IdMapping>,
}

/// What a build step led to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct CacheRecord {
    /// The layers that it holds on to, if any.
    pub(crate) chain: Option<ChainId>,
    /// Whatever the builder wants to remember.
    pub(crate) value: String,
    pub(crate) used: Timestamp,
    /// The step, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) text: String,
    /// Bytes of the files of the layer that it made.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) created: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) uses: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's form")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The database can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MetadataError {
    /// It can't be opened, read or written.
    #[error("cannot {action} the image database `{}`", path.display())]
    Database {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: Box<redb::Error>,
    },
    /// A record is not what this program writes.
    #[error("the record `{key}` in the image database is damaged")]
    Record {
        /// Its key.
        key: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// It was made by a newer program.
    #[error("the image database `{}` has format {found}, this program knows {FORMAT}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// What the records speak of can't be brought to disk.
    #[error(transparent)]
    Sync(#[from] FileError),
}

impl MetadataError {
    /// Whether the file itself is damaged: not the disk, nor a newer program's.
    pub(crate) fn is_damage(&self) -> bool {
        match self {
            MetadataError::Database { source, .. } => sampan_records::is_damage(source),
            MetadataError::Record { .. } => true,
            MetadataError::Format { .. } | MetadataError::Sync(_) => false,
        }
    }

    /// The class to report.
    pub fn class(&self) -> Class {
        match self {
            MetadataError::Database { source, .. } => match &**source {
                redb::Error::Io(e) => sampan_base::error::class_of_io(e),
                _ => Class::Internal,
            },
            MetadataError::Record { .. } => Class::Internal,
            MetadataError::Format { .. } => Class::Unsupported,
            MetadataError::Sync(e) => e.class(),
        }
    }
}

/// Records of layers that are not surely on disk yet.
#[derive(Default)]
pub(crate) struct Pending {
    pub(crate) chains: BTreeMap<ChainId, ChainRecord>,
    pub(crate) diffs: BTreeMap<DiffId, DiffRecord>,
    pub(crate) cache: BTreeMap<String, CacheRecord>,
    /// These need no sync: if they are lost, the machine was, and their containers with it.
    pub(crate) snapshots: BTreeMap<String, SnapshotRecord>,
    /// When cache records were used; written when something else is.
    pub(crate) touched: BTreeMap<String, Timestamp>,
    /// Blobs were written that no record above speaks of (configurations, manifests).
    pub(crate) blobs: bool,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.chains.is_empty() && self.diffs.is_empty() && self.cache.is_empty() && !self.blobs
    }
}

pub(crate) struct Metadata {
    file: RecordFile,
    /// The file system to sync: that of the store's root.
    root: PathBuf,
    pending: Mutex<Pending>,
}

type Result<T> = std::result::Result<T, MetadataError>;

impl Metadata {
    pub(crate) fn open(root: &Path) -> Result<Metadata> {
        let path = root.join("image.redb");
        let failed = |action| {
            let path = path.clone();
            move |source: redb::Error| MetadataError::Database { action, path, source: Box::new(source) }
        };
        if !path.exists() {
            RecordFile::create(&path, |_| Ok(())).map_err(failed("create"))?;
        }
        let metadata = Metadata {
            file: RecordFile::open(&path).map_err(failed("open"))?,
            root: root.to_owned(),
            pending: Mutex::new(Pending::default()),
        };
        let found: Option<u32> = metadata.read_if_there(META, "format")?;
        match found {
            Some(FORMAT) => {}
            Some(found) if !(OLDEST_FORMAT..FORMAT).contains(&found) => {
                return Err(MetadataError::Format { path, found });
            }
            _ => metadata.write(|t| {
                // Opening a table makes it, so that readers find them all.
                for table in [NAMES, DIGESTS, IMAGES, CHAINS, DIFFS, SNAPSHOTS, CACHE] {
                    metadata.on("create tables in", t.open_table(table))?;
                }
                metadata.put(t, META, "format", &FORMAT)
            })?,
        }
        Ok(metadata)
    }

    /// One record.
    pub(crate) fn get<T: for<'de> Deserialize<'de>>(&self, table: Table, key: &str) -> Result<Option<T>> {
        self.read_if_there(table, key)
    }

    fn read_if_there<T: for<'de> Deserialize<'de>>(&self, table: Table, key: &str) -> Result<Option<T>> {
        let transaction = self.on("read", self.file.with(|database| Ok(database.begin_read()?)))?;
        let table = match transaction.open_table(table) {
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            other => self.on("read", other)?,
        };
        match self.on("read", table.get(key))? {
            Some(value) => parse(key, value.value()).map(Some),
            None => Ok(None),
        }
    }

    /// One record, as the transaction sees it.
    pub(crate) fn get_in<T: for<'de> Deserialize<'de>>(
        &self,
        t: &WriteTransaction,
        table: Table,
        key: &str,
    ) -> Result<Option<T>> {
        let table = self.on("read", t.open_table(table))?;
        let value = self.on("read", table.get(key))?;
        value.map(|value| parse(key, value.value())).transpose()
    }

    /// All records of a table, as the transaction sees them.
    pub(crate) fn all_in<T: for<'de> Deserialize<'de>>(
        &self,
        t: &WriteTransaction,
        table: Table,
    ) -> Result<Vec<(String, T)>> {
        self.collect(&self.on("read", t.open_table(table))?)
    }

    /// All records of a table.
    pub(crate) fn all<T: for<'de> Deserialize<'de>>(&self, table: Table) -> Result<Vec<(String, T)>> {
        let transaction = self.on("read", self.file.with(|database| Ok(database.begin_read()?)))?;
        let table = self.on("read", transaction.open_table(table))?;
        self.collect(&table)
    }

    fn collect<T: for<'de> Deserialize<'de>>(
        &self,
        table: &impl ReadableTable<&'static str, &'static [u8]>,
    ) -> Result<Vec<(String, T)>> {
        let mut all = Vec::new();
        for entry in self.on("read", table.iter())? {
            let (key, value) = self.on("read", entry)?;
            all.push((key.value().to_owned(), parse(key.value(), value.value())?));
        }
        Ok(all)
    }

    /// Changes records in one durable transaction; nothing is changed if `change` fails.
    pub(crate) fn write<T>(&self, change: impl FnOnce(&WriteTransaction) -> Result<T>) -> Result<T> {
        let transaction = self.on("write", self.file.with(|database| Ok(database.begin_write()?)))?;
        let value = change(&transaction)?;
        self.on("write", transaction.commit())?;
        Ok(value)
    }

    pub(crate) fn put(
        &self,
        t: &WriteTransaction,
        table: Table,
        key: &str,
        value: &impl Serialize,
    ) -> Result<()> {
        let json = serde_json::to_vec(value)
            .map_err(|source| MetadataError::Record { key: key.to_owned(), source })?;
        let mut table = self.on("write", t.open_table(table))?;
        self.on("write", table.insert(key, json.as_slice()))?;
        Ok(())
    }

    pub(crate) fn delete(&self, t: &WriteTransaction, table: Table, key: &str) -> Result<()> {
        let mut table = self.on("write", t.open_table(table))?;
        self.on("write", table.remove(key))?;
        Ok(())
    }

    /// The records that are not committed yet.
    pub(crate) fn pending(&self) -> MutexGuard<'_, Pending> {
        // What a panicking thread left is still a set of true records.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings the files of all pending records to disk, commits these records and what `change` adds, all or none.
    pub(crate) fn flush<T>(&self, change: impl FnOnce(&WriteTransaction) -> Result<T>) -> Result<T> {
        // Held throughout: a record that came after the sync must not be committed with those before it.
        let mut pending = self.pending();
        if !pending.is_empty() {
            self.sync_files()?;
        }
        let value = self.write(|t| {
            for (key, record) in &pending.chains {
                self.put(t, CHAINS, key.0.as_str(), record)?;
            }
            for (key, record) in &pending.diffs {
                self.put(t, DIFFS, key.0.as_str(), record)?;
            }
            for (key, record) in &pending.cache {
                self.put(t, CACHE, key, record)?;
            }
            for (key, record) in &pending.snapshots {
                self.put(t, SNAPSHOTS, key, record)?;
            }
            crate::cache::age(self, t, &pending.touched)?;
            change(t)
        })?;
        *pending = Pending::default();
        Ok(value)
    }

    /// Brings what was written so far to disk, so that a flush has little to wait for.
    pub(crate) fn sync(&self) -> Result<()> {
        if self.pending().is_empty() { Ok(()) } else { self.sync_files() }
    }

    fn sync_files(&self) -> Result<()> {
        let synced = std::fs::File::open(&self.root).and_then(|f| Ok(rustix::fs::syncfs(f)?));
        Ok(synced.map_err(FileError::on("sync the file system of", &self.root))?)
    }

    pub(crate) fn chain(&self, id: &ChainId) -> Result<Option<ChainRecord>> {
        let pending = self.pending().chains.get(id).cloned();
        match pending {
            Some(record) => Ok(Some(record)),
            None => self.get(CHAINS, id.0.as_str()),
        }
    }

    pub(crate) fn diff(&self, id: &DiffId) -> Result<Option<DiffRecord>> {
        let pending = self.pending().diffs.get(id).cloned();
        match pending {
            Some(record) => Ok(Some(record)),
            None => self.get(DIFFS, id.0.as_str()),
        }
    }

    pub(crate) fn snapshot(&self, key: &str) -> Result<Option<SnapshotRecord>> {
        let pending = self.pending().snapshots.get(key).cloned();
        match pending {
            Some(record) => Ok(Some(record)),
            None => self.get(SNAPSHOTS, key),
        }
    }

    /// All snapshots, ordered by key.
    pub(crate) fn snapshots(&self) -> Result<Vec<(String, SnapshotRecord)>> {
        // In this order: one that is committed meanwhile is met twice rather than never.
        let pending = self.pending().snapshots.clone();
        let mut all: BTreeMap<String, SnapshotRecord> = self.all(SNAPSHOTS)?.into_iter().collect();
        all.extend(pending);
        Ok(all.into_iter().collect())
    }

    /// Changes a snapshot's record, wherever it is.
    pub(crate) fn put_snapshot(&self, key: &str, record: &SnapshotRecord) -> Result<()> {
        if let Some(pending) = self.pending().snapshots.get_mut(key) {
            *pending = record.clone();
            return Ok(());
        }
        self.write(|t| self.put(t, SNAPSHOTS, key, record))
    }

    /// Forgets a snapshot.
    pub(crate) fn remove_snapshot(&self, key: &str) -> Result<()> {
        let mut pending = self.pending();
        if pending.snapshots.remove(key).is_some() {
            return Ok(());
        }
        drop(pending);
        self.write(|t| self.delete(t, SNAPSHOTS, key))
    }

    pub(crate) fn on<T, E: Into<redb::Error>>(
        &self,
        action: &'static str,
        r: std::result::Result<T, E>,
    ) -> Result<T> {
        r.map_err(|e| {
            let source = e.into();
            self.file.note(&source);
            MetadataError::Database { action, path: self.file.path().to_owned(), source: Box::new(source) }
        })
    }
}

fn parse<T: for<'de> Deserialize<'de>>(key: &str, value: &[u8]) -> Result<T> {
    serde_json::from_slice(value).map_err(|source| MetadataError::Record { key: key.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use redb::Database;

    use super::*;

    /// What format 1 has on disk. A change here is a new format, and needs a way to read this one.
    #[test]
    fn records_are_written_as_format_1_says() {
        fn check<T: Serialize + for<'de> Deserialize<'de> + PartialEq + std::fmt::Debug>(
            record: &T,
            json: &str,
        ) {
            let digest = Digest::of(b"");
            let json = json.replace("DIGEST", digest.as_str()).replace("TIME", "2026-11-21T10:00:00Z");
            assert_eq!(serde_json::to_string(record).unwrap(), json);
            assert_eq!(&serde_json::from_str::<T>(&json).unwrap(), record);
        }
        let digest = Digest::of(b"");
        let (chain, diff) = (ChainId(digest.clone()), DiffId(digest.clone()));
        let time: Timestamp = "2026-11-21T10:00:00Z".parse().unwrap();
        check(
            &ImageRecord { manifest: digest.clone(), added: time },
            r#"{"manifest":"DIGEST","added":"TIME"}"#,
        );
        check(
            &ChainRecord { diff_id: diff, parent: None, directory: Some(7) },
            r#"{"diff_id":"DIGEST","parent":null,"directory":7}"#,
        );
        check(
            &DiffRecord { blob: digest, blob_size: 1, media_type: "m".into(), size: 2 },
            r#"{"blob":"DIGEST","blob_size":1,"media_type":"m","size":2}"#,
        );
        check(
            &SnapshotRecord { directory: 7, parent: Some(chain.clone()), created: time, mapping: None },
            r#"{"directory":7,"parent":"DIGEST","created":"TIME"}"#,
        );
        check(
            &CacheRecord {
                chain: Some(chain),
                value: "v".into(),
                used: time,
                text: String::new(),
                size: 0,
                created: None,
                uses: 0,
            },
            r#"{"chain":"DIGEST","value":"v","used":"TIME"}"#,
        );
    }

    /// A database as the first versions made it, with a name, an image and a layer.
    #[test]
    fn a_database_of_format_1_is_read_and_becomes_format_2() {
        let dir = tempfile::tempdir().unwrap();
        let digest = Digest::of(b"");
        {
            let database = Database::create(dir.path().join("image.redb")).unwrap();
            let t = database.begin_write().unwrap();
            for table in ["meta", "names", "images", "chains", "diffs", "snapshots", "cache"] {
                t.open_table(Table::new(table)).unwrap();
            }
            let put = |table, key: &str, json: &str| {
                let json = json.replace("DIGEST", digest.as_str()).replace("TIME", "2026-11-21T10:00:00Z");
                t.open_table(Table::new(table)).unwrap().insert(key, json.as_bytes()).unwrap();
            };
            put("meta", "format", "1");
            put("names", "docker.io/library/a:1", "\"DIGEST\"");
            put("images", digest.as_str(), r#"{"manifest":"DIGEST","added":"TIME"}"#);
            put("chains", digest.as_str(), r#"{"diff_id":"DIGEST","parent":null,"directory":7}"#);
            put("diffs", digest.as_str(), r#"{"blob":"DIGEST","blob_size":1,"media_type":"m","size":2}"#);
            put("snapshots", "c", r#"{"directory":7,"parent":"DIGEST","created":"TIME"}"#);
            put("cache", "k", r#"{"chain":"DIGEST","value":"v","used":"TIME"}"#);
            t.commit().unwrap();
        }
        for _ in 0..2 {
            let metadata = Metadata::open(dir.path()).unwrap();
            assert_eq!(metadata.get::<u32>(META, "format").unwrap(), Some(2));
            assert_eq!(metadata.all::<ImageRecord>(IMAGES).unwrap()[0].1.manifest, digest);
            assert_eq!(metadata.all::<ChainRecord>(CHAINS).unwrap()[0].1.directory, Some(7));
            assert_eq!(metadata.all::<DiffRecord>(DIFFS).unwrap()[0].1.size, 2);
            assert_eq!(metadata.all::<SnapshotRecord>(SNAPSHOTS).unwrap()[0].1.mapping, None);
            assert_eq!(metadata.all::<CacheRecord>(CACHE).unwrap()[0].1.value, "v");
            assert!(metadata.all::<Digest>(DIGESTS).unwrap().is_empty());
        }
    }
}
