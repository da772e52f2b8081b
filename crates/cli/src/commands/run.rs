//! `run` and `create`.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use http::Method;
use http_body_util::BodyExt;
use sampan_docker_api::Empty;
use sampan_docker_api::container::{ContainerConfig, CreateAnswer, CreateRequest, WaitAnswer};
use sampan_docker_api::detach;
use sampan_docker_api::host_config::{
    DeviceMapping, HostConfig, LogConfig, Mount, RestartPolicy, TmpfsOptions, Ulimit,
};
use sampan_docker_api::network::PortBinding;
use tokio::signal::unix::{SignalKind, signal};

use super::{fail_with, parse_size, say, tell};
use crate::attached::{self, Attachment, Ended};
use crate::client::{Client, DaemonError, encode, full, query};
use crate::terminal::{self, RawMode};

/// What `run` and `create` have in common.
#[derive(Args)]
#[command(trailing_var_arg = true)]
pub(crate) struct Options {
    /// The container's name
    #[arg(long, default_value = "", hide_default_value = true)]
    name: String,
    /// Give the command a terminal
    #[arg(short, long)]
    tty: bool,
    /// Keep standard input open
    #[arg(short, long)]
    interactive: bool,
    /// Attach to stdin, stdout or stderr only
    #[arg(short, long, value_parser = ["stdin", "stdout", "stderr", "STDIN", "STDOUT", "STDERR"])]
    attach: Vec<String>,
    /// Remove the container when it exits
    #[arg(long)]
    rm: bool,
    /// Set an environment variable
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Read environment variables from a file
    #[arg(long, value_name = "FILE")]
    env_file: Vec<String>,
    /// Publish a port: [[IP:]HOST_PORT:]PORT[/tcp|udp]
    #[arg(short, long, value_name = "PORT")]
    publish: Vec<String>,
    /// Publish all exposed ports to ports that are picked
    #[arg(short = 'P', long)]
    publish_all: bool,
    /// Say that a port is served
    #[arg(long, value_name = "PORT")]
    expose: Vec<String>,
    /// Mount a host directory or a volume: SOURCE:TARGET[:OPTIONS]
    #[arg(short, long, value_name = "MOUNT")]
    volume: Vec<String>,
    /// Mount something: type=bind|volume|tmpfs,source=…,target=…[,readonly]
    #[arg(long, value_name = "MOUNT")]
    mount: Vec<String>,
    /// Mount a file system in memory: TARGET[:OPTIONS]
    #[arg(long, value_name = "MOUNT")]
    tmpfs: Vec<String>,
    /// Directory that the command starts in
    #[arg(short, long, default_value = "", hide_default_value = true)]
    workdir: String,
    /// User (and group) that runs the command
    #[arg(short, long, default_value = "", hide_default_value = true, value_name = "USER[:GROUP]")]
    user: String,
    /// Give the user another group
    #[arg(long, value_name = "GROUP")]
    group_add: Vec<String>,
    /// Use another entrypoint
    #[arg(long)]
    entrypoint: Option<String>,
    /// The container's host name
    #[arg(short = 'h', long, default_value = "", hide_default_value = true)]
    hostname: String,
    /// Set a label
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    label: Vec<String>,
    /// Network: bridge, host, none or container:NAME
    #[arg(
        long,
        visible_alias = "net",
        default_value = "default",
        hide_default_value = true,
        value_name = "MODE"
    )]
    network: String,
    /// Use a name server
    #[arg(long, value_name = "ADDRESS")]
    dns: Vec<String>,
    /// Search a domain
    #[arg(long, value_name = "DOMAIN")]
    dns_search: Vec<String>,
    /// Set a resolver option
    #[arg(long, value_name = "OPTION")]
    dns_option: Vec<String>,
    /// Add a line to /etc/hosts
    #[arg(long, value_name = "NAME:ADDRESS")]
    add_host: Vec<String>,
    /// Number of CPUs, such as 0.2
    #[arg(long)]
    cpus: Option<f64>,
    /// Relative weight of CPU time
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    cpu_shares: i64,
    /// Period of the CPU limit in microseconds
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    cpu_period: i64,
    /// CPU time in each period in microseconds
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    cpu_quota: i64,
    /// CPUs to run on: 0-3,8
    #[arg(long, default_value = "", hide_default_value = true)]
    cpuset_cpus: String,
    /// Memory nodes to use
    #[arg(long, default_value = "", hide_default_value = true)]
    cpuset_mems: String,
    /// Memory limit, such as 64m
    #[arg(short, long, value_parser = parse_size, default_value = "0", hide_default_value = true)]
    memory: i64,
    /// Limit of memory and swap together, -1: none
    #[arg(long, value_parser = parse_size, default_value = "0", hide_default_value = true, allow_hyphen_values = true)]
    memory_swap: i64,
    /// Soft memory limit
    #[arg(long, value_parser = parse_size, default_value = "0", hide_default_value = true)]
    memory_reservation: i64,
    /// Limit of processes
    #[arg(long, allow_hyphen_values = true)]
    pids_limit: Option<i64>,
    /// Set a resource limit: NAME=SOFT[:HARD]
    #[arg(long, value_name = "LIMIT")]
    ulimit: Vec<String>,
    /// Size of /dev/shm
    #[arg(long, value_parser = parse_size, default_value = "0", hide_default_value = true)]
    shm_size: i64,
    /// Set a kernel parameter inside
    #[arg(long, value_name = "NAME=VALUE")]
    sysctl: Vec<String>,
    /// Pass a device in: HOST[:CONTAINER[:rwm]]
    #[arg(long, value_name = "DEVICE")]
    device: Vec<String>,
    /// Add a capability
    #[arg(long, value_name = "NAME")]
    cap_add: Vec<String>,
    /// Drop a capability
    #[arg(long, value_name = "NAME")]
    cap_drop: Vec<String>,
    /// Security options: seccomp=unconfined, no-new-privileges
    #[arg(long, value_name = "OPTION")]
    security_opt: Vec<String>,
    /// Give all privileges
    #[arg(long)]
    privileged: bool,
    /// Mount the root file system read-only
    #[arg(long)]
    read_only: bool,
    /// Process namespace: host or container:NAME
    #[arg(long, default_value = "", hide_default_value = true)]
    pid: String,
    /// IPC namespace: private, host or container:NAME
    #[arg(long, default_value = "", hide_default_value = true)]
    ipc: String,
    /// Host-name namespace: host
    #[arg(long, default_value = "", hide_default_value = true)]
    uts: String,
    /// cgroup namespace: private or host
    #[arg(long, default_value = "", hide_default_value = true)]
    cgroupns: String,
    /// The signal that asks the command to end
    #[arg(long)]
    stop_signal: Option<String>,
    /// Seconds that it gets for that
    #[arg(long)]
    stop_timeout: Option<i64>,
    /// Restart policy
    #[arg(long, default_value = "no", hide_default_value = true)]
    restart: String,
    /// Where the log goes: json-file or none
    #[arg(long, default_value = "", hide_default_value = true)]
    log_driver: String,
    /// Option of the log
    #[arg(long, value_name = "NAME=VALUE")]
    log_opt: Vec<String>,
    /// Write the container's id to a file
    #[arg(long, value_name = "FILE")]
    cidfile: Option<String>,
    /// When to pull the image: always, missing or never
    #[arg(long, value_parser = ["always", "missing", "never"], default_value = "missing", value_name = "WHEN")]
    pull: String,
    /// Pull the image for another machine: os/architecture[/variant]
    #[arg(long, default_value = "", hide_default_value = true)]
    platform: String,
    /// Image, command and arguments
    #[arg(required = true, allow_hyphen_values = true, value_name = "IMAGE [COMMAND] [ARG]...")]
    image_and_command: Vec<String>,
}

