//! runtime.md: the state, the lifecycle and the operations.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::harness::{Bench, contains, eventually};
use crate::table::{Test, must};

/// runc and crun let a created container go without force: what waits at the gate has run nothing.
const CREATED: &str = "lets a created container be deleted, as callers have come to expect; nothing of the user's has run in it";

pub(crate) const TESTS: &[Test] = &[
    must("scope", "Scope of a Container", "lets its creator use every operation on a container", |b| {
        b.lives("sleep 60");
        b.state();
        b.kill("KILL").ok();
        b.stops();
        b.delete().ok();
    }),
    must("state_properties", "State", "tells version, id, status, pid and bundle", |b| {
        b.lives("sleep 60");
        let state = b.state();
        assert_eq!(state["id"], b.id.as_str());
        assert_eq!(state["bundle"], b.bundle().to_str().unwrap());
        assert!(state["ociVersion"].as_str().unwrap().split('.').count() >= 3, "{state}");
        let pid = state["pid"].as_i64().unwrap();
        let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
        contains(&command, &["sleep"]);
    }),
    must("status_course", "State", "calls a container created, then running, then stopped", |b| {
        b.script("sleep 60");
        b.create().ok();
        assert_eq!(b.status(), "created");
        b.start().ok();
        assert_eq!(b.status(), "running");
        b.kill("KILL").ok();
        b.stops();
    }),
    must(
        "status_creating",
        "State",
        "calls a container creating or created while its hooks of create run",
        |b| {
            let out = b.path("state.json");
            b.hook("createRuntime", &format!("cat > {}", out.display()));
            b.sh("true");
            let state: serde_json::Value = serde_json::from_slice(&fs::read(out).unwrap()).unwrap();
            assert!(["creating", "created"].contains(&state["status"].as_str().unwrap()), "{state}");
        },
    ),
    must("status_additional", "State", "has a status of its own for a state beyond those", |b| {
        b.lives("sleep 60");
        b.call(&["pause", &b.id]).ok();
        let status = b.status();
        b.call(&["resume", &b.id]).ok();
        assert_eq!(status, "paused");
        assert_eq!(b.status(), "running");
    }),
    must("pid_of_created", "State", "tells the pid of a created container", |b| {
        b.create().ok();
        assert!(Path::new(&format!("/proc/{}", b.pid())).exists());
    }),
    must(
        "pid_for_hooks",
        "State",
        "tells hooks in the runtime's namespace the pid there, hooks in the container's the pid there",
        |b| {
            let (outer, inner) = (b.path("outer"), b.rootfs("inner"));
            fs::write(&inner, "").unwrap();
            b.hook("createRuntime", &format!("cat > {}", outer.display()));
            b.push(
                "/hooks/startContainer",
                json!({"path": "/bin/sh", "args": ["sh", "-c", "cat > /inner"], "env": ["PATH=/bin"]}),
            );
            b.script("sleep 60");
            b.create().ok();
            let pid = b.pid();
            b.start().ok();
            let read = |path: &Path| -> serde_json::Value {
                serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
            };
            assert_eq!(read(&outer)["pid"], pid);
            assert_eq!(read(&inner)["pid"], 1, "in the container");
        },
    )
    .but(&[("crun", "tells hooks in the container the pid of the host")]),
    must("bundle_absolute", "State", "tells the bundle's absolute path, however it was given", |b| {
        b.write_config();
        b.call(&["create", "--bundle", "bundle/../bundle", &b.id]).ok();
        assert_eq!(b.state()["bundle"], b.bundle().to_str().unwrap());
    }),
    must("annotations", "State", "tells the annotations", |b| {
        b.set("/annotations", json!({"com.example.a": "1", "com.example.b": ""}));
        b.create().ok();
        let annotations = &b.state()["annotations"];
        assert_eq!((&annotations["com.example.a"], &annotations["com.example.b"]), (&json!("1"), &json!("")));
    }),
    must("not_run_by_create", "Lifecycle, 2", "does not run the user's program in create", |b| {
        b.script("echo ran");
        b.create().ok();
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert_eq!(b.output(), "");
        b.start().ok();
        eventually("it runs", || b.output() == "ran\n");
    }),
    must("config_is_kept", "Lifecycle, 2", "lets no later change of config.json affect the container", |b| {
        b.script("echo first");
        b.create().ok();
        b.script("echo second");
        b.set("/hostname", "second");
        b.write_config();
        b.start().ok();
        eventually("it runs", || !b.output().is_empty());
        assert_eq!(b.output(), "first\n");
    }),
    must(
        "create_hook_fails",
        "Lifecycle, 3-5",
        "fails if a hook of create fails, and destroys the container",
        |b| {
            for kind in ["prestart", "createRuntime", "createContainer"] {
                b.set("/hooks", json!({}));
                b.hook(kind, "exit 1");
                b.refused();
            }
        },
    ),
    must(
        "create_hook_fails_poststop",
        "Lifecycle, 3-5 and 13",
        "runs the poststop hooks after a hook of create has failed",
        |b| {
            let out = b.path("poststop");
            b.hook("createRuntime", "exit 1");
            b.hook("poststop", &format!("cat > {}", out.display()));
            b.refused();
            assert!(out.exists(), "no poststop hook was run");
        },
    )
    .but(&[("crun", "runs no poststop hooks for a container that could not be created")]),
    must(
        "start_hook_fails",
        "Lifecycle, 7",
        "fails if a startContainer hook fails, and does not run the program",
        |b| {
            b.push("/hooks/startContainer", json!({"path": "/bin/false"}));
            b.script("echo ran");
            b.create().ok();
            b.start().fails();
            eventually("it ends", || !b.exists() || b.status() == "stopped");
            assert_eq!(b.output(), "");
        },
    )
    .but(&[
        ("runc", "`start` succeeds: the hook runs after it has returned"),
        ("crun", "`start` succeeds: the hook runs after it has returned"),
    ]),
    must("runs_the_program", "Lifecycle, 8", "runs the user's program", |b| {
        assert_eq!(b.sh("echo hello"), "hello\n");
    }),
    must(
        "poststart_fails",
        "Lifecycle, 9 (since 1.3)",
        "fails if a poststart hook fails, and stops the container",
        |b| {
            b.hook("poststart", "exit 1");
            b.script("sleep 60");
            // A runtime that runs these hooks too early fails here.
            b.create().ok();
            b.start().fails();
            eventually("it ends", || !b.exists() || b.status() == "stopped");
        },
    )
    .but(&[
        ("runc", "runs poststart hooks at the end of `create`"),
        ("crun", "warns only, as versions before 1.3 have it"),
    ]),
    must("delete_undoes_create", "Lifecycle, 12", "undoes in delete what was done in create", |b| {
        b.lives("sleep 60");
        let pid = b.pid();
        assert!(!b.cgroups().is_empty());
        b.kill("KILL").ok();
        b.stops();
        b.delete().ok();
        assert!(!b.exists() && !Path::new(&format!("/proc/{pid}/root")).exists());
        assert_eq!(b.cgroups(), Vec::<std::path::PathBuf>::new());
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(b.path("").to_str().unwrap()), "{mounts}");
    }),
    must("poststop_fails", "Lifecycle, 13", "warns if a poststop hook fails, and runs the others", |b| {
        let out = b.path("second");
        b.hook("poststop", "exit 1");
        b.hook("poststop", &format!("cat > {}", out.display()));
        b.create().ok();
        let deleted = b.call(&["delete", "--force", &b.id]);
        assert_eq!(deleted.code, 0, "{}", deleted.err);
        assert!(out.exists() && !deleted.err.is_empty(), "{}", deleted.err);
        assert!(!b.exists());
    })
    .but(&[
        ("runc", "fails the delete, and does not run the other hooks"),
        ("crun", "says nothing of the failure"),
    ]),
    must("error_changes_nothing", "Errors", "leaves the environment as it was after an error", |b| {
        b.mount("/x", "nosuchfs", "none", "");
        b.refused();
        b.config["mounts"].as_array_mut().unwrap().pop();
        b.create().ok();
    }),
    must("warning_changes_nothing", "Warnings", "goes on after a warning", |b| {
        b.push("/process/capabilities/bounding", json!("CAP_NO_SUCH_THING"));
        assert_eq!(b.sh("echo fine"), "fine\n");
    }),
    must("state_without_id", "Query State", "refuses state without an id", |b| {
        b.call(&["state"]).fails();
    }),
    must("state_unknown", "Query State", "refuses state for a container that does not exist", |b| {
        b.call(&["state", &b.id]).fails();
    }),
    must("create_without_id", "Create", "refuses create without an id", |b| {
        b.write_config();
        b.call(&["create", "--bundle", b.bundle().to_str().unwrap()]).fails();
    }),
    must("create_without_bundle", "Create", "refuses create without a bundle", |b| {
        b.call(&["create", "--bundle", "/nonexistent", &b.id]).fails();
        assert!(!b.exists());
    }),
    must("create_taken_id", "Create", "refuses an id that is taken, and leaves its container alone", |b| {
        b.lives("sleep 60");
        let before = b.state();
        b.create().fails();
        let after = b.state();
        assert_eq!((&after["pid"], &after["status"]), (&before["pid"], &json!("running")));
    }),
    must("create_invalid_id", "Create", "refuses an id that is none", |b| {
        for id in ["", "a/b", "../x", "."] {
            b.create_as(id).fails();
        }
    }),
    must("create_applies", "Create", "applies everything but the process in create", |b| {
        b.set("/hostname", "sampan-host");
        b.create().ok();
        let pid = b.pid();
        let namespace = |pid: &str, kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
        for kind in ["pid", "net", "ipc", "uts", "mnt"] {
            assert_ne!(namespace(&pid.to_string(), kind), namespace("self", kind), "{kind}");
        }
        let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
        contains(&mounts, &[" /proc ", " /dev/shm ", " /sys "]);
        let name = std::process::Command::new("nsenter")
            .args(["-t", &pid.to_string(), "-u", "hostname"])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&name.stdout).trim(), "sampan-host");
        assert!(!b.cgroups().is_empty());
    }),
    must("create_impossible", "Create", "refuses to create what it cannot apply", |b| {
        b.set("/linux/namespaces/1", json!({"type": "network", "path": "/nonexistent"}));
        b.refused();
    }),
    must("start_without_id", "Start", "refuses start without an id", |b| {
        b.call(&["start"]).fails();
    }),
    must("start_unknown", "Start", "refuses to start a container that does not exist", |b| {
        b.start().fails();
    }),
    must("start_running", "Start", "refuses to start a container that runs, which stays as it is", |b| {
        b.lives("sleep 60");
        let pid = b.pid();
        b.start().fails();
        assert_eq!((b.status().as_str(), b.pid()), ("running", pid));
    }),
    must("start_stopped", "Start", "refuses to start a container that has stopped", |b| {
        b.lives("echo once");
        b.stops();
        b.start().fails();
        assert_eq!((b.status().as_str(), b.output().as_str()), ("stopped", "once\n"));
    }),
    must("start_without_process", "Start", "refuses to start a container without `process`", |b| {
        b.unset("/process");
        if b.create().code == 0 {
            b.start().fails();
        }
    }),
    must("kill_without_id", "Kill", "refuses kill without an id", |b| {
        b.call(&["kill"]).fails();
    }),
    must("kill_unknown", "Kill", "refuses to signal a container that does not exist", |b| {
        b.kill("KILL").fails();
    }),
    must("kill_stopped", "Kill", "refuses to signal a container that has stopped", |b| {
        b.lives("true");
        b.stops();
        b.kill("KILL").fails();
    }),
    must("kill_created", "Kill", "sends a signal to a created container", |b| {
        b.create().ok();
        b.kill("KILL").ok();
        b.stops();
    }),
    must("kill_sends", "Kill", "sends the signal that is asked for", |b| {
        b.lives("trap 'echo got; exit' USR1; echo ready; while :; do sleep 0.05; done");
        eventually("it is ready", || b.output().contains("ready"));
        b.kill("USR1").ok();
        eventually("it got the signal", || b.output().contains("got"));
        b.stops();
    }),
    must("kill_by_number", "Kill", "knows signals by name and by number", |b| {
        b.lives("trap 'echo a' USR1; trap 'echo b' USR2; echo ready; while :; do sleep 0.05; done");
        eventually("it is ready", || b.output().contains("ready"));
        b.kill("10").ok();
        eventually("it got the first", || b.output().contains("a\n"));
        b.kill("SIGUSR2").ok();
        eventually("it got the second", || b.output().contains("b\n"));
        b.kill("NOSUCHSIGNAL").fails();
    })
    .but(&[("crun", "takes a name that no signal has")]),
    must("delete_without_id", "Delete", "refuses delete without an id", |b| {
        b.call(&["delete"]).fails();
    }),
    must("delete_unknown", "Delete", "refuses to delete a container that does not exist", |b| {
        b.delete().fails();
    }),
    must("delete_running", "Delete", "refuses to delete a container that runs, which stays as it is", |b| {
        b.lives("sleep 60");
        b.delete().fails();
        assert_eq!(b.status(), "running");
    }),
    must("delete_created", "Delete", "refuses to delete a container that is created and not stopped", |b| {
        b.create().ok();
        b.delete().fails();
        assert_eq!(b.status(), "created");
    })
    .but(&[("sampan-runtime", CREATED), ("runc", CREATED), ("crun", CREATED)]),
    must("delete_keeps_others", "Delete", "does not delete what it has not created", |b| {
        let source = b.directory_with("data", "kept");
        b.mount("/mnt", "bind", &source, "rbind");
        let mut other = Bench::new(&b.runtime);
        other.lives("sleep 60");
        let path = format!("/proc/{}/ns/net", other.pid());
        b.set("/linux/namespaces/1", json!({"type": "network", "path": path}));
        b.sh("true");
        assert_eq!(fs::read_to_string(source.join("file")).unwrap(), "kept");
        assert_eq!(other.status(), "running");
    }),
    must("delete_frees_the_id", "Delete", "lets a deleted container's id be used again", |b| {
        b.lives("true");
        b.stops();
        b.delete().ok();
        b.create().ok();
        assert_eq!(b.status(), "created");
    }),
];
