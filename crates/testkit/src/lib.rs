//! Fixtures for end-to-end tests: a daemon of one's own, clients with deadlines, a base image, a terminal.
//!
//! * [`Instance`]: a `sampand` whose directories, bridge, table and addresses are nobody else's; when it is dropped,
//!   everything that it made must be gone.
//! * [`Command`], [`Output`]: a client that is run to its end, or for as long as it is needed.
//! * [`busybox`]: the base image. [`Pty`]: a terminal that a client runs in.
//! * [`Dockerd`]: Debian's dockerd, to compare with.
//! * [`trial`]: a test, or the reason why it can't run.
//! * [`registry`]: Debian's docker-registry, [`proxy`]: what spoils its traffic, [`http`]: a server that says what it is told.
//! * [`wait_until`]: for what happens in another process and can't be waited for by a descriptor.
//!
//! Failures panic: this is for tests only.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a fixture that fails fails its test")]

pub mod busybox;
mod command;
mod dockerd;
pub mod http;
mod instance;
mod leftovers;
mod mounted;
pub mod proxy;
mod pty;
pub mod registry;
mod trial;

use std::path::PathBuf;
use std::time::{Duration, Instant};

pub use command::{Command, Output, Running};
pub use dockerd::Dockerd;
pub use instance::{Builder, Instance};
pub use leftovers::processes;
pub use mounted::Mounted;
pub use pty::Pty;
pub use trial::trial;

/// How long anything may take before a test gives up: only against hanging for ever, also in a slow virtual machine.
pub const DEADLINE: Duration = Duration::from_secs(180);

/// An executable of this workspace, which `make test` has built before.
///
/// # Panics
/// If it isn't there.
pub fn executable(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    // target/<triple>/debug/deps/it-0123456789abcdef
    let path = test.ancestors().nth(2).unwrap().join(name);
    assert!(
        path.exists(),
        "`{}` is not built: run `cargo build -p sampan-cli -p sampan-daemon -p sampan-runtime -p sampan-shim` (or `make test`)",
        path.display()
    );
    path
}

/// Waits until `ready` says so, which depends on another process.
///
/// # Panics
/// If it does not happen before the deadline.
#[track_caller]
pub fn wait_until(what: &str, mut ready: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !ready() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
