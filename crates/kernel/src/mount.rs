//! Attributes of mounts: `mount_setattr(2)`.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::mount::{MountAttrFlags, MountPropagationFlags};

/// What to change about a mount.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    /// Attributes to set.
    pub set: MountAttrFlags,
    /// Attributes to clear. The access time modes are one attribute: to set one, clear [`ATIME_MASK`].
    pub clear: MountAttrFlags,
    /// How mount events pass from now on; unchanged if empty.
    pub propagation: MountPropagationFlags,
    /// The user namespace whose mapping the mount gets.
    pub idmap: Option<BorrowedFd<'a>>,
}

/// All access time modes.
pub const ATIME_MASK: MountAttrFlags = MountAttrFlags::MOUNT_ATTR__ATIME;

impl Default for Change<'_> {
    fn default() -> Self {
        Change {
            set: MountAttrFlags::empty(),
            clear: MountAttrFlags::empty(),
            propagation: MountPropagationFlags::empty(),
            idmap: None,
        }
    }
}

impl Change<'_> {
    /// Whether nothing is to change.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.clear.is_empty() && self.propagation.is_empty() && self.idmap.is_none()
    }
}

/// Changes the mount that `mount` refers to, and with `recursive` all below it; all or nothing.
///
/// # Errors
/// If the kernel refuses, or is older than 5.12 (`ENOSYS`).
pub fn change(mount: BorrowedFd<'_>, change: &Change<'_>, recursive: bool) -> io::Result<()> {
    const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
    let idmap = if change.idmap.is_some() { MOUNT_ATTR_IDMAP } else { 0 };
    let attributes = libc::mount_attr {
        attr_set: u64::from(change.set.bits()) | idmap,
        attr_clr: u64::from(change.clear.bits()),
        propagation: u64::from(change.propagation.bits()),
        userns_fd: change.idmap.map_or(0, |fd| u64::from(fd.as_raw_fd().unsigned_abs())),
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a terminated string, and the kernel reads `size_of` bytes of the structure, which lives
    // through the call.
    crate::checked(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    })?;
    Ok(())
}
