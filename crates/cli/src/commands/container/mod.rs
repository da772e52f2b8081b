//! The commands on containers after their creation.
//!
//! * [`list`]: ps. * [`lifecycle`]: start, stop, restart, kill, pause, unpause, wait, rm, rename, prune.
//! * [`attach`], [`logs`]: what they say. * [`look`]: top, diff, port. * [`stats`]: what they use. * [`update`]: limits changed.
//! * [`copy`]: files in and out. * [`keep`]: commit, export.

pub(crate) mod attach;
pub(crate) mod copy;
pub(crate) mod keep;
pub(crate) mod lifecycle;
pub(crate) mod list;
pub(crate) mod logs;
pub(crate) mod look;
pub(crate) mod stats;
pub(crate) mod update;

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};

use super::inspect::InspectKind;
use super::run;
use crate::client::Client;

/// `sampan container …`
#[derive(Subcommand)]
pub(crate) enum Group {
    /// List containers
    #[command(visible_aliases = ["ps", "list"])]
    Ls(list::List),
    /// Create a container and run a command in it
    Run(Box<run::Run>),
    /// Create a container without starting it
    Create(Box<run::Create>),
    /// Run a command in a running container
    Exec(super::exec::Exec),
    /// Start stopped containers
    Start(attach::Start),
    /// Stop running containers
    Stop(lifecycle::Stop),
    /// Restart containers
    Restart(lifecycle::Stop),
    /// Send a signal to running containers
    Kill(lifecycle::Kill),
    /// Freeze the processes of containers
    Pause(Names),
    /// Thaw the processes of containers
    Unpause(Names),
    /// Remove containers
    #[command(visible_alias = "remove")]
    Rm(lifecycle::Remove),
    /// Rename a container
    Rename(lifecycle::Rename),
    /// Change the limits of containers
    Update(update::Update),
    /// Wait until containers stop, then print their exit codes
    Wait(Names),
    /// Show a container's output
    Logs(logs::Logs),
    /// Attach to a running container
    Attach(attach::Attach),
    /// Copy files between a container and here
    Cp(copy::Copy),
    /// Show the processes of a container
    Top(look::Top),
    /// Show where a container's ports are published
    Port(look::Port),
    /// Show what containers use
    Stats(stats::Stats),
    /// Show what a container changed of its image
    Diff(look::Diff),
    /// Make an image of a container's changes
    Commit(keep::Commit),
    /// Write a container's file system to a tar
    Export(keep::Export),
    /// Show all about containers
    Inspect(InspectKind),
    /// Remove all stopped containers
    Prune(lifecycle::Prune),
}

pub(crate) async fn group(client: &Client, group: Group) -> Result<ExitCode> {
    match group {
        Group::Ls(command) => list::list(client, command).await,
        Group::Run(command) => run::run(client, *command).await,
        Group::Create(command) => run::create(client, *command).await,
        Group::Exec(command) => super::exec::exec(client, command).await,
        Group::Start(command) => attach::start(client, command).await,
        Group::Stop(command) => lifecycle::stop(client, command, "stop").await,
        Group::Restart(command) => lifecycle::stop(client, command, "restart").await,
        Group::Kill(command) => lifecycle::kill(client, command).await,
        Group::Pause(command) => lifecycle::each(client, command, "pause").await,
        Group::Unpause(command) => lifecycle::each(client, command, "unpause").await,
        Group::Rm(command) => lifecycle::remove(client, command).await,
        Group::Rename(command) => lifecycle::rename(client, command).await,
        Group::Update(command) => update::update(client, command).await,
        Group::Wait(command) => lifecycle::wait(client, command).await,
        Group::Logs(command) => logs::logs(client, command).await,
        Group::Attach(command) => attach::attach(client, command).await,
        Group::Cp(command) => copy::copy(client, command).await,
        Group::Top(command) => look::top(client, command).await,
        Group::Port(command) => look::port(client, command).await,
        Group::Stats(command) => stats::stats(client, command).await,
        Group::Diff(command) => look::diff(client, command).await,
        Group::Commit(command) => keep::commit(client, command).await,
        Group::Export(command) => keep::export(client, command).await,
        Group::Inspect(command) => super::inspect::of_kind(client, command, "container").await,
        Group::Prune(command) => lifecycle::prune(client, command).await,
    }
}

/// Some containers.
#[derive(Args)]
pub(crate) struct Names {
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    pub(crate) names: Vec<String>,
}

/// Filters as the API takes them.
pub(crate) fn filters(list: &[String]) -> Result<String> {
    let mut map = std::collections::BTreeMap::<String, Vec<String>>::new();
    for filter in list {
        let Some((key, value)) = filter.split_once('=') else {
            bail!("invalid argument `{filter}` for a filter: it is KEY=VALUE")
        };
        map.entry(key.trim().to_lowercase()).or_default().push(value.trim().to_owned());
    }
    Ok(if map.is_empty() { String::new() } else { serde_json::to_string(&map)? })
}

/// Asks a person who is there; where nobody is, the answer is no.
pub(crate) fn confirm(what: &str) -> Result<bool> {
    super::tell(format_args!("WARNING! {what}\nAre you sure you want to continue? [y/N] "));
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
