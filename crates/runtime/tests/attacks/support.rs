//! The programs of both sides, and how the tests use them.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::harness::{Fixture, Guard, Output, eventually, run};

/// What this host lacks for these tests; builds the programs if it lacks nothing.
pub(crate) fn lacking() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root".to_owned());
    }
    if !Path::new("/bin/busybox").exists() {
        return Some("no static busybox".to_owned());
    }
    ["naive", "attacker"].iter().find_map(|name| build(name).err())
}

/// Debian 12's runc, on which some of the attacks succeed.
pub(crate) const OLD_RUNC: &str = "/usr/sbin/runc";

/// Why that can't be a control here, if it can't.
pub(crate) fn no_old_runc() -> Option<String> {
    let output = Command::new(OLD_RUNC).arg("--version").output().ok();
    let version =
        output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    (!version.starts_with("runc version 1.1.5")).then(|| "no runc 1.1.5".to_owned())
}

fn build(name: &str) -> Result<(), String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/attacks").join(name).with_extension("c");
    let made = directory().join(format!("{name}.{}", std::process::id()));
    let mut compiler = Command::new("cc");
    compiler.args(["-static", "-O1", "-w", "-o"]).arg(&made).arg(source);
    match compiler.output() {
        Err(e) => Err(format!("no C compiler: {e}")),
        Ok(output) if !output.status.success() => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        // Another run of these tests may be using the old one.
        Ok(_) => fs::rename(made, program(name)).map_err(|e| e.to_string()),
    }
}

fn directory() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

/// `naive` or `attacker`.
pub(crate) fn program(name: &str) -> PathBuf {
    directory().join(name)
}

/// Puts the attacker's program into a container's root, in its `$PATH`.
pub(crate) fn with_attacker(f: Fixture) -> Fixture {
    fs::copy(program("attacker"), f.rootfs().join("bin/attacker")).unwrap();
    f
}

/// A process of the attacker's beside a container.
pub(crate) fn attacker<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Guard {
    let mut command = Command::new(program("attacker"));
    Guard(command.args(args).stdin(Stdio::null()).spawn().unwrap())
}

/// Two names in a directory, exchanged all the time until the guard is dropped.
pub(crate) fn swapping(directory: &Path, a: &str, b: &str) -> Guard {
    attacker([OsStr::new("swap"), directory.join(a).as_os_str(), directory.join(b).as_os_str()])
}

/// How many containers a race is run against.
pub(crate) const ROUNDS: u32 = 100;

/// The naive runtime: `steps` are words, then come the container's program and its arguments.
pub(crate) fn naive(steps: &str, program: &[&str]) -> Output {
    run(naive_command(steps, program))
}

pub(crate) fn naive_command(steps: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program("naive"));
    command.args(steps.split_whitespace()).stdin(Stdio::null());
    if !args.is_empty() {
        command.arg("exec").args(args);
    }
    command
}

/// As [`naive`], with something done while it stands at its step `pause FILE`.
pub(crate) fn naive_paused(file: &Path, steps: &str, program: &[&str], meanwhile: impl FnOnce()) -> Output {
    let out = tempfile::NamedTempFile::new().unwrap();
    let err = tempfile::NamedTempFile::new().unwrap();
    let mut command = naive_command(steps, program);
    command.stdout(out.reopen().unwrap()).stderr(err.reopen().unwrap());
    let mut child = Guard(command.spawn().unwrap());
    at_pause(file, &mut child.0);
    meanwhile();
    fs::write(file, "").unwrap();
    let status = child.0.wait().unwrap();
    let read = |file: &Path| fs::read_to_string(file).unwrap();
    Output { code: status.code().unwrap_or(-1), out: read(out.path()), err: read(err.path()) }
}

/// Waits until a process stands at its step `pause`.
pub(crate) fn at_pause(file: &Path, child: &mut Child) {
    let reached = PathBuf::from(format!("{}.reached", file.display()));
    eventually("the window is open", || {
        assert!(child.try_wait().unwrap().is_none(), "the naive runtime has ended before");
        reached.exists()
    });
}

/// Exchanges two names once.
pub(crate) fn exchange(directory: &Path, a: &str, b: &str) {
    let flags = rustix::fs::RenameFlags::EXCHANGE;
    let (a, b) = (directory.join(a), directory.join(b));
    rustix::fs::renameat_with(rustix::fs::CWD, a, rustix::fs::CWD, b, flags).unwrap();
}

/// Adds a mount to config.json.
pub(crate) fn mount(config: &mut serde_json::Value, mount: serde_json::Value) {
    config["mounts"].as_array_mut().unwrap().push(mount);
}

/// Leaves the network namespace out: to make one is half of the work of a container, and no part of a race for places.
pub(crate) fn without_network(config: &mut serde_json::Value) {
    config["linux"]["namespaces"].as_array_mut().unwrap().retain(|n| n["type"] != "network");
}

/// Leaves mounts out of config.json.
pub(crate) fn without_mounts(config: &mut serde_json::Value, below: &str) {
    config["mounts"]
        .as_array_mut()
        .unwrap()
        .retain(|m| !m["destination"].as_str().unwrap().starts_with(below));
}

/// The capabilities that a process may have, as `/proc` writes them.
pub(crate) fn capabilities(pid: u64) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("CapPrm:")).unwrap();
    line.trim().to_owned()
}

/// The number of a running container's first process.
pub(crate) fn pid(f: &Fixture) -> u64 {
    f.state()["pid"].as_u64().unwrap()
}
