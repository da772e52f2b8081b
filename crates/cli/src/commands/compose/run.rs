//! `compose run`, `exec`, `cp`.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser};
use http_body_util::BodyExt;
use sampan_compose::model::{Hook, Service};
use sampan_compose::plan::{Plan, Wishes, wanted};
use sampan_docker_api::IdAnswer;
use sampan_docker_api::detach;
use sampan_docker_api::exec::{ExecCreate, ExecInspect, ExecStart};
use sampan_docker_api::written;

use super::body::{Other, Place, body};
use super::converge::{self, How};
use super::ensure::{self, Policy};
use super::list::container_of;
use super::project::{Session, name_of};
use super::report::Report;
use crate::client::{Client, encode, full};
use crate::commands::options::environment::environment;
use crate::commands::run::{Foreground, container_path, failure_code};
use crate::commands::{fail_with, say};
use crate::terminal;

/// `sampan compose exec`
#[derive(Args)]
#[command(trailing_var_arg = true)]
pub(crate) struct Exec {
    /// Return at once
    #[arg(short, long)]
    detach: bool,
    /// Set an environment variable
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Which of the service's containers
    #[arg(long, value_name = "NUMBER")]
    index: Option<u32>,
    /// No terminal, though there is one here
    #[arg(short = 'T', long)]
    no_tty: bool,
    /// Kept for scripts: standard input is sent
    #[arg(short, long, hide = true)]
    interactive: bool,
    /// Kept for scripts: there is a terminal if there is one here
    #[arg(short, long, hide = true)]
    tty: bool,
    /// Give the command all privileges
    #[arg(long)]
    privileged: bool,
    /// User that runs the command
    #[arg(short, long, default_value = "", hide_default_value = true)]
    user: String,
    /// Directory that the command starts in
    #[arg(short, long, default_value = "", hide_default_value = true)]
    workdir: String,
    /// Service, command and arguments
    #[arg(required = true, num_args = 2.., allow_hyphen_values = true, value_name = "SERVICE COMMAND [ARG]...")]
    service_and_command: Vec<String>,
}

/// A line of `sampan exec`, so that a service's container is used as any other.
#[derive(Parser)]
struct ExecLine {
    #[command(flatten)]
    exec: crate::commands::exec::Exec,
}

pub(super) async fn exec(session: &Session, command: Exec) -> Result<ExitCode> {
    let Some((service, words)) = command.service_and_command.split_first() else {
        bail!("no service was named")
    };
    let container = container_of(session, service, command.index).await?;
    let terminal = terminal::input_is_terminal() && !command.no_tty && !command.detach;
    let mut line = vec!["exec".to_owned()];
    let switches = [
        ("--detach", command.detach),
        ("--privileged", command.privileged),
        ("--tty", terminal),
        ("--interactive", !command.detach),
    ];
    line.extend(switches.into_iter().filter(|(_, on)| *on).map(|(flag, _)| flag.to_owned()));
    line.extend(command.env.iter().map(|e| format!("--env={e}")));
    for (flag, value) in [("user", &command.user), ("workdir", &command.workdir)] {
        if !value.is_empty() {
            line.push(format!("--{flag}={value}"));
        }
    }
    line.push(container.id);
    line.extend(words.iter().cloned());
    let parsed = ExecLine::try_parse_from(line).context("the command can't be run so")?;
    crate::commands::exec::exec(&session.client, parsed.exec).await
}

/// Runs a command in a container and waits for its end; one that fails is an error.
pub(super) async fn hook(client: &Client, container: &str, hook: &Hook) -> Result<()> {
    let variables =
        hook.environment.iter().map(|(k, v)| v.as_ref().map_or(k.clone(), |v| format!("{k}={v}"))).collect();
    let request = ExecCreate {
        user: hook.user.clone(),
        privileged: hook.privileged,
        attach_stdout: true,
        attach_stderr: true,
        env: Some(variables),
        working_dir: hook.working_dir.clone(),
        cmd: hook.command.clone(),
        ..ExecCreate::default()
    };
    let id = client.post_json::<IdAnswer>(&container_path(container, "exec"), &request).await?.id;
    let start = serde_json::to_vec(&ExecStart::default())?;
    let answer = client
        .request(http::Method::POST, &format!("/exec/{id}/start"), full(start), "application/json")
        .await?;
    // Its output is nobody's; its end is the answer's.
    answer.into_body().collect().await?;
    let inspect: ExecInspect = client.get(&format!("/exec/{id}/json")).await?;
    match inspect.exit_code {
        Some(0) | None => Ok(()),
        Some(code) => bail!("the hook `{}` failed with exit code {code}", hook.command.join(" ")),
    }
}

