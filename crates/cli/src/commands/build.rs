//! `build`: sends the context as a tar and shows what the daemon does with it.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use http::Method;
use sampan_build::ignore::Ignore;

use super::{say, show_progress, tell, upload};
use crate::client::{Client, channel, encode, query};

/// `sampan build`
#[derive(Args)]
pub(crate) struct Build {
    /// A name for the image
    #[arg(short, long, value_name = "REPOSITORY[:TAG]")]
    tag: Vec<String>,
    /// The Dockerfile [default: Dockerfile in the context]
    #[arg(short, long, value_name = "FILE")]
    file: Option<String>,
    /// Set a build argument
    #[arg(long, value_name = "NAME[=VALUE]")]
    build_arg: Vec<String>,
    /// Set a label
    #[arg(long, value_name = "NAME=VALUE")]
    label: Vec<String>,
    /// Build up to this stage
    #[arg(long, default_value = "", hide_default_value = true, value_name = "STAGE")]
    target: String,
    /// Use nothing of earlier builds
    #[arg(long)]
    no_cache: bool,
    /// Network of RUN instructions: default, host or none
    #[arg(long, default_value = "", hide_default_value = true, value_name = "MODE")]
    network: String,
    /// Print only the image's id
    #[arg(short, long)]
    quiet: bool,
    /// Write the image's id to a file
    #[arg(long, value_name = "FILE")]
    iidfile: Option<PathBuf>,
    /// The context: a directory, or - for a Dockerfile or a tar on standard input
    #[arg(value_name = "DIR|-")]
    context: String,
}

/// The name that a Dockerfile from outside of the context is sent under.
const OUTSIDE_DOCKERFILE: &str = ".dockerfile.sampan";

pub(crate) async fn build(client: &Client, command: Build) -> Result<ExitCode> {
    let (body, dockerfile) = context(&command)?;
    let arguments: BTreeMap<String, Option<String>> = command
        .build_arg
        .iter()
        .map(|arg| match arg.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (arg.clone(), std::env::var(arg).ok()),
        })
        .collect();
    let labels: BTreeMap<&str, &str> =
        command.label.iter().map(|l| l.split_once('=').unwrap_or((l, ""))).collect();
    let mut path = format!(
        "/build{}",
        query(&[
            ("dockerfile", &dockerfile),
            ("buildargs", &serde_json::to_string(&arguments)?),
            ("labels", &serde_json::to_string(&labels)?),
            ("target", &command.target),
            ("nocache", if command.no_cache { "1" } else { "" }),
            ("networkmode", &command.network),
            ("rm", "1"),
        ])
    );
    for tag in &command.tag {
        path += &format!("&t={}", encode(tag));
    }
    let response = client.request(Method::POST, &path, channel(body), "application/x-tar").await?;
    let mut id = None;
    show_progress(response, |line| {
        if let Some(aux) = &line.aux {
            id = aux.get("ID").and_then(|v| v.as_str()).map(str::to_owned);
        }
        match &line.stream {
            Some(text) if !command.quiet => Ok(io::stdout().lock().write_all(text.as_bytes())?),
            _ => Ok(()),
        }
    })
    .await?;
    let Some(id) = id else { bail!("the build ended without an image") };
    if let Some(file) = &command.iidfile {
        std::fs::write(file, &id).with_context(|| format!("cannot write the id to `{}`", file.display()))?;
    }
    if command.quiet {
        say(id)?;
    }
    Ok(ExitCode::SUCCESS)
}

type Upload = tokio::sync::mpsc::Receiver<io::Result<bytes::Bytes>>;

/// The context to send, and the Dockerfile's name in it.
fn context(command: &Build) -> Result<(Upload, String)> {
    if command.context == "-" {
        return from_input(command.file.as_deref());
    }
    let directory = PathBuf::from(&command.context);
    if !directory.is_dir() {
        bail!("unable to prepare context: path \"{}\" not found", command.context);
    }
    let given = command.file.as_deref();
    if given == Some("-") {
        let mut text = Vec::new();
        io::stdin().read_to_end(&mut text)?;
        return Ok((send_directory(directory, None, Some(text))?, OUTSIDE_DOCKERFILE.to_owned()));
    }
    // As docker: a Dockerfile is looked for from where one is, not from the context.
    let dockerfile = given.map_or_else(|| directory.join("Dockerfile"), PathBuf::from);
    let missing =
        || format!("unable to prepare context: cannot open the Dockerfile `{}`", dockerfile.display());
    let real = dockerfile.canonicalize().with_context(missing)?;
    let root =
        directory.canonicalize().with_context(|| format!("cannot open the context `{}`", command.context))?;
    match real.strip_prefix(&root) {
        Ok(inside) => {
            let name = inside.to_str().context("the Dockerfile's name is not UTF-8")?.to_owned();
            Ok((send_directory(root, Some(name.clone()), None)?, name))
        }
        Err(_) => {
            let text = std::fs::read(&real).with_context(missing)?;
            Ok((send_directory(root, None, Some(text))?, OUTSIDE_DOCKERFILE.to_owned()))
        }
    }
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

fn send_directory(directory: PathBuf, name: Option<String>, outside: Option<Vec<u8>>) -> Result<Upload> {
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
