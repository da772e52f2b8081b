//! Reading a container's json-file log: from a point in the past, and on while the container runs.
//!
//! The shim writes the log, one JSON object a line (`log`, `stream`, `time`: Docker's json-file format), and rotates it to
//! `….1`, `….2`. The reader goes from the oldest file to the newest; a follower sleeps on inotify(7) until the file grows,
//! is rotated, or the container ends.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::inotify;
use sampan_base::{Class, Timestamp};
use serde::Deserialize;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use crate::blocking;
use crate::error::{EngineError, Result};

/// The most lines that one batch holds, and so the most that are in memory.
const BATCH_LINES: usize = 256;
/// The longest line of the file that is believed: 16 KiB of text, each byte of it escaped, and the frame.
const MAX_LINE_BYTES: u64 = 256 << 10;

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

/// Where the reader is: the one file that is open, the rotated ones that come after it (the next one last), and then
/// the file at `path`.
#[derive(Debug)]
struct Position {
    path: PathBuf,
    older: Vec<PathBuf>,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    inode: u64,
    reader: BufReader<File>,
    /// A line that has begun but not ended.
    part: Vec<u8>,
}

#[derive(Deserialize)]
struct Line {
    log: String,
    stream: String,
    time: Timestamp,
}

impl LogReader {
    /// Opens the log at `path`. `alive` says whether the container runs: a follower ends when it does not.
    ///
    /// # Errors
    /// If the log can't be read or watched.
    pub async fn open(path: &Path, query: LogQuery, alive: watch::Receiver<bool>) -> Result<LogReader> {
        // Watched first: what is written between the watch and the first read is then seen by one of them.
        let follow = if query.follow { Some(follow(path, alive)?) } else { None };
        let (path, tail) = (path.to_owned(), query.tail);
        let position = blocking(move || Position::start(&path, tail)).await?;
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
                    return Ok((self, wanted));
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

/// The rotated files of the log at `path`, the oldest first.
fn rotated(path: &Path) -> Vec<PathBuf> {
    let numbered = |n: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{n}"));
        PathBuf::from(name)
    };
    let mut files: Vec<_> = (1..).map(numbered).take_while(|p| p.exists()).collect();
    files.reverse();
    files
}

impl Position {
    fn start(path: &Path, tail: Option<u64>) -> Result<Position> {
        let failed = |e| EngineError::io(format!("cannot read the log `{}`", path.display()))(e);
        let mut position = Position { path: path.to_owned(), older: rotated(path), open: None };
        let Some(mut wanted) = tail else {
            position.older.reverse();
            return Ok(position);
        };
        // From the newest file back to the one that holds the first wanted line.
        let mut newer = Vec::new();
        let mut candidates: Vec<PathBuf> = position.older.drain(..).collect();
        candidates.push(path.to_owned());
        while let Some(candidate) = candidates.pop() {
            let mut file = match File::open(&candidate) {
                Ok(file) => file,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                Err(e) => return Err(failed(e)),
            };
            let offset = tail_offset(&mut file, &mut wanted).map_err(failed)?;
            if let Some(offset) = offset {
                file.seek(SeekFrom::Start(offset)).map_err(failed)?;
                position.open = Some(Open::new(file).map_err(failed)?);
                break;
            }
            if candidate != path {
                newer.push(candidate);
            }
        }
        // The newest first, as they were met: they are popped from the end.
        position.older = newer;
        Ok(position)
    }

    /// Up to [`BATCH_LINES`] lines, and whether the end of what is there was reached.
    fn read(&mut self) -> Result<(Vec<LogLine>, bool)> {
        let failed = |path: &Path| EngineError::io(format!("cannot read the log `{}`", path.display()));
        let mut lines = Vec::new();
        loop {
            if self.open.is_none() {
                let next = self.older.pop().unwrap_or_else(|| self.path.clone());
                match File::open(&next) {
                    Ok(file) => self.open = Some(Open::new(file).map_err(failed(&next))?),
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok((lines, true)),
                    Err(e) => return Err(failed(&next)(e)),
                }
            }
            let Some(open) = &mut self.open else { continue };
            while lines.len() < BATCH_LINES {
                match open.line().map_err(failed(&self.path))? {
                    Some(bytes) => lines.extend(parse(&bytes)),
                    None => break,
                }
            }
            if lines.len() == BATCH_LINES {
                return Ok((lines, false));
            }
            // At the end of this file: it is the last one if the name still stands for it.
            let current = std::fs::metadata(&self.path).map(|m| m.ino());
            if self.older.is_empty() && current.is_ok_and(|inode| inode == open.inode) {
                return Ok((lines, true));
            }
            self.open = None;
        }
    }
}

impl Open {
    fn new(file: File) -> std::io::Result<Open> {
        Ok(Open { inode: file.metadata()?.ino(), reader: BufReader::new(file), part: Vec::new() })
    }

    /// The next whole line, if there is one yet.
    fn line(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        let room = MAX_LINE_BYTES.saturating_sub(self.part.len() as u64);
        (&mut self.reader).take(room).read_until(b'\n', &mut self.part)?;
        if self.part.ends_with(b"\n") || self.part.len() as u64 >= MAX_LINE_BYTES {
            return Ok(Some(std::mem::take(&mut self.part)));
        }
        Ok(None)
    }
}

/// A line of the file; one that is no log line (cut off in a crash) is left out.
fn parse(bytes: &[u8]) -> Option<LogLine> {
    let line: Line = serde_json::from_slice(bytes).ok()?;
    Some(LogLine { at: line.time, stderr: line.stream == "stderr", text: line.log })
}

/// Where in `file` the last `wanted` lines begin; `None`, and `wanted` less by the file's lines, if it has fewer.
fn tail_offset(file: &mut File, wanted: &mut u64) -> std::io::Result<Option<u64>> {
    const BLOCK: usize = 64 << 10;
    let end = file.seek(SeekFrom::End(0))?;
    if *wanted == 0 {
        return Ok(Some(end));
    }
    let mut newlines = 0u64;
    let mut block = vec![0u8; BLOCK];
    let mut before = end;
    while before > 0 {
        let length = BLOCK.min(usize::try_from(before).unwrap_or(BLOCK));
        before -= length as u64;
        file.seek(SeekFrom::Start(before))?;
        file.read_exact(&mut block[..length])?;
        for (i, _) in block[..length].iter().enumerate().rev().filter(|(_, b)| **b == b'\n') {
            let at = before + i as u64 + 1;
            // The newline that ends the last line starts no line.
            if at == end {
                continue;
            }
            newlines += 1;
            if newlines == *wanted {
                return Ok(Some(at));
            }
        }
    }
    let lines = newlines + u64::from(end > 0);
    if lines >= *wanted {
        return Ok(Some(0));
    }
    *wanted -= lines;
    Ok(None)
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
        let mut reader = LogReader::open(path, query, alive).await.unwrap();
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
        let reader = LogReader::open(&path, query, alive).await.unwrap();
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
