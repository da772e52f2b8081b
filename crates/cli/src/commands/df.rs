//! `system df`: the space that images, containers, volumes and the build cache take.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use sampan_docker_api::container::ContainerSummary;
use sampan_docker_api::image::ImageSummary;
use sampan_docker_api::units::human_size_digits;
use sampan_docker_api::volume::Volume;
use sampan_template::Value;
use serde::Deserialize;

use super::{ago, container, image, say, volume};
use crate::client::Client;
use crate::listing::{Format, json_line};

/// `sampan system df`
#[derive(Args)]
pub(crate) struct Df {
    /// A row for each thing
    #[arg(short, long)]
    verbose: bool,
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

/// What `GET /system/df` answers, as far as it is shown.
#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Usage {
    layers_size: u64,
    images: Option<Vec<ImageSummary>>,
    containers: Option<Vec<ContainerSummary>>,
    volumes: Option<Vec<UsedVolume>>,
    build_cache: Option<Vec<CacheEntry>>,
}

/// A volume, with how much of it is used by whom.
#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct UsedVolume {
    #[serde(flatten)]
    volume: Volume,
    usage_data: Option<VolumeUsage>,
}

#[derive(Deserialize, Default, Clone, Copy)]
#[serde(rename_all = "PascalCase", default)]
struct VolumeUsage {
    size: i64,
    ref_count: i64,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct CacheEntry {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "Type")]
    kind: String,
    description: String,
    in_use: bool,
    shared: bool,
    size: i64,
    created_at: String,
    last_used_at: Option<String>,
    usage_count: i64,
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

fn human(bytes: u64) -> String {
    human_size_digits(bytes, 4)
}

impl UsedVolume {
    fn size(&self) -> u64 {
        self.usage_data.map_or(0, |u| unsigned(u.size))
    }

    fn users(&self) -> i64 {
        self.usage_data.map_or(0, |u| u.ref_count)
    }
}

pub(crate) async fn disk_usage(client: &Client, command: Df) -> Result<ExitCode> {
    let usage: Usage = client.get("/system/df").await?;
    if command.verbose {
        verbose(&usage, &command.format)?;
        return Ok(ExitCode::SUCCESS);
    }
    let table = "{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}";
    let headings = [
        ("Type", "TYPE"),
        ("TotalCount", "TOTAL"),
        ("Active", "ACTIVE"),
        ("Size", "SIZE"),
        ("Reclaimable", "RECLAIMABLE"),
    ];
    Format::parse(&command.format, table)?.print(&headings, &sums(&usage))?;
    Ok(ExitCode::SUCCESS)
}

/// A number of bytes that can be had back, with its share of all.
fn reclaimable(bytes: u64, of: u64) -> String {
    match (bytes * 100).checked_div(of) {
        Some(percent) => format!("{} ({percent}%)", human(bytes)),
        None => human(bytes),
    }
}

fn sums(usage: &Usage) -> Vec<Value> {
    let images = usage.images.as_deref().unwrap_or_default();
    let containers = usage.containers.as_deref().unwrap_or_default();
    let volumes = usage.volumes.as_deref().unwrap_or_default();
    let cache = usage.build_cache.as_deref().unwrap_or_default();
    let used = |i: &&ImageSummary| i.containers > 0;
    // What used images have of their layers alone, and one time what they share, is not to be had.
    let in_use: u64 = images
        .iter()
        .filter(used)
        .map(|i| unsigned(i.size) - unsigned(i.shared_size).min(unsigned(i.size)))
        .sum();
    let shared = images.iter().filter(used).map(|i| unsigned(i.shared_size)).max().unwrap_or(0);
    let image_free = usage.layers_size.saturating_sub(in_use + shared);
    let running = |c: &&ContainerSummary| matches!(c.state.as_str(), "running" | "paused" | "restarting");
    let written = |c: &ContainerSummary| unsigned(c.size_rw.unwrap_or(0));
    let container_bytes: u64 = containers.iter().map(written).sum();
    let container_free: u64 = containers.iter().filter(|c| !running(c)).map(written).sum();
    let volume_bytes: u64 = volumes.iter().map(UsedVolume::size).sum();
    let volume_free: u64 = volumes.iter().filter(|v| v.users() == 0).map(UsedVolume::size).sum();
    let cache_bytes: u64 = cache.iter().filter(|c| !c.shared).map(|c| unsigned(c.size)).sum();
    let cache_free: u64 = cache.iter().filter(|c| !c.shared && !c.in_use).map(|c| unsigned(c.size)).sum();
    let row = |what: &str, total: usize, active: usize, size: u64, free: String| {
        Value::record([
            ("Active", Value::from(active.to_string())),
            ("Reclaimable", Value::from(free)),
            ("Size", Value::from(human(size))),
            ("TotalCount", Value::from(total.to_string())),
            ("Type", Value::from(what)),
        ])
    };
    vec![
        row(
            "Images",
            images.len(),
            images.iter().filter(used).count(),
            usage.layers_size,
            reclaimable(image_free, usage.layers_size),
        ),
        row(
            "Containers",
            containers.len(),
            containers.iter().filter(running).count(),
            container_bytes,
            reclaimable(container_free, container_bytes),
        ),
        row(
            "Local Volumes",
            volumes.len(),
            volumes.iter().filter(|v| v.users() > 0).count(),
            volume_bytes,
            reclaimable(volume_free, volume_bytes),
        ),
        row(
            "Build Cache",
            cache.len(),
            cache.iter().filter(|c| c.in_use).count(),
            cache_bytes,
            human(cache_free),
        ),
    ]
}

