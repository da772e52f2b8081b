//! `stop`, `restart`, `kill`, `pause`, `unpause`, `wait`, `rm`, `rename`, `prune`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use sampan_docker_api::container::{ContainersPruned, WaitAnswer};
use sampan_docker_api::units::human_size_digits;

use super::{Names, confirm, filters};
use crate::client::{Client, encode, query};
use crate::commands::run::container_path;
use crate::commands::{for_each, say};

/// `sampan stop`, `sampan restart`
#[derive(Args)]
pub(crate) struct Stop {
    /// Seconds until it is killed, -1: never
    #[arg(
        short = 't',
        long = "timeout",
        visible_alias = "time",
        allow_hyphen_values = true,
        value_name = "SECONDS"
    )]
    time: Option<i64>,
    /// The signal that asks it to end
    #[arg(short, long, default_value = "", hide_default_value = true)]
    signal: String,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    names: Vec<String>,
}

pub(crate) async fn stop(client: &Client, command: Stop, verb: &str) -> Result<ExitCode> {
    let time = command.time.map(|t| t.to_string()).unwrap_or_default();
    let parameters = query(&[("t", &time), ("signal", &command.signal)]);
    // All at once: each may take its time.
    let acts = command.names.iter().map(|name| {
        let parameters = &parameters;
        async move { client.post(&(container_path(name, verb) + parameters)).await }
    });
    let mut code = ExitCode::SUCCESS;
    for (name, done) in command.names.iter().zip(futures_util::future::join_all(acts).await) {
        match done {
            Ok(()) => say(name)?,
            Err(error) => code = crate::commands::fail(&error),
        }
    }
    Ok(code)
}

/// `sampan kill`
#[derive(Args)]
pub(crate) struct Kill {
    /// The signal
    #[arg(short, long, default_value = "KILL")]
    signal: String,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    names: Vec<String>,
}

pub(crate) async fn kill(client: &Client, command: Kill) -> Result<ExitCode> {
    let parameters = query(&[("signal", &command.signal)]);
    for_each(&command.names, async |name| {
        client.post(&(container_path(name, "kill") + &parameters)).await?;
        say(name)
    })
    .await
}

/// `pause`, `unpause`.
pub(crate) async fn each(client: &Client, command: Names, verb: &str) -> Result<ExitCode> {
    for_each(&command.names, async |name| {
        client.post(&container_path(name, verb)).await?;
        say(name)
    })
    .await
}

/// `sampan rm`
#[derive(Args)]
pub(crate) struct Remove {
    /// Kill it first if it runs
    #[arg(short, long)]
    force: bool,
    /// With its anonymous volumes
    #[arg(short, long)]
    volumes: bool,
    /// Remove the link of this name instead of a container
    #[arg(short, long)]
    link: bool,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    names: Vec<String>,
}

pub(crate) async fn remove(client: &Client, command: Remove) -> Result<ExitCode> {
    let on = |yes: bool| if yes { "1" } else { "" };
    let parameters =
        query(&[("force", on(command.force)), ("v", on(command.volumes)), ("link", on(command.link))]);
    let mut code = ExitCode::SUCCESS;
    for name in &command.names {
        let name = name.trim_start_matches('/');
        match client.delete(&format!("/containers/{}{parameters}", encode(name))).await {
            Ok(_) => say(name)?,
            // What is to be gone is gone.
            Err(error) if command.force && super::super::is_not_found(&error) => {
                super::super::tell(format_args!("sampan: {error:#}"));
            }
            Err(error) => code = super::super::fail(&error),
        }
    }
    Ok(code)
}

/// `sampan rename`
#[derive(Args)]
pub(crate) struct Rename {
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    name: String,
    /// The new name
    new: String,
}

pub(crate) async fn rename(client: &Client, command: Rename) -> Result<ExitCode> {
    client.post(&(container_path(&command.name, "rename") + &query(&[("name", &command.new)]))).await?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn wait(client: &Client, command: Names) -> Result<ExitCode> {
    for_each(&command.names, async |name| {
        let answer: WaitAnswer = client.post_json(&container_path(name, "wait"), &()).await?;
        say(answer.status_code)
    })
    .await
}

/// `sampan container prune`
#[derive(Args)]
pub(crate) struct Prune {
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Filter: until=…, label=…, label!=…
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
}

pub(crate) async fn prune(client: &Client, command: Prune) -> Result<ExitCode> {
    if !command.force && !confirm("This will remove all stopped containers.")? {
        return Ok(ExitCode::FAILURE);
    }
    let path = format!("/containers/prune{}", query(&[("filters", &filters(&command.filter)?)]));
    let pruned: ContainersPruned = client.post_json(&path, &()).await?;
    let gone = pruned.containers_deleted.unwrap_or_default();
    if !gone.is_empty() {
        say(format_args!("Deleted Containers:\n{}\n", gone.join("\n")))?;
    }
    say(format_args!("Total reclaimed space: {}", human_size_digits(pruned.space_reclaimed, 4)))?;
    Ok(ExitCode::SUCCESS)
}
