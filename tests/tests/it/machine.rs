//! What needs a machine of its own with systemd as init, since it changes its units or its clock: `make test-vm`.

use std::path::Path;

use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};
use sampan_testkit::{Command, Instance, Output, busybox, executable, wait_until};
use serde_json::Value;

crate::cases! {
    systemd_starts_reloads_restarts_and_stops_the_daemon [Machine, Docker],
    the_journal_has_what_docker_writes [Machine, Docker],
    nothing_is_lost_when_the_clock_is_set [Machine, Docker],
}

const UNITS: &str = "/usr/local/lib/systemd/system";
const CONFIG: &str = "/etc/sampan/config.toml";

/// The daemon as `make install` installs it. It goes when this is dropped.
struct Installed;

impl Installed {
    fn new() -> Installed {
        for name in ["sampan", "sampand", "sampan-runtime", "containerd-shim-sampan-v2"] {
            std::fs::copy(executable(name), Path::new("/usr/local/bin").join(name)).unwrap();
        }
        std::fs::create_dir_all(UNITS).unwrap();
        for name in ["sampand.service", "sampand.socket"] {
            let from = executable("dist").join(name);
            std::fs::copy(from, Path::new(UNITS).join(name)).unwrap();
        }
        systemctl(&["daemon-reload"]).ok();
        Installed
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "{}",
                Command::new("journalctl").args(["-n", "60", "--no-pager", "-u", "sampand.service"]).run()
            );
        }
        let ids = sampan(&["ps", "-aq"]);
        sampan(&["rm", "-f"].into_iter().chain(ids.stdout.lines()).collect::<Vec<_>>());
        systemctl(&["stop", "sampand.socket", "sampand.service"]);
    }
}

fn systemctl(arguments: &[&str]) -> Output {
    Command::new("systemctl").args(arguments).run()
}

fn property(unit: &str, name: &str) -> String {
    systemctl(&["show", "--value", "-p", name, unit]).ok().text().to_owned()
}

/// Our client, of the daemon that is there without being named.
fn sampan(arguments: &[&str]) -> Output {
    Command::new("/usr/local/bin/sampan").args(arguments).run()
}

fn field(name: &str, pointer: &str) -> Value {
    sampan(&["inspect", name]).ok().json()[0].pointer(pointer).unwrap().clone()
}

/// The numbers that a container has counted so far, without a gap.
fn counted(name: &str) -> usize {
    let text = sampan(&["logs", name]).ok().stdout;
    let numbers: Vec<usize> = text.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(numbers, (1..=numbers.len()).collect::<Vec<_>>());
    numbers.len()
}

/// Counts, ten times a second.
const COUNT: &str = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done";

fn systemd_starts_reloads_restarts_and_stops_the_daemon() {
    let installed = Installed::new();
    let verified = Command::new("systemd-analyze")
        .args(["verify", "--man=no", "sampand.service", "sampand.socket"])
        .run()
        .ok();
    assert_eq!((verified.stdout.as_str(), verified.stderr.as_str()), ("", ""));
    assert_eq!(property("sampand.service", "Type"), "notify", "this systemd knows it");
    // The first request starts it, and is answered.
    systemctl(&["start", "sampand.socket"]).ok();
    assert_eq!(property("sampand.service", "ActiveState"), "inactive");
    sampan(&["import", busybox::archive().to_str().unwrap(), "busybox:latest"]).ok();
    assert_eq!(property("sampand.service", "ActiveState"), "active");
    sampan(&["run", "-d", "--name", "c1", "busybox", "sh", "-c", COUNT]).ok();
    let pid = field("c1", "/State/Pid");
    let goes_on = |what: &str| {
        assert_eq!(field("c1", "/State/Status"), "running", "{what}");
        assert_eq!(field("c1", "/State/Pid"), pid, "{what}");
        let so_far = counted("c1");
        wait_until("it counts on", || counted("c1") > so_far);
    };
    std::fs::create_dir_all("/etc/sampan").unwrap();
    std::fs::write(CONFIG, "labels = ['rack=7']\n").unwrap();
    let main = property("sampand.service", "MainPID");
    systemctl(&["reload", "sampand.service"]).ok();
    wait_until("it has read it", || sampan(&["info", "--format", "{{.Labels}}"]).text() == "[rack=7]");
    wait_until("systemd knows", || property("sampand.service", "ActiveState") == "active");
    assert_eq!(property("sampand.service", "MainPID"), main);
    goes_on("a reload");
    systemctl(&["restart", "sampand.service"]).ok();
    assert_ne!(property("sampand.service", "MainPID"), main);
    goes_on("a restart");
    // A daemon that dies is started again.
    systemctl(&["kill", "--kill-whom=main", "-s", "KILL", "sampand.service"]).ok();
    wait_until("systemd has started it again", || property("sampand.service", "NRestarts") == "1");
    goes_on("a kill");
    // While it is stopped, too, containers go on; who asks starts it again.
    systemctl(&["stop", "sampand.service"]).ok();
    assert_eq!(property("sampand.service", "ActiveState"), "inactive");
    assert_eq!(property("sampand.socket", "ActiveState"), "active");
    assert!(Path::new(&format!("/proc/{pid}")).exists(), "the container was killed with its daemon");
    goes_on("a stop");
    assert_eq!(property("sampand.service", "ActiveState"), "active");
    std::fs::remove_file(CONFIG).unwrap();
    drop(installed);
    assert!(!Path::new("/run/sampan/docker.sock").exists());
}

