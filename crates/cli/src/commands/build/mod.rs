//! `sampan build`: asks the daemon to build and shows what it does.
//!
//! A directory that the daemon sees, too, is not sent: the daemon reads it where it is. One that it does not see (it runs
//! in another mount namespace) is sent as a tar, as Docker's client does.

mod context;
mod flags;
mod output;
mod progress;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use clap::Args;
use http::{Method, StatusCode};
use sampan_docker_api::build::{BUILD_EXTRAS_HEADER, BuildExtras, ExtraContext};

use super::{say, show_progress, tell};
use crate::client::{Client, DaemonError, channel, encode, full, query};
use context::{OUTSIDE_DOCKERFILE, Source};
use output::Output;
use progress::{Mode, Show};

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
    /// Build for this platform
    #[arg(long, default_value = "", hide_default_value = true, value_name = "OS/ARCH")]
    platform: String,
    /// Use nothing of earlier builds
    #[arg(long)]
    no_cache: bool,
    /// Use nothing of earlier builds for these stages
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    no_cache_filter: Vec<String>,
    /// Ask the registries for newer base images
    #[arg(long)]
    pull: bool,
    /// Network of RUN instructions: default, host or none
    #[arg(long, default_value = "", hide_default_value = true, value_name = "MODE")]
    network: String,
    /// Another line for /etc/hosts of RUN instructions
    #[arg(long, value_name = "NAME:ADDRESS")]
    add_host: Vec<String>,
    /// A secret for RUN --mount=type=secret: id=ID[,src=FILE|,env=NAME]
    #[arg(long, value_name = "SECRET")]
    secret: Vec<String>,
    /// An SSH agent for RUN --mount=type=ssh: default, or ID=SOCKET
    #[arg(long, value_name = "AGENT")]
    ssh: Vec<String>,
    /// A further context: NAME=DIR, NAME=docker-image://IMAGE or NAME=URL
    #[arg(long, value_name = "NAME=CONTEXT")]
    build_context: Vec<String>,
    /// Allow what a Dockerfile can't allow itself: security.insecure, network.host
    #[arg(long, value_name = "ENTITLEMENT", value_delimiter = ',')]
    allow: Vec<String>,
    /// Make one layer of what the build adds to its base
    #[arg(long)]
    squash: bool,
    /// Where steps may come from: type=local,src=DIR or an image
    #[arg(long, value_name = "CACHE")]
    cache_from: Vec<String>,
    /// Where to keep steps for others: type=local,dest=DIR[,mode=max]
    #[arg(long, value_name = "CACHE")]
    cache_to: Vec<String>,
    /// What to make: type=image|docker|oci|tar|local[,dest=PATH], or a directory, or - for a tar
    #[arg(short, long, value_name = "OUTPUT")]
    output: Vec<String>,
    /// Push the image when it is built
    #[arg(long)]
    push: bool,
    /// Same as --output type=image
    #[arg(long, hide = true)]
    load: bool,
    /// How to show what happens
    #[arg(long, value_enum, default_value_t = Mode::Auto, value_name = "MODE")]
    progress: Mode,
    /// Print only the image's id
    #[arg(short, long)]
    quiet: bool,
    /// Only check the Dockerfile
    #[arg(long)]
    check: bool,
    /// Write the image's id to a file
    #[arg(long, value_name = "FILE")]
    iidfile: Option<PathBuf>,
    /// Write what was built, as JSON, to a file
    #[arg(long, value_name = "FILE")]
    metadata_file: Option<PathBuf>,
    /// Bytes of memory of RUN instructions
    #[arg(short, long, value_name = "BYTES")]
    memory: Option<String>,
    /// Bytes of /dev/shm of RUN instructions
    #[arg(long, value_name = "BYTES")]
    shm_size: Option<String>,
    /// Limit of RUN instructions: nofile=1024:2048
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    ulimit: Vec<String>,
    /// Relative weight of RUN instructions
    #[arg(short, long, value_name = "WEIGHT", default_value = "", hide_default_value = true)]
    cpu_shares: String,
    /// Microseconds of a period
    #[arg(long, value_name = "MICROSECONDS", default_value = "", hide_default_value = true)]
    cpu_period: String,
    /// Microseconds of processor time in a period
    #[arg(long, value_name = "MICROSECONDS", default_value = "", hide_default_value = true)]
    cpu_quota: String,
    /// Processors of RUN instructions
    #[arg(long, value_name = "0-2,4", default_value = "", hide_default_value = true)]
    cpuset_cpus: String,
    /// Ignored: nothing of a step is ever kept
    #[arg(long, hide = true)]
    rm: bool,
    /// Ignored: nothing of a step is ever kept
    #[arg(long, hide = true)]
    force_rm: bool,
    /// The context: a directory, a URL, or - for a Dockerfile or a tar on standard input
    #[arg(value_name = "DIR|URL|-")]
    context: String,
}

