//! `sampan builder`: what builds left.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use sampan_docker_api::units::{human_duration, human_size};
use serde_json::Value;

use super::{parse_size, say};
use crate::client::{Client, query};
use crate::table;

/// `sampan builder`
#[derive(Subcommand)]
pub(crate) enum Group {
    /// Build an image from a Dockerfile
    Build(Box<super::build::Build>),
    /// Show what builds left for later ones
    #[command(visible_alias = "du")]
    Df(Df),
    /// Remove what builds left
    Prune(Prune),
}

/// `sampan builder df`
#[derive(Args)]
pub(crate) struct Df {
    /// Show more of each entry
    #[arg(short, long)]
    verbose: bool,
    /// Print JSON
    #[arg(long, value_name = "FORMAT", value_parser = ["table", "json"], default_value = "table", hide_default_value = true)]
    output: String,
}

/// `sampan builder prune`
#[derive(Args)]
pub(crate) struct Prune {
    /// Also what images have, too
    #[arg(short, long)]
    all: bool,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Only some: until=24h, id=ID, type=regular|exec.cachemount
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Keep the most recently used of this many bytes
    #[arg(long, value_name = "BYTES", visible_alias = "reserved-space")]
    keep_storage: Option<String>,
}

pub(crate) async fn group(client: &Client, group: Group) -> Result<ExitCode> {
    match group {
        Group::Build(command) => super::build::build(client, *command).await,
        Group::Df(command) => df(client, &command).await,
        Group::Prune(command) => prune(client, &command).await,
    }
}

async fn df(client: &Client, command: &Df) -> Result<ExitCode> {
    let usage: Value = client.get("/system/df?type=build-cache").await?;
    let entries = usage["BuildCache"].as_array().cloned().unwrap_or_default();
    if command.output == "json" {
        say(serde_json::to_string_pretty(&entries)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let text = |entry: &Value, key: &str| entry[key].as_str().unwrap_or_default().to_owned();
    let size = |entry: &Value| entry["Size"].as_u64().unwrap_or(0);
    let width = if command.verbose { 64 } else { 12 };
    let rows: Vec<Vec<String>> = entries
        .iter()
        .map(|entry| {
            let id = text(entry, "ID").chars().take(width).collect();
            let shared = if entry["Shared"] == true { "*" } else { "" };
            let used = text(entry, "LastUsedAt").parse::<jiff::Timestamp>().map_or_else(
                |_| String::new(),
                |at| format!("{} ago", human_duration(jiff::Timestamp::now().as_second() - at.as_second())),
            );
            let mut row = vec![
                id,
                text(entry, "Type"),
                format!("{}{shared}", human_size(size(entry))),
                used,
                entry["UsageCount"].to_string(),
            ];
            if command.verbose {
                row.push(text(entry, "Description"));
            }
            row
        })
        .collect();
    let mut header = vec!["ID", "TYPE", "SIZE", "LAST USED", "USES"];
    if command.verbose {
        header.push("DESCRIPTION");
    }
    table::print(&header, &rows)?;
    let of =
        |shared: bool| -> u64 { entries.iter().filter(|e| (e["Shared"] == true) == shared).map(size).sum() };
    say(format_args!(
        "Reclaimable: {}   Shared with images (*): {}",
        human_size(of(false)),
        human_size(of(true))
    ))?;
    Ok(ExitCode::SUCCESS)
}

async fn prune(client: &Client, command: &Prune) -> Result<ExitCode> {
    let what = match command.all {
        true => "This removes all that builds left.",
        false => "This removes all that builds left and no image has, too.",
    };
    if !command.force && !super::container::confirm(what)? {
        return Ok(ExitCode::FAILURE);
    }
    let mut filters: std::collections::BTreeMap<&str, Vec<&str>> = std::collections::BTreeMap::new();
    for filter in &command.filter {
        let (key, value) = filter.split_once('=').unwrap_or((filter, ""));
        filters.entry(key).or_default().push(value);
    }
    let filters = if filters.is_empty() { String::new() } else { serde_json::to_string(&filters)? };
    let keep = match &command.keep_storage {
        Some(text) => parse_size(text).map_err(anyhow::Error::msg)?.to_string(),
        None => String::new(),
    };
    let path = format!(
        "/build/prune{}",
        query(&[("all", if command.all { "1" } else { "" }), ("filters", &filters), ("keep-storage", &keep)])
    );
    let pruned: Value = client.post_json(&path, &Value::Null).await?;
    for id in pruned["CachesDeleted"].as_array().into_iter().flatten() {
        say(id.as_str().unwrap_or_default())?;
    }
    say(format_args!(
        "Total reclaimed space: {}",
        human_size(pruned["SpaceReclaimed"].as_u64().unwrap_or(0))
    ))?;
    Ok(ExitCode::SUCCESS)
}
