//! A daemon that is killed at any moment: containers go on, and the next one finds everything consistent.

use std::time::Duration;

use sampan_testkit::{Command, Instance, wait_until};

crate::cases! {
    containers_outlive_a_killed_daemon [Curl],
    logs_are_complete_across_a_crash,
    what_ended_while_no_daemon_ran_is_known,
    a_killed_daemon_in_a_loop_of_runs_leaves_nothing,
    a_killed_daemon_in_imports_leaves_nothing,
    a_killed_daemon_in_builds_leaves_nothing,
}

/// How often a daemon is killed at a random moment.
const ROUNDS: u32 = 8;

/// Random moments, the same ones again if `SAMPAN_TEST_SEED` says so.
pub(crate) struct Moments(u64);

impl Moments {
    pub(crate) fn new(test: &str) -> Moments {
        let given = std::env::var("SAMPAN_TEST_SEED").ok().and_then(|t| t.parse().ok());
        let seed = given.unwrap_or_else(|| {
            let mut bytes = [0; 8];
            rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).unwrap();
            u64::from_le_bytes(bytes) | 1
        });
        eprintln!("crash::{test}: SAMPAN_TEST_SEED={seed}");
        Moments(seed)
    }

    pub(crate) fn seeded(seed: u64) -> Moments {
        Moments(seed)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }

    /// Lets a random time pass: the moment itself is what is tried.
    pub(crate) fn pass(&mut self, most: Duration) {
        let micros = self.below(u64::try_from(most.as_micros()).unwrap());
        std::thread::sleep(Duration::from_micros(micros));
    }
}

fn containers_outlive_a_killed_daemon() {
    let it = Instance::new();
    let script = "mkdir /www; echo hello >/www/index.html; exec httpd -f -p 80 -h /www";
    it.sampan(["run", "-d", "--name", "web", "-p", "80", "busybox", "sh", "-c", script]).ok();
    it.sampan([
        "run",
        "-d",
        "--name",
        "other",
        "-i",
        "busybox",
        "sh",
        "-c",
        "while read l; do echo got $l; done",
    ])
    .ok();
    let (pid, id) = (it.inspect("web", "/State/Pid"), it.inspect("web", "/Id"));
    let port = it.inspect("web", "/NetworkSettings/Ports/80~1tcp/0/HostPort");
    let url = format!("http://127.0.0.1:{}/", port.as_str().unwrap());
    let answers = || {
        Command::new("curl").args(["-sS", "--noproxy", "*", "--max-time", "10", &url]).run().stdout.trim()
            == "hello"
    };
    wait_until("the server answers", answers);
    for _ in 0..2 {
        it.kill_9();
        assert!(answers(), "the published port must answer without a daemon");
        it.start();
        assert_eq!(it.inspect("web", "/State/Pid"), pid);
        assert_eq!(it.inspect("web", "/Id"), id);
        assert_eq!(it.inspect("web", "/NetworkSettings/Ports/80~1tcp/0/HostPort"), port);
        it.sampan(["ps"]).ok().says("web");
        assert!(answers());
        it.sampan(["exec", "web", "hostname"]).ok().is(&id.as_str().unwrap()[..12]);
    }
    it.sampan(["stop", "-t", "0", "web"]).ok();
    assert!(!answers(), "the published port of a stopped container must be closed");
    it.sampan(["start", "web"]).ok();
    it.sampan(["exec", "web", "true"]).ok();
    // Its input is still open.
    let attached = it.sampan_command(["attach", "other"]).input("something\n").start();
    attached.wait_for_output("got something");
    drop(attached);
    it.sampan(["rm", "-f", "web", "other"]).ok();
}

