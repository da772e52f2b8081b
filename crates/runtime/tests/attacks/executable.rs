//! Class 2 (CVE-2019-5736). Attack: the container gets the runtime to run itself inside (`/proc/self/exe` as the
//! program), keeps a handle on the program's file by `/proc/PID/exe`, and writes to it when it does not run any more.
//! Defence: the runtime executes itself from a read-only mount that is attached nowhere (`seal.rs`). Control: a program
//! that joins the container as it is.

use std::fs;
use std::os::unix::process::CommandExt;

use rustix::fs::{CWD, FileType};

use crate::harness::{Fixture, Guard, eventually, run};
use crate::support::{capabilities, naive_command, pid, program, with_attacker};

fn attacked(name: &str) -> Fixture {
    let f = with_attacker(Fixture::new(&format!("exec attacker overwrite /tmp/log {name}")));
    f.start();
    f
}

fn log(f: &Fixture) -> String {
    fs::read_to_string(f.rootfs().join("tmp/log")).unwrap_or_default()
}

pub(crate) fn overwritten() {
    for _ in 0..10 {
        let f = attacked("/");
        let before = fs::read(&f.runtime).unwrap();
        // The name of a mount's root, which the file is: the runtime's own name is nowhere to be seen.
        // It waits for a document that nobody sends, so that there is time for the attack.
        let fifo = f.rootfs().join("tmp/fifo");
        rustix::fs::mknodat(CWD, fifo, FileType::Fifo, 0o600.into(), 0).unwrap();
        let mut exec = f.command(&["exec", "c", "/proc/self/exe", "exec", "--process", "/tmp/fifo", "c"]);
        exec.arg0("sampan-runtime");
        let output = run(exec);
        assert_eq!(output.code, 137, "it was not killed: {output:?}");
        eventually("the attack has been tried", || log(&f).contains("refused") || log(&f).contains("wrote"));
        let log = log(&f);
        assert!(log.contains("opened") && log.contains("refused Read-only"), "{log}");
        assert!(fs::read(&f.runtime).unwrap() == before, "the runtime was overwritten");
    }
}

pub(crate) fn overwritten_control() {
    let f = attacked("victim");
    let victim = f.path("victim");
    // By another process: a file that this one has open for writing, if only in a child of another test's on its way to
    // exec, is busy.
    assert!(std::process::Command::new("cp").arg(program("naive")).arg(&victim).status().unwrap().success());
    let pid = pid(&f);
    let steps = format!("join {pid} capabilities {} 0", capabilities(pid));
    let mut command = std::process::Command::new(&victim);
    let template = naive_command(&steps, &["/proc/self/exe", "pause", "/tmp/never"]);
    command.args(template.get_args());
    let mut child = Guard(command.spawn().unwrap());
    eventually("the victim is overwritten", || log(&f).contains("wrote"));
    child.0.wait().unwrap();
    assert!(fs::read(&victim).unwrap().ends_with(b"overwritten"), "{}", log(&f));
}
