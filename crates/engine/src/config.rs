//! Where an engine keeps its things and which programs it uses.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;
use sampan_registry::RegistryConfig;

use crate::settings::Settings;
use crate::spec::LogSpec;
pub use crate::userns::subordinate::SubordinateFiles;

/// An engine's configuration. Two engines may run side by side if `root`, `state`, `bridge`, `subnet` and `table` differ.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// What survives a reboot: images, containers, volumes. Default `/var/lib/sampan`.
    pub root: PathBuf,
    /// What does not: sockets, bundles, namespaces. Default `/run/sampan`.
    pub state: PathBuf,
    /// The default network's bridge. Default `sampan0`.
    pub bridge: String,
    /// The default network's addresses; the first is the bridge's.
    pub subnet: Ipv4Net,
    /// Where networks without a subnet of their own get theirs. Default: Docker's.
    pub address_pools: Vec<crate::network::AddressPool>,
    /// The nftables table that the engine owns. Default `sampan`.
    pub table: String,
    /// The OCI runtime's executable.
    pub runtime: PathBuf,
    /// The shim's executable.
    pub shim: PathBuf,
    /// Name servers for containers that ask for none, where the host's are of no use to them.
    pub fallback_dns: Vec<Ipv4Addr>,
    /// What may change while it runs; what is here it begins with.
    pub settings: Settings,
    /// Containers run in user namespaces, as this user's subordinate ids; `None`: as on the host.
    pub userns: Option<Remap>,
    /// Where subordinate ids are listed.
    pub subordinate: SubordinateFiles,
}

/// Whose subordinate ids (`/etc/subuid`, `/etc/subgid`) the ids inside containers become. Users and groups that are called
/// `default` can't be meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remap {
    /// A user's name or number.
    pub user: String,
    /// A group's.
    pub group: String,
}

impl Remap {
    const DEFAULT: &str = "default";

    /// The user and group `sampan`, else `dockremap`, whichever has ids.
    pub fn whoever() -> Remap {
        Remap { user: Remap::DEFAULT.to_owned(), group: Remap::DEFAULT.to_owned() }
    }

    pub(crate) fn is_default(&self) -> bool {
        *self == Remap::whoever()
    }
}

impl std::str::FromStr for Remap {
    type Err = String;

    /// Reads `default` (see [`Remap::whoever`]) or `user[:group]`, each a name or a number.
    fn from_str(text: &str) -> Result<Remap, String> {
        let (user, group) = text.split_once(':').unwrap_or((text, text));
        if user.is_empty() || group.is_empty() || group.contains(':') {
            return Err(format!("invalid user to map to: `{text}`: expected `default` or `user[:group]`"));
        }
        Ok(Remap { user: user.to_owned(), group: group.to_owned() })
    }
}

impl EngineConfig {
    /// The defaults, with the programs that lie beside `executables`' directory if they do, else from PATH.
    pub fn new(executables: Option<&Path>) -> EngineConfig {
        let program = |name: &str| {
            let beside = executables.map(|d| d.join(name)).filter(|p| p.exists());
            beside.unwrap_or_else(|| PathBuf::from(name))
        };
        EngineConfig {
            root: PathBuf::from("/var/lib/sampan"),
            state: PathBuf::from("/run/sampan"),
            bridge: "sampan0".to_owned(),
            subnet: Ipv4Net::new_assert(Ipv4Addr::new(172, 31, 0, 0), 16),
            address_pools: crate::network::ipam::default_pools(),
            table: "sampan".to_owned(),
            runtime: program("sampan-runtime"),
            shim: program("containerd-shim-sampan-v2"),
            fallback_dns: vec![Ipv4Addr::new(8, 8, 8, 8), Ipv4Addr::new(8, 8, 4, 4)],
            settings: Settings {
                log: LogSpec { driver: "json-file".to_owned(), ..LogSpec::default() },
                registries: RegistryConfig {
                    certificates: vec!["/etc/sampan/certs.d".into(), "/etc/docker/certs.d".into()],
                    ..RegistryConfig::default()
                },
                ..Settings::default()
            },
            userns: None,
            subordinate: SubordinateFiles::default(),
        }
    }

    pub(crate) fn bundle(&self, id: &str) -> PathBuf {
        self.state.join("bundles").join(id)
    }

    pub(crate) fn runtime_root(&self) -> PathBuf {
        self.state.join("runtime")
    }

    pub(crate) fn container_directory(&self, id: &str) -> PathBuf {
        self.root.join("containers").join(id)
    }

    pub(crate) fn volumes(&self) -> PathBuf {
        self.root.join("volumes")
    }
}
