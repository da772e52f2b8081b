//! `features`: what this runtime can do, whatever the host.

use std::collections::BTreeMap;

use sampan_kernel::capabilities;
use sampan_kernel::seccomp::Architecture;
use sampan_oci::runtime::{
    CgroupFeature, Features, IntelRdtFeature, LinuxFeatures, MemoryPolicyFeature, MountExtensions,
    NamespaceKind, SeccompFeature, SwitchFeature, VERSION,
};

use super::arguments::Parsed;
use super::{Context, Failure, print};
use crate::process::{landlock, plan as numa};
use crate::rootfs::options;
use crate::rootfs::plan::ROOT_IDMAP;

pub(super) fn features(_: &Context, _: &Parsed) -> Result<u8, Failure> {
    print(&format!("{}\n", serde_json::to_string_pretty(&all())?))?;
    Ok(0)
}

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|&s| s.to_owned()).collect()
}

fn sorted(mut list: Vec<String>) -> Vec<String> {
    list.sort();
    list
}

fn all() -> Features {
    let flags = [
        "SECCOMP_FILTER_FLAG_LOG",
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
        "SECCOMP_FILTER_FLAG_TSYNC",
        "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
    ];
    Features {
        oci_version_min: "1.0.0".to_owned(),
        oci_version_max: VERSION.to_owned(),
        hooks: strings(&[
            "prestart",
            "createRuntime",
            "createContainer",
            "startContainer",
            "poststart",
            "poststop",
        ]),
        mount_options: options::known(),
        linux: Some(LinuxFeatures {
            namespaces: NamespaceKind::ALL.map(|kind| kind.name().to_owned()).to_vec(),
            capabilities: strings(&capabilities::NAMES),
            cgroup: CgroupFeature { v1: true, v2: true, systemd: true, systemd_user: true, rdma: true },
            seccomp: SeccompFeature {
                enabled: true,
                actions: strings(&[
                    "SCMP_ACT_ALLOW",
                    "SCMP_ACT_ERRNO",
                    "SCMP_ACT_KILL",
                    "SCMP_ACT_KILL_PROCESS",
                    "SCMP_ACT_KILL_THREAD",
                    "SCMP_ACT_LOG",
                    "SCMP_ACT_NOTIFY",
                    "SCMP_ACT_TRACE",
                    "SCMP_ACT_TRAP",
                ]),
                operators: strings(&[
                    "SCMP_CMP_EQ",
                    "SCMP_CMP_GE",
                    "SCMP_CMP_GT",
                    "SCMP_CMP_LE",
                    "SCMP_CMP_LT",
                    "SCMP_CMP_MASKED_EQ",
                    "SCMP_CMP_NE",
                ]),
                archs: sorted(Architecture::NAMES.map(|(name, _)| name.to_owned()).to_vec()),
                known_flags: strings(&flags),
                supported_flags: strings(&flags),
            },
            apparmor: SwitchFeature { enabled: true },
            selinux: SwitchFeature { enabled: true },
            intel_rdt: IntelRdtFeature { enabled: true, schemata: true, monitoring: true },
            memory_policy: Some(MemoryPolicyFeature {
                modes: strings(&numa::MODES),
                flags: numa::FLAGS.map(|(name, _)| name.to_owned()).to_vec(),
            }),
            mount_extensions: MountExtensions { idmap: SwitchFeature { enabled: true } },
            net_devices: SwitchFeature { enabled: true },
        }),
        annotations: BTreeMap::from([(
            "org.sampan.runtime.version".to_owned(),
            env!("CARGO_PKG_VERSION").to_owned(),
        )]),
        potentially_unsafe_config_annotations: strings(&[
            ROOT_IDMAP,
            landlock::ANNOTATION,
            crate::cgroup::systemd::ANNOTATION,
        ]),
    }
}
