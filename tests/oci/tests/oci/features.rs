//! features.md and features-linux.md: what a runtime says that it recognises, it must recognise.

use serde_json::{Value, json};

use crate::harness::Bench;
use crate::table::{Test, may, must};

const NONE: &[(&str, &str)] = &[("crun", "is older than the Features structure")];

pub(crate) const TESTS: &[Test] = &[
    may("provided", "Features Structure", "tells its features as JSON", |b| {
        assert!(features(b).is_object());
    })
    .but(NONE),
    must("versions", "Specification version", "tells the oldest and the newest version that it knows, and takes both", |b| {
        let features = features(b);
        for key in ["ociVersionMin", "ociVersionMax"] {
            b.set("/ociVersion", features[key].as_str().unwrap());
            b.create().ok();
            b.call(&["delete", "--force", &b.id]).ok();
        }
    })
    .but(NONE),
    must("hooks", "Hooks", "supports the hooks that it names", |b| {
        let features = features(b);
        let out = b.path("hooks");
        std::fs::write(&out, "").unwrap();
        b.mount("/hooks", "bind", &out, "bind");
        let names = list(&features, "/hooks");
        for name in &names {
            let (path, shell) = if name == "startContainer" { ("/hooks".to_owned(), "/bin/sh") } else { (out.display().to_string(), "/bin/sh") };
            b.push(&format!("/hooks/{name}"), json!({"path": shell, "args": ["sh", "-c", format!("echo {name} >> {path}")], "env": ["PATH=/bin:/usr/bin"]}));
        }
        b.sh("true");
        let called = std::fs::read_to_string(out).unwrap();
        assert!(names.iter().all(|name| called.lines().any(|line| line == name)), "{called}");
    })
    .but(NONE),
    must("mount_options", "Mount Options", "recognises the mount options that it names", |b| {
        for option in list(&features(b), "/mountOptions") {
            // These need more than a directory.
            if ["idmap", "ridmap", "remount", "tmpcopyup", "acl", "noacl", "mand"].contains(&option.as_str()) {
                continue;
            }
            let source = b.directory_with("data", "x");
            b.mount("/mnt", "bind", source, &format!("bind,{option}"));
            b.script("cat /mnt/file");
            let output = b.run();
            assert_eq!(output.out, "x", "{option}: {}", output.err);
            b.config["mounts"].as_array_mut().unwrap().pop();
        }
    }).but(&[("runc", "names `ratime`, which fails"),("crun", "is older than the Features structure")]),
    must("namespaces", "Namespaces", "recognises the namespaces that it names", |b| {
        for kind in list(&features(b), "/linux/namespaces") {
            let mut kinds = vec!["mount"];
            if kind != "mount" {
                kinds.push(&kind);
            }
            b.set("/linux/namespaces", kinds.iter().map(|kind| json!({"type": kind})).collect::<Value>());
            if kind == "user" {
                continue;
            }
            b.script("true");
            let output = b.run();
            // Where the kernel has none, it says so by that name.
            assert!(output.code == 0 || output.err.contains(&kind), "{kind}: {}", output.err);
        }
    })
    .but(NONE),
    must("capabilities", "Capabilities", "recognises the capabilities that it names", |b| {
        let names = list(&features(b), "/linux/capabilities");
        b.set("/process/capabilities", json!({"bounding": names}));
        b.script("true");
        let output = b.run();
        assert_eq!(output.code, 0, "{}", output.err);
    })
    .but(NONE),
    must("seccomp_actions", "Seccomp", "recognises the actions that it names", |b| {
        for action in list(&features(b), "/linux/seccomp/actions") {
            if action == "SCMP_ACT_NOTIFY" {
                continue;
            }
            seccomp(b, json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["kexec_load"], "action": action}]}), &action);
        }
    })
    .but(NONE),
    must("seccomp_operators", "Seccomp", "recognises the operators that it names", |b| {
        for operator in list(&features(b), "/linux/seccomp/operators") {
            let args = json!([{"index": 0, "value": 1, "valueTwo": 1, "op": operator}]);
            seccomp(b, json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["kexec_load"], "action": "SCMP_ACT_ERRNO", "args": args}]}), &operator);
        }
    })
    .but(NONE),
    must("seccomp_archs", "Seccomp", "recognises the architectures that it names", |b| {
        for arch in list(&features(b), "/linux/seccomp/archs") {
            seccomp(b, json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": [arch], "syscalls": [{"names": ["kexec_load"], "action": "SCMP_ACT_ERRNO"}]}), &arch);
        }
    })
    .but(&[("crun", "is older than the Features structure"), ("runc", "libseccomp refuses to join filters of different byte orders")]),
    must("seccomp_flags", "Seccomp", "supports the flags that it names", |b| {
        for flag in list(&features(b), "/linux/seccomp/supportedFlags") {
            if flag == "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" {
                continue;
            }
            seccomp(b, json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": [flag], "syscalls": [{"names": ["kexec_load"], "action": "SCMP_ACT_ERRNO"}]}), &flag);
        }
    })
    .but(NONE),
    must("memory_policy", "MemoryPolicy", "recognises the modes and flags that it names", |b| {
        let features = features(b);
        for mode in list(&features, "/linux/memoryPolicy/modes") {
            let nodes = if ["MPOL_DEFAULT", "MPOL_LOCAL"].contains(&mode.as_str()) { "" } else { "0" };
            b.set("/linux/memoryPolicy", json!({"mode": mode, "nodes": nodes}));
            b.script("true");
            let output = b.run();
            assert!(output.code == 0 || !output.err.contains("not known"), "{mode}: {}", output.err);
        }
    })
    .but(NONE),
];

#[track_caller]
fn features(b: &Bench) -> Value {
    serde_json::from_str(&b.call(&["features"]).ok()).unwrap()
}

/// A list of names; empty if the runtime does not tell.
fn list(features: &Value, pointer: &str) -> Vec<String> {
    let list = features.pointer(pointer).and_then(Value::as_array).cloned().unwrap_or_default();
    list.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect()
}

#[track_caller]
fn seccomp(b: &mut Bench, filter: Value, what: &str) {
    b.set("/linux/seccomp", filter);
    b.script("true");
    let output = b.run();
    assert_eq!(output.code, 0, "{what}: {}", output.err);
}
