//! The commands, a file a group.

pub(crate) mod analyze;
pub(crate) mod build;
pub(crate) mod builder;
pub(crate) mod compose;
pub(crate) mod container;
pub(crate) mod df;
pub(crate) mod exec;
pub(crate) mod extract;
pub(crate) mod image;
pub(crate) mod inspect;
pub(crate) mod manual;
pub(crate) mod network;
pub(crate) mod options;
pub(crate) mod registry;
pub(crate) mod run;
pub(crate) mod store;
pub(crate) mod system;
pub(crate) mod transfer;
pub(crate) mod volume;

use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use bytes::Bytes;
use http::Response;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use sampan_docker_api::build::Progress;
use tokio::sync::mpsc;

/// Says why a command failed; what went wrong here has exit code 1, a build's step that failed its own.
pub(crate) fn fail(error: &anyhow::Error) -> ExitCode {
    let step = error.downcast_ref::<FailedProgress>().and_then(|e| e.code);
    fail_with(error, step.and_then(|code| u8::try_from(code).ok()).filter(|code| *code != 0).unwrap_or(1))
}

/// The error that an import, a load or a build ended with.
#[derive(Debug)]
struct FailedProgress {
    message: String,
    /// The exit code of a build's step.
    code: Option<i64>,
}

impl std::fmt::Display for FailedProgress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for FailedProgress {}

/// As [`fail`], with another exit code.
pub(crate) fn fail_with(error: &anyhow::Error, code: u8) -> ExitCode {
    // A reader that has gone (`sampan ps | head`) is no failure worth words.
    let connection = error.chain().any(|cause| cause.is::<hyper::Error>());
    let gone = !connection
        && error.chain().any(|cause| {
            cause.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
        });
    if !gone {
        let _ = writeln!(std::io::stderr(), "sampan: {error:#}");
    }
    ExitCode::from(code)
}

/// A line of output.
pub(crate) fn say(text: impl std::fmt::Display) -> Result<()> {
    Ok(writeln!(std::io::stdout().lock(), "{text}")?)
}

/// A line for people, beside the output.
pub(crate) fn tell(text: impl std::fmt::Display) {
    // Where nobody listens, nobody misses it.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Does something to each of the names; each is tried, and what failed is said, with exit code 1 at the end.
pub(crate) async fn for_each<F: AsyncFnMut(&str) -> Result<()>>(
    names: &[String],
    mut act: F,
) -> Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for name in names {
        if let Err(error) = act(name).await {
            code = fail(&error);
        }
    }
    Ok(code)
}

/// Shows the lines that an import, a load or a build answers with; the last result, or the error it ended with.
pub(crate) async fn show_progress(
    response: Response<Incoming>,
    mut show: impl FnMut(&Progress) -> Result<()>,
) -> Result<()> {
    let mut body = response.into_body();
    let mut rest: Vec<u8> = Vec::new();
    loop {
        let frame = body.frame().await.transpose()?;
        let ended = frame.is_none();
        if let Some(data) = frame.and_then(|f| f.into_data().ok()) {
            rest.extend_from_slice(&data);
        }
        let mut used = 0;
        let mut lines = serde_json::Deserializer::from_slice(&rest).into_iter::<Progress>();
        while let Some(line) = lines.next() {
            match line {
                Ok(progress) => {
                    used = lines.byte_offset();
                    show(&progress)?;
                    if let Some(message) = progress.error {
                        let code = progress.error_detail.and_then(|detail| detail.code);
                        return Err(FailedProgress { message, code }.into());
                    }
                }
                Err(error) if error.is_eof() && !ended => break,
                Err(error) => return Err(error.into()),
            }
        }
        rest.drain(..used);
        if ended {
            return Ok(());
        }
    }
}

/// How many pieces of an upload wait for the connection.
const WAITING_PIECES: usize = 8;
const PIECE_BYTES: usize = 256 << 10;

/// Sends what `write` writes, from a thread of its own.
pub(crate) fn upload(
    write: impl FnOnce(&mut dyn Write) -> std::io::Result<()> + Send + 'static,
) -> mpsc::Receiver<std::io::Result<Bytes>> {
    struct Pieces(mpsc::Sender<std::io::Result<Bytes>>);
    impl Write for Pieces {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes)));
            sent.map_err(|_| std::io::Error::from(std::io::ErrorKind::BrokenPipe))?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let (sender, receiver) = mpsc::channel(WAITING_PIECES);
    std::thread::spawn(move || {
        let mut pieces = std::io::BufWriter::with_capacity(PIECE_BYTES, Pieces(sender.clone()));
        if let Err(error) = write(&mut pieces).and_then(|()| pieces.flush()) {
            // If the daemon has gone, the request's own error says so.
            let _ = sender.blocking_send(Err(error));
        }
    });
    receiver
}

/// Prints an answer's body as it comes.
pub(crate) async fn print_body(response: Response<Incoming>, mut to: impl Write) -> Result<()> {
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await.transpose()? {
        if let Ok(data) = frame.into_data() {
            to.write_all(&data)?;
        }
    }
    Ok(to.flush()?)
}

/// A time that a listing shows: `2 hours ago`.
pub(crate) fn ago(seconds_since_1970: i64) -> String {
    let now = jiff::Timestamp::now().as_second();
    format!("{} ago", sampan_docker_api::units::human_duration(now - seconds_since_1970))
}

/// The first 12 digits of an id.
pub(crate) fn short(id: &str) -> &str {
    let hex = id.strip_prefix("sha256:").unwrap_or(id);
    hex.get(..12).unwrap_or(hex)
}

/// A size such as `64m`, in bytes, for a flag.
pub(crate) fn parse_size(text: &str) -> Result<i64, String> {
    sampan_docker_api::written::bytes(text)
}

/// Whether there is no such thing.
pub(crate) fn is_not_found(error: &anyhow::Error) -> bool {
    let status = error.downcast_ref::<crate::client::DaemonError>().map(|e| e.status);
    status == Some(http::StatusCode::NOT_FOUND)
}

/// This machine's architecture as images and Docker name it.
pub(crate) fn goarch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
