//! Privileges: capabilities, `--security-opt`, hidden paths. The sentences are Docker's.

use sampan_docker_api::host_config::HostConfig;
use sampan_engine::spec::{SeccompChoice, Security};

use super::super::error::{Answer, ApiError};

/// The longest seccomp profile that is read, in bytes; Docker's default one has 13 KB.
const MAX_PROFILE_BYTES: usize = 1 << 20;

pub(super) fn security(host: &HostConfig) -> Answer<Security> {
    let options = host.security_opt.clone().unwrap_or_default();
    let mut security = Security {
        privileged: host.privileged,
        cap_add: capabilities("CapAdd", host.cap_add.as_deref())?,
        cap_drop: capabilities("CapDrop", host.cap_drop.as_deref())?,
        read_only_root: host.readonly_rootfs,
        masked_paths: host.masked_paths.clone(),
        readonly_paths: host.readonly_paths.clone(),
        ..Security::default()
    };
    for option in &options {
        if option == "no-new-privileges" {
            security.no_new_privileges = true;
            continue;
        }
        // Older clients write `key:value`.
        let (key, value) = option
            .split_once('=')
            .or_else(|| option.split_once(':'))
            .ok_or_else(|| ApiError::invalid(format!("invalid --security-opt 1: {option:?}")))?;
        match (key, value) {
            ("no-new-privileges", _) => {
                security.no_new_privileges = match value {
                    "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
                    "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
                    _ => return Err(ApiError::invalid(format!("invalid --security-opt 2: {option:?}"))),
                }
            }
            ("seccomp", "unconfined") => security.seccomp = SeccompChoice::Unconfined,
            ("seccomp", "builtin" | "default") => security.seccomp = SeccompChoice::Default,
            ("seccomp", profile) => {
                if profile.len() > MAX_PROFILE_BYTES {
                    return Err(ApiError::invalid("the seccomp profile is too long"));
                }
                security.seccomp = SeccompChoice::Profile(profile.to_owned());
            }
            ("systempaths", "unconfined") => {
                (security.masked_paths, security.readonly_paths) = (Some(Vec::new()), Some(Vec::new()));
            }
            // What a kernel without these modules can't confine stays as it is, as with a Docker engine on such a host.
            ("apparmor" | "label", _) => {}
            _ => return Err(ApiError::invalid(format!("invalid --security-opt 2: {option:?}"))),
        }
    }
    security.options = options;
    Ok(security)
}

/// Capabilities in the form in which Docker shows them again.
fn capabilities(field: &str, given: Option<&[String]>) -> Answer<Vec<String>> {
    let mut list = Vec::new();
    for name in given.unwrap_or_default() {
        let upper = name.to_uppercase();
        let full = match upper.as_str() {
            "ALL" => upper,
            name if name.starts_with("CAP_") => upper,
            name => format!("CAP_{name}"),
        };
        if full != "ALL" && !sampan_engine::spec::is_capability(&full) {
            return Err(ApiError::invalid(format!("invalid {field}: unknown capability: {full:?}")));
        }
        if !list.contains(&full) {
            list.push(full);
        }
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_nonsense_refused() {
        let check = |json: &str| security(&serde_json::from_str(json).unwrap()).map_err(|e| e.message);
        let read =
            check(r#"{"SecurityOpt":["no-new-privileges","seccomp={}","apparmor=x","label=disable"]}"#)
                .unwrap();
        assert!(read.no_new_privileges);
        assert_eq!(read.seccomp, SeccompChoice::Profile("{}".to_owned()));
        assert_eq!(read.options.len(), 4);
        let read = check(
            r#"{"SecurityOpt":["systempaths=unconfined"],"CapAdd":["net_admin","CAP_NET_ADMIN","all"]}"#,
        )
        .unwrap();
        assert_eq!(
            (read.masked_paths, read.cap_add),
            (Some(Vec::new()), vec!["CAP_NET_ADMIN".to_owned(), "ALL".to_owned()])
        );
        for (json, words) in [
            (r#"{"SecurityOpt":["x"]}"#, "invalid --security-opt 1: \"x\""),
            (r#"{"SecurityOpt":["x=y"]}"#, "invalid --security-opt 2: \"x=y\""),
            (r#"{"CapDrop":["what"]}"#, "invalid CapDrop: unknown capability: \"CAP_WHAT\""),
        ] {
            assert_eq!(check(json).unwrap_err(), words);
        }
    }
}
