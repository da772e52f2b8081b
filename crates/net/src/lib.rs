//! Container networks: bridges, addresses, published ports.
//!
//! ```text
//!   container                      host
//!   eth0 172.30.0.2  == veth ==  sv4f0a…  --+-- sampan0 172.30.0.1 -- forwarding, NAT -- the world
//!   eth0 172.30.0.3  == veth ==  sv91bc…  --+
//! ```
//! A container's network namespace is a file that outlives daemons: [`Net::create_namespace`], to be made ahead of
//! time. Of a container in a user namespace it belongs to that, which is a file beside it:
//! [`Net::create_mapped_namespace`]. [`Net::attach`] gives it a link to a network's bridge, an address, routes, and published ports;
//! [`Net::detach`] takes them back; [`Net::reconcile`] removes what a killed daemon has left.
//!
//! * [`NetConfig`], [`NetworkConfig`], [`EndpointSpec`], [`Endpoint`], [`PortMapping`]: what is asked for and told.
//! * [`Net`], [`OpenError`], [`NamespaceError`]: an instance, its networks and namespaces.
//! * [`AttachError`], [`DetachError`]: an endpoint's life; `switch`: its changes. [`LinkCounters`]: what went through.
//! * [`dns`]: the server by which containers find each other.
//! * [`Reconciled`]: what was mended. `watch`: rules that somebody takes away are put back at once.
//! * `records`: what is on disk. `nft`: the packet filter. `docker`: other owners of rules. `ports`: reserved ports.
//!   `bridges`: a network's link on the host. `pool`: namespaces made ahead. `links`, `conntrack`, `netlink`: the kernel's side.
//!
//! Everything is over netlink and synchronous; no program is run, and no tokio. Several instances live side by side if
//! their state directories, tables, bridges and subnets differ.

mod attach;
mod bridges;
mod conntrack;
mod counters;
pub mod dns;
mod docker;
mod links;
mod names;
mod net;
mod netlink;
mod nft;
mod pool;
mod ports;
mod reconcile;
mod records;
mod spec;
mod switch;
mod watch;

pub use attach::{AttachError, DetachError};
pub use counters::LinkCounters;
pub use dns::NamesError;
pub use dns::zones::Server as NameServer;
pub use names::{InvalidMac, Mac};
pub use net::{MappedNamespace, NamespaceError, Net, OpenError};
pub use reconcile::Reconciled;
pub use spec::{
    DEFAULT_NETWORK, Endpoint, EndpointSpec, MacvlanMode, NetConfig, NetworkConfig, NetworkKind, PortMapping,
    Protocol, Range6,
};
