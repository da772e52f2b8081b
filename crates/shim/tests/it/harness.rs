//! One shim with one container, driven through the library's client.

use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use prost_types::Any;
use sampan_rpc::log::{KeptLog, LogConfig, LogFormat, attach_address};
use sampan_rpc::{pack, runc, task};
use sampan_shim::client::{CallError, Client};
use serde_json::{Value, json};

pub(crate) const SHIM: &str = env!("CARGO_BIN_EXE_containerd-shim-sampan-v2");

/// Debian's runc, or what `SPT_RUNTIME` names.
fn runtime() -> PathBuf {
    std::env::var_os("SPT_RUNTIME").map_or_else(|| PathBuf::from("/usr/sbin/runc"), PathBuf::from)
}

/// A shim and its container. Dropped, nothing of them is left.
pub(crate) struct Shim {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) id: String,
    pub(crate) client: Client,
    pub(crate) address: String,
    pub(crate) runtime: PathBuf,
}

pub(crate) fn sh(script: &str) -> Vec<String> {
    ["/bin/sh", "-c", script].map(str::to_owned).to_vec()
}

/// A busybox root file system at `path`.
pub(crate) fn busybox(path: &Path) {
    for name in ["bin", "proc", "dev", "sys", "tmp", "etc"] {
        std::fs::create_dir_all(path.join(name)).unwrap();
    }
    std::fs::copy("/bin/busybox", path.join("bin/busybox")).unwrap();
    for applet in
        ["sh", "echo", "cat", "sleep", "true", "stty", "ps", "head", "yes", "id", "dd", "tty", "kill"]
    {
        symlink("busybox", path.join("bin").join(applet)).unwrap();
    }
}

impl Shim {
    /// Starts a shim with a bundle whose process is `args`, edited by `edit`; nothing is created yet.
    pub(crate) fn start(args: Vec<String>, edit: impl FnOnce(&mut Value)) -> Shim {
        Shim::start_publishing(args, edit, "", "")
    }

    /// As [`Shim::start`], its events going to `program` with `address`.
    pub(crate) fn start_publishing(
        args: Vec<String>,
        edit: impl FnOnce(&mut Value),
        program: &str,
        address: &str,
    ) -> Shim {
        Shim::start_executable(Path::new(SHIM), args, edit, [program, address])
    }

