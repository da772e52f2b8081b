//! What of the engine's configuration may change while it runs: a reload replaces it whole.

use std::sync::Arc;

use sampan_registry::RegistryConfig;

use crate::Engine;
use crate::build_cache::CacheBounds;
use crate::events::EventKind;
use crate::registry::Access;
use crate::spec::LogSpec;

/// Settings that a reload takes over.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The log of containers that ask for none.
    pub log: LogSpec,
    /// `key=value`, shown by `info`.
    pub labels: Vec<String>,
    /// How registries are reached.
    pub registries: RegistryConfig,
    /// How much builds leave at most.
    pub build_cache: CacheBounds,
}

impl Engine {
    /// What holds now.
    pub fn settings(&self) -> Arc<Settings> {
        self.inner.settings()
    }

    /// Takes over new settings. What goes on (a pull, a build) ends as it began.
    pub fn reload(&self, settings: Settings) {
        self.inner.access.replace(Access::client(&settings.registries));
        *self.inner.settings.write().unwrap_or_else(std::sync::PoisonError::into_inner) = Arc::new(settings);
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        self.inner.events.publish(
            EventKind::Daemon,
            "reload",
            &name.clone(),
            [("name".to_owned(), name)].into(),
        );
    }
}

impl crate::Inner {
    pub(crate) fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}
