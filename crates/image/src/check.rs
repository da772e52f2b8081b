//! Whether the store is whole: every record against the disk, and the disk against the records.
//!
//! * Each image has its documents, and each of its layers its blob; blobs have their digests and sizes.
//! * Each chain id has the parent that it says, and its directory; with `deep`, the directory is what its tar makes.
//! * Each snapshot has its parts. Nothing lies about that no record names. The index tells what there is.
//!
//! Mending never fetches. A directory is made again from its blob, a blob from its directory; an image that lacks a
//! layer for good is dropped, and the report says so.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use sampan_base::{ChainId, Class, DiffId, Digest, FileError};
use sampan_oci::image::{ImageConfig, Manifest};
use serde::Serialize;

use crate::image::{ImageError, ImageId};
use crate::layer::{compare, diff};
use crate::metadata::{
    CACHE, CHAINS, CacheRecord, ChainRecord, DIFFS, DIGESTS, DiffRecord, IMAGES, ImageRecord, MetadataError,
    NAMES,
};
use crate::snapshot::{overlay, remove_directory};
use crate::store::{Lease, Store};
use crate::stream;
use crate::unpack::UnpackError;

/// How thoroughly to look, and whether to mend.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CheckOptions {
    /// Also unpack every layer again and compare.
    pub deep: bool,
    /// Mend what can be mended.
    pub repair: bool,
}

/// What was looked at and what was found.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Report {
    /// Images looked at.
    pub images: usize,
    /// Blobs read.
    pub blobs: usize,
    /// Their bytes.
    pub blob_bytes: u64,
    /// Layers, each on its place in a chain.
    pub layers: usize,
    /// Containers' file systems.
    pub snapshots: usize,
    /// What is not as it should be.
    pub problems: Vec<Problem>,
}

impl Report {
    /// Whether nothing is wrong (any more).
    pub fn is_whole(&self) -> bool {
        self.problems.iter().all(|p| p.mended.is_some())
    }
}

/// Something that is not as it should be.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Problem {
    /// The thing: a name, a digest, a path.
    pub subject: String,
    /// What is wrong with it.
    pub what: String,
    /// What was done about it, if something was.
    pub mended: Option<String>,
}

/// Why the store can't be checked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckError {
    /// A file of the store.
    #[error(transparent)]
    File(#[from] FileError),
    /// The database.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// Collecting what nothing names.
    #[error(transparent)]
    Image(#[from] ImageError),
}

impl CheckError {
    /// The class to report.
    pub fn class(&self) -> Class {
        match self {
            CheckError::File(e) => e.class(),
            CheckError::Metadata(e) => e.class(),
            CheckError::Image(e) => e.class(),
        }
    }
}

impl Store {
    /// Looks at everything in the store. Others may use it meanwhile.
    ///
    /// # Errors
    /// If the store can't be read, or what is to be mended not be written.
    pub fn check(&self, options: CheckOptions) -> Result<Report> {
        let lease = self.lease();
        let mut check =
            Check { store: self, options, lease: &lease, report: Report::default(), bad: BTreeSet::new() };
        if let Some(recovered) = self.recovered() {
            for lost in &recovered.lost {
                check.found("the database", format!("was rebuilt without {lost}"), Some("its image is gone"));
            }
        }
        // What names layers keeps them while they are looked at.
        let images = check.images()?;
        check.diffs()?;
        check.images_with_bad_layers(images)?;
        check.chains()?;
        check.names()?;
        check.snapshots()?;
        check.cache()?;
        let report = check.report;
        drop(lease);
        let mut check = Check { store: self, options, lease: &self.lease(), report, bad: BTreeSet::new() };
        check.unnamed()?;
        check.index()?;
        Ok(check.report)
    }
}

struct Check<'a> {
    store: &'a Store,
    options: CheckOptions,
    lease: &'a Lease,
    report: Report,
    /// Layers whose content is lost.
    bad: BTreeSet<DiffId>,
}

