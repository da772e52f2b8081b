//! The base image: the host's static busybox, a few users, and what programs expect of a root file system.

use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The host's busybox, which must be a static one (Debian's `busybox-static`).
pub const BUSYBOX: &str = "/bin/busybox";

/// Why there can be no base image on this host, if that is so.
pub fn missing() -> Option<&'static str> {
    (!Path::new(BUSYBOX).exists()).then_some("no /bin/busybox (package busybox-static)")
}

/// The image's root file system as a tar, made once per process.
///
/// # Panics
/// If it can't be made.
pub fn archive() -> &'static Path {
    static ARCHIVE: OnceLock<(std::fs::File, PathBuf)> = OnceLock::new();
    let (_, path) = ARCHIVE.get_or_init(|| {
        // Nobody drops a static: a file without a name goes with the process all the same.
        let file = tempfile::tempfile().unwrap();
        write(&file);
        let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
        (file, PathBuf::from(path))
    });
    path
}

fn write(file: &std::fs::File) {
    let mut tar = tar::Builder::new(file);
    for (name, mode) in [
        ("bin", 0o755),
        ("dev", 0o755),
        ("etc", 0o755),
        ("home", 0o755),
        ("proc", 0o755),
        ("root", 0o700),
        ("sys", 0o755),
        ("tmp", 0o1777),
        ("var", 0o755),
        ("var/www", 0o755),
    ] {
        let mut header = header(tar::EntryType::Directory, mode, 0);
        tar.append_data(&mut header, name, std::io::empty()).unwrap();
    }
    let program = std::fs::read(BUSYBOX).unwrap();
    let mut entry = header(tar::EntryType::Regular, 0o755, program.len());
    tar.append_data(&mut entry, "bin/busybox", program.as_slice()).unwrap();
    let listed = std::process::Command::new(BUSYBOX).arg("--list").output().unwrap().stdout;
    for applet in String::from_utf8(listed).unwrap().lines().filter(|a| *a != "busybox") {
        let mut entry = header(tar::EntryType::Symlink, 0o777, 0);
        tar.append_link(&mut entry, format!("bin/{applet}"), "busybox").unwrap();
    }
    for (name, text) in [
        ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33:web:/var/www:/bin/sh\n"),
        ("etc/group", "root:x:0:\nweb:x:33:\nextra:x:44:web\n"),
    ] {
        let mut entry = header(tar::EntryType::Regular, 0o644, text.len());
        tar.append_data(&mut entry, name, text.as_bytes()).unwrap();
    }
    tar.finish().unwrap();
}

fn header(kind: tar::EntryType, mode: u32, size: usize) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size as u64);
    header.set_mtime(1_600_000_000);
    header.set_uid(0);
    header.set_gid(0);
    header
}
