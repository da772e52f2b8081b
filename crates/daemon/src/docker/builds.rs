//! The routes of builds.

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::Request;
use sampan_engine::Engine;

use super::error::{Answer, ApiError};
use super::Query;

pub(crate) async fn build(State(_engine): State<Engine>, _query: Query, _request: Request<Body>) -> Answer<Response> {
    Err(ApiError::unsupported("build"))
}

pub(crate) async fn prune(State(_engine): State<Engine>) -> Answer<Response> {
    Err(ApiError::unsupported("build prune"))
}
