//! Where errors and warnings go: standard error, or the file of `--log`, as text or JSON lines in the shape that
//! the callers of OCI runtimes parse (`level`, `msg`, `time`).

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

use sampan_base::{FileError, Timestamp};

/// How a line is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Format {
    /// `time="…" level=… msg="…"`.
    #[default]
    Text,
    /// `{"level":…,"msg":…,"time":…}`.
    Json,
}

/// How grave a line is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    /// The command failed.
    Error,
    /// Something was asked for that this host can't do, and is done without.
    Warning,
    /// Told with `--debug` only.
    Debug,
}

/// Milestones of a process's way into a container, for `--debug`. People and test suites look for them by the words
/// that runc has for them.
pub mod milestone {
    /// The process is born.
    pub const BORN: &str = "nsexec container setup: the process is born";
    /// The process is in the container and has only its program to run.
    pub const READY: &str = "child process in init(): ready";
    /// The container's first process runs its program next.
    pub const INIT: &str = "init: closing the pipe to signal completion: about to exec";
    /// An added process runs its program next.
    pub const ADDED: &str = "setns_init: about to exec";
}

/// The log of one run of a command.
#[derive(Debug, Default)]
pub struct Log {
    file: Option<File>,
    format: Format,
    debug: bool,
}

impl Log {
    /// A log to the file at `path`, or to standard error.
    ///
    /// # Errors
    /// If the file can't be opened.
    pub fn open(path: Option<&Path>, format: Format, debug: bool) -> Result<Log, FileError> {
        let open = |path: &Path| {
            let file = OpenOptions::new().append(true).create(true).open(path);
            file.map_err(FileError::on("open the log file", path))
        };
        let file = path.map(open).transpose()?;
        Ok(Log { file, format, debug })
    }

    /// Tells that the command failed. With a log file, standard error gets the bare text, too: people look there.
    pub fn error(&self, message: &str) {
        self.write(Level::Error, message);
        if self.file.is_some() {
            say(message);
        }
    }

    /// Tells that something is done without.
    pub fn warn(&self, message: &str) {
        self.write(Level::Warning, message);
    }

    /// Tells what happens, if `--debug` was given.
    pub fn debug(&self, message: impl FnOnce() -> String) {
        if self.debug {
            self.write(Level::Debug, &message());
        }
    }

    fn write(&self, level: Level, message: &str) {
        let line = line(self.format, level, message, &now());
        // There is nowhere to tell that the log can't be written.
        let _ = match &self.file {
            Some(file) => (&mut &*file).write_all(line.as_bytes()),
            None => std::io::stderr().write_all(line.as_bytes()),
        };
    }
}

/// Writes a bare line to standard error.
pub fn say(message: &str) {
    // There is nowhere to tell that standard error can't be written.
    let _ = std::io::stderr().write_all(format!("{message}\n").as_bytes());
}

fn now() -> String {
    // Whole seconds, as the callers' parsers have always seen them.
    Timestamp::from_unix(Timestamp::now().unix_seconds(), 0).map(|t| t.to_string()).unwrap_or_default()
}

fn line(format: Format, level: Level, message: &str, time: &str) -> String {
    let level = match level {
        Level::Error => "error",
        Level::Warning => "warning",
        Level::Debug => "debug",
    };
    let quoted = serde_json::Value::from(message).to_string();
    match format {
        Format::Text => format!("time=\"{time}\" level={level} msg={quoted}\n"),
        Format::Json => format!("{{\"level\":\"{level}\",\"msg\":{quoted},\"time\":\"{time}\"}}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_the_shapes_that_callers_parse() {
        let message = "exec: \"foo\": executable file not found in $PATH";
        assert_eq!(
            line(Format::Text, Level::Error, message, "T"),
            "time=\"T\" level=error msg=\"exec: \\\"foo\\\": executable file not found in $PATH\"\n"
        );
        let json: serde_json::Value =
            serde_json::from_str(&line(Format::Json, Level::Warning, message, "T")).unwrap();
        assert_eq!(json, serde_json::json!({"level": "warning", "msg": message, "time": "T"}));
    }
}
