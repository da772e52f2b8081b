//! The commands on images.

use std::io::{IsTerminal, Read};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use http::{Method, Response};
use hyper::body::Incoming;
use sampan_docker_api::image::{HistoryRow, ImageDeleted, ImageSummary, ImagesPruned};
use sampan_docker_api::units::human_size;

use super::container::{confirm, filters};
use super::{ago, for_each, print_body, say, short, show_progress, upload};
use crate::client::{Client, channel, encode, full, query};
use crate::table;

/// `sampan image …`
#[derive(Subcommand)]
pub(crate) enum Group {
    /// List images
    #[command(visible_alias = "list")]
    Ls(List),
    /// Build an image from a Dockerfile
    Build(Box<super::build::Build>),
    /// Remove images
    Rm(Remove),
    /// Give an image another name
    Tag(Tag),
    /// Show how an image was made
    History(History),
    /// Get an image from its registry
    Pull(super::registry::Pull),
    /// Send an image to its registry
    Push(super::registry::Push),
    /// List the tags of a repository at its registry
    Tags(super::registry::Tags),
    /// List what refers to an image at its registry: signatures, attestations
    Referrers(super::registry::Referrers),
    /// Make an image of a root file system's tar
    Import(Import),
    /// Take in images from an archive
    Load(Load),
    /// Write images to an archive
    Save(Save),
    /// Show images as JSON
    Inspect(Names),
    /// Remove images that nothing uses
    Prune(Prune),
    /// Show what an image's bytes are, and what it could do without
    Analyze(super::analyze::Analyze),
    /// Make one layer of several
    Squash(super::analyze::Squash),
}

pub(crate) async fn group(client: &Client, group: Group) -> Result<ExitCode> {
    match group {
        Group::Ls(command) => list(client, command).await,
        Group::Build(command) => super::build::build(client, *command).await,
        Group::Rm(command) => remove(client, command).await,
        Group::Tag(command) => tag(client, command).await,
        Group::History(command) => history(client, command).await,
        Group::Pull(command) => super::registry::pull(client, command).await,
        Group::Push(command) => super::registry::push(client, command).await,
        Group::Tags(command) => super::registry::tags(client, command).await,
        Group::Referrers(command) => super::registry::referrers(client, command).await,
        Group::Import(command) => import(client, command).await,
        Group::Load(command) => load(client, command).await,
        Group::Save(command) => save(client, command).await,
        Group::Inspect(command) => super::system::inspect_as(client, &command.names, &["images"]).await,
        Group::Prune(command) => prune(client, command).await,
        Group::Analyze(command) => super::analyze::analyze(client, command).await,
        Group::Squash(command) => super::analyze::squash(client, command).await,
    }
}

/// Some images.
#[derive(Args)]
pub(crate) struct Names {
    /// Names or ids
    #[arg(required = true, value_name = "IMAGE")]
    names: Vec<String>,
}

/// `sampan images`
#[derive(Args)]
pub(crate) struct List {
    /// Kept for scripts: all images are always listed
    #[arg(short, long)]
    all: bool,
    /// Only ids
    #[arg(short, long)]
    quiet: bool,
    /// Do not shorten
    #[arg(long)]
    no_trunc: bool,
    /// Also the digests by which they were pulled or pushed
    #[arg(long)]
    digests: bool,
    /// Filter: reference=…, dangling=…, label=…, before=…, since=…, until=…
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// How to print
    #[arg(long, value_parser = ["table", "json"], default_value = "table")]
    format: String,
    /// Only images of this name
    #[arg(default_value = "", hide_default_value = true)]
    name: String,
}

