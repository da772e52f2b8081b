//! The commands on containers after their creation.

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use http::Method;
use http_body_util::BodyExt;
use sampan_docker_api::IdAnswer;
use sampan_docker_api::container::{
    ChangeRow, ContainerInspect, ContainerSummary, ContainersPruned, TopAnswer, WaitAnswer,
};
use sampan_docker_api::detach;
use sampan_docker_api::network::PortSummary;
use sampan_docker_api::stream::{Demultiplexer, STDERR};

use super::run::{self, container_path, follow_size, pass_signals};
use super::{ago, for_each, say, short};
use crate::attached::{self, Attachment, Ended};
use crate::client::{Client, encode, full, query};
use crate::table;
use crate::terminal::{self, RawMode};

/// `sampan container …`
#[derive(Subcommand)]
pub(crate) enum Group {
    /// List containers
    #[command(visible_alias = "list")]
    Ls(List),
    /// Create a container and run a command in it
    Run(run::Run),
    /// Create a container without starting it
    Create(run::Create),
    /// Run a command in a running container
    Exec(super::exec::Exec),
    /// Start stopped containers
    Start(Start),
    /// Stop running containers
    Stop(Stop),
    /// Restart containers
    Restart(Stop),
    /// Send a signal to running containers
    Kill(Kill),
    /// Freeze the processes of containers
    Pause(Names),
    /// Thaw the processes of containers
    Unpause(Names),
    /// Remove containers
    Rm(Remove),
    /// Rename a container
    Rename(Rename),
    /// Wait until containers stop
    Wait(Names),
    /// Show a container's output
    Logs(Logs),
    /// Attach to a running container
    Attach(Attach),
    /// Show the processes of a container
    Top(Top),
    /// Show what a container changed of its image
    Diff(Diff),
    /// Make an image of a container's changes
    Commit(Commit),
    /// Write a container's file system to a tar
    Export(Export),
    /// Show containers as JSON
    Inspect(Names),
    /// Remove all stopped containers
    Prune(Prune),
}

pub(crate) async fn group(client: &Client, group: Group) -> Result<ExitCode> {
    match group {
        Group::Ls(command) => list(client, command).await,
        Group::Run(command) => run::run(client, command).await,
        Group::Create(command) => run::create(client, command).await,
        Group::Exec(command) => super::exec::exec(client, command).await,
        Group::Start(command) => start(client, command).await,
        Group::Stop(command) => stop(client, command, "stop").await,
        Group::Restart(command) => stop(client, command, "restart").await,
        Group::Kill(command) => kill(client, command).await,
        Group::Pause(command) => each(client, command, "pause").await,
        Group::Unpause(command) => each(client, command, "unpause").await,
        Group::Rm(command) => remove(client, command).await,
        Group::Rename(command) => rename(client, command).await,
        Group::Wait(command) => wait(client, command).await,
        Group::Logs(command) => logs(client, command).await,
        Group::Attach(command) => attach(client, command).await,
        Group::Top(command) => top(client, command).await,
        Group::Diff(command) => diff(client, command).await,
        Group::Commit(command) => commit(client, command).await,
        Group::Export(command) => export(client, command).await,
        Group::Inspect(command) => super::system::inspect_as(client, &command.names, &["containers"]).await,
        Group::Prune(command) => prune(client, command).await,
    }
}

/// Some containers.
#[derive(Args)]
pub(crate) struct Names {
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    pub(crate) names: Vec<String>,
}

/// `sampan ps`
#[derive(Args)]
pub(crate) struct List {
    /// Also those that do not run
    #[arg(short, long)]
    all: bool,
    /// Only ids
    #[arg(short, long)]
    quiet: bool,
    /// Do not shorten
    #[arg(long)]
    no_trunc: bool,
    /// The last N created
    #[arg(short = 'n', long, default_value_t = 0, hide_default_value = true, value_name = "N")]
    last: i64,
    /// Filter: status=…, name=…, label=…, ancestor=…, id=…, exited=…
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// How to print
    #[arg(long, value_parser = ["table", "json"], default_value = "table")]
    format: String,
}

