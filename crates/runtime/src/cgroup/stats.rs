//! What a container uses, in the shape of `events --stats`: names and nesting are those that runc's callers read.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use sampan_kernel::cgroup::Version;
use serde_json::{Map, Value, json};

use super::Group;

/// The `data` of a `stats` event. What the host does not count is left out.
pub fn read(groups: &[Group]) -> Value {
    let of = |controller: &str| groups.iter().find(|g| g.has(controller)).map(|g| g.path.as_path());
    let unified = groups.iter().find(|g| g.version() == Version::V2 && g.limits).map(|g| g.path.as_path());
    match unified {
        Some(path) => json!({
            "cpu": cpu_v2(path),
            "cpuset": cpuset_v2(path),
            "memory": memory_v2(path),
            "pids": pids(Some(path)),
            "blkio": block_io_v2(path),
            "hugetlb": huge_pages(path, "current", |size| {
                value(&table(Some(path), &format!("hugetlb.{size}.events")), "max")
            }),
            "intel_rdt": {},
            "network_interfaces": null,
        }),
        None => json!({
            "cpu": cpu_v1(of("cpu"), of("cpuacct")),
            "cpuset": cpuset_v1(of("cpuset")),
            "memory": memory_v1(of("memory")),
            "pids": pids(of("pids")),
            "blkio": block_io_v1(of("blkio")),
            "hugetlb": of("hugetlb").map_or(json!({}), |path| {
                huge_pages(path, "usage_in_bytes", |size| number(Some(path), &format!("hugetlb.{size}.failcnt")))
            }),
            "intel_rdt": {},
            "network_interfaces": null,
        }),
    }
}

fn text(directory: Option<&Path>, file: &str) -> String {
    directory.and_then(|d| fs::read_to_string(d.join(file)).ok()).unwrap_or_default()
}

fn number(directory: Option<&Path>, file: &str) -> u64 {
    let text = text(directory, file);
    // "max" and whatever else is no number are no limit.
    if text.trim() == "max" { u64::MAX } else { text.trim().parse().unwrap_or(0) }
}

/// A file of lines `key value`.
fn table(directory: Option<&Path>, file: &str) -> BTreeMap<String, u64> {
    let text = text(directory, file);
    let pair = |line: &str| {
        let (key, value) = line.split_once(' ')?;
        Some((key.to_owned(), value.trim().parse().ok()?))
    };
    text.lines().filter_map(pair).collect()
}

fn value(table: &BTreeMap<String, u64>, key: &str) -> u64 {
    table.get(key).copied().unwrap_or(0)
}

fn pids(directory: Option<&Path>) -> Value {
    let limit = number(directory, "pids.max");
    let mut pids = json!({"current": number(directory, "pids.current")});
    if !matches!(limit, 0 | u64::MAX) {
        pids["limit"] = limit.into();
    }
    pids
}

fn cpu_v1(cpu: Option<&Path>, account: Option<&Path>) -> Value {
    // The kernel counts in USER_HZ, which is 100 for user space everywhere.
    const TICK: u64 = 10_000_000;
    let throttling = table(cpu, "cpu.stat");
    let split = table(account, "cpuacct.stat");
    let per_cpu = text(account, "cpuacct.usage_percpu");
    let per_cpu: Vec<u64> = per_cpu.split_whitespace().filter_map(|n| n.parse().ok()).collect();
    // A line for each processor: its number, nanoseconds for the user, nanoseconds for the kernel.
    let all = text(account, "cpuacct.usage_all");
    let column = |at: usize| -> Vec<u64> {
        all.lines().skip(1).filter_map(|line| line.split_whitespace().nth(at)?.parse().ok()).collect()
    };
    let mut usage = json!({
        "total": number(account, "cpuacct.usage"),
        "percpu": per_cpu,
        "kernel": value(&split, "system") * TICK,
        "user": value(&split, "user") * TICK,
    });
    for (key, column) in [("percpu_kernel", column(2)), ("percpu_user", column(1))] {
        if !column.is_empty() {
            usage[key] = column.into();
        }
    }
    json!({
        "usage": usage,
        "throttling": {
            "periods": value(&throttling, "nr_periods"),
            "throttledPeriods": value(&throttling, "nr_throttled"),
            "throttledTime": value(&throttling, "throttled_time"),
        },
    })
}

