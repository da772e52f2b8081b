//! Filters of system calls: rules by name are compiled to a program of the kernel's classic BPF and loaded.
//!
//! A [`Policy`] is decided by [`compile`] into a [`Program`], which [`load`] gives to the kernel. The compiler is our
//! own because the common library takes milliseconds for what takes this one microseconds, and because it yields a
//! binary search tree over ranges of call numbers instead of a list of comparisons.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

#[cfg(any(test, target_arch = "aarch64"))]
mod arm;
mod compile;
mod evaluate;
#[cfg(any(test, target_arch = "riscv64", target_arch = "loongarch64"))]
mod generic;
mod table;
#[cfg(any(test, target_arch = "x86_64"))]
mod x86;

pub use compile::{CompileError, call_names, call_number, compile};
pub use evaluate::evaluate;

/// What a filter does with a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Ends the process.
    KillProcess,
    /// Ends the thread.
    KillThread,
    /// Sends SIGSYS.
    Trap(u16),
    /// Fails with this error number.
    Errno(u16),
    /// Asks a tracer, telling it this number.
    Trace(u16),
    /// Asks the listener.
    Notify,
    /// Lets it pass and logs it.
    Log,
    /// Lets it pass.
    Allow,
}

impl Action {
    /// The number that a program returns for it.
    pub fn code(self) -> u32 {
        match self {
            Action::KillProcess => 0x8000_0000,
            Action::KillThread => 0,
            Action::Trap(n) => 0x0003_0000 | u32::from(n),
            Action::Errno(n) => 0x0005_0000 | u32::from(n),
            Action::Notify => 0x7fc0_0000,
            Action::Trace(n) => 0x7ff0_0000 | u32::from(n),
            Action::Log => 0x7ffc_0000,
            Action::Allow => 0x7fff_0000,
        }
    }
}

/// A way in which programs can make calls. On a machine that can't run its programs, an architecture's rules have
/// nothing to filter: they are read, and no code is made for them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Architecture {
    /// 64 bits.
    X86_64,
    /// 32 bits.
    X86,
    /// 64 bits with short pointers.
    X32,
    /// ARM, 64 bits.
    Aarch64,
    /// ARM, 32 bits.
    Arm,
    /// RISC-V, 64 bits.
    Riscv64,
    /// LoongArch, 64 bits.
    Loongarch64,
    /// One that this program is not built for.
    Foreign,
}

impl Architecture {
    /// The names that config.json uses, and what they are here.
    pub const NAMES: [(&str, Architecture); 23] = [
        ("SCMP_ARCH_X86", Architecture::X86),
        ("SCMP_ARCH_X86_64", Architecture::X86_64),
        ("SCMP_ARCH_X32", Architecture::X32),
        ("SCMP_ARCH_ARM", Architecture::Arm),
        ("SCMP_ARCH_AARCH64", Architecture::Aarch64),
        ("SCMP_ARCH_LOONGARCH64", Architecture::Loongarch64),
        ("SCMP_ARCH_M68K", Architecture::Foreign),
        ("SCMP_ARCH_MIPS", Architecture::Foreign),
        ("SCMP_ARCH_MIPS64", Architecture::Foreign),
        ("SCMP_ARCH_MIPS64N32", Architecture::Foreign),
        ("SCMP_ARCH_MIPSEL", Architecture::Foreign),
        ("SCMP_ARCH_MIPSEL64", Architecture::Foreign),
        ("SCMP_ARCH_MIPSEL64N32", Architecture::Foreign),
        ("SCMP_ARCH_PARISC", Architecture::Foreign),
        ("SCMP_ARCH_PARISC64", Architecture::Foreign),
        ("SCMP_ARCH_PPC", Architecture::Foreign),
        ("SCMP_ARCH_PPC64", Architecture::Foreign),
        ("SCMP_ARCH_PPC64LE", Architecture::Foreign),
        ("SCMP_ARCH_RISCV64", Architecture::Riscv64),
        ("SCMP_ARCH_S390", Architecture::Foreign),
        ("SCMP_ARCH_S390X", Architecture::Foreign),
        ("SCMP_ARCH_SH", Architecture::Foreign),
        ("SCMP_ARCH_SHEB", Architecture::Foreign),
    ];

