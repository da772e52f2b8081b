//! Adds a process to a running container.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::process::DumpableBehavior;
use sampan_base::{Class, FileError, files};
use sampan_kernel::process::{self as kernel, Clone, Namespaces};
use sampan_oci::runtime::{NamespaceKind, Process, Spec, Status};

use super::attach;
use super::child::{self, hide_children, raise_limits, set_oom_score};
use super::create::{hand_over_process, send_listener};
use super::run::{Console, receive_terminal};
use crate::cgroup::{self, Group, Joiner};
use crate::channel::{Channel, Message, Report};
use crate::ending::wait_status;
use crate::error::{Refused, Step};
use crate::init::namespaces;
use crate::log::{Log, milestone};
use crate::process::enter::{self, EnterError, Tell};
use crate::process::{self, plan::LinuxPart, terminal};
use crate::rootfs::Root;
use crate::state::{self, LookupError, Record, StateRoot};

/// What `exec` is told, beside the process.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Whether the process is left alone.
    pub detach: bool,
    /// Where its number is written.
    pub pid_file: Option<PathBuf>,
    /// The socket that gets its terminal.
    pub console_socket: Option<PathBuf>,
    /// The socket that gets a handle on it.
    pub pidfd_socket: Option<PathBuf>,
    /// How many descriptors from 3 on are handed on.
    pub preserve_fds: u32,
    /// Whether a paused container is no error.
    pub ignore_paused: bool,
    /// Groups below the container's that the process is put into.
    pub groups: Vec<SubGroup>,
}

/// A group below the container's own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SubGroup {
    /// In the v1 hierarchies of these controllers; in all if empty.
    pub controllers: Vec<String>,
    /// Its path from the container's group.
    pub path: PathBuf,
}

impl SubGroup {
    /// From `path` or `controller[,controller]:path`.
    ///
    /// # Errors
    /// If it leads upwards.
    pub fn parse(text: &str) -> Result<SubGroup, Refused> {
        let (controllers, path) = text.split_once(':').unwrap_or(("", text));
        let path = Path::new(path.trim_start_matches('/')).to_owned();
        if path.components().any(|part| !matches!(part, Component::Normal(_))) {
            return Err(Refused::Invalid(format!("--cgroup: {} is not a sub cgroup path", path.display())));
        }
        let controllers = controllers.split(',').filter(|c| !c.is_empty()).map(str::to_owned).collect();
        Ok(SubGroup { controllers, path })
    }

    /// The container's groups with this one in their place, where it applies.
    fn apply(&self, groups: &mut [Group]) -> Result<(), Refused> {
        for controller in &self.controllers {
            if !groups.iter().any(|group| group.controllers.contains(controller)) {
                return Err(Refused::Invalid(format!("--cgroup: unknown controller {controller}")));
            }
        }
        for group in groups {
            let named = self.controllers.iter().any(|c| group.controllers.contains(c));
            // The v2 hierarchy of a hybrid host has no controllers to ask for.
            let everywhere = self.controllers.is_empty() && (group.limits || !group.controllers.is_empty());
            if !named && !everywhere {
                continue;
            }
            group.path.push(&self.path);
            if !group.path.is_dir() {
                let procs = group.path.join("cgroup.procs");
                let why = format!(
                    "adding pid of the new process to {}: no such file or directory",
                    procs.display()
                );
                return Err(Refused::Invalid(why));
            }
        }
        Ok(())
    }
}

