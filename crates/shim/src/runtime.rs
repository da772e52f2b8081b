//! An OCI runtime by its command line, runc's: which words to run, and what its log says when it failed.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sampan_rpc::runc::Options;

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
}

impl Runtime {
    /// The runtime that `options` ask for, with its state below `<root>/<namespace>` as containerd has it.
    pub fn from_options(options: &Options, namespace: &str) -> Runtime {
        let root = if options.root.is_empty() { Path::new(DEFAULT_ROOT) } else { Path::new(&options.root) };
        let binary = if options.binary_name.is_empty() {
            beside_ourselves().unwrap_or_else(|| PathBuf::from(DEFAULT_RUNTIME))
        } else {
            PathBuf::from(&options.binary_name)
        };
        Runtime {
            binary,
            root: root.join(namespace),
            systemd_cgroup: options.systemd_cgroup,
            no_pivot_root: options.no_pivot_root,
            no_new_keyring: options.no_new_keyring,
        }
    }

    /// As [`Runtime::from_options`] had it, from what Create wrote down.
    pub fn from_record(record: &crate::bundle::Record) -> Runtime {
        Runtime {
            binary: record.runtime.clone(),
            root: record.root.clone(),
            systemd_cgroup: record.systemd_cgroup,
            no_pivot_root: false,
            no_new_keyring: false,
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
        }
    }

    /// The executable's path or name.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// `runtime [global flags] verb`, its errors going to `log`. Input and output are closed but for the error
    /// output, which goes to `log`, too: some errors come before a runtime has read where its log is.
    pub fn command(&self, verb: &str, log: &Path) -> std::io::Result<Command> {
        let log_file = open_log(log)?;
        let mut command = Command::new(&self.binary);
        command.arg("--root").arg(&self.root).arg("--log").arg(log).args(["--log-format", "json"]);
        if self.systemd_cgroup {
            command.arg("--systemd-cgroup");
        }
        command.arg(verb).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::from(log_file));
        // A container must not announce itself as ready in place of the daemon.
        command.env_remove("NOTIFY_SOCKET");
        Ok(command)
    }

    /// `create`, without its stdio.
    pub fn create(
        &self,
        bundle: &Path,
        pid_file: &Path,
        console: Option<&Path>,
        log: &Path,
    ) -> std::io::Result<Command> {
        let mut command = self.command("create", log)?;
        command.arg("--bundle").arg(bundle).arg("--pid-file").arg(pid_file);
        if let Some(console) = console {
            command.arg("--console-socket").arg(console);
        }
        if self.no_pivot_root {
            command.arg("--no-pivot");
        }
        if self.no_new_keyring {
            command.arg("--no-new-keyring");
        }
        Ok(command)
    }

    /// `exec --detach`, without its stdio and the id.
    pub fn exec(
        &self,
        process: &Path,
        pid_file: &Path,
        console: Option<&Path>,
        log: &Path,
    ) -> std::io::Result<Command> {
        let mut command = self.command("exec", log)?;
        command.arg("--process").arg(process).arg("--pid-file").arg(pid_file).arg("--detach");
        if let Some(console) = console {
            command.arg("--console-socket").arg(console);
        }
        Ok(command)
    }
}

/// `sampan-runtime` in our own executable's directory, if it is there.
fn beside_ourselves() -> Option<PathBuf> {
    let ours = std::env::current_exe().ok()?;
    let beside = ours.parent()?.join(DEFAULT_RUNTIME);
    beside.exists().then_some(beside)
}

fn open_log(path: &Path) -> std::io::Result<File> {
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
        let command = runtime.command("kill", &dir.path().join("log")).unwrap();
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
