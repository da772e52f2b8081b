//! What is remembered about containers between commands.
//!
//! ```text
//! <root>/                 0711, made at the first create
//!   <id>/                 0711; exists = the id is taken. Locked (flock) by create, start, delete, update
//!     origin.json         a line: the [`Record`] as it was before there was a process; after it, the bundle's
//!                         config.json as it was at create. Written once
//!     state.json          a line: the [`Record`], version 2, once there is a process. To change it, it is replaced as a
//!                         whole (write beside, rename)
//!     gate.sock           the container's process waits here for `start`; exists = not started yet
//! ```
//! All of it lies in a file system that a reboot forgets, so nothing is synced. The origin is written before anything
//! else of the container is made: whatever `create` leaves behind when it is killed is named there, and `delete` can
//! clear it away. Both files are made under their own names, since renaming has its price on a disk: a record that
//! does not end with a line feed is being written, and not there yet.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::process::{Pid, PidfdFlags};
use sampan_base::{Class, ContainerId, FileError, Timestamp, files};
use sampan_oci::runtime::{Namespace, NamespaceKind, Spec, State, Status};
use serde::{Deserialize, Serialize};

use crate::cgroup::{Group, systemd::Unit};

/// Where containers are remembered if `--root` is not given.
pub const DEFAULT_ROOT: &str = "/run/sampan-runtime";
/// The format of [`Record`].
const FORMAT: u32 = 2;
/// The longest state.json or config.json in bytes.
pub const MAX_DOCUMENT: u64 = 16 * 1024 * 1024;

const RECORD: &str = "state.json";
const ORIGIN: &str = "origin.json";
/// The longest record in bytes.
const MAX_RECORD: u64 = 1024 * 1024;
const GATE: &str = "gate.sock";

/// What state.json holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The format, [`FORMAT`].
    pub format: u32,
    /// config.json's version of the specification.
    pub oci_version: String,
    /// The container.
    pub id: String,
    /// Its bundle, absolute.
    pub bundle: PathBuf,
    /// Its root file system, absolute.
    pub rootfs: PathBuf,
    /// When it was made.
    pub created: Timestamp,
    /// Who made it.
    pub owner: u32,
    /// Its process; 0 until there is one.
    pub pid: i32,
    /// When the process began, in ticks since boot: another process of the same number began later.
    pub began: u64,
    /// The inode of handles on it, where the kernel (6.9) has one for each process; else 0. Ticks are long: two processes
    /// of one number may begin in the same.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub inode: u64,
    /// config.json's annotations.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub annotations: std::collections::BTreeMap<String, String>,
    /// config.json's namespaces.
    pub namespaces: Vec<Namespace>,
    /// The groups made for it.
    pub cgroups: Vec<Group>,
    /// The systemd unit that they are, if systemd made them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<Unit>,
    /// Whether processes that are not its own were in them before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shares_cgroups: bool,
    /// What it has in resctrl.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resctrl: Option<crate::resctrl::Held>,
    /// Whether its processes have the session keyring of whoever starts them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shares_keyring: bool,
}

impl Record {
    /// A record of a container that has no process yet.
    pub fn new(id: &ContainerId, spec: &Spec, bundle: &Path, rootfs: &Path) -> Record {
        Record {
            format: FORMAT,
            oci_version: spec.oci_version.clone(),
            id: id.to_string(),
            bundle: bundle.to_owned(),
            rootfs: rootfs.to_owned(),
            created: Timestamp::now(),
            owner: rustix::process::getuid().as_raw(),
            pid: 0,
            began: 0,
            inode: 0,
            annotations: spec.annotations.clone(),
            namespaces: spec.linux.as_ref().map(|l| l.namespaces.clone()).unwrap_or_default(),
            cgroups: Vec::new(),
            unit: None,
            shares_cgroups: false,
            resctrl: None,
            shares_keyring: false,
        }
    }

    /// Whether the container's processes are in a PID namespace that ends with the first of them.
    pub fn has_own_pids(&self) -> bool {
        self.namespaces.iter().any(|n| n.kind == NamespaceKind::Pid && n.path.is_none())
    }

