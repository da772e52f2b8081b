//! A queue of messages and a socket that never waits: what the service does not take now waits in the queue, up to
//! [`MAX_QUEUE_BYTES`]; then the oldest go, and the shim's log says how many. A lost connection is made again when the
//! next line comes, at most once a second.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use sampan_rpc::log::SyslogAddress;

/// How much waits for the service at most.
const MAX_QUEUE_BYTES: usize = 1 << 20;
/// How long a container's creation waits for a connection over TCP.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The least time between two attempts to connect again.
const RETRY: Duration = Duration::from_secs(1);
/// How long the end of a container waits for the service to take what is left.
const LINGER: Duration = Duration::from_secs(1);

/// A service to send to.
#[derive(Debug)]
pub(super) struct Remote {
    to: SyslogAddress,
    socket: Option<Socket>,
    queue: VecDeque<Vec<u8>>,
    queued: usize,
    /// How much of the first message a stream has taken.
    sent: usize,
    dropped: u64,
    tried: Instant,
}

#[derive(Debug)]
enum Socket {
    Datagram(UnixDatagram),
    Udp(UdpSocket),
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Socket {
    fn connect(to: &SyslogAddress) -> io::Result<Socket> {
        let socket = match to {
            SyslogAddress::Unixgram(path) => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(path)?;
                Socket::Datagram(socket)
            }
            SyslogAddress::Unix(path) => Socket::Unix(UnixStream::connect(path)?),
            SyslogAddress::Udp(address) => {
                let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = UdpSocket::bind(any)?;
                socket.connect(address)?;
                Socket::Udp(socket)
            }
            SyslogAddress::Tcp(address) => Socket::Tcp(TcpStream::connect_timeout(address, CONNECT_TIMEOUT)?),
        };
        super::super::nonblocking(&socket)?;
        Ok(socket)
    }

    fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Datagram(socket) => socket.send(bytes),
            Socket::Udp(socket) => socket.send(bytes),
            Socket::Unix(socket) => (&mut &*socket).write(bytes),
            Socket::Tcp(socket) => (&mut &*socket).write(bytes),
        }
    }

    fn is_stream(&self) -> bool {
        matches!(self, Socket::Unix(_) | Socket::Tcp(_))
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Socket::Datagram(socket) => socket.as_fd(),
            Socket::Udp(socket) => socket.as_fd(),
            Socket::Unix(socket) => socket.as_fd(),
            Socket::Tcp(socket) => socket.as_fd(),
        }
    }
}

impl Remote {
    /// A syslog server.
    pub(super) fn syslog(to: SyslogAddress) -> io::Result<Remote> {
        let socket = Some(Socket::connect(&to)?);
        Ok(Remote {
            to,
            socket,
            queue: VecDeque::new(),
            queued: 0,
            sent: 0,
            dropped: 0,
            tried: Instant::now(),
        })
    }

    /// A datagram socket in the file system.
    pub(super) fn datagrams(path: PathBuf) -> io::Result<Remote> {
        Remote::syslog(SyslogAddress::Unixgram(path))
    }

    /// Whether messages need an end of their own.
    pub(super) fn is_stream(&self) -> bool {
        matches!(self.to, SyslogAddress::Unix(_) | SyslogAddress::Tcp(_))
    }

    /// Queues a message.
    pub(super) fn push(&mut self, message: Vec<u8>) {
        self.queued += message.len();
        self.queue.push_back(message);
        // A message that is half sent stays.
        let first = usize::from(self.sent > 0);
        while self.queued > MAX_QUEUE_BYTES && self.queue.len() > first + 1 {
            let Some(oldest) = self.queue.remove(first) else { break };
            self.queued -= oldest.len();
            self.dropped += 1;
        }
    }