/// A process that can't be added.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The container can't be found.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// The container has no namespaces to join, or is paused.
    #[error("cannot exec in a {} container", status.name())]
    WrongState {
        /// Where it is.
        status: Status,
    },
    /// All processes of the container stand still.
    #[error("cannot exec in a paused container (use --ignore-paused to override)")]
    Paused,
    /// What is asked for cannot be had.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// A file can't be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A step failed.
    #[error(transparent)]
    Step(#[from] Step),
    /// The process reported an error.
    #[error("unable to start container process")]
    Init(#[source] Report),
    /// The process ended without a word.
    #[error("unable to start container process: it ended with code {code}")]
    Died {
        /// Its exit code.
        code: i32,
    },
}

impl ExecError {
    /// The class to report.
    pub fn class(&self) -> Class {
        match self {
            ExecError::Lookup(error) => error.class(),
            ExecError::WrongState { .. } | ExecError::Paused => Class::Conflict,
            ExecError::Refused(error) => error.class(),
            ExecError::File(error) => error.class(),
            ExecError::Step(error) => error.class(),
            ExecError::Init(report) => report.class,
            ExecError::Died { .. } => Class::Internal,
        }
    }
}

/// Adds a process, made by `process` from the container's configuration. Returns its exit code, or 0 if it was left
/// alone.
///
/// # Errors
/// If it can't be added.
pub fn exec(
    root: &StateRoot,
    id: &str,
    process: impl FnOnce(&Spec) -> Result<Process, Refused>,
    options: &Options,
    log: &Log,
) -> Result<i32, ExecError> {
    let (directory, record) = root.find(id)?;
    let init = state::open_process(&record).map_err(Step::on(|| "open the container's process"))?;
    let status = directory.status_of(&record, init.is_some());
    match status {
        Status::Running | Status::Created => {}
        Status::Paused if options.ignore_paused => {}
        Status::Paused => return Err(ExecError::Paused),
        _ => return Err(ExecError::WrongState { status }),
    }
    let spec = directory.config()?;
    let process = process(&spec)?;
    let part = LinuxPart::of(&spec);
    let mut plan = process::plan(&process, part)?;
    plan.preserve_fds = options.preserve_fds;
    plan.own_keyring = !record.shares_keyring;
    for warning in &plan.warnings {
        log.warn(warning);
    }
    if let (Some(size @ None), false) = (&mut plan.terminal, options.detach) {
        // Known before the program runs, which may ask at once.
        *size = terminal::own_size();
    }
    let terminal = console(&plan, options)?;
    let signals = match options.detach {
        true => None,
        false => Some(attach::take_signals().map_err(Step::on(|| "take signals"))?),
    };
    let Some(init) = init else { return Err(ExecError::WrongState { status: Status::Stopped }) };
    let (ours, theirs) = Channel::pair().map_err(Step::on(|| "make a socket pair"))?;
    let mut groups = record.cgroups.clone();
    options.groups.iter().try_for_each(|group| group.apply(&mut groups))?;
    let child = give_birth(&record, &groups, init.as_fd(), &plan, theirs, terminal.theirs.as_deref(), &ours)?;

    log.debug(|| milestone::BORN.to_owned());
    let pid = child.pid.as_raw_nonzero().get();
    let talked = (|| {
        if let Some(resctrl) = &record.resctrl {
            resctrl.join(pid)?;
        }
        if let Some(score) = plan.oom_score_adj {
            set_oom_score(pid, score, log)?;
        }
        raise_limits(&plan, child.pid);
        talk_until_ready(&ours, &spec, &record, log)?;
        log.debug(|| milestone::READY.to_owned());
        if let Some(path) = &options.pidfd_socket {
            hand_over_process(path, &child.pidfd)?;
        }
        if let Some(path) = &options.pid_file {
            files::write_atomic_volatile(path, pid.to_string().as_bytes(), 0o644)?;
        }
        log.debug(|| milestone::ADDED.to_owned());
        talk_until_executed(&ours, &spec, &record, log)
    })();
    if let Err(error) = talked {
        // One that has reported ends by itself; one that is of no use any more is ended.
        let _ = rustix::process::pidfd_send_signal(&child.pidfd, rustix::process::Signal::KILL);
        let ending = wait_status(&child.pidfd);
        return Err(match (error, ending) {
            (ExecError::Died { .. }, Ok(ending)) => ExecError::Died { code: ending.exit_code() },
            (error, _) => error,
        });
    }
    let Some(signals) = signals else { return Ok(0) };
    drop(terminal.theirs);
    let controller = terminal.ours.map(|socket| receive_terminal(&socket)).transpose()?.flatten();
    let ending =
        attach::stay(&child.pidfd, &signals, controller).map_err(Step::on(|| "stay with the process"))?;
    Ok(ending.exit_code())
}

fn console(plan: &process::Plan, options: &Options) -> Result<Console, ExecError> {
    let refuse = |why: &str| Err(Refused::Invalid(why.to_owned()).into());
    match (plan.terminal, &options.console_socket) {
        (None, Some(_)) => refuse("--console-socket needs a terminal"),
        (Some(_), None) if options.detach => {
            refuse("a terminal needs --console-socket, which gets it, if the process is detached")
        }
        (Some(_), Some(path)) => {
            let theirs = UnixStream::connect(path)
                .map_err(Step::on(|| format!("connect to the console socket `{}`", path.display())))?;
            Ok(Console { ours: None, theirs: Some(std::rc::Rc::new(theirs)) })
        }
        (Some(_), None) => Ok(Console::pair()?),
        (None, None) => Ok(Console { ours: None, theirs: None }),
    }
}

/// Makes the process: in the container's cgroups and PID namespace from its birth, and then in all its namespaces.
fn give_birth(
    record: &Record,
    groups: &[Group],
    init: BorrowedFd<'_>,
    plan: &process::Plan,
    channel: Channel,
    console: Option<&UnixStream>,
    ours: &Channel,
) -> Result<kernel::Child, Step> {
    hide_children()?;
    let joiner = Joiner::open(groups)?;
    let cgroup = cgroup::birthplace_beside(groups, record.pid)?;
    let to_join = shared_namespaces(record)?;
    let birthplace = cgroup.as_ref().map(AsFd::as_fd);
    let without = [ours.as_fd()];
    let how = Clone { cgroup: birthplace, without: &without, ..Clone::default() };
    if to_join.contains(Namespaces::USER) && !rustix::process::geteuid().is_root() {
        // Only in the container's user namespace may an ordinary user join the others.
        let first = to_join & (Namespaces::USER | Namespaces::PID);
        let rest = to_join - first;
        let live = |channel| live(init, rest, joiner, plan, channel, console);
        let child = child::give_birth_inside(init, first, &how, channel, live)?;
        if let (Some(unit), None) = (&record.unit, birthplace) {
            unit.attach(child.pid)?;
        }
        return Ok(child);
    }
    if to_join.contains(Namespaces::PID) {
        // This makes our children the container's; we have no other child from here on.
        kernel::join(init, Namespaces::PID).map_err(Step::on(|| "join the container's PID namespace"))?;
    }
    let child = kernel::clone(&how, || live(init, to_join, joiner, plan, channel, console));
    let child = child.map_err(Step::on(|| "make the process"))?;
    if let (Some(unit), None) = (&record.unit, birthplace) {
        unit.attach(child.pid)?;
    }
    Ok(child)
}

/// Which namespaces the container does not share with us.
pub(super) fn shared_namespaces(record: &Record) -> Result<Namespaces, Step> {
    let mut all = Namespaces::empty();
    for namespace in &record.namespaces {
        if namespace.kind == NamespaceKind::User {
            // Joining the one that we are in is an error to the kernel.
            let link = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/user"));
            let look = || Ok::<_, std::io::Error>((link("self")?, link(&record.pid.to_string())?));
            let (ours, theirs) = look().map_err(Step::on(|| "look at the container's user namespace"))?;
            if ours == theirs {
                continue;
            }
        }
        all |= namespaces::flag(namespace.kind);
    }
    Ok(all)
}

fn talk_until_ready(ours: &Channel, spec: &Spec, record: &Record, log: &Log) -> Result<(), ExecError> {
    loop {
        match next(ours, spec, record, log)? {
            Some(Message::Ready) => break,
            Some(_) => {}
            None => return Err(ExecError::Died { code: 0 }),
        }
    }
    Ok(())
}

fn talk_until_executed(ours: &Channel, spec: &Spec, record: &Record, log: &Log) -> Result<(), ExecError> {
    ours.send(&Message::Go).map_err(Step::on(|| "talk with the process"))?;
    // Its end of the socket closes when the program is executed.
    while next(ours, spec, record, log)?.is_some() {}
    Ok(())
}

fn next(ours: &Channel, spec: &Spec, record: &Record, log: &Log) -> Result<Option<Message>, ExecError> {
    match ours.receive().map_err(Step::on(|| "talk with the process"))? {
        Some((Message::Failed(report), _)) => return Err(ExecError::Init(report)),
        Some((Message::Warning(text), _)) => log.warn(&text),
        Some((Message::Listener, fds)) => send_listener(spec, record, &fds)?,
        other => return Ok(other.map(|(message, _)| message)),
    }
    Ok(Some(Message::Warning(String::new())))
}

/// Lives as the process that is added.
fn live(
    init: BorrowedFd<'_>,
    to_join: Namespaces,
    joiner: Joiner,
    plan: &process::Plan,
    channel: Channel,
    console: Option<&UnixStream>,
) -> i32 {
    let mut talk = Talk(channel);
    let ready = match prepare(init, to_join, joiner, plan, console, &mut talk) {
        Ok(ready) => ready,
        Err(error) => {
            talk.fail(&error);
            return 1;
        }
    };
    if talk.0.send(&Message::Ready).is_err() || !matches!(talk.0.receive(), Ok(Some((Message::Go, _)))) {
        return 1;
    }
    let error = ready.execute(&mut talk);
    talk.fail(&error);
    1
}

fn prepare(
    init: BorrowedFd<'_>,
    to_join: Namespaces,
    joiner: Joiner,
    plan: &process::Plan,
    console: Option<&UnixStream>,
    talk: &mut Talk,
) -> Result<enter::Ready, EnterError> {
    // First of all: from here on, processes of the container can see this one.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(Step::on(|| "hide from ptrace"))?;
    rustix::process::setsid().map_err(Step::on(|| "begin a session"))?;
    enter::set_affinity(plan.affinity[0].as_ref())?;
    joiner.join()?;
    enter::set_affinity(plan.affinity[1].as_ref())?;
    let label = process::label::open(plan)?;
    // All at once and by the process itself: nothing can be swapped in between.
    let others = to_join - Namespaces::PID;
    kernel::join(init, others)
        .map_err(Step::on(|| format!("join the container's namespaces ({others:?})")))?;
    if others.contains(Namespaces::USER) {
        namespaces::become_root()?;
    }
    if let Some(size) = plan.terminal {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root =
            rustix::fs::open(c"/", flags, Mode::empty()).map_err(Step::on(|| "open the container's root"))?;
        let terminal = terminal::open(&Root::new(root), size)?;
        if let Some(socket) = console {
            terminal::hand_over(socket, &terminal.controller)?;
        }
        terminal::take(&terminal.process)?;
    }
    kernel::reset_signals().map_err(Step::on(|| "reset the signals"))?;
    enter::become_process(plan, label, None, talk)
}

struct Talk(Channel);

impl Talk {
    fn fail(&self, error: &EnterError) {
        let report = Report { class: error.class(), text: sampan_base::chain(error) };
        // If the runtime is gone, nobody is left to tell.
        let _ = self.0.send(&Message::Failed(report));
    }
}

impl Tell for Talk {
    fn warn(&mut self, text: String) {
        // A runtime that is gone needs no warning.
        let _ = self.0.send(&Message::Warning(text));
    }

    fn listener(&mut self, fd: OwnedFd) -> std::io::Result<()> {
        self.0.send_with(&Message::Listener, fd.as_fd())
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }
}
