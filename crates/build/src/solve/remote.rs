//! `ADD` of what is on other hosts: files by HTTP, and git repositories.
//!
//! A file is named by the digest of its content, and remembered by its address with what the server said of it
//! (`ETag`, `Last-Modified`): if it has not changed, it is not sent again, and the layer comes from the cache.

use std::io::{Read, Seek, Write};

use sampan_base::Digest;
use sampan_base::digest::Hasher;
use sampan_image::tar::Mtime;
use sampan_image::{Cached, InitLayer, Scratch};
use sampan_kernel::beneath::RootDir;
use sampan_registry::{Downloaded, Known};
use serde::{Deserialize, Serialize};

use super::Result;
use super::cache::key_of;
use super::stage::StageRun;
use crate::copy::CopyError;
use crate::dockerfile::Copy;
use crate::error::{BuildError, RemoteError};
use crate::git::{Git, GitRef};
use crate::ignore::Ignore;
use crate::select::{Item, Taking, select};
use crate::tree::{Fetched, Tree, TreeError};

/// Bytes of a file that is downloaded.
const MAX_DOWNLOAD_BYTES: u64 = 64 * 1024 * 1024 * 1024;
/// Characters of a file's name.
const MAX_NAME_CHARACTERS: usize = 255;

/// What is on another host, by a name that tells whether it is what it was.
pub(super) struct Remote {
    url: String,
    kind: RemoteKind,
    /// Names what would be copied.
    key: String,
}

enum RemoteKind {
    /// A file; not downloaded if the server says that it is what it was.
    File {
        about: About,
        content: Option<(std::fs::File, Scratch)>,
    },
    Repository {
        wanted: GitRef,
        commit: String,
    },
}

/// What is remembered of a file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct About {
    digest: Digest,
    size: u64,
    name: String,
    /// Seconds since 1970.
    time: i64,
    etag: Option<String>,
    last_modified: Option<String>,
}

/// Whether a source is on another host.
pub(super) fn is_remote(source: &str) -> bool {
    source.starts_with("http://") || source.starts_with("https://") || GitRef::parse(source).is_some()
}

/// The digest of `local` and all of these.
pub(super) fn digest_of(local: &Digest, remotes: &[Remote]) -> Digest {
    let parts: Vec<&str> =
        std::iter::once(local.as_str()).chain(remotes.iter().map(|r| r.key.as_str())).collect();
    key_of(&parts)
}

impl StageRun<'_, '_> {
    fn remote_failed(&self, url: &str, source: RemoteError) -> BuildError {
        BuildError::Remote { at: self.solve.at(self.line), url: url.to_owned(), source: Box::new(source) }
    }

    /// Looks what is there now.
    pub(super) fn remote(&self, url: &str, copy: &Copy, checksum: Option<&str>) -> Result<Remote> {
        if let Some(wanted) = GitRef::parse(url) {
            let commit = self.git(&wanted).commit(&wanted).map_err(|e| self.remote_failed(url, e.into()))?;
            if let Some(checksum) =
                checksum.filter(|checksum| !commit.starts_with(&checksum.to_ascii_lowercase()))
            {
                let (expected, found) = (checksum.to_owned(), commit);
                return Err(self.remote_failed(url, RemoteError::Checksum { expected, found }));
            }
            let directory = wanted.directory.as_deref().unwrap_or("");
            let keep = copy.keep_git_dir == Some(true);
            let key = format!("{} {commit} {directory} {keep}", wanted.remote);
            return Ok(Remote { url: url.to_owned(), kind: RemoteKind::Repository { wanted, commit }, key });
        }
        let expected = match checksum {
            Some(text) => {
                let digest = text.parse::<Digest>();
                let invalid = |_| RemoteError::NotAChecksum { text: text.chars().take(100).collect() };
                Some(digest.map_err(|e| self.remote_failed(url, invalid(e)))?)
            }
            None => None,
        };
        let memory = key_of(&["url", url]);
        let known =
            if self.fresh { None } else { self.solve.store.cached(memory.hex(), &self.solve.lease)? };
        let known: Option<About> = known.and_then(|c| serde_json::from_str(&c.value).ok());
        let (about, content) = self.download(url, known.as_ref())?;
        if let Some(expected) = expected.filter(|expected| *expected != about.digest) {
            let (expected, found) = (expected.to_string(), about.digest.to_string());
            return Err(self.remote_failed(url, RemoteError::Checksum { expected, found }));
        }
        if content.is_some()
            && (about.etag.is_some() || about.last_modified.is_some())
            && let Ok(value) = serde_json::to_string(&about)
        {
            let text = format!("ADD {url}").chars().take(200).collect();
            self.solve.store.remember(memory.hex(), Cached { chain: None, value, text, size: 0 });
        }
        let key = format!("{} {} {}", about.digest, about.name, about.time);
        Ok(Remote { url: url.to_owned(), kind: RemoteKind::File { about, content }, key })
    }

