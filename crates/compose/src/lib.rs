//! Compose files: read, interpolated, merged, checked, and what they ask for as a plan.
//!
//! The way of a file: text → [`yaml`] (a tree that knows its lines) → [`interpolate`] → `canonical` (short forms become
//! long ones, paths become whole) → extended services and included files ([`load`]) → `merge` with the files after it → `typed`
//! ([`model`]) → checked, names and defaults filled in. Then [`plan`] compares the model with what is there and says what is
//! to be made, replaced, started and removed, in which order. Nothing here touches an engine; files are read through [`load::Files`].
//!
//! * [`dotenv`]: files of variables. * [`show`]: the model as YAML. * [`labels`]: what tells containers apart, as Docker's
//!   compose writes it.

mod canonical;
pub mod dotenv;
pub mod error;
pub mod interpolate;
pub mod labels;
pub mod load;
mod merge;
pub mod model;
pub mod plan;
mod resolve;
pub mod show;
mod typed;
pub mod yaml;

pub use canonical::{absolute, is_remote};
pub use error::ComposeError;
pub use load::{Request, load};
pub use model::Project;
