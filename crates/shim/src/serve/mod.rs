//! The server: one thread, one poll loop, any number of containers and execs.
//!
//! ```text
//!            listener, clients          request -> (allowed? state.rs) -> runtime command -> answer
//!  poll  <-  signals                    SIGCHLD -> reap -> command ended | process exited -> waiters, events
//!            stdio, consoles            output -> log, clients
//!            oom, publisher
//! ```
//! Nothing waits: a request that needs the runtime starts its command and is answered when the command has been
//! reaped ([`jobs`], [`outcomes`]); meanwhile other processes' requests, State and Wait go on. Each process has a queue, so
//! that a Kill that comes during a Start is done after it. What to wait for is computed anew in each round from
//! what there is, so there is no registration to go stale.
//!
//! A process may exit before the command that started it has told its pid. Exits of unknown processes are kept
//! while such commands run ([`Server::early_exits`]), and looked up when the pid is known.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::{Instant, SystemTime};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{WaitOptions, wait};
use sampan_kernel::signals::SignalFd;
use sampan_rpc::ttrpc::{self, Code, Failure};

use crate::cgroup::{Cgroups, OomWatch};
use crate::events::Publisher;
use crate::runtime::Runtime;
use crate::state::State;
use crate::stdio::console::ConsoleSocket;
use crate::stdio::{Slot, Stdio, Wanted};
use connection::Connection;
use jobs::{Job, Work};

mod connection;
mod jobs;
mod outcomes;
mod requests;

/// Scratch space for reads: a pipe's whole capacity.
const BUFFER_BYTES: usize = 64 << 10;
/// Connections beyond this are closed at once.
const MAX_CONNECTIONS: usize = 256;

/// Everything that the server has.
#[derive(Debug)]
pub struct Server {
    namespace: String,
    socket: PathBuf,
    listener: UnixListener,
    signals: SignalFd,
    publisher: Publisher,
    connections: BTreeMap<u64, Connection>,
    containers: BTreeMap<String, Container>,
    processes: BTreeMap<ProcessId, Process>,
    /// Runtime commands that run, by their pids.
    jobs: BTreeMap<u32, Job>,
    /// Exits of processes that nobody knows (yet).
    early_exits: BTreeMap<u32, Exit>,
    /// The last number given to a connection, process, command or console.
    last_number: u64,
    shutting_down: bool,
}

/// A process for as long as the server knows it; pids come and go.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct ProcessId(u64);

#[derive(Debug)]
struct Container {
    bundle: PathBuf,
    runtime: Runtime,
    init: ProcessId,
    execs: BTreeMap<String, ProcessId>,
    /// The kernel ends the others with the first process.
    own_pid_namespace: bool,
    /// We mounted its root file system.
    mounted: bool,
    cgroups: Cgroups,
    oom: Option<OomWatch>,
    /// Who owns its pipes.
    owner: (u32, u32),
}

#[derive(Debug)]
struct Process {
    container: String,
    /// None for the container's first process.
    exec: Option<String>,
    state: State,
    wanted: Wanted,
    stdio: Stdio,
    console: Option<ConsoleSocket>,
    pid: u32,
    /// How it ended, once everybody may know.
    exit: Option<Exit>,
    /// How it ended, while the command that starts it still runs.
    unannounced_exit: Option<Exit>,
    waiters: Vec<Reply>,
    queue: VecDeque<(Work, Reply)>,
    /// A runtime command runs for it.
    busy: bool,
    /// That command creates or starts it, so its exit is not told before the command's end.
    starting: bool,
    /// An exec's `process` as JSON, until it is started.
    spec: Vec<u8>,
}

/// How and when a process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Exit {
    /// The exit code, or 128 and the signal's number.
    status: u32,
    at: SystemTime,
}

/// Where an answer goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Reply {
    connection: u64,
    stream: u32,
}

#[derive(Clone, Copy, Debug)]
enum Token {
    Listener,
    Signals,
    Client(u64),
    Publisher,
    Console(ProcessId),
    Stdio(ProcessId, Slot),
    /// The container is named by its first process.
    Oom(ProcessId),
}

impl Server {
    /// A server on `listener`, which is bound to `socket`.
    pub fn new(
        namespace: String,
        socket: PathBuf,
        listener: UnixListener,
        signals: SignalFd,
        publisher: Publisher,
    ) -> Server {
        Server {
            namespace,
            socket,
            listener,
            signals,
            publisher,
            connections: BTreeMap::new(),
            containers: BTreeMap::new(),
            processes: BTreeMap::new(),
            jobs: BTreeMap::new(),
            early_exits: BTreeMap::new(),
            last_number: 0,
            shutting_down: false,
        }
    }

