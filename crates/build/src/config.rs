//! What instructions do to the image's configuration: everything that makes no files. Pure: words come in expanded.

use sampan_oci::image::{ContainerConfig, Healthcheck, ImageConfig};

use crate::dockerfile;
use crate::dockerfile::Command;

/// Where programs are looked for if the base image does not say.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Prepares the configuration of a base image for building on it.
pub(crate) fn start(base: &mut ImageConfig) {
    // These say how Docker made the base, not what it is.
    for key in ["container", "container_config", "docker_version", "id", "parent", "Size", "throwaway"] {
        base.other.remove(key);
    }
    base.config.other.clear();
    base.config.on_build.clear();
    if !base.config.env.iter().any(|e| e.starts_with("PATH=")) {
        base.config.env.push(DEFAULT_PATH.to_owned());
    }
}

/// The value of a variable of `ENV`.
pub(crate) fn env<'a>(config: &'a ContainerConfig, name: &str) -> Option<&'a str> {
    config.env.iter().find_map(|e| e.split_once('=').filter(|(key, _)| *key == name)).map(|(_, value)| value)
}

/// Sets a variable; one that is set keeps its place.
pub(crate) fn set_env(config: &mut ContainerConfig, name: &str, value: &str) {
    let text = format!("{name}={value}");
    match config.env.iter_mut().find(|e| e.split_once('=').is_some_and(|(key, _)| key == name)) {
        Some(old) => *old = text,
        None => config.env.push(text),
    }
}

/// The shell of shell-form commands.
pub(crate) fn shell(config: &ContainerConfig) -> Vec<String> {
    config.shell.clone().unwrap_or_else(|| vec!["/bin/sh".to_owned(), "-c".to_owned()])
}

/// The arguments to execute for a command in either form.
pub(crate) fn arguments(config: &ContainerConfig, command: &Command) -> Vec<String> {
    match command {
        Command::Exec(list) => list.clone(),
        Command::Shell(text) => shell(config).into_iter().chain([text.clone()]).collect(),
    }
}

