//! The table in a container's own namespace that leads 127.0.0.11:53 to where our DNS server listens.
//!
//! ```text
//! table ip sampan_dns
//!   chain output   dstnat -100   127.0.0.11 udp 53 -> 127.0.0.11:<port>, tcp likewise
//! ```
//! So that a container may itself serve names at 0.0.0.0:53, the server listens at another port.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::Ipv4Net;
use netlink_packet_core::{NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE};
use netlink_packet_netfilter::nftables::{
    InetHookNumber, MetaKey, NfTablesMessage, Operator, TableAttribute, TableMessage,
};

use super::Family;
use super::expr::{self, R0, R1};
use super::rules::{Step, chain, rule};
use crate::spec::Protocol;

const TABLE: &str = "sampan_dns";
/// Where containers look for names.
pub(crate) const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

/// The steps that put the table in place of what is there, for a server at `port`.
pub(crate) fn replace(port: u16) -> Vec<Step> {
    let table = || TableMessage { attributes: vec![TableAttribute::Name(TABLE.to_owned())] };
    let mut steps = vec![
        (Family::V4, NfTablesMessage::NewTable(table()), NLM_F_ACK | NLM_F_CREATE),
        (Family::V4, NfTablesMessage::DeleteTable(table()), NLM_F_ACK),
        (Family::V4, NfTablesMessage::NewTable(table()), NLM_F_ACK | NLM_F_CREATE),
        (Family::V4, chain(TABLE, "output", "nat", InetHookNumber::LocalOut, -100), NLM_F_ACK | NLM_F_CREATE),
    ];
    for protocol in [Protocol::Udp, Protocol::Tcp] {
        let mut expressions = expr::destination_in(Ipv4Net::from(ADDRESS).into()).to_vec();
        expressions.extend([
            expr::meta(MetaKey::L4Proto, R0),
            expr::compare(R0, Operator::Equal, vec![protocol.number()]),
            expr::destination_port(R0),
            expr::compare(R0, Operator::Equal, 53u16.to_be_bytes().to_vec()),
        ]);
        let to = expr::address_and_port(SocketAddr::new(IpAddr::V4(ADDRESS), port));
        expressions.extend([
            expr::load(to[..4].to_vec(), R0),
            expr::load(to[4..6].to_vec(), R1),
            expr::change_destination(Family::V4),
        ]);
        steps.push((Family::V4, rule(TABLE, "output", expressions), NLM_F_ACK | NLM_F_CREATE | NLM_F_APPEND));
    }
    steps
}
