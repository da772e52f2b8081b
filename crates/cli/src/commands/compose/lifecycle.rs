//! `compose start`, `stop`, `restart`, `kill`, `rm`, `pause`, `unpause`, `wait`.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use sampan_compose::plan::{Plan, ServicePlan};
use sampan_docker_api::container::{ContainerSummary, WaitAnswer};

use super::converge::{self, Member};
use super::project::{Session, Which, name_of, number_of, service_of};
use super::report::Report;
use crate::client::query;
use crate::commands::container::confirm;
use crate::commands::run::{container_path, exit_code};
use crate::commands::{fail, say, tell};

/// Some services.
#[derive(Args)]
pub(crate) struct Services {
    /// The services; none: all
    #[arg(value_name = "SERVICE")]
    pub(super) services: Vec<String>,
}

/// `sampan compose start`
#[derive(Args)]
pub(crate) struct Start {
    /// Return when they are well
    #[arg(long)]
    wait: bool,
    /// The services; none: all
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

fn member(c: &ContainerSummary) -> Member {
    Member {
        id: c.id.clone(),
        name: name_of(c).to_owned(),
        service: service_of(c).to_owned(),
        number: number_of(c),
        running: matches!(c.state.as_str(), "running" | "paused" | "restarting"),
    }
}

pub(super) async fn start(session: &Session, command: Start) -> Result<ExitCode> {
    let containers = session.of_services(&command.services, true).await?;
    let report = Report::new(&session.flags);
    let members: Vec<Member> = containers.iter().map(member).collect();
    let mut plan = Plan::default();
    for service in session.in_order(&containers) {
        if !members.iter().any(|m| m.service == service) {
            let asked = command.services.contains(&service);
            if asked {
                bail!(
                    "service {service:?} has no container to start: make it with `sampan compose up {service}`"
                );
            }
            continue;
        }
        let depends = session.files().and_then(|p| p.services.get(&service)).map(|s| s.depends_on.clone());
        let after = depends
            .unwrap_or_default()
            .into_iter()
            .map(|(other, d)| (other, d.condition, d.required))
            .collect();
        plan.services.push(ServicePlan { service, after, actions: Vec::new() });
    }
    match session.files() {
        Some(_) => converge::start(session, &plan, &members, &report).await?,
        None => {
            for member in members.iter().filter(|m| !m.running) {
                session.client.post(&container_path(&member.id, "start")).await?;
                report.done(&format!("Container {}", member.name), "Started");
            }
        }
    }
    if command.wait {
        for member in &members {
            converge::healthy(&session.client, member, false).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// `sampan compose stop`
#[derive(Args)]
pub(crate) struct Stop {
    /// Seconds until a container is killed
    #[arg(short, long, value_name = "SECONDS")]
    timeout: Option<i64>,
    /// The services; none: all
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

pub(super) async fn stop(session: &Session, command: Stop) -> Result<ExitCode> {
    let containers = session.of_services(&command.services, false).await?;
    let report = Report::new(&session.flags);
    stop_in_order(session, &containers, command.timeout, &report).await
}

/// Stops containers, those first that depend on others.
async fn stop_in_order(
    session: &Session,
    containers: &[ContainerSummary],
    timeout: Option<i64>,
    report: &Report,
) -> Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for service in session.in_order(containers).iter().rev() {
        let own = containers.iter().filter(|c| service_of(c) == service);
        let stops = own.map(|c| async move {
            let thing = format!("Container {}", name_of(c));
            report.doing(&thing, "Stopping");
            for hook in session
                .files()
                .and_then(|p| p.services.get(service))
                .map(|s| s.pre_stop.clone())
                .unwrap_or_default()
            {
                super::run::hook(&session.client, &c.id, &hook).await?;
            }
            converge::stop(&session.client, &c.id, timeout).await?;
            report.done(&thing, "Stopped");
            Ok::<_, anyhow::Error>(())
        });
        for stopped in futures_util::future::join_all(stops).await {
            if let Err(error) = stopped {
                code = fail(&error);
            }
        }
    }
    Ok(code)
}

/// `sampan compose restart`
#[derive(Args)]
pub(crate) struct Restart {
    /// Leave alone what depends on them
    #[arg(long)]
    no_deps: bool,
    /// Seconds until a container is killed
    #[arg(short, long, value_name = "SECONDS")]
    timeout: Option<i64>,
    /// The services; none: all
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

pub(super) async fn restart(session: &Session, command: Restart) -> Result<ExitCode> {
    let mut services = command.services.clone();
    // Who said that it is to be restarted with what it depends on.
    if let (Some(project), false) = (session.files(), command.no_deps || services.is_empty()) {
        let follows = |name: &&String| {
            let depends = project.services.get(*name).map(|s| &s.depends_on);
            depends.is_some_and(|d| d.iter().any(|(other, d)| d.restart && command.services.contains(other)))
        };
        services.extend(
            project.services.keys().filter(follows).filter(|n| !command.services.contains(n)).cloned(),
        );
    }
    let containers = session.of_services(&services, true).await?;
    let report = Report::new(&session.flags);
    let time = command.timeout.map(|t| t.to_string()).unwrap_or_default();
    let mut code = ExitCode::SUCCESS;
    for service in session.in_order(&containers) {
        let own = containers.iter().filter(|c| service_of(c) == service);
        let restarts = own.map(|c| {
            let (report, time) = (&report, &time);
            async move {
                let thing = format!("Container {}", name_of(c));
                report.doing(&thing, "Restarting");
                let path = container_path(&c.id, "restart") + &query(&[("t", time)]);
                session.client.post(&path).await?;
                report.done(&thing, "Started");
                Ok::<_, anyhow::Error>(())
            }
        });
        for restarted in futures_util::future::join_all(restarts).await {
            if let Err(error) = restarted {
                code = fail(&error);
            }
        }
    }
    Ok(code)
}

/// `sampan compose kill`
#[derive(Args)]
pub(crate) struct Kill {
    /// Also containers of services that are not in the files
    #[arg(long)]
    remove_orphans: bool,
    /// The signal
    #[arg(short, long, default_value = "SIGKILL")]
    signal: String,
    /// The services; none: all
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

pub(super) async fn kill(session: &Session, command: Kill) -> Result<ExitCode> {
    let containers = session.of_services(&command.services, false).await?;
    if containers.is_empty() {
        tell("no container to kill");
    }
    let report = Report::new(&session.flags);
    let mut code = ExitCode::SUCCESS;
    for container in &containers {
        let path = container_path(&container.id, "kill") + &query(&[("signal", &command.signal)]);
        match session.client.post(&path).await {
            Ok(()) => report.done(&format!("Container {}", name_of(container)), "Killed"),
            Err(error) => code = fail(&error),
        }
    }
    if command.remove_orphans
        && let Some(project) = session.files()
    {
        for orphan in session.containers(Which::Services, true).await? {
            if !project.services.contains_key(service_of(&orphan)) {
                converge::remove(&session.client, &orphan.id, name_of(&orphan), None, false, &report).await?;
            }
        }
    }
    Ok(code)
}

/// `sampan compose rm`
#[derive(Args)]
pub(crate) struct Remove {
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Stop them first
    #[arg(short, long)]
    stop: bool,
    /// With their anonymous volumes
    #[arg(short, long)]
    volumes: bool,
    /// Kept for scripts
    #[arg(short, long, hide = true)]
    all: bool,
    /// The services; none: all
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

pub(super) async fn remove(session: &Session, command: Remove) -> Result<ExitCode> {
    let report = Report::new(&session.flags);
    let mut containers = session.of_services(&command.services, true).await?;
    if command.stop {
        stop_in_order(session, &containers, None, &report).await?;
    } else {
        containers.retain(|c| !matches!(c.state.as_str(), "running" | "paused" | "restarting"));
    }
    if containers.is_empty() {
        tell("No stopped containers");
        return Ok(ExitCode::SUCCESS);
    }
    let names: Vec<&str> = containers.iter().map(name_of).collect();
    if !command.force && !confirm(&format!("Going to remove {}.", names.join(", ")))? {
        return Ok(ExitCode::FAILURE);
    }
    let mut code = ExitCode::SUCCESS;
    for container in &containers {
        let removed = converge::remove(
            &session.client,
            &container.id,
            name_of(container),
            None,
            command.volumes,
            &report,
        )
        .await;
        if let Err(error) = removed {
            code = fail(&error);
        }
    }
    Ok(code)
}

pub(super) async fn each(session: &Session, command: Services, verb: &str) -> Result<ExitCode> {
    let containers = session.of_services(&command.services, false).await?;
    let report = Report::new(&session.flags);
    let mut code = ExitCode::SUCCESS;
    // What is paused already, or not, is as it should be.
    for container in containers.iter().filter(|c| (c.state == "paused") == (verb == "unpause")) {
        match session.client.post(&container_path(&container.id, verb)).await {
            Ok(()) => {
                let done = if verb == "pause" { "Paused" } else { "Unpaused" };
                report.done(&format!("Container {}", name_of(container)), done);
            }
            Err(error) => code = fail(&error),
        }
    }
    Ok(code)
}

/// `sampan compose wait`
#[derive(Args)]
pub(crate) struct Wait {
    /// Take all down when the first has ended
    #[arg(long)]
    down_project: bool,
    /// The services
    #[arg(required = true, value_name = "SERVICE")]
    services: Vec<String>,
}

pub(super) async fn wait(session: &Session, command: Wait) -> Result<ExitCode> {
    let containers = session.of_services(&command.services, true).await?;
    if containers.is_empty() {
        bail!("no containers for project {:?}", session.name);
    }
    let mut code = 0;
    for container in &containers {
        let answer: WaitAnswer =
            session.client.post_json(&container_path(&container.id, "wait"), &()).await?;
        say(format_args!("{}", answer.status_code))?;
        code = answer.status_code;
        if command.down_project {
            stop_in_order(
                session,
                &session.containers(Which::Services, true).await?,
                None,
                &Report::new(&session.flags),
            )
            .await?;
            break;
        }
    }
    Ok(exit_code(code))
}
