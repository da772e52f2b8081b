//! The task that owns a container: it alone changes the container's phase, in the order of what it is asked and what
//! happens. It lives as long as the daemon and the container do; the container outlives the daemon.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use sampan_base::Timestamp;
use tokio::sync::{mpsc, watch};

use crate::attach;
use crate::container::run::{self, Run, WaitingClient};
use crate::container::state::{Exit, Phase, Verb};
use crate::container::{Handle, Live, Request, View};
use crate::error::{EngineError, Result};
use crate::events::EventKind;
use crate::metadata::{ContainerRecord, Durable};
use crate::shim::{ProcessExit, ShimError};
use crate::{Inner, blocking, network, volumes};

/// How many requests may wait for a container's owner.
const REQUESTS: usize = 64;
/// The exit code of a process whose shim was lost: its end was not seen, so it was killed (128 + SIGKILL).
const LOST_EXIT_CODE: i32 = 137;

struct Owner {
    inner: Arc<Inner>,
    view: watch::Sender<View>,
    alive: watch::Sender<bool>,
    requests: mpsc::Receiver<Request>,
    run: Option<Run>,
    waiting: Vec<WaitingClient>,
}

/// Begins to own the container of `record`, which runs if there is a `run`.
pub(crate) fn spawn(inner: &Arc<Inner>, record: ContainerRecord, run: Option<Run>) -> Arc<Handle> {
    let id = record.id.clone();
    let live = run.as_ref().map(live_of);
    let (view_sender, view) =
        watch::channel(View { record, live, ended_runs: 0, starting: false, removed: false });
    let (alive_sender, alive) = watch::channel(run.is_some());
    let (sender, requests) = mpsc::channel(REQUESTS);
    let owner = Owner {
        inner: Arc::clone(inner),
        view: view_sender,
        alive: alive_sender,
        requests,
        run,
        waiting: Vec::new(),
    };
    tokio::spawn(owner.own());
    Arc::new(Handle { id, requests: sender, view, alive })
}

fn live_of(run: &Run) -> Live {
    Live { task: run.task.clone(), endpoints: run.endpoints.clone() }
}

impl Owner {
    async fn own(mut self) {
        loop {
            let next = match &mut self.run {
                Some(run) => tokio::select! {
                    // An end that has happened comes before what is asked.
                    biased;
                    exit = run.ended() => self.on_exit(exit).await,
                    request = self.requests.recv() => self.on_request(request).await,
                },
                None => {
                    let request = self.requests.recv().await;
                    self.on_request(request).await
                }
            };
            if next.is_break() {
                return;
            }
        }
    }

    fn record(&self) -> ContainerRecord {
        self.view.borrow().record.clone()
    }

    fn allows(&self, verb: Verb) -> Result<()> {
        let view = self.view.borrow();
        Ok(view.record.phase.allows(verb, &view.record.id)?)
    }

    async fn on_request(&mut self, request: Option<Request>) -> ControlFlow<()> {
        // Whoever asked may have gone: an answer that nobody takes is no error anywhere below.
        match request {
            None => return ControlFlow::Break(()),
            Some(Request::Start { console, reply }) => {
                self.view.send_modify(|view| view.starting = true);
                let result = self.start(console).await;
                self.view.send_modify(|view| view.starting = false);
                let denied = matches!(result, Err(EngineError::Denied(_)));
                let failed = result.is_err() && !denied;
                // Gone before the answer, so that whoever waits for its removal need not wait on.
                let gone = failed && self.record().spec.auto_remove && self.remove(true).await.is_ok();
                let _ = reply.send(result);
                if gone {
                    return ControlFlow::Break(());
                }
            }
            Some(Request::Pause { reply }) => drop(reply.send(self.pause().await)),
            Some(Request::Resume { reply }) => drop(reply.send(self.resume().await)),
            Some(Request::Rename { name, reply }) => {
                let mut record = self.record();
                let old = std::mem::replace(&mut record.name, name);
                let stored = self.store(record, Durable::Yes).await;
                self.note_name();
                if stored.is_ok() {
                    self.event("rename", [("oldName", format!("/{old}"))]);
                }
                let _ = reply.send(stored);
            }
            Some(Request::Networks { change, reply }) => drop(reply.send(self.change_networks(change).await)),
            Some(Request::Attach { streams, reply }) => match (&self.run, &self.view.borrow().record.phase) {
                (Some(_), _) => {
                    let bundle = self.inner.config.bundle(&self.view.borrow().record.id);
                    tokio::spawn(async move { reply.send(attach::connect(&bundle, None, streams).await) });
                }
                (None, Phase::Created { .. } | Phase::Exited(_)) => self.waiting.push((streams, reply)),
                (None, _) => {}
            },
            Some(Request::Remove { force, volumes, reply }) => {
                let result = self.remove_by_request(force, volumes).await;
                let removed = result.is_ok();
                let _ = reply.send(result);
                if removed {
                    return ControlFlow::Break(());
                }
            }
        }
        ControlFlow::Continue(())
    }

