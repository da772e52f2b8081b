//! `attach:` addresses: `attach:///dir?log=/path&max-size=10m&max-file=3`, each part percent-encoded where needed.

use std::path::PathBuf;

use super::StdioError;
use super::jsonlog::LogConfig;

/// An `attach:` address, understood.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Address {
    pub(super) directory: PathBuf,
    pub(super) log: Option<LogConfig>,
}

impl Address {
    pub(super) fn parse(address: &str) -> Result<Address, StdioError> {
        let bad = |reason: String| StdioError::Attach { address: address.to_owned(), reason };
        let rest = address.strip_prefix("attach://").unwrap_or_default();
        let (directory, query) = rest.split_once('?').unwrap_or((rest, ""));
        let directory = PathBuf::from(percent_decoded(directory));
        if !directory.is_absolute() {
            return Err(bad("it must be attach:// and an absolute directory".into()));
        }
        let (mut path, mut max_size, mut max_files) = (None, None, 1);
        for pair in query.split('&').filter(|p| !p.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = percent_decoded(value);
            let number = |what: &str| bad(format!("`{value}` is no {what}"));
            match key {
                "log" if value.is_empty() => {}
                "log" => path = Some(PathBuf::from(value)),
                "max-size" => max_size = parse_size(&value).ok_or_else(|| number("size"))?,
                "max-file" => {
                    max_files =
                        value.parse().ok().filter(|n| *n > 0).ok_or_else(|| number("number of files"))?;
                }
                _ => return Err(bad(format!("unknown option `{key}`"))),
            }
        }
        let log = match path {
            Some(path) if !path.is_absolute() => return Err(bad("log= must be an absolute path".into())),
            Some(path) => Some(LogConfig { path, max_size, max_files }),
            None => None,
        };
        Ok(Address { directory, log })
    }
}

/// A size as Docker writes it: a number and `b`, `k`, `m` or `g`, of 1024; `-1` is no limit.
fn parse_size(text: &str) -> Option<Option<u64>> {
    if text == "-1" {
        return Some(None);
    }
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match lower[digits.len()..].trim_end_matches("ib").trim_end_matches('b') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        _ => return None,
    };
    let number: u64 = digits.parse().ok().filter(|n| *n > 0)?;
    number.checked_mul(1 << shift).map(Some)
}

/// `%41` and the like replaced; a `%` that is not followed by two hex digits stays.
pub(super) fn percent_decoded(text: &str) -> String {
    let hex = |b: Option<&u8>| b.and_then(|b| char::from(*b).to_digit(16));
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at], hex(bytes.get(at + 1)), hex(bytes.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low).to_le_bytes()[0]);
                at += 3;
            }
            (byte, ..) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_addresses() {
        let full = Address::parse("attach:///run/a%20b?log=/l/x%3dy.log&max-size=10m&max-file=3").unwrap();
        let log = LogConfig { path: "/l/x=y.log".into(), max_size: Some(10 << 20), max_files: 3 };
        assert_eq!(full, Address { directory: "/run/a b".into(), log: Some(log) });
        assert_eq!(Address::parse("attach:///d").unwrap().log, None);
        for bad in
            ["attach:", "attach://d", "attach:///d?log=x", "attach:///d?max-size=ten", "attach:///d?mode=x"]
        {
            assert!(Address::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn reads_sizes() {
        let size = |t: &str| parse_size(t);
        assert_eq!(size("1"), Some(Some(1)));
        assert_eq!(
            (size("2k"), size("2KB"), size("2KiB")),
            (Some(Some(2048)), Some(Some(2048)), Some(Some(2048)))
        );
        assert_eq!((size("-1"), size("0"), size("k"), size("5x")), (Some(None), None, None, None));
    }
}
