//! sampan, the command line: Docker's verbs over Docker's API. It starts the daemon when none runs.

mod arguments;
mod attached;
mod client;
mod commands;
mod daemon;
mod endpoint;
mod listing;
mod settings;
mod table;
mod terminal;

use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};

use endpoint::Where;

use commands::{container, exec, image, inspect, manual, network, registry, run, system, volume};

/// Containers, images and builds.
#[derive(Parser)]
#[command(name = "sampan", version, disable_help_subcommand = true, max_term_width = 110)]
struct Arguments {
    #[command(flatten)]
    place: Where,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Create a container and run a command in it
    Run(Box<run::Run>),
    /// Create a container without starting it
    Create(Box<run::Create>),
    /// Run a command in a running container
    Exec(exec::Exec),
    /// List containers
    Ps(container::list::List),
    /// Start stopped containers
    Start(container::attach::Start),
    /// Stop running containers
    Stop(container::lifecycle::Stop),
    /// Restart containers
    Restart(container::lifecycle::Stop),
    /// Send a signal to running containers
    Kill(container::lifecycle::Kill),
    /// Freeze the processes of containers
    Pause(container::Names),
    /// Thaw the processes of containers
    Unpause(container::Names),
    /// Remove containers
    Rm(container::lifecycle::Remove),
    /// Rename a container
    Rename(container::lifecycle::Rename),
    /// Change the limits of containers
    Update(container::update::Update),
    /// Wait until containers stop, then print their exit codes
    Wait(container::Names),
    /// Show a container's output
    Logs(container::logs::Logs),
    /// Attach to a running container's input and output
    Attach(container::attach::Attach),
    /// Copy files between a container and here
    Cp(container::copy::Copy),
    /// Show the processes of a container
    Top(container::look::Top),
    /// Show where a container's ports are published
    Port(container::look::Port),
    /// Show what containers use
    Stats(container::stats::Stats),
    /// Show what a container changed of its image
    Diff(container::look::Diff),
    /// Make an image of a container's changes
    Commit(container::keep::Commit),
    /// Write a container's file system to a tar
    Export(container::keep::Export),
    /// Show all about containers, images, networks or volumes
    Inspect(inspect::Inspect),
    /// Build an image from a Dockerfile
    Build(Box<commands::build::Build>),
    /// List images
    Images(image::list::List),
    /// Remove images
    Rmi(image::Remove),
    /// Give an image another name
    Tag(image::Tag),
    /// Show how an image was made
    History(image::list::History),
    /// Get an image from its registry
    Pull(registry::Pull),
    /// Send an image to its registry
    Push(registry::Push),
    /// Keep a registry's user name and password
    Login(registry::Login),
    /// Forget a registry's user name and password
    Logout(registry::Logout),
    /// Make an image of a root file system's tar
    Import(image::archive::Import),
    /// Take in images from an archive
    Load(image::archive::Load),
    /// Write images to an archive
    Save(image::archive::Save),
    /// Services of compose files
    Compose(Box<commands::compose::Compose>),
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
    /// Manage networks
    #[command(subcommand)]
    Network(network::Group),
    /// Manage the engine and its space
    #[command(subcommand)]
    System(commands::store::Group),
    /// Show what happens in the engine
    Events(system::Events),
    /// Show what the engine is and has
    Info(system::Formatted),
    /// Show the versions of this program and the daemon
    Version(system::Formatted),
    /// Print what a shell needs to complete commands
    #[command(hide = true)]
    Completion(manual::Completion),
    /// Write manual pages
    #[command(hide = true)]
    Man(manual::Man),
}

/// The program with one verb, for those that scripts call again and again.
fn only(verb: &str) -> Option<clap::Command> {
    let new = |name: &'static str| clap::Command::new(name);
    let verb = match verb {
        "run" => run::Run::augment_args(new("run")),
        "create" => run::Create::augment_args(new("create")),
        "exec" => exec::Exec::augment_args(new("exec")),
        "ps" => container::list::List::augment_args(new("ps")),
        "start" => container::attach::Start::augment_args(new("start")),
        "stop" => container::lifecycle::Stop::augment_args(new("stop")),
        "kill" => container::lifecycle::Kill::augment_args(new("kill")),
        "rm" => container::lifecycle::Remove::augment_args(new("rm")),
        "wait" => container::Names::augment_args(new("wait")),
        "logs" => container::logs::Logs::augment_args(new("logs")),
        "inspect" => inspect::Inspect::augment_args(new("inspect")),
        "images" => image::list::List::augment_args(new("images")),
        _ => return None,
    };
    Some(Where::augment_args(clap::Command::new("sampan")).subcommand(verb))
}

