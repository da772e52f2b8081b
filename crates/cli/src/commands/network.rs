//! The commands on networks.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use sampan_docker_api::network;
use sampan_template::Value;
use serde::Deserialize;
use serde_json::{Map, json};

use super::container::{confirm, filters};
use super::inspect::InspectKind;
use super::options::{networks as addresses, pairs};
use super::{fail, is_not_found, say, short, tell};
use crate::client::{Client, encode, query};
use crate::listing::{Format, go_time, label_method, labels};

/// `sampan network …`
#[derive(Subcommand)]
pub(crate) enum Group {
    /// List networks
    #[command(visible_alias = "list")]
    Ls(List),
    /// Make a network
    Create(Create),
    /// Join a container to a network
    Connect(Connect),
    /// Part a container from a network
    Disconnect(Disconnect),
    /// Show all about networks
    Inspect(InspectKind),
    /// Remove networks
    #[command(visible_alias = "remove")]
    Rm(Remove),
    /// Remove networks that no container uses
    Prune(Prune),
}

pub(crate) async fn group(client: &Client, group: Group) -> Result<ExitCode> {
    match group {
        Group::Ls(command) => list(client, command).await,
        Group::Create(command) => create(client, command).await,
        Group::Connect(command) => connect(client, command).await,
        Group::Disconnect(command) => disconnect(client, command).await,
        Group::Inspect(command) => super::inspect::of_kind(client, command, "network").await,
        Group::Rm(command) => remove(client, command).await,
        Group::Prune(command) => prune(client, command).await,
    }
}

/// `sampan network ls`
#[derive(Args)]
pub(crate) struct List {
    /// Filter: driver=…, id=…, label=…, name=…, scope=…, type=custom|builtin, dangling=…
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
    /// Do not shorten
    #[arg(long)]
    no_trunc: bool,
    /// Only ids
    #[arg(short, long)]
    quiet: bool,
}

const HEADINGS: [(&str, &str); 9] = [
    ("ID", "NETWORK ID"),
    ("Name", "NAME"),
    ("Driver", "DRIVER"),
    ("Scope", "SCOPE"),
    ("IPv4", "IPV4"),
    ("IPv6", "IPV6"),
    ("Internal", "INTERNAL"),
    ("Labels", "LABELS"),
    ("CreatedAt", "CREATED AT"),
];

