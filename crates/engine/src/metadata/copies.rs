//! Copies of the engine's records, a file each, of which a damaged database is made anew.
//!
//! ```text
//! <root>/records/{containers,volumes,networks}/<key>     the JSON that the database has
//! ```
//!
//! They are written behind, without fsync, by a thread that gathers changes for a moment: nobody waits for them, and of a
//! container that comes and goes nothing is written. A crash leaves older ones; what differs is written again when the
//! daemon has opened its database the next time. They are read only when there is no database that can be read.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use sampan_base::{FileError, files};

/// How long changes are gathered before they are written.
const BEHIND: Duration = Duration::from_millis(500);
/// More than any record has: a container's environment and labels are bounded by the body that brings them.
pub(super) const MAX_RECORD_BYTES: u64 = 64 << 20;

/// Writes the copies, until it is dropped.
#[derive(Debug)]
pub(super) struct Copies {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    bell: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    /// What each file is to hold; `None`: it is to go.
    changes: BTreeMap<PathBuf, Option<Vec<u8>>>,
    closing: bool,
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // What a panicking thread left is still a set of true changes.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Copies {
    /// Begins to write below `root`.
    ///
    /// # Errors
    /// If there can be no thread.
    pub(super) fn begin(root: &Path) -> io::Result<Copies> {
        let shared = Arc::new(Shared::default());
        let (of_writer, directory) = (Arc::clone(&shared), directory(root));
        let writer = std::thread::Builder::new().name("copies".to_owned());
        let writer = writer.spawn(move || write_all(&of_writer, &directory))?;
        Ok(Copies { shared, writer: Some(writer) })
    }

    /// Has a record copied, or its copy removed.
    pub(super) fn put(&self, table: &str, key: &str, record: Option<Vec<u8>>) {
        if let Some(path) = relative(table, key) {
            self.shared.waiting().changes.insert(path, record);
            self.shared.bell.notify_one();
        }
    }

    /// Has the copies of a table become what the database has, where they are not.
    pub(super) fn match_table(&self, root: &Path, table: &str, rows: &BTreeMap<String, Vec<u8>>) {
        for (key, _) in entries(&directory(root).join(table)) {
            if !rows.contains_key(&key) {
                self.put(table, &key, None);
            }
        }
        for (key, record) in rows {
            self.put(table, key, Some(record.clone()));
        }
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        self.shared.waiting().closing = true;
        self.shared.bell.notify_one();
        if let Some(writer) = self.writer.take() {
            // Of a thread that panicked nothing more is to be had.
            let _ = writer.join();
        }
    }
}

fn write_all(shared: &Shared, directory: &Path) {
    let mut waiting = shared.waiting();
    loop {
        while waiting.changes.is_empty() {
            if waiting.closing {
                return;
            }
            waiting = shared.bell.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        let gathering = shared.bell.wait_timeout_while(waiting, BEHIND, |waiting| !waiting.closing);
        waiting = gathering.unwrap_or_else(PoisonError::into_inner).0;
        let changes = std::mem::take(&mut waiting.changes);
        drop(waiting);
        for (path, record) in changes {
            if let Err(error) = write(directory, &path, record.as_deref()) {
                // The next daemon finds that it differs.
                tracing::warn!(error = sampan_base::chain(&error), "cannot keep a copy of a record");
            }
        }
        waiting = shared.waiting();
    }
}

fn write(directory: &Path, path: &Path, record: Option<&[u8]>) -> Result<(), FileError> {
    let path = directory.join(path);
    let Some(record) = record else { return files::remove_if_exists(&path) };
    if files::read_limited(&path, MAX_RECORD_BYTES).is_ok_and(|there| there == record) {
        return Ok(());
    }
    // Environments hold secrets.
    files::create_directories(path.parent().unwrap_or(directory), 0o700)?;
    files::write_atomic_volatile(&path, record, 0o600)
}

/// The copies of a table.
pub(super) fn read(root: &Path, table: &str) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for (key, path) in entries(&directory(root).join(table)) {
        match files::read_limited(&path, MAX_RECORD_BYTES) {
            Ok(record) => drop(found.insert(key, record)),
            Err(error) => {
                tracing::error!(error = sampan_base::chain(&error), "cannot read the copy of a record");
            }
        }
    }
    found
}

fn directory(root: &Path) -> PathBuf {
    root.join("records")
}

/// Where a copy lies, if its key can be a file's name: those of containers, volumes and networks can.
fn relative(table: &str, key: &str) -> Option<PathBuf> {
    (!key.is_empty() && !key.contains('/') && key != "." && key != "..").then(|| Path::new(table).join(key))
}

/// The files of a directory, by name; none if it is not there.
pub(super) fn entries(directory: &Path) -> impl Iterator<Item = (String, PathBuf)> {
    let listed = std::fs::read_dir(directory).into_iter().flatten().flatten();
    listed.filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_follow_what_is_put_and_match_what_the_database_has() {
        let dir = tempfile::tempdir().unwrap();
        let rows = |pairs: &[(&str, &str)]| -> BTreeMap<String, Vec<u8>> {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), v.as_bytes().to_vec())).collect()
        };
        let copies = Copies::begin(dir.path()).unwrap();
        for (key, value) in
            [("a", Some("1")), ("b", Some("1")), ("b", None), ("a", Some("2")), ("../x", Some("3"))]
        {
            copies.put("t", key, value.map(|v| v.as_bytes().to_vec()));
        }
        drop(copies);
        assert_eq!(read(dir.path(), "t"), rows(&[("a", "2")]));
        let copies = Copies::begin(dir.path()).unwrap();
        let wanted = rows(&[("b", "1"), ("c", "1")]);
        copies.match_table(dir.path(), "t", &wanted);
        drop(copies);
        assert_eq!(read(dir.path(), "t"), wanted);
        assert!(!dir.path().join("x").exists());
    }
}
