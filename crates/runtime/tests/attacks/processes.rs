//! Class 19, and terminals (22): which process is meant.
//!
//! * 19: Attack: the container's first process ends, and another process of the host gets its number; `exec` would enter
//!   that one's namespaces, `kill` and `delete` would end it. Defence: a process is known by its number and its beginning
//!   together, held by a pidfd and joined by that. Control: a runtime that goes by the number.
//! * 22: Attack: a process in the container pushes characters into the terminal that the caller is at. Defence: it has a
//!   session of its own. Control: one that was started in its caller's.

use std::fs;
use std::process::Command;

use crate::harness::{Fixture, Output, eventually, run};
use crate::support::{ROUNDS, program, with_attacker, without_network};

/// Runs `second` when the container's first process has ended and another process has its number.
fn recycled(f: &Fixture, second: &str) -> Output {
    let pid_file = f.path("pid").display().to_string();
    f.write_config();
    let runtime = format!("{} --root {}", f.runtime.display(), f.root().display());
    let first =
        format!("cd {} && {runtime} run -d --pid-file {pid_file} c < /dev/null", f.bundle().display());
    let second = second.replace("RUNTIME", &runtime).replace("PIDFILE", &pid_file);
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc", "--kill-child"]).arg(program("attacker"));
    command.args(["recycle", &first, &pid_file, &second]).stdin(std::process::Stdio::null());
    run(command)
}

pub(crate) fn same_number() {
    for second in [
        "RUNTIME exec c true",
        "RUNTIME kill c KILL",
        "RUNTIME kill --all c KILL; RUNTIME kill c KILL",
        "RUNTIME delete c; RUNTIME state c",
        "RUNTIME delete --force c; RUNTIME state c",
        "RUNTIME pause c; RUNTIME exec c true",
        "test \"$(RUNTIME state c | grep '\"status\": *\"stopped\"')\" && false",
    ] {
        let f = Fixture::new("exec sleep 100");
        let output = recycled(&f, second);
        assert!(output.out.contains("the other is alive"), "{second}: {output:?}");
        assert!(!output.out.contains("code 0,"), "{second}: {output:?}");
    }
}

pub(crate) fn same_number_control() {
    let f = Fixture::new("exec sleep 100");
    let output = recycled(&f, "kill -9 $(cat PIDFILE)");
    assert!(output.out.contains("the other is dead"), "{output:?}");
    let f = Fixture::new("exec sleep 100");
    let naive = program("naive");
    let output = recycled(
        &f,
        &format!("{} join $(cat PIDFILE) exec /bin/sh -c 'test -e {}'", naive.display(), naive.display()),
    );
    assert!(output.out.contains("code 0,"), "it saw none of the host's files: {output:?}");
}

/// exec over and over, while the container ends and is made again.
pub(crate) fn exec_while_ending() {
    let f = Fixture::new("exec sleep 100").with(without_network);
    fs::write(f.rootfs().join("tmp/inside"), "").unwrap();
    let host = f.path("of-the-host");
    fs::write(&host, "").unwrap();
    let script = format!("test -e /tmp/inside && ! test -e {}", host.display());
    for round in 0..ROUNDS / 4 {
        f.call(&["run", "-d", "c"]).ok();
        let mut kill = f.command(&["kill", "c", "KILL"]);
        let mut killer = crate::harness::Guard(kill.spawn().unwrap());
        for _ in 0..3 {
            let output = f.exec(&script);
            // Inside, or killed with the container, or refused.
            assert!([0, 137, 255].contains(&output.code), "{round}: {output:?}");
        }
        killer.0.wait().unwrap();
        eventually("it has ended", || f.status() == "stopped");
        f.call(&["delete", "c"]).ok();
    }
    f.assert_gone();
}

pub(crate) fn callers_terminal() {
    let f = with_attacker(Fixture::new("attacker terminal"));
    f.write_config();
    let call = |args: &str| {
        let inner = format!(
            "cd {} && {} --root {} {args}",
            f.bundle().display(),
            f.runtime.display(),
            f.root().display()
        );
        at_a_terminal(&inner)
    };
    assert!(call("run c").out.contains("terminal: none"));
    let sleeping = with_attacker(Fixture::running("exec sleep 100"));
    let inner =
        format!("{} --root {} exec c attacker terminal", f.runtime.display(), sleeping.root().display());
    let output = at_a_terminal(&inner);
    assert!(output.out.contains("terminal: none"), "{output:?}");
}

pub(crate) fn callers_terminal_control() {
    let output = at_a_terminal(&format!(
        "{} exec {} terminal",
        program("naive").display(),
        program("attacker").display()
    ));
    assert!(output.out.contains("terminal: its caller's"), "{output:?}");
}

/// Runs a command at a terminal of its own.
fn at_a_terminal(command: &str) -> Output {
    let mut script = Command::new("script");
    script.args(["-qec", command, "/dev/null"]).stdin(std::process::Stdio::null());
    run(script)
}
