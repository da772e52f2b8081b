//! nftables expressions: a rule is a list of them, each loading, comparing or acting on registers.
//!
//! Registers are 4 bytes wide and numbered from [`R0`]; a key of several parts lies in consecutive ones. A link's name
//! takes four of them: `Reg1` is the same 16 bytes as the four from [`R0`].

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use netlink_packet_core::DefaultNla;
use netlink_packet_netfilter::nftables::{
    Bitwise, Cmp, DataAttribute, ExpressionAttribute, Expressions, Immediate, ListAttribute, Lookup, Meta,
    MetaKey, Operator, Payload, Register, Verdict, VerdictAttribute,
};

use super::Family;

/// One expression.
pub(super) type Expr = ListAttribute<ExpressionAttribute>;

/// The first register.
pub(super) const R0: Register = Register::Reg32_00;
/// The second.
pub(super) const R1: Register = Register::Reg32_01;
/// The third.
pub(super) const R2: Register = Register::Reg32_02;
/// The sixth: behind a number and an IPv6 address.
pub(super) const R5: Register = Register::Reg32_05;

/// Bits of a connection's state, as `ct state` has them.
pub(super) const ESTABLISHED_OR_RELATED: u32 = 2 | 4;
/// The bit in a connection's status that says that its destination was changed.
pub(super) const DESTINATION_CHANGED: u32 = 1 << 5;

const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;

/// The packet's incoming or outgoing link by name, compared whole.
pub(super) fn link(key: MetaKey, operator: Operator, name: &str) -> [Expr; 2] {
    [meta(key, Register::Reg1), compare(Register::Reg1, operator, link_name(name))]
}

/// As [`link()`], but only the beginning of the name.
pub(super) fn link_prefix(key: MetaKey, prefix: &str) -> [Expr; 2] {
    [meta(key, Register::Reg1), compare(Register::Reg1, Operator::Equal, prefix.as_bytes().to_vec())]
}

/// The packet's incoming or outgoing link is in the set `set`.
pub(super) fn link_in(key: MetaKey, set: &str) -> [Expr; 2] {
    [meta(key, Register::Reg1), lookup(set, Register::Reg1, None)]
}

/// A link's name as sets and comparisons want it.
pub(super) fn link_name(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(16, 0);
    bytes
}

pub(super) fn meta(key: MetaKey, to: Register) -> Expr {
    Expressions::Meta(vec![Meta::Key(key), Meta::DestinationRegister(to)]).into()
}

pub(super) fn compare(register: Register, operator: Operator, data: Vec<u8>) -> Expr {
    Expressions::Cmp(vec![
        Cmp::SourceRegister(register),
        Cmp::Op(operator),
        Cmp::Data(DataAttribute::Value(data)),
    ])
    .into()
}

/// The packet's source address is in `net`.
pub(super) fn source_in(net: IpNet) -> [Expr; 3] {
    address_in(if net.addr().is_ipv4() { 12 } else { 8 }, net)
}

/// The packet's destination address is in `net`.
pub(super) fn destination_in(net: IpNet) -> [Expr; 3] {
    address_in(if net.addr().is_ipv4() { 16 } else { 24 }, net)
}

fn address_in(offset: u32, net: IpNet) -> [Expr; 3] {
    let bits = octets(net.netmask());
    let length = if net.addr().is_ipv4() { 4 } else { 16 };
    [payload(1, offset, length, R0), mask(bits), compare(R0, Operator::Equal, octets(net.network()))]
}

/// An address as registers hold it.
pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// Loads the packet's destination address.
pub(super) fn destination(family: Family, to: Register) -> Expr {
    match family {
        Family::V4 => payload(1, 16, 4, to),
        Family::V6 => payload(1, 24, 16, to),
    }
}

/// Loads the packet's destination port, of any protocol that has it where TCP does.
pub(super) fn destination_port(to: Register) -> Expr {
    payload(2, 2, 2, to)
}

fn payload(base: u32, offset: u32, length: u32, to: Register) -> Expr {
    Expressions::Payload(vec![
        Payload::DestinationRegister(to),
        Payload::Base(base),
        Payload::Offset(offset),
        Payload::Len(length),
    ])
    .into()
}