fn logs_are_complete_across_a_crash() {
    let it = Instance::new();
    let script = "i=0; while test ! -e /stop; do i=$((i+1)); echo line $i; test $((i % 50)) = 0 && sleep 0.01; done; echo last";
    it.sampan(["run", "-d", "--name", "c1", "busybox", "sh", "-c", script]).ok();
    let mut moments = Moments::new("logs_are_complete_across_a_crash");
    for _ in 0..4 {
        moments.pass(Duration::from_millis(100));
        it.kill_9();
        moments.pass(Duration::from_millis(100));
        it.start();
    }
    let follower = it.sampan_command(["logs", "-f", "c1"]).start();
    // The container's end may be the exec's, too.
    drop(it.sampan(["exec", "c1", "touch", "/stop"]));
    let followed = follower.wait().ok();
    let logs = it.sampan(["logs", "c1"]).ok();
    assert_eq!(followed.stdout.len(), logs.stdout.len(), "what was followed is what is kept");
    let lines: Vec<&str> = logs.stdout.lines().collect();
    assert!(lines.len() > 100, "{logs}");
    for (at, line) in lines[..lines.len() - 1].iter().enumerate() {
        assert_eq!(*line, format!("line {}", at + 1));
    }
    assert_eq!(lines[lines.len() - 1], "last");
}

fn what_ended_while_no_daemon_ran_is_known() {
    let it = Instance::new();
    it.sampan([
        "run",
        "-d",
        "--name",
        "c1",
        "busybox",
        "sh",
        "-c",
        "trap 'exit 23' TERM; echo up; while :; do sleep 0.05; done",
    ])
    .ok();
    it.sampan(["run", "-d", "--rm", "--name", "gone", "busybox", "sleep", "1000"]).ok();
    wait_until("it runs", || it.sampan(["logs", "c1"]).ok().stdout.contains("up"));
    let pids =
        ["c1", "gone"].map(|name| i32::try_from(it.inspect(name, "/State/Pid").as_i64().unwrap()).unwrap());
    it.kill_9();
    for (pid, signal) in pids.iter().zip([rustix::process::Signal::TERM, rustix::process::Signal::KILL]) {
        let pid = rustix::process::Pid::from_raw(*pid).unwrap();
        let watched = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
        rustix::process::pidfd_send_signal(&watched, signal).unwrap();
        rustix::event::poll(&mut [rustix::event::PollFd::new(&watched, rustix::event::PollFlags::IN)], None)
            .unwrap();
    }
    it.start();
    it.sampan(["wait", "c1"]).ok().is("23");
    assert_eq!(it.inspect("c1", "/State/Status"), "exited");
    wait_until("the one of --rm has gone", || it.sampan(["inspect", "gone"]).code != 0);
    it.sampan(["start", "c1"]).ok();
    it.sampan(["kill", "c1"]).ok();
    it.sampan(["wait", "c1"]).ok().is("137");
}

/// Kills the daemon at random moments while `work` runs in another thread, each time with a check of what is left.
fn kill_during(it: &Instance, test: &str, most: Duration, work: impl Fn(u32) + Sync, check: impl Fn(u32)) {
    let mut moments = Moments::new(test);
    for round in 0..ROUNDS {
        std::thread::scope(|scope| {
            let worker = scope.spawn(|| work(round));
            moments.pass(most);
            it.kill_9();
            worker.join().unwrap();
        });
        it.start();
        check(round);
    }
}

fn a_killed_daemon_in_a_loop_of_runs_leaves_nothing() {
    let it = Instance::new();
    let run = || it.sampan(["run", "--rm", "-v", "/data", "busybox", "echo", "hello"]);
    let images = it.sampan(["images", "-aq"]).ok().stdout;
    let work = |_| while run().code == 0 {};
    kill_during(
        &it,
        "a_killed_daemon_in_a_loop_of_runs_leaves_nothing",
        Duration::from_millis(400),
        work,
        |round| {
            // The one that was under way may still be there, whole, but not more than that.
            wait_until("what ran has ended", || {
                !it.sampan(["ps", "-q"]).ok().stdout.contains(char::is_alphanumeric)
            });
            let listed = it.sampan(["ps", "-aq", "--no-trunc"]).ok();
            assert!(listed.stdout.lines().count() <= 1, "round {round}: {listed}");
            for id in listed.stdout.lines() {
                // One that has run goes by itself, perhaps just now.
                let removed = it.sampan(["rm", "-f", "-v", id]);
                assert!(removed.code == 0 || removed.stderr.contains("No such container"), "{removed}");
            }
            it.assert_idle();
            it.sampan(["volume", "ls", "-q"]).ok().is("");
            run().ok().is("hello");
            assert_eq!(it.sampan(["images", "-aq"]).ok().stdout, images);
        },
    );
}

