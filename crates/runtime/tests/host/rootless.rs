//! Ordinary users: with a single mapping, with newuidmap and newgidmap, with control groups that are handed to them.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::harness::{Fixture, Output, eventually, run};

const USER: u32 = 1000;
/// The first of the ids that the user may give away.
const FIRST: u32 = 100_000;

/// A bundle of the user's own, and a runtime that he may execute.
fn fixture(script: &str) -> Fixture {
    let mut f = Fixture::new(script);
    let runtime = f.path("runtime");
    // By another process: what this one has open for writing, if only in the child of another test's, is busy.
    assert!(Command::new("cp").arg(&f.runtime).arg(&runtime).status().unwrap().success());
    f.runtime = runtime;
    for (file, text) in [
        ("passwd", format!("root:x:0:0::/root:/bin/sh\ntester:x:{USER}:{USER}::/:/bin/sh\n")),
        ("subuid", format!("tester:{FIRST}:65536\n")),
    ] {
        fs::write(f.path(file), text).unwrap();
    }
    let owned =
        Command::new("chown").args(["-R", &format!("{USER}:{USER}")]).arg(f.directory.path()).status();
    assert!(owned.unwrap().success());
    // As the runtime itself proposes it to him.
    fs::remove_file(f.bundle().join("config.json")).unwrap();
    let args = f.config["process"]["args"].clone();
    let output = run(user_command(&f, &["spec", "--rootless"], "exec"));
    assert_eq!(output.code, 0, "{output:?}");
    f.config = serde_json::from_slice(&fs::read(f.bundle().join("config.json")).unwrap()).unwrap();
    f.config["process"]["args"] = args;
    f.config["process"]["terminal"] = false.into();
    f.config["root"]["readonly"] = false.into();
    f
}

/// The command, run by the user. His entries in /etc are bound over the host's, in a mount namespace of the command's
/// own; `enter` is shell code before that.
fn user_command(f: &Fixture, args: &[&str], enter: &str) -> Command {
    let script = format!(
        "mount --make-rprivate /; mount --bind {d}/passwd /etc/passwd
         for file in subuid subgid; do [ ! -e /etc/$file ] || mount --bind {d}/subuid /etc/$file; done
         {enter} setpriv --reuid {USER} --regid {USER} --clear-groups \"$@\"",
        d = f.directory.path().display()
    );
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", &script, "sh"]).arg(&f.runtime);
    command.arg("--root").arg(f.root()).args(args).current_dir(f.bundle()).stdin(Stdio::null());
    command.env_remove("DBUS_SESSION_BUS_ADDRESS").env("XDG_RUNTIME_DIR", format!("/run/user/{USER}"));
    command
}

fn call(f: &Fixture, args: &[&str]) -> Output {
    call_in(f, args, "exec")
}

fn call_in(f: &Fixture, args: &[&str], enter: &str) -> Output {
    f.write_config();
    chown(f.bundle().join("config.json"), Some(USER), Some(USER)).unwrap();
    run(user_command(f, args, enter))
}

fn state(f: &Fixture) -> Value {
    serde_json::from_str(&call(f, &["state", "c"]).ok()).unwrap()
}

/// An id and who it is on the host.
fn owner_of_process(f: &Fixture) -> u32 {
    fs::metadata(format!("/proc/{}", state(f)["pid"])).unwrap().uid()
}

#[track_caller]
fn delete(f: &Fixture) {
    call(f, &["delete", "--force", "c"]).ok();
    assert_eq!(fs::read_dir(f.root()).unwrap().count(), 0);
}

