//! A build's RUN instructions, run as containers are: the same runtime, the same network, the same profile.
//!
//! Where containers are in user namespaces, steps are as well: the builder has mounted what a step sees for its
//! [`StepRunner::users`], with the ids of images on disk; what is made here for the step is given to its root. It is so with
//! `--security=insecure`, whose privileges are then those of the namespace; the host's network is refused, as Docker does.
//!
//! A step has no shim: the build waits for it and takes its output. If the daemon dies meanwhile, the next one finds the
//! step's bundle without a record and removes what is left of it, as of any unfinished container.

use std::collections::BTreeMap;
use std::io::{PipeReader, PipeWriter, Read};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, poll};
use sampan_base::{ImageRef, files as disk};
use sampan_build::CacheStore;
use sampan_build::run::{
    Cancel, ExitStatus, Limits, NetworkMode as StepNetwork, Owners, RunStep, RunnerError, StepMount,
    StepRunner, Stream, Transfer,
};
use sampan_image::{IdMapping, LayerProgress, UserNamespace};
use sampan_oci::image::Platform;
use sampan_oci::runtime::NamespaceKind;

use crate::bundle::{self, Facts};
use crate::container::{files, run, tear_down};
use crate::error::{EngineError, Result};
use crate::images::Image;
use crate::registry::cache::RegistryCache;
use crate::registry::pull::{PullEvent, PullRequest};
use crate::registry::{self, Credentials};
use crate::spec::{ContainerSpec, MountSource, MountSpec, NetworkMode, Resources, Security, Ulimit};
use crate::{Inner, network, shim, user, userns};

/// The longest log of the runtime's that is read.
const MAX_LOG_BYTES: u64 = 1 << 20;

/// Runs the steps of one build, and gets its base images.
#[derive(Debug)]
pub(crate) struct Steps {
    inner: Arc<Inner>,
    /// Who builds, by registry.
    credentials: BTreeMap<String, Credentials>,
    /// Ends transfers when the build is cancelled.
    transfers: registry::Cancel,
    /// The user namespace of steps, if that is not the host's. Each has its own, with the same mapping.
    users: Option<UserNamespace>,
}

impl Steps {
    pub(crate) fn new(
        inner: Arc<Inner>,
        credentials: BTreeMap<String, Credentials>,
        cancel: &Cancel,
    ) -> Result<Steps> {
        let transfers = registry::Cancel::default();
        let ended = transfers.clone();
        cancel.when_set(move || ended.set());
        let users = inner.userns.of_builds()?;
        Ok(Steps { inner, credentials, transfers, users })
    }

