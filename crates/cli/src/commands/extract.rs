//! A tar that a container made, unpacked here: every path is resolved by descriptors beneath the target directory, so that
//! no link in it, and none that it brings, leads out.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, Timespec, Timestamps};
use rustix::io::Errno;
use tar::EntryType;
use tokio::sync::mpsc;

/// How a tar is unpacked.
pub(crate) struct Extraction {
    pub(crate) directory: PathBuf,
    /// The name of what is unpacked, if not its own.
    pub(crate) name: Option<String>,
    /// Only what the outermost directory holds.
    pub(crate) strip: bool,
    pub(crate) keep_owners: bool,
}

/// What comes out of a channel, to be read.
pub(crate) struct Received {
    receiver: mpsc::Receiver<Bytes>,
    piece: Bytes,
}

impl Received {
    pub(crate) fn new(receiver: mpsc::Receiver<Bytes>) -> Received {
        Received { receiver, piece: Bytes::new() }
    }
}

impl Read for Received {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.piece.is_empty() {
            match self.receiver.blocking_recv() {
                Some(piece) => self.piece = piece,
                None => return Ok(0),
            }
        }
        let n = buffer.len().min(self.piece.len());
        buffer[..n].copy_from_slice(&self.piece.split_to(n));
        Ok(n)
    }
}

impl Extraction {
    /// Unpacks all of it.
    pub(crate) fn run(&self, from: impl Read) -> Result<()> {
        let failed = || format!("cannot open `{}`", self.directory.display());
        let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
        let root = rustix::fs::open(&self.directory, flags, Mode::empty()).with_context(failed)?;
        let mut archive = tar::Archive::new(from);
        // A directory's time changes with what is written into it: they are set at the end.
        let mut times: BTreeMap<PathBuf, (i64, u32)> = BTreeMap::new();
        for entry in archive.entries().context("the daemon's tar can't be read")? {
            let mut entry = entry.context("the daemon's tar can't be read")?;
            let original = entry.path().context("a path in the daemon's tar can't be read")?.into_owned();
            let Some(path) = self.target(&original)? else { continue };
            self.one(&root, &path, &mut entry)
                .with_context(|| format!("cannot unpack `{}`", self.directory.join(&path).display()))?;
            if entry.header().entry_type() == EntryType::Directory {
                let mode = entry.header().mode().unwrap_or(0o755) & 0o1777;
                let time = i64::try_from(entry.header().mtime().unwrap_or(0)).unwrap_or(0);
                times.insert(path, (time, mode));
            }
        }
        for (path, (time, mode)) in times.iter().rev() {
            let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
            if let Ok(directory) = rustix::fs::openat2(&root, path, flags, Mode::empty(), BENEATH) {
                rustix::fs::fchmod(&directory, Mode::from_raw_mode(*mode))?;
                rustix::fs::futimens(&directory, &both(*time))?;
            }
        }
        Ok(())
    }

    /// Where an entry goes; none: nowhere.
    fn target(&self, original: &Path) -> Result<Option<PathBuf>> {
        let mut parts = Vec::new();
        for part in original.components() {
            match part {
                Component::Normal(name) => parts.push(name),
                // `./file`: what was asked for ended in `/.`, and has no name of its own here.
                Component::CurDir => parts.push(OsStr::new(".")),
                Component::RootDir => {}
                _ => bail!("the daemon's tar has the path `{}`", original.display()),
            }
        }
        if parts.is_empty() {
            return Ok(None);
        }
        if self.strip {
            parts.remove(0);
        } else if let Some(name) = &self.name {
            parts[0] = OsStr::new(name);
        }
        Ok((!parts.is_empty()).then(|| parts.iter().collect()))
    }

    fn one<R: Read>(&self, root: &OwnedFd, path: &Path, entry: &mut tar::Entry<'_, R>) -> Result<()> {
        let parent = open_parent(root, path)?;
        let name = path.file_name().context("it has no name")?;
        let header = entry.header().clone();
        let mode = header.mode().unwrap_or(0o644);
        // A program of the container's that runs as its owner would, here, run as somebody else's.
        let mode = if self.keep_owners { mode & 0o7777 } else { mode & 0o1777 };
        let time = i64::try_from(header.mtime().unwrap_or(0)).unwrap_or(0);
        let (uid, gid) = (number(header.uid()?)?, number(header.gid()?)?);
        match header.entry_type() {
            EntryType::Directory => match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o700)) {
                Ok(()) => {}
                Err(Errno::EXIST) if is_directory(&parent, name) => {}
                Err(Errno::EXIST) => bail!("it is there and no directory"),
                Err(error) => return Err(error.into()),
            },
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                remove_file(&parent, name)?;
                let flags =
                    OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o600))?;
                let mut file = File::from(file);
                std::io::copy(entry, &mut file)?;
                if self.keep_owners {
                    rustix::fs::fchown(
                        &file,
                        Some(rustix::fs::Uid::from_raw(uid)),
                        Some(rustix::fs::Gid::from_raw(gid)),
                    )?;
                }
                rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
                rustix::fs::futimens(&file, &both(time))?;
                return Ok(());
            }
            EntryType::Symlink => {
                let target = entry.link_name()?.context("a link leads nowhere")?.into_owned();
                remove_file(&parent, name)?;
                rustix::fs::symlinkat(&target, &parent, name)?;
                rustix::fs::utimensat(&parent, name, &both(time), AtFlags::SYMLINK_NOFOLLOW)?;
            }
            EntryType::Link => {
                let original = entry.link_name()?.context("a link leads nowhere")?.into_owned();
                let Some(target) = self.target(&original)? else { bail!("a link leads out") };
                let target_parent = open_parent(root, &target)?;
                let target_name = target.file_name().context("a link leads out")?;
                remove_file(&parent, name)?;
                rustix::fs::linkat(&target_parent, target_name, &parent, name, AtFlags::empty())?;
                return Ok(());
            }
            EntryType::Fifo => {
                remove_file(&parent, name)?;
                rustix::fs::mknodat(&parent, name, rustix::fs::FileType::Fifo, Mode::from_raw_mode(mode), 0)?;
            }
            EntryType::Block | EntryType::Char => {
                super::tell(format_args!("`{}` is a device and is left out", path.display()));
                return Ok(());
            }
            // What is told beside files.
            _ => return Ok(()),
        }
        if self.keep_owners {
            let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
            rustix::fs::chownat(&parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        Ok(())
    }
}

