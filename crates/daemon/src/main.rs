//! sampand, the engine daemon: Docker's HTTP API as a skin over the engine.
//!
//! It may be killed at any time: containers belong to their shims, and the next daemon finds them again.

#![recursion_limit = "256"]

mod config;
mod docker;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use axum::ServiceExt;
use axum::extract::Request;
use clap::Parser;
use sampan_engine::Engine;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tower::Layer;

fn main() -> Result<()> {
    let arguments = config::Arguments::parse();
    let filter = tracing_subscriber::EnvFilter::try_new(&arguments.log_level)
        .with_context(|| format!("invalid --log-level `{}`", arguments.log_level))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match arguments.log_format.as_str() {
        "json" => log.json().init(),
        _ => log.with_ansi(false).init(),
    }
    let config = config::effective(&arguments)?;
    // Started by `sampan` it must not end with that terminal's session. Started from a shell it leads a process group,
    // can't leave, and need not: Ctrl-C is then meant for it.
    let _ = rustix::process::setsid();
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        // Blocking work is bounded by the engine's doorway; long jobs come on top.
        .max_blocking_threads(64)
        .build()
        .context("cannot start the async runtime")?
        .block_on(serve(config))
}

async fn serve(config: config::Config) -> Result<()> {
    let socket = config.socket;
    let engine = Engine::open(config.engine).await.map_err(|e| anyhow::anyhow!(sampan_base::chain(&e)))?;
    // Bound only now: whoever connects finds all containers restored.
    let listener = listen(&socket)?;
    tracing::info!(socket = %socket.display(), "listening");
    let router = docker::router(engine.clone());
    let app = tower::util::MapRequestLayer::new(docker::strip_version).layer(router);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        served = axum::serve(listener, ServiceExt::<Request>::into_make_service(app)) => served.context("cannot serve")?,
        // Containers go on; whoever is attached is cut off, as by a crash, which everything must bear anyway.
        _ = terminate.recv() => tracing::info!("terminated"),
        _ = interrupt.recv() => tracing::info!("interrupted"),
    }
    engine.close().await;
    // It may be a new daemon's by now, or gone.
    let _ = std::fs::remove_file(&socket);
    Ok(())
}

/// Takes the socket's place. Whoever may connect owns the machine, so only root may.
fn listen(socket: &Path) -> Result<UnixListener> {
    if let Some(directory) = socket.parent() {
        sampan_base::files::create_directories(directory, 0o711)?;
    }
    // One daemon owns the store (it holds the lock), so a socket that is here is a dead daemon's.
    sampan_base::files::remove_if_exists(socket)?;
    let old = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(socket);
    rustix::process::umask(old);
    let listener = listener.with_context(|| format!("cannot listen on `{}`", socket.display()))?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))
        .with_context(|| format!("cannot protect `{}`", socket.display()))?;
    Ok(listener)
}
