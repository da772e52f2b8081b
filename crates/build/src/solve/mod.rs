//! Solving a build: stage by stage, step by step, each from the cache if it can be.
//!
//! A step that makes files has a key made of all that it depends on: the layers below it, what it runs or the digest
//! of what it copies, its environment. A hit gives the layer that the same inputs gave before. A step that only
//! changes the configuration is always done anew; what is cached of it is when it was first done, so that an
//! unchanged build gives the same image.
//!
//! Whatever fails, nothing half-made is left: file systems of steps vanish with their [`Scratch`], layers of steps
//! before stay only as long as the cache remembers them.

mod copy_step;
mod run_step;
mod state;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::time::{Duration, Instant};

use sampan_base::{ChainId, Digest, ImageRef};
use sampan_image::{Image, Lease, Scratch, Store};
use sampan_oci::image::ImageConfig;

use crate::change::{self, Words};
use crate::context::{Context, Entry};
use crate::dockerfile::{Dockerfile, Instruction, Located, Problem, Stage, expand, parse_instruction};
use crate::error::{At, BuildError};
use crate::run::{Cancel, NetworkMode, StepRunner, Stream};
use crate::{config, graph};
use run_step::PROXY_ARGS;
use state::State;

/// What to build besides the context.
#[derive(Clone, Debug)]
pub struct BuildOptions {
    /// The Dockerfile's path in the context.
    pub dockerfile: String,
    /// Names for the image.
    pub names: Vec<ImageRef>,
    /// The stage to build, by name or number; `None`: the last.
    pub target: Option<String>,
    /// Values for `ARG`s.
    pub build_args: BTreeMap<String, String>,
    /// Labels to add.
    pub labels: BTreeMap<String, String>,
    /// Do every step anew.
    pub no_cache: bool,
    /// The network of `RUN`, where the Dockerfile does not say.
    pub network: NetworkMode,
    /// Lines `address name` for the `/etc/hosts` of `RUN`.
    pub extra_hosts: Vec<String>,
    /// To give up.
    pub cancel: Cancel,
}

impl Default for BuildOptions {
    fn default() -> Self {
        BuildOptions {
            dockerfile: "Dockerfile".to_owned(),
            names: Vec::new(),
            target: None,
            build_args: BTreeMap::new(),
            labels: BTreeMap::new(),
            no_cache: false,
            network: NetworkMode::Default,
            extra_hosts: Vec::new(),
            cancel: Cancel::default(),
        }
    }
}

/// What was built.
#[derive(Clone, PartialEq, Debug)]
pub struct BuildResult {
    /// The image.
    pub image: Image,
    /// How many steps there were.
    pub steps: usize,
    /// How many of them came from the cache.
    pub cached: usize,
}

/// What happens in a build, as it happens.
#[derive(Clone, PartialEq, Debug)]
pub enum BuildEvent<'a> {
    /// A step starts.
    StepStarted {
        /// Its number, from 1.
        step: usize,
        /// How many there are.
        total: usize,
        /// Its line in the Dockerfile.
        line: usize,
        /// The instruction as written.
        text: &'a str,
    },
    /// The step comes from the cache.
    Cached {
        /// Its number.
        step: usize,
    },
    /// The step's command wrote something.
    Output {
        /// Its number.
        step: usize,
        /// Where to.
        stream: Stream,
        /// What.
        bytes: &'a [u8],
    },
    /// The step is done.
    StepDone {
        /// Its number.
        step: usize,
        /// How long it took.
        took: Duration,
        /// Bytes of the files of the layer that it made, if it made one.
        layer: Option<u64>,
        /// Names what the image is after this step: equal steps have equal ones.
        state: &'a Digest,
    },
    /// Something that may not be meant.
    Warning {
        /// What.
        text: &'a str,
    },
    /// The image is there.
    Built {
        /// It.
        image: &'a Image,
    },
}

/// Builds an image.
///
/// # Errors
/// If the Dockerfile can't be understood, a file or image is missing, a command fails, or the disk is full. Nothing is
/// left then but what the cache remembers of the steps before.
pub fn build(
    store: &Store,
    context: &Context,
    options: &BuildOptions,
    runner: &dyn StepRunner,
    events: &mut dyn FnMut(BuildEvent<'_>),
) -> Result<BuildResult> {
    let text = context.dockerfile(&options.dockerfile)?;
    let parsed = Dockerfile::parse(&text)
        .map_err(|source| BuildError::Parse { at: At::new(&options.dockerfile, source.line), source })?;
    let visible = context.visible(&options.dockerfile)?;
    let mut builder = Builder {
        store,
        lease: store.lease(),
        context,
        visible: &visible,
        options,
        runner,
        events,
        file: &parsed,
        stages: Vec::new(),
        globals: BTreeMap::new(),
        consumed: BTreeSet::new(),
        views: HashMap::new(),
        step: 0,
        total: 0,
        cached: 0,
    };
    builder.solve()
}

struct Builder<'a> {
    store: &'a Store,
    lease: Lease,
    context: &'a Context,
    visible: &'a BTreeMap<&'a Path, &'a Entry>,
    options: &'a BuildOptions,
    runner: &'a dyn StepRunner,
    events: &'a mut dyn FnMut(BuildEvent<'_>),
    file: &'a Dockerfile,
    /// What was built of the stages so far.
    stages: Vec<Option<State>>,
    /// The `ARG`s before the first `FROM`, and the platform's.
    globals: BTreeMap<String, Option<String>>,
    /// Build arguments that some `ARG` took.
    consumed: BTreeSet<String>,
    /// File systems that are copied from, mounted.
    views: HashMap<Option<ChainId>, Scratch>,
    step: usize,
    total: usize,
    cached: usize,
}

