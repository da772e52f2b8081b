//! The two shapes of failure that every verb's own error is built from.

use std::io;

use sampan_base::Class;

/// One step that the kernel refused: what was tried, on what.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing}")]
pub struct Step {
    /// A verb and its object, with names in backticks: "mount `proc` at `/proc`".
    pub doing: String,
    /// Why not.
    pub source: io::Error,
}

impl Step {
    /// Wraps the error of `doing`, for `map_err`. The text is made only when there is an error.
    pub fn on<E: Into<io::Error>, D: Into<String>>(doing: impl FnOnce() -> D) -> impl FnOnce(E) -> Step {
        move |error| Step { doing: doing().into(), source: error.into() }
    }

    /// A step that fails for a reason of our own.
    pub fn refused(doing: impl Into<String>, why: impl Into<String>) -> Step {
        Step { doing: doing.into(), source: io::Error::other(why.into()) }
    }

    /// The class to report.
    pub fn class(&self) -> Class {
        match self.source.raw_os_error() {
            // A missing directory of the host is the host's fault, not an unknown container.
            Some(libc_enospc) if libc_enospc == rustix::io::Errno::NOSPC.raw_os_error() => Class::Exhausted,
            Some(nosys) if nosys == rustix::io::Errno::NOSYS.raw_os_error() => Class::Unsupported,
            _ => Class::Internal,
        }
    }
}

/// What config.json or the command line asks for and cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// It makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// It makes sense, but not with this program or on this host.
    #[error("{0} is not supported")]
    Unsupported(String),
}

impl Refused {
    /// The class to report.
    pub fn class(&self) -> Class {
        match self {
            Refused::Invalid(_) => Class::Invalid,
            Refused::Unsupported(_) => Class::Unsupported,
        }
    }
}
