//! Limits that the kernel must enforce.

use sampan_testkit::{Instance, wait_until};

crate::cases! {
    a_cpu_limit_holds_a_busy_loop [CpuAccounting],
    a_memory_limit_kills_and_says_so,
    a_pids_limit_stops_forks,
    a_cpuset_is_seen_inside,
}

/// The processor time that a container has used, in seconds, by its processes' own accounts.
fn used(it: &Instance, name: &str) -> f64 {
    let id = it.inspect(name, "/Id");
    let id = id.as_str().unwrap();
    let v1 = format!("/sys/fs/cgroup/cpuacct/sampan/{id}/cpuacct.usage");
    if let Ok(text) = std::fs::read_to_string(v1) {
        return text.trim().parse::<f64>().unwrap() / 1e9;
    }
    let text = std::fs::read_to_string(format!("/sys/fs/cgroup/sampan/{id}/cpu.stat")).unwrap();
    let line = text.lines().find_map(|l| l.strip_prefix("usage_usec ")).unwrap();
    line.parse::<f64>().unwrap() / 1e6
}

fn a_cpu_limit_holds_a_busy_loop() {
    let it = Instance::new();
    it.sampan(["run", "-d", "--name", "c1", "--cpus", "0.2", "busybox", "sh", "-c", "while :; do :; done"])
        .ok();
    let id = it.inspect("c1", "/Id");
    let id = id.as_str().unwrap();
    let v1 = format!("/sys/fs/cgroup/cpu/sampan/{id}");
    if let Ok(quota) = std::fs::read_to_string(format!("{v1}/cpu.cfs_quota_us")) {
        assert_eq!(
            (quota.trim(), std::fs::read_to_string(format!("{v1}/cpu.cfs_period_us")).unwrap().trim()),
            ("20000", "100000")
        );
    } else {
        let max = std::fs::read_to_string(format!("/sys/fs/cgroup/sampan/{id}/cpu.max")).unwrap();
        assert_eq!(max.trim(), "20000 100000");
    }
    let (start, before) = (std::time::Instant::now(), used(&it, "c1"));
    wait_until("it has used some processor time", || used(&it, "c1") - before > 0.3);
    let share = (used(&it, "c1") - before) / start.elapsed().as_secs_f64();
    assert!(share < 0.35, "it gets {share} of a processor");
}

fn a_memory_limit_kills_and_says_so() {
    let it = Instance::new();
    let eats = "x=0123456789abcdef; while :; do x=$x$x; done";
    it.sampan([
        "run",
        "--name",
        "c1",
        "--memory",
        "64m",
        "--memory-swap",
        "64m",
        "busybox",
        "sh",
        "-c",
        eats,
    ])
    .code(137);
    assert_eq!(it.inspect("c1", "/State/OOMKilled"), true);
    assert_eq!(it.inspect("c1", "/State/ExitCode"), 137);
    assert_eq!(it.inspect("c1", "/HostConfig/Memory"), 64 << 20);
    it.sampan(["run", "--name", "d1", "--memory", "64m", "busybox", "true"]).ok();
    assert_eq!(it.inspect("d1", "/State/OOMKilled"), false);
}

fn a_pids_limit_stops_forks() {
    let it = Instance::new();
    let forks = "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 1000 & done; echo all";
    let output = it.sampan(["run", "--rm", "--pids-limit", "6", "busybox", "sh", "-c", forks]);
    assert!(output.stderr.contains("fork"), "{output}");
    it.sampan(["run", "--rm", "--pids-limit", "30", "busybox", "sh", "-c", forks]).ok().is("all");
}

fn a_cpuset_is_seen_inside() {
    let it = Instance::new();
    let script = "grep Cpus_allowed_list /proc/self/status";
    let output = it.sampan(["run", "--rm", "--cpuset-cpus", "0", "busybox", "sh", "-c", script]).ok();
    assert_eq!(output.text().split_whitespace().next_back(), Some("0"), "{output}");
}
