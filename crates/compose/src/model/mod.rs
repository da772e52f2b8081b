//! What compose files say, once read, interpolated, merged and checked. Every short form has become its long one.
//!
//! * `Project` (here), and the parts of services. * `service`: all that a service can be told.
//! * `resources`: networks, volumes, configs, secrets. * `values`: numbers with units.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// All of it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Project {
    /// The project's name: what it makes is labelled with it.
    pub name: String,
    /// Where relative paths begin.
    #[serde(skip)]
    pub directory: PathBuf,
    /// The files it was read from.
    #[serde(skip)]
    pub files: Vec<PathBuf>,
    /// The files of variables that were read.
    #[serde(skip)]
    pub env_files: Vec<PathBuf>,
    /// Services that are wanted.
    pub services: BTreeMap<String, Service>,
    /// Services whose profiles are not wanted.
    #[serde(skip)]
    pub disabled: BTreeMap<String, Service>,
    /// Networks.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub networks: BTreeMap<String, Network>,
    /// Volumes.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: BTreeMap<String, Volume>,
    /// Configs.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub configs: BTreeMap<String, FileObject>,
    /// Secrets.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, FileObject>,
    /// What is odd but does not hinder.
    #[serde(skip)]
    pub warnings: Vec<String>,
}

/// Text by name.
pub type Texts = BTreeMap<String, String>;

fn none<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

macro_rules! record {
    ($(#[$about:meta])* pub struct $name:ident { $($(#[$field_about:meta])* pub $field:ident: $type:ty,)* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $($(#[$field_about])* #[serde(skip_serializing_if = "none")] pub $field: $type,)*
        }
    };
}

mod resources;
mod service;
mod values;

pub use resources::{FileObject, Ipam, Network, Pool, Volume};
pub use service::Service;
pub use values::{Bytes, Duration};

record! {
    /// How an image is built.
    pub struct Build {
        /// Directory or URL.
        pub context: String,
        /// Relative to the context.
        pub dockerfile: String,
        /// Instead of a file.
        pub dockerfile_inline: String,
        /// Arguments; without a value: the one of who runs compose.
        pub args: BTreeMap<String, Option<String>>,
        /// Contexts by name.
        pub additional_contexts: Texts,
        /// Where steps may come from.
        pub cache_from: Vec<String>,
        /// Where steps go.
        pub cache_to: Vec<String>,
        /// Privileges of steps.
        pub entitlements: Vec<String>,
        /// Lines of /etc/hosts.
        pub extra_hosts: BTreeMap<String, Vec<String>>,
        /// Windows only.
        pub isolation: String,
        /// Labels.
        pub labels: Texts,
        /// Network of steps.
        pub network: String,
        /// Without the cache.
        pub no_cache: Option<bool>,
        /// The platforms.
        pub platforms: Vec<String>,
        /// All privileges for steps.
        pub privileged: Option<bool>,
        /// Look for newer base images.
        pub pull: Option<bool>,
        /// Secrets of steps.
        pub secrets: Vec<FileMount>,
        /// Bytes of /dev/shm.
        pub shm_size: Option<Bytes>,
        /// SSH agents.
        pub ssh: Texts,
        /// Further names.
        pub tags: Vec<String>,
        /// The stage.
        pub target: String,
        /// Resource limits of steps.
        pub ulimits: BTreeMap<String, Ulimit>,
    }
}

record! {
    /// A service that comes first.
    pub struct Dependency {
        /// What it waits for.
        pub condition: Condition,
        /// Started again with it.
        pub restart: bool,
        /// It must be there.
        #[serde(default = "yes")]
        pub required: bool,
    }
}

fn yes() -> bool {
    true
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// It runs.
    #[default]
    ServiceStarted,
    /// Its health check says so.
    ServiceHealthy,
    /// It has ended with exit code 0.
    ServiceCompletedSuccessfully,
}

record! {
    /// How many, and how much each may use.
    pub struct Deploy {
        /// For swarms.
        pub mode: String,
        /// How many.
        pub replicas: Option<u32>,
        /// Labels of the service, for swarms.
        pub labels: Texts,
        /// For swarms.
        pub update_config: Option<serde_json::Value>,
        /// For swarms.
        pub rollback_config: Option<serde_json::Value>,
        /// Limits.
        pub resources: Resources,
        /// When to start it again.
        pub restart_policy: Option<DeployRestart>,
        /// For swarms.
        pub placement: Option<serde_json::Value>,
        /// For swarms.
        pub endpoint_mode: String,
    }
}

record! {
    /// Limits.
    pub struct Resources {
        /// What it may use.
        pub limits: Option<Resource>,
        /// What it is to have.
        pub reservations: Option<Resource>,
    }
}

record! {
    /// Limits.
    pub struct Resource {
        /// Number of CPUs.
        pub cpus: Option<f64>,
        /// Bytes.
        pub memory: Option<Bytes>,
        /// Number of processes.
        pub pids: Option<i64>,
        /// Devices by a driver's words.
        pub devices: Vec<serde_json::Value>,
        /// For swarms.
        pub generic_resources: Vec<serde_json::Value>,
    }
}

record! {
    /// When to start it again.
    pub struct DeployRestart {
        /// `none`, `on-failure`, `any`.
        pub condition: String,
        /// Time between.
        pub delay: Option<Duration>,
        /// How often.
        pub max_attempts: Option<i64>,
        /// Time in which it counts.
        pub window: Option<Duration>,
    }
}

record! {
    /// A device.
    pub struct Device {
        /// On the host.
        pub source: String,
        /// Inside.
        pub target: String,
        /// `rwm`.
        pub permissions: String,
    }
}

