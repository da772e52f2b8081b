//! The engine's records on disk: containers and volumes, in `<root>/engine.redb`.
//!
//! ```text
//! table "meta"        "version"        -> 1
//! table "containers"  container id     -> JSON of ContainerRecord
//! table "volumes"     volume name      -> JSON of VolumeRecord
//! table "networks"    network id       -> JSON of NetworkRecord (network/records.rs)
//! ```
//!
//! Crash argument: every change is one redb transaction, which is there as a whole or not at all. What a verb
//! acknowledges is committed durably before the answer ([`Durable::Yes`]); a container's *running* is only noted
//! (it rides with the next durable commit), since a new daemon asks the shims what really runs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};

use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};
use sampan_base::{Class, Timestamp};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::container::health::Health;
use crate::container::state::{Exit, Phase};
use crate::error::{EngineError, Result};
use crate::spec::ContainerSpec;

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const CONTAINERS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("containers");
const VOLUMES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("volumes");
const VERSION: u64 = 1;

/// A container as it is stored.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct ContainerRecord {
    /// 64 hex digits.
    pub id: String,
    /// Its name, without the `/`.
    pub name: String,
    /// When it was created.
    pub created: Timestamp,
    /// The image's id, `sha256:…`.
    pub image_id: String,
    /// The command and arguments that its first process gets.
    pub args: Vec<String>,
    /// What it is to be.
    pub spec: ContainerSpec,
    /// Which ids of the host its ids are, for as long as it is there; `None`: the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mapping: Option<sampan_image::IdMapping>,
    /// Where it is in its life.
    pub phase: Phase,
    /// How often its restart policy has started it again since it was started by hand.
    #[serde(default)]
    pub restart_count: u32,
    /// Its last end was asked for.
    #[serde(default)]
    pub stopped_by_hand: bool,
    /// How it fares, if it has a health check and was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// Why what is stored can't be read; the rest is then what could be guessed, and must not be stored.
    #[serde(skip)]
    pub unreadable: Option<String>,
}

impl ContainerRecord {
    /// Stands for a record that can't be read, so that its container is not forgotten.
    fn unreadable(id: &str, bytes: &[u8], why: &serde_json::Error) -> ContainerRecord {
        let value: serde_json::Value = serde_json::from_slice(bytes).unwrap_or_default();
        let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
        let name = Some(text("name")).filter(|name| crate::spec::check_name(name).is_ok());
        let epoch = Timestamp::from_unix(0, 0).unwrap_or_else(|_| Timestamp::now());
        let message = format!("the container's record on disk can't be read: {why}");
        ContainerRecord {
            id: id.to_owned(),
            name: name.unwrap_or_else(|| format!("unreadable-{}", id.get(..12).unwrap_or(id))),
            created: text("created").parse().unwrap_or(epoch),
            image_id: text("image_id"),
            args: Vec::new(),
            spec: ContainerSpec::default(),
            mapping: None,
            phase: Phase::Exited(Exit {
                code: 255,
                oom_killed: false,
                started_at: epoch,
                finished_at: epoch,
                error: message,
            }),
            restart_count: 0,
            stopped_by_hand: true,
            health: None,
            unreadable: Some(why.to_string()),
        }
    }
}

/// A volume as it is stored.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct VolumeRecord {
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created: Timestamp,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Its name was made up.
    pub anonymous: bool,
    /// The container that it was made for, as long as it is to go with that one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_for: Option<String>,
    /// The driver's options.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
}

/// Whether a change must be on disk before the call returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durable {
    /// Yes.
    Yes,
    /// It may be forgotten in a crash of the machine, though not of the daemon.
    No,
}

/// The records on disk. Calls block for a write and an fsync.
#[derive(Debug)]
pub struct Metadata {
    path: PathBuf,
    /// None while it could not be opened again.
    database: RwLock<Option<Database>>,
    /// It has failed to read or write its file, and answers nothing more until it is opened again.
    broken: AtomicBool,
}

fn failed<E: std::error::Error + Send + Sync + 'static>(
    doing: &'static str,
) -> impl FnOnce(E) -> EngineError {
    EngineError::layer(Class::Internal, format!("cannot {doing} the engine's metadata"))
}

