//! What a running container uses, read from its cgroups.
//!
//! The cgroups are those that its first process is in; a controller that the host lacks leaves its part at zero.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sampan_base::Timestamp;
use sampan_net::LinkCounters;

use crate::container::state::{Denial, Phase};
use crate::error::Result;
use crate::{Engine, blocking};

/// Where hierarchies are mounted on every distribution.
const MOUNT: &str = "/sys/fs/cgroup";

/// What a container uses, at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Usage {
    /// When it was read.
    pub at: Option<Timestamp>,
    /// Processor time.
    pub cpu: Cpu,
    /// Processor time of the whole host, in nanoseconds.
    pub host_cpu: u64,
    /// How many processors the host has on.
    pub online_cpus: u32,
    /// Memory.
    pub memory: MemoryUsage,
    /// Processes and threads now, and how many there may be (0: any number).
    pub pids: (u64, u64),
    /// Block I/O.
    pub blkio: Blkio,
    /// Network interfaces by name.
    pub networks: BTreeMap<String, LinkCounters>,
    /// It is in the unified hierarchy.
    pub unified: bool,
}

/// Processor time, in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cpu {
    /// All of it.
    pub total: u64,
    /// In the kernel.
    pub kernel: u64,
    /// In programs.
    pub user: u64,
    /// By processor (v1).
    pub per_cpu: Vec<u64>,
    /// Periods of the quota.
    pub periods: u64,
    /// Periods in which the quota ran out.
    pub throttled_periods: u64,
    /// Time in which it had to wait for more.
    pub throttled_time: u64,
}

/// Memory, in bytes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MemoryUsage {
    /// Now.
    pub usage: u64,
    /// At most so far (v1).
    pub max_usage: u64,
    /// How often the limit was hit (v1).
    pub failures: u64,
    /// The limit; the host's memory where there is none.
    pub limit: u64,
    /// The controller's own numbers.
    pub stats: BTreeMap<String, u64>,
}

/// Block I/O by device and operation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blkio {
    /// Bytes.
    pub bytes: Vec<BlkioEntry>,
    /// Operations.
    pub operations: Vec<BlkioEntry>,
}

/// One number of block I/O.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlkioEntry {
    /// The device.
    pub major: u64,
    /// The device.
    pub minor: u64,
    /// `Read`, `Write`, …, in v2 in lower case.
    pub operation: String,
    /// The number.
    pub value: u64,
}

impl Engine {
    /// What a container uses now.
    ///
    /// # Errors
    /// If there is no such container or it does not run.
    pub async fn usage(&self, text: &str) -> Result<Usage> {
        let view = self.container(text)?;
        let pid = match view.record.phase {
            Phase::Running { pid, .. } | Phase::Paused { pid, .. } => pid,
            _ => return Err(Denial::NotRunning { id: view.record.id }.into()),
        };
        let (cpus, memory) = (self.host().cpus, self.host().memory);
        let own_network = view.live.as_ref().is_some_and(|live| !live.endpoints.is_empty());
        Ok(blocking(move || {
            let mut usage = read(pid, memory);
            usage.online_cpus = cpus;
            if own_network {
                usage.networks = networks(pid);
            }
            usage
        })
        .await)
    }
}

/// Reads everything; what can't be read (it has just ended) stays zero.
fn read(pid: u32, host_memory: u64) -> Usage {
    let mut usage = Usage { at: Some(Timestamp::now()), host_cpu: host_cpu(), ..Usage::default() };
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let (v1, v2) = directories(&text, Path::new(MOUNT));
    match v2 {
        Some(directory) => {
            usage.unified = true;
            read_v2(&directory, &mut usage);
        }
        None => read_v1(&v1, &mut usage),
    }
    if usage.memory.limit == 0 || usage.memory.limit > host_memory {
        usage.memory.limit = host_memory;
    }
    usage
}

