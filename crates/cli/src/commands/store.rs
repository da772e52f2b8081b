//! The commands on the engine's space: `system df`, `system prune`, `system check`.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use sampan_docker_api::container::{ContainerSummary, ContainersPruned};
use sampan_docker_api::image::{ImageDeleted, ImageSummary, ImagesPruned};
use sampan_docker_api::store::CheckReport;
use sampan_docker_api::units::human_size;
use sampan_docker_api::volume::VolumesPruned;
use serde::Deserialize;
use serde_json::Value;

use super::container::{confirm, filters};
use super::{ago, say, short, system};
use crate::client::{Client, query};
use crate::table;

/// `sampan system …`
#[derive(Subcommand)]
pub(crate) enum Group {
    /// Show the space that images, containers, volumes and the build cache take
    Df(Df),
    /// Remove what nothing uses
    Prune(Prune),
    /// Look whether the image store is whole
    Check(Check),
    /// Show what happens in the engine
    Events(system::Events),
    /// Show what the engine is and has
    Info,
}

pub(crate) async fn group(client: &Client, group: Group) -> Result<ExitCode> {
    match group {
        Group::Df(command) => disk_usage(client, command).await,
        Group::Prune(command) => prune(client, command).await,
        Group::Check(command) => check(client, command).await,
        Group::Events(command) => system::events(client, command).await,
        Group::Info => system::info(client).await,
    }
}

/// `sampan system df`
#[derive(Args)]
pub(crate) struct Df {
    /// A row for each thing
    #[arg(short, long)]
    verbose: bool,
    /// How to print
    #[arg(long, value_parser = ["table", "json"], default_value = "table")]
    format: String,
}

/// What `GET /system/df` answers, as far as it is shown.
#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Usage {
    layers_size: u64,
    images: Vec<ImageSummary>,
    containers: Vec<ContainerSummary>,
    volumes: Vec<Value>,
    build_cache: Option<Vec<Value>>,
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

