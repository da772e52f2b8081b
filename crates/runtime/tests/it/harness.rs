//! A bundle in a temporary directory, and a runtime with a state root and cgroups of its own. Whatever a test leaves is
//! removed when its `Fixture` is dropped.

use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// The runtime under test: on another host than the one it was built on, the tests are told where it is.
fn ours() -> PathBuf {
    let told = std::env::var_os("SAMPAN_RUNTIME").map(PathBuf::from);
    told.unwrap_or_else(|| env!("CARGO_BIN_EXE_sampan-runtime").into())
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Output {
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.out
    }

    #[track_caller]
    pub(crate) fn fails(self, code: i32, with: &str) -> String {
        assert_eq!(self.code, code, "{self:?}");
        assert!(self.err.contains(with), "{with:?} is not in {:?}", self.err);
        self.err
    }
}

pub(crate) struct Fixture {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) runtime: PathBuf,
    pub(crate) config: Value,
    pub(crate) cgroup: String,
}

impl Fixture {
    /// A bundle of a busybox shell that runs `script`.
    pub(crate) fn new(script: &str) -> Fixture {
        Fixture::with_runtime(&ours(), script)
    }

    pub(crate) fn with_runtime(runtime: &Path, script: &str) -> Fixture {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        assert!(rustix::process::geteuid().is_root(), "these tests need root");
        let directory = tempfile::Builder::new().prefix("sampan-rt-").tempdir().unwrap();
        let bin = directory.path().join("bundle/rootfs/bin");
        fs::create_dir_all(&bin).unwrap();
        for sub in ["tmp", "etc", "proc", "sys", "dev", "root"] {
            fs::create_dir(directory.path().join("bundle/rootfs").join(sub)).unwrap();
        }
        // A user namespace's root has to get in.
        for path in [directory.path(), &directory.path().join("bundle")] {
            fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        }
        // By another process: while this one has it open to write, a child of another test may hold it open, too.
        let copied = Command::new("cp").arg("/bin/busybox").arg(bin.join("busybox")).status().unwrap();
        assert!(copied.success(), "busybox-static is installed");
        for applet in [
            "sh", "true", "cat", "sleep", "id", "ls", "mount", "env", "pwd", "hostname", "stat", "grep",
            "kill", "touch", "echo", "mknod", "tty", "stty", "head", "od", "dd", "wc", "mkdir", "ip",
            "readlink", "chroot", "test", "date", "umount", "yes", "ulimit", "ps", "tr", "unshare", "rm",
            "ln", "cut", "ipcs", "awk",
        ] {
            symlink("busybox", bin.join(applet)).unwrap();
        }
        let cgroup = format!("/sampan-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mut fixture = Fixture { config: Value::Null, directory, runtime: runtime.to_owned(), cgroup };
        let written = Command::new(ours()).arg("spec").current_dir(fixture.bundle()).status().unwrap();
        assert!(written.success());
        let text = fs::read(fixture.bundle().join("config.json")).unwrap();
        fixture.config = serde_json::from_slice(&text).unwrap();
        let namespaces = fixture.config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|n| n["type"] != "cgroup");
        namespaces.push(json!({"type": "cgroup"}));
        fixture.config["process"]["terminal"] = false.into();
        fixture.config["process"]["args"] = json!(["sh", "-c", script]);
        fixture.config["linux"]["cgroupsPath"] = format!("{}/c", fixture.cgroup).into();
        fixture.config["root"]["readonly"] = false.into();
        fixture
    }

    /// The same, with config.json changed.
    pub(crate) fn with(mut self, change: impl FnOnce(&mut Value)) -> Fixture {
        change(&mut self.config);
        self
    }

