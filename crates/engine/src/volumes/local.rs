//! Volumes with options: `type`, `device` and `o` as mount(8) takes them. Such a volume is mounted at its directory while a
//! running container has it, and not longer.
//!
//! Who uses which is kept in memory; a new daemon builds it anew from the containers that run, and unmounts the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::net::ToSocketAddrs;
use std::path::Path;
use std::sync::{Mutex, MutexGuard};

use rustix::mount::{MountFlags, UnmountFlags};

use super::Volume;
use crate::Inner;
use crate::error::{EngineError, Result};
use crate::spec::{ContainerSpec, MountSource};

/// The options that the local driver knows.
const OPTIONS: [&str; 4] = ["type", "device", "o", "size"];

/// Who uses which mounted volumes.
#[derive(Debug, Default)]
pub(crate) struct Mounted(Mutex<BTreeMap<String, BTreeSet<String>>>);

impl Mounted {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, BTreeSet<String>>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// What can be said against a new volume's options.
pub(super) fn check(options: &BTreeMap<String, String>) -> Result<()> {
    if let Some(unknown) = options.keys().find(|key| !OPTIONS.contains(&key.as_str())) {
        return Err(EngineError::Invalid(format!("invalid option: {unknown:?}")));
    }
    if options.contains_key("size") {
        return Err(EngineError::Unsupported("quota size requested but no quota support".to_owned()));
    }
    if options.is_empty() {
        return Ok(());
    }
    match ["device", "type"].iter().find(|key| !options.contains_key(**key)) {
        Some(missing) => Err(EngineError::Invalid(format!("missing required option: {missing:?}"))),
        None => Ok(()),
    }
}

/// Keeps a volume mounted for somebody.
#[derive(Debug)]
pub(crate) struct Lease<'a> {
    inner: &'a Inner,
    volume: String,
    user: String,
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        release(self.inner, &self.volume, &self.user);
    }
}

/// Mounts a volume for `user` until the lease goes.
pub(crate) fn mount<'a>(inner: &'a Inner, volume: &Volume, user: &str) -> Result<Lease<'a>> {
    acquire(inner, volume, user)?;
    Ok(Lease { inner, volume: volume.record.name.clone(), user: user.to_owned() })
}

/// Mounts the volumes of a container that starts.
pub(crate) fn mount_all(inner: &Inner, id: &str, spec: &ContainerSpec) -> Result<()> {
    for name in names(spec) {
        let volume = super::find(inner, name)?;
        acquire(inner, &volume, id)?;
    }
    Ok(())
}

/// Unmounts the volumes of a container that has ended, but for those that another one uses.
pub(crate) fn unmount_all(inner: &Inner, id: &str) {
    let used: Vec<String> = {
        let mounted = inner.mounted.lock();
        mounted.iter().filter(|(_, users)| users.contains(id)).map(|(name, _)| name.clone()).collect()
    };
    for name in used {
        release(inner, &name, id);
    }
}

/// Notes what the containers that run have mounted, and unmounts what none of them has.
pub(crate) fn reconcile(inner: &Inner, running: &[(String, ContainerSpec)]) -> Result<()> {
    let mut mounted = inner.mounted.lock();
    for record in inner.metadata.volumes()?.into_iter().filter(|v| !v.options.is_empty()) {
        let users: BTreeSet<String> = running
            .iter()
            .filter(|(_, spec)| names(spec).any(|name| name == record.name))
            .map(|(id, _)| id.clone())
            .collect();
        let directory = super::directory(inner, &record.name);
        if !users.is_empty() {
            mounted.insert(record.name, users);
        } else if crate::rootfs::is_mounted(&directory) {
            tracing::warn!(volume = record.name, "unmounting a volume that no container uses");
            unmount(&record.name, &directory);
        }
    }
    Ok(())
}

fn names(spec: &ContainerSpec) -> impl Iterator<Item = &str> {
    spec.mounts.iter().filter_map(|m| match &m.source {
        MountSource::Volume { name, .. } => Some(name.as_str()),
        _ => None,
    })
}

fn acquire(inner: &Inner, volume: &Volume, user: &str) -> Result<()> {
    let record = &volume.record;
    if record.options.is_empty() {
        return Ok(());
    }
    let mut mounted = inner.mounted.lock();
    if !mounted.contains_key(&record.name) {
        mount_at(&record.options, &volume.directory).map_err(|source| {
            let doing = format!(
                "failed to mount local volume: mount {}",
                describe(&record.options, &volume.directory)
            );
            EngineError::io(doing)(source)
        })?;
    }
    mounted.entry(record.name.clone()).or_default().insert(user.to_owned());
    Ok(())
}

fn release(inner: &Inner, name: &str, user: &str) {
    let mut mounted = inner.mounted.lock();
    let Some(users) = mounted.get_mut(name) else { return };
    users.remove(user);
    if users.is_empty() {
        mounted.remove(name);
        unmount(name, &super::directory(inner, name));
    }
}

/// Whether a volume is mounted for somebody.
pub(super) fn is_mounted(inner: &Inner, name: &str) -> bool {
    inner.mounted.lock().contains_key(name)
}

