//! Links, addresses and routes: the few verbs of rtnetlink that a bridge network needs.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use ipnet::Ipv4Net;
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth, LinkAttribute, LinkFlags,
    LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::names::Mac;
use crate::netlink::Conversation;

/// Links of one network namespace.
#[derive(Debug)]
pub(crate) struct Links(Conversation);

/// What is asked of a link.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) kind: Option<InfoKind>,
    pub(crate) controller: Option<u32>,
    pub(crate) mtu: Option<u32>,
}

impl Links {
    /// Those of this thread's namespace.
    pub(crate) fn open() -> io::Result<Links> {
        Conversation::open(netlink_sys::protocols::NETLINK_ROUTE).map(Links)
    }

    /// The link called `name`, if there is one.
    pub(crate) fn find(&mut self, name: &str) -> io::Result<Option<Link>> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        self.get_one(message)
    }

    fn get_one(&mut self, message: LinkMessage) -> io::Result<Option<Link>> {
        match self.0.get(RouteNetlinkMessage::GetLink(message), 0) {
            Ok(answers) => Ok(answers.into_iter().find_map(link_of)),
            Err(e) if e.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// All links that are ports of the bridge with `index`.
    pub(crate) fn ports_of(&mut self, index: u32) -> io::Result<Vec<Link>> {
        let all = self.0.get(RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_DUMP)?;
        Ok(all.into_iter().filter_map(link_of).filter(|l| l.controller == Some(index)).collect())
    }

    /// The largest packet of the link that the default route leads to; none without such a route.
    pub(crate) fn uplink_mtu(&mut self) -> io::Result<Option<u32>> {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        let routes = self.0.get(RouteNetlinkMessage::GetRoute(message), NLM_F_DUMP)?;
        let index = routes.iter().find_map(|route| match route {
            RouteNetlinkMessage::NewRoute(r)
                if r.header.destination_prefix_length == 0 && r.header.kind == RouteType::Unicast =>
            {
                r.attributes.iter().find_map(|a| if let RouteAttribute::Oif(i) = a { Some(*i) } else { None })
            }
            _ => None,
        });
        let Some(index) = index else { return Ok(None) };
        let mut message = LinkMessage::default();
        message.header.index = index;
        Ok(self.get_one(message)?.and_then(|l| l.mtu))
    }

    /// Makes a bridge and puts it up. Its MAC is fixed, for otherwise it changes as ports come and go.
    pub(crate) fn create_bridge(&mut self, name: &str, mac: Mac, mtu: u32) -> io::Result<()> {
        let mut message = up();
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Address(mac.0.to_vec()),
            LinkAttribute::Mtu(mtu),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]),
        ];
        self.0.request(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Puts a link up.
    pub(crate) fn raise(&mut self, index: u32) -> io::Result<()> {
        let mut message = up();
        message.header.index = index;
        self.0.request(RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Gives a link an address; no error if it has that already.
    pub(crate) fn add_address(&mut self, index: u32, address: Ipv4Net) -> io::Result<()> {
        self.0.request(new_address(index, address), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Lets the bridge send a frame back through the port `name` that it came in by: a container that uses its own
    /// published port, where the kernel's br_netfilter translates addresses within the bridge.
    pub(crate) fn reflect(&mut self, name: &str) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::PortKind(InfoPortKind::Bridge),
                LinkInfo::PortData(InfoPortData::BridgePort(vec![InfoBridgePort::HairpinMode(true)])),
            ]),
        ];
        self.0.request(RouteNetlinkMessage::NewLink(message), 0)
    }

    /// Makes a veth pair: `host` here, up and a port of the bridge `bridge`; `peer` in `namespace`.
    pub(crate) fn create_veth(
        &mut self,
        host: &str,
        bridge: u32,
        mtu: u32,
        peer: &str,
        mac: Mac,
        namespace: BorrowedFd<'_>,
    ) -> io::Result<()> {
        let mut inner = LinkMessage::default();
        inner.attributes = vec![
            LinkAttribute::IfName(peer.to_owned()),
            LinkAttribute::Address(mac.0.to_vec()),
            LinkAttribute::Mtu(mtu),
            LinkAttribute::NetNsFd(namespace.as_raw_fd()),
        ];
        let mut message = up();
        message.attributes = vec![
            LinkAttribute::IfName(host.to_owned()),
            LinkAttribute::Mtu(mtu),
            LinkAttribute::Controller(bridge),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(inner))),
            ]),
        ];
        self.0.request(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Gives the link called `name` its address, puts it up, and makes `gateway` the way to everywhere else.
    pub(crate) fn configure(
        &mut self,
        name: &str,
        address: Ipv4Net,
        gateway: Option<Ipv4Addr>,
    ) -> io::Result<()> {
        let link = self.find(name)?.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let mut raise = up();
        raise.header.index = link.index;
        let mut messages = vec![
            (new_address(link.index, address), NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL),
            (RouteNetlinkMessage::SetLink(raise), NLM_F_ACK),
        ];
        if let Some(gateway) = gateway {
            let mut route = RouteMessage::default();
            route.header.address_family = AddressFamily::Inet;
            route.header.table = RouteHeader::RT_TABLE_MAIN;
            route.header.protocol = RouteProtocol::Boot;
            route.header.scope = RouteScope::Universe;
            route.header.kind = RouteType::Unicast;
            route.attributes =
                vec![RouteAttribute::Gateway(RouteAddress::Inet(gateway)), RouteAttribute::Oif(link.index)];
            messages.push((RouteNetlinkMessage::NewRoute(route), NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL));
        }
        self.0.send_all(messages)
    }

    /// Removes the link called `name`, and its peer if it is one of a pair; no error if it is not there.
    pub(crate) fn delete(&mut self, name: &str) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        match self.0.request(RouteNetlinkMessage::DelLink(message), 0) {
            Err(e) if e.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) => Ok(()),
            other => other,
        }
    }
}

fn up() -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message
}

fn new_address(index: u32, address: Ipv4Net) -> RouteNetlinkMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = address.prefix_len();
    message.header.index = index;
    message.attributes = vec![
        AddressAttribute::Local(IpAddr::V4(address.addr())),
        AddressAttribute::Address(IpAddr::V4(address.addr())),
        AddressAttribute::Broadcast(address.broadcast()),
    ];
    RouteNetlinkMessage::NewAddress(message)
}

fn link_of(message: RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = message else { return None };
    let mut link =
        Link { index: message.header.index, name: String::new(), kind: None, controller: None, mtu: None };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Controller(index) => link.controller = Some(index),
            LinkAttribute::Mtu(mtu) => link.mtu = Some(mtu),
            LinkAttribute::LinkInfo(infos) => {
                link.kind =
                    infos.into_iter().find_map(|i| if let LinkInfo::Kind(k) = i { Some(k) } else { None });
            }
            _ => {}
        }
    }
    Some(link)
}
