//! A plan carried out: containers made, replaced and removed, then started as their dependencies allow.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use http::Method;
use sampan_compose::model::{Condition, Project};
use sampan_compose::plan::{Action, Plan};
use sampan_docker_api::container::{ContainerInspect, CreateAnswer, WaitAnswer};
use sampan_docker_api::network::EndpointSettings;
use serde_json::json;
use tokio::sync::watch;

use super::body::{Body, Other, Place, PutFile, body};
use super::project::Session;
use super::report::Report;
use crate::client::{Client, channel, encode, full, query};
use crate::commands::container::stats::Lines;
use crate::commands::run::container_path;
use crate::commands::{is_not_found, tell, upload};

/// A container of a service that is to run.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) service: String,
    pub(super) number: u32,
    /// It ran before.
    pub(super) running: bool,
}

/// How containers are made and stopped.
#[derive(Clone, Debug, Default)]
pub(super) struct How {
    /// Seconds until a container that is to stop is killed.
    pub(super) timeout: Option<i64>,
    /// New anonymous volumes, instead of those of the container that is replaced.
    pub(super) renew_volumes: bool,
}

/// The name of a service's container.
pub(super) fn container_name(project: &Project, service: &str, number: u32) -> String {
    let own = project.services.get(service).map(|s| s.container_name.as_str()).unwrap_or_default();
    if own.is_empty() { format!("{}-{service}-{number}", project.name) } else { own.to_owned() }
}

/// Makes, replaces and removes; all that is there then, in the order of dependencies.
pub(super) async fn make(
    session: &Session,
    plan: &Plan,
    images: &BTreeMap<String, String>,
    how: &How,
    report: &Report,
) -> Result<Vec<Member>> {
    let project = session.project()?;
    let client = &session.client;
    if plan.remove_orphans {
        for orphan in &plan.orphans {
            remove(client, &orphan.id, &orphan.name, how.timeout, false, report).await?;
        }
    } else if !plan.orphans.is_empty() {
        let names: Vec<&str> = plan.orphans.iter().map(|o| o.name.as_str()).collect();
        tell(format_args!(
            "WARNING: Found orphan containers ([{}]) for this project. If you removed or renamed this service in your compose file, you can run this command with the --remove-orphans flag to clean it up.",
            names.join(" ")
        ));
    }
    let mut members: Vec<Member> = Vec::new();
    // A container of each service, for those that share something with it.
    let mut others: BTreeMap<String, Other> = BTreeMap::new();
    for known in session.observed().await? {
        if known.running {
            others.insert(known.service, Other { id: known.id, name: known.name });
        }
    }
    for service_plan in &plan.services {
        let name = service_plan.service.as_str();
        let image_id = images.get(name).map(String::as_str).unwrap_or_default();
        let maker = Maker { session, project, service: name, image_id, others: &others, how, report };
        let acts = service_plan.actions.iter().map(|action| maker.act(action));
        let mut made = Vec::new();
        for member in futures_util::future::join_all(acts).await {
            made.extend(member?);
        }
        made.sort_by_key(|m: &Member| m.number);
        if let Some(first) = made.first() {
            let first = Other { id: first.id.clone(), name: first.name.clone() };
            others.insert(name.to_owned(), first);
        }
        members.extend(made);
    }
    Ok(members)
}

struct Maker<'m> {
    session: &'m Session,
    project: &'m Project,
    service: &'m str,
    image_id: &'m str,
    others: &'m BTreeMap<String, Other>,
    how: &'m How,
    report: &'m Report,
}

