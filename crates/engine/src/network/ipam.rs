//! Which addresses a network gets: what was asked for, checked, or else the first pool that nobody uses. Pure.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::records::{Ipam, Pool, Range};
use crate::error::{EngineError, Result};

/// The smallest subnet with room for a gateway and a container.
const LONGEST_PREFIX: u8 = 30;
/// The IPv6 subnet of a network that names none.
const PREFIX6: u8 = 64;
/// How many IPv6 subnets are tried.
const MAX_SUBNETS6: u128 = 1 << 16;

/// Subnets that networks without one of their own are taken from: all of `size` in `base`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressPool {
    /// All addresses.
    pub base: Ipv4Net,
    /// The prefix length of each network.
    pub size: u8,
}

/// Docker's pools.
pub(crate) fn default_pools() -> Vec<AddressPool> {
    let pool = |a, b, length, size| AddressPool {
        base: Ipv4Net::new_assert(Ipv4Addr::new(a, b, 0, 0), length),
        size,
    };
    let mut pools: Vec<_> = (17..20).map(|b| pool(172, b, 16, 16)).collect();
    pools.extend([20, 24, 28].map(|b| pool(172, b, 14, 16)));
    pools.push(pool(192, 168, 16, 20));
    pools
}

/// The addresses of a network.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Addresses {
    pub(crate) v4: Range<Ipv4Net, Ipv4Addr>,
    pub(crate) v6: Option<Range<Ipv6Net, Ipv6Addr>>,
    /// As it is shown: what was asked for, and what was chosen.
    pub(crate) ipam: Ipam,
}

/// Decides on a network's addresses. `taken` are those of other networks, which it must not meet; `routed` those that the
/// host has routes to, which it should not.
pub(crate) fn decide(
    ipam: Ipam,
    ipv6: bool,
    taken: &[IpNet],
    routed: &[IpNet],
    pools: &[AddressPool],
    ula: Ipv6Net,
) -> Result<Addresses> {
    let mut ipam = ipam;
    if ipam.driver.is_empty() {
        "default".clone_into(&mut ipam.driver);
    }
    if ipam.driver != "default" {
        return Err(EngineError::NotFound(format!("plugin \"{}\" not found", ipam.driver)));
    }
    let (mut v4, mut v6) = (None, None);
    for pool in &ipam.pools {
        if pool.subnet.is_empty() {
            if pool.gateway.is_empty() && pool.range.is_empty() && pool.reserved.is_empty() {
                continue;
            }
            return Err(EngineError::Invalid(
                "every ip-range or gateway must have a corresponding subnet".to_owned(),
            ));
        }
        let subnet: IpNet = parse(&pool.subnet, "subnet")?;
        if taken.iter().any(|other| overlap(subnet, *other)) {
            return Err(EngineError::Forbidden(
                "Pool overlaps with other one on this address space".to_owned(),
            ));
        }
        match subnet {
            IpNet::V4(subnet) if v4.is_none() => v4 = Some(range4(subnet.trunc(), pool)?),
            IpNet::V6(subnet) if v6.is_none() => v6 = Some(range6(subnet.trunc(), pool)?),
            other => {
                return Err(EngineError::Unsupported(format!(
                    "a network can't have two subnets of one family: {other} is the second"
                )));
            }
        }
    }
    let v4 = match v4 {
        Some(range) => range,
        None => {
            let range = choose(taken, routed, pools)?;
            ipam.chosen = true;
            let pool = Pool {
                subnet: range.subnet.to_string(),
                gateway: range.gateway.to_string(),
                ..Pool::default()
            };
            ipam.pools.retain(|pool| !pool.subnet.is_empty());
            ipam.pools.insert(0, pool);
            range
        }
    };
    let v6 = match v6 {
        _ if !ipv6 => None,
        Some(range) => Some(range),
        None => {
            let range = choose6(taken, routed, ula)?;
            ipam.pools.push(Pool {
                subnet: range.subnet.to_string(),
                gateway: range.gateway.to_string(),
                ..Pool::default()
            });
            Some(range)
        }
    };
    Ok(Addresses { v4, v6, ipam })
}

fn parse<T: std::str::FromStr>(text: &str, what: &str) -> Result<T> {
    text.parse()
        .map_err(|_| EngineError::Invalid(format!("Invalid {what} {text} : invalid CIDR address: {text}")))
}

fn address<T: std::str::FromStr>(text: &str, what: &str) -> Result<T> {
    text.parse().map_err(|_| EngineError::Invalid(format!("invalid {what} address: {text}")))
}

fn gateway_outside(gateway: &impl std::fmt::Display) -> EngineError {
    EngineError::Invalid(format!("failed to allocate gateway ({gateway}): Requested address is out of range"))
}

