//! `ps`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use sampan_docker_api::container::ContainerSummary;
use sampan_docker_api::network::PortSummary;
use sampan_docker_api::units::human_size;
use sampan_template::Value;

use super::filters;
use crate::client::{Client, query};
use crate::commands::{ago, say, short};
use crate::listing::{Format, go_time_of, label_method, labels, shortened};

/// `sampan ps`
#[derive(Args)]
pub(crate) struct List {
    /// Also those that do not run
    #[arg(short, long)]
    all: bool,
    /// Only ids
    #[arg(short, long)]
    quiet: bool,
    /// Do not shorten
    #[arg(long)]
    no_trunc: bool,
    /// The last N created
    #[arg(short = 'n', long, default_value_t = -1, hide_default_value = true, value_name = "N", allow_hyphen_values = true)]
    last: i64,
    /// The one created last
    #[arg(short, long)]
    latest: bool,
    /// Also the sizes of their file systems
    #[arg(short, long)]
    size: bool,
    /// Filter: status=…, name=…, label=…, ancestor=…, id=…, exited=…, network=…, volume=…, publish=…, health=…
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

const TABLE: &str = "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}";
const TABLE_WITH_SIZE: &str =
    "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}\t{{.Size}}";

/// The headings of containers.
pub(crate) const HEADINGS: [(&str, &str); 15] = [
    ("ID", "CONTAINER ID"),
    ("Names", "NAMES"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("CreatedAt", "CREATED AT"),
    ("RunningFor", "CREATED"),
    ("Ports", "PORTS"),
    ("State", "STATE"),
    ("Status", "STATUS"),
    ("Size", "SIZE"),
    ("Labels", "LABELS"),
    ("Mounts", "MOUNTS"),
    ("LocalVolumes", "LOCAL VOLUMES"),
    ("Networks", "NETWORKS"),
    ("Platform", "PLATFORM"),
];

pub(crate) async fn list(client: &Client, command: List) -> Result<ExitCode> {
    let configured = crate::settings::format("psFormat", &command.format, command.quiet);
    let format = Format::parse(&configured, if command.size { TABLE_WITH_SIZE } else { TABLE })?;
    let last = if command.latest { 1 } else { command.last };
    let limit = if last > 0 { last.to_string() } else { String::new() };
    let on = |yes: bool| if yes { "1" } else { "" };
    let parameters = [
        ("all", on(command.all || last > 0)),
        ("limit", &limit),
        ("size", on(command.size || format.names("Size"))),
        ("filters", &filters(&command.filter)?),
    ];
    let containers: Vec<ContainerSummary> =
        client.get(&format!("/containers/json{}", query(&parameters))).await?;
    if command.quiet {
        for container in &containers {
            say(if command.no_trunc { &container.id } else { short(&container.id) })?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<Value> = containers.into_iter().map(|c| row(c, command.no_trunc)).collect();
    format.print(&HEADINGS, &rows)?;
    Ok(ExitCode::SUCCESS)
}

/// All that a list can show of a container.
pub(crate) fn row(c: ContainerSummary, whole: bool) -> Value {
    let names: Vec<&str> = c
        .names
        .iter()
        .map(|n| n.trim_start_matches('/'))
        // A name with a slash is another container's link to it.
        .filter(|n| whole || !n.contains('/'))
        .collect();
    let cut = |text: &str, width| if whole { text.to_owned() } else { shortened(text, width) };
    let image = match c.image.as_str() {
        "" => "<no image>".to_owned(),
        // A name that is gone leaves the id.
        image if !whole && image.strip_prefix("sha256:").is_some_and(|hex| hex.len() == 64) => {
            short(image).to_owned()
        }
        image => image.to_owned(),
    };
    let mounts: Vec<String> = c
        .mounts
        .iter()
        .map(|m| cut(m.name.as_deref().filter(|n| !n.is_empty()).unwrap_or(&m.source), 15))
        .collect();
    let local = c.mounts.iter().filter(|m| m.driver.as_deref() == Some("local")).count();
    let networks: Vec<&str> = c.network_settings.networks.keys().map(String::as_str).collect();
    let bytes = |n: Option<i64>| u64::try_from(n.unwrap_or(0)).unwrap_or(0);
    let size = match bytes(c.size_root_fs) {
        0 => human_size(bytes(c.size_rw)),
        all => format!("{} (virtual {})", human_size(bytes(c.size_rw)), human_size(all)),
    };
    Value::record([
        ("Command", Value::from(format!("\"{}\"", cut(&c.command, 20)))),
        ("CreatedAt", Value::from(go_time_of(c.created))),
        ("ID", Value::from(if whole { c.id.as_str() } else { short(&c.id) })),
        ("Image", Value::from(image)),
        ("Labels", Value::from(labels(&c.labels))),
        ("LocalVolumes", Value::from(local.to_string())),
        ("Mounts", Value::from(mounts.join(","))),
        ("Names", Value::from(names.join(","))),
        ("Networks", Value::from(networks.join(","))),
        ("Platform", Value::Nil),
        ("Ports", Value::from(ports(&c.ports))),
        ("RunningFor", Value::from(ago(c.created))),
        ("Size", Value::from(size)),
        ("State", Value::from(c.state)),
        ("Status", Value::from(c.status)),
        ("Label", label_method(c.labels)),
    ])
}

/// An address and a port; IPv6 addresses in brackets.
pub(crate) fn address(ip: &str, port: &str) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

/// Ports as Docker lists them: those next to each other as a range.
pub(crate) fn ports(ports: &[PortSummary]) -> String {
    let mut ports: Vec<&PortSummary> = ports.iter().collect();
    ports.sort_by(|a, b| {
        let key = |p: &PortSummary| (p.private_port, p.ip.clone(), p.public_port, p.kind.clone());
        key(a).cmp(&key(b))
    });
    // Ports that are the same outside and inside make ranges, by address and protocol in the order of their coming.
    let mut groups: Vec<(Option<&str>, &str, u16, u16)> = Vec::new();
    let (mut ended, mut mapped) = (Vec::new(), Vec::new());
    let show = |(ip, kind, first, last): (Option<&str>, &str, u16, u16)| {
        let range = if first == last { first.to_string() } else { format!("{first}-{last}") };
        match ip {
            Some(ip) => format!("{}->{range}/{kind}", address(ip, &range)),
            None => format!("{range}/{kind}"),
        }
    };
    for port in ports {
        let ip = port.ip.as_deref().filter(|ip| !ip.is_empty());
        let inside = port.private_port;
        if let Some(ip) = ip
            && port.public_port != Some(inside)
        {
            let public = port.public_port.unwrap_or(0).to_string();
            mapped.push(format!("{}->{inside}/{}", address(ip, &public), port.kind));
            continue;
        }
        match groups.iter_mut().find(|g| g.0 == ip && g.1 == port.kind) {
            Some(group) if group.3.checked_add(1) == Some(inside) => group.3 = inside,
            Some(group) => {
                ended.push(show(*group));
                (group.2, group.3) = (inside, inside);
            }
            None => groups.push((ip, &port.kind, inside, inside)),
        }
    }
    let open = groups.into_iter().map(show);
    ended.into_iter().chain(open).chain(mapped).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_next_to_each_other_are_a_range() {
        let port = |ip: &str, private_port, public: u16| PortSummary {
            ip: (!ip.is_empty()).then(|| ip.to_owned()),
            private_port,
            public_port: (public > 0).then_some(public),
            kind: "tcp".into(),
        };
        let all = [port("0.0.0.0", 81, 81), port("0.0.0.0", 80, 80), port("::", 80, 80), port("", 90, 0)];
        assert_eq!(ports(&all), "0.0.0.0:80-81->80-81/tcp, [::]:80->80/tcp, 90/tcp");
        assert_eq!(ports(&[port("1.2.3.4", 80, 8080), port("", 90, 0)]), "90/tcp, 1.2.3.4:8080->80/tcp");
        assert_eq!(ports(&[]), "");
    }
}
