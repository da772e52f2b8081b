//! Docker's `config.json`: which credentials belong to which registry.
//!
//! They are in the file itself (`auths`, in base64, which hides nothing), or with a helper program
//! (`docker-credential-<name>`): `credHelpers` names one for a registry, `credsStore` one for all. Everything else in
//! the file is other tools' and stays as it is. The file is written whole, for its owner only.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sampan_base::{FileError, files};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::error::clean;
use crate::limits::{MAX_DOCKER_CONFIG_BYTES, MAX_HELPER_BYTES};
use crate::secret::{Credentials, Secret};

/// The key of Docker's own registry, since before there was a second version of the protocol.
pub const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";
/// A user's name that says that the secret is an identity token.
const TOKEN_USER: &str = "<token>";
/// What helpers print if they have nothing.
const NOT_FOUND: &str = "credentials not found in native keychain";

/// The file, as it was read.
#[derive(Clone, Debug)]
pub struct DockerConfig {
    path: PathBuf,
    content: Map<String, Value>,
}

/// Why credentials can't be read or kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DockerConfigError {
    /// The file can't be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file is not what Docker writes.
    #[error("`{}` is not Docker's config.json: {why}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A helper can't be used.
    #[error("the credential helper `{program}` cannot {verb}: {why}")]
    Helper {
        /// `docker-credential-…`.
        program: String,
        /// `get`, `store`, `erase`.
        verb: &'static str,
        /// What it said.
        why: String,
    },
}

/// Where Docker's file is: `$DOCKER_CONFIG/config.json`, else `~/.docker/config.json`.
pub fn default_path() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let directory = set("DOCKER_CONFIG").or_else(|| set("HOME").map(|h| h.join(".docker")))?;
    Some(directory.join("config.json"))
}

/// The file's key of a registry: its name, but for Docker's own.
pub fn key_of(registry: &str) -> &str {
    if registry == "docker.io" { DOCKER_HUB_KEY } else { registry }
}

#[derive(Serialize, Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct HelperEntry {
    #[serde(rename = "ServerURL", skip_serializing_if = "String::is_empty")]
    server_url: String,
    username: String,
    secret: String,
}

