//! From the merged tree to a project that is whole: typed, names and defaults filled in, references checked.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::error::ComposeError;
use crate::load::Files;
use crate::model::{Condition, Dependency, FileObject, Network, Project, Service, ServiceNetwork, Volume};
use crate::yaml::Node;
use crate::{dotenv, typed};

/// Where variables and files come from.
pub(crate) struct Outer<'o> {
    pub(crate) files: &'o dyn Files,
    pub(crate) environment: &'o BTreeMap<String, String>,
    pub(crate) variables: &'o BTreeMap<String, String>,
}

impl Outer<'_> {
    fn get(&self, name: &str) -> Option<&String> {
        self.environment.get(name).or_else(|| self.variables.get(name))
    }
}

/// Reads the tree into the project.
pub(crate) fn finish(
    mut project: Project,
    root: &Node,
    outer: &Outer<'_>,
    profiles: &[String],
    named: &[String],
) -> Result<Project, ComposeError> {
    for (key, node) in root.as_map().unwrap_or_default() {
        let known = ["services", "networks", "volumes", "configs", "secrets", "models"];
        if !known.contains(&key.as_str()) && !key.starts_with("x-") {
            return Err(node.place.error(format!("additional properties '{key}' not allowed")));
        }
        if key == "models" && !node.is_null() {
            return Err(node.place.error("`models` are not supported"));
        }
    }
    let all: BTreeMap<String, Service> = section(root, "services")?;
    for (name, service) in &all {
        let place = root.get("services").and_then(|s| s.get(name)).map(|n| n.place.clone());
        check_service(name, service).map_err(|error| match &place {
            Some(place) => error.at(place),
            None => error,
        })?;
    }
    project.networks = section(root, "networks")?;
    project.volumes = section(root, "volumes")?;
    project.configs = section(root, "configs")?;
    project.secrets = section(root, "secrets")?;
    for name in named {
        if !all.contains_key(name) {
            return Err(ComposeError::new(format!("no such service: {name}")));
        }
    }
    split_by_profile(&mut project, all, profiles, named);
    let names: BTreeSet<String> = project.services.keys().cloned().collect();
    let mut uses_default = false;
    for (name, service) in &mut project.services {
        implicit_dependencies(service, &names);
        environment(name, service, outer)?;
        uses_default |= join_default(service);
    }
    if uses_default {
        project.networks.entry("default".to_owned()).or_default();
    }
    for (key, network) in &mut project.networks {
        let name = if network.external { key.clone() } else { format!("{}_{key}", project.name) };
        default_name(&mut network.name, name);
    }
    for (key, volume) in &mut project.volumes {
        let name = if volume.external { key.clone() } else { format!("{}_{key}", project.name) };
        default_name(&mut volume.name, name);
    }
    for objects in [&mut project.configs, &mut project.secrets] {
        for (key, object) in objects {
            default_name(&mut object.name, format!("{}_{key}", project.name));
        }
    }
    check_references(&project, root)?;
    check_cycles(&project)?;
    drop_unused(&mut project);
    Ok(project)
}

fn default_name(name: &mut String, default: String) {
    if name.is_empty() {
        *name = default;
    }
}

fn section<T: serde::de::DeserializeOwned + Default>(
    root: &Node,
    key: &str,
) -> Result<BTreeMap<String, T>, ComposeError> {
    let mut all = BTreeMap::new();
    let Some(node) = root.get(key).filter(|n| !n.is_null()) else { return Ok(all) };
    let entries = node.as_map().ok_or_else(|| node.place.error(format!("`{key}` must be a map")))?;
    for (name, value) in entries {
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if name.starts_with("x-") && key != "services" {
            continue;
        }
        if name.is_empty() || !name.chars().all(good) {
            return Err(value.place.error(format!(
                "{key}: `{name}` is no name: letters, digits, dots, underscores and hyphens"
            )));
        }
        let read = if value.is_null() { Ok(T::default()) } else { typed::read(value) };
        all.insert(name.clone(), read.map_err(|error| error.of(&format!("{key}.{name}")))?);
    }
    Ok(all)
}

