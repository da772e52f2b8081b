//! Device rules of cgroup v2: compiled to an eBPF program that the kernel asks at each use of a device node.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Which devices a rule is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeviceKind {
    /// All.
    Any,
    /// Block devices.
    Block,
    /// Character devices.
    Character,
}

bitflags::bitflags! {
    /// What is done with a device.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Access: u32 {
        /// Making a node.
        const MAKE = 1;
        /// Reading.
        const READ = 2;
        /// Writing.
        const WRITE = 4;
    }
}

/// Allows or denies devices.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeviceRule {
    /// Whether it allows.
    pub allow: bool,
    /// Which kind.
    pub kind: DeviceKind,
    /// The major number; any if `None`.
    pub major: Option<u32>,
    /// The minor number; any if `None`.
    pub minor: Option<u32>,
    /// To do what. A rule that denies is about each of these, one that allows about all that are asked for at once.
    pub access: Access,
}

/// One instruction of eBPF.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

// Registers: 0 the answer, 1 the kernel's question, then what was read from it.
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const SCRATCH: u8 = 6;

const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xbc;
const SET: u8 = 0xb4;
const AND: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const JUMP_EQUAL: u8 = 0x16;
const JUMP_NOT_EQUAL: u8 = 0x56;
const EXIT: u8 = 0x95;

/// The rules as a program: later rules win, and what no rule is about is denied.
fn compile(rules: &[DeviceRule]) -> Vec<Instruction> {
    let op = |code, target: u8, source: u8, offset, immediate| Instruction {
        code,
        registers: target | source << 4,
        offset,
        immediate,
    };
    // The question: the kind in the low half of the first word, the access in the high one, then the numbers.
    let mut program = vec![
        op(LOAD_WORD, KIND, 1, 0, 0),
        op(MOVE, ACCESS, KIND, 0, 0),
        op(SHIFT_RIGHT, ACCESS, 0, 0, 16),
        op(AND, KIND, 0, 0, 0xffff),
        op(LOAD_WORD, MAJOR, 1, 4, 0),
        op(LOAD_WORD, MINOR, 1, 8, 0),
    ];
    for rule in rules.iter().rev() {
        let mut block = Vec::new();
        match rule.kind {
            DeviceKind::Any => {}
            DeviceKind::Block => block.push(op(JUMP_NOT_EQUAL, KIND, 0, 0, 1)),
            DeviceKind::Character => block.push(op(JUMP_NOT_EQUAL, KIND, 0, 0, 2)),
        }
        if rule.access != Access::all() {
            block.push(op(MOVE, SCRATCH, ACCESS, 0, 0));
            let bits = rule.access.bits() as i32;
            if rule.allow {
                block.push(op(AND, SCRATCH, 0, 0, !bits));
                block.push(op(JUMP_NOT_EQUAL, SCRATCH, 0, 0, 0));
            } else {
                block.push(op(AND, SCRATCH, 0, 0, bits));
                block.push(op(JUMP_EQUAL, SCRATCH, 0, 0, 0));
            }
        }
        for (register, wanted) in [(MAJOR, rule.major), (MINOR, rule.minor)] {
            if let Some(number) = wanted {
                block.push(op(JUMP_NOT_EQUAL, register, 0, 0, number.cast_signed()));
            }
        }
        block.push(op(SET, 0, 0, 0, i32::from(rule.allow)));
        block.push(op(EXIT, 0, 0, 0, 0));
        // The kernel refuses code that is never reached: a rule about everything is the last word.
        let last_word = block.len() == 2;
        let length = block.len();
        for (at, instruction) in block.iter_mut().enumerate() {
            if matches!(instruction.code, JUMP_EQUAL | JUMP_NOT_EQUAL) {
                // A block has at most nine instructions.
                instruction.offset = (length - at - 1) as i16;
            }
        }
        program.append(&mut block);
        if last_word {
            return program;
        }
    }
    program.push(op(SET, 0, 0, 0, 0));
    program.push(op(EXIT, 0, 0, 0, 0));
    program
}

/// Makes the rules those of the cgroup (v2) whose directory is given, instead of what was attached to it before.
///
/// # Errors
/// If the kernel refuses: it may lack cgroup-bpf, or we the privilege.
pub fn attach(cgroup: BorrowedFd<'_>, rules: &[DeviceRule]) -> io::Result<()> {
    let program = load(&compile(rules))?;
    let old = attached(cgroup)?;
    let replace = if let [only] = old.as_slice() { Some(only) } else { None };
    attach_program(cgroup, program.as_fd(), replace.map(AsFd::as_fd))?;
    if replace.is_none() {
        for program in &old {
            detach_program(cgroup, program.as_fd())?;
        }
    }
    Ok(())
}

const BPF_PROG_LOAD: u32 = 5;
const BPF_PROG_ATTACH: u32 = 8;
const BPF_PROG_DETACH: u32 = 9;
const BPF_PROG_GET_FD_BY_ID: u32 = 13;
const BPF_PROG_QUERY: u32 = 16;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;
const BPF_F_REPLACE: u32 = 4;

/// `bpf(2)`. The structure must be the one that the command takes, with pointers to what lives through the call.
fn bpf<T>(command: u32, attributes: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads and writes at most `size_of::<T>()` bytes of the structure; each caller below passes
    // the command's own one, and keeps alive what its pointers point to.
    crate::checked(unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<T>()) })
}

