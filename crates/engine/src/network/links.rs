//! The old links of the default network: a container knows another by a name in /etc/hosts and by variables in its
//! environment that tell its address, its ports and its own environment.

use std::net::Ipv4Addr;

use super::Endpoint;
use crate::Inner;
use crate::container::View;
use crate::error::{EngineError, Result};
use crate::metadata::ContainerRecord;
use crate::spec::{ContainerSpec, NetworkMode};

/// One link.
struct Link {
    alias: String,
    view: View,
    address: Ipv4Addr,
}

/// `container:alias` as its two parts.
pub(crate) fn parts(link: &str) -> (&str, &str) {
    let (target, alias) = link.split_once(':').unwrap_or((link, link));
    let plain = |text: &'_ str| -> usize { text.rfind('/').map_or(0, |at| at + 1) };
    (target.trim_start_matches('/'), &alias[plain(alias)..])
}

fn links(inner: &Inner, spec: &ContainerSpec) -> Result<Vec<Link>> {
    if spec.network != NetworkMode::Bridge {
        return Ok(Vec::new());
    }
    let mut links = Vec::new();
    for text in &spec.links {
        let (target, alias) = parts(text);
        let view = inner.find_container(target)?.snapshot();
        let default = inner.networks().default_network().map(|n| n.id.clone());
        let endpoint = view
            .live
            .as_ref()
            .and_then(|live| live.endpoints.iter().find(|e| Some(&e.network) == default.as_ref()));
        let Some(endpoint) = endpoint else {
            return Err(EngineError::Invalid(format!(
                "Cannot link to a non running container: /{} AS /{alias}",
                view.record.name
            )));
        };
        links.push(Link { alias: alias.to_owned(), address: endpoint.address, view: view.clone() });
    }
    Ok(links)
}

/// The lines of /etc/hosts for a container's links.
///
/// # Errors
/// If a container that it is linked to does not run.
pub(crate) fn host_lines(inner: &Inner, spec: &ContainerSpec) -> Result<Vec<String>> {
    Ok(links(inner, spec)?.iter().map(|link| line(&link.alias, &link.view.record, link.address)).collect())
}

fn line(alias: &str, target: &ContainerRecord, address: Ipv4Addr) -> String {
    let hostname = target.spec.hostname.clone().unwrap_or_else(|| target.id[..12].to_owned());
    let mut names = vec![alias];
    for name in [hostname.as_str(), target.name.as_str()] {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    format!("{address}\t{}", names.join(" "))
}

/// The variables of a container's links.
///
/// # Errors
/// If a container that it is linked to does not run.
pub(crate) fn environment(inner: &Inner, record: &ContainerRecord) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for link in links(inner, &record.spec)? {
        let target = &link.view.record;
        let prefix = link.alias.to_uppercase().replace('-', "_");
        let ip = link.address;
        all.push(format!("{prefix}_NAME=/{}/{}", record.name, link.alias));
        let mut ports = target.spec.exposed.clone();
        ports.sort_by_key(|p| (p.number, p.protocol));
        if let Some(first) = ports.first() {
            all.push(format!("{prefix}_PORT={}://{ip}:{}", first.protocol, first.number));
        }
        for port in &ports {
            let (number, protocol) = (port.number, port.protocol);
            let name = format!("{prefix}_PORT_{number}_{}", protocol.to_string().to_uppercase());
            all.push(format!("{name}={protocol}://{ip}:{number}"));
            all.push(format!("{name}_ADDR={ip}"));
            all.push(format!("{name}_PORT={number}"));
            all.push(format!("{name}_PROTO={protocol}"));
        }
        // Of its environment, what was given to it and to its image, but not what every process has.
        for variable in &target.spec.env {
            let name = variable.split('=').next().unwrap_or_default();
            if variable.contains('=') && !matches!(name, "HOME" | "PATH") {
                all.push(format!("{prefix}_ENV_{variable}"));
            }
        }
    }
    Ok(all)
}

/// A container has an address, maybe a new one: those that are linked to it learn of it in their /etc/hosts.
pub(crate) fn address_changed(inner: &Inner, record: &ContainerRecord, endpoints: &[Endpoint]) {
    let default = inner.networks().default_network().map(|n| n.id.clone());
    let Some(endpoint) = endpoints.iter().find(|e| Some(&e.network) == default.as_ref()) else { return };
    for handle in inner.containers().all() {
        let view = handle.snapshot();
        if view.live.is_none() || view.record.spec.network != NetworkMode::Bridge {
            continue;
        }
        for text in &view.record.spec.links {
            let (target, alias) = parts(text);
            if target != record.name && !record.id.starts_with(target) {
                continue;
            }
            let new = line(alias, record, endpoint.address);
            let names = new.split_once('\t').map_or("", |(_, names)| names).to_owned();
            let path = inner.config.container_directory(&view.record.id).join("hosts");
            super::connect::edit(&path, &view.record, |text| {
                let replaced = text.lines().map(|l| match l.split_once('\t') {
                    Some((_, n)) if n == names => new.as_str(),
                    _ => l,
                });
                Some(replaced.flat_map(|l| [l, "\n"]).collect::<String>()).filter(|changed| changed != text)
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::parts;

    #[test]
    fn a_link_has_a_target_and_an_alias() {
        assert_eq!(parts("db:store"), ("db", "store"));
        assert_eq!(parts("/db:/web/store"), ("db", "store"));
        assert_eq!(parts("db"), ("db", "db"));
    }
}
