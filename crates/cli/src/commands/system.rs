//! The commands on the engine itself: events, info, version.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use http::Method;
use http_body_util::BodyExt;
use sampan_docker_api::units::human_binary_size;
use sampan_template::Value;

use super::container::filters;
use super::container::logs::point_in_time;
use super::{say, tell};
use crate::client::{Client, full, query};
use crate::listing::{parse_template, print_value};

/// `sampan events`
#[derive(Args)]
pub(crate) struct Events {
    /// From then on: RFC 3339, seconds since 1970, or 10m for ten minutes ago
    #[arg(long, default_value = "", hide_default_value = true)]
    since: String,
    /// Until then
    #[arg(long, default_value = "", hide_default_value = true, allow_hyphen_values = true)]
    until: String,
    /// Filter: type=…, event=…, container=…, image=…, label=…, network=…, volume=…
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// How to print: json, or a Go template
    #[arg(
        long,
        visible_alias = "output",
        default_value = "",
        hide_default_value = true,
        value_name = "FORMAT"
    )]
    format: String,
}

pub(crate) async fn events(client: &Client, command: Events) -> Result<ExitCode> {
    let template = match command.format.as_str() {
        "" | "json" => None,
        text => Some(parse_template(text)?),
    };
    let parameters = query(&[
        ("since", &point_in_time(&command.since)),
        ("until", &point_in_time(&command.until)),
        ("filters", &filters(&command.filter)?),
    ]);
    let answer =
        client.request(Method::GET, &format!("/events{parameters}"), full(""), "application/json").await?;
    let mut lines = super::container::stats::Lines { body: answer.into_body(), rest: Vec::new() };
    let mut out = std::io::stdout().lock();
    while let Some(event) = lines.next::<Value>().await {
        let event = event.with_maps(&["Attributes"], &[]);
        let text = match &template {
            Some(template) => template.render(&event)?,
            None if command.format == "json" => serde_json::to_string(&event)?,
            None => event_line(&event),
        };
        writeln!(out, "{text}")?;
        out.flush()?;
    }
    Ok(ExitCode::SUCCESS)
}

/// `TIME KIND ACTION ID (NAME=VALUE, …)`
fn event_line(event: &Value) -> String {
    let text = |at: &Value, name: &str| at.get(name).map(Value::print).unwrap_or_default();
    let nothing = Value::Nil;
    let actor = event.get("Actor").unwrap_or(&nothing);
    let nanoseconds = match event.get("timeNano") {
        Some(Value::Int(n)) => *n,
        _ => 0,
    };
    let time = jiff::Timestamp::from_nanosecond(nanoseconds).unwrap_or_default();
    let mut line =
        format!("{time:.9} {} {} {}", text(event, "Type"), text(event, "Action"), text(actor, "ID"));
    if let Some(Value::Map(attributes)) = actor.get("Attributes") {
        let mut pairs: Vec<String> = attributes.iter().map(|(k, v)| format!("{k}={}", v.print())).collect();
        pairs.sort();
        if !pairs.is_empty() {
            line += &format!(" ({})", pairs.join(", "));
        }
    }
    line
}

/// `sampan info`, `sampan version`
#[derive(Args)]
pub(crate) struct Formatted {
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
}

async fn ask(client: &Client, path: &str) -> Result<Value> {
    let answer = client.request(Method::GET, path, full(""), "application/json").await?;
    Ok(serde_json::from_slice(&answer.into_body().collect().await?.to_bytes())?)
}

fn this_program() -> Value {
    Value::record([
        ("Version", Value::from(env!("CARGO_PKG_VERSION"))),
        ("ApiVersion", Value::from(sampan_docker_api::API_VERSION)),
        ("DefaultAPIVersion", Value::from(sampan_docker_api::API_VERSION)),
        ("Os", Value::from(std::env::consts::OS)),
        ("Arch", Value::from(super::goarch())),
    ])
}

pub(crate) async fn info(client: &Client, command: Formatted) -> Result<ExitCode> {
    let server = ask(client, "/info").await?;
    if !command.format.is_empty() {
        let mut all = match server {
            Value::Record(fields) => fields,
            _ => Vec::new(),
        };
        all.push(("ClientInfo".to_owned(), this_program()));
        print_value(
            &command.format,
            &Value::Record(all)
                .with_maps(&["Runtimes"], &["Labels", "DriverStatus", "Warnings", "SecurityOptions"]),
        )?;
        return Ok(ExitCode::SUCCESS);
    }
    say(info_text(&server))?;
    for warning in list(server.get("Warnings")) {
        tell(warning.print());
    }
    Ok(ExitCode::SUCCESS)
}

fn list(value: Option<&Value>) -> &[Value] {
    match value {
        Some(Value::List(items)) => items,
        _ => &[],
    }
}