    /// As [`Shim::start_publishing`], of another executable.
    pub(crate) fn start_executable(
        executable: &Path,
        args: Vec<String>,
        edit: impl FnOnce(&mut Value),
        [program, address]: [&str; 2],
    ) -> Shim {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let dir = tempfile::Builder::new().prefix("spt-shim-").tempdir().unwrap();
        let id = format!("spt-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let bundle = dir.path().join("bundle");
        busybox(&bundle.join("rootfs"));
        let made = Command::new("/usr/sbin/runc").arg("spec").arg("--bundle").arg(&bundle).status().unwrap();
        assert!(made.success());
        let config = bundle.join("config.json");
        let mut spec: Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
        spec["process"]["args"] = json!(args);
        spec["process"]["terminal"] = json!(false);
        spec["root"]["readonly"] = json!(false);
        edit(&mut spec);
        std::fs::write(&config, spec.to_string()).unwrap();
        let output = Command::new(executable)
            .args(["-namespace", "spt", "-id", &id, "-address", address, "-publish-binary", program, "start"])
            .current_dir(&bundle)
            .env_remove("TTRPC_ADDRESS")
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let address = String::from_utf8(output.stdout).unwrap();
        assert_eq!(std::fs::read_to_string(bundle.join("address")).unwrap(), address);
        let client = Client::connect(&address).unwrap();
        Shim { dir, id, client, address, runtime: runtime() }
    }

    pub(crate) fn bundle(&self) -> PathBuf {
        self.dir.path().join("bundle")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        PathBuf::from(self.address.strip_prefix("unix://").unwrap())
    }

    /// Another connection, for calls that wait.
    pub(crate) fn another(&self) -> Client {
        Client::connect(&self.address).unwrap()
    }

    pub(crate) fn options(&self) -> Any {
        pack(&runc::Options {
            binary_name: self.runtime.to_string_lossy().into_owned(),
            root: self.dir.path().join("runc").to_string_lossy().into_owned(),
            ..Default::default()
        })
    }

    pub(crate) fn attach_address(&self) -> String {
        logged(self.dir.path(), "container-json.log")
    }

    pub(crate) fn create(&mut self, terminal: bool, stdin: &str, stdout: &str, stderr: &str) -> u32 {
        let request = self.create_request(terminal, stdin, stdout, stderr);
        self.client.call::<task::CreateTaskResponse>("Create", &request).unwrap().pid
    }

    pub(crate) fn create_request(
        &self,
        terminal: bool,
        stdin: &str,
        stdout: &str,
        stderr: &str,
    ) -> task::CreateTaskRequest {
        task::CreateTaskRequest {
            id: self.id.clone(),
            bundle: self.bundle().to_string_lossy().into_owned(),
            terminal,
            stdin: stdin.to_owned(),
            stdout: stdout.to_owned(),
            stderr: stderr.to_owned(),
            options: Some(self.options()),
            ..Default::default()
        }
    }

    pub(crate) fn create_attached(&mut self) -> u32 {
        let address = self.attach_address();
        self.create(false, "", &address, "")
    }

    pub(crate) fn start_task(&mut self, exec: &str) -> Result<u32, CallError> {
        let request = task::StartRequest { id: self.id.clone(), exec_id: exec.to_owned() };
        self.client.call::<task::StartResponse>("Start", &request).map(|r| r.pid)
    }

    pub(crate) fn wait(&mut self, exec: &str) -> u32 {
        let request = task::WaitRequest { id: self.id.clone(), exec_id: exec.to_owned() };
        let response: task::WaitResponse = self.client.call("Wait", &request).unwrap();
        assert!(response.exited_at.is_some());
        response.exit_status
    }

    pub(crate) fn state(&mut self, exec: &str) -> task::StateResponse {
        let request = task::StateRequest { id: self.id.clone(), exec_id: exec.to_owned() };
        self.client.call("State", &request).unwrap()
    }

    pub(crate) fn kill(&mut self, exec: &str, signal: u32, all: bool) -> Result<(), CallError> {
        let request = task::KillRequest { id: self.id.clone(), exec_id: exec.to_owned(), signal, all };
        self.client.call("Kill", &request)
    }

    pub(crate) fn delete(&mut self, exec: &str) -> Result<task::DeleteResponse, CallError> {
        let request = task::DeleteRequest { id: self.id.clone(), exec_id: exec.to_owned() };
        self.client.call("Delete", &request)
    }

    pub(crate) fn exec(&mut self, exec: &str, args: Vec<String>, terminal: bool, stdin: bool) {
        let spec = json!({
            "args": args, "cwd": "/", "terminal": terminal, "env": ["PATH=/bin"],
            "user": {"uid": 0, "gid": 0},
        });
        let request = task::ExecProcessRequest {
            id: self.id.clone(),
            exec_id: exec.to_owned(),
            terminal,
            stdin: if stdin { "attach:".into() } else { String::new() },
            stdout: format!("attach://{}", self.dir.path().display()),
            stderr: String::new(),
            spec: Some(Any {
                type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".into(),
                value: spec.to_string().into_bytes(),
            }),
        };
        self.client.call::<()>("Exec", &request).unwrap();
    }

    pub(crate) fn attach(&self, exec: &str, hello: &str) -> UnixStream {
        let name = if exec.is_empty() { "attach.sock".to_owned() } else { format!("attach-{exec}.sock") };
        let mut socket = UnixStream::connect(self.dir.path().join(name)).unwrap();
        socket.write_all(format!("{hello}\n").as_bytes()).unwrap();
        socket
    }

    pub(crate) fn log(&self) -> Vec<(String, String)> {
        let text = std::fs::read_to_string(self.dir.path().join("container-json.log")).unwrap();
        text.lines()
            .map(|line| {
                let v: Value = serde_json::from_str(line).unwrap();
                let get = |k: &str| v[k].as_str().unwrap().to_owned();
                assert!(get("time").ends_with('Z'));
                (get("stream"), get("log"))
            })
            .collect()
    }

    pub(crate) fn shim_pid(&mut self) -> u32 {
        let request = task::ConnectRequest { id: self.id.clone() };
        self.client.call::<task::ConnectResponse>("Connect", &request).unwrap().shim_pid
    }

    /// Shutdown, and the end of the shim.
    pub(crate) fn shut_down(mut self) {
        let pid = rustix::process::Pid::from_raw(self.shim_pid().cast_signed()).unwrap();
        let fd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
        let request = task::ShutdownRequest { id: self.id.clone(), now: true };
        self.client.call::<()>("Shutdown", &request).unwrap();
        wait_readable(&fd);
        assert!(!self.socket().exists());
        let left: Vec<_> = std::fs::read_dir(self.bundle())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .filter(|n| n.starts_with("run-"))
            .collect();
        assert!(left.is_empty(), "{left:?}");
        assert_eq!(std::fs::read_to_string(self.bundle().join("shim.log")).unwrap(), "");
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        if !self.socket().exists() {
            return;
        }
        // A test has failed: end the shim by its pid and clean up as containerd would.
        let request = task::ConnectRequest { id: self.id.clone() };
        if let Ok(mut client) = Client::connect(&self.address)
            && let Ok(response) = client.call::<task::ConnectResponse>("Connect", &request)
            && let Some(pid) = rustix::process::Pid::from_raw(response.shim_pid.cast_signed())
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        let _ = delete_command(self);
    }
}

/// Runs `containerd-shim-sampan-v2 delete`.
pub(crate) fn delete_command(shim: &Shim) -> std::process::Output {
    Command::new(SHIM)
        .args(["-namespace", "spt", "-id", &shim.id, "-bundle", shim.bundle().to_str().unwrap(), "delete"])
        .current_dir(shim.bundle())
        .output()
        .unwrap()
}

pub(crate) fn wait_readable(fd: &impl std::os::fd::AsFd) {
    let mut fds = [rustix::event::PollFd::new(fd, rustix::event::PollFlags::IN)];
    let limit = rustix::time::Timespec { tv_sec: 20, tv_nsec: 0 };
    assert_eq!(rustix::event::poll(&mut fds, Some(&limit)).unwrap(), 1, "nothing in 20 s");
}

/// Everything until the end, a terminal's or not.
pub(crate) fn read_all(mut socket: &UnixStream) -> Vec<u8> {
    socket.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
    let mut bytes = Vec::new();
    socket.read_to_end(&mut bytes).unwrap();
    bytes
}

/// Takes Docker's multiplexed frames apart: output and error output.
pub(crate) fn demultiplex(mut bytes: &[u8]) -> (String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    while let Some((header, rest)) = bytes.split_first_chunk::<8>() {
        let [stream, 0, 0, 0, a, b, c, d] = *header else { panic!("bad header {header:?}") };
        let (payload, rest) = rest.split_at(u32::from_be_bytes([a, b, c, d]) as usize);
        if stream == 1 { &mut out } else { &mut err }.extend_from_slice(payload);
        bytes = rest;
    }
    assert!(bytes.is_empty());
    (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

/// An attach address in `directory`, with a JSON log there.
pub(crate) fn logged(directory: &Path, name: &str) -> String {
    let kept = KeptLog {
        path: directory.join(name),
        format: LogFormat::JsonFile,
        max_size: None,
        max_files: 1,
        compress: false,
        attributes: Default::default(),
    };
    attach_address(directory, Some(&LogConfig { kept: Some(kept), sent: None })).unwrap()
}
