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
    f.call(&["list"]).fails(1, "");
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
    f.call(&["moon"]).fails(1, "No help topic for 'moon'");
    f.call(&["create"]).fails(1, "takes 1 argument");
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
