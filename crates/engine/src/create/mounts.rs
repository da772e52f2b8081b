//! What a new container mounts: its own mounts, those of other containers (`--volumes-from`), and volumes for the paths that
//! only ask for one. Volumes are made here, and filled with what the image has there.

use crate::error::{EngineError, Result};
use crate::images::Image;
use crate::metadata::ContainerRecord;
use crate::spec::{ContainerSpec, MountForm, MountSource, MountSpec};
use crate::volumes::{self, NewVolume};
use crate::{Engine, Inner, sources, userns};

impl Engine {
    /// Adds the mounts of the containers that the spec names, but where it has one of its own.
    pub(super) fn add_mounts_of_others(&self, spec: &mut ContainerSpec) -> Result<()> {
        let own = std::mem::take(&mut spec.mounts);
        let mut all: Vec<MountSpec> = Vec::new();
        for from in &mut spec.volumes_from {
            let other = self.inner.find_container(&from.container)?;
            other.id.clone_into(&mut from.container);
            for mount in &other.view.borrow().record.spec.mounts {
                // What is in memory is not shared.
                if matches!(mount.source, MountSource::Tmpfs { .. }) {
                    continue;
                }
                let mut mount = mount.clone();
                mount.form = MountForm::From;
                mount.read_only |= from.read_only;
                if let MountSource::Volume { anonymous, copy_up, .. } = &mut mount.source {
                    (*anonymous, *copy_up) = (false, false);
                }
                all.retain(|m| m.target != mount.target);
                all.push(mount);
            }
        }
        all.retain(|m| !own.iter().any(|o| o.target == m.target));
        all.extend(own);
        spec.mounts = all;
        Ok(())
    }
}

/// Makes the volumes that the container names, and one for each path that only asks for some.
pub(super) fn make(inner: &Inner, record: &mut ContainerRecord, image: &Image) -> Result<()> {
    let spec = &mut record.spec;
    for path in spec.anonymous_volumes.clone() {
        if spec.mounts.iter().any(|m| m.target.trim_end_matches('/') == path.trim_end_matches('/')) {
            continue;
        }
        let source = MountSource::volume(String::new(), true);
        spec.mounts.push(MountSpec { form: MountForm::Anonymous, ..MountSpec::new(source, path) });
    }
    for (number, mount) in spec.mounts.iter_mut().enumerate() {
        match &mut mount.source {
            MountSource::Volume { name, anonymous, copy_up, labels, driver, subpath } => {
                if name.is_empty() {
                    *name = sampan_base::id::random_id().map_err(EngineError::io("cannot make a name"))?;
                }
                let driver = driver.clone().unwrap_or_default();
                let wanted = NewVolume {
                    name: name.clone(),
                    labels: labels.clone(),
                    driver: driver.name,
                    options: driver.options,
                    anonymous: *anonymous,
                    made_for: anonymous.then(|| record.id.clone()),
                };
                let (volume, new) = volumes::ensure(inner, wanted, None)?;
                if (new || volume.is_empty()) && volume.record.options.is_empty() {
                    userns::give(record.mapping.as_ref(), &volume.directory)?;
                }
                if *copy_up && (new || volume.is_empty()) && subpath.is_empty() {
                    let lease = volumes::local::mount(inner, &volume, &record.id)?;
                    inner.images.copy_up(image, &mount.target, record.mapping.as_ref(), &volume.directory)?;
                    drop(lease);
                }
            }
            MountSource::Bind { path, create, .. } => {
                if !*create && !path.exists() {
                    return Err(missing_source(path));
                }
            }
            MountSource::Image { image, id, .. } => {
                let shown = inner.images.resolve(image)?;
                *id = shown.id.to_string();
                inner.images.prepare_view(&sources::image_key(&record.id, number), &shown)?;
            }
            MountSource::Tmpfs { .. } => {}
        }
    }
    Ok(())
}

/// A bind mount of a path that the host does not have.
pub(crate) fn missing_source(path: &std::path::Path) -> EngineError {
    let path = path.display();
    EngineError::Invalid(format!(
        "invalid mount config for type \"bind\": bind source path does not exist: {path}"
    ))
}
