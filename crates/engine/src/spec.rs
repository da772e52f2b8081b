//! What a container is to be, in plain values: the engine's own words for what Docker's API and the CRI ask for.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use sampan_oci::image::Healthcheck;
use serde::{Deserialize, Serialize};

/// Everything that is decided when a container is created. Stored with it, so every field has a default and none
/// changes its meaning.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(default)]
pub struct ContainerSpec {
    /// The image as it was asked for.
    pub image: String,
    /// The command that `cmd` is given to; `None`: the image's.
    pub entrypoint: Option<Vec<String>>,
    /// Arguments; `None`: the image's, unless an entrypoint was given.
    pub cmd: Option<Vec<String>>,
    /// `NAME=value`; they override the image's.
    pub env: Vec<String>,
    /// Absolute; `None`: the image's.
    pub working_dir: Option<String>,
    /// `user[:group]`; `None`: the image's.
    pub user: Option<String>,
    /// Further groups, names or numbers.
    pub group_add: Vec<String>,
    /// `None`: the id's first 12 digits.
    pub hostname: Option<String>,
    /// NIS domain name.
    pub domainname: Option<String>,
    /// The process gets a terminal.
    pub tty: bool,
    /// Standard input stays open.
    pub open_stdin: bool,
    /// Standard input closes when the first attached client goes.
    pub stdin_once: bool,
    /// What the creating client said it would attach to: stdin, stdout, stderr. Only shown again.
    pub attach: [bool; 3],
    /// Labels, the image's included.
    pub labels: BTreeMap<String, String>,
    /// Ports it serves, the image's included.
    pub exposed: Vec<Port>,
    /// Ports to publish.
    pub publish: Vec<Publish>,
    /// Publish every exposed port somewhere.
    pub publish_all: bool,
    /// The signal that asks it to end; `None`: the image's, else SIGTERM.
    pub stop_signal: Option<String>,
    /// Seconds to wait after it; `None`: 10.
    pub stop_timeout: Option<i64>,
    /// Which network.
    pub network: NetworkMode,
    /// The network as it was asked for, only shown again; empty: `default`.
    pub network_word: String,
    /// Its places in networks, by the network's id (until creation has resolved them, as they were named): its own
    /// network's, which creation adds if it is missing, and further ones.
    pub endpoints: BTreeMap<String, EndpointWish>,
    /// `container:alias`: containers of the default network that it knows by another name (the old `--link`).
    pub links: Vec<String>,
    /// Name servers, search domains and options for resolv.conf; empty: the host's.
    pub dns: Dns,
    /// `name:address`.
    pub extra_hosts: Vec<String>,
    /// What is mounted besides the default mounts.
    pub mounts: Vec<MountSpec>,
    /// Paths that get an anonymous volume, the image's included. Became `mounts` at creation; only shown again.
    pub anonymous_volumes: Vec<String>,
    /// Limits.
    pub resources: Resources,
    /// Privileges.
    pub security: Security,
    /// Process namespace.
    pub pid: NamespaceMode,
    /// IPC namespace.
    pub ipc: IpcMode,
    /// Host-name namespace.
    pub uts: NamespaceMode,
    /// cgroup namespace; Docker's default is `host` on cgroup v1 and `private` on v2.
    pub cgroup: Option<NamespaceMode>,
    /// The directory above the container's cgroup.
    pub cgroup_parent: Option<String>,
    /// Bytes of /dev/shm; 0: 64 MiB.
    pub shm_size: i64,
    /// Kernel parameters.
    pub sysctls: BTreeMap<String, String>,
    /// Resource limits of the process.
    pub ulimits: Vec<Ulimit>,
    /// Devices to pass in.
    pub devices: Vec<Device>,
    /// `c 10:200 rwm`.
    pub device_rules: Vec<String>,
    /// Remove the container and its anonymous volumes when it ends.
    pub auto_remove: bool,
    /// What to do when it ends.
    pub restart_policy: RestartPolicy,
    /// How to find out whether it is well, the image's included; `None`: there is no check.
    pub health: Option<HealthSpec>,
    /// A small init is the first process; `None`: it was not said.
    pub init: Option<bool>,
    /// Containers whose mounts it gets at creation; then only shown again.
    pub volumes_from: Vec<VolumesFrom>,
    /// The driver of volumes it gave no driver for; empty: `local`.
    pub volume_driver: String,
    /// Whether it has a user namespace.
    #[serde(alias = "userns_host")]
    pub userns: UsernsMode,
    /// Annotations for the OCI runtime.
    pub annotations: BTreeMap<String, String>,
    /// The isolation as it was named, `default` or empty; only shown again.
    pub isolation: String,
    /// The OCI runtime as it was named; empty: the daemon's.
    pub runtime: String,
    /// The size of the creating client's terminal: rows, columns. Only shown again.
    pub console_size: [u32; 2],
    /// A file the client wrote the id to; only shown again.
    pub id_file: String,
    /// It gets no network; only shown again.
    pub network_disabled: bool,
    /// The shell of the health check in shell form; `None`: `/bin/sh -c`, whatever its image was built with, as in Docker.
    pub shell: Option<Vec<String>>,
    /// Instructions for builds on top of its image; only shown again.
    pub on_build: Vec<String>,
    /// The log's driver and options.
    pub log: LogSpec,
}

