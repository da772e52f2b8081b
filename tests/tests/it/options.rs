//! What else `run` and `create` can be told: namespaces, privileges, devices, an init.

use sampan_testkit::{Instance, wait_until};

use crate::mounts::post;

crate::cases! {
    an_init_reaps_passes_signals_on_and_ends_as_its_program [Docker],
    ipc_modes_share_what_they_should [Docker],
    namespaces_of_the_host_and_of_others [Docker],
    a_seccomp_profile_of_ones_own_is_applied [Docker],
    privileges_are_given_taken_and_shown [Docker],
    devices_and_their_rules [Docker],
    limits_of_block_devices_reach_the_cgroup [Docker],
    ulimits_sysctls_and_groups_reach_the_process [Docker],
    limits_change_while_it_runs [Docker],
    what_the_host_cant_do_is_a_warning [Curl],
    what_makes_no_sense_is_refused_in_dockers_words [Curl],
}

fn an_init_reaps_passes_signals_on_and_ends_as_its_program() {
    let it = Instance::new();
    it.docker(["run", "--rm", "--init", "busybox", "sh", "-c", "exit 7"]).code(7);
    it.docker(["run", "--rm", "--init", "busybox", "cat", "/proc/1/comm"]).ok().is("docker-init");
    it.docker(["run", "--rm", "--init", "busybox", "no-such-program"]).code(127).complains("no-such-program");
    it.docker([
        "run",
        "-d",
        "--name",
        "c1",
        "--init",
        "busybox",
        "sh",
        "-c",
        "trap 'echo got; exit 3' TERM; while :; do sleep 0.1; done",
    ])
    .ok();
    // Orphans are reaped, not left as zombies.
    it.docker(["exec", "c1", "sh", "-c", "(sleep 0.01 &)"]).ok();
    wait_until("there is no zombie", || !it.docker(["exec", "c1", "ps"]).ok().stdout.contains("[sleep]"));
    it.docker(["stop", "c1"]).ok();
    assert_eq!(it.inspect("c1", "/State/ExitCode"), 3);
    it.docker(["logs", "c1"]).ok().is("got");
    assert_eq!(it.inspect("c1", "/Path"), "sh");
    assert_eq!(it.inspect("c1", "/HostConfig/Init"), true);
    it.docker(["run", "--rm", "--init", "busybox", "sh", "-c", "kill -9 $$"]).code(137);
    it.docker(["run", "--rm", "--init", "busybox", "sh", "-c", "echo x > /sbin/docker-init"])
        .code(1)
        .complains("Read-only");
}

fn ipc_modes_share_what_they_should() {
    let it = Instance::new();
    let run = |name: &str, mode: &str| {
        it.docker(["run", "-d", "--name", name, "--ipc", mode, "busybox", "sleep", "1000"])
    };
    run("donor", "shareable").ok();
    it.docker(["exec", "donor", "touch", "/dev/shm/f"]).ok();
    it.docker(["run", "--rm", "--ipc", "container:donor", "busybox", "ls", "/dev/shm"]).ok().is("f");
    let namespace =
        |name: &str| it.docker(["exec", name, "readlink", "/proc/self/ns/ipc"]).ok().text().to_owned();
    run("guest", "container:donor").ok();
    assert_eq!(namespace("donor"), namespace("guest"));
    run("own", "private").ok();
    it.docker(["run", "--rm", "--ipc", "container:own", "busybox", "true"])
        .code(125)
        .complains("non-shareable IPC");
    it.docker(["run", "--rm", "--ipc", "none", "busybox", "grep", "/dev/shm", "/proc/mounts"]).code(1);
    it.docker(["run", "--rm", "--ipc", "host", "busybox", "readlink", "/proc/self/ns/ipc"])
        .ok()
        .is(std::fs::read_link("/proc/self/ns/ipc").unwrap().to_str().unwrap());
    assert_eq!(it.inspect("donor", "/HostConfig/IpcMode"), "shareable");
    it.docker(["rm", "-f", "donor", "guest", "own"]).ok();
    let left = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!left.contains(it.state().to_str().unwrap()), "{left}");
}

