//! Variables and labels, from the command line and from files.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

/// `NAME=value`; a name alone takes this program's value, if it has one. Files come first, so that flags win.
pub(crate) fn environment(given: &[String], files: &[String]) -> Result<Vec<String>> {
    let mut variables = Vec::new();
    for file in files {
        variables.extend(read_lines(file, "environment")?);
    }
    variables.extend(given.iter().cloned());
    let mut complete = Vec::new();
    for line in variables {
        match line.split_once('=') {
            Some(("", _)) => bail!("invalid environment variable: {line}"),
            Some(_) => complete.push(line),
            None if line.is_empty() => bail!("invalid environment variable: it has no name"),
            None => complete.extend(std::env::var(&line).ok().map(|value| format!("{line}={value}"))),
        }
    }
    Ok(complete)
}

/// `NAME=value`, from flags and files; flags win.
pub(crate) fn labels(given: &[String], files: &[String]) -> Result<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    for file in files {
        all.extend(super::pairs(&read_lines(file, "labels")?));
    }
    all.extend(super::pairs(given));
    Ok(all)
}

/// The lines of a file that say something: `NAME=value` or `NAME`, without spaces in the name.
fn read_lines(file: &str, what: &str) -> Result<Vec<String>> {
    let text =
        std::fs::read_to_string(file).with_context(|| format!("cannot read the {what} from `{file}`"))?;
    let mut lines = Vec::new();
    for (at, line) in text.strip_prefix('\u{feff}').unwrap_or(&text).lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let name = line.split_once('=').map_or(line, |(name, _)| name);
        if name.is_empty() {
            bail!("{file}:{}: no variable name on line '{line}'", at + 1);
        }
        if name.contains([' ', '\t']) {
            bail!("{file}:{}: variable '{name}' contains whitespaces", at + 1);
        }
        lines.push(line.to_owned());
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_come_first_and_names_alone_are_looked_up() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("env");
        std::fs::write(&file, "# a note\n\n  A=1 # kept\nSAMPAN_NOT_SET\nB=\"quoted\"\nPATH\n").unwrap();
        let file = file.to_str().unwrap().to_owned();
        let read = environment(&["A=2".into()], std::slice::from_ref(&file)).unwrap();
        let path = format!("PATH={}", std::env::var("PATH").unwrap());
        assert_eq!(read, ["A=1 # kept", "B=\"quoted\"", &path, "A=2"]);
        let read = labels(&["A=3".into(), "alone".into()], &[file]).unwrap();
        assert_eq!((read["A"].as_str(), read["alone"].as_str()), ("3", ""));
        let bad = dir.path().join("bad");
        for text in ["a b=1\n", "=1\n"] {
            std::fs::write(&bad, text).unwrap();
            assert!(environment(&[], &[bad.to_str().unwrap().to_owned()]).is_err(), "{text}");
        }
        assert!(environment(&["=x".into()], &[]).is_err());
    }
}