/// `sampan run`
#[derive(Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Run {
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
    /// Print the container's id and return
    #[arg(short, long)]
    detach: bool,
    /// The keys that leave the container running
    #[arg(long, default_value = detach::DEFAULT_KEYS)]
    detach_keys: String,
    /// Do not pass signals on to the command
    #[arg(long = "sig-proxy", default_value = "true", value_name = "BOOL", action = clap::ArgAction::Set)]
    signal_proxy: bool,
    #[command(flatten)]
    options: Options,
}

/// `sampan create`
#[derive(Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Create {
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
    #[command(flatten)]
    options: Options,
}

pub(crate) async fn create(client: &Client, command: Create) -> Result<ExitCode> {
    let attach = [command.options.interactive, true, true];
    let answer = create_container(client, &command.options, attach).await?;
    say(answer.id)?;
    Ok(ExitCode::SUCCESS)
}

/// Runs a container. Exit codes as Docker's: the command's own, 127 if there is no such command, 126 if it can't be
/// executed, 125 if the container could not be made.
pub(crate) async fn run(client: &Client, command: Run) -> Result<ExitCode> {
    match try_run(client, &command).await {
        Ok(code) => Ok(code),
        Err(error) => Ok(fail_with(&error, failure_code(&error))),
    }
}

fn failure_code(error: &anyhow::Error) -> u8 {
    let said = match error.downcast_ref::<DaemonError>() {
        Some(error) => error.message.as_str(),
        None => return 125,
    };
    if !said.contains("OCI runtime") && !said.contains("task for container") {
        return 125;
    }
    if said.contains("executable file not found") || said.contains("no such file or directory") {
        127
    } else if said.contains("permission denied")
        || said.contains("is a directory")
        || said.contains("exec format error")
    {
        126
    } else {
        125
    }
}

