//! Descriptors that a child program finds at fixed numbers.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Lets the program that `command` starts find each descriptor at the number given with it. Only for
/// single-threaded callers' short-lived commands: it makes `spawn` fork instead of using `posix_spawn`.
///
/// # Errors
/// If a descriptor can't be duplicated out of the way of the numbers asked for.
pub fn pass(command: &mut Command, descriptors: &[(BorrowedFd<'_>, RawFd)]) -> io::Result<()> {
    let clear = descriptors.iter().map(|(_, number)| *number).max().unwrap_or(0) + 1;
    let mut moves: Vec<(OwnedFd, RawFd)> = Vec::with_capacity(descriptors.len());
    for (fd, number) in descriptors {
        // Above every number asked for, so that no dup2 below overwrites a source that is still needed.
        moves.push((rustix::io::fcntl_dupfd_cloexec(fd.as_fd(), clear)?, *number));
    }
    let place = move || {
        for (fd, number) in &moves {
            // SAFETY: dup2(2) on an open descriptor; what was at `number` in this forked child is not used by anyone.
            if unsafe { libc::dup2(fd.as_raw_fd(), *number) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes only dup2(2) calls, which are async-signal-safe, and
    // reads memory made before the fork.
    unsafe { command.pre_exec(place) };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_child_finds_the_descriptors_where_they_were_promised() {
        let (mut a, b) = std::io::pipe().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo three >&3; echo four >&4"]);
        pass(&mut command, &[(b.as_fd(), 3), (b.as_fd(), 4)]).unwrap();
        assert!(command.status().unwrap().success());
        drop((command, b));
        let mut text = String::new();
        a.read_to_string(&mut text).unwrap();
        assert_eq!(text, "three\nfour\n");
    }
}
