//! Certificates for TCP: the daemon shows its own and demands one that an authority of ours has signed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig, crypto::ring};

/// Where the certificates are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Files {
    /// Authorities whose signature a client's certificate needs.
    pub(crate) authorities: PathBuf,
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

/// Reads them.
///
/// # Errors
/// If one can't be read or is of no use.
pub(crate) fn load(files: &Files) -> Result<Arc<ServerConfig>> {
    let mut authorities = RootCertStore::empty();
    for certificate in certificates(&files.authorities)? {
        authorities
            .add(certificate)
            .with_context(|| format!("cannot use an authority in `{}`", files.authorities.display()))?;
    }
    let provider = Arc::new(ring::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), Arc::clone(&provider))
        .build()
        .with_context(|| format!("cannot check clients by `{}`", files.authorities.display()))?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| anyhow::anyhow!("cannot read the key `{}`: {error}", files.key.display()))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("cannot set up TLS")?
        .with_client_cert_verifier(clients)
        .with_single_cert(certificates(&files.certificate)?, key)
        .with_context(|| format!("cannot use the certificate `{}`", files.certificate.display()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let list = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let list = list
        .map_err(|error| anyhow::anyhow!("cannot read the certificates in `{}`: {error}", path.display()))?;
    if list.is_empty() {
        bail!("there is no certificate in `{}`", path.display());
    }
    Ok(list)
}
