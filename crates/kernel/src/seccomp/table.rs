//! The families of architectures: which ways to make calls a machine of each has, and the numbers of their calls.

use super::Architecture;

/// A call's name, and its number on each of a family's architectures, or [`NONE`].
pub(super) type Row = (&'static str, u16, u16, u16);

/// The call does not exist there.
pub(super) const NONE: u16 = u16::MAX;

/// A way in which programs on a machine make calls.
#[derive(Clone, Copy, Debug)]
pub(super) struct Abi {
    pub(super) architecture: Architecture,
    /// What the kernel calls it.
    pub(super) audit: u32,
    /// What marks its calls, among those of the same name.
    pub(super) mark: u32,
    /// Whether arguments have 64 bits.
    pub(super) wide: bool,
    /// Where its numbers stand in a row, from 0 on.
    column: usize,
}

/// What a machine can run: its own architecture first, and those of the same audit name one after the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Family {
    pub(super) abis: &'static [Abi],
    pub(super) rows: &'static [Row],
}

impl Family {
    /// The row of a call.
    pub(super) fn row(&self, name: &str) -> Option<&'static Row> {
        self.rows.binary_search_by(|row| row.0.cmp(name)).ok().map(|at| &self.rows[at])
    }
}

impl Abi {
    /// The number of a call, without the mark, if there is the call.
    pub(super) fn number(&self, row: &Row) -> Option<u32> {
        let number = [row.1, row.2, row.3][self.column];
        match (self.architecture, number) {
            (_, NONE) => None,
            // ARM's private calls, which would not fit.
            (Architecture::Arm, 0xf000..) => Some(0x000f_0000 | u32::from(number & 0xfff)),
            _ => Some(u32::from(number)),
        }
    }
}

const fn abi(architecture: Architecture, audit: u32, column: usize) -> Abi {
    Abi { architecture, audit, mark: 0, wide: true, column }
}

/// Marks the calls of x32, which share x86_64's audit name.
pub(super) const X32_BIT: u32 = 0x4000_0000;

#[cfg(any(test, target_arch = "x86_64"))]
pub(super) static X86: Family = Family {
    abis: &[
        abi(Architecture::X86_64, 0xc000_003e, 0),
        Abi { mark: X32_BIT, ..abi(Architecture::X32, 0xc000_003e, 2) },
        Abi { wide: false, ..abi(Architecture::X86, 0x4000_0003, 1) },
    ],
    rows: super::x86::ROWS,
};

#[cfg(any(test, target_arch = "aarch64"))]
pub(super) static ARM: Family = Family {
    abis: &[
        abi(Architecture::Aarch64, 0xc000_00b7, 0),
        Abi { wide: false, ..abi(Architecture::Arm, 0x4000_0028, 1) },
    ],
    rows: super::arm::ROWS,
};

#[cfg(any(test, target_arch = "riscv64"))]
pub(super) static RISCV: Family =
    Family { abis: &[abi(Architecture::Riscv64, 0xc000_00f3, 0)], rows: super::generic::ROWS };

#[cfg(any(test, target_arch = "loongarch64"))]
pub(super) static LOONGARCH: Family =
    Family { abis: &[abi(Architecture::Loongarch64, 0xc000_0102, 1)], rows: super::generic::ROWS };

#[cfg(target_arch = "x86_64")]
pub(super) use X86 as NATIVE;

#[cfg(target_arch = "aarch64")]
pub(super) use ARM as NATIVE;

#[cfg(target_arch = "riscv64")]
pub(super) use RISCV as NATIVE;

#[cfg(target_arch = "loongarch64")]
pub(super) use LOONGARCH as NATIVE;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_sorted_for_the_search() {
        for family in [&X86, &ARM, &RISCV, &LOONGARCH] {
            let unsorted = family.rows.windows(2).find(|pair| pair[0].0 >= pair[1].0);
            assert_eq!(unsorted, None);
        }
    }

    #[test]
    fn calls_have_their_numbers() {
        let numbers = |family: &Family, name: &str| -> Vec<Option<u32>> {
            family.abis.iter().map(|abi| family.row(name).and_then(|row| abi.number(row))).collect()
        };
        assert_eq!(numbers(&X86, "execve"), [Some(59), Some(520), Some(11)]);
        assert_eq!(numbers(&X86, "socketcall"), [None, None, Some(102)]);
        assert_eq!(numbers(&ARM, "execve"), [Some(221), Some(11)]);
        assert_eq!(numbers(&ARM, "open"), [None, Some(5)]);
        assert_eq!(numbers(&ARM, "set_tls"), [None, Some(0xf_0005)]);
        assert_eq!(numbers(&RISCV, "execve"), [Some(221)]);
        assert_eq!(numbers(&LOONGARCH, "renameat"), [None]);
        assert_eq!(numbers(&ARM, "no_such_call"), [None, None]);
    }
}