    /// The specification's state document.
    pub fn state(&self, status: Status) -> State {
        State {
            oci_version: self.oci_version.clone(),
            id: self.id.clone(),
            status,
            pid: if status == Status::Stopped { 0 } else { self.pid },
            bundle: self.bundle.clone(),
            annotations: self.annotations.clone(),
        }
    }
}

/// A container that can't be looked up.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// There is none of this id.
    #[error("container does not exist: `{id}`")]
    NotFound {
        /// The id.
        id: String,
    },
    /// The id is none.
    #[error(transparent)]
    InvalidId(#[from] sampan_base::id::InvalidContainerId),
    /// Its directory can't be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// Its record is not one that this version wrote.
    #[error("cannot understand `{}`", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// Its record was written by another version.
    #[error("`{}` has format {format}, this version knows format {FORMAT}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: u32,
    },
}

impl LookupError {
    /// The class to report.
    pub fn class(&self) -> Class {
        match self {
            LookupError::NotFound { .. } => Class::NotFound,
            LookupError::InvalidId(_) => Class::Invalid,
            LookupError::Format { .. } => Class::Unsupported,
            LookupError::File(_) | LookupError::Malformed { .. } => Class::Internal,
        }
    }
}

/// The directory in which containers are remembered.
#[derive(Clone, Debug)]
pub struct StateRoot(pub PathBuf);

/// A container's directory.
#[derive(Clone, Debug)]
pub struct Directory(PathBuf);

/// A lock on a container's directory, until dropped.
#[derive(Debug)]
pub struct Lock(pub File);

impl StateRoot {
    /// Where containers are remembered if nobody says: for an ordinary user, in the directory of his session.
    pub fn default_for_user() -> StateRoot {
        let own = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty());
        match own {
            Some(own) if !rustix::process::geteuid().is_root() => {
                StateRoot(Path::new(&own).join("sampan-runtime"))
            }
            _ => StateRoot(PathBuf::from(DEFAULT_ROOT)),
        }
    }

    /// Takes an id: makes its directory, locked.
    ///
    /// # Errors
    /// `Ok(None)` if the id is taken; an error if the directory can't be made.
    pub fn take(&self, id: &ContainerId) -> Result<Option<(Directory, Lock)>, FileError> {
        use std::os::unix::fs::DirBuilderExt;
        let path = self.0.join(id.as_str());
        let make = || fs::DirBuilder::new().mode(0o711).create(&path);
        let made = match make() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                files::create_directories(&self.0, 0o711)?;
                make()
            }
            other => other,
        };
        match made {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
            Err(source) => return Err(FileError { action: "create directory", path, source }),
        }
        let directory = Directory(path);
        let lock = directory.lock()?;
        Ok(Some((directory, lock)))
    }

    /// Looks up a container.
    ///
    /// # Errors
    /// If there is none, or its record can't be read.
    pub fn find(&self, id: &str) -> Result<(Directory, Record), LookupError> {
        let id: ContainerId = id.parse()?;
        let directory = Directory(self.0.join(id.as_str()));
        let record = directory.record()?;
        Ok((directory, record))
    }

    /// The directory of an id, whether or not there is a record in it.
    ///
    /// # Errors
    /// If the id is none or there is no such directory.
    pub fn directory(&self, id: &str) -> Result<Directory, LookupError> {
        let id: ContainerId = id.parse()?;
        let directory = Directory(self.0.join(id.as_str()));
        if directory.0.is_dir() { Ok(directory) } else { Err(LookupError::NotFound { id: id.to_string() }) }
    }

    /// The ids that are taken, sorted.
    ///
    /// # Errors
    /// If the directory can't be read.
    pub fn ids(&self) -> Result<Vec<String>, FileError> {
        let read = || -> io::Result<Vec<String>> {
            let mut ids = Vec::new();
            for entry in fs::read_dir(&self.0)? {
                let name = entry?.file_name().to_string_lossy().into_owned();
                if name.parse::<ContainerId>().is_ok() {
                    ids.push(name);
                }
            }
            ids.sort();
            Ok(ids)
        };
        read().map_err(FileError::on("list", &self.0))
    }
}

impl Directory {
    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Waits until nobody else changes this container.
    ///
    /// # Errors
    /// If the directory can't be opened.
    pub fn lock(&self) -> Result<Lock, FileError> {
        let lock = || {
            let file = File::open(&self.0)?;
            rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
            Ok(Lock(file))
        };
        lock().map_err(FileError::on("lock", &self.0))
    }

