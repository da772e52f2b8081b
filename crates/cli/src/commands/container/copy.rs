//! `cp`: files and directories between a container and here, as tars.
//!
//! What a container holds is not trusted: what comes out of one is written by descriptors beneath the target, no link is
//! followed out of it, and devices stay where they are ([`super::super::extract`]).

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use http::Method;
use http_body_util::BodyExt;
use sampan_docker_api::units::human_size;
use serde::Deserialize;

use crate::client::{Client, channel, full, query};
use crate::commands::extract::Extraction;
use crate::commands::run::container_path;
use crate::commands::{is_not_found, tell, upload};

/// `sampan cp`
#[derive(Args)]
pub(crate) struct Copy {
    /// Keep the owners
    #[arg(short, long)]
    archive: bool,
    /// Copy what a link in the source leads to
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// Do not say what was copied
    #[arg(short, long)]
    quiet: bool,
    /// CONTAINER:PATH, a path here, or - for a tar on standard input
    #[arg(value_name = "SOURCE")]
    source: String,
    /// A path here, CONTAINER:PATH, or - for a tar on standard output
    #[arg(value_name = "TARGET")]
    target: String,
}

/// What the API tells about a path in a container.
#[derive(Deserialize, Debug)]
struct Stat {
    mode: u32,
    #[serde(rename = "linkTarget", default)]
    link_target: String,
}

impl Stat {
    // Go's bits of a mode, which the API hands through.
    const DIRECTORY: u32 = 1 << 31;
    const LINK: u32 = 1 << 27;

    fn is_directory(&self) -> bool {
        self.mode & Stat::DIRECTORY != 0
    }

    fn is_link(&self) -> bool {
        self.mode & Stat::LINK != 0
    }
}

/// `CONTAINER:PATH`, or nothing if the text is a path here.
pub(crate) fn in_container(text: &str) -> Option<(&str, &str)> {
    if text.starts_with(['.', '/']) || text == "-" {
        return None;
    }
    text.split_once(':').filter(|(container, path)| !container.is_empty() && !path.is_empty())
}

pub(crate) async fn copy(client: &Client, command: Copy) -> Result<ExitCode> {
    let (source, target) = (&command.source, &command.target);
    let quiet = command.quiet || !std::io::stderr().is_terminal();
    let bytes = match (in_container(source), in_container(target)) {
        (Some(_), Some(_)) => bail!("copying between containers is not supported"),
        (None, None) => bail!("must specify at least one container source: CONTAINER:PATH"),
        (Some((container, path)), None) => from_container(client, &command, container, path, target).await?,
        (None, Some((container, path))) => to_container(client, &command, source, container, path).await?,
    };
    if let Some(bytes) = bytes.filter(|_| !quiet) {
        tell(format_args!("Successfully copied {} to {target}", human_size(bytes)));
    }
    Ok(ExitCode::SUCCESS)
}

/// A path in a container, from its root; whether it ends in `/` or `/.` is kept.
fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

fn archive_path(container: &str, path: &str) -> String {
    container_path(container, "archive") + &query(&[("path", path)])
}

async fn stat(client: &Client, container: &str, path: &str) -> Result<Stat> {
    let answer =
        client.request(Method::HEAD, &archive_path(container, path), full(""), "application/json").await;
    let answer = answer.map_err(|error| {
        // An answer to HEAD has no body that could say it.
        if is_not_found(&error) {
            error.context(format!("Could not find the file {path} in container {container}"))
        } else {
            error
        }
    })?;
    let header = answer
        .headers()
        .get("x-docker-container-path-stat")
        .context("the daemon told nothing of the path")?;
    let decoded =
        STANDARD.decode(header.as_bytes()).context("what the daemon told of the path can't be read")?;
    serde_json::from_slice(&decoded).context("what the daemon told of the path can't be read")
}

/// Where a link in a container leads.
fn follow(path: &str, stat: &Stat) -> String {
    let target = Path::new(&stat.link_target);
    let parent = Path::new(path.trim_end_matches('/')).parent().unwrap_or(Path::new("/"));
    crate::commands::options::mounts::clean(&parent.join(target)).display().to_string()
}

