//! A container's place in the network: what its mode means, and the endpoint on the bridge.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::error::{EngineError, Result};
use crate::spec::{ContainerSpec, NetworkMode, Port, Publish};
use crate::{Inner, blocking};

/// A container's place on the default bridge.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// Its address.
    pub address: Ipv4Addr,
    /// Its network's prefix length.
    pub prefix: u8,
    /// The bridge's address.
    pub gateway: Ipv4Addr,
    /// Its hardware address.
    pub mac: String,
    /// Where its ports are published, with the ports that were picked.
    pub published: Vec<Publish>,
    /// The file that keeps its network namespace.
    pub namespace: PathBuf,
}

/// Which network namespace a container gets.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Namespace {
    /// The one at this path.
    Own(PathBuf),
    /// A new one that the runtime makes, with only a loopback device.
    Fresh,
    /// The host's.
    Host,
}

/// What a container was given.
#[derive(Clone, Debug)]
pub(crate) struct Attached {
    pub(crate) namespace: Namespace,
    pub(crate) endpoint: Option<Endpoint>,
}

/// Gives a container its network. Whatever a failed attempt left is removed by [`detach`].
pub(crate) async fn attach(inner: &Arc<Inner>, id: &str, spec: &ContainerSpec) -> Result<Attached> {
    match &spec.network {
        NetworkMode::Host => Ok(Attached { namespace: Namespace::Host, endpoint: None }),
        NetworkMode::None => Ok(Attached { namespace: Namespace::Fresh, endpoint: None }),
        NetworkMode::Container(other) => {
            let pid = inner.process_of(other)?;
            let path = PathBuf::from(format!("/proc/{pid}/ns/net"));
            Ok(Attached { namespace: Namespace::Own(path), endpoint: None })
        }
        NetworkMode::Bridge => {
            let (inner, id, wanted) = (Arc::clone(inner), id.to_owned(), published(spec));
            let endpoint = blocking(move || attach_bridge(&inner, &id, &wanted)).await?;
            Ok(Attached { namespace: Namespace::Own(endpoint.namespace.clone()), endpoint: Some(endpoint) })
        }
    }
}

/// The ports to publish; with `publish_all`, every exposed one somewhere.
fn published(spec: &ContainerSpec) -> Vec<Publish> {
    let mut list = spec.publish.clone();
    if spec.publish_all {
        let missing = |port: &&Port| !spec.publish.iter().any(|p| p.port == **port);
        let anywhere = |port: &Port| Publish { port: *port, host_ip: String::new(), host_port: 0 };
        list.extend(spec.exposed.iter().filter(missing).map(anywhere));
    }
    list
}

/// Takes a container out of the network. What fails is logged; the next daemon tries again.
pub(crate) async fn detach(inner: &Arc<Inner>, id: &str) {
    let (inner, id) = (Arc::clone(inner), id.to_owned());
    blocking(move || {
        if let Err(error) = inner.net.detach(&id) {
            tracing::warn!(container = id, error = sampan_base::chain(&error), "cannot detach from the network");
        }
    })
    .await;
}

pub(crate) fn attach_bridge(_inner: &Inner, _id: &str, _wanted: &[Publish]) -> Result<Endpoint> {
    Err(EngineError::Unsupported("bridge".to_owned()))
}

pub(crate) fn open(_config: &crate::EngineConfig) -> Result<sampan_net::Net> {
    Ok(sampan_net::Net)
}

/// The endpoint of a container that runs, as an earlier daemon made it.
pub(crate) fn find(_inner: &Inner, _id: &str) -> Option<Endpoint> {
    None
}

pub(crate) fn reconcile(_inner: &Inner, _known: &std::collections::BTreeSet<String>) -> Result<()> {
    Ok(())
}
