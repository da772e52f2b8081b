//! The end of a container's process: what is noted of it, what happens next, and what goes.

use std::ops::ControlFlow;
use std::sync::Arc;

use sampan_base::Timestamp;

use super::Owner;
use crate::container::restart;
use crate::container::run::Run;
use crate::container::state::{Exit, Phase};
use crate::container::tear_down::tear_down;
use crate::error::Result;
use crate::metadata::{ContainerRecord, Durable, is_short_lived};
use crate::shim::{ProcessExit, ShimError};
use crate::spec::RestartPolicy;
use crate::{blocking, network, volumes};

/// The exit code of a process whose shim was lost: its end was not seen, so it was killed (128 + SIGKILL).
const LOST_EXIT_CODE: i32 = 137;

impl Owner {
    /// Lets it end by hand. Answers whether there is a process to end.
    pub(super) async fn prepare_ending(&mut self, for_good: bool) -> Result<bool> {
        let mut record = self.record();
        if !record.phase.is_on() {
            return Ok(false);
        }
        self.ending |= for_good;
        let waits = match &record.phase {
            Phase::Restarting(exit) if for_good => Some(exit.clone()),
            _ => None,
        };
        let changes = waits.is_some() || !record.stopped_by_hand;
        record.stopped_by_hand = true;
        if let Some(exit) = waits {
            self.restart_at = None;
            record.phase = Phase::Exited(exit);
        }
        if changes {
            // A container that the next daemon would start again must not be, so this is not only noted.
            let durable =
                if record.spec.restart_policy == RestartPolicy::No { Durable::No } else { Durable::Yes };
            self.store(record, durable).await?;
        }
        Ok(self.run.is_some())
    }

    pub(super) async fn on_exit(
        &mut self,
        exit: std::result::Result<ProcessExit, ShimError>,
    ) -> ControlFlow<()> {
        let Some(run) = self.run.take() else { return ControlFlow::Continue(()) };
        let mut record = self.record();
        let oom_killed = self.inner.host.oom_killed(&crate::bundle::cgroups_path(&record.spec, &record.id));
        let (code, finished_at, error) = match exit {
            Ok(exit) => (i32::try_from(exit.code).unwrap_or(255), exit.at, String::new()),
            Err(error) => {
                tracing::error!(
                    container = record.id,
                    error = sampan_base::chain(&error),
                    "the shim was lost"
                );
                let told =
                    "the container's shim ended before its process did; what was left of it was killed";
                (LOST_EXIT_CODE, Timestamp::now(), told.to_owned())
            }
        };
        self.end_monitor(&mut record);
        let restarts = !self.ending && restart::is_due(&record, code);
        let exit = Exit { code, oom_killed, started_at: run.started.at, finished_at, error };
        if restarts {
            self.restart_later(&mut record, exit, run.started.uptime.elapsed());
        } else {
            record.phase = Phase::Exited(exit);
        }
        let vanishes = !restarts && is_short_lived(&record);
        if vanishes {
            self.view.send_modify(|view| view.record = record.clone());
        } else if let Err(error) = self.store(record.clone(), durable_unless(record.spec.auto_remove)).await {
            // It is on disk before the shim, which remembers it too, is told to forget it.
            tracing::error!(
                container = record.id,
                error = sampan_base::chain(&error),
                "cannot store the exit code; it is kept where a reboot forgets it"
            );
            crate::restore::keep_aside(&self.inner.config, &record);
            self.view.send_modify(|view| view.record = record.clone());
        }
        if oom_killed {
            self.event("oom", []);
        }
        self.event("die", [("exitCode", code.to_string())]);
        self.alive.send_replace(false);
        self.inner.execs.forget_container(&record.id);
        volumes::publish_use(&self.inner, &record.id, &record.spec, false);
        if vanishes {
            return self.vanish(record, run).await;
        }
        tear_down(&self.inner, &record.id, Some(&run.task)).await;
        self.view.send_modify(|view| {
            view.live = None;
            view.ended_runs += 1;
        });
        if record.spec.auto_remove && self.remove(true).await.is_ok() {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    /// The end of a container that removes itself: whoever waits for it is told as soon as its name, its addresses and
    /// ports, and its record are free; the rest goes behind the answer. Of a crash in between the next daemon finds
    /// things without a record, which it removes, or the record of a container without a process, which it removes, too.
    pub(super) async fn vanish(&mut self, record: ContainerRecord, run: Run) -> ControlFlow<()> {
        let ContainerRecord { id, spec, .. } = record;
        network::detach(&self.inner, &id).await;
        let forgotten = {
            let (inner, id) = (Arc::clone(&self.inner), id.clone());
            blocking(move || {
                inner.metadata.remove_container(&id, Durable::No)?;
                inner.images.forget_snapshot(&id)
            })
            .await
        };
        let gone = forgotten.is_ok();
        let remains = forgotten.unwrap_or_else(|error| {
            tracing::warn!(container = id, error = sampan_base::chain(&error), "cannot remove the record");
            None
        });
        if gone {
            self.unlist();
        }
        self.view.send_modify(|view| {
            view.live = None;
            view.ended_runs += 1;
            view.removed = gone;
        });
        tear_down(&self.inner, &id, Some(&run.task)).await;
        if !gone {
            return ControlFlow::Continue(());
        }
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            if let Some(remains) = remains {
                inner.images.remove_files(id.clone(), remains);
            }
            inner.forget_on_disk(&id, &spec);
        })
        .await;
        ControlFlow::Break(())
    }
}

/// An exit code is on disk before anybody is told, unless the record is about to go anyway.
fn durable_unless(auto_remove: bool) -> Durable {
    if auto_remove { Durable::No } else { Durable::Yes }
}
