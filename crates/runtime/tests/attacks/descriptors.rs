//! Classes 1 and 9: what the runtime has open while a process of its own is on the way into a container.
//!
//! * 01 (CVE-2016-9962). Attack: a process in the container looks at the one that `exec` sends in, by ptrace or by
//!   `/proc/PID/fd`, and takes a descriptor of the host's. Defence: that process is born hidden from ptrace, and holds
//!   nothing of the host's but the socket to the runtime when it comes in. Control: a process that joins visibly, with a
//!   directory of the host open.
//! * 09 (CVE-2024-21626). Attack: the working directory, or the program, is a path by way of a descriptor that the
//!   runtime or its caller left open. Defence: all are closed before either path is used, and the working directory must
//!   be inside the root. Control: a runtime that left one open.

use std::fs::{self, File};
use std::os::fd::AsFd;

use crate::harness::{Fixture, eventually, run};
use crate::support::{
    ROUNDS, at_pause, capabilities, naive, naive_command, pid, with_attacker, without_network,
};

const SPY: &str = "exec attacker spy /tmp/spied sampan-canary";

fn spied(f: &Fixture) -> String {
    fs::read_to_string(f.rootfs().join("tmp/spied")).unwrap_or_default()
}

pub(crate) fn shows_nothing() {
    let f = with_attacker(Fixture::new(SPY));
    f.start();
    eventually("the spy is ready", || spied(&f).contains("ready"));
    for _ in 0..ROUNDS / 2 {
        f.call(&["exec", "c", "true"]).ok();
    }
    f.call(&["exec", "c", "sleep", "0.2"]).ok();
    let spied = spied(&f);
    assert!(spied.contains("looked"), "it saw nobody");
    assert!(!spied.contains("holds") && !spied.contains("led-to"), "{spied}");
}

/// `mounts add` sends in a helper that holds trees of the host's.
pub(crate) fn helper_shows_nothing() {
    let f = with_attacker(Fixture::new(SPY));
    f.start();
    eventually("the spy is ready", || spied(&f).contains("ready"));
    let (source, file) = (f.path("source"), f.path("mounts"));
    fs::create_dir(&source).unwrap();
    fs::write(source.join("sampan-canary"), "").unwrap();
    let mount =
        serde_json::json!([{"destination": "/added", "type": "bind", "source": source, "options": ["bind"]}]);
    fs::write(&file, mount.to_string()).unwrap();
    let file = file.display().to_string();
    for _ in 0..ROUNDS / 4 {
        f.call(&["mounts", "add", "c", &file]).ok();
        f.call(&["mounts", "remove", "c", &file]).ok();
    }
    f.call(&["exec", "c", "sleep", "0.2"]).ok();
    let spied = spied(&f);
    assert!(spied.contains("looked"), "it saw nobody");
    assert!(!spied.contains("holds") && !spied.contains("led-to"), "{spied}");
}

pub(crate) fn shows_nothing_control() {
    let f = with_attacker(Fixture::new(SPY));
    f.start();
    eventually("the spy is ready", || spied(&f).contains("ready"));
    let outside = f.path("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("sampan-canary"), "").unwrap();
    let pid = pid(&f);
    let steps = format!(
        "leak {} join {pid} capabilities {} 0 pause /tmp/pause",
        outside.display(),
        capabilities(pid)
    );
    let mut child = crate::harness::Guard(naive_command(&steps, &[]).spawn().unwrap());
    at_pause(&f.rootfs().join("tmp/pause"), &mut child.0);
    eventually("the spy has a directory of the host", || spied(&f).contains("led-to sampan-canary"));
    fs::write(f.rootfs().join("tmp/pause"), "").unwrap();
    child.0.wait().unwrap();
}

pub(crate) fn leads_out() {
    let base = Fixture::new("pwd; ls").with(without_network);
    for fd in 3..32 {
        let mut config = base.config.clone();
        config["process"]["cwd"] = format!("/proc/self/fd/{fd}").into();
        let output = base_with(&base, &config).run();
        assert_ne!(output.code, 0, "{fd}: {output:?}");
    }
    let f = Fixture::running("exec sleep 100");
    for fd in 3..32 {
        let cwd = format!("/proc/self/fd/{fd}");
        let output = f.call(&["exec", "--cwd", &cwd, "c", "ls"]);
        assert_ne!(output.code, 0, "{fd}: {output:?}");
    }
}

/// Writes another config.json into a bundle; the fixture's own is written again by its next command.
struct Other<'a>(&'a Fixture);