async fn try_run(client: &Client, command: &Run) -> Result<ExitCode> {
    let options = &command.options;
    let wants = |stream: &str| options.attach.iter().any(|a| a.eq_ignore_ascii_case(stream));
    let default = options.attach.is_empty() && !command.detach;
    let attach = [
        !command.detach && (wants("stdin") || (default && options.interactive)),
        wants("stdout") || default,
        wants("stderr") || default,
    ];
    if options.tty && attach[0] && !terminal::input_is_terminal() {
        bail!("the input device is not a TTY: leave out -t");
    }
    let detach_keys = detach::parse_keys(&command.detach_keys).map_err(anyhow::Error::msg)?;
    let id = create_container(client, options, attach).await?.id;
    if command.detach {
        client.post(&format!("/containers/{id}/start")).await?;
        say(&id)?;
        return Ok(ExitCode::SUCCESS);
    }
    foreground(client, &id, options, attach, detach_keys, command.signal_proxy).await
}

async fn foreground(
    client: &Client,
    id: &str,
    options: &Options,
    attach: [bool; 3],
    detach_keys: Vec<u8>,
    signal_proxy: bool,
) -> Result<ExitCode> {
    let on = |yes: bool| if yes { "1" } else { "" };
    let parameters =
        [("stream", "1"), ("stdin", on(attach[0])), ("stdout", on(attach[1])), ("stderr", on(attach[2]))];
    let stream =
        client.upgrade(&format!("/containers/{id}/attach{}", query(&parameters)), Vec::new()).await?;
    // Asked before the start, so that the end can't be missed.
    let condition = if options.rm { "removed" } else { "next-exit" };
    let path = format!("/containers/{id}/wait?condition={condition}");
    let wait = client.request(Method::POST, &path, full(""), "application/json").await?;
    let raw = if options.tty && attach[0] { Some(RawMode::enter()?) } else { None };
    client.post(&format!("/containers/{id}/start")).await?;
    if options.tty {
        follow_size(client.clone(), format!("/containers/{id}/resize"));
    } else if signal_proxy {
        pass_signals(client.clone(), id.to_owned());
    }
    let attachment = Attachment { terminal: options.tty, input: attach[0], detach_keys };
    let ended = attached::carry(stream, attachment).await;
    drop(raw);
    if ended? == Ended::Detached {
        return Ok(ExitCode::SUCCESS);
    }
    let answer: WaitAnswer = serde_json::from_slice(&wait.into_body().collect().await?.to_bytes())?;
    if let Some(error) = answer.error {
        bail!("waiting for the container failed: {}", error.message);
    }
    Ok(exit_code(answer.status_code))
}

