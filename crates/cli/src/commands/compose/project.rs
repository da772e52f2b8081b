//! The files of a project, and what is there of it.

use std::collections::BTreeMap;
use std::io::Read;

use anyhow::{Result, bail};
use sampan_compose::load::{Disk, Request};
use sampan_compose::plan::Observed;
use sampan_compose::{Project, labels, load};
use sampan_docker_api::container::ContainerSummary;

use super::Flags;
use crate::client::{Client, query};
use crate::commands::tell;

/// A project that something is asked of.
pub(super) struct Session {
    pub(super) client: Client,
    pub(super) name: String,
    /// What the files say; none: there are none, only the name.
    files: Option<Project>,
    pub(super) flags: Flags,
}

/// Which containers of a project.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    /// Those of services.
    Services,
    /// Also those of `run`.
    All,
}

/// The longest standard input that is a file.
const MAX_INPUT_BYTES: u64 = 16 << 20;

impl Session {
    /// Reads the files.
    pub(super) fn open(
        client: &Client,
        flags: &Flags,
        services: &[String],
        by_name: bool,
    ) -> Result<Session> {
        let mut input = None;
        if flags.file.iter().any(|f| f.as_os_str() == "-") {
            let mut text = String::new();
            std::io::stdin().take(MAX_INPUT_BYTES).read_to_string(&mut text)?;
            input = Some(text);
        }
        let request = Request {
            here: std::env::current_dir()?,
            files: flags.file.clone(),
            directory: flags.project_directory.clone(),
            name: flags.project_name.clone(),
            profiles: if by_name && flags.profile.is_empty() {
                vec!["*".to_owned()]
            } else {
                flags.profile.clone()
            },
            env_files: flags.env_file.clone(),
            environment: std::env::vars().collect(),
            services: services.to_vec(),
            input,
            no_interpolation: false,
        };
        let given = flags.project_name.clone().or_else(|| std::env::var("COMPOSE_PROJECT_NAME").ok());
        match load(&Disk, &request) {
            Ok(project) => {
                // Who only looks or stops has heard them when it was started.
                for warning in project.warnings.iter().filter(|_| !by_name) {
                    tell(format_args!("WARNING: {warning}"));
                }
                let name = project.name.clone();
                Ok(Session { client: client.clone(), name, files: Some(project), flags: flags.clone() })
            }
            Err(error) => match given.filter(|name| by_name && !name.is_empty() && flags.file.is_empty()) {
                Some(name) if error.to_string().starts_with("no configuration file") => {
                    Ok(Session { client: client.clone(), name, files: None, flags: flags.clone() })
                }
                _ => Err(error.into()),
            },
        }
    }

    /// What the files say.
    pub(super) fn project(&self) -> Result<&Project> {
        match &self.files {
            Some(project) => Ok(project),
            None => bail!("there is no compose file of the project {:?} here", self.name),
        }
    }

    /// As [`Session::project`], if there are files.
    pub(super) fn files(&self) -> Option<&Project> {
        self.files.as_ref()
    }

    /// The project's containers.
    pub(super) async fn containers(&self, which: Which, all: bool) -> Result<Vec<ContainerSummary>> {
        let mut wanted = vec![format!("{}={}", labels::PROJECT, self.name)];
        match which {
            Which::Services => wanted.push(format!("{}=False", labels::ONE_OFF)),
            Which::All => {}
        }
        let filters = serde_json::to_string(&BTreeMap::from([("label", wanted)]))?;
        let path = format!(
            "/containers/json{}",
            query(&[("all", if all { "1" } else { "" }), ("filters", &filters)])
        );
        let mut containers: Vec<ContainerSummary> = self.client.get(&path).await?;
        containers.retain(|c| c.labels.contains_key(labels::SERVICE));
        containers.sort_by_key(|c| (service_of(c).to_owned(), number_of(c), name_of(c).to_owned()));
        Ok(containers)
    }

    /// The containers of these services, or of all; one that there is not is an error.
    pub(super) async fn of_services(&self, services: &[String], all: bool) -> Result<Vec<ContainerSummary>> {
        let containers = self.containers(Which::Services, all).await?;
        for service in services {
            let known = self
                .files
                .as_ref()
                .is_some_and(|p| p.services.contains_key(service) || p.disabled.contains_key(service));
            if !known && !containers.iter().any(|c| service_of(c) == service) {
                bail!("no such service: {service}");
            }
        }
        Ok(containers
            .into_iter()
            .filter(|c| services.is_empty() || services.iter().any(|s| s == service_of(c)))
            .collect())
    }

    /// What the plan compares with.
    pub(super) async fn observed(&self) -> Result<Vec<Observed>> {
        let observe = |c: &ContainerSummary| Observed {
            id: c.id.clone(),
            name: name_of(c).to_owned(),
            service: service_of(c).to_owned(),
            number: number_of(c),
            hash: c.labels.get(labels::CONFIG_HASH).cloned().unwrap_or_default(),
            image: c.image_id.clone(),
            running: matches!(c.state.as_str(), "running" | "paused" | "restarting"),
        };
        Ok(self.containers(Which::Services, true).await?.iter().map(observe).collect())
    }

    /// The services, those first that others depend on.
    pub(super) fn in_order(&self, containers: &[ContainerSummary]) -> Vec<String> {
        let mut order: Vec<String> = match &self.files {
            Some(project) => project.in_order().into_iter().map(str::to_owned).collect(),
            None => from_labels(containers),
        };
        for container in containers {
            let service = service_of(container);
            if !order.iter().any(|known| known == service) {
                order.push(service.to_owned());
            }
        }
        order
    }
}

/// The order that containers' labels tell.
fn from_labels(containers: &[ContainerSummary]) -> Vec<String> {
    let mut open: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for container in containers {
        let list = container.labels.get(labels::DEPENDS_ON).map(String::as_str).unwrap_or_default();
        let needs = list.split(',').filter_map(|d| d.split(':').next()).filter(|d| !d.is_empty());
        open.insert(service_of(container), needs.collect());
    }
    let mut order: Vec<String> = Vec::new();
    loop {
        let ready = open.iter().find(|(_, needs)| !needs.iter().any(|need| open.contains_key(need)));
        // Labels may be anything: what is left in a circle comes in any order.
        let Some(name) = ready.or_else(|| open.iter().next()).map(|(name, _)| *name) else { return order };
        open.remove(name);
        order.push(name.to_owned());
    }
}

pub(super) fn service_of(container: &ContainerSummary) -> &str {
    container.labels.get(labels::SERVICE).map(String::as_str).unwrap_or_default()
}

pub(super) fn number_of(container: &ContainerSummary) -> u32 {
    container.labels.get(labels::NUMBER).and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// A container's own name.
pub(super) fn name_of(container: &ContainerSummary) -> &str {
    let own = container.names.iter().map(|n| n.trim_start_matches('/')).find(|n| !n.contains('/'));
    own.unwrap_or(&container.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_tell_the_order() {
        let container = |service: &str, needs: &str| ContainerSummary {
            labels: [(labels::SERVICE, service), (labels::DEPENDS_ON, needs)]
                .map(|(k, v)| (k.into(), v.into()))
                .into(),
            ..ContainerSummary::default()
        };
        let all = [
            container("a", "b:service_started:false,c:x"),
            container("b", "c:service_healthy:false"),
            container("c", ""),
        ];
        assert_eq!(from_labels(&all), ["c", "b", "a"]);
        let circle = [container("a", "b"), container("b", "a")];
        assert_eq!(from_labels(&circle).len(), 2);
    }
}
