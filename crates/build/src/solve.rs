//! Solving a build: stage by stage, step by step, each from the cache if it can be.
//!
//! A step that makes files has a key made of all that it depends on: the layers below it, what it runs or the digest
//! of what it copies, its environment. A hit gives the layer that the same inputs gave before. A step that only
//! changes the configuration is always done anew; what is cached of it is when it was first done, so that an
//! unchanged build gives the same image.
//!
//! Whatever fails, nothing half-made is left: file systems of steps vanish with their [`Scratch`], layers of steps
//! before stay only as long as the cache remembers them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sampan_base::digest::Hasher;
use sampan_base::{ChainId, DiffId, Digest, ImageRef, Timestamp};
use sampan_image::{Cached, Image, InitLayer, Layer, Lease, Scratch, Store};
use sampan_kernel::beneath::RootDir;
use sampan_oci::image::{History, ImageConfig};
use serde::{Deserialize, Serialize};

use crate::change::{self, Words};
use crate::config;
use crate::context::{Context, Entry};
use crate::copy::{self, Look};
use crate::dockerfile::{
    Command, Copy, Dockerfile, Heredoc, Instruction, Located, Problem, Stage, expand, parse_instruction,
};
use crate::error::{At, BuildError};
use crate::graph;
use crate::run::{Cancel, NetworkMode, RunStep, StepMount, StepRunner, Stream};
use crate::tree::Tree;
use crate::users;

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

/// The state of a stage between two steps.
#[derive(Clone)]
struct State {
    image: ImageConfig,
    layers: Vec<Layer>,
    /// Declared in this stage, the last one of a name counts.
    args: Vec<(String, Option<String>)>,
    /// Whether `CMD` was given in this stage.
    cmd_set: bool,
    /// Names everything that led here.
    key: Digest,
    /// The image that it started from, while nothing was changed.
    untouched: Option<Image>,
}

impl State {
    fn chain(&self) -> Option<&ChainId> {
        self.layers.last().map(|l| &l.chain_id)
    }

    fn arg(&self, name: &str) -> Option<&String> {
        self.args.iter().rev().find(|(n, _)| n == name).and_then(|(_, value)| value.as_ref())
    }

    fn lookup(&self) -> impl Fn(&str) -> Option<String> + '_ {
        |name| config::env(&self.image.config, name).map(str::to_owned).or_else(|| self.arg(name).cloned())
    }
}

/// What the cache keeps of a step.
#[derive(Clone, Serialize, Deserialize)]
struct Outcome {
    created: Timestamp,
    layer: Option<DiffId>,
}

