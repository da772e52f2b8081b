//! Writes a container's processes to files, from which [`super::restore`] makes them again, elsewhere or later.
//!
//! Beside CRIU's own files the directory gets `descriptors.json`, what the first process's standard streams were: as
//! other runtimes write it, so that either can restore what the other has written.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use sampan_base::{Class, FileError, files};
use sampan_oci::runtime::{NamespaceKind, Spec, Status};

use super::delete::{DeleteError, clear};
use crate::criu::{self, CgroupsMode, Notification, PageServer, Request};
use crate::ending;
use crate::error::{Refused, Step};
use crate::log::Log;
use crate::rootfs::{self, What};
use crate::state::{self, LookupError, Record, StateRoot};

/// What the standard streams were.
pub(super) const DESCRIPTORS: &str = "descriptors.json";
/// What masks a file, and its name in the files.
pub(super) const MASK: &str = "/dev/null";
/// What a network namespace of somebody else is called in the files.
pub(super) const NETWORK: &str = "extRootNetNS";
/// The same for a PID namespace.
pub(super) const PIDS: &str = "extRootPidNS";

/// What `checkpoint` and `restore` are told.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// CRIU, if not the one in `PATH`.
    pub criu: Option<PathBuf>,
    /// Where the files are.
    pub images: PathBuf,
    /// Where the log goes, if not there.
    pub work: Option<PathBuf>,
    /// Earlier files, from the directory of these.
    pub parent: Option<PathBuf>,
    /// Whether the container goes on.
    pub leave_running: bool,
    /// Whether TCP connections are kept.
    pub tcp_established: bool,
    /// Whether half-made ones are left out.
    pub tcp_skip_in_flight: bool,
    /// Whether connections outside may be cut.
    pub ext_unix_sk: bool,
    /// Whether a terminal of the caller's is in use.
    pub shell_job: bool,
    /// Whether locks on files are kept.
    pub file_locks: bool,
    /// Whether files that were removed may be linked anew.
    pub link_remap: bool,
    /// Whether only memory is written, and the container goes on.
    pub pre_dump: bool,
    /// Whether memory comes when it is needed.
    pub lazy_pages: bool,
    /// The descriptor that hears when it may be fetched.
    pub status_fd: Option<i32>,
    /// Who gets the memory.
    pub page_server: Option<PageServer>,
    /// Whether memory that earlier files have is removed from them.
    pub auto_dedup: bool,
    /// How groups are treated.
    pub cgroups_mode: CgroupsMode,
    /// Whether the network namespace's content is left to hooks.
    pub empty_network: bool,
    /// The security profile of the restored processes.
    pub lsm_profile: Option<String>,
}

/// A container that can't be written to files.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// It can't be found.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// It does not run.
    #[error("cannot checkpoint a container that is {}", status.name())]
    WrongState {
        /// Where it is.
        status: Status,
    },
    /// What is asked for makes no sense.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// A file can't be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A step failed.
    #[error(transparent)]
    Step(#[from] Step),
    /// The container is written, but can't be removed.
    #[error(transparent)]
    Delete(#[from] DeleteError),
}

impl CheckpointError {
    /// The class to report.
    pub fn class(&self) -> Class {
        match self {
            CheckpointError::Lookup(error) => error.class(),
            CheckpointError::WrongState { .. } => Class::Conflict,
            CheckpointError::Refused(error) => error.class(),
            CheckpointError::File(error) => error.class(),
            CheckpointError::Step(error) => error.class(),
            CheckpointError::Delete(error) => error.class(),
        }
    }
}

/// Writes a container to files. It is gone afterwards, unless it is to go on.
///
/// # Errors
/// If it does not run or CRIU can't do it; it goes on then.
pub fn checkpoint(root: &StateRoot, id: &str, options: &Options, log: &Log) -> Result<(), CheckpointError> {
    let (directory, _) = root.find(id)?;
    let _lock = directory.lock()?;
    let record = directory.record()?;
    let status = directory.status(&record);
    if !matches!(status, Status::Running | Status::Paused) {
        return Err(CheckpointError::WrongState { status });
    }
    require_root("checkpoint")?;
    let Some(process) = state::open_process(&record).map_err(Step::on(|| "open the container's process"))?
    else {
        return Err(CheckpointError::WrongState { status: Status::Stopped });
    };
    files::create_directories(&options.images, 0o700)?;
    let opened = Opened::open(options)?;
    note_descriptors(&record, &options.images)?;
    let mut criu = opened.options(options, false)?;
    criu.pid = Some(record.pid);
    criu.root = record.rootfs.display().to_string();
    criu.leave_running = options.leave_running;
    criu.freezer = record.cgroups.iter().find(|g| g.freezes()).map(|g| g.path.display().to_string());
    criu.external = external(&record, &binds(&directory.config()?, &record.bundle)?)?;
    let request = if options.pre_dump { Request::PreDump } else { Request::Dump };
    criu::call(options.criu.as_deref(), request, &criu, None, |notification| {
        notified(&notification, options)
    })?;
    if options.pre_dump || options.leave_running {
        return Ok(());
    }
    let ended = ending::wait_for(process.as_fd(), ending::KILL_DEADLINE);
    ended.map_err(Step::on(|| "wait for the end of the container's process"))?;
    let hooks = directory.config()?.hooks.unwrap_or_default();
    Ok(clear(&directory, &record, &hooks, log)?)
}

/// CRIU needs the host's privileges.
pub(super) fn require_root(verb: &str) -> Result<(), Refused> {
    match crate::cgroup::is_host_root() {
        true => Ok(()),
        false => Err(Refused::Unsupported(format!("{verb} without root's privileges on the host"))),
    }
}

/// Both directions answer to this.
pub(super) fn notified(notification: &Notification, options: &Options) -> Result<(), Step> {
    let (Some(status), "status-ready") = (options.status_fd, notification.point.as_str()) else {
        return Ok(());
    };
    let tell = || -> io::Result<()> {
        // The caller's descriptor is not ours to close.
        let mut file = fs::OpenOptions::new().write(true).open(format!("/proc/self/fd/{status}"))?;
        file.write_all(&[0])
    };
    tell().map_err(Step::on(|| format!("write to descriptor {status} of --status-fd")))
}

/// The directories of files and log.
pub(super) struct Opened {
    images: File,
    work: File,
    work_path: PathBuf,
}

impl Opened {
    pub(super) fn open(options: &Options) -> Result<Opened, FileError> {
        let work_path = match &options.work {
            Some(work) => {
                files::create_directories(work, 0o700)?;
                work.clone()
            }
            None => options.images.clone(),
        };
        let open = |path: &Path| File::open(path).map_err(FileError::on("open directory", path));
        Ok(Opened { images: open(&options.images)?, work: open(&work_path)?, work_path })
    }

    /// What both directions tell CRIU.
    pub(super) fn options(&self, options: &Options, restore: bool) -> Result<criu::Options<'_>, Refused> {
        const NEW_NETWORK: u64 = 0x4000_0000;
        let mut criu = criu::Options::new(&self.images, &self.work, self.work_path.clone(), restore);
        if let Some(parent) = &options.parent {
            if parent.is_absolute() {
                return Err(Refused::Invalid("--parent-path must be relative to --image-path".to_owned()));
            }
            criu.parent = Some(parent.display().to_string());
        }
        criu.track_memory = options.pre_dump || options.parent.is_some();
        criu.tcp_established = options.tcp_established;
        criu.tcp_skip_in_flight = options.tcp_skip_in_flight;
        criu.ext_unix_sk = options.ext_unix_sk;
        criu.shell_job = options.shell_job;
        criu.file_locks = options.file_locks;
        criu.link_remap = options.link_remap;
        criu.auto_dedup = options.auto_dedup;
        criu.lazy_pages = options.lazy_pages;
        criu.page_server = options.page_server.clone();
        criu.cgroups_mode = options.cgroups_mode;
        criu.empty_namespaces = if options.empty_network { NEW_NETWORK } else { 0 };
        criu.lsm_profile = options.lsm_profile.clone();
        Ok(criu)
    }
}