impl Maker<'_> {
    async fn act(&self, action: &Action) -> Result<Option<Member>> {
        let client = &self.session.client;
        let member = |id: String, name: String, number: u32, running: bool| {
            Some(Member { id, name, service: self.service.to_owned(), number, running })
        };
        match action {
            Action::Keep(old) => Ok(member(old.id.clone(), old.name.clone(), old.number, old.running)),
            Action::Start(old) => Ok(member(old.id.clone(), old.name.clone(), old.number, false)),
            Action::Remove(old) => {
                remove(client, &old.id, &old.name, self.how.timeout, false, self.report).await?;
                Ok(None)
            }
            Action::Create { number } => {
                let name = container_name(self.project, self.service, *number);
                let thing = format!("Container {name}");
                self.report.doing(&thing, "Creating");
                let id = self.create(&name, &name, *number, &[]).await?;
                self.report.done(&thing, "Created");
                Ok(member(id, name, *number, false))
            }
            Action::Recreate { old, .. } => {
                let name = container_name(self.project, self.service, old.number);
                let thing = format!("Container {name}");
                self.report.doing(&thing, "Recreate");
                let kept = if self.how.renew_volumes { Vec::new() } else { self.anonymous(&old.id).await? };
                // Under another name until the old one is gone: if it can't be made, the old one stays.
                let short = old.id.get(..12).unwrap_or(&old.id);
                let id = self.create(&format!("{short}_{name}"), &name, old.number, &kept).await?;
                stop(client, &old.id, self.how.timeout).await?;
                client.delete(&format!("/containers/{}?force=1", encode(&old.id))).await?;
                client.post(&(container_path(&id, "rename") + &query(&[("name", &name)]))).await?;
                self.report.done(&thing, "Recreated");
                Ok(member(id, name, old.number, false))
            }
        }
    }

    /// The anonymous volumes of a container: where they are mounted, and their names.
    async fn anonymous(&self, id: &str) -> Result<Vec<(String, String)>> {
        let inspect: ContainerInspect = self.session.client.get(&container_path(id, "json")).await?;
        let service = self.project.services.get(self.service);
        let named = |target: &str| {
            service.is_some_and(|s| s.volumes.iter().any(|v| v.target == target && !v.source.is_empty()))
        };
        let mounts = inspect.mounts.into_iter().filter(|m| m.kind == "volume" && !named(&m.destination));
        Ok(mounts.filter_map(|m| Some((m.destination, m.name?))).collect())
    }

    async fn create(
        &self,
        as_name: &str,
        name: &str,
        number: u32,
        kept: &[(String, String)],
    ) -> Result<String> {
        let service = self.project.services.get(self.service).context("the service has gone")?;
        let place = Place {
            project: self.project,
            service: self.service,
            number,
            one_off: false,
            name,
            image_id: self.image_id,
            others: self.others,
            kept_volumes: kept,
            aliases: true,
        };
        let body = body(service, &place)?;
        create(&self.session.client, as_name, &service.platform, body).await
    }
}

/// Makes a container, with what belongs into it; its id.
pub(super) async fn create(client: &Client, name: &str, platform: &str, body: Body) -> Result<String> {
    let path = format!("/containers/create{}", query(&[("name", name), ("platform", platform)]));
    let answer: CreateAnswer = client.post_json(&path, &body.request).await?;
    for warning in &answer.warnings {
        tell(format_args!("WARNING: {name}: {warning}"));
    }
    for (network, endpoint) in &body.later {
        connect(client, network, &answer.id, endpoint).await?;
    }
    if !body.files.is_empty() {
        let files = body.files;
        let archive = channel(upload(move |out| write_files(&files, out)));
        let path = container_path(&answer.id, "archive") + &query(&[("path", "/"), ("copyUIDGID", "true")]);
        client.request(Method::PUT, &path, archive, "application/x-tar").await?;
    }
    Ok(answer.id)
}

async fn connect(client: &Client, network: &str, container: &str, endpoint: &EndpointSettings) -> Result<()> {
    let body = json!({"Container": container, "EndpointConfig": endpoint});
    client.post_without_answer(&format!("/networks/{}/connect", encode(network)), &body).await
}

fn write_files(files: &[PutFile], out: &mut dyn std::io::Write) -> std::io::Result<()> {
    let mut tar = tar::Builder::new(out);
    for file in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(file.mode);
        header.set_uid(file.uid);
        header.set_gid(file.gid);
        header.set_size(file.content.len() as u64);
        header.set_entry_type(tar::EntryType::Regular);
        tar.append_data(&mut header, file.path.trim_start_matches('/'), file.content.as_slice())?;
    }
    tar.finish()
}

/// Stops a container.
pub(super) async fn stop(client: &Client, id: &str, timeout: Option<i64>) -> Result<()> {
    let time = timeout.map(|t| t.to_string()).unwrap_or_default();
    match client.post(&(container_path(id, "stop") + &query(&[("t", &time)]))).await {
        Err(error) if is_not_found(&error) => Ok(()),
        other => other,
    }
}

/// Stops and removes a container.
pub(super) async fn remove(
    client: &Client,
    id: &str,
    name: &str,
    timeout: Option<i64>,
    volumes: bool,
    report: &Report,
) -> Result<()> {
    let thing = format!("Container {name}");
    report.doing(&thing, "Stopping");
    stop(client, id, timeout).await?;
    report.doing(&thing, "Removing");
    let parameters = query(&[("force", "1"), ("v", if volumes { "1" } else { "" })]);
    match client.delete(&format!("/containers/{}{parameters}", encode(id))).await {
        Err(error) if !is_not_found(&error) => return Err(error),
        _ => {}
    }
    report.done(&thing, "Removed");
    Ok(())
}

