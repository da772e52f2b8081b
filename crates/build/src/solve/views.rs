//! File systems that a build mounts, for itself or for its commands. The two differ where commands are in a user namespace:
//! what is theirs is mounted with its mapping, so that they see the ids of the image, and this process those of the host.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use sampan_base::ChainId;
use sampan_image::{InitLayer, Scratch, SnapshotError};

use super::{Result, Solve, lock};
use crate::error::BuildError;

/// Who reads or changes a mounted file system.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum For {
    /// This process.
    Us,
    /// A command, in the user namespace of commands.
    Commands,
}

/// File systems that are read, by all steps that want the same.
#[derive(Default)]
pub(super) struct Views(Mutex<HashMap<Key, Arc<Scratch>>>);

/// Which layers, and for whom.
type Key = (Option<ChainId>, For);

impl Solve<'_> {
    /// The layers of `chain` (`None`: nothing) mounted, to copy from or for commands to see.
    pub(super) fn view(&self, chain: Option<&ChainId>, whom: For, line: usize) -> Result<Arc<Scratch>> {
        // Without a user namespace there is no difference.
        let whom = self.runner.users().map_or(For::Us, |_| whom);
        let mut views = lock(&self.views.0);
        let key = (chain.cloned(), whom);
        if let Some(view) = views.get(&key) {
            return Ok(Arc::clone(view));
        }
        let view = Arc::new(self.fresh_view(chain, whom, line)?);
        views.insert(key, Arc::clone(&view));
        Ok(view)
    }

    /// As [`Solve::view`], of one's own: what is written there is nobody else's.
    pub(super) fn fresh_view(&self, chain: Option<&ChainId>, whom: For, line: usize) -> Result<Scratch> {
        self.scratch(whom, chain, &InitLayer::empty())
            .map_err(|source| BuildError::Snapshot { at: self.at(line), source: Box::new(source) })
    }

    /// A file system that is to become a layer.
    pub(super) fn scratch(
        &self,
        whom: For,
        chain: Option<&ChainId>,
        init: &InitLayer,
    ) -> std::result::Result<Scratch, SnapshotError> {
        let users = self.runner.users().filter(|_| whom == For::Commands);
        self.store.scratch_for(users, chain, init, &self.lease)
    }
}
