//! Changes of endpoints that are there: which of a container's networks leads to everywhere else and has its published
//! ports, and what the container is called.

use std::os::fd::AsFd;

use sampan_kernel::netns;

use crate::attach::{AttachError, gateways};
use crate::links::Links;
use crate::net::{Net, published};
use crate::records::EndpointId;
use crate::spec::{Endpoint, PortMapping};

impl Net {
    /// Makes `network` the way of `key` to everywhere else, with `ports` published on it; its other endpoints are that no
    /// more. Without a network, none of them is. Returns its endpoints as they are then.
    ///
    /// # Errors
    /// If a port can't be published or the kernel refuses; then nothing is published, and the caller decides.
    pub fn set_gateway(
        &self,
        key: &str,
        network: Option<&str>,
        ports: &[PortMapping],
    ) -> Result<Vec<Endpoint>, AttachError> {
        let path = self.namespaces().join(key);
        let namespace = netns::open(&path).map_err(|source| AttachError::Namespace { path, source })?;
        let mut inner = self.shared.lock();
        for id in inner.records.of_key(key) {
            inner.withdraw(&id)?;
        }
        let mut chosen = None;
        if let Some(network) = network {
            let id: EndpointId = (key.to_owned(), network.to_owned());
            let missing = || AttachError::NoSuchNetwork { network: network.to_owned() };
            let endpoint = inner.records.get(&id).cloned().ok_or_else(missing)?;
            let (ports, sockets) = inner.reserve(ports)?;
            let endpoint = Endpoint { ports, default_route: true, ..endpoint };
            inner.records.insert(key, &endpoint)?;
            inner.reserved.insert(id, sockets);
            inner.publish(&endpoint)?;
            chosen = Some(endpoint);
        }
        if let Some(endpoint) =
            chosen.as_ref().or(inner.records.of_key(key).first().and_then(|id| inner.records.get(id)))
        {
            let ways = chosen.as_ref().map(gateways).unwrap_or_default();
            let name = endpoint.interface.clone();
            netns::within(namespace.as_fd(), || Links::open()?.set_gateways(&name, &ways))
                .map_err(AttachError::on(format!("set the default route of {key}")))?;
        }
        Ok(inner.records.of_key(key).iter().filter_map(|id| inner.records.get(id)).cloned().collect())
    }

    /// Changes what `key` is called in `network`, and what it calls others; no error if it is not in it.
    ///
    /// # Errors
    /// If the record can't be written.
    pub fn set_names(
        &self,
        key: &str,
        network: &str,
        names: Vec<String>,
        links: Vec<(String, String)>,
    ) -> Result<(), AttachError> {
        let mut inner = self.shared.lock();
        let Some(endpoint) = inner.records.get(&(key.to_owned(), network.to_owned())).cloned() else {
            return Ok(());
        };
        let endpoint = Endpoint { names, links, ..endpoint };
        inner.records.insert(key, &endpoint)?;
        self.shared.names.zones().enter(key, &endpoint);
        Ok(())
    }
}

impl crate::net::Inner {
    /// Takes back what an endpoint has published, and that it is the way to everywhere else.
    fn withdraw(&mut self, id: &EndpointId) -> Result<(), AttachError> {
        let Some(endpoint) = self.records.get(id).cloned() else { return Ok(()) };
        if endpoint.ports.is_empty() && !endpoint.default_route {
            return Ok(());
        }
        let bare = Endpoint { ports: Vec::new(), default_route: false, ..endpoint.clone() };
        self.records.insert(&id.0, &bare)?;
        self.reserved.remove(id);
        if !endpoint.ports.is_empty() {
            let steps = self.ruleset().remove(&published(&endpoint));
            if self.tables.commit(steps).is_err() {
                self.apply().map_err(AttachError::on("put nftables rules in place"))?;
            }
            self.forget_connections(&endpoint);
        }
        Ok(())
    }
}
