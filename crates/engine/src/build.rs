//! Builds: the build crate plans, this engine runs the steps.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sampan_base::Class;
use sampan_build::{BuildError, Cancel, Context, ContextError};
use sampan_kernel::beneath::RootDir;
use sampan_oci::image::ImageConfig;

pub use sampan_build::{
    BuildEvent, BuildOptions, CacheSource, CacheTarget, Limits as StepLimits, NamedContext,
    NetworkMode as StepNetwork, Place, Secret, StepId, Stream,
};

use crate::error::{EngineError, Result};
use crate::images::Image;
use crate::registry::Credentials;
use crate::step::Steps;
use crate::{Engine, Inner, long_blocking};

/// Applies Dockerfile instructions to an image's configuration.
pub(crate) fn apply_changes(config: &mut ImageConfig, changes: &[String]) -> Result<()> {
    sampan_build::apply_changes(config, changes)
        .map_err(|error| EngineError::Invalid(sampan_base::chain(&error)))
}

/// Whether [`Engine::commit`] and [`Engine::import`] could apply these instructions.
///
/// # Errors
/// If one makes no sense in a change.
pub fn check_changes(changes: &[String]) -> Result<()> {
    apply_changes(&mut ImageConfig::for_host(), changes)
}

/// Where a build's files are.
pub enum Files {
    /// In a tar, perhaps packed.
    Tar(Box<dyn Read + Send>),
    /// In a directory of this host.
    Directory(SameDirectory),
    /// On another host: a repository, a tar, or a Dockerfile.
    Remote(String),
}

/// A directory that whoever asks and this process must both see.
#[derive(Clone, Debug)]
pub struct SameDirectory {
    /// Absolute.
    pub path: PathBuf,
    /// `st_dev` and `st_ino`, as the other one sees it.
    pub identity: (u64, u64),
}

impl SameDirectory {
    /// Opens it.
    ///
    /// # Errors
    /// If another directory is there, or none: whoever asks lives in another mount namespace, or on another host.
    pub fn open(&self) -> Result<RootDir> {
        let other = || EngineError::NotThisHost { path: self.path.clone() };
        let root = RootDir::open(&self.path).map_err(|_| other())?;
        let stat = rustix::fs::fstat(&root).map_err(|_| other())?;
        if (stat.st_dev, stat.st_ino) == self.identity { Ok(root) } else { Err(other()) }
    }
}

/// What a named context is.
pub enum Named {
    /// Files.
    Files(Files),
    /// An image, by its name.
    Image(String),
}

/// What to build: the files, and how.
pub struct BuildRequest {
    /// The context.
    pub files: Files,
    /// More contexts, by name; those of the options are replaced.
    pub named: BTreeMap<String, Named>,
    /// Who asks, by registry.
    pub credentials: BTreeMap<String, Credentials>,
    /// The rest.
    pub options: BuildOptions,
}