/// What people read, in the order that they know.
fn info_text(server: &Value) -> String {
    let mut text = format!("Client:\n Version:    {}\n\nServer:\n", env!("CARGO_PKG_VERSION"));
    let shown =
        |name: &str| server.get(name).map(Value::print).filter(|t| !t.is_empty() && t != "<no value>");
    let mut line = |indent: usize, title: &str, value: Option<String>| {
        if let Some(value) = value {
            let value = if value.is_empty() { value } else { format!(" {value}") };
            text += &format!("{}{title}:{value}\n", " ".repeat(indent));
        }
    };
    line(1, "Containers", shown("Containers"));
    line(2, "Running", shown("ContainersRunning"));
    line(2, "Paused", shown("ContainersPaused"));
    line(2, "Stopped", shown("ContainersStopped"));
    line(1, "Images", shown("Images"));
    line(1, "Server Version", shown("ServerVersion"));
    line(1, "Storage Driver", shown("Driver"));
    for pair in list(server.get("DriverStatus")) {
        if let [name, value] = list(Some(pair)) {
            line(2, &name.print(), Some(value.print()));
        }
    }
    line(1, "Logging Driver", shown("LoggingDriver"));
    line(1, "Cgroup Driver", shown("CgroupDriver"));
    line(1, "Cgroup Version", shown("CgroupVersion"));
    if let Some(plugins) = server.get("Plugins") {
        line(1, "Plugins", Some(String::new()));
        for kind in ["Volume", "Network", "Log"] {
            let names: Vec<String> = list(plugins.get(kind)).iter().map(Value::print).collect();
            line(2, kind, (!names.is_empty()).then(|| names.join(" ")));
        }
    }
    let swarm = server.get("Swarm").and_then(|s| s.get("LocalNodeState")).map(Value::print);
    line(1, "Swarm", swarm.filter(|s| !s.is_empty()));
    if let Some(Value::Record(runtimes)) = server.get("Runtimes") {
        let names: Vec<&str> = runtimes.iter().map(|(name, _)| name.as_str()).collect();
        line(1, "Runtimes", Some(names.join(" ")));
    }
    line(1, "Default Runtime", shown("DefaultRuntime"));
    line(1, "Init Binary", shown("InitBinary"));
    let options: Vec<String> = list(server.get("SecurityOptions")).iter().map(Value::print).collect();
    if !options.is_empty() {
        line(1, "Security Options", Some(String::new()));
        for option in options {
            let name =
                option.split(',').find_map(|part| part.strip_prefix("name=")).unwrap_or(&option).to_owned();
            text += &format!("  {name}\n");
        }
    }
    let mut line = |title: &str, value: Option<String>| {
        if let Some(value) = value {
            text += &format!(" {title}: {value}\n");
        }
    };
    line("Kernel Version", shown("KernelVersion"));
    line("Operating System", shown("OperatingSystem"));
    line("OSType", shown("OSType"));
    line("Architecture", shown("Architecture"));
    line("CPUs", shown("NCPU"));
    let memory = match server.get("MemTotal") {
        Some(Value::Int(bytes)) => u64::try_from(*bytes).ok().map(human_binary_size),
        _ => None,
    };
    line("Total Memory", memory);
    line("Name", shown("Name"));
    line("ID", shown("ID"));
    line("Docker Root Dir", shown("DockerRootDir"));
    line("Debug Mode", shown("Debug"));
    line("Experimental", shown("ExperimentalBuild"));
    line("Live Restore Enabled", shown("LiveRestoreEnabled"));
    text.trim_end().to_owned()
}

pub(crate) async fn version(client: Result<Client>, command: Formatted) -> Result<ExitCode> {
    let server = match &client {
        Ok(client) => ask(client, "/version").await,
        Err(error) => Err(anyhow::Error::msg(format!("{error:#}"))),
    };
    if !command.format.is_empty() {
        let mut fields = vec![("Client", this_program())];
        match server {
            Ok(server) => fields.push(("Server", server)),
            Err(error) => tell(format_args!("sampan: {error:#}")),
        }
        print_value(&command.format, &Value::record(fields).with_maps(&["Details"], &[]))?;
        return Ok(if client.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    say(format_args!(
        "Client:\n Version:           {}\n API version:       {}\n OS/Arch:           {}/{}",
        env!("CARGO_PKG_VERSION"),
        sampan_docker_api::API_VERSION,
        std::env::consts::OS,
        super::goarch(),
    ))?;
    let server = server?;
    let text = |name: &str| server.get(name).map(Value::print).unwrap_or_default();
    say(format_args!(
        "\nServer:\n Engine:\n  Version:          {}\n  API version:      {} (minimum version {})\n  \
         Git commit:       {}\n  Built:            {}\n  OS/Arch:          {}/{}\n  Kernel:           {}",
        text("Version"),
        text("ApiVersion"),
        text("MinAPIVersion"),
        text("GitCommit"),
        text("BuildTime"),
        text("Os"),
        text("Arch"),
        text("KernelVersion"),
    ))?;
    for component in list(server.get("Components")) {
        let name = component.get("Name").map(Value::print).unwrap_or_default();
        if name != "Engine" {
            let version = component.get("Version").map(Value::print).unwrap_or_default();
            say(format_args!(" {name}:\n  Version:          {version}"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_line() {
        let text = r#"{"Type":"image","Action":"tag","Actor":{"ID":"x","Attributes":{"b":"2","a":"1"}},"timeNano":1795290025678304692}"#;
        let event: Value = serde_json::from_str(text).unwrap();
        assert_eq!(
            event_line(&event.with_maps(&["Attributes"], &[])),
            "2026-11-21T19:40:25.678304692Z image tag x (a=1, b=2)"
        );
    }
}