type Result<T> = std::result::Result<T, BuildError>;

impl<'a> Builder<'a> {
    fn solve(&mut self) -> Result<BuildResult> {
        self.set_globals()?;
        let bases = self.bases()?;
        let target = graph::target(self.file, self.options.target.as_deref())
            .ok_or_else(|| BuildError::NoTarget { name: self.options.target.clone().unwrap_or_default() })?;
        let needed = graph::needed(self.file, &bases, target);
        self.total = needed.iter().map(|i| 1 + self.file.stages[*i].instructions.len()).sum::<usize>()
            + usize::from(!self.options.labels.is_empty());
        self.stages = vec![None; self.file.stages.len()];
        for index in needed {
            let state = self.stage(index, &bases[index])?;
            self.stages[index] = Some(state);
        }
        // The target is always among those needed.
        let Some(mut state) = self.stages[target].take() else {
            return Err(BuildError::NoTarget { name: target.to_string() });
        };
        if !self.options.labels.is_empty() {
            self.add_labels(&mut state)?;
        }
        self.warn_of_unused();
        let image = self.finish(state)?;
        (self.events)(BuildEvent::Built { image: &image });
        Ok(BuildResult { image, steps: self.total, cached: self.cached })
    }

    fn at(&self, line: usize) -> At {
        At::new(&self.options.dockerfile, line)
    }

    fn set_globals(&mut self) -> Result<()> {
        let host = sampan_oci::image::Platform::host();
        for prefix in ["TARGET", "BUILD"] {
            let mut set =
                |name: &str, value: String| self.globals.insert(format!("{prefix}{name}"), Some(value));
            set("PLATFORM", format!("{}/{}", host.os, host.architecture));
            set("OS", host.os.clone());
            set("ARCH", host.architecture.clone());
            set("VARIANT", String::new());
        }
        for located in &self.file.args {
            let Instruction::Arg(args) = &located.instruction else { continue };
            for (name, default) in args {
                let given = self.options.build_args.get(name).cloned();
                let value = match (given, default) {
                    (Some(given), _) => Some(given),
                    (None, Some(default)) => {
                        let lookup = |name: &str| self.globals.get(name).cloned().flatten();
                        let expanded = expand::word(default, self.file.escape, &lookup);
                        Some(expanded.map_err(|e| self.wrong(located.line, e.into()))?)
                    }
                    // A platform argument that is only declared keeps its value.
                    (None, None) => self.globals.get(name).cloned().flatten(),
                };
                self.consumed.insert(name.clone());
                self.globals.insert(name.clone(), value);
            }
        }
        Ok(())
    }

    /// What each stage starts from, expanded.
    fn bases(&self) -> Result<Vec<String>> {
        let lookup = |name: &str| self.globals.get(name).cloned().flatten();
        let mut bases = Vec::new();
        for stage in &self.file.stages {
            let expand = |text: &str| {
                expand::word(text, self.file.escape, &lookup).map_err(|e| self.wrong(stage.line, e.into()))
            };
            let base = expand(&stage.base)?;
            if base.is_empty() {
                let (instruction, what) = ("FROM".to_owned(), "base name (it is empty when expanded)");
                return Err(
                    self.wrong(stage.line, Problem::Invalid { instruction, what, value: stage.base.clone() })
                );
            }
            if let Some(platform) = &stage.platform {
                let platform = expand(platform)?;
                let host = sampan_oci::image::Platform::host();
                let own =
                    [format!("{}/{}", host.os, host.architecture), host.architecture, host.os, String::new()];
                if !own.contains(&platform) {
                    let what = format!("FROM --platform={platform} on this machine");
                    return Err(self.wrong(stage.line, Problem::Unsupported { what }));
                }
            }
            bases.push(base);
        }
        Ok(bases)
    }

    fn wrong(&self, line: usize, source: Problem) -> BuildError {
        BuildError::Instruction { at: self.at(line), source }
    }

    fn stage(&mut self, index: usize, base: &str) -> Result<State> {
        let file = self.file;
        let stage = &file.stages[index];
        let started = self.start_step(stage.line, &stage.text)?;
        let mut state = self.base(index, stage, base)?;
        let triggers = std::mem::take(&mut state.image.config.on_build);
        config::start(&mut state.image);
        self.end_step(started, None, &state.key);
        for trigger in triggers {
            let instruction = parse_instruction(&trigger).map_err(|e| self.wrong(stage.line, e))?;
            let (line, end, comments) = (stage.line, stage.end, Vec::new());
            let located = Located { line, end, text: trigger, comments, instruction };
            self.total += 1;
            self.instruction(&mut state, &located, index)?;
        }
        for located in &stage.instructions {
            self.instruction(&mut state, located, index)?;
        }
        Ok(state)
    }

