//! Filters of system calls, in the kernel.

use serde_json::{Value, json};

use crate::harness::Fixture;

fn filtered(script: &str, seccomp: Value) -> Fixture {
    Fixture::new(script).with(|c| c["linux"]["seccomp"] = seccomp)
}

#[test]
fn a_call_fails_with_the_number_asked_for() {
    for privileges in [true, false] {
        let f = filtered(
            "mkdir /tmp/x; cat /proc/self/status | grep Seccomp: | cut -f2",
            json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
                   "syscalls": [{"names": ["mkdir", "mkdirat", "nosuchcall"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]}),
        )
        .with(|c| c["process"]["noNewPrivileges"] = privileges.into());
        let output = f.run();
        assert!(output.err.contains("No space left on device") && output.out == "2\n", "{output:?}");
    }
}

#[test]
fn hooks_in_the_container_are_filtered() {
    for privileges in [true, false] {
        let f = filtered(
            "true",
            json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_KILL_PROCESS"}]}),
        )
        .with(|c| {
            c["process"]["noNewPrivileges"] = privileges.into();
            c["hooks"]["startContainer"] = json!([{"path": "/bin/mkdir", "args": ["mkdir", "/tmp/made"]}]);
        });
        f.run().fails(1, "the startContainer hook `/bin/mkdir` failed: signal: 31");
        f.assert_gone();
    }
}

#[test]
fn a_call_can_end_the_process() {
    let f = filtered(
        "mkdir /tmp/x; echo $?",
        json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_KILL_PROCESS"}]}),
    );
    assert_eq!(f.run().ok(), "159\n");
}

#[test]
fn arguments_are_looked_at() {
    let f = filtered(
        "kill -0 $$ && echo zero; kill -CONT $$ || echo refused",
        json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["kill"], "action": "SCMP_ACT_ERRNO",
            "args": [{"index": 1, "value": 18, "op": "SCMP_CMP_EQ"}]}]}),
    );
    assert_eq!(f.run().ok(), "zero\nrefused\n");
}

#[test]
fn the_default_profile_lets_ordinary_programs_run_and_stops_others() {
    let capabilities = sampan_oci::runtime::defaults::default_capabilities();
    let profile = sampan_oci::runtime::defaults::default_seccomp(&capabilities);
    for privileges in [true, false] {
        let f = filtered(
            "ls / > /dev/null && id -u; unshare -U true 2>&1 || echo no unshare; mount -t tmpfs x /tmp 2>&1 || echo no mount; (sleep 0; true) && echo forked",
            serde_json::to_value(&profile).unwrap(),
        )
        .with(|c| {
            c["process"]["noNewPrivileges"] = privileges.into();
            for set in ["bounding", "effective", "permitted"] {
                c["process"]["capabilities"][set] = json!(capabilities);
            }
        });
        let text = f.run().ok();
        assert!(text.starts_with("0\n"), "{text}");
        assert!(
            text.contains("no unshare") && text.contains("no mount") && text.ends_with("forked\n"),
            "{text}"
        );
    }
}

#[test]
fn exec_is_filtered_too() {
    let f = filtered(
        "exec sleep 100",
        json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]}),
    );
    f.start();
    f.exec("mkdir /tmp/x").fails(1, "Operation not permitted");
}

#[test]
fn a_listener_is_handed_over_with_the_state() {
    use std::os::unix::net::UnixListener;
    let f = Fixture::new("mkdir /tmp/asked && echo made");
    let path = f.path("listener");
    let listener = UnixListener::bind(&path).unwrap();
    let f = f.with(|c| {
        c["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": path, "listenerMetadata": "m",
            "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]});
    });
    f.call(&["create", "c"]).ok();
    let (socket, _) = listener.accept().unwrap();
    let mut bytes = vec![0; 65536];
    let (length, fd) =
        sampan_runtime::channel::receive_descriptor(std::os::fd::AsFd::as_fd(&socket), &mut bytes).unwrap();
    let state: Value = serde_json::from_slice(&bytes[..length]).unwrap();
    assert!(fd.is_some());
    assert_eq!(
        (&state["metadata"], &state["fds"][0], &state["state"]["id"]),
        (&"m".into(), &"seccompFd".into(), &"c".into())
    );
    assert_eq!(state["pid"], f.state()["pid"]);
}

#[test]
fn nonsense_is_refused() {
    let refuse = |seccomp: Value, with: &str| {
        filtered("true", seccomp).run().fails(1, with);
    };
    refuse(json!({"defaultAction": "SCMP_ACT_MOON"}), "SCMP_ACT_MOON");
    refuse(json!({"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_MOON"]}), "SCMP_ARCH_MOON");
}
