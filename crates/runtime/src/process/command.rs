//! Finds the program that a process is to run, and explains why it can't be run.
//!
//! The texts of these errors are a contract: engines tell by them exit code 127 (`executable file not found in $PATH`,
//! `no such file or directory`) from 126 (`permission denied`). They are kept together here.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD};
use sampan_base::Class;

use super::why;

/// A program that can't be run.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// A name without a slash is in no directory of `$PATH`.
    #[error("exec: \"{name}\": executable file not found in $PATH")]
    NotInPath {
        /// The name.
        name: String,
    },
    /// A path leads nowhere.
    #[error("exec: \"{name}\": stat {name}: no such file or directory")]
    NoSuchFile {
        /// The path.
        name: String,
    },
    /// What is there is not to be executed by this user.
    #[error("exec: \"{name}\": permission denied{why}")]
    NotExecutable {
        /// The path.
        name: String,
        /// More about it, in parentheses, or nothing.
        why: String,
    },
    /// What is there needs another program that is not.
    #[error(
        "exec: \"{name}\": no such file or directory: its interpreter \"{interpreter}\" does not exist{}",
        why::carriage_return(interpreter)
    )]
    NoInterpreter {
        /// The program.
        name: String,
        /// What it names as its interpreter.
        interpreter: String,
    },
    /// What is there is no program that this machine can run.
    #[error("exec: \"{name}\": exec format error{why}")]
    Format {
        /// The program.
        name: String,
        /// More about it, in parentheses, or nothing.
        why: String,
    },
    /// The kernel refused it.
    #[error("exec: \"{name}\": {why}")]
    Refused {
        /// The program.
        name: String,
        /// Why.
        why: io::Error,
    },
}

impl CommandError {
    /// The class to report.
    pub fn class(&self) -> Class {
        match self {
            CommandError::NotInPath { .. }
            | CommandError::NoSuchFile { .. }
            | CommandError::NoInterpreter { .. } => Class::CommandNotFound,
            CommandError::NotExecutable { .. }
            | CommandError::Format { .. }
            | CommandError::Refused { .. } => Class::CommandNotExecutable,
        }
    }
}

/// The program's file: `name` itself if there is a slash in it, or else from the directories of `$PATH` in `env`.
///
/// # Errors
/// If there is none, or none that this process may execute.
pub fn find(name: &str, env: &[String]) -> Result<PathBuf, CommandError> {
    if name.contains('/') {
        return match check(Path::new(name)) {
            Ok(()) => Ok(name.into()),
            Err(Unusable::Missing) => Err(CommandError::NoSuchFile { name: name.to_owned() }),
            Err(Unusable::Directory) => Err(CommandError::NotExecutable {
                name: name.to_owned(),
                why: " (it is a directory)".to_owned(),
            }),
            Err(Unusable::Forbidden) => {
                let why = why::forbidden(Path::new(name));
                Err(CommandError::NotExecutable { name: name.to_owned(), why })
            }
        };
    }
    let path = env.iter().rev().find_map(|e| e.strip_prefix("PATH=")).unwrap_or_default();
    for directory in path.split(':') {
        let directory = if directory.is_empty() { "." } else { directory };
        let candidate = Path::new(directory).join(name);
        if check(&candidate).is_ok() {
            return Ok(candidate);
        }
    }
    Err(CommandError::NotInPath { name: name.to_owned() })
}

enum Unusable {
    Missing,
    Directory,
    Forbidden,
}

fn check(path: &Path) -> Result<(), Unusable> {
    let metadata = std::fs::metadata(path).map_err(|e| match e.kind() {
        io::ErrorKind::PermissionDenied => Unusable::Forbidden,
        _ => Unusable::Missing,
    })?;
    if metadata.is_dir() {
        return Err(Unusable::Directory);
    }
    if metadata.mode() & 0o111 == 0 {
        return Err(Unusable::Forbidden);
    }
    match rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS) {
        Err(rustix::io::Errno::ACCESS) => Err(Unusable::Forbidden),
        // Other errors are those of a filter of system calls; exec itself will tell.
        _ => Ok(()),
    }
}

