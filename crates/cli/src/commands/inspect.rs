//! `inspect`, of whatever has the name.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use http_body_util::BodyExt;
use sampan_template::Value;

use super::{fail, is_not_found, say};
use crate::client::{Client, DaemonError, encode, full};
use crate::listing::parse_template;

/// `sampan inspect`
#[derive(Args)]
pub(crate) struct Inspect {
    /// Only things of this kind: container, image, network, volume
    #[arg(long = "type", value_parser = ["container", "image", "volume", "network"], value_name = "KIND")]
    kind: Option<String>,
    #[command(flatten)]
    how: InspectKind,
}

/// `sampan container inspect` and the like.
#[derive(Args)]
pub(crate) struct InspectKind {
    /// How to print: json, or a Go template
    #[arg(
        short,
        long,
        visible_alias = "output",
        default_value = "",
        hide_default_value = true,
        value_name = "FORMAT"
    )]
    format: String,
    /// Also the sizes of containers' file systems
    #[arg(short, long)]
    size: bool,
    /// More about networks
    #[arg(short, long, hide = true)]
    verbose: bool,
    /// For another machine: os/architecture[/variant]
    #[arg(long, hide = true, default_value = "")]
    platform: String,
    /// Names or ids
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

/// What is looked for, in this order, and where.
const KINDS: [(&str, &str, &str); 4] = [
    ("container", "/containers/", "/json"),
    ("image", "/images/", "/json"),
    ("network", "/networks/", ""),
    ("volume", "/volumes/", ""),
];

/// Below these names are maps of people's own keys; all other objects have certain fields.
const MAPS: [&str; 16] = [
    "Labels",
    "Options",
    "Ports",
    "Networks",
    "Sysctls",
    "ExposedPorts",
    "Volumes",
    "Data",
    "PortBindings",
    "Attributes",
    "Details",
    "DriverOpts",
    "Containers",
    "Annotations",
    "Tmpfs",
    "StorageOpt",
];

/// Where null stands for a list without anything in it.
const LISTS: [&str; 32] = [
    "Args",
    "Env",
    "Cmd",
    "Entrypoint",
    "OnBuild",
    "Shell",
    "ExecIDs",
    "Binds",
    "VolumesFrom",
    "CapAdd",
    "CapDrop",
    "Dns",
    "DnsOptions",
    "DnsSearch",
    "ExtraHosts",
    "GroupAdd",
    "Links",
    "SecurityOpt",
    "BlkioWeightDevice",
    "BlkioDeviceReadBps",
    "BlkioDeviceWriteBps",
    "BlkioDeviceReadIOps",
    "BlkioDeviceWriteIOps",
    "Devices",
    "DeviceCgroupRules",
    "DeviceRequests",
    "Ulimits",
    "MaskedPaths",
    "ReadonlyPaths",
    "Aliases",
    "Mounts",
    "RepoTags",
];

pub(crate) async fn inspect(client: &Client, command: Inspect) -> Result<ExitCode> {
    show(client, command.how, command.kind.as_deref()).await
}

pub(crate) async fn of_kind(client: &Client, command: InspectKind, kind: &str) -> Result<ExitCode> {
    show(client, command, Some(kind)).await
}

async fn show(client: &Client, command: InspectKind, kind: Option<&str>) -> Result<ExitCode> {
    let template = match command.format.as_str() {
        "" | "json" => None,
        text => Some(parse_template(text)?),
    };
    let (mut found, mut errors) = (Vec::<Value>::new(), Vec::new());
    for name in &command.names {
        match find(client, name, kind, command.size).await {
            Ok(value) => found.push(value.with_maps(&MAPS, &LISTS)),
            Err(error) => errors.push(error),
        }
    }
    match &template {
        None if command.format == "json" => say(serde_json::to_string(&found)?)?,
        None => say(pretty(&found)?)?,
        Some(template) => {
            for value in &found {
                match template.render(value) {
                    Ok(text) => say(text)?,
                    Err(error) => {
                        // Its line is there, and empty.
                        say("")?;
                        errors.push(anyhow::Error::from(error).context("template parsing error"));
                    }
                }
            }
        }
    }
    Ok(errors.iter().fold(ExitCode::SUCCESS, |_, error| fail(error)))
}

/// JSON as Docker prints it: four spaces a level, fields in the daemon's order.
pub(crate) fn pretty(value: &impl serde::Serialize) -> Result<String> {
    let mut text = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut text, formatter))?;
    Ok(String::from_utf8(text)?)
}

/// The first kind that has the name.
async fn find(client: &Client, name: &str, kind: Option<&str>, size: bool) -> Result<Value> {
    for (known, prefix, suffix) in KINDS.iter().filter(|(known, ..)| kind.is_none_or(|k| k == *known)) {
        let size = if size && *known == "container" { "?size=1" } else { "" };
        let path = format!("{prefix}{}{suffix}{size}", encode(name));
        match client.request(http::Method::GET, &path, full(""), "application/json").await {
            Ok(answer) => {
                let bytes = answer.into_body().collect().await?.to_bytes();
                return Ok(serde_json::from_slice(&bytes)?);
            }
            // Not this kind, or a text that can't name one.
            Err(error) if kind.is_none() && (is_not_found(&error) || is_no_name(&error)) => {}
            Err(error) => return Err(error),
        }
    }
    bail!("No such object: {name}")
}

fn is_no_name(error: &anyhow::Error) -> bool {
    error.downcast_ref::<DaemonError>().is_some_and(|e| e.status == http::StatusCode::BAD_REQUEST)
}
