//! `sampan-runtime` in the hands of those who drive OCI runtimes: Debian's docker, containerd, podman and buildah. Each
//! has its own directories and is stopped at the end; what is not installed is reported as ignored.

#![allow(clippy::unwrap_used, reason = "tests")]

mod containerd;
mod docker;
mod podman;

use std::path::{Path, PathBuf};

use libtest_mimic::Arguments;
use sampan_testkit::{Pty, wait_until};

/// A test: its name, the programs it needs, and itself.
type Case = (&'static str, &'static [&'static str], fn());

/// The runtime under test.
fn runtime() -> PathBuf {
    std::env::var_os("RUNTIME").map_or_else(|| sampan_testkit::executable("sampan-runtime"), PathBuf::from)
}

/// Makes the window of a shell this large, and waits until the shell has it so. Clients listen for changes of the size
/// at some time after the start, tell nobody when, and lose what came before: so it is changed again and again.
fn resize(pty: &Pty, rows: u16, columns: u16) {
    let wanted = format!("\"$(stty size 2>/dev/null)\" = \"{rows} {columns}\"");
    pty.type_in(&format!("until [ {wanted} ]; do :; done; echo res''ized\n"));
    wait_until("the size has arrived", || {
        pty.resize(rows + 1, columns);
        pty.resize(rows, columns);
        pty.shown().contains("resized")
    });
}

fn main() {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(2);
    let root = rustix::process::geteuid().is_root();
    let base = if root { sampan_testkit::busybox::missing() } else { Some("not root") };
    let mut trials = Vec::new();
    for (name, programs, test) in [docker::CASES, containerd::CASES, podman::CASES].into_iter().flatten() {
        let absent = programs.iter().find(|program| !Path::new(program).exists());
        let reason = base.or(absent.copied());
        trials.push(sampan_testkit::trial(*name, reason, *test));
    }
    libtest_mimic::run(&arguments, trials).exit();
}
