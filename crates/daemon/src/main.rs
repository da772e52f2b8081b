//! sampand, the engine daemon: Docker's HTTP API as a skin over the engine.
//!
//! It may be killed at any time: containers belong to their shims, and the next daemon finds them again. SIGTERM and
//! SIGINT end it, SIGHUP lets it read its configuration again. systemd is told when it is ready, reloads and stops
//! (sd_notify(3)).
//!
//! * `config`: what it runs with. * `listen`, `tls`: how clients reach it. * `docker`: the API. * `metrics`: for Prometheus.

#![recursion_limit = "256"]

mod config;
mod docker;
mod listen;
mod metrics;
mod tls;

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::{Context, Result};
use clap::Parser;
use sampan_engine::Engine;
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, reload};

use config::{Arguments, Config, Reloadable};
use listen::{Address, Tcp, Tls};

/// More threads would only wait for each other: what blocks has threads of its own.
const MOST_WORKERS: usize = 8;

type LogFilter = reload::Handle<EnvFilter, Registry>;

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let config = config::effective(&arguments)?;
    if let Some(files) = &config.reloadable.tls {
        tls::load(files)?;
    }
    if arguments.validate {
        use std::io::Write;
        writeln!(std::io::stdout(), "the configuration makes sense")?;
        return Ok(());
    }
    let (filter, handle) = reload::Layer::new(filter(&config.reloadable.log_level)?);
    let log = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match arguments.log_format.as_str() {
        "json" => tracing_subscriber::registry().with(filter).with(log.json()).init(),
        _ => tracing_subscriber::registry().with(filter).with(log.with_ansi(false)).init(),
    }
    // Started by `sampan` it must not end with that terminal's session. Started from a shell it leads a process group,
    // can't leave, and need not: Ctrl-C is then meant for it.
    let _ = rustix::process::setsid();
    let cpus = std::thread::available_parallelism().map_or(2, usize::from);
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .worker_threads(cpus.clamp(2, MOST_WORKERS))
        // Blocking work is bounded by the engine's doorway; long jobs come on top.
        .max_blocking_threads(64)
        .build()
        .context("cannot start the async runtime")?
        .block_on(run(config, &arguments, &handle))
}

fn filter(level: &str) -> Result<EnvFilter> {
    EnvFilter::try_new(level).with_context(|| format!("invalid log level `{level}`"))
}

async fn run(config: Config, arguments: &Arguments, log: &LogFilter) -> Result<()> {
    let Config { engine, listen, access, metrics: metrics_address, pidfile, reloadable } = config;
    let engine = Engine::open(engine).await.map_err(|e| anyhow::anyhow!(sampan_base::chain(&e)))?;
    let counted = metrics::Metrics::default();
    if let Some(address) = metrics_address {
        metrics::serve(address, engine.clone(), counted.clone()).await?;
    }
    if let Some(path) = &pidfile {
        let pid = format!("{}\n", std::process::id());
        sampan_base::files::write_atomic_volatile(path, pid.as_bytes(), 0o644)?;
    }
    let tls: Tls = Arc::new(RwLock::new(tcp(&reloadable)?));
    if reloadable.plain {
        tracing::warn!("whoever reaches the TCP port owns this machine: TLS is off");
    }
    // Opened only now: whoever connects finds all containers restored.
    let listeners = listen::open(&listen, &access)?;
    for address in &listen {
        tracing::info!(%address, "listening");
    }
    notify(&[NotifyState::Ready]);
    let router = docker::router(engine.clone(), counted);
    let end = until_the_end(&engine, arguments, log, &tls, &listen);
    listen::serve(listeners, router, Arc::clone(&tls), async {
        end.await.unwrap_or_else(|e| tracing::error!("{e:#}"))
    })
    .await;
    engine.close().await;
    for address in &listen {
        if let Address::Unix(path) = address {
            // It may be a new daemon's by now, or gone.
            let _ = std::fs::remove_file(path);
        }
    }
    if let Some(path) = &pidfile {
        let _ = std::fs::remove_file(path); // as above
    }
    Ok(())
}

/// Reloads as often as it is asked to, and returns when the daemon is to end. Containers go on; whoever is attached is
/// cut off, as by a crash, which everything must bear anyway.
async fn until_the_end(
    engine: &Engine,
    arguments: &Arguments,
    log: &LogFilter,
    tls: &Tls,
    listen: &[Address],
) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    loop {
        tokio::select! {
            _ = terminate.recv() => break tracing::info!("terminated"),
            _ = interrupt.recv() => break tracing::info!("interrupted"),
            _ = hangup.recv() => {
                notify(&[NotifyState::Reloading, NotifyState::monotonic_usec_now().unwrap_or(NotifyState::Status("reloading"))]);
                match reload_now(engine, arguments, log, tls, listen) {
                    Ok(()) => tracing::info!("reloaded the configuration"),
                    Err(error) => tracing::error!("the configuration stays as it was: {error:#}"),
                }
                notify(&[NotifyState::Ready]);
            }
        }
    }
    notify(&[NotifyState::Stopping]);
    Ok(())
}

/// Takes over what the file says now: all of it, or nothing.
fn reload_now(
    engine: &Engine,
    arguments: &Arguments,
    log: &LogFilter,
    tls: &Tls,
    listen: &[Address],
) -> Result<()> {
    let config = config::effective(arguments)?;
    let tcp = tcp(&config.reloadable)?;
    let Reloadable { settings, log_level, .. } = config.reloadable;
    let level = filter(&log_level)?;
    if config.listen != listen {
        tracing::warn!("other addresses to listen on take a restart; containers do not notice it");
    }
    *tls.write().unwrap_or_else(PoisonError::into_inner) = tcp;
    log.reload(level).context("cannot change what is logged")?;
    engine.reload(settings);
    Ok(())
}

fn tcp(reloadable: &Reloadable) -> Result<Tcp> {
    match &reloadable.tls {
        Some(files) => tls::load(files).map(Tcp::Secure),
        None if reloadable.plain => Ok(Tcp::Plain),
        None => Ok(Tcp::Refused),
    }
}

/// Tells systemd, if it wants to know.
fn notify(states: &[NotifyState<'_>]) {
    if std::env::var_os("NOTIFY_SOCKET").is_some_and(|path| Path::new(&path) != Path::new(""))
        && let Err(error) = sd_notify::notify(false, states)
    {
        tracing::warn!(%error, "cannot tell systemd");
    }
}
