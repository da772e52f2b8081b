//! Classes 5, 16, 21 and 22, and our own files: what the runtime is told, by whoever wrote it.
//!
//! * 05 (CVE-2021-43784). Attack: a field of config.json so long that its length wraps in the message to the child, and the
//!   rest of it is read as the message's other fields. Defence: no such message; the child is a copy of its parent.
//!   Control: a message with lengths of 16 bits.
//! * 16 (crun 2026-30892). Attack: `exec --user 1` is read as 0. Defence: digits and nothing else, in range. Control: a
//!   user read by `sscanf("%u:%u")`, 0 if that fails.
//! * 21: Attack: ids, cgroup paths and sub-groups with `..` in them. Defence: an id is a file name of few characters; paths
//!   of groups lead nowhere but down. Control: an id joined to the state's directory.
//! * 22: Attack: documents without end, hooks without end. Defence: only regular files up to 16 MiB, hooks within their
//!   timeout. Control: a runtime that reads its configuration to the end of a pipe.
//! * 24: Attack: other users of the host at the runtime's own files: the gate's socket, `--pid-file` by a link, a passwd
//!   that never ends. Defence: modes that depend on no umask, files that are replaced, a bounded read of regular files.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::fs::{CWD, FileType, mknodat};
use serde_json::json;

use crate::harness::{Fixture, Guard, Output, run};
use crate::support::{naive, naive_command, with_attacker};

