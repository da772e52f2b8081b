//! Restart policies.

use sampan_testkit::{Instance, wait_until};

crate::cases! {
    always_starts_it_again_and_counts [Docker],
    on_failure_gives_up_and_leaves_a_good_end_alone [Docker],
    stopping_killing_and_removing_end_the_restarts [Docker],
    what_waits_for_its_restart_says_so [Docker],
    a_new_daemon_starts_what_should_run [Docker],
    a_container_that_ended_without_a_daemon_starts_again [Docker],
    the_restart_verb_starts_what_runs_and_what_does_not [Docker],
    policies_that_make_no_sense_are_refused [Docker],
}

/// The actions of a container's events so far.
pub(crate) fn actions(it: &Instance, name: &str) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() + 1;
    let filters = format!("%7B%22container%22%3A%5B%22{name}%22%5D%7D");
    let told = it.get(&format!("/events?since=1&until={now}&filters={filters}")).ok().stdout;
    let action = |line: &str| {
        serde_json::from_str::<serde_json::Value>(line).unwrap()["Action"].as_str().unwrap().to_owned()
    };
    told.lines().map(action).collect::<Vec<_>>().join(" ")
}

fn count(it: &Instance, name: &str) -> i64 {
    it.inspect(name, "/RestartCount").as_i64().unwrap()
}

fn always_starts_it_again_and_counts() {
    let it = Instance::new();
    it.docker([
        "run",
        "-d",
        "--name",
        "c1",
        "--restart",
        "always",
        "busybox",
        "sh",
        "-c",
        "echo run; exit 4",
    ])
    .ok();
    wait_until("it was restarted twice", || count(&it, "c1") >= 2);
    it.docker(["stop", "c1"]).ok();
    let runs = it.docker(["logs", "c1"]).ok().stdout.lines().filter(|l| *l == "run").count();
    assert!(i64::try_from(runs).unwrap() > count(&it, "c1") - 1, "{runs}");
    assert_eq!(it.inspect("c1", "/State/Status"), "exited");
    assert_eq!(it.inspect("c1", "/State/ExitCode"), 4);
    assert_eq!(it.inspect("c1", "/HostConfig/RestartPolicy/Name"), "always");
    // By hand it begins anew.
    it.docker(["run", "-d", "--name", "d1", "--restart", "on-failure:1", "busybox", "false"]).ok();
    wait_until("it has given up", || it.inspect("d1", "/State/Status") == "exited");
    assert_eq!(count(&it, "d1"), 1);
    it.docker(["start", "d1"]).ok();
    wait_until("it has given up again", || {
        it.inspect("d1", "/State/Status") == "exited" && count(&it, "d1") == 1
    });
}

fn on_failure_gives_up_and_leaves_a_good_end_alone() {
    let it = Instance::new();
    it.docker([
        "run",
        "-d",
        "--name",
        "c1",
        "--restart",
        "on-failure:2",
        "busybox",
        "sh",
        "-c",
        "echo run; exit 1",
    ])
    .ok();
    wait_until("it has given up", || it.inspect("c1", "/State/Status") == "exited");
    assert_eq!(count(&it, "c1"), 2);
    it.docker(["logs", "c1"]).ok().is("run\nrun\nrun");
    assert_eq!(it.inspect("c1", "/HostConfig/RestartPolicy/MaximumRetryCount"), 2);
    let said = actions(&it, "c1");
    let count_of = |action: &str| said.split(' ').filter(|a| *a == action).count();
    assert_eq!((count_of("start"), count_of("die")), (3, 3), "{said}");
    it.docker(["run", "-d", "--name", "d1", "--restart", "on-failure", "busybox", "true"]).ok();
    it.docker(["wait", "d1"]).ok().is("0");
    assert_eq!(it.inspect("d1", "/State/Status"), "exited");
    assert_eq!(count(&it, "d1"), 0);
}

/// A container whose pauses have become long enough to act in.
fn resting(it: &Instance, name: &str) {
    it.docker(["run", "-d", "--name", name, "--restart", "always", "busybox", "false"]).ok();
    wait_until("its pauses are long", || {
        count(it, name) >= 5 && it.inspect(name, "/State/Status") == "restarting"
    });
}

fn stopping_killing_and_removing_end_the_restarts() {
    let it = Instance::new();
    resting(&it, "c1");
    it.docker(["stop", "c1"]).ok();
    assert_eq!(it.inspect("c1", "/State/Status"), "exited");
    resting(&it, "c2");
    it.docker(["kill", "c2"]).ok();
    // On a slow host it may just have been started again.
    wait_until("it has ended", || it.inspect("c2", "/State/Status") == "exited");
    resting(&it, "c3");
    it.docker(["rm", "-f", "c3"]).ok();
    // Of containers: an image or a network may have an id that begins with the name.
    it.docker(["inspect", "--type", "container", "c3"]).code(1);
    resting(&it, "c4");
    it.docker(["update", "--restart", "no", "c4"]).ok();
    wait_until("the policy is heeded", || it.inspect("c4", "/State/Status") == "exited");
    // A kill ends what runs for good, too.
    it.docker(["run", "-d", "--name", "c5", "--restart", "always", "busybox", "sleep", "1000"]).ok();
    it.docker(["kill", "c5"]).ok();
    wait_until("it has ended", || it.inspect("c5", "/State/Status") == "exited");
    assert_eq!(count(&it, "c5"), 0);
}

