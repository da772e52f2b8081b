//! `cargo bench -p sampan-runtime --bench soak [-- SCALE]`: 5,000 containers in a row, 64 at once, 1,000 runtimes killed at
//! any moment, all beside as many busy processes as there are processors. Whatever is left or grows afterwards is shown,
//! and is a failure. SCALE is a percentage, 100 if it is not given.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a program for developers")]
#![allow(dead_code, reason = "it shares the modules of the tests")]

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[path = "../tests/it/harness.rs"]
mod harness;
#[path = "../tests/it/soak.rs"]
mod soak;

use soak::{Numbers, Soak};

/// What of the host's kernel grows if something leaks, whoever leaks it.
#[derive(Debug)]
struct Host {
    mounts: usize,
    processes: usize,
    shared_memory: usize,
    network_namespaces: u64,
    keys: u64,
    cgroups: u64,
}

impl Host {
    fn now() -> Host {
        let entries = |path: &str| fs::read_dir(path).into_iter().flatten().count();
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let numbers = |line: &str| -> Vec<u64> {
            line.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect()
        };
        let slab = text("/proc/slabinfo");
        let net =
            slab.lines().find(|line| line.starts_with("net_namespace")).map(numbers).unwrap_or_default();
        let keys = text("/proc/key-users");
        let keys =
            keys.lines().find(|line| line.trim_start().starts_with("0:")).map(numbers).unwrap_or_default();
        let groups = text("/proc/cgroups");
        Host {
            mounts: text("/proc/self/mountinfo").lines().count(),
            processes: fs::read_dir("/proc")
                .unwrap()
                .flatten()
                .filter(|e| e.path().join("exe").exists())
                .count(),
            shared_memory: entries("/dev/shm"),
            network_namespaces: net.first().copied().unwrap_or(0),
            keys: keys.get(1).copied().unwrap_or(0),
            cgroups: groups
                .lines()
                .skip(1)
                .filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok())
                .sum(),
        }
    }
}

/// The descriptors that this process has open.
fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

fn main() {
    let scale = std::env::args().skip(1).find_map(|arg| arg.parse::<u32>().ok()).unwrap_or(100);
    let part = |count: u32| (count * scale / 100).max(1);
    let busy: Vec<harness::Guard> = (0..std::thread::available_parallelism().map_or(2, usize::from))
        .map(|_| {
            let mut busy = Command::new("sh");
            harness::Guard(busy.args(["-c", "while :; do :; done"]).stdin(Stdio::null()).spawn().unwrap())
        })
        .collect();
    let soak = Soak::new();
    soak.in_a_row("warm", 3);
    let (before, own) = (Host::now(), descriptors());
    println!("before: {before:?}, own descriptors {own}");
    let timed = |what: &str, work: &mut dyn FnMut()| {
        let began = Instant::now();
        work();
        println!("{what}: {:.1} s", began.elapsed().as_secs_f64());
    };
    timed(&format!("{} in a row", part(5000)), &mut || soak.in_a_row("row", part(5000)));
    timed(&format!("64 at once, {} each", part(20)), &mut || soak.at_once(64, part(20)));
    let seed = u64::from(std::process::id()) << 20 | 0x5eed;
    println!("seed {seed}");
    timed(&format!("{} killed", part(1000)), &mut || soak.killed("k", part(1000), &mut Numbers(seed)));
    drop(busy);
    // The kernel takes its time for namespaces and keys.
    harness::eventually("nothing of ours is left", || soak.left("").is_empty());
    std::thread::sleep(Duration::from_secs(5));
    let (after, own_after) = (Host::now(), descriptors());
    println!("after:  {after:?}, own descriptors {own_after}");
    assert_eq!(own, own_after, "descriptors of this process are left");
    // Others may be at work on this host, so a few more are no proof; a leak is at least one for each container.
    let few = u64::from(part(5000) / 20 + 20);
    let grown = [
        ("mounts", before.mounts as u64, after.mounts as u64),
        ("processes", before.processes as u64, after.processes as u64),
        ("files in /dev/shm", before.shared_memory as u64, after.shared_memory as u64),
        ("network namespaces", before.network_namespaces, after.network_namespaces),
        ("keys", before.keys, after.keys),
        ("cgroups", before.cgroups, after.cgroups),
    ];
    for (what, before, after) in grown {
        assert!(after <= before + few, "{what}: {before} before, {after} after");
    }
    println!("nothing is left");
}
