//! Networks on disk and in memory.
//!
//! ```text
//! table "networks"    network id       -> JSON of NetworkRecord      (in <root>/engine.redb)
//! ```
//! Crash argument: the record is stored last when a network is made and removed first when it goes, each in one durable
//! transaction; bridges without a record are removed by the next daemon, records without a bridge get one.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use redb::TableDefinition;
use sampan_base::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::{EngineError, Result};
use crate::metadata::{Durable, Metadata};

pub(crate) const NETWORKS: TableDefinition<'static, &'static str, &'static [u8]> =
    TableDefinition::new("networks");

/// The options that are understood, as Docker calls them.
pub(crate) const OPTION_BRIDGE: &str = "com.docker.network.bridge.name";
pub(crate) const OPTION_ICC: &str = "com.docker.network.bridge.enable_icc";
pub(crate) const OPTION_MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";
pub(crate) const OPTION_HOST_BINDING: &str = "com.docker.network.bridge.host_binding_ipv4";
pub(crate) const OPTION_DEFAULT: &str = "com.docker.network.bridge.default_bridge";
pub(crate) const OPTION_MTU: &str = "com.docker.network.driver.mtu";

/// A network as it is stored.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct NetworkRecord {
    /// 64 hex digits.
    pub id: String,
    /// Its name: several may have the same.
    pub name: String,
    /// When it was made.
    pub created: Timestamp,
    /// `bridge`, `macvlan`, `cni`; of the two that are always there, `host` and `null`.
    pub driver: String,
    /// Its containers get IPv6 addresses.
    #[serde(default)]
    pub ipv6: bool,
    /// Without a way out.
    #[serde(default)]
    pub internal: bool,
    /// Meant for containers that are started by hand; only shown again.
    #[serde(default)]
    pub attachable: bool,
    /// Options of the driver.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// Labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// How addresses are given, as it was asked for or chosen.
    #[serde(default)]
    pub ipam: Ipam,
    /// Its bridge, or the host's link that it shares.
    #[serde(default)]
    pub link: String,
    /// Its IPv4 addresses; none: it has no endpoints of ours.
    #[serde(default)]
    pub v4: Option<Range<Ipv4Net, Ipv4Addr>>,
    /// Its IPv6 addresses.
    #[serde(default)]
    pub v6: Option<Range<Ipv6Net, Ipv6Addr>>,
}

/// Addresses of one family.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Range<N, A> {
    /// All of them.
    pub subnet: N,
    /// The bridge's, or the router's.
    pub gateway: A,
    /// Where containers' addresses are taken from; none: the subnet.
    pub range: Option<N>,
    /// What is given to nobody who does not ask for it.
    pub reserved: Vec<A>,
}

/// How addresses are given, as it is shown.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[serde(default)]
pub struct Ipam {
    /// `default`.
    pub driver: String,
    /// Its options.
    pub options: Option<BTreeMap<String, String>>,
    /// Its pools.
    pub pools: Vec<Pool>,
    /// They were chosen, not asked for.
    pub chosen: bool,
}

/// A pool of addresses, as it is shown.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[serde(default)]
pub struct Pool {
    /// `172.28.0.0/16`.
    pub subnet: String,
    /// A part of it.
    pub range: String,
    /// The bridge's address.
    pub gateway: String,
    /// Addresses that are given to nobody, by name.
    pub reserved: BTreeMap<String, String>,
}

impl NetworkRecord {
    /// Whether it is one of the three that are always there.
    pub fn is_predefined(&self) -> bool {
        self.is_default() || matches!(self.driver.as_str(), "host" | "null")
    }

    /// Whether it is the one of containers that name none.
    pub fn is_default(&self) -> bool {
        self.options.get(OPTION_DEFAULT).is_some_and(|value| value == "true")
    }

    /// Whether its containers find each other by name.
    pub fn has_names(&self) -> bool {
        !self.is_predefined()
    }

    pub(crate) fn flag(&self, option: &str, default: bool) -> bool {
        self.options
            .get(option)
            .map_or(default, |value| matches!(value.as_str(), "true" | "1" | "t" | "T" | "TRUE" | "True"))
    }

