//! `--output`: what is made of an image besides the image.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt;
use tokio::sync::mpsc;

use super::flags;
use crate::client::{Client, encode, full};

/// One `--output`.
#[derive(Debug, PartialEq)]
pub(super) enum Output {
    /// The image, in the daemon's store.
    Image {
        /// And in its registry.
        push: bool,
    },
    /// An archive with the image, for `load` and OCI tools.
    Archive(Target),
    /// A tar of its file system.
    Tar(Target),
    /// Its file system, in a directory.
    Directory(PathBuf),
}

#[derive(Debug, PartialEq)]
pub(super) enum Target {
    Stdout,
    File(PathBuf),
}

impl Output {
    /// Reads `type=…,dest=…`, a directory, or `-`.
    pub(super) fn parse(text: &str) -> Result<Output> {
        if text == "-" {
            return Ok(Output::Tar(Target::Stdout));
        }
        if !text.contains('=') {
            return Ok(Output::Directory(PathBuf::from(text)));
        }
        let (mut kind, mut destination, mut push) = (None, None, false);
        for (key, value) in flags::fields(text)? {
            match (key.as_str(), value) {
                ("type", Some(value)) => kind = Some(value),
                ("dest", Some(value)) => destination = Some(value),
                ("push", value) => push = value.is_none_or(|v| v == "true" || v == "1"),
                (other, _) => bail!("unexpected field `{other}` in --output `{text}`"),
            }
        }
        let target = |destination: Option<String>| match destination.as_deref() {
            None | Some("-") => Target::Stdout,
            Some(path) => Target::File(PathBuf::from(path)),
        };
        Ok(match (kind.as_deref().unwrap_or("image"), destination) {
            ("image", _) => Output::Image { push },
            ("registry", _) => Output::Image { push: true },
            // Without a destination it is for the engine that builds, which has it already.
            ("docker", None) => Output::Image { push: false },
            ("docker" | "oci", destination) => Output::Archive(target(destination)),
            ("tar", destination) => Output::Tar(target(destination)),
            ("local", Some(directory)) => Output::Directory(PathBuf::from(directory)),
            ("local", None) => bail!("--output `{text}` needs dest=DIR"),
            (other, _) => {
                bail!("unsupported output type `{other}`: image, registry, docker, oci, tar or local")
            }
        })
    }

    pub(super) fn is_image(&self) -> bool {
        matches!(self, Output::Image { .. })
    }

    pub(super) fn is_pushed(&self) -> bool {
        matches!(self, Output::Image { push: true })
    }

    /// Makes it of the image `id`, which has these names.
    pub(super) async fn make(&self, client: &Client, id: &str, names: &[String]) -> Result<()> {
        match self {
            Output::Image { .. } => Ok(()),
            Output::Archive(target) if names.is_empty() => {
                write(client, &format!("/images/{id}/get"), target).await
            }
            Output::Archive(target) => {
                let names: Vec<String> = names.iter().map(|n| format!("names={}", encode(n))).collect();
                write(client, &format!("/images/get?{}", names.join("&")), target).await
            }
            Output::Tar(target) => write(client, &format!("/images/{id}/rootfs"), target).await,
            Output::Directory(directory) => unpack(client, id, directory).await,
        }
    }
}

async fn write(client: &Client, path: &str, target: &Target) -> Result<()> {
    let mut answer = client.request(Method::GET, path, full(""), "application/json").await?.into_body();
    let mut out: Box<dyn Write> = match target {
        Target::Stdout if io::IsTerminal::is_terminal(&io::stdout()) => {
            bail!("an archive is not written to a terminal: give dest=FILE, or redirect the output")
        }
        Target::Stdout => Box::new(io::stdout()),
        Target::File(path) => {
            Box::new(File::create(path).with_context(|| format!("cannot write `{}`", path.display()))?)
        }
    };
    while let Some(frame) = answer.frame().await.transpose()? {
        if let Ok(data) = frame.into_data() {
            out.write_all(&data)?;
        }
    }
    Ok(out.flush()?)
}

/// Unpacks the image's file system into a directory, as whoever calls; who is not root gets the files as their own.
async fn unpack(client: &Client, id: &str, directory: &Path) -> Result<()> {
    let path = format!("/images/{id}/rootfs");
    let mut answer = client.request(Method::GET, &path, full(""), "application/json").await?.into_body();
    let failed = || format!("cannot write to `{}`", directory.display());
    std::fs::create_dir_all(directory).with_context(failed)?;
    let (sender, receiver) = mpsc::channel(WAITING_PIECES);
    let target = directory.to_owned();
    let unpacking = tokio::task::spawn_blocking(move || {
        let mut archive = tar::Archive::new(Pieces { receiver, current: Bytes::new() });
        let root = rustix::process::geteuid().is_root();
        archive.set_preserve_permissions(true);
        archive.set_preserve_ownerships(root);
        archive.set_preserve_mtime(true);
        archive.set_unpack_xattrs(root);
        archive.unpack(target)
    });
    while let Some(frame) = answer.frame().await.transpose()? {
        if let Ok(data) = frame.into_data()
            && sender.send(data).await.is_err()
        {
            // The other end has failed, and says why itself.
            break;
        }
    }
    drop(sender);
    unpacking.await?.with_context(failed)
}

/// How many pieces of an answer wait to be unpacked.
const WAITING_PIECES: usize = 16;

/// What comes, as a reader for a thread that may block.
struct Pieces {
    receiver: mpsc::Receiver<Bytes>,
    current: Bytes,
}

impl io::Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.receiver.blocking_recv() {
                Some(next) => self.current = next,
                None => return Ok(0),
            }
        }
        let n = self.current.len().min(buffer.len());
        buffer[..n].copy_from_slice(&self.current.split_to(n));
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_read() {
        let file = |path: &str| Target::File(path.into());
        for (text, expected) in [
            ("-", Output::Tar(Target::Stdout)),
            ("out", Output::Directory("out".into())),
            ("type=local,dest=out", Output::Directory("out".into())),
            ("type=tar,dest=a.tar", Output::Tar(file("a.tar"))),
            ("type=oci,dest=a.tar", Output::Archive(file("a.tar"))),
            ("type=docker", Output::Image { push: false }),
            ("type=docker,dest=-", Output::Archive(Target::Stdout)),
            ("type=image,push=true", Output::Image { push: true }),
            ("type=registry", Output::Image { push: true }),
        ] {
            assert_eq!(Output::parse(text).unwrap(), expected, "{text}");
        }
        for wrong in ["type=local", "type=nothing", "dest=x,what=y"] {
            assert!(Output::parse(wrong).is_err(), "{wrong}");
        }
    }
}
