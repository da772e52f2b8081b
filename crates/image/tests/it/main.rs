//! The store on a real file system, with real overlay mounts: needs root.
#![expect(clippy::unwrap_used, reason = "a test that can not go on shall panic")]

mod analyze;
mod archive;
mod check;
mod fuzzed;
mod hostile;
mod layers;
mod snapshots;
mod speed;
mod squash;
mod store;
mod support;
mod tools;
mod transfer;
