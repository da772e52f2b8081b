//! config-linux.md, seccomp: actions, arguments, architectures, flags, the listener.

use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;

use serde_json::{Value, json};

use crate::harness::{Bench, contains};
use crate::table::{Test, must};

const LAX: &[(&str, &str)] = &[("runc", "does not look"), ("crun", "does not look")];

pub(crate) const TESTS: &[Test] = &[
    must("errno", "Seccomp", "fails a call with the error number asked for", |b| {
        filter(b, json!([{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]));
        contains(&b.sh("mkdir /tmp/x 2>&1; echo end"), &["No space left", "end"]);
    }),
    must("errno_default", "Seccomp", "fails a call with EPERM by default", |b| {
        filter(b, json!([{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]));
        contains(&b.sh("mkdir /tmp/x 2>&1; echo end"), &["not permitted"]);
    }),
    must("default_errno", "Seccomp", "fails calls of the default action with the number asked for", |b| {
        let all = allowed_but(&["mkdir", "mkdirat"]);
        b.set(
            "/linux/seccomp",
            json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 28,
            "syscalls": [{"names": all, "action": "SCMP_ACT_ALLOW"}]}),
        );
        contains(&b.sh("mkdir /tmp/x 2>&1; echo end"), &["No space left", "end"]);
    }),
    must("errno_unfit", "Seccomp", "refuses an error number for an action that has none", |b| {
        filter(b, json!([{"names": ["mkdir"], "action": "SCMP_ACT_ALLOW", "errnoRet": 28}]));
        b.refused();
        b.set("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 28}));
        b.refused();
    })
    .but(&[("runc", "ignores the number")]),
    must("kill", "Seccomp", "ends the process with SIGSYS for SCMP_ACT_KILL and its like", |b| {
        for action in ["SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL_THREAD"] {
            filter(b, json!([{"names": ["mkdir", "mkdirat"], "action": action}]));
            let text = b.sh("mkdir /tmp/x; echo $?");
            assert_eq!(text, "159\n", "{action}");
        }
    }),
    must("trap", "Seccomp", "sends SIGSYS for SCMP_ACT_TRAP", |b| {
        filter(b, json!([{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_TRAP"}]));
        assert_eq!(b.sh("mkdir /tmp/x; echo $?"), "159\n");
    }),
    must("trace", "Seccomp", "fails a call with ENOSYS for SCMP_ACT_TRACE without a tracer", |b| {
        filter(b, json!([{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_TRACE"}]));
        contains(&b.sh("mkdir /tmp/x 2>&1; echo end"), &["not implemented"]);
    }),
    must("log", "Seccomp", "lets calls pass for SCMP_ACT_LOG", |b| {
        filter(b, json!([{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_LOG"}]));
        assert_eq!(b.sh("mkdir /tmp/x && echo made"), "made\n");
    }),
    must("action_unknown", "Seccomp", "refuses an action that does not exist", |b| {
        filter(b, json!([{"names": ["mkdir"], "action": "SCMP_ACT_MOON"}]));
        b.refused();
    }),
    must("names_required", "Seccomp", "refuses a rule without names", |b| {
        filter(b, json!([{"names": [], "action": "SCMP_ACT_ERRNO"}]));
        b.refused();
    })
    .but(LAX),
    must("names_unknown", "Seccomp", "skips calls that it does not know", |b| {
        filter(b, json!([{"names": ["no_such_call", "mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]));
        contains(&b.sh("mkdir /tmp/x 2>&1; echo end"), &["not permitted"]);
    }),
    must("arguments", "Seccomp", "looks at arguments", |b| {
        // personality(2) is called by nobody else.
        for (operator, value, two, hit) in [
            ("SCMP_CMP_EQ", 8, 0, true),
            ("SCMP_CMP_EQ", 7, 0, false),
            ("SCMP_CMP_NE", 7, 0, true),
            ("SCMP_CMP_NE", 8, 0, false),
            ("SCMP_CMP_LT", 9, 0, true),
            ("SCMP_CMP_LT", 8, 0, false),
            ("SCMP_CMP_LE", 8, 0, true),
            ("SCMP_CMP_LE", 7, 0, false),
            ("SCMP_CMP_GT", 7, 0, true),
            ("SCMP_CMP_GT", 8, 0, false),
            ("SCMP_CMP_GE", 8, 0, true),
            ("SCMP_CMP_GE", 9, 0, false),
            ("SCMP_CMP_MASKED_EQ", 12, 8, true),
            ("SCMP_CMP_MASKED_EQ", 12, 4, false),
        ] {
            let args = json!([{"index": 0, "value": value, "valueTwo": two, "op": operator}]);
            filter(
                b,
                json!([{"names": ["personality"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28, "args": args}]),
            );
            b.script("busybox setarch linux32 true 2>&1 || busybox linux32 true 2>&1");
            let output = b.run();
            let failed = output.out.contains("No space left") || output.err.contains("No space left");
            assert_eq!(failed, hit, "{operator} {value} {two}: {output:?}");
        }
    }),
    must("arguments_operator", "Seccomp", "refuses an operator that does not exist", |b| {
        let args = json!([{"index": 0, "value": 1, "op": "SCMP_CMP_MOON"}]);
        filter(b, json!([{"names": ["personality"], "action": "SCMP_ACT_ERRNO", "args": args}]));
        b.refused();
    }),
    must("architectures", "Seccomp", "takes the names of all architectures", |b| {
        for arch in [
            "X86",
            "X86_64",
            "X32",
            "ARM",
            "AARCH64",
            "MIPS",
            "MIPS64",
            "MIPS64N32",
            "MIPSEL",
            "MIPSEL64",
            "MIPSEL64N32",
            "PPC",
            "PPC64",
            "PPC64LE",
            "S390",
            "S390X",
            "PARISC",
            "PARISC64",
            "RISCV64",
            "LOONGARCH64",
            "M68K",
            "SH",
            "SHEB",
        ] {
            filter(b, json!([{"names": ["kexec_load"], "action": "SCMP_ACT_ERRNO"}]));
            b.set("/linux/seccomp/architectures", json!([format!("SCMP_ARCH_{arch}")]));
            b.script("true");
            let output = b.run();
            assert_eq!(output.code, 0, "{arch}: {}", output.err);
        }
    })
    .but(&[
        ("runc", "libseccomp 2.5 does not know the newer ones, nor joins filters of different byte orders"),
        ("crun", "libseccomp 2.5 does not know the newer ones, nor joins filters of different byte orders"),
    ]),
    must("architecture_unknown", "Seccomp", "refuses an architecture that does not exist", |b| {
        filter(b, json!([{"names": ["kexec_load"], "action": "SCMP_ACT_ERRNO"}]));
        b.set("/linux/seccomp/architectures", json!(["SCMP_ARCH_MOON"]));
        b.refused();
    }),
    must("flags", "Seccomp", "takes the flags TSYNC, LOG and SPEC_ALLOW", |b| {
        for flag in ["TSYNC", "LOG", "SPEC_ALLOW"] {
            filter(b, json!([{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]));
            b.set("/linux/seccomp/flags", json!([format!("SECCOMP_FILTER_FLAG_{flag}")]));
            contains(&b.sh("mkdir /tmp/x 2>&1; echo end"), &["not permitted"]);
        }
    })
    .but(&[("runc", "Debian builds it without flags")]),
    must("flag_unknown", "Seccomp", "refuses a flag that does not exist", |b| {
        filter(b, json!([{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]));
        b.set("/linux/seccomp/flags", json!(["SECCOMP_FILTER_FLAG_MOON"]));
        b.refused();
    }),
    must(
        "listener",
        "Seccomp",
        "sends the descriptor and the container process state to listenerPath",
        |b| {
            let path = b.path("seccomp.sock");
            let listener = UnixListener::bind(&path).unwrap();
            filter(b, json!([{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}]));
            b.set("/linux/seccomp/listenerPath", path.to_str().unwrap());
            b.set("/linux/seccomp/listenerMetadata", "opaque");
            b.script("sleep 60");
            b.create().ok();
            listener.set_nonblocking(true).unwrap();
            let (socket, _) = listener.accept().unwrap();
            let (bytes, fds) = receive(socket.as_fd());
            let state: Value = serde_json::from_slice(&bytes).unwrap();
            assert_eq!(state["fds"], json!(["seccompFd"]), "{state}");
            assert_eq!(state["metadata"], "opaque");
            assert_eq!(state["pid"], b.pid());
            assert_eq!(state["state"]["id"], b.id.as_str());
            assert!(state["ociVersion"].is_string() && state["state"]["status"].is_string(), "{state}");
            assert_eq!(fds, 1);
            // Exactly one state a connection, which is closed then.
            assert_eq!(rustix::io::read(&socket, &mut [0u8; 16]).unwrap(), 0);
        },
    ),
    must("listener_absent", "Seccomp", "fails if the state cannot be sent", |b| {
        filter(b, json!([{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}]));
        b.set("/linux/seccomp/listenerPath", "/nonexistent.sock");
        b.refused();
    }),
    must("listener_unused", "Seccomp", "ignores listenerPath without SCMP_ACT_NOTIFY", |b| {
        filter(b, json!([{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]));
        b.set("/linux/seccomp/listenerPath", "/nonexistent.sock");
        assert_eq!(b.sh("echo fine"), "fine\n");
    })
    .but(&[("crun", "connects all the same, and fails")]),
    must("metadata_alone", "Seccomp", "refuses listenerMetadata without listenerPath", |b| {
        filter(b, json!([{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]));
        b.set("/linux/seccomp/listenerMetadata", "opaque");
        b.refused();
    })
    .but(&[("runc", "looks only if a rule notifies"), ("crun", "does not look")]),
    must("exec", "Seccomp", "filters processes that exec adds", |b| {
        filter(b, json!([{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]));
        b.lives("sleep 60");
        let output = b.call(&["exec", &b.id, "mkdir", "/tmp/x"]);
        contains(&(output.out + &output.err), &["No space left"]);
    }),
];

fn filter(b: &mut Bench, rules: Value) {
    b.set("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}));
}

/// What busybox and the runtimes need to run a shell, but some.
fn allowed_but(without: &[&str]) -> Vec<&'static str> {
    const CALLS: &str = "accept accept4 access alarm arch_prctl bind brk capget capset chdir chmod chown clock_getres clock_gettime \
        clock_nanosleep clone clone3 close close_range connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl \
        epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 fchdir fchmod fchmodat \
        fchown fchownat fcntl fdatasync fgetxattr flock fork fstat fstatfs fsync ftruncate futex getcwd getdents getdents64 getegid \
        geteuid getgid getgroups getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresuid getrlimit \
        getrusage getsid getsockname getsockopt gettid gettimeofday getuid inotify_add_watch inotify_init1 ioctl kill lchown link linkat \
        listen lseek lstat madvise membarrier memfd_create mincore mkdir mkdirat mknod mknodat mmap mprotect mremap munmap nanosleep \
        newfstatat open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 poll ppoll prctl pread64 prlimit64 pselect6 pwrite64 \
        read readlink readlinkat readv recvfrom recvmsg rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending \
        rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait sched_getaffinity sched_setaffinity sched_yield select \
        sendfile sendmsg sendto set_robust_list set_tid_address setfsgid setfsuid setgid setgroups setitimer setpgid setpriority setregid \
        setresgid setresuid setreuid setrlimit setsid setsockopt setuid shutdown sigaltstack signalfd4 socket socketpair splice stat \
        statfs statx symlink symlinkat sync sysinfo tgkill time timer_create timer_settime timerfd_create timerfd_settime times tkill \
        truncate umask uname unlink unlinkat utime utimensat utimes vfork wait4 waitid write writev seccomp fchmodat2";
    CALLS.split_whitespace().filter(|name| !without.contains(name)).collect()
}

fn receive(socket: std::os::fd::BorrowedFd<'_>) -> (Vec<u8>, usize) {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = vec![0u8; 16 << 10];
    let received =
        recvmsg(socket, &mut [std::io::IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)
            .unwrap();
    bytes.truncate(received.bytes);
    let mut fds = 0;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(list) = message {
            fds += list.count();
        }
    }
    (bytes, fds)
}
