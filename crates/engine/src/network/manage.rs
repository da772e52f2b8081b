//! Making, removing and pruning networks, and the three that are always there.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::Ipv4Net;
use sampan_base::Timestamp;
use sampan_net::{MacvlanMode, NetworkConfig, NetworkKind, Range6};

use super::ipam::{self, Addresses};
use super::records::{
    Ipam, NetworkRecord, OPTION_BRIDGE, OPTION_DEFAULT, OPTION_HOST_BINDING, OPTION_ICC, OPTION_MASQUERADE,
    OPTION_MTU, Pool, Range,
};
use crate::error::{EngineError, Result};
use crate::events::EventKind;
use crate::{Engine, EngineConfig, Inner, blocking};

/// How many networks there may be: each is a bridge, and the kernel's rules are tried one after the other.
const MAX_NETWORKS: usize = 4096;
/// The longest name.
const MAX_NAME_BYTES: usize = 255;
/// The option of macvlan that names the host's link.
const OPTION_PARENT: &str = "parent";
/// The option of macvlan that says who may speak to whom.
const OPTION_MACVLAN_MODE: &str = "macvlan_mode";

/// A network that is to be made.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NetworkRequest {
    /// Its name.
    pub name: String,
    /// Another network may have the same name.
    pub allow_duplicate: bool,
    /// `bridge` if empty.
    pub driver: String,
    /// Without a way out.
    pub internal: bool,
    /// Only shown again.
    pub attachable: bool,
    /// Its containers get no IPv4 addresses.
    pub without_ipv4: bool,
    /// Its containers get IPv6 addresses.
    pub ipv6: bool,
    /// How addresses are given.
    pub ipam: Ipam,
    /// Options of the driver.
    pub options: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// For services of a swarm, which this is not.
    pub for_swarm: bool,
    /// A network without containers, whose configuration others take.
    pub config_only: bool,
}

impl Engine {
    /// All networks, the oldest first.
    pub fn networks(&self) -> Vec<NetworkRecord> {
        let mut all: Vec<_> = self.inner.networks().all().cloned().collect();
        all.sort_by(|a, b| a.created.cmp(&b.created).then_with(|| a.id.cmp(&b.id)));
        all
    }

    /// The network of this id, name, or beginning of an id.
    ///
    /// # Errors
    /// If there is none, or more than one.
    pub fn network(&self, text: &str) -> Result<NetworkRecord> {
        self.inner.networks().find(text).cloned()
    }

    /// Makes a network and answers its id.
    ///
    /// # Errors
    /// If it makes no sense, meets another one, or the kernel refuses.
    pub async fn create_network(&self, request: NetworkRequest) -> Result<String> {
        let inner = Arc::clone(&self.inner);
        let record = blocking(move || create(&inner, request)).await?;
        self.inner.network_event("create", &record, []);
        Ok(record.id)
    }

    /// Removes a network that no running container is in.
    ///
    /// # Errors
    /// If there is none, it is always there, or somebody is in it.
    pub async fn remove_network(&self, text: &str) -> Result<()> {
        let inner = Arc::clone(&self.inner);
        let text = text.to_owned();
        let record = blocking(move || remove(&inner, &text)).await?;
        self.inner.network_event("destroy", &record, []);
        Ok(())
    }

    /// Removes the networks that `wanted` names and no container uses, and answers their names.
    ///
    /// # Errors
    /// Never; what can't be removed stays.
    pub async fn prune_networks(&self, wanted: impl Fn(&NetworkRecord) -> bool) -> Result<Vec<String>> {
        let mut removed = Vec::new();
        for network in self.networks() {
            if network.is_predefined() || !wanted(&network) || self.inner.uses_network(&network.id) {
                continue;
            }
            match self.remove_network(&network.id).await {
                Ok(()) => removed.push(network.name),
                Err(error) => {
                    tracing::warn!(network = network.name, error = sampan_base::chain(&error), "not pruned")
                }
            }
        }
        self.inner.prune_event(EventKind::Network, 0);
        Ok(removed)
    }
}

impl Inner {
    /// Tells of something that happened to a network.
    pub(crate) fn network_event<const N: usize>(
        &self,
        action: &str,
        network: &NetworkRecord,
        more: [(&str, &str); N],
    ) {
        let mut attributes = BTreeMap::from([
            ("name".to_owned(), network.name.clone()),
            ("type".to_owned(), network.driver.clone()),
        ]);
        attributes.extend(more.map(|(k, v)| (k.to_owned(), v.to_owned())));
        self.events.publish(EventKind::Network, action, &network.id, attributes);
    }

