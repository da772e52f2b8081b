//! Debian's docker-registry, on a port and in a directory of a test's own; and a server of tokens for it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::json;

use crate::http::{Reply, Request, Server};

/// The registry.
pub const DOCKER_REGISTRY: &str = "/usr/bin/docker-registry";
/// Who may log in.
pub const USER: &str = "me";
/// With which password.
pub const PASSWORD: &str = "hunter2";
/// bcrypt of [`PASSWORD`].
const PASSWORD_HASH: &str = "$2b$04$/ZKJN9Wg55JM99eOWuEIVudWMnx0grR/VASqrsBx60.3c7EH7NMuW";
/// What a login at the token server gives.
pub const IDENTITY: &str = "an-identity-token";
/// The token server's name and the registry's, in tokens.
const ISSUER: &str = "sampan-test";
const SERVICE: &str = "sampan-test-registry";

/// Why there can be no registry here, if that is so.
pub fn missing() -> Option<&'static str> {
    (!Path::new(DOCKER_REGISTRY).exists()).then_some("no /usr/bin/docker-registry (package docker-registry)")
}

/// A registry; it ends when it is dropped.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    authority: String,
    directory: tempfile::TempDir,
}

/// How it is to be.
#[derive(Debug, Default)]
pub struct Setup {
    /// It knows [`USER`] and [`PASSWORD`], and nobody else.
    pub password: bool,
    /// It speaks TLS.
    pub tls: Option<Tls>,
    /// It wants tokens from there: see [`TokenServer`].
    pub tokens: Option<(String, PathBuf)>,
}

/// Certificates in files: an authority, a server's for 127.0.0.1 and localhost, and a client's.
#[derive(Debug, Clone)]
pub struct Tls {
    /// The authority's certificate.
    pub authority: PathBuf,
    /// The server's certificate.
    pub certificate: PathBuf,
    /// The server's key.
    pub key: PathBuf,
    /// A client's certificate.
    pub client_certificate: PathBuf,
    /// The client's key.
    pub client_key: PathBuf,
    /// Whether the server asks clients for theirs.
    pub clients: bool,
}

/// A port that nobody listens on now.
///
/// # Panics
/// If there is none.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Tls {
    /// The flags by which a daemon takes only clients of the authority's.
    pub fn server_flags(&self) -> Vec<String> {
        tls_flags([&self.authority, &self.certificate, &self.key])
    }

    /// The flags by which a client shows its certificate, and wants the server's.
    pub fn client_flags(&self) -> Vec<String> {
        tls_flags([&self.authority, &self.client_certificate, &self.client_key])
    }

    /// New certificates in `directory`.
    ///
    /// # Panics
    /// If they can't be made.
    pub fn new(directory: &Path) -> Tls {
        use rcgen::{
            BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
        };
        std::fs::create_dir_all(directory).unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "sampan test authority");
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let write = |name: &str, text: String| {
            let path = directory.join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let leaf = |name: &str, names: &[&str], usage: ExtendedKeyUsagePurpose| {
            let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
            let mut params = CertificateParams::new(names).unwrap();
            params.extended_key_usages = vec![usage];
            let key = KeyPair::generate().unwrap();
            let certificate = params.signed_by(&key, &authority).unwrap();
            (
                write(&format!("{name}.cert"), certificate.pem()),
                write(&format!("{name}.key"), key.serialize_pem()),
            )
        };
        let (certificate, key) =
            leaf("server", &["127.0.0.1", "localhost"], ExtendedKeyUsagePurpose::ServerAuth);
        let (client_certificate, client_key) =
            leaf("client", &["client"], ExtendedKeyUsagePurpose::ClientAuth);
        let authority = write("ca.crt", authority.pem());
        Tls { authority, certificate, key, client_certificate, client_key, clients: false }
    }
}

impl Default for Registry {
    fn default() -> Self {
        Registry::new(Setup::default())
    }
}

impl Registry {
    /// Starts a registry.
    ///
    /// # Panics
    /// If it does not start.
    pub fn new(setup: Setup) -> Registry {
        let directory = tempfile::Builder::new().prefix("sampan-registry-").tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let mut http = json!({"addr": "127.0.0.1:0"});
        if let Some(tls) = &setup.tls {
            http["tls"] = json!({"certificate": tls.certificate, "key": tls.key});
            if tls.clients {
                http["tls"]["clientcas"] = json!([tls.authority]);
            }
        }
        let mut config = json!({
            "version": "0.1",
            "log": {"level": "info", "formatter": "text", "accesslog": {"disabled": true}},
            "storage": {"filesystem": {"rootdirectory": at("data")}, "delete": {"enabled": true}},
            "http": http,
        });
        if setup.password {
            std::fs::write(at("htpasswd"), format!("{USER}:{PASSWORD_HASH}\n")).unwrap();
            config["auth"] = json!({"htpasswd": {"realm": "test", "path": at("htpasswd")}});
        }
        if let Some((realm, certificate)) = &setup.tokens {
            config["auth"] = json!({"token": {
                "realm": realm, "service": SERVICE, "issuer": ISSUER, "rootcertbundle": certificate,
            }});
        }
        // JSON is YAML.
        std::fs::write(at("config.yml"), config.to_string()).unwrap();
        let mut command = std::process::Command::new(DOCKER_REGISTRY);
        command.arg("serve").arg(at("config.yml")).env("OTEL_TRACES_EXPORTER", "none");
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        let authority = loop {
            let mut line = String::new();
            assert!(log.read_line(&mut line).unwrap() > 0, "docker-registry ended:\n{said}");
            said += &line;
            if let Some((_, rest)) = line.split_once("listening on ") {
                break rest.split(['"', ',', ' ']).next().unwrap_or_default().trim().to_owned();
            }
        };
        // Its log must be read, or it waits.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Registry { child, authority, directory }
    }