    pub(crate) fn bundle(&self) -> PathBuf {
        self.directory.path().join("bundle")
    }

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.bundle().join("rootfs")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.path("state")
    }

    pub(crate) fn write_config(&self) {
        let text = serde_json::to_vec_pretty(&self.config).unwrap();
        // Replaced, not rewritten: a runtime that a test has started beside may be reading it.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let new = self.path(&format!("config.{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        fs::write(&new, text).unwrap();
        fs::rename(new, self.bundle().join("config.json")).unwrap();
    }

    /// A command of the runtime, ready to be run.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        self.write_config();
        let mut command = Command::new(&self.runtime);
        command.arg("--root").arg(self.root()).args(args).current_dir(self.bundle());
        command.stdin(Stdio::null());
        command
    }

    /// Runs a command of the runtime to its end. Standard streams are files, because a container that lives on keeps
    /// them open.
    pub(crate) fn call(&self, args: &[&str]) -> Output {
        run(self.command(args))
    }

    /// Runs the container in the foreground.
    pub(crate) fn run(&self) -> Output {
        self.call(&["run", "c"])
    }

    /// The container's process is running, and is `sleep`.
    #[track_caller]
    pub(crate) fn running(script: &str) -> Fixture {
        let fixture = Fixture::new(script);
        fixture.start();
        fixture
    }

    #[track_caller]
    pub(crate) fn start(&self) {
        self.call(&["create", "c"]).ok();
        self.call(&["start", "c"]).ok();
    }

    #[track_caller]
    pub(crate) fn state(&self) -> Value {
        serde_json::from_str(&self.call(&["state", "c"]).ok()).unwrap()
    }

    #[track_caller]
    pub(crate) fn status(&self) -> String {
        self.state()["status"].as_str().unwrap().to_owned()
    }

    pub(crate) fn exec(&self, script: &str) -> Output {
        self.call(&["exec", "c", "sh", "-c", script])
    }

    /// The container's directories in all hierarchies.
    pub(crate) fn cgroups(&self) -> Vec<PathBuf> {
        let hierarchies = fs::read_dir("/sys/fs/cgroup").unwrap();
        let groups = hierarchies.map(|h| h.unwrap().path().join(&self.cgroup[1..]).join("c"));
        let mut all: Vec<PathBuf> = groups.collect();
        all.push(Path::new("/sys/fs/cgroup").join(&self.cgroup[1..]).join("c"));
        all.retain(|path| path.is_dir());
        all
    }

    /// A file of the container's cgroup, wherever that is.
    #[track_caller]
    pub(crate) fn cgroup_file(&self, v1: &str, v2: &str) -> String {
        let find = |name: &str| self.cgroups().into_iter().map(|g| g.join(name)).find(|p| p.exists());
        let path = find(v1).or_else(|| find(v2)).unwrap_or_else(|| panic!("no {v1} and no {v2}"));
        fs::read_to_string(path).unwrap().trim().to_owned()
    }

    /// Nothing is left of the container.
    #[track_caller]
    pub(crate) fn assert_gone(&self) {
        assert_eq!(self.cgroups(), Vec::<PathBuf>::new());
        let ids: Vec<_> =
            fs::read_dir(self.root()).map(|d| d.map(|e| e.unwrap().path()).collect()).unwrap_or_default();
        assert_eq!(ids, Vec::<PathBuf>::new());
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let ours = self.directory.path().display().to_string();
        assert!(!mounts.contains(&ours), "a mount is left: {mounts}");
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        for entry in fs::read_dir(self.root()).into_iter().flatten().flatten() {
            let id = entry.file_name();
            let mut delete = Command::new(&self.runtime);
            delete.arg("--root").arg(self.root()).args(["delete", "--force"]).arg(id);
            let _ = delete.stdin(Stdio::null()).output();
        }
        let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|h| h.path());
        for hierarchy in hierarchies.chain([PathBuf::from("/sys/fs/cgroup")]) {
            let _ = fs::remove_dir(hierarchy.join(&self.cgroup[1..]));
        }
    }
}

/// Runs a command to its end.
pub(crate) fn run(mut command: Command) -> Output {
    let out = tempfile::tempfile().unwrap();
    let err = tempfile::tempfile().unwrap();
    command.stdout(out.try_clone().unwrap()).stderr(err.try_clone().unwrap());
    let status = command.status().unwrap();
    Output { code: status.code().unwrap_or(-1), out: read(out), err: read(err) }
}

fn read(mut file: fs::File) -> String {
    use std::io::Seek;
    let mut text = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut text).unwrap();
    String::from_utf8_lossy(&text).into_owned()
}

/// Waits for what another process brings about and nothing announces.
#[track_caller]
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(60), "it did not come about: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A child that is ended when the test is.
pub(crate) struct Guard(pub(crate) Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
