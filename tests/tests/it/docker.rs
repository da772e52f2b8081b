//! Containers through Docker's client.

use sampan_testkit::{Instance, wait_until};

/// A second, newer client than Debian's, where there is one.
pub(crate) const NEW_DOCKER: &str = "/usr/local/bin/docker";

crate::cases! {
    run_prints_what_the_container_prints_and_passes_exit_codes_on [Docker],
    a_newer_docker_client_works_too [NewDocker],
    standard_input_reaches_the_container [Docker],
    ps_and_inspect_show_a_container_through_its_life [Docker],
    logs_are_kept_and_followed_until_the_end [Docker],
    exec_runs_in_a_running_container [Docker],
    what_runs_can_be_listed_paused_and_signalled [Docker],
    containers_are_renamed_stopped_restarted_and_waited_for [Docker],
    events_tell_what_happens [Docker],
    volumes_live_on_their_own [Docker],
    bind_mounts_and_tmpfs_show_up_inside [Docker],
    a_client_that_is_killed_leaves_its_container_running [Docker],
    signals_to_the_client_reach_the_container [Docker],
}

fn run_prints_what_the_container_prints_and_passes_exit_codes_on() {
    let it = Instance::new();
    it.docker(["run", "--rm", "busybox", "echo", "hello"]).ok().is("hello");
    let both = it.docker(["run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 3"]).code(3);
    assert_eq!((both.stdout.as_str(), both.stderr.as_str()), ("out\n", "err\n"));
    it.docker(["run", "--rm", "--network", "nowhere", "busybox", "true"]).code(125).complains("nowhere");
    it.docker(["run", "--rm", "busybox", "/etc/passwd"]).code(126).complains("/etc/passwd");
    it.docker(["run", "--rm", "busybox", "no-such-program"]).code(127).complains("no-such-program");
    it.docker(["run", "--rm", "busybox", "/no/such/program"]).code(127).complains("/no/such/program");
    it.docker(["run", "--rm", "busybox", "sh", "-c", "sh -c 'kill -9 $$'; exit $?"]).code(137);
    it.docker(["ps", "-aq"]).ok().is("");
}

fn a_newer_docker_client_works_too() {
    let it = Instance::new();
    let docker = |arguments: &[&str]| it.docker_at(NEW_DOCKER, arguments).run();
    docker(&["run", "--rm", "busybox", "echo", "hello"]).ok().is("hello");
    docker(&["run", "--rm", "busybox", "sh", "-c", "exit 3"]).code(3);
    docker(&["run", "--rm", "busybox", "no-such-program"]).code(127);
    docker(&["run", "-d", "--name", "c1", "busybox", "sleep", "1000"]).ok();
    docker(&["exec", "c1", "hostname"]).ok();
    docker(&["ps"]).ok().says("sleep 1000");
    docker(&["images"]).ok().says("busybox");
    docker(&["version"]).ok().says("API version");
    docker(&["info"]).ok().says("Containers: 1");
    docker(&["rm", "-f", "c1"]).ok().is("c1");
}

fn standard_input_reaches_the_container() {
    let it = Instance::new();
    it.docker_command(["run", "--rm", "-i", "busybox", "cat"]).input("one\ntwo\n").run().ok().is("one\ntwo");
    let large = "0123456789abcdef".repeat(100_000);
    it.docker_command(["run", "--rm", "-i", "busybox", "wc", "-c"]).input(large).run().ok().is("1600000");
    // Without -i there is none.
    it.docker(["run", "--rm", "busybox", "cat"]).ok().is("");
}

fn ps_and_inspect_show_a_container_through_its_life() {
    let it = Instance::new();
    let id = it.docker(["create", "--name", "c1", "-e", "A=b", "-l", "x=y", "busybox", "sleep", "1000"]).ok();
    let id = id.text();
    assert_eq!(id.len(), 64, "{id}");
    it.docker(["ps", "-a", "--format", "{{.Names}} {{.Image}} {{.Status}}"]).ok().is("c1 busybox Created");
    it.docker(["start", "c1"]).ok().is("c1");
    it.docker(["ps", "--format", "{{.Names}} {{.Status}}"]).ok().says("c1 Up ");
    it.docker(["ps", "-q", "--filter", "label=x=y"]).ok().is(&id[..12]);
    it.docker(["ps", "-q", "--filter", "name=other"]).ok().is("");
    let told = it.docker(["inspect", "c1"]).ok().json();
    let told = &told[0];
    assert_eq!(told["Id"], id);
    assert_eq!(told["Name"], "/c1");
    assert_eq!(told["State"]["Status"], "running");
    assert_eq!(told["State"]["Running"], true);
    assert_eq!(told["Config"]["Labels"]["x"], "y");
    assert!(told["Config"]["Env"].as_array().unwrap().iter().any(|e| e == "A=b"), "{told:#}");
    assert_eq!(told["Path"], "sleep");
    let pid = told["State"]["Pid"].as_u64().unwrap();
    let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    assert_eq!(line, "sleep\x001000\x00");
    it.docker(["inspect", "-f", "{{.State.Status}}", &id[..12]]).ok().is("running");
    it.docker(["rm", "c1"]).code(1).complains("running container");
    it.docker(["kill", "c1"]).ok().is("c1");
    it.docker(["wait", "c1"]).ok().is("137");
    it.docker(["ps", "-a", "--format", "{{.Status}}"]).ok().says("Exited (137)");
    it.docker(["rm", "c1"]).ok().is("c1");
    it.docker(["inspect", "--type", "container", "c1"]).code(1).complains("No such container: c1");
}