fn verbose(usage: &Usage, format: &str) -> Result<()> {
    let images: Vec<Value> = usage
        .images
        .iter()
        .flatten()
        .flat_map(|i| image::list::rows(i, format == "json", false, true))
        .collect();
    let containers: Vec<Value> = usage
        .containers
        .iter()
        .flatten()
        .map(|c| {
            // What the image has is not the container's.
            let alone = ContainerSummary { size_root_fs: None, ..c.clone() };
            container::list::row(alone, format == "json")
        })
        .collect();
    let volumes: Vec<Value> = usage
        .volumes
        .iter()
        .flatten()
        .map(|v| volume::row(v.volume.clone(), v.usage_data.map(|_| (v.users(), v.size()))))
        .collect();
    let cache: Vec<Value> = usage.build_cache.iter().flatten().map(cache_row).collect();
    if format == "json" {
        let lines = |rows: &[Value]| -> Result<String> {
            Ok(rows.iter().map(json_line).collect::<Result<Vec<_>>>()?.join(","))
        };
        return say(format_args!(
            r#"{{"Images":[{}],"Containers":[{}],"Volumes":[{}],"BuildCache":[{}]}}"#,
            lines(&images)?,
            lines(&containers)?,
            lines(&volumes)?,
            lines(&cache)?
        ));
    }
    if !matches!(format, "" | "table") {
        let all = [
            ("Images", Value::List(images)),
            ("Containers", Value::List(containers)),
            ("Volumes", Value::List(volumes)),
            ("BuildCache", Value::List(cache)),
        ];
        return crate::listing::print_value(format, &Value::record(all));
    }
    say("Images space usage:\n")?;
    let table = "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}\t{{.SharedSize}}\t{{.UniqueSize}}\t{{.Containers}}";
    let headings = image::list::HEADINGS;
    Format::parse("", table)?.print(&headings, &images)?;
    say("\nContainers space usage:\n")?;
    let table = "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.LocalVolumes}}\t{{.Size}}\t{{.RunningFor}}\t{{.Status}}\t{{.Names}}";
    Format::parse("", table)?.print(&container::list::HEADINGS, &containers)?;
    say("\nLocal Volumes space usage:\n")?;
    Format::parse("", "{{.Name}}\t{{.Links}}\t{{.Size}}")?.print(&volume::HEADINGS, &volumes)?;
    let total: u64 = usage.build_cache.iter().flatten().map(|c| unsigned(c.size)).sum();
    say(format_args!("\nBuild cache usage: {}\n", human(total)))?;
    let table = "{{.ID}}\t{{.CacheType}}\t{{.Size}}\t{{.CreatedSince}}\t{{.LastUsedSince}}\t{{.UsageCount}}\t{{.Shared}}";
    let headings = [
        ("ID", "CACHE ID"),
        ("CacheType", "CACHE TYPE"),
        ("Size", "SIZE"),
        ("CreatedSince", "CREATED"),
        ("LastUsedSince", "LAST USED"),
        ("UsageCount", "USAGE"),
        ("Shared", "SHARED"),
    ];
    Format::parse("", table)?.print(&headings, &cache)
}

fn cache_row(entry: &CacheEntry) -> Value {
    let since =
        |text: &str| text.parse::<jiff::Timestamp>().map(|at| ago(at.as_second())).unwrap_or_default();
    let used = entry.last_used_at.as_deref().unwrap_or_default();
    Value::record([
        ("CacheType", Value::from(entry.kind.as_str())),
        ("CreatedAt", Value::from(entry.created_at.as_str())),
        ("CreatedSince", Value::from(since(&entry.created_at))),
        ("Description", Value::from(entry.description.as_str())),
        ("ID", Value::from(entry.id.chars().take(12).collect::<String>())),
        ("InUse", Value::from(entry.in_use.to_string())),
        ("LastUsedAt", Value::from(used)),
        ("LastUsedSince", Value::from(since(used))),
        ("Shared", Value::from(entry.shared.to_string())),
        ("Size", Value::from(human(unsigned(entry.size)))),
        ("UsageCount", Value::from(entry.usage_count.to_string())),
    ])
}
