//! How a layer's bytes are packed, told by their first bytes, never by a name.

use std::io::{self, BufRead, BufReader, Read};

use sampan_oci::image::media;

use crate::limits::{MAX_XZ_MEMORY_BYTES, MAX_ZSTD_WINDOW_LOG};

/// A layer's compression.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compression {
    /// A bare tar.
    None,
    /// gzip, of one or more members.
    Gzip,
    /// Zstandard.
    Zstd,
    /// xz, as archives are packed, never layers.
    Xz,
    /// bzip2, as archives are packed, never layers.
    Bzip2,
}

impl Compression {
    /// Told from the first bytes.
    pub fn detect(start: &[u8]) -> Compression {
        // zstd's skippable frames (0x184d2a50 to 5f) may come first, too.
        let skippable = start.len() >= 4 && start[0] & 0xf0 == 0x50 && start[1..4] == [0x2a, 0x4d, 0x18];
        if start.starts_with(&[0x1f, 0x8b]) {
            Compression::Gzip
        } else if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) || skippable {
            Compression::Zstd
        } else if start.starts_with(b"\xfd7zX") {
            Compression::Xz
        } else if start.starts_with(b"BZh") {
            Compression::Bzip2
        } else {
            Compression::None
        }
    }

    /// The OCI media type of a layer packed so.
    pub fn layer_media_type(self) -> &'static str {
        match self {
            // Layers of the last two are refused before anyone asks.
            Compression::None | Compression::Xz | Compression::Bzip2 => media::LAYER,
            Compression::Gzip => media::LAYER_GZIP,
            Compression::Zstd => media::LAYER_ZSTD,
        }
    }
}

/// Unpacks `input` on the fly, whatever its compression. Bytes behind the packed stream are read and dropped, so
/// that a digest taken of `input` is one of all of it.
///
/// # Errors
/// If the first bytes can't be read or the decoder can't be made.
pub fn unpacked<'a>(input: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    Ok(decoder(BufReader::with_capacity(BUFFER_BYTES, input))?.1)
}

/// As [`unpacked`], from a buffered input; also tells how it was packed.
pub(crate) fn decoder<'a>(mut input: impl BufRead + 'a) -> io::Result<(Compression, Box<dyn Read + 'a>)> {
    // One read may return a single byte; the detector needs four, if there are so many.
    let mut start = Vec::new();
    input.by_ref().take(4).read_to_end(&mut start)?;
    let compression = Compression::detect(&start);
    let input = io::Cursor::new(start).chain(input);
    let decoder: Box<dyn Read + 'a> = match compression {
        Compression::None => Box::new(input),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
            decoder.window_log_max(MAX_ZSTD_WINDOW_LOG)?;
            Box::new(decoder)
        }
        Compression::Xz => {
            // Streams may follow each other, as `xz` itself takes them.
            let flags = liblzma::stream::CONCATENATED;
            let stream = liblzma::stream::Stream::new_stream_decoder(MAX_XZ_MEMORY_BYTES, flags);
            Box::new(liblzma::bufread::XzDecoder::new_stream(input, stream.map_err(io::Error::other)?))
        }
        Compression::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(input)),
    };
    Ok((compression, decoder))
}

/// Bytes that are read at once.
pub(crate) const BUFFER_BYTES: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn check(packed: &[u8], expected: Compression) {
        assert_eq!(Compression::detect(packed), expected);
        let mut back = Vec::new();
        unpacked(packed).unwrap().read_to_end(&mut back).unwrap();
        assert_eq!(back, b"hello");
    }

    #[test]
    fn tells_and_unpacks() {
        check(b"hello", Compression::None);
        check(&zstd::encode_all(&b"hello"[..], 1).unwrap(), Compression::Zstd);
        let mut gzip = flate2::read::GzEncoder::new(&b"hello"[..], flate2::Compression::fast());
        let mut packed = Vec::new();
        gzip.read_to_end(&mut packed).unwrap();
        check(&packed, Compression::Gzip);
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 6);
        std::io::Write::write_all(&mut xz, b"hello").unwrap();
        check(&xz.finish().unwrap(), Compression::Xz);
        let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        std::io::Write::write_all(&mut bzip2, b"hello").unwrap();
        check(&bzip2.finish().unwrap(), Compression::Bzip2);
    }

    #[test]
    fn nothing_is_nothing() {
        let mut back = Vec::new();
        unpacked(&b""[..]).unwrap().read_to_end(&mut back).unwrap();
        assert!(back.is_empty());
    }
}
