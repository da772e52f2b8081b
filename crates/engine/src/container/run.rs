//! From a created container to a running process; the way back is [`super::tear_down`].
//!
//! ```text
//! start:  mount snapshot ─┐
//!         network ────────┼─> files, config.json ─> shim: Create ─> attach waiting clients ─> shim: Start
//!         start shim ─────┘
//! ```

use std::path::Path;
use std::sync::Arc;

use sampan_base::{Class, Timestamp, Uptime, files as disk};
use sampan_rpc::log::attach_address;
use sampan_rpc::{runc, task as api};
use tokio::sync::oneshot;

use crate::attach::{self, Streams};
use crate::bundle::{self, Facts};
use crate::container::state::StartFailure;
use crate::container::{files, tear_down};
use crate::error::{EngineError, Result};
use crate::logs::driver;
use crate::metadata::ContainerRecord;
use crate::network::{self, Endpoint};
use crate::shim::{self, ProcessExit, ShimError, Task};
use crate::spec::{ContainerSpec, MountSource, NetworkMode};
use crate::{Inner, blocking, sources, user, volumes};

/// A client that attached before the start.
pub(crate) type WaitingClient = (Streams, oneshot::Sender<std::io::Result<tokio::net::UnixStream>>);

/// A running container's shim, and the end of its first process.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) task: Task,
    pub(crate) pid: u32,
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) started: Started,
    exit: oneshot::Receiver<std::result::Result<ProcessExit, ShimError>>,
}

impl Run {
    /// Watches the first process of `task`.
    pub(crate) fn watch(task: Task, pid: u32, endpoints: Vec<Endpoint>, started: Started) -> Run {
        let (sender, exit) = oneshot::channel();
        let waiting = task.clone();
        tokio::spawn(async move {
            // The owner may have gone, with the whole daemon.
            let _ = sender.send(waiting.wait(None).await);
        });
        Run { task, pid, endpoints, started, exit }
    }

    /// Until the first process has ended, or the shim is gone.
    pub(crate) async fn ended(&mut self) -> std::result::Result<ProcessExit, ShimError> {
        match (&mut self.exit).await {
            Ok(result) => result,
            Err(_) => Err(ShimError::Lost),
        }
    }
}

/// Starts the container of `record`. On an error nothing of the attempt is left but the record of it.
pub(crate) async fn start(
    inner: &Arc<Inner>,
    record: &ContainerRecord,
    console: Option<(u32, u32)>,
    waiting: &mut Vec<WaitingClient>,
) -> Result<Run> {
    let mut is_second = false;
    loop {
        tear_down::before_start(inner, &record.id).await?;
        let error = match try_start(inner, record, console, waiting).await {
            Ok(run) => return Ok(run),
            Err(error) => error,
        };
        tear_down::tear_down(inner, &record.id, None).await;
        // Somebody has killed it, and nothing of the container has run yet: that need not be the container's end.
        if is_second || !matches!(error, EngineError::ShimLost { made: false, .. }) {
            return Err(error);
        }
        tracing::warn!(
            container = record.id,
            error = sampan_base::chain(&error),
            "trying once more to start it"
        );
        is_second = true;
    }
}

