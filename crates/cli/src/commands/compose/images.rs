//! `compose build`, `pull`, `push`: the images of services.

use std::collections::BTreeSet;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser};
use sampan_compose::model::Service;
use sampan_compose::plan::{Wishes, wanted};
use sampan_compose::{is_remote, labels};

use super::ensure::image_id;
use super::project::Session;
use crate::commands::registry;

/// `sampan compose build`
#[derive(Args)]
pub(crate) struct Build {
    /// Set a build argument
    #[arg(long, value_name = "NAME[=VALUE]")]
    build_arg: Vec<String>,
    /// Use nothing of earlier builds
    #[arg(long)]
    no_cache: bool,
    /// Ask the registries for newer base images
    #[arg(long)]
    pull: bool,
    /// Push the images when they are built
    #[arg(long)]
    push: bool,
    /// Say nothing
    #[arg(short, long)]
    quiet: bool,
    /// Also what the services depend on
    #[arg(long)]
    with_dependencies: bool,
    /// Bytes of memory of RUN instructions
    #[arg(short, long, value_name = "BYTES")]
    memory: Option<String>,
    /// The services; none: all
    #[arg(value_name = "SERVICE")]
    pub(super) services: Vec<String>,
}

/// What a build is told beside what the file says.
#[derive(Default)]
pub(super) struct BuildWishes<'b> {
    arguments: &'b [String],
    no_cache: bool,
    pull: bool,
    push: bool,
    quiet: bool,
    memory: Option<&'b str>,
}

impl BuildWishes<'_> {
    /// Nothing but how much is said.
    pub(super) fn quiet(quiet: bool) -> Self {
        BuildWishes { quiet, ..BuildWishes::default() }
    }
}

