//! What a container's specification says about networks: named as people name them when it comes in, by ids from its
//! creation on.

use std::collections::BTreeMap;

use super::records::NetworkRecord;
use crate::Inner;
use crate::error::{EngineError, Result};
use crate::metadata::ContainerRecord;
use crate::spec::{ContainerSpec, EndpointWish, NetworkMode};

/// How many networks a container may be in.
const MAX_NETWORKS: usize = 64;
/// How many names it may have in one.
const MAX_ALIASES: usize = 256;

/// Puts ids in place of names. Each endpoint that the container will have is there afterwards. A network that is not
/// there yet keeps its name: it must be there when the container starts, as with Docker.
///
/// # Errors
/// If what is asked for makes no sense, or names more than one network.
pub(crate) fn resolve(inner: &Inner, spec: &mut ContainerSpec) -> Result<()> {
    let find = |text: &str| match inner.networks().find(text) {
        Ok(network) => Ok(Some(network.clone())),
        Err(EngineError::NoSuchNetwork { .. }) => Ok(None),
        Err(error) => Err(error),
    };
    let mut wishes = BTreeMap::new();
    for (name, wish) in std::mem::take(&mut spec.endpoints) {
        match find(if name == "default" { "bridge" } else { &name })? {
            Some(network) => {
                check(&network, &wish)?;
                wishes.insert(network.id.clone(), EndpointWish { network: network.name, ..wish });
            }
            None => {
                let network = if wish.network.is_empty() { name.clone() } else { wish.network.clone() };
                wishes.insert(name, EndpointWish { network, ..wish });
            }
        }
    }
    if wishes.len() > MAX_NETWORKS {
        return Err(EngineError::Invalid(format!("a container can be in {MAX_NETWORKS} networks at most")));
    }
    let own = match &spec.network {
        NetworkMode::Container(_) => {
            if !wishes.is_empty() {
                return Err(EngineError::Invalid(
                    "conflicting options: container type network can't be used with links or further networks".to_owned(),
                ));
            }
            return Ok(());
        }
        NetworkMode::Named(name) => find(name)?,
        NetworkMode::Bridge => find("bridge")?,
        NetworkMode::Host => find("host")?,
        NetworkMode::None => find("none")?,
    };
    let Some(own) = own else {
        if let NetworkMode::Named(name) = &spec.network {
            let wish = EndpointWish { network: name.clone(), ..EndpointWish::default() };
            wishes.entry(name.clone()).or_insert(wish);
        }
        spec.endpoints = wishes;
        return Ok(());
    };
    spec.network = match own.driver.as_str() {
        "host" => NetworkMode::Host,
        "null" => NetworkMode::None,
        _ if own.is_default() => NetworkMode::Bridge,
        _ => NetworkMode::Named(own.id.clone()),
    };
    match spec.network {
        NetworkMode::Host | NetworkMode::None => {
            wishes.retain(|id, _| *id == own.id);
        }
        // The default network was not asked for, and others were: it is not one of them.
        NetworkMode::Bridge if !wishes.is_empty() && !wishes.contains_key(&own.id) => {
            let first = wishes.iter().min_by(|a, b| a.1.network.cmp(&b.1.network)).map(|(id, _)| id.clone());
            spec.network = first.map_or(NetworkMode::Bridge, NetworkMode::Named);
            spec.endpoints = wishes;
            return predefined_among(inner, spec);
        }
        _ => {}
    }
    let name = own.name.clone();
    wishes.entry(own.id).or_insert_with(|| EndpointWish { network: name, ..EndpointWish::default() });
    spec.endpoints = wishes;
    predefined_among(inner, spec)
}

/// The host's namespace, or none at all, can't be had beside networks.
fn predefined_among(inner: &Inner, spec: &ContainerSpec) -> Result<()> {
    let networks = inner.networks();
    let odd = spec.endpoints.keys().filter_map(|id| networks.get(id));
    let mut odd = odd.filter(|n| matches!(n.driver.as_str(), "host" | "null"));
    match odd.next() {
        Some(network) if spec.network.has_endpoints() => Err(EngineError::Invalid(format!(
            "container cannot be connected to multiple networks with one of the networks in private ({}) mode",
            network.name
        ))),
        _ => Ok(()),
    }
}

