//! Rules that somebody else takes away are put back at once.
//!
//! The kernel tells every change of nftables to a multicast group. A thread listens: a change of one of our tables that
//! was not ours, or of Docker's chain in which we have rules, lets it look after the rules as an attachment would. It
//! takes no hint of what has changed: all rules that there should be are put in place in one transaction.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, NfTablesMessage, RuleAttribute, SetAttribute, SetElementList, TableAttribute,
};
use netlink_packet_netfilter::{NetfilterMessage, NetfilterMessageInner};
use netlink_sys::Socket;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use crate::docker;
use crate::net::{Inner, Shared};
use crate::netlink;

/// The multicast group of changes of nftables.
const CHANGES: u32 = 7;
const STACK_BYTES: usize = 256 << 10;

/// The thread, as long as this lives.
#[derive(Debug)]
pub(crate) struct Watch {
    end: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Begins to watch over the rules of `shared`.
    pub(crate) fn start(shared: &Arc<Shared>) -> io::Result<Watch> {
        let mut socket = Socket::new(netlink_sys::protocols::NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        // Without this, every transaction of ours would wake the thread to read a message for each rule.
        let _ = rustix::net::sockopt::set_socket_recv_buffer_size(socket.as_fd(), 4 << 20);
        socket.add_membership(CHANGES)?;
        let end = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let (weak, theirs) = (Arc::downgrade(shared), Arc::clone(&end));
        let builder = std::thread::Builder::new().name("nft-watch".into()).stack_size(STACK_BYTES);
        let thread = builder.spawn(move || watch(&socket, &theirs, &weak))?;
        Ok(Watch { end, thread: Some(thread) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = rustix::io::write(&*self.end, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // if it panicked, that has been told
        }
    }
}

/// What a change asks for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Change {
    Nothing,
    /// Docker's chain.
    Docker,
    /// Our tables.
    Ours,
}

fn watch(socket: &Socket, end: &OwnedFd, shared: &Weak<Shared>) {
    loop {
        let mut waiting =
            [PollFd::new(socket, PollFlags::IN), PollFd::from_borrowed_fd(end.as_fd(), PollFlags::IN)];
        match poll(&mut waiting, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
        if !waiting[1].revents().is_empty() {
            return;
        }
        let Some(shared) = shared.upgrade() else { return };
        let received = socket.recv_from_full();
        let mut inner = shared.lock();
        let change = match received {
            Ok((datagram, _)) => change(&inner, &datagram),
            // Some were lost; what they said is seen by looking.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error()) => {
                Change::Ours
            }
            Err(_) => Change::Nothing,
        };
        match change {
            Change::Nothing => {}
            // All has been removed, by us.
            _ if inner.networks.is_empty() => {}
            Change::Docker => inner.admit_to_docker(),
            Change::Ours => {
                if let Err(error) = inner.apply() {
                    inner.complain(format!("cannot put nftables rules back in place: {error}"));
                }
            }
        }
    }
}

fn change(inner: &Inner, datagram: &[u8]) -> Change {
    // What is not understood may be about us.
    let Ok(messages) = netlink::parse::<NetfilterMessage>(datagram) else { return Change::Ours };
    messages.iter().map(|message| change_of(inner, message)).max().unwrap_or(Change::Nothing)
}

fn change_of(inner: &Inner, message: &NetlinkMessage<NetfilterMessage>) -> Change {
    let NetlinkPayload::InnerMessage(inside) = &message.payload else { return Change::Nothing };
    let NetfilterMessageInner::NfTables(content) = &inside.inner else { return Change::Nothing };
    // Notifications carry the port of the socket that asked for the change.
    if inner.tables.is_from(message.header.port_number) {
        return Change::Nothing;
    }
    let (table, chain) = place(content);
    match (table, chain) {
        (Some(table), _) if table == inner.table => Change::Ours,
        (Some(docker::TABLE), Some(docker::CHAIN)) => Change::Docker,
        _ => Change::Nothing,
    }
}

/// The table and chain that a message is about.
fn place(content: &NfTablesMessage) -> (Option<&str>, Option<&str>) {
    use NfTablesMessage as M;
    match content {
        M::NewTable(m) | M::DeleteTable(m) => {
            let name = m.attributes.iter().find_map(|a| match a {
                TableAttribute::Name(name) => Some(name.as_str()),
                _ => None,
            });
            (name, None)
        }
        M::NewChain(m) | M::DeleteChain(m) => {
            let (mut table, mut chain) = (None, None);
            for attribute in &m.attributes {
                match attribute {
                    ChainAttribute::Table(name) => table = Some(name.as_str()),
                    ChainAttribute::Name(name) => chain = Some(name.as_str()),
                    _ => {}
                }
            }
            (table, chain)
        }
        M::NewRule(m) | M::DeleteRule(m) => {
            let (mut table, mut chain) = (None, None);
            for attribute in &m.attributes {
                match attribute {
                    RuleAttribute::Table(name) => table = Some(name.as_str()),
                    RuleAttribute::Chain(name) => chain = Some(name.as_str()),
                    _ => {}
                }
            }
            (table, chain)
        }
        M::NewSet(m) | M::DeleteSet(m) => {
            let name = m.attributes.iter().find_map(|a| match a {
                SetAttribute::Table(name) => Some(name.as_str()),
                _ => None,
            });
            (name, None)
        }
        M::NewSetElement(m) | M::DeleteSetElement(m) => {
            let name = m.attributes.iter().find_map(|a| match a {
                SetElementList::Table(name) => Some(name.as_str()),
                _ => None,
            });
            (name, None)
        }
        _ => (None, None),
    }
}
