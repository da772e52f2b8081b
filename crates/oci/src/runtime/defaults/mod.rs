//! Docker's defaults for config.json: what a container gets when nobody asks for anything else.

use super::{DeviceRule, Mount};

mod seccomp;

pub use seccomp::default_seccomp;

/// The capabilities of an ordinary container.
pub fn default_capabilities() -> Vec<String> {
    const NAMES: [&str; 14] = [
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FSETID",
        "CAP_FOWNER",
        "CAP_MKNOD",
        "CAP_NET_RAW",
        "CAP_SETGID",
        "CAP_SETUID",
        "CAP_SETFCAP",
        "CAP_SETPCAP",
        "CAP_NET_BIND_SERVICE",
        "CAP_SYS_CHROOT",
        "CAP_KILL",
        "CAP_AUDIT_WRITE",
    ];
    NAMES.map(str::to_owned).to_vec()
}

/// The mounts of an ordinary container, in order: proc, dev, pts, shm, mqueue, sys and the cgroups.
pub fn default_mounts() -> Vec<Mount> {
    const MOUNTS: [(&str, &str, &str, &str); 7] = [
        ("/proc", "proc", "proc", "nosuid,noexec,nodev"),
        ("/dev", "tmpfs", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
        ("/dev/pts", "devpts", "devpts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"),
        ("/dev/shm", "tmpfs", "shm", "nosuid,noexec,nodev,mode=1777,size=65536k"),
        ("/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev"),
        ("/sys", "sysfs", "sysfs", "nosuid,noexec,nodev,ro"),
        ("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid,noexec,nodev,relatime,ro"),
    ];
    let mount = |(destination, kind, source, options): (&str, &str, &str, &str)| Mount {
        destination: destination.into(),
        kind: Some(kind.into()),
        source: Some(source.into()),
        options: options.split(',').map(str::to_owned).collect(),
        ..Mount::default()
    };
    MOUNTS.map(mount).to_vec()
}

/// Paths of proc and sys that tell or reach more of the host than a container should.
pub fn masked_paths() -> Vec<String> {
    const PATHS: [&str; 12] = [
        "/proc/acpi",
        "/proc/asound",
        "/proc/interrupts",
        "/proc/kcore",
        "/proc/keys",
        "/proc/latency_stats",
        "/proc/sched_debug",
        "/proc/scsi",
        "/proc/timer_list",
        "/proc/timer_stats",
        "/sys/devices/virtual/powercap",
        "/sys/firmware",
    ];
    PATHS.map(str::to_owned).to_vec()
}

/// Paths of proc that a container may read only.
pub fn readonly_paths() -> Vec<String> {
    const PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
    PATHS.map(str::to_owned).to_vec()
}

/// The device rules of an ordinary container: any node may be made, but only the harmless ones be used.
pub fn default_devices_cgroup() -> Vec<DeviceRule> {
    const USABLE: [(i64, Option<i64>); 9] = [
        (1, Some(3)), // null
        (1, Some(5)), // zero
        (1, Some(7)), // full
        (1, Some(8)), // random
        (1, Some(9)), // urandom
        (5, Some(0)), // tty
        (5, Some(1)), // console
        (5, Some(2)), // ptmx
        (136, None),  // pts/*
    ];
    let rule = |allow, kind: Option<&str>, major, minor, access: &str| DeviceRule {
        allow,
        kind: kind.map(str::to_owned),
        major,
        minor,
        access: Some(access.to_owned()),
    };
    let mut rules = vec![
        rule(false, None, None, None, "rwm"),
        rule(true, Some("c"), None, None, "m"),
        rule(true, Some("b"), None, None, "m"),
    ];
    rules.extend(USABLE.iter().map(|&(major, minor)| rule(true, Some("c"), Some(major), minor, "rwm")));
    rules
}
