//! The routes of containers.

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{Request, StatusCode, header};
use sampan_base::{Class, Timestamp};
use sampan_docker_api::container::{
    ChangeRow, ContainerInspect, CreateAnswer, CreateRequest, UpdateAnswer, WaitAnswer,
};
use sampan_docker_api::host_config::HostConfig;
use sampan_docker_api::{detach, reading, stream};
use sampan_engine::attach::Streams;
use sampan_engine::container::update::Update;
use sampan_engine::images::ChangeKind;
use sampan_engine::logs::{LogLine, LogQuery, LogReader};
use sampan_engine::{Engine, EngineError, WaitCondition};
use tokio::sync::mpsc;

use super::error::{Answer, ApiError};
use super::hijack::{self, StreamOptions};
use super::show::{self, Paths};
use super::{Query, convert, is_on, listing, time};

/// How many pieces of an answer wait for a slow client.
pub(crate) const WAITING_PIECES: usize = 16;

/// A streaming body: what is sent into the channel goes to the client.
pub(crate) fn channel_body() -> (mpsc::Sender<Bytes>, Body) {
    let (sender, receiver) = mpsc::channel::<Bytes>(WAITING_PIECES);
    let stream = futures_util::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|bytes| (Ok::<_, std::io::Error>(bytes), receiver))
    });
    (sender, Body::from_stream(stream))
}

/// As [`channel_body`], for what is worth nothing if it is cut off: an error breaks the connection off, so that the client
/// does not take what came for all.
pub(crate) fn archive_body() -> (mpsc::Sender<std::io::Result<Bytes>>, Body) {
    let (sender, receiver) = mpsc::channel(WAITING_PIECES);
    let stream = futures_util::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|piece: std::io::Result<Bytes>| (piece, receiver))
    });
    (sender, Body::from_stream(stream))
}

/// Reads a JSON body; an empty one, or `null`, is the default.
pub(crate) fn json<T: serde::de::DeserializeOwned + Default>(body: &Bytes) -> Answer<T> {
    reading::from_slice(body).map_err(|e| ApiError::invalid(format!("invalid JSON: {e}")))
}

pub(crate) fn number<T: std::str::FromStr>(query: &Query, key: &str) -> Answer<Option<T>> {
    match query.get(key).filter(|t| !t.is_empty()) {
        None => Ok(None),
        Some(text) => match text.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(ApiError::invalid(format!("invalid value of `{key}`: {text}"))),
        },
    }
}

pub(crate) async fn create(
    State(engine): State<Engine>,
    query: Query,
    body: Bytes,
) -> Answer<(StatusCode, Json<CreateAnswer>)> {
    if body.is_empty() {
        return Err(ApiError::invalid("config cannot be empty in order to create a container"));
    }
    let request: CreateRequest = json(&body)?;
    let spec = convert::container_spec(request)?;
    let name = query.get("name").filter(|n| !n.is_empty()).map(|n| n.trim_start_matches('/'));
    let created = engine.create(name, spec).await.map_err(|error| match error {
        EngineError::NoSuchImage { .. } => ApiError::from(error),
        // Clients take 404 for a missing image, and pull it; this is something else that the request names.
        other if other.class() == Class::NotFound => ApiError::invalid(sampan_base::chain(&other)),
        other => other.into(),
    })?;
    Ok((StatusCode::CREATED, Json(CreateAnswer { id: created.id, warnings: created.warnings })))
}

pub(crate) async fn inspect(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    query: Query,
) -> Answer<Json<ContainerInspect>> {
    let view = engine.container(&id)?;
    let root = &engine.config().root;
    let paths = Paths {
        directory: root.join("containers").join(&view.record.id),
        log: engine.log_path(&view.record.id),
        volumes: root.join("volumes"),
        layers: engine.snapshot_directories(&view.record.id).await,
    };
    let execs = engine.running_execs(&view.record.id);
    let mut told = show::inspect(&view, execs, &paths, engine.host().cgroup_v1);
    if is_on(query.get("size")) {
        (told.size_rw, told.size_root_fs) =
            listing::sizes(&engine, &view.record.id, &view.record.image_id).await;
    }
    Ok(Json(told))
}

