//! Groups of cgroup v1: one controller, or a few that go together, per hierarchy.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use sampan_oci::runtime::{BlockIo, Cpu, Memory, Resources, ThrottleDevice};

use super::{Group, read, write, write_if_there};
use crate::error::Step;

/// Makes a group's directory and its parents up to the hierarchy's root. Returns whether it existed.
pub(super) fn create(path: &Path, mount: &Path, is_cpuset: bool) -> Result<bool, Step> {
    let make = || fs::DirBuilder::new().mode(0o755).create(path);
    let made = match make() {
        Err(e) if e.kind() == io::ErrorKind::NotFound && path.starts_with(mount) && path != mount => {
            if let Some(parent) = path.parent() {
                create(parent, mount, is_cpuset)?;
            }
            make()
        }
        other => other,
    };
    let existed = match made {
        Ok(()) => false,
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => true,
        Err(e) => return Err(Step::on(|| format!("make the cgroup `{}`", path.display()))(e)),
    };
    if is_cpuset {
        fill_cpuset(path, mount, existed)?;
    }
    Ok(existed)
}

/// Gives a cpuset that has no CPUs or no memory those of the group above: an empty one takes no process. One that was
/// just made is empty.
fn fill_cpuset(path: &Path, mount: &Path, existed: bool) -> Result<(), Step> {
    let Some(parent) = path.parent().filter(|_| path != mount) else { return Ok(()) };
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if existed && !read(path, file)?.trim().is_empty() {
            continue;
        }
        let mut above = read(parent, file)?;
        if above.trim().is_empty() {
            fill_cpuset(parent, mount, true)?;
            above = read(parent, file)?;
        }
        write(path, file, above.trim())?;
    }
    Ok(())
}

/// Writes the limits that this group's controllers have.
pub(super) fn apply(group: &Group, resources: &Resources, warnings: &mut Vec<String>) -> Result<(), Step> {
    let path = &group.path;
    for controller in &group.controllers {
        match controller.as_str() {
            "memory" => resources.memory.as_ref().map_or(Ok(()), |m| memory(path, m, warnings))?,
            "cpu" => resources.cpu.as_ref().map_or(Ok(()), |c| cpu(path, c, warnings))?,
            "cpuset" => resources.cpu.as_ref().map_or(Ok(()), |c| cpuset(path, c))?,
            "pids" => {
                let limit = resources.pids.as_ref().and_then(|p| p.limit).unwrap_or(0);
                if limit != 0 {
                    write(path, "pids.max", &if limit > 0 { limit.to_string() } else { "max".into() })?;
                }
            }
            "blkio" => resources.block_io.as_ref().map_or(Ok(()), |b| block_io(path, b, warnings))?,
            "hugetlb" => {
                for page in &resources.hugepage_limits {
                    let file = format!("hugetlb.{}.limit_in_bytes", page.page_size);
                    write(path, &file, &page.limit.to_string())?;
                    let reserved = format!("hugetlb.{}.rsvd.limit_in_bytes", page.page_size);
                    write_if_there(path, &reserved, &page.limit.to_string(), &mut Vec::new())?;
                }
            }
            "net_cls" => {
                if let Some(class) = resources.network.as_ref().and_then(|n| n.class_id) {
                    write(path, "net_cls.classid", &class.to_string())?;
                }
            }
            "net_prio" => {
                for entry in resources.network.iter().flat_map(|n| &n.priorities) {
                    write(path, "net_prio.ifpriomap", &format!("{} {}", entry.name, entry.priority))?;
                }
            }
            "rdma" => super::v2::rdma(path, resources)?,
            _ => {}
        }
    }
    Ok(())
}

fn memory(path: &Path, memory: &Memory, warnings: &mut Vec<String>) -> Result<(), Step> {
    const LIMIT: &str = "memory.limit_in_bytes";
    const WITH_SWAP: &str = "memory.memsw.limit_in_bytes";
    // 0 is how callers say "not set" in a field that they always write.
    let given = |value: Option<i64>| value.filter(|v| *v != 0);
    let limit = given(memory.limit);
    let swap = given(memory.swap).or(if limit == Some(-1) { Some(-1) } else { None });
    if let (Some(true), Some(limit)) = (memory.check_before_update, limit.filter(|l| *l > 0)) {
        let used = fs::read_to_string(path.join("memory.usage_in_bytes")).unwrap_or_default();
        if used.trim().parse::<i64>().is_ok_and(|used| used >= limit) {
            let doing = format!("set the memory limit to {limit}");
            return Err(Step::refused(doing, format!("{} bytes are in use", used.trim())));
        }
    }
    let set_limit = || limit.map_or(Ok(()), |limit| write(path, LIMIT, &limit.to_string()));
    let mut set_swap =
        || swap.map_or(Ok(()), |swap| write_if_there(path, WITH_SWAP, &swap.to_string(), warnings));
    // The limit may never be above the limit with swap. Which one has to go first depends on what they were.
    match set_limit() {
        Ok(()) => set_swap()?,
        Err(first) if swap.is_some() => {
            set_swap()?;
            set_limit().map_err(|_| first)?;
        }
        Err(first) => return Err(first),
    }
    if let Some(reservation) = given(memory.reservation) {
        write(path, "memory.soft_limit_in_bytes", &reservation.to_string())?;
    }
    if let Some(tcp) = given(memory.kernel_tcp) {
        write_if_there(path, "memory.kmem.tcp.limit_in_bytes", &tcp.to_string(), warnings)?;
    }
    if let Some(swappiness) = memory.swappiness {
        write_if_there(path, "memory.swappiness", &swappiness.to_string(), warnings)?;
    }
    if memory.disable_oom_killer == Some(true) {
        write_if_there(path, "memory.oom_control", "1", warnings)?;
    }
    Ok(())
}

