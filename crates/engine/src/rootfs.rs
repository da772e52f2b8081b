//! A container's file system for those who look into it from outside: as its processes see it while it runs, else mounted
//! for the time.
//!
//! An overlay must not be mounted twice. So whoever borrows the file system of a container that does not run mounts it
//! at `<state>/borrowed/<id>`, and a start that comes meanwhile binds that mount instead of making another one.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{AtFlags, FileType, Gid, Mode, Uid};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, UnmountFlags};
use rustix::process::{Pid, PidfdFlags};
use sampan_base::Class;
use sampan_kernel::beneath::RootDir;

use crate::container::View;
use crate::container::state::Denial;
use crate::error::{EngineError, Result};
use crate::metadata::ContainerRecord;
use crate::spec::MountSource;
use crate::{Engine, Inner, long_blocking, volumes};

/// How many links a path may lead through, as in the kernel.
const MAX_LINKS: usize = 40;

/// Who has borrowed which file systems: how many, by container.
#[derive(Debug, Default)]
pub(crate) struct Borrowed(Mutex<BTreeMap<String, usize>>);

impl Borrowed {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, usize>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The file system of a container, open.
#[derive(Debug)]
pub(crate) struct FileSystem {
    pub(crate) root: RootDir,
    /// What is mounted for it goes when this is dropped.
    _loan: Option<Loan>,
}

#[derive(Debug)]
struct Loan {
    inner: Arc<Inner>,
    id: String,
}

impl Drop for Loan {
    fn drop(&mut self) {
        let mut borrowed = self.inner.borrowed.lock();
        let Some(count) = borrowed.get_mut(&self.id) else { return };
        *count -= 1;
        if *count > 0 {
            return;
        }
        borrowed.remove(&self.id);
        let at = place(&self.inner, &self.id);
        // With what is mounted in it.
        let unmounted = rustix::mount::unmount(&at, UnmountFlags::DETACH);
        let removed = unmounted.map_err(std::io::Error::from).and_then(|()| std::fs::remove_dir(&at));
        if let Err(error) = removed {
            tracing::warn!(container = self.id, %error, "cannot unmount a file system that was looked into");
        }
    }
}

fn place(inner: &Inner, id: &str) -> PathBuf {
    inner.config.state.join("borrowed").join(id)
}

/// Mounts the snapshot of a container that starts at `at`.
pub(crate) fn mount(inner: &Inner, record: &ContainerRecord, at: &Path) -> Result<()> {
    let borrowed = inner.borrowed.lock();
    if borrowed.contains_key(&record.id) {
        return rustix::mount::mount_bind(place(inner, &record.id), at)
            .map_err(|e| EngineError::io("cannot mount the container's file system")(e.into()));
    }
    crate::userns::mount_snapshot(inner, record, at)
}

/// Unmounts what an earlier daemon left mounted here.
pub(crate) fn reconcile(inner: &Inner) -> Result<()> {
    let directory = inner.config.state.join("borrowed");
    for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
        let path = entry.path();
        tracing::warn!(mount = %path.display(), "unmounting a file system that was being looked into");
        inner.images.unmount_snapshot(&path)?;
        if let Err(error) = std::fs::remove_dir(&path) {
            tracing::warn!(mount = %path.display(), %error, "cannot remove a mount point");
        }
    }
    Ok(())
}

