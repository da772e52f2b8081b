//! A container's place in the network: what its mode means, and the endpoint on the bridge.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use sampan_base::Class;
use sampan_net::{AttachError, EndpointSpec, Net, NetConfig, PortMapping};

use crate::error::{EngineError, Result};
use crate::spec::{ContainerSpec, NetworkMode, Port, Protocol, Publish};
use crate::{EngineConfig, Inner, blocking};

/// A container's place in a network.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// The network's id.
    pub network: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its network's prefix length.
    pub prefix: u8,
    /// The bridge's address.
    pub gateway: Ipv4Addr,
    /// Its hardware address.
    pub mac: String,
    /// Where its ports are published, with the ports that were picked.
    pub published: Vec<Publish>,
    /// The file that keeps its network namespace.
    pub namespace: PathBuf,
}

/// Which network namespace a container gets.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Namespace {
    /// The one at this path.
    Own(PathBuf),
    /// A new one that the runtime makes, with only a loopback device.
    Fresh,
    /// The host's.
    Host,
}

/// What a container was given.
#[derive(Clone, Debug)]
pub(crate) struct Attached {
    pub(crate) namespace: Namespace,
    pub(crate) endpoints: Vec<Endpoint>,
}

/// Gives a container its network. Whatever a failed attempt left is removed by [`detach`].
pub(crate) async fn attach(inner: &Arc<Inner>, id: &str, spec: &ContainerSpec) -> Result<Attached> {
    match &spec.network {
        NetworkMode::Host => Ok(Attached { namespace: Namespace::Host, endpoints: Vec::new() }),
        NetworkMode::None => Ok(Attached { namespace: Namespace::Fresh, endpoints: Vec::new() }),
        NetworkMode::Container(other) => {
            let pid = inner.process_of(other)?;
            let path = PathBuf::from(format!("/proc/{pid}/ns/net"));
            Ok(Attached { namespace: Namespace::Own(path), endpoints: Vec::new() })
        }
        NetworkMode::Bridge => {
            let (inner, id, wanted) = (Arc::clone(inner), id.to_owned(), published(spec));
            let endpoint = blocking(move || attach_bridge(&inner, &id, &wanted)).await?;
            let namespace = Namespace::Own(endpoint.namespace.clone());
            Ok(Attached { namespace, endpoints: vec![endpoint] })
        }
        NetworkMode::Named(name) => Err(EngineError::NoSuchNetwork { name: name.clone() }),
    }
}

/// The ports to publish; with `publish_all`, every exposed one somewhere.
fn published(spec: &ContainerSpec) -> Vec<Publish> {
    let mut list = spec.publish.clone();
    if spec.publish_all {
        let missing = |port: &&Port| !spec.publish.iter().any(|p| p.port == **port);
        let anywhere =
            |port: &Port| Publish { port: *port, host_ip: String::new(), host_port: 0, host_port_end: 0 };
        list.extend(spec.exposed.iter().filter(missing).map(anywhere));
    }
    list
}

/// Takes a container out of the network. What fails is logged; the next daemon tries again.
pub(crate) async fn detach(inner: &Arc<Inner>, id: &str) {
    let (inner, id) = (Arc::clone(inner), id.to_owned());
    blocking(move || detach_bridge(&inner, &id)).await;
}