pub(crate) fn a_user_alone_is_root_in_his_container() {
    let f = fixture("id -u; id -g; echo x > /tmp/made; hostname; cat /proc/self/uid_map | tr -s ' '; exit 5");
    let output = call(&f, &["run", "c"]);
    assert_eq!(output.code, 5, "{output:?}");
    assert_eq!(output.out, format!("0\n0\n{}\n 0 {USER} 1\n", f.config["hostname"].as_str().unwrap()));
    assert_eq!(fs::metadata(f.rootfs().join("tmp/made")).unwrap().uid(), USER);
    let f = fixture("exec sleep 100");
    call(&f, &["create", "c"]).ok();
    assert_eq!(state(&f)["status"], "created");
    call(&f, &["start", "c"]).ok();
    assert_eq!(owner_of_process(&f), USER);
    assert_eq!(call(&f, &["exec", "c", "sh", "-c", "id -u; cat /proc/1/comm"]).ok(), "0\nsleep\n");
    assert!(call(&f, &["list", "-q"]).ok().contains('c'));
    call(&f, &["exec", "c", "sh", "-c", "echo > /proc/sys/kernel/panic"]).fails(1, "");
    call(&f, &["kill", "c", "KILL"]).ok();
    eventually("it has ended", || state(&f)["status"] == "stopped");
    delete(&f);
}

fn with_range(f: Fixture) -> Fixture {
    f.with(|c| {
        for (ids, own) in [("uidMappings", USER), ("gidMappings", USER)] {
            c["linux"][ids] = json!([
                {"containerID": 0, "hostID": own, "size": 1},
                {"containerID": 1, "hostID": FIRST, "size": 65536}]);
        }
        for set in ["bounding", "effective", "permitted"] {
            c["process"]["capabilities"][set] = json!(["CAP_CHOWN", "CAP_SETUID", "CAP_SETGID"]);
        }
    })
}

pub(crate) fn a_user_with_a_range_has_many_users_in_his_container() {
    let f = with_range(fixture("id -u; id -g; id -G; exec sleep 100")).with(|c| {
        c["process"]["user"] = json!({"uid": 5, "gid": 6, "additionalGids": [7, 8]});
    });
    call(&f, &["create", "c"]).ok();
    let ids = |script| call(&f, &["exec", "-u", "0:0", "c", "sh", "-c", script]);
    call(&f, &["start", "c"]).ok();
    assert_eq!(owner_of_process(&f), FIRST + 4);
    assert_eq!(call(&f, &["exec", "c", "sh", "-c", "id -u; id -g; id -G"]).ok(), "5\n6\n6 7 8\n");
    ids("touch /tmp/x && busybox chown 9:10 /tmp/x").ok();
    let metadata = fs::metadata(f.rootfs().join("tmp/x")).unwrap();
    assert_eq!((metadata.uid(), metadata.gid()), (FIRST + 8, FIRST + 9));
    delete(&f);
    // One line, but not of himself.
    let f = with_range(fixture("id -u; cat /proc/self/uid_map | tr -s ' '")).with(|c| {
        for ids in ["uidMappings", "gidMappings"] {
            c["linux"][ids] = json!([{"containerID": 0, "hostID": FIRST, "size": 65536}]);
        }
    });
    assert_eq!(call(&f, &["run", "c"]).ok(), format!("0\n 0 {FIRST} 65536\n"));
    // What he was not given.
    let f = with_range(fixture("true")).with(|c| c["linux"]["uidMappings"][1]["hostID"] = 5.into());
    call(&f, &["run", "c"]).fails(1, "newuidmap");
}

pub(crate) fn without_groups_limits_are_refused() {
    let f = fixture("echo fine");
    let output = call(&f, &["run", "c"]);
    assert_eq!((output.code, output.out.as_str()), (0, "fine\n"), "{output:?}");
    let f = fixture("echo fine")
        .with(|c| c["linux"]["resources"] = json!({"pids": {"limit": 5}, "devices": [{"allow": false}]}))
        .with(|c| c["linux"]["cgroupsPath"] = "/sampan-test-none/c".into());
    call(&f, &["run", "c"]).fails(1, "cgroup");
}

