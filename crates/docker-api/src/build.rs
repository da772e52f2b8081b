//! The lines that a build, an import or a load answers with: a JSON object each.

use serde::{Deserialize, Serialize};

/// One line of progress. A line has one of the fields.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(default)]
pub struct Progress {
    /// Output to print as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// A state to show.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// How far it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<String>,
    /// What the state is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// What went wrong.
    #[serde(rename = "errorDetail", skip_serializing_if = "Option::is_none")]
    pub error_detail: Option<ErrorDetail>,
    /// The same for old clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// A result, such as the image's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aux: Option<serde_json::Value>,
}

/// What went wrong.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(default)]
pub struct ErrorDetail {
    /// The exit code of a step that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<i64>,
    /// For people.
    pub message: String,
}

impl Progress {
    /// Output to print as it is.
    pub fn stream(text: impl Into<String>) -> Progress {
        Progress { stream: Some(text.into()), ..Progress::default() }
    }

    /// A state to show.
    pub fn status(text: impl Into<String>) -> Progress {
        Progress { status: Some(text.into()), ..Progress::default() }
    }

    /// The end of something that failed.
    pub fn error(message: impl Into<String>, code: Option<i64>) -> Progress {
        let message = message.into();
        Progress {
            error: Some(message.clone()),
            error_detail: Some(ErrorDetail { code, message }),
            ..Progress::default()
        }
    }
}
