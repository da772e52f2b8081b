//! A snapshot for a user namespace: its layers are mounted with the namespace's mapping, so that their files look as the
//! namespace's own inside. Nothing is copied, and other containers share the layers.
//!
//! Since Linux 5.19 overlayfs takes such mounts for its lower directories. Each is attached below
//! `snapshots/<n>/mapped` only until the overlay is mounted, which holds on to them by itself. The read-write layer of a
//! container is not mapped: what the namespace writes has its owners' ids of the host there, and [`IdMapping::to_image`] takes
//! them back when the layer is read. That of a build's step is, since it becomes a layer as it is.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::mount::{MountPropagationFlags, MoveMountFlags, OpenTreeFlags};
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
    /// The ids in an image of a file that has these ids on the host. What is not mapped is nobody's, as the namespace sees
    /// it; without any ranges, all stays.
    pub fn to_image(&self, uid: u32, gid: u32) -> (u32, u32) {
        let back = |ranges: &[IdRange], id: u32| {
            let of = |r: &IdRange| Some(id.checked_sub(r.outside).filter(|n| *n < r.length)? + r.inside);
            ranges.iter().find_map(of).unwrap_or(if ranges.is_empty() { id } else { NOBODY })
        };
        (back(&self.uids, uid), back(&self.gids, gid))
    }

    /// The ids on the host of what has these in an image, where they are mapped.
    pub fn to_host(&self, uid: u32, gid: u32) -> (Option<u32>, Option<u32>) {
        let forth = |ranges: &[IdRange], id: u32| {
            let of = |r: &IdRange| Some(id.checked_sub(r.inside).filter(|n| *n < r.length)? + r.outside);
            ranges.iter().find_map(of)
        };
        (forth(&self.uids, uid), forth(&self.gids, gid))
    }

    /// As [`IdMapping::to_host`]; what is not mapped is nobody's, as the namespace sees it.
    pub fn to_host_or_nobody(&self, uid: u32, gid: u32) -> (u32, u32) {
        let (uid, gid) = self.to_host(uid, gid);
        (uid.unwrap_or(NOBODY), gid.unwrap_or(NOBODY))
    }

    /// The value of `security.capability` in an image, of one that the namespace set: without whose root it is for.
    pub fn capability_to_image(&self, value: Vec<u8>) -> Vec<u8> {
        let root = self.to_host(0, 0).0;
        match (Capability::parse(&value), root) {
            (Some(Capability { root: Some(of), magic, sets }), Some(root)) if of == root => {
                [&(CAPABILITY_2 | magic & CAPABILITY_FLAGS).to_le_bytes(), sets].concat()
            }
            _ => value,
        }
    }

    /// The value of `security.capability` by which the namespace's root has what an image's file gives.
    pub(crate) fn capability_to_host(&self, value: Vec<u8>) -> Vec<u8> {
        let root = self.to_host(0, 0).0;
        match (Capability::parse(&value), root) {
            (Some(Capability { root: None, magic, sets }), Some(root)) => {
                let magic = (CAPABILITY_3 | magic & CAPABILITY_FLAGS).to_le_bytes();
                [&magic[..], sets, &root.to_le_bytes()].concat()
            }
            _ => value,
        }
    }
}

/// The id that the kernel shows where there is none.
const NOBODY: u32 = 65534;

// `struct vfs_ns_cap_data`: a word with revision and flags, two sets of two words each, and in revision 3 the id of the
// root for whom it is.
const CAPABILITY_2: u32 = 0x0200_0000;
const CAPABILITY_3: u32 = 0x0300_0000;
const CAPABILITY_FLAGS: u32 = 0x00ff_ffff;
const CAPABILITY_SETS_BYTES: usize = 16;

struct Capability<'a> {
    magic: u32,
    sets: &'a [u8],
    root: Option<u32>,
}

impl Capability<'_> {
    fn parse(value: &[u8]) -> Option<Capability<'_>> {
        let (magic, rest) = value.split_first_chunk::<4>()?;
        let (sets, root) = rest.split_at_checked(CAPABILITY_SETS_BYTES)?;
        let magic = u32::from_le_bytes(*magic);
        let root = match magic & !CAPABILITY_FLAGS {
            CAPABILITY_2 if root.is_empty() => None,
            CAPABILITY_3 => Some(u32::from_le_bytes(root.try_into().ok()?)),
            _ => return None,
        };
        Some(Capability { magic, sets, root })
    }
}

