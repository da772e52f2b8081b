//! What a process writes, as lines in a log: kept in files, sent to a service, or both.
//!
//! * `lines`: from bytes to lines and pieces of lines.
//! * `file`: files that rotate. `json`, `entry`: the two ways a line is written to one.
//! * `remote`: a queue and a socket that never wait. `syslog`, `journald`: what is sent.
//!
//! A crash of the shim loses nothing but pieces of lines whose end has not come, and what a remote service has not
//! taken yet. A log that fails says so once in the shim's own log, and the container goes on without it.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::event::PollFlags;
use sampan_base::Timestamp;
use sampan_rpc::log::{LogConfig, LogFormat, SentLog};

mod entry;
mod file;
mod journald;
mod json;
mod lines;
mod remote;
mod syslog;

pub use file::compress;
pub use lines::Stream;

use file::RotatingFile;
use lines::{Line, Lines};
use remote::Remote;

/// A log that is being written.
#[derive(Debug)]
pub(super) struct Log {
    lines: Lines,
    kept: Option<Kept>,
    sent: Option<(SentLog, Remote)>,
}

#[derive(Debug)]
struct Kept {
    file: RotatingFile,
    encoder: Encoder,
}

/// How a line is written to a file.
#[derive(Debug)]
enum Encoder {
    Json(json::Encoder),
    Local,
}

impl Encoder {
    fn push(&self, out: &mut Vec<u8>, line: &Line<'_>) {
        match self {
            Encoder::Json(encoder) => encoder.push(out, line),
            Encoder::Local => entry::push(out, line),
        }
    }
}

impl Log {
    /// Opens the files and connects to the service.
    ///
    /// # Errors
    /// If a file can't be opened, or the service can't be reached.
    pub(super) fn open(config: LogConfig) -> io::Result<Log> {
        let kept = match config.kept {
            Some(kept) => Some(Kept {
                encoder: match kept.format {
                    LogFormat::JsonFile => Encoder::Json(json::Encoder::new(&kept.attributes)?),
                    LogFormat::Local => Encoder::Local,
                },
                file: RotatingFile::open(kept)?,
            }),
            None => None,
        };
        let sent = match config.sent {
            Some(sent) => {
                let remote = match &sent {
                    SentLog::Syslog { to, .. } => Remote::syslog(to.clone())?,
                    SentLog::Journald { socket, .. } => Remote::datagrams(socket.clone())?,
                };
                Some((sent, remote))
            }
            None => None,
        };
        Ok(Log { lines: Lines::default(), kept, sent })
    }

    /// Logs what a process has written.
    pub(super) fn write(&mut self, stream: Stream, bytes: &[u8], now: Timestamp) {
        let mut out = Vec::new();
        let Log { lines, kept, sent } = self;
        lines.take(stream, bytes, now, |line| push(kept, sent, &mut out, &line));
        self.append(&out);
    }

    /// The process has exited: lines without end are logged as they are.
    pub(super) fn end(&mut self) {
        let mut out = Vec::new();
        let Log { lines, kept, sent } = self;
        lines.end(|line| push(kept, sent, &mut out, &line));
        self.append(&out);
    }

    fn append(&mut self, out: &[u8]) {
        if let Some(kept) = &mut self.kept {
            kept.file.append(out);
        }
        if let Some((_, remote)) = &mut self.sent {
            remote.flush();
        }
    }

    /// What to wait for before more can be sent.
    pub(super) fn interest(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        self.sent.as_ref().and_then(|(_, remote)| remote.interest())
    }

    /// The service takes more.
    pub(super) fn ready(&mut self) {
        if let Some((_, remote)) = &mut self.sent {
            remote.flush();
        }
    }
}

fn push(kept: &mut Option<Kept>, sent: &mut Option<(SentLog, Remote)>, out: &mut Vec<u8>, line: &Line<'_>) {
    if let Some(kept) = kept {
        kept.file.rotate_if_full(out);
        kept.encoder.push(out, line);
    }
    match sent {
        Some((SentLog::Syslog { format, facility, tag, hostname, .. }, remote)) => {
            let origin = syslog::Origin { facility: *facility, tag, hostname };
            let framed = remote.is_stream();
            remote.push(syslog::message(*format, &origin, line, framed));
        }
        Some((SentLog::Journald { fields, .. }, remote)) => remote.push(journald::message(fields, line)),
        None => {}
    }
}
