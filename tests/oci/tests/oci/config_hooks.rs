//! config.md, hooks: when they are called, where, and with what.

use std::fs;

use serde_json::{Value, json};

use crate::harness::{Bench, contains, copy_program, eventually};
use crate::table::{Test, must};

const NO_CHECK: &[(&str, &str)] = &[("runc", "does not look"), ("crun", "does not look")];

pub(crate) const TESTS: &[Test] = &[
    must("path_absolute", "POSIX-platform Hooks", "refuses a hook whose path is not absolute", |b| {
        b.set("/hooks", json!({"poststop": [{"path": "bin/true"}]}));
        b.refused();
    })
    .but(NO_CHECK),
    must("path_missing", "POSIX-platform Hooks", "fails if a hook of create is not there", |b| {
        b.set("/hooks", json!({"createRuntime": [{"path": "/nonexistent"}]}));
        b.refused();
    }),
    must("args", "POSIX-platform Hooks", "hands a hook its arguments, the first as its name", |b| {
        let out = b.path("out");
        b.set("/hooks", json!({"createRuntime": [{"path": "/bin/sh", "args":
            ["my-name", "-c", "echo \"$0|$1|$2\" > $3", "zero", "a b", "", out]}]}));
        b.sh("true");
        assert_eq!(fs::read_to_string(out).unwrap(), "zero|a b|\n");
    }),
    must("env", "POSIX-platform Hooks", "gives a hook the environment that is asked for and no more", |b| {
        let out = b.path("out");
        b.set("/hooks", json!({"createRuntime": [{"path": "/usr/bin/env", "args": ["env", "sh", "-c", format!("env > {}", out.display())],
            "env": ["A=b c", "PATH=/usr/bin:/bin"]}]}));
        b.sh("true");
        let text = fs::read_to_string(out).unwrap();
        contains(&text, &["A=b c\n"]);
        assert!(!text.contains("HOME=") && !text.contains("CARGO"), "{text}");
    }),
    must("timeout", "POSIX-platform Hooks", "ends a hook after its timeout", |b| {
        b.set("/hooks", json!({"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "300"], "timeout": 1}]}));
        b.refused();
    }),
    must("timeout_positive", "POSIX-platform Hooks", "refuses a timeout that is not above zero", |b| {
        for timeout in [0, -1] {
            b.set("/hooks", json!({"poststop": [{"path": "/bin/true", "timeout": timeout}]}));
            b.refused();
        }
    })
    .but(NO_CHECK),
    must("order", "POSIX-platform Hooks", "calls the hooks of a kind in the listed order", |b| {
        let out = b.path("out");
        for number in 0..4 {
            b.hook("createRuntime", &format!("cat > /dev/null; echo {number} >> {}", out.display()));
        }
        b.sh("true");
        assert_eq!(fs::read_to_string(out).unwrap(), "0\n1\n2\n3\n");
    }),
    must("state_on_stdin", "POSIX-platform Hooks", "passes the state to every hook on its standard input", |b| {
        for kind in ["prestart", "createRuntime", "createContainer", "poststart", "poststop"] {
            b.hook(kind, &format!("cat > {}", b.path(kind).display()));
        }
        fs::write(b.rootfs("startContainer"), "").unwrap();
        b.push("/hooks/startContainer", json!({"path": "/bin/sh", "args": ["sh", "-c", "cat > /startContainer"], "env": ["PATH=/bin"]}));
        b.set("/annotations", json!({"com.example.x": "y"}));
        b.sh("true");
        for kind in ["prestart", "createRuntime", "createContainer", "poststart", "poststop", "startContainer"] {
            let path = if kind == "startContainer" { b.rootfs(kind) } else { b.path(kind) };
            let state: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap_or_default();
            assert_eq!(state["id"], b.id.as_str(), "{kind}: {state}");
            assert_eq!(state["bundle"], b.bundle().to_str().unwrap(), "{kind}");
            assert_eq!(state["annotations"]["com.example.x"], "y", "{kind}");
            assert!(state["ociVersion"].is_string() && state["status"].is_string(), "{kind}: {state}");
        }
    })
    .but(&[("crun", "leaves out the annotations")]),
    must("kinds_in_order", "POSIX-platform Hooks", "calls prestart before createRuntime, that before createContainer, that before startContainer", |b| {
        let out = b.path("out");
        fs::write(&out, "").unwrap();
        b.mount("/out", "bind", &out, "bind");
        for kind in ["createContainer", "createRuntime", "prestart"] {
            b.hook(kind, &format!("cat > /dev/null; echo {kind} >> {}", out.display()));
        }
        b.push("/hooks/startContainer", json!({"path": "/bin/sh", "args": ["sh", "-c", "cat > /dev/null; echo startContainer >> /out"], "env": ["PATH=/bin"]}));
        b.sh("echo program >> /out");
        assert_eq!(fs::read_to_string(&out).unwrap(), "prestart\ncreateRuntime\ncreateContainer\nstartContainer\nprogram\n");
    }),
    must("prestart_runtime", "Prestart", "calls prestart hooks in the runtime's namespaces, in create, when the container's exist", |b| {
        in_runtime(b, "prestart", true);
    }),
    must("create_runtime_runtime", "CreateRuntime Hooks", "calls createRuntime hooks in the runtime's namespaces, in create, when the container's exist", |b| {
        in_runtime(b, "createRuntime", true);
    }),
    must("create_runtime_mounts", "CreateRuntime Hooks", "has the mounts made when createRuntime hooks are called", |b| {
        let out = b.path("out");
        b.mount("/mnt", "tmpfs", "tmpfs", "size=1m");
        b.hook("createRuntime", &format!("pid=$(sed 's/.*\"pid\": *\\([0-9]*\\).*/\\1/'); cat /proc/$pid/mountinfo > {}", out.display()));
        b.sh("true");
        contains(&fs::read_to_string(out).unwrap(), &["size=1024k"]);
    }),
    must("create_container_namespace", "CreateContainer Hooks", "calls createContainer hooks in the container's namespaces, by a path of the runtime's, before pivot_root", |b| {
        let out = b.path("out");
        fs::write(&out, "").unwrap();
        b.set("/hostname", "sampan-inside");
        b.hook("createContainer", &format!("(hostname; readlink /proc/self/ns/mnt; test -d {} && echo host tree) > {}", b.bundle().display(), out.display()));
        b.sh("true");
        let text = fs::read_to_string(out).unwrap();
        contains(&text, &["host tree"]);
        let own = fs::read_link("/proc/self/ns/mnt").unwrap();
        assert!(!text.contains(own.to_str().unwrap()), "{text}");
    }),
    must("start_container_namespace", "StartContainer Hooks", "calls startContainer hooks in the container, by a path of the container's", |b| {
        copy_program("/bin/busybox", &b.rootfs("only-here"));
        b.set("/hostname", "sampan-inside");
        b.push("/hooks/startContainer", json!({"path": "/only-here", "args": ["sh", "-c", "hostname > /hook"], "env": ["PATH=/bin"]}));
        b.sh("true");
        assert_eq!(fs::read_to_string(b.rootfs("hook")).unwrap(), "sampan-inside\n");
    }),
    must("start_container_in_start", "StartContainer Hooks", "calls startContainer hooks in start, before the program", |b| {
        b.push("/hooks/startContainer", json!({"path": "/bin/sh", "args": ["sh", "-c", "echo hook > /hook"], "env": ["PATH=/bin"]}));
        b.script("cat /hook");
        b.create().ok();
        assert!(!b.rootfs("hook").exists(), "called in create");
        b.start().ok();
        eventually("the program runs", || b.output() == "hook\n");
    }),
    must("poststart_after_program", "Poststart", "calls poststart hooks in start, after the program, before start returns", |b| {
        let out = b.path("out");
        b.hook("poststart", &format!("pid=$(sed 's/.*\"pid\": *\\([0-9]*\\).*/\\1/'); tr '\\0' ' ' < /proc/$pid/cmdline > {}", out.display()));
        b.set("/process/args", json!(["sleep", "60"]));
        b.create().ok();
        assert!(!out.exists(), "called in create");
        b.start().ok();
        assert_eq!(fs::read_to_string(out).unwrap(), "sleep 60 ");
    }).but(&[("runc", "runs poststart hooks at the end of `create`, before the program")]),
    must("poststart_runtime", "Poststart", "calls poststart hooks in the runtime's namespaces", |b| {
        in_runtime(b, "poststart", false);
    }),
    must("poststop_after_delete", "Poststop", "calls poststop hooks when the container is gone, before delete returns", |b| {
        let out = b.path("out");
        let groups = b.cgroups_at("/").first().unwrap().display().to_string();
        b.hook("poststop", &format!("(ls -d {groups}/{} 2>/dev/null; echo called) > {}", b.id, out.display()));
        b.create().ok();
        b.call(&["delete", "--force", &b.id]).ok();
        assert_eq!(fs::read_to_string(out).unwrap(), "called\n");
    }),
    must("poststop_runtime", "Poststop", "calls poststop hooks in the runtime's namespaces", |b| {
        in_runtime(b, "poststop", false);
    }),
];

/// A hook must be in the namespaces that this test is in, and with `alive` find the container's beside them.
#[track_caller]
fn in_runtime(b: &mut Bench, kind: &str, alive: bool) {
    let (out, names) = (b.path("out"), ["mnt", "net", "pid", "uts", "ipc"]);
    let list = "for n in mnt net pid uts ipc; do readlink /proc/$p/ns/$n; done";
    b.hook(kind, &format!("pid=$(sed 's/.*\"pid\": *\\([0-9]*\\).*/\\1/'); (p=self; {list}; p=$pid; {list}) > {} 2>/dev/null; exit 0", out.display()));
    b.sh("true");
    let text = fs::read_to_string(out).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let crun_view = b.runtime.name == "crun";
    for (name, line) in names.iter().zip(&lines) {
        let own = fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        // crun is given a mount namespace of its own here.
        assert!(
            own.to_str() == Some(line) || (crun_view && *name == "mnt"),
            "{kind} is not in the runtime's {name}: {line}"
        );
    }
    if alive {
        assert!(
            lines.len() == 10 && lines[..5] != lines[5..],
            "{kind} does not find the container's namespaces: {text}"
        );
    }
}