pub(crate) fn lengths() {
    let own = fs::read_link("/proc/self/ns/pid").unwrap().display().to_string();
    // Three megabytes, of what would be the fields of a message, too.
    let long = "\u{1}\u{0}\u{4}\u{0}\u{0}\u{0}".repeat(1 << 19);
    type Change = fn(&mut serde_json::Value, &str);
    let changes: [(&str, Change); 8] = [
        ("hostname", |c, long| c["hostname"] = long.into()),
        ("cgroupsPath", |c, long| c["linux"]["cgroupsPath"] = format!("/{long}").into()),
        ("mount", |c, long| crate::support::mount(c, json!({"destination": long, "type": "tmpfs"}))),
        ("option", |c, long| {
            crate::support::mount(c, json!({"destination": "/x", "type": "tmpfs", "options": [long]}));
        }),
        ("namespace", |c, long| {
            c["linux"]["namespaces"].as_array_mut().unwrap().retain(|n| n["type"] != "network");
            let network = json!({"type": "network", "path": format!("/{long}")});
            c["linux"]["namespaces"].as_array_mut().unwrap().push(network);
        }),
        ("mappings", |c, _| {
            let lines: Vec<_> =
                (0..100_000).map(|n| json!({"containerID": n, "hostID": n + 100_000, "size": 1})).collect();
            c["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
            c["linux"]["uidMappings"] = lines.clone().into();
            c["linux"]["gidMappings"] = lines.into();
        }),
        ("argument", |c, long| c["process"]["args"].as_array_mut().unwrap().push(long.into())),
        ("annotation", |c, long| c["annotations"] = json!({"x": long})),
    ];
    for (what, change) in changes {
        let f = Fixture::new("readlink /proc/self/ns/pid").with(|c| change(c, &long));
        let output = f.run();
        if output.code == 0 {
            assert_ne!(output.out.trim(), own, "{what}: it is in the host's namespace");
        } else {
            assert!(output.code == 1 && output.out.is_empty() && !output.err.is_empty(), "{what}");
            assert!(!output.err.contains("panicked"), "{what}: {}", &output.err[output.err.len() - 200..]);
        }
        f.assert_gone();
    }
}

pub(crate) fn lengths_control() {
    let f = Fixture::new("true");
    let own = fs::read_link("/proc/self/ns/uts").unwrap().display().to_string();
    // 65536 + 4 bytes are 4 bytes to the reader, who finds the flags right behind them: none.
    let mut field = b"name".to_vec();
    field.extend([1, 0, 4, 0, 0, 0, 0, 0]);
    field.resize((1 << 16) + 4, b'x');
    let file = f.path("field");
    for (field, expected) in [(&b"name"[..], false), (&field, true)] {
        fs::write(&file, field).unwrap();
        let steps = format!("unshare-by-message u {}", file.display());
        let output = naive(&steps, &["/bin/busybox", "readlink", "/proc/self/ns/uts"]).ok();
        assert_eq!(output.trim() == own, expected);
    }
}

pub(crate) fn users() {
    let f = Fixture::running("exec sleep 100");
    let call = |user: &str| f.call(&["exec", "--user", user, "c", "id"]);
    for (user, uid, gid) in [("1", 1, 0), ("01", 1, 0), ("1:2", 1, 2), ("4294967294", 4_294_967_294_u32, 0)] {
        let said = call(user).ok();
        assert!(said.starts_with(&format!("uid={uid} gid={gid}")) || uid == 1, "{user}: {said}");
        assert!(said.starts_with(&format!("uid={uid}")), "{user}: {said}");
    }
    for user in [
        "",
        "1:",
        ":1",
        "0x1",
        "+1",
        " 1",
        "1 ",
        "-1",
        "4294967295",
        "4294967296",
        "root",
        "1:2:3",
        "1,2",
        "١",
    ] {
        let output = call(user);
        assert!(output.code == 255 && output.out.is_empty(), "{user:?}: {output:?}");
    }
}

pub(crate) fn users_control() {
    let said = naive("user 1", &["/bin/busybox", "id", "-u"]).ok();
    assert_eq!(said, "0\n");
}

pub(crate) fn paths() {
    let f = Fixture::new("exec sleep 100");
    let victim = f.path("victim");
    fs::create_dir(&victim).unwrap();
    fs::write(victim.join("state.json"), "{}").unwrap();
    let long = "x".repeat(2000);
    for id in ["../victim", "..", ".", "", "a/b", "/", "/tmp/x", "a\n", "a b", "ä", "%2e%2e", "-", &long] {
        for verb in
            ["create", "run", "start", "state", "delete", "kill", "exec", "pause", "resume", "update", "ps"]
        {
            if (verb == "delete" || verb == "create" || verb == "run") && id == "-" {
                continue;
            }
            let args: &[&str] = match verb {
                "exec" => &["exec", id, "true"],
                "delete" => &["delete", "--force", id],
                _ => &[verb, id],
            };
            let output = f.call(args);
            assert_ne!(output.code, 0, "{args:?}");
            assert!(!output.err.contains("panicked"), "{output:?}");
        }
    }
    assert!(victim.join("state.json").exists());
    assert_eq!(
        fs::read_dir(f.directory.path()).unwrap().filter(|e| e.as_ref().unwrap().path().is_dir()).count(),
        2
    );
    for path in ["..", "/..", "/", "a/../..", "/x/../../y", "/./..//"] {
        let f = Fixture::new("true").with(|c| c["linux"]["cgroupsPath"] = path.into());
        let output = f.run();
        assert_eq!(output.code, 1, "{path}: {output:?}");
    }
    f.start();
    for path in ["..", "../..", "/..", "x/../..", "pids:..", "pids:/../x", "memory,pids:a/../../b"] {
        let output = f.call(&["exec", "--cgroup", path, "c", "true"]);
        assert_ne!(output.code, 0, "{path}: {output:?}");
    }
}

pub(crate) fn paths_control() {
    let f = Fixture::new("true");
    fs::create_dir(f.root()).unwrap();
    naive(&format!("state {} ../escaped", f.root().display()), &[]).ok();
    assert!(f.path("escaped").is_dir());
}

/// Runs a command of the runtime on the config.json that is there.
fn as_it_is(f: &Fixture, args: &[&str]) -> Output {
    let mut command = Command::new(&f.runtime);
    command.arg("--root").arg(f.root()).args(args).current_dir(f.bundle());
    run(command)
}

pub(crate) fn never_ends() {
    let f = Fixture::new("true");
    f.write_config();
    let config = f.bundle().join("config.json");
    let make = |what: &dyn Fn()| {
        let _ = fs::remove_file(&config);
        what();
    };
    make(&|| mknodat(CWD, &config, FileType::Fifo, 0o600.into(), 0).unwrap());
    as_it_is(&f, &["create", "c"]).fails(1, "not a regular file");
    make(&|| symlink("/dev/zero", &config).unwrap());
    as_it_is(&f, &["create", "c"]).fails(1, "not a regular file");
    make(&|| symlink("/proc/self/fd/0", &config).unwrap());
    assert_eq!(as_it_is(&f, &["create", "c"]).code, 1);
    make(&|| fs::create_dir(&config).unwrap());
    assert_eq!(as_it_is(&f, &["create", "c"]).code, 1);
    fs::remove_dir(&config).unwrap();
    make(&|| fs::File::create(&config).unwrap().set_len(1 << 30).unwrap());
    as_it_is(&f, &["create", "c"]).fails(1, "longer than");
    for text in [
        "[".repeat(1 << 20),
        "{\"a\":".repeat(1 << 20),
        format!("{{\"ociVersion\":\"1.0\",\"x\":{}}}", "[".repeat(4000)),
    ] {
        make(&|| fs::write(&config, &text).unwrap());
        as_it_is(&f, &["create", "c"]).fails(1, "cannot understand");
    }
    fs::remove_file(&config).unwrap();

    // An environment that exec can't take is an error that names it, and not the end of the host's memory.
    let big = format!("X={}", "x".repeat(200_000));
    let f = Fixture::new("true").with(|c| c["process"]["env"].as_array_mut().unwrap().push(big.into()));
    let error = f.run().fails(1, "rgument list too long");
    assert!(error.len() < 1000, "{} bytes of an error", error.len());

    // A hook that does not end, and leaves another process that does not either.
    for kind in ["prestart", "createRuntime", "createContainer", "startContainer"] {
        let f = Fixture::new("true").with(|c| {
            c["hooks"] = json!({kind: [{"path": "/bin/sh", "args": ["sh", "-c", "sleep 50 & exec sleep 50"], "timeout": 1}]});
        });
        f.run().fails(1, "did not end within 1 s");
        f.assert_gone();
    }
}

pub(crate) fn never_ends_control() {
    let f = Fixture::new("true");
    let fifo = f.path("fifo");
    mknodat(CWD, &fifo, FileType::Fifo, 0o600.into(), 0).unwrap();
    let mut child = Guard(naive_command(&format!("read {}", fifo.display()), &[]).spawn().unwrap());
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(child.0.try_wait().unwrap().is_none(), "it did not wait for the pipe");
}

pub(crate) fn gate() {
    let f = Fixture::new("true");
    let mut open = Command::new("sh");
    f.write_config();
    open.args(["-c", "umask 0; exec \"$@\"", "sh"]).arg(&f.runtime).arg("--root").arg(f.root());
    open.args(["create", "c"]).current_dir(f.bundle());
    run(open).ok();
    for entry in fs::read_dir(f.root().join("c")).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{:?} is open to others: {mode:o}", entry.file_name());
    }
    // In the directory, too, nobody else may make or remove anything.
    for directory in [f.root(), f.root().join("c")] {
        let mode = fs::metadata(&directory).unwrap().permissions().mode();
        assert_eq!(mode & 0o066, 0, "{}: {mode:o}", directory.display());
    }
    let gate = f.root().join("c/gate.sock");
    let mut stranger = Command::new("/bin/busybox");
    stranger.args(["nc", "local:"]).arg(&gate).uid(65534).gid(65534);
    assert_ne!(run(stranger).code, 0);
    assert_eq!(f.status(), "created");
}

