//! Ports, and what a container asks of its networks.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub use sampan_net::Protocol;
use serde::{Deserialize, Serialize};

/// A port and its protocol.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port {
    /// 1 to 65535.
    pub number: u16,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
}

impl std::fmt::Display for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.number, self.protocol)
    }
}

impl std::str::FromStr for Port {
    type Err = String;

    /// Reads `80`, `80/tcp` or `53/udp`.
    fn from_str(text: &str) -> Result<Port, String> {
        let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            _ => return Err(format!("invalid port `{text}`: unknown protocol `{protocol}`")),
        };
        match number.parse() {
            Ok(number) if number > 0 => Ok(Port { number, protocol }),
            _ => Err(format!("invalid port `{text}`: expected a number from 1 to 65535")),
        }
    }
}

/// A port to publish on the host.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Publish {
    /// The port inside.
    pub port: Port,
    /// The host's address as it was given; empty: all.
    pub host_ip: String,
    /// The host's port; 0: one is picked.
    pub host_port: u16,
    /// The last of a range of ports that begins with `host_port`, of which any free one will do; 0: no range.
    #[serde(default)]
    pub host_port_end: u16,
}

/// A container's network.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// The default bridge.
    #[default]
    Bridge,
    /// The host's own.
    Host,
    /// Only a loopback device.
    None,
    /// Another container's, by id.
    Container(String),
    /// A network that somebody has made, by its id (until creation has resolved it, as it was named).
    Named(String),
}

impl NetworkMode {
    /// Whether the container has a network namespace of ours, with links in it.
    pub fn has_endpoints(&self) -> bool {
        matches!(self, NetworkMode::Bridge | NetworkMode::Named(_))
    }
}

/// How a container is to be in a network.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[serde(default)]
pub struct EndpointWish {
    /// The network's name when this was asked for: shown when the network itself can't be asked.
    pub network: String,
    /// Further names for it in the network.
    pub aliases: Vec<String>,
    /// A fixed address.
    pub ipv4: Option<Ipv4Addr>,
    /// A fixed IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
    /// Further addresses of its link.
    pub link_local: Vec<IpAddr>,
    /// A fixed hardware address.
    pub mac: Option<String>,
    /// `container:alias`: names that only it knows containers of this network by.
    pub links: Vec<String>,
    /// Options of the network's driver.
    pub driver_options: BTreeMap<String, String>,
    /// The network with the highest is the way to everywhere else.
    pub gateway_priority: i64,
}

/// The contents of resolv.conf.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[serde(default)]
pub struct Dns {
    /// Addresses.
    pub servers: Vec<String>,
    /// Search domains.
    pub search: Vec<String>,
    /// Options.
    pub options: Vec<String>,
}
