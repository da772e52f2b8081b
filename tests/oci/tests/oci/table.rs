//! What a test is, and what a host must have for it.

use std::fs;
use std::path::Path;

use crate::harness::Bench;

/// How strongly a sentence binds, in the words of RFC 2119.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Level {
    Must,
    Should,
    May,
}

impl Level {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Level::Must => "MUST",
            Level::Should => "SHOULD",
            Level::May => "MAY",
        }
    }
}

/// A sentence of the specification, and how a runtime is asked about it.
#[derive(Clone, Copy)]
pub(crate) struct Test {
    pub(crate) name: &'static str,
    /// The heading it stands under.
    pub(crate) place: &'static str,
    pub(crate) level: Level,
    /// What it demands, in our words.
    pub(crate) says: &'static str,
    pub(crate) needs: &'static [Need],
    /// Which other runtimes are known to do otherwise, and why.
    pub(crate) but: &'static [(&'static str, &'static str)],
    pub(crate) run: fn(&mut Bench),
}

pub(crate) const fn must(
    name: &'static str,
    place: &'static str,
    says: &'static str,
    run: fn(&mut Bench),
) -> Test {
    Test { name, place, level: Level::Must, says, needs: &[], but: &[], run }
}

pub(crate) const fn should(
    name: &'static str,
    place: &'static str,
    says: &'static str,
    run: fn(&mut Bench),
) -> Test {
    Test { level: Level::Should, ..must(name, place, says, run) }
}

pub(crate) const fn may(
    name: &'static str,
    place: &'static str,
    says: &'static str,
    run: fn(&mut Bench),
) -> Test {
    Test { level: Level::May, ..must(name, place, says, run) }
}

impl Test {
    pub(crate) const fn needs(self, needs: &'static [Need]) -> Test {
        Test { needs, ..self }
    }

    pub(crate) const fn but(self, but: &'static [(&'static str, &'static str)]) -> Test {
        Test { but, ..self }
    }
}

/// What a host may lack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Need {
    /// A controller of cgroup v1, by a file of its groups.
    V1(&'static str),
    /// cgroup v2 alone.
    Unified,
    /// A namespace's file in `/proc/self/ns`.
    Namespace(&'static str),
    Resctrl,
    NoResctrl,
    Selinux,
    NoSelinux,
    Apparmor,
    NoApparmor,
    /// Two processors or more.
    Processors,
    /// `ip` and veth devices.
    Devices,
    Swap,
    Numa,
    HugePages,
}

impl Need {
    /// Why this host can't, if it can't.
    pub(crate) fn missing(self) -> Option<String> {
        let v1 = Path::new("/sys/fs/cgroup/pids").exists();
        let exists = |path: &str| Path::new(path).exists();
        let (there, what) = match self {
            Need::V1(file) => (v1 && v1_file(file), format!("cgroup v1 with {file}")),
            Need::Unified => (exists("/sys/fs/cgroup/cgroup.controllers"), "cgroup v2 alone".to_owned()),
            Need::Namespace(name) => (exists(&format!("/proc/self/ns/{name}")), format!("{name} namespaces")),
            Need::Resctrl => (exists("/sys/fs/resctrl/schemata"), "resctrl".to_owned()),
            Need::NoResctrl => (!exists("/sys/fs/resctrl/schemata"), "a host without resctrl".to_owned()),
            Need::Selinux => (exists("/sys/fs/selinux/enforce"), "SELinux".to_owned()),
            Need::NoSelinux => (!exists("/sys/fs/selinux/enforce"), "a host without SELinux".to_owned()),
            Need::Apparmor => (exists("/sys/kernel/security/apparmor"), "AppArmor".to_owned()),
            Need::NoApparmor => {
                (!exists("/sys/kernel/security/apparmor"), "a host without AppArmor".to_owned())
            }
            Need::Processors => {
                let count = std::thread::available_parallelism().map_or(1, usize::from);
                (count > 1, "two processors".to_owned())
            }
            Need::Devices => (exists("/sbin/ip") || exists("/usr/sbin/ip"), "iproute2".to_owned()),
            Need::Swap => (v1_file("memory.memsw.limit_in_bytes"), "limits on swap".to_owned()),
            Need::Numa => (exists("/sys/devices/system/node/node0"), "NUMA in the kernel".to_owned()),
            Need::HugePages => (v1_file("hugetlb.2MB.limit_in_bytes"), "huge pages of 2 MB".to_owned()),
        };
        (!there).then(|| format!("needs {what}"))
    }
}

/// Whether some v1 hierarchy's groups have this file. (The root group has not all of them, any child has.)
fn v1_file(name: &str) -> bool {
    let controller = name.split('.').next().unwrap_or_default();
    let controller = match controller {
        "cpu" | "cpuset" | "memory" | "pids" | "blkio" | "hugetlb" | "rdma" | "devices" | "freezer" => {
            controller
        }
        other => other,
    };
    let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
    for hierarchy in hierarchies {
        let names = hierarchy.file_name().to_string_lossy().into_owned();
        if !names.split(',').any(|n| n == controller) {
            continue;
        }
        let probe = hierarchy.path().join(format!("sampan-test-probe-{}", std::process::id()));
        let made = fs::create_dir(&probe);
        let there = probe.join(name).exists();
        if made.is_ok() {
            let _ = fs::remove_dir(&probe);
        }
        if there {
            return true;
        }
    }
    false
}
