//! Compares this runtime with runc, crun and, where it is installed, youki: `make bench-runtime`. Needs root and
//! busybox-static; `ROUNDS=200` makes it more exact.
//!
//! The runtimes take turns, so that all see the same load, and the tables have medians and ratios. crun refuses a hybrid
//! cgroup layout, so all of them run in a mount namespace without the additional v2 hierarchy; their state is on a tmpfs,
//! where `/run` is on most hosts. The floor is what no runtime can do without: a process in new namespaces, another
//! root, and an exec.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a program that measures, prints, and fails at once"
)]

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use sampan_kernel::process::{self as kernel, Clone, Namespaces, StringArray};
use serde_json::{Value, json};

const INNER: &str = "SAMPAN_BENCH_INNER";
const FLOOR: &str = "floor";

struct Runtime {
    name: &'static str,
    path: PathBuf,
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.get(1).is_some_and(|argument| argument == FLOOR) {
        return floor(Path::new(&arguments[2]));
    }
    // `cargo test --benches` passes no `--bench`.
    if !arguments.iter().any(|argument| argument == "--bench") {
        return;
    }
    if std::env::var_os(INNER).is_none() {
        let script =
            "mount --make-rprivate / && { umount /sys/fs/cgroup/unified 2>/dev/null; exec \"$0\" --bench; }";
        let own = std::env::current_exe().unwrap();
        let error = Command::new("unshare").args(["-m", "sh", "-c", script]).arg(own).env(INNER, "1").exec();
        panic!("unshare: {error}");
    }
    let bench = Bench::new();
    println!(
        "{}, {} CPUs; {} rounds in turns; ms\n",
        kernel_release(),
        std::thread::available_parallelism().unwrap(),
        bench.rounds
    );
    bench.runs();
    bench.steps();
    bench.inside();
    bench.crowds();
    bench.costs();
}

fn kernel_release() -> String {
    format!("Linux {}", rustix::system::uname().release().to_string_lossy())
}

struct Bench {
    /// Bundles and state, on a tmpfs of this mount namespace alone.
    directory: tempfile::TempDir,
    runtimes: Vec<Runtime>,
    rounds: usize,
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.directory.path(), UnmountFlags::DETACH);
    }
}

