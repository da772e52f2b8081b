//! How people write what the API takes as numbers and lists: sizes, lengths of time, ports. The command line and compose
//! files write them the same way.

use std::collections::BTreeMap;

use crate::Empty;
use crate::network::PortBinding;

/// A size such as `64m`, in bytes; -1 stands for no limit.
///
/// # Errors
/// A sentence that says what a size is.
pub fn bytes(text: &str) -> Result<i64, String> {
    let lower = text.trim().to_lowercase();
    let number_end = lower.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(lower.len());
    let (digits, unit) = lower.split_at(number_end);
    let factor = match unit.trim_end_matches("ib").trim_end_matches('b') {
        "" => 1i64,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        "t" => 1 << 40,
        "p" => 1 << 50,
        _ => return Err(format!("`{text}` is not a size: use a number and b, k, m or g")),
    };
    let number: f64 = digits
        .trim()
        .parse()
        .map_err(|_| format!("`{text}` is not a size: use a number and b, k, m or g"))?;
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
    let bytes = (number * factor as f64) as i64;
    if bytes < -1 || number.is_nan() { Err(format!("`{text}` is not a size")) } else { Ok(bytes) }
}

/// A length of time as Go writes it, such as `1m30s` or `500ms`, in nanoseconds.
///
/// # Errors
/// A sentence that says what a length of time is.
pub fn duration(text: &str) -> Result<i64, String> {
    let wrong = || format!("`{text}` is not a length of time: use numbers and ms, s, m or h, as in 1m30s");
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(wrong());
    }
    let mut total = 0.0;
    while !rest.is_empty() {
        let unit_at = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let number: f64 = rest[..unit_at].parse().map_err(|_| wrong())?;
        rest = &rest[unit_at..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        total += number
            * match &rest[..end] {
                "ns" => 1.0,
                "us" | "µs" => 1e3,
                "ms" => 1e6,
                "s" => 1e9,
                "m" => 6e10,
                "h" => 3.6e12,
                _ => return Err(wrong()),
            };
        rest = &rest[end..];
    }
    if total > 9e18 {
        return Err(format!("`{text}` is too long a time"));
    }
    #[allow(clippy::cast_possible_truncation)]
    Ok((sign * total).round() as i64)
}

/// Exposed ports, and where they are published.
pub type Ports = (BTreeMap<String, Empty>, BTreeMap<String, Option<Vec<PortBinding>>>);

