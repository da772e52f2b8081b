//! `compose down`.

use std::collections::BTreeSet;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use sampan_compose::labels;
use sampan_docker_api::network::Network;
use sampan_docker_api::volume::VolumeList;
use serde_json::json;

use super::converge;
use super::project::{Session, Which, name_of, service_of};
use super::report::Report;
use crate::client::{Client, encode, query};
use crate::commands::{fail, is_not_found, tell};

/// `sampan compose down`
#[derive(Args)]
pub(crate) struct Down {
    /// Also remove containers of services that are not in the files
    #[arg(long)]
    remove_orphans: bool,
    /// Also remove images: all, or those without a name of their own (local)
    #[arg(long, value_parser = ["all", "local"], value_name = "WHICH")]
    rmi: Option<String>,
    /// Seconds until a container is killed
    #[arg(short, long, value_name = "SECONDS")]
    timeout: Option<i64>,
    /// Also remove the volumes of the files, and anonymous ones
    #[arg(short, long)]
    volumes: bool,
    /// The services; none: all, and their networks
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

pub(super) async fn down(session: &Session, command: Down) -> Result<ExitCode> {
    let client = &session.client;
    let report = Report::new(&session.flags);
    let mut containers = session.containers(Which::All, true).await?;
    if let Some(project) = session.files() {
        let known =
            |service: &str| project.services.contains_key(service) || project.disabled.contains_key(service);
        if let Some(wrong) = command.services.iter().find(|s| !known(s)) {
            bail!("no such service: {wrong}");
        }
        let orphans: Vec<String> =
            containers.iter().filter(|c| !known(service_of(c))).map(|c| name_of(c).to_owned()).collect();
        if !command.remove_orphans && !orphans.is_empty() {
            tell(format_args!(
                "WARNING: Found orphan containers ([{}]) for this project: --remove-orphans removes them",
                orphans.join(" ")
            ));
            containers.retain(|c| known(service_of(c)));
        }
    }
    if !command.services.is_empty() {
        containers.retain(|c| command.services.iter().any(|s| s == service_of(c)));
    }
    if session.flags.dry_run {
        for container in &containers {
            crate::commands::say(format_args!("remove {}", name_of(container)))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let images: BTreeSet<String> = containers.iter().map(|c| c.image.clone()).collect();
    let mut code = ExitCode::SUCCESS;
    // Those first that depend on others.
    for service in session.in_order(&containers).iter().rev() {
        let own = containers.iter().filter(|c| service_of(c) == service);
        let removals = own
            .map(|c| converge::remove(client, &c.id, name_of(c), command.timeout, command.volumes, &report));
        for removed in futures_util::future::join_all(removals).await {
            if let Err(error) = removed {
                code = fail(&error);
            }
        }
    }
    if !command.services.is_empty() {
        return Ok(code);
    }
    if let Err(error) = networks(session, &report).await {
        code = fail(&error);
    }
    if command.volumes
        && let Err(error) = volumes(session, &report).await
    {
        code = fail(&error);
    }
    if let Some(which) = &command.rmi {
        remove_images(session, which, images, &report).await?;
    }
    Ok(code)
}

/// What is labelled with the project.
fn of_project(session: &Session) -> String {
    let filters = json!({"label": [format!("{}={}", labels::PROJECT, session.name)]});
    query(&[("filters", &filters.to_string())])
}

async fn networks(session: &Session, report: &Report) -> Result<()> {
    let found: Vec<Network> = session.client.get(&format!("/networks{}", of_project(session))).await?;
    for network in found {
        let thing = format!("Network {}", network.name);
        report.doing(&thing, "Removing");
        match session.client.delete(&format!("/networks/{}", encode(&network.id))).await {
            Ok(_) => report.done(&thing, "Removed"),
            Err(error) if is_not_found(&error) => report.done(&thing, "Removed"),
            // Somebody else's container is in it.
            Err(error) if error.to_string().contains("has active endpoints") => {
                report.done(&thing, "Resource is still in use");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn volumes(session: &Session, report: &Report) -> Result<()> {
    let found: VolumeList = session.client.get(&format!("/volumes{}", of_project(session))).await?;
    for volume in found.volumes {
        remove_volume(&session.client, &volume.name, report).await?;
    }
    Ok(())
}

async fn remove_volume(client: &Client, name: &str, report: &Report) -> Result<()> {
    let thing = format!("Volume {name}");
    report.doing(&thing, "Removing");
    match client.delete(&format!("/volumes/{}", encode(name))).await {
        Ok(_) => report.done(&thing, "Removed"),
        Err(error) if is_not_found(&error) => report.done(&thing, "Removed"),
        Err(error) if error.to_string().contains("in use") => report.done(&thing, "Resource is still in use"),
        Err(error) => return Err(error),
    }
    Ok(())
}

async fn remove_images(
    session: &Session,
    which: &str,
    used: BTreeSet<String>,
    report: &Report,
) -> Result<()> {
    let mut images: BTreeSet<String> = if which == "all" { used } else { BTreeSet::new() };
    if let Some(project) = session.files() {
        for (name, service) in &project.services {
            // An image without a name of its own was built here.
            if which == "all" || service.image.is_empty() {
                images.insert(service.image_name(&project.name, name));
            }
        }
    }
    for image in images {
        let thing = format!("Image {image}");
        report.doing(&thing, "Removing");
        match session.client.delete(&format!("/images/{}", encode(&image))).await {
            Ok(_) => report.done(&thing, "Removed"),
            Err(error) if is_not_found(&error) => report.done(&thing, "Removed"),
            Err(error) => tell(format_args!("WARNING: {image}: {error:#}")),
        }
    }
    Ok(())
}
