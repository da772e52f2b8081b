//! The thread that answers containers' questions, and asks others what it does not know.
//!
//! ```text
//! a container's socket readable: answer, or ask the first server (a socket of its own for each question)
//! a server's answer:             pass it on if it is to this question, with the container's own id
//! a server refuses or is silent: ask the next one; after the last, say that it failed
//! ```
//! Questions are asked from where the server's address means something: of the host's own loopback from the host, of all
//! others from within the container, whose rules and routes then hold for them. The id and the port of each question are
//! picked at random, so that nobody answers in a server's place by guessing.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, epoll, eventfd};
use sampan_kernel::netns;

use super::wire::{self, Code, Query};
use super::zones::{Decision, Server, Zones};

/// How long one server is waited for.
const PATIENCE: Duration = Duration::from_millis(2500);
/// How many servers are asked, one after the other: clients give up after some seconds.
const MAX_SERVERS: usize = 3;
/// How many questions may be open at once; more are told that it failed.
const MAX_OPEN: usize = 1024;
/// How many of them may be of one container, so that it can't take the others' places.
const MAX_OPEN_OF_ONE: usize = 256;
/// How many clients may speak TCP at once.
const MAX_STREAMS: usize = 32;
/// How long a client that speaks TCP may be silent.
const STREAM_PATIENCE: Duration = Duration::from_secs(10);
/// Messages read from one socket before others get their turn.
const BATCH: usize = 32;
/// The longest message over UDP.
const MAX_DATAGRAM: usize = 65_535;
const STACK_BYTES: usize = 256 << 10;

/// The server, as the rest of the crate holds it.
#[derive(Debug)]
pub(crate) struct Names {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    zones: Mutex<Zones>,
    served: Mutex<BTreeSet<String>>,
    commands: Mutex<Vec<Command>>,
    /// Readable when there are commands.
    wake: OwnedFd,
    streams: AtomicUsize,
}

#[derive(Debug)]
enum Command {
    Listen { key: String, udp: UdpSocket, tcp: TcpListener, namespace: PathBuf },
    Hush { key: String },
    End,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind the locks is whole whenever a lock is released.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Names {
    /// A server that serves nobody yet: its thread starts with the first.
    pub(crate) fn new() -> io::Result<Names> {
        let shared = Shared {
            zones: Mutex::default(),
            served: Mutex::default(),
            commands: Mutex::default(),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            streams: AtomicUsize::new(0),
        };
        Ok(Names { shared: Arc::new(shared), thread: Mutex::default() })
    }

    /// What is known; held for look-ups and changes only.
    pub(crate) fn zones(&self) -> MutexGuard<'_, Zones> {
        lock(&self.shared.zones)
    }

    /// Whether `key` is served.
    pub(crate) fn serves(&self, key: &str) -> bool {
        lock(&self.shared.served).contains(key)
    }

    /// Serves `key` at these sockets.
    pub(crate) fn listen(
        &self,
        key: &str,
        udp: UdpSocket,
        tcp: TcpListener,
        namespace: PathBuf,
    ) -> io::Result<()> {
        let mut thread = lock(&self.thread);
        if thread.is_none() {
            let mut server = Loop::new(Arc::clone(&self.shared))?;
            let builder = std::thread::Builder::new().name("dns".into()).stack_size(STACK_BYTES);
            *thread = Some(builder.spawn(move || server.run())?);
        }
        lock(&self.shared.served).insert(key.to_owned());
        self.shared.send(Command::Listen { key: key.to_owned(), udp, tcp, namespace });
        Ok(())
    }

    /// Serves `key` no more.
    pub(crate) fn hush(&self, key: &str) {
        self.zones().dismiss(key);
        if lock(&self.shared.served).remove(key) {
            self.shared.send(Command::Hush { key: key.to_owned() });
        }
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        self.shared.send(Command::End);
        if let Some(thread) = lock(&self.thread).take() {
            let _ = thread.join(); // if it panicked, that has been told
        }
    }
}

