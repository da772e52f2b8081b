//! What containers need: networks, volumes, images.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use sampan_compose::labels;
use sampan_compose::model::Project;
use sampan_docker_api::image::ImageInspect;
use sampan_docker_api::network::Network;
use sampan_docker_api::volume::{Volume, VolumeCreate};
use serde_json::{Map, Value, json};

use super::images::{BuildWishes, build_one};
use super::project::Session;
use super::report::Report;
use crate::client::{Client, encode, query};
use crate::commands::{is_not_found, registry, tell};

/// The labels of what a project owns.
fn owned(
    project: &Project,
    own: &BTreeMap<String, String>,
    kind: &str,
    key: &str,
) -> BTreeMap<String, String> {
    let mut all = own.clone();
    all.insert(kind.to_owned(), key.to_owned());
    all.insert(labels::PROJECT.to_owned(), project.name.clone());
    all.insert(labels::VERSION.to_owned(), env!("CARGO_PKG_VERSION").to_owned());
    all
}

/// Networks of this very name.
pub(super) async fn networks_named(client: &Client, name: &str) -> Result<Vec<Network>> {
    let filters = serde_json::to_string(&json!({"name": [name]}))?;
    let mut found: Vec<Network> =
        client.get(&format!("/networks{}", query(&[("filters", &filters)]))).await?;
    found.retain(|n| n.name == name || n.id == name);
    Ok(found)
}

/// Makes the networks that these services join and that are not there.
pub(super) async fn networks(session: &Session, services: &BTreeSet<&str>, report: &Report) -> Result<()> {
    let project = session.project()?;
    for (key, network) in &project.networks {
        let used = |name: &&str| project.services.get(*name).is_some_and(|s| s.networks.contains_key(key));
        if !services.iter().any(used) {
            continue;
        }
        let found = networks_named(&session.client, &network.name).await?;
        if network.external {
            let built_in = matches!(network.name.as_str(), "bridge" | "host" | "none");
            if found.is_empty() && !built_in {
                bail!(
                    "network {} declared as external, but could not be found: make it with `sampan network create {}`",
                    network.name,
                    network.name
                );
            }
            continue;
        }
        if let Some(there) = found.first() {
            match there.labels.get(labels::PROJECT) {
                Some(owner) if *owner == project.name => {}
                _ => tell(format_args!(
                    "WARNING: a network with name {} exists but was not created for project {:?}: set `external: true` to use it",
                    network.name, project.name
                )),
            }
            continue;
        }
        let thing = format!("Network {}", network.name);
        report.doing(&thing, "Creating");
        let ipam = network.ipam.clone().unwrap_or_default();
        let pools: Vec<Value> = ipam.config.iter().map(pool).collect();
        let mut body = json!({
            "Name": network.name,
            "CheckDuplicate": true,
            "Driver": if network.driver.is_empty() { "bridge" } else { &network.driver },
            "Internal": network.internal,
            "Attachable": network.attachable,
            "EnableIPv6": network.enable_ipv6.unwrap_or(false),
            "Options": network.driver_opts,
            "Labels": owned(project, &network.labels, labels::NETWORK, key),
            "IPAM": {
                "Driver": if ipam.driver.is_empty() { "default" } else { &ipam.driver },
                "Config": pools,
                "Options": ipam.options,
            },
        });
        if let Some(ipv4) = network.enable_ipv4 {
            body["EnableIPv4"] = json!(ipv4);
        }
        let made = session.client.post_without_answer("/networks/create", &body).await;
        made.with_context(|| format!("failed to create network {}", network.name))?;
        report.done(&thing, "Created");
    }
    Ok(())
}

fn pool(pool: &sampan_compose::model::Pool) -> Value {
    let mut out = Map::new();
    let fields = [("Subnet", &pool.subnet), ("IPRange", &pool.ip_range), ("Gateway", &pool.gateway)];
    out.extend(fields.into_iter().filter(|(_, v)| !v.is_empty()).map(|(k, v)| (k.to_owned(), json!(v))));
    if !pool.aux_addresses.is_empty() {
        out.insert("AuxiliaryAddresses".to_owned(), json!(pool.aux_addresses));
    }
    Value::Object(out)
}

