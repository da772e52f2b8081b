//! containerd with its own shim for runc, told to use another program: `ctr run --runc-binary`.

use std::path::Path;
use std::process::{Child, Stdio};

use sampan_testkit::{Command, Pty, busybox, wait_until};

pub(crate) const CASES: &[crate::Case] = &[(
    "containerd::tasks_live_their_lives",
    &["/usr/bin/containerd", "/usr/bin/ctr"],
    tasks_live_their_lives,
)];

const IMAGE: &str = "docker.io/library/sct:latest";

/// A containerd of the test's own, with an image.
struct Containerd {
    dir: tempfile::TempDir,
    daemon: Child,
}

/// The shim's runtime keeps its state below it, so it must be this test's alone.
fn namespace() -> String {
    format!("sct-{}", std::process::id())
}

impl Containerd {
    fn start() -> Containerd {
        let dir = tempfile::Builder::new().prefix("sct-c-").tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        let config = format!(
            "version = 2\nroot = \"{}\"\nstate = \"{}\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = \"{}\"\n[plugins.\"io.containerd.internal.v1.opt\"]\npath = \"{}\"\n",
            path("root"),
            path("state"),
            path("sock"),
            path("opt"),
        );
        std::fs::write(path("config.toml"), config).unwrap();
        let log = std::fs::File::create(path("log")).unwrap();
        let daemon = std::process::Command::new("/usr/bin/containerd")
            .args(["--config", &path("config.toml")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let containerd = Containerd { dir, daemon };
        // It tells nobody when it listens.
        wait_until("containerd answers", || containerd.ctr(&["version"]).run().code == 0);
        containerd.import();
        containerd
    }

    fn arguments<'a>(&self, arguments: &[&'a str]) -> Vec<String> {
        let socket = self.dir.path().join("sock").display().to_string();
        let mut all = vec!["--address".to_owned(), socket, "--namespace".to_owned(), namespace()];
        all.extend(arguments.iter().map(|argument: &&'a str| (*argument).to_owned()));
        all
    }

    fn ctr(&self, arguments: &[&str]) -> Command {
        Command::new("/usr/bin/ctr").args(self.arguments(arguments))
    }

    fn run_arguments(&self, options: &[&str], id: &str, command: &[&str]) -> Vec<String> {
        let runtime = crate::runtime().display().to_string();
        let mut words = vec!["run", "--runtime", "io.containerd.runc.v2", "--runc-binary", &runtime];
        words.extend(options);
        words.extend([IMAGE, id]);
        words.extend(command);
        self.arguments(&words)
    }

    fn run(&self, options: &[&str], id: &str, command: &[&str]) -> Command {
        Command::new("/usr/bin/ctr").args(self.run_arguments(options, id, command))
    }

    /// Imports the base image, as docker's `save` has it.
    fn import(&self) {
        let image = self.dir.path().join("image");
        std::fs::create_dir(&image).unwrap();
        std::fs::copy(busybox::archive(), image.join("layer.tar")).unwrap();
        let sum = Command::new("/usr/bin/sha256sum").args([image.join("layer.tar")]).run().ok();
        let digest = format!("sha256:{}", sum.stdout.split_whitespace().next().unwrap());
        let config = serde_json::json!({
            "architecture": "amd64", "os": "linux", "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/sh"]},
            "rootfs": {"type": "layers", "diff_ids": [digest]},
        });
        std::fs::write(image.join("config.json"), config.to_string()).unwrap();
        let manifest =
            serde_json::json!([{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]);
        std::fs::write(image.join("manifest.json"), manifest.to_string()).unwrap();
        let archive = self.dir.path().join("image.tar");
        let tar = |directory: &Path, to: &Path| {
            Command::new("/usr/bin/tar")
                .args(["-C".as_ref(), directory, "-cf".as_ref(), to, ".".as_ref()])
                .run()
                .ok();
        };
        tar(&image, &archive);
        self.ctr(&["images", "import", archive.to_str().unwrap()]).run().ok();
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        for id in self.ctr(&["tasks", "ls", "-q"]).run().stdout.split_whitespace() {
            self.ctr(&["tasks", "kill", "-s", "SIGKILL", id]).run();
            self.ctr(&["tasks", "rm", "-f", id]).run();
        }
        let pid = rustix::process::Pid::from_child(&self.daemon);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.daemon.wait().unwrap();
    }
}

fn tasks_live_their_lives() {
    let it = Containerd::start();
    it.run(&["--rm"], "t1", &["/bin/echo", "hello"]).run().ok().is("hello");
    it.run(&["--rm"], "t2", &["/bin/sh", "-c", "exit 6"]).run().code(6);
    it.run(&["--rm"], "t3", &["/nothing"]).run().code(1).complains("/nothing");
    it.run(&["--rm", "--memory-limit", "16777216"], "t4", &["/bin/tail", "/dev/zero"]).run().code(137);
    it.run(&["--rm", "--read-only"], "t5", &["/bin/touch", "/x"]).run().code(1).complains("Read-only");
    it.run(&["--rm", "--seccomp"], "t6", &["/bin/grep", "^Seccomp:", "/proc/self/status"])
        .run()
        .ok()
        .says("2");

    it.run(&["-d"], "c1", &["/bin/sleep", "1000"]).run().ok();
    it.ctr(&["tasks", "ls"]).run().ok().says("RUNNING");
    it.ctr(&["tasks", "exec", "--exec-id", "e1", "c1", "/bin/echo", "inside"]).run().ok().is("inside");
    it.ctr(&["tasks", "exec", "--exec-id", "e2", "c1", "/bin/sh", "-c", "exit 3"]).run().code(3);
    it.ctr(&["tasks", "ps", "c1"]).run().ok();
    it.ctr(&["tasks", "metrics", "c1"]).run().ok().says("memory");
    it.ctr(&["tasks", "pause", "c1"]).run().ok();
    it.ctr(&["tasks", "ls"]).run().ok().says("PAUSED");
    it.ctr(&["tasks", "resume", "c1"]).run().ok();
    it.ctr(&["tasks", "ls"]).run().ok().says("RUNNING");
    it.ctr(&["tasks", "kill", "-s", "SIGKILL", "c1"]).run().ok();
    wait_until("the task has stopped", || it.ctr(&["tasks", "ls"]).run().stdout.contains("STOPPED"));
    it.ctr(&["tasks", "rm", "c1"]).run().ok().complains("exit code 137");
    it.ctr(&["containers", "rm", "c1"]).run().ok();

    let words = it.run_arguments(&["--rm", "-t"], "c2", &["/bin/sh"]);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let pty = Pty::run("/usr/bin/ctr".as_ref(), &words, &[], 33, 77);
    pty.wait_until_raw();
    pty.type_in("tty\n");
    pty.wait_for("/dev/pts/0");
    crate::resize(&pty, 34, 78);
    pty.type_in("exit 8\n");
    assert_eq!(pty.wait().0, 8);
}
