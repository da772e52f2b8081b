//! Dockerfile builds: parse, plan, cache, solve; steps are run by whoever implements [`StepRunner`].
//!
//! ```text
//! Context (an indexed tar) + Dockerfile ─▶ stages that the target needs ─▶ step by step:
//!     cached?  ─ yes ─▶ its layer
//!              ─ no ──▶ scratch file system ─▶ copy or StepRunner::run ─▶ freeze: a layer
//! ─▶ image
//! ```
//!
//! * [`solve`]: [`build`] itself, its options and events. [`error`]: how it fails.
//! * [`run`]: what a [`StepRunner`] is asked for.
//! * [`context`], [`ignore`], [`pattern`]: the files. [`dockerfile`]: the text.
//! * [`checks`]: what may not be meant.
//! * [`change`]: instructions for `docker commit --change`.

pub mod change;
pub mod checks;
mod chmod;
mod config;
pub mod context;
pub mod copy;
pub mod dockerfile;
pub mod error;
pub mod git;
mod graph;
pub mod ignore;
pub mod pattern;
pub mod run;
mod select;
pub mod solve;
pub mod tree;
pub mod users;

pub use change::{ChangeError, apply_changes};
pub use context::{Context, ContextError, Digests};
pub use error::{At, BuildError, RemoteError};
pub use run::{
    Cancel, ExitStatus, Limits, NetworkMode, Owners, RunStep, RunnerError, StepMount, StepRunner, Stream,
    Transfer,
};
pub use solve::{
    BuildEvent, BuildOptions, BuildResult, CacheSource, CacheStore, CacheTarget, NamedContext,
    PersistentMount, Place, Secret, Solver, StepId,
};
