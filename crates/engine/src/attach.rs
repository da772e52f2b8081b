//! Attaching to a process: the socket on which its shim sends its output and takes its input.

use std::os::fd::AsRawFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use serde::Serialize;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

/// Which streams a client wants, and what its going away means.
#[derive(Serialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Streams {
    /// It sends standard input.
    pub stdin: bool,
    /// It wants standard output.
    pub stdout: bool,
    /// It wants standard error.
    pub stderr: bool,
    /// The end of its input ends the process's input.
    pub stdin_once: bool,
}

/// Connects to the attach socket of the first process in `bundle`, or of an exec. The shim then sends raw bytes if
/// the process has a terminal, and Docker's frames if not; what it gets is standard input.
///
/// # Errors
/// If nobody listens there.
pub(crate) async fn connect(
    bundle: &Path,
    exec: Option<&str>,
    streams: Streams,
) -> std::io::Result<UnixStream> {
    let name = match exec {
        Some(id) => format!("attach-{id}.sock"),
        None => "attach.sock".to_owned(),
    };
    // A socket's address holds 107 bytes (unix(7)), a bundle's path may be longer: reach it by its descriptor.
    let directory =
        rustix::fs::open(bundle, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let path = format!("/proc/self/fd/{}/{name}", directory.as_raw_fd());
    let mut stream = UnixStream::connect(path).await?;
    let mut hello = serde_json::to_vec(&streams)?;
    hello.push(b'\n');
    stream.write_all(&hello).await?;
    Ok(stream)
}
