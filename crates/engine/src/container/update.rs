//! New limits and restart policies for a container that exists.

use crate::Engine;
use crate::container::Request;
use crate::error::{EngineError, Result};
use crate::spec::{ContainerSpec, Resources, RestartPolicy};

/// What is to change. Limits that are zero or empty stay as they are.
#[derive(Clone, Debug, Default)]
pub struct Update {
    /// New limits.
    pub resources: Resources,
    /// A new restart policy.
    pub restart_policy: Option<RestartPolicy>,
    /// A name by which it is to know another container no more (`--link`). What runs knows it until its end.
    pub unlink: Option<String>,
}

impl Update {
    /// Makes the changes in `spec`; tells whether a limit is among them.
    ///
    /// # Errors
    /// If they contradict what the container has.
    pub(crate) fn apply(&self, spec: &mut ContainerSpec) -> Result<bool> {
        if let Some(alias) = &self.unlink {
            let before = spec.links.len();
            spec.links.retain(|link| link.rsplit(':').next() != Some(alias));
            if spec.links.len() == before {
                return Err(EngineError::NoSuchContainer { name: alias.clone() });
            }
        }
        let (new, has) = (&self.resources, &spec.resources);
        let conflict = |text: &str| Err(EngineError::Conflict(text.to_owned()));
        for (is_new, has_other, what) in [
            (
                new.nano_cpus > 0,
                has.cpu_period > 0,
                "Nano CPUs cannot be updated as CPU Period has already been set",
            ),
            (
                new.nano_cpus > 0,
                has.cpu_quota > 0,
                "Nano CPUs cannot be updated as CPU Quota has already been set",
            ),
            (
                new.cpu_period > 0,
                has.nano_cpus > 0,
                "CPU Period cannot be updated as NanoCPUs has already been set",
            ),
            (
                new.cpu_quota > 0,
                has.nano_cpus > 0,
                "CPU Quota cannot be updated as NanoCPUs has already been set",
            ),
        ] {
            if is_new && has_other {
                return Err(EngineError::Conflict(format!("Conflicting options: {what}")));
            }
        }
        if new.memory != 0 && new.memory_swap == 0 && new.memory > has.swap_limit() {
            return conflict(
                "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time",
            );
        }
        let policy = self.restart_policy.filter(|policy| *policy != RestartPolicy::No);
        if spec.auto_remove && policy.is_some() {
            return conflict(
                "Restart policy cannot be updated because AutoRemove is enabled for the container",
            );
        }
        if let Some(policy) = self.restart_policy {
            spec.restart_policy = policy;
        }
        let before = spec.resources.clone();
        if new.memory != 0 {
            // The swap that the old limit brought with it stays as it was.
            spec.resources.memory_swap = before.swap_limit();
        }
        merge(&mut spec.resources, new);
        Ok(spec.resources != before)
    }
}

fn merge(into: &mut Resources, new: &Resources) {
    fn number<T: Default + PartialEq + Copy>(into: &mut T, new: T) {
        if new != T::default() {
            *into = new;
        }
    }
    fn text(into: &mut String, new: &str) {
        if !new.is_empty() {
            new.clone_into(into);
        }
    }
    number(&mut into.blkio_weight, new.blkio_weight);
    number(&mut into.cpu_shares, new.cpu_shares);
    number(&mut into.nano_cpus, new.nano_cpus);
    number(&mut into.cpu_period, new.cpu_period);
    number(&mut into.cpu_quota, new.cpu_quota);
    number(&mut into.cpu_rt_period, new.cpu_rt_period);
    number(&mut into.cpu_rt_runtime, new.cpu_rt_runtime);
    text(&mut into.cpuset_cpus, &new.cpuset_cpus);
    text(&mut into.cpuset_mems, &new.cpuset_mems);
    number(&mut into.memory, new.memory);
    number(&mut into.memory_swap, new.memory_swap);
    number(&mut into.memory_reservation, new.memory_reservation);
    number(&mut into.kernel_memory, new.kernel_memory);
    number(&mut into.kernel_memory_tcp, new.kernel_memory_tcp);
    if new.pids.is_some() {
        into.pids = new.pids;
    }
}

impl Engine {
    /// Lets a container know another one by the name `alias` no more.
    ///
    /// # Errors
    /// If there is no such container or name.
    pub async fn unlink(&self, text: &str, alias: &str) -> Result<()> {
        let handle = self.inner.find_container(text)?;
        let update = Update { unlink: Some(alias.to_owned()), ..Update::default() };
        handle.ask(|reply| Request::Update { update: Box::new(update), reply }).await
    }

    /// Changes a container's limits and restart policy, also while it runs; answers what can't be done as asked.
    ///
    /// # Errors
    /// If there is no such container, the changes make no sense or contradict what it has, or the kernel refuses.
    pub async fn update(&self, text: &str, update: Update) -> Result<Vec<String>> {
        let handle = self.inner.find_container(text)?;
        let mut resources = update.resources.clone();
        let warnings = crate::create::limits::check(&mut resources, &self.inner.host, true)?;
        let update = Update { resources, ..update };
        let id = handle.id.clone();
        let updated = handle.ask(|reply| Request::Update { update: Box::new(update), reply }).await;
        updated.map_err(|error| {
            EngineError::layer(error.class(), format!("Cannot update container {id}"))(error)
        })?;
        Ok(warnings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_stays_and_contradictions_are_refused() {
        let resources = Resources { memory: 64 << 20, cpu_shares: 5, ..Resources::default() };
        let mut spec = ContainerSpec { resources, ..ContainerSpec::default() };
        let apply = |spec: &mut ContainerSpec, resources: Resources, restart_policy| {
            Update { resources, restart_policy, unlink: None }.apply(spec).map_err(|e| e.to_string())
        };
        let more = |memory: i64| Resources { memory, ..Resources::default() };
        assert!(apply(&mut spec, more(100 << 20), None).unwrap());
        let has = &spec.resources;
        assert_eq!((has.memory, has.memory_swap, has.cpu_shares), (100 << 20, 128 << 20, 5));
        assert!(apply(&mut spec, more(200 << 20), None).unwrap_err().contains("memoryswap"));
        assert!(!apply(&mut spec, Resources::default(), Some(RestartPolicy::Always)).unwrap());
        assert_eq!(spec.restart_policy, RestartPolicy::Always);
        let cpus = Resources { nano_cpus: 1, ..Resources::default() };
        apply(&mut spec, cpus, None).unwrap();
        let quota = Resources { cpu_quota: 1000, ..Resources::default() };
        assert!(apply(&mut spec, quota, None).unwrap_err().starts_with("Conflicting options: CPU Quota"));
        spec.auto_remove = true;
        assert!(apply(&mut spec, Resources::default(), Some(RestartPolicy::Always)).is_err());
        apply(&mut spec, Resources::default(), Some(RestartPolicy::No)).unwrap();
    }
}
