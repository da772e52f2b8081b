//! Checkpoint and restore, by CRIU.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::json;

use crate::harness::{Fixture, Guard, eventually};

const COUNTER: &str = "i=0; while :; do i=$((i+1)); echo $i > /tmp/new; mv /tmp/new /tmp/n; sleep 0.05; done";

/// Runs a command whose standard streams, and so the container's, lead nowhere.
#[track_caller]
fn quietly(f: &Fixture, args: &[&str]) {
    let mut command = f.command(args);
    let log = f.path("log");
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let status = command.status().unwrap();
    let why = || {
        // Again, to be told why.
        let output = f.call(args);
        let criu = fs::read_to_string(f.path("images/restore.log")).unwrap_or_default();
        let dump = fs::read_to_string(f.path("images/dump.log")).unwrap_or_default();
        let tail = |text: &str| text.lines().rev().take(12).map(|l| format!("{l}\n")).collect::<String>();
        format!("{args:?}: {output:?} {} {}\n{}", log.display(), tail(&criu), tail(&dump))
    };
    assert!(status.success(), "{}", why());
}

fn start(f: &Fixture) {
    quietly(f, &["run", "-d", "c"]);
}

fn images(f: &Fixture) -> String {
    f.path("images").display().to_string()
}

fn checkpoint(f: &Fixture, more: &[&str]) {
    let images = images(f);
    let args = [&["checkpoint", "--image-path", &images], more, &["c"]].concat();
    quietly(f, &args);
}

fn restore(f: &Fixture, more: &[&str]) {
    let images = images(f);
    let args = [&["restore", "-d", "--image-path", &images], more, &["c"]].concat();
    quietly(f, &args);
}

fn count(f: &Fixture) -> u64 {
    let text = fs::read_to_string(f.rootfs().join("tmp/n")).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

pub(crate) fn it_goes_on_where_it_was() {
    let f = Fixture::new(COUNTER).with(|c| {
        c["hostname"] = "counter".into();
        c["linux"]["resources"]["memory"] = json!({"limit": 64 << 20});
        c["linux"]["resources"]["pids"] = json!({"limit": 30});
    });
    start(&f);
    eventually("it counts", || count(&f) > 3);
    let before = f.state();
    checkpoint(&f, &[]);
    f.assert_gone();
    f.call(&["state", "c"]).fails(1, "does not exist");
    let reached = count(&f);
    restore(&f, &["--pid-file", f.path("pid").to_str().unwrap()]);
    let state = f.state();
    assert_eq!(state["status"], "running");
    assert_eq!(state["bundle"], before["bundle"]);
    assert_eq!(fs::read_to_string(f.path("pid")).unwrap(), state["pid"].to_string());
    eventually("it counts on", || count(&f) > reached + 3);
    // All that works for a container works for this one.
    assert_eq!(f.exec("hostname; cat /proc/1/comm; cat /proc/self/cgroup").ok(), "counter\nsh\n0::/\n");
    assert!(f.exec("cat /proc/kcore").code != 0 || f.exec("cat /proc/kcore").out.is_empty());
    assert!(f.exec("echo 1 > /proc/sys/kernel/domainname").err.contains("Read-only"));
    assert_eq!(f.cgroup_file("memory.limit_in_bytes", "memory.max"), (64 << 20).to_string());
    assert_eq!(f.cgroup_file("pids.max", "pids.max"), "30");
    let pids: Vec<i32> = serde_json::from_str(&f.call(&["ps", "-f", "json", "c"]).ok()).unwrap();
    assert!(pids.contains(&(state["pid"].as_i64().unwrap() as i32)));
    f.call(&["pause", "c"]).ok();
    let paused = count(&f);
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!(count(&f), paused);
    f.call(&["resume", "c"]).ok();
    f.call(&["kill", "c", "KILL"]).ok();
    eventually("it has ended", || f.status() == "stopped");
    f.call(&["delete", "c"]).ok();
    f.assert_gone();
}

pub(crate) fn it_may_go_on_and_be_restored_from_memory_written_before() {
    let f = Fixture::new(COUNTER);
    start(&f);
    eventually("it counts", || count(&f) > 3);
    let first = f.path("images/first").display().to_string();
    let second = f.path("images/second").display().to_string();
    quietly(&f, &["checkpoint", "--pre-dump", "--image-path", &first, "c"]);
    assert_eq!(f.status(), "running");
    let reached = count(&f);
    eventually("it counts on", || count(&f) > reached + 3);
    quietly(&f, &["checkpoint", "--leave-running", "--image-path", &images(&f), "c"]);
    assert_eq!(f.status(), "running");
    let reached = count(&f);
    eventually("it counts on", || count(&f) > reached + 3);
    quietly(&f, &["checkpoint", "--parent-path", "../first", "--image-path", &second, "c"]);
    f.assert_gone();
    let reached = count(&f);
    quietly(&f, &["restore", "-d", "--image-path", &second, "c"]);
    eventually("it counts on", || count(&f) > reached + 3);
    f.call(&["checkpoint", "--parent-path", "/first", "--image-path", &second, "c"]).fails(1, "relative");
    assert_eq!(f.status(), "running");
}

/// Starts a command with pipes for its output.
fn piped(mut command: Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

pub(crate) fn in_the_foreground_output_and_exit_code_are_the_programs() {
    let f = Fixture::new("echo before; while [ ! -e /tmp/go ]; do sleep 0.05; done; echo after; exit 7");
    let mut first = Guard(piped(f.command(&["run", "c"])));
    let mut text = [0; 7];
    first.0.stdout.as_mut().unwrap().read_exact(&mut text).unwrap();
    assert_eq!(&text, b"before\n");
    checkpoint(&f, &[]);
    first.0.wait().unwrap();
    let mut second = piped(f.command(&["restore", "--image-path", &images(&f), "c"]));
    eventually("it runs", || {
        second.try_wait().unwrap().is_some() || f.call(&["state", "c"]).out.contains("running")
    });
    fs::write(f.rootfs().join("tmp/go"), "").unwrap();
    let output = second.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(7), &b"after\n"[..]), "{output:?}");
    f.assert_gone();
}

