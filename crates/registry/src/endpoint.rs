//! Where a registry is and how it is spoken to: mirrors, plain HTTP, certificates.
//!
//! Certificates lie as Docker has them, in `<directory>/<host[:port]>/`: `*.crt` are authorities that this registry's
//! certificate may come from, beside the host's; `*.cert` with a `*.key` of the same name shows who we are.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use sampan_base::files::read_limited;
use ureq::Agent;
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};

use crate::error::Cause;
use crate::limits;

/// Where Docker's registry is: its name is not its host's.
const DOCKER_HUB: &str = "docker.io";
const DOCKER_HUB_HOST: &str = "registry-1.docker.io";

/// What a host's configuration says about registries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegistryConfig {
    /// For a registry (`docker.io`), where its content may be pulled from, in order, before itself: `host[:port]`, or a
    /// URL, whose scheme then holds.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Registries that are spoken to without a certificate that is checked, or in plain HTTP: `host`, `host:port`.
    /// Those on the loopback addresses always are, as with Docker.
    pub insecure: Vec<String>,
    /// Directories of certificates, Docker's layout; the first that has one for the registry is taken.
    pub certificates: Vec<PathBuf>,
    /// How long a connection may be silent in the middle of a body; [`limits::STALL_TIMEOUT`] if it is not said.
    pub stall_timeout: Option<Duration>,
}

/// One address of a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// `host` or `host:port`.
    pub(crate) authority: String,
    /// The schemes to try, in order.
    pub(crate) schemes: Vec<Scheme>,
    /// Whether its certificate is checked.
    pub(crate) verify: bool,
    /// Whether it stands in for another registry: nothing is pushed to it, and no credentials go there.
    pub(crate) mirror: bool,
}

/// HTTP with or without TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// With.
    Https,
    /// Without.
    Http,
}

impl Scheme {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Scheme::Https => "https",
            Scheme::Http => "http",
        }
    }
}

impl RegistryConfig {
    /// The addresses of a registry, mirrors first.
    ///
    /// # Errors
    /// If a mirror is written in a way that means nothing.
    pub(crate) fn endpoints(&self, registry: &str) -> Result<Vec<Endpoint>, Cause> {
        let mut endpoints = Vec::new();
        for mirror in self.mirrors.get(registry).into_iter().flatten() {
            endpoints.push(self.mirror(mirror)?);
        }
        endpoints.push(self.own(registry));
        Ok(endpoints)
    }

    /// The registry's own address.
    pub(crate) fn own(&self, registry: &str) -> Endpoint {
        let authority = if registry == DOCKER_HUB { DOCKER_HUB_HOST } else { registry };
        let insecure = self.is_insecure(authority);
        let schemes = if insecure { vec![Scheme::Https, Scheme::Http] } else { vec![Scheme::Https] };
        Endpoint { authority: authority.to_owned(), schemes, verify: !insecure, mirror: false }
    }

    fn mirror(&self, text: &str) -> Result<Endpoint, Cause> {
        let (scheme, rest) = match text.split_once("://") {
            Some(("https", rest)) => (Some(Scheme::Https), rest),
            Some(("http", rest)) => (Some(Scheme::Http), rest),
            Some(_) => return Err(Cause::Config { what: format!("`{text}` is not a mirror's address") }),
            None => (None, text),
        };
        let authority = rest.trim_end_matches('/');
        let parsed: Option<http::uri::Authority> = authority.parse().ok();
        if authority.contains('@') || parsed.is_none_or(|a| a.host().is_empty()) {
            return Err(Cause::Config { what: format!("`{text}` is not a mirror's address") });
        }
        let mut endpoint = Endpoint { mirror: true, ..self.own(authority) };
        if let Some(scheme) = scheme {
            endpoint.schemes = vec![scheme];
        }
        Ok(endpoint)
    }

    /// Whether plain HTTP, or a certificate that nobody vouches for, will do.
    fn is_insecure(&self, authority: &str) -> bool {
        let host = host_of(authority);
        let listed = |entry: &String| {
            let entry = entry.trim_start_matches("http://").trim_start_matches("https://");
            entry == authority || entry == host
        };
        is_loopback(host) || self.insecure.iter().any(listed)
    }

