//! `top`, `diff`, `port`.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use sampan_docker_api::container::{ChangeRow, ContainerInspect, TopAnswer};
use sampan_template::Value;

use super::list::address;
use crate::client::{Client, query};
use crate::commands::run::container_path;
use crate::commands::say;
use crate::listing::Format;
use crate::table;

/// `sampan top`
#[derive(Args)]
#[command(trailing_var_arg = true)]
pub(crate) struct Top {
    /// How to print: json
    #[arg(
        long,
        visible_alias = "output",
        default_value = "",
        hide_default_value = true,
        value_name = "FORMAT"
    )]
    format: String,
    /// Name or id, and options of ps
    #[arg(required = true, allow_hyphen_values = true, value_name = "CONTAINER [PS OPTION]...")]
    name_and_options: Vec<String>,
}

pub(crate) async fn top(client: &Client, command: Top) -> Result<ExitCode> {
    let Some((name, options)) = command.name_and_options.split_first() else {
        bail!("no container was named")
    };
    let path = container_path(name, "top") + &query(&[("ps_args", &options.join(" "))]);
    let answer: TopAnswer = client.get(&path).await?;
    if command.format == "json" {
        say(serde_json::to_string(&answer)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let header: Vec<&str> = answer.titles.iter().map(String::as_str).collect();
    // Of all tables this one has wider columns in Docker's client.
    table::print_wide(&header, &answer.processes, 20)?;
    Ok(ExitCode::SUCCESS)
}

/// `sampan diff`
#[derive(Args)]
pub(crate) struct Diff {
    /// How to print: table, json, or a Go template over .Type and .Path
    #[arg(
        long,
        visible_alias = "output",
        default_value = "",
        hide_default_value = true,
        value_name = "FORMAT"
    )]
    format: String,
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    name: String,
}

pub(crate) async fn diff(client: &Client, command: Diff) -> Result<ExitCode> {
    let format = match command.format.as_str() {
        "" => "{{.Type}} {{.Path}}",
        format => format,
    };
    let format = Format::parse(format, "{{.Type}}\t{{.Path}}")?;
    let changes: Option<Vec<ChangeRow>> = client.get(&container_path(&command.name, "changes")).await?;
    let row = |change: ChangeRow| {
        let letter = ["C", "A", "D"].get(usize::from(change.kind)).copied().unwrap_or("?");
        Value::record([("Path", Value::from(change.path)), ("Type", Value::from(letter))])
    };
    let rows: Vec<Value> = changes.unwrap_or_default().into_iter().map(row).collect();
    format.print(&[("Type", "CHANGE TYPE"), ("Path", "PATH")], &rows)?;
    Ok(ExitCode::SUCCESS)
}

/// `sampan port`
#[derive(Args)]
pub(crate) struct Port {
    /// How to print: json
    #[arg(
        long,
        visible_alias = "output",
        default_value = "",
        hide_default_value = true,
        value_name = "FORMAT"
    )]
    format: String,
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    name: String,
    /// Only this port inside
    #[arg(value_name = "PORT[/PROTOCOL]")]
    port: Option<String>,
}

pub(crate) async fn port(client: &Client, command: Port) -> Result<ExitCode> {
    let inspect: ContainerInspect = client.get(&container_path(&command.name, "json")).await?;
    let all = inspect.network_settings.ports;
    if command.format == "json" {
        say(serde_json::to_string(&all)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let number = |port: &str| port.split('/').next().and_then(|n| n.parse::<u16>().ok()).unwrap_or(0);
    let mut published: Vec<(String, String)> = Vec::new();
    for (port, bindings) in &all {
        for binding in bindings.iter().flatten() {
            published.push((port.clone(), address(&binding.host_ip, &binding.host_port)));
        }
    }
    published.sort_by_key(|(port, outside)| (number(port), port.clone(), outside.clone()));
    let Some(wanted) = command.port else {
        for (port, outside) in published {
            say(format_args!("{port} -> {outside}"))?;
        }
        return Ok(ExitCode::SUCCESS);
    };
    let whole = if wanted.contains('/') { wanted.clone() } else { format!("{wanted}/tcp") };
    if number(&whole) == 0 {
        bail!("invalid port `{wanted}`: it is PORT[/tcp|udp|sctp]");
    }
    let found: Vec<&String> = published.iter().filter(|(p, _)| *p == whole).map(|(_, o)| o).collect();
    if found.is_empty() {
        bail!("No public port '{wanted}' published for {}", command.name);
    }
    for outside in found {
        say(outside)?;
    }
    Ok(ExitCode::SUCCESS)
}
