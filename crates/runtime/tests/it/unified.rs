//! A host with nothing but cgroup v2, as far as this one can be made to look like it: in a mount namespace in which the
//! v2 hierarchy is all there is. What controllers v1 holds are missing there; groups, devices, freezer and kill are not.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::harness::{Fixture, Output, eventually, run};

const AS_UNIFIED: &str = "mount --make-rprivate / && umount -R /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && exec \"$@\"";

fn call(f: &Fixture, args: &[&str]) -> Output {
    f.write_config();
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", AS_UNIFIED, "sh"]).arg(&f.runtime).arg("--root").arg(f.root()).args(args);
    command.current_dir(f.bundle()).stdin(Stdio::null()).arg0("unshare");
    run(command)
}

fn status(f: &Fixture) -> String {
    let state: serde_json::Value = serde_json::from_str(&call(f, &["state", "c"]).ok()).unwrap();
    state["status"].as_str().unwrap().to_owned()
}

#[test]
fn the_group_is_one_and_seen_as_the_root() {
    let f = Fixture::new(
        "tail -1 /proc/self/cgroup; grep ' /sys/fs/cgroup ' /proc/self/mountinfo | cut -d' ' -f4,6,8; mkdir /sys/fs/cgroup/x",
    );
    let output = call(&f, &["run", "c"]);
    assert_eq!(output.out, "0::/\n/ ro,nosuid,nodev,noexec,relatime cgroup2\n", "{output:?}");
    assert!(output.err.contains("Read-only"), "{output:?}");
    f.assert_gone();
}

#[test]
fn devices_are_guarded_by_a_program() {
    let script = "mknod /tmp/null c 1 3 && echo x > /tmp/null && echo null; mknod /tmp/mem c 1 1 && head -c 1 /tmp/mem";
    let cap = |c: &mut serde_json::Value| {
        for set in ["bounding", "effective", "permitted"] {
            c["process"]["capabilities"][set] = json!(["CAP_MKNOD", "CAP_SYS_RAWIO"]);
        }
    };
    let output = call(&Fixture::new(script).with(cap), &["run", "c"]);
    assert!(output.out.contains("null") && output.err.contains("Operation not permitted"), "{output:?}");
    let all = Fixture::new(script).with(cap).with(|c| {
        c["linux"]["resources"]["devices"] = json!([{"allow": true, "access": "rwm"}]);
    });
    let output = call(&all, &["run", "c"]);
    assert!(!output.err.contains("Operation not permitted"), "{output:?}");
}

#[test]
fn rules_are_replaced_by_update() {
    let f = Fixture::new("exec sleep 100").with(|c| {
        for set in ["bounding", "effective", "permitted"] {
            c["process"]["capabilities"][set] = json!(["CAP_MKNOD", "CAP_SYS_RAWIO"]);
        }
    });
    call(&f, &["create", "c"]).ok();
    call(&f, &["start", "c"]).ok();
    let touch = |f: &Fixture| {
        call(f, &["exec", "c", "sh", "-c", "[ -e /tmp/t ] || mknod /tmp/t c 10 200; : < /tmp/t"])
    };
    assert!(touch(&f).err.contains("Operation not permitted"));
    std::fs::write(
        f.path("r.json"),
        r#"{"devices":[{"allow":true,"type":"c","major":10,"minor":200,"access":"rwm"}]}"#,
    )
    .unwrap();
    call(&f, &["update", "-r", f.path("r.json").to_str().unwrap(), "c"]).ok();
    assert!(!touch(&f).err.contains("Operation not permitted"));
    call(&f, &["delete", "-f", "c"]).ok();
    f.assert_gone();
}

#[test]
fn it_lives_freezes_and_dies() {
    let f = Fixture::new("while :; do date +%s%N > /tmp/now; sleep 0.01; done").with(|c| {
        c["linux"]["namespaces"].as_array_mut().unwrap().retain(|n| n["type"] != "pid");
    });
    call(&f, &["create", "c"]).ok();
    call(&f, &["start", "c"]).ok();
    eventually("it runs", || f.rootfs().join("tmp/now").exists());
    call(&f, &["exec", "-d", "c", "sleep", "987"]).ok();
    call(&f, &["pause", "c"]).ok();
    assert_eq!(status(&f), "paused");
    let before = std::fs::read(f.rootfs().join("tmp/now")).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(60));
    assert_eq!(std::fs::read(f.rootfs().join("tmp/now")).unwrap(), before);
    call(&f, &["resume", "c"]).ok();
    assert_eq!(status(&f), "running");
    call(&f, &["pause", "c"]).ok();
    call(&f, &["delete", "--force", "c"]).ok();
    f.assert_gone();
}

#[test]
fn a_group_that_may_be_written_is_the_users() {
    let script = "stat -c '%u' /sys/fs/cgroup /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/cgroup.max.depth; mkdir /sys/fs/cgroup/x && echo made";
    let with = |options: serde_json::Value| {
        Fixture::new(script).with(|c| {
            c["process"]["user"] = json!({"uid": 7, "gid": 7});
            c["process"]["capabilities"] = json!({});
            let mounts = c["mounts"].as_array_mut().unwrap();
            mounts.retain(|m| m["destination"] != "/sys/fs/cgroup");
            mounts.push(json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": options}));
        })
    };
    assert_eq!(call(&with(json!(["nosuid"])), &["run", "c"]).out, "7\n7\n0\nmade\n");
    assert_eq!(call(&with(json!(["nosuid", "ro"])), &["run", "c"]).out, "0\n0\n0\n");
}
