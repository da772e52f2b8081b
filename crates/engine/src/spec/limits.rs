//! What a container may use, and which devices it has.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A block device and a number: a weight, or bytes or operations a second.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Default)]
pub struct DeviceNumber {
    /// The device's path on the host.
    pub path: String,
    /// The number.
    pub number: u64,
}

/// Limits. Zero or `None`: none.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[serde(default)]
pub struct Resources {
    /// Relative weight.
    pub cpu_shares: u64,
    /// Billionths of a CPU.
    pub nano_cpus: i64,
    /// Microseconds.
    pub cpu_period: u64,
    /// Microseconds.
    pub cpu_quota: i64,
    /// `0-3,8`.
    pub cpuset_cpus: String,
    /// `0-1`.
    pub cpuset_mems: String,
    /// Bytes.
    pub memory: i64,
    /// Bytes, soft.
    pub memory_reservation: i64,
    /// Bytes of memory and swap together; -1: no limit; 0: twice `memory`.
    pub memory_swap: i64,
    /// 0 to 100.
    pub memory_swappiness: Option<u64>,
    /// Never kill for want of memory (cgroup v1).
    pub oom_kill_disable: bool,
    /// -1000 to 1000.
    pub oom_score_adj: i32,
    /// Processes and threads; 0 and -1: no limit, `None`: not said.
    pub pids: Option<i64>,
    /// 10 to 1000.
    pub blkio_weight: u16,
    /// As `blkio_weight`, by device.
    pub blkio_weight_device: Vec<DeviceNumber>,
    /// Bytes a second, by device.
    pub device_read_bps: Vec<DeviceNumber>,
    /// Bytes a second, by device.
    pub device_write_bps: Vec<DeviceNumber>,
    /// Operations a second, by device.
    pub device_read_iops: Vec<DeviceNumber>,
    /// Operations a second, by device.
    pub device_write_iops: Vec<DeviceNumber>,
    /// Microseconds (cgroup v1, kernels with real-time groups).
    pub cpu_rt_period: u64,
    /// Microseconds.
    pub cpu_rt_runtime: i64,
    /// Bytes; cgroup v1's old limit of the kernel's memory. Taken and shown, without effect, as kernels dropped it.
    pub kernel_memory: i64,
    /// Bytes of TCP buffers (cgroup v1).
    pub kernel_memory_tcp: i64,
}

impl Resources {
    /// Bytes of memory and swap together: twice the memory unless it was said.
    pub fn swap_limit(&self) -> i64 {
        if self.memory_swap == 0 { self.memory.saturating_mul(2) } else { self.memory_swap }
    }
}

/// A resource limit of the process.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Ulimit {
    /// `nofile`, ….
    pub name: String,
    /// -1: no limit.
    pub soft: i64,
    /// -1: no limit.
    pub hard: i64,
}

/// A device to pass in.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Device {
    /// Its path on the host.
    pub host: PathBuf,
    /// Its path inside.
    pub container: String,
    /// `rwm`.
    pub permissions: String,
}
