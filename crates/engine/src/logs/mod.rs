//! Containers' logs: which drivers there are ([`driver`]), and reading what was kept ([`files`]): from a point in the past,
//! and on while the container runs.
//!
//! The shim writes the log and rotates it to `….1`, `….2`. The reader goes from the oldest file to the newest; a follower
//! sleeps on inotify(7) until the file grows, is rotated, or the container ends.

pub mod driver;
mod files;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use rustix::fs::inotify;
use sampan_base::{Class, Timestamp};
use sampan_rpc::log::LogFormat;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use crate::blocking;
use crate::error::{EngineError, Result};
use files::Position;

/// Which part of a log to read.
#[derive(Clone, Debug, Default)]
pub struct LogQuery {
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// Lines from then on.
    pub since: Option<Timestamp>,
    /// Lines until then.
    pub until: Option<Timestamp>,
    /// Only the last so many lines of what is there now.
    pub tail: Option<u64>,
    /// Go on while the container runs.
    pub follow: bool,
    /// Of a container that was started just now, wait for [`FIRST_WORDS`].
    pub first_words: bool,
}

/// How long after its start a container may take to say what it says at once. Clients start a short command and read its log
/// without waiting for its end, which a slower start than ours makes come out right.
const FIRST_WORDS: Duration = Duration::from_millis(100);

/// Waits until a container that was started just now has ended, or [`FIRST_WORDS`] have passed since.
pub(crate) async fn first_words(started_at: Timestamp, mut alive: watch::Receiver<bool>) {
    let age = Timestamp::now().unix_nanos() - started_at.unix_nanos();
    // Of a clock that was put back nothing follows.
    let age = u64::try_from(age).map_or(FIRST_WORDS, Duration::from_nanos);
    if let Some(left) = FIRST_WORDS.checked_sub(age) {
        // Both ends of the wait are what was waited for.
        let _ = tokio::time::timeout(left, alive.wait_for(|alive| !alive)).await;
    }
}

/// One line (or a part of at most 16 KiB of one).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// When it was written.
    pub at: Timestamp,
    /// It came from standard error.
    pub stderr: bool,
    /// The text, with its newline if it has one.
    pub text: String,
    /// What the log's options chose to stand beside it.
    pub attributes: BTreeMap<String, String>,
}

/// A log being read.
#[derive(Debug)]
pub struct LogReader {
    position: Position,
    query: LogQuery,
    follow: Option<Follow>,
}

#[derive(Debug)]
struct Follow {
    inotify: AsyncFd<std::os::fd::OwnedFd>,
    alive: watch::Receiver<bool>,
    ended: bool,
}

impl LogReader {
    /// Opens the log at `path`. `alive` says whether the container runs: a follower ends when it does not.
    ///
    /// # Errors
    /// If the log can't be read or watched.
    pub(crate) async fn open(
        path: &Path,
        format: LogFormat,
        query: LogQuery,
        alive: watch::Receiver<bool>,
    ) -> Result<LogReader> {
        // Watched first: what is written between the watch and the first read is then seen by one of them.
        let follow = if query.follow { Some(follow(path, alive)?) } else { None };
        let (path, tail) = (path.to_owned(), query.tail);
        let position = blocking(move || Position::start(&path, format, tail)).await?;
        Ok(LogReader { position, query, follow })
    }

    /// The next lines; empty at the end of the log.
    ///
    /// # Errors
    /// If the log can't be read.
    pub async fn next(mut self) -> Result<(LogReader, Vec<LogLine>)> {
        loop {
            let mut position = self.position;
            let (position, lines, at_end) = blocking(move || {
                let read = position.read();
                read.map(|(lines, at_end)| (position, lines, at_end))
            })
            .await?;
            self.position = position;
            let mut wanted = Vec::with_capacity(lines.len());
            for line in lines {
                if self.query.until.is_some_and(|until| line.at > until) {
                    if self.follow.is_some() {
                        return Ok((self, wanted));
                    }
                    // The clock may have been set back afterwards.
                    continue;
                }
                let stream = if line.stderr { self.query.stderr } else { self.query.stdout };
                if stream && self.query.since.is_none_or(|since| line.at >= since) {
                    wanted.push(line);
                }
            }
            if !wanted.is_empty() {
                return Ok((self, wanted));
            }
            if !at_end {
                continue;
            }
            let Some(follow) = &mut self.follow else { return Ok((self, Vec::new())) };
            if follow.ended {
                return Ok((self, Vec::new()));
            }
            follow.wait().await?;
        }
    }
}

fn follow(path: &Path, alive: watch::Receiver<bool>) -> Result<Follow> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let failed = || EngineError::io(format!("cannot watch the log `{}`", path.display()));
    let fd = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)
        .map_err(std::io::Error::from)
        .map_err(failed())?;
    // The directory, since rotation makes a new file of the name.
    let flags = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
    inotify::add_watch(&fd, directory, flags).map_err(std::io::Error::from).map_err(failed())?;
    #[expect(
        deprecated,
        reason = "an OwnedFd stays open and the same, as `register` demands, which is an unsafe fn"
    )]
    let inotify = AsyncFd::new(fd).map_err(failed())?;
    Ok(Follow { inotify, alive, ended: false })
}

