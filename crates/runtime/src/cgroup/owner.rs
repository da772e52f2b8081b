//! Who owns a container's group: with v2, a user of the container's own who may change it hands on its limits himself.

use std::fs;
use std::io;
use std::os::unix::fs::lchown;

use rustix::mount::MountAttrFlags;
use sampan_kernel::process::Namespaces;
use sampan_oci::runtime::NamespaceKind;

use super::Group;
use crate::error::Step;
use crate::init::Plan;
use crate::rootfs::What;

/// What the kernel lets owners change, where it does not say it itself (before 4.15).
const FILES: &str = "cgroup.procs\ncgroup.subtree_control\ncgroup.threads\n";

/// Gives the v2 group to the user of the container's process, if the container sees it as the root of its own cgroup
/// namespace and may write to it, as the specification wants it.
///
/// # Errors
/// If the kernel refuses.
pub fn hand_over(groups: &[Group], plan: &Plan) -> Result<(), Step> {
    let writable = plan.rootfs.mounts.iter().any(|mount| {
        mount.what == What::Cgroups
            && !mount.options.attributes.set.contains(MountAttrFlags::MOUNT_ATTR_RDONLY)
    });
    let own_view = plan.namespaces.new.contains(Namespaces::CGROUP);
    let (Some(group), true) = (groups.iter().find(|group| group.limits), writable && own_view) else {
        return Ok(());
    };
    let ids = &plan.namespaces;
    if ids.uid_map.is_empty() && ids.joins(NamespaceKind::User) {
        // Who that is on the host, the configuration does not say.
        return Ok(());
    }
    let Some(owner) = on_host(&ids.uid_map, plan.process.uid) else { return Ok(()) };
    // The host's root owns it already; and who is not root owns what he makes, or can't give it away.
    if owner == 0 || !super::is_host_root() {
        return Ok(());
    }
    let files = fs::read_to_string("/sys/kernel/cgroup/delegate").unwrap_or_else(|_| FILES.to_owned());
    let paths = files.lines().map(|file| group.path.join(file)).chain([group.path.clone()]);
    for path in paths {
        match lchown(&path, Some(owner), None) {
            // A controller that is not turned on has no files.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            other => other.map_err(Step::on(|| format!("give `{}` to user {owner}", path.display())))?,
        }
    }
    Ok(())
}

/// The user on the host that a user in the container is, by lines of `uid_map`; without any, the same.
fn on_host(map: &str, user: u32) -> Option<u32> {
    if map.is_empty() {
        return Some(user);
    }
    map.lines().find_map(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u32>);
        let (inside, outside, length) = (numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?);
        let offset = user.checked_sub(inside).filter(|offset| *offset < length)?;
        outside.checked_add(offset)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_on_the_host() {
        let map = "0 100000 10\n10 5 1\n";
        assert_eq!(on_host(map, 0), Some(100_000));
        assert_eq!(on_host(map, 9), Some(100_009));
        assert_eq!(on_host(map, 10), Some(5));
        assert_eq!(on_host(map, 11), None);
        assert_eq!(on_host("", 7), Some(7));
    }
}