/// The numbers of a list like `0-3,8`.
fn numbers(directory: Option<&Path>, file: &str) -> Vec<u32> {
    crate::process::numbers::parse(file, &text(directory, file)).unwrap_or_default()
}

fn cpuset_v1(directory: Option<&Path>) -> Value {
    if directory.is_none() {
        return json!({});
    }
    let mut cpuset = json!({
        "cpus": numbers(directory, "cpuset.cpus"),
        "mems": numbers(directory, "cpuset.mems"),
    });
    for name in [
        "cpu_exclusive",
        "mem_hardwall",
        "mem_exclusive",
        "memory_migrate",
        "memory_spread_page",
        "memory_spread_slab",
        "memory_pressure",
        "sched_load_balance",
        "sched_relax_domain_level",
    ] {
        let value = text(directory, &format!("cpuset.{name}")).trim().parse::<i64>().unwrap_or(0);
        cpuset[name] = value.into();
    }
    cpuset
}

fn cpuset_v2(directory: &Path) -> Value {
    let here = Some(directory);
    json!({
        "cpus": numbers(here, "cpuset.cpus.effective"),
        "mems": numbers(here, "cpuset.mems.effective"),
    })
}

fn cpu_v2(directory: &Path) -> Value {
    let stat = table(Some(directory), "cpu.stat");
    json!({
        "usage": {
            "total": value(&stat, "usage_usec") * 1000,
            "kernel": value(&stat, "system_usec") * 1000,
            "user": value(&stat, "user_usec") * 1000,
        },
        "throttling": {
            "periods": value(&stat, "nr_periods"),
            "throttledPeriods": value(&stat, "nr_throttled"),
            "throttledTime": value(&stat, "throttled_usec") * 1000,
        },
    })
}

fn memory_v1(directory: Option<&Path>) -> Value {
    let stat = table(directory, "memory.stat");
    let entry = |name: &str| {
        json!({
            "limit": number(directory, &format!("memory.{name}limit_in_bytes")),
            "usage": number(directory, &format!("memory.{name}usage_in_bytes")),
            "max": number(directory, &format!("memory.{name}max_usage_in_bytes")),
            "failcnt": number(directory, &format!("memory.{name}failcnt")),
        })
    };
    without_nothing(json!({
        "cache": value(&stat, "cache"),
        "usage": entry(""),
        "swap": entry("memsw."),
        "kernel": entry("kmem."),
        "kernelTCP": entry("kmem.tcp."),
        "raw": stat,
    }))
}

/// runc leaves out what is 0 or empty.
fn without_nothing(mut memory: Value) -> Value {
    if let Some(map) = memory.as_object_mut() {
        map.retain(|_, value| *value != json!(0) && *value != json!({}));
    }
    memory
}

fn memory_v2(directory: &Path) -> Value {
    let here = Some(directory);
    let stat = table(here, "memory.stat");
    let events = table(here, "memory.events");
    let usage = number(here, "memory.current");
    let swap = number(here, "memory.swap.current");
    without_nothing(json!({
        "cache": value(&stat, "file"),
        "usage": {
            "limit": number(here, "memory.max"),
            "usage": usage,
            "max": number(here, "memory.peak"),
            "failcnt": value(&events, "max"),
        },
        "swap": {"limit": number(here, "memory.swap.max"), "usage": swap + usage, "failcnt": 0},
        "kernel": {"failcnt": 0},
        "kernelTCP": {"failcnt": 0},
        "raw": stat,
    }))
}

fn block_io_v1(directory: Option<&Path>) -> Value {
    let recursive = |file: &str| -> Vec<Value> {
        let text = text(directory, file);
        let entry = |line: &str| {
            let mut fields = line.split_whitespace();
            let (major, minor) = fields.next()?.split_once(':')?;
            let op = fields.next()?;
            let value: u64 = fields.next()?.parse().ok()?;
            let (major, minor): (u64, u64) = (major.parse().ok()?, minor.parse().ok()?);
            Some(json!({"major": major, "minor": minor, "op": op, "value": value}))
        };
        text.lines().filter_map(entry).collect()
    };
    let mut map = Map::new();
    for (key, file) in [
        ("ioServiceBytesRecursive", "blkio.throttle.io_service_bytes_recursive"),
        ("ioServicedRecursive", "blkio.throttle.io_serviced_recursive"),
    ] {
        let entries = recursive(file);
        if !entries.is_empty() {
            map.insert(key.to_owned(), entries.into());
        }
    }
    Value::Object(map)
}

