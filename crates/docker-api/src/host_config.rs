//! The host's side of a container: limits, ports, mounts, namespaces.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::network::PortBinding;
use crate::null_default;

/// How the host runs a container.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "PascalCase", default)]
pub struct HostConfig {
    /// `source:target[:options]`.
    pub binds: Option<Vec<String>>,
    /// A file the client wrote the id to.
    #[serde(rename = "ContainerIDFile", deserialize_with = "null_default")]
    pub container_id_file: String,
    /// Where the log goes.
    #[serde(deserialize_with = "null_default")]
    pub log_config: LogConfig,
    /// `default`, `bridge`, `host`, `none`, `container:ID` or a network's name.
    #[serde(deserialize_with = "null_default")]
    pub network_mode: String,
    /// Ports to publish.
    #[serde(deserialize_with = "null_default")]
    pub port_bindings: BTreeMap<String, Option<Vec<PortBinding>>>,
    /// What to do when it exits.
    #[serde(deserialize_with = "null_default")]
    pub restart_policy: RestartPolicy,
    /// Remove it when it exits.
    #[serde(deserialize_with = "null_default")]
    pub auto_remove: bool,
    /// The driver of anonymous volumes.
    #[serde(deserialize_with = "null_default")]
    pub volume_driver: String,
    /// Containers whose volumes it shares.
    pub volumes_from: Option<Vec<String>>,
    /// Size of the client's terminal: rows, columns.
    #[serde(deserialize_with = "null_default")]
    pub console_size: [u32; 2],
    /// Mounts in the long form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mounts: Option<Vec<Mount>>,
    /// Capabilities to add.
    pub cap_add: Option<Vec<String>>,
    /// Capabilities to drop.
    pub cap_drop: Option<Vec<String>>,
    /// `host` or `private`.
    #[serde(deserialize_with = "null_default")]
    pub cgroupns_mode: String,
    /// Name servers.
    #[serde(deserialize_with = "null_default")]
    pub dns: Vec<String>,
    /// Resolver options.
    #[serde(deserialize_with = "null_default")]
    pub dns_options: Vec<String>,
    /// Search domains.
    #[serde(deserialize_with = "null_default")]
    pub dns_search: Vec<String>,
    /// `name:address`.
    pub extra_hosts: Option<Vec<String>>,
    /// Further groups of the process.
    pub group_add: Option<Vec<String>>,
    /// `none`, `private`, `shareable`, `host`, `container:ID`.
    #[serde(deserialize_with = "null_default")]
    pub ipc_mode: String,
    /// Kept for old clients.
    #[serde(deserialize_with = "null_default")]
    pub cgroup: String,
    /// Kept for old clients.
    pub links: Option<Vec<String>>,
    /// -1000 to 1000.
    #[serde(deserialize_with = "null_default")]
    pub oom_score_adj: i64,
    /// empty, `host` or `container:ID`.
    #[serde(deserialize_with = "null_default")]
    pub pid_mode: String,
    /// All privileges.
    #[serde(deserialize_with = "null_default")]
    pub privileged: bool,
    /// Publish every exposed port.
    #[serde(deserialize_with = "null_default")]
    pub publish_all_ports: bool,
    /// The root file system is read-only.
    #[serde(deserialize_with = "null_default")]
    pub readonly_rootfs: bool,
    /// `seccomp=…`, `no-new-privileges`, `apparmor=…`, `label=…`.
    pub security_opt: Option<Vec<String>>,
    /// Options of the storage driver.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_opt: Option<BTreeMap<String, String>>,
    /// tmpfs mounts: path to options.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tmpfs: Option<BTreeMap<String, String>>,
    /// empty or `host`.
    #[serde(rename = "UTSMode", deserialize_with = "null_default")]
    pub uts_mode: String,
    /// empty or `host`.
    #[serde(deserialize_with = "null_default")]
    pub userns_mode: String,
    /// Bytes of /dev/shm.
    #[serde(deserialize_with = "null_default")]
    pub shm_size: i64,
    /// Kernel parameters inside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sysctls: Option<BTreeMap<String, String>>,
    /// The OCI runtime.
    #[serde(deserialize_with = "null_default")]
    pub runtime: String,
    /// Windows only.
    #[serde(deserialize_with = "null_default")]
    pub isolation: String,
    /// Relative weight, 2 and up.
    #[serde(deserialize_with = "null_default")]
    pub cpu_shares: i64,
    /// Bytes.
    #[serde(deserialize_with = "null_default")]
    pub memory: i64,
    /// Billionths of a CPU.
    #[serde(deserialize_with = "null_default")]
    pub nano_cpus: i64,
    /// The parent cgroup.
    #[serde(deserialize_with = "null_default")]
    pub cgroup_parent: String,
    /// 10 to 1000.
    #[serde(deserialize_with = "null_default")]
    pub blkio_weight: u16,
    /// By device.
    pub blkio_weight_device: Option<Vec<WeightDevice>>,
    /// By device, bytes a second.
    pub blkio_device_read_bps: Option<Vec<ThrottleDevice>>,
    /// By device, bytes a second.
    pub blkio_device_write_bps: Option<Vec<ThrottleDevice>>,
    /// By device, operations a second.
    #[serde(rename = "BlkioDeviceReadIOps")]
    pub blkio_device_read_iops: Option<Vec<ThrottleDevice>>,
    /// By device, operations a second.
    #[serde(rename = "BlkioDeviceWriteIOps")]
    pub blkio_device_write_iops: Option<Vec<ThrottleDevice>>,
    /// Microseconds.
    #[serde(deserialize_with = "null_default")]
    pub cpu_period: i64,
    /// Microseconds.
    #[serde(deserialize_with = "null_default")]
    pub cpu_quota: i64,
    /// Microseconds.
    #[serde(deserialize_with = "null_default")]
    pub cpu_realtime_period: i64,
    /// Microseconds.
    #[serde(deserialize_with = "null_default")]
    pub cpu_realtime_runtime: i64,
    /// `0-3,8`.
    #[serde(deserialize_with = "null_default")]
    pub cpuset_cpus: String,
    /// `0-1`.
    #[serde(deserialize_with = "null_default")]
    pub cpuset_mems: String,
    /// Devices to pass in.
    pub devices: Option<Vec<DeviceMapping>>,
    /// `c 10:200 rwm`.
    pub device_cgroup_rules: Option<Vec<String>>,
    /// Devices by a driver's words.
    pub device_requests: Option<Vec<serde_json::Value>>,
    /// Bytes; taken for old clients, without effect on kernels of today.
    #[serde(deserialize_with = "null_default")]
    pub kernel_memory: i64,
    /// Bytes of TCP buffers (cgroup v1).
    #[serde(rename = "KernelMemoryTCP", deserialize_with = "null_default")]
    pub kernel_memory_tcp: i64,
    /// Bytes, a soft limit.
    #[serde(deserialize_with = "null_default")]
    pub memory_reservation: i64,
    /// Bytes of memory and swap together; -1 no limit.
    #[serde(deserialize_with = "null_default")]
    pub memory_swap: i64,
    /// 0 to 100.
    pub memory_swappiness: Option<i64>,
    /// Never kill for want of memory (cgroup v1).
    pub oom_kill_disable: Option<bool>,
    /// Number of processes; 0 or -1 no limit.
    pub pids_limit: Option<i64>,
    /// Resource limits of processes.
    pub ulimits: Option<Vec<Ulimit>>,
    /// Run a small init as process 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<bool>,
    /// Words for the OCI runtime.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
    /// Windows only.
    #[serde(deserialize_with = "null_default")]
    pub cpu_count: i64,
    /// Windows only.
    #[serde(deserialize_with = "null_default")]
    pub cpu_percent: i64,
    /// Windows only.
    #[serde(rename = "IOMaximumIOps", deserialize_with = "null_default")]
    pub io_maximum_iops: u64,
    /// Windows only.
    #[serde(rename = "IOMaximumBandwidth", deserialize_with = "null_default")]
    pub io_maximum_bandwidth: u64,
    /// Paths that are hidden inside; `null`: the default ones.
    pub masked_paths: Option<Vec<String>>,
    /// Paths that are read-only inside; `null`: the default ones.
    pub readonly_paths: Option<Vec<String>>,
}

