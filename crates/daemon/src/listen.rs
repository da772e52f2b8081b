//! Where the daemon listens, and serving what connects: unix sockets, TCP with mutual TLS, sockets from systemd.
//!
//! Whoever may connect owns the machine. So a unix socket is root's unless a group is named, TCP needs certificates of
//! both sides, and plain TCP has to be asked for by name (`--tls=false`).
//!
//! The number of connections is bounded by the descriptors that the process may have; beyond it they wait in the
//! kernel's queue. Should all descriptors be in use nevertheless, a client is told so, by means of one that is kept for
//! that. At the daemon's end those that answer something get a moment to finish; streams are cut, as by a
//! crash, which their clients must bear anyway.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::graceful::GracefulShutdown;
use rustix::process::{Resource, getrlimit};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tower::Layer;

use crate::docker;

/// How long a client may take for a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// A body that is read whatever becomes of its request, in bytes; Go's servers read as much.
const SMALL_BODY: u64 = 256 << 10;
/// How long answers may take at the daemon's end.
const LAST_ANSWERS: Duration = Duration::from_secs(2);
/// How long to wait when the kernel has no descriptor for a connection, not even the one that was kept.
const NO_DESCRIPTOR: Duration = Duration::from_millis(100);
/// How long a client may take to hear that it can't be served.
const REFUSAL: Duration = Duration::from_secs(1);

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// A socket in the file system.
    Unix(PathBuf),
    /// A port.
    Tcp(SocketAddr),
    /// Whatever systemd has opened for this process.
    Systemd,
}

impl std::str::FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Address, String> {
        match text.split_once("://") {
            Some(("unix", path)) if path.starts_with('/') => Ok(Address::Unix(path.into())),
            Some(("tcp", address)) => address
                .parse()
                .map(Address::Tcp)
                .map_err(|_| format!("`{text}` needs an address and a port, as tcp://127.0.0.1:2376")),
            Some(("fd", "")) => Ok(Address::Systemd),
            _ => Err(format!("cannot listen on `{text}`: use unix:///path, tcp://address:port or fd://")),
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Unix(path) => write!(f, "unix://{}", path.display()),
            Address::Tcp(address) => write!(f, "tcp://{address}"),
            Address::Systemd => f.write_str("fd://"),
        }
    }
}

/// Who may use a unix socket besides root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) group: Option<u32>,
    pub(crate) mode: u32,
}

/// How TCP is spoken; replaced when the daemon reloads.
pub(crate) type Tls = Arc<RwLock<Tcp>>;

/// How TCP is spoken.
#[derive(Clone, Debug)]
pub(crate) enum Tcp {
    /// With certificates of both sides.
    Secure(Arc<ServerConfig>),
    /// Plainly, by the user's wish.
    Plain,
    /// Not at all: there are no certificates.
    Refused,
}

/// A socket that connections come to.
#[derive(Debug)]
pub(crate) enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// Opens all addresses.
///
/// # Errors
/// If one can't be listened on.
pub(crate) fn open(addresses: &[Address], access: &Access) -> Result<Vec<Listener>> {
    let mut listeners = Vec::new();
    for address in addresses {
        match address {
            Address::Unix(path) => listeners.push(Listener::Unix(unix(path, access)?)),
            Address::Tcp(at) => {
                let socket = std::net::TcpListener::bind(at)
                    .with_context(|| format!("cannot listen on `{address}`"))?;
                listeners.push(tcp(socket)?);
            }
            Address::Systemd => listeners.extend(from_systemd()?),
        }
    }
    Ok(listeners)
}

fn tcp(socket: std::net::TcpListener) -> Result<Listener> {
    socket.set_nonblocking(true)?;
    Ok(Listener::Tcp(TcpListener::from_std(socket)?))
}

