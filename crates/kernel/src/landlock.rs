//! Landlock: what this process and its descendants may still do with files, ports, sockets and signals. Rules only ever
//! take away.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Rights on files, by the kernel's bits, each with the version of the interface that has it first.
pub const FILES: [(&str, i32); 16] = [
    ("execute", 1),
    ("write_file", 1),
    ("read_file", 1),
    ("read_dir", 1),
    ("remove_dir", 1),
    ("remove_file", 1),
    ("make_char", 1),
    ("make_dir", 1),
    ("make_reg", 1),
    ("make_sock", 1),
    ("make_fifo", 1),
    ("make_block", 1),
    ("make_sym", 1),
    ("refer", 2),
    ("truncate", 3),
    ("ioctl_dev", 5),
];
/// Rights on TCP ports.
pub const PORTS: [(&str, i32); 2] = [("bind_tcp", 4), ("connect_tcp", 4)];
/// What can be kept from reaching processes outside.
pub const SCOPES: [(&str, i32); 2] = [("abstract_unix_socket", 6), ("signal", 6)];

/// The rights that make sense for what is no directory: execute, write, read, truncate, ioctl.
const OF_FILES: u64 = 0b1100_0000_0000_0111;

/// What a ruleset is about: whatever is named here is forbidden unless a rule allows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Handled {
    /// Bits of [`FILES`].
    pub files: u64,
    /// Bits of [`PORTS`].
    pub ports: u64,
    /// Bits of [`SCOPES`].
    pub scopes: u64,
}

impl Handled {
    /// What of it an interface of this version has.
    pub fn known_to(self, version: i32) -> Handled {
        let known = |table: &[(&str, i32)]| -> u64 {
            table
                .iter()
                .enumerate()
                .filter(|(_, (_, first))| *first <= version)
                .map(|(bit, _)| 1 << bit)
                .sum()
        };
        Handled {
            files: self.files & known(&FILES),
            ports: self.ports & known(&PORTS),
            scopes: self.scopes & known(&SCOPES),
        }
    }

    /// The names of what is in it.
    pub fn names(self) -> Vec<&'static str> {
        let of = |bits: u64, table: &'static [(&'static str, i32)]| {
            table
                .iter()
                .enumerate()
                .filter(move |(bit, _)| bits & (1 << bit) != 0)
                .map(|(_, (name, _))| *name)
        };
        of(self.files, &FILES).chain(of(self.ports, &PORTS)).chain(of(self.scopes, &SCOPES)).collect()
    }
}

/// Rules in the making.
#[derive(Debug)]
pub struct Ruleset {
    fd: OwnedFd,
    handled: Handled,
}

/// The version of the kernel's interface; 0 if it has none.
pub fn version() -> i32 {
    const LANDLOCK_CREATE_RULESET_VERSION: u32 = 1;
    // SAFETY: with this flag, the kernel takes no structure and only returns a number.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<Handled>(),
            0usize,
            LANDLOCK_CREATE_RULESET_VERSION,
        )
    };
    i32::try_from(version).unwrap_or(0).max(0)
}

impl Ruleset {
    /// Begins a ruleset about `handled`, all of which the kernel must know.
    ///
    /// # Errors
    /// If it does not.
    pub fn new(handled: Handled) -> io::Result<Ruleset> {
        // Older kernels take a shorter structure, or a longer one whose rest is zero.
        // SAFETY: the kernel reads `size_of` bytes of the structure, which lives through the call.
        let fd = crate::checked(unsafe {
            libc::syscall(libc::SYS_landlock_create_ruleset, &raw const handled, size_of::<Handled>(), 0u32)
        })?;
        let fd = i32::try_from(fd).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
        // SAFETY: a successful call returns a new descriptor, which nobody else owns.
        Ok(Ruleset { fd: unsafe { OwnedFd::from_raw_fd(fd) }, handled })
    }

    /// Allows `rights` of [`FILES`] on what a handle is on, and on all below it if that is a directory.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn allow_beneath(&self, place: BorrowedFd<'_>, rights: u64) -> io::Result<()> {
        const LANDLOCK_RULE_PATH_BENEATH: libc::c_int = 1;
        #[repr(C, packed)]
        struct PathBeneath {
            allowed: u64,
            parent: i32,
        }
        let stat = rustix::fs::fstat(place)?;
        let directory = rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory;
        let allowed = rights & self.handled.files & if directory { u64::MAX } else { OF_FILES };
        if allowed == 0 {
            return Ok(());
        }
        let rule = PathBeneath { allowed, parent: place.as_raw_fd() };
        // SAFETY: the kernel reads a structure of the kind that the number before it says, which lives through the call.
        crate::checked(unsafe {
            libc::syscall(
                libc::SYS_landlock_add_rule,
                self.fd.as_raw_fd(),
                LANDLOCK_RULE_PATH_BENEATH,
                &raw const rule,
                0u32,
            )
        })?;
        Ok(())
    }

    /// Allows `rights` of [`PORTS`] on a port.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn allow_port(&self, port: u16, rights: u64) -> io::Result<()> {
        const LANDLOCK_RULE_NET_PORT: libc::c_int = 2;
        #[repr(C)]
        struct NetPort {
            allowed: u64,
            port: u64,
        }
        let rule = NetPort { allowed: rights & self.handled.ports, port: u64::from(port) };
        if rule.allowed == 0 {
            return Ok(());
        }
        // SAFETY: as in `allow_beneath`.
        crate::checked(unsafe {
            libc::syscall(
                libc::SYS_landlock_add_rule,
                self.fd.as_raw_fd(),
                LANDLOCK_RULE_NET_PORT,
                &raw const rule,
                0u32,
            )
        })?;
        Ok(())
    }

    /// Puts the rules in force for this process (of one thread) and its descendants. Needs `no_new_privs` or
    /// CAP_SYS_ADMIN.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn restrict_self(self) -> io::Result<()> {
        // SAFETY: touches no memory.
        crate::checked(unsafe {
            libc::syscall(libc::SYS_landlock_restrict_self, self.fd.as_raw_fd(), 0u32)
        })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_told_apart_by_version() {
        let all = Handled { files: u64::MAX, ports: u64::MAX, scopes: u64::MAX };
        assert_eq!(all.known_to(0), Handled::default());
        assert_eq!(all.known_to(1), Handled { files: (1 << 13) - 1, ..Handled::default() });
        assert_eq!(all.known_to(4), Handled { files: (1 << 15) - 1, ports: 3, scopes: 0 });
        assert_eq!(all.known_to(99), Handled { files: (1 << 16) - 1, ports: 3, scopes: 3 });
        assert_eq!(
            Handled { files: 1 << 14, ports: 2, scopes: 2 }.names(),
            ["truncate", "connect_tcp", "signal"]
        );
    }
}
