//! Applies a layer: a tar's entries become files beneath one directory.
//!
//! Never trusts the tar: each entry's parent is resolved beneath the directory's descriptor (`openat2`, in root),
//! its last name is acted on without following a link, and entries and bytes are bounded by [`crate::limits`].
//!
//! The layers below are only read, and may still be on their way ([`Lower`]). A hard link to a file below brings that
//! file up at once, and waits for them; the rest that needs them comes last, in [`Unfinished::finish`]: a directory that
//! the tar does not describe but needs looks as it does below, and what is deleted there gets its mark.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::{self, BufRead, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use sampan_kernel::beneath::{self, RootDir};

use super::below::{copy_up, look_as_below};
pub use super::error::{ApplyError, EntryError};
use super::place::{Place, hide, on, on_io, refine, replacing, set_opaque, stat, timestamps};
use super::{CAPABILITY, OPAQUE, WHITEOUT, WHITEOUT_META};
use crate::limits;
use crate::tar::{Kind, Member, Mtime, Reader, TarError};

/// What was applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Applied {
    /// How many bytes the files have together; hard links count once, holes not.
    pub(crate) bytes: u64,
}

/// The layers below one that is applied; perhaps they are still on their way.
pub(crate) trait Lower: Sync {
    /// Whether there are none.
    fn is_empty(&self) -> bool;
    /// Their directories, the nearest first. Waits for those that are on their way.
    fn directories(&self) -> io::Result<Vec<PathBuf>>;
}

impl Lower for Vec<PathBuf> {
    fn is_empty(&self) -> bool {
        Vec::is_empty(self)
    }

    fn directories(&self) -> io::Result<Vec<PathBuf>> {
        Ok(self.clone())
    }
}

/// Applies the tar `input` to the empty directory `target`, which lies on top of `lower`. Reads `input` to its end,
/// padding after the archive included.
///
/// # Errors
/// If the archive is damaged or hostile or the file system refuses; `target` then holds a part of the layer.
pub(crate) fn apply<'a>(
    input: &mut dyn BufRead,
    target: &Path,
    lower: &'a dyn Lower,
) -> Result<Unfinished<'a>, ApplyError> {
    let mut applier = Applier::new(open(target)?, lower, true);
    applier.umask = umask();
    run(input, &mut applier, Ok)?;
    Ok(Unfinished(applier))
}

/// Reads the tar `input` as [`apply`] does, and makes nothing of it.
///
/// # Errors
/// If the archive is damaged.
pub(crate) fn measure(input: &mut dyn BufRead) -> Result<Applied, ApplyError> {
    let mut bytes = 0;
    each_member(input, |member, _, _| {
        bytes += member.stored_bytes();
        Ok(bytes)
    })?;
    Ok(Applied { bytes })
}

/// Unpacks the tar `input`, bare or packed, into the directory `under` of the file system mounted at `rootfs`: what
/// `ADD` of a local archive does. Entries named like whiteouts are plain files.
///
/// # Errors
/// If the archive is damaged or hostile or the file system refuses; a part may be unpacked then.
pub fn extract(input: &mut dyn Read, rootfs: &Path, under: &Path) -> Result<(), ApplyError> {
    extract_with(input, open(rootfs)?, under, &ExtractOptions::default())
}

/// How an archive is unpacked into a file system that is in use.
#[derive(Clone, Debug, Default)]
pub struct ExtractOptions {
    /// A directory is not replaced by something else, nor something else by a directory.
    pub keep_kinds: bool,
    /// Who owns what is unpacked, instead of whom the archive says.
    pub owner: Option<(u32, u32)>,
    /// The ids of the archive are those of this user namespace.
    pub mapping: Option<crate::IdMapping>,
    /// Ids that the mapping does not have become nobody's, instead of being refused.
    pub unmapped_to_nobody: bool,
}

