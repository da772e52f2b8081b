//! What build steps led to, remembered by keys that the builder makes from their inputs.
//!
//! A record holds on to the layers it names: they are not collected while it is there. There are at most
//! [`crate::limits::MAX_CACHE_RECORDS`]; the least recently used go.

use std::collections::{BTreeMap, BTreeSet};

use redb::ReadableTableMetadata;
use sampan_base::{ChainId, Timestamp};

use crate::image::ImageError;
use crate::limits::MAX_CACHE_RECORDS;
use crate::metadata::{CACHE, CacheRecord, Metadata, MetadataError};
use crate::store::{Lease, Store};

/// What a step led to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cached {
    /// The layers after it, if it held on to any.
    pub chain: Option<ChainId>,
    /// What the builder wanted to remember.
    pub value: String,
    /// The step, for people.
    pub text: String,
    /// Bytes of the files of the layer that it made.
    pub size: u64,
}

/// A build step that is remembered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CacheEntry {
    /// Its key.
    pub key: String,
    /// The step, for people; empty for one that made no files.
    pub text: String,
    /// Bytes of the files of its layer.
    pub size: u64,
    /// Whether an image or a container has the layer, too: forgetting the step frees nothing then.
    pub shared: bool,
    /// When it was first done.
    pub created: Timestamp,
    /// When it was last of use.
    pub used: Timestamp,
    /// How often it was.
    pub uses: u64,
}

impl Store {
    /// What the step with this key led to. Its layers are held by `lease`. A record whose layers are gone counts as
    /// none.
    ///
    /// # Errors
    /// If the database can't be read.
    pub fn cached(&self, key: &str, lease: &Lease) -> Result<Option<Cached>, MetadataError> {
        let mut held = self.held();
        let pending = self.metadata().pending().cache.get(key).cloned();
        let Some(record) = pending.map_or_else(|| self.metadata().get(CACHE, key), |r| Ok(Some(r)))? else {
            return Ok(None);
        };
        if let Some(chain) = &record.chain {
            if self.metadata().chain(chain)?.is_none() {
                return Ok(None);
            }
            lease.hold_chain_in(&mut held, chain);
        }
        self.metadata().pending().touched.insert(key.to_owned(), Timestamp::now());
        Ok(Some(Cached { chain: record.chain, value: record.value, text: record.text, size: record.size }))
    }

    /// Remembers what a step led to; it is on disk when the next image is.
    pub fn remember(&self, key: &str, cached: Cached) {
        let Cached { chain, value, text, size } = cached;
        let now = Timestamp::now();
        let record = CacheRecord { chain, value, used: now, text, size, created: Some(now), uses: 1 };
        self.metadata().pending().cache.insert(key.to_owned(), record);
    }

    /// All build steps that are remembered.
    ///
    /// # Errors
    /// If the database can't be read.
    pub fn cache_entries(&self) -> Result<Vec<CacheEntry>, ImageError> {
        let mut records: BTreeMap<String, CacheRecord> =
            self.metadata().all::<CacheRecord>(CACHE)?.into_iter().collect();
        {
            let pending = self.metadata().pending();
            records.extend(pending.cache.iter().map(|(key, record)| (key.clone(), record.clone())));
            for (key, used) in &pending.touched {
                if let Some(record) = records.get_mut(key) {
                    (record.used, record.uses) = (*used, record.uses + 1);
                }
            }
        }
        let mut needed: BTreeSet<ChainId> =
            self.list()?.into_iter().flat_map(|image| image.layers).map(|layer| layer.chain_id).collect();
        for (_, snapshot) in self.metadata().snapshots()? {
            let mut next = snapshot.parent;
            while let Some(chain) = next {
                next = self.metadata().chain(&chain)?.and_then(|record| record.parent);
                needed.insert(chain);
            }
        }
        let entry = |(key, record): (String, CacheRecord)| CacheEntry {
            shared: record.size > 0 && record.chain.as_ref().is_some_and(|chain| needed.contains(chain)),
            created: record.created.unwrap_or(record.used),
            used: record.used,
            uses: record.uses,
            text: record.text,
            size: record.size,
            key,
        };
        Ok(records.into_iter().map(entry).collect())
    }

    /// Forgets these build steps and collects what only they held.
    ///
    /// # Errors
    /// If the database can't be written.
    pub fn forget_cached(&self, keys: &[String]) -> Result<crate::Collected, ImageError> {
        {
            let mut pending = self.metadata().pending();
            for key in keys {
                pending.cache.remove(key);
                pending.touched.remove(key);
            }
        }
        self.metadata().write(|t| keys.iter().try_for_each(|key| self.metadata().delete(t, CACHE, key)))?;
        self.gc()
    }

    /// As [`Store::forget_cached`], all of them.
    ///
    /// # Errors
    /// As there.
    pub fn forget_cache(&self) -> Result<crate::Collected, ImageError> {
        let keys: Vec<String> = self.cache_entries()?.into_iter().map(|entry| entry.key).collect();
        self.forget_cached(&keys)
    }
}

/// Writes when records were used, and drops the least recently used tenth when there are too many.
pub(crate) fn age(
    metadata: &Metadata,
    t: &redb::WriteTransaction,
    touched: &BTreeMap<String, Timestamp>,
) -> Result<(), MetadataError> {
    for (key, used) in touched {
        if let Some(record) = metadata.get_in::<CacheRecord>(t, CACHE, key)? {
            metadata.put(t, CACHE, key, &CacheRecord { used: *used, uses: record.uses + 1, ..record })?;
        }
    }
    let count = metadata.on("read", metadata.on("read", t.open_table(CACHE))?.len())?;
    if count <= MAX_CACHE_RECORDS as u64 {
        return Ok(());
    }
    let mut all = metadata.all_in::<CacheRecord>(t, CACHE)?;
    all.sort_by_key(|(_, record)| record.used);
    let excess = all.len() - MAX_CACHE_RECORDS + MAX_CACHE_RECORDS / 10;
    all.iter().take(excess).try_for_each(|(key, _)| metadata.delete(t, CACHE, key))
}
