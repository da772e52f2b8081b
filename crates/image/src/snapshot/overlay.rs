//! One overlay mount: by the new mount API where the kernel takes the lower directories one by one (6.8), so that
//! neither their number nor the length of their paths matters; by `mount(2)` and its one page of options elsewhere.

use std::ffi::CString;
use std::fmt::Write as _;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, UnmountFlags};

/// What to mount.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Overlay {
    /// The read-only directories, the uppermost first.
    pub(crate) lower: Vec<PathBuf>,
    /// Where changes go.
    pub(crate) upper: PathBuf,
    /// overlayfs's own, empty, beside `upper`.
    pub(crate) work: PathBuf,
    /// Leave out syncing: what a crash leaves of `upper` is thrown away anyway.
    pub(crate) volatile: bool,
}

/// Options that our diff relies on: a rename makes a copy (no redirects), a copy has its data (no metacopy), and
/// `upper` can become a lower directory later (no index). A kernel that lacks one behaves as if it were off.
const PLAIN: [(&str, &str); 3] = [("index", "off"), ("metacopy", "off"), ("redirect_dir", "off")];

/// `mount(2)` takes one page of options.
const MAX_MOUNT_OPTIONS_BYTES: usize = 4096;

/// This kernel's overlayfs has been found to know `mount(2)` alone.
static ONLY_OLD: AtomicBool = AtomicBool::new(false);

/// The kernel refuses longer values in `fsconfig(2)`.
const MAX_FSCONFIG_BYTES: usize = 255;

impl Overlay {
    /// Mounts it at `at`.
    ///
    /// # Errors
    /// If the kernel refuses; its own words are part of the error where it has any.
    pub(crate) fn mount(&self, at: &Path) -> io::Result<()> {
        let short = |p: &PathBuf| p.as_os_str().len() <= MAX_FSCONFIG_BYTES;
        let fits = short(&self.upper) && short(&self.work) && self.lower.iter().all(short);
        if !fits || ONLY_OLD.load(Ordering::Relaxed) {
            return self.mount_old(at);
        }
        match self.mount_new(at) {
            Ok(()) => Ok(()),
            // ENOSYS: no fsopen(2). EINVAL: no `lowerdir+`, as overlayfs says at once since 6.5; before, the kernel takes
            // any words for it and overlayfs refuses them all together.
            Err(Refused { errno: Errno::INVAL | Errno::NOSYS, log }) if log.is_empty() => {
                self.mount_old(at)?;
                ONLY_OLD.store(true, Ordering::Relaxed);
                Ok(())
            }
            Err(refused) => Err(refused.into_error()),
        }
    }

    fn mount_new(&self, at: &Path) -> Result<(), Refused> {
        let early = |errno| Refused { errno, log: String::new() };
        let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(early)?;
        for lower in &self.lower {
            rustix::mount::fsconfig_set_string(&context, "lowerdir+", lower).map_err(early)?;
        }
        let configured = (|| {
            rustix::mount::fsconfig_set_string(&context, "source", "overlay")?;
            rustix::mount::fsconfig_set_string(&context, "upperdir", &self.upper)?;
            rustix::mount::fsconfig_set_string(&context, "workdir", &self.work)?;
            for (key, value) in PLAIN {
                match rustix::mount::fsconfig_set_string(&context, key, value) {
                    Err(Errno::INVAL) => {}
                    other => other?,
                }
            }
            if self.volatile {
                match rustix::mount::fsconfig_set_flag(&context, "volatile") {
                    // Older than 5.10: it syncs.
                    Err(Errno::INVAL) => {}
                    other => other?,
                }
            }
            rustix::mount::fsconfig_create(&context)?;
            let mount =
                rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
            rustix::mount::move_mount(&mount, "", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        })();
        configured.map_err(|errno| Refused { errno, log: kernels_words(&context) })
    }

    fn mount_old(&self, at: &Path) -> io::Result<()> {
        // By descriptor: short, and nothing in the paths needs escaping. They live until the mount is made.
        let mut kept: Vec<OwnedFd> = Vec::new();
        let mut by_fd = |path: &Path| -> io::Result<String> {
            let fd = rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
            let text = format!("/proc/self/fd/{}", fd.as_raw_fd());
            kept.push(fd);
            Ok(text)
        };
        let lower = self.lower.iter().map(|p| by_fd(p)).collect::<io::Result<Vec<_>>>()?.join(":");
        let mut options =
            format!("lowerdir={lower},upperdir={},workdir={}", by_fd(&self.upper)?, by_fd(&self.work)?);
        for (key, value) in PLAIN {
            // Writing to a String can't fail.
            let _ = write!(options, ",{key}={value}");
        }
        if self.volatile {
            options.push_str(",volatile");
        }
        if options.len() >= MAX_MOUNT_OPTIONS_BYTES {
            let what = format!("{} layers are more than this kernel's mount call takes", self.lower.len());
            return Err(io::Error::new(io::ErrorKind::Unsupported, what));
        }
        let options = CString::new(options)?;
        Ok(rustix::mount::mount("overlay", at, "overlay", MountFlags::empty(), Some(options.as_c_str()))?)
    }
}

/// Why the new mount API did not do it.
struct Refused {
    errno: Errno,
    /// The kernel's own words, if it has any.
    log: String,
}

impl Refused {
    fn into_error(self) -> io::Error {
        if self.log.is_empty() {
            return self.errno.into();
        }
        let error = io::Error::from(self.errno);
        io::Error::new(error.kind(), format!("{error} ({})", self.log))
    }
}

/// What the kernel logged about a mount that it refused: lines like `e overlay: …`.
fn kernels_words(context: &OwnedFd) -> String {
    let mut words = Vec::new();
    let mut line = [0u8; 1024];
    while let Ok(n) = rustix::io::read(context, &mut line) {
        words.push(String::from_utf8_lossy(&line[..n]).trim().to_owned());
        if n == 0 || words.len() > 10 {
            break;
        }
    }
    words.retain(|w| !w.is_empty());
    words.join("; ")
}

/// Whether the kernel surely has no overlayfs.
pub(crate) fn is_missing() -> bool {
    match rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC) {
        Err(Errno::NODEV) => true,
        // Older than 5.2; it says what it has, but for modules not loaded yet.
        Err(Errno::NOSYS) => {
            std::fs::read_to_string("/proc/filesystems").is_ok_and(|f| !f.contains("overlay"))
        }
        _ => false,
    }
}

