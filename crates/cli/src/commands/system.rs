//! The commands on the engine itself, and `inspect`.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use http::{Method, StatusCode};
use sampan_docker_api::network;
use sampan_docker_api::system::Version;
use serde_json::Value;

use super::container::{filters, point_in_time};
use super::{print_body, say, short};
use crate::client::{Client, DaemonError, encode, full, query};
use crate::table;

/// `sampan inspect`
#[derive(Args)]
pub(crate) struct Inspect {
    /// Only things of this kind
    #[arg(long = "type", value_parser = ["container", "image", "volume", "network"], value_name = "KIND")]
    kind: Option<String>,
    /// Names or ids
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

pub(crate) async fn inspect(client: &Client, command: Inspect) -> Result<ExitCode> {
    let kinds: Vec<String> = match &command.kind {
        Some(kind) => vec![format!("{kind}s")],
        None => ["containers", "images", "networks", "volumes"].map(str::to_owned).to_vec(),
    };
    let kinds: Vec<&str> = kinds.iter().map(String::as_str).collect();
    inspect_as(client, &command.names, &kinds).await
}

/// Shows each name as the first kind that has it.
pub(crate) async fn inspect_as(client: &Client, names: &[String], kinds: &[&str]) -> Result<ExitCode> {
    let (mut found, mut code) = (Vec::<Value>::new(), ExitCode::SUCCESS);
    for name in names {
        match find(client, name, kinds).await {
            Ok(value) => found.push(value),
            Err(error) => code = super::fail(&error),
        }
    }
    say(serde_json::to_string_pretty(&found)?)?;
    Ok(code)
}

async fn find(client: &Client, name: &str, kinds: &[&str]) -> Result<Value> {
    for kind in kinds {
        let suffix = if matches!(*kind, "containers" | "images") { "/json" } else { "" };
        match client.get(&format!("/{kind}/{}{suffix}", encode(name))).await {
            Ok(value) => return Ok(value),
            // Not this kind, or a text that can't name one.
            Err(error)
                if error
                    .downcast_ref::<DaemonError>()
                    .is_some_and(|e| matches!(e.status, StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST)) => {
            }
            Err(error) => return Err(error),
        }
    }
    bail!("No such object: {name}")
}

/// `sampan network …`
#[derive(Subcommand)]
pub(crate) enum Network {
    /// List networks
    #[command(visible_alias = "list")]
    Ls,
    /// Show networks as JSON
    Inspect(Names),
}

/// Some networks.
#[derive(Args)]
pub(crate) struct Names {
    /// Names or ids
    #[arg(required = true, value_name = "NETWORK")]
    names: Vec<String>,
}

pub(crate) async fn network(client: &Client, group: Network) -> Result<ExitCode> {
    match group {
        Network::Ls => {
            let networks: Vec<network::Network> = client.get("/networks").await?;
            let rows: Vec<_> = networks
                .into_iter()
                .map(|n| vec![short(&n.id).to_owned(), n.name, n.driver, n.scope])
                .collect();
            table::print(&["NETWORK ID", "NAME", "DRIVER", "SCOPE"], &rows)?;
            Ok(ExitCode::SUCCESS)
        }
        Network::Inspect(command) => inspect_as(client, &command.names, &["networks"]).await,
    }
}

/// `sampan events`
#[derive(Args)]
pub(crate) struct Events {
    /// From then on: RFC 3339, seconds since 1970, or 10m for ten minutes ago
    #[arg(long, default_value = "", hide_default_value = true)]
    since: String,
    /// Until then
    #[arg(long, default_value = "", hide_default_value = true)]
    until: String,
    /// Filter: type=…, event=…, container=…, label=…
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
}

pub(crate) async fn events(client: &Client, command: Events) -> Result<ExitCode> {
    let parameters = query(&[
        ("since", &point_in_time(&command.since)),
        ("until", &point_in_time(&command.until)),
        ("filters", &filters(&command.filter)?),
    ]);
    let answer =
        client.request(Method::GET, &format!("/events{parameters}"), full(""), "application/json").await?;
    print_body(answer, std::io::stdout().lock()).await?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn info(client: &Client) -> Result<ExitCode> {
    let info: Value = client.get("/info").await?;
    say(serde_json::to_string_pretty(&info)?)?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn version(client: &Client) -> Result<ExitCode> {
    let version: Version = client.get("/version").await?;
    say(format_args!("sampan:  {}", env!("CARGO_PKG_VERSION")))?;
    say(format_args!(
        "sampand: {} (API {}, oldest {}; {}/{}, kernel {})",
        version.version,
        version.api_version,
        version.min_api_version,
        version.os,
        version.arch,
        version.kernel_version
    ))?;
    Ok(ExitCode::SUCCESS)
}
