//! A line as an entry of a `local` log: see [`sampan_rpc::log`].

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use prost::Message;
use sampan_rpc::log::{LogEntry, PartialLogEntryMetadata};

use super::lines::Line;

/// Appends `line` to `out`.
pub(super) fn push(out: &mut Vec<u8>, line: &Line<'_>) {
    let entry = LogEntry {
        source: line.stream.name().to_owned(),
        time_nano: i64::try_from(line.time.unix_nanos()).unwrap_or(i64::MAX),
        line: line.parts.concat(),
        partial: !line.ends,
        partial_log_metadata: line.piece.as_ref().map(|piece| PartialLogEntryMetadata {
            last: piece.last,
            id: piece.id.clone(),
            ordinal: i32::try_from(piece.ordinal).unwrap_or(i32::MAX),
        }),
    };
    let bytes = entry.encode_to_vec();
    // A line has 16 KiB at most.
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes();
    out.extend_from_slice(&length);
    out.extend_from_slice(&bytes);
    out.extend_from_slice(&length);
}

/// Cuts off what a shim that was killed while it wrote has left of its last entry: what is written after it could not be
/// read. `file` is the log at `path`, open for appending.
///
/// # Errors
/// If the log can't be read or cut.
pub(super) fn cut_torn_end(path: &Path, file: &File) -> io::Result<()> {
    let size = file.metadata()?.len();
    let log = File::open(path)?;
    let length_at = |at: u64| -> io::Result<u64> {
        let mut bytes = [0u8; 4];
        log.read_exact_at(&mut bytes, at)?;
        Ok(u64::from(u32::from_be_bytes(bytes)))
    };
    // Nearly always the last entry is whole, which its two lengths show.
    if size == 0 {
        return Ok(());
    }
    if size >= 8 {
        let length = length_at(size - 4)?;
        if length + 8 <= size && length_at(size - 8 - length)? == length {
            return Ok(());
        }
    }
    let mut whole = 0;
    while whole + 8 <= size {
        let length = length_at(whole)?;
        if whole + 8 + length > size || length_at(whole + 4 + length)? != length {
            break;
        }
        whole += 8 + length;
    }
    file.set_len(whole)
}

#[cfg(test)]
mod tests {
    use super::super::lines::Stream;
    use super::*;

    #[test]
    fn a_torn_entry_is_cut_off_and_whole_ones_stay() {
        let mut bytes = Vec::new();
        for text in [&b"one"[..], b"two"] {
            let time = sampan_base::Timestamp::from_unix(1, 0).unwrap();
            let line = Line { stream: Stream::Stdout, time, parts: [text, b""], ends: true, piece: None };
            push(&mut bytes, &line);
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("l");
        let half = bytes.len() / 2;
        for (torn, expected) in
            [(0, 0), (3, 0), (half - 1, 0), (half, half), (half + 7, half), (2 * half, 2 * half)]
        {
            std::fs::write(&path, &bytes[..torn]).unwrap();
            let file = File::options().append(true).open(&path).unwrap();
            cut_torn_end(&path, &file).unwrap();
            assert_eq!(std::fs::read(&path).unwrap().len(), expected, "{torn} bytes");
        }
    }
}
