//! Terminals: our client in a pseudo terminal, with a person's keys.

use sampan_testkit::{Instance, Pty, executable, wait_until};

crate::cases! {
    a_terminal_carries_size_keys_and_the_exit_code,
    control_c_reaches_the_process,
    the_detach_keys_leave_the_container_running_and_attach_comes_back,
    exec_has_a_terminal_of_its_own,
    dockers_client_has_a_terminal_too [Docker],
}

fn open(it: &Instance, arguments: &[&str]) -> Pty {
    let host = format!("unix://{}", it.socket().display());
    Pty::run(&executable("sampan"), arguments, &[("SAMPAN_HOST", &host)], 33, 101)
}

fn a_terminal_carries_size_keys_and_the_exit_code() {
    let it = Instance::new();
    let script = "trap 'echo size is $(stty size)' WINCH; test -t 0 && echo has a terminal; \
                  while :; do s=$(stty size); test \"$s\" = '33 101' && break; done; echo started $s; \
                  while ! read line; do :; done; echo read $line; exit 42";
    let pty = open(&it, &["run", "--rm", "-it", "--name", "c1", "busybox", "sh", "-c", script]);
    pty.wait_for("has a terminal");
    pty.wait_for("started 33 101");
    pty.resize(44, 122);
    pty.wait_for("size is 44 122");
    pty.type_in("some words\r");
    pty.wait_for("read some words");
    assert_eq!(pty.wait(), (42, true), "exit code, terminal as before");
    it.sampan(["ps", "-aq"]).ok().is("");
}

fn control_c_reaches_the_process() {
    let it = Instance::new();
    let script = "trap 'echo got int; exit 9' INT; echo ready; while :; do sleep 0.1; done";
    let pty = open(&it, &["run", "--rm", "-it", "busybox", "sh", "-c", script]);
    pty.wait_for("ready");
    pty.type_in("\x03");
    pty.wait_for("got int");
    assert_eq!(pty.wait(), (9, true), "exit code, terminal as before");
}

fn the_detach_keys_leave_the_container_running_and_attach_comes_back() {
    let it = Instance::new();
    let script = "echo ready; while read line; do echo you said $line; test \"$line\" = end && exit 6; done";
    let pty = open(&it, &["run", "-it", "--name", "c1", "busybox", "sh", "-c", script]);
    pty.wait_for("ready");
    pty.type_in("one\r");
    pty.wait_for("you said one");
    pty.type_in("\x10\x11");
    assert_eq!(pty.wait(), (0, true), "exit code, terminal as before");
    assert_eq!(it.inspect("c1", "/State/Status"), "running");

    let pty = open(&it, &["attach", "c1"]);
    pty.wait_until_raw();
    pty.type_in("two\r");
    pty.wait_for("you said two");
    // The first of the two keys alone is a key like any other.
    pty.type_in("\x10x\x7f\x7fend\r");
    pty.wait_for("you said end");
    assert_eq!(pty.wait(), (6, true), "exit code, terminal as before");
    it.sampan(["logs", "c1"]).ok().says("you said two");
    assert_eq!(it.inspect("c1", "/State/ExitCode"), 6);
}

fn exec_has_a_terminal_of_its_own() {
    let it = Instance::new();
    it.sampan(["run", "-d", "--name", "c1", "busybox", "sleep", "1000"]).ok();
    let script = "trap 'echo size is $(stty size)' WINCH; while :; do s=$(stty size); test \"$s\" = '33 101' && break; done; \
                  echo started $s; while ! read line; do :; done; echo read $line; exit 7";
    let pty = open(&it, &["exec", "-it", "c1", "sh", "-c", script]);
    pty.wait_for("started 33 101");
    pty.resize(20, 60);
    pty.wait_for("size is 20 60");
    pty.type_in("words\r");
    pty.wait_for("read words");
    assert_eq!(pty.wait(), (7, true), "exit code, terminal as before");

    let pty = open(&it, &["exec", "-it", "c1", "cat"]);
    pty.wait_until_raw();
    pty.type_in("to cat\r");
    pty.wait_for("to cat\r\nto cat");
    pty.type_in("\x03");
    assert_eq!(pty.wait(), (130, true), "exit code, terminal as before");
    it.sampan(["rm", "-f", "c1"]).ok();
}

fn dockers_client_has_a_terminal_too() {
    let it = Instance::new();
    let host = format!("unix://{}", it.socket().display());
    let docker = |arguments: &[&str]| {
        Pty::run("/usr/bin/docker".as_ref(), arguments, &[("DOCKER_HOST", &host)], 33, 101)
    };
    let script = "while :; do s=$(stty size); test \"$s\" = '33 101' && break; done; echo size $s; \
                  while read line; do echo you said $line; test \"$line\" = end && exit 6; done";
    let pty = docker(&["run", "-it", "--name", "c1", "busybox", "sh", "-c", script]);
    pty.wait_for("size 33 101");
    pty.type_in("one\r");
    pty.wait_for("you said one");
    pty.type_in("\x10\x11");
    // Docker's client ends with the error that it was detached (newer ones with success).
    assert!(pty.wait().1, "terminal as before");
    assert_eq!(it.inspect("c1", "/State/Status"), "running");
    let pty = docker(&["attach", "c1"]);
    pty.wait_until_raw();
    pty.type_in("end\r");
    pty.wait_for("you said end");
    assert_eq!(pty.wait(), (6, true), "exit code, terminal as before");
    wait_until("it has ended", || it.inspect("c1", "/State/Status") == "exited");
    it.sampan(["start", "c1"]).ok();
    let pty = docker(&["exec", "-it", "c1", "sh", "-c", "read line; echo got $line; exit 8"]);
    pty.wait_until_raw();
    pty.type_in("words\r");
    pty.wait_for("got words");
    assert_eq!(pty.wait(), (8, true), "exit code, terminal as before");
}
