//! `--security-opt`: a seccomp profile is a file of the client's, and goes to the daemon as what is in it.

use anyhow::{Context, Result, bail};

/// The longest profile that is sent.
const MAX_PROFILE_BYTES: u64 = 8 << 20;

/// Options as the API takes them.
pub(crate) fn options(list: &[String]) -> Result<Vec<String>> {
    let mut options = Vec::new();
    for text in list {
        if text == "no-new-privileges" || text.starts_with("no-new-privileges") {
            options.push(text.clone());
            continue;
        }
        // `name:value` is what clients wrote before there was `name=value`.
        let split = text.split_once('=').or_else(|| text.split_once(':'));
        match split {
            Some(("seccomp", profile)) if !matches!(profile, "unconfined" | "builtin" | "default") => {
                let failed = || format!("opening seccomp profile ({profile}) failed");
                let about = std::fs::metadata(profile).with_context(failed)?;
                if about.len() > MAX_PROFILE_BYTES {
                    bail!("{}: it has more than {} MiB", failed(), MAX_PROFILE_BYTES >> 20);
                }
                let read = std::fs::read(profile).with_context(failed)?;
                let parsed: serde_json::Value = serde_json::from_slice(&read)
                    .with_context(|| format!("compacting json for seccomp profile ({profile}) failed"))?;
                options.push(format!("seccomp={parsed}"));
            }
            Some((name, value)) => options.push(format!("{name}={value}")),
            None => bail!("invalid --security-opt: {text:?}"),
        }
    }
    Ok(options)
}

/// Capabilities to add and to drop by their whole names: `ALL` stands for all others, and what is added is not dropped.
pub(crate) fn capabilities(add: &[String], drop: &[String]) -> (Option<Vec<String>>, Option<Vec<String>>) {
    let names = |list: &[String]| {
        let whole = |text: &String| {
            let upper = text.trim().to_uppercase();
            if upper == "ALL" || upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") }
        };
        let all: std::collections::BTreeSet<String> = list.iter().map(whole).collect();
        if all.contains("ALL") { std::collections::BTreeSet::from(["ALL".to_owned()]) } else { all }
    };
    let (add, mut drop) = (names(add), names(drop));
    drop.retain(|name| !add.contains(name));
    let some = |set: std::collections::BTreeSet<String>| (!set.is_empty()).then(|| set.into_iter().collect());
    (some(add), some(drop))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_have_whole_names() {
        let list = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let (add, drop) = capabilities(&list(&["net_admin", "CAP_CHOWN"]), &list(&["mknod", "chown"]));
        assert_eq!(
            (add.unwrap(), drop.unwrap()),
            (list(&["CAP_CHOWN", "CAP_NET_ADMIN"]), list(&["CAP_MKNOD"]))
        );
        let (add, drop) = capabilities(&list(&["all", "x"]), &[]);
        assert_eq!((add.unwrap(), drop), (list(&["ALL"]), None));
    }

    #[test]
    fn profiles_are_read_here() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("p.json");
        std::fs::write(&file, "{ \"defaultAction\": \"SCMP_ACT_ALLOW\" }\n").unwrap();
        let text = format!("seccomp={}", file.display());
        assert_eq!(options(&[text]).unwrap(), [r#"seccomp={"defaultAction":"SCMP_ACT_ALLOW"}"#]);
        let kept = ["seccomp=unconfined", "no-new-privileges", "no-new-privileges:true", "label=disable"];
        assert_eq!(options(&kept.map(str::to_owned)).unwrap(), kept);
        std::fs::write(&file, "no json").unwrap();
        for bad in [format!("seccomp={}", file.display()), "seccomp=/none".into(), "what".into()] {
            assert!(options(&[bad]).is_err());
        }
    }
}
