//! The routes of execs.

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use sampan_docker_api::exec::{ExecCreate, ExecInspect, ExecProcess, ExecStart};
use sampan_docker_api::{IdAnswer, detach, stream};
use sampan_engine::exec::{ExecPhase, ExecSpec};
use sampan_engine::{Engine, EngineError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::Query;
use super::containers::json;
use super::error::{Answer, ApiError};
use super::hijack::{self, StreamOptions};

pub(crate) async fn create(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    body: Bytes,
) -> Answer<(StatusCode, Json<IdAnswer>)> {
    let request: ExecCreate = json(&body)?;
    let text = |s: String| Some(s).filter(|s| !s.is_empty());
    let spec = ExecSpec {
        args: request.cmd,
        env: request.env.unwrap_or_default(),
        working_dir: text(request.working_dir),
        user: text(request.user),
        tty: request.tty,
        privileged: request.privileged,
        stdin: request.attach_stdin,
        stdout: request.attach_stdout,
        stderr: request.attach_stderr,
        detach_keys: request.detach_keys,
    };
    let id = engine.exec_create(&id, spec).await?;
    Ok((StatusCode::CREATED, Json(IdAnswer { id })))
}

pub(crate) async fn inspect(
    State(engine): State<Engine>,
    Path(id): Path<String>,
) -> Answer<Json<ExecInspect>> {
    let view = engine.exec_inspect(&id)?;
    let (running, exit_code, pid) = match view.phase {
        ExecPhase::Created | ExecPhase::Starting => (false, None, 0),
        ExecPhase::Running { pid } => (true, None, pid),
        ExecPhase::Exited { code, pid } => (false, Some(i64::from(code)), pid),
    };
    let (entrypoint, arguments) = match view.spec.args.split_first() {
        Some((first, rest)) => (first.clone(), rest.to_vec()),
        None => (String::new(), Vec::new()),
    };
    Ok(Json(ExecInspect {
        id: view.id,
        running,
        exit_code,
        process_config: ExecProcess {
            tty: view.spec.tty,
            entrypoint,
            arguments,
            privileged: view.spec.privileged,
            user: view.spec.user,
        },
        open_stdin: view.spec.stdin,
        open_stderr: view.spec.stderr,
        open_stdout: view.spec.stdout,
        can_remove: false,
        container_id: view.container,
        detach_keys: view.spec.detach_keys,
        pid: i64::from(pid),
    }))
}

pub(crate) async fn start(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    request: Request<Body>,
) -> Answer<Response> {
    let (parts, body) = request.into_parts();
    let limited = http_body_util::Limited::new(body, super::MAX_BODY_BYTES);
    let body =
        limited.collect().await.map_err(|e| ApiError::invalid(format!("cannot read the request: {e}")))?;
    let wanted: ExecStart = json(&body.to_bytes())?;
    let view = engine.exec_inspect(&id)?;
    let console = wanted.console_size.map(|[rows, columns]| (rows, columns)).filter(|size| *size != (0, 0));
    let keys = Some(view.spec.detach_keys.as_str()).filter(|k| !k.is_empty());
    let detach_keys = detach::parse_keys(keys.unwrap_or(detach::DEFAULT_KEYS)).map_err(ApiError::invalid)?;
    // Whoever starts it says whether the stream is raw, whatever the process has.
    let (terminal, process_tty) = (wanted.tty, view.spec.tty);
    let options = StreamOptions { terminal, detach_keys };
    let request = Request::from_parts(parts, Body::empty());
    if wanted.detach {
        engine.exec_start(&id, true, console).await?;
        return Ok(StatusCode::OK.into_response());
    }
    engine.exec_may_start(&id).await?;
    let stream = {
        let (engine, id) = (engine.clone(), id.clone());
        async move {
            match engine.exec_start(&id, false, console).await {
                Ok(Some(stream)) if process_tty != terminal => {
                    reframed(stream, process_tty).ok_or_else(Vec::new)
                }
                Ok(stream) => stream.ok_or_else(Vec::new),
                // The stream has begun by now, as in Docker: clients print what it says and then ask for the exit code.
                Err(error) => Err(last_words(&error, terminal)),
            }
        }
    };
    // The shim ends the stream when the process has ended. Clients ask for the exit code then: it must be known.
    let ended = async move { drop(engine.exec_wait(&id).await) };
    Ok(hijack::serve(request, options, Vec::new(), stream, ended))
}

/// Frames what comes raw, or takes the frames off; what the client sends passes as it is.
fn reframed(shim: UnixStream, is_raw: bool) -> Option<UnixStream> {
    // Without a pair of sockets (no descriptors are left) the client gets nothing.
    let (own, other) = UnixStream::pair().ok()?;
    tokio::spawn(async move {
        let (mut from_shim, mut to_shim) = shim.into_split();
        let (mut from_client, mut to_client) = own.into_split();
        let output = async {
            let mut demultiplexer = stream::Demultiplexer::default();
            let mut bytes = vec![0u8; 16 << 10];
            while let Ok(length @ 1..) = from_shim.read(&mut bytes).await {
                let mut out = Vec::with_capacity(length + stream::HEADER_BYTES);
                if is_raw {
                    out.extend(stream::header(stream::STDOUT, u32::try_from(length).unwrap_or(0)));
                    out.extend_from_slice(&bytes[..length]);
                } else if demultiplexer.push(&bytes[..length], |_, part| out.extend_from_slice(part)).is_err()
                {
                    break;
                }
                if to_client.write_all(&out).await.is_err() {
                    break;
                }
            }
            // The client sees the end; one that has gone needs not.
            let _ = to_client.shutdown().await;
        };
        let input = async {
            // The process sees the end of its input; one that has gone needs not.
            let _ = tokio::io::copy(&mut from_client, &mut to_shim).await;
            let _ = to_shim.shutdown().await;
        };
        tokio::join!(output, input);
    });
    Some(other)
}

fn last_words(error: &EngineError, terminal: bool) -> Vec<u8> {
    let text = format!("{}\r\n", sampan_base::chain(error));
    let mut words = Vec::new();
    if !terminal {
        words.extend(stream::header(stream::STDOUT, u32::try_from(text.len()).unwrap_or(0)));
    }
    words.extend(text.bytes());
    words
}

pub(crate) async fn resize(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    query: Query,
) -> Answer<StatusCode> {
    let number = |key: &str| query.get(key).and_then(|t| t.parse().ok()).unwrap_or(0);
    engine.exec_resize(&id, number("h"), number("w")).await?;
    Ok(StatusCode::OK)
}
