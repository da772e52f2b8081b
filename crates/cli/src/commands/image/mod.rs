//! The commands on images.
//!
//! * [`list`]: images, history. * [`archive`]: import, load, save.

pub(crate) mod archive;
pub(crate) mod list;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use sampan_docker_api::image::{ImageDeleted, ImagesPruned};
use sampan_docker_api::units::human_size;

use super::container::{confirm, filters};
use super::{for_each, say};
use crate::client::{Client, encode, query};

/// `sampan image …`
#[derive(Subcommand)]
pub(crate) enum Group {
    /// List images
    #[command(visible_alias = "list")]
    Ls(list::List),
    /// Build an image from a Dockerfile
    Build(Box<super::build::Build>),
    /// Remove images
    #[command(visible_alias = "remove")]
    Rm(Remove),
    /// Give an image another name
    Tag(Tag),
    /// Show how an image was made
    History(list::History),
    /// Get an image from its registry
    Pull(super::registry::Pull),
    /// Send an image to its registry
    Push(super::registry::Push),
    /// List the tags of a repository at its registry
    Tags(super::registry::Tags),
    /// List what refers to an image at its registry: signatures, attestations
    Referrers(super::registry::Referrers),
    /// Make an image of a root file system's tar
    Import(archive::Import),
    /// Take in images from an archive
    Load(archive::Load),
    /// Write images to an archive
    Save(archive::Save),
    /// Show images as JSON
    Inspect(super::inspect::InspectKind),
    /// Remove images that nothing uses
    Prune(Prune),
    /// Show what an image's bytes are, and what it could do without
    Analyze(super::analyze::Analyze),
    /// Make one layer of several
    Squash(super::analyze::Squash),
}

pub(crate) async fn group(client: &Client, group: Group) -> Result<ExitCode> {
    match group {
        Group::Ls(command) => list::list(client, command).await,
        Group::Build(command) => super::build::build(client, *command).await,
        Group::Rm(command) => remove(client, command).await,
        Group::Tag(command) => tag(client, command).await,
        Group::History(command) => list::history(client, command).await,
        Group::Pull(command) => super::registry::pull(client, command).await,
        Group::Push(command) => super::registry::push(client, command).await,
        Group::Tags(command) => super::registry::tags(client, command).await,
        Group::Referrers(command) => super::registry::referrers(client, command).await,
        Group::Import(command) => archive::import(client, command).await,
        Group::Load(command) => archive::load(client, command).await,
        Group::Save(command) => archive::save(client, command).await,
        Group::Inspect(command) => super::inspect::of_kind(client, command, "image").await,
        Group::Prune(command) => prune(client, command).await,
        Group::Analyze(command) => super::analyze::analyze(client, command).await,
        Group::Squash(command) => super::analyze::squash(client, command).await,
    }
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
