//! Published ports are reserved on the host by sockets that are bound and nothing else.
//!
//! The rules alone would take a port's packets away from a process that listens there, and would let one start to
//! listen in vain. A bound socket makes both an error at the right place: ours if the port is in use, the other's
//! (EADDRINUSE) if it is ours. The sockets end with the daemon; the rules, and so the published ports, do not. The next
//! daemon binds them again; a port that someone has taken in between stays published, and is reported.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with, sockopt};

use crate::spec::Protocol;

/// Binds `host` and returns the socket and the port, which the kernel picks from its range if it was 0.
pub(crate) fn reserve(protocol: Protocol, host: SocketAddr) -> io::Result<(Option<OwnedFd>, u16)> {
    match try_bind(protocol, host, false) {
        // Connections that have ended keep a port for a minute, which is no reason not to publish it: only with
        // this option does the kernel tell them from a socket that is in use.
        Err(Errno::ADDRINUSE) if protocol == Protocol::Tcp && host.port() != 0 => {
            try_bind(protocol, host, true).map_err(io::Error::from)
        }
        other => other.map_err(io::Error::from),
    }
}

fn try_bind(protocol: Protocol, host: SocketAddr, reuse: bool) -> Result<(Option<OwnedFd>, u16), Errno> {
    let kind = match protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
        // Its packets are translated without this host having such a socket, and most kernels have none.
        Protocol::Sctp => return Ok((None, host.port())),
    };
    let family = if host.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    if host.is_ipv6() {
        // The same port may be published on IPv4 for somebody else.
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    if reuse {
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    bind(&socket, &host)?;
    let bound = SocketAddr::try_from(getsockname(&socket)?)?;
    Ok((Some(socket), bound.port()))
}

/// Whether two published addresses meet: the same, or one of them is all.
pub(crate) fn overlap(one: IpAddr, other: IpAddr) -> bool {
    one.is_ipv4() == other.is_ipv4() && (one == other || one.is_unspecified() || other.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};

    const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[test]
    fn a_reserved_port_is_nobody_elses_and_the_other_way_round() {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let (_held, port) = reserve(protocol, SocketAddr::new(LOCAL, 0)).unwrap();
            assert!(port > 0);
            let again = reserve(protocol, SocketAddr::new(LOCAL, port)).unwrap_err();
            assert_eq!(again.kind(), io::ErrorKind::AddrInUse);
        }
        let (_held, port) = reserve(Protocol::Tcp, SocketAddr::new(LOCAL, 0)).unwrap();
        assert!(TcpListener::bind((LOCAL, port)).is_err());
        let listener = TcpListener::bind((LOCAL, 0)).unwrap();
        let taken = SocketAddr::new(LOCAL, listener.local_addr().unwrap().port());
        assert!(reserve(Protocol::Tcp, taken).is_err());
        let socket = UdpSocket::bind((LOCAL, 0)).unwrap();
        let taken = SocketAddr::new(LOCAL, socket.local_addr().unwrap().port());
        assert!(reserve(Protocol::Udp, taken).is_err());
    }

    #[test]
    fn a_port_of_connections_that_have_ended_can_be_published() {
        let listener = TcpListener::bind((LOCAL, 0)).unwrap();
        let address = SocketAddr::new(LOCAL, listener.local_addr().unwrap().port());
        let client = TcpStream::connect(address).unwrap();
        let (server, _) = listener.accept().unwrap();
        drop((server, listener)); // the server closes first, so the port keeps its TIME-WAIT
        drop(client);
        reserve(Protocol::Tcp, address).unwrap();
    }
}
