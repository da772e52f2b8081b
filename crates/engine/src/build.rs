//! Builds: the build crate plans, this engine runs the steps.

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use sampan_build::{BuildError, Cancel, Context};
use sampan_oci::image::ImageConfig;

pub use sampan_build::{BuildEvent, BuildOptions, NetworkMode as StepNetwork, Stream};

use crate::error::{EngineError, Result};
use crate::images::Image;
use crate::step::Steps;
use crate::{Engine, Inner, blocking, long_blocking};

/// Applies Dockerfile instructions to an image's configuration.
pub(crate) fn apply_changes(config: &mut ImageConfig, changes: &[String]) -> Result<()> {
    sampan_build::apply_changes(config, changes)
        .map_err(|error| EngineError::Invalid(sampan_base::chain(&error)))
}

/// A build that goes on; dropping it lets it go on, [`Build::cancel`] ends it.
#[derive(Debug)]
pub struct Build {
    cancel: Cancel,
    steps: Arc<Steps>,
}

impl Build {
    /// Ends the build: the step that runs is killed, no other begins.
    pub async fn cancel(&self) {
        self.cancel.set();
        let steps = Arc::clone(&self.steps);
        blocking(move || steps.kill()).await;
    }
}

/// Why a build failed, with the exit code of the command that did, if one did.
#[derive(Debug)]
pub struct BuildFailure {
    /// For people, in one line.
    pub message: String,
    /// The exit code of a RUN instruction.
    pub code: Option<i32>,
}

impl Engine {
    /// Builds an image of the context that comes as a tar; tells `events` what happens, on a thread that may block.
    /// The handle is for cancelling, the future for the result.
    pub fn build(
        &self,
        mut context: Box<dyn Read + Send>,
        mut options: BuildOptions,
        mut events: Box<dyn FnMut(BuildEvent<'_>) + Send>,
    ) -> (Build, impl Future<Output = std::result::Result<Image, BuildFailure>> + Send + use<>) {
        let steps = Arc::new(Steps::new(Arc::clone(&self.inner)));
        let cancel = Cancel::default();
        options.cancel = cancel.clone();
        let handle = Build { cancel, steps: Arc::clone(&steps) };
        let inner = Arc::clone(&self.inner);
        let result = long_blocking(move || {
            let spool = spool_directory(&inner)
                .map_err(|e| BuildFailure { message: sampan_base::chain(&e), code: None })?;
            let read = Context::from_tar(&mut context, &spool);
            // Whoever sends the context may now be done with.
            drop(context);
            let context = read.map_err(|e| failure(&BuildError::Context(Box::new(e))))?;
            let built = sampan_build::build(&inner.images.store, &context, &options, &*steps, &mut events);
            let image = built.map_err(|e| failure(&e))?.image;
            for name in &options.names {
                inner.image_event("tag", &image.id, Some(name));
            }
            Ok(image)
        });
        (handle, result)
    }

    /// Forgets the build cache; answers the bytes freed.
    ///
    /// # Errors
    /// If the store can't be written.
    pub async fn build_prune(&self) -> Result<u64> {
        let images = self.inner.images.clone();
        long_blocking(move || {
            let forgotten = images.store.forget_cache();
            let collected =
                forgotten.map_err(|e| EngineError::layer(e.class(), "cannot clear the build cache")(e))?;
            Ok(collected.bytes)
        })
        .await
    }
}

/// Contexts are spooled where the store is: `/tmp` may be in memory.
fn spool_directory(inner: &Inner) -> Result<PathBuf> {
    let directory = inner.config.root.join("spool");
    sampan_base::files::create_directories(&directory, 0o700).map_err(EngineError::file)?;
    Ok(directory)
}

fn failure(error: &BuildError) -> BuildFailure {
    let code = match error {
        BuildError::Command { code, .. } => Some(*code),
        _ => None,
    };
    BuildFailure { message: sampan_base::chain(error), code }
}
