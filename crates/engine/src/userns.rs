//! User namespaces: which ids of the host a container's ids are.
//!
//! A container gets its mapping when it is created and keeps it: its files belong to these ids. Its user namespace is made
//! anew at each start, together with its network namespace, which belongs to it ([`owner`]); whoever joins the namespaces
//! of another container joins its user namespace, too. Files need only the mapping: image layers are mounted with it
//! ([`mount`]), by a user namespace that nobody lives in.
//!
//! * [`subordinate`]: the ids that there are.

pub(crate) mod subordinate;

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use sampan_image::{IdMapping, IdRange, UserNamespace};
use sampan_kernel::userns::Maps;

use crate::config::Remap;
use crate::error::{EngineError, Result};
use crate::metadata::ContainerRecord;
use crate::spec::{ContainerSpec, IpcMode, NamespaceMode, NetworkMode, UsernsMode};
use crate::user::ResolvedUser;
use crate::{EngineConfig, Inner};

/// The engine's mapping, and user namespaces that hold mappings.
#[derive(Debug)]
pub(crate) struct UserNamespaces {
    /// What containers get unless they ask for something else.
    default: Option<IdMapping>,
    /// For mounts. There are few mappings: the engine's, and those of containers from before it was changed.
    holders: Mutex<Vec<(IdMapping, Arc<File>)>>,
}

impl UserNamespaces {
    /// Reads what the configuration says, and sees whether the kernel takes it.
    pub(crate) fn open(config: &EngineConfig) -> Result<UserNamespaces> {
        let default = match &config.userns {
            Some(remap) => Some(subordinate::mapping(remap, &config.subordinate)?),
            None => None,
        };
        let namespaces = UserNamespaces { default, holders: Mutex::default() };
        if let Some(mapping) = &namespaces.default {
            namespaces.holder(mapping)?;
        }
        Ok(namespaces)
    }

    /// As the kernel takes the mapping that containers get.
    pub(crate) fn maps(&self) -> Option<Maps> {
        self.default.as_ref().map(maps)
    }

    /// The user namespace of builds' steps: one with the mapping that containers get.
    pub(crate) fn of_builds(&self) -> Result<Option<UserNamespace>> {
        let Some(mapping) = &self.default else { return Ok(None) };
        Ok(Some(UserNamespace { namespace: self.holder(mapping)?, mapping: mapping.clone() }))
    }

    /// Who is root in containers that ask for nothing else.
    pub(crate) fn root(&self) -> Option<(u32, u32)> {
        self.default.as_ref().map(root)
    }

    /// A user namespace with this mapping.
    fn holder(&self, mapping: &IdMapping) -> Result<Arc<File>> {
        let mut holders = self.holders.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, holder)) = holders.iter().find(|(of, _)| of == mapping) {
            return Ok(Arc::clone(holder));
        }
        let made = sampan_kernel::userns::make(&maps(mapping));
        let holder = Arc::new(made.map_err(EngineError::io("cannot make a user namespace"))?);
        holders.push((mapping.clone(), Arc::clone(&holder)));
        Ok(holder)
    }
}

/// As the kernel takes a mapping.
pub(crate) fn maps(mapping: &IdMapping) -> Maps {
    let lines = |ranges: &[IdRange]| {
        ranges.iter().map(|r| format!("{} {} {}\n", r.inside, r.outside, r.length)).collect::<String>()
    };
    Maps { uids: lines(&mapping.uids), gids: lines(&mapping.gids) }
}

/// Who is on the host who is root in a container.
pub(crate) fn root(mapping: &IdMapping) -> (u32, u32) {
    mapping.to_host_or_nobody(0, 0)
}

/// Gives a file of ours to the root of the container that sees it.
pub(crate) fn give(mapping: Option<&IdMapping>, path: &Path) -> Result<()> {
    let Some(mapping) = mapping else { return Ok(()) };
    let (uid, gid) = root(mapping);
    std::os::unix::fs::lchown(path, Some(uid), Some(gid))
        .map_err(EngineError::io(format!("cannot give `{}` to the container", path.display())))
}

/// Docker's words to containers and steps that want the host's network.
pub(crate) const NO_HOST_NETWORK: &str =
    "cannot share the host's network namespace when user namespaces are enabled";

/// What can't be asked for together with a user namespace of one's own. The first three sentences are Docker's.
pub(crate) fn check(inner: &Inner, spec: &ContainerSpec) -> Result<()> {
    let mapped = match spec.userns {
        UsernsMode::Host => false,
        UsernsMode::Default => inner.userns.default.is_some(),
        UsernsMode::Private => true,
    };
    let refusals = [
        (
            spec.security.privileged,
            "privileged mode is incompatible with user namespaces.  You must run the container in the host namespace when running privileged mode",
        ),
        (spec.network == NetworkMode::Host, NO_HOST_NETWORK),
        (
            spec.pid == NamespaceMode::Host,
            "cannot share the host PID namespace when user namespaces are enabled",
        ),
        // Docker lets this pass, and no such container starts.
        (spec.ipc == IpcMode::Host, "cannot share the host IPC namespace when user namespaces are enabled"),
    ];
    match refusals.iter().find(|(asked, _)| mapped && *asked) {
        Some((_, why)) => Err(EngineError::Invalid((*why).to_owned())),
        None => Ok(()),
    }
}

