//! What a daemon and its containers may leave on a host, and must not.

use std::collections::BTreeSet;
use std::path::Path;

/// The processes whose command line names something below a directory: their ids and command lines.
pub fn processes(directory: &Path) -> Vec<(u32, String)> {
    let needle = directory.to_string_lossy().into_owned();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_string_lossy().parse::<u32>().ok() else { continue };
        // It may have ended by now.
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(&needle) && pid != std::process::id() {
            found.push((pid, line));
        }
    }
    found
}

/// Mount points below a directory.
pub(crate) fn mounts(directory: &Path) -> Vec<String> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let below = |path: &str| Path::new(path).starts_with(directory);
    text.lines().filter_map(|l| l.split(' ').nth(4)).filter(|p| below(p)).map(str::to_owned).collect()
}

/// Cgroups with one of these names, in any hierarchy.
pub(crate) fn cgroups(ids: &BTreeSet<String>) -> Vec<String> {
    let mut roots = vec!["/sys/fs/cgroup/sampan".to_owned()];
    for entry in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        roots.push(format!("{}/sampan", entry.path().display()));
    }
    let mut found = Vec::new();
    for root in roots {
        let Ok(entries) = std::fs::read_dir(&root) else { continue };
        for entry in entries.flatten() {
            if ids.contains(&*entry.file_name().to_string_lossy()) {
                found.push(entry.path().display().to_string());
            }
        }
    }
    found
}

/// What is in a directory, if it is there.
pub(crate) fn names_in(directory: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Whether there is an nftables table of this name.
pub(crate) fn table_exists(name: &str) -> bool {
    let Ok(listed) = std::process::Command::new("nft").args(["list", "tables"]).output() else {
        return false;
    };
    String::from_utf8_lossy(&listed.stdout).lines().any(|line| line.split(' ').next_back() == Some(name))
}
