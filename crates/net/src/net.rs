//! [`Net`]: one instance's networks, from opening to removal.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use sampan_base::files::create_directories;
use sampan_base::{Class, FileError, error::class_of_io};
use sampan_kernel::netns;
use sampan_kernel::userns::Maps;

use crate::attach::Departure;
use crate::bridges::{MadeLinks, forward_packets};
use crate::conntrack::Connections;
use crate::dns::server::Names;
use crate::docker;
use crate::links::Links;
use crate::names::{is_key, is_table_name};
use crate::nft::rules::{NetworkRules, Published, Ruleset};
use crate::nft::table::Tables;
use crate::pool::{self, Pool};
use crate::records::{EndpointId, Records};
use crate::spec::{Endpoint, NetConfig, NetworkConfig, NetworkKind};
use crate::watch::Watch;

/// How many are kept until someone asks: the same trouble at each attachment need not fill the memory.
const MAX_COMPLAINTS: usize = 100;

/// One instance's networks: bridges, namespaces, endpoints, rules.
///
/// It works in the network namespace of the thread that opened it, and must be used from threads in that one. All
/// methods may be called from several threads; they take turns.
#[derive(Debug)]
pub struct Net {
    pub(crate) shared: Arc<Shared>,
    /// Ends before what it looks after.
    watch: Option<Watch>,
}

/// What the threads that delete links share with their [`Net`].
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) state: PathBuf,
    inner: Mutex<Inner>,
    /// Told when an endpoint has left [`Inner::leaving`], and when a thread has ended.
    pub(crate) changed: Condvar,
    /// Who is called what.
    pub(crate) names: Names,
    /// Network namespaces made ahead.
    pub(crate) pool: Pool,
    /// Locked for as long as we live: two owners would hand out one address twice.
    _lock: File,
}

/// What is behind the lock.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) table: String,
    /// Whether this kernel has IPv6.
    pub(crate) v6: bool,
    pub(crate) networks: BTreeMap<String, NetworkConfig>,
    pub(crate) records: Records,
    /// Endpoints whose links are being deleted, without the lock. Whoever wants one of them waits.
    pub(crate) leaving: BTreeSet<EndpointId>,
    /// Those of them that no thread has taken on yet.
    pub(crate) departures: VecDeque<Departure>,
    /// How many threads delete links.
    pub(crate) threads: usize,
    /// The sockets that reserve each endpoint's ports.
    pub(crate) reserved: BTreeMap<EndpointId, Vec<OwnedFd>>,
    /// Bridges and VLANs that were made for networks, and go with them; others of the host's are used, and stay.
    pub(crate) made: MadeLinks,
    /// The bridges that have been set up since we began, by number: an attachment need not do it again.
    pub(crate) settled: BTreeMap<String, u32>,
    /// The kernel tells us when somebody takes our rules away, so an attachment need not look.
    pub(crate) watched: bool,
    pub(crate) links: Links,
    pub(crate) tables: Tables,
    pub(crate) connections: Connections,
    /// What went wrong without being anyone's error, until the next reconciliation tells.
    pub(crate) complaints: Vec<String>,
}

/// Networks that can't be opened or added.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The state directory can't be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// Another process owns the state directory.
    #[error("`{}` is in use by another process", state.display())]
    InUse {
        /// The state directory.
        state: PathBuf,
    },
    /// A name or subnet that makes no sense, or meets another network's.
    #[error("invalid network `{network}`: {reason}")]
    Invalid {
        /// The network.
        network: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The kernel refused something.
    #[error("cannot {action}")]
    Kernel {
        /// What was tried on what.
        action: String,
        /// Why.
        source: io::Error,
    },
}

impl OpenError {
    /// The class to report.
    pub fn class(&self) -> Class {
        match self {
            OpenError::File(error) => error.class(),
            OpenError::InUse { .. } => Class::Conflict,
            OpenError::Invalid { .. } => Class::Invalid,
            OpenError::Kernel { source, .. } => class_of_io(source),
        }
    }

    pub(crate) fn on(action: impl Into<String>) -> impl FnOnce(io::Error) -> OpenError {
        let action = action.into();
        move |source| OpenError::Kernel { action, source }
    }
}

/// The files that keep a network namespace and the user namespace that it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappedNamespace {
    /// The network namespace's.
    pub network: PathBuf,
    /// The user namespace's.
    pub user: PathBuf,
}