pub(crate) async fn build(client: &Client, command: Build) -> Result<ExitCode> {
    let source = context::find(&command.context, command.file.as_deref())?;
    let outputs = command.output.iter().map(|o| Output::parse(o)).collect::<Result<Vec<_>>>()?;
    let mut extras = command.extras()?;
    let mode = match command.quiet {
        true => Mode::Quiet,
        false if command.check && command.progress != Mode::Json => Mode::Check,
        false => command.progress.on_this_terminal(),
    };
    // What goes to standard output must be alone there.
    let mut show = Show::new(mode);
    let mut built = None;
    let response = match source {
        Source::Stream(body, dockerfile) => {
            let body = channel(body);
            client.build(&command.path(&dockerfile)?, body, &extras).await?
        }
        Source::Remote(url) => {
            let name = command.file.clone().unwrap_or_else(|| "Dockerfile".to_owned());
            let path = command.path(&name)? + &format!("&remote={}", encode(&url));
            client.build(&path, full(""), &extras).await?
        }
        Source::Directory { root, name, text } => {
            let mut answer = None;
            if client.is_sampan().await? {
                extras.directory = Some(context::host_directory(&root)?);
                extras.dockerfile.clone_from(&text);
                let dockerfile = name.clone().unwrap_or_else(|| "Dockerfile".to_owned());
                match client.build(&command.path(&dockerfile)?, full(""), &extras).await {
                    Err(error) if elsewhere(&error) => {}
                    other => answer = Some(other?),
                }
            }
            match answer {
                Some(answer) => answer,
                // Another engine, or one that does not see the directory, is sent it.
                None => {
                    (extras.directory, extras.dockerfile) = (None, None);
                    let body = context::send_directory(root, name.clone(), text.map(String::into_bytes))?;
                    let dockerfile = name.unwrap_or_else(|| OUTSIDE_DOCKERFILE.to_owned());
                    client.build(&command.path(&dockerfile)?, channel(body), &extras).await?
                }
            }
        }
    };
    let shown = show_progress(response, |line| {
        if let Some(aux) = &line.aux {
            built = aux.get("ID").and_then(|v| v.as_str()).map(str::to_owned);
        }
        match (&line.update, &line.stream) {
            (Some(update), _) => show.update(update),
            // What another engine says.
            (None, Some(text)) if mode != Mode::Quiet && !text.trim().is_empty() => {
                tell(text.trim_end());
                Ok(())
            }
            (None, _) => Ok(()),
        }
    })
    .await;
    show.end(shown.is_err())?;
    shown?;
    if command.check {
        return show.checked();
    }
    let Some(id) = built else { bail!("the build ended without an image") };
    command.finish(client, &id, &outputs, mode).await?;
    Ok(ExitCode::SUCCESS)
}

/// Whether the daemon does not see the directory.
fn elsewhere(error: &anyhow::Error) -> bool {
    error.downcast_ref::<DaemonError>().is_some_and(|e| e.status == StatusCode::PRECONDITION_FAILED)
}

impl Build {
    /// What Docker's parameters can't say.
    fn extras(&self) -> Result<BuildExtras> {
        let mut extras = BuildExtras {
            updates: true,
            check: self.check,
            allow: self.allow.clone(),
            no_cache_filter: self.no_cache_filter.clone(),
            ..BuildExtras::default()
        };
        for text in &self.secret {
            let (id, value) = flags::secret(text)?;
            extras.secrets.insert(id, BASE64_STANDARD.encode(value));
        }
        for text in &self.ssh {
            let (id, socket) = flags::ssh(text)?;
            extras.ssh.insert(id, socket);
        }
        for text in &self.build_context {
            let (name, context) = text
                .split_once('=')
                .filter(|(name, context)| !name.is_empty() && !context.is_empty())
                .with_context(|| format!("invalid --build-context `{text}`: it is NAME=CONTEXT"))?;
            let context = match context.strip_prefix("docker-image://") {
                Some(image) => ExtraContext::Image(image.to_owned()),
                None if context::is_remote(context) => ExtraContext::Remote(context.to_owned()),
                None => {
                    let missing = || format!("unable to prepare context: path \"{context}\" not found");
                    let root = std::fs::canonicalize(context).with_context(missing)?;
                    ExtraContext::Directory(context::host_directory(&root)?)
                }
            };
            extras.contexts.insert(name.to_owned(), context);
        }
        for text in &self.cache_from {
            extras.cache_from.push(flags::cache(text, "src")?);
        }
        for text in &self.cache_to {
            extras.cache_to.push(flags::cache(text, "dest")?);
        }
        Ok(extras)
    }

