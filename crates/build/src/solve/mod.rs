//! Solving a build: the stages that the target needs, those that do not wait for each other at once, each step from the
//! cache if it can be.
//!
//! ```text
//!   Dockerfile ─▶ graph::needed ─▶ workers take stages in the order of the file; a stage waits for another one only
//!                                  where it starts from it, copies from it or mounts it
//!   stage: FROM ─▶ step ─▶ step …  each: key ─▶ cache? ─▶ else: make it, freeze it, remember it
//! ```
//!
//! A stage needs only earlier ones, and workers take them in order: the earliest that is not done always has a worker
//! and waits for nobody, so that no set of workers, however small, can wait for itself.
//!
//! A step that makes files has a key made of all that it depends on: the layers below it, what it runs or the digest
//! of what it copies, its environment. A hit gives the layer that the same inputs gave before. While one build makes a
//! step, another that wants the same waits for it ([`Turns`]). A step that only changes the configuration is
//! always done anew; what is cached of it is when it was first done, so that an unchanged build gives the same image.
//!
//! Whatever fails, nothing half-made is left: file systems of steps vanish with their [`Scratch`], layers of steps
//! before stay only as long as the cache remembers them.

mod agent;
mod cache;
mod copy_step;
mod events;
mod exchange;
mod finish;
mod layout;
mod mask;
mod mounts;
mod options;
mod persistent;
mod remote;
mod run_step;
mod stage;
mod state;
mod views;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use sampan_base::{Digest, FileError, ImageRef, Turns, files};
use sampan_image::{Image, Lease, Store};
use sampan_oci::image::Platform;

pub use events::{BuildEvent, Place, StepId};
pub use exchange::{CacheSource, CacheStore, CacheTarget};
pub use options::{BuildOptions, NamedContext, Secret};
pub use persistent::PersistentMount;

use crate::checks;
use crate::context::{Context, Entry};
use crate::dockerfile::{Dockerfile, Instruction, Problem, args, excerpt, expand};
use crate::error::{At, BuildError};
use crate::graph;
use crate::run::StepRunner;
use persistent::Persistent;
use stage::StageRun;
use state::State;
use views::{For, Views};

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

/// Builds images in one store. All builds of a process share one, so that they share what they are making.
#[derive(Debug)]
pub struct Solver {
    store: Store,
    /// Where secrets and sockets of steps are while they run.
    volatile: PathBuf,
    persistent: Persistent,
    /// The steps that are being made, by all builds of this process.
    in_flight: Turns<Digest>,
}

/// How many stages go on at once: enough to keep the processors busy while some wait for the network, and few enough that
/// a file with a thousand stages does not take the host down.
const MAX_STAGES_AT_ONCE: usize = 16;

type Result<T> = std::result::Result<T, BuildError>;

impl Solver {
    /// A solver whose persistent mounts (`RUN --mount=type=cache`) are in `directory`. What may not outlive its step
    /// is in `volatile`, which should be in memory; whatever is there is removed.
    ///
    /// # Errors
    /// If a directory can't be made or read.
    pub fn open(store: Store, directory: &Path, volatile: &Path) -> std::result::Result<Solver, FileError> {
        files::remove_if_exists(volatile)?;
        files::create_directories(volatile, 0o700)?;
        let (persistent, in_flight) = (Persistent::open(directory)?, Turns::default());
        Ok(Solver { store, volatile: volatile.to_owned(), persistent, in_flight })
    }

