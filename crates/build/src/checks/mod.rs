//! What may not be meant in a Dockerfile that can be built: the rules of `docker build --check`.
//!
//! ```text
//! Dockerfile ─▶ lines (casing, names, comments) ─┐
//!            └▶ stages (words, as a build has them) ─▶ warnings, in order, without those that are skipped
//! ```
//!
//! Some rules ask what a build would find: variables of a base image, its platform, the files left out. What is not
//! known ([`Inputs`]) is not warned about.

mod lines;
mod stages;

use std::collections::BTreeMap;
use std::fmt;

use sampan_oci::image::{ImageConfig, Platform};

use crate::dockerfile::args::{globals, predefined};
use crate::dockerfile::{Dockerfile, excerpt};
use crate::ignore::Ignore;

/// A rule, by the name that `skip=` has for it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[allow(missing_docs, reason = "each is what its name says, and documented by Docker")]
pub enum Rule {
    ConsistentInstructionCasing,
    CopyIgnoredFile,
    DuplicateStageName,
    ExposeInvalidFormat,
    ExposeProtoCasing,
    FromAsCasing,
    FromPlatformFlagConstDisallowed,
    InvalidBaseImagePlatform,
    InvalidDefaultArgInFrom,
    InvalidDefinitionDescription,
    JSONArgsRecommended,
    LegacyKeyValueFormat,
    MaintainerDeprecated,
    MultipleInstructionsDisallowed,
    NoEmptyContinuation,
    RedundantTargetPlatform,
    ReservedStageName,
    SecretsUsedInArgOrEnv,
    StageNameCasing,
    UndefinedArgInFrom,
    UndefinedVar,
    WorkdirRelativePath,
}

impl Rule {
    /// These are only checked where they are asked for.
    fn experimental(self) -> bool {
        matches!(self, Rule::CopyIgnoredFile | Rule::InvalidDefinitionDescription)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Something that may not be meant. Shown in one line: `Rule: text (line 3)`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Warning {
    /// Its first line, from 1.
    pub line: usize,
    /// Its last line.
    pub end: usize,
    /// The rule.
    pub rule: Rule,
    /// What is wrong.
    pub text: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} (line {})", self.rule, self.text, self.line)
    }
}

impl Warning {
    /// With the lines of the Dockerfile `text` that it is about.
    pub fn shown(&self, file: &str, text: &str) -> String {
        format!("WARNING: {}\n{}\n{}", self.rule, self.text, excerpt(file, text, self.line, self.end))
    }
}

/// Which rules count: `skip=A,B;error=true;experimental=all`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Config {
    skip: Listed,
    experimental: Listed,
    /// Whether warnings fail the build.
    pub error: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Listed {
    All,
    Names(Vec<String>),
}

impl Default for Listed {
    fn default() -> Self {
        Listed::Names(Vec::new())
    }
}

impl Listed {
    fn parse(text: &str) -> Listed {
        match text.trim() {
            "all" => Listed::All,
            names => Listed::Names(names.split(',').map(|n| n.trim().to_owned()).collect()),
        }
    }

    fn has(&self, rule: Rule) -> bool {
        match self {
            Listed::All => true,
            Listed::Names(names) => names.iter().any(|n| *n == rule.to_string()),
        }
    }
}

/// A `check` directive, or `BUILDKIT_DOCKERFILE_CHECK`, that can't be understood.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("invalid check option `{option}`")]
pub struct InvalidConfig {
    /// The part that is wrong.
    pub option: String,
}

impl Config {
    /// Reads `skip=…;error=…;experimental=…`.
    ///
    /// # Errors
    /// If there is anything else in it.
    pub fn parse(text: &str) -> Result<Config, InvalidConfig> {
        let mut config = Config::default();
        for option in text.split(';').filter(|_| !text.trim().is_empty()) {
            let invalid = || InvalidConfig { option: option.chars().take(100).collect() };
            let (key, value) = option.split_once('=').ok_or_else(invalid)?;
            match key.trim() {
                "skip" => config.skip = Listed::parse(value),
                "experimental" => config.experimental = Listed::parse(value),
                "error" => {
                    config.error = match value.trim() {
                        "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
                        "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
                        _ => return Err(invalid()),
                    }
                }
                _ => return Err(invalid()),
            }
        }
        Ok(config)
    }

    /// What counts for a file: the build argument `BUILDKIT_DOCKERFILE_CHECK`, or its own directive.
    ///
    /// # Errors
    /// As [`Config::parse`].
    pub fn of(file: &Dockerfile, build_args: &BTreeMap<String, String>) -> Result<Config, InvalidConfig> {
        match (build_args.get("BUILDKIT_DOCKERFILE_CHECK"), &file.check) {
            (Some(text), _) => Config::parse(text),
            (None, Some(directive)) => Config::parse(&directive.value),
            (None, None) => Ok(Config::default()),
        }
    }

    fn counts(&self, rule: Rule) -> bool {
        !self.skip.has(rule) && (!rule.experimental() || self.experimental.has(rule))
    }
}

/// What is known of a base image.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct BaseFacts {
    /// The names and values of its variables.
    pub env: Vec<(String, String)>,
    /// Whether it has a `SHELL`.
    pub shell: bool,
    /// What it was made for.
    pub platform: Platform,
}

impl From<&ImageConfig> for BaseFacts {
    fn from(image: &ImageConfig) -> BaseFacts {
        let pairs = image.config.env.iter().filter_map(|e| e.split_once('='));
        BaseFacts {
            env: pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            shell: image.config.shell.is_some(),
            platform: image.platform(),
        }
    }
}

/// What a build would know.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// Values for `ARG`s.
    pub build_args: &'a BTreeMap<String, String>,
    /// The stage to build; only what it needs is looked into. `None`: all stages.
    pub target: Option<&'a str>,
    /// The platform to build on.
    pub host: &'a Platform,
    /// The platform to build for.
    pub platform: &'a Platform,
    /// The files of the context that are left out.
    pub ignore: Option<&'a Ignore>,
    /// What is known of an image.
    pub base: &'a dyn Fn(&str) -> Option<BaseFacts>,
}

/// All warnings, in the order of their lines.
pub fn check(file: &Dockerfile, config: &Config, inputs: &Inputs<'_>) -> Vec<Warning> {
    let mut warnings = Vec::new();
    lines::check(file, &mut warnings);
    let predefined = predefined(inputs.host, inputs.platform, inputs.target, inputs.build_args);
    // What can't be expanded fails the build; that is told elsewhere.
    if let Ok(globals) = globals(file, &predefined, inputs.build_args) {
        stages::check(file, &predefined, &globals, inputs, &mut warnings);
    }
    warnings.retain(|w| config.counts(w.rule));
    warnings.sort();
    warnings.dedup();
    warnings
}

#[cfg(test)]
mod tests;
