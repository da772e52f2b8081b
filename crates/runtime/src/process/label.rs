//! The labels of security modules that a process gets with its program: an AppArmor profile, a SELinux context.
//!
//! The files that take them are opened while `/proc` is still the host's: the container's may be a fake.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use super::plan::Plan;
use crate::error::Step;

/// Labels to be set, and the files that take them.
#[derive(Debug)]
pub struct Labels(Vec<(File, String, String)>);

/// Whether this host has SELinux.
pub fn has_selinux() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

/// Opens what takes the labels of a plan; nothing if it has none.
///
/// # Errors
/// If this host does not have the module of a label: what is to confine the process must not be done without.
pub fn open(plan: &Plan) -> Result<Option<Labels>, Step> {
    let mut labels = Vec::new();
    let write = |path: &str| OpenOptions::new().write(true).open(path);
    if let Some(profile) = &plan.apparmor {
        let doing = format!("set the AppArmor profile `{profile}`");
        let file = write("/proc/self/attr/apparmor/exec").or_else(|_| write("/proc/self/attr/exec"));
        let file = file.map_err(Step::on(|| format!("{doing}: this host has no AppArmor")))?;
        labels.push((file, format!("exec {profile}"), doing));
    }
    if let Some(context) = &plan.selinux {
        let doing = format!("set the SELinux label `{context}`");
        if !has_selinux() {
            return Err(Step::refused(doing, "this host has no SELinux"));
        }
        let file = write("/proc/self/attr/exec").map_err(Step::on(|| doing.clone()))?;
        labels.push((file, context.clone(), doing));
    }
    Ok((!labels.is_empty()).then_some(Labels(labels)))
}

impl Labels {
    /// The files that take them.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.0.iter().map(|(file, ..)| file.as_fd())
    }

    /// Sets them, for the next exec.
    ///
    /// # Errors
    /// If the module does not know a label, or this process may not have it.
    pub(super) fn set(self) -> Result<(), Step> {
        for (mut file, text, doing) in self.0 {
            file.write_all(text.as_bytes()).map_err(Step::on(|| doing))?;
        }
        Ok(())
    }
}
