//! Further processes in a running container.
//!
//! An exec is made (a record in memory), then started once; its shim runs it, serves its streams and keeps its exit code.
//! While it runs, `<bundle>/exec-<id>.json` says what it is, so that the next daemon can look after it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use sampan_base::Class;
use sampan_oci::runtime::{ConsoleSize, Process, User};
use sampan_rpc::task as api;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use tokio::sync::watch;

use crate::attach::{self, Streams};
use crate::container::owner::publish;
use crate::container::run;
use crate::container::state::Verb;
use crate::error::{EngineError, Result};
use crate::metadata::ContainerRecord;
use crate::shim::Task;
use crate::{Engine, Inner, blocking, user, userns};

/// What an exec is to run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ExecSpec {
    /// Command and arguments.
    pub args: Vec<String>,
    /// Further environment.
    pub env: Vec<String>,
    /// Absolute; `None`: the container's.
    pub working_dir: Option<String>,
    /// `user[:group]`; `None`: the container's.
    pub user: Option<String>,
    /// With a terminal.
    pub tty: bool,
    /// With all privileges.
    pub privileged: bool,
    /// Standard input is wanted.
    pub stdin: bool,
    /// Standard output is wanted.
    pub stdout: bool,
    /// Standard error is wanted.
    pub stderr: bool,
    /// The keys that leave the stream; only shown again.
    pub detach_keys: String,
}

/// What is kept of a running exec for the next daemon.
#[derive(Serialize, Deserialize, Debug)]
struct Kept {
    id: String,
    spec: ExecSpec,
}

/// Where an exec is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExecPhase {
    /// Made, not started.
    Created,
    /// Being started.
    Starting,
    /// It runs.
    Running {
        /// Its process id on the host.
        pid: u32,
    },
    /// It has ended.
    Exited {
        /// Its exit code.
        code: i32,
        /// Its process id was.
        pid: u32,
    },
}

/// What everybody may know of an exec.
#[derive(Clone, Debug)]
pub struct ExecView {
    /// 64 hex digits.
    pub id: String,
    /// Its container.
    pub container: String,
    /// What it runs.
    pub spec: ExecSpec,
    /// Where it is.
    pub phase: ExecPhase,
}

/// The engine's execs. One that has ended is kept until its container stops, for clients that ask for its exit code.
#[derive(Debug, Default)]
pub(crate) struct Execs {
    by_id: Mutex<HashMap<String, watch::Sender<ExecView>>>,
}

/// How many execs of one container are kept after their end; the oldest are forgotten.
const KEPT: usize = 1000;

impl Execs {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, watch::Sender<ExecView>>> {
        self.by_id.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn get(&self, id: &str) -> Result<watch::Receiver<ExecView>> {
        let found = self.lock().get(id).map(watch::Sender::subscribe);
        found.ok_or_else(|| EngineError::NoSuchExec { id: id.to_owned() })
    }

    fn set(&self, id: &str, phase: ExecPhase) {
        if let Some(exec) = self.lock().get(id) {
            exec.send_modify(|view| view.phase = phase);
        }
    }

    fn insert(&self, view: ExecView) {
        let mut execs = self.lock();
        let ended: Vec<String> = execs
            .values()
            .map(|e| e.borrow())
            .filter(|e| e.container == view.container && matches!(e.phase, ExecPhase::Exited { .. }))
            .map(|e| e.id.clone())
            .collect();
        if ended.len() >= KEPT {
            execs.remove(&ended[0]);
        }
        execs.insert(view.id.clone(), watch::Sender::new(view));
    }

    /// The execs of a container that run.
    pub(crate) fn running(&self, container: &str) -> Vec<String> {
        let execs = self.lock();
        let views = execs.values().map(|e| e.borrow());
        views
            .filter(|e| e.container == container && matches!(e.phase, ExecPhase::Running { .. }))
            .map(|e| e.id.clone())
            .collect()
    }

    /// When a container stops, its execs end with it: those that ran were killed.
    pub(crate) fn forget_container(&self, container: &str) {
        for exec in self.lock().values() {
            exec.send_if_modified(|view| match view.phase {
                ExecPhase::Running { pid } if view.container == container => {
                    view.phase = ExecPhase::Exited { code: 137, pid };
                    true
                }
                _ => false,
            });
        }
    }