/// A descriptor that bpf(2) returned.
fn owned(returned: libc::c_long) -> io::Result<OwnedFd> {
    let fd = i32::try_from(returned).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    // SAFETY: callers pass what a successful command returned that makes a new descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: u64,
        licence: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
    }
    let mut attributes = Load {
        kind: BPF_PROG_TYPE_CGROUP_DEVICE,
        count: program.len() as u32,
        instructions: program.as_ptr().addr() as u64,
        licence: c"Apache-2.0".as_ptr().addr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
    };
    owned(bpf(BPF_PROG_LOAD, &mut attributes)?)
}

#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
    replace: u32,
}

fn attach_program(
    cgroup: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    replace: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let number = |fd: BorrowedFd<'_>| fd.as_raw_fd().unsigned_abs();
    let mut attributes = Attach {
        target: number(cgroup),
        program: number(program),
        kind: BPF_CGROUP_DEVICE,
        flags: BPF_F_ALLOW_MULTI | if replace.is_some() { BPF_F_REPLACE } else { 0 },
        replace: replace.map_or(0, number),
    };
    bpf(BPF_PROG_ATTACH, &mut attributes).map(drop)
}

fn detach_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attributes = Attach {
        target: cgroup.as_raw_fd().unsigned_abs(),
        program: program.as_raw_fd().unsigned_abs(),
        kind: BPF_CGROUP_DEVICE,
        flags: 0,
        replace: 0,
    };
    bpf(BPF_PROG_DETACH, &mut attributes).map(drop)
}

/// The programs that are attached to the cgroup itself.
fn attached(cgroup: BorrowedFd<'_>) -> io::Result<Vec<OwnedFd>> {
    #[repr(C)]
    struct Query {
        target: u32,
        kind: u32,
        query_flags: u32,
        attach_flags: u32,
        ids: u64,
        count: u32,
        padding: u32,
    }
    #[repr(C)]
    struct ById {
        id: u32,
        next: u32,
        flags: u32,
    }
    // The kernel lets 64 programs be attached.
    let mut ids = [0u32; 64];
    let mut attributes = Query {
        target: cgroup.as_raw_fd().unsigned_abs(),
        kind: BPF_CGROUP_DEVICE,
        query_flags: 0,
        attach_flags: 0,
        ids: ids.as_mut_ptr().addr() as u64,
        count: ids.len() as u32,
        padding: 0,
    };
    bpf(BPF_PROG_QUERY, &mut attributes)?;
    let ids = ids.iter().take(attributes.count as usize);
    ids.map(|&id| owned(bpf(BPF_PROG_GET_FD_BY_ID, &mut ById { id, next: 0, flags: 0 })?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a program answers, by a small interpreter of the instructions that the compiler emits.
    fn run(program: &[Instruction], kind: u32, access: Access, major: u32, minor: u32) -> bool {
        let question = [kind | access.bits() << 16, major, minor];
        let mut registers = [0u32; 8];
        let mut at = 0;
        loop {
            let Instruction { code, registers: pair, offset, immediate } = program[at];
            let (target, source) = (usize::from(pair & 15), usize::from(pair >> 4));
            at += 1;
            let mut jump = |taken| {
                if taken {
                    at += offset as usize;
                }
            };
            match code {
                LOAD_WORD => registers[target] = question[offset as usize / 4],
                MOVE => registers[target] = registers[source],
                SET => registers[target] = immediate as u32,
                AND => registers[target] &= immediate as u32,
                SHIFT_RIGHT => registers[target] >>= immediate,
                JUMP_EQUAL => jump(registers[target] == immediate as u32),
                JUMP_NOT_EQUAL => jump(registers[target] != immediate as u32),
                EXIT => return registers[0] == 1,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    fn rule(
        allow: bool,
        kind: DeviceKind,
        major: Option<u32>,
        minor: Option<u32>,
        access: Access,
    ) -> DeviceRule {
        DeviceRule { allow, kind, major, minor, access }
    }

    #[test]
    fn later_rules_win_and_nothing_is_allowed_by_silence() {
        let all = Access::all();
        let program = compile(&[
            rule(true, DeviceKind::Character, None, None, Access::MAKE),
            rule(true, DeviceKind::Character, Some(1), Some(3), all),
            rule(true, DeviceKind::Block, Some(8), None, Access::READ),
            rule(false, DeviceKind::Block, Some(8), Some(1), Access::READ | Access::WRITE),
        ]);
        let (block, character) = (1, 2);
        assert!(run(&program, character, Access::MAKE, 9, 9));
        assert!(!run(&program, character, Access::READ, 9, 9));
        assert!(run(&program, character, Access::READ | Access::WRITE, 1, 3));
        assert!(!run(&program, character, Access::READ, 1, 4));
        assert!(run(&program, block, Access::READ, 8, 0));
        assert!(!run(&program, block, Access::READ | Access::WRITE, 8, 0));
        assert!(!run(&program, block, Access::READ, 8, 1));
        assert!(!run(&compile(&[]), block, Access::MAKE, 0, 0));
        let everything = rule(true, DeviceKind::Any, None, None, all);
        let program = compile(&[rule(false, DeviceKind::Block, None, None, all), everything]);
        assert!(run(&program, block, all, 7, 7) && program.len() == 8, "nothing follows the last word");
    }
}
