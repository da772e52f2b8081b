//! Published ports: what a container asks for, which of a range is free, and what is shown.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sampan_net::{AttachError, EndpointSpec, PortMapping};

use super::attach_failed;
use super::records::NetworkRecord;
use crate::Inner;
use crate::error::{EngineError, Result};
use crate::spec::{ContainerSpec, Port, Protocol, Publish};

/// How often another port is looked for that is free on both IPv4 and IPv6.
const ATTEMPTS: usize = 16;

/// A port that is to be published, and the last of the host's ports that will do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Wanted {
    pub(crate) mapping: PortMapping,
    pub(crate) last: u16,
}

/// The ports that a container wants published on its endpoint in `network`; with `publish_all`, every exposed one.
pub(crate) fn wanted(spec: &ContainerSpec, network: &NetworkRecord) -> Result<Vec<Wanted>> {
    let mut list = spec.publish.clone();
    if spec.publish_all {
        let missing = |port: &&Port| !spec.publish.iter().any(|p| p.port == **port);
        let anywhere =
            |port: &Port| Publish { port: *port, host_ip: String::new(), host_port: 0, host_port_end: 0 };
        list.extend(spec.exposed.iter().filter(missing).map(anywhere));
    }
    let mut all: Vec<Wanted> = Vec::new();
    for publish in &list {
        for host_ip in addresses(publish, network)? {
            let mapping = PortMapping {
                protocol: publish.port.protocol,
                host_ip,
                host_port: publish.host_port,
                container_port: publish.port.number,
            };
            if mapping.protocol == Protocol::Sctp && mapping.host_port == 0 {
                return Err(EngineError::Unsupported(
                    "an SCTP port needs a port of the host: this kernel picks none for SCTP".to_owned(),
                ));
            }
            all.push(Wanted { mapping, last: publish.host_port_end.max(publish.host_port) });
        }
    }
    Ok(all)
}

/// The host's addresses that a port is published on.
fn addresses(publish: &Publish, network: &NetworkRecord) -> Result<Vec<IpAddr>> {
    let text = publish.host_ip.trim_matches(['[', ']']);
    if text.is_empty() {
        return Ok(match network.host_binding() {
            Some(ip) if !ip.is_unspecified() => vec![ip],
            _ => {
                let six = network.v6.as_ref().map(|_| IpAddr::V6(Ipv6Addr::UNSPECIFIED));
                [IpAddr::V4(Ipv4Addr::UNSPECIFIED)].into_iter().chain(six).collect()
            }
        });
    }
    let ip: IpAddr =
        text.parse().map_err(|_| EngineError::Invalid(format!("invalid IP address: {}", publish.host_ip)))?;
    if ip.is_ipv6() && network.v6.is_none() {
        return Err(EngineError::Unsupported(format!(
            "cannot publish on `{ip}`: network `{}` has no IPv6 (make it with --ipv6)",
            network.name
        )));
    }
    Ok(vec![ip])
}

/// Attaches with `wanted` published; of a range, the first that are free.
pub(crate) fn attach(
    inner: &Inner,
    id: &str,
    spec: EndpointSpec,
    wanted: Vec<Wanted>,
) -> Result<sampan_net::Endpoint> {
    let mut spec = spec;
    with_free_ports(wanted, |ports| {
        ports.clone_into(&mut spec.ports);
        inner.net.attach(id, &spec)
    })
}

/// Makes `network` the container's way to everywhere else, with `wanted` published on it.
pub(crate) fn move_gateway(
    inner: &Inner,
    id: &str,
    network: Option<&str>,
    wanted: Vec<Wanted>,
) -> Result<Vec<sampan_net::Endpoint>> {
    with_free_ports(wanted, |ports| inner.net.set_gateway(id, network, ports))
}

fn with_free_ports<T>(
    wanted: Vec<Wanted>,
    mut attempt: impl FnMut(&[PortMapping]) -> std::result::Result<T, AttachError>,
) -> Result<T> {
    let mut wanted = wanted;
    let mut left = ATTEMPTS;
    loop {
        let ports: Vec<PortMapping> = wanted.iter().map(|w| w.mapping).collect();
        let error = match attempt(&ports) {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        let Some((ip, port)) = taken(&error) else { return Err(attach_failed(error)) };
        if let Some(at) = wanted.iter().position(|w| {
            (w.mapping.host_ip, w.mapping.host_port) == (ip, port) && port != 0 && port < w.last
        }) {
            // The other family's port of the same publication goes along.
            let twin = wanted[at];
            for other in &mut wanted {
                if other.last == twin.last && other.mapping.host_port == port && same_port(other, &twin) {
                    other.mapping.host_port += 1;
                }
            }
        } else if ports.iter().any(|p| p.host_port == 0) && left > 0 {
            // One that was picked for IPv4 is taken on IPv6.
            left -= 1;
        } else {
            return Err(attach_failed(error));
        }
    }
}

fn same_port(a: &Wanted, b: &Wanted) -> bool {
    (a.mapping.protocol, a.mapping.container_port) == (b.mapping.protocol, b.mapping.container_port)
}

/// The address and port that somebody has.
fn taken(error: &AttachError) -> Option<(IpAddr, u16)> {
    match error {
        AttachError::PortAllocated { ip, port } => Some((*ip, *port)),
        AttachError::Port { ip, port, source, .. } if source.kind() == io::ErrorKind::AddrInUse => {
            Some((*ip, *port))
        }
        _ => None,
    }
}

/// Published ports as the engine tells of them.
pub(crate) fn shown(attached: &sampan_net::Endpoint) -> Vec<Publish> {
    let one = |port: &PortMapping| Publish {
        port: Port { number: port.container_port, protocol: port.protocol },
        host_ip: port.host_ip.to_string(),
        host_port: port.host_port,
        host_port_end: 0,
    };
    attached.ports.iter().map(one).collect()
}
