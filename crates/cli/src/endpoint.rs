//! Where the daemon is: a unix socket, or TCP with or without TLS.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::Args;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// The socket that the daemon listens on unless it is told otherwise.
pub(crate) const DEFAULT_SOCKET: &str = "/run/sampan/docker.sock";

/// Where the daemon is, and how it is known to be that.
#[derive(Args, Default, Clone)]
pub(crate) struct Where {
    /// The daemon's address [default: $SAMPAN_HOST, $DOCKER_HOST, else unix:///run/sampan/docker.sock]
    #[arg(short = 'H', long, value_name = "unix://PATH|tcp://HOST:PORT")]
    pub(crate) host: Option<String>,
    /// Use TLS, whoever the daemon is
    #[arg(long)]
    tls: bool,
    /// Use TLS, and know the daemon by its certificate
    #[arg(long)]
    tlsverify: bool,
    /// Who signs daemons' certificates [default: ca.pem in $DOCKER_CERT_PATH or ~/.docker]
    #[arg(long, value_name = "FILE")]
    tlscacert: Option<PathBuf>,
    /// This client's certificate [default: cert.pem there]
    #[arg(long, value_name = "FILE")]
    tlscert: Option<PathBuf>,
    /// Its key [default: key.pem there]
    #[arg(long, value_name = "FILE")]
    tlskey: Option<PathBuf>,
}

/// A way to a daemon.
#[derive(Clone)]
pub(crate) enum Endpoint {
    Unix(PathBuf),
    Tcp(String),
    Tls { authority: String, name: ServerName<'static>, config: Arc<ClientConfig> },
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Endpoint::Unix(path) => write!(f, "unix://{}", path.display()),
            Endpoint::Tcp(authority) | Endpoint::Tls { authority, .. } => write!(f, "tcp://{authority}"),
        }
    }
}

/// A connection.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Where {
    /// The way that is meant.
    pub(crate) fn endpoint(&self) -> Result<Endpoint> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let address =
            self.host.clone().or_else(|| variable("SAMPAN_HOST")).or_else(|| variable("DOCKER_HOST"));
        let Some(address) = address else { return Ok(Endpoint::Unix(DEFAULT_SOCKET.into())) };
        if let Some(path) = address.strip_prefix("unix://") {
            return Ok(Endpoint::Unix(if path.is_empty() { DEFAULT_SOCKET.into() } else { path.into() }));
        }
        let verify = self.tlsverify || variable("DOCKER_TLS_VERIFY").is_some();
        let authority = match address.split_once("://") {
            Some(("tcp" | "http", rest)) => rest.trim_end_matches('/'),
            Some(("https", rest)) => rest.trim_end_matches('/'),
            Some(("ssh", rest)) => bail!(
                "cannot connect to `{address}`: ssh:// is not supported: forward the socket with \
                 `ssh -nNT -L /tmp/sampan.sock:{DEFAULT_SOCKET} {rest}` and use -H unix:///tmp/sampan.sock"
            ),
            Some((scheme, _)) => {
                bail!("cannot connect to `{address}`: {scheme}:// is not supported: use unix:// or tcp://")
            }
            None => bail!("cannot connect to `{address}`: write unix:///path or tcp://host:port"),
        };
        let tls = self.tls || verify || address.starts_with("https://");
        let port = if tls { 2376 } else { 2375 };
        let (host, authority) =
            split(authority, port).with_context(|| format!("cannot connect to `{address}`"))?;
        if !tls {
            return Ok(Endpoint::Tcp(authority));
        }
        let name =
            ServerName::try_from(host.clone()).with_context(|| format!("`{host}` is no name of a host"))?;
        let config = self.client_config(verify || address.starts_with("https://"))?;
        Ok(Endpoint::Tls { authority, name, config: Arc::new(config) })
    }

    fn client_config(&self, verify: bool) -> Result<ClientConfig> {
        let directory =
            std::env::var_os("DOCKER_CERT_PATH").filter(|v| !v.is_empty()).map(PathBuf::from).or_else(|| {
                sampan_registry::docker_config::default_path().and_then(|p| p.parent().map(Path::to_owned))
            });
        let file = |given: &Option<PathBuf>, name: &str| {
            let beside = directory.as_ref().map(|d| d.join(name)).filter(|path| path.exists());
            given.clone().or(beside)
        };
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .context("TLS can't be used")?;
        let builder = if verify {
            let mut roots = RootCertStore::empty();
            match file(&self.tlscacert, "ca.pem") {
                Some(path) => {
                    for certificate in certificates(&path)? {
                        roots.add(certificate).with_context(|| {
                            format!("`{}` has a certificate that can't be used", path.display())
                        })?;
                    }
                }
                None => bail!(
                    "nothing tells who signs the daemon's certificate: give --tlscacert, or put ca.pem into {}",
                    directory.as_deref().unwrap_or(Path::new("~/.docker")).display()
                ),
            }
            builder.with_root_certificates(roots)
        } else {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        };
        match (file(&self.tlscert, "cert.pem"), file(&self.tlskey, "key.pem")) {
            (Some(certificate), Some(key)) => {
                let failed = || format!("cannot read the key `{}`", key.display());
                let private = PrivateKeyDer::from_pem_file(&key).with_context(failed)?;
                builder.with_client_auth_cert(certificates(&certificate)?, private).with_context(|| {
                    format!("`{}` and `{}` do not go together", certificate.display(), key.display())
                })
            }
            (None, None) => Ok(builder.with_no_client_auth()),
            _ => bail!("a client's certificate and its key are needed together: --tlscert and --tlskey"),
        }
    }
}

