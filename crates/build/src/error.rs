//! Why a build ends without an image: each error has its place, `Dockerfile:7`.

use sampan_base::{Class, FileError};
use sampan_image::{ImageError, MetadataError, ResolveError, SnapshotError, SquashError};
use sampan_registry::RegistryError;

use crate::checks::InvalidConfig;
use crate::context::ContextError;
use crate::copy::CopyError;
use crate::dockerfile::{ParseError, Problem};
use crate::git::GitError;
use crate::run::RunnerError;
use crate::users::UnknownUser;

/// A place in a Dockerfile.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct At {
    /// The file.
    pub file: String,
    /// The line, from 1; 0: none in particular.
    pub line: usize,
}

impl At {
    pub(crate) fn new(file: &str, line: usize) -> At {
        At { file: file.to_owned(), line }
    }
}

impl std::fmt::Display for At {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            0 => f.write_str(&self.file),
            line => write!(f, "{}:{line}", self.file),
        }
    }
}

/// Why a build ends without an image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The context, or its Dockerfile or `.dockerignore`.
    #[error(transparent)]
    Context(#[from] Box<ContextError>),
    /// A line can't be understood.
    #[error("{at}")]
    Parse {
        /// Where.
        at: At,
        /// What is wrong.
        source: ParseError,
    },
    /// An instruction makes no sense once its variables are expanded, or can't be done.
    #[error("{at}")]
    Instruction {
        /// Where.
        at: At,
        /// What is wrong.
        source: Problem,
    },
    /// What it says of how it is to be checked.
    #[error("cannot check `{file}`")]
    Check {
        /// The Dockerfile.
        file: String,
        /// What is wrong with it.
        source: InvalidConfig,
    },
    /// It has warnings, and says that they are errors.
    #[error("`{file}` has {count} warnings, and `check=error=true` makes them errors")]
    Warnings {
        /// The Dockerfile.
        file: String,
        /// How many.
        count: usize,
    },
    /// There is no such stage to build.
    #[error("target stage `{name}` could not be found")]
    NoTarget {
        /// The name.
        name: String,
    },
    /// An image to start or copy from is not in the store.
    #[error("{at}")]
    Base {
        /// Where.
        at: At,
        /// Why.
        source: Box<ResolveError>,
    },
    /// It can't be had from a registry either.
    #[error("{at}")]
    Pull {
        /// Where.
        at: At,
        /// Why.
        source: RunnerError,
    },
    /// A secret or an agent that a mount requires.
    #[error("{at}: the {what} `{id}` is required, but was not given to the build")]
    NotGiven {
        /// Where.
        at: At,
        /// What.
        what: &'static str,
        /// Its id.
        id: String,
    },
    /// A mount's file is for somebody whom the user namespace of commands does not have.
    #[error("{at}: the user namespace of builds has no {what} {id}")]
    NotMapped {
        /// Where.
        at: At,
        /// User or group.
        what: &'static str,
        /// Which.
        id: u32,
    },
    /// A file of the builder's own.
    #[error(transparent)]
    File(#[from] FileError),
    /// Files can't be copied.
    #[error("{at}: {instruction} failed")]
    Copy {
        /// Where.
        at: At,
        /// `COPY` or `ADD`.
        instruction: &'static str,
        /// Why.
        source: Box<CopyError>,
    },
    /// What is on another host can't be had.
    #[error("{at}: cannot add {url}")]
    Remote {
        /// Where.
        at: At,
        /// What.
        url: String,
        /// Why.
        source: Box<RemoteError>,
    },
    /// Several files to a name that is no directory's.
    #[error(
        "{at}: when using {instruction} with more than one source file, the destination must be a directory and end with a /: `{destination}`"
    )]
    NotADirectory {
        /// Where.
        at: At,
        /// `COPY` or `ADD`.
        instruction: &'static str,
        /// As written.
        destination: String,
    },
    /// A work directory can't be made.
    #[error("{at}: WORKDIR failed")]
    Workdir {
        /// Where.
        at: At,
        /// Why.
        source: Box<CopyError>,
    },
    /// A user or group is not in the image.
    #[error("{at}")]
    User {
        /// Where.
        at: At,
        /// Which.
        source: UnknownUser,
    },
    /// A command failed.
    #[error("{at}: the command `{command}` returned a non-zero code: {code}")]
    Command {
        /// Where.
        at: At,
        /// The command.
        command: String,
        /// Its exit code.
        code: i32,
    },
    /// A command could not be run.
    #[error("{at}: cannot run `{command}`")]
    Runner {
        /// Where.
        at: At,
        /// The command.
        command: String,
        /// Why.
        source: RunnerError,
    },
    /// The file system of a step.
    #[error("{at}")]
    Snapshot {
        /// Where.
        at: At,
        /// What is wrong.
        source: Box<SnapshotError>,
    },
    /// The image can't be made.
    #[error(transparent)]
    Image(#[from] Box<ImageError>),
    /// Others can't be told of the steps.
    #[error("cannot export the build cache to `{to}`")]
    ExportCache {
        /// Where to.
        to: String,
        /// Why.
        source: RunnerError,
    },
    /// Its layers can't be made one.
    #[error(transparent)]
    Squash(#[from] Box<SquashError>),
    /// The cache can't be read.
    #[error(transparent)]
    Cache(#[from] Box<MetadataError>),
    /// Nobody wants the result any more.
    #[error("the build was cancelled")]
    Cancelled,
}

/// Why something on another host can't be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoteError {
    /// It can't be downloaded.
    #[error("it can't be downloaded")]
    Download(#[source] Box<RegistryError>),
    /// It does not come to its end, or the disk is full.
    #[error("it can't be read to its end")]
    Read {
        /// Why.
        source: std::io::Error,
    },
    /// A repository.
    #[error(transparent)]
    Git(#[from] GitError),
    /// It is not what `--checksum` says.
    #[error("its checksum is {found}, not {expected}")]
    Checksum {
        /// As asked for.
        expected: String,
        /// As it is.
        found: String,
    },
    /// `--checksum` is none.
    #[error("`{text}` is no checksum: it should be like sha256:…, or a commit's for a repository")]
    NotAChecksum {
        /// As written.
        text: String,
    },
    /// Neither the address nor the server gives it a name.
    #[error("neither the address nor the server gives it a name")]
    NoName,
    /// A repository has no such directory.
    #[error("there is no directory `{path}` in it")]
    NoDirectory {
        /// As asked for.
        path: String,
    },
    /// It was another when the build began.
    #[error("it changes while it is added")]
    Changed,
}

impl RemoteError {
    /// The class to report.
    pub fn class(&self) -> Class {
        match self {
            RemoteError::Download(e) => e.class(),
            RemoteError::Read { .. } | RemoteError::Changed => Class::Unavailable,
            RemoteError::Git(GitError::Missing { .. }) => Class::Unsupported,
            RemoteError::Git(_)
            | RemoteError::Checksum { .. }
            | RemoteError::NotAChecksum { .. }
            | RemoteError::NoDirectory { .. }
            | RemoteError::NoName => Class::Invalid,
        }
    }
}

impl BuildError {
    /// Where in the Dockerfile it happened, if it happened there.
    pub fn at(&self) -> Option<&At> {
        match self {
            BuildError::Parse { at, .. }
            | BuildError::Instruction { at, .. }
            | BuildError::Base { at, .. }
            | BuildError::Pull { at, .. }
            | BuildError::NotGiven { at, .. }
            | BuildError::NotMapped { at, .. }
            | BuildError::Copy { at, .. }
            | BuildError::Remote { at, .. }
            | BuildError::NotADirectory { at, .. }
            | BuildError::Workdir { at, .. }
            | BuildError::User { at, .. }
            | BuildError::Command { at, .. }
            | BuildError::Runner { at, .. }
            | BuildError::Snapshot { at, .. } => Some(at).filter(|at| at.line > 0),
            _ => None,
        }
    }

    /// The class to report.
    pub fn class(&self) -> Class {
        match self {
            BuildError::Context(e) => e.class(),
            BuildError::Instruction { source: Problem::Unsupported { .. }, .. } => Class::Unsupported,
            BuildError::Parse { .. }
            | BuildError::Instruction { .. }
            | BuildError::NoTarget { .. }
            | BuildError::Check { .. }
            | BuildError::Warnings { .. }
            | BuildError::NotADirectory { .. }
            | BuildError::User { .. }
            | BuildError::NotGiven { .. }
            | BuildError::NotMapped { .. }
            | BuildError::Command { .. } => Class::Invalid,
            BuildError::Base { source, .. } => source.class(),
            BuildError::Remote { source, .. } => source.class(),
            BuildError::Copy { source, .. } | BuildError::Workdir { source, .. } => source.class(),
            BuildError::Runner { source, .. }
            | BuildError::Pull { source, .. }
            | BuildError::ExportCache { source, .. } => source.class,
            BuildError::File(e) => e.class(),
            BuildError::Snapshot { source, .. } => source.class(),
            BuildError::Image(e) => e.class(),
            BuildError::Squash(e) => e.class(),
            BuildError::Cache(e) => e.class(),
            BuildError::Cancelled => Class::Unavailable,
        }
    }
}

/// Errors are boxed here, so that a result of a build is small; callers need not care.
macro_rules! boxed {
    ($($error:ty),*) => {$(
        impl From<$error> for BuildError {
            fn from(e: $error) -> Self {
                Box::new(e).into()
            }
        }
    )*};
}
boxed!(ContextError, ImageError, MetadataError);
