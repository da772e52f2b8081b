//! `docker save`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};

use sampan_base::{Class, Digest, ImageRef};
use sampan_oci::image::{ArchivedImage, Descriptor, Index, Platform, media};

use super::{NAME_ANNOTATION, REF_ANNOTATION};
use crate::image::{Image, ImageError, ResolveError};
use crate::store::Store;
use crate::tar::{Kind, Member, Mtime, Writer};

/// Why images can't be saved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SaveError {
    /// One of them is not there.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// One of them can't be read.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// One of them is for another platform than was asked for.
    #[error("the image `{text}` is for {is}, not for {wanted}")]
    Platform {
        /// The image.
        text: String,
        /// Its platform.
        is: String,
        /// The one that was asked for.
        wanted: String,
    },
    /// The archive can't be written, or a blob not be read.
    #[error("cannot write the archive")]
    Write {
        /// Why.
        source: io::Error,
    },
}

impl SaveError {
    /// The class to report.
    pub fn class(&self) -> Class {
        match self {
            SaveError::Resolve(e) => e.class(),
            SaveError::Image(e) => e.class(),
            SaveError::Platform { .. } => Class::NotFound,
            SaveError::Write { source } => sampan_base::error::class_of_io(source),
        }
    }
}

impl From<io::Error> for SaveError {
    fn from(source: io::Error) -> Self {
        SaveError::Write { source }
    }
}

/// An image and the one name it was asked for by, if by name.
type Chosen = (Image, Vec<ImageRef>);

impl Store {
    /// Writes the images `texts`, names or ids, which must be for `platform` if one is given, as one archive. An image asked for by its id goes without names.
    ///
    /// # Errors
    /// If one is not there, or `output` fails.
    pub fn save(
        &self,
        texts: &[&str],
        platform: Option<&Platform>,
        output: &mut dyn Write,
    ) -> Result<(), SaveError> {
        let lease = self.lease();
        let mut chosen: Vec<Chosen> = Vec::new();
        for text in texts {
            let image = self.resolve(text)?;
            self.hold(&image, &lease);
            let is = image.config.platform();
            if let Some(wanted) = platform.filter(|wanted| !is.fits(wanted)) {
                let (text, is, wanted) = ((*text).to_owned(), is.to_string(), wanted.to_string());
                return Err(SaveError::Platform { text, is, wanted });
            }
            let name: Option<ImageRef> = text.parse().ok().filter(|n| image.names.contains(n));
            match chosen.iter_mut().find(|(i, _)| i.id == image.id) {
                Some((_, names)) => names.extend(name),
                None => chosen.push((image, name.into_iter().collect())),
            }
        }
        let mut writer = Writer::new(io::BufWriter::with_capacity(256 * 1024, output));
        let json = |value: serde_json::Result<Vec<u8>>| value.map_err(io::Error::other);
        add(&mut writer, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        add(&mut writer, "index.json", &json(serde_json::to_vec(&index(&chosen, self)?))?)?;
        add(&mut writer, "manifest.json", &json(serde_json::to_vec(&archived(&chosen)))?)?;
        for directory in ["blobs", "blobs/sha256"] {
            writer.append(&member(directory, Kind::Directory, 0o755), &mut io::empty())?;
        }
        let mut written = BTreeSet::new();
        for (image, _) in &chosen {
            let blobs =
                [&image.id.0, &image.manifest].into_iter().chain(image.layers.iter().map(|l| &l.blob));
            for digest in blobs {
                if written.insert(digest.clone()) {
                    let blob = self.content().open_blob(digest).map_err(ImageError::from)?;
                    let size = blob.metadata()?.len();
                    let kind = Kind::File { size, pieces: None };
                    writer.append(&member(&blob_path(digest), kind, 0o644), &mut io::BufReader::new(blob))?;
                }
            }
        }
        writer.finish()?.flush()?;
        Ok(())
    }
}

fn index(chosen: &[Chosen], store: &Store) -> Result<Index, SaveError> {
    let mut manifests = Vec::new();
    for (image, names) in chosen {
        let size = std::fs::metadata(store.blob_path(&image.manifest))?.len();
        let bare = Descriptor::new(media::MANIFEST, image.manifest.clone(), size);
        if names.is_empty() {
            manifests.push(bare.clone());
        }
        for name in names {
            let mut descriptor = bare.clone();
            descriptor.annotations.insert(NAME_ANNOTATION.to_owned(), name.canonical());
            descriptor
                .annotations
                .insert(REF_ANNOTATION.to_owned(), name.tag().unwrap_or("latest").to_owned());
            manifests.push(descriptor);
        }
    }
    Ok(Index {
        schema_version: 2,
        media_type: Some(media::INDEX.to_owned()),
        manifests,
        annotations: BTreeMap::new(),
        other: serde_json::Map::new(),
    })
}

fn archived(chosen: &[Chosen]) -> Vec<ArchivedImage> {
    let one = |(image, names): &Chosen| ArchivedImage {
        config: blob_path(&image.id.0),
        repo_tags: names.iter().map(ImageRef::familiar).collect(),
        layers: image.layers.iter().map(|l| blob_path(&l.blob)).collect(),
    };
    chosen.iter().map(one).collect()
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn member(path: &str, kind: Kind, mode: u32) -> Member {
    Member { path: path.into(), kind, mode, uid: 0, gid: 0, mtime: Mtime::default(), xattrs: Vec::new() }
}

fn add(writer: &mut Writer<impl Write>, path: &str, mut bytes: &[u8]) -> io::Result<()> {
    let kind = Kind::File { size: bytes.len() as u64, pieces: None };
    writer.append(&member(path, kind, 0o644), &mut bytes as &mut dyn Read)
}