/// The mapping that a new container gets; `None` if its ids are the host's. One that joins the namespaces of another has
/// the other's: to the kernel, nobody else is root there.
pub(crate) fn choose(inner: &Inner, spec: &ContainerSpec) -> Result<Option<IdMapping>> {
    let own = match (spec.userns, &inner.userns.default) {
        (UsernsMode::Host, _) | (UsernsMode::Default, None) => return Ok(None),
        (_, Some(mapping)) => mapping.clone(),
        (UsernsMode::Private, None) => subordinate::mapping(&Remap::whoever(), &inner.config.subordinate)?,
    };
    let mut chosen = None;
    for (what, id) in joined(spec) {
        let other = inner.find_container(id)?.snapshot();
        let Some(mapping) = other.record.mapping.clone() else {
            return Err(EngineError::Conflict(format!(
                "cannot share the {what} namespace of container {id}, which is in the host's user namespace: the container must be there, too (--userns=host)"
            )));
        };
        if chosen.get_or_insert_with(|| mapping.clone()) != &mapping {
            return Err(EngineError::Conflict(
                "cannot share namespaces of containers that are in different user namespaces".to_owned(),
            ));
        }
    }
    Ok(Some(chosen.unwrap_or(own)))
}

/// The containers whose namespaces a container joins, and which.
fn joined(spec: &ContainerSpec) -> impl Iterator<Item = (&'static str, &str)> {
    let network = match &spec.network {
        NetworkMode::Container(id) => Some(("network", id.as_str())),
        _ => None,
    };
    let ipc = match &spec.ipc {
        IpcMode::Container(id) => Some(("IPC", id.as_str())),
        _ => None,
    };
    let pid = container_of("PID", Some(&spec.pid));
    let uts = container_of("UTS", Some(&spec.uts));
    let cgroup = container_of("cgroup", spec.cgroup.as_ref());
    [network, ipc, pid, uts, cgroup].into_iter().flatten()
}

fn container_of<'a>(what: &'static str, mode: Option<&'a NamespaceMode>) -> Option<(&'static str, &'a str)> {
    match mode {
        Some(NamespaceMode::Container(id)) => Some((what, id)),
        _ => None,
    }
}

/// The user namespace of a container that starts.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Owner {
    /// The host's.
    Host,
    /// Its own, which is to be made.
    New(Maps),
    /// That of another container.
    Of(PathBuf),
}

/// Which user namespace a container that starts gets.
pub(crate) fn owner(inner: &Inner, record: &ContainerRecord) -> Result<Owner> {
    let Some(mapping) = &record.mapping else { return Ok(Owner::Host) };
    let mut found: Option<(PathBuf, u64)> = None;
    for (_, id) in joined(&record.spec) {
        let path = PathBuf::from(format!("/proc/{}/ns/user", inner.process_of(id)?));
        let looked = std::fs::metadata(&path).map(|m| m.ino());
        let inode = looked.map_err(EngineError::io(format!("cannot look at `{}`", path.display())))?;
        if found.get_or_insert((path, inode)).1 != inode {
            return Err(EngineError::Conflict(
                "cannot share namespaces of containers that are in different user namespaces".to_owned(),
            ));
        }
    }
    Ok(found.map_or_else(|| Owner::New(maps(mapping)), |(path, _)| Owner::Of(path)))
}

/// Whether the container's user namespace knows a user and its groups.
pub(crate) fn check_user(mapping: Option<&IdMapping>, user: &ResolvedUser) -> Result<()> {
    let Some(mapping) = mapping else { return Ok(()) };
    let invalid = |what: &str, id: u32| {
        Err(EngineError::Invalid(format!("the container's user namespace has no {what} {id}")))
    };
    if mapping.to_host(user.uid, 0).0.is_none() {
        return invalid("user", user.uid);
    }
    let mut groups = user.groups.iter().chain([&user.gid]);
    match groups.find(|gid| mapping.to_host(0, **gid).1.is_none()) {
        Some(gid) => invalid("group", *gid),
        None => Ok(()),
    }
}

/// The highest group that a namespace knows without gaps from 0 on.
pub(crate) fn last_group(mapping: &IdMapping) -> u32 {
    mapping.gids.first().map_or(0, |range| range.length.saturating_sub(1))
}

/// Mounts the snapshot `key` at `at`, so that its files belong to the ids of `mapping`.
pub(crate) fn mount(inner: &Inner, key: &str, mapping: Option<&IdMapping>, at: &Path) -> Result<()> {
    let Some(mapping) = mapping else { return inner.images.mount_snapshot(key, at) };
    let holder = inner.userns.holder(mapping)?;
    inner.images.mount_mapped_snapshot(key, holder.as_fd(), mapping, at)
}

/// Mounts a container's snapshot at `at`, so that its files belong to its own ids.
pub(crate) fn mount_snapshot(inner: &Inner, record: &ContainerRecord, at: &Path) -> Result<()> {
    mount(inner, &record.id, record.mapping.as_ref(), at)
}
