//! A process's standard streams: where the caller wants them, what the process gets, and what the shim does
//! in between.
//!
//! | caller's words | the process gets | the shim |
//! |---|---|---|
//! | empty | `/dev/null` | nothing |
//! | path of a fifo | the fifo itself | holds the other end open, so that a dying reader or writer breaks nothing |
//! | `file:///path` | the file, appending | nothing |
//! | `binary:///path?k=v` | a pipe to that program | starts and reaps the program |
//! | any of these and a terminal | a pty | copies between the pty and them ([`relay`]) |
//! | `attach:///dir?log=…` | pipes or a pty | writes the log ([`log`]) and serves the attach socket ([`attach`]) |
//!
//! Nothing here blocks: a full log reader or a slow client holds its own container back, never the shim.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::event::PollFlags;
use rustix::fs::OFlags;
use rustix::termios::Winsize;

mod address;
pub mod attach;
pub mod console;
pub mod log;
mod logger;
mod relay;

use attach::Attached;
use relay::Relay;

/// What a caller asks for.
#[derive(Clone, Default, Debug)]
pub struct Wanted {
    /// Whether the process gets a terminal.
    pub terminal: bool,
    /// Where input comes from.
    pub stdin: String,
    /// Where output goes.
    pub stdout: String,
    /// Where error output goes.
    pub stderr: String,
}

/// Whose streams they are, for names of sockets and a logger's environment.
#[derive(Clone, Copy, Debug)]
pub struct Owner<'a> {
    /// containerd's namespace.
    pub namespace: &'a str,
    /// The container.
    pub container: &'a str,
    /// The exec, or none for the container's first process.
    pub exec: Option<&'a str>,
    /// Who owns new pipes.
    pub uid: u32,
    /// Who owns new pipes.
    pub gid: u32,
}

/// Streams that can't be had.
#[derive(Debug, thiserror::Error)]
pub enum StdioError {
    /// A path that can't be opened.
    #[error("cannot open `{}` for {stream}", path.display())]
    Open {
        /// `stdin`, `stdout` or `stderr`.
        stream: &'static str,
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A scheme that is none of ours.
    #[error("unsupported {stream} `{address}`: use a fifo's path, file://, binary:// or attach:")]
    Scheme {
        /// `stdin`, `stdout` or `stderr`.
        stream: &'static str,
        /// As given.
        address: String,
    },
    /// A part of an `attach:` address that makes no sense.
    #[error("bad attach address `{address}`: {reason}")]
    Attach {
        /// As given.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The log's file can't be opened, or the service that it goes to can't be reached.
    #[error("failed to initialize logging driver")]
    Log {
        /// Why.
        source: io::Error,
    },
    /// The attach socket, a pipe or the logger could not be made.
    #[error("cannot make {what}")]
    Make {
        /// What.
        what: String,
        /// Why.
        source: io::Error,
    },
}

impl StdioError {
    fn log(source: io::Error) -> StdioError {
        StdioError::Log { source }
    }

    /// The class to report.
    pub fn class(&self) -> sampan_base::Class {
        use sampan_base::Class;
        match self {
            StdioError::Open { source, .. }
            | StdioError::Log { source }
            | StdioError::Make { source, .. } => sampan_base::error::class_of_io(source),
            StdioError::Scheme { .. } | StdioError::Attach { .. } => Class::Invalid,
        }
    }
}

/// One descriptor of a [`Stdio`] in the poll loop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Slot {
    /// The process's output, or a pty's.
    Stdout,
    /// The process's error output.
    Stderr,
    /// Room in the process's input.
    Stdin,
    /// A client's input, when it is relayed.
    Input,
    /// Room in the relayed output.
    Output,
    /// The service that the log goes to takes more.
    Log,
    /// A new attach client.
    Listener,
    /// An attach client.
    Client(u32),
}

/// What a [`Stdio`] waits for.
pub type Interest<'a> = (BorrowedFd<'a>, PollFlags, Slot);

/// What a process has as its standard input, output and error output; none stands for `/dev/null`.
pub type ChildEnds = [Option<OwnedFd>; 3];

/// A process's standard streams.
#[derive(Debug)]
pub struct Stdio {
    child: Option<ChildEnds>,
    way: Way,
}

#[derive(Debug)]
enum Way {
    /// The process has the caller's files themselves. `kept` are the other ends of fifos; `input` is the one that
    /// keeps a fifo for input from reaching its end.
    Direct {
        #[allow(dead_code)] // held, not used
        kept: Vec<OwnedFd>,
        input: Option<OwnedFd>,
    },
    Relay(Box<Relay>),
    Attached(Box<Attached>),
}

