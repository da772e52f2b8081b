//! `exec`.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use sampan_docker_api::IdAnswer;
use sampan_docker_api::detach;
use sampan_docker_api::exec::{ExecCreate, ExecInspect, ExecStart};

use super::options::environment::environment;
use super::run::{self, container_path, follow_size};
use crate::attached::{self, Attachment, Ended};
use crate::client::Client;
use crate::terminal::{self, RawMode};

/// `sampan exec`
#[derive(Args)]
#[command(trailing_var_arg = true)]
pub(crate) struct Exec {
    /// Return at once
    #[arg(short, long)]
    detach: bool,
    /// The keys that leave the command running
    #[arg(long, default_value = detach::DEFAULT_KEYS)]
    detach_keys: String,
    /// Set an environment variable
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Read environment variables from a file
    #[arg(long, value_name = "FILE")]
    env_file: Vec<String>,
    /// Send standard input
    #[arg(short, long)]
    interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    tty: bool,
    /// Give the command all privileges
    #[arg(long)]
    privileged: bool,
    /// User (and group) that runs the command
    #[arg(short, long, default_value = "", hide_default_value = true, value_name = "USER[:GROUP]")]
    user: String,
    /// Directory that the command starts in
    #[arg(short, long, default_value = "", hide_default_value = true)]
    workdir: String,
    /// Container, command and arguments
    #[arg(required = true, num_args = 2.., allow_hyphen_values = true, value_name = "CONTAINER COMMAND [ARG]...")]
    container_and_command: Vec<String>,
}

pub(crate) async fn exec(client: &Client, command: Exec) -> Result<ExitCode> {
    let Some((container, arguments)) = command.container_and_command.split_first() else {
        bail!("no container was named");
    };
    if command.tty && command.interactive && !command.detach && !terminal::input_is_terminal() {
        bail!("the input device is not a TTY: leave out -t");
    }
    let request = ExecCreate {
        user: command.user,
        privileged: command.privileged,
        tty: command.tty,
        attach_stdin: command.interactive && !command.detach,
        attach_stdout: !command.detach,
        attach_stderr: !command.detach,
        detach: command.detach,
        detach_keys: command.detach_keys.clone(),
        env: Some(environment(&command.env, &command.env_file)?),
        working_dir: command.workdir,
        cmd: arguments.to_vec(),
        ..ExecCreate::default()
    };
    let id = client.post_json::<IdAnswer>(&container_path(container, "exec"), &request).await?.id;
    let size =
        terminal::size().filter(|_| command.tty).map(|(rows, columns)| [u32::from(rows), u32::from(columns)]);
    let start = ExecStart { detach: command.detach, tty: command.tty, console_size: size };
    let path = format!("/exec/{id}/start");
    if command.detach {
        let body = crate::client::full(serde_json::to_vec(&start)?);
        client.request(http::Method::POST, &path, body, "application/json").await?;
        return Ok(ExitCode::SUCCESS);
    }
    let stream = client.upgrade(&path, serde_json::to_vec(&start)?).await?;
    let raw = if command.tty && command.interactive { Some(RawMode::enter()?) } else { None };
    if command.tty {
        follow_size(client.clone(), format!("/exec/{id}/resize"));
    }
    let detach_keys = detach::parse_keys(&command.detach_keys).map_err(anyhow::Error::msg)?;
    let attachment = Attachment { terminal: command.tty, input: command.interactive, detach_keys };
    let ended = attached::carry(stream, attachment).await;
    drop(raw);
    if ended? == Ended::Detached {
        return Ok(ExitCode::SUCCESS);
    }
    let inspect: ExecInspect = client.get(&format!("/exec/{id}/json")).await?;
    Ok(run::exit_code(inspect.exit_code.unwrap_or(0)))
}
