//! What a daemon does first: it finds again what an earlier one left, however that one ended.
//!
//! For every stored container the shim is asked what became of it; what has a shim goes on, what lost it is cleaned up and
//! counts as killed. Everything of ours that belongs to no stored container goes: bundles, containers in the OCI
//! runtime, network endpoints, snapshots, directories. Each thing mended is logged. Last, what has a restart policy and
//! should run is started; that goes on while the daemon already serves.
//!
//! A record that can't be read keeps all that its container has: the container is shown with the reason, can't be
//! started, and can be removed.

use std::collections::BTreeSet;
use std::sync::Arc;

use sampan_base::{Timestamp, Uptime};

use crate::container::health::Health;
use crate::container::run::{self, Run};
use crate::container::state::{Exit, Phase};
use crate::container::tear_down::tear_down;
use crate::container::{Handle, Request, owner, restart};
use crate::error::{EngineError, Result};
use crate::metadata::{ContainerRecord, Durable};
use crate::{Engine, blocking, bundle, network, shim, volumes};

impl Engine {
    pub(crate) async fn restore(&self) -> Result<()> {
        let inner = Arc::clone(&self.inner);
        let records = blocking(move || inner.metadata.containers()).await?;
        let known: BTreeSet<String> = records.iter().map(|r| r.id.clone()).collect();
        self.remove_unowned(&known).await?;
        // Side by side: with hundreds of containers, asking one shim after the other would take seconds.
        let mut restoring = tokio::task::JoinSet::new();
        for record in records {
            let engine = self.clone();
            restoring.spawn(async move { engine.restore_container(record).await });
        }
        let mut to_start = Vec::new();
        while let Some(result) = restoring.join_next().await {
            match result.map_err(std::io::Error::other).map_err(EngineError::io("restoring panicked"))? {
                Ok(handle) => to_start.extend(handle),
                Err(error) => {
                    tracing::error!(error = sampan_base::chain(&error), "a container could not be restored");
                }
            }
        }
        let inner = Arc::clone(&self.inner);
        let running: Vec<_> = self.containers().into_iter().filter(|v| v.record.phase.is_alive()).collect();
        let running = running.into_iter().map(|v| (v.record.id, v.record.spec)).collect::<Vec<_>>();
        blocking(move || volumes::local::reconcile(&inner, &running)).await?;
        if !to_start.is_empty() {
            tokio::spawn(revive(to_start));
        }
        Ok(())
    }

    /// Answers the container if its restart policy wants it started.
    async fn restore_container(&self, mut record: ContainerRecord) -> Result<Option<Arc<Handle>>> {
        let inner = &self.inner;
        let bundle = inner.config.bundle(&record.id);
        let before = record.clone();
        network::normalise(inner, &mut record.spec);
        if let Some(phase) = read_aside(&inner.config, &record.id)
            && is_news(&phase, &record.phase)
        {
            record.phase = phase;
        }
        let mut run = None;
        if bundle.exists() || record.phase.is_alive() {
            let found = self.find_run(&record).await;
            match &found {
                Some((run, paused)) => {
                    let (pid, started_at) = (run.pid, run.started.at);
                    record.phase = if *paused {
                        Phase::Paused { pid, started_at }
                    } else {
                        Phase::Running { pid, started_at }
                    };
                    if owner::is_probed(&record) && record.health.is_none() {
                        record.health = Some(Health::begin(None));
                    }
                    tracing::info!(container = record.id, pid, "found a running container again");
                }
                None => {
                    tracing::warn!(container = record.id, "a container lost its shim; cleaning up after it");
                    let started = run::started(&bundle).map(|started| started.at);
                    tear_down(inner, &record.id, None).await;
                    let noted = match &record.phase {
                        Phase::Running { started_at, .. } | Phase::Paused { started_at, .. } => {
                            Some(*started_at)
                        }
                        // The daemon died between the start and its note, or this run's end is known.
                        Phase::Exited(exit) | Phase::Restarting(exit) => {
                            started.filter(|at| *at != exit.started_at)
                        }
                        Phase::Created { .. } => started,
                    };
                    if let Some(at) = noted {
                        record.phase = Phase::Exited(lost(at));
                    }
                }
            }
            run = found.map(|(run, _)| run);
        }
        match &record.phase {
            // It was started and is not on: the policy decides anew, as if it had ended just now.
            Phase::Exited(exit) if restart::is_due(&record, exit.code) => {
                record.phase = Phase::Restarting(exit.clone());
                record.restart_count = 0;
            }
            _ => {}
        }
        if run.is_none() {
            remove_cgroups(&bundle::cgroups_path(&record.spec, &record.id));
        }
        // What can't be read is not written over.
        if record != before && record.unreadable.is_none() {
            let (shared, stored) = (Arc::clone(inner), record.clone());
            match blocking(move || shared.metadata.put_container(&stored, Durable::Yes)).await {
                Ok(()) => forget_aside(&inner.config, &record.id),
                // The disk is full: that is no reason not to know the container.
                Err(error) => {
                    tracing::error!(
                        container = record.id,
                        error = sampan_base::chain(&error),
                        "cannot store what became of a container; it is kept where a reboot forgets it"
                    );
                    if record.phase.exit().is_some() {
                        keep_aside(&inner.config, &record);
                    }
                }
            }
        }
        let auto_remove = record.spec.auto_remove && run.is_none();
        let starts = matches!(record.phase, Phase::Restarting(_));
        inner.containers().claim(&record.name, &record.id)?;
        let id = record.id.clone();
        let task = run.as_ref().map(|run| run.task.clone());
        let handle = owner::spawn(inner, record, run);
        inner.containers().insert(Arc::clone(&handle));
        if let Some(task) = task {
            self.restore_execs(&handle.snapshot().record, &task).await;
        }
        if auto_remove {
            self.remove(&id, false, true).await?;
        }
        Ok(starts.then_some(handle))
    }

