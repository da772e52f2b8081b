//! Class 8, and groups that can't be removed.
//!
//! * 08 (CVE-2022-0492, CVE-2023-25809). Attack: the container writes to the host's control groups: `release_agent`, whose
//!   program the host runs as root, or groups of its own beside the container's. Defence: only the container's own groups
//!   are mounted, read-only, and it has no CAP_SYS_ADMIN to mount others. Control: all of the host's groups, as they are.
//!   The agent itself is only opened: to set it would run a program on this host.
//! * 24: Attack: a container that may make groups nests them deeper than the longest path, so that nobody can remove
//!   them. Defence: they are removed by descriptor, part by part.

use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::Fixture;
use crate::support::{naive, with_attacker};

/// A v1 hierarchy of this host.
fn hierarchy() -> Option<PathBuf> {
    let all = fs::read_dir("/sys/fs/cgroup").unwrap().map(|entry| entry.unwrap().path());
    let mut all: Vec<PathBuf> = all.filter(|path| path.join("release_agent").exists()).collect();
    all.sort();
    all.into_iter().next()
}

const ATTACK: &str = "
    for group in /sys/fs/cgroup /sys/fs/cgroup/*/; do
        mkdir $group/sampan-test-attack 2> /dev/null && echo made $group
        for file in release_agent notify_on_release cgroup.procs tasks memory.limit_in_bytes devices.allow; do
            (: >> $group/$file) 2> /dev/null && echo opened $group/$file
        done
    done
    mount -o remount,rw /sys/fs/cgroup 2> /dev/null && echo remounted
    mkdir /tmp/all && mount -t cgroup -o pids none /tmp/all 2> /dev/null && echo mounted
    mount -t cgroup2 none /tmp/all 2> /dev/null && echo mounted
    echo done";

pub(crate) fn hosts_groups() {
    let f = Fixture::new(ATTACK);
    assert_eq!(f.run().ok(), "done\n");
    // Without a view of its own either.
    let f = Fixture::new(ATTACK).with(|c| {
        c["linux"]["namespaces"].as_array_mut().unwrap().retain(|n| n["type"] != "cgroup");
    });
    assert_eq!(f.run().ok(), "done\n");
    // With its groups writable, they are still its own alone, and no agent is in them.
    let f = Fixture::new(
        "find / -xdev -name release_agent; ls -d /sys/fs/cgroup/*/release_agent 2> /dev/null; echo done",
    );
    let f = f.with(|c| {
        for mount in c["mounts"].as_array_mut().unwrap() {
            if mount["destination"] == "/sys/fs/cgroup" {
                mount["options"].as_array_mut().unwrap().retain(|o| o != "ro");
            }
        }
    });
    assert_eq!(f.run().out, "done\n");
}

pub(crate) fn hosts_groups_control() {
    let Some(hierarchy) = hierarchy() else { return };
    let f = Fixture::new("true");
    let name = format!("sampan-test-naive-{}", std::process::id());
    let steps = format!(
        "unshare mp root {} mount proc proc /proc mount sysfs sysfs /sys mount bind /sys/fs/cgroup /sys/fs/cgroup enter",
        f.rootfs().display()
    );
    let at = hierarchy.display();
    let script = format!("mkdir {at}/{name} && echo made; (: >> {at}/release_agent) && echo opened");
    let output = naive(&steps, &["/bin/sh", "-c", &script]);
    let _ = fs::remove_dir(hierarchy.join(&name));
    assert_eq!(output.ok(), "made\nopened\n");
}

pub(crate) fn nested_deep() {
    let f = with_attacker(Fixture::new("attacker nest /sys/fs/cgroup/pids 40")).with(|c| {
        for mount in c["mounts"].as_array_mut().unwrap() {
            if mount["destination"] == "/sys/fs/cgroup" {
                mount["options"].as_array_mut().unwrap().retain(|o| o != "ro");
            }
        }
    });
    if !Path::new("/sys/fs/cgroup/pids").is_dir() {
        return;
    }
    f.run().ok();
    f.assert_gone();
}