    /// When a container goes, so do its execs.
    pub(crate) fn remove_container(&self, container: &str) {
        self.lock().retain(|_, exec| exec.borrow().container != container);
    }
}

impl Engine {
    /// Makes an exec in a running container; answers its id.
    ///
    /// # Errors
    /// If the container does not run or there is nothing to run.
    pub async fn exec_create(&self, container: &str, spec: ExecSpec) -> Result<String> {
        let handle = self.inner.find_container(container)?;
        let (view, _) = handle.live(Verb::Exec).await?;
        if spec.args.is_empty() {
            return Err(EngineError::Invalid("No exec command specified".to_owned()));
        }
        let id = sampan_base::id::random_id().map_err(EngineError::io("cannot make an id"))?;
        let action = format!("exec_create: {}", spec.args.join(" "));
        publish(&self.inner, &view.record, action, [("execID", id.clone())]);
        let container = handle.id.clone();
        self.inner.execs.insert(ExecView { id: id.clone(), container, spec, phase: ExecPhase::Created });
        Ok(id)
    }

    /// An exec's state.
    ///
    /// # Errors
    /// If there is none of this id.
    pub fn exec_inspect(&self, id: &str) -> Result<ExecView> {
        Ok(self.inner.execs.get(id)?.borrow().clone())
    }

    /// Whether an exec may be started now, as far as its container is concerned.
    ///
    /// # Errors
    /// If there is no such exec or container, or it does not run.
    pub async fn exec_may_start(&self, id: &str) -> Result<()> {
        let view = self.exec_inspect(id)?;
        self.inner.find_container(&view.container)?.live(Verb::Exec).await.map(drop)
    }

    /// Starts an exec; answers its streams if any are wanted and `detach` is not.
    ///
    /// # Errors
    /// If it was started before, or the runtime can't start it (its exit code is then 126 or 127).
    pub async fn exec_start(
        &self,
        id: &str,
        detach: bool,
        console: Option<(u32, u32)>,
    ) -> Result<Option<UnixStream>> {
        let view = self.exec_inspect(id)?;
        let handle = self.inner.find_container(&view.container)?;
        let (container, live) = handle.live(Verb::Exec).await?;
        self.exec_start_in(id, &container.record, &live.task, detach, console).await
    }

    /// As [`Engine::exec_start`], in a container that is known to run.
    pub(crate) async fn exec_start_in(
        &self,
        id: &str,
        container: &ContainerRecord,
        task: &Task,
        detach: bool,
        console: Option<(u32, u32)>,
    ) -> Result<Option<UnixStream>> {
        // On its own: whoever asked may go meanwhile (a client, a probe's time limit), but what the shim has begun to
        // start must be known, or nobody looks after it.
        let starting = {
            let (engine, id) = (self.clone(), id.to_owned());
            let (container, task) = (container.clone(), task.clone());
            tokio::spawn(async move { engine.start_exec(&id, &container, &task, detach, console).await })
        };
        starting.await.map_err(std::io::Error::other).map_err(EngineError::io("starting an exec panicked"))?
    }

    async fn start_exec(
        &self,
        id: &str,
        container: &ContainerRecord,
        task: &Task,
        detach: bool,
        console: Option<(u32, u32)>,
    ) -> Result<Option<UnixStream>> {
        let view = self.exec_inspect(id)?;
        self.take_for_start(id)?;
        let started = self.start_process(&view, task, detach, console).await;
        match started {
            Ok((pid, stream)) => {
                self.inner.execs.set(id, ExecPhase::Running { pid });
                let action = format!("exec_start: {}", view.spec.args.join(" "));
                publish(&self.inner, container, action, [("execID", id.to_owned())]);
                let (inner, task, id) = (Arc::clone(&self.inner), task.clone(), id.to_owned());
                let container = container.clone();
                tokio::spawn(async move { look_after(&inner, &task, &container, &id, pid).await });
                Ok(stream)
            }
            Err(error) => {
                // Docker's code for an exec that could not be started, whatever the reason.
                let code = 126;
                self.inner.execs.set(id, ExecPhase::Exited { code, pid: 0 });
                // Gone with the bundle at the latest.
                let _ = std::fs::remove_file(kept_path(&self.inner, &container.id, id));
                Err(error)
            }
        }
    }

    /// Makes the exec of a health check's probe.
    pub(crate) fn probe_create(&self, record: &ContainerRecord, spec: ExecSpec) -> Result<String> {
        let id = sampan_base::id::random_id().map_err(EngineError::io("cannot make an id"))?;
        let action = format!("exec_create: {}", spec.args.join(" "));
        publish(&self.inner, record, action, [("execID", id.clone())]);
        let (exec, container) = (id.clone(), record.id.clone());
        self.inner.execs.insert(ExecView { id: exec, container, spec, phase: ExecPhase::Created });
        Ok(id)
    }

    /// Looks after the execs again that an earlier daemon left running in a container.
    pub(crate) async fn restore_execs(&self, container: &ContainerRecord, task: &Task) {
        let bundle = self.inner.config.bundle(&container.id);
        let kept = blocking(move || kept_in(&bundle)).await;
        for Kept { id, spec } in kept {
            let Ok(state) = task.state_of(Some(&id)).await else { continue };
            let (phase, container_id) = (ExecPhase::Running { pid: state.pid }, container.id.clone());
            self.inner.execs.insert(ExecView { id: id.clone(), container: container_id, spec, phase });
            let (inner, task, container) = (Arc::clone(&self.inner), task.clone(), container.clone());
            tokio::spawn(async move { look_after(&inner, &task, &container, &id, state.pid).await });
        }
    }