/// A command's exit code as this program's.
pub(crate) fn exit_code(code: i64) -> ExitCode {
    ExitCode::from(u8::try_from(code & 0xff).unwrap_or(255))
}

/// Tells the terminal's size now and whenever it changes.
pub(crate) fn follow_size(client: Client, path: String) {
    tokio::spawn(async move {
        let Ok(mut changed) = signal(SignalKind::window_change()) else { return };
        loop {
            if let Some((rows, columns)) = terminal::size() {
                // The process may have ended by now.
                let _ = client.post(&format!("{path}?h={rows}&w={columns}")).await;
            }
            if changed.recv().await.is_none() {
                return;
            }
        }
    });
}

/// Passes the signals that people send on to the container.
pub(crate) fn pass_signals(client: Client, id: String) {
    let kinds = [
        (SignalKind::hangup(), "HUP"),
        (SignalKind::interrupt(), "INT"),
        (SignalKind::quit(), "QUIT"),
        (SignalKind::terminate(), "TERM"),
        (SignalKind::user_defined1(), "USR1"),
        (SignalKind::user_defined2(), "USR2"),
    ];
    for (kind, name) in kinds {
        let (client, id) = (client.clone(), id.clone());
        tokio::spawn(async move {
            let Ok(mut received) = signal(kind) else { return };
            while received.recv().await.is_some() {
                // As above.
                let _ = client.post(&format!("/containers/{id}/kill?signal={name}")).await;
            }
        });
    }
}

async fn create_container(client: &Client, options: &Options, attach: [bool; 3]) -> Result<CreateAnswer> {
    let request = create_request(options, attach)?;
    let path = format!("/containers/create{}", query(&[("name", &options.name)]));
    if options.pull == "always" {
        super::registry::pull_image_for_run(client, &request.config.image, &options.platform).await?;
    }
    let answer: CreateAnswer = match client.post_json(&path, &request).await {
        Err(error) if options.pull == "missing" && is_missing_image(&error) => {
            super::registry::pull_missing(client, &request.config.image, &options.platform).await?;
            client.post_json(&path, &request).await?
        }
        other => other?,
    };
    for warning in &answer.warnings {
        tell(format_args!("WARNING: {warning}"));
    }
    if let Some(file) = &options.cidfile {
        let mut created =
            std::fs::File::create_new(file).with_context(|| format!("cannot write the id to `{file}`"))?;
        std::io::Write::write_all(&mut created, answer.id.as_bytes())?;
    }
    Ok(answer)
}

/// Whether a container could not be made for want of its image; other things may be missing, too.
fn is_missing_image(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<DaemonError>()
        .is_some_and(|e| e.status == http::StatusCode::NOT_FOUND && e.message.starts_with("No such image"))
}

