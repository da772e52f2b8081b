//! How attached output is framed when there is no terminal: a header of eight bytes (the stream's number, three
//! zero bytes, the payload's length as a big-endian u32), then the payload (Engine API, "Stream format").

/// Standard input, only in answers of old servers.
pub const STDIN: u8 = 0;
/// Standard output.
pub const STDOUT: u8 = 1;
/// Standard error.
pub const STDERR: u8 = 2;
/// An error of the daemon.
pub const SYSTEM: u8 = 3;

/// The length of a frame's header.
pub const HEADER_BYTES: usize = 8;

/// The longest payload that is believed: Docker's frames hold at most 16 KiB of a log line or 32 KiB of a copy.
pub const MAX_PAYLOAD_BYTES: usize = 16 << 20;

/// The header of a frame that carries `length` bytes of `stream`.
pub fn header(stream: u8, length: u32) -> [u8; HEADER_BYTES] {
    let [a, b, c, d] = length.to_be_bytes();
    [stream, 0, 0, 0, a, b, c, d]
}

/// A stream that is not framed as it should be.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed;

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the stream is not framed as Docker frames it")
    }
}

impl std::error::Error for Malformed {}

/// Takes frames apart, whatever pieces the bytes come in.
#[derive(Debug, Default)]
pub struct Demultiplexer {
    header: Vec<u8>,
    /// Of the current frame: its stream and the payload bytes that are still to come.
    current: Option<(u8, usize)>,
}

impl Demultiplexer {
    /// Gives each payload part in `bytes`, with its stream, to `take`.
    ///
    /// # Errors
    /// If a header names a stream or length that can't be; the stream is of no use after that.
    pub fn push(&mut self, mut bytes: &[u8], mut take: impl FnMut(u8, &[u8])) -> Result<(), Malformed> {
        while !bytes.is_empty() {
            let Some((stream, left)) = self.current else {
                let part = bytes.len().min(HEADER_BYTES - self.header.len());
                self.header.extend_from_slice(&bytes[..part]);
                bytes = &bytes[part..];
                if let [stream, 0, 0, 0, a, b, c, d] = self.header[..] {
                    let length = u32::from_be_bytes([a, b, c, d]) as usize;
                    if stream > SYSTEM || length > MAX_PAYLOAD_BYTES {
                        return Err(Malformed);
                    }
                    self.header.clear();
                    self.current = (length > 0).then_some((stream, length));
                } else if self.header.len() == HEADER_BYTES {
                    return Err(Malformed);
                }
                continue;
            };
            let part = bytes.len().min(left);
            take(stream, &bytes[..part]);
            bytes = &bytes[part..];
            self.current = (left > part).then_some((stream, left - part));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_apart_whatever_the_pieces() {
        let mut bytes = Vec::new();
        for (stream, text) in [(STDOUT, "hello "), (STDERR, "oops"), (STDOUT, ""), (STDOUT, "world")] {
            bytes.extend(header(stream, u32::try_from(text.len()).unwrap()));
            bytes.extend(text.bytes());
        }
        for piece in 1..bytes.len() {
            let (mut out, mut err) = (Vec::new(), Vec::new());
            let mut demultiplexer = Demultiplexer::default();
            for part in bytes.chunks(piece) {
                let take = |s, b: &[u8]| if s == STDERR { err.extend(b) } else { out.extend(b) };
                demultiplexer.push(part, take).unwrap();
            }
            assert_eq!((out.as_slice(), err.as_slice()), (&b"hello world"[..], &b"oops"[..]));
        }
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(Demultiplexer::default().push(b"HTTP/1.1 400", |_, _| {}), Err(Malformed));
        assert_eq!(Demultiplexer::default().push(&header(7, 1), |_, _| {}), Err(Malformed));
    }
}
