//! Hooks: when they run, where, with what, and what their failure does.

use std::fs;

use serde_json::json;

use crate::harness::{Fixture, eventually};

/// Every kind of hook appends a line about where it is to a file of the host or of the container.
fn with_hooks(f: Fixture) -> Fixture {
    let log = f.path("log").display().to_string();
    let state = r#"sed 's/.*"status":"\([a-z]*\)".*/\1/'"#;
    let host = |name: &str| {
        let script = format!("echo {name} $({state}) $([ -e /created ] && echo inside) >> {log}");
        json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]})
    };
    let inside = json!({"path": "/bin/sh", "args": ["sh", "-c", "echo startContainer $(cat | grep -o '\"status\":\"[a-z]*\"') > /created"],
        "env": ["PATH=/bin"]});
    f.with(|c| {
        c["hooks"] = json!({
            "prestart": [host("prestart")], "createRuntime": [host("createRuntime")],
            "createContainer": [host("createContainer")], "startContainer": [inside],
            "poststart": [host("poststart")], "poststop": [host("poststop")],
        });
    })
}

#[test]
fn all_kinds_run_in_order() {
    let f = with_hooks(Fixture::new("exec sleep 100"));
    let log = || fs::read_to_string(f.path("log")).unwrap_or_default();
    f.call(&["create", "c"]).ok();
    assert_eq!(log(), "prestart creating\ncreateRuntime creating\ncreateContainer creating\n");
    assert!(!f.rootfs().join("created").exists());
    f.call(&["start", "c"]).ok();
    assert_eq!(
        fs::read_to_string(f.rootfs().join("created")).unwrap(),
        "startContainer \"status\":\"created\"\n"
    );
    assert!(log().ends_with("poststart running\n"), "{}", log());
    f.call(&["kill", "c", "9"]).ok();
    eventually("it has ended", || f.status() == "stopped");
    f.call(&["delete", "c"]).ok();
    assert!(log().ends_with("poststop stopped\n"), "{}", log());
}

#[test]
fn create_container_hooks_see_the_containers_mounts() {
    let f = Fixture::new("true");
    let found = f.path("found").display().to_string();
    let f = f.with(|c| {
        let script =
            format!("readlink /proc/self/ns/mnt > {found}; grep -c mqueue /proc/self/mountinfo >> {found}");
        c["hooks"] = json!({"createContainer": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]});
    });
    f.run().ok();
    let text = fs::read_to_string(f.path("found")).unwrap();
    let own = fs::read_link("/proc/self/ns/mnt").unwrap().display().to_string();
    assert!(!text.starts_with(&own) && text.lines().nth(1) != Some("0"), "{text}");
}

/// Hooks that put files or mounts into the container find it at its path: in the container's mount namespace, with what
/// is mounted there. Those of createContainer begin there.
#[test]
fn hooks_change_the_root_at_its_path() {
    for user in [false, true] {
        let f = Fixture::new("cat /one /two /here; grep -c ' /one ' /proc/self/mountinfo");
        let (rootfs, text) = (f.rootfs(), f.path("text"));
        fs::write(&text, "mounted\n").unwrap();
        let runtime = format!(
            "pid=$(sed 's/.*\"pid\": *\\([0-9]*\\).*/\\1/'); touch {0}/one;
             nsenter -m -t $pid sh -c 'mount --bind {1} {0}/one; grep -q {0}/dev/shm /proc/self/mountinfo'",
            rootfs.display(),
            text.display()
        );
        let container =
            format!("touch two here && mount --bind {} ./two && pwd | tail -c 7 > here", text.display());
        let hook = |script: &str| json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]}]);
        let f = f.with(|c| {
            c["hooks"] = json!({"createRuntime": hook(&runtime), "createContainer": hook(&container)});
            if user {
                let map = json!([{"containerID": 0, "hostID": 0, "size": 65536}]);
                c["linux"]["uidMappings"] = map.clone();
                c["linux"]["gidMappings"] = map;
                c["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
            }
        });
        assert_eq!(f.run().ok(), "mounted\nmounted\nrootfs\n1\n", "user namespace: {user}");
        f.assert_gone();
    }
}

#[test]
fn a_hook_that_fails_ends_the_container() {
    for kind in ["prestart", "createRuntime", "createContainer", "startContainer"] {
        let f = Fixture::new("true").with(|c| {
            c["hooks"][kind] = json!([{"path": "/bin/sh", "args": ["sh", "-c", "echo no moon >&2; exit 3"]}]);
        });
        f.run().fails(1, &format!("the {kind} hook `/bin/sh` failed: exit status: 3: no moon"));
        f.assert_gone();
    }
    let f = Fixture::new("sleep 60").with(|c| c["hooks"]["poststart"] = json!([{"path": "/bin/false"}]));
    f.run().fails(1, "the poststart hook `/bin/false` failed");
    f.assert_gone();
    f.call(&["create", "c"]).ok();
    f.call(&["start", "c"]).fails(1, "the poststart hook `/bin/false` failed");
    assert_eq!(f.status(), "stopped");
    f.call(&["delete", "c"]).ok();
    let f = Fixture::new("true").with(|c| c["hooks"]["poststop"] = json!([{"path": "/bin/false"}]));
    let output = f.run();
    assert!(output.code == 0 && output.err.contains("the poststop hook"), "{output:?}");
    f.assert_gone();
}

#[test]
fn a_hook_that_does_not_end_is_ended() {
    let f = Fixture::new("true").with(|c| {
        c["hooks"]["prestart"] = json!([{"path": "/bin/sleep", "args": ["sleep", "100"], "timeout": 1}]);
    });
    f.run().fails(1, "did not end within 1 s");
    f.assert_gone();
}