/// Set for every command if given, and kept out of the history: they are about the builder, not the image.
const PROXY_ARGS: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

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
            let located = Located { line: stage.line, text: trigger, instruction };
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
            .map_err(|source| BuildError::Base { at: self.at(stage.line), source })?;
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
            Instruction::Run { command, heredocs, network } => {
                self.run(state, line, command, heredocs, network.as_deref())?;
            }
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

    /// A step that changed the configuration only: into the history, with the time it was first done.
    fn metadata_step(&mut self, state: &mut State, text: &str) -> Result<()> {
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
    fn recall(&mut self, key: &Digest) -> Result<Option<Outcome>> {
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

    fn remember(&self, key: &Digest, chain: Option<&ChainId>, outcome: &Outcome) {
        // An outcome always becomes JSON; if not, the step is just not cached.
        if let Ok(value) = serde_json::to_string(outcome) {
            self.store.remember(key.hex(), Cached { chain: chain.cloned(), value });
        }
    }

    /// A step that makes files, from the cache; `false` if that does not have it.
    fn from_cache(&mut self, state: &mut State, key: &Digest, created_by: &str) -> Result<bool> {
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

    fn scratch(&self, state: &State, init: &InitLayer, line: usize) -> Result<Scratch> {
        self.store
            .scratch(state.chain(), init, &self.lease)
            .map_err(|source| BuildError::Snapshot { at: self.at(line), source })
    }

    /// Makes what a step changed a layer, and remembers it.
    fn freeze(
        &mut self,
        state: &mut State,
        scratch: Scratch,
        key: &Digest,
        by: String,
        line: usize,
    ) -> Result<()> {
        let layer = scratch
            .freeze(&self.lease)
            .map_err(|source| BuildError::Snapshot { at: self.at(line), source })?;
        let created = Timestamp::now();
        let outcome = Outcome { created, layer: layer.as_ref().map(|l| l.diff_id.clone()) };
        let chain = layer.as_ref().map(|l| &l.chain_id).or(state.chain());
        self.remember(key, chain, &outcome);
        record(state, created, by, layer);
        Ok(())
    }

    fn workdir(&mut self, state: &mut State, line: usize, path: &str) -> Result<()> {
        let path =
            expand::word(path, self.file.escape, &state.lookup()).map_err(|e| self.wrong(line, e.into()))?;
        state.image.config.working_dir = config::join_workdir(&state.image.config, &path);
        let (directory, user) = (state.image.config.working_dir.clone(), state.image.config.user.clone());
        let by = format!("{} #(nop) WORKDIR {directory}", config::shell(&state.image.config).join(" "));
        let key = key_of(&["workdir", chain_text(state), &directory, &user]);
        if self.from_cache(state, &key, &by)? {
            return Ok(());
        }
        let scratch = self.scratch(state, &InitLayer::empty(), line)?;
        let failed = |source| BuildError::Workdir { at: self.at(line), source };
        let root = open_root(scratch.rootfs()).map_err(failed)?;
        let owner =
            users::ids(&root, &user).map_err(|source| BuildError::User { at: self.at(line), source })?;
        copy::make_directories(&root, directory.trim_start_matches('/').as_ref(), owner).map_err(failed)?;
        drop(root);
        self.freeze(state, scratch, &key, by, line)
    }

    fn run(
        &mut self,
        state: &mut State,
        line: usize,
        command: &Command,
        heredocs: &[Heredoc],
        network: Option<&str>,
    ) -> Result<()> {
        let (args, script) = run_arguments(state, command, heredocs);
        let mut passed: Vec<String> = Vec::new();
        for (name, _) in &state.args {
            let value = state.arg(name).filter(|_| config::env(&state.image.config, name).is_none());
            let text = value.map(|value| format!("{name}={value}")).filter(|t| !passed.contains(t));
            passed.extend(text.filter(|_| !PROXY_ARGS.contains(&name.as_str())));
        }
        passed.sort();
        let mut by = args.join(" ");
        if !passed.is_empty() {
            by = format!("|{} {} {by}", passed.len(), passed.join(" "));
        }
        let network = match network {
            Some("none") => NetworkMode::None,
            Some("host") => NetworkMode::Host,
            _ => self.options.network.clone(),
        };
        let mut env = state.image.config.env.clone();
        env.extend(passed);
        let config = &state.image.config;
        let cwd = if config.working_dir.is_empty() { "/".to_owned() } else { config.working_dir.clone() };
        let texts = [format!("{args:?}"), format!("{env:?}"), format!("{network:?}"), format!("{script:?}")];
        let mut parts = vec!["run", chain_text(state), &cwd, &config.user];
        parts.extend(texts.iter().map(String::as_str));
        let key = key_of(&parts);
        if self.from_cache(state, &key, &by)? {
            return Ok(());
        }
        // The proxies are no part of the key: the same image comes out behind another one.
        let proxies = PROXY_ARGS.iter().filter_map(|name| Some((name, self.options.build_args.get(*name)?)));
        env.extend(proxies.map(|(name, value)| format!("{name}={value}")));
        let scratch = self.scratch(state, &InitLayer::docker(), line)?;
        let mounts = match &script {
            Some(heredoc) => vec![self.script(&scratch, heredoc, &args[0], line)?],
            None => Vec::new(),
        };
        let step = RunStep {
            rootfs: scratch.rootfs(),
            args,
            env,
            cwd,
            user: state.image.config.user.clone(),
            mounts,
            network,
            extra_hosts: self.options.extra_hosts.clone(),
            cancel: self.options.cancel.clone(),
        };
        let (events, number) = (&mut *self.events, self.step);
        let ended = self.runner.run(&step, &mut |stream, bytes| {
            events(BuildEvent::Output { step: number, stream, bytes });
        });
        let command = step.args.join(" ");
        let ended = match ended {
            Err(_) if self.options.cancel.is_set() => return Err(BuildError::Cancelled),
            other => other.map_err(|source| BuildError::Runner {
                at: self.at(line),
                command: command.clone(),
                source,
            })?,
        };
        if ended.code != 0 {
            return Err(BuildError::Command { at: self.at(line), command, code: ended.code });
        }
        for mount in &step.mounts {
            // Only ours: the file of a here-document, beside the root file system.
            let _ = std::fs::remove_file(&mount.source);
        }
        self.freeze(state, scratch, &key, by, line)
    }

    /// Writes a here-document that is a program of its own beside the root file system.
    fn script(&self, scratch: &Scratch, heredoc: &Heredoc, target: &str, line: usize) -> Result<StepMount> {
        let source = scratch.rootfs().with_file_name("script");
        let written = std::fs::write(&source, &heredoc.content).and_then(|()| {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(&source, mode)
        });
        let failed = sampan_base::FileError::on("write", &source);
        written.map_err(failed).map_err(|e| BuildError::Snapshot { at: self.at(line), source: e.into() })?;
        Ok(StepMount { source, target: target.to_owned() })
    }

    fn copy(&mut self, state: &mut State, line: usize, copy: &Copy, stage: usize) -> Result<()> {
        let name = if copy.add { "ADD" } else { "COPY" };
        let (sources, destination, chown, chmod, inline) = {
            let lookup = state.lookup();
            let words = Words { escape: self.file.escape, lookup: &lookup };
            let wrong = |e: expand::WordError| self.wrong(line, e.into());
            let optional =
                |text: &Option<String>| text.as_deref().map(|t| words.one(t)).transpose().map_err(wrong);
            let sources =
                copy.sources.iter().map(|s| words.one(s)).collect::<std::result::Result<Vec<_>, _>>();
            let mut inline = Vec::new();
            for heredoc in &copy.heredocs {
                let text = if heredoc.expand {
                    expand::document(&heredoc.content, self.file.escape, &lookup).map_err(wrong)?
                } else {
                    heredoc.content.clone()
                };
                inline.push((heredoc.name.clone(), text));
            }
            let destination = words.one(&copy.destination).map_err(wrong)?;
            (sources.map_err(wrong)?, destination, optional(&copy.chown)?, optional(&copy.chmod)?, inline)
        };
        let invalid = |what, value: &str| {
            let value = value.to_owned();
            self.wrong(line, Problem::Invalid { instruction: name.to_owned(), what, value })
        };
        if let Some(url) = sources.iter().find(|s| copy.add && is_remote(s)) {
            return Err(self.wrong(line, Problem::Unsupported { what: format!("ADD of the remote `{url}`") }));
        }
        let mode = match &chmod {
            Some(text) => {
                let parsed = u32::from_str_radix(text, 8).ok().filter(|m| *m <= 0o7777);
                Some(parsed.ok_or_else(|| invalid("value of --chmod", text))?)
            }
            None => None,
        };
        let mut absolute = config::join_workdir(&state.image.config, &destination);
        if (destination.ends_with('/') || destination.ends_with("/.") || destination == ".")
            && absolute != "/"
        {
            absolute.push('/');
        }
        let at = self.at(line);
        let failed = |source| BuildError::Copy { at: at.clone(), instruction: name, source };
        let from = match &copy.from {
            Some(from) => Some(self.from(from, stage, line)?),
            None => None,
        };
        let tree = match &from {
            Some(chain) => {
                let rootfs = self.view(chain.as_ref(), line)?;
                Tree::Mounted(RootDir::open(&rootfs).map_err(|source| {
                    failed(copy::CopyError::Destination { action: "open", path: rootfs, source })
                })?)
            }
            None => Tree::Context { context: self.context, visible: self.visible },
        };
        let mut work: Vec<(Tree<'_>, Vec<PathBuf>)> = Vec::new();
        let mut selected = Vec::new();
        for source in &sources {
            selected.extend(tree.select(source).map_err(|e| failed(e.into()))?);
        }
        let count = selected.len() + inline.len();
        if count == 0 {
            return Err(BuildError::NoSources { at: self.at(line), instruction: name });
        }
        if count > 1 && !absolute.ends_with('/') {
            return Err(BuildError::NotADirectory { at: self.at(line), instruction: name, destination });
        }
        let names: Vec<PathBuf> = inline.iter().map(|(name, _)| name.into()).collect();
        work.push((tree, selected));
        work.push((Tree::Inline(inline), names));
        let (digest, kind) = digest_of(&work).map_err(failed)?;
        let owner = chown.clone().unwrap_or_else(|| if from.is_some() { "kept" } else { "0:0" }.to_owned());
        let mode_text = mode.map(|m| format!("{m:o}")).unwrap_or_default();
        let parts = ["copy", name, chain_text(state), &absolute, &owner, &mode_text, digest.as_str()];
        let key = key_of(&parts);
        let shown_owner = chown.as_ref().map(|c| format!("--chown={c} ")).unwrap_or_default();
        let shell = config::shell(&state.image.config).join(" ");
        let by = format!("{shell} #(nop) {name} {shown_owner}{kind}:{} in {destination} ", digest.hex());
        if self.from_cache(state, &key, &by)? {
            return Ok(());
        }
        let scratch = self.scratch(state, &InitLayer::empty(), line)?;
        let owner = match (&chown, &from) {
            (Some(text), _) => {
                let root = open_root(scratch.rootfs()).map_err(failed)?;
                Some(
                    users::ids(&root, text)
                        .map_err(|source| BuildError::User { at: self.at(line), source })?,
                )
            }
            (None, _) => None,
        };
        for (tree, paths) in &work {
            let look = Look { owner, mode, unpack: copy.add };
            copy::copy(tree, paths, scratch.rootfs(), &absolute, &look).map_err(failed)?;
        }
        drop(work);
        self.freeze(state, scratch, &key, by, line)
    }

    /// The layers that `--from` means: a stage by name or number, or an image.
    fn from(&mut self, from: &str, stage: usize, line: usize) -> Result<Option<ChainId>> {
        if let Some(index) = graph::copied_stage(self.file, from, stage) {
            if let Some(state) = self.stages.get(index).and_then(Option::as_ref) {
                return Ok(state.chain().cloned());
            }
        }
        let image =
            self.store.resolve(from).map_err(|source| BuildError::Base { at: self.at(line), source })?;
        self.store.hold(&image, &self.lease);
        Ok(image.chain_id().cloned())
    }

    /// Where these layers are mounted to be copied from.
    fn view(&mut self, chain: Option<&ChainId>, line: usize) -> Result<PathBuf> {
        if let Some(view) = self.views.get(&chain.cloned()) {
            return Ok(view.rootfs().to_owned());
        }
        let view = self.store.view(chain, &self.lease);
        let view = view.map_err(|source| BuildError::Snapshot { at: self.at(line), source })?;
        let rootfs = view.rootfs().to_owned();
        self.views.insert(chain.cloned(), view);
        Ok(rootfs)
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

/// Puts a step into the history, with its layer.
fn record(state: &mut State, created: Timestamp, created_by: String, layer: Option<Layer>) {
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
fn key_of(parts: &[&str]) -> Digest {
    let mut hasher = Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finish()
}

fn chain_text(state: &State) -> &str {
    state.chain().map_or("scratch", |c| c.0.as_str())
}

/// What to execute; if a here-document is a program of its own, that as well.
fn run_arguments(state: &State, command: &Command, heredocs: &[Heredoc]) -> (Vec<String>, Option<Heredoc>) {
    let config = &state.image.config;
    let (Command::Shell(text), [first, rest @ ..]) = (command, heredocs) else {
        return (config::arguments(config, command), None);
    };
    let bare = text.trim_start_matches("<<").trim_start_matches('-').trim_matches(['"', '\'']);
    if rest.is_empty() && bare == first.name {
        if first.content.starts_with("#!") {
            return (vec![format!("/dev/pipes/{}", first.name)], Some(first.clone()));
        }
        return (config::arguments(config, &Command::Shell(first.content.clone())), None);
    }
    let mut whole = text.clone();
    for heredoc in heredocs {
        whole.push_str(&format!("\n{}{}", heredoc.content, heredoc.name));
    }
    (config::arguments(config, &Command::Shell(whole)), None)
}

fn is_remote(source: &str) -> bool {
    ["http://", "https://", "ftp://", "git://", "ssh://", "git@"]
        .iter()
        .any(|scheme| source.starts_with(scheme))
}

/// The digest of everything to be copied, and what it is in history: one file, one directory, or several.
fn digest_of(
    work: &[(Tree<'_>, Vec<PathBuf>)],
) -> std::result::Result<(Digest, &'static str), copy::CopyError> {
    let mut hasher = Hasher::new();
    let mut kinds = Vec::new();
    for (tree, paths) in work {
        for path in paths {
            let resolved = tree.resolve(path).unwrap_or_else(|| path.clone());
            let directory = tree.node(&resolved)?.kind == crate::tree::NodeKind::Directory;
            // A directory's own name is not copied, a file's is, if it goes into a directory.
            let name =
                if directory { Path::new("") } else { Path::new(path.file_name().unwrap_or_default()) };
            tree.hash(&resolved, name, &mut hasher)?;
            kinds.push(if directory { "dir" } else { "file" });
        }
    }
    let kind = if kinds.len() > 1 { "multi" } else { kinds.first().copied().unwrap_or("multi") };
    Ok((hasher.finish(), kind))
}

fn open_root(rootfs: &Path) -> std::result::Result<RootDir, copy::CopyError> {
    RootDir::open(rootfs).map_err(|source| copy::CopyError::Destination {
        action: "open",
        path: rootfs.to_owned(),
        source,
    })
}
