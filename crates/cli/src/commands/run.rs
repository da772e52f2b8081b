//! `run` and `create`.

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use http::Method;
use http_body_util::BodyExt;
use sampan_docker_api::container::{CreateAnswer, CreateRequest, WaitAnswer};
use sampan_docker_api::detach;
use tokio::signal::unix::{SignalKind, signal};

use super::options::{Options, create_request};
use super::{fail_with, say, tell};
use crate::attached::{self, Attachment, Ended};
use crate::client::{Client, DaemonError, encode, full, query};
use crate::terminal::{self, RawMode};

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
    /// Pass signals on to the command
    #[arg(long = "sig-proxy", default_value = "true", value_name = "BOOL", action = clap::ArgAction::Set,
        num_args = 0..=1, require_equals = true, default_missing_value = "true")]
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
    let attach = streams(&command.options, false);
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

pub(crate) fn failure_code(error: &anyhow::Error) -> u8 {
    let said = match error.downcast_ref::<DaemonError>() {
        Some(error) => error.message.as_str(),
        None => return 125,
    };
    let by_runtime = ["OCI runtime", "task for container", "shim task"];
    if !by_runtime.iter().any(|words| said.contains(words)) {
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

/// The streams that are attached to: those that were named, else all that there are.
fn streams(options: &Options, detach: bool) -> [bool; 3] {
    let wants = |stream: &str| !detach && options.attach.iter().any(|a| a == stream);
    let all = options.attach.is_empty() && !detach;
    [wants("stdin") || (all && options.interactive), wants("stdout") || all, wants("stderr") || all]
}

async fn try_run(client: &Client, command: &Run) -> Result<ExitCode> {
    let options = &command.options;
    if command.detach && !options.attach.is_empty() {
        bail!("conflicting options: cannot specify both --attach and --detach");
    }
    let attach = streams(options, command.detach);
    if options.tty && attach[0] && !terminal::input_is_terminal() {
        bail!("the input device is not a TTY: leave out -t");
    }
    let detach_keys = detach::parse_keys(&command.detach_keys).map_err(anyhow::Error::msg)?;
    let id = create_container(client, options, attach).await?.id;
    if command.detach || !attach.contains(&true) {
        client.post(&format!("/containers/{id}/start")).await?;
        say(&id)?;
        return Ok(ExitCode::SUCCESS);
    }
    let foreground = Foreground {
        id: &id,
        terminal: options.tty,
        attach,
        removed: options.rm,
        detach_keys,
        signal_proxy: command.signal_proxy,
    };
    foreground.run(client).await
}

/// A container that is run with this program's input and output.
pub(crate) struct Foreground<'r> {
    pub(crate) id: &'r str,
    pub(crate) terminal: bool,
    /// Standard input, output, error.
    pub(crate) attach: [bool; 3],
    /// It goes when it has ended.
    pub(crate) removed: bool,
    pub(crate) detach_keys: Vec<u8>,
    pub(crate) signal_proxy: bool,
}

impl Foreground<'_> {
    /// Starts it and waits for its end; its exit code.
    pub(crate) async fn run(self, client: &Client) -> Result<ExitCode> {
        let id = self.id;
        let on = |yes: bool| if yes { "1" } else { "" };
        let parameters = [
            ("stream", "1"),
            ("stdin", on(self.attach[0])),
            ("stdout", on(self.attach[1])),
            ("stderr", on(self.attach[2])),
        ];
        let attach = format!("/containers/{id}/attach{}", query(&parameters));
        let condition = if self.removed { "removed" } else { "next-exit" };
        let path = format!("/containers/{id}/wait?condition={condition}");
        // Both before the start, so that neither its output nor its end can be missed.
        let (stream, wait) = tokio::try_join!(
            client.upgrade(&attach, Vec::new()),
            client.request(Method::POST, &path, full(""), "application/json")
        )?;
        let raw = if self.terminal && self.attach[0] { Some(RawMode::enter()?) } else { None };
        if self.signal_proxy && !self.terminal {
            pass_signals(client.clone(), id.to_owned());
        }
        client.post(&format!("/containers/{id}/start")).await?;
        if self.terminal {
            follow_size(client.clone(), format!("/containers/{id}/resize"));
        }
        let attachment =
            Attachment { terminal: self.terminal, input: self.attach[0], detach_keys: self.detach_keys };
        let ended = attached::carry(stream, attachment).await;
        drop(raw);
        if ended? == Ended::Detached {
            return Ok(ExitCode::SUCCESS);
        }
        let answer: WaitAnswer = serde_json::from_slice(&wait.into_body().collect().await?.to_bytes())?;
        if let Some(error) = answer.error.filter(|e| !e.message.is_empty()) {
            bail!("waiting for the container failed: {}", error.message);
        }
        Ok(exit_code(answer.status_code))
    }
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
        (SignalKind::alarm(), "ALRM"),
    ];
    for (kind, name) in kinds {
        // From here on the signal no longer ends this program, whether or not the task has run yet.
        let Ok(mut received) = signal(kind) else { continue };
        let (client, id) = (client.clone(), id.clone());
        tokio::spawn(async move {
            while received.recv().await.is_some() {
                // The process may have ended by now.
                let _ = client.post(&format!("/containers/{id}/kill?signal={name}")).await;
            }
        });
    }
}