    /// Whether some container is in the network, or will be when it is started.
    fn uses_network(&self, id: &str) -> bool {
        self.containers().all().iter().any(|handle| {
            let view = handle.snapshot();
            view.record.spec.endpoints.contains_key(id)
        })
    }

    /// What the network crate calls the network `id`.
    pub(crate) fn net_name(&self, id: &str) -> String {
        let default = self.networks().get(id).is_some_and(NetworkRecord::is_default);
        if default { sampan_net::DEFAULT_NETWORK.to_owned() } else { id.to_owned() }
    }

    /// The id of what the network crate calls `name`.
    pub(crate) fn network_id(&self, name: &str) -> String {
        if name == sampan_net::DEFAULT_NETWORK {
            self.networks().default_network().map(|n| n.id.clone()).unwrap_or_default()
        } else {
            name.to_owned()
        }
    }
}

fn create(inner: &Inner, request: NetworkRequest) -> Result<NetworkRecord> {
    check(&request)?;
    // One after the other: they must not choose the same subnet.
    let _turn = inner.network_turn.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let driver = if request.driver.is_empty() { "bridge".to_owned() } else { request.driver.clone() };
    let taken: Vec<_> = {
        let networks = inner.networks();
        if !request.allow_duplicate && networks.all().any(|n| n.name == request.name) {
            return Err(EngineError::Conflict(format!("network with name {} already exists", request.name)));
        }
        if networks.all().count() >= MAX_NETWORKS {
            return Err(EngineError::Exhausted(format!("there are {MAX_NETWORKS} networks already")));
        }
        networks.all().flat_map(|n| n.subnets().collect::<Vec<_>>()).collect()
    };
    let routed = inner
        .net
        .routed_subnets()
        .map_err(|e| EngineError::layer(e.class(), "cannot choose addresses")(e))?;
    let seed = format!("{}\n{}", inner.config.root.display(), machine());
    let pools = &inner.config.address_pools;
    let chosen = ipam::decide(request.ipam, request.ipv6, &taken, &routed, pools, ipam::ula(&seed))?;
    let Addresses { v4, v6, ipam } = chosen;
    let id = sampan_base::id::random_id().map_err(EngineError::io("cannot make an id"))?;
    let link = match driver.as_str() {
        "macvlan" => request
            .options
            .get(OPTION_PARENT)
            .cloned()
            .filter(|parent| !parent.is_empty())
            .ok_or_else(|| {
                EngineError::Invalid("a macvlan network needs a link of the host: -o parent=eth0".to_owned())
            })?,
        "cni" => String::new(),
        // Not Docker's `br-…`, which its own rules treat as its own.
        _ => request.options.get(OPTION_BRIDGE).cloned().unwrap_or_else(|| format!("sb-{}", &id[..12])),
    };
    let record = NetworkRecord {
        id,
        name: request.name,
        created: Timestamp::now(),
        driver,
        ipv6: request.ipv6,
        internal: request.internal,
        attachable: request.attachable,
        options: request.options,
        labels: request.labels,
        ipam,
        link,
        v4: Some(v4),
        v6,
    };
    super::cni::check(inner, &record)?;
    if let Some(config) = config_of(&record)? {
        inner.net.add_network(config).map_err(refused)?;
    }
    if let Err(error) = inner.metadata.put_network(&record) {
        // Best effort: without a record, the next daemon removes it.
        let _ = inner.net.remove_network(&record.id);
        return Err(error);
    }
    inner.networks().insert(record.clone());
    Ok(record)
}

fn refused(error: sampan_net::OpenError) -> EngineError {
    match &error {
        sampan_net::OpenError::Invalid { reason, .. } => EngineError::Forbidden(reason.clone()),
        sampan_net::OpenError::Kernel { source, .. }
            if source.raw_os_error() == Some(rustix::io::Errno::OPNOTSUPP.raw_os_error()) =>
        {
            EngineError::Unsupported(format!(
                "{}: this host's kernel does not support it",
                sampan_base::chain(&error)
            ))
        }
        _ => EngineError::layer(error.class(), "cannot make the network")(error),
    }
}

