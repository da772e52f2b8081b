//! Volumes: directories `<root>/volumes/<name>/_data` that outlive containers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use sampan_base::{Timestamp, files as disk};

use crate::error::{EngineError, Result};
use crate::events::EventKind;
use crate::metadata::VolumeRecord;
use crate::spec::{ContainerSpec, MountSource};
use crate::{Engine, Inner, blocking, long_blocking};

pub(crate) mod local;

/// A volume and where it lies.
#[derive(Clone, Debug, PartialEq)]
pub struct Volume {
    /// What is stored of it.
    pub record: VolumeRecord,
    /// Its directory on the host.
    pub directory: PathBuf,
}

impl Volume {
    /// Whether nothing is in it; one that is mounted when used is not looked into.
    pub(crate) fn is_empty(&self) -> bool {
        let looked_into = self.record.options.is_empty();
        looked_into && std::fs::read_dir(&self.directory).is_ok_and(|mut entries| entries.next().is_none())
    }
}

pub(crate) fn directory(inner: &Inner, name: &str) -> PathBuf {
    inner.config.volumes().join(name).join("_data")
}

/// Volumes' names are container names of at least two characters, as in Docker.
fn check_name(name: &str) -> Result<()> {
    if name.chars().count() == 1 {
        return Err(EngineError::Invalid(format!(
            "create {name}: volume name is too short, names should be at least two alphanumeric characters"
        )));
    }
    crate::spec::check_name(name).map_err(|_| {
        EngineError::Invalid(format!(
            "create {name}: \"{name}\" includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
        ))
    })
}

/// A volume to be made.
#[derive(Clone, Debug, Default)]
pub struct NewVolume {
    /// Its name; empty: one is made up.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// `local`, also when empty.
    pub driver: String,
    /// The driver's options: `type`, `device`, `o`.
    pub options: BTreeMap<String, String>,
    /// Its name was made up.
    pub anonymous: bool,
    /// The container that it is made for, with which it goes.
    pub made_for: Option<String>,
}

/// Makes the volume, which belongs to `owner`, unless there is one of its name; tells whether it is new.
///
/// The record comes before the directory and goes after it, so that a crash leaves no directory that nobody knows.
pub(crate) fn ensure(inner: &Inner, new: NewVolume, owner: Option<(u32, u32)>) -> Result<(Volume, bool)> {
    check_name(&new.name)?;
    let name = &new.name;
    if !matches!(new.driver.as_str(), "" | "local") {
        let driver = &new.driver;
        return Err(EngineError::NoSuchPlugin { doing: format!("create {name}"), name: driver.clone() });
    }
    local::check(&new.options).map_err(|error| match error {
        EngineError::Invalid(why) => EngineError::Invalid(format!("create {name}: {why}")),
        other => other,
    })?;
    // Two requests for the same name make one volume.
    let _turn = inner.volumes_turn.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let existing = inner.metadata.volumes()?.into_iter().find(|v| v.name == *name);
    let directory = directory(inner, name);
    let make_directory = || {
        disk::create_directories(&inner.config.volumes(), 0o711)?;
        disk::create_directories(&directory, 0o755)
    };
    if let Some(record) = existing {
        make_directory().map_err(EngineError::file)?;
        return Ok((Volume { record, directory }, false));
    }
    let record = VolumeRecord {
        name: name.clone(),
        created: Timestamp::now(),
        labels: new.labels,
        anonymous: new.anonymous,
        made_for: new.made_for,
        options: new.options,
    };
    inner.metadata.put_volume(&record)?;
    make_directory().map_err(EngineError::file)?;
    if let (Some((uid, gid)), true) = (owner, record.options.is_empty()) {
        std::os::unix::fs::lchown(&directory, Some(uid), Some(gid))
            .map_err(EngineError::io(format!("cannot change the owner of `{}`", directory.display())))?;
    }
    let attributes = BTreeMap::from([("driver".to_owned(), "local".to_owned())]);
    inner.events.publish(EventKind::Volume, "create", name, attributes);
    Ok((Volume { record, directory }, true))
}

