//! Networks, endpoints and ports.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::null_default;

/// Where a port is published on the host.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "PascalCase", default)]
pub struct PortBinding {
    /// The host's address; empty: all.
    #[serde(deserialize_with = "null_default")]
    pub host_ip: String,
    /// The host's port or range; empty: one is picked.
    #[serde(deserialize_with = "null_default")]
    pub host_port: String,
}

/// A port as a listing shows it.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "PascalCase", default)]
pub struct PortSummary {
    /// The host's address.
    #[serde(rename = "IP", skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
    /// The port inside.
    pub private_port: u16,
    /// The host's port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_port: Option<u16>,
    /// `tcp`, `udp`.
    #[serde(rename = "Type")]
    pub kind: String,
}

/// Networks to join at creation.
#[derive(Serialize, Deserialize, Debug, Clone, Default)]
#[serde(rename_all = "PascalCase", default)]
pub struct NetworkingConfig {
    /// By network name.
    #[serde(deserialize_with = "null_default")]
    pub endpoints_config: BTreeMap<String, Option<EndpointSettings>>,
}

/// A container's place in a network.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "PascalCase", default)]
pub struct EndpointSettings {
    /// Addresses that were asked for.
    #[serde(rename = "IPAMConfig")]
    pub ipam_config: Option<serde_json::Value>,
    /// Kept for old clients.
    pub links: Option<Vec<String>>,
    /// Further names in the network's DNS.
    pub aliases: Option<Vec<String>>,
    /// The network.
    #[serde(rename = "NetworkID", deserialize_with = "null_default")]
    pub network_id: String,
    /// The endpoint.
    #[serde(rename = "EndpointID", deserialize_with = "null_default")]
    pub endpoint_id: String,
    /// Its gateway.
    #[serde(deserialize_with = "null_default")]
    pub gateway: String,
    /// Its address.
    #[serde(rename = "IPAddress", deserialize_with = "null_default")]
    pub ip_address: String,
    /// Its prefix length.
    #[serde(rename = "IPPrefixLen", deserialize_with = "null_default")]
    pub ip_prefix_len: i64,
    /// Its IPv6 gateway.
    #[serde(rename = "IPv6Gateway", deserialize_with = "null_default")]
    pub ipv6_gateway: String,
    /// Its IPv6 address.
    #[serde(rename = "GlobalIPv6Address", deserialize_with = "null_default")]
    pub global_ipv6_address: String,
    /// Its IPv6 prefix length.
    #[serde(rename = "GlobalIPv6PrefixLen", deserialize_with = "null_default")]
    pub global_ipv6_prefix_len: i64,
    /// Its hardware address.
    #[serde(deserialize_with = "null_default")]
    pub mac_address: String,
    /// Options of the network's driver.
    pub driver_opts: Option<BTreeMap<String, String>>,
    /// The network of the highest number has the default gateway.
    #[serde(skip_serializing_if = "is_zero")]
    pub gw_priority: i64,
}

fn is_zero(n: &i64) -> bool {
    *n == 0
}

/// A network as `GET /networks` shows it.
#[derive(Serialize, Deserialize, Debug, Clone, Default)]
#[serde(rename_all = "PascalCase", default)]
pub struct Network {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: String,
    /// When it was made, RFC 3339.
    pub created: String,
    /// `local`.
    pub scope: String,
    /// `bridge`, `host`, `null`.
    pub driver: String,
    /// It has IPv4 addresses; daemons before API 1.48 do not say.
    #[serde(rename = "EnableIPv4", skip_serializing_if = "Option::is_none")]
    pub enable_ipv4: Option<bool>,
    /// It has IPv6 addresses.
    #[serde(rename = "EnableIPv6")]
    pub enable_ipv6: bool,
    /// How addresses are given.
    #[serde(rename = "IPAM")]
    pub ipam: Ipam,
    /// No way out.
    pub internal: bool,
    /// Swarm only.
    pub attachable: bool,
    /// Swarm only.
    pub ingress: bool,
    /// Swarm only.
    pub config_from: ConfigFrom,
    /// Swarm only.
    pub config_only: bool,
    /// Containers in it, by id.
    #[serde(deserialize_with = "null_default")]
    pub containers: BTreeMap<String, NetworkContainer>,
    /// Options of its driver.
    #[serde(deserialize_with = "null_default")]
    pub options: BTreeMap<String, String>,
    /// Labels.
    #[serde(deserialize_with = "null_default")]
    pub labels: BTreeMap<String, String>,
}

/// How a network gives addresses.
#[derive(Serialize, Deserialize, Debug, Clone, Default)]
#[serde(rename_all = "PascalCase", default)]
pub struct Ipam {
    /// `default`.
    pub driver: String,
    /// Its options.
    pub options: Option<BTreeMap<String, String>>,
    /// Its pools.
    #[serde(deserialize_with = "null_default")]
    pub config: Vec<IpamPool>,
}

/// A pool of addresses.
#[derive(Serialize, Deserialize, Debug, Clone, Default)]
#[serde(rename_all = "PascalCase", default)]
pub struct IpamPool {
    /// `172.17.0.0/16`.
    pub subnet: String,
    /// `172.17.0.1`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub gateway: String,
}

/// Swarm only.
#[derive(Serialize, Deserialize, Debug, Clone, Default)]
#[serde(rename_all = "PascalCase", default)]
pub struct ConfigFrom {
    /// Swarm only.
    pub network: String,
}

/// A container in a network.
#[derive(Serialize, Deserialize, Debug, Clone, Default)]
#[serde(rename_all = "PascalCase", default)]
pub struct NetworkContainer {
    /// The container's name.
    pub name: String,
    /// The endpoint.
    #[serde(rename = "EndpointID")]
    pub endpoint_id: String,
    /// Its hardware address.
    pub mac_address: String,
    /// Its address with prefix.
    #[serde(rename = "IPv4Address")]
    pub ipv4_address: String,
    /// Its IPv6 address with prefix.
    #[serde(rename = "IPv6Address")]
    pub ipv6_address: String,
}
