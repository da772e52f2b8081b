//! The daemon's configuration: flags over `/etc/sampan/config.toml` over defaults. `sampand --validate` reads it and ends.
//!
//! A reload (SIGHUP) reads the file again and takes over what [`Reloadable`] holds; all else needs a restart, which
//! containers do not notice.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Parser;
use ipnet::Ipv4Net;
use sampan_engine::EngineConfig;
use sampan_engine::settings::Settings;
use sampan_engine::spec::LogSpec;
use serde::Deserialize;

use crate::listen::{Access, Address};
use crate::tls;

/// The configuration file, if none is named.
const DEFAULT_FILE: &str = "/etc/sampan/config.toml";
/// The longest configuration file.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// sampan's engine daemon: Docker's HTTP API on a unix socket, and over TLS.
#[derive(Parser, Debug, Default)]
#[command(name = "sampand", version)]
pub(crate) struct Arguments {
    /// Where images, containers and volumes are kept
    #[arg(long, value_name = "DIR", alias = "data-root")]
    root: Option<PathBuf>,
    /// Where sockets, bundles and namespaces are, which a reboot forgets
    #[arg(long, value_name = "DIR", alias = "exec-root")]
    state: Option<PathBuf>,
    /// Where to listen; may be repeated: unix:///path, tcp://address:port, fd:// (systemd's sockets) [default: docker.sock
    /// in the state directory]
    #[arg(short = 'H', long, value_name = "ADDRESS")]
    host: Vec<Address>,
    /// The group that may use the unix socket besides root, by name or number
    #[arg(short = 'G', long, value_name = "GROUP")]
    group: Option<String>,
    /// The unix socket's permissions, octal [default: 600, with a group 660]
    #[arg(long, value_name = "MODE")]
    socket_mode: Option<String>,
    /// `false`: speak plain TCP, so that whoever reaches the port owns this machine
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    tls: Option<bool>,
    /// Demand certificates of TCP clients (as is done in any case)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    tlsverify: Option<bool>,
    /// The authorities that TCP clients' certificates need
    #[arg(long, value_name = "FILE")]
    tlscacert: Option<PathBuf>,
    /// The daemon's certificate for TCP
    #[arg(long, value_name = "FILE")]
    tlscert: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE")]
    tlskey: Option<PathBuf>,
    /// The default network's bridge
    #[arg(long, value_name = "NAME")]
    bridge: Option<String>,
    /// The default network's addresses
    #[arg(long, value_name = "CIDR")]
    subnet: Option<Ipv4Net>,
    /// The nftables table that the daemon owns
    #[arg(long, value_name = "NAME")]
    table: Option<String>,
    /// The OCI runtime's executable
    #[arg(long, value_name = "PATH")]
    runtime: Option<PathBuf>,
    /// The shim's executable
    #[arg(long, value_name = "PATH")]
    shim: Option<PathBuf>,
    /// The log driver of containers that ask for none
    #[arg(long, value_name = "DRIVER")]
    log_driver: Option<String>,
    /// An option of the default log driver; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    log_opt: Vec<String>,
    /// Run containers in user namespaces, as this user's subordinate ids: `default` or `user[:group]`
    #[arg(long, value_name = "USER[:GROUP]")]
    userns_remap: Option<String>,
    /// A label of this engine, shown by `info`; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// Where to serve metrics for Prometheus, in plain HTTP
    #[arg(long, value_name = "ADDRESS:PORT")]
    metrics_addr: Option<SocketAddr>,
    /// A file for the daemon's process id
    #[arg(short, long, value_name = "FILE")]
    pidfile: Option<PathBuf>,
    /// The configuration file [default: /etc/sampan/config.toml, if there is one]
    #[arg(long, value_name = "FILE", alias = "config-file")]
    config: Option<PathBuf>,
    /// Only read the configuration, and say whether it makes sense
    #[arg(long)]
    pub(crate) validate: bool,
    /// What to log: error, warn, info, debug, trace, or a filter [default: info]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Log what `--log-level debug` logs
    #[arg(short = 'D', long)]
    debug: bool,
    /// How to log
    #[arg(long, default_value = "text", value_parser = ["text", "json"])]
    pub(crate) log_format: String,
}

