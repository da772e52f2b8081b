//! The task service's methods: decode, look up, answer or queue.

use std::path::{Path, PathBuf};

use prost::Message;
use sampan_base::{Class, ContainerId};
use sampan_rpc::task::{self as wire, SERVICE_V2, SERVICE_V3};
use sampan_rpc::ttrpc::{self, Code, Failure, Frame, Request};
use sampan_rpc::types::ProcessInfo;
use sampan_rpc::{Any, events, runc};

use super::jobs::Work;
use super::{Container, Exit, Process, ProcessId, Reply, Server, failure};
use crate::bundle::SpecFacts;
use crate::cgroup::Cgroups;
use crate::runtime::Runtime;
use crate::state::State;
use crate::stdio::{Owner, Stdio, Wanted};

/// What has become of a request.
pub(super) enum Answer {
    /// This frame answers it.
    Now(Vec<u8>),
    /// It will be answered.
    Later,
}

impl Server {
    /// Does what a frame asks for, or sees to it.
    pub(super) fn take_request(&mut self, reply: Reply, frame: &Frame) {
        match ttrpc::call(frame).and_then(|request| self.dispatch(reply, &request)) {
            Ok(Answer::Now(frame)) => self.send(reply, &frame),
            Ok(Answer::Later) => {}
            Err(failure) => self.refuse(reply, &failure),
        }
    }

    fn dispatch(&mut self, reply: Reply, request: &Request) -> Result<Answer, Failure> {
        if request.service != SERVICE_V2 && request.service != SERVICE_V3 {
            return Err(failure(Code::Unimplemented, format!("no service `{}` here", request.service)));
        }
        let payload = request.payload.as_slice();
        match request.method.as_str() {
            "State" => now(reply, &self.state(&decode(payload)?)?),
            "Create" => self.create(reply, decode(payload)?),
            "Start" => {
                let wire::StartRequest { id, exec_id } = decode(payload)?;
                self.queue(reply, &id, &exec_id, Work::Start)
            }
            "Delete" => {
                let wire::DeleteRequest { id, exec_id } = decode(payload)?;
                self.queue(reply, &id, &exec_id, Work::Delete)
            }
            "Kill" => {
                let wire::KillRequest { id, exec_id, signal, all } = decode(payload)?;
                self.queue(reply, &id, &exec_id, Work::Kill { signal, all })
            }
            "Pause" => {
                let wire::PauseRequest { id } = decode(payload)?;
                self.queue(reply, &id, "", Work::Pause)
            }
            "Resume" => {
                let wire::ResumeRequest { id } = decode(payload)?;
                self.queue(reply, &id, "", Work::Resume)
            }
            "Update" => {
                let wire::UpdateTaskRequest { id, resources, .. } = decode(payload)?;
                let resources = resources.unwrap_or_default().value;
                self.queue(reply, &id, "", Work::Update { resources })
            }
            "Pids" => now(reply, &self.pids(&decode(payload)?)?),
            "Exec" => now(reply, &self.exec(decode(payload)?)?),
            "ResizePty" => now(reply, &self.resize(&decode(payload)?)?),
            "CloseIO" => now(reply, &self.close_io(&decode(payload)?)?),
            "Wait" => self.wait(reply, &decode(payload)?),
            "Stats" => now(reply, &self.stats(&decode(payload)?)?),
            "Connect" => now(reply, &self.connect(&decode(payload)?)?),
            "Shutdown" => {
                // A shim that still has containers stays: they may be of other callers.
                if self.containers.is_empty() {
                    self.shut_down();
                }
                now(reply, &())
            }
            "Checkpoint" => Err(failure(Code::Unimplemented, "checkpointing containers is not supported")),
            method => Err(failure(Code::Unimplemented, format!("no method `{method}` here"))),
        }
    }

    fn state(&self, request: &wire::StateRequest) -> Result<wire::StateResponse, Failure> {
        let container = self.container(&request.id)?;
        let process = &self.processes[&self.process(&request.id, &request.exec_id)?];
        Ok(wire::StateResponse {
            id: request.id.clone(),
            bundle: container.bundle.to_string_lossy().into_owned(),
            pid: process.pid,
            status: process.state.status().into(),
            stdin: process.wanted.stdin.clone(),
            stdout: process.wanted.stdout.clone(),
            stderr: process.wanted.stderr.clone(),
            terminal: process.wanted.terminal,
            exit_status: process.exit.map_or(0, |e| e.status),
            exited_at: process.exit.map(|e| e.at.into()),
            exec_id: request.exec_id.clone(),
        })
    }

