//! A store in a directory of its own, and a small language for tars and trees.
//!
//! A tar is a text, an entry a line: `path kind [mode [uid:gid]] [= content or target] [@ seconds.nanos] [+ xattr=value]`, e.g.
//! `bin/sh file 755 = #!`, `etc dir`, `lib link = usr/lib`, `a hard = b`, `dev/null char 666 = 1:3`, `pipe fifo`.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use sampan_image::tar::{Kind, Member, Mtime, Writer};
use sampan_image::{Image, ImportOptions, Store};

/// A store that goes, with its mounts, when the test ends.
pub(crate) struct TestStore {
    pub(crate) store: Option<Store>,
    pub(crate) dir: tempfile::TempDir,
}

impl TestStore {
    pub(crate) fn new() -> TestStore {
        let dir = tempfile::Builder::new().prefix("sampan-image-").tempdir().unwrap();
        let store = Some(Store::open(&dir.path().join("root")).unwrap());
        TestStore { store, dir }
    }

    pub(crate) fn with(snapshotter: sampan_image::Snapshotter) -> TestStore {
        let dir = tempfile::Builder::new().prefix("sampan-image-").tempdir().unwrap();
        let store = Some(Store::open_with(&dir.path().join("root"), snapshotter).unwrap());
        TestStore { store, dir }
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    /// Closes the store and opens it again, as the next daemon would.
    pub(crate) fn reopen(&mut self) {
        self.store = None;
        self.store = Some(Store::open(&self.root()).unwrap());
    }

    pub(crate) fn import(&self, name: &str, listing: &str) -> Image {
        let options = ImportOptions { names: vec![name.parse().unwrap()], ..ImportOptions::default() };
        self.import_rootfs(&mut &*tar(listing), &options).unwrap()
    }

    /// An empty directory to mount on.
    pub(crate) fn mount_point(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    /// Everything in the store that is not bookkeeping: to see that nothing is left.
    pub(crate) fn files(&self) -> Vec<String> {
        let mut found = Vec::new();
        for part in ["content/blobs/sha256", "content/ingest", "snapshots"] {
            for entry in std::fs::read_dir(self.root().join(part)).unwrap() {
                found.push(format!("{part}/{}", entry.unwrap().file_name().to_string_lossy()));
            }
        }
        found.sort();
        found
    }
}

impl std::ops::Deref for TestStore {
    type Target = Store;
    fn deref(&self) -> &Store {
        self.store.as_ref().unwrap()
    }
}

impl Drop for TestStore {
    fn drop(&mut self) {
        self.store = None;
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        for line in table.lines().rev() {
            let at = Path::new(line.split(' ').nth(4).unwrap());
            if at.starts_with(self.dir.path()) {
                rustix::mount::unmount(at, rustix::mount::UnmountFlags::DETACH).unwrap();
            }
        }
    }
}

pub(crate) fn tar(listing: &str) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for line in listing.lines().map(str::trim).filter(|l| !l.is_empty()) {
        let (member, content) = entry(line);
        writer.append(&member, &mut &*content).unwrap();
    }
    writer.finish().unwrap()
}

pub(crate) fn entry(line: &str) -> (Member, Vec<u8>) {
    let (line, xattrs) = match line.split_once(" + ") {
        Some((line, xattr)) => {
            let (key, value) = xattr.split_once('=').unwrap();
            (line, vec![(key.as_bytes().to_vec(), value.as_bytes().to_vec())])
        }
        None => (line, Vec::new()),
    };
    let (line, mtime) = match line.split_once(" @ ") {
        Some((line, time)) => {
            let (seconds, nanos) = time.split_once('.').unwrap_or((time, "0"));
            (line, Mtime { seconds: seconds.parse().unwrap(), nanoseconds: nanos.parse().unwrap() })
        }
        None => (line, Mtime { seconds: 1_700_000_000, nanoseconds: 0 }),
    };
    let (line, value) = line.split_once(" = ").unwrap_or((line.trim_end_matches(" ="), ""));
    let words: Vec<&str> = line.split_whitespace().collect();
    let numbers = || {
        let (major, minor) = value.split_once(':').unwrap();
        (major.parse().unwrap(), minor.parse().unwrap())
    };
    let kind = match words[1] {
        "file" => Kind::File { size: value.len() as u64, pieces: None },
        "dir" => Kind::Directory,
        "link" => Kind::Symlink { target: value.into() },
        "hard" => Kind::HardLink { target: value.into() },
        "fifo" => Kind::Fifo,
        "char" => Kind::CharDevice { major: numbers().0, minor: numbers().1 },
        "block" => Kind::BlockDevice { major: numbers().0, minor: numbers().1 },
        other => panic!("{other} is no kind"),
    };
    let default = if kind == Kind::Directory { 0o755 } else { 0o644 };
    let mode = words.get(2).map_or(default, |m| u32::from_str_radix(m, 8).unwrap());
    let (uid, gid) = words.get(3).map_or((0, 0), |ids| {
        let (uid, gid) = ids.split_once(':').unwrap();
        (uid.parse().unwrap(), gid.parse().unwrap())
    });
    let content = if matches!(kind, Kind::File { .. }) { value.as_bytes().to_vec() } else { Vec::new() };
    (Member { path: words[0].into(), kind, mode, uid, gid, mtime, xattrs }, content)
}

/// A tree as text, in the same words, without times unless they have nanoseconds.
pub(crate) fn tree(root: &Path) -> String {
    let mut out = String::new();
    list(root, root, &mut out);
    out
}

fn list(root: &Path, directory: &Path, out: &mut String) {
    let mut entries: Vec<_> = std::fs::read_dir(directory).unwrap().map(|e| e.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let meta = std::fs::symlink_metadata(&path).unwrap();
        let kind = meta.file_type();
        let (major, minor) = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
        let (word, value) = if kind.is_dir() {
            ("dir", String::new())
        } else if kind.is_file() {
            ("file", format!(" = {}", String::from_utf8_lossy(&std::fs::read(&path).unwrap())))
        } else if kind.is_symlink() {
            ("link", format!(" = {}", std::fs::read_link(&path).unwrap().display()))
        } else if kind.is_fifo() {
            ("fifo", String::new())
        } else {
            let word = if kind.is_char_device() { "char" } else { "block" };
            (word, format!(" = {major}:{minor}"))
        };
        let owner = match (meta.uid(), meta.gid()) {
            (0, 0) => String::new(),
            (uid, gid) => format!(" {uid}:{gid}"),
        };
        let links =
            if meta.nlink() > 1 && !kind.is_dir() { format!(" x{}", meta.nlink()) } else { String::new() };
        let mode = if kind.is_symlink() { String::new() } else { format!(" {:o}", meta.mode() & 0o7777) };
        out.push_str(&format!(
            "{} {word}{mode}{owner}{links}{value}\n",
            path.strip_prefix(root).unwrap().display()
        ));
        if kind.is_dir() {
            list(root, &path, out);
        }
    }
}