/// `WORKDIR`: relative to the last one.
pub(crate) fn join_workdir(config: &ContainerConfig, path: &str) -> String {
    let from = if path.starts_with('/') { "" } else { config.working_dir.as_str() };
    let mut parts: Vec<&str> = Vec::new();
    for part in from.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// The ports of one word of `EXPOSE`: `80`, `53/udp`, `7000-7002`; `None` if it is no port.
pub(crate) fn ports(word: &str) -> Option<Vec<String>> {
    let (numbers, protocol) = word.split_once('/').unwrap_or((word, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return None;
    }
    // `host:container` is read, and only the container's side counts, as in Docker.
    let container = numbers.rsplit(':').next()?;
    let (first, last) = container.split_once('-').unwrap_or((container, container));
    let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then(|| (first..=last).map(|n| format!("{n}/{protocol}")).collect())
}

/// `HEALTHCHECK` as the configuration has it.
pub(crate) fn healthcheck(check: &dockerfile::Healthcheck) -> Healthcheck {
    let test = match &check.command {
        None => vec!["NONE".to_owned()],
        Some(Command::Shell(text)) => vec!["CMD-SHELL".to_owned(), text.clone()],
        Some(Command::Exec(list)) => ["CMD".to_owned()].into_iter().chain(list.iter().cloned()).collect(),
    };
    Healthcheck {
        test,
        interval: check.interval,
        timeout: check.timeout,
        start_period: check.start_period,
        start_interval: check.start_interval,
        retries: check.retries,
    }
}

const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// Whether `STOPSIGNAL` may be this.
pub(crate) fn is_signal(text: &str) -> bool {
    if let Ok(number) = text.parse::<u32>() {
        return (1..=64).contains(&number);
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let real_time = |prefix: &str| {
        name.strip_prefix(prefix)
            .is_some_and(|n| n.is_empty() || n[1..].parse::<u32>().is_ok_and(|n| n <= 30))
    };
    SIGNALS.contains(&name) || real_time("RTMIN") || real_time("RTMAX")
}

/// Text in double quotes as Go's `%q` writes it: history lines have it.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if u32::from(c) < 0x20 || u32::from(c) == 0x7f => {
                out.push_str(&format!("\\x{:02x}", u32::from(c)))
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A list as Go's `%q` writes it: `["a" "b"]`.
pub(crate) fn quoted_list(list: &[String]) -> String {
    let words: Vec<String> = list.iter().map(|w| quoted(w)).collect();
    format!("[{}]", words.join(" "))
}

/// `HEALTHCHECK` as Docker's history has it: a Go structure printed by `%q`.
pub(crate) fn quoted_healthcheck(check: &Healthcheck) -> String {
    let time = |nanos: i64| quoted(&go_duration(nanos));
    // A number printed by %q is the character of that number.
    let retries = match char::from_u32(u32::try_from(check.retries).unwrap_or(0)) {
        Some(c) if u32::from(c) < 0x20 => match c {
            '\u{7}' => "'\\a'".to_owned(),
            '\u{8}' => "'\\b'".to_owned(),
            '\t' => "'\\t'".to_owned(),
            '\n' => "'\\n'".to_owned(),
            '\u{b}' => "'\\v'".to_owned(),
            '\u{c}' => "'\\f'".to_owned(),
            '\r' => "'\\r'".to_owned(),
            c => format!("'\\x{:02x}'", u32::from(c)),
        },
        Some(c) => format!("'{c}'"),
        None => "'�'".to_owned(),
    };
    let times = format!("{} {} {}", time(check.interval), time(check.timeout), time(check.start_period));
    format!("&{{{} {times} {retries}}}", quoted_list(&check.test))
}

/// A time as Go prints it: `1m30s`, `500ms`, `0s`.
fn go_duration(nanos: i64) -> String {
    let part = |value: f64, unit: &str| format!("{value}{unit}");
    match nanos {
        0 => "0s".to_owned(),
        n if n < 1_000 => part(n as f64, "ns"),
        n if n < 1_000_000 => part(n as f64 / 1e3, "µs"),
        n if n < 1_000_000_000 => part(n as f64 / 1e6, "ms"),
        n => {
            let (hours, minutes) = (n / 3_600_000_000_000, n / 60_000_000_000 % 60);
            let seconds = (n % 60_000_000_000) as f64 / 1e9;
            match (hours, minutes) {
                (0, 0) => format!("{seconds}s"),
                (0, m) => format!("{m}m{seconds}s"),
                (h, m) => format!("{h}h{m}m{seconds}s"),
            }
        }
    }
}

/// A list of pairs as history has it: `a=b c=d`.
pub(crate) fn pairs(list: &[(String, String)]) -> String {
    list.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_ranges_and_nonsense() {
        assert_eq!(ports("80").unwrap(), ["80/tcp"]);
        assert_eq!(ports("53/UDP").unwrap(), ["53/udp"]);
        assert_eq!(ports("7000-7002/tcp").unwrap().len(), 3);
        assert_eq!(ports("8080:80").unwrap(), ["80/tcp"]);
        for bad in ["", "x", "80/x", "70000", "5-4", "-1"] {
            assert!(ports(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn work_directories_join() {
        let mut config = ContainerConfig::default();
        for (path, expected) in [("a", "/a"), ("b/../c", "/a/c"), ("/x//y/", "/x/y"), ("../../..", "/")] {
            config.working_dir = join_workdir(&config, path);
            assert_eq!(config.working_dir, expected);
        }
    }

    #[test]
    fn signals() {
        for good in ["9", "SIGTERM", "term", "SIGRTMIN+3", "RTMAX-1"] {
            assert!(is_signal(good), "{good}");
        }
        for bad in ["0", "65", "SIGFOO", ""] {
            assert!(!is_signal(bad), "{bad}");
        }
    }

    #[test]
    fn history_texts_are_gos() {
        assert_eq!(quoted_list(&["a\"b".into(), "c\n".into()]), r#"["a\"b" "c\n"]"#);
        let check = Healthcheck {
            test: vec!["CMD".into()],
            interval: 90_000_000_000,
            retries: 3,
            ..Default::default()
        };
        assert_eq!(quoted_healthcheck(&check), r#"&{["CMD"] "1m30s" "0s" "0s" '\x03'}"#);
    }
}