/// The directories of the cgroups in `/proc/<pid>/cgroup`: by v1 controller, and the unified one if it has controllers.
fn directories(text: &str, mount: &Path) -> (BTreeMap<String, PathBuf>, Option<PathBuf>) {
    let (mut v1, mut v2) = (BTreeMap::new(), None);
    for line in text.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let path = path.trim_start_matches('/');
        if path.split('/').any(|part| part == "..") {
            continue;
        }
        if controllers.is_empty() {
            if mount.join("cgroup.controllers").exists() {
                v2 = Some(mount.join(path));
            }
            continue;
        }
        for controller in controllers.split(',') {
            v1.insert(controller.to_owned(), mount.join(controller).join(path));
        }
    }
    (v1, v2)
}

fn number(directory: &Path, file: &str) -> u64 {
    let text = std::fs::read_to_string(directory.join(file)).unwrap_or_default();
    // `max` is no limit.
    text.trim().parse().unwrap_or(0)
}

/// A file of lines `name number`.
fn table(directory: &Path, file: &str) -> BTreeMap<String, u64> {
    let text = std::fs::read_to_string(directory.join(file)).unwrap_or_default();
    let row = |line: &str| {
        let (name, value) = line.split_once(' ')?;
        Some((name.to_owned(), value.trim().parse().ok()?))
    };
    text.lines().filter_map(row).collect()
}

fn read_v1(directories: &BTreeMap<String, PathBuf>, usage: &mut Usage) {
    let of = |name: &str| directories.get(name);
    if let Some(d) = of("cpuacct") {
        let per_cpu = std::fs::read_to_string(d.join("cpuacct.usage_percpu")).unwrap_or_default();
        usage.cpu.total = number(d, "cpuacct.usage");
        usage.cpu.kernel = number(d, "cpuacct.usage_sys");
        usage.cpu.user = number(d, "cpuacct.usage_user");
        usage.cpu.per_cpu = per_cpu.split_whitespace().filter_map(|n| n.parse().ok()).collect();
    }
    if let Some(d) = of("cpu") {
        let stat = table(d, "cpu.stat");
        let get = |name: &str| stat.get(name).copied().unwrap_or(0);
        usage.cpu.periods = get("nr_periods");
        usage.cpu.throttled_periods = get("nr_throttled");
        usage.cpu.throttled_time = get("throttled_time");
    }
    if let Some(d) = of("memory") {
        usage.memory = MemoryUsage {
            usage: number(d, "memory.usage_in_bytes"),
            max_usage: number(d, "memory.max_usage_in_bytes"),
            failures: number(d, "memory.failcnt"),
            limit: number(d, "memory.limit_in_bytes"),
            stats: table(d, "memory.stat"),
        };
    }
    if let Some(d) = of("pids") {
        usage.pids = (number(d, "pids.current"), number(d, "pids.max"));
    }
    if let Some(d) = of("blkio") {
        usage.blkio = Blkio {
            bytes: blkio_v1(d, "blkio.throttle.io_service_bytes_recursive"),
            operations: blkio_v1(d, "blkio.throttle.io_serviced_recursive"),
        };
    }
}

/// Lines `8:0 Read 4096`; the sum at the end has no device.
fn blkio_v1(directory: &Path, file: &str) -> Vec<BlkioEntry> {
    let text = std::fs::read_to_string(directory.join(file)).unwrap_or_default();
    let row = |line: &str| {
        let mut words = line.split(' ');
        let (major, minor) = words.next()?.split_once(':')?;
        Some(BlkioEntry {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            operation: words.next()?.to_owned(),
            value: words.next()?.parse().ok()?,
        })
    };
    text.lines().filter_map(row).collect()
}

fn read_v2(d: &Path, usage: &mut Usage) {
    let stat = table(d, "cpu.stat");
    let get = |name: &str| stat.get(name).copied().unwrap_or(0);
    usage.cpu = Cpu {
        total: get("usage_usec") * 1000,
        kernel: get("system_usec") * 1000,
        user: get("user_usec") * 1000,
        per_cpu: Vec::new(),
        periods: get("nr_periods"),
        throttled_periods: get("nr_throttled"),
        throttled_time: get("throttled_usec") * 1000,
    };
    usage.memory = MemoryUsage {
        usage: number(d, "memory.current"),
        max_usage: 0,
        failures: 0,
        limit: number(d, "memory.max"),
        stats: table(d, "memory.stat"),
    };
    usage.pids = (number(d, "pids.current"), number(d, "pids.max"));
    let text = std::fs::read_to_string(d.join("io.stat")).unwrap_or_default();
    usage.blkio = blkio_v2(&text);
}

