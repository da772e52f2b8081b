//! What a container's own `/dev` is filled with.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use super::beneath::{Kind, Links, Place, Root};
use super::execute::attach;
use super::plan::{DevicePlan, Plan};
use super::sources;
use crate::error::Step;

/// Links of `/dev` into proc and devpts.
const LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
    ("ptmx", "pts/ptmx"),
];

/// Fills `/dev`: nodes (made, or bound from `bound`), and links.
pub(super) fn fill(plan: &Plan, root: &Root, bound: Vec<OwnedFd>) -> Result<(), Step> {
    let doing = |device: &DevicePlan| format!("make the device `/{}`", device.path.display());
    if plan.bind_devices {
        for (device, source) in plan.devices.iter().zip(bound) {
            // A link here could make us write a node's contents elsewhere; none is followed.
            root.ensure(&device.path, Kind::File, Links::Refused)
                .and_then(|place| attach(&source, Place::At(place)))
                .map_err(Step::on(|| doing(device)))?;
        }
    } else {
        for device in &plan.devices {
            make(root, device).map_err(Step::on(|| doing(device)))?;
        }
    }
    link(root).map_err(Step::on(|| "make the links of `/dev`"))
}

fn make(root: &Root, device: &DevicePlan) -> io::Result<()> {
    let found;
    let (parent, name) = match root.in_own(&device.path) {
        Some((parent, name)) => (parent, name),
        None => {
            found = root.parent(&device.path, Links::Refused)?;
            (found.0.as_fd(), found.1.as_os_str())
        }
    };
    let mode = Mode::from_raw_mode(device.mode);
    match rustix::fs::mknodat(parent, name, device.kind, mode, device.number) {
        Ok(()) => {}
        // One that came with the image is as good, if it is the same.
        Err(Errno::EXIST) => {
            let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
            let same = FileType::from_raw_mode(stat.st_mode) == device.kind
                && (device.kind == FileType::Fifo || stat.st_rdev == device.number);
            return if same { Ok(()) } else { Err(io::Error::other("something else is at its place")) };
        }
        Err(e) => return Err(e.into()),
    }
    if device.owner != (0, 0) {
        let (uid, gid) = (Uid::from_raw(device.owner.0), Gid::from_raw(device.owner.1));
        rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

fn link(root: &Root) -> io::Result<()> {
    let found;
    let dev = match root.own_at(Path::new("dev")) {
        Some(dev) => dev,
        None => {
            found = root.ensure(Path::new("dev"), Kind::Directory, Links::Refused)?;
            found.as_fd()
        }
    };
    for (name, target) in LINKS {
        // Kernels are built without it.
        if name == "core" && rustix::fs::access(target, rustix::fs::Access::EXISTS).is_err() {
            continue;
        }
        match rustix::fs::symlinkat(target, dev, name) {
            // A node of this name that came with the image would open a terminal of the host.
            Err(Errno::EXIST) if name == "ptmx" => {
                rustix::fs::unlinkat(dev, name, AtFlags::empty())?;
                rustix::fs::symlinkat(target, dev, name)?;
            }
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Makes `/dev/console` the terminal that a descriptor is open on.
///
/// # Errors
/// If the place is not an ordinary one or the kernel refuses.
pub fn bind_console(root: &Root, terminal: BorrowedFd<'_>) -> io::Result<()> {
    let dev = root.ensure(Path::new("dev"), Kind::Directory, Links::Refused)?;
    let mode = Mode::from_raw_mode(0o600);
    match rustix::fs::mknodat(&dev, c"console", FileType::RegularFile, mode, 0) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(e) => return Err(e.into()),
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let place = rustix::fs::openat(&dev, c"console", flags, Mode::empty())?;
    if FileType::from_raw_mode(rustix::fs::fstat(&place)?.st_mode) == FileType::Symlink {
        return Err(io::Error::other("`/dev/console` is a link"));
    }
    attach(&sources::copy(terminal.as_fd())?, Place::At(place))
}
