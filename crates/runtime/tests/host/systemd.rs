//! Cgroups that systemd makes.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::harness::{Fixture, Output, eventually};

/// A container in `sampan-test.slice`, and its unit's name.
fn fixture(script: &str) -> (Fixture, String) {
    fixture_of(Fixture::new(script))
}

fn fixture_of(f: Fixture) -> (Fixture, String) {
    let name = f.cgroup[1..].to_owned();
    let unit = format!("sampan-{name}.scope");
    let f = f.with(|c| c["linux"]["cgroupsPath"] = format!("sampan-test.slice:sampan:{name}").into());
    (f, unit)
}

fn call(f: &Fixture, args: &[&str]) -> Output {
    let all: Vec<&str> = [&["--systemd-cgroup"], args].concat();
    f.call(&all)
}

fn start(f: &Fixture) {
    call(f, &["create", "c"]).ok();
    call(f, &["start", "c"]).ok();
}

fn show(unit: &str) -> BTreeMap<String, String> {
    let output = Command::new("systemctl").args(["show", unit]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter_map(|l| l.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

fn systemctl(args: &[&str]) {
    assert!(Command::new("systemctl").args(args).status().unwrap().success(), "systemctl {args:?}");
}

/// The container's group, as its process sees it.
fn group(f: &Fixture) -> String {
    let pid = f.state()["pid"].to_string();
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let line = text.lines().find(|line| line.starts_with("0::") || line.contains(":memory:"));
    line.unwrap().rsplit(':').next().unwrap().to_owned()
}

fn file(f: &Fixture, name: &str) -> String {
    let path = format!("/sys/fs/cgroup{}/{name}", group(f));
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}")).trim().to_owned()
}

#[track_caller]
fn assert_gone(unit: &str) {
    // systemd forgets a unit when its processes are gone and it has looked.
    eventually("the unit is gone", || show(unit)["LoadState"] == "not-found");
    let group = format!("/sys/fs/cgroup/sampan.slice/sampan-test.slice/{unit}");
    assert!(!Path::new(&group).exists());
}

pub(crate) fn a_unit_comes_and_goes_with_the_container() {
    let (f, unit) = fixture("exec sleep 100");
    start(&f);
    assert_eq!(group(&f), format!("/sampan.slice/sampan-test.slice/{unit}"));
    let properties = show(&unit);
    assert_eq!(properties["ActiveState"], "active");
    assert_eq!(properties["Slice"], "sampan-test.slice");
    assert_eq!(properties["Delegate"], "yes");
    // Nobody but the container is in it: the helper is gone.
    assert_eq!(file(&f, "cgroup.procs"), f.state()["pid"].to_string());
    f.call(&["delete", "--force", "c"]).ok();
    assert_gone(&unit);
    // And if its process ends by itself.
    let (f, unit) = fixture("exit 3");
    assert_eq!(call(&f, &["run", "c"]).code, 3);
    assert_gone(&unit);
}

fn limits(c: &mut serde_json::Value) {
    c["linux"]["resources"]["memory"] = json!({"limit": 64 << 20, "swap": 80 << 20, "reservation": 32 << 20});
    c["linux"]["resources"]["cpu"] = json!({"shares": 512, "quota": 20000, "period": 50_000, "cpus": "0"});
    c["linux"]["resources"]["pids"] = json!({"limit": 17});
}

pub(crate) fn limits_are_the_units_and_outlive_a_reload() {
    let (f, unit) = fixture("exec sleep 100");
    let f = f.with(limits).with(|c| {
        for set in ["bounding", "effective", "permitted"] {
            c["process"]["capabilities"][set] = json!(["CAP_MKNOD"]);
        }
    });
    start(&f);
    let check = || {
        let properties = show(&unit);
        assert_eq!(properties["MemoryMax"], (64 << 20).to_string());
        assert_eq!(properties["MemoryLow"], (32 << 20).to_string());
        assert_eq!(properties["MemorySwapMax"], (16 << 20).to_string());
        assert_eq!(properties["CPUWeight"], "59");
        assert_eq!(properties["CPUQuotaPerSecUSec"], "400ms");
        assert_eq!(properties["CPUQuotaPeriodUSec"], "50ms");
        assert_eq!(properties["TasksMax"], "17");
        assert_eq!(properties["AllowedCPUs"], "0");
        assert_eq!(file(&f, "memory.max"), (64 << 20).to_string());
        assert_eq!(file(&f, "cpu.max"), "20000 50000");
        assert_eq!(file(&f, "pids.max"), "17");
        assert_eq!(file(&f, "cpuset.cpus"), "0");
        let mem = f.exec("rm -f /tmp/tun; mknod /tmp/tun c 10 200; : < /tmp/tun");
        assert!(mem.err.contains("Operation not permitted"), "{mem:?}");
        assert!(f.exec("echo > /dev/null").code == 0);
    };
    check();
    systemctl(&["daemon-reload"]);
    check();
}

pub(crate) fn update_changes_the_unit() {
    let (f, unit) = fixture("exec sleep 100");
    start(&f);
    let args =
        ["update", "--memory", "32m", "--pids-limit", "9", "--cpu-quota", "5000", "--cpu-share", "2048", "c"];
    f.call(&args).ok();
    let properties = show(&unit);
    assert_eq!(properties["MemoryMax"], (32 << 20).to_string());
    assert_eq!(properties["TasksMax"], "9");
    assert_eq!(properties["CPUQuotaPerSecUSec"], "50ms");
    assert_eq!(file(&f, "memory.max"), (32 << 20).to_string());
    assert_eq!(file(&f, "pids.max"), "9");
    assert!(file(&f, "cpu.max").starts_with("5000 "));
    f.call(&["update", "--memory", "-1", "--pids-limit", "-1", "c"]).ok();
    assert_eq!(show(&unit)["MemoryMax"], "infinity");
    assert_eq!(file(&f, "pids.max"), "max");
}

pub(crate) fn annotations_are_properties() {
    let (f, unit) = fixture("exec sleep 100");
    let f = f.with(|c| {
        c["annotations"]["org.systemd.property.TimeoutStopSec"] = "7".into();
        c["annotations"]["org.systemd.property.CollectMode"] = "'inactive-or-failed'".into();
        c["annotations"]["org.systemd.property.After"] = "['basic.target']".into();
    });
    start(&f);
    let properties = show(&unit);
    assert_eq!(properties["TimeoutStopUSec"], "7s");
    assert_eq!(properties["CollectMode"], "inactive-or-failed");
    assert!(properties["After"].contains("basic.target"));
    for (name, value, why) in
        [("Moon", "1", "Moon"), ("MemoryMax", "'", "org.systemd.property.MemoryMax"), ("x1", "1", "letters")]
    {
        let (f, unit) = fixture("true");
        let f = f.with(|c| c["annotations"][format!("org.systemd.property.{name}")] = value.into());
        call(&f, &["create", "c"]).fails(1, why);
        assert_gone(&unit);
    }
}

pub(crate) fn the_unit_is_like_runcs() {
    let runc = Path::new("/usr/sbin/runc");
    assert!(runc.exists(), "this test compares with runc");
    let (ours, our_unit) = fixture("exec sleep 100");
    let (theirs, their_unit) = fixture_of(Fixture::with_runtime(runc, "exec sleep 100"));
    let (ours, theirs) = (ours.with(limits), theirs.with(limits).with(|c| c["ociVersion"] = "1.0.2".into()));
    start(&ours);
    start(&theirs);
    let (ours, theirs) = (show(&our_unit), show(&their_unit));
    for name in [
        "Slice",
        "Delegate",
        "DefaultDependencies",
        "MemoryMax",
        "MemoryLow",
        "MemorySwapMax",
        "CPUQuotaPerSecUSec",
        "CPUQuotaPeriodUSec",
        "TasksMax",
        "AllowedCPUs",
        "MemoryAccounting",
        "CPUAccounting",
        "IOAccounting",
        "TasksAccounting",
        "ActiveState",
        "SubState",
        "CollectMode",
    ] {
        assert_eq!(ours[name], theirs[name], "{name}");
    }
}

pub(crate) fn stopping_the_unit_ends_the_container() {
    let (f, unit) = fixture("exec sleep 100");
    start(&f);
    // The first process of a PID namespace does not hear SIGTERM: systemd kills it when its patience ends.
    systemctl(&["kill", "--signal=KILL", &unit]);
    eventually("the container has ended", || f.status() == "stopped");
    f.call(&["delete", "c"]).ok();
    assert_gone(&unit);
}

pub(crate) fn a_failure_leaves_no_unit() {
    let (f, unit) = fixture("true");
    let f = f.with(|c| c["process"]["args"] = json!(["/nope"]));
    call(&f, &["create", "c"]).fails(1, "/nope");
    assert_gone(&unit);
    let (f, unit) = fixture("true");
    let f = f.with(|c| c["linux"]["resources"]["cpu"] = json!({"cpus": "4095"}));
    call(&f, &["create", "c"]).fails(1, "4095");
    assert_gone(&unit);
    let (f, _) = fixture("true");
    let f = f.with(|c| c["linux"]["cgroupsPath"] = "/a/b".into());
    call(&f, &["create", "c"]).fails(1, "slice:prefix:name");
}

pub(crate) fn a_unit_is_nobody_elses() {
    let (f, unit) = fixture("exec sleep 100");
    start(&f);
    call(&f, &["create", "d"]).fails(1, &unit);
    assert_eq!(f.status(), "running");
    assert_eq!(show(&unit)["ActiveState"], "active");
}

pub(crate) fn processes_of_all_kinds_are_in_the_unit() {
    let (f, _) = fixture("sleep 100 & exec sleep 101");
    start(&f);
    f.call(&["exec", "-d", "c", "sleep", "102"]).ok();
    assert_eq!(file(&f, "cgroup.procs").lines().count(), 3);
    f.call(&["pause", "c"]).ok();
    assert_eq!(f.status(), "paused");
    f.call(&["resume", "c"]).ok();
    assert_eq!(f.status(), "running");
    f.call(&["kill", "c", "KILL"]).ok();
    eventually("the container has ended", || f.status() == "stopped");
    f.call(&["delete", "c"]).ok();
}
