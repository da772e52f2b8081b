//! The routes of networks, and the parts of containers that speak of networks.

use std::collections::BTreeMap;
use std::net::IpAddr;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use http::StatusCode;
use sampan_docker_api::container::NetworkSettings;
use sampan_docker_api::host_config::HostConfig;
use sampan_docker_api::network as wire;
use sampan_docker_api::network::{EndpointSettings, NetworkingConfig, PortBinding, PortSummary};
use sampan_engine::Engine;
use sampan_engine::container::View;
use sampan_engine::network::{Endpoint, Ipam, Member, NetworkRecord, NetworkRequest, Pool};
use sampan_engine::spec::{ContainerSpec, EndpointWish, NetworkMode, Publish};

use super::containers::json;
use super::error::{Answer, ApiError};
use super::filters::Filters;
use super::{Query, time};

/// `GET /networks`.
pub(crate) async fn list(State(engine): State<Engine>, query: Query) -> Answer<Json<Vec<wire::Network>>> {
    let known = ["dangling", "driver", "id", "label", "name", "scope", "type"];
    let filters = Filters::parse(query.get("filters").map(String::as_str), &known)?;
    for kind in filters.values("type") {
        if !matches!(kind.as_str(), "builtin" | "custom") {
            return Err(ApiError::invalid(format!("invalid filter: 'type'='{kind}'")));
        }
    }
    let dangling = match filters.one("dangling") {
        None => None,
        Some(value) => match value.to_lowercase().as_str() {
            "true" | "1" | "t" => Some(true),
            "false" | "0" | "f" => Some(false),
            other => return Err(ApiError::invalid(format!("invalid filter 'dangling={other}'"))),
        },
    };
    let used = |network: &NetworkRecord| !engine.network_members(&network.id).is_empty();
    let wanted = |network: &NetworkRecord| {
        filters.any("name", |v| network.name.contains(v))
            && filters.any("id", |v| network.id.starts_with(v))
            && filters.any("driver", |v| network.driver == v)
            && filters.any("scope", |v| v == "local")
            && filters.any("type", |v| (v == "builtin") == network.is_predefined())
            && filters.labels(&network.labels)
            && dangling.is_none_or(|dangling| {
                if dangling {
                    !network.is_predefined() && !used(network)
                } else {
                    network.is_predefined() || used(network)
                }
            })
    };
    Ok(Json(engine.networks().iter().filter(|n| wanted(n)).map(|n| show(n, &[])).collect()))
}

/// `GET /networks/{id}`.
pub(crate) async fn inspect(
    State(engine): State<Engine>,
    Path(name): Path<String>,
    query: Query,
) -> Answer<Json<wire::Network>> {
    if query.get("scope").is_some_and(|scope| !scope.is_empty() && scope != "local") {
        return Err(ApiError { status: StatusCode::NOT_FOUND, message: format!("network {name} not found") });
    }
    if let Some(verbose) = query.get("verbose").filter(|v| {
        !matches!(
            v.as_str(),
            "" | "0" | "1" | "true" | "false" | "True" | "False" | "TRUE" | "FALSE" | "t" | "f" | "T" | "F"
        )
    }) {
        let why = format!("strconv.ParseBool: parsing \"{verbose}\": invalid syntax");
        return Err(ApiError::invalid(format!("invalid value for verbose: {verbose}: {why}")));
    }
    let network = engine.network(&name)?;
    let members = engine.network_members(&network.id);
    Ok(Json(show(&network, &members)))
}

/// `POST /networks/create`.
pub(crate) async fn create(
    State(engine): State<Engine>,
    body: Bytes,
) -> Answer<(StatusCode, Json<wire::NetworkCreated>)> {
    let request: wire::NetworkCreate = json(&body)?;
    let id = engine.create_network(request_of(request)?).await?;
    Ok((StatusCode::CREATED, Json(wire::NetworkCreated { id, warning: String::new() })))
}

