//! What can be said against limits: what makes no sense is refused, what this host can't do is dropped with a warning. The
//! sentences are Docker's, since its clients' users know them.

use crate::error::{EngineError, Result};
use crate::host::{Cgroups, HostFacts};
use crate::spec::Resources;

/// The least memory that a container may be limited to, in bytes, as in Docker.
const LEAST_MEMORY: i64 = 6 << 20;
/// The shortest and the longest period of a processor quota that the kernel takes, in microseconds.
const CPU_PERIODS: std::ops::RangeInclusive<u64> = 1000..=1_000_000;
const BLKIO_WEIGHTS: std::ops::RangeInclusive<u16> = 10..=1000;

/// Checks limits for a container that is made, or one that is `updated`; answers warnings about those it dropped.
///
/// # Errors
/// If they make no sense.
pub(crate) fn check(limits: &mut Resources, host: &HostFacts, updated: bool) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    memory(limits, &host.cgroups, updated, &mut warnings).map_err(EngineError::Invalid)?;
    processors(limits, host, &mut warnings).map_err(EngineError::Invalid)?;
    block_devices(limits, &host.cgroups, &mut warnings).map_err(EngineError::Invalid)?;
    Ok(warnings)
}

fn lacks(what: &str, dropped: &str) -> String {
    format!("Your kernel does not support {what} or the cgroup is not mounted. {dropped} discarded.")
}

type Checked = std::result::Result<(), String>;

fn memory(limits: &mut Resources, host: &Cgroups, updated: bool, warnings: &mut Vec<String>) -> Checked {
    let refuse = |text: &str| Err(text.to_owned());
    if limits.memory != 0 && limits.memory < LEAST_MEMORY {
        return refuse("Minimum memory limit allowed is 6MB");
    }
    if limits.memory > 0 && !host.memory {
        warnings.push(lacks("memory limit capabilities", "Limitation"));
        (limits.memory, limits.memory_swap) = (0, -1);
    }
    if limits.memory > 0 && limits.memory_swap != -1 && !host.swap {
        warnings.push(
            "Your kernel does not support swap limit capabilities or the cgroup is not mounted. Memory limited without swap."
                .to_owned(),
        );
        limits.memory_swap = -1;
    }
    if limits.memory > 0 && limits.memory_swap > 0 && limits.memory_swap < limits.memory {
        return refuse("Minimum memoryswap limit should be larger than memory limit, see usage");
    }
    if limits.memory == 0 && limits.memory_swap > 0 && !updated {
        return refuse("You should always set the Memory limit when using Memoryswap limit, see usage");
    }
    if let Some(swappiness) = limits.memory_swappiness {
        if !host.swappiness {
            warnings.push(lacks("memory swappiness capabilities", "Memory swappiness"));
            limits.memory_swappiness = None;
        } else if swappiness > 100 {
            return Err(format!("Invalid value: {swappiness}, valid memory swappiness range is 0-100"));
        }
    }
    if limits.memory_reservation > 0 && !host.reservation {
        warnings.push(lacks("memory soft limit capabilities", "Limitation"));
        limits.memory_reservation = 0;
    }
    if limits.memory_reservation > 0 && limits.memory_reservation < LEAST_MEMORY {
        return refuse("Minimum memory reservation allowed is 6MB");
    }
    if limits.memory > 0 && limits.memory_reservation > 0 && limits.memory < limits.memory_reservation {
        return refuse("Minimum memory limit can not be less than memory reservation limit, see usage");
    }
    if limits.kernel_memory > 0 {
        if limits.kernel_memory < LEAST_MEMORY {
            return refuse("Minimum kernel memory limit allowed is 6MB");
        }
        if !host.kernel_memory {
            warnings.push(lacks("kernel memory limit capabilities", "Limitation"));
            limits.kernel_memory = 0;
        }
    }
    if limits.oom_kill_disable && !host.oom_kill_disable {
        warnings.push("Your kernel does not support OomKillDisable. OomKillDisable discarded.".to_owned());
        limits.oom_kill_disable = false;
    }
    if limits.oom_kill_disable && limits.memory == 0 {
        warnings.push(
            "OOM killer is disabled for the container, but no memory limit is set, this can result in the system running out of resources."
                .to_owned(),
        );
    }
    if limits.pids.is_some_and(|n| n > 0) && !host.pids {
        warnings.push(lacks("PIDs limit capabilities", "PIDs limit"));
        limits.pids = None;
    }
    Ok(())
}

