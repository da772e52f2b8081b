//! What a container's mounts bind, made ready for one run: parts of volumes, images' files, a /dev/shm that others share.
//!
//! What has to be mounted for that is mounted below `<bundle>/mounts/`, and goes with the bundle. A part of a volume is
//! mounted there by its descriptor: who can write to the volume can't make it another place meanwhile.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags};
use sampan_kernel::beneath::{self, RootDir};

use crate::bundle::mounts::DEFAULT_SHM_BYTES;
use crate::error::{EngineError, Result};
use crate::metadata::ContainerRecord;
use crate::spec::{ContainerSpec, IpcMode, MountSource, MountSpec};
use crate::{Inner, userns, volumes};

fn directory(inner: &Inner, id: &str) -> PathBuf {
    inner.config.bundle(id).join("mounts")
}

/// The key of the snapshot that shows an image in a container.
pub(crate) fn image_key(id: &str, number: usize) -> String {
    format!("{id}.{number}")
}

/// The keys of all snapshots of a container: those that show images in it, and its own.
pub(crate) fn snapshot_keys(id: &str, spec: &ContainerSpec) -> Vec<String> {
    let shows = |mount: &MountSpec| matches!(mount.source, MountSource::Image { .. });
    let images = spec.mounts.iter().enumerate().filter(|(_, m)| shows(m)).map(|(n, _)| image_key(id, n));
    images.chain([id.to_owned()]).collect()
}

/// The container that a snapshot's key is of.
pub(crate) fn owner_of_key(key: &str) -> &str {
    key.split('.').next().unwrap_or(key)
}

/// Where the source of each volume and image mount lies, by target.
pub(crate) fn prepare(inner: &Inner, record: &ContainerRecord) -> Result<BTreeMap<String, PathBuf>> {
    let mut sources = BTreeMap::new();
    for (number, mount) in record.spec.mounts.iter().enumerate() {
        let (whole, subpath, what) = match &mount.source {
            MountSource::Volume { name, subpath, .. } => {
                (volumes::directory(inner, name), subpath, format!("volume {name}"))
            }
            MountSource::Image { image, subpath, .. } => {
                let at = directory(inner, &record.id).join(format!("image-{number}"));
                sampan_base::files::create_directories(&at, 0o700).map_err(EngineError::file)?;
                userns::mount(inner, &image_key(&record.id, number), record.mapping.as_ref(), &at)?;
                (at, subpath, format!("image {image}"))
            }
            _ => continue,
        };
        let source = if subpath.is_empty() {
            whole
        } else {
            part(&whole, subpath, &directory(inner, &record.id).join(format!("part-{number}")), &what)?
        };
        sources.insert(mount.target.clone(), source);
    }
    Ok(sources)
}

/// Mounts the path `subpath` of the directory `whole` at `at`.
fn part(whole: &Path, subpath: &str, at: &Path, what: &str) -> Result<PathBuf> {
    let failed = || EngineError::io(format!("cannot mount `{subpath}` of {what}"));
    let root = RootDir::open(whole).map_err(failed())?;
    let found = root.open_at(Path::new(subpath), OFlags::PATH, Mode::empty()).map_err(|error| {
        if error.kind() == std::io::ErrorKind::NotFound {
            return EngineError::Invalid(format!(
                "cannot access path {subpath} of {what}: no such file or directory"
            ));
        }
        failed()(error)
    })?;
    let stat = rustix::fs::fstat(&found).map_err(|e| failed()(e.into()))?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        sampan_base::files::create_directories(at, 0o700).map_err(EngineError::file)?;
    } else {
        if let Some(parent) = at.parent() {
            sampan_base::files::create_directories(parent, 0o700).map_err(EngineError::file)?;
        }
        std::fs::write(at, "").map_err(failed())?;
    }
    let source = beneath::path_in(&found, OsStr::new(""));
    // A file's path must not end with a slash.
    let source = PathBuf::from(source.to_string_lossy().trim_end_matches('/').to_owned());
    rustix::mount::mount_bind_recursive(&source, at).map_err(|e| failed()(e.into()))?;
    Ok(at.to_owned())
}

