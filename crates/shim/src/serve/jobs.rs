//! Runtime commands: what is to be done, one thing at a time for each process, and the commands that do it.

use std::path::{Path, PathBuf};

use sampan_base::files::write_atomic_volatile;
use sampan_rpc::task as wire;
use sampan_rpc::ttrpc::{Code, Failure};
use sampan_rpc::types::Mount;

use super::requests::{of_chain, unmount};
use super::{Exit, ProcessId, Reply, Server, failure};
use crate::runtime::Call;
use crate::state::{Action, State, allow};
use crate::stdio::ChildEnds;
use crate::stdio::console::ConsoleSocket;

/// Something to be done to a process, one at a time.
#[derive(Debug)]
pub(super) enum Work {
    Create {
        rootfs: Vec<Mount>,
    },
    Start,
    Kill {
        signal: u32,
        all: bool,
    },
    Pause,
    Resume,
    Update {
        resources: Vec<u8>,
    },
    Delete,
    /// Nobody asked: the first process of a container without a pid namespace of its own has exited.
    KillRest,
}

/// A runtime command that runs.
#[derive(Debug)]
pub(super) struct Job {
    process: ProcessId,
    work: Work,
    /// None if nobody asked.
    reply: Option<Reply>,
    /// Its log; its other files have the same name with another ending.
    log: PathBuf,
}

/// What has become of some work.
pub(super) enum Begun {
    /// A command runs.
    Running,
    /// It is done and answered.
    Done,
}

impl Job {
    /// Whether its end makes a process known that may have exited already.
    pub(super) fn will_tell_a_pid(&self) -> bool {
        matches!(self.work, Work::Create { .. } | Work::Start)
    }
}

impl Work {
    /// The runtime's word for it.
    fn verb(&self, is_exec: bool) -> &'static str {
        match self {
            Work::Create { .. } => "create",
            Work::Start if is_exec => "exec",
            Work::Start => "start",
            Work::Kill { .. } | Work::KillRest => "kill",
            Work::Pause => "pause",
            Work::Resume => "resume",
            Work::Update { .. } => "update",
            Work::Delete => "delete",
        }
    }

    fn action(&self) -> Option<Action> {
        match self {
            Work::Create { .. } | Work::KillRest => None,
            Work::Start => Some(Action::Start),
            Work::Kill { .. } => Some(Action::Kill),
            Work::Pause => Some(Action::Pause),
            Work::Resume => Some(Action::Resume),
            Work::Update { .. } => Some(Action::Update),
            Work::Delete => Some(Action::Delete),
        }
    }
}

impl Server {
    /// Begins what is queued for a process, until a command runs.
    pub(super) fn pump(&mut self, id: ProcessId) {
        loop {
            let Some(process) = self.processes.get_mut(&id) else { return };
            if process.busy {
                return;
            }
            let Some((work, reply)) = process.queue.pop_front() else { return };
            let allowed = work.action().map_or(Ok(()), |action| allow(action, process.state));
            if let Err(failure) = allowed.and_then(|()| self.begin(id, work, reply)) {
                self.refuse(reply, &failure);
            }
        }
    }

    /// Does `work`, or starts the command that does it. The answer is given when it is done.
    pub(super) fn begin(&mut self, id: ProcessId, work: Work, reply: Reply) -> Result<(), Failure> {
        let starting = matches!(work, Work::Create { .. } | Work::Start);
        let begun = if self.process_mut(id)?.exec.is_some() {
            self.begin_for_exec(id, work, reply)?
        } else {
            self.begin_for_init(id, work, Some(reply))?
        };
        if let Begun::Running = begun {
            let process = self.process_mut(id)?;
            (process.busy, process.starting) = (true, starting);
        }
        Ok(())
    }

