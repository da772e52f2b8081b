//! Containers: create, list, inspect, wait, top, changes.

use std::collections::BTreeMap;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::host_config::HostConfig;
use crate::network::{EndpointSettings, NetworkingConfig, PortBinding, PortSummary};
use crate::{Empty, null_default, string_or_list};

/// What runs in a container, apart from the host: also the `Config` of an image.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerConfig {
    /// Host name inside; empty: the id's first 12 digits.
    #[serde(deserialize_with = "null_default")]
    pub hostname: String,
    /// NIS domain name inside.
    #[serde(deserialize_with = "null_default")]
    pub domainname: String,
    /// `user[:group]`, names or numbers.
    #[serde(deserialize_with = "null_default")]
    pub user: String,
    /// The creating client means to attach to this stream.
    #[serde(deserialize_with = "null_default")]
    pub attach_stdin: bool,
    /// As `attach_stdin`.
    #[serde(deserialize_with = "null_default")]
    pub attach_stdout: bool,
    /// As `attach_stdin`.
    #[serde(deserialize_with = "null_default")]
    pub attach_stderr: bool,
    /// Ports the image says it serves: `80/tcp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exposed_ports: Option<BTreeMap<String, Empty>>,
    /// The process gets a terminal.
    #[serde(deserialize_with = "null_default")]
    pub tty: bool,
    /// Standard input stays open.
    #[serde(deserialize_with = "null_default")]
    pub open_stdin: bool,
    /// Standard input closes when the first attached client goes.
    #[serde(deserialize_with = "null_default")]
    pub stdin_once: bool,
    /// `NAME=value`.
    pub env: Option<Vec<String>>,
    /// Arguments, or command and arguments where there is no entrypoint.
    #[serde(deserialize_with = "string_or_list")]
    pub cmd: Option<Vec<String>>,
    /// How to find out whether the container is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// The image as it was asked for.
    #[serde(deserialize_with = "null_default")]
    pub image: String,
    /// Paths that get an anonymous volume.
    pub volumes: Option<BTreeMap<String, Empty>>,
    /// Working directory of the process.
    #[serde(deserialize_with = "null_default")]
    pub working_dir: String,
    /// The command that `cmd` is given to.
    #[serde(deserialize_with = "string_or_list")]
    pub entrypoint: Option<Vec<String>>,
    /// Its hardware address in the first network (API before 1.44).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac_address: Option<String>,
    /// The container gets no network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_disabled: Option<bool>,
    /// Instructions for builds on top of the image.
    pub on_build: Option<Vec<String>>,
    /// Labels.
    pub labels: Option<BTreeMap<String, String>>,
    /// The signal that asks the process to end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// Seconds to wait after it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<i64>,
    /// The shell of RUN, CMD and ENTRYPOINT in shell form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shell: Option<Vec<String>>,
}

/// A health check, times in nanoseconds.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "PascalCase", default)]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", command]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test: Option<Vec<String>>,
    /// Time between checks.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_zero")]
    pub interval: i64,
    /// Time one check may take.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_zero")]
    pub timeout: i64,
    /// Time between checks in the start period.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    /// Failures in a row until the container counts as unhealthy.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_zero")]
    pub retries: i64,
    /// Time after the start in which failures do not count.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_zero")]
    pub start_period: i64,
}

fn is_zero(n: &i64) -> bool {
    *n == 0
}

/// The body of `POST /containers/create`.
#[derive(Serialize, Debug, Clone, Default)]
#[serde(rename_all = "PascalCase")]
pub struct CreateRequest {
    /// What runs.
    #[serde(flatten)]
    pub config: ContainerConfig,
    /// The OCI runtime, where old libraries name it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub runtime: String,
    /// How the host runs it.
    pub host_config: Option<HostConfig>,
    /// Networks to join.
    pub networking_config: Option<NetworkingConfig>,
}