/// Which user namespace a container is in.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
#[serde(rename_all = "kebab-case", from = "StoredUserns")]
pub enum UsernsMode {
    /// As the daemon has it: its own if the daemon maps containers, else the host's.
    #[default]
    Default,
    /// The host's.
    Host,
    /// Its own.
    Private,
}

/// As it is stored; in records of before there was more than one choice, whether it is the host's.
#[derive(Deserialize)]
#[serde(untagged)]
enum StoredUserns {
    Host(bool),
    Word(UsernsWord),
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum UsernsWord {
    Default,
    Host,
    Private,
}

impl From<StoredUserns> for UsernsMode {
    fn from(stored: StoredUserns) -> UsernsMode {
        match stored {
            StoredUserns::Host(true) | StoredUserns::Word(UsernsWord::Host) => UsernsMode::Host,
            StoredUserns::Host(false) | StoredUserns::Word(UsernsWord::Default) => UsernsMode::Default,
            StoredUserns::Word(UsernsWord::Private) => UsernsMode::Private,
        }
    }
}

/// What to do when a container ends.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Nothing.
    #[default]
    No,
    /// Start it again; also when the daemon starts, even if it was stopped by hand.
    Always,
    /// Start it again, unless it was stopped by hand.
    UnlessStopped,
    /// Start it again if its exit code is not 0.
    OnFailure {
        /// So many times at most; 0: without end.
        max_retries: u32,
    },
}

/// How to find out whether a container is well. Times are in nanoseconds, 0 where they were not given.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Default)]
#[serde(default)]
pub struct HealthSpec {
    /// `["CMD", …]`, `["CMD-SHELL", command]` or `["NONE"]`; empty: the image's.
    pub test: Vec<String>,
    /// From the end of one probe to the next; 30 s.
    pub interval: i64,
    /// What one probe may take; 30 s.
    pub timeout: i64,
    /// After the start failures do not count for so long; 0 s.
    pub start_period: i64,
    /// As `interval`, in the start period; 5 s.
    pub start_interval: i64,
    /// So many failures in a row make it unhealthy; 3.
    pub retries: i64,
}

impl From<&Healthcheck> for HealthSpec {
    fn from(of_image: &Healthcheck) -> HealthSpec {
        HealthSpec {
            test: of_image.test.clone(),
            interval: of_image.interval,
            timeout: of_image.timeout,
            start_period: of_image.start_period,
            start_interval: of_image.start_interval,
            retries: of_image.retries,
        }
    }
}

