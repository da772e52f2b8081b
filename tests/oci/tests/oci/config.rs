//! config.md: version, root, process, user, names, annotations, extensions.

use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;

use serde_json::json;

use crate::harness::{Bench, contains};
use crate::table::{Need, Test, may, must, should};

pub(crate) const TESTS: &[Test] = &[
    must("version_semver", "Specification version", "refuses a version that is none (SemVer 2.0.0)", |b| {
        for version in ["", "one", "1", "1.0", "v1.0.0"] {
            b.set("/ociVersion", version);
            b.refused();
        }
    }).but(&[("runc", "does not look at the version"),("crun", "takes a configuration without a version")]),
    must("version_major", "Specification version", "refuses a version of another major version", |b| {
        b.set("/ociVersion", "2.0.0");
        b.refused();
    }).but(&[("runc", "does not look at the version")]),
    must("version_minor", "Specification version", "takes configurations of older minor versions", |b| {
        for version in ["1.0.0", "1.0.0-rc5", "1.0.2-dev", "1.1.0", "1.2.1"] {
            b.set("/ociVersion", version);
            b.create().ok();
            b.call(&["delete", "--force", &b.id]).ok();
        }
    }).but(&[("crun", "knows versions 1.0.x only")]),
    must("root_required", "Root", "refuses a configuration without `root`", |b| {
        b.unset("/root");
        b.refused();
    }),
    must("root_exists", "Root", "refuses a root that is not there", |b| {
        b.set("/root/path", "nowhere");
        b.refused();
    }),
    must("root_is_directory", "Root", "refuses a root that is no directory", |b| {
        fs::write(b.bundle().join("file"), "").unwrap();
        b.set("/root/path", "file");
        b.refused();
    }),
    must("root_absolute", "Root", "takes an absolute path for the root", |b| {
        let path = b.rootfs("").to_str().unwrap().trim_end_matches('/').to_owned();
        b.set("/root/path", path);
        assert_eq!(b.sh("echo fine"), "fine\n");
    }),
    must("root_readonly", "Root", "makes the root read-only if asked to", |b| {
        b.set("/root/readonly", true);
        contains(&b.sh("touch /x 2>&1; touch /dev/shm/y && echo rest is writable"), &["Read-only", "rest is writable"]);
    }),
    must("root_writable", "Root", "leaves the root writable by default", |b| {
        b.sh("touch /x");
        assert!(b.rootfs("x").exists());
    }),
    may("process_optional", "Process", "creates a container without `process`", |b| {
        b.unset("/process");
        b.create().ok();
        assert_eq!(b.status(), "created");
    })
    .but(&[("runc", "needs `process`"), ("crun", "needs `process`")]),
    must("terminal", "Process", "gives the process a terminal as its streams and sends the other end", |b| {
        let (text, size) = with_terminal(b, "tty; stty size; ls -l /proc/self/fd/0", Some((25, 80)));
        contains(&text, &["/dev/pts/0", "25 80"]);
        assert_eq!(size, (25, 80));
    }),
    must("console_size_alone", "Process", "ignores consoleSize without a terminal", |b| {
        b.set("/process/consoleSize", json!({"height": 10, "width": 10}));
        assert_eq!(b.sh("test -t 0 || echo none"), "none\n");
    }),
    must("cwd_absolute", "Process", "refuses a cwd that is not absolute", |b| {
        b.set("/process/cwd", "tmp");
        b.refused();
    })
    .but(&[("crun", "takes it from the root")]),
    must("cwd", "Process", "runs the program in cwd", |b| {
        b.set("/process/cwd", "/mnt");
        assert_eq!(b.sh("pwd"), "/mnt\n");
    }),
    must("env", "Process", "gives the program the environment of config.json", |b| {
        b.set("/process/env", json!(["PATH=/bin", "A=1", "EMPTY=", "SPACE=a b", "EQUAL=a=b"]));
        let text = b.sh("echo \"$A|$EMPTY|${UNSET-unset}|$SPACE|$EQUAL\"");
        assert_eq!(text, "1||unset|a b|a=b\n");
    }),
    must("env_is_all", "Process", "gives the program nothing of the runtime's environment", |b| {
        let text = b.sh("env");
        assert!(!text.contains("CARGO") && !text.contains("LANG="), "{text}");
    }),
    must("args", "Process", "hands all arguments on as they are", |b| {
        b.set("/process/args", json!(["printf", "<%s>", "a b", "", "*", "$HOME"]));
        assert_eq!(b.run().ok(), "<a b><><*><$HOME>");
    }),
    must("args_by_path", "Process", "finds a program without a slash in PATH", |b| {
        b.set("/process/env", json!(["PATH=/nowhere:/bin"]));
        b.set("/process/args", json!(["echo", "found"]));
        assert_eq!(b.run().ok(), "found\n");
    }),
    must("args_required", "Process", "refuses a process without arguments", |b| {
        for args in [json!([]), json!(null)] {
            b.set("/process/args", args);
            if b.create().code == 0 {
                b.start().fails();
                b.call(&["delete", "--force", &b.id]).ok();
            }
        }
    }).but(&[("crun", "takes a process without arguments")]),
    must("rlimits", "POSIX process", "sets the soft and the hard limit", |b| {
        b.set("/process/rlimits", json!([
            {"type": "RLIMIT_NOFILE", "soft": 512, "hard": 600},
            {"type": "RLIMIT_CORE", "soft": 0, "hard": 4096}]));
        let text = b.sh("grep -E 'open files|core file' /proc/self/limits | tr -s ' '");
        contains(&text, &["files 512 600", "size 0 4096"]);
    }),
    must("rlimits_unknown", "POSIX process", "refuses a limit that does not exist", |b| {
        b.set("/process/rlimits", json!([{"type": "RLIMIT_MOON", "soft": 1, "hard": 1}]));
        b.refused();
    }),
    must("rlimits_twice", "POSIX process", "refuses a limit that is given twice", |b| {
        let limit = json!({"type": "RLIMIT_NOFILE", "soft": 512, "hard": 600});
        b.set("/process/rlimits", json!([limit, limit]));
        b.refused();
    })
    .but(&[("runc", "takes the last one"), ("crun", "takes the last one")]),
    must("capabilities", "Linux Process", "gives exactly the five sets that are asked for", |b| {
        b.set("/process/capabilities", json!({
            "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE"],
            "permitted": ["CAP_CHOWN", "CAP_KILL"],
            "effective": ["CAP_KILL"],
            "inheritable": ["CAP_CHOWN"],
            "ambient": ["CAP_CHOWN"]}));
        b.set("/process/user", json!({"uid": 1000, "gid": 1000}));
        let text = b.sh("grep Cap /proc/self/status");
        // Who is no superuser has after exec what is ambient, and the bounding and inheritable sets as they were.
        contains(&text, &["CapInh:\t0000000000000001", "CapPrm:\t0000000000000001", "CapBnd:\t0000000000000421", "CapAmb:\t0000000000000001"]);
    }),
    must("capabilities_none", "Linux Process", "gives no capability if none is asked for", |b| {
        b.set("/process/capabilities", json!({}));
        let text = b.sh("grep -E 'Cap(Inh|Prm|Eff|Bnd|Amb)' /proc/self/status | tr -s '\\t' ' '");
        assert!(text.lines().all(|line| line.ends_with("0000000000000000")), "{text}");
    }),
    must("capabilities_unknown", "Linux Process", "warns of a capability that it does not know", |b| {
        b.push("/process/capabilities/bounding", json!("CAP_NO_SUCH_THING"));
        b.script("true");
        let output = b.run();
        assert_eq!(output.code, 0, "{}", output.err);
        contains(&output.err, &["CAP_NO_SUCH_THING"]);
    })
    .but(&[("crun", "refuses capabilities that it does not know")]),
    should("capabilities_ungranted", "Linux Process", "does not fail for capabilities that cannot be granted", |b| {
        for set in ["bounding", "permitted", "effective"] {
            b.push(&format!("/process/capabilities/{set}"), json!("CAP_SYS_RESOURCE"));
        }
        assert_eq!(b.sh("echo fine"), "fine\n");
    }).but(&[("runc", "fails where it has not the capability itself"),("crun", "fails where it has not the capability itself")]),
    must("no_new_privileges", "Linux Process", "sets no_new_privs if asked to", |b| {
        b.set("/process/noNewPrivileges", true);
        contains(&b.sh("grep NoNewPrivs /proc/self/status"), &["\t1"]);
        b.set("/process/noNewPrivileges", false);
        contains(&b.sh("grep NoNewPrivs /proc/self/status"), &["\t0"]);
    }),
    must("oom_score", "Linux Process", "sets oom_score_adj", |b| {
        b.set("/process/oomScoreAdj", 333);
        assert_eq!(b.sh("cat /proc/self/oom_score_adj"), "333\n");
    }),
    must("oom_score_unset", "Linux Process", "leaves oom_score_adj alone if it is not asked for", |b| {
        let own = fs::read_to_string("/proc/self/oom_score_adj").unwrap();
        assert_eq!(b.sh("cat /proc/self/oom_score_adj"), own);
    }),
    must("scheduler", "Linux Process", "sets the scheduling policy and nice value", |b| {
        b.set("/process/scheduler", json!({"policy": "SCHED_BATCH", "nice": 7}));
        let text = b.sh("awk '{print $19, $41}' /proc/self/stat");
        assert_eq!(text, "7 3\n");
    })
    .but(&[("runc", "is older than this field"), ("crun", "is older than this field")]),
    must("scheduler_unknown", "Linux Process", "refuses a scheduling policy that does not exist", |b| {
        b.set("/process/scheduler", json!({"policy": "SCHED_MOON"}));
        b.refused();
    })
    .but(&[("runc", "is older than this field"), ("crun", "is older than this field")]),
    must("io_priority", "Linux Process", "sets the I/O priority", |b| {
        b.set("/process/ioPriority", json!({"class": "IOPRIO_CLASS_BE", "priority": 6}));
        contains(&b.sh("ionice -p 1 || ionice"), &["6"]);
    })
    .but(&[("runc", "is older than this field"), ("crun", "is older than this field")]),
    must("io_priority_unknown", "Linux Process", "refuses an I/O class that does not exist", |b| {
        b.set("/process/ioPriority", json!({"class": "IOPRIO_CLASS_MOON", "priority": 6}));
        b.refused();
    })
    .but(&[("runc", "is older than this field"), ("crun", "is older than this field")]),
    must("exec_affinity", "Linux Process", "puts an added process on the processors asked for", |b| {
        b.lives("sleep 60");
        let file = b.path("process.json");
        fs::write(&file, json!({"args": ["grep", "Cpus_allowed_list", "/proc/self/status"], "cwd": "/", "env": ["PATH=/bin"],
            "user": {"uid": 0, "gid": 0}, "execCPUAffinity": {"initial": "0", "final": "1"}}).to_string()).unwrap();
        assert_eq!(b.call(&["exec", "--process", file.to_str().unwrap(), &b.id]).ok(), "Cpus_allowed_list:\t1\n");
    })
    .needs(&[Need::Processors])
    .but(&[("runc", "is older than this field"), ("crun", "is older than this field")]),
    must("exec_affinity_not_init", "Linux Process", "leaves the container's first process where it is", |b| {
        b.set("/process/execCPUAffinity", json!({"initial": "0", "final": "1"}));
        let own = fs::read_to_string("/proc/self/status").unwrap();
        let own = own.lines().find(|line| line.starts_with("Cpus_allowed_list")).unwrap().to_owned();
        assert_eq!(b.sh("grep Cpus_allowed_list /proc/self/status").trim_end(), own);
    })
    .needs(&[Need::Processors]),
    must("apparmor_missing", "Linux Process", "refuses an AppArmor profile where there is no AppArmor", |b| {
        b.set("/process/apparmorProfile", "no-such-profile");
        b.refused();
    })
    .needs(&[Need::NoApparmor]),
    must("apparmor", "Linux Process", "runs the process under the AppArmor profile", |b| {
        b.set("/process/apparmorProfile", "unconfined");
        contains(&b.sh("cat /proc/self/attr/current"), &["unconfined"]);
    })
    .needs(&[Need::Apparmor]),
    must("selinux_missing", "Linux Process", "refuses a SELinux label where there is no SELinux", |b| {
        b.set("/process/selinuxLabel", "system_u:system_r:svirt_lxc_net_t:s0:c124,c675");
        b.refused();
    })
    .needs(&[Need::NoSelinux]),
    must("selinux", "Linux Process", "runs the process with the SELinux label", |b| {
        b.set("/process/selinuxLabel", "system_u:system_r:container_t:s0:c124,c675");
        contains(&b.sh("cat /proc/self/attr/current"), &["container_t"]);
    })
    .needs(&[Need::Selinux]),
    must("user", "POSIX-platform User", "runs the process as the user and the groups asked for", |b| {
        b.set("/process/user", json!({"uid": 7, "gid": 8, "additionalGids": [9, 10]}));
        let text = b.sh("grep -E '^(Uid|Gid|Groups)' /proc/self/status | tr -s '\\t ' ' '");
        contains(&text, &["Uid: 7 7 7 7", "Gid: 8 8 8 8", "Groups: 9 10"]);
    }),
    must("groups_are_all", "POSIX-platform User", "gives the process none of the runtime's groups", |b| {
        let text = b.sh("grep '^Groups' /proc/self/status");
        assert!(["", "0"].contains(&text["Groups:".len()..].trim()), "{text}");
    }),
    must("umask", "POSIX-platform User", "sets the umask", |b| {
        b.set("/process/user/umask", 0o027);
        assert_eq!(b.sh("umask"), "0027\n");
    }),
    must("hostname", "Hostname", "sets the host name in the container's namespace only", |b| {
        b.set("/hostname", "sampan-host");
        let before = fs::read("/proc/sys/kernel/hostname").unwrap();
        assert_eq!(b.sh("hostname"), "sampan-host\n");
        assert_eq!(fs::read("/proc/sys/kernel/hostname").unwrap(), before);
    }),
    must("hostname_shared", "Hostname", "does not change the host's name", |b| {
        b.config["linux"]["namespaces"].as_array_mut().unwrap().retain(|n| n["type"] != "uts");
        b.set("/hostname", "sampan-host");
        let before = fs::read("/proc/sys/kernel/hostname").unwrap();
        b.refused();
        assert_eq!(fs::read("/proc/sys/kernel/hostname").unwrap(), before);
    }),
    must("domainname", "Domainname", "sets the domain name in the container's namespace only", |b| {
        b.set("/domainname", "sampan-domain");
        let before = fs::read("/proc/sys/kernel/domainname").unwrap();
        assert_eq!(b.sh("cat /proc/sys/kernel/domainname"), "sampan-domain\n");
        assert_eq!(fs::read("/proc/sys/kernel/domainname").unwrap(), before);
    })
    .but(&[("runc", "is older than this field")]),
    must("annotation_key", "Annotations", "refuses an annotation with an empty key", |b| {
        b.set("/annotations", json!({"": "x"}));
        b.refused();
    })
    .but(&[("runc", "takes it"), ("crun", "takes it")]),
    must("annotation_unknown", "Annotations", "ignores annotations that it does not know", |b| {
        b.set("/annotations", json!({"com.example.unknown": "{]", "x": ""}));
        assert_eq!(b.sh("echo fine"), "fine\n");
    }),
    must("annotation_values", "Annotations", "refuses an annotation that is no string", |b| {
        b.set("/annotations", json!({"x": 5}));
        b.refused();
    }),
    must("unknown_property", "Extensibility", "ignores properties that it does not know", |b| {
        b.set("/moon", json!({"phase": 1}));
        b.set("/process/moon", true);
        b.set("/linux/moon", json!([]));
        b.set("/linux/resources/moon", json!({}));
        assert_eq!(b.sh("echo fine"), "fine\n");
    }),
    must("invalid_value", "Valid values", "refuses values of the wrong type", |b| {
        for (pointer, value) in [
            ("/process/user/uid", json!("root")),
            ("/process/args", json!("sh")),
            ("/process/terminal", json!("yes")),
            ("/root/readonly", json!(7)),
            ("/linux/namespaces", json!("pid")),
        ] {
            let before = b.config.pointer(pointer).cloned().unwrap_or_default();
            b.set(pointer, value);
            b.refused();
            b.set(pointer, before);
        }
    })
    .but(&[("crun", "its parser takes some wrong types for nothing")]),
];

