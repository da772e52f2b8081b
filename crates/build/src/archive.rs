//! Archives that `ADD` unpacks: tars, bare or packed by gzip, bzip2, xz or zstd, known by their content.

use std::io::{self, Read};

use sampan_image::compression;
use sampan_image::tar::Reader;

/// KiB that unpacking xz may take: its strongest preset needs 65 MiB, a hostile header asks for 4 GiB.
const MAX_XZ_MEMORY_KIB: u32 = 128 * 1024;
/// How many bytes tell how a file is packed.
const MAGIC_BYTES: usize = 6;

/// The content of a packed file; of one that is not packed, its own.
pub(crate) fn unpacked<'a>(mut content: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut start = Vec::new();
    content.by_ref().take(MAGIC_BYTES as u64).read_to_end(&mut start)?;
    let bzip2 = start.starts_with(b"BZh");
    let xz = start == b"\xfd7zXZ\0";
    let whole = io::Cursor::new(start).chain(content);
    Ok(if bzip2 {
        Box::new(bzip2::read::MultiBzDecoder::new(whole))
    } else if xz {
        Box::new(lzma_rust2::XzReader::new_mem_limit(io::BufReader::new(whole), true, MAX_XZ_MEMORY_KIB))
    } else {
        Box::new(compression::unpacked(whole)?)
    })
}

/// Whether it is an archive: one that has a first entry. A packed file that is no tar is just a file.
pub(crate) fn is_archive(content: impl Read) -> bool {
    unpacked(content).is_ok_and(|unpacked| matches!(Reader::new(unpacked).next_member(), Ok(Some(_))))
}