    fn create(&mut self, reply: Reply, request: wire::CreateTaskRequest) -> Result<Answer, Failure> {
        let id = valid_id(&request.id)?;
        if self.shutting_down {
            return Err(failure(Code::Unavailable, "the shim is ending"));
        }
        if self.containers.contains_key(&id) {
            return Err(failure(Code::AlreadyExists, format!("task {id} already exists")));
        }
        if !request.checkpoint.is_empty() {
            return Err(failure(
                Code::Unimplemented,
                "restoring containers from checkpoints is not supported",
            ));
        }
        let bundle = PathBuf::from(&request.bundle);
        if !bundle.is_absolute() {
            return Err(failure(
                Code::InvalidArgument,
                format!("bundle `{}` is not absolute", request.bundle),
            ));
        }
        let options = match &request.options {
            Some(any) => unpack_options(any)?,
            None => runc::Options::default(),
        };
        let mut runtime = Runtime::from_options(&options, &self.namespace);
        runtime.hold(&bundle).map_err(|e| failure(Code::Unknown, format!("cannot lock the bundle: {e}")))?;
        let facts = SpecFacts::read(&bundle).map_err(of_error)?;
        runtime.record(&self.socket).write(&bundle).map_err(of_error)?;
        let wanted = Wanted {
            terminal: request.terminal,
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
        };
        let owner = (options.io_uid, options.io_gid);
        let stdio = self.open_stdio(&wanted, &id, None, owner)?;
        let rootfs = bundle.join("rootfs");
        if let Err(error) = crate::rootfs::mount(&request.rootfs, &rootfs) {
            let failed = of_chain(Code::Unknown, &error);
            unmount(&rootfs);
            return Err(failed);
        }
        let init = ProcessId(self.number());
        let process = Process::new(id.clone(), None, State::Creating, wanted, stdio);
        self.processes.insert(init, process);
        let container = Container {
            bundle,
            runtime,
            init,
            execs: Default::default(),
            own_pid_namespace: facts.has_own_pid_namespace(),
            mounted: !request.rootfs.is_empty(),
            cgroups: Cgroups::default(),
            oom: None,
            owner,
        };
        self.containers.insert(id.clone(), container);
        let create = Work::Create { rootfs: request.rootfs };
        if let Err(failure) = self.begin(init, create, reply) {
            self.forget_container(&id);
            return Err(failure);
        }
        Ok(Answer::Later)
    }

    fn exec(&mut self, request: wire::ExecProcessRequest) -> Result<(), Failure> {
        let exec = valid_id(&request.exec_id)?;
        let container = self.container(&request.id)?;
        if container.execs.contains_key(&exec) {
            return Err(failure(Code::AlreadyExists, format!("exec {exec} already exists")));
        }
        let owner = container.owner;
        let spec = request.spec.map(|any| any.value).filter(|v| !v.is_empty());
        let spec = spec.ok_or_else(|| failure(Code::InvalidArgument, "exec without a process"))?;
        let wanted = Wanted {
            terminal: request.terminal,
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
        };
        let stdio = self.open_stdio(&wanted, &request.id, Some(&exec), owner)?;
        let id = ProcessId(self.number());
        let mut process = Process::new(request.id.clone(), Some(exec.clone()), State::Added, wanted, stdio);
        process.spec = spec;
        self.processes.insert(id, process);
        self.container_mut(&request.id)?.execs.insert(exec.clone(), id);
        let event = events::TaskExecAdded { container_id: request.id, exec_id: exec };
        self.publisher.publish("/tasks/exec-added", &event);
        Ok(())
    }

    fn open_stdio(
        &self,
        wanted: &Wanted,
        container: &str,
        exec: Option<&str>,
        (uid, gid): (u32, u32),
    ) -> Result<Stdio, Failure> {
        let owner = Owner { namespace: &self.namespace, container, exec, uid, gid };
        Stdio::open(wanted, owner).map_err(|error| of_chain(code_of(error.class()), &error))
    }

    fn wait(&mut self, reply: Reply, request: &wire::WaitRequest) -> Result<Answer, Failure> {
        let id = self.process(&request.id, &request.exec_id)?;
        let process = self.process_mut(id)?;
        match process.exit {
            Some(exit) => now(reply, &exit.wait_response()),
            None => {
                process.waiters.push(reply);
                Ok(Answer::Later)
            }
        }
    }

    fn pids(&self, request: &wire::PidsRequest) -> Result<wire::PidsResponse, Failure> {
        let container = self.container(&request.id)?;
        let known = |pid: u32| {
            container.execs.iter().find(|(_, id)| self.processes.get(id).is_some_and(|p| p.pid == pid))
        };
        let mut pids = container.cgroups.pids();
        if pids.is_empty() {
            // Without a cgroup of its own (rootless), at least those that the shim has started.
            let ours = container.execs.values().chain([&container.init]);
            pids = ours
                .filter_map(|id| self.processes.get(id))
                .filter(|p| p.pid != 0 && p.exit.is_none())
                .map(|p| p.pid)
                .collect();
        }
        let info = |pid: u32| {
            let (exec, _) = known(pid)?;
            Some(sampan_rpc::pack(&runc::ProcessDetails { exec_id: exec.clone() }))
        };
        let processes = pids.into_iter().map(|pid| ProcessInfo { pid, info: info(pid) }).collect();
        Ok(wire::PidsResponse { processes })
    }

    fn resize(&self, request: &wire::ResizePtyRequest) -> Result<(), Failure> {
        let process = &self.processes[&self.process(&request.id, &request.exec_id)?];
        let cells = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
        process.stdio.resize(cells(request.width), cells(request.height)).map_err(|error| {
            failure(Code::FailedPrecondition, format!("cannot resize the terminal: {error}"))
        })
    }

