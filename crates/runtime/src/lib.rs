//! The OCI runtime: makes one container from a bundle.