/// Runs a script with a terminal, and tells what it wrote and the terminal's size.
fn with_terminal(b: &mut Bench, script: &str, size: Option<(u16, u16)>) -> (String, (u16, u16)) {
    let path = b.path("console.sock");
    let listener = UnixListener::bind(&path).unwrap();
    b.set("/process/terminal", true);
    if let Some((height, width)) = size {
        b.set("/process/consoleSize", json!({"height": height, "width": width}));
    }
    // It waits for us before it ends: what a closed terminal held is lost.
    b.script(&format!("{script}; read line"));
    b.write_config();
    let bundle = b.bundle();
    let args =
        ["create", "--bundle", bundle.to_str().unwrap(), "--console-socket", path.to_str().unwrap(), &b.id];
    b.call(&args).ok();
    listener.set_nonblocking(true).unwrap();
    let (socket, _) = listener.accept().unwrap();
    let controller = receive(socket.as_fd());
    let size = rustix::termios::tcgetwinsize(&controller).unwrap();
    b.start().ok();
    let mut terminal = fs::File::from(controller);
    let mut text = String::new();
    let mut buffer = [0u8; 4096];
    while !text.contains("/dev/pts/0\r\n") || text.matches('\n').count() < 3 {
        match terminal.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(length) => text.push_str(&String::from_utf8_lossy(&buffer[..length])),
        }
    }
    (text, (size.ws_row, size.ws_col))
}

fn receive(socket: std::os::fd::BorrowedFd<'_>) -> OwnedFd {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0u8; 256];
    recvmsg(socket, &mut [std::io::IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)
        .unwrap();
    let fds = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    fds.flatten().next().expect("a descriptor came with the message")
}
