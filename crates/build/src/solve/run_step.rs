//! `RUN` and `WORKDIR`.

use sampan_image::{InitLayer, Scratch};

use super::copy_step::open_root;
use super::mask::Mask;
use super::stage::StageRun;
use super::state::State;
use super::{BuildEvent, For, Result};
use crate::dockerfile::args::PROXIES;
use crate::dockerfile::{Command, Heredoc, Problem, Run, RunNetwork, Security, expand, heredoc_alone};
use crate::error::BuildError;
use crate::run::{NetworkMode, Owners, RunStep, StepMount, Stream};
use crate::{config, copy, users};

impl StageRun<'_, '_> {
    pub(super) fn workdir(&mut self, state: &mut State, path: &str) -> Result<()> {
        let path = expand::word(path, self.solve.file.escape, &state.lookup())
            .map_err(|e| self.solve.wrong(self.line, e.into()))?;
        state.image.config.working_dir = config::join_workdir(&state.image.config, &path);
        let (directory, user) = (state.image.config.working_dir.clone(), state.image.config.user.clone());
        let by = format!("{} #(nop) WORKDIR {directory}", config::shell(&state.image.config).join(" "));
        let chain = state.chain_text().to_owned();
        let Some(claim) = self.recall(state, &["workdir", &chain, &directory, &user], &by)? else {
            return Ok(());
        };
        let scratch = self.scratch(For::Us, state, &InitLayer::empty())?;
        let at = self.solve.at(self.line);
        let failed = |source| BuildError::Workdir { at: at.clone(), source: Box::new(source) };
        let root = open_root(scratch.rootfs()).map_err(failed)?;
        let owner = users::ids(&root, &user).map_err(|source| BuildError::User { at: at.clone(), source })?;
        copy::make_directories(&root, directory.trim_start_matches('/').as_ref(), owner).map_err(failed)?;
        drop(root);
        self.freeze(state, scratch, claim, by)
    }

    pub(super) fn command(&mut self, state: &mut State, run: &Run) -> Result<()> {
        let solve = self.solve;
        self.check_allowed(run)?;
        let (args, script) = run_arguments(state, &run.command, &run.heredocs);
        let passed = state.declared();
        let mut by = args.join(" ");
        if !passed.is_empty() {
            by = format!("|{} {} {by}", passed.len(), passed.join(" "));
        }
        let network = match run.network {
            Some(RunNetwork::None) => NetworkMode::None,
            Some(RunNetwork::Host) => NetworkMode::Host,
            _ => solve.options.network.clone(),
        };
        let mut env = state.environment();
        let planned = self.plan_mounts(state, &run.mounts)?;
        let config = &state.image.config;
        let cwd = if config.working_dir.is_empty() { "/".to_owned() } else { config.working_dir.clone() };
        let (chain, user) = (state.chain_text().to_owned(), config.user.clone());
        let texts = [
            format!("{args:?}"),
            format!("{env:?}"),
            format!("{network:?}"),
            format!("{script:?}"),
            format!("{:?}", run.security),
        ];
        let mut parts = vec!["run", &chain, &cwd, &user];
        parts.extend(texts.iter().map(String::as_str));
        parts.extend(planned.iter().map(|mount| mount.key.as_str()));
        let Some(claim) = self.recall(state, &parts, &by)? else { return Ok(()) };
        // The proxies are no part of the key: the same image comes out behind another one.
        let given = &solve.options.build_args;
        let proxies = PROXIES.iter().filter_map(|name| Some((name, given.get(*name)?)));
        env.extend(proxies.map(|(name, value)| format!("{name}={value}")));
        let mut mounts = self.mount_all(&planned)?;
        env.append(&mut mounts.env);
        let init = self.mount_points(state, &mut mounts.list)?;
        let scratch = self.scratch(For::Commands, state, &init)?;
        let mut list = std::mem::take(&mut mounts.list);
        if let Some(heredoc) = &script {
            list.push(self.script(&scratch, heredoc, &args[0])?);
        }
        let step = RunStep {
            rootfs: scratch.rootfs(),
            args,
            env,
            cwd,
            user,
            mounts: list,
            network,
            privileged: run.security == Some(Security::Insecure),
            extra_hosts: solve.options.extra_hosts.clone(),
            limits: solve.options.limits.clone(),
            cancel: solve.options.cancel.clone(),
        };
        self.run_to_end(&step, &mounts.secrets)?;
        if script.is_some() {
            // Only ours: the file of a here-document, beside the root file system.
            let _ = std::fs::remove_file(script_path(&scratch));
        }
        drop(mounts);
        self.freeze(state, scratch, claim, by)
    }

    /// What a Dockerfile can't allow itself.
    fn check_allowed(&self, run: &Run) -> Result<()> {
        let options = self.solve.options;
        let refused =
            |what: &str| Err(self.solve.wrong(self.line, Problem::NotAllowed { what: what.to_owned() }));
        if run.security == Some(Security::Insecure) && !options.allow_insecure {
            return refused("security.insecure");
        }
        if run.network == Some(RunNetwork::Host) && !options.allow_host_network {
            return refused("network.host");
        }
        if !run.devices.is_empty() {
            return Err(self
                .solve
                .wrong(self.line, Problem::Unsupported { what: "RUN --device".to_owned() }));
        }
        Ok(())
    }

    /// `secrets` are the ids of those that the command sees.
    fn run_to_end(&self, step: &RunStep<'_>, secrets: &[String]) -> Result<()> {
        let solve = self.solve;
        let tell = |stream, bytes: &[u8]| {
            (solve.events)(BuildEvent::Output { step: self.step, stream, bytes });
        };
        let mask = || {
            let values = secrets.iter().filter_map(|id| solve.options.secrets.get(id));
            Mask::new(values.map(|secret| secret.0.as_slice()))
        };
        let (mut out, mut err) = (mask(), mask());
        let ended = solve.runner.run(step, &mut |stream, bytes| {
            let mask = if stream == Stream::Stdout { &mut out } else { &mut err };
            mask.pass(bytes, &mut |bytes| tell(stream, bytes));
        });
        out.end(&mut |bytes| tell(Stream::Stdout, bytes));
        err.end(&mut |bytes| tell(Stream::Stderr, bytes));
        let command = || step.args.join(" ");
        let ended = match ended {
            Err(_) if solve.options.cancel.is_set() => return Err(BuildError::Cancelled),
            Err(source) => {
                return Err(BuildError::Runner { at: solve.at(self.line), command: command(), source });
            }
            Ok(ended) => ended,
        };
        match ended.code {
            0 => Ok(()),
            // It was killed because of somebody else's failure.
            _ if solve.options.cancel.is_set() => Err(BuildError::Cancelled),
            code => Err(BuildError::Command { at: solve.at(self.line), command: command(), code }),
        }
    }

    /// Writes a here-document that is a program of its own beside the root file system.
    fn script(&self, scratch: &Scratch, heredoc: &Heredoc, target: &str) -> Result<StepMount> {
        let source = script_path(scratch);
        let written = std::fs::write(&source, heredoc.text()).and_then(|()| {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(&source, mode)
        });
        written
            .map_err(sampan_base::FileError::on("write", &source))
            .map_err(|e| self.snapshot_failed(e.into()))?;
        let target = target.to_owned();
        Ok(StepMount::Bind { source, target, read_only: true, owners: Owners::Image })
    }
}

fn script_path(scratch: &Scratch) -> std::path::PathBuf {
    scratch.rootfs().with_file_name("script")
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
