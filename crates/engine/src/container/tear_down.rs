//! The end of a run and of a container: all that belonged to it goes.
//!
//! ```text
//! shim: Delete, Shutdown ─> network, volumes, mounts ─> bundle      (each is tried whatever became of the others)
//! ```
//! What could not be removed (the daemon had no descriptor left, say) is remembered and tried again when the next
//! container has been started or torn down: then there is room again. The next daemon tries, too.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sampan_base::{Class, files as disk};

use crate::error::{EngineError, Result};
use crate::shim::{self, ShimError, Task};
use crate::spec::ContainerSpec;
use crate::{Inner, blocking, network, sources, volumes};

/// What could not be removed.
#[derive(Debug, Default)]
pub(crate) struct LeftOvers {
    /// The containers of which a run has left something. The lock is held while it is tried again, so that no start comes
    /// in between.
    runs: tokio::sync::Mutex<BTreeSet<String>>,
    /// The containers that are gone but for something on disk, with the keys of their snapshots.
    containers: Mutex<BTreeMap<String, Vec<String>>>,
}

impl LeftOvers {
    fn containers(&self) -> MutexGuard<'_, BTreeMap<String, Vec<String>>> {
        self.containers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a run: asks the shim to remove the container, then removes all that belongs to the run.
pub(crate) async fn tear_down(inner: &Arc<Inner>, id: &str, task: Option<&Task>) {
    if try_tear_down(inner, id, task).await {
        retry_soon(inner);
    } else {
        inner.left_overs.runs.lock().await.insert(id.to_owned());
    }
}

/// Tears down what an earlier run of the container has left.
pub(crate) async fn before_start(inner: &Arc<Inner>, id: &str) -> Result<()> {
    let mut left = inner.left_overs.runs.lock().await;
    if left.contains(id) {
        if !try_tear_down(inner, id, None).await {
            let doing = "cannot start the container before what its last run has left is removed";
            return Err(EngineError::layer(Class::Unavailable, doing)("the daemon's log says what failed"));
        }
        left.remove(id);
    }
    Ok(())
}

/// Tries again what could not be removed, behind the caller's back.
pub(crate) fn retry_soon(inner: &Arc<Inner>) {
    // Whoever holds the lock adds to it, and is a reason to try later, or tries right now.
    let runs_are_gone = inner.left_overs.runs.try_lock().is_ok_and(|left| left.is_empty());
    if runs_are_gone && inner.left_overs.containers().is_empty() && !inner.images.has_unremoved() {
        return;
    }
    let inner = Arc::clone(inner);
    tokio::spawn(async move {
        {
            let inner = Arc::clone(&inner);
            blocking(move || {
                inner.images.remove_again();
                let left = std::mem::take(&mut *inner.left_overs.containers());
                left.into_iter().for_each(|(id, keys)| inner.remove_on_disk(&id, keys));
            })
            .await;
        }
        let mut left = inner.left_overs.runs.lock().await;
        let ids: Vec<String> = left.iter().cloned().collect();
        for id in ids {
            if try_tear_down(&inner, &id, None).await {
                tracing::info!(container = id, "removed what could not be removed before");
                left.remove(&id);
            }
        }
    });
}

impl Inner {
    /// Removes what is on disk of a container whose record is gone. What fails is logged and tried again with what runs
    /// have left. Blocks.
    pub(crate) fn forget_on_disk(&self, id: &str, spec: &ContainerSpec) {
        self.execs.remove_container(id);
        self.remove_on_disk(id, sources::snapshot_keys(id, spec));
    }