fn unmount(name: &str, directory: &Path) {
    if let Err(error) = rustix::mount::unmount(directory, UnmountFlags::DETACH) {
        tracing::warn!(volume = name, %error, "cannot unmount the volume");
    }
}

fn describe(options: &BTreeMap<String, String>, at: &Path) -> String {
    let get = |key: &str| options.get(key).map_or("", String::as_str);
    // Options may hold passwords (cifs), so they are not said.
    format!("{}:{}", get("device"), at.display())
}

fn mount_at(options: &BTreeMap<String, String>, at: &Path) -> std::io::Result<()> {
    let get = |key: &str| options.get(key).map_or("", String::as_str);
    let (kind, device) = (get("type"), get("device"));
    let Parsed { mut flags, bind, recursive, data } = parse(get("o"));
    if bind {
        if recursive {
            rustix::mount::mount_bind_recursive(device, at)?
        } else {
            rustix::mount::mount_bind(device, at)?
        }
        // The flags of a bind mount are set by a second call.
        if !flags.is_empty() {
            flags |= MountFlags::BIND;
            rustix::mount::mount_remount(at, flags, c"")?;
        }
        return Ok(());
    }
    let data = if kind.starts_with("nfs") || kind == "cifs" { resolved(&data)? } else { data };
    let data = CString::new(data.join(","))?;
    let data = (!data.is_empty()).then_some(data.as_c_str());
    Ok(rustix::mount::mount(device, at, kind, flags, data)?)
}

/// Mount options: those that are flags of mount(2), and those that are the file system's own.
#[derive(Debug)]
struct Parsed {
    flags: MountFlags,
    bind: bool,
    recursive: bool,
    data: Vec<String>,
}

fn parse(text: &str) -> Parsed {
    let mut parsed = Parsed { flags: MountFlags::empty(), bind: false, recursive: false, data: Vec::new() };
    for option in text.split(',').filter(|o| !o.is_empty()) {
        let (flag, on) = match option {
            "ro" => (MountFlags::RDONLY, true),
            "rw" => (MountFlags::RDONLY, false),
            "nosuid" => (MountFlags::NOSUID, true),
            "suid" => (MountFlags::NOSUID, false),
            "nodev" => (MountFlags::NODEV, true),
            "dev" => (MountFlags::NODEV, false),
            "noexec" => (MountFlags::NOEXEC, true),
            "exec" => (MountFlags::NOEXEC, false),
            "sync" => (MountFlags::SYNCHRONOUS, true),
            "async" => (MountFlags::SYNCHRONOUS, false),
            "dirsync" => (MountFlags::DIRSYNC, true),
            "noatime" => (MountFlags::NOATIME, true),
            "atime" => (MountFlags::NOATIME, false),
            "nodiratime" => (MountFlags::NODIRATIME, true),
            "diratime" => (MountFlags::NODIRATIME, false),
            "relatime" => (MountFlags::RELATIME, true),
            "norelatime" => (MountFlags::RELATIME, false),
            "strictatime" => (MountFlags::STRICTATIME, true),
            "defaults" => continue,
            "bind" => {
                parsed.bind = true;
                continue;
            }
            "rbind" => {
                (parsed.bind, parsed.recursive) = (true, true);
                continue;
            }
            other => {
                parsed.data.push(other.to_owned());
                continue;
            }
        };
        parsed.flags.set(flag, on);
    }
    parsed
}

/// The kernel's network file systems want an address where people write a name.
fn resolved(data: &[String]) -> std::io::Result<Vec<String>> {
    let mut list = Vec::new();
    for option in data {
        list.push(match option.strip_prefix("addr=") {
            Some(name) if name.parse::<std::net::IpAddr>().is_err() => {
                let found = (name, 0).to_socket_addrs()?.next();
                let missing = || std::io::Error::other(format!("no address of `{name}`"));
                format!("addr={}", found.ok_or_else(missing)?.ip())
            }
            _ => option.clone(),
        });
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_flags_or_the_file_systems_own() {
        let parsed = parse("size=10m,ro,noexec,exec,uid=5,defaults");
        assert_eq!(parsed.flags, MountFlags::RDONLY);
        assert_eq!((parsed.bind, parsed.data), (false, vec!["size=10m".to_owned(), "uid=5".to_owned()]));
        let parsed = parse("rbind,ro");
        assert!(parsed.bind && parsed.recursive && parsed.data.is_empty());
        assert_eq!(resolved(&["addr=localhost".to_owned(), "x".to_owned()]).unwrap().len(), 2);
    }

    #[test]
    fn options_that_make_no_sense_are_refused() {
        let map =
            |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        check(&BTreeMap::new()).unwrap();
        check(&map(&[("type", "tmpfs"), ("device", "tmpfs"), ("o", "size=1m")])).unwrap();
        check(&map(&[("type", "none"), ("device", "/x"), ("o", "bind")])).unwrap();
        for (options, words) in [
            (map(&[("what", "x")]), "invalid option: \"what\""),
            (map(&[("type", "tmpfs")]), "missing required option: \"device\""),
            (map(&[("device", "x")]), "missing required option: \"type\""),
        ] {
            assert!(check(&options).unwrap_err().to_string().contains(words));
        }
    }
}
