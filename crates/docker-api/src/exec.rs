//! Processes started in a running container.

use serde::{Deserialize, Serialize};

use crate::null_default;

/// The body of `POST /containers/{id}/exec`.
#[derive(Serialize, Deserialize, Debug, Clone, Default)]
#[serde(rename_all = "PascalCase", default)]
pub struct ExecCreate {
    /// `user[:group]`; empty: the container's.
    #[serde(deserialize_with = "null_default")]
    pub user: String,
    /// With all privileges.
    #[serde(deserialize_with = "null_default")]
    pub privileged: bool,
    /// With a terminal.
    #[serde(deserialize_with = "null_default")]
    pub tty: bool,
    /// Rows and columns of the terminal.
    pub console_size: Option<[u32; 2]>,
    /// Attach to this stream.
    #[serde(deserialize_with = "null_default")]
    pub attach_stdin: bool,
    /// Attach to this stream.
    #[serde(deserialize_with = "null_default")]
    pub attach_stderr: bool,
    /// Attach to this stream.
    #[serde(deserialize_with = "null_default")]
    pub attach_stdout: bool,
    /// Do not attach.
    #[serde(deserialize_with = "null_default")]
    pub detach: bool,
    /// The keys that leave the stream.
    #[serde(deserialize_with = "null_default")]
    pub detach_keys: String,
    /// Further environment.
    pub env: Option<Vec<String>>,
    /// Working directory; empty: the container's.
    #[serde(deserialize_with = "null_default")]
    pub working_dir: String,
    /// Command and arguments.
    #[serde(deserialize_with = "null_default")]
    pub cmd: Vec<String>,
}

/// The body of `POST /exec/{id}/start`.
#[derive(Serialize, Deserialize, Debug, Clone, Default)]
#[serde(rename_all = "PascalCase", default)]
pub struct ExecStart {
    /// Answer at once instead of with the streams.
    #[serde(deserialize_with = "null_default")]
    pub detach: bool,
    /// As at creation.
    #[serde(deserialize_with = "null_default")]
    pub tty: bool,
    /// Rows and columns of the terminal.
    pub console_size: Option<[u32; 2]>,
}

/// The answer to `GET /exec/{id}/json`.
#[derive(Serialize, Deserialize, Debug, Clone, Default)]
#[serde(rename_all = "PascalCase", default)]
pub struct ExecInspect {
    /// The exec's id.
    #[serde(rename = "ID")]
    pub id: String,
    /// It runs.
    pub running: bool,
    /// Its exit code, once it has one.
    pub exit_code: Option<i64>,
    /// What runs.
    pub process_config: ExecProcess,
    /// Standard input is open.
    pub open_stdin: bool,
    /// Standard error is attached.
    pub open_stderr: bool,
    /// Standard output is attached.
    pub open_stdout: bool,
    /// It can be removed.
    pub can_remove: bool,
    /// Its container.
    #[serde(rename = "ContainerID")]
    pub container_id: String,
    /// The keys that leave the stream.
    pub detach_keys: String,
    /// The process as the host sees it.
    pub pid: i64,
}

/// What an exec runs.
#[derive(Serialize, Deserialize, Debug, Clone, Default)]
#[serde(default)]
pub struct ExecProcess {
    /// With a terminal.
    pub tty: bool,
    /// The command.
    pub entrypoint: String,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// With all privileges.
    pub privileged: bool,
    /// The user, if one was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}
