//! A build cache in a directory: an OCI layout with one manifest.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use sampan_base::digest::Hasher;
use sampan_base::{Digest, FileError, files};
use sampan_oci::image::{Descriptor, Index, media};

use super::exchange::CacheStore;
use crate::run::RunnerError;

pub(super) struct Layout {
    root: PathBuf,
}

/// Bytes of `index.json` and of a manifest.
const MAX_DOCUMENT_BYTES: u64 = 4 << 20;

impl Layout {
    pub(super) fn new(root: &Path) -> Layout {
        Layout { root: root.to_owned() }
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    fn write(&self, digest: &Digest, content: &mut dyn Read) -> Result<(), FileError> {
        let path = self.blob(digest);
        if path.exists() {
            return Ok(());
        }
        files::create_directories(&self.root.join("blobs/sha256"), 0o755)?;
        let new = path.with_extension("new");
        let failed = || FileError::on("write", &new);
        let mut file = File::create(&new).map_err(failed())?;
        let mut hasher = Hasher::new();
        let mut buffer = vec![0; 128 * 1024];
        loop {
            let n = content.read(&mut buffer).map_err(failed())?;
            if n == 0 {
                break;
            }
            hasher.update(&buffer[..n]);
            file.write_all(&buffer[..n]).map_err(failed())?;
        }
        if hasher.finish() != *digest {
            let source = io::Error::new(io::ErrorKind::InvalidData, "its content does not have its digest");
            return Err(failed()(source));
        }
        file.sync_all().map_err(failed())?;
        std::fs::rename(&new, &path).map_err(FileError::on("create", path))
    }
}

fn failed(error: FileError) -> RunnerError {
    RunnerError { class: error.class(), source: error.into() }
}

impl CacheStore for Layout {
    fn manifest(&self) -> Result<Option<Vec<u8>>, RunnerError> {
        let path = self.root.join("index.json");
        let index = match files::read_limited(&path, MAX_DOCUMENT_BYTES) {
            Err(e) if e.source.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(failed)?,
        };
        let index: Index = serde_json::from_slice(&index)
            .map_err(|e| failed(FileError { action: "read", path, source: e.into() }))?;
        let Some(manifest) = index.manifests.first() else { return Ok(None) };
        let path = self.blob(&manifest.digest);
        let bytes = files::read_limited(&path, MAX_DOCUMENT_BYTES).map_err(failed)?;
        if Digest::of(&bytes) != manifest.digest {
            let source = io::Error::new(io::ErrorKind::InvalidData, "its content does not have its digest");
            return Err(failed(FileError { action: "read", path, source }));
        }
        Ok(Some(bytes))
    }

    fn open(&self, blob: &Descriptor) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(File::open(self.blob(&blob.digest))?))
    }

    fn put(&self, blob: &Descriptor, mut file: File) -> Result<(), RunnerError> {
        self.write(&blob.digest, &mut file).map_err(failed)
    }

    fn put_bytes(&self, blob: &Descriptor, bytes: &[u8]) -> Result<(), RunnerError> {
        self.write(&blob.digest, &mut &*bytes).map_err(failed)
    }

    fn put_manifest(&self, manifest: &[u8]) -> Result<(), RunnerError> {
        let digest = Digest::of(manifest);
        self.write(&digest, &mut &*manifest).map_err(failed)?;
        let layout = self.root.join("oci-layout");
        files::write_atomic(&layout, br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644).map_err(failed)?;
        let index = Index {
            schema_version: 2,
            media_type: Some(media::INDEX.to_owned()),
            manifests: vec![Descriptor::new(media::MANIFEST, digest, manifest.len() as u64)],
            annotations: std::collections::BTreeMap::new(),
            other: serde_json::Map::new(),
        };
        let path = self.root.join("index.json");
        let index = serde_json::to_vec(&index)
            .map_err(|e| failed(FileError { action: "write", path: path.clone(), source: e.into() }))?;
        files::write_atomic(&path, &index, 0o644).map_err(failed)
    }
}
