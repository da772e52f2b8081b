//! The engine's side of a shim: starting one, finding one again, and talking to it.
//!
//! A [`Task`] is one connection to one shim, shared by all who ask it something: requests go out with a stream number
//! each (ttrpc), answers come back in any order, and a `Wait` may stay open for days. When the connection ends, every
//! open request fails with [`ShimError::Lost`]: the shim is gone.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use prost::Message;
use sampan_base::{Class, Timestamp};
use sampan_rpc::generated::containerd::task::v2 as api;
use sampan_rpc::ttrpc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::oneshot;

/// containerd's word for whose containers these are; part of the runtime's state directory.
pub(crate) const NAMESPACE: &str = "sampan";
const SERVICE: &str = "containerd.task.v2.Task";
/// The longest answer of a shim's `start` that is read.
const MAX_ADDRESS_BYTES: u64 = 4096;

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
    /// It ended before it served.
    #[error("the shim `{}` did not start: {output}", program.display())]
    Refused {
        /// Its executable.
        program: PathBuf,
        /// What it said.
        output: String,
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
    #[error("{message}")]
    Remote {
        /// The gRPC code.
        code: i32,
        /// What it said.
        message: String,
    },
    /// Its answer can't be read.
    #[error("the shim's answer to {method} can't be read")]
    Malformed {
        /// The request.
        method: &'static str,
        /// Why.
        source: prost::DecodeError,
    },
}

/// gRPC's codes that make a difference here (google.rpc.Code).
const NOT_FOUND: i32 = 5;
const FAILED_PRECONDITION: i32 = 9;
const UNIMPLEMENTED: i32 = 12;

impl ShimError {
    /// The class for the skin's table of codes.
    pub fn class(&self) -> Class {
        match self {
            ShimError::Connect { .. } | ShimError::Lost => Class::Unavailable,
            ShimError::Remote { code: UNIMPLEMENTED, .. } => Class::Unsupported,
            ShimError::Remote { code: FAILED_PRECONDITION, .. } => Class::Conflict,
            _ => Class::Internal,
        }
    }

    /// Whether the thing that the request was about is gone.
    pub fn is_not_found(&self) -> bool {
        matches!(self, ShimError::Lost | ShimError::Connect { .. } | ShimError::Remote { code: NOT_FOUND, .. })
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
    next_stream: u32,
    lost: bool,
    waiting: HashMap<u32, oneshot::Sender<Result<Vec<u8>, ShimError>>>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// Starts a shim for container `id` with its bundle, and connects.
///
/// # Errors
/// If it can't be started or does not answer.
pub async fn start(program: &Path, id: &str, bundle: &Path) -> Result<Task, ShimError> {
    let mut command = tokio::process::Command::new(program);
    command.args(["-namespace", NAMESPACE, "-id", id, "-address", "", "start"]);
    // The shim outlives this daemon, so nothing but the address may tie it to us.
    command.current_dir(bundle).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let failed = |source| ShimError::Start { program: program.to_owned(), source };
    let mut child = command.spawn().map_err(failed)?;
    let mut address = String::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(MAX_ADDRESS_BYTES).read_to_string(&mut address).await.map_err(failed)?;
    }
    let mut output = String::new();
    let status = child.wait().await.map_err(failed)?;
    if !status.success() {
        if let Some(stderr) = child.stderr.take() {
            stderr.take(MAX_ADDRESS_BYTES).read_to_string(&mut output).await.map_err(failed)?;
        }
        let output = if output.trim().is_empty() { status.to_string() } else { output.trim().to_owned() };
        return Err(ShimError::Refused { program: program.to_owned(), output });
    }
    connect(id, address.trim()).await
}

/// Connects to the shim that serves `bundle`, if one does.
///
/// # Errors
/// If none answers there.
pub async fn find(id: &str, bundle: &Path) -> Result<Task, ShimError> {
    let file = bundle.join("address");
    let address = tokio::fs::read_to_string(&file).await.map_err(|source| ShimError::Connect {
        address: file.display().to_string(),
        source,
    })?;
    connect(id, address.trim()).await
}

async fn connect(id: &str, address: &str) -> Result<Task, ShimError> {
    let path = address.strip_prefix("unix://").unwrap_or(address);
    let failed = |source| ShimError::Connect { address: address.to_owned(), source };
    let stream = UnixStream::connect(path).await.map_err(failed)?;
    let (read, write) = stream.into_split();
    let open = Arc::new(Mutex::new(OpenRequests { next_stream: 1, ..OpenRequests::default() }));
    let reader = tokio::spawn(read_answers(read, Arc::clone(&open)));
    let connection = Connection { writer: tokio::sync::Mutex::new(write), open, reader };
    Ok(Task { id: id.to_owned(), connection: Arc::new(connection) })
}

fn lock(open: &Mutex<OpenRequests>) -> std::sync::MutexGuard<'_, OpenRequests> {
    open.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Hands each answer to whoever waits for it, until the connection ends.
async fn read_answers(mut stream: OwnedReadHalf, open: Arc<Mutex<OpenRequests>>) {
    while let Some((stream_id, payload)) = read_frame(&mut stream).await {
        let answer = match sampan_rpc::generated::ttrpc::Response::decode(payload.as_slice()) {
            Ok(response) => match response.status {
                Some(status) if status.code != 0 => {
                    Err(ShimError::Remote { code: status.code, message: status.message })
                }
                _ => Ok(response.payload),
            },
            Err(source) => Err(ShimError::Malformed { method: "a request", source }),
        };
        if let Some(waiting) = lock(&open).waiting.remove(&stream_id) {
            // Whoever asked may have gone.
            let _ = waiting.send(answer);
        }
    }
    let mut open = lock(&open);
    open.lost = true;
    open.waiting.clear();
}

async fn read_frame(stream: &mut OwnedReadHalf) -> Option<(u32, Vec<u8>)> {
    let mut header = [0u8; ttrpc::HEADER_BYTES];
    stream.read_exact(&mut header).await.ok()?;
    let header = ttrpc::Header::decode(&header).ok()?;
    let mut payload = vec![0u8; header.length as usize];
    stream.read_exact(&mut payload).await.ok()?;
    Some((header.stream_id, payload))
}

impl Task {
    async fn call<A: Message + Default>(&self, method: &'static str, request: &impl Message) -> Result<A, ShimError> {
        let (sender, answer) = oneshot::channel();
        let stream_id = {
            let mut open = lock(&self.connection.open);
            if open.lost {
                return Err(ShimError::Lost);
            }
            let id = open.next_stream;
            // Clients use odd numbers (ttrpc's protocol).
            open.next_stream = open.next_stream.wrapping_add(2);
            open.waiting.insert(id, sender);
            id
        };
        let request = sampan_rpc::generated::ttrpc::Request {
            service: SERVICE.to_owned(),
            method: method.to_owned(),
            payload: request.encode_to_vec(),
            ..Default::default()
        };
        let frame = ttrpc::encode_request(stream_id, &request).map_err(|_| ShimError::Lost)?;
        let written = self.connection.writer.lock().await.write_all(&frame).await;
        if written.is_err() {
            lock(&self.connection.open).waiting.remove(&stream_id);
            return Err(ShimError::Lost);
        }
        let payload = answer.await.map_err(|_| ShimError::Lost)??;
        A::decode(payload.as_slice()).map_err(|source| ShimError::Malformed { method, source })
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
        let (id, exec_id) = self.process(None);
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
