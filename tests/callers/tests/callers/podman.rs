//! Podman and buildah with `--runtime`.

use sampan_testkit::{Command, Pty, busybox, wait_until};

pub(crate) const CASES: &[crate::Case] = &[
    ("podman::containers_live_their_lives", &["/usr/bin/podman"], containers_live_their_lives),
    ("podman::terminals_work", &["/usr/bin/podman"], terminals_work),
    ("podman::buildah_runs_commands_in_a_build", &["/usr/bin/buildah"], buildah_runs_commands_in_a_build),
];

/// Directories of the test's own.
struct Podman {
    dir: tempfile::TempDir,
}

impl Podman {
    fn new() -> Podman {
        let podman = Podman { dir: tempfile::Builder::new().prefix("sct-p-").tempdir().unwrap() };
        let archive = busybox::archive().display().to_string();
        podman.podman(["import", "-c", "ENV PATH=/bin", &archive, "busybox"]).run().ok();
        podman
    }

    fn arguments(&self, arguments: &[&str]) -> Vec<String> {
        let path = |name: &str| self.dir.path().join(name).display().to_string();
        let mut all: Vec<String> = Vec::new();
        for (option, value) in [
            ("--root", path("root")),
            ("--runroot", path("run")),
            ("--tmpdir", path("tmp")),
            ("--storage-driver", "overlay".to_owned()),
            ("--cgroup-manager", "cgroupfs".to_owned()),
            ("--events-backend", "file".to_owned()),
            ("--runtime", crate::runtime().display().to_string()),
        ] {
            all.extend([option.to_owned(), value]);
        }
        all.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        all
    }

    fn podman<const N: usize>(&self, arguments: [&str; N]) -> Command {
        Command::new("/usr/bin/podman").args(self.arguments(&arguments))
    }

    fn run<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Command {
        let words: Vec<&str> = ["run", "--network", "none"].into_iter().chain(arguments).collect();
        Command::new("/usr/bin/podman").args(self.arguments(&words))
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        self.podman(["rm", "-fa", "-t", "0"]).run();
        // What the storage keeps mounted would keep the directory.
        self.podman(["unmount", "-a"]).run();
        let root = self.dir.path().join("root/overlay");
        let _ = rustix::mount::unmount(&root, rustix::mount::UnmountFlags::DETACH);
    }
}

fn containers_live_their_lives() {
    let it = Podman::new();
    it.run(["--rm", "busybox", "echo", "hello"]).run().ok().is("hello");
    it.run(["--rm", "-i", "busybox", "cat"]).input("in\n").run().ok().is("in");
    it.run(["--rm", "busybox", "sh", "-c", "exit 7"]).run().code(7);
    it.run(["--rm", "busybox", "no-such-program"]).run().code(127);
    it.run(["--rm", "busybox", "/etc"]).run().code(126);
    it.run(["--rm", "--memory", "32m", "--memory-swap", "32m", "busybox", "tail", "/dev/zero"])
        .run()
        .code(137);
    it.run(["--rm", "--read-only", "busybox", "touch", "/x"]).run().code(1);
    it.run(["--rm", "-u", "33:44", "busybox", "id", "-u"]).run().ok().is("33");
    it.run([
        "--rm",
        "--privileged",
        "busybox",
        "sh",
        "-c",
        "mkdir /m && mount -t tmpfs n /m && echo mounted",
    ])
    .run()
    .ok()
    .is("mounted");

    it.run(["-d", "--name", "c1", "busybox", "sh", "-c", "echo one; exec sleep 1000"]).run().ok();
    wait_until("there is a log", || it.podman(["logs", "c1"]).run().stdout == "one\n");
    it.podman(["exec", "c1", "echo", "inside"]).run().ok().is("inside");
    it.podman(["exec", "-w", "/tmp", "-e", "A=b", "c1", "sh", "-c", "pwd; echo $A; exit 5"])
        .run()
        .code(5)
        .is("/tmp\nb");
    it.podman(["exec", "c1", "nothing"]).run().code(127);
    it.podman(["top", "c1"]).run().ok().says("sleep");
    it.podman(["pause", "c1"]).run().ok();
    it.podman(["inspect", "-f", "{{.State.Status}}", "c1"]).run().ok().is("paused");
    it.podman(["unpause", "c1"]).run().ok();
    it.podman(["update", "--memory", "64m", "c1"]).run().ok();
    let limit = it.podman(["exec", "c1", "cat", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]).run();
    let limit = match limit.code {
        0 => limit,
        _ => it.podman(["exec", "c1", "cat", "/sys/fs/cgroup/memory.max"]).run(),
    };
    limit.ok().is("67108864");
    it.podman(["stop", "-t", "0", "c1"]).run().ok();
    it.podman(["inspect", "-f", "{{.State.ExitCode}}", "c1"]).run().ok().is("137");
    it.podman(["start", "c1"]).run().ok();
    it.podman(["kill", "c1"]).run().ok();
    it.podman(["wait", "c1"]).run().ok();
    it.podman(["rm", "c1"]).run().ok();
}

fn terminals_work() {
    let it = Podman::new();
    let words = it.arguments(&["run", "--network", "none", "--rm", "-it", "busybox", "sh"]);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let pty = Pty::run("/usr/bin/podman".as_ref(), &words, &[], 41, 101);
    pty.wait_until_raw();
    pty.type_in("tty\n");
    pty.wait_for("/dev/pts/0");
    crate::resize(&pty, 31, 91);
    pty.type_in("exit 9\n");
    assert_eq!(pty.wait().0, 9);
}

fn buildah_runs_commands_in_a_build() {
    let dir = tempfile::Builder::new().prefix("sct-b-").tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let buildah = |arguments: &[&str]| {
        Command::new("/usr/bin/buildah")
            .args(["--root", &path("root"), "--runroot", &path("run"), "--storage-driver", "vfs"])
            .args(arguments.iter().copied())
            .directory(dir.path())
    };
    let runtime = crate::runtime().display().to_string();
    std::fs::copy(busybox::archive(), path("rootfs.tar")).unwrap();
    std::fs::write(
        path("Dockerfile"),
        "FROM scratch\nADD rootfs.tar /\nENV PATH=/bin\nRUN echo made > /made && id -u\nUSER 7\nRUN id -u\n",
    )
    .unwrap();
    let bud = ["bud", "--isolation", "oci", "--runtime", &runtime, "--network", "none", "-t", "made", "."];
    let built = buildah(&bud).run().ok();
    assert!(built.stdout.contains("\n7\n"), "{built}");
    let container = buildah(&["from", "--pull-never", "made"]).run().ok();
    let run = |command: &[&str]| {
        let mut words = vec!["run", "--isolation", "oci", "--runtime", &runtime, "--network", "none"];
        words.push(container.text());
        words.push("--");
        words.extend(command);
        buildah(&words).run()
    };
    run(&["cat", "/made"]).ok().is("made");
    run(&["sh", "-c", "exit 3"]).code(3);
    buildah(&["rm", "-a"]).run().ok();
}
