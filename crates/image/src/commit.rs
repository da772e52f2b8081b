//! A container's changes as a layer, and its whole file system as a tar.

use std::io::Write;
use std::path::Path;

use crate::layer::diff;
use crate::metadata::{ChainRecord, SnapshotRecord};
use crate::snapshot::{IdMapping, SnapshotError};
use crate::store::{Layer, Lease, Store};

impl Store {
    /// Makes what the snapshot `key` changed a layer on top of its parent, without the init layer; `None` if it
    /// changed nothing. The snapshot stays as it is; the layer is unpacked when it is first needed. It is held by
    /// `lease` until an image has it.
    ///
    /// # Errors
    /// If there is no such snapshot, a file changes while it is read, or the disk is full; nothing is left then.
    pub fn commit(&self, key: &str, lease: &Lease) -> Result<Option<Layer>, SnapshotError> {
        let record: SnapshotRecord =
            self.metadata().snapshot(key)?.ok_or_else(|| SnapshotError::NotFound { key: key.to_owned() })?;
        self.refresh_snapshot(&record)?;
        let upper = self.directory_path(record.directory).join("fs");
        let mapping = record.mapping.unwrap_or_default();
        let layer = self.store_layer(&upper, record.parent.as_ref(), &mapping, lease)?;
        let Some(layer) = layer else { return Ok(None) };
        let chain = ChainRecord { diff_id: layer.diff_id.clone(), parent: record.parent, directory: None };
        self.adopt_chain(&layer.chain_id, chain, lease)?;
        Ok(Some(layer))
    }

    /// Writes the whole file system that is mounted at `rootfs` as one tar: `docker export`. If it is mounted for a user
    /// namespace, owners are written as the namespace knows them.
    ///
    /// # Errors
    /// If it can't be read or `output` fails.
    pub fn export(
        &self,
        rootfs: &Path,
        mapping: Option<&IdMapping>,
        output: &mut dyn Write,
    ) -> Result<(), SnapshotError> {
        let none = IdMapping::default();
        let output = std::io::BufWriter::with_capacity(256 * 1024, output);
        diff::write_mapped(rootfs, diff::Marks::Flat, mapping.unwrap_or(&none), output)?;
        Ok(())
    }
}