/// Takes the socket's place. One daemon owns the store (it holds the lock), so a socket that is here is a dead daemon's.
fn unix(path: &Path, access: &Access) -> Result<UnixListener> {
    if let Some(directory) = path.parent() {
        sampan_base::files::create_directories(directory, 0o711)?;
    }
    sampan_base::files::remove_if_exists(path)?;
    let old = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(path);
    rustix::process::umask(old);
    let listener = listener.with_context(|| format!("cannot listen on `{}`", path.display()))?;
    let protect = || -> std::io::Result<()> {
        std::os::unix::fs::chown(path, None, access.group)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(access.mode))
    };
    protect().with_context(|| format!("cannot protect `{}`", path.display()))?;
    Ok(listener)
}

/// The sockets that systemd passed (sd_listen_fds(3)): it has made and protected them.
fn from_systemd() -> Result<Vec<Listener>> {
    let mut passed = listenfd::ListenFd::from_env();
    let mut listeners = Vec::new();
    for at in 0..passed.len() {
        if let Ok(Some(socket)) = passed.take_unix_listener(at) {
            socket.set_nonblocking(true)?;
            listeners.push(Listener::Unix(UnixListener::from_std(socket)?));
        } else if let Ok(Some(socket)) = passed.take_tcp_listener(at) {
            listeners.push(tcp(socket)?);
        } else {
            bail!("descriptor {} from systemd is no socket that can be listened on", 3 + at);
        }
    }
    if listeners.is_empty() {
        bail!("fd:// needs sockets from systemd, and there are none: start sampand by its socket unit");
    }
    Ok(listeners)
}

/// Serves the API until `end`, then lets answers finish.
pub(crate) async fn serve(listeners: Vec<Listener>, router: Router, tls: Tls, end: impl Future<Output = ()>) {
    let app = tower::util::MapRequestLayer::new(docker::strip_version).layer(router);
    let graceful = GracefulShutdown::new();
    let room = Arc::new(Semaphore::new(most_connections()));
    let mut accepting = tokio::task::JoinSet::new();
    let (sender, mut accepted) = tokio::sync::mpsc::channel(16);
    for listener in listeners {
        let (sender, room) = (sender.clone(), Arc::clone(&room));
        accepting.spawn(accept_all(listener, sender, room));
    }
    drop(sender);
    tokio::pin!(end);
    loop {
        let connection: Accepted = tokio::select! {
            next = accepted.recv() => match next {
                Some(connection) => connection,
                None => break,
            },
            () = &mut end => break,
        };
        let (app, tls, watcher) = (app.clone(), Arc::clone(&tls), graceful.watcher());
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                use tower::Service;
                let mut app = app.clone();
                async move { app.call(with_small_body(request).await).await }
            });
            let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            // A client that goes away or speaks nonsense is its own business; what it was answered is logged there.
            let serve = async |stream: Box<dyn Stream>| {
                let served = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
                let _ = watcher.watch(served.into_owned()).await;
            };
            let Accepted { stream, tcp, _place } = connection;
            // Cloned out of the lock before any waiting.
            let config = tls.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
            match config {
                _ if !tcp => serve(stream).await,
                Tcp::Plain => serve(stream).await,
                Tcp::Refused => {
                    tracing::warn!("refused a TCP connection: there are no certificates (--tlscacert, …)")
                }
                Tcp::Secure(config) => {
                    match tokio::time::timeout(HANDSHAKE, TlsAcceptor::from(config).accept(stream)).await {
                        Ok(Ok(stream)) => serve(Box::new(stream)).await,
                        Ok(Err(error)) => tracing::info!(%error, "a client was refused by TLS"),
                        Err(_) => tracing::info!("a client did not finish its TLS handshake"),
                    }
                }
            }
        });
    }
    accepting.shutdown().await;
    let _ = tokio::time::timeout(LAST_ANSWERS, graceful.shutdown()).await;
}