impl Engine {
    /// Opens a container's file system.
    pub(crate) async fn file_system(&self, text: &str) -> Result<(View, FileSystem)> {
        let view = self.container(text)?;
        if let (Some(live), Some(pid)) = (&view.live, view.record.phase.pid()) {
            let failed = EngineError::io("cannot look into the container");
            let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
            let raw = raw.ok_or_else(|| Denial::NotRunning { id: view.record.id.clone() })?;
            // The number may be another process's by now. The shim has not let go of it if it says that it runs; so what
            // was opened before was its, and what is opened before it ends is its, too.
            let process = rustix::process::pidfd_open(raw, PidfdFlags::empty());
            let state = live.task.state().await;
            let runs = state.is_ok_and(|s| s.pid == pid && s.exited_at.is_none());
            if let (Ok(process), true) = (process, runs) {
                let root = RootDir::open(Path::new(&format!("/proc/{pid}/root"))).map_err(failed)?;
                let mut polled = [PollFd::new(&process, PollFlags::IN)];
                let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
                if rustix::event::poll(&mut polled, Some(&now)) == Ok(0) {
                    return Ok((view, FileSystem { root, _loan: None }));
                }
            }
            // It is ending: its file system is looked into once it has.
            let handle = self.inner.find_container(&view.record.id)?;
            let _ = handle.view.clone().wait_for(|v| v.live.is_none() || v.removed).await;
        }
        let view = self.container(&view.record.id)?;
        let (inner, record) = (Arc::clone(&self.inner), view.record.clone());
        let opened = long_blocking(move || borrow(&inner, &record)).await?;
        Ok((view, opened))
    }
}

/// Mounts the file system of a container that does not run, with its volumes and binds.
fn borrow(inner: &Arc<Inner>, record: &ContainerRecord) -> Result<FileSystem> {
    let at = place(inner, &record.id);
    let mut borrowed = inner.borrowed.lock();
    let count = borrowed.entry(record.id.clone()).or_default();
    if *count == 0
        && let Err(error) = mount_borrowed(inner, record, &at)
    {
        borrowed.remove(&record.id);
        // What is mounted goes; what is not is no error.
        let _ = inner.images.unmount_snapshot(&at);
        let _ = std::fs::remove_dir(&at);
        return Err(error);
    }
    if let Some(count) = borrowed.get_mut(&record.id) {
        *count += 1;
    }
    drop(borrowed);
    let loan = Loan { inner: Arc::clone(inner), id: record.id.clone() };
    let root = RootDir::open(&at).map_err(EngineError::io("cannot look into the container"))?;
    Ok(FileSystem { root, _loan: Some(loan) })
}

fn mount_borrowed(inner: &Inner, record: &ContainerRecord, at: &Path) -> Result<()> {
    sampan_base::files::create_directories(at, 0o700).map_err(EngineError::file)?;
    let running = inner.config.bundle(&record.id).join("rootfs");
    let failed = || EngineError::io("cannot mount the container's file system");
    if is_mounted(&running) {
        rustix::mount::mount_bind(&running, at).map_err(|e| failed()(e.into()))?;
    } else {
        crate::userns::mount_snapshot(inner, record, at)?;
    }
    rustix::mount::mount_change(at, MountPropagationFlags::PRIVATE).map_err(|e| failed()(e.into()))?;
    let root = RootDir::open(at).map_err(failed())?;
    let owner = record.mapping.as_ref().map(crate::userns::root);
    let mut mounts: Vec<_> = record.spec.mounts.iter().collect();
    mounts.sort_by_key(|m| m.target.matches('/').count());
    for mount in mounts {
        let source = match &mount.source {
            MountSource::Bind { path, .. } if path.exists() => path.clone(),
            MountSource::Volume { name, subpath, .. } if subpath.is_empty() => {
                volumes::directory(inner, name)
            }
            _ => continue,
        };
        let target = Path::new(&mount.target);
        let target = match root.open_at(target, rustix::fs::OFlags::PATH, Mode::empty()) {
            Ok(target) => target,
            // Where it is to be mounted is made by the first start.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && source.is_dir() => {
                make_directories(&root, target, owner).map_err(failed())?
            }
            Err(_) => continue,
        };
        let by_descriptor = sampan_kernel::beneath::path_in(&target, std::ffi::OsStr::new(""));
        match rustix::mount::mount_bind(&source, by_descriptor.as_path()) {
            Ok(()) => {}
            Err(error) => {
                tracing::warn!(container = record.id, target = mount.target, %error, "cannot mount");
            }
        }
    }
    Ok(())
}

/// Whether something is mounted at a directory: it is then on another device than the directory above.
pub(crate) fn is_mounted(at: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| std::fs::metadata(path).map(|m| m.dev()).ok();
    device(at).is_some_and(|own| at.parent().and_then(device).is_some_and(|above| above != own))
}

