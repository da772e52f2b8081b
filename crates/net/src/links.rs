//! Links, addresses and routes: the few verbs of rtnetlink that a bridge network needs.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    InfoBridgePort, InfoData, InfoKind, InfoMacVlan, InfoPortData, InfoPortKind, InfoVeth, InfoVlan,
    LinkAttribute, LinkFlags, LinkInfo, LinkMessage, MacVlanMode, Stats64,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::names::Mac;
use crate::netlink::Conversation;
use crate::spec::MacvlanMode;

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
    pub(crate) counters: Option<Stats64>,
}

/// What a container's link is given.
#[derive(Debug)]
pub(crate) struct Inside<'a> {
    pub(crate) name: &'a str,
    pub(crate) addresses: Vec<IpNet>,
    /// The ways to everywhere else.
    pub(crate) gateways: Vec<IpAddr>,
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
    pub(crate) fn add_address(&mut self, index: u32, address: IpNet) -> io::Result<()> {
        self.0.request(new_address(index, address), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Lets the bridge send a frame back through the port `name` that it came in by: a container that uses its own
    /// published port, where the kernel's br_netfilter translates addresses within the bridge.
    pub(crate) fn reflect(&mut self, name: &str) -> io::Result<()> {
        self.set_port(name, InfoBridgePort::HairpinMode(true))
    }

    fn set_port(&mut self, name: &str, setting: InfoBridgePort) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::PortKind(InfoPortKind::Bridge),
                LinkInfo::PortData(InfoPortData::BridgePort(vec![setting])),
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

    /// Makes a link over `parent` with a hardware address of its own, and puts it into `namespace` under the name
    /// `peer`.
    pub(crate) fn create_macvlan(
        &mut self,
        parent: u32,
        mode: MacvlanMode,
        mtu: Option<u32>,
        peer: &str,
        mac: Option<Mac>,
        namespace: BorrowedFd<'_>,
    ) -> io::Result<()> {
        let mode = match mode {
            MacvlanMode::Bridge => MacVlanMode::Bridge,
            MacvlanMode::Private => MacVlanMode::Private,
            MacvlanMode::Vepa => MacVlanMode::Vepa,
            MacvlanMode::Passthru => MacVlanMode::Passthrough,
        };
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(peer.to_owned()),
            LinkAttribute::Link(parent),
            LinkAttribute::NetNsFd(namespace.as_raw_fd()),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::MacVlan),
                LinkInfo::Data(InfoData::MacVlan(vec![InfoMacVlan::Mode(mode)])),
            ]),
        ];
        message.attributes.extend(mac.map(|mac| LinkAttribute::Address(mac.0.to_vec())));
        message.attributes.extend(mtu.map(LinkAttribute::Mtu));
        self.0.request(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Makes the link `name` for VLAN `number` of the link `parent`, and puts it up.
    pub(crate) fn create_vlan(&mut self, name: &str, parent: u32, number: u16) -> io::Result<()> {
        let mut message = up();
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Link(parent),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Vlan),
                LinkInfo::Data(InfoData::Vlan(vec![InfoVlan::Id(number)])),
            ]),
        ];
        self.0.request(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// All links but the loopback, as they count.
    pub(crate) fn all(&mut self) -> io::Result<Vec<Link>> {
        let all = self.0.get(RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_DUMP)?;
        Ok(all.into_iter().filter_map(link_of).filter(|l| l.name != "lo").collect())
    }

    /// The subnets that this host has routes to, other than the default ones.
    pub(crate) fn routed(&mut self) -> io::Result<Vec<IpNet>> {
        let mut nets = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            for route in self.0.get(RouteNetlinkMessage::GetRoute(message), NLM_F_DUMP)? {
                let RouteNetlinkMessage::NewRoute(route) = route else { continue };
                let length = route.header.destination_prefix_length;
                let to = route.attributes.iter().find_map(|a| match a {
                    RouteAttribute::Destination(RouteAddress::Inet(ip)) => Some(IpAddr::V4(*ip)),
                    RouteAttribute::Destination(RouteAddress::Inet6(ip)) => Some(IpAddr::V6(*ip)),
                    _ => None,
                });
                if let (true, Some(Ok(net))) = (length > 0, to.map(|ip| IpNet::new(ip, length))) {
                    nets.push(net);
                }
            }
        }
        Ok(nets)
    }

    /// Gives a link its addresses, puts it up, and makes the gateways the ways to everywhere else.
    pub(crate) fn configure(&mut self, inside: &Inside<'_>) -> io::Result<()> {
        let link = self.find(inside.name)?.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let mut raise = up();
        raise.header.index = link.index;
        let exclusive = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        let mut messages: Vec<_> =
            inside.addresses.iter().map(|a| (new_address(link.index, *a), exclusive)).collect();
        messages.push((RouteNetlinkMessage::SetLink(raise), NLM_F_ACK));
        for gateway in &inside.gateways {
            messages.push((
                RouteNetlinkMessage::NewRoute(default_route(*gateway, link.index)),
                NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE,
            ));
        }
        self.0.send_all(messages)
    }

    /// Makes `gateways`, of which there are none or one of each family, the ways to everywhere else by the link called
    /// `name`, in place of all others.
    pub(crate) fn set_gateways(&mut self, name: &str, gateways: &[IpAddr]) -> io::Result<()> {
        let link = self.find(name)?.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let mut messages = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            for route in self.0.get(RouteNetlinkMessage::GetRoute(message), NLM_F_DUMP)? {
                let RouteNetlinkMessage::NewRoute(route) = route else { continue };
                let header = &route.header;
                if header.destination_prefix_length == 0
                    && header.kind == RouteType::Unicast
                    && header.table == RouteHeader::RT_TABLE_MAIN
                {
                    messages.push((RouteNetlinkMessage::DelRoute(route), NLM_F_ACK));
                }
            }
        }
        for gateway in gateways {
            messages.push((
                RouteNetlinkMessage::NewRoute(default_route(*gateway, link.index)),
                NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE,
            ));
        }
        if messages.is_empty() { Ok(()) } else { self.0.send_all(messages) }
    }

    /// Keeps the container behind the bridge's port `name` from those behind other ports that are kept so.
    pub(crate) fn isolate(&mut self, name: &str) -> io::Result<()> {
        self.set_port(name, InfoBridgePort::Isolated(true))
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

fn default_route(gateway: IpAddr, index: u32) -> RouteMessage {
    let mut route = RouteMessage::default();
    let (family, address) = match gateway {
        IpAddr::V4(ip) => (AddressFamily::Inet, RouteAddress::Inet(ip)),
        IpAddr::V6(ip) => (AddressFamily::Inet6, RouteAddress::Inet6(ip)),
    };
    route.header.address_family = family;
    route.header.table = RouteHeader::RT_TABLE_MAIN;
    route.header.protocol = RouteProtocol::Boot;
    route.header.scope = RouteScope::Universe;
    route.header.kind = RouteType::Unicast;
    route.attributes = vec![RouteAttribute::Gateway(address), RouteAttribute::Oif(index)];
    route
}

fn new_address(index: u32, address: IpNet) -> RouteNetlinkMessage {
    let mut message = AddressMessage::default();
    message.header.prefix_len = address.prefix_len();
    message.header.index = index;
    message.attributes =
        vec![AddressAttribute::Local(address.addr()), AddressAttribute::Address(address.addr())];
    match address {
        IpNet::V4(net) => {
            message.header.family = AddressFamily::Inet;
            message.attributes.push(AddressAttribute::Broadcast(net.broadcast()));
            if net.addr().is_link_local() {
                message.header.scope = AddressScope::Link;
            }
        }
        IpNet::V6(_) => {
            message.header.family = AddressFamily::Inet6;
            // We know that it is nobody else's; to be asked first would take a second.
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
    }
    RouteNetlinkMessage::NewAddress(message)
}

fn link_of(message: RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = message else { return None };
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        kind: None,
        controller: None,
        mtu: None,
        counters: None,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Controller(index) => link.controller = Some(index),
            LinkAttribute::Mtu(mtu) => link.mtu = Some(mtu),
            LinkAttribute::Stats64(counters) => link.counters = Some(counters),
            LinkAttribute::LinkInfo(infos) => {
                link.kind =
                    infos.into_iter().find_map(|i| if let LinkInfo::Kind(k) = i { Some(k) } else { None });
            }
            _ => {}
        }
    }
    Some(link)
}
