//! The commands on volumes.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use sampan_docker_api::volume::{Volume, VolumeCreate, VolumeList, VolumesPruned};

use super::container::{confirm, filters};
use super::{for_each, say};
use crate::client::{Client, encode, query};
use crate::table;

/// `sampan volume …`
#[derive(Subcommand)]
pub(crate) enum Group {
    /// List volumes
    #[command(visible_alias = "list")]
    Ls(List),
    /// Create a volume
    Create(Create),
    /// Show volumes as JSON
    Inspect(Names),
    /// Remove volumes
    Rm(Names),
    /// Remove volumes that no container uses
    Prune(Prune),
}

/// Some volumes.
#[derive(Args)]
pub(crate) struct Names {
    /// Names
    #[arg(required = true, value_name = "VOLUME")]
    names: Vec<String>,
}

/// `sampan volume ls`
#[derive(Args)]
pub(crate) struct List {
    /// Only names
    #[arg(short, long)]
    quiet: bool,
    /// Filter: name=…, label=…
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
}

/// `sampan volume create`
#[derive(Args)]
pub(crate) struct Create {
    /// Set a label
    #[arg(long, value_name = "NAME=VALUE")]
    label: Vec<String>,
    /// Its name; one is made up if there is none
    #[arg(default_value = "", hide_default_value = true)]
    name: String,
}

/// `sampan volume prune`
#[derive(Args)]
pub(crate) struct Prune {
    /// Also those that were given a name
    #[arg(short, long)]
    all: bool,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

pub(crate) async fn group(client: &Client, group: Group) -> Result<ExitCode> {
    match group {
        Group::Ls(command) => list(client, command).await,
        Group::Create(command) => {
            let pair = |l: &String| {
                l.split_once('=').map_or((l.clone(), String::new()), |(k, v)| (k.into(), v.into()))
            };
            let labels = command.label.iter().map(pair).collect();
            let request = VolumeCreate { name: command.name, labels, ..VolumeCreate::default() };
            let volume: Volume = client.post_json("/volumes/create", &request).await?;
            say(volume.name)?;
            Ok(ExitCode::SUCCESS)
        }
        Group::Inspect(command) => super::system::inspect_as(client, &command.names, &["volumes"]).await,
        Group::Rm(command) => {
            for_each(&command.names, async |name| {
                client.delete(&format!("/volumes/{}", encode(name))).await?;
                say(name)
            })
            .await
        }
        Group::Prune(command) => {
            if !command.force && !confirm("This removes volumes that no container uses.")? {
                return Ok(ExitCode::SUCCESS);
            }
            let wanted = if command.all { r#"{"all":["true"]}"# } else { "" };
            let path = format!("/volumes/prune{}", query(&[("filters", wanted)]));
            let pruned: VolumesPruned = client.post_json(&path, &()).await?;
            for name in pruned.volumes_deleted.unwrap_or_default() {
                say(name)?;
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn list(client: &Client, command: List) -> Result<ExitCode> {
    let path = format!("/volumes{}", query(&[("filters", &filters(&command.filter)?)]));
    let volumes: VolumeList = client.get(&path).await?;
    if command.quiet {
        for volume in volumes.volumes {
            say(volume.name)?;
        }
    } else {
        let rows: Vec<_> = volumes.volumes.into_iter().map(|v| vec![v.driver, v.name]).collect();
        table::print(&["DRIVER", "VOLUME NAME"], &rows)?;
    }
    Ok(ExitCode::SUCCESS)
}