fn namespaces_of_the_host_and_of_others() {
    let it = Instance::new();
    it.docker(["run", "-d", "--name", "c1", "--hostname", "one", "busybox", "sleep", "54321"]).ok();
    it.docker(["run", "--rm", "--pid", "container:c1", "busybox", "ps"]).ok().says("sleep 54321");
    let mine =
        |kind: &str| std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().display().to_string();
    let theirs = |flag: &str, kind: &str| {
        it.docker(["run", "--rm", flag, "host", "busybox", "readlink", &format!("/proc/self/ns/{kind}")])
            .ok()
            .text()
            .to_owned()
    };
    for (flag, kind) in [("--pid", "pid"), ("--uts", "uts"), ("--cgroupns", "cgroup"), ("--ipc", "ipc")] {
        assert_eq!(theirs(flag, kind), mine(kind));
    }
    let own = it
        .docker(["run", "--rm", "--cgroupns", "private", "busybox", "readlink", "/proc/self/ns/cgroup"])
        .ok();
    assert_ne!(own.text(), mine("cgroup"));
    it.docker(["run", "--rm", "--pid", "container:nobody", "busybox", "true"])
        .code(125)
        .complains("No such container: nobody");
    it.docker(["create", "--name", "off", "busybox", "true"]).ok();
    it.docker(["run", "--rm", "--pid", "container:off", "busybox", "true"])
        .code(125)
        .complains("is not running");
}

fn a_seccomp_profile_of_ones_own_is_applied() {
    let it = Instance::new();
    let profile = it.scratch().join("profile.json");
    let text = r#"{"defaultAction":"SCMP_ACT_ALLOW","archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86"]},
        {"architecture":"SCMP_ARCH_AARCH64","subArchitectures":[]}],
        "syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":13,"excludes":{"caps":["CAP_SYS_ADMIN"]}}]}"#;
    std::fs::write(&profile, text).unwrap();
    let option = format!("seccomp={}", profile.display());
    it.docker(["run", "--rm", "--security-opt", &option, "busybox", "mkdir", "/x"])
        .code(1)
        .complains("Permission denied");
    it.docker(["run", "--rm", "--security-opt", &option, "--cap-add", "SYS_ADMIN", "busybox", "mkdir", "/x"])
        .ok();
    it.docker(["run", "--rm", "busybox", "grep", "Seccomp:", "/proc/self/status"]).ok().says("2");
    it.docker([
        "run",
        "--rm",
        "--security-opt",
        "seccomp=unconfined",
        "busybox",
        "grep",
        "Seccomp:",
        "/proc/self/status",
    ])
    .ok()
    .says("0");
    let body = r#"{"Image":"busybox","Cmd":"true","HostConfig":{"SecurityOpt":["seccomp={bad"]}}"#;
    post(&it, "/containers/create?name=c1", body).ok();
    it.docker(["start", "c1"]).code(1).complains("Decoding seccomp profile failed");
}

fn privileges_are_given_taken_and_shown() {
    let it = Instance::new();
    let effective = |arguments: &[&str]| {
        let all: Vec<&str> =
            [&["run", "--rm"], arguments, &["busybox", "grep", "CapEff", "/proc/self/status"]].concat();
        let text = it.docker(all).ok().text().to_owned();
        u64::from_str_radix(text.rsplit('\t').next().unwrap(), 16).unwrap()
    };
    assert_eq!(effective(&["--cap-drop", "ALL"]), 0);
    assert_eq!(effective(&["--cap-drop", "ALL", "--cap-add", "NET_ADMIN"]), 1 << 12);
    assert_eq!(effective(&["--cap-drop", "CHOWN"]) & 1, 0);
    it.docker(["run", "--rm", "--cap-add", "NONSENSE", "busybox", "true"])
        .code(125)
        .complains("CAP_NONSENSE");
    it.docker([
        "run",
        "--rm",
        "--security-opt",
        "no-new-privileges",
        "busybox",
        "grep",
        "NoNewPrivs",
        "/proc/self/status",
    ])
    .ok()
    .says("1");
    it.docker([
        "run",
        "--rm",
        "--security-opt",
        "apparmor=unconfined",
        "--security-opt",
        "label=disable",
        "busybox",
        "true",
    ])
    .ok();
    it.docker(["run", "--rm", "busybox", "sh", "-c", "echo 1 > /proc/sys/kernel/domainname"])
        .code(1)
        .complains("Read-only");
    it.docker([
        "run",
        "--rm",
        "--security-opt",
        "systempaths=unconfined",
        "busybox",
        "sh",
        "-c",
        "grep ' /proc/sys ' /proc/mounts",
    ])
    .code(1);
    it.docker(["run", "--rm", "--privileged", "busybox", "sh", "-c", "test -e /dev/loop-control -o -e /dev/kmsg && mount -t tmpfs x /mnt 2>/dev/null || mkdir /m && mount -t tmpfs x /m"]).ok();
    it.docker(["run", "--rm", "--group-add", "extra", "--group-add", "4444", "busybox", "id", "-G"])
        .ok()
        .says("44 4444");
}

