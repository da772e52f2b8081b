//! What builds leave for later ones: steps and the directories of `RUN --mount=type=cache`, shown, pruned by hand, and
//! kept within bounds by itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sampan_base::Timestamp;

use crate::error::{EngineError, Result};
use crate::events::EventKind;
use crate::{Engine, Inner, long_blocking};

/// Something that a build left.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BuildCacheEntry {
    /// Names it.
    pub id: String,
    /// What it is.
    pub kind: CacheKind,
    /// For people: the instruction, or the directory's id.
    pub text: String,
    /// Bytes of its files.
    pub size: u64,
    /// A build uses it now.
    pub in_use: bool,
    /// An image or a container has it, too: removing it frees nothing.
    pub shared: bool,
    /// When it was made.
    pub created: Timestamp,
    /// When it was last of use.
    pub used: Timestamp,
    /// How often it was.
    pub uses: u64,
}

/// What a build left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CacheKind {
    /// What a step led to.
    Step,
    /// A directory of `RUN --mount=type=cache`.
    Mount,
}

/// What to prune. What is in use stays.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CachePrune {
    /// Also what images have, too.
    pub all: bool,
    /// Only what was of no use for so long.
    pub unused_for: Option<Duration>,
    /// Keep the most recently used of this many bytes.
    pub keep_bytes: u64,
    /// Only the one whose id starts so.
    pub id: Option<String>,
    /// Only of this kind.
    pub kind: Option<CacheKind>,
}

/// How much is kept at most.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CacheBounds {
    /// Bytes; `None`: a tenth of the file system.
    pub bytes: Option<u64>,
    /// How long something may be of no use.
    pub unused_for: Duration,
}

impl Default for CacheBounds {
    fn default() -> Self {
        CacheBounds { bytes: None, unused_for: Duration::from_secs(60 * 24 * 3600) }
    }
}

/// How often the bounds are looked at, at most.
const BETWEEN_LOOKS: Duration = Duration::from_secs(600);

impl Engine {
    /// All that builds left.
    ///
    /// # Errors
    /// If it can't be read.
    pub async fn build_cache(&self) -> Result<Vec<BuildCacheEntry>> {
        let inner = Arc::clone(&self.inner);
        long_blocking(move || inner.build_cache()).await
    }

    /// Removes some of it; answers what, and the bytes freed.
    ///
    /// # Errors
    /// If it can't be removed.
    pub async fn build_cache_prune(&self, prune: CachePrune) -> Result<(Vec<BuildCacheEntry>, u64)> {
        let inner = Arc::clone(&self.inner);
        long_blocking(move || {
            let (gone, bytes) = inner.prune_build_cache(&prune)?;
            inner.prune_event(EventKind::Builder, bytes);
            Ok((gone, bytes))
        })
        .await
    }

    /// Keeps the cache within its bounds, if that was not looked at for a while.
    pub(crate) fn bound_build_cache(&self) {
        {
            let mut last = self.inner.cache_bounded.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if last.is_some_and(|at| at.elapsed() < BETWEEN_LOOKS) {
                return;
            }
            *last = Some(Instant::now());
        }
        let inner = Arc::clone(&self.inner);
        // Nobody waits for it: if the daemon ends first, the next build looks again.
        tokio::task::spawn_blocking(move || {
            if let Err(error) = inner.bound() {
                tracing::warn!(
                    error = sampan_base::chain(&error),
                    "cannot keep the build cache within its bounds"
                );
            }
        });
    }
}

impl Inner {
    fn build_cache(&self) -> Result<Vec<BuildCacheEntry>> {
        let failed =
            |e: sampan_image::ImageError| EngineError::layer(e.class(), "cannot read the build cache")(e);
        let steps = self.images.store.cache_entries().map_err(failed)?;
        let mounts = self.solver.persistent_mounts().map_err(EngineError::file)?;
        let steps = steps.into_iter().map(|step| BuildCacheEntry {
            id: step.key,
            kind: CacheKind::Step,
            text: step.text,
            size: step.size,
            in_use: false,
            shared: step.shared,
            created: step.created,
            used: step.used,
            uses: step.uses,
        });
        let mounts = mounts.into_iter().map(|mount| BuildCacheEntry {
            id: mount.name,
            kind: CacheKind::Mount,
            text: mount.id,
            size: mount.size,
            in_use: mount.in_use,
            shared: false,
            created: mount.created,
            used: mount.used,
            uses: mount.uses,
        });
        Ok(steps.chain(mounts).collect())
    }

