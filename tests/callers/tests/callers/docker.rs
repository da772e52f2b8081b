//! Docker Engine with `--add-runtime`.

use sampan_testkit::{Command, Dockerd, Pty, busybox};

pub(crate) const CASES: &[crate::Case] = &[
    ("docker::containers_live_their_lives", &PROGRAMS, containers_live_their_lives),
    ("docker::what_is_asked_for_is_had", &PROGRAMS, what_is_asked_for_is_had),
    ("docker::terminals_work", &PROGRAMS, terminals_work),
];

const PROGRAMS: [&str; 3] = ["/usr/sbin/dockerd", "/usr/bin/docker", "/usr/bin/containerd"];

/// A dockerd that knows our runtime, with an image `busybox`.
struct Docker(Dockerd);

impl Docker {
    fn start() -> Docker {
        let runtime = format!("--add-runtime=sampan={}", crate::runtime().display());
        let docker = Docker(Dockerd::start("/usr/bin/docker", &["--storage-driver", "overlay2", &runtime]));
        let archive = busybox::archive().display().to_string();
        docker.docker(["import", "-c", "ENV PATH=/bin", &archive, "busybox"]).run().ok();
        docker
    }

    fn docker<const N: usize>(&self, arguments: [&str; N]) -> Command {
        self.0.docker(arguments)
    }

    /// `docker run --runtime sampan --network none`, and more.
    fn run<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Command {
        self.docker(["run", "--runtime", "sampan", "--network", "none"]).args(arguments)
    }
}

fn containers_live_their_lives() {
    let it = Docker::start();
    it.run(["--rm", "busybox", "echo", "hello"]).run().ok().is("hello");
    it.run(["--rm", "-i", "busybox", "cat"]).input("in\n").run().ok().is("in");
    it.run(["--rm", "busybox", "sh", "-c", "exit 7"]).run().code(7);
    it.run(["--rm", "busybox", "no-such-program"]).run().code(127).complains("no-such-program");
    it.run(["--rm", "busybox", "/etc/passwd"]).run().code(126);
    it.run(["--rm", "busybox", "sh", "-c", "sh -c 'kill -9 $$'; exit $?"]).run().code(137);

    it.run(["-d", "--name", "c1", "busybox", "sh", "-c", "echo one; echo two >&2; exec sleep 1000"])
        .run()
        .ok();
    let logs = it.docker(["logs", "c1"]).run().ok();
    assert_eq!((logs.stdout.as_str(), logs.stderr.as_str()), ("one\n", "two\n"));
    it.docker(["exec", "c1", "echo", "inside"]).run().ok().is("inside");
    it.docker([
        "exec",
        "-w",
        "/tmp",
        "-e",
        "A=b",
        "-u",
        "1:2",
        "c1",
        "sh",
        "-c",
        "pwd; echo $A; id -u; id -g",
    ])
    .run()
    .ok()
    .is("/tmp\nb\n1\n2");
    it.docker(["exec", "c1", "sh", "-c", "exit 5"]).run().code(5);
    it.docker(["exec", "c1", "nothing"]).run().code(126).says("not found");
    it.docker(["exec", "-i", "c1", "cat"]).input("more").run().ok().is("more");
    it.docker(["top", "c1"]).run().ok().says("sleep 1000");

    it.docker(["pause", "c1"]).run().ok();
    it.docker(["inspect", "-f", "{{.State.Status}}", "c1"]).run().ok().is("paused");
    it.docker(["exec", "c1", "true"]).run().complains("paused");
    it.docker(["unpause", "c1"]).run().ok();
    it.docker(["exec", "c1", "true"]).run().ok();

    it.docker(["update", "--memory", "64m", "--memory-swap", "128m", "--pids-limit", "77", "c1"]).run().ok();
    it.docker(["stats", "--no-stream", "--format", "{{.MemUsage}} {{.PIDs}}", "c1"])
        .run()
        .ok()
        .says("/ 64MiB 1");
    it.docker(["exec", "c1", "sh", "-c", "i=0; while [ $i -lt 90 ]; do sleep 9 & i=$((i+1)); done"])
        .run()
        .complains("fork");

    it.docker(["restart", "-t", "0", "c1"]).run().ok();
    it.docker(["exec", "c1", "true"]).run().ok();
    it.docker(["kill", "-s", "KILL", "c1"]).run().ok();
    it.docker(["wait", "c1"]).run().ok().is("137");
    it.docker(["start", "c1"]).run().ok();
    it.docker(["stop", "-t", "0", "c1"]).run().ok();
    it.docker(["inspect", "-f", "{{.State.ExitCode}}", "c1"]).run().ok().is("137");
    it.docker(["rm", "c1"]).run().ok();
}