fn devices_and_their_rules() {
    let it = Instance::new();
    it.docker([
        "run",
        "--rm",
        "--device",
        "/dev/null:/dev/nichts:rw",
        "busybox",
        "stat",
        "-c",
        "%t:%T",
        "/dev/nichts",
    ])
    .ok()
    .is("1:3");
    it.docker(["run", "--rm", "--device", "/dev/nothing", "busybox", "true"])
        .code(125)
        .complains("error gathering device information");
    let make = "mknod /x c 10 229 && : < /x";
    it.docker(["run", "--rm", "busybox", "sh", "-c", make]).code(1);
    it.docker(["run", "--rm", "--device-cgroup-rule", "c 10:229 rwm", "busybox", "sh", "-c", make]).ok();
}

fn limits_of_block_devices_reach_the_cgroup() {
    let it = Instance::new();
    let device = std::fs::read_dir("/sys/block")
        .unwrap()
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned());
    let Some(device) = device.into_iter().find(|name| std::path::Path::new(&format!("/dev/{name}")).exists())
    else {
        return;
    };
    let numbers = std::fs::read_to_string(format!("/sys/block/{device}/dev")).unwrap().trim().to_owned();
    let limit = |n: &str| format!("/dev/{device}:{n}");
    it.docker([
        "run",
        "-d",
        "--name",
        "c1",
        "--device-read-bps",
        &limit("1mb"),
        "--device-write-iops",
        &limit("77"),
        "busybox",
        "sleep",
        "1000",
    ])
    .ok();
    let id = it.inspect("c1", "/Id");
    let id = id.as_str().unwrap();
    let read =
        |file: &str| std::fs::read_to_string(format!("/sys/fs/cgroup/blkio/sampan/{id}/{file}")).unwrap();
    if std::path::Path::new("/sys/fs/cgroup/blkio").exists() {
        assert_eq!(read("blkio.throttle.read_bps_device").trim(), format!("{numbers} 1048576"));
        assert_eq!(read("blkio.throttle.write_iops_device").trim(), format!("{numbers} 77"));
    } else {
        let text = std::fs::read_to_string(format!("/sys/fs/cgroup/sampan/{id}/io.max")).unwrap();
        assert!(text.contains("rbps=1048576") && text.contains("wiops=77"), "{text}");
    }
    assert_eq!(it.inspect("c1", "/HostConfig/BlkioDeviceReadBps/0/Rate"), 1 << 20);
    it.docker(["run", "--rm", "--device-read-bps", "/dev/nothing:1mb", "busybox", "true"])
        .code(125)
        .complains("/dev/nothing");
}

fn ulimits_sysctls_and_groups_reach_the_process() {
    let it = Instance::new();
    it.docker(["run", "--rm", "--ulimit", "nofile=100:200", "busybox", "sh", "-c", "ulimit -Sn; ulimit -Hn"])
        .ok()
        .is("100\n200");
    it.docker([
        "run",
        "--rm",
        "--sysctl",
        "net.ipv4.ip_forward=1",
        "busybox",
        "cat",
        "/proc/sys/net/ipv4/ip_forward",
    ])
    .ok()
    .is("1");
    it.docker(["run", "--rm", "--oom-score-adj", "500", "busybox", "cat", "/proc/self/oom_score_adj"])
        .ok()
        .is("500");
    it.docker([
        "run",
        "--rm",
        "--cgroup-parent",
        "/sampan/below",
        // As it is by default with cgroup v1: in a namespace of its own it would see `/`.
        "--cgroupns",
        "host",
        "busybox",
        "cat",
        "/proc/self/cgroup",
    ])
    .ok()
    .says("/sampan/below/");
}