    fn path(&self, dockerfile: &str) -> Result<String> {
        let mut arguments: BTreeMap<String, Option<String>> = self
            .build_arg
            .iter()
            .map(|arg| match arg.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (arg.clone(), std::env::var(arg).ok()),
            })
            .collect();
        // As every tool that makes things reproducible: the environment's counts (reproducible-builds.org).
        if let Ok(epoch) = std::env::var("SOURCE_DATE_EPOCH") {
            arguments.entry("SOURCE_DATE_EPOCH".to_owned()).or_insert(Some(epoch));
        }
        let labels: BTreeMap<&str, &str> =
            self.label.iter().map(|l| l.split_once('=').unwrap_or((l, ""))).collect();
        let ulimits = self.ulimit.iter().map(|u| flags::ulimit(u)).collect::<Result<Vec<_>>>()?;
        let on = |flag: bool| if flag { "1" } else { "" };
        let bytes = |text: &Option<String>| text.as_deref().map_or(Ok(String::new()), flags::bytes);
        let mut path = format!(
            "/build{}",
            query(&[
                ("dockerfile", dockerfile),
                ("buildargs", &serde_json::to_string(&arguments)?),
                ("labels", &serde_json::to_string(&labels)?),
                ("target", &self.target),
                ("platform", &self.platform),
                ("nocache", on(self.no_cache)),
                ("pull", on(self.pull)),
                ("squash", on(self.squash)),
                ("networkmode", &self.network),
                ("extrahosts", &self.add_host.join(",")),
                ("memory", &bytes(&self.memory)?),
                ("shmsize", &bytes(&self.shm_size)?),
                ("cpushares", &self.cpu_shares),
                ("cpuperiod", &self.cpu_period),
                ("cpuquota", &self.cpu_quota),
                ("cpusetcpus", &self.cpuset_cpus),
                (
                    "ulimits",
                    &if ulimits.is_empty() { String::new() } else { serde_json::to_string(&ulimits)? }
                ),
                ("rm", "1"),
            ])
        );
        for tag in &self.tag {
            path += &format!("&t={}", encode(tag));
        }
        Ok(path)
    }

    /// Makes what is to be made of the image, and says what it is.
    async fn finish(&self, client: &Client, id: &str, outputs: &[Output], mode: Mode) -> Result<()> {
        for output in outputs {
            output.make(client, id, &self.tag).await?;
        }
        if matches!(mode, Mode::Tty | Mode::Plain) {
            let names =
                if self.tag.is_empty() { String::new() } else { format!(", named {}", self.tag.join(", ")) };
            tell(format_args!("image {id}{names}"));
        }
        // Who wants files wants no image left in the store.
        let wanted = outputs.is_empty() || outputs.iter().any(Output::is_image) || !self.tag.is_empty();
        if !wanted {
            client.delete(&format!("/images/{id}?noprune=1")).await?;
        }
        if self.push || outputs.iter().any(Output::is_pushed) {
            for name in &self.tag {
                super::registry::push_image(client, name, mode == Mode::Quiet).await?;
            }
        }
        if let Some(file) = &self.iidfile {
            let failed = || format!("cannot write the id to `{}`", file.display());
            std::fs::write(file, id).with_context(failed)?;
        }
        if let Some(file) = &self.metadata_file {
            let about =
                serde_json::json!({"containerimage.config.digest": id, "image.name": self.tag.join(",")});
            let failed = || format!("cannot write to `{}`", file.display());
            std::fs::write(file, serde_json::to_vec_pretty(&about)?).with_context(failed)?;
        }
        if mode == Mode::Quiet {
            say(id)?;
        }
        Ok(())
    }
}

impl Client {
    async fn build(
        &self,
        path: &str,
        body: crate::client::Body,
        extras: &BuildExtras,
    ) -> Result<http::Response<hyper::body::Incoming>> {
        let value = BASE64_STANDARD.encode(serde_json::to_vec(extras)?);
        if value.len() > MAX_EXTRAS_BYTES {
            bail!(
                "the build's secrets and options together are more than {} KiB",
                MAX_EXTRAS_BYTES / 1024 * 3 / 4
            );
        }
        let auths = super::registry::auths_header()?;
        let mut headers = vec![(BUILD_EXTRAS_HEADER, value.as_str())];
        if !auths.is_empty() {
            headers.push(("x-registry-config", &auths));
        }
        self.request_with(Method::POST, path, body, "application/x-tar", &headers).await
    }
}

/// Bytes of the header for a build's extras: what fits into hyper's buffer of a request's head (400 KiB) with room for
/// the rest.
const MAX_EXTRAS_BYTES: usize = 320 * 1024;
