//! A cgroup that the container itself may divide: given to its user, with those of its files that let nobody raise a
//! limit. Only on v2, where that is safe, and only if the container sees the group as its own root and may write to it.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Uid};
use sampan_kernel::process::Namespaces;
use sampan_oci::runtime::{NamespaceKind, Spec};

use super::Group;
use crate::error::Step;
use crate::init::namespaces;

/// The files to give away, where the kernel does not say.
const FILES: [&str; 3] = ["cgroup.procs", "cgroup.subtree_control", "cgroup.threads"];

/// The user of the host to whom a container's group is to be given, if it is to be given to one.
pub fn wanted(spec: &Spec, namespaces: &namespaces::Plan) -> Option<u32> {
    let writable = spec.mounts.iter().any(|mount| {
        mount.source.as_deref() == Some("cgroup")
            && mount.destination == "/sys/fs/cgroup"
            && !mount.options.iter().any(|option| option == "ro")
    });
    if !writable || !namespaces.new.contains(Namespaces::CGROUP) {
        return None;
    }
    let uid = spec.process.as_ref().map_or(0, |process| process.user.uid);
    let mappings = spec.linux.as_ref().map(|linux| linux.uid_mappings.as_slice()).unwrap_or_default();
    let mapped = mappings.iter().find_map(|map| {
        let offset = uid.checked_sub(map.container_id).filter(|offset| *offset < map.size)?;
        map.host_id.checked_add(offset)
    });
    match mapped {
        // The group is root's already.
        Some(0) => None,
        Some(uid) => Some(uid),
        None if namespaces.has(NamespaceKind::User) => None,
        None => Some(uid).filter(|uid| *uid != 0),
    }
}

/// Gives groups of v2 to a user.
///
/// # Errors
/// If the kernel refuses.
pub fn hand_over(groups: &[Group], uid: u32) -> Result<(), Step> {
    let listed = fs::read_to_string("/sys/kernel/cgroup/delegate");
    for group in groups.iter().filter(|group| group.limits) {
        give(&group.path, uid)?;
        let files: Vec<&str> = match &listed {
            Ok(list) => list.lines().filter(|name| !name.contains('/')).collect(),
            Err(_) => FILES.to_vec(),
        };
        for file in files {
            give(&group.path.join(file), uid)?;
        }
    }
    Ok(())
}

/// What is listed need not be there.
fn give(path: &Path, uid: u32) -> Result<(), Step> {
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    match rustix::fs::chownat(CWD, path, Some(Uid::from_raw(uid)), None, flags) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        other => other.map_err(Step::on(|| format!("give `{}` to user {uid}", path.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(config: &str) -> Option<u32> {
        let spec: Spec = serde_json::from_str(config).unwrap();
        wanted(&spec, &namespaces::plan(spec.linux.as_ref().unwrap()).unwrap())
    }

    #[test]
    fn a_group_is_given_away_only_as_the_specification_says() {
        let config = |options: &str, namespace: &str, uid: u32| {
            format!(
                r#"{{"process":{{"user":{{"uid":{uid},"gid":0}}}},
                    "mounts":[{{"destination":"/sys/fs/cgroup","source":"cgroup","type":"cgroup","options":[{options}]}}],
                    "linux":{{"namespaces":[{{"type":"mount"}}{namespace}]}}}}"#
            )
        };
        let own = r#",{"type":"cgroup"}"#;
        assert_eq!(check(&config("", own, 7)), Some(7));
        assert_eq!(check(&config("", own, 0)), None);
        assert_eq!(check(&config(r#""ro""#, own, 7)), None);
        assert_eq!(check(&config("", "", 7)), None);
        let mapped = r#"{"mounts":[{"destination":"/sys/fs/cgroup","source":"cgroup"}],"linux":{
            "namespaces":[{"type":"mount"},{"type":"cgroup"},{"type":"user"}],
            "uidMappings":[{"containerID":0,"hostID":100000,"size":10}],"gidMappings":[{"containerID":0,"hostID":1,"size":1}]}}"#;
        assert_eq!(check(mapped), Some(100_000));
    }
}