/// A network namespace that can't be made or removed.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// The key can't be a file's name.
    #[error("`{key}` cannot name a network namespace")]
    InvalidKey {
        /// As given.
        key: String,
    },
    /// There is one of that name.
    #[error("network namespace `{key}` exists already")]
    Exists {
        /// Its key.
        key: String,
    },
    /// The kernel refused.
    #[error("cannot {action} network namespace `{}`", path.display())]
    Kernel {
        /// What was tried.
        action: &'static str,
        /// Its file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl NamespaceError {
    /// The class to report.
    pub fn class(&self) -> Class {
        match self {
            NamespaceError::InvalidKey { .. } => Class::Invalid,
            NamespaceError::Exists { .. } => Class::Conflict,
            NamespaceError::Kernel { source, .. } => class_of_io(source),
        }
    }
}

impl Net {
    /// Opens the networks of `config`: makes bridges that are missing, and puts the rules in place for all endpoints
    /// that are recorded. Containers of a daemon that was killed keep their connections meanwhile.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(config: NetConfig) -> Result<Net, OpenError> {
        let NetConfig { state, table, networks } = config;
        create_directories(&state.join("netns"), 0o711)?;
        create_directories(&state.join("userns"), 0o711)?;
        create_directories(&state.join("dns"), 0o700)?;
        let path = state.join("lock");
        let lock = File::options().write(true).create(true).truncate(false).open(&path);
        let lock = lock.map_err(FileError::on("open", &path))?;
        if !sampan_base::files::lock(&lock).map_err(FileError::on("lock", path))? {
            return Err(OpenError::InUse { state });
        }
        if !is_table_name(&table) {
            return Err(OpenError::Invalid { network: table, reason: "not a table's name".into() });
        }
        let (records, complaints) = Records::load(state.join("endpoints"))?;
        let mut inner = Inner {
            table,
            v6: Path::new("/proc/sys/net/ipv6").exists(),
            networks: BTreeMap::new(),
            records,
            leaving: BTreeSet::new(),
            departures: VecDeque::new(),
            threads: 0,
            reserved: BTreeMap::new(),
            made: MadeLinks::load(state.join("links"))?,
            settled: BTreeMap::new(),
            watched: false,
            links: Links::open().map_err(OpenError::on("open a netlink socket"))?,
            tables: Tables::open().map_err(OpenError::on("open a netlink socket"))?,
            connections: Connections::open().map_err(OpenError::on("open a netlink socket"))?,
            complaints,
        };
        forward_packets().map_err(OpenError::on("let the kernel forward packets"))?;
        let names = Names::new().map_err(OpenError::on("begin to serve names"))?;
        for network in networks {
            let (name, title) = (network.name.clone(), network.title.clone());
            let has_names = network.dns;
            match inner.admit_network(network) {
                Ok(()) if has_names => names.zones().open(&name, &title),
                Ok(()) => {}
                Err(error) if name == crate::spec::DEFAULT_NETWORK => return Err(error),
                // One network that can't be had must not take the others away.
                Err(error) => inner.complain(sampan_base::chain(&error)),
            }
        }
        // A daemon that was killed while it made or removed a network has left its link.
        for link in inner.made.all() {
            if !inner.networks.values().any(|n| n.bridge == link)
                && let Err(error) = inner.remove_link(&link)
            {
                inner.complain(format!("link `{link}` that no network has: {error}"));
            }
        }
        for ((key, _), endpoint) in inner.records.iter() {
            names.zones().enter(key, endpoint);
        }
        inner.apply().map_err(OpenError::on("put nftables rules in place"))?;
        inner.reserve_again();
        let shared = Arc::new(Shared {
            state,
            inner: Mutex::new(inner),
            changed: Condvar::new(),
            names,
            pool: Pool::default(),
            _lock: lock,
        });
        let watch = Watch::start(&shared);
        if let Err(error) = &watch {
            shared.lock().complain(format!("cannot watch over the rules: {error}"));
        }
        shared.lock().watched = watch.is_ok();
        let net = Net { shared, watch: watch.ok() };
        net.serve_names_again();
        Ok(net)
    }

    /// Adds a network.
    ///
    /// # Errors
    /// If its name, bridge or addresses are another's, or the kernel refuses.
    pub fn add_network(&self, network: NetworkConfig) -> Result<(), OpenError> {
        let (name, title, has_names) = (network.name.clone(), network.title.clone(), network.dns);
        let mut inner = self.shared.lock();
        inner.admit_network(network)?;
        if has_names {
            self.shared.names.zones().open(&name, &title);
        }
        inner.apply().map_err(OpenError::on("put nftables rules in place"))
    }

    /// The subnets that this host already has routes to, so that a new network takes others.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub fn routed_subnets(&self) -> Result<Vec<ipnet::IpNet>, OpenError> {
        let mut inner = self.shared.lock();
        inner.links.routed().map_err(OpenError::on("list the host's routes"))
    }

    /// Removes a network that nobody is attached to, and its bridge. No error if there is no such network. Those that are
    /// just leaving it ([`Net::detach_soon`]) are waited for.
    ///
    /// # Errors
    /// If someone is attached to it, or the kernel refuses.
    pub fn remove_network(&self, name: &str) -> Result<(), OpenError> {
        let mut inner =
            self.shared.lock_when(|inner| !inner.leaving.iter().any(|(_, network)| network == name));
        if let Some(((key, _), _)) = inner.records.iter().find(|((_, n), _)| n == name) {
            let reason = format!("{key} is attached to it");
            return Err(OpenError::Invalid { network: name.to_owned(), reason });
        }
        let Some(network) = inner.networks.remove(name) else { return Ok(()) };
        self.shared.names.zones().close(name);
        if let NetworkKind::Macvlan { vlan, .. } = &network.kind {
            let shared = inner.networks.values().any(|n| n.bridge == network.bridge);
            let ours = vlan.is_some() && !shared;
            let deleted = if ours { inner.remove_link(&network.bridge) } else { Ok(()) };
            return deleted.map_err(OpenError::on(format!("remove link `{}`", network.bridge)));
        }
        inner.apply().map_err(OpenError::on("put nftables rules in place"))?;
        let table = inner.table.clone();
        docker::withdraw(&mut inner.tables, &table, Some(&network.bridge))
            .map_err(OpenError::on("take rules out of DOCKER-USER"))?;
        inner
            .remove_link(&network.bridge)
            .map_err(OpenError::on(format!("remove bridge `{}`", network.bridge)))
    }

    /// The networks there are.
    pub fn networks(&self) -> Vec<NetworkConfig> {
        self.shared.lock().networks.values().cloned().collect()
    }

    /// Makes a network namespace with only `lo` in it. It lives by the file that is returned until
    /// [`Net::remove_namespace`], whoever dies.
    ///
    /// # Errors
    /// See [`NamespaceError`].
    pub fn create_namespace(&self, key: &str) -> Result<PathBuf, NamespaceError> {
        let path = self.namespace(key)?;
        let made = self.shared.pool.take(None).and_then(|made| netns::keep(&made.network, &path));
        kept(key, path, made)
    }

    /// As [`Net::create_namespace`], in a user namespace that is made with it and lives as long, with the mapping `maps`.
    ///
    /// # Errors
    /// See [`NamespaceError`]. Nothing is left then.
    pub fn create_mapped_namespace(&self, key: &str, maps: &Maps) -> Result<MappedNamespace, NamespaceError> {
        let (path, user) = (self.namespace(key)?, self.user_namespaces().join(key));
        let made = self.shared.pool.take(Some(maps)).and_then(|made| {
            let owner = made.user.ok_or_else(|| io::Error::other("it was made without a user namespace"))?;
            netns::keep(&owner, &user)?;
            netns::keep(&made.network, &path).inspect_err(|_| {
                // What stays goes with the next reconciliation.
                let _ = netns::remove(&user);
            })
        });
        Ok(MappedNamespace { network: kept(key, path, made)?, user })
    }

    /// As [`Net::create_namespace`], in the user namespace `owner` of somebody else's.
    ///
    /// # Errors
    /// See [`NamespaceError`].
    pub fn create_namespace_in(&self, key: &str, owner: &File) -> Result<PathBuf, NamespaceError> {
        let path = self.namespace(key)?;
        let made = pool::make_in(owner).and_then(|network| netns::keep(&network, &path));
        kept(key, path, made)
    }

    /// Makes some network namespaces ahead, behind the caller's back; with `maps`, those of mapped ones.
    pub fn prepare_namespaces(&self, maps: Option<&Maps>, count: usize) {
        self.shared.pool.prepare(maps, count);
    }

    /// Removes a network namespace's file, and that of the user namespace that was made with it; no error if there is none.
    /// They end with the last process in them.
    ///
    /// # Errors
    /// See [`NamespaceError`].
    pub fn remove_namespace(&self, key: &str) -> Result<(), NamespaceError> {
        let path = self.namespace(key)?;
        if self.shared.names.serves(key) {
            self.stop_names(key);
        }
        let user = self.user_namespaces().join(key);
        for path in [path, user] {
            netns::remove(&path).map_err(|source| NamespaceError::Kernel {
                action: "remove",
                path,
                source,
            })?;
        }
        Ok(())
    }

    /// Where the namespace of `key` is or would be.
    ///
    /// # Errors
    /// If the key can't be a file's name.
    pub fn namespace(&self, key: &str) -> Result<PathBuf, NamespaceError> {
        if is_key(key) {
            Ok(self.namespaces().join(key))
        } else {
            Err(NamespaceError::InvalidKey { key: key.chars().take(100).collect() })
        }
    }

    /// The endpoints of `key`, in each network that it is attached to and is not leaving.
    pub fn endpoints(&self, key: &str) -> Vec<Endpoint> {
        let inner = self.shared.lock();
        let ids = inner.records.of_key(key).into_iter().filter(|id| !inner.leaving.contains(id));
        ids.filter_map(|id| inner.records.get(&id)).cloned().collect()
    }

    pub(crate) fn namespaces(&self) -> PathBuf {
        self.shared.state.join("netns")
    }

    pub(crate) fn user_namespaces(&self) -> PathBuf {
        self.shared.state.join("userns")
    }
}

