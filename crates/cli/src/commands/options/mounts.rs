//! `--mount`, `--tmpfs`, and what `--volume` leaves to the client.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use sampan_docker_api::host_config::{Mount, TmpfsOptions};

use crate::commands::parse_size;

/// `TARGET[:OPTIONS]` each.
pub(crate) fn tmpfs(list: &[String]) -> BTreeMap<String, String> {
    let split = list.iter().map(|text| text.split_once(':').unwrap_or((text, "")));
    split.map(|(target, options)| (target.to_owned(), options.to_owned())).collect()
}

/// A bind whose source is a path relative to here (`.` or `..`), with the whole path.
pub(crate) fn absolute(bind: &str) -> String {
    match bind.split_once(':') {
        Some((source, rest))
            if source == "." || source == ".." || source.starts_with("./") || source.starts_with("../") =>
        {
            match std::path::absolute(source) {
                Ok(path) => format!("{}:{rest}", clean(&path).display()),
                Err(_) => bind.to_owned(),
            }
        }
        _ => bind.to_owned(),
    }
}

/// A path without `.` and `..`; as Docker's client, this does not ask the file system.
pub(crate) fn clean(path: &std::path::Path) -> std::path::PathBuf {
    let mut out = std::path::PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => {
                out.pop();
            }
            std::path::Component::CurDir => {}
            part => out.push(part),
        }
    }
    out
}

/// The fields of a line of CSV: commas part them, quotes around a whole field keep commas, two quotes are one.
pub(crate) fn csv(text: &str) -> Result<Vec<String>> {
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let Some(quoted) = rest.strip_prefix('"') else {
            let (field, after) = match rest.split_once(',') {
                Some((field, after)) => (field, Some(after)),
                None => (rest, None),
            };
            if field.contains('"') {
                bail!("bare quote in `{text}`: put quotes around the whole field");
            }
            fields.push(field.to_owned());
            match after {
                Some(after) => rest = after,
                None => return Ok(fields),
            }
            continue;
        };
        let mut field = String::new();
        let mut left = quoted;
        loop {
            let Some((part, after)) = left.split_once('"') else { bail!("a quote does not end in `{text}`") };
            field += part;
            match after.strip_prefix('"') {
                Some(after) => {
                    field.push('"');
                    left = after;
                }
                None => {
                    left = after;
                    break;
                }
            }
        }
        fields.push(field);
        match left.strip_prefix(',') {
            Some(after) => rest = after,
            None if left.is_empty() => return Ok(fields),
            None => bail!("a field of `{text}` goes on behind its quote"),
        }
    }
}

