//! Makes a container again from the files that [`super::checkpoint`] wrote.
//!
//! The groups are made and limited as for any container; CRIU is put into them and finds the root file system mounted, and what it makes there becomes our child. The program's state comes from the files,
//! what is the host's (bind mounts, the standard streams, namespaces joined by path) from config.json and from us.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::OFlags;
use rustix::process::{Pid, PidfdFlags, Signal};
use sampan_base::{Class, ContainerId, FileError, files};
use sampan_kernel::cgroup::{Layout, Version};
use sampan_kernel::process::{self as kernel, Namespaces};
use sampan_oci::runtime::{Hooks, NamespaceKind, Resources, Status};

use super::attach;
use super::checkpoint::{self, DESCRIPTORS, MASK, NETWORK, Opened, PIDS, notified};
use super::create::{Options as CreateOptions, hand_over_process};
use super::delete::{DeleteError, clear};
use super::run::{Console, Mode, receive_terminal};
use crate::bundle::{Bundle, BundleError};
use crate::cgroup::systemd::{Keeper, Unit};
use crate::cgroup::{self, GroupPath};
use crate::criu::{self, CgroupsMode, Notification, Place, Request};
use crate::ending::{self, wait_status};
use crate::error::{Refused, Step};
use crate::hooks::{self, HookError};
use crate::init;
use crate::log::Log;
use crate::process::terminal;
use crate::rootfs::beneath::{Kind, Links};
use crate::rootfs::{self, Root, What};
use crate::state::{self, Directory, Record, StateRoot};