/// A host, and the same with its port.
fn split(authority: &str, port: u16) -> Result<(String, String)> {
    let plain = |text: &str| text.trim_matches(['[', ']']).to_owned();
    let (host, with_port) = match authority.rsplit_once(':') {
        Some((host, digits)) if !host.ends_with(':') && !authority.ends_with(']') => {
            digits.parse::<u16>().ok().with_context(|| format!("`{digits}` is no port"))?;
            (plain(host), authority.to_owned())
        }
        _ => (plain(authority), format!("{authority}:{port}")),
    };
    if host.is_empty() {
        bail!("it names no host");
    }
    Ok((host, with_port))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let failed = || format!("cannot read the certificates in `{}`", path.display());
    let all = CertificateDer::pem_file_iter(path).with_context(failed)?;
    let all = all.collect::<Result<Vec<_>, _>>().with_context(failed)?;
    if all.is_empty() {
        bail!("there is no certificate in `{}`", path.display());
    }
    Ok(all)
}

impl Endpoint {
    /// A new connection.
    pub(crate) async fn connect(&self) -> Result<Box<dyn Stream>> {
        let failed = || match self {
            Endpoint::Unix(path) => {
                let hint = if path.exists() {
                    "is a daemon running, and may you use its socket?"
                } else {
                    "is a daemon running?"
                };
                format!("cannot reach a daemon at `{self:?}`: {hint} (`sampan -H` and SAMPAN_HOST say where)")
            }
            _ => format!("cannot reach a daemon at `{self:?}`"),
        };
        Ok(match self {
            Endpoint::Unix(path) => Box::new(UnixStream::connect(path).await.with_context(failed)?),
            Endpoint::Tcp(authority) => Box::new(TcpStream::connect(authority).await.with_context(failed)?),
            Endpoint::Tls { authority, name, config } => {
                let tcp = TcpStream::connect(authority).await.with_context(failed)?;
                let tls = tokio_rustls::TlsConnector::from(Arc::clone(config));
                Box::new(tls.connect(name.clone(), tcp).await.with_context(failed)?)
            }
        })
    }
}

/// Takes whoever answers for the daemon: `--tls` without `--tlsverify`.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(host: &str) -> Result<String, String> {
        let place = Where { host: Some(host.to_owned()), ..Where::default() };
        place.endpoint().map(|e| format!("{e:?}")).map_err(|e| format!("{e:#}"))
    }

    #[test]
    fn addresses() {
        for (host, expected) in [
            ("unix:///a/b", "unix:///a/b"),
            ("tcp://h", "tcp://h:2375"),
            ("tcp://h:1", "tcp://h:1"),
            ("tcp://[::1]:1", "tcp://[::1]:1"),
            ("tcp://[::1]", "tcp://[::1]:2375"),
            ("http://h:1/", "tcp://h:1"),
        ] {
            assert_eq!(shown(host).as_deref(), Ok(expected), "{host}");
        }
        for (host, said) in [
            ("ssh://me@h", "ssh:// is not supported: forward the socket"),
            ("npipe://x", "npipe:// is not supported"),
            ("h:1", "write unix:///path or tcp://host:port"),
            ("tcp://h:x", "`x` is no port"),
            ("tcp://:1", "names no host"),
        ] {
            let error = shown(host).unwrap_err();
            assert!(error.contains(said), "{host}: {error}");
        }
    }
}
