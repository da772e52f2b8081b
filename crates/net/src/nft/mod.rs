//! The packet filter: what our tables shall be ([`rules`]), and putting them into the kernel ([`table`]).
//!
//! * [`expr`]: the expressions that rules are made of. [`resolver`]: the small table in a container's own namespace.

mod expr;
pub(crate) mod resolver;
pub(crate) mod rules;
pub(crate) mod table;

/// The two families of addresses, each with a table of its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub(crate) fn of(address: std::net::IpAddr) -> Family {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }
}
