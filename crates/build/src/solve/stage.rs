//! One stage: its steps one after another, each on what the one before left.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Instant;

use sampan_base::{Digest, Turn};
use sampan_image::{InitLayer, Layer, Scratch, SnapshotError};
use sampan_oci::image::ImageConfig;

use super::cache::{Outcome, Recalled, key_of};
use super::state::State;
use super::{BuildEvent, For, NamedContext, Place, Result, Solve, StepId, lock};
use crate::change::{self, Words};
use crate::dockerfile::{Instruction, Located, Stage, expand, parse_instruction};
use crate::error::BuildError;
use crate::{config, graph};

/// A stage that goes on, on a thread of its own.
pub(super) struct StageRun<'s, 'a> {
    pub(super) solve: &'s Solve<'a>,
    /// Its number among those that are built.
    pub(super) ordinal: usize,
    /// Its number in the Dockerfile.
    pub(super) index: usize,
    stage: &'a Stage,
    /// The step that is done: its line, name and number.
    pub(super) line: usize,
    pub(super) step: StepId,
    position: usize,
    /// How many steps there are.
    of: usize,
    /// Whether what earlier builds made does not count.
    pub(super) fresh: bool,
}

impl<'s, 'a> StageRun<'s, 'a> {
    pub(super) fn new(solve: &'s Solve<'a>, ordinal: usize, index: usize) -> StageRun<'s, 'a> {
        let stage = &solve.file.stages[index];
        let named = stage.name.as_ref().is_some_and(|name| solve.options.no_cache_stages.contains(name));
        StageRun {
            solve,
            ordinal,
            index,
            stage,
            line: stage.line,
            step: StepId(0),
            position: 0,
            of: 1 + stage.instructions.len(),
            fresh: named || solve.options.no_cache,
        }
    }

    pub(super) fn run(mut self) -> Result<State> {
        let (stage, line) = (self.stage, self.stage.line);
        let (mut state, triggers) = self.in_step(line, &stage.text, |run| {
            let mut state = run.base()?;
            let triggers = std::mem::take(&mut state.image.config.on_build);
            config::start(&mut state.image);
            let left = Left { layer: None, key: state.key.clone() };
            Ok(((state, triggers), left))
        })?;
        self.of += triggers.len();
        for trigger in triggers {
            let instruction = parse_instruction(&trigger).map_err(|e| self.solve.wrong(line, e))?;
            let (end, comments) = (stage.end, Vec::new());
            let located = Located { line, end, text: trigger, comments, instruction };
            self.instruction(&mut state, &located)?;
        }
        for located in &stage.instructions {
            self.instruction(&mut state, located)?;
        }
        Ok(state)
    }

    /// Does `work` as the next step, and tells of its beginning and end.
    fn in_step<T>(
        &mut self,
        line: usize,
        text: &str,
        work: impl FnOnce(&mut Self) -> Result<(T, Left)>,
    ) -> Result<T> {
        let solve = self.solve;
        if solve.options.cancel.is_set() {
            return Err(BuildError::Cancelled);
        }
        self.step = StepId(solve.steps.fetch_add(1, Ordering::Relaxed));
        self.position += 1;
        self.line = line;
        let name = self.stage.name.as_deref();
        let place = Place { stage: self.ordinal, name, position: self.position, of: self.of, line };
        (solve.events)(BuildEvent::StepStarted { step: self.step, place, text });
        let started = Instant::now();
        let done = work(self);
        let (step, took) = (self.step, started.elapsed());
        match done {
            Ok((done, left)) => {
                (solve.events)(BuildEvent::StepDone { step, took, layer: left.layer, state: &left.key });
                Ok(done)
            }
            Err(error) => {
                let given_up = matches!(error, BuildError::Cancelled);
                (solve.events)(BuildEvent::StepFailed { step, took, given_up });
                Err(error)
            }
        }
    }

