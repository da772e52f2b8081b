//! `compose up`, `create`, `scale`.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use sampan_compose::plan::{Plan, Wishes, wanted};

use super::attach::{self, Ending};
use super::converge::{self, How};
use super::ensure::{self, Policy};
use super::project::Session;
use super::report::Report;
use crate::commands::say;

/// What `up` and `create` have in common.
#[derive(Args, Default)]
pub(crate) struct Making {
    /// Build images first
    #[arg(long)]
    build: bool,
    /// Build nothing
    #[arg(long, conflicts_with = "build")]
    no_build: bool,
    /// Replace containers even if nothing has changed
    #[arg(long)]
    force_recreate: bool,
    /// Replace nothing
    #[arg(long, conflicts_with = "force_recreate")]
    no_recreate: bool,
    /// Remove containers of services that are not in the files
    #[arg(long)]
    remove_orphans: bool,
    /// Another number of containers: SERVICE=NUMBER
    #[arg(long, value_name = "SERVICE=NUMBER")]
    scale: Vec<String>,
    /// When to get images: always, missing, never, policy
    #[arg(long, value_parser = ["always", "missing", "never", "policy", "build"], default_value = "policy", value_name = "WHEN")]
    pull: String,
    /// Do not show what is got
    #[arg(long)]
    quiet_pull: bool,
}

/// `sampan compose up`
#[derive(Args)]
pub(crate) struct Up {
    #[command(flatten)]
    making: Making,
    /// Return when they run
    #[arg(short, long)]
    detach: bool,
    /// Return when they run and are well
    #[arg(long)]
    wait: bool,
    /// Seconds to wait for that
    #[arg(long, value_name = "SECONDS")]
    wait_timeout: Option<u64>,
    /// Stop all when one has ended
    #[arg(long, conflicts_with = "detach")]
    abort_on_container_exit: bool,
    /// Stop all when one has failed
    #[arg(long, conflicts_with = "detach")]
    abort_on_container_failure: bool,
    /// End with the exit code of this service
    #[arg(long, value_name = "SERVICE", conflicts_with = "detach")]
    exit_code_from: Option<String>,
    /// Replace also what the services depend on
    #[arg(long)]
    always_recreate_deps: bool,
    /// Only show these services
    #[arg(long, value_name = "SERVICE")]
    attach: Vec<String>,
    /// Do not show these services
    #[arg(long, value_name = "SERVICE")]
    no_attach: Vec<String>,
    /// Also show what the services depend on
    #[arg(long)]
    attach_dependencies: bool,
    /// No colours
    #[arg(long)]
    no_color: bool,
    /// No names before lines
    #[arg(long)]
    no_log_prefix: bool,
    /// With times
    #[arg(long)]
    timestamps: bool,
    /// Leave alone what the services depend on
    #[arg(long)]
    no_deps: bool,
    /// Start nothing
    #[arg(long)]
    no_start: bool,
    /// New anonymous volumes
    #[arg(short = 'V', long)]
    renew_anon_volumes: bool,
    /// Seconds until a container that is to stop is killed
    #[arg(short, long, value_name = "SECONDS")]
    timeout: Option<i64>,
    /// Kept for scripts
    #[arg(short = 'y', long, hide = true)]
    yes: bool,
    /// Kept for scripts
    #[arg(long, hide = true)]
    menu: bool,
    /// The services; none: all
    #[arg(value_name = "SERVICE")]
    pub(super) services: Vec<String>,
}

/// `sampan compose create`
#[derive(Args)]
pub(crate) struct Create {
    #[command(flatten)]
    making: Making,
    /// The services; none: all
    #[arg(value_name = "SERVICE")]
    pub(super) services: Vec<String>,
}

/// `sampan compose scale`
#[derive(Args)]
pub(crate) struct Scale {
    /// Leave alone what the services depend on
    #[arg(long)]
    no_deps: bool,
    /// SERVICE=NUMBER
    #[arg(required = true, value_name = "SERVICE=NUMBER")]
    scale: Vec<String>,
}

fn scales(list: &[String]) -> Result<BTreeMap<String, u32>> {
    let read = |text: &String| {
        let wrong = || format!("invalid --scale `{text}`: it is SERVICE=NUMBER");
        let (service, number) = text.split_once('=').with_context(wrong)?;
        Ok((service.to_owned(), number.parse().ok().with_context(wrong)?))
    };
    list.iter().map(read).collect()
}