/// Copies out; the number of bytes, if they were counted.
async fn from_container(
    client: &Client,
    command: &Copy,
    container: &str,
    path: &str,
    target: &str,
) -> Result<Option<u64>> {
    let mut path = absolute(path);
    if target == "-" {
        if std::io::stdout().is_terminal() {
            bail!("refusing to write a tar to a terminal: redirect it");
        }
        let answer = client
            .request(Method::GET, &archive_path(container, &path), full(""), "application/json")
            .await?;
        crate::commands::print_body(answer, std::io::stdout().lock()).await?;
        return Ok(None);
    }
    let mut about = stat(client, container, &path).await?;
    if command.follow_link && about.is_link() {
        path = follow(&path, &about);
        about = stat(client, container, &path).await?;
    }
    let contents = path.ends_with("/.");
    let local = Path::new(target);
    let existing = std::fs::metadata(local).ok();
    let into = match &existing {
        // Into a directory: under its own name, or only what it holds.
        Some(there) if there.is_dir() => Place { directory: local.to_owned(), name: None },
        Some(_) if about.is_directory() => bail!("cannot copy directory to file {target}"),
        None if target.ends_with('/') && !about.is_directory() => {
            bail!("cannot copy file to {target}: there is no such directory")
        }
        _ => Place::beside(local)?,
    };
    let strip = contents && into.name.is_none();
    let answer =
        client.request(Method::GET, &archive_path(container, &path), full(""), "application/json").await?;
    let (sender, receiver) = tokio::sync::mpsc::channel(8);
    let archive = command.archive;
    let extraction = tokio::task::spawn_blocking(move || {
        let extraction =
            Extraction { directory: into.directory, name: into.name, strip, keep_owners: archive };
        extraction.run(crate::commands::extract::Received::new(receiver))
    });
    let mut body = answer.into_body();
    let mut bytes = 0;
    while let Some(frame) = body.frame().await.transpose()? {
        if let Ok(data) = frame.into_data() {
            bytes += data.len() as u64;
            // It has had enough, or has failed and says so.
            if sender.send(data).await.is_err() {
                break;
            }
        }
    }
    drop(sender);
    extraction.await??;
    Ok(Some(bytes))
}

/// Where a copy goes.
struct Place {
    directory: PathBuf,
    /// Another name than its own.
    name: Option<String>,
}

impl Place {
    /// Under this very name, in a directory that must be there.
    fn beside(path: &Path) -> Result<Place> {
        let whole = crate::commands::options::mounts::clean(&std::path::absolute(path)?);
        let name = whole.file_name().and_then(|n| n.to_str()).context("the target has no name")?.to_owned();
        let directory = whole.parent().unwrap_or(Path::new("/")).to_owned();
        if !directory.is_dir() {
            bail!("invalid output path: directory {} does not exist", directory.display());
        }
        Ok(Place { directory, name: Some(name) })
    }
}

