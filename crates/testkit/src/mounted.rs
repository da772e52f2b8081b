//! File systems that tests mount.

use std::ffi::CString;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags};

/// A file system that is there until this is dropped.
#[derive(Debug)]
pub struct Mounted(PathBuf);

impl Mounted {
    /// Mounts a new file system of this type at a directory.
    ///
    /// # Panics
    /// If it can't be mounted.
    pub fn new(filesystem: &str, at: &Path, options: &str) -> Mounted {
        let options = CString::new(options).unwrap();
        rustix::mount::mount("sampan-it", at, filesystem, MountFlags::empty(), options.as_c_str()).unwrap();
        Mounted(at.to_owned())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, UnmountFlags::DETACH);
    }
}