pub(super) async fn build(session: &Session, command: Build) -> Result<ExitCode> {
    let project = session.project()?;
    let wishes = Wishes {
        services: command.services.clone(),
        no_deps: !command.with_dependencies,
        ..Wishes::default()
    };
    let wanted = wanted(project, &wishes);
    for name in project.in_order().into_iter().filter(|name| wanted.contains(name)) {
        let Some(service) = project.services.get(name).filter(|s| s.build.is_some()) else { continue };
        let wishes = BuildWishes {
            arguments: &command.build_arg,
            no_cache: command.no_cache,
            pull: command.pull,
            push: command.push,
            quiet: command.quiet,
            memory: command.memory.as_deref(),
        };
        build_one(session, name, service, &wishes).await?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A line of `sampan build`, so that a service is built as people would build it.
#[derive(Parser)]
struct Line {
    #[command(flatten)]
    build: crate::commands::build::Build,
}

/// Builds a service's image.
pub(super) async fn build_one(
    session: &Session,
    name: &str,
    service: &Service,
    wishes: &BuildWishes<'_>,
) -> Result<()> {
    let Some(build) = &service.build else { return Ok(()) };
    let project = session.project()?;
    let mut line: Vec<String> = vec!["build".to_owned()];
    let mut add = |flag: &str, value: &str| line.push(format!("--{flag}={value}"));
    add("tag", &service.image_name(&project.name, name));
    build.tags.iter().for_each(|tag| add("tag", tag));
    for (name, value) in &build.args {
        match value {
            Some(value) => add("build-arg", &format!("{name}={value}")),
            None => add("build-arg", name),
        }
    }
    wishes.arguments.iter().for_each(|arg| add("build-arg", arg));
    let own = [
        (labels::PROJECT, project.name.as_str()),
        (labels::SERVICE, name),
        (labels::VERSION, env!("CARGO_PKG_VERSION")),
    ];
    own.iter().for_each(|(key, value)| add("label", &format!("{key}={value}")));
    build.labels.iter().for_each(|(key, value)| add("label", &format!("{key}={value}")));
    for (host, addresses) in &build.extra_hosts {
        addresses.iter().for_each(|address| add("add-host", &format!("{host}:{address}")));
    }
    for (name, context) in &build.additional_contexts {
        let context = match context.strip_prefix("service:") {
            Some(other) => {
                let service =
                    project.services.get(other).with_context(|| format!("no such service: {other}"))?;
                format!("docker-image://{}", service.image_name(&project.name, other))
            }
            None => context.clone(),
        };
        add("build-context", &format!("{name}={context}"));
    }
    for secret in &build.secrets {
        let object = project
            .secrets
            .get(&secret.source)
            .with_context(|| format!("service {name:?}: there is no secret {}", secret.source))?;
        let id = if secret.target.is_empty() { &secret.source } else { &secret.target };
        match object.environment.as_str() {
            "" => add("secret", &format!("id={id},src={}", object.file)),
            variable => add("secret", &format!("id={id},env={variable}")),
        }
    }
    for (id, path) in &build.ssh {
        add("ssh", &if path.is_empty() { id.clone() } else { format!("{id}={path}") });
    }
    build.cache_from.iter().for_each(|cache| add("cache-from", cache));
    build.cache_to.iter().for_each(|cache| add("cache-to", cache));
    build.entitlements.iter().for_each(|one| add("allow", one));
    for (name, limit) in &build.ulimits {
        add("ulimit", &format!("{name}={}:{}", limit.soft, limit.hard));
    }
    for (flag, value) in [("target", &build.target), ("network", &build.network)] {
        if !value.is_empty() {
            add(flag, value);
        }
    }
    match (&build.platforms[..], service.platform.as_str()) {
        ([platform], _) => add("platform", platform),
        ([], platform) if !platform.is_empty() => add("platform", platform),
        ([], _) => {}
        _ => bail!("service {name:?}: only one platform can be built at a time"),
    }
    if let Some(size) = build.shm_size {
        add("shm-size", &size.0.to_string());
    }
    if let Some(memory) = wishes.memory {
        add("memory", memory);
    }
    let switches = [
        ("--no-cache", wishes.no_cache || build.no_cache == Some(true)),
        ("--pull", wishes.pull || build.pull == Some(true)),
        ("--push", wishes.push),
        ("--quiet", wishes.quiet),
    ];
    line.extend(switches.into_iter().filter(|(_, on)| *on).map(|(flag, _)| flag.to_owned()));
    let context = if build.context.is_empty() {
        project.directory.display().to_string()
    } else {
        build.context.clone()
    };
    // Text of the file's own is a file for as long as the build takes.
    let inline = if build.dockerfile_inline.is_empty() {
        None
    } else {
        Some(InlineFile::new(&build.dockerfile_inline)?)
    };
    let dockerfile = match (&inline, build.dockerfile.as_str()) {
        (Some(file), _) => Some(file.path.display().to_string()),
        (None, "") => None,
        (None, file) if is_remote(&context) || file.starts_with('/') => Some(file.to_owned()),
        (None, file) => Some(format!("{context}/{file}")),
    };
    if let Some(dockerfile) = dockerfile {
        line.push(format!("--file={dockerfile}"));
    }
    line.push("--".to_owned());
    line.push(context);
    let parsed = Line::try_parse_from(line).with_context(|| format!("service {name:?} can't be built so"))?;
    let code = crate::commands::build::build(&session.client, parsed.build).await;
    drop(inline);
    match code.with_context(|| format!("service {name:?}: the build failed"))? {
        code if code == ExitCode::SUCCESS => Ok(()),
        _ => bail!("service {name:?}: the build failed"),
    }
}

/// A Dockerfile that is written in the compose file.
struct InlineFile {
    path: std::path::PathBuf,
}

impl InlineFile {
    fn new(text: &str) -> Result<InlineFile> {
        // A name that nobody else has: `create_new` fails where one is.
        let path = std::env::temp_dir().join(format!("sampan-compose-{}.dockerfile", std::process::id()));
        let mut file =
            std::fs::File::create_new(&path).with_context(|| format!("cannot write `{}`", path.display()))?;
        let written = InlineFile { path };
        std::io::Write::write_all(&mut file, text.as_bytes())?;
        Ok(written)
    }
}

impl Drop for InlineFile {
    fn drop(&mut self) {
        // A file in the directory for such files; it is harmless if it stays.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// `sampan compose pull`
#[derive(Args)]
pub(crate) struct Pull {
    /// Go on where an image can't be had
    #[arg(long)]
    ignore_pull_failures: bool,
    /// Leave out services that are built
    #[arg(long)]
    ignore_buildable: bool,
    /// Also what the services depend on
    #[arg(long)]
    include_deps: bool,
    /// Say nothing
    #[arg(short, long)]
    quiet: bool,
    /// When: missing or always
    #[arg(long, value_parser = ["missing", "always"], default_value = "always", value_name = "WHEN")]
    policy: String,
    /// The services; none: all
    #[arg(value_name = "SERVICE")]
    pub(super) services: Vec<String>,
}

pub(super) async fn pull(session: &Session, command: Pull) -> Result<ExitCode> {
    let project = session.project()?;
    let wishes =
        Wishes { services: command.services.clone(), no_deps: !command.include_deps, ..Wishes::default() };
    let (mut code, mut done) = (ExitCode::SUCCESS, BTreeSet::new());
    for name in wanted(project, &wishes) {
        let Some(service) = project.services.get(name).filter(|s| !s.image.is_empty()) else { continue };
        if (command.ignore_buildable && service.build.is_some()) || !done.insert(&service.image) {
            continue;
        }
        if command.policy == "missing" && image_id(&session.client, &service.image).await?.is_some() {
            continue;
        }
        let pulled =
            registry::pull_image_for_run(&session.client, &service.image, &service.platform, command.quiet)
                .await;
        if let Err(error) = pulled {
            let failed = crate::commands::fail(
                &error.context(format!("service {name:?}: cannot get {}", service.image)),
            );
            // What is built here need not be there.
            if !command.ignore_pull_failures && service.build.is_none() {
                code = failed;
            }
        }
    }
    Ok(code)
}

/// `sampan compose push`
#[derive(Args)]
pub(crate) struct Push {
    /// Go on where an image can't be sent
    #[arg(long)]
    ignore_push_failures: bool,
    /// Say nothing
    #[arg(short, long)]
    quiet: bool,
    /// Also what the services depend on
    #[arg(long)]
    include_deps: bool,
    /// The services; none: all
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

pub(super) async fn push(session: &Session, command: Push) -> Result<ExitCode> {
    let project = session.project()?;
    let wishes =
        Wishes { services: command.services.clone(), no_deps: !command.include_deps, ..Wishes::default() };
    let mut code = ExitCode::SUCCESS;
    for name in wanted(project, &wishes) {
        // An image without a name of its own goes nowhere.
        let Some(service) = project.services.get(name).filter(|s| s.build.is_some() && !s.image.is_empty())
        else {
            continue;
        };
        if let Err(error) = registry::push_image(&session.client, &service.image, command.quiet).await {
            let failed = crate::commands::fail(
                &error.context(format!("service {name:?}: cannot send {}", service.image)),
            );
            if !command.ignore_push_failures {
                code = failed;
            }
        }
    }
    Ok(code)
}