impl From<&HealthSpec> for Healthcheck {
    fn from(spec: &HealthSpec) -> Healthcheck {
        Healthcheck {
            test: spec.test.clone(),
            interval: spec.interval,
            timeout: spec.timeout,
            start_period: spec.start_period,
            start_interval: spec.start_interval,
            retries: spec.retries,
        }
    }
}

/// A port and its protocol.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port {
    /// 1 to 65535.
    pub number: u16,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
}

/// A transport protocol.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        })
    }
}

impl std::fmt::Display for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.number, self.protocol)
    }
}

impl std::str::FromStr for Port {
    type Err = String;

    /// Reads `80`, `80/tcp` or `53/udp`.
    fn from_str(text: &str) -> Result<Port, String> {
        let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            _ => return Err(format!("invalid port `{text}`: unknown protocol `{protocol}`")),
        };
        match number.parse() {
            Ok(number) if number > 0 => Ok(Port { number, protocol }),
            _ => Err(format!("invalid port `{text}`: expected a number from 1 to 65535")),
        }
    }
}

/// A port to publish on the host.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Publish {
    /// The port inside.
    pub port: Port,
    /// The host's address as it was given; empty: all.
    pub host_ip: String,
    /// The host's port; 0: one is picked.
    pub host_port: u16,
    /// The last of a range of ports that begins with `host_port`, of which any free one will do; 0: no range.
    #[serde(default)]
    pub host_port_end: u16,
}

/// A container's network.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// The default bridge.
    #[default]
    Bridge,
    /// The host's own.
    Host,
    /// Only a loopback device.
    None,
    /// Another container's, by id.
    Container(String),
    /// A network that somebody has made, by its id (until creation has resolved it, as it was named).
    Named(String),
}

impl NetworkMode {
    /// Whether the container has a network namespace of ours, with links in it.
    pub fn has_endpoints(&self) -> bool {
        matches!(self, NetworkMode::Bridge | NetworkMode::Named(_))
    }
}

/// How a container is to be in a network.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[serde(default)]
pub struct EndpointWish {
    /// The network's name when this was asked for: shown when the network itself can't be asked.
    pub network: String,
    /// Further names for it in the network.
    pub aliases: Vec<String>,
    /// A fixed address.
    pub ipv4: Option<Ipv4Addr>,
    /// A fixed IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
    /// Further addresses of its link.
    pub link_local: Vec<IpAddr>,
    /// A fixed hardware address.
    pub mac: Option<String>,
    /// `container:alias`: names that only it knows containers of this network by.
    pub links: Vec<String>,
    /// Options of the network's driver.
    pub driver_options: BTreeMap<String, String>,
    /// The network with the highest is the way to everywhere else.
    pub gateway_priority: i64,
}

/// A namespace other than the network's.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "lowercase")]
pub enum NamespaceMode {
    /// One of its own.
    #[default]
    Private,
    /// The host's.
    Host,
    /// Another container's, by id.
    Container(String),
}

/// An IPC namespace and its /dev/shm.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "lowercase")]
pub enum IpcMode {
    /// One of its own.
    #[default]
    Private,
    /// One of its own that other containers may join.
    Shareable,
    /// One of its own, without /dev/shm.
    None,
    /// The host's.
    Host,
    /// Another container's, by id.
    Container(String),
}

/// The contents of resolv.conf.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[serde(default)]
pub struct Dns {
    /// Addresses.
    pub servers: Vec<String>,
    /// Search domains.
    pub search: Vec<String>,
    /// Options.
    pub options: Vec<String>,
}

/// A mount besides the default ones.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct MountSpec {
    /// What is mounted.
    pub source: MountSource,
    /// The absolute path inside.
    pub target: String,
    /// Not to be written.
    pub read_only: bool,
    /// The options as they were given, for showing.
    pub mode: String,
    /// `rprivate`, `rslave`, `rshared`, ….
    pub propagation: String,
    /// How it was asked for.
    #[serde(default)]
    pub form: MountForm,
}

