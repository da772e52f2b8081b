//! The routes of the engine itself: ping, version, info, events, networks.

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header;
use sampan_base::Timestamp;
use sampan_docker_api::container::ContainerSummary;
use sampan_engine::Engine;
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;

use super::containers::channel_body;
use super::error::{Answer, ApiError};
use super::filters::Filters;
use super::{Query, show, time};

pub(crate) async fn ping() -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::CACHE_CONTROL, "no-cache, no-store, must-revalidate"),
        (header::PRAGMA, "no-cache"),
        // Tells docker's command line to send builds to /build as they are.
        (header::HeaderName::from_static("builder-version"), "1"),
    ];
    (headers, "OK").into_response()
}

pub(crate) async fn disk_usage(State(engine): State<Engine>) -> Answer<Json<Value>> {
    let images = engine.images().await?;
    let layers = sampan_engine::images::layer_bytes(&images);
    let shared = super::images::shared_bytes(&images);
    let mut volumes = Vec::new();
    for volume in engine.volumes().await? {
        let name = &volume.record.name;
        let usage =
            json!({"Size": engine.volume_bytes(name).await?, "RefCount": engine.volume_users(name).len()});
        volumes.push(json!({
            "Name": name, "Driver": "local", "Mountpoint": volume.directory, "Scope": "local", "UsageData": usage,
            "CreatedAt": volume.record.created, "Labels": volume.record.labels, "Options": null,
        }));
    }
    let mut containers = Vec::new();
    for view in engine.containers() {
        let summary = show::summary(&view, &engine.config().root.join("volumes"), Timestamp::now());
        let written = i64::try_from(engine.written_bytes(&view.record.id).await?).unwrap_or(i64::MAX);
        containers.push(ContainerSummary { size_rw: Some(written), ..summary });
    }
    Ok(Json(json!({
        "LayersSize": layers,
        "Images": images.iter().map(|i| json!({
            "Id": i.id, "Size": i.size, "SharedSize": shared[&i.id], "VirtualSize": i.size, "ParentId": "",
            "Containers": containers.iter().filter(|c| c.image_id == i.id.to_string()).count(),
            "Created": i.created.map_or(0, Timestamp::unix_seconds), "Labels": i.config.config.labels,
            "RepoTags": i.names.iter().map(|n| n.familiar()).collect::<Vec<_>>(), "RepoDigests": i.digests.iter().map(|n| n.familiar()).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
        "Containers": containers,
        "Volumes": volumes,
        "BuildCache": super::builds::cache::shown(&engine).await?,
        "BuilderSize": 0,
    })))
}

pub(crate) async fn events(State(engine): State<Engine>, query: Query) -> Answer<Response> {
    let known = ["type", "event", "container", "image", "label", "volume", "network", "scope", "daemon"];
    let filters = Filters::parse(query.get("filters").map(String::as_str), &known)?;
    let nanos = |key| Ok::<_, ApiError>(time(&query, key)?.map(Timestamp::unix_nanos));
    let (since, until) = (nanos("since")?, nanos("until")?);
    let (past, mut live) = engine.events().subscribe();
    let wanted = move |event: &sampan_engine::events::Event| {
        let line = show::event(event);
        let names = |kind: &str| {
            filters.any(kind, |v| {
                let name = line.actor.attributes.get("name").map_or("", String::as_str);
                line.kind == kind && (line.actor.id.starts_with(v) || name == v)
                    || kind == "image" && line.actor.attributes.get("image").is_some_and(|i| i == v)
            })
        };
        // `exec_create: sh` is an `exec_create`.
        let action = line.action.split(':').next().unwrap_or_default();
        let matches = filters.any("type", |v| line.kind == v)
            && filters.any("event", |v| action == v || line.action == v)
            && ["container", "image", "volume", "network"].iter().all(|kind| names(kind))
            && filters.labels(&line.actor.attributes);
        matches.then_some(line)
    };
    let (sender, body) = channel_body();
    tokio::spawn(async move {
        let send = async |event: &sampan_engine::events::Event| -> bool {
            let Some(line) = wanted(event) else { return true };
            let Ok(mut bytes) = serde_json::to_vec(&line) else { return true };
            bytes.push(b'\n');
            sender.send(Bytes::from(bytes)).await.is_ok()
        };
        for event in &past {
            let at = event.at.unix_nanos();
            let in_time = since.is_some_and(|s| at >= s) && until.is_none_or(|u| at <= u);
            if in_time && !send(event).await {
                return;
            }
        }
        let left = until.map(|until| until - Timestamp::now().unix_nanos());
        let left = left.map(|nanos| std::time::Duration::from_nanos(u64::try_from(nanos).unwrap_or(0)));
        let deadline = async {
            match left {
                // The end that the client asked for.
                Some(left) => tokio::time::sleep(left).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(deadline);
        loop {
            tokio::select! {
                biased;
                () = sender.closed() => return,
                event = live.recv() => match event {
                    Ok(event) => if !send(&event).await { return },
                    // A slow client misses some, as with Docker.
                    Err(RecvError::Lagged(missed)) => tracing::warn!(missed, "a client of events is too slow"),
                    Err(RecvError::Closed) => return,
                },
                () = &mut deadline => return,
            }
        }
    });
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}
