//! Rules about what words mean: the stages are gone through as a build does, without making anything.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use sampan_base::ImageRef;
use sampan_oci::image::Platform;

use super::lines::keyword;
use super::{Inputs, Rule, Warning};
use crate::dockerfile::args::globals;
use crate::dockerfile::expand::{self, WordError};
use crate::dockerfile::near::suggest;
use crate::dockerfile::{Command, Copy, Dockerfile, Instruction, Located, Stage};
use crate::graph;

type Variables = BTreeMap<String, String>;

pub(super) fn check(
    file: &Dockerfile,
    predefined: &Variables,
    globals: &Variables,
    inputs: &Inputs<'_>,
    out: &mut Vec<Warning>,
) {
    defaults(file, predefined, out);
    let mut bases = Vec::new();
    for stage in &file.stages {
        let Some(base) = base(stage, file, globals, out) else { return };
        bases.push(base);
    }
    let needed = match inputs.target.and_then(|name| graph::target(file, Some(name))) {
        Some(target) => graph::needed(file, &bases, target),
        None => (0..file.stages.len()).collect(),
    };
    let mut states: Vec<Option<State>> = vec![None; file.stages.len()];
    for index in needed {
        let stage = &file.stages[index];
        let mut state = match graph::stage_named(file, &bases[index], index) {
            Some(earlier) => states[earlier].clone().unwrap_or_default(),
            None => State::of_image(&bases[index], stage, inputs, out),
        };
        state.last = BTreeMap::new();
        for located in &stage.instructions {
            let mut walker = Walker { file, located, inputs, globals, state: &mut state, out };
            if walker.instruction().is_err() {
                break;
            }
        }
        states[index] = Some(state);
    }
}

/// Without build arguments, the bases should still be names of images.
fn defaults(file: &Dockerfile, predefined: &Variables, out: &mut Vec<Warning>) {
    let Ok(globals) = globals(file, predefined, &BTreeMap::new()) else { return };
    for stage in &file.stages {
        let lookup = |name: &str| globals.get(name).cloned();
        let Ok(base) = expand::word(&stage.base, file.escape, &lookup) else { return };
        if base.parse::<ImageRef>().is_err() {
            let base = &stage.base;
            let text = format!("Default value for ARG {base} results in empty or invalid base image name");
            out.push(Warning { line: stage.line, end: stage.end, rule: Rule::InvalidDefaultArgInFrom, text });
        }
    }
}

/// Expands a word; with the variables in it that are set, and that are not.
fn expanded(
    text: &str,
    escape: char,
    variables: &Variables,
) -> Result<(String, BTreeSet<String>, BTreeSet<String>), WordError> {
    let (set, unset) = (RefCell::new(BTreeSet::new()), RefCell::new(BTreeSet::new()));
    let lookup = |name: &str| {
        let value = variables.get(name).cloned();
        let seen = if value.is_some() { &set } else { &unset };
        seen.borrow_mut().insert(name.to_owned());
        value
    };
    let word = expand::word(text, escape, &lookup)?;
    Ok((word, set.into_inner(), unset.into_inner()))
}

/// The base of a stage, expanded; `None` if it can't be.
fn base(stage: &Stage, file: &Dockerfile, globals: &Variables, out: &mut Vec<Warning>) -> Option<String> {
    let mut warn = |rule, text| out.push(Warning { line: stage.line, end: stage.end, rule, text });
    let declared = file.args.iter().flat_map(|located| match &located.instruction {
        Instruction::Arg(args) => args.as_slice(),
        _ => &[],
    });
    let mut known: Vec<&str> = declared.map(|(name, _)| name.as_str()).collect();
    known.extend(globals.keys().map(String::as_str));
    let mut undefined = |unset: &BTreeSet<String>| {
        for name in unset.iter().filter(|name| !known.contains(&name.as_str())) {
            let hint = suggest(name, &known).map(|n| format!(" (did you mean {n}?)")).unwrap_or_default();
            warn(Rule::UndefinedArgInFrom, format!("FROM argument '{name}' is not declared{hint}"));
        }
    };
    let (base, _, unset) = expanded(&stage.base, file.escape, globals).ok()?;
    undefined(&unset);
    let Some(written) = &stage.platform else { return Some(base) };
    let (platform, set, unset) = expanded(written, file.escape, globals).ok()?;
    undefined(&unset);
    if set.len() == 1 && set.contains("TARGETPLATFORM") && unset.is_empty() {
        if globals.get("TARGETPLATFORM") == Some(&platform) {
            let text = format!(
                "Setting platform to predefined {written} in FROM is redundant as this is the default behavior"
            );
            warn(Rule::RedundantTargetPlatform, text);
        }
    } else if set.is_empty()
        && unset.is_empty()
        && let Ok(parsed) = platform.parse::<Platform>()
    {
        // A stage that is named after its platform is meant to have it.
        let name = stage.name.as_deref().unwrap_or("");
        if !name.contains(&parsed.os) && !name.contains(&parsed.architecture) {
            let text = format!("FROM --platform flag should not use constant value {platform:?}");
            warn(Rule::FromPlatformFlagConstDisallowed, text);
        }
    }
    Some(base)
}

