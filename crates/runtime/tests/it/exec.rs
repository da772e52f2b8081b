//! Processes that are added to a container.

use std::fs;

use serde_json::json;

use crate::harness::{Fixture, eventually};

#[test]
fn it_is_in_all_namespaces_and_its_code_is_passed_on() {
    let f = Fixture::running("exec sleep 100");
    let namespaces = "for n in cgroup ipc mnt net pid user uts; do readlink /proc/$p/ns/$n; done";
    let theirs = f.exec(&format!("p=1; {namespaces}")).ok();
    assert_eq!(f.exec(&format!("p=self; {namespaces}")).ok(), theirs);
    let output = f.exec("echo out; echo err >&2; exit 7");
    assert_eq!((output.code, output.out.as_str(), output.err.as_str()), (7, "out\n", "err\n"));
    assert_eq!(f.exec("kill -9 $$").code, 137);
}

#[test]
fn it_has_the_containers_privileges_and_no_more() {
    let f = Fixture::running("exec sleep 100");
    let status = "grep -E '^Cap|NoNewPrivs|Seccomp:' /proc/$p/status";
    assert_eq!(f.exec(&format!("p=self; {status}")).ok(), f.exec(&format!("p=1; {status}")).ok());
    let inheritable = f.call(&["exec", "--cap", "CAP_CHOWN", "c", "grep", "^Cap", "/proc/self/status"]).ok();
    let sets: Vec<&str> = inheritable.lines().map(|l| l.split_whitespace().nth(1).unwrap()).collect();
    assert_eq!(sets[0], "0000000000000000", "nothing becomes inheritable by --cap");
    assert_eq!(u64::from_str_radix(sets[2], 16).unwrap() & 1, 1);
}

#[test]
fn options_change_the_process() {
    let f = Fixture::running("exec sleep 100");
    let call = |args: &[&str], script: &str| {
        let mut all = vec!["exec"];
        all.extend(args);
        all.extend(["c", "sh", "-c", script]);
        f.call(&all).ok()
    };
    assert_eq!(
        call(
            &["--user", "5:6", "-g", "7", "--cwd", "/tmp", "-e", "A=1"],
            "id -u; id -g; id -G; pwd; echo $A"
        ),
        "5\n6\n6 7\n/tmp\n1\n"
    );
    assert_eq!(call(&["--no-new-privs"], "grep NoNewPrivs /proc/self/status | cut -f2"), "1\n");
    f.call(&["exec", "--user", "0x1", "c", "id"]).fails(255, "`0x1`");
    f.call(&["exec", "--user", "+1", "c", "id"]).fails(255, "`+1`");
    f.call(&["exec", "--cwd", "/nope", "c", "id"]).fails(255, "change into `/nope`");
    f.call(&["exec", "c"]).fails(255, "needs a command");
}

#[test]
fn a_program_that_is_not_there_is_told_by_name() {
    let f = Fixture::running("exec sleep 100");
    fs::write(f.rootfs().join("plain"), "").unwrap();
    f.call(&["exec", "c", "foo"]).fails(255, "exec: \\\"foo\\\": executable file not found in $PATH");
    f.call(&["exec", "c", "/nope"]).fails(255, "exec: \\\"/nope\\\": stat /nope: no such file or directory");
    f.call(&["exec", "c", "/plain"]).fails(255, "exec: \\\"/plain\\\": permission denied");
    f.call(&["exec", "--detach", "c", "foo"]).fails(255, "executable file not found");
}

#[test]
fn a_container_that_has_ended_takes_none() {
    let f = Fixture::new("true");
    f.start();
    eventually("it has ended", || f.status() == "stopped");
    f.exec("true").fails(255, "cannot exec in a stopped container");
}

#[test]
fn a_created_container_takes_one() {
    let f = Fixture::new("exec sleep 100");
    f.call(&["create", "c"]).ok();
    assert_eq!(f.exec("echo fine").ok(), "fine\n");
}

#[test]
fn a_process_file_says_it_all() {
    let f = Fixture::running("exec sleep 100");
    let file = f.path("process.json");
    let process = json!({"args": ["sh", "-c", "id -u; pwd; echo $X; umask; ulimit -n"], "cwd": "/tmp", "env": ["PATH=/bin", "X=y"],
        "user": {"uid": 9, "gid": 9, "umask": 63}, "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 50, "hard": 50}]});
    fs::write(&file, process.to_string()).unwrap();
    assert_eq!(f.call(&["exec", "-p", file.to_str().unwrap(), "c"]).ok(), "9\n/tmp\ny\n0077\n50\n");
    fs::write(&file, "{").unwrap();
    f.call(&["exec", "-p", file.to_str().unwrap(), "c"]).fails(255, "process.json");
}

#[test]
fn it_is_put_into_a_group_below() {
    let f = Fixture::running("exec sleep 100");
    for group in f.cgroups() {
        fs::create_dir(group.join("sub")).unwrap();
        for file in ["cpuset.cpus", "cpuset.mems"] {
            // In v2, a group below has them only if its controllers are handed on.
            if let (Ok(value), true) = (fs::read(group.join(file)), group.join("sub").join(file).exists()) {
                fs::write(group.join("sub").join(file), value).unwrap();
            }
        }
    }
    let text = f.call(&["exec", "--cgroup", "sub", "c", "cat", "/proc/self/cgroup"]).ok();
    assert!(
        // Beside v1, the group of v2 only holds processes.
        text == "0::/sub\n"
            || text.lines().filter(|line| !line.starts_with("0::")).all(|line| line.ends_with(":/sub")),
        "{text}"
    );
    f.call(&["exec", "--cgroup", "../x", "c", "true"]).fails(255, "is not a sub cgroup path");
    f.call(&["exec", "--cgroup", "nope", "c", "true"]).fails(255, "nope");
}

#[test]
fn it_runs_on_the_cpus_it_is_given() {
    let f = Fixture::running("exec sleep 100");
    let file = f.path("process.json");
    let process = json!({"args": ["grep", "Cpus_allowed_list", "/proc/self/status"], "cwd": "/", "env": ["PATH=/bin"],
        "user": {"uid": 0, "gid": 0}, "execCPUAffinity": {"initial": "0-1", "final": "1"}});
    fs::write(&file, process.to_string()).unwrap();
    assert_eq!(f.call(&["exec", "-p", file.to_str().unwrap(), "c"]).ok(), "Cpus_allowed_list:\t1\n");
}

#[test]
fn a_detached_process_lives_on() {
    let f = Fixture::running("exec sleep 100");
    f.call(&["exec", "-d", "--pid-file", "pid", "c", "sleep", "100"]).ok();
    let pid = fs::read_to_string(f.bundle().join("pid")).unwrap();
    let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    assert_eq!(command, ["sleep", "100", ""].join("\0"));
}