    /// Builds an image. Events may come from several threads at once.
    ///
    /// # Errors
    /// If the Dockerfile can't be understood, a file or image is missing, a command fails, or the disk is full. Nothing
    /// is left then but what the cache remembers of the steps before.
    pub fn build(
        &self,
        context: &Context,
        options: &BuildOptions,
        runner: &dyn StepRunner,
        events: &(dyn Fn(BuildEvent<'_>) + Sync),
    ) -> Result<BuildResult> {
        let text = text_of(context, options)?;
        let mut end = 0;
        let built = self.build_text(&text, context, options, runner, events, &mut end);
        if let Some(at) = built.as_ref().err().and_then(BuildError::at) {
            let text = excerpt(&at.file, &text, at.line, end.max(at.line));
            (events)(BuildEvent::Failed { excerpt: &text });
        }
        built
    }

    /// What may not be meant in the Dockerfile, without building it: each warning as people read it, with its line.
    ///
    /// # Errors
    /// If it can't be understood.
    pub fn check(&self, context: &Context, options: &BuildOptions) -> Result<Vec<(usize, String)>> {
        let text = text_of(context, options)?;
        let file = parse(&text, options)?;
        let warnings = self.warnings(&file, context, options)?.0;
        Ok(warnings.iter().map(|w| (w.line, w.shown(&options.dockerfile, &text))).collect())
    }

    /// The warnings, and whether they fail a build.
    fn warnings(
        &self,
        file: &Dockerfile,
        context: &Context,
        options: &BuildOptions,
    ) -> Result<(Vec<checks::Warning>, bool)> {
        let config = checks::Config::of(file, &options.build_args);
        let config =
            config.map_err(|source| BuildError::Check { file: options.dockerfile.clone(), source })?;
        let ignore = context.ignore(&options.dockerfile)?;
        let host = Platform::host();
        let inputs = checks::Inputs {
            build_args: &options.build_args,
            target: options.target.as_deref(),
            host: &host,
            platform: options.platform.as_ref().unwrap_or(&host),
            ignore: Some(&ignore),
            base: &|name| Some(checks::BaseFacts::from(&self.store.resolve(name).ok()?.config)),
        };
        Ok((checks::check(file, &config, &inputs), config.error))
    }

    /// `end` becomes the last line of the instruction that failed.
    fn build_text(
        &self,
        text: &str,
        context: &Context,
        options: &BuildOptions,
        runner: &dyn StepRunner,
        events: &(dyn Fn(BuildEvent<'_>) + Sync),
        end: &mut usize,
    ) -> Result<BuildResult> {
        let file = parse(text, options)?;
        let (warnings, fatal) = self.warnings(&file, context, options)?;
        for warning in &warnings {
            (events)(BuildEvent::Warning {
                line: warning.line,
                text: &format!("{}: {}", warning.rule, warning.text),
            });
        }
        if fatal && !warnings.is_empty() {
            return Err(BuildError::Warnings { file: options.dockerfile.clone(), count: warnings.len() });
        }
        let visible = context.visible(&options.dockerfile)?;
        let mut named = BTreeMap::new();
        for (name, files) in &options.contexts {
            if let NamedContext::Files(files) = files {
                named.insert(name.as_str(), files.visible("")?);
            }
        }
        let mut solve = Solve {
            solver: self,
            store: &self.store,
            lease: self.store.lease(),
            context,
            visible,
            named,
            options,
            epoch: options.epoch(),
            runner,
            events,
            file: &file,
            globals: BTreeMap::new(),
            bases: Vec::new(),
            platforms: Vec::new(),
            needed: Vec::new(),
            stages: Vec::new(),
            failure: Mutex::default(),
            consumed: Mutex::default(),
            views: Views::default(),
            bases_at_hand: Mutex::default(),
            made: Mutex::default(),
            imported: Vec::new(),
            steps: AtomicUsize::new(0),
            cached: AtomicUsize::new(0),
        };
        solve.imported = exchange::import(&solve);
        let built = solve.solve();
        if let Some(at) = built.as_ref().err().and_then(BuildError::at) {
            *end = last_line(&file, at.line);
        }
        built
    }

    /// The directories that `RUN --mount=type=cache` keeps.
    ///
    /// # Errors
    /// If they can't be read.
    pub fn persistent_mounts(&self) -> std::result::Result<Vec<PersistentMount>, FileError> {
        self.persistent.list()
    }

    /// Removes such directories, but none that is in use; answers the bytes freed.
    ///
    /// # Errors
    /// If one can't be removed.
    pub fn remove_persistent(
        &self,
        unwanted: &dyn Fn(&PersistentMount) -> bool,
    ) -> std::result::Result<Vec<PersistentMount>, FileError> {
        self.persistent.remove(unwanted)
    }
}

fn text_of(context: &Context, options: &BuildOptions) -> Result<String> {
    match &options.dockerfile_text {
        Some(text) => Ok(text.clone()),
        None => Ok(context.dockerfile(&options.dockerfile)?),
    }
}

fn parse(text: &str, options: &BuildOptions) -> Result<Dockerfile> {
    Dockerfile::parse(text)
        .map_err(|source| BuildError::Parse { at: At::new(&options.dockerfile, source.line), source })
}

/// Where the instruction that begins at `line` ends.
fn last_line(file: &Dockerfile, line: usize) -> usize {
    let stages = file.stages.iter();
    let ends = stages
        .clone()
        .map(|stage| (stage.line, stage.end))
        .chain(stages.flat_map(|stage| stage.instructions.iter().map(|l| (l.line, l.end))))
        .chain(file.args.iter().map(|l| (l.line, l.end)));
    ends.filter(|(first, _)| *first == line).map(|(_, end)| end).max().unwrap_or(line)
}

/// One build that goes on.
struct Solve<'a> {
    solver: &'a Solver,
    store: &'a Store,
    lease: Lease,
    context: &'a Context,
    visible: BTreeMap<&'a Path, &'a Entry>,
    /// The files of the named contexts that are files.
    named: BTreeMap<&'a str, BTreeMap<&'a Path, &'a Entry>>,
    options: &'a BuildOptions,
    /// `SOURCE_DATE_EPOCH`.
    epoch: Option<i64>,
    runner: &'a dyn StepRunner,
    events: &'a (dyn Fn(BuildEvent<'_>) + Sync),
    file: &'a Dockerfile,
    /// The `ARG`s before the first `FROM`, and the platform's.
    globals: BTreeMap<String, String>,
    /// What each stage starts from, and for which platform, expanded.
    bases: Vec<String>,
    platforms: Vec<Platform>,
    /// The stages to build, in order.
    needed: Vec<usize>,
    stages: Vec<StageCell>,
    /// The first thing that went wrong.
    failure: Mutex<Option<BuildError>>,
    /// Build arguments that some `ARG` took.
    consumed: Mutex<BTreeSet<String>>,
    views: Views,
    /// Images that this build started or copied from: each is looked up once, so that all stages see the same.
    bases_at_hand: Mutex<HashMap<(String, String), ImageSlot>>,
    /// What was made or recalled in this build, by key.
    made: Mutex<HashMap<Digest, exchange::Made>>,
    /// What others made, to be looked at when this host has nothing.
    imported: Vec<exchange::Imported<'a>>,
    steps: AtomicUsize,
    cached: AtomicUsize,
}

/// An image that one stage looks up and others wait for.
type ImageSlot = Arc<Mutex<Option<Image>>>;

/// A stage's outcome, for those who wait for it.
#[derive(Default)]
struct StageCell {
    done: Mutex<Option<Ended>>,
    changed: Condvar,
    /// Somebody builds it who needs it by surprise.
    taken: AtomicBool,
}

#[derive(Clone)]
enum Ended {
    Built(Arc<State>),
    Failed,
}

impl StageCell {
    fn end(&self, ended: Ended) {
        *lock(&self.done) = Some(ended);
        self.changed.notify_all();
    }