pub(crate) fn what_is_the_hosts_is_mounted_again() {
    let f = Fixture::new(COUNTER).with(|_| {});
    for directory in ["rw", "ro"] {
        fs::create_dir(f.path(directory)).unwrap();
        fs::write(f.path(directory).join("file"), directory).unwrap();
    }
    let (rw, ro, file) = (f.path("rw"), f.path("ro"), f.path("ro/file"));
    let f = f.with(|c| {
        let mounts = c["mounts"].as_array_mut().unwrap();
        mounts.push(
            json!({"destination": "/vol/rw", "type": "bind", "source": rw, "options": ["rbind", "rw"]}),
        );
        mounts
            .push(json!({"destination": "/vol/ro", "type": "bind", "source": ro, "options": ["bind", "ro"]}));
        mounts.push(
            json!({"destination": "/etc/one", "type": "bind", "source": file, "options": ["bind", "ro"]}),
        );
        mounts.push(
            json!({"destination": "/scratch", "type": "tmpfs", "source": "tmpfs", "options": ["size=1m"]}),
        );
        c["root"]["readonly"] = false.into();
    });
    start(&f);
    eventually("it counts", || count(&f) > 3);
    f.exec("echo kept > /scratch/x").ok();
    checkpoint(&f, &[]);
    let reached = count(&f);
    restore(&f, &[]);
    eventually("it counts on", || count(&f) > reached + 3);
    assert_eq!(
        f.exec("cat /vol/rw/file /vol/ro/file /etc/one /scratch/x").ok(),
        "rwroro".to_owned() + "kept\n"
    );
    f.exec("echo new > /vol/rw/new").ok();
    assert_eq!(fs::read_to_string(rw.join("new")).unwrap(), "new\n");
    assert!(f.exec("echo new > /vol/ro/new").err.contains("Read-only"));
    assert!(f.exec("echo new > /etc/one").err.contains("Read-only"));
}

pub(crate) fn a_network_namespace_given_by_path_is_joined_again() {
    let name = format!("sampan-test-{}", std::process::id());
    assert!(Command::new("ip").args(["netns", "add", &name]).status().unwrap().success());
    let f = Fixture::new(COUNTER).with(|c| {
        for namespace in c["linux"]["namespaces"].as_array_mut().unwrap() {
            if namespace["type"] == "network" {
                namespace["path"] = format!("/run/netns/{name}").into();
            }
        }
    });
    let inode = |path: String| fs::read_link(path).unwrap();
    start(&f);
    eventually("it counts", || count(&f) > 3);
    let before = inode(format!("/proc/{}/ns/net", f.state()["pid"]));
    checkpoint(&f, &[]);
    restore(&f, &[]);
    let after = inode(format!("/proc/{}/ns/net", f.state()["pid"]));
    let _ = Command::new("ip").args(["netns", "delete", &name]).status();
    assert_eq!(before, after);
}