fn logs_are_kept_and_followed_until_the_end() {
    let it = Instance::new();
    let script = "for i in 1 2 3 4 5; do echo line $i; done; echo problem >&2";
    it.docker(["run", "--name", "c1", "busybox", "sh", "-c", script]).ok();
    let logs = it.docker(["logs", "c1"]).ok();
    assert_eq!(logs.stdout, "line 1\nline 2\nline 3\nline 4\nline 5\n");
    assert_eq!(logs.stderr, "problem\n");
    it.docker(["logs", "--tail", "2", "c1"]).ok().is("line 5");
    let stamped = it.docker(["logs", "-t", "c1"]).ok();
    let first = stamped.stdout.lines().next().unwrap();
    assert!(first.starts_with("20") && first.ends_with("Z line 1"), "{first}");

    it.docker(["run", "-d", "--name", "f1", "busybox", "sh", "-c", "echo first; read x </tmp/go; echo last"])
        .ok();
    it.docker(["rm", "-f", "f1"]).ok();
    let waits = "mkfifo /tmp/go; echo first; read x </tmp/go; echo last";
    it.docker(["run", "-d", "--name", "g1", "busybox", "sh", "-c", waits]).ok();
    let follower = it.docker_command(["logs", "-f", "g1"]).start();
    follower.wait_for_output("first\n");
    // The container's end may be the exec's, too.
    drop(it.docker(["exec", "g1", "sh", "-c", "echo >/tmp/go"]));
    follower.wait().ok().is("first\nlast");
}

fn exec_runs_in_a_running_container() {
    let it = Instance::new();
    it.docker(["run", "-d", "--name", "c1", "-e", "FROM=run", "busybox", "sleep", "1000"]).ok();
    it.docker(["exec", "c1", "echo", "hello"]).ok().is("hello");
    it.docker(["exec", "c1", "sh", "-c", "exit 7"]).code(7);
    it.docker(["exec", "-u", "web", "c1", "id"]).ok().is("uid=33(web) gid=33(web) groups=33(web),44(extra)");
    it.docker(["exec", "-u", "12:34", "c1", "id", "-u"]).ok().is("12");
    it.docker(["exec", "-e", "MORE=2", "c1", "sh", "-c", "echo $FROM $MORE"]).ok().is("run 2");
    it.docker(["exec", "-w", "/etc", "c1", "pwd"]).ok().is("/etc");
    it.docker_command(["exec", "-i", "c1", "cat"]).input("in").run().ok().is("in");
    it.docker(["exec", "c1", "no-such-program"]).code(126).says("no-such-program");
    it.docker(["exec", "-d", "c1", "touch", "/tmp/made"]).ok();
    wait_until("the detached exec has run", || {
        it.docker(["exec", "c1", "test", "-e", "/tmp/made"]).code == 0
    });
    it.docker(["stop", "-t", "0", "c1"]).ok();
    it.docker(["exec", "c1", "true"]).code(1).complains("is not running");
}

fn what_runs_can_be_listed_paused_and_signalled() {
    let it = Instance::new();
    let script = "trap 'echo got usr1' USR1; echo ready; while :; do sleep 0.1; done";
    it.docker(["run", "-d", "--name", "c1", "busybox", "sh", "-c", script]).ok();
    let follower = it.docker_command(["logs", "-f", "c1"]).start();
    follower.wait_for_output("ready");
    let top = it.docker(["top", "c1"]).ok();
    assert!(top.stdout.contains("PID") && top.stdout.contains("trap"), "{top}");
    it.docker(["kill", "-s", "USR1", "c1"]).ok();
    follower.wait_for_output("got usr1");
    it.docker(["pause", "c1"]).ok().is("c1");
    it.docker(["inspect", "-f", "{{.State.Status}}", "c1"]).ok().is("paused");
    it.docker(["exec", "c1", "true"]).code(1).complains("paused");
    it.docker(["pause", "c1"]).code(1);
    it.docker(["unpause", "c1"]).ok();
    it.docker(["inspect", "-f", "{{.State.Status}}", "c1"]).ok().is("running");
    it.docker(["exec", "c1", "true"]).ok();
    it.docker(["rm", "-f", "c1"]).ok();
}

