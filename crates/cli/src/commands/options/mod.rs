//! What `run` and `create` can be told, and the request that it makes.
//!
//! * `Options` (here): the flags. * [`request`]: the flags put together.
//! * [`environment`]: variables and labels, also from files. * [`mounts`]: `--mount`, `--tmpfs`.
//! * [`networks`]: `--network` and what belongs to it. * [`limits`]: devices, limits, health. * [`security`]: `--security-opt`.

pub(crate) mod environment;
pub(crate) mod limits;
pub(crate) mod mounts;
pub(crate) mod networks;
mod request;
pub(crate) mod security;

pub(crate) use request::{create_request, restart_policy};

use clap::Args;

use super::parse_size;

/// What `run` and `create` have in common.
#[derive(Args, Default)]
#[command(trailing_var_arg = true)]
pub(crate) struct Options {
    /// The container's name
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) name: String,
    /// Give the command a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Keep standard input open
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Attach to stdin, stdout or stderr only
    #[arg(short, long, value_name = "STREAM", value_parser = parse_stream)]
    pub(crate) attach: Vec<String>,
    /// Remove the container when it exits
    #[arg(long)]
    pub(crate) rm: bool,
    /// Set an environment variable
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub(crate) env: Vec<String>,
    /// Read environment variables from a file
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Vec<String>,
    /// Publish a port: [[IP:]HOST_PORT:]PORT[/tcp|udp|sctp]
    #[arg(short, long, value_name = "PORT")]
    pub(crate) publish: Vec<String>,
    /// Publish all exposed ports to ports that are picked
    #[arg(short = 'P', long)]
    pub(crate) publish_all: bool,
    /// Say that a port is served
    #[arg(long, value_name = "PORT")]
    pub(crate) expose: Vec<String>,
    /// Mount a host directory or a volume: SOURCE:TARGET[:OPTIONS]
    #[arg(short, long, value_name = "MOUNT")]
    pub(crate) volume: Vec<String>,
    /// The driver of volumes that are made
    #[arg(long, default_value = "", hide_default_value = true, value_name = "NAME")]
    pub(crate) volume_driver: String,
    /// Mount the volumes of another container: CONTAINER[:ro]
    #[arg(long, value_name = "CONTAINER")]
    pub(crate) volumes_from: Vec<String>,
    /// Mount something: type=bind|volume|tmpfs,source=…,target=…[,readonly]
    #[arg(long, value_name = "MOUNT")]
    pub(crate) mount: Vec<String>,
    /// Mount a file system in memory: TARGET[:OPTIONS]
    #[arg(long, value_name = "MOUNT")]
    pub(crate) tmpfs: Vec<String>,
    /// Options of the root file system's driver
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) storage_opt: Vec<String>,
    /// Directory that the command starts in
    #[arg(short, long, default_value = "", hide_default_value = true)]
    pub(crate) workdir: String,
    /// User (and group) that runs the command
    #[arg(short, long, default_value = "", hide_default_value = true, value_name = "USER[:GROUP]")]
    pub(crate) user: String,
    /// Give the user another group
    #[arg(long, value_name = "GROUP")]
    pub(crate) group_add: Vec<String>,
    /// Use another entrypoint
    #[arg(long, value_name = "COMMAND")]
    pub(crate) entrypoint: Option<String>,
    /// The container's host name
    #[arg(short = 'h', long, default_value = "", hide_default_value = true)]
    pub(crate) hostname: String,
    /// The container's NIS domain name
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) domainname: String,
    /// Set a label
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub(crate) label: Vec<String>,
    /// Read labels from a file
    #[arg(long, value_name = "FILE")]
    pub(crate) label_file: Vec<String>,
    /// Words for the OCI runtime
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) annotation: Vec<String>,
    /// Join a network: bridge, host, none, container:NAME, NAME or name=NAME,ip=…,alias=…
    #[arg(long, visible_alias = "net", value_name = "NETWORK")]
    pub(crate) network: Vec<String>,
    /// Another name in the network
    #[arg(long, visible_alias = "net-alias", value_name = "NAME")]
    pub(crate) network_alias: Vec<String>,
    /// Address in the network
    #[arg(long, default_value = "", hide_default_value = true, value_name = "ADDRESS")]
    pub(crate) ip: String,
    /// IPv6 address in the network
    #[arg(long, default_value = "", hide_default_value = true, value_name = "ADDRESS")]
    pub(crate) ip6: String,
    /// Link-local address in the network
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) link_local_ip: Vec<String>,
    /// Know another container by a name: CONTAINER[:NAME]
    #[arg(long, value_name = "CONTAINER")]
    pub(crate) link: Vec<String>,
    /// Hardware address
    #[arg(long, default_value = "", hide_default_value = true, value_name = "ADDRESS")]
    pub(crate) mac_address: String,
    /// Use a name server
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) dns: Vec<String>,
    /// Search a domain
    #[arg(long, value_name = "DOMAIN")]
    pub(crate) dns_search: Vec<String>,
    /// Set a resolver option
    #[arg(long, visible_alias = "dns-opt", value_name = "OPTION")]
    pub(crate) dns_option: Vec<String>,
    /// Add a line to /etc/hosts
    #[arg(long, value_name = "NAME:ADDRESS")]
    pub(crate) add_host: Vec<String>,
    /// Number of CPUs, such as 0.2
    #[arg(long, value_name = "NUMBER")]
    pub(crate) cpus: Option<f64>,
    /// Relative weight of CPU time
    #[arg(short = 'c', long, default_value_t = 0, hide_default_value = true)]
    pub(crate) cpu_shares: i64,
    /// Period of the CPU limit in microseconds
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    pub(crate) cpu_period: i64,
    /// CPU time in each period in microseconds
    #[arg(long, default_value_t = 0, hide_default_value = true, allow_hyphen_values = true)]
    pub(crate) cpu_quota: i64,
    /// Period of the real-time limit in microseconds
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    pub(crate) cpu_rt_period: i64,
    /// Real time in each period in microseconds
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    pub(crate) cpu_rt_runtime: i64,
    /// CPUs to run on: 0-3,8
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) cpuset_cpus: String,
    /// Memory nodes to use
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) cpuset_mems: String,
    /// Memory limit, such as 64m
    #[arg(short, long, value_parser = parse_size, default_value = "0", hide_default_value = true)]
    pub(crate) memory: i64,
    /// Limit of memory and swap together, -1: none
    #[arg(long, value_parser = parse_size, default_value = "0", hide_default_value = true, allow_hyphen_values = true)]
    pub(crate) memory_swap: i64,
    /// Soft memory limit
    #[arg(long, value_parser = parse_size, default_value = "0", hide_default_value = true)]
    pub(crate) memory_reservation: i64,
    /// How readily memory is swapped out: 0 to 100
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) memory_swappiness: Option<i64>,
    /// Kept for scripts: kernels have no such limit any more
    #[arg(long, hide = true, value_parser = parse_size)]
    pub(crate) kernel_memory: Option<i64>,
    /// Never kill it for want of memory
    #[arg(long)]
    pub(crate) oom_kill_disable: bool,
    /// How readily it is killed for want of memory: -1000 to 1000
    #[arg(long, default_value_t = 0, hide_default_value = true, allow_hyphen_values = true)]
    pub(crate) oom_score_adj: i64,
    /// Limit of processes
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) pids_limit: Option<i64>,
    /// Relative weight of disk time: 10 to 1000
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    pub(crate) blkio_weight: u16,
    /// The same for one disk: DEVICE:WEIGHT
    #[arg(long, value_name = "DEVICE:WEIGHT")]
    pub(crate) blkio_weight_device: Vec<String>,
    /// Limit of bytes read in a second
    #[arg(long, value_name = "DEVICE:BYTES")]
    pub(crate) device_read_bps: Vec<String>,
    /// Limit of bytes written in a second
    #[arg(long, value_name = "DEVICE:BYTES")]
    pub(crate) device_write_bps: Vec<String>,
    /// Limit of reads in a second
    #[arg(long, value_name = "DEVICE:NUMBER")]
    pub(crate) device_read_iops: Vec<String>,
    /// Limit of writes in a second
    #[arg(long, value_name = "DEVICE:NUMBER")]
    pub(crate) device_write_iops: Vec<String>,
    /// Set a resource limit: NAME=SOFT[:HARD]
    #[arg(long, value_name = "LIMIT")]
    pub(crate) ulimit: Vec<String>,
    /// Size of /dev/shm
    #[arg(long, value_parser = parse_size, default_value = "0", hide_default_value = true)]
    pub(crate) shm_size: i64,
    /// Set a kernel parameter inside
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) sysctl: Vec<String>,
    /// Pass a device in: HOST[:CONTAINER[:rwm]]
    #[arg(long, value_name = "DEVICE")]
    pub(crate) device: Vec<String>,
    /// Allow devices: 'c 10:* rwm'
    #[arg(long, value_name = "RULE")]
    pub(crate) device_cgroup_rule: Vec<String>,
    /// Graphics cards: not supported
    #[arg(long, hide = true, value_name = "REQUEST")]
    pub(crate) gpus: Option<String>,
    /// Add a capability
    #[arg(long, value_name = "NAME")]
    pub(crate) cap_add: Vec<String>,
    /// Drop a capability
    #[arg(long, value_name = "NAME")]
    pub(crate) cap_drop: Vec<String>,
    /// Security options: seccomp=unconfined|FILE, no-new-privileges, apparmor=…, label=…
    #[arg(long, value_name = "OPTION")]
    pub(crate) security_opt: Vec<String>,
    /// Give all privileges
    #[arg(long)]
    pub(crate) privileged: bool,
    /// Mount the root file system read-only
    #[arg(long)]
    pub(crate) read_only: bool,
    /// Run a small init that passes signals on and reaps
    #[arg(long)]
    pub(crate) init: bool,
    /// The OCI runtime
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) runtime: String,
    /// The parent cgroup
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) cgroup_parent: String,
    /// Process namespace: host or container:NAME
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) pid: String,
    /// IPC namespace: private, shareable, host, none or container:NAME
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) ipc: String,
    /// Host-name namespace: host
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) uts: String,
    /// User namespace: host, or private (of its own, even if the daemon maps no containers)
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) userns: String,
    /// cgroup namespace: private or host
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) cgroupns: String,
    /// Kept for scripts: only Windows has it
    #[arg(long, hide = true, default_value = "")]
    pub(crate) isolation: String,
    /// The signal that asks the command to end
    #[arg(long, value_name = "SIGNAL")]
    pub(crate) stop_signal: Option<String>,
    /// Seconds that it gets for that
    #[arg(long, value_name = "SECONDS", allow_hyphen_values = true)]
    pub(crate) stop_timeout: Option<i64>,
    /// When to start it again: no, always, unless-stopped, on-failure[:TIMES]
    #[arg(long, default_value = "no", hide_default_value = true, value_name = "POLICY")]
    pub(crate) restart: String,
    /// Command that tells whether it is well
    #[arg(long, default_value = "", hide_default_value = true, value_name = "COMMAND")]
    pub(crate) health_cmd: String,
    /// Time between checks: 30s
    #[arg(long, value_parser = limits::parse_duration, value_name = "TIME")]
    pub(crate) health_interval: Option<i64>,
    /// Time that one check may take
    #[arg(long, value_parser = limits::parse_duration, value_name = "TIME")]
    pub(crate) health_timeout: Option<i64>,
    /// Time after the start in which failures do not count
    #[arg(long, value_parser = limits::parse_duration, value_name = "TIME")]
    pub(crate) health_start_period: Option<i64>,
    /// Time between checks in that time
    #[arg(long, value_parser = limits::parse_duration, value_name = "TIME")]
    pub(crate) health_start_interval: Option<i64>,
    /// Failures in a row until it counts as unhealthy
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "NUMBER")]
    pub(crate) health_retries: i64,
    /// No check, even if the image has one
    #[arg(long)]
    pub(crate) no_healthcheck: bool,
    /// Where the log goes: json-file, local, journald, syslog or none
    #[arg(long, default_value = "", hide_default_value = true, value_name = "NAME")]
    pub(crate) log_driver: String,
    /// Option of the log
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) log_opt: Vec<String>,
    /// Write the container's id to a file
    #[arg(long, value_name = "FILE")]
    pub(crate) cidfile: Option<String>,
    /// When to pull the image: always, missing or never
    #[arg(long, value_parser = ["always", "missing", "never"], default_value = "missing", value_name = "WHEN")]
    pub(crate) pull: String,
    /// Do not show the pull
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Kept for scripts: there is no content trust
    #[arg(long, hide = true)]
    pub(crate) disable_content_trust: bool,
    /// Take the image for another machine: os/architecture[/variant]
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) platform: String,
    /// Image, command and arguments
    #[arg(required = true, allow_hyphen_values = true, value_name = "IMAGE [COMMAND] [ARG]...")]
    pub(crate) image_and_command: Vec<String>,
}

fn parse_stream(text: &str) -> Result<String, String> {
    let lower = text.to_lowercase();
    match lower.as_str() {
        "stdin" | "stdout" | "stderr" => Ok(lower),
        _ => Err(format!("`{text}` is not a stream: stdin, stdout or stderr")),
    }
}

/// `NAME=VALUE` each; a name alone has no value.
pub(crate) fn pairs(list: &[String]) -> std::collections::BTreeMap<String, String> {
    let pair = |text: &String| {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        (name.to_owned(), value.to_owned())
    };
    list.iter().map(pair).collect()
}
