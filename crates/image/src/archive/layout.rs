//! The `index.json` that makes the content store an OCI layout: `skopeo inspect oci:/var/lib/sampan/content:NAME`.
//!
//! It is made from the database and made anew when the store opens; so it is not synced, and one that can't be written is
//! only old. It is read if the database is lost ([`crate::recover`]).

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use sampan_base::ImageRef;
use sampan_oci::image::{Descriptor, Index, media};

use super::REF_ANNOTATION;
use crate::image::{ImageError, ImageId};
use crate::metadata::{IMAGES, ImageRecord, NAMES};
use crate::store::Store;

/// One writer at a time, each reading after the one before has written: the last one tells the last state.
static WRITING: Mutex<()> = Mutex::new(());

impl Store {
    /// Writes the index of what images there are now.
    pub(crate) fn write_index(&self) {
        let _writing = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(index) = self.index()
            && let Ok(json) = serde_json::to_vec(&index)
        {
            let path = self.content().blobs().join("../../index.json");
            // Only others read it; the store itself needs it not.
            let _ = sampan_base::files::write_atomic_volatile(&path, &json, 0o644);
        }
    }

    /// Whether the index on disk tells what images there are.
    pub(crate) fn index_is_true(&self) -> bool {
        let _writing = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(Ok(json)) = self.index().map(|index| serde_json::to_vec(&index)) else { return true };
        std::fs::read(self.content().blobs().join("../../index.json")).is_ok_and(|found| found == json)
    }

    fn index(&self) -> Result<Index, ImageError> {
        let mut names: BTreeMap<ImageId, Vec<String>> = BTreeMap::new();
        for (name, id) in self.metadata().all::<ImageId>(NAMES)? {
            names.entry(id).or_default().push(name);
        }
        let mut manifests = Vec::new();
        for (id, record) in self.metadata().all::<ImageRecord>(IMAGES)? {
            let size = std::fs::metadata(self.blob_path(&record.manifest)).map_or(0, |m| m.len());
            let bare = Descriptor::new(media::MANIFEST, record.manifest, size);
            let id = id.parse().map(ImageId).map_err(|_| ImageError::NotFound { id })?;
            let names = names.remove(&id).unwrap_or_default();
            if names.is_empty() {
                manifests.push(bare.clone());
            }
            for name in names.iter().filter(|n| n.parse::<ImageRef>().is_ok()) {
                let mut named = bare.clone();
                named.annotations.insert(REF_ANNOTATION.to_owned(), name.clone());
                manifests.push(named);
            }
        }
        Ok(Index {
            schema_version: 2,
            media_type: Some(media::INDEX.to_owned()),
            manifests,
            annotations: BTreeMap::new(),
            other: serde_json::Map::new(),
        })
    }
}
