//! What the shim reads from a container's cgroups: processes, what they use, and whether memory ran out.
//!
//! The paths are taken from `/proc/<init>/cgroup` while the process lives, and remembered.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::event::{EventfdFlags, PollFlags, eventfd};
use sampan_rpc::{Any, cgroup1, cgroup2};

/// Where hierarchies are mounted on every distribution.
const MOUNT: &str = "/sys/fs/cgroup";

/// A container's cgroups.
#[derive(Clone, Default, Debug)]
pub struct Cgroups {
    /// v1 controller to directory.
    v1: BTreeMap<String, PathBuf>,
    /// Directory in the unified hierarchy, if that is the one with the controllers.
    v2: Option<PathBuf>,
}

impl Cgroups {
    /// Those that process `pid` is in now; empty if it is gone, or in none of its own.
    pub fn of(pid: u32) -> Cgroups {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        Cgroups::parse(&text, Path::new(MOUNT))
    }

    fn parse(text: &str, mount: &Path) -> Cgroups {
        let mut cgroups = Cgroups::default();
        for line in text.lines() {
            let mut fields = line.splitn(3, ':');
            let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            let path = path.trim_start_matches('/');
            // The root is everybody's; a path with `..` is outside of the shim's own cgroup namespace.
            if path.is_empty() || path.split('/').any(|p| p == "..") {
                continue;
            }
            if controllers.is_empty() {
                if mount.join("cgroup.controllers").exists() {
                    cgroups.v2 = Some(mount.join(path));
                }
                continue;
            }
            for controller in controllers.split(',').filter(|c| !c.starts_with("name=")) {
                cgroups.v1.insert(controller.to_owned(), mount.join(controller).join(path));
            }
        }
        cgroups
    }

    /// All processes in the container's cgroup and below it; empty if it has none of its own.
    pub fn pids(&self) -> Vec<u32> {
        let directory = self
            .v2
            .as_ref()
            .or_else(|| ["devices", "freezer", "pids", "memory", "cpu"].iter().find_map(|c| self.v1.get(*c)));
        let mut pids = Vec::new();
        if let Some(directory) = directory {
            collect_pids(directory, &mut pids, 0);
        }
        pids
    }

    /// What the container uses, packed for a Stats answer.
    pub fn stats(&self) -> Any {
        match &self.v2 {
            Some(directory) => sampan_rpc::pack(&stats_v2(directory)),
            None => sampan_rpc::pack(&self.stats_v1()),
        }
    }

    /// Starts watching for the kernel killing a process for want of memory.
    ///
    /// # Errors
    /// If there is no memory controller, or it can't be watched.
    pub fn watch_oom(&self) -> io::Result<OomWatch> {
        if let Some(directory) = &self.v2 {
            let events = File::open(directory.join("memory.events"))?;
            let mut watch = OomWatch { way: OomWay::V2 { events, seen: 0 } };
            watch.happened(); // takes the count so far, and arms poll
            return Ok(watch);
        }
        let directory = self
            .v1
            .get("memory")
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no memory controller"))?;
        use std::os::fd::AsRawFd;
        let control = File::open(directory.join("memory.oom_control"))?;
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let line = format!("{} {}", fd.as_raw_fd(), control.as_raw_fd());
        fs::write(directory.join("cgroup.event_control"), line)?;
        Ok(OomWatch { way: OomWay::V1 { fd, control: directory.join("memory.oom_control") } })
    }