/// Reads `[[IP:]HOST_PORT:]PORT[/PROTOCOL]`, where both ports may be ranges of the same length, and `PORT[/PROTOCOL]`
/// of ports that are only exposed.
///
/// # Errors
/// A sentence naming what can't be read.
pub fn ports(published: &[String], exposed: &[String]) -> Result<Ports, String> {
    let mut all = BTreeMap::new();
    let mut bindings: BTreeMap<String, Option<Vec<PortBinding>>> = BTreeMap::new();
    for text in exposed {
        let (range_text, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let wrong = |why: String| format!("invalid port to expose `{text}`: {why}");
        let protocol = known_protocol(protocol).map_err(wrong)?;
        for port in range(range_text).map_err(wrong)? {
            all.insert(format!("{port}/{protocol}"), Empty {});
        }
    }
    for text in published {
        for (port, binding) in published_port(text)? {
            all.insert(port.clone(), Empty {});
            bindings.entry(port).or_default().get_or_insert_default().push(binding);
        }
    }
    Ok((all, bindings))
}

/// What one `--publish` publishes: ports inside, and where.
///
/// # Errors
/// A sentence naming what can't be read.
pub fn published_port(text: &str) -> Result<Vec<(String, PortBinding)>, String> {
    let wrong = |why: &str| {
        format!("invalid port to publish `{text}`: expected [[IP:]HOST_PORT:]PORT[/tcp|udp|sctp]: {why}")
    };
    let (rest, protocol) = text.rsplit_once('/').unwrap_or((text, "tcp"));
    let protocol = known_protocol(protocol).map_err(|why| wrong(&why))?;
    let (outside, inside) = rest.rsplit_once(':').unwrap_or(("", rest));
    let (address, host) = match outside.rsplit_once(':') {
        // An IPv6 address without a port behind it would end in its bracket.
        Some((address, host)) => (address.trim_matches(['[', ']']), host),
        None => ("", outside),
    };
    if !address.is_empty() && address.parse::<std::net::IpAddr>().is_err() {
        return Err(wrong(&format!("`{address}` is not an address")));
    }
    let inside = range(inside).map_err(|why| wrong(&why))?;
    let hosts: Vec<String> = match host {
        "" => vec![String::new(); inside.len()],
        // One port inside on any of a range outside is for the daemon to choose.
        _ if inside.len() == 1 && host.contains('-') => {
            range(host).map_err(|why| wrong(&why))?;
            vec![host.to_owned()]
        }
        _ => range(host).map_err(|why| wrong(&why))?.iter().map(u16::to_string).collect(),
    };
    if hosts.len() != inside.len() {
        return Err(wrong("the ranges differ in length"));
    }
    let binding = |(port, host_port): (u16, String)| {
        (format!("{port}/{protocol}"), PortBinding { host_ip: address.to_owned(), host_port })
    };
    Ok(inside.into_iter().zip(hosts).map(binding).collect())
}

fn known_protocol(text: &str) -> Result<String, String> {
    let lower = text.to_lowercase();
    match lower.as_str() {
        "tcp" | "udp" | "sctp" => Ok(lower),
        _ => Err(format!("`{text}` is not a protocol: tcp, udp or sctp")),
    }
}

/// A port, or the ports from one to another.
fn range(text: &str) -> Result<Vec<u16>, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let number =
        |t: &str| t.parse::<u16>().ok().filter(|n| *n > 0).ok_or_else(|| format!("`{t}` is not a port"));
    let (first, last) = (number(first)?, number(last)?);
    if last < first {
        return Err(format!("`{text}` ends before it begins"));
    }
    Ok((first..=last).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, expected) in [
            ("64m", 64 << 20),
            ("1g", 1 << 30),
            ("512", 512),
            ("1.5k", 1536),
            ("2GB", 2 << 30),
            ("1MiB", 1 << 20),
            ("10b", 10),
            ("-1", -1),
        ] {
            assert_eq!(bytes(text).unwrap(), expected, "{text}");
        }
        for bad in ["", "m", "x", "1q", "-5", "b"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn lengths_of_time_are_gos() {
        for (text, expected) in [
            ("1s", 1_000_000_000),
            ("1m30s", 90_000_000_000),
            ("500ms", 500_000_000),
            ("1.5h", 5_400_000_000_000),
            ("0", 0),
            ("-2s", -2_000_000_000),
        ] {
            assert_eq!(duration(text).unwrap(), expected, "{text}");
        }
        for bad in ["", "5", "s", "1x", "1s2", "1000000000h", "-"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    fn show(published: &str) -> Result<String, String> {
        let (_, bindings) = ports(&[published.to_owned()], &[])?;
        let line = |(port, list): (String, Option<Vec<PortBinding>>)| {
            let hosts: Vec<_> =
                list.unwrap().into_iter().map(|b| format!("{}:{}", b.host_ip, b.host_port)).collect();
            format!("{port}={}", hosts.join(","))
        };
        Ok(bindings.into_iter().map(line).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn ports_are_read_as_docker_reads_them() {
        for (text, expected) in [
            ("80", "80/tcp=:"),
            ("8080:80", "80/tcp=:8080"),
            ("127.0.0.1:8080:80/udp", "80/udp=127.0.0.1:8080"),
            ("127.0.0.1::80", "80/tcp=127.0.0.1:"),
            ("[::1]:8080:80", "80/tcp=::1:8080"),
            ("8000-8001:80-81/SCTP", "80/sctp=:8000 81/sctp=:8001"),
            ("8000-8009:80", "80/tcp=:8000-8009"),
        ] {
            assert_eq!(show(text).unwrap(), expected, "{text}");
        }
        for bad in ["x:y", "0", "80-79", "1-3:1-2", ":", "70000:80", "80/icmp", "nowhere:1:2"] {
            assert!(show(bad).is_err(), "{bad}");
        }
    }
}