/// Told what happens in a build, from several threads; it may block.
pub type Events = Box<dyn Fn(BuildEvent<'_>) + Send + Sync>;

/// A build that goes on; dropping it lets it go on, [`Build::cancel`] ends it.
#[derive(Debug)]
pub struct Build {
    cancel: Cancel,
}

impl Build {
    /// Ends the build: steps that run are killed, no other begins.
    pub fn cancel(&self) {
        self.cancel.set();
    }
}

/// Why a build failed, with the exit code of the command that did, if one did.
#[derive(Debug)]
pub struct BuildFailure {
    /// For people, in one line.
    pub message: String,
    /// The command of a RUN instruction that failed, and its exit code.
    pub command: Option<(String, i32)>,
    /// Whose fault it is.
    pub class: Class,
}

impl Engine {
    /// Builds an image; tells `events` what happens. The handle is for cancelling, the future for the result.
    pub fn build(
        &self,
        mut request: BuildRequest,
        events: Events,
    ) -> (Build, impl Future<Output = std::result::Result<Image, BuildFailure>> + Send + use<>) {
        let cancel = Cancel::default();
        request.options.cancel = cancel.clone();
        let engine = self.clone();
        let result = async move {
            let inner = Arc::clone(&engine.inner);
            let built = long_blocking(move || build(&inner, request, &*events)).await;
            engine.bound_build_cache();
            built
        };
        (Build { cancel }, result)
    }

    /// Reads a Dockerfile without building it: what in it may not be meant, each with its line.
    ///
    /// # Errors
    /// If it can't be understood.
    pub async fn build_check(
        &self,
        request: BuildRequest,
    ) -> std::result::Result<Vec<(usize, String)>, BuildFailure> {
        let inner = Arc::clone(&self.inner);
        long_blocking(move || {
            let options = &request.options;
            let agent = options.ssh.get("default").map(PathBuf::as_path);
            let context = read(&inner, request.files, &options.dockerfile, agent, &options.cancel)?;
            inner.solver.check(&context, &request.options).map_err(|e| failure(&e))
        })
        .await
    }

    /// Writes the whole file system of an image as a tar.
    ///
    /// # Errors
    /// If there is no such image or it can't be read.
    pub async fn image_rootfs(&self, name: &str, mut output: Box<dyn std::io::Write + Send>) -> Result<()> {
        let (inner, name) = (Arc::clone(&self.inner), name.to_owned());
        long_blocking(move || {
            let image = inner.images.resolve(&name)?;
            let store = &inner.images.store;
            let lease = store.lease();
            store.hold(&image, &lease);
            let view = store.view(image.chain_id(), &lease);
            let written = view.and_then(|view| store.export(view.rootfs(), None, &mut output));
            written.map_err(|e| EngineError::layer(e.class(), "cannot read the image's file system")(e))
        })
        .await
    }
}

fn build(
    inner: &Arc<Inner>,
    request: BuildRequest,
    events: &(dyn Fn(BuildEvent<'_>) + Sync),
) -> std::result::Result<Image, BuildFailure> {
    let BuildRequest { files, named, credentials, mut options } = request;
    let (agent, cancel) = (options.ssh.get("default").cloned(), options.cancel.clone());
    let read = |files, dockerfile: &str| read(inner, files, dockerfile, agent.as_deref(), &cancel);
    let context = read(files, &options.dockerfile)?;
    for (name, context) in named {
        let context = match context {
            Named::Image(image) => NamedContext::Image(image),
            Named::Files(files) => NamedContext::Files(read(files, "")?),
        };
        options.contexts.insert(name, context);
    }
    let steps = Steps::new(Arc::clone(inner), credentials, &options.cancel);
    let steps = steps.map_err(|e| BuildFailure {
        message: sampan_base::chain(&e),
        command: None,
        class: e.class(),
    })?;
    let built = inner.solver.build(&context, &options, &steps, events);
    let image = built.map_err(|e| failure(&e))?.image;
    for name in &options.names {
        inner.image_event("tag", &image, Some(name));
    }
    Ok(image)
}

/// Reads a context; whoever sends it is let go.
fn read(
    inner: &Inner,
    files: Files,
    dockerfile: &str,
    agent: Option<&Path>,
    cancel: &Cancel,
) -> std::result::Result<Context, BuildFailure> {
    let told = |message: String| BuildFailure { message, command: None, class: Class::Internal };
    let read: std::result::Result<Context, ContextError> = match files {
        Files::Tar(mut tar) => {
            let spool = spool_directory(inner).map_err(|e| told(sampan_base::chain(&e)))?;
            Context::from_tar(&mut tar, &spool)
        }
        Files::Remote(url) => {
            let spool = spool_directory(inner).map_err(|e| told(sampan_base::chain(&e)))?;
            Context::from_remote(&url, &spool, agent, cancel)
        }
        Files::Directory(directory) => {
            let root = directory.open().map_err(|e| told(sampan_base::chain(&e)))?;
            Context::from_root(root, dockerfile, Arc::clone(&inner.digests))
        }
    };
    read.map_err(|e| failure(&BuildError::Context(Box::new(e))))
}

/// Contexts are spooled where the store is: `/tmp` may be in memory.
fn spool_directory(inner: &Inner) -> Result<PathBuf> {
    let directory = inner.config.root.join("spool");
    sampan_base::files::create_directories(&directory, 0o700).map_err(EngineError::file)?;
    Ok(directory)
}

fn failure(error: &BuildError) -> BuildFailure {
    let command = match error {
        BuildError::Command { code, command, .. } => Some((command.clone(), *code)),
        _ => None,
    };
    BuildFailure { message: sampan_base::chain(error), command, class: error.class() }
}

impl Inner {
    /// What the builder keeps, and what it has while a step runs.
    pub(crate) fn open_solver(
        config: &crate::EngineConfig,
        images: &crate::images::Images,
    ) -> Result<sampan_build::Solver> {
        let (kept, volatile) = (config.root.join("build"), config.state.join("build"));
        sampan_build::Solver::open(images.store.clone(), &kept, &volatile)
            .map_err(|e| EngineError::layer(Class::Internal, "cannot open the builder's directories")(e))
    }
}
