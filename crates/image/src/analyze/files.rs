//! The file system as it grows layer by layer, and who has hidden what of whom.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io::{self, BufReader, Read};
use std::ops::Bound;

use sampan_base::digest::Hashing;

use super::{Duplicate, Hidden, MAX_LISTED, Node, Sums, Wasted, tree};
use crate::compression;
use crate::layer::apply::{ApplyError, clean_path};
use crate::layer::{OPAQUE, WHITEOUT, WHITEOUT_META};
use crate::limits::MAX_LAYER_ENTRIES;
use crate::tar::{Kind, Member, Reader, TarError};

/// Paths are relative, their parts joined by slashes.
type Path = Vec<u8>;

/// A name in the file system.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// The file, if it is a regular one.
    file: Option<usize>,
    directory: bool,
}

/// A regular file, of which a layer holds the bytes; it can have several names.
#[derive(Clone, Debug)]
pub(super) struct File {
    pub(super) layer: usize,
    pub(super) path: Path,
    pub(super) bytes: u64,
    digest: [u8; 32],
    /// Names that are still visible.
    names: usize,
    hidden: Option<(usize, Hidden)>,
}

/// What a container sees after the layers so far, and all files that there ever were.
#[derive(Default)]
pub(super) struct View {
    entries: BTreeMap<Path, Entry>,
    files: Vec<File>,
    layers: usize,
}

/// What one layer brought.
#[derive(Default)]
pub(super) struct Brought {
    pub(super) bytes: u64,
    pub(super) files: u64,
    pub(super) added: u64,
    pub(super) modified: u64,
    pub(super) deleted: u64,
}

/// A layer's own names, and what it hides.
#[derive(Default)]
struct Own {
    entries: BTreeMap<Path, Entry>,
    hidden: BTreeSet<Path>,
    opaque: BTreeSet<Path>,
}

impl View {
    /// Lays a layer on top.
    pub(super) fn add_layer(&mut self, layer: usize, blob: impl Read) -> Result<Brought, ApplyError> {
        let own = self.read(layer, blob)?;
        self.layers = layer + 1;
        let mut read = Brought::default();
        for path in &own.opaque {
            read.deleted += self.hide_below(path, layer);
        }
        for path in &own.hidden {
            let there = self.entries.contains_key(path);
            read.deleted += self.hide_below(path, layer) + u64::from(there);
            self.hide(path, layer, Hidden::Deleted);
        }
        for (path, entry) in own.entries {
            read.files += u64::from(!entry.directory);
            match self.entries.get(&path).copied() {
                None => read.added += 1,
                Some(old) if old.directory && entry.directory => read.modified += 1,
                Some(old) => {
                    read.modified += 1;
                    if old.directory {
                        self.hide_below(&path, layer);
                    }
                    let content = |e: Entry| e.file.map(|f| (self.files[f].digest, self.files[f].bytes));
                    let same = content(old).is_some() && content(old) == content(entry);
                    self.hide(&path, layer, if same { Hidden::Copied } else { Hidden::Overwritten });
                }
            }
            self.entries.insert(path, entry);
        }
        read.bytes = self.files.iter().filter(|f| f.layer == layer).map(|f| f.bytes).sum();
        Ok(read)
    }

    fn read(&mut self, layer: usize, blob: impl Read) -> Result<Own, ApplyError> {
        let archive = |source| ApplyError::Archive { source };
        let broken = |source| ApplyError::Archive { source: TarError::Read { source } };
        let unpacked = compression::unpacked(blob).map_err(broken)?;
        let mut reader = Reader::new(BufReader::with_capacity(compression::BUFFER_BYTES, unpacked));
        let mut own = Own::default();
        let mut entries = 0;
        while let Some(member) = reader.next_member().map_err(archive)? {
            entries += 1;
            if entries > MAX_LAYER_ENTRIES {
                return Err(ApplyError::Limit { what: "entries", limit: MAX_LAYER_ENTRIES });
            }
            let entry = |source| ApplyError::Entry {
                path: String::from_utf8_lossy(&member.path).into_owned(),
                source,
            };
            let path = clean_path(&member.path).map_err(entry)?.into_os_string().into_encoded_bytes();
            if !path.is_empty() {
                self.member(layer, path, &member, &mut reader, &mut own).map_err(broken)?;
            }
        }
        Ok(own)
    }

    fn member(
        &mut self,
        layer: usize,
        path: Path,
        member: &Member,
        content: &mut impl Read,
        own: &mut Own,
    ) -> io::Result<()> {
        let start = path.iter().rposition(|b| *b == b'/').map_or(0, |slash| slash + 1);
        let (parent, name) = (&path[..start.saturating_sub(1)], &path[start..]);
        if name.starts_with(WHITEOUT) {
            if name == OPAQUE {
                own.opaque.insert(parent.to_vec());
            } else if !name.starts_with(WHITEOUT_META) {
                let mut hidden = path[..start].to_vec();
                hidden.extend_from_slice(&name[WHITEOUT.len()..]);
                own.hidden.insert(hidden);
            }
            return Ok(());
        }
        let file = match &member.kind {
            Kind::File { .. } => {
                let mut hashing = Hashing::new(content);
                io::copy(&mut hashing, &mut io::sink())?;
                let (_, digest, bytes) = hashing.finish();
                let digest = digest_bytes(digest.hex());
                self.files.push(File { layer, path: path.clone(), bytes, digest, names: 1, hidden: None });
                Some(self.files.len() - 1)
            }
            Kind::HardLink { target } => {
                let target = clean_path(target).ok().map(|t| t.into_os_string().into_encoded_bytes());
                let linked =
                    target.and_then(|t| own.entries.get(&t).or_else(|| self.entries.get(&t)).copied());
                let file = linked.and_then(|l| l.file);
                if let Some(file) = file {
                    self.files[file].names += 1;
                }
                file
            }
            _ => None,
        };
        let directory = member.kind == Kind::Directory;
        if let Some(old) = own.entries.insert(path, Entry { file, directory })
            && let Some(file) = old.file
        {
            // Twice in one layer: only the last one is unpacked.
            self.files[file].names -= 1;
            if self.files[file].names == 0 {
                self.files[file].bytes = 0;
            }
        }
        Ok(())
    }

