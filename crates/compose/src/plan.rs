//! What is to be done so that what is there becomes what the files say. A value that prints; others act on it.

use std::collections::{BTreeMap, BTreeSet};

use crate::labels::config_hash;
use crate::model::{Condition, Project};

/// A container that is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// Its id.
    pub id: String,
    /// Its name, without a slash.
    pub name: String,
    /// The service that it is of.
    pub service: String,
    /// Which one of that.
    pub number: u32,
    /// What it was made from.
    pub hash: String,
    /// Its image's id.
    pub image: String,
    /// It runs.
    pub running: bool,
}

/// How far what is there may stay.
#[derive(Debug, Clone, Default)]
pub struct Wishes {
    /// The services that are wanted; none: all.
    pub services: Vec<String>,
    /// Leave alone what they depend on.
    pub no_deps: bool,
    /// Replace even what is as it should be.
    pub force_recreate: bool,
    /// Replace nothing.
    pub no_recreate: bool,
    /// Replace also what the named services depend on.
    pub always_recreate_deps: bool,
    /// Other numbers of containers.
    pub scale: BTreeMap<String, u32>,
    /// Remove containers of services that are not in the files.
    pub remove_orphans: bool,
    /// Do not start what is not running.
    pub no_start: bool,
}

/// What is to be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Services with what is to be done for each, in the order of their dependencies.
    pub services: Vec<ServicePlan>,
    /// Containers of services that are not in the files.
    pub orphans: Vec<Observed>,
    /// Whether those are to be removed.
    pub remove_orphans: bool,
}

/// What is to be done for a service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServicePlan {
    /// Its name.
    pub service: String,
    /// What must be so first: a service, what of it, and whether it must be there at all.
    pub after: Vec<(String, Condition, bool)>,
    /// For each container.
    pub actions: Vec<Action>,
}

/// What is to be done with a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Make it.
    Create {
        /// Which one of the service.
        number: u32,
    },
    /// Replace it.
    Recreate {
        /// What is there.
        old: Observed,
        /// Why.
        why: Why,
    },
    /// Start it.
    Start(Observed),
    /// Nothing.
    Keep(Observed),
    /// Remove it.
    Remove(Observed),
}

/// Why a container is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The files say something else than what it was made from.
    Config,
    /// Its image is another.
    Image,
    /// It was asked for.
    Forced,
    /// It lives in what belongs to a container that is replaced.
    Shared,
}

impl Plan {
    /// What is to be done; `images` are the ids of the services' images, as far as they are known.
    pub fn make(
        project: &Project,
        observed: &[Observed],
        images: &BTreeMap<String, String>,
        wishes: &Wishes,
    ) -> Plan {
        let wanted = wanted(project, wishes);
        let mut plan = Plan { remove_orphans: wishes.remove_orphans, ..Plan::default() };
        let mut replaced: BTreeSet<&str> = BTreeSet::new();
        for name in project.in_order() {
            if !wanted.contains(name) {
                continue;
            }
            let Some(service) = project.services.get(name) else { continue };
            let named = wishes.services.is_empty() || wishes.services.iter().any(|s| s == name);
            let force = wishes.force_recreate && named || wishes.always_recreate_deps && !named;
            let shares = [&service.network_mode, &service.ipc, &service.pid]
                .into_iter()
                .any(|mode| mode.strip_prefix("service:").is_some_and(|other| replaced.contains(other)));
            let hash = config_hash(project, service);
            let count = wishes.scale.get(name).copied().unwrap_or_else(|| service.replicas());
            let mut there: Vec<&Observed> = observed.iter().filter(|o| o.service == name).collect();
            // Those that are as they should be stay, the oldest first.
            there.sort_by_key(|o| (o.hash != hash, o.number));
            let (stay, go) = there.split_at(there.len().min(count as usize));
            let mut stay = stay.to_vec();
            stay.sort_by_key(|o| o.number);
            let mut actions: Vec<Action> = go.iter().map(|o| Action::Remove((*o).clone())).collect();
            for container in &stay {
                let other_image = images.get(name).is_some_and(|id| {
                    !id.is_empty() && !container.image.is_empty() && *id != container.image
                });
                let why = match () {
                    () if wishes.no_recreate => None,
                    () if force => Some(Why::Forced),
                    () if container.hash != hash => Some(Why::Config),
                    () if other_image => Some(Why::Image),
                    () if shares => Some(Why::Shared),
                    () => None,
                };
                let container = (*container).clone();
                actions.push(match why {
                    Some(why) => {
                        replaced.insert(name);
                        Action::Recreate { old: container, why }
                    }
                    None if container.running || wishes.no_start => Action::Keep(container),
                    None => Action::Start(container),
                });
            }
            let mut taken: BTreeSet<u32> = stay.iter().map(|o| o.number).collect();
            for _ in stay.len()..count as usize {
                // The lowest numbers that are free.
                let number = (1..).find(|n| !taken.contains(n)).unwrap_or(u32::MAX);
                taken.insert(number);
                actions.push(Action::Create { number });
            }
            let after = service
                .depends_on
                .iter()
                .filter(|(other, _)| wanted.contains(other.as_str()))
                .map(|(other, dependency)| (other.clone(), dependency.condition, dependency.required))
                .collect();
            plan.services.push(ServicePlan { service: name.to_owned(), after, actions });
        }
        let known = |o: &&Observed| {
            project.services.contains_key(&o.service) || project.disabled.contains_key(&o.service)
        };
        plan.orphans = observed.iter().filter(|o| !known(o)).cloned().collect();
        plan
    }
}

/// The services that were named and what they depend on; all, if none was.
pub fn wanted<'p>(project: &'p Project, wishes: &Wishes) -> BTreeSet<&'p str> {
    if wishes.services.is_empty() {
        return project.services.keys().map(String::as_str).collect();
    }
    let mut found: BTreeSet<&str> = BTreeSet::new();
    let mut open: Vec<&str> = wishes.services.iter().map(String::as_str).collect();
    while let Some(name) = open.pop() {
        let Some((name, service)) = project.services.get_key_value(name) else { continue };
        if found.insert(name) && !wishes.no_deps {
            open.extend(service.depends_on.keys().map(String::as_str));
        }
    }
    found
}

impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for service in &self.services {
            write!(f, "{}", service.service)?;
            for (other, condition, _) in &service.after {
                let what = match condition {
                    Condition::ServiceStarted => "runs",
                    Condition::ServiceHealthy => "is healthy",
                    Condition::ServiceCompletedSuccessfully => "has ended well",
                };
                write!(f, ", after {other} {what}")?;
            }
            writeln!(f, ":")?;
            for action in &service.actions {
                match action {
                    Action::Create { number } => writeln!(f, "  create {number}")?,
                    Action::Recreate { old, why } => {
                        let why = match why {
                            Why::Config => "its configuration is another",
                            Why::Image => "its image is another",
                            Why::Forced => "it was asked for",
                            Why::Shared => "what it shares is replaced",
                        };
                        writeln!(f, "  recreate {}: {why}", old.name)?;
                    }
                    Action::Start(old) => writeln!(f, "  start {}", old.name)?,
                    Action::Keep(old) => writeln!(f, "  keep {}", old.name)?,
                    Action::Remove(old) => writeln!(f, "  remove {}", old.name)?,
                }
            }
        }
        for orphan in &self.orphans {
            let what = if self.remove_orphans { "remove" } else { "leave" };
            writeln!(f, "{what} {}: no file has the service {}", orphan.name, orphan.service)?;
        }
        Ok(())
    }
}
