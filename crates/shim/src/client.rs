//! A small client of the task service that waits for each answer: for tests and tools. The engine has its own.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use prost::Message;
use sampan_rpc::task::SERVICE_V2;
use sampan_rpc::ttrpc::{self, Decoder, Failure, Streams};

/// A connection to a shim.
#[derive(Debug)]
pub struct Client {
    socket: UnixStream,
    decoder: Decoder,
    streams: Streams,
}

/// A call that failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The shim refused it, or could not do it.
    #[error("shim: {0}")]
    Failure(Failure),
    /// The connection broke.
    #[error("cannot talk to the shim")]
    Connection(#[source] io::Error),
}

impl Client {
    /// Connects to an address as `start` prints it.
    ///
    /// # Errors
    /// If nobody listens there.
    pub fn connect(address: &str) -> io::Result<Client> {
        let socket = crate::socket::connect(crate::socket::path_of(address.trim()))?;
        Ok(Client { socket, decoder: Decoder::default(), streams: Streams::default() })
    }

    /// Calls `method` and waits for its answer.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn call<A: Message + Default>(
        &mut self,
        method: &str,
        request: &impl Message,
    ) -> Result<A, CallError> {
        let broken = |e| CallError::Connection(io::Error::other(e));
        let stream = self.streams.next();
        let frame = ttrpc::request(stream, SERVICE_V2, method, request, 0).map_err(broken)?;
        self.socket.write_all(&frame).map_err(CallError::Connection)?;
        let mut buffer = [0u8; 16 << 10];
        loop {
            while let Some(frame) = self.decoder.next_frame().map_err(broken)? {
                if frame.stream == stream {
                    return ttrpc::answer(&frame).map_err(CallError::Failure);
                }
            }
            match self.socket.read(&mut buffer).map_err(CallError::Connection)? {
                0 => return Err(CallError::Connection(io::ErrorKind::UnexpectedEof.into())),
                n => self.decoder.push(&buffer[..n]),
            }
        }
    }
}