/// `DELETE /networks/{id}`.
pub(crate) async fn remove(State(engine): State<Engine>, Path(name): Path<String>) -> Answer<StatusCode> {
    engine.remove_network(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /networks/{id}/connect`.
pub(crate) async fn connect(
    State(engine): State<Engine>,
    Path(name): Path<String>,
    body: Bytes,
) -> Answer<StatusCode> {
    let request: wire::NetworkConnect = json(&body)?;
    let wish = wish(&request.endpoint_config.unwrap_or_default())?;
    engine.connect_network(&name, &request.container, wish).await?;
    Ok(StatusCode::OK)
}

/// `POST /networks/{id}/disconnect`.
pub(crate) async fn disconnect(
    State(engine): State<Engine>,
    Path(name): Path<String>,
    body: Bytes,
) -> Answer<StatusCode> {
    let request: wire::NetworkDisconnect = json(&body)?;
    engine.disconnect_network(&name, &request.container, request.force).await?;
    Ok(StatusCode::OK)
}

/// `POST /networks/prune`.
pub(crate) async fn prune(State(engine): State<Engine>, query: Query) -> Answer<Json<wire::NetworksPruned>> {
    let filters = Filters::parse(query.get("filters").map(String::as_str), &["label", "label!", "until"])?;
    let until = match filters.one("until") {
        None => None,
        Some(text) => {
            let map = BTreeMap::from([("until".to_owned(), text.to_owned())]);
            time(&Query(map), "until")?
        }
    };
    let wanted = |n: &NetworkRecord| filters.labels(&n.labels) && until.is_none_or(|until| n.created < until);
    let names = engine.prune_networks(wanted).await?;
    Ok(Json(wire::NetworksPruned { networks_deleted: (!names.is_empty()).then_some(names) }))
}

fn request_of(request: wire::NetworkCreate) -> Answer<NetworkRequest> {
    if request.config_from.is_some_and(|from| !from.network.is_empty()) {
        return Err(ApiError::unsupported(
            "networks that take their configuration from others are not supported",
        ));
    }
    let ipam = request.ipam.unwrap_or_default();
    Ok(NetworkRequest {
        name: request.name,
        // Asked for in so many words; newer versions of the API have no such thing.
        allow_duplicate: request.check_duplicate == Some(false),
        driver: request.driver,
        internal: request.internal,
        attachable: request.attachable,
        without_ipv4: request.enable_ipv4 == Some(false),
        ipv6: request.enable_ipv6.unwrap_or(false),
        ipam: Ipam {
            driver: ipam.driver,
            options: ipam.options,
            pools: ipam
                .config
                .into_iter()
                .map(|pool| Pool {
                    subnet: pool.subnet,
                    range: pool.ip_range,
                    gateway: pool.gateway,
                    reserved: pool.auxiliary_addresses,
                })
                .collect(),
            chosen: false,
        },
        options: request.options,
        labels: request.labels,
        for_swarm: request.ingress || request.scope == "swarm",
        config_only: request.config_only,
    })
}

/// A network as Docker shows it.
fn show(network: &NetworkRecord, members: &[Member]) -> wire::Network {
    let containers = members.iter().map(|member| {
        let endpoint = &member.endpoint;
        let row = wire::NetworkContainer {
            name: member.name.clone(),
            endpoint_id: endpoint.id.clone(),
            mac_address: endpoint.mac.clone(),
            ipv4_address: format!("{}/{}", endpoint.address, endpoint.prefix),
            ipv6_address: endpoint.v6.map(|(ip, prefix)| format!("{ip}/{prefix}")).unwrap_or_default(),
        };
        (member.container.clone(), row)
    });
    let pools = network.ipam.pools.iter().map(|pool| wire::IpamPool {
        subnet: pool.subnet.clone(),
        ip_range: pool.range.clone(),
        gateway: pool.gateway.clone(),
        auxiliary_addresses: pool.reserved.clone(),
    });
    wire::Network {
        name: network.name.clone(),
        id: network.id.clone(),
        created: network.created.to_string(),
        scope: "local".to_owned(),
        driver: network.driver.clone(),
        enable_ipv4: Some(true),
        enable_ipv6: network.ipv6,
        ipam: wire::Ipam {
            driver: network.ipam.driver.clone(),
            options: network.ipam.options.clone(),
            config: pools.collect(),
        },
        internal: network.internal,
        attachable: network.attachable,
        containers: containers.collect(),
        options: network.options.clone(),
        labels: network.labels.clone(),
        ..wire::Network::default()
    }
}

/// What a creation says of a container's networks.
pub(crate) struct Places {
    pub(crate) mode: NetworkMode,
    /// By the network's name as it was given.
    pub(crate) endpoints: BTreeMap<String, EndpointWish>,
}

/// Reads what a creation says of networks; a hardware address beside them is that of the mode's network.
pub(crate) fn places(
    host: &HostConfig,
    networks: Option<NetworkingConfig>,
    mac: Option<&str>,
) -> Answer<Places> {
    let mut endpoints = BTreeMap::new();
    for (name, settings) in networks.map(|n| n.endpoints_config).unwrap_or_default() {
        endpoints.insert(name, wish(&settings.unwrap_or_default())?);
    }
    let word = host.network_mode.as_str();
    let mode = match word {
        "" | "default" | "bridge" => NetworkMode::Bridge,
        "host" => NetworkMode::Host,
        "none" => NetworkMode::None,
        other => match other.strip_prefix("container:") {
            Some("") => return Err(ApiError::invalid("invalid network mode: container:")),
            Some(id) => NetworkMode::Container(id.to_owned()),
            None => NetworkMode::Named(other.to_owned()),
        },
    };
    // Clients name the default network by this word, too.
    if let Some(default) = endpoints.remove("default") {
        endpoints.entry("bridge".to_owned()).or_insert(default);
    }
    let own = match &mode {
        NetworkMode::Bridge => "bridge",
        NetworkMode::Named(name) => name,
        _ => word,
    };
    if let (Some(mac), false) = (mac.filter(|m| !m.is_empty()), matches!(mode, NetworkMode::Container(_))) {
        let alone = endpoints.len() == 1 && !endpoints.contains_key(own) && mode == NetworkMode::Bridge;
        let own =
            if alone { endpoints.keys().next().cloned() } else { None }.unwrap_or_else(|| own.to_owned());
        endpoints.entry(own).or_default().mac.get_or_insert_with(|| mac.to_owned());
    }
    Ok(Places { mode, endpoints })
}

fn wish(settings: &EndpointSettings) -> Answer<EndpointWish> {
    let ipam: wire::EndpointIpam = match &settings.ipam_config {
        None | Some(serde_json::Value::Null) => wire::EndpointIpam::default(),
        Some(asked) => serde_json::from_value(asked.clone())
            .map_err(|e| ApiError::invalid(format!("invalid IPAMConfig: {e}")))?,
    };
    let link_local = ipam.link_local_ips.unwrap_or_default();
    let link_local = link_local.iter().map(|text| {
        let ip: Option<IpAddr> = text.parse().ok();
        ip.ok_or_else(|| ApiError::invalid(format!("invalid link-local IP address: {text}")))
    });
    Ok(EndpointWish {
        network: String::new(),
        aliases: settings.aliases.clone().unwrap_or_default(),
        ipv4: address(&ipam.ipv4_address, "IPv4")?,
        ipv6: address(&ipam.ipv6_address, "IPv6")?,
        link_local: link_local.collect::<Answer<_>>()?,
        mac: Some(settings.mac_address.clone()).filter(|mac| !mac.is_empty()),
        links: settings.links.clone().unwrap_or_default(),
        driver_options: settings.driver_opts.clone().unwrap_or_default(),
        gateway_priority: settings.gw_priority,
    })
}

fn address<T: std::str::FromStr>(text: &str, family: &str) -> Answer<Option<T>> {
    match text.parse() {
        _ if text.is_empty() => Ok(None),
        Ok(ip) => Ok(Some(ip)),
        Err(_) => Err(ApiError::invalid(format!("invalid {family} address: {text}"))),
    }
}

/// A container's network as its host configuration shows it: in the words in which it was asked for.
pub(crate) fn word(spec: &ContainerSpec) -> String {
    match &spec.network {
        // Names may change, ids do not.
        NetworkMode::Container(id) => format!("container:{id}"),
        _ if !spec.network_word.is_empty() => spec.network_word.clone(),
        NetworkMode::Bridge => "default".to_owned(),
        NetworkMode::Host => "host".to_owned(),
        NetworkMode::None => "none".to_owned(),
        NetworkMode::Named(id) => {
            spec.endpoints.get(id).map_or_else(|| id.clone(), |wish| wish.network.clone())
        }
    }
}

/// The endpoints of a container that runs.
fn endpoints(view: &View) -> &[Endpoint] {
    view.live.as_ref().map_or(&[], |live| live.endpoints.as_slice())
}

fn published(view: &View) -> impl Iterator<Item = &Publish> {
    endpoints(view).iter().flat_map(|endpoint| &endpoint.published)
}

fn shown_ip(text: &str) -> String {
    if text.is_empty() { "0.0.0.0".to_owned() } else { text.to_owned() }
}

/// A container's ports as a listing shows them.
pub(crate) fn ports(view: &View) -> Vec<PortSummary> {
    if view.live.is_none() || !view.record.spec.network.has_endpoints() {
        return Vec::new();
    }
    let mut rows: Vec<PortSummary> = published(view)
        .map(|p| PortSummary {
            ip: Some(shown_ip(&p.host_ip)),
            private_port: p.port.number,
            public_port: Some(p.host_port),
            kind: p.port.protocol.to_string(),
        })
        .collect();
    for port in &view.record.spec.exposed {
        if !published(view).any(|p| p.port == *port) {
            rows.push(PortSummary {
                private_port: port.number,
                kind: port.protocol.to_string(),
                ..PortSummary::default()
            });
        }
    }
    rows
}

/// A container's networks.
pub(crate) fn settings(view: &View) -> NetworkSettings {
    let record = &view.record;
    let here = endpoints(view);
    let mut networks = BTreeMap::new();
    for (id, wish) in &record.spec.endpoints {
        let endpoint = here.iter().find(|e| e.network == *id);
        networks.insert(wish.network.clone(), place(view, id, wish, endpoint));
    }
    let mut shown = NetworkSettings { networks, ..NetworkSettings::default() };
    if view.live.is_none() {
        return shown;
    }
    shown.sandbox_id.clone_from(&record.id);
    let Some(first) = here.first() else { return shown };
    shown.sandbox_key = first.namespace.display().to_string();
    for port in &record.spec.exposed {
        shown.ports.insert(port.to_string(), None);
    }
    for publish in published(view) {
        let binding =
            PortBinding { host_ip: shown_ip(&publish.host_ip), host_port: publish.host_port.to_string() };
        shown.ports.entry(publish.port.to_string()).or_default().get_or_insert_default().push(binding);
    }
    // For old clients: what was before there were several networks, and only of the default one.
    let default = record.spec.endpoints.iter().find(|(_, wish)| wish.network == "bridge").map(|(id, _)| id);
    if let Some(bridge) = here.iter().find(|e| Some(&e.network) == default) {
        shown.endpoint_id.clone_from(&bridge.id);
        shown.gateway = bridge.gateway.to_string();
        shown.ip_address = bridge.address.to_string();
        shown.ip_prefix_len = i64::from(bridge.prefix);
        shown.mac_address.clone_from(&bridge.mac);
        if let Some((ip, prefix)) = bridge.v6 {
            shown.global_ipv6_address = ip.to_string();
            shown.global_ipv6_prefix_len = i64::from(prefix);
            shown.ipv6_gateway = bridge.gateway6.map(|ip| ip.to_string()).unwrap_or_default();
        }
    }
    shown
}

/// A container's place in one network, as it was asked for, and as it is while the container runs.
fn place(view: &View, network: &str, wish: &EndpointWish, endpoint: Option<&Endpoint>) -> EndpointSettings {
    let record = &view.record;
    let text = |ip: Option<String>| ip.unwrap_or_default();
    let asked = wish.ipv4.is_some() || wish.ipv6.is_some() || !wish.link_local.is_empty();
    let mut shown = EndpointSettings {
        ipam_config: asked
            .then_some(wire::EndpointIpam {
                ipv4_address: text(wish.ipv4.map(|ip| ip.to_string())),
                ipv6_address: text(wish.ipv6.map(|ip| ip.to_string())),
                link_local_ips: (!wish.link_local.is_empty())
                    .then(|| wish.link_local.iter().map(IpAddr::to_string).collect()),
            })
            .and_then(|ipam| serde_json::to_value(ipam).ok()),
        links: (!wish.links.is_empty()).then(|| wish.links.clone()),
        aliases: (!wish.aliases.is_empty()).then(|| wish.aliases.clone()),
        network_id: network.to_owned(),
        mac_address: wish.mac.clone().unwrap_or_default(),
        driver_opts: (!wish.driver_options.is_empty()).then(|| wish.driver_options.clone()),
        gw_priority: wish.gateway_priority,
        ..EndpointSettings::default()
    };
    if let Some(endpoint) = endpoint {
        shown.endpoint_id.clone_from(&endpoint.id);
        shown.gateway = endpoint.gateway.to_string();
        shown.ip_address = endpoint.address.to_string();
        shown.ip_prefix_len = i64::from(endpoint.prefix);
        shown.mac_address.clone_from(&endpoint.mac);
        shown.dns_names = (!endpoint.names.is_empty()).then(|| endpoint.names.clone());
        if let Some((ip, prefix)) = endpoint.v6 {
            shown.global_ipv6_address = ip.to_string();
            shown.global_ipv6_prefix_len = i64::from(prefix);
            shown.ipv6_gateway = text(endpoint.gateway6.map(|ip| ip.to_string()));
        }
    } else if view.live.is_some() && !record.spec.network.has_endpoints() {
        // The host's namespace, or an empty one: there is such a place, but nothing to tell of it.
        shown.endpoint_id =
            sampan_base::Digest::of(format!("{}@{network}", record.id).as_bytes()).hex().to_owned();
    }
    shown
}

/// The old links as they are shown.
pub(crate) fn links(spec: &ContainerSpec, name: &str) -> Option<Vec<String>> {
    if spec.links.is_empty() {
        return None;
    }
    let shown = spec.links.iter().map(|link| {
        let (target, alias) = link.split_once(':').unwrap_or((link, link));
        let alias = alias.rsplit('/').next().unwrap_or(alias);
        format!("/{}:/{name}/{alias}", target.trim_start_matches('/'))
    });
    Some(shown.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_places(host: &str, networks: &str, mac: Option<&str>) -> String {
        let host: HostConfig = serde_json::from_str(host).unwrap();
        match places(&host, serde_json::from_str(networks).unwrap(), mac) {
            Ok(places) => {
                let endpoints = places.endpoints.iter().map(|(name, wish)| {
                    let mac = wish.mac.as_deref().unwrap_or("");
                    let ip = wish.ipv4.map(|ip| ip.to_string()).unwrap_or_default();
                    format!("{name}[{}{ip}{mac}]", wish.aliases.join(","))
                });
                format!("{:?} {}", places.mode, endpoints.collect::<String>())
            }
            Err(error) => error.message,
        }
    }

    #[test]
    fn networks_of_a_creation_are_read() {
        let one =
            r#"{"EndpointsConfig":{"net":{"Aliases":["a","b"],"IPAMConfig":{"IPv4Address":"10.0.0.5"}}}}"#;
        assert_eq!(read_places(r#"{"NetworkMode":"net"}"#, one, None), r#"Named("net") net[a,b10.0.0.5]"#);
        assert_eq!(
            read_places("{}", one, Some("02:00:00:00:00:01")),
            "Bridge net[a,b10.0.0.502:00:00:00:00:01]"
        );
        let default = r#"{"EndpointsConfig":{"default":null}}"#;
        assert_eq!(read_places(r#"{"NetworkMode":"default"}"#, default, Some("x")), "Bridge bridge[x]");
        assert_eq!(
            read_places(r#"{"NetworkMode":"container:"}"#, "null", None),
            "invalid network mode: container:"
        );
        let bad = r#"{"EndpointsConfig":{"net":{"IPAMConfig":{"IPv4Address":"300.0.0.5"}}}}"#;
        assert_eq!(read_places("{}", bad, None), "invalid IPv4 address: 300.0.0.5");
    }

    #[test]
    fn links_are_shown_with_both_names() {
        let spec = ContainerSpec { links: vec!["db:store".into(), "/x".into()], ..ContainerSpec::default() };
        assert_eq!(links(&spec, "web").unwrap(), ["/db:/web/store", "/x:/web/x"]);
    }
}
