//! Images on disk: content store, references, layers, snapshots. Synchronous; one process owns a store.
//!
//! ```no_run
//! # use sampan_image::{ImportOptions, InitLayer, Store};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let store = Store::open("/var/lib/sampan".as_ref())?;
//! let options = ImportOptions { names: vec!["debian:bookworm".parse()?], ..ImportOptions::default() };
//! let image = store.import_rootfs(&mut std::fs::File::open("rootfs.tar")?, &options)?;
//!
//! store.prepare("container-1", image.chain_id(), &InitLayer::docker())?;
//! store.mount("container-1", "/run/sampan/bundles/container-1/rootfs".as_ref())?;
//! for change in store.changes("container-1")? {
//!     println!("{} {}", change.kind.letter(), change.path.display());
//! }
//! # Ok(()) }
//! ```
//!
//! * [`store`]: [`Store`], what is where on disk, and [`Lease`], which keeps things from being collected.
//! * [`image`]: [`Image`], names and ids.
//! * [`receive`]: images from a registry; [`send`]: as they go to one.
//! * [`unpack`]: layers from streams and blobs; [`import`]: `docker import`.
//! * [`snapshot`]: containers' and build steps' file systems; [`commit`]: these as layers and tars.
//! * [`archive`]: images in files, `save` and `load`.
//! * [`cache`]: what build steps led to. [`gc`]: what nothing needs goes.
//! * [`check`]: whether the store is whole, and mending it; [`recover`]: a lost database.
//! * [`analyze`]: what an image's bytes are; [`squash`]: several layers become one.
//! * [`layer`], [`tar`], [`compression`]: the formats. [`limits`]: what is accepted at most.

pub mod analyze;
pub mod archive;
pub mod cache;
pub mod check;
pub mod commit;
pub mod compression;
mod content;
mod copy;
pub mod gc;
pub mod image;
pub mod import;
pub mod layer;
pub mod limits;
mod metadata;
mod pack;
pub mod receive;
pub mod recover;
pub mod send;
pub mod snapshot;
pub mod squash;
mod stack;
pub mod store;
mod stream;
pub mod tar;
pub mod unpack;

pub use analyze::{Analysis, AnalyzeError};
pub use archive::{LoadError, SaveError};
pub use cache::{CacheEntry, Cached};
pub use check::{CheckError, CheckOptions, Problem, Report};
pub use gc::Collected;
pub use image::{Image, ImageError, ImageId, ResolveError};
pub use import::{ImportError, ImportOptions};
pub use layer::apply::{ApplyError, EntryError, ExtractOptions, extract, extract_with};
pub use layer::changes::{Change, ChangeKind};
pub use metadata::MetadataError;
pub use receive::{BlobSource, LayerProgress, Progress, ReceiveError};
pub use recover::Recovered;
pub use send::{SendError, Sendable};
pub use snapshot::{
    IdMapping, IdRange, InitLayer, NotMapped, Remains, Scratch, Snapshot, SnapshotError, Snapshotter,
    UserNamespace, Workspace,
};
pub use squash::SquashError;
pub use store::{Layer, Lease, OpenError, Store};
pub use unpack::{Expected, UnpackError};
