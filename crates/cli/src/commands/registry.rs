//! The commands that reach registries: pull, push, login, logout, tags, referrers.
//!
//! The daemon speaks to the registry; who the user is comes from Docker's config.json here and goes along with each
//! request.

use std::io::{BufRead, IsTerminal, Read, Write, stderr, stdin};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use clap::Args;
use http::{Method, StatusCode};
use sampan_base::ImageRef;
use sampan_docker_api::system::{AuthAnswer, AuthRequest};
use sampan_docker_api::units::human_size;
use sampan_registry::docker_config::{DockerConfig, default_path};
use sampan_registry::{Credentials, Secret};
use serde_json::Value;

use super::transfer::Transfer;
use super::{say, show_progress, tell};
use crate::client::{Client, DaemonError, encode, full, query};
use crate::table;
use crate::terminal;

/// The longest password that is read from standard input.
const MAX_PASSWORD_BYTES: u64 = 64 << 10;

/// `sampan pull`
#[derive(Args)]
pub(crate) struct Pull {
    /// Pull all tags of the repository
    #[arg(short, long)]
    all_tags: bool,
    /// Pull for another machine: os/architecture[/variant]
    #[arg(long, default_value = "", hide_default_value = true, value_name = "PLATFORM")]
    platform: String,
    /// Print only the image's name
    #[arg(short, long)]
    quiet: bool,
    /// NAME[:TAG] or NAME@DIGEST
    #[arg(value_name = "IMAGE")]
    image: String,
}

pub(crate) async fn pull(client: &Client, command: Pull) -> Result<ExitCode> {
    let name = parse(&command.image)?;
    if command.all_tags && has_tag(&command.image) {
        bail!("`--all-tags` pulls all tags: leave the tag out of `{}`", command.image);
    }
    let tag = if command.all_tags { "" } else { "latest" };
    let image = if has_tag(&command.image) { command.image.clone() } else { name.familiar_repository() };
    let tag = if has_tag(&command.image) { "" } else { tag };
    let shown = if command.all_tags { name.familiar_repository() } else { name.canonical() };
    if !command.quiet && !command.all_tags && !has_tag(&command.image) {
        say("Using default tag: latest")?;
    }
    pull_image(client, &image, tag, &command.platform, Transfer::new(command.quiet)).await?;
    say(shown)?;
    Ok(ExitCode::SUCCESS)
}

/// Pulls an image that is missing, for `run` and `create`; what happens is told beside their output.
pub(crate) async fn pull_missing(client: &Client, image: &str, platform: &str, quiet: bool) -> Result<()> {
    if !quiet {
        tell(format_args!("Unable to find image '{}' locally", parse(image)?.familiar()));
    }
    pull_image_for_run(client, image, platform, quiet).await
}

/// Pulls an image for `run` and `create`.
pub(crate) async fn pull_image_for_run(
    client: &Client,
    image: &str,
    platform: &str,
    quiet: bool,
) -> Result<()> {
    let tag = if has_tag(image) { "" } else { "latest" };
    let shown = if quiet { Transfer::Quiet } else { Transfer::beside_output() };
    pull_image(client, image, tag, platform, shown).await
}

async fn pull_image(
    client: &Client,
    image: &str,
    tag: &str,
    platform: &str,
    mut shown: Transfer,
) -> Result<()> {
    let path =
        format!("/images/create{}", query(&[("fromImage", image), ("tag", tag), ("platform", platform)]));
    let auth = auth_header(parse(image)?.registry())?;
    let answer = client.request_as(Method::POST, &path, full(""), &auth).await?;
    show_progress(answer, |line| shown.line(line)).await
}

/// `sampan push`
#[derive(Args)]
pub(crate) struct Push {
    /// Push all tags of the repository
    #[arg(short, long)]
    all_tags: bool,
    /// Print only the image's name
    #[arg(short, long)]
    quiet: bool,
    /// Push these images, each for another platform, and an index of them under the name
    #[arg(long, value_name = "IMAGE", conflicts_with = "all_tags")]
    index: Vec<String>,
    /// NAME[:TAG]
    #[arg(value_name = "IMAGE")]
    image: String,
}