    /// An HTTP client for this endpoint, with its certificates.
    ///
    /// # Errors
    /// If certificates can't be read, or there are none to check a server's with.
    pub(crate) fn agent(&self, endpoint: &Endpoint, scheme: Scheme) -> Result<Agent, Cause> {
        let tls = match scheme {
            Scheme::Https => Some(self.tls(endpoint)?),
            Scheme::Http => None,
        };
        let stall = self.stall_timeout.unwrap_or(limits::STALL_TIMEOUT);
        Ok(agent(tls, is_loopback(host_of(&endpoint.authority)), stall))
    }

    fn tls(&self, endpoint: &Endpoint) -> Result<TlsConfig, Cause> {
        let mut own = Own::default();
        for directory in &self.certificates {
            // The authority is a host and port that parsed as such: no separator, no `..` alone.
            let directory = directory.join(&endpoint.authority);
            if directory.is_dir() {
                own = Own::read(&directory)?;
                break;
            }
        }
        let builder = TlsConfig::builder()
            .unversioned_rustls_crypto_provider(provider())
            .client_cert(own.client)
            .disable_verification(!endpoint.verify && own.authorities.is_empty());
        let roots = if endpoint.verify || !own.authorities.is_empty() {
            let mut roots = if endpoint.verify { host_roots().to_vec() } else { Vec::new() };
            roots.extend(own.authorities);
            if roots.is_empty() {
                let what = "this host has no certificates of authorities (package ca-certificates)";
                return Err(Cause::Config { what: what.to_owned() });
            }
            roots
        } else {
            Vec::new()
        };
        Ok(builder.root_certs(RootCerts::new_with_certs(&roots)).build())
    }
}

/// A client for any host that the world knows, without credentials.
pub(crate) fn public_agent(uri: &http::Uri) -> Agent {
    let tls = (uri.scheme_str() == Some("https")).then(|| {
        TlsConfig::builder()
            .unversioned_rustls_crypto_provider(provider())
            .root_certs(RootCerts::new_with_certs(host_roots()))
            .build()
    });
    agent(tls, uri.host().is_some_and(is_loopback), limits::STALL_TIMEOUT)
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    static PROVIDER: OnceLock<Arc<rustls::crypto::CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(rustls::crypto::ring::default_provider())))
}

/// The authorities that this host trusts; read once, as they are many.
fn host_roots() -> &'static [Certificate<'static>] {
    static ROOTS: OnceLock<Vec<Certificate<'static>>> = OnceLock::new();
    ROOTS.get_or_init(|| {
        let found = rustls_native_certs::load_native_certs();
        found.certs.iter().map(|der| Certificate::from_der(der).to_owned()).collect()
    })
}

/// What all our HTTP clients have in common. Redirects, statuses and retries are ours to decide, not the library's.
fn agent(tls: Option<TlsConfig>, loopback: bool, stall: Duration) -> Agent {
    let mut builder = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .max_response_header_size(limits::MAX_HEADER_BYTES)
        .max_idle_connections(8)
        .max_idle_connections_per_host(8)
        .accept_encoding("identity")
        .user_agent(concat!("sampan/", env!("CARGO_PKG_VERSION")))
        .timeout_resolve(Some(limits::RESOLVE_TIMEOUT))
        .timeout_connect(Some(limits::CONNECT_TIMEOUT))
        .timeout_recv_response(Some(limits::ANSWER_TIMEOUT))
        .timeout_per_read(Some(stall))
        .timeout_per_write(Some(stall));
    if let Some(tls) = tls {
        builder = builder.tls_config(tls);
    }
    if loopback {
        // A proxy of the environment could not reach what is on this host.
        builder = builder.proxy(None);
    }
    builder.build().into()
}

/// What a registry's own directory of certificates holds.
#[derive(Default)]
struct Own {
    authorities: Vec<Certificate<'static>>,
    client: Option<ClientCert>,
}

impl Own {
    fn read(directory: &Path) -> Result<Own, Cause> {
        let unreadable = |error: &dyn std::error::Error| Cause::Config {
            what: format!("cannot read the certificates in `{}`: {error}", directory.display()),
        };
        let listed = std::fs::read_dir(directory).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let mut paths: Vec<PathBuf> =
            listed.map_err(|e| unreadable(&e))?.into_iter().map(|e| e.path()).collect();
        paths.sort();
        let mut own = Own::default();
        for path in paths {
            match path.extension().and_then(|e| e.to_str()) {
                Some("crt") => own.authorities.extend(certificates(&path)?),
                Some("cert") => {
                    let key = path.with_extension("key");
                    let key = private_key(&key)?;
                    own.client = Some(ClientCert::new_with_certs(&certificates(&path)?, key));
                }
                Some("key") if !path.with_extension("cert").exists() => {
                    let what = format!("`{}` has no `.cert` file beside it", path.display());
                    return Err(Cause::Config { what });
                }
                _ => {}
            }
        }
        Ok(own)
    }
}

