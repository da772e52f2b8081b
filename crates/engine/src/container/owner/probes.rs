//! Health checks of a container that runs: its owner has them begun and ended, and notes what they found.

use std::sync::Arc;
use std::time::Duration;

use super::Owner;
use crate::container::health::{self, HealthStatus, Monitor, ProbeResult, Watched};
use crate::container::state::Phase;
use crate::metadata::{ContainerRecord, Durable};

impl Owner {
    pub(super) fn begin_monitor(&mut self) {
        self.generation += 1;
        self.monitor = None;
        let record = self.record();
        if let (Some(run), Phase::Running { .. }) = (&self.run, &record.phase) {
            self.monitor = Monitor::begin(Watched {
                inner: Arc::clone(&self.inner),
                task: run.task.clone(),
                since: run.started.uptime,
                owner: self.own_requests.clone(),
                generation: self.generation,
                record,
            });
        }
    }

    /// While nobody probes it, it counts as unhealthy, as in Docker.
    pub(super) fn end_monitor(&mut self, record: &mut ContainerRecord) {
        if self.monitor.take().is_some()
            && let Some(health) = &mut record.health
        {
            health.status = HealthStatus::Unhealthy;
        }
    }

    pub(super) async fn take_probe(&mut self, generation: u64, ran: Duration, result: ProbeResult) {
        let mut record = self.record();
        let (Phase::Running { .. }, Some(spec), Some(health)) =
            (&record.phase, &record.spec.health, &mut record.health)
        else {
            return;
        };
        if self.monitor.is_none() || generation != self.generation {
            return;
        }
        let before = health.status;
        health.take(result, spec, ran);
        let status = health.status;
        if let Err(error) = self.store(record, Durable::No).await {
            tracing::warn!(error = sampan_base::chain(&error), "cannot note the result of a health check");
        }
        if status != before {
            self.event(format!("health_status: {}", status.word()), []);
        }
    }
}

/// Whether it is to be probed while it runs.
pub(crate) fn is_probed(record: &ContainerRecord) -> bool {
    health_command(record).is_some()
}

fn health_command(record: &ContainerRecord) -> Option<Vec<String>> {
    health::command(record.spec.health.as_ref()?, record.spec.shell.as_deref())
}