fn main() -> ExitCode {
    let arguments: Arguments = match arguments::parse(only) {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    // These need no daemon.
    let result = match &arguments.command {
        Command::Completion(command) => Some(manual::completion(command, Arguments::command())),
        Command::Man(command) => Some(manual::manual(command, Arguments::command())),
        _ => None,
    };
    match result {
        Some(Ok(code)) => return code,
        Some(Err(error)) => return commands::fail(&error),
        None => {}
    }
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
    let client = match daemon::connect(&arguments.place).await {
        Ok(client) => client,
        Err(error) if matches!(arguments.command, Command::Version(_)) => {
            let Command::Version(command) = arguments.command else { return Err(error) };
            return system::version(Err(error), command).await;
        }
        // `run` tells its own failures (125) from the command's.
        Err(error) if matches!(arguments.command, Command::Run(_)) => {
            return Ok(commands::fail_with(&error, 125));
        }
        Err(error) => return Err(error),
    };
    let client = &client;
    match arguments.command {
        Command::Run(command) => run::run(client, *command).await,
        Command::Create(command) => run::create(client, *command).await,
        Command::Exec(command) => exec::exec(client, command).await,
        Command::Ps(command) => container::list::list(client, command).await,
        Command::Start(command) => container::attach::start(client, command).await,
        Command::Stop(command) => container::lifecycle::stop(client, command, "stop").await,
        Command::Restart(command) => container::lifecycle::stop(client, command, "restart").await,
        Command::Kill(command) => container::lifecycle::kill(client, command).await,
        Command::Pause(command) => container::lifecycle::each(client, command, "pause").await,
        Command::Unpause(command) => container::lifecycle::each(client, command, "unpause").await,
        Command::Rm(command) => container::lifecycle::remove(client, command).await,
        Command::Rename(command) => container::lifecycle::rename(client, command).await,
        Command::Update(command) => container::update::update(client, command).await,
        Command::Wait(command) => container::lifecycle::wait(client, command).await,
        Command::Logs(command) => container::logs::logs(client, command).await,
        Command::Attach(command) => container::attach::attach(client, command).await,
        Command::Cp(command) => container::copy::copy(client, command).await,
        Command::Top(command) => container::look::top(client, command).await,
        Command::Port(command) => container::look::port(client, command).await,
        Command::Stats(command) => container::stats::stats(client, command).await,
        Command::Diff(command) => container::look::diff(client, command).await,
        Command::Commit(command) => container::keep::commit(client, command).await,
        Command::Export(command) => container::keep::export(client, command).await,
        Command::Inspect(command) => inspect::inspect(client, command).await,
        Command::Build(command) => commands::build::build(client, *command).await,
        Command::Images(command) => image::list::list(client, command).await,
        Command::Rmi(command) => image::remove(client, command).await,
        Command::Tag(command) => image::tag(client, command).await,
        Command::History(command) => image::list::history(client, command).await,
        Command::Pull(command) => registry::pull(client, command).await,
        Command::Push(command) => registry::push(client, command).await,
        Command::Login(command) => registry::login(client, command).await,
        Command::Logout(command) => registry::logout(&command),
        Command::Import(command) => image::archive::import(client, command).await,
        Command::Load(command) => image::archive::load(client, command).await,
        Command::Save(command) => image::archive::save(client, command).await,
        Command::Compose(command) => commands::compose::compose(client, *command).await,
        Command::Container(group) => container::group(client, group).await,
        Command::Image(group) => image::group(client, group).await,
        Command::Builder(group) => commands::builder::group(client, group).await,
        Command::Volume(group) => volume::group(client, group).await,
        Command::Network(group) => network::group(client, group).await,
        Command::System(group) => commands::store::group(client, group).await,
        Command::Events(command) => system::events(client, command).await,
        Command::Info(command) => system::info(client, command).await,
        Command::Version(command) => system::version(Ok(client.clone()), command).await,
        Command::Completion(_) | Command::Man(_) => Ok(ExitCode::SUCCESS),
    }
}
