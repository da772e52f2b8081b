//! Packs a stream by gzip on several threads: pieces of one size are deflated each for itself, and their outputs follow
//! each other in one gzip member. The same bytes always give the same bytes, whatever the number of threads.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, sync_channel};

use flate2::{Compress, Compression, Crc, FlushCompress};

/// Bytes of a piece: large enough that the window's loss between pieces is below a percent of the output.
const PIECE_BYTES: usize = 1024 * 1024;
/// gzip's own default; a layer is packed once and read often.
const LEVEL: u32 = 6;
/// More threads than this do not make a push faster, and each holds two pieces.
const MAX_THREADS: usize = 8;
/// Magic, deflate, no flags, no time, no extra flags, unknown system: nothing that differs from host to host.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

/// Copies all of `input`, packed, to `output`.
///
/// # Errors
/// If `input` can't be read or `output` fails.
pub(crate) fn gzip(input: &mut (dyn Read + Send), output: &mut dyn Write) -> io::Result<()> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
    let mut check = Crc::new();
    output.write_all(&HEADER)?;
    std::thread::scope(|scope| {
        let mut under_way: VecDeque<Receiver<io::Result<Piece>>> = VecDeque::new();
        let mut finish = |piece: &Receiver<io::Result<Piece>>, output: &mut dyn Write| -> io::Result<()> {
            // A thread that is gone without an answer has panicked; the scope passes that on.
            let piece = piece.recv().map_err(io::Error::other)??;
            check.combine(&piece.check);
            output.write_all(&piece.packed)
        };
        loop {
            let mut bytes = Vec::with_capacity(PIECE_BYTES);
            input.take(PIECE_BYTES as u64).read_to_end(&mut bytes)?;
            let last = bytes.len() < PIECE_BYTES;
            let (sender, receiver) = sync_channel(1);
            scope.spawn(move || {
                // The other end is gone if another piece failed.
                let _ = sender.send(Piece::pack(&bytes, last));
            });
            under_way.push_back(receiver);
            while under_way.len() > if last { 0 } else { threads } {
                if let Some(piece) = under_way.pop_front() {
                    finish(&piece, output)?;
                }
            }
            if last {
                return Ok::<(), io::Error>(());
            }
        }
    })?;
    output.write_all(&check.sum().to_le_bytes())?;
    output.write_all(&check.amount().to_le_bytes())
}

struct Piece {
    packed: Vec<u8>,
    check: Crc,
}

impl Piece {
    /// Deflated up to a byte's border; `last` ends the stream.
    fn pack(bytes: &[u8], last: bool) -> io::Result<Piece> {
        let mut check = Crc::new();
        check.update(bytes);
        let mut deflate = Compress::new(Compression::new(LEVEL), false);
        let mut packed = Vec::with_capacity(bytes.len() / 2 + 1024);
        let flush = if last { FlushCompress::Finish } else { FlushCompress::Sync };
        loop {
            let done = usize::try_from(deflate.total_in()).map_err(io::Error::other)?;
            deflate.compress_vec(&bytes[done..], &mut packed, flush).map_err(io::Error::other)?;
            // Room left over means that nothing is held back any more.
            if packed.len() < packed.capacity() {
                return Ok(Piece { packed, check });
            }
            packed.reserve(packed.capacity());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8]) {
        let mut packed = Vec::new();
        gzip(&mut &*bytes, &mut packed).unwrap();
        let mut again = Vec::new();
        gzip(&mut &*bytes, &mut again).unwrap();
        assert!(packed == again, "the same bytes give the same bytes");
        let mut back = Vec::new();
        // One member: readers that stop after the first get all.
        flate2::bufread::GzDecoder::new(&*packed).read_to_end(&mut back).unwrap();
        assert!(back == bytes);
    }

    #[test]
    fn what_is_packed_unpacks() {
        check(b"");
        check(b"hello");
        let mut random = 1u64;
        let mut noise = |n: usize| -> Vec<u8> {
            let mut next = || {
                random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (random >> 56) as u8
            };
            (0..n).map(|_| next()).collect()
        };
        check(&vec![0; 5 << 20]);
        check(&noise(PIECE_BYTES));
        check(&noise(3 * PIECE_BYTES - 1));
        check(&noise(2 * PIECE_BYTES + 1));
    }
}
