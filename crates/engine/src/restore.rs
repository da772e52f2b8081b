//! What a daemon does first: it finds again what an earlier one left, however that one ended.
//!
//! For every stored container the shim is asked what became of it; what has a shim goes on, what lost it is cleaned up and
//! counts as killed. Then everything of ours that belongs to no stored container goes: bundles, containers in the OCI
//! runtime, network endpoints, snapshots, directories. Each thing mended is logged.

use std::collections::BTreeSet;
use std::sync::Arc;

use sampan_base::Timestamp;

use crate::container::owner;
use crate::container::run::{self, Run};
use crate::container::state::{Exit, Phase};
use crate::error::{EngineError, Result};
use crate::metadata::{ContainerRecord, Durable};
use crate::{Engine, blocking, network, shim, volumes};

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
        while let Some(result) = restoring.join_next().await {
            if let Err(error) =
                result.map_err(std::io::Error::other).map_err(EngineError::io("restoring panicked"))?
            {
                tracing::error!(error = sampan_base::chain(&error), "a container could not be restored");
            }
        }
        Ok(())
    }

    async fn restore_container(&self, mut record: ContainerRecord) -> Result<()> {
        let inner = &self.inner;
        let bundle = inner.config.bundle(&record.id);
        network::normalise(inner, &mut record.spec);
        let mut run = None;
        if bundle.exists() || record.phase.is_alive() {
            run = self.find_run(&record).await;
            match &run {
                Some(run) => {
                    let paused = matches!(record.phase, Phase::Paused { .. });
                    let (pid, started_at) = (run.pid, run.started_at);
                    record.phase = if paused {
                        Phase::Paused { pid, started_at }
                    } else {
                        Phase::Running { pid, started_at }
                    };
                    tracing::info!(container = record.id, pid, "found a running container again");
                }
                None => {
                    tracing::warn!(container = record.id, "a container lost its shim; cleaning up after it");
                    run::tear_down(inner, &record.id, None).await;
                    if let Phase::Running { started_at, .. } | Phase::Paused { started_at, .. } = record.phase
                    {
                        record.phase = Phase::Exited(lost(started_at));
                    }
                }
            }
            let (shared, stored) = (Arc::clone(inner), record.clone());
            blocking(move || shared.metadata.put_container(&stored, Durable::Yes)).await?;
        }
        let auto_remove = record.spec.auto_remove && run.is_none();
        inner.containers().claim(&record.name, &record.id)?;
        let id = record.id.clone();
        let handle = owner::spawn(inner, record, run);
        inner.containers().insert(handle);
        if auto_remove {
            self.remove(&id, false, true).await?;
        }
        Ok(())
    }

    /// The run that a shim looks after, if one does. A container that was created in the shim but never started is none.
    async fn find_run(&self, record: &ContainerRecord) -> Option<Run> {
        const CREATED: i32 = sampan_rpc::types::Status::Created as i32;
        let task = shim::find(&record.id, &self.inner.config.bundle(&record.id)).await.ok()?;
        let state = task.state().await.ok()?;
        if state.status == CREATED || state.pid == 0 {
            return None;
        }
        let started_at = match record.phase {
            Phase::Running { started_at, .. } | Phase::Paused { started_at, .. } => started_at,
            // The daemon died between the start and its note.
            _ => Timestamp::now(),
        };
        let (inner, id) = (Arc::clone(&self.inner), record.id.clone());
        let endpoints = blocking(move || network::find(&inner, &id)).await;
        Some(Run::watch(task, state.pid, endpoints, started_at))
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
            run::tear_down(inner, id, None).await;
        }
        let (shared, known) = (Arc::clone(inner), known.clone());
        blocking(move || {
            network::reconcile(&shared, &known)?;
            volumes::remove_unowned(&shared, &known)?;
            for id in shared.images.snapshot_keys()? {
                if !known.contains(&id) {
                    tracing::warn!(container = id, "removing a snapshot without a container");
                    shared.images.remove_snapshot(&id)?;
                }
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
