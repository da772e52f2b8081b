//! The daemon's configuration: flags over `/etc/sampan/config.toml` over defaults.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Parser;
use ipnet::Ipv4Net;
use sampan_engine::EngineConfig;
use serde::Deserialize;

/// The configuration file, if none is named.
const DEFAULT_FILE: &str = "/etc/sampan/config.toml";
/// The longest configuration file.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// sampan's engine daemon: Docker's HTTP API on a unix socket.
#[derive(Parser, Debug)]
#[command(name = "sampand", version)]
pub(crate) struct Arguments {
    /// Where images, containers and volumes are kept
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Where sockets, bundles and namespaces are, which a reboot forgets
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// The socket to listen on [default: docker.sock in the state directory]
    #[arg(short = 'H', long, value_name = "unix://PATH")]
    host: Option<String>,
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
    /// The configuration file [default: /etc/sampan/config.toml, if there is one]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What to log: error, warn, info, debug, trace, or a filter
    #[arg(long, default_value = "info", value_name = "LEVEL")]
    pub(crate) log_level: String,
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
    host: Option<String>,
    bridge: Option<String>,
    subnet: Option<Ipv4Net>,
    table: Option<String>,
    runtime: Option<PathBuf>,
    shim: Option<PathBuf>,
    #[serde(default)]
    registries: Registries,
    #[serde(default)]
    build: Build,
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
    pub(crate) socket: PathBuf,
}

/// The effective configuration.
///
/// # Errors
/// If the file can't be read or says something unknown, or the address to listen on is no unix socket.
pub(crate) fn effective(arguments: &Arguments) -> Result<Config> {
    let file = read_file(arguments.config.as_deref())?;
    let executable = std::env::current_exe().context("cannot find this executable's directory")?;
    let mut engine = EngineConfig::new(executable.parent());
    fn set<T: Clone>(value: &mut T, flag: Option<&T>, file: Option<T>) {
        if let Some(chosen) = flag.cloned().or(file) {
            *value = chosen;
        }
    }
    set(&mut engine.root, arguments.root.as_ref(), file.root);
    set(&mut engine.state, arguments.state.as_ref(), file.state);
    set(&mut engine.bridge, arguments.bridge.as_ref(), file.bridge);
    set(&mut engine.subnet, arguments.subnet.as_ref(), file.subnet);
    set(&mut engine.table, arguments.table.as_ref(), file.table);
    set(&mut engine.runtime, arguments.runtime.as_ref(), file.runtime);
    set(&mut engine.shim, arguments.shim.as_ref(), file.shim);
    engine.registries.mirrors = file.registries.mirrors;
    engine.registries.insecure = file.registries.insecure;
    if let Some(directories) = file.registries.certificates {
        engine.registries.certificates = directories;
    }
    engine.build_cache.bytes = file.build.cache_bytes;
    if let Some(days) = file.build.cache_days {
        engine.build_cache.unused_for = std::time::Duration::from_secs(days.saturating_mul(24 * 3600));
    }
    let socket = match arguments.host.as_ref().or(file.host.as_ref()) {
        None => engine.state.join("docker.sock"),
        Some(address) => match address.strip_prefix("unix://") {
            Some(path) => PathBuf::from(path),
            None => anyhow::bail!("cannot listen on `{address}`: only unix:// sockets are supported yet"),
        },
    };
    Ok(Config { engine, socket })
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

    #[test]
    fn flags_come_before_the_defaults_and_unknown_keys_are_refused() {
        let arguments = Arguments::parse_from(["sampand", "--state", "/s", "--subnet", "10.9.0.0/24"]);
        let config = effective(&arguments).unwrap();
        assert_eq!(config.socket, Path::new("/s/docker.sock"));
        assert_eq!(config.engine.subnet.to_string(), "10.9.0.0/24");
        assert!(toml::from_str::<File>("bridg = 'x'").is_err());
        let text = "[registries]\ninsecure = ['a:5000']\n[registries.mirrors]\n'docker.io' = ['m.example']";
        let file: File = toml::from_str(text).unwrap();
        assert_eq!(file.registries.insecure, ["a:5000"]);
        assert_eq!(file.registries.mirrors["docker.io"], ["m.example"]);
        assert!(effective(&Arguments::parse_from(["sampand", "-H", "tcp://0.0.0.0:1"])).is_err());
    }
}
