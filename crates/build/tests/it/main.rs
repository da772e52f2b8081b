//! Builds on a real store, with commands run by a small runner of our own: needs root and a static busybox.
#![expect(clippy::unwrap_used, reason = "a test that can not go on shall panic")]

mod builds;
mod cache;
mod docker;
mod errors;
mod fuzzed;
mod graph;
mod mounts;
mod speed;
mod support;
