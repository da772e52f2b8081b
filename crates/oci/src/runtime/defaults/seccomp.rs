//! Docker's default seccomp profile, as data: which calls anybody may make, which only with a capability.
//!
//! It follows Docker's releases of 2025. Held against the profile that Debian 12's docker.io (20.10) hands to its
//! runtime, these are the differences, all of them Docker's own since then: io_uring is closed; sockets to the
//! hypervisor (AF_VSOCK) are; calls of kernels since 6.0 are open (`cachestat`, `fchmodat2`, `futex_*`, `mseal`,
//! `statmount`, `*xattrat`, …), as are protection keys, `name_to_handle_at` and `process_vm_*`.

use super::super::{LinuxSeccomp, SeccompAction, SeccompArg, SeccompOperator, SeccompSyscall};

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
/// `AF_VSOCK`: the way to a hypervisor, which no namespace confines.
const AF_VSOCK: u64 = 40;
/// The flags of clone(2) that make namespaces.
const CLONE_NEW_ANY: u64 = 0x7e02_0000;
/// The execution domains of personality(2) that are harmless: Linux, with 32 bits, with UNAME26, and the query.
const PERSONALITIES: [u64; 5] = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// Calls that anybody may make with any arguments.
const ALWAYS: &str = "
    _llseek _newselect accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown
    chown32 clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64
    clock_nanosleep clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2 dup3
    epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd
    eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark
    fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock
    fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex
    futex_requeue futex_time64 futex_wait futex_waitv futex_wake futimesat get_robust_list get_thread_area getcpu
    getcwd getdents getdents64 getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer
    getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresgid32 getresuid getresuid32
    getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday getuid getuid32 getxattr getxattrat
    inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents
    io_pgetevents_time64 io_setup io_submit ioctl ioprio_get ioprio_set ipc kill landlock_add_rule
    landlock_create_ruleset landlock_restrict_self lchown lchown32 lgetxattr link linkat listen listmount
    listxattr listxattrat llistxattr lremovexattr lseek lsetxattr lstat lstat64 madvise map_shadow_stack
    membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mmap2
    mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend
    mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync munlock munlockall munmap
    name_to_handle_at nanosleep newfstatat open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2
    pkey_alloc pkey_free pkey_mprotect poll ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64
    process_mrelease process_vm_readv process_vm_writev pselect6 pselect6_time64 ptrace pwrite64 pwritev pwritev2
    read readahead readlink readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages
    removexattr removexattrat rename renameat renameat2 restart_syscall riscv_hwprobe rmdir rseq rt_sigaction
    rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64
    rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam
    sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr
    sched_setparam sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop semtimedop_time64
    send sendfile sendfile64 sendmmsg sendmsg sendto set_robust_list set_thread_area set_tid_address setfsgid
    setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid setpriority setregid
    setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit setsid setsockopt setuid
    setuid32 setxattr setxattrat shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 sigprocmask
    sigreturn socketcall socketpair splice stat stat64 statfs statfs64 statmount statx symlink symlinkat sync
    sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime
    timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime
    timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname unlink unlinkat uretprobe utime
    utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write writev";

/// Calls that only one architecture has.
#[cfg(target_arch = "x86_64")]
const HERE: (&[&str], &str) =
    (&["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"], "arch_prctl modify_ldt");
/// Calls that only one architecture has.
#[cfg(target_arch = "aarch64")]
const HERE: (&[&str], &str) = (
    &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
    "arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls sync_file_range2",
);
/// Calls that only one architecture has.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const HERE: (&[&str], &str) = (&[], "");