async fn to_container(
    client: &Client,
    command: &Copy,
    source: &str,
    container: &str,
    path: &str,
) -> Result<Option<u64>> {
    let mut path = absolute(path);
    // The target may be missing; its parent may not.
    let mut about = match stat(client, container, &path).await {
        Ok(about) => Some(about),
        Err(error) if is_not_found(&error) => None,
        Err(error) => return Err(error),
    };
    if let Some(link) = about.as_ref().filter(|a| a.is_link()) {
        path = follow(&path, link);
        about = stat(client, container, &path).await.ok();
    }
    let is_directory = about.as_ref().is_some_and(Stat::is_directory);
    let put = |directory: &str| {
        container_path(container, "archive")
            + &query(&[
                ("path", directory),
                ("noOverwriteDirNonDir", "true"),
                ("copyUIDGID", if command.archive { "true" } else { "" }),
            ])
    };
    if source == "-" {
        if !is_directory {
            bail!("destination \"{container}:{path}\" must be a directory");
        }
        let body = channel(upload(|out| std::io::copy(&mut std::io::stdin(), out).map(drop)));
        client.request(Method::PUT, &put(&path), body, "application/x-tar").await?;
        return Ok(None);
    }
    let local = Path::new(source);
    let failed = || format!("lstat {source}");
    let mut here = std::fs::symlink_metadata(local).with_context(failed)?;
    if command.follow_link || source.ends_with('/') {
        here = std::fs::metadata(local).with_context(failed)?;
    }
    let contents = source.ends_with("/.") || source == ".";
    let own_name = || -> Result<String> {
        let whole = crate::commands::options::mounts::clean(&std::path::absolute(local)?);
        let name = whole.file_name().map(|n| n.to_string_lossy().into_owned());
        Ok(name.unwrap_or_else(|| "/".to_owned()))
    };
    let (directory, name) = match (&about, is_directory) {
        (_, true) if contents => (path.clone(), String::new()),
        (_, true) => (path.clone(), own_name()?),
        (Some(_), false) if here.is_dir() => bail!("cannot copy directory to file \"{container}:{path}\""),
        (None, _) if path.ends_with('/') && !here.is_dir() => {
            bail!("cannot copy file to \"{container}:{path}\": there is no such directory")
        }
        _ => {
            let (parent, name) = path.trim_end_matches('/').rsplit_once('/').unwrap_or(("", &path));
            (if parent.is_empty() { "/".to_owned() } else { parent.to_owned() }, name.to_owned())
        }
    };
    let (local, follow_link) = (local.to_owned(), command.follow_link);
    let counted = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let count = std::sync::Arc::clone(&counted);
    let body = channel(upload(move |out| {
        let mut counting = Counting { out, count };
        write_tar(&local, &name, follow_link, &mut counting)
    }));
    client.request(Method::PUT, &put(&directory), body, "application/x-tar").await?;
    Ok(Some(counted.load(std::sync::atomic::Ordering::Relaxed)))
}

/// Counts what passes.
struct Counting<'w> {
    out: &'w mut dyn Write,
    count: std::sync::Arc<std::sync::atomic::AtomicU64>,
}

impl Write for Counting<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let n = self.out.write(bytes)?;
        self.count.fetch_add(n as u64, std::sync::atomic::Ordering::Relaxed);
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

/// Writes a file or directory as a tar, under `name`; no name: what is in the directory.
fn write_tar(path: &Path, name: &str, follow_link: bool, out: &mut dyn Write) -> std::io::Result<()> {
    let mut tar = tar::Builder::new(out);
    tar.follow_symlinks(false);
    tar.sparse(false);
    let about = if follow_link { std::fs::metadata(path)? } else { std::fs::symlink_metadata(path)? };
    let real = if about.is_symlink() { path.to_owned() } else { std::fs::canonicalize(path)? };
    if !about.is_dir() {
        tar.append_path_with_name(&real, name)?;
    } else if name.is_empty() {
        for entry in std::fs::read_dir(&real)? {
            let entry = entry?;
            let inner = entry.file_name();
            match entry.file_type()?.is_dir() {
                true => tar.append_dir_all(&inner, entry.path())?,
                false => tar.append_path_with_name(entry.path(), &inner)?,
            }
        }
    } else {
        tar.append_dir_all(name, &real)?;
    }
    tar.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_here_and_there() {
        assert_eq!(in_container("c:/x"), Some(("c", "/x")));
        assert_eq!(in_container("c:x:y"), Some(("c", "x:y")));
        for here in ["./c:x", "/c:x", "x", "-", ":x", "c:"] {
            assert_eq!(in_container(here), None, "{here}");
        }
    }

    #[test]
    fn links_lead_from_where_they_are() {
        let stat = |target: &str| Stat { mode: Stat::LINK, link_target: target.into() };
        assert_eq!(follow("/a/b/l", &stat("../x")), "/a/x");
        assert_eq!(follow("/a/b/l", &stat("/x")), "/x");
    }
}
