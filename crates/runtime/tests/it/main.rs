//! The runtime's command line, on real bundles with the kernel of this host. Needs root and a static busybox.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cgroups;
mod endurance;
mod errors;
mod exec;
mod harness;
mod hooks;
mod landlock;
mod lifecycle;
mod live_mounts;
mod mounts;
mod namespaces;
mod net_devices;
mod peers;
mod process;
mod seccomp;
mod soak;
mod terminal;
mod unified;