fn what_is_asked_for_is_had() {
    let it = Docker::start();
    let sh = |options: &[&str], script: &str| {
        let words =
            ["--rm"].into_iter().chain(options.iter().copied()).chain(["busybox", "sh", "-c", script]);
        it.run(words).run()
    };
    sh(&["--memory", "16m", "--memory-swap", "16m"], "tail /dev/zero").code(137);
    sh(&["--read-only"], "touch /x").code(1).complains("Read-only file system");
    sh(&["--tmpfs", "/t:size=64k"], "df -k /t | tail -1 | awk '{print $2}'").ok().is("64");
    sh(&["-u", "33:44", "--group-add", "55"], "id -u; id -g; id -G").ok().is("33\n44\n44 55");
    sh(&["--cap-drop", "ALL"], "grep CapBnd /proc/self/status").ok().says("0000000000000000");
    sh(&["--privileged"], "mkdir /m && mount -t tmpfs none /m && echo mounted").ok().is("mounted");
    sh(&["--ulimit", "nofile=100:200"], "ulimit -n; ulimit -Hn").ok().is("100\n200");
    sh(&["--sysctl", "net.ipv4.ip_forward=1"], "cat /proc/sys/net/ipv4/ip_forward").ok().is("1");
    sh(&["--security-opt", "no-new-privileges"], "grep NoNewPrivs /proc/self/status").ok().says("1");
    sh(&["--hostname", "h1"], "hostname").ok().is("h1");
    sh(&["--pid", "host"], "test -d /proc/2 && echo all").ok().is("all");
    sh(&["--device", "/dev/null:/dev/nothing"], "echo x > /dev/nothing && echo gone").ok().is("gone");
    sh(&["--shm-size", "1m"], "df -k /dev/shm | tail -1 | awk '{print $2}'").ok().is("1024");
    sh(&["--oom-score-adj", "500"], "cat /proc/self/oom_score_adj").ok().is("500");
    sh(&["-w", "/made/for/it"], "pwd").ok().is("/made/for/it");
    sh(&["--cpus", "0.5", "--cpuset-cpus", "0", "--blkio-weight", "300"], "echo limited").ok().is("limited");
    sh(&[], "unshare -U true").code(1);
    // The default filter of system calls is in force.
    sh(&[], "grep '^Seccomp:' /proc/self/status").ok().says("2");
    let volume = tempfile::tempdir().unwrap();
    let bind = format!("{}:/v:ro", volume.path().display());
    sh(&["-v", &bind], "touch /v/x").code(1).complains("Read-only file system");
    sh(&["-v", "named:/n"], "echo kept > /n/f").ok();
    sh(&["-v", "named:/n"], "cat /n/f").ok().is("kept");
    it.run(["-d", "--name", "other", "--ipc", "shareable", "busybox", "sleep", "1000"]).run().ok();
    sh(&["--pid", "container:other", "--ipc", "container:other"], "ps").ok().says("sleep 1000");
    let told = it.docker(["info", "-f", "{{json .Runtimes}}"]).run().ok();
    assert!(told.stdout.contains("sampan-runtime"), "{told:?}");
}

fn terminals_work() {
    let it = Docker::start();
    let socket = it.0.host();
    let arguments = ["-H", &socket, "run", "--runtime", "sampan", "--network", "none", "--rm", "-it"];
    let words: Vec<&str> = arguments.into_iter().chain(["busybox", "sh"]).collect();
    let pty = Pty::run("/usr/bin/docker".as_ref(), &words, &[], 40, 100);
    pty.wait_until_raw();
    pty.type_in("tty\n");
    pty.wait_for("/dev/pts/0");
    crate::resize(&pty, 30, 90);
    pty.type_in("exit 9\n");
    let (code, restored) = pty.wait();
    assert!(code == 9 && restored, "{code} {restored}");

    it.run(["-d", "--name", "c1", "busybox", "sleep", "1000"]).run().ok();
    let words = ["-H", &socket, "exec", "-it", "c1", "sh"];
    let pty = Pty::run("/usr/bin/docker".as_ref(), &words, &[], 25, 80);
    pty.wait_until_raw();
    pty.type_in("tty && echo $((40 + 2))\n");
    pty.wait_for("42");
    pty.type_in("exit 4\n");
    assert_eq!(pty.wait().0, 4);
}