impl<'de> Deserialize<'de> for CreateRequest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<CreateRequest, D::Error> {
        /// What stands beside the configuration. Derived code for both together would know no names but the very ones.
        #[derive(Deserialize, Default)]
        #[serde(rename_all = "PascalCase", default)]
        struct Beside {
            runtime: String,
            host_config: Option<HostConfig>,
            networking_config: Option<NetworkingConfig>,
        }
        let value = serde_json::Value::deserialize(deserializer)?;
        let config = crate::reading::from_value(value.clone()).map_err(D::Error::custom)?;
        let beside: Beside = crate::reading::from_value(value).map_err(D::Error::custom)?;
        let Beside { runtime, host_config, networking_config } = beside;
        Ok(CreateRequest { config, runtime, host_config, networking_config })
    }
}

/// The answer to `POST /containers/create`.
#[derive(Serialize, Deserialize, Debug, Clone, Default)]
#[serde(rename_all = "PascalCase", default)]
pub struct CreateAnswer {
    /// The container's id.
    pub id: String,
    /// What could not be done as asked.
    #[serde(deserialize_with = "null_default")]
    pub warnings: Vec<String>,
}

/// A row of `GET /containers/json`.
#[derive(Serialize, Deserialize, Debug, Clone, Default)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerSummary {
    /// The container's id.
    pub id: String,
    /// Its names, each with a leading `/`.
    #[serde(deserialize_with = "null_default")]
    pub names: Vec<String>,
    /// The image as it was asked for.
    pub image: String,
    /// The image's id.
    #[serde(rename = "ImageID")]
    pub image_id: String,
    /// Command and arguments, joined.
    pub command: String,
    /// When it was created, in seconds since 1970.
    pub created: i64,
    /// Its ports.
    #[serde(deserialize_with = "null_default")]
    pub ports: Vec<PortSummary>,
    /// Bytes in the read-write layer, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_rw: Option<i64>,
    /// Bytes of all layers, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_root_fs: Option<i64>,
    /// Labels.
    #[serde(deserialize_with = "null_default")]
    pub labels: BTreeMap<String, String>,
    /// `running`, `exited`, ….
    pub state: String,
    /// The same for people: `Up 3 minutes`.
    pub status: String,
    /// A part of the host's side.
    pub host_config: SummaryHostConfig,
    /// Its networks.
    pub network_settings: SummaryNetworks,
    /// Its mounts.
    #[serde(deserialize_with = "null_default")]
    pub mounts: Vec<MountPoint>,
}

/// What `X-Docker-Container-Path-Stat` says of a path, in base64.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(default)]
pub struct PathStat {
    /// Its name.
    pub name: String,
    /// Bytes.
    pub size: i64,
    /// Permissions and kind, as Go writes them.
    pub mode: u32,
    /// When its content changed, RFC 3339.
    pub mtime: String,
    /// Where a link points.
    #[serde(rename = "linkTarget")]
    pub link_target: String,
}

/// The part of the host's side that a listing shows.
#[derive(Serialize, Deserialize, Debug, Clone, Default)]
#[serde(rename_all = "PascalCase", default)]
pub struct SummaryHostConfig {
    /// The network mode.
    pub network_mode: String,
}

/// The networks that a listing shows.
#[derive(Serialize, Deserialize, Debug, Clone, Default)]
#[serde(rename_all = "PascalCase", default)]
pub struct SummaryNetworks {
    /// By network name.
    #[serde(deserialize_with = "null_default")]
    pub networks: BTreeMap<String, EndpointSettings>,
}

/// A mount as inspect and listings show it.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "PascalCase", default)]
pub struct MountPoint {
    /// `bind`, `volume` or `tmpfs`.
    #[serde(rename = "Type")]
    pub kind: String,
    /// The volume's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The directory on the host.
    pub source: String,
    /// Where it is mounted.
    pub destination: String,
    /// The volume's driver.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// The options as given.
    pub mode: String,
    /// It may be written.
    #[serde(rename = "RW")]
    pub rw: bool,
    /// Mount propagation.
    pub propagation: String,
}

