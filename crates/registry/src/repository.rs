//! A repository of a registry: the way in for pulls, pushes and listings.

use std::sync::Arc;

use sampan_base::{Digest, ImageRef};

use crate::client::{Client, KnownSchemes};
use crate::endpoint::RegistryConfig;
use crate::error::{Cause, RegistryError};
use crate::pace::{Cancel, Pace, RealPace};
use crate::secret::{Credentials, Secret};

/// All registries, as this host is configured. Long-lived; remembers little and no secrets.
#[derive(Clone, Debug)]
pub struct Registries {
    config: Arc<RegistryConfig>,
    known: Arc<KnownSchemes>,
    pace: Arc<dyn Pace>,
}

impl Registries {
    /// Registries as configured.
    pub fn new(config: RegistryConfig) -> Registries {
        Registries::with_pace(config, Arc::new(RealPace))
    }

    /// As [`Registries::new`], with another clock and way of waiting.
    pub fn with_pace(config: RegistryConfig, pace: Arc<dyn Pace>) -> Registries {
        Registries { config: Arc::new(config), known: Arc::default(), pace }
    }

    /// The configuration.
    pub fn config(&self) -> &RegistryConfig {
        &self.config
    }

    /// The repository of an image's name, for one operation.
    ///
    /// # Errors
    /// If a mirror of the registry is not well written.
    pub fn repository(
        &self,
        name: &ImageRef,
        credentials: &Credentials,
        cancel: &Cancel,
    ) -> Result<Repository, RegistryError> {
        let registry = name.registry();
        let endpoints = self.config.endpoints(registry).map_err(|cause| RegistryError {
            registry: registry.to_owned(),
            doing: "find its address".to_owned(),
            cause: Box::new(cause),
        })?;
        let client = |endpoint| {
            Client::new(
                endpoint,
                Arc::clone(&self.config),
                Arc::clone(&self.known),
                Arc::clone(&self.pace),
                cancel.clone(),
                credentials.clone(),
            )
        };
        let clients = endpoints.into_iter().map(client).collect();
        let repository = name.repository().to_owned();
        Ok(Repository { inner: Arc::new(Inner { clients, name: repository }) })
    }

    /// Asks a registry whether it knows these credentials. Answers what stands for them from now on, if the registry's
    /// token server gives such.
    ///
    /// # Errors
    /// If it does not answer, or does not know them.
    pub fn login(
        &self,
        registry: &str,
        credentials: &Credentials,
        cancel: &Cancel,
    ) -> Result<Option<Secret>, RegistryError> {
        let client = Client::new(
            self.config.own(registry),
            Arc::clone(&self.config),
            Arc::clone(&self.known),
            Arc::clone(&self.pace),
            cancel.clone(),
            credentials.clone(),
        );
        let result = client.login();
        result.map_err(|cause| client.failed("log in")(cause))
    }
}

/// A repository, for one operation: connections and tokens live as long as it does. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Repository {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    /// Mirrors first, the registry itself last.
    pub(crate) clients: Vec<Client>,
    /// `library/debian`.
    pub(crate) name: String,
}

impl Inner {
    /// The registry itself.
    pub(crate) fn own(&self) -> &Client {
        // There is always one: the registry comes last.
        &self.clients[self.clients.len() - 1]
    }

    pub(crate) fn pull_scope(&self) -> String {
        format!("repository:{}:pull", self.name)
    }

    pub(crate) fn push_scope(&self) -> String {
        format!("repository:{}:pull,push", self.name)
    }

    pub(crate) fn path(&self, rest: &str) -> String {
        format!("/v2/{}/{rest}", self.name)
    }

    /// Asks each client in turn; the last one's failure is the one that counts, unless nobody waits any more.
    pub(crate) fn first<T>(
        &self,
        doing: &str,
        mut ask: impl FnMut(&Client) -> Result<T, Cause>,
    ) -> Result<(usize, T), RegistryError> {
        let mut index = 0;
        loop {
            let client = &self.clients[index];
            match ask(client) {
                Ok(value) => return Ok((index, value)),
                Err(cause) if client.is_mirror() && !client.cancel().is_set() => {
                    let _ = cause;
                    index += 1;
                }
                Err(cause) => return Err(client.failed(doing)(cause)),
            }
        }
    }
}

/// Which manifest of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// The one that has this tag now.
    Tag(String),
    /// The one of this digest.
    Digest(Digest),
}

impl Which {
    /// What an image's name asks for: its digest, if it has one, else its tag.
    pub fn of(name: &ImageRef) -> Which {
        match (name.digest(), name.tag()) {
            (Some(digest), _) => Which::Digest(digest.clone()),
            (None, tag) => Which::Tag(tag.unwrap_or("latest").to_owned()),
        }
    }
}

impl std::fmt::Display for Which {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Which::Tag(tag) => f.write_str(tag),
            Which::Digest(digest) => digest.fmt(f),
        }
    }
}