fn cpu(path: &Path, cpu: &Cpu, warnings: &mut Vec<String>) -> Result<(), Step> {
    let set = |file: &str, value: Option<String>| value.map_or(Ok(()), |value| write(path, file, &value));
    let nonzero = |value: Option<u64>| value.filter(|v| *v != 0).map(|v| v.to_string());
    set("cpu.shares", nonzero(cpu.shares))?;
    // Quota and period are checked against each other, and against parent and children, at each write: whichever is
    // refused first may be accepted after the other.
    let period = || set("cpu.cfs_period_us", nonzero(cpu.period));
    let quota = cpu.quota.filter(|q| *q != 0).map(|q| q.max(-1).to_string());
    let quota = || set("cpu.cfs_quota_us", quota.clone());
    match period() {
        Ok(()) => quota()?,
        Err(first) => {
            quota()?;
            period().map_err(|_| first)?;
        }
    }
    if let Some(burst) = cpu.burst {
        write_if_there(path, "cpu.cfs_burst_us", &burst.to_string(), warnings)?;
    }
    if let Some(period) = nonzero(cpu.realtime_period) {
        write_if_there(path, "cpu.rt_period_us", &period, warnings)?;
    }
    if let Some(runtime) = cpu.realtime_runtime.filter(|r| *r != 0) {
        write_if_there(path, "cpu.rt_runtime_us", &runtime.to_string(), warnings)?;
    }
    if let Some(idle) = cpu.idle {
        write_if_there(path, "cpu.idle", &idle.to_string(), warnings)?;
    }
    Ok(())
}

fn cpuset(path: &Path, cpu: &Cpu) -> Result<(), Step> {
    for (file, value) in [("cpuset.cpus", &cpu.cpus), ("cpuset.mems", &cpu.mems)] {
        if let Some(value) = value.as_deref().filter(|v| !v.is_empty()) {
            write(path, file, value)?;
        }
    }
    Ok(())
}

fn block_io(path: &Path, io: &BlockIo, warnings: &mut Vec<String>) -> Result<(), Step> {
    // The plain name went with the CFQ scheduler, in 5.0.
    let bfq = path.join("blkio.bfq.weight").exists();
    let (weight, weight_device) = if bfq {
        ("blkio.bfq.weight", "blkio.bfq.weight_device")
    } else {
        ("blkio.weight", "blkio.weight_device")
    };
    if let Some(value) = io.weight.filter(|w| *w != 0) {
        write_if_there(path, weight, &value.to_string(), warnings)?;
    }
    if let Some(value) = io.leaf_weight.filter(|w| *w != 0) {
        write_if_there(path, "blkio.leaf_weight", &value.to_string(), warnings)?;
    }
    for device in &io.weight_device {
        let line = |value: u16| format!("{}:{} {value}", device.major, device.minor);
        if let Some(value) = device.weight.filter(|w| *w != 0) {
            write_if_there(path, weight_device, &line(value), warnings)?;
        }
        if let Some(value) = device.leaf_weight.filter(|w| *w != 0) {
            write_if_there(path, "blkio.leaf_weight_device", &line(value), warnings)?;
        }
    }
    let throttles: [(&str, &[ThrottleDevice]); 4] = [
        ("blkio.throttle.read_bps_device", &io.throttle_read_bps_device),
        ("blkio.throttle.write_bps_device", &io.throttle_write_bps_device),
        ("blkio.throttle.read_iops_device", &io.throttle_read_iops_device),
        ("blkio.throttle.write_iops_device", &io.throttle_write_iops_device),
    ];
    for (file, devices) in throttles {
        for device in devices {
            write(path, file, &format!("{}:{} {}", device.major, device.minor, device.rate))?;
        }
    }
    Ok(())
}
