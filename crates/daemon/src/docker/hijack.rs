//! Connections that stop being HTTP: attach and exec streams.
//!
//! A client that sends `Upgrade: tcp` gets 101 and then the shim's bytes as they are (raw with a terminal, framed
//! without: the shim frames as Docker does), and what it sends is standard input. A client without the header
//! gets the same bytes as the body of a 200 answer, and can't send.

use axum::body::Body;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use futures_util::SinkExt;
use http::{HeaderMap, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use sampan_docker_api::detach::DetachScanner;
use sampan_docker_api::stream::Demultiplexer;
use sampan_engine::Engine;
use sampan_engine::attach::Streams;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;

use super::error::Answer;
use super::{Query, is_on};

/// How a stream is served.
#[derive(Clone, Debug)]
pub(crate) struct StreamOptions {
    /// The process has a terminal: bytes are raw, and the detach keys are looked for.
    pub(crate) terminal: bool,
    /// The keys; empty: none.
    pub(crate) detach_keys: Vec<u8>,
}

/// Answers `request` with the stream that `stream` gives, when it gives it, or with the last words that it has instead.
/// `prelude` is sent before it; after it the answer ends as soon as `ended` does.
///
/// `stream` is not asked before the answer's head is on its way: clients exist that read the head through a buffer and
/// then the socket without it (docker-py), and would miss what comes with the head.
pub(crate) fn serve<F, E>(
    mut request: Request<Body>,
    options: StreamOptions,
    prelude: Vec<u8>,
    stream: F,
    ended: E,
) -> Response
where
    F: Future<Output = Result<UnixStream, Vec<u8>>> + Send + 'static,
    E: Future<Output = ()> + Send + 'static,
{
    let content_type = if options.terminal {
        "application/vnd.docker.raw-stream"
    } else {
        "application/vnd.docker.multiplexed-stream"
    };
    if !wants_upgrade(request.headers()) {
        let body = Body::from_stream(futures_util::stream::once(async move {
            Ok::<_, std::io::Error>(bytes::Bytes::from(prelude))
        }));
        let rest =
            futures_util::stream::unfold(Pending::Waiting(Box::pin(stream), Box::pin(ended)), read_next);
        let chained = futures_util::StreamExt::chain(
            body.into_data_stream(),
            futures_util::StreamExt::map(rest, |r| r.map_err(axum::Error::new)),
        );
        return (StatusCode::OK, [(header::CONTENT_TYPE, content_type)], Body::from_stream(chained))
            .into_response();
    }
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let client = match upgrade.await {
            Ok(upgraded) => TokioIo::new(upgraded),
            Err(error) => {
                tracing::debug!(%error, "a client went away before its stream began");
                return;
            }
        };
        relay(client, options, prelude, stream, ended).await;
    });
    let headers =
        [(header::CONTENT_TYPE, content_type), (header::CONNECTION, "Upgrade"), (header::UPGRADE, "tcp")];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

enum Pending<F, E> {
    Waiting(std::pin::Pin<Box<F>>, std::pin::Pin<Box<E>>),
    Open(UnixStream, std::pin::Pin<Box<E>>),
    Over,
}

async fn read_next<F: Future<Output = Result<UnixStream, Vec<u8>>>, E: Future<Output = ()>>(
    pending: Pending<F, E>,
) -> Option<(std::io::Result<bytes::Bytes>, Pending<F, E>)> {
    let (mut stream, ended) = match pending {
        Pending::Waiting(future, ended) => match future.await {
            Ok(stream) => (stream, ended),
            Err(words) if words.is_empty() => return None,
            Err(words) => return Some((Ok(words.into()), Pending::Over)),
        },
        Pending::Open(stream, ended) => (stream, ended),
        Pending::Over => return None,
    };
    let mut buffer = vec![0u8; 32 << 10];
    match stream.read(&mut buffer).await {
        Ok(0) => {
            ended.await;
            None
        }
        Ok(n) => {
            buffer.truncate(n);
            Some((Ok(buffer.into()), Pending::Open(stream, ended)))
        }
        Err(error) => Some((Err(error), Pending::Open(stream, ended))),
    }
}

fn wants_upgrade(headers: &HeaderMap) -> bool {
    headers.get(header::UPGRADE).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"tcp"))
}

