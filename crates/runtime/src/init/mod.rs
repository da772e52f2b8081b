//! The container's first process, between its birth and its program. This code runs in the child.
//!
//! The order of [`prepare`], and why: namespaces before mounts (which belong to one), the cgroup before its namespace
//! (which shows it) and as late as it can be (the runtime makes it meanwhile), mounts before hooks (which look at them), the terminal before the root is sealed (it is made in
//! the container's devpts), the new root before privileges go.

use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::rc::Rc;

use rustix::event::{PollFd, PollFlags};
use rustix::fs::Mode;
use rustix::process::{DumpableBehavior, Signal};
use sampan_base::Class;
use sampan_kernel::cgroup::Version;
use sampan_kernel::process::{self as kernel, Namespaces};
use sampan_kernel::signals;
use sampan_oci::runtime::{Hook, Linux, NamespaceKind, Spec, State, Status};

use crate::cgroup::{Group, Joiner};
use crate::channel::{Channel, Message, Report};
use crate::error::{Refused, Step};
use crate::hooks::{self, HookError};
use crate::process::enter::{self, EnterError, Ready, Tell};
use crate::process::{self, terminal};
use crate::rootfs::{self, Sources};
use crate::{net_devices, resctrl};

pub mod namespaces;
pub mod sysctl;

/// How a container is made: all that is decided before its process exists.
#[derive(Debug)]
pub struct Plan {
    /// Its namespaces.
    pub namespaces: namespaces::Plan,
    /// Its root file system.
    pub rootfs: rootfs::Plan,
    /// Its process.
    pub process: process::Plan,
    /// Its host name.
    pub hostname: Option<String>,
    /// Its domain name.
    pub domainname: Option<String>,
    /// Kernel parameters.
    pub sysctl: Vec<sysctl::Parameter>,
    /// Whether the root is made `/` by pivot_root.
    pub pivot: bool,
    /// Network devices to move.
    pub net_devices: Vec<net_devices::Device>,
    /// Shares of the processor's caches.
    pub resctrl: Option<resctrl::Plan>,
    /// Whether the runtime has something to do when the mounts are made: devices to move, or hooks to run.
    pub runtime_hooks: bool,
    /// Hooks to run in the container before its root is sealed.
    pub create_container: Vec<Hook>,
    /// Hooks to run in the container before its program.
    pub start_container: Vec<Hook>,
    /// What hooks are told; the process's number is filled in.
    pub state: State,
}

/// What the command line says about the process.
#[derive(Clone, Debug, Default)]
pub struct Switches {
    /// Whether chroot is used instead of pivot_root.
    pub no_pivot: bool,
    /// Whether the caller's session keyring is shared.
    pub no_new_keyring: bool,
    /// How many descriptors from 3 on are handed on.
    pub preserve_fds: u32,
    /// More variables of the process's environment.
    pub environment: Vec<String>,
}