record! {
    /// A file of variables.
    pub struct EnvFile {
        /// Where.
        pub path: String,
        /// It must be there.
        #[serde(default = "yes")]
        pub required: bool,
        /// `raw`: nothing is interpolated.
        pub format: String,
    }
}

record! {
    /// How to find out whether a container is well.
    pub struct Healthcheck {
        /// `NONE`, `CMD …`, `CMD-SHELL …`.
        pub test: Vec<String>,
        /// Time between checks.
        pub interval: Option<Duration>,
        /// Time of one check.
        pub timeout: Option<Duration>,
        /// Failures until it is unwell.
        pub retries: Option<i64>,
        /// Time in which failures do not count.
        pub start_period: Option<Duration>,
        /// Time between checks in it.
        pub start_interval: Option<Duration>,
        /// No check.
        pub disable: bool,
    }
}

record! {
    /// A command at a moment of a container's life.
    pub struct Hook {
        /// What runs.
        pub command: Vec<String>,
        /// As whom.
        pub user: String,
        /// With all privileges.
        pub privileged: bool,
        /// Where.
        pub working_dir: String,
        /// Variables.
        pub environment: BTreeMap<String, Option<String>>,
    }
}

record! {
    /// Where a log goes.
    pub struct Logging {
        /// The driver.
        pub driver: String,
        /// Its options.
        pub options: Texts,
    }
}

record! {
    /// A service's place in a network.
    pub struct ServiceNetwork {
        /// Further names.
        pub aliases: Vec<String>,
        /// Address.
        pub ipv4_address: String,
        /// IPv6 address.
        pub ipv6_address: String,
        /// Link-local addresses.
        pub link_local_ips: Vec<String>,
        /// Hardware address.
        pub mac_address: String,
        /// Options of the driver.
        pub driver_opts: Texts,
        /// The highest is joined first.
        pub priority: i64,
        /// The highest has the gateway.
        pub gw_priority: i64,
        /// The link's name inside.
        pub interface_name: String,
    }
}

record! {
    /// A published port.
    pub struct Port {
        /// For people.
        pub name: String,
        /// `host` or `ingress`.
        pub mode: String,
        /// The host's address.
        pub host_ip: String,
        /// The port inside.
        pub target: u16,
        /// The host's port or ports.
        pub published: String,
        /// `tcp`, `udp`, `sctp`.
        pub protocol: String,
        /// For people.
        pub app_protocol: String,
    }
}

record! {
    /// A mount.
    pub struct Mount {
        /// `volume`, `bind`, `tmpfs`.
        #[serde(rename = "type")]
        pub kind: String,
        /// A path or a volume.
        pub source: String,
        /// The path inside.
        pub target: String,
        /// Not to be written.
        pub read_only: bool,
        /// Kept for other systems.
        pub consistency: String,
        /// Of bind mounts.
        pub bind: Option<BindOptions>,
        /// Of volumes.
        pub volume: Option<VolumeOptions>,
        /// Of file systems in memory.
        pub tmpfs: Option<TmpfsOptions>,
    }
}

record! {
    /// Options of a bind mount.
    pub struct BindOptions {
        /// Mount propagation.
        pub propagation: String,
        /// Make the source if it is missing.
        pub create_host_path: Option<bool>,
        /// `z` or `Z`.
        pub selinux: String,
        /// Mounts below.
        pub recursive: String,
    }
}

record! {
    /// Options of a volume mount.
    pub struct VolumeOptions {
        /// Do not fill it.
        pub nocopy: bool,
        /// A directory of it.
        pub subpath: String,
        /// Labels of an anonymous one.
        pub labels: Texts,
    }
}

record! {
    /// Options of a file system in memory.
    pub struct TmpfsOptions {
        /// Bytes.
        pub size: Option<Bytes>,
        /// Permissions.
        pub mode: Option<u32>,
    }
}

record! {
    /// A config or secret that a service sees as a file.
    pub struct FileMount {
        /// Its name.
        pub source: String,
        /// The path inside.
        pub target: String,
        /// Owner.
        pub uid: String,
        /// Group.
        pub gid: String,
        /// Permissions.
        pub mode: Option<u32>,
    }
}

record! {
    /// A resource limit.
    pub struct Ulimit {
        /// What counts at first.
        pub soft: i64,
        /// How far it may be raised.
        pub hard: i64,
    }
}

record! {
    /// Limits of disk traffic.
    pub struct Blkio {
        /// Relative weight.
        pub weight: u16,
        /// By device.
        pub weight_device: Vec<BlkioWeight>,
        /// By device.
        pub device_read_bps: Vec<BlkioRate>,
        /// By device.
        pub device_read_iops: Vec<BlkioRate>,
        /// By device.
        pub device_write_bps: Vec<BlkioRate>,
        /// By device.
        pub device_write_iops: Vec<BlkioRate>,
    }
}

record! {
    /// A device's weight.
    pub struct BlkioWeight {
        /// The device.
        pub path: String,
        /// Its weight.
        pub weight: u16,
    }
}

record! {
    /// A device's limit.
    pub struct BlkioRate {
        /// The device.
        pub path: String,
        /// Bytes or operations a second.
        pub rate: Bytes,
    }
}

impl Project {
    /// Services in an order in which each comes after those that it depends on.
    pub fn in_order(&self) -> Vec<&str> {
        let mut order: Vec<&str> = Vec::new();
        // Cycles were refused when it was read, so that each round takes at least one.
        while order.len() < self.services.len() {
            let before = order.len();
            for (name, service) in &self.services {
                let ready = |dep: &String| order.contains(&dep.as_str()) || !self.services.contains_key(dep);
                if !order.contains(&name.as_str()) && service.depends_on.keys().all(ready) {
                    order.push(name);
                }
            }
            if order.len() == before {
                break;
            }
        }
        order
    }
}
