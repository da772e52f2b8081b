//! What fails says what and where, in the place callers look, and leaves nothing.

use std::fs;

use serde_json::json;

use crate::harness::Fixture;

#[track_caller]
fn check(f: &Fixture, with: &str) {
    f.call(&["create", "c"]).fails(1, with);
    f.assert_gone();
    f.run().fails(1, with);
    f.assert_gone();
}

fn command(args: &[&str]) -> Fixture {
    let f = Fixture::new("").with(|c| c["process"]["args"] = json!(args));
    fs::write(f.rootfs().join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n").unwrap();
    f
}

#[test]
fn a_program_that_is_not_there() {
    check(&command(&["foo"]), "exec: \\\"foo\\\": executable file not found in $PATH");
    check(&command(&["/nope"]), "exec: \\\"/nope\\\": stat /nope: no such file or directory");
    check(&command(&["/etc/passwd"]), "exec: \\\"/etc/passwd\\\": permission denied");
    check(&command(&["/etc"]), "exec: \\\"/etc\\\": permission denied");
}

#[test]
fn an_interpreter_that_is_not_there_is_named_at_start() {
    let f = command(&["/script"]);
    let script = f.rootfs().join("script");
    fs::write(&script, "#!/bin/moon\n").unwrap();
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    f.call(&["create", "c"]).ok();
    f.call(&["start", "c"]).fails(1, "its interpreter \\\"/bin/moon\\\" does not exist");
    f.call(&["delete", "c"]).ok();
    f.run().fails(1, "its interpreter \\\"/bin/moon\\\" does not exist");
    f.assert_gone();
}

#[test]
fn what_is_wrong_with_a_bundle_is_named() {
    let f = Fixture::new("true");
    fs::remove_dir_all(f.rootfs()).unwrap();
    check(&f, "rootfs");
    let f = Fixture::new("true");
    f.call(&["create", "--bundle", "/nope", "c"]).fails(1, "`/nope`");
    let f = Fixture::new("true");
    assert_eq!(f.call(&["list", "-f", "json"]).ok(), "null\n");
    fs::write(f.bundle().join("config.json"), "{\"ociVersion\": 7}").unwrap();
    let output = std::process::Command::new(&f.runtime)
        .args(["create", "c"])
        .current_dir(f.bundle())
        .output()
        .unwrap();
    assert!(String::from_utf8(output.stderr).unwrap().contains("config.json`: invalid type"));
}

#[test]
fn what_config_json_asks_in_vain_is_named() {
    let with = |change: fn(&mut serde_json::Value)| Fixture::new("true").with(change);
    check(&with(|c| c["process"]["cwd"] = "rel".into()), "`rel` is not absolute");
    check(
        &with(|c| c["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "mount"}])),
        "`mount` twice",
    );
    check(&with(|c| c["linux"]["namespaces"][0] = json!({"type": "moon"})), "moon");
    check(&with(|c| c["linux"]["namespaces"][1] = json!({"type": "network", "path": "/nope"})), "`/nope`");
    check(&with(|c| c["linux"]["sysctl"] = json!({"kernel.core_pattern": "|/x"})), "kernel.core_pattern");
    check(
        &with(|c| c["mounts"][0] = json!({"destination": "/x", "type": "moonfs"})),
        "mount `moonfs` at `/x`",
    );
    check(
        &with(|c| c["mounts"][0] = json!({"destination": "/x", "type": "bind", "source": "/nope"})),
        "take `/nope` for a bind mount",
    );
    check(
        &with(|c| c["mounts"][3] = json!({"destination": "/x", "type": "tmpfs", "options": ["moon=1"]})),
        "mount `tmpfs` at `/x`",
    );
    check(&with(|c| c["linux"]["cgroupsPath"] = "/a/../../b".into()), "`..`");
    check(
        &with(|c| c["process"]["rlimits"] = json!([{"type": "RLIMIT_MOON", "soft": 1, "hard": 1}])),
        "RLIMIT_MOON",
    );
    check(&with(|c| c["linux"]["intelRdt"] = json!({})), "no resctrl file system is mounted on this host");
    check(&with(|c| c["process"]["apparmorProfile"] = "x".into()), "AppArmor");
    check(
        &with(|c| c["process"]["terminal"] = true.into()).with(|c| c["process"]["args"] = json!([])),
        "names no program",
    );
    check(&with(|c| c["linux"]["resources"]["unified"] = json!({"memory.max": "1"})), "");
}

#[test]
fn the_command_line_is_checked() {
    let f = Fixture::new("true");
    f.call(&["moon"]).fails(3, "No help topic for 'moon'");
    f.call(&["create"]).fails(1, "requires exactly 1 argument(s)");
    f.call(&["create", "--moon", "c"]).fails(1, "unknown option `--moon`");
    f.call(&["create", "../c"]).fails(1, "../c");
    f.call(&["state", "c"]).fails(1, "does not exist");
    let why = match std::path::Path::new("/run/systemd/system").exists() {
        true => "slice:prefix:name",
        false => "--systemd-cgroup on a host whose init is not systemd",
    };
    f.call(&["--systemd-cgroup", "create", "c"]).fails(1, why);
    f.call(&["--log-format", "moon", "list"]).fails(1, "`moon`");
    f.call(&["checkpoint", "c"]).fails(1, "does not exist");
    f.call(&["run", "--preserve-fds", "3", "c"]).fails(1, "descriptor 3");
    f.call(&["run", "--detach", "--console-socket", "/nope", "c"]).fails(1, "needs process.terminal");
    f.call(&["exec", "c", "true"]).fails(255, "does not exist");
    assert!(f.call(&["--version"]).ok().starts_with("sampan-runtime version "));
    assert!(f.call(&["create", "--help"]).ok().contains("--console-socket"));
}

#[test]
fn a_console_without_a_place_for_it_is_refused() {
    let f = Fixture::new("true").with(|c| c["process"]["terminal"] = true.into());
    f.call(&["create", "c"]).fails(1, "--console-socket");
    f.call(&["run", "-d", "c"]).fails(1, "--console-socket");
    f.assert_gone();
}

#[test]
fn what_is_in_the_way_of_a_program_is_named() {
    let put = |f: &Fixture, text: &[u8], mode: u32| {
        let path = f.rootfs().join("dir/x");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    };
    let close = |f: &Fixture| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        fs::set_permissions(f.rootfs().join("dir"), mode).unwrap();
    };
    let as_user = |c: &mut serde_json::Value| {
        c["process"]["user"] = json!({"uid": 1000, "gid": 1000});
        c["process"]["capabilities"] = json!({});
    };
    let f = command(&["/dir/x"]).with(as_user);
    put(&f, b"#!/bin/sh\n", 0o755);
    close(&f);
    f.run().fails(1, "permission denied (the directory /dir may not be entered by this user)");
    let f = command(&["/dir/x"]).with(as_user);
    put(&f, b"#!/bin/sh\n", 0o700);
    f.run().fails(1, "permission denied (it has no permission to be executed by this user)");
    for (text, why) in [
        (
            &b"#!/bin/sh\r\necho\r\n"[..],
            "its interpreter \\\"/bin/sh\\\\r\\\" does not exist (its first line ends in CR LF)",
        ),
        (b"", "exec format error (the file is empty)"),
        (b"echo hello\n", "exec format error (it begins with neither #! nor an ELF header)"),
        (b"#!/bin/moon -x\n", "its interpreter \\\"/bin/moon\\\" does not exist"),
    ] {
        let f = command(&["/dir/x"]);
        put(&f, text, 0o755);
        f.run().fails(1, why);
    }
    let f = command(&["/mnt/busybox"]).with(|c| {
        let mount =
            json!({"destination": "/mnt", "type": "bind", "source": "/bin", "options": ["bind", "noexec"]});
        c["mounts"].as_array_mut().unwrap().push(mount);
    });
    f.run().fails(1, "permission denied (its file system is mounted with noexec)");
}
