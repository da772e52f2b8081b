//! The DNS server that containers of named networks have at 127.0.0.11.
//!
//! ```text
//!   container                                        daemon
//!   resolver -> 127.0.0.11:53 -- rule in its namespace --> 127.0.0.11:<port>, a socket of ours in there
//!                                                    |-- a name of its networks: answered from `zones`
//!                                                    `-- another: asked of the host's or the container's servers
//! ```
//! One thread serves all containers ([`server`]); a client that asks over TCP gets one of a few of its own. The sockets
//! end with the daemon; the rules stay. The next daemon finds in `<state>/dns/<key>.json` which port it was and binds it
//! again, so a container that asks meanwhile is not answered for that long, and no longer.
//!
//! * [`wire`]: messages. [`zones`]: what is known. [`server`]: the thread.

pub(crate) mod server;
pub(crate) mod wire;
pub(crate) mod zones;

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use sampan_base::files::{read_limited, remove_if_exists, write_atomic_volatile};
use sampan_base::{Class, FileError, error::class_of_io};
use sampan_kernel::netns;
use serde::{Deserialize, Serialize};

use crate::names::is_key;
use crate::net::Net;
use crate::nft::resolver::{self, ADDRESS};
use crate::nft::table::Tables;
use zones::{Client, Server};

/// How often a port is looked for that is free for both UDP and TCP.
const PORT_ATTEMPTS: usize = 16;
/// Far more than a record has.
const MAX_RECORD_BYTES: u64 = 64 << 10;

/// A container that can't be served.
#[derive(Debug, thiserror::Error)]
pub enum NamesError {
    /// The record can't be written.
    #[error(transparent)]
    Record(#[from] FileError),
    /// The kernel refused something.
    #[error("cannot serve names to {key}")]
    Kernel {
        /// The container.
        key: String,
        /// Why.
        source: io::Error,
    },
}

impl NamesError {
    /// The class to report.
    pub fn class(&self) -> Class {
        match self {
            NamesError::Record(error) => error.class(),
            NamesError::Kernel { source, .. } => class_of_io(source),
        }
    }
}

/// What is on disk of a container that is served.
#[derive(Serialize, Deserialize)]
struct Record {
    version: u32,
    port: u16,
    servers: Vec<Server>,
}

impl Net {
    /// Serves names to the container `key` at the address that is returned, for its resolv.conf. What is not known here
    /// is asked of `servers`, in their order. If it is served already, only its servers change.
    ///
    /// # Errors
    /// See [`NamesError`].
    pub fn serve_names(&self, key: &str, servers: Vec<Server>) -> Result<Ipv4Addr, NamesError> {
        let path = self.resolver_path(key);
        let before = read(&path);
        let served = self.shared.names.serves(key);
        let port = match (&before, served) {
            (Some(record), true) => record.port,
            (record, _) => self
                .listen(key, record.as_ref().map(|r| r.port))
                .map_err(|source| NamesError::Kernel { key: key.to_owned(), source })?,
        };
        self.shared.names.zones().admit(key, Client { servers: servers.clone() });
        let record = Record { version: 1, port, servers };
        let text = serde_json::to_vec(&record).map_err(|e| FileError {
            action: "write",
            path: path.clone(),
            source: e.into(),
        })?;
        write_atomic_volatile(&path, &text, 0o600)?;
        Ok(ADDRESS)
    }

    /// Serves names to `key` no more; no error if it never was.
    pub fn stop_names(&self, key: &str) {
        self.shared.names.hush(key);
        if let Err(error) = remove_if_exists(&self.resolver_path(key)) {
            self.shared.lock().complain(sampan_base::chain(&error));
        }
    }

    /// Serves again those whom an earlier daemon has served.
    pub(crate) fn serve_names_again(&self) {
        let entries = std::fs::read_dir(self.shared.state.join("dns")).into_iter().flatten().flatten();
        for path in entries.map(|entry| entry.path()) {
            let key = path.file_stem().and_then(|stem| stem.to_str()).filter(|key| is_key(key));
            let (Some(key), Some(record)) = (key, read(&path)) else { continue };
            self.shared.names.zones().admit(key, Client { servers: record.servers });
            if let Err(error) = self.listen(key, Some(record.port)) {
                self.shared.lock().complain(format!("{key}: cannot serve names again: {error}"));
            }
        }
    }

    /// The keys that have a record of being served.
    pub(crate) fn served_keys(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.shared.state.join("dns")).into_iter().flatten().flatten();
        entries.filter_map(|e| Some(e.path().file_stem()?.to_str()?.to_owned())).collect()
    }

    fn listen(&self, key: &str, port: Option<u16>) -> io::Result<u16> {
        let path = self.namespaces().join(key);
        let namespace = netns::open(&path)?;
        let (udp, tcp, port) = bind(&namespace, port)?;
        self.shared.names.listen(key, udp, tcp, path)?;
        Ok(port)
    }

    fn resolver_path(&self, key: &str) -> PathBuf {
        self.shared.state.join("dns").join(format!("{key}.json"))
    }
}

fn read(path: &Path) -> Option<Record> {
    let bytes = read_limited(path, MAX_RECORD_BYTES).ok()?;
    serde_json::from_slice::<Record>(&bytes).ok().filter(|record| record.version == 1)
}

/// Binds the server's sockets in a container's namespace, at `before` if that is still free, and sees to it that port
/// 53 leads there.
fn bind(namespace: &File, before: Option<u16>) -> io::Result<(UdpSocket, TcpListener, u16)> {
    netns::within(namespace.as_fd(), || {
        if let Some(port) = before
            && let Ok((udp, tcp)) = bind_both(port)
        {
            return Ok((udp, tcp, port));
        }
        let mut attempt = 0;
        let (udp, tcp) = loop {
            attempt += 1;
            match bind_both(0) {
                Ok(bound) => break bound,
                Err(error) if attempt == PORT_ATTEMPTS => return Err(error),
                Err(_) => {}
            }
        };
        let port = udp.local_addr()?.port();
        Tables::open()?.commit(resolver::replace(port))?;
        Ok((udp, tcp, port))
    })
}

fn bind_both(port: u16) -> io::Result<(UdpSocket, TcpListener)> {
    let udp = UdpSocket::bind(SocketAddrV4::new(ADDRESS, port))?;
    let tcp = TcpListener::bind(SocketAddrV4::new(ADDRESS, udp.local_addr()?.port()))?;
    udp.set_nonblocking(true)?;
    tcp.set_nonblocking(true)?;
    Ok((udp, tcp))
}
