//! Puts a root file system together in the child's mount namespace.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    UnmountFlags,
};
use sampan_kernel::mount::{Change, change};

use super::beneath::{Kind, Links, Place, Root, is_directory};
use super::options::MountOptions;
use super::plan::{MountPlan, Plan, What, mountable_in_proc};
use super::sources::{self, Source, Sources};
use super::{copy_up, devices, live};
use crate::error::Step;

pub(super) const PROC_SUPER_MAGIC: i64 = 0x9fa0;

/// A root file system that is put together, but open: places in it can still be written.
#[derive(Debug)]
pub struct Open {
    /// Its root, mounted over the host's.
    pub root: Root,
    /// Mounts that become read-only when it is sealed: other mounts had to be made inside of them.
    pub(super) readonly_later: Vec<OwnedFd>,
}

/// The container's control groups, as mounts to attach.
#[derive(Debug, Default)]
pub struct Groups {
    /// Each with its hierarchy's controllers, none for v2.
    pub trees: Vec<(Vec<String>, OwnedFd)>,
    /// Whether they are attached somewhere: at another place go copies.
    attached: bool,
}

impl Groups {
    /// Groups that are attached nowhere yet.
    pub fn new(trees: Vec<(Vec<String>, OwnedFd)>) -> Groups {
        Groups { trees, attached: false }
    }
}

/// Puts it together, over the `/` of this mount namespace. `enter_groups` is called once, as late as can be: it joins
/// the cgroups, and their namespace, and returns what to mount of them.
///
/// # Errors
/// If a mount or a device can't be made.
pub fn build(
    plan: &Plan,
    sources: Sources,
    enter_groups: impl FnOnce() -> Result<Groups, Step>,
) -> Result<Open, Step> {
    // First of all: nothing that happens here may pass to the host.
    let apart = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    rustix::mount::mount_change(c"/", apart)
        .map_err(Step::on(|| "cut the mount namespace off from the host's"))?;
    attach_root(plan, &sources.rootfs)
        .map_err(Step::on(|| format!("mount the root file system `{}`", plan.path.display())))?;
    let mut open = Open { root: Root::new(sources.rootfs), readonly_later: Vec::new() };
    let mut enter_groups = Some(enter_groups);
    let mut groups = Groups::default();
    for (mount, source) in plan.mounts.iter().zip(sources.mounts) {
        if mount.what == What::Cgroups {
            if let Some(enter) = enter_groups.take() {
                groups = enter()?;
            }
            cgroups(&mut open, mount, &mut groups).map_err(Step::on(|| doing(mount, "cgroup")))?;
            continue;
        }
        make(&mut open, mount, source)?;
    }
    if let Some(enter) = enter_groups {
        enter()?;
    }
    if plan.fill_dev {
        devices::fill(plan, &open.root, sources.devices)?;
    }
    if !plan.cwd.as_os_str().is_empty() {
        open.root
            .ensure(&plan.cwd, Kind::Directory, Links::Inside)
            .map_err(Step::on(|| format!("make the working directory `/{}`", plan.cwd.display())))?;
    }
    Ok(open)
}

pub(super) fn make(open: &mut Open, mount: &MountPlan, source: Source) -> Result<(), Step> {
    match (&mount.what, source) {
        (What::FileSystem { kind, source }, _) => {
            file_system(open, mount, kind, source.as_deref()).map_err(Step::on(|| doing(mount, kind)))
        }
        (What::Bind { source, .. }, Source::Tree(tree)) => {
            bind(open, mount, &tree).map_err(Step::on(|| doing(mount, &source.display().to_string())))
        }
        (What::Change { bind }, _) => {
            let doing = || format!("change the mount at `/{}`", mount.destination.display());
            live::change(&open.root, mount, *bind).map_err(Step::on(doing))
        }
        (What::Bind { .. } | What::Cgroups, _) => Ok(()),
    }
}

fn doing(mount: &MountPlan, what: &str) -> String {
    format!("mount `{what}` at `/{}`", mount.destination.display())
}