/// A group that is handed to the user, as somebody who delegates one does it.
fn delegate(f: &Fixture) -> PathBuf {
    let group = Path::new("/sys/fs/cgroup").join(&f.cgroup[1..]);
    fs::create_dir(&group).unwrap();
    fs::create_dir(group.join("runner")).unwrap();
    fs::write(group.join("cgroup.subtree_control"), "+cpu +memory +pids").unwrap();
    for path in
        ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads", "runner", "runner/cgroup.procs"]
    {
        chown(group.join(path), Some(USER), Some(USER)).unwrap();
    }
    group
}

pub(crate) fn a_group_that_is_handed_to_him_limits_his_containers() {
    let f = fixture("exec sleep 100");
    let path = format!("{}/c", f.cgroup);
    let f = f.with(|c| {
        c["linux"]["cgroupsPath"] = path.as_str().into();
        c["linux"]["resources"] = json!({"pids": {"limit": 9}, "memory": {"limit": 64 << 20},
            "devices": [{"allow": false, "access": "rwm"}]});
    });
    let group = delegate(&f);
    let enter = format!("echo 0 > {}/runner/cgroup.procs; exec", group.display());
    call_in(&f, &["run", "-d", "c"], &enter).ok();
    let read = |name: &str| fs::read_to_string(group.join("c").join(name)).unwrap().trim().to_owned();
    assert_eq!(read("pids.max"), "9");
    assert_eq!(read("memory.max"), (64 << 20).to_string());
    assert_eq!(read("cgroup.procs"), state(&f)["pid"].to_string());
    assert_eq!(call_in(&f, &["exec", "c", "cat", "/proc/self/cgroup"], &enter).ok(), "0::/\n");
    call_in(&f, &["update", "--pids-limit", "7", "c"], &enter).ok();
    assert_eq!(read("pids.max"), "7");
    call_in(&f, &["pause", "c"], &enter).ok();
    assert_eq!(state(&f)["status"], "paused");
    call_in(&f, &["resume", "c"], &enter).ok();
    // From outside of what he was handed, nobody can be put into it.
    let other = call(&f, &["exec", "c", "cat", "/proc/self/cgroup"]);
    assert!(other.code == 0 && other.out != "0::/\n", "{other:?}");
    call_in(&f, &["delete", "--force", "c"], &enter).ok();
    assert!(!group.join("c").exists());
    fs::remove_dir(group.join("runner")).unwrap();
    fs::remove_dir(group).unwrap();
}

pub(crate) fn his_own_systemd_makes_the_groups() {
    let f = fixture("exec sleep 100");
    let name = f.cgroup[1..].to_owned();
    let unit = format!("sampan-{name}.scope");
    let f = f.with(|c| {
        c["linux"]["cgroupsPath"] = format!("user.slice:sampan:{name}").into();
        c["linux"]["resources"] = json!({"pids": {"limit": 9}, "memory": {"limit": 64 << 20}});
    });
    call(&f, &["--systemd-cgroup", "run", "-d", "c"]).ok();
    let pid = state(&f)["pid"].to_string();
    let own = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let path = own.trim().strip_prefix("0::").unwrap();
    assert_eq!(path, format!("/user.slice/user-{USER}.slice/user@{USER}.service/user.slice/{unit}"));
    let read =
        |name: &str| fs::read_to_string(format!("/sys/fs/cgroup{path}/{name}")).unwrap().trim().to_owned();
    assert_eq!(read("pids.max"), "9");
    assert_eq!(read("memory.max"), (64 << 20).to_string());
    assert_eq!(read("cgroup.procs"), pid);
    assert_eq!(call(&f, &["exec", "c", "cat", "/proc/self/cgroup"]).ok(), "0::/\n");
    call(&f, &["update", "--pids-limit", "7", "c"]).ok();
    assert_eq!(read("pids.max"), "7");
    delete(&f);
    eventually("the unit is gone", || !Path::new(&format!("/sys/fs/cgroup{path}")).exists());
}
