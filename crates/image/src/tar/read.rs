//! Reading: blocks to members. Everything here faces bytes that nobody has checked.

use std::io::{self, Read};

use super::{BLOCK, Kind, Member, Mtime, Piece, TarError, padded};
use crate::limits::{MAX_EXTENDED_HEADER_BYTES, MAX_SPARSE_PIECES, MAX_XATTRS};

/// Reads an archive's members in order. Content not read before the next member is skipped.
pub struct Reader<R> {
    input: R,
    /// Bytes taken from `input`.
    position: u64,
    /// Content bytes of the current member not yet read.
    content: u64,
    /// Padding after them.
    padding: u64,
    finished: bool,
}

/// What extended headers said about the next member.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<Mtime>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse: PaxSparse,
}

/// The three ways in which GNU tar puts a sparse map into PAX records.
#[derive(Default)]
struct PaxSparse {
    name: Option<Vec<u8>>,
    /// `GNU.sparse.size` (0.x) or `GNU.sparse.realsize` (1.0).
    real_size: Option<u64>,
    /// Version 1.0: the map is at the start of the content.
    map_in_content: bool,
    pieces: Option<Vec<Piece>>,
    /// Version 0.0: an offset whose length has not come yet.
    offset: Option<u64>,
}

impl<R: Read> Reader<R> {
    /// A reader at the start of an archive.
    pub fn new(input: R) -> Reader<R> {
        Reader { input, position: 0, content: 0, padding: 0, finished: false }
    }

    /// The next member, or `None` at the end of the archive.
    ///
    /// # Errors
    /// If the archive is cut off or damaged, or passes a limit; there is no going on then.
    pub fn next_member(&mut self) -> Result<Option<Member>, TarError> {
        self.skip(self.content)?;
        self.content = 0;
        let padding = std::mem::take(&mut self.padding);
        // Docker's client ends a context right behind the content of the Dockerfile that it adds, and Go takes that.
        let rest = usize::try_from(padding % BLOCK).unwrap_or(0);
        self.skip(padding - rest as u64)?;
        match self.fill(&mut [0; BLOCK as usize][..rest])? {
            got if got == rest => {}
            0 => {
                self.finished = true;
                return Ok(None);
            }
            _ => return Err(TarError::CutOff { at: self.position }),
        }
        let mut extended = Extended::default();
        loop {
            let at = self.position;
            let Some(header) = self.header(at)? else { return Ok(None) };
            let size = number(header.entry_size(), at, "size")?;
            match header.as_bytes()[156] {
                b'x' => {
                    let records = self.small_content(size, at)?;
                    pax_records(&records, at, &mut extended)?;
                }
                // Global headers say nothing that concerns files (git writes the commit there); volume labels neither.
                b'g' | b'V' => {
                    self.skip(padded(size))?;
                }
                b'L' => extended.path = Some(until_nul(self.small_content(size, at)?)),
                b'K' => extended.link = Some(until_nul(self.small_content(size, at)?)),
                _ => return self.member(&header, extended, at).map(Some),
            }
        }
    }

    /// The stream position of the next byte of content: right after [`Reader::next_member`], where the member's
    /// content starts.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The input, wherever it stands.
    pub fn into_inner(self) -> R {
        self.input
    }

    /// One header block; `None` at the end: two zero blocks, or no more bytes.
    fn header(&mut self, at: u64) -> Result<Option<tar::Header>, TarError> {
        if self.finished {
            return Ok(None);
        }
        let mut header = tar::Header::new_old();
        for block in 0..2 {
            let got = self.fill(header.as_mut_bytes())?;
            let ended = got == 0;
            if got != 0 && got != BLOCK as usize {
                return Err(TarError::CutOff { at: self.position });
            }
            if !ended && header.as_bytes().iter().any(|b| *b != 0) {
                if block == 1 {
                    return Err(malformed(at, "a lone zero block"));
                }
                return if checksum_fits(header.as_bytes()) {
                    fill_blanks(&mut header);
                    Ok(Some(header))
                } else {
                    Err(malformed(at, "the checksum of the header is wrong (is it a tar archive?)"))
                };
            }
            if ended {
                break;
            }
        }
        self.finished = true;
        Ok(None)
    }

