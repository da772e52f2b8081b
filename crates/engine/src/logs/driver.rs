//! Log drivers: which there are, their options, and what the shim is told to do for one.
//!
//! | driver | kept in files | sent |
//! |---|---|---|
//! | `json-file` (the default) | JSON lines, rotated if asked | |
//! | `local` | entries, rotated and compressed | |
//! | `journald` | as `local` | to systemd's journal |
//! | `syslog` | as `local` | to a syslog server |
//! | `none` | | |
//!
//! What is sent is kept as well, so that `logs` answers whatever the service does; `cache-disabled=true` prevents it.
//! Options are checked when a container is created, as far as they need no host; values when it starts, as Docker does.

use std::collections::BTreeMap;
use std::net::ToSocketAddrs;
use std::path::{Path, PathBuf};

use sampan_rpc::log::{KeptLog, LogConfig, LogFormat, SentLog, SyslogAddress, SyslogFormat};

use crate::error::{EngineError, Result};
use crate::metadata::ContainerRecord;
use crate::spec::LogSpec;

/// The drivers, by name.
pub const DRIVERS: [&str; 5] = ["journald", "json-file", "local", "none", "syslog"];

/// The socket of the journal's native protocol.
const JOURNAL: &str = "/run/systemd/journal/socket";
/// Where syslog listens on most hosts.
const SYSLOG: &str = "/dev/log";
/// The sizes of `local` logs if nothing else is asked for, Docker's.
const LOCAL_FILE_BYTES: u64 = 20 << 20;
const LOCAL_FILES: u32 = 5;

/// Options that choose what stands beside each line.
const ATTRIBUTES: [&str; 5] = ["labels", "labels-regex", "env", "env-regex", "tag"];
/// Options of every driver.
const COMMON: [&str; 2] = ["mode", "max-buffer-size"];
/// Options of drivers whose log is kept only beside.
const CACHE: [&str; 4] = ["cache-disabled", "cache-max-size", "cache-max-file", "cache-compress"];
const ROTATION: [&str; 3] = ["max-size", "max-file", "compress"];
const SYSLOG_OPTIONS: [&str; 7] = [
    "syslog-address",
    "syslog-facility",
    "syslog-format",
    "syslog-tls-ca-cert",
    "syslog-tls-cert",
    "syslog-tls-key",
    "syslog-tls-skip-verify",
];

