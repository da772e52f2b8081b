//! What callers ask for and are told.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use ipnet::{Ipv4Net, Ipv6Net};

use crate::names::Mac;

/// Where one instance keeps its things and what they are called. Instances with different directories, tables,
/// bridges and subnets do not meet.
#[derive(Clone, Debug)]
pub struct NetConfig {
    /// A directory below `/run` for namespaces and records: what is in it means nothing after a reboot.
    pub state: PathBuf,
    /// The nftables tables, one of family ip and one of ip6.
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

/// One network: a bridge of ours, or a share of one of the host's links.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NetworkConfig {
    /// What callers call it: part of file names.
    pub name: String,
    /// What people call it: `web.<title>` is `web` in this network.
    pub title: String,
    /// How its containers are linked.
    pub kind: NetworkKind,
    /// What the kernel calls its bridge: at most 15 characters. Of other kinds the name of the parent link.
    pub bridge: String,
    /// Its addresses.
    pub subnet: Ipv4Net,
    /// The bridge's own address in it; none is the first.
    pub gateway: Option<Ipv4Addr>,
    /// Where containers' addresses are taken from; none is the subnet.
    pub range: Option<Ipv4Net>,
    /// Addresses that no container gets unless it asks for one.
    pub reserved: Vec<Ipv4Addr>,
    /// Its IPv6 addresses.
    pub v6: Option<Range6>,
    /// Without a way out or in.
    pub internal: bool,
    /// Whether its containers may speak to each other.
    pub between_containers: bool,
    /// Whether what leaves it has the host's address.
    pub masquerade: bool,
    /// The largest packet; none is that of the host's way out.
    pub mtu: Option<u32>,
    /// Whether its containers find each other by name, by a DNS server of ours at 127.0.0.11.
    pub dns: bool,
}

/// How a network's containers are linked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NetworkKind {
    /// By a bridge of ours.
    Bridge,
    /// Each by a link of its own over one of the host's, with a hardware address of its own.
    Macvlan {
        /// Who of them may speak to whom.
        mode: MacvlanMode,
        /// The parent is `<link>.<number>`, a VLAN, and is made if it is missing.
        vlan: Option<(String, u16)>,
    },
}

/// Who may speak to whom over a shared link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MacvlanMode {
    /// All to each other and to the outside.
    Bridge,
    /// Only to the outside.
    Private,
    /// To each other by way of a switch outside that sends packets back.
    Vepa,
    /// One container alone, which has the parent's hardware address.
    Passthru,
}

/// The IPv6 addresses of a network.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Range6 {
    /// All of them.
    pub subnet: Ipv6Net,
    /// The bridge's own address; none is the first.
    pub gateway: Option<Ipv6Addr>,
    /// Where containers' addresses are taken from; none is the subnet.
    pub range: Option<Ipv6Net>,
    /// Addresses that no container gets unless it asks for one.
    pub reserved: Vec<Ipv6Addr>,
}

impl Range6 {
    /// The bridge's own address.
    pub fn gateway(&self) -> Ipv6Addr {
        self.gateway.unwrap_or_else(|| Ipv6Addr::from(u128::from(self.subnet.network()) + 1))
    }
}

impl NetworkConfig {
    /// An open network with everything by default.
    pub fn new(name: &str, bridge: &str, subnet: Ipv4Net) -> NetworkConfig {
        NetworkConfig {
            name: name.to_owned(),
            title: name.to_owned(),
            kind: NetworkKind::Bridge,
            bridge: bridge.to_owned(),
            subnet: subnet.trunc(),
            gateway: None,
            range: None,
            reserved: Vec::new(),
            v6: None,
            internal: false,
            between_containers: true,
            masquerade: true,
            mtu: None,
            dns: false,
        }
    }

    /// The bridge's own address.
    pub fn gateway(&self) -> Ipv4Addr {
        self.gateway.unwrap_or_else(|| self.subnet.hosts().next().unwrap_or(self.subnet.addr()))
    }

    /// Whether it has a bridge of ours.
    pub fn is_bridge(&self) -> bool {
        self.kind == NetworkKind::Bridge
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
    /// The address of the host that it is published on; 0.0.0.0 is all of them, and `::` all of IPv6.
    pub host_ip: IpAddr,
    /// The host's port; 0 is one that is free.
    pub host_port: u16,
    /// The container's port.
    pub container_port: u16,
}

impl PortMapping {
    /// Where it is published.
    pub fn host(&self) -> SocketAddr {
        SocketAddr::new(self.host_ip, self.host_port)
    }
}

/// How a container is to be attached to a network.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EndpointSpec {
    /// Which network.
    pub network: String,
    /// What callers call this endpoint; only told again.
    pub id: String,
    /// What its link is called in the container.
    pub interface: String,
    /// A fixed address; none is the next free one.
    pub ip: Option<Ipv4Addr>,
    /// A fixed IPv6 address, in a network that has such; none is the next free one.
    pub ip6: Option<Ipv6Addr>,
    /// Further addresses of its link, which mean nothing beyond it.
    pub link_local: Vec<IpAddr>,
    /// A fixed hardware address; none follows from the address.
    pub mac: Option<Mac>,
    /// What is published.
    pub ports: Vec<PortMapping>,
    /// Whether the network's gateway is the container's way to everywhere else.
    pub default_route: bool,
    /// What it is called in the network, the first of them when somebody asks for the name of its address.
    pub names: Vec<String>,
    /// Names that only this container knows others by: the name, and what the other is called in the network.
    pub links: Vec<(String, String)>,
}

impl Default for EndpointSpec {
    fn default() -> EndpointSpec {
        EndpointSpec {
            network: DEFAULT_NETWORK.to_owned(),
            id: String::new(),
            interface: "eth0".to_owned(),
            ip: None,
            ip6: None,
            link_local: Vec::new(),
            mac: None,
            ports: Vec::new(),
            default_route: true,
            names: Vec::new(),
            links: Vec::new(),
        }
    }
}

/// A container's place in a network.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Endpoint {
    /// Which network.
    pub network: String,
    /// What callers call it.
    #[serde(default)]
    pub id: String,
    /// What its link is called in the container.
    pub interface: String,
    /// What the other end is called on the host; of a share of the host's link, the link itself before it is moved.
    pub host_interface: String,
    /// Its address.
    pub ip: Ipv4Addr,
    /// How many bits of the address are the network's.
    pub prefix: u8,
    /// The bridge's address.
    pub gateway: Ipv4Addr,
    /// Its IPv6 address, and how many bits of it are the network's.
    #[serde(default)]
    pub v6: Option<(Ipv6Addr, u8)>,
    /// The bridge's IPv6 address.
    #[serde(default)]
    pub gateway6: Option<Ipv6Addr>,
    /// Its hardware address.
    pub mac: Mac,
    /// What is published, with the ports that were picked.
    pub ports: Vec<PortMapping>,
    /// It is the container's way to everywhere else.
    #[serde(default)]
    pub default_route: bool,
    /// As [`EndpointSpec::names`].
    #[serde(default)]
    pub names: Vec<String>,
    /// As [`EndpointSpec::links`].
    #[serde(default)]
    pub links: Vec<(String, String)>,
}
