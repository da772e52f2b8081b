//! Directories that outlive builds: `RUN --mount=type=cache`.
//!
//! ```text
//! <directory>/<sha256 of the id>[.<n>]/about.json     whose it is and when it was used
//!                                     /data/          what commands see
//! ```
//!
//! A directory without `about.json` was being made when the process died; it is removed when the solver opens. What is
//! in use is known in memory: one process owns the directory, as it owns the store.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};

use rustix::fs::CWD;
use sampan_base::{Digest, FileError, Timestamp, files};
use sampan_kernel::beneath;
use serde::{Deserialize, Serialize};

use super::lock;
use crate::dockerfile::Sharing;

/// A directory that builds share.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PersistentMount {
    /// The name of its directory, and its id for people.
    pub name: String,
    /// Its `id` in Dockerfiles; the target where none is given.
    pub id: String,
    /// When it was made.
    pub created: Timestamp,
    /// When it was last used.
    pub used: Timestamp,
    /// How often.
    pub uses: u64,
    /// Bytes of its files.
    pub size: u64,
    /// Whether a build uses it now.
    pub in_use: bool,
}

#[derive(Debug)]
pub(super) struct Persistent {
    root: PathBuf,
    /// By the name of the directory.
    users: Mutex<BTreeMap<String, Users>>,
    changed: Condvar,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Users {
    count: usize,
    /// Nobody else may have it.
    exclusive: bool,
}

#[derive(Clone, Serialize, Deserialize)]
struct About {
    id: String,
    created: Timestamp,
    used: Timestamp,
    uses: u64,
}

/// Bytes of an `about.json`: an id is at most as long as a line of a Dockerfile.
const MAX_ABOUT_BYTES: u64 = 1 << 20;

/// A directory in use, until it is dropped.
#[derive(Debug)]
pub(super) struct InUse<'a> {
    all: &'a Persistent,
    name: String,
}

impl Persistent {
    pub(super) fn open(root: &Path) -> Result<Persistent, FileError> {
        files::create_directories(root, 0o700)?;
        for name in names(root)? {
            if !root.join(&name).join("about.json").exists() {
                remove(root, &name)?;
            }
        }
        Ok(Persistent { root: root.to_owned(), users: Mutex::default(), changed: Condvar::new() })
    }

    /// The directory of `id`, made by `fill` if it is new. Waits for those who must not be disturbed.
    pub(super) fn acquire<E: From<FileError>>(
        &self,
        id: &str,
        sharing: Sharing,
        fill: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<InUse<'_>, E> {
        let hash = Digest::of(id.as_bytes()).hex().to_owned();
        let name = self.reserve(&hash, sharing);
        let used = InUse { all: self, name };
        let directory = self.root.join(&used.name);
        let about = directory.join("about.json");
        let now = Timestamp::now();
        let record = match read_about(&about)? {
            Some(about) => About { used: now, uses: about.uses + 1, ..about },
            None => {
                // Of two who share a new one, the second finds it made.
                remove(&self.root, &used.name)?;
                let data = directory.join("data");
                files::create_directories(&data, 0o700)?;
                fill(&data)?;
                About { id: id.to_owned(), created: now, used: now, uses: 1 }
            }
        };
        let json = serde_json::to_vec(&record).map_err(std::io::Error::from);
        let json = json.map_err(FileError::on("write", &about))?;
        files::write_atomic_volatile(&about, &json, 0o600)?;
        // From here on others may share it.
        if sharing == Sharing::Shared {
            if let Some(users) = lock(&self.users).get_mut(&used.name) {
                users.exclusive = false;
            }
            self.changed.notify_all();
        }
        Ok(used)
    }

