//! The messages of containerd's shim protocol, and [`ttrpc`], the framing that carries them. Types only, no I/O.
//!
//! * [`task`]: the task service's messages; a shim serves them as [`task::SERVICE_V2`] and [`task::SERVICE_V3`].
//! * [`types`]: mounts, process states, event envelopes.
//! * [`events`]: what a shim tells of its tasks, and the service that takes it.
//! * [`runc`]: options for runtimes with runc's command line.
//! * [`cgroup1`], [`cgroup2`]: what a container uses.
//! * [`ttrpc`]: frames, requests, responses.
//! * [`log`]: where our shim logs output to, and the entries of a `local` log.
//!
//! The .proto files in `proto/` are written from the protocol's facts; `cargo xtask codegen` makes
//! `src/generated` from them, and a test in xtask fails if the two differ.

pub mod log;
pub mod spare;
pub mod ttrpc;

/// What prost-build made; reached through the modules below.
#[allow(missing_docs, unreachable_pub, clippy::all)]
#[rustfmt::skip]
#[path = "generated/mod.rs"]
mod generated;

/// The task service: one or more containers and the processes in them.
pub mod task {
    pub use crate::generated::containerd::task::v2::*;

    /// The service's name up to containerd 1.7.
    pub const SERVICE_V2: &str = "containerd.task.v2.Task";
    /// The service's name from containerd 2.0; its messages are the same.
    pub const SERVICE_V3: &str = "containerd.task.v3.Task";
}

/// What several messages share.
pub mod types {
    pub use crate::generated::containerd::types::*;
    pub use crate::generated::containerd::v1::types::*;
}

/// Events about tasks, and the service at containerd's end.
pub mod events {
    pub use crate::generated::containerd::events::*;
    pub use crate::generated::containerd::services::events::ttrpc::v1::*;

    /// The service that takes [`ForwardRequest`]s with the method `Forward`.
    pub const SERVICE: &str = "containerd.services.events.ttrpc.v1.Events";
}

/// Options for runtimes with runc's command line.
pub mod runc {
    pub use crate::generated::containerd::runc::v1::*;
}

/// What a container uses, on cgroup v1.
pub mod cgroup1 {
    pub use crate::generated::io::containerd::cgroups::v1::*;
}

/// What a container uses, on cgroup v2.
pub mod cgroup2 {
    pub use crate::generated::io::containerd::cgroups::v2::*;
}

pub use prost_types::{Any, Timestamp};

/// Packs `message` as containerd does: its bare full name is the type URL, without a host.
pub fn pack<M: prost::Name>(message: &M) -> Any {
    Any { type_url: M::full_name(), value: message.encode_to_vec() }
}

/// Unpacks a message of type `M`, with or without a host before its name; `None` if it is of another type.
///
/// # Errors
/// If the type is right and the bytes are not.
pub fn unpack<M: prost::Name + Default>(any: &Any) -> Result<Option<M>, prost::DecodeError> {
    let name = any.type_url.rsplit('/').next().unwrap_or_default();
    if name == M::full_name() { M::decode(any.value.as_slice()).map(Some) } else { Ok(None) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packs_under_the_bare_name_and_unpacks_with_or_without_host() {
        let options = runc::Options { binary_name: "crun".into(), ..Default::default() };
        let mut any = pack(&options);
        assert_eq!(any.type_url, "containerd.runc.v1.Options");
        assert_eq!(unpack::<runc::Options>(&any).unwrap().unwrap(), options);
        any.type_url.insert_str(0, "type.googleapis.com/");
        assert_eq!(unpack::<runc::Options>(&any).unwrap().unwrap(), options);
        assert!(unpack::<runc::ProcessDetails>(&any).unwrap().is_none());
    }
}
