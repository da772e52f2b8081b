//! The task that owns a container: it alone changes the container's phase, in the order of what it is asked and what
//! happens. It lives as long as the daemon and the container do; the container outlives the daemon.

mod ending;
mod probes;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use sampan_base::Class;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

pub(crate) use probes::is_probed;

use crate::attach;
use crate::container::health::{Health, Monitor};
use crate::container::restart::{self, Backoff};
use crate::container::run::{self, Run, WaitingClient};
use crate::container::state::{Denial, Exit, Phase, Verb};
use crate::container::tear_down::retry_soon;
use crate::container::update::Update;
use crate::container::{Handle, Live, Request, View};
use crate::error::{EngineError, Result};
use crate::events::EventKind;
use crate::metadata::{ContainerRecord, Durable};
use crate::{Inner, blocking, network, volumes};

/// How many requests may wait for a container's owner.
const REQUESTS: usize = 64;

struct Owner {
    inner: Arc<Inner>,
    view: watch::Sender<View>,
    alive: watch::Sender<bool>,
    requests: mpsc::Receiver<Request>,
    /// For what reports to the owner; weak, since who holds a strong one keeps the owner alive.
    own_requests: mpsc::WeakSender<Request>,
    run: Option<Run>,
    waiting: Vec<WaitingClient>,
    backoff: Backoff,
    /// When its restart policy starts it again.
    restart_at: Option<Instant>,
    /// It is to stay ended, whatever its restart policy says.
    ending: bool,
    /// Probes it while it runs and is not frozen.
    monitor: Option<Monitor>,
    /// Tells results of earlier monitors from the current one's.
    generation: u64,
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
        own_requests: sender.downgrade(),
        backoff: Backoff::default(),
        restart_at: None,
        ending: false,
        monitor: None,
        generation: 0,
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
        self.begin_monitor();
        loop {
            let next = match &mut self.run {
                Some(run) => tokio::select! {
                    // An end that has happened comes before what is asked.
                    biased;
                    exit = run.ended() => self.on_exit(exit).await,
                    request = self.requests.recv() => self.on_request(request).await,
                },
                None => tokio::select! {
                    // Whoever stops it in the last moment is heard.
                    biased;
                    request = self.requests.recv() => self.on_request(request).await,
                    () = at(self.restart_at) => {
                        self.restart().await;
                        ControlFlow::Continue(())
                    }
                },
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
            Some(Request::Revive { reply }) => {
                if matches!(self.view.borrow().record.phase, Phase::Restarting(_)) {
                    self.restart().await;
                }
                let _ = reply.send(Ok(()));
            }
            Some(Request::Ending { for_good, reply }) => {
                drop(reply.send(self.prepare_ending(for_good).await))
            }
            Some(Request::Update { update, reply }) => drop(reply.send(self.update(*update).await)),
            Some(Request::Probed { generation, ran, result }) => {
                self.take_probe(generation, ran, result).await
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
                (None, Phase::Created { .. } | Phase::Exited(_) | Phase::Restarting(_)) => {
                    self.waiting.push((streams, reply))
                }
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

    /// Starts it by hand.
    async fn start(&mut self, console: Option<(u32, u32)>) -> Result<()> {
        self.allows(Verb::Start)?;
        if let Some(why) = &self.view.borrow().record.unreadable {
            return Err(EngineError::layer(Class::Internal, "the container's record on disk can't be read")(
                why.clone(),
            ));
        }
        self.backoff = Backoff::default();
        self.ending = false;
        let mut record = self.record();
        record.restart_count = 0;
        record.stopped_by_hand = false;
        self.run(record, console).await
    }

    /// Starts it because its restart policy says so.
    async fn restart(&mut self) {
        self.restart_at = None;
        let record = self.record();
        self.view.send_modify(|view| view.starting = true);
        let result = self.run(record, None).await;
        self.view.send_modify(|view| view.starting = false);
        let Err(error) = result else { return };
        let mut record = self.record();
        tracing::error!(
            container = record.id,
            error = sampan_base::chain(&error),
            "cannot restart the container"
        );
        // A container that it shares namespaces with may be restarting, too: that one comes first.
        if let (EngineError::Denied(Denial::NotRunning { .. }), Phase::Exited(exit)) = (&error, &record.phase)
            && restart::is_wanted(record.spec.restart_policy, exit.code, record.restart_count, false)
        {
            let exit = exit.clone();
            self.restart_later(&mut record, exit, Duration::ZERO);
            if let Err(error) = self.store(record, Durable::No).await {
                tracing::warn!(error = sampan_base::chain(&error), "cannot note that it is to be restarted");
            }
        }
    }

    /// Notes in `record` that it is to be started again after the pause that is due when it ran for `ran`.
    fn restart_later(&mut self, record: &mut ContainerRecord, exit: Exit, ran: Duration) {
        record.phase = Phase::Restarting(exit);
        record.restart_count += 1;
        self.restart_at = Some(Instant::now() + self.backoff.next(ran));
    }

    async fn run(&mut self, mut record: ContainerRecord, console: Option<(u32, u32)>) -> Result<()> {
        network::normalise(&self.inner, &mut record.spec);
        match run::start(&self.inner, &record, console, &mut self.waiting).await {
            Ok(run) => {
                record.phase = Phase::Running { pid: run.pid, started_at: run.started.at };
                if is_probed(&record) {
                    record.health = Some(Health::begin(record.health));
                }
                let live = live_of(&run);
                self.run = Some(run);
                retry_soon(&self.inner);
                crate::spare::refill_later(&self.inner);
                // Only noted: if this is lost, the next daemon learns from the shim that it runs.
                self.store(record, Durable::No).await?;
                self.view.send_modify(|view| view.live = Some(live));
                self.alive.send_replace(true);
                self.begin_monitor();
                let record = self.record();
                volumes::publish_use(&self.inner, &record.id, &record.spec, true);
                self.event("start", []);
                Ok(())
            }
            Err(error) => {
                // Clients that were waiting see the end of their stream.
                self.waiting.clear();
                record.phase = match record.phase {
                    Phase::Exited(mut exit) | Phase::Restarting(mut exit) => {
                        let failure = run::failure(&error);
                        exit.code = failure.exit_code;
                        exit.error = failure.message;
                        Phase::Exited(exit)
                    }
                    _ => Phase::Created { error: Some(run::failure(&error)) },
                };
                // It may have run, and been killed with its shim: then its policy decides, as it does later.
                if let (EngineError::ShimLost { made: true, .. }, Phase::Exited(exit)) =
                    (&error, &record.phase)
                    && restart::is_due(&record, exit.code)
                {
                    let exit = exit.clone();
                    self.restart_later(&mut record, exit, Duration::ZERO);
                }
                self.store(record, Durable::Yes).await?;
                self.view.send_modify(|view| view.ended_runs += 1);
                Err(error)
            }
        }
    }

    async fn update(&mut self, update: Update) -> Result<()> {
        let mut record = self.record();
        let limits_change = update.apply(&mut record.spec)?;
        if let (true, Some(run)) = (limits_change, &self.run) {
            let devices = crate::devices::block_devices(&record.spec.resources)?;
            let resources = crate::bundle::resources(&record.spec.resources, Vec::new(), &devices);
            run.task
                .update(&resources)
                .await
                .map_err(run::shim_failed("cannot change the container's limits"))?;
        }
        self.store(record, Durable::Yes).await?;
        self.event("update", []);
        Ok(())
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
        record.phase = Phase::Paused { pid: run.pid, started_at: run.started.at };
        self.end_monitor(&mut record);
        self.store(record, Durable::No).await?;
        self.event("pause", []);
        Ok(())
    }

    async fn resume(&mut self) -> Result<()> {
        self.allows(Verb::Resume)?;
        let Some(run) = &self.run else { return Ok(()) };
        run.task.resume().await.map_err(run::shim_failed("cannot resume the container"))?;
        let mut record = self.record();
        record.phase = Phase::Running { pid: run.pid, started_at: run.started.at };
        if is_probed(&record) {
            record.health = Some(Health::begin(record.health));
        }
        self.store(record, Durable::No).await?;
        self.begin_monitor();
        self.event("unpause", []);
        Ok(())
    }

    async fn remove_by_request(&mut self, force: bool, volumes: bool) -> Result<()> {
        if !force {
            self.allows(Verb::Remove)?;
        }
        self.ending = true;
        self.restart_at = None;
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
        blocking(move || -> Result<()> {
            volumes::keep_anonymous(&inner, &record.id, !with_volumes)?;
            inner.metadata.remove_container(&record.id, Durable::Yes)?;
            inner.forget_on_disk(&record.id, &record.spec);
            if with_volumes {
                volumes::remove_anonymous(&inner, &record.id, &record.spec);
            }
            Ok(())
        })
        .await?;
        self.unlist();
        self.view.send_modify(|view| view.removed = true);
        Ok(())
    }

    /// Nobody finds it any more.
    fn unlist(&self) {
        self.inner.containers().remove(&self.view.borrow().record.id);
        self.event("destroy", []);
    }

    async fn store(&self, record: ContainerRecord, durable: Durable) -> Result<()> {
        let inner = Arc::clone(&self.inner);
        let stored = record.clone();
        blocking(move || inner.metadata.put_container(&stored, durable)).await?;
        self.view.send_modify(|view| view.record = record);
        Ok(())
    }

    fn event<const N: usize>(&self, action: impl Into<String>, more: [(&str, String); N]) {
        let record = self.record();
        publish(&self.inner, &record, action, more);
    }
}

/// Until that time; for ever if there is none.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
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