    /// The architecture of this name.
    pub fn named(name: &str) -> Option<Architecture> {
        Architecture::NAMES.iter().find(|(known, _)| *known == name).map(|(_, architecture)| *architecture)
    }
}

/// How a condition compares, unsigned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operator {
    /// Not equal.
    NotEqual,
    /// Less.
    Less,
    /// Less or equal.
    LessOrEqual,
    /// Equal.
    Equal,
    /// Greater or equal.
    GreaterOrEqual,
    /// Greater.
    Greater,
    /// The bits of the mask equal the value.
    MaskedEqual {
        /// The bits to look at.
        mask: u64,
    },
}

/// A condition on one argument.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Condition {
    /// Which argument, 0 to 5.
    pub argument: u8,
    /// How to compare it.
    pub operator: Operator,
    /// With what.
    pub value: u64,
}

/// What to do with some calls.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule<'a> {
    /// The calls; names that an architecture does not have are skipped there.
    pub names: &'a [String],
    /// What to do.
    pub action: Action,
    /// All must hold.
    pub conditions: Vec<Condition>,
}

/// What a filter is to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Policy<'a> {
    /// With calls that no rule matches.
    pub default: Action,
    /// With calls that are newer than every call the rules name; the default action if `None`.
    pub unknown: Option<Action>,
    /// Which architectures' calls the rules are for, beside the machine's own. Other calls end the process.
    pub architectures: Vec<Architecture>,
    /// The rules: of those for a call, the first whose conditions hold decides.
    pub rules: Vec<Rule<'a>>,
}

/// One instruction of classic BPF.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Instruction {
    code: u16,
    if_true: u8,
    if_false: u8,
    operand: u32,
}

/// A compiled filter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Program(Vec<Instruction>);

impl Program {
    /// How many instructions it has.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it has none: never, from [`compile`].
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

bitflags::bitflags! {
    /// How to load a filter.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Flags: u32 {
        /// For all threads.
        const TSYNC = 1;
        /// Log what is not allowed.
        const LOG = 2;
        /// Leave speculative execution as it is.
        const SPEC_ALLOW = 4;
        /// Return a descriptor that gets calls with [`Action::Notify`].
        const NEW_LISTENER = 8;
        /// Only fatal signals interrupt a call that the listener has received.
        const WAIT_KILLABLE_RECV = 32;
    }
}

impl Flags {
    /// The flag that config.json calls by this name; a listener is not asked for by flag.
    pub fn named(name: &str) -> Option<Flags> {
        match name {
            "SECCOMP_FILTER_FLAG_TSYNC" => Some(Flags::TSYNC),
            "SECCOMP_FILTER_FLAG_LOG" => Some(Flags::LOG),
            "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => Some(Flags::SPEC_ALLOW),
            "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" => Some(Flags::WAIT_KILLABLE_RECV),
            _ => None,
        }
    }
}

/// Filters this process from now on. Needs `no_new_privs` or CAP_SYS_ADMIN. Returns the listener if one was asked for.
///
/// # Errors
/// If the kernel refuses.
pub fn load(program: &Program, flags: Flags) -> io::Result<Option<OwnedFd>> {
    const SECCOMP_SET_MODE_FILTER: libc::c_uint = 1;
    let length = u16::try_from(program.0.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let filter = libc::sock_fprog { len: length, filter: program.0.as_ptr().cast_mut().cast() };
    // SAFETY: `Instruction` has the layout of the kernel's sock_filter, `filter` says how many there are, and the
    // kernel copies them before it returns.
    let returned = crate::checked(unsafe {
        libc::syscall(libc::SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags.bits(), &raw const filter)
    })?;
    if !flags.contains(Flags::NEW_LISTENER) {
        return Ok(None);
    }
    let fd = i32::try_from(returned).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    // SAFETY: with this flag a successful call returns a new descriptor, which nobody else owns.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) }))
}