/// Filters as the API takes them.
pub(crate) fn filters(list: &[String]) -> Result<String> {
    let mut map = std::collections::BTreeMap::<String, Vec<String>>::new();
    for filter in list {
        let Some((key, value)) = filter.split_once('=') else {
            bail!("invalid filter `{filter}`: expected KEY=VALUE")
        };
        map.entry(key.to_owned()).or_default().push(value.to_owned());
    }
    Ok(if map.is_empty() { String::new() } else { serde_json::to_string(&map)? })
}

pub(crate) async fn list(client: &Client, command: List) -> Result<ExitCode> {
    let limit = if command.last > 0 { command.last.to_string() } else { String::new() };
    let parameters = [
        ("all", if command.all { "1" } else { "" }),
        ("limit", &limit),
        ("filters", &filters(&command.filter)?),
    ];
    let containers: Vec<ContainerSummary> =
        client.get(&format!("/containers/json{}", query(&parameters))).await?;
    if command.format == "json" {
        for container in &containers {
            say(serde_json::to_string(container)?)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let shown = |text: &str, width: usize| -> String {
        if command.no_trunc || text.chars().count() <= width {
            return text.to_owned();
        }
        text.chars().take(width - 1).collect::<String>() + "…"
    };
    let id = |c: &ContainerSummary| if command.no_trunc { c.id.clone() } else { short(&c.id).to_owned() };
    if command.quiet {
        for container in &containers {
            say(id(container))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let row = |c: &ContainerSummary| {
        let names: Vec<_> = c.names.iter().map(|n| n.trim_start_matches('/')).collect();
        vec![
            id(c),
            c.image.clone(),
            format!("\"{}\"", shown(&c.command, 20)),
            ago(c.created),
            c.status.clone(),
            ports(&c.ports),
            names.join(","),
        ]
    };
    let rows: Vec<_> = containers.iter().map(row).collect();
    table::print(&["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"], &rows)?;
    Ok(ExitCode::SUCCESS)
}

fn ports(ports: &[PortSummary]) -> String {
    let mut list: Vec<String> = ports
        .iter()
        .map(|p| match (&p.ip, p.public_port) {
            (Some(ip), Some(public)) => format!("{ip}:{public}->{}/{}", p.private_port, p.kind),
            _ => format!("{}/{}", p.private_port, p.kind),
        })
        .collect();
    list.sort();
    list.join(", ")
}

/// `sampan start`
#[derive(Args)]
pub(crate) struct Start {
    /// Show the output and pass signals on
    #[arg(short, long)]
    attach: bool,
    /// Also send standard input
    #[arg(short, long)]
    interactive: bool,
    /// The keys that leave the container running
    #[arg(long, default_value = detach::DEFAULT_KEYS)]
    detach_keys: String,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    names: Vec<String>,
}

pub(crate) async fn start(client: &Client, command: Start) -> Result<ExitCode> {
    if !command.attach && !command.interactive {
        return for_each(&command.names, async |name| {
            client.post(&container_path(name, "start")).await?;
            say(name)
        })
        .await;
    }
    let [name] = &command.names[..] else { bail!("only one container can be attached to at a time") };
    let path = container_path(name, "wait?condition=next-exit");
    let wait = client.request(Method::POST, &path, full(""), "application/json").await?;
    let ended = attach_to(client, name, command.interactive, &command.detach_keys, true).await?;
    if ended == Ended::Detached {
        return Ok(ExitCode::SUCCESS);
    }
    let answer: WaitAnswer = serde_json::from_slice(&wait.into_body().collect().await?.to_bytes())?;
    Ok(run::exit_code(answer.status_code))
}

/// `sampan stop`, `sampan restart`
#[derive(Args)]
pub(crate) struct Stop {
    /// Seconds until it is killed, -1: never
    #[arg(short, long, visible_alias = "timeout", allow_hyphen_values = true)]
    time: Option<i64>,
    /// The signal that asks it to end
    #[arg(short, long, default_value = "", hide_default_value = true)]
    signal: String,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    names: Vec<String>,
}

pub(crate) async fn stop(client: &Client, command: Stop, verb: &str) -> Result<ExitCode> {
    let time = command.time.map(|t| t.to_string()).unwrap_or_default();
    let parameters = query(&[("t", &time), ("signal", &command.signal)]);
    for_each(&command.names, async |name| {
        client.post(&(container_path(name, verb) + &parameters)).await?;
        say(name)
    })
    .await
}

/// `sampan kill`
#[derive(Args)]
pub(crate) struct Kill {
    /// The signal
    #[arg(short, long, default_value = "KILL")]
    signal: String,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    names: Vec<String>,
}

pub(crate) async fn kill(client: &Client, command: Kill) -> Result<ExitCode> {
    let parameters = query(&[("signal", &command.signal)]);
    for_each(&command.names, async |name| {
        client.post(&(container_path(name, "kill") + &parameters)).await?;
        say(name)
    })
    .await
}

pub(crate) async fn each(client: &Client, command: Names, verb: &str) -> Result<ExitCode> {
    for_each(&command.names, async |name| {
        client.post(&container_path(name, verb)).await?;
        say(name)
    })
    .await
}

/// `sampan rm`
#[derive(Args)]
pub(crate) struct Remove {
    /// Kill it first if it runs
    #[arg(short, long)]
    force: bool,
    /// With its anonymous volumes
    #[arg(short, long)]
    volumes: bool,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    names: Vec<String>,
}

pub(crate) async fn remove(client: &Client, command: Remove) -> Result<ExitCode> {
    let on = |yes: bool| if yes { "1" } else { "" };
    let parameters = query(&[("force", on(command.force)), ("v", on(command.volumes))]);
    for_each(&command.names, async |name| {
        client.delete(&format!("/containers/{}{parameters}", encode(name))).await?;
        say(name)
    })
    .await
}

/// `sampan rename`
#[derive(Args)]
pub(crate) struct Rename {
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    name: String,
    /// The new name
    new: String,
}

pub(crate) async fn rename(client: &Client, command: Rename) -> Result<ExitCode> {
    client.post(&(container_path(&command.name, "rename") + &query(&[("name", &command.new)]))).await?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn wait(client: &Client, command: Names) -> Result<ExitCode> {
    for_each(&command.names, async |name| {
        let answer: WaitAnswer = client.post_json(&container_path(name, "wait"), &()).await?;
        say(answer.status_code)
    })
    .await
}

/// `sampan logs`
#[derive(Args)]
pub(crate) struct Logs {
    /// Go on while the container runs
    #[arg(short, long)]
    follow: bool,
    /// With times
    #[arg(short, long)]
    timestamps: bool,
    /// Only the last N lines
    #[arg(short = 'n', long, default_value = "all", value_name = "N")]
    tail: String,
    /// From then on: RFC 3339, or seconds since 1970, or 10m for ten minutes ago
    #[arg(long, default_value = "", hide_default_value = true)]
    since: String,
    /// Until then
    #[arg(long, default_value = "", hide_default_value = true)]
    until: String,
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    name: String,
}

/// A time as the API takes it: a span such as `10m` is that long ago.
pub(crate) fn point_in_time(text: &str) -> String {
    match text.parse::<jiff::SignedDuration>() {
        Ok(span) => (jiff::Timestamp::now() - span).to_string(),
        Err(_) => text.to_owned(),
    }
}

pub(crate) async fn logs(client: &Client, command: Logs) -> Result<ExitCode> {
    let inspect: ContainerInspect = client.get(&container_path(&command.name, "json")).await?;
    let on = |yes: bool| if yes { "1" } else { "" };
    let parameters = query(&[
        ("stdout", "1"),
        ("stderr", "1"),
        ("follow", on(command.follow)),
        ("timestamps", on(command.timestamps)),
        ("tail", &command.tail),
        ("since", &point_in_time(&command.since)),
        ("until", &point_in_time(&command.until)),
    ]);
    let path = container_path(&command.name, "logs") + &parameters;
    let mut body = client.request(Method::GET, &path, full(""), "application/json").await?.into_body();
    let (mut out, mut err) = (std::io::stdout().lock(), std::io::stderr().lock());
    let mut demultiplexer = Demultiplexer::default();
    while let Some(frame) = body.frame().await.transpose()? {
        let Ok(data) = frame.into_data() else { continue };
        use std::io::Write;
        let mut written = Ok(());
        if inspect.config.tty {
            written = out.write_all(&data);
        } else {
            demultiplexer.push(&data, |stream, bytes| {
                let result = if stream == STDERR { err.write_all(bytes) } else { out.write_all(bytes) };
                if result.is_err() {
                    written = result;
                }
            })?;
        }
        written.and_then(|()| out.flush())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// `sampan attach`
#[derive(Args)]
pub(crate) struct Attach {
    /// Do not send standard input
    #[arg(long)]
    no_stdin: bool,
    /// The keys that leave the container running
    #[arg(long, default_value = detach::DEFAULT_KEYS)]
    detach_keys: String,
    /// Pass signals on to the command
    #[arg(long = "sig-proxy", default_value = "true", value_name = "BOOL", action = clap::ArgAction::Set)]
    signal_proxy: bool,
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    name: String,
}

pub(crate) async fn attach(client: &Client, command: Attach) -> Result<ExitCode> {
    let inspect: ContainerInspect = client.get(&container_path(&command.name, "json")).await?;
    if !inspect.state.running {
        bail!("You cannot attach to a stopped container, start it first");
    }
    if inspect.state.paused {
        bail!("You cannot attach to a paused container, unpause it first");
    }
    let path = container_path(&inspect.id, "wait?condition=next-exit");
    let wait = client.request(Method::POST, &path, full(""), "application/json").await?;
    let input = !command.no_stdin && inspect.config.open_stdin;
    if attach_to_running(client, &inspect, input, &command.detach_keys, command.signal_proxy).await?
        == Ended::Detached
    {
        return Ok(ExitCode::SUCCESS);
    }
    let answer: WaitAnswer = serde_json::from_slice(&wait.into_body().collect().await?.to_bytes())?;
    Ok(run::exit_code(answer.status_code))
}

/// Attaches to a container that is then started.
async fn attach_to(
    client: &Client,
    name: &str,
    input: bool,
    keys: &str,
    signal_proxy: bool,
) -> Result<Ended> {
    let inspect: ContainerInspect = client.get(&container_path(name, "json")).await?;
    let stream = open_stream(client, &inspect, input).await?;
    let raw = enter_raw(&inspect, input)?;
    client.post(&container_path(name, "start")).await?;
    carry(client, &inspect, stream, input, keys, signal_proxy, raw).await
}

async fn attach_to_running(
    client: &Client,
    inspect: &ContainerInspect,
    input: bool,
    keys: &str,
    signal_proxy: bool,
) -> Result<Ended> {
    let stream = open_stream(client, inspect, input).await?;
    let raw = enter_raw(inspect, input)?;
    carry(client, inspect, stream, input, keys, signal_proxy, raw).await
}

type Stream = hyper_util::rt::TokioIo<hyper::upgrade::Upgraded>;

async fn open_stream(client: &Client, inspect: &ContainerInspect, input: bool) -> Result<Stream> {
    let on = |yes: bool| if yes { "1" } else { "" };
    let parameters = query(&[("stream", "1"), ("stdin", on(input)), ("stdout", "1"), ("stderr", "1")]);
    client.upgrade(&(container_path(&inspect.id, "attach") + &parameters), Vec::new()).await
}

fn enter_raw(inspect: &ContainerInspect, input: bool) -> Result<Option<RawMode>> {
    let raw = inspect.config.tty && input && terminal::input_is_terminal() && std::io::stdout().is_terminal();
    if raw { RawMode::enter().map(Some) } else { Ok(None) }
}

async fn carry(
    client: &Client,
    inspect: &ContainerInspect,
    stream: Stream,
    input: bool,
    keys: &str,
    signal_proxy: bool,
    raw: Option<RawMode>,
) -> Result<Ended> {
    if inspect.config.tty {
        follow_size(client.clone(), container_path(&inspect.id, "resize"));
    } else if signal_proxy {
        pass_signals(client.clone(), inspect.id.clone());
    }
    let detach_keys = detach::parse_keys(keys).map_err(anyhow::Error::msg)?;
    let ended =
        attached::carry(stream, Attachment { terminal: inspect.config.tty, input, detach_keys }).await;
    drop(raw);
    ended
}

/// `sampan top`
#[derive(Args)]
pub(crate) struct Top {
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    name: String,
}

pub(crate) async fn top(client: &Client, command: Top) -> Result<ExitCode> {
    let answer: TopAnswer = client.get(&container_path(&command.name, "top")).await?;
    let header: Vec<&str> = answer.titles.iter().map(String::as_str).collect();
    table::print(&header, &answer.processes)?;
    Ok(ExitCode::SUCCESS)
}

/// `sampan diff`
#[derive(Args)]
pub(crate) struct Diff {
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    name: String,
}

pub(crate) async fn diff(client: &Client, command: Diff) -> Result<ExitCode> {
    let changes: Option<Vec<ChangeRow>> = client.get(&container_path(&command.name, "changes")).await?;
    for change in changes.unwrap_or_default() {
        let letter = ['C', 'A', 'D'].get(usize::from(change.kind)).copied().unwrap_or('?');
        say(format_args!("{letter} {}", change.path))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// `sampan commit`
#[derive(Args)]
pub(crate) struct Commit {
    /// Who made it
    #[arg(short, long, default_value = "", hide_default_value = true)]
    author: String,
    /// A message for its history
    #[arg(short, long, default_value = "", hide_default_value = true)]
    message: String,
    /// A Dockerfile instruction to apply
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// Freeze the container meanwhile
    #[arg(short, long, default_value = "true", value_name = "BOOL", action = clap::ArgAction::Set)]
    pause: bool,
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    name: String,
    /// The image's name
    #[arg(default_value = "", hide_default_value = true, value_name = "REPOSITORY[:TAG]")]
    image: String,
}

pub(crate) async fn commit(client: &Client, command: Commit) -> Result<ExitCode> {
    let parameters = query(&[
        ("container", &command.name),
        ("repo", &command.image),
        ("comment", &command.message),
        ("author", &command.author),
        ("changes", &command.change.join("\n")),
        ("pause", if command.pause { "1" } else { "0" }),
    ]);
    let answer: IdAnswer = client.post_json(&format!("/commit{parameters}"), &serde_json::json!({})).await?;
    say(answer.id)?;
    Ok(ExitCode::SUCCESS)
}

/// `sampan export`
#[derive(Args)]
pub(crate) struct Export {
    /// Write to a file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<String>,
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    name: String,
}

pub(crate) async fn export(client: &Client, command: Export) -> Result<ExitCode> {
    let path = container_path(&command.name, "export");
    let answer = client.request(Method::GET, &path, full(""), "application/json").await?;
    super::image::write_archive(answer, command.output.as_deref()).await
}

/// `sampan container prune`
#[derive(Args)]
pub(crate) struct Prune {
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

pub(crate) async fn prune(client: &Client, command: Prune) -> Result<ExitCode> {
    if !command.force && !confirm("This removes all stopped containers.")? {
        return Ok(ExitCode::SUCCESS);
    }
    let pruned: ContainersPruned = client.post_json("/containers/prune", &()).await?;
    for id in pruned.containers_deleted.unwrap_or_default() {
        say(id)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks a person who is there; where nobody is, the answer is no.
pub(crate) fn confirm(what: &str) -> Result<bool> {
    super::tell(format_args!("{what} Go on? [y/N]"));
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
