//! A seccomp profile of one's own (`--security-opt seccomp=FILE`), in Docker's form: rules that hold only for some
//! architectures, capabilities or kernels are kept or left out here, and what remains is the OCI runtime's form.

use sampan_oci::runtime::{LinuxSeccomp, SeccompAction, SeccompArg, SeccompSyscall};
use serde::Deserialize;

/// The architecture of this program, in Go's word and in seccomp's.
#[cfg(target_arch = "x86_64")]
const HERE: (&str, &str) = ("amd64", "SCMP_ARCH_X86_64");
#[cfg(target_arch = "aarch64")]
const HERE: (&str, &str) = ("arm64", "SCMP_ARCH_AARCH64");

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Profile {
    default_action: Option<SeccompAction>,
    default_errno_ret: Option<u32>,
    #[serde(deserialize_with = "nullable")]
    architectures: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    arch_map: Vec<Architecture>,
    #[serde(deserialize_with = "nullable")]
    flags: Vec<String>,
    listener_path: Option<String>,
    listener_metadata: Option<String>,
    #[serde(deserialize_with = "nullable")]
    syscalls: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Architecture {
    architecture: String,
    #[serde(default, deserialize_with = "nullable")]
    sub_architectures: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    #[serde(default)]
    name: String,
    #[serde(default, deserialize_with = "nullable")]
    names: Vec<String>,
    action: SeccompAction,
    #[serde(default)]
    errno_ret: Option<u32>,
    #[serde(default, deserialize_with = "nullable")]
    args: Vec<SeccompArg>,
    #[serde(default, deserialize_with = "nullable")]
    includes: Condition,
    #[serde(default, deserialize_with = "nullable")]
    excludes: Condition,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Condition {
    #[serde(deserialize_with = "nullable")]
    caps: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    arches: Vec<String>,
    min_kernel: Option<String>,
}

fn nullable<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(d: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

/// The filter of a profile for a container with these capabilities on a kernel of this release; `None` if the profile
/// filters nothing.
///
/// # Errors
/// A sentence for people.
pub(crate) fn filter(
    json: &str,
    capabilities: &[String],
    kernel: &str,
) -> Result<Option<LinuxSeccomp>, String> {
    let failed = |error: String| format!("Decoding seccomp profile failed: {error}");
    let profile: Profile = serde_json::from_str(json).map_err(|e| failed(e.to_string()))?;
    let Some(default_action) = profile.default_action else {
        return if profile.syscalls.is_empty() {
            Ok(None)
        } else {
            Err(failed("no defaultAction".to_owned()))
        };
    };
    if !profile.architectures.is_empty() && !profile.arch_map.is_empty() {
        return Err(
            "both 'architectures' and 'archMap' are specified in the seccomp profile, use either 'architectures' or 'archMap'"
                .to_owned(),
        );
    }
    let mut architectures = profile.architectures;
    for entry in profile.arch_map.into_iter().filter(|entry| entry.architecture == HERE.1) {
        architectures.push(entry.architecture);
        architectures.extend(entry.sub_architectures);
    }
    let mut syscalls = Vec::new();
    for rule in profile.syscalls {
        if !rule.name.is_empty() && !rule.names.is_empty() {
            return Err("both 'name' and 'names' are specified in the seccomp profile".to_owned());
        }
        if !holds(&rule, capabilities, kernel)? {
            continue;
        }
        let names = if rule.name.is_empty() { rule.names } else { vec![rule.name] };
        syscalls.push(SeccompSyscall {
            names,
            action: rule.action,
            errno_ret: rule.errno_ret,
            args: rule.args,
        });
    }
    Ok(Some(LinuxSeccomp {
        default_action,
        default_errno_ret: profile.default_errno_ret,
        architectures,
        flags: profile.flags,
        listener_path: profile.listener_path,
        listener_metadata: profile.listener_metadata,
        syscalls,
    }))
}

fn holds(rule: &Rule, capabilities: &[String], kernel: &str) -> Result<bool, String> {
    let (only, never) = (&rule.includes, &rule.excludes);
    let has = |name: &String| capabilities.contains(name);
    let is_here = |name: &String| name == HERE.0;
    let at_least = |wanted: &Option<String>| wanted.as_deref().map(|w| is_at_least(kernel, w)).transpose();
    let excluded = never.arches.iter().any(is_here)
        || never.caps.iter().any(has)
        || at_least(&never.min_kernel)?.unwrap_or(false);
    let included = (only.arches.is_empty() || only.arches.iter().any(is_here))
        && only.caps.iter().all(has)
        && at_least(&only.min_kernel)?.unwrap_or(true);
    Ok(included && !excluded)
}

/// Whether a kernel's release, `6.1.0-13-amd64`, is at least `major.minor`.
fn is_at_least(release: &str, wanted: &str) -> Result<bool, String> {
    let numbers = |text: &str| {
        let mut parts = text.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
        match (parts.next(), parts.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => Some((major, minor)),
            _ => None,
        }
    };
    let wanted = numbers(wanted).ok_or_else(|| format!("invalid kernel version: {wanted:?}"))?;
    Ok(numbers(release).is_some_and(|release| release >= wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_hold_by_architecture_capability_and_kernel() {
        let json = r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":1,
            "archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86"]},
                       {"architecture":"SCMP_ARCH_AARCH64","subArchitectures":null}],
            "syscalls":[
              {"names":["read"],"action":"SCMP_ACT_ALLOW","args":[],"comment":"","includes":{},"excludes":{}},
              {"name":"old","action":"SCMP_ACT_ALLOW","args":null},
              {"names":["mount"],"action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_SYS_ADMIN"]}},
              {"names":["chown"],"action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_CHOWN"]}},
              {"names":["noadmin"],"action":"SCMP_ACT_ERRNO","errnoRet":38,"excludes":{"caps":["CAP_SYS_ADMIN"]}},
              {"names":["s390"],"action":"SCMP_ACT_ALLOW","includes":{"arches":["s390x"]}},
              {"names":["ptrace"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"4.8"}},
              {"names":["future"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"99.0"}},
              {"names":["past"],"action":"SCMP_ACT_ALLOW","excludes":{"minKernel":"4.8"}},
              {"names":["clone"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":2114060288,"op":"SCMP_CMP_MASKED_EQ"}]}
            ]}"#;
        let found = filter(json, &["CAP_CHOWN".to_owned()], "6.1.0-13-amd64").unwrap().unwrap();
        let names: Vec<&str> = found.syscalls.iter().flat_map(|s| &s.names).map(String::as_str).collect();
        assert_eq!(names, ["read", "old", "chown", "noadmin", "ptrace", "clone"]);
        assert_eq!(found.architectures.first().map(String::as_str), Some(HERE.1));
        assert_eq!(found.syscalls[5].args[0].value, 2_114_060_288);
    }

    #[test]
    fn profiles_that_are_none_are_refused() {
        let check = |json: &str| filter(json, &[], "6.1").map(|f| f.is_some());
        assert_eq!(check("{}"), Ok(false));
        assert!(check("{bad").unwrap_err().starts_with("Decoding seccomp profile failed"));
        assert!(check(r#"{"syscalls":[{"name":"x","action":"SCMP_ACT_ALLOW"}]}"#).is_err());
        assert!(check(r#"{"defaultAction":"SCMP_ACT_WHAT"}"#).is_err());
        let both = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"name":"x","names":["y"],"action":"SCMP_ACT_ALLOW"}]}"#;
        assert!(check(both).unwrap_err().contains("both 'name' and 'names'"));
    }
}
