//! `--network` and what belongs to it.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use sampan_docker_api::network::{EndpointSettings, NetworkingConfig};
use serde_json::{Map, Value, json};

use super::{Options, mounts};

/// The networks that a container is to join.
pub(crate) struct Wish {
    /// `HostConfig.NetworkMode`.
    pub(crate) mode: String,
    /// What it is to be in each.
    pub(crate) config: Option<NetworkingConfig>,
}

/// The addresses that are asked for, as the API takes them.
pub(crate) fn ipam(ip: &str, ip6: &str, link_local: &[String]) -> Option<Value> {
    let mut config = Map::new();
    if !ip.is_empty() {
        config.insert("IPv4Address".into(), json!(ip));
    }
    if !ip6.is_empty() {
        config.insert("IPv6Address".into(), json!(ip6));
    }
    if !link_local.is_empty() {
        config.insert("LinkLocalIPs".into(), json!(link_local));
    }
    (!config.is_empty()).then_some(Value::Object(config))
}

/// Reads `--network`, each a name or `name=NAME,ip=…,ip6=…,alias=…,mac-address=…,driver-opt=…`, and the flags that belong
/// to the first.
pub(crate) fn wish(options: &Options) -> Result<Wish> {
    let mut networks: Vec<(String, EndpointSettings)> = Vec::new();
    for text in &options.network {
        let (name, endpoint) = one(text)?;
        if networks.iter().any(|(known, _)| *known == name) {
            bail!("network {name:?} is specified multiple times");
        }
        networks.push((name, endpoint));
    }
    let some = |list: &Vec<String>| (!list.is_empty()).then(|| list.clone());
    let flags = EndpointSettings {
        ipam_config: ipam(&options.ip, &options.ip6, &options.link_local_ip),
        links: some(&options.link),
        aliases: some(&options.network_alias),
        mac_address: options.mac_address.clone(),
        ..EndpointSettings::default()
    };
    if networks.is_empty() {
        networks.push(("default".to_owned(), EndpointSettings::default()));
    }
    let (mode, first) = &mut networks[0];
    let mode = mode.clone();
    let is_special =
        |mode: &str| matches!(mode, "default" | "bridge" | "host" | "none") || mode.starts_with("container:");
    // Links on the default bridge are the host configuration's.
    let links_alone = EndpointSettings { links: flags.links.clone(), ..EndpointSettings::default() };
    if flags != links_alone || (flags.links.is_some() && !is_special(&mode)) {
        if matches!(mode.as_str(), "host" | "none") || mode.starts_with("container:") {
            bail!("conflicting options: addresses and aliases can't be given in network mode {mode}");
        }
        for (what, both) in [
            ("--network-alias and per-network aliases", first.aliases.is_some() && flags.aliases.is_some()),
            ("--ip and per-network IPv4 address", first.ipam_config.is_some() && flags.ipam_config.is_some()),
            (
                "--mac-address and per-network MAC address",
                !first.mac_address.is_empty() && !flags.mac_address.is_empty(),
            ),
        ] {
            if both {
                bail!("conflicting options: cannot specify both {what}");
            }
        }
        first.ipam_config = first.ipam_config.take().or(flags.ipam_config);
        first.aliases = first.aliases.take().or(flags.aliases);
        if !is_special(&mode) {
            first.links = flags.links;
        }
        if !flags.mac_address.is_empty() {
            first.mac_address = flags.mac_address;
        }
    }
    let plain = networks.iter().all(|(_, endpoint)| *endpoint == EndpointSettings::default());
    if networks.len() == 1 && plain && is_special(&mode) {
        return Ok(Wish { mode, config: None });
    }
    let endpoints_config: BTreeMap<_, _> =
        networks.into_iter().map(|(name, endpoint)| (name, Some(endpoint))).collect();
    Ok(Wish { mode, config: Some(NetworkingConfig { endpoints_config }) })
}

