//! Creating a container: what was asked for meets what the image says; then name, volumes, snapshot, directory, record.
//!
//! Crash argument: the record is stored last. What a crash before that leaves (a snapshot, a directory) has no record, and
//! the next daemon removes it; anonymous volumes are then unused ones.

pub(crate) mod limits;
pub(crate) mod mounts;

use std::sync::Arc;

use sampan_base::{Timestamp, files as disk};

use crate::container::health;
use crate::container::owner::{self, publish};
use crate::container::state::Phase;
use crate::error::{EngineError, Result};
use crate::images::Image;
use crate::metadata::{ContainerRecord, Durable};
use crate::spec::{
    ContainerSpec, HealthSpec, IpcMode, NamespaceMode, NetworkMode, RestartPolicy, check_name,
};
use crate::{Engine, Inner, blocking, names, userns, volumes};

/// A container that was created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Created {
    /// Its id.
    pub id: String,
    /// What could not be done as asked.
    pub warnings: Vec<String>,
}

impl Engine {
    /// Creates a container; without a name, one is made up.
    ///
    /// # Errors
    /// If the image is missing, the name is in use, or something asked for makes no sense.
    pub async fn create(&self, name: Option<&str>, spec: ContainerSpec) -> Result<Created> {
        if let Some(name) = name {
            check_name(name).map_err(EngineError::Invalid)?;
        }
        let mut spec = spec;
        crate::logs::driver::settle(&mut spec.log, &self.inner.settings().log);
        let warnings = check(&mut spec, &self.inner)?;
        self.add_mounts_of_others(&mut spec)?;
        self.resolve_containers(&mut spec)?;
        crate::network::resolve(&self.inner, &mut spec)?;
        let id = sampan_base::id::random_id().map_err(EngineError::io("cannot make an id"))?;
        let name = self.claim_name(name, &id)?;
        let inner = Arc::clone(&self.inner);
        let made = {
            let (id, name) = (id.clone(), name.clone());
            blocking(move || make(&inner, id, name, spec)).await
        };
        let record = match made {
            Ok(record) => record,
            Err(error) => {
                self.inner.containers().release(&name, &id);
                return Err(error);
            }
        };
        publish(&self.inner, &record, "create", []);
        let handle = owner::spawn(&self.inner, record, None);
        self.inner.containers().insert(handle);
        Ok(Created { id, warnings })
    }

    fn claim_name(&self, name: Option<&str>, id: &str) -> Result<String> {
        if let Some(name) = name {
            self.inner.containers().claim(name, id)?;
            return Ok(name.to_owned());
        }
        let mut attempt = 0;
        loop {
            let random = sampan_base::id::random_id().map_err(EngineError::io("cannot make a name"))?;
            let number = u64::from_str_radix(&random[..16], 16).unwrap_or(0);
            let name = names::from_random(number, attempt);
            match self.inner.containers().claim(&name, id) {
                Ok(()) => return Ok(name),
                Err(error) if attempt > 100 => return Err(error),
                Err(_) => attempt += 1,
            }
        }
    }

    /// Other containers are stored by id: names may change.
    fn resolve_containers(&self, spec: &mut ContainerSpec) -> Result<()> {
        if let NetworkMode::Container(other) = &mut spec.network {
            *other = self.inner.find_container(other)?.id.clone();
        }
        if let IpcMode::Container(other) = &mut spec.ipc {
            *other = self.inner.find_container(other)?.id.clone();
        }
        for mode in [&mut spec.pid, &mut spec.uts] {
            if let NamespaceMode::Container(other) = mode {
                *other = self.inner.find_container(other)?.id.clone();
            }
        }
        Ok(())
    }
}

/// What can be said against a spec without looking at its image; warnings are what can be lived with. The sentences are
/// Docker's.
fn check(spec: &mut ContainerSpec, inner: &Inner) -> Result<Vec<String>> {
    let invalid = |text: String| Err(EngineError::Invalid(text));
    if let Some(directory) = spec.working_dir.as_ref().filter(|d| !d.starts_with('/')) {
        return invalid(format!(
            "the working directory '{directory}' is invalid, it needs to be an absolute path"
        ));
    }
    if let Some(signal) = &spec.stop_signal {
        crate::parse_signal(signal).map_err(|_| EngineError::Invalid(format!("Invalid signal: {signal}")))?;
    }
    if let Some(entry) = spec.env.iter().find(|e| e.is_empty() || e.starts_with('=')) {
        return invalid(format!("invalid environment variable: {entry}"));
    }
    if let Some(health) = &spec.health {
        health::check(health).map_err(EngineError::Invalid)?;
    }
    if spec.auto_remove && spec.restart_policy != RestartPolicy::No {
        return invalid("can't create 'AutoRemove' container with restart policy".to_owned());
    }
    if spec.shm_size < 0 {
        return invalid("SHM size can not be less than 0".to_owned());
    }
    let score = spec.resources.oom_score_adj;
    if !(-1000..=1000).contains(&score) {
        return invalid(format!("Invalid value {score}, range for oom score adj is [-1000, 1000]"));
    }
    for mount in &spec.mounts {
        if !mount.target.starts_with('/') || mount.target.split('/').any(|part| part == "..") {
            return invalid(format!("invalid mount path: '{}' mount path must be absolute", mount.target));
        }
        if mount.target.trim_matches('/').is_empty() {
            return invalid("invalid specification: destination can't be '/'".to_owned());
        }
    }
    if matches!(spec.network, NetworkMode::Container(_)) && spec.hostname.is_some() {
        return invalid("conflicting options: hostname and the network mode".to_owned());
    }
    for host in &spec.extra_hosts {
        if !host.contains(':') {
            return invalid(format!("bad format for add-host: \"{host}\""));
        }
    }
    userns::check(inner, spec)?;
    let mut warnings = limits::check(&mut spec.resources, &inner.host, false)?;
    if !spec.publish.is_empty() && !spec.network.has_endpoints() {
        match spec.network {
            NetworkMode::Host | NetworkMode::None => {
                warnings.push("Published ports are discarded when using host network mode".to_owned());
            }
            NetworkMode::Container(_) => {
                return invalid(
                    "conflicting options: port publishing and the container type network mode".to_owned(),
                );
            }
            _ => {}
        }
    }
    crate::logs::driver::check(&spec.log)?;
    Ok(warnings)
}

