//! Who is called what, in which network, and what each container may know of it.
//!
//! A container is answered about the networks that it is in and about its own links. Within a network a name may belong
//! to several containers: all their addresses are told, beginning with another one each time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use super::wire::{self, Code, Data, NoQuery, Query};
use crate::spec::Endpoint;

/// How long clients may keep an answer, in seconds, as with Docker.
const SECONDS: u32 = 600;

/// What the server knows.
#[derive(Debug, Default)]
pub(crate) struct Zones {
    networks: BTreeMap<String, Network>,
    clients: BTreeMap<String, Client>,
    /// Whose turn it is to be named first.
    turn: usize,
}

#[derive(Debug, Default)]
struct Network {
    title: String,
    /// By container.
    members: BTreeMap<String, Member>,
}

#[derive(Debug)]
struct Member {
    names: Vec<String>,
    links: Vec<(String, String)>,
    addresses: Vec<IpAddr>,
}

/// A container that asks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Client {
    /// Who is asked what is not known here, in this order.
    pub(crate) servers: Vec<Server>,
}

/// A name server elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Server {
    /// Its address.
    pub address: SocketAddr,
    /// It is asked from the host, not from within the container: its address means something only there.
    pub from_host: bool,
}

/// What is to be done with a message.
#[derive(Debug, PartialEq)]
pub(crate) enum Decision {
    /// To be answered with this.
    Answer(Vec<u8>),
    /// Somebody else is to be asked.
    Forward(Query),
    /// Nothing.
    Ignore,
}

impl Zones {
    /// A network begins to have names.
    pub(crate) fn open(&mut self, network: &str, title: &str) {
        self.networks.entry(network.to_owned()).or_default().title = title.to_lowercase();
    }

    /// A network has no names any more.
    pub(crate) fn close(&mut self, network: &str) {
        self.networks.remove(network);
    }

    /// A container is in a network. Nothing happens if that has no names.
    pub(crate) fn enter(&mut self, key: &str, endpoint: &Endpoint) {
        let Some(network) = self.networks.get_mut(&endpoint.network) else { return };
        let addresses = [IpAddr::V4(endpoint.ip)].into_iter().chain(endpoint.v6.map(|(ip, _)| ip.into()));
        let member = Member {
            names: endpoint.names.iter().map(|n| n.to_lowercase()).collect(),
            links: endpoint.links.iter().map(|(a, b)| (a.to_lowercase(), b.to_lowercase())).collect(),
            addresses: addresses.collect(),
        };
        network.members.insert(key.to_owned(), member);
    }

    /// A container is in a network no more.
    pub(crate) fn leave(&mut self, key: &str, network: &str) {
        if let Some(network) = self.networks.get_mut(network) {
            network.members.remove(key);
        }
    }

    /// A container may ask.
    pub(crate) fn admit(&mut self, key: &str, client: Client) {
        self.clients.insert(key.to_owned(), client);
    }

    /// A container asks no more.
    pub(crate) fn dismiss(&mut self, key: &str) {
        self.clients.remove(key);
    }

    /// Whom to ask what is not known here.
    pub(crate) fn servers(&self, key: &str) -> Vec<Server> {
        self.clients.get(key).map(|c| c.servers.clone()).unwrap_or_default()
    }

    /// What becomes of a message from the container `key`, whose answer may have `limit` bytes; none: what the message
    /// says.
    pub(crate) fn decide(&mut self, key: &str, bytes: &[u8], limit: Option<usize>) -> Decision {
        let query = match wire::parse(bytes) {
            Ok(query) => query,
            Err(NoQuery::Ignore) => return Decision::Ignore,
            Err(NoQuery::Answer(answer)) => return Decision::Answer(answer),
        };
        match self.look_up(key, &query) {
            Some((code, data)) => {
                let limit = limit.unwrap_or_else(|| query.limit());
                Decision::Answer(query.answer(bytes, code, &data, SECONDS, limit))
            }
            None => Decision::Forward(query),
        }
    }

    /// What is known here; none if the name is none of ours.
    fn look_up(&mut self, key: &str, query: &Query) -> Option<(Code, Vec<Data>)> {
        if !query.internet {
            return None;
        }
        if query.kind == wire::PTR {
            let ip = wire::reverse(&query.name)?;
            let name = self.name_of(key, ip)?;
            return Some((Code::Good, vec![Data::Name(name)]));
        }
        let addresses = self.addresses(key, &query.name)?;
        let wanted = |ip: &IpAddr| match query.kind {
            wire::A => ip.is_ipv4(),
            wire::AAAA => ip.is_ipv6(),
            _ => false,
        };
        let mut wanted: Vec<IpAddr> = addresses.into_iter().filter(wanted).collect();
        // The name is ours, so nobody else is asked: of a type that it has nothing of, the answer is empty.
        if !wanted.is_empty() {
            let first = self.turn % wanted.len();
            wanted.rotate_left(first);
            self.turn = self.turn.wrapping_add(1);
        }
        Some((Code::Good, wanted.into_iter().map(Data::Address).collect()))
    }