/// The file's content: the flags by name.
#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    root: Option<PathBuf>,
    state: Option<PathBuf>,
    host: Option<OneOrMore>,
    group: Option<String>,
    socket_mode: Option<String>,
    tls: Option<bool>,
    tlscacert: Option<PathBuf>,
    tlscert: Option<PathBuf>,
    tlskey: Option<PathBuf>,
    bridge: Option<String>,
    subnet: Option<Ipv4Net>,
    table: Option<String>,
    runtime: Option<PathBuf>,
    shim: Option<PathBuf>,
    metrics_addr: Option<SocketAddr>,
    pidfile: Option<PathBuf>,
    log_level: Option<String>,
    #[serde(default)]
    labels: Vec<String>,
    userns_remap: Option<String>,
    subuid: Option<PathBuf>,
    subgid: Option<PathBuf>,
    #[serde(default)]
    log: Log,
    #[serde(default)]
    registries: Registries,
    #[serde(default)]
    build: Build,
    #[serde(default)]
    network: Network,
}

/// Networks that people make.
#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct Network {
    /// Where those without a subnet of their own get theirs [default: Docker's].
    default_address_pools: Option<Vec<AddressPool>>,
}

/// All subnets of `size` in `base`, in the words of Docker's daemon.json.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct AddressPool {
    base: Ipv4Net,
    size: u8,
}

#[derive(Deserialize, Debug)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

/// The log of containers that ask for none.
#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct Log {
    driver: Option<String>,
    options: BTreeMap<String, String>,
}

/// What builds leave.
#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct Build {
    /// Bytes of the build cache that are kept [default: a tenth of the file system].
    cache_bytes: Option<u64>,
    /// Days after which what was of no use goes [default: 60].
    cache_days: Option<u64>,
}

/// How registries are reached.
#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct Registries {
    /// For a registry's name, hosts or URLs that its content may be pulled from, tried first and in order.
    mirrors: BTreeMap<String, Vec<String>>,
    /// Registries that are spoken to in plain HTTP, or whose certificate is not checked.
    insecure: Vec<String>,
    /// Directories of certificates, as Docker lays them out: `<dir>/<host[:port]>/*.crt`.
    certificates: Option<Vec<PathBuf>>,
}

/// What the daemon runs with.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) engine: EngineConfig,
    pub(crate) listen: Vec<Address>,
    pub(crate) access: Access,
    pub(crate) metrics: Option<SocketAddr>,
    pub(crate) pidfile: Option<PathBuf>,
    pub(crate) reloadable: Reloadable,
}

/// What a reload takes over.
#[derive(Clone, Debug)]
pub(crate) struct Reloadable {
    pub(crate) settings: Settings,
    /// Certificates for TCP.
    pub(crate) tls: Option<tls::Files>,
    /// TCP is spoken without.
    pub(crate) plain: bool,
    pub(crate) log_level: String,
}

/// The effective configuration.
///
/// # Errors
/// If the file can't be read or says something unknown, or what it says contradicts itself.
pub(crate) fn effective(arguments: &Arguments) -> Result<Config> {
    let file = read_file(arguments.config.as_deref())?;
    let executable = std::env::current_exe().context("cannot find this executable's directory")?;
    let mut engine = EngineConfig::new(executable.parent());
    fn set<T: Clone>(value: &mut T, flag: Option<&T>, file: Option<&T>) {
        if let Some(chosen) = flag.or(file) {
            value.clone_from(chosen);
        }
    }
    set(&mut engine.root, arguments.root.as_ref(), file.root.as_ref());
    set(&mut engine.state, arguments.state.as_ref(), file.state.as_ref());
    set(&mut engine.bridge, arguments.bridge.as_ref(), file.bridge.as_ref());
    set(&mut engine.subnet, arguments.subnet.as_ref(), file.subnet.as_ref());
    set(&mut engine.table, arguments.table.as_ref(), file.table.as_ref());
    if let Some(pools) = &file.network.default_address_pools {
        if let Some(pool) = pools.iter().find(|p| p.size > 30 || p.size < p.base.prefix_len()) {
            anyhow::bail!("the address pool `{}` has no subnets of size {}", pool.base, pool.size);
        }
        let pool =
            |p: &AddressPool| sampan_engine::network::AddressPool { base: p.base.trunc(), size: p.size };
        engine.address_pools = pools.iter().map(pool).collect();
    }
    set(&mut engine.runtime, arguments.runtime.as_ref(), file.runtime.as_ref());
    set(&mut engine.shim, arguments.shim.as_ref(), file.shim.as_ref());
    let remap =
        arguments.userns_remap.as_ref().or(file.userns_remap.as_ref()).filter(|text| !text.is_empty());
    engine.userns = remap.map(|text| text.parse().map_err(anyhow::Error::msg)).transpose()?;
    set(&mut engine.subordinate.uids, None, file.subuid.as_ref());
    set(&mut engine.subordinate.gids, None, file.subgid.as_ref());
    let listen = addresses(arguments, &file, &engine)?;
    let tls = certificates(arguments, &file, &listen)?;
    engine.settings = settings(arguments, &file, std::mem::take(&mut engine.settings))?;
    Ok(Config {
        access: access(arguments, &file)?,
        metrics: arguments.metrics_addr.or(file.metrics_addr),
        pidfile: arguments.pidfile.clone().or(file.pidfile.clone()),
        reloadable: Reloadable {
            settings: engine.settings.clone(),
            plain: tls.is_none() && arguments.tls.or(file.tls) == Some(false),
            tls,
            log_level: match (&arguments.log_level, arguments.debug) {
                (Some(level), _) => level.clone(),
                (None, true) => "debug".to_owned(),
                (None, false) => file.log_level.clone().unwrap_or_else(|| "info".to_owned()),
            },
        },
        listen,
        engine,
    })
}

