//! The engine under the daemon's skins: containers, execs, logs, images, builds, volumes, events. It speaks plain Rust
//! values; HTTP codes and camelCase are the skins' business.
//!
//! Start with [`Engine::open`], which finds again what an earlier daemon left running. Reading order:
//! [`spec`] (what a container is to be), `create`, [`container`] (its life), [`exec`], [`logs`], `images`, [`registry`], `build`,
//! [`volumes`], `network`, `restore`.
//!
//! What is on disk: `<root>/engine.redb` ([`metadata`]), `<root>/containers/<id>/` (log, hosts, hostname, resolv.conf),
//! `<root>/volumes/<name>/_data`, and what the image crate keeps. What a reboot forgets: `<state>/bundles/<id>/`
//! (config.json, rootfs mount, shim's address), `<state>/runtime` (the OCI runtime's), network namespaces.

pub mod attach;
mod blocking;
pub mod build;
pub mod build_cache;
mod bundle;
pub mod care;
mod commit;
pub mod config;
pub mod container;
pub mod copy;
pub(crate) mod create;
mod devices;
pub mod error;
pub mod events;
pub mod exec;
mod host;
pub mod images;
mod lifecycle;
pub mod logs;
pub mod metadata;
mod names;
pub mod network;
pub mod registry;
mod restore;
mod rootfs;
mod seccomp;
pub mod settings;
pub mod shim;
mod sources;
mod spare;
pub mod spec;
mod step;
mod top;
mod user;
mod userns;
pub mod volumes;

use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, RwLock};

pub use blocking::{blocking, long_blocking};
pub use config::EngineConfig;
pub use error::{EngineError, Result};
pub use host::HostFacts;
pub use lifecycle::{WaitCondition, parse_signal};
pub use top::{ProcessRow, Table};

use container::state::Denial;
use container::{Handle, Registry};

/// The engine. Cheap to clone; all clones are one engine.
#[derive(Clone, Debug)]
pub struct Engine {
    pub(crate) inner: Arc<Inner>,
}

/// What all parts of the engine share.
#[derive(Debug)]
pub(crate) struct Inner {
    id: String,
    pub(crate) config: EngineConfig,
    pub(crate) host: HostFacts,
    pub(crate) metadata: metadata::Metadata,
    pub(crate) images: images::Images,
    pub(crate) access: registry::Access,
    pub(crate) solver: sampan_build::Solver,
    /// Files of build contexts that were hashed before.
    pub(crate) digests: Arc<sampan_build::Digests>,
    /// When the build cache was last brought within its bounds.
    pub(crate) cache_bounded: Mutex<Option<std::time::Instant>>,
    pub(crate) net: sampan_net::Net,
    /// All networks; the lock is held for look-ups and changes only.
    networks: Mutex<network::Networks>,
    /// Held while a network is made or removed.
    pub(crate) network_turn: Mutex<()>,
    pub(crate) events: events::Events,
    pub(crate) execs: exec::Execs,
    /// File systems of containers that are looked into from outside.
    pub(crate) borrowed: rootfs::Borrowed,
    /// Volumes with options, which are mounted while they are used.
    pub(crate) mounted: volumes::local::Mounted,
    /// Which ids containers get.
    pub(crate) userns: userns::UserNamespaces,
    /// Who makes a volume.
    pub(crate) volumes_turn: Mutex<()>,
    /// A shim that waits for the next start.
    pub(crate) spare: spare::Spare,
    /// What could not be removed of runs and containers.
    pub(crate) left_overs: container::tear_down::LeftOvers,
    containers: Mutex<Registry>,
    settings: RwLock<Arc<settings::Settings>>,
}

impl Inner {
    /// The registry; the lock is held for look-ups only, never over an await.
    pub(crate) fn containers(&self) -> std::sync::MutexGuard<'_, Registry> {
        self.containers.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The networks; the lock is held for look-ups only, never over an await.
    pub(crate) fn networks(&self) -> std::sync::MutexGuard<'_, network::Networks> {
        self.networks.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn find_container(&self, text: &str) -> Result<Arc<Handle>> {
        self.containers().find(text)
    }