type Result<T> = std::result::Result<T, CheckError>;

impl Check<'_> {
    fn found(&mut self, subject: impl ToString, what: impl Into<String>, mended: Option<&str>) {
        let mended = mended.map(str::to_owned);
        self.report.problems.push(Problem { subject: subject.to_string(), what: what.into(), mended });
    }

    /// Does `mend` if mending is wanted, and notes the problem with what was done.
    fn mend(
        &mut self,
        subject: impl ToString,
        what: impl Into<String>,
        done: &str,
        mend: impl FnOnce(&Store) -> Result<()>,
    ) -> Result<()> {
        if self.options.repair {
            mend(self.store)?;
        }
        let done = self.options.repair.then_some(done);
        self.found(subject, what, done);
        Ok(())
    }

    /// The documents of all images; those whose documents can be read, with their layers.
    fn images(&mut self) -> Result<Vec<(ImageId, Vec<DiffId>)>> {
        let mut whole = Vec::new();
        for (id, record) in self.store.metadata().all::<ImageRecord>(IMAGES)? {
            self.report.images += 1;
            let read = id.parse::<Digest>().map_err(|e| e.to_string()).and_then(|digest| {
                let bad = |what| move |e: ImageError| format!("its {what}: {}", sampan_base::chain(&e));
                let config: ImageConfig =
                    self.store.document("configuration", &digest).map_err(bad("configuration"))?;
                let manifest: Manifest =
                    self.store.document("manifest", &record.manifest).map_err(bad("manifest"))?;
                if config.rootfs.diff_ids.len() != manifest.layers.len() || manifest.config.digest != digest {
                    return Err("its manifest and its configuration do not fit".to_owned());
                }
                Ok((ImageId(digest), config.rootfs.diff_ids))
            });
            match read {
                Ok(image) => whole.push(image),
                Err(what) => {
                    self.mend(&id, what, "the image was dropped", |store| {
                        Ok(store.metadata().write(|t| store.metadata().delete(t, IMAGES, &id))?)
                    })?;
                }
            }
        }
        Ok(whole)
    }

    /// Every layer's blob, read to its end.
    fn diffs(&mut self) -> Result<()> {
        for (key, record) in self.store.metadata().all::<DiffRecord>(DIFFS)? {
            let Ok(diff_id) = key.parse().map(DiffId) else {
                self.drop_record(DIFFS, &key, "is no digest")?;
                continue;
            };
            self.lease.hold_blob_in(&mut self.store.held(), &record.blob);
            let problem = match self.store.content().measure(&record.blob) {
                Ok((computed, size)) => {
                    self.report.blobs += 1;
                    self.report.blob_bytes += size;
                    if computed != record.blob {
                        Some(format!("its blob `{}` has the digest `{computed}`", record.blob))
                    } else if size != record.blob_size {
                        Some(format!("its blob has {size} bytes, not {}", record.blob_size))
                    } else {
                        None
                    }
                }
                Err(error) if error.class() == Class::NotFound => {
                    // Collected since the records were read, perhaps.
                    match self.store.metadata().diff(&diff_id)? {
                        Some(now) if now.blob == record.blob => Some("its blob is missing".to_owned()),
                        _ => None,
                    }
                }
                Err(error) => Some(sampan_base::chain(&error)),
            };
            if let Some(problem) = problem {
                self.bad_blob(&diff_id, &record, problem)?;
            }
        }
        Ok(())
    }

    /// A layer's tar is lost; its directory may give it again, byte for byte.
    fn bad_blob(&mut self, diff_id: &DiffId, record: &DiffRecord, problem: String) -> Result<()> {
        let subject = format!("layer {}", diff_id.0);
        if self.options.repair {
            self.store.content().remove(&record.blob)?;
            if self.tar_again(diff_id, record)? {
                self.found(subject, problem, Some("its tar was made again from its directory"));
                return Ok(());
            }
        }
        self.bad.insert(diff_id.clone());
        self.mend(subject, problem, "its record was dropped", |store| {
            Ok(store.metadata().write(|t| store.metadata().delete(t, DIFFS, diff_id.0.as_str()))?)
        })
    }

    fn tar_again(&self, diff_id: &DiffId, record: &DiffRecord) -> Result<bool> {
        for (_, chain) in self.store.metadata().all::<ChainRecord>(CHAINS)? {
            let Some(number) = chain.directory.filter(|_| chain.diff_id == *diff_id) else { continue };
            let mut ingest = self.store.content().ingest()?;
            let tree = self.store.directory_path(number).join("fs");
            let written = diff::write(&tree, diff::Marks::Layer, &mut ingest);
            if written.is_err() || ingest.digest() != diff_id.0 {
                continue;
            }
            let (blob, blob_size) = ingest.finish()?;
            let media_type = sampan_oci::image::media::LAYER.to_owned();
            let new = DiffRecord { blob, blob_size, media_type, size: record.size };
            self.lease.hold_blob_in(&mut self.store.held(), &new.blob);
            self.store.replace_blob(diff_id, &record.blob, &new, self.lease).map_err(|e| match e {
                crate::send::SendError::Metadata(e) => CheckError::Metadata(e),
                crate::send::SendError::File(e) => CheckError::File(e),
                crate::send::SendError::Image(e) => CheckError::Image(e),
                crate::send::SendError::Pack { digest, source } => {
                    CheckError::File(FileError { action: "pack", path: digest.to_string().into(), source })
                }
            })?;
            return Ok(true);
        }
        Ok(false)
    }

    fn images_with_bad_layers(&mut self, images: Vec<(ImageId, Vec<DiffId>)>) -> Result<()> {
        for (id, diff_ids) in images {
            let lost = |d: &&DiffId| -> Result<bool> {
                Ok(self.bad.contains(*d) || self.store.metadata().diff(d)?.is_none())
            };
            let mut missing = None;
            for diff_id in &diff_ids {
                if lost(&diff_id)? {
                    missing = Some(diff_id.0.clone());
                }
            }
            if let Some(missing) = missing {
                let what = format!("its layer {missing} is lost");
                self.mend(&id, what, "the image was dropped: pull, load or build it again", |store| {
                    Ok(store.metadata().write(|t| store.metadata().delete(t, IMAGES, id.as_str()))?)
                })?;
            }
        }
        Ok(())
    }

    fn chains(&mut self) -> Result<()> {
        let mut all: BTreeMap<ChainId, ChainRecord> = BTreeMap::new();
        for (key, record) in self.store.metadata().all::<ChainRecord>(CHAINS)? {
            match key.parse().map(ChainId) {
                Ok(chain) => drop(all.insert(chain, record)),
                Err(_) => self.drop_record(CHAINS, &key, "is no digest")?,
            }
        }
        // The base first: what is mended above needs what is below.
        let depth = |chain: &ChainId| {
            let parents = std::iter::successors(Some(chain), |c| all.get(*c).and_then(|r| r.parent.as_ref()));
            parents.take(crate::limits::MAX_LAYERS + 1).count()
        };
        let mut order: Vec<&ChainId> = all.keys().collect();
        order.sort_by_cached_key(|chain| depth(chain));
        for chain in order {
            self.report.layers += 1;
            let record = &all[chain];
            if ChainId::extend(record.parent.as_ref(), &record.diff_id) != *chain
                || record.parent.as_ref().is_some_and(|p| !all.contains_key(p))
            {
                self.drop_record(
                    CHAINS,
                    chain.0.as_str(),
                    "is not what its record says, or lies on nothing",
                )?;
                continue;
            }
            let Some(number) = record.directory else { continue };
            self.lease.hold_chain(chain);
            let tree = self.store.directory_path(number).join("fs");
            let problem = if tree.is_dir() {
                if self.options.deep { self.differs(record, &tree)? } else { None }
            } else if self.store.metadata().chain(chain)?.as_ref() != Some(record) {
                // Collected since the records were read.
                None
            } else {
                Some(format!("its directory `{}` is missing", tree.display()))
            };
            if let Some(problem) = problem {
                self.bad_directory(chain, record, number, problem)?;
            }
        }
        Ok(())
    }

    /// How a directory differs from what its tar makes.
    fn differs(&self, record: &ChainRecord, tree: &Path) -> Result<Option<String>> {
        let Some(diff) = self.store.metadata().diff(&record.diff_id)? else { return Ok(None) };
        let Ok(mut blob) = self.store.content().open_blob(&diff.blob) else { return Ok(None) };
        let below = self.below(record)?;
        let directory = self.store.new_layer_directory()?;
        let again = directory.path().join("fs");
        let made = stream::stream(&mut blob, None, Some((&again, &below)))
            .and_then(|streamed| streamed.files.finish().map_err(UnpackError::from));
        if let Err(error) = made {
            return Ok(Some(format!("its tar can't be unpacked: {}", sampan_base::chain(&error))));
        }
        let difference = compare::first_difference(tree, &again).map_err(FileError::on("read", tree))?;
        Ok(difference.map(|(path, what)| {
            format!("`{}` in its directory is not as in its tar: {what}", path.display())
        }))
    }

    /// The directories of the layers below one.
    fn below(&self, record: &ChainRecord) -> Result<Vec<PathBuf>> {
        let mut below = Vec::new();
        let mut next = record.parent.clone();
        while let Some(record) = match next.take() {
            Some(chain) => self.store.metadata().chain(&chain)?,
            None => None,
        } {
            below.extend(record.directory.map(|n| self.store.directory_path(n).join("fs")));
            next = record.parent;
        }
        Ok(below)
    }

    fn bad_directory(
        &mut self,
        chain: &ChainId,
        record: &ChainRecord,
        number: u64,
        problem: String,
    ) -> Result<()> {
        let subject = format!("unpacked layer {}", chain.0);
        if self.options.repair && self.is_mounted(chain)? {
            self.found(subject, problem + "; a container runs on it: stop it first", None);
            return Ok(());
        }
        if self.store.metadata().diff(&record.diff_id)?.is_none() {
            self.found(subject, problem + ", and its tar is lost", None);
            return Ok(());
        }
        self.mend(subject, problem, "it is unpacked again when it is needed", |store| {
            let record = ChainRecord { directory: None, ..record.clone() };
            store.metadata().pending().chains.remove(chain);
            store.metadata().write(|t| store.metadata().put(t, CHAINS, chain.0.as_str(), &record))?;
            Ok(remove_directory(&store.directory_path(number))?)
        })
    }

    /// Whether a container whose file system has this layer is mounted.
    fn is_mounted(&self, chain: &ChainId) -> Result<bool> {
        let table = fs::read_to_string("/proc/self/mountinfo")
            .map_err(FileError::on("read", "/proc/self/mountinfo"))?;
        for (_, snapshot) in self.store.metadata().snapshots()? {
            let mut next = snapshot.parent;
            while let Some(at) = next {
                if at == *chain {
                    let parts = self.store.directory_path(snapshot.directory);
                    let overlay = format!("upperdir={}/", parts.display());
                    // A copy is bound: its path within its file system is the end of its whole path.
                    let copy = parts.join("copy").display().to_string();
                    let bound = |line: &str| {
                        line.split(' ').nth(3).is_some_and(|root| root.len() > 1 && copy.ends_with(root))
                    };
                    if table.contains(&overlay) || table.lines().any(bound) {
                        return Ok(true);
                    }
                }
                next = self.store.metadata().chain(&at)?.and_then(|r| r.parent);
            }
        }
        Ok(false)
    }

    fn names(&mut self) -> Result<()> {
        for table in [NAMES, DIGESTS] {
            for (name, id) in self.store.metadata().all::<ImageId>(table)? {
                if self.store.metadata().get::<ImageRecord>(IMAGES, id.as_str())?.is_none() {
                    self.drop_record(table, &name, "names an image that is not there")?;
                }
            }
        }
        Ok(())
    }

    fn snapshots(&mut self) -> Result<()> {
        for (key, record) in self.store.metadata().snapshots()? {
            self.report.snapshots += 1;
            let directory = self.store.directory_path(record.directory);
            for part in ["fs", "work", "init"] {
                if directory.join(part).is_dir() || self.store.snapshot(&key).is_err() {
                    continue;
                }
                let subject = format!("the file system of container {key}");
                let what = format!("its part `{part}` is missing");
                if part == "work" {
                    self.mend(subject, what, "it was made again", |_| {
                        Ok(sampan_base::files::create_directories(&directory.join("work"), 0o755)?)
                    })?;
                } else {
                    self.found(subject, what + "; remove the container", None);
                }
            }
            if let Some(parent) = &record.parent
                && self.store.metadata().chain(parent)?.is_none()
            {
                let subject = format!("the file system of container {key}");
                self.found(subject, "its image's layers are lost; remove the container", None);
            }
        }
        Ok(())
    }

    fn cache(&mut self) -> Result<()> {
        for (key, record) in self.store.metadata().all::<CacheRecord>(CACHE)? {
            if let Some(chain) = &record.chain
                && self.store.metadata().chain(chain)?.is_none()
            {
                self.drop_record(CACHE, &key, "is of layers that are not there")?;
            }
        }
        Ok(())
    }

    fn drop_record(&mut self, table: crate::metadata::Table, key: &str, what: &str) -> Result<()> {
        self.mend(key, what, "its record was dropped", |store| {
            Ok(store.metadata().write(|t| store.metadata().delete(t, table, key))?)
        })
    }

    /// What lies about that no record names, and that nobody is making.
    fn unnamed(&mut self) -> Result<()> {
        let blobs = match self.store.garbage() {
            // What can't be read may name blobs; it was reported, and is to be mended first.
            Err(_) if !self.report.is_whole() => Vec::new(),
            other => other?,
        };
        if !blobs.is_empty() {
            for blob in &blobs {
                self.found(blob, "nothing names this blob", self.options.repair.then_some("it was removed"));
            }
            if self.options.repair {
                self.store.gc()?;
            }
        }
        let parent = self.store.directory_path(0);
        let parent = parent.parent().unwrap_or(&parent).to_owned();
        let listed = fs::read_dir(&parent).and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>);
        let paths: Vec<PathBuf> =
            listed.map_err(FileError::on("list", &parent))?.into_iter().map(|e| e.path()).collect();
        for path in paths {
            let number = path.file_name().and_then(|n| n.to_str()?.parse::<u64>().ok());
            // In this order: a directory that is being made gets its record before it leaves the list.
            let made = number.is_some_and(|n| self.store.busy_directories().contains(&n));
            if made || self.store.names_directory(number)? || !path.exists() {
                continue;
            }
            self.mend(path.display(), "nothing names this directory", "it was removed", |_| {
                for mount in
                    overlay::mounts_below(&path).map_err(FileError::on("read", "/proc/self/mountinfo"))?
                {
                    overlay::unmount(&mount).map_err(FileError::on("unmount", mount))?;
                }
                Ok(remove_directory(&path)?)
            })?;
        }
        Ok(())
    }

    fn index(&mut self) -> Result<()> {
        if !self.store.index_is_true() {
            self.mend(
                "content/index.json",
                "it is not what the database says",
                "it was written anew",
                |store| {
                    store.write_index();
                    Ok(())
                },
            )?;
        }
        Ok(())
    }
}