    /// `127.0.0.1:port`
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Where it keeps its things.
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server of tokens: anonymous clients may pull, [`USER`] may push, [`IDENTITY`] is as good as the password.
#[derive(Debug)]
pub struct TokenServer {
    server: Server,
    certificate: PathBuf,
    life: Arc<AtomicU64>,
}

impl TokenServer {
    /// A server whose certificate is written to `directory`.
    ///
    /// # Panics
    /// If it can't be made.
    pub fn new(directory: &Path) -> TokenServer {
        std::fs::create_dir_all(directory).unwrap();
        let made = rcgen::generate_simple_self_signed(vec!["tokens".to_owned()]).unwrap();
        let certificate = directory.join("tokens.crt");
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        let (der, key) = (made.cert.der().to_vec(), made.signing_key.serialize_der());
        let life = Arc::new(AtomicU64::new(300));
        let lives = Arc::clone(&life);
        let server = Server::new(move |request| answer(request, &der, &key, lives.load(Ordering::SeqCst)));
        TokenServer { server, certificate, life }
    }

    /// What a registry must know of it.
    pub fn setup(&self) -> (String, PathBuf) {
        (format!("http://{}/token", self.server.authority()), self.certificate.clone())
    }

    /// How long the next tokens live, in seconds, as the server says; really they live longer.
    pub fn set_life(&self, seconds: u64) {
        self.life.store(seconds, Ordering::SeqCst);
    }

    /// The requests so far.
    pub fn seen(&self) -> Vec<Request> {
        self.server.seen()
    }
}

fn answer(request: &Request, certificate: &[u8], key: &[u8], life: u64) -> Reply {
    let basic = request.header("authorization").and_then(|h| h.strip_prefix("Basic "));
    let known = match basic {
        Some(text) => text == STANDARD.encode(format!("{USER}:{PASSWORD}")),
        None => request.parameters("refresh_token") == [IDENTITY],
    };
    let claims = basic.is_some() || request.method == "POST";
    if claims && !known {
        return Reply {
            status: 401,
            ..Reply::body(r#"{"errors":[{"code":"UNAUTHORIZED","message":"who?"}]}"#)
        };
    }
    let mut access = Vec::new();
    let scopes = request.parameters("scope");
    for scope in scopes.iter().flat_map(|s| s.split(' ')) {
        let mut parts = scope.splitn(2, ':');
        let (Some(kind), Some(rest)) = (parts.next(), parts.next()) else { continue };
        let Some((name, actions)) = rest.rsplit_once(':') else { continue };
        let given: Vec<&str> = actions.split(',').filter(|a| known || *a == "pull").collect();
        access.push(json!({"type": kind, "name": name, "actions": given}));
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let header = json!({"typ": "JWT", "alg": "ES256", "x5c": [STANDARD.encode(certificate)]});
    let claims = json!({
        "iss": ISSUER, "sub": if known { USER } else { "" }, "aud": SERVICE, "exp": now + 3600, "nbf": now - 60,
        "iat": now - 60, "jti": "1", "access": access,
    });
    let text = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header.to_string()),
        URL_SAFE_NO_PAD.encode(claims.to_string())
    );
    let random = SystemRandom::new();
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key, &random).unwrap();
    let signature = pair.sign(&random, text.as_bytes()).unwrap();
    let token = format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature));
    let mut body = json!({"token": token, "expires_in": life});
    if request.parameters("offline_token") == ["true"] && known {
        body["refresh_token"] = json!(IDENTITY);
    }
    Reply::body(body.to_string())
}

fn tls_flags([authority, certificate, key]: [&Path; 3]) -> Vec<String> {
    let named = [("--tlscacert", authority), ("--tlscert", certificate), ("--tlskey", key)];
    let named = named.into_iter().flat_map(|(flag, path)| [flag.to_owned(), path.display().to_string()]);
    ["--tlsverify".to_owned()].into_iter().chain(named).collect()
}
