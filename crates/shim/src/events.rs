//! Events to containerd, in order: over ttrpc if there is an address, else through its publish program, else not.
//!
//! One event is under way at a time. If containerd is away, events wait, up to [`MAX_WAITING_EVENTS`]; the oldest go
//! first. A containerd that comes back asks for the state of each task anyway.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use prost::Message;
use rustix::event::PollFlags;
use sampan_rpc::events::{ForwardRequest, SERVICE};
use sampan_rpc::ttrpc::{self, Decoder, Streams};
use sampan_rpc::types::Envelope;

/// How many events wait for containerd to come back.
pub const MAX_WAITING_EVENTS: usize = 1024;
/// How long after a failure containerd is asked again.
pub const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Sends events.
#[derive(Debug)]
pub struct Publisher {
    namespace: String,
    way: Way,
    waiting: VecDeque<Envelope>,
    retry_at: Option<Instant>,
}

#[derive(Debug)]
enum Way {
    Nowhere,
    Ttrpc { socket: PathBuf, connection: Option<Connection>, streams: Streams },
    Program { path: PathBuf, address: String, child: Option<u32> },
}

#[derive(Debug)]
struct Connection {
    socket: UnixStream,
    decoder: Decoder,
    /// The frame under way; empty when it is the answer that is waited for.
    out: Vec<u8>,
    busy: bool,
}

impl Publisher {
    /// Chooses the way: `ttrpc_address` if it is not empty, else `program` if there is one and an address for it.
    pub fn new(namespace: &str, ttrpc_address: &str, program: &str, address: &str) -> Publisher {
        let way = if !ttrpc_address.is_empty() {
            let socket = crate::socket::path_of(ttrpc_address).to_owned();
            Way::Ttrpc { socket, connection: None, streams: Streams::default() }
        } else if !program.is_empty() && !address.is_empty() {
            Way::Program { path: program.into(), address: address.to_owned(), child: None }
        } else {
            Way::Nowhere
        };
        Publisher { namespace: namespace.to_owned(), way, waiting: VecDeque::new(), retry_at: None }
    }

    /// Sends `event` after those before it.
    pub fn publish<M: prost::Name>(&mut self, topic: &str, event: &M) {
        if matches!(self.way, Way::Nowhere) {
            return;
        }
        if self.waiting.len() >= MAX_WAITING_EVENTS {
            crate::note("containerd takes no events: the oldest is dropped");
            self.waiting.pop_front();
        }
        self.waiting.push_back(Envelope {
            timestamp: Some(SystemTime::now().into()),
            namespace: self.namespace.clone(),
            topic: topic.to_owned(),
            event: Some(sampan_rpc::pack(event)),
        });
        if self.retry_at.is_none() {
            self.send_next();
        }
    }

    /// Whether there is nothing left to send, or nobody to send it to.
    pub fn is_settled(&self) -> bool {
        self.waiting.is_empty() || self.retry_at.is_some()
    }

    /// When [`Publisher::tick`] wants to be called; none if something else will happen first.
    pub fn deadline(&self) -> Option<Instant> {
        self.retry_at.filter(|_| !self.waiting.is_empty())
    }

    /// Tries again if it is time.
    pub fn tick(&mut self) {
        if self.deadline().is_some_and(|at| at <= Instant::now()) {
            self.retry_at = None;
            self.send_next();
        }
    }

    /// What to wait for.
    pub fn interest(&self) -> Option<(std::os::fd::BorrowedFd<'_>, PollFlags)> {
        let Way::Ttrpc { connection: Some(connection), .. } = &self.way else { return None };
        let events = if connection.out.is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
        Some((connection.socket.as_fd(), events))
    }

    /// Does what the connection is ready for.
    pub fn ready(&mut self) {
        let Way::Ttrpc { connection: Some(connection), .. } = &mut self.way else { return };
        match connection.step() {
            Ok(true) => {
                self.waiting.pop_front();
                self.send_next();
            }
            Ok(false) => {}
            Err(error) => self.lost(&error),
        }
    }

    /// A child has been reaped; true if it was the publish program.
    pub fn reaped(&mut self, pid: u32) -> bool {
        let Way::Program { child, .. } = &mut self.way else { return false };
        if *child != Some(pid) {
            return false;
        }
        // A program that failed has said so itself; asking again would put events out of order with nothing gained.
        *child = None;
        self.waiting.pop_front();
        self.send_next();
        true
    }

    fn send_next(&mut self) {
        let Some(envelope) = self.waiting.front() else { return };
        let sent = match &mut self.way {
            Way::Nowhere => Ok(()),
            Way::Ttrpc { socket, connection, streams } => (|| {
                let connection = match connection {
                    Some(connection) => connection,
                    None => connection.insert(Connection::open(socket)?),
                };
                if connection.busy {
                    return Ok(());
                }
                let request = ForwardRequest { envelope: Some(envelope.clone()) };
                connection.out = ttrpc::request(streams.next(), SERVICE, "Forward", &request, 0)
                    .map_err(std::io::Error::other)?;
                connection.busy = true;
                connection.push()
            })(),
            Way::Program { path, address, child } if child.is_none() => {
                run_program(path, address, envelope).map(|pid| *child = Some(pid))
            }
            Way::Program { .. } => Ok(()),
        };
        if let Err(error) = sent {
            self.lost(&error);
        }
    }

    fn lost(&mut self, error: &std::io::Error) {
        crate::note(&format!("cannot publish to containerd, {} waiting: {error}", self.waiting.len()));
        if let Way::Ttrpc { connection, .. } = &mut self.way {
            *connection = None;
        }
        if !self.waiting.is_empty() {
            self.retry_at = Some(Instant::now() + RETRY_AFTER);
        }
    }
}

impl Connection {
    fn open(path: &std::path::Path) -> std::io::Result<Connection> {
        let socket = crate::socket::connect(path)?;
        socket.set_nonblocking(true)?;
        Ok(Connection { socket, decoder: Decoder::default(), out: Vec::new(), busy: false })
    }

    fn push(&mut self) -> std::io::Result<()> {
        while !self.out.is_empty() {
            match self.socket.write(&self.out) {
                Ok(n) => {
                    self.out.drain(..n);
                }
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Writes and reads what is possible. True if the answer to the event under way has come.
    fn step(&mut self) -> std::io::Result<bool> {
        self.push()?;
        let mut buffer = [0u8; 4096];
        match self.socket.read(&mut buffer) {
            Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => self.decoder.push(&buffer[..n]),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
        match self.decoder.next_frame() {
            Ok(None) => Ok(false),
            Ok(Some(frame)) => {
                self.busy = false;
                if let Err(failure) = ttrpc::answer::<()>(&frame) {
                    crate::note(&format!("containerd refused an event: {failure}"));
                }
                Ok(true)
            }
            Err(error) => Err(std::io::Error::other(error)),
        }
    }
}

/// Starts `containerd publish` for one event, which fits into the pipe.
fn run_program(path: &std::path::Path, address: &str, envelope: &Envelope) -> std::io::Result<u32> {
    let mut child = Command::new(path)
        .args([
            "--address",
            address,
            "publish",
            "--topic",
            &envelope.topic,
            "--namespace",
            &envelope.namespace,
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let event = envelope.event.as_ref().map(Message::encode_to_vec).unwrap_or_default();
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(&event)?;
    }
    Ok(child.id())
}
