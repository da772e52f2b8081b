//! Compares this runtime with Debian's runc and crun: `cargo bench -p sampan-runtime`. Needs root and busybox-static.
//!
//! The runtimes take turns, so that all see the same load, and the table has medians and ratios. crun refuses a hybrid
//! cgroup layout, so all of them run in a mount namespace without the additional v2 hierarchy.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const ROUNDS: usize = 60;
const INNER: &str = "SAMPAN_BENCH_INNER";

struct Runtime {
    name: &'static str,
    path: PathBuf,
}

fn main() {
    // `cargo test --benches` passes no `--bench`.
    if !std::env::args().any(|arg| arg == "--bench") {
        return;
    }
    if std::env::var_os(INNER).is_none() {
        let script =
            "mount --make-rprivate /; umount /sys/fs/cgroup/unified 2>/dev/null; exec \"$0\" --bench";
        let own = std::env::current_exe().expect("the bench has a path");
        let status =
            Command::new("unshare").args(["-m", "sh", "-c", script]).arg(own).env(INNER, "1").status();
        std::process::exit(status.ok().and_then(|s| s.code()).unwrap_or(1));
    }
    let mut runtimes = vec![Runtime { name: "sampan", path: env!("CARGO_BIN_EXE_sampan-runtime").into() }];
    for (name, path) in [("crun", "/usr/bin/crun"), ("runc", "/usr/sbin/runc")] {
        if Path::new(path).exists() {
            runtimes.push(Runtime { name, path: path.into() });
        }
    }
    let bundle = tempfile::tempdir().expect("a temporary directory");
    make_bundle(bundle.path(), false);
    report("run /bin/true, all namespaces, cgroups", &runtimes, bundle.path(), run);
    report("create + start + delete", &runtimes, bundle.path(), create_start_delete);
    make_bundle(bundle.path(), true);
    report("run /bin/true, with the default seccomp profile", &runtimes, bundle.path(), run);
    report_exec(&runtimes, bundle.path());
}

fn make_bundle(directory: &Path, seccomp: bool) {
    let bin = directory.join("rootfs/bin");
    std::fs::create_dir_all(&bin).expect("a directory");
    std::fs::copy("/bin/busybox", bin.join("true")).expect("busybox-static is installed");
    std::fs::copy("/bin/busybox", bin.join("sleep")).expect("busybox-static is installed");
    let _ = std::fs::remove_file(directory.join("config.json"));
    let own = env!("CARGO_BIN_EXE_sampan-runtime");
    assert!(Command::new(own).arg("spec").current_dir(directory).status().expect("spec runs").success());
    let path = directory.join("config.json");
    let text = std::fs::read(&path).expect("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    config["ociVersion"] = "1.0.2".into();
    config["process"]["terminal"] = false.into();
    config["process"]["args"] = serde_json::json!(["/bin/true"]);
    if seccomp {
        let capabilities = sampan_oci::runtime::defaults::default_capabilities();
        let profile = sampan_oci::runtime::defaults::default_seccomp(&capabilities);
        config["linux"]["seccomp"] = serde_json::to_value(profile).expect("JSON");
    }
    std::fs::write(path, config.to_string()).expect("config.json");
}

fn command(runtime: &Runtime, bundle: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(&runtime.path);
    command.arg("--root").arg(bundle.join(runtime.name)).args(args).current_dir(bundle);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

fn call(runtime: &Runtime, bundle: &Path, args: &[&str]) {
    let status = command(runtime, bundle, args).status().expect("the runtime runs");
    assert!(status.success(), "{} {args:?} failed", runtime.name);
}

fn id() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("sampan-bench-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

fn run(runtime: &Runtime, bundle: &Path) {
    call(runtime, bundle, &["run", &id()]);
}

fn create_start_delete(runtime: &Runtime, bundle: &Path) {
    let id = id();
    call(runtime, bundle, &["create", &id]);
    call(runtime, bundle, &["start", &id]);
    call(runtime, bundle, &["delete", "--force", &id]);
}

fn measure(runtimes: &[Runtime], mut one: impl FnMut(&Runtime)) -> Vec<Vec<Duration>> {
    let mut times = vec![Vec::new(); runtimes.len()];
    for round in 0..ROUNDS + 3 {
        for (runtime, times) in runtimes.iter().zip(&mut times) {
            let began = Instant::now();
            one(runtime);
            // The first rounds warm up.
            if round >= 3 {
                times.push(began.elapsed());
            }
        }
    }
    times
}

fn report(title: &str, runtimes: &[Runtime], bundle: &Path, one: fn(&Runtime, &Path)) {
    let times = measure(runtimes, |runtime| one(runtime, bundle));
    show(title, runtimes, times);
}

fn report_exec(runtimes: &[Runtime], bundle: &Path) {
    let path = bundle.join("config.json");
    let text = std::fs::read(&path).expect("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    config["process"]["args"] = serde_json::json!(["/bin/sleep", "1000"]);
    std::fs::write(path, config.to_string()).expect("config.json");
    let ids: Vec<String> = runtimes.iter().map(|_| id()).collect();
    for (runtime, id) in runtimes.iter().zip(&ids) {
        call(runtime, bundle, &["create", id]);
        call(runtime, bundle, &["start", id]);
    }
    let of = |runtime: &Runtime| &ids[runtimes.iter().position(|r| r.name == runtime.name).unwrap_or(0)];
    let times = measure(runtimes, |runtime| call(runtime, bundle, &["exec", of(runtime), "/bin/true"]));
    show("exec /bin/true, with the default seccomp profile", runtimes, times);
    let times = measure(runtimes, |runtime| call(runtime, bundle, &["state", of(runtime)]));
    show("state", runtimes, times);
    for (runtime, id) in runtimes.iter().zip(&ids) {
        call(runtime, bundle, &["delete", "--force", id]);
    }
}

#[allow(clippy::print_stdout, reason = "a table is what this program is for")]
fn show(title: &str, runtimes: &[Runtime], times: Vec<Vec<Duration>>) {
    let sorted = times.into_iter().map(|mut times| {
        times.sort();
        times
    });
    let sorted: Vec<Vec<Duration>> = sorted.collect();
    let ms = |d: Duration| d.as_secs_f64() * 1000.0;
    let median = |times: &Vec<Duration>| ms(times[times.len() / 2]);
    println!("{title} (ms, {ROUNDS} rounds)\n{:<10}{:>8}{:>8}{:>8}{:>8}", "", "min", "p50", "p90", "ratio");
    for (runtime, times) in runtimes.iter().zip(&sorted) {
        println!(
            "{:<10}{:>8.2}{:>8.2}{:>8.2}{:>8.2}",
            runtime.name,
            ms(times[0]),
            median(times),
            ms(times[times.len() * 9 / 10]),
            median(times) / median(&sorted[0])
        );
    }
    println!();
}