/// The journal's entries of a container.
fn journal(name: &str) -> Vec<Value> {
    let wanted = format!("CONTAINER_NAME={name}");
    let told = Command::new("journalctl").args(["--all", "-o", "json", "--no-pager", &wanted]).run().ok();
    told.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn the_journal_has_what_docker_writes() {
    let it = Instance::new();
    let options =
        ["--log-driver", "journald", "--log-opt", "tag=t/{{.Name}}", "--log-opt", "labels=app.kind"];
    let more = ["--log-opt", "env=E1", "--label", "app.kind=web", "-e", "E1=x", "busybox", "sh", "-c"];
    let script = "echo out; sleep 1; echo err >&2; sleep 1; head -c 40000 /dev/zero | tr '\\0' x; echo";
    it.docker([&["run", "--name", "jj1"][..], &options, &more, &[script]].concat()).ok();
    wait_until("the journal has all", || journal("jj1").len() >= 5);
    let entries = journal("jj1");
    let text = |entry: &Value, name: &str| entry[name].as_str().unwrap_or_default().to_owned();
    let id = it.inspect("jj1", "/Id").as_str().unwrap().to_owned();
    let (out, err) = (&entries[0], &entries[1]);
    for (name, expected) in [
        ("MESSAGE", "out"),
        ("PRIORITY", "6"),
        ("CONTAINER_ID", &id[..12]),
        ("CONTAINER_ID_FULL", &id),
        ("CONTAINER_TAG", "t/jj1"),
        ("SYSLOG_IDENTIFIER", "t/jj1"),
        ("IMAGE_NAME", "busybox"),
        ("APP_KIND", "web"),
        ("E1", "x"),
        ("CONTAINER_PARTIAL_MESSAGE", ""),
    ] {
        assert_eq!(text(out, name), expected, "{name} in {out:#}");
    }
    assert_eq!((text(err, "MESSAGE"), text(err, "PRIORITY")), ("err".to_owned(), "3".to_owned()));
    // A line that is too long for one entry comes in pieces that tell of each other.
    let pieces: Vec<_> = entries[2..]
        .iter()
        .map(|entry| {
            let of = |name: &str| text(entry, &format!("CONTAINER_PARTIAL_{name}"));
            (text(entry, "MESSAGE").len(), of("ORDINAL"), of("LAST"), of("MESSAGE"))
        })
        .collect();
    let piece = |length, ordinal: &str, last: &str, more: &str| {
        (length, ordinal.to_owned(), last.to_owned(), more.to_owned())
    };
    let expected = [
        piece(16384, "1", "false", "true"),
        piece(16384, "2", "false", "true"),
        piece(7232, "3", "true", ""),
    ];
    assert_eq!(pieces, expected);
    let names: std::collections::BTreeSet<_> =
        entries[2..].iter().map(|e| text(e, "CONTAINER_PARTIAL_ID")).collect();
    assert_eq!(names.len(), 1);
    let logs = it.docker(["logs", "jj1"]).ok();
    assert_eq!((logs.stdout, logs.stderr), (format!("out\n{}\n", "x".repeat(40000)), "err\n".to_owned()));
}

/// Sets the clock forwards or backwards.
fn step(seconds: i64) {
    let now = clock_gettime(ClockId::Realtime);
    clock_settime(ClockId::Realtime, Timespec { tv_sec: now.tv_sec + seconds, ..now }).unwrap();
}

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

fn nothing_is_lost_when_the_clock_is_set() {
    let it = Instance::new();
    let run = |name: &str, more: &[&str], script: &str| {
        it.docker([&["run", "-d", "--name", name][..], more, &["busybox", "sh", "-c", script]].concat()).ok();
    };
    run("counts", &[], COUNT);
    run("again", &["--restart", "always"], "exit 4");
    let probe = ["--health-cmd", "true", "--health-interval", "1s", "--health-start-period", "1h"];
    run("probed", &[&probe[..], &["--health-timeout", "50s"]].concat(), "sleep 10000");
    run("ends", &[], "read x < /proc/uptime; while [ ! -e /end ]; do sleep 0.2; done; exit 7");
    let lines = it.docker_command(["logs", "-f", "counts"]).start();
    let events =
        it.docker_command(["events", "--filter", "container=ends", "--format", "{{.Action}}"]).start();
    let waiter = it.docker_command(["wait", "ends"]).start();
    let restarts = || it.inspect("again", "/RestartCount").as_i64().unwrap();
    let probes = || {
        let log = it.inspect("probed", "/State/Health/Log");
        log.as_array().unwrap().last().map(|last| last["Start"].to_string())
    };
    let numbers = |text: &str| text.lines().filter_map(|line| line.parse::<usize>().ok()).collect::<Vec<_>>();
    // Backwards, forwards beyond where it was, and back to the truth.
    for seconds in [-2 * HOUR, DAY, -DAY + 2 * HOUR] {
        let (restarted, probed) = (restarts(), probes());
        let counted = numbers(&it.docker(["logs", "counts"]).ok().stdout).len();
        step(seconds);
        wait_until("it is restarted", || restarts() > restarted);
        wait_until("it is probed", || probes() != probed);
        wait_until("it counts on", || {
            numbers(&it.docker(["logs", "counts"]).ok().stdout).len() > counted + 2
        });
        assert_eq!(it.inspect("probed", "/State/Health/Status"), "healthy");
        it.docker(["stats", "--no-stream", "counts"]).ok().says("counts");
        it.docker(["stop", "-t", "1", "again"]).ok();
        assert_eq!(it.inspect("again", "/State/Status"), "exited");
        it.docker(["start", "again"]).ok();
    }
    let all = numbers(&it.docker(["logs", "counts"]).ok().stdout);
    assert_eq!(all, (1..=all.len()).collect::<Vec<_>>());
    // Lines from before the clock was set back are later than those after.
    let early = it.docker(["logs", "--until", "1m", "counts"]).ok().stdout;
    let recent = it.docker(["logs", "--since", "2h", "--until", "0s", "counts"]).ok().stdout;
    assert!(early.lines().count() > 0 && recent.lines().count() > 0, "{early}\n{recent}");
    assert_eq!(numbers(&recent).last(), numbers(&recent).iter().max(), "what was written last is there");
    lines.wait_for_output(&all.len().to_string());
    it.docker(["exec", "ends", "touch", "/end"]).ok();
    waiter.wait().ok().is("7");
    events.wait_for_output("die");
    // It ends while no daemon looks, at a time that is before its start.
    run("dies", &[], "sleep 10000");
    run("lost", &[], "sleep 10000");
    let pid = |name: &str| i32::try_from(it.inspect(name, "/State/Pid").as_i64().unwrap()).unwrap();
    let (dies, lost) = (pid("dies"), pid("lost"));
    let of_shim = |pid: i32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        status.lines().find_map(|l| l.strip_prefix("PPid:")).unwrap().trim().parse::<i32>().unwrap()
    };
    let shim = of_shim(lost);
    it.kill_9();
    step(-HOUR);
    for pid in [dies, shim, lost] {
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
    it.start();
    for name in ["dies", "lost"] {
        assert_eq!(it.inspect(name, "/State/Status"), "exited", "{name}");
        assert_eq!(it.inspect(name, "/State/ExitCode"), 137, "{name}");
    }
    it.docker(["start", "dies", "lost"]).ok();
    it.docker(["stop", "-t", "0", "dies"]).ok();
    step(HOUR);
    let listed = it.docker(["ps", "-a", "--format", "{{.Names}}"]).ok().stdout;
    let mut names: Vec<&str> = listed.lines().collect();
    names.sort_unstable();
    assert_eq!(names, ["again", "counts", "dies", "ends", "lost", "probed"]);
}