/// Gives a container that names no driver the default one, and the default's options where it sets none itself.
pub(crate) fn settle(wanted: &mut LogSpec, default: &LogSpec) {
    if wanted.driver.is_empty() {
        wanted.driver.clone_from(&default.driver);
    }
    if wanted.driver == default.driver {
        for (key, value) in &default.options {
            wanted.options.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
}

/// Checks a driver's name and its options' names.
///
/// # Errors
/// If there is no such driver or option, or two options contradict each other.
pub fn check(log: &LogSpec) -> Result<()> {
    let invalid = |text: String| Err(EngineError::Invalid(text));
    let driver = log.driver.as_str();
    let options: Vec<&str> = match driver {
        "json-file" => [&ROTATION[..], &ATTRIBUTES].concat(),
        "local" => ROTATION.to_vec(),
        "journald" => [&ATTRIBUTES[..], &CACHE].concat(),
        "syslog" => [&ATTRIBUTES[..], &CACHE, &SYSLOG_OPTIONS].concat(),
        "none" => Vec::new(),
        // Docker's words to the letter: clients compare them.
        _ => {
            return invalid(format!(
                "error looking up logging plugin {driver}: plugin \"{driver}\" not found"
            ));
        }
    };
    for key in log.options.keys() {
        if !options.contains(&key.as_str()) && !COMMON.contains(&key.as_str()) {
            return invalid(format!("unknown log opt '{key}' for {driver} log driver"));
        }
    }
    match log.options.get("mode").map_or("blocking", String::as_str) {
        "blocking" | "" if log.options.contains_key("max-buffer-size") => {
            return invalid(
                "logger: max-buffer-size option is only supported with 'mode=non-blocking'".to_owned(),
            );
        }
        "blocking" | "non-blocking" | "" => {}
        other => return invalid(format!("logger: logging mode not supported: {other}")),
    }
    if driver == "syslog" {
        facility(log)?;
        syslog_format(log)?;
        if let Some(address) = log.options.get("syslog-address") {
            split_address(address)?;
        }
    }
    Ok(())
}

/// Where the log of a container in `directory` is kept, and how; `None`: it is not.
pub(crate) fn kept(log: &LogSpec, directory: &Path, id: &str) -> Option<(PathBuf, LogFormat)> {
    match log.driver.as_str() {
        "none" => None,
        // Records of the first version have no name for the default.
        "json-file" | "" => Some((directory.join(format!("{id}-json.log")), LogFormat::JsonFile)),
        "local" => Some((directory.join("local-logs/container.log"), LogFormat::Local)),
        _ if is_true(log, "cache-disabled").unwrap_or(false) => None,
        _ => Some((directory.join("container-cached.log"), LogFormat::Local)),
    }
}

/// What the shim is to do with the output of the container of `record`, whose files are in `directory`.
///
/// # Errors
/// If an option's value makes no sense, or a syslog server's name can't be resolved.
pub(crate) fn plan(record: &ContainerRecord, directory: &Path) -> Result<LogConfig> {
    plan_here(record, directory).map_err(|reason| {
        EngineError::Invalid(format!("failed to initialize logging driver: {}", sampan_base::chain(&reason)))
    })
}

fn plan_here(record: &ContainerRecord, directory: &Path) -> Result<LogConfig> {
    let log = &record.spec.log;
    let kept = match kept(log, directory, &record.id) {
        None => None,
        Some((path, LogFormat::JsonFile)) => {
            let max_size = log.options.get("max-size").map(|text| size(text, 1000)).transpose()?;
            let max_files = number_of_files(log, "max-file", 1)?;
            let compress = is_true(log, "compress")?;
            if compress && (max_files < 2 || max_size.is_none()) {
                return Err(EngineError::Invalid(
                    "compress cannot be true when max-file is less than 2 or max-size is not set".to_owned(),
                ));
            }
            let attributes = attributes(record)?;
            Some(KeptLog { path, format: LogFormat::JsonFile, max_size, max_files, compress, attributes })
        }
        Some((path, LogFormat::Local)) => {
            let prefix = if log.driver == "local" { "" } else { "cache-" };
            let key = |name: &str| format!("{prefix}{name}");
            let max_size = match log.options.get(&key("max-size")) {
                Some(text) => size(text, 1024)?,
                None => LOCAL_FILE_BYTES,
            };
            let max_files = number_of_files(log, &key("max-file"), LOCAL_FILES)?;
            let compress = !log.options.contains_key(&key("compress")) || is_true(log, &key("compress"))?;
            Some(KeptLog {
                path,
                format: LogFormat::Local,
                max_size: Some(max_size),
                max_files,
                compress: compress && max_files > 1,
                attributes: BTreeMap::new(),
            })
        }
    };
    let sent = match log.driver.as_str() {
        "syslog" => Some(SentLog::Syslog {
            to: resolve(log.options.get("syslog-address").map_or("", String::as_str))?,
            format: syslog_format(log)?,
            facility: facility(log)?,
            tag: tag(record, "{{.ID}}")?,
            hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        }),
        "journald" => {
            if !Path::new(JOURNAL).exists() {
                return Err(EngineError::Unsupported("journald is not enabled on this host".to_owned()));
            }
            Some(SentLog::Journald { socket: JOURNAL.into(), fields: journal_fields(record)? })
        }
        _ => None,
    };
    Ok(LogConfig { kept, sent })
}

fn journal_fields(record: &ContainerRecord) -> Result<BTreeMap<String, String>> {
    let tag = tag(record, "{{.ID}}")?;
    let mut fields = BTreeMap::new();
    for (name, value) in attributes(record)? {
        // Names of fields are upper case, digits and `_` (systemd.journal-fields(7)).
        let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
        fields.insert(name.chars().map(plain).collect::<String>().trim_start_matches('_').to_owned(), value);
    }
    fields.remove("TAG");
    let own = [
        ("CONTAINER_ID", record.id[..12].to_owned()),
        ("CONTAINER_ID_FULL", record.id.clone()),
        ("CONTAINER_NAME", record.name.clone()),
        ("CONTAINER_TAG", tag.clone()),
        ("IMAGE_NAME", record.spec.image.clone()),
        ("SYSLOG_IDENTIFIER", tag),
    ];
    fields.extend(own.map(|(k, v)| (k.to_owned(), v)));
    Ok(fields)
}

/// What `labels`, `env` and `tag` choose to stand beside each line.
fn attributes(record: &ContainerRecord) -> Result<BTreeMap<String, String>> {
    let log = &record.spec.log;
    let mut chosen = BTreeMap::new();
    let listed = |key: &str| -> Vec<&str> {
        log.options.get(key).map(|text| text.split(',').collect()).unwrap_or_default()
    };
    let expression = |key: &str| match log.options.get(key) {
        None => Ok(None),
        Some(text) => regex_lite::Regex::new(text)
            .map(Some)
            .map_err(|e| EngineError::Invalid(format!("invalid value for the log option {key}: {e}"))),
    };
    let labels = record.spec.labels.iter().map(|(k, v)| (k.as_str(), v.as_str()));
    let env = record.spec.env.iter().filter_map(|entry| entry.split_once('='));
    let sources: [(&str, Vec<(&str, &str)>); 2] = [("labels", labels.collect()), ("env", env.collect())];
    for (key, pairs) in sources {
        let (names, pattern) = (listed(key), expression(&format!("{key}-regex"))?);
        for (name, value) in pairs {
            if names.contains(&name) || pattern.as_ref().is_some_and(|p| p.is_match(name)) {
                chosen.insert(name.to_owned(), value.to_owned());
            }
        }
    }
    if log.options.contains_key("tag") {
        chosen.insert("tag".to_owned(), tag(record, "")?);
    }
    Ok(chosen)
}

/// The `tag` option with its templates filled in.
fn tag(record: &ContainerRecord, default: &str) -> Result<String> {
    let template = record.spec.log.options.get("tag").map_or(default, String::as_str);
    let mut text = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        text += before;
        let (field, after) = after
            .split_once("}}")
            .ok_or_else(|| EngineError::Invalid(format!("template: log-tag: `{template}` has no `}}}}`")))?;
        let image = record.image_id.rsplit(':').next().unwrap_or_default();
        text += match field.trim() {
            ".ID" => &record.id[..12],
            ".FullID" => &record.id,
            ".Name" => &record.name,
            ".ImageID" => image.get(..12).unwrap_or(image),
            ".ImageFullID" => &record.image_id,
            ".ImageName" => &record.spec.image,
            ".DaemonName" => "sampan",
            other => {
                return Err(EngineError::Invalid(format!(
                    "template: log-tag: `{other}` is not supported: use .ID, .FullID, .Name, .ImageID, .ImageFullID, \
                     .ImageName or .DaemonName"
                )));
            }
        };
        rest = after;
    }
    Ok(text + rest)
}

/// A number of bytes: `10m`, `1.5g`, of 1000 or 1024.
fn size(text: &str, base: u64) -> Result<u64> {
    let invalid = || EngineError::Invalid(format!("invalid size: '{text}'"));
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(lower.len());
    let power = match lower[digits..].trim().trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        _ => return Err(invalid()),
    };
    let number: f64 = lower[..digits].parse().map_err(|_| invalid())?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    let bytes = (number * base.pow(power) as f64) as u64;
    if bytes == 0 {
        return Err(EngineError::Invalid("max-size must be a positive number".to_owned()));
    }
    Ok(bytes)
}