/// Makes all that is needed; the plan, and the containers.
async fn make(
    session: &Session,
    making: &Making,
    wishes: &Wishes,
    how: &How,
    report: &Report,
) -> Result<Option<(Plan, Vec<converge::Member>)>> {
    let project = session.project()?;
    for service in wishes.services.iter().chain(wishes.scale.keys()) {
        if !project.services.contains_key(service) {
            bail!("no such service: {service}");
        }
    }
    let services: BTreeSet<&str> = wanted(project, wishes);
    if services.is_empty() {
        bail!("no service selected: are all in profiles? name one, or use --profile");
    }
    if session.flags.dry_run {
        let plan = Plan::make(project, &session.observed().await?, &BTreeMap::new(), wishes);
        say(plan.to_string().trim_end())?;
        return Ok(None);
    }
    let build = match (making.build, making.no_build) {
        (true, _) => Some(true),
        (_, true) => Some(false),
        _ => None,
    };
    let images =
        ensure::images(session, &services, Policy::of(&making.pull), build, making.quiet_pull).await?;
    ensure::networks(session, &services, report).await?;
    ensure::volumes(session, &services, report).await?;
    let plan = Plan::make(project, &session.observed().await?, &images, wishes);
    let members = converge::make(session, &plan, &images, how, report).await?;
    Ok(Some((plan, members)))
}

pub(super) async fn create(session: &Session, command: Create) -> Result<ExitCode> {
    let wishes = Wishes {
        services: command.services.clone(),
        force_recreate: command.making.force_recreate,
        no_recreate: command.making.no_recreate,
        scale: scales(&command.making.scale)?,
        remove_orphans: command.making.remove_orphans,
        no_start: true,
        ..Wishes::default()
    };
    let report = Report::new(&session.flags);
    make(session, &command.making, &wishes, &How::default(), &report).await?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn scale(session: &Session, command: Scale) -> Result<ExitCode> {
    let scale = scales(&command.scale)?;
    let wishes = Wishes {
        services: scale.keys().cloned().collect(),
        no_deps: command.no_deps,
        scale,
        ..Wishes::default()
    };
    let report = Report::new(&session.flags);
    if let Some((plan, members)) =
        make(session, &Making::default(), &wishes, &How::default(), &report).await?
    {
        converge::start(session, &plan, &members, &report).await?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn up(session: &Session, command: Up) -> Result<ExitCode> {
    let project = session.project()?;
    let wishes = Wishes {
        services: command.services.clone(),
        no_deps: command.no_deps,
        force_recreate: command.making.force_recreate,
        no_recreate: command.making.no_recreate,
        always_recreate_deps: command.always_recreate_deps,
        scale: scales(&command.making.scale)?,
        remove_orphans: command.making.remove_orphans,
        no_start: false,
    };
    for service in command.exit_code_from.iter().chain(&command.attach).chain(&command.no_attach) {
        if !project.services.contains_key(service) {
            bail!("no such service: {service}");
        }
    }
    let how = How { timeout: command.timeout, renew_volumes: command.renew_anon_volumes };
    let report = Report::new(&session.flags);
    let Some((plan, members)) = make(session, &command.making, &wishes, &how, &report).await? else {
        return Ok(ExitCode::SUCCESS);
    };
    if command.no_start {
        return Ok(ExitCode::SUCCESS);
    }
    if command.detach || command.wait {
        converge::start(session, &plan, &members, &report).await?;
        if command.wait {
            let all = futures_util::future::join_all(
                members.iter().map(|m| converge::healthy(&session.client, m, false)),
            );
            let results = match command.wait_timeout {
                None => all.await,
                Some(seconds) => tokio::time::timeout(std::time::Duration::from_secs(seconds), all)
                    .await
                    .with_context(|| format!("not all services were well after {seconds} seconds"))?,
            };
            for result in results {
                result?;
            }
            members.iter().for_each(|m| report.done(&format!("Container {}", m.name), "Healthy"));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let named = |service: &String| {
        command.services.is_empty() || command.services.contains(service) || command.attach_dependencies
    };
    let shown = |service: &String| {
        let by_file = project.services.get(service).and_then(|s| s.attach) != Some(false);
        let by_flag = if command.attach.is_empty() {
            named(service) && by_file
        } else {
            command.attach.contains(service)
        };
        by_flag && !command.no_attach.contains(service)
    };
    let attached: Vec<converge::Member> = members.iter().filter(|m| shown(&m.service)).cloned().collect();
    let ending = Ending {
        on_exit: command.abort_on_container_exit || command.exit_code_from.is_some(),
        on_failure: command.abort_on_container_failure,
        code_from: command.exit_code_from.clone(),
        timeout: command.timeout,
    };
    let style = attach::Style {
        colours: super::report::colours(&session.flags, std::io::IsTerminal::is_terminal(&std::io::stdout()))
            && !command.no_color,
        prefix: !command.no_log_prefix,
        timestamps: command.timestamps,
    };
    attach::run(session, &plan, &members, &attached, &ending, &style, report).await
}