fn addresses(arguments: &Arguments, file: &File, engine: &EngineConfig) -> Result<Vec<Address>> {
    if !arguments.host.is_empty() {
        return Ok(arguments.host.clone());
    }
    let texts = match &file.host {
        None => return Ok(vec![Address::Unix(engine.state.join("docker.sock"))]),
        Some(OneOrMore::One(text)) => std::slice::from_ref(text),
        Some(OneOrMore::More(texts)) => texts,
    };
    texts.iter().map(|text| text.parse().map_err(anyhow::Error::msg)).collect()
}

fn access(arguments: &Arguments, file: &File) -> Result<Access> {
    let group = match arguments.group.as_ref().or(file.group.as_ref()).filter(|g| !g.is_empty()) {
        None => None,
        Some(name) => Some(group_id(name)?),
    };
    let mode = match arguments.socket_mode.as_ref().or(file.socket_mode.as_ref()) {
        None if group.is_some() => 0o660,
        None => 0o600,
        Some(text) => u32::from_str_radix(text, 8)
            .ok()
            .filter(|mode| *mode <= 0o777)
            .with_context(|| format!("socket-mode `{text}` is no octal mode such as 660"))?,
    };
    Ok(Access { group, mode })
}

fn group_id(name: &str) -> Result<u32> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let text = std::fs::read_to_string("/etc/group").context("cannot read `/etc/group`")?;
    let line = text.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|parts| parts[0] == name);
    let id = line.and_then(|parts| parts.get(2)?.parse().ok());
    id.with_context(|| format!("there is no group `{name}`: make it with `groupadd {name}`"))
}

fn certificates(arguments: &Arguments, file: &File, listen: &[Address]) -> Result<Option<tls::Files>> {
    let pick = |flag: &Option<PathBuf>, file: &Option<PathBuf>| flag.clone().or(file.clone());
    let files = (
        pick(&arguments.tlscacert, &file.tlscacert),
        pick(&arguments.tlscert, &file.tlscert),
        pick(&arguments.tlskey, &file.tlskey),
    );
    let plain = arguments.tls.or(file.tls) == Some(false);
    if arguments.tlsverify == Some(false) && !plain {
        bail!("clients over TCP are always checked: --tlsverify=false needs --tls=false");
    }
    let tcp = listen.iter().any(|address| matches!(address, Address::Tcp(_)));
    match files {
        (None, None, None) if plain || !tcp => Ok(None),
        (Some(authorities), Some(certificate), Some(key)) if !plain => {
            Ok(Some(tls::Files { authorities, certificate, key }))
        }
        (..) if plain => bail!("--tls=false contradicts the certificates that are named"),
        _ => bail!(
            "listening on TCP needs --tlscacert, --tlscert and --tlskey, or --tls=false if whoever reaches the port may \
             own this machine"
        ),
    }
}