    fn stats_v1(&self) -> cgroup1::Metrics {
        let mut metrics = cgroup1::Metrics::default();
        if let Some(d) = self.v1.get("pids") {
            metrics.pids =
                Some(cgroup1::PidsStat { current: number(d, "pids.current"), limit: number(d, "pids.max") });
        }
        if let Some(d) = self.v1.get("cpuacct") {
            let per_cpu = words(d, "cpuacct.usage_percpu");
            let usage = cgroup1::CpuUsage {
                total: number(d, "cpuacct.usage"),
                kernel: number(d, "cpuacct.usage_sys"),
                user: number(d, "cpuacct.usage_user"),
                per_cpu,
            };
            let throttling = self.v1.get("cpu").map(|d| {
                let stat = table(d, "cpu.stat");
                cgroup1::Throttle {
                    periods: get(&stat, "nr_periods"),
                    throttled_periods: get(&stat, "nr_throttled"),
                    throttled_time: get(&stat, "throttled_time"),
                }
            });
            metrics.cpu = Some(cgroup1::CpuStat { usage: Some(usage), throttling });
        }
        if let Some(d) = self.v1.get("memory") {
            metrics.memory = Some(memory_v1(d));
        }
        if let Some(d) = self.v1.get("blkio") {
            metrics.blkio = Some(cgroup1::BlkIoStat {
                io_service_bytes_recursive: blkio(d, "blkio.throttle.io_service_bytes_recursive"),
                io_serviced_recursive: blkio(d, "blkio.throttle.io_serviced_recursive"),
            });
        }
        metrics
    }
}

fn memory_v1(d: &Path) -> cgroup1::MemoryStat {
    let s = table(d, "memory.stat");
    let entry = |prefix: &str| {
        let file = |name: &str| number(d, &format!("memory.{prefix}{name}"));
        Some(cgroup1::MemoryEntry {
            limit: file("limit_in_bytes"),
            usage: file("usage_in_bytes"),
            max: file("max_usage_in_bytes"),
            failcnt: file("failcnt"),
        })
    };
    cgroup1::MemoryStat {
        cache: get(&s, "cache"),
        rss: get(&s, "rss"),
        rss_huge: get(&s, "rss_huge"),
        mapped_file: get(&s, "mapped_file"),
        dirty: get(&s, "dirty"),
        writeback: get(&s, "writeback"),
        pg_pg_in: get(&s, "pgpgin"),
        pg_pg_out: get(&s, "pgpgout"),
        pg_fault: get(&s, "pgfault"),
        pg_maj_fault: get(&s, "pgmajfault"),
        inactive_anon: get(&s, "inactive_anon"),
        active_anon: get(&s, "active_anon"),
        inactive_file: get(&s, "inactive_file"),
        active_file: get(&s, "active_file"),
        unevictable: get(&s, "unevictable"),
        hierarchical_memory_limit: get(&s, "hierarchical_memory_limit"),
        hierarchical_swap_limit: get(&s, "hierarchical_memsw_limit"),
        total_cache: get(&s, "total_cache"),
        total_rss: get(&s, "total_rss"),
        total_rss_huge: get(&s, "total_rss_huge"),
        total_mapped_file: get(&s, "total_mapped_file"),
        total_dirty: get(&s, "total_dirty"),
        total_writeback: get(&s, "total_writeback"),
        total_pg_pg_in: get(&s, "total_pgpgin"),
        total_pg_pg_out: get(&s, "total_pgpgout"),
        total_pg_fault: get(&s, "total_pgfault"),
        total_pg_maj_fault: get(&s, "total_pgmajfault"),
        total_inactive_anon: get(&s, "total_inactive_anon"),
        total_active_anon: get(&s, "total_active_anon"),
        total_inactive_file: get(&s, "total_inactive_file"),
        total_active_file: get(&s, "total_active_file"),
        total_unevictable: get(&s, "total_unevictable"),
        usage: entry(""),
        swap: entry("memsw."),
        kernel: entry("kmem."),
        kernel_tcp: entry("kmem.tcp."),
    }
}

