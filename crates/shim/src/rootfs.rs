//! The root file system's mounts, when the caller leaves them to the shim, and their end.

use std::ffi::CString;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use sampan_rpc::types::Mount;

/// mount(2) copies one page of options; the rest would be cut off silently.
const MAX_OPTION_BYTES: usize = 4095;

/// A root file system that can't be mounted.
#[derive(Debug, thiserror::Error)]
pub enum RootfsError {
    /// The mount itself failed.
    #[error("cannot mount {kind} at `{}`", target.display())]
    Mount {
        /// File system type.
        kind: String,
        /// Where.
        target: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Options that mount(2) would cut off.
    #[error("mount options for `{}` are {length} bytes long; the kernel takes {MAX_OPTION_BYTES}", target.display())]
    OptionsTooLong {
        /// Where.
        target: PathBuf,
        /// How long.
        length: usize,
    },
    /// A target that leaves the root file system.
    #[error("mount target `{}` is not inside the root file system", target.display())]
    Outside {
        /// As given.
        target: PathBuf,
    },
}

/// Mounts all of `mounts`, in order, on `rootfs`. Undone by [`unmount`], also when it fails half-way.
///
/// # Errors
/// See [`RootfsError`].
pub fn mount(mounts: &[Mount], rootfs: &Path) -> Result<(), RootfsError> {
    for one in mounts {
        let inside = Path::new(one.target.trim_start_matches('/'));
        if inside.components().any(|c| !matches!(c, std::path::Component::Normal(_))) {
            return Err(RootfsError::Outside { target: inside.to_owned() });
        }
        let target = if inside.as_os_str().is_empty() { rootfs.to_owned() } else { rootfs.join(inside) };
        mount_one(one, &target)?;
    }
    Ok(())
}

fn mount_one(mount: &Mount, target: &Path) -> Result<(), RootfsError> {
    let failed = |source: Errno| RootfsError::Mount {
        kind: mount.r#type.clone(),
        target: target.to_owned(),
        source: source.into(),
    };
    let options = Options::parse(&mount.options);
    let (base, data) = options.data_in_one_page();
    if data.len() > MAX_OPTION_BYTES {
        return Err(RootfsError::OptionsTooLong { target: target.to_owned(), length: data.len() });
    }
    let data = CString::new(data).map_err(|_| failed(Errno::INVAL))?;
    // Relative lower directories need their base as current directory. The process has one thread and uses no
    // other relative path; on the way out the directory is given back.
    let here = match &base {
        Some(base) => {
            let here = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
            std::env::set_current_dir(base).map_err(|source| RootfsError::Mount {
                kind: mount.r#type.clone(),
                target: target.to_owned(),
                source,
            })?;
            Some(here)
        }
        None => None,
    };
    let mounted = if options.bind {
        let bound = if options.recursive {
            rustix::mount::mount_bind_recursive(&*mount.source, target)
        } else {
            rustix::mount::mount_bind(&*mount.source, target)
        };
        match bound {
            // A bind mount takes its flags only by being mounted once more.
            Ok(()) if !options.flags.is_empty() => {
                rustix::mount::mount_remount(target, MountFlags::BIND | options.flags, c"")
            }
            other => other,
        }
    } else {
        rustix::mount::mount(&*mount.source, target, &*mount.r#type, options.flags, data.as_c_str())
    };
    if let Some(here) = here {
        let _ = std::env::set_current_dir(here); // nothing of ours is relative
    }
    mounted.map_err(failed)?;
    match options.propagation {
        Some(propagation) => rustix::mount::mount_change(target, propagation).map_err(failed),
        None => Ok(()),
    }
}

/// Takes off everything that is mounted at `rootfs`; no error if nothing is.
///
/// # Errors
/// If a mount can't be taken off.
pub fn unmount(rootfs: &Path) -> std::io::Result<()> {
    loop {
        match rustix::mount::unmount(rootfs, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Options as in fstab, sorted into what mount(2) wants to know where.
struct Options {
    flags: MountFlags,
    bind: bool,
    recursive: bool,
    propagation: Option<MountPropagationFlags>,
    data: Vec<String>,
}

impl Options {
    fn parse(words: &[String]) -> Options {
        let mut parsed = Options {
            flags: MountFlags::empty(),
            bind: false,
            recursive: false,
            propagation: None,
            data: Vec::new(),
        };
        for word in words {
            match word.as_str() {
                "bind" => parsed.bind = true,
                "rbind" => (parsed.bind, parsed.recursive) = (true, true),
                "ro" => parsed.flags |= MountFlags::RDONLY,
                "rw" => parsed.flags -= MountFlags::RDONLY,
                "nosuid" => parsed.flags |= MountFlags::NOSUID,
                "suid" => parsed.flags -= MountFlags::NOSUID,
                "nodev" => parsed.flags |= MountFlags::NODEV,
                "dev" => parsed.flags -= MountFlags::NODEV,
                "noexec" => parsed.flags |= MountFlags::NOEXEC,
                "exec" => parsed.flags -= MountFlags::NOEXEC,
                "noatime" => parsed.flags |= MountFlags::NOATIME,
                "nodiratime" => parsed.flags |= MountFlags::NODIRATIME,
                "relatime" => parsed.flags |= MountFlags::RELATIME,
                "strictatime" => parsed.flags |= MountFlags::STRICTATIME,
                "sync" => parsed.flags |= MountFlags::SYNCHRONOUS,
                "defaults" | "" => {}
                "private" => parsed.propagation = Some(MountPropagationFlags::PRIVATE),
                "rprivate" => {
                    parsed.propagation = Some(MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
                }
                "shared" => parsed.propagation = Some(MountPropagationFlags::SHARED),
                "rshared" => {
                    parsed.propagation = Some(MountPropagationFlags::SHARED | MountPropagationFlags::REC)
                }
                "slave" => parsed.propagation = Some(MountPropagationFlags::DOWNSTREAM),
                "rslave" => {
                    parsed.propagation = Some(MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
                }
                other => parsed.data.push(other.to_owned()),
            }
        }
        parsed
    }

    /// The options for the file system, and the directory that they are relative to if they had to be shortened:
    /// an overlay of many layers repeats one long prefix.
    fn data_in_one_page(&self) -> (Option<PathBuf>, String) {
        let whole = self.data.join(",");
        if whole.len() <= MAX_OPTION_BYTES {
            return (None, whole);
        }
        let Some(lower) = self.data.iter().find_map(|o| o.strip_prefix("lowerdir=")) else {
            return (None, whole);
        };
        let Some(base) = common_directory(lower.split(':')) else { return (None, whole) };
        let shorter: Vec<String> = self
            .data
            .iter()
            .map(|option| match option.strip_prefix("lowerdir=") {
                Some(lower) => {
                    let relative: Vec<&str> =
                        lower.split(':').map(|d| d[base.len()..].trim_start_matches('/')).collect();
                    format!("lowerdir={}", relative.join(":"))
                }
                None => option.clone(),
            })
            .collect();
        (Some(PathBuf::from(base)), shorter.join(","))
    }
}

/// The longest directory that all of `paths` are strictly inside of; none if that is `/` or they are relative.
fn common_directory<'a>(mut paths: impl Iterator<Item = &'a str>) -> Option<String> {
    let mut common = paths.next()?.rsplit_once('/')?.0;
    for path in paths {
        while !path.strip_prefix(common).is_some_and(|rest| rest.starts_with('/') && rest.len() > 1) {
            common = common.rsplit_once('/')?.0;
        }
    }
    (common.len() > 1 && common.starts_with('/')).then(|| common.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_layers_are_named_relative_to_what_they_share() {
        let lower: Vec<String> =
            (0..160).map(|n| format!("/var/lib/containerd/overlayfs/snapshots/{n}/fs")).collect();
        let words = ["ro".to_owned(), "upperdir=/u".to_owned(), format!("lowerdir={}", lower.join(":"))];
        let options = Options::parse(&words);
        let (base, data) = options.data_in_one_page();
        assert_eq!(base.unwrap(), Path::new("/var/lib/containerd/overlayfs/snapshots"));
        assert!(data.starts_with("upperdir=/u,lowerdir=0/fs:1/fs:2/fs:"), "{data}");
        assert!(data.len() < MAX_OPTION_BYTES && options.flags == MountFlags::RDONLY);
    }

    #[test]
    fn a_target_that_climbs_out_is_refused() {
        let mount = Mount { target: "../../etc".into(), ..Default::default() };
        assert!(matches!(super::mount(&[mount], Path::new("/nowhere")), Err(RootfsError::Outside { .. })));
    }
}