impl ExtractOptions {
    /// A member with the ids of the host.
    fn map(&self, mut member: Member) -> Result<Member, EntryError> {
        let Some(mapping) = &self.mapping else { return Ok(member) };
        (member.uid, member.gid) = match mapping.to_host(member.uid, member.gid) {
            (Some(uid), Some(gid)) => (uid, gid),
            _ if self.unmapped_to_nobody => mapping.to_host_or_nobody(member.uid, member.gid),
            (None, _) => return Err(EntryError::Unmapped { id: member.uid }),
            (_, None) => return Err(EntryError::Unmapped { id: member.gid }),
        };
        for (key, value) in &mut member.xattrs {
            if key == CAPABILITY.as_bytes() {
                *value = mapping.capability_to_host(std::mem::take(value));
            }
        }
        Ok(member)
    }
}

/// As [`extract`], into the tree `root`.
///
/// # Errors
/// As [`extract`].
pub fn extract_with(
    input: &mut dyn Read,
    root: RootDir,
    under: &Path,
    options: &ExtractOptions,
) -> Result<(), ApplyError> {
    let unpacked = crate::compression::unpacked(input);
    let input = unpacked.map_err(|source| ApplyError::Archive { source: TarError::Read { source } })?;
    let inside = |raw: &[u8]| -> Result<Vec<u8>, EntryError> {
        Ok(under.join(clean_path(raw)?).into_os_string().into_vec())
    };
    let nothing = Vec::new();
    let mut applier = Applier::new(root, &nothing, false);
    applier.keep_kinds = options.keep_kinds;
    run(&mut io::BufReader::with_capacity(128 * 1024, input), &mut applier, |mut member| {
        member.path = inside(&member.path)?;
        if let Kind::HardLink { target } = &mut member.kind {
            *target = inside(target)?;
        }
        if let Some((uid, gid)) = options.owner {
            (member.uid, member.gid) = (uid, gid);
        }
        options.map(member)
    })?;
    Unfinished(applier).finish()?;
    Ok(())
}

pub(crate) fn open(path: &Path) -> Result<RootDir, ApplyError> {
    RootDir::open(path).map_err(|source| ApplyError::Target { path: path.to_owned(), source })
}

pub(super) fn run(
    input: &mut dyn BufRead,
    applier: &mut Applier<'_>,
    adjust: impl Fn(Member) -> Result<Member, EntryError>,
) -> Result<(), ApplyError> {
    each_member(input, |member, path, reader| {
        let applied = adjust(member).and_then(|member| applier.member(&member, reader));
        applied.map_err(|source| ApplyError::Entry { path: path(), source })?;
        Ok(applier.bytes)
    })
}

/// What an entry is called in an error.
pub(super) type Shown<'a> = &'a dyn Fn() -> String;

/// Reads an archive to the end of `input`. `each` answers how many bytes the files have so far.
pub(super) fn each_member(
    input: &mut dyn BufRead,
    mut each: impl FnMut(Member, Shown<'_>, &mut Reader<&mut dyn BufRead>) -> Result<u64, ApplyError>,
) -> Result<(), ApplyError> {
    let archive = |source| ApplyError::Archive { source };
    let mut reader = Reader::new(input);
    let (mut entries, mut bytes) = (0u64, 0u64);
    while let Some(member) = reader.next_member().map_err(archive)? {
        entries += 1;
        if entries > limits::MAX_LAYER_ENTRIES {
            return Err(ApplyError::Limit { what: "entries", limit: limits::MAX_LAYER_ENTRIES });
        }
        if bytes.saturating_add(member.stored_bytes()) > limits::MAX_LAYER_BYTES {
            return Err(ApplyError::Limit { what: "bytes", limit: limits::MAX_LAYER_BYTES });
        }
        let name = member.path[..member.path.len().min(200)].to_vec();
        bytes = each(member, &|| String::from_utf8_lossy(&name).into_owned(), &mut reader)?;
    }
    let rest = reader.into_inner();
    io::copy(rest, &mut io::sink()).map_err(|source| archive(TarError::Read { source }))?;
    Ok(())
}

/// A path inside the root, made from what an archive says: no `..`, no empty names, relative.
pub(crate) fn clean_path(raw: &[u8]) -> Result<PathBuf, EntryError> {
    if raw.len() > limits::MAX_PATH_BYTES {
        return Err(EntryError::BadPath { why: "it is too long" });
    }
    let mut names: Vec<&[u8]> = Vec::new();
    for name in raw.split(|b| *b == b'/') {
        match name {
            b"" | b"." => {}
            b".." => {
                names.pop().ok_or(EntryError::EscapesRoot)?;
            }
            name if name.contains(&0) => return Err(EntryError::BadPath { why: "it has a NUL byte" }),
            name => names.push(name),
        }
    }
    if names.len() > limits::MAX_PATH_DEPTH {
        return Err(EntryError::BadPath { why: "it is too deep" });
    }
    Ok(names.into_iter().map(OsStr::from_bytes).collect())
}

pub(super) struct Applier<'a> {
    root: RootDir,
    lower: &'a dyn Lower,
    /// `lower`, once it was waited for.
    below: Option<Vec<RootDir>>,
    /// The parent directory of the last entry: the next one is mostly in the same.
    parent: Option<Parent>,
    /// Directories and the times that they get when nothing is created in them any more.
    directories: Vec<(PathBuf, Mtime)>,
    /// Directories that the archive has not described (yet).
    implied: BTreeSet<PathBuf>,
    /// What is deleted of the layers below.
    hidden: BTreeSet<PathBuf>,
    /// Whether all that they have is deleted.
    hides_root: bool,
    bytes: u64,
    /// Whether names that mark deletions do so.
    whiteouts: bool,
    /// See [`ExtractOptions::keep_kinds`].
    keep_kinds: bool,
    /// The bits that creating clears, if nothing else can change what is created.
    umask: Option<u32>,
}

