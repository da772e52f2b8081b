//! With a real containerd and its `ctr`: what a stranger's client makes of the shim.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use crate::harness::{SHIM, busybox};

/// A containerd of our own, with one busybox image.
struct Containerd {
    dir: tempfile::TempDir,
    daemon: Child,
}

/// The default runtime's state is below it, so it must be this test's alone.
fn namespace() -> String {
    format!("spt-{}", std::process::id())
}

const IMAGE: &str = "docker.io/library/spt:latest";

impl Containerd {
    /// A containerd of the test's own.
    fn start() -> Containerd {
        let dir = tempfile::Builder::new().prefix("spt-ctd-").tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let text = |name: &str| path(name).display().to_string();
        let config = format!(
            "version = 2\nroot = \"{}\"\nstate = \"{}\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = \"{}\"\n[ttrpc]\naddress = \"{}\"\n\
             [plugins.\"io.containerd.internal.v1.opt\"]\npath = \"{}\"\n",
            text("root"),
            text("state"),
            text("c.sock"),
            text("c.sock.ttrpc"),
            text("opt"),
        );
        std::fs::write(path("config.toml"), config).unwrap();
        let log = std::fs::File::create(path("containerd.log")).unwrap();
        let daemon = spawn_daemon(dir.path(), log);
        std::fs::copy(SHIM, path("containerd-shim-sampan-v2")).unwrap();
        std::os::unix::fs::symlink("/usr/sbin/runc", path("sampan-runtime")).unwrap();
        let containerd = Containerd { dir, daemon };
        containerd.wait_until_up();
        containerd.import();
        containerd
    }

    fn wait_until_up(&self) {
        for _ in 0..200 {
            if self.ctr(&["version"]).output().unwrap().status.success() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50)); // containerd tells nobody when it is up
        }
        panic!("containerd does not come up: {}", self.log());
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("containerd.log")).unwrap()
    }

    fn ctr(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("/usr/bin/ctr");
        command
            .arg("--address")
            .arg(self.dir.path().join("c.sock"))
            .args(["--namespace", &namespace()])
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    /// `ctr run` with our shim. ctr passes no runtime options to shims that it does not know, so the shim's default
    /// runtime, beside it, is a link to runc.
    fn run_command(&self, options: &[&str], rest: &[&str]) -> Command {
        let shim = self.dir.path().join("containerd-shim-sampan-v2").display().to_string();
        let mut arguments = vec!["run", "--runtime", &shim];
        arguments.extend(options);
        arguments.push(IMAGE);
        arguments.extend(rest);
        self.ctr(&arguments)
    }

    /// Makes a docker-archive of busybox and imports it.
    fn import(&self) {
        let (layer, image) = (self.dir.path().join("layer"), self.dir.path().join("image"));
        busybox(&layer);
        std::fs::create_dir(&image).unwrap();
        let tar = |directory: &Path, file: &PathBuf| {
            let status = Command::new("tar").arg("-C").arg(directory).arg("-cf").arg(file).arg(".").status();
            assert!(status.unwrap().success());
        };
        tar(&layer, &image.join("layer.tar"));
        let digest = sampan_base::Digest::of(&std::fs::read(image.join("layer.tar")).unwrap());
        let config = serde_json::json!({
            "architecture": "amd64", "os": "linux", "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/sh"]},
            "rootfs": {"type": "layers", "diff_ids": [digest.as_str()]},
        });
        std::fs::write(image.join("config.json"), config.to_string()).unwrap();
        let manifest =
            serde_json::json!([{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]);
        std::fs::write(image.join("manifest.json"), manifest.to_string()).unwrap();
        let archive = self.dir.path().join("image.tar");
        tar(&image, &archive);
        let output = self.ctr(&["images", "import", archive.to_str().unwrap()]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    /// Ends the daemon at once and starts another one on the same directories.
    fn replace_daemon(&mut self) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
        let log = std::fs::File::options().append(true).open(self.dir.path().join("containerd.log")).unwrap();
        self.daemon = spawn_daemon(self.dir.path(), log);
        self.wait_until_up();
    }
}

fn spawn_daemon(dir: &Path, log: std::fs::File) -> Child {
    Command::new("/usr/bin/containerd")
        .arg("--config")
        .arg(dir.join("config.toml"))
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let listed = self.ctr(&["tasks", "ls", "-q"]).output();
        for id in listed.iter().flat_map(|o| std::str::from_utf8(&o.stdout).unwrap().lines()) {
            let _ = self.ctr(&["tasks", "rm", "--force", id]).output();
        }
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        let _ = std::fs::remove_dir(Path::new("/run/sampan-runtime").join(namespace()));
        // containerd puts containers below a cgroup of the namespace's name, and leaves that.
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let _ = std::fs::remove_dir(hierarchy.path().join(namespace()));
        }
        let tasks = Path::new("state/io.containerd.runtime.v2.task").join(namespace());
        for entry in std::fs::read_dir(self.dir.path().join(tasks)).into_iter().flatten().flatten() {
            let _ = sampan_shim::rootfs::unmount(&entry.path().join("rootfs"));
        }
    }
}