impl ContainerSpec {
    /// The ids of the containers that must run when it starts, since it shares namespaces with them.
    pub(crate) fn needed_containers(&self) -> impl Iterator<Item = &str> {
        let network = match &self.network {
            NetworkMode::Container(id) => Some(id.as_str()),
            _ => None,
        };
        let ipc = match &self.ipc {
            IpcMode::Container(id) => Some(id.as_str()),
            _ => None,
        };
        let others = [&self.pid, &self.uts].into_iter().map(|mode| match mode {
            NamespaceMode::Container(id) => Some(id.as_str()),
            _ => None,
        });
        [network, ipc].into_iter().chain(others).flatten()
    }
}

impl MountSpec {
    /// A mount without options.
    pub fn new(source: MountSource, target: impl Into<String>) -> MountSpec {
        MountSpec {
            source,
            target: target.into(),
            read_only: false,
            mode: String::new(),
            propagation: String::new(),
            form: MountForm::Unknown,
        }
    }
}

impl MountSource {
    /// A path of the host, with what is mounted below it.
    pub fn bind(path: impl Into<PathBuf>) -> MountSource {
        MountSource::Bind {
            path: path.into(),
            recursive: true,
            create: false,
            read_only_below: ReadOnlyBelow::default(),
        }
    }

    /// A volume, filled when it is new.
    pub fn volume(name: impl Into<String>, anonymous: bool) -> MountSource {
        MountSource::Volume {
            name: name.into(),
            anonymous,
            copy_up: true,
            subpath: String::new(),
            labels: BTreeMap::new(),
            driver: None,
        }
    }
}

/// How a mount was asked for; decides how it is shown again.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "lowercase")]
pub enum MountForm {
    /// Not known: a record of an older sampan.
    #[default]
    Unknown,
    /// In the short form, `-v`: the text.
    Short(String),
    /// In the long form, `--mount`; its consistency, which has no meaning here.
    Long(String),
    /// As `--tmpfs`: the options' text.
    Tmpfs(String),
    /// As a path that gets a volume.
    Anonymous,
    /// From another container.
    From,
}

/// What is mounted.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum MountSource {
    /// A directory or file of the host.
    Bind {
        /// Absolute.
        path: PathBuf,
        /// With what is mounted below it.
        recursive: bool,
        /// Make the directory on the host if there is none.
        #[serde(default)]
        create: bool,
        /// What read-only means for mounts below it.
        #[serde(default)]
        read_only_below: ReadOnlyBelow,
    },
    /// A volume, made when missing.
    Volume {
        /// Its name.
        name: String,
        /// It was made for this container and goes with it.
        anonymous: bool,
        /// Fill it, when empty, with what the image has at the target.
        copy_up: bool,
        /// Only this path in it; empty: all of it.
        #[serde(default)]
        subpath: String,
        /// Labels of it if it is made.
        #[serde(default)]
        labels: BTreeMap<String, String>,
        /// Driver options of it if it is made.
        #[serde(default)]
        driver: Option<VolumeDriver>,
    },
    /// An image's files, read-only.
    Image {
        /// The image as it was asked for.
        image: String,
        /// Its id; empty until the container is created.
        id: String,
        /// Only this path in it; empty: all of it.
        subpath: String,
    },
    /// A file system in memory.
    Tmpfs {
        /// Mount options: `size=64m`, `mode=1777`, ….
        options: Vec<String>,
    },
}

/// What a read-only bind mount does to the mounts below it.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
#[serde(rename_all = "lowercase")]
pub enum ReadOnlyBelow {
    /// They are read-only, too, if the kernel can do that.
    #[default]
    IfPossible,
    /// They stay as they are.
    No,
    /// They must be.
    Force,
}

/// A volume's driver and its options.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Default)]
#[serde(default)]
pub struct VolumeDriver {
    /// `local`, also when empty.
    pub name: String,
    /// `type`, `device`, `o`.
    pub options: BTreeMap<String, String>,
}