/// The answer to `GET /containers/{id}/json`.
#[derive(Serialize, Deserialize, Debug, Clone, Default)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerInspect {
    /// The container's id.
    pub id: String,
    /// When it was created, RFC 3339.
    pub created: String,
    /// The command.
    pub path: String,
    /// Its arguments.
    #[serde(deserialize_with = "null_default")]
    pub args: Vec<String>,
    /// Where it is in its life.
    pub state: ContainerState,
    /// The image's id.
    pub image: String,
    /// The file bound to /etc/resolv.conf.
    pub resolv_conf_path: String,
    /// The file bound to /etc/hostname.
    pub hostname_path: String,
    /// The file bound to /etc/hosts.
    pub hosts_path: String,
    /// The log.
    pub log_path: String,
    /// The name with a leading `/`.
    pub name: String,
    /// How often a restart policy has restarted it.
    pub restart_count: i64,
    /// The snapshot driver.
    pub driver: String,
    /// `linux`.
    pub platform: String,
    /// SELinux label of its mounts.
    pub mount_label: String,
    /// SELinux label of its process.
    pub process_label: String,
    /// Its AppArmor profile.
    pub app_armor_profile: String,
    /// Running execs.
    #[serde(rename = "ExecIDs")]
    pub exec_ids: Option<Vec<String>>,
    /// The host's side.
    pub host_config: HostConfig,
    /// The snapshot.
    pub graph_driver: GraphDriver,
    /// Bytes in the read-write layer, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_rw: Option<i64>,
    /// Bytes of all layers, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_root_fs: Option<i64>,
    /// Its mounts.
    #[serde(deserialize_with = "null_default")]
    pub mounts: Vec<MountPoint>,
    /// What runs.
    pub config: ContainerConfig,
    /// Its networks.
    pub network_settings: NetworkSettings,
}

/// Where a container is in its life.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerState {
    /// `created`, `running`, `paused`, `restarting`, `removing`, `exited`, `dead`.
    pub status: String,
    /// Running (also when paused).
    pub running: bool,
    /// Frozen.
    pub paused: bool,
    /// Waiting for its restart policy.
    pub restarting: bool,
    /// The kernel killed a process of it for want of memory.
    #[serde(rename = "OOMKilled")]
    pub oom_killed: bool,
    /// It could not be removed.
    pub dead: bool,
    /// The process as the host sees it, 0 if it does not run.
    pub pid: i64,
    /// The exit code of the last run.
    pub exit_code: i64,
    /// Why the last start failed.
    pub error: String,
    /// Start of the last run, RFC 3339.
    pub started_at: String,
    /// End of the last run, RFC 3339.
    pub finished_at: String,
    /// What the health check says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
}

/// What a health check says.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "PascalCase", default)]
pub struct Health {
    /// `starting`, `healthy` or `unhealthy`.
    pub status: String,
    /// How many probes in a row have failed.
    pub failing_streak: i64,
    /// The last results, the newest last.
    #[serde(deserialize_with = "null_default")]
    pub log: Vec<HealthResult>,
}

/// The result of one probe.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "PascalCase", default)]
pub struct HealthResult {
    /// When it began, RFC 3339.
    pub start: String,
    /// When it ended.
    pub end: String,
    /// 0: well; else: not.
    pub exit_code: i64,
    /// What it said.
    pub output: String,
}

/// The answer to `POST /containers/{id}/update`.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "PascalCase", default)]
pub struct UpdateAnswer {
    /// What can't be done as asked.
    pub warnings: Option<Vec<String>>,
}