pub(crate) async fn list(client: &Client, command: List) -> Result<ExitCode> {
    let mut wanted = command.filter.clone();
    if !command.name.is_empty() {
        wanted.push(format!("reference={}", command.name));
    }
    let images: Vec<ImageSummary> =
        client.get(&format!("/images/json{}", query(&[("filters", &filters(&wanted)?)]))).await?;
    let id = |i: &ImageSummary| if command.no_trunc { i.id.clone() } else { short(&i.id).to_owned() };
    let mut rows = Vec::new();
    for image in &images {
        if command.format == "json" {
            say(serde_json::to_string(image)?)?;
        } else if command.quiet {
            say(id(image))?;
        }
        let digests = image.repo_digests.as_deref().unwrap_or_default();
        let mut names: Vec<(&str, &str)> = image
            .repo_tags
            .iter()
            .flatten()
            .map(|name| name.rsplit_once(':').unwrap_or((name, "<none>")))
            .collect();
        if names.is_empty() {
            // Pulled by digest: it has a repository and no tag.
            let digests = image.repo_digests.iter().flatten();
            names.extend(digests.filter_map(|d| Some((d.split_once('@')?.0, "<none>"))));
            names.dedup();
        }
        for (repository, tag) in names {
            let size = human_size(u64::try_from(image.size).unwrap_or(0));
            let mut row = vec![repository.to_owned(), tag.to_owned()];
            if command.digests {
                let of_it = digests.iter().filter_map(|d| d.split_once('@'));
                let digest = of_it.filter(|(r, _)| *r == repository).map(|(_, digest)| digest).next();
                row.push(digest.unwrap_or("<none>").to_owned());
            }
            row.extend([id(image), ago(image.created), size]);
            rows.push(row);
        }
    }
    if command.format == "table" && !command.quiet {
        let header = ["REPOSITORY", "TAG", "DIGEST", "IMAGE ID", "CREATED", "SIZE"];
        let header: Vec<&str> = header.into_iter().filter(|h| command.digests || *h != "DIGEST").collect();
        table::print(&header, &rows)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// `sampan rmi`
#[derive(Args)]
pub(crate) struct Remove {
    /// Also if it has several names or a stopped container uses it
    #[arg(short, long)]
    force: bool,
    /// Kept for scripts: there are no parents that could stay
    #[arg(long)]
    no_prune: bool,
    /// Names or ids
    #[arg(required = true, value_name = "IMAGE")]
    names: Vec<String>,
}

pub(crate) async fn remove(client: &Client, command: Remove) -> Result<ExitCode> {
    let parameters = query(&[("force", if command.force { "1" } else { "" })]);
    for_each(&command.names, async |name| {
        let answer = client.delete(&format!("/images/{}{parameters}", encode(name))).await?;
        say_deleted(&serde_json::from_slice::<Vec<ImageDeleted>>(&answer)?)
    })
    .await
}

fn say_deleted(rows: &[ImageDeleted]) -> Result<()> {
    for row in rows {
        if let Some(name) = &row.untagged {
            say(format_args!("Untagged: {name}"))?;
        }
        if let Some(id) = &row.deleted {
            say(format_args!("Deleted: {id}"))?;
        }
    }
    Ok(())
}

/// `sampan tag`
#[derive(Args)]
pub(crate) struct Tag {
    /// Name or id
    image: String,
    /// The new name
    #[arg(value_name = "REPOSITORY[:TAG]")]
    name: String,
}

/// Splits a name from its tag; a colon before the last slash is a port.
pub(crate) fn split_tag(name: &str) -> (&str, &str) {
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (name, ""),
    }
}

pub(crate) async fn tag(client: &Client, command: Tag) -> Result<ExitCode> {
    let (repository, tag) = split_tag(&command.name);
    let parameters = query(&[("repo", repository), ("tag", tag)]);
    client.post(&format!("/images/{}/tag{parameters}", encode(&command.image))).await?;
    Ok(ExitCode::SUCCESS)
}

/// `sampan history`
#[derive(Args)]
pub(crate) struct History {
    /// Do not shorten
    #[arg(long)]
    no_trunc: bool,
    /// Only ids
    #[arg(short, long)]
    quiet: bool,
    /// Sizes and times for people: true or false
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1,
        require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    human: bool,
    /// How to print
    #[arg(long, value_parser = ["table", "json"], default_value = "table")]
    format: String,
    /// Name or id
    image: String,
}

pub(crate) async fn history(client: &Client, command: History) -> Result<ExitCode> {
    let rows: Vec<HistoryRow> = client.get(&format!("/images/{}/history", encode(&command.image))).await?;
    let shown = |text: &str| {
        let text = text.replace('\t', " ");
        if command.no_trunc || text.chars().count() <= 45 {
            return text;
        }
        text.chars().take(44).collect::<String>() + "…"
    };
    let id = |r: &HistoryRow| -> String {
        if r.id == "<missing>" || command.no_trunc { r.id.clone() } else { short(&r.id).to_owned() }
    };
    if command.format == "json" || command.quiet {
        for row in &rows {
            if command.quiet { say(id(row))? } else { say(serde_json::to_string(row)?)? }
        }
        return Ok(ExitCode::SUCCESS);
    }
    let row = |r: &HistoryRow| {
        let (created, size) = if command.human {
            (ago(r.created), human_size(u64::try_from(r.size).unwrap_or(0)))
        } else {
            let time = jiff::Timestamp::from_second(r.created).map(|t| t.to_string());
            (time.unwrap_or_default(), r.size.to_string())
        };
        vec![id(r), created, shown(&r.created_by), size, r.comment.clone()]
    };
    let rows: Vec<_> = rows.iter().map(row).collect();
    table::print(&["IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT"], &rows)?;
    Ok(ExitCode::SUCCESS)
}

/// `sampan import`
#[derive(Args)]
pub(crate) struct Import {
    /// A message for its history
    #[arg(short, long, default_value = "", hide_default_value = true)]
    message: String,
    /// A Dockerfile instruction to apply
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// A tar, perhaps packed; -: standard input
    #[arg(value_name = "FILE|-")]
    file: String,
    /// The image's name
    #[arg(default_value = "", hide_default_value = true, value_name = "REPOSITORY[:TAG]")]
    image: String,
}

/// What a file or standard input holds.
fn input(file: &str) -> Result<Box<dyn Read + Send>> {
    if file == "-" {
        if std::io::stdin().is_terminal() {
            bail!("standard input is a terminal: name a file or pipe an archive in");
        }
        return Ok(Box::new(std::io::stdin()));
    }
    Ok(Box::new(std::fs::File::open(file).with_context(|| format!("cannot open `{file}`"))?))
}

pub(crate) async fn import(client: &Client, command: Import) -> Result<ExitCode> {
    let mut source = input(&command.file)?;
    let (repository, tag) = split_tag(&command.image);
    let message =
        if command.message.is_empty() { format!("Imported from {}", command.file) } else { command.message };
    let mut path = format!(
        "/images/create{}",
        query(&[("fromSrc", "-"), ("repo", repository), ("tag", tag), ("message", &message)])
    );
    for change in &command.change {
        path += &format!("&changes={}", encode(change));
    }
    let body = channel(upload(move |out| std::io::copy(&mut source, out).map(drop)));
    let response = client.request(Method::POST, &path, body, "application/x-tar").await?;
    show_progress(response, |line| line.status.as_ref().map_or(Ok(()), say)).await?;
    Ok(ExitCode::SUCCESS)
}

/// `sampan load`
#[derive(Args)]
pub(crate) struct Load {
    /// Read a file instead of standard input
    #[arg(short, long, default_value = "-", hide_default_value = true, value_name = "FILE|DIRECTORY")]
    input: String,
    /// Say nothing
    #[arg(short, long)]
    quiet: bool,
    /// The image for this machine: os/architecture[/variant]
    #[arg(long, default_value = "", hide_default_value = true, value_name = "PLATFORM")]
    platform: String,
}

/// Sends a directory, an OCI layout, as the archive that it would be.
fn send_directory(directory: &std::path::Path, out: &mut dyn std::io::Write) -> std::io::Result<()> {
    let mut archive = tar::Builder::new(out);
    archive.follow_symlinks(true);
    for name in ["oci-layout", "index.json", "manifest.json"] {
        let path = directory.join(name);
        if path.is_file() {
            archive.append_path_with_name(path, name)?;
        }
    }
    let blobs = std::path::Path::new("blobs/sha256");
    for entry in std::fs::read_dir(directory.join(blobs))? {
        let entry = entry?;
        archive.append_path_with_name(entry.path(), blobs.join(entry.file_name()))?;
    }
    archive.finish()
}

pub(crate) async fn load(client: &Client, command: Load) -> Result<ExitCode> {
    let directory = std::path::PathBuf::from(&command.input);
    let body = if directory.is_dir() {
        if !directory.join("index.json").is_file() {
            bail!("`{}` is no OCI layout: it has no index.json", command.input);
        }
        channel(upload(move |out| send_directory(&directory, out)))
    } else {
        let mut source = input(&command.input)?;
        channel(upload(move |out| std::io::copy(&mut source, out).map(drop)))
    };
    let path = format!("/images/load{}", query(&[("platform", &command.platform)]));
    let response = client.request(Method::POST, &path, body, "application/x-tar").await?;
    show_progress(response, |line| match &line.stream {
        Some(text) if !command.quiet => say(text.trim_end()),
        _ => Ok(()),
    })
    .await?;
    Ok(ExitCode::SUCCESS)
}

/// `sampan save`
#[derive(Args)]
pub(crate) struct Save {
    /// Write to a file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<String>,
    /// Only if they are for this machine: os/architecture[/variant]
    #[arg(long, default_value = "", hide_default_value = true, value_name = "PLATFORM")]
    platform: String,
    /// Names or ids
    #[arg(required = true, value_name = "IMAGE")]
    names: Vec<String>,
}

pub(crate) async fn save(client: &Client, command: Save) -> Result<ExitCode> {
    let mut names: Vec<String> = command.names.iter().map(|n| format!("names={}", encode(n))).collect();
    if !command.platform.is_empty() {
        names.push(format!("platform={}", encode(&command.platform)));
    }
    let path = format!("/images/get?{}", names.join("&"));
    let answer = client.request(Method::GET, &path, full(""), "application/json").await?;
    write_archive(answer, command.output.as_deref()).await
}

/// Writes an archive to a file or standard output. An archive that was cut off is no archive: its file is removed.
pub(crate) async fn write_archive(answer: Response<Incoming>, file: Option<&str>) -> Result<ExitCode> {
    match file {
        Some(path) => {
            let file = std::fs::File::create(path).with_context(|| format!("cannot write `{path}`"))?;
            // A device (`/dev/null`) or a pipe stays.
            let regular = file.metadata().is_ok_and(|m| m.is_file());
            if let Err(error) = print_body(answer, file).await {
                if !regular {
                    return Err(error.context(format!("cannot write `{path}`")));
                }
                std::fs::remove_file(path).with_context(|| format!("cannot remove the part of `{path}`"))?;
                return Err(error.context(format!("cannot write `{path}`")));
            }
        }
        None if std::io::stdout().is_terminal() => {
            bail!("standard output is a terminal: use -o or pipe it on")
        }
        None => print_body(answer, std::io::stdout().lock()).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// `sampan image prune`
#[derive(Args)]
pub(crate) struct Prune {
    /// All that no container uses, not only those without a name
    #[arg(short, long)]
    all: bool,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Filter: until=…, label=…, label!=…
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
}

async fn prune(client: &Client, command: Prune) -> Result<ExitCode> {
    let what = if command.all {
        "This removes all images that no container uses."
    } else {
        "This removes all images without a name."
    };
    if !command.force && !confirm(what)? {
        return Ok(ExitCode::SUCCESS);
    }
    let mut wanted = command.filter.clone();
    if command.all {
        wanted.push("dangling=false".to_owned());
    }
    let path = format!("/images/prune{}", query(&[("filters", &filters(&wanted)?)]));
    let pruned: ImagesPruned = client.post_json(&path, &()).await?;
    say_deleted(&pruned.images_deleted.unwrap_or_default())?;
    say(format_args!("Total reclaimed space: {}", human_size(pruned.space_reclaimed)))?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_no_tag() {
        assert_eq!(split_tag("127.0.0.1:5000/web"), ("127.0.0.1:5000/web", ""));
        assert_eq!(split_tag("127.0.0.1:5000/web:1"), ("127.0.0.1:5000/web", "1"));
        assert_eq!(split_tag("web"), ("web", ""));
    }
}
