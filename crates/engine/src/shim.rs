//! The engine's side of a shim: starting one, finding one again, and talking to it.
//!
//! A [`Task`] is one connection to one shim, shared by all who ask it something: requests go out with a stream number
//! each (ttrpc), answers come back in any order, and a `Wait` may stay open for days. When the connection ends, every
//! open request fails with [`ShimError::Lost`]: the shim is gone.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use prost::Message;
use sampan_base::{Class, Timestamp};
use sampan_rpc::task as api;
use sampan_rpc::ttrpc::{self, Code, Decoder, Failure, Frame, Streams};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::oneshot;

use crate::spare::Spare;

/// containerd's word for whose containers these are; part of the runtime's state directory.
pub(crate) const NAMESPACE: &str = "sampan";
/// Where shims listen: a short path, as the kernel takes only 107 bytes.
const SOCKETS: &str = "/run/sampan-shim";
/// How many connections may wait for a shim: this daemon's, and the next one's.
const BACKLOG: i32 = 16;
/// A shim's log in its bundle.
const LOG: &str = "shim.log";

/// Why a shim did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    /// It could not be started.
    #[error("cannot start the shim `{}`", program.display())]
    Start {
        /// Its executable.
        program: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It does not answer at its address.
    #[error("cannot reach the shim at `{address}`")]
    Connect {
        /// Its socket.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// The connection ended while a request was open.
    #[error("the shim is gone")]
    Lost,
    /// It said no.
    #[error(transparent)]
    Remote(#[from] Failure),
}

impl ShimError {
    /// The class for the skin's table of codes.
    pub fn class(&self) -> Class {
        match self {
            ShimError::Connect { .. } | ShimError::Lost => Class::Unavailable,
            ShimError::Remote(Failure { code: Code::Unimplemented, .. }) => Class::Unsupported,
            ShimError::Remote(Failure { code: Code::FailedPrecondition, .. }) => Class::Conflict,
            _ => Class::Internal,
        }
    }

    /// Whether there is no shim at its address, rather than one that could not be asked.
    pub(crate) fn nobody_listens(&self) -> bool {
        use std::io::ErrorKind::{ConnectionRefused, NotFound};
        match self {
            ShimError::Lost => true,
            ShimError::Connect { source, .. } => matches!(source.kind(), NotFound | ConnectionRefused),
            _ => false,
        }
    }

    /// Whether the thing that the request was about is gone.
    pub fn is_not_found(&self) -> bool {
        match self {
            ShimError::Lost | ShimError::Connect { .. } => true,
            ShimError::Remote(failure) => failure.code == Code::NotFound,
            _ => false,
        }
    }
}

/// How a process ended, as its shim saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessExit {
    /// The exit code; 128 + the signal's number if one ended it.
    pub code: u32,
    /// When.
    pub at: Timestamp,
}

/// A connection to a shim.
#[derive(Clone, Debug)]
pub struct Task {
    id: String,
    connection: Arc<Connection>,
}

#[derive(Debug)]
struct Connection {
    writer: tokio::sync::Mutex<OwnedWriteHalf>,
    open: Arc<Mutex<OpenRequests>>,
    reader: tokio::task::JoinHandle<()>,
}

#[derive(Debug, Default)]
struct OpenRequests {
    streams: Streams,
    lost: bool,
    waiting: HashMap<u32, oneshot::Sender<Frame>>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// Starts a shim for container `id` with its bundle, and connects.
///
/// It is started as its own `start` starts it, with the listening socket as descriptor 0, but without the program in
/// between, which would only find out what is known here.
///
/// One that was started ahead needs only be told.
///
/// # Errors
/// If it can't be started.
pub(crate) async fn start(spare: &Spare, program: &Path, id: &str, bundle: &Path) -> Result<Task, ShimError> {
    let failed = |source| ShimError::Start { program: program.to_owned(), source };
    let path = socket_path(bundle);
    let address = format!("unix://{}", path.display());
    let listener = listen(&path).map_err(failed)?;
    let log = std::fs::OpenOptions::new().append(true).create(true).mode(0o600).open(bundle.join(LOG));
    let log = log.map_err(failed)?;
    // The next daemon finds it by this; written first, or a daemon killed in between would leave a shim that nobody knows.
    sampan_base::files::write_atomic_volatile(&bundle.join("address"), address.as_bytes(), 0o600)
        .map_err(|error| failed(error.source))?;
    if !spare.hand_over(id, bundle, &path, [listener.as_fd(), log.as_fd()]) {
        let mut command = command(program, id, bundle, &path);
        let spawned = command.stdin(Stdio::from(listener)).stderr(log).spawn().map_err(failed);
        if spawned.is_err() {
            let _ = std::fs::remove_file(&path); // nobody will listen there
        }
        // Not waited for: it outlives this daemon, which reaps it if it ends before.
        drop(spawned?);
    }
    connect(id, &address).await
}

/// A shim's command, without its input and error output.
pub(crate) fn command(program: &Path, id: &str, bundle: &Path, socket: &Path) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(program);
    command
        .args(["-namespace", NAMESPACE, "-id", id, "-address", "", "-publish-binary", "", "-bundle"])
        .arg(bundle)
        .arg("-socket")
        .arg(socket)
        .env_remove("TTRPC_ADDRESS")
        // A container must not announce itself as ready in place of the daemon.
        .env_remove("NOTIFY_SOCKET")
        // The sockets that systemd passed are the daemon's: a runtime would hand them on to the container.
        .env_remove("LISTEN_FDS")
        .env_remove("LISTEN_FDNAMES")
        .env_remove("LISTEN_PID")
        // No directory is set: for that the standard library would have to fork, which copies this process's page tables.
        .stdout(Stdio::null());
    command
}

/// Where the shim of a bundle listens.
pub(crate) fn socket_path(bundle: &Path) -> PathBuf {
    let digest = sampan_base::Digest::of(bundle.as_os_str().as_encoded_bytes());
    Path::new(SOCKETS).join(format!("{}.sock", &digest.hex()[..32]))
}

/// Removes what a shim that was killed has left of its socket.
pub(crate) fn remove_socket(bundle: &Path) {
    // A shim that ended by itself has removed it.
    let _ = std::fs::remove_file(socket_path(bundle));
}

/// Waits until a shim that nobody can reach has ended, with all commands of the runtime that it had begun: they hold a lock
/// on the bundle. It is killed if it still lives, as it does if somebody has removed its socket.
///
/// # Errors
/// If the kernel can't tell.
pub(crate) fn wait_for_end(bundle: &Path) -> std::io::Result<()> {
    use rustix::fs::{FlockOperation, flock};
    let directory = match std::fs::File::open(bundle) {
        Ok(directory) => directory,
        // It was never there, so there was nothing to begin.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
        Err(rustix::io::Errno::WOULDBLOCK) => {
            kill_server(bundle);
            Ok(flock(&directory, FlockOperation::LockExclusive)?)
        }
        other => Ok(other?),
    }
}

/// Kills the process that serves `bundle`, if it is the one that has written its record.
fn kill_server(bundle: &Path) {
    use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
    #[derive(serde::Deserialize)]
    struct Record {
        server: i32,
    }
    let record = sampan_base::files::read_limited(&bundle.join("shim.json"), 64 << 10).ok();
    let record = record.and_then(|text| serde_json::from_slice::<Record>(&text).ok());
    let Some(pid) = record.and_then(|record| Pid::from_raw(record.server)) else { return };
    let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { return };
    // The number may be another's by now: what it was started for tells.
    let line = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
    if line.split(|byte| *byte == 0).any(|word| word == bundle.as_os_str().as_encoded_bytes()) {
        tracing::warn!(bundle = %bundle.display(), pid = pid.as_raw_nonzero().get(), "killing a shim that does not listen any more");
        let _ = pidfd_send_signal(&process, Signal::KILL);
    }
}

/// Listens at `path`, for root only.
fn listen(path: &Path) -> std::io::Result<OwnedFd> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
    if let Some(directory) = path.parent() {
        sampan_base::files::create_directories(directory, 0o711).map_err(|error| error.source)?;
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // The name gets the mode that the socket has when it is bound (unix(7)); a mask would be the whole process's.
    rustix::fs::fchmod(&socket, rustix::fs::Mode::from_raw_mode(0o600))?;
    let address = SocketAddrUnix::new(path)?;
    match bind(&socket, &address) {
        // What a shim that was killed has left: this container's bundle is new, so none serves it.
        Err(rustix::io::Errno::ADDRINUSE) => {
            std::fs::remove_file(path)?;
            bind(&socket, &address)?;
        }
        other => other?,
    }
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// What a shim that is gone has said, for an error's text.
pub(crate) fn last_words(bundle: &Path) -> String {
    let bytes = sampan_base::files::read_limited(&bundle.join(LOG), 1 << 20).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    text.lines().next_back().unwrap_or("it said nothing, as one that was killed").to_owned()
}

/// Connects to the shim that serves `bundle`, if one does.
///
/// # Errors
/// If none answers there.
pub async fn find(id: &str, bundle: &Path) -> Result<Task, ShimError> {
    let file = bundle.join("address");
    let address = tokio::fs::read_to_string(&file)
        .await
        .map_err(|source| ShimError::Connect { address: file.display().to_string(), source })?;
    connect(id, address.trim()).await
}

async fn connect(id: &str, address: &str) -> Result<Task, ShimError> {
    let path = address.strip_prefix("unix://").unwrap_or(address);
    let failed = |source| ShimError::Connect { address: address.to_owned(), source };
    let stream = UnixStream::connect(path).await.map_err(failed)?;
    let (read, write) = stream.into_split();
    let open = Arc::<Mutex<OpenRequests>>::default();
    let reader = tokio::spawn(read_answers(read, Arc::clone(&open)));
    let connection = Connection { writer: tokio::sync::Mutex::new(write), open, reader };
    Ok(Task { id: id.to_owned(), connection: Arc::new(connection) })
}

fn lock(open: &Mutex<OpenRequests>) -> std::sync::MutexGuard<'_, OpenRequests> {
    open.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Hands each answer to whoever waits for it, until the connection ends.
async fn read_answers(mut stream: OwnedReadHalf, open: Arc<Mutex<OpenRequests>>) {
    let mut decoder = Decoder::default();
    let mut bytes = vec![0u8; 16 << 10];
    'connection: while let Ok(length @ 1..) = stream.read(&mut bytes).await {
        decoder.push(&bytes[..length]);
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => {
                    if let Some(waiting) = lock(&open).waiting.remove(&frame.stream) {
                        // Whoever asked may have gone.
                        let _ = waiting.send(frame);
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    tracing::error!(%error, "a shim's answer can't be read");
                    break 'connection;
                }
            }
        }
    }
    let mut open = lock(&open);
    open.lost = true;
    open.waiting.clear();
}

