//! What containers use: `GET /containers/{id}/stats`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::null_default;

/// One line of `GET /containers/{id}/stats`.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(default)]
pub struct Stats {
    /// When it was read.
    pub read: String,
    /// When the numbers before were.
    pub preread: String,
    /// Processes.
    pub pids_stats: PidsStats,
    /// Block I/O.
    pub blkio_stats: BlkioStats,
    /// Windows only.
    pub num_procs: u32,
    /// Windows only.
    pub storage_stats: crate::Empty,
    /// Processor time.
    pub cpu_stats: CpuStats,
    /// Processor time before.
    pub precpu_stats: CpuStats,
    /// Memory.
    pub memory_stats: MemoryStats,
    /// The container's name, with a leading `/`.
    pub name: String,
    /// Its id.
    pub id: String,
    /// Its network interfaces.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_default")]
    pub networks: BTreeMap<String, NetworkStats>,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// Processes and threads.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(default)]
pub struct PidsStats {
    /// Now.
    #[serde(skip_serializing_if = "is_zero")]
    pub current: u64,
    /// At most; 0: any number.
    #[serde(skip_serializing_if = "is_zero")]
    pub limit: u64,
}

/// Block I/O. `null` where nothing is known.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(default)]
pub struct BlkioStats {
    /// Bytes.
    pub io_service_bytes_recursive: Option<Vec<BlkioEntry>>,
    /// Operations.
    pub io_serviced_recursive: Option<Vec<BlkioEntry>>,
    /// Not known to kernels any more, as the following ones.
    pub io_queue_recursive: Option<Vec<BlkioEntry>>,
    /// See `io_queue_recursive`.
    pub io_service_time_recursive: Option<Vec<BlkioEntry>>,
    /// See `io_queue_recursive`.
    pub io_wait_time_recursive: Option<Vec<BlkioEntry>>,
    /// See `io_queue_recursive`.
    pub io_merged_recursive: Option<Vec<BlkioEntry>>,
    /// See `io_queue_recursive`.
    pub io_time_recursive: Option<Vec<BlkioEntry>>,
    /// See `io_queue_recursive`.
    pub sectors_recursive: Option<Vec<BlkioEntry>>,
}

/// One number of block I/O.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(default)]
pub struct BlkioEntry {
    /// The device.
    pub major: u64,
    /// The device.
    pub minor: u64,
    /// `Read`, `Write`, ….
    pub op: String,
    /// The number.
    pub value: u64,
}

/// Processor time.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(default)]
pub struct CpuStats {
    /// The container's.
    pub cpu_usage: CpuUsage,
    /// The host's, in nanoseconds.
    #[serde(skip_serializing_if = "is_zero")]
    pub system_cpu_usage: u64,
    /// How many processors are on.
    #[serde(skip_serializing_if = "is_no_cpu")]
    pub online_cpus: u32,
    /// How the quota held it back.
    pub throttling_data: ThrottlingData,
}

fn is_no_cpu(n: &u32) -> bool {
    *n == 0
}

/// A container's processor time, in nanoseconds.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(default)]
pub struct CpuUsage {
    /// All of it.
    pub total_usage: u64,
    /// By processor (cgroup v1).
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_default")]
    pub percpu_usage: Vec<u64>,
    /// In the kernel.
    pub usage_in_kernelmode: u64,
    /// In programs.
    pub usage_in_usermode: u64,
}

/// How the quota held a container back.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(default)]
pub struct ThrottlingData {
    /// Periods.
    pub periods: u64,
    /// Periods in which it ran out.
    pub throttled_periods: u64,
    /// Nanoseconds of waiting.
    pub throttled_time: u64,
}

/// Memory, in bytes.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(default)]
pub struct MemoryStats {
    /// Now.
    #[serde(skip_serializing_if = "is_zero")]
    pub usage: u64,
    /// At most so far (cgroup v1).
    #[serde(skip_serializing_if = "is_zero")]
    pub max_usage: u64,
    /// The controller's own numbers.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_default")]
    pub stats: BTreeMap<String, u64>,
    /// How often the limit was hit (cgroup v1).
    #[serde(skip_serializing_if = "is_zero")]
    pub failcnt: u64,
    /// The limit.
    #[serde(skip_serializing_if = "is_zero")]
    pub limit: u64,
}

/// What went through a network interface.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(default)]
pub struct NetworkStats {
    /// Bytes in.
    pub rx_bytes: u64,
    /// Packets in.
    pub rx_packets: u64,
    /// Errors in.
    pub rx_errors: u64,
    /// Dropped in.
    pub rx_dropped: u64,
    /// Bytes out.
    pub tx_bytes: u64,
    /// Packets out.
    pub tx_packets: u64,
    /// Errors out.
    pub tx_errors: u64,
    /// Dropped out.
    pub tx_dropped: u64,
}
