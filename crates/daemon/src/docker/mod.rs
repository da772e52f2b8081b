//! Docker's Engine API as a skin over the engine: it translates and decides nothing.
//!
//! * [`convert`], [`show`]: from Docker's words to the engine's, and back.
//! * [`containers`], [`listing`], [`top`], [`copy`], [`stats`], [`execs`], [`images`], [`registry`], [`builds`], [`volumes`], [`system`], [`info`],
//!   [`swarm`]: the routes.
//! * [`hijack`]: attach and exec streams. [`filters`], [`error`]: what all routes share.
//!
//! A path may begin with a version, `/v1.43/…`; it is taken off before the routes see it. Versions from 1.24 on are
//! answered, all in the form of the newest one.

mod builds;
mod containers;
mod convert;
mod copy;
mod error;
mod execs;
mod filters;
mod hijack;
mod images;
mod info;
mod listing;
mod networks;
mod registry;
mod show;
mod stats;
mod store;
mod swarm;
mod system;
mod top;
mod volumes;

use std::collections::BTreeMap;

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, head, post};
use http::{HeaderValue, Request, Uri};
use sampan_base::Timestamp;
use sampan_docker_api::{API_VERSION, MIN_API_VERSION};
use sampan_engine::Engine;

use crate::metrics::Metrics;
use error::ApiError;

/// Where a request of a version that is not answered is led: no route, so that only [`not_found`] sees it.
const NO_ROUTE: &str = "/wrong-version";
/// The longest JSON body that is read.
const MAX_BODY_BYTES: usize = 8 << 20;

/// The answer to whatever is asked while nothing can be done.
pub(crate) fn unavailable(message: &str) -> Response {
    ApiError { status: http::StatusCode::SERVICE_UNAVAILABLE, message: message.to_owned() }.into_response()
}

