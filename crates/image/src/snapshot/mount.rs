//! How the parts of a snapshot become a file system: by overlayfs ([`overlay`]), for a user namespace ([`mapped`]), or where
//! there is no overlayfs by copying ([`copied`]).

use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Uid};
use sampan_base::{FileError, files};

use super::mapped::{self, IdMapping};
use super::{SnapshotError, UserNamespace, copied, overlay, remove_directory};
use crate::metadata::SnapshotRecord;
use crate::recover::About;
use crate::store::Store;

impl Store {
    /// Sees whether snapshots can be mounted for user namespaces, as `owner` is one.
    ///
    /// # Errors
    /// If they can't be.
    pub fn check_mapped(&self, owner: BorrowedFd<'_>) -> Result<(), NotMapped> {
        if self.snapshotter() == Snapshotter::Copy {
            return Err(NotMapped::NoOverlay);
        }
        let failed = |source| NotMapped::FileSystem { root: self.root().to_owned(), source };
        mapped::map(self.root(), owner).map(drop).map_err(failed)
    }

    /// As [`Store::mount`], for the user namespace `owner`, whose ids are `mapping`: what belongs to 0 in the image belongs to
    /// what the namespace has for 0. The snapshot belongs to that mapping from then on.
    ///
    /// # Errors
    /// As [`Store::mount`]; also if the kernel has no such mounts (Linux 5.19), if the snapshot is a copy, or if it was
    /// written to without this mapping.
    pub fn mount_mapped(
        &self,
        key: &str,
        owner: BorrowedFd<'_>,
        mapping: &IdMapping,
        at: &Path,
    ) -> Result<(), SnapshotError> {
        let failed = |source| SnapshotError::Mount { key: key.to_owned(), at: at.to_owned(), source };
        let refused = |what: &str| failed(std::io::Error::new(std::io::ErrorKind::Unsupported, what));
        let record = self.snapshot_record(key)?;
        let below = self.layers_below(record.parent.as_ref(), &self.lease())?;
        let parts = self.directory_path(record.directory);
        if self.snapshotter() == Snapshotter::Copy || parts.join(COPY).exists() {
            return Err(refused(NO_OVERLAY));
        }
        let upper = parts.join("fs");
        if record.mapping.as_ref() != Some(mapping) {
            let empty = std::fs::read_dir(&upper).is_ok_and(|mut entries| entries.next().is_none());
            if !empty {
                return Err(refused("it was written to by another user namespace, or by none"));
            }
            // The root of the read-write layer is the root that the namespace sees.
            let stat = rustix::fs::stat(&upper).map_err(|e| failed(e.into()))?;
            let (uid, gid) = match &record.mapping {
                Some(old) => old.to_image(stat.st_uid, stat.st_gid),
                None => (stat.st_uid, stat.st_gid),
            };
            let record = SnapshotRecord { mapping: Some(mapping.clone()), ..record };
            let SnapshotRecord { parent, created, mapping: noted, .. } = record.clone();
            About::Snapshot { key: key.to_owned(), parent, created, mapping: noted }.replace(&parts)?;
            self.metadata().put_snapshot(key, &record)?;
            let (uid, gid) = mapping.to_host_or_nobody(uid, gid);
            rustix::fs::chown(&upper, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
                .map_err(|e| failed(e.into()))?;
        }
        mapped::mount(&overlay_of(&parts, below, false), &parts, owner, at).map_err(failed)
    }

    /// Mounts the parts of a snapshot, by overlayfs or as a copy.
    pub(super) fn mount_parts(
        &self,
        parts: &Path,
        below: Vec<PathBuf>,
        volatile: bool,
        at: &Path,
    ) -> std::io::Result<()> {
        let copy = parts.join(COPY);
        if self.snapshotter() == Snapshotter::Overlay && !copy.exists() {
            return overlay_of(parts, below, volatile).mount(at);
        }
        if !copy.exists() {
            let new = parts.join("copy.new");
            let assembled =
                remove_directory(&new).and_then(|()| files::create_directories(&new, 0o755)).and_then(|()| {
                    let mut lower = vec![parts.join("fs"), parts.join("init")];
                    lower.extend(below);
                    copied::assemble(&lower, &new)
                });
            assembled.map_err(std::io::Error::other)?;
            std::fs::rename(&new, &copy)?;
        }
        Ok(rustix::mount::mount_bind(&copy, at)?)
    }

    /// Mounts the parts of a step's file system for a user namespace, without syncing.
    pub(super) fn mount_parts_for(
        &self,
        users: &UserNamespace,
        parts: &Path,
        below: Vec<PathBuf>,
        at: &Path,
    ) -> std::io::Result<()> {
        let refused = |what: &str| std::io::Error::new(std::io::ErrorKind::Unsupported, what);
        if self.snapshotter() == Snapshotter::Copy {
            return Err(refused(NO_OVERLAY));
        }
        let (Some(uid), Some(gid)) = users.mapping.to_host(0, 0) else {
            return Err(refused("the user namespace has no root"));
        };
        let overlay = overlay_of(parts, below, true);
        mapped::mount_whole(&overlay, parts, users.namespace.as_fd(), (uid, gid), at)
    }

    /// Writes what a snapshot that is a copy has changed to where it is read.
    pub(crate) fn refresh_snapshot(&self, record: &SnapshotRecord) -> Result<(), SnapshotError> {
        let below = self.layers_below(record.parent.as_ref(), &self.lease())?;
        refresh_upper(&self.directory_path(record.directory), &below)
    }
}

/// How snapshots become file systems.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Snapshotter {
    /// By overlayfs: at once, and sharing what is not changed.
    Overlay,
    /// By copying the layers, where overlayfs is missing.
    Copy,
}

