//! The process: user, capabilities, limits, environment, directory.

use std::fs;

use serde_json::json;

use crate::harness::Fixture;

#[test]
fn user_groups_umask_and_home() {
    let f = Fixture::new("id -u; id -g; id -G; umask; echo $HOME").with(|c| {
        c["process"]["user"] = json!({"uid": 33, "gid": 44, "additionalGids": [55, 66], "umask": 0o27});
    });
    fs::write(f.rootfs().join("etc/passwd"), "web:x:33:33::/var/www:\n").unwrap();
    assert_eq!(f.run().ok(), "33\n44\n44 55 66\n0027\n/var/www\n");
}

#[test]
fn capabilities_are_those_asked_for() {
    let status = "grep ^Cap /proc/self/status | cut -f2";
    let f = Fixture::new(status).with(|c| {
        c["process"]["capabilities"] = json!({
            "bounding": ["CAP_KILL", "CAP_CHOWN", "CAP_NET_RAW"], "permitted": ["CAP_KILL", "CAP_CHOWN"],
            "effective": ["CAP_KILL"], "inheritable": ["CAP_CHOWN"], "ambient": ["CAP_CHOWN"],
        });
        c["process"]["user"]["uid"] = 1000.into();
    });
    // After exec by an ordinary user: what is ambient, and the bounds.
    let (kill, chown, raw) = (1u64 << 5, 1u64, 1u64 << 13);
    let expected = [chown, chown, chown, kill | chown | raw, chown];
    let text: String = expected.iter().map(|set| format!("{set:016x}\n")).collect();
    assert_eq!(f.run().ok(), text);
    let none = Fixture::new(status).with(|c| {
        c["process"].as_object_mut().unwrap().remove("capabilities");
    });
    assert_eq!(none.run().ok(), "0000000000000000\n".repeat(5));
}

#[test]
fn unknown_capabilities_are_a_warning() {
    let f = Fixture::new("true").with(|c| c["process"]["capabilities"]["bounding"] = json!(["CAP_MOON"]));
    let output = f.run();
    assert_eq!(output.code, 0);
    assert!(output.err.contains("level=warning") && output.err.contains("CAP_MOON"), "{}", output.err);
}

#[test]
fn limits_are_set_and_those_that_cannot_be_raised_are_told() {
    let f = Fixture::new("ulimit -Sn; ulimit -Hn; ulimit -c").with(|c| {
        c["process"]["rlimits"] = json!([
            {"type": "RLIMIT_NOFILE", "soft": 77, "hard": 88}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]);
    });
    assert_eq!(f.run().ok(), "77\n88\n0\n");
    let f = Fixture::new("true").with(|c| {
        c["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 1 << 30, "hard": 1 << 30}]);
    });
    let output = f.run();
    let refused = output.err.contains("CAP_SYS_RESOURCE") || output.err.contains("set the limit Nofile");
    assert!(output.code == 0 || refused, "{output:?}");
}

#[test]
fn oom_score_is_set_or_told() {
    let f = Fixture::new("cat /proc/self/oom_score_adj").with(|c| c["process"]["oomScoreAdj"] = 321.into());
    assert_eq!(f.run().ok(), "321\n");
    let f = Fixture::new("true").with(|c| c["process"]["oomScoreAdj"] = (-900).into());
    let output = f.run();
    assert_eq!(output.code, 0, "{output:?}");
}

#[test]
fn no_new_privileges_is_as_asked_for() {
    for (wanted, value) in [(true, "1"), (false, "0")] {
        let f = Fixture::new("grep NoNewPrivs /proc/self/status | cut -f2")
            .with(|c| c["process"]["noNewPrivileges"] = wanted.into());
        assert_eq!(f.run().ok().trim(), value);
    }
}

#[test]
fn the_directory_is_made_and_entered() {
    let f = Fixture::new("pwd").with(|c| c["process"]["cwd"] = "/made/for/it".into());
    assert_eq!(f.run().ok(), "/made/for/it\n");
}

#[test]
fn the_environment_is_exactly_that_of_config_json() {
    let f = Fixture::new("env").with(|c| {
        c["process"]["env"] = json!(["PATH=/bin", "A=b c", "HOME=/h"]);
        c["process"]["args"] = json!(["env"]);
    });
    let mut lines: Vec<String> = f.run().ok().lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["A=b c", "HOME=/h", "PATH=/bin"]);
}

#[test]
fn descriptors_are_handed_on_only_when_asked_for() {
    let mut f = Fixture::new("ls /proc/self/fd | tr '\\n' ' '");
    // 3 is ls's own.
    assert_eq!(f.run().ok(), "0 1 2 3 ");
    f.config["process"]["args"] = json!(["sh", "-c", "cat <&3; cat <&4"]);
    f.write_config();
    let script = format!(
        "echo three > {d}/3; echo four > {d}/4; exec 3<{d}/3 4<{d}/4; exec {r} --root {d}/state run --preserve-fds 2 c",
        d = f.directory.path().display(),
        r = f.runtime.display()
    );
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", &script]).current_dir(f.bundle());
    assert_eq!(crate::harness::run(shell).ok(), "three\nfour\n");
}

#[test]
fn pipes_of_the_streams_belong_to_the_user() {
    let f = Fixture::new("echo hello > /dev/stdout").with(|c| c["process"]["user"]["uid"] = 1000.into());
    let output = f.command(&["run", "c"]).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "hello\n", "{:?}", output.stderr);
}

#[test]
fn scheduling_and_personality() {
    let f = Fixture::new("cut -d' ' -f19,41 /proc/self/stat; uname -m 2>/dev/null || true").with(|c| {
        c["process"]["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 5});
    });
    assert!(f.run().ok().starts_with("5 3\n"));
}

#[test]
fn memory_comes_from_the_nodes_asked_for() {
    let f = Fixture::new("head -1 /proc/self/numa_maps | cut -d' ' -f2").with(|c| {
        c["linux"]["memoryPolicy"] =
            json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]});
    });
    let output = f.run();
    assert!(
        output.out.starts_with("bind")
            || output.err.contains("memory policy")
            || output.err.contains("numa_maps"),
        "{output:?}"
    );
}

#[test]
fn the_session_is_new_and_signals_are_default() {
    let f = Fixture::new("cut -d' ' -f1,6 /proc/self/stat; grep -E 'SigIgn|SigBlk' /proc/self/status | cut -f2")
        .with(|c| c["process"]["args"] = json!(["sh", "-c", "read pid c s ppid pgrp session x < /proc/$$/stat; echo $session; grep -E 'SigIgn|SigBlk' /proc/$$/status | cut -f2"]));
    let text = f.run().ok();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(&lines[..2], ["1", "0000000000000000"]);
    // The shell itself ignores SIGQUIT; what is above 31 is the C library's.
    let ignored = u64::from_str_radix(lines[2], 16).unwrap() & 0x7fff_ffff;
    assert_eq!(ignored & !(1 << 2), 0, "{text}");
}