fn create_request(options: &Options, attach: [bool; 3]) -> Result<CreateRequest> {
    let (image, command) = options.image_and_command.split_first().context("no image was named")?;
    let (exposed, bindings) = ports(&options.publish, &options.expose)?;
    let (binds, anonymous): (Vec<String>, Vec<String>) =
        options.volume.iter().cloned().partition(|v| v.contains(':'));
    let config = ContainerConfig {
        hostname: options.hostname.clone(),
        user: options.user.clone(),
        attach_stdin: attach[0],
        attach_stdout: attach[1],
        attach_stderr: attach[2],
        exposed_ports: Some(exposed),
        tty: options.tty,
        open_stdin: options.interactive,
        stdin_once: options.interactive && attach[0],
        env: Some(environment(&options.env, &options.env_file)?),
        cmd: (!command.is_empty()).then(|| command.to_vec()),
        image: image.clone(),
        volumes: Some(anonymous.into_iter().map(|path| (path, Empty {})).collect()),
        working_dir: options.workdir.clone(),
        entrypoint: options.entrypoint.as_ref().map(|e| vec![e.clone()]),
        labels: Some(pairs(&options.label)),
        stop_signal: options.stop_signal.clone(),
        stop_timeout: options.stop_timeout,
        ..ContainerConfig::default()
    };
    #[allow(clippy::cast_possible_truncation)]
    let nano_cpus = (options.cpus.unwrap_or(0.0) * 1e9).round() as i64;
    let some = |list: &Vec<String>| (!list.is_empty()).then(|| list.clone());
    let tmpfs: BTreeMap<String, String> = options
        .tmpfs
        .iter()
        .map(|t| t.split_once(':').unwrap_or((t, "")))
        .map(|(target, options)| (target.to_owned(), options.to_owned()))
        .collect();
    let mounts = options.mount.iter().map(|text| mount(text)).collect::<Result<Vec<_>>>()?;
    let (policy, retries) = options.restart.split_once(':').unwrap_or((&options.restart, "0"));
    let host_config = HostConfig {
        binds: some(&binds),
        mounts: (!mounts.is_empty()).then_some(mounts),
        tmpfs: (!tmpfs.is_empty()).then_some(tmpfs),
        log_config: LogConfig { kind: options.log_driver.clone(), config: pairs(&options.log_opt) },
        network_mode: options.network.clone(),
        port_bindings: bindings,
        publish_all_ports: options.publish_all,
        restart_policy: RestartPolicy {
            name: policy.to_owned(),
            maximum_retry_count: retries
                .parse()
                .with_context(|| format!("invalid restart policy `{}`", options.restart))?,
        },
        auto_remove: options.rm,
        cap_add: some(&options.cap_add),
        cap_drop: some(&options.cap_drop),
        cgroupns_mode: options.cgroupns.clone(),
        dns: options.dns.clone(),
        dns_options: options.dns_option.clone(),
        dns_search: options.dns_search.clone(),
        extra_hosts: some(&options.add_host),
        group_add: some(&options.group_add),
        ipc_mode: options.ipc.clone(),
        pid_mode: options.pid.clone(),
        uts_mode: options.uts.clone(),
        privileged: options.privileged,
        readonly_rootfs: options.read_only,
        security_opt: some(&options.security_opt),
        shm_size: options.shm_size,
        sysctls: (!options.sysctl.is_empty()).then(|| pairs(&options.sysctl)),
        cpu_shares: options.cpu_shares,
        cpu_period: options.cpu_period,
        cpu_quota: options.cpu_quota,
        cpuset_cpus: options.cpuset_cpus.clone(),
        cpuset_mems: options.cpuset_mems.clone(),
        nano_cpus,
        memory: options.memory,
        memory_swap: options.memory_swap,
        memory_reservation: options.memory_reservation,
        pids_limit: options.pids_limit,
        ulimits: Some(options.ulimit.iter().map(|text| ulimit(text)).collect::<Result<_>>()?),
        devices: Some(options.device.iter().map(|text| device(text)).collect()),
        ..HostConfig::default()
    };
    Ok(CreateRequest { config, host_config: Some(host_config), networking_config: None })
}

