//! Container ids, and fresh random ids.

use std::str::FromStr;

use crate::text_type;

/// A container's id: a file name in the runtime's state directory, part of a cgroup's name, never a path.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ContainerId(String);

/// The longest id that is accepted, in bytes: ids become file names, with suffixes, and those end at 255.
pub const MAX_ID_BYTES: usize = 200;

/// A text that can't be a container's id.
#[derive(Debug, thiserror::Error)]
#[error(
    "invalid container id `{text}`: use 1 to 200 of the characters A-Z a-z 0-9 _ + . -, not `.` or `..` alone"
)]
pub struct InvalidContainerId {
    /// The text as given, shortened.
    pub text: String,
}

impl ContainerId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ContainerId {
    type Err = InvalidContainerId;

    fn from_str(text: &str) -> Result<Self, InvalidContainerId> {
        let named = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'+' | b'.' | b'-');
        if text.is_empty()
            || text.len() > MAX_ID_BYTES
            || text == "."
            || text == ".."
            || !text.bytes().all(named)
        {
            return Err(InvalidContainerId { text: text.chars().take(100).collect() });
        }
        Ok(ContainerId(text.to_owned()))
    }
}

text_type!(ContainerId);

/// A fresh random id of 64 hex digits, as Docker names containers, networks and execs.
///
/// # Errors
/// If the kernel gives no random bytes.
pub fn random_id() -> std::io::Result<String> {
    let mut bytes = [0u8; 32];
    let mut filled = 0;
    while filled < bytes.len() {
        filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())?;
    }
    // An id of digits only would be taken for a number by some tools (Docker makes another one, too).
    bytes[0] |= 0xa0;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_names_and_refuses_paths() {
        for good in ["a", "web-1_2.3+x", &"f".repeat(64)] {
            assert!(good.parse::<ContainerId>().is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "../x", "a b", "ä", "a\0", &"x".repeat(201)] {
            assert!(bad.parse::<ContainerId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn random_ids_are_64_hex_digits_and_differ() {
        let (a, b) = (random_id().unwrap(), random_id().unwrap());
        assert!(a.len() == 64 && a.bytes().all(|c| c.is_ascii_hexdigit()) && a != b);
    }
}