/// Plans a container.
///
/// # Errors
/// If config.json asks for what makes no sense or is not supported.
pub fn plan(spec: &Spec, bundle: &std::path::Path, id: &str, switches: &Switches) -> Result<Plan, Refused> {
    let no_linux = Linux::default();
    let linux = spec.linux.as_ref().unwrap_or(&no_linux);
    crate::check::spec(spec)?;
    let namespaces = namespaces::plan(linux)?;
    let net_devices = net_devices::plan(linux, &namespaces)?;
    for (name, what) in [(&spec.hostname, "hostname"), (&spec.domainname, "domainname")] {
        let given = name.as_deref().is_some_and(|n| !n.is_empty());
        if given && !namespaces.has(NamespaceKind::Uts) {
            return Err(Refused::Invalid(format!("`{what}` needs a uts namespace of the container's own")));
        }
    }
    let part = process::plan::LinuxPart::of(spec);
    let mut process = match &spec.process {
        Some(process) => process::plan(process, part)?,
        None => process::plan::without_program(part)?,
    };
    process.preserve_fds = switches.preserve_fds;
    process.own_keyring = !switches.no_new_keyring;
    process.env.extend(switches.environment.iter().cloned());
    let sysctl = linux
        .sysctl
        .iter()
        .map(|(name, value)| sysctl::plan(name, value, &namespaces))
        .collect::<Result<_, _>>()?;
    let hooks = spec.hooks.clone().unwrap_or_default();
    Ok(Plan {
        namespaces,
        rootfs: rootfs::plan(spec, bundle)?,
        process,
        hostname: spec.hostname.clone().filter(|n| !n.is_empty()),
        domainname: spec.domainname.clone().filter(|n| !n.is_empty()),
        sysctl,
        pivot: !switches.no_pivot,
        runtime_hooks: !hooks.prestart.is_empty()
            || !hooks.create_runtime.is_empty()
            || !net_devices.is_empty(),
        net_devices,
        resctrl: resctrl::plan(linux.intel_rdt.as_ref())?,
        create_container: hooks.create_container,
        start_container: hooks.start_container,
        state: State {
            oci_version: spec.oci_version.clone(),
            id: id.to_owned(),
            status: Status::Creating,
            pid: 0,
            bundle: bundle.to_owned(),
            annotations: spec.annotations.clone(),
        },
    })
}

/// Where the process waits for its start.
#[derive(Debug)]
pub enum Gate {
    /// For anybody who connects to this socket.
    Socket(UnixListener),
    /// For the runtime that made it.
    Runtime,
}

/// What the process is given.
#[derive(Debug)]
pub struct Hands {
    /// To talk with the runtime.
    pub channel: Channel,
    /// Where it waits.
    pub gate: Gate,
    /// To make the container with.
    pub tools: Tools,
}

/// What the container is made with. All of it was opened by the runtime, and is used up.
#[derive(Debug)]
pub struct Tools {
    /// What its root takes from the host; taken by the process itself if the runtime may not.
    pub sources: Option<Sources>,
    /// Its cgroups. Those of v1 are made while it makes itself.
    pub groups: Vec<Group>,
    /// Namespaces to join.
    pub join: namespaces::Opened,
    /// Where its terminal's other end goes.
    pub console: Option<Rc<UnixStream>>,
}

/// What went wrong in the process.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// A step failed.
    #[error(transparent)]
    Step(#[from] Step),
    /// A hook failed.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// The program can't be run.
    #[error(transparent)]
    Enter(#[from] EnterError),
}

impl InitError {
    fn report(&self) -> Report {
        let class = match self {
            InitError::Step(step) => step.class(),
            InitError::Hook(_) => Class::Internal,
            InitError::Enter(enter) => enter.class(),
        };
        Report { class, text: sampan_base::chain(self) }
    }
}

/// Lives as the container's first process. Returns only an exit status: either the program runs, or all is over.
pub fn run(plan: &Plan, hands: Hands) -> i32 {
    let Hands { channel, gate, tools } = hands;
    let mut talk = Talk { channel };
    let door = match &gate {
        Gate::Socket(listener) => Some(listener.as_fd()),
        Gate::Runtime => None,
    };
    let ready = match prepare(plan, tools, door, &mut talk) {
        Ok(ready) => ready,
        Err(error) => {
            // If the runtime is gone, nobody is left to tell.
            let _ = talk.channel.send(&Message::Failed(error.report()));
            return 1;
        }
    };
    if talk.channel.send(&Message::Ready).is_err() {
        return 1;
    }
    match gate {
        Gate::Runtime => match talk.channel.receive() {
            Ok(Some((Message::Go, _))) => {
                let error = start(plan, ready, &mut talk);
                let _ = talk.channel.send(&Message::Failed(error.report()));
                1
            }
            _ => 1,
        },
        Gate::Socket(listener) => {
            // The runtime goes its way; a second `start` finds the door shut when the program runs.
            drop(talk);
            let mut stream = match wait(&listener) {
                Ok(stream) => stream,
                Err(status) => return status,
            };
            let error = start(plan, ready, &mut Silent);
            let _ = stream.write_all(&error.report().encode());
            1
        }
    }
}

/// Signals that end a process which nobody has started yet.
const ENDING: [Signal; 4] = [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM];

/// Waits until somebody opens the gate, or sends a signal: as the first of its PID namespace, this process would not
/// get any that it does not ask for. The error is the exit status.
fn wait(listener: &UnixListener) -> Result<UnixStream, i32> {
    let signals = signals::open(&ENDING.map(Signal::as_raw)).map_err(|_| 1)?;
    loop {
        let mut fds = [PollFd::new(listener, PollFlags::IN), PollFd::new(&signals, PollFlags::IN)];
        match rustix::event::poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return Err(1),
        }
        let knocks = !fds[0].revents().is_empty();
        if let Ok(Some(received)) = signals.next() {
            return Err(128 + received.signal);
        }
        if !knocks {
            continue;
        }
        let (mut stream, _) = listener.accept().map_err(|_| 1)?;
        // Somebody who comes and goes without a word is not the one.
        if matches!(stream.read(&mut [0]), Ok(1)) {
            return signals::unblock_all().map(|()| stream).map_err(|_| 1);
        }
    }
}

