//! A small interpreter of the instructions that the compiler emits: what the kernel would do with a call.

use super::{Instruction, Program};

/// What `program` returns for a call of this number by this `AUDIT_ARCH_…`; `None` if it is no program of ours.
pub fn evaluate(program: &Program, number: u32, architecture: u32, arguments: [u64; 6]) -> Option<u32> {
    let mut data = Vec::with_capacity(64);
    data.extend(number.to_le_bytes());
    data.extend(architecture.to_le_bytes());
    data.extend(0u64.to_le_bytes());
    data.extend(arguments.iter().flat_map(|a| a.to_le_bytes()));
    let (mut accumulator, mut at) = (0u32, 0usize);
    loop {
        // Jumps lead forwards only, so this ends.
        let Instruction { code, if_true, if_false, operand } = *program.0.get(at)?;
        at += 1;
        let mut branch = |taken: bool| at += usize::from(if taken { if_true } else { if_false });
        match code {
            0x20 => {
                let offset = operand as usize;
                accumulator = u32::from_le_bytes(data.get(offset..offset + 4)?.try_into().ok()?);
            }
            0x54 => accumulator &= operand,
            0x05 => at += operand as usize,
            0x15 => branch(accumulator == operand),
            0x25 => branch(accumulator > operand),
            0x35 => branch(accumulator >= operand),
            0x06 => return Some(operand),
            _ => return None,
        }
    }
}
