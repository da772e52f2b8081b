//! create, start, state, kill, delete, run, list.

use std::fs;

use serde_json::Value;

use crate::harness::{Fixture, eventually};

#[test]
fn a_container_lives_from_create_to_delete() {
    let f = Fixture::new("echo started > /started; exec sleep 100");
    f.call(&["create", "--pid-file", "pid", "c"]).ok();
    let state = f.state();
    assert_eq!(state["status"], "created");
    assert_eq!(state["id"], "c");
    assert_eq!(state["bundle"], f.bundle().to_str().unwrap());
    let pid = fs::read_to_string(f.bundle().join("pid")).unwrap();
    assert_eq!(state["pid"].to_string(), pid);
    assert!(!f.rootfs().join("started").exists(), "the program waits for start");

    f.call(&["start", "c"]).ok();
    assert_eq!(f.status(), "running");
    eventually("the program runs", || f.rootfs().join("started").exists());
    f.call(&["start", "c"]).fails(1, "cannot start an already running container");
    f.call(&["delete", "c"]).fails(1, "not stopped");

    f.call(&["kill", "c", "KILL"]).ok();
    eventually("the process has ended", || f.status() == "stopped");
    assert_eq!(f.state()["pid"], 0);
    f.call(&["kill", "c", "KILL"]).fails(1, "container not running");
    f.call(&["start", "c"]).fails(1, "cannot start a container that has stopped");
    f.call(&["delete", "c"]).ok();
    f.assert_gone();
    f.call(&["delete", "c"]).fails(1, "does not exist");
    f.call(&["delete", "--force", "c"]).ok();
}

#[test]
fn run_waits_passes_the_code_on_and_leaves_nothing() {
    let f = Fixture::new("echo out; echo err >&2; exit 7");
    let output = f.run();
    assert_eq!((output.code, output.out.as_str(), output.err.as_str()), (7, "out\n", "err\n"));
    f.assert_gone();
}

#[test]
fn a_signal_that_ends_the_process_is_told_as_shells_do() {
    let f = Fixture::new("true").with(|c| {
        // As the first of a PID namespace it could not end itself.
        c["linux"]["namespaces"].as_array_mut().unwrap().retain(|n| n["type"] != "pid");
        c["process"]["args"] = serde_json::json!(["sh", "-c", "kill -9 $$"]);
    });
    assert_eq!(f.run().code, 137);
    f.assert_gone();
}

#[test]
fn run_passes_signals_on() {
    let f = Fixture::new("trap 'exit 5' TERM; echo > /ready; while :; do sleep 0.01; done");
    let mut child = f.command(&["run", "c"]).spawn().unwrap();
    eventually("the trap is set", || f.rootfs().join("ready").exists());
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(5));
    f.assert_gone();
}

#[test]
fn a_detached_container_is_left_alone() {
    let f = Fixture::new("exec sleep 100");
    f.call(&["run", "--detach", "--pid-file", "pid", "c"]).ok();
    assert_eq!(f.status(), "running");
    f.call(&["delete", "-f", "c"]).ok();
    f.assert_gone();
}

#[test]
fn a_handle_on_the_process_is_sent_to_a_socket() {
    let f = Fixture::new("exec sleep 100");
    let path = f.path("pidfd");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let accept = || {
        let (socket, _) = listener.accept().unwrap();
        let fd = sampan_runtime::channel::receive_descriptor(std::os::fd::AsFd::as_fd(&socket), &mut [0; 64])
            .unwrap();
        std::os::fd::AsRawFd::as_raw_fd(&fd.1.unwrap())
    };
    f.call(&["create", "--pidfd-socket", path.to_str().unwrap(), "c"]).ok();
    assert!(accept() > 2);
    f.call(&["start", "c"]).ok();
    f.call(&["exec", "--pidfd-socket", path.to_str().unwrap(), "c", "true"]).ok();
    assert!(accept() > 2);
}

#[test]
fn a_kept_container_is_there_after_its_end() {
    let f = Fixture::new("true");
    f.call(&["run", "--keep", "c"]).ok();
    assert_eq!(f.status(), "stopped");
    f.call(&["delete", "c"]).ok();
    f.assert_gone();
}

#[test]
fn a_created_container_is_deleted_without_force() {
    let f = Fixture::new("true");
    f.call(&["create", "c"]).ok();
    f.call(&["delete", "c"]).ok();
    f.assert_gone();
}

#[test]
fn a_created_container_is_ended_by_a_signal() {
    let f = Fixture::new("grep SigBlk /proc/self/status | cut -f2 > /tmp/blocked");
    f.call(&["create", "c"]).ok();
    f.call(&["kill", "c", "TERM"]).ok();
    eventually("it has ended", || f.status() == "stopped");
    f.call(&["delete", "c"]).ok();
    // And who is started has no signal blocked.
    f.start();
    eventually("it has ended", || f.status() == "stopped");
    assert_eq!(fs::read_to_string(f.rootfs().join("tmp/blocked")).unwrap(), "0000000000000000\n");
}

