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
    /// `container:alias`: names that only this container knows others by.
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
    /// The network with the highest is the way to everywhere else.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub gw_priority: i64,
    /// All its names in the network's DNS.
    #[serde(rename = "DNSNames", skip_serializing_if = "Option::is_none")]
    pub dns_names: Option<Vec<String>>,
}

fn is_zero(n: &i64) -> bool {
    *n == 0
}

/// Addresses that are asked for.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "PascalCase", default)]
pub struct EndpointIpam {
    /// IPv4.
    #[serde(
        rename = "IPv4Address",
        skip_serializing_if = "String::is_empty",
        deserialize_with = "null_default"
    )]
    pub ipv4_address: String,
    /// IPv6.
    #[serde(
        rename = "IPv6Address",
        skip_serializing_if = "String::is_empty",
        deserialize_with = "null_default"
    )]
    pub ipv6_address: String,
    /// Further ones, which mean nothing beyond the link.
    #[serde(rename = "LinkLocalIPs", skip_serializing_if = "Option::is_none")]
    pub link_local_ips: Option<Vec<String>>,
}

/// A network that is to be made.
#[derive(Serialize, Deserialize, Debug, Clone, Default)]
#[serde(rename_all = "PascalCase", default)]
pub struct NetworkCreate {
    /// Its name.
    #[serde(deserialize_with = "null_default")]
    pub name: String,
    /// Whether another of that name is refused (API before 1.44).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub check_duplicate: Option<bool>,
    /// `bridge` if empty.
    #[serde(deserialize_with = "null_default")]
    pub driver: String,
    /// `local`, or `swarm`.
    #[serde(deserialize_with = "null_default")]
    pub scope: String,
    /// IPv4 addresses; on if it is missing.
    #[serde(rename = "EnableIPv4", skip_serializing_if = "Option::is_none")]
    pub enable_ipv4: Option<bool>,
    /// IPv6 addresses.
    #[serde(rename = "EnableIPv6", skip_serializing_if = "Option::is_none")]
    pub enable_ipv6: Option<bool>,
    /// How addresses are given.
    #[serde(rename = "IPAM")]
    pub ipam: Option<Ipam>,
    /// Without a way out.
    #[serde(deserialize_with = "null_default")]
    pub internal: bool,
    /// For containers that are started by hand.
    #[serde(deserialize_with = "null_default")]
    pub attachable: bool,
    /// Swarm only.
    #[serde(deserialize_with = "null_default")]
    pub ingress: bool,
    /// Only a configuration for others.
    #[serde(deserialize_with = "null_default")]
    pub config_only: bool,
    /// Where the configuration is.
    pub config_from: Option<ConfigFrom>,
    /// Options of the driver.
    #[serde(deserialize_with = "null_default")]
    pub options: BTreeMap<String, String>,
    /// Labels.
    #[serde(deserialize_with = "null_default")]
    pub labels: BTreeMap<String, String>,
}

/// What is answered when a network is made.
#[derive(Serialize, Deserialize, Debug, Clone, Default)]
#[serde(rename_all = "PascalCase", default)]
pub struct NetworkCreated {
    /// Its id.
    pub id: String,
    /// What could not be done as asked.
    pub warning: String,
}

/// A container is to be connected to a network.
#[derive(Serialize, Deserialize, Debug, Clone, Default)]
#[serde(rename_all = "PascalCase", default)]
pub struct NetworkConnect {
    /// The container's name or id.
    #[serde(deserialize_with = "null_default")]
    pub container: String,
    /// How.
    pub endpoint_config: Option<EndpointSettings>,
}

/// A container is to be disconnected from a network.
#[derive(Serialize, Deserialize, Debug, Clone, Default)]
#[serde(rename_all = "PascalCase", default)]
pub struct NetworkDisconnect {
    /// The container's name or id.
    #[serde(deserialize_with = "null_default")]
    pub container: String,
    /// Even if the container is not there.
    #[serde(deserialize_with = "null_default")]
    pub force: bool,
}

/// What a pruning has removed.
#[derive(Serialize, Deserialize, Debug, Clone, Default)]
#[serde(rename_all = "PascalCase", default)]
pub struct NetworksPruned {
    /// Names.
    pub networks_deleted: Option<Vec<String>>,
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
    #[serde(deserialize_with = "null_default")]
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
    #[serde(deserialize_with = "null_default")]
    pub subnet: String,
    /// `172.17.5.0/24`: where containers' addresses are taken from.
    #[serde(rename = "IPRange", skip_serializing_if = "String::is_empty", deserialize_with = "null_default")]
    pub ip_range: String,
    /// `172.17.0.1`.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_default")]
    pub gateway: String,
    /// Addresses that no container gets, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_default")]
    pub auxiliary_addresses: BTreeMap<String, String>,
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