/// Lines `8:0 rbytes=1 wbytes=2 rios=3 wios=4 …`.
fn blkio_v2(text: &str) -> Blkio {
    let mut blkio = Blkio::default();
    for line in text.lines() {
        let mut words = line.split(' ');
        let Some((major, minor)) = words.next().and_then(|device| device.split_once(':')) else { continue };
        let (Ok(major), Ok(minor)) = (major.parse(), minor.parse()) else { continue };
        for (name, value) in words.filter_map(|word| word.split_once('=')) {
            let (list, operation) = match name {
                "rbytes" => (&mut blkio.bytes, "read"),
                "wbytes" => (&mut blkio.bytes, "write"),
                "rios" => (&mut blkio.operations, "read"),
                "wios" => (&mut blkio.operations, "write"),
                _ => continue,
            };
            let value = value.parse().unwrap_or(0);
            list.push(BlkioEntry { major, minor, operation: operation.to_owned(), value });
        }
    }
    blkio
}

/// Processor time of the whole host: the first line of /proc/stat without the guests' part, which is in the others.
fn host_cpu() -> u64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks = rustix::param::clock_ticks_per_second().max(1);
    let Some(line) = text.lines().next() else { return 0 };
    let sum: u64 = line.split_whitespace().skip(1).take(7).filter_map(|n| n.parse::<u64>().ok()).sum();
    sum.saturating_mul(1_000_000_000 / ticks)
}

/// The interfaces of a process's network namespace but the loopback one.
fn networks(pid: u32) -> BTreeMap<String, LinkCounters> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default();
    interfaces(&text)
}

fn interfaces(text: &str) -> BTreeMap<String, LinkCounters> {
    let row = |line: &str| {
        let (name, numbers) = line.split_once(':')?;
        let numbers: Vec<u64> = numbers.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        let get = |i: usize| numbers.get(i).copied();
        let counters = LinkCounters {
            rx_bytes: get(0)?,
            rx_packets: get(1)?,
            rx_errors: get(2)?,
            rx_dropped: get(3)?,
            tx_bytes: get(8)?,
            tx_packets: get(9)?,
            tx_errors: get(10)?,
            tx_dropped: get(11)?,
        };
        Some((name.trim().to_owned(), counters))
    };
    text.lines().filter_map(row).filter(|(name, _)| name != "lo").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_io_of_both_kinds_of_cgroups() {
        let two = blkio_v2("8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n");
        let told = |list: &[BlkioEntry]| {
            let row = |e: &BlkioEntry| format!("{}:{} {} {}", e.major, e.minor, e.operation, e.value);
            list.iter().map(row).collect::<Vec<_>>().join(", ")
        };
        assert_eq!(told(&two.bytes), "8:0 read 10, 8:0 write 20");
        assert_eq!(told(&two.operations), "8:0 read 1, 8:0 write 2");
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("x"), "254:0 Read 4096\n254:0 Total 4096\nTotal 4096\n")
            .unwrap();
        assert_eq!(told(&blkio_v1(directory.path(), "x")), "254:0 Read 4096, 254:0 Total 4096");
    }

    #[test]
    fn interfaces_are_counted_as_the_container_sees_them() {
        let text = "Inter-| Receive | Transmit\n face |bytes packets\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  \
            eth0: 100 2 3 4 0 0 0 0 200 5 6 7 0 0 0 0\n";
        let found = interfaces(text);
        assert_eq!(found.len(), 1);
        let eth0 = found["eth0"];
        assert_eq!((eth0.rx_bytes, eth0.rx_dropped, eth0.tx_bytes, eth0.tx_dropped), (100, 4, 200, 7));
    }

    #[test]
    fn a_process_has_its_cgroups() {
        let (v1, _) =
            directories("4:cpu,cpuacct:/a/b\n1:name=systemd:/a\n0::/x\n5:memory:/../x\n", Path::new("/m"));
        assert_eq!(v1["cpuacct"], Path::new("/m/cpuacct/a/b"));
        assert!(!v1.contains_key("memory"));
        assert!(host_cpu() > 0);
    }
}
