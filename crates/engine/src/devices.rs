//! Devices that are passed into a container: looked up on the host, with the rules that let them be used.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use sampan_oci::runtime::{Device as OciDevice, DeviceRule};

use crate::error::{EngineError, Result};
use crate::spec::{ContainerSpec, DeviceNumber, Resources};

/// The device nodes and rules for `spec`. A privileged container gets all of the host's devices.
///
/// # Errors
/// If a device does not exist, is no device, or a rule makes no sense.
pub(crate) fn plan(spec: &ContainerSpec) -> Result<(Vec<OciDevice>, Vec<DeviceRule>)> {
    let (mut nodes, mut rules) = (Vec::new(), Vec::new());
    if spec.security.privileged {
        collect(Path::new("/dev"), &mut nodes);
    }
    for wanted in &spec.devices {
        // As with docker, a directory stands for all devices in it.
        if wanted.host.is_dir() {
            let mut found = Vec::new();
            collect(&wanted.host, &mut found);
            if found.is_empty() {
                let path = wanted.host.display();
                return Err(EngineError::Invalid(format!(
                    "error gathering device information while adding custom device \"{path}\": no devices in it"
                )));
            }
            let access = access(&wanted.permissions)?;
            for mut node in found {
                let below = Path::new(&node.path).strip_prefix(&wanted.host).unwrap_or(Path::new(""));
                let inside = Path::new(&wanted.container).join(below);
                node.path = inside.to_string_lossy().into_owned();
                rules.push(allow(&node, access));
                nodes.push(node);
            }
            continue;
        }
        let node = node(&wanted.host, &wanted.container).map_err(|source| {
            let path = wanted.host.display();
            EngineError::Invalid(format!(
                "error gathering device information while adding custom device \"{path}\": {source}"
            ))
        })?;
        rules.push(allow(&node, access(&wanted.permissions)?));
        nodes.push(node);
    }
    for text in &spec.device_rules {
        rules.push(rule(text).ok_or_else(|| {
            EngineError::Invalid(format!(
                "invalid device cgroup rule `{text}`: expected `c|b|a MAJOR:MINOR rwm`"
            ))
        })?);
    }
    Ok((nodes, rules))
}

/// Takes those nodes out that are called otherwise inside than on the host, and answers both names: in a user namespace no
/// node can be made, so the host's is bound, and the runtime knows only what it is called inside.
pub(crate) fn renamed(spec: &ContainerSpec, nodes: &mut Vec<OciDevice>) -> Vec<(String, PathBuf)> {
    let mut renamed = Vec::new();
    nodes.retain(|node| {
        let host = spec.devices.iter().rev().find_map(|wanted| {
            let below = Path::new(&node.path).strip_prefix(&wanted.container).ok()?;
            Some(if below.as_os_str().is_empty() { wanted.host.clone() } else { wanted.host.join(below) })
        });
        match host.filter(|host| host != Path::new(&node.path)) {
            Some(host) => renamed.push((node.path.clone(), host)),
            None => return true,
        }
        false
    });
    renamed
}

fn access(text: &str) -> Result<&str> {
    let access = if text.is_empty() { "rwm" } else { text };
    if access.bytes().all(|b| matches!(b, b'r' | b'w' | b'm')) {
        Ok(access)
    } else {
        Err(EngineError::Invalid(format!("invalid device permissions `{access}`: use r, w and m")))
    }
}

fn allow(node: &OciDevice, access: &str) -> DeviceRule {
    DeviceRule {
        allow: true,
        kind: Some(node.kind.clone()),
        major: Some(node.major),
        minor: Some(node.minor),
        access: Some(access.to_owned()),
    }
}

/// The numbers of the block devices that limits name.
///
/// # Errors
/// If one does not exist or is none.
pub(crate) fn block_devices(limits: &Resources) -> Result<BTreeMap<String, (i64, i64)>> {
    let lists = [
        &limits.blkio_weight_device,
        &limits.device_read_bps,
        &limits.device_write_bps,
        &limits.device_read_iops,
        &limits.device_write_iops,
    ];
    let mut found = BTreeMap::new();
    for DeviceNumber { path, .. } in lists.into_iter().flatten() {
        let node = node(Path::new(path), path).map_err(|source| {
            EngineError::Invalid(format!("cannot limit the device \"{path}\": {source}"))
        })?;
        found.insert(path.clone(), (node.major, node.minor));
    }
    Ok(found)
}

