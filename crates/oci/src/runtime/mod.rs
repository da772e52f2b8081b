//! The OCI runtime specification's documents (runtime-spec 1.3, Linux).
//!
//! * [`Spec`] is `config.json`; [`Process`] alone is what `exec --process` reads. Both are *raw*: they hold what
//!   was sent, in its order, with names that nobody has checked yet (capabilities, rlimits, architectures).
//! * [`State`] is what `state` prints and hooks read, [`Features`] what `features` prints.
//! * [`defaults`] are Docker's defaults, shared by everyone who writes a config.json.
//!
//! Every optional field is an `Option`, a `Vec` or a map and is not written when empty. A `null` reads as absent,
//! because Go writes one for an empty list. Fields that are not in the spec are ignored, as the spec demands.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize};

pub mod defaults;
mod features;
mod linux;
mod resources;
mod seccomp;
mod state;

pub use features::{
    ApparmorFeature, CgroupFeature, Features, IdmapFeature, IntelRdtFeature, LinuxFeatures,
    MemoryPolicyFeature, MountExtensions, NetDevicesFeature, SeccompFeature, SelinuxFeature, SwitchFeature,
};
pub use linux::{
    Device, IdMapping, IntelRdt, Linux, MemoryPolicy, Namespace, NamespaceKind, NetDevice, Personality,
    TimeOffset,
};
pub use resources::{
    BlockIo, Cpu, DeviceRule, HugepageLimit, InterfacePriority, Memory, Network, Pids, Rdma, Resources,
    ThrottleDevice, WeightDevice,
};
pub use seccomp::{LinuxSeccomp, SeccompAction, SeccompArg, SeccompOperator, SeccompSyscall};
pub use state::{ContainerProcessState, State, Status};

/// The version of the specification that these types describe.
pub const VERSION: &str = "1.3.0";

/// A container's configuration: the file `config.json` of a bundle.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spec {
    /// The version of the specification the file was written for.
    pub oci_version: String,
    /// The container's process; `create` may do without, `start` may not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    /// The root file system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root: Option<Root>,
    /// The host name, in a UTS namespace of the container's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The NIS domain name, as `hostname`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domainname: Option<String>,
    /// What to mount, in this order.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    /// Programs to run at points of the container's life.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hooks: Option<Hooks>,
    /// Free-form notes, handed on in the state.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// What only Linux has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub linux: Option<Linux>,
}

/// A process in a container: config.json's `process`, and the whole document of `exec --process`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Process {
    /// Whether it gets a terminal.
    #[serde(skip_serializing_if = "is_false")]
    pub terminal: bool,
    /// The terminal's first size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub console_size: Option<ConsoleSize>,
    /// Who it runs as.
    pub user: User,
    /// The program and its arguments.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// The environment, `NAME=value` each.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// The working directory, absolute.
    pub cwd: String,
    /// The five capability sets; without them, the process has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Capabilities>,
    /// Resource limits.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub rlimits: Vec<Rlimit>,
    /// Whether exec may never grant privileges.
    #[serde(skip_serializing_if = "is_false")]
    pub no_new_privileges: bool,
    /// The AppArmor profile to run under.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub apparmor_profile: Option<String>,
    /// `/proc/PID/oom_score_adj`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_score_adj: Option<i32>,
    /// The scheduling policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<Scheduler>,
    /// The SELinux context to run in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selinux_label: Option<String>,
    /// The I/O scheduling class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_priority: Option<IoPriority>,
    /// The CPUs that `exec` runs on before and after it joined the cgroup.
    #[serde(rename = "execCPUAffinity", skip_serializing_if = "Option::is_none")]
    pub exec_cpu_affinity: Option<ExecCpuAffinity>,
}

/// A terminal's size in characters.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ConsoleSize {
    /// Lines.
    pub height: u32,
    /// Columns.
    pub width: u32,
}

/// Who a process runs as, in numbers of the container's user namespace.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct User {
    /// The user.
    pub uid: u32,
    /// The primary group.
    pub gid: u32,
    /// The file mode mask; the runtime's default is 0022.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub umask: Option<u32>,
    /// Supplementary groups.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub additional_gids: Vec<u32>,
}

/// The five capability sets, by names as `CAP_CHOWN`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Capabilities {
    /// What the process and its descendants can ever have.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub bounding: Vec<String>,
    /// What is in force.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub effective: Vec<String>,
    /// What exec of a file with inheritable capabilities passes on.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub inheritable: Vec<String>,
    /// What may be put in force.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub permitted: Vec<String>,
    /// What survives the exec of an ordinary file by a user other than root.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub ambient: Vec<String>,
}

