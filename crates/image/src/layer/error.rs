//! What can be wrong with a layer that is applied.

use std::io;
use std::path::PathBuf;

use sampan_base::Class;

use crate::tar::TarError;

/// Why a layer can't be applied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// The archive itself.
    #[error("cannot read the layer")]
    Archive {
        /// What is wrong with it.
        source: TarError,
    },
    /// One entry.
    #[error("cannot unpack the entry `{path}`")]
    Entry {
        /// Its path as the archive has it.
        path: String,
        /// What is wrong with it.
        source: EntryError,
    },
    /// More than [`crate::limits`] allows.
    #[error("the layer has more than {limit} {what}")]
    Limit {
        /// Of what.
        what: &'static str,
        /// How many are allowed.
        limit: u64,
    },
    /// The directory to unpack into.
    #[error("cannot open `{}` to unpack into", path.display())]
    Target {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Why one entry can't be applied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// Its path climbs out with `..`.
    #[error("its path leads out of the root")]
    EscapesRoot,
    /// Its path is longer or deeper than [`crate::limits`] allows, or no path.
    #[error("its path is not one: {why}")]
    BadPath {
        /// What is wrong.
        why: &'static str,
    },
    /// A hard link to nothing.
    #[error("the target `{target}` of the hard link does not exist")]
    HardLinkTargetMissing {
        /// The target's path.
        target: String,
    },
    /// A directory would replace something else, or be replaced by it, and that was forbidden.
    #[error("cannot overwrite {} with {}", if *was_directory { "a directory" } else { "a non-directory" }, if *was_directory { "a non-directory" } else { "a directory" })]
    OtherKind {
        /// A directory is there.
        was_directory: bool,
    },
    /// It belongs to somebody whom the user namespace does not know.
    #[error("container ID {id} cannot be mapped to a host ID")]
    Unmapped {
        /// The id in the archive.
        id: u32,
    },
    /// Only root may make it.
    #[error("making {what} needs more privilege")]
    NeedsPrivilege {
        /// What.
        what: &'static str,
    },
    /// The archive broke off inside its content.
    #[error("cannot read its content")]
    Content {
        /// Why.
        source: io::Error,
    },
    /// A layer below, which this one needs, could not be unpacked.
    #[error("a layer below is missing")]
    Below {
        /// Why.
        source: io::Error,
    },
    /// The file system refused.
    #[error("cannot {action}")]
    Kernel {
        /// What was tried.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
}

impl ApplyError {
    /// The class to report.
    pub fn class(&self) -> Class {
        match self {
            ApplyError::Archive { source } => source.class(),
            ApplyError::Entry { source: EntryError::NeedsPrivilege { .. }, .. } => Class::Forbidden,
            ApplyError::Entry { source: EntryError::Kernel { source, .. }, .. } => {
                match sampan_base::error::class_of_io(source) {
                    Class::Exhausted => Class::Exhausted,
                    _ => Class::Internal,
                }
            }
            ApplyError::Target { .. } => Class::Internal,
            ApplyError::Entry { .. } | ApplyError::Limit { .. } => Class::Invalid,
        }
    }
}