/// Lines as `8:0 rbytes=1 wbytes=2 rios=3 wios=4`, told as v1's files have it.
fn block_io_v2(directory: &Path) -> Value {
    block_io_of(&text(Some(directory), "io.stat"))
}

fn block_io_of(text: &str) -> Value {
    let mut map = Map::new();
    for line in text.lines() {
        let mut fields = line.split_whitespace();
        let numbers = fields.next().and_then(|device| device.split_once(':'));
        let Some((major, minor)) = numbers.and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?))) else {
            continue;
        };
        let (major, minor): (u64, u64) = (major, minor);
        for (key, value) in fields.filter_map(|field| field.split_once('=')) {
            let (list, op) = match key {
                "rbytes" => ("ioServiceBytesRecursive", "Read"),
                "wbytes" => ("ioServiceBytesRecursive", "Write"),
                "rios" => ("ioServicedRecursive", "Read"),
                "wios" => ("ioServicedRecursive", "Write"),
                _ => continue,
            };
            let value: u64 = value.parse().unwrap_or(0);
            let entry = json!({"major": major, "minor": minor, "op": op, "value": value});
            if let Value::Array(entries) = map.entry(list).or_insert_with(|| json!([])) {
                entries.push(entry);
            }
        }
    }
    Value::Object(map)
}

/// For each size of huge pages: what is used of it, and how often there was no more of it.
fn huge_pages(directory: &Path, usage: &str, failures: impl Fn(&str) -> u64) -> Value {
    let mut map = Map::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let size = name.strip_prefix("hugetlb.").and_then(|rest| rest.strip_suffix(usage)?.strip_suffix('.'));
        let Some(size) = size.filter(|size| !size.ends_with(".rsvd")) else { continue };
        let mut of_size = json!({"failcnt": failures(size)});
        match number(Some(directory), &name) {
            0 => {}
            used => of_size["usage"] = used.into(),
        }
        map.insert(size.to_owned(), of_size);
    }
    Value::Object(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_io_of_v2_has_v1s_shape() {
        let text = "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n(unknown) rbytes=5\n";
        let entry = |op, value: u64| json!({"major": 8, "minor": 0, "op": op, "value": value});
        assert_eq!(
            block_io_of(text),
            json!({"ioServiceBytesRecursive": [entry("Read", 1), entry("Write", 2)],
                "ioServicedRecursive": [entry("Read", 3), entry("Write", 4)]})
        );
        assert_eq!(block_io_of(""), json!({}));
    }

    #[test]
    fn huge_pages_are_told_by_size() {
        let group = tempfile::tempdir().unwrap();
        for (file, text) in
            [("2MB.current", "4194304"), ("1GB.current", "0"), ("2MB.rsvd.current", "0"), ("2MB.max", "max")]
        {
            fs::write(group.path().join(format!("hugetlb.{file}")), text).unwrap();
        }
        let told = huge_pages(group.path(), "current", |size| u64::from(size == "2MB"));
        assert_eq!(told, json!({"2MB": {"failcnt": 1, "usage": 4_194_304}, "1GB": {"failcnt": 0}}));
    }

    #[test]
    fn processors_are_told_apart() {
        let group = tempfile::tempdir().unwrap();
        for (file, text) in [
            ("cpuset.cpus.effective", "0-1\n"),
            ("cpuset.cpus", "0-1,3\n"),
            ("cpuset.sched_relax_domain_level", "-1\n"),
            ("cpuacct.usage_all", "cpu user system\n0 5 6\n1 7 8\n"),
        ] {
            fs::write(group.path().join(file), text).unwrap();
        }
        let path = group.path();
        assert_eq!(cpuset_v2(path), json!({"cpus": [0, 1], "mems": []}));
        let cpuset = cpuset_v1(Some(path));
        assert_eq!((&cpuset["cpus"], &cpuset["sched_relax_domain_level"]), (&json!([0, 1, 3]), &json!(-1)));
        let usage = &cpu_v1(None, Some(path))["usage"];
        assert_eq!((&usage["percpu_kernel"], &usage["percpu_user"]), (&json!([6, 8]), &json!([5, 7])));
        assert_eq!(cpuset_v1(None), json!({}));
    }
}