fn stats_v2(d: &Path) -> cgroup2::Metrics {
    let (c, m, e) = (table(d, "cpu.stat"), table(d, "memory.stat"), table(d, "memory.events"));
    cgroup2::Metrics {
        pids: Some(cgroup2::PidsStat { current: number(d, "pids.current"), limit: number(d, "pids.max") }),
        cpu: Some(cgroup2::CpuStat {
            usage_usec: get(&c, "usage_usec"),
            user_usec: get(&c, "user_usec"),
            system_usec: get(&c, "system_usec"),
            nr_periods: get(&c, "nr_periods"),
            nr_throttled: get(&c, "nr_throttled"),
            throttled_usec: get(&c, "throttled_usec"),
        }),
        memory: Some(cgroup2::MemoryStat {
            anon: get(&m, "anon"),
            file: get(&m, "file"),
            kernel_stack: get(&m, "kernel_stack"),
            slab: get(&m, "slab"),
            sock: get(&m, "sock"),
            shmem: get(&m, "shmem"),
            file_mapped: get(&m, "file_mapped"),
            file_dirty: get(&m, "file_dirty"),
            file_writeback: get(&m, "file_writeback"),
            anon_thp: get(&m, "anon_thp"),
            inactive_anon: get(&m, "inactive_anon"),
            active_anon: get(&m, "active_anon"),
            inactive_file: get(&m, "inactive_file"),
            active_file: get(&m, "active_file"),
            unevictable: get(&m, "unevictable"),
            slab_reclaimable: get(&m, "slab_reclaimable"),
            slab_unreclaimable: get(&m, "slab_unreclaimable"),
            pgfault: get(&m, "pgfault"),
            pgmajfault: get(&m, "pgmajfault"),
            workingset_refault: get(&m, "workingset_refault_file"),
            workingset_activate: get(&m, "workingset_activate_file"),
            workingset_nodereclaim: get(&m, "workingset_nodereclaim"),
            pgrefill: get(&m, "pgrefill"),
            pgscan: get(&m, "pgscan"),
            pgsteal: get(&m, "pgsteal"),
            pgactivate: get(&m, "pgactivate"),
            pgdeactivate: get(&m, "pgdeactivate"),
            pglazyfree: get(&m, "pglazyfree"),
            pglazyfreed: get(&m, "pglazyfreed"),
            thp_fault_alloc: get(&m, "thp_fault_alloc"),
            thp_collapse_alloc: get(&m, "thp_collapse_alloc"),
            usage: number(d, "memory.current"),
            usage_limit: number(d, "memory.max"),
            swap_usage: number(d, "memory.swap.current"),
            swap_limit: number(d, "memory.swap.max"),
        }),
        io: Some(cgroup2::IoStat { usage: io_v2(d) }),
        memory_events: Some(cgroup2::MemoryEvents {
            low: get(&e, "low"),
            high: get(&e, "high"),
            max: get(&e, "max"),
            oom: get(&e, "oom"),
            oom_kill: get(&e, "oom_kill"),
        }),
    }
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=…`
fn io_v2(d: &Path) -> Vec<cgroup2::IoEntry> {
    let mut entries = Vec::new();
    for line in read_small(&d.join("io.stat")).lines() {
        let mut words = line.split_ascii_whitespace();
        let Some((major, minor)) = words.next().and_then(|w| w.split_once(':')) else { continue };
        let mut entry = cgroup2::IoEntry {
            major: major.parse().unwrap_or(0),
            minor: minor.parse().unwrap_or(0),
            ..Default::default()
        };
        for (key, value) in words.filter_map(|w| w.split_once('=')) {
            let value = value.parse().unwrap_or(0);
            match key {
                "rbytes" => entry.rbytes = value,
                "wbytes" => entry.wbytes = value,
                "rios" => entry.rios = value,
                "wios" => entry.wios = value,
                _ => {}
            }
        }
        entries.push(entry);
    }
    entries
}

/// `8:0 Read 4096`
fn blkio(d: &Path, file: &str) -> Vec<cgroup1::BlkIoEntry> {
    let mut entries = Vec::new();
    for line in read_small(&d.join(file)).lines() {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [device, op, value] = words[..] else { continue };
        let Some((major, minor)) = device.split_once(':') else { continue };
        entries.push(cgroup1::BlkIoEntry {
            op: op.to_owned(),
            device: String::new(),
            major: major.parse().unwrap_or(0),
            minor: minor.parse().unwrap_or(0),
            value: value.parse().unwrap_or(0),
        });
    }
    entries
}

fn collect_pids(directory: &Path, pids: &mut Vec<u32>, depth: usize) {
    pids.extend(words(directory, "cgroup.procs").into_iter().filter_map(|n| u32::try_from(n).ok()));
    if depth > 32 {
        return; // a container may nest cgroups; it may not make the shim run out of stack
    }
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            collect_pids(&entry.path(), pids, depth + 1);
        }
    }
}

/// A file of one number; `max` and what is not there is the largest or 0.
fn number(directory: &Path, file: &str) -> u64 {
    match read_small(&directory.join(file)).trim() {
        "max" => u64::MAX,
        text => text.parse().unwrap_or(0),
    }
}

fn words(directory: &Path, file: &str) -> Vec<u64> {
    read_small(&directory.join(file)).split_ascii_whitespace().filter_map(|w| w.parse().ok()).collect()
}

/// A file of `name number` lines.
fn table(directory: &Path, file: &str) -> BTreeMap<String, u64> {
    read_small(&directory.join(file))
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(name, value)| Some((name.to_owned(), value.trim().parse().ok()?)))
        .collect()
}

fn get(table: &BTreeMap<String, u64>, name: &str) -> u64 {
    table.get(name).copied().unwrap_or(0)
}

fn read_small(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// Tells when the kernel has killed something in a container for want of memory.
#[derive(Debug)]
pub struct OomWatch {
    way: OomWay,
}

#[derive(Debug)]
enum OomWay {
    V1 { fd: OwnedFd, control: PathBuf },
    V2 { events: File, seen: u64 },
}

impl OomWatch {
    /// What to wait for.
    pub fn interest(&self) -> (BorrowedFd<'_>, PollFlags) {
        match &self.way {
            OomWay::V1 { fd, .. } => (fd.as_fd(), PollFlags::IN),
            OomWay::V2 { events, .. } => (events.as_fd(), PollFlags::PRI),
        }
    }

    /// Whether it has happened since the last time. `None` if the cgroup is gone and there is nothing to watch.
    pub fn happened(&mut self) -> Option<bool> {
        match &mut self.way {
            OomWay::V1 { fd, control } => {
                let mut count = [0u8; 8];
                let some = rustix::io::read(&*fd, &mut count).is_ok();
                // The kernel tells of the cgroup's removal by the same descriptor.
                control.exists().then_some(some)
            }
            OomWay::V2 { events, seen } => {
                let mut text = String::new();
                events.rewind().and_then(|()| events.read_to_string(&mut text)).ok()?;
                let count = text
                    .lines()
                    .find_map(|l| l.strip_prefix("oom_kill "))
                    .and_then(|n| n.trim().parse().ok())
                    .unwrap_or(0);
                let more = count > *seen;
                *seen = count;
                Some(more)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_cgroups_of_a_container_and_not_everybodys() {
        let dir = tempfile::tempdir().unwrap();
        let text =
            "4:memory:/docker/x\n3:cpu,cpuacct:/docker/x\n2:pids:/\n1:name=systemd:/docker/x\n0::/docker/x\n";
        let cgroups = Cgroups::parse(text, dir.path());
        assert_eq!(cgroups.v1.keys().collect::<Vec<_>>(), ["cpu", "cpuacct", "memory"]);
        assert_eq!(cgroups.v2, None);
        fs::write(dir.path().join("cgroup.controllers"), "").unwrap();
        assert_eq!(Cgroups::parse(text, dir.path()).v2, Some(dir.path().join("docker/x")));
        assert_eq!(Cgroups::parse("0::/../../x\n", dir.path()).v2, None);
    }

    #[test]
    fn reads_v2_files() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        put("memory.current", "4096\n");
        put("memory.max", "max\n");
        put("memory.stat", "anon 7\nfile 8\n");
        put("io.stat", "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n");
        let stats = stats_v2(dir.path());
        let memory = stats.memory.unwrap();
        assert_eq!((memory.usage, memory.usage_limit, memory.anon), (4096, u64::MAX, 7));
        assert_eq!(stats.io.unwrap().usage[0].wios, 4);
    }
}
