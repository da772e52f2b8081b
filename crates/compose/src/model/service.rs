//! A service: containers of one kind.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    Blkio, Build, Bytes, Dependency, Deploy, Device, Duration, EnvFile, FileMount, Healthcheck, Hook,
    Logging, Mount, Port, ServiceNetwork, Texts, Ulimit, none,
};

record! {
    /// A service: containers of one kind.
    pub struct Service {
        /// Words for the OCI runtime.
        pub annotations: Texts,
        /// Attach to it in `up`.
        pub attach: Option<bool>,
        /// Limits of disk traffic.
        pub blkio_config: Option<Blkio>,
        /// How its image is built.
        pub build: Option<Build>,
        /// Capabilities to add.
        pub cap_add: Vec<String>,
        /// Capabilities to drop.
        pub cap_drop: Vec<String>,
        /// cgroup namespace.
        pub cgroup: String,
        /// Parent cgroup.
        pub cgroup_parent: String,
        /// Command and arguments.
        pub command: Option<Vec<String>>,
        /// Configs that it sees.
        pub configs: Vec<FileMount>,
        /// The container's name, instead of one that is made up.
        pub container_name: String,
        /// Windows only.
        pub cpu_count: Option<i64>,
        /// Windows only.
        pub cpu_percent: Option<f64>,
        /// Microseconds.
        pub cpu_period: Option<i64>,
        /// Microseconds.
        pub cpu_quota: Option<i64>,
        /// Microseconds.
        pub cpu_rt_period: Option<i64>,
        /// Microseconds.
        pub cpu_rt_runtime: Option<i64>,
        /// Relative weight.
        pub cpu_shares: Option<i64>,
        /// Number of CPUs.
        pub cpus: Option<f64>,
        /// CPUs to run on.
        pub cpuset: String,
        /// Services that come first.
        pub depends_on: BTreeMap<String, Dependency>,
        /// How many, and how much each may use.
        pub deploy: Option<Deploy>,
        /// For `compose watch`, which is not here.
        pub develop: Option<serde_json::Value>,
        /// Rules for devices.
        pub device_cgroup_rules: Vec<String>,
        /// Devices.
        pub devices: Vec<Device>,
        /// Name servers.
        pub dns: Vec<String>,
        /// Resolver options.
        pub dns_opt: Vec<String>,
        /// Search domains.
        pub dns_search: Vec<String>,
        /// NIS domain name.
        pub domainname: String,
        /// The command that arguments are given to.
        pub entrypoint: Option<Vec<String>>,
        /// Variables; without a value: the one of who runs compose.
        pub environment: BTreeMap<String, Option<String>>,
        /// Files of variables.
        pub env_file: Vec<EnvFile>,
        /// Ports that are only said to be served.
        pub expose: Vec<String>,
        /// Containers of others to know by name.
        pub external_links: Vec<String>,
        /// Lines of /etc/hosts.
        pub extra_hosts: BTreeMap<String, Vec<String>>,
        /// Graphics cards.
        pub gpus: Option<serde_json::Value>,
        /// Further groups.
        pub group_add: Vec<String>,
        /// How to find out whether it is well.
        pub healthcheck: Option<Healthcheck>,
        /// Host name.
        pub hostname: String,
        /// The image.
        pub image: String,
        /// A small init as process 1.
        pub init: Option<bool>,
        /// IPC namespace.
        pub ipc: String,
        /// Windows only.
        pub isolation: String,
        /// Labels.
        pub labels: Texts,
        /// Files of labels.
        pub label_file: Vec<String>,
        /// Services to know by name.
        pub links: Vec<String>,
        /// Where the log goes.
        pub logging: Option<Logging>,
        /// Hardware address.
        pub mac_address: String,
        /// Bytes.
        pub mem_limit: Option<Bytes>,
        /// Bytes.
        pub mem_reservation: Option<Bytes>,
        /// 0 to 100.
        pub mem_swappiness: Option<i64>,
        /// Bytes of memory and swap.
        pub memswap_limit: Option<Bytes>,
        /// A network mode instead of networks.
        pub network_mode: String,
        /// Networks that it joins.
        pub networks: BTreeMap<String, Option<ServiceNetwork>>,
        /// Never killed for want of memory.
        pub oom_kill_disable: Option<bool>,
        /// -1000 to 1000.
        pub oom_score_adj: Option<i64>,
        /// PID namespace.
        pub pid: String,
        /// Number of processes.
        pub pids_limit: Option<i64>,
        /// The image's platform.
        pub platform: String,
        /// Published ports.
        pub ports: Vec<Port>,
        /// Run when it has started.
        pub post_start: Vec<Hook>,
        /// Run before it is stopped.
        pub pre_stop: Vec<Hook>,
        /// All privileges.
        pub privileged: Option<bool>,
        /// It belongs to these profiles.
        pub profiles: Vec<String>,
        /// When to pull.
        pub pull_policy: String,
        /// Root file system read-only.
        pub read_only: Option<bool>,
        /// When to start it again.
        pub restart: String,
        /// The OCI runtime.
        pub runtime: String,
        /// How many.
        pub scale: Option<u32>,
        /// Secrets that it sees.
        pub secrets: Vec<FileMount>,
        /// Security options.
        pub security_opt: Vec<String>,
        /// Bytes.
        pub shm_size: Option<Bytes>,
        /// Standard input stays open.
        pub stdin_open: Option<bool>,
        /// Time to end after the signal.
        pub stop_grace_period: Option<Duration>,
        /// The signal.
        pub stop_signal: String,
        /// Options of the root file system's driver.
        pub storage_opt: Texts,
        /// Kernel parameters.
        pub sysctls: Texts,
        /// File systems in memory.
        pub tmpfs: Vec<String>,
        /// A terminal.
        pub tty: Option<bool>,
        /// Resource limits.
        pub ulimits: BTreeMap<String, Ulimit>,
        /// The user.
        pub user: String,
        /// User namespace.
        pub userns_mode: String,
        /// UTS namespace.
        pub uts: String,
        /// The driver of its volumes.
        pub volume_driver: String,
        /// Mounts.
        pub volumes: Vec<Mount>,
        /// Services or containers whose volumes it shares.
        pub volumes_from: Vec<String>,
        /// Where the command starts.
        pub working_dir: String,
    }
}

impl Service {
    /// How many containers it is to have.
    pub fn replicas(&self) -> u32 {
        self.scale.or(self.deploy.as_ref().and_then(|d| d.replicas)).unwrap_or(1)
    }

    /// Its image, by the name that it is given where it only is built.
    pub fn image_name(&self, project: &str, service: &str) -> String {
        if self.image.is_empty() { format!("{project}-{service}") } else { self.image.clone() }
    }
}
