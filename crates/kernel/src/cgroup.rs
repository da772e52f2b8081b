//! Where the control group hierarchies are. Three arrangements exist, told apart by what is mounted:
//!
//! * *unified*: cgroup v2 alone, at `/sys/fs/cgroup`;
//! * *legacy*: cgroup v1, a directory of hierarchies, each with one or more controllers;
//! * *hybrid*: legacy, with an additional v2 hierarchy at `/sys/fs/cgroup/unified` that has what controllers v1 left.
//!
//! `/proc/self/cgroup` lists the hierarchies; a hierarchy's directory has the name of its controllers. This needs no
//! look at the mount table, whose length grows with every container.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Where everything is mounted, by the common convention.
pub const MOUNT_POINT: &str = "/sys/fs/cgroup";

const CGROUP_SUPER_MAGIC: i64 = 0x0027_e0eb;
const CGROUP2_SUPER_MAGIC: i64 = 0x6367_7270;

/// The two interfaces of the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    /// One hierarchy per controller.
    V1,
    /// One hierarchy for all.
    V2,
}

/// One tree of control groups.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hierarchy {
    /// Its interface.
    pub version: Version,
    /// The names of its controllers (`memory`, `name=systemd`); for v2, none.
    pub controllers: Vec<String>,
    /// Where it is mounted.
    pub mount: PathBuf,
    /// The group of this process, from the root that this process sees.
    pub own: PathBuf,
}

impl Hierarchy {
    /// Whether it is a v1 hierarchy with this controller.
    pub fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|c| c == controller)
    }
}

/// The host's hierarchies.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Layout {
    /// All that are mounted, v1 ones first.
    pub hierarchies: Vec<Hierarchy>,
}

impl Layout {
    /// What this host has.
    ///
    /// # Errors
    /// If `/proc/self/cgroup` can't be read.
    pub fn detect() -> io::Result<Layout> {
        let mut file = File::open("/proc/self/cgroup")?;
        let (mut text, mut piece) = (Vec::new(), [0; 4096]);
        loop {
            let length = file.read(&mut piece)?;
            text.extend_from_slice(&piece[..length]);
            // The kernel fills what it is given while there is something left.
            if length < piece.len() {
                break;
            }
        }
        Ok(Layout::from_proc(&String::from_utf8_lossy(&text), Path::new(MOUNT_POINT), &version_at))
    }

    /// From the text of `/proc/self/cgroup`; `probe` tells what is mounted at a path.
    fn from_proc(text: &str, root: &Path, probe: &dyn Fn(&Path) -> Option<Version>) -> Layout {
        let mut hierarchies = Vec::new();
        let mut unified = None;
        let lines = text.lines().filter_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            Some((fields.next()?, fields.next()?))
        });
        for (controllers, own) in lines {
            if controllers.is_empty() {
                let places = [root.to_owned(), root.join("unified")];
                let mount = places.into_iter().find(|place| probe(place) == Some(Version::V2));
                unified = mount.map(|mount| Hierarchy {
                    version: Version::V2,
                    controllers: Vec::new(),
                    mount,
                    own: own.into(),
                });
                continue;
            }
            let directory = root.join(controllers.strip_prefix("name=").unwrap_or(controllers));
            if probe(&directory) == Some(Version::V1) {
                hierarchies.push(Hierarchy {
                    version: Version::V1,
                    controllers: controllers.split(',').map(str::to_owned).collect(),
                    mount: directory,
                    own: own.into(),
                });
            }
        }
        hierarchies.extend(unified);
        Layout { hierarchies }
    }

    /// Whether there is nothing but v2.
    pub fn is_unified(&self) -> bool {
        matches!(self.hierarchies.as_slice(), [Hierarchy { version: Version::V2, .. }])
    }

    /// The v2 hierarchy, if there is one.
    pub fn unified(&self) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|h| h.version == Version::V2)
    }

    /// The v1 hierarchy of a controller, if there is one.
    pub fn legacy(&self, controller: &str) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|h| h.has(controller))
    }
}

/// What kind of cgroup file system is at a path, if one is.
pub fn version_at(path: &Path) -> Option<Version> {
    // The width of the field differs between architectures.
    #[allow(clippy::useless_conversion, clippy::unnecessary_cast, reason = "i64 here, not everywhere")]
    match rustix::fs::statfs(path).ok()?.f_type as i64 {
        CGROUP_SUPER_MAGIC => Some(Version::V1),
        CGROUP2_SUPER_MAGIC => Some(Version::V2),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(proc: &str, v1: &[&str], v2: &[&str]) -> Layout {
        let at = |list: &[&str], path: &Path| list.iter().any(|p| Path::new(p) == path);
        Layout::from_proc(proc, Path::new("/c"), &|path| {
            if at(v1, path) { Some(Version::V1) } else { at(v2, path).then_some(Version::V2) }
        })
    }

    #[test]
    fn the_three_arrangements_are_told_apart() {
        let unified = layout("0::/user.slice\n", &[], &["/c"]);
        assert!(unified.is_unified());
        assert_eq!(unified.unified().unwrap().own, Path::new("/user.slice"));

        let hybrid = layout(
            "5:cpu,cpuacct:/a\n4:memory:/b:c\n1:name=systemd:/\n0::/x\n",
            &["/c/cpu,cpuacct", "/c/memory", "/c/systemd"],
            &["/c/unified"],
        );
        assert!(!hybrid.is_unified());
        assert_eq!(hybrid.hierarchies.len(), 4);
        assert_eq!(hybrid.legacy("cpuacct").unwrap().mount, Path::new("/c/cpu,cpuacct"));
        assert_eq!(hybrid.legacy("memory").unwrap().own, Path::new("/b:c"));
        assert_eq!(hybrid.unified().unwrap().mount, Path::new("/c/unified"));

        let legacy = layout("2:memory:/\n1:freezer:/\n0::/\n", &["/c/memory"], &[]);
        assert_eq!((legacy.hierarchies.len(), legacy.unified()), (1, None));
    }
}
