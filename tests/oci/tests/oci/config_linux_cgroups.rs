//! config-linux.md, control groups: where they are, and what `resources` writes to them.

use std::fs;
use std::os::unix::fs::MetadataExt;

use serde_json::{Value, json};

use crate::harness::{Bench, contains};
use crate::table::{Need, Test, may, must, should};

/// A test of one limit: the value, and what the group's file holds then.
macro_rules! limit {
    ($name:literal, $place:literal, $says:literal, $resources:tt, $v1:literal, $v2:literal, $expect:expr) => {
        must($name, $place, $says, |b| written(b, json!($resources), $v1, $v2, $expect))
            .needs(&[Need::V1($v1)])
    };
}

pub(crate) const TESTS: &[Test] = &[
    must(
        "path_absolute",
        "Cgroups Path",
        "takes an absolute cgroupsPath from the mount point of the cgroups",
        |b| {
            b.set("/linux/cgroupsPath", format!("/{}/deep/er", b.id));
            b.lives("sleep 60");
            let groups = b.cgroups_at(&format!("{}/deep/er", b.id));
            let pid = b.pid().to_string();
            assert!(
                groups
                    .iter()
                    .any(|g| fs::read_to_string(g.join("cgroup.procs")).unwrap().lines().any(|l| l == pid)),
                "{groups:?}"
            );
            b.call(&["delete", "--force", &b.id]).ok();
            for group in b.cgroups_at(&format!("{}/deep", b.id)) {
                fs::remove_dir(group).unwrap();
            }
        },
    ),
    must("path_same", "Cgroups Path", "attaches to the same place for the same cgroupsPath", |b| {
        b.script("sleep 60");
        b.create().ok();
        let first = b.cgroups();
        b.call(&["delete", "--force", &b.id]).ok();
        b.create().ok();
        assert_eq!(b.cgroups(), first);
    }),
    must("path_made", "Cgroups Path", "makes the cgroups if they are not there", |b| {
        assert!(b.cgroups().is_empty());
        b.create().ok();
        assert!(!b.cgroups().is_empty());
    }),
    may("path_default", "Cgroups Path", "has a path of its own for a container without cgroupsPath", |b| {
        b.unset("/linux/cgroupsPath");
        b.create().ok();
        let group = fs::read_to_string(format!("/proc/{}/cgroup", b.pid())).unwrap();
        contains(&group, &[&b.id]);
    }),
    must("path_upwards", "Cgroups Path", "does not leave the mount point by a cgroupsPath with ..", |b| {
        b.set("/linux/cgroupsPath", format!("/../../../../tmp/{}", b.id));
        b.create();
        let outside = std::path::Path::new("/tmp").join(&b.id);
        let made = outside.exists();
        let _ = b.call(&["delete", "--force", &b.id]);
        for group in b.cgroups_at(&format!("tmp/{}", b.id)) {
            let _ = fs::remove_dir(&group);
            let _ = fs::remove_dir(group.parent().unwrap());
        }
        let _ = fs::remove_dir_all(outside);
        assert!(!made, "a directory outside of the cgroups was made");
    }).but(&[("crun", "follows `..` out of the cgroup file system and makes a directory in /tmp")]),
    must("every_hierarchy", "Control groups", "has every process of the container in the group", |b| {
        b.lives("sleep 60 & sleep 61");
        let pid = b.pid().to_string();
        for group in b.cgroups() {
            let procs = fs::read_to_string(group.join("cgroup.procs")).unwrap();
            assert!(procs.lines().any(|l| l == pid), "{} {procs}", group.display());
        }
    }),
    should("ownership_v1", "Cgroup ownership", "does not change the owner of groups of v1", |b| {
        b.user_namespace();
        b.push("/linux/namespaces", json!({"type": "cgroup"}));
        b.script("sleep 60");
        b.create().ok();
        for group in b.cgroups() {
            assert_eq!(fs::metadata(&group).unwrap().uid(), 0, "{}", group.display());
        }
    })
    .needs(&[Need::V1("pids.max")]),
    should(
        "ownership_v2",
        "Cgroup ownership",
        "gives the group to the container's user if it has a namespace and may write",
        |b| {
            b.user_namespace();
            b.push("/linux/namespaces", json!({"type": "cgroup"}));
            b.mount("/sys/fs/cgroup", "cgroup", "cgroup", "rw");
            b.script("sleep 60");
            b.create().ok();
            for group in b.cgroups() {
                assert_eq!(fs::metadata(group.join("cgroup.procs")).unwrap().uid(), 100_000);
            }
        },
    )
    .needs(&[Need::Unified]),
    must("devices_denied", "Allowed Device list", "denies devices that are denied", |b| {
        b.set("/linux/devices", json!([{"path": "/dev/fuse2", "type": "c", "major": 10, "minor": 229}]));
        assert_eq!(b.sh("(exec 3</dev/fuse2) 2>/dev/null || echo denied"), "denied\n");
    }),
    must("devices_allowed", "Allowed Device list", "allows devices that are allowed", |b| {
        b.set("/linux/devices", json!([{"path": "/dev/fuse2", "type": "c", "major": 10, "minor": 229}]));
        b.push(
            "/linux/resources/devices",
            json!({"allow": true, "type": "c", "major": 10, "minor": 229, "access": "r"}),
        );
        assert_eq!(
            b.sh("(exec 3</dev/fuse2) && echo allowed; (exec 3>/dev/fuse2) 2>/dev/null || echo read only"),
            "allowed\nread only\n"
        );
    }),
    must("devices_in_order", "Allowed Device list", "applies the entries in the listed order", |b| {
        b.set("/linux/devices", json!([{"path": "/dev/fuse2", "type": "c", "major": 10, "minor": 229}]));
        b.push(
            "/linux/resources/devices",
            json!({"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rwm"}),
        );
        b.push(
            "/linux/resources/devices",
            json!({"allow": false, "type": "c", "major": 10, "minor": 229, "access": "rwm"}),
        );
        assert_eq!(b.sh("(exec 3</dev/fuse2) 2>/dev/null || echo denied"), "denied\n");
    }),
    must(
        "default_devices_usable",
        "Default Devices",
        "lets the default devices be used, whatever is denied",
        |b| {
            assert_eq!(
                b.sh("echo > /dev/null && head -c 1 /dev/zero | wc -c; head -c 1 /dev/urandom | wc -c"),
                "1\n1\n"
            );
        },
    ),
    limit!("memory_limit", "Memory", "limits memory", {"memory": {"limit": 52_428_800}}, "memory.limit_in_bytes", "memory.max", "52428800"),
    limit!("memory_reservation", "Memory", "sets the soft limit of memory", {"memory": {"reservation": 20_971_520}}, "memory.soft_limit_in_bytes", "memory.low", "20971520"),
    limit!("memory_unlimited", "Memory", "takes -1 for no limit", {"memory": {"limit": -1}}, "memory.limit_in_bytes", "memory.max", "9223372036854771712"),
    must("memory_swap", "Memory", "limits memory and swap together", |b| {
        written(
            b,
            json!({"memory": {"limit": 52_428_800, "swap": 104_857_600}}),
            "memory.memsw.limit_in_bytes",
            "",
            "104857600",
        );
    })
    .needs(&[Need::Swap]),
    limit!("memory_kernel_tcp", "Memory", "limits buffers of TCP", {"memory": {"kernelTCP": 10_485_760}}, "memory.kmem.tcp.limit_in_bytes", "", "10485760").but(&[("runc", "ignores it")]),
    limit!("memory_swappiness", "Memory", "sets the swappiness", {"memory": {"swappiness": 42}}, "memory.swappiness", "", "42"),
    must("memory_oom", "Memory", "disables the OOM killer", |b| {
        b.set("/linux/resources/memory", json!({"limit": 52_428_800, "disableOOMKiller": true}));
        b.create().ok();
        contains(&b.cgroup_file("memory.oom_control", ""), &["oom_kill_disable 1"]);
    })
    .needs(&[Need::V1("memory.oom_control")]),
    must("memory_in_force", "Memory", "ends a process that takes more than the limit", |b| {
        b.set("/linux/resources/memory", json!({"limit": 16_777_216, "swap": 16_777_216}));
        b.script("x=$(head -c 64000000 /dev/zero | tr '\\0' x); echo ${#x}");
        let output = b.run();
        assert!(!output.out.contains("64000000"), "{output:?}");
    }),
    limit!("cpu_shares", "CPU", "sets the share of processor time", {"cpu": {"shares": 512}}, "cpu.shares", "cpu.weight", "512"),
    limit!("cpu_quota", "CPU", "sets the quota", {"cpu": {"quota": 20_000, "period": 50_000}}, "cpu.cfs_quota_us", "", "20000"),
    limit!("cpu_period", "CPU", "sets the period", {"cpu": {"quota": 20_000, "period": 50_000}}, "cpu.cfs_period_us", "", "50000"),
    must("cpu_burst", "CPU", "sets the burst", |b| {
        written(
            b,
            json!({"cpu": {"quota": 20_000, "period": 50_000, "burst": 10_000}}),
            "cpu.cfs_burst_us",
            "cpu.max.burst",
            "10000",
        );
    })
    .needs(&[Need::V1("cpu.cfs_burst_us")])
    .but(&[("runc", "is older than this field"), ("crun", "is older than this field")]),
    must("cpu_idle", "CPU", "sets idle", |b| {
        written(b, json!({"cpu": {"idle": 1}}), "cpu.idle", "cpu.idle", "1");
    })
    .needs(&[Need::V1("cpu.idle")]).but(&[("runc", "is older than this field on v1")]),
    limit!("cpu_realtime", "CPU", "sets the real-time runtime", {"cpu": {"realtimeRuntime": 5000, "realtimePeriod": 1_000_000}}, "cpu.rt_runtime_us", "", "5000"),
    limit!("cpus", "CPU", "sets the processors", {"cpu": {"cpus": "0"}}, "cpuset.cpus", "cpuset.cpus", "0"),
    limit!("mems", "CPU", "sets the memory nodes", {"cpu": {"mems": "0"}}, "cpuset.mems", "cpuset.mems", "0"),
    limit!("blkio_throttle", "Block IO", "limits the rate of a device", {"blockIO": {"throttleReadBpsDevice": [{"major": 7, "minor": 0, "rate": 1_048_576}]}}, "blkio.throttle.read_bps_device", "io.max", "7:0 1048576"),
    limit!("blkio_iops", "Block IO", "limits the operations of a device", {"blockIO": {"throttleWriteIOPSDevice": [{"major": 7, "minor": 0, "rate": 77}]}}, "blkio.throttle.write_iops_device", "io.max", "7:0 77"),
    must("blkio_weight", "Block IO", "sets the weight", |b| {
        let name = if Need::V1("blkio.bfq.weight").missing().is_none() {
            "blkio.bfq.weight"
        } else {
            "blkio.weight"
        };
        written(b, json!({"blockIO": {"weight": 200}}), name, "io.weight", "200");
    })
    .needs(&[Need::V1("blkio.weight")]),
    limit!("hugepages", "Huge page limits", "limits huge pages", {"hugepageLimits": [{"pageSize": "2MB", "limit": 4_194_304}]}, "hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.max", "4194304"),
    must("hugepages_unknown", "Huge page limits", "refuses a page size that the kernel does not have", |b| {
        b.set("/linux/resources/hugepageLimits", json!([{"pageSize": "3MB", "limit": 1}]));
        b.refused();
    })
    .needs(&[Need::HugePages]),
    limit!("network_class", "Network", "sets the class of packets", {"network": {"classID": 1_048_577}}, "net_cls.classid", "", "1048577"),
    must("network_priority", "Network", "sets the priority of an interface", |b| {
        b.set("/linux/resources/network", json!({"priorities": [{"name": "lo", "priority": 7}]}));
        b.create().ok();
        contains(&b.cgroup_file("net_prio.ifpriomap", ""), &["lo 7"]);
    })
    .needs(&[Need::V1("net_prio.ifpriomap")]),
    limit!("pids", "PIDs", "limits the number of tasks", {"pids": {"limit": 77}}, "pids.max", "pids.max", "77"),
    limit!("pids_unlimited", "PIDs", "takes -1 for no limit of tasks", {"pids": {"limit": -1}}, "pids.max", "pids.max", "max").but(&[("crun", "hands -1 on to the kernel, which refuses it")]),
    should("pids_zero", "PIDs (since 1.3)", "takes 0 tasks for a limit, not for none", |b| {
        b.set("/linux/resources/pids", json!({"limit": 0}));
        if b.create().code == 0 {
            assert_ne!(b.cgroup_file("pids.max", "pids.max"), "max");
        }
    })
    .needs(&[Need::V1("pids.max")])
    .but(&[
        ("runc", "0 is no limit, as versions before 1.3 have it"),
        ("crun", "0 is no limit, as versions before 1.3 have it"),
    ]),
    must("pids_in_force", "PIDs", "lets no more tasks begin than the limit", |b| {
        b.set("/linux/resources/pids", json!({"limit": 4}));
        b.script("for i in 1 2 3 4 5 6 7 8; do sleep 5 & done 2>&1; echo end");
        let output = b.run();
        contains(&(output.out + &output.err), &["fork"]);
    }),
    must("rdma", "RDMA", "limits RDMA devices, or names the device that is not there", |b| {
        b.set("/linux/resources/rdma", json!({"sampan0": {"hcaHandles": 3}}));
        b.create().fails();
    })
    .needs(&[Need::V1("rdma.max")])
    .but(&[("crun", "has no limits of RDMA")]),
    must("unified_missing", "Unified", "refuses `unified` for a controller that is not there", |b| {
        b.set("/linux/resources/unified", json!({"moon.max": "1"}));
        b.refused();
    })
    .but(&[("crun", "ignores it on v1")]),
    must("unified", "Unified", "writes to the files that `unified` names", |b| {
        written(b, json!({"unified": {"pids.max": "77"}}), "pids.max", "pids.max", "77");
    })
    .needs(&[Need::Unified]),
    must("impossible_limit", "Control groups", "refuses a limit that the kernel refuses", |b| {
        b.set("/linux/resources/cpu", json!({"cpus": "4095"}));
        b.refused();
    })
    .needs(&[Need::V1("cpuset.cpus")]).but(&[("crun", "leaves its cgroups behind")]),
    must("update", "Control groups", "changes limits of a running container", |b| {
        b.set("/linux/resources/pids", json!({"limit": 77}));
        b.lives("sleep 60");
        let file = b.path("resources.json");
        fs::write(&file, json!({"pids": {"limit": 88}, "memory": {"limit": 52_428_800}}).to_string())
            .unwrap();
        b.call(&["update", "-r", file.to_str().unwrap(), &b.id]).ok();
        assert_eq!(b.cgroup_file("pids.max", "pids.max"), "88");
    }),
];

/// Creates a container with limits, and looks at a file of its group.
#[track_caller]
fn written(b: &mut Bench, resources: Value, v1: &str, v2: &str, expect: &str) {
    for (key, value) in resources.as_object().unwrap() {
        b.set(&format!("/linux/resources/{key}"), value.clone());
    }
    b.create().ok();
    assert_eq!(b.cgroup_file(v1, v2), expect);
}
