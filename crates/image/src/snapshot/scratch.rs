//! File systems of build steps: a [`Scratch`] has the parts of a snapshot, but no key. It belongs to one step, is mounted
//! without syncing, and either becomes a layer ([`Scratch::freeze`], which copies nothing) or vanishes when dropped, or when the
//! store opens after a crash.
//!
//! One for a [`UserNamespace`] has all its parts mounted with the namespace's mapping, what is written as well: on disk it has
//! the ids of the image, so that it becomes a layer as it is, the same one whoever ran the step. (A container's read-write
//! layer has the ids of the host there.)

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sampan_base::{ChainId, files};

use super::mapped;
use super::mount::{COPY, refresh_upper};
use super::{IdMapping, InitLayer, SnapshotError, make_parts, overlay, remove_directory, times};
use crate::metadata::ChainRecord;
use crate::store::{Layer, Lease, NewDirectory, Store};

/// A user namespace for whose processes a file system is mounted.
#[derive(Clone, Debug)]
pub struct UserNamespace {
    /// It, or another one with its mapping.
    pub namespace: Arc<File>,
    /// Its mapping.
    pub mapping: IdMapping,
}

impl Store {
    /// A file system for one step of a build, mounted and ready to be changed.
    ///
    /// # Errors
    /// As [`Store::prepare`] and [`Store::mount`].
    pub fn scratch(
        &self,
        parent: Option<&ChainId>,
        init: &InitLayer,
        lease: &Lease,
    ) -> Result<Scratch, SnapshotError> {
        self.scratch_for(None, parent, init, lease)
    }

    /// As [`Store::scratch`], for the processes of a user namespace: what belongs to 0 on disk belongs to their root. What they
    /// write has their ids on disk, too, and not those of the host.
    ///
    /// # Errors
    /// As [`Store::scratch`] and [`Store::mount_mapped`].
    pub fn scratch_for(
        &self,
        users: Option<&UserNamespace>,
        parent: Option<&ChainId>,
        init: &InitLayer,
        lease: &Lease,
    ) -> Result<Scratch, SnapshotError> {
        let below = self.layers_below(parent, lease)?;
        let directory = self.new_directory()?;
        make_parts(directory.path(), &below, init)?;
        let at = directory.path().join("rootfs");
        files::create_directories(&at, 0o755)?;
        let mounted = match users {
            Some(users) => self.mount_parts_for(users, directory.path(), below, &at),
            None => self.mount_parts(directory.path(), below, true, &at),
        };
        mounted.map_err(|source| SnapshotError::Mount {
            key: "a build step".into(),
            at: at.clone(),
            source,
        })?;
        Ok(Scratch { store: self.clone(), directory: Some(directory), parent: parent.cloned(), rootfs: at })
    }

    /// The file system of layers that nobody changes, mounted: for `COPY --from`. As [`Store::scratch`].
    ///
    /// # Errors
    /// As [`Store::scratch`].
    pub fn view(&self, chain: Option<&ChainId>, lease: &Lease) -> Result<Scratch, SnapshotError> {
        self.scratch(chain, &InitLayer::empty(), lease)
    }

    /// A directory for files that a step is to see, on the store's own file system, and so one that can be mounted with a
    /// mapping.
    ///
    /// # Errors
    /// If it can't be made.
    pub fn workspace(&self) -> Result<Workspace, SnapshotError> {
        Ok(Workspace { directory: self.new_directory()? })
    }
}

/// A directory that lasts as long as this value, or until the store opens after a crash.
pub struct Workspace {
    directory: NewDirectory,
}

impl Workspace {
    /// Where it is. Nobody but root gets in.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }
}

/// A file system that lasts as long as this value; see [`Store::scratch`].
pub struct Scratch {
    store: Store,
    /// `None` once it has become a layer.
    directory: Option<NewDirectory>,
    parent: Option<ChainId>,
    rootfs: PathBuf,
}

impl Scratch {
    /// Where it is mounted.
    pub fn rootfs(&self) -> &Path {
        &self.rootfs
    }

    /// Makes what was changed a layer on top of the parent; the init layer is no part of it. `None` if nothing was
    /// changed. The directory becomes the unpacked layer, and its tar a blob. Whatever ran in it must have ended: what
    /// is written from here on is in the layer or not, at random. No file of it is younger than `epoch`, in seconds since
    /// 1970, if that is given: so that what was made at another time is the same.
    ///
    /// # Errors
    /// If it can't be unmounted, or the disk is full; nothing is left then.
    pub fn freeze(mut self, lease: &Lease, epoch: Option<i64>) -> Result<Option<Layer>, SnapshotError> {
        // Lazily: whoever just looks at the mount table's file systems (`df`) makes a mount busy for a moment.
        overlay::unmount(&self.rootfs)
            .map_err(|source| SnapshotError::Unmount { at: self.rootfs.clone(), source })?;
        // Taken out only here: dropping an earlier failure cleans up.
        let Some(directory) = self.directory.take() else { return Ok(None) };
        let below = self.store.layers_below(self.parent.as_ref(), lease)?;
        refresh_upper(directory.path(), &below)?;
        let upper = directory.path().join("fs");
        if let Some(epoch) = epoch {
            times::not_after(&upper, epoch)?;
        }
        let Some(layer) =
            self.store.store_layer(&upper, self.parent.as_ref(), &IdMapping::default(), lease)?
        else {
            return Ok(None);
        };
        let record = ChainRecord {
            diff_id: layer.diff_id.clone(),
            parent: self.parent.clone(),
            directory: Some(directory.number()),
        };
        if self.store.adopt_chain(&layer.chain_id, record, lease)? {
            let path = directory.keep();
            for part in ["work", "init", "rootfs", mapped::PLACE, COPY] {
                remove_directory(&path.join(part))?;
            }
        }
        Ok(Some(layer))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Files that stay here go when the store opens the next time.
        let _ = overlay::unmount(&self.rootfs);
    }
}