/// All routes, without versions in their paths.
pub(crate) fn router(engine: Engine, metrics: Metrics) -> Router {
    Router::new()
        .route("/_ping", get(system::ping))
        .route("/_ping", head(system::ping))
        .route("/version", get(info::version))
        .route("/info", get(info::info))
        .route("/events", get(system::events))
        .route("/system/df", get(system::disk_usage))
        .route("/auth", post(registry::auth))
        .route("/containers/json", get(listing::list))
        .route("/containers/create", post(containers::create))
        .route("/containers/prune", post(listing::prune))
        .route("/containers/{id}", delete(containers::remove))
        .route("/containers/{id}/{alias}", delete(containers::remove_link))
        .route("/containers/{id}/json", get(containers::inspect))
        .route("/containers/{id}/start", post(containers::start))
        .route("/containers/{id}/stop", post(containers::stop))
        .route("/containers/{id}/restart", post(containers::restart))
        .route("/containers/{id}/kill", post(containers::kill))
        .route("/containers/{id}/pause", post(containers::pause))
        .route("/containers/{id}/unpause", post(containers::unpause))
        .route("/containers/{id}/rename", post(containers::rename))
        .route("/containers/{id}/wait", post(containers::wait))
        .route("/containers/{id}/logs", get(containers::logs))
        .route("/containers/{id}/attach", post(containers::attach))
        .route("/containers/{id}/attach/ws", get(hijack::web_socket))
        .route("/containers/{id}/resize", post(containers::resize))
        .route("/containers/{id}/top", get(top::top))
        .route("/containers/{id}/changes", get(containers::changes))
        .route("/containers/{id}/export", get(containers::export))
        .route("/containers/{id}/update", post(containers::update))
        .route("/containers/{id}/stats", get(stats::stats))
        .route("/containers/{id}/archive", head(copy::stat).get(copy::get).put(copy::put))
        .route("/containers/{id}/exec", post(execs::create))
        .route("/exec/{id}/json", get(execs::inspect))
        .route("/exec/{id}/start", post(execs::start))
        .route("/exec/{id}/resize", post(execs::resize))
        .route("/commit", post(images::commit))
        .route("/build", post(builds::build))
        .route("/build/prune", post(builds::cache::prune))
        .route("/images/json", get(images::list))
        .route("/images/create", post(images::create))
        .route("/images/load", post(images::load))
        .route("/images/get", get(images::save))
        .route("/images/prune", post(images::prune))
        .route(
            "/images/search",
            get(async || {
                ApiError::unsupported("searching registries is not supported: sampan pulls by name")
            }),
        )
        // An image's name may hold slashes, so what follows it can't be a route.
        .route("/images/{*name_and_verb}", get(images::get).post(images::post).delete(images::delete))
        .route("/distribution/{*name_and_verb}", get(registry::distribution))
        .route("/volumes", get(volumes::list))
        .route("/volumes/create", post(volumes::create))
        .route("/volumes/prune", post(volumes::prune))
        .route("/volumes/{name}", get(volumes::inspect).delete(volumes::remove))
        .route("/sampan/check", post(store::check))
        .route("/sampan/analyze", get(store::analyze))
        .route("/sampan/squash", post(store::squash))
        .route("/networks", get(networks::list))
        .route("/networks/create", post(networks::create))
        .route("/networks/prune", post(networks::prune))
        .route("/networks/{name}", get(networks::inspect).delete(networks::remove))
        .route("/networks/{name}/connect", post(networks::connect))
        .route("/networks/{name}/disconnect", post(networks::disconnect))
        .merge(swarm::router())
        .fallback(not_found)
        .method_not_allowed_fallback(not_found)
        .layer(axum::extract::DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(axum::middleware::map_response(add_headers))
        .layer(axum::middleware::from_fn_with_state(metrics, crate::metrics::record))
        .with_state(engine)
}

/// Why a request's version is not answered.
#[derive(Clone, Debug)]
struct WrongVersion(String);

async fn not_found(method: http::Method, uri: Uri, wrong: Option<axum::Extension<WrongVersion>>) -> Response {
    let path = uri.path();
    if let Some(axum::Extension(WrongVersion(why))) = wrong {
        return ApiError::invalid(why).into_response();
    }
    if ["/session", "/grpc"].contains(&path) {
        return ApiError::unsupported(
            "BuildKit's protocol is not supported: set DOCKER_BUILDKIT=0, or use `sampan build`",
        )
        .into_response();
    }
    // The names of images have slashes, those of containers and networks have not: `inspect` asks for all of them.
    for (kind, suffix, sentence) in
        [("/containers/", "/json", "No such container: "), ("/networks/", "", "No such network: ")]
    {
        let name = path.strip_prefix(kind).and_then(|p| p.strip_suffix(suffix));
        if let Some(name) = name.filter(|n| method == http::Method::GET && n.contains('/')) {
            let message = format!("{sentence}{name}");
            return ApiError { status: http::StatusCode::NOT_FOUND, message }.into_response();
        }
    }
    ApiError::no_page().into_response()
}

async fn add_headers(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert("api-version", HeaderValue::from_static(API_VERSION));
    headers.insert("docker-experimental", HeaderValue::from_static("false"));
    headers.insert("ostype", HeaderValue::from_static("linux"));
    headers.insert(
        http::header::SERVER,
        HeaderValue::from_static(concat!("sampan/", env!("CARGO_PKG_VERSION"))),
    );
    response
}

/// The version that a request's path has: 1.`0`. One without has the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ApiVersion(pub(crate) u32);

/// Takes the version off a request's path. One that is not answered leads to a page that says so.
pub(crate) fn strip_version(mut request: Request<Body>) -> Request<Body> {
    let uri = request.uri().clone();
    let Some((version, rest)) = uri.path().strip_prefix("/v").and_then(|p| p.split_once('/')) else {
        return request;
    };
    let minor = |version: &str| version.strip_prefix("1.").and_then(|n| n.parse::<u32>().ok());
    let Some(asked) = minor(version) else { return request };
    request.extensions_mut().insert(ApiVersion(asked));
    let query = uri.query().map(|q| format!("?{q}")).unwrap_or_default();
    let wrong = if asked < minor(MIN_API_VERSION).unwrap_or(0) {
        Some(format!(
            "client version {version} is too old. Minimum supported API version is {MIN_API_VERSION}, \
             please upgrade your client to a newer version"
        ))
    } else if asked > minor(API_VERSION).unwrap_or(u32::MAX) {
        Some(format!("client version {version} is too new. Maximum supported API version is {API_VERSION}"))
    } else {
        None
    };
    let path = match wrong {
        Some(why) => {
            request.extensions_mut().insert(WrongVersion(why));
            NO_ROUTE.to_owned()
        }
        None => format!("/{rest}{query}"),
    };
    if let Ok(stripped) = path.parse::<Uri>() {
        *request.uri_mut() = stripped;
    }
    request
}

/// A parameter that is on by `1`, `true` and the like, as Docker reads them: off are absence, ``, `0`, `no`, `false`, `none`.
pub(crate) fn is_on(text: Option<&String>) -> bool {
    text.is_some_and(|t| !matches!(t.trim().to_lowercase().as_str(), "" | "0" | "no" | "false" | "none"))
}

/// A parameter that is a time: `1700000000`, `1700000000.5` or RFC 3339.
pub(crate) fn time(query: &Query, key: &str) -> error::Answer<Option<Timestamp>> {
    let Some(text) = query.get(key).filter(|t| !t.is_empty()) else { return Ok(None) };
    let invalid = || ApiError::invalid(format!("invalid value for \"{key}\": {text}"));
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let nanos = format!("{fraction:0<9}").get(..9).and_then(|f| f.parse::<i32>().ok());
    match (seconds.parse::<i64>(), nanos) {
        (Ok(seconds), Some(nanos)) => Timestamp::from_unix(seconds, nanos).map(Some).map_err(|_| invalid()),
        _ => text.parse().map(Some).map_err(|_| invalid()),
    }
}

/// The parameters of a request, the first one of each name, as Go reads them: docker-py sends some twice.
#[derive(Debug)]
pub(crate) struct Query(pub(crate) BTreeMap<String, String>);

impl std::ops::Deref for Query {
    type Target = BTreeMap<String, String>;

    fn deref(&self) -> &BTreeMap<String, String> {
        &self.0
    }
}

impl<S: Sync> axum::extract::FromRequestParts<S> for Query {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut http::request::Parts, _: &S) -> error::Answer<Query> {
        let pairs = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(&parts.uri)
            .map_err(|e| ApiError::invalid(sampan_base::chain(&e)))?;
        let mut first = BTreeMap::new();
        for (key, value) in pairs.0 {
            first.entry(key).or_insert(value);
        }
        Ok(Query(first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_come_off_the_path() {
        for (path, expected) in [
            ("/v1.43/containers/json?all=1", "/containers/json?all=1"),
            ("/containers/json", "/containers/json"),
            ("/v2/x", "/v2/x"),
            ("/version", "/version"),
        ] {
            let request = Request::builder().uri(path).body(Body::empty()).unwrap();
            assert_eq!(strip_version(request).uri().to_string(), expected);
        }
        for (path, expected) in [
            (
                "/v1.12/info",
                "client version 1.12 is too old. Minimum supported API version is 1.24, please upgrade your client to a newer version",
            ),
            ("/v1.99/x", "client version 1.99 is too new. Maximum supported API version is 1.50"),
        ] {
            let request = strip_version(Request::builder().uri(path).body(Body::empty()).unwrap());
            assert_eq!(request.uri(), NO_ROUTE);
            assert_eq!(request.extensions().get::<WrongVersion>().unwrap().0, expected);
        }
    }
}