fn containers_are_renamed_stopped_restarted_and_waited_for() {
    let it = Instance::new();
    let script = "trap 'exit 5' TERM; while :; do sleep 0.1; done";
    it.docker(["run", "-d", "--name", "c1", "busybox", "sh", "-c", script]).ok();
    it.docker(["rename", "c1", "d1"]).ok();
    it.docker(["inspect", "--type", "container", "c1"]).code(1);
    let first = it.docker(["inspect", "-f", "{{.State.Pid}}", "d1"]).ok();
    it.docker(["restart", "-t", "5", "d1"]).ok().is("d1");
    let second = it.docker(["inspect", "-f", "{{.State.Pid}}", "d1"]).ok();
    assert_ne!(first.text(), second.text());
    let waiter = it.docker_command(["wait", "d1"]).start();
    it.docker(["stop", "d1"]).ok().is("d1");
    waiter.wait().ok().is("5");
    it.docker(["inspect", "-f", "{{.State.ExitCode}} {{.State.Status}}", "d1"]).ok().is("5 exited");
    it.docker(["stop", "d1"]).ok();
    it.docker(["start", "d1"]).ok();
    it.docker(["run", "-d", "--name", "other", "busybox", "sleep", "1000"]).ok();
    it.docker(["rename", "other", "d1"]).code(1).complains("already in use");
    it.docker(["rm", "-f", "d1", "other"]).ok().is("d1\nother");
}

fn events_tell_what_happens() {
    let it = Instance::new();
    let events = it
        .docker_command([
            "events",
            "--format",
            "{{.Type}} {{.Action}} {{.Actor.Attributes.name}} {{.Actor.Attributes.signal}}",
        ])
        .start();
    // Events are told from the subscription on: containers come and go until one is seen.
    wait_until("events come", || {
        it.docker(["run", "--rm", "--name", "probe", "busybox", "true"]).ok();
        events.stdout().contains("probe")
    });
    it.docker(["run", "--rm", "--name", "seen", "busybox", "true"]).ok();
    events.wait_for_output("container destroy seen");
    let told = events.stdout();
    let mut at = 0;
    for action in ["create", "start", "die", "destroy"] {
        let line = format!("container {action} seen");
        at = told[at..]
            .find(&line)
            .map(|i| at + i)
            .unwrap_or_else(|| panic!("no `{line}` (in this order) in\n{told}"));
    }
    // What ends a container is told before its end, and that it was killed once if it was.
    for (signal, kills) in [("TERM", &[15, 9][..]), ("KILL", &[9])] {
        it.docker(["run", "-d", "--name", signal, "--stop-signal", signal, "busybox", "sleep", "1000"]).ok();
        it.docker(["stop", "-t", "0", signal]).ok();
        events.wait_for_output(&format!("container stop {signal}"));
        let all = events.stdout();
        let words = all.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let own = words.filter(|line| line[0] == "container" && line[2] == signal);
        let told: Vec<_> = own.map(|l| if l[1] == "kill" { l[1..].join(" ") } else { l[1].into() }).collect();
        let kills = kills.iter().map(|number| format!("kill {signal} {number}"));
        let before = ["create", "start"].map(str::to_owned).into_iter();
        let expected: Vec<_> = before.chain(kills).chain(["die", "stop"].map(str::to_owned)).collect();
        assert_eq!(told, expected);
        it.docker(["rm", signal]).ok();
    }
}