impl Task {
    async fn call<A: Message + Default>(&self, method: &str, request: &impl Message) -> Result<A, ShimError> {
        let (sender, answer) = oneshot::channel();
        let stream = {
            let mut open = lock(&self.connection.open);
            if open.lost {
                return Err(ShimError::Lost);
            }
            let stream = open.streams.next();
            open.waiting.insert(stream, sender);
            stream
        };
        let sent = match ttrpc::request(stream, api::SERVICE_V2, method, request, 0) {
            Ok(frame) => self.connection.writer.lock().await.write_all(&frame).await.is_ok(),
            Err(error) => {
                tracing::error!(%error, method, "a request to a shim is too long");
                false
            }
        };
        if !sent {
            lock(&self.connection.open).waiting.remove(&stream);
            return Err(ShimError::Lost);
        }
        let frame = answer.await.map_err(|_| ShimError::Lost)?;
        Ok(ttrpc::answer(&frame)?)
    }

    fn process(&self, exec: Option<&str>) -> (String, String) {
        (self.id.clone(), exec.unwrap_or_default().to_owned())
    }

    /// Makes the container; its process waits for [`Task::start`]. Answers its process id.
    ///
    /// # Errors
    /// What the runtime said, or that the shim is gone; so for all methods.
    pub async fn create(&self, request: api::CreateTaskRequest) -> Result<u32, ShimError> {
        Ok(self.call::<api::CreateTaskResponse>("Create", &request).await?.pid)
    }

