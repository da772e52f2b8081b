//! The flags of `sampan build` that have fields of their own.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::Serialize;

/// `key=value,key=value`, values perhaps in quotes, as CSV has it.
pub(super) fn fields(text: &str) -> Result<Vec<(String, Option<String>)>> {
    let mut fields = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let field;
        if let Some(quoted) = rest.strip_prefix('"') {
            let (inside, after) =
                quoted.split_once('"').with_context(|| format!("a quote does not end in `{text}`"))?;
            (field, rest) = (inside, after.strip_prefix(',').unwrap_or(after));
        } else {
            (field, rest) = rest.split_once(',').unwrap_or((rest, ""));
        }
        fields.push(match field.split_once('=') {
            Some((key, value)) => (key.trim().to_lowercase(), Some(value.to_owned())),
            None => (field.trim().to_owned(), None),
        });
    }
    Ok(fields)
}

/// `--secret id=ID[,src=FILE|,env=NAME]`: its id and what it is.
pub(super) fn secret(text: &str) -> Result<(String, Vec<u8>)> {
    let (mut id, mut file, mut variable) = (None, None, None);
    for (key, value) in fields(text)? {
        match (key.as_str(), value) {
            ("id", Some(value)) => id = Some(value),
            ("src" | "source", Some(value)) => file = Some(value),
            ("env", Some(value)) => variable = Some(value),
            ("type", Some(kind)) if kind == "file" || kind == "env" => {}
            ("type", Some(kind)) => bail!("unsupported secret type `{kind}`"),
            (key, _) => bail!("unexpected field `{key}` in --secret `{text}`"),
        }
    }
    let id = id.with_context(|| format!("--secret `{text}` has no id"))?;
    let value = match (file, variable) {
        (Some(_), Some(_)) => bail!("--secret `{id}` can't be both a file and a variable"),
        (Some(file), None) => {
            std::fs::read(&file).with_context(|| format!("cannot read the secret `{id}` from `{file}`"))?
        }
        (None, variable) => {
            // As docker: without a source, a variable of the id's name, or a file.
            let name = variable.clone().unwrap_or_else(|| id.clone());
            match (std::env::var_os(&name), variable) {
                (Some(value), _) => std::os::unix::ffi::OsStringExt::into_vec(value),
                (None, Some(_)) => bail!("the secret `{id}`: the variable `{name}` is not set"),
                (None, None) => std::fs::read(&id)
                    .with_context(|| format!("the secret `{id}` is neither a variable nor a file"))?,
            }
        }
    };
    Ok((id, value))
}

/// `--ssh default`, `--ssh ID`, `--ssh ID=SOCKET`: its id and the agent's socket.
pub(super) fn ssh(text: &str) -> Result<(String, PathBuf)> {
    let (id, path) = text.split_once('=').map_or((text, None), |(id, path)| (id, Some(path)));
    let socket = match path {
        Some(path) => PathBuf::from(path),
        None => std::env::var_os("SSH_AUTH_SOCK")
            .map(PathBuf::from)
            .with_context(|| format!("--ssh {id}: no SSH agent: SSH_AUTH_SOCK is not set"))?,
    };
    let about = std::fs::metadata(&socket)
        .with_context(|| format!("--ssh {id}: no SSH agent at `{}`", socket.display()))?;
    if !std::os::unix::fs::FileTypeExt::is_socket(&about.file_type()) {
        bail!(
            "--ssh {id}: `{}` is no agent's socket; keys are not supported: add them to an agent (ssh-add)",
            socket.display()
        );
    }
    Ok((id.to_owned(), std::path::absolute(socket)?))
}

/// `--cache-from`, `--cache-to`: fields, with `directory` made absolute; a single word is an image.
pub(super) fn cache(text: &str, directory: &str) -> Result<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    for (key, value) in fields(text)? {
        match value {
            Some(value) if key == directory => {
                all.insert(key, std::path::absolute(value)?.display().to_string());
            }
            Some(value) => {
                all.insert(key, value);
            }
            None => {
                all.insert("type".to_owned(), "registry".to_owned());
                all.insert("ref".to_owned(), key);
            }
        }
    }
    Ok(all)
}

/// As Docker's API has it.
#[derive(Serialize, Debug, PartialEq)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Ulimit {
    name: String,
    soft: i64,
    hard: i64,
}

/// `nofile=1024:2048`, `nofile=1024`.
pub(super) fn ulimit(text: &str) -> Result<Ulimit> {
    let wrong = || format!("invalid --ulimit `{text}`: it is NAME=SOFT[:HARD]");
    let (name, values) = text.split_once('=').with_context(wrong)?;
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let (soft, hard) = (soft.parse().with_context(wrong)?, hard.parse().with_context(wrong)?);
    Ok(Ulimit { name: name.to_owned(), soft, hard })
}

/// `512m`, `1g`, `1048576`: bytes, as text for a parameter.
pub(super) fn bytes(text: &str) -> Result<String> {
    let parsed = crate::commands::parse_size(text).map_err(anyhow::Error::msg)?;
    Ok(parsed.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_may_be_quoted() {
        let text = "type=local,\"dest=/a,b\",plain";
        let read = fields(text).unwrap();
        let shown: Vec<_> =
            read.iter().map(|(k, v)| format!("{k}={}", v.as_deref().unwrap_or("-"))).collect();
        assert_eq!(shown, ["type=local", "dest=/a,b", "plain=-"]);
        assert!(fields("\"open").is_err());
    }

    #[test]
    fn secrets_come_from_files_and_variables() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("s");
        std::fs::write(&file, "from the file").unwrap();
        let read = secret(&format!("id=a,src={}", file.display())).unwrap();
        assert_eq!(read, ("a".to_owned(), b"from the file".to_vec()));
        assert_eq!(secret("id=PATH").unwrap().1, std::env::var("PATH").unwrap().into_bytes());
        for wrong in ["src=x", "id=a,src=/none", "id=a,env=SAMPAN_NOT_SET", "id=a,src=x,env=y", "id=a,what=x"]
        {
            assert!(secret(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn limits_and_caches() {
        assert_eq!(ulimit("nofile=10:20").unwrap(), Ulimit { name: "nofile".into(), soft: 10, hard: 20 });
        assert!(ulimit("nofile").is_err() && ulimit("nofile=x").is_err());
        assert_eq!(cache("host/image:tag", "src").unwrap()["ref"], "host/image:tag");
        assert!(cache("type=local,src=here", "src").unwrap()["src"].starts_with('/'));
    }
}
