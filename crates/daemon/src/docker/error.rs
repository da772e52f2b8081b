//! Errors as Docker's API answers them: one table from class to status, a JSON body with the message.

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use sampan_base::Class;
use sampan_docker_api::ErrorBody;
use sampan_engine::EngineError;

/// An answer that is an error.
#[derive(Debug)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
}

/// What handlers answer.
pub(crate) type Answer<T> = Result<T, ApiError>;

/// The status of an error's class.
pub(crate) fn status(class: Class) -> StatusCode {
    match class {
        // A command that can't be started is the caller's mistake (Docker: "invalid start config").
        Class::Invalid | Class::CommandNotFound | Class::CommandNotExecutable => StatusCode::BAD_REQUEST,
        Class::NotFound => StatusCode::NOT_FOUND,
        Class::Conflict => StatusCode::CONFLICT,
        Class::NotModified => StatusCode::NOT_MODIFIED,
        Class::Forbidden => StatusCode::FORBIDDEN,
        Class::Unsupported => StatusCode::NOT_IMPLEMENTED,
        // Docker says 503 only of swarms.
        Class::Unavailable | Class::Exhausted | Class::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> ApiError {
        ApiError { status: status(error.class()), message: sampan_base::chain(&error) }
    }
}

impl ApiError {
    /// The request makes no sense.
    pub(crate) fn invalid(message: impl Into<String>) -> ApiError {
        ApiError { status: StatusCode::BAD_REQUEST, message: message.into() }
    }

    /// This daemon can't do it.
    pub(crate) fn unsupported(message: impl Into<String>) -> ApiError {
        ApiError { status: StatusCode::NOT_IMPLEMENTED, message: message.into() }
    }

    /// There is no such page.
    pub(crate) fn no_page() -> ApiError {
        ApiError { status: StatusCode::NOT_FOUND, message: "page not found".to_owned() }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        if self.status == StatusCode::NOT_MODIFIED {
            return self.status.into_response();
        }
        if self.status.is_server_error() {
            tracing::warn!(status = self.status.as_u16(), message = self.message, "a request failed");
        }
        (self.status, axum::Json(ErrorBody { message: self.message })).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_has_its_status() {
        let table: Vec<String> = [
            Class::Invalid,
            Class::NotFound,
            Class::Conflict,
            Class::NotModified,
            Class::Forbidden,
            Class::Unsupported,
            Class::Exhausted,
            Class::Unavailable,
            Class::CommandNotFound,
            Class::CommandNotExecutable,
            Class::Internal,
        ]
        .map(|class| format!("{class:?} {}", status(class).as_u16()))
        .to_vec();
        assert_eq!(
            table.join(", "),
            "Invalid 400, NotFound 404, Conflict 409, NotModified 304, Forbidden 403, Unsupported 501, Exhausted 500, \
             Unavailable 500, CommandNotFound 400, CommandNotExecutable 400, Internal 500"
        );
    }
}