    /// Sends what the service takes now.
    pub(super) fn flush(&mut self) {
        while !self.queue.is_empty() && (self.socket.is_some() || self.reconnect()) {
            let (Some(socket), Some(message)) = (&self.socket, self.queue.front()) else { return };
            match socket.send(&message[self.sent..]) {
                Ok(n) if socket.is_stream() && self.sent + n < message.len() => self.sent += n,
                Ok(_) => self.forget_first(),
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock => return,
                    // Larger than a datagram may be: it will never go.
                    _ if error.raw_os_error() == Some(rustix::io::Errno::MSGSIZE.raw_os_error()) => {
                        self.forget_first();
                        self.dropped += 1;
                    }
                    _ => {
                        crate::note(&format!("the connection to the log service was lost: {error}"));
                        self.socket = None;
                        // A stream's new connection begins with a whole message.
                        self.sent = 0;
                    }
                },
            }
        }
        if self.dropped > 0 {
            crate::note(&format!("the log service took too little: {} messages were dropped", self.dropped));
            self.dropped = 0;
        }
    }

    fn forget_first(&mut self) {
        self.sent = 0;
        if let Some(message) = self.queue.pop_front() {
            self.queued -= message.len();
        }
    }

    fn reconnect(&mut self) -> bool {
        if self.tried.elapsed() < RETRY {
            return false;
        }
        self.tried = Instant::now();
        // Only sockets of this host are connected at once; TCP goes on by itself, and takes bytes when it is done.
        let connected = match &self.to {
            SyslogAddress::Tcp(address) => connect_later(*address).map(Socket::Tcp),
            to => Socket::connect(to),
        };
        match connected {
            Ok(socket) => self.socket = Some(socket),
            Err(error) => crate::note(&format!("cannot connect to the log service again: {error}")),
        }
        self.socket.is_some()
    }

    /// What to wait for before more can be sent.
    pub(super) fn interest(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        match &self.socket {
            Some(socket) if !self.queue.is_empty() => Some((socket.as_fd(), PollFlags::OUT)),
            _ => None,
        }
    }
}

/// Begins to connect over TCP. Until it is done the socket takes nothing; if it fails, the next write does.
fn connect_later(address: SocketAddr) -> io::Result<TcpStream> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    match connect(&socket, &address) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(socket.into()),
        Err(error) => Err(error.into()),
    }
}

impl Drop for Remote {
    /// Waits a moment for the service to take what is left.
    fn drop(&mut self) {
        self.flush();
        let end = Instant::now() + LINGER;
        while let (Some((fd, flags)), Some(left)) =
            (self.interest(), end.checked_duration_since(Instant::now()))
        {
            let timeout = rustix::event::Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(1),
                tv_nsec: i64::from(left.subsec_nanos()),
            };
            let mut fds = [rustix::event::PollFd::from_borrowed_fd(fd, flags)];
            if !rustix::event::poll(&mut fds, Some(&timeout)).is_ok_and(|n| n > 0) {
                break;
            }
            self.flush();
        }
        let left = self.queue.len() as u64 + self.dropped;
        if left > 0 {
            crate::note(&format!("the log service was gone or too slow: {left} messages were lost"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_slow_service_does_not_take_waits_and_then_the_oldest_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let server = UnixDatagram::bind(&path).unwrap();
        let mut remote = Remote::datagrams(path).unwrap();
        for n in 0..3000 {
            remote.push(format!("{n:04}{}", "x".repeat(1000)).into_bytes());
            remote.flush();
        }
        assert!(remote.queued <= MAX_QUEUE_BYTES && remote.dropped > 0 && remote.interest().is_some());
        let mut numbers = Vec::new();
        let mut buffer = [0u8; 2000];
        server.set_nonblocking(true).unwrap();
        loop {
            match server.recv(&mut buffer) {
                Ok(_) => numbers.push(std::str::from_utf8(&buffer[..4]).unwrap().parse::<u32>().unwrap()),
                Err(_) if remote.queue.is_empty() => break,
                Err(_) => remote.flush(),
            }
        }
        assert!(numbers.is_sorted() && numbers.last() == Some(&2999) && numbers.len() < 3000);
    }

    #[test]
    fn a_stream_is_connected_again_and_goes_on_with_whole_messages() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let server = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let mut remote = Remote::syslog(SyslogAddress::Unix(path)).unwrap();
        drop(server.accept().unwrap());
        remote.push(b"one\n".to_vec());
        remote.flush();
        assert!(remote.socket.is_none());
        // Not at once, however many lines come.
        remote.flush();
        assert!(remote.socket.is_none());
        remote.tried = Instant::now().checked_sub(RETRY).unwrap();
        remote.push(b"two\n".to_vec());
        remote.flush();
        let mut text = [0u8; 8];
        std::io::Read::read_exact(&mut server.accept().unwrap().0, &mut text).unwrap();
        assert_eq!(&text, b"one\ntwo\n");
    }
}
