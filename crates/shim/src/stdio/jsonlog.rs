//! Docker's json-file log: one line of JSON for each line of output.
//!
//! ```text
//! {"log":"hello\n","stream":"stdout","time":"2026-11-21T10:00:00.123456789Z"}
//! ```
//! A line of output without its end is kept back until the end comes, or 16 KiB have come, or the process has
//! exited; a line in several pieces has a `\n` only in the last, and the time of its first. When the file has
//! reached its largest size, `f` becomes `f.1`, `f.1` becomes `f.2`, up to the number of files asked for; with one
//! file, it starts afresh. The file has no other structure: its format is Docker's and has no version. A crash of
//! the shim loses nothing but the pieces kept back; a reader must take a last line without `\n` as unfinished.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use sampan_base::Timestamp;

/// A longer line is logged in pieces of this size, Docker's.
pub const MAX_PIECE_BYTES: usize = 16 << 10;

/// Where a log goes and how large it may grow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogConfig {
    /// The newest file.
    pub path: PathBuf,
    /// Start another file at this size; none is no limit.
    pub max_size: Option<u64>,
    /// How many files, the newest included.
    pub max_files: u32,
}

/// A log that is being written.
#[derive(Debug)]
pub struct JsonLog {
    config: LogConfig,
    file: File,
    size: u64,
    pieces: [Piece; 2],
    /// After a write has failed, that it has been told; the container goes on without its log.
    failing: bool,
}

/// The beginning of a line whose end has not come.
#[derive(Default, Debug)]
struct Piece {
    bytes: Vec<u8>,
    since: Option<Timestamp>,
}

/// Which of a process's two outputs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stream {
    /// Standard output, or a terminal.
    Stdout = 0,
    /// Standard error.
    Stderr = 1,
}

impl JsonLog {
    /// Opens or creates the newest file.
    ///
    /// # Errors
    /// If it can't be opened.
    pub fn open(config: LogConfig) -> io::Result<JsonLog> {
        let file = open(&config.path, false)?;
        let size = file.metadata()?.len();
        Ok(JsonLog { config, file, size, pieces: Default::default(), failing: false })
    }

    /// Logs what a process has written. `now` is asked for once at most.
    pub fn write(&mut self, stream: Stream, bytes: &[u8], now: impl FnOnce() -> Timestamp) {
        let now = now();
        let mut out = Vec::new();
        for line in bytes.split_inclusive(|b| *b == b'\n') {
            let mut line = line;
            loop {
                let piece = &mut self.pieces[stream as usize];
                let room = MAX_PIECE_BYTES - piece.bytes.len();
                let whole = line.last() == Some(&b'\n') && line.len() <= room + 1;
                if !whole && line.len() < room {
                    piece.since.get_or_insert(now);
                    piece.bytes.extend_from_slice(line);
                    break;
                }
                let (head, tail) = line.split_at(if whole { line.len() } else { room });
                let time = piece.since.unwrap_or(now);
                let mut start = std::mem::take(&mut piece.bytes);
                self.rotate_if_full(&mut out);
                push_line(&mut out, stream, &[&start, head], time);
                start.clear();
                let piece = &mut self.pieces[stream as usize];
                // The pieces of one line share the time of the first.
                piece.since = if whole { None } else { Some(time) };
                line = tail;
                if line.is_empty() {
                    break;
                }
            }
        }
        self.append(&out);
    }

    /// The process has exited: lines without end are logged as they are.
    pub fn end(&mut self) {
        let mut out = Vec::new();
        for stream in [Stream::Stdout, Stream::Stderr] {
            let piece = std::mem::take(&mut self.pieces[stream as usize]);
            if !piece.bytes.is_empty() {
                push_line(&mut out, stream, &[&piece.bytes], piece.since.unwrap_or_else(Timestamp::now));
            }
        }
        self.append(&out);
    }

    /// Starts another file if the present one, with what is in `out`, has reached its size.
    fn rotate_if_full(&mut self, out: &mut Vec<u8>) {
        let Some(max) = self.config.max_size else { return };
        if self.size + (out.len() as u64) < max {
            return;
        }
        self.append(out);
        out.clear();
        match rotate(&self.config) {
            Ok(file) => (self.file, self.size) = (file, 0),
            Err(error) => self.complain("rotate", &error),
        }
    }

    fn append(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        match self.file.write_all(bytes) {
            Ok(()) => {
                self.size += bytes.len() as u64;
                self.failing = false;
            }
            Err(error) => self.complain("write", &error),
        }
    }

    fn complain(&mut self, action: &str, error: &io::Error) {
        if !self.failing {
            self.failing = true;
            crate::note(&format!("cannot {action} container log `{}`: {error}", self.config.path.display()));
        }
    }
}

fn open(path: &Path, afresh: bool) -> io::Result<File> {
    // Appending also after truncation, so that a reader who truncates the file leaves no hole.
    let file = OpenOptions::new().append(true).create(true).mode(0o640).open(path)?;
    if afresh {
        file.set_len(0)?;
    }
    Ok(file)
}

