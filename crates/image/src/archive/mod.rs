//! Images in files: what `docker save`, skopeo and others write, and what they read.
//!
//! An archive of ours is both at once: an OCI layout (`oci-layout`, `index.json`, `blobs/sha256/…`) and Docker's
//! format (`manifest.json` naming the same blobs). Either kind is read.

mod layout;
mod load;
mod save;

pub use load::LoadError;
pub use save::SaveError;

/// The name of an image in an OCI layout, as containerd and Docker write it: in full.
const NAME_ANNOTATION: &str = "io.containerd.image.name";
/// The name of an image in an OCI layout, as OCI says: often only the tag.
pub(crate) const REF_ANNOTATION: &str = "org.opencontainers.image.ref.name";
