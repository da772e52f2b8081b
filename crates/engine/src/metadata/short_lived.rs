//! Records of containers that end with the machine, if not before (`--rm`): a file each, where a reboot forgets them.
//!
//! ```text
//! <state>/containers/<id>     the JSON of the ContainerRecord
//! ```
//! They survive the daemon without a sync, which a container that lives for some milliseconds would wait for longer than
//! for all else. What a reboot leaves of such a container belongs to no record, and goes when the daemon starts.

use std::path::{Path, PathBuf};

use sampan_base::{FileError, files};

use super::{ContainerRecord, copies};
use crate::volumes;

/// The files of one daemon.
#[derive(Debug)]
pub(super) struct ShortLived {
    directory: PathBuf,
}

/// Whether a container's record may go with the machine. Volumes that were made for it must not outlive it unknown.
pub(crate) fn is_short_lived(record: &ContainerRecord) -> bool {
    record.spec.auto_remove && !volumes::has_anonymous(&record.spec)
}

impl ShortLived {
    /// Those below `state`, a directory that a reboot empties.
    ///
    /// # Errors
    /// If there can be none.
    pub(super) fn open(state: &Path) -> Result<ShortLived, FileError> {
        let directory = state.join("containers");
        // Environments hold secrets.
        files::create_directories(&directory, 0o700)?;
        Ok(ShortLived { directory })
    }

    pub(super) fn all(&self) -> Vec<ContainerRecord> {
        let read = |(id, path): (String, PathBuf)| match files::read_limited(&path, copies::MAX_RECORD_BYTES)
        {
            Ok(bytes) => match serde_json::from_slice(&bytes) {
                Ok(record) => Some(record),
                Err(error) => {
                    tracing::error!(container = id, %error, "the record of a container can't be read");
                    Some(ContainerRecord::unreadable(&id, &bytes, &error))
                }
            },
            Err(error) => {
                tracing::error!(error = sampan_base::chain(&error), "cannot read the record of a container");
                None
            }
        };
        // Others are files that were being written.
        copies::entries(&self.directory).filter(|(id, _)| super::is_id(id)).filter_map(read).collect()
    }

    pub(super) fn put(&self, id: &str, record: &[u8]) -> Result<(), FileError> {
        files::write_atomic_volatile(&self.directory.join(id), record, 0o600)
    }

    /// Answers whether it was there.
    pub(super) fn remove(&self, id: &str) -> Result<bool, FileError> {
        let path = self.directory.join(id);
        match std::fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(FileError::on("remove", path)(error)),
        }
    }
}