struct Parent {
    path: PathBuf,
    fd: OwnedFd,
    /// See [`Place`].
    umask: Option<u32>,
}

/// A layer all of whose own files are there; what depends on the layers below is not.
pub(crate) struct Unfinished<'a>(Applier<'a>);

impl<'a> Applier<'a> {
    pub(super) fn new(root: RootDir, lower: &'a dyn Lower, whiteouts: bool) -> Applier<'a> {
        Applier {
            root,
            lower,
            below: None,
            parent: None,
            directories: Vec::new(),
            implied: BTreeSet::new(),
            hidden: BTreeSet::new(),
            hides_root: false,
            bytes: 0,
            whiteouts,
            keep_kinds: false,
            umask: None,
        }
    }

    /// The directories that the archive described so far.
    pub(super) fn described(&self) -> impl Iterator<Item = &Path> {
        self.directories.iter().map(|(path, _)| path.as_path())
    }

    fn member(&mut self, member: &Member, content: &mut impl BufRead) -> Result<(), EntryError> {
        let path = clean_path(&member.path)?;
        // An access list of a directory can be inherited by what is created in it from now on.
        if member.xattrs.iter().any(|(key, _)| key.starts_with(b"system.")) {
            self.umask = None;
            self.parent = None;
        }
        let Some(name) = path.file_name() else {
            // The root itself.
            return if member.kind == Kind::Directory {
                Place { fd: self.root.as_fd(), umask: None }.attributes(OsStr::new("."), member)?;
                self.implied.remove(Path::new(""));
                self.parent = None;
                self.directories.push((PathBuf::new(), member.mtime));
                Ok(())
            } else {
                Err(EntryError::BadPath { why: "it is the root, but not a directory" })
            };
        };
        let parent_path = path.parent().unwrap_or(Path::new(""));
        if self.whiteouts && name.as_bytes().starts_with(WHITEOUT) {
            return self.whiteout(parent_path, name);
        }
        let parent = self.enter(parent_path)?;
        let place = Place { fd: parent.fd.as_fd(), umask: parent.umask };
        if self.keep_kinds
            && let Ok(there) = stat(place.fd, name)
        {
            let was_directory = FileType::from_raw_mode(there.st_mode) == FileType::Directory;
            if was_directory != (member.kind == Kind::Directory) {
                return Err(EntryError::OtherKind { was_directory });
            }
        }
        match &member.kind {
            Kind::Directory => {
                place.directory(name, member)?;
                self.implied.remove(&path);
                self.directories.push((path.clone(), member.mtime));
            }
            Kind::File { size, pieces } => place.file(name, member, *size, pieces.as_deref(), content)?,
            Kind::HardLink { target } => {
                let target = clean_path(target)?;
                self.hard_link(&place, name, &target)?;
            }
            Kind::Symlink { target } => place.symlink(name, member, OsStr::from_bytes(target))?,
            Kind::CharDevice { major, minor } => {
                place.node(name, member, FileType::CharacterDevice, (*major, *minor))?;
            }
            Kind::BlockDevice { major, minor } => {
                place.node(name, member, FileType::BlockDevice, (*major, *minor))?;
            }
            Kind::Fifo => place.node(name, member, FileType::Fifo, (0, 0))?,
        }
        self.bytes += member.stored_bytes();
        self.parent = Some(parent);
        Ok(())
    }

    /// The directory `path`; what is missing of it is made, to look as it does below in the end.
    fn enter(&mut self, path: &Path) -> Result<Parent, EntryError> {
        if let Some(parent) = self.parent.take().filter(|p| p.path == path) {
            return Ok(parent);
        }
        let fd = match self.root.directory(path) {
            Ok(fd) => fd,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let mut at = PathBuf::new();
                for name in path {
                    let parent = self.root.directory(&at).map_err(on_io("open the parent directory"))?;
                    at.push(name);
                    match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
                        Err(Errno::EXIST) => {}
                        other => {
                            other.map_err(on("create the parent directory"))?;
                            rustix::fs::chmodat(&parent, name, Mode::from_raw_mode(0o755), AtFlags::empty())
                                .map_err(on("set the mode"))?;
                            self.implied.insert(at.clone());
                        }
                    }
                }
                self.root.directory(path).map_err(on_io("open the parent directory"))?
            }
            Err(e) => return Err(on_io("open the parent directory")(e)),
        };
        let umask = match self.umask {
            // A directory with setgid gives its group to what is created in it.
            Some(mask) => {
                let stat = rustix::fs::fstat(&fd).map_err(on("look at the parent directory"))?;
                Some(mask).filter(|_| stat.st_mode & 0o2000 == 0)
            }
            None => None,
        };
        Ok(Parent { path: path.to_owned(), fd, umask })
    }

    /// The layers below, waited for.
    fn below(&mut self) -> Result<&[RootDir], EntryError> {
        let below = match self.below.take() {
            Some(below) => below,
            None => {
                let missing = |source| EntryError::Below { source };
                let directories = self.lower.directories().map_err(missing)?;
                directories.iter().map(|d| RootDir::open(d)).collect::<Result<_, _>>().map_err(missing)?
            }
        };
        Ok(self.below.insert(below))
    }

    fn hard_link(&mut self, place: &Place<'_>, name: &OsStr, target: &Path) -> Result<(), EntryError> {
        let missing = || EntryError::HardLinkTargetMissing { target: target.display().to_string() };
        let target_name = target.file_name().ok_or_else(missing)?;
        let target_parent_path = target.parent().unwrap_or(Path::new(""));
        let here = self.root.directory(target_parent_path).ok().filter(|p| stat(p, target_name).is_ok());
        let target_parent = match here {
            Some(target_parent) => target_parent,
            None if self.lower.is_empty() => return Err(missing()),
            None => {
                self.below()?;
                let below = self.below.as_deref().unwrap_or_default();
                let (parent, made) = copy_up(&self.root, below, target)?.ok_or_else(missing)?;
                self.directories.extend(made);
                parent
            }
        };
        let same = |a: Stat, b: Stat| (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino);
        if let (Ok(a), Ok(b)) = (stat(&target_parent, target_name), stat(place.fd, name))
            && same(a, b)
        {
            return Ok(());
        }
        replacing(place.fd, name, || {
            rustix::fs::linkat(&target_parent, target_name, place.fd, name, AtFlags::empty())
        })
        .map_err(|e| refine(e, "create the hard link"))
    }

    /// `.wh.NAME` deletes what the layers below have; `.wh..wh..opq` all that they have in its directory.
    fn whiteout(&mut self, parent_path: &Path, name: &OsStr) -> Result<(), EntryError> {
        let hidden = OsStr::from_bytes(&name.as_bytes()[WHITEOUT.len()..]);
        let meta = name.as_bytes().starts_with(WHITEOUT_META);
        if !meta && matches!(hidden.as_bytes(), b"" | b"." | b"..") {
            return Err(EntryError::BadPath { why: "it is a whiteout of nothing" });
        }
        if self.lower.is_empty() || (meta && name.as_bytes() != OPAQUE) {
            return Ok(());
        }
        if !meta {
            self.hidden.insert(parent_path.join(hidden));
            return Ok(());
        }
        self.parent = Some(self.enter(parent_path)?);
        match parent_path.file_name() {
            // The root of a layer can't be opaque for overlayfs, so what is below is deleted by name.
            None => {
                self.hides_root = true;
                Ok(())
            }
            Some(name) => {
                let above = parent_path.parent().unwrap_or(Path::new(""));
                let above = self.root.directory(above).map_err(on_io("open the parent directory"))?;
                set_opaque(above.as_fd(), name)
            }
        }
    }

    /// Makes the marks of what is deleted below; what is not there needs none, and would show up as a name of nothing.
    fn hide_all(&mut self) -> Result<(), EntryError> {
        if self.hides_root {
            self.below()?;
            for layer in self.below.as_deref().unwrap_or_default() {
                for name in beneath::sorted_names(layer).map_err(on_io("list the layer below"))? {
                    hide(self.root.as_fd(), &name)?;
                }
            }
        }
        for path in std::mem::take(&mut self.hidden) {
            if !self.below()?.iter().any(|layer| layer.stat(&path).is_ok()) {
                continue;
            }
            let (Some(parent_path), Some(name)) = (path.parent(), path.file_name()) else { continue };
            let parent = match self.enter(parent_path) {
                // What it lay in is deleted, too, or is no directory any more.
                Err(EntryError::Kernel { source, .. }) if source.kind() == io::ErrorKind::NotADirectory => {
                    continue;
                }
                other => other?,
            };
            hide(parent.fd.as_fd(), name)?;
            // Deleted and needed anew: nothing of the old one, not even its looks.
            let anew = self.implied.range(path.clone()..).take_while(|p| p.starts_with(&path));
            for implied in anew.cloned().collect::<Vec<_>>() {
                self.implied.remove(&implied);
            }
            self.parent = Some(parent);
        }
        Ok(())
    }
}