async fn list(client: &Client, command: List) -> Result<ExitCode> {
    let given = crate::settings::format("networksFormat", &command.format, command.quiet);
    let format = Format::parse(&given, "{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}")?;
    let path = format!("/networks{}", query(&[("filters", &filters(&command.filter)?)]));
    let mut networks: Vec<network::Network> = client.get(&path).await?;
    networks.sort_by(|a, b| a.name.cmp(&b.name));
    let id = |n: &network::Network| if command.no_trunc { n.id.clone() } else { short(&n.id).to_owned() };
    if command.quiet {
        for network in &networks {
            say(id(network))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let row = |n: network::Network| {
        let created = n.created.parse().map(go_time).unwrap_or_default();
        Value::record([
            ("CreatedAt", Value::from(created)),
            ("Driver", Value::from(n.driver.as_str())),
            ("ID", Value::from(id(&n))),
            ("IPv4", Value::from(n.enable_ipv4.unwrap_or(false).to_string())),
            ("IPv6", Value::from(n.enable_ipv6.to_string())),
            ("Internal", Value::from(n.internal.to_string())),
            ("Labels", Value::from(labels(&n.labels))),
            ("Name", Value::from(n.name)),
            ("Scope", Value::from(n.scope)),
            ("Label", label_method(n.labels)),
        ])
    };
    let rows: Vec<Value> = networks.into_iter().map(row).collect();
    format.print(&HEADINGS, &rows)?;
    Ok(ExitCode::SUCCESS)
}

/// `sampan network create`
#[derive(Args)]
pub(crate) struct Create {
    /// The driver
    #[arg(short, long, default_value = "bridge")]
    driver: String,
    /// Addresses of the network, such as 172.30.0.0/16
    #[arg(long, value_name = "ADDRESS/PREFIX", value_delimiter = ',')]
    subnet: Vec<String>,
    /// Addresses that containers get, a part of the subnet
    #[arg(long, value_name = "ADDRESS/PREFIX", value_delimiter = ',')]
    ip_range: Vec<String>,
    /// The gateway's address
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    gateway: Vec<String>,
    /// Addresses that others have: NAME=ADDRESS
    #[arg(long, value_name = "NAME=ADDRESS")]
    aux_address: Vec<String>,
    /// No way out
    #[arg(long)]
    internal: bool,
    /// Also IPv6 addresses
    #[arg(long)]
    ipv6: bool,
    /// IPv4 addresses: true or false
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    ipv4: Option<bool>,
    /// Containers may join by hand (swarm)
    #[arg(long)]
    attachable: bool,
    /// The swarm's own network: not supported
    #[arg(long, hide = true)]
    ingress: bool,
    /// Only a configuration for others
    #[arg(long)]
    config_only: bool,
    /// The network whose configuration it takes
    #[arg(long, default_value = "", hide_default_value = true, value_name = "NETWORK")]
    config_from: String,
    /// Where it is known: local
    #[arg(long, default_value = "", hide_default_value = true)]
    scope: String,
    /// Who gives addresses
    #[arg(long, default_value = "default", hide_default_value = true)]
    ipam_driver: String,
    /// Option for who gives addresses
    #[arg(long, value_name = "NAME=VALUE")]
    ipam_opt: Vec<String>,
    /// Option of the driver
    #[arg(short, long, value_name = "NAME=VALUE")]
    opt: Vec<String>,
    /// Set a label
    #[arg(long, value_name = "NAME=VALUE")]
    label: Vec<String>,
    /// The network's name
    #[arg(value_name = "NETWORK")]
    name: String,
}

/// An address with the length of its network's prefix.
fn parse_subnet(text: &str) -> Result<(IpAddr, u8)> {
    let wrong = || format!("invalid subnet `{text}`: it is ADDRESS/PREFIX, such as 172.30.0.0/16");
    let (address, prefix) = text.split_once('/').with_context(wrong)?;
    let address: IpAddr = address.parse().ok().with_context(wrong)?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let prefix = prefix.parse().ok().filter(|p| *p <= most).with_context(wrong)?;
    Ok((address, prefix))
}

fn contains((network, prefix): (IpAddr, u8), address: IpAddr) -> bool {
    let bits = |ip: IpAddr| match ip {
        IpAddr::V4(v4) => u128::from(u32::from(v4)) << 96,
        IpAddr::V6(v6) => u128::from(v6),
    };
    let shift = 128 - u32::from(prefix);
    let top = |n: u128| n.checked_shr(shift).unwrap_or(0);
    network.is_ipv4() == address.is_ipv4() && top(bits(network)) == top(bits(address))
}

/// The pools of addresses: to each subnet its range, gateway and the addresses that others have.
fn pools(command: &Create) -> Result<Vec<serde_json::Value>> {
    let subnets =
        command.subnet.iter().map(|text| Ok((text, parse_subnet(text)?))).collect::<Result<Vec<_>>>()?;
    for (at, (text, (address, prefix))) in subnets.iter().enumerate() {
        for (other, (other_address, other_prefix)) in &subnets[..at] {
            let wide = (*prefix).min(*other_prefix);
            if contains((*address, wide), *other_address) {
                bail!("multiple overlapping subnet configuration is not supported: {other} and {text}");
            }
        }
    }
    let mut pools: Vec<Map<String, serde_json::Value>> =
        subnets.iter().map(|(text, _)| Map::from_iter([("Subnet".to_owned(), json!(text))])).collect();
    let mut put = |key: &str, text: &str, address: IpAddr| -> Result<()> {
        let at = subnets.iter().position(|(_, subnet)| contains(*subnet, address));
        let Some(at) = at else { bail!("no matching subnet for {key} {text}: give it with --subnet") };
        if pools[at].insert(key.to_owned(), json!(text)).is_some() {
            bail!("cannot configure multiple {key}s for one subnet: {text}");
        }
        Ok(())
    };
    for text in &command.ip_range {
        put("IPRange", text, parse_subnet(text)?.0)?;
    }
    for text in &command.gateway {
        let address =
            text.parse().ok().with_context(|| format!("invalid gateway `{text}`: it is an address"))?;
        put("Gateway", text, address)?;
    }
    for text in &command.aux_address {
        let wrong = || format!("invalid --aux-address `{text}`: it is NAME=ADDRESS");
        let (name, address) = text.split_once('=').with_context(wrong)?;
        let ip: IpAddr = address.parse().ok().with_context(wrong)?;
        let at = subnets.iter().position(|(_, subnet)| contains(*subnet, ip));
        let at = at.with_context(|| format!("no matching subnet for aux-address {address}"))?;
        pools[at].entry("AuxiliaryAddresses").or_insert_with(|| json!({}))[name] = json!(address);
    }
    Ok(pools.into_iter().map(serde_json::Value::Object).collect())
}

/// The answer to `POST /networks/create`.
#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Created {
    id: String,
    warning: Option<String>,
}

async fn create(client: &Client, command: Create) -> Result<ExitCode> {
    let mut body = json!({
        "Name": command.name,
        "CheckDuplicate": true,
        "Driver": command.driver,
        "Scope": command.scope,
        "Internal": command.internal,
        "Attachable": command.attachable,
        "Ingress": command.ingress,
        "ConfigOnly": command.config_only,
        "EnableIPv6": command.ipv6,
        "IPAM": {
            "Driver": command.ipam_driver,
            "Options": pairs(&command.ipam_opt),
            "Config": pools(&command)?,
        },
        "Options": pairs(&command.opt),
        "Labels": pairs(&command.label),
    });
    if !command.config_from.is_empty() {
        body["ConfigFrom"] = json!({"Network": command.config_from});
    }
    if let Some(ipv4) = command.ipv4 {
        body["EnableIPv4"] = json!(ipv4);
    }
    let created: Created = client.post_json("/networks/create", &body).await?;
    if let Some(warning) = created.warning.filter(|w| !w.is_empty()) {
        tell(format_args!("WARNING: {warning}"));
    }
    say(created.id)?;
    Ok(ExitCode::SUCCESS)
}

/// `sampan network connect`
#[derive(Args)]
pub(crate) struct Connect {
    /// Another name in the network
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    alias: Vec<String>,
    /// Option of the driver for this container
    #[arg(long, value_name = "NAME=VALUE", value_delimiter = ',')]
    driver_opt: Vec<String>,
    /// The network of the highest number has the default gateway
    #[arg(long, default_value_t = 0, hide_default_value = true, allow_hyphen_values = true)]
    gw_priority: i64,
    /// Address
    #[arg(long, default_value = "", hide_default_value = true, value_name = "ADDRESS")]
    ip: String,
    /// IPv6 address
    #[arg(long, default_value = "", hide_default_value = true, value_name = "ADDRESS")]
    ip6: String,
    /// Know another container by a name: CONTAINER[:NAME]
    #[arg(long, value_name = "CONTAINER")]
    link: Vec<String>,
    /// Link-local address
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    link_local_ip: Vec<String>,
    /// The network
    #[arg(value_name = "NETWORK")]
    network: String,
    /// The container
    #[arg(value_name = "CONTAINER")]
    container: String,
}

async fn connect(client: &Client, command: Connect) -> Result<ExitCode> {
    let some = |list: Vec<String>| (!list.is_empty()).then_some(list);
    let options: BTreeMap<String, String> = pairs(&command.driver_opt);
    let endpoint = network::EndpointSettings {
        ipam_config: addresses::ipam(&command.ip, &command.ip6, &command.link_local_ip),
        links: some(command.link),
        aliases: some(command.alias),
        driver_opts: (!options.is_empty()).then_some(options),
        gw_priority: command.gw_priority,
        ..network::EndpointSettings::default()
    };
    let body = json!({"Container": command.container, "EndpointConfig": endpoint});
    client.post_without_answer(&format!("/networks/{}/connect", encode(&command.network)), &body).await?;
    Ok(ExitCode::SUCCESS)
}

/// `sampan network disconnect`
#[derive(Args)]
pub(crate) struct Disconnect {
    /// Also if the container is out of order
    #[arg(short, long)]
    force: bool,
    /// The network
    #[arg(value_name = "NETWORK")]
    network: String,
    /// The container
    #[arg(value_name = "CONTAINER")]
    container: String,
}

async fn disconnect(client: &Client, command: Disconnect) -> Result<ExitCode> {
    let body = json!({"Container": command.container, "Force": command.force});
    client.post_without_answer(&format!("/networks/{}/disconnect", encode(&command.network)), &body).await?;
    Ok(ExitCode::SUCCESS)
}

/// `sampan network rm`
#[derive(Args)]
pub(crate) struct Remove {
    /// Do not mind networks that are not there
    #[arg(short, long)]
    force: bool,
    /// Names or ids
    #[arg(required = true, value_name = "NETWORK")]
    names: Vec<String>,
}

async fn remove(client: &Client, command: Remove) -> Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for name in &command.names {
        match client.delete(&format!("/networks/{}", encode(name))).await {
            Ok(_) => say(name)?,
            Err(error) if command.force && is_not_found(&error) => {}
            Err(error) => code = fail(&error),
        }
    }
    Ok(code)
}

