//! OCI wire types: the runtime's config.json and the image formats. Types only, no I/O.
//!
//! * [`runtime`]: config.json, the state and features documents, and Docker's defaults for them.

pub mod runtime;