fn overlap(one: IpNet, other: IpNet) -> bool {
    one.contains(&other) || other.contains(&one)
}

fn range4(subnet: Ipv4Net, pool: &Pool) -> Result<Range<Ipv4Net, Ipv4Addr>> {
    if subnet.prefix_len() > LONGEST_PREFIX {
        return Err(EngineError::Invalid(format!(
            "subnet {subnet} is too small: it has no room for containers"
        )));
    }
    let range: Option<Ipv4Net> =
        if pool.range.is_empty() { None } else { Some(parse(&pool.range, "ip-range")?) };
    let reserved: Vec<Ipv4Addr> =
        pool.reserved.values().map(|text| address(text, "auxiliary")).collect::<Result<_>>()?;
    let first = range.map_or(subnet, |r: Ipv4Net| r.trunc());
    // As Docker chooses it: the first address that containers could have.
    let default = [Ipv4Addr::from(
        u32::from(first.network()) + u32::from(range.is_none_or(|r| r.network() == subnet.network())),
    )];
    let default = default
        .into_iter()
        .chain(subnet.hosts())
        .find(|ip| !reserved.contains(ip))
        .unwrap_or(first.network());
    let gateway = if pool.gateway.is_empty() { default } else { address(&pool.gateway, "gateway")? };
    let within = |what: &str, inside: bool| {
        if inside { Ok(()) } else { Err(EngineError::Invalid(format!("no matching subnet for {what}"))) }
    };
    if let Some(range) = range {
        within(&format!("range {range}"), subnet.contains(&range))?;
    }
    if !subnet.contains(&gateway) {
        return Err(gateway_outside(&gateway));
    }
    for ip in &reserved {
        within(&format!("aux-address {ip}"), subnet.contains(ip))?;
    }
    Ok(Range { subnet, gateway, range: range.map(|r| r.trunc()), reserved })
}

fn range6(subnet: Ipv6Net, pool: &Pool) -> Result<Range<Ipv6Net, Ipv6Addr>> {
    if subnet.prefix_len() > 126 || subnet.prefix_len() == 0 {
        return Err(EngineError::Invalid(format!(
            "subnet {subnet} has no room for containers, or takes everything"
        )));
    }
    let range: Option<Ipv6Net> =
        if pool.range.is_empty() { None } else { Some(parse(&pool.range, "ip-range")?) };
    let reserved: Vec<Ipv6Addr> =
        pool.reserved.values().map(|text| address(text, "auxiliary")).collect::<Result<_>>()?;
    let gateway = if pool.gateway.is_empty() {
        Ipv6Addr::from(u128::from(subnet.network()) + 1)
    } else {
        address(pool.gateway.split('/').next().unwrap_or_default(), "gateway")?
    };
    if !subnet.contains(&gateway) {
        return Err(gateway_outside(&gateway));
    }
    if let Some(range) = range.filter(|range| !subnet.contains(range)) {
        return Err(EngineError::Invalid(format!("no matching subnet for range {range}")));
    }
    Ok(Range { subnet, gateway, range: range.map(|r| r.trunc()), reserved })
}

/// The first subnet of the pools that meets nobody's.
fn choose(taken: &[IpNet], routed: &[IpNet], pools: &[AddressPool]) -> Result<Range<Ipv4Net, Ipv4Addr>> {
    let free = |net: &Ipv4Net| !taken.iter().chain(routed).any(|other| overlap((*net).into(), *other));
    let subnet = pools
        .iter()
        .filter_map(|pool| pool.base.subnets(pool.size).ok())
        .flatten()
        .find(free)
        .ok_or_else(|| {
            EngineError::Exhausted(
                "could not find an available, non-overlapping IPv4 address pool among the defaults to assign to the network"
                    .to_owned(),
            )
        })?;
    let gateway = Ipv4Addr::from(u32::from(subnet.network()) + 1);
    Ok(Range { subnet, gateway, range: None, reserved: Vec::new() })
}

/// The first subnet of our unique local addresses that meets nobody's.
fn choose6(taken: &[IpNet], routed: &[IpNet], ula: Ipv6Net) -> Result<Range<Ipv6Net, Ipv6Addr>> {
    for n in 0..MAX_SUBNETS6 {
        let network = Ipv6Addr::from(u128::from(ula.network()) + (n << (128 - u32::from(PREFIX6))));
        let subnet = Ipv6Net::new_assert(network, PREFIX6);
        if !taken.iter().chain(routed).any(|other| overlap(subnet.into(), *other)) {
            let gateway = Ipv6Addr::from(u128::from(network) + 1);
            return Ok(Range { subnet, gateway, range: None, reserved: Vec::new() });
        }
    }
    Err(EngineError::Exhausted(format!("all subnets of {ula} are taken")))
}

