//! Clients: programs that are run with a deadline, and what came out of them.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use crate::{DEADLINE, wait_until};

/// A program to run.
#[derive(Debug)]
pub struct Command {
    command: std::process::Command,
    words: Vec<String>,
    input: Option<Vec<u8>>,
}

impl Command {
    /// A program without arguments yet.
    pub fn new(program: impl AsRef<OsStr>) -> Command {
        let name = Path::new(program.as_ref()).file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut command = std::process::Command::new(program);
        // A group of its own: what a test's signals are meant for is named by id.
        command.process_group(0);
        Command { command, words: vec![name], input: None }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Command {
        for argument in args {
            self.words.push(argument.as_ref().to_string_lossy().into_owned());
            self.command.arg(argument);
        }
        self
    }

    /// Adds another command as arguments, with its environment: for programs that start one.
    #[must_use]
    pub fn then(mut self, other: Command) -> Command {
        self.command.arg(other.command.get_program()).args(other.command.get_args());
        for (name, value) in other.command.get_envs() {
            match value {
                Some(value) => self.command.env(name, value),
                None => self.command.env_remove(name),
            };
        }
        self.words.extend(other.words);
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Command {
        self.command.env(name, value);
        self
    }

    /// Sets the working directory.
    #[must_use]
    pub fn directory(mut self, path: &Path) -> Command {
        self.command.current_dir(path);
        self
    }

    /// Gives it an input; without one it has none.
    #[must_use]
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Command {
        self.input = Some(bytes.into());
        self
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// If it can't be started or does not end in time.
    pub fn run(self) -> Output {
        self.start().wait()
    }

    /// Starts it.
    ///
    /// # Panics
    /// If it can't be started.
    pub fn start(mut self) -> Running {
        let stdin = if self.input.is_some() { Stdio::piped() } else { Stdio::null() };
        self.command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        let words = self.words.join(" ");
        let mut child = self.command.spawn().unwrap_or_else(|e| panic!("cannot start `{words}`: {e}"));
        if let Some(bytes) = self.input {
            let mut stdin = child.stdin.take().unwrap();
            // Nobody may want to read it all.
            std::thread::spawn(move || drop(stdin.write_all(&bytes)));
        }
        let stdout = Collected::of(child.stdout.take().unwrap());
        let stderr = Collected::of(child.stderr.take().unwrap());
        Running { words, child, stdout, stderr, ended: false }
    }
}

/// What a stream has brought so far.
#[derive(Debug)]
struct Collected {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Collected {
    fn of(mut stream: impl Read + Send + 'static) -> Collected {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&bytes);
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 8192];
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                shared.lock().unwrap().extend_from_slice(&buffer[..count]);
            }
        });
        Collected { bytes, reader: Some(reader) }
    }

    fn so_far(&self) -> Vec<u8> {
        self.bytes.lock().unwrap().clone()
    }

    fn all(&mut self) -> Vec<u8> {
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        self.so_far()
    }
}

/// A program that runs. It is killed if it still runs when this is dropped.
#[derive(Debug)]
pub struct Running {
    words: String,
    child: Child,
    stdout: Collected,
    stderr: Collected,
    ended: bool,
}

impl Running {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its output so far.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout.so_far()).into_owned()
    }

    /// Waits until its output has `text` in it.
    ///
    /// # Panics
    /// If that does not happen in time.
    pub fn wait_for_output(&self, text: &str) {
        wait_until(&format!("`{}` prints {text:?}", self.words), || self.stdout().contains(text));
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// If there is no such process any more.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it does not end in time.
    pub fn wait(mut self) -> Output {
        let ended = ends_within(&self.child, DEADLINE);
        if !ended {
            // It is ours and not waited for yet, so the id is its own.
            let _ = self.child.kill();
        }
        let status = self.child.wait().unwrap();
        self.ended = true;
        let output = Output {
            words: self.words.clone(),
            code: status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
            stdout: String::from_utf8_lossy(&self.stdout.all()).into_owned(),
            stderr: String::from_utf8_lossy(&self.stderr.all()).into_owned(),
        };
        assert!(ended, "it does not end: {output}");
        output
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Whether a child ends before the time is over.
pub(crate) fn ends_within(child: &Child, time: Duration) -> bool {
    let Ok(descriptor) = pidfd_open(Pid::from_child(child), PidfdFlags::empty()) else { return true };
    let deadline = Instant::now() + time;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("cannot wait for a process: {error}"),
        }
    }
}

/// What came out of a program.
#[derive(Clone, Debug)]
pub struct Output {
    words: String,
    /// Its exit code; 128 and the signal's number if one ended it.
    pub code: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "$ {}\n[exit code {}]\n[stdout]\n{}\n[stderr]\n{}",
            self.words, self.code, self.stdout, self.stderr
        )
    }
}

impl Output {
    /// It must have succeeded.
    ///
    /// # Panics
    /// If it has not.
    #[track_caller]
    pub fn ok(self) -> Output {
        self.code(0)
    }

    /// It must have ended with this exit code.
    ///
    /// # Panics
    /// If it has not.
    #[track_caller]
    pub fn code(self, expected: i32) -> Output {
        assert!(self.code == expected, "expected exit code {expected}\n{self}");
        self
    }

    /// Its standard output must have `text` in it.
    ///
    /// # Panics
    /// If it has not.
    #[track_caller]
    pub fn says(self, text: &str) -> Output {
        assert!(self.stdout.contains(text), "expected {text:?} in stdout\n{self}");
        self
    }

    /// Its standard error must have `text` in it.
    ///
    /// # Panics
    /// If it has not.
    #[track_caller]
    pub fn complains(self, text: &str) -> Output {
        assert!(self.stderr.contains(text), "expected {text:?} in stderr\n{self}");
        self
    }

    /// Its standard output must be exactly this, but for white space around it.
    ///
    /// # Panics
    /// If it is not.
    #[track_caller]
    pub fn is(self, text: &str) -> Output {
        assert!(self.stdout.trim() == text, "expected {text:?}\n{self}");
        self
    }

    /// Its standard output without white space around it.
    pub fn text(&self) -> &str {
        self.stdout.trim()
    }

    /// Its standard output as JSON.
    ///
    /// # Panics
    /// If it is none.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("no JSON ({e}): {self}"))
    }
}