/// `sampan compose run`
#[derive(Args)]
#[command(trailing_var_arg = true)]
pub(crate) struct Run {
    /// Build the image first
    #[arg(long)]
    build: bool,
    /// Print the container's name and return
    #[arg(short, long)]
    detach: bool,
    /// Another entrypoint
    #[arg(long, value_name = "COMMAND")]
    entrypoint: Option<String>,
    /// Set an environment variable
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Read environment variables from a file
    #[arg(long, value_name = "FILE")]
    env_from_file: Vec<String>,
    /// Add a capability
    #[arg(long, value_name = "NAME")]
    cap_add: Vec<String>,
    /// Drop a capability
    #[arg(long, value_name = "NAME")]
    cap_drop: Vec<String>,
    /// Set a label
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    label: Vec<String>,
    /// The container's name
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// No terminal, though there is one here
    #[arg(short = 'T', long, visible_alias = "no-tty")]
    no_tty: bool,
    /// Send standard input: true or false
    #[arg(short, long, default_value = "true", action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true,
        default_missing_value = "true", value_name = "BOOL")]
    interactive: bool,
    /// Do not start what the service depends on
    #[arg(long)]
    no_deps: bool,
    /// Publish a port
    #[arg(short, long, value_name = "PORT")]
    publish: Vec<String>,
    /// When to get images
    #[arg(long, value_parser = ["always", "missing", "never", "policy"], default_value = "policy", value_name = "WHEN")]
    pull: String,
    /// Do not show what is got
    #[arg(long)]
    quiet_pull: bool,
    /// Remove containers of services that are not in the files
    #[arg(long)]
    remove_orphans: bool,
    /// Remove the container when it has ended
    #[arg(long)]
    rm: bool,
    /// Publish the service's ports
    #[arg(short = 'P', long)]
    service_ports: bool,
    /// Known by the service's names in its networks
    #[arg(long)]
    use_aliases: bool,
    /// User that runs the command
    #[arg(short, long)]
    user: Option<String>,
    /// Mount a directory or a volume
    #[arg(short, long, value_name = "MOUNT")]
    volume: Vec<String>,
    /// Directory that the command starts in
    #[arg(short, long)]
    workdir: Option<String>,
    /// Service, command and arguments
    #[arg(required = true, allow_hyphen_values = true, value_name = "SERVICE [COMMAND] [ARG]...")]
    service_and_command: Vec<String>,
}

impl Run {
    /// The service.
    pub(super) fn named(&self) -> &[String] {
        self.service_and_command.get(..1).unwrap_or_default()
    }

    /// The service with what this run has otherwise.
    fn changed(&self, service: &Service, terminal: bool) -> Result<Service> {
        let mut service = service.clone();
        let words = &self.service_and_command[1..];
        if let Some(entrypoint) = &self.entrypoint {
            let words = shell_words::split(entrypoint).context("a quote does not end in --entrypoint")?;
            service.entrypoint = Some(words);
            // The command belonged to the entrypoint that is replaced.
            service.command = None;
        }
        if !words.is_empty() {
            service.command = Some(words.to_vec());
        }
        for line in environment(&self.env, &self.env_from_file)? {
            let (name, value) = line.split_once('=').unwrap_or((&line, ""));
            service.environment.insert(name.to_owned(), Some(value.to_owned()));
        }
        service.labels.extend(crate::commands::options::pairs(&self.label));
        service.cap_add.extend(self.cap_add.iter().cloned());
        service.cap_drop.extend(self.cap_drop.iter().cloned());
        if let Some(user) = &self.user {
            service.user.clone_from(user);
        }
        if let Some(workdir) = &self.workdir {
            service.working_dir.clone_from(workdir);
        }
        if !self.service_ports {
            service.ports.clear();
        }
        for text in &self.publish {
            for (port, binding) in written::published_port(text).map_err(anyhow::Error::msg)? {
                let (target, protocol) = port.split_once('/').unwrap_or((&port, "tcp"));
                service.ports.push(sampan_compose::model::Port {
                    target: target.parse()?,
                    protocol: protocol.to_owned(),
                    published: binding.host_port,
                    host_ip: binding.host_ip,
                    ..Default::default()
                });
            }
        }
        service.container_name.clear();
        service.restart.clear();
        service.deploy = service.deploy.map(|d| sampan_compose::model::Deploy { restart_policy: None, ..d });
        service.tty = Some(terminal);
        service.stdin_open = Some(self.interactive && !self.detach);
        Ok(service)
    }
}

pub(super) async fn run(session: &Session, command: Run) -> Result<ExitCode> {
    match try_run(session, &command).await {
        Ok(code) => Ok(code),
        Err(error) => {
            let code = failure_code(&error);
            Ok(fail_with(&error, if code == 125 { 1 } else { code }))
        }
    }
}