    fn pull_image(
        &self,
        name: ImageRef,
        platform: &Platform,
        progress: &(dyn Fn(Transfer<'_>) + Sync),
    ) -> Result<Image> {
        let credentials = self.credentials.get(name.registry()).cloned().unwrap_or_default();
        let request = PullRequest { name, platform: Some(platform.clone()), credentials };
        self.inner.pull_blocking(&request, &self.transfers, &|event| {
            if let PullEvent::Layer { digest, size, state: LayerProgress::Receiving { bytes } } = event {
                progress(Transfer { blob: &digest, current: bytes, total: size });
            }
        })
    }

    fn run_step(&self, step: &RunStep<'_>, output: &mut dyn FnMut(Stream, &[u8])) -> Result<ExitStatus> {
        let random = sampan_base::id::random_id().map_err(EngineError::io("cannot make an id"))?;
        let id = format!("build-{}", &random[..24]);
        let bundle = self.inner.config.bundle(&id);
        disk::create_directories(&bundle, 0o711).map_err(EngineError::file)?;
        let result = self.run_in(&id, &bundle, step, output);
        // All of it is tried; what fails is logged, and the next daemon tries again.
        network::detach_bridge(&self.inner, &id);
        if let Err(error) = disk::remove_if_exists(&bundle) {
            tracing::warn!(step = id, error = sampan_base::chain(&error), "cannot remove the bundle");
        }
        result
    }

    fn run_in(
        &self,
        id: &str,
        bundle: &Path,
        step: &RunStep<'_>,
        output: &mut dyn FnMut(Stream, &[u8]),
    ) -> Result<ExitStatus> {
        let inner = &self.inner;
        let mapping = self.users.as_ref().map(|users| &users.mapping);
        let spec = ContainerSpec {
            network: match &step.network {
                StepNetwork::Default => NetworkMode::Bridge,
                StepNetwork::None => NetworkMode::None,
                StepNetwork::Host => NetworkMode::Host,
                StepNetwork::Named(name) => NetworkMode::Named(name.clone()),
            },
            mounts: step.mounts.iter().map(mount).collect(),
            resources: resources(&step.limits),
            shm_size: step.limits.shm_size.and_then(|s| i64::try_from(s).ok()).unwrap_or(0),
            ulimits: step.limits.ulimits.iter().map(ulimit).collect(),
            security: Security { privileged: step.privileged, ..Security::default() },
            ..ContainerSpec::default()
        };
        if mapping.is_some() && spec.network == NetworkMode::Host {
            return Err(EngineError::Invalid(userns::NO_HOST_NETWORK.to_owned()));
        }
        let (mut join, mut share) =
            bundle::namespaces(&spec, inner.host.cgroup_v1, |id| inner.process_of(id))?;
        let (mut endpoint, mut has_names) = (None, false);
        match &spec.network {
            NetworkMode::Bridge | NetworkMode::Named(_) => {
                let name = match &spec.network {
                    NetworkMode::Named(name) => Some(name.as_str()),
                    _ => None,
                };
                let maps = mapping.map(userns::maps);
                let attached = network::step::attach(inner, id, &spec, name, maps.as_ref())?;
                join.insert(NamespaceKind::Network, attached.endpoint.namespace.clone());
                join.extend(attached.user_namespace.map(|path| (NamespaceKind::User, path)));
                (endpoint, has_names) = (Some(attached.endpoint), attached.has_names);
            }
            NetworkMode::Host => share.push(NamespaceKind::Network),
            _ => {}
        }
        let hostname = "buildkitsandbox";
        let own_network = spec.network != NetworkMode::Host;
        let hosts = files::hosts(
            &endpoint.iter().flat_map(network::Endpoint::addresses).collect::<Vec<_>>(),
            hostname,
            None,
            // The builder's lines are `address name`, the engine's `name:address`.
            &step
                .extra_hosts
                .iter()
                .filter_map(|l| l.split_once(' '))
                .map(|(a, n)| format!("{n}:{a}"))
                .collect::<Vec<_>>(),
            endpoint.as_ref().map(|e| e.gateway),
            &[],
        )
        .map_err(EngineError::Invalid)?;
        let host_resolv = run::read_host_file("/etc/resolv.conf")?;
        let resolv =
            files::resolv_conf(&host_resolv, &spec.dns, own_network, &inner.config.fallback_dns, has_names);
        let mut bound = Vec::new();
        for (inside, name, text) in
            [("/etc/hosts", "hosts", hosts), ("/etc/resolv.conf", "resolv.conf", resolv)]
        {
            let path = bundle.join(name);
            disk::write_atomic_volatile(&path, text.as_bytes(), 0o644).map_err(EngineError::file)?;
            userns::give(mapping, &path)?;
            bound.push((inside, path));
        }
        let user = user::resolve(step.rootfs, &step.user, &[])?;
        userns::check_user(mapping, &user)?;
        let facts = Facts {
            id: id.to_owned(),
            rootfs: step.rootfs.to_owned(),
            args: step.args.clone(),
            image_env: step.env.clone(),
            cwd: step.cwd.clone(),
            user: Some(user),
            hostname: Some(hostname.to_owned()),
            join,
            share_with_host: share,
            files: bound,
            image_owned: step.mounts.iter().filter_map(image_owned).collect(),
            mapping: mapping.cloned(),
            all_capabilities: inner.host.capabilities.clone(),
            ..Facts::default()
        };
        run::write_bundle(bundle, &spec, &facts)?;
        if step.cancel.is_set() {
            return Err(EngineError::Conflict("the build was cancelled".to_owned()));
        }
        let log = bundle.join("log.json");
        let root = inner.config.runtime_root().join(shim::NAMESPACE);
        disk::create_directories(&root, 0o711).map_err(EngineError::file)?;
        let mut command = Command::new(&inner.config.runtime);
        command.arg("--root").arg(&root).arg("--log").arg(&log).args([
            "--log-format",
            "json",
            "run",
            "--bundle",
        ]);
        command.arg(bundle).arg(id);
        let (stdout, out) = pipe(mapping)?;
        let (stderr, err) = pipe(mapping)?;
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        let spawned = command.spawn().map_err(EngineError::io("cannot start the OCI runtime"));
        // It holds the pipes' other ends, which would never end.
        drop(command);
        let mut child = spawned?;
        let Some(status) = pass_output(&mut child, (stdout, stderr), &step.cancel, output)? else {
            // First the runtime, so that it makes nothing more, then what it made. It may have ended by itself.
            let _ = child.kill();
            child.wait().map_err(EngineError::io("cannot wait for the OCI runtime"))?;
            tear_down::force_delete_blocking(inner, id);
            return Err(EngineError::Conflict("the build was cancelled".to_owned()));
        };
        if step.cancel.is_set() {
            return Err(EngineError::Conflict("the build was cancelled".to_owned()));
        }
        if status.code != 0
            && let Some(said) = runtime_error(&log)
        {
            return Err(run::command_error(&said));
        }
        Ok(status)
    }
}

impl StepRunner for Steps {
    fn users(&self) -> Option<&UserNamespace> {
        self.users.as_ref()
    }

    fn run(
        &self,
        step: &RunStep<'_>,
        output: &mut dyn FnMut(Stream, &[u8]),
    ) -> std::result::Result<ExitStatus, RunnerError> {
        self.run_step(step, output)
            .map_err(|error| RunnerError { class: error.class(), source: error.into() })
    }

    fn pull(
        &self,
        name: &str,
        platform: &Platform,
        progress: &(dyn Fn(Transfer<'_>) + Sync),
    ) -> Option<std::result::Result<Image, RunnerError>> {
        let pulled = self.pull_image(name.parse().ok()?, platform, progress);
        Some(pulled.map_err(|error| RunnerError { class: error.class(), source: error.into() }))
    }

    fn cache_store(&self, name: &str) -> Option<std::result::Result<Box<dyn CacheStore + '_>, RunnerError>> {
        let opened = match name.parse::<ImageRef>() {
            Ok(name) => {
                let credentials = self.credentials.get(name.registry()).cloned().unwrap_or_default();
                RegistryCache::new(&self.inner, &name, &credentials, &self.transfers)
            }
            Err(error) => Err(EngineError::Invalid(error.to_string())),
        };
        Some(match opened {
            Ok(cache) => Ok(Box::new(cache)),
            Err(error) => Err(RunnerError { class: error.class(), source: error.into() }),
        })
    }
}

fn mount(mount: &StepMount) -> MountSpec {
    let (source, target, read_only) = match mount {
        StepMount::Bind { source, target, read_only, .. } => (MountSource::bind(source), target, *read_only),
        StepMount::Tmpfs { target, size } => {
            // Programs are built in it: it is for one command, which may run them as well from its layer.
            let options = ["exec".to_owned()].into_iter().chain(size.map(|bytes| format!("size={bytes}")));
            let options = options.collect();
            (MountSource::Tmpfs { options }, target, false)
        }
    };
    MountSpec { read_only, ..MountSpec::new(source, target) }
}

fn image_owned(mount: &StepMount) -> Option<String> {
    match mount {
        StepMount::Bind { target, owners: Owners::Image, .. } => Some(target.clone()),
        StepMount::Bind { .. } | StepMount::Tmpfs { .. } => None,
    }
}

/// A pipe for a step's output. The step's root must own it, or nobody there can open it by another name (`/dev/stdout`).
fn pipe(mapping: Option<&IdMapping>) -> Result<(PipeReader, PipeWriter)> {
    let failed = || EngineError::io("cannot make a pipe for the step's output");
    let (reader, writer) = std::io::pipe().map_err(failed())?;
    if let Some(mapping) = mapping {
        let (uid, gid) = userns::root(mapping);
        std::os::unix::fs::fchown(&writer, Some(uid), Some(gid)).map_err(failed())?;
    }
    Ok((reader, writer))
}

fn resources(limits: &Limits) -> Resources {
    Resources {
        memory: limits.memory.unwrap_or(0),
        memory_swap: limits.memory_swap.unwrap_or(0),
        cpu_period: limits.cpu_period.unwrap_or(0),
        cpu_quota: limits.cpu_quota.unwrap_or(0),
        cpu_shares: limits.cpu_shares.unwrap_or(0),
        cpuset_cpus: limits.cpuset_cpus.clone(),
        cpuset_mems: limits.cpuset_mems.clone(),
        ..Resources::default()
    }
}

fn ulimit((name, soft, hard): &(String, i64, i64)) -> Ulimit {
    Ulimit { name: name.clone(), soft: *soft, hard: *hard }
}

/// Passes on what the child writes, as it comes, until it has ended; `None` if the build was cancelled before.
fn pass_output(
    child: &mut Child,
    (mut stdout, mut stderr): (PipeReader, PipeReader),
    cancel: &Cancel,
    output: &mut dyn FnMut(Stream, &[u8]),
) -> Result<Option<ExitStatus>> {
    let failed = || EngineError::io("cannot read the step's output");
    let cancelled = cancel.event().map_err(failed())?;
    let (mut out_open, mut err_open) = (true, true);
    let mut buffer = vec![0u8; 32 << 10];
    while out_open || err_open {
        let mut waiting = vec![PollFd::new(&cancelled, PollFlags::IN)];
        if out_open {
            waiting.push(PollFd::new(&stdout, PollFlags::IN));
        }
        if err_open {
            waiting.push(PollFd::new(&stderr, PollFlags::IN));
        }
        match poll(&mut waiting, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(failed()(errno.into())),
        }
        let ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
        if ready(&waiting[0]) {
            return Ok(None);
        }
        let out_ready = out_open && ready(&waiting[1]);
        let err_ready = err_open && waiting.last().is_some_and(ready);
        drop(waiting);
        if out_ready {
            out_open = read_some(&mut stdout, &mut buffer, Stream::Stdout, output).map_err(failed())?;
        }
        if err_ready {
            err_open = read_some(&mut stderr, &mut buffer, Stream::Stderr, output).map_err(failed())?;
        }
    }
    let status = child.wait().map_err(EngineError::io("cannot wait for the OCI runtime"))?;
    use std::os::unix::process::ExitStatusExt;
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    Ok(Some(ExitStatus { code }))
}

fn read_some(
    from: &mut (impl Read + AsFd),
    buffer: &mut [u8],
    stream: Stream,
    output: &mut dyn FnMut(Stream, &[u8]),
) -> std::io::Result<bool> {
    let n = from.read(buffer)?;
    if n > 0 {
        output(stream, &buffer[..n]);
    }
    Ok(n > 0)
}

/// What the runtime logged as an error: then not the command failed, but starting it.
fn runtime_error(log: &Path) -> Option<String> {
    let bytes = disk::read_limited(log, MAX_LOG_BYTES).ok()?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let mut errors = text.lines().filter_map(|line| {
        let entry: serde_json::Value = serde_json::from_str(line).ok()?;
        let fatal = matches!(entry.get("level")?.as_str()?, "error" | "fatal");
        if fatal { entry.get("msg")?.as_str().map(str::to_owned) } else { None }
    });
    errors.next_back()
}
