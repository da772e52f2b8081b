//! Landlock rules by annotation, until the specification has a word for them.
//!
//! `org.sampan.landlock` holds a JSON object: what the rules are about, and what they allow. See docs/landlock.md.

use std::collections::BTreeMap;

use rustix::fs::{CWD, Mode, OFlags};
use sampan_kernel::landlock::{self, FILES, Handled, PORTS, Ruleset, SCOPES};
use serde::Deserialize;

use super::enter::Tell;
use crate::error::{Refused, Step};

/// The annotation.
pub const ANNOTATION: &str = "org.sampan.landlock";

/// The annotation's value, as sent.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    #[serde(default)]
    handled_access_fs: Vec<String>,
    #[serde(default)]
    handled_access_net: Vec<String>,
    #[serde(default)]
    scoped: Vec<String>,
    #[serde(default)]
    rules: Vec<RawRule>,
    #[serde(default)]
    best_effort: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawRule {
    #[serde(default)]
    paths: Vec<String>,
    #[serde(default)]
    ports: Vec<u16>,
    allow: Vec<String>,
}

/// Rules that make sense.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rules {
    handled: Handled,
    files: Vec<(String, u64)>,
    ports: Vec<(u16, u64)>,
    best_effort: bool,
}

/// The rules of a configuration's annotations.
///
/// # Errors
/// If they are none.
pub fn plan(annotations: &BTreeMap<String, String>) -> Result<Option<Rules>, Refused> {
    let Some(text) = annotations.get(ANNOTATION) else { return Ok(None) };
    let refuse = |why: String| Refused::Invalid(format!("the annotation {ANNOTATION}: {why}"));
    let document: Document = serde_json::from_str(text).map_err(|e| refuse(e.to_string()))?;
    let bits = |names: &[String], table: &[(&str, i32)]| -> Result<u64, Refused> {
        let bit = |name: &String| {
            let at = table.iter().position(|(known, _)| known == name);
            at.map(|at| 1u64 << at).ok_or_else(|| refuse(format!("`{name}` is no right of this kind")))
        };
        names.iter().try_fold(0, |all, name| Ok(all | bit(name)?))
    };
    let handled = Handled {
        files: bits(&document.handled_access_fs, &FILES)?,
        ports: bits(&document.handled_access_net, &PORTS)?,
        scopes: bits(&document.scoped, &SCOPES)?,
    };
    if handled == Handled::default() {
        return Err(refuse(
            "it is about nothing: name rights in handledAccessFs, handledAccessNet or scoped".to_owned(),
        ));
    }
    let mut rules =
        Rules { handled, files: Vec::new(), ports: Vec::new(), best_effort: document.best_effort };
    for rule in document.rules {
        match (rule.paths.as_slice(), rule.ports.as_slice()) {
            ([], []) | ([_, ..], [_, ..]) => {
                return Err(refuse("a rule is about either paths or ports".to_owned()));
            }
            (paths, []) => {
                let allowed = bits(&rule.allow, &FILES)?;
                if let Some(path) = paths.iter().find(|path| !path.starts_with('/') || path.contains('\0')) {
                    return Err(refuse(format!("`{path}` is not absolute")));
                }
                rules.files.extend(paths.iter().map(|path| (path.clone(), allowed)));
            }
            (_, ports) => {
                let allowed = bits(&rule.allow, &PORTS)?;
                rules.ports.extend(ports.iter().map(|port| (*port, allowed)));
            }
        }
    }
    Ok(Some(rules))
}

impl Rules {
    /// Puts them in force. This process is in the container, and has `no_new_privs` or CAP_SYS_ADMIN.
    ///
    /// # Errors
    /// If the kernel can't do all that is asked for and less is not welcome, or a path is not there.
    pub(super) fn apply(&self, tell: &mut dyn Tell) -> Result<(), Step> {
        let version = landlock::version();
        let handled = self.handled.known_to(version);
        if handled != self.handled {
            let missing = Handled {
                files: self.handled.files & !handled.files,
                ports: self.handled.ports & !handled.ports,
                scopes: self.handled.scopes & !handled.scopes,
            };
            let why = match version {
                0 => "this kernel has no Landlock".to_owned(),
                _ => format!(
                    "this kernel's Landlock (version {version}) has no {}",
                    missing.names().join(", ")
                ),
            };
            if !self.best_effort {
                return Err(Step::refused(format!("apply the rules of {ANNOTATION}"), why));
            }
            tell.warn(format!("{ANNOTATION} is applied in part or not at all: {why}"));
            if handled == Handled::default() {
                return Ok(());
            }
        }
        let ruleset = Ruleset::new(handled).map_err(Step::on(|| "make a Landlock ruleset"))?;
        for (path, allowed) in &self.files {
            let allow = || {
                let flags = OFlags::PATH | OFlags::CLOEXEC;
                let place = rustix::fs::openat(CWD, path.as_str(), flags, Mode::empty())?;
                ruleset.allow_beneath(std::os::fd::AsFd::as_fd(&place), *allowed)
            };
            allow().map_err(Step::on(|| format!("add a Landlock rule for `{path}`")))?;
        }
        for (port, allowed) in &self.ports {
            let allowed = ruleset.allow_port(*port, *allowed);
            allowed.map_err(Step::on(|| format!("add a Landlock rule for port {port}")))?;
        }
        ruleset.restrict_self().map_err(Step::on(|| "put the Landlock rules in force"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<Rules, String> {
        let annotations = BTreeMap::from([(ANNOTATION.to_owned(), text.to_owned())]);
        plan(&annotations).map(Option::unwrap).map_err(|e| e.to_string())
    }

    #[test]
    fn rules_are_read_and_nonsense_is_refused_by_name() {
        let rules = check(
            r#"{"handledAccessFs":["read_file","write_file"],"handledAccessNet":["connect_tcp"],"scoped":["signal"],
                "rules":[{"paths":["/usr","/etc"],"allow":["read_file"]},{"ports":[443],"allow":["connect_tcp"]}]}"#,
        )
        .unwrap();
        assert_eq!(rules.handled, Handled { files: 6, ports: 2, scopes: 2 });
        assert_eq!(rules.files, [("/usr".to_owned(), 4), ("/etc".to_owned(), 4)]);
        assert_eq!(rules.ports, [(443, 2)]);
        for (text, why) in [
            ("{", "EOF"),
            ("{}", "about nothing"),
            (r#"{"moon":1}"#, "`moon`"),
            (r#"{"handledAccessFs":["fly"]}"#, "`fly` is no right"),
            (r#"{"scoped":["signal"],"rules":[{"allow":[]}]}"#, "either paths or ports"),
            (r#"{"scoped":["signal"],"rules":[{"paths":["etc"],"allow":[]}]}"#, "`etc` is not absolute"),
            (r#"{"scoped":["signal"],"rules":[{"ports":[99999],"allow":[]}]}"#, "99999"),
        ] {
            let error = check(text).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        assert_eq!(plan(&BTreeMap::new()).unwrap(), None);
    }
}