impl Shared {
    fn send(&self, command: Command) {
        lock(&self.commands).push(command);
        // Full is readable, too.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }
}

/// What the thread has.
struct Loop {
    shared: Arc<Shared>,
    epoll: OwnedFd,
    next: u64,
    listeners: HashMap<u64, Listener>,
    open: HashMap<u64, Open>,
    deadlines: BTreeMap<(Instant, u64), ()>,
    /// Given up for a moment when the descriptor table is full, so that a client that can't be served can be sent away:
    /// left waiting, it would wake this thread for ever.
    spare: Option<OwnedFd>,
}

struct Listener {
    key: String,
    namespace: PathBuf,
    socket: Socket,
}

enum Socket {
    Udp(Arc<UdpSocket>),
    Tcp(TcpListener),
}

/// A question that somebody else is asked.
struct Open {
    key: String,
    namespace: PathBuf,
    client: SocketAddr,
    reply: Arc<UdpSocket>,
    query: Query,
    bytes: Vec<u8>,
    servers: VecDeque<Server>,
    asked: Option<(UdpSocket, u16)>,
    deadline: Instant,
}

/// The eventfd's number among what is waited for.
const WAKE: u64 = 0;

impl Loop {
    fn new(shared: Arc<Shared>) -> io::Result<Loop> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &shared.wake, epoll::EventData::new_u64(WAKE), epoll::EventFlags::IN)?;
        let (listeners, open, deadlines) = (HashMap::new(), HashMap::new(), BTreeMap::new());
        let spare = spare();
        Ok(Loop { shared, epoll, next: WAKE + 1, listeners, open, deadlines, spare })
    }

    fn run(&mut self) {
        let mut buffer = vec![0u8; MAX_DATAGRAM];
        let mut events: Vec<epoll::Event> = Vec::with_capacity(64);
        loop {
            let limit = self.deadlines.first_key_value().map(|((at, _), ())| {
                let left = at.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
                rustix::time::Timespec {
                    tv_sec: left.as_secs().cast_signed(),
                    tv_nsec: left.subsec_nanos().into(),
                }
            });
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), limit.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                // Nothing that this thread does can make the kernel say so; without events there is nothing to do.
                Err(_) => return,
            }
            for event in &events {
                let number = event.data.u64();
                if number == WAKE {
                    if self.obey() {
                        return;
                    }
                } else if self.listeners.contains_key(&number) {
                    self.serve(number, &mut buffer);
                } else {
                    self.receive(number, &mut buffer);
                }
            }
            self.expire();
        }
    }

    /// Does what is commanded; true: ends.
    fn obey(&mut self) -> bool {
        let _ = rustix::io::read(&self.shared.wake, &mut [0u8; 8]);
        let commands = std::mem::take(&mut *lock(&self.shared.commands));
        for command in commands {
            match command {
                Command::End => return true,
                Command::Hush { key } => self.hush(&key),
                Command::Listen { key, udp, tcp, namespace } => {
                    self.hush(&key);
                    for socket in [Socket::Udp(Arc::new(udp)), Socket::Tcp(tcp)] {
                        let number = self.number();
                        if self.watch(&socket, number).is_ok() {
                            let (key, namespace) = (key.clone(), namespace.clone());
                            self.listeners.insert(number, Listener { key, namespace, socket });
                        }
                    }
                }
            }
        }
        false
    }

    fn watch(&self, socket: &Socket, number: u64) -> io::Result<()> {
        let fd = match socket {
            Socket::Udp(socket) => socket.as_fd(),
            Socket::Tcp(socket) => socket.as_fd(),
        };
        Ok(epoll::add(&self.epoll, fd, epoll::EventData::new_u64(number), epoll::EventFlags::IN)?)
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn hush(&mut self, key: &str) {
        // A closed socket is no longer waited for.
        self.listeners.retain(|_, listener| listener.key != key);
        self.open.retain(|number, open| {
            let goes = open.key == key;
            if goes {
                self.deadlines.remove(&(open.deadline, *number));
            }
            !goes
        });
    }

    fn serve(&mut self, number: u64, buffer: &mut [u8]) {
        let Some(listener) = self.listeners.get(&number) else { return };
        let (key, namespace) = (listener.key.clone(), listener.namespace.clone());
        match &listener.socket {
            Socket::Tcp(socket) => match socket.accept() {
                Ok((stream, _)) => serve_stream(&self.shared, key, namespace, stream),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => {
                    self.spare = None;
                    drop(socket.accept());
                    self.spare = spare();
                }
            },
            Socket::Udp(socket) => {
                let socket = Arc::clone(socket);
                for _ in 0..BATCH {
                    let Ok((length, client)) = socket.recv_from(buffer) else { return };
                    let bytes = &buffer[..length];
                    let decision = lock(&self.shared.zones).decide(&key, bytes, None);
                    match decision {
                        Decision::Ignore => {}
                        Decision::Answer(answer) => drop(socket.send_to(&answer, client)),
                        Decision::Forward(query) => {
                            let open = Open {
                                key: key.clone(),
                                namespace: namespace.clone(),
                                client,
                                reply: Arc::clone(&socket),
                                query,
                                bytes: bytes.to_vec(),
                                servers: self.shared.servers(&key),
                                asked: None,
                                deadline: Instant::now(),
                            };
                            let busy = self.open.len() >= MAX_OPEN
                                || self.open.values().filter(|o| o.key == key).count() >= MAX_OPEN_OF_ONE;
                            if open.servers.is_empty() {
                                // Nobody is to be asked, so what is not known here does not exist.
                                open.refuse(Code::NoName);
                            } else if busy {
                                open.refuse(Code::Failed);
                            } else {
                                self.ask(open);
                            }
                        }
                    }
                }
            }
        }
    }

    /// Asks the next server, until one can be asked.
    fn ask(&mut self, mut open: Open) {
        while let Some(server) = open.servers.pop_front() {
            let Ok((socket, id)) = send_question(server, &open.namespace, &open.bytes) else { continue };
            let number = self.number();
            let event = epoll::EventData::new_u64(number);
            if epoll::add(&self.epoll, &socket, event, epoll::EventFlags::IN).is_err() {
                continue;
            }
            open.asked = Some((socket, id));
            open.deadline = Instant::now() + PATIENCE;
            self.deadlines.insert((open.deadline, number), ());
            self.open.insert(number, open);
            return;
        }
        open.refuse(Code::Failed);
    }

    fn receive(&mut self, number: u64, buffer: &mut [u8]) {
        let Some((socket, id)) = self.open.get(&number).and_then(|open| open.asked.as_ref()) else { return };
        let length = match socket.recv(buffer) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            // Nobody listens there.
            Err(_) => return self.next_server(number),
        };
        let expected = *id;
        let Some(open) = self.open.get(&number) else { return };
        let answer = &mut buffer[..length];
        let ours = answer.get(..2) == Some(&expected.to_be_bytes()[..])
            && wire::answers(answer, &open.bytes, open.query.end());
        if !ours {
            return; // somebody guesses; the true answer may still come
        }
        answer[..2].copy_from_slice(&open.query.id.to_be_bytes());
        let _ = open.reply.send_to(answer, open.client);
        self.close(number);
    }

    fn close(&mut self, number: u64) -> Option<Open> {
        let open = self.open.remove(&number)?;
        self.deadlines.remove(&(open.deadline, number));
        Some(open)
    }

    fn next_server(&mut self, number: u64) {
        if let Some(open) = self.close(number) {
            self.ask(open);
        }
    }

    fn expire(&mut self) {
        let now = Instant::now();
        while let Some(((at, number), ())) = self.deadlines.first_key_value().map(|(k, v)| (*k, *v)) {
            if at > now {
                return;
            }
            self.deadlines.remove(&(at, number));
            self.next_server(number);
        }
    }
}

