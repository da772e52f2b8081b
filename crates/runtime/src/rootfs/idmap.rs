//! User namespaces that nobody lives in: they hold the mapping of an id-mapped mount.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use sampan_kernel::process::{Clone, Namespaces, clone};
use sampan_oci::runtime::IdMapping;

use crate::channel::Channel;
use crate::ending::wait_status;

/// The mapping of an id-mapped mount: an id on disk is shown as another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IdMap {
    /// Lines of `/proc/PID/uid_map`.
    pub uids: String,
    /// Lines of `/proc/PID/gid_map`.
    pub gids: String,
    /// Whether the mounts below are mapped, too.
    pub recursive: bool,
}

/// Mappings as the kernel takes them.
pub fn lines(mappings: &[IdMapping]) -> String {
    mappings.iter().map(|m| format!("{} {} {}\n", m.container_id, m.host_id, m.size)).collect()
}

/// Makes a user namespace with a mapping: one needs a process to be made, and none to live on.
pub(super) fn namespace(map: &IdMap) -> io::Result<OwnedFd> {
    let (ours, theirs) = Channel::pair()?;
    let how = Clone { namespaces: Namespaces::USER, without: &[ours.as_fd()], ..Clone::default() };
    // The child does nothing but wait for our end to close.
    let child = clone(&how, || i32::from(theirs.receive().is_err()))?;
    let pid = child.pid.as_raw_nonzero();
    let make = || {
        fs::write(format!("/proc/{pid}/uid_map"), &map.uids)?;
        fs::write(format!("/proc/{pid}/gid_map"), &map.gids)?;
        File::open(format!("/proc/{pid}/ns/user"))
    };
    let made = make();
    drop(ours);
    wait_status(&child.pidfd)?;
    Ok(made?.into())
}
