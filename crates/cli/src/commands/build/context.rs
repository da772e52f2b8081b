//! Where a build's files are: a directory, standard input, or elsewhere.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sampan_build::ignore::Ignore;
use sampan_docker_api::build::HostDirectory;

use crate::commands::{tell, upload};

/// The name that a Dockerfile from outside of the context is sent under.
pub(super) const OUTSIDE_DOCKERFILE: &str = ".dockerfile.sampan";

pub(super) type Upload = tokio::sync::mpsc::Receiver<io::Result<bytes::Bytes>>;

/// Where a build's files are.
pub(super) enum Source {
    /// In a directory.
    Directory {
        /// Without links.
        root: PathBuf,
        /// The Dockerfile's path in it, unless its text is given.
        name: Option<String>,
        /// The Dockerfile's text, if it is not in the directory.
        text: Option<String>,
    },
    /// In what was on standard input: a tar, with the Dockerfile's name in it.
    Stream(Upload, String),
    /// Elsewhere: the daemon fetches it.
    Remote(String),
}

/// Finds the context and the Dockerfile.
pub(super) fn find(context: &str, file: Option<&str>) -> Result<Source> {
    if context == "-" {
        let (upload, name) = from_input(file)?;
        return Ok(Source::Stream(upload, name));
    }
    if is_remote(context) {
        return Ok(Source::Remote(context.to_owned()));
    }
    let directory = PathBuf::from(context);
    if !directory.is_dir() {
        bail!("unable to prepare context: path \"{context}\" not found");
    }
    let root = directory.canonicalize().with_context(|| format!("cannot open the context `{context}`"))?;
    if file == Some("-") {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text).context("cannot read the Dockerfile from standard input")?;
        return Ok(Source::Directory { root, name: None, text: Some(text) });
    }
    // As docker: a Dockerfile is looked for from where one is, not from the context.
    let dockerfile = file.map_or_else(|| directory.join("Dockerfile"), PathBuf::from);
    let missing =
        || format!("unable to prepare context: cannot open the Dockerfile `{}`", dockerfile.display());
    let real = dockerfile.canonicalize().with_context(missing)?;
    match real.strip_prefix(&root) {
        Ok(inside) => {
            let name = inside.to_str().context("the Dockerfile's name is not UTF-8")?.to_owned();
            Ok(Source::Directory { root, name: Some(name), text: None })
        }
        Err(_) => {
            let text = std::fs::read_to_string(&real).with_context(missing)?;
            Ok(Source::Directory { root, name: None, text: Some(text) })
        }
    }
}

/// Whether a context is no path, but something that the daemon fetches.
pub(super) fn is_remote(context: &str) -> bool {
    ["http://", "https://", "git://", "ssh://", "git@", "github.com/"].iter().any(|p| context.starts_with(p))
}

/// The directory as both ends may see it.
pub(super) fn host_directory(root: &Path) -> Result<HostDirectory> {
    use std::os::unix::fs::MetadataExt;
    let about = std::fs::metadata(root).with_context(|| format!("cannot open `{}`", root.display()))?;
    Ok(HostDirectory { path: root.to_owned(), device: about.dev(), inode: about.ino() })
}

/// Standard input is a context if it is a tar, packed or not, and else a Dockerfile.
fn from_input(file: Option<&str>) -> Result<(Upload, String)> {
    let mut start = Vec::new();
    io::stdin().take(512).read_to_end(&mut start)?;
    let packed = [&b"\x1f\x8b"[..], b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"]
        .iter()
        .any(|magic| start.starts_with(magic));
    let is_tar = packed || start.get(257..262) == Some(b"ustar");
    let mut input = io::Cursor::new(start).chain(io::stdin());
    if is_tar {
        let name = file.unwrap_or("Dockerfile").to_owned();
        return Ok((upload(move |out| io::copy(&mut input, out).map(drop)), name));
    }
    let mut text = Vec::new();
    input.read_to_end(&mut text)?;
    let send = move |out: &mut dyn Write| {
        let mut tar = tar::Builder::new(out);
        append_text(&mut tar, "Dockerfile", &text)?;
        tar.finish()
    };
    Ok((upload(send), "Dockerfile".to_owned()))
}

fn append_text<W: Write>(tar: &mut tar::Builder<W>, name: &str, text: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(text.len() as u64);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_entry_type(tar::EntryType::Regular);
    tar.append_data(&mut header, name, text)
}

/// Sends a directory as a tar: for a daemon that does not see it.
pub(super) fn send_directory(
    directory: PathBuf,
    name: Option<String>,
    outside: Option<Vec<u8>>,
) -> Result<Upload> {
    let ignore = ignore_file(&directory, name.as_deref())?;
    let mut needed = vec![".dockerignore".to_owned()];
    // The Dockerfile is sent even if it is ignored: the daemon needs it, and leaves it out of COPY.
    needed.extend(name.map(|n| [format!("{n}.dockerignore"), n]).into_iter().flatten());
    Ok(upload(move |out| {
        let mut tar = tar::Builder::new(out);
        tar.follow_symlinks(false);
        append_directory(&mut tar, &directory, Path::new(""), &ignore, &needed)?;
        if let Some(text) = outside {
            append_text(&mut tar, OUTSIDE_DOCKERFILE, &text)?;
        }
        tar.finish()
    }))
}

/// The rules of what not to send: the Dockerfile's own ones if it has some, else the context's.
fn ignore_file(directory: &Path, dockerfile: Option<&str>) -> Result<Ignore> {
    let own = dockerfile.map(|name| directory.join(format!("{name}.dockerignore")));
    for path in own.into_iter().chain([directory.join(".dockerignore")]) {
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                return Ignore::parse(&text).with_context(|| format!("cannot read `{}`", path.display()));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("cannot read `{}`", path.display())),
        }
    }
    Ok(Ignore::default())
}

/// Appends what is in a directory, by name, so that the same context is the same tar.
fn append_directory<W: Write>(
    tar: &mut tar::Builder<W>,
    root: &Path,
    inside: &Path,
    ignore: &Ignore,
    needed: &[String],
) -> io::Result<()> {
    let mut entries = std::fs::read_dir(root.join(inside))?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let name = inside.join(entry.file_name());
        let path = entry.path();
        let kind = entry.file_type()?;
        let text = name.to_string_lossy();
        let ignored = ignore.excludes(&text) && !needed.iter().any(|n| *n == text);
        if kind.is_dir() {
            // What is in an ignored directory may be wanted by a later rule, or needed.
            let inside_needed = needed.iter().any(|n| Path::new(n).starts_with(&name));
            if ignored && !ignore.takes_back() && !inside_needed {
                continue;
            }
            if !ignored {
                tar.append_dir(&name, &path)?;
            }
            append_directory(tar, root, &name, ignore, needed)?;
        } else if ignored {
        } else if kind.is_file() || kind.is_symlink() {
            tar.append_path_with_name(&path, &name)?;
        } else {
            // Sockets and pipes mean nothing in an image; docker leaves them out, too.
            tell(format_args!(
                "left out of the context: `{}` is neither file, directory nor link",
                name.display()
            ));
        }
    }
    Ok(())
}