    /// Forgets an exec that nobody can ask about; kills it if it runs.
    pub(crate) async fn exec_discard(&self, id: &str, task: &Task) {
        if let Ok(mut exec) = self.inner.execs.get(id) {
            // One that is being started is killed when it is.
            let _ = exec.wait_for(|view| view.phase != ExecPhase::Starting).await;
        }
        if let Ok(ExecPhase::Running { pid }) = self.exec_inspect(id).map(|view| view.phase) {
            // It leads a process group (the runtime makes it a session's leader), so what it started goes with it.
            if let Some(group) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
                // It may have ended meanwhile.
                let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            }
            if let Err(error) = task.kill(Some(id), 9, false).await
                && !error.is_not_found()
            {
                tracing::warn!(
                    exec = id,
                    error = sampan_base::chain(&error),
                    "cannot kill a health check's probe"
                );
            }
            // Its end is known when its shim has told it; if the shim is lost, so is the container.
            let _ = self.exec_wait(id).await;
        }
        self.inner.execs.lock().remove(id);
    }

    /// Two requests may race to start the same exec; one gets it.
    fn take_for_start(&self, id: &str) -> Result<()> {
        let execs = self.inner.execs.lock();
        let exec = execs.get(id).ok_or_else(|| EngineError::NoSuchExec { id: id.to_owned() })?;
        let mut taken = false;
        exec.send_if_modified(|view| {
            taken = view.phase == ExecPhase::Created;
            if taken {
                view.phase = ExecPhase::Starting;
            }
            taken
        });
        if taken {
            Ok(())
        } else {
            Err(EngineError::Conflict(format!("Error: Exec command {id} has already run")))
        }
    }

    async fn start_process(
        &self,
        view: &ExecView,
        task: &Task,
        detach: bool,
        console: Option<(u32, u32)>,
    ) -> Result<(u32, Option<UnixStream>)> {
        let bundle = self.inner.config.bundle(&view.container);
        let process = {
            let (inner, view) = (Arc::clone(&self.inner), view.clone());
            blocking(move || {
                let process = process(&inner, &view, console)?;
                keep(&inner, &view)?;
                Ok::<_, EngineError>(process)
            })
            .await?
        };
        let spec = serde_json::to_vec(&process)
            .map_err(EngineError::layer(Class::Internal, "cannot encode the process"))?;
        let wanted = &view.spec;
        let request = api::ExecProcessRequest {
            id: view.container.clone(),
            exec_id: view.id.clone(),
            terminal: wanted.tty,
            stdin: if wanted.stdin && !detach { "attach:".to_owned() } else { String::new() },
            stdout: format!("attach://{}", bundle.display()),
            stderr: String::new(),
            spec: Some(sampan_rpc::Any {
                type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".to_owned(),
                value: spec,
            }),
        };
        task.exec(request).await.map_err(run::shim_failed("cannot prepare the process"))?;
        let stream = if detach {
            None
        } else {
            let streams = Streams {
                stdin: wanted.stdin,
                stdout: wanted.stdout,
                stderr: wanted.stderr,
                stdin_once: true,
            };
            let connected = attach::connect(&bundle, Some(&view.id), streams).await;
            Some(connected.map_err(EngineError::io("cannot attach to the process"))?)
        };
        match task.start(Some(&view.id)).await {
            Ok(pid) => Ok((pid, stream)),
            Err(error) => {
                // A process that did not start leaves its record in the shim; if even that is gone, all is well.
                let _ = task.delete(Some(&view.id)).await;
                Err(match error {
                    crate::shim::ShimError::Remote(failure) => run::command_error(&failure.message),
                    other => run::shim_failed("cannot start the process")(other),
                })
            }
        }
    }

    /// Waits until an exec has ended; answers its exit code.
    ///
    /// # Errors
    /// If there is none of this id, or its container went away.
    pub async fn exec_wait(&self, id: &str) -> Result<i32> {
        let mut exec = self.inner.execs.get(id)?;
        let ended = exec.wait_for(|view| matches!(view.phase, ExecPhase::Exited { .. })).await;
        match ended.map(|view| view.phase.clone()) {
            Ok(ExecPhase::Exited { code, .. }) => Ok(code),
            _ => Err(EngineError::Gone { what: format!("exec {id}") }),
        }
    }