/// The host's directory that becomes /dev/shm, where it is shared: one's own for others, or another container's.
pub(crate) fn shared_memory(inner: &Inner, record: &ContainerRecord) -> Result<Option<PathBuf>> {
    let (id, spec) = (record.id.as_str(), &record.spec);
    let at = |id: &str| directory(inner, id).join("shm");
    match &spec.ipc {
        IpcMode::Shareable => {
            let at = at(id);
            let failed = || EngineError::io("cannot make the container's shared memory");
            sampan_base::files::create_directories(&at, 0o711).map_err(EngineError::file)?;
            let size = if spec.shm_size > 0 { spec.shm_size } else { DEFAULT_SHM_BYTES };
            let options = CString::new(format!("mode=1777,size={size}")).map_err(|e| failed()(e.into()))?;
            let flags = MountFlags::NOEXEC | MountFlags::NOSUID | MountFlags::NODEV;
            rustix::mount::mount("shm", &at, "tmpfs", flags, Some(options.as_c_str()))
                .map_err(|e| failed()(e.into()))?;
            userns::give(record.mapping.as_ref(), &at)?;
            Ok(Some(at))
        }
        IpcMode::Container(other) => {
            let handle = inner.find_container(other)?;
            match &handle.view.borrow().record.spec.ipc {
                IpcMode::Shareable => Ok(Some(at(&handle.id))),
                IpcMode::Host => Ok(Some(PathBuf::from("/dev/shm"))),
                _ => Err(EngineError::Conflict(format!(
                    "can't join IPC of container {}: non-shareable IPC (hint: use IpcMode:shareable for the donor container)",
                    handle.id
                ))),
            }
        }
        _ => Ok(None),
    }
}

/// Mounts pass between the host and a container only where the host's mount lets them.
pub(crate) fn check_propagation(path: &Path, propagation: &str) -> Result<()> {
    let shared = matches!(propagation, "shared" | "rshared");
    if !shared && !matches!(propagation, "slave" | "rslave") {
        return Ok(());
    }
    let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let text = std::fs::read_to_string("/proc/self/mountinfo")
        .map_err(EngineError::io("cannot read the host's mounts"))?;
    let Some((at, options)) = covering(&text, &real) else { return Ok(()) };
    let lets = options.contains("shared:") || !shared && options.contains("master:");
    if lets {
        return Ok(());
    }
    let kind = if shared { "shared" } else { "shared or slave" };
    let (path, at) = (path.display(), at.display());
    Err(EngineError::Invalid(format!("path {path} is mounted on {at} but it is not a {kind} mount")))
}

/// Of the mounts in `mountinfo` the one that a path is on: where it is mounted, and its optional fields (proc(5)).
fn covering(mountinfo: &str, path: &Path) -> Option<(PathBuf, String)> {
    let row = |line: &str| {
        let (fields, _) = line.split_once(" - ")?;
        let mut fields = fields.split(' ').skip(4);
        let at = fields.next()?.replace("\\040", " ");
        Some((PathBuf::from(at), fields.skip(1).collect::<Vec<_>>().join(" ")))
    };
    // Of two mounts at one place the later one is on top.
    mountinfo
        .lines()
        .filter_map(row)
        .filter(|(at, _)| path.starts_with(at))
        .max_by_key(|(at, _)| at.components().count())
}

/// Unmounts what was mounted for a run.
pub(crate) fn unmount_all(inner: &Inner, id: &str) -> std::io::Result<()> {
    let directory = directory(inner, id);
    let entries = match std::fs::read_dir(&directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        if let Err(error) = rustix::mount::unmount(&path, UnmountFlags::DETACH)
            && error != rustix::io::Errno::INVAL
        {
            return Err(error.into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_on_the_deepest_mount() {
        let text = "1 0 8:1 / / rw,relatime shared:1 - ext4 /dev/sda rw\n\
                    2 1 0:5 / /a rw - tmpfs tmpfs rw\n\
                    3 1 0:6 / /a/b\\040c rw master:1 propagate_from:2 - tmpfs tmpfs rw\n";
        let on = |path: &str| {
            let (at, options) = covering(text, Path::new(path)).unwrap();
            format!("{} {options}", at.display())
        };
        assert_eq!(
            (on("/x"), on("/a/x"), on("/ab")),
            ("/ shared:1".into(), "/a ".into(), "/ shared:1".into())
        );
        assert_eq!(on("/a/b c/d"), "/a/b c master:1 propagate_from:2");
    }

    #[test]
    fn snapshots_of_images_are_named_for_their_container() {
        assert_eq!(owner_of_key(&image_key("abc", 3)), "abc");
        assert_eq!(owner_of_key("abc"), "abc");
    }
}