fn prepare(
    plan: &Plan,
    tools: Tools,
    gate: Option<BorrowedFd<'_>>,
    talk: &mut Talk,
) -> Result<Ready, InitError> {
    let lost = || Step::on::<std::io::Error, _>(|| "talk with the runtime");
    if plan.namespaces.has(NamespaceKind::User) {
        // Without ids, this process may do nothing in its namespace; and only from outside its limits can be raised.
        match talk.channel.receive().map_err(lost())? {
            Some((Message::Go, _)) => {}
            _ => return Err(Step::refused("talk with the runtime", "it is gone").into()),
        }
        namespaces::become_root()?;
    }
    // Nobody who shares our PID namespace may look at what we hold.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(Step::on(|| "hide from ptrace"))?;
    rustix::process::setsid().map_err(Step::on(|| "begin a session"))?;
    if !plan.namespaces.needs_intermediate() {
        tools.join.join()?;
    }
    namespaces::make(&plan.namespaces)?;
    if plan.namespaces.new.contains(Namespaces::NET) {
        kernel::loopback_up().map_err(Step::on(|| "bring up the loopback interface"))?;
    }
    if let Some(name) = &plan.hostname {
        rustix::system::sethostname(name.as_bytes())
            .map_err(Step::on(|| format!("set the host name `{name}`")))?;
    }
    if let Some(name) = &plan.domainname {
        rustix::system::setdomainname(name.as_bytes())
            .map_err(Step::on(|| format!("set the domain name `{name}`")))?;
    }
    sysctl::apply(&plan.sysctl)?;
    let label = process::label::open(&plan.process)?;
    // Modes that config.json gives are meant as they are.
    rustix::process::umask(Mode::empty());
    let privileged = tools.sources.is_some();
    let sources = tools.sources.map_or_else(|| rootfs::sources::open(&plan.rootfs), Ok)?;
    let groups = || enter_groups(plan, &talk.channel, tools.groups, privileged);
    let mut open = rootfs::execute::build(&plan.rootfs, sources, groups)?;
    if plan.runtime_hooks || !plan.create_container.is_empty() {
        talk.channel.send(&Message::Mounted).map_err(lost())?;
        match talk.channel.receive().map_err(lost())? {
            Some((Message::Go, _)) => {}
            _ => return Err(Step::refused("talk with the runtime", "it is gone").into()),
        }
        let state = plan.state_with_pid();
        if !plan.create_container.is_empty() {
            // From the root that is to be, as hooks have come to expect.
            rustix::process::fchdir(open.root.as_fd())
                .map_err(Step::on(|| "change into the root file system"))?;
            hooks::run("createContainer", &plan.create_container, &state, std::path::Path::new("."))?;
        }
        // Whatever they have mounted, and wherever.
        open.root.forget_own();
    }
    if let Some(size) = plan.process.terminal {
        let terminal = terminal::open(&open.root, size)?;
        rootfs::bind_console(&open.root, terminal.process.as_fd())
            .map_err(Step::on(|| "make the terminal `/dev/console`"))?;
        if let Some(socket) = &tools.console {
            terminal::hand_over(socket, &terminal.controller)?;
        }
        terminal::take(&terminal.process)?;
    }
    drop(tools.console);
    let root = rootfs::execute::seal(&plan.rootfs, open)?;
    rootfs::execute::enter(&plan.rootfs, root, plan.pivot)?;
    if plan.rootfs.fill_dev && plan.process.terminal.is_none() {
        // A container whose /dev somebody has changed meanwhile keeps the host's.
        let _ = process::stdio::replace_null();
    }
    kernel::reset_signals().map_err(Step::on(|| "reset the signals"))?;
    Ok(enter::become_process(&plan.process, label, gate, talk)?)
}