/// What became of keeping a namespace at `path`.
fn kept(key: &str, path: PathBuf, made: io::Result<()>) -> Result<PathBuf, NamespaceError> {
    match made {
        Ok(()) => Ok(path),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            Err(NamespaceError::Exists { key: key.to_owned() })
        }
        Err(source) => Err(NamespaceError::Kernel { action: "create", path, source }),
    }
}

impl Drop for Net {
    /// Waits for the links that are being deleted; then another may open the same state.
    fn drop(&mut self) {
        self.watch = None;
        self.shared.pool.close();
        drop(self.shared.lock_when(|inner| inner.threads == 0));
    }
}

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        // What is behind the lock is only a view of the disk and the kernel, and stays one when a caller panics.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lock, once `reached` is so.
    pub(crate) fn lock_when(&self, reached: impl Fn(&Inner) -> bool) -> MutexGuard<'_, Inner> {
        self.changed.wait_while(self.lock(), |inner| !reached(inner)).unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Puts the rules in place, for all networks and all recorded endpoints, in one step.
    pub(crate) fn apply(&mut self) -> io::Result<()> {
        let steps = self.ruleset().replace();
        self.tables.commit(steps)?;
        self.admit_to_docker();
        Ok(())
    }

    /// Docker's chain is Docker's: that it can't be changed must not keep our containers from running.
    pub(crate) fn admit_to_docker(&mut self) {
        let bridges = self.networks.values().filter(|n| n.is_bridge()).map(|n| n.bridge.as_str());
        if let Err(error) = docker::admit(&mut self.tables, &self.table, bridges) {
            self.complain(format!("cannot insert rules into DOCKER-USER: {error}"));
        }
    }

    pub(crate) fn ruleset(&self) -> Ruleset {
        let networks = self.networks.values().filter(|n| n.is_bridge()).map(|n| NetworkRules {
            bridge: n.bridge.clone(),
            subnet: n.subnet,
            subnet6: n.v6.as_ref().map(|v6| v6.subnet),
            internal: n.internal,
            between_containers: n.between_containers,
            masquerade: n.masquerade,
        });
        Ruleset {
            table: self.table.clone(),
            v6: self.v6,
            networks: networks.collect(),
            published: self
                .records
                .iter()
                .filter(|(id, _)| !self.leaving.contains(id))
                .flat_map(|(_, endpoint)| published(endpoint))
                .collect(),
        }
    }

    /// Keeps `complaint` for the next reconciliation to tell.
    pub(crate) fn complain(&mut self, complaint: String) {
        if self.complaints.len() < MAX_COMPLAINTS {
            self.complaints.push(complaint);
        }
    }

    /// Binds the ports of endpoints that an earlier daemon has attached.
    pub(crate) fn reserve_again(&mut self) {
        for (id, endpoint) in self.records.iter() {
            if self.reserved.contains_key(id) || endpoint.ports.is_empty() {
                continue;
            }
            let mut sockets = Vec::new();
            for port in &endpoint.ports {
                match crate::ports::reserve(port.protocol, port.host()) {
                    Ok((socket, _)) => sockets.extend(socket),
                    Err(error) => self.complaints.push(format!(
                        "{}: published port {}/{} cannot be reserved again: {error}",
                        id.0,
                        port.host(),
                        port.protocol
                    )),
                }
            }
            self.reserved.insert(id.clone(), sockets);
        }
    }
}

/// An endpoint's published ports, as rules have them. One on an IPv6 address of the host leads nowhere if the endpoint
/// has none.
pub(crate) fn published(endpoint: &Endpoint) -> Vec<Published> {
    let of = |p: &crate::spec::PortMapping| {
        let ip: IpAddr = match p.host_ip {
            IpAddr::V4(_) => endpoint.ip.into(),
            IpAddr::V6(_) => endpoint.v6?.0.into(),
        };
        let to = std::net::SocketAddr::new(ip, p.container_port);
        Some(Published { protocol: p.protocol, host: p.host(), to })
    };
    endpoint.ports.iter().filter_map(of).collect()
}
