//! OCI wire types: the runtime's config.json and the image formats. Types only, no I/O.
//!
//! * [`runtime`]: config.json, the state and features documents, and Docker's defaults for them.
//! * [`image`]: manifests, indexes, descriptors and image configurations, as OCI and Docker write them.

pub mod image;
pub mod runtime;