/// `type=bind|volume|tmpfs,source=…,target=…[,readonly][,…]`.
pub(crate) fn mount(text: &str) -> Result<Mount> {
    let mut mount = Mount { kind: "volume".to_owned(), ..Mount::default() };
    let mut tmpfs = TmpfsOptions::default();
    let mut of_kind: Option<(&str, String)> = None;
    for field in csv(text)? {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_lowercase(), Some(value)),
            None => (field.to_lowercase(), None),
        };
        let invalid = || format!("invalid value for {key} in --mount `{text}`");
        // A field without a value is a switch.
        let switch = || match value {
            None | Some("true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(_) => Err(anyhow::Error::msg(invalid())),
        };
        let value_of = || value.with_context(|| format!("invalid field '{field}' must be a key=value pair"));
        match key.as_str() {
            "type" => mount.kind = value_of()?.to_lowercase(),
            "source" | "src" => value_of()?.clone_into(&mut mount.source),
            "target" | "dst" | "destination" => value_of()?.clone_into(&mut mount.target),
            "readonly" | "ro" => mount.read_only = switch()?,
            "consistency" => {}
            "bind-propagation" => {
                mount.bind_options.get_or_insert_default().propagation = value_of()?.to_lowercase();
            }
            "bind-nonrecursive" => mount.bind_options.get_or_insert_default().non_recursive = switch()?,
            "bind-recursive" => {
                let options = mount.bind_options.get_or_insert_default();
                match value_of()? {
                    "enabled" => {}
                    "disabled" => options.non_recursive = true,
                    "writable" => options.read_only_non_recursive = true,
                    "readonly" => options.read_only_force_recursive = true,
                    _ => bail!("{}: enabled, disabled, writable or readonly", invalid()),
                }
            }
            "bind-create-src" => mount.bind_options.get_or_insert_default().create_mountpoint = switch()?,
            "volume-nocopy" => mount.volume_options.get_or_insert_default().no_copy = switch()?,
            "volume-subpath" => {
                value_of()?.clone_into(&mut mount.volume_options.get_or_insert_default().subpath)
            }
            "volume-label" => {
                let (name, label) = value_of()?.split_once('=').unwrap_or((value_of()?, ""));
                let labels = &mut mount.volume_options.get_or_insert_default().labels;
                labels.insert(name.to_owned(), label.to_owned());
            }
            "volume-driver" => {
                let options = mount.volume_options.get_or_insert_default();
                value_of()?.clone_into(&mut options.driver_config.get_or_insert_default().name);
            }
            "volume-opt" => {
                let (name, option) = value_of()?.split_once('=').unwrap_or((value_of()?, ""));
                let options = mount.volume_options.get_or_insert_default();
                let driver = options.driver_config.get_or_insert_default();
                driver.options.insert(name.to_owned(), option.to_owned());
            }
            "tmpfs-size" => tmpfs.size_bytes = parse_size(value_of()?).map_err(anyhow::Error::msg)?,
            "tmpfs-mode" => tmpfs.mode = u32::from_str_radix(value_of()?, 8).with_context(invalid)?,
            _ => bail!("unexpected key '{key}' in '{field}' of --mount `{text}`"),
        }
        for kind in ["bind", "volume", "tmpfs"] {
            if key.strip_prefix(kind).is_some_and(|rest| rest.starts_with('-')) {
                of_kind = Some((kind, key.clone()));
            }
        }
    }
    if mount.target.is_empty() {
        bail!("invalid --mount `{text}`: target is required");
    }
    if let Some((kind, key)) = of_kind.filter(|(kind, _)| *kind != mount.kind) {
        bail!(
            "cannot mix '{key}' with mount type '{}' in --mount `{text}`: it is of type {kind}",
            mount.kind
        );
    }
    if mount.kind == "bind" && !mount.source.is_empty() {
        mount.source = clean(&std::path::absolute(&mount.source)?).display().to_string();
    }
    if mount.kind == "tmpfs" {
        mount.tmpfs_options = Some(tmpfs);
    }
    Ok(mount)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_csv() {
        assert_eq!(csv("a,\"b,c\",\"d\"\"e\"").unwrap(), ["a", "b,c", "d\"e"]);
        for bad in ["\"open", "a\"b", "\"a\"b"] {
            assert!(csv(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn mounts_are_read() {
        let m = mount("type=bind,src=/a,dst=/b,readonly,bind-propagation=rslave").unwrap();
        assert_eq!(
            (m.kind.as_str(), m.source.as_str(), m.target.as_str(), m.read_only),
            ("bind", "/a", "/b", true)
        );
        assert_eq!(m.bind_options.unwrap().propagation, "rslave");
        let m = mount(
            "source=data,target=/d,ro=false,volume-nocopy,volume-driver=local,\"volume-opt=o=size=1m,uid=3\"",
        )
        .unwrap();
        let options = m.volume_options.unwrap();
        assert!(options.no_copy && !m.read_only);
        assert_eq!(options.driver_config.unwrap().options["o"], "size=1m,uid=3");
        let m = mount("type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=1770").unwrap();
        assert_eq!(
            m.tmpfs_options.unwrap(),
            TmpfsOptions { size_bytes: 1 << 20, mode: 0o1770, options: None }
        );
        for bad in [
            "type=bind,src=/a",
            "target=/t,what=1",
            "target=/t,readonly=maybe",
            "type=tmpfs,target=/t,volume-nocopy",
            "target",
            "type=tmpfs,target=/t,tmpfs-mode=9",
        ] {
            assert!(mount(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn relative_sources_are_made_whole() {
        let here = std::env::current_dir().unwrap();
        assert_eq!(absolute("./x:/y:ro"), format!("{}/x:/y:ro", here.display()));
        assert_eq!(absolute("name:/y"), "name:/y");
        assert_eq!(tmpfs(&["/t:size=1m".into(), "/u".into()])["/t"], "size=1m");
    }
}