impl Follow {
    /// Until something was written or the container has ended.
    async fn wait(&mut self) -> Result<()> {
        tokio::select! {
            ready = self.inotify.readable() => {
                let mut ready = ready.map_err(EngineError::io("cannot wait for the log to grow"))?;
                let mut events = [0u8; 4096];
                // What happened does not matter, only that something did: drain and read the log again.
                while rustix::io::read(&self.inotify, &mut events).is_ok_and(|n| n > 0) {}
                ready.clear_ready();
            }
            // The sender going away means that nobody looks after the container any more.
            _ = self.alive.wait_for(|alive| !alive) => self.ended = true,
        }
        Ok(())
    }
}

/// The error for a container whose log driver keeps nothing to read.
pub(crate) fn unreadable(driver: &str) -> EngineError {
    EngineError::layer(
        Class::Unsupported,
        format!("configured logging driver (`{driver}`) does not support reading"),
    )("nothing is kept")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write as _;
    use std::io::Write as _;

    fn lines(range: std::ops::Range<u32>) -> String {
        range.fold(String::new(), |mut text, n| {
            let stream = if n % 2 == 0 { "stdout" } else { "stderr" };
            writeln!(text, r#"{{"log":"{n}\n","stream":"{stream}","time":"2026-01-01T00:00:{n:02}Z"}}"#)
                .unwrap();
            text
        })
    }

    async fn read(path: &Path, query: LogQuery) -> String {
        let (_keep, alive) = watch::channel(false);
        let mut reader = LogReader::open(path, LogFormat::JsonFile, query, alive).await.unwrap();
        let mut text = String::new();
        loop {
            let (next, lines) = reader.next().await.unwrap();
            if lines.is_empty() {
                return text.trim_end().replace('\n', " ");
            }
            lines.iter().for_each(|l| text += &l.text);
            reader = next;
        }
    }

    fn both() -> LogQuery {
        LogQuery { stdout: true, stderr: true, ..LogQuery::default() }
    }

    #[tokio::test]
    async fn reads_across_rotated_files_and_from_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c-json.log");
        std::fs::write(dir.path().join("c-json.log.2"), lines(0..3)).unwrap();
        std::fs::write(dir.path().join("c-json.log.1"), lines(3..6)).unwrap();
        std::fs::write(&path, lines(6..8)).unwrap();
        assert_eq!(read(&path, both()).await, "0 1 2 3 4 5 6 7");
        for (tail, expected) in
            [(0, ""), (1, "7"), (2, "6 7"), (3, "5 6 7"), (6, "2 3 4 5 6 7"), (99, "0 1 2 3 4 5 6 7")]
        {
            assert_eq!(read(&path, LogQuery { tail: Some(tail), ..both() }).await, expected, "tail {tail}");
        }
        assert_eq!(read(&path, LogQuery { stderr: true, ..LogQuery::default() }).await, "1 3 5 7");
        let since = Some("2026-01-01T00:00:05Z".parse().unwrap());
        assert_eq!(read(&path, LogQuery { since, ..both() }).await, "5 6 7");
        let until = Some("2026-01-01T00:00:01Z".parse().unwrap());
        assert_eq!(read(&path, LogQuery { until, ..both() }).await, "0 1");
    }

    #[tokio::test]
    async fn a_missing_log_is_empty_and_a_torn_line_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c-json.log");
        assert_eq!(read(&path, both()).await, "");
        std::fs::write(&path, lines(0..1) + "{\"log\":\"tor\n" + &lines(2..3)).unwrap();
        assert_eq!(read(&path, both()).await, "0 2");
    }

    #[tokio::test]
    async fn a_follower_sees_growth_and_rotation_and_ends_with_the_container() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c-json.log");
        std::fs::write(&path, lines(0..1)).unwrap();
        let (ended, alive) = watch::channel(true);
        let query = LogQuery { follow: true, ..both() };
        let reader = LogReader::open(&path, LogFormat::JsonFile, query, alive).await.unwrap();
        let (reader, got) = reader.next().await.unwrap();
        assert_eq!(got[0].text, "0\n");
        let writer = path.clone();
        tokio::task::spawn_blocking(move || {
            let mut file = std::fs::OpenOptions::new().append(true).open(&writer).unwrap();
            file.write_all(lines(1..2).as_bytes()).unwrap();
            std::fs::rename(&writer, writer.with_extension("log.1")).unwrap();
            std::fs::write(&writer, lines(2..3)).unwrap();
        })
        .await
        .unwrap();
        let mut text = String::new();
        let mut reader = reader;
        while text != "1\n2\n" {
            let (next, got) = reader.next().await.unwrap();
            got.iter().for_each(|l| text += &l.text);
            reader = next;
        }
        ended.send(false).unwrap();
        assert!(reader.next().await.unwrap().1.is_empty());
    }
}
