//! Copying files out of and into containers, as archives. Paths are the container's: links in them lead where they lead
//! inside, and nowhere else.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags, Stat};
use sampan_base::{Class, Timestamp};
use sampan_image::tar::{Kind, Member, Mtime, Writer};
use sampan_image::{ExtractOptions, IdMapping};
use sampan_kernel::beneath::{self, RootDir};

use crate::error::{EngineError, Result};
use crate::rootfs::{FileSystem, path_error, real_path, stat_in};
use crate::spec::{MountSource, MountSpec};
use crate::{Engine, long_blocking, user};

/// The only extended attribute that is copied out: others are labels of this host.
const CAPABILITY: &str = "security.capability";
/// Directories nested deeper are not copied: the walk holds a descriptor for each.
const MAX_DEPTH: usize = 200;

/// What is at a path of a container.
#[derive(Clone, Debug, PartialEq)]
pub struct PathStat {
    /// The last name of the path as it was asked for.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Kind and permissions, as `st_mode` has them.
    pub mode: u32,
    /// When the content was last changed.
    pub changed: Timestamp,
    /// Where a link leads, absolute; empty if it is none.
    pub link_target: String,
}

/// How files are copied in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopyIn {
    /// A directory is not replaced by something else, nor something else by a directory.
    pub keep_kinds: bool,
    /// What is copied in belongs to the container's user.
    pub as_user: bool,
}

/// A thing to be copied out.
#[derive(Debug)]
pub struct CopyOut {
    /// What it is.
    pub stat: PathStat,
    system: FileSystem,
    /// Where it is, links on the way resolved.
    at: PathBuf,
    /// How its entries begin in the archive.
    rename: String,
    mapping: Option<IdMapping>,
}

/// A path of a container as a client gave it.
struct Asked {
    /// Absolute, `..` resolved, and with the `/` or `/.` at its end that it had.
    path: String,
    /// Its last name; `/` and `.` stay what they are.
    base: String,
}

impl Asked {
    fn parse(text: &str) -> Result<Asked> {
        if text.is_empty() {
            return Err(EngineError::Invalid("bad parameter: path cannot be empty".to_owned()));
        }
        if text.contains('\0') {
            return Err(EngineError::Invalid("bad parameter: the path has a NUL byte".to_owned()));
        }
        let mut parts: Vec<&str> = Vec::new();
        for part in text.split('/') {
            match part {
                "" | "." => {}
                ".." => drop(parts.pop()),
                part => parts.push(part),
            }
        }
        let mut path = format!("/{}", parts.join("/"));
        let mut base = parts.last().map_or("/", |p| *p).to_owned();
        if text.ends_with("/.") || text == "." {
            path = format!("{}/.", path.trim_end_matches('/'));
            ".".clone_into(&mut base);
        } else if text.ends_with('/') && path != "/" {
            path.push('/');
        }
        Ok(Asked { path, base })
    }

    /// Whether it can only be a directory.
    fn wants_directory(&self) -> bool {
        self.path.ends_with('/') || self.path.ends_with("/.")
    }
}

impl Engine {
    /// What is at `path` of a container.
    ///
    /// # Errors
    /// If there is no such container, or nothing there.
    pub async fn path_stat(&self, container: &str, path: &str) -> Result<PathStat> {
        Ok(self.copy_out(container, path).await?.stat)
    }

    /// Finds what is to be copied out.
    ///
    /// # Errors
    /// As [`Engine::path_stat`].
    pub async fn copy_out(&self, container: &str, path: &str) -> Result<CopyOut> {
        let asked = Asked::parse(path)?;
        let (view, system) = self.file_system(container).await?;
        let mapping = view.record.mapping.clone();
        let container = container.to_owned();
        long_blocking(move || find(system, asked, mapping, &container)).await
    }

    /// Unpacks an archive, bare or packed, into the directory `path` of a container.
    ///
    /// # Errors
    /// If there is no such container or directory, it is read-only, or the archive is damaged or hostile.
    pub async fn copy_in(
        &self,
        container: &str,
        path: &str,
        how: CopyIn,
        mut archive: Box<dyn Read + Send>,
    ) -> Result<()> {
        let asked = Asked::parse(path)?;
        let (view, system) = self.file_system(container).await?;
        let mapping = view.record.mapping.clone();
        let (spec, name) = (view.record.spec, container.to_owned());
        let (inner, image_id) = (Arc::clone(&self.inner), view.record.image_id);
        long_blocking(move || {
            let FileSystem { root, .. } = &system;
            let at = real_path(root, Path::new(&asked.path), true)?;
            let stat = root.stat(&at).map_err(|e| not_found(&asked.path, &name, e))?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                return Err(EngineError::Invalid("extraction point is not a directory".to_owned()));
            }
            check_writable(&at, &spec.mounts, spec.security.read_only_root)?;
            let mut options =
                ExtractOptions { keep_kinds: how.keep_kinds, mapping, ..ExtractOptions::default() };
            if how.as_user {
                let text = match &spec.user {
                    Some(user) => user.clone(),
                    None => inner.images.resolve_id(&image_id)?.config.config.user,
                };
                if !text.is_empty() {
                    let user = user::resolve_in(root, &text, &[])?;
                    options.owner = Some((user.uid, user.gid));
                }
            }
            let own = RootDir::open(&beneath::path_in(root, OsStr::new("")))
                .map_err(EngineError::io("cannot open the container's file system"))?;
            sampan_image::extract_with(&mut *archive, own, &at, &options)
                .map_err(|e| EngineError::layer(e.class(), "cannot copy into the container")(e))
        })
        .await
    }
}