/// What can be said against a wish in this network.
pub(super) fn check(network: &NetworkRecord, wish: &EndpointWish) -> Result<()> {
    let invalid = |text: &str| Err(EngineError::Invalid(text.to_owned()));
    if wish.aliases.len() > MAX_ALIASES || wish.links.len() > MAX_ALIASES {
        return invalid("too many aliases or links");
    }
    if let Some(mac) = &wish.mac {
        mac.parse::<sampan_net::Mac>()
            .map_err(|_| EngineError::Invalid(format!("invalid MAC address: {mac}")))?;
    }
    let fixed = wish.ipv4.is_some() || wish.ipv6.is_some();
    if network.is_predefined() {
        if fixed {
            return invalid("user specified IP address is supported on user defined networks only");
        }
        if !wish.aliases.is_empty() {
            return invalid("network-scoped alias is supported only for containers in user defined networks");
        }
    }
    let configured = !network.ipam.chosen || network.ipam.pools.len() > 1;
    if fixed && !configured {
        return invalid(
            "user specified IP address is supported only when connecting to networks with user configured subnets",
        );
    }
    Ok(())
}

/// Records of earlier versions say nothing of endpoints, and networks may have been made since; those that are gone stay
/// as they were.
pub(crate) fn normalise(inner: &Inner, spec: &mut ContainerSpec) {
    let unresolved = spec.endpoints.keys().any(|id| inner.networks().get(id).is_none());
    if spec.endpoints.is_empty() || unresolved {
        // What can't be resolved is told of when it is started.
        let _ = resolve(inner, spec);
    }
    let networks = inner.networks();
    for (id, wish) in &mut spec.endpoints {
        if let Some(network) = networks.get(id) {
            wish.network.clone_from(&network.name);
        }
    }
}

/// What a container is called in a network, the first of them when somebody asks for the name of its address.
pub(super) fn names(record: &ContainerRecord, network: &NetworkRecord, wish: &EndpointWish) -> Vec<String> {
    if !network.has_names() {
        return Vec::new();
    }
    let mut names = vec![record.name.clone()];
    let hostname = record.spec.hostname.clone();
    for name in wish.aliases.iter().cloned().chain([record.id[..12].to_owned()]).chain(hostname) {
        if !name.is_empty() && !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// The links of a wish: the name by which the container knows the other, and what that is called.
pub(super) fn links(wish: &EndpointWish) -> Vec<(String, String)> {
    wish.links
        .iter()
        .map(|link| {
            let (target, alias) = link.split_once(':').unwrap_or((link, link));
            (alias.to_owned(), target.trim_start_matches('/').to_owned())
        })
        .collect()
}

/// Of networks with their priorities, the one that leads to everywhere else: of those that do at all the one with the
/// highest priority, and of several the first by name.
pub(super) fn gateway<'a>(networks: impl Iterator<Item = (&'a NetworkRecord, i64)>) -> Option<String> {
    let leads = |n: &NetworkRecord| !n.internal && !matches!(n.driver.as_str(), "host" | "null");
    networks
        .filter(|(network, _)| leads(network))
        .min_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.name.cmp(&b.0.name)))
        .map(|(network, _)| network.id.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(name: &str, more: &str) -> NetworkRecord {
        let text = format!(
            r#"{{"id":"id-{name}","name":"{name}","created":"2026-11-21T10:00:00Z","driver":"bridge"{more}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn the_gateway_is_the_highest_and_then_the_first_by_name() {
        let (a, b, inside) = (network("a", ""), network("b", ""), network("0", r#","internal":true"#));
        let pick = |list: &[(&NetworkRecord, i64)]| gateway(list.iter().copied());
        assert_eq!(pick(&[(&b, 0), (&a, 0), (&inside, 9)]).as_deref(), Some("id-a"));
        assert_eq!(pick(&[(&b, 1), (&a, 0)]).as_deref(), Some("id-b"));
        assert_eq!(pick(&[(&inside, 0)]), None);
    }

    #[test]
    fn links_name_a_container_and_what_it_is_called() {
        let wish = EndpointWish { links: vec!["db:store".into(), "/web".into()], ..EndpointWish::default() };
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(links(&wish), [pair("store", "db"), pair("/web", "web")]);
    }
}
