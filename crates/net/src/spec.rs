//! What callers ask for and are told.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;

use ipnet::Ipv4Net;

use crate::names::Mac;

/// Where one instance keeps its things and what they are called. Instances with different directories, tables,
/// bridges and subnets do not meet.
#[derive(Clone, Debug)]
pub struct NetConfig {
    /// A directory below `/run` for namespaces and records: what is in it means nothing after a reboot.
    pub state: PathBuf,
    /// The nftables table, family ip.
    pub table: String,
    /// The networks to begin with; more may be added.
    pub networks: Vec<NetworkConfig>,
}

impl NetConfig {
    /// One network, called [`DEFAULT_NETWORK`], whose gateway is the subnet's first address.
    pub fn single(state: impl Into<PathBuf>, bridge: &str, subnet: Ipv4Net, table: &str) -> NetConfig {
        NetConfig {
            state: state.into(),
            table: table.to_owned(),
            networks: vec![NetworkConfig::new(DEFAULT_NETWORK, bridge, subnet)],
        }
    }
}

/// The network of a container that names none: Docker's `bridge`.
pub const DEFAULT_NETWORK: &str = "bridge";

/// One bridge network.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NetworkConfig {
    /// What callers call it.
    pub name: String,
    /// What the kernel calls its bridge: at most 15 characters.
    pub bridge: String,
    /// Its addresses.
    pub subnet: Ipv4Net,
    /// The bridge's own address in it; none is the first.
    pub gateway: Option<Ipv4Addr>,
    /// Without a way out or in.
    pub internal: bool,
    /// Whether its containers may speak to each other.
    pub between_containers: bool,
    /// The largest packet; none is that of the host's way out.
    pub mtu: Option<u32>,
}

impl NetworkConfig {
    /// An open network with everything by default.
    pub fn new(name: &str, bridge: &str, subnet: Ipv4Net) -> NetworkConfig {
        NetworkConfig {
            name: name.to_owned(),
            bridge: bridge.to_owned(),
            subnet: subnet.trunc(),
            gateway: None,
            internal: false,
            between_containers: true,
            mtu: None,
        }
    }

    /// The bridge's own address.
    pub fn gateway(&self) -> Ipv4Addr {
        self.gateway.unwrap_or_else(|| self.subnet.hosts().next().unwrap_or(self.subnet.addr()))
    }
}

/// A protocol whose ports can be published.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP: translated, but not reserved on the host, whose kernel may know no sockets of it.
    Sctp,
}

impl Protocol {
    /// Its number in an IP header.
    pub(crate) fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        })
    }
}

/// A port to publish, or one that is published.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
pub struct PortMapping {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The address of the host that it is published on; 0.0.0.0 is all of them.
    pub host_ip: Ipv4Addr,
    /// The host's port; 0 is one that is free.
    pub host_port: u16,
    /// The container's port.
    pub container_port: u16,
}

impl PortMapping {
    /// Where it is published.
    pub fn host(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.host_ip, self.host_port)
    }
}

/// How a container is to be attached to a network.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EndpointSpec {
    /// Which network.
    pub network: String,
    /// What its link is called in the container.
    pub interface: String,
    /// A fixed address; none is the next free one.
    pub ip: Option<Ipv4Addr>,
    /// A fixed hardware address; none follows from the address.
    pub mac: Option<Mac>,
    /// What is published.
    pub ports: Vec<PortMapping>,
    /// Whether the network's gateway is the container's way to everywhere else.
    pub default_route: bool,
}

impl Default for EndpointSpec {
    fn default() -> EndpointSpec {
        EndpointSpec {
            network: DEFAULT_NETWORK.to_owned(),
            interface: "eth0".to_owned(),
            ip: None,
            mac: None,
            ports: Vec::new(),
            default_route: true,
        }
    }
}

/// A container's place in a network.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Endpoint {
    /// Which network.
    pub network: String,
    /// What its link is called in the container.
    pub interface: String,
    /// What the other end is called on the host.
    pub host_interface: String,
    /// Its address.
    pub ip: Ipv4Addr,
    /// How many bits of the address are the network's.
    pub prefix: u8,
    /// The bridge's address.
    pub gateway: Ipv4Addr,
    /// Its hardware address.
    pub mac: Mac,
    /// What is published, with the ports that were picked.
    pub ports: Vec<PortMapping>,
}
