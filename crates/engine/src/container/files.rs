//! The texts of /etc/hosts, /etc/hostname and /etc/resolv.conf of a container.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr};

use crate::spec::Dns;

/// /etc/hosts: the usual names of the loopback, the container's own, and what was added by hand.
///
/// # Errors
/// If an added host is not `name:address`.
pub(crate) fn hosts(
    address: Option<Ipv4Addr>,
    hostname: &str,
    domain: Option<&str>,
    extra: &[String],
    gateway: Option<Ipv4Addr>,
) -> Result<String, String> {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nff00::0\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
    );
    for entry in extra {
        let (name, to) = entry
            .split_once(':')
            .ok_or_else(|| format!("invalid extra host `{entry}`: expected name:address"))?;
        let to = match (to, gateway) {
            ("host-gateway", Some(gateway)) => IpAddr::V4(gateway),
            _ => to
                .trim_matches(['[', ']'])
                .parse()
                .map_err(|_| format!("invalid address in extra host `{entry}`"))?,
        };
        // Writing to a String can't fail.
        let _ = writeln!(text, "{to}\t{name}");
    }
    if let Some(address) = address {
        let full = domain.filter(|d| !d.is_empty()).map(|d| format!("{hostname}.{d} ")).unwrap_or_default();
        let _ = writeln!(text, "{address}\t{full}{hostname}");
    }
    Ok(text)
}

/// /etc/resolv.conf: what was asked for, else what the host has. In a network namespace of its own a container can't
/// reach name servers on the host's loopback; if none other is left, `fallback` takes their place.
pub(crate) fn resolv_conf(host: &str, dns: &Dns, own_network: bool, fallback: &[Ipv4Addr]) -> String {
    let words = |key: &str| -> Vec<Vec<String>> {
        let lines = host.lines().filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some(key)).then(|| words.map(str::to_owned).collect())
        });
        lines.collect()
    };
    let servers = if dns.servers.is_empty() {
        let usable = |s: &String| !own_network || !s.parse::<IpAddr>().is_ok_and(|a| a.is_loopback());
        let mut servers: Vec<String> = words("nameserver").concat().into_iter().filter(usable).collect();
        if servers.is_empty() && own_network {
            servers = fallback.iter().map(Ipv4Addr::to_string).collect();
        }
        servers
    } else {
        dns.servers.clone()
    };
    let search = if dns.search.is_empty() {
        words("search").pop().or_else(|| words("domain").pop()).unwrap_or_default()
    } else {
        dns.search.clone()
    };
    let options = if dns.options.is_empty() { words("options").concat() } else { dns.options.clone() };
    let mut text = String::new();
    for server in servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    // `--dns-search .` means: none.
    if !search.is_empty() && search != ["."] {
        let _ = writeln!(text, "search {}", search.join(" "));
    }
    if !options.is_empty() {
        let _ = writeln!(text, "options {}", options.join(" "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_name_servers_are_of_no_use_in_another_network() {
        let fallback = [Ipv4Addr::new(9, 9, 9, 9)];
        let host = "# made by hand\nnameserver 127.0.0.53\nnameserver 10.0.0.2\nsearch a b\noptions edns0\n";
        let check = |host: &str, dns: &Dns, own| resolv_conf(host, dns, own, &fallback).replace('\n', "|");
        let none = Dns::default();
        assert_eq!(check(host, &none, true), "nameserver 10.0.0.2|search a b|options edns0|");
        assert_eq!(
            check(host, &none, false),
            "nameserver 127.0.0.53|nameserver 10.0.0.2|search a b|options edns0|"
        );
        assert_eq!(check("nameserver ::1\n", &none, true), "nameserver 9.9.9.9|");
        let asked = Dns {
            servers: vec!["1.1.1.1".into()],
            search: vec![".".into()],
            options: vec!["ndots:5".into()],
        };
        assert_eq!(check(host, &asked, true), "nameserver 1.1.1.1|options ndots:5|");
    }

    #[test]
    fn hosts_names_the_container_and_what_was_added() {
        let own = Some(Ipv4Addr::new(172, 31, 0, 2));
        let gateway = Some(Ipv4Addr::new(172, 31, 0, 1));
        let extra = [
            "db:10.0.0.9".to_owned(),
            "host.docker.internal:host-gateway".to_owned(),
            "six:[::7]".to_owned(),
        ];
        let text = hosts(own, "web", Some("lan"), &extra, gateway).unwrap();
        let tail: Vec<_> = text.lines().skip(6).collect();
        assert_eq!(
            tail,
            ["10.0.0.9\tdb", "172.31.0.1\thost.docker.internal", "::7\tsix", "172.31.0.2\tweb.lan web"]
        );
        for bad in ["db", "db:nowhere", "x:host-gateway"] {
            assert!(hosts(None, "h", None, &[bad.to_owned()], None).is_err(), "{bad}");
        }
    }
}