    /// Removes a container's directory and the snapshots with these keys.
    fn remove_on_disk(&self, id: &str, keys: Vec<String>) {
        let mut is_gone = true;
        for key in &keys {
            if let Err(error) = self.images.remove_snapshot(key) {
                tracing::warn!(
                    snapshot = key,
                    error = sampan_base::chain(&error),
                    "cannot remove the snapshot"
                );
                is_gone = false;
            }
        }
        if let Err(error) = disk::remove_if_exists(&self.config.container_directory(id)) {
            tracing::warn!(container = id, error = sampan_base::chain(&error), "cannot remove the directory");
            is_gone = false;
        }
        if !is_gone {
            self.left_overs.containers().insert(id.to_owned(), keys);
        }
    }
}

/// Answers whether nothing is left. Each step is tried whatever became of the others; what failed is logged.
async fn try_tear_down(inner: &Arc<Inner>, id: &str, task: Option<&Task>) -> bool {
    let bundle = inner.config.bundle(id);
    let found = match task {
        Some(task) => Ok(task.clone()),
        None => shim::find(id, &bundle).await,
    };
    let deleted = match found {
        Ok(task) => end_task(inner, id, &task).await,
        // The shim is gone: what it looked after may still be there.
        Err(error) if error.nobody_listens() => after_shim(inner, id).await,
        Err(error) => {
            // It may live: its address must not go before it.
            tracing::warn!(container = id, error = sampan_base::chain(&error), "cannot end the shim");
            return false;
        }
    };
    shim::remove_socket(&bundle);
    network::detach(inner, id).await;
    let (inner, id) = (Arc::clone(inner), id.to_owned());
    let removed = blocking(move || {
        volumes::local::unmount_all(&inner, &id);
        let own = sources::unmount_all(&inner, &id).map_err(EngineError::io("cannot unmount what it binds"));
        if let Err(error) = own.and_then(|()| inner.images.unmount_snapshot(&bundle.join("rootfs"))) {
            tracing::warn!(
                container = id,
                error = sampan_base::chain(&error),
                "cannot unmount the root file system"
            );
            // What is mounted must not be removed as if it were ours.
            return false;
        }
        if let Err(error) = disk::remove_if_exists(&bundle) {
            tracing::warn!(container = id, error = sampan_base::chain(&error), "cannot remove the bundle");
            return false;
        }
        true
    });
    removed.await && deleted
}

/// Has the shim remove the container, and ends the shim. Answers whether the container is gone.
async fn end_task(inner: &Arc<Inner>, id: &str, task: &Task) -> bool {
    let deleted = match task.delete(None).await {
        Ok(_) => true,
        // The shim is gone, but what it looked after may be alive.
        Err(ShimError::Lost | ShimError::Connect { .. }) => after_shim(inner, id).await,
        Err(error) if error.is_not_found() => true,
        Err(error) => {
            tracing::warn!(container = id, error = sampan_base::chain(&error), "cannot delete the task");
            force_delete(inner, id).await
        }
    };
    match task.shutdown().await {
        Ok(()) | Err(ShimError::Lost | ShimError::Connect { .. }) => {}
        Err(error) => {
            tracing::warn!(container = id, error = sampan_base::chain(&error), "cannot end the shim");
        }
    }
    deleted
}

/// Removes what a shim that has been killed looked after. A command of the runtime may have outlived it, and is about to
/// make the container: it has an end, which is waited for. Answers whether the container is gone.
async fn after_shim(inner: &Arc<Inner>, id: &str) -> bool {
    let bundle = inner.config.bundle(id);
    let is_gone = shim::find(id, &bundle).await.is_err_and(|error| error.nobody_listens());
    if is_gone && let Err(error) = blocking(move || shim::wait_for_end(&bundle)).await {
        tracing::warn!(container = id, %error, "cannot tell whether all of its shim has ended");
    }
    force_delete(inner, id).await
}

/// Removes a container from the OCI runtime, killing what runs, without a shim's help. Answers whether it is gone.
async fn force_delete(inner: &Arc<Inner>, id: &str) -> bool {
    let (inner, id) = (Arc::clone(inner), id.to_owned());
    blocking(move || force_delete_blocking(&inner, &id)).await
}

/// As [`force_delete`], where one may block.
pub(crate) fn force_delete_blocking(inner: &Inner, id: &str) -> bool {
    let root = inner.config.runtime_root().join(shim::NAMESPACE);
    if !root.join(id).exists() {
        return true;
    }
    let mut command = std::process::Command::new(&inner.config.runtime);
    command.arg("--root").arg(&root).args(["delete", "--force", id]).stdin(std::process::Stdio::null());
    match command.output() {
        Ok(output) if output.status.success() => return true,
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            tracing::warn!(container = id, said = said.trim(), "the runtime could not delete the container");
        }
        Err(error) => tracing::warn!(container = id, %error, "the runtime could not be started"),
    }
    false
}
