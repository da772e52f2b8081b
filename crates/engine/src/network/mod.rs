//! A container's place in networks: which namespace it gets, and its endpoints.
//!
//! * [`records`]: networks on disk and in memory. [`ipam`]: which addresses they get. [`manage`]: making and removing.
//! * [`wishes`]: what a container's specification says about networks. This file: carrying it out when it starts.
//! * [`connect`]: changes while it is there. [`ports`]: what is published. [`links`]: the old links of the default network.
//! * [`cni`]: networks of other people's plugins. [`step`]: the network of a build's step.

pub(crate) mod cni;
mod connect;
pub(crate) mod ipam;
pub(crate) mod links;
pub(crate) mod manage;
mod ports;
mod records;
pub(crate) mod step;
mod wishes;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;

use sampan_base::Class;
use sampan_kernel::userns::Maps;
use sampan_net::{AttachError, EndpointSpec, NameServer, NamespaceError, Net, NetConfig};

use crate::error::{EngineError, Result};
use crate::metadata::ContainerRecord;
use crate::spec::{ContainerSpec, EndpointWish, NetworkMode, Publish};
use crate::userns::{self, Owner};
use crate::{EngineConfig, Inner, blocking};

pub(crate) use connect::{Change, change};
pub use ipam::AddressPool;
pub use manage::NetworkRequest;
pub use records::{Ipam, NetworkRecord, Pool, Range};
pub(crate) use records::{NETWORKS, Networks};
pub(crate) use wishes::{normalise, resolve};

/// A container's place in a network.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// The network's id.
    pub network: String,
    /// The endpoint's id, 64 hex digits.
    pub id: String,
    /// Its link's name in the container.
    pub interface: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its network's prefix length.
    pub prefix: u8,
    /// The bridge's address.
    pub gateway: Ipv4Addr,
    /// Its IPv6 address and prefix length.
    pub v6: Option<(Ipv6Addr, u8)>,
    /// The bridge's IPv6 address.
    pub gateway6: Option<Ipv6Addr>,
    /// Its hardware address.
    pub mac: String,
    /// It is the container's way to everywhere else.
    pub default_route: bool,
    /// What it is called in the network.
    pub names: Vec<String>,
    /// Where its ports are published, with the ports that were picked.
    pub published: Vec<Publish>,
    /// The file that keeps its network namespace.
    pub namespace: PathBuf,
}

impl Endpoint {
    /// All its addresses.
    pub fn addresses(&self) -> Vec<IpAddr> {
        [IpAddr::V4(self.address)].into_iter().chain(self.v6.map(|(ip, _)| ip.into())).collect()
    }
}

/// A container in a network.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// The container's id.
    pub container: String,
    /// Its name.
    pub name: String,
    /// Its place.
    pub endpoint: Endpoint,
}

/// Which network namespace a container gets.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Namespace {
    /// The one at this path.
    Own(PathBuf),
    /// The host's.
    Host,
}

/// What a container was given.
#[derive(Clone, Debug)]
pub(crate) struct Attached {
    pub(crate) namespace: Namespace,
    /// The file of the user namespace that it is to be in, if that is not the host's.
    pub(crate) user_namespace: Option<PathBuf>,
    pub(crate) endpoints: Vec<Endpoint>,
}

impl Attached {
    /// Whether names are served to the container.
    pub(crate) fn has_names(&self, inner: &Inner) -> bool {
        has_names(inner, &self.endpoints)
    }
}

pub(crate) fn has_names(inner: &Inner, endpoints: &[Endpoint]) -> bool {
    let networks = inner.networks();
    endpoints.iter().any(|e| networks.get(&e.network).is_some_and(|n| n.has_names() && n.driver != "cni"))
}

impl Inner {
    /// The running containers in the network `id`.
    pub(crate) fn members_of(&self, id: &str) -> Vec<Member> {
        let mut members = Vec::new();
        for handle in self.containers().all() {
            let view = handle.snapshot();
            let Some(live) = &view.live else { continue };
            for endpoint in live.endpoints.iter().filter(|e| e.network == id) {
                members.push(Member {
                    container: view.record.id.clone(),
                    name: view.record.name.clone(),
                    endpoint: endpoint.clone(),
                });
            }
        }
        members
    }
}

impl crate::Engine {
    /// The running containers in the network `id`.
    pub fn network_members(&self, id: &str) -> Vec<Member> {
        self.inner.members_of(id)
    }
}