fn limits_change_while_it_runs() {
    let it = Instance::new();
    it.docker(["run", "-d", "--name", "c1", "--memory", "64m", "busybox", "sleep", "1000"]).ok();
    it.docker(["update", "--memory", "100m", "--pids-limit", "33", "--cpu-shares", "512", "c1"])
        .ok()
        .is("c1");
    let id = it.inspect("c1", "/Id");
    let id = id.as_str().unwrap();
    let v1 = format!("/sys/fs/cgroup/memory/sampan/{id}/memory.limit_in_bytes");
    let limit = std::fs::read_to_string(v1)
        .or_else(|_| std::fs::read_to_string(format!("/sys/fs/cgroup/sampan/{id}/memory.max")));
    assert_eq!(limit.unwrap().trim(), (100 << 20).to_string());
    let v1 = format!("/sys/fs/cgroup/pids/sampan/{id}/pids.max");
    let pids = std::fs::read_to_string(v1)
        .or_else(|_| std::fs::read_to_string(format!("/sys/fs/cgroup/sampan/{id}/pids.max")));
    assert_eq!(pids.unwrap().trim(), "33");
    assert_eq!(it.inspect("c1", "/HostConfig/Memory"), 100 << 20);
    assert_eq!(it.inspect("c1", "/HostConfig/CpuShares"), 512);
    it.docker(["update", "--memory", "1g", "c1"])
        .code(1)
        .complains("Memory limit should be smaller than already set memoryswap limit");
    it.docker(["update", "--memory", "1m", "c1"]).code(1).complains("Minimum memory limit allowed is 6MB");
    it.docker(["update", "--cpus", "1", "c1"]).ok();
    it.docker(["update", "--cpu-quota", "5000", "c1"])
        .code(1)
        .complains("CPU Quota cannot be updated as NanoCPUs has already been set");
    let stats = it.get("/containers/c1/stats?stream=0&one-shot=1").ok().json();
    assert_eq!(stats["memory_stats"]["limit"], 100 << 20);
    assert_eq!(stats["pids_stats"]["current"], 1);
    assert_eq!(stats["precpu_stats"]["cpu_usage"]["total_usage"], 0);
    assert!(
        stats["cpu_stats"]["system_cpu_usage"].as_u64().unwrap() > 0
            && stats["networks"]["eth0"]["rx_bytes"].is_u64()
    );
    it.docker(["stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}} {{.PIDs}}"])
        .ok()
        .says("c1 ")
        .says("100MiB 1");
    let twice = it.get("/containers/c1/stats?stream=0").ok().json();
    assert!(
        twice["precpu_stats"]["system_cpu_usage"].as_u64().unwrap() > 0
            && twice["preread"] != "0001-01-01T00:00:00Z"
    );
    it.docker(["create", "--name", "off", "busybox", "true"]).ok();
    assert_eq!(it.get("/containers/off/stats?stream=0").ok().json()["read"], "0001-01-01T00:00:00Z");
}

fn what_the_host_cant_do_is_a_warning() {
    let it = Instance::new();
    let body = r#"{"Image":"busybox","Cmd":"true","HostConfig":{"NetworkMode":"host","PortBindings":{"80/tcp":[{"HostPort":"8080"}]},"OomKillDisable":true}}"#;
    let warnings = post(&it, "/containers/create", body).ok().json()["Warnings"].to_string();
    assert!(warnings.contains("Published ports are discarded when using host network mode"), "{warnings}");
    assert!(
        warnings.contains("OOM killer is disabled for the container")
            || warnings.contains("OomKillDisable discarded"),
        "{warnings}"
    );
}

fn what_makes_no_sense_is_refused_in_dockers_words() {
    let it = Instance::new();
    for (host, words) in [
        (r#"{"Memory":1000}"#, "Minimum memory limit allowed is 6MB"),
        (r#"{"MemorySwap":10000000}"#, "You should always set the Memory limit when using Memoryswap limit"),
        (r#"{"NanoCpus":900000000000}"#, "Range of CPUs is from 0.01 to"),
        (r#"{"CpusetCpus":"900"}"#, "Requested CPUs are not available - requested 900, available:"),
        (r#"{"OomScoreAdj":2000}"#, "Invalid value 2000, range for oom score adj is [-1000, 1000]"),
        (r#"{"MemorySwappiness":-2}"#, "Invalid value: -2, valid memory swappiness range is 0-100"),
        (r#"{"ShmSize":-1}"#, "SHM size can not be less than 0"),
        (
            r#"{"StorageOpt":{"size":"1G"}}"#,
            "--storage-opt is supported only for overlay over xfs with 'pquota' mount option",
        ),
        (r#"{"Runtime":"x"}"#, "Unknown runtime specified x"),
        (r#"{"Mounts":[{"Type":"npipe","Target":"/x"}]}"#, "mount type unknown"),
        (r#"{"Mounts":[{"Type":"cluster","Target":"/x"}]}"#, "mount type unknown"),
    ] {
        let body = format!(r#"{{"Image":"busybox","Cmd":"true","HostConfig":{host}}}"#);
        let told = post(&it, "/containers/create", &body).ok().json()["message"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        assert!(told.contains(words), "{host}: {told}");
    }
    for (config, words) in [
        (r#""Env":["=x"]"#, "invalid environment variable: =x"),
        (r#""StopSignal":"x""#, "Invalid signal: x"),
    ] {
        let told =
            post(&it, "/containers/create", &format!(r#"{{"Image":"busybox","Cmd":"true",{config}}}"#))
                .ok()
                .stdout;
        assert!(told.contains(words), "{told}");
    }
}
