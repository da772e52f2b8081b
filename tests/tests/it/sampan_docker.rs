//! Our client beside Docker's on Debian's dockerd: what both ask for.

use sampan_testkit::{Dockerd, busybox};

use crate::docker::NEW_DOCKER;

crate::cases! {
    run_asks_for_what_dockers_run_asks_for [Dockerd, NewDocker],
}

/// Debian's dockerd with the base image in it.
pub(crate) fn peer() -> Dockerd {
    let dockerd = Dockerd::start(NEW_DOCKER, &[]);
    dockerd.sampan(["import", busybox::archive().to_str().unwrap(), "busybox:latest"]).run().ok();
    dockerd
}

/// What a container is to be, without what differs from one to the next.
fn wanted(inspected: &str, name: &str) -> serde_json::Value {
    let mut all: serde_json::Value = serde_json::from_str(inspected).unwrap();
    let one = all[0].as_object_mut().unwrap();
    one.retain(|key, _| matches!(key.as_str(), "Config" | "HostConfig" | "Path" | "Args" | "Mounts"));
    let text = serde_json::to_string(&one).unwrap().replace(name, "NAME");
    let mut all: serde_json::Value = serde_json::from_str(&text).unwrap();
    all["Config"]["Hostname"] = "".into();
    all["HostConfig"]["ContainerIDFile"] = "".into();
    // These come in any order.
    if let Some(env) = all["Config"]["Env"].as_array_mut() {
        env.sort_by_key(ToString::to_string);
    }
    if let Some(binds) = all["HostConfig"]["Binds"].as_array_mut() {
        binds.sort_by_key(ToString::to_string);
    }
    if let Some(mounts) = all["Mounts"].as_array_mut() {
        mounts.sort_by_key(|mount| mount["Destination"].to_string());
    }
    // An anonymous volume has a name of its own.
    for mount in all["Mounts"].as_array_mut().into_iter().flatten() {
        if mount["Name"].as_str().is_some_and(|n| n.len() == 64) {
            (mount["Name"], mount["Source"]) = ("".into(), "".into());
        }
    }
    all
}

