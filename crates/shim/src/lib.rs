//! The shim: parent of the processes of one container, or of a pod's, over any OCI runtime's command line.
//!
//! A daemon starts it with `containerd-shim-sampan-v2 … start` in a bundle's directory and talks to it in containerd's
//! task service over ttrpc. The shim holds the container's output, terminal and exit status, so that the daemon may
//! end at any time.
//!
//! * [`args`], [`command`]: the command line: `start`, `delete`, to serve.
//! * [`serve`]: the poll loop, the service's methods, the runtime's commands, exits.
//! * [`state`]: what may be done to a process, and when.
//! * [`stdio`]: where a process's input and output go; Docker's log; attach clients.
//! * [`runtime`], [`rootfs`], [`cgroup`], [`bundle`]: what it drives and reads.
//! * [`events`]: what it tells containerd.
//! * [`client`]: a client that waits, for tests and tools.
//!
//! One thread, no async runtime, no timers but the one that asks a lost containerd again.

pub mod args;
pub mod bundle;
pub mod cgroup;
pub mod client;
pub mod command;
pub mod events;
pub mod rootfs;
pub mod runtime;
pub mod serve;
pub mod socket;
pub mod state;
pub mod stdio;

/// Says something in the shim's log, which is its error output. A log that is full or gone loses the line.
pub fn note(text: &str) {
    use std::io::Write;
    let line = format!("{} {text}\n", sampan_base::Timestamp::now());
    let _ = std::io::stderr().write_all(line.as_bytes()); // there is nowhere else to say it
}