    fn close_io(&mut self, request: &wire::CloseIoRequest) -> Result<(), Failure> {
        let id = self.process(&request.id, &request.exec_id)?;
        if request.stdin {
            self.process_mut(id)?.stdio.close_stdin();
        }
        Ok(())
    }

    fn stats(&self, request: &wire::StatsRequest) -> Result<wire::StatsResponse, Failure> {
        let container = self.container(&request.id)?;
        Ok(wire::StatsResponse { stats: Some(container.cgroups.stats()) })
    }

    fn connect(&self, request: &wire::ConnectRequest) -> Result<wire::ConnectResponse, Failure> {
        // containerd asks before Create, too.
        let task_pid = match self.containers.get(&request.id) {
            Some(container) => self.processes.get(&container.init).map_or(0, |p| p.pid),
            None => 0,
        };
        Ok(wire::ConnectResponse {
            shim_pid: std::process::id(),
            task_pid,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        })
    }

    fn queue(&mut self, reply: Reply, container: &str, exec: &str, work: Work) -> Result<Answer, Failure> {
        let id = self.process(container, exec)?;
        self.process_mut(id)?.queue.push_back((work, reply));
        self.pump(id);
        Ok(Answer::Later)
    }

    pub(super) fn container(&self, id: &str) -> Result<&Container, Failure> {
        self.containers.get(id).ok_or_else(|| failure(Code::NotFound, format!("no task {id} here")))
    }

    pub(super) fn container_mut(&mut self, id: &str) -> Result<&mut Container, Failure> {
        self.containers.get_mut(id).ok_or_else(|| failure(Code::NotFound, format!("no task {id} here")))
    }

    /// A process that is certain to be in [`Server::processes`].
    fn process(&self, container: &str, exec: &str) -> Result<ProcessId, Failure> {
        let found = self.container(container)?;
        let id = if exec.is_empty() { Some(&found.init) } else { found.execs.get(exec) };
        id.copied()
            .filter(|id| self.processes.contains_key(id))
            .ok_or_else(|| failure(Code::NotFound, format!("no exec {exec} in task {container}")))
    }

    pub(super) fn process_mut(&mut self, id: ProcessId) -> Result<&mut Process, Failure> {
        self.processes.get_mut(&id).ok_or_else(|| failure(Code::NotFound, "the process has been deleted"))
    }
}

impl Process {
    fn new(container: String, exec: Option<String>, state: State, wanted: Wanted, stdio: Stdio) -> Process {
        Process {
            container,
            exec,
            state,
            wanted,
            stdio,
            console: None,
            pid: 0,
            exit: None,
            unannounced_exit: None,
            waiters: Vec::new(),
            queue: Default::default(),
            busy: false,
            starting: false,
            spec: Vec::new(),
        }
    }
}

impl Exit {
    pub(super) fn wait_response(self) -> wire::WaitResponse {
        wire::WaitResponse { exit_status: self.status, exited_at: Some(self.at.into()) }
    }
}

/// Takes the mounts off, and says so if that is not possible.
pub(super) fn unmount(rootfs: &Path) {
    if let Err(error) = crate::rootfs::unmount(rootfs) {
        crate::note(&format!("cannot unmount `{}`: {error}", rootfs.display()));
    }
}

pub(super) fn of_chain(code: Code, error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure { code, message: sampan_base::chain(error) }
}

fn of_error(error: sampan_base::FileError) -> Failure {
    of_chain(code_of(error.class()), &error)
}

fn code_of(class: Class) -> Code {
    match class {
        Class::Invalid => Code::InvalidArgument,
        Class::NotFound => Code::NotFound,
        Class::Unsupported => Code::Unimplemented,
        Class::Exhausted => Code::ResourceExhausted,
        _ => Code::Unknown,
    }
}

fn now(reply: Reply, message: &impl Message) -> Result<Answer, Failure> {
    ttrpc::response(reply.stream, message)
        .map(Answer::Now)
        .map_err(|error| failure(Code::ResourceExhausted, error))
}

fn decode<M: Message + Default>(payload: &[u8]) -> Result<M, Failure> {
    M::decode(payload).map_err(|error| failure(Code::InvalidArgument, format!("malformed message: {error}")))
}

/// Ids become file names.
fn valid_id(id: &str) -> Result<String, Failure> {
    match id.parse::<ContainerId>() {
        Ok(_) => Ok(id.to_owned()),
        Err(error) => Err(failure(Code::InvalidArgument, error)),
    }
}

fn unpack_options(any: &Any) -> Result<runc::Options, Failure> {
    let bad = |reason: String| failure(Code::InvalidArgument, format!("runtime options: {reason}"));
    if any.type_url.is_empty() {
        return Ok(runc::Options::default());
    }
    sampan_rpc::unpack(any)
        .map_err(|e| bad(e.to_string()))?
        .ok_or_else(|| bad(format!("unknown type `{}`", any.type_url)))
}
