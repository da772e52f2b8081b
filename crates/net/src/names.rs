//! Names and addresses that follow from others: nothing about them needs to be remembered.

use std::net::Ipv4Addr;

use sampan_base::{ContainerId, Digest};

/// A hardware address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The one that Docker gives to whoever has `address`: 02:42 and its four bytes.
    pub fn of(address: Ipv4Addr) -> Mac {
        let [a, b, c, d] = address.octets();
        Mac([0x02, 0x42, a, b, c, d])
    }
}

impl std::fmt::Display for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl std::fmt::Debug for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// A text that is no hardware address.
#[derive(Debug, thiserror::Error)]
#[error("invalid MAC address `{text}`: write it as 02:42:ac:11:00:02")]
pub struct InvalidMac {
    /// As given.
    pub text: String,
}

impl std::str::FromStr for Mac {
    type Err = InvalidMac;

    fn from_str(text: &str) -> Result<Mac, InvalidMac> {
        let invalid = || InvalidMac { text: text.chars().take(64).collect() };
        let mut bytes = [0u8; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2).ok_or_else(invalid)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| invalid())?;
        }
        // A group address can't be a link's own.
        if parts.next().is_some() || bytes[0] & 1 == 1 { Err(invalid()) } else { Ok(Mac(bytes)) }
    }
}

impl serde::Serialize for Mac {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Mac {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The host's end of the pair of an endpoint: 14 characters, of the kernel's 15, that another instance's endpoint
/// of the same name does not have.
pub(crate) fn veth_name(table: &str, key: &str, network: &str) -> String {
    format!("sv{}", &Digest::of(format!("{table}\n{key}\n{network}").as_bytes()).hex()[..12])
}

/// Whether `key` may become a file's name: the rules for a container's id.
pub(crate) fn is_key(key: &str) -> bool {
    key.parse::<ContainerId>().is_ok()
}

/// Whether `name` may be a link's name, and needs no quoting anywhere.
pub(crate) fn is_link_name(name: &str) -> bool {
    name.len() <= 15 && is_plain(name)
}

/// Whether `name` may be a table's name, and with a link's fits a comment.
pub(crate) fn is_table_name(name: &str) -> bool {
    name.len() <= 64 && is_plain(name)
}

fn is_plain(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    !name.is_empty() && name != "." && name != ".." && name.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_follows_from_its_address() {
        let mac = Mac::of(Ipv4Addr::new(172, 17, 0, 2));
        assert_eq!(mac.to_string(), "02:42:ac:11:00:02");
        assert_eq!("02:42:AC:11:00:02".parse::<Mac>().unwrap(), mac);
        for bad in ["", "02:42", "02:42:ac:11:00:02:03", "01:00:00:00:00:00", "2:42:ac:11:0:2"] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }

    #[test]
    fn names_fit_the_kernel() {
        let name = veth_name("sampan", &"f".repeat(64), "bridge");
        assert!(is_link_name(&name) && name != veth_name("other", &"f".repeat(64), "bridge"));
        assert!(!is_link_name("a/b") && !is_link_name("sixteencharacter") && !is_link_name(""));
        assert!(!is_key("../x") && is_key("abc"));
    }
}
