//! `spec`: a config.json to begin with.

use std::path::Path;

use sampan_base::FileError;
use sampan_kernel::cgroup::Layout;
use sampan_oci::runtime::{
    Capabilities, DeviceRule, IdMapping, Linux, Namespace, NamespaceKind, Process, Resources, Rlimit, Root,
    Spec, VERSION, defaults,
};

use super::arguments::Parsed;
use super::{Context, Failure};

pub(super) fn spec(_: &Context, parsed: &Parsed) -> Result<u8, Failure> {
    let path = Path::new(parsed.get("bundle").unwrap_or(".")).join("config.json");
    let mut spec = if parsed.has("rootless") { rootless(example()) } else { example() };
    let unified = Layout::detect().is_ok_and(|layout| layout.is_unified());
    if let (Some(linux), false) = (&mut spec.linux, unified) {
        // With the many hierarchies of v1, people look for a container's groups where the host has them.
        linux.namespaces.retain(|n| n.kind != NamespaceKind::Cgroup);
    }
    let mut text = serde_json::to_vec_pretty(&spec)?;
    text.push(b'\n');
    // One that is there is somebody's work.
    let file = std::fs::OpenOptions::new().write(true).create_new(true).open(&path);
    let written = file.and_then(|mut file| std::io::Write::write_all(&mut file, &text));
    written.map_err(FileError::on("write", &path))?;
    Ok(0)
}

/// A shell with few capabilities.
fn example() -> Spec {
    let capabilities: Vec<String> =
        ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"].map(str::to_owned).to_vec();
    let namespaces = [
        NamespaceKind::Pid,
        NamespaceKind::Network,
        NamespaceKind::Ipc,
        NamespaceKind::Uts,
        NamespaceKind::Mount,
        NamespaceKind::Cgroup,
    ];
    Spec {
        oci_version: VERSION.to_owned(),
        process: Some(Process {
            terminal: true,
            args: vec!["sh".to_owned()],
            env: vec![
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
                "TERM=xterm".to_owned(),
            ],
            cwd: "/".to_owned(),
            capabilities: Some(Capabilities {
                bounding: capabilities.clone(),
                effective: capabilities.clone(),
                permitted: capabilities,
                ..Capabilities::default()
            }),
            rlimits: vec![Rlimit { kind: "RLIMIT_NOFILE".to_owned(), hard: 1024, soft: 1024 }],
            no_new_privileges: true,
            ..Process::default()
        }),
        root: Some(Root { path: "rootfs".into(), readonly: true }),
        hostname: Some("sampan".to_owned()),
        mounts: defaults::default_mounts(),
        linux: Some(Linux {
            resources: Some(Resources {
                devices: vec![DeviceRule { access: Some("rwm".to_owned()), ..DeviceRule::default() }],
                ..Resources::default()
            }),
            namespaces: namespaces.map(|kind| Namespace { kind, path: None }).to_vec(),
            masked_paths: defaults::masked_paths(),
            readonly_paths: defaults::readonly_paths(),
            ..Linux::default()
        }),
        ..Spec::default()
    }
}

/// The same for who has one user and no cgroups to make.
fn rootless(mut spec: Spec) -> Spec {
    let map = |host_id| vec![IdMapping { container_id: 0, host_id, size: 1 }];
    if let Some(linux) = &mut spec.linux {
        linux.namespaces.retain(|n| n.kind != NamespaceKind::Network);
        linux.namespaces.push(Namespace { kind: NamespaceKind::User, path: None });
        linux.uid_mappings = map(rustix::process::geteuid().as_raw());
        linux.gid_mappings = map(rustix::process::getegid().as_raw());
        linux.resources = None;
    }
    for mount in &mut spec.mounts {
        // Groups beside the own one are not mapped.
        mount.options.retain(|option| !option.starts_with("gid="));
        if mount.destination == "/sys" {
            // The host's network namespace is not ours to mount sysfs for.
            mount.kind = Some("none".to_owned());
            mount.source = Some("/sys".to_owned());
            mount.options = ["rbind", "nosuid", "noexec", "nodev", "ro"].map(str::to_owned).to_vec();
        }
    }
    spec.mounts.retain(|mount| mount.destination != "/sys/fs/cgroup");
    spec
}