/// A container whose mounts another one gets.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Default)]
#[serde(default)]
pub struct VolumesFrom {
    /// Its id or name.
    pub container: String,
    /// They are read-only there.
    pub read_only: bool,
    /// As it was asked for.
    pub given: String,
}

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

/// Privileges.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[serde(default)]
pub struct Security {
    /// All of them, all devices, no masks.
    pub privileged: bool,
    /// Capabilities to add, `ALL` for all.
    pub cap_add: Vec<String>,
    /// Capabilities to drop, `ALL` for all.
    pub cap_drop: Vec<String>,
    /// The root file system is read-only.
    pub read_only_root: bool,
    /// No privileges by set-uid executables.
    pub no_new_privileges: bool,
    /// The seccomp profile.
    pub seccomp: SeccompChoice,
    /// The `security-opt` words as given, for showing.
    pub options: Vec<String>,
    /// Hidden paths; `None`: the default ones.
    pub masked_paths: Option<Vec<String>>,
    /// Read-only paths; `None`: the default ones.
    pub readonly_paths: Option<Vec<String>>,
}

/// Which seccomp profile.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "lowercase")]
pub enum SeccompChoice {
    /// The default profile.
    #[default]
    Default,
    /// None.
    Unconfined,
    /// A profile in Docker's form: its JSON.
    Profile(String),
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

/// The log's driver and options.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[serde(default)]
pub struct LogSpec {
    /// One of [`crate::logs::driver::DRIVERS`]; empty: the default one.
    pub driver: String,
    /// `max-size`, `max-file`, …: each driver has its own.
    pub options: BTreeMap<String, String>,
}

/// The paths that are hidden inside unless a spec says otherwise.
pub fn default_masked_paths() -> Vec<String> {
    sampan_oci::runtime::defaults::masked_paths()
}

/// The paths that are read-only inside unless a spec says otherwise.
pub fn default_readonly_paths() -> Vec<String> {
    sampan_oci::runtime::defaults::readonly_paths()
}

/// Whether there is a capability of this name, `CAP_…`.
pub fn is_capability(name: &str) -> bool {
    sampan_kernel::capabilities::Set::named(name).is_some()
}

/// Checks a container's name by Docker's rule: `[a-zA-Z0-9][a-zA-Z0-9_.-]+`.
///
/// # Errors
/// A sentence for people.
pub fn check_name(name: &str) -> Result<(), String> {
    let mut bytes = name.bytes();
    let first = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric());
    let rest = bytes.len() > 0 && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    if first && rest && name.len() <= 200 {
        Ok(())
    } else {
        Err(format!("Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed."))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_namespace_is_read_as_it_was_stored_once_and_now() {
        for (text, expected) in [
            ("{}", UsernsMode::Default),
            (r#"{"userns_host":false}"#, UsernsMode::Default),
            (r#"{"userns_host":true}"#, UsernsMode::Host),
        ] {
            let spec: ContainerSpec = serde_json::from_str(text).unwrap();
            assert_eq!(spec.userns, expected, "{text}");
        }
        for userns in [UsernsMode::Default, UsernsMode::Host, UsernsMode::Private] {
            let stored = serde_json::to_string(&ContainerSpec { userns, ..Default::default() }).unwrap();
            assert_eq!(serde_json::from_str::<ContainerSpec>(&stored).unwrap().userns, userns);
        }
    }

    #[test]
    fn ports_read_and_write() {
        for text in ["80/tcp", "53/udp", "9/sctp"] {
            assert_eq!(text.parse::<Port>().unwrap().to_string(), text);
        }
        assert_eq!("80".parse::<Port>().unwrap().to_string(), "80/tcp");
        for bad in ["0", "65536", "x", "80/icmp", ""] {
            assert!(bad.parse::<Port>().is_err(), "{bad}");
        }
    }

    #[test]
    fn names_follow_dockers_rule() {
        for good in ["web", "a1", "x_y.z-0"] {
            check_name(good).unwrap();
        }
        for bad in ["", "a", "-web", "~x", "a/b", "wéb"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
