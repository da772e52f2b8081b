//! User namespaces: which ids of the host a container's ids are.

use std::path::Path;

use sampan_image::IdMapping;

use crate::Inner;
use crate::error::Result;
use crate::metadata::ContainerRecord;
use crate::spec::ContainerSpec;

/// The mapping of a container's ids; `None` if they are the host's.
pub(crate) fn mapping(inner: &Inner, spec: &ContainerSpec) -> Result<Option<IdMapping>> {
    let _ = (inner, spec);
    Ok(None)
}

/// Mounts a container's snapshot at `at`, so that its files belong to its own ids.
pub(crate) fn mount_snapshot(inner: &Inner, record: &ContainerRecord, at: &Path) -> Result<()> {
    inner.images.mount_snapshot(&record.id, at)
}