/// The snapshot driver's view of a container or image.
#[derive(Serialize, Deserialize, Debug, Clone, Default)]
#[serde(rename_all = "PascalCase", default)]
pub struct GraphDriver {
    /// Directories by role.
    pub data: Option<BTreeMap<String, String>>,
    /// The driver's name.
    pub name: String,
}

/// The networks of a container.
#[derive(Serialize, Deserialize, Debug, Clone, Default)]
#[serde(rename_all = "PascalCase", default)]
pub struct NetworkSettings {
    /// The default bridge.
    pub bridge: String,
    /// The network namespace's id.
    #[serde(rename = "SandboxID")]
    pub sandbox_id: String,
    /// Kept for old clients.
    pub hairpin_mode: bool,
    /// Kept for old clients.
    #[serde(rename = "LinkLocalIPv6Address")]
    pub link_local_ipv6_address: String,
    /// Kept for old clients.
    #[serde(rename = "LinkLocalIPv6PrefixLen")]
    pub link_local_ipv6_prefix_len: i64,
    /// Published and exposed ports: `80/tcp` to where it is published.
    #[serde(deserialize_with = "null_default")]
    pub ports: BTreeMap<String, Option<Vec<PortBinding>>>,
    /// The network namespace's file.
    pub sandbox_key: String,
    /// Kept for old clients.
    #[serde(rename = "SecondaryIPAddresses")]
    pub secondary_ip_addresses: Option<Vec<String>>,
    /// Kept for old clients.
    #[serde(rename = "SecondaryIPv6Addresses")]
    pub secondary_ipv6_addresses: Option<Vec<String>>,
    /// The endpoint on the default bridge.
    #[serde(rename = "EndpointID")]
    pub endpoint_id: String,
    /// Its gateway.
    pub gateway: String,
    /// Its IPv6 address.
    #[serde(rename = "GlobalIPv6Address")]
    pub global_ipv6_address: String,
    /// Its IPv6 prefix.
    #[serde(rename = "GlobalIPv6PrefixLen")]
    pub global_ipv6_prefix_len: i64,
    /// Its address.
    #[serde(rename = "IPAddress")]
    pub ip_address: String,
    /// Its prefix length.
    #[serde(rename = "IPPrefixLen")]
    pub ip_prefix_len: i64,
    /// Its IPv6 gateway.
    #[serde(rename = "IPv6Gateway")]
    pub ipv6_gateway: String,
    /// Its hardware address.
    pub mac_address: String,
    /// All networks, by name.
    #[serde(deserialize_with = "null_default")]
    pub networks: BTreeMap<String, EndpointSettings>,
}

/// The answer to `POST /containers/{id}/wait`.
#[derive(Serialize, Deserialize, Debug, Clone, Default)]
#[serde(rename_all = "PascalCase", default)]
pub struct WaitAnswer {
    /// The exit code.
    pub status_code: i64,
    /// Why waiting failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<WaitError>,
}

/// Why waiting failed.
#[derive(Serialize, Deserialize, Debug, Clone, Default)]
#[serde(rename_all = "PascalCase", default)]
pub struct WaitError {
    /// For people.
    pub message: String,
}

/// The answer to `GET /containers/{id}/top`.
#[derive(Serialize, Deserialize, Debug, Clone, Default)]
#[serde(rename_all = "PascalCase", default)]
pub struct TopAnswer {
    /// A row a process.
    pub processes: Vec<Vec<String>>,
    /// The columns' names.
    pub titles: Vec<String>,
}

/// A row of `GET /containers/{id}/changes`.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "PascalCase", default)]
pub struct ChangeRow {
    /// The path in the container.
    pub path: String,
    /// 0 changed, 1 added, 2 deleted.
    pub kind: u8,
}

/// The answer to `POST /containers/prune`.
#[derive(Serialize, Deserialize, Debug, Clone, Default)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainersPruned {
    /// Ids that are gone.
    pub containers_deleted: Option<Vec<String>>,
    /// Bytes that are free again.
    pub space_reclaimed: u64,
}
