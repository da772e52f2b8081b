//! The routes of builds: a context comes in, lines of progress go out, as Docker's classic builder writes them, or as
//! `sampan build` asks for them.

pub(crate) mod cache;
mod classic;
mod options;
mod updates;

use axum::body::{Body, Bytes};
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use http::Request;
use sampan_docker_api::build::{BuildUpdate, Progress};
use sampan_engine::Engine;
use sampan_engine::build::{BuildRequest, Events};
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
    let wanted = options::read(&query, raw.as_deref(), &headers, body)?;
    let (quiet, updates) = (wanted.quiet, wanted.updates);
    let names = wanted.request.options.names.clone();
    if wanted.check {
        return check(engine, wanted.request).await;
    }
    let (sender, mut lines) = mpsc::channel::<Bytes>(WAITING_PIECES);
    let (early, failed_early) = oneshot::channel();
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
                let progress = match &failure.command {
                    // The classic builder's words: clients compare them.
                    Some((command, code)) if !updates => Progress::error(
                        format!("The command '{command}' returned a non-zero code: {code}"),
                        Some(i64::from(*code)),
                    ),
                    Some((_, code)) => Progress::error(failure.message.clone(), Some(i64::from(*code))),
                    None => Progress::error(failure.message.clone(), None),
                };
                // Whoever is past the first line takes the failure from the stream.
                if let Err(failure) = early.send(failure) {
                    drop(failure);
                    tell(&sender, progress).await;
                }
            }
        }
    });
    // What goes wrong before anything was said, a Dockerfile that makes no sense above all, has a status of its own.
    let first = tokio::select! {
        biased;
        first = lines.recv() => first,
        Ok(failure) = failed_early => {
            return Err(ApiError { status: super::error::status(failure.class), message: failure.message });
        }
    };
    let rest =
        futures_util::stream::unfold(lines, |mut lines| async move { Some((lines.recv().await?, lines)) });
    let all = futures_util::StreamExt::chain(futures_util::stream::iter(first), rest);
    Ok(json_lines(Body::from_stream(futures_util::StreamExt::map(all, Ok::<_, std::io::Error>))))
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