    /// Starts the container's process, or one made by [`Task::exec`].
    pub async fn start(&self, exec: Option<&str>) -> Result<u32, ShimError> {
        let (id, exec_id) = self.process(exec);
        Ok(self.call::<api::StartResponse>("Start", &api::StartRequest { id, exec_id }).await?.pid)
    }

    /// Prepares a further process.
    pub async fn exec(&self, request: api::ExecProcessRequest) -> Result<(), ShimError> {
        self.call::<()>("Exec", &request).await
    }

    /// Waits until the process has ended.
    pub async fn wait(&self, exec: Option<&str>) -> Result<ProcessExit, ShimError> {
        let (id, exec_id) = self.process(exec);
        let answer: api::WaitResponse = self.call("Wait", &api::WaitRequest { id, exec_id }).await?;
        Ok(exit_of(answer.exit_status, answer.exited_at))
    }

    /// The process's id and, if it has ended, how.
    pub async fn state(&self) -> Result<api::StateResponse, ShimError> {
        self.state_of(None).await
    }

    /// As [`Task::state`], of a process made by [`Task::exec`].
    pub async fn state_of(&self, exec: Option<&str>) -> Result<api::StateResponse, ShimError> {
        let (id, exec_id) = self.process(exec);
        self.call("State", &api::StateRequest { id, exec_id }).await
    }

