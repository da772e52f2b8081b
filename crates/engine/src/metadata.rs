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
//!
//! The record of a container with `--rm` is not here but a file that a reboot forgets ([`short_lived`]).
//!
//! Each record has a copy in a file ([`copies`]), written behind. A file that is damaged is set aside, and a new one is made
//! of the copies; a container or a volume of which there is only its directory gets a stand-in.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition, TableHandle};
use sampan_base::{Class, Timestamp};
use sampan_records::{Opening, RecordFile};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

mod copies;
mod short_lived;

use self::copies::Copies;
use self::short_lived::ShortLived;
pub(crate) use self::short_lived::is_short_lived;
use crate::container::health::Health;
use crate::container::state::{Exit, Phase};
use crate::error::{EngineError, Result};
use crate::spec::ContainerSpec;

type Table = TableDefinition<'static, &'static str, &'static [u8]>;

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const CONTAINERS: Table = TableDefinition::new("containers");
const VOLUMES: Table = TableDefinition::new("volumes");
const TABLES: [Table; 3] = [CONTAINERS, VOLUMES, crate::network::NETWORKS];
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
    file: RecordFile,
    copies: Copies,
    short_lived: ShortLived,
}

fn failed<E: std::error::Error + Send + Sync + 'static>(
    doing: &'static str,
) -> impl FnOnce(E) -> EngineError {
    EngineError::layer(Class::Internal, format!("cannot {doing} the engine's metadata"))
}

impl Metadata {
    /// Opens the records in `root`, and in `state` those that a reboot forgets, or makes them: of their copies, if the
    /// file is damaged or gone.
    ///
    /// # Errors
    /// If the file can't be opened, is in use, or was written by a newer version.
    pub fn open(root: &Path, state: &Path) -> Result<Metadata> {
        let path = root.join("engine.redb");
        let opening = Opening::begin(&path);
        let short_lived = ShortLived::open(state).map_err(EngineError::file)?;
        let opened = open_or_mend(root, &path, opening.is_hopeless(), &short_lived);
        opening.end();
        let file = opened?;
        let copies =
            Copies::begin(root).map_err(EngineError::io("cannot start the thread that copies records"))?;
        for table in TABLES {
            let rows = file.with(|database| rows(database, table)).map_err(failed("read"))?;
            copies.match_table(root, table.name(), &rows);
        }
        Ok(Metadata { file, copies, short_lived })
    }

    /// All containers. One that can't be read is reported in the log, and has [`ContainerRecord::unreadable`].
    ///
    /// # Errors
    /// If the database can't be read.
    pub fn containers(&self) -> Result<Vec<ContainerRecord>> {
        let unreadable = |id: &str, bytes: &[u8], why: &_| Some(ContainerRecord::unreadable(id, bytes, why));
        let mut all = self.short_lived.all();
        let short_lived: BTreeSet<String> = all.iter().map(|record| record.id.clone()).collect();
        let stored = self.all(CONTAINERS, "container", unreadable)?;
        // Of one that has both, the other is an older daemon's.
        all.extend(stored.into_iter().filter(|record| !short_lived.contains(&record.id)));
        Ok(all)
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
        if is_short_lived(record) {
            let bytes = serde_json::to_vec(record).map_err(failed("encode"))?;
            return self.short_lived.put(&record.id, &bytes).map_err(EngineError::file);
        }
        self.put(CONTAINERS, &record.id, record, durable)
    }

    /// Forgets a container.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn remove_container(&self, id: &str, durable: Durable) -> Result<()> {
        if self.short_lived.remove(id).map_err(EngineError::file)? {
            return Ok(());
        }
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
        table: Table,
        what: &str,
        otherwise: impl Fn(&str, &[u8], &serde_json::Error) -> Option<T>,
    ) -> Result<Vec<T>> {
        let records = self.file.with(|database| {
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
        });
        records.map_err(failed("read"))
    }

    pub(crate) fn put<T: Serialize>(
        &self,
        table: Table,
        key: &str,
        record: &T,
        durable: Durable,
    ) -> Result<()> {
        let bytes = serde_json::to_vec(record).map_err(failed("encode"))?;
        let done = self.file.with(|database| {
            let mut write = database.begin_write()?;
            if durable == Durable::No {
                write.set_durability(Durability::None)?;
            }
            write.open_table(table)?.insert(key, bytes.as_slice())?;
            Ok(write.commit()?)
        });
        done.map_err(failed("write"))?;
        // What is only noted is asked of the shims anyway.
        if durable == Durable::Yes {
            self.copies.put(table.name(), key, Some(bytes));
        }
        Ok(())
    }

    pub(crate) fn remove(&self, table: Table, key: &str, durable: Durable) -> Result<()> {
        let done = self.file.with(|database| {
            let mut write = database.begin_write()?;
            if durable == Durable::No {
                write.set_durability(Durability::None)?;
            }
            write.open_table(table)?.remove(key)?;
            Ok(write.commit()?)
        });
        done.map_err(failed("write"))?;
        self.copies.put(table.name(), key, None);
        Ok(())
    }
}