impl Stdio {
    /// Opens what `wanted` names.
    ///
    /// # Errors
    /// See [`StdioError`]; nothing stays open or bound then.
    pub fn open(wanted: &Wanted, owner: Owner<'_>) -> Result<Stdio, StdioError> {
        if wanted.stdout.starts_with("attach:") || wanted.stdin.starts_with("attach:") {
            let (attached, child) = Attached::open(wanted, owner)?;
            return Ok(Stdio { child, way: Way::Attached(Box::new(attached)) });
        }
        let input = match open_input(&wanted.stdin)? {
            Some(input) => input,
            None => Input { end: None, keeper: None },
        };
        let mut kept = Vec::new();
        if wanted.terminal {
            let output = open_output("stdout", &wanted.stdout, owner, &mut kept)?;
            let relay = Relay::new(input.end, input.keeper, output, kept);
            return Ok(Stdio { child: None, way: Way::Relay(Box::new(relay)) });
        }
        let [stdout, stderr] = match wanted.stdout.strip_prefix("binary://") {
            Some(program) if wanted.stderr == wanted.stdout => {
                logger::start(program, owner).map_err(make("a logger"))?.map(Some)
            }
            _ => {
                let stdout = open_output("stdout", &wanted.stdout, owner, &mut kept)?;
                let stderr = if wanted.stderr == wanted.stdout {
                    stdout.as_ref().map(OwnedFd::try_clone).transpose().map_err(make("a copy of stdout"))?
                } else {
                    open_output("stderr", &wanted.stderr, owner, &mut kept)?
                };
                [stdout, stderr]
            }
        };
        let child = [input.end, stdout, stderr];
        Ok(Stdio { child: Some(child), way: Way::Direct { kept, input: input.keeper } })
    }

    /// The process's ends, to be given to the runtime's command; none for a terminal, or a second time.
    pub fn take_child_ends(&mut self) -> Option<ChildEnds> {
        self.child.take()
    }

    /// The pty's master side has come from the runtime.
    ///
    /// # Errors
    /// If it can't be made non-blocking.
    pub fn set_terminal(&mut self, master: OwnedFd) -> io::Result<()> {
        nonblocking(&master)?;
        match &mut self.way {
            Way::Direct { .. } => {}
            Way::Relay(relay) => relay.set_terminal(master),
            Way::Attached(attached) => attached.set_terminal(master),
        }
        Ok(())
    }

    /// The process is about to start: clients that have connected before will see its first byte.
    pub fn before_start(&mut self) {
        if let Way::Attached(attached) = &mut self.way {
            attached.accept_all();
        }
    }

    /// Sets the terminal's size.
    ///
    /// # Errors
    /// If there is no terminal.
    pub fn resize(&self, width: u16, height: u16) -> io::Result<()> {
        let master = match &self.way {
            Way::Direct { .. } => None,
            Way::Relay(relay) => relay.terminal(),
            Way::Attached(attached) => attached.terminal(),
        };
        let Some(master) = master else {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "the process has no terminal"));
        };
        let size = Winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
        Ok(rustix::termios::tcsetwinsize(master, size)?)
    }

    /// Lets the process's input end when what was written has been read.
    pub fn close_stdin(&mut self) {
        match &mut self.way {
            Way::Direct { input, .. } => *input = None,
            Way::Relay(relay) => relay.close_input(),
            Way::Attached(attached) => attached.close_stdin(),
        }
    }

    /// Adds what to wait for.
    pub fn interests<'a>(&'a self, out: &mut Vec<Interest<'a>>) {
        match &self.way {
            Way::Direct { .. } => {}
            Way::Relay(relay) => relay.interests(out),
            Way::Attached(attached) => attached.interests(out),
        }
    }

    /// Does what `slot` is ready for. `buffer` is scratch space.
    pub fn ready(&mut self, slot: Slot, events: PollFlags, buffer: &mut [u8]) {
        match &mut self.way {
            Way::Direct { .. } => {}
            Way::Relay(relay) => relay.ready(slot, buffer),
            Way::Attached(attached) => attached.ready(slot, events, buffer),
        }
    }

    /// The process has exited: takes the output that is left, writes the log, and tells the clients that this is
    /// the end. Does not wait for others that hold the process's pipes.
    pub fn process_exited(&mut self, buffer: &mut [u8]) {
        self.child = None;
        match &mut self.way {
            Way::Direct { kept, input } => {
                // Nobody is left to be kept from a broken pipe, and readers shall see the end.
                kept.clear();
                *input = None;
            }
            Way::Relay(relay) => relay.process_exited(buffer),
            Way::Attached(attached) => attached.process_exited(buffer),
        }
    }
}

