//! The socket on which a runtime hands over a pty's master side.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// A listening socket that becomes one connection that carries one descriptor.
#[derive(Debug)]
pub struct ConsoleSocket {
    path: PathBuf,
    listener: UnixListener,
    connection: Option<UnixStream>,
}

impl ConsoleSocket {
    /// Listens at `path`, for `--console-socket`.
    ///
    /// # Errors
    /// If the path can't be bound.
    pub fn listen(path: PathBuf) -> io::Result<ConsoleSocket> {
        let listener = crate::socket::listen(&path)?;
        Ok(ConsoleSocket { path, listener, connection: None })
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What to wait for, to be readable.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        match &self.connection {
            Some(connection) => connection.as_fd(),
            None => self.listener.as_fd(),
        }
    }

    /// The pty, if it has come.
    ///
    /// # Errors
    /// If the runtime closed the connection without sending one.
    pub fn receive(&mut self) -> io::Result<Option<OwnedFd>> {
        if self.connection.is_none() {
            match self.listener.accept() {
                Ok((connection, _)) => {
                    connection.set_nonblocking(true)?;
                    self.connection = Some(connection);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(e) => return Err(e),
            }
        }
        let Some(connection) = &self.connection else { return Ok(None) };
        let mut name = [0u8; 4096];
        match sampan_kernel::descriptors::receive(connection.as_fd(), &mut name) {
            Ok((_, fds)) if !fds.is_empty() => Ok(fds.into_iter().next()),
            Ok((0, _)) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the runtime sent no terminal")),
            Ok(_) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a message without terminal")),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Drop for ConsoleSocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path); // it may be gone with its directory
    }
}