impl Metadata {
    /// Opens the records in `root`, or makes them.
    ///
    /// # Errors
    /// If the file can't be opened, is in use, or was written by a newer version.
    pub fn open(root: &Path) -> Result<Metadata> {
        let path = root.join("engine.redb");
        if !path.exists() {
            create_whole(&path)?;
        }
        let database = open_database(&path)?;
        let write = database.begin_write().map_err(failed("open"))?;
        {
            let mut meta = write.open_table(META).map_err(failed("open"))?;
            let version = meta.get("version").map_err(failed("read"))?.map(|v| v.value());
            match version {
                None => drop(meta.insert("version", VERSION).map_err(failed("write"))?),
                Some(VERSION) => {}
                Some(newer) => {
                    return Err(EngineError::Unsupported(format!(
                        "`{}` has format {newer}; this sampand knows format {VERSION}: use the newer one again",
                        path.display()
                    )));
                }
            }
            write.open_table(CONTAINERS).map_err(failed("open"))?;
            write.open_table(VOLUMES).map_err(failed("open"))?;
            write.open_table(crate::network::NETWORKS).map_err(failed("open"))?;
        }
        write.commit().map_err(failed("write"))?;
        Ok(Metadata { path, database: RwLock::new(Some(database)), broken: AtomicBool::new(false) })
    }

    /// Does something with the database, which is opened again before if it had failed: one that once met a full disk
    /// says no to everything after it, also when there is room again. What was only noted since the last durable change
    /// is then lost, as in a crash.
    fn with<T>(
        &self,
        doing: &'static str,
        work: impl FnOnce(&Database) -> std::result::Result<T, redb::Error>,
    ) -> Result<T> {
        if self.broken.load(Ordering::Acquire) {
            let mut slot = self.database.write().unwrap_or_else(PoisonError::into_inner);
            if self.broken.load(Ordering::Acquire) {
                // Closed first: it locks its file.
                *slot = None;
                *slot = Some(open_database(&self.path)?);
                self.broken.store(false, Ordering::Release);
                tracing::warn!(path = %self.path.display(), "opened the records again after a failure");
            }
        }
        let slot = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let done = match &*slot {
            Some(database) => work(database),
            // Somebody else could not open it again just now.
            None => Err(redb::Error::PreviousIo),
        };
        if matches!(done, Err(redb::Error::Io(_) | redb::Error::PreviousIo)) {
            self.broken.store(true, Ordering::Release);
        }
        done.map_err(failed(doing))
    }

    /// All containers. One that can't be read is reported in the log, and has [`ContainerRecord::unreadable`].
    ///
    /// # Errors
    /// If the database can't be read.
    pub fn containers(&self) -> Result<Vec<ContainerRecord>> {
        self.all(CONTAINERS, "container", |id, bytes, why| Some(ContainerRecord::unreadable(id, bytes, why)))
    }

    /// All volumes.
    ///
    /// # Errors
    /// If the database can't be read.
    pub fn volumes(&self) -> Result<Vec<VolumeRecord>> {
        self.all(VOLUMES, "volume", |_, _, _| None)
    }

