//! Programs that config.json wants run at points of the container's life.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::fs::MemfdFlags;
use rustix::process::{Pid, PidfdFlags};
use sampan_oci::runtime::{Hook, State};

/// How much of a failed hook's error output is shown, in bytes.
const MAX_SHOWN: u64 = 4096;

/// A hook that failed.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// It could not be run.
    #[error("cannot run the {kind} hook `{path}`")]
    Run {
        /// The point of the container's life.
        kind: &'static str,
        /// The program.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// It ended with an error.
    #[error("error running hook: the {kind} hook `{path}` failed: {status}{}{output}", filtered(status))]
    Failed {
        /// The point of the container's life.
        kind: &'static str,
        /// The program.
        path: String,
        /// How it ended.
        status: ExitStatus,
        /// What it wrote to standard error, after `: `, or nothing.
        output: String,
    },
    /// It did not end in time and was killed.
    #[error("the {kind} hook `{path}` did not end within {seconds} s")]
    TimedOut {
        /// The point of the container's life.
        kind: &'static str,
        /// The program.
        path: String,
        /// Its timeout.
        seconds: u32,
    },
}

/// What ended a hook that a filter of system calls stopped.
fn filtered(status: &ExitStatus) -> &'static str {
    use std::os::unix::process::ExitStatusExt;
    match status.signal() {
        Some(signal) if signal == rustix::process::Signal::SYS.as_raw() => {
            ", bad system call: it is filtered by seccomp"
        }
        _ => "",
    }
}

/// Runs hooks one after the other, each with the state on its standard input.
///
/// # Errors
/// At the first that fails; the rest is not run.
pub fn run(kind: &'static str, hooks: &[Hook], state: &State, directory: &Path) -> Result<(), HookError> {
    hooks.iter().try_for_each(|hook| one(kind, hook, state, directory))
}

/// As [`run`], but all are run whatever fails; returns what failed, to be logged.
pub fn run_all(kind: &'static str, hooks: &[Hook], state: &State, directory: &Path) -> Vec<HookError> {
    hooks.iter().filter_map(|hook| one(kind, hook, state, directory).err()).collect()
}

fn one(kind: &'static str, hook: &Hook, state: &State, directory: &Path) -> Result<(), HookError> {
    let path = hook.path.display().to_string();
    let run = || -> io::Result<(Option<ExitStatus>, File)> {
        // Files in memory: nobody has to feed or drain a pipe while we wait.
        let mut input = memory(c"state")?;
        serde_json::to_writer(&mut input, state)?;
        input.flush()?;
        input.rewind()?;
        let errors = memory(c"stderr")?;
        let mut command = Command::new(&hook.path);
        if let Some((name, rest)) = hook.args.split_first() {
            command.arg0(name).args(rest);
        }
        command.env_clear();
        command.envs(hook.env.iter().filter_map(|e| e.split_once('=')));
        command.stdin(Stdio::from(input)).stdout(Stdio::null()).stderr(Stdio::from(errors.try_clone()?));
        command.current_dir(directory);
        let mut child = command.spawn()?;
        let ended = match hook.timeout {
            None => true,
            Some(seconds) => wait(&child, Duration::from_secs(u64::from(seconds)))?,
        };
        if !ended {
            child.kill()?;
        }
        let status = child.wait()?;
        Ok((ended.then_some(status), errors))
    };
    match run() {
        Err(source) => Err(HookError::Run { kind, path, source }),
        Ok((None, _)) => Err(HookError::TimedOut { kind, path, seconds: hook.timeout.unwrap_or(0) }),
        Ok((Some(status), _)) if status.success() => Ok(()),
        Ok((Some(status), errors)) => Err(HookError::Failed { kind, path, status, output: shown(errors) }),
    }
}

fn memory(name: &std::ffi::CStr) -> io::Result<File> {
    Ok(File::from(rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)?))
}

fn shown(mut errors: File) -> String {
    let mut text = Vec::new();
    if errors.rewind().and_then(|()| errors.take(MAX_SHOWN).read_to_end(&mut text)).is_err() {
        return String::new();
    }
    let text = String::from_utf8_lossy(&text);
    let text = text.trim();
    if text.is_empty() { String::new() } else { format!(": {text}") }
}

/// Whether a child ends within a time.
fn wait(child: &std::process::Child, limit: Duration) -> io::Result<bool> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    let handle = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
    crate::ending::wait_for(handle.as_fd(), limit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sampan_oci::runtime::Status;

    fn check(script: &str, timeout: Option<u32>) -> Result<(), String> {
        let state = State {
            oci_version: "1.2.0".into(),
            id: "x".into(),
            status: Status::Creating,
            pid: 5,
            bundle: "/b".into(),
            annotations: Default::default(),
        };
        let hook = Hook {
            path: "/bin/sh".into(),
            args: ["hook-sh", "-c", script].map(str::to_owned).to_vec(),
            env: vec!["A=b".into()],
            timeout,
        };
        run("prestart", &[hook], &state, Path::new("/tmp")).map_err(|e| e.to_string())
    }

    #[test]
    fn a_hook_gets_the_state_its_environment_and_its_name() {
        check(
            r#"test "$(cat)" = '{"ociVersion":"1.2.0","id":"x","status":"creating","pid":5,"bundle":"/b"}'"#,
            None,
        )
        .unwrap();
        check(r#"test "$A$HOME" = b && test "$0" = hook-sh && test "$PWD" = /tmp"#, None).unwrap();
    }

    #[test]
    fn a_failure_tells_what_the_hook_said() {
        let error = check("echo no moon >&2; exit 3", None).unwrap_err();
        assert_eq!(error, "error running hook: the prestart hook `/bin/sh` failed: exit status: 3: no moon");
        let error = check("exec sleep 60", Some(1)).unwrap_err();
        assert_eq!(error, "the prestart hook `/bin/sh` did not end within 1 s");
    }
}