    /// Sets the size of an exec's terminal.
    ///
    /// # Errors
    /// If it does not run.
    pub async fn exec_resize(&self, id: &str, rows: u32, columns: u32) -> Result<()> {
        let view = self.exec_inspect(id)?;
        let (_, live) = self.inner.find_container(&view.container)?.live(Verb::Resize).await?;
        let resized = live.task.resize(Some(id), rows, columns).await;
        resized.map_err(run::shim_failed("cannot resize the terminal"))
    }
}

/// Keeps the exit code of an exec when it ends, and lets its shim forget it.
async fn look_after(inner: &Inner, task: &Task, container: &ContainerRecord, id: &str, pid: u32) {
    // If the shim is lost, so is the container: its owner ends all its execs.
    let Ok(exit) = task.wait(Some(id)).await else { return };
    let code = i32::try_from(exit.code).unwrap_or(255);
    inner.execs.set(id, ExecPhase::Exited { code, pid });
    // Gone with the bundle at the latest.
    let _ = std::fs::remove_file(kept_path(inner, &container.id, id));
    publish(inner, container, "exec_die", [("execID", id.to_owned()), ("exitCode", code.to_string())]);
    if let Err(error) = task.delete(Some(id)).await
        && !error.is_not_found()
    {
        tracing::warn!(exec = id, error = sampan_base::chain(&error), "cannot delete an exec that has ended");
    }
}

fn kept_path(inner: &Inner, container: &str, id: &str) -> std::path::PathBuf {
    inner.config.bundle(container).join(format!("exec-{id}.json"))
}

fn keep(inner: &Inner, view: &ExecView) -> Result<()> {
    let kept = Kept { id: view.id.clone(), spec: view.spec.clone() };
    let bytes =
        serde_json::to_vec(&kept).map_err(EngineError::layer(Class::Internal, "cannot encode the exec"))?;
    let path = kept_path(inner, &view.container, &view.id);
    sampan_base::files::write_atomic_volatile(&path, &bytes, 0o600).map_err(EngineError::file)
}

/// What is kept in a bundle; what can't be read is left alone, and goes with the bundle.
fn kept_in(bundle: &std::path::Path) -> Vec<Kept> {
    let Ok(entries) = std::fs::read_dir(bundle) else { return Vec::new() };
    let paths = entries.flatten().map(|entry| entry.path()).filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("exec-") && name.ends_with(".json")
    });
    paths
        .filter_map(|path| {
            let bytes = sampan_base::files::read_limited(&path, 16 << 20).ok()?;
            serde_json::from_slice(&bytes).ok()
        })
        .collect()
}

/// The process for the runtime: as the container's own, with what the exec changes.
fn process(inner: &Inner, view: &ExecView, console: Option<(u32, u32)>) -> Result<Process> {
    let config = inner.config.bundle(&view.container).join("config.json");
    let bytes = sampan_base::files::read_limited(&config, 16 << 20).map_err(EngineError::file)?;
    let own: sampan_oci::runtime::Spec = serde_json::from_slice(&bytes)
        .map_err(EngineError::layer(Class::Internal, format!("cannot read `{}`", config.display())))?;
    let mut process = own.process.unwrap_or_default();
    let spec = &view.spec;
    process.args = spec.args.clone();
    process.terminal = spec.tty;
    process.console_size = console.map(|(height, width)| ConsoleSize { height, width });
    if spec.tty && !process.env.iter().any(|e| e.starts_with("TERM=")) {
        process.env.push("TERM=xterm".to_owned());
    }
    for entry in &spec.env {
        let name = entry.split('=').next().unwrap_or(entry);
        process.env.retain(|e| e.split('=').next() != Some(name));
        if entry.contains('=') {
            process.env.push(entry.clone());
        }
    }
    if let Some(directory) = &spec.working_dir {
        process.cwd.clone_from(directory);
    }
    if let Some(wanted) = &spec.user {
        let rootfs = inner.config.bundle(&view.container).join("rootfs");
        let user = user::resolve(&rootfs, wanted, &[])?;
        let container = inner.find_container(&view.container)?;
        userns::check_user(container.view.borrow().record.mapping.as_ref(), &user)?;
        process.user = User { uid: user.uid, gid: user.gid, additional_gids: user.groups, ..User::default() };
        if let Some(capabilities) = &mut process.capabilities {
            let effective = if user.uid == 0 { capabilities.bounding.clone() } else { Vec::new() };
            capabilities.permitted.clone_from(&effective);
            capabilities.effective = effective;
        }
        process.env.retain(|e| !e.starts_with("HOME="));
        process.env.push(format!("HOME={}", user.home));
    }
    if spec.privileged
        && let Some(capabilities) = &mut process.capabilities
    {
        let all = inner.host.capabilities.clone();
        (capabilities.bounding, capabilities.permitted, capabilities.effective) =
            (all.clone(), all.clone(), all);
    }
    Ok(process)
}