#[test]
fn an_id_is_taken_once() {
    let f = Fixture::new("true");
    f.call(&["create", "c"]).ok();
    f.call(&["create", "c"]).fails(1, "container with given ID already exists");
    assert_eq!(f.status(), "created", "the first one is untouched");
}

#[test]
fn config_json_counts_as_it_was_at_create() {
    let mut f = Fixture::new("echo first > /tmp/said");
    f.call(&["create", "c"]).ok();
    f.config["process"]["args"] = serde_json::json!(["sh", "-c", "echo second > /tmp/said"]);
    f.call(&["start", "c"]).ok();
    eventually("it has ended", || f.status() == "stopped");
    assert_eq!(fs::read_to_string(f.rootfs().join("tmp/said")).unwrap(), "first\n");
}

#[test]
fn list_has_tables_ids_and_json() {
    let f = Fixture::new("true").with(|c| c["annotations"] = serde_json::json!({"a": "b"}));
    assert!(f.call(&["list"]).ok().starts_with("ID "));
    f.call(&["create", "c"]).ok();
    assert_eq!(f.call(&["list", "-q"]).ok(), "c\n");
    let table = f.call(&["list"]).ok();
    assert!(table.starts_with("ID          PID "), "{table}");
    let json: Value = serde_json::from_str(&f.call(&["list", "--format", "json"]).ok()).unwrap();
    assert_eq!(json[0]["id"], "c");
    assert_eq!(json[0]["annotations"]["a"], "b");
    assert_eq!(json[0]["owner"], "root");
}

#[test]
fn what_a_killed_create_left_is_cleared_by_delete() {
    // A hook stands for every place at which create may be killed with most of the container made.
    let f = Fixture::new("true").with(|c| {
        c["hooks"] =
            serde_json::json!({"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "1000"]}]});
    });
    let mut child = f.command(&["create", "c"]).spawn().unwrap();
    let hook = || {
        let out = std::process::Command::new("pgrep")
            .args(["-P", &child.id().to_string(), "sleep"])
            .output()
            .unwrap();
        String::from_utf8(out.stdout).unwrap().trim().parse::<i32>().ok()
    };
    eventually("the hook runs", || hook().is_some());
    let hook = hook().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(hook).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    f.call(&["delete", "--force", "c"]).ok();
    f.assert_gone();
}

#[test]
fn the_shims_way_of_calling_works() {
    let f = Fixture::new("exec sleep 100");
    let log = f.path("log.json").display().to_string();
    let call = |args: &[&str]| {
        let mut all = vec!["--log", &log, "--log-format", "json"];
        all.extend(args);
        f.call(&all)
    };
    let bundle = f.bundle().display().to_string();
    let pid = f.path("pid").display().to_string();
    call(&["create", "--bundle", &bundle, "--pid-file", &pid, "c"]).ok();
    call(&["start", "c"]).ok();
    let process = f.path("process.json");
    let json = serde_json::json!({"args": ["sh", "-c", "echo > /execed"], "cwd": "/", "user": {"uid": 0, "gid": 0},
        "env": ["PATH=/bin"]});
    fs::write(&process, json.to_string()).unwrap();
    let exec_pid = f.path("exec.pid").display().to_string();
    call(&["exec", "--process", process.to_str().unwrap(), "--detach", "--pid-file", &exec_pid, "c"]).ok();
    eventually("the process runs", || f.rootfs().join("execed").exists());
    assert!(fs::read_to_string(&exec_pid).unwrap().parse::<i32>().unwrap() > 0);
    call(&["kill", "c", "9"]).ok();
    eventually("it has ended", || f.status() == "stopped");
    call(&["delete", "c"]).ok();
    assert_eq!(fs::read_to_string(&log).unwrap(), "");
    let error = call(&["state", "c"]).fails(1, "does not exist");
    assert!(!error.contains("level="), "with a log file, standard error has the bare text: {error}");
    let line: Value = serde_json::from_str(fs::read_to_string(&log).unwrap().trim()).unwrap();
    assert_eq!(line["level"], "error");
    assert!(line["msg"].as_str().unwrap().contains("does not exist") && line["time"].is_string());
}

#[test]
fn many_at_once() {
    let f = Fixture::new("exit 3").with(|c| {
        c["linux"].as_object_mut().unwrap().remove("cgroupsPath");
    });
    let unique = std::process::id();
    let mut children: Vec<_> = (0..16)
        .map(|n| f.command(&["run", &format!("sampan-test-many-{unique}-{n}")]).spawn().unwrap())
        .collect();
    for child in &mut children {
        assert_eq!(child.wait().unwrap().code(), Some(3));
    }
    f.assert_gone();
}
