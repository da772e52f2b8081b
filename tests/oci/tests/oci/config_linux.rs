//! config-linux.md: file systems, namespaces, mappings, clocks, devices, network devices, paths, and what else belongs to
//! no control group.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use serde_json::json;

use crate::harness::{Bench, contains};
use crate::table::{Need, Test, must, should};

const OLD: &[(&str, &str)] = &[("runc", "is older than this field"), ("crun", "is older than this field")];
const OLD_RUNC: &[(&str, &str)] = &[("runc", "is older than this field")];
const LAX: &[(&str, &str)] = &[("runc", "does not look"), ("crun", "does not look")];

pub(crate) const TESTS: &[Test] = &[
    should("filesystems", "Default Filesystems", "makes proc, sysfs, devpts and shm available", |b| {
        let text = b.sh("awk '{print $5, $9, $8}' /proc/self/mountinfo; grep -E ' (/proc|/sys|/dev/pts|/dev/shm) ' /proc/self/mountinfo");
        contains(&text, &[" - proc ", " - sysfs ", " - devpts ", " - tmpfs "]);
    }),
    must("namespaces_new", "Namespaces", "makes a new namespace of every type without a path", |b| {
        b.push("/linux/namespaces", json!({"type": "cgroup"}));
        let text = b.sh("for n in pid net ipc uts mnt cgroup; do readlink /proc/self/ns/$n; done");
        for (name, line) in ["pid", "net", "ipc", "uts", "mnt", "cgroup"].iter().zip(text.lines()) {
            let own = fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
            assert_ne!(own.to_str(), Some(line), "{name}");
        }
    }),
    must("namespace_time", "Namespaces", "makes a new time namespace", |b| {
        b.push("/linux/namespaces", json!({"type": "time"}));
        let own = fs::read_link("/proc/self/ns/time").unwrap();
        assert_ne!(b.sh("readlink /proc/self/ns/time").trim(), own.to_str().unwrap());
    })
    .needs(&[Need::Namespace("time")])
    .but(&[
        ("runc", "is older than this field"),
        ("crun", "its process ends while it makes the namespace, on this kernel"),
    ]),
    must("namespace_path", "Namespaces", "puts the process into the namespace of a path", |b| {
        let mut other = Bench::new(&b.runtime);
        other.lives("sleep 60");
        let pid = other.pid();
        let names = [("network", "net"), ("ipc", "ipc"), ("uts", "uts")];
        let mut list = vec![json!({"type": "pid"}), json!({"type": "mount"})];
        list.extend(
            names.map(|(kind, file)| json!({"type": kind, "path": format!("/proc/{pid}/ns/{file}")})),
        );
        b.set("/linux/namespaces", json!(list));
        let text = b.sh("for n in net ipc uts; do readlink /proc/self/ns/$n; done");
        for ((_, name), line) in names.iter().zip(text.lines()) {
            assert_eq!(fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap().to_str(), Some(line));
        }
    }),
    must("namespace_pid_path", "Namespaces", "puts the process into the PID namespace of a path", |b| {
        let mut other = Bench::new(&b.runtime);
        other.lives("sleep 60");
        b.set("/linux/namespaces/0", json!({"type": "pid", "path": format!("/proc/{}/ns/pid", other.pid())}));
        contains(&b.sh("cat /proc/1/cmdline | tr '\\0' ' '"), &["sleep 60"]);
    }),
    must("namespace_path_relative", "Namespaces", "refuses a path that is not absolute", |b| {
        b.set("/linux/namespaces/1", json!({"type": "network", "path": "proc/self/ns/net"}));
        b.refused();
    }),
    must("namespace_wrong_type", "Namespaces", "refuses a path of a namespace of another type", |b| {
        b.set("/linux/namespaces/1", json!({"type": "network", "path": "/proc/self/ns/uts"}));
        b.refused();
    }),
    must("namespace_unknown", "Namespaces", "refuses a type that it does not know", |b| {
        b.push("/linux/namespaces", json!({"type": "moon"}));
        b.refused();
    }),
    must(
        "namespaces_inherited",
        "Namespaces",
        "leaves the runtime's namespace for a type that is not listed",
        |b| {
            b.set("/linux/namespaces", json!([{"type": "pid"}, {"type": "mount"}]));
            b.config["mounts"]
                .as_array_mut()
                .unwrap()
                .retain(|m| m["type"] != "sysfs" && m["type"] != "mqueue");
            let text = b.sh("for n in net ipc uts user cgroup; do readlink /proc/self/ns/$n; done");
            for (name, line) in ["net", "ipc", "uts", "user", "cgroup"].iter().zip(text.lines()) {
                let own = fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
                assert_eq!(own.to_str(), Some(line), "{name}");
            }
        },
    ),
    must("namespaces_twice", "Namespaces", "refuses a type that is listed twice", |b| {
        b.push("/linux/namespaces", json!({"type": "pid"}));
        b.refused();
    })
    .but(&[("crun", "takes it")]),
    must("mappings", "User namespace mappings", "maps users and groups", |b| {
        b.user_namespace();
        let text = b.sh("cat /proc/self/uid_map /proc/self/gid_map | tr -s ' '; id -u; touch /tmp/made");
        assert_eq!(text, " 0 100000 65536\n 0 100000 65536\n0\n");
        assert_eq!(fs::metadata(b.rootfs("tmp/made")).unwrap().uid(), 100_000);
    }),
    should(
        "mappings_keep_owners",
        "User namespace mappings",
        "does not change the owners of the files",
        |b| {
            b.user_namespace();
            let before = fs::metadata(b.rootfs("bin/busybox")).unwrap();
            b.sh("true");
            let after = fs::metadata(b.rootfs("bin/busybox")).unwrap();
            assert_eq!((before.uid(), before.gid()), (after.uid(), after.gid()));
        },
    ),
    must("time_offsets", "Offset for Time Namespace", "sets the offsets of the clocks", |b| {
        b.push("/linux/namespaces", json!({"type": "time"}));
        b.set(
            "/linux/timeOffsets",
            json!({"monotonic": {"secs": 1000, "nanosecs": 0}, "boottime": {"secs": 1_000_000}}),
        );
        let own: f64 =
            fs::read_to_string("/proc/uptime").unwrap().split(' ').next().unwrap().parse().unwrap();
        let inside: f64 = b.sh("cut -d' ' -f1 /proc/uptime").trim().parse().unwrap();
        assert!(inside - own >= 999_999.0 && inside - own < 1_000_100.0, "{inside} {own}");
    })
    .needs(&[Need::Namespace("time")])
    .but(&[
        ("runc", "is older than this field"),
        ("crun", "its process ends while it makes the namespace, on this kernel"),
    ]),
    must("devices", "Devices", "makes the devices available, with mode and owner", |b| {
        b.set("/linux/devices", json!([
            {"path": "/dev/sampan", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 5, "gid": 6},
            {"path": "/dev/block", "type": "b", "major": 7, "minor": 77, "fileMode": 0o600},
            {"path": "/dev/pipe", "type": "p", "fileMode": 0o600}]));
        let text = b.sh("stat -c '%F %a %u %g %t %T' /dev/sampan /dev/block /dev/pipe");
        assert_eq!(
            text,
            "character special file 640 5 6 1 3\nblock special file 600 0 0 7 4d\nfifo 600 0 0 0 0\n"
        );
    }),
    must("devices_unbuffered", "Devices", "knows the type u", |b| {
        b.set("/linux/devices", json!([{"path": "/dev/sampan", "type": "u", "major": 1, "minor": 3}]));
        contains(&b.sh("stat -c %F /dev/sampan"), &["character"]);
    }),
    must("devices_type", "Devices", "refuses a type of device that does not exist", |b| {
        b.set("/linux/devices", json!([{"path": "/dev/sampan", "type": "x", "major": 1, "minor": 3}]));
        b.refused();
    })
    .but(&[("crun", "takes it")]),
    must("devices_anywhere", "Devices", "makes devices outside of /dev, too", |b| {
        b.set("/linux/devices", json!([{"path": "/some/where/null", "type": "c", "major": 1, "minor": 3}]));
        contains(&b.sh("stat -c %F /some/where/null"), &["character"]);
    }),
    must("devices_taken", "Devices", "refuses a device at the place of another file", |b| {
        fs::write(b.rootfs("etc/thing"), "x").unwrap();
        b.set("/linux/devices", json!([{"path": "/etc/thing", "type": "c", "major": 1, "minor": 3}]));
        b.refused();
    })
    .but(&[("runc", "leaves the file there and goes on"), ("crun", "leaves the file there and goes on")]),
    must(
        "default_devices",
        "Default Devices",
        "supplies null, zero, full, random, urandom, tty and ptmx",
        |b| {
            let text = b.sh("cd /dev; stat -c '%n %t:%T' null zero full random urandom tty; readlink ptmx || stat -c %t:%T ptmx");
            contains(&text, &["null 1:3", "zero 1:5", "full 1:7", "random 1:8", "urandom 1:9", "tty 5:0"]);
            assert!(text.ends_with("pts/ptmx\n") || text.ends_with("5:2\n"), "{text}");
        },
    ),
    must("ptmx", "Default Devices", "supplies a /dev/ptmx that leads into the container's own devpts", |b| {
        // Terminals of the container are numbered from 0 on.
        contains(&b.sh("exec 3<>/dev/ptmx; ls /dev/pts"), &["0", "ptmx"]);
    }),
    must(
        "net_devices",
        "Network Devices",
        "moves a network device with its addresses, renames it, and brings it up",
        |b| {
            let pair = Pair::new("a");
            ip(&["addr", "add", "192.0.2.77/24", "dev", &pair.0]);
            b.set("/linux/netDevices", json!({&pair.0: {"name": "eth7"}}));
            contains(&b.sh("ip addr show dev eth7"), &["192.0.2.77/24", ",UP"]);
        },
    )
    .needs(&[Need::Devices])
    .but(OLD),
    must("net_devices_missing", "Network Devices", "refuses a network device that is not there", |b| {
        b.set("/linux/netDevices", json!({"sampan-nope": {}}));
        b.refused();
    })
    .but(OLD),
    must("net_devices_taken", "Network Devices", "refuses a name that is taken in the container", |b| {
        let pair = Pair::new("b");
        b.set("/linux/netDevices", json!({&pair.0: {"name": "lo"}}));
        b.refused();
        contains(&ip(&["link", "show", "dev", &pair.0]), &[&pair.0]);
    })
    .needs(&[Need::Devices])
    .but(OLD),
    must(
        "net_devices_pattern",
        "Network Devices",
        "lets the kernel choose a name by a pattern with %d",
        |b| {
            let pair = Pair::new("c");
            b.set("/linux/netDevices", json!({&pair.0: {"name": "net%d"}}));
            contains(&b.sh("ip link show"), &["net0"]);
        },
    )
    .needs(&[Need::Devices])
    .but(OLD),
    must("rdt_missing", "IntelRdt", "refuses intelRdt where no resctrl is mounted", |b| {
        b.set("/linux/intelRdt", json!({"closID": "sampan", "l3CacheSchema": "L3:0=f"}));
        b.refused();
    })
    .needs(&[Need::NoResctrl])
    .but(&[("crun", "is older than this field")]),
    must(
        "rdt",
        "IntelRdt",
        "puts the process into a class of the container's id, and removes it at the end",
        |b| {
            b.set("/linux/intelRdt", json!({"enableMonitoring": true}));
            b.lives("sleep 60");
            let class = std::path::Path::new("/sys/fs/resctrl").join(&b.id);
            let tasks = fs::read_to_string(class.join("tasks")).unwrap();
            contains(&tasks, &[&b.pid().to_string()]);
            assert!(class.join("mon_groups").join(&b.id).exists());
            b.call(&["delete", "--force", &b.id]).ok();
            assert!(!class.exists());
        },
    )
    .needs(&[Need::Resctrl]),
    must("memory_policy", "Memory policy", "sets the memory policy", |b| {
        b.set("/linux/memoryPolicy", json!({"mode": "MPOL_BIND", "nodes": "0"}));
        contains(&b.sh("head -1 /proc/self/numa_maps"), &["bind:0"]);
    })
    .needs(&[Need::Numa])
    .but(OLD),
    must("memory_policy_unknown", "Memory policy", "refuses a mode or flag that does not exist", |b| {
        b.set("/linux/memoryPolicy", json!({"mode": "MPOL_MOON", "nodes": "0"}));
        b.refused();
        b.set("/linux/memoryPolicy", json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_MOON"]}));
        b.refused();
    })
    .but(OLD),
    must("sysctl", "Sysctl", "sets parameters in the container's namespaces", |b| {
        b.set("/linux/sysctl", json!({"net.ipv4.ip_forward": "1", "kernel.shm_rmid_forced": "1"}));
        let host = fs::read_to_string("/proc/sys/kernel/shm_rmid_forced").unwrap();
        assert_eq!(b.sh("cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shm_rmid_forced"), "1\n1\n");
        assert_eq!(fs::read_to_string("/proc/sys/kernel/shm_rmid_forced").unwrap(), host);
    }),
    must("sysctl_host", "Sysctl", "refuses parameters that would change the host", |b| {
        b.set(
            "/linux/sysctl",
            json!({"kernel.panic": fs::read_to_string("/proc/sys/kernel/panic").unwrap().trim()}),
        );
        b.refused();
    }),
    must("propagation_shared", "Rootfs Mount Propagation", "puts a shared root into a new peer group", |b| {
        b.set("/linux/rootfsPropagation", "shared");
        contains(&root_line(b), &["shared:"]);
    })
    .but(&[("runc", "the root is in no peer group afterwards")]),
    must(
        "propagation_slave",
        "Rootfs Mount Propagation",
        "keeps mounts in a slave root from the host",
        |b| {
            b.set("/linux/rootfsPropagation", "slave");
            assert!(!root_line(b).contains("shared:"));
        },
    ),
    must("propagation_private", "Rootfs Mount Propagation", "cuts a private root off", |b| {
        b.set("/linux/rootfsPropagation", "private");
        let line = root_line(b);
        assert!(!line.contains("shared:") && !line.contains("master:"), "{line}");
    }),
    must("propagation_unbindable", "Rootfs Mount Propagation", "makes an unbindable root that", |b| {
        b.set("/linux/rootfsPropagation", "unbindable");
        contains(&root_line(b), &["unbindable"]);
    })
    .but(&[("runc", "makes the tree unbindable before it binds the root, which fails")]),
    must(
        "propagation_unknown",
        "Rootfs Mount Propagation",
        "refuses a propagation that does not exist",
        |b| {
            b.set("/linux/rootfsPropagation", "wide");
            b.refused();
        },
    )
    .but(&[("crun", "takes it")]),
    must("masked", "Masked Paths", "makes paths unreadable", |b| {
        fs::write(b.rootfs("etc/secret"), "secret").unwrap();
        fs::create_dir(b.rootfs("mnt/dir")).unwrap();
        fs::write(b.rootfs("mnt/dir/secret"), "secret").unwrap();
        b.set("/linux/maskedPaths", json!(["/etc/secret", "/mnt/dir", "/nonexistent"]));
        assert_eq!(
            b.sh("cat /etc/secret; ls /mnt/dir; touch /mnt/dir/x 2>/dev/null || echo sealed"),
            "sealed\n"
        );
    }),
    must("masked_relative", "Masked Paths", "refuses a path that is not absolute", |b| {
        b.set("/linux/maskedPaths", json!(["proc/kcore"]));
        b.refused();
    })
    .but(LAX),
    must("readonly_paths", "Readonly Paths", "makes paths read-only", |b| {
        fs::create_dir(b.rootfs("mnt/dir")).unwrap();
        b.set("/linux/readonlyPaths", json!(["/mnt/dir", "/proc/sys", "/nonexistent"]));
        let text = b.sh("touch /mnt/dir/x 2>&1; touch /mnt/y && echo fine; echo 1 > /proc/sys/net/ipv4/ip_forward || echo no");
        contains(&text, &["Read-only", "fine", "no"]);
    }),
    must("readonly_relative", "Readonly Paths", "refuses a path that is not absolute", |b| {
        b.set("/linux/readonlyPaths", json!(["proc/sys"]));
        b.refused();
    })
    .but(LAX),
    must("mount_label_missing", "Mount Label", "refuses a mount label where there is no SELinux", |b| {
        b.set("/linux/mountLabel", "system_u:object_r:svirt_sandbox_file_t:s0:c715,c811");
        b.refused();
    })
    .needs(&[Need::NoSelinux])
    .but(&[("crun", "does without the label")]),
    must("mount_label", "Mount Label", "gives the mounts the SELinux context", |b| {
        b.set("/linux/mountLabel", "system_u:object_r:container_file_t:s0:c715,c811");
        contains(&b.sh("grep ' /dev/shm ' /proc/self/mountinfo"), &["container_file_t"]);
    })
    .needs(&[Need::Selinux]),
    must("personality", "Personality", "shows a processor of 32 bits for LINUX32", |b| {
        b.set("/linux/personality", json!({"domain": "LINUX32"}));
        assert_eq!(b.sh("uname -m"), "i686\n");
    })
    .but(OLD_RUNC),
    must("personality_unknown", "Personality", "refuses a domain or a flag that does not exist", |b| {
        b.set("/linux/personality", json!({"domain": "MOON"}));
        b.refused();
        b.set("/linux/personality", json!({"domain": "LINUX", "flags": ["MOON"]}));
        b.refused();
    })
    .but(&[("runc", "is older than this field"), ("crun", "takes flags that it does not know")]),
];

/// mountinfo's line about the container's root.
#[track_caller]
fn root_line(b: &mut Bench) -> String {
    b.sh("awk '$5 == \"/\"' /proc/self/mountinfo")
}

/// A pair of devices, which is removed with it.
struct Pair(String);

impl Pair {
    fn new(name: &str) -> Pair {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let pair = Pair(format!("sot{}{name}{number}", std::process::id() % 100_000));
        ip(&["link", "add", &pair.0, "type", "veth", "peer", "name", &format!("{}p", pair.0)]);
        pair
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for name in [self.0.clone(), format!("{}p", self.0)] {
            let _ = Command::new("ip").args(["link", "del", &name]).output();
        }
    }
}

#[track_caller]
fn ip(args: &[&str]) -> String {
    let output = Command::new("ip").args(args).output().unwrap();
    assert!(output.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