/// `sampan network prune`
#[derive(Args)]
pub(crate) struct Prune {
    /// Filter: until=…, label=…, label!=…
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

/// The answer to `POST /networks/prune`.
#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Pruned {
    pub(crate) networks_deleted: Option<Vec<String>>,
}

async fn prune(client: &Client, command: Prune) -> Result<ExitCode> {
    if !command.force && !confirm("This will remove all custom networks not used by at least one container.")?
    {
        return Ok(ExitCode::FAILURE);
    }
    let path = format!("/networks/prune{}", query(&[("filters", &filters(&command.filter)?)]));
    let pruned: Pruned = client.post_json(&path, &()).await?;
    let gone = pruned.networks_deleted.unwrap_or_default();
    if !gone.is_empty() {
        say(format_args!("Deleted Networks:\n{}\n", gone.join("\n")))?;
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        create: Create,
    }

    fn read(flags: &str) -> Result<Vec<serde_json::Value>> {
        pools(&Line::parse_from(format!("create {flags} n1").split_whitespace()).create)
    }

    #[test]
    fn each_subnet_has_its_own() {
        let all = read(
            "--subnet 10.1.0.0/16 --subnet fd00::/64 --gateway fd00::1 --gateway 10.1.0.9 --ip-range 10.1.2.0/24 --aux-address a=10.1.0.3",
        )
        .unwrap();
        assert_eq!(
            all,
            [
                json!({"Subnet": "10.1.0.0/16", "Gateway": "10.1.0.9", "IPRange": "10.1.2.0/24",
                       "AuxiliaryAddresses": {"a": "10.1.0.3"}}),
                json!({"Subnet": "fd00::/64", "Gateway": "fd00::1"}),
            ]
        );
        for bad in [
            "--gateway 10.1.0.1",
            "--subnet 10.1.0.0",
            "--subnet 10.1.0.0/33",
            "--subnet 10.1.0.0/16 --subnet 10.1.1.0/24",
            "--subnet 10.1.0.0/16 --gateway 10.2.0.1",
            "--subnet 10.1.0.0/16 --gateway 10.1.0.1 --gateway 10.1.0.2",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
