//! An endpoint's life: attached, detached.
//!
//! ```text
//! attach: reserve ports -> address, record -> veth pair -> address and routes inside -> rules -> (attached)
//! detach: rules -> veth pair -> record -> remembered connections -> ports
//! ```
//! The record comes before the link that it speaks of and goes after it. So a daemon that is killed at any point leaves
//! a record of whatever there is, and [`crate::Net::reconcile`] finishes the detachment; a second attachment under the
//! same name begins with the detachment of what the first has left.

use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;
use sampan_base::{Class, FileError, error::class_of_io};
use sampan_kernel::netns;

use crate::bridges::set_sysctl;
use crate::links::{Inside, Links};
use crate::names::{Mac, is_key, is_link_name, veth_name};
use crate::net::{Inner, Net, Shared, published};
use crate::ports;
use crate::records::EndpointId;
use crate::spec::{Endpoint, EndpointSpec, NetworkConfig, NetworkKind, PortMapping, Protocol};

/// How many threads delete links at most: together they wait once for the same things in the kernel.
const MAX_THREADS: usize = 8;
/// Such a thread makes a few system calls.
const THREAD_STACK_BYTES: usize = 256 << 10;

/// A container that can't be attached. Nothing of the attempt is left.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The key or the interface's name can't be used.
    #[error("`{name}` cannot name an endpoint or its interface")]
    InvalidName {
        /// As given.
        name: String,
    },
    /// There is no such network.
    #[error("network {network} not found")]
    NoSuchNetwork {
        /// As given.
        network: String,
    },
    /// The container has no network namespace of ours.
    #[error("cannot open network namespace `{}`", path.display())]
    Namespace {
        /// Where it should be.
        path: PathBuf,
        /// Why it can't be opened.
        source: io::Error,
    },
    /// The address asked for is somebody's.
    #[error("address {ip} is in use by {holder}")]
    AddressInUse {
        /// The address.
        ip: IpAddr,
        /// Who has it.
        holder: String,
    },
    /// The address asked for is none of the network's.
    #[error("address {ip} is not one for containers in subnet {subnet}")]
    AddressOutside {
        /// The address.
        ip: IpAddr,
        /// The network's addresses.
        subnet: IpNet,
    },
    /// All addresses are taken.
    #[error("no address is left in subnet {subnet} of network {network}")]
    NoAddressLeft {
        /// The network.
        network: String,
        /// Its addresses.
        subnet: IpNet,
    },
    /// The port is published by another container.
    #[error("Bind for {ip}:{port} failed: port is already allocated")]
    PortAllocated {
        /// The host's address.
        ip: IpAddr,
        /// The host's port.
        port: u16,
    },
    /// The port can't be bound: a process of the host has it, or the address is not the host's.
    #[error("cannot publish port {ip}:{port}/{protocol} on the host")]
    Port {
        /// The host's address.
        ip: IpAddr,
        /// The host's port.
        port: u16,
        /// TCP or UDP.
        protocol: Protocol,
        /// Why.
        source: io::Error,
    },
    /// The record can't be written.
    #[error(transparent)]
    Record(#[from] FileError),
    /// The kernel refused something.
    #[error("cannot {action}")]
    Kernel {
        /// What was tried on what.
        action: String,
        /// Why.
        source: io::Error,
    },
    /// What is left of an earlier attachment of the same name can't be removed.
    #[error("cannot take over from an earlier attachment")]
    Earlier(#[source] DetachError),
}

impl AttachError {
    /// The class to report.
    pub fn class(&self) -> Class {
        match self {
            AttachError::InvalidName { .. } | AttachError::AddressOutside { .. } => Class::Invalid,
            AttachError::NoSuchNetwork { .. } => Class::NotFound,
            AttachError::AddressInUse { .. } | AttachError::PortAllocated { .. } => Class::Conflict,
            AttachError::NoAddressLeft { .. } => Class::Exhausted,
            AttachError::Port { source, .. } => match source.kind() {
                io::ErrorKind::AddrInUse => Class::Conflict,
                io::ErrorKind::AddrNotAvailable => Class::Invalid,
                _ => Class::Internal,
            },
            AttachError::Record(error) => error.class(),
            AttachError::Namespace { source, .. } | AttachError::Kernel { source, .. } => class_of_io(source),
            AttachError::Earlier(error) => error.class(),
        }
    }

    pub(crate) fn on(action: impl Into<String>) -> impl FnOnce(io::Error) -> AttachError {
        let action = action.into();
        move |source| AttachError::Kernel { action, source }
    }
}

/// An endpoint of which something could not be removed; the rest has been. Trying again tries what is left.
#[derive(Debug, thiserror::Error)]
#[error("cannot detach {key} completely: {}", failures.join("; "))]
pub struct DetachError {
    /// Whose endpoint.
    pub key: String,
    /// All that failed, each with its reason.
    pub failures: Vec<String>,
}

impl DetachError {
    /// The class to report.
    pub fn class(&self) -> Class {
        Class::Internal
    }
}

impl Net {
    /// Attaches the namespace of `key` to a network. If it has been attached to it before, that ends first.
    ///
    /// # Errors
    /// See [`AttachError`].
    pub fn attach(&self, key: &str, spec: &EndpointSpec) -> Result<Endpoint, AttachError> {
        for (name, good) in [(key, is_key(key)), (&spec.interface, is_link_name(&spec.interface))] {
            if !good {
                return Err(AttachError::InvalidName { name: name.chars().take(100).collect() });
            }
        }
        let path = self.namespaces().join(key);
        let namespace = netns::open(&path).map_err(|source| AttachError::Namespace { path, source })?;
        let id: EndpointId = (key.to_owned(), spec.network.clone());
        self.detach_one(&id).map_err(AttachError::Earlier)?;
        let mut inner =
            self.shared.lock_when(|inner| !inner.leaving.contains(&id) && !inner.address_is_leaving(spec));
        let Some(network) = inner.networks.get(&spec.network).cloned() else {
            return Err(AttachError::NoSuchNetwork { network: spec.network.clone() });
        };
        let (ports, sockets) = inner.reserve(&spec.ports)?;
        let ip = inner.choose_address(&network, spec.ip)?;
        let v6 = inner.choose_address6(&network, spec.ip6)?;
        let default_route = spec.default_route && !network.internal;
        let endpoint = Endpoint {
            id: spec.id.clone(),
            network: network.name.clone(),
            interface: spec.interface.clone(),
            host_interface: veth_name(&inner.table, key, &network.name),
            ip,
            prefix: network.subnet.prefix_len(),
            gateway: network.gateway(),
            v6,
            gateway6: network.v6.as_ref().map(crate::spec::Range6::gateway),
            mac: spec.mac.unwrap_or_else(|| Mac::of(ip)),
            ports,
            default_route,
            names: spec.names.clone(),
            links: spec.links.clone(),
        };
        inner.records.insert(key, &endpoint)?;
        inner.reserved.insert(id.clone(), sockets);
        match inner.connect(&network, &endpoint, &spec.link_local, &namespace) {
            Ok(()) => {
                self.shared.names.zones().enter(key, &endpoint);
                Ok(endpoint)
            }
            Err(error) => {
                drop(inner);
                if let Err(left) = self.detach_one(&id) {
                    // The record stays, so the next reconciliation tries again.
                    self.shared.lock().complain(left.to_string());
                }
                Err(error)
            }
        }
    }

    /// Detaches `key` from all networks. Its namespace stays. No error if it is attached to none.
    ///
    /// # Errors
    /// If something can't be removed; everything else has been.
    pub fn detach(&self, key: &str) -> Result<(), DetachError> {
        let ids = self.shared.lock().records.of_key(key);
        let mut failures = Vec::new();
        for id in ids {
            if let Err(error) = self.detach_one(&id) {
                failures.extend(error.failures);
            }
        }
        if failures.is_empty() { Ok(()) } else { Err(DetachError { key: key.to_owned(), failures }) }
    }

    /// Detaches `key` from one network; no error if it is not attached to it.
    ///
    /// # Errors
    /// As [`Net::detach`].
    pub fn detach_from(&self, key: &str, network: &str) -> Result<(), DetachError> {
        self.detach_one(&(key.to_owned(), network.to_owned()))
    }

    /// Begins what [`Net::detach`] does, and leaves the slow part, the links, to a thread: when it returns, nothing is
    /// published any more and the ports are free. The address is when the link is gone. To be followed by
    /// [`Net::remove_namespace`] if the container is removed. What goes wrong is told by the next
    /// [`Net::reconcile`], which then tries again.
    pub fn detach_soon(&self, key: &str) {
        let ids = self.shared.lock().records.of_key(key);
        for id in ids {
            if let Some(departure) = self.begin_detachment(&id) {
                self.shared.lock().departures.push_back(departure);
            }
        }
        let mut inner = self.shared.lock();
        if inner.departures.is_empty() || inner.threads >= MAX_THREADS {
            return;
        }
        let shared = Arc::clone(&self.shared);
        match std::thread::Builder::new().stack_size(THREAD_STACK_BYTES).spawn(move || see_off(&shared)) {
            Ok(_) => inner.threads += 1,
            Err(_) => {
                // Then this one does it.
                inner.threads += 1;
                drop(inner);
                see_off(&self.shared);
            }
        }
    }

    /// Removes what the record `id` speaks of, and then the record. All is tried. The kernel takes tens of
    /// milliseconds to delete a link; others may attach and detach meanwhile.
    pub(crate) fn detach_one(&self, id: &EndpointId) -> Result<(), DetachError> {
        match self.begin_detachment(id) {
            Some(departure) => finish_detachment(&self.shared, &departure),
            None => Ok(()),
        }
    }

    /// Withdraws what is published and frees the ports; none if there is no such endpoint. Waits if it is leaving.
    fn begin_detachment(&self, id: &EndpointId) -> Option<Departure> {
        let mut inner = self.shared.lock_when(|inner| !inner.leaving.contains(id));
        let endpoint = inner.records.get(id).cloned()?;
        self.shared.names.zones().leave(&id.0, &id.1);
        let withdraw = inner.ruleset().remove(&published(&endpoint));
        let withdrawn = inner.tables.commit(withdraw).is_ok();
        // The ports are free from here on, for whoever comes while the link is being deleted. First in the record,
        // or a crash would leave two records of one port.
        if inner.records.insert(&id.0, &Endpoint { ports: Vec::new(), ..endpoint.clone() }).is_ok() {
            inner.reserved.remove(id);
        }
        inner.leaving.insert(id.clone());
        Some(Departure { id: id.clone(), endpoint, withdrawn })
    }
}

/// An endpoint of which only the link is left, and its record.
#[derive(Debug)]
pub(crate) struct Departure {
    id: EndpointId,
    endpoint: Endpoint,
    /// Its ports were in the rules, and are not any more.
    withdrawn: bool,
}

/// A thread: deletes links until there is none left to delete.
fn see_off(shared: &Shared) {
    loop {
        let mut inner = shared.lock();
        let Some(departure) = inner.departures.pop_front() else {
            inner.threads -= 1;
            shared.changed.notify_all();
            return;
        };
        drop(inner);
        if let Err(error) = finish_detachment(shared, &departure) {
            shared.lock().complain(error.to_string());
        }
    }
}

/// Deletes the link, without the lock, and then the record.
fn finish_detachment(shared: &Shared, departure: &Departure) -> Result<(), DetachError> {
    let deleted = Links::open().and_then(|mut links| links.delete(&departure.endpoint.host_interface));
    let mut inner = shared.lock();
    inner.leaving.remove(&departure.id);
    shared.changed.notify_all();
    inner.close(departure, deleted)
}

impl Inner {
    /// Binds the ports on the host, and so picks those that are to be picked.
    pub(crate) fn reserve(
        &self,
        wanted: &[PortMapping],
    ) -> Result<(Vec<PortMapping>, Vec<OwnedFd>), AttachError> {
        let (mut ports, mut sockets) = (Vec::new(), Vec::new());
        for port in wanted {
            let ip = port.host_ip;
            // The port that was picked for all IPv4 addresses is to be that of all IPv6 ones, too.
            let twin = ports.iter().find(|other: &&PortMapping| {
                let one = |p: &PortMapping| (p.protocol, p.container_port);
                one(other) == one(port) && other.host_ip.is_unspecified() && other.host_ip != ip
            });
            let picked =
                twin.filter(|_| port.host_port == 0 && ip.is_unspecified()).map(|other| other.host_port);
            let port = &PortMapping { host_port: picked.unwrap_or(port.host_port), ..*port };
            let meets = |other: &PortMapping| {
                other.protocol == port.protocol
                    && other.host_port == port.host_port
                    && ports::overlap(other.host_ip, ip)
            };
            let theirs = self.records.iter().flat_map(|(_, e)| &e.ports);
            if port.host_port != 0 && theirs.chain(&ports).any(meets) {
                return Err(AttachError::PortAllocated { ip, port: port.host_port });
            }
            let (socket, host_port) = ports::reserve(port.protocol, port.host()).map_err(|source| {
                AttachError::Port { ip, port: port.host_port, protocol: port.protocol, source }
            })?;
            sockets.extend(socket);
            ports.push(PortMapping { host_port, ..*port });
        }
        Ok((ports, sockets))
    }

    /// Whether the address that is asked for, or any at all, is still that of a link which is being deleted: its
    /// container has gone as far as anybody can see.
    fn address_is_leaving(&self, spec: &EndpointSpec) -> bool {
        let mut leaving = self.leaving.iter().filter(|(_, network)| *network == spec.network);
        let network = self.networks.get(&spec.network);
        if spec.ip.is_none() && network.is_some_and(|network| self.records.free_address(network).is_none()) {
            return leaving.next().is_some();
        }
        leaving.filter_map(|id| self.records.get(id)).any(|endpoint| {
            let six = endpoint.v6.map(|(ip, _)| ip);
            Some(endpoint.ip) == spec.ip || (six.is_some() && six == spec.ip6)
        })
    }

    fn choose_address(
        &self,
        network: &NetworkConfig,
        wanted: Option<std::net::Ipv4Addr>,
    ) -> Result<std::net::Ipv4Addr, AttachError> {
        let subnet = network.subnet;
        let Some(ip) = wanted else {
            return self.records.free_address(network).ok_or_else(|| AttachError::NoAddressLeft {
                network: network.name.clone(),
                subnet: subnet.into(),
            });
        };
        if !subnet.contains(&ip) || [subnet.network(), subnet.broadcast(), network.gateway()].contains(&ip) {
            return Err(AttachError::AddressOutside { ip: ip.into(), subnet: subnet.into() });
        }
        self.unless_held(network, ip.into()).map(|()| ip)
    }

    fn choose_address6(
        &self,
        network: &NetworkConfig,
        wanted: Option<Ipv6Addr>,
    ) -> Result<Option<(Ipv6Addr, u8)>, AttachError> {
        let Some(range) = &network.v6 else {
            return match wanted {
                None => Ok(None),
                Some(ip) => Err(AttachError::AddressOutside { ip: ip.into(), subnet: network.subnet.into() }),
            };
        };
        let subnet = range.subnet;
        let ip = match wanted {
            None => self.records.free_address6(&network.name, range).ok_or_else(|| {
                AttachError::NoAddressLeft { network: network.name.clone(), subnet: subnet.into() }
            })?,
            Some(ip) => {
                if !subnet.contains(&ip) || [subnet.network(), range.gateway()].contains(&ip) {
                    return Err(AttachError::AddressOutside { ip: ip.into(), subnet: subnet.into() });
                }
                self.unless_held(network, ip.into())?;
                ip
            }
        };
        Ok(Some((ip, subnet.prefix_len())))
    }

    fn unless_held(&self, network: &NetworkConfig, ip: IpAddr) -> Result<(), AttachError> {
        match self.records.holder(&network.name, ip) {
            Some(holder) => Err(AttachError::AddressInUse { ip, holder: holder.to_owned() }),
            None => Ok(()),
        }
    }

    /// Makes what the record of `endpoint` speaks of.
    fn connect(
        &mut self,
        network: &NetworkConfig,
        endpoint: &Endpoint,
        link_local: &[IpAddr],
        namespace: &(impl AsFd + Sync),
    ) -> Result<(), AttachError> {
        let host = &endpoint.host_interface;
        let (bridge, mtu) = self
            .ensure_bridge(network)
            .map_err(AttachError::on(format!("set up bridge `{}`", network.bridge)))?;
        let made = match &network.kind {
            NetworkKind::Bridge => {
                // A link of that name can only be of an attachment of this key whose record was lost.
                self.links.delete(host).map_err(AttachError::on(format!("remove stale link `{host}`")))?;
                let peer = (endpoint.interface.as_str(), endpoint.mac);
                self.links.create_veth(host, bridge, mtu, peer.0, peer.1, namespace.as_fd())
            }
            NetworkKind::Macvlan { mode, .. } => {
                // There is one way to the outside with the parent's address, which is the point of it.
                let own = *mode != crate::spec::MacvlanMode::Passthru;
                let mac = own.then_some(endpoint.mac);
                let peer = &endpoint.interface;
                self.links.create_macvlan(bridge, *mode, network.mtu, peer, mac, namespace.as_fd())
            }
        };
        made.map_err(AttachError::on(format!("make link `{}` and its peer `{host}`", endpoint.interface)))?;
        configure(endpoint, link_local, namespace).map_err(AttachError::on(format!(
            "give `{}` address {}/{}",
            endpoint.interface, endpoint.ip, endpoint.prefix
        )))?;
        if !network.is_bridge() {
            return Ok(());
        }
        self.await_activation(network, host)?;
        if !network.between_containers {
            // Our rules see what passes within a bridge only while the kernel's br_netfilter is on, which others switch.
            self.links.isolate(host).map_err(AttachError::on(format!("set up bridge port `{host}`")))?;
        }
        self.publish(endpoint)
    }

    /// Puts the published ports of `endpoint`, which is in the records, into the rules.
    pub(crate) fn publish(&mut self, endpoint: &Endpoint) -> Result<(), AttachError> {
        let host = &endpoint.host_interface;
        if !endpoint.ports.is_empty() {
            self.links.reflect(host).map_err(AttachError::on(format!("set up bridge port `{host}`")))?;
        }
        let publish = self.ruleset().add(&published(endpoint));
        // If somebody has flushed our table, or an element was left in it, all of it is put in place anew.
        let there = self.watched || self.tables.has_chain(&self.table, "forward").is_ok_and(|there| there);
        if !there || self.tables.commit(publish).is_err() {
            self.apply().map_err(AttachError::on("put nftables rules in place"))?;
        } else if !self.watched {
            self.admit_to_docker();
        }
        if endpoint.ports.iter().any(|p| p.protocol != Protocol::Tcp) {
            self.forget_connections(endpoint);
        }
        Ok(())
    }

    /// Lets the kernel forget the connections of `endpoint`: their packets do not see new rules.
    pub(crate) fn forget_connections(&mut self, endpoint: &Endpoint) {
        let addresses = [IpAddr::V4(endpoint.ip)].into_iter().chain(endpoint.v6.map(|(ip, _)| ip.into()));
        for ip in addresses {
            if let Err(error) = self.connections.forget(ip, &endpoint.ports) {
                self.complain(format!("cannot forget connections to {ip}: {error}"));
            }
        }
    }

    /// The end of a pair that was put up first starts to send only when a worker of the kernel has seen its carrier,
    /// which under load takes long enough to lose a container's first packet, and so a second until it is sent again. To
    /// be asked about the link lets the kernel (from 6.9) do it at once; so for the bridge with its first port.
    fn await_activation(&mut self, network: &NetworkConfig, host: &str) -> Result<(), AttachError> {
        for name in [host, &network.bridge] {
            self.links.find(name).map_err(AttachError::on(format!("look at link `{name}`")))?;
        }
        Ok(())
    }

    /// The rest of a detachment, when the link is gone or could not be deleted.
    fn close(&mut self, departure: &Departure, deleted: io::Result<()>) -> Result<(), DetachError> {
        let Departure { id, endpoint, withdrawn } = departure;
        let mut failures = Vec::new();
        if let Err(error) = deleted {
            // The record stays, and with it the address is nobody else's.
            failures.push(format!("link `{}`: {error}", endpoint.host_interface));
        } else if let Err(error) = self.records.remove(id) {
            failures.push(sampan_base::chain(&error));
        }
        if !withdrawn && let Err(error) = self.apply() {
            // An element was not there, so none was removed; what all other records say is put in place instead.
            failures.push(format!("nftables rules: {error}"));
        }
        if !endpoint.ports.is_empty() {
            self.forget_connections(endpoint);
        }
        self.reserved.remove(id);
        if failures.is_empty() { Ok(()) } else { Err(DetachError { key: id.0.clone(), failures }) }
    }
}

/// Gives a link in a container's namespace its addresses and routes.
fn configure(endpoint: &Endpoint, link_local: &[IpAddr], namespace: &(impl AsFd + Sync)) -> io::Result<()> {
    let new = |ip: IpAddr, prefix| IpNet::new(ip, prefix).map_err(io::Error::other);
    let mut addresses = vec![new(endpoint.ip.into(), endpoint.prefix)?];
    if let Some((ip, prefix)) = endpoint.v6 {
        addresses.push(new(ip.into(), prefix)?);
    }
    for ip in link_local {
        addresses.push(new(*ip, if ip.is_ipv4() { 16 } else { 64 })?);
    }
    let gateways = if endpoint.default_route { gateways(endpoint) } else { Vec::new() };
    let inside = Inside { name: &endpoint.interface, addresses, gateways };
    let with_v6 = endpoint.v6.is_some() || link_local.iter().any(IpAddr::is_ipv6);
    netns::within(namespace.as_fd(), || {
        if with_v6 {
            // Namespaces are made with it off for links that come.
            set_sysctl(&format!("net/ipv6/conf/{}/disable_ipv6", inside.name), "0")?;
        }
        Links::open()?.configure(&inside)
    })
}

/// The ways to everywhere else that an endpoint's network offers.
pub(crate) fn gateways(endpoint: &Endpoint) -> Vec<IpAddr> {
    let six = endpoint.gateway6.filter(|_| endpoint.v6.is_some());
    [IpAddr::V4(endpoint.gateway)].into_iter().chain(six.map(IpAddr::V6)).collect()
}