/// Takes a small body in before the request is looked at. A connection whose request was not read to its end has to be
/// closed, and a client that is still sending then sees that instead of the answer.
async fn with_small_body(request: http::Request<hyper::body::Incoming>) -> http::Request<axum::body::Body> {
    use http_body_util::BodyExt;
    use hyper::body::Body;
    let (parts, body) = request.into_parts();
    let small = body.size_hint().upper().is_some_and(|bytes| (1..=SMALL_BODY).contains(&bytes));
    let body = if small {
        match body.collect().await {
            Ok(whole) => axum::body::Body::from(whole.to_bytes()),
            // It broke off: the handler finds what it can't read.
            Err(_) => axum::body::Body::empty(),
        }
    } else {
        axum::body::Body::new(body)
    };
    http::Request::from_parts(parts, body)
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A connection and its place among all of them.
struct Accepted {
    stream: Box<dyn Stream>,
    /// It came over TCP.
    tcp: bool,
    _place: tokio::sync::OwnedSemaphorePermit,
}

async fn accept_all(listener: Listener, to: tokio::sync::mpsc::Sender<Accepted>, room: Arc<Semaphore>) {
    let mut kept = keep_a_descriptor();
    loop {
        // The semaphore is never closed.
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        match accept(&listener).await {
            Ok((stream, tcp)) => {
                if kept.is_none() {
                    kept = keep_a_descriptor();
                }
                if kept.is_none() {
                    tracing::error!(
                        "refused a connection: all descriptors that this process may have are open"
                    );
                    // Over TCP, that it ends has to do.
                    if !tcp {
                        let _ = tokio::time::timeout(REFUSAL, refuse(stream)).await;
                    }
                } else if to.send(Accepted { stream, tcp, _place: place }).await.is_err() {
                    return;
                }
            }
            // The client has gone before it was served.
            Err(error)
                if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset) => {}
            // There may be no client yet: the kernel wants a descriptor before it looks (accept(2)).
            Err(_) if kept.is_some() => kept = None,
            Err(error) => {
                tracing::error!(%error, "cannot accept connections");
                // Nothing tells when a descriptor is free again, and trying at once would only spin.
                tokio::time::sleep(NO_DESCRIPTOR).await;
            }
        }
    }
}

/// The next connection, and whether it came over TCP.
async fn accept(listener: &Listener) -> std::io::Result<(Box<dyn Stream>, bool)> {
    match listener {
        Listener::Unix(socket) => socket.accept().await.map(|(s, _)| (Box::new(s) as Box<dyn Stream>, false)),
        Listener::Tcp(socket) => socket.accept().await.map(|(s, _)| {
            let _ = s.set_nodelay(true); // slower, but right
            (Box::new(s) as Box<dyn Stream>, true)
        }),
    }
}

/// A descriptor that can be given up for a connection when there is no other.
fn keep_a_descriptor() -> Option<std::fs::File> {
    std::fs::File::open("/dev/null").ok()
}

/// Tells a client why nothing can be done for it, whatever it asks.
async fn refuse(stream: Box<dyn Stream>) {
    let service = hyper::service::service_fn(|_: http::Request<hyper::body::Incoming>| {
        let mut answer = docker::unavailable("the daemon has too many open files for another connection");
        answer.headers_mut().insert(http::header::CONNECTION, http::HeaderValue::from_static("close"));
        std::future::ready(Ok::<_, std::convert::Infallible>(answer))
    });
    let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    // It is told if it listens.
    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
}

/// Half of the descriptors are for clients; a stream needs two of them.
fn most_connections() -> usize {
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(1 << 16);
    usize::try_from(descriptors / 4).unwrap_or(1 << 14).clamp(16, 1 << 14)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_and_write() {
        for text in ["unix:///run/x.sock", "tcp://127.0.0.1:2376", "tcp://[::1]:2376", "fd://"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for bad in ["", "x", "unix://x", "tcp://localhost", "http://127.0.0.1:1", "fd://3"] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }
}