async fn create_container(client: &Client, options: &Options, attach: [bool; 3]) -> Result<CreateAnswer> {
    let request = create_request(options, attach)?;
    // The file is made before the container: an id that can't be written down would be lost.
    let mut id_file = match &options.cidfile {
        Some(file) => Some(IdFile::create(file)?),
        None => None,
    };
    let answer = post_create(client, &request, &options.name, options).await?;
    for warning in &answer.warnings {
        tell(format_args!("WARNING: {warning}"));
    }
    if let Some(file) = &mut id_file {
        file.write(&answer.id)?;
    }
    Ok(answer)
}

/// Makes a container, after its image if need be.
async fn post_create(
    client: &Client,
    request: &CreateRequest,
    name: &str,
    options: &Options,
) -> Result<CreateAnswer> {
    let path = format!("/containers/create{}", query(&[("name", name), ("platform", &options.platform)]));
    let image = &request.config.image;
    if options.pull == "always" {
        super::registry::pull_image_for_run(client, image, &options.platform, options.quiet).await?;
    }
    match client.post_json(&path, request).await {
        Err(error) if options.pull == "missing" && is_missing_image(&error) => {
            super::registry::pull_missing(client, image, &options.platform, options.quiet).await?;
            client.post_json(&path, request).await
        }
        Err(error) if options.pull == "never" && is_missing_image(&error) => {
            Err(error
                .context(format!("`{image}` is not here: `sampan pull {image}`, or leave out --pull never")))
        }
        other => other,
    }
}

/// The file of `--cidfile`; without an id in it, it goes.
struct IdFile {
    path: String,
    file: std::fs::File,
    written: bool,
}

impl IdFile {
    fn create(path: &str) -> Result<IdFile> {
        let file = std::fs::File::create_new(path).with_context(|| {
            format!("container ID file could not be made, make sure the other container isn't running or delete `{path}`")
        })?;
        Ok(IdFile { path: path.to_owned(), file, written: false })
    }

    fn write(&mut self, id: &str) -> Result<()> {
        std::io::Write::write_all(&mut self.file, id.as_bytes())
            .with_context(|| format!("cannot write the id to `{}`", self.path))?;
        self.written = true;
        Ok(())
    }
}

impl Drop for IdFile {
    fn drop(&mut self) {
        if !self.written {
            // It is empty; that it stays harms nobody.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Whether a container could not be made for want of its image; other things may be missing, too.
pub(crate) fn is_missing_image(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<DaemonError>()
        .is_some_and(|e| e.status == http::StatusCode::NOT_FOUND && e.message.starts_with("No such image"))
}

/// The path of something about a container.
pub(crate) fn container_path(name: &str, verb: &str) -> String {
    format!("/containers/{}/{verb}", encode(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_tell_whose_fault_it_was() {
        let code = |message: &str| {
            let status = http::StatusCode::BAD_REQUEST;
            failure_code(&DaemonError { status, message: message.to_owned() }.into())
        };
        assert_eq!(code("OCI runtime create failed: exec: \"x\": executable file not found in $PATH"), 127);
        assert_eq!(code("failed to create task for container: exec: \"/etc\": permission denied"), 126);
        assert_eq!(code("failed to create shim task: OCI runtime create failed: exec: is a directory"), 126);
        assert_eq!(code("No such image: x"), 125);
        assert_eq!(code("bind source path does not exist: no such file or directory"), 125);
    }
}
