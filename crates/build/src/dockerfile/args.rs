//! `ARG`s: those that are there without being declared, and those before the first `FROM`.

use std::collections::BTreeMap;

use sampan_oci::image::Platform;

use super::expand::{self, WordError};
use super::{Dockerfile, Instruction};

/// Set for every command if given, and kept out of history and cache keys: they are about the builder, not the image.
pub const PROXIES: [&str; 10] = [
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

/// Whether a build argument is for the builder itself, so that no `ARG` need take it.
pub fn is_for_the_builder(name: &str) -> bool {
    PROXIES.contains(&name) || name.starts_with("BUILDKIT_") || name == "SOURCE_DATE_EPOCH"
}

/// What is set before any `ARG`: the platforms that are built on and for, and the target stage's name. Lines with
/// `FROM` see it as it is, stages where an `ARG` names it; what is given for a build goes before it.
pub fn predefined(
    build: &Platform,
    target: &Platform,
    stage: Option<&str>,
    given: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for (prefix, platform) in [("BUILD", build), ("TARGET", target)] {
        let mut set = |name: &str, value: &str| all.insert(format!("{prefix}{name}"), value.to_owned());
        set("PLATFORM", &platform.to_string());
        set("OS", &platform.os);
        set("OSVERSION", platform.os_version.as_deref().unwrap_or_default());
        set("ARCH", &platform.architecture);
        set("VARIANT", platform.variant.as_deref().unwrap_or_default());
    }
    all.insert("TARGETSTAGE".to_owned(), stage.filter(|s| !s.is_empty()).unwrap_or("default").to_owned());
    for (name, value) in &mut all {
        if let Some(given) = given.get(name) {
            value.clone_from(given);
        }
    }
    all
}

/// The variables that lines with `FROM` see: `predefined`, then the `ARG`s before the first of them, in order. An
/// `ARG` without value and default only says that it exists.
///
/// # Errors
/// If a default can't be expanded; with the line.
pub fn globals(
    file: &Dockerfile,
    predefined: &BTreeMap<String, String>,
    given: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, (usize, WordError)> {
    let mut all = predefined.clone();
    for located in &file.args {
        let Instruction::Arg(args) = &located.instruction else { continue };
        for (name, default) in args {
            let value = match (given.get(name), default) {
                (Some(given), _) => Some(given.clone()),
                (None, Some(default)) => {
                    let expanded = expand::word(default, file.escape, &|name| all.get(name).cloned());
                    Some(expanded.map_err(|e| (located.line, e))?)
                }
                (None, None) => None,
            };
            all.extend(value.map(|value| (name.clone(), value)));
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, given: &[(&str, &str)], name: &str, expected: Option<&str>) {
        let given: BTreeMap<String, String> =
            given.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let (build, target) = ("linux/amd64".parse().unwrap(), "linux/arm/v7".parse().unwrap());
        let predefined = predefined(&build, &target, Some("web"), &given);
        let file = Dockerfile::parse(&format!("{text}\nFROM x")).unwrap();
        let all = globals(&file, &predefined, &given).unwrap();
        assert_eq!(all.get(name).map(String::as_str), expected, "{text} {name}");
    }

    #[test]
    fn defaults_see_what_is_above() {
        check("ARG A=1\nARG B=${A}2 C", &[], "B", Some("12"));
        check("ARG A=1\nARG B=${A}2", &[("A", "x")], "B", Some("x2"));
        check("ARG A=1 B=$A", &[("B", "y")], "B", Some("y"));
        check("ARG A", &[], "A", None);
        check("ARG A", &[("A", "")], "A", Some(""));
        check("", &[("A", "1")], "A", None);
    }

    #[test]
    fn platforms_are_there() {
        check("", &[], "TARGETPLATFORM", Some("linux/arm/v7"));
        check("", &[], "TARGETVARIANT", Some("v7"));
        check("", &[], "BUILDARCH", Some("amd64"));
        check("", &[], "BUILDVARIANT", Some(""));
        check("ARG TARGETARCH", &[], "TARGETARCH", Some("arm"));
        check("ARG TARGETARCH=mine", &[], "TARGETARCH", Some("mine"));
        check("", &[("TARGETOS", "other")], "TARGETOS", Some("other"));
        check("", &[], "TARGETSTAGE", Some("web"));
    }
}
