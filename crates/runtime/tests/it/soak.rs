//! Many containers, one after the other and at once, and runtimes that are killed at any moment: nothing hangs, nothing
//! is left. Here in a short form; `cargo bench -p sampan-runtime --bench soak` takes longer.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;

use crate::harness::{Fixture, Output, eventually, run};

/// After this many seconds a command counts as hung.
const HUNG: &str = "60";

/// A root file system, and as many bundles over it as there are workers.
pub(crate) struct Soak {
    f: Fixture,
}

impl Soak {
    pub(crate) fn new() -> Soak {
        let f = Fixture::new("true");
        // What is left of a container is known by this, wherever it is.
        let mark = format!("SAMPAN_TEST={}", f.directory.path().display());
        let rootfs = f.rootfs();
        let f = f.with(|c| {
            c["process"]["env"].as_array_mut().unwrap().push(mark.into());
            c["root"]["path"] = rootfs.display().to_string().into();
            c["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["mount"], "action": "SCMP_ACT_ERRNO"}]});
        });
        Soak { f }
    }

    /// A worker's bundle, whose program is `script`.
    fn bundle(&self, id: &str, script: &[&str]) -> PathBuf {
        let bundle = self.f.path(&format!("bundle-{id}"));
        fs::create_dir_all(&bundle).unwrap();
        let mut config = self.f.config.clone();
        config["process"]["args"] = json!(script);
        config["linux"]["cgroupsPath"] = format!("{}/{id}", self.f.cgroup).into();
        fs::write(bundle.join("config.json"), serde_json::to_vec(&config).unwrap()).unwrap();
        bundle
    }

    fn command(&self, bundle: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(&self.f.runtime);
        command.arg("--root").arg(self.f.root()).args(args).current_dir(bundle).stdin(Stdio::null());
        command
    }

    /// A command to its end, which must come.
    #[track_caller]
    fn call(&self, bundle: &Path, args: &[&str]) -> Output {
        let plain = self.command(bundle, args);
        let mut command = Command::new("timeout");
        command.args(["--signal=KILL", HUNG]).arg(&self.f.runtime).args(plain.get_args());
        command.current_dir(bundle).stdin(Stdio::null());
        let output = run(command);
        assert_ne!(output.code, 137, "{args:?} hangs: {output:?}");
        output
    }

    /// `count` containers, one after the other.
    pub(crate) fn in_a_row(&self, id: &str, count: u32) {
        let bundle = self.bundle(id, &["true"]);
        for number in 0..count {
            let output = self.call(&bundle, &["run", id]);
            assert!(output.code == 0 && output.err.is_empty(), "run {number}: {output:?}");
        }
    }

    /// `workers` at once, `count` containers each: every other by create, start, exec and delete.
    pub(crate) fn at_once(&self, workers: u32, count: u32) {
        std::thread::scope(|scope| {
            for worker in 0..workers {
                scope.spawn(move || {
                    let id = format!("w{worker}");
                    if worker % 2 == 0 {
                        return self.in_a_row(&id, count);
                    }
                    let bundle = self.bundle(&id, &["sleep", "1000"]);
                    for _ in 0..count {
                        self.call(&bundle, &["create", &id]).ok();
                        self.call(&bundle, &["start", &id]).ok();
                        self.call(&bundle, &["exec", &id, "true"]).ok();
                        self.call(&bundle, &["kill", &id, "KILL"]).ok();
                        self.call(&bundle, &["delete", "--force", &id]).ok();
                    }
                });
            }
        });
    }

    /// A runtime killed at any moment, `rounds` times; `delete --force` clears up after it.
    pub(crate) fn killed(&self, id: &str, rounds: u32, numbers: &mut Numbers) {
        let (short, long) = (self.bundle(&format!("{id}s"), &["true"]), self.bundle(id, &["sleep", "1000"]));
        let took = std::time::Instant::now();
        self.call(&long, &["run", "-d", id]).ok();
        // A little longer than a command takes, so that some come to their end.
        let longest = u64::try_from(took.elapsed().as_micros()).unwrap() * 5 / 4;
        self.call(&long, &["delete", "--force", id]).ok();
        for round in 0..rounds {
            let scenario = numbers.below(7);
            let (bundle, ready, verb): (&Path, &[&[&str]], &[&str]) = match scenario {
                0 => (&short, &[], &["run", id]),
                1 => (&long, &[], &["run", "-d", id]),
                2 => (&long, &[], &["create", id]),
                3 => (&long, &[&["create", id]], &["start", id]),
                4 => (&long, &[&["run", "-d", id]], &["exec", id, "true"]),
                5 => (&long, &[&["run", "-d", id]], &["delete", "--force", id]),
                _ => (&long, &[&["run", "-d", id]], &["exec", id, "sleep", "1000"]),
            };
            for command in ready {
                self.call(bundle, command).ok();
            }
            let mut command = self.command(bundle, verb);
            let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            std::thread::sleep(Duration::from_micros(numbers.below(longest)));
            child.kill().unwrap();
            child.wait().unwrap();
            let output = self.call(bundle, &["delete", "--force", id]);
            assert_eq!(output.code, 0, "round {round}, after {verb:?}: {output:?}");
            let what = format!("nothing is left in round {round} after {verb:?} was killed");
            eventually(&what, || self.left(id).is_empty());
        }
    }

    /// What is left of a container, or of all.
    pub(crate) fn left(&self, id: &str) -> Vec<String> {
        let mut left = Vec::new();
        let directory = self.f.directory.path().display().to_string();
        let exact = |name: String| id.is_empty() || name == id;
        for entry in fs::read_dir(self.f.root()).into_iter().flatten().flatten() {
            if exact(entry.file_name().to_string_lossy().into_owned()) {
                left.push(format!("state {}", entry.path().display()));
            }
        }
        for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            for entry in
                fs::read_dir(hierarchy.path().join(&self.f.cgroup[1..])).into_iter().flatten().flatten()
            {
                if entry.path().is_dir() && exact(entry.file_name().to_string_lossy().into_owned()) {
                    left.push(format!("cgroup {}", entry.path().display()));
                }
            }
        }
        if id.is_empty() {
            let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
            left.extend(
                mounts.lines().filter(|line| line.contains(&directory)).map(|line| format!("mount {line}")),
            );
        }
        for process in fs::read_dir("/proc").unwrap().flatten() {
            let read = |file: &str| fs::read(process.path().join(file)).unwrap_or_default();
            let has =
                |bytes: &[u8], text: &str| bytes.windows(text.len()).any(|part| part == text.as_bytes());
            // A container's program has the mark; a copy of the runtime has its command line. Other workers' are theirs.
            let (line, environment) = (read("cmdline"), read("environ"));
            let of_ours = has(&line, &directory)
                && (id.is_empty() || line.split(|b| *b == 0).any(|arg| arg == id.as_bytes()));
            if of_ours || (id.is_empty() && has(&environment, &format!("SAMPAN_TEST={directory}"))) {
                left.push(format!("process {} {}", process.path().display(), String::from_utf8_lossy(&line)));
            }
        }
        left
    }
}

/// Numbers that are the same for the same seed.
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit.max(1)
    }
}
