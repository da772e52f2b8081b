//! Swarm's routes, answered as an engine does that is in no swarm; and plugins, of which there are none.

use axum::Router;
use axum::extract::Path;
use axum::routing::{any, get, post};
use http::StatusCode;
use sampan_engine::Engine;
use serde_json::json;

use super::error::ApiError;

/// The routes.
pub(crate) fn router() -> Router<Engine> {
    let mut router = Router::new()
        .route("/swarm", any(not_a_manager))
        .route("/swarm/init", post(no_swarm_mode))
        .route("/swarm/join", post(no_swarm_mode))
        .route("/swarm/leave", post(not_in_a_swarm))
        .route("/swarm/{*rest}", any(not_a_manager))
        .route("/plugins", get(async || axum::Json(json!([]))))
        // A plugin's name may hold slashes, so what follows it can't be a route.
        .route("/plugins/{*name_and_verb}", any(no_plugins));
    for kind in ["nodes", "services", "tasks", "secrets", "configs"] {
        router = router
            .route(&format!("/{kind}"), any(not_a_manager))
            .route(&format!("/{kind}/{{*rest}}"), any(not_a_manager));
    }
    router
}

async fn not_a_manager() -> ApiError {
    let message = "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect \
                   this node to swarm and try again.";
    ApiError { status: StatusCode::SERVICE_UNAVAILABLE, message: message.to_owned() }
}

async fn not_in_a_swarm() -> ApiError {
    let message = "This node is not part of a swarm".to_owned();
    ApiError { status: StatusCode::SERVICE_UNAVAILABLE, message }
}

async fn no_swarm_mode() -> ApiError {
    ApiError::unsupported("sampan has no swarm mode: use a cluster (`sampan cluster`)")
}

async fn no_plugins(Path(path): Path<String>) -> ApiError {
    match path.strip_suffix("/json") {
        // `docker inspect` tries everything that there could be, and takes this for a no.
        Some(name) => {
            ApiError { status: StatusCode::NOT_FOUND, message: format!("plugin \"{name}\" not found") }
        }
        None => ApiError::unsupported("sampan has no plugins: volumes and networks are its own"),
    }
}
