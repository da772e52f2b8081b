//! What our tables are: a value from which all of both follows.
//!
//! ```text
//! table ip sampan, and table ip6 sampan likewise
//!   set bridges              our bridges' names
//!   map ports                protocol . host address . port -> address . port      published on one address
//!   map any_ports            protocol . port -> address . port                     published on all
//!   chain raw                prerouting -300   nobody on a bridge speaks to or from 127/8, ::1
//!   chain prerouting, output dstnat     -100   for this host's addresses: look up in ports, then any_ports
//!   chain postrouting        srcnat      100   a subnet's packets to elsewhere; loopback's to a bridge; a published
//!                                              port used from the subnet that it leads to
//!   chain forward            filter        0   to a bridge: answers, published ports, its own containers; else no
//! ```
//! The rules name no container: one that comes or goes is an element of a map that does. Established connections are
//! not touched by a replacement of the table, for the kernel keeps their translations with the connection.
//!
//! A `drop` of any table is final, an `accept` is not: other tables may still drop what ours accepts. See
//! [`crate::docker`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netlink_packet_core::{NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, DataAttribute, Hook, HookNumber, InetHookNumber, ListAttribute, MetaKey,
    NfTablesMessage, Operator, RuleAttribute, RuleMessage, SetAttribute, SetElementAttribute, SetElementList,
    SetElementMessage, SetFlags, SetMessage, TableAttribute, TableMessage,
};

use super::Family;
use super::expr::{self, Expr, R0, R1, R2};
use crate::spec::Protocol;

const BRIDGES: &str = "bridges";
const PORTS: &str = "ports";
const ANY_PORTS: &str = "any_ports";
/// nft's numbers for the types of keys; the kernel only stores them, for nft to print.
const TYPE_ADDRESS: u32 = 7;
const TYPE_ADDRESS6: u32 = 8;
const TYPE_PROTOCOL: u32 = 12;
const TYPE_PORT: u32 = 13;
const TYPE_LINK: u32 = 41;

/// All of our tables.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Ruleset {
    pub(crate) table: String,
    /// Whether this kernel has IPv6.
    pub(crate) v6: bool,
    pub(crate) networks: Vec<NetworkRules>,
    pub(crate) published: Vec<Published>,
}

/// What the rules say of one network.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct NetworkRules {
    pub(crate) bridge: String,
    pub(crate) subnet: Ipv4Net,
    pub(crate) subnet6: Option<Ipv6Net>,
    /// No way out, no way in.
    pub(crate) internal: bool,
    /// Its containers may speak to each other.
    pub(crate) between_containers: bool,
    /// What leaves it has the host's address.
    pub(crate) masquerade: bool,
}

impl NetworkRules {
    fn subnet(&self, family: Family) -> Option<IpNet> {
        match family {
            Family::V4 => Some(self.subnet.into()),
            Family::V6 => self.subnet6.map(IpNet::from),
        }
    }
}

/// One published port. Both addresses are of one family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Published {
    pub(crate) protocol: Protocol,
    /// 0.0.0.0 is every address of the host, `::` every IPv6 one.
    pub(crate) host: SocketAddr,
    pub(crate) to: SocketAddr,
}

/// A message of a transaction, with its table's family and its flags.
pub(crate) type Step = (Family, NfTablesMessage, u16);