fn base_with<'a>(f: &'a Fixture, config: &serde_json::Value) -> Other<'a> {
    fs::write(f.bundle().join("config.json"), serde_json::to_vec(config).unwrap()).unwrap();
    Other(f)
}

impl Other<'_> {
    fn run(&self) -> crate::harness::Output {
        let mut command = std::process::Command::new(&self.0.runtime);
        command.arg("--root").arg(self.0.root()).args(["run", "c"]).current_dir(self.0.bundle());
        command.stdin(std::process::Stdio::null());
        run(command)
    }
}

pub(crate) fn program_of_the_host() {
    let up = "/..".repeat(12);
    let f = Fixture::new("true").with(without_network);
    for fd in 3..32 {
        let mut config = f.config.clone();
        let program = format!("/proc/self/fd/{fd}{up}/bin/busybox");
        config["process"]["args"] = serde_json::json!([program, "echo", "a program of the host"]);
        let output = base_with(&f, &config).run();
        assert!(output.code != 0 && !output.out.contains("host"), "{fd}: {output:?}");
    }
    let f = Fixture::running("exec sleep 100");
    for fd in 3..32 {
        let program = format!("/proc/self/fd/{fd}{up}/bin/busybox");
        let output = f.call(&["exec", "c", &program, "echo", "a program of the host"]);
        assert!(output.code != 0 && !output.out.contains("host"), "{fd}: {output:?}");
    }
}

pub(crate) fn left_open() {
    let f = Fixture::new("exec sleep 100");
    let host = File::open("/").unwrap();
    let call = |args: &[&str]| {
        let mut command = f.command(args);
        sampan_kernel::inherit::pass(&mut command, &[(host.as_fd(), 7), (host.as_fd(), 30)]).unwrap();
        run(command)
    };
    call(&["create", "c"]).ok();
    call(&["start", "c"]).ok();
    let held = fs::read_dir(format!("/proc/{}/fd", pid(&f))).unwrap();
    let mut held: Vec<String> = held.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    held.sort();
    assert_eq!(held, ["0", "1", "2"]);
    let output = call(&["exec", "c", "sh", "-c", "ls /proc/self/fd"]);
    // The last is the directory that is being listed.
    assert_eq!(output.ok(), "0\n1\n2\n3\n");
    for fd in [7, 30] {
        let cwd = format!("/proc/self/fd/{fd}");
        assert_ne!(call(&["exec", "--cwd", &cwd, "c", "ls"]).code, 0);
        assert_ne!(call(&["exec", "c", &format!("{cwd}/bin/busybox"), "ls"]).code, 0);
    }
}

pub(crate) fn leads_out_control() {
    let f = Fixture::new("true");
    let secret = f.path("secret");
    fs::write(&secret, "of the host").unwrap();
    let steps = format!("leak / unshare mp root {} mount proc proc /proc enter", f.rootfs().display());
    let cwd = format!("{steps} cwd /proc/self/fd/3{}", f.directory.path().display());
    assert_eq!(naive(&cwd, &["/bin/cat", "secret"]).ok(), "of the host");
    let output = naive(&steps, &["/proc/self/fd/3/bin/busybox", "echo", "a program of the host"]);
    assert_eq!(output.ok(), "a program of the host\n");
}
