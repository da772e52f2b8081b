//! `attach:`, the way of our own engine: the shim holds the process's pipes or pty, writes Docker's log, and serves
//! a unix socket whose clients see the output and may give input.
//!
//! ```text
//! client                          shim
//!   | {"stdin":true,"stdout":true,"stderr":true}\n  |   one line says what it wants ("stdin_once" too)
//!   |------------------------------>|
//!   | bytes for stdin ------------->|   with "stdin_once", the end of these is the end of the process's input
//!   |<---------- output             |   1 byte stream 1|2, 3 zeros, 4 bytes big-endian length, payload; from a
//!   |<---------- end                |   terminal, the plain bytes. After the process's exit: all of it, then the end;
//!                                       a client that comes later has the end after its first line
//! ```
//! The socket is `<dir>/attach.sock`, or `<dir>/attach-<exec>.sock`. It is there when Create or Exec returns, and
//! goes with Delete. A client that has connected before Start sees the first byte. A client that does not read
//! holds the process back after [`MAX_CLIENT_BACKLOG_BYTES`]; one that goes away is forgotten. The process's
//! others that hold its pipes after its exit may still write into them; that is dropped.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use rustix::event::PollFlags;
use sampan_base::Timestamp;

use super::address::Address;
use super::log::{Log, Stream};
use super::{ChildEnds, Got, Interest, Owner, Slot, StdioError, Wanted, make, nonblocking, read, write};

/// How much output waits for one client before the process has to wait as well.
pub const MAX_CLIENT_BACKLOG_BYTES: usize = 1 << 20;
/// How much input waits for the process before clients have to wait as well.
pub const MAX_INPUT_BACKLOG_BYTES: usize = 64 << 10;
/// How many clients one process may have.
pub const MAX_CLIENTS: usize = 64;
/// The longest first line of a client.
const MAX_HELLO_BYTES: usize = 4096;

/// A process's streams, its log and its clients.
#[derive(Debug)]
pub(super) struct Attached {
    path: PathBuf,
    listener: UnixListener,
    clients: Vec<Client>,
    next_client: u32,
    log: Option<Log>,
    terminal: bool,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    stdin: Input,
    exited: bool,
}

/// The process's input. With a terminal, it is the pty, which is `stdout`.
#[derive(Debug)]
struct Input {
    /// The pipe; none for a terminal, or when closed.
    pipe: Option<OwnedFd>,
    open: bool,
    backlog: Vec<u8>,
    /// Close when the backlog has been read.
    closing: bool,
}

/// What a client says first.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Hello {
    /// It will send input.
    pub stdin: bool,
    /// It wants output.
    pub stdout: bool,
    /// It wants error output.
    pub stderr: bool,
    /// The end of its input is the end of the process's.
    pub stdin_once: bool,
}

#[derive(Debug)]
struct Client {
    id: u32,
    socket: UnixStream,
    /// What has come of the first line.
    greeting: Vec<u8>,
    hello: Option<Hello>,
    backlog: Vec<u8>,
    sent: usize,
    /// Its input has ended.
    input_ended: bool,
}

impl Attached {
    /// Binds the socket, opens the log and makes the pipes.
    pub(super) fn open(
        wanted: &Wanted,
        owner: Owner<'_>,
    ) -> Result<(Attached, Option<ChildEnds>), StdioError> {
        let address = Address::parse(&wanted.stdout)?;
        let name = match owner.exec {
            Some(exec) => format!("attach-{exec}.sock"),
            None => "attach.sock".to_owned(),
        };
        let log = address.log.map(Log::open).transpose().map_err(StdioError::log)?;
        let path = address.directory.join(name);
        // One of a shim that died may be left; a living one is not possible: the bundle is this shim's.
        let _ = std::fs::remove_file(&path);
        let listener = crate::socket::listen(&path).map_err(make(&format!("`{}`", path.display())))?;
        let mut attached = Attached {
            path,
            listener,
            clients: Vec::new(),
            next_client: 0,
            log,
            terminal: wanted.terminal,
            stdout: None,
            stderr: None,
            stdin: Input { pipe: None, open: !wanted.stdin.is_empty(), backlog: Vec::new(), closing: false },
            exited: false,
        };
        if wanted.terminal {
            return Ok((attached, None));
        }
        let child = attached.make_pipes(owner).map_err(make("pipes"))?;
        Ok((attached, Some(child)))
    }

    /// Makes the pipes and returns the process's ends.
    fn make_pipes(&mut self, owner: Owner<'_>) -> io::Result<ChildEnds> {
        let stdin = if self.stdin.open {
            let (reader, writer) = io::pipe()?;
            nonblocking(&writer)?;
            own(&reader, owner)?;
            self.stdin.pipe = Some(writer.into());
            Some(OwnedFd::from(reader))
        } else {
            None
        };
        let output = |source: &mut Option<OwnedFd>| {
            let (reader, writer) = io::pipe()?;
            nonblocking(&reader)?;
            own(&writer, owner)?;
            *source = Some(reader.into());
            io::Result::Ok(Some(OwnedFd::from(writer)))
        };
        Ok([stdin, output(&mut self.stdout)?, output(&mut self.stderr)?])
    }

