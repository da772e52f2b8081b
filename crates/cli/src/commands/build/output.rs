//! `--output`: what is made of an image besides the image.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use http::Method;
use http_body_util::BodyExt;

use super::flags;
use crate::client::{Client, full};

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

    /// Makes it of the image `id`.
    pub(super) async fn make(&self, client: &Client, id: &str) -> Result<()> {
        match self {
            Output::Image { .. } => Ok(()),
            Output::Archive(target) => write(client, &format!("/images/{id}/get"), target).await,
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
    let (reader, mut writer) = io::pipe().with_context(failed)?;
    let target = directory.to_owned();
    let unpacking = tokio::task::spawn_blocking(move || {
        let mut archive = tar::Archive::new(reader);
        let root = rustix::process::geteuid().is_root();
        archive.set_preserve_permissions(true);
        archive.set_preserve_ownerships(root);
        archive.set_preserve_mtime(true);
        archive.set_unpack_xattrs(root);
        archive.unpack(target)
    });
    let sent = async {
        while let Some(frame) = answer.frame().await.transpose()? {
            if let Ok(data) = frame.into_data() {
                // Short: the other end reads all the time. If it has failed, it says why itself.
                tokio::task::block_in_place(|| writer.write_all(&data))?;
            }
        }
        anyhow::Ok(())
    }
    .await;
    drop(writer);
    unpacking.await?.with_context(failed)?;
    sent
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