/// What a stage knows so far.
#[derive(Clone, Default)]
struct State {
    /// Of the base, of `ENV`, and of `ARG`s that have a value.
    variables: Variables,
    /// `ARG`s, with or without one.
    declared: BTreeSet<String>,
    /// The base is not known, so neither are its variables.
    guessing: bool,
    /// There is a `SHELL`: commands in shell form are meant.
    shell: bool,
    /// There was a `WORKDIR`.
    workdir: bool,
    /// Where the last `CMD`, `ENTRYPOINT` and `HEALTHCHECK` stands.
    last: BTreeMap<&'static str, (usize, usize)>,
}

impl State {
    fn of_image(base: &str, stage: &Stage, inputs: &Inputs<'_>, out: &mut Vec<Warning>) -> State {
        let mut state = State::default();
        if base != "scratch" {
            match (inputs.base)(base) {
                Some(facts) => {
                    state.variables.extend(facts.env);
                    state.shell = facts.shell;
                    let wanted = stage.platform.is_none().then_some(inputs.platform);
                    if let Some(wanted) = wanted.filter(|wanted| !facts.platform.fits(wanted)) {
                        let text = format!(
                            "Base image {base} was pulled with platform \"{}\", expected \"{wanted}\" for current build",
                            facts.platform
                        );
                        let rule = Rule::InvalidBaseImagePlatform;
                        out.push(Warning { line: stage.line, end: stage.end, rule, text });
                    }
                }
                None => state.guessing = true,
            }
        }
        state.variables.entry("PATH".to_owned()).or_default();
        state
    }
}

struct Walker<'a> {
    file: &'a Dockerfile,
    located: &'a Located,
    inputs: &'a Inputs<'a>,
    globals: &'a Variables,
    state: &'a mut State,
    out: &'a mut Vec<Warning>,
}

