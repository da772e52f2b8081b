//! What CRIU is told to do and how, with the numbers that its protocol has for it.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use super::protobuf::Fields;

/// How control groups are kept and made again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum CgroupsMode {
    /// Not at all.
    Ignore,
    /// Limits of groups that CRIU itself makes.
    #[default]
    Soft,
    /// Limits of all groups.
    Full,
    /// As full; no group may be there already.
    Strict,
}

/// Another machine that gets memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PageServer {
    /// Its address.
    pub address: String,
    /// Its port.
    pub port: u16,
}

/// What CRIU is told. What both directions share is told twice: CRIU does not keep it.
#[derive(Debug)]
pub struct Options<'a> {
    /// Where the files are.
    pub images: &'a File,
    /// Where the log goes.
    pub work: &'a File,
    /// The same, as a path.
    pub work_path: PathBuf,
    /// Whether this is a restore.
    pub restore: bool,
    /// The first process.
    pub pid: Option<i32>,
    /// The container's root on the host.
    pub root: String,
    /// Earlier files, from the directory of these.
    pub parent: Option<String>,
    /// Whether the processes go on.
    pub leave_running: bool,
    /// Whether connections outside may be cut.
    pub ext_unix_sk: bool,
    /// Whether TCP connections are kept.
    pub tcp_established: bool,
    /// Whether half-made ones are left out.
    pub tcp_skip_in_flight: bool,
    /// Whether files that were removed may be linked anew.
    pub link_remap: bool,
    /// Whether a terminal of the caller's is in use.
    pub shell_job: bool,
    /// Whether locks on files are kept.
    pub file_locks: bool,
    /// Whether memory that earlier files have is removed from them.
    pub auto_dedup: bool,
    /// Whether changes of memory are tracked.
    pub track_memory: bool,
    /// Whether memory comes when it is needed.
    pub lazy_pages: bool,
    /// Who gets the memory.
    pub page_server: Option<PageServer>,
    /// Namespaces whose content is left out.
    pub empty_namespaces: u64,
    /// How groups are treated.
    pub cgroups_mode: CgroupsMode,
    /// The groups' new place: controllers (none for v2) and path.
    pub cgroup_roots: Vec<(Option<String>, String)>,
    /// The group by which the processes are frozen.
    pub freezer: Option<String>,
    /// What is the host's, as `mnt[NAME]:PLACE` or `net[INODE]:NAME`.
    pub external: Vec<String>,
    /// Descriptors of CRIU's own that take the place of files, by their names.
    pub inherit: Vec<(String, i32)>,
    /// The security profile of the restored processes.
    pub lsm_profile: Option<String>,
}

impl<'a> Options<'a> {
    /// Options with nothing asked for.
    pub fn new(images: &'a File, work: &'a File, work_path: PathBuf, restore: bool) -> Options<'a> {
        Options {
            images,
            work,
            work_path,
            restore,
            pid: None,
            root: String::new(),
            parent: None,
            leave_running: false,
            ext_unix_sk: false,
            tcp_established: false,
            tcp_skip_in_flight: false,
            link_remap: false,
            shell_job: false,
            file_locks: false,
            auto_dedup: false,
            track_memory: false,
            lazy_pages: false,
            page_server: None,
            empty_namespaces: 0,
            cgroups_mode: CgroupsMode::default(),
            cgroup_roots: Vec::new(),
            freezer: None,
            external: Vec::new(),
            inherit: Vec::new(),
            lsm_profile: None,
        }
    }

    /// The log's name in the work directory: people know it by that.
    pub(super) fn log_file(&self) -> &'static str {
        if self.restore { "restore.log" } else { "dump.log" }
    }

    pub(super) fn encode(&self) -> Fields {
        /// All but single bytes.
        const LOG_LEVEL: u64 = 4;
        let descriptor = |file: &File| u64::from(file.as_raw_fd().unsigned_abs());
        let mut fields = Fields::default();
        fields.number(1, descriptor(self.images));
        if let Some(pid) = self.pid {
            fields.number(2, u64::from(pid.unsigned_abs()));
        }
        fields.flag(3, self.leave_running);
        fields.flag(4, self.ext_unix_sk);
        fields.flag(5, self.tcp_established);
        fields.flag(7, self.shell_job);
        fields.flag(8, self.file_locks);
        fields.number(9, LOG_LEVEL);
        fields.text(10, self.log_file());
        if let Some(server) = &self.page_server {
            let mut inside = Fields::default();
            inside.text(1, &server.address);
            inside.number(2, server.port.into());
            fields.message(11, &inside);
        }
        // Notifications.
        fields.flag(12, true);
        fields.text(13, &self.root);
        if let Some(parent) = &self.parent {
            fields.text(14, parent);
        }
        fields.flag(15, self.track_memory);
        fields.flag(16, self.auto_dedup);
        fields.number(17, descriptor(self.work));
        fields.flag(18, self.link_remap);
        fields.flag(24, self.cgroups_mode != CgroupsMode::Ignore);
        for (controllers, path) in &self.cgroup_roots {
            let mut inside = Fields::default();
            if let Some(controllers) = controllers {
                inside.text(1, controllers);
            }
            inside.text(2, path);
            fields.message(25, &inside);
        }
        // What is restored becomes a child of ours.
        fields.flag(26, self.restore);
        for (name, descriptor) in &self.inherit {
            let mut inside = Fields::default();
            inside.text(1, name);
            inside.number(2, u64::from(descriptor.unsigned_abs()));
            fields.message(27, &inside);
        }
        // A container's mounts may get those that are made on the host later.
        fields.flag(30, !self.restore);
        let mode = match self.cgroups_mode {
            CgroupsMode::Ignore => 0,
            CgroupsMode::Soft => 3,
            CgroupsMode::Full => 4,
            CgroupsMode::Strict => 5,
        };
        fields.number(34, mode);
        for external in &self.external {
            fields.text(37, external);
        }
        if self.empty_namespaces != 0 {
            fields.number(38, self.empty_namespaces);
        }
        if let Some(freezer) = &self.freezer {
            fields.text(44, freezer);
        }
        fields.flag(46, self.tcp_skip_in_flight);
        fields.flag(48, self.lazy_pages);
        // The other end of the container's terminal is somebody else's: it is handed over by a notification.
        fields.flag(50, true);
        if let Some(profile) = &self.lsm_profile {
            fields.text(53, profile);
        }
        fields
    }
}
