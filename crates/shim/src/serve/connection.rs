//! One client's connection to the task service.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use rustix::event::PollFlags;
use sampan_rpc::ttrpc::{self, Code, Decoder, Failure, Frame, FrameError};

/// How many bytes of answers wait for a client before no more of its requests are read.
const MAX_UNSENT_BYTES: usize = 8 << 20;

/// A client.
#[derive(Debug)]
pub(super) struct Connection {
    socket: UnixStream,
    decoder: Decoder,
    out: Vec<u8>,
}

impl Connection {
    pub(super) fn new(socket: UnixStream) -> io::Result<Connection> {
        socket.set_nonblocking(true)?;
        Ok(Connection { socket, decoder: Decoder::default(), out: Vec::new() })
    }

    pub(super) fn interest(&self) -> (BorrowedFd<'_>, PollFlags) {
        let mut events = PollFlags::empty();
        if self.out.len() < MAX_UNSENT_BYTES {
            events |= PollFlags::IN;
        }
        if !self.out.is_empty() {
            events |= PollFlags::OUT;
        }
        (self.socket.as_fd(), events)
    }

    /// Reads what has come and returns the whole frames in it.
    ///
    /// # Errors
    /// If the client is gone or does not speak ttrpc.
    pub(super) fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Vec<Frame>> {
        match self.socket.read(buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => self.decoder.push(&buffer[..n]),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(e) => return Err(e),
        }
        let mut frames = Vec::new();
        loop {
            match self.decoder.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => return Ok(frames),
                Err(error @ FrameError::TooLong { stream, .. }) => {
                    let failure = Failure { code: Code::ResourceExhausted, message: error.to_string() };
                    self.out.extend(ttrpc::failure(stream, &failure));
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
    }

    /// Queues an answer and sends what can be sent now.
    ///
    /// # Errors
    /// If the client is gone.
    pub(super) fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        self.out.extend_from_slice(frame);
        self.flush()
    }

    /// Sends what can be sent now.
    ///
    /// # Errors
    /// If the client is gone.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let mut sent = 0;
        while sent < self.out.len() {
            match self.socket.write(&self.out[sent..]) {
                Ok(n) => sent += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => return Err(e),
            }
        }
        if sent == self.out.len() {
            self.out = Vec::new();
        } else {
            self.out.drain(..sent);
        }
        Ok(())
    }

    pub(super) fn is_flushed(&self) -> bool {
        self.out.is_empty()
    }
}
