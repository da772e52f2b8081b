//! Build caches that go from host to host.

use std::path::PathBuf;

use sampan_base::Digest;
use sampan_image::Image;

use super::cache::Outcome;
use super::{Result, Solve};

/// Where steps that others did may come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CacheSource {
    /// A directory: an OCI layout that [`CacheTarget::Local`] wrote.
    Local(PathBuf),
}

/// Where to tell others of the steps of a build.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CacheTarget {
    /// A directory, made an OCI layout.
    Local {
        /// Which.
        directory: PathBuf,
        /// All steps, not only those whose layers are in the image.
        all: bool,
    },
}

/// What others made.
pub(super) struct Imported {}

pub(super) fn import(solve: &Solve<'_>) -> Result<Vec<Imported>> {
    let _ = solve;
    Ok(Vec::new())
}

impl Solve<'_> {
    pub(super) fn recall_imported(&self, _key: &Digest) -> Result<Option<Outcome>> {
        Ok(None)
    }

    pub(super) fn export_cache(&self, _image: &Image) -> Result<()> {
        Ok(())
    }
}
