//! What an engine's verb can fail with. The first variants are denials that name what forbids the request; the last
//! wraps what a lower layer said, with what the engine was doing.

use std::error::Error;

use sampan_base::Class;

/// Why the engine did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// No container has this name or id.
    #[error("No such container: {name}")]
    NoSuchContainer {
        /// As it was asked for.
        name: String,
    },
    /// No image has this name or id.
    #[error("No such image: {name}")]
    NoSuchImage {
        /// As it was asked for.
        name: String,
    },
    /// No exec has this id.
    #[error("No such exec instance: {id}")]
    NoSuchExec {
        /// As it was asked for.
        id: String,
    },
    /// No volume has this name.
    #[error("{doing}: error looking up volume plugin {name}: plugin \"{name}\" not found")]
    NoSuchPlugin {
        /// What for.
        doing: String,
        /// The plugin's name.
        name: String,
    },
    /// A container's shim has ended while the container was started.
    #[error("the container's shim ended at once: {said}")]
    ShimLost {
        /// The container had been made, so its process may have run.
        made: bool,
        /// Its last words.
        said: String,
    },
    /// There is nothing at a path.
    #[error("Could not find the file {path} in container {container}")]
    NoSuchPath {
        /// The path.
        path: String,
        /// The container as it was asked for.
        container: String,
    },
    /// There is no such volume.
    #[error("get {name}: no such volume")]
    NoSuchVolume {
        /// As it was asked for.
        name: String,
    },
    /// A directory that whoever asks sees, and this process does not.
    #[error("`{}` is another directory here than where the request comes from", path.display())]
    NotThisHost {
        /// The directory.
        path: std::path::PathBuf,
    },
    /// No network has this name or id.
    #[error("network {name} not found")]
    NoSuchNetwork {
        /// As it was asked for.
        name: String,
    },
    /// No image here has the name that is to be pushed.
    #[error("An image does not exist locally with the tag: {name}")]
    NotToPush {
        /// The name.
        name: String,
    },
    /// No image here has the tag that is to be pushed.
    #[error("tag does not exist: {name}")]
    NoSuchTag {
        /// The name.
        name: String,
    },
    /// The registry has the image for another machine only.
    #[error(
        "image with reference {name} was found but does not match the specified platform: wanted {wanted}, actual: {has}"
    )]
    Platform {
        /// The image's name.
        name: String,
        /// The platform that was asked for.
        wanted: String,
        /// The platform that the image is for.
        has: String,
    },
    /// More than one thing's id starts so.
    #[error("Multiple IDs found with provided prefix: {prefix}")]
    Ambiguous {
        /// As it was asked for.
        prefix: String,
    },
    /// Another container has the name.
    #[error(
        "Conflict. The container name \"/{name}\" is already in use by container \"{owner}\". You have to remove (or rename) that container to be able to reuse that name."
    )]
    NameInUse {
        /// The name.
        name: String,
        /// The id of the container that has it.
        owner: String,
    },
    /// The container's state forbids it.
    #[error(transparent)]
    Denied(#[from] crate::container::state::Denial),
    /// What was asked makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The request conflicts with what is there.
    #[error("{0}")]
    Conflict(String),
    /// This engine can't do it.
    #[error("{0}")]
    Unsupported(String),
    /// It is not allowed here.
    #[error("{0}")]
    Forbidden(String),
    /// There is nothing left of what is asked for.
    #[error("{0}")]
    Exhausted(String),
    /// It needs something that does not run here.
    #[error("{0}")]
    Unavailable(String),
    /// Something that is asked for by name is not there.
    #[error("{0}")]
    NotFound(String),
    /// It could not be done.
    #[error("{0}")]
    Failed(String),
    /// The command can't be started.
    #[error("{message}")]
    Command {
        /// What the runtime said.
        message: String,
        /// 126 or 127.
        exit_code: u8,
    },
    /// The engine is shutting down, or the task that owned the thing has ended.
    #[error("the engine is no longer looking after {what}")]
    Gone {
        /// What was asked for.
        what: String,
    },
    /// A lower layer failed.
    #[error("{doing}")]
    Layer {
        /// What the engine was doing, to what.
        doing: String,
        /// The lower layer's class.
        class: Class,
        /// What it said.
        source: Box<dyn Error + Send + Sync>,
    },
}

impl EngineError {
    /// The class for the skin's table of codes.
    pub fn class(&self) -> Class {
        match self {
            EngineError::NoSuchContainer { .. }
            | EngineError::NoSuchImage { .. }
            | EngineError::NoSuchExec { .. }
            | EngineError::NoSuchVolume { .. }
            | EngineError::NoSuchPath { .. }
            | EngineError::NoSuchPlugin { .. }
            | EngineError::NoSuchNetwork { .. }
            | EngineError::NotToPush { .. }
            | EngineError::NoSuchTag { .. }
            | EngineError::Platform { .. } => Class::NotFound,
            EngineError::Ambiguous { .. } | EngineError::Invalid(_) | EngineError::NotThisHost { .. } => {
                Class::Invalid
            }
            EngineError::NameInUse { .. } | EngineError::Conflict(_) => Class::Conflict,
            EngineError::Denied(denial) => denial.class(),
            EngineError::Unsupported(_) => Class::Unsupported,
            EngineError::Forbidden(_) => Class::Forbidden,
            EngineError::Exhausted(_) => Class::Exhausted,
            EngineError::Unavailable(_) => Class::Unavailable,
            EngineError::NotFound(_) => Class::NotFound,
            EngineError::Failed(_) | EngineError::ShimLost { .. } => Class::Internal,
            EngineError::Command { exit_code: 127, .. } => Class::CommandNotFound,
            EngineError::Command { .. } => Class::CommandNotExecutable,
            EngineError::Gone { .. } => Class::Unavailable,
            EngineError::Layer { class, .. } => *class,
        }
    }

    /// Wraps a lower layer's error whose class is known.
    pub fn layer<E>(class: Class, doing: impl Into<String>) -> impl FnOnce(E) -> EngineError
    where
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let doing = doing.into();
        move |source| EngineError::Layer { doing, class, source: source.into() }
    }

    /// Wraps an I/O error.
    pub fn io(doing: impl Into<String>) -> impl FnOnce(std::io::Error) -> EngineError {
        let doing = doing.into();
        move |source| EngineError::Layer {
            doing,
            class: match sampan_base::error::class_of_io(&source) {
                // A file of ours that is missing is not the thing that the caller asked for.
                Class::NotFound => Class::Internal,
                class => class,
            },
            source: source.into(),
        }
    }

    /// Wraps a file error.
    pub fn file(error: sampan_base::FileError) -> EngineError {
        let FileError { action, path, source } = error;
        EngineError::io(format!("cannot {action} `{}`", path.display()))(source)
    }
}

use sampan_base::FileError;

/// The result of an engine's verb.
pub type Result<T> = std::result::Result<T, EngineError>;
