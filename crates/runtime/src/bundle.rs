//! A bundle: a directory with a `config.json` and, as a rule, a root file system.

use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use sampan_base::{Class, FileError};
use sampan_oci::runtime::{Process, Spec};
use serde::de::DeserializeOwned;

use crate::state::MAX_DOCUMENT;

/// A bundle whose config.json is JSON of the right shape. What it asks for is checked when it is planned.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// Its directory, absolute, without links.
    pub path: PathBuf,
    /// config.json.
    pub spec: Spec,
    /// config.json as it is in the file.
    pub bytes: Vec<u8>,
}

/// A bundle that can't be read.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// A file can't be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file is not JSON of the right shape.
    #[error("cannot understand `{}`", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        source: serde_json::Error,
    },
    /// It is written for another version of the specification.
    #[error("`{}` is for version `{version}` of the runtime specification; versions 1.x.y are supported", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// The version.
        version: String,
    },
}

impl BundleError {
    /// The class to report.
    pub fn class(&self) -> Class {
        match self {
            BundleError::File(error) => error.class(),
            BundleError::Malformed { .. } => Class::Invalid,
            BundleError::Version { .. } => Class::Unsupported,
        }
    }
}

impl Bundle {
    /// Reads the bundle in a directory.
    ///
    /// # Errors
    /// If there is none, or it is for another version.
    pub fn load(path: &Path) -> Result<Bundle, BundleError> {
        let path = fs::canonicalize(path).map_err(FileError::on("open the bundle", path))?;
        let file = path.join("config.json");
        let bytes = read(&file)?;
        let spec: Spec = parse(&file, &bytes)?;
        if !crate::check::version(&spec.oci_version) {
            return Err(BundleError::Version { path: file, version: spec.oci_version });
        }
        Ok(Bundle { path, spec, bytes })
    }
}

/// Reads the file of `exec --process`.
///
/// # Errors
/// If it can't be read or is not one.
pub fn load_process(path: &Path) -> Result<Process, BundleError> {
    // A pipe, too: it is named by the caller, not by a bundle that somebody else has made.
    parse(path, &sampan_base::files::read_limited(path, MAX_DOCUMENT)?)
}

/// Reads any JSON document.
///
/// # Errors
/// If it can't be read or is of another shape.
pub fn parse<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T, BundleError> {
    serde_json::from_slice(bytes).map_err(|source| BundleError::Malformed { path: path.to_owned(), source })
}

/// Reads a regular file of bounded length: a fifo of its name must not hold us up.
///
/// # Errors
/// If it is not one.
pub fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    let read = || -> io::Result<Vec<u8>> {
        let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
        }
        if metadata.len() > MAX_DOCUMENT {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("longer than {MAX_DOCUMENT} bytes"),
            ));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0) + 1);
        file.take(MAX_DOCUMENT).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map_err(FileError::on("read", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(config: &str) -> Result<Bundle, String> {
        let temporary = tempfile::tempdir().unwrap();
        fs::write(temporary.path().join("config.json"), config).unwrap();
        Bundle::load(temporary.path()).map_err(|e| sampan_base::chain(&e))
    }

    #[test]
    fn versions_and_shapes_are_checked() {
        assert!(check(r#"{"ociVersion":"1.0.2-dev"}"#).is_ok());
        assert!(check(r#"{"ociVersion":"2.0.0"}"#).unwrap_err().contains("version `2.0.0`"));
        assert!(check("{}").unwrap_err().contains("version ``"));
        assert!(check(r#"{"ociVersion":5}"#).unwrap_err().contains("line 1"));
        assert!(check("").unwrap_err().contains("config.json"));
    }

    #[test]
    fn what_is_no_file_is_refused_at_once() {
        let temporary = tempfile::tempdir().unwrap();
        let fifo = temporary.path().join("config.json");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert!(matches!(Bundle::load(temporary.path()), Err(BundleError::File(_))));
        assert!(matches!(Bundle::load(Path::new("/nope")), Err(BundleError::File(_))));
    }
}
