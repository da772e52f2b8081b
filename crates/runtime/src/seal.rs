//! The runtime's own executable, out of reach of containers.
//!
//! A process that becomes a container's is, until its exec, this program; and a container may name `/proc/self/exe` as
//! its program. Either way somebody in the container can get hold of this executable's file, and write to it when it
//! does not run (CVE-2019-5736). So the commands that make such processes run from a copy of the mount that the
//! executable is on: read-only, attached nowhere, and gone with the last process that uses it. It costs a second exec,
//! and no copy of the file.
//!
//! As a rule that has happened before `main` ([`sampan_kernel::seal`]), and here it is only seen to be so.

use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use rustix::fs::{CWD, SealFlags, StatVfsMountFlags};
use rustix::mount::{MountAttrFlags, OpenTreeFlags};
use sampan_kernel::mount::{Change, change};
use sampan_kernel::process::{StringArray, execute_file};

use crate::error::Step;

const SELF: &str = "/proc/self/exe";
/// Tells the second run that it is one, so that it does not try for ever.
const MARK: &str = "_SAMPAN_RUNTIME_SEALED";

/// Returns if this process runs from a sealed executable, and else executes itself anew from one.
///
/// # Errors
/// If none can be made.
pub(crate) fn seal() -> Result<(), Step> {
    let failed = || Step::on::<io::Error, _>(|| "protect the runtime's own executable");
    if is_sealed().map_err(failed())? {
        return Ok(());
    }
    if std::env::var_os(MARK).is_some() {
        return Err(Step::refused("protect the runtime's own executable", "it is writable even when sealed"));
    }
    match execute_sealed() {
        Err(error) => Err(failed()(error)),
        Ok(never) => match never {},
    }
}

/// Whether nobody can write to the executable by way of this process: its mount is read-only, or its memory is sealed.
///
/// # Errors
/// If it can't be looked at.
pub fn is_sealed() -> io::Result<bool> {
    if rustix::fs::statvfs(SELF)?.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Ok(true);
    }
    let own = File::open(SELF)?;
    // Only files in memory can have seals.
    Ok(rustix::fs::fcntl_get_seals(&own).is_ok_and(|seals| seals.contains(SealFlags::WRITE)))
}

fn execute_sealed() -> io::Result<Infallible> {
    let file = read_only_mount().or_else(|_| sealed_copy())?;
    let args = StringArray::new(std::env::args_os().map(OsStringExt::into_vec))?;
    let pair = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        let mut pair = name.into_vec();
        pair.push(b'=');
        pair.extend(value.into_vec());
        pair
    };
    let env = std::env::vars_os().map(pair).chain([format!("{MARK}=1").into_bytes()]);
    execute_file(file.as_fd(), &args, &StringArray::new(env)?)
}

/// The executable on a read-only copy of its mount.
fn read_only_mount() -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = rustix::mount::open_tree(CWD, SELF, flags)?;
    let set = MountAttrFlags::MOUNT_ATTR_RDONLY;
    change(tree.as_fd(), &Change { set, ..Change::default() }, false)?;
    Ok(tree)
}

/// A copy of the executable in memory that nobody can write: for who may not make mounts.
fn sealed_copy() -> io::Result<OwnedFd> {
    use rustix::fs::MemfdFlags;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memory = rustix::fs::memfd_create(c"sampan-runtime", flags)?;
    let mut memory = File::from(memory);
    io::copy(&mut File::open(SELF)?, &mut memory)?;
    let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&memory, seals)?;
    Ok(memory.into())
}
