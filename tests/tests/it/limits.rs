//! Limits that the kernel must enforce.

use sampan_testkit::{Instance, wait_until};

crate::cases! {
    a_cpu_limit_holds_a_busy_loop [CpuAccounting],
    a_memory_limit_kills_and_says_so,
    a_pids_limit_stops_forks,
    a_cpuset_is_seen_inside,
    limits_change_while_it_runs_and_stats_show_them [Docker],
    a_paused_container_is_frozen [Docker],
}

/// A file of a container's cgroup, of whichever version the host has.
fn cgroup(it: &Instance, name: &str, v1: (&str, &str), v2: &str) -> String {
    let id = it.inspect(name, "/Id");
    let id = id.as_str().unwrap();
    let unified = format!("/sys/fs/cgroup/sampan/{id}/{v2}");
    let path = match std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        true => unified,
        false => format!("/sys/fs/cgroup/{}/sampan/{id}/{}", v1.0, v1.1),
    };
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}")).trim().to_owned()
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

fn limits_change_while_it_runs_and_stats_show_them() {
    let it = Instance::new();
    let limits = ["--memory", "64m", "--memory-swap", "64m", "--pids-limit", "50", "--cpus", "0.5"];
    it.docker([&["run", "-d", "--name", "c1"][..], &limits, &["busybox", "sleep", "1000"]].concat()).ok();
    let memory = || cgroup(&it, "c1", ("memory", "memory.limit_in_bytes"), "memory.max");
    let pids = || cgroup(&it, "c1", ("pids", "pids.max"), "pids.max");
    assert_eq!((memory(), pids()), ((64 << 20).to_string(), "50".to_owned()));
    let changed = [
        "--memory",
        "96m",
        "--memory-swap",
        "128m",
        "--pids-limit",
        "60",
        "--cpus",
        "1.5",
        "--cpuset-cpus",
        "0",
    ];
    it.docker([&["update"][..], &changed, &["c1"]].concat()).ok();
    assert_eq!((memory(), pids()), ((96 << 20).to_string(), "60".to_owned()));
    let quota = cgroup(&it, "c1", ("cpu", "cpu.cfs_quota_us"), "cpu.max");
    assert_eq!(quota.split(' ').next(), Some("150000"));
    assert_eq!(cgroup(&it, "c1", ("cpuset", "cpuset.cpus"), "cpuset.cpus"), "0");
    let shown = it.docker(["stats", "--no-stream", "--format", "{{.MemUsage}} {{.PIDs}}", "c1"]).ok();
    assert!(shown.text().ends_with("/ 96MiB 1"), "{shown}");
    // A second start has what was changed.
    it.docker(["restart", "-t", "0", "c1"]).ok();
    assert_eq!((memory(), pids()), ((96 << 20).to_string(), "60".to_owned()));
}

fn a_paused_container_is_frozen() {
    let it = Instance::new();
    it.docker(["run", "-d", "--name", "c1", "busybox", "sleep", "1000"]).ok();
    let frozen = || {
        let state = cgroup(&it, "c1", ("freezer", "freezer.state"), "cgroup.events");
        state == "FROZEN" || state.contains("frozen 1")
    };
    assert!(!frozen());
    it.docker(["pause", "c1"]).ok();
    assert!(frozen());
    // A daemon that comes later finds it as it is.
    it.kill_9();
    it.start();
    assert_eq!(it.inspect("c1", "/State/Status"), "paused");
    it.docker(["unpause", "c1"]).ok();
    assert!(!frozen());
    it.docker(["pause", "c1"]).ok();
    it.docker(["rm", "-f", "c1"]).ok();
}
