//! `start` and `attach`.

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use http::Method;
use http_body_util::BodyExt;
use sampan_docker_api::container::{ContainerInspect, WaitAnswer};
use sampan_docker_api::detach;

use crate::attached::{self, Attachment, Ended};
use crate::client::{Client, full, query};
use crate::commands::run::{self, container_path, follow_size, pass_signals};
use crate::commands::{for_each, say};
use crate::terminal::{self, RawMode};

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
    let [name] = &command.names[..] else { bail!("you cannot start and attach multiple containers at once") };
    let inspect: ContainerInspect = client.get(&container_path(name, "json")).await?;
    let path = container_path(&inspect.id, "wait?condition=next-exit");
    let wait = client.request(Method::POST, &path, full(""), "application/json").await?;
    let carried = Carried::open(client, &inspect, command.interactive, true).await?;
    let path = container_path(&inspect.id, "start");
    if let Err(error) = client.post(&path).await {
        drop(carried);
        return Ok(crate::commands::fail_with(&error, run::failure_code(&error)));
    }
    if carried.carry(client, &inspect, &command.detach_keys).await? == Ended::Detached {
        return Ok(ExitCode::SUCCESS);
    }
    let answer: WaitAnswer = serde_json::from_slice(&wait.into_body().collect().await?.to_bytes())?;
    Ok(run::exit_code(answer.status_code))
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
    #[arg(long = "sig-proxy", default_value = "true", value_name = "BOOL", action = clap::ArgAction::Set,
        num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    signal_proxy: bool,
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    name: String,
}

pub(crate) async fn attach(client: &Client, command: Attach) -> Result<ExitCode> {
    let inspect: ContainerInspect = client.get(&container_path(&command.name, "json")).await?;
    if !inspect.state.running {
        bail!("cannot attach to a stopped container, start it first");
    }
    if inspect.state.paused {
        bail!("cannot attach to a paused container, unpause it first");
    }
    if inspect.state.restarting {
        bail!("cannot attach to a restarting container, wait until it is running");
    }
    let path = container_path(&inspect.id, "wait?condition=next-exit");
    let wait = client.request(Method::POST, &path, full(""), "application/json").await?;
    let input = !command.no_stdin && inspect.config.open_stdin;
    let carried = Carried::open(client, &inspect, input, command.signal_proxy).await?;
    if carried.carry(client, &inspect, &command.detach_keys).await? == Ended::Detached {
        return Ok(ExitCode::SUCCESS);
    }
    let answer: WaitAnswer = serde_json::from_slice(&wait.into_body().collect().await?.to_bytes())?;
    Ok(run::exit_code(answer.status_code))
}

/// A stream that is open, with the terminal ready for it.
struct Carried {
    stream: hyper_util::rt::TokioIo<hyper::upgrade::Upgraded>,
    input: bool,
    signal_proxy: bool,
    raw: Option<RawMode>,
}

impl Carried {
    async fn open(
        client: &Client,
        inspect: &ContainerInspect,
        input: bool,
        signal_proxy: bool,
    ) -> Result<Carried> {
        if input && inspect.config.tty && !terminal::input_is_terminal() {
            bail!("the input device is not a TTY");
        }
        let on = |yes: bool| if yes { "1" } else { "" };
        let parameters = query(&[("stream", "1"), ("stdin", on(input)), ("stdout", "1"), ("stderr", "1")]);
        let path = container_path(&inspect.id, "attach") + &parameters;
        let stream = client.upgrade(&path, Vec::new()).await?;
        let is_raw = inspect.config.tty && input && std::io::stdout().is_terminal();
        let raw = if is_raw { Some(RawMode::enter()?) } else { None };
        Ok(Carried { stream, input, signal_proxy, raw })
    }

    async fn carry(self, client: &Client, inspect: &ContainerInspect, keys: &str) -> Result<Ended> {
        if inspect.config.tty {
            follow_size(client.clone(), container_path(&inspect.id, "resize"));
        } else if self.signal_proxy {
            pass_signals(client.clone(), inspect.id.clone());
        }
        let detach_keys = detach::parse_keys(keys).map_err(anyhow::Error::msg)?;
        let attachment = Attachment { terminal: inspect.config.tty, input: self.input, detach_keys };
        let ended = attached::carry(self.stream, attachment).await;
        drop(self.raw);
        ended
    }
}