fn number_of_files(log: &LogSpec, key: &str, default: u32) -> Result<u32> {
    /// More would make each rotation a walk.
    const MOST: u32 = 1000;
    let Some(text) = log.options.get(key) else { return Ok(default) };
    match text.parse::<u32>() {
        Ok(0) => Err(EngineError::Invalid(format!("{key} cannot be less than 1"))),
        Ok(n) if n <= MOST => Ok(n),
        _ => Err(EngineError::Invalid(format!("invalid value for {key}: '{text}'"))),
    }
}

fn is_true(log: &LogSpec, key: &str) -> Result<bool> {
    match log.options.get(key).map_or("false", String::as_str) {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        text => Err(EngineError::Invalid(format!("error reading {key} log option: `{text}` is no boolean"))),
    }
}

fn syslog_format(log: &LogSpec) -> Result<SyslogFormat> {
    match log.options.get("syslog-format").map_or("", String::as_str) {
        "" => Ok(SyslogFormat::Unix),
        "rfc3164" => Ok(SyslogFormat::Rfc3164),
        "rfc5424" => Ok(SyslogFormat::Rfc5424),
        "rfc5424micro" => Ok(SyslogFormat::Rfc5424Micro),
        _ => Err(EngineError::Invalid("Invalid syslog format".to_owned())),
    }
}

