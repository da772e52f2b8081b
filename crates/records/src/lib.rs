//! A file of records: a redb database that the engine and the image store each have one of.
//!
//! * It is whole before it has its name: redb refuses a file whose making was cut off.
//! * It is opened again after a failure ([`RecordFile::with`]): redb says no to everything after an I/O error, also when
//!   the disk has room again.
//! * A damaged one is told from a disk that fails ([`is_damage`]), and set aside ([`set_aside`]) for whoever makes a new
//!   one. redb finds damage by checksums only after a crash; else it may panic over it, which ends the daemon. So an
//!   [`Opening`] is noted beside the file while it goes on: when several in a row did not come to their end, the file
//!   counts as damaged.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};

use redb::{Database, Error};
use sampan_base::{FileError, Timestamp, files};

/// Bytes of redb's page cache: the whole database of a busy host fits, and an idle one takes what it uses.
const CACHE_BYTES: usize = 16 * 1024 * 1024;

/// So many openings in a row without an end are the file's fault. One alone may have been killed.
const HOPELESS: u32 = 3;

/// A database, and the file that it is in.
#[derive(Debug)]
pub struct RecordFile {
    path: PathBuf,
    /// None while it could not be opened again.
    database: RwLock<Option<Database>>,
    /// It has failed to read or write its file, and answers nothing more until it is opened again.
    broken: AtomicBool,
}

impl RecordFile {
    /// Opens the file at `path`, which is there.
    ///
    /// # Errors
    /// If it can't be opened, is in use, or is damaged.
    pub fn open(path: &Path) -> Result<RecordFile, Error> {
        let database = RwLock::new(Some(open_database(path)?));
        Ok(RecordFile { path: path.to_owned(), database, broken: AtomicBool::new(false) })
    }

    /// Makes a file at `path`, where none is, with what `fill` puts into it. A crash before the end leaves none.
    ///
    /// # Errors
    /// If it can't be made, or `fill` fails.
    pub fn create<T, E: From<Error>>(
        path: &Path,
        fill: impl FnOnce(&Database) -> Result<T, E>,
    ) -> Result<T, E> {
        let failed = |error: FileError| E::from(Error::Io(std::io::Error::new(error.source.kind(), error)));
        let new = path.with_extension("redb.new");
        files::remove_if_exists(&new).map_err(failed)?;
        let database = Database::builder().set_cache_size(CACHE_BYTES).create(&new).map_err(Error::from)?;
        let filled = fill(&database)?;
        drop(database);
        std::fs::rename(&new, path).map_err(FileError::on("create", path)).map_err(failed)?;
        files::sync_directory(path.parent().unwrap_or(path)).map_err(failed)?;
        Ok(filled)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Does something with the database, which is opened again before if it had failed. What was committed without
    /// durability since the last durable change is then lost, as in a crash.
    ///
    /// # Errors
    /// What `work` says, or that it can't be opened again.
    pub fn with<T>(&self, work: impl FnOnce(&Database) -> Result<T, Error>) -> Result<T, Error> {
        if self.broken.load(Ordering::Acquire) {
            let mut slot = self.database.write().unwrap_or_else(PoisonError::into_inner);
            if self.broken.load(Ordering::Acquire) {
                // Closed first: it locks its file.
                *slot = None;
                *slot = Some(open_database(&self.path)?);
                self.broken.store(false, Ordering::Release);
                tracing::warn!(path = %self.path.display(), "opened the records again after a failure");
            }
        }
        let slot = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let done = match &*slot {
            Some(database) => work(database),
            // Somebody else could not open it again just now.
            None => Err(Error::PreviousIo),
        };
        if let Err(error) = &done {
            self.note(error);
        }
        done
    }

    /// Notes that something failed in a transaction that has left [`RecordFile::with`].
    pub fn note(&self, error: &Error) {
        if matches!(error, Error::Io(_) | Error::PreviousIo) {
            self.broken.store(true, Ordering::Release);
        }
    }
}

fn open_database(path: &Path) -> Result<Database, Error> {
    // The database itself does not wait for a child of a daemon that was killed, see `files::lock`.
    if let Ok(file) = std::fs::File::open(path) {
        files::lock(&file).map_err(Error::Io)?;
    }
    Ok(Database::builder().set_cache_size(CACHE_BYTES).open(path)?)
}

/// Whether an error tells of a damaged file, not of a disk that fails, a file in use, or a newer program's file.
pub fn is_damage(error: &Error) -> bool {
    match error {
        Error::Io(e) => {
            matches!(e.kind(), std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof)
        }
        Error::Corrupted(_) | Error::TableDoesNotExist(_) | Error::TableTypeMismatch { .. } => true,
        _ => false,
    }
}

/// Gives a damaged file another name, which it answers. It is kept for whoever wants to look at it.
///
/// # Errors
/// If it can't be renamed.
pub fn set_aside(path: &Path) -> Result<PathBuf, FileError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let seconds = Timestamp::now().unix_seconds();
    // A clock that was set back must not make it take an earlier one's name.
    let free =
        (0..).map(|n| seconds.saturating_add(n)).map(|n| path.with_file_name(format!("{name}.damaged-{n}")));
    let aside = free.into_iter().find(|path| !path.exists()).unwrap_or_else(|| path.to_owned());
    std::fs::rename(path, &aside).map_err(FileError::on("set aside", path))?;
    Ok(aside)
}