impl Ruleset {
    /// The families that have a table.
    fn families(&self) -> &'static [Family] {
        if self.v6 { &[Family::V4, Family::V6] } else { &[Family::V4] }
    }

    fn half(&self, family: Family) -> Half<'_> {
        Half { all: self, family }
    }

    /// The steps that put the tables in place of what is there, if anything is.
    pub(crate) fn replace(&self) -> Vec<Step> {
        let mut steps: Vec<Step> =
            self.families().iter().flat_map(|family| self.half(*family).replace()).collect();
        steps.extend(self.add(&self.published));
        steps
    }

    /// The steps that publish `ports` beside those that are published.
    pub(crate) fn add(&self, ports: &[Published]) -> Vec<Step> {
        self.port_steps(ports, |message| {
            (NfTablesMessage::NewSetElement(message), NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL)
        })
    }

    /// The steps that take `ports` back.
    pub(crate) fn remove(&self, ports: &[Published]) -> Vec<Step> {
        self.port_steps(ports, |message| (NfTablesMessage::DeleteSetElement(message), NLM_F_ACK))
    }

    /// The steps that remove the tables, whether they are there or not.
    pub(crate) fn remove_tables(&self) -> Vec<Step> {
        let tables = self.families().iter().flat_map(|family| {
            let table = || TableMessage { attributes: vec![TableAttribute::Name(self.table.clone())] };
            [
                // Made in order to be deleted: deleting what is not there is an error.
                (*family, NfTablesMessage::NewTable(table()), NLM_F_ACK | NLM_F_CREATE),
                (*family, NfTablesMessage::DeleteTable(table()), NLM_F_ACK),
            ]
        });
        tables.collect()
    }

    fn port_steps(
        &self,
        ports: &[Published],
        step: impl Fn(SetElementMessage) -> (NfTablesMessage, u16),
    ) -> Vec<Step> {
        let mut steps = Vec::new();
        for family in self.families() {
            for (map, anywhere) in [(PORTS, false), (ANY_PORTS, true)] {
                let elements: Vec<_> = ports
                    .iter()
                    .filter(|p| {
                        Family::of(p.host.ip()) == *family && p.host.ip().is_unspecified() == anywhere
                    })
                    .map(|p| ListAttribute::Element(element(p)))
                    .collect();
                if !elements.is_empty() {
                    let (message, flags) = step(self.half(*family).elements(map, elements));
                    steps.push((*family, message, flags));
                }
            }
        }
        steps
    }
}

/// The table of one family.
struct Half<'a> {
    all: &'a Ruleset,
    family: Family,
}