/// The volume of this name.
pub(crate) fn find(inner: &Inner, name: &str) -> Result<Volume> {
    let record = inner.metadata.volumes()?.into_iter().find(|v| v.name == name);
    let record = record.ok_or_else(|| EngineError::NoSuchVolume { name: name.to_owned() })?;
    let directory = directory(inner, name);
    Ok(Volume { record, directory })
}

/// Tells that a container has begun or ceased to use its volumes.
pub(crate) fn publish_use(inner: &Inner, id: &str, spec: &ContainerSpec, begins: bool) {
    for mount in &spec.mounts {
        let MountSource::Volume { name, .. } = &mount.source else { continue };
        let mut attributes = BTreeMap::from([
            ("container".to_owned(), id.to_owned()),
            ("driver".to_owned(), "local".to_owned()),
        ]);
        if begins {
            attributes.insert("destination".to_owned(), mount.target.clone());
            attributes.insert("propagation".to_owned(), mount.propagation.clone());
            attributes.insert("read/write".to_owned(), (!mount.read_only).to_string());
        }
        inner.events.publish(EventKind::Volume, if begins { "mount" } else { "unmount" }, name, attributes);
    }
}

/// Removes the volumes that were made for the container `id` alone, but for those that another one has come to use. What
/// fails is logged: the volume is then an unused one.
pub(crate) fn remove_anonymous(inner: &Inner, id: &str, spec: &ContainerSpec) {
    for mount in &spec.mounts {
        if let MountSource::Volume { name, anonymous: true, .. } = &mount.source
            && !used_by_others(inner, id, name)
            && let Err(error) = remove(inner, name)
        {
            tracing::warn!(volume = name, error = sampan_base::chain(&error), "cannot remove the volume");
        }
    }
}

/// Whether a container has volumes that go with it.
pub(crate) fn has_anonymous(spec: &ContainerSpec) -> bool {
    spec.mounts.iter().any(|mount| matches!(mount.source, MountSource::Volume { anonymous: true, .. }))
}

/// Lets volumes that were made for the container `id` outlive it: those that others use, or all.
pub(crate) fn keep_anonymous(inner: &Inner, id: &str, all: bool) -> Result<()> {
    for record in inner.metadata.volumes()? {
        if record.made_for.as_deref() == Some(id) && (all || used_by_others(inner, id, &record.name)) {
            inner.metadata.put_volume(&VolumeRecord { made_for: None, ..record })?;
        }
    }
    Ok(())
}

/// Removes the volumes that were made for containers that there are none of: a daemon was killed between the two.
pub(crate) fn remove_unowned(inner: &Inner, known: &BTreeSet<String>) -> Result<()> {
    let containers = inner.metadata.containers()?;
    for record in inner.metadata.volumes()? {
        if record.made_for.as_ref().is_none_or(|id| known.contains(id)) {
            continue;
        }
        if containers.iter().any(|c| uses(&c.spec, &record.name)) {
            inner.metadata.put_volume(&VolumeRecord { made_for: None, ..record })?;
        } else {
            tracing::warn!(
                volume = record.name,
                "removing a volume that was made for a container that is gone"
            );
            remove(inner, &record.name)?;
        }
    }
    Ok(())
}

fn used_by_others(inner: &Inner, id: &str, volume: &str) -> bool {
    inner.containers().all().iter().any(|c| c.id != id && uses(&c.view.borrow().record.spec, volume))
}

fn uses(spec: &ContainerSpec, volume: &str) -> bool {
    spec.mounts.iter().any(|m| matches!(&m.source, MountSource::Volume { name, .. } if name == volume))
}

fn remove(inner: &Inner, name: &str) -> Result<()> {
    if local::is_mounted(inner, name) {
        return Err(EngineError::Conflict(format!("remove {name}: volume is in use")));
    }
    disk::remove_if_exists(&inner.config.volumes().join(name)).map_err(EngineError::file)?;
    inner.metadata.remove_volume(name)?;
    inner.events.publish(
        EventKind::Volume,
        "destroy",
        name,
        BTreeMap::from([("driver".to_owned(), "local".to_owned())]),
    );
    Ok(())
}