/// Opens the file and reads all of it: damage is found now, not when a container starts.
fn open_or_mend(root: &Path, path: &Path, hopeless: bool, short_lived: &ShortLived) -> Result<RecordFile> {
    let opening = || EngineError::layer(Class::Internal, format!("cannot open `{}`", path.display()));
    let why = match path.exists() {
        true if hopeless => Some("daemons before this one ended while they opened it".to_owned()),
        true => match RecordFile::open(path).and_then(|file| check(&file).map(|format| (file, format))) {
            Ok((file, VERSION)) => return Ok(file),
            Ok((_, newer)) => {
                return Err(EngineError::Unsupported(format!(
                    "`{}` has format {newer}; this sampand knows format {VERSION}: use the newer one again",
                    path.display()
                )));
            }
            Err(error) if sampan_records::is_damage(&error) => Some(sampan_base::chain(&error)),
            Err(error) => return Err(opening()(error)),
        },
        false => None,
    };
    let aside =
        why.is_some().then(|| sampan_records::set_aside(path)).transpose().map_err(EngineError::file)?;
    let elsewhere: BTreeSet<String> = short_lived.all().into_iter().map(|record| record.id).collect();
    let tables = TABLES.map(|table| (table, salvage(root, table, &elsewhere)));
    let made = RecordFile::create(path, |database| -> std::result::Result<(), redb::Error> {
        let write = database.begin_write()?;
        write.open_table(META)?.insert("version", VERSION)?;
        for (definition, rows) in &tables {
            let mut table = write.open_table(*definition)?;
            for (key, record) in rows {
                table.insert(key.as_str(), record.as_slice())?;
            }
        }
        Ok(write.commit()?)
    });
    made.map_err(EngineError::layer(Class::Internal, format!("cannot make `{}`", path.display())))?;
    if aside.is_some() || tables.iter().any(|(_, rows)| !rows.is_empty()) {
        let [containers, volumes, networks] = tables.map(|(_, rows)| rows.len());
        let why = why.unwrap_or_else(|| "it is gone".to_owned());
        let set_aside = aside.map(|path| path.display().to_string()).unwrap_or_default();
        tracing::error!(
            path = %path.display(), why, set_aside, containers, volumes, networks,
            "the engine's records could not be read, and were made anew of their copies"
        );
    }
    RecordFile::open(path).map_err(opening())
}

/// Reads everything, and tells the format.
fn check(file: &RecordFile) -> std::result::Result<u64, redb::Error> {
    file.with(|database| {
        let meta = database.begin_read()?.open_table(META)?;
        let format = meta.get("version")?.map(|version| version.value());
        for table in TABLES {
            match rows(database, table) {
                // One that came after the file was made.
                Err(redb::Error::TableDoesNotExist(_)) => {
                    let write = database.begin_write()?;
                    drop(write.open_table(table)?);
                    write.commit()?;
                }
                other => drop(other?),
            }
        }
        // Without one it is none of ours.
        format.ok_or_else(|| redb::Error::Corrupted("it names no format".to_owned()))
    })
}

fn rows(database: &Database, table: Table) -> std::result::Result<BTreeMap<String, Vec<u8>>, redb::Error> {
    let table = database.begin_read()?.open_table(table)?;
    let mut rows = BTreeMap::new();
    for row in table.iter()? {
        let (key, value) = row?;
        rows.insert(key.value().to_owned(), value.value().to_vec());
    }
    Ok(rows)
}

/// Whether it is a name that the engine made up: 64 hex digits.
fn is_id(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit())
}