fn pem_items(path: &Path) -> Result<Vec<PemItem<'static>>, Cause> {
    let unreadable = |why: String| Cause::Config { what: format!("cannot read `{}`: {why}", path.display()) };
    let bytes = read_limited(path, limits::MAX_PEM_BYTES).map_err(|e| unreadable(e.source.to_string()))?;
    // The library's error for a broken file does not repeat what is in it.
    parse_pem(&bytes).collect::<Result<_, _>>().map_err(|e| unreadable(e.to_string()))
}

fn certificates(path: &Path) -> Result<Vec<Certificate<'static>>, Cause> {
    let only = |item| match item {
        PemItem::Certificate(certificate) => Some(certificate),
        _ => None,
    };
    let found: Vec<_> = pem_items(path)?.into_iter().filter_map(only).collect();
    if found.is_empty() {
        return Err(Cause::Config { what: format!("there is no certificate in `{}`", path.display()) });
    }
    Ok(found)
}

fn private_key(path: &Path) -> Result<PrivateKey<'static>, Cause> {
    let only = |item| match item {
        PemItem::PrivateKey(key) => Some(key),
        _ => None,
    };
    let found = pem_items(path)?.into_iter().find_map(only);
    found.ok_or_else(|| Cause::Config { what: format!("there is no private key in `{}`", path.display()) })
}

/// The host of `host:port`, `[::1]:port`, without the brackets.
pub(crate) fn host_of(authority: &str) -> &str {
    if let Some(rest) = authority.strip_prefix('[') {
        return rest.split_once(']').map_or(rest, |(host, _)| host);
    }
    authority.rsplit_once(':').map_or(authority, |(host, _)| host)
}

fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|a| a.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(config: &RegistryConfig, registry: &str, expected: &str) {
        let shown = config.endpoints(registry).map(|all| {
            let one = |e: &Endpoint| {
                let schemes: Vec<_> = e.schemes.iter().map(|s| s.as_str()).collect();
                let verify = if e.verify { "" } else { " unchecked" };
                format!(
                    "{}{} {}{verify}",
                    if e.mirror { "mirror " } else { "" },
                    e.authority,
                    schemes.join("|")
                )
            };
            all.iter().map(one).collect::<Vec<_>>().join(", ")
        });
        assert_eq!(shown.unwrap_or_else(|e| e.to_string()), expected, "{registry}");
    }

    #[test]
    fn addresses_are_what_the_configuration_says() {
        let mirrors = BTreeMap::from([
            ("docker.io".to_owned(), vec!["mirror.example".to_owned(), "http://10.0.0.1:5000/".to_owned()]),
            ("bad.example".to_owned(), vec!["ftp://x".to_owned()]),
            ("worse.example".to_owned(), vec!["me:secret@x".to_owned()]),
        ]);
        let insecure = vec!["plain.example:5000".to_owned(), "lax.example".to_owned()];
        let config = RegistryConfig { mirrors, insecure, ..RegistryConfig::default() };
        check(
            &config,
            "docker.io",
            "mirror mirror.example https, mirror 10.0.0.1:5000 http, registry-1.docker.io https",
        );
        check(&config, "quay.example", "quay.example https");
        check(&config, "plain.example:5000", "plain.example:5000 https|http unchecked");
        check(&config, "plain.example", "plain.example https");
        check(&config, "lax.example:1", "lax.example:1 https|http unchecked");
        check(&config, "127.0.0.1:5000", "127.0.0.1:5000 https|http unchecked");
        check(&config, "[::1]:5000", "[::1]:5000 https|http unchecked");
        check(&config, "localhost", "localhost https|http unchecked");
        check(&config, "bad.example", "`ftp://x` is not a mirror's address");
        check(&config, "worse.example", "`me:secret@x` is not a mirror's address");
    }
}
