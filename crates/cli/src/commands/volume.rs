//! The commands on volumes.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use sampan_docker_api::units::human_size_digits;
use sampan_docker_api::volume::{Volume, VolumeCreate, VolumeList, VolumesPruned};
use sampan_template::Value;

use super::container::{confirm, filters};
use super::inspect::InspectKind;
use super::options::pairs;
use super::{fail, is_not_found, say, tell};
use crate::client::{Client, encode, query};
use crate::listing::{Format, label_method, labels};

/// `sampan volume …`
#[derive(Subcommand)]
pub(crate) enum Group {
    /// List volumes
    #[command(visible_alias = "list")]
    Ls(List),
    /// Create a volume
    Create(Create),
    /// Show all about volumes
    Inspect(InspectKind),
    /// Remove volumes
    #[command(visible_alias = "remove")]
    Rm(Remove),
    /// Remove volumes that no container uses
    Prune(Prune),
}

/// `sampan volume ls`
#[derive(Args)]
pub(crate) struct List {
    /// Only names
    #[arg(short, long)]
    quiet: bool,
    /// Filter: name=…, label=…, driver=…, dangling=…
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// How to print: table, json, or a Go template
    #[arg(
        long,
        visible_alias = "output",
        default_value = "",
        hide_default_value = true,
        value_name = "FORMAT"
    )]
    format: String,
}

/// `sampan volume create`
#[derive(Args)]
pub(crate) struct Create {
    /// The driver
    #[arg(short, long, default_value = "local")]
    driver: String,
    /// Set a label
    #[arg(long, value_name = "NAME=VALUE")]
    label: Vec<String>,
    /// Option of the driver: type=…, device=…, o=…
    #[arg(short, long, value_name = "NAME=VALUE")]
    opt: Vec<String>,
    /// Its name; one is made up if there is none
    #[arg(default_value = "", hide_default_value = true)]
    name: String,
}

/// `sampan volume rm`
#[derive(Args)]
pub(crate) struct Remove {
    /// Do not mind volumes that are not there
    #[arg(short, long)]
    force: bool,
    /// Names
    #[arg(required = true, value_name = "VOLUME")]
    names: Vec<String>,
}

/// `sampan volume prune`
#[derive(Args)]
pub(crate) struct Prune {
    /// Also those that were given a name
    #[arg(short, long)]
    all: bool,
    /// Filter: label=…, label!=…
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

pub(crate) async fn group(client: &Client, group: Group) -> Result<ExitCode> {
    match group {
        Group::Ls(command) => list(client, command).await,
        Group::Create(command) => {
            let request = VolumeCreate {
                name: command.name,
                driver: command.driver,
                driver_opts: pairs(&command.opt),
                labels: pairs(&command.label),
            };
            let volume: Volume = client.post_json("/volumes/create", &request).await?;
            say(volume.name)?;
            Ok(ExitCode::SUCCESS)
        }
        Group::Inspect(command) => super::inspect::of_kind(client, command, "volume").await,
        Group::Rm(command) => remove(client, command).await,
        Group::Prune(command) => prune(client, command).await,
    }
}

async fn remove(client: &Client, command: Remove) -> Result<ExitCode> {
    let force = query(&[("force", if command.force { "1" } else { "" })]);
    let mut code = ExitCode::SUCCESS;
    for name in &command.names {
        match client.delete(&format!("/volumes/{}{force}", encode(name))).await {
            Ok(_) => say(name)?,
            Err(error) if command.force && is_not_found(&error) => say(name)?,
            Err(error) => code = fail(&error),
        }
    }
    Ok(code)
}

async fn prune(client: &Client, command: Prune) -> Result<ExitCode> {
    let what = if command.all {
        "This will remove all local volumes not used by at least one container."
    } else {
        "This will remove anonymous local volumes not used by at least one container."
    };
    if !command.force && !confirm(what)? {
        return Ok(ExitCode::FAILURE);
    }
    let mut wanted = command.filter.clone();
    if command.all {
        wanted.push("all=true".to_owned());
    }
    let path = format!("/volumes/prune{}", query(&[("filters", &filters(&wanted)?)]));
    let pruned: VolumesPruned = client.post_json(&path, &()).await?;
    let gone = pruned.volumes_deleted.unwrap_or_default();
    if !gone.is_empty() {
        say(format_args!("Deleted Volumes:\n{}\n", gone.join("\n")))?;
    }
    say(format_args!("Total reclaimed space: {}", human_size_digits(pruned.space_reclaimed, 4)))?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) const HEADINGS: [(&str, &str); 10] = [
    ("Name", "VOLUME NAME"),
    ("Driver", "DRIVER"),
    ("Scope", "SCOPE"),
    ("Availability", "AVAILABILITY"),
    ("Group", "GROUP"),
    ("Labels", "LABELS"),
    ("Links", "LINKS"),
    ("Mountpoint", "MOUNTPOINT"),
    ("Size", "SIZE"),
    ("Status", "STATUS"),
];

/// All that a list can show of a volume; links and size where they were counted.
pub(crate) fn row(v: Volume, usage: Option<(i64, u64)>) -> Value {
    let labels_of = v.labels.unwrap_or_default();
    let not = || "N/A".to_owned();
    let size = usage.map_or_else(not, |(_, size)| human_size_digits(size, 4));
    Value::record([
        ("Availability", Value::from("N/A")),
        ("Driver", Value::from(v.driver)),
        ("Group", Value::from("N/A")),
        ("Labels", Value::from(labels(&labels_of))),
        ("Links", Value::from(usage.map_or_else(not, |(links, _)| links.to_string()))),
        ("Mountpoint", Value::from(v.mountpoint)),
        ("Name", Value::from(v.name)),
        ("Scope", Value::from(v.scope)),
        ("Size", Value::from(size)),
        ("Status", Value::from("N/A")),
        ("Label", label_method(labels_of)),
    ])
}

async fn list(client: &Client, command: List) -> Result<ExitCode> {
    let given = crate::settings::format("volumesFormat", &command.format, command.quiet);
    let format = Format::parse(&given, "{{.Driver}}\t{{.Name}}")?;
    let path = format!("/volumes{}", query(&[("filters", &filters(&command.filter)?)]));
    let mut list: VolumeList = client.get(&path).await?;
    for warning in list.warnings.iter().flatten() {
        tell(format_args!("WARNING: {warning}"));
    }
    list.volumes.sort_by(|a, b| a.name.cmp(&b.name));
    if command.quiet {
        for volume in list.volumes {
            say(volume.name)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<Value> = list.volumes.into_iter().map(|v| row(v, None)).collect();
    format.print(&HEADINGS, &rows)?;
    Ok(ExitCode::SUCCESS)
}