fn bind(open: &mut Open, mount: &MountPlan, tree: &OwnedFd) -> io::Result<()> {
    let kind = if is_directory(tree.as_fd())? { Kind::Directory } else { Kind::File };
    let target = target(&mut open.root, mount, kind, Links::Inside)?;
    if mount.destination == Path::new("proc") && file_system_type(tree.as_fd())? != PROC_SUPER_MAGIC {
        return Err(io::Error::other("only a proc file system may be mounted there"));
    }
    set_options(tree.as_fd(), &mount.options)?;
    attach(tree, target.place)
}

fn file_system(open: &mut Open, mount: &MountPlan, kind: &str, source: Option<&str>) -> io::Result<()> {
    // What runs as root in the container trusts these two: a link could make them a fake at another place.
    let links = if matches!(kind, "proc" | "sysfs") { Links::Refused } else { Links::Inside };
    if mount.destination == Path::new("proc") && kind != "proc" {
        return Err(io::Error::other("only a proc file system may be mounted there"));
    }
    let Target { place, was_there, plain } = target(&mut open.root, mount, Kind::Directory, links)?;
    // Other mounts may have to go into a tmpfs.
    let later = kind == "tmpfs" && mount.options.attributes.set.contains(MountAttrFlags::MOUNT_ATTR_RDONLY);
    let mut attributes = mount.options.attributes.set | mount.options.recursive.set;
    if later {
        attributes -= MountAttrFlags::MOUNT_ATTR_RDONLY;
    }
    let mut options = mount.options.clone();
    let says_mode = options.data.iter().any(|(key, _)| key == "mode");
    // A tmpfs has the permissions of what it hides, if nothing else is asked for.
    if kind == "tmpfs" && !says_mode && was_there {
        options.data.push(("mode".to_owned(), Some(format!("{:o}", mode_of(&place)? & 0o7777))));
    }
    let options = &options;
    let fs = match place {
        Place::At(target) if options.data.iter().any(is_long) => by_mount(kind, source, options, &target)?,
        place => {
            let fs = create(kind, source, options, attributes)?;
            if let (true, Place::At(target)) = (options.copy_up, &place) {
                copy_up::copy(target.as_fd(), fs.as_fd(), !says_mode)?;
            }
            attach(&fs, place)?;
            fs
        }
    };
    for (propagation, recursive) in &options.propagation {
        change(fs.as_fd(), &Change { propagation: *propagation, ..Change::default() }, *recursive)?;
    }
    if later {
        open.readonly_later.push(fs.try_clone()?);
    }
    if matches!(kind, "proc" | "sysfs" | "tmpfs") && !options.copy_up && plain {
        open.root.add_own(&mount.destination, fs);
    } else {
        leave_open(fs);
    }
    Ok(())
}

fn mode_of(place: &Place<'_>) -> io::Result<u32> {
    let (directory, name) = match place {
        Place::At(handle) => (handle.as_fd(), OsStr::new("")),
        Place::In(directory, name) => (*directory, *name),
    };
    let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
    Ok(rustix::fs::statat(directory, name, flags)?.st_mode)
}

/// Leaves a descriptor open: before the process uses any path of the container's, it closes all that there are at
/// once ([`crate::process::enter`]), where each by itself would take a call.
pub(super) fn leave_open(fd: OwnedFd) {
    std::mem::forget(fd);
}

/// The longest value that the new interface takes.
const MAX_VALUE: usize = 255;

fn is_long((_, value): &(String, Option<String>)) -> bool {
    value.as_ref().is_some_and(|value| value.len() > MAX_VALUE)
}