    fn member(&mut self, header: &tar::Header, extended: Extended, at: u64) -> Result<Member, TarError> {
        let kind_byte = header.as_bytes()[156];
        let stored = match extended.size {
            Some(size) => size,
            None => number(header.entry_size(), at, "size")?,
        };
        let path = match (&extended.sparse.name, extended.path) {
            (Some(name), _) => name.clone(),
            (None, Some(path)) => path,
            (None, None) => header.path_bytes().into_owned(),
        };
        let link = match extended.link {
            Some(link) => link,
            None => header.link_name_bytes().map(std::borrow::Cow::into_owned).unwrap_or_default(),
        };
        let device = || -> Result<(u32, u32), TarError> {
            let part = |n: io::Result<Option<u32>>| Ok(number(n, at, "device number")?.unwrap_or(0));
            Ok((part(header.device_major())?, part(header.device_minor())?))
        };
        let kind = match kind_byte {
            // Old archives have no type for directories, only the slash.
            b'\0' | b'0' | b'7' if path.ends_with(b"/") && stored == 0 => Kind::Directory,
            b'\0' | b'0' | b'7' | b'S' => {
                (self.content, self.padding) = (stored, padded(stored) - stored);
                self.file(header, kind_byte, stored, extended.sparse, at)?
            }
            b'1' => Kind::HardLink { target: link },
            b'2' => Kind::Symlink { target: link },
            b'3' => device().map(|(major, minor)| Kind::CharDevice { major, minor })?,
            b'4' => device().map(|(major, minor)| Kind::BlockDevice { major, minor })?,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            kind => return Err(TarError::UnsupportedEntry { at, kind }),
        };
        if !matches!(kind, Kind::File { .. }) {
            // Only files have content; what some writers still give to others (pax: hard links) is passed over.
            (self.content, self.padding) = (0, padded(stored));
        }
        let id = |pax: Option<u64>, field: io::Result<u64>, what| -> Result<u32, TarError> {
            let id = match pax {
                Some(id) => id,
                None => number(field, at, what)?,
            };
            u32::try_from(id).map_err(|_| malformed(at, &format!("the {what} {id} is too large")))
        };
        let mtime = match extended.mtime {
            Some(mtime) => mtime,
            None => header_mtime(header, at)?,
        };
        Ok(Member {
            path,
            kind,
            mode: number(header.mode(), at, "mode")? & 0o7777,
            uid: id(extended.uid, header.uid(), "user id")?,
            gid: id(extended.gid, header.gid(), "group id")?,
            mtime,
            xattrs: extended.xattrs,
        })
    }

    /// The kind of a file, its sparse map read from wherever it is.
    fn file(
        &mut self,
        header: &tar::Header,
        kind_byte: u8,
        stored: u64,
        sparse: PaxSparse,
        at: u64,
    ) -> Result<Kind, TarError> {
        let (pieces, size) = if kind_byte == b'S' {
            // The old GNU map: in the header and in blocks between it and the content.
            (self.content, self.padding) = (0, 0);
            let found = self.gnu_map(header, at)?;
            (self.content, self.padding) = (stored, padded(stored) - stored);
            found
        } else if sparse.map_in_content {
            let pieces = self.map_in_content(at)?;
            (pieces, sparse.real_size.ok_or_else(|| malformed(at, "a sparse file without its size"))?)
        } else if let Some(pieces) = sparse.pieces {
            (pieces, sparse.real_size.unwrap_or(stored))
        } else {
            return Ok(Kind::File { size: stored, pieces: None });
        };
        check_pieces(&pieces, size, self.content).map_err(|what| malformed(at, what))?;
        Ok(Kind::File { size, pieces: Some(pieces) })
    }