/// A facility's number, RFC 5424 6.2.1.
fn facility(log: &LogSpec) -> Result<u8> {
    const NAMES: [&str; 12] = [
        "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp",
    ];
    let text = log.options.get("syslog-facility").map_or("daemon", String::as_str);
    let named = NAMES.iter().position(|name| *name == text);
    let local = text.strip_prefix("local").and_then(|n| n.parse::<usize>().ok()).filter(|n| *n < 8);
    let number = named.or(local.map(|n| n + 16)).or_else(|| text.parse().ok().filter(|n| *n < 24));
    let number = number.and_then(|n| u8::try_from(n).ok());
    number.ok_or_else(|| EngineError::Invalid("invalid syslog facility".to_owned()))
}

/// The scheme and the rest of `udp://host:port` and the like.
fn split_address(address: &str) -> Result<(&str, &str)> {
    match address.split_once("://") {
        Some((scheme @ ("udp" | "tcp" | "unix" | "unixgram"), rest)) => Ok((scheme, rest)),
        Some(("tcp+tls", _)) => Err(EngineError::Unsupported(
            "syslog-address tcp+tls:// is not supported: use tcp:// to a relay on this host".to_owned(),
        )),
        _ => Err(EngineError::Invalid(format!(
            "unsupported syslog-address `{address}`: use udp://, tcp://, unix:// or unixgram://"
        ))),
    }
}