/// One resource limit of `setrlimit(2)`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Rlimit {
    /// Its name, as `RLIMIT_NOFILE`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The ceiling for the soft limit.
    pub hard: u64,
    /// The limit in force.
    pub soft: u64,
}

/// A scheduling policy, `sched_setattr(2)`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Scheduler {
    /// The policy, as `SCHED_BATCH`.
    pub policy: String,
    /// The nice value, for SCHED_OTHER and SCHED_BATCH.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nice: Option<i32>,
    /// The static priority, for SCHED_FIFO and SCHED_RR.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
    /// Flags, as `SCHED_FLAG_RESET_ON_FORK`.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<String>,
    /// SCHED_DEADLINE's runtime in nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime: Option<u64>,
    /// SCHED_DEADLINE's deadline in nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline: Option<u64>,
    /// SCHED_DEADLINE's period in nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub period: Option<u64>,
}

/// An I/O scheduling class and priority, `ioprio_set(2)`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct IoPriority {
    /// The class, as `IOPRIO_CLASS_BE`.
    pub class: String,
    /// The priority within the class.
    #[serde(default)]
    pub priority: i32,
}

/// The CPUs that `exec` runs on, as lists like `0-3,8`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ExecCpuAffinity {
    /// Before the process joins the container's cgroup.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initial: Option<String>,
    /// From then on.
    #[serde(rename = "final", skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// The container's root file system.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Root {
    /// Its directory; relative to the bundle if not absolute.
    pub path: PathBuf,
    /// Whether it is read-only in the container.
    #[serde(default, skip_serializing_if = "is_false")]
    pub readonly: bool,
}

/// One mount.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Mount {
    /// Where in the container.
    pub destination: String,
    /// The file system's type; ignored for a bind mount.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// What to mount: for a bind mount a path of the host, relative to the bundle if not absolute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Options, as in fstab.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    /// The users of an id-mapped mount.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub uid_mappings: Vec<IdMapping>,
    /// The groups of an id-mapped mount.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub gid_mappings: Vec<IdMapping>,
}

/// Programs to run at points of the container's life.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Hooks {
    /// Deprecated: after the namespaces are made, in the runtime's namespaces.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub prestart: Vec<Hook>,
    /// In `create`, before pivot_root, in the runtime's namespaces.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub create_runtime: Vec<Hook>,
    /// In `create`, before pivot_root, in the container's namespaces.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub create_container: Vec<Hook>,
    /// In `start`, before the process is executed, in the container.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub start_container: Vec<Hook>,
    /// In `start`, after the process was executed, in the runtime's namespaces.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub poststart: Vec<Hook>,
    /// In `delete`, in the runtime's namespaces.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub poststop: Vec<Hook>,
}

/// A program to run.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Hook {
    /// The program, absolute.
    pub path: PathBuf,
    /// All arguments, its own name first.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// The whole environment.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// Seconds after which it is killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u32>,
}

/// Reads `null` as the empty value.
fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(d: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_false(value: &bool) -> bool {
    !*value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_absent_is_written() {
        let text = serde_json::to_string(&Spec { oci_version: VERSION.into(), ..Spec::default() }).unwrap();
        assert_eq!(text, format!(r#"{{"ociVersion":"{VERSION}"}}"#));
        let process = serde_json::to_string(&Process::default()).unwrap();
        assert_eq!(process, r#"{"user":{"uid":0,"gid":0},"cwd":""}"#);
    }

    #[test]
    fn go_nulls_and_unknown_fields_and_names_are_accepted() {
        let spec: Spec = serde_json::from_str(
            r#"{"ociVersion":"1.0.2","x":1,"mounts":null,"annotations":null,"process":{"cwd":"/","args":null,
                "capabilities":{"bounding":["CAP_NEW"],"ambient":null},"rlimits":[{"type":"RLIMIT_NEW","hard":18446744073709551615,"soft":1}]},
                "linux":{"resources":{"devices":null},"seccomp":{"defaultAction":"SCMP_ACT_ALLOW","syscalls":null}}}"#,
        )
        .unwrap();
        let process = spec.process.unwrap();
        assert_eq!(process.capabilities.unwrap().bounding, ["CAP_NEW"]);
        assert_eq!(process.rlimits[0].hard, u64::MAX);
        assert!(spec.mounts.is_empty());
    }

    #[test]
    fn a_namespace_that_the_spec_does_not_know_is_refused_by_name() {
        let error =
            serde_json::from_str::<Spec>(r#"{"linux":{"namespaces":[{"type":"moon"}]}}"#).unwrap_err();
        assert!(error.to_string().contains("`moon`"), "{error}");
    }
}