    /// Reads the record.
    ///
    /// # Errors
    /// If there is none or it can't be understood.
    pub fn record(&self) -> Result<Record, LookupError> {
        for name in [RECORD, ORIGIN] {
            let path = self.0.join(name);
            let bytes = match files::read_limited(&path, MAX_DOCUMENT + MAX_RECORD) {
                Err(e) if e.source.kind() == io::ErrorKind::NotFound => continue,
                other => other?,
            };
            let Some((line, _)) = split(&bytes) else { continue };
            return match serde_json::from_slice::<Record>(line) {
                Ok(record) if record.format == FORMAT => Ok(record),
                Ok(record) => Err(LookupError::Format { path, format: record.format }),
                Err(source) => Err(LookupError::Malformed { path, source }),
            };
        }
        let id = self.0.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Err(LookupError::NotFound { id })
    }

    /// Keeps what a container is to be made from: the record so far, and config.json as it is now.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn begin(&self, record: &Record, config: &[u8]) -> Result<(), FileError> {
        let path = self.0.join(ORIGIN);
        let mut bytes = line(record).map_err(FileError::on("write", &path))?;
        bytes.extend(config);
        write_new(&path, &bytes).map_err(FileError::on("write", &path))
    }

    /// Writes the record, or replaces it.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn remember(&self, record: &Record) -> Result<(), FileError> {
        let path = self.0.join(RECORD);
        let bytes = line(record).map_err(FileError::on("write", &path))?;
        match write_new(&path, &bytes) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                files::write_atomic_volatile(&path, &bytes, 0o600)
            }
            other => other.map_err(FileError::on("write", &path)),
        }
    }

    /// The config.json that the container was made with.
    ///
    /// # Errors
    /// If it can't be read or understood.
    pub fn config(&self) -> Result<Spec, LookupError> {
        let path = self.0.join(ORIGIN);
        let bytes = files::read_limited(&path, MAX_DOCUMENT + MAX_RECORD)?;
        let (_, config) = split(&bytes).unwrap_or_default();
        serde_json::from_slice(config).map_err(|source| LookupError::Malformed { path, source })
    }

    /// Where the container's process waits for `start`.
    pub fn gate(&self) -> PathBuf {
        self.0.join(GATE)
    }

    /// Gives the id free.
    ///
    /// # Errors
    /// If something can't be removed.
    pub fn forget(&self) -> Result<(), FileError> {
        // The origin goes last: until then, delete finds what is left.
        for name in [GATE, RECORD, ORIGIN] {
            let path = self.0.join(name);
            match fs::remove_file(&path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                other => other.map_err(FileError::on("remove", &path))?,
            }
        }
        match fs::remove_dir(&self.0) {
            // Files of a version to come, or half-written ones.
            Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => files::remove_if_exists(&self.0),
            other => other.map_err(FileError::on("remove", &self.0)),
        }
    }

    /// Where in its life the container is.
    pub fn status(&self, record: &Record) -> Status {
        // By its handle, where that can be had: another process of its number may have begun in the same tick.
        let is_alive = open_process(record).map_or_else(|_| is_alive(record), |process| process.is_some());
        self.status_of(record, is_alive)
    }

    /// As [`Directory::status`], if it is known already whether the process has not ended.
    pub fn status_of(&self, record: &Record, is_alive: bool) -> Status {
        if record.pid == 0 {
            return Status::Creating;
        }
        if !is_alive {
            return Status::Stopped;
        }
        if crate::cgroup::is_frozen(&record.cgroups) {
            return Status::Paused;
        }
        if self.gate().exists() { Status::Created } else { Status::Running }
    }
}

/// A record as a line.
fn line(record: &Record) -> io::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(record)?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// The line of a record, and what follows it; nothing if it has no end yet.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(bytes)
}

/// Whether the container's process has not ended: of its number, begun when it began, and no zombie.
pub fn is_alive(record: &Record) -> bool {
    matches!(process_times(record.pid), Some((state, began)) if began == record.began && !matches!(state, b'Z' | b'X'))
}