    fn gnu_map(&mut self, header: &tar::Header, at: u64) -> Result<(Vec<Piece>, u64), TarError> {
        let gnu =
            header.as_gnu().ok_or_else(|| malformed(at, "a sparse file in a header that is not GNU's"))?;
        let size = number(gnu.real_size(), at, "size")?;
        let mut pieces = Vec::new();
        let add = |part: &tar::GnuSparseHeader, pieces: &mut Vec<Piece>| {
            if part.is_empty() {
                return Ok(());
            }
            let offset = number(part.offset(), at, "sparse offset")?;
            push_piece(pieces, Piece { offset, length: number(part.length(), at, "sparse length")? }, at)
        };
        for part in &gnu.sparse {
            add(part, &mut pieces)?;
        }
        let mut more = gnu.is_extended();
        while more {
            let mut block = tar::GnuExtSparseHeader::new();
            self.exactly(block.as_mut_bytes())?;
            for part in block.sparse() {
                add(part, &mut pieces)?;
            }
            more = block.is_extended();
        }
        Ok((pieces, size))
    }

    /// Version 1.0: decimal numbers, a line each, in whole blocks: how many pieces, then offset and length of each.
    fn map_in_content(&mut self, at: u64) -> Result<Vec<Piece>, TarError> {
        let mut block = [0u8; BLOCK as usize];
        let mut read = block.len();
        let mut next = |reader: &mut Self| -> Result<u64, TarError> {
            let mut value = 0u64;
            for digits in 0..21 {
                if read == block.len() {
                    if reader.content < BLOCK {
                        break;
                    }
                    reader.exactly(&mut block)?;
                    reader.content -= BLOCK;
                    read = 0;
                }
                let byte = block[read];
                read += 1;
                match byte {
                    b'0'..=b'9' => {
                        value = value
                            .checked_mul(10)
                            .and_then(|v| v.checked_add(u64::from(byte - b'0')))
                            .ok_or_else(|| malformed(at, "a number in the sparse map is too large"))?;
                    }
                    b'\n' if digits > 0 => return Ok(value),
                    _ => break,
                }
            }
            Err(malformed(at, "the sparse map is not one"))
        };
        let count = next(self)?;
        let mut pieces = Vec::new();
        for _ in 0..count {
            let offset = next(self)?;
            let length = next(self)?;
            push_piece(&mut pieces, Piece { offset, length }, at)?;
        }
        Ok(pieces)
    }

    /// The content of an extended header, with its padding.
    fn small_content(&mut self, size: u64, at: u64) -> Result<Vec<u8>, TarError> {
        if size > MAX_EXTENDED_HEADER_BYTES {
            let what = "bytes of extended header";
            return Err(TarError::Limit { at, what, limit: MAX_EXTENDED_HEADER_BYTES });
        }
        // Bounded on the line above.
        let mut content = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
        self.exactly(&mut content)?;
        self.skip(padded(size) - size)?;
        Ok(content)
    }

    fn skip(&mut self, mut bytes: u64) -> Result<(), TarError> {
        let mut scratch = [0u8; 16384];
        while bytes > 0 {
            let part = usize::try_from(bytes).unwrap_or(usize::MAX).min(scratch.len());
            self.exactly(&mut scratch[..part])?;
            bytes -= part as u64;
        }
        Ok(())
    }

    fn exactly(&mut self, buffer: &mut [u8]) -> Result<(), TarError> {
        if self.fill(buffer)? < buffer.len() { Err(TarError::CutOff { at: self.position }) } else { Ok(()) }
    }

    /// Reads until `buffer` is full or the input ends.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, TarError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.input.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(TarError::Read { source }),
            }
        }
        self.position += filled as u64;
        Ok(filled)
    }
}

/// The content of the current member as the archive holds it (the pieces of a sparse file one after the other).
impl<R: Read> Read for Reader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let part = usize::try_from(self.content).unwrap_or(usize::MAX).min(buffer.len());
        if part == 0 {
            return Ok(0);
        }
        let n = self.input.read(&mut buffer[..part])?;
        if n == 0 {
            let error = TarError::CutOff { at: self.position };
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, error));
        }
        self.content -= n as u64;
        self.position += n as u64;
        Ok(n)
    }
}