/// Makes the volumes that these services mount and that are not there.
pub(super) async fn volumes(session: &Session, services: &BTreeSet<&str>, report: &Report) -> Result<()> {
    let project = session.project()?;
    for (key, volume) in &project.volumes {
        let used = |name: &&str| {
            project
                .services
                .get(*name)
                .is_some_and(|s| s.volumes.iter().any(|m| m.kind == "volume" && m.source == *key))
        };
        if !services.iter().any(used) {
            continue;
        }
        let path = format!("/volumes/{}", encode(&volume.name));
        let there: Option<Volume> = match session.client.get(&path).await {
            Ok(volume) => Some(volume),
            Err(error) if is_not_found(&error) => None,
            Err(error) => return Err(error),
        };
        match (there, volume.external) {
            (None, true) => bail!(
                "external volume {:?} not found: make it with `sampan volume create {}`",
                volume.name,
                volume.name
            ),
            (Some(_), true) => {}
            (Some(there), false) => {
                let owner = there.labels.unwrap_or_default().get(labels::PROJECT).cloned();
                if owner.as_deref() != Some(&project.name) {
                    tell(format_args!(
                        "WARNING: volume {:?} already exists but was not created by project {:?}: use `external: true` to use an existing volume",
                        volume.name, project.name
                    ));
                }
            }
            (None, false) => {
                let thing = format!("Volume {}", volume.name);
                report.doing(&thing, "Creating");
                let request = VolumeCreate {
                    name: volume.name.clone(),
                    driver: volume.driver.clone(),
                    driver_opts: volume.driver_opts.clone(),
                    labels: owned(project, &volume.labels, labels::VOLUME, key),
                };
                let _: Volume = session.client.post_json("/volumes/create", &request).await?;
                report.done(&thing, "Created");
            }
        }
    }
    Ok(())
}

/// When images are got.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Policy {
    /// As each service says.
    Services,
    Always,
    Missing,
    Never,
}

impl Policy {
    /// Reads `--pull`.
    pub(super) fn of(text: &str) -> Policy {
        match text {
            "always" => Policy::Always,
            "missing" => Policy::Missing,
            "never" => Policy::Never,
            _ => Policy::Services,
        }
    }
}

/// The id of an image, if it is here.
pub(super) async fn image_id(client: &Client, name: &str) -> Result<Option<String>> {
    match client.get::<ImageInspect>(&format!("/images/{}/json", encode(name))).await {
        Ok(image) => Ok(Some(image.id)),
        Err(error) if is_not_found(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Builds and gets the images of these services; their ids.
pub(super) async fn images(
    session: &Session,
    services: &BTreeSet<&str>,
    policy: Policy,
    build: Option<bool>,
    quiet: bool,
) -> Result<BTreeMap<String, String>> {
    let project = session.project()?;
    let mut ids = BTreeMap::new();
    for name in project.in_order().into_iter().filter(|name| services.contains(name)) {
        let Some(service) = project.services.get(name) else { continue };
        let image = service.image_name(&project.name, name);
        let mut here = image_id(&session.client, &image).await?;
        let own = service.pull_policy.as_str();
        let wants_build = service.build.is_some()
            && build != Some(false)
            && (build == Some(true) || own == "build" || (here.is_none() && own != "always"));
        if wants_build {
            build_one(session, name, service, &BuildWishes::quiet(quiet)).await?;
            here = image_id(&session.client, &image).await?;
        } else {
            let always = policy == Policy::Always || (policy == Policy::Services && own == "always");
            let never = policy == Policy::Never || (policy == Policy::Services && own == "never");
            if service.image.is_empty() && here.is_none() {
                bail!(
                    "service {name:?} has no image yet: build it with `sampan compose build {name}`, or leave out --no-build"
                );
            }
            if !service.image.is_empty() && (always || (here.is_none() && !never)) {
                let pulled =
                    registry::pull_image_for_run(&session.client, &image, &service.platform, quiet).await;
                match pulled {
                    Ok(()) => here = image_id(&session.client, &image).await?,
                    // What can't be had may be built.
                    Err(_) if service.build.is_some() && build != Some(false) => {
                        build_one(session, name, service, &BuildWishes::quiet(quiet)).await?;
                        here = image_id(&session.client, &image).await?;
                    }
                    Err(error) => {
                        return Err(error.context(format!("service {name:?}: cannot get the image {image}")));
                    }
                }
            }
            if here.is_none() {
                bail!(
                    "service {name:?}: the image {image} is not here: get it with `sampan compose pull {name}`"
                );
            }
        }
        ids.insert(name.to_owned(), here.unwrap_or_default());
    }
    Ok(ids)
}
