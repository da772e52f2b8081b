//! A build cache in a registry.

use std::fs::File;
use std::io::{self, Read};

use sampan_base::{Class, ImageRef};
use sampan_build::{CacheStore, RunnerError};
use sampan_oci::image::{Descriptor, media};
use sampan_registry::{Cancel, Credentials, RegistryError, Repository, Which};

use super::failed;
use crate::Inner;
use crate::error::Result;

/// The cache under one name.
pub(crate) struct RegistryCache {
    repository: Repository,
    which: Which,
}

impl RegistryCache {
    pub(crate) fn new(
        inner: &Inner,
        name: &ImageRef,
        credentials: &Credentials,
        cancel: &Cancel,
    ) -> Result<RegistryCache> {
        let repository = inner.access.registries().repository(name, credentials, cancel);
        let repository = repository.map_err(failed(name, format!("cannot reach the build cache {name}")))?;
        Ok(RegistryCache { repository, which: Which::of(name) })
    }
}

fn refused(error: RegistryError) -> RunnerError {
    RunnerError { class: error.class(), source: error.into() }
}

impl CacheStore for RegistryCache {
    fn manifest(&self) -> std::result::Result<Option<Vec<u8>>, RunnerError> {
        match self.repository.document(&self.which) {
            Err(error) if error.class() == Class::NotFound => Ok(None),
            other => other.map(|document| Some(document.bytes)).map_err(refused),
        }
    }

    fn open(&self, blob: &Descriptor) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(self.repository.blob(blob).map_err(io::Error::other)?))
    }

    fn put(&self, blob: &Descriptor, file: File) -> std::result::Result<(), RunnerError> {
        self.repository.upload(blob, &file, &[], &|_| {}).map(drop).map_err(refused)
    }

    fn put_bytes(&self, blob: &Descriptor, bytes: &[u8]) -> std::result::Result<(), RunnerError> {
        self.repository.upload(blob, &bytes.to_vec(), &[], &|_| {}).map(drop).map_err(refused)
    }

    fn put_manifest(&self, manifest: &[u8]) -> std::result::Result<(), RunnerError> {
        self.repository.put_document(&self.which, media::MANIFEST, manifest).map(drop).map_err(refused)
    }
}