impl Walker<'_> {
    fn warn(&mut self, rule: Rule, text: String) {
        self.out.push(Warning { line: self.located.line, end: self.located.end, rule, text });
    }

    fn name(&self) -> &str {
        keyword(&self.located.text)
    }

    fn word(&mut self, text: &str) -> Result<String, WordError> {
        let (word, _, unset) = expanded(text, self.file.escape, &self.state.variables)?;
        self.undefined(unset);
        Ok(word)
    }

    fn undefined(&mut self, unset: BTreeSet<String>) {
        if self.state.guessing {
            return;
        }
        for name in unset.into_iter().filter(|n| !n.starts_with("BUILDKIT_SBOM_SCAN_")) {
            if self.state.declared.contains(&name) {
                continue;
            }
            let known: Vec<&str> = self.state.variables.keys().map(String::as_str).collect();
            let hint = suggest(&name, &known).map(|n| format!(" (did you mean ${n}?)")).unwrap_or_default();
            self.warn(Rule::UndefinedVar, format!("Usage of undefined variable '${name}'{hint}"));
        }
    }

    fn instruction(&mut self) -> Result<(), WordError> {
        let located = self.located;
        match &located.instruction {
            Instruction::Arg(args) => {
                for (name, default) in args {
                    self.argument(name, default.as_deref())?;
                }
            }
            Instruction::Env(pairs) => {
                let mut set = Vec::new();
                for (key, value) in pairs {
                    let (key, value) = (self.word(key)?, self.word(value)?);
                    self.secret("ENV", &key);
                    set.push((key, value));
                }
                self.state.variables.extend(set);
            }
            Instruction::Label(pairs) => {
                for (key, value) in pairs {
                    self.word(key)?;
                    self.word(value)?;
                }
            }
            Instruction::Workdir(path) => {
                let path = self.word(path)?;
                if !self.state.workdir && !path.starts_with('/') {
                    let text = format!(
                        "Relative workdir {path:?} can have unexpected results if the base image changes"
                    );
                    self.warn(Rule::WorkdirRelativePath, text);
                }
                self.state.workdir = true;
            }
            Instruction::User(word) | Instruction::StopSignal(word) => {
                self.word(word)?;
            }
            Instruction::Volume(words) => {
                for word in words {
                    self.word(word)?;
                }
            }
            Instruction::Expose(ports) => self.expose(ports)?,
            Instruction::Copy(copy) => self.copy(copy)?,
            Instruction::Run(run) => {
                for mount in &run.mounts {
                    self.word(&mount.text)?;
                }
            }
            Instruction::Shell(_) => self.state.shell = true,
            Instruction::Cmd(command) => self.command("CMD", command),
            Instruction::Entrypoint(command) => self.command("ENTRYPOINT", command),
            Instruction::Healthcheck(_) => self.once("HEALTHCHECK"),
            Instruction::OnBuild(_) | Instruction::Maintainer(_) => {}
        }
        Ok(())
    }

    fn argument(&mut self, name: &str, default: Option<&str>) -> Result<(), WordError> {
        self.secret("ARG", name);
        let value = match (self.inputs.build_args.get(name), default) {
            (Some(given), _) => Some(given.clone()),
            (None, Some(default)) => Some(self.word(default)?),
            (None, None) => self.globals.get(name).cloned(),
        };
        self.state.declared.insert(name.to_owned());
        self.state.variables.extend(value.map(|value| (name.to_owned(), value)));
        Ok(())
    }

    /// Names that sound as if nobody should see the value, which everyone with the image can.
    fn secret(&mut self, instruction: &str, key: &str) {
        let words = [
            "apikey",
            "auth",
            "credential",
            "credentials",
            "key",
            "password",
            "pword",
            "passwd",
            "secret",
            "token",
        ];
        let public = ["public", "file", "version"];
        let has = |list: &[&str]| key.split('_').any(|w| list.iter().any(|l| w.eq_ignore_ascii_case(l)));
        if has(&words) && !has(&public) {
            let text =
                format!("Do not use ARG or ENV instructions for sensitive data ({instruction} {key:?})");
            self.warn(Rule::SecretsUsedInArgOrEnv, text);
        }
    }

    fn expose(&mut self, ports: &[String]) -> Result<(), WordError> {
        for port in ports {
            let variables = &self.state.variables;
            let lookup = |name: &str| variables.get(name).cloned();
            for port in expand::words(port, self.file.escape, &lookup)? {
                if port.split_once('/').is_some_and(|(_, protocol)| protocol.contains(char::is_uppercase)) {
                    let text = format!("Defined protocol '{port}' in EXPOSE instruction should be lowercase");
                    self.warn(Rule::ExposeProtoCasing, text);
                }
                // A port of the host may be left empty: `:80`.
                if port.rsplit_once(':').is_some_and(|(host, _)| !host.is_empty()) {
                    let text = format!(
                        "EXPOSE instruction should not define an IP address or host-port mapping, found '{port}'"
                    );
                    self.warn(Rule::ExposeInvalidFormat, text);
                }
            }
        }
        Ok(())
    }

    fn copy(&mut self, copy: &Copy) -> Result<(), WordError> {
        for word in copy.chown.iter().chain(&copy.chmod).chain(&copy.checksum).chain(&copy.exclude) {
            self.word(word)?;
        }
        for source in &copy.sources {
            let source = self.word(source)?;
            let Some(ignore) = self.inputs.ignore.filter(|_| copy.from.is_none()) else { continue };
            let path = crate::context::relative(source.as_ref()).unwrap_or_default();
            let path = path.to_string_lossy();
            if !source.contains("://") && !path.is_empty() && ignore.excludes(&path) {
                let verb = if copy.add { "Add" } else { "Copy" };
                let text = format!("Attempting to {verb} file {source:?} that is excluded by .dockerignore");
                self.warn(Rule::CopyIgnoredFile, text);
            }
        }
        self.word(&copy.destination)?;
        for heredoc in copy.heredocs.iter().filter(|h| h.expand) {
            let unset = RefCell::new(BTreeSet::new());
            let variables = &self.state.variables;
            let lookup = |name: &str| {
                let value = variables.get(name).cloned();
                if value.is_none() {
                    unset.borrow_mut().insert(name.to_owned());
                }
                value
            };
            expand::document(&heredoc.text(), &lookup)?;
            self.undefined(unset.into_inner());
        }
        Ok(())
    }

    fn command(&mut self, kind: &'static str, command: &Command) {
        self.once(kind);
        if matches!(command, Command::Shell(_)) && !self.state.shell {
            let text = format!(
                "JSON arguments recommended for {} to prevent unintended behavior related to OS signals",
                self.name()
            );
            self.warn(Rule::JSONArgsRecommended, text);
        }
    }

    /// Only the last one counts: the one before is of no use.
    fn once(&mut self, kind: &'static str) {
        let (line, end) = (self.located.line, self.located.end);
        if let Some((line, end)) = self.state.last.insert(kind, (line, end)) {
            let text = format!(
                "Multiple {} instructions should not be used in the same stage because only the last one will be used",
                self.name()
            );
            self.out.push(Warning { line, end, rule: Rule::MultipleInstructionsDisallowed, text });
        }
    }
}
