//! `sampan compose …`: services of compose files.
//!
//! What files mean and what is to be done is [`sampan_compose`]'s; here it is done, through Docker's API.
//!
//! * [`project`]: the files and what is there of them. * [`body`]: a service as the API takes a container.
//! * [`ensure`]: networks, volumes, images that are needed. * [`images`]: build, pull, push. * [`up`], [`converge`], [`attach`]: what runs. * [`down`]: away again.
//! * [`list`]: ps, images, top, port, events. * [`lifecycle`]: start, stop, kill, …. * [`run`]: run, exec, cp.
//! * [`report`]: what happens, said.

mod attach;
mod body;
mod converge;
mod down;
mod ensure;
mod images;
mod lifecycle;
mod list;
mod project;
mod report;
mod run;
mod up;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};

use crate::client::Client;
use project::Session;

/// `sampan compose`
#[derive(Args)]
pub(crate) struct Compose {
    #[command(flatten)]
    flags: Flags,
    #[command(subcommand)]
    command: Command,
}

/// What all of its commands can be told.
#[derive(Args, Default, Clone)]
pub(crate) struct Flags {
    /// A compose file [default: compose.yaml, here or above]
    #[arg(short, long, value_name = "FILE")]
    file: Vec<PathBuf>,
    /// The project's name [default: the directory's]
    #[arg(short, long, value_name = "NAME")]
    project_name: Option<String>,
    /// Where relative paths begin [default: the first file's directory]
    #[arg(long, value_name = "DIRECTORY", alias = "workdir")]
    project_directory: Option<PathBuf>,
    /// Also the services of this profile
    #[arg(long, value_name = "PROFILE")]
    profile: Vec<String>,
    /// Another file of variables than .env
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Colours: auto, never or always
    #[arg(long, value_parser = ["auto", "never", "always"], default_value = "auto", value_name = "WHEN")]
    ansi: String,
    /// How to say what happens: auto, plain or quiet
    #[arg(long, value_parser = ["auto", "tty", "plain", "quiet", "json"], default_value = "auto", value_name = "HOW")]
    progress: String,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Kept for scripts
    #[arg(long, hide = true)]
    compatibility: bool,
    /// Kept for scripts
    #[arg(long, hide = true, value_name = "NUMBER", allow_hyphen_values = true)]
    parallel: Option<i64>,
}

#[derive(Subcommand)]
enum Command {
    /// Build, make and start services
    Up(up::Up),
    /// Stop and remove containers and networks
    Down(down::Down),
    /// List containers
    Ps(list::Ps),
    /// Show the output of services
    Logs(attach::Logs),
    /// Build the images of services
    Build(images::Build),
    /// Run a command in a running container of a service
    Exec(run::Exec),
    /// Run a command in a new container of a service
    Run(run::Run),
    /// Make containers without starting them
    Create(up::Create),
    /// Start what was made
    Start(lifecycle::Start),
    /// Stop services
    Stop(lifecycle::Stop),
    /// Restart services
    Restart(lifecycle::Restart),
    /// Send a signal to services
    Kill(lifecycle::Kill),
    /// Remove stopped containers
    Rm(lifecycle::Remove),
    /// Freeze services
    Pause(lifecycle::Services),
    /// Thaw services
    Unpause(lifecycle::Services),
    /// Wait until services have ended
    Wait(lifecycle::Wait),
    /// Get the images of services
    Pull(images::Pull),
    /// Send the images of services
    Push(images::Push),
    /// Print what the files say
    #[command(visible_alias = "convert")]
    Config(list::Config),
    /// List the images in use
    Images(list::Images),
    /// Show the processes of services
    Top(lifecycle::Services),
    /// Show where a port is published
    Port(list::Port),
    /// Copy files between a service and here
    Cp(run::Copy),
    /// List projects
    Ls(list::Projects),
    /// Show what happens to services
    Events(list::Events),
    /// Change how many containers services have
    Scale(up::Scale),
    /// Print the version
    Version,
}

pub(crate) async fn compose(client: &Client, compose: Compose) -> Result<ExitCode> {
    let Compose { flags, command } = compose;
    if let Command::Version = command {
        super::say(format_args!("sampan compose version {}", env!("CARGO_PKG_VERSION")))?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Command::Ls(command) = command {
        return list::projects(client, &command).await;
    }
    let services: &[String] = match &command {
        Command::Up(c) => &c.services,
        Command::Create(c) => &c.services,
        Command::Build(c) => &c.services,
        Command::Pull(c) => &c.services,
        Command::Run(c) => c.named(),
        _ => &[],
    };
    // Who asks for things of a project by its name need not have its files.
    let by_name = matches!(
        command,
        Command::Down(_)
            | Command::Ps(_)
            | Command::Logs(_)
            | Command::Exec(_)
            | Command::Stop(_)
            | Command::Restart(_)
            | Command::Kill(_)
            | Command::Rm(_)
            | Command::Pause(_)
            | Command::Unpause(_)
            | Command::Wait(_)
            | Command::Images(_)
            | Command::Top(_)
            | Command::Port(_)
            | Command::Cp(_)
            | Command::Start(_)
            | Command::Events(_)
    );
    let session = Session::open(client, &flags, services, by_name)?;
    match command {
        Command::Up(command) => up::up(&session, command).await,
        Command::Down(command) => down::down(&session, command).await,
        Command::Ps(command) => list::ps(&session, command).await,
        Command::Logs(command) => attach::logs(&session, command).await,
        Command::Build(command) => images::build(&session, command).await,
        Command::Exec(command) => run::exec(&session, command).await,
        Command::Run(command) => run::run(&session, command).await,
        Command::Create(command) => up::create(&session, command).await,
        Command::Start(command) => lifecycle::start(&session, command).await,
        Command::Stop(command) => lifecycle::stop(&session, command).await,
        Command::Restart(command) => lifecycle::restart(&session, command).await,
        Command::Kill(command) => lifecycle::kill(&session, command).await,
        Command::Rm(command) => lifecycle::remove(&session, command).await,
        Command::Pause(command) => lifecycle::each(&session, command, "pause").await,
        Command::Unpause(command) => lifecycle::each(&session, command, "unpause").await,
        Command::Wait(command) => lifecycle::wait(&session, command).await,
        Command::Pull(command) => images::pull(&session, command).await,
        Command::Push(command) => images::push(&session, command).await,
        Command::Config(command) => list::config(&session, command),
        Command::Images(command) => list::images(&session, command).await,
        Command::Top(command) => list::top(&session, command).await,
        Command::Port(command) => list::port(&session, command).await,
        Command::Cp(command) => run::copy(&session, command).await,
        Command::Events(command) => list::events(&session, command).await,
        Command::Scale(command) => up::scale(&session, command).await,
        Command::Ls(_) | Command::Version => Ok(ExitCode::SUCCESS),
    }
}