fn rotate(config: &LogConfig) -> io::Result<File> {
    let numbered = |n: u32| {
        let mut name = config.path.clone().into_os_string();
        name.push(format!(".{n}"));
        PathBuf::from(name)
    };
    if config.max_files < 2 {
        return open(&config.path, true);
    }
    for n in (1..config.max_files - 1).rev() {
        match std::fs::rename(numbered(n), numbered(n + 1)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    std::fs::rename(&config.path, numbered(1))?;
    open(&config.path, true)
}

fn push_line(out: &mut Vec<u8>, stream: Stream, parts: &[&[u8]], time: Timestamp) {
    out.extend_from_slice(br#"{"log":""#);
    let joined;
    let text: &[u8] = match parts {
        [one] => one,
        [[], one] => one,
        many => {
            joined = many.concat();
            &joined
        }
    };
    push_escaped(out, text);
    out.extend_from_slice(match stream {
        Stream::Stdout => br#"","stream":"stdout","time":""#,
        Stream::Stderr => br#"","stream":"stderr","time":""#,
    });
    let _ = write!(out, "{time}"); // a Vec takes all
    out.extend_from_slice(b"\"}\n");
}

/// As Go's encoder writes a string, and so Docker: `<`, `>`, `&` and the line separators escaped, bytes that are
/// no UTF-8 replaced.
fn push_escaped(out: &mut Vec<u8>, text: &[u8]) {
    for chunk in text.utf8_chunks() {
        let valid = chunk.valid();
        let mut clean = 0;
        for (at, c) in valid.char_indices() {
            let named: &[u8] = match c {
                '"' => b"\\\"",
                '\\' => b"\\\\",
                '\n' => b"\\n",
                '\r' => b"\\r",
                '\t' => b"\\t",
                '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\x1f' => b"",
                _ => continue,
            };
            out.extend_from_slice(&valid.as_bytes()[clean..at]);
            clean = at + c.len_utf8();
            if named.is_empty() {
                let _ = write!(out, "\\u{:04x}", u32::from(c)); // a Vec takes all
            } else {
                out.extend_from_slice(named);
            }
        }
        out.extend_from_slice(&valid.as_bytes()[clean..]);
        for _ in chunk.invalid() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(n: i64) -> Timestamp {
        Timestamp::from_unix(n, 0).unwrap()
    }

    /// Logs `writes` and returns each line's stream, second and text.
    fn check(writes: &[(Stream, &[u8])]) -> Vec<(String, i64, String)> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("l");
        let mut log = JsonLog::open(LogConfig { path: path.clone(), max_size: None, max_files: 1 }).unwrap();
        for (n, (stream, bytes)) in (1..).zip(writes) {
            log.write(*stream, bytes, || at(n));
        }
        log.end();
        let text = std::fs::read_to_string(path).unwrap();
        text.lines()
            .map(|line| {
                let v: serde_json::Value = serde_json::from_str(line).unwrap();
                let time: Timestamp = v["time"].as_str().unwrap().parse().unwrap();
                let text = |k: &str| v[k].as_str().unwrap().to_owned();
                (text("stream"), time.unix_seconds(), text("log"))
            })
            .collect()
    }

    #[test]
    fn lines_are_put_together_per_stream_with_the_time_of_their_beginning() {
        use Stream::{Stderr, Stdout};
        let got = check(&[(Stdout, b"a\nb"), (Stderr, b"e\n"), (Stdout, b"c\n\nd")]);
        let row = |s: &str, t: i64, l: &str| (s.to_owned(), t, l.to_owned());
        let expected = [
            row("stdout", 1, "a\n"),
            row("stderr", 2, "e\n"),
            row("stdout", 1, "bc\n"),
            row("stdout", 3, "\n"),
            row("stdout", 3, "d"),
        ];
        assert_eq!(got, expected);
    }

    #[test]
    fn a_long_line_comes_in_pieces_and_only_the_last_has_its_end() {
        let line = [vec![b'x'; MAX_PIECE_BYTES * 2 + 5], b"\ny\n".to_vec()].concat();
        for step in [1000, MAX_PIECE_BYTES - 1, MAX_PIECE_BYTES, line.len()] {
            let writes: Vec<_> = line.chunks(step).map(|c| (Stream::Stdout, c)).collect();
            let lengths: Vec<usize> = check(&writes).iter().map(|(_, _, l)| l.len()).collect();
            assert_eq!(lengths, [MAX_PIECE_BYTES, MAX_PIECE_BYTES, 6, 2], "step {step}");
        }
    }

    #[test]
    fn escapes_as_docker_does() {
        let mut out = Vec::new();
        push_escaped(&mut out, "a\"\\\n\r\t<>&\u{1}é\u{2028}".as_bytes());
        push_escaped(&mut out, b"\xff\xfe!");
        let expected = r#"a\"\\\n\r\t\u003c\u003e\u0026\u0001é\u2028\ufffd\ufffd!"#;
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn files_rotate_and_the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("l");
        let config = LogConfig { path: path.clone(), max_size: Some(100), max_files: 3 };
        let mut log = JsonLog::open(config).unwrap();
        for n in 0..9 {
            log.write(Stream::Stdout, format!("line {n}\n").as_bytes(), || at(n));
        }
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap().lines().count();
        assert_eq!((read("l"), read("l.1"), read("l.2")), (1, 2, 2));
        assert!(!dir.path().join("l.3").exists());
        let one = LogConfig { path: path.clone(), max_size: Some(1), max_files: 1 };
        let mut log = JsonLog::open(one).unwrap();
        log.write(Stream::Stdout, b"a\nb\n", || at(1));
        assert_eq!(read("l"), 1);
    }
}