/// `NAME=value`; a name alone takes this program's value, if it has one.
pub(crate) fn environment(given: &[String], files: &[String]) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("cannot read the environment from `{file}`"))?;
        lines.extend(
            text.lines()
                .map(str::trim_start)
                .filter(|l| !l.is_empty() && !l.starts_with('#'))
                .map(str::to_owned),
        );
    }
    lines.extend(given.iter().cloned());
    let complete = |line: String| {
        if line.contains('=') {
            Some(line)
        } else {
            std::env::var(&line).ok().map(|value| format!("{line}={value}"))
        }
    };
    Ok(lines.into_iter().filter_map(complete).collect())
}

fn pairs(list: &[String]) -> BTreeMap<String, String> {
    let pair = |text: &String| {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        (name.to_owned(), value.to_owned())
    };
    list.iter().map(pair).collect()
}

type Ports = (BTreeMap<String, Empty>, BTreeMap<String, Option<Vec<PortBinding>>>);

/// Reads `[[IP:]HOST_PORT:]PORT[/PROTOCOL]`, where both ports may be ranges of the same length.
fn ports(published: &[String], exposed: &[String]) -> Result<Ports> {
    let mut all = BTreeMap::new();
    let mut bindings: BTreeMap<String, Option<Vec<PortBinding>>> = BTreeMap::new();
    for text in exposed {
        let (range_text, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        for port in range(range_text).with_context(|| format!("invalid port `{text}`"))? {
            all.insert(format!("{port}/{protocol}"), Empty {});
        }
    }
    for text in published {
        let invalid =
            || format!("invalid port to publish `{text}`: expected [[IP:]HOST_PORT:]PORT[/tcp|udp]");
        let (rest, protocol) = text.rsplit_once('/').unwrap_or((text, "tcp"));
        let (outside, inside) = match rest.rsplit_once(':') {
            Some((outside, inside)) => (outside, inside),
            None => ("", rest),
        };
        let (address, host) = match outside.rsplit_once(':') {
            Some((address, host)) => (address.trim_matches(['[', ']']), host),
            None => ("", outside),
        };
        let inside = range(inside).with_context(invalid)?;
        let hosts: Vec<String> = match host {
            "" => vec![String::new(); inside.len()],
            // One port inside on any of a range outside is for the daemon to choose.
            _ if inside.len() == 1 && host.contains('-') => {
                range(host).with_context(invalid)?;
                vec![host.to_owned()]
            }
            _ => range(host).with_context(invalid)?.iter().map(u16::to_string).collect(),
        };
        if hosts.len() != inside.len() {
            bail!("{}: the ranges differ in length", invalid());
        }
        for (port, host_port) in inside.iter().zip(hosts) {
            let key = format!("{port}/{protocol}");
            all.insert(key.clone(), Empty {});
            let binding = PortBinding { host_ip: address.to_owned(), host_port };
            bindings.entry(key).or_default().get_or_insert_default().push(binding);
        }
    }
    Ok((all, bindings))
}

fn range(text: &str) -> Result<Vec<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let number =
        |t: &str| t.parse::<u16>().ok().filter(|n| *n > 0).with_context(|| format!("`{t}` is not a port"));
    let (first, last) = (number(first)?, number(last)?);
    if last < first {
        bail!("`{text}` ends before it begins");
    }
    Ok((first..=last).collect())
}