pub(crate) fn pid_file() {
    let f = Fixture::new("exec sleep 100");
    let (victim, link) = (f.path("victim"), f.path("link"));
    fs::write(&victim, "precious").unwrap();
    symlink(&victim, &link).unwrap();
    let file = link.display().to_string();
    f.call(&["create", "--pid-file", &file, "c"]).ok();
    f.call(&["start", "c"]).ok();
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    assert_eq!(fs::read_to_string(&link).unwrap(), f.state()["pid"].to_string());
    fs::remove_file(&link).unwrap();
    symlink(&victim, &link).unwrap();
    f.call(&["exec", "-d", "--pid-file", &file, "c", "true"]).ok();
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
}

pub(crate) fn passwd() {
    let check = |make: &dyn Fn(&std::path::Path)| {
        let f = with_attacker(Fixture::new("echo $HOME"));
        make(&f.rootfs().join("etc/passwd"));
        assert_eq!(f.run().ok(), "/\n");
        let f = f.with(|c| c["process"]["args"] = json!(["sleep", "100"]));
        f.start();
        assert_eq!(f.exec("echo $HOME").ok(), "/\n");
    };
    check(&|passwd| mknodat(CWD, passwd, FileType::Fifo, 0o600.into(), 0).unwrap());
    check(&|passwd| symlink("/dev/zero", passwd).unwrap());
    check(&|passwd| symlink("/proc/self/fd/0", passwd).unwrap());
    check(&|passwd| symlink("passwd", passwd).unwrap());
    check(&|passwd| fs::create_dir(passwd).unwrap());
    check(&|passwd| fs::write(passwd, vec![b':'; 4 << 20]).unwrap());
}
