//! Control groups: limits, update, freezer, accounts.

use serde_json::{Value, json};

use crate::harness::{Fixture, eventually};

#[test]
fn limits_are_written() {
    let f = Fixture::new("exec sleep 100").with(|c| {
        c["linux"]["resources"]["memory"] =
            json!({"limit": 64 << 20, "swap": 64 << 20, "reservation": 32 << 20});
        c["linux"]["resources"]["cpu"] =
            json!({"shares": 512, "quota": 20000, "period": 100_000, "cpus": "0", "mems": "0"});
        c["linux"]["resources"]["pids"] = json!({"limit": 17});
    });
    f.start();
    assert_eq!(f.cgroup_file("memory.limit_in_bytes", "memory.max"), (64 << 20).to_string());
    assert_eq!(f.cgroup_file("memory.soft_limit_in_bytes", "memory.low"), (32 << 20).to_string());
    let quota = f.cgroup_file("cpu.cfs_quota_us", "cpu.max");
    assert!(quota == "20000" || quota == "20000 100000");
    let weight = f.cgroup_file("cpu.shares", "cpu.weight");
    assert!(weight == "512" || weight == "59", "{weight}");
    assert_eq!(f.cgroup_file("cpuset.cpus", "cpuset.cpus"), "0");
    assert_eq!(f.cgroup_file("pids.max", "pids.max"), "17");
    assert_eq!(f.exec("grep Cpus_allowed_list /proc/self/status | cut -f2").ok(), "0\n");
}

#[test]
fn the_process_is_in_the_group_in_every_hierarchy() {
    let f = Fixture::running("exec sleep 100");
    let pid = f.state()["pid"].to_string();
    let groups = f.cgroups();
    assert!(!groups.is_empty());
    for group in groups {
        assert_eq!(
            std::fs::read_to_string(group.join("cgroup.procs")).unwrap().trim(),
            pid,
            "{}",
            group.display()
        );
    }
    // And so is what exec adds.
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    f.call(&["exec", "-d", "c", "sleep", "101"]).ok();
    let pids: Vec<i32> = serde_json::from_str(&f.call(&["ps", "-f", "json", "c"]).ok()).unwrap();
    for pid in pids {
        assert_eq!(std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap(), text);
    }
}

#[test]
fn a_group_in_use_is_shared_with_a_warning_and_nobody_elses_process_is_ended() {
    let f = Fixture::running("exec sleep 100");
    let output = f.call(&["run", "-d", "d"]);
    assert!(
        output.code == 0 && output.err.contains("container's cgroup is not empty: 1 process"),
        "{output:?}"
    );
    f.call(&["delete", "--force", "d"]).ok();
    assert_eq!(f.status(), "running");
    f.call(&["delete", "--force", "c"]).ok();
    f.assert_gone();
    // An empty one is somebody's preparation for us.
    let f = Fixture::new("echo fine");
    std::fs::create_dir_all(format!("/sys/fs/cgroup/cpuset{}/c", f.cgroup)).unwrap();
    assert_eq!(f.run().ok(), "fine\n");
}

#[test]
fn the_number_of_processes_is_limited() {
    let f = Fixture::new("for i in 1 2 3 4 5 6 7 8; do sleep 1 & done; wait")
        .with(|c| c["linux"]["resources"]["pids"] = json!({"limit": 4}));
    let output = f.run();
    assert!(output.err.contains("can't fork"), "{output:?}");
}

#[test]
fn memory_is_limited() {
    let f = Fixture::new(
        "head -c 200m /dev/zero | wc -c > /dev/null; x=$(yes | head -c 100000000); echo survived",
    )
    .with(|c| {
        c["linux"]["resources"]["memory"] = json!({"limit": 16 << 20, "swap": 16 << 20});
    });
    let output = f.run();
    assert!(!output.out.contains("survived") && output.code == 137, "{output:?}");
    f.assert_gone();
}

#[test]
fn a_container_of_little_memory_starts() {
    let f = Fixture::new("echo fine").with(|c| c["linux"]["resources"]["memory"] = json!({"limit": 4 << 20}));
    assert_eq!(f.run().ok(), "fine\n");
}

#[test]
fn devices_that_are_not_allowed_are_of_no_use() {
    let script = "mknod /tmp/null c 1 3 && echo x > /tmp/null && echo null; mknod /tmp/mem c 1 1 && head -c 1 /tmp/mem";
    let cap = |c: &mut Value| {
        for set in ["bounding", "effective", "permitted"] {
            c["process"]["capabilities"][set] = json!(["CAP_MKNOD", "CAP_SYS_RAWIO"]);
        }
    };
    let output = Fixture::new(script).with(cap).run();
    assert!(output.out.contains("null") && output.err.contains("Operation not permitted"), "{output:?}");
    let all = Fixture::new(script).with(cap).with(|c| {
        c["linux"]["resources"]["devices"] = json!([{"allow": true, "access": "rwm"}]);
    });
    let output = all.run();
    assert!(!output.err.contains("Operation not permitted"), "{output:?}");
}

