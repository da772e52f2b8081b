//! How fast can a pull be at best? The same packed layers from files: each read, hashed, unpacked, hashed again and
//! written as one file, several at once. No network, no names, no metadata. For `make bench-image`.
//!
//! usage: limit DIRECTORY LAYER...

use std::fs::File;
use std::io::{self, BufReader, Write};
use std::path::Path;
use std::sync::Mutex;

use sampan_base::digest::Hashing;

fn main() -> io::Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let directory = arguments.next().ok_or_else(|| io::Error::other("usage: limit DIRECTORY LAYER..."))?;
    std::fs::create_dir_all(&directory)?;
    let layers: Vec<_> = arguments.collect();
    let layers = Mutex::new(layers.into_iter().enumerate());
    let work = || -> io::Result<()> {
        loop {
            let next = layers.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next();
            let Some((n, layer)) = next else { return Ok(()) };
            let packed = Hashing::new(File::open(layer)?);
            let mut tar = flate2::bufread::MultiGzDecoder::new(BufReader::with_capacity(128 << 10, packed));
            let mut out = Hashing::new(File::create(Path::new(&directory).join(n.to_string()))?);
            let mut piece = vec![0; 256 << 10];
            loop {
                match io::Read::read(&mut tar, &mut piece)? {
                    0 => break,
                    n => out.write_all(&piece[..n])?,
                }
            }
            let (_, diff_id, _) = out.finish();
            let (_, digest, _) = tar.into_inner().into_inner().finish();
            // Both are made and not left out.
            std::hint::black_box((diff_id, digest));
        }
    };
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut result = work();
        for other in others {
            result = result.and(other.join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked"))));
        }
        result
    })
}
