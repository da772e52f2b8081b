//! Where a container's output is logged: what our engine tells our shim, and the entries of a `local` log, which the
//! shim writes and the engine reads.
//!
//! A `local` log is a sequence of entries, each `length, LogEntry, length`; a length is 4 bytes, big-endian, and counts
//! the [`LogEntry`] alone. The second one lets a reader go backwards from the end. It is the format of Docker's `local`
//! driver.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What becomes of a container's output besides going to attached clients. Given in an `attach:` address, as JSON.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// Kept in files, to be read again.
    pub kept: Option<KeptLog>,
    /// Sent on.
    pub sent: Option<SentLog>,
}

/// The `attach:` address of a process whose attach socket is to be in `directory`, and whose output is to be logged as
/// `log` says.
///
/// # Errors
/// If a path is not UTF-8.
pub fn attach_address(directory: &Path, log: Option<&LogConfig>) -> serde_json::Result<String> {
    let encoded = |text: &str| text.replace('%', "%25").replace('&', "%26").replace('?', "%3f");
    let mut address = format!("attach://{}", encoded(&directory.to_string_lossy()));
    if let Some(log) = log {
        address += "?log=";
        address += &encoded(&serde_json::to_string(log)?);
    }
    Ok(address)
}

/// A log in files: `path`, and what was rotated away as `path.1`, `path.2`, … (`path.1.gz`, … when compressed).
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub struct KeptLog {
    /// The newest file.
    pub path: PathBuf,
    /// How lines are written.
    pub format: LogFormat,
    /// Bytes at which another file is begun; none is no limit.
    pub max_size: Option<u64>,
    /// How many files, the newest included; at least 1.
    pub max_files: u32,
    /// Files that were rotated away are compressed.
    pub compress: bool,
    /// What stands beside each line of a JSON log as `attrs`.
    pub attributes: BTreeMap<String, String>,
}

/// How the lines of a kept log are written.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// Docker's json-file: an object a line.
    JsonFile,
    /// [`LogEntry`]s between their lengths.
    Local,
}

/// A log that is sent to a service.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum SentLog {
    /// To a syslog server.
    Syslog {
        /// Where it listens.
        to: SyslogAddress,
        /// How messages are written.
        format: SyslogFormat,
        /// 0 (`kern`) to 23 (`local7`), RFC 5424 6.2.1.
        facility: u8,
        /// What messages are tagged with.
        tag: String,
        /// What the sending host is called.
        hostname: String,
    },
    /// To systemd's journal.
    Journald {
        /// The socket of its native protocol.
        socket: PathBuf,
        /// Fields that every entry has.
        fields: BTreeMap<String, String>,
    },
}

/// Where a syslog server listens.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum SyslogAddress {
    /// A datagram socket in the file system.
    Unixgram(PathBuf),
    /// A stream socket in the file system.
    Unix(PathBuf),
    /// UDP.
    Udp(SocketAddr),
    /// TCP.
    Tcp(SocketAddr),
}

/// How a syslog message is written.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum SyslogFormat {
    /// As syslog(3) writes to /dev/log: RFC 3164 without a host's name.
    Unix,
    /// RFC 3164.
    Rfc3164,
    /// RFC 5424 with times in seconds.
    Rfc5424,
    /// RFC 5424 with times in microseconds.
    Rfc5424Micro,
}

/// One line of output, or a piece of one.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LogEntry {
    /// `stdout` or `stderr`.
    #[prost(string, tag = "1")]
    pub source: String,
    /// Nanoseconds since 1970.
    #[prost(int64, tag = "2")]
    pub time_nano: i64,
    /// The text, without its newline.
    #[prost(bytes = "vec", tag = "3")]
    pub line: Vec<u8>,
    /// The line goes on in another entry, or ended without a newline.
    #[prost(bool, tag = "4")]
    pub partial: bool,
    /// Which piece of a long line this is.
    #[prost(message, optional, tag = "5")]
    pub partial_log_metadata: Option<PartialLogEntryMetadata>,
}

/// Which piece of a long line an entry is.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PartialLogEntryMetadata {
    /// It is the last one.
    #[prost(bool, tag = "1")]
    pub last: bool,
    /// What its pieces share.
    #[prost(string, tag = "2")]
    pub id: String,
    /// From 1.
    #[prost(int32, tag = "3")]
    pub ordinal: i32,
}