/// A container that can't be restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Its id is none.
    #[error(transparent)]
    InvalidId(#[from] sampan_base::id::InvalidContainerId),
    /// Its id is taken.
    #[error("container with id exists: `{id}`")]
    Exists {
        /// The id.
        id: ContainerId,
    },
    /// Its bundle can't be read.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// config.json asks for what cannot be had.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// A file can't be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A step failed.
    #[error(transparent)]
    Step(#[from] Step),
    /// A hook failed.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// It can't be removed after its end.
    #[error(transparent)]
    Delete(#[from] DeleteError),
}

impl RestoreError {
    /// The class to report.
    pub fn class(&self) -> Class {
        match self {
            RestoreError::InvalidId(_) => Class::Invalid,
            RestoreError::Exists { .. } => Class::Conflict,
            RestoreError::Bundle(error) => error.class(),
            RestoreError::Refused(error) => error.class(),
            RestoreError::File(error) => error.class(),
            RestoreError::Step(error) => error.class(),
            RestoreError::Hook(_) => Class::Internal,
            RestoreError::Delete(error) => error.class(),
        }
    }
}

/// Restores a container. Returns its process's exit code, or 0 if it was left alone.
///
/// # Errors
/// If it can't be; nothing of it remains then.
pub fn restore(
    root: &StateRoot,
    id: &str,
    options: &CreateOptions,
    how: &checkpoint::Options,
    mode: Mode,
    log: &Log,
) -> Result<i32, RestoreError> {
    let id: ContainerId = id.parse()?;
    checkpoint::require_root("restore")?;
    let bundle = Bundle::load(&options.bundle)?;
    let plan = init::plan(&bundle.spec, &bundle.path, id.as_str(), &options.switches)?;
    let linux = bundle.spec.linux.clone().unwrap_or_default();
    let path = linux.cgroups_path.as_deref();
    let layout = Layout::detect().map_err(Step::on(|| "read `/proc/self/cgroup`"))?;
    let mut record = Record::new(&id, &bundle.spec, &bundle.path, &plan.rootfs.path);
    // Until it is known, nobody in them is ours to kill.
    record.shares_cgroups = true;
    if options.systemd_cgroup {
        record.unit = Some(Unit::plan(path, id.as_str())?);
    } else {
        record.cgroups = cgroup::plan(&layout, &GroupPath::new(path, id.as_str())?);
    }
    let signals = match mode {
        Mode::Detached => None,
        _ => Some(attach::take_signals().map_err(Step::on(|| "take signals"))?),
    };
    let console = Console::new(options, mode)?;
    let terminal = match &options.console_socket {
        Some(path) => {
            let connected = UnixStream::connect(path);
            let doing = || format!("connect to the console socket `{}`", path.display());
            Some(Rc::new(connected.map_err(Step::on(doing))?))
        }
        None => console.theirs,
    };

    let Some((directory, lock)) = root.take(&id)? else { return Err(RestoreError::Exists { id }) };
    let hooks = bundle.spec.hooks.clone().unwrap_or_default();
    let mut restoring = Restoring { directory, record, hooks, child: None, existed: Vec::new() };
    let request = Source {
        bundle: &bundle,
        plan: &plan,
        resources: &linux.resources.unwrap_or_default(),
        layout: &layout,
        options,
        how,
        console: terminal.clone(),
        log,
    };
    let process = match restoring.make(&request) {
        Ok(process) => process,
        Err(error) => {
            restoring.undo(log);
            return Err(error);
        }
    };
    drop((request, terminal, lock));
    let Some(signals) = signals else { return Ok(0) };
    let controller = console.ours.map(|socket| receive_terminal(&socket)).transpose()?.flatten();
    let ending = attach::stay(&process, &signals, controller)
        .map_err(Step::on(|| "stay with the container's process"))?;
    if mode == Mode::Foreground {
        let _lock = restoring.directory.lock()?;
        clear(&restoring.directory, &restoring.record, &restoring.hooks, log)?;
    }
    Ok(ending.exit_code())
}

/// What a container is restored from.
struct Source<'a> {
    bundle: &'a Bundle,
    plan: &'a init::Plan,
    resources: &'a Resources,
    layout: &'a Layout,
    options: &'a CreateOptions,
    how: &'a checkpoint::Options,
    console: Option<Rc<UnixStream>>,
    log: &'a Log,
}

/// A container in the making, and what there is of it to undo.
struct Restoring {
    directory: Directory,
    record: Record,
    hooks: Hooks,
    child: Option<OwnedFd>,
    /// The groups that were there before.
    existed: Vec<PathBuf>,
}

impl Restoring {
    fn make(&mut self, request: &Source<'_>) -> Result<OwnedFd, RestoreError> {
        let Source { bundle, plan, options, how, log, .. } = *request;
        self.directory.begin(&self.record, &bundle.bytes)?;
        let keeper = self.make_groups(request)?;
        make_places(&plan.rootfs)?;
        let failed = || Step::on::<io::Error, _>(|| "make a mount namespace for CRIU");
        let mounts = PrivateMounts::enter(&self.record.rootfs).map_err(failed())?;
        // In that namespace: CRIU mounts something beside its files.
        let opened = Opened::open(how)?;
        let mut criu = opened.options(how, true)?;
        criu.root = self.record.rootfs.display().to_string();
        criu.external = external(&plan.rootfs);
        criu.cgroup_roots = self.cgroup_roots(request.layout, how.cgroups_mode);
        let joined = self.join(&mut criu)?;
        criu.inherit.extend(streams(&how.images)?);
        let place = Place { groups: &self.record.cgroups, keep: &joined };
        let told = |notification| self.notified(notification, request, &mounts);
        let pid = criu::call(how.criu.as_deref(), Request::Restore, &criu, Some(place), told)?;
        drop(mounts);
        drop(keeper);
        let process = Pid::from_raw(pid).map(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()));
        let process = match process {
            Some(process) => process.map_err(Step::on(|| "open the restored process"))?,
            None => return Err(Step::refused("open the restored process", "CRIU names none").into()),
        };
        self.child = Some(process.try_clone().map_err(Step::on(|| "copy a descriptor"))?);
        self.record.pid = pid;
        self.record.began = state::beginning(pid).map_err(Step::on(|| "read when the process began"))?;
        self.record.inode = state::inode(&process).map_err(Step::on(|| "look at the process's handle"))?;
        self.directory.remember(&self.record)?;
        if let Some(path) = &options.pidfd_socket {
            hand_over_process(path, &process)?;
        }
        if let Some(path) = &options.pid_file {
            files::write_atomic_volatile(path, pid.to_string().as_bytes(), 0o644)?;
        }
        log.debug(|| format!("restored as process {pid}"));
        Ok(process)
    }

    fn make_groups(&mut self, request: &Source<'_>) -> Result<Option<Keeper>, RestoreError> {
        let mut keeper = None;
        if let Some(unit) = &self.record.unit {
            let started =
                unit.start(&self.record.id, request.resources, &self.record.annotations, request.layout);
            match started {
                Ok((groups, first)) => {
                    self.record.cgroups = groups;
                    keeper = Some(first);
                }
                Err(step) => {
                    // One of this name may be another container's.
                    self.record.unit = None;
                    return Err(step.into());
                }
            }
        }
        cgroup::create(&self.record.cgroups, request.layout, &mut self.existed)?;
        let others = match keeper.is_none() && !self.existed.is_empty() {
            true => cgroup::others(&self.record.cgroups, rustix::process::getpid())?,
            false => 0,
        };
        if others > 0 {
            let what = format!("container's cgroup is not empty: {others} process(es) found");
            request.log.warn(&format!("{what}, which it will share"));
        }
        self.record.shares_cgroups = others > 0;
        cgroup::owner::hand_over(&self.record.cgroups, request.plan)?;
        for warning in cgroup::apply(&self.record.cgroups, request.resources)? {
            request.log.warn(&warning);
        }
        cgroup::apply_devices(&self.record.cgroups, &request.resources.devices)?;
        Ok(keeper)
    }

    /// Where v1's groups are now: they may have had another path when the files were written.
    fn cgroup_roots(&self, layout: &Layout, mode: CgroupsMode) -> Vec<(Option<String>, String)> {
        let legacy = self.record.cgroups.iter().filter(|group| group.version() == Version::V1);
        if mode == CgroupsMode::Ignore {
            return Vec::new();
        }
        let root = |group: &cgroup::Group| {
            let hierarchy = layout.hierarchies.iter().find(|h| h.controllers == group.controllers)?;
            let path = group.path.strip_prefix(&hierarchy.mount).ok()?;
            Some((Some(group.controllers.join(",")), format!("/{}", path.display())))
        };
        legacy.filter_map(root).collect()
    }

    /// Opens namespaces that config.json names.
    fn join(&self, criu: &mut criu::Options<'_>) -> Result<Vec<File>, Step> {
        use std::os::fd::AsRawFd;
        let mut joined = Vec::new();
        for (kind, name) in [(NamespaceKind::Network, NETWORK), (NamespaceKind::Pid, PIDS)] {
            let namespace = self.record.namespaces.iter().find(|namespace| namespace.kind == kind);
            if let Some(path) = namespace.and_then(|namespace| namespace.path.as_ref()) {
                let file = File::open(path).map_err(Step::on(|| {
                    format!("open the {} namespace `{}`", kind.name(), path.display())
                }))?;
                criu.inherit.push((name.to_owned(), file.as_raw_fd()));
                joined.push(file);
            }
        }
        Ok(joined)
    }

    fn notified(
        &self,
        notification: Notification,
        request: &Source<'_>,
        mounts: &PrivateMounts,
    ) -> Result<(), RestoreError> {
        match notification.point.as_str() {
            "setup-namespaces" => {
                let mut state = self.record.state(Status::Creating);
                state.pid = notification.pid;
                let bundle = &self.record.bundle;
                // What they mount is for the host.
                mounts.inside(&mounts.host, || {
                    hooks::run("prestart", &self.hooks.prestart, &state, bundle)?;
                    hooks::run("createRuntime", &self.hooks.create_runtime, &state, bundle)
                })??;
            }
            "post-restore" => set_options_again(&request.plan.rootfs, notification.pid, mounts)?,
            "orphan-pts-master" => {
                if let (Some(socket), Some(controller)) = (&request.console, notification.fds.first()) {
                    terminal::hand_over(socket, controller)?;
                }
            }
            _ => notified(&notification, request.how)?,
        }
        Ok(())
    }

    /// Leaves nothing behind. What can't be undone is told: the error that brought us here is the one to report.
    fn undo(mut self, log: &Log) {
        let told = |what: &str, error: &dyn std::fmt::Display| log.warn(&format!("{what}: {error}"));
        if !self.record.shares_cgroups
            && let Err(step) = cgroup::kill_all(&self.record.cgroups)
        {
            told("a process may be left behind", &sampan_base::chain(&step));
        }
        if let Some(child) = &self.child {
            // One that has ended already needs no signal.
            let _ = rustix::process::pidfd_send_signal(child, Signal::KILL);
            if let Ok(true) = ending::wait_for(child.as_fd(), ending::KILL_DEADLINE) {
                let _ = wait_status(child);
            }
        }
        if let Some(Err(step)) = self.record.unit.as_ref().map(Unit::stop) {
            told("a systemd unit is left behind", &sampan_base::chain(&step));
        }
        self.record.cgroups.retain(|group| !self.existed.contains(&group.path));
        if let Err(step) = cgroup::remove(&self.record.cgroups) {
            told("a cgroup is left behind", &sampan_base::chain(&step));
        }
        if let Err(error) = self.directory.forget() {
            told("the state is left behind", &sampan_base::chain(&error));
        }
    }
}