/// Where a log goes.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "PascalCase", default)]
pub struct LogConfig {
    /// The driver: `json-file`, `none`, ….
    #[serde(rename = "Type", deserialize_with = "null_default")]
    pub kind: String,
    /// Its options.
    #[serde(deserialize_with = "null_default")]
    pub config: BTreeMap<String, String>,
}

/// What to do when a container exits.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "PascalCase", default)]
pub struct RestartPolicy {
    /// `no`, `always`, `unless-stopped`, `on-failure`.
    #[serde(deserialize_with = "null_default")]
    pub name: String,
    /// For `on-failure`.
    #[serde(deserialize_with = "null_default")]
    pub maximum_retry_count: i64,
}

/// A mount in the long form.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "PascalCase", default)]
pub struct Mount {
    /// `bind`, `volume`, `tmpfs`.
    #[serde(rename = "Type", deserialize_with = "null_default")]
    pub kind: String,
    /// A host path or a volume's name.
    #[serde(deserialize_with = "null_default")]
    pub source: String,
    /// The path inside.
    #[serde(deserialize_with = "null_default")]
    pub target: String,
    /// Not to be written.
    #[serde(deserialize_with = "null_default")]
    pub read_only: bool,
    /// Of bind mounts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bind_options: Option<BindOptions>,
    /// Of volumes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_options: Option<VolumeOptions>,
    /// Of tmpfs mounts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tmpfs_options: Option<TmpfsOptions>,
    /// Of images' files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_options: Option<ImageOptions>,
    /// A hint of how exactly the mount must follow the host.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub consistency: String,
}