async fn try_start(
    inner: &Arc<Inner>,
    record: &ContainerRecord,
    console: Option<(u32, u32)>,
    waiting: &mut Vec<WaitingClient>,
) -> Result<Run> {
    let bundle = inner.config.bundle(&record.id);
    let rootfs = bundle.join("rootfs");
    // The shim's directory must exist before the shim; its mounts before config.json; the rest goes side by side.
    let directories = rootfs.clone();
    blocking(move || disk::create_directories(&directories, 0o711)).await.map_err(EngineError::file)?;
    let mount = {
        let (inner, record, at) = (Arc::clone(inner), record.clone(), rootfs.clone());
        blocking(move || crate::rootfs::mount(&inner, &record, &at))
    };
    let prepared = async {
        let (mounted, attached) = tokio::join!(mount, network::attach(inner, record));
        mounted?;
        let attached = attached?;
        let request = {
            let (inner, record, attached) = (Arc::clone(inner), record.clone(), attached.clone());
            let (bundle, rootfs) = (bundle.clone(), rootfs.clone());
            blocking(move || {
                volumes::local::mount_all(&inner, &record.id, &record.spec)?;
                make_sources(&record.spec)?;
                let mut facts = facts(&inner, &record, &attached, &rootfs)?;
                facts.console = console;
                write_bundle(&bundle, &record.spec, &facts)?;
                create_request(&inner, &record, &bundle)
            })
        };
        Ok::<_, EngineError>((attached, request.await?))
    };
    let (prepared, task) =
        tokio::join!(prepared, shim::start(&inner.spare, &inner.config.shim, &record.id, &bundle));
    let (attached, request) = prepared?;
    let task = task.map_err(shim_failed("cannot start the container's shim"))?;
    let failed = |made, error| match error {
        ShimError::Lost => EngineError::ShimLost { made, said: shim::last_words(&bundle) },
        other => start_failed(other),
    };
    let pid = task.create(request).await.map_err(|error| failed(false, error))?;
    let (pid, started) = async {
        for (streams, client) in waiting.drain(..) {
            // A client that has gone meanwhile is no reason not to start.
            let _ = client.send(attach::connect(&bundle, None, streams).await);
        }
        let started = task.start(None).await.map_err(|error| failed(true, error))?;
        let at = Started { at: Timestamp::now(), uptime: Uptime::now() };
        note_start(&bundle, at)?;
        // What was kept of the run before this one is older than this.
        crate::restore::forget_aside(&inner.config, &record.id);
        Ok::<_, EngineError>((if started == 0 { pid } else { started }, at))
    }
    .await?;
    Ok(Run::watch(task, pid, attached.endpoints, started))
}

/// Makes the directories of the host that are to be bound and are missing, where that was asked for.
fn make_sources(spec: &ContainerSpec) -> Result<()> {
    for mount in &spec.mounts {
        let MountSource::Bind { path, create, .. } = &mount.source else { continue };
        sources::check_propagation(path, &mount.propagation)?;
        match std::fs::symlink_metadata(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            // What else is wrong with it, the mount says.
            _ => continue,
        }
        if !create {
            return Err(crate::create::mounts::missing_source(path));
        }
        disk::create_directories(path, 0o755).map_err(|error| {
            let doing = format!("error while creating mount source path '{}'", path.display());
            EngineError::layer(Class::Internal, doing)(error)
        })?;
    }
    Ok(())
}

/// Where a bundle says when its container was started. The record says so, too, but it is only noted there: what lies in
/// memory costs nothing and survives a daemon that is killed, like the container itself.
const STARTED: &str = "started";

/// When a run began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Started {
    /// By the time of day, which may be set meanwhile: for people, and to tell this run from others.
    pub(crate) at: Timestamp,
    /// For how long it runs.
    pub(crate) uptime: Uptime,
}

fn note_start(bundle: &Path, started: Started) -> Result<()> {
    let text = format!("{} {}", started.at, started.uptime);
    disk::write_atomic_volatile(&bundle.join(STARTED), text.as_bytes(), 0o600).map_err(EngineError::file)
}

/// When the container of `bundle` was started, if it was.
pub(crate) fn started(bundle: &Path) -> Option<Started> {
    let bytes = disk::read_limited(&bundle.join(STARTED), 100).ok()?;
    let text = std::str::from_utf8(&bytes).ok()?;
    // Older daemons wrote the first word alone.
    let (at, uptime) = text.split_once(' ').unwrap_or((text, ""));
    Some(Started { at: at.parse().ok()?, uptime: uptime.parse().unwrap_or_else(|_| Uptime::now()) })
}

fn create_request(inner: &Inner, record: &ContainerRecord, bundle: &Path) -> Result<api::CreateTaskRequest> {
    let spec = &record.spec;
    let log = driver::plan(record, &inner.config.container_directory(&record.id))?;
    let stdout = attach_address(bundle, Some(&log))
        .map_err(EngineError::layer(Class::Internal, "cannot tell the shim where to log"))?;
    // What the container's root does not own, it can't give to its users, or open by another name.
    let (io_uid, io_gid) = record.mapping.as_ref().map_or((0, 0), crate::userns::root);
    let options = runc::Options { io_uid, io_gid, ..runtime_options(inner) };
    Ok(api::CreateTaskRequest {
        id: record.id.clone(),
        bundle: bundle.display().to_string(),
        terminal: spec.tty,
        stdin: if spec.open_stdin { "attach:".to_owned() } else { String::new() },
        stdout,
        options: Some(sampan_rpc::pack(&options)),
        ..Default::default()
    })
}