/// A mount namespace of this process's own, in which the root file system is a mount: CRIU takes nothing else for one.
/// Nothing of it is seen on the host, and nothing remains. Left when dropped.
struct PrivateMounts {
    host: File,
    own: File,
    directory: File,
}

impl PrivateMounts {
    fn enter(root: &Path) -> io::Result<PrivateMounts> {
        use rustix::mount::{MountPropagationFlags as Propagation, mount_bind_recursive, mount_change};
        const OWN: &str = "/proc/self/ns/mnt";
        let (host, directory) = (File::open(OWN)?, File::open(".")?);
        kernel::unshare(Namespaces::MOUNT)?;
        let mounts = PrivateMounts { host, own: File::open(OWN)?, directory };
        mount_change(c"/", Propagation::DOWNSTREAM | Propagation::REC)?;
        mount_bind_recursive(root, root)?;
        Ok(mounts)
    }

    /// Does something in another one.
    fn inside<T>(&self, namespace: &File, work: impl FnOnce() -> T) -> Result<T, Step> {
        let failed = || Step::on::<io::Error, _>(|| "change the mount namespace");
        kernel::join(namespace.as_fd(), Namespaces::MOUNT).map_err(failed())?;
        let done = work();
        self.join(&self.own).map_err(failed())?;
        Ok(done)
    }

