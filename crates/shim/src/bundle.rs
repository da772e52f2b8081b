//! The files that a shim keeps in a container's bundle, beside the runtime's `config.json` and `rootfs`.
//!
//! | file | written by | for |
//! |---|---|---|
//! | `address` | `start` | whoever looks for the shim of this container: `unix:///…` |
//! | `shim.json` | Create | `delete`, which must find the runtime after the server has died: [`Record`] |
//! | `shim.log` or the fifo `log` | the server | people; the fifo is containerd's, and used if it is there |
//! | `init.pid` | the runtime | the server, to learn the container's first process |
//! | `oom` | the server | engines that take no events: the kernel killed something for want of memory |
//! | `run-N.*` | the server | one runtime command: its log, pid file and input; gone when it ends |
//!
//! The bundle itself is locked (flock(2)) while the server or one of our runtime's commands lives: `Runtime::hold`.
//!
//! All of it is below `/run` and forgotten by a reboot, as are the processes that it speaks of.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sampan_base::FileError;
use sampan_base::files::{read_limited, write_atomic_volatile};

/// A `config.json` that is longer is refused.
const MAX_CONFIG_BYTES: u64 = 16 << 20;
/// The annotation by which CRI engines group the containers of a pod in one shim.
pub const POD_ANNOTATION: &str = "io.kubernetes.cri.sandbox-id";

/// What `delete` must know of a container. Version 1.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Record {
    /// 1.
    pub version: u32,
    /// The runtime's executable.
    pub runtime: PathBuf,
    /// The runtime's state directory.
    pub root: PathBuf,
    /// Whether systemd makes the cgroups.
    pub systemd_cgroup: bool,
    /// The server's socket.
    pub socket: PathBuf,
    /// The server's process id.
    #[serde(default)]
    pub server: u32,
}

impl Record {
    /// Writes it into `bundle`.
    ///
    /// # Errors
    /// If the file can't be written.
    pub fn write(&self, bundle: &Path) -> Result<(), FileError> {
        let text = serde_json::to_vec(self).map_err(|e| FileError {
            action: "write",
            path: bundle.join("shim.json"),
            source: e.into(),
        })?;
        write_atomic_volatile(&bundle.join("shim.json"), &text, 0o600)
    }

    /// Reads it from `bundle`.
    ///
    /// # Errors
    /// If it is not there or not ours.
    pub fn read(bundle: &Path) -> Result<Record, FileError> {
        let path = bundle.join("shim.json");
        let text = read_limited(&path, 64 << 10)?;
        serde_json::from_slice(&text).map_err(|e| FileError { action: "read", path, source: e.into() })
    }
}

/// The few facts of a `config.json` that the shim needs; the runtime checks all of it.
#[derive(Default, Debug, serde::Deserialize)]
#[serde(default)]
pub struct SpecFacts {
    /// Arbitrary names and values.
    pub annotations: BTreeMap<String, String>,
    linux: LinuxFacts,
}

#[derive(Default, Debug, serde::Deserialize)]
#[serde(default)]
struct LinuxFacts {
    namespaces: Vec<NamespaceFacts>,
}

#[derive(Default, Debug, serde::Deserialize)]
#[serde(default)]
struct NamespaceFacts {
    r#type: String,
    path: String,
}

impl SpecFacts {
    /// Reads the `config.json` in `bundle`.
    ///
    /// # Errors
    /// If it is not there, too long or not JSON.
    pub fn read(bundle: &Path) -> Result<SpecFacts, FileError> {
        let path = bundle.join("config.json");
        let text = read_limited(&path, MAX_CONFIG_BYTES)?;
        serde_json::from_slice(&text).map_err(|e| FileError { action: "read", path, source: e.into() })
    }

    /// Whether the container has a pid namespace to itself, so that its processes die with the first one.
    pub fn has_own_pid_namespace(&self) -> bool {
        self.linux.namespaces.iter().any(|n| n.r#type == "pid" && n.path.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_whose_pid_namespace_it_is() {
        let own = |text: &str| serde_json::from_str::<SpecFacts>(text).unwrap().has_own_pid_namespace();
        assert!(own(r#"{"linux":{"namespaces":[{"type":"mount"},{"type":"pid"}]}}"#));
        assert!(!own(r#"{"linux":{"namespaces":[{"type":"pid","path":"/proc/1/ns/pid"}]}}"#));
        assert!(!own("{}"));
    }
}