/// Starts all that does not run, each when what it depends on allows.
pub(super) async fn start(session: &Session, plan: &Plan, members: &[Member], report: &Report) -> Result<()> {
    let project = session.project()?;
    // Each service tells when its containers have been started, or that they could not be.
    let told: BTreeMap<&str, watch::Sender<Option<bool>>> =
        plan.services.iter().map(|s| (s.service.as_str(), watch::channel(None).0)).collect();
    let told = &told;
    let services = plan.services.iter().map(|service_plan| async move {
        let name = service_plan.service.as_str();
        let result = async {
            for (other, condition, required) in &service_plan.after {
                if let Some(sender) = told.get(other.as_str()) {
                    let mut receiver = sender.subscribe();
                    let good = receiver.wait_for(Option::is_some).await.is_ok_and(|told| *told == Some(true));
                    if !good && *required {
                        bail!("dependency failed to start: service {other:?}");
                    }
                }
                let of_other = members.iter().filter(|m| m.service == *other);
                for member in of_other {
                    let waited = wait_for(&session.client, member, *condition, report).await;
                    match waited {
                        Err(error) if *required => return Err(error),
                        Err(error) => tell(format_args!("WARNING: {error:#}: {name} does not need it")),
                        Ok(()) => {}
                    }
                }
            }
            let own = members.iter().filter(|m| m.service == name && !m.running);
            let starts = own.map(|member| async move {
                let thing = format!("Container {}", member.name);
                report.doing(&thing, "Starting");
                session.client.post(&container_path(&member.id, "start")).await.with_context(|| {
                    format!("cannot start the container {} of service {name:?}", member.name)
                })?;
                hooks(session, project, member).await?;
                report.done(&thing, "Started");
                Ok::<_, anyhow::Error>(())
            });
            for started in futures_util::future::join_all(starts).await {
                started?;
            }
            Ok(())
        }
        .await;
        if let Some(sender) = told.get(name) {
            sender.send_replace(Some(result.is_ok()));
        }
        result
    });
    // The first failure is what led to the others.
    let results = futures_util::future::join_all(services).await;
    let mut errors: Vec<anyhow::Error> = results.into_iter().filter_map(Result::err).collect();
    errors.sort_by_key(|error| error.to_string().starts_with("dependency failed to start: service"));
    errors.into_iter().next().map_or(Ok(()), Err)
}

/// What a service wants to be run when a container of it has started.
async fn hooks(session: &Session, project: &Project, member: &Member) -> Result<()> {
    let hooks = project.services.get(&member.service).map(|s| s.post_start.as_slice()).unwrap_or_default();
    for hook in hooks {
        super::run::hook(&session.client, &member.id, hook).await?;
    }
    Ok(())
}

/// Waits until a container is as somebody wants it.
pub(super) async fn wait_for(
    client: &Client,
    member: &Member,
    condition: Condition,
    report: &Report,
) -> Result<()> {
    let thing = format!("Container {}", member.name);
    match condition {
        Condition::ServiceStarted => Ok(()),
        Condition::ServiceCompletedSuccessfully => {
            report.doing(&thing, "Waiting");
            let answer: WaitAnswer = client.post_json(&container_path(&member.id, "wait"), &()).await?;
            if answer.status_code != 0 {
                bail!(
                    "service {:?} didn't complete successfully: exit {}",
                    member.service,
                    answer.status_code
                );
            }
            report.done(&thing, "Exited");
            Ok(())
        }
        Condition::ServiceHealthy => {
            report.doing(&thing, "Waiting");
            healthy(client, member, true).await?;
            report.done(&thing, "Healthy");
            Ok(())
        }
    }
}

/// Waits until a container's health check says that it is well; without a check, `strict` is an error, and running is enough
/// else. Events tell when to look.
pub(super) async fn healthy(client: &Client, member: &Member, strict: bool) -> Result<()> {
    let filters = json!({"type": ["container"], "container": [member.id]}).to_string();
    let path = format!("/events{}", query(&[("filters", &filters)]));
    // Listened to before the first look, so that nothing is missed.
    let answer = client.request(Method::GET, &path, full(""), "application/json").await?;
    let mut events = Lines { body: answer.into_body(), rest: Vec::new() };
    loop {
        let inspect: ContainerInspect = client.get(&container_path(&member.id, "json")).await?;
        let state = &inspect.state;
        let health = state.health.as_ref().map(|h| h.status.as_str()).unwrap_or_default();
        match (state.status.as_str(), health) {
            ("running" | "paused", "healthy") => return Ok(()),
            (_, "unhealthy") => bail!("dependency failed to start: container {} is unhealthy", member.name),
            ("running", "" | "none") if strict => bail!(
                "container {} has no healthcheck configured: give service {:?} one, or wait for service_started",
                member.name,
                member.service
            ),
            ("running", "" | "none") => return Ok(()),
            // It has done what it was for, and nobody waits for its health.
            ("exited", _) if !strict && state.exit_code == 0 => return Ok(()),
            ("exited" | "dead", _) => {
                bail!("dependency failed to start: container {} exited ({})", member.name, state.exit_code)
            }
            _ => {}
        }
        if events.next::<serde_json::Value>().await.is_none() {
            bail!("the daemon's events ended while waiting for {}", member.name);
        }
    }
}