async fn try_run(session: &Session, command: &Run) -> Result<ExitCode> {
    let project = session.project()?;
    let client = &session.client;
    let Some(name) = command.named().first() else { bail!("no service was named") };
    let service = project.services.get(name).with_context(|| format!("no such service: {name}"))?;
    let report = Report::new(&session.flags);
    let build = command.build.then_some(true);
    let policy = Policy::of(&command.pull);
    let deps: Vec<String> =
        service.depends_on.keys().filter(|d| project.services.contains_key(*d)).cloned().collect();
    let mut all: BTreeSet<&str> = BTreeSet::from([name.as_str()]);
    let wishes =
        Wishes { services: deps.clone(), remove_orphans: command.remove_orphans, ..Wishes::default() };
    let with_deps = !command.no_deps && !deps.is_empty();
    if with_deps {
        all.extend(wanted(project, &wishes));
    }
    let images = ensure::images(session, &all, policy, build, command.quiet_pull).await?;
    ensure::networks(session, &all, &report).await?;
    ensure::volumes(session, &all, &report).await?;
    let mut others: BTreeMap<String, Other> = session
        .observed()
        .await?
        .into_iter()
        .filter(|o| o.running)
        .map(|o| (o.service, Other { id: o.id, name: o.name }))
        .collect();
    if with_deps {
        let plan = Plan::make(project, &session.observed().await?, &images, &wishes);
        let members = converge::make(session, &plan, &images, &How::default(), &report).await?;
        converge::start(session, &plan, &members, &report).await?;
        for member in &members {
            if let Some(dependency) = service.depends_on.get(&member.service) {
                converge::wait_for(client, member, dependency.condition, &report).await?;
            }
            let other = Other { id: member.id.clone(), name: member.name.clone() };
            others.insert(member.service.clone(), other);
        }
    }
    drop(report);
    let terminal = !command.no_tty && !command.detach && terminal::input_is_terminal() && command.interactive;
    let changed = command.changed(service, terminal)?;
    let own = match &command.name {
        Some(name) => name.clone(),
        None => format!("{}-{name}-run-{}", project.name, slug()?),
    };
    let place = Place {
        project,
        service: name,
        number: 1,
        one_off: true,
        name: &own,
        image_id: images.get(name).map(String::as_str).unwrap_or_default(),
        others: &others,
        kept_volumes: &[],
        aliases: command.use_aliases,
    };
    let mut body = body(&changed, &place)?;
    let attach = [command.interactive && !command.detach, !command.detach, !command.detach];
    body.request.config.attach_stdin = attach[0];
    body.request.config.stdin_once = attach[0];
    if let Some(host) = &mut body.request.host_config {
        host.auto_remove = command.rm;
        let binds = command.volume.iter().map(|v| crate::commands::options::mounts::absolute(v));
        host.binds.get_or_insert_default().extend(binds);
    }
    let id = converge::create(client, &own, &changed.platform, body).await?;
    if command.detach {
        client.post(&format!("/containers/{id}/start")).await?;
        say(&own)?;
        return Ok(ExitCode::SUCCESS);
    }
    let detach_keys = detach::parse_keys(detach::DEFAULT_KEYS).map_err(anyhow::Error::msg)?;
    let foreground =
        Foreground { id: &id, terminal, attach, removed: command.rm, detach_keys, signal_proxy: true };
    let result = foreground.run(client).await;
    if result.is_err() && command.rm {
        // It never ran, so that nobody else removes it.
        let _ = client.delete(&format!("/containers/{}?force=1&v=1", encode(&id))).await;
    }
    result
}

/// Twelve digits that nobody else has.
fn slug() -> Result<String> {
    let mut bytes = [0u8; 6];
    let mut filled = 0;
    while filled < bytes.len() {
        filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// `sampan compose cp`
#[derive(Args)]
pub(crate) struct Copy {
    /// Keep the owners
    #[arg(short, long)]
    archive: bool,
    /// Copy what a link in the source leads to
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// Which of the service's containers
    #[arg(long, value_name = "NUMBER")]
    index: Option<u32>,
    /// Kept for scripts
    #[arg(long, hide = true)]
    all: bool,
    /// SERVICE:PATH, a path here, or - for a tar
    #[arg(value_name = "SOURCE")]
    source: String,
    /// A path here, SERVICE:PATH, or - for a tar
    #[arg(value_name = "TARGET")]
    target: String,
}

/// A line of `sampan cp`.
#[derive(Parser)]
struct CopyLine {
    #[command(flatten)]
    copy: crate::commands::container::copy::Copy,
}

pub(super) async fn copy(session: &Session, command: Copy) -> Result<ExitCode> {
    let mut line = vec!["cp".to_owned()];
    let switches = [("--archive", command.archive), ("--follow-link", command.follow_link)];
    line.extend(switches.into_iter().filter(|(_, on)| *on).map(|(flag, _)| flag.to_owned()));
    line.push("--".to_owned());
    for text in [&command.source, &command.target] {
        match crate::commands::container::copy::in_container(text) {
            Some((service, path)) => {
                let found = container_of(session, service, command.index).await?;
                line.push(format!("{}:{path}", name_of(&found)));
            }
            None => line.push(text.clone()),
        }
    }
    let parsed = CopyLine::try_parse_from(line).context("this can't be copied so")?;
    crate::commands::container::copy::copy(&session.client, parsed.copy).await
}