impl Shared {
    /// Whom to ask for `key`.
    fn servers(&self, key: &str) -> VecDeque<Server> {
        lock(&self.zones).servers(key).into_iter().take(MAX_SERVERS).collect()
    }
}

impl Open {
    /// Tells the client that there is no answer.
    fn refuse(&self, code: Code) {
        let answer = self.query.answer(&self.bytes, code, &[], 0, self.query.limit());
        let _ = self.reply.send_to(&answer, self.client);
    }
}

fn spare() -> Option<OwnedFd> {
    eventfd(0, EventfdFlags::CLOEXEC).ok()
}

/// Runs `work` where a server is asked from.
fn at_server<T: Send>(
    server: Server,
    namespace: &Path,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    if server.from_host { work() } else { netns::within(netns::open(namespace)?.as_fd(), work) }
}

fn send_question(server: Server, namespace: &Path, bytes: &[u8]) -> io::Result<(UdpSocket, u16)> {
    let mut random = [0u8; 2];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
    let mut question = bytes.to_vec();
    question[..2].copy_from_slice(&random); // a question has a header
    let socket = at_server(server, namespace, || {
        let any: SocketAddr = match server.address {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = UdpSocket::bind(any)?;
        socket.set_nonblocking(true)?;
        socket.connect(server.address)?;
        socket.send(&question)?;
        Ok(socket)
    })?;
    Ok((socket, u16::from_be_bytes(random)))
}

/// Serves a client that speaks TCP on a thread of its own, if there are not too many.
fn serve_stream(shared: &Arc<Shared>, key: String, namespace: PathBuf, stream: TcpStream) {
    if shared.streams.fetch_add(1, Ordering::Relaxed) >= MAX_STREAMS {
        shared.streams.fetch_sub(1, Ordering::Relaxed);
        return; // dropped, it is closed
    }
    let theirs = Arc::clone(shared);
    let started =
        std::thread::Builder::new().name("dns-tcp".into()).stack_size(STACK_BYTES).spawn(move || {
            // How it ends is the client's business.
            let _ = converse(&theirs, &key, &namespace, stream);
            theirs.streams.fetch_sub(1, Ordering::Relaxed);
        });
    if started.is_err() {
        shared.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Questions and answers over one stream, each with its length before it, until the client goes or is silent.
fn converse(shared: &Shared, key: &str, namespace: &Path, mut stream: TcpStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(STREAM_PATIENCE))?;
    stream.set_write_timeout(Some(STREAM_PATIENCE))?;
    loop {
        let bytes = read_message(&mut stream)?;
        let decision = lock(&shared.zones).decide(key, &bytes, Some(MAX_DATAGRAM));
        let answer = match decision {
            Decision::Ignore => return Ok(()),
            Decision::Answer(answer) => answer,
            Decision::Forward(query) => {
                let servers = shared.servers(key);
                let code = if servers.is_empty() { Code::NoName } else { Code::Failed };
                let answered =
                    servers.into_iter().find_map(|server| ask_stream(server, namespace, &bytes).ok());
                answered.unwrap_or_else(|| query.answer(&bytes, code, &[], 0, MAX_DATAGRAM))
            }
        };
        write_message(&mut stream, &answer)?;
    }
}

fn ask_stream(server: Server, namespace: &Path, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = at_server(server, namespace, || TcpStream::connect_timeout(&server.address, PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write_message(&mut stream, bytes)?;
    read_message(&mut stream)
}

fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0u8; 2];
    stream.read_exact(&mut length)?;
    let mut bytes = vec![0u8; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn write_message(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    let length = u16::try_from(bytes.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    stream.write_all(&[&length.to_be_bytes(), bytes].concat())
}