fn mount(text: &str) -> Result<Mount> {
    let mut mount = Mount { kind: "volume".to_owned(), ..Mount::default() };
    let mut tmpfs = TmpfsOptions::default();
    for field in text.split(',') {
        let (key, value) = field.split_once('=').unwrap_or((field, "true"));
        match key {
            "type" => value.clone_into(&mut mount.kind),
            "source" | "src" => value.clone_into(&mut mount.source),
            "target" | "dst" | "destination" => value.clone_into(&mut mount.target),
            "readonly" | "ro" => {
                mount.read_only = value.parse().with_context(|| format!("invalid `{field}` in --mount"))?
            }
            "bind-propagation" => {
                value.clone_into(&mut mount.bind_options.get_or_insert_default().propagation)
            }
            "bind-nonrecursive" => mount.bind_options.get_or_insert_default().non_recursive = value == "true",
            "volume-nocopy" => mount.volume_options.get_or_insert_default().no_copy = value == "true",
            "tmpfs-size" => tmpfs.size_bytes = parse_size(value).map_err(anyhow::Error::msg)?,
            "tmpfs-mode" => {
                tmpfs.mode =
                    u32::from_str_radix(value, 8).with_context(|| format!("invalid `{field}` in --mount"))?;
            }
            _ => bail!("unknown field `{key}` in --mount `{text}`"),
        }
    }
    if mount.kind == "tmpfs" {
        mount.tmpfs_options = Some(tmpfs);
    }
    Ok(mount)
}

fn ulimit(text: &str) -> Result<Ulimit> {
    let invalid = || format!("invalid --ulimit `{text}`: expected NAME=SOFT[:HARD]");
    let (name, values) = text.split_once('=').with_context(invalid)?;
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    Ok(Ulimit {
        name: name.to_owned(),
        soft: soft.parse().with_context(invalid)?,
        hard: hard.parse().with_context(invalid)?,
    })
}

fn device(text: &str) -> DeviceMapping {
    let mut parts = text.split(':');
    let host = parts.next().unwrap_or_default().to_owned();
    let (second, third) = (parts.next(), parts.next());
    // `/dev/x:rw` gives permissions, `/dev/x:/dev/y` a path.
    let (inside, permissions) = match (second, third) {
        (Some(p), None) if !p.starts_with('/') => (host.clone(), p),
        (Some(path), permissions) => (path.to_owned(), permissions.unwrap_or("rwm")),
        (None, _) => (host.clone(), "rwm"),
    };
    DeviceMapping {
        path_on_host: host,
        path_in_container: inside,
        cgroup_permissions: permissions.to_owned(),
    }
}

/// The path of something about a container.
pub(crate) fn container_path(name: &str, verb: &str) -> String {
    format!("/containers/{}/{verb}", encode(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(published: &str) -> Result<String, String> {
        let (_, bindings) = ports(&[published.to_owned()], &[]).map_err(|e| format!("{e:#}"))?;
        let line = |(port, list): (String, Option<Vec<PortBinding>>)| {
            let hosts: Vec<_> =
                list.unwrap().into_iter().map(|b| format!("{}:{}", b.host_ip, b.host_port)).collect();
            format!("{port}={}", hosts.join(","))
        };
        Ok(bindings.into_iter().map(line).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn ports_are_read_as_docker_reads_them() {
        for (text, expected) in [
            ("80", "80/tcp=:"),
            ("8080:80", "80/tcp=:8080"),
            ("127.0.0.1:8080:80/udp", "80/udp=127.0.0.1:8080"),
            ("127.0.0.1::80", "80/tcp=127.0.0.1:"),
            ("[::1]:8080:80", "80/tcp=::1:8080"),
            ("8000-8001:80-81", "80/tcp=:8000 81/tcp=:8001"),
            ("8000-8009:80", "80/tcp=:8000-8009"),
        ] {
            assert_eq!(show(text).unwrap(), expected, "{text}");
        }
        for bad in ["x:y", "0", "80-79", "1-3:1-2", ":", "70000:80"] {
            assert!(show(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn exit_codes_tell_whose_fault_it_was() {
        let code = |message: &str| {
            let status = http::StatusCode::BAD_REQUEST;
            failure_code(&DaemonError { status, message: message.to_owned() }.into())
        };
        assert_eq!(code("OCI runtime create failed: exec: \"x\": executable file not found in $PATH"), 127);
        assert_eq!(code("failed to create task for container: exec: \"/etc\": permission denied"), 126);
        assert_eq!(code("No such image: x"), 125);
        assert_eq!(code("bind source path does not exist: no such file or directory"), 125);
    }
}