/// What can be said against a request by itself.
fn check(request: &NetworkRequest) -> Result<()> {
    let name = request.name.trim();
    if name.is_empty() {
        return Err(EngineError::Invalid(format!("invalid name: {name}")));
    }
    if request.name.len() > MAX_NAME_BYTES {
        return Err(EngineError::Invalid(format!("invalid name: longer than {MAX_NAME_BYTES} bytes")));
    }
    if matches!(name, "bridge" | "host" | "none" | "default") || name.starts_with("container:") {
        return Err(EngineError::Forbidden(format!(
            "operation is not permitted on predefined {name} network "
        )));
    }
    if request.config_only {
        return Err(EngineError::Unsupported(
            "networks that only hold configuration are not supported".to_owned(),
        ));
    }
    if request.without_ipv4 {
        return Err(EngineError::Unsupported("networks without IPv4 are not supported".to_owned()));
    }
    match request.driver.as_str() {
        "" | "bridge" | "macvlan" | "cni" if !request.for_swarm => {}
        "overlay" | "" | "bridge" | "macvlan" => {
            return Err(EngineError::Unavailable(
                "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again."
                    .to_owned(),
            ));
        }
        "host" | "null" => {
            return Err(EngineError::Forbidden(format!(
                "only one instance of \"{}\" network is allowed",
                request.driver
            )));
        }
        "ipvlan" => {
            return Err(EngineError::Unsupported(
                "network driver `ipvlan` is not supported: use `macvlan` or `bridge`".to_owned(),
            ));
        }
        other => return Err(EngineError::NotFound(format!("plugin \"{other}\" not found"))),
    }
    for option in [OPTION_ICC, OPTION_MASQUERADE] {
        if let Some(value) = request.options.get(option)
            && !matches!(
                value.as_str(),
                "true" | "false" | "1" | "0" | "t" | "f" | "T" | "F" | "True" | "False" | "TRUE" | "FALSE"
            )
        {
            let what = format!("strconv.ParseBool: parsing \"{value}\": invalid syntax");
            return Err(EngineError::Invalid(format!("failed to parse {option} value: {value} ({what})")));
        }
    }
    if let Some(value) = request.options.get(OPTION_MTU)
        && value.parse::<u32>().ok().is_none_or(|mtu| mtu > 65_535)
    {
        let what = format!("strconv.Atoi: parsing \"{value}\": invalid syntax");
        return Err(EngineError::Invalid(format!("failed to parse {OPTION_MTU} value: {value} ({what})")));
    }
    Ok(())
}

fn machine() -> String {
    // A host without an id has one engine at this directory all the same.
    std::fs::read_to_string("/etc/machine-id").unwrap_or_default()
}

/// What the network crate is to make of a network; none of those that it has no part in.
fn config_of(record: &NetworkRecord) -> Result<Option<NetworkConfig>> {
    if matches!(record.driver.as_str(), "host" | "null" | "cni") {
        return Ok(None);
    }
    let Some(v4) = &record.v4 else { return Ok(None) };
    let name = if record.is_default() { sampan_net::DEFAULT_NETWORK } else { &record.id };
    let mut config = NetworkConfig::new(name, &record.link, v4.subnet);
    config.title.clone_from(&record.name);
    config.gateway = Some(v4.gateway);
    config.range = v4.range;
    config.reserved.clone_from(&v4.reserved);
    config.v6 = record.v6.as_ref().map(|v6| Range6 {
        subnet: v6.subnet,
        gateway: Some(v6.gateway),
        range: v6.range,
        reserved: v6.reserved.clone(),
    });
    config.internal = record.internal;
    config.between_containers = record.flag(OPTION_ICC, true);
    config.masquerade = record.flag(OPTION_MASQUERADE, true);
    config.mtu = record.options.get(OPTION_MTU).and_then(|mtu| mtu.parse().ok()).filter(|mtu| *mtu > 0);
    config.dns = record.has_names();
    if record.driver == "macvlan" {
        let mode = match record.options.get(OPTION_MACVLAN_MODE).map(String::as_str) {
            None | Some("" | "bridge") => MacvlanMode::Bridge,
            Some("private") => MacvlanMode::Private,
            Some("vepa") => MacvlanMode::Vepa,
            Some("passthru") => MacvlanMode::Passthru,
            Some(other) => return Err(EngineError::Invalid(format!("unknown macvlan mode `{other}`"))),
        };
        // `eth0.10`: VLAN 10 of eth0, if there is no link of that name.
        let vlan = record
            .link
            .rsplit_once('.')
            .and_then(|(link, number)| Some((link.to_owned(), number.parse().ok()?)));
        config.kind = NetworkKind::Macvlan { mode, vlan };
    }
    Ok(Some(config))
}