    /// Hides one name.
    fn hide(&mut self, path: &[u8], by: usize, how: Hidden) {
        if let Some(file) = self.entries.remove(path).and_then(|e| e.file) {
            let file = &mut self.files[file];
            file.names = file.names.saturating_sub(1);
            if file.names == 0 {
                file.hidden = Some((by, how));
            }
        }
    }

    /// Hides all in a directory; answers how many names.
    fn hide_below(&mut self, directory: &[u8], by: usize) -> u64 {
        let mut prefix = directory.to_vec();
        if !prefix.is_empty() {
            prefix.push(b'/');
        }
        let range = (Bound::Included(prefix.clone()), Bound::Unbounded);
        let below: Vec<Path> = self
            .entries
            .range(range)
            .map(|(p, _)| p.clone())
            .take_while(|p| p.starts_with(&prefix))
            .collect();
        for path in &below {
            self.hide(path, by, Hidden::Deleted);
        }
        below.len() as u64
    }

    /// What is hidden, the largest first, and each layer's tree.
    pub(super) fn hidden_and_trees(&self) -> (Vec<Wasted>, Vec<Node>) {
        let mut wasted = Vec::new();
        for file in self.files.iter().filter(|f| f.bytes > 0) {
            if let Some((by, how)) = file.hidden {
                wasted.push(Wasted {
                    path: shown(&file.path),
                    bytes: file.bytes,
                    layer: file.layer + 1,
                    hidden_by: by + 1,
                    how,
                });
            }
        }
        wasted.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.path.cmp(&b.path)));
        let trees = (0..self.layers).map(|layer| {
            let files = self.files.iter().filter(|f| f.layer == layer);
            tree::of(files.map(|f| (f.path.as_slice(), f.bytes, f.hidden.is_some())))
        });
        (wasted, trees.collect())
    }

    /// Contents that several visible files have, those that take the most first.
    pub(super) fn duplicates(&self) -> Vec<Duplicate> {
        let mut by_content: HashMap<[u8; 32], Vec<&File>> = HashMap::new();
        for file in self.files.iter().filter(|f| f.hidden.is_none() && f.bytes > 0) {
            by_content.entry(file.digest).or_default().push(file);
        }
        let mut duplicates: Vec<Duplicate> = by_content
            .into_values()
            .filter(|files| files.len() > 1)
            .map(|files| {
                let mut paths: Vec<String> = files.iter().map(|f| shown(&f.path)).collect();
                paths.sort();
                paths.truncate(MAX_LISTED);
                Duplicate { bytes: files[0].bytes, count: files.len(), paths }
            })
            .collect();
        let takes = |d: &Duplicate| d.bytes * (d.count as u64 - 1);
        duplicates.sort_by(|a, b| takes(b).cmp(&takes(a)).then_with(|| a.paths.cmp(&b.paths)));
        duplicates
    }

    /// The contents of a layer's files, with their bytes.
    pub(super) fn contents_of_layer(&self, layer: usize) -> HashMap<[u8; 32], u64> {
        let files = self.files.iter().filter(|f| f.layer == layer && f.bytes > 0);
        files.map(|f| (f.digest, f.bytes)).collect()
    }

    /// The contents of all visible files.
    pub(super) fn visible_contents(&self) -> HashSet<[u8; 32]> {
        self.files.iter().filter(|f| f.hidden.is_none()).map(|f| f.digest).collect()
    }

    /// How many files a container sees, and their bytes.
    pub(super) fn visible(&self) -> (u64, u64) {
        let names = self.entries.values().filter(|e| !e.directory).count() as u64;
        (names, self.files.iter().filter(|f| f.hidden.is_none()).map(|f| f.bytes).sum())
    }

    /// Visible files summed by a key that `key` finds for some of them, each with one of their paths.
    pub(super) fn sums<K: Ord + Clone>(
        &self,
        key: impl Fn(&File) -> Option<K>,
    ) -> (Sums<K>, BTreeMap<K, String>) {
        let (mut sums, mut examples) = (Sums::new(), BTreeMap::new());
        for file in self.files.iter().filter(|f| f.hidden.is_none() && f.names > 0) {
            if let Some(key) = key(file) {
                let sum = sums.entry(key.clone()).or_insert((0, 0));
                sum.0 += file.bytes;
                sum.1 += 1;
                examples.entry(key).or_insert_with(|| shown(&file.path));
            }
        }
        (sums, examples)
    }
}

/// As a path from the root, for people.
fn shown(path: &[u8]) -> String {
    format!("/{}", String::from_utf8_lossy(path))
}

fn digest_bytes(hex: &str) -> [u8; 32] {
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks(2)) {
        let digit = |c: u8| if c.is_ascii_digit() { c - b'0' } else { c - b'a' + 10 };
        *byte = digit(pair[0]) << 4 | digit(pair[1]);
    }
    bytes
}
