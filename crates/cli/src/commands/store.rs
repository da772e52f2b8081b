//! The commands on the engine's space: `system prune`, `system check`.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use sampan_docker_api::container::ContainersPruned;
use sampan_docker_api::image::{ImageDeleted, ImagesPruned};
use sampan_docker_api::store::CheckReport;
use sampan_docker_api::units::human_size;
use sampan_docker_api::volume::VolumesPruned;
use serde_json::Value;

use super::container::{confirm, filters};
use super::{df, network, say, system};
use crate::client::{Client, query};

/// `sampan system …`
#[derive(Subcommand)]
pub(crate) enum Group {
    /// Show the space that images, containers, volumes and the build cache take
    Df(df::Df),
    /// Remove what nothing uses
    Prune(Prune),
    /// Look whether the image store is whole
    Check(Check),
    /// Show what happens in the engine
    Events(system::Events),
    /// Show what the engine is and has
    Info(system::Formatted),
}

pub(crate) async fn group(client: &Client, group: Group) -> Result<ExitCode> {
    match group {
        Group::Df(command) => df::disk_usage(client, command).await,
        Group::Prune(command) => prune(client, command).await,
        Group::Check(command) => check(client, command).await,
        Group::Events(command) => system::events(client, command).await,
        Group::Info(command) => system::info(client, command).await,
    }
}

/// `sampan system prune`
#[derive(Args)]
pub(crate) struct Prune {
    /// All images that no container uses, not only those without a name
    #[arg(short, long)]
    all: bool,
    /// Also volumes that no container uses
    #[arg(long)]
    volumes: bool,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Filter: until=…, label=…, label!=…
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
}

async fn prune(client: &Client, command: Prune) -> Result<ExitCode> {
    let mut what = vec!["all stopped containers", "all networks not used by at least one container"];
    if command.volumes {
        what.push("all anonymous volumes not used by at least one container");
    }
    what.push(if command.all {
        "all images without at least one container associated to them"
    } else {
        "all dangling images"
    });
    what.push("unused build cache");
    if !command.force && !confirm(&format!("This will remove:\n  - {}\n", what.join("\n  - ")))? {
        return Ok(ExitCode::FAILURE);
    }
    let wanted = filters(&command.filter)?;
    let path = format!("/containers/prune{}", query(&[("filters", &wanted)]));
    let containers: ContainersPruned = client.post_json(&path, &()).await?;
    let mut space = containers.space_reclaimed;
    section("Deleted Containers:", containers.containers_deleted.unwrap_or_default())?;
    let networks = format!("/networks/prune{}", query(&[("filters", &wanted)]));
    match client.post_json::<network::Pruned>(&networks, &()).await {
        Ok(gone) => section("Deleted Networks:", gone.networks_deleted.unwrap_or_default())?,
        Err(error) => super::tell(format_args!("sampan: {error:#}")),
    }
    if command.volumes {
        // Volumes have no time of their own to be filtered by.
        let of_volumes: Vec<String> =
            command.filter.iter().filter(|f| !f.starts_with("until=")).cloned().collect();
        let path = format!("/volumes/prune{}", query(&[("filters", &filters(&of_volumes)?)]));
        let volumes: VolumesPruned = client.post_json(&path, &()).await?;
        space += volumes.space_reclaimed;
        section("Deleted Volumes:", volumes.volumes_deleted.unwrap_or_default())?;
    }
    let mut of_images = command.filter.clone();
    of_images.push(format!("dangling={}", !command.all));
    let path = format!("/images/prune{}", query(&[("filters", &filters(&of_images)?)]));
    let images: ImagesPruned = client.post_json(&path, &()).await?;
    space += images.space_reclaimed;
    section("Deleted Images:", images.images_deleted.unwrap_or_default().iter().map(deleted))?;
    if command.filter.is_empty() {
        let cache: Value = client.post_json("/build/prune", &()).await?;
        space += cache.get("SpaceReclaimed").and_then(Value::as_u64).unwrap_or(0);
    }
    say(format_args!("Total reclaimed space: {}", human_size(space)))?;
    Ok(ExitCode::SUCCESS)
}

fn deleted(row: &ImageDeleted) -> String {
    let gone = row.deleted.iter().map(|id| format!("deleted: {id}"));
    row.untagged.iter().map(|name| format!("untagged: {name}")).chain(gone).collect()
}

fn section(title: &str, lines: impl IntoIterator<Item = String>) -> Result<()> {
    let lines: Vec<String> = lines.into_iter().collect();
    if !lines.is_empty() {
        say(format_args!("{title}\n{}\n", lines.join("\n")))?;
    }
    Ok(())
}

/// `sampan system check`
#[derive(Args)]
pub(crate) struct Check {
    /// Also unpack every layer again and compare it with what is on disk
    #[arg(long)]
    deep: bool,
    /// Mend what can be mended; images that can't be are dropped and named
    #[arg(long)]
    repair: bool,
    /// How to print
    #[arg(long, value_parser = ["text", "json"], default_value = "text")]
    format: String,
}

/// Exit code 0: whole, or mended; 1: it is not.
async fn check(client: &Client, command: Check) -> Result<ExitCode> {
    let on = |yes: bool| if yes { "1" } else { "" };
    let path =
        format!("/sampan/check{}", query(&[("deep", on(command.deep)), ("repair", on(command.repair))]));
    let report: CheckReport = client.post_json(&path, &()).await?;
    let left = report.problems.iter().filter(|p| p.mended.is_none()).count();
    if command.format == "json" {
        say(serde_json::to_string(&report)?)?;
    } else {
        for problem in &report.problems {
            let done = problem.mended.as_ref().map(|m| format!(": {m}")).unwrap_or_default();
            say(format_args!("{}: {}{done}", problem.subject, problem.what))?;
        }
        say(format_args!(
            "{} images, {} blobs ({}), {} unpacked layers, {} container file systems: {}",
            report.images,
            report.blobs,
            human_size(report.blob_bytes),
            report.layers,
            report.snapshots,
            match (report.problems.len(), left) {
                (0, _) => "no problems".to_owned(),
                (all, 0) => format!("{all} problems mended"),
                (_, left) if command.repair => format!("{left} problems left"),
                (_, left) => format!("{left} problems (`--repair` mends what can be mended)"),
            }
        ))?;
    }
    Ok(if left == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