    /// The run that a shim looks after, if one does, and whether it is frozen: the record may be older. A container that
    /// was created in the shim but never started is none.
    async fn find_run(&self, record: &ContainerRecord) -> Option<(Run, bool)> {
        const PAUSED: i32 = sampan_rpc::types::Status::Paused as i32;
        const CREATED: i32 = sampan_rpc::types::Status::Created as i32;
        let task = shim::find(&record.id, &self.inner.config.bundle(&record.id)).await.ok()?;
        let state = task.state().await.ok()?;
        if state.status == CREATED || state.pid == 0 {
            return None;
        }
        let started = run::started(&self.inner.config.bundle(&record.id)).unwrap_or_else(|| {
            let at = match record.phase {
                Phase::Running { started_at, .. } | Phase::Paused { started_at, .. } => started_at,
                // The daemon died between the start and its note.
                _ => Timestamp::now(),
            };
            run::Started { at, uptime: Uptime::now() }
        });
        let (inner, id) = (Arc::clone(&self.inner), record.id.clone());
        let endpoints = blocking(move || network::find(&inner, &id)).await;
        Some((Run::watch(task, state.pid, endpoints, started), state.status == PAUSED))
    }

    /// Removes what belongs to no stored container.
    async fn remove_unowned(&self, known: &BTreeSet<String>) -> Result<()> {
        let inner = &self.inner;
        let config = &inner.config;
        let mut unowned = BTreeSet::new();
        for directory in [config.state.join("bundles"), config.runtime_root().join(shim::NAMESPACE)] {
            unowned.extend(names_in(&directory)?.into_iter().filter(|id| !known.contains(id)));
        }
        for id in &unowned {
            tracing::warn!(container = id, "removing what an unfinished container left behind");
            tear_down(inner, id, None).await;
        }
        let (shared, known) = (Arc::clone(inner), known.clone());
        blocking(move || {
            crate::rootfs::reconcile(&shared)?;
            network::reconcile(&shared, &known)?;
            volumes::remove_unowned(&shared, &known)?;
            for id in shared.images.snapshot_keys()? {
                if !known.contains(crate::sources::owner_of_key(&id)) {
                    tracing::warn!(container = id, "removing a snapshot without a container");
                    shared.images.remove_snapshot(&id)?;
                }
            }
            for id in names_in(&shared.config.state.join("ended"))?.iter().filter(|id| !known.contains(*id)) {
                forget_aside(&shared.config, id);
            }
            for id in names_in(&shared.config.root.join("containers"))? {
                if !known.contains(&id) {
                    let directory = shared.config.container_directory(&id);
                    sampan_base::files::remove_if_exists(&directory).map_err(EngineError::file)?;
                }
            }
            Ok(())
        })
        .await
    }
}

