//! Namespaces: new, joined, with users mapped; host names and kernel parameters.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::harness::{Fixture, Guard, eventually};

const ALL: &str = "for n in cgroup ipc mnt net pid user uts time; do readlink /proc/self/ns/$n; done";

fn own() -> Vec<String> {
    let link = |name: &str| fs::read_link(format!("/proc/self/ns/{name}")).unwrap().display().to_string();
    ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts", "time"].map(link).to_vec()
}

#[test]
fn those_listed_are_new_and_the_others_are_shared() {
    let f = Fixture::new(ALL);
    let theirs: Vec<String> = f.run().ok().lines().map(str::to_owned).collect();
    let shared: Vec<bool> = own().iter().zip(&theirs).map(|(a, b)| a == b).collect();
    assert_eq!(shared, [false, false, false, false, false, true, false, true]);
    let f = Fixture::new(ALL).with(|c| {
        c["linux"]["namespaces"] = json!([{"type": "mount"}]);
        c.as_object_mut().unwrap().remove("hostname");
    });
    let theirs: Vec<String> = f.run().ok().lines().map(str::to_owned).collect();
    let shared: Vec<bool> = own().iter().zip(&theirs).map(|(a, b)| a == b).collect();
    assert_eq!(shared, [true, true, false, true, true, true, true, true]);
}

#[test]
fn names_and_parameters_are_the_containers_own() {
    let f = Fixture::new("hostname; cat /proc/sys/kernel/domainname /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmax; ip link show lo").with(|c| {
        c["hostname"] = "moon".into();
        c["domainname"] = "sky".into();
        c["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1", "kernel.shmmax": "12345"});
    });
    let text = f.run().ok();
    assert!(text.starts_with("moon\nsky\n1\n12345\n"), "{text}");
    assert!(text.contains("LOOPBACK,UP"), "{text}");
}

#[test]
fn namespaces_are_joined_by_path() {
    let other = Command::new("unshare").args(["-niu", "sleep", "100"]).stdin(Stdio::null()).spawn().unwrap();
    let other = Guard(other);
    let ns = |kind: &str| format!("/proc/{}/ns/{kind}", other.0.id());
    let differs =
        |kind: &str| fs::read_link(ns(kind)).ok() != fs::read_link(format!("/proc/self/ns/{kind}")).ok();
    eventually("unshare has unshared", || differs("net") && differs("ipc") && differs("uts"));
    let f = Fixture::new("for n in ipc net uts; do readlink /proc/self/ns/$n; done").with(|c| {
        c.as_object_mut().unwrap().remove("hostname");
        c["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "pid"}, {"type": "network", "path": ns("net")},
            {"type": "ipc", "path": ns("ipc")}, {"type": "uts", "path": ns("uts")}]);
    });
    let expected: String = ["ipc", "net", "uts"]
        .map(|kind| format!("{}\n", fs::read_link(ns(kind)).unwrap().display()))
        .concat();
    assert_eq!(f.run().ok(), expected);
}

#[test]
fn a_pid_namespace_is_joined_by_path() {
    let first = Fixture::running("exec sleep 100");
    let pid = first.state()["pid"].clone();
    let second = Fixture::new("ps | grep -c 'sleep 100$'; echo $$").with(|c| {
        c["linux"]["namespaces"][0] = json!({"type": "pid", "path": format!("/proc/{pid}/ns/pid")});
    });
    let text = second.run().ok();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "1", "{text}");
    assert_ne!(lines[1], "1");
    second.assert_gone();
    assert_eq!(first.status(), "running");
}

#[test]
fn processes_that_share_pids_do_not_outlive_their_container() {
    let f = Fixture::new("sleep 987 & sleep 987 & exec sleep 100").with(|c| {
        c["linux"]["namespaces"].as_array_mut().unwrap().retain(|n| n["type"] != "pid");
    });
    f.start();
    eventually("all run", || f.call(&["ps", "-f", "json", "c"]).ok().matches(',').count() == 2);
    f.call(&["kill", "c", "KILL"]).ok();
    eventually("it has ended", || f.status() == "stopped");
    f.call(&["delete", "c"]).ok();
    f.assert_gone();
}

fn in_user_namespace(script: &str) -> Fixture {
    let f = Fixture::new(script).with(|c| {
        c["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
        let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
        c["linux"]["uidMappings"] = map.clone();
        c["linux"]["gidMappings"] = map;
    });
    fs::set_permissions(f.rootfs().join("tmp"), fs::Permissions::from_mode(0o777)).unwrap();
    for name in ["", "dev", "proc", "sys"] {
        std::os::unix::fs::chown(f.rootfs().join(name), Some(100_000), Some(100_000)).unwrap();
    }
    f
}

#[test]
fn users_are_mapped() {
    let f = in_user_namespace(
        "id -u; cat /proc/self/uid_map | awk '{print $1, $2, $3}'; echo x > /dev/null && echo null; touch /tmp/made; stat -c %u /dev/mqueue /dev/shm /proc/sys/net/ipv4/ip_forward; hostname",
    );
    let output = f.run();
    let text = output.ok();
    assert_eq!(text, "0\n0 100000 65536\nnull\n0\n0\n0\nsampan\n");
    let made = fs::metadata(f.rootfs().join("tmp/made")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&made), 100_000);
    f.assert_gone();
}

