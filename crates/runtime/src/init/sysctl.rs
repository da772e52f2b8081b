//! Kernel parameters of the container's own namespaces.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use sampan_oci::runtime::NamespaceKind;

use super::namespaces;
use crate::error::{Refused, Step};

/// A parameter: its path below `/proc/sys`, and its value.
pub type Parameter = (PathBuf, String);

/// Parameters of the IPC namespace.
const IPC: [&str; 8] = ["msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced"];

/// Checks that a parameter belongs to a namespace that is the container's own: any other would change the host's.
///
/// # Errors
/// If it does not.
pub fn plan(name: &str, value: &str, namespaces: &namespaces::Plan) -> Result<Parameter, Refused> {
    let path = path_of(name);
    let parts: Vec<&str> = path.split('/').collect();
    let refuse = |why: &str| Err(Refused::Invalid(format!("linux.sysctl `{name}` {why}")));
    if parts.iter().any(|part| part.is_empty() || *part == "." || *part == "..") {
        return refuse("is no parameter's name");
    }
    let owner = match parts.as_slice() {
        ["kernel", name] if IPC.contains(name) => NamespaceKind::Ipc,
        ["fs", "mqueue", _, ..] => NamespaceKind::Ipc,
        ["net", _, ..] => NamespaceKind::Network,
        ["kernel", "domainname"] => NamespaceKind::Uts,
        ["kernel", "hostname"] => return refuse("is set by `hostname`"),
        _ => return refuse("belongs to no namespace, it would change the host"),
    };
    if !namespaces.has(owner) {
        return refuse(&format!("needs a {} namespace of the container's own", owner.name()));
    }
    Ok((path.into(), value.to_owned()))
}

/// `net.ipv4.x` and `net/ipv4/x` name the same; whichever separator comes first is the one, the other is a part of
/// names (`net.ipv4.conf.eth0/1.forwarding` is about `eth0.1`).
fn path_of(name: &str) -> String {
    let swap = |c| match c {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    if name.find(['.', '/']).is_some_and(|at| name[at..].starts_with('.')) {
        name.chars().map(swap).collect()
    } else {
        name.to_owned()
    }
}

/// Sets parameters, through a proc file system of our own that nobody can have mounted anything over.
///
/// # Errors
/// If one is not there or does not take the value.
pub fn apply(parameters: &[Parameter]) -> Result<(), Step> {
    if parameters.is_empty() {
        return Ok(());
    }
    let mount = || {
        let context = rustix::mount::fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
        rustix::mount::fsconfig_create(&context)?;
        rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
    };
    let proc = mount().map_err(Step::on(|| "mount proc for sysctl"))?;
    for (path, value) in parameters {
        let set = || {
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
            let flags = OFlags::WRONLY | OFlags::CLOEXEC;
            let path = Path::new("sys").join(path);
            let file = rustix::fs::openat2(proc.as_fd(), &path, flags, Mode::empty(), resolve)?;
            rustix::io::write(&file, value.as_bytes())
        };
        set().map_err(Step::on(|| format!("set sysctl `{}` to `{value}`", path.display())))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str) -> Result<String, String> {
        let linux = r#"{"namespaces":[{"type":"mount"},{"type":"ipc"},{"type":"network"}]}"#;
        let namespaces = namespaces::plan(&serde_json::from_str(linux).unwrap()).unwrap();
        plan(name, "1", &namespaces).map(|(path, _)| path.display().to_string()).map_err(|e| e.to_string())
    }

    #[test]
    fn only_parameters_of_own_namespaces_are_taken() {
        assert_eq!(check("net.ipv4.ip_forward").unwrap(), "net/ipv4/ip_forward");
        assert_eq!(check("net/ipv4/conf/eth0.1/forwarding").unwrap(), "net/ipv4/conf/eth0.1/forwarding");
        assert_eq!(check("net.ipv4.conf.eth0/1.forwarding").unwrap(), "net/ipv4/conf/eth0.1/forwarding");
        assert!(check("kernel.shm_rmid_forced").is_ok());
        assert!(check("fs.mqueue.msg_max").is_ok());
        for (name, why) in [
            ("kernel.core_pattern", "no namespace"),
            ("kernel.shm_rmid_forced=1+kernel.core_pattern", "no namespace"),
            ("net..x", "no parameter's name"),
            ("net/../kernel/core_pattern", "no parameter's name"),
            ("kernel.domainname", "needs a uts namespace"),
            ("kernel.hostname", "set by `hostname`"),
            ("", "no parameter's name"),
        ] {
            let error = check(name).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
