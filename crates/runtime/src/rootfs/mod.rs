//! A container's root file system, from a directory of the host to the process's `/`.
//!
//! 1. [`plan::plan`] decides, from config.json alone.
//! 2. [`sources::open`] takes from the host what the plan needs, as mounts that are attached nowhere: done by the
//!    runtime before the child exists, so that paths of the host are never resolved by the container's side, and a
//!    child in a user namespace needs no access to them.
//! 3. [`execute::build`] puts it together in the child's mount namespace: every place in the container is resolved
//!    by the kernel inside the root ([`beneath`]) and then used by its descriptor, so a link that another container
//!    swaps in meanwhile is either inside or an error.
//! 4. [`execute::seal`] hides and write-protects, after the hooks have had their say.
//! 5. [`execute::enter`] makes it `/`, and lets go of the host's tree.
//!
//! [`live`] changes the mounts of a container that has been put together long ago.

pub mod beneath;
mod copy_up;
mod devices;
pub mod execute;
pub mod idmap;
pub mod live;
pub mod options;
pub mod plan;
pub mod sources;

pub use beneath::Root;
pub use devices::bind_console;
pub use plan::{Plan, What, plan};
pub use sources::Sources;