    /// What the stage starts from: a named context, an earlier stage, nothing, or an image.
    fn base(&mut self) -> Result<State> {
        let solve = self.solve;
        let base = solve.bases[self.index].as_str();
        let named = solve.options.contexts.get(base);
        if let Some(NamedContext::Files(_)) = named {
            return self.base_of_files(base);
        }
        if named.is_none()
            && let Some(earlier) = graph::stage_named(solve.file, base, self.index)
        {
            let state = State::clone(&*solve.stage(earlier, self.ordinal)?);
            return Ok(State { cmd_set: false, ..state });
        }
        if base == "scratch" {
            return Ok(self.nothing());
        }
        let name = match named {
            Some(NamedContext::Image(name)) => name,
            _ => base,
        };
        let image = solve.image(name, &solve.platforms[self.index], self.line, self.step)?;
        Ok(State {
            image: image.config.clone(),
            base_layers: image.layers.len(),
            layers: image.layers.clone(),
            args: Vec::new(),
            env_last: BTreeSet::new(),
            cmd_set: false,
            key: image.id.0.clone(),
            untouched: Some(image),
        })
    }

    fn nothing(&self) -> State {
        let platform = &self.solve.platforms[self.index];
        let image = ImageConfig {
            architecture: platform.architecture.clone(),
            os: platform.os.clone(),
            variant: platform.variant.clone(),
            ..ImageConfig::for_host()
        };
        State {
            image,
            layers: Vec::new(),
            base_layers: 0,
            args: Vec::new(),
            env_last: BTreeSet::new(),
            cmd_set: false,
            key: Digest::of(b"scratch"),
            untouched: None,
        }
    }

    /// A named context of files as a base: an image of one layer with all of them.
    fn base_of_files(&mut self, name: &str) -> Result<State> {
        let mut state = self.nothing();
        let copy = crate::dockerfile::Copy {
            sources: vec![".".to_owned()],
            destination: "/".to_owned(),
            from: Some(name.to_owned()),
            ..crate::dockerfile::Copy::default()
        };
        self.copy(&mut state, &copy)?;
        state.base_layers = state.layers.len();
        Ok(state)
    }

    fn instruction(&mut self, state: &mut State, located: &Located) -> Result<()> {
        self.in_step(located.line, &located.text, |run| {
            let layers = state.layers.len();
            match &located.instruction {
                Instruction::Arg(args) => run.arg(state, args)?,
                Instruction::Workdir(path) => run.workdir(state, path)?,
                Instruction::Run(command) => run.command(state, command)?,
                Instruction::Copy(copy) => run.copy(state, copy)?,
                other => {
                    let before = state.clone();
                    let lookup = before.lookup();
                    let words = Words { escape: run.solve.file.escape, lookup: &lookup };
                    let text = change::apply(&mut state.image, other, &words, &mut state.cmd_set)
                        .map_err(|e| run.solve.wrong(run.line, e))?;
                    if let Instruction::Env(pairs) = other {
                        // They could be expanded just now.
                        state.env_last.extend(pairs.iter().filter_map(|(key, _)| words.one(key).ok()));
                    }
                    run.metadata(state, &text.unwrap_or_default())?;
                }
            }
            let layer = state.layers.get(layers).map(|l| l.size);
            Ok(((), Left { layer, key: state.key.clone() }))
        })
    }

    fn arg(&mut self, state: &mut State, args: &[(String, Option<String>)]) -> Result<()> {
        let solve = self.solve;
        let mut shown = Vec::new();
        for (name, default) in args {
            let default = match default {
                Some(default) => {
                    let expanded = expand::word(default, solve.file.escape, &state.lookup());
                    Some(expanded.map_err(|e| solve.wrong(self.line, e.into()))?)
                }
                None => None,
            };
            lock(&solve.consumed).insert(name.clone());
            let given = solve.options.build_args.get(name).cloned();
            let inherited = || solve.globals.get(name).cloned();
            shown.push(default.as_ref().map_or_else(|| name.clone(), |d| format!("{name}={d}")));
            state.declare(name, given.or(default).or_else(inherited));
        }
        self.metadata(state, &format!("ARG {}", shown.join(" ")))
    }