/// The unique local addresses of an engine (RFC 4193), which follow from something that no other engine has.
pub(crate) fn ula(seed: &str) -> Ipv6Net {
    let hex = sampan_base::Digest::of(seed.as_bytes());
    let mut bytes = [0u8; 16];
    bytes[0] = 0xfd;
    for (n, byte) in bytes[1..6].iter_mut().enumerate() {
        *byte = hex.hex().get(2 * n..2 * n + 2).and_then(|h| u8::from_str_radix(h, 16).ok()).unwrap_or(0);
    }
    Ipv6Net::new_assert(Ipv6Addr::from(bytes), 48)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(subnet: &str, range: &str, gateway: &str, reserved: &str) -> Pool {
        let reserved = if reserved.is_empty() {
            Default::default()
        } else {
            [("a".to_owned(), reserved.to_owned())].into()
        };
        Pool { subnet: subnet.into(), range: range.into(), gateway: gateway.into(), reserved }
    }

    fn ask(pools: Vec<Pool>, ipv6: bool, taken: &[&str], routed: &[&str]) -> String {
        let nets = |list: &[&str]| list.iter().map(|t| t.parse().unwrap()).collect::<Vec<IpNet>>();
        let ipam = Ipam { pools, ..Ipam::default() };
        let ula = "fd12:3456:789a::/48".parse().unwrap();
        match decide(ipam, ipv6, &nets(taken), &nets(routed), &default_pools(), ula) {
            Err(error) => error.to_string(),
            Ok(a) => {
                let v6 = a.v6.map(|r| format!(" {} {}", r.subnet, r.gateway)).unwrap_or_default();
                format!("{} {}{v6} {}", a.v4.subnet, a.v4.gateway, a.ipam.pools.len())
            }
        }
    }

    #[test]
    fn subnets_are_chosen_that_meet_nobodys() {
        assert_eq!(ask(vec![], false, &[], &[]), "172.17.0.0/16 172.17.0.1 1");
        assert_eq!(ask(vec![], false, &["172.17.0.0/16"], &["172.18.5.0/24"]), "172.19.0.0/16 172.19.0.1 1");
        assert_eq!(
            ask(vec![], true, &["fd12:3456:789a::/64"], &["172.16.0.0/12"]),
            "192.168.0.0/20 192.168.0.1 fd12:3456:789a:1::/64 fd12:3456:789a:1::1 2"
        );
        assert!(ask(vec![], false, &["172.16.0.0/12", "192.168.0.0/16"], &[]).starts_with("could not find"));
    }

    #[test]
    fn what_is_asked_for_is_checked() {
        for (asked, expected) in [
            (pool("10.1.0.0/16", "", "", ""), "10.1.0.0/16 10.1.0.1 1"),
            (pool("10.1.0.0/16", "10.1.5.0/24", "10.1.5.254", "10.1.1.5"), "10.1.0.0/16 10.1.5.254 1"),
            (pool("10.1.0.0/16", "", "", "10.1.0.1"), "10.1.0.0/16 10.1.0.2 1"),
            (
                pool("10.1.0.0/16", "", "10.2.0.1", ""),
                "failed to allocate gateway (10.2.0.1): Requested address is out of range",
            ),
            (pool("10.1.0.0/16", "10.2.0.0/24", "", ""), "no matching subnet for range 10.2.0.0/24"),
            (
                pool("10.1.0.0/31", "", "", ""),
                "subnet 10.1.0.0/31 is too small: it has no room for containers",
            ),
            (pool("x", "", "", ""), "Invalid subnet x : invalid CIDR address: x"),
            (pool("", "", "10.2.0.1", ""), "every ip-range or gateway must have a corresponding subnet"),
            (pool("10.9.9.0/24", "", "", ""), "Pool overlaps with other one on this address space"),
        ] {
            assert_eq!(
                ask(vec![asked.clone()], false, &["10.9.0.0/16"], &["10.1.0.0/16"]),
                expected,
                "{asked:?}"
            );
        }
        let six = pool("2001:db8::1/64", "2001:db8::/96", "2001:db8::ffff", "");
        assert_eq!(
            ask(vec![six.clone()], true, &[], &[]),
            "172.17.0.0/16 172.17.0.1 2001:db8::/64 2001:db8::ffff 2"
        );
        assert_eq!(ask(vec![six], false, &[], &[]), "172.17.0.0/16 172.17.0.1 2");
        assert_eq!(ula("seed").prefix_len(), 48);
    }
}