    /// Takes a directory for oneself alone; sharing begins when it is whole.
    fn reserve(&self, hash: &str, sharing: Sharing) -> String {
        let mut users = lock(&self.users);
        loop {
            let taken = |name: &str| users.get(name).copied().unwrap_or_default();
            let free = match sharing {
                Sharing::Shared => Some(hash.to_owned()).filter(|n| !taken(n).exclusive),
                Sharing::Locked => Some(hash.to_owned()).filter(|n| taken(n).count == 0),
                // There is always one more.
                Sharing::Private => std::iter::once(hash.to_owned())
                    .chain((1..).map(|n: u64| format!("{hash}.{n}")))
                    .find(|n| taken(n).count == 0),
            };
            if let Some(name) = free {
                let entry = users.entry(name.clone()).or_default();
                entry.count += 1;
                entry.exclusive = true;
                return name;
            }
            users = self.changed.wait(users).unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(super) fn list(&self) -> Result<Vec<PersistentMount>, FileError> {
        let mut all = Vec::new();
        for name in names(&self.root)? {
            let Some(about) = read_about(&self.root.join(&name).join("about.json"))? else { continue };
            let size = size_of(&self.root.join(&name).join("data"));
            let in_use = lock(&self.users).get(&name).is_some_and(|u| u.count > 0);
            let About { id, created, used, uses } = about;
            all.push(PersistentMount { name, id, created, used, uses, size, in_use });
        }
        Ok(all)
    }

    pub(super) fn remove(
        &self,
        unwanted: &dyn Fn(&PersistentMount) -> bool,
    ) -> Result<Vec<PersistentMount>, FileError> {
        let mut removed = Vec::new();
        for mount in self.list()? {
            if !unwanted(&mount) {
                continue;
            }
            {
                let mut users = lock(&self.users);
                let entry = users.entry(mount.name.clone()).or_default();
                if entry.count > 0 {
                    continue;
                }
                *entry = Users { count: 1, exclusive: true };
            }
            let _mine = InUse { all: self, name: mount.name.clone() };
            remove(&self.root, &mount.name)?;
            removed.push(mount);
        }
        Ok(removed)
    }
}

impl InUse<'_> {
    /// What commands see.
    pub(super) fn path(&self) -> PathBuf {
        self.all.root.join(&self.name).join("data")
    }
}

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        let mut users = lock(&self.all.users);
        if let Some(entry) = users.get_mut(&self.name) {
            entry.count -= 1;
            entry.exclusive = false;
            if entry.count == 0 {
                users.remove(&self.name);
            }
        }
        self.all.changed.notify_all();
    }
}

fn names(root: &Path) -> Result<Vec<String>, FileError> {
    let entries = std::fs::read_dir(root).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let entries = entries.map_err(FileError::on("list", root))?;
    let mut names: Vec<String> = entries.iter().filter_map(|e| e.file_name().into_string().ok()).collect();
    names.sort();
    Ok(names)
}

fn read_about(path: &Path) -> Result<Option<About>, FileError> {
    match files::read_limited(path, MAX_ABOUT_BYTES) {
        // One that is torn is as good as none: the directory is only a cache.
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(e) if e.source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

fn remove(root: &Path, name: &str) -> Result<(), FileError> {
    let path = root.join(name);
    beneath::remove_tree(CWD, path.as_os_str()).map_err(FileError::on("remove", path))
}

/// Bytes of the files in a tree, links not followed; what can't be read counts nothing.
fn size_of(directory: &Path) -> u64 {
    let mut total = 0;
    let mut next = vec![directory.to_owned()];
    while let Some(directory) = next.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(about) if about.is_dir() => next.push(entry.path()),
                Ok(about) => total += about.len(),
                Err(_) => {}
            }
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acquire<'a>(all: &'a Persistent, id: &str, sharing: Sharing) -> InUse<'a> {
        all.acquire::<FileError>(id, sharing, |data| {
            std::fs::write(data.join("filled"), "").map_err(FileError::on("write", data))
        })
        .unwrap()
    }

    #[test]
    fn a_directory_is_shared_or_not_as_asked_for_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let all = Persistent::open(dir.path()).unwrap();
        let one = acquire(&all, "x", Sharing::Shared);
        let two = acquire(&all, "x", Sharing::Shared);
        let own = acquire(&all, "x", Sharing::Private);
        assert_eq!(one.path(), two.path());
        assert_ne!(one.path(), own.path());
        assert!(own.path().join("filled").exists());
        std::fs::write(one.path().join("kept"), "12345").unwrap();
        assert!(all.remove(&|_| true).unwrap().is_empty(), "all are in use");
        drop((one, two, own));
        let all = Persistent::open(dir.path()).unwrap();
        let listed = all.list().unwrap();
        assert_eq!(
            listed.iter().map(|m| (m.id.as_str(), m.uses, m.size)).collect::<Vec<_>>(),
            [("x", 2, 5), ("x", 1, 0)]
        );
        assert_eq!(all.remove(&|m| m.uses == 2).unwrap().len(), 1);
        assert_eq!(all.list().unwrap().len(), 1);
    }

    #[test]
    fn who_locks_is_alone() {
        let dir = tempfile::tempdir().unwrap();
        let all = Persistent::open(dir.path()).unwrap();
        let alone = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for sharing in [Sharing::Locked, Sharing::Locked, Sharing::Locked] {
                let (all, alone) = (&all, &alone);
                scope.spawn(move || {
                    for _ in 0..20 {
                        let used = acquire(all, "y", sharing);
                        assert_eq!(alone.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                        std::thread::yield_now();
                        alone.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                        drop(used);
                    }
                });
            }
        });
        assert_eq!(all.list().unwrap()[0].uses, 60);
    }

    #[test]
    fn what_a_crash_left_half_made_goes() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("0123/data")).unwrap();
        Persistent::open(dir.path()).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