impl<R: io::BufRead> io::BufRead for Reader<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.content == 0 {
            return Ok(&[]);
        }
        let (position, content) = (self.position, usize::try_from(self.content).unwrap_or(usize::MAX));
        let bytes = self.input.fill_buf()?;
        if bytes.is_empty() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, TarError::CutOff { at: position }));
        }
        Ok(&bytes[..bytes.len().min(content)])
    }

    fn consume(&mut self, bytes: usize) {
        self.input.consume(bytes);
        self.content -= bytes as u64;
        self.position += bytes as u64;
    }
}

fn malformed(at: u64, what: &str) -> TarError {
    TarError::Malformed { at, what: what.to_owned() }
}

fn number<T>(parsed: io::Result<T>, at: u64, what: &str) -> Result<T, TarError> {
    parsed.map_err(|_| malformed(at, &format!("the {what} is not a number")))
}

/// A header with its blank numbers as zeros: writers leave fields out that say nothing, and every reader takes that.
fn fill_blanks(header: &mut tar::Header) {
    const NUMBERS: [std::ops::Range<usize>; 5] = [100..108, 108..116, 116..124, 124..136, 136..148];
    let bytes = header.as_mut_bytes();
    for field in NUMBERS {
        if bytes[field.clone()].iter().all(|b| matches!(b, 0 | b' ')) {
            bytes[field.start] = b'0';
        }
    }
}

/// Old writers summed signed bytes, so both sums are accepted.
fn checksum_fits(block: &[u8; 512]) -> bool {
    let field = &block[148..156];
    let digits: Vec<u8> = field.iter().copied().skip_while(|b| *b == b' ').collect();
    let end = digits.iter().position(|b| !(b'0'..=b'7').contains(b)).unwrap_or(digits.len());
    let Some(expected) =
        std::str::from_utf8(&digits[..end]).ok().and_then(|t| i64::from_str_radix(t, 8).ok())
    else {
        return false;
    };
    let summed = |value: fn(u8) -> i64| -> i64 {
        block.iter().enumerate().map(|(i, b)| if (148..156).contains(&i) { 32 } else { value(*b) }).sum()
    };
    expected == summed(i64::from) || expected == summed(|b| i64::from(b.cast_signed()))
}

/// The header's own time; base-256 ones may be before 1970, which the `tar` crate does not read.
fn header_mtime(header: &tar::Header, at: u64) -> Result<Mtime, TarError> {
    let field = &header.as_bytes()[136..148];
    let seconds = if field[0] == 0xff {
        field[4..].iter().fold(0u64, |n, b| (n << 8) | u64::from(*b)).cast_signed()
    } else {
        number(header.mtime(), at, "time")?.try_into().unwrap_or(i64::MAX)
    };
    Ok(Mtime { seconds, nanoseconds: 0 })
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    bytes.truncate(end);
    bytes
}

/// Records are `length key=value\n`, the length in decimal and of the whole record; values may hold any byte.
fn pax_records(mut rest: &[u8], at: u64, into: &mut Extended) -> Result<(), TarError> {
    let bad = || malformed(at, "a PAX record is not one");
    while rest.first().is_some_and(|b| *b != 0) {
        let space = rest.iter().take(20).position(|b| *b == b' ').ok_or_else(bad)?;
        let length: usize = text(&rest[..space]).and_then(|t| t.parse().ok()).ok_or_else(bad)?;
        if length > rest.len() || length < space + 3 || rest[length - 1] != b'\n' {
            return Err(bad());
        }
        let record = &rest[space + 1..length - 1];
        let equals = record.iter().position(|b| *b == b'=').ok_or_else(bad)?;
        pax_record(&record[..equals], &record[equals + 1..], at, into)?;
        rest = &rest[length..];
    }
    Ok(())
}

