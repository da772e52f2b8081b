//! Networks in a network namespace that plays the host, with another that plays the world. Needs root; without it each
//! test says so and passes.

#![allow(clippy::unwrap_used)] // clippy knows tests by their attribute; these are their helpers
#![allow(clippy::print_stderr)] // and says why a test is skipped

mod beside;
mod crash;
mod harness;
mod traffic;
