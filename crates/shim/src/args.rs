//! The command line as containerd gives it: Go's flags, then `start`, `delete` or nothing, which is to serve.

use std::path::PathBuf;

/// What to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verb {
    /// Start a server for the bundle in the current directory and print its address.
    Start,
    /// Clean up after a server that died.
    Delete,
    /// Be the server: descriptor 0 is the listening socket.
    Serve,
    /// Print the version.
    Version,
}

/// The whole command line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Arguments {
    /// What to do.
    pub verb: Verb,
    /// containerd's namespace.
    pub namespace: String,
    /// The container's id.
    pub id: String,
    /// containerd's gRPC address; empty if there is no containerd.
    pub address: String,
    /// A program that takes events, for when there is no ttrpc address.
    pub publish_binary: String,
    /// Where to listen; empty to choose.
    pub socket: String,
    /// The bundle; empty if it is the current directory.
    pub bundle: PathBuf,
    /// Log more.
    pub debug: bool,
}

/// A command line that makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum ArgumentError {
    /// A flag that no shim has.
    #[error("unknown flag `{flag}`")]
    UnknownFlag {
        /// As given.
        flag: String,
    },
    /// A flag at the end without its value.
    #[error("flag `{flag}` needs a value")]
    MissingValue {
        /// As given.
        flag: String,
    },
    /// A word that is not a command.
    #[error("unknown command `{word}`: use `start` or `delete`, or nothing to serve")]
    UnknownCommand {
        /// As given.
        word: String,
    },
}

/// Reads the arguments after the program's name.
///
/// # Errors
/// See [`ArgumentError`].
pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Arguments, ArgumentError> {
    let mut parsed = Arguments {
        verb: Verb::Serve,
        namespace: String::new(),
        id: String::new(),
        address: String::new(),
        publish_binary: String::new(),
        socket: String::new(),
        bundle: PathBuf::new(),
        debug: false,
    };
    let mut rest = arguments.into_iter();
    while let Some(argument) = rest.next() {
        let Some(flag) = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-')) else {
            parsed.verb = match argument.as_str() {
                "start" => Verb::Start,
                "delete" => Verb::Delete,
                _ => return Err(ArgumentError::UnknownCommand { word: argument }),
            };
            continue;
        };
        let (name, inline) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (flag, None),
        };
        match name {
            "debug" => {
                parsed.debug = inline.is_none_or(|v| matches!(v.as_str(), "true" | "1"));
                continue;
            }
            "v" | "version" => {
                parsed.verb = Verb::Version;
                continue;
            }
            "namespace" | "id" | "address" | "publish-binary" | "socket" | "bundle" => {}
            _ => return Err(ArgumentError::UnknownFlag { flag: argument }),
        }
        let name = name.to_owned();
        let Some(value) = inline.or_else(|| rest.next()) else {
            return Err(ArgumentError::MissingValue { flag: argument });
        };
        match name.as_str() {
            "namespace" => parsed.namespace = value,
            "id" => parsed.id = value,
            "address" => parsed.address = value,
            "publish-binary" => parsed.publish_binary = value,
            "socket" => parsed.socket = value,
            _ => parsed.bundle = PathBuf::from(value),
        }
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str) -> Result<Arguments, String> {
        parse(line.split_whitespace().map(str::to_owned)).map_err(|e| e.to_string())
    }

    #[test]
    fn reads_what_containerd_gives() {
        let a = check(
            "-namespace k8s.io -address /run/c.sock -publish-binary /usr/bin/containerd -id x -debug start",
        )
        .unwrap();
        assert_eq!(
            (a.verb, a.namespace.as_str(), a.id.as_str(), a.debug),
            (Verb::Start, "k8s.io", "x", true)
        );
        let a = check("--namespace=n --bundle /b --id=y delete").unwrap();
        assert_eq!((a.verb, a.id.as_str(), a.bundle.to_str().unwrap()), (Verb::Delete, "y", "/b"));
        assert_eq!(check("-namespace n -id z").unwrap().verb, Verb::Serve);
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        assert_eq!(check("-frobnicate start").unwrap_err(), "unknown flag `-frobnicate`");
        assert_eq!(check("-id").unwrap_err(), "flag `-id` needs a value");
        assert!(check("stop").unwrap_err().contains("unknown command `stop`"));
    }
}