/// A new file system, attached nowhere.
fn create(
    kind: &str,
    source: Option<&str>,
    options: &MountOptions,
    attributes: MountAttrFlags,
) -> io::Result<OwnedFd> {
    use rustix::mount as m;
    let context = m::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    let configure = || -> Result<(), rustix::io::Errno> {
        m::fsconfig_set_string(&context, "source", source.filter(|s| !s.is_empty()).unwrap_or(kind))?;
        for flag in &options.superblock {
            m::fsconfig_set_flag(&context, flag.as_str())?;
        }
        if !matches!(kind, "tmpfs" | "proc" | "sysfs")
            && attributes.contains(MountAttrFlags::MOUNT_ATTR_RDONLY)
        {
            m::fsconfig_set_flag(&context, "ro")?;
        }
        for (key, value) in &options.data {
            match value {
                Some(value) => m::fsconfig_set_string(&context, key.as_str(), value.as_str())?,
                None => m::fsconfig_set_flag(&context, key.as_str())?,
            }
        }
        m::fsconfig_create(&context)
    };
    if let Err(error) = configure() {
        return Err(with_explanation(error.into(), context.as_fd()));
    }
    Ok(m::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// The kernel explains in the context's log what it did not like.
pub(super) fn with_explanation(error: io::Error, context: BorrowedFd<'_>) -> io::Error {
    let mut buffer = [0u8; 512];
    match rustix::io::read(context, &mut buffer) {
        Ok(length) if length > 2 => {
            let text = String::from_utf8_lossy(&buffer[2..length]).trim().to_owned();
            io::Error::new(error.kind(), format!("{error} ({text})"))
        }
        _ => error,
    }
}

/// The old interface, for values that are too long for the new one. It takes a path: that of the descriptor.
fn by_mount(
    kind: &str,
    source: Option<&str>,
    options: &MountOptions,
    target: &OwnedFd,
) -> io::Result<OwnedFd> {
    use std::os::fd::AsRawFd;
    let word = |(key, value): &(String, Option<String>)| match value {
        Some(value) => format!("{key}={value}"),
        None => key.clone(),
    };
    let data = options.data.iter().map(word).collect::<Vec<_>>().join(",");
    let data = std::ffi::CString::new(data)?;
    let path = format!("/proc/self/fd/{}", target.as_raw_fd());
    rustix::mount::mount(source.unwrap_or(kind), &path, kind, MountFlags::empty(), data.as_c_str())?;
    // The descriptor is on the directory below; opening it again reaches what was mounted over it.
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let mounted = rustix::fs::open(&path, flags, Mode::empty())?;
    change(mounted.as_fd(), &options.attributes.change(), false)?;
    Ok(mounted)
}

/// The container's control groups: one mount for v2; a directory of one mount per hierarchy for v1, with the names
/// of hierarchies and of their controllers as the host has them.
fn cgroups(open: &mut Open, mount: &MountPlan, groups: &mut Groups) -> io::Result<()> {
    let attached = std::mem::replace(&mut groups.attached, true);
    if attached {
        let copy = |(controllers, tree): &(Vec<String>, OwnedFd)| {
            Ok((controllers.clone(), sources::copy(tree.as_fd())?))
        };
        groups.trees = groups.trees.iter().map(copy).collect::<io::Result<_>>()?;
    }
    // The copies are still the host's peers: what is mounted in the one would show up in the other.
    let apart = Change { propagation: MountPropagationFlags::PRIVATE, ..mount.options.attributes.change() };
    if let [(controllers, only)] = groups.trees.as_slice()
        && controllers.is_empty()
    {
        change(only.as_fd(), &apart, false)?;
        return bind(open, mount, only);
    }
    let target = target(&mut open.root, mount, Kind::Directory, Links::Inside)?;
    let attributes = mount.options.attributes.set - MountAttrFlags::MOUNT_ATTR_RDONLY;
    let mode =
        MountOptions { data: vec![("mode".to_owned(), Some("755".to_owned()))], ..MountOptions::default() };
    let directory = create("tmpfs", Some("tmpfs"), &mode, attributes)?;
    attach(&directory, target.place)?;
    for (controllers, group) in &groups.trees {
        let name = match controllers.as_slice() {
            [] => "unified".to_owned(),
            [one] => one.strip_prefix("name=").unwrap_or(one).to_owned(),
            several => several.join(","),
        };
        // In a new file system of ours, nobody else has put anything into our way.
        rustix::fs::mkdirat(&directory, &name, Mode::from_raw_mode(0o755))?;
        attach_at(group, directory.as_fd(), &name)?;
        if let [_, _, ..] = controllers.as_slice() {
            for controller in controllers {
                rustix::fs::symlinkat(&name, &directory, controller)?;
            }
        }
    }
    change(directory.as_fd(), &apart, true)?;
    leave_open(directory);
    Ok(())
}

/// Where a mount goes.
struct Target<'a> {
    place: Place<'a>,
    /// Whether it was there before.
    was_there: bool,
    /// Whether its path leads over no link.
    plain: bool,
}

/// The place of a mount, made if missing, after a look at where it really is.
fn target<'a>(root: &'a mut Root, mount: &'a MountPlan, kind: Kind, links: Links) -> io::Result<Target<'a>> {
    let destination = &mount.destination;
    root.cover(destination);
    let nofollow = mount.options.destination_nofollow;
    let by_handle = nofollow || mount.options.copy_up || mount.options.data.iter().any(is_long);
    if !by_handle && root.in_own(destination).is_some() {
        return in_own(root, destination, kind);
    }
    let mut plain = true;
    let (handle, was_there) = match root.ensure_known(destination, kind, Links::Refused) {
        _ if nofollow => {
            root.forget_own();
            plain = false;
            Ok((live::link_itself(root, destination, kind)?, true))
        }
        Err(e) if e.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {
            if links == Links::Refused {
                return Err(io::Error::other(
                    "it must be mounted on ordinary directory, and the place is a link",
                ));
            }
            // It may be over anything.
            root.forget_own();
            plain = false;
            root.ensure_known(destination, kind, Links::Inside)
        }
        other => other,
    }?;
    let at_proc = destination == Path::new("proc") || mountable_in_proc(destination);
    if !at_proc && file_system_type(handle.as_fd())? == PROC_SUPER_MAGIC {
        return Err(io::Error::other("the place leads into proc, where nothing may be mounted"));
    }
    Ok(Target { place: Place::At(handle), was_there, plain })
}

fn in_own<'a>(root: &'a Root, path: &'a Path, kind: Kind) -> io::Result<Target<'a>> {
    let Some((directory, name)) = root.in_own(path) else { return Err(io::ErrorKind::NotFound.into()) };
    let made = match kind {
        Kind::Directory => rustix::fs::mkdirat(directory, name, Mode::from_raw_mode(0o755)),
        Kind::File => {
            rustix::fs::mknodat(directory, name, FileType::RegularFile, Mode::from_raw_mode(0o644), 0)
        }
    };
    let was_there = match made {
        Ok(()) => false,
        // In proc and sysfs nothing can be made.
        Err(Errno::EXIST | Errno::PERM | Errno::NOENT | Errno::ACCESS | Errno::ROFS) => true,
        Err(e) => return Err(e.into()),
    };
    Ok(Target { place: Place::In(directory, name), was_there, plain: true })
}

#[allow(clippy::unnecessary_cast, reason = "i64 here, not everywhere")]
pub(super) fn file_system_type(of: BorrowedFd<'_>) -> io::Result<i64> {
    Ok(rustix::fs::fstatfs(of)?.f_type as i64)
}

/// Sets options of a mount.
///
/// # Errors
/// If the kernel refuses.
pub fn set_options(tree: BorrowedFd<'_>, options: &MountOptions) -> io::Result<()> {
    if options.recursive != Default::default() {
        change(tree, &options.recursive.change(), true)?;
    }
    if options.attributes != Default::default() {
        change(tree, &options.attributes.change(), false)?;
    }
    for (propagation, recursive) in &options.propagation {
        change(tree, &Change { propagation: *propagation, ..Change::default() }, *recursive)?;
    }
    Ok(())
}

/// Attaches a mount at the very place that is meant.
pub(super) fn attach(mount: &OwnedFd, place: Place<'_>) -> io::Result<()> {
    match place {
        Place::At(handle) => {
            let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
            rustix::mount::move_mount(mount, c"", &handle, c"", flags)?;
            leave_open(handle);
        }
        Place::In(directory, name) => attach_at(mount, directory, name)?,
    }
    Ok(())
}

/// Attaches a mount at a path, whose last part is not followed if it is a link.
fn attach_at(mount: &OwnedFd, directory: BorrowedFd<'_>, path: impl rustix::path::Arg) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    Ok(rustix::mount::move_mount(mount, c"", directory, path, flags)?)
}

/// Attaches the root over `/`; but if hooks are to look at it, at its own path, where they know to find it.
fn attach_root(plan: &Plan, rootfs: &OwnedFd) -> io::Result<()> {
    if plan.for_hooks {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::open(&plan.path, flags, Mode::empty()) {
            Ok(place) => {
                let (there, ours) = (rustix::fs::fstat(&place)?, rustix::fs::fstat(rootfs)?);
                // Nothing of the host's that hooks use may be covered because a link was swapped meanwhile.
                if (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino) {
                    return Err(io::Error::other("its path leads elsewhere now"));
                }
                return attach(rootfs, Place::At(place));
            }
            // A user namespace's root may not come there. Hooks do without, then.
            Err(Errno::ACCESS) => {}
            Err(e) => return Err(e.into()),
        }
    }
    attach_at(rootfs, CWD, c"/")
}

/// Hides what may not be read, protects what may not be written, and the root itself.
///
/// # Errors
/// If the kernel refuses.
pub fn seal(plan: &Plan, open: Open) -> Result<Root, Step> {
    let readonly = Change { set: MountAttrFlags::MOUNT_ATTR_RDONLY, ..Change::default() };
    let root = open.root;
    for path in &plan.readonly_paths {
        let protect = || {
            let Some((place, tree)) = copy_of(&root, path)? else { return Ok::<(), io::Error>(()) };
            change(tree.as_fd(), &readonly, true)?;
            attach(&tree, place)?;
            leave_open(tree);
            Ok(())
        };
        protect().map_err(Step::on(|| format!("make `/{}` read-only", path.display())))?;
    }
    mask(plan, &root)?;
    for mount in open.readonly_later {
        change(mount.as_fd(), &readonly, false).map_err(Step::on(|| "make a tmpfs read-only"))?;
        leave_open(mount);
    }
    if plan.readonly {
        change(root.as_fd(), &readonly, false).map_err(Step::on(|| "make `/` read-only"))?;
    }
    Ok(root)
}

/// A place and a copy of what is there, with the mounts below it; nothing if nothing is there.
fn copy_of<'a>(root: &'a Root, path: &'a Path) -> io::Result<Option<(Place<'a>, OwnedFd)>> {
    if let Some((directory, name)) = root.in_own(path) {
        let tree = if_there(sources::copy_at(directory, name))?;
        return Ok(tree.map(|tree| (Place::In(directory, name), tree)));
    }
    let Some(handle) = if_there(root.open(path, Links::Inside))? else { return Ok(None) };
    let tree = sources::copy_with_mounts(handle.as_fd())?;
    Ok(Some((Place::At(handle), tree)))
}

