//! Debian's dockerd as a peer, with directories of its own and without networks of the host's.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::{Command, executable, wait_until};

/// A dockerd of a test's own. Its containers and networks go when it is dropped.
#[derive(Debug)]
pub struct Dockerd {
    directory: tempfile::TempDir,
    child: Child,
    client: PathBuf,
}

impl Dockerd {
    /// Starts one that is asked through the docker client at `client`, with `more` arguments.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start(client: impl Into<PathBuf>, more: &[&str]) -> Dockerd {
        let directory = tempfile::Builder::new().prefix("sit-d-").tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        // Not the host's.
        std::fs::write(path("config.json"), "{}").unwrap();
        let log = std::fs::File::create(path("log")).unwrap();
        let child = std::process::Command::new("/usr/sbin/dockerd")
            .args(["--data-root", &path("data"), "--exec-root", &path("exec"), "--pidfile", &path("pid")])
            .args(["-H", &format!("unix://{}", path("sock")), "--bridge=none", "--iptables=false"])
            .args(["--config-file", &path("config.json")])
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let dockerd = Dockerd { directory, child, client: client.into() };
        // It tells nobody when it listens.
        wait_until("dockerd answers", || dockerd.docker(["version"]).run().code == 0);
        dockerd
    }

    /// Where it listens, `unix:///path`.
    pub fn host(&self) -> String {
        format!("unix://{}", self.directory.path().join("sock").display())
    }

    /// A directory for the test's own files.
    ///
    /// # Panics
    /// If it can't be made.
    pub fn scratch(&self) -> PathBuf {
        let path = self.directory.path().join("scratch");
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    /// Its docker client with these arguments, not run yet.
    pub fn docker<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        self.client(&self.client, arguments)
    }

    /// Our own client with these arguments, not run yet.
    pub fn sampan<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        self.client(&executable("sampan"), arguments).env("SAMPAN_HOST", "")
    }

    /// Another client with these arguments, not run yet.
    pub fn client<S: AsRef<OsStr>>(&self, program: &Path, arguments: impl IntoIterator<Item = S>) -> Command {
        Command::new(program)
            .env("DOCKER_HOST", self.host())
            .env("DOCKER_CONFIG", self.scratch().join("docker-config"))
            .env("DOCKER_BUILDKIT", "0")
            .args(arguments)
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        for id in self.docker(["ps", "-aq"]).run().stdout.lines() {
            self.docker(["rm", "-fv", id]).run();
        }
        self.docker(["network", "prune", "-f"]).run();
        // It stops the containerd that it has started, too.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let _ = self.child.wait();
    }
}
