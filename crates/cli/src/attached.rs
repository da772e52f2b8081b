//! A stream that is attached to this program's input and output.

use std::io::Write;

use anyhow::Result;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use sampan_docker_api::detach::DetachScanner;
use sampan_docker_api::stream::{Demultiplexer, STDERR};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf};
use tokio::sync::mpsc;

/// How a stream ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ended {
    /// The process's output is at its end.
    Output,
    /// The person left with the detach keys.
    Detached,
}

/// How a stream is attached.
#[derive(Clone, Debug)]
pub(crate) struct Attachment {
    /// The process has a terminal: bytes are raw.
    pub(crate) terminal: bool,
    /// This program's input goes to the process.
    pub(crate) input: bool,
    /// The keys to leave by; empty: none.
    pub(crate) detach_keys: Vec<u8>,
}

/// Carries bytes both ways until the output ends or the person leaves.
pub(crate) async fn carry(stream: TokioIo<Upgraded>, attachment: Attachment) -> Result<Ended> {
    let (from_process, mut to_process) = tokio::io::split(stream);
    let output = copy_output(from_process, attachment.terminal);
    tokio::pin!(output);
    if !attachment.input {
        // Says that nothing will come, so that the daemon need not wait for it.
        to_process.shutdown().await?;
        return output.await.map(|()| Ended::Output);
    }
    let mut keys = read_input();
    let scanner = DetachScanner::new(if attachment.terminal { attachment.detach_keys } else { Vec::new() });
    let input = async {
        let mut scanner = scanner;
        let mut passed = Vec::new();
        while let Some(bytes) = keys.recv().await {
            passed.clear();
            let leave = scanner.push(&bytes, &mut passed);
            // The process may have ended; what it still says is worth reading.
            if to_process.write_all(&passed).await.is_err() {
                break;
            }
            if leave {
                return Ended::Detached;
            }
        }
        let _ = to_process.shutdown().await;
        std::future::pending().await
    };
    tokio::select! {
        ended = &mut output => ended.map(|()| Ended::Output),
        ended = input => Ok(ended),
    }
}

/// Reads standard input on a thread of its own: a read of a terminal can't be taken back, so nothing may wait for it.
fn read_input() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(4);
    std::thread::spawn(move || {
        let mut buffer = vec![0u8; 16 << 10];
        while let Ok(n @ 1..) = rustix::io::read(std::io::stdin(), &mut buffer) {
            if sender.blocking_send(buffer[..n].to_vec()).is_err() {
                return;
            }
        }
    });
    receiver
}

async fn copy_output(mut from: ReadHalf<TokioIo<Upgraded>>, terminal: bool) -> Result<()> {
    let (mut out, mut err) = (std::io::stdout().lock(), std::io::stderr().lock());
    let mut demultiplexer = Demultiplexer::default();
    let mut buffer = vec![0u8; 32 << 10];
    loop {
        let n = from.read(&mut buffer).await?;
        if n == 0 {
            return Ok(());
        }
        let mut written = Ok(());
        if terminal {
            written = out.write_all(&buffer[..n]);
        } else {
            demultiplexer.push(&buffer[..n], |stream, bytes| {
                let result = if stream == STDERR { err.write_all(bytes) } else { out.write_all(bytes) };
                if result.is_err() {
                    written = result;
                }
            })?;
        }
        written.and_then(|()| out.flush())?;
    }
}
