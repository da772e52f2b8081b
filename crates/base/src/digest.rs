//! Content digests: `sha256:` and 64 lower-case hex digits (OCI image-spec, descriptor.md).

use std::io::{self, Read, Write};
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

use crate::text_type;

/// The digest of some bytes. Only SHA-256 is accepted: it is the one algorithm that every registry speaks.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(String);

/// A text that is not a digest.
#[derive(Debug, thiserror::Error)]
#[error("invalid digest `{text}`: expected `sha256:` and 64 lower-case hex digits")]
pub struct InvalidDigest {
    /// The text as given.
    pub text: String,
}

const PREFIX: &str = "sha256:";

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Digest {
        let mut hasher = Hasher::new();
        hasher.update(bytes);
        hasher.finish()
    }

    /// The whole text, `sha256:…`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The 64 hex digits alone: the file name in a content store.
    pub fn hex(&self) -> &str {
        &self.0[PREFIX.len()..]
    }

    /// The first 12 hex digits, as people are shown them.
    pub fn short(&self) -> &str {
        &self.hex()[..12]
    }

    /// The digest whose hex digits are `hex`.
    ///
    /// # Errors
    /// If `hex` is not 64 lower-case hex digits.
    pub fn from_hex(hex: &str) -> Result<Digest, InvalidDigest> {
        format!("{PREFIX}{hex}").parse()
    }
}

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        let hex = text.strip_prefix(PREFIX);
        match hex {
            Some(hex) if hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) => {
                Ok(Digest(text.to_owned()))
            }
            _ => Err(InvalidDigest { text: text.chars().take(100).collect() }),
        }
    }
}

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

text_type!(Digest);

/// Hashes bytes as they pass.
#[derive(Clone, Default)]
pub struct Hasher(Sha256);

impl Hasher {
    /// A hasher that has seen nothing.
    pub fn new() -> Hasher {
        Hasher(Sha256::new())
    }

    /// Takes in `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all bytes taken in.
    pub fn finish(self) -> Digest {
        let mut text = String::with_capacity(PREFIX.len() + 64);
        text.push_str(PREFIX);
        for byte in self.0.finalize() {
            for nibble in [byte >> 4, byte & 15] {
                text.push(char::from(b"0123456789abcdef"[usize::from(nibble)]));
            }
        }
        Digest(text)
    }
}

/// Passes bytes on to `W` or from `R` and hashes and counts them on the way.
pub struct Hashing<T> {
    inner: T,
    hasher: Hasher,
    bytes: u64,
}

impl<T> Hashing<T> {
    /// Wraps `inner`.
    pub fn new(inner: T) -> Hashing<T> {
        Hashing { inner, hasher: Hasher::new(), bytes: 0 }
    }

    /// The inner reader or writer, the digest and the number of the bytes that passed.
    pub fn finish(self) -> (T, Digest, u64) {
        (self.inner, self.hasher.finish(), self.bytes)
    }

    /// How many bytes have passed.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn passed(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.passed(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.passed(&buffer[..n]);
        Ok(n)
    }
}

/// The digest of a layer's uncompressed tar (image-spec, config.md: "DiffID").
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct DiffId(pub Digest);

/// Names a stack of layers (image-spec, config.md: "ChainID"): the digest of the parent's chain id, a space,
/// and the layer's diff id; a single layer's chain id is its diff id.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct ChainId(pub Digest);

impl ChainId {
    /// The chain id of `layer` on top of `parent`.
    pub fn extend(parent: Option<&ChainId>, layer: &DiffId) -> ChainId {
        match parent {
            None => ChainId(layer.0.clone()),
            Some(parent) => ChainId(Digest::of(format!("{} {}", parent.0, layer.0).as_bytes())),
        }
    }

    /// The chain id of a whole stack, the base first; `None` for no layers.
    pub fn of(layers: &[DiffId]) -> Option<ChainId> {
        layers.iter().fold(None, |parent, layer| Some(ChainId::extend(parent.as_ref(), layer)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_of_empty_bytes_is_the_well_known_one() {
        let digest = Digest::of(b"");
        assert_eq!(
            digest.as_str(),
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        assert_eq!(digest.short(), "e3b0c44298fc");
        assert_eq!(digest, digest.as_str().parse().unwrap());
    }

    #[test]
    fn refuses_what_is_no_digest() {
        for text in ["", "sha256:", "sha512:00", "sha256:E3B0", &format!("sha256:{}/", "0".repeat(63))] {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }

    #[test]
    fn chain_of_one_layer_is_its_diff_id_and_of_two_hashes_both() {
        let (a, b) = (DiffId(Digest::of(b"a")), DiffId(Digest::of(b"b")));
        assert_eq!(ChainId::of(&[]), None);
        assert_eq!(ChainId::of(std::slice::from_ref(&a)), Some(ChainId(a.0.clone())));
        let both = Digest::of(format!("{} {}", a.0, b.0).as_bytes());
        assert_eq!(ChainId::of(&[a, b]), Some(ChainId(both)));
    }

    #[test]
    fn hashing_writer_sees_what_passed() {
        let mut w = Hashing::new(Vec::new());
        w.write_all(b"abc").unwrap();
        let (out, digest, bytes) = w.finish();
        assert_eq!((out.as_slice(), digest, bytes), (&b"abc"[..], Digest::of(b"abc"), 3));
    }
}