/// Notes what the standard streams are.
fn note_descriptors(record: &Record, images: &Path) -> Result<(), FileError> {
    let name = |number: u32| {
        let link = fs::read_link(format!("/proc/{}/fd/{number}", record.pid));
        // One that is closed has no name.
        link.map(|name| name.display().to_string()).unwrap_or_default()
    };
    let path = images.join(DESCRIPTORS);
    let text = serde_json::to_vec(&[name(0), name(1), name(2)]).map_err(io::Error::other);
    files::write_atomic_volatile(&path, &text.map_err(FileError::on("write", &path))?, 0o600)
}

/// Where in the container something of the host's is mounted.
fn binds(spec: &Spec, bundle: &Path) -> Result<Vec<PathBuf>, Refused> {
    let plan = rootfs::plan(spec, bundle)?;
    let bind = |mount: rootfs::plan::MountPlan| match mount.what {
        What::Bind { .. } => Some(Path::new("/").join(mount.destination)),
        _ => None,
    };
    Ok(plan.mounts.into_iter().filter_map(bind).collect())
}

/// What of the container is the host's: it is named in the files, not written to them.
fn external(record: &Record, binds: &[PathBuf]) -> Result<Vec<String>, Step> {
    let info = format!("/proc/{}/mountinfo", record.pid);
    let text = fs::read_to_string(&info).map_err(Step::on(|| format!("read `{info}`")))?;
    let mut external = Vec::new();
    for (place, kind) in text.lines().filter_map(parse_mount) {
        let name = if kind == "cgroup" || binds.contains(&place) {
            &place
        } else if kind == "devtmpfs" {
            // A file that is masked.
            Path::new(MASK)
        } else {
            continue;
        };
        external.push(format!("mnt[{}]:{}", place.display(), name.display()));
    }
    for (kind, file, name) in [(NamespaceKind::Network, "net", NETWORK), (NamespaceKind::Pid, "pid", PIDS)] {
        let joined = record.namespaces.iter().any(|n| n.kind == kind && n.path.is_some());
        if joined {
            use std::os::unix::fs::MetadataExt;
            let path = format!("/proc/{}/ns/{file}", record.pid);
            let metadata = fs::metadata(&path).map_err(Step::on(|| format!("look at `{path}`")))?;
            external.push(format!("{file}[{}]:{name}", metadata.ino()));
        }
    }
    Ok(external)
}

/// Where a line of mountinfo says that something is mounted, and of which type.
fn parse_mount(line: &str) -> Option<(PathBuf, &str)> {
    let (left, right) = line.split_once(" - ")?;
    Some((unescape(left.split(' ').nth(4)?), right.split(' ').next()?))
}

/// Blanks in paths are written as `\040`.
fn unescape(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|_| *first == b'\\');
        let byte = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match byte {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    std::ffi::OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_from_their_list() {
        let line = r"36 35 98:0 /mnt1 /mnt\0402 rw,noatime master:1 - ext3 /dev/root rw,errors=continue";
        assert_eq!(parse_mount(line), Some((PathBuf::from("/mnt 2"), "ext3")));
        assert!(parse_mount("").is_none());
        assert_eq!(unescape(r"a\"), Path::new(r"a\"));
    }
}