fn what_waits_for_its_restart_says_so() {
    let it = Instance::new();
    resting(&it, "c1");
    // Its pauses end: what is asked may come when it has just been started again, and is then asked in the next one.
    wait_until("inspect says so", || it.inspect("c1", "/State/Restarting") == true);
    assert_eq!(it.inspect("c1", "/State/Running"), true);
    let asked = |words: &[&str], said: &str| {
        wait_until(said, || {
            let answer = it.docker(words);
            answer.stdout.contains(said) || answer.stderr.contains(said)
        });
    };
    let status = ["ps", "--format", "{{.Names}} {{.Status}}", "--filter", "status=restarting"];
    asked(&status, "c1 Restarting (1) ");
    let waits = "is restarting, wait until the container is running";
    asked(&["exec", "c1", "true"], waits);
    asked(&["pause", "c1"], waits);
    asked(&["rm", "c1"], "You cannot remove a restarting container");
    it.docker(["start", "c1"]).ok();
    it.docker(["wait", "c1"]).ok().is("1");
    it.docker(["rm", "-f", "c1"]).ok();
}

fn a_new_daemon_starts_what_should_run() {
    let it = Instance::new();
    for (name, policy) in [("aa", "always"), ("uu", "unless-stopped"), ("nn", "no")] {
        it.docker(["run", "-d", "--name", name, "--restart", policy, "busybox", "sleep", "1000"]).ok();
        it.docker(["stop", "-t", "0", name]).ok();
    }
    it.docker(["run", "-d", "--name", "runs", "--restart", "always", "busybox", "sleep", "1000"]).ok();
    let pid = it.inspect("runs", "/State/Pid");
    it.kill_9();
    it.start();
    wait_until("what should always run does", || it.inspect("aa", "/State/Running") == true);
    assert_eq!(it.inspect("uu", "/State/Status"), "exited");
    assert_eq!(it.inspect("nn", "/State/Status"), "exited");
    assert_eq!(it.inspect("runs", "/State/Pid"), pid, "live restore");
}

fn a_container_that_ended_without_a_daemon_starts_again() {
    let it = Instance::new();
    let own = |name: &str, mode: &str| {
        it.docker([
            "run",
            "-d",
            "--name",
            name,
            "--restart",
            "unless-stopped",
            "--pid",
            mode,
            "busybox",
            "sleep",
            "1000",
        ])
        .ok();
    };
    own("c1", "");
    own("c2", "container:c1");
    let pid = it.inspect("c1", "/State/Pid").as_i64().unwrap();
    it.kill_9();
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    it.start();
    for name in ["c1", "c2"] {
        wait_until("it runs again", || it.inspect(name, "/State/Status") == "running");
    }
    let (one, two) = (it.inspect("c1", "/State/Pid"), it.inspect("c2", "/State/Pid"));
    let namespace = |pid: &serde_json::Value| std::fs::read_link(format!("/proc/{pid}/ns/pid")).unwrap();
    wait_until("it shares the new one's namespace", || {
        let pid = it.inspect("c2", "/State/Pid");
        std::fs::read_link(format!("/proc/{pid}/ns/pid")).is_ok_and(|ns| ns == namespace(&one))
    });
    assert_ne!(one, two);
}

fn the_restart_verb_starts_what_runs_and_what_does_not() {
    let it = Instance::new();
    it.docker(["run", "-d", "--name", "c1", "busybox", "sleep", "1000"]).ok();
    let before = it.inspect("c1", "/State/Pid");
    it.docker(["restart", "-t", "0", "c1"]).ok();
    assert_ne!(it.inspect("c1", "/State/Pid"), before);
    it.docker(["stop", "-t", "0", "c1"]).ok();
    it.docker(["restart", "c1"]).ok();
    assert_eq!(it.inspect("c1", "/State/Running"), true);
    let said = actions(&it, "c1");
    let one = "create start kill kill die stop start restart";
    assert!(said.starts_with(one) || said.starts_with("create attach start"), "{said}");
    assert!(said.ends_with("stop start restart"), "{said}");
}

fn policies_that_make_no_sense_are_refused() {
    let it = Instance::new();
    it.docker(["run", "-d", "--rm", "--name", "c1", "busybox", "sleep", "1000"]).ok();
    it.docker(["update", "--restart", "always", "c1"]).code(1).complains("because AutoRemove is enabled");
    let body = r#"{"Image":"busybox","Cmd":"true","HostConfig":{"RestartPolicy":{"Name":"POLICY"},"AutoRemove":true}}"#;
    for (policy, words) in [
        ("always", "can't create 'AutoRemove' container with restart policy"),
        ("x", "invalid restart policy 'x'"),
    ] {
        let answer = sampan_testkit::Command::new("curl")
            .args([
                "-s",
                "--unix-socket",
                it.socket().to_str().unwrap(),
                "-H",
                "Content-Type: application/json",
                "-d",
            ])
            .args([body.replace("POLICY", policy).as_str(), "http://d/containers/create"])
            .run()
            .ok();
        answer.says(words);
    }
}