pub(crate) async fn start(State(engine): State<Engine>, Path(id): Path<String>) -> Answer<StatusCode> {
    engine.start(&id, None).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn signal(query: &Query) -> Answer<Option<i32>> {
    let text = query.get("signal").filter(|t| !t.is_empty());
    Ok(text.map(|t| sampan_engine::parse_signal(t)).transpose()?)
}

pub(crate) async fn stop(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    query: Query,
) -> Answer<StatusCode> {
    engine.stop(&id, signal(&query)?, number(&query, "t")?).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn restart(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    query: Query,
) -> Answer<StatusCode> {
    engine.restart(&id, signal(&query)?, number(&query, "t")?).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn kill(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    query: Query,
) -> Answer<StatusCode> {
    let signal = signal(&query)?.unwrap_or(9);
    engine.kill(&id, signal).await.map_err(|error| {
        let ApiError { status, message } = ApiError::from(error);
        ApiError { status, message: format!("Cannot kill container: {id}: {message}") }
    })?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn pause(State(engine): State<Engine>, Path(id): Path<String>) -> Answer<StatusCode> {
    engine.pause(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn unpause(State(engine): State<Engine>, Path(id): Path<String>) -> Answer<StatusCode> {
    engine.resume(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The body is the part of a container's HostConfig that can change.
pub(crate) async fn update(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    body: Bytes,
) -> Answer<Json<UpdateAnswer>> {
    let host: HostConfig = json(&body)?;
    let policy = &host.restart_policy;
    let update = Update {
        resources: convert::resources(&host)?,
        restart_policy: match policy.name.as_str() {
            "" => None,
            _ => Some(convert::restart_policy(policy)?),
        },
        unlink: None,
    };
    let warnings = engine.update(&id, update).await?;
    Ok(Json(UpdateAnswer { warnings: (!warnings.is_empty()).then_some(warnings) }))
}

pub(crate) async fn rename(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    query: Query,
) -> Answer<StatusCode> {
    let name = query.get("name").filter(|n| !n.is_empty());
    let name = name.ok_or_else(|| ApiError::invalid("Neither old nor new names may be empty"))?;
    engine.rename(&id, name.trim_start_matches('/')).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `DELETE /containers/web/db?link=1`: the container `web` is to know another by the name `db` no more.
pub(crate) async fn remove_link(
    State(engine): State<Engine>,
    Path((id, alias)): Path<(String, String)>,
    query: Query,
) -> Answer<StatusCode> {
    if !is_on(query.get("link")) {
        return Err(EngineError::NoSuchContainer { name: format!("{id}/{alias}") }.into());
    }
    engine.unlink(&id, &alias).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn remove(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    query: Query,
) -> Answer<StatusCode> {
    if is_on(query.get("link")) {
        return Err(ApiError::invalid("a link is named by its container and its name there: web/db"));
    }
    engine.remove(&id, is_on(query.get("force")), is_on(query.get("v"))).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The headers go out at once, so that a client knows that its wait began before it starts the container.
pub(crate) async fn wait(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    query: Query,
) -> Answer<Response> {
    let condition = match query.get("condition").map_or("", String::as_str) {
        "" | "not-running" => WaitCondition::NotRunning,
        "next-exit" => WaitCondition::NextExit,
        "removed" => WaitCondition::Removed,
        other => return Err(ApiError::invalid(format!("invalid condition: \"{other}\""))),
    };
    let ended = engine.wait(&id, condition)?;
    let body = Body::from_stream(futures_util::stream::once(async move {
        let answer = WaitAnswer { status_code: i64::from(ended.await), error: None };
        serde_json::to_vec(&answer).map(|mut bytes| {
            bytes.push(b'\n');
            Bytes::from(bytes)
        })
    }));
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

/// As [`time`]; 0 means none.
fn log_time(query: &Query, key: &str) -> Answer<Option<Timestamp>> {
    if query.get(key).is_some_and(|text| text == "0") { Ok(None) } else { time(query, key) }
}

pub(crate) async fn logs(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    query: Query,
) -> Answer<Response> {
    let view = engine.container(&id)?;
    let (stdout, stderr) = (is_on(query.get("stdout")), is_on(query.get("stderr")));
    if !stdout && !stderr {
        return Err(ApiError::invalid("Bad parameters: you must choose at least one stream"));
    }
    let log_query = LogQuery {
        stdout,
        stderr,
        since: log_time(&query, "since")?,
        until: log_time(&query, "until")?,
        // Anything but a number means all, as in Docker.
        tail: query.get("tail").and_then(|t| t.parse().ok()),
        follow: is_on(query.get("follow")),
        first_words: true,
    };
    let beside = Beside {
        timestamps: is_on(query.get("timestamps")),
        details: is_on(query.get("details")),
        terminal: view.record.spec.tty,
    };
    let terminal = beside.terminal;
    let reader = engine.logs(&id, log_query).await?;
    let (sender, body) = channel_body();
    tokio::spawn(async move {
        if let Err(error) = copy_log(reader, &sender, beside).await {
            tracing::warn!(container = id, error = sampan_base::chain(&error), "reading a log failed");
        }
    });
    let content_type = if terminal {
        "application/vnd.docker.raw-stream"
    } else {
        "application/vnd.docker.multiplexed-stream"
    };
    Ok(([(header::CONTENT_TYPE, content_type)], body).into_response())
}

async fn copy_log(
    mut reader: LogReader,
    to: &mpsc::Sender<Bytes>,
    beside: Beside,
) -> sampan_engine::Result<()> {
    loop {
        let lines;
        (reader, lines) = tokio::select! {
            read = reader.next() => read?,
            // The client has gone; a follower would wait for a line for ever.
            () = to.closed() => return Ok(()),
        };
        if lines.is_empty() || to.send(log_bytes(&lines, beside)).await.is_err() {
            return Ok(());
        }
    }
}

/// What stands beside the lines of a log.
#[derive(Clone, Copy, Default)]
struct Beside {
    timestamps: bool,
    /// What the log's options chose.
    details: bool,
    /// No frames.
    terminal: bool,
}

fn log_bytes(lines: &[LogLine], beside: Beside) -> Bytes {
    let mut bytes = Vec::new();
    for line in lines {
        let mut before = if beside.timestamps { line.at.fixed_width() + " " } else { String::new() };
        if beside.details {
            let pairs: Vec<_> = line.attributes.iter().map(|(k, v)| escaped(k) + "=" + &escaped(v)).collect();
            before += &(pairs.join(",") + " ");
        }
        if !beside.terminal {
            let stream = if line.stderr { stream::STDERR } else { stream::STDOUT };
            let length = u32::try_from(before.len() + line.text.len()).unwrap_or(u32::MAX);
            bytes.extend(stream::header(stream, length));
        }
        bytes.extend(before.as_bytes());
        bytes.extend(line.text.as_bytes());
    }
    bytes.into()
}

/// As in a query string, which is how details are written.
fn escaped(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

pub(crate) async fn attach(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    query: Query,
    request: Request<Body>,
) -> Answer<Response> {
    let view = engine.container(&id)?;
    let terminal = view.record.spec.tty;
    let keys = query.get("detachKeys").filter(|k| !k.is_empty()).map_or(detach::DEFAULT_KEYS, String::as_str);
    let options =
        StreamOptions { terminal, detach_keys: detach::parse_keys(keys).map_err(ApiError::invalid)? };
    let (stdout, stderr) = (is_on(query.get("stdout")), is_on(query.get("stderr")));
    let with_logs = is_on(query.get("logs"));
    if !is_on(query.get("stream")) {
        // Read only when the head of the answer is out, and has been read: some clients (docker-py) lose what comes with
        // it, and nothing tells when they have read it.
        let told = async move {
            tokio::time::sleep(HEAD_IS_READ).await;
            let read = if with_logs {
                log_so_far(&engine, &id, stdout, stderr, terminal).await
            } else {
                Ok(Vec::new())
            };
            Err(read.unwrap_or_else(|error| {
                tracing::warn!(container = id, error = sampan_base::chain(&error), "reading a log failed");
                Vec::new()
            }))
        };
        return Ok(hijack::serve(request, options, Vec::new(), told, std::future::ready(())));
    }
    let prelude =
        if with_logs { log_so_far(&engine, &id, stdout, stderr, terminal).await? } else { Vec::new() };
    let streams = Streams { stdin: is_on(query.get("stdin")), stdout, stderr, stdin_once: false };
    let stream = engine.attach(&id, streams).await?;
    Ok(hijack::serve(
        request,
        options,
        prelude,
        // Without one, the container did not start; its client learns that from the answer to `start`.
        async move { stream.await.ok().and_then(Result::ok).ok_or_else(Vec::new) },
        std::future::ready(()),
    ))
}

/// How long a client takes to read the head of an answer.
const HEAD_IS_READ: std::time::Duration = std::time::Duration::from_millis(3);

/// What a container has said so far, framed as its attached clients see it.
async fn log_so_far(
    engine: &Engine,
    id: &str,
    stdout: bool,
    stderr: bool,
    terminal: bool,
) -> sampan_engine::Result<Vec<u8>> {
    let mut reader = engine.logs(id, LogQuery { stdout, stderr, ..LogQuery::default() }).await?;
    let mut bytes = Vec::new();
    loop {
        let lines;
        (reader, lines) = reader.next().await?;
        if lines.is_empty() {
            return Ok(bytes);
        }
        bytes.extend_from_slice(&log_bytes(&lines, Beside { terminal, ..Beside::default() }));
    }
}

pub(crate) async fn resize(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    query: Query,
) -> Answer<StatusCode> {
    let (rows, columns) = (number(&query, "h")?.unwrap_or(0), number(&query, "w")?.unwrap_or(0));
    engine.resize(&id, rows, columns).await?;
    Ok(StatusCode::OK)
}

pub(crate) async fn changes(
    State(engine): State<Engine>,
    Path(id): Path<String>,
) -> Answer<Json<Option<Vec<ChangeRow>>>> {
    let changes = engine.changes(&id).await?;
    let row = |c: &sampan_engine::images::Change| ChangeRow {
        path: c.path.display().to_string(),
        kind: match c.kind {
            ChangeKind::Modified => 0,
            ChangeKind::Added => 1,
            ChangeKind::Deleted => 2,
        },
    };
    // Docker answers null where nothing changed.
    Ok(Json((!changes.is_empty()).then(|| changes.iter().map(row).collect())))
}

pub(crate) async fn export(State(engine): State<Engine>, Path(id): Path<String>) -> Answer<Response> {
    engine.container(&id)?;
    let (sender, body) = archive_body();
    tokio::spawn(async move {
        if let Err(error) = engine.export(&id, Box::new(ChannelWriter::new(sender.clone()))).await {
            tracing::warn!(container = id, error = sampan_base::chain(&error), "an export failed");
            // A client that has gone knows already.
            let _ = sender.send(Err(std::io::Error::other("the export failed"))).await;
        }
    });
    Ok(([(header::CONTENT_TYPE, "application/x-tar")], body).into_response())
}

/// A writer for blocking code whose bytes go to a client.
pub(crate) struct ChannelWriter {
    sender: mpsc::Sender<std::io::Result<Bytes>>,
    buffer: Vec<u8>,
}

impl ChannelWriter {
    const PIECE: usize = 64 << 10;

    pub(crate) fn new(sender: mpsc::Sender<std::io::Result<Bytes>>) -> ChannelWriter {
        ChannelWriter { sender, buffer: Vec::with_capacity(Self::PIECE) }
    }
}

impl std::io::Write for ChannelWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= Self::PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.buffer, Vec::with_capacity(Self::PIECE));
        self.sender.blocking_send(Ok(piece.into())).map_err(|_| std::io::ErrorKind::BrokenPipe.into())
    }
}

impl Drop for ChannelWriter {
    fn drop(&mut self) {
        // A client that has gone needs no last piece.
        let _ = std::io::Write::flush(self);
    }
}
