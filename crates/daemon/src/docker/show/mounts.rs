//! Mounts as inspect and listings show them, and as they were asked for.

use std::collections::BTreeMap;
use std::path::Path;

use sampan_docker_api::container::MountPoint;
use sampan_docker_api::host_config::{
    BindOptions, ImageOptions, Mount, TmpfsOptions, VolumeDriver, VolumeOptions,
};
use sampan_engine::spec::{MountForm, MountSource, MountSpec, ReadOnlyBelow};

/// A mount of a container; `None` for those that Docker shows in HostConfig only.
pub(crate) fn point(mount: &MountSpec, volumes: &Path) -> Option<MountPoint> {
    let base = MountPoint {
        destination: mount.target.clone(),
        mode: mount.mode.clone(),
        rw: !mount.read_only,
        propagation: mount.propagation.clone(),
        ..MountPoint::default()
    };
    Some(match &mount.source {
        MountSource::Bind { path, .. } => MountPoint {
            kind: "bind".to_owned(),
            source: path.display().to_string(),
            propagation: if mount.propagation.is_empty() {
                "rprivate".to_owned()
            } else {
                mount.propagation.clone()
            },
            ..base
        },
        MountSource::Volume { name, .. } => MountPoint {
            kind: "volume".to_owned(),
            name: Some(name.clone()),
            source: volumes.join(name).join("_data").display().to_string(),
            driver: Some("local".to_owned()),
            ..base
        },
        MountSource::Image { image, .. } => {
            MountPoint { kind: "image".to_owned(), name: Some(image.clone()), ..base }
        }
        MountSource::Tmpfs { .. } if matches!(mount.form, MountForm::Long(_)) => {
            MountPoint { kind: "tmpfs".to_owned(), ..base }
        }
        MountSource::Tmpfs { .. } => return None,
    })
}

/// Mounts as they were asked for: short, long, `--tmpfs`.
#[derive(Default)]
pub(crate) struct Asked {
    pub(crate) binds: Vec<String>,
    pub(crate) long: Vec<Mount>,
    pub(crate) tmpfs: BTreeMap<String, String>,
}

pub(crate) fn asked(mounts: &[MountSpec]) -> Asked {
    let mut asked = Asked::default();
    for mount in mounts {
        match (&mount.form, &mount.source) {
            (MountForm::Short(text), _) => asked.binds.push(text.clone()),
            (MountForm::Tmpfs(text), _) => drop(asked.tmpfs.insert(mount.target.clone(), text.clone())),
            (MountForm::Long(consistency), _) => {
                asked.long.push(Mount { consistency: consistency.clone(), ..long(mount) });
            }
            (MountForm::Anonymous | MountForm::From, _)
            | (MountForm::Unknown, MountSource::Volume { anonymous: true, .. }) => {}
            // Of a record of an older sampan.
            (MountForm::Unknown, MountSource::Tmpfs { options }) => {
                asked.tmpfs.insert(mount.target.clone(), options.join(","));
            }
            (MountForm::Unknown, source) => {
                let source = match source {
                    MountSource::Bind { path, .. } => path.display().to_string(),
                    MountSource::Volume { name, .. } => name.clone(),
                    _ => continue,
                };
                let suffix = if mount.mode.is_empty() { String::new() } else { format!(":{}", mount.mode) };
                asked.binds.push(format!("{source}:{}{suffix}", mount.target));
            }
        }
    }
    asked
}

fn long(mount: &MountSpec) -> Mount {
    let base = Mount { target: mount.target.clone(), read_only: mount.read_only, ..Mount::default() };
    match &mount.source {
        MountSource::Bind { path, recursive, create, read_only_below } => {
            let options = BindOptions {
                propagation: mount.propagation.clone(),
                non_recursive: !recursive,
                create_mountpoint: *create,
                read_only_non_recursive: *read_only_below == ReadOnlyBelow::No,
                read_only_force_recursive: *read_only_below == ReadOnlyBelow::Force,
            };
            Mount {
                kind: "bind".to_owned(),
                source: path.display().to_string(),
                bind_options: (options != BindOptions::default()).then_some(options),
                ..base
            }
        }
        MountSource::Volume { name, anonymous, copy_up, subpath, labels, driver } => {
            let options = VolumeOptions {
                no_copy: !copy_up,
                labels: labels.clone(),
                subpath: subpath.clone(),
                driver_config: driver
                    .as_ref()
                    .map(|d| VolumeDriver { name: d.name.clone(), options: d.options.clone() }),
            };
            Mount {
                kind: "volume".to_owned(),
                source: if *anonymous { String::new() } else { name.clone() },
                volume_options: (options != VolumeOptions::default()).then_some(options),
                ..base
            }
        }
        MountSource::Image { image, subpath, .. } => Mount {
            kind: "image".to_owned(),
            source: image.clone(),
            image_options: (!subpath.is_empty()).then(|| ImageOptions { subpath: subpath.clone() }),
            ..base
        },
        MountSource::Tmpfs { options } => {
            let value = |key: &str| options.iter().find_map(|o| o.strip_prefix(key));
            let known = |o: &&String| *o != "ro" && !o.starts_with("size=") && !o.starts_with("mode=");
            let others: Vec<Vec<String>> =
                options.iter().filter(known).map(|o| o.splitn(2, '=').map(str::to_owned).collect()).collect();
            let sizes = TmpfsOptions {
                size_bytes: value("size=").and_then(|v| v.parse().ok()).unwrap_or(0),
                mode: value("mode=").and_then(|v| u32::from_str_radix(v, 8).ok()).unwrap_or(0),
                options: (!others.is_empty()).then_some(others),
            };
            Mount {
                kind: "tmpfs".to_owned(),
                tmpfs_options: (sizes != TmpfsOptions::default()).then_some(sizes),
                ..base
            }
        }
    }
}
