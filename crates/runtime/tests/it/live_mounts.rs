//! Mounts that are changed: `remount`, links as places, and mounts that come to and go from a running container.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::{Value, json};

use crate::harness::{Fixture, Output};

fn with_mounts(script: &str, mounts: Value) -> Fixture {
    Fixture::new(script)
        .with(|c| c["mounts"].as_array_mut().unwrap().extend(mounts.as_array().unwrap().clone()))
}

fn mounts(f: &Fixture, what: &str, mounts: &Value) -> Output {
    let file = f.path("mounts.json");
    fs::write(&file, mounts.to_string()).unwrap();
    f.call(&["mounts", what, "c", file.to_str().unwrap()])
}

#[test]
fn remount_changes_what_is_there() {
    let f = with_mounts(
        "grep -E ' /(x|y) ' /proc/self/mountinfo; touch /x/f; touch /y/f 2>/dev/null || echo no",
        json!([
            {"destination": "/x", "type": "tmpfs", "source": "tmpfs", "options": ["ro", "size=1m"]},
            {"destination": "/x", "type": "tmpfs", "source": "tmpfs", "options": ["remount", "rw", "noexec", "size=2m"]},
            {"destination": "/y", "type": "bind", "source": "/tmp", "options": ["bind"]},
            {"destination": "/y", "options": ["bind", "remount", "ro"]},
        ]),
    );
    // A tmpfs that is asked to be read-only first is so at last; of the two wishes the later one counts for a bind.
    let text = f.run();
    assert!(text.out.contains("size=2048k") && text.out.contains("noexec"), "{text:?}");
    assert!(text.out.ends_with("no\n"), "{text:?}");
    with_mounts("true", json!([{"destination": "/etc", "options": ["remount", "ro"]}]))
        .run()
        .fails(1, "nothing is mounted there");
}

#[test]
fn words_of_the_whole_file_system_are_understood() {
    let all = [
        "sync",
        "async",
        "dirsync",
        "lazytime",
        "nolazytime",
        "silent",
        "loud",
        "iversion",
        "noiversion",
        "defaults",
        "nomand",
    ];
    for word in all {
        let f = with_mounts(
            "true",
            json!([{"destination": "/x", "type": "tmpfs", "source": "t", "options": [word]}]),
        );
        let output = f.run();
        assert_eq!(output.code, 0, "{word}: {output:?}");
    }
}

#[test]
fn links_are_mounted_and_mounted_over_when_asked_for() {
    let f = Fixture::new("readlink /place; cat /real; readlink /src");
    let (link, file) = (f.path("link"), f.path("file"));
    symlink("elsewhere", &link).unwrap();
    fs::write(&file, "new\n").unwrap();
    fs::write(f.rootfs().join("real"), "old\n").unwrap();
    symlink("real", f.rootfs().join("place")).unwrap();
    let f = f.with(|c| {
        c["mounts"].as_array_mut().unwrap().extend([
            json!({"destination": "/place", "type": "bind", "source": file, "options": ["bind", "dest-nofollow"]}),
            json!({"destination": "/src", "type": "bind", "source": link, "options": ["bind", "src-nofollow"]}),
        ]);
    });
    // What was a link is a file now, and the file that the link led to is as it was.
    assert_eq!(f.run().out, "old\nelsewhere\n");
}

#[test]
fn the_roots_ids_are_mapped_when_asked_for() {
    let f = Fixture::new("stat -c '%u %g' /bin/busybox; touch /made && echo made").with(|c| {
        let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
        c["linux"]["uidMappings"] = map.clone();
        c["linux"]["gidMappings"] = map;
        c["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
        c["annotations"] = json!({"org.sampan.root.idmap": "idmap"});
    });
    assert_eq!(f.run().ok(), "0 0\nmade\n");
    let made = fs::metadata(f.rootfs().join("made")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&made), 0, "on disk it is the host's root's");
    Fixture::new("true")
        .with(|c| c["annotations"] = json!({"org.sampan.root.idmap": "idmap"}))
        .run()
        .fails(1, "needs linux.uidMappings");
}

