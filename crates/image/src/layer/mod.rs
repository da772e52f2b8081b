//! Layers: a tar to a directory ([`apply`]), a directory back to a tar ([`diff`]), and what a container changed
//! ([`changes`]).
//!
//! On disk a layer is a directory as overlayfs wants it: a file that the layer deletes is a character device 0:0, a
//! directory that hides what is below it has the attribute `trusted.overlay.opaque` with the value `y`. In a tar
//! the same two are the empty files `.wh.NAME` and `.wh..wh..opq`.

pub(crate) mod apply;
pub(crate) mod below;
pub(crate) mod changes;
pub(crate) mod compare;
pub(crate) mod diff;
pub(crate) mod error;
pub(crate) mod merge;
pub(crate) mod place;

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{FileType, Stat};
use sampan_kernel::beneath;

use crate::limits::MAX_PATH_DEPTH;

/// Marks a deleted name in a tar.
pub(crate) const WHITEOUT: &[u8] = b".wh.";
/// Names of aufs's own that mean nothing here, and the opaque mark.
pub(crate) const WHITEOUT_META: &[u8] = b".wh..wh.";
/// Marks an opaque directory in a tar.
pub(crate) const OPAQUE: &[u8] = b".wh..wh..opq";
/// Marks an opaque directory on disk.
const OPAQUE_XATTR: &str = "trusted.overlay.opaque";

pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

pub(crate) fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

pub(crate) fn is_opaque(directory: impl AsFd, name: &OsStr) -> io::Result<bool> {
    Ok(beneath::xattr(directory, name, OsStr::new(OPAQUE_XATTR))?.as_deref() == Some(b"y"))
}

/// A walk keeps a descriptor and a stack frame for each level; a container can make trees as deep as it likes.
fn check_depth(path: &Path) -> io::Result<()> {
    if path.iter().count() > MAX_PATH_DEPTH {
        let what = format!("directories are nested deeper than {MAX_PATH_DEPTH}");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    Ok(())
}

/// The extended attribute by which a program gives capabilities.
pub(crate) const CAPABILITY: &str = "security.capability";

/// overlayfs's private attributes: they never enter a tar, and are never taken from one, because they would make
/// the mount believe things (redirects, other files' data) that the tar's author chose.
pub(crate) fn is_overlays_own(xattr: &[u8]) -> bool {
    xattr.starts_with(b"trusted.overlay.") || xattr.starts_with(b"user.overlay.")
}
