//! The network of a build's step, which has one endpoint and no record.

use std::path::PathBuf;

use sampan_kernel::userns::Maps;
use sampan_net::EndpointSpec;

use super::{Endpoint, attach_failed, endpoint, has_names, name_servers, new_namespace, no_namespace};
use crate::Inner;
use crate::error::{EngineError, Result};
use crate::spec::ContainerSpec;

/// What a build's step was given.
pub(crate) struct Attached {
    pub(crate) endpoint: Endpoint,
    /// The file of the user namespace that it is to be in, if that is not the host's.
    pub(crate) user_namespace: Option<PathBuf>,
    /// Whether names are served to it.
    pub(crate) has_names: bool,
}

/// Gives a build's step a namespace on the default bridge, or on the network of this name or id; with `maps`, one that belongs
/// to a user namespace.
pub(crate) fn attach(
    inner: &Inner,
    id: &str,
    spec: &ContainerSpec,
    network: Option<&str>,
    maps: Option<&Maps>,
) -> Result<Attached> {
    let network = match network {
        Some(text) => Some(inner.networks().find(text)?.clone()),
        None => None,
    };
    if let Some(other) = network.as_ref().filter(|n| !matches!(n.driver.as_str(), "bridge" | "macvlan")) {
        return Err(EngineError::Unsupported(format!(
            "a build can't use network {}: its driver is {}",
            other.name, other.driver
        )));
    }
    let user_namespace = match maps {
        Some(maps) => Some(inner.net.create_mapped_namespace(id, maps).map_err(no_namespace)?.user),
        None => {
            new_namespace(inner, id)?;
            None
        }
    };
    let mut wanted = EndpointSpec::default();
    if let Some(network) = &network {
        wanted.network = inner.net_name(&network.id);
        wanted.id = sampan_base::id::random_id().map_err(EngineError::io("cannot make an id"))?;
    }
    let attached = inner.net.attach(id, &wanted).map_err(attach_failed)?;
    let endpoint = endpoint(inner, id, attached)?;
    let has_names = has_names(inner, std::slice::from_ref(&endpoint));
    if has_names {
        let servers = name_servers(inner, spec, std::slice::from_ref(&endpoint))?;
        let served = inner.net.serve_names(id, servers);
        served.map_err(|e| EngineError::layer(e.class(), "failed to set up the build step's network")(e))?;
    }
    Ok(Attached { endpoint, user_namespace, has_names })
}
