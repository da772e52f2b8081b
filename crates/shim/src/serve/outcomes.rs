//! What it means that a runtime command has ended, or a process has exited: states, events, answers.

use std::path::Path;

use sampan_rpc::events;
use sampan_rpc::task as wire;
use sampan_rpc::ttrpc::{Code, Failure};
use sampan_rpc::types::Mount;

use super::jobs::{Work, delete_response};
use super::{Exit, ProcessId, Reply, Server, failure};
use crate::cgroup::Cgroups;
use crate::state::State;

impl Server {
    pub(super) fn created(
        &mut self,
        id: ProcessId,
        outcome: Result<(), Failure>,
        rootfs: Vec<Mount>,
        reply: Option<Reply>,
    ) -> Result<(), Failure> {
        let container_id = self.process_mut(id)?.container.clone();
        let bundle = self.container(&container_id)?.bundle.clone();
        let result = outcome.and_then(|()| {
            let pid = read_pid(&bundle.join("init.pid"))?;
            self.pid_is_known(id, pid)
        });
        let pid = match result {
            Ok(pid) => pid,
            Err(failure) => {
                self.forget_container(&container_id);
                return Err(failure);
            }
        };
        let container = self.container_mut(&container_id)?;
        container.cgroups = Cgroups::of(pid);
        // Without a memory controller there is nothing to watch, and nothing to say about it.
        container.oom = container.cgroups.watch_oom().ok();
        let process = self.process_mut(id)?;
        process.state = State::Created;
        let wanted = process.wanted.clone();
        let event = events::TaskCreate {
            container_id,
            bundle: bundle.to_string_lossy().into_owned(),
            rootfs,
            io: Some(events::TaskIo {
                stdin: wanted.stdin,
                stdout: wanted.stdout,
                stderr: wanted.stderr,
                terminal: wanted.terminal,
            }),
            checkpoint: String::new(),
            pid,
        };
        self.publisher.publish("/tasks/create", &event);
        if let Some(reply) = reply {
            self.answer(reply, &wire::CreateTaskResponse { pid });
        }
        Ok(())
    }

    pub(super) fn started(&mut self, id: ProcessId, reply: Option<Reply>) {
        let Some(process) = self.processes.get_mut(&id) else { return };
        process.state = State::Running;
        let (pid, container_id) = (process.pid, process.container.clone());
        self.publisher.publish("/tasks/start", &events::TaskStart { container_id, pid });
        if let Some(reply) = reply {
            self.answer(reply, &wire::StartResponse { pid });
        }
    }

    pub(super) fn exec_started(
        &mut self,
        id: ProcessId,
        outcome: Result<(), Failure>,
        log: &Path,
        reply: Option<Reply>,
    ) -> Result<(), Failure> {
        let known = outcome.and_then(|()| {
            let pid = read_pid(&log.with_extension("pid"))?;
            self.pid_is_known(id, pid)
        });
        let pid = match known {
            Ok(pid) => pid,
            Err(failure) => {
                self.exec_failed(id);
                return Err(failure);
            }
        };
        let process = self.process_mut(id)?;
        process.state = State::Running;
        let (container_id, exec_id) = (process.container.clone(), process.exec.clone().unwrap_or_default());
        self.publisher
            .publish("/tasks/exec-started", &events::TaskExecStarted { container_id, exec_id, pid });
        if let Some(reply) = reply {
            self.answer(reply, &wire::StartResponse { pid });
        }
        Ok(())
    }

    /// The command that starts a process has told its pid, and has sent its terminal if it has one.
    fn pid_is_known(&mut self, id: ProcessId, pid: u32) -> Result<u32, Failure> {
        let early = self.early_exits.remove(&pid);
        let process = self.process_mut(id)?;
        process.pid = pid;
        process.unannounced_exit = early;
        process.take_console();
        process.spec = Vec::new();
        if process.console.take().is_some() {
            return Err(failure(Code::Unknown, "the OCI runtime has sent no terminal"));
        }
        Ok(pid)
    }

