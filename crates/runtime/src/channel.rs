//! The conversation between the runtime and the child that becomes the container's process.
//!
//! ```text
//! runtime                                child
//!    | <--- Moved(pid) ------------------- |  only through an intermediate: the child's number
//!    | ---- Go --------------------------> |  the ids are mapped (user namespace)
//!    | <--- Warning(text) ---------------- |  any number of times
//!    | ---- Groups + descriptors --------> |  its cgroups are made: the files to join them, and their mounts
//!    | <--- Mounted ---------------------- |  only if there are hooks to run now
//!    | ---- Go --------------------------> |
//!    | <--- Listener + descriptor -------- |  only for seccomp's notify
//!    | <--- Ready ------------------------ |  or Failed(class, text), and the child ends
//! ```
//! A socket that keeps messages apart carries it; either side sees the other's death as its end.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType};
use sampan_base::Class;
use sampan_kernel::descriptors;

/// The longest message in bytes: an error text with a path or two of the greatest length in it.
const MAX_MESSAGE: usize = 12 * 1024;

/// What is said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// The child's number in the runtime's PID namespace.
    Moved(i32),
    /// Go on.
    Go,
    /// The cgroups are made. So many of the descriptors that come along are to join them; the rest are mounts.
    Groups(u8),
    /// Something is done without.
    Warning(String),
    /// Namespaces and mounts are made.
    Mounted,
    /// A descriptor for seccomp's notify comes along.
    Listener,
    /// The process waits at its gate, or will be executed at once.
    Ready,
    /// It can't be done.
    Failed(Report),
}

/// What went wrong in the child.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{text}")]
pub struct Report {
    /// The class to report.
    pub class: Class,
    /// All about it.
    pub text: String,
}

/// The classes that a report can have, by their number in a message.
const CLASSES: [Class; 7] = [
    Class::Internal,
    Class::Invalid,
    Class::NotFound,
    Class::Unsupported,
    Class::CommandNotFound,
    Class::CommandNotExecutable,
    Class::Exhausted,
];

impl Report {
    /// As bytes: the class's number, then the text.
    pub fn encode(&self) -> Vec<u8> {
        let class = CLASSES.iter().position(|c| *c == self.class).unwrap_or(0);
        let mut bytes = vec![class as u8];
        bytes.extend(self.text.as_bytes());
        bytes.truncate(MAX_MESSAGE - 1);
        bytes
    }

    /// From bytes; `None` for none.
    pub fn decode(bytes: &[u8]) -> Option<Report> {
        let (class, text) = bytes.split_first()?;
        let class = CLASSES.get(usize::from(*class)).copied().unwrap_or(Class::Internal);
        Some(Report { class, text: String::from_utf8_lossy(text).into_owned() })
    }
}

/// One end of the conversation.
#[derive(Debug)]
pub struct Channel(OwnedFd);

impl Channel {
    /// Both ends.
    ///
    /// # Errors
    /// If the kernel has no descriptors left.
    pub fn pair() -> io::Result<(Channel, Channel)> {
        let (a, b) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Channel(a), Channel(b)))
    }

    /// Another handle on this end.
    ///
    /// # Errors
    /// If the kernel has no descriptors left.
    pub fn try_clone(&self) -> io::Result<Channel> {
        Ok(Channel(self.0.try_clone()?))
    }

    /// Says something.
    ///
    /// # Errors
    /// If the other side is gone.
    pub fn send(&self, message: &Message) -> io::Result<()> {
        rustix::net::send(&self.0, &encode(message), SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Says something, and hands over a descriptor.
    ///
    /// # Errors
    /// If the other side is gone.
    pub fn send_with(&self, message: &Message, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.send_with_all(message, &[fd])
    }

    /// Says something, and hands over descriptors.
    ///
    /// # Errors
    /// If the other side is gone, or they are too many.
    pub fn send_with_all(&self, message: &Message, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        descriptors::send(self.0.as_fd(), &encode(message), fds)
    }

    /// What the other side says next, or `None` if it is gone.
    ///
    /// # Errors
    /// If the socket fails or a message is none of ours.
    pub fn receive(&self) -> io::Result<Option<(Message, Vec<OwnedFd>)>> {
        let mut buffer = [0; MAX_MESSAGE];
        let (length, fds) = descriptors::receive(self.0.as_fd(), &mut buffer)?;
        if length == 0 {
            return Ok(None);
        }
        match decode(&buffer[..length]) {
            Some(message) => Ok(Some((message, fds))),
            None => Err(io::Error::new(io::ErrorKind::InvalidData, "not a message of ours")),
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Sends bytes and one descriptor over a Unix socket.
///
/// # Errors
/// If the other side is gone.
pub fn send_descriptor(socket: BorrowedFd<'_>, bytes: &[u8], fd: BorrowedFd<'_>) -> io::Result<()> {
    descriptors::send(socket, bytes, &[fd])
}

/// Sends one descriptor, named by `bytes`, to whoever listens at a path.
///
/// # Errors
/// If nobody does.
pub fn send_to(path: &Path, bytes: &[u8], fd: BorrowedFd<'_>) -> io::Result<()> {
    send_descriptor(UnixStream::connect(path)?.as_fd(), bytes, fd)
}

/// Receives bytes and the descriptor that came along, if one did.
///
/// # Errors
/// If the socket fails.
pub fn receive_descriptor(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let (length, fds) = descriptors::receive(socket, bytes)?;
    Ok((length, fds.into_iter().next_back()))
}

fn encode(message: &Message) -> Vec<u8> {
    let with = |tag: u8, rest: &[u8]| {
        let mut bytes = vec![tag];
        bytes.extend(rest);
        bytes.truncate(MAX_MESSAGE);
        bytes
    };
    match message {
        Message::Moved(pid) => with(b'p', &pid.to_le_bytes()),
        Message::Go => with(b'g', b""),
        Message::Groups(joins) => with(b'c', &[*joins]),
        Message::Warning(text) => with(b'w', text.as_bytes()),
        Message::Mounted => with(b'm', b""),
        Message::Listener => with(b'l', b""),
        Message::Ready => with(b'r', b""),
        Message::Failed(report) => with(b'f', &report.encode()),
    }
}

fn decode(bytes: &[u8]) -> Option<Message> {
    let (tag, rest) = bytes.split_first()?;
    Some(match tag {
        b'p' => Message::Moved(i32::from_le_bytes(rest.try_into().ok()?)),
        b'g' => Message::Go,
        b'c' => Message::Groups(*rest.first()?),
        b'w' => Message::Warning(String::from_utf8_lossy(rest).into_owned()),
        b'm' => Message::Mounted,
        b'l' => Message::Listener,
        b'r' => Message::Ready,
        b'f' => Message::Failed(Report::decode(rest)?),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_heard_and_death_is_seen() {
        let (a, b) = Channel::pair().unwrap();
        let report = Report { class: Class::CommandNotFound, text: "no `x`".into() };
        let said = [
            Message::Moved(7),
            Message::Go,
            Message::Groups(3),
            Message::Warning("w".into()),
            Message::Mounted,
            Message::Ready,
            Message::Failed(report),
        ];
        for message in &said {
            a.send(message).unwrap();
        }
        a.send_with(&Message::Listener, std::io::stdin().as_fd()).unwrap();
        drop(a);
        for message in said {
            assert_eq!(b.receive().unwrap().unwrap().0, message);
        }
        assert!(matches!(b.receive().unwrap(), Some((Message::Listener, fds)) if fds.len() == 1));
        assert!(b.receive().unwrap().is_none());
        assert!(b.send(&Message::Go).is_err());
    }
}