#[test]
fn mounts_come_and_go() {
    let f = Fixture::running("sleep 60");
    let source = f.path("data");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "hello\n").unwrap();
    let list = json!([
        {"destination": "/new/data", "type": "bind", "source": source, "options": ["rbind", "ro"]},
        {"destination": "/new/t", "type": "tmpfs", "source": "tmpfs", "options": ["size=1m", "noexec"]},
        {"destination": "/new/file", "type": "bind", "source": source.join("file"), "options": ["bind"]},
    ]);
    mounts(&f, "add", &json!({"mounts": list})).ok();
    let text = f
        .exec("cat /new/data/file /new/file; touch /new/data/x || echo ro; touch /new/t/x && ls /new/t")
        .ok();
    assert_eq!(text, "hello\nhello\nro\nx\n");
    assert!(!fs::read_to_string("/proc/self/mountinfo").unwrap().contains("/new/data"));
    mounts(&f, "remove", &list).ok();
    assert_eq!(
        f.exec("cat /new/data/file 2>/dev/null; ls /new/t; grep -c /new/ /proc/self/mountinfo").out,
        "0\n"
    );
    mounts(&f, "remove", &json!([{"destination": "/new/data"}])).fails(1, "nothing is mounted there");
    mounts(&f, "remove", &json!([{"destination": "/"}])).fails(1, "the root itself stays");
    mounts(&f, "add", &json!([{"destination": "/x", "type": "moonfs"}])).fails(1, "mount `moonfs` at `/x`");
    mounts(&f, "add", &json!([{"destination": "/proc/x", "type": "tmpfs"}])).fails(1, "inside of proc");
    mounts(&f, "add", &json!([{"destination": "/x", "type": "bind", "source": "/nope"}]))
        .fails(1, "take `/nope`");
    f.call(&["mounts", "move", "c", "x"]).fails(1, "x");
    f.call(&["kill", "c", "KILL"]).ok();
    crate::harness::eventually("it stops", || f.status() == "stopped");
    mounts(&f, "add", &list).fails(1, "that is stopped");
}

#[test]
fn places_in_a_running_container_never_lead_out() {
    let f = Fixture::running("ln -s / /up; ln -s ../../../../../../etc /etc2; sleep 60");
    crate::harness::eventually("the links are made", || f.rootfs().join("etc2").is_symlink());
    let list = json!([{"destination": "/up/../etc2/sampan-test-out", "type": "tmpfs", "source": "tmpfs"}]);
    mounts(&f, "add", &list).ok();
    assert!(!std::path::Path::new("/etc/sampan-test-out").exists());
    assert!(f.rootfs().join("etc/sampan-test-out").is_dir());
    // A proc that is a fake is none, and nothing is mounted there.
    mounts(&f, "add", &json!([{"destination": "/proc", "type": "tmpfs"}])).fails(1, "only a proc");
}

#[test]
fn mounts_come_to_a_container_in_a_user_namespace() {
    let f = Fixture::new("sleep 60").with(|c| {
        let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
        c["linux"]["uidMappings"] = map.clone();
        c["linux"]["gidMappings"] = map;
        c["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
    });
    let tmp = f.rootfs().join("tmp");
    std::os::unix::fs::chown(&tmp, Some(100_000), Some(100_000)).unwrap();
    f.start();
    let source = f.path("data");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "hello\n").unwrap();
    let list = json!([
        {"destination": "/tmp/data", "type": "bind", "source": source, "options": ["rbind"]},
        {"destination": "/tmp/t", "type": "tmpfs", "source": "tmpfs"},
        {"destination": "/tmp/proc", "type": "proc", "source": "proc"},
    ]);
    mounts(&f, "add", &list).ok();
    assert_eq!(
        f.exec("cat /tmp/data/file; stat -c %u /tmp/t /tmp/data; head -c 5 /tmp/proc/1/cmdline").out,
        "hello\n0\n65534\nsleep"
    );
    mounts(&f, "remove", &list).ok();
}
