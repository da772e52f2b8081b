//! The routes of builds: a context comes in, lines of progress go out, as Docker's classic builder writes them, or as
//! `sampan build` asks for them.

pub(crate) mod cache;
mod classic;
mod options;
mod updates;

use axum::body::{Body, Bytes};
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, StreamExt};
use http::Request;
use sampan_docker_api::build::{BuildUpdate, Progress};
use sampan_engine::Engine;
use sampan_engine::build::{BuildFailure, BuildOptions, BuildRequest, CacheSource, Events};
use serde_json::json;
use tokio::sync::{mpsc, oneshot};

use super::Query;
use super::containers::{ChannelWriter, WAITING_PIECES, archive_body};
use super::error::{Answer, ApiError};
use super::images::{body_reader, json_lines, tell};

pub(crate) async fn build(
    State(engine): State<Engine>,
    RawQuery(raw): RawQuery,
    query: Query,
    request: Request<Body>,
) -> Answer<Response> {
    let headers = request.headers().clone();
    let body = body_reader(request);
    let mut wanted = options::read(&query, raw.as_deref(), &headers, body)?;
    if !wanted.updates {
        only_local_caches(&engine, &mut wanted.request.options).await;
    }
    let (quiet, updates) = (wanted.quiet, wanted.updates);
    let names = wanted.request.options.names.clone();
    if wanted.check {
        return check(engine, wanted.request).await;
    }
    let (sender, mut lines) = mpsc::channel::<Bytes>(WAITING_PIECES);
    let (early, mut failed_early) = oneshot::channel();
    let events: Events = if updates {
        let lines = sender.clone();
        Box::new(move |event| {
            if let Some(update) = updates::update(&event) {
                say(&lines, &Progress { update: Some(update), ..Progress::default() });
            }
        })
    } else {
        let shown = classic::Shown::new(sender.clone(), quiet);
        Box::new(move |event| shown.show(&event))
    };
    let (build, result) = engine.build(wanted.request, events);
    tokio::spawn(async move {
        tokio::pin!(result);
        let built = tokio::select! {
            built = &mut result => built,
            () = sender.closed() => {
                tracing::info!("a client has gone: its build is cancelled");
                // Nobody is there any more: end it, and wait until nothing of it is left.
                build.cancel();
                result.await
            }
        };
        match built {
            Ok(image) => {
                let aux = Progress { aux: Some(json!({"ID": image.id})), ..Progress::default() };
                tell(&sender, aux).await;
                if quiet {
                    tell(&sender, Progress::stream(format!("{}\n", image.id))).await;
                } else if !updates {
                    tell(&sender, Progress::stream(format!("Successfully built {}\n", image.id.short())))
                        .await;
                    for name in names {
                        tell(&sender, Progress::stream(format!("Successfully tagged {name}\n"))).await;
                    }
                }
            }
            Err(failure) => {
                // Once the answer has begun, the failure is a line of it.
                if let Err(failure) = early.send(failure) {
                    tell(&sender, told(failure, updates)).await;
                }
            }
        }
    });
    // What goes wrong before anything was said, a Dockerfile that makes no sense above all, has a status of its own.
    let Some(first) = lines.recv().await else {
        let Ok(failure) = failed_early.await else { return Ok(json_lines(Body::empty())) };
        return Err(ApiError { status: super::error::status(failure.class), message: failure.message });
    };
    failed_early.close();
    // It may have failed between its first line and now.
    let last = failed_early.try_recv().ok().map(|failure| told(failure, updates));
    let last = last.and_then(|progress| serde_json::to_vec(&progress).ok());
    let last = last.map(|line| Bytes::from([&line[..], b"\r\n"].concat()));
    let rest = stream::unfold(lines, |mut lines| async move { Some((lines.recv().await?, lines)) });
    let all = stream::iter([first]).chain(rest).chain(stream::iter(last));
    Ok(json_lines(Body::from_stream(all.map(Ok::<_, std::io::Error>))))
}

/// To the classic builder `cachefrom` names images that are here: only what made one of them is taken for made. Its steps
/// are in the builder's own cache; if none of the images is here, nothing is. Images of other registries are asked for.
async fn only_local_caches(engine: &Engine, options: &mut BuildOptions) {
    if options.cache_from.is_empty() {
        return;
    }
    let mut elsewhere = Vec::new();
    let mut here = false;
    for source in std::mem::take(&mut options.cache_from) {
        match &source {
            CacheSource::Registry(name) => match engine.image(name).await {
                Ok(_) => here = true,
                Err(_) if name.split_once('/').is_some_and(|(host, _)| host.contains(['.', ':'])) => {
                    elsewhere.push(source);
                }
                Err(_) => {}
            },
            _ => elsewhere.push(source),
        }
    }
    options.no_cache |= !here && elsewhere.is_empty();
    options.cache_from = elsewhere;
}

/// A failure as the last line of a build's answer.
fn told(failure: BuildFailure, updates: bool) -> Progress {
    match failure.command {
        // The classic builder's words: clients compare them.
        Some((command, code)) if !updates => {
            let text = format!("The command '{command}' returned a non-zero code: {code}");
            Progress::error(text, Some(i64::from(code)))
        }
        Some((_, code)) => Progress::error(failure.message, Some(i64::from(code))),
        None => Progress::error(failure.message, None),
    }
}

/// Only checks a Dockerfile: each warning is a line.
async fn check(engine: Engine, request: BuildRequest) -> Answer<Response> {
    let mut lines = Vec::new();
    match engine.build_check(request).await {
        Ok(warnings) => {
            for (line, text) in warnings {
                let update = Some(BuildUpdate::Warning { line, text });
                lines.push(Progress { update, ..Progress::default() });
            }
        }
        Err(failure) => lines.push(Progress::error(failure.message, None)),
    }
    let mut body = Vec::new();
    for line in &lines {
        serde_json::to_writer(&mut body, line).map_err(|e| ApiError::invalid(e.to_string()))?;
        body.extend_from_slice(b"\r\n");
    }
    Ok(json_lines(Body::from(body)))
}

/// Sends a line from a thread that may wait for a slow client; one that has gone cancels the build elsewhere.
fn say(lines: &mpsc::Sender<Bytes>, progress: &Progress) {
    if let Ok(mut line) = serde_json::to_vec(progress) {
        line.extend(b"\r\n");
        let _ = lines.blocking_send(line.into());
    }
}

/// An image's file system as one tar: an addition of sampan's, for `sampan build --output`.
pub(crate) async fn rootfs(engine: Engine, name: String) -> Answer<Response> {
    // Looked up before the answer begins: after that an error could only cut it off.
    engine.image(&name).await?;
    let (sender, body) = archive_body();
    tokio::spawn(async move {
        if let Err(error) = engine.image_rootfs(&name, Box::new(ChannelWriter::new(sender.clone()))).await {
            tracing::warn!(error = sampan_base::chain(&error), "sending an image's files failed");
            // A client that has gone knows already.
            let _ = sender.send(Err(std::io::Error::other("the export failed"))).await;
        }
    });
    Ok(([(http::header::CONTENT_TYPE, "application/x-tar")], body).into_response())
}