impl Bench {
    fn new() -> Bench {
        let directory = tempfile::tempdir().unwrap();
        rustix::mount::mount("tmpfs", directory.path(), "tmpfs", MountFlags::empty(), None).unwrap();
        let mut runtimes =
            vec![Runtime { name: "sampan", path: env!("CARGO_BIN_EXE_sampan-runtime").into() }];
        let home = std::env::var("HOME").unwrap_or_default();
        let youki = format!("{home}/.cargo/bin/youki");
        for (name, path) in [("crun", "/usr/bin/crun"), ("runc", "/usr/sbin/runc"), ("youki", youki.as_str())]
        {
            if Path::new(path).exists() {
                runtimes.push(Runtime { name, path: path.into() });
            }
        }
        let rounds = std::env::var("ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(60);
        Bench { directory, runtimes, rounds }
    }

    /// A bundle of this name, changed by `change`.
    fn bundle(&self, name: &str, change: impl FnOnce(&mut Value)) -> PathBuf {
        let bundle = self.directory.path().join(name);
        let bin = bundle.join("rootfs/bin");
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::copy("/bin/busybox", bin.join("true")).expect("busybox-static is installed");
        std::fs::hard_link(bin.join("true"), bin.join("sleep")).unwrap();
        let own = env!("CARGO_BIN_EXE_sampan-runtime");
        assert!(Command::new(own).arg("spec").current_dir(&bundle).status().unwrap().success());
        let path = bundle.join("config.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        config["ociVersion"] = "1.0.2".into();
        config["process"]["terminal"] = false.into();
        config["process"]["args"] = json!(["/bin/true"]);
        change(&mut config);
        std::fs::write(path, config.to_string()).unwrap();
        bundle
    }

    /// Nothing here that would make the start of the process dearer than a plain one: no directory to change into.
    fn command(&self, runtime: &Runtime, bundle: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(&runtime.path);
        command.arg("--root").arg(self.directory.path().join(runtime.name)).arg(arguments[0]);
        if matches!(arguments[0], "run" | "create") {
            command.arg("--bundle").arg(bundle);
        }
        command.args(&arguments[1..]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    fn call(&self, runtime: &Runtime, bundle: &Path, arguments: &[&str]) {
        let status = self.command(runtime, bundle, arguments).status().unwrap();
        assert!(status.success(), "{} {arguments:?} failed", runtime.name);
    }

    fn run(&self, runtime: &Runtime, bundle: &Path) {
        self.call(runtime, bundle, &["run", &id()]);
    }

    /// Times of each runtime, which take turns; the first rounds warm up.
    fn measure(&self, one: impl Fn(&Runtime)) -> Vec<(&'static str, Vec<Duration>)> {
        self.measure_these(&self.runtimes.iter().collect::<Vec<_>>(), one)
    }

    fn measure_these(
        &self,
        runtimes: &[&Runtime],
        one: impl Fn(&Runtime),
    ) -> Vec<(&'static str, Vec<Duration>)> {
        let mut times: Vec<(&'static str, Vec<Duration>)> =
            runtimes.iter().map(|runtime| (runtime.name, Vec::new())).collect();
        for round in 0..self.rounds + 3 {
            for (runtime, (_, times)) in runtimes.iter().zip(&mut times) {
                let began = Instant::now();
                one(runtime);
                if round >= 3 {
                    times.push(began.elapsed());
                }
            }
        }
        times
    }

    fn runs(&self) {
        let plain = self.bundle("plain", |_| {});
        let full = self.bundle("full", with_default_filter);
        let own = std::env::current_exe().unwrap();
        let floor = Runtime { name: FLOOR, path: own };
        let all: Vec<&Runtime> = self.runtimes.iter().chain([&floor]).collect();
        let times = self.measure_these(&all, |runtime| match runtime.name {
            FLOOR => {
                let status = Command::new(&runtime.path).arg(FLOOR).arg(full.join("rootfs")).status();
                assert!(status.unwrap().success());
            }
            _ => self.run(runtime, &full),
        });
        show("run /bin/true: new namespaces, cgroups, the default seccomp profile", times);
        show("run, without seccomp", self.measure(|runtime| self.run(runtime, &plain)));

        let netns = self.directory.path().join("netns");
        std::fs::write(&netns, "").unwrap();
        // A process that is in one, for as long as it takes to mount that somewhere.
        let mut keeper = Command::new("unshare").args(["-n", "cat"]).stdin(Stdio::piped()).spawn().unwrap();
        let (own, theirs) = (PathBuf::from("/proc/self/ns/net"), format!("/proc/{}/ns/net", keeper.id()));
        while std::fs::read_link(&theirs).unwrap() == std::fs::read_link(&own).unwrap() {
            std::thread::yield_now();
        }
        rustix::mount::mount_bind(&theirs, &netns).unwrap();
        drop(keeper.stdin.take());
        keeper.wait().unwrap();
        let given = self.bundle("given", |config| {
            with_default_filter(config);
            for namespace in config["linux"]["namespaces"].as_array_mut().unwrap() {
                if namespace["type"] == "network" {
                    namespace["path"] = netns.display().to_string().into();
                }
            }
        });
        show("run, with a network namespace that is there already", self.measure(|r| self.run(r, &given)));
        rustix::mount::unmount(&netns, UnmountFlags::DETACH).unwrap();
    }

    fn steps(&self) {
        let bundle = self.directory.path().join("full");
        let times = self.measure(|runtime| {
            let id = id();
            self.call(runtime, &bundle, &["create", &id]);
            self.call(runtime, &bundle, &["start", &id]);
            self.call(runtime, &bundle, &["delete", "--force", &id]);
        });
        show("create + start + delete, three processes", times);
    }

    fn inside(&self) {
        let bundle = self.bundle("sleeping", |config| {
            with_default_filter(config);
            config["process"]["args"] = json!(["/bin/sleep", "1000"]);
        });
        let ids: Vec<String> = self.runtimes.iter().map(|_| id()).collect();
        for (runtime, id) in self.runtimes.iter().zip(&ids) {
            self.call(runtime, &bundle, &["create", id]);
            self.call(runtime, &bundle, &["start", id]);
        }
        let of = |runtime: &Runtime| {
            let at = self.runtimes.iter().position(|other| other.name == runtime.name).unwrap();
            ids[at].as_str()
        };
        let exec = |runtime: &Runtime| self.call(runtime, &bundle, &["exec", of(runtime), "/bin/true"]);
        show("exec /bin/true, with the default seccomp profile", self.measure(exec));
        show("state", self.measure(|runtime| self.call(runtime, &bundle, &["state", of(runtime)])));
        for (runtime, id) in self.runtimes.iter().zip(&ids) {
            self.call(runtime, &bundle, &["delete", "--force", id]);
        }
    }

    /// Many at once, and among many mounts.
    fn crowds(&self) {
        const AT_ONCE: usize = 64;
        let bundle = self.directory.path().join("full");
        let mut times = Vec::new();
        for runtime in &self.runtimes {
            let began = Instant::now();
            let start = |_| self.command(runtime, &bundle, &["run", &id()]).spawn().unwrap();
            let children: Vec<_> = (0..AT_ONCE).map(start).collect();
            for mut child in children {
                assert!(child.wait().unwrap().success(), "{} failed in the crowd", runtime.name);
            }
            times.push((runtime.name, vec![began.elapsed()]));
        }
        show("64 runs at once, all of them (one round)", times);

        const MOUNTS: usize = 500;
        let places: Vec<PathBuf> =
            (0..MOUNTS).map(|n| self.directory.path().join(format!("mount-{n}"))).collect();
        for place in &places {
            std::fs::create_dir(place).unwrap();
            rustix::mount::mount("tmpfs", place, "tmpfs", MountFlags::empty(), None).unwrap();
        }
        show("run, with 500 more mounts on the host", self.measure(|runtime| self.run(runtime, &bundle)));
        for place in &places {
            rustix::mount::unmount(place, UnmountFlags::DETACH).unwrap();
        }
    }

    /// What else `run` takes: memory, system calls.
    fn costs(&self) {
        let bundle = self.directory.path().join("full");
        println!("run /bin/true\n{:<10}{:>14}{:>14}", "", "peak RSS (MB)", "system calls");
        for runtime in &self.runtimes {
            let log = self.directory.path().join("time");
            let mut timed = Command::new("/usr/bin/time");
            let own = self.command(runtime, &bundle, &["run", &id()]);
            timed.args(["-f", "%M", "-o"]).arg(&log).arg(own.get_program()).args(own.get_args());
            timed.stdin(Stdio::null()).stdout(Stdio::null());
            let memory = match timed.status() {
                Ok(status) if status.success() => {
                    let text = std::fs::read_to_string(&log).unwrap();
                    format!("{:.1}", text.trim().parse::<f64>().unwrap() / 1024.0)
                }
                _ => "-".to_owned(),
            };
            let mut traced = Command::new("strace");
            let own = self.command(runtime, &bundle, &["run", &id()]);
            traced.args(["-f", "-qq", "-o"]).arg(&log).arg(own.get_program()).args(own.get_args());
            traced.stdin(Stdio::null()).stdout(Stdio::null());
            let calls = match traced.status() {
                Ok(status) if status.success() => {
                    let text = std::fs::read_to_string(&log).unwrap();
                    let is_call = |line: &&str| !line.contains("resumed>") && line.contains('(');
                    text.lines().filter(is_call).count().to_string()
                }
                _ => "-".to_owned(),
            };
            println!("{:<10}{memory:>14}{calls:>14}", runtime.name);
        }
        println!();
    }
}

fn with_default_filter(config: &mut Value) {
    let capabilities = sampan_oci::runtime::defaults::default_capabilities();
    let profile = sampan_oci::runtime::defaults::default_seccomp(&capabilities);
    config["linux"]["seccomp"] = serde_json::to_value(profile).unwrap();
    for set in ["bounding", "effective", "permitted"] {
        config["process"]["capabilities"][set] = json!(capabilities);
    }
}

fn id() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("sampan-bench-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// What no runtime can do without, on this root file system.
fn floor(rootfs: &Path) {
    let namespaces =
        Namespaces::PID | Namespaces::MOUNT | Namespaces::NET | Namespaces::IPC | Namespaces::UTS;
    let child = kernel::clone(&Clone { namespaces, ..Clone::default() }, || {
        let enter = || -> std::io::Result<std::convert::Infallible> {
            let apart = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
            rustix::mount::mount_change("/", apart)?;
            rustix::mount::mount_bind(rootfs, rootfs)?;
            rustix::process::chdir(rootfs)?;
            rustix::process::pivot_root(".", ".")?;
            rustix::mount::unmount(".", UnmountFlags::DETACH)?;
            kernel::execute(c"/bin/true", &StringArray::new(["/bin/true"])?, &StringArray::new::<&str>([])?)
        };
        enter().map_or(1, |never| match never {})
    });
    let child = child.unwrap();
    let waited = rustix::process::waitpid(Some(child.pid), rustix::process::WaitOptions::empty());
    std::process::exit(waited.unwrap().and_then(|(_, status)| status.exit_status()).unwrap_or(1));
}

fn show(title: &str, times: Vec<(&'static str, Vec<Duration>)>) {
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    let sorted: Vec<(&str, Vec<f64>)> = times
        .into_iter()
        .map(|(name, mut times)| {
            times.sort();
            (name, times.into_iter().map(ms).collect())
        })
        .collect();
    let median = |times: &[f64]| times[times.len() / 2];
    let ours = median(&sorted[0].1);
    println!("{title}\n{:<10}{:>9}{:>9}{:>9}{:>9}", "", "min", "p50", "p90", "ratio");
    for (name, times) in &sorted {
        println!(
            "{name:<10}{:>9.2}{:>9.2}{:>9.2}{:>9.2}",
            times[0],
            median(times),
            times[times.len() * 9 / 10],
            median(times) / ours
        );
    }
    println!();
}
