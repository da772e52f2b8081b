//! What steps led to: looked up by key, remembered, and made only once at a time.

use std::sync::atomic::Ordering;

use sampan_base::digest::Hasher;
use sampan_base::{DiffId, Digest, Timestamp, Turn};
use sampan_image::{Cached, Layer};
use serde::{Deserialize, Serialize};

use super::exchange::Made;
use super::state::State;
use super::{BuildEvent, Result, Solve, StepId, lock};

/// What the cache keeps of a step.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Outcome {
    pub(super) created: Timestamp,
    pub(super) layer: Option<DiffId>,
}

/// Whether a step is to be made.
pub(super) enum Recalled<'a> {
    /// It was made before: its outcome, and its layer if it has one.
    Known(Outcome, Option<Layer>),
    /// It is to be made by whoever asked.
    Unknown(Turn<'a, Digest>),
}

impl<'a> Solve<'a> {
    /// What a step that makes files led to before, if its layer is still there; else the right to make it. `fresh`: only
    /// what this very build made counts.
    pub(super) fn recall_layer(
        &self,
        step: StepId,
        key: &Digest,
        state: &State,
        fresh: bool,
        text: &str,
    ) -> Result<Recalled<'a>> {
        let claim = self.solver.in_flight.take(key.clone());
        let Some(outcome) = self.recall(key, fresh)? else { return Ok(Recalled::Unknown(claim)) };
        let layer = match &outcome.layer {
            None => None,
            Some(diff_id) => match self.store.known_layer(diff_id, state.chain(), &self.lease) {
                Ok(layer) => Some(layer),
                // Its content is gone: the step is done anew.
                Err(_) => return Ok(Recalled::Unknown(claim)),
            },
        };
        self.note(key, &outcome, state, text);
        self.tell_cached(step);
        Ok(Recalled::Known(outcome, layer))
    }

    /// When a step that changes only the configuration was first done: now, if nobody knows better.
    pub(super) fn recall_time(
        &self,
        step: Option<StepId>,
        key: &Digest,
        state: &State,
        fresh: bool,
    ) -> Result<Timestamp> {
        if let Some(outcome) = self.recall(key, fresh)? {
            self.note(key, &outcome, state, "");
            if let Some(step) = step {
                self.tell_cached(step);
            }
            return Ok(self.epoch.map_or(outcome.created, |_| self.now()));
        }
        let created = self.now();
        self.remember(key, state, &Outcome { created, layer: None }, None, "");
        Ok(created)
    }

    fn recall(&self, key: &Digest, fresh: bool) -> Result<Option<Outcome>> {
        if let Some(made) = lock(&self.made).get(key) {
            return Ok(Some(made.outcome.clone()));
        }
        if fresh {
            return Ok(None);
        }
        let found = self.store.cached(key.hex(), &self.lease)?;
        // A value of another version of this program is none.
        let outcome: Option<Outcome> = found.and_then(|c| serde_json::from_str(&c.value).ok());
        Ok(outcome.or_else(|| self.recall_imported(key)))
    }

    /// It counts for this build, and for those who are told of it.
    fn note(&self, key: &Digest, outcome: &Outcome, state: &State, text: &str) {
        let below = state.layers.iter().map(|layer| layer.diff_id.clone()).collect();
        let made = Made { outcome: outcome.clone(), below, text: shortened(text) };
        lock(&self.made).insert(key.clone(), made);
    }

    fn tell_cached(&self, step: StepId) {
        self.cached.fetch_add(1, Ordering::Relaxed);
        (self.events)(BuildEvent::Cached { step });
    }

    /// `state` is the one before the step, `layer` what it added, `text` the instruction.
    pub(super) fn remember(
        &self,
        key: &Digest,
        state: &State,
        outcome: &Outcome,
        layer: Option<&Layer>,
        text: &str,
    ) {
        self.note(key, outcome, state, text);
        // An outcome always becomes JSON; if not, the step is just not cached.
        if let Ok(value) = serde_json::to_string(outcome) {
            let chain = layer.map(|l| &l.chain_id).or(state.chain()).cloned();
            let size = layer.map_or(0, |l| l.size);
            self.store.remember(key.hex(), Cached { chain, value, text: shortened(text), size });
        }
    }

    /// The time of what is made now.
    pub(super) fn now(&self) -> Timestamp {
        let set = self.epoch.and_then(|seconds| Timestamp::from_unix(seconds, 0).ok());
        set.unwrap_or_else(Timestamp::now)
    }
}

/// How much of an instruction `builder df` shows.
const MAX_TEXT_CHARACTERS: usize = 200;

fn shortened(text: &str) -> String {
    text.chars().take(MAX_TEXT_CHARACTERS).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_key_do_not_run_into_each_other() {
        assert_ne!(key_of(&["ab", "c"]), key_of(&["a", "bc"]));
    }
}
