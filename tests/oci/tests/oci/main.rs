//! The OCI runtime specification, sentence by sentence. `OCI_RUNTIME` names the runtime under test; without it, it is the
//! one built here. With `OCI_MATRIX`, a file's name, ours is held beside runc and crun, and the table is written there.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "clippy knows tests by their attribute")]

mod bundle;
mod config;
mod config_hooks;
mod config_linux;
mod config_linux_cgroups;
mod config_linux_seccomp;
mod config_mounts;
mod features;
mod harness;
mod matrix;
mod runtime;
mod runtime_linux;
mod table;

use libtest_mimic::Arguments;

use harness::{Bench, Runtime};
use table::Test;

/// The chapters, in the order of the specification.
const CHAPTERS: [(&str, &str, &[Test]); 10] = [
    ("bundle", "bundle.md", bundle::TESTS),
    ("runtime", "runtime.md", runtime::TESTS),
    ("runtime_linux", "runtime-linux.md", runtime_linux::TESTS),
    ("config", "config.md", config::TESTS),
    ("config_mounts", "config.md, mounts", config_mounts::TESTS),
    ("config_hooks", "config.md, hooks", config_hooks::TESTS),
    ("config_linux", "config-linux.md", config_linux::TESTS),
    ("config_linux_cgroups", "config-linux.md, control groups", config_linux_cgroups::TESTS),
    ("config_linux_seccomp", "config-linux.md, seccomp", config_linux_seccomp::TESTS),
    ("features", "features.md, features-linux.md", features::TESTS),
];

/// Why no test can run here, if none can.
fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("needs root".to_owned());
    }
    (!std::path::Path::new("/bin/busybox").exists()).then(|| "needs a static busybox".to_owned())
}

/// Why a test can't run here, if it can't.
fn why_not(test: &Test) -> Option<String> {
    test.needs.iter().find_map(|need| need.missing())
}

fn main() {
    // Modes that tests give are meant as they are.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let ours = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("sampan-runtime");
    let program = std::env::var("OCI_RUNTIME").unwrap_or_else(|_| ours.to_string_lossy().into_owned());
    if let Ok(file) = std::env::var("OCI_MATRIX") {
        assert_eq!(missing(), None);
        let others = ["runc", "crun"].map(Runtime::new);
        matrix::write(&file, &[Runtime::new(&program), others[0].clone(), others[1].clone()]);
        return;
    }
    let arguments = Arguments::from_args();
    let absent = missing().or_else(|| {
        let there = !program.contains('/') || std::path::Path::new(&program).exists();
        (!there).then(|| format!("needs {program}: cargo build -p sampan-runtime"))
    });
    let mut trials = Vec::new();
    for (chapter, _, tests) in CHAPTERS {
        for test in tests {
            let runtime = program.rsplit('/').next().unwrap_or_default();
            let known =
                test.but.iter().find(|(name, _)| *name == runtime).map(|(_, why)| format!("known: it {why}"));
            let why_not = absent.clone().or_else(|| why_not(test)).or(known);
            let name = format!("{chapter}::{}", test.name);
            let (program, run) = (program.clone(), test.run);
            let body = move || run(&mut Bench::new(&Runtime::new(&program)));
            trials.push(sampan_testkit::trial(name, why_not, body));
        }
    }
    libtest_mimic::run(&arguments, trials).exit();
}