const BENEATH: ResolveFlags = ResolveFlags::BENEATH;

fn number(id: u64) -> Result<u32> {
    u32::try_from(id).context("an owner's number is too large")
}

fn both(seconds: i64) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}

/// The directory that a path is in. It must be there: a tar names a directory before what is in it.
fn open_parent(root: &OwnedFd, path: &Path) -> Result<OwnedFd> {
    let parent = path.parent().filter(|p| !p.as_os_str().as_bytes().is_empty()).unwrap_or(Path::new("."));
    let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
    rustix::fs::openat2(root.as_fd(), parent, flags, Mode::empty(), BENEATH)
        .with_context(|| format!("cannot open `{}` without leaving the target", parent.display()))
}

fn is_directory(parent: &OwnedFd, name: &OsStr) -> bool {
    rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|about| rustix::fs::FileType::from_raw_mode(about.st_mode).is_dir())
}

/// Makes room for a file.
fn remove_file(parent: &OwnedFd, name: &OsStr) -> Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR) => bail!("it is there and a directory"),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tar of these entries: a path, what it is, and its content or where it leads.
    fn tar(entries: &[(&str, EntryType, &str)]) -> Vec<u8> {
        let mut out = tar::Builder::new(Vec::new());
        for (path, kind, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o4755);
            header.set_mtime(1_600_000_000);
            header.set_uid(0);
            header.set_gid(0);
            // As is: the crate itself would refuse what a container may well send.
            let name = header.as_gnu_mut().map(|gnu| &mut gnu.name).unwrap();
            name[..path.len()].copy_from_slice(path.as_bytes());
            let data = match kind {
                EntryType::Symlink | EntryType::Link => {
                    header.set_link_name_literal(content).unwrap();
                    ""
                }
                _ => content,
            };
            header.set_size(data.len() as u64);
            header.set_cksum();
            out.append(&header, data.as_bytes()).unwrap();
        }
        out.into_inner().unwrap()
    }

    fn unpack(
        directory: &Path,
        name: Option<&str>,
        strip: bool,
        entries: &[(&str, EntryType, &str)],
    ) -> Result<()> {
        let extraction = Extraction {
            directory: directory.to_owned(),
            name: name.map(str::to_owned),
            strip,
            keep_owners: false,
        };
        extraction.run(tar(entries).as_slice())
    }

    #[test]
    fn files_take_their_new_name_and_lose_what_makes_them_run_as_others() {
        let dir = tempfile::tempdir().unwrap();
        let entries = [
            ("old/", EntryType::Directory, ""),
            ("old/f", EntryType::Regular, "text"),
            ("old/l", EntryType::Symlink, "f"),
            ("old/h", EntryType::Link, "old/f"),
        ];
        unpack(dir.path(), Some("new"), false, &entries).unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("new/l")).unwrap(), "text");
        assert_eq!(std::fs::read_to_string(dir.path().join("new/h")).unwrap(), "text");
        let about = std::fs::metadata(dir.path().join("new/f")).unwrap();
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&about.permissions()) & 0o7777, 0o755);
        unpack(dir.path(), None, true, &entries[..2]).unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("f")).unwrap(), "text");
        unpack(dir.path(), Some("new"), false, &entries[..2]).unwrap();
        let contents = [("./", EntryType::Directory, ""), ("./k", EntryType::Regular, "kept")];
        unpack(dir.path(), None, true, &contents).unwrap();
        unpack(dir.path(), Some("other"), false, &contents).unwrap();
        assert!(dir.path().join("k").exists() && dir.path().join("other/k").exists());
    }

    #[test]
    fn nothing_is_written_outside() {
        let outside = tempfile::tempdir().unwrap();
        let there = outside.path().to_str().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let escapes: [&[(&str, EntryType, &str)]; 4] = [
            &[("l", EntryType::Symlink, there), ("l/evil", EntryType::Regular, "x")],
            &[
                ("d/", EntryType::Directory, ""),
                ("d/l", EntryType::Symlink, "../.."),
                ("d/l/evil", EntryType::Regular, "x"),
            ],
            &[("../evil", EntryType::Regular, "x")],
            &[("h", EntryType::Link, "../evil")],
        ];
        for entries in escapes {
            assert!(unpack(dir.path(), None, false, entries).is_err(), "{entries:?}");
        }
        // A file that takes a link's place is written beside what the link led to.
        std::fs::write(outside.path().join("kept"), "kept").unwrap();
        let kept = outside.path().join("kept");
        let entries = [("l", EntryType::Symlink, kept.to_str().unwrap()), ("l", EntryType::Regular, "mine")];
        unpack(dir.path(), None, false, &entries).unwrap();
        assert_eq!(std::fs::read_to_string(kept).unwrap(), "kept");
        assert!(!outside.path().join("evil").exists() && !dir.path().parent().unwrap().join("evil").exists());
    }
}
