//! Network devices that change their network namespace, by the few messages of rtnetlink that it takes.
//!
//! A device loses its addresses when it moves and is down afterwards; its name may be taken where it goes. So whoever
//! moves one reads the addresses first, asks for the name there, and brings both back ([`Links::addresses`],
//! [`Links::add_address`], [`Links::bring_up`]).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// The longest name of a device, in bytes.
pub const MAX_NAME: usize = 15;

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_CREATE: u16 = 0x400;
const IFLA_IFNAME: u16 = 3;
const IFLA_NET_NS_FD: u16 = 28;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_LABEL: u16 = 3;
const IFA_BROADCAST: u16 = 4;
const IFA_CACHEINFO: u16 = 6;
const IFA_FLAGS: u16 = 8;
const IFA_F_PERMANENT: u32 = 0x80;
const RT_SCOPE_UNIVERSE: u8 = 0;
const IFF_UP: u32 = 1;

/// The lengths of netlink's header and of rtnetlink's two, which all have fixed layouts.
const HEADER: usize = 16;
const LINK_HEADER: usize = 16;
const ADDRESS_HEADER: usize = 8;

/// The devices of one network namespace: that which this process was in when it asked.
#[derive(Debug)]
pub struct Links {
    socket: OwnedFd,
    sequence: u32,
}

/// An address of a device, as the kernel tells it and takes it again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Address {
    family: u8,
    prefix: u8,
    flags: u32,
    /// Address, local address, label and broadcast: as they came.
    attributes: Vec<(u16, Vec<u8>)>,
}

impl Links {
    /// The devices of this process's namespace, from now on also if it leaves that.
    ///
    /// # Errors
    /// If the kernel has no netlink.
    pub fn open() -> io::Result<Links> {
        let flags = SocketFlags::CLOEXEC;
        // NETLINK_ROUTE is protocol 0.
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        rustix::net::connect(&socket, &SocketAddrNetlink::new(0, 0))?;
        Ok(Links { socket, sequence: 0 })
    }

    /// The number of the device of this name, if there is one.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub fn find(&mut self, name: &str) -> io::Result<Option<u32>> {
        let mut body = link_header(0, 0, 0);
        attribute(&mut body, IFLA_IFNAME, &terminated(name));
        match self.ask(RTM_GETLINK, 0, &body) {
            Ok(answers) => Ok(answers.first().and_then(|answer| number(answer, 4))),
            Err(e) if e.raw_os_error() == Some(Errno::NODEV.raw_os_error()) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Moves the device of this number to the namespace `to`, by this name if it is not taken there. A name with `%d`
    /// in it is a pattern.
    ///
    /// # Errors
    /// If the device can't be moved (`lo` can't) or the name is taken.
    pub fn move_to(&mut self, index: u32, to: BorrowedFd<'_>, name: &str) -> io::Result<()> {
        let mut body = link_header(index, 0, 0);
        attribute(&mut body, IFLA_NET_NS_FD, &to.as_raw_fd().to_ne_bytes());
        attribute(&mut body, IFLA_IFNAME, &terminated(name));
        self.ask(RTM_NEWLINK, NLM_F_ACK, &body).map(drop)
    }

    /// The permanent addresses of the device that have a meaning beyond this host and its link.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub fn addresses(&mut self, index: u32) -> io::Result<Vec<Address>> {
        let body = [0u8; ADDRESS_HEADER];
        let answers = self.ask(RTM_GETADDR, NLM_F_DUMP, &body)?;
        Ok(answers.iter().filter_map(|answer| address_of(answer, index)).collect())
    }