/// A mount of the directory `source`, nowhere yet, as the user namespace `owner` maps it. The file system may take no
/// mapping: EINVAL then (mount_setattr(2)).
pub(super) fn map(source: &Path, owner: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = rustix::mount::open_tree(CWD, source, flags)?;
    // What is mounted below the directory later is not to appear below its copy, and not to go with it.
    let private = MountPropagationFlags::PRIVATE;
    let change = Change { idmap: Some(owner), propagation: private, ..Change::default() };
    mount::change(tree.as_fd(), &change, false)?;
    Ok(tree)
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

/// The directory beside a snapshot's parts where mounts are attached.
pub(super) const PLACE: &str = "mapped";

impl Attached {
    /// Attaches the directory `source` below `place`, as the user namespace `owner` maps it.
    fn attach(&mut self, source: &Path, owner: BorrowedFd<'_>, place: &Path) -> io::Result<PathBuf> {
        let tree = map(source, owner)?;
        let at = place.join(self.0.len().to_string());
        std::fs::create_dir_all(&at)?;
        rustix::mount::move_mount(&tree, "", CWD, &at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        self.0.push(at.clone());
        Ok(at)
    }

    fn attach_all(
        &mut self,
        sources: &[PathBuf],
        owner: BorrowedFd<'_>,
        place: &Path,
    ) -> io::Result<Vec<PathBuf>> {
        sources.iter().map(|source| self.attach(source, owner, place)).collect()
    }
}

/// Mounts `overlay` at `at`, its lower directories as the user namespace `owner` maps them; `parts` has room for it.
pub(super) fn mount(overlay: &Overlay, parts: &Path, owner: BorrowedFd<'_>, at: &Path) -> io::Result<()> {
    let mut attached = Attached(Vec::new());
    let place = parts.join(PLACE);
    let lower = attached.attach_all(&overlay.lower, owner, &place)?;
    Overlay { lower, ..overlay.clone() }.mount(at)
}

/// As [`mount`], with the read-write layer, which is in `parts`, mapped as well: what is written has the namespace's own ids on
/// disk. `root` is who is root in the namespace.
pub(super) fn mount_whole(
    overlay: &Overlay,
    parts: &Path,
    owner: BorrowedFd<'_>,
    root: (u32, u32),
    at: &Path,
) -> io::Result<()> {
    let mut attached = Attached(Vec::new());
    let place = parts.join(PLACE);
    let lower = attached.attach_all(&overlay.lower, owner, &place)?;
    let mapped = attached.attach(parts, owner, &place)?;
    let moved =
        |path: &Path| path.strip_prefix(parts).map(|name| mapped.join(name)).map_err(io::Error::other);
    let overlay = Overlay {
        lower,
        upper: moved(&overlay.upper)?,
        work: moved(&overlay.work)?,
        volatile: overlay.volatile,
    };
    // overlayfs makes its own files as whoever mounts it, and the host's root is nobody in a mapped directory.
    sampan_kernel::fs_user::as_user(root.0, root.1, || overlay.mount(at))?
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
            assert_eq!(mapping.to_host(image, image), (Some(host), Some(host)));
            assert_eq!(mapping.to_image(host, host), (image, image));
        }
        assert_eq!(IdMapping::default().to_image(7, 8), (7, 8));
        let two = vec![IdRange { inside: 0, outside: 100_000, length: 2 }];
        let mapping = IdMapping { uids: two.clone(), gids: two };
        assert_eq!(mapping.to_host(1, 2), (Some(100_001), None));
        assert_eq!(mapping.to_image(0, 100_002), (65534, 65534));
        // The id that a namespace's root has on the host is nobody's inside, not root's.
        assert_eq!(mapping.to_host_or_nobody(100_000, 1), (65534, 100_001));
    }

    #[test]
    fn capabilities_of_files_are_for_the_namespaces_root() {
        let range = vec![IdRange { inside: 0, outside: 100_000, length: 10 }];
        let mapping = IdMapping { uids: range.clone(), gids: range };
        let image = [&[1, 0, 0, 2], &[7; 16][..]].concat();
        let host = [&[1, 0, 0, 3], &[7; 16][..], &100_000u32.to_le_bytes()].concat();
        assert_eq!(mapping.capability_to_host(image.clone()), host);
        assert_eq!(mapping.capability_to_image(host.clone()), image);
        let others = [&host[..20], &5u32.to_le_bytes()].concat();
        for value in [others, vec![], vec![1, 0, 0, 2], image[..19].to_vec()] {
            assert_eq!(mapping.capability_to_image(value.clone()), value);
        }
        assert_eq!(IdMapping::default().capability_to_host(image.clone()), image);
    }
}
