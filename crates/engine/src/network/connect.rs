//! Connecting containers to networks and disconnecting them, while they run and while they don't.
//!
//! The container's owner calls this, one change after the other; what it answers the owner stores. A container that does
//! not run only remembers. For one that does, the order is: endpoint, then who is the way to everywhere else, then names
//! and the files that the container reads.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use super::records::NetworkRecord;
use super::{Endpoint, Planned, attach_one, cni, find, has_names, ports, serve_names, wishes};
use crate::container::{files, run};
use crate::error::{EngineError, Result};
use crate::metadata::ContainerRecord;
use crate::spec::{EndpointWish, NetworkMode};
use crate::{Engine, Inner, blocking};

/// What a change of a container's networks leaves.
#[derive(Debug)]
pub(crate) struct Changed {
    /// What is to be stored.
    pub(crate) record: ContainerRecord,
    /// The endpoints of a container that runs.
    pub(crate) endpoints: Vec<Endpoint>,
}

/// A change of a container's networks.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// It is to be in this network.
    Connect { network: String, wish: EndpointWish },
    /// It is not to be in this network.
    Disconnect { network: String },
}

impl Engine {
    /// Connects a container to a network.
    ///
    /// # Errors
    /// If there is no such network or container, it is connected already, or it can't be.
    pub async fn connect_network(&self, network: &str, container: &str, wish: EndpointWish) -> Result<()> {
        let network = self.inner.networks().find(network)?.id.clone();
        let handle = self.inner.find_container(container)?;
        let change = Change::Connect { network, wish };
        handle.ask(|reply| crate::container::Request::Networks { change, reply }).await
    }

    /// Disconnects a container from a network. By `force`, a container that is not there is no error if the network has
    /// nothing of it.
    ///
    /// # Errors
    /// If there is no such network or container, or it is not connected.
    pub async fn disconnect_network(&self, network: &str, container: &str, force: bool) -> Result<()> {
        let network = self.inner.networks().find(network)?.clone();
        let handle = match self.inner.find_container(container) {
            Ok(handle) => handle,
            Err(EngineError::NoSuchContainer { .. }) if force => {
                return Err(EngineError::NotFound(format!(
                    "endpoint {container} not found in network {}",
                    network.name
                )));
            }
            Err(error) => return Err(error),
        };
        let change = Change::Disconnect { network: network.id };
        handle.ask(|reply| crate::container::Request::Networks { change, reply }).await
    }
}

/// Carries out a change of a container's networks; `live` are its endpoints if it runs.
pub(crate) async fn change(
    inner: &Arc<Inner>,
    record: ContainerRecord,
    live: Option<Vec<Endpoint>>,
    change: Change,
) -> Result<Changed> {
    let inner = Arc::clone(inner);
    blocking(move || match change {
        Change::Connect { network, wish } => connect(&inner, record, live, &network, wish),
        Change::Disconnect { network } => disconnect(&inner, record, live, &network),
    })
    .await
}

fn connect(
    inner: &Inner,
    mut record: ContainerRecord,
    live: Option<Vec<Endpoint>>,
    id: &str,
    wish: EndpointWish,
) -> Result<Changed> {
    let network = inner.networks().find(id)?.clone();
    may_change(&record, &network)?;
    wishes::check(&network, &wish)?;
    let wish = EndpointWish { network: network.name.clone(), ..wish };
    let Some(before) = live else {
        record.spec.endpoints.insert(network.id.clone(), wish);
        inner.network_event("connect", &network, [("container", &record.id)]);
        return Ok(Changed { record, endpoints: Vec::new() });
    };
    if before.iter().any(|e| e.network == network.id) {
        return Err(EngineError::Forbidden(format!(
            "endpoint with name {} already exists in network {}",
            record.name, network.name
        )));
    }
    let interface = free_interface(&before);
    let planned = Planned { network: network.clone(), wish: wish.clone(), gateway: false };
    let attached = attach_one(inner, &record, &planned, &interface)?;
    record.spec.endpoints.insert(network.id.clone(), wish);
    let mut endpoints = before.clone();
    endpoints.push(attached);
    match settle(inner, &record, &before, endpoints) {
        Ok(endpoints) => Ok(Changed { record, endpoints }),
        Err(error) => {
            // As if it had not been tried.
            leave(inner, &record, &network);
            record.spec.endpoints.remove(&network.id);
            if let Err(error) = settle(inner, &record, &before, before.clone()) {
                tracing::warn!(
                    container = record.id,
                    error = sampan_base::chain(&error),
                    "cannot undo a connection"
                );
            }
            Err(error)
        }
    }
}

fn disconnect(
    inner: &Inner,
    mut record: ContainerRecord,
    live: Option<Vec<Endpoint>>,
    id: &str,
) -> Result<Changed> {
    let network = inner.networks().find(id)?.clone();
    may_change(&record, &network)?;
    let connected = record.spec.endpoints.contains_key(&network.id);
    let Some(before) = live else {
        if !connected {
            return Err(not_connected(&record, &network, true));
        }
        record.spec.endpoints.remove(&network.id);
        inner.network_event("disconnect", &network, [("container", &record.id)]);
        return Ok(Changed { record, endpoints: Vec::new() });
    };
    if !before.iter().any(|e| e.network == network.id) {
        return Err(not_connected(&record, &network, false));
    }
    leave(inner, &record, &network);
    record.spec.endpoints.remove(&network.id);
    let left = before.iter().filter(|e| e.network != network.id).cloned().collect();
    let endpoints = settle(inner, &record, &before, left)?;
    Ok(Changed { record, endpoints })
}

