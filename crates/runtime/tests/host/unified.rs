//! Cgroup v2 with all its controllers.

use std::fs;

use serde_json::json;

use crate::harness::Fixture;

fn file(f: &Fixture, name: &str) -> String {
    let path = format!("/sys/fs/cgroup{}/c/{name}", f.cgroup);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}")).trim().to_owned()
}

/// The root's disk, as `major:minor`.
fn disk() -> String {
    fs::read_to_string("/sys/block/vda/dev").unwrap().trim().to_owned()
}

pub(crate) fn limits_are_in_the_files() {
    let disk = disk();
    let (major, minor) = disk.split_once(':').unwrap();
    let (major, minor): (i64, i64) = (major.parse().unwrap(), minor.parse().unwrap());
    let f = Fixture::new("exec sleep 100").with(|c| {
        c["linux"]["resources"] = json!({
            "memory": {"limit": 64 << 20, "swap": 80 << 20, "reservation": 32 << 20},
            "cpu": {"shares": 2048, "quota": 20000, "period": 50_000, "burst": 1000, "cpus": "1", "mems": "0"},
            "pids": {"limit": 17},
            "blockIO": {"weight": 500,
                "throttleReadBpsDevice": [{"major": major, "minor": minor, "rate": 1_048_576}],
                "throttleWriteIOPSDevice": [{"major": major, "minor": minor, "rate": 77}]},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 4 << 20}],
        });
    });
    f.start();
    assert_eq!(file(&f, "memory.max"), (64 << 20).to_string());
    assert_eq!(file(&f, "memory.low"), (32 << 20).to_string());
    assert_eq!(file(&f, "memory.swap.max"), (16 << 20).to_string());
    assert_eq!(file(&f, "cpu.weight"), "174");
    assert_eq!(file(&f, "cpu.max"), "20000 50000");
    assert_eq!(file(&f, "cpu.max.burst"), "1000");
    assert_eq!(file(&f, "cpuset.cpus"), "1");
    assert_eq!(file(&f, "cpuset.mems"), "0");
    assert_eq!(file(&f, "pids.max"), "17");
    assert_eq!(file(&f, "io.max"), format!("{disk} rbps=1048576 wbps=max riops=max wiops=77"));
    assert_eq!(file(&f, "hugetlb.2MB.max"), (4 << 20).to_string());
    assert_eq!(file(&f, "hugetlb.2MB.rsvd.max"), (4 << 20).to_string());
    // What limits a group is seen in it.
    assert_eq!(f.exec("cat /sys/fs/cgroup/pids.max").ok(), "17\n");
    f.call(&[
        "update",
        "--cpu-quota",
        "-1",
        "--cpuset-cpus",
        "0",
        "--memory-swap",
        "-1",
        "--blkio-weight",
        "10",
        "c",
    ])
    .ok();
    assert_eq!(file(&f, "cpu.max"), "max 50000");
    assert_eq!(file(&f, "cpuset.cpus"), "0");
    assert_eq!(file(&f, "memory.swap.max"), "max");
    f.call(&["update", "--cpu-period", "100000", "c"]).ok();
    assert_eq!(file(&f, "cpu.max"), "max 100000");
}

/// What systemd or docker in a container do: their processes go into a group below, and controllers are handed on.
pub(crate) fn a_group_of_inner_groups_takes_more_processes() {
    let f = Fixture::new(
        "cd /sys/fs/cgroup; mkdir init; echo 1 > init/cgroup.procs; echo +pids > cgroup.subtree_control; exec sleep 100",
    )
    .with(|c| {
        let mounts = c["mounts"].as_array_mut().unwrap();
        mounts.retain(|m| m["destination"] != "/sys/fs/cgroup");
        mounts.push(json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["rw"]}));
    });
    f.start();
    crate::harness::eventually("controllers are handed on", || file(&f, "cgroup.subtree_control") == "pids");
    assert_eq!(f.exec("cat /proc/self/cgroup").ok(), "0::/init\n");
    assert_eq!(f.call(&["exec", "--cgroup", "init", "c", "cat", "/proc/self/cgroup"]).ok(), "0::/init\n");
    let pids: Vec<i32> = serde_json::from_str(&f.call(&["ps", "-f", "json", "c"]).ok()).unwrap();
    assert_eq!(pids.len(), 1);
    f.call(&["delete", "--force", "c"]).ok();
    f.assert_gone();
}

pub(crate) fn whatever_unified_says_is_written() {
    let f = Fixture::new("exec sleep 100").with(|c| {
        c["linux"]["resources"]["unified"] =
            json!({"memory.high": "33554432", "pids.max": "11", "memory.oom.group": "1"});
    });
    f.start();
    assert_eq!(file(&f, "memory.high"), "33554432");
    assert_eq!(file(&f, "pids.max"), "11");
    assert_eq!(file(&f, "memory.oom.group"), "1");
    fs::write(f.path("r.json"), r#"{"unified": {"memory.high": "max"}}"#).unwrap();
    f.call(&["update", "-r", f.path("r.json").to_str().unwrap(), "c"]).ok();
    assert_eq!(file(&f, "memory.high"), "max");
    for (name, value, why) in
        [("moon.max", "1", "moon.max"), ("../x", "1", "no file's name"), ("memory.max", "many", "memory.max")]
    {
        let f = Fixture::new("true").with(|c| c["linux"]["resources"]["unified"] = json!({name: value}));
        f.call(&["create", "c"]).fails(1, why);
        f.assert_gone();
    }
}

pub(crate) fn controllers_are_handed_on_to_a_container_with_its_own_namespace() {
    let f = Fixture::new("exec sleep 100");
    f.start();
    let here = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap();
    let there = f.exec("cat /sys/fs/cgroup/cgroup.controllers").ok();
    for controller in ["cpu", "cpuset", "io", "memory", "pids", "hugetlb"] {
        assert!(here.contains(controller), "{here}");
        assert!(there.contains(controller), "{there}");
    }
}
