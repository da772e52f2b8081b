//! An OCI runtime by its command line, runc's: which words to run, and what its log says when it failed.
//!
//! Our own runtime has the same command line, but is not executed: it is part of this program, which becomes it in a copy
//! of itself.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use std::process::{Command, Stdio};
use std::sync::Arc;

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use sampan_kernel::process as kernel;
use sampan_rpc::runc::Options;

use crate::stdio::ChildEnds;

/// Our own runtime, used if the caller names none.
pub const DEFAULT_RUNTIME: &str = "sampan-runtime";
/// Where runtimes keep their state if the caller does not say; the namespace is added, as to any other root.
pub const DEFAULT_ROOT: &str = "/run/sampan-runtime";
/// How much of a runtime's log is read for its error.
const MAX_LOG_BYTES: u64 = 256 << 10;

/// How to call the runtime of one container.
#[derive(Clone, Debug)]
pub struct Runtime {
    binary: PathBuf,
    root: PathBuf,
    systemd_cgroup: bool,
    no_pivot_root: bool,
    no_new_keyring: bool,
    /// It is part of this program.
    is_linked: bool,
    /// Open in its commands as well, where it is part of this program: [`Runtime::hold`].
    held: Option<Arc<OwnedFd>>,
}

impl Runtime {
    /// The runtime that `options` ask for, with its state below `<root>/<namespace>` as containerd has it.
    pub fn from_options(options: &Options, namespace: &str) -> Runtime {
        let root = if options.root.is_empty() { Path::new(DEFAULT_ROOT) } else { Path::new(&options.root) };
        let binary = if options.binary_name.is_empty() {
            let beside = beside_ourselves().filter(|path| path.exists());
            beside.unwrap_or_else(|| PathBuf::from(DEFAULT_RUNTIME))
        } else {
            PathBuf::from(&options.binary_name)
        };
        Runtime {
            is_linked: is_linked(&binary),
            binary,
            root: root.join(namespace),
            systemd_cgroup: options.systemd_cgroup,
            no_pivot_root: options.no_pivot_root,
            no_new_keyring: options.no_new_keyring,
            held: None,
        }
    }

    /// Locks the bundle for as long as this process or one of the runtime's commands lives. Should this process be killed,
    /// one of them may be about to make the container; whoever then wants to remove it first waits for the lock.
    ///
    /// # Errors
    /// If it can't be locked.
    pub fn hold(&mut self, bundle: &Path) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(bundle, flags, Mode::empty())?;
        flock(&directory, FlockOperation::NonBlockingLockExclusive)?;
        self.held = Some(Arc::new(directory));
        Ok(())
    }

    /// As [`Runtime::from_options`] had it, from what Create wrote down.
    pub fn from_record(record: &crate::bundle::Record) -> Runtime {
        Runtime {
            binary: record.runtime.clone(),
            root: record.root.clone(),
            systemd_cgroup: record.systemd_cgroup,
            no_pivot_root: false,
            no_new_keyring: false,
            is_linked: false,
            held: None,
        }
    }

    /// What `delete` must know, with the server's `socket`.
    pub fn record(&self, socket: &Path) -> crate::bundle::Record {
        crate::bundle::Record {
            version: 1,
            runtime: self.binary.clone(),
            root: self.root.clone(),
            systemd_cgroup: self.systemd_cgroup,
            socket: socket.to_owned(),
            server: std::process::id(),
        }
    }

    /// `runtime [global flags] verb`. Its errors go to `log`, and so does its error output, unless it gets another one:
    /// some errors come before a runtime has read where its log is.
    ///
    /// # Errors
    /// If the log can't be opened.
    pub fn call(&self, verb: &str, log: &Path) -> io::Result<Call> {
        let log_file = open_log(log)?;
        let call = Call {
            binary: self.binary.clone(),
            is_linked: self.is_linked,
            held: self.held.clone(),
            arguments: Vec::with_capacity(16),
            stdio: [None, None, Some(log_file.into())],
        };
        let call = call.arg("--root").arg(&self.root).arg("--log").arg(log).arg("--log-format").arg("json");
        let call = if self.systemd_cgroup { call.arg("--systemd-cgroup") } else { call };
        Ok(call.arg(verb))
    }

    /// `create`, without its stdio and the id.
    ///
    /// # Errors
    /// As [`Runtime::call`].
    pub fn create(
        &self,
        bundle: &Path,
        pid_file: &Path,
        console: Option<&Path>,
        log: &Path,
    ) -> io::Result<Call> {
        let mut call = self.call("create", log)?.arg("--bundle").arg(bundle).arg("--pid-file").arg(pid_file);
        if let Some(console) = console {
            call = call.arg("--console-socket").arg(console);
        }
        if self.no_pivot_root {
            call = call.arg("--no-pivot");
        }
        if self.no_new_keyring {
            call = call.arg("--no-new-keyring");
        }
        Ok(call)
    }

    /// `exec --detach`, without its stdio and the id.
    ///
    /// # Errors
    /// As [`Runtime::call`].
    pub fn exec(
        &self,
        process: &Path,
        pid_file: &Path,
        console: Option<&Path>,
        log: &Path,
    ) -> io::Result<Call> {
        let call = self.call("exec", log)?.arg("--process").arg(process).arg("--pid-file").arg(pid_file);
        let call = call.arg("--detach");
        Ok(match console {
            Some(console) => call.arg("--console-socket").arg(console),
            None => call,
        })
    }
}

/// A command of a runtime, not yet begun.
#[derive(Debug)]
pub struct Call {
    binary: PathBuf,
    is_linked: bool,
    held: Option<Arc<OwnedFd>>,
    arguments: Vec<OsString>,
    stdio: ChildEnds,
}

