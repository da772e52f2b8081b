//! The texts of /etc/hosts, /etc/hostname and /etc/resolv.conf of a container.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr};

use crate::spec::Dns;

/// Where names are served in containers of named networks.
const OWN_SERVER: &str = "127.0.0.11";

/// /etc/hosts: the usual names of the loopback, the container's own, those of `links`, and what was added by hand.
///
/// # Errors
/// If an added host is not `name:address`.
pub(crate) fn hosts(
    addresses: &[IpAddr],
    hostname: &str,
    domain: Option<&str>,
    extra: &[String],
    gateway: Option<Ipv4Addr>,
    links: &[String],
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
    for line in links {
        let _ = writeln!(text, "{line}");
    }
    for address in addresses {
        let _ = writeln!(text, "{address}\t{}", own_names(hostname, domain));
    }
    Ok(text)
}

fn own_names(hostname: &str, domain: Option<&str>) -> String {
    let full = domain.filter(|d| !d.is_empty()).map(|d| format!("{hostname}.{d} ")).unwrap_or_default();
    format!("{full}{hostname}")
}

/// The hosts file of a running container, in which `gone` are its addresses no more and `come` are. What else somebody has
/// written into it stays.
pub(crate) fn hosts_changed(
    text: &str,
    gone: &[IpAddr],
    come: &[IpAddr],
    hostname: &str,
    domain: Option<&str>,
) -> String {
    let own = own_names(hostname, domain);
    let goes = |line: &str| {
        let (address, names) = line.split_once('\t').unwrap_or((line, ""));
        names == own && address.parse().is_ok_and(|ip| gone.contains(&ip))
    };
    let mut changed: String = text.lines().filter(|line| !goes(line)).flat_map(|line| [line, "\n"]).collect();
    for address in come {
        let _ = writeln!(changed, "{address}\t{own}");
    }
    changed
}

/// Replaces what is in a file that is mounted somewhere: it stays the same file, which a rename would not leave.
pub(crate) fn write_in_place(path: &std::path::Path, text: &str) -> std::io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)?;
    file.write_all(text.as_bytes())?;
    file.set_len(text.len() as u64)
}

fn lines_of<'a>(host: &'a str, key: &'a str) -> impl Iterator<Item = Vec<String>> + 'a {
    host.lines().filter_map(move |line| {
        let mut words = line.split_whitespace();
        (words.next() == Some(key)).then(|| words.map(str::to_owned).collect())
    })
}

/// The name servers that a container's questions end at: those that were asked for, else the host's, else `fallback`.
pub(crate) fn name_servers(host: &str, dns: &Dns, fallback: &[Ipv4Addr]) -> Vec<String> {
    let found: Vec<String> = if dns.servers.is_empty() {
        lines_of(host, "nameserver").flatten().collect()
    } else {
        dns.servers.clone()
    };
    if found.is_empty() { fallback.iter().map(Ipv4Addr::to_string).collect() } else { found }
}

/// /etc/resolv.conf: what was asked for, else what the host has. In a network namespace of its own a container can't
/// reach name servers on the host's loopback; if none other is left, `fallback` takes their place. Where names are
/// `served` by us, ours is the only server, and asks the others.
pub(crate) fn resolv_conf(
    host: &str,
    dns: &Dns,
    own_network: bool,
    fallback: &[Ipv4Addr],
    served: bool,
) -> String {
    let servers = if served {
        vec![OWN_SERVER.to_owned()]
    } else if dns.servers.is_empty() {
        let usable = |s: &String| !own_network || !s.parse::<IpAddr>().is_ok_and(|a| a.is_loopback());
        let mut servers: Vec<String> = lines_of(host, "nameserver").flatten().filter(usable).collect();
        if servers.is_empty() && own_network {
            servers = fallback.iter().map(Ipv4Addr::to_string).collect();
        }
        servers
    } else {
        dns.servers.clone()
    };
    let last = |key| lines_of(host, key).last();
    let search = if dns.search.is_empty() {
        last("search").or_else(|| last("domain")).unwrap_or_default()
    } else {
        dns.search.clone()
    };
    let mut options = if dns.options.is_empty() {
        lines_of(host, "options").flatten().collect()
    } else {
        dns.options.clone()
    };
    if served && !options.iter().any(|o| o.starts_with("ndots:")) {
        // Our names have no dots; they are to be asked for as they are before a search domain is tried.
        options.push("ndots:0".to_owned());
    }
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
        let check =
            |host: &str, dns: &Dns, own| resolv_conf(host, dns, own, &fallback, false).replace('\n', "|");
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
        let served = |dns: &Dns| resolv_conf(host, dns, true, &fallback, true).replace('\n', "|");
        assert_eq!(served(&none), "nameserver 127.0.0.11|search a b|options edns0 ndots:0|");
        assert_eq!(served(&asked), "nameserver 127.0.0.11|options ndots:5|");
        assert_eq!(name_servers(host, &none, &fallback), ["127.0.0.53", "10.0.0.2"]);
        assert_eq!(name_servers(host, &asked, &fallback), ["1.1.1.1"]);
        assert_eq!(name_servers("", &none, &fallback), ["9.9.9.9"]);
    }

    #[test]
    fn hosts_names_the_container_and_what_was_added() {
        let own = ["172.31.0.2".parse().unwrap()];
        let gateway = Some(Ipv4Addr::new(172, 31, 0, 1));
        let extra = [
            "db:10.0.0.9".to_owned(),
            "host.docker.internal:host-gateway".to_owned(),
            "six:[::7]".to_owned(),
        ];
        let text = hosts(&own, "web", Some("lan"), &extra, gateway, &["10.0.0.3\tdb".into()]).unwrap();
        let tail: Vec<_> = text.lines().skip(6).collect();
        assert_eq!(
            tail,
            [
                "10.0.0.9\tdb",
                "172.31.0.1\thost.docker.internal",
                "::7\tsix",
                "10.0.0.3\tdb",
                "172.31.0.2\tweb.lan web"
            ]
        );
        let changed = hosts_changed(&text, &own, &["10.8.0.2".parse().unwrap()], "web", Some("lan"));
        assert_eq!(changed.lines().last().unwrap(), "10.8.0.2\tweb.lan web");
        assert_eq!(changed.lines().count(), text.lines().count());
        for bad in ["db", "db:nowhere", "x:host-gateway"] {
            assert!(hosts(&[], "h", None, &[bad.to_owned()], None, &[]).is_err(), "{bad}");
        }
    }
}
