//! Unix sockets by paths of any length. The kernel takes 107 bytes; a longer path goes through its directory's
//! descriptor in /proc.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

/// The longest path that fits a `sockaddr_un` with its final NUL.
const MAX_PATH_BYTES: usize = 107;

/// Listens at `path`, for root only.
///
/// # Errors
/// If the directory is not there, or the name is taken.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    let old = rustix::process::umask(Mode::from_raw_mode(0o177));
    let listener = by_short_path(path, |short| UnixListener::bind(short));
    rustix::process::umask(old);
    let listener = listener?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Connects to `path`.
///
/// # Errors
/// If nobody listens there.
pub fn connect(path: &Path) -> io::Result<UnixStream> {
    by_short_path(path, |short| UnixStream::connect(short))
}

fn by_short_path<T>(path: &Path, act: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    if path.as_os_str().len() <= MAX_PATH_BYTES {
        return act(path);
    }
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a path of a file in a directory"));
    };
    let directory =
        rustix::fs::open(directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    act(&PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name))
}

/// The path in an address as containerd writes it: `unix:///path`, or the bare path.
pub fn path_of(address: &str) -> &Path {
    Path::new(address.strip_prefix("unix://").unwrap_or(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_are_too_long_for_the_kernel_work() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        let path = deep.join("s.sock");
        let listener = listen(&path).unwrap();
        connect(&path).unwrap();
        assert!(listener.accept().is_ok());
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
