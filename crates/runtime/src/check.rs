//! What config.json may not say, as far as no plan looks at it: values that the specification forbids are refused by
//! name instead of being taken for something else.

use sampan_oci::runtime::{Hook, LinuxSeccomp, SeccompAction, Spec};

use crate::error::Refused;
use crate::process::label;

/// Checks a configuration.
///
/// # Errors
/// If a value in it is none.
pub fn spec(spec: &Spec) -> Result<(), Refused> {
    if spec.annotations.contains_key("") {
        return invalid("annotations has an empty key");
    }
    if let Some(hooks) = &spec.hooks {
        let kinds: [(&str, &[Hook]); 6] = [
            ("prestart", &hooks.prestart),
            ("createRuntime", &hooks.create_runtime),
            ("createContainer", &hooks.create_container),
            ("startContainer", &hooks.start_container),
            ("poststart", &hooks.poststart),
            ("poststop", &hooks.poststop),
        ];
        kinds.iter().try_for_each(|(kind, hooks)| hooks.iter().try_for_each(|h| hook(kind, h)))?;
    }
    let Some(linux) = &spec.linux else { return Ok(()) };
    for (what, paths) in [("maskedPaths", &linux.masked_paths), ("readonlyPaths", &linux.readonly_paths)] {
        if let Some(path) = paths.iter().find(|path| !path.starts_with('/')) {
            return invalid(format!("linux.{what}: `{path}` is not absolute"));
        }
    }
    if linux.mount_label.as_deref().is_some_and(|label| !label.is_empty()) && !label::has_selinux() {
        return invalid("linux.mountLabel: this host has no SELinux");
    }
    if let Some(wanted) = &linux.seccomp {
        seccomp(wanted)?;
    }
    Ok(())
}

fn invalid<T>(why: impl Into<String>) -> Result<T, Refused> {
    Err(Refused::Invalid(why.into()))
}

fn hook(kind: &str, hook: &Hook) -> Result<(), Refused> {
    let path = hook.path.display();
    if !hook.path.is_absolute() {
        return invalid(format!("hooks.{kind}: the path `{path}` is not absolute"));
    }
    if hook.timeout == Some(0) {
        return invalid(format!("hooks.{kind}: the timeout of `{path}` must be more than 0"));
    }
    Ok(())
}

/// What a filter's parts say about each other.
fn seccomp(wanted: &LinuxSeccomp) -> Result<(), Refused> {
    let takes_errno = |action| matches!(action, SeccompAction::Errno | SeccompAction::Trace);
    if wanted.default_errno_ret.is_some() && !takes_errno(wanted.default_action) {
        return invalid("linux.seccomp: defaultErrnoRet is for SCMP_ACT_ERRNO and SCMP_ACT_TRACE");
    }
    for call in &wanted.syscalls {
        let Some(first) = call.names.first() else {
            return invalid("linux.seccomp: a rule in syscalls has no names");
        };
        if call.errno_ret.is_some() && !takes_errno(call.action) {
            return invalid(format!(
                "linux.seccomp: errnoRet of the rule for `{first}` is for SCMP_ACT_ERRNO and SCMP_ACT_TRACE"
            ));
        }
    }
    let given = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
    if given(&wanted.listener_metadata) && !given(&wanted.listener_path) {
        return invalid("linux.seccomp: listenerMetadata needs a listenerPath");
    }
    Ok(())
}

/// Whether a text is a version as the specification writes them (SemVer 2.0.0), and of a major version that this
/// program knows.
pub fn version(text: &str) -> bool {
    let (rest, build) = text.split_once('+').map_or((text, None), |(rest, build)| (rest, Some(build)));
    let (core, before) = rest.split_once('-').map_or((rest, None), |(core, before)| (core, Some(before)));
    let number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let word = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let numbers: Vec<&str> = core.split('.').collect();
    let plain = |part: &&str| number(part) && (part.len() == 1 || !part.starts_with('0'));
    numbers.len() == 3
        && numbers.iter().all(plain)
        && numbers[0] == "1"
        && before.is_none_or(|b| b.split('.').all(|p| word(p) && (!number(p) || plain(&p))))
        && build.is_none_or(|b| b.split('.').all(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(config: &str) -> Result<(), String> {
        let parsed: Spec = serde_json::from_str(config).unwrap();
        spec(&parsed).map_err(|e| e.to_string())
    }

    #[test]
    fn what_the_specification_forbids_is_refused_by_name() {
        for (config, why) in [
            (r#"{"annotations":{"":"x"}}"#, "empty key"),
            (r#"{"hooks":{"poststop":[{"path":"bin/x"}]}}"#, "hooks.poststop: the path `bin/x`"),
            (r#"{"hooks":{"prestart":[{"path":"/x","timeout":0}]}}"#, "timeout of `/x`"),
            (r#"{"linux":{"maskedPaths":["proc/kcore"]}}"#, "maskedPaths: `proc/kcore`"),
            (r#"{"linux":{"readonlyPaths":[""]}}"#, "readonlyPaths: ``"),
            (
                r#"{"linux":{"seccomp":{"defaultAction":"SCMP_ACT_KILL","defaultErrnoRet":1}}}"#,
                "defaultErrnoRet is for",
            ),
            (
                r#"{"linux":{"seccomp":{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW","errnoRet":1}]}}}"#,
                "the rule for `read`",
            ),
            (
                r#"{"linux":{"seccomp":{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":[],"action":"SCMP_ACT_ALLOW"}]}}}"#,
                "no names",
            ),
            (
                r#"{"linux":{"seccomp":{"defaultAction":"SCMP_ACT_ERRNO","listenerMetadata":"x"}}}"#,
                "needs a listenerPath",
            ),
        ] {
            let error = check(config).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        check(r#"{"linux":{"seccomp":{"defaultAction":"SCMP_ACT_TRACE","defaultErrnoRet":1}}}"#).unwrap();
        check(r#"{"annotations":{"x":""},"hooks":{"poststop":[{"path":"/x","timeout":1}]}}"#).unwrap();
    }

    #[test]
    fn versions_are_semantic() {
        for good in ["1.0.0", "1.0.2-dev", "1.2.1", "1.0.0-rc5", "1.3.0+dev", "1.10.0-alpha.1+x.y-z"] {
            assert!(version(good), "{good}");
        }
        for bad in
            ["", "1", "1.0", "v1.0.0", "2.0.0", "0.5.0", "1.0.0-", "1.00.0", "1.0.0+", "1.0.x", "1.0.0-01"]
        {
            assert!(!version(bad), "{bad}");
        }
    }
}
