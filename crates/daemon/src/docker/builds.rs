//! The routes of builds: a tar comes in, lines of progress go out, as Docker's classic builder writes them.

use std::collections::BTreeMap;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{RawQuery, State};
use axum::response::Response;
use http::Request;
use sampan_base::ImageRef;
use sampan_docker_api::build::Progress;
use sampan_engine::Engine;
use sampan_engine::build::{BuildEvent, BuildOptions, StepNetwork};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::containers::channel_body;
use super::error::{Answer, ApiError};
use super::images::{body_reader, invalid_reference, json_lines, repeated, tell};
use super::{Query, is_on};

pub(crate) async fn build(
    State(engine): State<Engine>,
    RawQuery(raw): RawQuery,
    query: Query,
    request: Request<Body>,
) -> Answer<Response> {
    let context = body_reader(request);
    let options = options(&query, raw.as_deref())?;
    let quiet = is_on(query.get("q"));
    let names = options.names.clone();
    let (sender, body) = channel_body();
    let lines = sender.clone();
    let shown = Shown { quiet, lines };
    let (build, result) = engine.build(context, options, Box::new(move |event| shown.show(&event)));
    tokio::spawn(async move {
        tokio::pin!(result);
        let built = tokio::select! {
            built = &mut result => built,
            () = sender.closed() => {
                tracing::info!("a client has gone: its build is cancelled");
                // Nobody is there any more: end it, and wait until nothing of it is left.
                build.cancel().await;
                result.await
            }
        };
        match built {
            Ok(image) => {
                let aux = Progress { aux: Some(json!({"ID": image.id})), ..Progress::default() };
                tell(&sender, aux).await;
                if quiet {
                    tell(&sender, Progress::stream(format!("{}\n", image.id))).await;
                } else {
                    tell(&sender, Progress::stream(format!("Successfully built {}\n", image.id.short())))
                        .await;
                    for name in names {
                        tell(&sender, Progress::stream(format!("Successfully tagged {name}\n"))).await;
                    }
                }
            }
            Err(failure) => {
                tell(&sender, Progress::error(failure.message, failure.code.map(i64::from))).await
            }
        }
    });
    Ok(json_lines(body))
}

fn options(query: &Query, raw: Option<&str>) -> Answer<BuildOptions> {
    if query.get("version").is_some_and(|v| v == "2") {
        return Err(ApiError::unsupported(
            "builds by BuildKit's protocol are not supported: set DOCKER_BUILDKIT=0",
        ));
    }
    if let Some(remote) = query.get("remote").filter(|r| !r.is_empty() && *r != "client-session") {
        return Err(ApiError::unsupported(format!(
            "a build context from elsewhere is not supported: {remote}"
        )));
    }
    for (key, what) in [("squash", "--squash"), ("outputs", "--output")] {
        if is_on(query.get(key)) {
            return Err(ApiError::unsupported(format!("not supported yet: {what}")));
        }
    }
    let mut names = Vec::new();
    for text in repeated(raw, "t") {
        names.push(text.parse::<ImageRef>().map_err(|e| invalid_reference(&e))?);
    }
    let text = |key: &str| query.get(key).filter(|t| !t.is_empty()).cloned();
    let map = |key: &str| -> Answer<BTreeMap<String, Option<String>>> {
        match query.get(key).filter(|t| !t.is_empty() && *t != "null") {
            None => Ok(BTreeMap::new()),
            Some(text) => {
                serde_json::from_str(text).map_err(|e| ApiError::invalid(format!("invalid `{key}`: {e}")))
            }
        }
    };
    let extra_hosts: Vec<String> = text("extrahosts")
        .map(|t| t.split(',').filter_map(|h| h.split_once(':')).map(|(n, a)| format!("{a} {n}")).collect())
        .unwrap_or_default();
    Ok(BuildOptions {
        dockerfile: text("dockerfile").unwrap_or_else(|| "Dockerfile".to_owned()),
        names,
        target: text("target"),
        // An argument without a value is one that the client does not have.
        build_args: map("buildargs")?.into_iter().filter_map(|(k, v)| Some((k, v?))).collect(),
        labels: map("labels")?.into_iter().map(|(k, v)| (k, v.unwrap_or_default())).collect(),
        no_cache: is_on(query.get("nocache")),
        network: match query.get("networkmode").map_or("", String::as_str) {
            "" | "default" | "bridge" => StepNetwork::Default,
            "none" => StepNetwork::None,
            "host" => StepNetwork::Host,
            other => StepNetwork::Named(other.to_owned()),
        },
        extra_hosts,
        ..BuildOptions::default()
    })
}

/// Writes a build's events as Docker's classic builder writes them.
struct Shown {
    quiet: bool,
    lines: mpsc::Sender<Bytes>,
}

impl Shown {
    fn show(&self, event: &BuildEvent<'_>) {
        let text = match event {
            BuildEvent::StepStarted { step, total, text, .. } => format!("Step {step}/{total} : {text}\n"),
            BuildEvent::Cached { .. } => " ---> Using cache\n".to_owned(),
            BuildEvent::Output { bytes, .. } => String::from_utf8_lossy(bytes).into_owned(),
            BuildEvent::StepDone { state, .. } => format!(" ---> {}\n", state.short()),
            BuildEvent::Warning { text } => format!("[Warning] {text}\n"),
            BuildEvent::Built { .. } => return,
        };
        if self.quiet {
            return;
        }
        if let Ok(mut line) = serde_json::to_vec(&Progress::stream(text)) {
            line.extend(b"\r\n");
            // The builder's thread may wait for a slow client; one that has gone cancels the build elsewhere.
            let _ = self.lines.blocking_send(line.into());
        }
    }
}

pub(crate) async fn prune(State(engine): State<Engine>) -> Answer<Json<Value>> {
    let freed = engine.build_prune().await?;
    Ok(Json(json!({"CachesDeleted": null, "SpaceReclaimed": freed})))
}
