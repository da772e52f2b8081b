//! Docker Engine API wire types, shared by the daemon and the command line. Types only, no I/O.
//!
//! The names, spellings and null-or-empty choices are those of Docker's Engine API reference (v1.43) and of what
//! a Docker engine answers; every field that a client may leave out or send as `null` has a default.
//!
//! * [`container`]: create, list, inspect, wait, top, changes.
//! * [`host_config`]: the host's side of a container: limits, ports, mounts, namespaces.
//! * [`exec`], [`image`], [`network`], [`volume`], [`system`], [`build`]: the other groups.
//! * [`stats`]: what containers use.
//! * [`reading`]: requests, read as Go reads them.
//! * [`store`]: what sampan has beside Docker's routes.
//! * [`stream`]: how attached output is framed; [`detach`]: keys that leave a stream;
//!   [`units`]: durations and sizes for people; [`written`]: how people write such things.

pub mod build;
pub mod container;
pub mod detach;
pub mod exec;
pub mod host_config;
pub mod image;
pub mod network;
pub mod reading;
pub mod stats;
pub mod store;
pub mod stream;
pub mod system;
pub mod units;
pub mod volume;
pub mod written;

use serde::{Deserialize, Deserializer, Serialize};

/// The version of the API that these types describe.
pub const API_VERSION: &str = "1.50";
/// The oldest version that the daemon answers.
pub const MIN_API_VERSION: &str = "1.24";

/// The body of every answer that is an error.
#[derive(Serialize, Deserialize, Debug, Clone)]
pub struct ErrorBody {
    /// What happened, for people.
    pub message: String,
}

/// The answer to requests that make a thing.
#[derive(Serialize, Deserialize, Debug, Clone, Default)]
#[serde(rename_all = "PascalCase", default)]
pub struct IdAnswer {
    /// The new thing's id.
    pub id: String,
}

/// An object without fields, as Go writes a set's members: `{"80/tcp": {}}`.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Empty {}

/// Reads `null` as the default: Go clients send it for empty lists and maps.
pub(crate) fn null_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    d: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

/// Reads a string as a list of one: `Cmd` and `Entrypoint` may come as either.
pub(crate) fn string_or_list<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        One(String),
        Many(Vec<String>),
    }
    Ok(Option::<Either>::deserialize(d)?.map(|either| match either {
        Either::One(text) => vec![text],
        Either::Many(list) => list,
    }))
}