    /// An exec that could not be started can be waited for and deleted like one that has exited.
    pub(super) fn exec_failed(&mut self, id: ProcessId) {
        let Some(process) = self.processes.get_mut(&id) else { return };
        process.state = State::Stopped;
        process.console = None;
        let exit = Exit { status: 255, at: std::time::SystemTime::now() };
        process.exit = Some(exit);
        process.stdio.process_exited(&mut [0u8; 4096]);
        for waiter in std::mem::take(&mut process.waiters) {
            self.answer(waiter, &exit.wait_response());
        }
    }

    pub(super) fn paused(&mut self, id: ProcessId, state: State, reply: Option<Reply>) {
        let Some(process) = self.processes.get_mut(&id) else { return };
        if process.exit.is_none() {
            process.state = state;
        }
        let container_id = process.container.clone();
        if state == State::Paused {
            self.publisher.publish("/tasks/paused", &events::TaskPaused { container_id });
        } else {
            self.publisher.publish("/tasks/resumed", &events::TaskResumed { container_id });
        }
        if let Some(reply) = reply {
            self.answer(reply, &());
        }
    }

    pub(super) fn deleted(
        &mut self,
        id: ProcessId,
        outcome: Result<(), Failure>,
        reply: Option<Reply>,
    ) -> Result<(), Failure> {
        match outcome {
            // What the runtime does not know needs no deleting.
            Err(failure) if failure.code != Code::NotFound => return Err(failure),
            _ => {}
        }
        let process = self.process_mut(id)?;
        let container_id = process.container.clone();
        // A container deleted before its start has been killed by the runtime, and will be reaped as unknown.
        let exit = process.exit.or(process.unannounced_exit);
        let response = delete_response(process.pid, exit);
        self.forget_container(&container_id);
        let event = events::TaskDelete {
            id: container_id.clone(),
            container_id,
            pid: response.pid,
            exit_status: response.exit_status,
            exited_at: response.exited_at,
        };
        self.publisher.publish("/tasks/delete", &event);
        if let Some(reply) = reply {
            self.answer(reply, &response);
        }
        Ok(())
    }

    /// Tells everybody that a process has exited, if it has and the command that starts it has ended.
    pub(super) fn announce_exit(&mut self, id: ProcessId, buffer: &mut [u8]) {
        let Some(process) = self.processes.get_mut(&id) else { return };
        if process.starting || process.exit.is_some() {
            return;
        }
        let Some(exit) = process.unannounced_exit.take() else { return };
        if process.exec.is_none() {
            // Who hears of the exit may ask whether memory was the reason.
            self.oom_ready(id);
        }
        let Some(process) = self.processes.get_mut(&id) else { return };
        process.exit = Some(exit);
        process.state = State::Stopped;
        // First the output, then the news: who waits for the exit finds the log complete.
        process.stdio.process_exited(buffer);
        let (container_id, pid) = (process.container.clone(), process.pid);
        let exec = process.exec.clone();
        let waiters = std::mem::take(&mut process.waiters);
        if exec.is_none()
            && self.containers.get(&container_id).is_some_and(|c| !c.own_pid_namespace)
            && let Err(failure) = self.begin_for_init(id, Work::KillRest, None)
        {
            crate::note(&format!("container {container_id}: cannot kill what is left of it: {failure}"));
        }
        let event = events::TaskExit {
            id: exec.unwrap_or_else(|| container_id.clone()),
            container_id,
            pid,
            exit_status: exit.status,
            exited_at: Some(exit.at.into()),
        };
        self.publisher.publish("/tasks/exit", &event);
        for waiter in waiters {
            self.answer(waiter, &exit.wait_response());
        }
    }
}

fn read_pid(path: &Path) -> Result<u32, Failure> {
    let text = std::fs::read_to_string(path).map_err(|e| {
        failure(Code::Unknown, format!("cannot read the runtime's `{}`: {e}", path.display()))
    })?;
    let number = text.trim().parse().ok().filter(|n| *n > 0);
    number.ok_or_else(|| failure(Code::Unknown, format!("the runtime wrote no pid to `{}`", path.display())))
}