    fn wait(&self) -> Result<Arc<State>> {
        let mut done = lock(&self.done);
        loop {
            match &*done {
                Some(Ended::Built(state)) => return Ok(Arc::clone(state)),
                // Why is told by the stage that failed.
                Some(Ended::Failed) => return Err(BuildError::Cancelled),
                None => done = self.changed.wait(done).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

/// What a thread that panicked left behind is a bug's business: the panic itself ends the build.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a> Solve<'a> {
    fn solve(mut self) -> Result<BuildResult> {
        self.set_globals()?;
        self.set_bases()?;
        let target = graph::target(self.file, self.options.target.as_deref())
            .ok_or_else(|| BuildError::NoTarget { name: self.options.target.clone().unwrap_or_default() })?;
        self.needed = graph::needed(self.file, &self.bases, target);
        self.stages.resize_with(self.file.stages.len(), StageCell::default);
        let steps: Vec<usize> =
            self.needed.iter().map(|i| 1 + self.file.stages[*i].instructions.len()).collect();
        (self.events)(BuildEvent::Planned { stages: &steps });
        self.run_stages();
        if let Some(failure) = lock(&self.failure).take() {
            return Err(failure);
        }
        let state = self.stages[target].wait()?;
        self.warn_of_unused();
        let image = self.finish(State::clone(&state))?;
        (self.events)(BuildEvent::Built { image: &image });
        let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
        Ok(BuildResult { image, steps: count(&self.steps), cached: count(&self.cached) })
    }

    fn run_stages(&self) {
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some((ordinal, index)) =
                Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|n| Some((n, *self.needed.get(n)?)))
            {
                let ended = match StageRun::new(self, ordinal, index).run() {
                    Ok(state) => {
                        (self.events)(BuildEvent::StageDone { stage: ordinal });
                        Ended::Built(Arc::new(state))
                    }
                    Err(error) => {
                        self.fail(error);
                        Ended::Failed
                    }
                };
                self.stages[index].end(ended);
            }
        };
        // One stage needs no thread of its own.
        let others = self.needed.len().min(MAX_STAGES_AT_ONCE).saturating_sub(1);
        std::thread::scope(|scope| {
            for _ in 0..others {
                scope.spawn(work);
            }
            work();
        });
    }

    /// What the stage `index` left. One that only a trigger of a base image names is not among those that are needed: who
    /// asks first builds it, as a part of the stage `asking`. A stage asks for earlier ones only, so nobody waits in a
    /// circle.
    fn stage(&self, index: usize, asking: usize) -> Result<Arc<State>> {
        let cell = &self.stages[index];
        if !self.needed.contains(&index) && !cell.taken.swap(true, Ordering::AcqRel) {
            cell.end(match StageRun::new(self, asking, index).run() {
                Ok(state) => Ended::Built(Arc::new(state)),
                Err(error) => {
                    self.fail(error);
                    Ended::Failed
                }
            });
        }
        cell.wait()
    }

    /// The first failure counts; what else goes on is of no use any more.
    fn fail(&self, error: BuildError) {
        let mut failure = lock(&self.failure);
        let cancelled = self.options.cancel.is_set();
        self.options.cancel.set();
        match &*failure {
            None if cancelled => *failure = Some(BuildError::Cancelled),
            None => *failure = Some(error),
            Some(_) => {}
        }
    }

    fn at(&self, line: usize) -> At {
        At::new(&self.options.dockerfile, line)
    }

    fn wrong(&self, line: usize, source: Problem) -> BuildError {
        BuildError::Instruction { at: self.at(line), source }
    }

    fn warn_of_unused(&self) {
        let consumed = lock(&self.consumed);
        let given = self.options.build_args.keys();
        let unused: Vec<&str> = given
            .filter(|name| !consumed.contains(*name) && !args::is_for_the_builder(name))
            .map(String::as_str)
            .collect();
        if !unused.is_empty() {
            let text = format!("One or more build-args [{}] were not consumed", unused.join(" "));
            (self.events)(BuildEvent::Warning { line: 0, text: &text });
        }
    }

    fn set_globals(&mut self) -> Result<()> {
        let (host, options) = (Platform::host(), self.options);
        let platform = options.platform.clone().unwrap_or_else(Platform::host);
        let given = &options.build_args;
        let predefined = args::predefined(&host, &platform, options.target.as_deref(), given);
        self.globals = args::globals(self.file, &predefined, given)
            .map_err(|(line, e)| self.wrong(line, Problem::Word(e)))?;
        let declared = self.file.args.iter().filter_map(|located| match &located.instruction {
            Instruction::Arg(args) => Some(args.iter().map(|(name, _)| name.clone())),
            _ => None,
        });
        lock(&self.consumed).extend(declared.flatten());
        Ok(())
    }

    /// What each stage starts from, expanded.
    fn set_bases(&mut self) -> Result<()> {
        let globals = self.globals.clone();
        let lookup = |name: &str| globals.get(name).cloned();
        for stage in &self.file.stages {
            let expand = |text: &str| {
                expand::word(text, self.file.escape, &lookup).map_err(|e| self.wrong(stage.line, e.into()))
            };
            let invalid = |what, value: &str| {
                let (instruction, value) = ("FROM".to_owned(), value.to_owned());
                self.wrong(stage.line, Problem::Invalid { instruction, what, value })
            };
            let base = expand(&stage.base)?;
            if base.is_empty() {
                return Err(invalid("base name (it is empty when expanded)", &stage.base));
            }
            let platform = match &stage.platform {
                None => self.options.platform.clone().unwrap_or_else(Platform::host),
                Some(text) => {
                    let expanded = expand(text)?;
                    match expanded.as_str() {
                        // Declared and not set: as without the flag.
                        "" => self.options.platform.clone().unwrap_or_else(Platform::host),
                        text => text.parse().map_err(|_| invalid("--platform", text))?,
                    }
                }
            };
            self.bases.push(base);
            self.platforms.push(platform);
        }
        Ok(())
    }

    /// The image `name` for `platform`: from the store, or else, or if newer ones are asked for, from a registry. It is
    /// held until the build ends.
    fn image(&self, name: &str, platform: &Platform, line: usize, step: StepId) -> Result<Image> {
        // One at a time looks: two stages that start from one image must not get two.
        let slot = {
            let mut known = lock(&self.bases_at_hand);
            Arc::clone(known.entry((name.to_owned(), platform.to_string())).or_default())
        };
        let mut slot = lock(&slot);
        if let Some(image) = &*slot {
            return Ok(image.clone());
        }
        let found = self.store.resolve(name);
        let usable = found.as_ref().is_ok_and(|image| image.config.platform().fits(platform));
        let pullable = name.parse::<ImageRef>().is_ok();
        let image = if usable && !(self.options.pull && pullable) {
            found
        } else {
            let progress =
                |transfer: crate::run::Transfer<'_>| (self.events)(BuildEvent::Transfer { step, transfer });
            match self.runner.pull(name, platform, &progress).filter(|_| pullable) {
                Some(Ok(image)) => Ok(image),
                // A name that only this host knows is no less good for it.
                Some(Err(_)) if usable => found,
                Some(Err(source)) => return Err(BuildError::Pull { at: self.at(line), source }),
                None => found,
            }
        };
        let image =
            image.map_err(|source| BuildError::Base { at: self.at(line), source: Box::new(source) })?;
        self.store.hold(&image, &self.lease);
        *slot = Some(image.clone());
        Ok(image)
    }
}
