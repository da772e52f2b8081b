//! A bundle in a temporary directory, and a runtime that knows nothing of it yet: what every test begins with.
//! Whatever a test leaves is removed with its [`Bench`].

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// How long a runtime's command may take: one that hangs fails its test.
const LIMIT: &str = "30";

/// A runtime under test.
#[derive(Clone, Debug)]
pub(crate) struct Runtime {
    pub(crate) name: String,
    program: PathBuf,
}

impl Runtime {
    pub(crate) fn new(program: &str) -> Runtime {
        let name = Path::new(program).file_name().unwrap_or_default().to_string_lossy().into_owned();
        let program = if program.contains('/') { fs::canonicalize(program).unwrap() } else { program.into() };
        Runtime { name, program }
    }

    /// What `--version` says first.
    pub(crate) fn version(&self) -> String {
        let output = Command::new(&self.program).arg("--version").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().next().unwrap_or_default().replace(" version", "")
    }

    /// A command line of it. crun refuses hosts where cgroup v2 is mounted beside v1: it gets a view without.
    fn command(&self) -> Command {
        let mut command = Command::new("timeout");
        command.args(["-s", "KILL", LIMIT]);
        if self.name == "crun" && Path::new("/sys/fs/cgroup/unified").exists() {
            let script = "umount /sys/fs/cgroup/unified && exec \"$@\"";
            command.args(["unshare", "-m", "sh", "-c", script, "sh"]);
        }
        command.arg(&self.program);
        command
    }
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Output {
    /// Standard output of a command that must succeed.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}", self.err.trim());
        self.out
    }

    /// Standard error of a command that must fail, but not by hanging.
    #[track_caller]
    pub(crate) fn fails(self) -> String {
        assert!(self.code != 0, "it succeeded: {}", self.out);
        assert!(!matches!(self.code, -1 | 124 | 137), "it hung: {self:?}");
        self.err
    }
}

/// A bundle, and the runtime under test.
pub(crate) struct Bench {
    pub(crate) runtime: Runtime,
    directory: tempfile::TempDir,
    pub(crate) config: Value,
    pub(crate) id: String,
}