    /// The first process of a running container.
    pub(crate) fn process_of(&self, id: &str) -> Result<u32> {
        let view = self.find_container(id)?.snapshot();
        let pid = view.record.phase.pid();
        pid.ok_or_else(|| Denial::NotRunning { id: view.record.id.clone() }.into())
    }
}

impl Engine {
    /// Opens the engine: its store, network and records, then every container that an earlier daemon left.
    ///
    /// # Errors
    /// If the store is in use by another daemon or can't be read, or the network can't be set up.
    pub async fn open(config: EngineConfig) -> Result<Engine> {
        let inner = blocking(move || open_inner(config)).await?;
        let engine = Engine { inner: Arc::new(inner) };
        engine.restore().await?;
        engine.inner.spare.refill();
        Ok(engine)
    }

    /// Before the daemon ends: if no container runs, the network goes too. What runs goes on, with its network.
    pub async fn close(&self) {
        if self.containers().iter().any(|view| view.record.phase.is_alive()) {
            return;
        }
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            if let Err(error) = inner.net.remove_all() {
                tracing::warn!(error = sampan_base::chain(&error), "cannot remove the network");
            }
        })
        .await;
    }

    /// What tells it from all other engines, for as long as its root directory lives.
    pub fn id(&self) -> &str {
        &self.inner.id
    }

    /// Its configuration.
    pub fn config(&self) -> &EngineConfig {
        &self.inner.config
    }

    /// What the host can do.
    pub fn host(&self) -> &HostFacts {
        &self.inner.host
    }

    /// What happens in it.
    pub fn events(&self) -> &events::Events {
        &self.inner.events
    }
}

fn open_inner(config: EngineConfig) -> Result<Inner> {
    let userns = userns::UserNamespaces::open(&config)?;
    // 0711: processes in user namespaces must be able to pass through to what is bound into their containers.
    for directory in
        [&config.root, &config.state, &config.root.join("containers"), &config.state.join("bundles")]
    {
        sampan_base::files::create_directories(directory, 0o711).map_err(EngineError::file)?;
    }
    let images = images::Images::open(&config.root)?;
    if let Some(users) = userns.of_builds()? {
        // Left out, it would leave containers with more than their owner believes.
        let doing = "cannot start with `userns-remap`; leave it out, or mend what follows";
        let checked = images.store.check_mapped(users.namespace.as_fd());
        checked.map_err(EngineError::layer(sampan_base::Class::Unsupported, doing))?;
    }
    let metadata = metadata::Metadata::open(&config.root, &config.state)?;
    let networks = network::manage::load(&metadata, &config)?;
    let net = network::open(&config, &networks, userns.maps().as_ref())?;
    Ok(Inner {
        id: engine_id(&config.root)?,
        solver: Inner::open_solver(&config, &images)?,
        digests: Arc::default(),
        cache_bounded: Mutex::default(),
        host: HostFacts::probe(),
        metadata,
        images,
        access: registry::Access::new(&config.settings.registries),
        net,
        networks: Mutex::new(network::Networks::new(networks)),
        network_turn: Mutex::default(),
        events: events::Events::default(),
        execs: exec::Execs::default(),
        borrowed: rootfs::Borrowed::default(),
        left_overs: container::tear_down::LeftOvers::default(),
        spare: spare::Spare::new(&config),
        mounted: volumes::local::Mounted::default(),
        userns,
        volumes_turn: Mutex::default(),
        containers: Mutex::default(),
        settings: RwLock::new(Arc::new(config.settings.clone())),
        config,
    })
}

/// The engine's id: made at the first start, then read from `<root>/engine-id`.
fn engine_id(root: &std::path::Path) -> Result<String> {
    let path = root.join("engine-id");
    match sampan_base::files::read_limited(&path, 100) {
        Ok(bytes) => return Ok(String::from_utf8_lossy(&bytes).trim().to_owned()),
        Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(EngineError::file(error)),
    }
    let random = sampan_base::id::random_id().map_err(EngineError::io("cannot make an id"))?;
    // Written as a UUID, as Docker's is since 23.0.
    let parts = [&random[..8], &random[8..12], &random[12..16], &random[16..20], &random[20..32]];
    let id = parts.join("-");
    sampan_base::files::write_atomic(&path, id.as_bytes(), 0o600).map_err(EngineError::file)?;
    Ok(id)
}