/// Lays nothing over what may not be read: the host's null device over files, one empty tmpfs over all directories.
fn mask(plan: &Plan, root: &Root) -> Result<(), Step> {
    if plan.masked.is_empty() {
        return Ok(());
    }
    let null = trusted_null().map_err(Step::on(|| "open the host's `/dev/null`"))?;
    let mut empty: Option<OwnedFd> = None;
    for path in &plan.masked {
        let mut cover = || {
            let Some((place, is_directory)) = existing(root, path)? else { return Ok::<(), io::Error>(()) };
            let nothing = match (&empty, is_directory) {
                (_, false) => sources::copy(null.as_fd())?,
                (Some(empty), true) => sources::copy(empty.as_fd())?,
                (None, true) => {
                    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
                        | MountAttrFlags::MOUNT_ATTR_NOSUID
                        | MountAttrFlags::MOUNT_ATTR_NODEV
                        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
                    let first = create("tmpfs", Some("tmpfs"), &MountOptions::default(), attributes)?;
                    attach(&first, place)?;
                    empty = Some(first);
                    return Ok(());
                }
            };
            attach(&nothing, place)?;
            leave_open(nothing);
            Ok(())
        };
        cover().map_err(Step::on(|| format!("mask `/{}`", path.display())))?;
    }
    leave_open(null);
    if let Some(empty) = empty {
        leave_open(empty);
    }
    Ok(())
}