async fn disk_usage(client: &Client, command: Df) -> Result<ExitCode> {
    let answer: Value = client.get("/system/df").await?;
    if command.format == "json" {
        say(serde_json::to_string(&answer)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let usage: Usage = serde_json::from_value(answer)?;
    if command.verbose {
        print_verbose(&usage)?
    } else {
        print_sums(&usage)?
    }
    Ok(ExitCode::SUCCESS)
}

/// A number of bytes that can be had back, with its share of all.
fn reclaimable(bytes: u64, of: u64) -> String {
    match (bytes * 100).checked_div(of) {
        Some(percent) => format!("{} ({percent}%)", human_size(bytes)),
        None => human_size(bytes),
    }
}

fn print_sums(usage: &Usage) -> Result<()> {
    let used = |i: &&ImageSummary| i.containers > 0;
    // What used images have of their layers alone, and one time what they share, is not to be had.
    let in_use: u64 = usage.images.iter().filter(used).map(|i| unsigned(i.size)).sum();
    let image_free = usage.layers_size.saturating_sub(in_use);
    let running = |c: &&ContainerSummary| matches!(c.state.as_str(), "running" | "paused" | "restarting");
    let written = |c: &ContainerSummary| unsigned(c.size_rw.unwrap_or(0));
    let container_bytes: u64 = usage.containers.iter().map(written).sum();
    let container_free: u64 = usage.containers.iter().filter(|c| !running(c)).map(written).sum();
    let size_of = |v: &Value| v.pointer("/UsageData/Size").and_then(Value::as_u64).unwrap_or(0);
    let users = |v: &Value| v.pointer("/UsageData/RefCount").and_then(Value::as_i64).unwrap_or(0);
    let volume_bytes: u64 = usage.volumes.iter().map(size_of).sum();
    let volume_free: u64 = usage.volumes.iter().filter(|v| users(v) == 0).map(size_of).sum();
    let cache = usage.build_cache.as_deref().unwrap_or_default();
    let cached = |c: &Value| c.get("Size").and_then(Value::as_u64).unwrap_or(0);
    let cache_used = cache.iter().filter(|c| c.get("InUse").and_then(Value::as_bool) == Some(true)).count();
    let cache_bytes: u64 = cache.iter().map(cached).sum();
    let row = |what: &str, total: usize, active: usize, size: u64, free: u64| {
        vec![
            what.to_owned(),
            total.to_string(),
            active.to_string(),
            human_size(size),
            reclaimable(free, size),
        ]
    };
    let images_used = usage.images.iter().filter(used).count();
    let containers_used = usage.containers.iter().filter(running).count();
    let volumes_used = usage.volumes.iter().filter(|v| users(v) > 0).count();
    let rows = [
        row("Images", usage.images.len(), images_used, usage.layers_size, image_free),
        row("Containers", usage.containers.len(), containers_used, container_bytes, container_free),
        row("Local Volumes", usage.volumes.len(), volumes_used, volume_bytes, volume_free),
        row("Build Cache", cache.len(), cache_used, cache_bytes, cache_bytes),
    ];
    Ok(table::print(&["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"], &rows)?)
}

fn print_verbose(usage: &Usage) -> Result<()> {
    say("Images space usage:\n")?;
    let mut rows = Vec::new();
    for image in &usage.images {
        let (size, shared) = (unsigned(image.size), unsigned(image.shared_size));
        let names = image.repo_tags.clone().filter(|t| !t.is_empty());
        for name in names.unwrap_or_else(|| vec!["<none>:<none>".to_owned()]) {
            let (repository, tag) = name.rsplit_once(':').unwrap_or((&name, "<none>"));
            rows.push(vec![
                repository.to_owned(),
                tag.to_owned(),
                short(&image.id).to_owned(),
                ago(image.created),
                human_size(size),
                human_size(shared),
                human_size(size.saturating_sub(shared)),
                image.containers.to_string(),
            ]);
        }
    }
    let header =
        ["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE", "SHARED SIZE", "UNIQUE SIZE", "CONTAINERS"];
    table::print(&header, &rows)?;
    say("\nContainers space usage:\n")?;
    let row = |c: &ContainerSummary| {
        let name = c.names.first().map_or("", |n| n.trim_start_matches('/')).to_owned();
        let size = human_size(unsigned(c.size_rw.unwrap_or(0)));
        vec![short(&c.id).to_owned(), c.image.clone(), c.command.clone(), size, c.status.clone(), name]
    };
    let rows: Vec<_> = usage.containers.iter().map(row).collect();
    table::print(&["CONTAINER ID", "IMAGE", "COMMAND", "SIZE", "STATUS", "NAMES"], &rows)?;
    say("\nLocal Volumes space usage:\n")?;
    let number = |v: &Value, at: &str| v.pointer(at).and_then(Value::as_u64).unwrap_or(0);
    let text = |v: &Value, key: &str| v.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let row = |v: &Value| {
        let size = human_size(number(v, "/UsageData/Size"));
        vec![text(v, "Name"), number(v, "/UsageData/RefCount").to_string(), size]
    };
    let rows: Vec<_> = usage.volumes.iter().map(row).collect();
    table::print(&["VOLUME NAME", "LINKS", "SIZE"], &rows)?;
    let cache = usage.build_cache.as_deref().unwrap_or_default();
    let total: u64 = cache.iter().map(|c| number(c, "/Size")).sum();
    say(format_args!("\nBuild cache usage: {}\n", human_size(total)))?;
    let row = |c: &Value| {
        let id = text(c, "ID").chars().take(12).collect();
        vec![id, text(c, "Type"), human_size(number(c, "/Size")), text(c, "Description")]
    };
    let rows: Vec<_> = cache.iter().map(row).collect();
    Ok(table::print(&["CACHE ID", "CACHE TYPE", "SIZE", "DESCRIPTION"], &rows)?)
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
    let mut what = vec!["all stopped containers"];
    if command.volumes {
        what.push("all anonymous volumes that no container uses");
    }
    what.push(if command.all { "all images that no container uses" } else { "all images without a name" });
    what.push("the build cache");
    if !command.force && !confirm(&format!("This removes {}.", what.join(", ")))? {
        return Ok(ExitCode::SUCCESS);
    }
    let wanted = filters(&command.filter)?;
    let path = format!("/containers/prune{}", query(&[("filters", &wanted)]));
    let containers: ContainersPruned = client.post_json(&path, &()).await?;
    let mut space = containers.space_reclaimed;
    section("Deleted Containers:", containers.containers_deleted.unwrap_or_default())?;
    if command.volumes {
        let volumes: VolumesPruned = client.post_json("/volumes/prune", &()).await?;
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