    /// Stores a container.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn put_container(&self, record: &ContainerRecord, durable: Durable) -> Result<()> {
        if let Some(why) = &record.unreadable {
            // What is there may be of use to somebody; what would be written is not.
            return Err(failed("change")(std::io::Error::other(why.clone())));
        }
        self.put(CONTAINERS, &record.id, record, durable)
    }

    /// Forgets a container.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn remove_container(&self, id: &str, durable: Durable) -> Result<()> {
        self.remove(CONTAINERS, id, durable)
    }

    /// Stores a volume.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn put_volume(&self, record: &VolumeRecord) -> Result<()> {
        self.put(VOLUMES, &record.name, record, Durable::Yes)
    }

    /// Forgets a volume.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn remove_volume(&self, name: &str) -> Result<()> {
        self.remove(VOLUMES, name, Durable::Yes)
    }

    pub(crate) fn all<T: DeserializeOwned>(
        &self,
        table: TableDefinition<'_, &str, &[u8]>,
        what: &str,
        otherwise: impl Fn(&str, &[u8], &serde_json::Error) -> Option<T>,
    ) -> Result<Vec<T>> {
        self.with("read", |database| {
            let read = database.begin_read()?;
            let table = read.open_table(table)?;
            let mut records = Vec::new();
            for row in table.iter()? {
                let (key, value) = row?;
                match serde_json::from_slice(value.value()) {
                    Ok(record) => records.push(record),
                    Err(error) => {
                        tracing::error!(
                            key = key.value(),
                            %error,
                            "the stored record of a {what} can't be read"
                        );
                        records.extend(otherwise(key.value(), value.value(), &error));
                    }
                }
            }
            Ok(records)
        })
    }

    pub(crate) fn put<T: Serialize>(
        &self,
        table: TableDefinition<'_, &str, &[u8]>,
        key: &str,
        record: &T,
        durable: Durable,
    ) -> Result<()> {
        let bytes = serde_json::to_vec(record).map_err(failed("encode"))?;
        self.with("write", |database| {
            let mut write = database.begin_write()?;
            if durable == Durable::No {
                write.set_durability(Durability::None)?;
            }
            write.open_table(table)?.insert(key, bytes.as_slice())?;
            Ok(write.commit()?)
        })
    }

    pub(crate) fn remove(
        &self,
        table: TableDefinition<'_, &str, &[u8]>,
        key: &str,
        durable: Durable,
    ) -> Result<()> {
        self.with("write", |database| {
            let mut write = database.begin_write()?;
            if durable == Durable::No {
                write.set_durability(Durability::None)?;
            }
            write.open_table(table)?.remove(key)?;
            Ok(write.commit()?)
        })
    }
}

fn open_database(path: &Path) -> Result<Database> {
    Database::open(path)
        .map_err(EngineError::layer(Class::Internal, format!("cannot open `{}`", path.display())))
}

/// Makes an empty database beside `path` and renames it there: redb refuses a file whose making was cut off.
fn create_whole(path: &Path) -> Result<()> {
    let new = path.with_extension("redb.new");
    sampan_base::files::remove_if_exists(&new).map_err(EngineError::file)?;
    let made = Database::create(&new);
    drop(made.map_err(EngineError::layer(Class::Internal, format!("cannot make `{}`", new.display())))?);
    std::fs::rename(&new, path).map_err(EngineError::io(format!("cannot make `{}`", path.display())))?;
    sampan_base::files::sync_directory(path.parent().unwrap_or(path)).map_err(EngineError::file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str) -> ContainerRecord {
        ContainerRecord {
            id: id.to_owned(),
            name: format!("name-{id}"),
            created: Timestamp::now(),
            image_id: "sha256:0".to_owned(),
            args: vec!["true".to_owned()],
            spec: ContainerSpec::default(),
            mapping: None,
            phase: Phase::Created { error: None },
            restart_count: 0,
            stopped_by_hand: false,
            health: None,
            unreadable: None,
        }
    }

    #[test]
    fn a_record_that_cant_be_read_is_not_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let metadata = Metadata::open(dir.path()).unwrap();
        let broken = serde_json::json!({"name": "web", "phase": 7});
        metadata.put(CONTAINERS, "a", &broken, Durable::Yes).unwrap();
        let found = metadata.containers().unwrap();
        assert_eq!((found[0].id.as_str(), found[0].name.as_str()), ("a", "web"));
        assert!(found[0].unreadable.is_some());
        assert!(metadata.put_container(&found[0], Durable::Yes).is_err());
        metadata.remove_container("a", Durable::Yes).unwrap();
        assert!(metadata.containers().unwrap().is_empty());
    }

    #[test]
    fn records_survive_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let metadata = Metadata::open(dir.path()).unwrap();
        let (a, b) = (record("a"), record("b"));
        metadata.put_container(&a, Durable::No).unwrap();
        metadata.put_container(&b, Durable::Yes).unwrap();
        metadata.remove_container("b", Durable::Yes).unwrap();
        drop(metadata);
        assert_eq!(Metadata::open(dir.path()).unwrap().containers().unwrap(), [a]);
    }

    /// A record as version 1 wrote it: fields that came later must have defaults.
    #[test]
    fn reads_the_oldest_record() {
        let text = r#"{"id":"a","name":"n","created":"2026-11-21T10:00:00Z","image_id":"sha256:0","args":["true"],
            "spec":{"image":"debian"},"phase":{"phase":"created","error":null}}"#;
        let record: ContainerRecord = serde_json::from_str(text).unwrap();
        assert_eq!(record.spec.image, "debian");
    }
}
