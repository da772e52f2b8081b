//! What a killed daemon has left, and the end of everything.

use std::collections::BTreeSet;

use sampan_base::files::remove_if_exists;
use sampan_kernel::netns;

use crate::docker;
use crate::net::{Net, OpenError};

/// How many endpoints of the dead are detached at once.
const PARALLEL_DETACHMENTS: usize = 16;

/// What a reconciliation has found and mended.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Reconciled {
    /// Keys whose endpoints were removed.
    pub detached: Vec<String>,
    /// Keys whose namespaces were removed.
    pub namespaces: Vec<String>,
    /// Links on our bridges that no record knew.
    pub links: Vec<String>,
    /// Live keys whose link is gone: they must be attached again to be reachable.
    pub broken: Vec<String>,
    /// What could not be mended, and what went wrong unnoticed before.
    pub complaints: Vec<String>,
}

impl Net {
    /// Compares what there is with the keys that are alive, and removes the rest: endpoints, namespaces, links, rules.
    /// Puts the rules in place anew, in case someone has flushed them, and binds published ports again. May be called
    /// at any time, but not between a key's [`Net::create_namespace`] and its becoming alive in the caller's eyes.
    ///
    /// # Errors
    /// If the kernel does not answer or the rules can't be put in place. What else fails is a complaint.
    pub fn reconcile(&self, live: &[&str]) -> Result<Reconciled, OpenError> {
        let live: BTreeSet<&str> = live.iter().copied().collect();
        let mut result = Reconciled::default();

        let ids = self
            .shared
            .lock_when(|inner| inner.threads == 0)
            .records
            .iter()
            .map(|(id, _)| id.clone())
            .collect::<Vec<_>>();
        let dead: Vec<_> = ids.into_iter().filter(|(key, _)| !live.contains(key.as_str())).collect();
        for some in dead.chunks(PARALLEL_DETACHMENTS) {
            // The kernel makes each wait for the same things, so together they wait once.
            let outcomes: Vec<_> = std::thread::scope(|scope| {
                let threads: Vec<_> = some.iter().map(|id| scope.spawn(|| self.detach_one(id))).collect();
                threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect()
            });
            for (id, outcome) in some.iter().zip(outcomes) {
                match outcome {
                    Ok(Ok(())) => result.detached.push(id.0.clone()),
                    Ok(Err(error)) => result.complaints.push(error.to_string()),
                    Err(_) => result.complaints.push(format!("{}: detaching it panicked", id.0)),
                }
            }
        }

        for directory in [self.namespaces(), self.user_namespaces()] {
            let list = std::fs::read_dir(&directory);
            let listing = OpenError::on(format!("list `{}`", directory.display()));
            for entry in list.map_err(listing)?.flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                if live.contains(name.as_str()) {
                    continue;
                }
                match netns::remove(&entry.path()) {
                    Ok(()) if result.namespaces.contains(&name) => {}
                    Ok(()) => result.namespaces.push(name),
                    Err(error) => result.complaints.push(format!("namespace `{name}`: {error}")),
                }
            }
        }

        for key in self.served_keys() {
            if !live.contains(key.as_str()) {
                self.stop_names(&key);
            }
        }

        let mut inner = self.shared.lock();
        inner.unsettle();
        let known: BTreeSet<String> = inner.records.iter().map(|(_, e)| e.host_interface.clone()).collect();
        let mut present = BTreeSet::new();
        for network in inner.networks.values().filter(|n| n.is_bridge()).cloned().collect::<Vec<_>>() {
            let bridge = inner
                .ensure_bridge(&network)
                .map_err(OpenError::on(format!("set up bridge `{}`", network.bridge)))?;
            let ports = inner.links.ports_of(bridge.0).map_err(OpenError::on("list links"))?;
            for link in ports {
                if known.contains(&link.name) || !is_ours(&link.name) {
                    present.insert(link.name);
                    continue;
                }
                match inner.links.delete(&link.name) {
                    Ok(()) => result.links.push(link.name),
                    Err(error) => result.complaints.push(format!("link `{}`: {error}", link.name)),
                }
            }
        }
        result.broken = inner
            .records
            .iter()
            .filter(|((_, n), endpoint)| {
                let bridged = inner.networks.get(n).is_none_or(crate::NetworkConfig::is_bridge);
                bridged && !present.contains(&endpoint.host_interface)
            })
            .map(|((key, _), _)| key.clone())
            .collect();

        inner.apply().map_err(OpenError::on("put nftables rules in place"))?;
        inner.reserve_again();
        result.complaints.append(&mut inner.complaints);
        Ok(result)
    }

    /// Removes everything of this instance: endpoints, namespaces, bridges, the table, the state directory.
    ///
    /// # Errors
    /// The first of what failed; all has been tried.
    pub fn remove_all(&self) -> Result<(), OpenError> {
        let mut first = self.reconcile(&[]).err();
        let mut inner = self.shared.lock();
        let mut note = |result: Result<(), OpenError>| {
            if let (Err(error), None) = (result, &first) {
                first = Some(error);
            }
        };
        let table = inner.table.clone();
        let withdrawn = docker::withdraw(&mut inner.tables, &table, None);
        note(withdrawn.map_err(OpenError::on("take rules out of DOCKER-USER")));
        let steps = inner.ruleset().remove_tables();
        note(inner.tables.commit(steps).map_err(OpenError::on(format!("remove nftables table `{table}`"))));
        self.shared.pool.close();
        inner.networks.clear();
        for link in inner.made.all() {
            note(inner.remove_link(&link).map_err(OpenError::on(format!("remove link `{link}`"))));
        }
        note(remove_if_exists(&self.shared.state).map_err(OpenError::from));
        first.map_or(Ok(()), Err)
    }
}

/// Whether a link has a name as we give them; others on our bridge are someone's who knows why.
fn is_ours(name: &str) -> bool {
    name.len() == 14 && name.strip_prefix("sv").is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))
}
