//! Tar archives as a stream of [`Member`]s: ustar, PAX and GNU in, PAX out.
//!
//! The header block itself is the `tar` crate's; what spans blocks (long names, PAX records, sparse maps of all
//! four kinds) is read here, because an archive is not trusted: every length is bounded before it is believed.
//!
//! [`Reader`] yields members and then their content; [`Writer`] takes the same values, so that what one wrote the
//! other reads back.

mod read;
mod write;

use std::io;

use sampan_base::Class;

pub use read::Reader;
pub use write::Writer;

/// One entry of an archive, without its content.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// The path as the archive has it: not checked, any bytes.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// The permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// When the content was last changed.
    pub mtime: Mtime,
    /// Extended attributes, name and value, in the archive's order.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Seconds since 1970 and nanoseconds, always counted forward.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Mtime {
    /// Whole seconds.
    pub seconds: i64,
    /// 0 to 999,999,999.
    pub nanoseconds: u32,
}

/// What a [`Member`] is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A regular file.
    File {
        /// Its length, holes included.
        size: u64,
        /// Where its bytes go if it has holes: the archive holds these pieces one after the other.
        pieces: Option<Vec<Piece>>,
    },
    /// Another name for an earlier member.
    HardLink {
        /// The other's path, not checked.
        target: Vec<u8>,
    },
    /// A symbolic link.
    Symlink {
        /// Its text.
        target: Vec<u8>,
    },
    /// A directory.
    Directory,
    /// A character device.
    CharDevice {
        /// The driver.
        major: u32,
        /// Which of the driver's devices.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// The driver.
        major: u32,
        /// Which of the driver's devices.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
}

/// A part of a sparse file that is not a hole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// Where in the file it starts.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
}

impl Member {
    /// How many bytes of content the archive holds for it.
    pub fn stored_bytes(&self) -> u64 {
        match &self.kind {
            Kind::File { pieces: Some(pieces), .. } => pieces.iter().map(|p| p.length).sum(),
            Kind::File { size, pieces: None } => *size,
            _ => 0,
        }
    }
}

/// An archive that can't be read on.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// It ends in the middle.
    #[error("the archive is cut off at byte {at}")]
    CutOff {
        /// Where.
        at: u64,
    },
    /// It is no tar, or is damaged.
    #[error("the archive is damaged at byte {at}: {what}")]
    Malformed {
        /// Where the entry starts.
        at: u64,
        /// What is wrong.
        what: String,
    },
    /// An entry of a type that has no meaning in an image.
    #[error("the archive has an entry of the unsupported type `{}` at byte {at}", kind.escape_ascii())]
    UnsupportedEntry {
        /// Where the entry starts.
        at: u64,
        /// The type's byte.
        kind: u8,
    },
    /// More than [`crate::limits`] allows.
    #[error("the archive has more than {limit} {what} in one entry, at byte {at}")]
    Limit {
        /// Where the entry starts.
        at: u64,
        /// Of what.
        what: &'static str,
        /// How many are allowed.
        limit: u64,
    },
    /// Whatever supplies the bytes failed.
    #[error("cannot read the archive")]
    Read {
        /// Why.
        source: io::Error,
    },
}

impl TarError {
    /// The class to report.
    pub fn class(&self) -> Class {
        match self {
            TarError::Read { source } => sampan_base::error::class_of_io(source),
            TarError::UnsupportedEntry { .. } => Class::Unsupported,
            _ => Class::Invalid,
        }
    }
}

const BLOCK: u64 = 512;

/// `n` rounded up to whole blocks.
fn padded(n: u64) -> u64 {
    n.div_ceil(BLOCK).saturating_mul(BLOCK)
}