    fn base(&mut self, index: usize, stage: &Stage, base: &str) -> Result<State> {
        if let Some(earlier) = graph::stage_named(self.file, base, index) {
            // Built before, since this stage needs it.
            if let Some(state) = &self.stages[earlier] {
                return Ok(State { args: Vec::new(), cmd_set: false, ..state.clone() });
            }
        }
        if base == "scratch" {
            return Ok(State {
                image: ImageConfig::for_host(),
                layers: Vec::new(),
                args: Vec::new(),
                cmd_set: false,
                key: Digest::of(b"scratch"),
                untouched: None,
            });
        }
        let image = self
            .store
            .resolve(base)
            .map_err(|source| BuildError::Base { at: self.at(stage.line), source: Box::new(source) })?;
        self.store.hold(&image, &self.lease);
        Ok(State {
            image: image.config.clone(),
            layers: image.layers.clone(),
            args: Vec::new(),
            cmd_set: false,
            key: image.id.0.clone(),
            untouched: Some(image),
        })
    }

    fn start_step(&mut self, line: usize, text: &str) -> Result<Instant> {
        if self.options.cancel.is_set() {
            return Err(BuildError::Cancelled);
        }
        self.step += 1;
        (self.events)(BuildEvent::StepStarted { step: self.step, total: self.total, line, text });
        Ok(Instant::now())
    }

    fn end_step(&mut self, started: Instant, layer: Option<u64>, state: &Digest) {
        (self.events)(BuildEvent::StepDone { step: self.step, took: started.elapsed(), layer, state });
    }

    fn instruction(&mut self, state: &mut State, located: &Located, stage: usize) -> Result<()> {
        let started = self.start_step(located.line, &located.text)?;
        let line = located.line;
        let layers = state.layers.len();
        match &located.instruction {
            Instruction::Arg(args) => self.arg(state, line, args)?,
            Instruction::Workdir(path) => self.workdir(state, line, path)?,
            Instruction::Run(run) => self.run(state, line, run)?,
            Instruction::Copy(copy) => self.copy(state, line, copy, stage)?,
            other => {
                let before = state.clone();
                let lookup = before.lookup();
                let words = Words { escape: self.file.escape, lookup: &lookup };
                let text = change::apply(&mut state.image, other, &words, &mut state.cmd_set)
                    .map_err(|e| self.wrong(line, e))?;
                self.metadata_step(state, &text.unwrap_or_default())?;
            }
        }
        let layer = state.layers.get(layers).map(|l| l.size);
        self.end_step(started, layer, &state.key);
        Ok(())
    }

    fn arg(&mut self, state: &mut State, line: usize, args: &[(String, Option<String>)]) -> Result<()> {
        let mut shown = Vec::new();
        for (name, default) in args {
            let default = match default {
                Some(default) => {
                    let expanded = expand::word(default, self.file.escape, &state.lookup());
                    Some(expanded.map_err(|e| self.wrong(line, e.into()))?)
                }
                None => None,
            };
            self.consumed.insert(name.clone());
            let given = self.options.build_args.get(name).cloned();
            let inherited = || self.globals.get(name).cloned().flatten();
            shown.push(default.as_ref().map_or_else(|| name.clone(), |d| format!("{name}={d}")));
            state.args.push((name.clone(), given.or(default).or_else(inherited)));
        }
        self.metadata_step(state, &format!("ARG {}", shown.join(" ")))
    }

    fn add_labels(&mut self, state: &mut State) -> Result<()> {
        let pairs: Vec<(String, String)> =
            self.options.labels.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        let text = format!("LABEL {}", config::pairs(&pairs));
        let started = self.start_step(0, &text)?;
        state.image.config.labels.extend(pairs);
        self.metadata_step(state, &text)?;
        self.end_step(started, None, &state.key);
        Ok(())
    }

    fn warn_of_unused(&mut self) {
        let given = self.options.build_args.keys();
        let unused: Vec<&str> = given
            .filter(|name| !self.consumed.contains(*name) && !PROXY_ARGS.contains(&name.as_str()))
            .map(String::as_str)
            .collect();
        if !unused.is_empty() {
            let text = format!("[Warning] One or more build-args [{}] were not consumed", unused.join(" "));
            (self.events)(BuildEvent::Warning { text: &text });
        }
    }

    fn finish(&self, state: State) -> Result<Image> {
        if let Some(image) = state.untouched {
            // Nothing but FROM: it is the base image itself.
            for name in &self.options.names {
                self.store.tag(&image.id, name)?;
            }
            return Ok(self.store.image(&image.id)?);
        }
        Ok(self.store.create_image(state.image, &state.layers, &self.options.names)?)
    }
}