impl Snapshotter {
    /// What the variable `SAMPAN_SNAPSHOTTER` says (`overlay` or `copy`), or else what the kernel can do.
    pub fn detect() -> Snapshotter {
        match std::env::var("SAMPAN_SNAPSHOTTER").as_deref() {
            Ok("copy") => Snapshotter::Copy,
            Ok("overlay") => Snapshotter::Overlay,
            _ if overlay::is_missing() => Snapshotter::Copy,
            _ => Snapshotter::Overlay,
        }
    }
}

/// Why snapshots can't be mounted for user namespaces.
#[derive(Debug, thiserror::Error)]
pub enum NotMapped {
    /// They are copied.
    #[error("{NO_OVERLAY}")]
    NoOverlay,
    /// Their file system takes no mapping.
    #[error("the file system of `{}` can't be mapped for a user namespace (ext4, xfs and btrfs can)", root.display())]
    FileSystem {
        /// The store's directory.
        root: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
}

const NO_OVERLAY: &str = "a file system without overlayfs can't be mapped for a user namespace";

/// The whole file system of a snapshot that is a copy; see [`super::copied`].
pub(super) const COPY: &str = "copy";

fn overlay_of(parts: &Path, below: Vec<PathBuf>, volatile: bool) -> overlay::Overlay {
    let mut lower = vec![parts.join("init")];
    lower.extend(below);
    overlay::Overlay { lower, upper: parts.join("fs"), work: parts.join("work"), volatile }
}

/// Does nothing for an overlay, whose upper directory says by itself what was changed.
pub(super) fn refresh_upper(parts: &Path, below: &[PathBuf]) -> Result<(), SnapshotError> {
    /// One at a time: the result has one place.
    static REFRESHING: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let copy = parts.join(COPY);
    if !copy.exists() {
        return Ok(());
    }
    let _one = REFRESHING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut lower = vec![parts.join("init")];
    lower.extend_from_slice(below);
    let (new, upper) = (parts.join("fs.new"), parts.join("fs"));
    remove_directory(&new)?;
    files::create_directories(&new, 0o755)?;
    copied::write_upper(&copy, &lower, &new)?;
    remove_directory(&upper)?;
    std::fs::rename(&new, &upper).map_err(FileError::on("create", upper))?;
    Ok(())
}
