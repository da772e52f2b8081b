//! `compose ps`, `images`, `top`, `port`, `config`, `ls`, `events`.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use http::Method;
use sampan_compose::{labels, show};
use sampan_docker_api::container::{ContainerInspect, ContainerSummary, TopAnswer};
use sampan_docker_api::image::ImageInspect;
use sampan_docker_api::system::Event;
use sampan_docker_api::units::human_size;
use sampan_template::Value;
use serde_json::json;

use super::lifecycle::Services;
use super::project::{Session, name_of, number_of, service_of};
use crate::client::{Client, encode, full, query};
use crate::commands::container::list::{address, row};
use crate::commands::container::stats::Lines;
use crate::commands::run::container_path;
use crate::commands::{say, short};
use crate::listing::Format;
use crate::table;

/// `sampan compose ps`
#[derive(Args)]
pub(crate) struct Ps {
    /// Also those that do not run
    #[arg(short, long)]
    all: bool,
    /// How to print: table, json, or a Go template
    #[arg(
        long,
        visible_alias = "output",
        default_value = "",
        hide_default_value = true,
        value_name = "FORMAT"
    )]
    format: String,
    /// Filter: status=…
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Only of this status
    #[arg(long, value_name = "STATUS")]
    status: Vec<String>,
    /// Only ids
    #[arg(short, long)]
    quiet: bool,
    /// Only the names of services
    #[arg(long)]
    services: bool,
    /// Do not shorten
    #[arg(long)]
    no_trunc: bool,
    /// Kept for scripts: orphans are shown
    #[arg(long, hide = true)]
    orphans: bool,
    /// The services; none: all
    #[arg(value_name = "SERVICE")]
    names: Vec<String>,
}

