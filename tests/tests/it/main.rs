//! Every test starts a daemon of its own from the built executables and uses it through real clients: Docker's command
//! line, curl, and our own. What can't run on this host is reported as ignored, with the reason beside its name.
//!
//! * `docker`, `docker_images`: Docker's client.            * `sampan`, `sampan_docker`, `sampan_lists`, `sampan_verbs`: our client.
//! * `network`, `networks`, `limits`, `terminal`: what containers get.  * `build`: Dockerfiles.
//! * `lifecycle`, `restart`, `health`, `copy`, `mounts`, `options`: what is done with containers.
//! * `libraries`: what docker-py and others send.
//! * `registry`: pulls and pushes.                         * `image_care`: analyze, squash, check, df, prune.
//! * `logs`: log drivers.                               * `serving`: sockets, TLS, systemd, reload, metrics.
//! * `userns`, `userns_build`: user namespaces.
//! * `chaos`: daemons and shims killed under load.
//! * `machine`: systemd's units, its journal, and a clock that is set: in a virtual machine only.
//! * `crash`, `disk_full`, `bad_input`, `daemon`: what goes wrong.   * `concurrency`: much at once.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

mod bad_input;
mod build;
mod build_flags;
mod chaos;
mod compose;
mod concurrency;
mod copy;
mod crash;
mod daemon;
mod disk_full;
mod docker;
mod docker_images;
mod health;
mod image_care;
mod libraries;
mod lifecycle;
mod limits;
mod logs;
mod machine;
mod mounts;
mod network;
mod networks;
mod options;
mod registry;
mod restart;
mod sampan;
mod sampan_docker;
mod sampan_lists;
mod sampan_verbs;
mod serving;
mod terminal;
mod userns;
mod userns_build;

use std::path::Path;

use libtest_mimic::Arguments;

/// How many tests run at once unless it is said otherwise: each has a daemon.
const THREADS: usize = 4;

/// The argument with which this program is a server in a container instead.
const ECHO_DATAGRAMS: &str = "echo-datagrams";
/// The argument with which it is a server in another network namespace.
const TELL_PEERS: &str = "tell-peers";
/// The argument with which it is a name server there.
const ANSWER_NAMES: &str = "answer-names";

/// What a test needs of the host.
#[derive(Clone, Copy, Debug)]
enum Need {
    Docker,
    NewDocker,
    Curl,
    Ipv6,
    Registry,
    Dockerd,
    DockerCompose,
    Skopeo,
    Podman,
    Buildah,
    Ip,
    CpuAccounting,
    Cni,
    /// A machine with systemd whose units and clock the test may change.
    Machine,
}

/// A test: its name, what it needs besides root and busybox, and itself.
type Case = (&'static str, &'static [Need], fn());

/// Names a module's tests.
macro_rules! cases {
    ($($name:ident $([$($need:ident),*])?,)*) => {
        pub(crate) const CASES: &[crate::Case] = &[$((stringify!($name), &[$($(crate::Need::$need),*)?], $name)),*];
    };
}
pub(crate) use cases;

impl Need {
    /// Why the host can't give this, if it can't.
    fn missing(self) -> Option<&'static str> {
        let absent = |path: &str| !Path::new(path).exists();
        match self {
            Need::Docker => absent("/usr/bin/docker").then_some("no /usr/bin/docker (package docker.io)"),
            Need::NewDocker => absent(docker::NEW_DOCKER).then_some("no newer client /usr/local/bin/docker"),
            Need::Ip => (absent("/sbin/ip") && absent("/usr/sbin/ip")).then_some("no ip (package iproute2)"),
            Need::Registry => sampan_testkit::registry::missing(),
            Need::Dockerd => absent("/usr/sbin/dockerd").then_some("no dockerd (package docker.io)"),
            Need::DockerCompose => absent("/usr/bin/docker-compose")
                .then_some("no /usr/bin/docker-compose (package docker-compose)"),
            Need::Skopeo => absent("/usr/bin/skopeo").then_some("no skopeo"),
            Need::Podman => absent("/usr/bin/podman").then_some("no podman"),
            Need::Buildah => absent("/usr/bin/buildah").then_some("no buildah"),
            Need::Cni => absent("/usr/lib/cni/bridge")
                .then_some("no /usr/lib/cni (package containernetworking-plugins)"),
            Need::Machine => (std::env::var_os("SAMPAN_VM").is_none() || absent("/run/systemd/system"))
                .then_some("no machine of its own with systemd (make test-vm)"),
            Need::Ipv6 => absent("/proc/sys/net/ipv6").then_some("the kernel has no IPv6"),
            Need::Curl => absent("/usr/bin/curl").then_some("no curl"),
            Need::CpuAccounting => (absent("/sys/fs/cgroup/cpuacct/cpuacct.usage")
                && absent("/sys/fs/cgroup/cgroup.controllers"))
            .then_some("no cpu accounting"),
        }
    }
}

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some(ECHO_DATAGRAMS) => return network::echo_datagrams(),
        Some(TELL_PEERS) => return network::tell_peers(),
        Some(ANSWER_NAMES) => return network::answer_names(),
        _ => {}
    }
    // What it says is shown with the test's name at the end; a backtrace of a client's failure says nothing.
    std::panic::set_hook(Box::new(|panic| {
        if let Some(place) = panic.location() {
            eprintln!("a test fails at {place}");
        }
    }));
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(THREADS);
    let missing = if rustix::process::geteuid().is_root() {
        sampan_testkit::busybox::missing()
    } else {
        Some("not root")
    };
    let modules: &[(&str, &[Case])] = &[
        ("bad_input", bad_input::CASES),
        ("build", build::CASES),
        ("build_flags", build_flags::CASES),
        ("chaos", chaos::CASES),
        ("crash", crash::CASES),
        ("compose", compose::CASES),
        ("concurrency", concurrency::CASES),
        ("copy", copy::CASES),
        ("health", health::CASES),
        ("restart", restart::CASES),
        ("mounts", mounts::CASES),
        ("options", options::CASES),
        ("daemon", daemon::CASES),
        ("disk_full", disk_full::CASES),
        ("docker", docker::CASES),
        ("docker_images", docker_images::CASES),
        ("image_care", image_care::CASES),
        ("libraries", libraries::CASES),
        ("lifecycle", lifecycle::CASES),
        ("limits", limits::CASES),
        ("logs", logs::CASES),
        ("machine", machine::CASES),
        ("network", network::CASES),
        ("networks", networks::CASES),
        ("registry", registry::CASES),
        ("sampan", sampan::CASES),
        ("sampan_docker", sampan_docker::CASES),
        ("sampan_lists", sampan_lists::CASES),
        ("sampan_verbs", sampan_verbs::CASES),
        ("serving", serving::CASES),
        ("terminal", terminal::CASES),
        ("userns", userns::CASES),
        ("userns_build", userns_build::CASES),
    ];
    let mut trials = Vec::new();
    for &(module, cases) in modules {
        for &(name, needs, test) in cases {
            let reason = missing.or_else(|| needs.iter().find_map(|need| need.missing()));
            trials.push(sampan_testkit::trial(format!("{module}::{name}"), reason, test));
        }
    }
    libtest_mimic::run(&arguments, trials).exit();
}