    fn prune_build_cache(&self, prune: &CachePrune) -> Result<(Vec<BuildCacheEntry>, u64)> {
        let unwanted = plan(self.build_cache()?, prune, Timestamp::now());
        let of =
            |kind| unwanted.iter().filter(move |e| e.kind == kind).map(|e| e.id.clone()).collect::<Vec<_>>();
        let (steps, mounts) = (of(CacheKind::Step), of(CacheKind::Mount));
        let removed = self.solver.remove_persistent(&|mount| mounts.contains(&mount.name));
        let removed = removed.map_err(EngineError::file)?;
        if !steps.is_empty() {
            let forgotten = self.images.store.forget_cached(&steps);
            forgotten.map_err(|e| EngineError::layer(e.class(), "cannot prune the build cache")(e))?;
        }
        let gone: Vec<BuildCacheEntry> = unwanted
            .into_iter()
            .filter(|e| e.kind == CacheKind::Step || removed.iter().any(|m| m.name == e.id))
            .collect();
        let bytes = gone.iter().filter(|e| !e.shared).map(|e| e.size).sum();
        Ok((gone, bytes))
    }

    fn bound(&self) -> Result<()> {
        let bounds = self.settings().build_cache;
        let bytes = match bounds.bytes {
            Some(bytes) => bytes,
            None => {
                let about = rustix::fs::statvfs(&self.config.root).map_err(std::io::Error::from);
                let about = about.map_err(EngineError::io("cannot look at the file system"))?;
                about.f_blocks.saturating_mul(about.f_frsize) / 10
            }
        };
        let old = CachePrune { all: true, unused_for: Some(bounds.unused_for), ..CachePrune::default() };
        let many = CachePrune { keep_bytes: bytes, ..CachePrune::default() };
        for prune in [old, many] {
            let (gone, freed) = self.prune_build_cache(&prune)?;
            if !gone.is_empty() {
                tracing::info!(entries = gone.len(), bytes = freed, "the build cache was too old or too big");
            }
        }
        Ok(())
    }
}

/// What is to go: the least recently used first, until what stays is little enough.
fn plan(mut entries: Vec<BuildCacheEntry>, prune: &CachePrune, now: Timestamp) -> Vec<BuildCacheEntry> {
    entries.sort_by(|a, b| a.used.cmp(&b.used).then_with(|| a.id.cmp(&b.id)));
    let mut kept: u64 = entries.iter().filter(|e| !e.shared).map(|e| e.size).sum();
    let age = |entry: &BuildCacheEntry| now.unix_seconds().saturating_sub(entry.used.unix_seconds());
    let mut unwanted = Vec::new();
    for entry in entries {
        let wanted = entry.in_use
            || (entry.shared && !prune.all)
            || prune.kind.is_some_and(|kind| kind != entry.kind)
            || prune.id.as_ref().is_some_and(|id| !entry.id.starts_with(id.as_str()))
            || prune
                .unused_for
                .is_some_and(|least| age(&entry) < i64::try_from(least.as_secs()).unwrap_or(i64::MAX))
            || (prune.keep_bytes > 0 && kept <= prune.keep_bytes);
        if !wanted {
            if !entry.shared {
                kept -= entry.size;
            }
            unwanted.push(entry);
        }
    }
    unwanted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_goes_first_and_what_is_in_use_stays() {
        let entry = |id: &str, used: i64, size: u64| BuildCacheEntry {
            id: id.to_owned(),
            kind: CacheKind::Step,
            text: String::new(),
            size,
            in_use: id == "busy",
            shared: id == "shared",
            created: Timestamp::from_unix(used, 0).unwrap(),
            used: Timestamp::from_unix(used, 0).unwrap(),
            uses: 1,
        };
        let entries = vec![
            entry("new", 900, 10),
            entry("old", 100, 10),
            entry("busy", 50, 10),
            entry("shared", 60, 10),
        ];
        let plan = |prune: CachePrune| {
            let now = Timestamp::from_unix(1000, 0).unwrap();
            let gone = plan(entries.clone(), &prune, now);
            gone.into_iter().map(|e| e.id).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(plan(CachePrune::default()), "old new");
        assert_eq!(plan(CachePrune { all: true, ..Default::default() }), "shared old new");
        assert_eq!(plan(CachePrune { keep_bytes: 20, ..Default::default() }), "old");
        assert_eq!(plan(CachePrune { keep_bytes: 30, ..Default::default() }), "");
        let unused_for = Some(Duration::from_secs(500));
        assert_eq!(plan(CachePrune { unused_for, ..Default::default() }), "old");
        assert_eq!(plan(CachePrune { id: Some("n".into()), ..Default::default() }), "new");
        assert_eq!(plan(CachePrune { kind: Some(CacheKind::Mount), ..Default::default() }), "");
    }
}