/// Makes a directory and those above it; new ones belong to `owner`.
fn make_directories(
    root: &RootDir,
    path: &Path,
    owner: Option<(u32, u32)>,
) -> std::io::Result<std::os::fd::OwnedFd> {
    let mut at = PathBuf::new();
    for name in path.components().filter_map(|c| match c {
        std::path::Component::Normal(name) => Some(name),
        _ => None,
    }) {
        let parent = root.directory(&at)?;
        match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
            Err(Errno::EXIST) => {}
            other => {
                other?;
                if let Some((uid, gid)) = owner {
                    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
                    rustix::fs::chownat(&parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
                }
            }
        }
        at.push(name);
    }
    root.directory(&at)
}

/// Where `path` really is in the tree: links on the way, and with `follow` the one at its end, replaced by what they
/// point to, in the tree. What is not there stays as it is said.
pub(crate) fn real_path(root: &RootDir, path: &Path, follow: bool) -> Result<PathBuf> {
    let mut done: Vec<std::ffi::OsString> = Vec::new();
    let mut left: Vec<std::ffi::OsString> = parts(path);
    left.reverse();
    let mut links = 0;
    while let Some(name) = left.pop() {
        if name == ".." {
            done.pop();
            continue;
        }
        let here: PathBuf = done.iter().collect();
        let full = here.join(&name);
        let is_last = left.is_empty();
        let kind = root.stat(&full).map(|stat| FileType::from_raw_mode(stat.st_mode));
        if !matches!(kind, Ok(FileType::Symlink)) || is_last && !follow {
            done.push(name);
            continue;
        }
        links += 1;
        if links > MAX_LINKS {
            return Err(EngineError::Invalid(format!("too many links in {}", path.display())));
        }
        let failed = || EngineError::io(format!("cannot read the link {}", full.display()));
        let parent = root.directory(&here).map_err(failed())?;
        let target =
            rustix::fs::readlinkat(parent.as_fd(), &name, Vec::new()).map_err(|e| failed()(e.into()))?;
        let target =
            PathBuf::from(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(target.to_bytes()));
        if target.is_absolute() {
            done.clear();
        }
        left.extend(parts(&target).into_iter().rev());
    }
    Ok(done.into_iter().collect())
}

fn parts(path: &Path) -> Vec<std::ffi::OsString> {
    let part = |c: std::path::Component<'_>| match c {
        std::path::Component::Normal(name) => Some(name.to_owned()),
        std::path::Component::ParentDir => Some("..".into()),
        _ => None,
    };
    path.components().filter_map(part).collect()
}

/// What `name` in a directory is, a link not followed.
pub(crate) fn stat_in(directory: impl AsFd, name: &std::ffi::OsStr) -> std::io::Result<rustix::fs::Stat> {
    Ok(rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// The class of what goes wrong where a client names a path.
pub(crate) fn path_error(doing: String, source: std::io::Error) -> EngineError {
    let class = match source.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOENT) => Class::NotFound,
        Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => Class::Forbidden,
        _ => Class::Internal,
    };
    EngineError::layer(class, doing)(source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_to_where_they_point_in_the_tree() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        std::fs::create_dir_all(at.join("a/b")).unwrap();
        std::fs::write(at.join("a/b/f"), "").unwrap();
        let link = |target: &str, name: &str| std::os::unix::fs::symlink(target, at.join(name)).unwrap();
        link("/a", "abs");
        link("../../../a/b", "a/up");
        link("loop", "loop");
        link("abs/b/f", "file");
        link("/nowhere/x", "dangling");
        let root = RootDir::open(at).unwrap();
        let real = |path: &str, follow| {
            real_path(&root, Path::new(path), follow).map(|p| p.display().to_string()).unwrap_or("no".into())
        };
        for (path, follow, expected) in [
            ("/abs/b/f", false, "a/b/f"),
            ("a/up/f", true, "a/b/f"),
            ("/../../abs/../x", true, "x"),
            ("file", false, "file"),
            ("file", true, "a/b/f"),
            ("dangling", true, "nowhere/x"),
            ("loop", true, "no"),
            ("/", true, ""),
        ] {
            assert_eq!(real(path, follow), expected, "{path}");
        }
    }
}
