//! A network's link on the host: its bridge, or the link that it shares; and the kernel's settings that they need.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use netlink_packet_route::link::InfoKind;
use sampan_base::FileError;
use sampan_base::files::create_directories;

use crate::names::{Mac, is_key, is_link_name};
use crate::net::{Inner, OpenError};
use crate::spec::{NetworkConfig, NetworkKind};

/// The largest packet if the host has no way out to take it from.
const DEFAULT_MTU: u32 = 1500;
/// A network's or table's name becomes part of file names and comments.
const MAX_NAME_BYTES: usize = 128;

impl Inner {
    /// Checks a network against the others and makes its bridge.
    pub(crate) fn admit_network(&mut self, mut network: NetworkConfig) -> Result<(), OpenError> {
        let gateway = network.gateway();
        let invalid = |reason: String| OpenError::Invalid { network: network.name.clone(), reason };
        if !is_key(&network.name) || network.name.len() > MAX_NAME_BYTES {
            return Err(invalid("its name must be of letters, digits and _ + . -".into()));
        }
        if !is_link_name(&network.bridge) {
            return Err(invalid(format!("`{}` cannot be a bridge's name", network.bridge)));
        }
        if network.subnet.prefix_len() > 30 || !network.subnet.contains(&gateway) {
            return Err(invalid(format!("subnet {} has no room for gateway {gateway}", network.subnet)));
        }
        if let Some(v6) = &network.v6 {
            if v6.subnet.prefix_len() > 126 || !v6.subnet.contains(&v6.gateway()) {
                let reason = format!("subnet {} has no room for gateway {}", v6.subnet, v6.gateway());
                return Err(invalid(reason));
            }
            if !self.v6 {
                return Err(invalid("this host's kernel has no IPv6".into()));
            }
        }
        for other in self.networks.values() {
            let both_bridges = network.is_bridge() && other.is_bridge();
            if other.name == network.name || (both_bridges && other.bridge == network.bridge) {
                return Err(invalid(format!(
                    "network `{}` with bridge `{}` is there",
                    other.name, other.bridge
                )));
            }
            let overlaps = |a: ipnet::IpNet, b: ipnet::IpNet| a.contains(&b) || b.contains(&a);
            let six = network.v6.as_ref().zip(other.v6.as_ref());
            if overlaps(other.subnet.into(), network.subnet.into())
                || six.is_some_and(|(a, b)| overlaps(a.subnet.into(), b.subnet.into()))
            {
                return Err(invalid(format!(
                    "its subnet overlaps with network `{}`'s, {}",
                    other.name, other.subnet
                )));
            }
        }
        network.subnet = network.subnet.trunc();
        if let Some(v6) = &mut network.v6 {
            v6.subnet = v6.subnet.trunc();
            forward_packets6().map_err(OpenError::on("let the kernel forward IPv6 packets"))?;
        }
        self.ensure_bridge(&network).map_err(OpenError::on(format!("set up bridge `{}`", network.bridge)))?;
        self.networks.insert(network.name.clone(), network);
        Ok(())
    }