fn a_killed_daemon_in_imports_leaves_nothing() {
    let it = Instance::new();
    let file = sampan_testkit::busybox::archive().to_str().unwrap();
    let work =
        |round| while it.sampan(["import", "-m", &format!("round {round}"), file, "again:1"]).code == 0 {};
    kill_during(
        &it,
        "a_killed_daemon_in_imports_leaves_nothing",
        Duration::from_millis(200),
        work,
        |round| {
            consistent(&it, round);
            it.sampan(["import", file, "again:1"]).ok();
            it.sampan(["run", "--rm", "--network", "none", "again:1", "/bin/echo", "whole"]).ok().is("whole");
            it.sampan(["rmi", "again:1"]).ok();
        },
    );
    assert_layers_match(&it, 1);
}

fn a_killed_daemon_in_builds_leaves_nothing() {
    kill_in_builds(&Instance::new(), "a_killed_daemon_in_builds_leaves_nothing");
}

/// Kills a daemon that builds, and expects that it leaves nothing but what helps the next build.
pub(crate) fn kill_in_builds(it: &Instance, test: &str) {
    let context = it.scratch().join("context");
    std::fs::create_dir(&context).unwrap();
    let build = |key: &str| {
        // Two stages at once, and every kind of thing that a step has beside its layers.
        let text = format!(
            "FROM busybox AS a\nRUN --mount=type=cache,target=/c echo {key} >/one; echo x >>/c/log\nFROM busybox AS b\nRUN --mount=type=secret,id=s cat /run/secrets/s >/dev/null; echo {key} >/b\nFROM busybox\nCOPY --from=a /one /one\nCOPY file /two\nRUN --mount=from=b,target=/m --mount=target=/ctx test -f /m/b && cat /one /ctx/file >/three\n"
        );
        std::fs::write(context.join("Dockerfile"), text).unwrap();
        std::fs::write(context.join("file"), format!("{key}\n")).unwrap();
        std::fs::write(it.scratch().join("secret"), "hush").unwrap();
        let secret = format!("id=s,src={}", it.scratch().join("secret").display());
        it.sampan(["build", "-t", "built", "--secret", &secret, context.to_str().unwrap()])
    };
    let work = |round| (0..).take_while(|n| build(&format!("{round}-{n}")).code == 0).for_each(drop);
    kill_during(it, test, Duration::from_millis(500), work, |round| {
        consistent(it, round);
        let key = format!("{round}-after");
        build(&key).ok();
        it.sampan(["run", "--rm", "built", "cat", "/three"]).ok().is(&format!("{key}\n{key}"));
        let again = build(&key).ok();
        assert_eq!(again.stderr.matches(" CACHED").count(), 5, "round {round}: {again}");
        assert_eq!(std::fs::read_dir(it.state().join("build")).unwrap().count(), 0, "secrets");
        let kept = it.sampan(["builder", "df", "--output", "json"]).ok().json();
        let mounts = kept.as_array().unwrap().iter().filter(|e| e["Type"] == "exec.cachemount");
        assert_eq!(mounts.count(), 1, "round {round}: {kept}");
    });
}

/// No container, nothing left, and every image that is listed can be looked at and used.
fn consistent(it: &Instance, round: u32) {
    it.sampan(["ps", "-aq"]).ok().is("");
    it.assert_idle();
    let listed = it.sampan(["images", "-q", "--no-trunc"]).ok();
    assert!(listed.stdout.lines().count() >= 1, "round {round}: {listed}");
    for id in listed.stdout.lines() {
        it.sampan(["inspect", id]).ok();
        it.sampan(["run", "--rm", "--network", "none", id, "/bin/busybox", "true"]).ok();
    }
}

/// The store has as many unpacked layers as images need.
fn assert_layers_match(it: &Instance, layers: usize) {
    // A container that removes itself leaves its layer to a thread, behind the answer.
    wait_until("the store has only the unpacked layers that images need", || {
        std::fs::read_dir(it.root().join("snapshots")).unwrap().count() == layers
    });
}