fn one(text: &str) -> Result<(String, EndpointSettings)> {
    if !text.contains('=') || text.starts_with("container:") {
        return Ok((text.to_owned(), EndpointSettings::default()));
    }
    let (mut name, mut endpoint) = (String::new(), EndpointSettings::default());
    let (mut ip, mut ip6, mut link_local) = (String::new(), String::new(), Vec::new());
    for field in mounts::csv(text)? {
        let Some((key, value)) = field.split_once('=') else {
            bail!("invalid field {field} in --network `{text}`: it is KEY=VALUE")
        };
        let (key, value) = (key.trim().to_lowercase(), value.trim());
        match key.as_str() {
            "name" => name = value.to_owned(),
            "alias" => endpoint.aliases.get_or_insert_default().push(value.to_owned()),
            "ip" => ip = value.to_owned(),
            "ip6" => ip6 = value.to_owned(),
            "link-local-ip" => link_local.push(value.to_owned()),
            "mac-address" => endpoint.mac_address = value.to_owned(),
            "gw-priority" => {
                endpoint.gw_priority = value.parse().map_err(|_| {
                    anyhow::Error::msg(format!("invalid gw-priority `{value}` in --network `{text}`"))
                })?;
            }
            "driver-opt" => match value.split_once('=') {
                Some((option, value)) => {
                    endpoint.driver_opts.get_or_insert_default().insert(option.to_owned(), value.to_owned());
                }
                None => bail!("invalid key/value pair format in driver options of --network `{text}`"),
            },
            _ => bail!("invalid field key {key} in --network `{text}`"),
        }
    }
    if name.is_empty() {
        bail!("--network `{text}` names no network: add name=NAME");
    }
    endpoint.ipam_config = ipam(&ip, &ip6, &link_local);
    Ok((name, endpoint))
}

/// `NAME:ADDRESS`, or `NAME=ADDRESS` as newer clients write it; an IPv6 address may be in brackets.
pub(crate) fn extra_hosts(list: &[String]) -> Result<Vec<String>> {
    let mut hosts = Vec::new();
    for text in list {
        let split = text.split_once('=').or_else(|| text.split_once(':'));
        match split {
            Some((name, address)) if !name.is_empty() && !address.is_empty() => {
                let address = address.trim_start_matches('[').trim_end_matches(']');
                if address != "host-gateway" && address.parse::<std::net::IpAddr>().is_err() {
                    bail!("invalid IP address in add-host: {address:?}");
                }
                hosts.push(format!("{name}:{address}"));
            }
            _ => bail!("bad format for add-host: {text:?}: it is NAME:ADDRESS"),
        }
    }
    Ok(hosts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wished(flags: impl FnOnce(&mut Options)) -> Result<Wish> {
        let mut options = Options::default();
        flags(&mut options);
        wish(&options)
    }

    #[test]
    fn modes_alone_need_no_endpoints() {
        for mode in ["host", "none", "bridge", "container:x"] {
            let wish = wished(|o| o.network = vec![mode.into()]).unwrap();
            assert!(wish.mode == mode && wish.config.is_none());
        }
        let wish = wished(|_| {}).unwrap();
        assert!(wish.mode == "default" && wish.config.is_none());
    }

    #[test]
    fn flags_belong_to_the_first_network() {
        let wish = wished(|o| {
            o.network = vec!["a".into(), "name=b,ip=10.0.0.2,alias=x,alias=y,driver-opt=k=v".into()];
            (o.ip, o.network_alias) = ("10.1.0.5".into(), vec!["web".into()]);
        })
        .unwrap();
        let endpoints = wish.config.unwrap().endpoints_config;
        let (a, b) = (endpoints["a"].clone().unwrap(), endpoints["b"].clone().unwrap());
        assert_eq!((wish.mode.as_str(), a.aliases.unwrap()), ("a", vec!["web".to_owned()]));
        assert_eq!(a.ipam_config.unwrap(), json!({"IPv4Address": "10.1.0.5"}));
        assert_eq!((b.aliases.unwrap().len(), b.driver_opts.unwrap()["k"].as_str()), (2, "v"));
    }

    #[test]
    fn nonsense_is_refused() {
        for networks in [vec!["a", "a"], vec!["ip=10.0.0.1"], vec!["name=a,what=x"], vec!["name=a,alias"]] {
            assert!(wished(|o| o.network = networks.iter().map(|n| (*n).to_owned()).collect()).is_err());
        }
        assert!(wished(|o| (o.network, o.ip) = (vec!["host".into()], "10.0.0.1".into())).is_err());
        let twice =
            |o: &mut Options| (o.network, o.ip) = (vec!["name=a,ip=10.0.0.1".into()], "10.0.0.2".into());
        assert!(wished(twice).is_err());
    }

    #[test]
    fn hosts_have_addresses() {
        let list = ["a:1.2.3.4", "b=::1", "c:[::2]", "d:host-gateway"].map(str::to_owned);
        assert_eq!(extra_hosts(&list).unwrap(), ["a:1.2.3.4", "b:::1", "c:::2", "d:host-gateway"]);
        for bad in ["a", "a:x", ":1.2.3.4"] {
            assert!(extra_hosts(&[bad.to_owned()]).is_err(), "{bad}");
        }
    }
}
