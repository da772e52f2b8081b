//! Terminals: handed over a socket, or relayed.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;

use rustix::pty::OpenptFlags;
use serde_json::json;

use crate::harness::{Fixture, eventually};

/// Reads what a terminal's process says until it closes it.
fn read_all(mut controller: File) -> String {
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = controller.read(&mut buffer) {
        text.extend(&buffer[..length]);
    }
    String::from_utf8_lossy(&text).replace("\r\n", "\n")
}

fn accept(listener: &UnixListener) -> File {
    let (socket, _) = listener.accept().unwrap();
    let mut name = [0; 4096];
    let (length, fd) = sampan_runtime::channel::receive_descriptor(socket.as_fd(), &mut name).unwrap();
    assert!(length > 0, "the terminal has a name");
    File::from(fd.unwrap())
}

#[test]
fn a_console_socket_gets_the_terminal() {
    let f = Fixture::new("tty; stty size; ls -l /dev/console | cut -c1; echo x > /dev/console; echo x > /dev/tty; stat -c %u /dev/pts/0").with(|c| {
        c["process"]["terminal"] = true.into();
        c["process"]["consoleSize"] = json!({"height": 33, "width": 77});
    });
    let path = f.path("console");
    let listener = UnixListener::bind(&path).unwrap();
    f.call(&["create", "--console-socket", path.to_str().unwrap(), "c"]).ok();
    let controller = accept(&listener);
    f.call(&["start", "c"]).ok();
    assert_eq!(read_all(controller), "/dev/pts/0\n33 77\nc\nx\nx\n0\n");
}

#[test]
fn exec_gets_a_terminal_of_its_own() {
    let f = Fixture::running("exec sleep 100");
    let path = f.path("console");
    let listener = UnixListener::bind(&path).unwrap();
    f.call(&[
        "exec",
        "--tty",
        "--detach",
        "--user",
        "7",
        "--console-socket",
        path.to_str().unwrap(),
        "c",
        "sh",
        "-c",
        "tty; stat -c %u $(tty); read x; echo got $x",
    ])
    .ok();
    let mut controller = accept(&listener);
    controller.write_all(b"word\n").unwrap();
    let text = read_all(controller);
    // The terminal's own echo comes in between somewhere.
    assert!(text.contains("/dev/pts/0\n") && text.contains("7\n") && text.ends_with("got word\n"), "{text}");
}

/// A terminal for the runtime itself to be at.
fn outer() -> (File, OwnedFd) {
    let controller = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    rustix::pty::unlockpt(&controller).unwrap();
    let process =
        rustix::pty::ioctl_tiocgptpeer(&controller, OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    (File::from(controller), process)
}

fn set_size(terminal: impl AsFd, rows: u16, columns: u16) {
    let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(terminal, size).unwrap();
}

#[test]
fn in_the_foreground_the_terminal_is_the_one_we_are_at() {
    let f = Fixture::new("stty size; read x; echo got $x; trap 'stty size; exit 4' WINCH; echo > /tmp/ready; while :; do sleep 0.01; done")
        .with(|c| c["process"]["terminal"] = true.into());
    let (mut controller, process) = outer();
    set_size(&process, 30, 70);
    let mut command = f.command(&["run", "c"]);
    command
        .stdin(process.try_clone().unwrap())
        .stdout(process.try_clone().unwrap())
        .stderr(process.try_clone().unwrap());
    let mut child = command.spawn().unwrap();
    drop(command);
    controller.write_all(b"word\n").unwrap();
    eventually("it waits for a new size", || f.rootfs().join("tmp/ready").exists());
    set_size(&process, 31, 71);
    // Without a controlling terminal, nobody but us tells the runtime of the change.
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::WINCH).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(4));
    drop(process);
    let text = read_all(controller);
    for part in ["30 70", "got word", "31 71"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    f.assert_gone();
}

#[test]
fn output_is_complete_at_the_end() {
    let f = Fixture::running("exec sleep 100");
    let mut command = f.command(&["exec", "-t", "c", "sh", "-c", "yes 12345 | head -n 20000; echo end"]);
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!((text.matches("12345").count(), text.ends_with("end\r\n")), (20000, true));
}