/// What the process reads from and what keeps it from ending.
struct Input {
    end: Option<OwnedFd>,
    keeper: Option<OwnedFd>,
}

fn open_input(address: &str) -> Result<Option<Input>, StdioError> {
    if address.is_empty() {
        return Ok(None);
    }
    let path = plain_path("stdin", address)?;
    let open = |write: bool| {
        // Non-blocking only to open: without a writer the open itself would wait.
        File::options()
            .read(!write)
            .write(write)
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
            .open(path)
            .map_err(|source| StdioError::Open { stream: "stdin", path: path.to_owned(), source })
    };
    let end = OwnedFd::from(open(false)?);
    let keeper = if is_fifo(&end) { Some(OwnedFd::from(open(true)?)) } else { None };
    blocking(&end).map_err(make("a blocking stdin"))?;
    Ok(Some(Input { end: Some(end), keeper }))
}

fn open_output(
    stream: &'static str,
    address: &str,
    owner: Owner<'_>,
    kept: &mut Vec<OwnedFd>,
) -> Result<Option<OwnedFd>, StdioError> {
    if address.is_empty() {
        return Ok(None);
    }
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| StdioError::Open { stream, path, source }
    };
    if let Some(program) = address.strip_prefix("binary://") {
        let [output, _] = logger::start(program, owner).map_err(make("a logger"))?;
        return Ok(Some(output));
    }
    if let Some(path) = address.strip_prefix("file://") {
        let path = Path::new(path.split('?').next().unwrap_or(path));
        if let Some(parent) = path.parent() {
            sampan_base::files::create_directories(parent, 0o711).map_err(|e| StdioError::Open {
                stream,
                path: e.path,
                source: e.source,
            })?;
        }
        let file = File::options().append(true).create(true).mode(0o644).open(path).map_err(failed(path))?;
        return Ok(Some(file.into()));
    }
    let path = plain_path(stream, address)?;
    let metadata = std::fs::metadata(path).map_err(failed(path))?;
    if !metadata.file_type().is_fifo() {
        return Ok(Some(File::options().append(true).open(path).map_err(failed(path))?.into()));
    }
    // The reading end first: with it open, opening the other end does not wait, and writes never fail.
    let reader = File::options()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
        .map_err(failed(path))?;
    let writer = File::options().write(true).open(path).map_err(failed(path))?;
    kept.push(reader.into());
    Ok(Some(writer.into()))
}

/// An address without scheme, or `fifo://`: a path.
fn plain_path<'a>(stream: &'static str, address: &'a str) -> Result<&'a Path, StdioError> {
    let path = address.strip_prefix("fifo://").unwrap_or(address);
    if path.starts_with('/') {
        Ok(Path::new(path))
    } else {
        Err(StdioError::Scheme { stream, address: address.to_owned() })
    }
}

fn make(what: &str) -> impl FnOnce(io::Error) -> StdioError {
    let what = what.to_owned();
    move |source| StdioError::Make { what, source }
}

fn is_fifo(fd: &OwnedFd) -> bool {
    rustix::fs::fstat(fd).is_ok_and(|s| rustix::fs::FileType::from_raw_mode(s.st_mode).is_fifo())
}

fn nonblocking(fd: &impl AsFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(fd)?;
    Ok(rustix::fs::fcntl_setfl(fd, flags | OFlags::NONBLOCK)?)
}

fn blocking(fd: &impl AsFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(fd)?;
    Ok(rustix::fs::fcntl_setfl(fd, flags - OFlags::NONBLOCK)?)
}

/// One read that does not wait.
enum Got {
    Bytes(usize),
    /// Nothing now.
    Later,
    /// Nothing ever again. A pty says so with EIO.
    End,
}

fn read(fd: &impl AsFd, buffer: &mut [u8]) -> Got {
    loop {
        match rustix::io::read(fd, &mut *buffer) {
            Ok(0) => return Got::End,
            Ok(n) => return Got::Bytes(n),
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => return Got::Later,
            Err(_) => return Got::End,
        }
    }
}

/// One write that does not wait: how many bytes, or `None` if the other side is gone.
fn write(fd: &impl AsFd, bytes: &[u8]) -> Option<usize> {
    loop {
        match rustix::io::write(fd, bytes) {
            Ok(n) => return Some(n),
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => return Some(0),
            Err(_) => return None,
        }
    }
}