/// Starts containers, those first that others share namespaces with.
async fn revive(mut waiting: Vec<Arc<Handle>>) {
    while !waiting.is_empty() {
        let ids: BTreeSet<String> = waiting.iter().map(|h| h.id.clone()).collect();
        let waits = |handle: &Arc<Handle>| {
            let spec = &handle.view.borrow().record.spec;
            spec.needed_containers().any(|id| ids.contains(id))
        };
        let (later, mut now): (Vec<_>, Vec<_>) = waiting.into_iter().partition(waits);
        waiting = later;
        if now.is_empty() {
            // They need each other; the first one that tries says so.
            now = std::mem::take(&mut waiting);
        }
        let mut starting = tokio::task::JoinSet::new();
        for handle in now {
            starting.spawn(async move {
                // Whoever has stopped or removed it meanwhile has decided; a failure is logged by its owner.
                let _ = handle.ask(|reply| Request::Revive { reply }).await;
            });
        }
        while starting.join_next().await.is_some() {}
    }
}

/// Removes the cgroups of a container that does not run, if a crash left them. One that holds processes stays.
fn remove_cgroups(path: &str) {
    let Ok(hierarchies) = std::fs::read_dir("/sys/fs/cgroup") else { return };
    let roots = hierarchies.flatten().map(|entry| entry.path()).chain(["/sys/fs/cgroup".into()]);
    for root in roots {
        let directory = root.join(path.trim_start_matches('/'));
        if directory.is_dir() {
            match std::fs::remove_dir(&directory) {
                Ok(()) => {
                    tracing::warn!(cgroup = %directory.display(), "removed a cgroup that was left behind")
                }
                Err(error) => {
                    tracing::warn!(cgroup = %directory.display(), %error, "a cgroup was left behind");
                }
            }
        }
    }
}

/// Where the end of a run lies that could not be stored: the disk was full. A reboot forgets it.
fn aside(config: &crate::EngineConfig, id: &str) -> std::path::PathBuf {
    config.state.join("ended").join(id)
}

/// Keeps how a container ended for the next daemon, since it can't be stored.
pub(crate) fn keep_aside(config: &crate::EngineConfig, record: &ContainerRecord) {
    let path = aside(config, &record.id);
    let kept = serde_json::to_vec(&record.phase).map_err(|e| e.to_string()).and_then(|bytes| {
        let directory = path.parent().unwrap_or(&path);
        let made = sampan_base::files::create_directories(directory, 0o700);
        made.and_then(|()| sampan_base::files::write_atomic_volatile(&path, &bytes, 0o600))
            .map_err(|e| sampan_base::chain(&e))
    });
    if let Err(error) = kept {
        tracing::error!(container = record.id, error, "cannot keep the exit code anywhere but in memory");
    }
}

/// How a container ended whose end could not be stored.
fn read_aside(config: &crate::EngineConfig, id: &str) -> Option<Phase> {
    let bytes = sampan_base::files::read_limited(&aside(config, id), 1 << 20).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// Forgets how a container ended, because that is stored now, or it was started again.
pub(crate) fn forget_aside(config: &crate::EngineConfig, id: &str) {
    // Most have none. If it stays, the record that knows the same run's end counts.
    let _ = std::fs::remove_file(aside(config, id));
}

/// Whether what was kept aside, which is of the last run that ended, is not in the record yet. A run is told by when it
/// was started, whatever the clock said then; it may have been set back since.
fn is_news(aside: &Phase, record: &Phase) -> bool {
    aside.exit().map(|exit| exit.started_at) != record.exit().map(|exit| exit.started_at)
}

fn lost(started_at: Timestamp) -> Exit {
    Exit {
        code: 137,
        oom_killed: false,
        started_at,
        finished_at: Timestamp::now(),
        error:
            "it ended while no daemon and no shim watched it (the host was restarted, or its shim was killed)"
                .to_owned(),
    }
}

fn names_in(directory: &std::path::Path) -> Result<Vec<String>> {
    let failed = || EngineError::io(format!("cannot list `{}`", directory.display()));
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed()(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.map_err(failed())?.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_aside_counts_whatever_the_clock_was_set_to() {
        let at = |second| Timestamp::from_unix(second, 5).unwrap();
        let exited = |began, ended| {
            let (started_at, finished_at) = (at(began), at(ended));
            Phase::Exited(Exit { code: 3, oom_killed: false, started_at, finished_at, error: String::new() })
        };
        // Set back by an hour between the two runs: the later one ended earlier.
        assert!(is_news(&exited(6_400, 6_500), &exited(10_000, 10_100)));
        assert!(is_news(&exited(6_400, 6_500), &Phase::Running { pid: 7, started_at: at(6_400) }));
        assert!(!is_news(&exited(6_400, 6_500), &exited(6_400, 6_500)));
        // The same end, as the record knows it since it was stopped by hand.
        assert!(!is_news(&Phase::Restarting(exited(1, 2).exit().unwrap().clone()), &exited(1, 2)));
    }
}
