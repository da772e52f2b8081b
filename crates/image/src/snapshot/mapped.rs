//! A snapshot for a user namespace: its layers are mounted with the namespace's mapping, so that their files look as the
//! namespace's own inside. Nothing is copied, and other containers share the layers.
//!
//! Since Linux 5.19 overlayfs takes such mounts for its lower directories. Each is attached below
//! `snapshots/<n>/mapped` only until the overlay is mounted, which holds on to them by itself. The read-write layer is
//! not mapped: what the namespace writes has its owners' ids of the host there, and [`IdMapping::to_image`] takes
//! them back when the layer is read.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags};
use sampan_kernel::mount::{self, Change};
use serde::{Deserialize, Serialize};

use super::overlay::{self, Overlay};

/// Which ids of the host a user namespace's ids are: ranges as in `/proc/<pid>/uid_map`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct IdMapping {
    /// Users.
    pub uids: Vec<IdRange>,
    /// Groups.
    pub gids: Vec<IdRange>,
}

/// `length` ids from `inside` on are those from `outside` on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct IdRange {
    /// The first in the namespace.
    pub inside: u32,
    /// The first on the host.
    pub outside: u32,
    /// How many.
    pub length: u32,
}

impl IdMapping {
    /// The ids in an image of a file that has these ids on the host; what is not mapped stays.
    pub fn to_image(&self, uid: u32, gid: u32) -> (u32, u32) {
        let back = |ranges: &[IdRange], id: u32| {
            let of = |r: &IdRange| Some(id.checked_sub(r.outside).filter(|n| *n < r.length)? + r.inside);
            ranges.iter().find_map(of).unwrap_or(id)
        };
        (back(&self.uids, uid), back(&self.gids, gid))
    }

    /// The ids on the host of what has these in an image; what is not mapped stays.
    pub fn to_host(&self, uid: u32, gid: u32) -> (u32, u32) {
        let forth = |ranges: &[IdRange], id: u32| {
            let of = |r: &IdRange| Some(id.checked_sub(r.inside).filter(|n| *n < r.length)? + r.outside);
            ranges.iter().find_map(of).unwrap_or(id)
        };
        (forth(&self.uids, uid), forth(&self.gids, gid))
    }
}

/// Mounts on their way; detached when dropped.
struct Attached(Vec<PathBuf>);

impl Drop for Attached {
    fn drop(&mut self) {
        for at in self.0.drain(..).rev() {
            // What stays mounted goes when the store opens the next time.
            let _ = overlay::unmount(&at);
            let _ = std::fs::remove_dir(&at);
        }
    }
}

/// Mounts `overlay` at `at`, its lower directories as the user namespace `owner` maps them; `parts` has room for it.
pub(super) fn mount(overlay: &Overlay, parts: &Path, owner: BorrowedFd<'_>, at: &Path) -> io::Result<()> {
    let mut attached = Attached(Vec::new());
    let directory = parts.join("mapped");
    std::fs::create_dir_all(&directory)?;
    let mut lower = Vec::new();
    for layer in &overlay.lower {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = rustix::mount::open_tree(CWD, layer, flags)?;
        mount::change(tree.as_fd(), &Change { idmap: Some(owner), ..Change::default() }, false)?;
        let place = directory.join(attached.0.len().to_string());
        std::fs::create_dir_all(&place)?;
        rustix::mount::move_mount(&tree, "", CWD, &place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        attached.0.push(place.clone());
        lower.push(place);
    }
    Overlay { lower, ..overlay.clone() }.mount(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_go_there_and_back() {
        let ranges = vec![
            IdRange { inside: 0, outside: 100_000, length: 10 },
            IdRange { inside: 10, outside: 500, length: u32::MAX - 600 },
        ];
        let mapping = IdMapping { uids: ranges.clone(), gids: ranges };
        for (image, host) in [(0, 100_000), (9, 100_009), (10, 500), (4_000_000, 4_000_490)] {
            assert_eq!(mapping.to_host(image, image), (host, host));
            assert_eq!(mapping.to_image(host, host), (image, image));
        }
        assert_eq!(IdMapping::default().to_image(7, 8), (7, 8));
    }
}
