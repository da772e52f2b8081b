//! From bytes to lines. A line of output without its end is kept back until the end comes, or 16 KiB have come, or the
//! process has exited; a line in several pieces has the time of its first.

use sampan_base::Timestamp;

/// A longer line is logged in pieces of this size, Docker's.
const MAX_PIECE_BYTES: usize = 16 << 10;

/// Which of a process's two outputs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stream {
    /// Standard output, or a terminal.
    Stdout = 0,
    /// Standard error.
    Stderr = 1,
}

impl Stream {
    /// Its name in logs.
    pub(super) fn name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// One line, or a piece of one.
#[derive(Debug)]
pub(super) struct Line<'a> {
    pub(super) stream: Stream,
    pub(super) time: Timestamp,
    /// Its text in one or two parts (what was kept back, and what came), without newline.
    pub(super) parts: [&'a [u8]; 2],
    /// It ended with a newline.
    pub(super) ends: bool,
    /// Which piece of a line it is, if the line is in pieces.
    pub(super) piece: Option<PieceOf>,
}

/// A piece's place in its line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct PieceOf {
    /// What the pieces of one line share.
    pub(super) id: String,
    /// From 1.
    pub(super) ordinal: u32,
    pub(super) last: bool,
}

/// What has come of lines whose end has not.
#[derive(Default, Debug)]
pub(super) struct Lines {
    begun: [Begun; 2],
    /// How many lines came in pieces: makes their ids.
    long_lines: u64,
}

/// The beginning of a line whose end has not come.
#[derive(Default, Debug)]
struct Begun {
    bytes: Vec<u8>,
    since: Option<Timestamp>,
    /// The id of a line whose first piece is out, and how many are.
    pieces: Option<(String, u32)>,
}

impl Lines {
    /// Takes what a process has written, and gives `log` each line that is whole, and each piece that is full.
    pub(super) fn take(
        &mut self,
        stream: Stream,
        bytes: &[u8],
        now: Timestamp,
        mut log: impl FnMut(Line<'_>),
    ) {
        for line in bytes.split_inclusive(|b| *b == b'\n') {
            let mut line = line;
            loop {
                let begun = &mut self.begun[stream as usize];
                let room = MAX_PIECE_BYTES - begun.bytes.len();
                let whole = line.last() == Some(&b'\n') && line.len() <= room + 1;
                if !whole && line.len() < room {
                    begun.since.get_or_insert(now);
                    begun.bytes.extend_from_slice(line);
                    break;
                }
                let (head, tail) = line.split_at(if whole { line.len() } else { room });
                let time = begun.since.unwrap_or(now);
                let start = std::mem::take(&mut begun.bytes);
                let piece = if whole { self.last_piece(stream) } else { Some(self.next_piece(stream, time)) };
                let text = if whole { &head[..head.len() - 1] } else { head };
                log(Line { stream, time, parts: [&start, text], ends: whole, piece });
                // The pieces of one line share the time of the first.
                self.begun[stream as usize].since = if whole { None } else { Some(time) };
                line = tail;
                if line.is_empty() {
                    break;
                }
            }
        }
    }

    /// The process has exited: what has begun is logged as it is.
    pub(super) fn end(&mut self, mut log: impl FnMut(Line<'_>)) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let begun = &mut self.begun[stream as usize];
            let bytes = std::mem::take(&mut begun.bytes);
            if bytes.is_empty() {
                continue;
            }
            let time = begun.since.take().unwrap_or_else(Timestamp::now);
            let piece = self.last_piece(stream);
            log(Line { stream, time, parts: [&bytes, &[]], ends: false, piece });
        }
    }

    fn next_piece(&mut self, stream: Stream, time: Timestamp) -> PieceOf {
        let begun = &mut self.begun[stream as usize];
        let (id, count) = begun.pieces.get_or_insert_with(|| {
            self.long_lines += 1;
            (format!("{:016x}{:016x}", time.unix_nanos(), self.long_lines), 0)
        });
        *count += 1;
        PieceOf { id: id.clone(), ordinal: *count, last: false }
    }

    fn last_piece(&mut self, stream: Stream) -> Option<PieceOf> {
        let (id, count) = self.begun[stream as usize].pieces.take()?;
        Some(PieceOf { id, ordinal: count + 1, last: true })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Row = (Stream, i64, String, bool, Option<u32>);

    fn take(writes: &[(Stream, &[u8])]) -> Vec<Row> {
        let mut rows = Vec::new();
        let mut lines = Lines::default();
        let mut log = |line: Line<'_>| {
            let text = String::from_utf8(line.parts.concat()).unwrap();
            let ordinal = line.piece.map(|p| p.ordinal);
            rows.push((line.stream, line.time.unix_seconds(), text, line.ends, ordinal));
        };
        for (n, (stream, bytes)) in (1..).zip(writes) {
            lines.take(*stream, bytes, Timestamp::from_unix(n, 0).unwrap(), &mut log);
        }
        lines.end(log);
        rows
    }

    #[test]
    fn lines_are_put_together_per_stream_with_the_time_of_their_beginning() {
        use Stream::{Stderr, Stdout};
        let got = take(&[(Stdout, b"a\nb"), (Stderr, b"e\n"), (Stdout, b"c\n\nd")]);
        let row = |s, t: i64, l: &str, ends| (s, t, l.to_owned(), ends, None);
        let expected = [
            row(Stdout, 1, "a", true),
            row(Stderr, 2, "e", true),
            row(Stdout, 1, "bc", true),
            row(Stdout, 3, "", true),
            row(Stdout, 3, "d", false),
        ];
        assert_eq!(got, expected);
    }

    #[test]
    fn a_long_line_comes_in_pieces_and_only_the_last_has_its_end() {
        let line = [vec![b'x'; MAX_PIECE_BYTES * 2 + 5], b"\ny\n".to_vec()].concat();
        for step in [1000, MAX_PIECE_BYTES - 1, MAX_PIECE_BYTES, line.len()] {
            let writes: Vec<_> = line.chunks(step).map(|c| (Stream::Stdout, c)).collect();
            let got: Vec<_> = take(&writes).into_iter().map(|r| (r.2.len(), r.3, r.4)).collect();
            let whole = MAX_PIECE_BYTES;
            let expected =
                [(whole, false, Some(1)), (whole, false, Some(2)), (5, true, Some(3)), (1, true, None)];
            assert_eq!(got, expected, "step {step}");
        }
    }
}