fn check_service(name: &str, service: &Service) -> Result<(), ComposeError> {
    let wrong = |what: String| Err(ComposeError::new(format!("services.{name}: {what}")));
    if service.image.is_empty() && service.build.is_none() {
        return wrong("it has neither an image nor a build context specified".to_owned());
    }
    if !service.network_mode.is_empty() && !service.networks.is_empty() {
        return wrong("it declares mutually exclusive `network_mode` and `networks`".to_owned());
    }
    if service.replicas() > 1 && !service.container_name.is_empty() {
        return wrong(format!(
            "{:?} is a custom container name, so that there can't be more than one container: leave it out, or the scale",
            service.container_name
        ));
    }
    if let (Some(scale), Some(replicas)) = (service.scale, service.deploy.as_ref().and_then(|d| d.replicas))
        && scale != replicas
    {
        return wrong("can't set distinct values on 'scale' and 'deploy.replicas'".to_owned());
    }
    if service.gpus.is_some() {
        return wrong("`gpus` is not supported: pass the device files with `devices`".to_owned());
    }
    if service.build.as_ref().is_some_and(|b| !b.dockerfile.is_empty() && !b.dockerfile_inline.is_empty()) {
        return wrong("build: `dockerfile` and `dockerfile_inline` exclude each other".to_owned());
    }
    for mount in &service.volumes {
        match mount.kind.as_str() {
            "volume" | "bind" | "tmpfs" | "image" | "npipe" | "cluster" => {}
            "" => return wrong(format!("volumes: the mount at `{}` has no type", mount.target)),
            kind => return wrong(format!("volumes: `{kind}` is no type of a mount: volume, bind, tmpfs")),
        }
        if mount.target.is_empty() {
            return wrong("volumes: a mount has no target".to_owned());
        }
        if mount.kind == "bind" && mount.source.is_empty() {
            return wrong(
                "volumes: invalid mount config for type \"bind\": field Source must not be empty".to_owned(),
            );
        }
    }
    if service.ports.iter().any(|p| p.target == 0) {
        return wrong("ports: a port has no target".to_owned());
    }
    let policy = service.restart.split(':').next().unwrap_or_default();
    if !matches!(policy, "" | "no" | "always" | "on-failure" | "unless-stopped") {
        return wrong(format!(
            "restart: `{}` is no policy: no, always, on-failure[:TIMES], unless-stopped",
            service.restart
        ));
    }
    let policy = service.pull_policy.as_str();
    let timed = policy.starts_with("every_") || matches!(policy, "daily" | "weekly");
    if !timed
        && !matches!(policy, "" | "always" | "never" | "missing" | "if_not_present" | "build" | "refresh")
    {
        return wrong(format!("pull_policy: `{policy}` is no policy: always, never, missing, build"));
    }
    Ok(())
}

/// Services whose profiles are wanted, or that have none, or that were named, with what those depend on.
fn split_by_profile(
    project: &mut Project,
    all: BTreeMap<String, Service>,
    profiles: &[String],
    named: &[String],
) {
    let wanted = |service: &Service| {
        service.profiles.is_empty()
            || profiles.iter().any(|p| p == "*")
            || service.profiles.iter().any(|p| profiles.contains(p))
    };
    let mut enabled: BTreeSet<String> =
        all.iter().filter(|(_, s)| wanted(s)).map(|(name, _)| name.clone()).collect();
    let mut open: Vec<String> = named.to_vec();
    while let Some(name) = open.pop() {
        if let Some(service) = all.get(&name)
            && (enabled.insert(name.clone()) || named.contains(&name))
        {
            open.extend(service.depends_on.keys().filter(|d| !enabled.contains(*d)).cloned());
        }
    }
    for (name, service) in all {
        let to = if enabled.contains(&name) { &mut project.services } else { &mut project.disabled };
        to.insert(name, service);
    }
}

/// Who shares what is another's depends on it.
fn implicit_dependencies(service: &mut Service, names: &BTreeSet<String>) {
    let mut others: Vec<String> = Vec::new();
    for link in &service.links {
        others.push(link.split(':').next().unwrap_or_default().to_owned());
    }
    for mode in [&service.network_mode, &service.ipc, &service.pid] {
        others.extend(mode.strip_prefix("service:").map(str::to_owned));
    }
    for from in &service.volumes_from {
        if !from.starts_with("container:") {
            others.push(from.split(':').next().unwrap_or_default().to_owned());
        }
    }
    for other in others.into_iter().filter(|other| names.contains(other)) {
        service.depends_on.entry(other).or_insert(Dependency {
            condition: Condition::ServiceStarted,
            restart: true,
            required: true,
        });
    }
}

/// Puts the variables of files beneath the service's own, and fills in those without a value.
fn environment(name: &str, service: &mut Service, outer: &Outer<'_>) -> Result<(), ComposeError> {
    let mut all: BTreeMap<String, Option<String>> = BTreeMap::new();
    let mut both = outer.variables.clone();
    both.extend(outer.environment.clone());
    for file in &service.env_file {
        let path = Path::new(&file.path);
        if !outer.files.exists(path) {
            if file.required {
                return Err(ComposeError::new(format!(
                    "services.{name}: env file {} not found: make it, or say `required: false`",
                    file.path
                )));
            }
            continue;
        }
        let text = outer
            .files
            .read(path)
            .map_err(|error| ComposeError::new(format!("cannot read `{}`: {error}", file.path)))?;
        let read = if file.format == "raw" { raw(&text) } else { dotenv::parse(&text, path, &both)? };
        all.extend(read.into_iter().map(|(name, value)| (name, Some(value))));
    }
    for (name, value) in std::mem::take(&mut service.environment) {
        let value = value.or_else(|| outer.get(&name).cloned());
        if value.is_some() {
            all.insert(name, value);
        } else {
            all.entry(name).or_insert(None);
        }
    }
    service.environment = all;
    if let Some(build) = &mut service.build {
        for (name, value) in &mut build.args {
            *value = value.take().or_else(|| outer.get(name).cloned());
        }
    }
    let own = std::mem::take(&mut service.labels);
    for file in &service.label_file {
        let text = outer
            .files
            .read(Path::new(file))
            .map_err(|error| ComposeError::new(format!("cannot read the labels `{file}`: {error}")))?;
        service.labels.extend(dotenv::parse(&text, Path::new(file), &both)?);
    }
    service.labels.extend(own);
    Ok(())
}