fn not_found(path: &str, container: &str, error: io::Error) -> EngineError {
    if error.kind() == io::ErrorKind::NotFound {
        return EngineError::NoSuchPath { path: path.to_owned(), container: container.to_owned() };
    }
    path_error(format!("cannot look at {path}"), error)
}

/// Whether what is at a path may be written: as the container itself may.
fn check_writable(at: &Path, mounts: &[MountSpec], read_only_root: bool) -> Result<()> {
    let full = Path::new("/").join(at);
    let covering = mounts.iter().filter(|m| full.starts_with(&m.target)).max_by_key(|m| m.target.len());
    let forbidden = |what: &str| {
        Err(EngineError::layer(Class::Forbidden, what.to_owned())(io::Error::from(
            io::ErrorKind::ReadOnlyFilesystem,
        )))
    };
    match covering {
        Some(mount) if mount.read_only => forbidden("mounted volume is marked read-only"),
        Some(MountSpec { source: MountSource::Image { .. }, .. }) => {
            forbidden("mounted volume is marked read-only")
        }
        None if read_only_root => forbidden("container rootfs is marked read-only"),
        _ => Ok(()),
    }
}

fn find(system: FileSystem, asked: Asked, mapping: Option<IdMapping>, container: &str) -> Result<CopyOut> {
    let root = &system.root;
    let follow = asked.wants_directory();
    let at = real_path(root, Path::new(&asked.path), follow)?;
    let stat = root.stat(&at).map_err(|e| not_found(&asked.path, container, e))?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if follow && kind != FileType::Directory {
        let error = io::Error::from(io::ErrorKind::NotADirectory);
        return Err(path_error(format!("cannot look at {}", asked.path), error));
    }
    let link_target = match kind {
        FileType::Symlink => {
            let real = real_path(root, Path::new(&asked.path), true)?;
            Path::new("/").join(real).display().to_string()
        }
        _ => String::new(),
    };
    let nanos = i32::try_from(stat.st_mtime_nsec).unwrap_or(0);
    let changed = Timestamp::from_unix(stat.st_mtime, nanos).unwrap_or_else(|_| Timestamp::now());
    let stat = PathStat {
        name: asked.base.clone(),
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mode: stat.st_mode,
        changed,
        link_target,
    };
    Ok(CopyOut { stat, system, at, rename: asked.base, mapping })
}

impl CopyOut {
    /// Writes the archive.
    ///
    /// # Errors
    /// If something can't be read, or `output` fails.
    pub async fn write(self, output: Box<dyn Write + Send>) -> Result<()> {
        long_blocking(move || {
            let failed = || EngineError::io("cannot copy out of the container");
            let mut walk =
                Walk { writer: Writer::new(output), links: HashMap::new(), mapping: self.mapping.as_ref() };
            let name = self.rename.trim_end_matches('/');
            let parent = self.at.parent().unwrap_or(Path::new(""));
            match self.at.file_name() {
                Some(last) => {
                    let parent = self.system.root.directory(parent).map_err(failed())?;
                    walk.entry(parent.as_fd(), last, name.as_bytes().to_vec(), 0).map_err(failed())?;
                }
                // The root itself.
                None => {
                    let root = self.system.root.as_fd();
                    walk.entry(root, OsStr::new("."), name.as_bytes().to_vec(), 0).map_err(failed())?;
                }
            }
            walk.writer.finish().map_err(failed())?;
            Ok(())
        })
        .await
    }
}

struct Walk<'a, W: Write> {
    writer: Writer<W>,
    /// Where a file of several names was first.
    links: HashMap<(u64, u64), Vec<u8>>,
    mapping: Option<&'a IdMapping>,
}

