//! The closed set of error classes. Every public error of ours answers `class()`; each skin keeps one table
//! from class to its own codes (HTTP status, gRPC code, exit status).

use std::error::Error;

/// Whose fault an error is and what may be done about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// What was asked makes no sense: a malformed name, option, file.
    Invalid,
    /// A thing that was named does not exist.
    NotFound,
    /// A thing of that name exists already, or is in a state that forbids the request.
    Conflict,
    /// The thing already is as asked for.
    NotModified,
    /// The caller may not do this.
    Forbidden,
    /// This host or this program cannot do it.
    Unsupported,
    /// Space, descriptors or another bounded resource ran out.
    Exhausted,
    /// Something that we depend on does not answer; trying again may help.
    Unavailable,
    /// The command in a container could not be started because it does not exist.
    CommandNotFound,
    /// The command in a container exists but cannot be executed.
    CommandNotExecutable,
    /// Anything else: the host failed us, or a bug.
    Internal,
}

/// An error's text with those of its sources, joined by `: `.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}

/// The class of an I/O error that has no better one.
pub fn class_of_io(error: &std::io::Error) -> Class {
    use std::io::ErrorKind as K;
    match error.kind() {
        K::NotFound => Class::NotFound,
        K::StorageFull | K::QuotaExceeded | K::OutOfMemory => Class::Exhausted,
        _ => Class::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_names_each_layer_once() {
        let io = std::io::Error::other("disk on fire");
        let file = crate::FileError { action: "read", path: "/x".into(), source: io };
        assert_eq!(chain(&file), "cannot read `/x`: disk on fire");
    }
}