/// Carries bytes both ways until the process's output ends, the client goes, or it sends the detach keys.
async fn relay<C, F, E>(client: C, options: StreamOptions, prelude: Vec<u8>, stream: F, ended: E)
where
    C: AsyncRead + AsyncWrite + Unpin,
    F: Future<Output = Result<UnixStream, Vec<u8>>>,
    E: Future<Output = ()>,
{
    let (mut from_client, mut to_client) = tokio::io::split(client);
    if to_client.write_all(&prelude).await.is_err() {
        return;
    }
    let process = match stream.await {
        Ok(process) => process,
        Err(words) => {
            // A client that has gone misses them.
            let _ = to_client.write_all(&words).await;
            let _ = to_client.shutdown().await;
            return;
        }
    };
    let (mut from_process, mut to_process) = process.into_split();
    let output = async {
        // Either end may go at any time; then this is over, and nothing is lost that could be kept.
        let _ = tokio::io::copy(&mut from_process, &mut to_client).await;
        ended.await;
        let _ = to_client.shutdown().await;
    };
    let input = async {
        let keys = if options.terminal { options.detach_keys } else { Vec::new() };
        if copy_input(&mut from_client, &mut to_process, DetachScanner::new(keys)).await == InputEnd::Detached
        {
            return;
        }
        // The end of its input is not the end of the client: it still reads.
        let _ = to_process.shutdown().await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = output => {}
        () = input => {}
    }
}

/// `attach/ws`: the stream in messages of a WebSocket, standard output and error without frames, as Docker sends them;
/// what the client sends is standard input.
pub(crate) async fn web_socket(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    query: Query,
    upgrade: WebSocketUpgrade,
) -> Answer<Response> {
    let view = engine.container(&id)?;
    // Without any, docker's own tools mean all of them.
    let named = ["stdin", "stdout", "stderr"].iter().any(|key| query.contains_key(*key));
    let on = |key: &str| !named || is_on(query.get(key));
    let streams =
        Streams { stdin: on("stdin"), stdout: on("stdout"), stderr: on("stderr"), stdin_once: false };
    let stream = engine.attach(&id, streams).await?;
    let framed = !view.record.spec.tty;
    Ok(upgrade.on_upgrade(async move |socket| {
        if let Some(process) = stream.await.ok().and_then(Result::ok) {
            relay_messages(socket, process, framed).await;
        }
    }))
}

async fn relay_messages(socket: WebSocket, process: UnixStream, framed: bool) {
    let (mut to_client, mut from_client) = futures_util::StreamExt::split(socket);
    let (mut from_process, mut to_process) = process.into_split();
    let output = async {
        let mut frames = Demultiplexer::default();
        let mut buffer = vec![0u8; 32 << 10];
        while let Ok(n @ 1..) = from_process.read(&mut buffer).await {
            let mut text = Vec::new();
            if !framed {
                text.extend_from_slice(&buffer[..n]);
            } else if frames.push(&buffer[..n], |_, part| text.extend_from_slice(part)).is_err() {
                break;
            }
            if !text.is_empty() && to_client.send(Message::Binary(text.into())).await.is_err() {
                return;
            }
        }
        // The client may have gone.
        let _ = to_client.send(Message::Close(None)).await;
    };
    let input = async {
        while let Some(Ok(message)) = futures_util::StreamExt::next(&mut from_client).await {
            let bytes = match message {
                Message::Text(text) => text.into(),
                Message::Binary(bytes) => bytes,
                Message::Close(_) => return,
                Message::Ping(_) | Message::Pong(_) => continue,
            };
            if to_process.write_all(&bytes).await.is_err() {
                // The process takes no more; its output goes on.
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        () = output => {}
        () = input => {}
    }
}

#[derive(PartialEq, Eq, Debug)]
enum InputEnd {
    Closed,
    Detached,
}

async fn copy_input(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    mut scanner: DetachScanner,
) -> InputEnd {
    let mut buffer = vec![0u8; 16 << 10];
    let mut passed = Vec::new();
    loop {
        let Ok(n @ 1..) = from.read(&mut buffer).await else { return InputEnd::Closed };
        passed.clear();
        let detached = scanner.push(&buffer[..n], &mut passed);
        if to.write_all(&passed).await.is_err() {
            return InputEnd::Closed;
        }
        if detached {
            return InputEnd::Detached;
        }
    }
}
