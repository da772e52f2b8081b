//! `import`, `load`, `save`: images as archives.

use std::io::{IsTerminal, Read};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use http::{Method, Response};
use hyper::body::Incoming;

use super::split_tag;
use crate::client::{Client, channel, encode, full, query};
use crate::commands::{print_body, say, show_progress, upload};

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