#[test]
fn exec_enters_the_user_namespace() {
    let f = in_user_namespace("exec sleep 100");
    f.start();
    assert_eq!(
        f.exec("id -u; cat /proc/self/uid_map | awk '{print $2}'; readlink /proc/self/ns/user")
            .ok()
            .lines()
            .take(2)
            .collect::<Vec<_>>(),
        ["0", "100000"]
    );
    assert_eq!(f.call(&["exec", "-u", "5:6", "c", "sh", "-c", "id -u; id -g"]).ok(), "5\n6\n");
}

#[test]
fn a_user_namespace_is_joined_with_what_it_owns() {
    let first = in_user_namespace("exec sleep 100");
    first.start();
    let pid = first.state()["pid"].clone();
    let ns = |kind: &str| format!("/proc/{pid}/ns/{kind}");
    let second = Fixture::new("id -u; cat /proc/self/uid_map | awk '{print $2}'; for n in user net ipc; do readlink /proc/self/ns/$n; done; echo $$").with(|c| {
        c.as_object_mut().unwrap().remove("hostname");
        c["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "pid"}, {"type": "cgroup"},
            {"type": "user", "path": ns("user")}, {"type": "network", "path": ns("net")},
            {"type": "ipc", "path": ns("ipc")}, {"type": "uts", "path": ns("uts")}]);
    });
    for name in ["", "dev", "proc", "sys"] {
        std::os::unix::fs::chown(second.rootfs().join(name), Some(100_000), Some(100_000)).unwrap();
    }
    let links = ["user", "net", "ipc"]
        .map(|kind| format!("{}\n", fs::read_link(ns(kind)).unwrap().display()))
        .concat();
    assert_eq!(second.run().ok(), format!("0\n100000\n{links}1\n"));
    second.assert_gone();
}

#[test]
fn a_joined_user_namespace_owns_what_is_new() {
    let first = in_user_namespace("exec sleep 100");
    first.start();
    let path = |kind: &str| format!("/proc/{}/ns/{kind}", first.state()["pid"]);
    let (user, pids) = (path("user"), path("pid"));
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:\t")).unwrap();
    let may_raise = u64::from_str_radix(effective, 16).unwrap() & (1 << 24) != 0; // CAP_SYS_RESOURCE
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.unwrap();
    let limit = limit + u64::from(may_raise);
    let second = Fixture::new("id -u; hostname; ulimit -Hn; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; ip link set lo down && ip link set lo up && echo own; readlink /proc/self/ns/user; ls -d /proc/1").with(|c| {
        c["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "pid", "path": pids}, {"type": "uts"},
            {"type": "ipc"}, {"type": "network"}, {"type": "user", "path": user}]);
        // As engines write it; the namespace has its mapping already.
        let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
        c["linux"]["uidMappings"] = map.clone();
        c["linux"]["gidMappings"] = map;
        c["linux"]["sysctl"] = json!({"net.ipv4.ip_unprivileged_port_start": "5"});
        c["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "hard": limit, "soft": 100}]);
        for set in ["bounding", "effective", "permitted"] {
            c["process"]["capabilities"][set].as_array_mut().unwrap().push(json!("CAP_NET_ADMIN"));
        }
    });
    for name in ["", "dev", "proc", "sys"] {
        std::os::unix::fs::chown(second.rootfs().join(name), Some(100_000), Some(100_000)).unwrap();
    }
    let link = fs::read_link(&user).unwrap();
    assert_eq!(second.run().ok(), format!("0\nsampan\n{limit}\n5\nown\n{}\n/proc/1\n", link.display()));
    second.assert_gone();
}

#[test]
fn clocks_have_offsets() {
    let f = Fixture::new("cut -d. -f1 /proc/uptime").with(|c| {
        c["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "time"}));
        c["linux"]["timeOffsets"] = json!({"boottime": {"secs": 1_000_000, "nanosecs": 0}});
    });
    assert!(f.run().ok().trim().parse::<u64>().unwrap() >= 1_000_000);
    let f = f.with(|c| c["process"]["args"] = json!(["sleep", "100"]));
    f.start();
    assert!(f.exec("cut -d. -f1 /proc/uptime").ok().trim().parse::<u64>().unwrap() >= 1_000_000);
}

#[test]
fn a_mount_namespace_is_joined_by_path() {
    let script = "mount --make-rprivate / && mount -t tmpfs x /mnt && echo > /mnt/marker && exec sleep 100";
    let other =
        Command::new("unshare").args(["-m", "sh", "-c", script]).stdin(Stdio::null()).spawn().unwrap();
    let other = Guard(other);
    let own = fs::read_link("/proc/self/ns/mnt").unwrap();
    let path = format!("/proc/{}/ns/mnt", other.0.id());
    let comm = format!("/proc/{}/comm", other.0.id());
    eventually("it sleeps", || fs::read_to_string(&comm).is_ok_and(|c| c == "sleep\n"));
    assert_ne!(fs::read_link(&path).unwrap(), own);
    let f = Fixture::new("readlink /proc/self/ns/mnt; ls /bin/true").with(|c| {
        let namespaces = c["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|n| n["type"] != "mount");
        namespaces.push(json!({"type": "mount", "path": path}));
    });
    let theirs = fs::read_link(&path).unwrap();
    assert_eq!(f.run().ok(), format!("{}\n/bin/true\n", theirs.display()));
}
