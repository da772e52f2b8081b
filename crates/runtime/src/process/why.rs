//! Why a program can't be run, in the words of whoever has to put it right. Called when it has failed: costs nothing else.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD, StatVfsMountFlags};

/// More about a path that may not be executed: the directory on the way that may not be entered, or that the file has no
/// permission for it.
pub(super) fn forbidden(path: &Path) -> String {
    match closed_directory(path) {
        Some(directory) => {
            format!(" (the directory {} may not be entered by this user)", directory.display())
        }
        None if on_noexec(path) => NOEXEC.to_owned(),
        None => match std::fs::metadata(path) {
            Ok(_) => " (it has no permission to be executed by this user)".to_owned(),
            Err(_) => String::new(),
        },
    }
}

/// The first directory above a path that this user may not enter.
pub(super) fn closed_directory(path: &Path) -> Option<&Path> {
    let mut above: Vec<&Path> = path.ancestors().skip(1).filter(|p| !p.as_os_str().is_empty()).collect();
    above.reverse();
    above.into_iter().find(|directory| {
        let search = rustix::fs::accessat(CWD, *directory, Access::EXEC_OK, AtFlags::EACCESS);
        search == Err(rustix::io::Errno::ACCESS)
    })
}

/// That the working directory can't be entered, and which directory on the way to it is closed.
pub(super) fn not_entered(cwd: &str) -> String {
    match closed_directory(Path::new(cwd)).filter(|closed| *closed != Path::new(cwd)) {
        Some(closed) => {
            format!("change into `{cwd}` (`{}` may not be entered by this user)", closed.display())
        }
        None => format!("change into `{cwd}`"),
    }
}

/// More about a file that has permission and was not executed all the same.
pub(super) fn not_executed(path: &Path) -> String {
    if on_noexec(path) {
        return NOEXEC.to_owned();
    }
    match interpreter_of(&head(path)) {
        Some(interpreter) => format!(" (perhaps because of its interpreter {interpreter})"),
        None => String::new(),
    }
}

const NOEXEC: &str = " (its file system is mounted with noexec)";

fn on_noexec(path: &Path) -> bool {
    rustix::fs::statvfs(path).is_ok_and(|stat| stat.f_flag.contains(StatVfsMountFlags::NOEXEC))
}

/// What is odd about the name of an interpreter.
pub(super) fn carriage_return(interpreter: &str) -> &'static str {
    if interpreter.ends_with("\\r") { " (its first line ends in CR LF)" } else { "" }
}

/// What a file is that is no program of this machine.
pub(super) fn no_format(path: &Path) -> String {
    let head = head(path);
    if head.is_empty() {
        return " (the file is empty)".to_owned();
    }
    if head.starts_with(b"#!") {
        return " (its #! line names no interpreter)".to_owned();
    }
    if !head.starts_with(b"\x7fELF") {
        return " (it begins with neither #! nor an ELF header)".to_owned();
    }
    match head.get(18..20).map(|bytes| u16::from_le_bytes([bytes[0], bytes[1]])) {
        Some(machine) if machine != OWN_MACHINE => {
            format!(" (it is for {}, this machine is {})", machine_name(machine), std::env::consts::ARCH)
        }
        _ => String::new(),
    }
}

/// ELF's numbers of machines.
const MACHINES: [(u16, &str); 9] = [
    (3, "x86"),
    (8, "mips"),
    (21, "powerpc64"),
    (22, "s390x"),
    (40, "arm"),
    (62, "x86_64"),
    (183, "aarch64"),
    (243, "riscv64"),
    (258, "loongarch64"),
];

const OWN_MACHINE: u16 = if cfg!(target_arch = "aarch64") {
    183
} else if cfg!(target_arch = "riscv64") {
    243
} else if cfg!(target_arch = "loongarch64") {
    258
} else {
    62
};

fn machine_name(machine: u16) -> String {
    let known = MACHINES.iter().find(|(number, _)| *number == machine);
    known.map_or_else(|| format!("machine {machine}"), |(_, name)| (*name).to_owned())
}

fn head(path: &Path) -> Vec<u8> {
    let mut head = Vec::new();
    // What can't be read is told by its permissions.
    let _ = File::open(path).and_then(|file| file.take(256).read_to_end(&mut head));
    head
}

fn interpreter_of(head: &[u8]) -> Option<String> {
    let line = head.strip_prefix(b"#!")?.split(|b| *b == b'\n').next()?;
    String::from_utf8_lossy(line).split_whitespace().next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn what_is_no_program_is_told() {
        let temporary = tempfile::tempdir().unwrap();
        let check = |bytes: &[u8]| {
            let path = temporary.path().join("x");
            fs::write(&path, bytes).unwrap();
            no_format(&path)
        };
        assert_eq!(check(b""), " (the file is empty)");
        assert_eq!(check(b"echo hello"), " (it begins with neither #! nor an ELF header)");
        assert_eq!(check(b"#!\n"), " (its #! line names no interpreter)");
        let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
        elf.resize(64, 0);
        elf[18..20].copy_from_slice(&8u16.to_le_bytes());
        assert!(check(&elf).starts_with(" (it is for mips, this machine is "));
        assert_eq!(carriage_return("/bin/sh\\r"), " (its first line ends in CR LF)");
        assert_eq!(carriage_return("/bin/sh"), "");
    }
}
