//! Copies a directory of an image to a directory outside: what fills a new volume.

use std::io::{self, Write};
use std::path::Path;

use sampan_base::{ChainId, FileError};
use sampan_kernel::beneath::{RootDir, path_in};

use crate::layer::apply::ExtractOptions;
use crate::layer::{apply, diff};
use crate::snapshot::{IdMapping, SnapshotError};
use crate::store::Store;

impl Store {
    /// Copies what the layers `chain` have in the directory `path` into the empty directory `into`, which also gets that
    /// directory's owner and mode. With `mapping`, it is for a user namespace. Nothing is copied if there is no such
    /// directory.
    ///
    /// # Errors
    /// If something can't be read or written; `into` then holds a part.
    pub fn copy_directory(
        &self,
        chain: &ChainId,
        path: &Path,
        mapping: Option<&IdMapping>,
        into: &Path,
    ) -> Result<(), SnapshotError> {
        let view = self.view(Some(chain), &self.lease())?;
        let root = RootDir::open(view.rootfs()).map_err(FileError::on("open", view.rootfs()))?;
        let relative = path.strip_prefix("/").unwrap_or(path);
        let Ok(directory) = root.directory(relative) else { return Ok(()) };
        let stat =
            rustix::fs::fstat(&directory).map_err(io::Error::from).map_err(FileError::on("read", path))?;
        // Held by its descriptor: what links lead to it can't change what is read.
        let source = path_in(&directory, ".".as_ref());
        let (mut reader, writer) = io::pipe().map_err(FileError::on("copy", path))?;
        std::thread::scope(|scope| {
            let sending = scope.spawn(|| {
                let mut writer = io::BufWriter::with_capacity(128 << 10, writer);
                diff::write(&source, diff::Marks::Flat, &mut writer)?;
                writer.flush().map_err(FileError::on("copy", path))
            });
            // As an archive that is added: a file that is named like a whiteout is a file.
            let how =
                ExtractOptions { mapping: mapping.cloned(), unmapped_to_nobody: true, ..Default::default() };
            let applied = apply::open(into)
                .and_then(|into| apply::extract_with(&mut reader, into, Path::new(""), &how));
            // Ends the sender if the receiver failed.
            drop(reader);
            let sent = sending.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            applied.map_err(|error| FileError {
                action: "copy",
                path: path.to_owned(),
                source: io::Error::other(error),
            })?;
            sent
        })?;
        let (uid, gid) = match mapping {
            Some(mapping) => mapping.to_host_or_nobody(stat.st_uid, stat.st_gid),
            None => (stat.st_uid, stat.st_gid),
        };
        let owner = (Some(rustix::fs::Uid::from_raw(uid)), Some(rustix::fs::Gid::from_raw(gid)));
        rustix::fs::chown(into, owner.0, owner.1)
            .and_then(|()| rustix::fs::chmod(into, rustix::fs::Mode::from_raw_mode(stat.st_mode)))
            .map_err(io::Error::from)
            .map_err(FileError::on("change the owner of", into))?;
        Ok(())
    }
}