impl DockerConfig {
    /// Reads the file; one that is not there is empty.
    ///
    /// # Errors
    /// If it can't be read, or is not JSON.
    pub fn read(path: &Path) -> Result<DockerConfig, DockerConfigError> {
        let bytes = match files::read_limited(path, MAX_DOCKER_CONFIG_BYTES) {
            Ok(bytes) => bytes,
            Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        let empty = bytes.iter().all(u8::is_ascii_whitespace);
        let content = if empty { Ok(Map::new()) } else { serde_json::from_slice(&bytes) };
        let content = content.map_err(|e| DockerConfigError::Damaged {
            path: path.to_owned(),
            // Only the place: the error could repeat what is there.
            why: format!("it can't be read at line {}, column {}", e.line(), e.column()),
        })?;
        Ok(DockerConfig { path: path.to_owned(), content })
    }

    /// The credentials for a registry (`docker.io`, `127.0.0.1:5000`).
    ///
    /// # Errors
    /// If a helper fails.
    pub fn credentials(&self, registry: &str) -> Result<Credentials, DockerConfigError> {
        let key = key_of(registry);
        if let Some(helper) = self.helper(registry) {
            let found = run_helper(&helper, "get", key)?;
            return Ok(match found {
                None => Credentials::Anonymous,
                Some(text) => from_helper(&helper, &text)?,
            });
        }
        Ok(self.entry(registry).map(from_entry).unwrap_or_default())
    }

    /// The registries that it knows credentials for, or a helper of their own.
    pub fn registries(&self) -> Vec<String> {
        let keys = ["auths", "credHelpers"].iter().filter_map(|map| self.content.get(*map)?.as_object());
        let mut all: Vec<String> = keys
            .flat_map(Map::keys)
            .map(|key| match key.as_str() {
                DOCKER_HUB_KEY => "docker.io".to_owned(),
                key => key.split("://").last().unwrap_or(key).split('/').next().unwrap_or(key).to_owned(),
            })
            .collect();
        all.sort();
        all.dedup();
        all
    }

    /// Keeps the credentials for a registry; answers the helper that has them now, if one has.
    ///
    /// # Errors
    /// If the helper fails or the file can't be written.
    pub fn store(
        &mut self,
        registry: &str,
        credentials: &Credentials,
    ) -> Result<Option<String>, DockerConfigError> {
        let key = key_of(registry);
        let (user, secret, identity) = match credentials {
            Credentials::Password { user, password } => (user.clone(), password.clone(), false),
            Credentials::Identity(token) => (TOKEN_USER.to_owned(), token.clone(), true),
            Credentials::Anonymous | Credentials::Bearer(_) => return Ok(None),
        };
        if let Some(helper) = self.helper(registry) {
            let entry = HelperEntry {
                server_url: key.to_owned(),
                username: user,
                secret: secret.expose().to_owned(),
            };
            let text = serde_json::to_string(&entry).unwrap_or_default();
            run_helper(&helper, "store", &text)?;
            // As Docker: the file says that there is a login, without it.
            self.auths().insert(key.to_owned(), json!({}));
            self.write()?;
            return Ok(Some(helper));
        }
        let entry = if identity {
            json!({"auth": STANDARD.encode(format!("{TOKEN_USER}:")), "identitytoken": secret.expose()})
        } else {
            json!({"auth": STANDARD.encode(format!("{user}:{}", secret.expose()))})
        };
        self.auths().insert(key.to_owned(), entry);
        self.write()?;
        Ok(None)
    }

    /// Forgets the credentials for a registry; answers whether there were any.
    ///
    /// # Errors
    /// If the helper fails or the file can't be written.
    pub fn erase(&mut self, registry: &str) -> Result<bool, DockerConfigError> {
        let key = key_of(registry).to_owned();
        let mut there = false;
        if let Some(helper) = self.helper(registry) {
            there = run_helper(&helper, "get", &key)?.is_some();
            run_helper(&helper, "erase", &key)?;
        }
        let names: Vec<String> =
            self.auths().keys().filter(|k| **k == key || host_of_key(k) == registry).cloned().collect();
        for name in &names {
            self.auths().remove(name);
        }
        if !names.is_empty() {
            self.write()?;
        }
        Ok(there || !names.is_empty())
    }

    fn entry(&self, registry: &str) -> Option<&Value> {
        let auths = self.content.get("auths")?.as_object()?;
        let by_host = || auths.iter().find(|(k, _)| host_of_key(k) == registry).map(|(_, v)| v);
        auths.get(key_of(registry)).or_else(by_host)
    }

    fn auths(&mut self) -> &mut Map<String, Value> {
        let auths = self.content.entry("auths").or_insert_with(|| Value::Object(Map::new()));
        if !auths.is_object() {
            *auths = Value::Object(Map::new());
        }
        match auths {
            Value::Object(map) => map,
            // Made one above.
            _ => unreachable!("`auths` is an object"),
        }
    }

    fn helper(&self, registry: &str) -> Option<String> {
        let own =
            self.content.get("credHelpers").and_then(|h| h.get(key_of(registry)).or_else(|| h.get(registry)));
        let name = own.or_else(|| self.content.get("credsStore"))?.as_str()?;
        (!name.is_empty()).then(|| name.to_owned())
    }

    fn write(&self) -> Result<(), DockerConfigError> {
        if let Some(directory) = self.path.parent() {
            files::create_directories(directory, 0o700)?;
        }
        // A link is followed, as Docker does: people keep the file elsewhere.
        let path = std::fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let mut text = Vec::new();
        let formatter = serde_json::ser::PrettyFormatter::with_indent(b"\t");
        let mut serializer = serde_json::Serializer::with_formatter(&mut text, formatter);
        self.content
            .serialize(&mut serializer)
            .map_err(|e| DockerConfigError::Damaged { path: path.clone(), why: e.to_string() })?;
        Ok(files::write_atomic(&path, &text, 0o600)?)
    }
}

/// `https://r.example/v2/` and `r.example` are one registry.
fn host_of_key(key: &str) -> &str {
    let rest = key.trim_start_matches("https://").trim_start_matches("http://");
    match rest.split('/').next().unwrap_or_default() {
        "index.docker.io" => "docker.io",
        host => host,
    }
}

fn from_entry(entry: &Value) -> Credentials {
    let text = |name: &str| entry.get(name).and_then(Value::as_str).filter(|t| !t.is_empty());
    if let Some(token) = text("identitytoken") {
        return Credentials::Identity(Secret::new(token));
    }
    if let Some(token) = text("registrytoken") {
        return Credentials::Bearer(Secret::new(token));
    }
    let decoded = text("auth").and_then(|a| STANDARD.decode(a).ok()).and_then(|b| String::from_utf8(b).ok());
    if let Some((user, password)) = decoded.as_deref().and_then(|d| d.split_once(':')) {
        return Credentials::password(user, password.trim_end_matches('\0'));
    }
    Credentials::password(text("username").unwrap_or_default(), text("password").unwrap_or_default())
}

fn from_helper(helper: &str, text: &[u8]) -> Result<Credentials, DockerConfigError> {
    let entry: HelperEntry = serde_json::from_slice(text).map_err(|_| DockerConfigError::Helper {
        program: program(helper),
        verb: "get",
        why: "its answer can't be read".to_owned(),
    })?;
    if entry.username == TOKEN_USER {
        return Ok(Credentials::Identity(Secret::new(entry.secret)));
    }
    Ok(Credentials::password(&entry.username, &entry.secret))
}

fn program(helper: &str) -> String {
    format!("docker-credential-{helper}")
}

/// Runs a helper; `None` if it has no credentials.
fn run_helper(helper: &str, verb: &'static str, input: &str) -> Result<Option<Vec<u8>>, DockerConfigError> {
    let program = program(helper);
    let failed = |why: String| DockerConfigError::Helper { program: program.clone(), verb, why };
    // A name, not a path: it is looked for where programs are.
    if !helper.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
        return Err(failed("its name is not one".to_owned()));
    }
    let mut child = Command::new(&program)
        .arg(verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| failed(e.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that ends without reading says why by its status.
        let _ = stdin.write_all(input.as_bytes());
    }
    let mut output = Vec::new();
    let read = child.stdout.take().map(|out| out.take(MAX_HELPER_BYTES).read_to_end(&mut output));
    let status = child.wait().map_err(|e| failed(e.to_string()))?;
    if let Some(Err(error)) = read {
        return Err(failed(error.to_string()));
    }
    if status.success() {
        return Ok(Some(output));
    }
    let said = clean(&String::from_utf8_lossy(&output));
    // Its words, but only where they can't be the secret.
    match verb {
        "get" | "erase" if said.contains(NOT_FOUND) => Ok(None),
        "get" if said.starts_with('{') => Err(failed(format!("it ended with {status}"))),
        _ => Err(failed(if said.is_empty() { format!("it ended with {status}") } else { said })),
    }
}