impl Bench {
    pub(crate) fn new(runtime: &Runtime) -> Bench {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let id = format!("sampan-test-oci-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let directory = tempfile::Builder::new().prefix("sampan-oci-").tempdir().unwrap();
        let rootfs = directory.path().join("bundle/rootfs");
        for sub in ["bin", "tmp", "etc", "proc", "sys", "dev", "root", "mnt"] {
            fs::create_dir_all(rootfs.join(sub)).unwrap();
        }
        // The root of a user namespace has to get in, too.
        for path in [directory.path().to_owned(), directory.path().join("bundle"), rootfs.clone()] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        copy_program("/bin/busybox", &rootfs.join("bin/busybox"));
        for applet in [
            "awk",
            "cat",
            "chmod",
            "cut",
            "date",
            "dd",
            "dmesg",
            "domainname",
            "echo",
            "env",
            "expr",
            "false",
            "find",
            "grep",
            "head",
            "hostname",
            "id",
            "ip",
            "kill",
            "ln",
            "ls",
            "mkdir",
            "mknod",
            "mount",
            "nice",
            "od",
            "printf",
            "ps",
            "pwd",
            "readlink",
            "rm",
            "sed",
            "sh",
            "sleep",
            "sort",
            "stat",
            "stty",
            "sync",
            "tail",
            "test",
            "touch",
            "tr",
            "true",
            "tty",
            "umount",
            "uname",
            "unshare",
            "wc",
            "yes",
            "ionice",
            "chown",
        ] {
            symlink("busybox", rootfs.join("bin").join(applet)).unwrap();
        }
        let capabilities = json!([
            "CAP_CHOWN",
            "CAP_DAC_OVERRIDE",
            "CAP_FOWNER",
            "CAP_KILL",
            "CAP_MKNOD",
            "CAP_SETGID",
            "CAP_SETUID",
            "CAP_SYS_CHROOT",
            "CAP_AUDIT_WRITE"
        ]);
        let mount = |destination: &str, kind: &str, options: &str| {
            let options: Vec<&str> = options.split(',').collect();
            json!({"destination": destination, "type": kind, "source": kind, "options": options})
        };
        let namespaces = ["pid", "network", "ipc", "uts", "mount"].map(|kind| json!({"type": kind}));
        let config = json!({
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": 0, "gid": 0},
                "args": ["true"],
                "env": ["PATH=/bin"],
                "cwd": "/",
                "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            },
            "root": {"path": "rootfs"},
            "mounts": [
                mount("/proc", "proc", "nosuid,noexec,nodev"),
                mount("/dev", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
                mount("/dev/pts", "devpts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"),
                mount("/dev/shm", "tmpfs", "nosuid,noexec,nodev,mode=1777,size=65536k"),
                mount("/dev/mqueue", "mqueue", "nosuid,noexec,nodev"),
                mount("/sys", "sysfs", "nosuid,noexec,nodev,ro"),
            ],
            "linux": {
                "cgroupsPath": format!("/{id}"),
                "resources": {"devices": [{"allow": false, "access": "rwm"}]},
                "namespaces": namespaces,
            },
        });
        Bench { runtime: runtime.clone(), directory, config, id }
    }

    // --- the bundle

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn bundle(&self) -> PathBuf {
        self.path("bundle")
    }

    pub(crate) fn rootfs(&self, name: &str) -> PathBuf {
        self.bundle().join("rootfs").join(name.trim_start_matches('/'))
    }

    /// A directory of the host with a file `file` that holds `text`.
    pub(crate) fn directory_with(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("file"), text).unwrap();
        path
    }

    /// Sets what a JSON pointer points to. Objects on the way are made.
    pub(crate) fn set(&mut self, pointer: &str, value: impl Into<Value>) {
        let mut at = &mut self.config;
        for part in pointer.split('/').skip(1) {
            at = match at {
                Value::Array(list) => &mut list[part.parse::<usize>().unwrap()],
                other => &mut other[part],
            };
        }
        *at = value.into();
    }

    pub(crate) fn unset(&mut self, pointer: &str) {
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        self.config.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(name);
    }

    /// Appends to a list, which is made if it is not there.
    pub(crate) fn push(&mut self, pointer: &str, value: Value) {
        if self.config.pointer(pointer).is_none() {
            self.set(pointer, json!([]));
        }
        self.config.pointer_mut(pointer).unwrap().as_array_mut().unwrap().push(value);
    }

    pub(crate) fn mount(&mut self, destination: &str, kind: &str, source: impl AsRef<Path>, options: &str) {
        let options: Vec<&str> = options.split(',').filter(|o| !o.is_empty()).collect();
        self.push(
            "/mounts",
            json!({"destination": destination, "type": kind, "source": source.as_ref(), "options": options}),
        );
    }

    pub(crate) fn script(&mut self, script: &str) {
        self.set("/process/args", json!(["sh", "-c", script]));
    }

    /// A hook of the host's shell.
    pub(crate) fn hook(&mut self, kind: &str, script: &str) {
        let hook = json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]});
        self.push(&format!("/hooks/{kind}"), hook);
    }

    /// A user namespace, with the container's root as the host's 100000.
    pub(crate) fn user_namespace(&mut self) {
        self.push("/linux/namespaces", json!({"type": "user"}));
        for kind in ["uidMappings", "gidMappings"] {
            self.set(
                &format!("/linux/{kind}"),
                json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]),
            );
        }
        std::os::unix::fs::chown(self.rootfs("tmp"), Some(100_000), Some(100_000)).unwrap();
    }

    // --- the operations

    pub(crate) fn write_config(&self) {
        fs::write(self.bundle().join("config.json"), serde_json::to_vec_pretty(&self.config).unwrap())
            .unwrap();
    }

    /// A command of the runtime, to its end. Its streams are files: a container that lives on keeps them open.
    pub(crate) fn call(&self, args: &[&str]) -> Output {
        let (out, err) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let code = self.spawn(args, &out, &err);
        Output { code, out: read(out), err: read(err) }
    }

    fn spawn(&self, args: &[&str], out: &File, err: &File) -> i32 {
        let mut command = self.runtime.command();
        command.arg("--root").arg(self.path("state")).args(args).current_dir(self.directory.path());
        command.stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(err.try_clone().unwrap());
        command.status().unwrap().code().unwrap_or(-1)
    }

    pub(crate) fn create(&self) -> Output {
        self.create_as(&self.id)
    }

    pub(crate) fn create_as(&self, id: &str) -> Output {
        self.write_config();
        let err = tempfile::tempfile().unwrap();
        // What the container's process writes later goes to this file, too.
        let out = File::options().create(true).append(true).read(true).open(self.path("output")).unwrap();
        let bundle = self.bundle();
        let code = self.spawn(&["create", "--bundle", bundle.to_str().unwrap(), id], &out, &err);
        Output { code, out: String::new(), err: read(err) }
    }

    pub(crate) fn start(&self) -> Output {
        self.call(&["start", &self.id])
    }

    pub(crate) fn kill(&self, signal: &str) -> Output {
        self.call(&["kill", &self.id, signal])
    }

    pub(crate) fn delete(&self) -> Output {
        self.call(&["delete", &self.id])
    }

    /// What the created container's process has written.
    pub(crate) fn output(&self) -> String {
        fs::read_to_string(self.path("output")).unwrap_or_default()
    }

    /// Creates and starts a container that runs `script`.
    #[track_caller]
    pub(crate) fn lives(&mut self, script: &str) {
        self.script(script);
        self.create().ok();
        self.start().ok();
    }

    /// Runs the container's program to its end, and deletes the container.
    pub(crate) fn run(&self) -> Output {
        self.write_config();
        let bundle = self.bundle();
        self.call(&["run", "--bundle", bundle.to_str().unwrap(), &self.id])
    }

    /// As [`Bench::run`], of a shell's script, which must succeed: what it wrote.
    #[track_caller]
    pub(crate) fn sh(&mut self, script: &str) -> String {
        self.script(script);
        self.run().ok()
    }

    #[track_caller]
    pub(crate) fn state(&self) -> Value {
        serde_json::from_str(&self.call(&["state", &self.id]).ok()).unwrap()
    }

    pub(crate) fn exists(&self) -> bool {
        self.call(&["state", &self.id]).code == 0
    }

    #[track_caller]
    pub(crate) fn status(&self) -> String {
        self.state()["status"].as_str().unwrap_or_default().to_owned()
    }

    #[track_caller]
    pub(crate) fn pid(&self) -> i64 {
        self.state()["pid"].as_i64().unwrap()
    }

    #[track_caller]
    pub(crate) fn stops(&self) {
        eventually("the container stops", || self.status() == "stopped");
    }

    /// Creation must fail, and leave nothing.
    #[track_caller]
    pub(crate) fn refused(&self) -> String {
        let error = self.create().fails();
        assert!(!self.exists(), "a container is left behind");
        assert_eq!(self.cgroups(), Vec::<PathBuf>::new(), "a cgroup is left behind");
        error
    }

    // --- the host

    /// The directories of the container's cgroup in all hierarchies.
    pub(crate) fn cgroups(&self) -> Vec<PathBuf> {
        self.cgroups_at(&self.id)
    }

    pub(crate) fn cgroups_at(&self, path: &str) -> Vec<PathBuf> {
        let hierarchies = fs::read_dir("/sys/fs/cgroup").unwrap().map(|h| h.unwrap().path());
        let roots = hierarchies.chain([PathBuf::from("/sys/fs/cgroup")]);
        roots.map(|root| root.join(path.trim_start_matches('/'))).filter(|path| path.is_dir()).collect()
    }

    /// A file of the container's cgroup.
    #[track_caller]
    pub(crate) fn cgroup_file(&self, v1: &str, v2: &str) -> String {
        let groups = self.cgroups();
        let find = |name: &str| groups.iter().map(|g| g.join(name)).find(|p| p.exists());
        let file =
            find(v1).or_else(|| find(v2)).unwrap_or_else(|| panic!("no {v1} and no {v2} in {groups:?}"));
        fs::read_to_string(file).unwrap().trim().to_owned()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        for id in [self.id.clone(), format!("{}-b", self.id)] {
            let _ = self.call(&["delete", "--force", &id]);
        }
        for path in [self.id.clone(), format!("{}-b", self.id)] {
            for group in self.cgroups_at(&path) {
                for below in fs::read_dir(&group).into_iter().flatten().flatten() {
                    let _ = fs::remove_dir(below.path());
                }
                let _ = fs::remove_dir(group);
            }
        }
    }
}

/// Copies a program by another process: while this one has it open to write, a child of another test's thread may hold it
/// open, too, and then nobody can execute it.
pub(crate) fn copy_program(from: &str, to: &Path) {
    assert!(Command::new("cp").arg(from).arg(to).status().unwrap().success());
}

fn read(mut file: File) -> String {
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
        assert!(began.elapsed() < Duration::from_secs(10), "it did not come about: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Every word of `words` must be in `text`.
#[track_caller]
pub(crate) fn contains(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "`{word}` is not in: {text}");
    }
}
