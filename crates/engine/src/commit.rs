//! Images made of containers: `docker commit`.
//!
//! The image says what the container's own configuration says, not what its image said: a container that ran `touch x`
//! makes an image that runs `touch x`, unless changes say otherwise.

use sampan_base::{ImageRef, Timestamp};
use sampan_oci::image::{Healthcheck, History};
use serde_json::{Map, Value, json};

use crate::container::owner::publish;
use crate::container::state::Phase;
use crate::create::inherit_env;
use crate::error::Result;
use crate::images::{Image, ImageProcess, NewImage, image_failed, snapshot_failed};
use crate::metadata::ContainerRecord;
use crate::spec::ContainerSpec;
use crate::{Engine, Inner, long_blocking};

impl Engine {
    /// Makes an image of what a container changed, on top of its image. A running container is frozen meanwhile if
    /// `pause` is asked for.
    ///
    /// # Errors
    /// If there is no such container, or its file system can't be read.
    pub async fn commit(&self, text: &str, pause: bool, new: NewImage) -> Result<Image> {
        let view = self.container(text)?;
        let running = matches!(view.record.phase, Phase::Running { .. });
        // It may end by itself at any time: then there is nothing to freeze, or nothing to thaw. As with Docker it is no
        // reason to make no image.
        let frozen = pause && running && done("freeze", self.pause(&view.record.id).await);
        let (inner, record) = (self.inner.clone(), view.record.clone());
        let committed = long_blocking(move || commit(&inner, &record, new)).await;
        if frozen {
            done("thaw", self.resume(&view.record.id).await);
        }
        committed
    }
}

/// Whether it could be done.
fn done(what: &str, result: Result<()>) -> bool {
    if let Err(error) = &result {
        tracing::info!(error = sampan_base::chain(error), "cannot {what} a container that is committed");
    }
    result.is_ok()
}

fn commit(inner: &Inner, record: &ContainerRecord, new: NewImage) -> Result<Image> {
    let store = &inner.images.store;
    let base = inner.images.resolve_id(&record.image_id)?;
    let lease = store.lease();
    let mut made = base.config.clone();
    let own = config(&record.spec, &record.id);
    made.config = new.config.unwrap_or_else(|| own.clone());
    crate::build::apply_changes(&mut made, &new.changes)?;
    merge(&mut made.config, &own);
    let layer =
        store.commit(&record.id, &lease).map_err(snapshot_failed("cannot commit the container's changes"))?;
    let now = Timestamp::now();
    made.created = Some(now);
    made.author.clone_from(&new.author);
    made.history.push(History {
        created: Some(now),
        created_by: own.cmd.clone().unwrap_or_default().join(" "),
        author: new.author,
        comment: new.message.clone(),
        empty_layer: layer.is_none(),
    });
    made.other.insert("container".to_owned(), json!(record.id));
    made.other.insert("container_config".to_owned(), json!(own));
    made.other.insert("docker_version".to_owned(), json!(env!("CARGO_PKG_VERSION")));
    let layers: Vec<_> = base.layers.into_iter().chain(layer).collect();
    let names: Vec<ImageRef> = new.name.into_iter().collect();
    let image = store.create_image(made, &layers, &names).map_err(image_failed("cannot make the image"))?;
    for name in &names {
        inner.image_event("tag", &image, Some(name));
    }
    let named = names.first().map(ImageRef::familiar).unwrap_or_default();
    let attributes = [("comment", new.message), ("imageID", image.id.to_string()), ("imageRef", named)];
    publish(inner, record, "commit", attributes);
    Ok(image)
}

