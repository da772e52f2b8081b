//! Sets of capabilities by their names, and changing the process's own.

use std::io;

use rustix::thread::{CapabilitySet, CapabilitySets};

/// All names, in the order of the kernel's numbers.
pub const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// A set of capabilities: bit n is the kernel's number n.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Set(pub u64);

impl Set {
    /// Every capability that this program knows.
    pub const ALL: Set = Set((1 << NAMES.len()) - 1);

    /// The capability of this name, with or without `CAP_`, in any case.
    pub fn named(name: &str) -> Option<Set> {
        let bare = |name: &str| name.get(..4).is_some_and(|p| p.eq_ignore_ascii_case("CAP_"));
        let short = if bare(name) { &name[4..] } else { name };
        let index = NAMES.iter().position(|known| known[4..].eq_ignore_ascii_case(short))?;
        Some(Set(1 << index))
    }

    /// Both sets together.
    pub fn union(self, other: Set) -> Set {
        Set(self.0 | other.0)
    }

    /// What is in both sets.
    pub fn intersection(self, other: Set) -> Set {
        Set(self.0 & other.0)
    }

    /// What is in this set but not in `other`.
    pub fn without(self, other: Set) -> Set {
        Set(self.0 & !other.0)
    }

    /// Whether all of `other` is in this set.
    pub fn contains(self, other: Set) -> bool {
        other.0 & !self.0 == 0
    }

    /// Whether nothing is in it.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The names of what is in it.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        NAMES.iter().enumerate().filter(move |(index, _)| self.0 >> index & 1 == 1).map(|(_, name)| *name)
    }

    fn bits(self) -> impl Iterator<Item = CapabilitySet> {
        (0..64).map(|n| 1u64 << n).filter(move |bit| self.0 & bit != 0).map(CapabilitySet::from_bits_retain)
    }
}

/// The five sets of a process.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sets {
    /// What the process and its descendants can ever have.
    pub bounding: Set,
    /// What is in force.
    pub effective: Set,
    /// What may be put in force.
    pub permitted: Set,
    /// What exec of a file with inheritable capabilities passes on.
    pub inheritable: Set,
    /// What survives the exec of an ordinary file.
    pub ambient: Set,
}

/// What this process may put in force.
///
/// # Errors
/// If the kernel does not tell.
pub fn permitted() -> io::Result<Set> {
    Ok(Set(rustix::thread::capabilities(None)?.permitted.bits()))
}

/// The capabilities that this kernel has: more may exist than this program knows, or fewer.
///
/// # Errors
/// If the kernel does not tell.
pub fn bounding() -> io::Result<Set> {
    let mut set = Set::default();
    for bit in Set(u64::MAX).bits() {
        match rustix::thread::capability_is_in_bounding_set(bit) {
            Ok(true) => set.0 |= bit.bits(),
            Ok(false) => {}
            // Numbers beyond the kernel's last one.
            Err(rustix::io::Errno::INVAL) => break,
            Err(e) => return Err(e.into()),
        }
    }
    Ok(set)
}

/// Removes all but `keep` from the bounding set. Needs CAP_SETPCAP.
///
/// # Errors
/// If the kernel refuses.
pub fn limit_bounding(keep: Set) -> io::Result<()> {
    for bit in Set(!keep.0).bits() {
        match rustix::thread::remove_capability_from_bounding_set(bit) {
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL) => break,
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Puts in force all that is permitted: what a change from user 0 to another one took away.
///
/// # Errors
/// If the kernel refuses.
pub fn enable_permitted() -> io::Result<()> {
    let mut sets = rustix::thread::capabilities(None)?;
    sets.effective = sets.permitted;
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

/// Sets the effective, permitted and inheritable sets, then the ambient one.
///
/// # Errors
/// If the kernel refuses; for a set that it refuses, nothing of it is changed.
pub fn apply(sets: &Sets) -> io::Result<()> {
    let of = |set: Set| CapabilitySet::from_bits_retain(set.0);
    rustix::thread::set_capabilities(
        None,
        CapabilitySets {
            effective: of(sets.effective),
            permitted: of(sets.permitted),
            inheritable: of(sets.inheritable),
        },
    )?;
    rustix::thread::clear_ambient_capability_set()?;
    for bit in sets.ambient.bits() {
        rustix::thread::configure_capability_in_ambient_set(bit, true)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_kernels_numbers() {
        assert_eq!(Set::named("CAP_CHOWN"), Some(Set(CapabilitySet::CHOWN.bits())));
        assert_eq!(Set::named("sys_admin"), Some(Set(CapabilitySet::SYS_ADMIN.bits())));
        assert_eq!(Set::named("cap_bpf"), Some(Set(CapabilitySet::BPF.bits())));
        let last = Set::named("CAP_CHECKPOINT_RESTORE");
        assert_eq!(last, Some(Set(CapabilitySet::CHECKPOINT_RESTORE.bits())));
        assert_eq!(Set::named("CAP_MOON"), None);
        assert_eq!(Set::named("CÄP_X"), None);
        assert_eq!(Set(0b101).names().collect::<Vec<_>>(), ["CAP_CHOWN", "CAP_DAC_READ_SEARCH"]);
    }
}
