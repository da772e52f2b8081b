//! The verbs: what each command does to a container.
//!
//! ```text
//!             create              start               (its process ends)
//!   (nothing) ------> created ------------> running ------------------> stopped
//!                        |                   |   ^                        |
//!                        | kill         pause|   |resume                  | delete
//!                        v                   v   |                        v
//!                     stopped              paused                     (nothing)
//! ```
//! `checkpoint` writes a running container to files and deletes it; `restore` makes it running from them.
//! `run` is create, start, wait and delete in one. `delete --force` kills first, from any state.

pub mod attach;
pub mod checkpoint;
mod child;
pub mod create;
pub mod delete;
pub mod exec;
pub mod kill;
pub mod mounts;
pub mod restore;
pub mod run;
pub mod start;

pub use checkpoint::{CheckpointError, checkpoint};
pub use create::{CreateError, Created, create};
pub use delete::{DeleteError, delete};
pub use exec::{ExecError, exec};
pub use kill::{KillError, kill};
pub use mounts::{MountsError, add_mounts, remove_mounts};
pub use restore::{RestoreError, restore};
pub use run::run;
pub use start::{StartError, start};