impl Call {
    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Call {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// The executable's path or name.
    pub fn program(&self) -> &Path {
        &self.binary
    }

    /// Sets what a container's process inherits.
    #[must_use]
    pub fn stdio(self, stdio: ChildEnds) -> Call {
        Call { stdio, ..self }
    }

    /// Begins it; it ends as a child of this process, which is to reap it. Answers its process id.
    ///
    /// # Errors
    /// If there can be no process for it, or the executable can't be run.
    pub fn start(self) -> io::Result<u32> {
        // Words that are not UTF-8 the program refuses, in its own words.
        let words: Option<Vec<String>> =
            self.arguments.iter().map(|word| word.to_str().map(str::to_owned)).collect();
        match words.filter(|_| self.is_linked) {
            Some(words) => in_a_copy(&words, &self.stdio, self.held.as_deref()),
            None => self.into_command().spawn().map(|child| child.id()),
        }
    }

    /// As a command that executes the runtime's file.
    pub fn into_command(self) -> Command {
        let mut command = Command::new(&self.binary);
        let [stdin, stdout, stderr] = self.stdio.map(|end| end.map_or_else(Stdio::null, Stdio::from));
        command.args(&self.arguments).stdin(stdin).stdout(stdout).stderr(stderr);
        // A container must not announce itself as ready in place of the daemon.
        command.env_remove("NOTIFY_SOCKET");
        command
    }
}

/// Does what the executed runtime would do, in a copy of this process. To execute a file costs more than half of what the
/// runtime's shorter commands take.
fn in_a_copy(words: &[String], stdio: &ChildEnds, held: Option<&OwnedFd>) -> io::Result<u32> {
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let [stdin, stdout, stderr] = stdio.each_ref().map(|end| end.as_ref().unwrap_or(&null));
    let child = kernel::clone(&kernel::Clone::default(), || {
        let begin = || {
            rustix::stdio::dup2_stdin(stdin)?;
            rustix::stdio::dup2_stdout(stdout)?;
            rustix::stdio::dup2_stderr(stderr)?;
            // As exec would: no client, log or other container of ours is open in what becomes a container. What is held
            // the runtime closes before the container's root is entered.
            let kept: Vec<_> = held.iter().map(|fd| fd.as_fd()).collect();
            kernel::close_all_from(3, &kept)?;
            kernel::reset_signals()?;
            sampan_kernel::signals::ignore_broken_pipes();
            io::Result::Ok(())
        };
        match begin() {
            Ok(()) => sampan_runtime::cli::run(words).into(),
            Err(error) => {
                crate::note(&format!("cannot begin a command of the runtime: {error}"));
                1
            }
        }
    })?;
    // Reaped by its number, with all the others.
    Ok(child.pid.as_raw_nonzero().get().cast_unsigned())
}

/// Whether the runtime at `binary` is the one that is part of this program. It is not if anybody could write to this
/// program's file by way of a container's process (CVE-2019-5736): then the runtime's own protects itself.
fn is_linked(binary: &Path) -> bool {
    let is_file = || std::fs::symlink_metadata(binary).is_ok_and(|file| file.is_file());
    beside_ourselves().is_some_and(|ours| ours == binary)
        && is_file()
        && sampan_runtime::seal::is_sealed().unwrap_or(false)
}

/// This program's executable, by the name that it was started with: where it is sealed, the kernel's link leads to a
/// mount without a place.
pub(crate) fn own_executable() -> Option<PathBuf> {
    let named = std::env::args_os().next().map(PathBuf::from).filter(|path| path.is_absolute());
    named.or_else(|| std::env::current_exe().ok())
}

/// `sampan-runtime` in our own executable's directory.
fn beside_ourselves() -> Option<PathBuf> {
    Some(own_executable()?.parent()?.join(DEFAULT_RUNTIME))
}

fn open_log(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// The reason in a failed runtime's log: the last error that it logged as JSON, or else its last line.
pub fn last_error(log: &Path) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Line {
        #[serde(default)]
        level: String,
        #[serde(default)]
        msg: String,
    }
    let text = sampan_base::files::read_limited(log, MAX_LOG_BYTES).ok()?;
    let text = String::from_utf8_lossy(&text);
    let mut plain = None;
    let mut logged = None;
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        match serde_json::from_str::<Line>(line) {
            Ok(Line { level, msg }) if matches!(level.as_str(), "error" | "fatal" | "panic") => {
                logged = Some(msg)
            }
            Ok(_) => {}
            Err(_) => plain = Some(line.trim().to_owned()),
        }
    }
    logged.or(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_directory_has_the_namespace_in_it() {
        let options = Options { binary_name: "crun".into(), root: "/r".into(), ..Default::default() };
        let runtime = Runtime::from_options(&options, "k8s.io");
        let dir = tempfile::tempdir().unwrap();
        let command = runtime.call("kill", &dir.path().join("log")).unwrap().into_command();
        let words: Vec<_> = command.get_args().map(|a| a.to_string_lossy().into_owned()).collect();
        assert_eq!(words[..2], ["--root", "/r/k8s.io"]);
        assert_eq!(words.last().unwrap(), "kill");
    }

    #[test]
    fn the_logged_error_wins_over_plain_lines() {
        let dir = tempfile::tempdir().unwrap();
        let check = |text: &str| {
            let log = dir.path().join("log");
            std::fs::write(&log, text).unwrap();
            last_error(&log)
        };
        let json = r#"{"level":"warning","msg":"w"}
{"level":"error","msg":"no such file"}
no such file, again
"#;
        assert_eq!(check(json).as_deref(), Some("no such file"));
        assert_eq!(
            check("flag provided but not defined\n\n").as_deref(),
            Some("flag provided but not defined")
        );
        assert_eq!(check(""), None);
    }
}