fn node(host: &Path, inside: &str) -> std::io::Result<OciDevice> {
    let metadata = std::fs::metadata(host)?;
    let kind = if metadata.file_type().is_block_device() {
        "b"
    } else if metadata.file_type().is_char_device() {
        "c"
    } else {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "not a device node"));
    };
    let device = metadata.rdev();
    Ok(OciDevice {
        path: inside.to_owned(),
        kind: kind.to_owned(),
        major: i64::from(rustix::fs::major(device)),
        minor: i64::from(rustix::fs::minor(device)),
        file_mode: Some(metadata.mode() & 0o7777),
        uid: Some(metadata.uid()),
        gid: Some(metadata.gid()),
    })
}

/// All device nodes of the host, without those that a container has of its own.
fn collect(directory: &Path, nodes: &mut Vec<OciDevice>) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let own = [
            "pts", "shm", "fd", "mqueue", "console", "ptmx", "tty", "null", "zero", "full", "random",
            "urandom",
        ];
        let Ok(kind) = entry.file_type() else { continue };
        if own.iter().any(|o| name == *o) {
            continue;
        }
        if kind.is_dir() {
            collect(&path, nodes);
        } else if kind.is_char_device() || kind.is_block_device() {
            nodes.extend(node(&path, &path.to_string_lossy()));
        }
    }
}

/// Reads `c 10:200 rwm`; `*` stands for any number.
fn rule(text: &str) -> Option<DeviceRule> {
    let mut words = text.split_whitespace();
    let (kind, numbers, access) = (words.next()?, words.next()?, words.next()?);
    let (major, minor) = numbers.split_once(':')?;
    let number = |n: &str| if n == "*" { Some(None) } else { n.parse().ok().map(Some) };
    let valid = matches!(kind, "a" | "b" | "c")
        && access.bytes().all(|b| matches!(b, b'r' | b'w' | b'm'))
        && words.next().is_none();
    valid.then_some(())?;
    Some(DeviceRule {
        allow: true,
        kind: Some(kind.to_owned()),
        major: number(major)?,
        minor: number(minor)?,
        access: Some(access.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Device;

    #[test]
    fn a_device_brings_its_rule_and_a_file_is_refused() {
        let device = |host: &str| Device {
            host: host.into(),
            container: "/dev/x".to_owned(),
            permissions: "rw".to_owned(),
        };
        let mut spec = ContainerSpec { devices: vec![device("/dev/null")], ..Default::default() };
        spec.device_rules = vec!["c *:5 r".to_owned()];
        let (nodes, rules) = plan(&spec).unwrap();
        assert_eq!((nodes[0].path.as_str(), nodes[0].major, nodes[0].minor), ("/dev/x", 1, 3));
        assert_eq!(rules[0].access.as_deref(), Some("rw"));
        assert_eq!((rules[1].major, rules[1].minor), (None, Some(5)));
        let mut nodes = nodes;
        spec.devices.push(Device { container: "/dev/full".to_owned(), ..device("/dev/full") });
        nodes.push(node(Path::new("/dev/full"), "/dev/full").unwrap());
        assert_eq!(renamed(&spec, &mut nodes), [("/dev/x".to_owned(), PathBuf::from("/dev/null"))]);
        assert_eq!((nodes.len(), nodes[0].path.as_str()), (1, "/dev/full"));
        spec.devices = vec![device("/etc/passwd")];
        assert!(plan(&spec).unwrap_err().to_string().contains("/etc/passwd"));
        for bad in ["", "c", "c 1:2", "x 1:2 r", "c 1 r", "c 1:2 q", "c 1:2 r w"] {
            assert!(rule(bad).is_none(), "{bad}");
        }
    }
}