fn not_connected(record: &ContainerRecord, network: &NetworkRecord, the: bool) -> EngineError {
    let the = if the { "the " } else { "" };
    EngineError::Failed(format!("container {} is not connected to {the}network {}", record.id, network.name))
}

fn may_change(record: &ContainerRecord, network: &NetworkRecord) -> Result<()> {
    let invalid = |text: &str| Err(EngineError::Invalid(text.to_owned()));
    match record.spec.network {
        NetworkMode::Container(_) | NetworkMode::Host => invalid(
            "container sharing network namespace with another container or host cannot be connected to any other network",
        ),
        _ if network.driver == "host" => {
            invalid("container cannot be disconnected from host network or connected to host network")
        }
        NetworkMode::Bridge | NetworkMode::Named(_) if network.driver != "null" => Ok(()),
        _ => invalid(
            "container cannot be connected to multiple networks with one of the networks in private (none) mode",
        ),
    }
}

/// The first name that none of the links has.
fn free_interface(endpoints: &[Endpoint]) -> String {
    let taken = |name: &String| endpoints.iter().any(|e| e.interface == *name);
    (0..=endpoints.len()).map(|n| format!("eth{n}")).find(|name| !taken(name)).unwrap_or_default()
}

fn leave(inner: &Inner, record: &ContainerRecord, network: &NetworkRecord) {
    if network.driver == "cni" {
        cni::detach(inner, &record.id, &network.id);
    } else if let Err(error) = inner.net.detach_from(&record.id, &inner.net_name(&network.id)) {
        // It is out of the rules and names; what is left the next daemon removes.
        tracing::warn!(
            container = record.id,
            error = sampan_base::chain(&error),
            "cannot disconnect completely"
        );
    }
    inner.network_event("disconnect", network, [("container", &record.id)]);
}

/// After a change: who is the way to everywhere else, who answers for names, and what the files say.
fn settle(
    inner: &Inner,
    record: &ContainerRecord,
    before: &[Endpoint],
    endpoints: Vec<Endpoint>,
) -> Result<Vec<Endpoint>> {
    let chosen = {
        let networks = inner.networks();
        let present = endpoints.iter().filter_map(|e| networks.get(&e.network));
        let with_priority = present.map(|n| {
            let wish = record.spec.endpoints.get(&n.id);
            (n, wish.map_or(0, |w| w.gateway_priority))
        });
        wishes::gateway(with_priority).and_then(|id| networks.get(&id).cloned())
    };
    let current = endpoints.iter().find(|e| e.default_route).map(|e| e.network.clone());
    let mut endpoints = endpoints;
    if chosen.as_ref().map(|n| n.id.clone()) != current && chosen.as_ref().is_none_or(|n| n.driver != "cni") {
        let wanted = match &chosen {
            Some(network) if network.driver == "bridge" => ports::wanted(&record.spec, network)?,
            _ => Vec::new(),
        };
        let name = chosen.as_ref().map(|network| inner.net_name(&network.id));
        ports::move_gateway(inner, &record.id, name.as_deref(), wanted)?;
        endpoints = find(inner, &record.id);
    }
    serve_names(inner, record, &endpoints)?;
    rewrite_files(inner, record, before, &endpoints);
    super::links::address_changed(inner, record, &endpoints);
    Ok(endpoints)
}

/// Keeps /etc/hosts and /etc/resolv.conf of a running container true. That they can't be written is no reason to undo
/// what has been done.
fn rewrite_files(inner: &Inner, record: &ContainerRecord, before: &[Endpoint], after: &[Endpoint]) {
    let directory = inner.config.container_directory(&record.id);
    let addresses =
        |endpoints: &[Endpoint]| endpoints.iter().flat_map(Endpoint::addresses).collect::<Vec<IpAddr>>();
    let (old, new) = (addresses(before), addresses(after));
    let gone: Vec<IpAddr> = old.iter().filter(|ip| !new.contains(ip)).copied().collect();
    let come: Vec<IpAddr> = new.iter().filter(|ip| !old.contains(ip)).copied().collect();
    let hostname = run::hostname(inner, record);
    let domain = record.spec.domainname.as_deref();
    edit(&directory.join("hosts"), record, |text| {
        Some(files::hosts_changed(text, &gone, &come, &hostname, domain))
    });
    let (had, has) = (has_names(inner, before), has_names(inner, after));
    if had == has {
        return;
    }
    let Ok(host) = run::read_host_file("/etc/resolv.conf") else { return };
    let text = |served| files::resolv_conf(&host, &record.spec.dns, true, &inner.config.fallback_dns, served);
    // What somebody has written into it by hand stays.
    edit(&directory.join("resolv.conf"), record, |now| (now == text(had)).then(|| text(has)));
}

pub(super) fn edit(path: &Path, record: &ContainerRecord, change: impl FnOnce(&str) -> Option<String>) {
    const MAX_BYTES: u64 = 1 << 20;
    let changed = sampan_base::files::read_limited(path, MAX_BYTES)
        .map_err(EngineError::file)
        .map(|bytes| change(&String::from_utf8_lossy(&bytes)));
    let written = match changed {
        Ok(None) => return,
        Ok(Some(text)) => files::write_in_place(path, &text)
            .map_err(EngineError::io(format!("cannot write `{}`", path.display()))),
        Err(error) => Err(error),
    };
    if let Err(error) = written {
        tracing::warn!(
            container = record.id,
            error = sampan_base::chain(&error),
            "a file of its own is not up to date"
        );
    }
}
