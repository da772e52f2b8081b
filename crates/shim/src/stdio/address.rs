//! `attach:` addresses: `attach:///dir?log={…}`, each part percent-encoded where needed. What is logged where is a
//! [`LogConfig`] in JSON.

use std::path::PathBuf;

use sampan_rpc::log::LogConfig;

use super::StdioError;

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
        let mut log = None;
        for pair in query.split('&').filter(|p| !p.is_empty()) {
            match pair.split_once('=') {
                Some(("log", json)) => {
                    let config: LogConfig = serde_json::from_str(&percent_decoded(json))
                        .map_err(|e| bad(format!("its log makes no sense: {e}")))?;
                    if config.kept.as_ref().is_some_and(|kept| !kept.path.is_absolute()) {
                        return Err(bad("the log's path must be absolute".into()));
                    }
                    log = Some(config);
                }
                _ => return Err(bad(format!("unknown option `{pair}`"))),
            }
        }
        Ok(Address { directory, log })
    }
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
        let text = r#"attach:///run/a%20b?log={"kept":{"path":"/l/x%26y.log","format":"json-file","max_size":9,"max_files":3,"compress":true,"attributes":{}}}"#;
        let full = Address::parse(text).unwrap();
        let kept = full.log.unwrap().kept.unwrap();
        assert_eq!(full.directory, PathBuf::from("/run/a b"));
        assert_eq!((kept.path, kept.max_size, kept.max_files), ("/l/x&y.log".into(), Some(9), 3));
        assert_eq!(Address::parse("attach:///d").unwrap().log, None);
        let relative = text.replace("/l/x", "x");
        for bad in ["attach:", "attach://d", "attach:///d?log=x", "attach:///d?mode=x", &relative] {
            assert!(Address::parse(bad).is_err(), "{bad}");
        }
    }
}
