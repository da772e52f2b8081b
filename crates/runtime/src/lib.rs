//! The OCI runtime: makes one container from a bundle, and looks after it by short-lived commands.
//!
//! Read in this order:
//! * [`container`]: the verbs `create`, `start`, `kill`, `delete`, `exec`, `run`; `checkpoint` and `restore`, which
//!   [`criu`] does for them.
//! * [`init`]: the container's first process, between its birth and its program; [`process`]: what every process of a
//!   container does to itself; [`rootfs`]: the root file system; [`cgroup`]: the control groups.
//! * [`state`]: what is remembered between commands; [`channel`]: how runtime and child talk; [`bundle`], [`hooks`].
//! * [`net_devices`], [`resctrl`]: what else of the host a container may be given; [`check`]: what config.json may not say.
//! * [`cli`]: runc's command line. [`docker_init`]: what the program is under another name.
//!
//! The program has one thread, always: its children are copies of it and run ordinary code. Another program of one
//! thread may be the runtime in a copy of itself, by [`cli::run`], if nobody can write to its executable
//! ([`seal::is_sealed`]).

pub mod bundle;
pub mod cgroup;
pub mod channel;
pub mod check;
pub mod cli;
pub mod container;
pub mod criu;
pub mod docker_init;
pub mod ending;
pub mod error;
pub mod hooks;
pub mod init;
pub mod log;
pub mod net_devices;
pub mod process;
pub mod resctrl;
pub mod rootfs;
pub mod seal;
pub mod state;

/// The program.
pub fn main() -> u8 {
    if docker_init::is_called() { docker_init::main() } else { cli::main() }
}