    /// Sees to it that a network's bridge is there, up, and has its addresses; of other kinds the parent link. Returns
    /// its index and its largest packet.
    pub(crate) fn ensure_bridge(&mut self, network: &NetworkConfig) -> io::Result<(u32, u32)> {
        let name = &network.bridge;
        if let NetworkKind::Macvlan { vlan, .. } = &network.kind {
            return self.ensure_parent(name, vlan.as_ref());
        }
        if let Some(link) = self.links.find(name)? {
            if link.kind != Some(InfoKind::Bridge) {
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, "a link of that name is no bridge"));
            }
            if self.settled.get(name) != Some(&link.index) {
                self.links.raise(link.index)?;
                self.settle_bridge(link.index, network)?;
            }
            return Ok((link.index, link.mtu.unwrap_or(DEFAULT_MTU)));
        }
        let mtu = match network.mtu {
            Some(mtu) => mtu,
            None => self.links.uplink_mtu()?.unwrap_or(DEFAULT_MTU).min(DEFAULT_MTU),
        };
        self.made.insert(name)?;
        self.links.create_bridge(name, Mac::of(network.gateway()), mtu)?;
        let link = self.links.find(name)?.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        self.settle_bridge(link.index, network)?;
        Ok((link.index, mtu))
    }

    fn ensure_parent(&mut self, name: &str, vlan: Option<&(String, u16)>) -> io::Result<(u32, u32)> {
        let missing = |name: &str| {
            io::Error::new(io::ErrorKind::NotFound, format!("the host has no link called `{name}`"))
        };
        let link = match (self.links.find(name)?, vlan) {
            (Some(link), _) => link,
            (None, None) => return Err(missing(name)),
            (None, Some((parent, number))) => {
                let parent = self.links.find(parent)?.ok_or_else(|| missing(parent))?;
                self.made.insert(name)?;
                self.links.create_vlan(name, parent.index, *number)?;
                self.links.find(name)?.ok_or_else(|| missing(name))?
            }
        };
        Ok((link.index, link.mtu.unwrap_or(DEFAULT_MTU)))
    }

    fn settle_bridge(&mut self, index: u32, network: &NetworkConfig) -> io::Result<()> {
        let address =
            ipnet::Ipv4Net::new(network.gateway(), network.subnet.prefix_len()).map_err(io::Error::other)?;
        self.links.add_address(index, address.into())?;
        if self.v6 && (network.v6.is_some() || self.made.contains(&network.bridge)) {
            // Without IPv6 of its own the host is not to be reached by it from the bridge either.
            let off = if network.v6.is_some() { "0" } else { "1" };
            match set_sysctl(&format!("net/ipv6/conf/{}/disable_ipv6", network.bridge), off) {
                // A link whose packets are too small for IPv6 has no such setting.
                Err(error) if error.kind() == io::ErrorKind::NotFound && network.v6.is_none() => {}
                other => other?,
            }
        }
        if let Some(v6) = &network.v6 {
            let address =
                ipnet::Ipv6Net::new(v6.gateway(), v6.subnet.prefix_len()).map_err(io::Error::other)?;
            self.links.add_address(index, address.into())?;
        }
        // Published ports are reached from 127.0.0.1, too; that the bridge's containers don't reach what listens
        // there is the business of our chain `raw`.
        set_sysctl(&format!("net/ipv4/conf/{}/route_localnet", network.bridge), "1")?;
        self.settled.insert(network.bridge.clone(), index);
        Ok(())
    }

    /// Bridges are looked after again when they are next needed.
    pub(crate) fn unsettle(&mut self) {
        self.settled.clear();
    }

    /// Deletes a link if it was made here.
    pub(crate) fn remove_link(&mut self, name: &str) -> io::Result<()> {
        if self.made.contains(name) {
            self.links.delete(name)?;
            self.made.remove(name)?;
        }
        Ok(())
    }
}

/// The names of links that were made here: files without content, written before the link is made.
#[derive(Debug)]
pub(crate) struct MadeLinks {
    directory: PathBuf,
    names: BTreeSet<String>,
}

impl MadeLinks {
    pub(crate) fn load(directory: PathBuf) -> Result<MadeLinks, FileError> {
        create_directories(&directory, 0o700)?;
        let list = std::fs::read_dir(&directory).map_err(FileError::on("list", &directory))?;
        let names = list.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        Ok(MadeLinks { directory, names })
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    pub(crate) fn all(&self) -> Vec<String> {
        self.names.iter().cloned().collect()
    }

    fn insert(&mut self, name: &str) -> io::Result<()> {
        std::fs::write(self.directory.join(name), "")?; // a link's name, which `is_link_name` has checked
        self.names.insert(name.to_owned());
        Ok(())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.directory.join(name))?;
        self.names.remove(name);
        Ok(())
    }
}

/// Lets the kernel forward IPv4.
pub(crate) fn forward_packets() -> io::Result<()> {
    set_sysctl("net/ipv4/ip_forward", "1")
}

/// Lets the kernel forward IPv6. A host that forwards no longer listens to routers, unless it is told to go on: else it
/// would lose its own way out.
fn forward_packets6() -> io::Result<()> {
    const ALL: &str = "net/ipv6/conf/all/forwarding";
    if std::fs::read_to_string(Path::new("/proc/sys").join(ALL))?.trim() == "1" {
        return Ok(());
    }
    for link in std::fs::read_dir("/proc/sys/net/ipv6/conf")?.flatten() {
        let setting = link.path().join("accept_ra");
        if std::fs::read_to_string(&setting).is_ok_and(|value| value.trim() == "1") {
            // A link that goes away meanwhile needs none.
            let _ = std::fs::write(&setting, "2");
        }
    }
    set_sysctl(ALL, "1")
}

/// Writes a kernel setting if it is another: some hosts have it right and read-only.
pub(crate) fn set_sysctl(name: &str, value: &str) -> io::Result<()> {
    let path = Path::new("/proc/sys").join(name);
    if std::fs::read_to_string(&path)?.trim() == value { Ok(()) } else { std::fs::write(&path, value) }
}
