//! `RUN` and `WORKDIR`.

use sampan_image::{InitLayer, Scratch};

use super::copy_step::open_root;
use super::state::{State, chain_text, key_of};
use super::{BuildEvent, Builder, Result};
use crate::dockerfile::{Command, Heredoc, Problem, Run, RunNetwork, Security, expand, heredoc_alone};
use crate::error::BuildError;
use crate::run::{NetworkMode, RunStep, StepMount};
use crate::{config, copy, users};

/// Set for every command if given, and kept out of the history: they are about the builder, not the image.
pub(super) const PROXY_ARGS: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];
impl Builder<'_> {
    pub(super) fn workdir(&mut self, state: &mut State, line: usize, path: &str) -> Result<()> {
        let path =
            expand::word(path, self.file.escape, &state.lookup()).map_err(|e| self.wrong(line, e.into()))?;
        state.image.config.working_dir = config::join_workdir(&state.image.config, &path);
        let (directory, user) = (state.image.config.working_dir.clone(), state.image.config.user.clone());
        let by = format!("{} #(nop) WORKDIR {directory}", config::shell(&state.image.config).join(" "));
        let key = key_of(&["workdir", chain_text(state), &directory, &user]);
        if self.take_cached(state, &key, &by)? {
            return Ok(());
        }
        let scratch = self.scratch(state, &InitLayer::empty(), line)?;
        let failed = |source| BuildError::Workdir { at: self.at(line), source: Box::new(source) };
        let root = open_root(scratch.rootfs()).map_err(failed)?;
        let owner =
            users::ids(&root, &user).map_err(|source| BuildError::User { at: self.at(line), source })?;
        copy::make_directories(&root, directory.trim_start_matches('/').as_ref(), owner).map_err(failed)?;
        drop(root);
        self.freeze(state, scratch, &key, by, line)
    }

    pub(super) fn run(&mut self, state: &mut State, line: usize, run: &Run) -> Result<()> {
        let unsupported =
            |flag: &str| Err(self.wrong(line, Problem::Unsupported { what: format!("RUN {flag}") }));
        if !run.mounts.is_empty() {
            return unsupported("--mount");
        }
        if !run.devices.is_empty() {
            return unsupported("--device");
        }
        if run.security == Some(Security::Insecure) {
            return unsupported("--security=insecure");
        }
        let (args, script) = run_arguments(state, &run.command, &run.heredocs);
        let mut passed: Vec<String> = Vec::new();
        for (name, _) in &state.args {
            let value = state.arg(name).filter(|_| config::env(&state.image.config, name).is_none());
            let text = value.map(|value| format!("{name}={value}")).filter(|t| !passed.contains(t));
            passed.extend(text.filter(|_| !PROXY_ARGS.contains(&name.as_str())));
        }
        passed.sort();
        let mut by = args.join(" ");
        if !passed.is_empty() {
            by = format!("|{} {} {by}", passed.len(), passed.join(" "));
        }
        let network = match run.network {
            Some(RunNetwork::None) => NetworkMode::None,
            Some(RunNetwork::Host) => NetworkMode::Host,
            _ => self.options.network.clone(),
        };
        let mut env = state.image.config.env.clone();
        env.extend(passed);
        let config = &state.image.config;
        let cwd = if config.working_dir.is_empty() { "/".to_owned() } else { config.working_dir.clone() };
        let texts = [format!("{args:?}"), format!("{env:?}"), format!("{network:?}"), format!("{script:?}")];
        let mut parts = vec!["run", chain_text(state), &cwd, &config.user];
        parts.extend(texts.iter().map(String::as_str));
        let key = key_of(&parts);
        if self.take_cached(state, &key, &by)? {
            return Ok(());
        }
        // The proxies are no part of the key: the same image comes out behind another one.
        let proxies = PROXY_ARGS.iter().filter_map(|name| Some((name, self.options.build_args.get(*name)?)));
        env.extend(proxies.map(|(name, value)| format!("{name}={value}")));
        let scratch = self.scratch(state, &InitLayer::docker(), line)?;
        let mounts = match &script {
            Some(heredoc) => vec![self.script(&scratch, heredoc, &args[0], line)?],
            None => Vec::new(),
        };
        let step = RunStep {
            rootfs: scratch.rootfs(),
            args,
            env,
            cwd,
            user: state.image.config.user.clone(),
            mounts,
            network,
            extra_hosts: self.options.extra_hosts.clone(),
            cancel: self.options.cancel.clone(),
        };
        let (events, number) = (&mut *self.events, self.step);
        let ended = self.runner.run(&step, &mut |stream, bytes| {
            events(BuildEvent::Output { step: number, stream, bytes });
        });
        let command = step.args.join(" ");
        let ended = match ended {
            Err(_) if self.options.cancel.is_set() => return Err(BuildError::Cancelled),
            other => other.map_err(|source| BuildError::Runner {
                at: self.at(line),
                command: command.clone(),
                source,
            })?,
        };
        if ended.code != 0 {
            return Err(BuildError::Command { at: self.at(line), command, code: ended.code });
        }
        for mount in &step.mounts {
            // Only ours: the file of a here-document, beside the root file system.
            let _ = std::fs::remove_file(&mount.source);
        }
        self.freeze(state, scratch, &key, by, line)
    }

    /// Writes a here-document that is a program of its own beside the root file system.
    fn script(&self, scratch: &Scratch, heredoc: &Heredoc, target: &str, line: usize) -> Result<StepMount> {
        let source = scratch.rootfs().with_file_name("script");
        let written = std::fs::write(&source, heredoc.text()).and_then(|()| {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(&source, mode)
        });
        let failed = sampan_base::FileError::on("write", &source);
        written
            .map_err(failed)
            .map_err(|e| BuildError::Snapshot { at: self.at(line), source: Box::new(e.into()) })?;
        Ok(StepMount { source, target: target.to_owned() })
    }
}

/// What to execute; if a here-document is a program of its own, that as well.
fn run_arguments(state: &State, command: &Command, heredocs: &[Heredoc]) -> (Vec<String>, Option<Heredoc>) {
    let config = &state.image.config;
    let (Command::Shell(text), [first, rest @ ..]) = (command, heredocs) else {
        return (config::arguments(config, command), None);
    };
    // The whole command is one here-document: a program of its own, or a script for the shell.
    if rest.is_empty() && heredoc_alone(text) {
        if first.content.starts_with("#!") {
            return (vec![format!("/dev/pipes/{}", first.name)], Some(first.clone()));
        }
        return (config::arguments(config, &Command::Shell(first.text())), None);
    }
    let mut whole = text.clone();
    for heredoc in heredocs {
        whole.push_str(&format!("\n{}{}", heredoc.content, heredoc.name));
    }
    (config::arguments(config, &Command::Shell(whole)), None)
}
