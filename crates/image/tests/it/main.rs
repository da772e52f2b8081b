//! The store on a real file system, with real overlay mounts: needs root.

mod layers;
mod support;