/// Why exec of a file that [`find`] found failed.
pub fn explain(path: &Path, error: io::Error) -> CommandError {
    let name = path.display().to_string();
    match error.kind() {
        io::ErrorKind::NotFound => match interpreter(path) {
            Some(interpreter) => CommandError::NoInterpreter { name, interpreter },
            None => CommandError::NoSuchFile { name },
        },
        io::ErrorKind::PermissionDenied => CommandError::NotExecutable { name, why: why::not_executed(path) },
        _ if error.raw_os_error() == Some(rustix::io::Errno::NOEXEC.raw_os_error()) => {
            CommandError::Format { name, why: why::no_format(path) }
        }
        _ => CommandError::Refused { name, why: error },
    }
}

/// What a file names as its interpreter, in its `#!` line or its ELF header.
fn interpreter(path: &Path) -> Option<String> {
    let file = File::open(path).ok()?;
    let mut head = Vec::new();
    (&file).take(256).read_to_end(&mut head).ok()?;
    if let Some(line) = head.strip_prefix(b"#!") {
        let line = line.split(|b| *b == b'\n').next()?;
        // A carriage return is part of the name to the kernel: shown, it explains itself.
        let text = String::from_utf8_lossy(line).replace('\r', "\\r");
        return text.split_whitespace().next().map(str::to_owned);
    }
    elf_interpreter(&file, &head)
}

/// From the PT_INTERP segment of a 64-bit little-endian ELF file.
fn elf_interpreter(file: &File, head: &[u8]) -> Option<String> {
    const PT_INTERP: u32 = 3;
    let word = |bytes: &[u8], at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let long = |bytes: &[u8], at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let half = |bytes: &[u8], at: usize| Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    if !head.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let (table, size, count) = (long(head, 32)?, half(head, 54)?, half(head, 56)?);
    for index in 0..count {
        let mut entry = [0u8; 56];
        file.read_exact_at(&mut entry, table.checked_add(u64::from(index) * u64::from(size))?).ok()?;
        if word(&entry, 0)? == PT_INTERP {
            let length = usize::try_from(long(&entry, 32)?).ok()?.min(4096);
            let mut name = vec![0u8; length];
            file.read_exact_at(&mut name, long(&entry, 8)?).ok()?;
            name.retain(|b| *b != 0);
            return String::from_utf8(name).ok();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn text(name: &str, path: &str) -> (String, Class) {
        let error = find(name, &[format!("PATH={path}")]).unwrap_err();
        (error.to_string(), error.class())
    }

    #[test]
    fn errors_have_the_texts_that_engines_look_for() {
        let temporary = tempfile::tempdir().unwrap();
        let plain = temporary.path().join("plain");
        fs::write(&plain, "").unwrap();
        let plain = plain.display().to_string();
        let directory = temporary.path().display().to_string();
        assert_eq!(
            text("plain", &directory),
            ("exec: \"plain\": executable file not found in $PATH".into(), Class::CommandNotFound)
        );
        assert_eq!(
            text("/nope", ""),
            ("exec: \"/nope\": stat /nope: no such file or directory".into(), Class::CommandNotFound)
        );
        assert_eq!(
            text(&plain, ""),
            (
                format!(
                    "exec: \"{plain}\": permission denied (it has no permission to be executed by this user)"
                ),
                Class::CommandNotExecutable
            )
        );
        assert!(text(&directory, "").0.ends_with("permission denied (it is a directory)"));
    }

    #[test]
    fn the_first_executable_in_path_is_taken() {
        let temporary = tempfile::tempdir().unwrap();
        for (directory, mode) in [("a", 0o644), ("b", 0o755), ("c", 0o755)] {
            let directory = temporary.path().join(directory);
            fs::create_dir(&directory).unwrap();
            fs::write(directory.join("x"), "").unwrap();
            fs::set_permissions(directory.join("x"), fs::Permissions::from_mode(mode)).unwrap();
        }
        let path = format!("PATH={0}/none:{0}/a:{0}/b:{0}/c", temporary.path().display());
        assert_eq!(find("x", &[path]).unwrap(), temporary.path().join("b/x"));
    }

    #[test]
    fn a_missing_interpreter_is_named() {
        let temporary = tempfile::tempdir().unwrap();
        let script = temporary.path().join("script");
        fs::write(&script, "#!/bin/moon\r\necho\n").unwrap();
        let error = explain(&script, io::ErrorKind::NotFound.into());
        assert!(
            error
                .to_string()
                .ends_with("its interpreter \"/bin/moon\\r\" does not exist (its first line ends in CR LF)"),
            "{error}"
        );
        let dynamic = Path::new("/bin/ls");
        assert!(interpreter(dynamic).unwrap().contains("ld-linux"));
    }
}