/// How shims of this engine call the OCI runtime.
pub(crate) fn runtime_options(inner: &Inner) -> runc::Options {
    runc::Options {
        binary_name: inner.config.runtime.display().to_string(),
        root: inner.config.runtime_root().display().to_string(),
        ..Default::default()
    }
}

/// Gathers what the host contributes, and writes the files that are bound into the container.
fn facts(
    inner: &Inner,
    record: &ContainerRecord,
    attached: &network::Attached,
    rootfs: &Path,
) -> Result<Facts> {
    let spec = &record.spec;
    let image = inner.images.resolve_id(&record.image_id)?;
    let process = &image.config.config;
    let (mut join, mut share) = bundle::namespaces(spec, inner.host.cgroup_v1, |id| inner.process_of(id))?;
    match &attached.namespace {
        network::Namespace::Own(path) => {
            join.insert(sampan_oci::runtime::NamespaceKind::Network, path.clone());
        }
        network::Namespace::Host => share.push(sampan_oci::runtime::NamespaceKind::Network),
    }
    if let Some(user) = &attached.user_namespace {
        join.insert(sampan_oci::runtime::NamespaceKind::User, user.clone());
    }
    let own_uts = spec.uts == crate::spec::NamespaceMode::Private;
    let hostname = hostname(inner, record);
    let directory = inner.config.container_directory(&record.id);
    let files = match &spec.network {
        // The files of the container whose network it shares.
        NetworkMode::Container(id) => bound_files(&inner.config.container_directory(id)),
        _ => {
            write_files(inner, record, attached, &hostname, &directory)?;
            bound_files(&directory)
        }
    };
    let user_text = spec.user.clone().unwrap_or_else(|| process.user.clone());
    let cwd = spec
        .working_dir
        .clone()
        .or_else(|| Some(process.working_dir.clone()).filter(|d| !d.is_empty()))
        .unwrap_or_else(|| "/".to_owned());
    let user = user::resolve(rootfs, &user_text, &spec.group_add)?;
    crate::userns::check_user(record.mapping.as_ref(), &user)?;
    let (mut devices, device_rules) = crate::devices::plan(spec)?;
    let bound_devices = match &record.mapping {
        Some(_) => crate::devices::renamed(spec, &mut devices),
        None => Vec::new(),
    };
    Ok(Facts {
        id: record.id.clone(),
        rootfs: rootfs.to_owned(),
        args: record.args.clone(),
        image_env: [network::links::environment(inner, record)?, process.env.clone()].concat(),
        cwd,
        user: Some(user),
        hostname: own_uts.then_some(hostname),
        join,
        share_with_host: share,
        files,
        sources: sources::prepare(inner, record)?,
        image_owned: Default::default(),
        shm: sources::shared_memory(inner, record)?,
        init: match spec.init {
            Some(true) => Some(crate::host::program(&inner.config.runtime)?),
            _ => None,
        },
        can_rro: inner.host.can_rro,
        kernel: inner.host.kernel.clone(),
        block_devices: crate::devices::block_devices(&spec.resources)?,
        mapping: record.mapping.clone(),
        all_capabilities: inner.host.capabilities.clone(),
        devices,
        bound_devices,
        device_rules,
        console: None,
    })
}

pub(crate) fn hostname(inner: &Inner, record: &ContainerRecord) -> String {
    let host = || rustix::system::uname().nodename().to_string_lossy().into_owned();
    match (&record.spec.hostname, &record.spec.network) {
        (Some(name), _) => name.clone(),
        (None, NetworkMode::Host) => host(),
        (None, NetworkMode::Container(id)) => {
            inner.find_container(id).map_or_else(|_| host(), |c| hostname(inner, &c.snapshot().record))
        }
        _ => record.id[..12].to_owned(),
    }
}