fn remove(inner: &Inner, text: &str) -> Result<NetworkRecord> {
    let _turn = inner.network_turn.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let record = inner.networks().find(text)?.clone();
    if record.is_predefined() {
        return Err(EngineError::Forbidden(format!(
            "{} is a pre-defined network and cannot be removed",
            record.name
        )));
    }
    if !inner.members_of(&record.id).is_empty() {
        return Err(EngineError::Forbidden(format!(
            "error while removing network: network {} id {} has active endpoints",
            record.name, record.id
        )));
    }
    inner.metadata.remove_network(&record.id)?;
    inner.networks().remove(&record.id);
    if let Err(error) = inner.net.remove_network(&record.id) {
        // It is no network any more; its bridge goes when the next daemon looks.
        tracing::warn!(network = record.name, error = sampan_base::chain(&error), "cannot remove the bridge");
    }
    Ok(record)
}

/// The networks as they are stored, and those that are always there, which are made or brought up to date.
pub(crate) fn load(
    metadata: &crate::metadata::Metadata,
    config: &EngineConfig,
) -> Result<Vec<NetworkRecord>> {
    let mut records = metadata.networks()?;
    for (name, driver) in [("bridge", "bridge"), ("host", "host"), ("none", "null")] {
        let there =
            records.iter().position(|r| if driver == "bridge" { r.is_default() } else { r.driver == driver });
        let mut record = match there {
            Some(at) => records.swap_remove(at),
            None => NetworkRecord {
                id: sampan_base::id::random_id().map_err(EngineError::io("cannot make an id"))?,
                name: name.to_owned(),
                created: Timestamp::now(),
                driver: driver.to_owned(),
                ipv6: false,
                internal: false,
                attachable: false,
                options: BTreeMap::new(),
                labels: BTreeMap::new(),
                ipam: Ipam { driver: "default".to_owned(), ..Ipam::default() },
                link: String::new(),
                v4: None,
                v6: None,
            },
        };
        let before = record.clone();
        if driver == "bridge" {
            settle_default(&mut record, config);
        }
        if there.is_none() || record != before {
            metadata.put_network(&record)?;
        }
        records.push(record);
    }
    Ok(records)
}

/// The default network is as the configuration says now.
fn settle_default(record: &mut NetworkRecord, config: &EngineConfig) {
    let subnet: Ipv4Net = config.subnet;
    // The address may say which one of the subnet is the bridge's, as Docker's `--bip` does.
    let own = subnet.addr();
    let gateway: Ipv4Addr = if own == subnet.network() { subnet.hosts().next().unwrap_or(own) } else { own };
    record.link.clone_from(&config.bridge);
    record.v4 = Some(Range { subnet: subnet.trunc(), gateway, range: None, reserved: Vec::new() });
    let pool = Pool { subnet: subnet.trunc().to_string(), gateway: gateway.to_string(), ..Pool::default() };
    record.ipam.pools = vec![pool];
    record.ipam.chosen = true;
    for (option, value) in [
        (OPTION_DEFAULT, "true"),
        (OPTION_ICC, "true"),
        (OPTION_MASQUERADE, "true"),
        (OPTION_HOST_BINDING, "0.0.0.0"),
        (OPTION_BRIDGE, &config.bridge),
        (OPTION_MTU, "1500"),
    ] {
        record.options.insert(option.to_owned(), value.to_owned());
    }
}

/// The networks for the network crate. One that can't be read is told of and left out.
pub(crate) fn configs(records: &[NetworkRecord]) -> Vec<NetworkConfig> {
    let mut configs = Vec::new();
    for record in records {
        match config_of(record) {
            Ok(Some(mut network)) => {
                // The largest packet is that of the host's way out, whatever is shown.
                if record.is_default() {
                    network.mtu = None;
                }
                configs.push(network);
            }
            Ok(None) => {}
            Err(error) => tracing::error!(
                network = record.name,
                error = sampan_base::chain(&error),
                "a network is left out"
            ),
        }
    }
    configs
}
