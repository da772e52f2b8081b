//! The routes of volumes.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use http::StatusCode;
use sampan_docker_api::volume as wire;
use sampan_engine::Engine;
use sampan_engine::volumes::Volume;

use super::containers::json;
use super::error::{Answer, ApiError};
use super::filters::Filters;
use super::{Query, is_on};

fn show(volume: Volume) -> wire::Volume {
    let mut labels = volume.record.labels;
    if volume.record.anonymous {
        labels.insert("com.docker.volume.anonymous".to_owned(), String::new());
    }
    wire::Volume {
        created_at: volume.record.created.to_string(),
        driver: "local".to_owned(),
        labels: (!labels.is_empty()).then_some(labels),
        mountpoint: volume.directory.display().to_string(),
        name: volume.record.name,
        options: None,
        scope: "local".to_owned(),
    }
}

pub(crate) async fn list(State(engine): State<Engine>, query: Query) -> Answer<Json<wire::VolumeList>> {
    let filters = Filters::parse(query.get("filters").map(String::as_str), &["name", "label", "driver"])?;
    let wanted = |v: &wire::Volume| {
        filters.any("name", |name| v.name.contains(name))
            && filters.any("driver", |driver| v.driver == driver)
            && filters.labels(v.labels.as_ref().unwrap_or(&Default::default()))
    };
    let volumes = engine.volumes().await?.into_iter().map(show).filter(wanted).collect();
    Ok(Json(wire::VolumeList { volumes, warnings: None }))
}

pub(crate) async fn create(
    State(engine): State<Engine>,
    body: Bytes,
) -> Answer<(StatusCode, Json<wire::Volume>)> {
    let request: wire::VolumeCreate = json(&body)?;
    if !matches!(request.driver.as_str(), "" | "local") {
        return Err(ApiError::unsupported(format!(
            "volume driver `{}` is not supported: use local",
            request.driver
        )));
    }
    if !request.driver_opts.is_empty() {
        return Err(ApiError::unsupported("options of the local volume driver are not supported yet"));
    }
    let name = Some(request.name).filter(|n| !n.is_empty());
    let volume = engine.volume_create(name, request.labels).await?;
    Ok((StatusCode::CREATED, Json(show(volume))))
}

pub(crate) async fn inspect(
    State(engine): State<Engine>,
    Path(name): Path<String>,
) -> Answer<Json<wire::Volume>> {
    Ok(Json(show(engine.volume(&name).await?)))
}

pub(crate) async fn remove(
    State(engine): State<Engine>,
    Path(name): Path<String>,
    query: Query,
) -> Answer<StatusCode> {
    match engine.volume_remove(&name).await {
        // By force it is no error if there is none.
        Err(sampan_engine::EngineError::NoSuchVolume { .. }) if is_on(query.get("force")) => {}
        other => other?,
    }
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn prune(State(engine): State<Engine>, query: Query) -> Answer<Json<wire::VolumesPruned>> {
    let filters = Filters::parse(query.get("filters").map(String::as_str), &["all"])?;
    let all = filters.has("all") && filters.any("all", |v| matches!(v, "1" | "true"));
    let (removed, space_reclaimed) = engine.volumes_prune(all).await?;
    Ok(Json(wire::VolumesPruned { volumes_deleted: Some(removed), space_reclaimed }))
}
