//! A container in the engine: one owner task each, which alone changes it; all others read its [`View`] and send it
//! requests.
//!
//! * [`state`]: the phases of its life and what is allowed in each.
//! * `owner`: the task.
//! * `run`: from a created container to a running process, and back.
//! * `files`: the texts of its hosts, hostname and resolv.conf.
//! * `restart`: whether and when it starts again by itself. [`health`]: whether it is well.
//! * [`stats`]: what it uses. [`update`]: new limits for it.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use crate::attach::Streams;
use crate::error::{EngineError, Result};
use crate::metadata::ContainerRecord;
use crate::network::Endpoint;
use crate::shim::Task;

pub(crate) mod files;
pub mod health;
pub(crate) mod owner;
pub(crate) mod restart;
pub(crate) mod run;
pub mod state;
pub mod stats;
pub(crate) mod tear_down;
pub mod update;

/// What everybody may know of a container.
#[derive(Clone, Debug)]
pub struct View {
    /// What is stored of it.
    pub record: ContainerRecord,
    /// What there is while it runs.
    pub live: Option<Live>,
    /// How many of its runs have ended since the daemon started.
    pub ended_runs: u64,
    /// It is being started: whoever needs it running waits for how that ends.
    pub starting: bool,
    /// It is gone.
    pub removed: bool,
}

/// What there is of a container while it runs.
#[derive(Clone, Debug)]
pub struct Live {
    /// Its shim.
    pub(crate) task: Task,
    /// Its places in networks, in the order of its interfaces.
    pub endpoints: Vec<Endpoint>,
}

/// A container, as the rest of the engine holds it.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    pub(crate) id: String,
    pub(crate) requests: mpsc::Sender<Request>,
    pub(crate) view: watch::Receiver<View>,
    /// Whether a process of it exists; a log's follower waits on it.
    pub(crate) alive: watch::Receiver<bool>,
}

pub(crate) type Reply<T = ()> = oneshot::Sender<Result<T>>;

/// What a container's owner is asked to do.
#[derive(Debug)]
pub(crate) enum Request {
    /// Start it.
    Start { console: Option<(u32, u32)>, reply: Reply },
    /// Start it if it waits for its restart: the daemon has just started.
    Revive { reply: Reply },
    /// It is about to be ended by hand: its restart policy is to leave it alone. Answers whether there is a process
    /// to end; if it only waited for its restart, it does so no more.
    Ending { for_good: bool, reply: Reply<bool> },
    /// Give it other limits or another restart policy.
    Update { update: Box<update::Update>, reply: Reply },
    /// Take the result of a probe by this monitor.
    Probed { generation: u64, ran: std::time::Duration, result: health::ProbeResult },
    /// Freeze it.
    Pause { reply: Reply },
    /// Thaw it.
    Resume { reply: Reply },
    /// Change its name; the registry has agreed.
    Rename { name: String, reply: Reply },
    /// Remove it, with its anonymous volumes if asked.
    Remove { force: bool, volumes: bool, reply: Reply },
    /// Change the networks that it is in.
    Networks { change: crate::network::Change, reply: Reply },
    /// Connect a client to its first process, when it starts if it does not run.
    Attach { streams: Streams, reply: oneshot::Sender<std::io::Result<tokio::net::UnixStream>> },
}

impl Handle {
    pub(crate) fn snapshot(&self) -> View {
        self.view.borrow().clone()
    }

    /// Sends a request and waits for its answer.
    pub(crate) async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let gone = || EngineError::Gone { what: format!("container {}", self.id) };
        self.requests.send(request(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// The container's view if `verb` is allowed. A start that goes on is waited for: the process may have said
    /// something, and so be known to run, before its start is noted.
    pub(crate) async fn settled(&self, verb: state::Verb) -> Result<View> {
        // If its owner has gone, the last view stands.
        let _ = self.view.clone().wait_for(|view| !view.starting).await;
        let view = self.snapshot();
        view.record.phase.allows(verb, &self.id)?;
        Ok(view)
    }

    /// As [`Handle::settled`], for a container that runs: with its shim.
    pub(crate) async fn live(&self, verb: state::Verb) -> Result<(View, Live)> {
        let view = self.settled(verb).await?;
        match view.live.clone() {
            Some(live) => Ok((view, live)),
            None => Err(state::Denial::NotRunning { id: self.id.clone() }.into()),
        }
    }
}

/// The engine's containers by id and by name.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    by_id: std::collections::BTreeMap<String, Arc<Handle>>,
    id_by_name: std::collections::BTreeMap<String, String>,
}

impl Registry {
    /// Takes `name` for container `id` before it exists, so that two creations can't both get it.
    pub(crate) fn claim(&mut self, name: &str, id: &str) -> Result<()> {
        match self.id_by_name.get(name) {
            Some(owner) if owner != id => {
                Err(EngineError::NameInUse { name: name.to_owned(), owner: owner.clone() })
            }
            _ => {
                self.id_by_name.insert(name.to_owned(), id.to_owned());
                Ok(())
            }
        }
    }

    pub(crate) fn release(&mut self, name: &str, id: &str) {
        if self.id_by_name.get(name).is_some_and(|owner| owner == id) {
            self.id_by_name.remove(name);
        }
    }

    pub(crate) fn insert(&mut self, handle: Arc<Handle>) {
        self.by_id.insert(handle.id.clone(), handle);
    }

    pub(crate) fn remove(&mut self, id: &str) {
        self.by_id.remove(id);
        self.id_by_name.retain(|_, owner| owner != id);
    }

    pub(crate) fn all(&self) -> Vec<Arc<Handle>> {
        self.by_id.values().cloned().collect()
    }

    /// Finds a container by id, name (with or without a leading `/`) or unique beginning of the id, in this order.
    pub(crate) fn find(&self, text: &str) -> Result<Arc<Handle>> {
        let name = text.strip_prefix('/').unwrap_or(text);
        if let Some(handle) = self.by_id.get(text) {
            return Ok(Arc::clone(handle));
        }
        // A name may be claimed for a container that does not exist yet.
        if let Some(handle) = self.id_by_name.get(name).and_then(|id| self.by_id.get(id)) {
            return Ok(Arc::clone(handle));
        }
        let mut matching =
            self.by_id.range(text.to_owned()..).map(|(_, h)| h).take_while(|h| h.id.starts_with(text));
        match (matching.next(), matching.next()) {
            (Some(only), None) if !text.is_empty() => Ok(Arc::clone(only)),
            (Some(_), Some(_)) if !text.is_empty() => Err(EngineError::Ambiguous { prefix: text.to_owned() }),
            _ => Err(EngineError::NoSuchContainer { name: text.to_owned() }),
        }
    }
}
