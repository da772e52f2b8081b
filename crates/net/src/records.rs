//! What is on disk: one file for each endpoint, written before the address in it is used.
//!
//! ```text
//! <state>/lock                     held by the one process that owns this directory
//! <state>/netns/<key>              a network namespace, bind-mounted
//! <state>/endpoints/<key>@<network>.json     {"version":1,"key":…,"endpoint":{…}}
//! ```
//! A file is replaced by rename, so it is whole or absent. A crash before the rename leaves nothing; after it, a record
//! whose link or rules may be missing, and whose address is not given to anyone else until the record is removed,
//! which is the last step of a detachment. The directory is below `/run`: a reboot ends all links, namespaces and
//! rules, and the records with them, so nothing is synced to a disk. A file that is not ours to read is reported, and
//! its address could be handed out again: it is moved aside as `….bad`, and its link is removed with the others that
//! no record knows.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use sampan_base::FileError;
use sampan_base::files::{create_directories, read_limited, remove_if_exists, write_atomic_volatile};

use crate::names::is_key;
use crate::spec::{Endpoint, NetworkConfig, Range6};

/// Far more than a record of a thousand ports has.
const MAX_RECORD_BYTES: u64 = 1 << 20;

/// An endpoint's name: whose, and in which network.
pub(crate) type EndpointId = (String, String);

#[derive(serde::Serialize, serde::Deserialize)]
struct Record {
    version: u32,
    key: String,
    endpoint: Endpoint,
}

/// All endpoints, in memory and on disk.
#[derive(Debug)]
pub(crate) struct Records {
    directory: PathBuf,
    endpoints: BTreeMap<EndpointId, Endpoint>,
    /// The address last given out in each network: the next is after it, so that an address is not soon used again.
    last: BTreeMap<String, (Ipv4Addr, Option<Ipv6Addr>)>,
}

impl Records {
    /// Reads those in `directory`. Also returns what was wrong with files that could not be read.
    pub(crate) fn load(directory: PathBuf) -> Result<(Records, Vec<String>), FileError> {
        create_directories(&directory, 0o700)?;
        let mut records = Records { directory, endpoints: BTreeMap::new(), last: BTreeMap::new() };
        let mut complaints = Vec::new();
        let list = std::fs::read_dir(&records.directory);
        for entry in list.map_err(FileError::on("list", &records.directory))? {
            let path = entry.map_err(FileError::on("list", &records.directory))?.path();
            match path.extension().and_then(|e| e.to_str()) {
                Some("json") => {}
                // What a crash in the middle of a write has left.
                Some("tmp") => {
                    remove_if_exists(&path)?;
                    continue;
                }
                _ => continue,
            }
            match read(&path) {
                Ok(record) => {
                    let (ip, ip6) = (record.endpoint.ip, record.endpoint.v6.map(|(ip, _)| ip));
                    let last = records.last.entry(record.endpoint.network.clone()).or_insert((ip, ip6));
                    *last = (ip.max(last.0), ip6.max(last.1));
                    records.endpoints.insert((record.key, record.endpoint.network.clone()), record.endpoint);
                }
                Err(reason) => {
                    complaints.push(format!("`{}` put aside: {reason}", path.display()));
                    let aside = path.with_extension("bad");
                    std::fs::rename(&path, &aside).map_err(FileError::on("rename", &path))?;
                }
            }
        }
        Ok((records, complaints))
    }