pub(super) async fn ps(session: &Session, command: Ps) -> Result<ExitCode> {
    let mut status = command.status.clone();
    for filter in &command.filter {
        match filter.split_once('=') {
            Some(("status", value)) => status.push(value.to_owned()),
            _ => bail!("unknown filter {filter}: status=STATUS"),
        }
    }
    let mut containers = session.of_services(&command.names, command.all || !status.is_empty()).await?;
    containers.retain(|c| status.is_empty() || status.contains(&c.state));
    if command.quiet {
        for container in &containers {
            say(&container.id)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    if command.services {
        let services: BTreeSet<&str> = containers.iter().map(service_of).collect();
        for service in services {
            say(service)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let rows = containers.into_iter().map(|c| wide_row(c, command.no_trunc)).collect::<Vec<_>>();
    let table = "{{.Name}}\t{{.Image}}\t{{.Command}}\t{{.Service}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}";
    let headings = [
        ("Name", "NAME"),
        ("Names", "NAMES"),
        ("ID", "CONTAINER ID"),
        ("Project", "PROJECT"),
        ("Image", "IMAGE"),
        ("Command", "COMMAND"),
        ("Service", "SERVICE"),
        ("RunningFor", "CREATED"),
        ("CreatedAt", "CREATED AT"),
        ("Status", "STATUS"),
        ("State", "STATE"),
        ("Health", "HEALTH"),
        ("ExitCode", "EXIT CODE"),
        ("Ports", "PORTS"),
        ("Labels", "LABELS"),
        ("Networks", "NETWORKS"),
        ("Mounts", "MOUNTS"),
        ("Size", "SIZE"),
        ("LocalVolumes", "LOCAL VOLUMES"),
    ];
    Format::parse(&command.format, table)?.print(&headings, &rows)?;
    Ok(ExitCode::SUCCESS)
}

/// What a list of containers shows, and what compose has beside it.
fn wide_row(container: ContainerSummary, whole: bool) -> Value {
    let name = name_of(&container).to_owned();
    let project = container.labels.get(labels::PROJECT).cloned().unwrap_or_default();
    let service = service_of(&container).to_owned();
    // `Exited (3) 2 minutes ago`, `Up 2 minutes (healthy)`.
    let within =
        container.status.split_once('(').and_then(|(_, rest)| rest.split_once(')')).map(|(inside, _)| inside);
    let code: i64 =
        within.filter(|_| container.status.starts_with("Exited")).and_then(|t| t.parse().ok()).unwrap_or(0);
    let health = match within {
        Some("healthy") => "healthy",
        Some("unhealthy") => "unhealthy",
        Some("health: starting") => "starting",
        _ => "",
    };
    let publishers: Vec<Value> = container
        .ports
        .iter()
        .map(|p| {
            Value::record([
                ("Protocol", Value::from(p.kind.as_str())),
                ("PublishedPort", Value::Int(p.public_port.unwrap_or(0).into())),
                ("TargetPort", Value::Int(p.private_port.into())),
                ("URL", Value::from(p.ip.clone().unwrap_or_default())),
            ])
        })
        .collect();
    let Value::Record(mut fields) = row(container, whole) else { return Value::Nil };
    let more = [
        ("Name", Value::from(name)),
        ("Project", Value::from(project)),
        ("Service", Value::from(service)),
        ("ExitCode", Value::from(code)),
        ("Health", Value::from(health)),
        ("Publishers", Value::List(publishers)),
    ];
    fields.extend(more.into_iter().map(|(key, value)| (key.to_owned(), value)));
    Value::Record(fields)
}

/// `sampan compose images`
#[derive(Args)]
pub(crate) struct Images {
    /// How to print: table, json, or a Go template
    #[arg(
        long,
        visible_alias = "output",
        default_value = "",
        hide_default_value = true,
        value_name = "FORMAT"
    )]
    format: String,
    /// Only ids
    #[arg(short, long)]
    quiet: bool,
    /// The services; none: all
    #[arg(value_name = "SERVICE")]
    names: Vec<String>,
}

pub(super) async fn images(session: &Session, command: Images) -> Result<ExitCode> {
    let containers = session.of_services(&command.names, true).await?;
    let mut rows = Vec::new();
    let mut ids = BTreeSet::new();
    for container in &containers {
        ids.insert(container.image_id.clone());
        let image: ImageInspect =
            session.client.get(&format!("/images/{}/json", encode(&container.image_id))).await?;
        let named = image
            .repo_tags
            .iter()
            .find(|t| t.as_str() == container.image || t.starts_with(&format!("{}:", container.image)));
        let name = named.or(image.repo_tags.first()).map(String::as_str).unwrap_or("<none>:<none>");
        let (repository, tag) = name.rsplit_once(':').unwrap_or((name, "<none>"));
        rows.push(Value::record([
            ("ContainerName", Value::from(name_of(container))),
            ("Repository", Value::from(repository)),
            ("Tag", Value::from(tag)),
            ("ID", Value::from(short(&container.image_id))),
            ("Size", Value::from(human_size(u64::try_from(image.size).unwrap_or(0)))),
        ]));
    }
    if command.quiet {
        for id in ids {
            say(id.trim_start_matches("sha256:"))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let table = "{{.ContainerName}}\t{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.Size}}";
    let headings = [
        ("ContainerName", "CONTAINER"),
        ("Repository", "REPOSITORY"),
        ("Tag", "TAG"),
        ("ID", "IMAGE ID"),
        ("Size", "SIZE"),
    ];
    Format::parse(&command.format, table)?.print(&headings, &rows)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn top(session: &Session, command: Services) -> Result<ExitCode> {
    for container in session.of_services(&command.services, false).await? {
        let answer: TopAnswer = session.client.get(&container_path(&container.id, "top")).await?;
        say(name_of(&container))?;
        let header: Vec<&str> = answer.titles.iter().map(String::as_str).collect();
        table::print(&header, &answer.processes)?;
        say("")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// `sampan compose port`
#[derive(Args)]
pub(crate) struct Port {
    /// Which of the service's containers
    #[arg(long, default_value_t = 1, value_name = "NUMBER")]
    index: u32,
    /// tcp or udp
    #[arg(long, default_value = "tcp")]
    protocol: String,
    /// The service
    #[arg(value_name = "SERVICE")]
    service: String,
    /// The port inside
    #[arg(value_name = "PORT")]
    port: u16,
}

/// A service's container of a number.
pub(super) async fn container_of(
    session: &Session,
    service: &str,
    index: Option<u32>,
) -> Result<ContainerSummary> {
    let containers = session.of_services(&[service.to_owned()], false).await?;
    let found = match index {
        Some(index) => containers.into_iter().find(|c| number_of(c) == index),
        None => containers.into_iter().next(),
    };
    found.with_context(|| {
        format!("service {service:?} is not running: start it with `sampan compose up -d {service}`")
    })
}

pub(super) async fn port(session: &Session, command: Port) -> Result<ExitCode> {
    let container = container_of(session, &command.service, Some(command.index)).await?;
    let inspect: ContainerInspect = session.client.get(&container_path(&container.id, "json")).await?;
    let key = format!("{}/{}", command.port, command.protocol);
    let bindings = inspect.network_settings.ports.get(&key).cloned().flatten().unwrap_or_default();
    let Some(binding) = bindings.first() else {
        bail!("no port {key} for container {}", name_of(&container));
    };
    say(address(&binding.host_ip, &binding.host_port))?;
    Ok(ExitCode::SUCCESS)
}

/// `sampan compose config`
#[derive(Args)]
pub(crate) struct Config {
    /// yaml or json
    #[arg(long, visible_alias = "output", value_parser = ["yaml", "json"], default_value = "yaml", value_name = "FORMAT")]
    format: String,
    /// Only the names of services
    #[arg(long)]
    services: bool,
    /// Only the names of volumes
    #[arg(long)]
    volumes: bool,
    /// Only the names of networks
    #[arg(long)]
    networks: bool,
    /// Only the names of images
    #[arg(long)]
    images: bool,
    /// Only the names of profiles
    #[arg(long)]
    profiles: bool,
    /// Only the hashes: *, or services parted by commas
    #[arg(long, value_name = "SERVICES")]
    hash: Option<String>,
    /// Only check
    #[arg(short, long)]
    quiet: bool,
    /// Write to a file
    #[arg(short, long = "output-file", value_name = "FILE")]
    out: Option<std::path::PathBuf>,
    /// Only these services
    #[arg(value_name = "SERVICE")]
    names: Vec<String>,
}

pub(super) fn config(session: &Session, command: Config) -> Result<ExitCode> {
    let mut project = session.project()?.clone();
    if let Some(wrong) = command.names.iter().find(|n| !project.services.contains_key(*n)) {
        bail!("no such service: {wrong}");
    }
    if !command.names.is_empty() {
        project.services.retain(|name, _| command.names.contains(name));
    }
    let mut lines: Vec<String> = Vec::new();
    if command.quiet {
        return Ok(ExitCode::SUCCESS);
    } else if command.services {
        lines.extend(project.in_order().into_iter().map(str::to_owned));
    } else if command.volumes {
        lines.extend(project.volumes.keys().cloned());
    } else if command.networks {
        lines.extend(project.networks.keys().cloned());
    } else if command.images {
        lines.extend(project.services.iter().map(|(name, s)| s.image_name(&project.name, name)));
    } else if command.profiles {
        let all = project.services.values().chain(project.disabled.values()).flat_map(|s| s.profiles.clone());
        lines.extend(all.collect::<BTreeSet<String>>());
    } else if let Some(wanted) = &command.hash {
        let wanted: Vec<&str> = wanted.split(',').collect();
        let services = project
            .services
            .iter()
            .filter(|(name, _)| wanted.contains(&"*") || wanted.contains(&name.as_str()));
        lines.extend(services.map(|(name, s)| format!("{name} {}", labels::config_hash(&project, s))));
    } else {
        let text = if command.format == "json" { show::json(&project)? } else { show::yaml(&project)? };
        lines.push(text.trim_end().to_owned());
    }
    match command.out {
        Some(path) => std::fs::write(&path, lines.join("\n") + "\n")
            .with_context(|| format!("cannot write `{}`", path.display()))?,
        None => {
            for line in lines {
                say(line)?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// `sampan compose ls`
#[derive(Args)]
pub(crate) struct Projects {
    /// Also those of which nothing runs
    #[arg(short, long)]
    all: bool,
    /// Only names
    #[arg(short, long)]
    quiet: bool,
    /// How to print: table or json
    #[arg(
        long,
        visible_alias = "output",
        default_value = "",
        hide_default_value = true,
        value_name = "FORMAT"
    )]
    format: String,
}

pub(super) async fn projects(client: &Client, command: &Projects) -> Result<ExitCode> {
    let filters = json!({"label": [labels::PROJECT]}).to_string();
    let all = if command.all { "1" } else { "" };
    let path = format!("/containers/json{}", query(&[("all", all), ("filters", &filters)]));
    let containers: Vec<ContainerSummary> = client.get(&path).await?;
    let mut projects: BTreeMap<String, (BTreeMap<String, usize>, String)> = BTreeMap::new();
    for container in containers {
        let label = |name: &str| container.labels.get(name).cloned().unwrap_or_default();
        let (states, files) = projects.entry(label(labels::PROJECT)).or_default();
        *states.entry(container.state.clone()).or_default() += 1;
        *files = label(labels::CONFIG_FILES);
    }
    if command.quiet {
        for name in projects.keys() {
            say(name)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<Value> = projects
        .into_iter()
        .map(|(name, (states, files))| {
            let status: Vec<String> = states.into_iter().map(|(state, n)| format!("{state}({n})")).collect();
            Value::record([
                ("Name", Value::from(name)),
                ("Status", Value::from(status.join(", "))),
                ("ConfigFiles", Value::from(files)),
            ])
        })
        .collect();
    if command.format == "json" {
        say(serde_json::to_string(&rows)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let headings = [("Name", "NAME"), ("Status", "STATUS"), ("ConfigFiles", "CONFIG FILES")];
    Format::parse(&command.format, "{{.Name}}\t{{.Status}}\t{{.ConfigFiles}}")?.print(&headings, &rows)?;
    Ok(ExitCode::SUCCESS)
}

/// `sampan compose events`
#[derive(Args)]
pub(crate) struct Events {
    /// A line of JSON for each
    #[arg(long)]
    json: bool,
    /// From then on
    #[arg(long, default_value = "", hide_default_value = true)]
    since: String,
    /// Until then
    #[arg(long, default_value = "", hide_default_value = true)]
    until: String,
    /// The services; none: all
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

pub(super) async fn events(session: &Session, command: Events) -> Result<ExitCode> {
    // A name that is none is told at once.
    session.of_services(&command.services, true).await?;
    let filters = json!({"type": ["container"], "label": [format!("{}={}", labels::PROJECT, session.name)]})
        .to_string();
    let since = crate::commands::container::logs::point_in_time(&command.since);
    let until = crate::commands::container::logs::point_in_time(&command.until);
    let path = format!("/events{}", query(&[("filters", &filters), ("since", &since), ("until", &until)]));
    let answer = session.client.request(Method::GET, &path, full(""), "application/json").await?;
    let mut lines = Lines { body: answer.into_body(), rest: Vec::new() };
    while let Some(event) = lines.next::<Event>().await {
        let attributes = &event.actor.attributes;
        let service = attributes.get(labels::SERVICE).cloned().unwrap_or_default();
        if !command.services.is_empty() && !command.services.contains(&service) {
            continue;
        }
        let own: BTreeMap<&String, &String> =
            attributes.iter().filter(|(key, _)| !key.starts_with("com.docker.compose.")).collect();
        let time = jiff::Timestamp::from_nanosecond(event.time_nano.into()).unwrap_or_default();
        if command.json {
            say(
                json!({"time": format!("{time:.9}"), "type": "container", "service": service, "id": event.actor.id,
                       "action": event.action, "attributes": own}),
            )?;
        } else {
            let list: Vec<String> = own.iter().map(|(k, v)| format!("{k}={v}")).collect();
            let civil = time.to_zoned(jiff::tz::TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%S%.6f").to_string();
            say(format_args!("{civil} container {} {} ({})", event.action, event.actor.id, list.join(", ")))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