    /// The file, or what is known of it if it has not changed.
    fn download(
        &self,
        url: &str,
        known: Option<&About>,
    ) -> Result<(About, Option<(std::fs::File, Scratch)>)> {
        let failed = |e: RemoteError| self.remote_failed(url, e);
        let before = known.map(|k| Known { etag: k.etag.clone(), last_modified: k.last_modified.clone() });
        let cancel = sampan_registry::Cancel::default();
        let answer = sampan_registry::download(url, &before.unwrap_or_default(), MAX_DOWNLOAD_BYTES, &cancel);
        let mut coming = match (answer.map_err(|e| failed(RemoteError::Download(Box::new(e))))?, known) {
            (Downloaded::New(coming), _) => coming,
            (Downloaded::Unchanged, Some(known)) => return Ok((known.clone(), None)),
            // Nobody asked whether it has changed.
            (Downloaded::Unchanged, None) => return Err(failed(RemoteError::NoName)),
        };
        let name = name_in(url).or_else(|| name_of(coming.content_disposition.as_deref()?));
        let name = name.ok_or_else(|| failed(RemoteError::NoName))?;
        let directory = self.solve.store.scratch(None, &InitLayer::empty(), &self.solve.lease);
        let directory = directory.map_err(|e| self.snapshot_failed(e))?;
        let written = (|| -> std::io::Result<(std::fs::File, Digest, u64)> {
            let path = directory.rootfs().join("download");
            let mut file = std::fs::File::options().read(true).write(true).create_new(true).open(&path)?;
            let (mut hasher, mut size, mut buffer) = (Hasher::new(), 0, vec![0; 64 * 1024]);
            loop {
                if self.solve.options.cancel.is_set() {
                    return Err(std::io::ErrorKind::Interrupted.into());
                }
                let n = coming.read(&mut buffer)?;
                if n == 0 {
                    break;
                }
                hasher.update(&buffer[..n]);
                file.write_all(&buffer[..n])?;
                size += n as u64;
            }
            file.rewind()?;
            Ok((file, hasher.finish(), size))
        })();
        if self.solve.options.cancel.is_set() {
            return Err(BuildError::Cancelled);
        }
        let (file, digest, size) = written.map_err(|source| failed(RemoteError::Read { source }))?;
        let time = coming.last_modified.as_deref().and_then(http_date).unwrap_or(0);
        let about = About {
            digest,
            size,
            name,
            time,
            etag: coming.etag.clone(),
            last_modified: coming.last_modified.clone(),
        };
        Ok((about, Some((file, directory))))
    }

