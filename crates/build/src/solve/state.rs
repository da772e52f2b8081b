//! The state of a stage between two steps, and how steps are cached.

use sampan_base::digest::Hasher;
use sampan_base::{ChainId, DiffId, Digest, Timestamp};
use sampan_image::{Cached, Image, InitLayer, Layer, Scratch};
use sampan_oci::image::{History, ImageConfig};
use serde::{Deserialize, Serialize};

use super::{BuildEvent, Builder, Result};
use crate::config;
use crate::error::BuildError;

/// The state of a stage between two steps.
#[derive(Clone)]
pub(super) struct State {
    pub(super) image: ImageConfig,
    pub(super) layers: Vec<Layer>,
    /// Declared in this stage, the last one of a name counts.
    pub(super) args: Vec<(String, Option<String>)>,
    /// Whether `CMD` was given in this stage.
    pub(super) cmd_set: bool,
    /// Names everything that led here.
    pub(super) key: Digest,
    /// The image that it started from, while nothing was changed.
    pub(super) untouched: Option<Image>,
}

impl State {
    pub(super) fn chain(&self) -> Option<&ChainId> {
        self.layers.last().map(|l| &l.chain_id)
    }

    pub(super) fn arg(&self, name: &str) -> Option<&String> {
        self.args.iter().rev().find(|(n, _)| n == name).and_then(|(_, value)| value.as_ref())
    }

    pub(super) fn lookup(&self) -> impl Fn(&str) -> Option<String> + '_ {
        |name| config::env(&self.image.config, name).map(str::to_owned).or_else(|| self.arg(name).cloned())
    }
}

/// What the cache keeps of a step.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Outcome {
    pub(super) created: Timestamp,
    pub(super) layer: Option<DiffId>,
}

impl Builder<'_> {
    /// A step that changed the configuration only: into the history, with the time it was first done.
    pub(super) fn metadata_step(&mut self, state: &mut State, text: &str) -> Result<()> {
        let created_by = format!("{} #(nop)  {text}", config::shell(&state.image.config).join(" "));
        let key = key_of(&["metadata", state.key.as_str(), &created_by]);
        let created = match self.recall(&key)? {
            Some(outcome) => outcome.created,
            None => {
                let created = Timestamp::now();
                self.remember(&key, state.chain(), &Outcome { created, layer: None });
                created
            }
        };
        record(state, created, created_by, None);
        Ok(())
    }

    /// What the cache has for a key, and tells so.
    pub(super) fn recall(&mut self, key: &Digest) -> Result<Option<Outcome>> {
        if self.options.no_cache {
            return Ok(None);
        }
        let found = self.store.cached(key.hex(), &self.lease)?;
        // A value of another version of this program is none.
        let outcome: Option<Outcome> = found.and_then(|c| serde_json::from_str(&c.value).ok());
        if outcome.is_some() {
            self.cached += 1;
            (self.events)(BuildEvent::Cached { step: self.step });
        }
        Ok(outcome)
    }

    pub(super) fn remember(&self, key: &Digest, chain: Option<&ChainId>, outcome: &Outcome) {
        // An outcome always becomes JSON; if not, the step is just not cached.
        if let Ok(value) = serde_json::to_string(outcome) {
            self.store.remember(key.hex(), Cached { chain: chain.cloned(), value });
        }
    }

    /// A step that makes files, from the cache; `false` if that does not have it.
    pub(super) fn take_cached(&mut self, state: &mut State, key: &Digest, created_by: &str) -> Result<bool> {
        let Some(outcome) = self.recall(key)? else { return Ok(false) };
        let layer = match outcome.layer {
            None => None,
            Some(diff_id) => match self.store.known_layer(&diff_id, state.chain(), &self.lease) {
                Ok(layer) => Some(layer),
                // Its content is gone: the step is done anew.
                Err(_) => return Ok(false),
            },
        };
        record(state, outcome.created, created_by.to_owned(), layer);
        Ok(true)
    }

    pub(super) fn scratch(&self, state: &State, init: &InitLayer, line: usize) -> Result<Scratch> {
        self.store
            .scratch(state.chain(), init, &self.lease)
            .map_err(|source| BuildError::Snapshot { at: self.at(line), source: Box::new(source) })
    }

    /// Makes what a step changed a layer, and remembers it.
    pub(super) fn freeze(
        &mut self,
        state: &mut State,
        scratch: Scratch,
        key: &Digest,
        by: String,
        line: usize,
    ) -> Result<()> {
        let layer = scratch
            .freeze(&self.lease)
            .map_err(|source| BuildError::Snapshot { at: self.at(line), source: Box::new(source) })?;
        let created = Timestamp::now();
        let outcome = Outcome { created, layer: layer.as_ref().map(|l| l.diff_id.clone()) };
        let chain = layer.as_ref().map(|l| &l.chain_id).or(state.chain());
        self.remember(key, chain, &outcome);
        record(state, created, by, layer);
        Ok(())
    }
}

/// Puts a step into the history, with its layer.
pub(super) fn record(state: &mut State, created: Timestamp, created_by: String, layer: Option<Layer>) {
    state.key = key_of(&[
        "state",
        state.key.as_str(),
        &created_by,
        layer.as_ref().map_or("", |l| l.chain_id.0.as_str()),
    ]);
    state.untouched = None;
    state.image.created = Some(created);
    state.image.history.push(History {
        created: Some(created),
        created_by,
        author: state.image.author.clone(),
        comment: String::new(),
        empty_layer: layer.is_none(),
    });
    state.layers.extend(layer);
}

/// A key of parts that can't run into each other.
pub(super) fn key_of(parts: &[&str]) -> Digest {
    let mut hasher = Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finish()
}

pub(super) fn chain_text(state: &State) -> &str {
    state.chain().map_or("scratch", |c| c.0.as_str())
}
