//! sampan, the command line: Docker's verbs over Docker's API. It starts the daemon when none runs.

mod attached;
mod client;
mod commands;
mod daemon;
mod table;
mod terminal;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use commands::{container, exec, image, registry, run, system, volume};

/// Containers, images and builds.
#[derive(Parser)]
#[command(name = "sampan", version, disable_help_subcommand = true, max_term_width = 110)]
struct Arguments {
    /// The daemon's address [default: $SAMPAN_HOST, else unix:///run/sampan/docker.sock]
    #[arg(short = 'H', long, global = true, value_name = "unix://PATH")]
    host: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Create a container and run a command in it
    Run(run::Run),
    /// Create a container without starting it
    Create(run::Create),
    /// Run a command in a running container
    Exec(exec::Exec),
    /// List containers
    Ps(container::List),
    /// Start stopped containers
    Start(container::Start),
    /// Stop running containers
    Stop(container::Stop),
    /// Restart containers
    Restart(container::Stop),
    /// Send a signal to running containers
    Kill(container::Kill),
    /// Freeze the processes of containers
    Pause(container::Names),
    /// Thaw the processes of containers
    Unpause(container::Names),
    /// Remove containers
    Rm(container::Remove),
    /// Rename a container
    Rename(container::Rename),
    /// Wait until containers stop, then print their exit codes
    Wait(container::Names),
    /// Show a container's output
    Logs(container::Logs),
    /// Attach to a running container's input and output
    Attach(container::Attach),
    /// Show the processes of a container
    Top(container::Top),
    /// Show what a container changed of its image
    Diff(container::Diff),
    /// Make an image of a container's changes
    Commit(container::Commit),
    /// Write a container's file system to a tar
    Export(container::Export),
    /// Show containers, images or volumes as JSON
    Inspect(system::Inspect),
    /// Build an image from a Dockerfile
    Build(Box<commands::build::Build>),
    /// List images
    Images(image::List),
    /// Remove images
    Rmi(image::Remove),
    /// Give an image another name
    Tag(image::Tag),
    /// Show how an image was made
    History(image::History),
    /// Get an image from its registry
    Pull(registry::Pull),
    /// Send an image to its registry
    Push(registry::Push),
    /// Keep a registry's user name and password
    Login(registry::Login),
    /// Forget a registry's user name and password
    Logout(registry::Logout),
    /// Make an image of a root file system's tar
    Import(image::Import),
    /// Take in images from an archive
    Load(image::Load),
    /// Write images to an archive
    Save(image::Save),
    /// Manage containers
    #[command(subcommand)]
    Container(container::Group),
    /// Manage images
    #[command(subcommand)]
    Image(image::Group),
    /// Manage what builds leave
    #[command(subcommand)]
    Builder(commands::builder::Group),
    /// Manage volumes
    #[command(subcommand)]
    Volume(volume::Group),
    /// Show networks
    #[command(subcommand)]
    Network(system::Network),
    /// Manage the engine and its space
    #[command(subcommand)]
    System(commands::store::Group),
    /// Show what happens in the engine
    Events(system::Events),
    /// Show what the engine is and has
    Info,
    /// Show the versions of this program and the daemon
    Version,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return commands::fail(&anyhow::Error::from(error).context("cannot start")),
    };
    let result = runtime.block_on(dispatch(arguments));
    // A read of standard input may still be waiting on its thread; nothing needs it.
    runtime.shutdown_background();
    match result {
        Ok(code) => code,
        Err(error) => commands::fail(&error),
    }
}

async fn dispatch(arguments: Arguments) -> anyhow::Result<ExitCode> {
    // It changes a file of the user's and needs no daemon.
    if let Command::Logout(command) = &arguments.command {
        return registry::logout(command);
    }
    let host = arguments.host.as_deref();
    let client = match daemon::connect(host).await {
        Ok(client) => client,
        // `run` tells its own failures (125) from the command's.
        Err(error) if matches!(arguments.command, Command::Run(_)) => {
            return Ok(commands::fail_with(&error, 125));
        }
        Err(error) => return Err(error),
    };
    let client = &client;
    match arguments.command {
        Command::Run(command) => run::run(client, command).await,
        Command::Create(command) => run::create(client, command).await,
        Command::Exec(command) => exec::exec(client, command).await,
        Command::Ps(command) => container::list(client, command).await,
        Command::Start(command) => container::start(client, command).await,
        Command::Stop(command) => container::stop(client, command, "stop").await,
        Command::Restart(command) => container::stop(client, command, "restart").await,
        Command::Kill(command) => container::kill(client, command).await,
        Command::Pause(command) => container::each(client, command, "pause").await,
        Command::Unpause(command) => container::each(client, command, "unpause").await,
        Command::Rm(command) => container::remove(client, command).await,
        Command::Rename(command) => container::rename(client, command).await,
        Command::Wait(command) => container::wait(client, command).await,
        Command::Logs(command) => container::logs(client, command).await,
        Command::Attach(command) => container::attach(client, command).await,
        Command::Top(command) => container::top(client, command).await,
        Command::Diff(command) => container::diff(client, command).await,
        Command::Commit(command) => container::commit(client, command).await,
        Command::Export(command) => container::export(client, command).await,
        Command::Inspect(command) => system::inspect(client, command).await,
        Command::Build(command) => commands::build::build(client, *command).await,
        Command::Images(command) => image::list(client, command).await,
        Command::Rmi(command) => image::remove(client, command).await,
        Command::Tag(command) => image::tag(client, command).await,
        Command::History(command) => image::history(client, command).await,
        Command::Pull(command) => registry::pull(client, command).await,
        Command::Push(command) => registry::push(client, command).await,
        Command::Login(command) => registry::login(client, command).await,
        Command::Logout(command) => registry::logout(&command),
        Command::Import(command) => image::import(client, command).await,
        Command::Load(command) => image::load(client, command).await,
        Command::Save(command) => image::save(client, command).await,
        Command::Container(group) => container::group(client, group).await,
        Command::Image(group) => image::group(client, group).await,
        Command::Builder(group) => commands::builder::group(client, group).await,
        Command::Volume(group) => volume::group(client, group).await,
        Command::Network(group) => system::network(client, group).await,
        Command::System(group) => commands::store::group(client, group).await,
        Command::Events(command) => system::events(client, command).await,
        Command::Info => system::info(client).await,
        Command::Version => system::version(client).await,
    }
}