    pub(crate) fn get(&self, id: &EndpointId) -> Option<&Endpoint> {
        self.endpoints.get(id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&EndpointId, &Endpoint)> {
        self.endpoints.iter()
    }

    /// The endpoints of one key.
    pub(crate) fn of_key(&self, key: &str) -> Vec<EndpointId> {
        self.endpoints.keys().filter(|(k, _)| k == key).cloned().collect()
    }

    /// The endpoint that has `ip` in `network`.
    pub(crate) fn holder(&self, network: &str, ip: IpAddr) -> Option<&str> {
        let has = |e: &Endpoint| IpAddr::V4(e.ip) == ip || e.v6.is_some_and(|(v6, _)| IpAddr::V6(v6) == ip);
        self.endpoints.iter().find(|((_, n), e)| n == network && has(e)).map(|((key, _), _)| key.as_str())
    }

    fn in_network<'a>(&'a self, network: &'a str) -> impl Iterator<Item = &'a Endpoint> {
        self.endpoints.iter().filter(move |((_, n), _)| *n == network).map(|(_, e)| e)
    }

    /// The next address of `network` that nobody has; none if all are taken.
    pub(crate) fn free_address(&self, network: &NetworkConfig) -> Option<Ipv4Addr> {
        let range = network.range.unwrap_or(network.subnet);
        let first = range.network().max(Ipv4Addr::from(u32::from(network.subnet.network()) + 1));
        let last = range.broadcast().min(Ipv4Addr::from(u32::from(network.subnet.broadcast()) - 1));
        let number = |ip: &Ipv4Addr| u128::from(u32::from(*ip));
        let taken = self.in_network(&network.name).map(|e| number(&e.ip));
        let taken = taken.chain([number(&network.gateway())]).chain(network.reserved.iter().map(number));
        let previous = self.last.get(&network.name).map(|(ip, _)| number(ip));
        next_free(number(&first), number(&last), previous, &taken.collect())
            .and_then(|n| u32::try_from(n).ok())
            .map(Ipv4Addr::from)
    }

    /// As [`Records::free_address`], of IPv6.
    pub(crate) fn free_address6(&self, network: &str, of: &Range6) -> Option<Ipv6Addr> {
        let range = of.range.unwrap_or(of.subnet);
        let first = u128::from(range.network()).max(u128::from(of.subnet.network()) + 1);
        let taken = self.in_network(network).filter_map(|e| e.v6).map(|(ip, _)| u128::from(ip));
        let taken =
            taken.chain([u128::from(of.gateway())]).chain(of.reserved.iter().map(|ip| u128::from(*ip)));
        let previous = self.last.get(network).and_then(|(_, ip)| *ip).map(u128::from);
        next_free(first, u128::from(range.broadcast()), previous, &taken.collect()).map(Ipv6Addr::from)
    }

    /// Writes a record, new or changed: from here on, its address is nobody else's.
    pub(crate) fn insert(&mut self, key: &str, endpoint: &Endpoint) -> Result<(), FileError> {
        let path = self.path(key, &endpoint.network);
        let record = Record { version: 1, key: key.to_owned(), endpoint: endpoint.clone() };
        let text = serde_json::to_vec(&record).map_err(|e| FileError {
            action: "write",
            path: path.clone(),
            source: e.into(),
        })?;
        write_atomic_volatile(&path, &text, 0o600)?;
        let id = (key.to_owned(), endpoint.network.clone());
        if self.endpoints.insert(id, endpoint.clone()).is_none() {
            self.last.insert(endpoint.network.clone(), (endpoint.ip, endpoint.v6.map(|(ip, _)| ip)));
        }
        Ok(())
    }

    /// Removes a record: its address is free.
    pub(crate) fn remove(&mut self, (key, network): &EndpointId) -> Result<(), FileError> {
        remove_if_exists(&self.path(key, network))?;
        self.endpoints.remove(&(key.clone(), network.clone()));
        Ok(())
    }

    fn path(&self, key: &str, network: &str) -> PathBuf {
        self.directory.join(format!("{key}@{network}.json"))
    }
}

/// The first number after `previous` that is not taken, or else the first at all.
fn next_free(first: u128, last: u128, previous: Option<u128>, taken: &BTreeSet<u128>) -> Option<u128> {
    let begin = previous.filter(|p| (first..last).contains(p)).map_or(first, |p| p + 1);
    (begin..=last).chain(first..begin).find(|n| !taken.contains(n))
}

fn read(path: &Path) -> Result<Record, String> {
    let text = read_limited(path, MAX_RECORD_BYTES).map_err(|e| sampan_base::chain(&e))?;
    let record: Record = serde_json::from_slice(&text).map_err(|e| e.to_string())?;
    let expected = format!("{}@{}.json", record.key, record.endpoint.network);
    if record.version != 1 {
        Err(format!("version {} is not 1", record.version))
    } else if !is_key(&record.key) || path.file_name().is_none_or(|n| n.to_str() != Some(&expected)) {
        Err(format!("it is about {expected}"))
    } else {
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::Mac;

    fn endpoint(network: &NetworkConfig, ip: Ipv4Addr) -> Endpoint {
        Endpoint {
            network: network.name.clone(),
            interface: "eth0".into(),
            host_interface: "sv0".into(),
            ip,
            prefix: 24,
            id: String::new(),
            gateway: network.gateway(),
            v6: None,
            gateway6: None,
            default_route: true,
            names: Vec::new(),
            links: Vec::new(),
            mac: Mac::of(ip),
            ports: Vec::new(),
        }
    }

    #[test]
    fn addresses_survive_and_are_never_given_twice() {
        let dir = tempfile::tempdir().unwrap();
        let network = NetworkConfig::new("n", "b", "10.0.0.0/29".parse().unwrap());
        let (mut records, _) = Records::load(dir.path().to_owned()).unwrap();
        let mut given = Vec::new();
        for n in 0..5 {
            let ip = records.free_address(&network).unwrap();
            records.insert(&format!("k{n}"), &endpoint(&network, ip)).unwrap();
            given.push(ip.octets()[3]);
        }
        assert_eq!(given, [2, 3, 4, 5, 6]); // .1 is the gateway, .0 and .7 are nobody's
        assert_eq!(records.free_address(&network), None);

        let (mut records, complaints) = Records::load(dir.path().to_owned()).unwrap();
        assert!(complaints.is_empty());
        assert_eq!(records.free_address(&network), None);
        assert_eq!(records.holder("n", Ipv4Addr::new(10, 0, 0, 4).into()), Some("k2"));
        records.remove(&("k2".into(), "n".into())).unwrap();
        records.remove(&("k0".into(), "n".into())).unwrap();
        assert_eq!(records.free_address(&network).unwrap().octets()[3], 2);
        let four = Ipv4Addr::new(10, 0, 0, 2);
        records.insert("k9", &endpoint(&network, four)).unwrap();
        assert_eq!(records.free_address(&network).unwrap().octets()[3], 4);
    }

    #[test]
    fn an_address_is_not_soon_used_again() {
        let dir = tempfile::tempdir().unwrap();
        let network = NetworkConfig::new("n", "b", "10.0.0.0/24".parse().unwrap());
        let (mut records, _) = Records::load(dir.path().to_owned()).unwrap();
        for n in 2..6u8 {
            let ip = records.free_address(&network).unwrap();
            assert_eq!(ip.octets()[3], n);
            records.insert("k", &endpoint(&network, ip)).unwrap();
            records.remove(&("k".into(), "n".into())).unwrap();
        }
    }

    #[test]
    fn files_that_are_not_ours_are_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("x@n.json"), "{").unwrap();
        std::fs::write(dir.path().join(".x@n.json.1-0.tmp"), "{").unwrap();
        let (_, complaints) = Records::load(dir.path().to_owned()).unwrap();
        assert_eq!(complaints.len(), 1);
        let (_, complaints) = Records::load(dir.path().to_owned()).unwrap();
        assert!(complaints.is_empty());
        assert!(dir.path().join("x@n.bad").exists() && !dir.path().join(".x@n.json.1-0.tmp").exists());
    }
}
