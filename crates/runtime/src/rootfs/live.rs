//! Changes mounts that are there already: config.json's `remount`, and mounts that come to and go from a running
//! container.
//!
//! A running container is nobody to trust: as when it was made, each place is resolved by the kernel inside of the
//! root, and used by its descriptor.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatxAttributes, StatxFlags};
use rustix::mount::{FsPickFlags, MountAttrFlags, MountPropagationFlags, UnmountFlags};
use sampan_kernel::mount::Change;
use sampan_oci::runtime::{Linux, Mount};

use super::beneath::{Kind, Links, Root};
use super::execute::{self, Open};
use super::plan::{MountPlan, plan_mount};
use super::sources::{self, Source};
use crate::error::{Refused, Step};

/// Mounts for a running container, and what they take from the host.
#[derive(Debug)]
pub struct Added(Vec<(MountPlan, Source)>);

/// Plans mounts, and takes from the host what they need.
///
/// # Errors
/// If one makes no sense, is not supported, or its source is not there.
pub fn open(mounts: &[Mount], bundle: &Path, linux: &Linux) -> Result<Added, AddError> {
    let mut added = Vec::with_capacity(mounts.len());
    for mount in mounts {
        let plan = plan_mount(mount, bundle, linux)?;
        if matches!(plan.what, super::plan::What::Cgroups) {
            return Err(
                Refused::Unsupported("to add control groups to a running container".to_owned()).into()
            );
        }
        let apart = Change { propagation: MountPropagationFlags::PRIVATE, ..Change::default() };
        let source = sources::open_one(&plan, (&apart, true))?;
        added.push((plan, source));
    }
    Ok(Added(added))
}

/// A mount that can't be added.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    /// It makes no sense, or is not supported.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// A step failed.
    #[error(transparent)]
    Step(#[from] Step),
}

/// Mounts in the container whose mount namespace this process is in.
///
/// # Errors
/// At the first that can't be; those before it stay.
pub fn add(added: Added) -> Result<(), Step> {
    let mut open = Open { root: own_root()?, readonly_later: Vec::new() };
    for (mount, source) in added.0 {
        execute::make(&mut open, &mount, source)?;
    }
    let readonly = Change { set: MountAttrFlags::MOUNT_ATTR_RDONLY, ..Change::default() };
    for mount in open.readonly_later {
        sampan_kernel::mount::change(mount.as_fd(), &readonly, false)
            .map_err(Step::on(|| "make a tmpfs read-only"))?;
    }
    Ok(())
}

/// Unmounts what is at places of the container whose mount namespace this process is in.
///
/// # Errors
/// At the first where nothing is mounted, or that the kernel refuses.
pub fn remove(destinations: &[String]) -> Result<(), Step> {
    let root = own_root()?;
    for destination in destinations {
        let path = super::plan::relative(destination);
        unmount(&root, &path).map_err(Step::on(|| format!("unmount `/{}`", path.display())))?;
    }
    Ok(())
}

fn own_root() -> Result<Root, Step> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root =
        rustix::fs::open(c"/", flags, Mode::empty()).map_err(Step::on(|| "open the container's root"))?;
    Ok(Root::new(root))
}

fn unmount(root: &Root, path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the root itself stays"));
    };
    let directory = root.open(parent, Links::Inside)?;
    // Where the container has put a link to, perhaps. What hides and protects in there is not its to take off.
    if is_of_the_kernel(&directory)? {
        return Err(io::Error::other("the place leads into proc or sysfs, where no mounts are removed"));
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let place = rustix::fs::openat(&directory, name, flags, Mode::empty())?;
    require_mount(&place)?;
    drop(place);
    // The kernel unmounts by path only: the last step of it, from the directory that we hold.
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY;
    rustix::process::fchdir(rustix::fs::openat(&directory, c".", flags, Mode::empty())?)?;
    Ok(rustix::mount::unmount(name, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?)
}

/// Whether a directory is one of proc's or sysfs's.
#[allow(clippy::unnecessary_cast, reason = "i64 here, not everywhere")]
fn is_of_the_kernel(directory: &OwnedFd) -> io::Result<bool> {
    const PROC_SUPER_MAGIC: i64 = 0x9fa0;
    const SYSFS_MAGIC: i64 = 0x6265_6572;
    Ok(matches!(rustix::fs::fstatfs(directory)?.f_type as i64, PROC_SUPER_MAGIC | SYSFS_MAGIC))
}

fn require_mount(place: &OwnedFd) -> io::Result<()> {
    let stat = rustix::fs::statx(place, c"", AtFlags::EMPTY_PATH, StatxFlags::empty())?;
    match stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
        true => Ok(()),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "nothing is mounted there")),
    }
}

/// `remount`: changes the mount that is at a place, and unless it is a bind mount its file system, too.
pub(super) fn change(root: &Root, mount: &MountPlan, bind: bool) -> io::Result<()> {
    let place = root.open(&mount.destination, Links::Inside)?;
    require_mount(&place)?;
    let options = &mount.options;
    let of_file_system = !options.data.is_empty() || !options.superblock.is_empty();
    if !bind && of_file_system {
        let context =
            rustix::mount::fspick(&place, c"", FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_EMPTY_PATH)?;
        let configure = || -> Result<(), rustix::io::Errno> {
            for flag in &options.superblock {
                rustix::mount::fsconfig_set_flag(&context, flag.as_str())?;
            }
            for (key, value) in &options.data {
                match value {
                    Some(value) => {
                        rustix::mount::fsconfig_set_string(&context, key.as_str(), value.as_str())?
                    }
                    None => rustix::mount::fsconfig_set_flag(&context, key.as_str())?,
                }
            }
            rustix::mount::fsconfig_reconfigure(&context)
        };
        if let Err(error) = configure() {
            return Err(execute::with_explanation(error.into(), context.as_fd()));
        }
    }
    execute::set_options(place.as_fd(), options)
}

/// A handle on what is at a place, even if that is a link; a file or directory is made if nothing is.
pub(super) fn link_itself(root: &Root, path: &Path, kind: Kind) -> io::Result<OwnedFd> {
    let (directory, name) = root.parent(path, Links::Inside)?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = || rustix::fs::openat(&directory, &name, flags, Mode::empty());
    match open() {
        Err(rustix::io::Errno::NOENT) => {}
        other => return Ok(other?),
    }
    let made = match kind {
        Kind::Directory => rustix::fs::mkdirat(&directory, &name, Mode::from_raw_mode(0o755)),
        Kind::File => {
            rustix::fs::mknodat(&directory, &name, FileType::RegularFile, Mode::from_raw_mode(0o644), 0)
        }
    };
    match made {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(open()?),
        Err(e) => Err(e.into()),
    }
}
