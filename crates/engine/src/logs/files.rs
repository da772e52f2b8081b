//! The files of a kept log: `path`, the newest, and what was rotated away from it, `path.1`, `path.2`, …, each perhaps
//! compressed as `path.1.gz`. Two formats: lines of JSON, and entries between their lengths ([`sampan_rpc::log`]).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use prost::Message;
use sampan_base::Timestamp;
use sampan_rpc::log::{LogEntry, LogFormat};
use serde::Deserialize;

use super::LogLine;
use crate::error::{EngineError, Result};

/// The most lines that one batch holds, and so the most that are in memory.
const BATCH_LINES: usize = 256;
/// The longest line or entry that is believed: 16 KiB of text, each byte of it escaped, its attributes, and the frame.
const MAX_LINE_BYTES: u64 = 1 << 20;
/// The bytes of an entry's length.
const LENGTH_BYTES: u64 = 4;

/// Where a reader is: the one file that is open, the rotated ones that come after it (the next one last), and then
/// the file at `path`.
#[derive(Debug)]
pub(super) struct Position {
    path: PathBuf,
    format: LogFormat,
    older: Vec<PathBuf>,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    inode: u64,
    reader: BufReader<File>,
    /// A line or an entry that has begun but not ended.
    part: Vec<u8>,
}

#[derive(Deserialize)]
struct Line {
    log: String,
    stream: String,
    time: Timestamp,
    #[serde(default)]
    attrs: BTreeMap<String, String>,
}

/// The rotated files of the log at `path`, the oldest first.
fn rotated(path: &Path) -> Vec<PathBuf> {
    let numbered = |n: u32| {
        let with = |suffix: &str| {
            let mut name = path.as_os_str().to_owned();
            name.push(format!(".{n}{suffix}"));
            PathBuf::from(name)
        };
        // Both are there for a moment when one was compressed; they hold the same.
        [with(".gz"), with("")].into_iter().find(|path| path.exists())
    };
    let mut files: Vec<_> = (1..).map_while(numbered).collect();
    files.reverse();
    files
}

/// Opens a file of the log; one that is compressed, as a temporary file of what it holds.
fn open_file(path: &Path) -> io::Result<File> {
    let file = File::open(path)?;
    if path.extension().is_none_or(|e| e != "gz") {
        return Ok(file);
    }
    let mut plain = tempfile::tempfile_in(path.parent().unwrap_or(Path::new("/")))?;
    io::copy(&mut flate2::read::GzDecoder::new(file), &mut plain)?;
    plain.rewind()?;
    Ok(plain)
}