    pub(super) fn set_terminal(&mut self, master: OwnedFd) {
        self.stdout = Some(master);
    }

    pub(super) fn terminal(&self) -> Option<&OwnedFd> {
        self.stdout.as_ref().filter(|_| self.terminal)
    }

    pub(super) fn interests<'a>(&'a self, out: &mut Vec<Interest<'a>>) {
        out.push((self.listener.as_fd(), PollFlags::IN, Slot::Listener));
        let held_back = self.clients.iter().any(|c| c.waiting() >= MAX_CLIENT_BACKLOG_BYTES);
        if !held_back || self.exited {
            for (source, slot) in [(&self.stdout, Slot::Stdout), (&self.stderr, Slot::Stderr)] {
                if let Some(source) = source {
                    out.push((source.as_fd(), PollFlags::IN, slot));
                }
            }
        }
        if !self.stdin.backlog.is_empty()
            && let Some(sink) = self.input_sink()
        {
            out.push((sink.as_fd(), PollFlags::OUT, Slot::Stdin));
        }
        if let Some((service, events)) = self.log.as_ref().and_then(Log::interest) {
            out.push((service, events, Slot::Log));
        }
        let room = self.stdin.backlog.len() < MAX_INPUT_BACKLOG_BYTES;
        for client in &self.clients {
            let mut events = PollFlags::empty();
            if !client.input_ended && (room || client.hello.is_none()) {
                events |= PollFlags::IN;
            }
            if client.waiting() > 0 {
                events |= PollFlags::OUT;
            }
            out.push((client.socket.as_fd(), events, Slot::Client(client.id)));
        }
    }

    pub(super) fn ready(&mut self, slot: Slot, events: PollFlags, buffer: &mut [u8]) {
        match slot {
            Slot::Stdout => {
                self.pull(Stream::Stdout, buffer);
            }
            Slot::Stderr => {
                self.pull(Stream::Stderr, buffer);
            }
            Slot::Stdin => self.feed(),
            Slot::Listener => self.accept_all(),
            Slot::Client(id) => self.client_ready(id, events, buffer),
            Slot::Log => {
                if let Some(log) = &mut self.log {
                    log.ready();
                }
            }
            Slot::Input | Slot::Output => {}
        }
    }

    /// Takes every client that has connected, and what it has said so far.
    pub(super) fn accept_all(&mut self) {
        while let Ok((socket, _)) = self.listener.accept() {
            if self.clients.len() >= MAX_CLIENTS || socket.set_nonblocking(true).is_err() {
                end_connection(&socket);
                continue;
            }
            let id = self.next_client;
            self.next_client = self.next_client.wrapping_add(1);
            self.clients.push(Client {
                id,
                socket,
                greeting: Vec::new(),
                hello: None,
                backlog: Vec::new(),
                sent: 0,
                input_ended: false,
            });
            let mut buffer = [0u8; MAX_HELLO_BYTES];
            self.client_ready(id, PollFlags::IN, &mut buffer);
        }
        for client in self.clients.iter().filter(|c| c.hello.is_none()).map(|c| c.id).collect::<Vec<_>>() {
            self.client_ready(client, PollFlags::IN, &mut [0u8; MAX_HELLO_BYTES]);
        }
    }

    pub(super) fn close_stdin(&mut self) {
        self.stdin.closing = true;
        self.feed();
    }

    pub(super) fn process_exited(&mut self, buffer: &mut [u8]) {
        while self.pull(Stream::Stdout, buffer) {}
        while self.pull(Stream::Stderr, buffer) {}
        if let Some(log) = &mut self.log {
            log.end();
        }
        self.exited = true;
        self.stdin.open = false;
        self.stdin.pipe = None;
        self.stdin.backlog = Vec::new();
        for id in self.clients.iter().map(|c| c.id).collect::<Vec<_>>() {
            self.flush(id);
        }
    }

    /// One read from an output, to the log and to the clients. False if there was nothing.
    fn pull(&mut self, stream: Stream, buffer: &mut [u8]) -> bool {
        let source = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        let Some(fd) = source else { return false };
        let bytes = match read(fd, buffer) {
            Got::Bytes(n) => &buffer[..n],
            Got::Later => return false,
            Got::End => {
                *source = None;
                return false;
            }
        };
        if self.exited {
            return true; // from one that has outlived the process
        }
        if let Some(log) = &mut self.log {
            log.write(stream, bytes, Timestamp::now());
        }
        let wants =
            |c: &Client| c.hello.is_some_and(|h| if stream == Stream::Stdout { h.stdout } else { h.stderr });
        for client in self.clients.iter_mut().filter(|c| wants(c)) {
            if !self.terminal {
                // The buffer is far below 4 GiB.
                let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes();
                client.backlog.extend_from_slice(&[stream as u8 + 1, 0, 0, 0]);
                client.backlog.extend_from_slice(&length);
            }
            client.backlog.extend_from_slice(bytes);
        }
        for id in self.clients.iter().filter(|c| wants(c)).map(|c| c.id).collect::<Vec<_>>() {
            self.flush(id);
        }
        true
    }

    fn client_ready(&mut self, id: u32, events: PollFlags, buffer: &mut [u8]) {
        if events.intersects(PollFlags::OUT) {
            self.flush(id);
        }
        if events.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            self.listen_to(id, events, buffer);
        }
    }

    fn listen_to(&mut self, id: u32, events: PollFlags, buffer: &mut [u8]) {
        let Some(at) = self.clients.iter().position(|c| c.id == id) else { return };
        let client = &mut self.clients[at];
        match client.socket.read(buffer) {
            Ok(0) => {
                client.input_ended = true;
                let once = client.hello.is_some_and(|h| h.stdin && h.stdin_once);
                let gone = events.intersects(PollFlags::HUP | PollFlags::ERR) || client.hello.is_none();
                if gone {
                    self.clients.remove(at);
                }
                if once && !self.terminal {
                    self.close_stdin();
                }
            }
            Ok(n) => self.take_input(at, &buffer[..n]),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => {
                self.clients.remove(at);
            }
        }
    }

    /// Bytes from the client at index `at`: its first line, then input.
    fn take_input(&mut self, at: usize, bytes: &[u8]) {
        let client = &mut self.clients[at];
        let Some(hello) = client.hello else {
            client.greeting.extend_from_slice(bytes);
            let Some(end) = client.greeting.iter().position(|b| *b == b'\n') else {
                if client.greeting.len() >= MAX_HELLO_BYTES {
                    self.clients.remove(at);
                }
                return;
            };
            let greeting = std::mem::take(&mut client.greeting);
            match serde_json::from_slice::<Hello>(&greeting[..end]) {
                Ok(hello) => {
                    client.hello = Some(hello);
                    let id = client.id;
                    self.take_input(at, &greeting[end + 1..]);
                    self.flush(id);
                }
                Err(_) => {
                    self.clients.remove(at);
                }
            }
            return;
        };
        if hello.stdin && self.stdin.open && !self.stdin.closing && !bytes.is_empty() {
            self.stdin.backlog.extend_from_slice(bytes);
            self.feed();
        }
    }

    fn input_sink(&self) -> Option<&OwnedFd> {
        if self.terminal { self.stdout.as_ref() } else { self.stdin.pipe.as_ref() }
    }

    /// Writes input to the process as far as it has room.
    fn feed(&mut self) {
        let sink = if self.terminal { self.stdout.as_ref() } else { self.stdin.pipe.as_ref() };
        if let Some(sink) = sink
            && !self.stdin.backlog.is_empty()
        {
            match write(sink, &self.stdin.backlog) {
                Some(n) => {
                    self.stdin.backlog.drain(..n);
                }
                None => {
                    // The process has closed its input: what comes for it is dropped.
                    self.stdin.backlog = Vec::new();
                    self.stdin.open = false;
                }
            }
        }
        if self.stdin.backlog.is_empty() {
            self.stdin.backlog = Vec::new(); // give a large paste's memory back
            if self.stdin.closing && !self.terminal {
                self.stdin.pipe = None;
                self.stdin.open = false;
            }
        }
    }

    /// Sends a client what waits for it, and ends its connection if that was all.
    fn flush(&mut self, id: u32) {
        let Some(at) = self.clients.iter().position(|c| c.id == id) else { return };
        let client = &mut self.clients[at];
        while client.waiting() > 0 {
            match client.socket.write(&client.backlog[client.sent..]) {
                Ok(n) => client.sent += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    // Moved up only now and then: the copying stays a small part of the sending.
                    if client.sent > MAX_INPUT_BACKLOG_BYTES {
                        client.backlog.drain(..client.sent);
                        client.sent = 0;
                    }
                    return;
                }
                Err(_) => {
                    self.clients.remove(at);
                    return;
                }
            }
        }
        client.sent = 0;
        client.backlog.clear();
        client.backlog.shrink_to(MAX_INPUT_BACKLOG_BYTES);
        // Who has not yet said what it wants is let finish: its write must not fail.
        if self.exited && client.hello.is_some() {
            end_connection(&client.socket);
            self.clients.remove(at);
        }
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path); // it may be gone with its directory
    }
}

impl Client {
    fn waiting(&self) -> usize {
        self.backlog.len() - self.sent
    }
}

/// Ends a connection so that the client sees its end and no error: closing a socket with unread bytes in it would
/// give the client ECONNRESET instead, so no more may come, and what has come is read first.
fn end_connection(mut socket: &UnixStream) {
    let _ = socket.shutdown(std::net::Shutdown::Both);
    let _ = socket.set_nonblocking(true);
    let mut rest = [0u8; 4096];
    while matches!(socket.read(&mut rest), Ok(n) if n > 0) {}
}

fn own(fd: &impl AsFd, owner: Owner<'_>) -> io::Result<()> {
    if owner.uid == 0 && owner.gid == 0 {
        return Ok(());
    }
    let (uid, gid) = (rustix::fs::Uid::from_raw(owner.uid), rustix::fs::Gid::from_raw(owner.gid));
    Ok(rustix::fs::fchown(fd, Some(uid), Some(gid))?)
}
