//! Creates a container: from a bundle on disk to a process that waits at its gate.
//!
//! ```text
//! runtime                                         child
//!   take the id, write the record
//!   take mounts and namespaces from the host
//!   make the cgroup of v2
//!   clone3 ---------------------------------------> [init]: namespaces, mounts
//!   map ids, set what needs the host's privileges     |
//!   make the cgroups of v1, set all limits            |
//!   write the record again                            |
//!   -- cgroups -------------------------------------> joins them; the mounts of cgroups, privileges
//!   run hooks when told that all is mounted           |
//!   <------------------------------------------- waits at the gate
//!   write the pid file
//! ```
//! The two work side by side: what takes the runtime longest, a dozen directories of v1, and what takes the process
//! longest, its network namespace and its mounts, do not need each other.
//!
//! Invariant: after an error nothing of ours remains, neither process, cgroup, mount nor directory. (Mounts are in
//! the child's namespace, and go with it.) After a crash, the record names what remains, and `delete` clears it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::process::{Pid, Signal};
use sampan_base::{Class, ContainerId, FileError, files};
use sampan_kernel::cgroup::{Layout, Version};
use sampan_kernel::process::{self as kernel, Namespaces};
use sampan_oci::runtime::{ContainerProcessState, Hooks, Resources, Spec, Status};

use super::child;
use crate::bundle::{Bundle, BundleError};
use crate::cgroup::systemd::{Keeper, Unit};
use crate::cgroup::{self, GroupPath, Joiner};
use crate::channel::{Channel, Message, Report};
use crate::ending::{self, Ending, wait_status};
use crate::error::{Refused, Step};
use crate::hooks::{self, HookError};
use crate::init::{self, Gate, Hands, Switches, Tools, namespaces};
use crate::log::{Log, milestone};
use crate::process::terminal;
use crate::rootfs;
use crate::state::{self, Directory, Lock, Record, StateRoot};
use crate::{net_devices, resctrl};

/// What `create` and `run` are told.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The bundle's directory.
    pub bundle: PathBuf,
    /// Where the process's number is written.
    pub pid_file: Option<PathBuf>,
    /// The socket that gets the terminal.
    pub console_socket: Option<PathBuf>,
    /// The socket that gets a handle on the process.
    pub pidfd_socket: Option<PathBuf>,
    /// The end of a socket pair that gets the terminal, if there is no such socket.
    pub console: Option<Rc<UnixStream>>,
    /// Whether systemd makes the cgroups.
    pub systemd_cgroup: bool,
    /// More about the process.
    pub switches: Switches,
}

/// How a created container's process is let go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GateKind {
    /// By another command, later.
    Socket,
    /// By this one, at once.
    Runtime,
}

/// A container whose process waits at its gate.
#[derive(Debug)]
pub struct Created {
    /// Its directory.
    pub directory: Directory,
    /// Its record.
    pub record: Record,
    /// Its hooks.
    pub hooks: Hooks,
    /// Its process.
    pub process: OwnedFd,
    /// The conversation with it.
    pub channel: Channel,
    /// Held until nobody else may see it half made.
    pub lock: Lock,
}