fn processors(limits: &mut Resources, host: &HostFacts, warnings: &mut Vec<String>) -> Checked {
    let cgroups = &host.cgroups;
    let refuse = |text: &str| Err(text.to_owned());
    if limits.nano_cpus > 0 && limits.cpu_period > 0 {
        return refuse("Conflicting options: Nano CPUs and CPU Period cannot both be set");
    }
    if limits.nano_cpus > 0 && limits.cpu_quota > 0 {
        return refuse("Conflicting options: Nano CPUs and CPU Quota cannot both be set");
    }
    if limits.nano_cpus > 0 && !cgroups.cpu_quota {
        return refuse(
            "NanoCPUs can not be set, as your kernel does not support CPU CFS scheduler or the cgroup is not mounted",
        );
    }
    if limits.nano_cpus < 0 || limits.nano_cpus > i64::from(host.cpus) * 1_000_000_000 {
        let cpus = host.cpus;
        return Err(format!(
            "Range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available"
        ));
    }
    if limits.cpu_shares > 0 && !cgroups.cpu_shares {
        warnings.push(lacks("CPU shares", "Shares"));
        limits.cpu_shares = 0;
    }
    if (limits.cpu_period != 0 || limits.cpu_quota != 0) && !cgroups.cpu_quota {
        warnings
            .push("Your kernel does not support CPU CFS scheduler. CPU period/quota discarded.".to_owned());
        (limits.cpu_period, limits.cpu_quota) = (0, 0);
    }
    if limits.cpu_period != 0 && !CPU_PERIODS.contains(&limits.cpu_period) {
        return refuse(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        );
    }
    if limits.cpu_quota > 0 && limits.cpu_quota < 1000 {
        return refuse("CPU cfs quota can not be less than 1ms (i.e. 1000)");
    }
    if (limits.cpu_rt_period != 0 || limits.cpu_rt_runtime != 0) && !cgroups.cpu_realtime {
        return refuse("Your kernel does not support CPU real-time scheduler");
    }
    for (list, available, name, things) in [
        (&limits.cpuset_cpus, &cgroups.cpuset_cpus, "cpus", "CPUs"),
        (&limits.cpuset_mems, &cgroups.cpuset_mems, "mems", "memory nodes"),
    ] {
        let wanted = numbers(list).ok_or_else(|| format!("Invalid value {list} for cpuset {name}"))?;
        let there = numbers(available).unwrap_or_default();
        if !available.is_empty() && !wanted.is_subset(&there) {
            return Err(format!(
                "Requested {things} are not available - requested {list}, available: {available}"
            ));
        }
    }
    if (!limits.cpuset_cpus.is_empty() || !limits.cpuset_mems.is_empty()) && !cgroups.cpuset {
        warnings.push(lacks("cpuset", "Cpuset"));
        (limits.cpuset_cpus, limits.cpuset_mems) = (String::new(), String::new());
    }
    Ok(())
}

fn block_devices(limits: &mut Resources, host: &Cgroups, warnings: &mut Vec<String>) -> Checked {
    if limits.blkio_weight > 0 && !host.blkio_weight {
        warnings.push(lacks("Block I/O weight", "Weight"));
        limits.blkio_weight = 0;
    }
    if limits.blkio_weight > 0 && !BLKIO_WEIGHTS.contains(&limits.blkio_weight) {
        return Err("Range of blkio weight is from 10 to 1000".to_owned());
    }
    if !limits.blkio_weight_device.is_empty() && !host.blkio_weight_device {
        warnings.push(lacks("Block I/O weight_device", "Weight-device"));
        limits.blkio_weight_device.clear();
    }
    for (list, what, dropped) in [
        (&mut limits.device_read_bps, "BPS Block I/O read limit", "Block I/O BPS read limit"),
        (&mut limits.device_write_bps, "BPS Block I/O write limit", "Block I/O BPS write limit"),
        (&mut limits.device_read_iops, "IOPS Block read limit", "Block I/O IOPS read limit"),
        (&mut limits.device_write_iops, "IOPS Block write limit", "Block I/O IOPS write limit"),
    ] {
        if !list.is_empty() && !host.blkio_throttle {
            warnings.push(lacks(what, dropped));
            list.clear();
        }
    }
    Ok(())
}

/// Reads `0-3,8`.
fn numbers(text: &str) -> Option<std::collections::BTreeSet<u32>> {
    /// More than any machine has; longer ranges are mistakes.
    const MOST: u32 = 8192;
    let mut set = std::collections::BTreeSet::new();
    for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        if last < first || last > MOST {
            return None;
        }
        set.extend(first..=last);
    }
    Some(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(limits: Resources, cgroups: Cgroups) -> String {
        let mut host = HostFacts::probe();
        (host.cgroups, host.cpus) = (cgroups, 2);
        let mut limits = limits;
        match check(&mut limits, &host, false) {
            Ok(warnings) => warnings.join("; "),
            Err(error) => format!("no: {error}"),
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let none = Resources::default;
        let text = |s: &str| s.to_owned();
        for (limits, words) in [
            (Resources { memory: 1 << 20, ..none() }, "Minimum memory limit"),
            (Resources { memory: -1, ..none() }, "Minimum memory limit"),
            (Resources { memory: 8 << 20, memory_swap: 7 << 20, ..none() }, "Minimum memoryswap"),
            (Resources { memory_swap: 7 << 20, ..none() }, "You should always set"),
            (Resources { memory_swappiness: Some(101), ..none() }, "valid memory swappiness range"),
            (Resources { memory: 8 << 20, memory_reservation: 9 << 20, ..none() }, "reservation limit"),
            (Resources { nano_cpus: 3_000_000_000, ..none() }, "Range of CPUs is from 0.01 to 2.00"),
            (Resources { nano_cpus: 1, cpu_period: 1000, ..none() }, "Conflicting options"),
            (Resources { cpu_period: 10, ..none() }, "CPU cfs period"),
            (Resources { cpu_quota: 10, ..none() }, "CPU cfs quota"),
            (Resources { cpuset_cpus: text("0-9"), ..none() }, "Requested CPUs are not available"),
            (Resources { cpuset_mems: text("x"), ..none() }, "Invalid value x for cpuset mems"),
            (Resources { blkio_weight: 5, ..none() }, "Range of blkio weight"),
        ] {
            let told = told(limits, Cgroups::all("0-1", "0"));
            assert!(told.starts_with("no: ") && told.contains(words), "{words}: {told}");
        }
        assert_eq!(told(Resources { memory: 8 << 20, ..none() }, Cgroups::all("0-1", "0")), "");
    }

    #[test]
    fn what_the_host_cant_do_is_dropped_with_a_warning() {
        let limits = Resources {
            memory: 8 << 20,
            blkio_weight: 5,
            pids: Some(7),
            oom_kill_disable: true,
            ..Resources::default()
        };
        let told = told(limits, Cgroups::default());
        for words in ["memory limit", "Block I/O weight", "PIDs limit", "OomKillDisable"] {
            assert!(told.contains(words), "{words}: {told}");
        }
    }
}
