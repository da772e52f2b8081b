//! Volumes: directories `<root>/volumes/<name>/_data` that outlive containers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use sampan_base::{Timestamp, files as disk};

use crate::error::{EngineError, Result};
use crate::events::EventKind;
use crate::metadata::VolumeRecord;
use crate::spec::{ContainerSpec, MountSource};
use crate::{Engine, Inner, blocking, long_blocking};

/// A volume and where it lies.
#[derive(Clone, Debug, PartialEq)]
pub struct Volume {
    /// What is stored of it.
    pub record: VolumeRecord,
    /// Its directory on the host.
    pub directory: PathBuf,
}

pub(crate) fn directory(inner: &Inner, name: &str) -> PathBuf {
    inner.config.volumes().join(name).join("_data")
}

/// Volumes' names are container names of at least two characters, as in Docker.
fn check_name(name: &str) -> Result<()> {
    crate::spec::check_name(name).map_err(|_| {
        EngineError::Invalid(format!(
            "create {name}: \"{name}\" includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
        ))
    })
}

/// Makes the volume `name` unless there is one; tells whether it is new. Where it is made for a container, it goes with it.
///
/// The record comes before the directory and goes after it, so that a crash leaves no directory that nobody knows.
pub(crate) fn ensure(
    inner: &Inner,
    name: &str,
    labels: BTreeMap<String, String>,
    anonymous: bool,
    made_for: Option<&str>,
) -> Result<(Volume, bool)> {
    check_name(name)?;
    let existing = inner.metadata.volumes()?.into_iter().find(|v| v.name == name);
    let directory = directory(inner, name);
    let make_directory = || {
        disk::create_directories(&inner.config.volumes(), 0o711)?;
        disk::create_directories(&directory, 0o755)
    };
    if let Some(record) = existing {
        make_directory().map_err(EngineError::file)?;
        return Ok((Volume { record, directory }, false));
    }
    let made_for = made_for.map(str::to_owned);
    let record =
        VolumeRecord { name: name.to_owned(), created: Timestamp::now(), labels, anonymous, made_for };
    inner.metadata.put_volume(&record)?;
    make_directory().map_err(EngineError::file)?;
    let attributes = BTreeMap::from([("driver".to_owned(), "local".to_owned())]);
    inner.events.publish(EventKind::Volume, "create", name, attributes);
    Ok((Volume { record, directory }, true))
}

/// Where each volume of the spec's mounts lies.
pub(crate) fn sources(inner: &Inner, spec: &ContainerSpec) -> BTreeMap<String, PathBuf> {
    let names = spec.mounts.iter().filter_map(|m| match &m.source {
        MountSource::Volume { name, .. } => Some(name),
        _ => None,
    });
    names.map(|name| (name.clone(), directory(inner, name))).collect()
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
    pub async fn volume_create(
        &self,
        name: Option<String>,
        labels: BTreeMap<String, String>,
    ) -> Result<Volume> {
        let inner = self.inner.clone();
        blocking(move || {
            let anonymous = name.is_none();
            let name = match name {
                Some(name) => name,
                None => sampan_base::id::random_id().map_err(EngineError::io("cannot make a name"))?,
            };
            Ok(ensure(&inner, &name, labels, anonymous, None)?.0)
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

    /// Removes the volumes that no container uses: the ones without a given name, or all. Answers what went and the bytes
    /// freed.
    ///
    /// # Errors
    /// If the metadata can't be read, or one can't be removed.
    pub async fn volumes_prune(&self, all: bool) -> Result<(Vec<String>, u64)> {
        let (mut removed, mut bytes) = (Vec::new(), 0);
        for volume in self.volumes().await? {
            let name = volume.record.name;
            if (all || volume.record.anonymous) && self.volume_users(&name).is_empty() {
                bytes += self.volume_bytes(&name).await?;
                self.volume_remove(&name).await?;
                removed.push(name);
            }
        }
        Ok((removed, bytes))
    }
}
