//! Why a registry did not do what it was asked: which registry, what was tried, what it answered.

use std::fmt;
use std::io;

use sampan_base::Class;
use serde::Deserialize;

use crate::limits::MAX_SHOWN_ERROR_CHARS;

/// A request that failed. Its Display says which registry and what was tried; its source, why.
///
/// One type for all verbs, because they all fail in the same ways: the verb is in `doing`.
#[derive(Debug, thiserror::Error)]
#[error("{registry}: cannot {doing}")]
pub struct RegistryError {
    /// The registry, as it was asked: `http://127.0.0.1:5000`.
    pub registry: String,
    /// What was tried: `pull the manifest web:latest`.
    pub doing: String,
    /// Why it failed.
    #[source]
    pub cause: Box<Cause>,
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// The registry, or the server of its tokens, refused.
    #[error("{0}")]
    Refused(Refusal),
    /// No answer, or it was cut off.
    #[error("no answer")]
    Connection {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A TLS connection could not be made.
    #[error("no secure connection{hint}")]
    Tls {
        /// What may be done.
        hint: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The answer is not one that the protocol has.
    #[error("the answer makes no sense: {what}")]
    Nonsense {
        /// What is wrong with it.
        what: String,
    },
    /// The answer is longer than we read.
    #[error("the answer is longer than {limit} bytes")]
    TooLong {
        /// The limit.
        limit: u64,
    },
    /// The content is not what was asked for.
    #[error("the content is wrong: {what}")]
    WrongContent {
        /// What was expected, and what came.
        what: String,
    },
    /// There is no image for the platform in the index.
    #[error("no image for {wanted}; there are: {there}")]
    NoPlatform {
        /// The platform that was asked for.
        wanted: String,
        /// The platforms that there are.
        there: String,
    },
    /// The registry asks to wait longer than we do.
    #[error("the registry asks to come back in {seconds} s")]
    ComeBackLater {
        /// How long.
        seconds: u64,
    },
    /// The bytes that were to be sent can't be read.
    #[error("cannot read what is to be sent")]
    Local {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// This host's configuration of the registry is wrong.
    #[error("{what}")]
    Config {
        /// What is wrong with it.
        what: String,
    },
    /// We do not do this.
    #[error("not supported: {what}")]
    Unsupported {
        /// What.
        what: String,
    },
    /// Nobody wants it any more.
    #[error("cancelled")]
    Cancelled,
}

/// An answer that is a refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// What the registry said, in the protocol's words.
    pub errors: Vec<ErrorDetail>,
    /// What it said in other words, shortened.
    pub text: String,
    /// Whether credentials went with the request.
    pub authenticated: bool,
}

/// One of the errors in an answer.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct ErrorDetail {
    /// `MANIFEST_UNKNOWN`, `DENIED`, ….
    pub code: String,
    /// For people.
    pub message: String,
}

impl Refusal {
    /// Reads the body of an answer.
    pub(crate) fn read(status: u16, body: &[u8], authenticated: bool) -> Refusal {
        #[derive(Deserialize)]
        struct Errors {
            errors: Option<Vec<ErrorDetail>>,
        }
        let mut errors =
            serde_json::from_slice::<Errors>(body).ok().and_then(|e| e.errors).unwrap_or_default();
        for error in &mut errors {
            error.code = clean(&error.code);
            error.message = clean(&error.message);
        }
        let text = if errors.is_empty() { clean(&String::from_utf8_lossy(body)) } else { String::new() };
        Refusal { status, errors, text, authenticated }
    }

    /// Whether the answer has this code.
    pub fn has(&self, code: &str) -> bool {
        self.errors.iter().any(|e| e.code == code)
    }
}

/// What comes from outside is shown in one line and without what would move a terminal's cursor.
pub(crate) fn clean(text: &str) -> String {
    let one_line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    one_line.chars().filter(|c| !c.is_control()).take(MAX_SHOWN_ERROR_CHARS).collect()
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the registry answered {}", self.status)?;
        let mut separator = ": ";
        for error in &self.errors {
            write!(f, "{separator}{}", error.code)?;
            if !error.message.is_empty() {
                write!(f, " ({})", error.message)?;
            }
            separator = ", ";
        }
        if !self.text.is_empty() {
            write!(f, ": {}", self.text)?;
        }
        match (self.status, self.authenticated) {
            (401 | 403, false) => f.write_str("; perhaps `sampan login` is needed"),
            (401, true) => f.write_str("; the credentials were not accepted: try `sampan login` again"),
            _ => Ok(()),
        }
    }
}

impl RegistryError {
    /// The class to report.
    pub fn class(&self) -> Class {
        match &*self.cause {
            Cause::Refused(refusal) => match refusal.status {
                400 | 405 | 413 | 416 => Class::Invalid,
                401 | 403 => Class::Forbidden,
                404 => Class::NotFound,
                _ => Class::Unavailable,
            },
            Cause::Connection { .. } | Cause::ComeBackLater { .. } | Cause::Cancelled => Class::Unavailable,
            Cause::NoPlatform { .. } => Class::NotFound,
            Cause::Config { .. } => Class::Invalid,
            Cause::Unsupported { .. } => Class::Unsupported,
            Cause::Tls { .. }
            | Cause::Nonsense { .. }
            | Cause::TooLong { .. }
            | Cause::WrongContent { .. }
            | Cause::Local { .. } => Class::Internal,
        }
    }

    /// The registry's refusal, if it is one.
    pub fn refusal(&self) -> Option<&Refusal> {
        match &*self.cause {
            Cause::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// Whether it failed because it was cancelled.
    pub fn is_cancelled(&self) -> bool {
        matches!(*self.cause, Cause::Cancelled)
    }

    /// As an error of reading, for those who read a blob.
    pub(crate) fn into_io(self) -> io::Error {
        let kind = match &*self.cause {
            Cause::Connection { source } => source.kind(),
            Cause::WrongContent { .. } | Cause::Nonsense { .. } => io::ErrorKind::InvalidData,
            Cause::Refused(r) if r.status == 404 => io::ErrorKind::NotFound,
            Cause::Refused(r) if matches!(r.status, 401 | 403) => io::ErrorKind::PermissionDenied,
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answers_errors_are_named_and_made_harmless() {
        let body = br#"{"errors":[{"code":"DENIED","message":"no\n\u001b[2Jway","detail":{"a":1}}]}"#;
        let refusal = Refusal::read(403, body, false);
        assert_eq!(
            refusal.to_string(),
            "the registry answered 403: DENIED (no [2Jway); perhaps `sampan login` is needed"
        );
        assert!(refusal.has("DENIED"));
        let page = Refusal::read(502, b"<html>\n  bad   gateway</html>", true);
        assert_eq!(page.to_string(), "the registry answered 502: <html> bad gateway</html>");
        let long = Refusal::read(500, "x".repeat(100_000).as_bytes(), false);
        assert!(long.to_string().len() < 600);
    }
}