    /// Gives the device an address.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn add_address(&mut self, index: u32, address: &Address) -> io::Result<()> {
        // The flags beyond the first eight have an attribute of their own.
        let low = (address.flags & 0xff) as u8;
        let mut body = vec![address.family, address.prefix, low, RT_SCOPE_UNIVERSE];
        body.extend(index.to_ne_bytes());
        for (kind, value) in &address.attributes {
            attribute(&mut body, *kind, value);
        }
        attribute(&mut body, IFA_FLAGS, &address.flags.to_ne_bytes());
        self.ask(RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, &body).map(drop)
    }

    /// Brings the device up.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn bring_up(&mut self, index: u32) -> io::Result<()> {
        self.ask(RTM_NEWLINK, NLM_F_ACK, &link_header(index, IFF_UP, IFF_UP)).map(drop)
    }

    /// One message there, and all that comes back for it.
    fn ask(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        self.sequence += 1;
        let length = u32::try_from(HEADER + body.len()).map_err(|_| io::Error::from(Errno::MSGSIZE))?;
        let mut message = Vec::with_capacity(HEADER + body.len());
        message.extend(length.to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend((flags | NLM_F_REQUEST).to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend(0u32.to_ne_bytes());
        message.extend(body);
        rustix::net::send(&self.socket, &message, SendFlags::empty())?;
        let dump = flags & NLM_F_DUMP == NLM_F_DUMP;
        let mut answers = Vec::new();
        // The kernel's own buffers are of this size at most.
        let mut buffer = vec![0u8; 64 << 10];
        loop {
            let (received, _) =
                match rustix::net::recv(self.socket.as_fd(), &mut buffer[..], RecvFlags::empty()) {
                    Err(Errno::INTR) => continue,
                    other => other?,
                };
            let mut rest = &buffer[..received];
            while let Some((answer, sequence, text, tail)) = next(rest) {
                rest = tail;
                match answer {
                    _ if sequence != self.sequence => {}
                    NLMSG_DONE => return Ok(answers),
                    NLMSG_ERROR => match number(text, 0).map(u32::cast_signed) {
                        Some(0) => return Ok(answers),
                        Some(error) => return Err(io::Error::from_raw_os_error(error.saturating_neg())),
                        None => return Err(Errno::BADMSG.into()),
                    },
                    _ => answers.push(text.to_vec()),
                }
            }
            if !dump && flags & NLM_F_ACK == 0 && !answers.is_empty() {
                return Ok(answers);
            }
        }
    }
}

fn link_header(index: u32, flags: u32, change: u32) -> Vec<u8> {
    let mut header = vec![0u8; 4];
    for number in [index, flags, change] {
        header.extend(number.to_ne_bytes());
    }
    debug_assert_eq!(header.len(), LINK_HEADER);
    header
}

fn terminated(name: &str) -> Vec<u8> {
    [name.as_bytes(), b"\0"].concat()
}

/// Attributes have a length, a kind and a value, and begin at multiples of four.
fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    body.extend(length.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// The number at an offset.
fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// The first message: its kind, its sequence number, its body; and what follows it.
fn next(bytes: &[u8]) -> Option<(u16, u32, &[u8], &[u8])> {
    let length = number(bytes, 0)? as usize;
    let body = bytes.get(HEADER..length)?;
    let rest = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((half(bytes, 4)?, number(bytes, 8)?, body, rest))
}

/// The first attribute: its kind and value; and what follows it.
fn next_attribute(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    const FLAG_BITS: u16 = 0xc000;
    let length = usize::from(half(bytes, 0)?);
    let value = bytes.get(4..length)?;
    let rest = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((half(bytes, 2)? & !FLAG_BITS, value, rest))
}

fn address_of(answer: &[u8], index: u32) -> Option<Address> {
    let &[family, prefix, flags, scope] = answer.get(..4)? else { return None };
    if number(answer, 4)? != index || scope != RT_SCOPE_UNIVERSE {
        return None;
    }
    let mut address = Address { family, prefix, flags: u32::from(flags), attributes: Vec::new() };
    let mut rest = answer.get(ADDRESS_HEADER..)?;
    while let Some((kind, value, tail)) = next_attribute(rest) {
        rest = tail;
        match kind {
            IFA_FLAGS => address.flags = number(value, 0)?,
            // A label is the old name of the device with something behind; the new device may be called otherwise.
            IFA_LABEL | IFA_CACHEINFO => {}
            IFA_ADDRESS | IFA_LOCAL | IFA_BROADCAST => address.attributes.push((kind, value.to_vec())),
            _ => {}
        }
    }
    (address.flags & IFA_F_PERMANENT != 0).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_attributes_are_cut_by_their_lengths_and_never_beyond() {
        let mut body = vec![2, 24, 0x80, 0];
        body.extend(7u32.to_ne_bytes());
        attribute(&mut body, IFA_LOCAL, &[10, 0, 0, 1]);
        attribute(&mut body, IFA_LABEL, b"eth0:1\0");
        attribute(&mut body, IFA_FLAGS, &0x280u32.to_ne_bytes());
        let address = address_of(&body, 7).unwrap();
        assert_eq!((address.family, address.prefix, address.flags), (2, 24, 0x280));
        assert_eq!(address.attributes, [(IFA_LOCAL, vec![10, 0, 0, 1])]);
        assert_eq!(address_of(&body, 8), None);
        let mut message = Vec::new();
        message.extend((HEADER as u32 + 3).to_ne_bytes());
        message.extend([RTM_NEWLINK.to_ne_bytes(), [0; 2]].concat());
        message.extend(5u32.to_ne_bytes());
        message.extend([0; 4]);
        message.extend(b"abc\0");
        assert_eq!(next(&message), Some((RTM_NEWLINK, 5, &b"abc"[..], &b""[..])));
        for length in 0..message.len() - 1 {
            assert_eq!(next(&message[..length]), None, "{length}");
        }
        for broken in [&[][..], &[3, 0, 1, 0], &[255, 255, 1, 0, 9], &[0, 0, 0, 0]] {
            assert_eq!(next_attribute(broken), None);
        }
    }

    #[test]
    fn devices_are_found_by_name() {
        let mut links = Links::open().unwrap();
        let lo = links.find("lo").unwrap().unwrap();
        assert_eq!(links.find("sampan-no-such").unwrap(), None);
        // Of the loopback's addresses, none means anything elsewhere.
        assert_eq!(links.addresses(lo).unwrap(), []);
    }
}