impl<'a> Unfinished<'a> {
    pub(super) fn of(applier: Applier<'a>) -> Unfinished<'a> {
        Unfinished(applier)
    }

    /// Does what needs the layers below, and waits for them if there is something.
    ///
    /// # Errors
    /// If the file system refuses, or a layer below is missing.
    pub(crate) fn finish(self) -> Result<Applied, ApplyError> {
        let mut applier = self.0;
        let entry = |path: &Path| {
            let path = path.display().to_string();
            move |source| ApplyError::Entry { path, source }
        };
        applier.hide_all().map_err(entry(Path::new("")))?;
        applier.parent = None;
        for path in std::mem::take(&mut applier.implied) {
            let mut mtime = None;
            if !applier.lower.is_empty() {
                applier.below().map_err(entry(&path))?;
                let below = applier.below.as_deref().unwrap_or_default();
                mtime = look_as_below(&applier.root, below, &path).map_err(entry(&path))?;
            }
            // One of which nobody knows the time has the same in each store.
            if applier.whiteouts {
                applier.directories.push((path, mtime.unwrap_or_default()));
            }
        }
        // In order: a directory that came twice ends with its last time. Those that vanished meanwhile are no error.
        for (path, mtime) in &applier.directories {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY;
            if let Ok(directory) = applier.root.open_at(path, flags, Mode::empty()) {
                rustix::fs::utimensat(&directory, c".", &timestamps(*mtime), AtFlags::empty())
                    .map_err(on("set the time"))
                    .map_err(entry(path))?;
            }
        }
        Ok(Applied { bytes: applier.bytes })
    }

    /// The root itself looks as the layer below's, unless the archive describes it.
    pub(crate) fn with_root_as_below(mut self) -> Self {
        if !self.0.directories.iter().any(|(path, _)| path.as_os_str().is_empty()) {
            self.0.implied.insert(PathBuf::new());
        }
        self
    }
}

/// The process's file mode mask; `None` if it can't be told.
fn umask() -> Option<u32> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let mask = status.lines().find_map(|line| line.strip_prefix("Umask:"))?;
    u32::from_str_radix(mask.trim(), 8).ok()
}