fn bound_files(directory: &Path) -> Vec<(&'static str, std::path::PathBuf)> {
    vec![
        ("/etc/resolv.conf", directory.join("resolv.conf")),
        ("/etc/hostname", directory.join("hostname")),
        ("/etc/hosts", directory.join("hosts")),
    ]
}

fn write_files(
    inner: &Inner,
    record: &ContainerRecord,
    attached: &network::Attached,
    hostname: &str,
    directory: &Path,
) -> Result<()> {
    let spec = &record.spec;
    let own_network = !matches!(attached.namespace, network::Namespace::Host);
    let hosts = if own_network || !spec.extra_hosts.is_empty() {
        let addresses: Vec<_> = attached.endpoints.iter().flat_map(network::Endpoint::addresses).collect();
        let way_out = attached.endpoints.iter().find(|e| e.default_route).or(attached.endpoints.first());
        let links = network::links::host_lines(inner, spec)?;
        let (domain, gateway) = (spec.domainname.as_deref(), way_out.map(|e| e.gateway));
        files::hosts(&addresses, hostname, domain, &spec.extra_hosts, gateway, &links)
            .map_err(EngineError::Invalid)?
    } else {
        read_host_file("/etc/hosts")?
    };
    let resolv = files::resolv_conf(
        &read_host_file("/etc/resolv.conf")?,
        &spec.dns,
        own_network,
        &inner.config.fallback_dns,
        attached.has_names(inner),
    );
    let texts = [("hosts", hosts), ("resolv.conf", resolv), ("hostname", format!("{hostname}\n"))];
    for (name, text) in texts {
        // Not synced: they are written anew at each start.
        let path = directory.join(name);
        disk::write_atomic_volatile(&path, text.as_bytes(), 0o644).map_err(EngineError::file)?;
        crate::userns::give(record.mapping.as_ref(), &path)?;
    }
    Ok(())
}

/// A file of the host's that may be missing (a host without resolver is a host without name servers).
pub(crate) fn read_host_file(path: &str) -> Result<String> {
    match disk::read_limited(Path::new(path), 1 << 20) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(EngineError::file(error)),
    }
}

pub(crate) fn write_bundle(bundle: &Path, spec: &ContainerSpec, facts: &Facts) -> Result<()> {
    let config = bundle::plan(spec, facts)?;
    let bytes = serde_json::to_vec(&config)
        .map_err(EngineError::layer(Class::Internal, "cannot encode the container's config.json"))?;
    disk::write_atomic_volatile(&bundle.join("config.json"), &bytes, 0o600).map_err(EngineError::file)
}

pub(crate) fn shim_failed(doing: &'static str) -> impl FnOnce(ShimError) -> EngineError {
    move |error| EngineError::layer(error.class(), doing)(error)
}

/// What a failed Create or Start means to the caller: a command that does not exist or can't be executed is the
/// caller's business (127 and 126), all else the engine's.
fn start_failed(error: ShimError) -> EngineError {
    match error {
        ShimError::Remote(failure) => {
            // docker's command line looks for the words in between to choose its exit code.
            command_error(&format!("failed to create task for container: {}", failure.message))
        }
        other => shim_failed("cannot create the container's process")(other),
    }
}

/// Tells from the runtime's words whose fault it was. The phrases are runc's; all runtimes use them.
pub(crate) fn command_error(said: &str) -> EngineError {
    let exit_code =
        if said.contains("executable file not found") || said.contains("no such file or directory") {
            127
        } else if said.contains("permission denied")
            || said.contains("is a directory")
            || said.contains("exec format error")
        {
            126
        } else {
            return EngineError::layer(Class::Internal, "the OCI runtime failed")(said);
        };
    EngineError::Command { message: said.to_owned(), exit_code }
}

/// What is stored of a failed start.
pub(crate) fn failure(error: &EngineError) -> StartFailure {
    let exit_code = match error {
        EngineError::Command { exit_code, .. } => i32::from(*exit_code),
        _ => 128,
    };
    StartFailure { message: sampan_base::chain(error), exit_code, at: Timestamp::now() }
}