/// A handle on the container's process, if that has not ended.
///
/// # Errors
/// If the kernel refuses.
pub fn open_process(record: &Record) -> io::Result<Option<std::os::fd::OwnedFd>> {
    let Some(pid) = Pid::from_raw(record.pid) else { return Ok(None) };
    match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        // Only now is it known that the number can't come to mean another process meanwhile.
        Ok(fd) if is_alive(record) && inode(&fd)? == record.inode => Ok(Some(fd)),
        Ok(_) | Err(rustix::io::Errno::SRCH) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// The number that only handles on this process have, or 0 if this kernel gives none.
///
/// # Errors
/// If it is no handle.
pub fn inode(handle: &std::os::fd::OwnedFd) -> io::Result<u64> {
    const PID_FS_MAGIC: i64 = 0x5049_4446;
    #[allow(clippy::unnecessary_cast, reason = "i64 here, not everywhere")]
    if rustix::fs::fstatfs(handle)?.f_type as i64 != PID_FS_MAGIC {
        return Ok(0);
    }
    Ok(rustix::fs::fstat(handle)?.st_ino)
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// When a process began.
///
/// # Errors
/// If there is none of this number.
pub fn beginning(pid: i32) -> io::Result<u64> {
    process_times(pid).map(|(_, began)| began).ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// A process's state letter and beginning, from `/proc/PID/stat`.
fn process_times(pid: i32) -> Option<(u8, u64)> {
    parse_stat(&files::read_page(Path::new(&format!("/proc/{pid}/stat"))).ok()?)
}

fn parse_stat(stat: &[u8]) -> Option<(u8, u64)> {
    // The name in parentheses may hold anything, parentheses, too.
    let end = stat.iter().rposition(|b| *b == b')')?;
    let mut fields = stat.get(end + 2..)?.split(|b| *b == b' ');
    let state = *fields.next()?.first()?;
    let began = std::str::from_utf8(fields.nth(18)?).ok()?.trim().parse().ok()?;
    Some((state, began))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_behind_the_name() {
        let stat = b"12 (a) S 1) R 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20 21";
        assert_eq!(parse_stat(stat), Some((b'R', 4711)));
        assert_eq!(parse_stat(b""), None);
        assert_eq!(parse_stat(b"1 (x)"), None);
    }

    #[test]
    fn an_id_is_taken_once_and_forgotten() {
        let temporary = tempfile::tempdir().unwrap();
        let root = StateRoot(temporary.path().join("a/b"));
        let id: ContainerId = "x".parse().unwrap();
        assert!(matches!(root.find("x"), Err(LookupError::NotFound { .. })));
        let (directory, _lock) = root.take(&id).unwrap().unwrap();
        assert!(root.take(&id).unwrap().is_none());
        assert!(matches!(root.find("x"), Err(LookupError::NotFound { .. })));
        let record = Record::new(&id, &Spec::default(), Path::new("/b"), Path::new("/b/r"));
        directory.begin(&record, b"{\n\"ociVersion\":\"1.0\"}").unwrap();
        assert_eq!(directory.config().unwrap().oci_version, "1.0");
        assert_eq!(root.find("x").unwrap().1.bundle, Path::new("/b"));
        assert_eq!(directory.status(&record), Status::Creating);
        // Being written.
        fs::write(directory.path().join(RECORD), "{").unwrap();
        assert_eq!(root.find("x").unwrap().1.pid, 0);
        for pid in [7, 8] {
            directory.remember(&Record { pid, ..record.clone() }).unwrap();
            assert_eq!(root.find("x").unwrap().1.pid, pid);
        }
        assert_eq!(root.ids().unwrap(), ["x"]);
        directory.forget().unwrap();
        assert!(root.ids().unwrap().is_empty());
    }

    #[test]
    fn a_record_of_another_format_is_refused() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = Directory(temporary.path().to_owned());
        let id: ContainerId = "x".parse().unwrap();
        let mut record = Record::new(&id, &Spec::default(), Path::new("/b"), Path::new("/b/r"));
        record.format = 3;
        directory.remember(&record).unwrap();
        assert!(matches!(directory.record(), Err(LookupError::Format { format: 3, .. })));
        fs::write(temporary.path().join(RECORD), "{\n").unwrap();
        assert!(matches!(directory.record(), Err(LookupError::Malformed { .. })));
    }
}