/// Gives a container its network. Whatever a failed attempt left is removed by [`detach`].
pub(crate) async fn attach(inner: &Arc<Inner>, record: &ContainerRecord) -> Result<Attached> {
    match &record.spec.network {
        NetworkMode::Host => {
            bare_event(inner, record, "connect");
            Ok(Attached { namespace: Namespace::Host, user_namespace: None, endpoints: Vec::new() })
        }
        NetworkMode::None => {
            bare_event(inner, record, "connect");
            let (inner, record) = (Arc::clone(inner), record.clone());
            blocking(move || own_namespaces(&inner, &record)).await
        }
        NetworkMode::Container(other) => {
            let pid = inner.process_of(other)?;
            let path = PathBuf::from(format!("/proc/{pid}/ns/net"));
            let user_namespace = match userns::owner(inner, record)? {
                Owner::Of(path) => Some(path),
                Owner::Host | Owner::New(_) => None,
            };
            Ok(Attached { namespace: Namespace::Own(path), user_namespace, endpoints: Vec::new() })
        }
        NetworkMode::Bridge | NetworkMode::Named(_) => {
            let (inner, record) = (Arc::clone(inner), record.clone());
            blocking(move || attach_all(&inner, &record)).await
        }
    }
}

/// Tells of a container that comes or goes without an endpoint: it has the host's network, or none.
fn bare_event(inner: &Inner, record: &ContainerRecord, action: &str) {
    if !matches!(record.spec.network, NetworkMode::Host | NetworkMode::None) {
        return;
    }
    for id in record.spec.endpoints.keys() {
        let network = inner.networks().get(id).cloned();
        if let Some(network) = network {
            inner.network_event(action, &network, [("container", &record.id)]);
        }
    }
}

/// A network namespace of ours with nothing but a loopback, which was made ahead and to which networks can be connected;
/// and the user namespace that it belongs to.
fn own_namespaces(inner: &Inner, record: &ContainerRecord) -> Result<Attached> {
    let (network, user) = match userns::owner(inner, record)? {
        Owner::Host => (new_namespace(inner, &record.id)?, None),
        Owner::New(maps) => {
            let made = inner.net.create_mapped_namespace(&record.id, &maps).map_err(no_namespace)?;
            (made.network, Some(made.user))
        }
        Owner::Of(path) => {
            let opened = std::fs::File::open(&path);
            let owner = opened.map_err(EngineError::io(format!("cannot open `{}`", path.display())))?;
            (inner.net.create_namespace_in(&record.id, &owner).map_err(no_namespace)?, Some(path))
        }
    };
    Ok(Attached { namespace: Namespace::Own(network), user_namespace: user, endpoints: Vec::new() })
}

fn new_namespace(inner: &Inner, id: &str) -> Result<PathBuf> {
    inner.net.create_namespace(id).map_err(no_namespace)
}

fn no_namespace(error: NamespaceError) -> EngineError {
    EngineError::layer(error.class(), "cannot make a network namespace")(error)
}

/// One endpoint of a container that is about to be made.
pub(crate) struct Planned {
    pub(crate) network: NetworkRecord,
    pub(crate) wish: EndpointWish,
    /// It is to be the way to everywhere else.
    pub(crate) gateway: bool,
}

/// The endpoints that a container's specification asks for, in the order of its links: the network of its mode first, the
/// others by name.
fn plan(inner: &Inner, spec: &ContainerSpec) -> Result<Vec<Planned>> {
    let networks = inner.networks();
    let own = match &spec.network {
        NetworkMode::Named(id) => Some(id.clone()),
        NetworkMode::Bridge => networks.default_network().map(|n| n.id.clone()),
        _ => None,
    };
    let mut planned = Vec::new();
    for (id, wish) in &spec.endpoints {
        let name = if wish.network.is_empty() { id } else { &wish.network };
        let network =
            networks.get(id).cloned().ok_or_else(|| EngineError::NoSuchNetwork { name: name.clone() })?;
        planned.push(Planned { network, wish: wish.clone(), gateway: false });
    }
    planned.sort_by(|a, b| {
        let first = |p: &Planned| Some(&p.network.id) != own.as_ref();
        first(a).cmp(&first(b)).then_with(|| a.network.name.cmp(&b.network.name))
    });
    let gateway = wishes::gateway(planned.iter().map(|p| (&p.network, p.wish.gateway_priority)));
    for one in &mut planned {
        one.gateway = Some(&one.network.id) == gateway.as_ref();
    }
    Ok(planned)
}