impl<W: Write> Walk<'_, W> {
    fn entry(&mut self, parent: impl AsFd, name: &OsStr, path: Vec<u8>, depth: usize) -> io::Result<()> {
        let stat = match stat_in(&parent, name) {
            // It went while its directory was read.
            Err(e) if e.kind() == io::ErrorKind::NotFound && depth > 0 => return Ok(()),
            other => other?,
        };
        let mut member = self.member(&stat, path);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let directory = rustix::fs::openat(&parent, name, flags, Mode::empty())?;
                member.kind = Kind::Directory;
                self.append(&member, &mut io::empty())?;
                if depth >= MAX_DEPTH {
                    return Err(io::Error::other("directories are nested too deep"));
                }
                for inner in beneath::sorted_names(&directory)? {
                    let mut path = member.path.clone();
                    path.push(b'/');
                    path.extend_from_slice(inner.as_bytes());
                    self.entry(directory.as_fd(), &inner, path, depth + 1)?;
                }
                return Ok(());
            }
            FileType::RegularFile => {
                let identity = (stat.st_dev, stat.st_ino);
                if let Some(first) = self.links.get(&identity) {
                    member.kind = Kind::HardLink { target: first.clone() };
                    return self.append(&member, &mut io::empty());
                }
                if stat.st_nlink > 1 {
                    self.links.insert(identity, member.path.clone());
                }
                // It may have become something else: a fifo does not block, and is refused.
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let file = rustix::fs::openat(&parent, name, flags, Mode::empty())?;
                let now = rustix::fs::fstat(&file)?;
                if (now.st_dev, now.st_ino) != identity {
                    return Err(io::Error::other("a file was replaced while it was read"));
                }
                let value = beneath::xattr(&parent, name, OsStr::new(CAPABILITY)).ok().flatten();
                let value = value.map(|value| match self.mapping {
                    Some(mapping) => mapping.capability_to_image(value),
                    None => value,
                });
                member.xattrs.extend(value.map(|value| (CAPABILITY.as_bytes().to_vec(), value)));
                let size = u64::try_from(now.st_size).unwrap_or(0);
                member.kind = Kind::File { size, pieces: None };
                return self.append(&member, &mut std::fs::File::from(file));
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&parent, name, Vec::new())?;
                member.kind = Kind::Symlink { target: target.into_bytes() };
            }
            FileType::CharacterDevice => {
                let (major, minor) = numbers(&stat);
                member.kind = Kind::CharDevice { major, minor };
            }
            FileType::BlockDevice => {
                let (major, minor) = numbers(&stat);
                member.kind = Kind::BlockDevice { major, minor };
            }
            FileType::Fifo => member.kind = Kind::Fifo,
            // A socket can't be in an archive.
            _ => return Ok(()),
        }
        self.append(&member, &mut io::empty())
    }

    fn append(&mut self, member: &Member, content: &mut dyn Read) -> io::Result<()> {
        if member.path.is_empty() {
            // The root's own entry has no other name than this.
            return self.writer.append(&Member { path: b"/".to_vec(), ..member.clone() }, content);
        }
        self.writer.append(member, content)
    }

    fn member(&self, stat: &Stat, path: Vec<u8>) -> Member {
        let (uid, gid) = match self.mapping {
            Some(mapping) => mapping.to_image(stat.st_uid, stat.st_gid),
            None => (stat.st_uid, stat.st_gid),
        };
        let nanoseconds = u32::try_from(stat.st_mtime_nsec).unwrap_or(0);
        Member {
            path: OsString::from_vec(path).into_vec(),
            kind: Kind::Fifo,
            mode: stat.st_mode & 0o7777,
            uid,
            gid,
            mtime: Mtime { seconds: stat.st_mtime, nanoseconds },
            xattrs: Vec::new(),
        }
    }
}

fn numbers(stat: &Stat) -> (u32, u32) {
    (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_keep_what_their_end_says() {
        let parse = |text: &str| {
            Asked::parse(text).map(|a| format!("{} {}", a.path, a.base)).map_err(|e| e.to_string())
        };
        for (text, expected) in [
            ("/etc", "/etc etc"),
            ("etc/", "/etc/ etc"),
            ("/etc/.", "/etc/. ."),
            ("/", "/ /"),
            ("/..//../a/../etc", "/etc etc"),
            (".", "/. ."),
        ] {
            assert_eq!(parse(text).unwrap(), expected, "{text}");
        }
        assert!(parse("").is_err() && parse("a\0b").is_err());
    }

    #[test]
    fn what_is_read_only_inside_is_so_from_outside() {
        let mount = |target: &str, read_only| MountSpec {
            read_only,
            ..MountSpec::new(MountSource::bind("/x"), target)
        };
        let mounts = [mount("/data", true), mount("/data/own", false)];
        let check = |at: &str, root| check_writable(Path::new(at), &mounts, root).is_ok();
        assert!(check("etc", false) && !check("etc", true));
        assert!(!check("data/x", false) && check("data/own/x", true) && check("database", false));
    }
}