    /// Serves until Shutdown.
    ///
    /// # Errors
    /// If the kernel refuses to poll or to reap, which leaves nothing sensible to do.
    pub fn run(mut self) -> io::Result<()> {
        let mut buffer = vec![0u8; BUFFER_BYTES];
        while !self.is_done() {
            for (token, events) in self.wait_for_events()? {
                self.ready(token, events, &mut buffer)?;
            }
            self.publisher.tick();
        }
        Ok(())
    }

    /// Ends the server when all is answered. Its socket goes first: once the caller has heard of it, the name may be
    /// another server's, of the container's next run.
    fn shut_down(&mut self) {
        // Only once, for the same reason.
        if !self.shutting_down {
            let _ = std::fs::remove_file(&self.socket); // `delete` may have been here
            self.shutting_down = true;
        }
    }

    fn is_done(&self) -> bool {
        self.shutting_down
            && self.containers.is_empty()
            && self.jobs.is_empty()
            && self.publisher.is_settled()
            && self.connections.values().all(Connection::is_flushed)
    }

    fn wait_for_events(&self) -> io::Result<Vec<(Token, PollFlags)>> {
        let mut interests: Vec<(BorrowedFd<'_>, PollFlags, Token)> = Vec::new();
        interests.push((self.listener.as_fd(), PollFlags::IN, Token::Listener));
        for (number, connection) in &self.connections {
            let (fd, events) = connection.interest();
            interests.push((fd, events, Token::Client(*number)));
        }
        if let Some((fd, events)) = self.publisher.interest() {
            interests.push((fd, events, Token::Publisher));
        }
        let mut slots = Vec::new();
        for (id, process) in &self.processes {
            if let Some(console) = &process.console {
                interests.push((console.descriptor(), PollFlags::IN, Token::Console(*id)));
            }
            process.stdio.interests(&mut slots);
            interests.extend(slots.drain(..).map(|(fd, events, slot)| (fd, events, Token::Stdio(*id, slot))));
        }
        for container in self.containers.values() {
            if let Some(oom) = &container.oom {
                let (fd, events) = oom.interest();
                interests.push((fd, events, Token::Oom(container.init)));
            }
        }
        // Last: what processes wrote and clients asked for before an exit is looked at before the exit.
        interests.push((self.signals.as_fd(), PollFlags::IN, Token::Signals));
        let mut polled: Vec<PollFd<'_>> =
            interests.iter().map(|(fd, events, _)| PollFd::from_borrowed_fd(*fd, *events)).collect();
        let timeout = self.publisher.deadline().map(|at| {
            let left = at.saturating_duration_since(Instant::now());
            Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(1),
                tv_nsec: left.subsec_nanos().into(),
            }
        });
        loop {
            match poll(&mut polled, timeout.as_ref()) {
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
                Ok(_) => break,
            }
        }
        let happened =
            interests.iter().zip(&polled).map(|((_, _, token), polled)| (*token, polled.revents()));
        Ok(happened.filter(|(_, events)| !events.is_empty()).collect())
    }

    fn ready(&mut self, token: Token, events: PollFlags, buffer: &mut [u8]) -> io::Result<()> {
        match token {
            Token::Listener => self.accept(),
            Token::Signals => self.take_signals(buffer)?,
            Token::Client(number) => self.client_ready(number, events, buffer),
            Token::Publisher => self.publisher.ready(),
            Token::Console(id) => self.console_ready(id),
            Token::Stdio(id, slot) => {
                if let Some(process) = self.processes.get_mut(&id) {
                    process.stdio.ready(slot, events, buffer);
                }
            }
            Token::Oom(init) => self.oom_ready(init),
        }
        Ok(())
    }

    fn accept(&mut self) {
        while let Ok((socket, _)) = self.listener.accept() {
            if self.connections.len() < MAX_CONNECTIONS
                && let Ok(connection) = Connection::new(socket)
            {
                let number = self.number();
                self.connections.insert(number, connection);
            }
        }
    }

