//! Files that are whole or absent, and I/O errors that name their path.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

/// How long [`lock`] waits.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// An I/O error with the file it happened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} `{}`", path.display())]
pub struct FileError {
    /// What was tried: a verb, `read`, `create`, ….
    pub action: &'static str,
    /// The file or directory.
    pub path: PathBuf,
    /// Why it failed.
    pub source: io::Error,
}

impl FileError {
    /// Wraps the error of doing `action` on `path`, for `map_err`.
    pub fn on(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> FileError {
        let path = path.into();
        move |source| FileError { action, path, source }
    }

    /// The class to report.
    pub fn class(&self) -> crate::Class {
        crate::error::class_of_io(&self.source)
    }
}

/// Replaces the file at `path` by `bytes` in one step that survives a crash: written beside it, synced, renamed,
/// and the directory synced. Readers see the old or the new content, never a part.
///
/// # Errors
/// If any step fails; the old file is then untouched and the temporary one is gone.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    replace(path, bytes, mode, true)
}

/// As [`write_atomic`], but not synced to disk: for files below `/run` that a reboot forgets anyway.
///
/// # Errors
/// As [`write_atomic`].
pub fn write_atomic_volatile(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    replace(path, bytes, mode, false)
}

fn replace(path: &Path, bytes: &[u8], mode: u32, durable: bool) -> Result<(), FileError> {
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}-{:x}.tmp", std::process::id(), unique()));
    let temporary = directory.join(name);
    let written = (|| {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(bytes)?;
        if durable {
            file.sync_all()?;
        }
        fs::rename(&temporary, path)
    })();
    if let Err(source) = written {
        // The temporary may not exist; the first error is the one to report.
        let _ = fs::remove_file(&temporary);
        return Err(FileError { action: "write", path: path.to_owned(), source });
    }
    if durable { sync_directory(directory) } else { Ok(()) }
}

/// A number no other call in this process gets.
fn unique() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Makes renames and creations in `directory` durable.
///
/// # Errors
/// If the directory can't be opened or synced.
pub fn sync_directory(directory: &Path) -> Result<(), FileError> {
    File::open(directory).and_then(|d| d.sync_all()).map_err(FileError::on("sync", directory))
}

/// Reads a whole file of at most `limit` bytes.
///
/// # Errors
/// If it can't be read or is longer.
pub fn read_limited(path: &Path, limit: u64) -> Result<Vec<u8>, FileError> {
    let read = || {
        let file = File::open(path)?;
        // Most are read in one go.
        let mut bytes = Vec::with_capacity(8192);
        file.take(limit + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("longer than {limit} bytes")));
        }
        Ok(bytes)
    };
    read().map_err(FileError::on("read", path))
}

/// Reads a short file that the kernel makes up as it is read, of proc or a control group: one read returns it whole, up
/// to a page.
///
/// # Errors
/// If it can't be read.
pub fn read_page(path: &Path) -> io::Result<Vec<u8>> {
    let mut page = [0; 4096];
    let length = File::open(path)?.read(&mut page)?;
    Ok(page[..length].to_vec())
}

/// Makes `path` and its parents; each one that is new gets `mode`.
///
/// # Errors
/// If one can't be made.
pub fn create_directories(path: &Path, mode: u32) -> Result<(), FileError> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(FileError::on("create directory", path))
}

/// Removes a file or a whole directory; it is no error if there is none.
///
/// # Errors
/// If something is there and can't be removed.
pub fn remove_if_exists(path: &Path) -> Result<(), FileError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(m) if m.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    match removed {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(FileError::on("remove", path)),
    }
}

/// Locks an open file for this process (flock(2)) as long as it is open. Answers whether it could.
///
/// It waits a little: a process that was killed may have left a child that was about to execute another program, and until
/// then has open what its parent had.
///
/// # Errors
/// If the kernel can't lock it, or there can be no thread to wait.
pub fn lock(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => return Ok(true),
        Err(fs::TryLockError::WouldBlock) => {}
        Err(fs::TryLockError::Error(error)) => return Err(error),
    }
    // The same open file, so what the thread locks is locked here. One that waits in vain gives up the lock with its file.
    let same = file.try_clone()?;
    let (sender, locked) = mpsc::channel();
    std::thread::Builder::new().name("lock".into()).spawn(move || {
        // Nobody listens any more if it came too late.
        let _ = sender.send(same.lock());
    })?;
    match locked.recv_timeout(LOCK_PATIENCE) {
        Ok(result) => result.map(|()| true),
        Err(_) => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_whole_and_leaves_no_temporary() {
        let dir = std::env::temp_dir().join(format!("sampan-files-{}", std::process::id()));
        create_directories(&dir, 0o700).unwrap();
        let file = dir.join("a");
        write_atomic(&file, b"one", 0o600).unwrap();
        write_atomic(&file, b"two", 0o600).unwrap();
        assert_eq!(read_limited(&file, 3).unwrap(), b"two");
        assert!(read_limited(&file, 2).unwrap_err().to_string().contains("cannot read"));
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
        remove_if_exists(&dir).unwrap();
        remove_if_exists(&dir).unwrap();
    }

    #[test]
    fn a_failed_write_names_the_file() {
        let error = write_atomic(Path::new("/proc/nowhere/x"), b"", 0o600).unwrap_err();
        assert_eq!(error.to_string(), "cannot write `/proc/nowhere/x`");
    }

    #[test]
    fn a_lock_is_waited_for() {
        let path = std::env::temp_dir().join(format!("sampan-lock-{}", std::process::id()));
        let open = || File::options().create(true).truncate(false).write(true).open(&path).unwrap();
        let holder = open();
        assert!(lock(&holder).unwrap());
        let next = open();
        assert!(!lock(&next).unwrap());
        // Whoever waits gets it when it is free, be it after some time.
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| lock(&next).unwrap());
            drop(holder);
            assert!(waiting.join().unwrap());
        });
        assert!(open().try_lock().is_err());
        remove_if_exists(&path).unwrap();
    }
}
