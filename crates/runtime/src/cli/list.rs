//! `state`, `list` and `ps`: what is known about containers, in the shapes that runc's callers read.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use sampan_oci::runtime::Status;
use serde::Serialize;

use super::arguments::Parsed;
use super::{Context, Failure, print, to_json};
use crate::cgroup;
use crate::error::Refused;
use crate::state::{Directory, LookupError, Record};

/// What `state` and `list` tell about a container: the specification's state, and more.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    oci_version: String,
    id: String,
    pid: i32,
    status: &'static str,
    bundle: PathBuf,
    rootfs: PathBuf,
    created: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
    owner: String,
}

impl Shown {
    fn new(directory: &Directory, record: Record) -> Shown {
        let status = directory.status(&record);
        Shown {
            pid: if status == Status::Stopped { 0 } else { record.pid },
            status: status.name(),
            created: record.created.to_string(),
            oci_version: record.oci_version,
            id: record.id,
            bundle: record.bundle,
            rootfs: record.rootfs,
            annotations: record.annotations,
            owner: String::new(),
        }
    }
}

pub(super) fn state(context: &Context, parsed: &Parsed) -> Result<u8, Failure> {
    let (directory, record) = context.root.find(&parsed.rest[0])?;
    let text = serde_json::to_string_pretty(&Shown::new(&directory, record))?;
    print(&format!("{text}\n"))?;
    Ok(0)
}

pub(super) fn list(context: &Context, parsed: &Parsed) -> Result<u8, Failure> {
    let ids = match context.root.ids() {
        // Nobody has made a container yet.
        Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        other => other?,
    };
    let mut shown = Vec::new();
    for id in ids {
        match context.root.find(&id) {
            Ok((directory, record)) => {
                let owner = record.owner;
                let mut one = Shown::new(&directory, record);
                one.owner = user_name(owner);
                shown.push(one);
            }
            // Deleted since, or not remembered yet.
            Err(LookupError::NotFound { .. }) => {}
            // One that can't be read must not hide the others.
            Err(error) => context.log.warn(&sampan_base::chain(&error)),
        }
    }
    let text = if parsed.has("quiet") {
        shown.iter().map(|one| format!("{}\n", one.id)).collect()
    } else {
        match parsed.get("format") {
            None | Some("table") => table(&shown),
            // An empty list is `null` to runc's callers.
            Some("json") if shown.is_empty() => "null\n".to_owned(),
            Some("json") => to_json(&shown)? + "\n",
            Some(other) => return Err(Refused::Invalid(format!("unknown format `{other}`")).into()),
        }
    };
    print(&text)?;
    Ok(0)
}

fn table(shown: &[Shown]) -> String {
    let mut rows = vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned)];
    rows.extend(shown.iter().map(|one| {
        [
            one.id.clone(),
            one.pid.to_string(),
            one.status.to_owned(),
            one.bundle.display().to_string(),
            one.created.clone(),
            one.owner.clone(),
        ]
    }));
    const LEAST: usize = 12;
    const GAP: usize = 3;
    let width = |column: usize| {
        rows.iter().map(|row| row[column].chars().count() + GAP).max().unwrap_or(0).max(LEAST)
    };
    let widths: [usize; 6] = std::array::from_fn(width);
    let line = |row: &[String; 6]| {
        let mut text = String::new();
        for (cell, width) in row[..5].iter().zip(widths) {
            text.push_str(&format!("{cell:<width$}"));
        }
        text + &row[5] + "\n"
    };
    rows.iter().map(line).collect()
}

/// A user's name by the host's passwd, or the number.
fn user_name(uid: u32) -> String {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    };
    passwd.lines().find_map(name).unwrap_or_else(|| format!("#{uid}"))
}

pub(super) fn ps(context: &Context, parsed: &Parsed) -> Result<u8, Failure> {
    let (_, record) = context.root.find(&parsed.rest[0])?;
    let pids = cgroup::processes(&record.cgroups)?;
    match parsed.get("format") {
        Some("json") => print(&(to_json(&pids)? + "\n"))?,
        None | Some("table") => {
            let options: &[String] = &parsed.rest[1..];
            let options = if options.is_empty() { &["-ef".to_owned()][..] } else { options };
            let output =
                Command::new("ps").args(options).output().map_err(crate::error::Step::on(|| "run `ps`"))?;
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                return Err(Refused::Invalid(format!("`ps` failed: {said}")).into());
            }
            print(&only(&String::from_utf8_lossy(&output.stdout), &pids)?)?;
        }
        Some(other) => return Err(Refused::Invalid(format!("unknown format `{other}`")).into()),
    }
    Ok(0)
}

/// The lines of ps's table that are about some processes.
fn only(table: &str, pids: &[i32]) -> Result<String, Refused> {
    let mut lines = table.lines();
    let header = lines.next().unwrap_or_default();
    let column = header.split_whitespace().position(|title| title == "PID");
    let column = column.ok_or_else(|| Refused::Invalid("ps shows no PID column".to_owned()))?;
    let of_ours = |line: &&str| {
        let pid = line.split_whitespace().nth(column).and_then(|pid| pid.parse().ok());
        pid.is_some_and(|pid: i32| pids.contains(&pid))
    };
    Ok([header].into_iter().chain(lines.filter(of_ours)).map(|line| format!("{line}\n")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ps_is_cut_down_to_the_container() {
        let table = "UID   PID  PPID CMD\nroot    1     0 init\nroot   12     1 sh 7\nroot    7     1 x\n";
        assert_eq!(only(table, &[7]).unwrap(), "UID   PID  PPID CMD\nroot    7     1 x\n");
        assert!(only("CMD\nsh\n", &[7]).is_err());
    }

    #[test]
    fn the_table_is_padded() {
        assert_eq!(table(&[]), "ID          PID         STATUS      BUNDLE      CREATED     OWNER\n");
    }
}