/// Calls that are allowed to who has a capability.
const WITH: [(&str, &str); 14] = [
    ("CAP_BPF", "bpf"),
    ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
    ("CAP_PERFMON", "perf_event_open"),
    (
        "CAP_SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr
         lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl
         quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare",
    ),
    ("CAP_SYS_BOOT", "reboot"),
    ("CAP_SYS_CHROOT", "chroot"),
    ("CAP_SYS_MODULE", "delete_module finit_module init_module"),
    ("CAP_SYS_NICE", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    ("CAP_SYS_PACCT", "acct"),
    ("CAP_SYS_PTRACE", "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace"),
    ("CAP_SYS_RAWIO", "ioperm iopl"),
    ("CAP_SYS_TIME", "clock_settime clock_settime64 settimeofday stime"),
    ("CAP_SYS_TTY_CONFIG", "vhangup"),
    ("CAP_SYSLOG", "syslog"),
];

/// The default profile for a container that has `capabilities` (its bounding set, by names as `CAP_CHOWN`).
pub fn default_seccomp(capabilities: &[String]) -> LinuxSeccomp {
    let has = |name: &str| capabilities.iter().any(|c| c == name);
    let (architectures, extra) = HERE;
    let mut syscalls = vec![allow(ALWAYS, vec![])];
    if !extra.is_empty() {
        syscalls.push(allow(extra, vec![]));
    }
    syscalls.push(allow("socket", vec![arg(0, SeccompOperator::NotEqual, AF_VSOCK, 0)]));
    let personality = |value| allow("personality", vec![arg(0, SeccompOperator::Equal, value, 0)]);
    syscalls.extend(PERSONALITIES.map(personality));
    for (capability, calls) in WITH {
        if has(capability) {
            syscalls.push(allow(calls, vec![]));
        }
    }
    if !has("CAP_SYS_ADMIN") {
        syscalls.push(allow("clone", vec![arg(0, SeccompOperator::MaskedEqual, CLONE_NEW_ANY, 0)]));
        // Its flags lie in memory, where a filter can't look: callers fall back to clone on ENOSYS.
        syscalls.push(SeccompSyscall {
            names: vec!["clone3".to_owned()],
            action: SeccompAction::Errno,
            errno_ret: Some(ENOSYS),
            args: vec![],
        });
    }
    LinuxSeccomp {
        default_action: SeccompAction::Errno,
        default_errno_ret: Some(EPERM),
        architectures: architectures.iter().map(|&a| a.to_owned()).collect(),
        flags: vec![],
        listener_path: None,
        listener_metadata: None,
        syscalls,
    }
}

fn allow(names: &str, args: Vec<SeccompArg>) -> SeccompSyscall {
    SeccompSyscall {
        names: names.split_whitespace().map(str::to_owned).collect(),
        action: SeccompAction::Allow,
        errno_ret: None,
        args,
    }
}

fn arg(index: u32, op: SeccompOperator, value: u64, value_two: u64) -> SeccompArg {
    SeccompArg { index, value, value_two, op }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(capabilities: &[&str], call: &str) -> Vec<SeccompSyscall> {
        let capabilities: Vec<String> = capabilities.iter().map(|&c| c.to_owned()).collect();
        let mut rules = default_seccomp(&capabilities).syscalls;
        rules.retain(|rule| rule.names.iter().any(|name| name == call));
        rules
    }

    #[test]
    fn capabilities_open_their_calls() {
        assert!(rules(&[], "mount").is_empty());
        assert!(rules(&["CAP_SYS_ADMIN"], "mount")[0].args.is_empty());
        assert!(rules(&[], "clone")[0].args[0].op == SeccompOperator::MaskedEqual);
        assert!(rules(&["CAP_SYS_ADMIN"], "clone")[0].args.is_empty());
        assert_eq!(rules(&[], "clone3")[0].errno_ret, Some(ENOSYS));
        assert_eq!(rules(&[], "personality").len(), 5);
    }

    #[test]
    fn what_escapes_a_container_is_not_in_the_list() {
        for call in
            ["kexec_load", "add_key", "keyctl", "userfaultfd", "io_uring_setup", "pivot_root", "swapon"]
        {
            assert!(rules(&[], call).is_empty(), "{call}");
        }
    }
}