fn pax_record(key: &[u8], value: &[u8], at: u64, into: &mut Extended) -> Result<(), TarError> {
    let number = |what: &str| -> Result<u64, TarError> {
        let parsed = text(value).and_then(|t| t.parse().ok());
        parsed.ok_or_else(|| malformed(at, &format!("the PAX {what} is not a number")))
    };
    let sparse = &mut into.sparse;
    match key {
        b"path" if !value.is_empty() => into.path = Some(until_nul(value.to_vec())),
        b"linkpath" if !value.is_empty() => into.link = Some(until_nul(value.to_vec())),
        b"size" => into.size = Some(number("size")?),
        b"uid" => into.uid = Some(number("user id")?),
        b"gid" => into.gid = Some(number("group id")?),
        b"mtime" => into.mtime = Some(pax_time(value).ok_or_else(|| malformed(at, "the PAX time is none"))?),
        b"GNU.sparse.name" => sparse.name = Some(until_nul(value.to_vec())),
        b"GNU.sparse.size" | b"GNU.sparse.realsize" => sparse.real_size = Some(number("sparse size")?),
        b"GNU.sparse.major" => sparse.map_in_content = value == b"1",
        b"GNU.sparse.offset" => sparse.offset = Some(number("sparse offset")?),
        b"GNU.sparse.numbytes" => {
            let offset =
                sparse.offset.take().ok_or_else(|| malformed(at, "a sparse length without offset"))?;
            push_piece(
                sparse.pieces.get_or_insert_default(),
                Piece { offset, length: number("length")? },
                at,
            )?;
        }
        b"GNU.sparse.map" => {
            let numbers: Option<Vec<u64>> =
                text(value).and_then(|t| t.split(',').map(|n| n.parse().ok()).collect());
            let numbers = numbers.ok_or_else(|| malformed(at, "the PAX sparse map is not one"))?;
            for pair in numbers.chunks(2) {
                let piece = Piece { offset: pair[0], length: *pair.get(1).unwrap_or(&0) };
                push_piece(sparse.pieces.get_or_insert_default(), piece, at)?;
            }
        }
        _ => {
            if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                if into.xattrs.len() >= MAX_XATTRS {
                    let limit = MAX_XATTRS as u64;
                    return Err(TarError::Limit { at, what: "extended attributes", limit });
                }
                into.xattrs.push((name.to_vec(), value.to_vec()));
            }
        }
    }
    Ok(())
}

/// `-12.5` is half a second before -12.
fn pax_time(value: &[u8]) -> Option<Mtime> {
    let value = text(value)?;
    let (whole, fraction) = value.split_once('.').unwrap_or((value, ""));
    let seconds: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanoseconds: u32 = digits.parse().ok()?;
    if whole.starts_with('-') && nanoseconds > 0 {
        return Some(Mtime { seconds: seconds.checked_sub(1)?, nanoseconds: 1_000_000_000 - nanoseconds });
    }
    Some(Mtime { seconds, nanoseconds })
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

fn push_piece(pieces: &mut Vec<Piece>, piece: Piece, at: u64) -> Result<(), TarError> {
    if pieces.len() >= MAX_SPARSE_PIECES {
        return Err(TarError::Limit { at, what: "sparse pieces", limit: MAX_SPARSE_PIECES as u64 });
    }
    // An empty last piece only says where the file ends.
    if piece.length > 0 {
        pieces.push(piece);
    }
    Ok(())
}

/// Pieces must come in order, not overlap, lie in the file, and be what the archive holds.
fn check_pieces(pieces: &[Piece], size: u64, stored: u64) -> Result<(), &'static str> {
    let mut end = 0u64;
    let mut sum = 0u64;
    for piece in pieces {
        if piece.offset < end {
            return Err("the sparse map is out of order");
        }
        end = piece.offset.checked_add(piece.length).ok_or("a sparse piece is too large")?;
        sum += piece.length;
    }
    match (end <= size, sum == stored) {
        (false, _) => Err("the sparse map is longer than its file"),
        (_, false) => Err("the sparse map does not match the content"),
        _ => Ok(()),
    }
}