    async fn start(&mut self, console: Option<(u32, u32)>) -> Result<()> {
        self.allows(Verb::Start)?;
        let mut record = self.record();
        network::normalise(&self.inner, &mut record.spec);
        match run::start(&self.inner, &record, console, &mut self.waiting).await {
            Ok(run) => {
                record.phase = Phase::Running { pid: run.pid, started_at: run.started_at };
                let live = live_of(&run);
                self.run = Some(run);
                // Only noted: if this is lost, the next daemon learns from the shim that it runs.
                self.store(record, Durable::No).await?;
                self.view.send_modify(|view| view.live = Some(live));
                self.alive.send_replace(true);
                self.event("start", []);
                Ok(())
            }
            Err(error) => {
                // Clients that were waiting see the end of their stream.
                self.waiting.clear();
                record.phase = match record.phase {
                    Phase::Exited(mut exit) => {
                        let failure = run::failure(&error);
                        exit.code = failure.exit_code;
                        exit.error = failure.message;
                        Phase::Exited(exit)
                    }
                    _ => Phase::Created { error: Some(run::failure(&error)) },
                };
                self.store(record, Durable::Yes).await?;
                self.view.send_modify(|view| view.ended_runs += 1);
                Err(error)
            }
        }
    }

    async fn on_exit(&mut self, exit: std::result::Result<ProcessExit, ShimError>) -> ControlFlow<()> {
        let Some(run) = self.run.take() else { return ControlFlow::Continue(()) };
        let mut record = self.record();
        let oom_killed = self.inner.host.oom_killed(&crate::bundle::cgroups_path(&record.spec, &record.id));
        let (code, finished_at, error) = match exit {
            Ok(exit) => (i32::try_from(exit.code).unwrap_or(255), exit.at, String::new()),
            Err(error) => {
                tracing::error!(
                    container = record.id,
                    error = sampan_base::chain(&error),
                    "the shim was lost"
                );
                let told =
                    "the container's shim ended before its process did; what was left of it was killed";
                (LOST_EXIT_CODE, Timestamp::now(), told.to_owned())
            }
        };
        record.phase =
            Phase::Exited(Exit { code, oom_killed, started_at: run.started_at, finished_at, error });
        // On disk before the shim, which remembers it too, is told to forget it.
        if let Err(error) = self.store(record.clone(), durable_unless(record.spec.auto_remove)).await {
            tracing::error!(
                container = record.id,
                error = sampan_base::chain(&error),
                "cannot store the exit code"
            );
        }
        if oom_killed {
            self.event("oom", []);
        }
        self.event("die", [("exitCode", code.to_string())]);
        self.alive.send_replace(false);
        self.inner.execs.forget_container(&record.id);
        run::tear_down(&self.inner, &record.id, Some(&run.task)).await;
        self.view.send_modify(|view| {
            view.live = None;
            view.ended_runs += 1;
        });
        if record.spec.auto_remove && self.remove(true).await.is_ok() {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    /// Connects or disconnects it, and stores what has become of it.
    async fn change_networks(&mut self, change: network::Change) -> Result<()> {
        let live = self.run.as_ref().map(|run| run.endpoints.clone());
        let changed = network::change(&self.inner, self.record(), live, change).await?;
        self.note_endpoints(changed.endpoints);
        self.store(changed.record, Durable::Yes).await
    }

    fn note_endpoints(&mut self, endpoints: Vec<network::Endpoint>) {
        if let Some(run) = &mut self.run {
            run.endpoints.clone_from(&endpoints);
            self.view.send_modify(|view| {
                if let Some(live) = &mut view.live {
                    live.endpoints = endpoints;
                }
            });
        }
    }

    /// It has another name: so it has in its networks.
    fn note_name(&mut self) {
        let record = self.record();
        let Some(mut endpoints) = self.run.as_ref().map(|run| run.endpoints.clone()) else { return };
        network::renamed(&self.inner, &record, &mut endpoints);
        self.note_endpoints(endpoints);
    }

    async fn pause(&mut self) -> Result<()> {
        self.allows(Verb::Pause)?;
        let Some(run) = &self.run else { return Ok(()) };
        run.task.pause().await.map_err(run::shim_failed("cannot pause the container"))?;
        let mut record = self.record();
        record.phase = Phase::Paused { pid: run.pid, started_at: run.started_at };
        self.store(record, Durable::No).await?;
        self.event("pause", []);
        Ok(())
    }

    async fn resume(&mut self) -> Result<()> {
        self.allows(Verb::Resume)?;
        let Some(run) = &self.run else { return Ok(()) };
        run.task.resume().await.map_err(run::shim_failed("cannot resume the container"))?;
        let mut record = self.record();
        record.phase = Phase::Running { pid: run.pid, started_at: run.started_at };
        self.store(record, Durable::No).await?;
        self.event("unpause", []);
        Ok(())
    }

    async fn remove_by_request(&mut self, force: bool, volumes: bool) -> Result<()> {
        if !force {
            self.allows(Verb::Remove)?;
        }
        if let Some(run) = &mut self.run {
            publish(&self.inner, &self.view.borrow().record, "kill", [("signal", "9".to_owned())]);
            // Frozen processes die only when thawed (cgroup v1).
            if matches!(self.view.borrow().record.phase, Phase::Paused { .. }) {
                run.task.resume().await.map_err(run::shim_failed("cannot thaw the container to kill it"))?;
            }
            match run.task.kill(None, 9, false).await {
                Err(error) if !error.is_not_found() => {
                    return Err(run::shim_failed("cannot kill the container")(error));
                }
                _ => {}
            }
            let exit = run.ended().await;
            if self.on_exit(exit).await.is_break() {
                return Ok(());
            }
        }
        self.remove(volumes).await
    }

    /// Forgets the container: first the record, so that a crash leaves only things without an owner, which the next
    /// daemon removes.
    async fn remove(&mut self, with_volumes: bool) -> Result<()> {
        let record = self.record();
        let inner = Arc::clone(&self.inner);
        let id = record.id.clone();
        blocking({
            let (inner, record) = (Arc::clone(&inner), record.clone());
            move || -> Result<()> {
                volumes::keep_anonymous(&inner, &record.id, !with_volumes)?;
                inner.metadata.remove_container(&record.id)?;
                inner.forget_on_disk(&record.id);
                if with_volumes {
                    volumes::remove_anonymous(&inner, &record.id, &record.spec);
                }
                Ok(())
            }
        })
        .await?;
        inner.containers().remove(&id);
        self.event("destroy", []);
        self.view.send_modify(|view| view.removed = true);
        Ok(())
    }

    async fn store(&self, record: ContainerRecord, durable: Durable) -> Result<()> {
        let inner = Arc::clone(&self.inner);
        let stored = record.clone();
        blocking(move || inner.metadata.put_container(&stored, durable)).await?;
        self.view.send_modify(|view| view.record = record);
        Ok(())
    }

    fn event<const N: usize>(&self, action: &str, more: [(&str, String); N]) {
        let record = self.record();
        publish(&self.inner, &record, action, more);
    }
}

/// An exit code is on disk before anybody is told, unless the record is about to go anyway.
fn durable_unless(auto_remove: bool) -> Durable {
    if auto_remove { Durable::No } else { Durable::Yes }
}

/// Tells of something that happened to a container, with the attributes that all its events have.
pub(crate) fn publish<const N: usize>(
    inner: &Inner,
    record: &ContainerRecord,
    action: impl Into<String>,
    more: [(&str, String); N],
) {
    let mut attributes: BTreeMap<String, String> = record.spec.labels.clone();
    attributes.insert("image".to_owned(), record.spec.image.clone());
    attributes.insert("name".to_owned(), record.name.clone());
    attributes.extend(more.into_iter().map(|(k, v)| (k.to_owned(), v)));
    inner.events.publish(EventKind::Container, action, &record.id, attributes);
}
