//! The routes of volumes.

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::{Extension, Json};
use http::StatusCode;
use sampan_docker_api::volume as wire;
use sampan_engine::Engine;
use sampan_engine::volumes::{NewVolume, Volume};

use super::containers::json;
use super::error::{Answer, ApiError};
use super::filters::Filters;
use super::{ApiVersion, Query, is_on};

/// The label by which clients know a volume whose name was made up.
const ANONYMOUS: &str = "com.docker.volume.anonymous";

fn show(volume: Volume) -> wire::Volume {
    let mut labels = volume.record.labels;
    if volume.record.anonymous {
        labels.insert(ANONYMOUS.to_owned(), String::new());
    }
    let created = volume.record.created.unix_seconds();
    let created = sampan_base::Timestamp::from_unix(created, 0).unwrap_or(volume.record.created);
    wire::Volume {
        created_at: created.to_string(),
        driver: "local".to_owned(),
        labels: (!labels.is_empty()).then_some(labels),
        mountpoint: volume.directory.display().to_string(),
        name: volume.record.name,
        options: (!volume.record.options.is_empty()).then_some(volume.record.options),
        scope: "local".to_owned(),
    }
}

pub(crate) async fn list(State(engine): State<Engine>, query: Query) -> Answer<Json<wire::VolumeList>> {
    let known = ["name", "label", "driver", "dangling"];
    let filters = Filters::parse(query.get("filters").map(String::as_str), &known)?;
    let dangling = flag(&filters, "dangling")?;
    let mut volumes = Vec::new();
    for volume in engine.volumes().await? {
        let unused = dangling.map(|wanted| engine.volume_users(&volume.record.name).is_empty() == wanted);
        let shown = show(volume);
        if unused.unwrap_or(true)
            && filters.any("name", |name| shown.name.contains(name))
            && filters.any("driver", |driver| shown.driver == driver)
            && filters.labels(shown.labels.as_ref().unwrap_or(&Default::default()))
        {
            volumes.push(shown);
        }
    }
    Ok(Json(wire::VolumeList { volumes, warnings: None }))
}

/// A filter that is on or off.
fn flag(filters: &Filters, key: &str) -> Answer<Option<bool>> {
    match filters.values(key) {
        [] => Ok(None),
        [one] => match one.to_lowercase().as_str() {
            "1" | "true" => Ok(Some(true)),
            "0" | "false" => Ok(Some(false)),
            _ => Err(ApiError::invalid(format!("invalid filter '{key}=[{one}]'"))),
        },
        more => Err(ApiError::invalid(format!("invalid filter '{key}={more:?}'"))),
    }
}

pub(crate) async fn create(
    State(engine): State<Engine>,
    body: Bytes,
) -> Answer<(StatusCode, Json<wire::Volume>)> {
    let request: wire::VolumeCreate = json(&body)?;
    let new = NewVolume {
        name: request.name,
        labels: request.labels,
        driver: request.driver,
        options: request.driver_opts,
        ..NewVolume::default()
    };
    let volume = engine.volume_create(new).await?;
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

/// The version from which on a prune leaves named volumes alone.
const NAMED_STAY: ApiVersion = ApiVersion(42);

pub(crate) async fn prune(
    State(engine): State<Engine>,
    query: Query,
    version: Option<Extension<ApiVersion>>,
) -> Answer<Json<wire::VolumesPruned>> {
    let filters = Filters::parse(query.get("filters").map(String::as_str), &["all", "label", "label!"])?;
    let old = version.is_some_and(|Extension(version)| version.0 < NAMED_STAY.0);
    let all = flag(&filters, "all")?.unwrap_or(old);
    let wanted = |volume: &Volume| {
        let shown = show(volume.clone());
        (all || volume.record.anonymous) && filters.labels(&shown.labels.unwrap_or_default())
    };
    let (removed, space_reclaimed) = engine.volumes_prune(wanted).await?;
    Ok(Json(wire::VolumesPruned {
        volumes_deleted: (!removed.is_empty()).then_some(removed),
        space_reclaimed,
    }))
}
