//! Collecting garbage: what no image, snapshot, cache record or lease needs goes.
//!
//! Records go first, in one transaction, files after: a crash between leaves files that no record names, which
//! [`Store::open`] removes. If anything that is needed can't be read, nothing is collected.

use std::collections::BTreeSet;

use sampan_base::{ChainId, DiffId, Digest};
use sampan_oci::image::{ImageConfig, Manifest};

use crate::image::ImageError;
use crate::metadata::{CACHE, CHAINS, CacheRecord, ChainRecord, DIFFS, DiffRecord, IMAGES, ImageRecord};
use crate::snapshot::remove_directory;
use crate::store::Store;

/// What was collected.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Collected {
    /// Unpacked layers.
    pub layers: usize,
    /// Blobs.
    pub blobs: usize,
    /// Bytes of the blobs.
    pub bytes: u64,
}

/// What is needed.
#[derive(Default)]
struct Marked {
    blobs: BTreeSet<Digest>,
    chains: BTreeSet<ChainId>,
    diffs: BTreeSet<DiffId>,
}

impl Marked {
    /// A blob that a lease holds may be a layer whose chain is about to be recorded.
    fn keeps(&self, diff: &DiffId, record: &DiffRecord) -> bool {
        self.diffs.contains(diff) || self.blobs.contains(&record.blob)
    }
}

/// What is not: layers, and the records of where their tars are.
type Unmarked = (Vec<(ChainId, ChainRecord)>, Vec<DiffId>);

impl Store {
    /// Removes what nothing needs.
    ///
    /// # Errors
    /// If something that may be needed can't be read (nothing is removed then), or something can't be removed.
    pub fn gc(&self) -> Result<Collected, ImageError> {
        let mut collected = Collected::default();
        let mut directories = Vec::new();
        {
            // Held until the blobs are gone: a blob has its digest for a name, so one taken in anew meanwhile would be
            // taken for the old one. Directories have fresh numbers and can go later.
            let held = self.held();
            let mut marked = Marked::default();
            marked.blobs.extend(held.blobs.keys().cloned());
            for chain in held.chains.keys() {
                self.mark_chain(chain, &mut marked)?;
            }
            self.mark_records(&mut marked)?;
            let (chains, diffs) = self.unmarked(&marked)?;
            directories.extend(chains.iter().filter_map(|(_, r)| r.directory).map(|n| (n, self.busy(n))));
            {
                let mut pending = self.metadata().pending();
                pending.chains.retain(|chain, _| marked.chains.contains(chain));
                pending.diffs.retain(|diff, record| marked.keeps(diff, record));
            }
            self.metadata().write(|t| {
                for (chain, _) in &chains {
                    self.metadata().delete(t, CHAINS, chain.0.as_str())?;
                }
                for diff in &diffs {
                    self.metadata().delete(t, DIFFS, diff.0.as_str())?;
                }
                Ok(())
            })?;
            for digest in self.content().all()? {
                if !marked.blobs.contains(&digest) {
                    collected.bytes += std::fs::metadata(self.content().path(&digest)).map_or(0, |m| m.len());
                    self.content().remove(&digest)?;
                    collected.blobs += 1;
                }
            }
        }
        for (number, _busy) in directories {
            remove_directory(&self.directory_path(number))?;
            collected.layers += 1;
        }
        Ok(collected)
    }

    /// The blobs that [`Store::gc`] would remove.
    pub(crate) fn garbage(&self) -> Result<Vec<Digest>, ImageError> {
        let held = self.held();
        let mut marked = Marked::default();
        marked.blobs.extend(held.blobs.keys().cloned());
        for chain in held.chains.keys() {
            self.mark_chain(chain, &mut marked)?;
        }
        self.mark_records(&mut marked)?;
        let mut garbage = self.content().all()?;
        garbage.retain(|digest| !marked.blobs.contains(digest));
        Ok(garbage)
    }

    fn mark_records(&self, marked: &mut Marked) -> Result<(), ImageError> {
        for (id, record) in self.metadata().all::<ImageRecord>(IMAGES)? {
            let id: Digest = id.parse().map_err(|_| ImageError::NotFound { id: id.clone() })?;
            let config: ImageConfig = self.document("configuration", &id)?;
            let manifest: Manifest = self.document("manifest", &record.manifest)?;
            marked.blobs.extend([id, record.manifest]);
            marked.blobs.extend(manifest.layers.into_iter().map(|l| l.digest));
            if let Some(chain) = config.chain_id() {
                self.mark_chain(&chain, marked)?;
            }
        }
        for (_, record) in self.metadata().snapshots()? {
            if let Some(chain) = &record.parent {
                self.mark_chain(chain, marked)?;
            }
        }
        let pending: Vec<CacheRecord> = self.metadata().pending().cache.values().cloned().collect();
        let cached = self.metadata().all::<CacheRecord>(CACHE)?.into_iter().map(|(_, r)| r);
        for record in cached.chain(pending) {
            if let Some(chain) = &record.chain {
                self.mark_chain(chain, marked)?;
            }
        }
        Ok(())
    }

    /// The chain, those below it, and their tars.
    fn mark_chain(&self, chain: &ChainId, marked: &mut Marked) -> Result<(), ImageError> {
        let mut next = Some(chain.clone());
        while let Some(chain) = next {
            // One that is marked has all below it marked, too.
            if !marked.chains.insert(chain.clone()) {
                break;
            }
            let Some(record) = self.metadata().chain(&chain)? else { break };
            if marked.diffs.insert(record.diff_id.clone())
                && let Some(diff) = self.metadata().diff(&record.diff_id)?
            {
                marked.blobs.insert(diff.blob);
            }
            next = record.parent;
        }
        Ok(())
    }

    fn unmarked(&self, marked: &Marked) -> Result<Unmarked, ImageError> {
        let mut chains: Vec<(ChainId, ChainRecord)> = Vec::new();
        for (key, record) in self.metadata().all::<ChainRecord>(CHAINS)? {
            if let Ok(chain) = key.parse().map(ChainId) {
                chains.push((chain, record));
            }
        }
        let mut diffs: Vec<(DiffId, DiffRecord)> = Vec::new();
        for (key, record) in self.metadata().all::<DiffRecord>(DIFFS)? {
            diffs.extend(key.parse().map(|digest| (DiffId(digest), record)));
        }
        {
            let pending = self.metadata().pending();
            chains.extend(pending.chains.iter().map(|(c, r)| (c.clone(), r.clone())));
            diffs.extend(pending.diffs.iter().map(|(d, r)| (d.clone(), r.clone())));
        }
        chains.retain(|(chain, _)| !marked.chains.contains(chain));
        diffs.retain(|(diff, record)| !marked.keeps(diff, record));
        Ok((chains, diffs.into_iter().map(|(diff, _)| diff).collect()))
    }
}
