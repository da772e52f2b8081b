//! Finding the daemon, and starting one when none runs.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::client::Client;
use crate::endpoint::{DEFAULT_SOCKET, Endpoint, Where};

/// A client of a daemon that runs: one is started if none does and the default socket is meant.
pub(crate) async fn connect(place: &Where) -> Result<Client> {
    let endpoint = place.endpoint()?;
    let client = Client::new(endpoint.clone());
    match endpoint {
        Endpoint::Unix(path) if path == Path::new(DEFAULT_SOCKET) => {
            if !client.answers().await {
                start(&path).await?;
            }
            Ok(client)
        }
        _ => Ok(client),
    }
}

/// Starts sampand in a session of its own, and waits until it listens or has ended.
async fn start(socket: &Path) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!(
            "no daemon answers at `unix://{}`, and only root may start one: run `sudo sampan …`, or say with -H or SAMPAN_HOST where one is",
            socket.display()
        );
    }
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("sampand")));
    let program = beside.filter(|p| p.exists()).unwrap_or_else(|| PathBuf::from("sampand"));
    let state = socket.parent().unwrap_or(Path::new("/run/sampan"));
    std::fs::create_dir_all(state).with_context(|| format!("cannot make `{}`", state.display()))?;
    let log_path = state.join("sampand.log");
    let log = File::options()
        .create(true)
        .append(true)
        .open(&log_path)
        .with_context(|| format!("cannot open `{}`", log_path.display()))?;
    // Whether it listens is told by the socket appearing; whether it failed, by its end.
    let watch = rustix::fs::inotify::init(
        rustix::fs::inotify::CreateFlags::CLOEXEC | rustix::fs::inotify::CreateFlags::NONBLOCK,
    )
    .context("cannot watch for sampand's socket")?;
    rustix::fs::inotify::add_watch(
        &watch,
        state,
        rustix::fs::inotify::WatchFlags::CREATE | rustix::fs::inotify::WatchFlags::ATTRIB,
    )
    .context("cannot watch for sampand's socket")?;
    #[expect(
        deprecated,
        reason = "an OwnedFd stays open and the same, as `register` demands, which is an unsafe fn"
    )]
    let watch = tokio::io::unix::AsyncFd::new(watch).context("cannot watch for sampand's socket")?;
    let mut command = tokio::process::Command::new(&program);
    // It leaves this terminal's session by itself.
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let mut child = command.spawn().with_context(|| format!("cannot start `{}`", program.display()))?;
    let client = Client::new(Endpoint::Unix(socket.to_owned()));
    loop {
        if client.answers().await {
            return Ok(());
        }
        tokio::select! {
            status = child.wait() => {
                let status = status.context("cannot wait for sampand")?;
                let said = std::fs::read_to_string(&log_path).unwrap_or_default();
                let last = said.lines().last().unwrap_or("").to_owned();
                bail!("sampand ended ({status}): {last}\nits log is `{}`", log_path.display());
            }
            ready = watch.readable() => {
                let mut ready = ready.context("cannot watch for sampand's socket")?;
                let mut events = [0u8; 4096];
                while rustix::io::read(&watch, &mut events).is_ok_and(|n| n > 0) {}
                ready.clear_ready();
            }
        }
    }
}