    /// The files themselves, to be copied.
    pub(super) fn fetched(&self, remote: Remote, copy: &Copy) -> Result<(Tree<'static>, Vec<Item>)> {
        let Remote { url, kind, .. } = remote;
        match kind {
            RemoteKind::File { about, content } => {
                let (about, content) = match content {
                    Some(content) => (about, content),
                    // Its layer is gone, so the file is needed after all.
                    None => match self.download(&url, None)? {
                        (now, Some(content)) if now.digest == about.digest => (about, content),
                        _ => return Err(self.remote_failed(&url, RemoteError::Changed)),
                    },
                };
                let (content, directory) = content;
                let name = about.name;
                let item = Item::File { path: name.clone().into(), name: name.clone().into() };
                let time = Mtime { seconds: about.time, nanoseconds: 0 };
                let fetched =
                    Fetched { name, content, size: about.size, digest: about.digest, time, directory };
                Ok((Tree::Fetched(fetched), vec![item]))
            }
            RemoteKind::Repository { wanted, commit } => self.repository(&url, &wanted, &commit, copy),
        }
    }

    fn git(&self, wanted: &GitRef) -> Git {
        let ssh = !wanted.remote.starts_with("http");
        Git { agent: self.solve.options.ssh.get("default").filter(|_| ssh).cloned() }
    }

    fn repository(
        &self,
        url: &str,
        wanted: &GitRef,
        commit: &str,
        copy: &Copy,
    ) -> Result<(Tree<'static>, Vec<Item>)> {
        let directory = self.solve.store.scratch(None, &InitLayer::empty(), &self.solve.lease);
        let directory = directory.map_err(|e| self.snapshot_failed(e))?;
        let git = self.git(wanted);
        let time = git.checkout(wanted, commit, directory.rootfs());
        let time = time.map_err(|e| self.remote_failed(url, e.into()))?;
        let root = RootDir::open(directory.rootfs());
        let root = root.map_err(|source| self.remote_failed(url, RemoteError::Read { source }))?;
        let patterns = if copy.keep_git_dir == Some(true) { Vec::new() } else { vec!["**/.git".to_owned()] };
        // A fixed pattern is one.
        let exclude = Ignore::of_patterns(&patterns).unwrap_or_default();
        let tree = Tree::Checkout { root, time, directory };
        let taking = Taking { parents: false, exclude };
        let subdirectory = wanted.directory.clone().unwrap_or_else(|| "/".to_owned());
        let failed = |e: TreeError| BuildError::Copy {
            at: self.solve.at(self.line),
            instruction: "ADD",
            source: Box::new(CopyError::from(e)),
        };
        let items = select(&tree, &[subdirectory], &taking).map_err(failed)?;
        Ok((tree, items))
    }
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` in seconds since 1970.
fn http_date(text: &str) -> Option<i64> {
    jiff::fmt::rfc2822::parse(text).ok().map(|time| time.timestamp().as_second())
}

/// The name at the end of an address.
fn name_in(url: &str) -> Option<String> {
    let path = url.split(['?', '#']).next()?.split_once("://")?.1.split_once('/')?.1;
    plain_name(path.rsplit('/').next()?)
}

/// `attachment; filename="name"`
fn name_of(disposition: &str) -> Option<String> {
    let field = disposition.split(';').find_map(|part| part.trim().strip_prefix("filename="))?;
    plain_name(field.trim_matches('"'))
}

fn plain_name(name: &str) -> Option<String> {
    let bad = name.is_empty() || matches!(name, "." | "..") || name.contains(['/', '\0']);
    (!bad && name.len() <= MAX_NAME_CHARACTERS).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files() {
        for (url, name) in [
            ("http://h/a/b.tar?x=/y#z", Some("b.tar")),
            ("http://h/a", Some("a")),
            ("http://h/", None),
            ("http://h", None),
            ("http://h/a/..", None),
        ] {
            assert_eq!(name_in(url).as_deref(), name, "{url}");
        }
        assert_eq!(name_of("attachment; filename=\"x y.z\"").as_deref(), Some("x y.z"));
        assert_eq!(name_of("attachment; filename=../x"), None);
        assert_eq!(name_of("inline"), None);
        assert_eq!(http_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
    }
}
