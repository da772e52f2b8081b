//! sampan's own routes beside Docker's; see `sampan_docker_api::store`.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use sampan_base::ImageRef;
use sampan_docker_api::IdAnswer;
use sampan_engine::Engine;
use sampan_engine::care::{Analysis, CheckOptions, Keep, Report};

use super::error::{Answer, ApiError};
use super::images::new_name;
use super::{Query, is_on};

pub(crate) async fn check(State(engine): State<Engine>, query: Query) -> Answer<Json<Report>> {
    let options = CheckOptions { deep: is_on(query.get("deep")), repair: is_on(query.get("repair")) };
    Ok(Json(engine.check_store(options).await?))
}

pub(crate) async fn analyze(State(engine): State<Engine>, query: Query) -> Answer<Json<Analysis>> {
    Ok(Json(engine.analyze(image(&query)?).await?))
}

pub(crate) async fn squash(
    State(engine): State<Engine>,
    query: Query,
) -> Answer<(StatusCode, Json<IdAnswer>)> {
    let given = |key: &str| query.get(key).filter(|v| !v.is_empty());
    let keep = match (given("keep"), given("from")) {
        (Some(_), Some(_)) => return Err(ApiError::invalid("keep and from exclude each other")),
        (Some(keep), None) => {
            let number = keep.parse();
            Keep::Layers(number.map_err(|_| ApiError::invalid(format!("`{keep}` is no number of layers")))?)
        }
        (None, Some(base)) => Keep::Base(base.clone()),
        (None, None) => Keep::Layers(0),
    };
    let name: Option<ImageRef> =
        given("repo").map(|repository| new_name(repository, given("tag"))).transpose()?;
    let squashed = engine.squash(image(&query)?, keep, name).await?;
    Ok((StatusCode::CREATED, Json(IdAnswer { id: squashed.id.to_string() })))
}

fn image(query: &Query) -> Answer<&str> {
    let image = query.get("image").filter(|i| !i.is_empty());
    image.map(String::as_str).ok_or_else(|| ApiError::invalid("no image was named"))
}
