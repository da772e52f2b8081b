//! What a container may do.

use serde::{Deserialize, Serialize};

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
