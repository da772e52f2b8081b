//! A group's directory and all below it. A container that may make groups may nest them deeper than the longest path,
//! deeper than there are descriptors, too: so the tree is walked with one descriptor, down by name and up by `..`.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

/// The processes in a group and in those below it, as often as they are found.
pub(super) fn processes(directory: &Path) -> io::Result<Vec<i32>> {
    let mut pids = Vec::new();
    let read = |group: BorrowedFd<'_>| {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(group, c"cgroup.procs", flags, Mode::empty()) {
            Ok(file) => file,
            // Removed while we looked.
            Err(Errno::NOENT | Errno::NODEV) => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        let mut text = String::new();
        match std::fs::File::from(file).read_to_string(&mut text) {
            Err(e) if e.raw_os_error() == Some(Errno::NODEV.raw_os_error()) => return Ok(()),
            other => other?,
        };
        // 0 stands for a process outside of our PID namespace: it can't be named.
        pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
        Ok(())
    };
    walk(directory, read, false)?;
    Ok(pids)
}

/// Removes a group and those below it. It is no error if there is none.
pub(super) fn remove(directory: &Path) -> io::Result<()> {
    match rustix::fs::unlinkat(CWD, directory, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::BUSY | Errno::NOTEMPTY) => {}
        Err(e) => return Err(e.into()),
    }
    match walk(directory, |_| Ok(()), true) {
        Err(e) if super::is_gone(&e) => return Ok(()),
        other => other?,
    }
    match rustix::fs::unlinkat(CWD, directory, AtFlags::REMOVEDIR) {
        // systemd removes the groups of a unit that has ended, too.
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Comes to `directory` and to each one below it. With `remove`, those below are removed when all in them are.
fn walk(
    directory: &Path,
    mut come: impl FnMut(BorrowedFd<'_>) -> io::Result<()>,
    remove: bool,
) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut here = rustix::fs::openat(CWD, directory, flags, Mode::empty())?;
    come(here.as_fd())?;
    // Each level's own name, and what is to be visited in it.
    let mut levels = vec![(OsString::new(), directories(&here)?)];
    while let Some((_, below)) = levels.last_mut() {
        if let Some(name) = below.pop() {
            match rustix::fs::openat(&here, &name, flags, Mode::empty()) {
                Err(Errno::NOENT) => {}
                Err(e) => return Err(e.into()),
                Ok(child) => {
                    come(child.as_fd())?;
                    levels.push((name, directories(&child)?));
                    here = child;
                }
            }
            continue;
        }
        let left = levels.pop();
        let (Some((name, _)), false) = (left, levels.is_empty()) else { break };
        here = rustix::fs::openat(&here, c"..", flags, Mode::empty())?;
        if remove {
            match rustix::fs::unlinkat(&here, &name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
    Ok(())
}

fn directories(of: &OwnedFd) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(of)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if entry.file_type() == FileType::Directory && !matches!(name, b"." | b"..") {
            names.push(OsString::from_vec(name.to_vec()));
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_deeper_than_a_path_is_walked_and_removed() {
        let temporary = tempfile::tempdir().unwrap();
        let top = temporary.path().join("top");
        std::fs::create_dir(&top).unwrap();
        let name = "n".repeat(250);
        let mut at = rustix::fs::openat(CWD, &top, OFlags::DIRECTORY, Mode::empty()).unwrap();
        for number in 0..1500 {
            let file = OFlags::CREATE | OFlags::WRONLY;
            let procs = rustix::fs::openat(&at, c"cgroup.procs", file, Mode::RWXU).unwrap();
            rustix::io::write(&procs, format!("0\n{}\n", number + 1).as_bytes()).unwrap();
            rustix::fs::mkdirat(&at, c"beside", Mode::RWXU).unwrap();
            rustix::fs::mkdirat(&at, name.as_str(), Mode::RWXU).unwrap();
            at = rustix::fs::openat(&at, name.as_str(), OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        let mut found = processes(&top).unwrap();
        found.sort_unstable();
        assert!(found.into_iter().eq(1..=1500));
        // Here files have to go first; in a group they go with it.
        assert_eq!(remove(&top).unwrap_err().raw_os_error(), Some(Errno::NOTEMPTY.raw_os_error()));
        sampan_kernel::beneath::remove_tree(CWD, top.as_os_str()).unwrap();
        assert!(processes(&top).is_err() && remove(&top).is_ok());
    }
}
