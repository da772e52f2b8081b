//! Conversations with the kernel over netlink: send messages, wait for what became of each.
//!
//! A conversation belongs to the network namespace that its thread was in when it was opened, and may then be used
//! from any thread.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};

/// The kernel answers at once; a conversation that has lost step fails after this, instead of hanging.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// One socket, used for one exchange at a time.
pub(crate) struct Conversation {
    socket: Socket,
    /// What the kernel calls the socket.
    port: u32,
    sequence: u32,
}

impl Debug for Conversation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Conversation").field("sequence", &self.sequence).finish_non_exhaustive()
    }
}

impl Conversation {
    /// Opens one in this thread's network namespace, for one of [`netlink_sys::protocols`].
    pub(crate) fn open(protocol: isize) -> io::Result<Conversation> {
        let mut socket = Socket::new(protocol)?;
        let port = socket.bind_auto()?.port_number();
        socket.connect(&SocketAddr::new(0, 0))?;
        let limit = Some(ANSWER_LIMIT);
        rustix::net::sockopt::set_socket_timeout(socket.as_fd(), rustix::net::sockopt::Timeout::Recv, limit)?;
        // A whole ruleset is one datagram; the default buffers are for far less.
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(socket.as_fd(), 4 << 20);
        let _ = rustix::net::sockopt::set_socket_recv_buffer_size(socket.as_fd(), 4 << 20);
        Ok(Conversation { socket, port, sequence: 0 })
    }

    /// What the kernel calls the socket.
    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    /// Sends `messages` in one go, each with its flags, and waits for the acknowledgement of each with
    /// `NLM_F_ACK`. All are looked at; the first error is returned.
    pub(crate) fn send_all<M>(&mut self, messages: Vec<(M, u16)>) -> io::Result<()>
    where
        M: NetlinkSerializable + NetlinkDeserializable + Debug,
        NetlinkPayload<M>: From<M>,
    {
        let mut bytes = Vec::new();
        let mut awaited = BTreeSet::new();
        let before = self.sequence;
        for (message, flags) in messages {
            self.append(&mut bytes, message, flags);
            if flags & NLM_F_ACK != 0 {
                awaited.insert(self.sequence);
            }
        }
        self.socket.send(&bytes, 0)?;
        let mut failed: Option<(u32, io::Error)> = None;
        while !awaited.is_empty() {
            let (datagram, _) = self.socket.recv_from_full()?;
            for message in parse::<M>(&datagram)? {
                let NetlinkPayload::Error(error) = message.payload else { continue };
                let sequence = message.header.sequence_number;
                if sequence.wrapping_sub(before) > self.sequence.wrapping_sub(before) {
                    continue; // of an earlier exchange that was given up
                }
                let known = awaited.remove(&sequence);
                if error.code.is_none() {
                    continue;
                }
                if !known {
                    // A batch that fails as a whole says so in the name of its first message.
                    return Err(error.to_io());
                }
                if failed.as_ref().is_none_or(|(earlier, _)| *earlier > sequence) {
                    failed = Some((sequence, error.to_io()));
                }
            }
        }
        failed.map_or(Ok(()), |(_, error)| Err(error))
    }

    /// One request with `flags`, acknowledged.
    pub(crate) fn request<M>(&mut self, message: M, flags: u16) -> io::Result<()>
    where
        M: NetlinkSerializable + NetlinkDeserializable + Debug,
        NetlinkPayload<M>: From<M>,
    {
        self.send_all(vec![(message, flags | NLM_F_ACK)])
    }

    /// Asks for one thing, or with `NLM_F_DUMP` in `flags` for all of a kind.
    pub(crate) fn get<M>(&mut self, message: M, flags: u16) -> io::Result<Vec<M>>
    where
        M: NetlinkSerializable + NetlinkDeserializable + Debug,
        NetlinkPayload<M>: From<M>,
    {
        let mut bytes = Vec::new();
        self.append(&mut bytes, message, flags);
        self.socket.send(&bytes, 0)?;
        let dump = flags & NLM_F_DUMP == NLM_F_DUMP;
        let mut answers = Vec::new();
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            for message in parse::<M>(&datagram)? {
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::InnerMessage(answer) => answers.push(answer),
                    NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok(answers),
                    _ => {}
                }
            }
            if !dump && !answers.is_empty() {
                return Ok(answers);
            }
        }
    }

    fn append<M>(&mut self, bytes: &mut Vec<u8>, message: M, flags: u16)
    where
        M: NetlinkSerializable + NetlinkDeserializable + Debug,
        NetlinkPayload<M>: From<M>,
    {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags | NLM_F_REQUEST;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let start = bytes.len();
        bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
        message.serialize(&mut bytes[start..]);
    }
}

/// The messages of a datagram.
pub(crate) fn parse<M: NetlinkDeserializable>(mut datagram: &[u8]) -> io::Result<Vec<NetlinkMessage<M>>> {
    let mut messages = Vec::new();
    while let Some(length) = datagram.first_chunk::<4>().map(|l| u32::from_ne_bytes(*l) as usize) {
        let Some(bytes) = datagram.get(..length).filter(|b| b.len() >= 16) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a netlink message with a wrong length"));
        };
        messages.push(NetlinkMessage::deserialize(bytes).map_err(io::Error::other)?);
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(messages)
}
