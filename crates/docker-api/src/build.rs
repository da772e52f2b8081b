//! The lines that a build, an import or a load answers with: a JSON object each. And what `sampan build` asks of sampand
//! beyond Docker's parameters ([`BuildExtras`]), and is told beyond Docker's lines ([`BuildUpdate`]).

use std::collections::BTreeMap;
use std::path::PathBuf;

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
    /// Only if asked for by [`BuildExtras::updates`]: then nothing else is told of the steps.
    #[serde(rename = "sampan", skip_serializing_if = "Option::is_none")]
    pub update: Option<BuildUpdate>,
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

/// The header in which [`BuildExtras`] come, as base64 of JSON.
pub const BUILD_EXTRAS_HEADER: &str = "x-sampan-build";

/// What Docker's `POST /build` has no parameters for. An addition of sampan's: whoever may use the socket may do
/// anything on the host anyway, so nothing here asks for more.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct BuildExtras {
    /// The context is a directory of the daemon's host; there is no body then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directory: Option<HostDirectory>,
    /// The Dockerfile, if it is not in the context.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dockerfile: Option<String>,
    /// More contexts, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub contexts: BTreeMap<String, ExtraContext>,
    /// Secrets by id, each as base64.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, String>,
    /// Sockets of SSH agents on the daemon's host, by id.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub ssh: BTreeMap<String, PathBuf>,
    /// Entitlements: `security.insecure`, `network.host`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<String>,
    /// Stages that are built anew.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub no_cache_filter: Vec<String>,
    /// Where steps may come from: `type=local,src=DIR` and the like, taken apart.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cache_from: Vec<BTreeMap<String, String>>,
    /// Where they are to go.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cache_to: Vec<BTreeMap<String, String>>,
    /// Only check the Dockerfile.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub check: bool,
    /// Answer with [`BuildUpdate`]s.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub updates: bool,
}

/// A directory that both ends see. The daemon refuses it if what it finds at the path is another one, since it lives in
/// another mount namespace or on another host; the client then sends the files.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
pub struct HostDirectory {
    /// Absolute.
    pub path: PathBuf,
    /// `st_dev`
    pub device: u64,
    /// `st_ino`
    pub inode: u64,
}

/// A context with a name of its own.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum ExtraContext {
    /// A directory.
    Directory(HostDirectory),
    /// An image, by its name.
    Image(String),
    /// A git repository or an archive, by its URL.
    Remote(String),
}

/// What happens in a build, as it happens. Steps of several stages go on at once; `step` names each.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum BuildUpdate {
    /// The stages that will be built: how many steps each has.
    Planned {
        /// In the order of the Dockerfile.
        stages: Vec<usize>,
    },
    /// A step starts.
    Started {
        /// Its name from here on.
        step: usize,
        /// The number of its stage, from 0.
        stage: usize,
        /// The name of its stage.
        name: Option<String>,
        /// Its number in the stage, from 1.
        position: usize,
        /// How many steps the stage has.
        of: usize,
        /// Its line in the Dockerfile; 0: none.
        line: usize,
        /// The instruction.
        text: String,
    },
    /// It comes from the cache.
    Cached {
        /// Which.
        step: usize,
    },
    /// Its command wrote something.
    Output {
        /// Which step.
        step: usize,
        /// To standard error.
        stderr: bool,
        /// What.
        text: String,
    },
    /// Something is fetched for it.
    Transfer {
        /// Which step.
        step: usize,
        /// The digest of what is fetched.
        blob: String,
        /// Bytes that are there.
        current: u64,
        /// Bytes that there will be.
        total: u64,
    },
    /// It is done.
    Done {
        /// Which.
        step: usize,
        /// How long it took.
        nanoseconds: u64,
        /// Bytes of the files of its layer.
        layer: Option<u64>,
    },
    /// It failed.
    Failed {
        /// Which.
        step: usize,
        /// How long it took.
        nanoseconds: u64,
        /// It was given up, because another one failed.
        given_up: bool,
    },
    /// The build failed, and this is where: the lines of the Dockerfile, marked, with their neighbours.
    Excerpt {
        /// Several lines.
        text: String,
    },
    /// Something that may not be meant.
    Warning {
        /// The line, from 1; 0: none.
        line: usize,
        /// What.
        text: String,
    },
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