fn settings(arguments: &Arguments, file: &File, default: Settings) -> Result<Settings> {
    let mut settings = default;
    let driver = arguments.log_driver.as_ref().or(file.log.driver.as_ref());
    let mut log = LogSpec {
        driver: driver.cloned().unwrap_or_else(|| settings.log.driver.clone()),
        options: file.log.options.clone(),
    };
    for option in &arguments.log_opt {
        let (key, value) = option.split_once('=').with_context(|| format!("`{option}` is not KEY=VALUE"))?;
        log.options.insert(key.to_owned(), value.to_owned());
    }
    sampan_engine::logs::driver::check(&log).map_err(|e| anyhow::anyhow!(sampan_base::chain(&e)))?;
    settings.log = log;
    settings.labels = file.labels.iter().chain(&arguments.label).cloned().collect();
    settings.registries.mirrors.clone_from(&file.registries.mirrors);
    settings.registries.insecure.clone_from(&file.registries.insecure);
    if let Some(directories) = &file.registries.certificates {
        settings.registries.certificates.clone_from(directories);
    }
    settings.build_cache.bytes = file.build.cache_bytes;
    if let Some(days) = file.build.cache_days {
        settings.build_cache.unused_for = std::time::Duration::from_secs(days.saturating_mul(24 * 3600));
    }
    Ok(settings)
}

fn read_file(named: Option<&Path>) -> Result<File> {
    let path = named.unwrap_or(Path::new(DEFAULT_FILE));
    if named.is_none() && !path.exists() {
        return Ok(File::default());
    }
    let bytes = sampan_base::files::read_limited(path, MAX_FILE_BYTES)?;
    let text = std::str::from_utf8(&bytes).with_context(|| format!("`{}` is not text", path.display()))?;
    toml::from_str(text).with_context(|| format!("cannot read `{}`", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Config> {
        effective(&Arguments::parse_from([&["sampand"], words].concat()))
    }

    #[test]
    fn flags_come_before_the_defaults_and_unknown_keys_are_refused() {
        let config =
            parse(&["--state", "/s", "--subnet", "10.9.0.0/24", "--log-opt", "max-size=1m"]).unwrap();
        assert_eq!(config.listen, [Address::Unix("/s/docker.sock".into())]);
        assert_eq!(config.engine.subnet.to_string(), "10.9.0.0/24");
        assert_eq!(config.reloadable.settings.log.options["max-size"], "1m");
        assert!(toml::from_str::<File>("bridg = 'x'").is_err());
        let text = "host = ['fd://', 'unix:///x']\n[registries]\ninsecure = ['a:5000']\n[registries.mirrors]\n'docker.io' = ['m.example']";
        let file: File = toml::from_str(text).unwrap();
        assert_eq!(file.registries.insecure, ["a:5000"]);
        assert_eq!(file.registries.mirrors["docker.io"], ["m.example"]);
    }

    #[test]
    fn tcp_needs_certificates_or_the_word_for_none() {
        assert!(parse(&["-H", "tcp://0.0.0.0:1"]).unwrap_err().to_string().contains("--tlscacert"));
        assert!(parse(&["-H", "tcp://127.0.0.1:1", "--tlscert", "/c"]).is_err());
        assert!(parse(&["-H", "tcp://127.0.0.1:1", "--tls=false"]).unwrap().reloadable.tls.is_none());
        let files = ["--tlscacert", "/a", "--tlscert", "/c", "--tlskey", "/k"];
        let config = parse(&[&["-H", "tcp://127.0.0.1:1", "--tlsverify"], &files[..]].concat()).unwrap();
        assert_eq!(config.reloadable.tls.unwrap().key, Path::new("/k"));
        assert!(parse(&[&["-H", "tcp://127.0.0.1:1", "--tls=false"], &files[..]].concat()).is_err());
    }

    #[test]
    fn a_socket_is_roots_unless_a_group_is_named() {
        let access = |words: &[&str]| parse(words).map(|c| (c.access.group, c.access.mode));
        assert_eq!(access(&[]).unwrap(), (None, 0o600));
        assert_eq!(access(&["-G", "0"]).unwrap(), (Some(0), 0o660));
        assert_eq!(access(&["-G", "root", "--socket-mode", "666"]).unwrap(), (Some(0), 0o666));
        assert!(access(&["-G", "no-such-group"]).is_err());
        assert!(access(&["--socket-mode", "9"]).is_err());
    }
}