/// As [`detach`], where one may block.
pub(crate) fn detach_bridge(inner: &Inner, id: &str) {
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

/// Gives a container a namespace on the default bridge and publishes its ports.
pub(crate) fn attach_bridge(inner: &Inner, id: &str, wanted: &[Publish]) -> Result<Endpoint> {
    let mut ports = wanted.iter().map(mapping).collect::<Result<Vec<_>>>()?;
    let failed = "cannot make a network namespace";
    inner.net.create_namespace(id).map_err(|e| EngineError::layer(e.class(), failed)(e))?;
    let attached = loop {
        let error =
            match inner.net.attach(id, &EndpointSpec { ports: ports.clone(), ..EndpointSpec::default() }) {
                Ok(attached) => break attached,
                Err(error) => error,
            };
        // Of a range, the next port may be free.
        let taken = match &error {
            AttachError::PortAllocated { port, .. } => Some(*port),
            AttachError::Port { port, source, .. } if source.kind() == std::io::ErrorKind::AddrInUse => {
                Some(*port)
            }
            _ => None,
        };
        let next = ports
            .iter_mut()
            .zip(wanted)
            .find(|(port, publish)| Some(port.host_port) == taken && port.host_port < publish.host_port_end);
        match next {
            Some((port, _)) => port.host_port += 1,
            None => return Err(attach_failed(error)),
        }
    };
    endpoint(inner, id, attached)
}

fn attach_failed(error: AttachError) -> EngineError {
    let class = match error.class() {
        // Docker answers 500 to a port in use; clients only look at the words.
        Class::Conflict => Class::Internal,
        class => class,
    };
    EngineError::layer(class, "failed to set up container networking")(error)
}

fn mapping(publish: &Publish) -> Result<PortMapping> {
    let host_ip = match publish.host_ip.as_str() {
        "" => Ipv4Addr::UNSPECIFIED,
        text => text.parse().map_err(|_| {
            EngineError::Unsupported(format!(
                "cannot publish on `{text}`: only IPv4 addresses are supported yet"
            ))
        })?,
    };
    Ok(PortMapping {
        protocol: match publish.port.protocol {
            Protocol::Tcp => sampan_net::Protocol::Tcp,
            Protocol::Udp => sampan_net::Protocol::Udp,
            Protocol::Sctp => sampan_net::Protocol::Sctp,
        },
        host_ip,
        host_port: publish.host_port,
        container_port: publish.port.number,
    })
}

fn endpoint(inner: &Inner, id: &str, attached: sampan_net::Endpoint) -> Result<Endpoint> {
    let namespace = inner.net.namespace(id);
    let published = attached.ports.iter().map(|port| Publish {
        port: Port {
            number: port.container_port,
            protocol: match port.protocol {
                sampan_net::Protocol::Tcp => Protocol::Tcp,
                sampan_net::Protocol::Udp => Protocol::Udp,
                sampan_net::Protocol::Sctp => Protocol::Sctp,
            },
        },
        host_ip: if port.host_ip.is_unspecified() { String::new() } else { port.host_ip.to_string() },
        host_port: port.host_port,
        host_port_end: 0,
    });
    Ok(Endpoint {
        network: attached.network,
        address: attached.ip,
        prefix: attached.prefix,
        gateway: attached.gateway,
        mac: attached.mac.to_string(),
        published: published.collect(),
        namespace: namespace
            .map_err(|e| EngineError::layer(e.class(), "cannot name the network namespace")(e))?,
    })
}

/// Opens the network: bridges and rules that are missing are put in place.
pub(crate) fn open(config: &EngineConfig) -> Result<Net> {
    let state = config.state.join("net");
    let net = NetConfig::single(state, &config.bridge, config.subnet, &config.table);
    Net::open(net).map_err(|e| EngineError::layer(e.class(), "cannot set up the network")(e))
}

/// The endpoints of a container that runs, as an earlier daemon made it.
pub(crate) fn find(inner: &Inner, id: &str) -> Vec<Endpoint> {
    inner.net.endpoints(id).into_iter().filter_map(|attached| endpoint(inner, id, attached).ok()).collect()
}

/// Removes what belongs to no known container.
pub(crate) fn reconcile(inner: &Inner, known: &BTreeSet<String>) -> Result<()> {
    let live: Vec<&str> = known.iter().map(String::as_str).collect();
    let mended = inner.net.reconcile(&live);
    let mended = mended.map_err(|e| EngineError::layer(e.class(), "cannot put the network in order")(e))?;
    if mended != sampan_net::Reconciled::default() {
        tracing::warn!(?mended, "put the network in order after an earlier daemon");
    }
    Ok(())
}