/// A container that can't be created.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// Its id is none.
    #[error(transparent)]
    InvalidId(#[from] sampan_base::id::InvalidContainerId),
    /// Its id is taken.
    #[error("container with given ID already exists: `{id}`")]
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
    /// It can't be remembered.
    #[error(transparent)]
    File(#[from] FileError),
    /// A step failed.
    #[error(transparent)]
    Step(#[from] Step),
    /// A hook failed.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// Its process reported an error.
    #[error("unable to start container process")]
    Init(#[source] Report),
    /// Its process ended without a word.
    #[error("unable to start container process: it ended {how}")]
    Died {
        /// How: `with status 1`, `by signal 9 …`.
        how: String,
    },
}

impl CreateError {
    /// The class to report.
    pub fn class(&self) -> Class {
        match self {
            CreateError::InvalidId(_) => Class::Invalid,
            CreateError::Exists { .. } => Class::Conflict,
            CreateError::Bundle(error) => error.class(),
            CreateError::Refused(error) => error.class(),
            CreateError::File(error) => error.class(),
            CreateError::Step(error) => error.class(),
            CreateError::Init(report) => report.class,
            CreateError::Hook(_) | CreateError::Died { .. } => Class::Internal,
        }
    }
}

/// Creates a container.
///
/// # Errors
/// If it can't be; nothing of it remains then.
pub fn create(
    root: &StateRoot,
    id: &str,
    options: &Options,
    gate: GateKind,
    log: &Log,
) -> Result<Created, CreateError> {
    let id: ContainerId = id.parse()?;
    let bundle = Bundle::load(&options.bundle)?;
    let mut plan = init::plan(&bundle.spec, &bundle.path, id.as_str(), &options.switches)?;
    for warning in &plan.process.warnings {
        log.warn(warning);
    }
    if let (Some(size @ None), true) = (&mut plan.process.terminal, options.console.is_some()) {
        // Known before the program runs, which may ask at once.
        *size = terminal::own_size();
    }
    let linux = bundle.spec.linux.as_ref();
    let path = linux.and_then(|linux| linux.cgroups_path.as_deref());
    let (unit, group_path) = match options.systemd_cgroup {
        true => (Some(Unit::plan(path, id.as_str())?), None),
        false => (None, Some(GroupPath::new(path, id.as_str())?)),
    };
    check_terminal(&plan, options)?;
    let layout = Layout::detect().map_err(Step::on(|| "read `/proc/self/cgroup`"))?;

    let mut resources = linux.and_then(|linux| linux.resources.clone()).unwrap_or_default();
    if !resources.unified.is_empty() && !layout.is_unified() {
        let why = "invalid configuration: linux.resources.unified needs a host with cgroup v2 alone";
        return Err(Refused::Invalid(why.to_owned()).into());
    }
    let Some((directory, lock)) = root.take(&id)? else { return Err(CreateError::Exists { id }) };
    let record = Record::new(&id, &bundle.spec, &bundle.path, &plan.rootfs.path);
    let hooks = bundle.spec.hooks.clone().unwrap_or_default();
    let mut making = Making {
        directory,
        record,
        hooks,
        child: None,
        net_devices: Default::default(),
        existed: Vec::new(),
    };
    making.record.unit = unit;
    making.record.cgroups = group_path.map(|path| cgroup::plan(&layout, &path)).unwrap_or_default();
    // Until it is known, nobody in them is ours to kill.
    making.record.shares_cgroups = true;
    making.record.shares_keyring = options.switches.no_new_keyring;
    if let Some(pids) = resources.pids.as_mut().filter(|pids| pids.limit == Some(0)) {
        // A limit like any other, since version 1.3 of the specification; the first process is there by then.
        pids.limit = Some(1);
    }
    let request =
        Request { plan: &plan, bundle: &bundle, options, resources: &resources, layout: &layout, log };
    match making.make(&request, gate, &lock) {
        Ok((process, channel)) => {
            let Making { directory, record, hooks, .. } = making;
            Ok(Created { directory, record, hooks, process, channel, lock })
        }
        Err(error) => {
            making.undo(log);
            Err(error)
        }
    }
}

fn check_terminal(plan: &init::Plan, options: &Options) -> Result<(), Refused> {
    let wanted = plan.process.terminal.is_some();
    match (wanted, &options.console_socket) {
        (true, None) if options.console.is_none() => Err(Refused::Invalid(
            "process.terminal needs --console-socket, which gets the terminal".to_owned(),
        )),
        (false, Some(_)) => Err(Refused::Invalid("--console-socket needs process.terminal".to_owned())),
        _ => Ok(()),
    }
}

/// What a container is made from.
struct Request<'a> {
    plan: &'a init::Plan,
    bundle: &'a Bundle,
    options: &'a Options,
    resources: &'a Resources,
    layout: &'a Layout,
    log: &'a Log,
}

/// A container in the making, and what there is of it to undo.
struct Making {
    directory: Directory,
    record: Record,
    hooks: Hooks,
    child: Option<OwnedFd>,
    net_devices: net_devices::Moved,
    /// Groups that were there before.
    existed: Vec<PathBuf>,
}

impl Making {
    fn make(
        &mut self,
        request: &Request<'_>,
        gate: GateKind,
        lock: &Lock,
    ) -> Result<(OwnedFd, Channel), CreateError> {
        let Request { plan, bundle, options, log, .. } = *request;
        // Before anything that would remain after a crash.
        self.directory.begin(&self.record, &bundle.bytes)?;
        let console = match &options.console_socket {
            Some(path) => {
                let connected = UnixStream::connect(path);
                let doing = || format!("connect to the console socket `{}`", path.display());
                Some(Rc::new(connected.map_err(Step::on(doing))?))
            }
            None => options.console.clone(),
        };
        let keeper = self.start_unit(request)?;
        if let Some(resctrl) = &plan.resctrl {
            self.record.resctrl = Some(resctrl.apply(&resctrl::mount_point()?, &self.record.id)?);
        }
        self.make_groups(Version::V2, request)?;
        let birthplace = cgroup::birthplace(&self.record.cgroups)?;
        // Who is not root may take nothing from the host's mounts; the child may, in a user namespace of its own.
        let privileged = rustix::process::geteuid().is_root();
        let sources = if privileged { Some(rootfs::sources::open(&plan.rootfs)?) } else { None };
        let (ours, theirs) = Channel::pair().map_err(Step::on(|| "make a socket pair"))?;
        let gate = match gate {
            GateKind::Socket => Gate::Socket(listen(&self.directory)?),
            GateKind::Runtime => Gate::Runtime,
        };
        let join = namespaces::Opened::open(&plan.namespaces)?;
        let tools = Tools { sources, groups: self.record.cgroups.clone(), join, console };
        let hands = Hands { channel: theirs, gate, tools };

        let without = [ours.as_fd(), lock.0.as_fd()];
        let birthplace = birthplace.as_ref().map(AsFd::as_fd);
        let child = child::give_birth(plan, hands, birthplace, &without)?;
        self.record.pid = child.pid.as_raw_nonzero().get();
        self.child = Some(child.pidfd.try_clone().map_err(Step::on(|| "copy a descriptor"))?);
        self.record.began =
            state::beginning(self.record.pid).map_err(Step::on(|| "read when the process began"))?;
        self.record.inode =
            state::inode(&child.pidfd).map_err(Step::on(|| "look at the process's handle"))?;
        if let Some(resctrl) = &self.record.resctrl {
            resctrl.join(self.record.pid)?;
        }
        child::prepare_child(plan, &child, &ours, log)?;
        if let (Some(unit), None) = (&self.record.unit, birthplace) {
            unit.attach(child.pid)?;
        }
        drop(keeper);
        self.make_groups(Version::V1, request)?;
        self.look_for_others(child.pid, log)?;
        self.limit(request)?;
        // Known from now on to whoever has to clear up after us, and before the process is in the groups of v1.
        self.directory.remember(&self.record)?;
        self.hand_over_groups(plan, &ours, privileged)?;
        log.debug(|| milestone::BORN.to_owned());
        self.talk(&ours, plan, bundle, log)?;
        log.debug(|| milestone::READY.to_owned());
        if let Some(path) = &options.pidfd_socket {
            hand_over_process(path, &child.pidfd)?;
        }
        if let Some(path) = &options.pid_file {
            files::write_atomic_volatile(path, self.record.pid.to_string().as_bytes(), 0o644)?;
        }
        Ok((child.pidfd, ours))
    }

    /// Lets systemd make the cgroups, if it is to.
    fn start_unit(&mut self, request: &Request<'_>) -> Result<Option<Keeper>, CreateError> {
        let Some(unit) = &self.record.unit else { return Ok(None) };
        let annotations = &self.record.annotations;
        match unit.start(&self.record.id, request.resources, annotations, request.layout) {
            Ok((groups, keeper)) => {
                self.record.cgroups = groups;
                Ok(Some(keeper))
            }
            Err(step) => {
                // One of this name may be another container's.
                self.record.unit = None;
                Err(step.into())
            }
        }
    }

    /// Makes the cgroups of one version. A user who may not make them does without all,
    /// unless limits are asked for.
    fn make_groups(&mut self, version: Version, request: &Request<'_>) -> Result<(), CreateError> {
        let groups = self.record.cgroups.iter().filter(|group| group.version() == version);
        match cgroup::create(groups, request.layout, &mut self.existed) {
            Ok(()) => Ok(()),
            Err(step) if !rustix::process::geteuid().is_root() && !has_limits(request.resources) => {
                let why = sampan_base::chain(&step);
                request.log.warn(&format!("the container gets no cgroup of its own: {why}"));
                // What could be made is of no use alone.
                let _ = cgroup::remove(&self.record.cgroups);
                self.record.cgroups.clear();
                Ok(())
            }
            Err(step) => Err(step.into()),
        }
    }

    /// Finds out whether the cgroups are another container's, too.
    fn look_for_others(&mut self, child: Pid, log: &Log) -> Result<(), CreateError> {
        let others = match self.existed.is_empty() {
            true => 0,
            false => cgroup::others(&self.record.cgroups, child)?,
        };
        if others > 0 {
            log.warn(&format!(
                "container's cgroup is not empty: {others} process(es) found, which it will share"
            ));
        }
        self.record.shares_cgroups = others > 0;
        Ok(())
    }

    /// Sets the limits of the cgroups.
    fn limit(&self, request: &Request<'_>) -> Result<(), CreateError> {
        if self.record.cgroups.is_empty() {
            return Ok(());
        }
        cgroup::owner::hand_over(&self.record.cgroups, request.plan)?;
        for warning in cgroup::apply(&self.record.cgroups, request.resources)? {
            request.log.warn(&warning);
        }
        Ok(cgroup::apply_devices(&self.record.cgroups, &request.resources.devices)?)
    }

    /// Lets the child join the cgroups, and mount them.
    fn hand_over_groups(&self, plan: &init::Plan, ours: &Channel, privileged: bool) -> Result<(), Step> {
        let joiner = Joiner::open(&self.record.cgroups)?;
        let mounts = plan.rootfs.mounts.iter().any(|mount| mount.what == rootfs::What::Cgroups);
        let own_view = plan.namespaces.new.contains(Namespaces::CGROUP);
        let trees = match privileged && mounts {
            true => rootfs::sources::cgroups(&self.record.cgroups, own_view)?,
            false => Vec::new(),
        };
        let mut fds: Vec<BorrowedFd<'_>> = joiner.tasks().collect();
        let message = Message::Groups(fds.len() as u8);
        fds.extend(trees.iter().map(AsFd::as_fd));
        let sent = ours.send_with_all(&message, &fds);
        kernel::close_all(joiner.into_tasks().chain(trees));
        match sent {
            // It has ended, and said why: that is heard next.
            Err(e) if matches!(e.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
                Ok(())
            }
            other => other.map_err(Step::on(|| "hand the cgroups to the container's process")),
        }
    }

    /// Answers the child until it is ready.
    fn talk(
        &mut self,
        ours: &Channel,
        plan: &init::Plan,
        bundle: &Bundle,
        log: &Log,
    ) -> Result<(), CreateError> {
        let lost = || Step::on::<io::Error, _>(|| "talk with the container's process");
        loop {
            match ours.receive().map_err(lost())? {
                Some((Message::Ready, _)) => return Ok(()),
                Some((Message::Warning(text), _)) => log.warn(&text),
                Some((Message::Mounted, _)) => {
                    self.net_devices.move_all(&plan.net_devices, self.record.pid)?;
                    let state = self.record.state(Status::Creating);
                    hooks::run("prestart", &self.hooks.prestart, &state, &bundle.path)?;
                    hooks::run("createRuntime", &self.hooks.create_runtime, &state, &bundle.path)?;
                    ours.send(&Message::Go).map_err(lost())?;
                }
                Some((Message::Listener, fds)) => send_listener(&bundle.spec, &self.record, &fds)?,
                Some((Message::Failed(report), _)) => return Err(CreateError::Init(report)),
                Some((message, _)) => {
                    let why = format!("it said {message:?} out of turn");
                    return Err(Step::refused("talk with the container's process", why).into());
                }
                None => return Err(CreateError::Died { how: self.how_it_ended() }),
            }
        }
    }

    fn how_it_ended(&self) -> String {
        let Some(child) = &self.child else { return "at once".to_owned() };
        match wait_status(child) {
            Ok(Ending::Status(status)) => format!("with status {status}"),
            Ok(Ending::Signal(9)) => "by signal 9 (out of memory, or killed by somebody)".to_owned(),
            Ok(Ending::Signal(signal)) => format!("by signal {signal}"),
            Err(error) => format!("unseen: {error}"),
        }
    }

    /// Leaves nothing behind. What can't be undone is told: the error that brought us here is the one to report.
    fn undo(mut self, log: &Log) {
        let told = |what: &str, error: &dyn std::fmt::Display| log.warn(&format!("{what}: {error}"));
        for step in self.net_devices.give_back() {
            told("a network device goes with the container", &sampan_base::chain(&step));
        }
        if let Some(child) = self.child.take() {
            // One that has ended already needs no signal.
            let _ = rustix::process::pidfd_send_signal(&child, Signal::KILL);
            if let Ok(true) = ending::wait_for(child.as_fd(), ending::KILL_DEADLINE) {
                let _ = wait_status(&child);
            }
            if !self.record.shares_cgroups
                && let Err(step) = cgroup::kill_all(&self.record.cgroups)
            {
                told("a process may be left behind", &sampan_base::chain(&step));
            }
            let state = self.record.state(Status::Stopped);
            for error in hooks::run_all("poststop", &self.hooks.poststop, &state, &self.record.bundle) {
                log.warn(&sampan_base::chain(&error));
            }
        }
        // What was there before us stays.
        self.record.cgroups.retain(|group| !self.existed.contains(&group.path));
        if let Some(Err(step)) = self.record.unit.as_ref().map(Unit::stop) {
            told("a systemd unit is left behind", &sampan_base::chain(&step));
        }
        if let Err(step) = cgroup::remove(&self.record.cgroups)
            && !self.record.shares_cgroups
        {
            told("a cgroup is left behind", &sampan_base::chain(&step));
        }
        if let Some(Err(step)) = self.record.resctrl.as_ref().map(resctrl::Held::release) {
            told("a class of service is left behind", &sampan_base::chain(&step));
        }
        if let Err(error) = self.directory.forget() {
            told("the state is left behind", &sampan_base::chain(&error));
        }
    }
}

/// Whether limits are asked for that a container must not do without.
fn has_limits(resources: &Resources) -> bool {
    resources.memory.is_some()
        || resources.cpu.is_some()
        || resources.pids.is_some()
        || resources.block_io.is_some()
        || !resources.hugepage_limits.is_empty()
        || !resources.unified.is_empty()
}

/// The gate's socket. Its path may be longer than an address can hold; that of the directory's descriptor is not.
fn listen(directory: &Directory) -> Result<UnixListener, Step> {
    let bind = || {
        let (_open, address) = crate::container::start::short_address(&directory.gate())?;
        // Whoever may write to it may start the container: whatever the caller's mask is, nobody else.
        let mask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
        let bound = UnixListener::bind(address);
        rustix::process::umask(mask);
        bound
    };
    bind().map_err(Step::on(|| format!("listen at `{}`", directory.gate().display())))
}

/// Hands a handle on a process to whoever listens at a path.
pub(super) fn hand_over_process(path: &Path, process: &OwnedFd) -> Result<(), Step> {
    crate::channel::send_to(path, b"pidfd", process.as_fd())
        .map_err(Step::on(|| format!("send the process's handle to `{}`", path.display())))
}

/// Hands the listener of seccomp's notify to whom config.json names.
pub(super) fn send_listener(spec: &Spec, record: &Record, fds: &[OwnedFd]) -> Result<(), Step> {
    let [fd] = fds else {
        return Err(Step::refused("receive the seccomp listener", "it did not come along"));
    };
    let seccomp = spec.linux.as_ref().and_then(|l| l.seccomp.as_ref());
    let path = seccomp.and_then(|s| s.listener_path.clone()).unwrap_or_default();
    let state = ContainerProcessState {
        oci_version: record.oci_version.clone(),
        fds: vec!["seccompFd".to_owned()],
        pid: record.pid,
        metadata: seccomp.and_then(|s| s.listener_metadata.clone()),
        state: record.state(Status::Creating),
    };
    let send = || crate::channel::send_to(Path::new(&path), &serde_json::to_vec(&state)?, fd.as_fd());
    send().map_err(Step::on(|| {
        format!("hand over the seccomp listener: failed to connect with seccomp agent `{path}`")
    }))
}