    pub(super) fn begin_for_init(
        &mut self,
        id: ProcessId,
        work: Work,
        reply: Option<Reply>,
    ) -> Result<Begun, Failure> {
        let container_id = self.process_mut(id)?.container.clone();
        let log = self.run_file(&container_id)?;
        let console_path = self.console_path();
        let container = self.container(&container_id)?;
        let (runtime, bundle) = (container.runtime.clone(), container.bundle.clone());
        let simple = |verb: &str| runtime.call(verb, &log);
        let call = match &work {
            Work::Create { .. } => {
                let process = self.process_mut(id)?;
                if process.wanted.terminal {
                    process.console =
                        Some(ConsoleSocket::listen(console_path).map_err(cannot("listen for the terminal"))?);
                }
                let console = process.console.as_ref().map(ConsoleSocket::path);
                runtime
                    .create(&bundle, &bundle.join("init.pid"), console, &log)
                    .map(|call| with_stdio(call, process.stdio.take_child_ends()).arg(&container_id))
            }
            Work::Start => {
                self.process_mut(id)?.stdio.before_start();
                simple("start").map(|call| call.arg(&container_id))
            }
            Work::Kill { signal, all } => simple("kill").map(|call| {
                let call = if *all { call.arg("--all") } else { call };
                call.arg(&container_id).arg(signal.to_string())
            }),
            Work::KillRest => simple("kill").map(|call| call.arg("--all").arg(&container_id).arg("9")),
            Work::Pause => simple("pause").map(|call| call.arg(&container_id)),
            Work::Resume => simple("resume").map(|call| call.arg(&container_id)),
            Work::Delete => simple("delete").map(|call| call.arg(&container_id)),
            Work::Update { resources } => {
                let file = log.with_extension("json");
                write_atomic_volatile(&file, resources, 0o600).map_err(|e| of_chain(Code::Unknown, &e))?;
                simple("update").map(|call| call.arg("--resources").arg(&file).arg(&container_id))
            }
        };
        self.start_job(
            call.map_err(cannot("write the runtime's log"))?,
            Job { process: id, work, reply, log },
        )
    }

    fn begin_for_exec(&mut self, id: ProcessId, work: Work, reply: Reply) -> Result<Begun, Failure> {
        match work {
            Work::Start => self.start_exec(id, reply),
            Work::Kill { signal, .. } => {
                let process = self.process_mut(id)?;
                let number = i32::try_from(signal).ok().and_then(rustix::process::Signal::from_named_raw);
                let Some(signal) = number else {
                    return Err(failure(Code::InvalidArgument, format!("no signal {signal}")));
                };
                // It is our child and has not been reaped, so the pid is still its own.
                let pid = rustix::process::Pid::from_raw(process.pid.cast_signed());
                let Some(pid) = pid else {
                    return Err(failure(Code::NotFound, "process already finished"));
                };
                rustix::process::kill_process(pid, signal).map_err(|e| failure(Code::Unknown, e))?;
                self.answer(reply, &());
                Ok(Begun::Done)
            }
            Work::Delete => {
                let process = self.process_mut(id)?;
                let (container, exec) = (process.container.clone(), process.exec.clone().unwrap_or_default());
                let response = delete_response(process.pid, process.exit);
                self.container_mut(&container)?.execs.remove(&exec);
                self.forget_process(id);
                self.answer(reply, &response);
                Ok(Begun::Done)
            }
            _ => Err(failure(Code::InvalidArgument, "that can be asked of a container only, not of an exec")),
        }
    }

    fn start_exec(&mut self, id: ProcessId, reply: Reply) -> Result<Begun, Failure> {
        let container_id = self.process_mut(id)?.container.clone();
        let log = self.run_file(&container_id)?;
        let console_path = self.console_path();
        let container = self.container(&container_id)?;
        let init = container.init;
        let runtime = container.runtime.clone();
        if self.process_mut(init)?.state != State::Running {
            let message = format!("cannot exec in container {container_id}: it is not running");
            return Err(failure(Code::FailedPrecondition, message));
        }
        let process = self.process_mut(id)?;
        process.stdio.before_start();
        let spec = log.with_extension("json");
        write_atomic_volatile(&spec, &process.spec, 0o600).map_err(|e| of_chain(Code::Unknown, &e))?;
        if process.wanted.terminal {
            process.console =
                Some(ConsoleSocket::listen(console_path).map_err(cannot("listen for the terminal"))?);
        }
        let console = process.console.as_ref().map(ConsoleSocket::path);
        let call = runtime
            .exec(&spec, &log.with_extension("pid"), console, &log)
            .map_err(cannot("write the runtime's log"))?;
        let call = with_stdio(call, process.stdio.take_child_ends()).arg(&container_id);
        let job = Job { process: id, work: Work::Start, reply: Some(reply), log };
        let begun = self.start_job(call, job);
        if begun.is_err() {
            self.exec_failed(id);
        }
        begun
    }

    fn start_job(&mut self, call: Call, job: Job) -> Result<Begun, Failure> {
        let program = call.program().display().to_string();
        match call.start() {
            Ok(pid) => {
                // Reaped with all the others.
                self.jobs.insert(pid, job);
                Ok(Begun::Running)
            }
            Err(error) => {
                remove_run_files(&job.log);
                Err(failure(Code::Unknown, format!("cannot start OCI runtime `{program}`: {error}")))
            }
        }
    }

