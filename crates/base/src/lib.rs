//! Ids, digests, image references, atomic files and error classes: what every other crate stands on.
//!
//! * [`digest`]: [`Digest`], [`DiffId`], [`ChainId`] and the hasher that makes them.
//! * [`id`]: [`ContainerId`] and fresh random ids.
//! * [`reference`]: [`ImageRef`], an image's name as people write it.
//! * [`files`]: files that are whole or absent, and I/O errors that name their path.
//! * [`error`]: the closed set of error classes that each skin maps to its own codes.
//! * [`clock`]: timestamps as the wire formats write them, and a clock that nobody sets.
//! * [`Turns`]: one at a time for each key.
//!
//! Text becomes one of these types once, at the edge; deserialising goes through the same parsers.

pub mod clock;
pub mod digest;
pub mod error;
pub mod files;
pub mod id;
pub mod reference;
mod turns;

pub use clock::{Timestamp, Uptime};
pub use digest::{ChainId, DiffId, Digest};
pub use error::{Class, chain};
pub use files::FileError;
pub use id::ContainerId;
pub use reference::ImageRef;
pub use turns::{Turn, Turns};

/// Implements the string conversions that each of our parsed types shares: `Display` from `as_str`, serde
/// through `Display` and `FromStr`. A macro because a blanket impl over a local trait is not allowed.
macro_rules! text_type {
    ($type:ty) => {
        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use text_type;
