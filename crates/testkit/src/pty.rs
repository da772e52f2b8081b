//! A terminal for a client to run in, and a person at it.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};

use crate::command::ends_within;
use crate::{DEADLINE, wait_until};

/// A program that runs in a terminal of its own.
#[derive(Debug)]
pub struct Pty {
    screen: OwnedFd,
    /// Kept open so that the terminal stays when the program has ended.
    line: OwnedFd,
    child: Child,
    shown: Arc<Mutex<Vec<u8>>>,
    before: Termios,
}

impl Pty {
    /// Runs a program in a new session, with a terminal of this size as its controlling terminal.
    ///
    /// # Panics
    /// If that isn't possible.
    pub fn run(
        program: &std::path::Path,
        arguments: &[&str],
        environment: &[(&str, &str)],
        rows: u16,
        columns: u16,
    ) -> Pty {
        use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
        let screen = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&screen).unwrap();
        unlockpt(&screen).unwrap();
        let name = ptsname(&screen, Vec::new()).unwrap();
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC;
        let line = rustix::fs::open(&name, flags, rustix::fs::Mode::empty()).unwrap();
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&screen, size).unwrap();
        let before = tcgetattr(&line).unwrap();
        // `setsid --ctty` makes it the controlling terminal: there is no safe way to do so between fork and exec here.
        let mut command = std::process::Command::new("setsid");
        command.arg("--ctty").arg("--wait").arg(program).args(arguments).envs(environment.iter().copied());
        let end = || Stdio::from(line.try_clone().unwrap());
        let child = command.stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
        let shown = Arc::new(Mutex::new(Vec::new()));
        let (shared, mut reader) = (Arc::clone(&shown), std::fs::File::from(screen.try_clone().unwrap()));
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                shared.lock().unwrap().extend_from_slice(&buffer[..count]);
            }
        });
        Pty { screen, line, child, shown, before }
    }

    /// What the screen has shown so far.
    ///
    /// # Panics
    /// Never, in fact.
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap()).into_owned()
    }

    /// Waits until the screen has shown a text.
    ///
    /// # Panics
    /// If it does not in time.
    #[track_caller]
    pub fn wait_for(&self, text: &str) {
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_until(&format!("the terminal shows {text:?}"), || self.shown().contains(text));
        }));
        assert!(found.is_ok(), "the terminal never showed {text:?} but:\n{}", self.shown());
    }

    /// Types.
    ///
    /// # Panics
    /// If nothing can be typed.
    pub fn type_in(&self, text: &str) {
        let mut bytes = text.as_bytes();
        while !bytes.is_empty() {
            let count = rustix::io::write(&self.screen, bytes).unwrap();
            bytes = &bytes[count..];
        }
    }

    /// Changes the window's size.
    ///
    /// # Panics
    /// If that isn't possible.
    pub fn resize(&self, rows: u16, columns: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(self.screen.as_fd(), size).unwrap();
    }

    /// Waits until the program has put the terminal into raw mode: from then on keys go to the container.
    pub fn wait_until_raw(&self) {
        wait_until("the terminal is raw", || self.local_modes() != self.before.local_modes);
    }

    fn local_modes(&self) -> rustix::termios::LocalModes {
        tcgetattr(&self.line).unwrap().local_modes
    }

    /// Waits for the program's end: its exit code and whether it left the terminal as it was.
    ///
    /// # Panics
    /// If it does not end in time.
    pub fn wait(mut self) -> (i32, bool) {
        let ended = ends_within(&self.child, DEADLINE);
        if !ended {
            let _ = self.child.kill();
        }
        let status = self.child.wait().unwrap();
        assert!(ended, "it does not end; the terminal shows:\n{}", self.shown());
        // What is still on its way to the screen.
        std::thread::sleep(Duration::from_millis(1));
        let after = tcgetattr(&self.line).unwrap();
        let same = after.local_modes == self.before.local_modes
            && after.input_modes == self.before.input_modes
            && after.output_modes == self.before.output_modes
            && after.control_modes == self.before.control_modes;
        (status.code().unwrap_or(-1), same)
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