    /// Sends a signal.
    pub async fn kill(&self, exec: Option<&str>, signal: u32, all: bool) -> Result<(), ShimError> {
        let (id, exec_id) = self.process(exec);
        self.call::<()>("Kill", &api::KillRequest { id, exec_id, signal, all }).await
    }

    /// Freezes all processes.
    pub async fn pause(&self) -> Result<(), ShimError> {
        self.call::<()>("Pause", &api::PauseRequest { id: self.id.clone() }).await
    }

    /// Thaws all processes.
    pub async fn resume(&self) -> Result<(), ShimError> {
        self.call::<()>("Resume", &api::ResumeRequest { id: self.id.clone() }).await
    }

    /// Gives the container other limits.
    pub async fn update(&self, resources: &sampan_oci::runtime::Resources) -> Result<(), ShimError> {
        let value = serde_json::to_vec(resources).map_err(|error| {
            ShimError::Remote(Failure { code: Code::Internal, message: error.to_string() })
        })?;
        let resources = Some(sampan_rpc::Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources".to_owned(),
            value,
        });
        let request = api::UpdateTaskRequest { id: self.id.clone(), resources, ..Default::default() };
        self.call::<()>("Update", &request).await
    }

    /// Sets a terminal's size.
    pub async fn resize(&self, exec: Option<&str>, rows: u32, columns: u32) -> Result<(), ShimError> {
        let (id, exec_id) = self.process(exec);
        let request = api::ResizePtyRequest { id, exec_id, width: columns, height: rows };
        self.call::<()>("ResizePty", &request).await
    }

    /// The processes of the container, as the host numbers them.
    pub async fn pids(&self) -> Result<Vec<u32>, ShimError> {
        let answer: api::PidsResponse = self.call("Pids", &api::PidsRequest { id: self.id.clone() }).await?;
        Ok(answer.processes.into_iter().map(|p| p.pid).collect())
    }

    /// Removes a process that has ended, with the container if it is the first one.
    pub async fn delete(&self, exec: Option<&str>) -> Result<ProcessExit, ShimError> {
        let (id, exec_id) = self.process(exec);
        let answer: api::DeleteResponse = self.call("Delete", &api::DeleteRequest { id, exec_id }).await?;
        Ok(exit_of(answer.exit_status, answer.exited_at))
    }

    /// Ends the shim.
    pub async fn shutdown(&self) -> Result<(), ShimError> {
        let request = api::ShutdownRequest { id: self.id.clone(), now: true };
        match self.call::<()>("Shutdown", &request).await {
            // It may be gone before its answer is.
            Err(ShimError::Lost) => Ok(()),
            other => other,
        }
    }
}

fn exit_of(code: u32, at: Option<prost_types::Timestamp>) -> ProcessExit {
    let at = at.and_then(|t| Timestamp::from_unix(t.seconds, t.nanos).ok());
    ProcessExit { code, at: at.unwrap_or_else(Timestamp::now) }
}
