//! What a root file system takes from the host, as mounts that are attached nowhere yet.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::{OpenTreeFlags, open_tree};
use sampan_kernel::cgroup::MOUNT_POINT;
use sampan_kernel::mount::{Change, change};

use super::idmap::{self, IdMap};
use super::plan::{MountPlan, Plan, What};
use crate::cgroup::Group;
use crate::error::Step;

/// Mounts that are attached nowhere yet.
#[derive(Debug)]
pub struct Sources {
    /// The root file system itself.
    pub rootfs: OwnedFd,
    /// What each mount of the plan takes.
    pub mounts: Vec<Source>,
    /// The plan's devices, if nodes are bound.
    pub devices: Vec<OwnedFd>,
}

/// What one mount takes.
#[derive(Debug)]
pub enum Source {
    /// Nothing: it is a new file system.
    Nothing,
    /// A tree.
    Tree(OwnedFd),
}

/// Takes from the host what a plan needs, but for the control groups, which may not be there yet.
///
/// # Errors
/// If something is not there.
pub fn open(plan: &Plan) -> Result<Sources, Step> {
    let rootfs = tree(&plan.path, true)
        .map_err(Step::on(|| format!("take the root file system `{}`", plan.path.display())))?;
    if let Some(map) = &plan.idmap {
        apply(map, &rootfs).map_err(Step::on(|| format!("map the ids of `{}`", plan.path.display())))?;
    }
    let (kind, recursive) = plan.from_host;
    let pass = Change { propagation: kind, ..Change::default() };
    // Mounts in the container must never show up on the host by way of its root.
    let inward = match kind {
        rustix::mount::MountPropagationFlags::PRIVATE => pass,
        _ => Change { propagation: rustix::mount::MountPropagationFlags::DOWNSTREAM, ..Change::default() },
    };
    change(rootfs.as_fd(), &inward, true)
        .map_err(Step::on(|| format!("cut `{}` off from the host's mounts", plan.path.display())))?;
    let mut mounts = Vec::with_capacity(plan.mounts.len());
    for mount in &plan.mounts {
        mounts.push(open_one(mount, (&pass, recursive))?);
    }
    let mut devices = Vec::new();
    if plan.bind_devices && plan.fill_dev {
        for device in &plan.devices {
            let path = Path::new("/").join(&device.path);
            devices.push(
                tree(&path, false).map_err(Step::on(|| format!("take the device `{}`", path.display())))?,
            );
        }
    }
    Ok(Sources { rootfs, mounts, devices })
}

/// Takes from the host what one mount needs. `pass` tells how mount events pass between host and container.
pub(super) fn open_one(mount: &MountPlan, pass: (&Change<'_>, bool)) -> Result<Source, Step> {
    let What::Bind { source, recursive } = &mount.what else { return Ok(Source::Nothing) };
    let link = match mount.options.source_nofollow {
        true => OpenTreeFlags::AT_SYMLINK_NOFOLLOW,
        false => OpenTreeFlags::empty(),
    };
    let tree = open_tree(CWD, source, flags(*recursive) | link)
        .map_err(Step::on(|| format!("take `{}` for a bind mount", source.display())))?;
    change(tree.as_fd(), pass.0, pass.1)
        .map_err(Step::on(|| format!("cut `{}` off from the host's mounts", source.display())))?;
    if let Some(map) = &mount.idmap {
        apply(map, &tree).map_err(Step::on(|| format!("map the ids of `{}`", source.display())))?;
    }
    Ok(Source::Tree(tree))
}

fn apply(map: &IdMap, tree: &OwnedFd) -> std::io::Result<()> {
    let namespace = idmap::namespace(map)?;
    let map_ids = Change { idmap: Some(namespace.as_fd()), ..Change::default() };
    change(tree.as_fd(), &map_ids, map.recursive)
}

/// Takes a container's control groups from the host: one mount for v2, or one for each group, in their order.
/// `own_view` tells whether the container sees its own groups as the root. Whoever attaches them has to cut them off
/// from the host's mounts.
///
/// # Errors
/// If one is not there.
pub fn cgroups(groups: &[Group], own_view: bool) -> Result<Vec<OwnedFd>, Step> {
    let take =
        |path: &Path| tree(path, false).map_err(Step::on(|| format!("take the cgroup `{}`", path.display())));
    // In the host's view of a unified hierarchy, the container's group is where the host has it.
    if let ([Group { limits: true, .. }], false) = (groups, own_view) {
        return Ok(vec![take(Path::new(MOUNT_POINT))?]);
    }
    groups.iter().map(|group| take(&group.path)).collect()
}

/// A copy of what is mounted at a path of the host.
fn tree(path: &Path, recursive: bool) -> std::io::Result<OwnedFd> {
    Ok(open_tree(CWD, path, flags(recursive))?)
}

/// A copy of what a descriptor refers to, without the mounts below it.
pub(super) fn copy(of: BorrowedFd<'_>) -> std::io::Result<OwnedFd> {
    Ok(open_tree(of, c"", flags(false) | OpenTreeFlags::AT_EMPTY_PATH)?)
}

/// As [`copy`], with the mounts below it.
pub(super) fn copy_with_mounts(of: BorrowedFd<'_>) -> std::io::Result<OwnedFd> {
    Ok(open_tree(of, c"", flags(true) | OpenTreeFlags::AT_EMPTY_PATH)?)
}

/// As [`copy_with_mounts`], of what has this name in a directory. A link is not followed.
pub(super) fn copy_at(directory: BorrowedFd<'_>, name: &std::ffi::OsStr) -> std::io::Result<OwnedFd> {
    Ok(open_tree(directory, name, flags(true) | OpenTreeFlags::AT_SYMLINK_NOFOLLOW)?)
}

fn flags(recursive: bool) -> OpenTreeFlags {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive { flags | OpenTreeFlags::AT_RECURSIVE } else { flags }
}