    /// A step that changed the configuration only: into the history, with the time it was first done.
    fn metadata(&mut self, state: &mut State, text: &str) -> Result<()> {
        let created_by = format!("{} #(nop)  {text}", config::shell(&state.image.config).join(" "));
        let key = key_of(&["metadata", state.key.as_str(), &created_by, &self.epoch_text()]);
        let created = self.solve.recall_time(Some(self.step), &key, state, self.fresh)?;
        state.record(created, created_by, None);
        Ok(())
    }

    /// A step that makes files, from the cache; the claim to make it if that does not have it. What it is named by
    /// besides the key's parts: the time that is forced upon it.
    pub(super) fn recall(
        &mut self,
        state: &mut State,
        parts: &[&str],
        created_by: &str,
    ) -> Result<Option<Turn<'a, Digest>>> {
        let epoch = self.epoch_text();
        let parts: Vec<&str> = parts.iter().copied().chain([epoch.as_str()]).collect();
        match self.solve.recall_layer(self.step, &key_of(&parts), state, self.fresh, created_by)? {
            Recalled::Known(outcome, layer) => {
                let created = self.solve.epoch.map_or(outcome.created, |_| self.solve.now());
                state.record(created, created_by.to_owned(), layer);
                Ok(None)
            }
            Recalled::Unknown(claim) => Ok(Some(claim)),
        }
    }

    fn epoch_text(&self) -> String {
        self.solve.epoch.map_or_else(String::new, |seconds| seconds.to_string())
    }

    /// A step's file system, for us to change or for a command.
    pub(super) fn scratch(&self, whom: For, state: &State, init: &InitLayer) -> Result<Scratch> {
        self.solve.scratch(whom, state.chain(), init).map_err(|e| self.snapshot_failed(e))
    }

    pub(super) fn snapshot_failed(&self, source: sampan_image::SnapshotError) -> BuildError {
        BuildError::Snapshot { at: self.solve.at(self.line), source: Box::new(source) }
    }

    /// Makes what a step changed a layer, and remembers it.
    pub(super) fn freeze(
        &mut self,
        state: &mut State,
        scratch: Scratch,
        claim: Turn<'_, Digest>,
        by: String,
    ) -> Result<()> {
        let solve = self.solve;
        let frozen = scratch.freeze(&solve.lease, solve.epoch);
        let layer = frozen.map_err(|e| self.snapshot_failed(e))?;
        self.finish(state, layer, claim, by)
    }

    /// As [`StageRun::freeze`], of files that were made on nothing: their layer is put on top of the others as it is.
    pub(super) fn freeze_linked(
        &mut self,
        state: &mut State,
        scratch: Scratch,
        claim: Turn<'_, Digest>,
        by: String,
    ) -> Result<()> {
        let solve = self.solve;
        let frozen = scratch.freeze(&solve.lease, solve.epoch);
        let layer = match (frozen.map_err(|e| self.snapshot_failed(e))?, state.chain()) {
            (Some(alone), Some(below)) => {
                let linked = solve.store.known_layer(&alone.diff_id, Some(below), &solve.lease);
                let failed =
                    |source| SnapshotError::Parent { chain: below.clone(), source: Box::new(source) };
                Some(linked.map_err(|e| self.snapshot_failed(failed(e)))?)
            }
            (layer, _) => layer,
        };
        self.finish(state, layer, claim, by)
    }

    fn finish(
        &mut self,
        state: &mut State,
        layer: Option<Layer>,
        claim: Turn<'_, Digest>,
        by: String,
    ) -> Result<()> {
        let solve = self.solve;
        let created = solve.now();
        let outcome = Outcome { created, layer: layer.as_ref().map(|l| l.diff_id.clone()) };
        solve.remember(claim.key(), state, &outcome, layer.as_ref(), &by);
        drop(claim);
        state.record(created, by, layer);
        Ok(())
    }
}

/// What a step leaves to tell: the size of its layer, and the state's key.
struct Left {
    layer: Option<u64>,
    key: Digest,
}