fn attach_all(inner: &Inner, record: &ContainerRecord) -> Result<Attached> {
    let planned = plan(inner, &record.spec)?;
    let attached = own_namespaces(inner, record)?;
    let mut endpoints = Vec::new();
    for (n, one) in planned.iter().enumerate() {
        endpoints.push(attach_one(inner, record, one, &format!("eth{n}"))?);
    }
    serve_names(inner, record, &endpoints)?;
    links::address_changed(inner, record, &endpoints);
    Ok(Attached { endpoints, ..attached })
}

/// Attaches a container to one network.
fn attach_one(
    inner: &Inner,
    record: &ContainerRecord,
    planned: &Planned,
    interface: &str,
) -> Result<Endpoint> {
    let Planned { network, wish, gateway } = planned;
    if network.driver == "cni" {
        let endpoint = cni::attach(inner, record, network, interface)?;
        inner.network_event("connect", network, [("container", &record.id)]);
        return Ok(endpoint);
    }
    let id = sampan_base::id::random_id().map_err(EngineError::io("cannot make an id"))?;
    let mac = match &wish.mac {
        Some(text) => {
            Some(text.parse().map_err(|e: sampan_net::InvalidMac| EngineError::Invalid(e.to_string()))?)
        }
        None => None,
    };
    let has_ports = *gateway && network.driver == "bridge" && !network.internal;
    let wanted = if has_ports { ports::wanted(&record.spec, network)? } else { Vec::new() };
    let spec = EndpointSpec {
        network: inner.net_name(&network.id),
        id,
        interface: interface.to_owned(),
        ip: wish.ipv4,
        // Asked for in a network without IPv6, it is remembered and not given, as with Docker.
        ip6: wish.ipv6.filter(|_| network.v6.is_some()),
        link_local: wish.link_local.clone(),
        mac,
        ports: Vec::new(),
        default_route: *gateway,
        names: wishes::names(record, network, wish),
        links: wishes::links(wish),
    };
    let attached = ports::attach(inner, &record.id, spec, wanted)?;
    inner.network_event("connect", network, [("container", &record.id)]);
    endpoint(inner, &record.id, attached)
}

/// Serves names to a container that is in a network which has them; where others are asked follows from its
/// specification and the host.
fn serve_names(inner: &Inner, record: &ContainerRecord, endpoints: &[Endpoint]) -> Result<()> {
    if !has_names(inner, endpoints) {
        inner.net.stop_names(&record.id);
        return Ok(());
    }
    let servers = name_servers(inner, &record.spec, endpoints)?;
    let served = inner.net.serve_names(&record.id, servers);
    served.map(drop).map_err(|e| EngineError::layer(e.class(), "failed to set up container networking")(e))
}

/// Whom to ask what is no name of ours: those that were asked for, else the host's. A container that has no way out has
/// nobody to ask, or it would have a way out by way of names.
fn name_servers(inner: &Inner, spec: &ContainerSpec, endpoints: &[Endpoint]) -> Result<Vec<NameServer>> {
    let outside = {
        let networks = inner.networks();
        endpoints.iter().any(|e| networks.get(&e.network).is_some_and(|n| !n.internal))
    };
    if !outside {
        return Ok(Vec::new());
    }
    let host = crate::container::run::read_host_file("/etc/resolv.conf")?;
    let texts = crate::container::files::name_servers(&host, &spec.dns, &inner.config.fallback_dns);
    let servers = texts.iter().filter_map(|text| {
        let address: IpAddr = text.split('%').next().unwrap_or_default().parse().ok()?;
        // Asked for by hand, ours would ask itself for ever.
        let own = address == IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11)) && !spec.dns.servers.is_empty();
        (!own).then(|| NameServer { address: (address, 53).into(), from_host: address.is_loopback() })
    });
    Ok(servers.collect())
}

/// Takes a container out of the network. What fails is logged; the next daemon tries again.
pub(crate) async fn detach(inner: &Arc<Inner>, id: &str) {
    let (inner, id) = (Arc::clone(inner), id.to_owned());
    blocking(move || {
        if let Ok(handle) = inner.find_container(&id) {
            bare_event(&inner, &handle.snapshot().record, "disconnect");
        }
        for endpoint in inner.net.endpoints(&id) {
            let network_id = inner.network_id(&endpoint.network);
            let network = inner.networks().get(&network_id).cloned();
            if let Some(network) = network {
                inner.network_event("disconnect", &network, [("container", id.as_str())]);
            }
        }
        detach_bridge(&inner, &id);
    })
    .await;
}

