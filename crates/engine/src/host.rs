//! What this host can do, looked up once at start.

use std::path::Path;

/// Facts about the host.
#[derive(Clone, Debug)]
pub struct HostFacts {
    /// Controllers are on cgroup v1 hierarchies (also on hybrid hosts).
    pub cgroup_v1: bool,
    /// All capabilities that the kernel knows, `CAP_…`.
    pub capabilities: Vec<String>,
    /// Number of CPUs that may be used.
    pub cpus: u32,
    /// Bytes of memory.
    pub memory: u64,
}

impl HostFacts {
    /// Looks the host over.
    pub fn probe() -> HostFacts {
        let memory = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
            let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
            line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
        });
        HostFacts {
            cgroup_v1: !Path::new("/sys/fs/cgroup/cgroup.controllers").exists(),
            capabilities: known_capabilities(),
            cpus: std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1)),
            memory: memory.unwrap_or(0) * 1024,
        }
    }

    /// Whether the kernel has killed for want of memory in this cgroup.
    pub fn oom_killed(&self, cgroup: &str) -> bool {
        let file = if self.cgroup_v1 {
            format!("/sys/fs/cgroup/memory{cgroup}/memory.oom_control")
        } else {
            format!("/sys/fs/cgroup{cgroup}/memory.events")
        };
        // Gone already, or no memory controller: then nobody can tell.
        let text = std::fs::read_to_string(file).unwrap_or_default();
        text.lines().any(|line| {
            let mut words = line.split(' ');
            words.next() == Some("oom_kill") && words.next().is_some_and(|n| n != "0")
        })
    }
}

/// What this process may hand on: all that the kernel knows, unless the daemon itself runs with less.
fn known_capabilities() -> Vec<String> {
    match sampan_kernel::capabilities::bounding() {
        Ok(set) => set.names().map(str::to_owned).collect(),
        Err(error) => {
            tracing::warn!(%error, "cannot read the daemon's capabilities; only the default ones can be given");
            sampan_oci::runtime::defaults::default_capabilities()
        }
    }
}
