//! Instructions that make no files: applied to a configuration, each with the text that history keeps of it.

use sampan_oci::image::ImageConfig;
use serde_json::Map;

use crate::config;
use crate::dockerfile::expand::{self, WordError};
use crate::dockerfile::{Instruction, Problem, parse_instruction};

/// What expands the words of an instruction.
pub(crate) struct Words<'a> {
    pub(crate) escape: char,
    pub(crate) lookup: &'a dyn Fn(&str) -> Option<String>,
}

impl Words<'_> {
    pub(crate) fn one(&self, text: &str) -> Result<String, WordError> {
        expand::word(text, self.escape, self.lookup)
    }

    pub(crate) fn several(&self, texts: &[String]) -> Result<Vec<String>, WordError> {
        let mut all = Vec::new();
        for text in texts {
            all.extend(expand::words(text, self.escape, self.lookup)?);
        }
        Ok(all)
    }

    pub(crate) fn pairs(&self, pairs: &[(String, String)]) -> Result<Vec<(String, String)>, WordError> {
        pairs.iter().map(|(key, value)| Ok((self.one(key)?, self.one(value)?))).collect()
    }
}

/// A change to a configuration that can't be made: `docker commit --change`.
#[derive(Debug, thiserror::Error)]
#[error("cannot apply the change `{change}`")]
pub struct ChangeError {
    /// The change.
    pub change: String,
    /// What is wrong with it.
    pub source: Problem,
}

/// Applies instructions to a configuration, as `docker commit --change` and `docker import --change` do: `CMD`,
/// `ENTRYPOINT`, `ENV`, `EXPOSE`, `HEALTHCHECK`, `LABEL`, `ONBUILD`, `STOPSIGNAL`, `USER`, `VOLUME`, `WORKDIR`.
///
/// # Errors
/// If one can't be understood, or makes files.
pub fn apply_changes(image: &mut ImageConfig, changes: &[String]) -> Result<(), ChangeError> {
    for change in changes {
        let failed = |source| ChangeError { change: change.clone(), source };
        let instruction = parse_instruction(change).map_err(failed)?;
        let before = image.config.clone();
        let lookup = move |name: &str| config::env(&before, name).map(str::to_owned);
        let words = Words { escape: '\\', lookup: &lookup };
        let mut cmd_set = false;
        let applied = match &instruction {
            Instruction::Workdir(path) => words.one(path).map_err(Problem::from).map(|path| {
                image.config.working_dir = config::join_workdir(&image.config, &path);
                Some(String::new())
            }),
            _ => apply(image, &instruction, &words, &mut cmd_set),
        };
        if applied.map_err(failed)?.is_none() {
            let what =
                format!("{} in a change", change.split_whitespace().next().unwrap_or("").to_uppercase());
            return Err(failed(Problem::Unsupported { what }));
        }
    }
    Ok(())
}

/// Applies one instruction, and answers its text for the history; `None` if it is one that makes files (or `ARG`,
/// which changes no configuration).
pub(crate) fn apply(
    image: &mut ImageConfig,
    instruction: &Instruction,
    words: &Words<'_>,
    cmd_set: &mut bool,
) -> Result<Option<String>, Problem> {
    let config = &mut image.config;
    let invalid = |instruction: &str, what, value: &str| Problem::Invalid {
        instruction: instruction.to_owned(),
        what,
        value: value.to_owned(),
    };
    Ok(Some(match instruction {
        Instruction::Env(pairs) => {
            let pairs = words.pairs(pairs)?;
            for (key, value) in &pairs {
                config::set_env(config, key, value);
            }
            format!("ENV {}", config::pairs(&pairs))
        }
        Instruction::Label(pairs) => {
            let pairs = words.pairs(pairs)?;
            config.labels.extend(pairs.iter().cloned());
            format!("LABEL {}", config::pairs(&pairs))
        }
        Instruction::User(user) => {
            config.user = words.one(user)?;
            format!("USER {}", config.user)
        }
        Instruction::Expose(ports) => {
            let mut ports = words.several(ports)?;
            // Docker's history has them in order.
            ports.sort();
            for port in &ports {
                let ports = config::ports(port).ok_or_else(|| invalid("EXPOSE", "port", port))?;
                config.exposed_ports.extend(ports.into_iter().map(|p| (p, Map::new())));
            }
            format!("EXPOSE {}", ports.join(" "))
        }
        Instruction::Volume(paths) => {
            let paths = paths.iter().map(|p| words.one(p)).collect::<Result<Vec<_>, _>>()?;
            if paths.iter().any(|p| p.trim().is_empty()) {
                return Err(invalid("VOLUME", "empty path", ""));
            }
            config.volumes.extend(paths.iter().map(|p| (p.trim().to_owned(), Map::new())));
            format!("VOLUME [{}]", paths.join(" "))
        }
        Instruction::Cmd(command) => {
            let list = config::arguments(config, command);
            let text = format!("CMD {}", config::quoted_list(&list));
            config.cmd = Some(list);
            *cmd_set = true;
            text
        }
        Instruction::Entrypoint(command) => {
            let list = config::arguments(config, command);
            let text = format!("ENTRYPOINT {}", config::quoted_list(&list));
            // An empty one resets that of the base.
            config.entrypoint = Some(list).filter(|l| !l.is_empty());
            // A command of the base image was meant for the base image's entry point.
            if !*cmd_set {
                config.cmd = None;
            }
            text
        }
        Instruction::Shell(list) => {
            config.shell = Some(list.clone());
            format!("SHELL [{}]", list.join(" "))
        }
        Instruction::StopSignal(signal) => {
            let signal = words.one(signal)?;
            if !config::is_signal(&signal) {
                return Err(invalid("STOPSIGNAL", "signal", &signal));
            }
            config.stop_signal = signal;
            format!("STOPSIGNAL {}", config.stop_signal)
        }
        Instruction::Healthcheck(check) => {
            let check = config::healthcheck(check);
            let text = format!("HEALTHCHECK {}", config::quoted_healthcheck(&check));
            config.healthcheck = Some(check);
            text
        }
        Instruction::OnBuild(trigger) => {
            config.on_build.push(trigger.clone());
            format!("ONBUILD {trigger}")
        }
        Instruction::Maintainer(name) => {
            image.author.clone_from(name);
            format!("MAINTAINER {name}")
        }
        Instruction::Arg(_) | Instruction::Run(_) | Instruction::Copy(_) | Instruction::Workdir(_) => {
            return Ok(None);
        }
    }))
}