/// Where two values differ; nothing and something empty are the same wish.
pub(crate) fn compare(at: &str, theirs: &serde_json::Value, ours: &serde_json::Value, out: &mut Vec<String>) {
    use serde_json::Value;
    let empty = |v: &Value| match v {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Bool(yes) => !yes,
        Value::Number(_) => v == 0,
    };
    match (theirs, ours) {
        (Value::Object(a), Value::Object(b)) => {
            for key in a.keys().chain(b.keys().filter(|k| !a.contains_key(*k))) {
                let of = |all: &serde_json::Map<String, Value>| all.get(key).cloned().unwrap_or_default();
                compare(&format!("{at}/{key}"), &of(a), &of(b), out);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (n, (a, b)) in a.iter().zip(b).enumerate() {
                compare(&format!("{at}/{n}"), a, b, out);
            }
        }
        (a, b) if a == b || (empty(a) && empty(b)) => {}
        (a, b) => out.push(format!("{at}: {a} {b}")),
    }
}

fn run_asks_for_what_dockers_run_asks_for() {
    let peer = peer();
    let scratch = peer.scratch();
    let path = |name: &str| scratch.join(name).display().to_string();
    std::fs::write(path("env"), "# note\nFROM_FILE=1\nHOME\n").unwrap();
    std::fs::write(path("labels"), "from.file=1\n").unwrap();
    std::fs::write(path("seccomp"), "{\n  \"defaultAction\": \"SCMP_ACT_ALLOW\"\n}\n").unwrap();
    peer.sampan(["network", "create", "--subnet", "10.123.45.0/24", "n1"]).run().ok();
    peer.sampan([
        "run",
        "-d",
        "--name",
        "other",
        "--network",
        "n1",
        "-v",
        "/shared",
        "busybox",
        "sleep",
        "1000",
    ])
    .run()
    .ok();
    let (env_file, label_file) =
        (format!("--env-file={}", path("env")), format!("--label-file={}", path("labels")));
    let seccomp = format!("seccomp={}", path("seccomp"));
    let bind = format!("{}:/bind:ro", scratch.display());
    let mount = format!("type=bind,source={},target=/m,readonly", scratch.display());
    let sets: &[&[&str]] = &[
        &[],
        &[
            "-it",
            "-e",
            "A=1",
            "-e",
            "B=x y",
            "-w",
            "/tmp",
            "-u",
            "33:33",
            "-h",
            "host",
            "--domainname",
            "example",
            "--rm",
        ],
        &[&env_file, &label_file, "-l", "own=2", "-l", "alone"],
        &["--entrypoint", "/bin/sh", "--stop-signal", "INT", "--stop-timeout", "7", "--init", "--read-only"],
        &["--entrypoint", ""],
        &[
            "-p",
            "80",
            "-p",
            "127.0.0.1:8080:81/udp",
            "-p",
            "9000-9001:90-91",
            "--expose",
            "70-71",
            "-P",
            "--network",
            "n1",
        ],
        &[
            "-v",
            &bind,
            "-v",
            "/anon",
            "-v",
            "data:/data",
            "--mount",
            &mount,
            "--tmpfs",
            "/t:size=1m,mode=700",
        ],
        &[
            "--mount",
            "type=volume,src=data,dst=/d,volume-nocopy,volume-label=a=b",
            "--mount",
            "type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=1700",
        ],
        &[
            "--volumes-from",
            "other:ro",
            "--pid",
            "host",
            "--ipc",
            "shareable",
            "--uts",
            "host",
            "--cgroupns",
            "host",
        ],
        &[
            "-m",
            "64m",
            "--memory-swap",
            "128m",
            "--memory-reservation",
            "32m",
            "--cpus",
            "0.5",
            "-c",
            "512",
            "--cpuset-cpus",
            "0",
        ],
        &[
            "--pids-limit",
            "50",
            "--ulimit",
            "nofile=10:20",
            "--ulimit",
            "core=0",
            "--shm-size",
            "1m",
            "--oom-score-adj",
            "100",
        ],
        &[
            "--cpu-period",
            "100000",
            "--cpu-quota",
            "50000",
            "--blkio-weight",
            "100",
            "--device-read-bps",
            "/dev/null:1mb",
            "--device-write-iops",
            "/dev/null:5",
        ],
        &[
            "--cap-add",
            "NET_ADMIN",
            "--cap-drop",
            "MKNOD",
            "--security-opt",
            &seccomp,
            "--security-opt",
            "no-new-privileges",
        ],
        &[
            "--privileged",
            "--device",
            "/dev/null:/dev/zero2:rw",
            "--device-cgroup-rule",
            "c 1:3 rwm",
            "--group-add",
            "44",
        ],
        &[
            "--sysctl",
            "net.ipv4.ip_forward=1",
            "--restart",
            "on-failure:3",
            "--log-driver",
            "json-file",
            "--log-opt",
            "max-size=1m",
        ],
        &[
            "--dns",
            "1.1.1.1",
            "--dns-search",
            "example",
            "--dns-option",
            "ndots:2",
            "--add-host",
            "a:1.2.3.4",
            "--add-host",
            "b:::1",
        ],
        &[
            "--health-cmd",
            "true x",
            "--health-interval",
            "1m30s",
            "--health-timeout",
            "5s",
            "--health-retries",
            "4",
            "--health-start-period",
            "1s",
        ],
        &["--no-healthcheck", "--network", "none"],
        &["--network", "n1", "--ip", "10.123.45.77", "--network-alias", "web", "--link", "other:db"],
        &["--network", "name=n1,ip=10.123.45.78,alias=www"],
        &["--network", "container:other"],
        &[
            "--userns",
            "host",
            "--cgroup-parent",
            "/x",
            "--runtime",
            "runc",
            "--volume-driver",
            "local",
            "--oom-kill-disable",
            "-m",
            "64m",
        ],
        &["-a", "stdout", "-a", "STDIN", "-i"],
    ];
    let mut failed = Vec::new();
    for set in sets {
        let create = |name: &'static str| {
            [&["create", "--name", name][..], set, &["busybox", "echo", "-n", "hi"]].concat()
        };
        peer.docker(create("theirs")).run().ok();
        peer.sampan(create("ours0")).run().ok();
        let theirs = wanted(&peer.docker(["inspect", "theirs"]).run().ok().stdout, "theirs");
        let ours = wanted(&peer.docker(["inspect", "ours0"]).run().ok().stdout, "ours0");
        let mut different = Vec::new();
        compare("", &theirs, &ours, &mut different);
        if !different.is_empty() {
            failed.push(format!("{set:?}: {different:#?}"));
        }
        let networks = |name: &str| {
            let format = "{{range $k, $v := .NetworkSettings.Networks}}{{$k}} {{json $v.IPAMConfig}} {{json $v.Links}}{{end}}";
            peer.docker(["inspect", "-f", format, name]).run().ok().stdout
        };
        if networks("theirs") != networks("ours0") {
            failed.push(format!("{set:?}: {} {}", networks("theirs"), networks("ours0")));
        }
        peer.docker(["rm", "-v", "theirs", "ours0"]).run().ok();
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    // What is refused before anything is made.
    for set in [
        &["--gpus", "all"][..],
        &["--rm", "--restart", "always"],
        &["--ulimit", "nofile=2:1"],
        &["-p", "x"],
        &["--memory", "lots"],
    ] {
        let line = [&["run"][..], set, &["busybox", "true"]].concat();
        peer.sampan(&line).run().code(125);
    }
}