/// Bytes of the files below a directory; links count as links.
fn bytes_in(directory: &Path) -> std::io::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { bytes_in(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}

impl Engine {
    /// All volumes.
    ///
    /// # Errors
    /// If the metadata can't be read.
    pub async fn volumes(&self) -> Result<Vec<Volume>> {
        let inner = self.inner.clone();
        blocking(move || {
            let records = inner.metadata.volumes()?;
            let with_directory = |record: VolumeRecord| {
                let directory = directory(&inner, &record.name);
                Volume { record, directory }
            };
            Ok(records.into_iter().map(with_directory).collect())
        })
        .await
    }

    /// The volume of this name.
    ///
    /// # Errors
    /// If there is none.
    pub async fn volume(&self, name: &str) -> Result<Volume> {
        let found = self.volumes().await?.into_iter().find(|v| v.record.name == name);
        found.ok_or_else(|| EngineError::NoSuchVolume { name: name.to_owned() })
    }

    /// Makes a volume, or answers the one that has the name; without a name, one is made up.
    ///
    /// # Errors
    /// If the name can't be one.
    pub async fn volume_create(&self, mut new: NewVolume) -> Result<Volume> {
        let inner = self.inner.clone();
        blocking(move || {
            new.anonymous = new.name.is_empty();
            if new.anonymous {
                new.name = sampan_base::id::random_id().map_err(EngineError::io("cannot make a name"))?;
            }
            Ok(ensure(&inner, new, inner.userns.root())?.0)
        })
        .await
    }

    /// Removes a volume that no container uses.
    ///
    /// # Errors
    /// If there is none of this name or a container uses it.
    pub async fn volume_remove(&self, name: &str) -> Result<()> {
        self.volume(name).await?;
        let users = self.volume_users(name);
        if !users.is_empty() {
            return Err(EngineError::Conflict(format!(
                "remove {name}: volume is in use - [{}]",
                users.join(", ")
            )));
        }
        let (inner, name) = (self.inner.clone(), name.to_owned());
        blocking(move || remove(&inner, &name)).await
    }

    /// Bytes of a volume's files.
    ///
    /// # Errors
    /// If there is none of this name or it can't be read.
    pub async fn volume_bytes(&self, name: &str) -> Result<u64> {
        let directory = self.volume(name).await?.directory;
        let failed = EngineError::io(format!("cannot size the volume `{name}`"));
        long_blocking(move || bytes_in(&directory)).await.map_err(failed)
    }

    /// The ids of the containers that have the volume.
    pub fn volume_users(&self, name: &str) -> Vec<String> {
        let views = self.containers().into_iter();
        views.filter(|v| uses(&v.record.spec, name)).map(|v| v.record.id).collect()
    }

    /// Removes the volumes that no container uses and that are `wanted` away. Answers what went and the bytes freed.
    ///
    /// # Errors
    /// If the metadata can't be read, or one can't be removed.
    pub async fn volumes_prune(&self, wanted: impl Fn(&Volume) -> bool + Send) -> Result<(Vec<String>, u64)> {
        let (mut removed, mut bytes) = (Vec::new(), 0);
        for volume in self.volumes().await? {
            let name = volume.record.name.clone();
            if !wanted(&volume) || !self.volume_users(&name).is_empty() {
                continue;
            }
            let size = self.volume_bytes(&name).await?;
            match self.volume_remove(&name).await {
                Ok(()) => {
                    bytes += size;
                    removed.push(name);
                }
                // It is in use or gone by now.
                Err(error) => tracing::debug!(error = sampan_base::chain(&error), "not pruned"),
            }
        }
        self.inner.prune_event(EventKind::Volume, bytes);
        Ok((removed, bytes))
    }
}