    fn client_ready(&mut self, number: u64, events: PollFlags, buffer: &mut [u8]) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let mut frames = Vec::new();
        let alive = (|| {
            if events.intersects(PollFlags::OUT) {
                connection.flush()?;
            }
            if events.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
                frames = connection.receive(buffer)?;
            }
            io::Result::Ok(())
        })();
        if alive.is_err() {
            self.connections.remove(&number);
            return;
        }
        for frame in frames {
            let reply = Reply { connection: number, stream: frame.stream };
            self.take_request(reply, &frame);
        }
    }

    /// Sends an answer. A client that is gone does not get it.
    fn send(&mut self, reply: Reply, frame: &[u8]) {
        if let Some(connection) = self.connections.get_mut(&reply.connection)
            && connection.send(frame).is_err()
        {
            self.connections.remove(&reply.connection);
        }
    }

    fn answer(&mut self, reply: Reply, message: &impl prost::Message) {
        match ttrpc::response(reply.stream, message) {
            Ok(frame) => self.send(reply, &frame),
            Err(error) => self.refuse(reply, &failure(Code::ResourceExhausted, error)),
        }
    }

    fn refuse(&mut self, reply: Reply, failure: &Failure) {
        self.send(reply, &ttrpc::failure(reply.stream, failure));
    }

    fn take_signals(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        let mut reap = false;
        while let Some(received) = self.signals.next()? {
            match received.signal {
                libc_signals::CHILD => reap = true,
                // A container outlives a daemon's or a session's end; an idle shim has no reason to.
                signal if self.containers.is_empty() => {
                    crate::note(&format!("signal {signal}, and no container: ending"));
                    self.shut_down();
                }
                signal => crate::note(&format!("signal {signal} ignored: there is a container")),
            }
        }
        if reap { self.reap(buffer) } else { Ok(()) }
    }

    /// Takes all children that have ended. Exits before commands: when a command's end is looked at, the exit of
    /// the process that it started is known.
    fn reap(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        let mut commands = Vec::new();
        let mut exited = Vec::new();
        loop {
            let (pid, status) = match wait(WaitOptions::NOHANG) {
                Ok(Some(ended)) => ended,
                Ok(None) | Err(rustix::io::Errno::CHILD) => break,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let pid = pid.as_raw_nonzero().get().cast_unsigned();
            let code = status.exit_status().or_else(|| status.terminating_signal().map(|s| 128 + s));
            let exit = Exit { status: code.unwrap_or(255).cast_unsigned(), at: SystemTime::now() };
            if let Some(job) = self.jobs.remove(&pid) {
                commands.push((job, exit.status));
            } else if let Some((id, process)) =
                self.processes.iter_mut().find(|(_, p)| p.pid == pid && p.exit.is_none())
            {
                process.unannounced_exit = Some(exit);
                exited.push((process.exec.is_none(), *id));
            } else if !self.publisher.reaped(pid) {
                self.early_exits.insert(pid, exit);
            }
        }
        // Execs die with the container's first process, and before it; so they are told of.
        exited.sort();
        for (_, id) in exited {
            self.announce_exit(id, buffer);
        }
        for (job, status) in commands {
            self.finish_job(job, status, buffer);
        }
        if !self.jobs.values().any(Job::will_tell_a_pid) {
            self.early_exits.clear();
        }
        Ok(())
    }

    fn console_ready(&mut self, id: ProcessId) {
        let Some(process) = self.processes.get_mut(&id) else { return };
        process.take_console();
    }

    fn oom_ready(&mut self, init: ProcessId) {
        let Some((id, container)) = self.containers.iter_mut().find(|(_, c)| c.init == init) else { return };
        match container.oom.as_mut().and_then(OomWatch::happened) {
            Some(true) => {
                if let Err(error) = std::fs::write(container.bundle.join("oom"), b"") {
                    crate::note(&format!("cannot write `oom` for container {id}: {error}"));
                }
                let event = sampan_rpc::events::TaskOom { container_id: id.clone() };
                self.publisher.publish("/tasks/oom", &event);
            }
            Some(false) => {}
            None => container.oom = None,
        }
    }

    fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }
}

impl Process {
    /// Takes the pty if it has come.
    fn take_console(&mut self) {
        let Some(console) = &mut self.console else { return };
        match console.receive() {
            Ok(None) => {}
            Ok(Some(master)) => {
                self.console = None;
                if let Err(error) = self.stdio.set_terminal(master) {
                    crate::note(&format!("container {}: terminal: {error}", self.container));
                }
            }
            Err(error) => {
                self.console = None;
                crate::note(&format!("container {}: no terminal: {error}", self.container));
            }
        }
    }
}

fn failure(code: Code, message: impl std::fmt::Display) -> Failure {
    Failure { code, message: message.to_string() }
}

/// The signal numbers that the loop looks at.
mod libc_signals {
    pub(super) const CHILD: i32 = rustix::process::Signal::CHILD.as_raw();
}
