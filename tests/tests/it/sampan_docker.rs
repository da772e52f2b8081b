//! Our client beside Docker's, on one daemon: what both print, what both ask for.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use sampan_testkit::registry::Tls;
use sampan_testkit::{Command, Instance, busybox, executable, wait_until};

use crate::docker::NEW_DOCKER;

crate::cases! {
    lists_and_formats_are_dockers [Dockerd, NewDocker],
    run_asks_for_what_dockers_run_asks_for [Dockerd, NewDocker],
    our_daemon_looks_the_same_to_both [NewDocker],
    files_are_copied_as_docker_copies_them [NewDocker],
    flags_are_read_as_dockers,
    formats_are_go_templates,
    a_daemon_far_away_by_tls,
    nobody_home,
    shells_and_man_know_the_commands,
    stats_top_port_and_update,
    networks_by_our_client,
}

/// Debian's dockerd with directories of its own, without a default bridge.
pub(crate) struct Dockerd {
    directory: tempfile::TempDir,
    child: Child,
}

impl Dockerd {
    pub(crate) fn start() -> Dockerd {
        let directory = tempfile::Builder::new().prefix("sit-p-").tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        std::fs::write(path("config.json"), "{}").unwrap();
        let log = std::fs::File::create(path("log")).unwrap();
        let child = std::process::Command::new("/usr/sbin/dockerd")
            .args(["--data-root", &path("data"), "--exec-root", &path("exec"), "--pidfile", &path("pid")])
            .args(["-H", &format!("unix://{}", path("sock")), "--bridge=none", "--iptables=false"])
            .args(["--config-file", &path("config.json")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let dockerd = Dockerd { directory, child };
        // It tells nobody when it listens.
        wait_until("dockerd answers", || dockerd.docker(&["version"]).run().code == 0);
        dockerd.sampan(&["import", busybox::archive().to_str().unwrap(), "busybox:latest"]).run().ok();
        dockerd
    }

    pub(crate) fn host(&self) -> String {
        format!("unix://{}", self.directory.path().join("sock").display())
    }

    pub(crate) fn scratch(&self) -> PathBuf {
        let path = self.directory.path().join("scratch");
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    pub(crate) fn docker(&self, arguments: &[&str]) -> Command {
        self.client(Path::new(NEW_DOCKER), arguments)
    }

    pub(crate) fn sampan(&self, arguments: &[&str]) -> Command {
        self.client(&executable("sampan"), arguments).env("SAMPAN_HOST", "")
    }

    pub(crate) fn client(&self, program: &Path, arguments: &[&str]) -> Command {
        Command::new(program)
            .env("DOCKER_HOST", self.host())
            .env("DOCKER_CONFIG", self.scratch().join("docker-config"))
            .env("DOCKER_BUILDKIT", "0")
            .args(arguments)
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        for id in self.docker(&["ps", "-aq"]).run().stdout.lines() {
            self.docker(&["rm", "-fv", id]).run();
        }
        self.docker(&["network", "prune", "-f"]).run();
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}

/// Times go on between two questions.
fn without_times(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let mut words: Vec<&str> = line.split_whitespace().collect();
        // `3 seconds ago`, `Less than a second ago`, `About a minute ago`.
        while let Some(at) = words.iter().position(|w| w.starts_with("ago") || w.starts_with("second")) {
            let from =
                (0..at).rev().find(|i| words[*i].ends_with(['"', ')']) || words[*i].contains([':', '(']));
            words.drain(from.map_or(0, |f| f + 1)..=at);
        }
        out += &(words.join(" ") + "\n");
    }
    out
}

#[track_caller]
fn same(docker: &dyn Fn(&[&str]) -> Command, sampan: &dyn Fn(&[&str]) -> Command, arguments: &[&str]) {
    let (theirs, ours) = (docker(arguments).run(), sampan(arguments).run());
    assert_eq!(theirs.code, ours.code, "{arguments:?}: {theirs} {ours}");
    assert_eq!(without_times(&theirs.stdout), without_times(&ours.stdout), "{arguments:?}");
}

const LISTS: &[&[&str]] = &[
    &["ps"],
    &["ps", "-a"],
    &["ps", "-a", "--no-trunc"],
    &["ps", "-aq"],
    &["ps", "-l", "-q"],
    &[
        "ps",
        "-a",
        "-f",
        "status=exited",
        "--format",
        "{{.Names}} {{.State}} {{.Image}} {{.Ports}} {{.Labels}}",
    ],
    &[
        "ps",
        "-a",
        "--format",
        "table {{.Names}}\t{{.Label \"a\"}}\t{{upper .Image}}\t{{.Mounts}}\t{{.Networks}}",
    ],
    &[
        "ps",
        "-a",
        "--format",
        "{{range $i, $n := split .Names \"\"}}{{$n}}.{{end}}{{with .Label \"a\"}}{{.}}{{else}}-{{end}}",
    ],
    &["images"],
    &["images", "--digests"],
    &["images", "-q", "--no-trunc"],
    &["images", "--format", "{{.Repository}}:{{.Tag}} {{.ID}} {{.Size}} {{.VirtualSize}}"],
    &["network", "ls"],
    &["network", "ls", "--no-trunc", "-q"],
    &["network", "ls", "--format", "json"],
    &["network", "inspect", "n1"],
    &["volume", "ls"],
    &["volume", "ls", "--format", "json"],
    &["volume", "inspect", "v1"],
    &["inspect", "c1"],
    &["inspect", "busybox", "n1", "v1", "nobody"],
    &["inspect", "--type", "image", "c1"],
    &["inspect", "--size", "--format", "{{.SizeRw}} {{.SizeRootFs}}", "c1"],
    &[
        "inspect",
        "-f",
        "{{.State.Status}} {{.Config.Env}} {{json .Config.Labels}} {{.HostConfig.RestartPolicy.Name}}",
        "c1",
        "c2",
    ],
    &[
        "inspect",
        "-f",
        "{{range $p, $b := .NetworkSettings.Ports}}{{$p}}{{range $b}}>{{.HostPort}}{{end}} {{end}}",
        "c1",
    ],
    &[
        "inspect",
        "-f",
        "{{index .Config.Labels \"a\"}} {{.Config.Labels.none}} {{len .Mounts}} {{.HostConfig.PidsLimit}}",
        "c1",
    ],
    &[
        "inspect",
        "-f",
        "{{printf \"%s-%d\" .Name .State.ExitCode | upper}}{{if and .State.Running (ne .Name \"x\")}}!{{end}}",
        "c1",
    ],
    &["inspect", "-f", "{{.NoSuchField}}", "c2"],
    &["history", "--format", "{{.ID}} {{.Comment}} {{.Size}}", "busybox"],
    &["port", "c1"],
    &["port", "c1", "80/tcp"],
    &["port", "c1", "81"],
    &["diff", "c2"],
    &["system", "df"],
    &["version", "--format", "{{.Server.Version}} {{.Server.APIVersion}} {{.Server.Os}}"],
    &["info", "--format", "{{.ServerVersion}} {{.NCPU}} {{.ID}} {{json .Plugins}}"],
    &["events", "--since", "1h", "--until", "0s", "--filter", "container=c2"],
    &[
        "events",
        "--since",
        "1h",
        "--until",
        "0s",
        "--filter",
        "type=volume",
        "--format",
        "{{.Type}} {{.Action}} {{.Actor.ID}}",
    ],
    &["logs", "c2"],
    &["logs", "--tail", "1", "-t", "c2"],
    &["wait", "c2"],
    &["top", "c1", "-o", "pid,comm"],
    &["stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}", "c1"],
    &["cp", "c1:/etc/passwd", "-"],
    &["rm", "nobody"],
    &["network", "rm", "nobody"],
    &["ps", "--filter", "color=red"],
    &["ps", "--no-such-flag"],
];

fn lists_and_formats_are_dockers() {
    let peer = Dockerd::start();
    let (docker, sampan) = (|a: &[&str]| peer.docker(a), |a: &[&str]| peer.sampan(a));
    sampan(&["network", "create", "--label", "l=1", "n1"]).run().ok();
    sampan(&["volume", "create", "--label", "k=v", "v1"]).run().ok();
    let flags = [
        "run",
        "-d",
        "--name",
        "c1",
        "--network",
        "n1",
        "-l",
        "a=1",
        "-l",
        "b=2",
        "-v",
        "v1:/v",
        "-p",
        "127.0.0.1::80",
    ];
    let more = ["--restart", "on-failure:3", "busybox", "sleep", "1000"];
    sampan(&[&flags[..], &more[..]].concat()).run().ok();
    sampan(&[
        "run",
        "--name",
        "c2",
        "--network",
        "none",
        "busybox",
        "sh",
        "-c",
        "echo one; echo two; touch /new; exit 3",
    ])
    .run()
    .code(3);
    for arguments in LISTS {
        same(&docker, &sampan, arguments);
    }
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
    let peer = Dockerd::start();
    let scratch = peer.scratch();
    let path = |name: &str| scratch.join(name).display().to_string();
    std::fs::write(path("env"), "# note\nFROM_FILE=1\nHOME\n").unwrap();
    std::fs::write(path("labels"), "from.file=1\n").unwrap();
    std::fs::write(path("seccomp"), "{\n  \"defaultAction\": \"SCMP_ACT_ALLOW\"\n}\n").unwrap();
    peer.sampan(&["network", "create", "--subnet", "10.123.45.0/24", "n1"]).run().ok();
    peer.sampan(&[
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
        peer.docker(&create("theirs")).run().ok();
        peer.sampan(&create("ours0")).run().ok();
        let theirs = wanted(&peer.docker(&["inspect", "theirs"]).run().ok().stdout, "theirs");
        let ours = wanted(&peer.docker(&["inspect", "ours0"]).run().ok().stdout, "ours0");
        let mut different = Vec::new();
        compare("", &theirs, &ours, &mut different);
        if !different.is_empty() {
            failed.push(format!("{set:?}: {different:#?}"));
        }
        let networks = |name: &str| {
            let format = "{{range $k, $v := .NetworkSettings.Networks}}{{$k}} {{json $v.IPAMConfig}} {{json $v.Links}}{{end}}";
            peer.docker(&["inspect", "-f", format, name]).run().ok().stdout
        };
        if networks("theirs") != networks("ours0") {
            failed.push(format!("{set:?}: {} {}", networks("theirs"), networks("ours0")));
        }
        peer.docker(&["rm", "-v", "theirs", "ours0"]).run().ok();
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

fn our_daemon_looks_the_same_to_both() {
    let it = Instance::new();
    it.sampan([
        "run",
        "-d",
        "--name",
        "c1",
        "-l",
        "a=1",
        "-v",
        "/v",
        "-p",
        "127.0.0.1::80",
        "busybox",
        "sleep",
        "1000",
    ])
    .ok();
    it.sampan(["run", "--name", "c2", "busybox", "sh", "-c", "echo one; touch /new; exit 3"]).code(3);
    let docker = |a: &[&str]| it.docker_at(NEW_DOCKER, a);
    let sampan = |a: &[&str]| it.sampan_command(a);
    for arguments in [
        &["ps", "-a"][..],
        &[
            "ps",
            "-a",
            "--format",
            "{{.Names}} {{.State}} {{.Ports}} {{.Labels}} {{.LocalVolumes}} {{.Networks}}",
        ],
        &["images"],
        &["network", "ls"],
        &["volume", "ls"],
        &["inspect", "c1", "c2"],
        &["inspect", "-f", "{{.State.Status}} {{.Config.Image}} {{json .HostConfig.PortBindings}}", "c1"],
        &["port", "c1"],
        &["diff", "c2"],
        &["logs", "c2"],
        &["history", "busybox", "--format", "{{.Size}} {{.Comment}}"],
    ] {
        same(&docker, &sampan, arguments);
    }
}

/// What a directory holds: paths, with the content of files and where links lead.
fn tree(root: &Path) -> Vec<String> {
    fn walk(root: &Path, at: &Path, out: &mut Vec<String>) {
        let mut entries: Vec<_> = std::fs::read_dir(at).unwrap().map(|e| e.unwrap().path()).collect();
        entries.sort();
        for path in entries {
            let name = path.strip_prefix(root).unwrap().display().to_string();
            let about = std::fs::symlink_metadata(&path).unwrap();
            if about.is_symlink() {
                out.push(format!("{name} -> {}", std::fs::read_link(&path).unwrap().display()));
            } else if about.is_dir() {
                out.push(format!("{name}/"));
                walk(root, &path, out);
            } else {
                out.push(format!("{name}: {}", std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    let mut out = Vec::new();
    walk(root, root, &mut out);
    out
}

fn files_are_copied_as_docker_copies_them() {
    let it = Instance::new();
    let script = "mkdir -p /src/sub /dst; echo f >/src/f; echo g >/src/sub/g; ln -s f /src/l; ln -s src /way; echo old >/dst/file; sleep 1000";
    it.sampan(["run", "-d", "--name", "c1", "busybox", "sh", "-c", script]).ok();
    wait_until("the files are there", || it.sampan(["exec", "c1", "test", "-e", "/dst/file"]).code == 0);
    let (ours, theirs) = (it.scratch().join("ours"), it.scratch().join("theirs"));
    for root in [&ours, &theirs] {
        std::fs::create_dir_all(root.join("here/there")).unwrap();
        std::fs::write(root.join("file"), "mine").unwrap();
        std::fs::write(root.join("here/x"), "x").unwrap();
        std::os::unix::fs::symlink("x", root.join("here/link")).unwrap();
    }
    // Out: each form of source and target.
    let outs: &[(&str, &str)] = &[
        ("c1:/src", "a"),
        ("c1:/src", "here"),
        ("c1:/src/.", "here/there"),
        ("c1:/src/f", "b"),
        ("c1:/src/f", "here"),
        ("c1:src/f", "file"),
        ("c1:/src/l", "link"),
        ("c1:/src", "file"),
        ("c1:/src/f", "none/"),
        ("c1:/src/f", "none/x"),
        ("c1:/nothing", "c"),
        ("c1:/src/.", "d"),
    ];
    for (from, to) in outs {
        let (o, t) = (ours.join(to), theirs.join(to));
        let slash = if to.ends_with('/') { "/" } else { "" };
        let (o, t) = (
            format!("{}{slash}", o.display().to_string().trim_end_matches('/')),
            format!("{}{slash}", t.display().to_string().trim_end_matches('/')),
        );
        let ours_did = it.sampan(["cp", from, &o]);
        let theirs_did = it.docker_at(NEW_DOCKER, ["cp", from, &t]).run();
        assert_eq!(ours_did.code, theirs_did.code, "{from} {to}: {ours_did} {theirs_did}");
        assert_eq!(tree(&ours), tree(&theirs), "{from} {to}");
    }
    // In, each into a directory of its own.
    it.sampan([
        "exec",
        "c1",
        "sh",
        "-c",
        "mkdir -p /ours/d /theirs/d; echo z >/ours/z; echo z >/theirs/z; ln -s d /ours/l; ln -s d /theirs/l",
    ])
    .ok();
    let ins: &[(&str, &str)] = &[
        ("here", "new"),
        ("here", "d"),
        ("here/.", "d"),
        ("file", "one"),
        ("file", "z"),
        ("file", "d"),
        ("file", "l"),
        ("here", "z"),
        ("file", "no/"),
        ("none", "x"),
        ("here/link", "k"),
    ];
    for (from, to) in ins {
        let from = theirs.join(from).display().to_string() + if from.ends_with("/.") { "/." } else { "" };
        let ours_did = it.sampan(["cp", &from, &format!("c1:/ours/{to}")]);
        let theirs_did = it.docker_at(NEW_DOCKER, ["cp", &from, &format!("c1:/theirs/{to}")]).run();
        assert_eq!(ours_did.code, theirs_did.code, "{from} {to}: {ours_did} {theirs_did}");
    }
    let inside = |root: &str| {
        it.sampan([
            "exec",
            "c1",
            "sh",
            "-c",
            &format!("cd {root}; find . | sort; find . -type f | sort | xargs cat"),
        ])
        .ok()
        .stdout
    };
    assert_eq!(inside("/ours"), inside("/theirs"));
    // As a tar, both ways.
    let tar = it.sampan(["cp", "c1:/src", "-"]).ok();
    assert!(tar.stdout.contains("src/sub/g"));
    let made =
        it.sampan_command(["cp", "-", "c1:/dst"]).input(std::fs::read(busybox::archive()).unwrap()).run();
    made.ok();
    it.sampan(["exec", "c1", "cat", "/dst/etc/passwd"]).ok().says("web");
    it.sampan(["cp", "c1:/a", "c1:/b"]).code(1).complains("between containers");
}

fn flags_are_read_as_dockers() {
    let it = Instance::new();
    let cidfile = it.scratch().join("cid");
    let cid = cidfile.to_str().unwrap();
    it.sampan(["run", "--rm=false", "--name=c1", "--cidfile", cid, "busybox", "echo", "--rm=true"])
        .ok()
        .is("--rm=true");
    assert_eq!(std::fs::read_to_string(&cidfile).unwrap(), it.container_ids()[0]);
    it.sampan(["run", "--rm", "--cidfile", cid, "busybox", "true"]).code(125).complains("delete");
    it.sampan(["rm", "-f=true", "c1"]).ok().is("c1");
    it.sampan(["rm", "-f", "nobody"]).ok();
    it.sampan(["run", "--rm", "busybox", "nothing"]).code(127);
    it.sampan(["run", "--rm", "busybox", "/etc"]).code(126);
    it.sampan(["run", "--no-such", "busybox"]).code(125);
    it.sampan(["run", "--pull", "never", "nothing:1"]).code(125).complains("sampan pull nothing:1");
    it.sampan(["sart", "x"]).code(1).complains("start");
    it.sampan(["rm"]).code(1).complains("CONTAINER");
    it.sampan(["run", "-i", "--rm", "busybox", "cat"]).ok();
    it.sampan_command(["run", "-i", "--rm", "busybox", "cat"]).input("through").run().ok().is("through");
    it.sampan(["create", "--name", "c2", "-i", "busybox", "cat"]).ok();
    it.sampan_command(["start", "-a", "-i", "c2"]).input("again").run().ok().is("again");
    // Signals reach the process.
    let script = "trap 'echo got it; exit 5' TERM; echo ready; while :; do sleep 0.05; done";
    let running = it.sampan_command(["run", "--rm", "busybox", "sh", "-c", script]).start();
    running.wait_for_output("ready");
    running.signal(rustix::process::Signal::TERM);
    running.wait().code(5).says("got it");
}

fn formats_are_go_templates() {
    let it = Instance::new();
    it.sampan(["run", "-d", "--name", "c1", "-l", "tier=web", "busybox", "sleep", "1000"]).ok();
    it.sampan(["ps", "--format", "{{.Names}}:{{.Label \"tier\"}}"]).ok().is("c1:web");
    it.sampan(["ps", "--output", "json"]).ok().says("\"Names\":\"c1\"");
    it.sampan(["images", "--output", "json"]).ok().says("\"Repository\":\"busybox\"");
    it.sampan(["network", "ls", "--output", "json"]).ok().says("\"Name\":\"bridge\"");
    it.sampan(["inspect", "c1", "-f", "{{range .Args}}{{.}}{{end}} {{.State.Running}}"]).ok().is("1000 true");
    it.sampan(["info", "-f", "{{.ContainersRunning}}"]).ok().is("1");
    it.sampan(["version", "-f", "{{.Client.Version}}"]).ok();
    it.sampan(["top", "c1", "--output", "json"]).code(1);
    it.sampan(["top", "--output", "json", "c1"]).ok().says("Titles");
    it.sampan(["ps", "--format", "{{.Nonsense}}"]).code(1).complains("Nonsense");
    it.sampan(["ps", "--format", "{{.ID"]).code(1).complains("unclosed action");
    // A format that is kept.
    let config = it.scratch().join("docker-config");
    std::fs::create_dir_all(&config).unwrap();
    std::fs::write(config.join("config.json"), r#"{"psFormat": "kept {{.Names}}"}"#).unwrap();
    it.sampan(["ps"]).ok().is("kept c1");
    it.sampan(["ps", "--format", "{{.Names}}"]).ok().is("c1");
}

fn a_daemon_far_away_by_tls() {
    let directory = tempfile::tempdir().unwrap();
    let ours = Tls::new(directory.path());
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let host = format!("tcp://127.0.0.1:{port}");
    let path = |p: &Path| p.to_str().unwrap().to_owned();
    let (ca, cert, key) = (path(&ours.authority), path(&ours.certificate), path(&ours.key));
    let flags = [
        "-H",
        "unix://{socket}",
        "-H",
        &host,
        "--tlsverify",
        "--tlscacert",
        &ca,
        "--tlscert",
        &cert,
        "--tlskey",
        &key,
    ];
    let _it = Instance::builder().arguments(&flags).start();
    let (client_cert, client_key) = (path(&ours.client_certificate), path(&ours.client_key));
    let sampan = |flags: &[&str]| Command::new(executable("sampan")).args(["-H", &host]).args(flags);
    let tls = ["--tlsverify", "--tlscacert", &ca, "--tlscert", &client_cert, "--tlskey", &client_key];
    let run = |line: &[&str]| sampan(&[&tls[..], line].concat()).run();
    run(&["run", "--rm", "busybox", "echo", "over TLS"]).ok().is("over TLS");
    let fed = sampan(&[&tls[..], &["run", "--rm", "-i", "busybox", "cat"]].concat()).input("both ways").run();
    fed.ok().is("both ways");
    // By Docker's variables and file names.
    let certs = directory.path().join("certs");
    std::fs::create_dir(&certs).unwrap();
    for (from, to) in [(&ca, "ca.pem"), (&client_cert, "cert.pem"), (&client_key, "key.pem")] {
        std::fs::copy(from, certs.join(to)).unwrap();
    }
    let by_variables = Command::new(executable("sampan"))
        .env("SAMPAN_HOST", "")
        .env("DOCKER_HOST", &host)
        .env("DOCKER_TLS_VERIFY", "1")
        .env("DOCKER_CERT_PATH", &certs)
        .args(["ps", "-q"]);
    by_variables.run().ok().is("");
    // Without a certificate, with the wrong authority, without TLS.
    sampan(&["--tls", "ps"]).env("DOCKER_CERT_PATH", "/nowhere").run().code(1);
    let other = Tls::new(&directory.path().join("other"));
    sampan(&["--tlsverify", "--tlscacert", &path(&other.authority), "ps"])
        .env("DOCKER_CERT_PATH", "/nowhere")
        .run()
        .code(1)
        .complains("certificate");
    sampan(&["ps"]).run().code(1);
    // A context goes along: the daemon is not said to see this machine's files.
    let context = directory.path().join("context");
    std::fs::create_dir(&context).unwrap();
    std::fs::write(context.join("Dockerfile"), "FROM busybox\nCOPY f /f\n").unwrap();
    std::fs::write(context.join("f"), "sent").unwrap();
    run(&["build", "-q", "-t", "sent", &path(&context)]).ok();
    run(&["run", "--rm", "sent", "cat", "/f"]).ok().is("sent");
}

fn nobody_home() {
    let sampan = |host: &str| Command::new(executable("sampan")).args(["-H", host, "ps"]).run().code(1);
    sampan("unix:///nobody/here").complains("is a daemon running?").complains("/nobody/here");
    sampan("tcp://127.0.0.1:1").complains("cannot reach a daemon at `tcp://127.0.0.1:1`");
    sampan("ssh://me@there").complains("forward the socket").complains("ssh -nNT -L");
    let run = Command::new(executable("sampan")).args(["-H", "unix:///nobody/here", "run", "x"]).run();
    run.code(125);
    let version = Command::new(executable("sampan")).args(["-H", "unix:///nobody/here", "version"]).run();
    version.code(1).says("Client:");
}

fn shells_and_man_know_the_commands() {
    let directory = tempfile::tempdir().unwrap();
    let sampan = |line: &[&str]| Command::new(executable("sampan")).args(line).run();
    let script = directory.path().join("sampan.bash");
    std::fs::write(&script, sampan(&["completion", "bash"]).ok().stdout).unwrap();
    let it = Instance::new();
    it.sampan(["create", "--name", "a-container", "busybox", "true"]).ok();
    let program = executable("sampan");
    let line = format!(
        "PATH={}:$PATH; . {}; complete() {{ COMP_WORDS=(\"$@\"); COMP_CWORD=$(($#-1)); COMPREPLY=(); \
         _sampan_and_names sampan \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"; echo \"${{COMPREPLY[*]}}\"; }}; \
         complete sampan comp; complete sampan run --netw; complete sampan container rm a-c; complete sampan network in",
        program.parent().unwrap().display(),
        script.display()
    );
    let host = format!("unix://{}", it.socket().display());
    let said = Command::new("/bin/bash").env("SAMPAN_HOST", host).args(["-c", &line]).run().ok();
    let lines: Vec<&str> = said.stdout.lines().collect();
    assert!(lines[0].contains("compose") && lines[1].contains("--network"), "{said}");
    assert!(lines[2].contains("a-container") && lines[3].contains("inspect"), "{said}");
    sampan(&["completion", "zsh"]).ok().says("#compdef sampan");
    sampan(&["completion", "fish"]).ok().says("complete -c sampan");
    let pages = directory.path().join("man1");
    sampan(&["man", pages.to_str().unwrap()]).ok();
    for (page, said) in [
        ("sampan.1", "compose"),
        ("sampan-run.1", "\\-\\-network"),
        ("sampan-compose-up.1", "\\-\\-abort\\-on\\-container\\-exit"),
    ] {
        let text = std::fs::read_to_string(pages.join(page)).unwrap();
        assert!(text.contains(said), "{page}");
    }
}

fn stats_top_port_and_update() {
    let it = Instance::new();
    it.sampan(["run", "-d", "--name", "c1", "-m", "64m", "-p", "127.0.0.1::80", "busybox", "sleep", "1000"])
        .ok();
    let once = it.sampan(["stats", "--no-stream"]).ok();
    once.says("CONTAINER ID").says("MEM USAGE / LIMIT").says("64MiB").says("c1");
    it.sampan(["stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}"]).ok().is("c1 1");
    // As it goes on: a sample is shown, and the end of the container ends nothing.
    let live = it.sampan_command(["stats", "--format", "{{.Name}} {{.PIDs}}", "c1"]).start();
    live.wait_for_output("c1 1");
    live.signal(rustix::process::Signal::INT);
    live.wait();
    it.sampan(["top", "c1"]).ok().says("sleep 1000");
    let port = it.sampan(["port", "c1", "80"]).ok();
    it.sampan(["port", "c1"]).ok().is(&format!("80/tcp -> {}", port.text()));
    it.sampan(["update", "--memory", "32m", "--memory-swap", "64m", "--restart", "on-failure:2", "c1"])
        .ok()
        .is("c1");
    assert_eq!(it.inspect("c1", "/HostConfig/Memory"), 32 << 20);
    assert_eq!(it.inspect("c1", "/HostConfig/RestartPolicy/MaximumRetryCount"), 2);
    it.sampan(["update", "c1"]).code(1).complains("one or more flags");
}

fn networks_by_our_client() {
    let it = Instance::new();
    let subnet = "10.201.77.0/24";
    it.sampan(["network", "create", "--subnet", subnet, "--label", "a=b", "n1"]).ok();
    it.sampan(["network", "ls", "-f", "label=a=b", "--format", "{{.Name}} {{.Driver}}"]).ok().is("n1 bridge");
    it.sampan([
        "run",
        "-d",
        "--name",
        "c1",
        "--network",
        "n1",
        "--ip",
        "10.201.77.9",
        "--network-alias",
        "web",
        "busybox",
        "sleep",
        "1000",
    ])
    .ok();
    it.sampan(["run", "--rm", "--network", "n1", "busybox", "ping", "-c1", "-W5", "web"])
        .ok()
        .says("10.201.77.9");
    it.sampan(["run", "-d", "--name", "c2", "busybox", "sleep", "1000"]).ok();
    it.sampan(["network", "connect", "--alias", "db", "n1", "c2"]).ok();
    it.sampan(["exec", "c1", "ping", "-c1", "-W5", "db"]).ok();
    it.sampan(["network", "disconnect", "n1", "c2"]).ok();
    it.sampan(["network", "rm", "n1"]).code(1).complains("active endpoints");
    it.sampan(["rm", "-f", "c1", "c2"]).ok();
    it.sampan(["network", "prune", "-f"]).ok().says("n1");
    it.sampan(["network", "rm", "n1"]).code(1).complains("n1");
    it.sampan(["network", "rm", "-f", "n1"]).ok();
}
