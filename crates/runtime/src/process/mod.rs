//! A process of a container, its first or one that `exec` adds: from config.json's `process` to the program.
//!
//! [`plan`] decides, before the child exists; [`enter`] is what the child does to itself; [`command`] finds the
//! program; [`terminal`] gives it a terminal, [`stdio`] its own null device, [`label`] the labels of security modules, [`landlock`] Landlock rules.

pub mod command;
pub mod enter;
pub mod label;
pub mod landlock;
pub mod numbers;
pub mod plan;
pub mod stdio;
pub mod terminal;
mod why;

pub use plan::{Plan, Seccomp, plan};