fn raw(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().filter(|l| !l.trim().is_empty() && !l.starts_with('#'));
    lines.filter_map(|l| l.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

/// Who names no network joins the project's own.
fn join_default(service: &mut Service) -> bool {
    if service.network_mode.is_empty() && service.networks.is_empty() {
        service.networks.insert("default".to_owned(), None::<ServiceNetwork>);
    }
    service.networks.contains_key("default")
}

fn check_references(project: &Project, root: &Node) -> Result<(), ComposeError> {
    for (name, service) in &project.services {
        let node = root.get("services").and_then(|s| s.get(name));
        let wrong = |part: &str, what: String| {
            let error = ComposeError::new(format!("service {name:?} {what}"));
            match node.and_then(|n| n.get(part).or(Some(n))) {
                Some(node) => Err(error.at(&node.place)),
                None => Err(error),
            }
        };
        for (other, dependency) in &service.depends_on {
            if !project.services.contains_key(other) && dependency.required {
                return wrong("depends_on", format!("depends on undefined service {other:?}"));
            }
        }
        for network in service.networks.keys() {
            if !project.networks.contains_key(network) {
                return wrong("networks", format!("refers to undefined network {network}"));
            }
        }
        for mount in service.volumes.iter().filter(|m| m.kind == "volume" && !m.source.is_empty()) {
            if !project.volumes.contains_key(&mount.source) {
                return wrong("volumes", format!("refers to undefined volume {}", mount.source));
            }
        }
        let file_mounts = [
            ("configs", &service.configs, &project.configs),
            ("secrets", &service.secrets, &project.secrets),
        ];
        for (kind, mounts, objects) in file_mounts {
            for mount in mounts {
                match objects.get(&mount.source) {
                    None => {
                        return wrong(kind, format!("refers to undefined {} {}", &kind[..6], mount.source));
                    }
                    Some(object) => check_object(kind, &mount.source, object)?,
                }
            }
        }
        for mode in [&service.network_mode, &service.ipc, &service.pid] {
            if let Some(other) = mode.strip_prefix("service:").filter(|o| !project.services.contains_key(*o))
            {
                return wrong("network_mode", format!("refers to undefined service {other}"));
            }
        }
    }
    Ok(())
}

fn check_object(kind: &str, name: &str, object: &FileObject) -> Result<(), ComposeError> {
    let sources =
        [!object.file.is_empty(), !object.environment.is_empty(), object.content.is_some(), object.external];
    match sources.iter().filter(|s| **s).count() {
        _ if object.external => Err(ComposeError::new(format!(
            "{kind}.{name}: external {kind} are a swarm's, and there is none: use `file`"
        ))),
        1 => Ok(()),
        0 => Err(ComposeError::new(format!(
            "{kind}.{name}: one of `file`, `environment` and `content` must be set"
        ))),
        _ => Err(ComposeError::new(format!(
            "{kind}.{name}: `file`, `environment` and `content` exclude one another"
        ))),
    }
}

/// Nothing may depend on itself.
fn check_cycles(project: &Project) -> Result<(), ComposeError> {
    let mut done: BTreeSet<&str> = BTreeSet::new();
    loop {
        let ready =
            project.services.iter().filter(|(name, _)| !done.contains(name.as_str())).find(|(_, service)| {
                service
                    .depends_on
                    .keys()
                    .all(|d| done.contains(d.as_str()) || !project.services.contains_key(d))
            });
        match ready {
            Some((name, _)) => {
                done.insert(name);
            }
            None => break,
        }
    }
    let left: Vec<&str> =
        project.services.keys().map(String::as_str).filter(|name| !done.contains(name)).collect();
    let Some(first) = left.first() else { return Ok(()) };
    // Follow one dependency each until a name comes again.
    let mut way = vec![*first];
    while let Some(service) = way.last().and_then(|name| project.services.get(*name)) {
        let Some(next) = service.depends_on.keys().find(|d| left.contains(&d.as_str())) else { break };
        if let Some(at) = way.iter().position(|name| name == next) {
            way.push(next);
            return Err(ComposeError::new(format!("dependency cycle detected: {}", way[at..].join(" -> "))));
        }
        way.push(next);
    }
    Ok(())
}

/// What no service uses is not made.
fn drop_unused(project: &mut Project) {
    let networks: BTreeSet<String> =
        project.services.values().flat_map(|s| s.networks.keys().cloned()).collect();
    project.networks.retain(|key, _: &mut Network| networks.contains(key));
    let volumes: BTreeSet<String> =
        project.services.values().flat_map(|s| s.volumes.iter().map(|m| m.source.clone())).collect();
    project.volumes.retain(|key, _: &mut Volume| volumes.contains(key));
}