/// What is left of a table: the copies of its records, and a stand-in for whatever else has a directory here, and no record
/// elsewhere, so that no file of it is taken for something left behind.
fn salvage(root: &Path, table: Table, elsewhere: &BTreeSet<String>) -> BTreeMap<String, Vec<u8>> {
    let mut found = copies::read(root, table.name());
    let directory = root.join(table.name());
    if table.name() == CONTAINERS.name() {
        let stored_here = |name: &str| is_id(name) && !elsewhere.contains(name);
        for (id, _) in copies::entries(&directory).filter(|(name, _)| stored_here(name)) {
            found.entry(id).or_insert_with(|| b"{}".to_vec());
        }
    }
    if table.name() == VOLUMES.name() {
        let kept = copies::entries(&directory).filter(|(_, path)| path.join("_data").is_dir());
        for (name, _) in kept.filter(|(name, _)| crate::spec::check_name(name).is_ok()) {
            let record = VolumeRecord {
                anonymous: is_id(&name),
                name: name.clone(),
                created: Timestamp::now(),
                labels: BTreeMap::new(),
                made_for: None,
                options: BTreeMap::new(),
            };
            found.entry(name).or_insert_with(|| serde_json::to_vec(&record).unwrap_or_default());
        }
    }
    found
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
        let metadata = Metadata::open(dir.path(), &dir.path().join("state")).unwrap();
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
        let metadata = Metadata::open(dir.path(), &dir.path().join("state")).unwrap();
        let (a, b) = (record("a"), record("b"));
        metadata.put_container(&a, Durable::No).unwrap();
        metadata.put_container(&b, Durable::Yes).unwrap();
        metadata.remove_container("b", Durable::Yes).unwrap();
        drop(metadata);
        assert_eq!(Metadata::open(dir.path(), &dir.path().join("state")).unwrap().containers().unwrap(), [a]);
    }

    #[test]
    fn what_ends_with_the_machine_survives_the_daemon_and_not_the_machine() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let metadata = Metadata::open(dir.path(), &state).unwrap();
        let mut short = record(&"a".repeat(64));
        short.spec.auto_remove = true;
        metadata.put_container(&short, Durable::Yes).unwrap();
        metadata.put_container(&record("b"), Durable::Yes).unwrap();
        drop(metadata);
        let metadata = Metadata::open(dir.path(), &state).unwrap();
        assert_eq!(
            metadata.containers().unwrap(),
            [short.clone(), metadata.containers().unwrap()[1].clone()]
        );
        metadata.remove_container(&short.id, Durable::Yes).unwrap();
        assert_eq!(metadata.containers().unwrap().len(), 1);
        metadata.put_container(&short, Durable::Yes).unwrap();
        drop(metadata);
        std::fs::remove_dir_all(&state).unwrap();
        assert_eq!(Metadata::open(dir.path(), &state).unwrap().containers().unwrap().len(), 1);
    }

    /// A record as version 1 wrote it: fields that came later must have defaults.
    #[test]
    fn reads_the_oldest_record() {
        let text = r#"{"id":"a","name":"n","created":"2026-11-21T10:00:00Z","image_id":"sha256:0","args":["true"],
            "spec":{"image":"debian"},"phase":{"phase":"created","error":null}}"#;
        let record: ContainerRecord = serde_json::from_str(text).unwrap();
        assert_eq!(record.spec.image, "debian");
    }

    #[test]
    fn a_damaged_file_is_made_anew_of_copies_and_directories() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("engine.redb");
        let metadata = Metadata::open(dir.path(), &dir.path().join("state")).unwrap();
        let volume = |name: &str| VolumeRecord {
            name: name.to_owned(),
            created: Timestamp::now(),
            labels: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
            anonymous: false,
            made_for: None,
            options: BTreeMap::new(),
        };
        let (a, v) = (record("a"), volume("vol"));
        metadata.put_container(&a, Durable::Yes).unwrap();
        metadata.put_container(&record("gone"), Durable::Yes).unwrap();
        metadata.remove_container("gone", Durable::No).unwrap();
        metadata.put_volume(&v).unwrap();
        drop(metadata);
        // Of these there is no copy.
        let bare = "0123456789abcdef".repeat(4);
        std::fs::create_dir_all(dir.path().join("containers").join(&bare)).unwrap();
        std::fs::create_dir_all(dir.path().join("volumes/www/_data")).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for damaged in [Some(&whole[..whole.len() / 2]), Some(&whole[..0]), None] {
            match damaged {
                Some(bytes) => std::fs::write(&path, bytes).unwrap(),
                None => std::fs::remove_file(&path).unwrap(),
            }
            let metadata = Metadata::open(dir.path(), &dir.path().join("state")).unwrap();
            let found = metadata.containers().unwrap();
            let readable: Vec<_> = found.iter().map(|r| (r.id.as_str(), r.unreadable.is_none())).collect();
            assert_eq!(readable, [(bare.as_str(), false), ("a", true)]);
            assert_eq!(found[1], a);
            let volumes = metadata.volumes().unwrap();
            assert_eq!(volumes[0], v);
            assert_eq!(volumes[1].name, "www");
        }
        let aside = copies::entries(dir.path()).filter(|(name, _)| name.starts_with("engine.redb.damaged-"));
        assert_eq!(aside.count(), 2);
    }

    #[test]
    fn a_file_that_kills_who_opens_it_is_given_up_and_one_of_a_newer_version_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("engine.redb");
        let metadata = Metadata::open(dir.path(), &dir.path().join("state")).unwrap();
        metadata.put_container(&record("a"), Durable::Yes).unwrap();
        drop(metadata);
        // Two daemons ended there; the third one must not.
        for _ in 0..2 {
            drop(Opening::begin(&path));
        }
        let metadata = Metadata::open(dir.path(), &dir.path().join("state")).unwrap();
        assert_eq!(metadata.containers().unwrap().len(), 1);
        let newer = metadata.file.with(|database| {
            let write = database.begin_write()?;
            write.open_table(META)?.insert("version", VERSION + 1)?;
            Ok(write.commit()?)
        });
        newer.unwrap();
        drop(metadata);
        assert!(
            Metadata::open(dir.path(), &dir.path().join("state"))
                .unwrap_err()
                .to_string()
                .contains("newer one")
        );
        let aside = copies::entries(dir.path()).filter(|(name, _)| name.starts_with("engine.redb.damaged-"));
        assert_eq!(aside.count(), 1);
    }
}