#[test]
fn update_changes_limits_of_a_living_container() {
    let f = Fixture::running("exec sleep 100");
    f.call(&[
        "update",
        "--memory",
        "32m",
        "--memory-swap",
        "64m",
        "--pids-limit",
        "9",
        "--cpu-quota",
        "5000",
        "c",
    ])
    .ok();
    assert_eq!(f.cgroup_file("memory.limit_in_bytes", "memory.max"), (32 << 20).to_string());
    assert_eq!(f.cgroup_file("pids.max", "pids.max"), "9");
    assert!(f.cgroup_file("cpu.cfs_quota_us", "cpu.max").starts_with("5000"));
    // Above what the limit with swap was: the order of the writes has to turn round.
    f.call(&["update", "--memory", "128m", "--memory-swap", "256m", "c"]).ok();
    assert_eq!(f.cgroup_file("memory.limit_in_bytes", "memory.max"), (128 << 20).to_string());
    std::fs::write(f.path("r.json"), r#"{"pids": {"limit": -1}}"#).unwrap();
    f.call(&["update", "-r", f.path("r.json").to_str().unwrap(), "c"]).ok();
    assert_eq!(f.cgroup_file("pids.max", "pids.max"), "max");
    f.call(&["update", "--memory", "many", "c"]).fails(1, "no amount of bytes");
    f.call(&["update", "--cpuset-cpus", "4095", "c"]).fails(1, "cpuset.cpus");
}

#[test]
fn pause_stops_everything_and_resume_lets_it_go_on() {
    let f = Fixture::running("while :; do date +%s%N > /tmp/now; sleep 0.01; done");
    eventually("it runs", || f.rootfs().join("tmp/now").exists());
    f.call(&["pause", "c"]).ok();
    assert_eq!(f.status(), "paused");
    let before = std::fs::read(f.rootfs().join("tmp/now")).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(60));
    assert_eq!(std::fs::read(f.rootfs().join("tmp/now")).unwrap(), before);
    f.exec("true").fails(255, "paused");
    f.call(&["pause", "c"]).fails(1, "paused");
    f.call(&["resume", "c"]).ok();
    assert_eq!(f.status(), "running");
    f.call(&["resume", "c"]).fails(1, "not paused");
    eventually("it goes on", || std::fs::read(f.rootfs().join("tmp/now")).unwrap() != before);
}

#[test]
fn a_paused_container_can_be_killed_and_deleted() {
    let f = Fixture::running("exec sleep 100");
    f.call(&["pause", "c"]).ok();
    f.call(&["kill", "c", "KILL"]).ok();
    eventually("it has ended", || f.status() == "stopped");
    f.call(&["delete", "c"]).ok();
    let f = Fixture::running("exec sleep 100");
    f.call(&["pause", "c"]).ok();
    f.call(&["delete", "--force", "c"]).ok();
    f.assert_gone();
}

#[test]
fn stats_tell_what_is_used() {
    let f = Fixture::running("i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; exec sleep 100");
    let event: Value = serde_json::from_str(&f.call(&["events", "--stats", "c"]).ok()).unwrap();
    assert_eq!((&event["type"], &event["id"]), (&"stats".into(), &"c".into()));
    assert!(event["data"]["cpu"]["usage"]["total"].as_u64().unwrap() > 0);
    assert!(event["data"]["memory"]["usage"]["usage"].as_u64().unwrap() > 0);
    assert_eq!(event["data"]["pids"]["current"], 1);
}

#[test]
fn events_tell_of_lack_of_memory_and_end_with_the_container() {
    let f = Fixture::new("sleep 0.3; x=$(yes | head -c 100000000); echo survived").with(|c| {
        c["linux"]["resources"]["memory"] = json!({"limit": 16 << 20, "swap": 16 << 20});
    });
    f.start();
    let text = f.call(&["events", "--interval", "50ms", "c"]).ok();
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events[0]["type"], "stats");
    assert!(events.iter().any(|e| *e == json!({"type": "oom", "id": "c"})), "{text}");
}

#[test]
fn groups_that_the_container_made_are_removed() {
    let f = Fixture::running("exec sleep 100");
    for group in f.cgroups() {
        std::fs::create_dir_all(group.join("made/inside")).unwrap();
    }
    f.call(&["delete", "--force", "c"]).ok();
    f.assert_gone();
}

#[test]
fn a_group_that_was_there_stays_after_an_error() {
    let f = Fixture::new("true");
    let groups: Vec<_> = std::fs::read_dir("/sys/fs/cgroup").unwrap().map(|h| h.unwrap().path()).collect();
    let freezer = groups.iter().find(|g| g.join("cgroup.procs").exists() && g.ends_with("freezer"));
    // On a host of v2 alone, the root is the one hierarchy.
    let root = freezer.cloned().unwrap_or_else(|| "/sys/fs/cgroup".into());
    let group = root.join(&f.cgroup[1..]).join("c");
    std::fs::create_dir_all(&group).unwrap();
    let freeze = |v1: &str, v2: &str| {
        let (file, text) = match group.join("freezer.state") {
            file if file.exists() => (file, v1),
            _ => (group.join("cgroup.freeze"), v2),
        };
        std::fs::write(file, text).unwrap();
    };
    freeze("FROZEN", "1");
    for _ in 0..2 {
        f.call(&["create", "c"]).fails(1, "unexpectedly frozen");
        assert_eq!(f.cgroups(), std::slice::from_ref(&group));
    }
    freeze("THAWED", "0");
    std::fs::remove_dir(&group).unwrap();
}
