//! The mounts of a container's config.json: the default ones, the files that are bound over the image's, and its own.

use std::path::Path;

use sampan_oci::runtime::{Mount, NamespaceKind, defaults};

use super::Facts;
use crate::error::{EngineError, Result};
use crate::spec::{ContainerSpec, IpcMode, MountSource, MountSpec, ReadOnlyBelow};

/// Bytes of /dev/shm unless it is said otherwise.
pub(crate) const DEFAULT_SHM_BYTES: i64 = 64 << 20;
/// Where the small init is in a container that wants one.
pub(crate) const INIT_PATH: &str = "/sbin/docker-init";

fn mount(destination: &str, kind: &str, source: &Path, options: &[&str]) -> Mount {
    Mount {
        destination: destination.to_owned(),
        kind: Some(kind.to_owned()),
        source: Some(source.to_string_lossy().into_owned()),
        options: options.iter().map(|o| (*o).to_owned()).collect(),
        ..Mount::default()
    }
}

/// All mounts, in the order in which they are made.
pub(super) fn plan(spec: &ContainerSpec, facts: &Facts) -> Result<Vec<Mount>> {
    let mut list = defaults::default_mounts();
    for entry in &mut list {
        match entry.destination.as_str() {
            "/dev/shm" => {
                let size = if spec.shm_size > 0 { spec.shm_size } else { DEFAULT_SHM_BYTES };
                entry.options.retain(|o| !o.starts_with("size="));
                entry.options.push(format!("size={size}"));
            }
            "/sys" | "/sys/fs/cgroup" if spec.security.privileged => {
                entry.options.iter_mut().filter(|o| *o == "ro").for_each(|o| *o = "rw".to_owned());
            }
            _ => {}
        }
    }
    let host_ipc = facts.share_with_host.contains(&NamespaceKind::Ipc);
    if spec.ipc == IpcMode::None {
        list.retain(|m| m.destination != "/dev/shm" && m.destination != "/dev/mqueue");
    }
    // A message queue file system shows the namespace it is mounted in, so that needs no help.
    if host_ipc {
        list.retain(|m| m.destination != "/dev/shm");
        list.push(mount("/dev/shm", "bind", Path::new("/dev/shm"), &["rbind", "rprivate"]));
    } else if let Some(shm) = &facts.shm {
        list.retain(|m| m.destination != "/dev/shm");
        list.push(mount("/dev/shm", "bind", shm, &["bind", "rprivate"]));
    }
    let overridden: Vec<&str> = spec.mounts.iter().map(|m| m.target.as_str()).collect();
    list.retain(|m| !overridden.contains(&m.destination.as_str()));
    if spec.security.read_only_root {
        // What the kernel or the container's processes need to write stays so.
        const WRITABLE: [&str; 5] = ["/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"];
        for entry in list.iter_mut().filter(|m| !WRITABLE.contains(&m.destination.as_str())) {
            if !entry.options.iter().any(|o| o == "ro") {
                entry.options.push("ro".to_owned());
            }
        }
    }
    for (inside, outside) in &facts.files {
        if !overridden.contains(inside) {
            let mut options = vec!["rbind", "rprivate"];
            options.extend(spec.security.read_only_root.then_some("ro"));
            list.push(mount(inside, "bind", outside, &options));
        }
    }
    for (inside, outside) in &facts.bound_devices {
        list.push(mount(inside, "bind", outside, &["bind", "rprivate"]));
    }
    if let Some(init) = &facts.init {
        list.push(mount(INIT_PATH, "bind", init, &["bind", "ro", "rprivate"]));
    }
    // A mount below another one's target must come after it.
    let mut ordered: Vec<_> = spec.mounts.iter().collect();
    ordered.sort_by_key(|m| m.target.matches('/').count());
    for entry in ordered {
        list.push(own(entry, facts)?);
    }
    Ok(list)
}

/// The propagation of the whole root: the host's mounts can only pass through to where they were asked for if the root
/// itself lets them.
pub(super) fn root_propagation(spec: &ContainerSpec) -> Option<String> {
    let any = |words: [&str; 2]| spec.mounts.iter().any(|m| words.contains(&m.propagation.as_str()));
    if any(["shared", "rshared"]) {
        Some("shared".to_owned())
    } else if any(["slave", "rslave"]) {
        Some("rslave".to_owned())
    } else {
        None
    }
}

fn own(entry: &MountSpec, facts: &Facts) -> Result<Mount> {
    // Without a word the mount stays as the host's is, which may be read-only.
    let read_only = || entry.read_only.then_some("ro");
    let propagation = if entry.propagation.is_empty() { "rprivate" } else { &entry.propagation };
    let source = || {
        facts.sources.get(&entry.target).ok_or_else(|| {
            let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
            EngineError::io(format!("the source of the mount at {} is not known", entry.target))(missing)
        })
    };
    Ok(match &entry.source {
        MountSource::Bind { path, recursive, read_only_below, .. } => {
            let bind = if *recursive { "rbind" } else { "bind" };
            let mut options = vec![bind];
            options.extend(read_only());
            options.push(propagation);
            if facts.mapping.is_some() && facts.image_owned.contains(&entry.target) {
                options.push("idmap");
            }
            // Mounts below are made read-only, too; where they come and go with the host's, that can't be kept up.
            let is_private = propagation.ends_with("private");
            match read_only_below {
                ReadOnlyBelow::Force if entry.read_only => options.push("rro"),
                ReadOnlyBelow::IfPossible if entry.read_only && *recursive && is_private && facts.can_rro => {
                    options.push("rro");
                }
                _ => {}
            }
            mount(&entry.target, "bind", path, &options)
        }
        MountSource::Volume { .. } => {
            let mut options = vec!["rbind"];
            options.extend(read_only());
            options.push(propagation);
            mount(&entry.target, "bind", source()?, &options)
        }
        MountSource::Image { .. } => mount(&entry.target, "bind", source()?, &["rbind", "ro", "rprivate"]),
        MountSource::Tmpfs { options } => {
            let mut all = vec!["noexec", "nosuid", "nodev", "rprivate"];
            all.extend(read_only());
            all.extend(options.iter().map(String::as_str));
            mount(&entry.target, "tmpfs", Path::new("tmpfs"), &all)
        }
    })
}
