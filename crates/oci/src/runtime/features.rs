//! The features document: what a runtime can do, whatever the host.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What `features` prints.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Features {
    /// The oldest version of config.json that is understood.
    pub oci_version_min: String,
    /// The newest version of config.json that is understood.
    pub oci_version_max: String,
    /// The kinds of hooks.
    pub hooks: Vec<String>,
    /// The mount options.
    pub mount_options: Vec<String>,
    /// What only Linux has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub linux: Option<LinuxFeatures>,
    /// Notes of the runtime's own.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Annotations of config.json that change what the runtime does; an engine should not pass them on from users.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub potentially_unsafe_config_annotations: Vec<String>,
}

/// What only Linux has.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LinuxFeatures {
    /// The kinds of namespaces.
    pub namespaces: Vec<String>,
    /// The capabilities.
    pub capabilities: Vec<String>,
    /// Control groups.
    pub cgroup: CgroupFeature,
    /// Filters of system calls.
    pub seccomp: SeccompFeature,
    /// AppArmor profiles.
    pub apparmor: ApparmorFeature,
    /// SELinux contexts.
    pub selinux: SelinuxFeature,
    /// Intel RDT.
    pub intel_rdt: IntelRdtFeature,
    /// The NUMA memory policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_policy: Option<MemoryPolicyFeature>,
    /// Mounts beyond mount(8).
    pub mount_extensions: MountExtensions,
    /// Moving network devices.
    pub net_devices: NetDevicesFeature,
}

/// Control groups.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CgroupFeature {
    /// The first version.
    pub v1: bool,
    /// The unified hierarchy.
    pub v2: bool,
    /// By the system's systemd.
    pub systemd: bool,
    /// By a user's systemd.
    pub systemd_user: bool,
    /// The RDMA controller.
    pub rdma: bool,
}

/// Filters of system calls.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SeccompFeature {
    /// Whether there are any.
    pub enabled: bool,
    /// The actions.
    pub actions: Vec<String>,
    /// The comparisons.
    pub operators: Vec<String>,
    /// The architectures.
    pub archs: Vec<String>,
    /// The flags that config.json may name.
    pub known_flags: Vec<String>,
    /// Those of them that do something here.
    pub supported_flags: Vec<String>,
}

/// A feature that is there or not.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SwitchFeature {
    /// Whether it is there.
    pub enabled: bool,
}

/// AppArmor profiles.
pub type ApparmorFeature = SwitchFeature;
/// SELinux contexts.
pub type SelinuxFeature = SwitchFeature;
/// Id-mapped mounts.
pub type IdmapFeature = SwitchFeature;
/// Moving network devices.
pub type NetDevicesFeature = SwitchFeature;

/// Intel RDT.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct IntelRdtFeature {
    /// Whether it is there.
    pub enabled: bool,
    /// Whether `schemata` is understood.
    pub schemata: bool,
    /// Whether `enableMonitoring` is understood.
    pub monitoring: bool,
}
/// The NUMA memory policy's modes and flags.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct MemoryPolicyFeature {
    /// The modes.
    pub modes: Vec<String>,
    /// The flags.
    pub flags: Vec<String>,
}

/// Mounts beyond mount(8).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct MountExtensions {
    /// Id-mapped mounts.
    pub idmap: IdmapFeature,
}