    fn networks_of<'a>(&'a self, key: &'a str) -> impl Iterator<Item = (&'a Network, &'a Member)> {
        self.networks.values().filter_map(move |network| Some((network, network.members.get(key)?)))
    }

    /// The name that an address has in one of the networks of `key`.
    fn name_of(&self, key: &str, ip: IpAddr) -> Option<String> {
        self.networks_of(key).find_map(|(network, _)| {
            let member = network.members.values().find(|m| m.addresses.contains(&ip))?;
            let name = member.names.first()?;
            Some(if network.title.is_empty() { name.clone() } else { format!("{name}.{}", network.title) })
        })
    }

    /// The addresses of what `key` calls `name`: in any of its networks, or by `name.network` in that one.
    fn addresses(&self, key: &str, name: &str) -> Option<Vec<IpAddr>> {
        if name.is_empty() {
            return None;
        }
        let mut found = BTreeSet::new();
        let mut known = false;
        for (network, own) in self.networks_of(key) {
            let qualified = name.strip_suffix(network.title.as_str()).and_then(|n| n.strip_suffix('.'));
            for name in [Some(name), qualified.filter(|n| !n.is_empty())].into_iter().flatten() {
                let linked =
                    own.links.iter().filter(|(alias, _)| alias == name).map(|(_, target)| target.as_str());
                for name in linked.chain([name]) {
                    for member in network.members.values().filter(|m| m.names.iter().any(|n| n == name)) {
                        known = true;
                        found.extend(member.addresses.iter().copied());
                    }
                }
            }
        }
        known.then(|| found.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::Mac;
    use std::net::Ipv4Addr;

    fn endpoint(network: &str, n: u8, names: &[&str], links: &[(&str, &str)]) -> Endpoint {
        let ip = Ipv4Addr::new(10, 0, 0, n);
        Endpoint {
            network: network.into(),
            id: String::new(),
            interface: "eth0".into(),
            host_interface: "sv".into(),
            ip,
            prefix: 24,
            gateway: Ipv4Addr::new(10, 0, 0, 1),
            v6: (n == 3).then(|| ("fd00::3".parse().unwrap(), 64)),
            gateway6: None,
            mac: Mac::of(ip),
            ports: Vec::new(),
            default_route: true,
            names: names.iter().map(|n| (*n).to_owned()).collect(),
            links: links.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect(),
        }
    }

    fn zones() -> Zones {
        let mut zones = Zones::default();
        zones.open("n1", "front");
        zones.open("n2", "Back");
        zones.enter("a", &endpoint("n1", 2, &["web", "www"], &[("store", "db")]));
        zones.enter("b", &endpoint("n1", 3, &["DB", "www"], &[]));
        zones.enter("c", &endpoint("n2", 4, &["hidden"], &[]));
        zones.enter("d", &endpoint("unnamed", 5, &["nobody"], &[]));
        zones
    }

    /// What `key` is told about `name`.
    fn ask(zones: &mut Zones, key: &str, name: &str, kind: u16) -> String {
        let bytes = wire::question(1, name, kind, None);
        let query = wire::parse(&bytes).unwrap();
        match zones.look_up(key, &query) {
            None => "forward".into(),
            Some((code, data)) => {
                let texts = data.iter().map(|d| match d {
                    Data::Address(ip) => ip.to_string(),
                    Data::Name(name) => name.clone(),
                });
                format!("{code:?} {}", texts.collect::<Vec<_>>().join(" "))
            }
        }
    }

    #[test]
    fn names_are_those_of_ones_own_networks() {
        let mut zones = zones();
        for (key, name, kind, expected) in [
            ("a", "db", wire::A, "Good 10.0.0.3"),
            ("a", "DB", wire::AAAA, "Good fd00::3"),
            ("a", "web", wire::AAAA, "Good "),
            ("a", "web", 15, "Good "),
            ("a", "db.front", wire::A, "Good 10.0.0.3"),
            ("a", "store", wire::A, "Good 10.0.0.3"),
            ("b", "store", wire::A, "forward"),
            ("a", "hidden", wire::A, "forward"),
            ("a", "hidden.back", wire::A, "forward"),
            ("c", "hidden.back", wire::A, "Good 10.0.0.4"),
            ("c", "web", wire::A, "forward"),
            ("a", "nobody", wire::A, "forward"),
            ("x", "web", wire::A, "forward"),
            ("a", "3.0.0.10.in-addr.arpa", wire::PTR, "Good db.front"),
            ("c", "3.0.0.10.in-addr.arpa", wire::PTR, "forward"),
            ("a", "example.org", wire::A, "forward"),
        ] {
            assert_eq!(ask(&mut zones, key, name, kind), expected, "{key} asks for {name}");
        }
        zones.leave("b", "n1");
        assert_eq!(ask(&mut zones, "a", "db", wire::A), "forward");
    }

    #[test]
    fn a_shared_name_is_told_in_turns() {
        let mut zones = zones();
        let answers: BTreeSet<String> = (0..4).map(|_| ask(&mut zones, "a", "www", wire::A)).collect();
        assert_eq!(
            answers.into_iter().collect::<Vec<_>>(),
            ["Good 10.0.0.2 10.0.0.3", "Good 10.0.0.3 10.0.0.2"]
        );
    }
}