fn volumes_live_on_their_own() {
    let it = Instance::new();
    it.docker(["volume", "create", "data"]).ok().is("data");
    it.docker(["volume", "ls", "-q"]).ok().is("data");
    it.docker(["run", "--rm", "-v", "data:/d", "busybox", "sh", "-c", "echo kept >/d/file"]).ok();
    it.docker(["run", "--rm", "-v", "data:/d:ro", "busybox", "cat", "/d/file"]).ok().is("kept");
    it.docker(["run", "--rm", "-v", "data:/d:ro", "busybox", "touch", "/d/x"]).code(1).complains("Read-only");
    it.docker(["run", "-d", "--name", "c1", "-v", "data:/d", "busybox", "sleep", "1000"]).ok();
    it.docker(["volume", "rm", "data"]).code(1).complains("in use");
    it.docker(["rm", "-f", "c1"]).ok();
    let place = it.docker(["volume", "inspect", "-f", "{{.Mountpoint}}", "data"]).ok();
    assert_eq!(std::fs::read_to_string(format!("{}/file", place.text())).unwrap(), "kept\n");
    it.docker(["volume", "rm", "data"]).ok().is("data");
    it.docker(["volume", "inspect", "data"]).code(1).complains("data");

    // A new volume takes over what the image has there, with its owner.
    it.docker([
        "run",
        "--name",
        "m1",
        "busybox",
        "sh",
        "-c",
        "mkdir /srv; echo from image >/srv/f; chown 33:33 /srv",
    ])
    .ok();
    it.docker(["commit", "m1", "withdata"]).ok();
    it.docker(["run", "--rm", "-v", "copied:/srv", "withdata", "sh", "-c", "cat /srv/f; stat -c %u /srv"])
        .ok()
        .is("from image\n33");
    it.docker(["rm", "m1"]).ok();
    it.docker(["volume", "rm", "copied"]).ok();

    // One without a name goes with its container.
    it.docker(["run", "--rm", "-v", "/anonymous", "busybox", "touch", "/anonymous/x"]).ok();
    it.docker(["volume", "ls", "-q"]).ok().is("");
    // Without -v it stays, also when the daemon starts anew; one that another container uses stays even with -v.
    for name in ["c1", "c2"] {
        it.docker(["create", "--name", name, "-v", "/anonymous", "busybox", "true"]).ok();
    }
    it.docker(["rm", "c1"]).ok();
    let shared = it.docker(["inspect", "-f", "{{(index .Mounts 0).Name}}", "c2"]).ok();
    it.docker(["create", "--name", "c3", "-v", &format!("{}:/theirs", shared.text()), "busybox", "true"])
        .ok();
    it.docker(["rm", "-v", "c2"]).ok();
    it.restart();
    assert_eq!(it.docker(["volume", "ls", "-q"]).ok().stdout.lines().count(), 2);
    it.docker(["rm", "c3"]).ok();
    it.docker(["volume", "prune", "-f"]).ok();
}

fn bind_mounts_and_tmpfs_show_up_inside() {
    let it = Instance::new();
    let here = it.scratch().join("bound");
    std::fs::create_dir(&here).unwrap();
    std::fs::write(here.join("f"), "from the host\n").unwrap();
    let here = here.to_str().unwrap();
    it.docker([
        "run",
        "--rm",
        "-v",
        &format!("{here}:/b"),
        "busybox",
        "sh",
        "-c",
        "cat /b/f; echo back >/b/g",
    ])
    .ok()
    .is("from the host");
    assert_eq!(std::fs::read_to_string(format!("{here}/g")).unwrap(), "back\n");
    let mount = format!("type=bind,source={here},target=/b,readonly");
    it.docker(["run", "--rm", "--mount", &mount, "busybox", "touch", "/b/x"]).code(1).complains("Read-only");
    it.docker(["run", "--rm", "--tmpfs", "/t:size=1m", "busybox", "sh", "-c", "mount | grep ' /t '"])
        .ok()
        .says("tmpfs");
    it.docker(["run", "--rm", "--read-only", "busybox", "touch", "/x"]).code(1).complains("Read-only");
}

fn a_client_that_is_killed_leaves_its_container_running() {
    let it = Instance::new();
    let script = "echo begun; while test ! -e /go; do sleep 0.05; done; echo ended; exit 4";
    for (name, options) in [("kept", "--rm=false"), ("gone", "--rm")] {
        let client =
            it.docker_command(["run", options, "--name", name, "busybox", "sh", "-c", script]).start();
        client.wait_for_output("begun");
        client.signal(rustix::process::Signal::KILL);
        client.wait().code(128 + 9);
        // Its output may be here before the daemon has noted that it started.
        wait_until("it is said to run", || it.inspect(name, "/State/Status") == "running");
        // The container's end may be the exec's, too.
        drop(it.docker(["exec", name, "touch", "/go"]));
    }
    it.docker(["wait", "kept"]).ok().is("4");
    it.docker(["logs", "kept"]).ok().is("begun\nended");
    wait_until("the one of --rm has gone", || it.docker(["inspect", "gone"]).code != 0);
    it.docker(["rm", "kept"]).ok();
    it.docker(["ps", "-aq"]).ok().is("");
}

fn signals_to_the_client_reach_the_container() {
    let it = Instance::new();
    let script = "trap 'echo got term; exit 11' TERM; echo ready; while :; do sleep 0.05; done";
    for ours in [true, false] {
        let arguments = ["run", "--rm", "busybox", "sh", "-c", script];
        let client =
            if ours { it.sampan_command(arguments).start() } else { it.docker_command(arguments).start() };
        client.wait_for_output("ready");
        client.signal(rustix::process::Signal::TERM);
        client.wait().code(11).says("got term");
    }
}
