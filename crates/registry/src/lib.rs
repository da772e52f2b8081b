//! A client of image registries: the OCI distribution specification 1.1, and what Docker's registries do beside it.
//!
//! The way of a pull: [`Registries`] (this host's configuration) gives a [`Repository`] for an image's name;
//! [`Repository::find`] leads from a tag through an index to the [`Found`] image's manifest and configuration;
//! [`Repository::blob`] opens its layers, from as many threads as one likes. A push goes the other way:
//! [`Repository::upload`] for each blob, [`Repository::put_document`] last, so that a manifest never names what is
//! not there.
//!
//! Reading order: [`RegistryConfig`] (addresses, mirrors, certificates), `exchange` (one request; redirects), `auth`
//! (tokens), `client` (trying again), then the verbs: `manifest`, `blob`, `upload`, `listing`. [`docker_config`] keeps
//! credentials where Docker keeps them. [`download()`] is for what is in no registry.
//!
//! Everything blocks: readers and writers of layers do, and a thread a layer is cheap. What may take long ends early
//! when its [`Cancel`] is set. Nothing here is told a digest is right by a registry: manifests and small blobs are
//! checked here, layers by whoever reads them.

mod auth;
mod blob;
mod client;
pub mod docker_config;
mod download;
mod endpoint;
mod error;
mod exchange;
pub mod limits;
mod listing;
mod manifest;
mod pace;
mod platform;
mod repository;
mod secret;
mod upload;

pub use blob::BlobReader;
pub use download::{Download, Downloaded, Known, download, download_paced};
pub use endpoint::RegistryConfig;
pub use error::{Cause, ErrorDetail, Refusal, RegistryError};
pub use manifest::{Document, Found};
pub use pace::{Cancel, Pace, RealPace};
pub use platform::{choose, fits};
pub use repository::{Registries, Repository, Which};
pub use secret::{Credentials, Secret};
pub use upload::{UploadSource, Uploaded};