fn text(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

pub(crate) fn containerd_runs_executes_and_kills() {
    let mut containerd = Containerd::start();

    let output =
        containerd.run_command(&["--rm"], &["a", "/bin/sh", "-c", "echo out; echo err >&2; exit 7"]).output();
    let output = output.unwrap();
    assert_eq!(
        (output.status.code(), text(&output)),
        (Some(7), ("out\n".into(), "err\n".into())),
        "{}",
        containerd.log()
    );

    let output = containerd.run_command(&["--rm"], &["none", "/no/such"]).output().unwrap();
    assert!(!output.status.success() && text(&output).1.contains("/no/such"), "{output:?}");

    // With a terminal, which script(1) gives to ctr; without it there is only the test above.
    if Path::new("/usr/bin/script").exists() {
        let tty = containerd.run_command(&["--rm", "-t"], &["t", "/bin/sh", "-c", "tty; exit 4"]);
        let line = std::iter::once(tty.get_program().to_str().unwrap())
            .chain(tty.get_args().map(|a| a.to_str().unwrap()))
            .map(|w| format!("'{w}'"))
            .collect::<Vec<_>>()
            .join(" ");
        let output =
            Command::new("script").args(["-qec", &line, "/dev/null"]).stdin(Stdio::null()).output().unwrap();
        assert_eq!(output.status.code(), Some(4), "{output:?}");
        assert!(text(&output).0.contains("/dev/pts/"), "{output:?}");
    }

    let run = containerd
        .run_command(&["-d"], &["b", "/bin/sh", "-c", "trap 'exit 9' TERM; while :; do sleep 0.05; done"]);
    let output = { run }.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let exec = |words: &[&str]| {
        containerd.ctr(&[&["tasks", "exec", "--exec-id", "x", "b"], words].concat()).output().unwrap()
    };
    let output = exec(&["/bin/sh", "-c", "echo in; exit 3"]);
    assert_eq!((output.status.code(), text(&output).0.as_str()), (Some(3), "in\n"));
    let output = exec(&["/no/such"]);
    assert!(!output.status.success() && text(&output).1.contains("/no/such"), "{output:?}");
    let listed = containerd.ctr(&["tasks", "ls"]).output().unwrap();
    assert!(text(&listed).0.contains("RUNNING"), "{listed:?}");
    let metrics = containerd.ctr(&["tasks", "metrics", "b"]).output().unwrap();
    assert!(text(&metrics).0.contains("memory"), "{metrics:?}");
    for (verb, state) in [("pause", "PAUSED"), ("resume", "RUNNING")] {
        assert!(containerd.ctr(&["tasks", verb, "b"]).output().unwrap().status.success());
        assert!(text(&containerd.ctr(&["tasks", "ls"]).output().unwrap()).0.contains(state));
    }

    // A new containerd finds the shim, and the exit is not lost.
    containerd.replace_daemon();
    assert!(containerd.ctr(&["tasks", "kill", "-s", "TERM", "b"]).output().unwrap().status.success());
    let deleted = loop {
        let output = containerd.ctr(&["tasks", "delete", "b"]).output().unwrap();
        if !text(&output).1.contains("must be stopped") {
            break output;
        }
    };
    assert!(text(&deleted).1.contains("exit code 9"), "{deleted:?} {}", containerd.log());

    // Events come, and in order.
    let mut events = containerd.ctr(&["events"]);
    let mut events = events.stdout(Stdio::piped()).spawn().unwrap();
    let mut seen = String::new();
    let topics = ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"];
    let mut out = events.stdout.take().unwrap();
    for n in 0..20 {
        let id = format!("e{n}");
        containerd.run_command(&["--rm"], &[&id, "/bin/true"]).output().unwrap();
        // ctr says nothing when it has subscribed: run until something has been seen.
        let fds = &mut [rustix::event::PollFd::new(&out, rustix::event::PollFlags::IN)];
        let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
        if rustix::event::poll(fds, Some(&now)).unwrap() > 0 && n > 0 {
            break;
        }
    }
    containerd.run_command(&["--rm"], &["last", "/bin/true"]).output().unwrap();
    let mut buffer = [0u8; 4096];
    while !seen.contains("/containers/delete {\"id\":\"last\"}") {
        let n = out.read(&mut buffer).unwrap();
        assert!(n > 0, "{seen}");
        seen.push_str(std::str::from_utf8(&buffer[..n]).unwrap());
    }
    events.kill().unwrap();
    events.wait().unwrap();
    let of_last: Vec<&str> = seen
        .lines()
        .filter(|l| l.contains("/tasks/") && l.contains("\"last\""))
        .map(|l| topics.iter().find(|t| l.contains(**t)).copied().unwrap_or(l))
        .collect();
    assert_eq!(of_last, topics, "{seen}");
    // The one error that containerd logs at the end of any shim.
    let errors = containerd
        .log()
        .lines()
        .filter(|l| l.contains("level=error") && !l.contains("copy shim log"))
        .count();
    assert_eq!(errors, 0, "{}", containerd.log());
}