    /// The addresses that it takes.
    pub(crate) fn subnets(&self) -> impl Iterator<Item = IpNet> {
        let v4 = self.v4.as_ref().map(|r| IpNet::V4(r.subnet));
        v4.into_iter().chain(self.v6.as_ref().map(|r| IpNet::V6(r.subnet)))
    }

    /// Where ports are published whose host address is not given.
    pub(crate) fn host_binding(&self) -> Option<IpAddr> {
        self.options.get(OPTION_HOST_BINDING)?.parse().ok()
    }
}

/// All networks, by id.
#[derive(Debug, Default)]
pub(crate) struct Networks(BTreeMap<String, NetworkRecord>);

impl Networks {
    pub(crate) fn new(records: Vec<NetworkRecord>) -> Networks {
        Networks(records.into_iter().map(|record| (record.id.clone(), record)).collect())
    }

    pub(crate) fn insert(&mut self, record: NetworkRecord) {
        self.0.insert(record.id.clone(), record);
    }

    pub(crate) fn remove(&mut self, id: &str) {
        self.0.remove(id);
    }

    pub(crate) fn get(&self, id: &str) -> Option<&NetworkRecord> {
        self.0.get(id)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &NetworkRecord> {
        self.0.values()
    }

    /// The network of containers that name none.
    pub(crate) fn default_network(&self) -> Option<&NetworkRecord> {
        self.all().find(|network| network.is_default())
    }

    /// Finds a network by id, name or unique beginning of the id, in this order.
    pub(crate) fn find(&self, text: &str) -> Result<&NetworkRecord> {
        if let Some(network) = self.0.get(text) {
            return Ok(network);
        }
        let named: Vec<_> = self.all().filter(|network| network.name == text).collect();
        let beginning: Vec<_> =
            self.all().filter(|network| !text.is_empty() && network.id.starts_with(text)).collect();
        let ambiguous = |count: usize, by: &str| {
            EngineError::Invalid(format!("network {text} is ambiguous ({count} matches found based on {by})"))
        };
        match (named.as_slice(), beginning.as_slice()) {
            ([only], _) | ([], [only]) => Ok(only),
            ([], []) => Err(EngineError::NoSuchNetwork { name: text.to_owned() }),
            ([], many) => Err(ambiguous(many.len(), "ID prefix")),
            (many, _) => Err(ambiguous(many.len(), "name")),
        }
    }
}

impl Metadata {
    /// All networks.
    ///
    /// # Errors
    /// If the database can't be read.
    pub fn networks(&self) -> Result<Vec<NetworkRecord>> {
        self.all(NETWORKS, "network", |_, _, _| None)
    }

    /// Stores a network.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn put_network(&self, record: &NetworkRecord) -> Result<()> {
        self.put(NETWORKS, &record.id, record, Durable::Yes)
    }

    /// Forgets a network.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn remove_network(&self, id: &str) -> Result<()> {
        self.remove(NETWORKS, id, Durable::Yes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str, name: &str) -> NetworkRecord {
        serde_json::from_str(&format!(
            r#"{{"id":"{id}","name":"{name}","created":"2026-11-21T10:00:00Z","driver":"bridge"}}"#
        ))
        .unwrap()
    }

    /// A record as its first version wrote it: fields that came later must have defaults.
    #[test]
    fn reads_the_oldest_record() {
        assert!(record("a", "n").has_names());
    }

    #[test]
    fn networks_are_found_by_id_name_or_beginning() {
        let networks = Networks::new(vec![
            record("aab", "x"),
            record("aac", "aab"),
            record("d1", "twice"),
            record("d2", "twice"),
        ]);
        let find = |text: &str| networks.find(text).map(|n| n.id.clone()).map_err(|e| e.to_string());
        assert_eq!(find("aab").unwrap(), "aab");
        assert_eq!(find("x").unwrap(), "aab");
        assert_eq!(find("aac").unwrap(), "aac");
        assert_eq!(find("d1").unwrap(), "d1");
        assert_eq!(find("aa").unwrap_err(), "network aa is ambiguous (2 matches found based on ID prefix)");
        assert_eq!(find("twice").unwrap_err(), "network twice is ambiguous (2 matches found based on name)");
        assert_eq!(find("q").unwrap_err(), "network q not found");
    }
}