/// Keeps only `bits` of the first register, or of as many as they are long.
fn mask(bits: Vec<u8>) -> Expr {
    let zeros = vec![0; bits.len()];
    let length = if bits.len() > 4 { 16 } else { 4 };
    Expressions::Bitwise(vec![
        Bitwise::SourceRegister(R0),
        Bitwise::DestinationRegister(R0),
        Bitwise::Length(length),
        Bitwise::Mask(DataAttribute::Value(bits)),
        Bitwise::Xor(DataAttribute::Value(zeros)),
    ])
    .into()
}

/// Looks `from` up in a set, or in a map whose value goes to `to`.
pub(super) fn lookup(set: &str, from: Register, to: Option<Register>) -> Expr {
    let mut attributes = vec![Lookup::Set(set.to_owned()), Lookup::SourceRegister(from)];
    attributes.extend(to.map(Lookup::DestinationRegister));
    Expressions::Lookup(attributes).into()
}

/// The connection's state has one of `bits`.
pub(super) fn connection_state(bits: u32) -> [Expr; 3] {
    connection(0, bits)
}

/// The connection's status has one of `bits`.
pub(super) fn connection_status(bits: u32) -> [Expr; 3] {
    connection(2, bits)
}

fn connection(key: u32, bits: u32) -> [Expr; 3] {
    let load = other("ct", vec![number(2, key), number(1, u32::from(R0))]);
    [load, mask(bits.to_ne_bytes().to_vec()), compare(R0, Operator::NotEqual, vec![0; 4])]
}

/// The packet is for one of this host's own addresses.
pub(super) fn for_this_host() -> [Expr; 2] {
    const DESTINATION: u32 = 2;
    const ADDRESS_TYPE: u32 = 3;
    const LOCAL: u32 = 2;
    let load = other("fib", vec![number(1, u32::from(R0)), number(2, ADDRESS_TYPE), number(3, DESTINATION)]);
    [load, compare(R0, Operator::Equal, LOCAL.to_ne_bytes().to_vec())]
}

/// Changes the destination to the address that begins in the first register and the port behind it.
pub(super) fn change_destination(family: Family) -> Expr {
    const DESTINATION: u32 = 1;
    const IPV4: u32 = 2;
    const IPV6: u32 = 10;
    let (number_of_family, port) = match family {
        Family::V4 => (IPV4, R1),
        Family::V6 => (IPV6, Register::Reg32_04),
    };
    other(
        "nat",
        vec![
            number(1, DESTINATION),
            number(2, number_of_family),
            number(3, u32::from(R0)),
            number(5, u32::from(port)),
        ],
    )
}

/// Loads a value into the first register and what follows it.
pub(super) fn load(value: Vec<u8>, to: Register) -> Expr {
    Expressions::Immediate(vec![
        Immediate::DestinationRegister(to),
        Immediate::Data(DataAttribute::Value(value)),
    ])
    .into()
}

/// Changes the source to the outgoing link's address.
pub(super) fn masquerade() -> Expr {
    other("masq", Vec::new())
}

/// Counts packets and bytes, as every rule of iptables does.
pub(super) fn counter() -> Expr {
    other("counter", vec![DefaultNla::new(1, vec![0; 8]), DefaultNla::new(2, vec![0; 8])])
}

pub(super) fn accept() -> Expr {
    verdict(Verdict::Other(NF_ACCEPT))
}

pub(super) fn drop_packet() -> Expr {
    verdict(Verdict::Other(NF_DROP))
}

/// Back to the calling chain.
pub(super) fn go_back() -> Expr {
    verdict(Verdict::Return)
}

fn verdict(verdict: Verdict) -> Expr {
    Expressions::Immediate(vec![
        Immediate::DestinationRegister(Register::Verdict),
        Immediate::Data(DataAttribute::Verdict(vec![VerdictAttribute::Code(verdict)])),
    ])
    .into()
}

fn other(name: &str, attributes: Vec<DefaultNla>) -> Expr {
    Expressions::Other { expression_type: name.to_owned(), attributes }.into()
}

fn number(kind: u16, value: u32) -> DefaultNla {
    DefaultNla::new(kind, value.to_be_bytes().to_vec())
}

/// An address and a port as maps hold them.
pub(super) fn address_and_port(address: SocketAddr) -> Vec<u8> {
    [&octets(address.ip())[..], &address.port().to_be_bytes(), &[0, 0]].concat()
}