/// The opening of a file, from its first to its last check.
#[derive(Debug)]
pub struct Opening {
    note: PathBuf,
    begun: u32,
}

impl Opening {
    /// Notes that the file at `path` is being opened. Where nothing can be noted (the disk is full) it is opened all the same.
    pub fn begin(path: &Path) -> Opening {
        let note = path.with_extension("redb.opening");
        let before = files::read_limited(&note, 16).ok().and_then(|text| String::from_utf8(text).ok());
        let begun = before.and_then(|text| text.parse().ok()).unwrap_or(0u32).saturating_add(1);
        // Of a machine that dies nothing is asked here: it counts processes that die.
        if let Err(error) = files::write_atomic_volatile(&note, begun.to_string().as_bytes(), 0o600) {
            tracing::warn!(error = sampan_base::chain(&error), "cannot note that records are being opened");
        }
        Opening { note, begun }
    }

    /// Whether the file can't be opened: those before this one did not come to their end.
    pub fn is_hopeless(&self) -> bool {
        self.begun >= HOPELESS
    }

    /// It has come to its end, whatever that is.
    pub fn end(self) {
        if let Err(error) = files::remove_if_exists(&self.note) {
            tracing::warn!(
                error = sampan_base::chain(&error),
                "cannot forget that records were being opened"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use redb::{ReadableDatabase, TableDefinition};

    use super::*;

    const TABLE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("t");

    fn make(path: &Path) {
        RecordFile::create(path, |database| -> Result<(), Error> {
            let write = database.begin_write()?;
            write.open_table(TABLE)?.insert("a", b"1".as_slice())?;
            Ok(write.commit()?)
        })
        .unwrap();
    }

    #[test]
    fn a_file_is_made_whole_and_opened_again_after_a_failure() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.redb");
        make(&path);
        let file = RecordFile::open(&path).unwrap();
        let failed = file.with(|_| Err::<(), _>(Error::Io(std::io::ErrorKind::StorageFull.into())));
        assert!(!is_damage(&failed.unwrap_err()));
        let read = file.with(|d| Ok(d.begin_read()?.open_table(TABLE)?.get("a")?.unwrap().value().to_vec()));
        assert_eq!(read.unwrap(), b"1");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_cut_short_or_no_database_is_damaged_and_gets_another_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.redb");
        make(&path);
        let whole = std::fs::read(&path).unwrap();
        let damaged = [Vec::new(), whole[..whole.len() / 2].to_vec(), vec![7; whole.len()]];
        for bytes in &damaged {
            std::fs::write(&path, bytes).unwrap();
            let error = RecordFile::open(&path).unwrap_err();
            assert!(is_damage(&error), "{error}");
            assert_eq!(&std::fs::read(set_aside(&path).unwrap()).unwrap(), bytes);
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), damaged.len());
    }

    #[test]
    fn openings_without_an_end_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.redb");
        let hopeless: Vec<bool> = (0..4).map(|_| Opening::begin(&path).is_hopeless()).collect();
        assert_eq!(hopeless, [false, false, true, true]);
        Opening::begin(&path).end();
        assert!(!Opening::begin(&path).is_hopeless());
    }
}
