//! The socket on which a runtime hands over a pty's master side.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

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
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received =
            recvmsg(connection, &mut [IoSliceMut::new(&mut name)], &mut control, RecvFlags::CMSG_CLOEXEC);
        let received = match received {
            Err(rustix::io::Errno::AGAIN) => return Ok(None),
            other => other?,
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(mut descriptors) = message
                && let Some(master) = descriptors.next()
            {
                return Ok(Some(master));
            }
        }
        let reason =
            if received.bytes == 0 { "the runtime sent no terminal" } else { "a message without terminal" };
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, reason))
    }
}

impl Drop for ConsoleSocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path); // it may be gone with its directory
    }
}
