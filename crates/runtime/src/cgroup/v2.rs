//! Groups of cgroup v2: one directory with the files of all controllers.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use sampan_oci::runtime::{BlockIo, Cpu, Memory, Resources};

use super::{write, write_if_there};
use crate::error::Step;

/// Makes a group's directory and its parents, and with `limits` turns on every controller on the way down. Returns
/// whether it existed.
pub(super) fn create(path: &Path, mount: &Path, limits: bool) -> Result<bool, Step> {
    if let (true, Some(parent)) = (path != mount && path.starts_with(mount), path.parent()) {
        create_below(parent, mount, limits)?;
    }
    make(path)
}

fn create_below(path: &Path, mount: &Path, limits: bool) -> Result<(), Step> {
    if let (true, Some(parent)) = (path != mount, path.parent()) {
        create_below(parent, mount, limits)?;
        make(path)?;
    }
    if limits {
        let controllers = fs::read_to_string(path.join("cgroup.controllers")).unwrap_or_default();
        let enabled = fs::read_to_string(path.join("cgroup.subtree_control")).unwrap_or_default();
        for controller in controllers.split_whitespace() {
            if !enabled.split_whitespace().any(|e| e == controller) {
                // A controller that can't be turned on is missed when a limit needs it, by the name of its file.
                let _ = write(path, "cgroup.subtree_control", &format!("+{controller}"));
            }
        }
    }
    Ok(())
}

fn make(path: &Path) -> Result<bool, Step> {
    match fs::DirBuilder::new().mode(0o755).create(path) {
        Ok(()) => Ok(false),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(true),
        Err(e) => Err(Step::on(|| format!("make the cgroup `{}`", path.display()))(e)),
    }
}

/// Writes the limits.
pub(super) fn apply(path: &Path, resources: &Resources, warnings: &mut Vec<String>) -> Result<(), Step> {
    resources.memory.as_ref().map_or(Ok(()), |m| memory(path, m))?;
    resources.cpu.as_ref().map_or(Ok(()), |c| cpu(path, c, warnings))?;
    resources.block_io.as_ref().map_or(Ok(()), |b| block_io(path, b, warnings))?;
    if let Some(limit) = resources.pids.as_ref().and_then(|p| p.limit).filter(|l| *l != 0) {
        write(path, "pids.max", &amount(limit))?;
    }
    for page in &resources.hugepage_limits {
        write(path, &format!("hugetlb.{}.max", page.page_size), &page.limit.to_string())?;
        let reserved = format!("hugetlb.{}.rsvd.max", page.page_size);
        write_if_there(path, &reserved, &page.limit.to_string(), &mut Vec::new())?;
    }
    rdma(path, resources)?;
    for (file, value) in &resources.unified {
        if file.contains('/') || file.is_empty() {
            return Err(Step::refused(
                "apply linux.resources.unified",
                format!("`{file}` is no file's name"),
            ));
        }
        // Each line is a setting of its own to the kernel.
        for line in value.lines().filter(|l| !l.is_empty()) {
            write(path, file, line)?;
        }
    }
    Ok(())
}

/// RDMA limits have the same file in both versions.
pub(super) fn rdma(path: &Path, resources: &Resources) -> Result<(), Step> {
    for (device, limits) in &resources.rdma {
        let value = |limit: Option<u32>| limit.map_or("max".to_owned(), |l| l.to_string());
        let (handles, objects) = (value(limits.hca_handles), value(limits.hca_objects));
        write(path, "rdma.max", &format!("{device} hca_handle={handles} hca_object={objects}"))?;
    }
    Ok(())
}

