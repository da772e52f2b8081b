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
    /// What its cgroups can do.
    pub cgroups: Cgroups,
    /// The kernel's release.
    pub kernel: String,
    /// Mounts below a mount can be made read-only with it (Linux 5.12).
    pub can_rro: bool,
}

/// Where an executable is: a name is looked for where the shell would.
pub(crate) fn program(program: &Path) -> crate::Result<std::path::PathBuf> {
    if program.is_absolute() {
        return Ok(program.to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|d| d.join(program)).find(|p| p.is_file());
    found.ok_or_else(|| {
        let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
        crate::EngineError::io(format!("cannot find `{}`", program.display()))(missing)
    })
}

/// Which limits the host's cgroups have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cgroups {
    /// Memory.
    pub memory: bool,
    /// Memory and swap.
    pub swap: bool,
    /// How eagerly memory is swapped out (v1).
    pub swappiness: bool,
    /// A soft limit of memory.
    pub reservation: bool,
    /// The kernel's memory (v1; without effect since Linux 5.4).
    pub kernel_memory: bool,
    /// Nobody is killed for want of memory (v1).
    pub oom_kill_disable: bool,
    /// Processes.
    pub pids: bool,
    /// Processor shares.
    pub cpu_shares: bool,
    /// Processor quota.
    pub cpu_quota: bool,
    /// Real-time processor time (v1, kernels with real-time groups).
    pub cpu_realtime: bool,
    /// Sets of processors and memory nodes.
    pub cpuset: bool,
    /// The processors there are, `0-3`.
    pub cpuset_cpus: String,
    /// The memory nodes there are.
    pub cpuset_mems: String,
    /// Weights of block I/O.
    pub blkio_weight: bool,
    /// Weights of block I/O by device.
    pub blkio_weight_device: bool,
    /// Limits of block I/O.
    pub blkio_throttle: bool,
}

impl Cgroups {
    fn probe(v1: bool) -> Cgroups {
        let root = Path::new("/sys/fs/cgroup");
        let read = |path: &str| {
            std::fs::read_to_string(root.join(path)).map(|t| t.trim().to_owned()).unwrap_or_default()
        };
        if !v1 {
            let controllers = read("cgroup.controllers");
            let has = |name: &str| controllers.split(' ').any(|c| c == name);
            return Cgroups {
                memory: has("memory"),
                // The root has no such file; a child of it has one where swap is counted.
                swap: has("memory"),
                swappiness: false,
                reservation: has("memory"),
                kernel_memory: false,
                oom_kill_disable: false,
                pids: has("pids"),
                cpu_shares: has("cpu"),
                cpu_quota: has("cpu"),
                cpu_realtime: false,
                cpuset: has("cpuset"),
                cpuset_cpus: read("cpuset.cpus.effective"),
                cpuset_mems: read("cpuset.mems.effective"),
                blkio_weight: has("io"),
                blkio_weight_device: has("io"),
                blkio_throttle: has("io"),
            };
        }
        let has = |path: &str| root.join(path).exists();
        Cgroups {
            memory: has("memory/memory.limit_in_bytes"),
            swap: has("memory/memory.memsw.limit_in_bytes"),
            swappiness: has("memory/memory.swappiness"),
            reservation: has("memory/memory.soft_limit_in_bytes"),
            kernel_memory: has("memory/memory.kmem.limit_in_bytes"),
            oom_kill_disable: has("memory/memory.oom_control"),
            pids: has("pids"),
            cpu_shares: has("cpu/cpu.shares"),
            cpu_quota: has("cpu/cpu.cfs_quota_us"),
            cpu_realtime: has("cpu/cpu.rt_period_us"),
            cpuset: has("cpuset/cpuset.cpus"),
            cpuset_cpus: read("cpuset/cpuset.cpus"),
            cpuset_mems: read("cpuset/cpuset.mems"),
            blkio_weight: has("blkio/blkio.weight"),
            blkio_weight_device: has("blkio/blkio.weight_device"),
            blkio_throttle: has("blkio/blkio.throttle.read_bps_device"),
        }
    }

    #[cfg(test)]
    pub(crate) fn all(cpus: &str, mems: &str) -> Cgroups {
        Cgroups {
            memory: true,
            swap: true,
            swappiness: true,
            reservation: true,
            kernel_memory: true,
            oom_kill_disable: true,
            pids: true,
            cpu_shares: true,
            cpu_quota: true,
            cpu_realtime: true,
            cpuset: true,
            cpuset_cpus: cpus.to_owned(),
            cpuset_mems: mems.to_owned(),
            blkio_weight: true,
            blkio_weight_device: true,
            blkio_throttle: true,
        }
    }
}

impl HostFacts {
    /// Looks the host over.
    pub fn probe() -> HostFacts {
        let memory = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
            let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
            line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
        });
        let cgroup_v1 = !Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
        let mut numbers = kernel.split('.').map(|n| n.parse::<u32>().unwrap_or(0));
        let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        HostFacts {
            can_rro: version >= (5, 12),
            kernel,
            cgroup_v1,
            cgroups: Cgroups::probe(cgroup_v1),
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