/// Unmounts `at`, gone at once for all that look from now on; no error if nothing is mounted there.
pub(crate) fn unmount(at: &Path) -> io::Result<()> {
    match rustix::mount::unmount(at, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH) {
        // EINVAL: not a mount point.
        Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        other => Ok(other?),
    }
}

/// The mount points below `directory`, the innermost first.
pub(crate) fn mounts_below(directory: &Path) -> io::Result<Vec<PathBuf>> {
    use std::os::unix::ffi::OsStringExt;
    let table = std::fs::read("/proc/self/mountinfo")?;
    let mut found: Vec<PathBuf> = table
        .split(|b| *b == b'\n')
        .filter_map(|line| line.split(|b| *b == b' ').nth(4))
        .map(|field| PathBuf::from(std::ffi::OsString::from_vec(unescape(field))))
        .filter(|path| path.starts_with(directory) && path != directory)
        .collect();
    found.reverse();
    Ok(found)
}

/// mountinfo writes blanks and backslashes as `\` and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = tail.get(..3).and_then(|d| std::str::from_utf8(d).ok());
        match octal.and_then(|d| u8::from_str_radix(d, 8).ok()).filter(|_| byte == b'\\') {
            Some(value) => {
                out.push(value);
                rest = &tail[3..];
            }
            None => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_mount_the_same() {
        let dir = std::env::temp_dir().join(format!("sampan overlay:,-{}", std::process::id()));
        let part = |name: &str| {
            let path = dir.join(name);
            std::fs::create_dir_all(&path).unwrap();
            path
        };
        let lower: Vec<PathBuf> = (0..20).map(|i| part(&format!("lower{i}"))).collect();
        for (i, layer) in lower.iter().enumerate() {
            std::fs::write(layer.join("same"), i.to_string()).unwrap();
            std::fs::write(layer.join(i.to_string()), "").unwrap();
        }
        let at = part("at");
        for way in ["new", "old"] {
            let (upper, work) = (part(&format!("upper-{way}")), part(&format!("work-{way}")));
            let overlay = Overlay { lower: lower.clone(), upper: upper.clone(), work, volatile: true };
            if way == "old" {
                overlay.mount_old(&at).unwrap()
            } else {
                overlay.mount(&at).unwrap()
            }
            assert_eq!(mounts_below(&dir).unwrap(), std::slice::from_ref(&at));
            assert_eq!(std::fs::read_dir(&at).unwrap().count(), 21);
            assert_eq!(std::fs::read_to_string(at.join("same")).unwrap(), "0", "the first one is uppermost");
            std::fs::write(at.join("new"), "").unwrap();
            assert!(upper.join("new").exists());
            unmount(&at).unwrap();
            unmount(&at).unwrap();
        }
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn mount_points_with_blanks_are_read() {
        assert_eq!(unescape(br"/a\040b\134c\0"), br"/a b\c\0");
    }
}
