//! OCI wire types: the runtime's config.json and the image formats. Types only, no I/O.
//!
//! * [`image`]: manifests, indexes, descriptors, image configurations.

pub mod image;