/// A container's configuration, as images of Docker's have it.
fn config(spec: &ContainerSpec, id: &str) -> ImageProcess {
    let set = |keys: Vec<String>| keys.into_iter().map(|key| (key, Map::new())).collect();
    let hostname = spec.hostname.clone().unwrap_or_else(|| id[..12].to_owned());
    let other = [
        ("Hostname", json!(hostname)),
        ("Domainname", json!(spec.domainname.clone().unwrap_or_default())),
        ("AttachStdin", json!(spec.attach[0])),
        ("AttachStdout", json!(spec.attach[1])),
        ("AttachStderr", json!(spec.attach[2])),
        ("Tty", json!(spec.tty)),
        ("OpenStdin", json!(spec.open_stdin)),
        ("StdinOnce", json!(spec.stdin_once)),
        ("Image", json!(spec.image)),
        ("StopTimeout", json!(spec.stop_timeout)),
    ];
    ImageProcess {
        user: spec.user.clone().unwrap_or_default(),
        exposed_ports: set(spec.exposed.iter().map(ToString::to_string).collect()),
        env: spec.env.clone(),
        entrypoint: spec.entrypoint.clone(),
        cmd: spec.cmd.clone(),
        healthcheck: spec.health.as_ref().map(Healthcheck::from),
        args_escaped: false,
        volumes: set(spec.anonymous_volumes.clone()),
        working_dir: spec.working_dir.clone().unwrap_or_default(),
        on_build: spec.on_build.clone(),
        labels: spec.labels.clone(),
        stop_signal: spec.stop_signal.clone().unwrap_or_default(),
        shell: spec.shell.clone(),
        other: other
            .into_iter()
            .filter(|(_, value)| *value != Value::Null)
            .map(|(key, value)| (key.to_owned(), value))
            .collect(),
    }
}

/// What `config` does not say is as `own` has it.
fn merge(config: &mut ImageProcess, own: &ImageProcess) {
    fn text(mine: &mut String, own: &str) {
        if mine.is_empty() {
            own.clone_into(mine);
        }
    }
    text(&mut config.user, &own.user);
    text(&mut config.working_dir, &own.working_dir);
    text(&mut config.stop_signal, &own.stop_signal);
    inherit_env(&mut config.env, &own.env);
    for (port, value) in &own.exposed_ports {
        config.exposed_ports.entry(port.clone()).or_insert_with(|| value.clone());
    }
    for (path, value) in &own.volumes {
        config.volumes.entry(path.clone()).or_insert_with(|| value.clone());
    }
    for (key, value) in &own.labels {
        config.labels.entry(key.clone()).or_insert_with(|| value.clone());
    }
    if config.entrypoint.as_ref().is_none_or(Vec::is_empty) {
        if config.cmd.as_ref().is_none_or(Vec::is_empty) {
            config.cmd.clone_from(&own.cmd);
        }
        if config.entrypoint.is_none() {
            config.entrypoint.clone_from(&own.entrypoint);
        }
    }
    if config.healthcheck.is_none() {
        config.healthcheck.clone_from(&own.healthcheck);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn list(words: &[&str]) -> Vec<String> {
        words.iter().map(|&w| w.to_owned()).collect()
    }

    #[test]
    fn what_is_not_said_is_the_containers() {
        let own = ImageProcess {
            user: "me".to_owned(),
            env: list(&["A=1", "B=2"]),
            cmd: Some(list(&["x"])),
            entrypoint: Some(list(&["e"])),
            labels: BTreeMap::from([("k".to_owned(), "v".to_owned())]),
            ..ImageProcess::default()
        };
        let mut config = ImageProcess::default();
        merge(&mut config, &own);
        assert_eq!(config, own);
        let mut config = ImageProcess {
            env: list(&["B=3"]),
            cmd: Some(list(&["y"])),
            labels: BTreeMap::from([("k".to_owned(), "w".to_owned())]),
            ..ImageProcess::default()
        };
        merge(&mut config, &own);
        assert_eq!((config.env, config.labels["k"].as_str()), (list(&["B=3", "A=1"]), "w"));
        assert_eq!((config.cmd, config.entrypoint), (Some(list(&["y"])), Some(list(&["e"]))));
        // An entrypoint of its own has no use for the container's arguments.
        let mut config = ImageProcess { entrypoint: Some(list(&["f"])), ..ImageProcess::default() };
        merge(&mut config, &own);
        assert_eq!((config.cmd, config.entrypoint), (None, Some(list(&["f"]))));
    }
}
