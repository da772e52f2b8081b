//! The only unsafe code: system calls and kernel interfaces that rustix does not have, each behind a safe function
//! that says what it does. What rustix has, callers take from rustix.
//!
//! * [`beneath`]: paths inside a tree that someone else filled.
//! * [`inherit`]: descriptors that a child program finds at fixed numbers.
//! * [`netns`]: network namespaces that live by a file.
//! * [`userns`]: user namespaces that live by a descriptor.
//! * [`fs_user`]: acting on files as somebody else.
//! * [`landlock`]: what a process may still do with files and ports.
//! * [`links`]: network devices that move between network namespaces.
//! * [`signals`]: signals as a descriptor to poll.
//! * [`process`]: children in new namespaces, exec, what only the calling process can do to itself.
//! * [`mount`]: attributes of mounts; the rest of the new mount API is in rustix.
//! * [`capabilities`]: sets of capabilities by their names, and changing the process's own.
//! * [`seccomp`]: filters of system calls, compiled from rules by name and loaded.
//! * [`cgroup`]: where the control group hierarchies are, and files in them.
//! * [`clock`]: the host's time zone.
//! * [`command_line`]: the process's own. [`descriptors`]: sent through sockets.
//! * [`devices`]: device rules of cgroup v2, compiled to eBPF and attached.

pub mod beneath;
pub mod capabilities;
pub mod cgroup;
pub mod clock;
pub mod command_line;
pub mod descriptors;
pub mod devices;
pub mod entry;
pub mod fs_user;
pub mod inherit;
pub mod landlock;
pub mod links;
pub mod mount;
pub mod netns;
pub mod process;
pub mod seal;
pub mod seccomp;
pub mod signals;
pub mod userns;
pub mod writeback;

/// What a system call returned, or its error.
fn checked(returned: libc::c_long) -> std::io::Result<libc::c_long> {
    if returned < 0 { Err(std::io::Error::last_os_error()) } else { Ok(returned) }
}