    fn join(&self, namespace: &File) -> io::Result<()> {
        kernel::join(namespace.as_fd(), Namespaces::MOUNT)?;
        // Who joins one finds himself at its root.
        Ok(rustix::process::fchdir(&self.directory)?)
    }
}

impl Drop for PrivateMounts {
    fn drop(&mut self) {
        // One who could leave it can come back.
        let _ = self.join(&self.host);
    }
}

/// What is the host's and is mounted again: what config.json binds, and what hides files.
fn external(plan: &rootfs::Plan) -> Vec<String> {
    let bound = plan.mounts.iter().filter_map(|mount| match &mount.what {
        What::Bind { source, .. } => {
            Some(format!("mnt[/{}]:{}", mount.destination.display(), source.display()))
        }
        _ => None,
    });
    bound.chain([format!("mnt[{MASK}]:{MASK}")]).collect()
}

/// Sets the options of bind mounts in a restored container whose processes do not run yet. CRIU keeps most of them, but
/// 3.17 forgets the `ro` of a second read-only mount of one file system.
fn set_options_again(plan: &rootfs::Plan, pid: i32, mounts: &PrivateMounts) -> Result<(), Step> {
    let path = format!("/proc/{pid}/ns/mnt");
    let namespace = File::open(&path).map_err(Step::on(|| format!("open `{path}`")))?;
    mounts.inside(&namespace, || -> Result<(), Step> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(c"/", flags, rustix::fs::Mode::empty())
            .map_err(Step::on(|| "open the container's root"))?;
        let root = Root::new(root);
        for mount in plan.mounts.iter().filter(|mount| matches!(mount.what, What::Bind { .. })) {
            let set = || {
                rootfs::execute::set_options(
                    root.open(&mount.destination, Links::Inside)?.as_fd(),
                    &mount.options,
                )
            };
            set().map_err(Step::on(|| format!("set the options of `/{}`", mount.destination.display())))?;
        }
        Ok(())
    })?
}

/// Makes the places of bind mounts in a root file system that the container was not in before.
fn make_places(plan: &rootfs::Plan) -> Result<(), Step> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(&plan.path, flags, rustix::fs::Mode::empty())
        .map_err(Step::on(|| format!("open the root file system `{}`", plan.path.display())))?;
    let root = Root::new(root);
    for mount in &plan.mounts {
        let What::Bind { source, .. } = &mount.what else { continue };
        let metadata =
            fs::metadata(source).map_err(Step::on(|| format!("look at `{}`", source.display())))?;
        let kind = if metadata.is_dir() { Kind::Directory } else { Kind::File };
        root.ensure(&mount.destination, kind, Links::Inside).map_err(Step::on(|| {
            format!("make a place for the mount at `/{}`", mount.destination.display())
        }))?;
    }
    Ok(())
}

/// Pipes that the standard streams were: ours take their places.
fn streams(images: &Path) -> Result<Vec<(String, i32)>, RestoreError> {
    /// Three names.
    const LONGEST: u64 = 16 * 1024;
    let path = images.join(DESCRIPTORS);
    let bytes = match files::read_limited(&path, LONGEST) {
        Err(e) if e.source.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let names: Vec<String> = crate::bundle::parse(&path, &bytes)?;
    let numbered = names.into_iter().zip(0..3);
    Ok(numbered.filter(|(name, _)| name.contains("pipe:")).collect())
}