/// A place, and whether a directory is there; nothing if nothing is.
fn existing<'a>(root: &'a Root, path: &'a Path) -> io::Result<Option<(Place<'a>, bool)>> {
    let is_directory = |mode| FileType::from_raw_mode(mode) == FileType::Directory;
    let place = match root.in_own(path) {
        Some((directory, name)) => Some(Place::In(directory, name)),
        None => if_there(root.open(path, Links::Inside))?.map(Place::At),
    };
    let Some(place) = place else { return Ok(None) };
    Ok(if_there(mode_of(&place))?.map(|mode| (place, is_directory(mode))))
}

/// What is not there needs no protection.
fn if_there<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        other => other.map(Some),
    }
}

/// The host's null device: not the container's, which another container may have swapped for something else.
fn trusted_null() -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let null = rustix::fs::open(c"/dev/null", flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&null)?;
    let is_null = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && stat.st_rdev == rustix::fs::makedev(1, 3);
    if is_null { Ok(null) } else { Err(io::Error::other("it is not the null device")) }
}

/// Makes the root `/`, and lets go of the host's tree; with `pivot` for good, else by chroot (for hosts whose own
/// root can't be moved, as an initramfs).
///
/// # Errors
/// If the kernel refuses.
pub fn enter(plan: &Plan, root: Root, pivot: bool) -> Result<(), Step> {
    rustix::process::fchdir(root.as_fd()).map_err(Step::on(|| "change into the root file system"))?;
    if pivot {
        // The old root is stacked on the new one and taken off again: no directory for it is needed.
        rustix::process::pivot_root(c".", c".").map_err(Step::on(|| "make the root file system `/`"))?;
        rustix::mount::unmount(c".", UnmountFlags::DETACH)
            .map_err(Step::on(|| "let go of the host's root"))?;
    } else {
        let visible = whole_views().map_err(Step::on(|| "look for the host's proc and sysfs"))?;
        for path in visible {
            // Those of the container are behind its root and not found by these paths; what is gone is gone.
            let _ = rustix::mount::unmount(&path, UnmountFlags::DETACH);
        }
        rustix::process::chroot(c".").map_err(Step::on(|| "make the root file system `/`"))?;
    }
    // Not earlier: a shared mount can't become the root.
    if let Some((propagation, recursive)) = plan.propagation {
        let pass = Change { propagation, ..Change::default() };
        change(root.as_fd(), &pass, recursive).map_err(Step::on(|| "set the propagation of `/`"))?;
    }
    root.into_descriptors().for_each(leave_open);
    rustix::process::chdir(c"/").map_err(Step::on(|| "change into `/`"))
}

/// Where the host has proc and sysfs mounted. As long as one is to be seen in a mount namespace, the kernel lets
/// anybody there, in a user namespace of his own, mount it anew, without what masks it.
fn whole_views() -> io::Result<Vec<String>> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    let whole = |line: &str| {
        let (place, kind) = line.split_once(" - ")?;
        let kind = kind.split(' ').next()?;
        let path = place.split(' ').nth(4)?;
        matches!(kind, "proc" | "sysfs").then(|| path.replace("\\040", " "))
    };
    Ok(mounts.lines().filter_map(whole).collect())
}
