//! What a container is to be, in plain values: the engine's own words for what Docker's API and the CRI ask for.

mod health;
mod limits;
mod mounts;
mod namespaces;
mod networks;
mod security;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use health::HealthSpec;
pub use limits::{Device, DeviceNumber, Resources, Ulimit};
pub use mounts::{MountForm, MountSource, MountSpec, ReadOnlyBelow, VolumeDriver, VolumesFrom};
pub use namespaces::{IpcMode, NamespaceMode, UsernsMode};
pub use networks::{Dns, EndpointWish, NetworkMode, Port, Protocol, Publish};
pub use security::{SeccompChoice, Security, default_masked_paths, default_readonly_paths, is_capability};

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

/// The log's driver and options.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[serde(default)]
pub struct LogSpec {
    /// One of [`crate::logs::driver::DRIVERS`]; empty: the default one.
    pub driver: String,
    /// `max-size`, `max-file`, …: each driver has its own.
    pub options: BTreeMap<String, String>,
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
