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
    /// The same in numbers.
    #[serde(rename = "progressDetail", skip_serializing_if = "Option::is_none")]
    pub progress_detail: Option<ProgressDetail>,
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

/// How far something is, of how much. Without a total it is not known, or not the point.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, Default, PartialEq, Eq)]
#[serde(default)]
pub struct ProgressDetail {
    /// So far.
    #[serde(skip_serializing_if = "is_zero")]
    pub current: u64,
    /// In all.
    #[serde(skip_serializing_if = "is_zero")]
    pub total: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's skip_serializing_if passes a reference")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl ProgressDetail {
    /// The bar that Docker draws for clients that can't: `[====>     ]  1.2MB/3MB`.
    pub fn bar(&self) -> String {
        const WIDTH: u64 = 50;
        let done = self.current.saturating_mul(WIDTH).checked_div(self.total).unwrap_or(0).min(WIDTH);
        let (done, left) = (usize::try_from(done).unwrap_or(0), usize::try_from(WIDTH - done).unwrap_or(0));
        let (current, total) = (crate::units::human_size(self.current), crate::units::human_size(self.total));
        format!("[{}>{}] {current:>8}/{total}", "=".repeat(done), " ".repeat(left))
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_long_as_what_is_done() {
        let bar = |current, total| ProgressDetail { current, total }.bar();
        assert_eq!(bar(0, 0), format!("[>{}]       0B/0B", " ".repeat(50)));
        assert_eq!(
            bar(1_000_000, 2_000_000),
            format!("[{}>{}]      1MB/2MB", "=".repeat(25), " ".repeat(25))
        );
        assert_eq!(bar(9, 3), format!("[{}>]       9B/3B", "=".repeat(50)));
    }

    #[test]
    fn a_detail_without_numbers_is_an_empty_object() {
        let line =
            Progress { progress_detail: Some(ProgressDetail::default()), ..Progress::status("Waiting") };
        assert_eq!(serde_json::to_string(&line).unwrap(), r#"{"status":"Waiting","progressDetail":{}}"#);
    }
}