impl Position {
    /// The beginning of the log at `path`, or of its last `tail` lines.
    pub(super) fn start(path: &Path, format: LogFormat, tail: Option<u64>) -> Result<Position> {
        let failed = |e| EngineError::io(format!("cannot read the log `{}`", path.display()))(e);
        let mut position = Position { path: path.to_owned(), format, older: rotated(path), open: None };
        let Some(mut wanted) = tail else {
            position.older.reverse();
            return Ok(position);
        };
        // From the newest file back to the one that holds the first wanted line.
        let mut newer = Vec::new();
        let mut candidates: Vec<PathBuf> = position.older.drain(..).collect();
        candidates.push(path.to_owned());
        while let Some(candidate) = candidates.pop() {
            let mut file = match open_file(&candidate) {
                Ok(file) => file,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(failed(e)),
            };
            let offset = match format {
                LogFormat::JsonFile => tail_of_lines(&mut file, &mut wanted),
                LogFormat::Local => tail_of_entries(&mut file, &mut wanted),
            };
            if let Some(offset) = offset.map_err(failed)? {
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
    pub(super) fn read(&mut self) -> Result<(Vec<LogLine>, bool)> {
        let failed = |path: &Path| EngineError::io(format!("cannot read the log `{}`", path.display()));
        let mut lines = Vec::new();
        loop {
            if self.open.is_none() {
                let next = self.older.pop().unwrap_or_else(|| self.path.clone());
                match open_file(&next) {
                    Ok(file) => self.open = Some(Open::new(file).map_err(failed(&next))?),
                    Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((lines, true)),
                    Err(e) => return Err(failed(&next)(e)),
                }
            }
            let Some(open) = &mut self.open else { continue };
            while lines.len() < BATCH_LINES {
                let line = match self.format {
                    LogFormat::JsonFile => open.line().map(|bytes| bytes.map(|b| parse_line(&b))),
                    LogFormat::Local => open.entry().map(|bytes| bytes.map(|b| parse_entry(&b))),
                };
                match line.map_err(failed(&self.path))? {
                    Some(line) => lines.extend(line),
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
    fn new(file: File) -> io::Result<Open> {
        Ok(Open { inode: file.metadata()?.ino(), reader: BufReader::new(file), part: Vec::new() })
    }

    /// The next whole line, if there is one yet.
    fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let room = MAX_LINE_BYTES.saturating_sub(self.part.len() as u64);
        (&mut self.reader).take(room).read_until(b'\n', &mut self.part)?;
        if self.part.ends_with(b"\n") || self.part.len() as u64 >= MAX_LINE_BYTES {
            return Ok(Some(std::mem::take(&mut self.part)));
        }
        Ok(None)
    }

    /// The next whole entry, if there is one yet, without its lengths.
    fn entry(&mut self) -> io::Result<Option<Vec<u8>>> {
        if !self.fill(LENGTH_BYTES)? {
            return Ok(None);
        }
        let length = u64::from(u32::from_be_bytes([self.part[0], self.part[1], self.part[2], self.part[3]]));
        if length > MAX_LINE_BYTES {
            return Err(io::Error::other(format!("an entry of {length} bytes: the log is damaged")));
        }
        if !self.fill(length + 2 * LENGTH_BYTES)? {
            return Ok(None);
        }
        let mut entry = std::mem::take(&mut self.part);
        entry.truncate(entry.len() - 4);
        entry.drain(..4);
        Ok(Some(entry))
    }

    /// Reads until `part` has `bytes`; false if the file has not so many yet.
    fn fill(&mut self, bytes: u64) -> io::Result<bool> {
        let missing = bytes.saturating_sub(self.part.len() as u64);
        (&mut self.reader).take(missing).read_to_end(&mut self.part)?;
        Ok(self.part.len() as u64 >= bytes)
    }
}

/// A line of the file; one that is no log line (cut off in a crash) is left out.
fn parse_line(bytes: &[u8]) -> Option<LogLine> {
    let line: Line = serde_json::from_slice(bytes).ok()?;
    let stderr = line.stream == "stderr";
    Some(LogLine { at: line.time, stderr, text: line.log, attributes: line.attrs })
}

fn parse_entry(bytes: &[u8]) -> Option<LogLine> {
    let entry = LogEntry::decode(bytes).ok()?;
    const NANOS: i64 = 1_000_000_000;
    let nanos = i32::try_from(entry.time_nano.rem_euclid(NANOS)).ok()?;
    let at = Timestamp::from_unix(entry.time_nano.div_euclid(NANOS), nanos).ok()?;
    let mut text = String::from_utf8_lossy(&entry.line).into_owned();
    let goes_on = entry.partial_log_metadata.as_ref().map_or(entry.partial, |piece| !piece.last);
    if !goes_on && !entry.partial {
        text.push('\n');
    }
    Some(LogLine { at, stderr: entry.source == "stderr", text, attributes: BTreeMap::new() })
}

/// Where in `file` the last `wanted` lines begin; `None`, and `wanted` less by the file's lines, if it has fewer.
fn tail_of_lines(file: &mut File, wanted: &mut u64) -> io::Result<Option<u64>> {
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

/// As [`tail_of_lines`], for entries. An entry that is being written may stand torn at the end, so they are counted from
/// the beginning and not back from the end.
fn tail_of_entries(file: &mut File, wanted: &mut u64) -> io::Result<Option<u64>> {
    let end = file.seek(SeekFrom::End(0))?;
    if *wanted == 0 {
        return Ok(Some(end));
    }
    let most = usize::try_from(*wanted).unwrap_or(usize::MAX);
    let mut offsets = std::collections::VecDeque::new();
    let mut at = 0;
    file.rewind()?;
    let mut reader = BufReader::new(&mut *file);
    while at + 2 * LENGTH_BYTES <= end {
        let mut length = [0u8; 4];
        reader.read_exact(&mut length)?;
        let length = u64::from(u32::from_be_bytes(length));
        if at + 2 * LENGTH_BYTES + length > end {
            break;
        }
        reader.seek_relative(i64::try_from(length + LENGTH_BYTES).unwrap_or(i64::MAX))?;
        offsets.push_back(at);
        if offsets.len() > most {
            offsets.pop_front();
        }
        at += 2 * LENGTH_BYTES + length;
    }
    match offsets.front() {
        Some(first) if offsets.len() == most => Ok(Some(*first)),
        _ => {
            *wanted -= offsets.len() as u64;
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn entry(n: i64) -> Vec<u8> {
        let entry = LogEntry {
            source: "stderr".to_owned(),
            time_nano: n,
            line: n.to_string().into_bytes(),
            ..LogEntry::default()
        };
        let bytes = entry.encode_to_vec();
        let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
        [&length[..], &bytes, &length].concat()
    }

    fn entries(range: std::ops::Range<i64>) -> Vec<u8> {
        range.flat_map(entry).collect()
    }

    fn read(path: &Path, tail: Option<u64>) -> String {
        let mut position = Position::start(path, LogFormat::Local, tail).unwrap();
        let (lines, at_end) = position.read().unwrap();
        assert!(at_end);
        lines.iter().map(|line| line.text.trim_end()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn entries_are_read_across_compressed_files_and_from_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.log");
        let old = File::create(dir.path().join("c.log.2.gz")).unwrap();
        let mut old = flate2::write::GzEncoder::new(old, flate2::Compression::fast());
        old.write_all(&entries(0..3)).unwrap();
        old.finish().unwrap();
        std::fs::write(dir.path().join("c.log.1"), entries(3..6)).unwrap();
        // The last entry is being written.
        std::fs::write(&path, [entries(6..8), entry(9)[..5].to_vec()].concat()).unwrap();
        assert_eq!(read(&path, None), "0 1 2 3 4 5 6 7");
        for (tail, expected) in
            [(1, "7"), (2, "6 7"), (3, "5 6 7"), (7, "1 2 3 4 5 6 7"), (99, "0 1 2 3 4 5 6 7")]
        {
            assert_eq!(read(&path, Some(tail)), expected, "tail {tail}");
        }
    }

    #[test]
    fn an_entry_comes_when_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.log");
        let whole = entry(1);
        std::fs::write(&path, &whole[..6]).unwrap();
        let mut position = Position::start(&path, LogFormat::Local, None).unwrap();
        assert!(position.read().unwrap().0.is_empty());
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(&whole[6..]).unwrap();
        assert_eq!(position.read().unwrap().0[0].text, "1\n");
    }

    #[test]
    fn a_damaged_length_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.log");
        std::fs::write(&path, [0xff; 64]).unwrap();
        assert!(Position::start(&path, LogFormat::Local, None).unwrap().read().is_err());
    }
}