impl Half<'_> {
    fn replace(&self) -> Vec<Step> {
        let table = || TableMessage { attributes: vec![TableAttribute::Name(self.all.table.clone())] };
        let (address, width) = match self.family {
            Family::V4 => (TYPE_ADDRESS, 4),
            Family::V6 => (TYPE_ADDRESS6, 16),
        };
        let value = (concat(&[address, TYPE_PORT]), width + 4);
        let mut steps = vec![
            (self.family, NfTablesMessage::NewTable(table()), NLM_F_ACK | NLM_F_CREATE),
            (self.family, NfTablesMessage::DeleteTable(table()), NLM_F_ACK),
            (self.family, NfTablesMessage::NewTable(table()), NLM_F_ACK | NLM_F_CREATE),
            self.set(1, BRIDGES, TYPE_LINK, 16, None),
            self.set(2, PORTS, concat(&[TYPE_PROTOCOL, address, TYPE_PORT]), width + 8, Some(value)),
            self.set(3, ANY_PORTS, concat(&[TYPE_PROTOCOL, TYPE_PORT]), 8, Some(value)),
        ];
        let bridges: Vec<_> = self
            .all
            .networks
            .iter()
            .map(|n| SetElementAttribute::Key(DataAttribute::Value(expr::link_name(&n.bridge))))
            .map(|key| ListAttribute::Element(vec![key]))
            .collect();
        if !bridges.is_empty() {
            let message = self.elements(BRIDGES, bridges);
            steps.push((self.family, NfTablesMessage::NewSetElement(message), NLM_F_ACK | NLM_F_CREATE));
        }
        steps.extend([
            self.chain("raw", "filter", InetHookNumber::PreRouting, -300),
            self.chain("prerouting", "nat", InetHookNumber::PreRouting, -100),
            self.chain("output", "nat", InetHookNumber::LocalOut, -100),
            self.chain("postrouting", "nat", InetHookNumber::PostRouting, 100),
            self.chain("forward", "filter", InetHookNumber::Forward, 0),
        ]);
        steps.extend(self.raw());
        steps.extend(self.destinations("prerouting"));
        steps.extend(self.destinations("output"));
        steps.extend(self.sources());
        steps.extend(self.forward());
        steps
    }

    fn loopback(&self) -> IpNet {
        match self.family {
            Family::V4 => Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8).into(),
            Family::V6 => Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128).into(),
        }
    }

    fn raw(&self) -> Vec<Step> {
        let loopback = self.loopback();
        let from_bridge = || expr::link_in(MetaKey::Iifname, BRIDGES).to_vec();
        vec![
            self.rule(
                "raw",
                [from_bridge(), expr::destination_in(loopback).to_vec(), vec![expr::drop_packet()]],
            ),
            self.rule("raw", [from_bridge(), expr::source_in(loopback).to_vec(), vec![expr::drop_packet()]]),
        ]
    }

    fn destinations(&self, chain: &str) -> Vec<Step> {
        let ours = || expr::for_this_host().to_vec();
        let port_at = match self.family {
            Family::V4 => R2,
            Family::V6 => expr::R5,
        };
        let one = vec![
            expr::meta(MetaKey::L4Proto, R0),
            expr::destination(self.family, R1),
            expr::destination_port(port_at),
            expr::lookup(PORTS, R0, Some(R0)),
            expr::change_destination(self.family),
        ];
        let any = vec![
            expr::meta(MetaKey::L4Proto, R0),
            expr::destination_port(R1),
            expr::lookup(ANY_PORTS, R0, Some(R0)),
            expr::change_destination(self.family),
        ];
        let mut steps = Vec::new();
        if self.family == Family::V6 && chain == "output" {
            // The kernel has no such packet leave the loopback. Left alone it is refused at once, and clients that try
            // `localhost` by both families go on to 127.0.0.1.
            let loopback = expr::destination_in(self.loopback()).to_vec();
            steps.push(self.rule(chain, [loopback, vec![expr::accept()]]));
        }
        steps.extend([self.rule(chain, [ours(), one]), self.rule(chain, [ours(), any])]);
        steps
    }

    fn sources(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for network in &self.all.networks {
            let Some(subnet) = network.subnet(self.family) else { continue };
            let out = |operator| expr::link(MetaKey::Oifname, operator, &network.bridge).to_vec();
            let from_subnet = || expr::source_in(subnet).to_vec();
            let masquerade = || vec![expr::masquerade()];
            if !network.internal && network.masquerade {
                steps.push(self.rule("postrouting", [from_subnet(), out(Operator::NotEqual), masquerade()]));
            }
            let from_loopback = expr::source_in(self.loopback()).to_vec();
            steps.push(self.rule("postrouting", [out(Operator::Equal), from_loopback, masquerade()]));
            // Without it the answer would go straight to the neighbour, from an address that it has not asked.
            let published = expr::connection_status(expr::DESTINATION_CHANGED).to_vec();
            steps.push(
                self.rule("postrouting", [out(Operator::Equal), from_subnet(), published, masquerade()]),
            );
        }
        steps
    }

    fn forward(&self) -> Vec<Step> {
        let to_bridges = || expr::link_in(MetaKey::Oifname, BRIDGES).to_vec();
        let from_bridges = || expr::link_in(MetaKey::Iifname, BRIDGES).to_vec();
        let answers = || expr::connection_state(expr::ESTABLISHED_OR_RELATED).to_vec();
        let published = || expr::connection_status(expr::DESTINATION_CHANGED).to_vec();
        let accept = || vec![expr::accept()];
        let mut steps = vec![
            self.rule("forward", [to_bridges(), answers(), accept()]),
            self.rule("forward", [from_bridges(), answers(), accept()]),
        ];
        for network in &self.all.networks {
            let from = || expr::link(MetaKey::Iifname, Operator::Equal, &network.bridge).to_vec();
            if network.between_containers {
                let to = expr::link(MetaKey::Oifname, Operator::Equal, &network.bridge).to_vec();
                steps.push(self.rule("forward", [from(), to, accept()]));
            }
            if network.internal {
                let to = expr::link(MetaKey::Oifname, Operator::Equal, &network.bridge).to_vec();
                steps.push(self.rule("forward", [from(), vec![expr::drop_packet()]]));
                steps.push(self.rule("forward", [to, vec![expr::drop_packet()]]));
            }
        }
        steps.push(self.rule("forward", [to_bridges(), published(), accept()]));
        steps.push(self.rule("forward", [to_bridges(), vec![expr::drop_packet()]]));
        steps
    }

    fn chain(&self, name: &str, kind: &str, hook: InetHookNumber, priority: i32) -> Step {
        (self.family, chain(&self.all.table, name, kind, hook, priority), NLM_F_ACK | NLM_F_CREATE)
    }

    fn rule(&self, chain: &str, parts: impl IntoIterator<Item = Vec<Expr>>) -> Step {
        let message = rule(&self.all.table, chain, parts.into_iter().flatten().collect());
        (self.family, message, NLM_F_ACK | NLM_F_CREATE | NLM_F_APPEND)
    }

    fn set(&self, id: u32, name: &str, key_type: u32, key_length: u32, data: Option<(u32, u32)>) -> Step {
        let mut attributes = vec![
            SetAttribute::Table(self.all.table.clone()),
            SetAttribute::Name(name.to_owned()),
            SetAttribute::Flags(if data.is_some() { SetFlags::Map } else { SetFlags::empty() }),
            SetAttribute::KeyType(key_type),
            SetAttribute::KeyLen(key_length),
            SetAttribute::Id(id),
        ];
        if key_type == TYPE_LINK {
            // For nft to print names: kind 0 (the key's byte order), length 4, the host's.
            let order = [&[0u8, 4][..], &1u32.to_ne_bytes()].concat();
            attributes.push(SetAttribute::UserData(order));
        }
        if let Some((data_type, length)) = data {
            attributes.push(SetAttribute::DataType(data_type));
            attributes.push(SetAttribute::DataLen(length));
        }
        (self.family, NfTablesMessage::NewSet(SetMessage { attributes }), NLM_F_ACK | NLM_F_CREATE)
    }

    fn elements(&self, set: &str, elements: Vec<ListAttribute<SetElementAttribute>>) -> SetElementMessage {
        SetElementMessage {
            attributes: vec![
                SetElementList::Table(self.all.table.clone()),
                SetElementList::Set(set.to_owned()),
                SetElementList::Elements(elements),
            ],
        }
    }
}