fn resolve(address: &str) -> Result<SyslogAddress> {
    const PORT: &str = "514";
    if address.is_empty() {
        return Ok(SyslogAddress::Unixgram(SYSLOG.into()));
    }
    let (scheme, rest) = split_address(address)?;
    let host = match rest {
        "" => format!("localhost:{PORT}"),
        // A name or an IPv6 address in brackets without a port.
        _ if rest.ends_with(']') || !rest.contains(':') => format!("{rest}:{PORT}"),
        _ => rest.to_owned(),
    };
    let first = || {
        let mut found =
            host.to_socket_addrs().map_err(EngineError::io(format!("cannot resolve `{host}`")))?;
        found.next().ok_or_else(|| EngineError::Invalid(format!("`{host}` has no address")))
    };
    Ok(match scheme {
        "udp" => SyslogAddress::Udp(first()?),
        "tcp" => SyslogAddress::Tcp(first()?),
        "unix" => SyslogAddress::Unix(rest.into()),
        _ => SyslogAddress::Unixgram(rest.into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::state::Phase;
    use crate::spec::ContainerSpec;

    fn spec(driver: &str, options: &[(&str, &str)]) -> LogSpec {
        let options = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        LogSpec { driver: driver.to_owned(), options }
    }

    fn record(log: LogSpec) -> ContainerRecord {
        ContainerRecord {
            id: "0123456789abcdef".repeat(4),
            name: "web".to_owned(),
            created: sampan_base::Timestamp::from_unix(0, 0).unwrap(),
            image_id: format!("sha256:{}", "a".repeat(64)),
            args: Vec::new(),
            spec: ContainerSpec {
                image: "img:1".to_owned(),
                labels: BTreeMap::from([
                    ("app.a".to_owned(), "1".to_owned()),
                    ("b".to_owned(), "2".to_owned()),
                ]),
                env: vec!["E=3".to_owned()],
                log,
                ..ContainerSpec::default()
            },
            mapping: None,
            phase: Phase::Created { error: None },
            restart_count: 0,
            stopped_by_hand: false,
            health: None,
            unreadable: None,
        }
    }

    #[test]
    fn names_of_drivers_and_options_are_checked() {
        for (driver, options, expected) in [
            ("json-file", &[("max-size", "1m")][..], ""),
            ("local", &[("compress", "x")], ""),
            ("syslog", &[("syslog-address", "udp://h:1"), ("tag", "x"), ("cache-disabled", "1")], ""),
            ("foo", &[], "error looking up logging plugin foo: plugin \"foo\" not found"),
            ("json-file", &[("foo", "1")], "unknown log opt 'foo' for json-file log driver"),
            ("json-file", &[("mode", "x")], "logger: logging mode not supported: x"),
            (
                "local",
                &[("max-buffer-size", "1m")],
                "logger: max-buffer-size option is only supported with 'mode=non-blocking'",
            ),
            ("syslog", &[("syslog-facility", "zz")], "invalid syslog facility"),
            ("syslog", &[("syslog-format", "q")], "Invalid syslog format"),
        ] {
            let got = check(&spec(driver, options)).err().map(|e| e.to_string()).unwrap_or_default();
            assert_eq!(got, expected, "{driver} {options:?}");
        }
    }

    #[test]
    fn values_become_what_the_shim_is_told() {
        let plan = |driver: &str, options: &[(&str, &str)]| {
            plan(&record(spec(driver, options)), Path::new("/d")).map_err(|e| e.to_string())
        };
        let json = plan(
            "json-file",
            &[
                ("max-size", "10m"),
                ("max-file", "3"),
                ("labels-regex", "^app"),
                ("env", "E,F"),
                ("tag", "{{.Name}}/{{.ID}}"),
            ],
        );
        let json = json.unwrap().kept.unwrap();
        assert_eq!((json.max_size, json.max_files, json.compress), (Some(10_000_000), 3, false));
        let text: Vec<_> = json.attributes.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(text, ["E=3", "app.a=1", "tag=web/0123456789ab"]);
        let local = plan("local", &[("max-size", "1k")]).unwrap().kept.unwrap();
        assert_eq!((local.max_size, local.max_files, local.compress), (Some(1024), 5, true));
        let syslog = plan("syslog", &[("syslog-address", "udp://127.0.0.1"), ("syslog-facility", "local7")]);
        let syslog = syslog.unwrap();
        assert!(
            matches!(syslog.sent, Some(SentLog::Syslog { to: SyslogAddress::Udp(a), facility: 23, .. }) if a.port() == 514)
        );
        assert!(syslog.kept.is_some());
        assert_eq!(plan("none", &[]).unwrap(), LogConfig::default());
        for (options, expected) in [
            (&[("max-size", "xx")][..], "invalid size: 'xx'"),
            (&[("max-file", "0")], "max-file cannot be less than 1"),
            (
                &[("compress", "true")],
                "compress cannot be true when max-file is less than 2 or max-size is not set",
            ),
        ] {
            assert_eq!(
                plan("json-file", options).unwrap_err(),
                format!("failed to initialize logging driver: {expected}")
            );
        }
    }

    #[test]
    fn the_defaults_options_are_only_for_the_defaults_driver() {
        let default = spec("local", &[("max-size", "1m"), ("max-file", "2")]);
        let settled = |driver: &str, options| {
            let mut log = spec(driver, options);
            settle(&mut log, &default);
            log
        };
        assert_eq!(
            settled("", &[("max-file", "9")]),
            spec("local", &[("max-size", "1m"), ("max-file", "9")])
        );
        assert_eq!(settled("json-file", &[]), spec("json-file", &[]));
    }
}