    /// A runtime command has ended.
    pub(super) fn finish_job(&mut self, job: Job, status: u32, buffer: &mut [u8]) {
        let Job { process: id, work, reply, log } = job;
        let Some(process) = self.processes.get_mut(&id) else { return remove_run_files(&log) };
        if !matches!(work, Work::KillRest) {
            (process.busy, process.starting) = (false, false);
        }
        let is_exec = process.exec.is_some();
        let outcome =
            if status == 0 { Ok(()) } else { Err(runtime_failure(work.verb(is_exec), status, &log)) };
        let outcome = match work {
            Work::Create { rootfs } => self.created(id, outcome, rootfs, reply),
            Work::Start if is_exec => self.exec_started(id, outcome, &log, reply),
            Work::Start => outcome.map(|()| self.started(id, reply)),
            Work::Delete => self.deleted(id, outcome, reply),
            Work::Pause => outcome.map(|()| self.paused(id, State::Paused, reply)),
            Work::Resume => outcome.map(|()| self.paused(id, State::Running, reply)),
            Work::Kill { .. } | Work::Update { .. } => outcome.map(|()| {
                if let Some(reply) = reply {
                    self.answer(reply, &());
                }
            }),
            // The container may have had no other process.
            Work::KillRest => Ok(()),
        };
        if let (Err(failure), Some(reply)) = (&outcome, reply) {
            self.refuse(reply, failure);
        }
        remove_run_files(&log);
        self.announce_exit(id, buffer);
        self.pump(id);
    }

    /// Drops a container, its execs and its mounts; whoever waits for one of them is told.
    pub(super) fn forget_container(&mut self, id: &str) {
        let Some(container) = self.containers.remove(id) else { return };
        for process in container.execs.values().chain([&container.init]) {
            self.forget_process(*process);
        }
        if container.mounted {
            unmount(&container.bundle.join("rootfs"));
        }
    }

    pub(super) fn forget_process(&mut self, id: ProcessId) {
        let Some(process) = self.processes.remove(&id) else { return };
        let gone = failure(Code::NotFound, "the process has been deleted");
        for reply in process.waiters.into_iter().chain(process.queue.into_iter().map(|(_, reply)| reply)) {
            self.refuse(reply, &gone);
        }
    }

    /// A fresh name in a container's bundle for the log of a command.
    fn run_file(&mut self, container: &str) -> Result<PathBuf, Failure> {
        let number = self.number();
        Ok(self.container(container)?.bundle.join(format!("run-{number}.log")))
    }

    fn console_path(&mut self) -> PathBuf {
        let mut path = self.socket.clone().into_os_string();
        path.push(format!(".pty{}", self.number()));
        path.into()
    }
}

fn with_stdio(call: Call, ends: Option<ChildEnds>) -> Call {
    match ends {
        Some(ends) => call.stdio(ends),
        None => call,
    }
}

fn remove_run_files(log: &Path) {
    for ending in ["log", "json", "pid"] {
        let _ = std::fs::remove_file(log.with_extension(ending)); // each exists only for some commands
    }
}

pub(super) fn delete_response(pid: u32, exit: Option<Exit>) -> wire::DeleteResponse {
    wire::DeleteResponse {
        pid,
        exit_status: exit.map_or(0, |e| e.status),
        exited_at: exit.map(|e| e.at.into()),
    }
}

fn cannot(what: &'static str) -> impl FnOnce(std::io::Error) -> Failure {
    move |error| failure(Code::Unknown, format!("cannot {what}: {error}"))
}

/// What a failed runtime command is reported as: its own words, and a code guessed from them, for runtimes have
/// only the words.
fn runtime_failure(verb: &str, status: u32, log: &Path) -> Failure {
    let reason = crate::runtime::last_error(log)
        .unwrap_or_else(|| format!("exit status {status}, and no reason given"));
    let says = |words: &[&str]| words.iter().any(|w| reason.contains(w));
    let gone = says(&["already finished", "not running", "does not exist", "no such process"]);
    let code = if gone && !matches!(verb, "create" | "start" | "exec") {
        Code::NotFound
    } else if says(&[
        "not supported",
        "unsupported",
        "unknown command",
        "No help topic",
        "unrecognized subcommand",
    ]) {
        Code::Unimplemented
    } else {
        Code::Unknown
    };
    Failure { code, message: format!("OCI runtime {verb} failed: {reason}") }
}