pub(crate) async fn push(client: &Client, command: Push) -> Result<ExitCode> {
    let name = parse(&command.image)?;
    if name.digest().is_some() {
        bail!("`{}` names an image by its digest: push it by a tag", command.image);
    }
    if command.all_tags && has_tag(&command.image) {
        bail!("`--all-tags` pushes all tags: leave the tag out of `{}`", command.image);
    }
    let tag = if command.all_tags { "" } else { name.tag().unwrap_or("latest") };
    push_name(client, &name, tag, &command.index, command.quiet).await?;
    if command.quiet {
        say(if command.all_tags { name.familiar_repository() } else { name.canonical() })?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Pushes what a name stands for: a build's result.
pub(crate) async fn push_image(client: &Client, name: &str, quiet: bool) -> Result<()> {
    let name = parse(name)?;
    push_name(client, &name, name.tag().unwrap_or("latest"), &[], quiet).await
}

async fn push_name(client: &Client, name: &ImageRef, tag: &str, index: &[String], quiet: bool) -> Result<()> {
    let repository = name.familiar_repository();
    let mut path = format!("/images/{}/push{}", encode(&repository), query(&[("tag", tag)]));
    for image in index {
        path += &format!("&index={}", encode(image));
    }
    let auth = auth_header(name.registry())?;
    let answer = client.request_as(Method::POST, &path, full(""), &auth).await?;
    let mut shown = Transfer::new(quiet);
    show_progress(answer, |line| shown.line(line)).await
}

/// `sampan login`
#[derive(Args)]
pub(crate) struct Login {
    /// User name
    #[arg(short, long, default_value = "", hide_default_value = true)]
    username: String,
    /// Password; seen by everybody who lists processes
    #[arg(short, long, default_value = "", hide_default_value = true, conflicts_with = "password_stdin")]
    password: String,
    /// Read the password from standard input
    #[arg(long, requires = "username")]
    password_stdin: bool,
    /// The registry [default: docker.io]
    #[arg(default_value = "docker.io", hide_default_value = true, value_name = "REGISTRY")]
    registry: String,
}

pub(crate) async fn login(client: &Client, command: Login) -> Result<ExitCode> {
    let registry = registry_of(&command.registry)?;
    let mut config = read_config()?;
    // What is kept already may still be good.
    if command.username.is_empty() && command.password.is_empty() {
        let kept = config.credentials(&registry)?;
        if kept != Credentials::Anonymous {
            tell("Authenticating with existing credentials...");
            match authenticate(client, &registry, &kept).await {
                Ok(_) => return login_succeeded(),
                Err(error) if error.downcast_ref::<DaemonError>().is_some_and(is_denied) => {
                    tell("They are not good any more.");
                }
                Err(error) => return Err(error),
            }
        }
    }
    if !command.password.is_empty() {
        tell("WARNING: a password on the command line is seen by everybody: use --password-stdin");
    }
    let credentials = ask_for_credentials(&command)?;
    let identity = authenticate(client, &registry, &credentials).await?;
    let kept = identity.map_or(credentials, Credentials::Identity);
    let helper = config.store(&registry, &kept).context("the login is good, but can't be kept")?;
    if helper.is_none() {
        let path = default_path().unwrap_or_default();
        tell(format_args!("The credentials are kept unencrypted in `{}`.", path.display()));
    }
    login_succeeded()
}

fn login_succeeded() -> Result<ExitCode> {
    say("Login Succeeded")?;
    Ok(ExitCode::SUCCESS)
}

fn is_denied(error: &DaemonError) -> bool {
    error.status == StatusCode::UNAUTHORIZED
}

/// Asks the registry, through the daemon, whether it knows the credentials; answers what stands for them from now on.
async fn authenticate(client: &Client, registry: &str, credentials: &Credentials) -> Result<Option<Secret>> {
    let request = request_of(registry, credentials);
    let answer: AuthAnswer = client.post_json("/auth", &request).await?;
    Ok((!answer.identity_token.is_empty()).then(|| Secret::new(answer.identity_token)))
}

fn ask_for_credentials(command: &Login) -> Result<Credentials> {
    let mut user = command.username.clone();
    if user.is_empty() {
        if !stdin().is_terminal() {
            bail!("standard input is no terminal: give --username and --password-stdin");
        }
        prompt("Username: ")?;
        stdin().lock().read_line(&mut user).context("cannot read the user name")?;
        user = user.trim().to_owned();
    }
    let password = if command.password_stdin {
        let mut text = String::new();
        let mut input = stdin().lock().take(MAX_PASSWORD_BYTES);
        input.read_to_string(&mut text).context("cannot read the password from standard input")?;
        text.trim_end_matches(['\r', '\n']).to_owned()
    } else if command.password.is_empty() {
        if !stdin().is_terminal() {
            bail!("standard input is no terminal: use --password-stdin");
        }
        prompt("Password: ")?;
        terminal::read_hidden_line()?
    } else {
        command.password.clone()
    };
    if user.is_empty() || password.is_empty() {
        bail!("a user name and a password are needed");
    }
    Ok(Credentials::password(&user, &password))
}

fn prompt(text: &str) -> Result<()> {
    let mut out = stderr().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// `sampan logout`
#[derive(Args)]
pub(crate) struct Logout {
    /// The registry [default: docker.io]
    #[arg(default_value = "docker.io", hide_default_value = true, value_name = "REGISTRY")]
    registry: String,
}

pub(crate) fn logout(command: &Logout) -> Result<ExitCode> {
    let registry = registry_of(&command.registry)?;
    if read_config()?.erase(&registry)? {
        say(format_args!("Removing login credentials for {registry}"))?;
    } else {
        say(format_args!("Not logged in to {registry}"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// `sampan image tags`
#[derive(Args)]
pub(crate) struct Tags {
    /// The repository
    #[arg(value_name = "REPOSITORY")]
    repository: String,
}

pub(crate) async fn tags(client: &Client, command: Tags) -> Result<ExitCode> {
    let name = parse(&command.repository)?;
    let found = ask(client, &name, "tags", "").await?;
    for tag in found["Tags"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        say(tag)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// `sampan image referrers`
#[derive(Args)]
pub(crate) struct Referrers {
    /// Only artifacts of this type
    #[arg(long, default_value = "", hide_default_value = true, value_name = "TYPE")]
    artifact_type: String,
    /// How to print
    #[arg(long, value_parser = ["table", "json"], default_value = "table")]
    format: String,
    /// NAME[:TAG] or NAME@DIGEST
    #[arg(value_name = "IMAGE")]
    image: String,
}

pub(crate) async fn referrers(client: &Client, command: Referrers) -> Result<ExitCode> {
    let name = parse(&command.image)?;
    let parameters = query(&[("artifactType", &command.artifact_type)]);
    let found = ask(client, &name, "referrers", &parameters).await?;
    let manifests = found["Manifests"].as_array().cloned().unwrap_or_default();
    if command.format == "json" {
        say(serde_json::to_string_pretty(&manifests)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let text = |m: &Value, key: &str| m[key].as_str().unwrap_or_default().to_owned();
    let rows: Vec<Vec<String>> = manifests
        .iter()
        .map(|m| {
            vec![text(m, "digest"), text(m, "artifactType"), human_size(m["size"].as_u64().unwrap_or(0))]
        })
        .collect();
    table::print(&["DIGEST", "ARTIFACT TYPE", "SIZE"], &rows)?;
    Ok(ExitCode::SUCCESS)
}

async fn ask(client: &Client, name: &ImageRef, verb: &str, parameters: &str) -> Result<Value> {
    let path = format!("/distribution/{}/{verb}{parameters}", encode(&name.familiar()));
    let auth = auth_header(name.registry())?;
    let answer = client.request_as(Method::GET, &path, full(""), &auth).await?;
    crate::client::read_json(answer).await
}

fn parse(text: &str) -> Result<ImageRef> {
    Ok(text.parse()?)
}

/// Whether a name says which image of its repository: a colon before the last slash is a port's.
fn has_tag(name: &str) -> bool {
    name.rsplit('/').next().is_some_and(|last| last.contains([':', '@']))
}

/// A registry as images' names have it; also out of an address.
fn registry_of(text: &str) -> Result<String> {
    let host = text.trim_start_matches("https://").trim_start_matches("http://").split('/').next();
    let host = host.filter(|h| !h.is_empty()).with_context(|| format!("`{text}` is not a registry"))?;
    // The grammar of names decides what a registry's name may be.
    let name: ImageRef =
        format!("{host}/x/y").parse().with_context(|| format!("`{text}` is not a registry"))?;
    if host == "registry-1.docker.io" || host == "index.docker.io" {
        return Ok("docker.io".to_owned());
    }
    Ok(if name.registry() == host { host.to_owned() } else { host.to_ascii_lowercase() })
}

fn read_config() -> Result<DockerConfig> {
    let path = default_path().context("neither DOCKER_CONFIG nor HOME is set")?;
    Ok(DockerConfig::read(&path)?)
}

fn request_of(registry: &str, credentials: &Credentials) -> AuthRequest {
    let mut request = AuthRequest {
        server_address: sampan_registry::docker_config::key_of(registry).to_owned(),
        ..AuthRequest::default()
    };
    match credentials {
        Credentials::Anonymous => {}
        Credentials::Password { user, password } => {
            request.username.clone_from(user);
            password.expose().clone_into(&mut request.password);
        }
        Credentials::Identity(token) => token.expose().clone_into(&mut request.identity_token),
        Credentials::Bearer(token) => token.expose().clone_into(&mut request.registry_token),
    }
    request
}

/// Who the user is to a registry, as Docker's API wants it; empty for nobody.
pub(crate) fn auth_header(registry: &str) -> Result<String> {
    // Without a home there are no credentials to look for.
    let Some(path) = default_path() else { return Ok(String::new()) };
    let credentials = DockerConfig::read(&path)?.credentials(registry)?;
    if credentials == Credentials::Anonymous {
        return Ok(String::new());
    }
    Ok(URL_SAFE.encode(serde_json::to_vec(&request_of(registry, &credentials))?))
}

/// Who the user is to every registry that their configuration knows, as Docker's API wants it of a build; empty for
/// nobody.
pub(crate) fn auths_header() -> Result<String> {
    let Some(path) = default_path() else { return Ok(String::new()) };
    let config = DockerConfig::read(&path)?;
    let mut all = serde_json::Map::new();
    for registry in config.registries() {
        // A helper that fails for one registry must not keep from a build that does not need it.
        let credentials = config.credentials(&registry).unwrap_or_else(|error| {
            tell(format_args!("warning: no credentials for {registry}: {error}"));
            Credentials::Anonymous
        });
        if credentials != Credentials::Anonymous {
            let key = sampan_registry::docker_config::key_of(&registry).to_owned();
            all.insert(key, serde_json::to_value(request_of(&registry, &credentials))?);
        }
    }
    if all.is_empty() { Ok(String::new()) } else { Ok(URL_SAFE.encode(serde_json::to_vec(&all)?)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_is_written_in_many_ways() {
        for (text, expected) in [
            ("docker.io", "docker.io"),
            ("https://index.docker.io/v1/", "docker.io"),
            ("127.0.0.1:5000", "127.0.0.1:5000"),
            ("https://r.example/v2/", "r.example"),
            ("localhost", "localhost"),
        ] {
            assert_eq!(registry_of(text).unwrap(), expected);
        }
        assert!(registry_of("").is_err() && registry_of("a b").is_err());
    }

    #[test]
    fn a_port_is_no_tag() {
        assert!(!has_tag("127.0.0.1:5000/web") && has_tag("127.0.0.1:5000/web:1") && has_tag("web@sha256:x"));
    }
}