/// Options of a mount of an image's files.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageOptions {
    /// The directory of the image that is mounted; empty: all of it.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub subpath: String,
}

/// Options of a bind mount.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "PascalCase", default)]
pub struct BindOptions {
    /// Mount propagation.
    #[serde(deserialize_with = "null_default")]
    pub propagation: String,
    /// Without the mounts below the source.
    #[serde(deserialize_with = "null_default")]
    pub non_recursive: bool,
    /// Make the source if it is missing.
    #[serde(deserialize_with = "null_default")]
    pub create_mountpoint: bool,
    /// A read-only mount leaves the mounts below the source writable.
    #[serde(deserialize_with = "null_default")]
    pub read_only_non_recursive: bool,
    /// A read-only mount fails where the mounts below the source can't be read-only, too.
    #[serde(deserialize_with = "null_default")]
    pub read_only_force_recursive: bool,
}

/// Options of a volume mount.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "PascalCase", default)]
pub struct VolumeOptions {
    /// Do not fill a new volume with what the image has there.
    #[serde(deserialize_with = "null_default")]
    pub no_copy: bool,
    /// Labels of a new volume.
    #[serde(deserialize_with = "null_default")]
    pub labels: BTreeMap<String, String>,
    /// The directory of the volume that is mounted; empty: all of it.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub subpath: String,
    /// The driver of a new volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver_config: Option<VolumeDriver>,
}

/// The driver of a new volume.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "PascalCase", default)]
pub struct VolumeDriver {
    /// `local`, ….
    #[serde(deserialize_with = "null_default")]
    pub name: String,
    /// Its options.
    #[serde(deserialize_with = "null_default")]
    pub options: BTreeMap<String, String>,
}

/// Options of a tmpfs mount.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "PascalCase", default)]
pub struct TmpfsOptions {
    /// Bytes.
    #[serde(deserialize_with = "null_default")]
    pub size_bytes: i64,
    /// Permissions of its root.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_zero_mode")]
    pub mode: u32,
    /// Further options, each a name or a name and a value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub options: Option<Vec<Vec<String>>>,
}

fn is_zero_mode(mode: &u32) -> bool {
    *mode == 0
}

/// A device and its weight.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "PascalCase", default)]
pub struct WeightDevice {
    /// The device's path.
    pub path: String,
    /// 10 to 1000.
    pub weight: u16,
}

/// A device and its limit.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "PascalCase", default)]
pub struct ThrottleDevice {
    /// The device's path.
    pub path: String,
    /// Bytes or operations a second.
    pub rate: u64,
}

/// A device to pass in.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "PascalCase", default)]
pub struct DeviceMapping {
    /// Its path on the host.
    pub path_on_host: String,
    /// Its path inside.
    pub path_in_container: String,
    /// `rwm`.
    pub cgroup_permissions: String,
}

/// A resource limit of processes.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "PascalCase", default)]
pub struct Ulimit {
    /// `nofile`, `core`, ….
    pub name: String,
    /// -1: no limit.
    pub hard: i64,
    /// -1: no limit.
    pub soft: i64,
}