fn amount(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

fn memory(path: &Path, memory: &Memory) -> Result<(), Step> {
    let given = |value: Option<i64>| value.filter(|v| *v != 0);
    let limit = given(memory.limit);
    if let (Some(true), Some(limit)) = (memory.check_before_update, limit.filter(|l| *l > 0)) {
        let used = fs::read_to_string(path.join("memory.current")).unwrap_or_default();
        if used.trim().parse::<i64>().is_ok_and(|used| used >= limit) {
            let doing = format!("set the memory limit to {limit}");
            return Err(Step::refused(doing, format!("{} bytes are in use", used.trim())));
        }
    }
    if let Some(swap) = swap_alone(limit, given(memory.swap))? {
        // Without swap in the kernel there is no such file, and nothing to limit.
        write_if_there(path, "memory.swap.max", &swap, &mut Vec::new())?;
    }
    limit.map_or(Ok(()), |limit| write(path, "memory.max", &amount(limit)))?;
    given(memory.reservation).map_or(Ok(()), |r| write(path, "memory.low", &amount(r)))
}

/// config.json counts memory and swap together, v2 counts swap alone.
pub(super) fn swap_alone(limit: Option<i64>, both: Option<i64>) -> Result<Option<String>, Step> {
    match (limit, both) {
        (_, Some(..=-1)) | (Some(..=-1), None) => Ok(Some("max".to_owned())),
        (_, None) => Ok(None),
        (Some(limit @ 1..), Some(both)) if both >= limit => Ok(Some((both - limit).to_string())),
        (limit, Some(both)) => {
            let why = format!("it needs a memory limit of at most that, not {}", limit.unwrap_or(0));
            Err(Step::refused(format!("limit memory and swap to {both}"), why))
        }
    }
}

fn cpu(path: &Path, cpu: &Cpu, warnings: &mut Vec<String>) -> Result<(), Step> {
    if let Some(shares) = cpu.shares.filter(|s| *s != 0) {
        write(path, "cpu.weight", &weight_of_shares(shares).to_string())?;
    }
    if cpu.quota.is_some() || cpu.period.is_some() {
        let quota = match cpu.quota {
            Some(quota) if quota != 0 => amount(quota),
            // A period alone leaves the quota as it is.
            _ => {
                let now = fs::read_to_string(path.join("cpu.max")).unwrap_or_default();
                now.split_whitespace().next().unwrap_or("max").to_owned()
            }
        };
        let period = cpu.period.filter(|p| *p != 0).map(|p| format!(" {p}")).unwrap_or_default();
        write(path, "cpu.max", &format!("{quota}{period}"))?;
    }
    if let Some(burst) = cpu.burst {
        write_if_there(path, "cpu.max.burst", &burst.to_string(), warnings)?;
    }
    if let Some(idle) = cpu.idle {
        write_if_there(path, "cpu.idle", &idle.to_string(), warnings)?;
    }
    for (file, value) in [("cpuset.cpus", &cpu.cpus), ("cpuset.mems", &cpu.mems)] {
        if let Some(value) = value.as_deref().filter(|v| !v.is_empty()) {
            write(path, file, value)?;
        }
    }
    Ok(())
}

/// The weight (1 to 10000) that stands to the default weight 100 as `shares` (2 to 262144) stand to their default
/// 1024: a curve through the ends and the defaults, on which the runtimes have agreed.
pub(super) fn weight_of_shares(shares: u64) -> u64 {
    if shares <= 2 {
        return 1;
    }
    if shares >= 262_144 {
        return 10_000;
    }
    let l = (shares as f64).log2();
    let weight = 10f64.powf((l * l + 125.0 * l) / 612.0 - 7.0 / 34.0).ceil();
    weight.clamp(1.0, 10_000.0) as u64
}

fn block_io(path: &Path, io: &BlockIo, warnings: &mut Vec<String>) -> Result<(), Step> {
    let bfq = path.join("io.bfq.weight").exists();
    if let Some(weight) = io.weight.filter(|w| *w != 0) {
        if bfq {
            write(path, "io.bfq.weight", &weight.to_string())?;
        } else {
            // From 10..1000 to 1..10000.
            let weight = 1 + (u64::from(weight).saturating_sub(10)) * 9999 / 990;
            write_if_there(path, "io.weight", &weight.to_string(), warnings)?;
        }
    }
    for device in &io.weight_device {
        if let Some(weight) = device.weight.filter(|w| *w != 0) {
            let line = format!("{}:{} {weight}", device.major, device.minor);
            write_if_there(path, "io.bfq.weight", &line, warnings)?;
        }
    }
    let throttles = [
        ("rbps", &io.throttle_read_bps_device),
        ("wbps", &io.throttle_write_bps_device),
        ("riops", &io.throttle_read_iops_device),
        ("wiops", &io.throttle_write_iops_device),
    ];
    for (key, devices) in throttles {
        for device in devices {
            write(path, "io.max", &format!("{}:{} {key}={}", device.major, device.minor, device.rate))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_become_weights_through_both_defaults() {
        let weights = [0, 2, 1024, 262_144, u64::MAX].map(weight_of_shares);
        assert_eq!(weights, [1, 1, 100, 10_000, 10_000]);
        assert!((2..262_144).step_by(97).all(|s| weight_of_shares(s) <= weight_of_shares(s + 97)));
    }

    /// Plain files stand for the kernel's: what is written to each is looked at.
    #[test]
    fn limits_are_written_in_the_kernels_words() {
        let group = tempfile::tempdir().unwrap();
        let files =
            ["memory.max", "memory.low", "memory.swap.max", "cpu.weight", "cpu.max", "pids.max", "io.weight"];
        for file in files.iter().chain(&["cpuset.cpus", "rdma.max", "hugetlb.2MB.max", "io.max"]) {
            fs::write(group.path().join(file), "").unwrap();
        }
        let resources: Resources = serde_json::from_str(
            r#"{"memory":{"limit":100,"swap":150,"reservation":50},"cpu":{"shares":1024,"quota":5,"period":9,"cpus":"0-1"},
                "pids":{"limit":-1},"blockIO":{"weight":1000,"throttleReadIOPSDevice":[{"major":8,"minor":0,"rate":7}]},
                "rdma":{"mlx":{"hcaHandles":3}},"hugepageLimits":[{"pageSize":"2MB","limit":4}]}"#,
        )
        .unwrap();
        let mut warnings = Vec::new();
        apply(group.path(), &resources, &mut warnings).unwrap();
        let read = |file: &str| fs::read_to_string(group.path().join(file)).unwrap();
        assert_eq!(files.map(read), ["100", "50", "50", "100", "5 9", "max", "10000"]);
        assert_eq!(["cpuset.cpus", "hugetlb.2MB.max"].map(read), ["0-1", "4"]);
        assert_eq!(["rdma.max", "io.max"].map(read), ["mlx hca_handle=3 hca_object=max", "8:0 riops=7"]);
        assert_eq!(warnings, Vec::<String>::new());
        let unified: Resources = serde_json::from_str(r#"{"unified":{"../memory.max":"1"}}"#).unwrap();
        assert!(apply(group.path(), &unified, &mut warnings).is_err());
    }

    #[test]
    fn swap_is_told_apart_from_memory() {
        let swap = |limit, both| swap_alone(limit, both).map_err(|e| e.source.to_string());
        assert_eq!(swap(Some(100), Some(150)), Ok(Some("50".into())));
        assert_eq!(swap(Some(100), Some(100)), Ok(Some("0".into())));
        assert_eq!(swap(Some(100), Some(-1)), Ok(Some("max".into())));
        assert_eq!(swap(Some(-1), None), Ok(Some("max".into())));
        assert_eq!(swap(Some(100), None), Ok(None));
        assert!(swap(Some(100), Some(50)).is_err());
        assert!(swap(None, Some(50)).is_err());
    }
}