/// Makes all that a container has on disk. On an error nothing of it is left.
fn make(inner: &Inner, id: String, name: String, mut spec: ContainerSpec) -> Result<ContainerRecord> {
    let image = inner.images.resolve(&spec.image)?;
    let args = complete(&mut spec, &image)?;
    let mut record = ContainerRecord {
        id,
        name,
        created: Timestamp::now(),
        image_id: image.id.to_string(),
        args,
        mapping: userns::choose(inner, &spec)?,
        spec,
        phase: Phase::Created { error: None },
        restart_count: 0,
        stopped_by_hand: false,
        health: None,
        unreadable: None,
    };
    let result = (|| {
        let directory = record.spec.working_dir.as_ref().unwrap_or(&image.config.config.working_dir);
        inner.images.prepare_snapshot(&record.id, &image, directory, record.spec.auto_remove)?;
        let directory = inner.config.container_directory(&record.id);
        disk::create_directories(&directory, 0o710).map_err(EngineError::file)?;
        mounts::make(inner, &mut record, &image)?;
        inner.metadata.put_container(&record, Durable::Yes)
    })();
    if let Err(error) = result {
        inner.forget_on_disk(&record.id, &record.spec);
        volumes::remove_anonymous(inner, &record.id, &record.spec);
        return Err(error);
    }
    Ok(record)
}

/// Fills in what the image says where the spec says nothing; answers the command and its arguments.
fn complete(spec: &mut ContainerSpec, image: &Image) -> Result<Vec<String>> {
    let from_image = &image.config.config;
    for (key, value) in &from_image.labels {
        spec.labels.entry(key.clone()).or_insert_with(|| value.clone());
    }
    for port in from_image.exposed_ports.keys().filter_map(|text| text.parse().ok()) {
        if !spec.exposed.contains(&port) {
            spec.exposed.push(port);
        }
    }
    for publish in &spec.publish {
        if !spec.exposed.contains(&publish.port) {
            spec.exposed.push(publish.port);
        }
    }
    spec.exposed.sort();
    for path in from_image.volumes.keys() {
        if !spec.anonymous_volumes.contains(path) {
            spec.anonymous_volumes.push(path.clone());
        }
    }
    spec.health = health::merge(spec.health.take(), from_image.healthcheck.as_ref().map(HealthSpec::from));
    spec.user = spec.user.take().or_else(|| said(&from_image.user));
    spec.working_dir = spec.working_dir.take().or_else(|| said(&from_image.working_dir));
    spec.stop_signal = spec.stop_signal.take().or_else(|| said(&from_image.stop_signal));
    inherit_env(&mut spec.env, &from_image.env);
    // An entrypoint given by hand drops the image's arguments; an empty one (`--entrypoint ""`) drops the image's.
    if spec.cmd.as_ref().is_none_or(Vec::is_empty) && spec.entrypoint.as_ref().is_none_or(Vec::is_empty) {
        spec.cmd.clone_from(&from_image.cmd);
    }
    if spec.entrypoint.is_none() {
        spec.entrypoint.clone_from(&from_image.entrypoint);
    }
    spec.entrypoint.take_if(|list| list.iter().all(String::is_empty));
    let args: Vec<String> = spec.entrypoint.iter().chain(&spec.cmd).flatten().cloned().collect();
    if args.is_empty() || args[0].is_empty() {
        return Err(EngineError::Invalid("No command specified".to_owned()));
    }
    Ok(args)
}

fn said(text: &str) -> Option<String> {
    Some(text).filter(|t| !t.is_empty()).map(str::to_owned)
}

/// Adds the variables of `below` that `env` says nothing of; a name without `=` says that there is to be none.
pub(crate) fn inherit_env(env: &mut Vec<String>, below: &[String]) {
    fn name(entry: &str) -> &str {
        entry.split('=').next().unwrap_or(entry)
    }
    for entry in below {
        if !env.iter().any(|own| name(own) == name(entry)) {
            env.push(entry.clone());
        }
    }
}
