//! What the tests share: a pace that does not wait, images made of bytes, and both ways to a registry.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use sampan_base::{Digest, ImageRef, Timestamp};
use sampan_oci::image::{Descriptor, ImageConfig, Manifest, Platform, media};
use sampan_registry::{
    Cancel, Credentials, Pace, Registries, RegistryConfig, RegistryError, Repository, Which,
};

/// Waits in no time, and notes for how long it should have been. The clock stands still unless it is moved.
#[derive(Debug)]
pub(crate) struct NoWait {
    pub(crate) waits: Mutex<Vec<Duration>>,
    now: Mutex<Timestamp>,
}

impl NoWait {
    pub(crate) fn move_clock(&self, seconds: i64) {
        let mut now = self.now.lock().unwrap();
        *now = Timestamp::from_unix(now.unix_seconds() + seconds, 0).unwrap();
    }

    pub(crate) fn waits(&self) -> Vec<Duration> {
        self.waits.lock().unwrap().clone()
    }
}

impl Pace for NoWait {
    fn now(&self) -> Timestamp {
        *self.now.lock().unwrap()
    }

    fn wait(&self, time: Duration, cancel: &Cancel) -> bool {
        self.waits.lock().unwrap().push(time);
        !cancel.is_set()
    }

    fn chance(&self) -> u8 {
        255
    }
}

/// Registries that nobody waits for.
pub(crate) fn registries(config: RegistryConfig) -> (Registries, Arc<NoWait>) {
    let pace = Arc::new(NoWait { waits: Mutex::default(), now: Mutex::new(Timestamp::now()) });
    (Registries::with_pace(config, Arc::clone(&pace) as Arc<dyn Pace>), pace)
}

/// A repository of the registry at `authority`, for nobody in particular.
pub(crate) fn repository(authority: &str, path: &str) -> (Repository, Arc<NoWait>) {
    repository_as(authority, path, Credentials::Anonymous)
}

/// A repository for somebody.
pub(crate) fn repository_as(authority: &str, path: &str, who: Credentials) -> (Repository, Arc<NoWait>) {
    let (registries, pace) = registries(RegistryConfig::default());
    let repository = registries.repository(&name(authority, path), &who, &Cancel::default()).unwrap();
    (repository, pace)
}

pub(crate) fn name(authority: &str, path: &str) -> ImageRef {
    format!("{authority}/{path}").parse().unwrap()
}

pub(crate) fn tag(tag: &str) -> Which {
    Which::Tag(tag.to_owned())
}

/// Bytes that do not repeat soon.
pub(crate) fn noise(seed: u8, length: usize) -> Vec<u8> {
    let mut state = u64::from(seed) + 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    std::iter::repeat_with(&mut next).take(length).collect()
}

pub(crate) fn descriptor(media_type: &str, bytes: &[u8]) -> Descriptor {
    Descriptor::new(media_type, Digest::of(bytes), bytes.len() as u64)
}

/// Pushes a blob.
pub(crate) fn put_blob(to: &Repository, bytes: &[u8]) -> Descriptor {
    let blob = descriptor(media::LAYER_GZIP, bytes);
    to.upload(&blob, &bytes.to_vec(), &[], &|_| ()).unwrap();
    blob
}

/// Pushes an image of these layers for a platform; answers its manifest's descriptor.
pub(crate) fn put_image(
    to: &Repository,
    which: Option<&Which>,
    platform: &str,
    layers: &[&[u8]],
) -> Descriptor {
    let layers = layers.iter().map(|bytes| put_blob(to, bytes)).collect();
    let platform: Platform = platform.parse().unwrap();
    let config = ImageConfig {
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
        ..ImageConfig::default()
    };
    let config = serde_json::to_vec(&config).unwrap();
    put_blob(to, &config);
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(media::MANIFEST.to_owned()),
        config: descriptor(media::CONFIG, &config),
        layers,
        annotations: Default::default(),
        other: Default::default(),
    };
    let bytes = serde_json::to_vec(&manifest).unwrap();
    let digest = Digest::of(&bytes);
    let which = which.cloned().unwrap_or(Which::Digest(digest));
    to.put_document(&which, media::MANIFEST, &bytes).unwrap();
    Descriptor { platform: Some(platform), ..descriptor(media::MANIFEST, &bytes) }
}

/// An error with its causes.
pub(crate) fn told<T>(result: Result<T, RegistryError>) -> String {
    match result {
        Ok(_) => panic!("it succeeded"),
        Err(error) => sampan_base::chain(&error),
    }
}

/// As [`told`], for who reads.
pub(crate) fn told_io<T>(result: std::io::Result<T>) -> String {
    match result {
        Ok(_) => panic!("it succeeded"),
        Err(error) => match error.get_ref() {
            Some(inner) => sampan_base::chain(inner),
            None => error.to_string(),
        },
    }
}
