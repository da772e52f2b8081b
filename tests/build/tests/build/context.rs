//! The files that cases copy.

use std::io::{Seek, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};

use crate::corpus::Case;

/// All files of a context are this old: a copy that keeps the time shows it.
pub(crate) const MTIME: i64 = 1_500_000_000;

/// What every context has.
const FILES: &[(&str, &str)] = &[
    ("a", "a\n"),
    ("b@755", "b\n"),
    ("d/", ""),
    ("d/x@755", "x\n"),
    ("d/sub/@700", ""),
    ("d/sub/y@600", "y\n"),
    ("d/l", "-> x"),
    ("l", "-> a"),
    ("ld", "-> d"),
    ("s p", "space\n"),
    ("e/", ""),
    ("m.md", "m\n"),
    ("n.md", "n\n"),
    ("w[1].txt", "w\n"),
];

/// Writes the context of a case, its Dockerfile included.
pub(crate) fn write(case: &Case, directory: &Path) {
    let own = case.files.iter().map(|(path, content)| (path.as_str(), content.as_str()));
    for (path, content) in FILES.iter().copied().chain(own) {
        one(directory, path, content);
    }
    one(directory, "Dockerfile", &case.dockerfile);
    if !case.ignore.is_empty() {
        one(directory, ".dockerignore", &case.ignore);
    }
    // Last, as writing changes times of directories.
    times(directory);
}

/// `path` may end with a slash (a directory) and with `@mode`; content `-> x` is a link, `tar:a=1,b/c=2` an archive, with
/// `tar.gz:`, `tar.bz2:`, `tar.xz:` and `tar.zst:` a packed one, `gz:text` a packed text.
fn one(directory: &Path, path: &str, content: &str) {
    let (path, mode) = match path.split_once('@') {
        Some((path, mode)) => (path, u32::from_str_radix(mode, 8).unwrap()),
        None => (path, if path.ends_with('/') { 0o755 } else { 0o644 }),
    };
    // A space in a name is `%`, as words end at spaces.
    let path = directory.join(path.replace('%', " "));
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).unwrap();
    }
    if let Some(target) = content.strip_prefix("-> ") {
        symlink(target, &path).unwrap();
        return;
    }
    if path.as_os_str().to_string_lossy().ends_with('/') {
        std::fs::create_dir_all(&path).unwrap();
    } else if let Some(bytes) = archive(content) {
        std::fs::write(&path, bytes).unwrap();
    } else {
        std::fs::write(&path, content).unwrap();
    }
    std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
}

/// The bytes of `tar.gz:a=1,d/=,l=-> a`: members with their content; `a~755` has a mode, `a^1:2` an owner.
fn archive(content: &str) -> Option<Vec<u8>> {
    let (kind, rest) = content.split_once(':')?;
    let (plain, packer) = match kind {
        "tar" => (tar_of(rest), None),
        "tar.gz" => (tar_of(rest), Some(["gzip", "-nc"])),
        "tar.bz2" => (tar_of(rest), Some(["bzip2", "-c"])),
        "tar.xz" => (tar_of(rest), Some(["xz", "-c"])),
        "tar.zst" => (tar_of(rest), Some(["zstd", "-qc"])),
        "gz" => (rest.as_bytes().to_vec(), Some(["gzip", "-nc"])),
        _ => return None,
    };
    Some(match packer {
        None => plain,
        Some([program, option]) => {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&plain).unwrap();
            file.rewind().unwrap();
            let output = std::process::Command::new(program).arg(option).stdin(file).output().unwrap();
            assert!(output.status.success(), "{program}");
            output.stdout
        }
    })
}

fn tar_of(members: &str) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for member in members.split(',') {
        let (name, content) = member.split_once('=').unwrap();
        let (name, owner) = name.split_once('^').unwrap_or((name, "0:0"));
        let (name, mode) = name.split_once('~').map_or((name, None), |(name, mode)| (name, Some(mode)));
        let mut header = tar::Header::new_gnu();
        header.set_mtime(1_400_000_000);
        let (uid, gid) = owner.split_once(':').unwrap();
        header.set_uid(uid.parse().unwrap());
        header.set_gid(gid.parse().unwrap());
        let default = if name.ends_with('/') { "755" } else { "644" };
        header.set_mode(u32::from_str_radix(mode.unwrap_or(default), 8).unwrap());
        // Names as they are: `..` and `/` are what some cases are about.
        let write_name = |header: &mut tar::Header| {
            let bytes = header.as_old_mut();
            bytes.name[..name.len()].copy_from_slice(name.as_bytes());
        };
        write_name(&mut header);
        let body = if let Some(target) = content.strip_prefix("-> ") {
            header.set_entry_type(tar::EntryType::Symlink);
            let bytes = target.as_bytes();
            header.as_old_mut().linkname[..bytes.len()].copy_from_slice(bytes);
            ""
        } else if let Some(target) = content.strip_prefix("=> ") {
            header.set_entry_type(tar::EntryType::Link);
            let bytes = target.as_bytes();
            header.as_old_mut().linkname[..bytes.len()].copy_from_slice(bytes);
            ""
        } else if name.ends_with('/') {
            header.set_entry_type(tar::EntryType::Directory);
            ""
        } else {
            header.set_entry_type(tar::EntryType::Regular);
            content
        };
        header.set_size(body.len() as u64);
        header.set_cksum();
        tar.append(&header, body.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap()
}

fn times(path: &Path) {
    let kind = std::fs::symlink_metadata(path).unwrap();
    if kind.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            times(&entry.unwrap().path());
        }
    }
    let time = Timespec { tv_sec: MTIME, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}
