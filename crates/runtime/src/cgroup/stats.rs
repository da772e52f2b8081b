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
            "hugetlb": huge_pages(Some(path)),
            "intel_rdt": {},
            "network_interfaces": null,
        }),
        None => json!({
            "cpu": cpu_v1(of("cpu"), of("cpuacct")),
            "cpuset": cpuset_v1(of("cpuset")),
            "memory": memory_v1(of("memory")),
            "pids": pids(of("pids")),
            "blkio": block_io_v1(of("blkio")),
            "hugetlb": huge_pages(of("hugetlb")),
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
        "throttling": without_nothing(json!({
            "periods": value(&throttling, "nr_periods"),
            "throttledPeriods": value(&throttling, "nr_throttled"),
            "throttledTime": value(&throttling, "throttled_time"),
        })),
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
    let flag = |name: &str| text(directory, &format!("cpuset.{name}")).trim().parse::<i64>().unwrap_or(0);
    json!({
        "cpus": numbers(directory, "cpuset.cpus"),
        "cpu_exclusive": flag("cpu_exclusive"),
        "mems": numbers(directory, "cpuset.mems"),
        "mem_hardwall": flag("mem_hardwall"),
        "mem_exclusive": flag("mem_exclusive"),
        "memory_migrate": flag("memory_migrate"),
        "memory_spread_page": flag("memory_spread_page"),
        "memory_spread_slab": flag("memory_spread_slab"),
        "memory_pressure": flag("memory_pressure"),
        "sched_load_balance": flag("sched_load_balance"),
        "sched_relax_domain_level": flag("sched_relax_domain_level"),
    })
}

fn cpuset_v2(directory: &Path) -> Value {
    let here = Some(directory);
    json!({
        "cpus": numbers(here, "cpuset.cpus.effective"),
        "mems": numbers(here, "cpuset.mems.effective"),
    })
}

/// By size of page. The names of the kernel's files are all that there is to know the sizes by.
fn huge_pages(directory: Option<&Path>) -> Value {
    let entries = directory.and_then(|d| fs::read_dir(d).ok()).into_iter().flatten().flatten();
    let names: Vec<String> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    let mut map = Map::new();
    for name in &names {
        let size = name
            .strip_prefix("hugetlb.")
            .and_then(|rest| rest.strip_suffix(".usage_in_bytes").or_else(|| rest.strip_suffix(".current")));
        let Some(size) = size.filter(|size| !size.ends_with(".rsvd")) else { continue };
        let v1 = name.ends_with("usage_in_bytes");
        let failed = match v1 {
            true => number(directory, &format!("hugetlb.{size}.failcnt")),
            false => value(&table(directory, &format!("hugetlb.{size}.events")), "max"),
        };
        let mut one = json!({"usage": number(directory, name), "failcnt": failed});
        if v1 {
            one["max"] = number(directory, &format!("hugetlb.{size}.max_usage_in_bytes")).into();
        }
        one = without_nothing(one);
        one["failcnt"] = failed.into();
        map.insert(size.to_owned(), one);
    }
    Value::Object(map)
}

/// `io.stat` tells by device what v1 tells by operation.
fn block_io_v2(directory: &Path) -> Value {
    let (mut bytes, mut operations) = (Vec::new(), Vec::new());
    for line in text(Some(directory), "io.stat").lines() {
        let mut fields = line.split_whitespace();
        let number = fields.next().and_then(|device| device.split_once(':'));
        let number = number.and_then(|(a, b)| Some((a.parse::<u64>().ok()?, b.parse::<u64>().ok()?)));
        let Some((major, minor)) = number else { continue };
        for (key, count) in fields.filter_map(|field| field.split_once('=')) {
            let Ok(count) = count.parse::<u64>() else { continue };
            let (list, op) = match key {
                "rbytes" => (&mut bytes, "Read"),
                "wbytes" => (&mut bytes, "Write"),
                "rios" => (&mut operations, "Read"),
                "wios" => (&mut operations, "Write"),
                _ => continue,
            };
            list.push(json!({"major": major, "minor": minor, "op": op, "value": count}));
        }
    }
    let mut map = Map::new();
    for (key, list) in [("ioServiceBytesRecursive", bytes), ("ioServicedRecursive", operations)] {
        if !list.is_empty() {
            map.insert(key.to_owned(), list.into());
        }
    }
    Value::Object(map)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Plain files stand for the kernel's.
    #[test]
    fn files_of_both_versions_become_runcs_names() {
        let group = tempfile::tempdir().unwrap();
        for (file, text) in [
            ("io.stat", "8:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0\nx y\n"),
            ("cpuset.cpus.effective", "0-1\n"),
            ("cpuset.cpus", "0-1,3\n"),
            ("cpuset.sched_relax_domain_level", "-1\n"),
            ("cpuacct.usage_all", "cpu user system\n0 5 6\n1 7 8\n"),
            ("hugetlb.2MB.usage_in_bytes", "2097152\n"),
            ("hugetlb.2MB.max_usage_in_bytes", "4194304\n"),
            ("hugetlb.2MB.rsvd.usage_in_bytes", "0\n"),
        ] {
            fs::write(group.path().join(file), text).unwrap();
        }
        let path = group.path();
        let io = block_io_v2(path);
        assert_eq!(
            io["ioServiceBytesRecursive"][0],
            json!({"major": 8, "minor": 0, "op": "Read", "value": 4096})
        );
        assert_eq!(cpuset_v2(path), json!({"cpus": [0, 1], "mems": []}));
        let cpuset = cpuset_v1(Some(path));
        assert_eq!((&cpuset["cpus"], &cpuset["sched_relax_domain_level"]), (&json!([0, 1, 3]), &json!(-1)));
        let usage = &cpu_v1(None, Some(path))["usage"];
        assert_eq!((&usage["percpu_kernel"], &usage["percpu_user"]), (&json!([6, 8]), &json!([5, 7])));
        assert_eq!(
            huge_pages(Some(path)),
            json!({"2MB": {"usage": 2_097_152, "max": 4_194_304, "failcnt": 0}})
        );
        assert_eq!(cpuset_v1(None), json!({}));
    }
}