/// As [`detach`], where one may block.
pub(crate) fn detach_bridge(inner: &Inner, id: &str) {
    cni::detach_all(inner, id);
    // The kernel takes its time over links; nobody need wait for that. What goes wrong the next daemon mends.
    inner.net.detach_soon(id);
    if let Err(error) = inner.net.remove_namespace(id) {
        tracing::warn!(
            container = id,
            error = sampan_base::chain(&error),
            "cannot remove the network namespace"
        );
    }
}

pub(crate) fn attach_failed(error: AttachError) -> EngineError {
    let class = match error.class() {
        // Docker answers 500 to a port in use; clients only look at the words.
        Class::Conflict => Class::Internal,
        class => class,
    };
    match &error {
        AttachError::AddressInUse { .. } => EngineError::Forbidden("Address already in use".to_owned()),
        _ => EngineError::layer(class, "failed to set up container networking")(error),
    }
}

/// An endpoint as the engine tells of it.
pub(crate) fn endpoint(inner: &Inner, id: &str, attached: sampan_net::Endpoint) -> Result<Endpoint> {
    let namespace = inner.net.namespace(id);
    Ok(Endpoint {
        network: inner.network_id(&attached.network),
        published: ports::shown(&attached),
        id: attached.id,
        interface: attached.interface,
        address: attached.ip,
        prefix: attached.prefix,
        gateway: attached.gateway,
        v6: attached.v6,
        gateway6: attached.gateway6.filter(|_| attached.v6.is_some()),
        mac: attached.mac.to_string(),
        default_route: attached.default_route,
        names: attached.names,
        namespace: namespace
            .map_err(|e| EngineError::layer(e.class(), "cannot name the network namespace")(e))?,
    })
}

/// Opens the network: bridges and rules that are missing are put in place. `maps` is the mapping of containers.
pub(crate) fn open(config: &EngineConfig, networks: &[NetworkRecord], maps: Option<&Maps>) -> Result<Net> {
    let state = config.state.join("net");
    let net = NetConfig { state, table: config.table.clone(), networks: manage::configs(networks) };
    let net = Net::open(net).map_err(|e| EngineError::layer(e.class(), "cannot set up the network")(e))?;
    net.prepare_namespaces(maps, READY_NAMESPACES);
    Ok(net)
}

/// How many network namespaces are made ahead at first.
const READY_NAMESPACES: usize = 2;

/// The endpoints of a container that runs, as an earlier daemon made them, in the order of their links.
pub(crate) fn find(inner: &Inner, id: &str) -> Vec<Endpoint> {
    let all = inner.net.endpoints(id).into_iter().filter_map(|attached| endpoint(inner, id, attached).ok());
    let mut all: Vec<Endpoint> = all.chain(cni::find(inner, id)).collect();
    all.sort_by(|a, b| (a.interface.len(), &a.interface).cmp(&(b.interface.len(), &b.interface)));
    all
}

/// Removes what belongs to no known container.
pub(crate) fn reconcile(inner: &Inner, known: &BTreeSet<String>) -> Result<()> {
    cni::reconcile(inner, known);
    let live: Vec<&str> = known.iter().map(String::as_str).collect();
    let mended = inner.net.reconcile(&live);
    let mended = mended.map_err(|e| EngineError::layer(e.class(), "cannot put the network in order")(e))?;
    if mended != sampan_net::Reconciled::default() {
        tracing::warn!(?mended, "put the network in order after an earlier daemon");
    }
    Ok(())
}

/// A container has another name: so it has in its networks.
pub(crate) fn renamed(inner: &Inner, record: &ContainerRecord, endpoints: &mut [Endpoint]) {
    for endpoint in endpoints {
        let Some(network) = inner.networks().get(&endpoint.network).cloned() else { continue };
        let wish = record.spec.endpoints.get(&endpoint.network).cloned().unwrap_or_default();
        endpoint.names = wishes::names(record, &network, &wish);
        let name = inner.net_name(&endpoint.network);
        let (names, links) = (endpoint.names.clone(), wishes::links(&wish));
        if let Err(error) = inner.net.set_names(&record.id, &name, names, links) {
            tracing::warn!(
                container = record.id,
                error = sampan_base::chain(&error),
                "cannot change its name in a network"
            );
        }
    }
}