/// A chain on a hook.
pub(super) fn chain(
    table: &str,
    name: &str,
    kind: &str,
    hook: InetHookNumber,
    priority: i32,
) -> NfTablesMessage {
    NfTablesMessage::NewChain(ChainMessage {
        attributes: vec![
            ChainAttribute::Table(table.to_owned()),
            ChainAttribute::Name(name.to_owned()),
            ChainAttribute::Hook(vec![
                Hook::Number(HookNumber::Inet(hook)),
                Hook::Priority(priority.cast_unsigned()),
            ]),
            ChainAttribute::Type(kind.to_owned()),
            ChainAttribute::Policy(1), // accept: most packets are none of ours
        ],
    })
}

/// A rule of a chain.
pub(super) fn rule(table: &str, chain: &str, expressions: Vec<Expr>) -> NfTablesMessage {
    NfTablesMessage::NewRule(RuleMessage {
        attributes: vec![
            RuleAttribute::Table(table.to_owned()),
            RuleAttribute::Chain(chain.to_owned()),
            RuleAttribute::Expressions(expressions),
        ],
    })
}

/// An element's key and value. Each part of a key is padded to a whole register.
fn element(port: &Published) -> Vec<SetElementAttribute> {
    let protocol = [port.protocol.number(), 0, 0, 0].to_vec();
    let [high, low] = port.host.port().to_be_bytes();
    let host_port = [high, low, 0, 0].to_vec();
    let key = match port.host.ip() {
        any if any.is_unspecified() => [protocol, host_port].concat(),
        IpAddr::V4(ip) => [protocol, ip.octets().to_vec(), host_port].concat(),
        IpAddr::V6(ip) => [protocol, ip.octets().to_vec(), host_port].concat(),
    };
    vec![
        SetElementAttribute::Key(DataAttribute::Value(key)),
        SetElementAttribute::Data(DataAttribute::Value(expr::address_and_port(port.to))),
    ]
}

/// nft's number for a key of several parts: six bits each.
fn concat(types: &[u32]) -> u32 {
    types.iter().fold(0, |all, one| all << 6 | one)
}

/// Rules for a chain that is not ours: what goes to or comes from `bridge` is left to our own table, but for
/// what goes to a bridge that may be Docker's. In the order of their insertion, which is from the last to the first.
///
/// Only such expressions as iptables itself writes: with any other in it, iptables refuses to touch the table.
pub(crate) fn docker_user_rules(bridge: &str) -> Vec<Vec<Expr>> {
    let to = |name: &str| expr::link(MetaKey::Oifname, Operator::Equal, name).to_vec();
    let from = || expr::link(MetaKey::Iifname, Operator::Equal, bridge).to_vec();
    let end = |verdict: Expr| vec![expr::counter(), verdict];
    let rule = |parts: &[Vec<Expr>]| parts.concat();
    vec![
        rule(&[to(bridge), end(expr::accept())]),
        rule(&[from(), end(expr::accept())]),
        rule(&[from(), expr::link_prefix(MetaKey::Oifname, "br-").to_vec(), end(expr::go_back())]),
        rule(&[from(), to("docker0"), end(expr::go_back())]),
    ]
}
