//! Connections that the kernel remembers: those of an endpoint that has gone are forgotten, for packets of a
//! remembered connection do not see new rules.

use std::io;
use std::net::IpAddr;

use netlink_packet_core::NLM_F_DUMP;
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Protocol as CtProtocol, Tuple,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};

use crate::netlink::Conversation;
use crate::spec::{PortMapping, Protocol};

/// The connections of one network namespace.
#[derive(Debug)]
pub(crate) struct Connections(Conversation);

impl Connections {
    /// Those of this thread's namespace.
    pub(crate) fn open() -> io::Result<Connections> {
        Conversation::open(netlink_sys::protocols::NETLINK_NETFILTER).map(Connections)
    }

    /// Forgets the connections that end or begin at `address`, and UDP ones to the host's side of `ports`.
    pub(crate) fn forget(&mut self, address: IpAddr, ports: &[PortMapping]) -> io::Result<()> {
        let family = if address.is_ipv4() { NetfilterProtoFamily::IPv4 } else { NetfilterProtoFamily::IPv6 };
        let all = self.0.get(of(family, ConntrackMessage::Get(Vec::new())), NLM_F_DUMP)?;
        for answer in all {
            let NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) = answer.inner else {
                continue;
            };
            let mut ours = false;
            let mut original = None;
            for attribute in attributes {
                match attribute {
                    ConntrackAttribute::CtaTupleOrig(tuple) => {
                        let ends = Ends::of(&tuple);
                        ours |= ends.source == Some(address) || ends.is_for(ports);
                        original = Some(ConntrackAttribute::CtaTupleOrig(tuple));
                    }
                    ConntrackAttribute::CtaTupleReply(tuple) => {
                        ours |= Ends::of(&tuple).source == Some(address)
                    }
                    _ => {}
                }
            }
            if let (true, Some(original)) = (ours, original) {
                match self.0.request(of(family, ConntrackMessage::Delete(vec![original])), 0) {
                    // It has ended by itself in between.
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    other => other?,
                }
            }
        }
        Ok(())
    }
}

#[derive(Default)]
struct Ends {
    source: Option<IpAddr>,
    protocol: Option<CtProtocol>,
    destination_port: u16,
}

impl Ends {
    fn of(tuple: &[Tuple]) -> Ends {
        let mut ends = Ends::default();
        for part in tuple {
            match part {
                Tuple::Ip(parts) => {
                    for part in parts {
                        if let IPTuple::SourceAddress(source) = part {
                            ends.source = Some(*source);
                        }
                    }
                }
                Tuple::Proto(parts) => {
                    for part in parts {
                        match part {
                            ProtoTuple::Protocol(protocol) => ends.protocol = Some(*protocol),
                            ProtoTuple::DestinationPort(port) => ends.destination_port = *port,
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        ends
    }

    fn is_for(&self, ports: &[PortMapping]) -> bool {
        self.protocol == Some(CtProtocol::Udp)
            && ports.iter().any(|p| p.protocol == Protocol::Udp && p.host_port == self.destination_port)
    }
}

fn of(family: NetfilterProtoFamily, message: ConntrackMessage) -> NetfilterMessage {
    NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), message)
}