/// Joins the cgroups, once the runtime has made them, and then their namespace. Returns what to mount of them.
fn enter_groups(
    plan: &Plan,
    channel: &Channel,
    mut groups: Vec<Group>,
    privileged: bool,
) -> Result<rootfs::execute::Groups, Step> {
    let (joins, mut fds) = match channel.receive().map_err(Step::on(|| "talk with the runtime"))? {
        Some((Message::Groups(joins), fds)) => (usize::from(joins), fds),
        _ => return Err(Step::refused("talk with the runtime", "it is gone")),
    };
    if joins == 0 {
        // An ordinary user may have none.
        groups.retain(|group| group.version() == Version::V2);
    }
    let mut trees = fds.split_off(joins.min(fds.len()));
    Joiner::from_tasks(&groups, fds).join()?;
    namespaces::make_cgroup(&plan.namespaces)?;
    if !privileged && plan.rootfs.mounts.iter().any(|mount| mount.what == rootfs::What::Cgroups) {
        trees = rootfs::sources::cgroups(&groups, plan.namespaces.new.contains(Namespaces::CGROUP))?;
    }
    let trees = groups.into_iter().map(|group| group.controllers).zip(trees).collect();
    Ok(rootfs::execute::Groups::new(trees))
}

/// What is left to do when the gate is open. Returns only if the program can't be run.
fn start(plan: &Plan, mut ready: Ready, tell: &mut dyn Tell) -> InitError {
    let state = State { status: Status::Created, ..plan.state_with_pid() };
    let here = PathBuf::from("/");
    // These hooks are programs of the container's: what it may not do, they may not.
    if !plan.start_container.is_empty()
        && let Err(error) = ready.filter(tell)
    {
        return error.into();
    }
    if let Err(error) = hooks::run("startContainer", &plan.start_container, &state, &here) {
        return error.into();
    }
    ready.execute(tell).into()
}

impl Plan {
    /// What hooks in the container are told: the process's number is the one there.
    fn state_with_pid(&self) -> State {
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        State { pid, ..self.state.clone() }
    }
}

/// Tells the runtime.
struct Talk {
    channel: Channel,
}

impl Tell for Talk {
    fn warn(&mut self, text: String) {
        // A runtime that is gone needs no warning.
        let _ = self.channel.send(&Message::Warning(text));
    }

    fn listener(&mut self, fd: OwnedFd) -> std::io::Result<()> {
        self.channel.send_with(&Message::Listener, fd.as_fd())
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.channel.as_fd())
    }
}

/// Tells nobody: the runtime is gone when the gate opens.
struct Silent;

impl Tell for Silent {
    fn warn(&mut self, _text: String) {}

    fn listener(&mut self, _fd: OwnedFd) -> std::io::Result<()> {
        Err(std::io::ErrorKind::BrokenPipe.into())
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