pub(crate) fn systemd_makes_the_groups_of_a_restored_container() {
    let f = Fixture::new(COUNTER);
    let name = f.cgroup[1..].to_owned();
    let f = f.with(|c| c["linux"]["cgroupsPath"] = format!("sampan-test.slice:sampan:{name}").into());
    quietly(&f, &["--systemd-cgroup", "run", "-d", "c"]);
    eventually("it counts", || count(&f) > 3);
    let group = || fs::read_to_string(format!("/proc/{}/cgroup", f.state()["pid"])).unwrap();
    let before = group();
    checkpoint(&f, &[]);
    let reached = count(&f);
    let images = images(&f);
    quietly(&f, &["--systemd-cgroup", "restore", "-d", "--image-path", &images, "c"]);
    eventually("it counts on", || count(&f) > reached + 3);
    assert_eq!(group(), before);
    f.call(&["delete", "--force", "c"]).ok();
}

pub(crate) fn a_terminal_is_handed_over_again() {
    let script = "while read word; do [ $word = size ] && stty size || echo got $word; done";
    let f = Fixture::new(script).with(|c| c["process"]["terminal"] = true.into());
    let socket = f.path("console");
    let listener = UnixListener::bind(&socket).unwrap();
    let socket = socket.to_str().unwrap();
    let converse = |controller: &mut fs::File, word: &str| {
        controller.write_all(format!("{word}\n").as_bytes()).unwrap();
        let mut text = String::new();
        eventually("it answers", || {
            let mut buffer = [0; 1024];
            let length = controller.read(&mut buffer).unwrap();
            text.push_str(&String::from_utf8_lossy(&buffer[..length]));
            text.contains(&format!("got {word}"))
        });
    };
    quietly(&f, &["run", "-d", "--console-socket", socket, "c"]);
    let mut controller = accept(&listener);
    converse(&mut controller, "before");
    checkpoint(&f, &["--shell-job"]);
    drop(controller);
    restore(&f, &["--shell-job", "--console-socket", socket]);
    let mut controller = accept(&listener);
    converse(&mut controller, "after");
    f.call(&["delete", "--force", "c"]).ok();
    f.assert_gone();
}

fn accept(listener: &UnixListener) -> fs::File {
    listener.set_nonblocking(true).unwrap();
    let mut accepted = None;
    eventually("somebody brings a terminal", || {
        accepted = listener.accept().ok();
        accepted.is_some()
    });
    let (socket, _) = accepted.unwrap();
    socket.set_nonblocking(false).unwrap();
    let received = sampan_runtime::channel::receive_descriptor(socket.as_fd(), &mut [0; 4096]).unwrap();
    fs::File::from(received.1.unwrap())
}

pub(crate) fn what_runc_has_written_is_restored() {
    let runc = Path::new("/usr/sbin/runc");
    assert!(runc.exists(), "this test compares with runc");
    let mut f = Fixture::new(COUNTER).with(|c| c["ociVersion"] = "1.0.2".into());
    let ours = std::mem::replace(&mut f.runtime, runc.to_owned());
    start(&f);
    eventually("it counts", || count(&f) > 3);
    checkpoint(&f, &[]);
    let reached = count(&f);
    f.runtime = ours;
    restore(&f, &[]);
    eventually("it counts on", || count(&f) > reached + 3);
    f.call(&["delete", "--force", "c"]).ok();
    f.assert_gone();
}

pub(crate) fn failures_are_told_and_leave_nothing() {
    let f = Fixture::new(COUNTER);
    f.call(&["checkpoint", "c"]).fails(1, "does not exist");
    f.call(&["restore", "-d", "--image-path", "/nope", "c"]).fails(1, "/nope");
    f.assert_gone();
    fs::create_dir(f.path("images")).unwrap();
    f.call(&["restore", "-d", "--image-path", &images(&f), "c"]).fails(1, "restore.log");
    f.assert_gone();
    f.call(&["--criu", "/nope", "restore", "-d", "--image-path", &images(&f), "c"]).fails(1, "/nope");
    f.assert_gone();
    f.call(&["create", "c"]).ok();
    f.call(&["checkpoint", "c"]).fails(1, "cannot checkpoint a container that is created");
    f.call(&["start", "c"]).ok();
    // Its standard streams are files of the host's, which can't be found again by their names in the container.
    eventually("it counts", || count(&f) > 3);
    f.call(&["checkpoint", "--image-path", &images(&f), "c"]).fails(1, "dump.log");
    let reached = count(&f);
    eventually("it counts on", || count(&f) > reached + 3);
    f.call(&["restore", "-d", "--image-path", &images(&f), "c"]).fails(1, "exists");
}

/// Where CRIU does not start, as on kernels newer than it knows.
pub(crate) fn without_criu_the_reason_is_told() {
    let f = Fixture::running(COUNTER);
    let error = f.call(&["checkpoint", "--image-path", &images(&f), "c"]);
    assert_eq!(error.code, 1, "{error:?}");
    assert!(error.err.contains("criu"), "{error:?}");
    assert!(error.err.contains("vDSO") || error.err.contains("dump.log"), "{error:?}");
    assert_eq!(f.status(), "running");
}
