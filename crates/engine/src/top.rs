//! The processes of a container, as the host sees them: read from /proc, or, with arguments of one's own, by the host's `ps`.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use crate::container::run;
use crate::container::state::Verb;
use crate::error::{EngineError, Result};
use crate::{Engine, blocking};

/// More arguments than these are no question about processes.
const MAX_ARGUMENTS: usize = 32;

/// A process of a container, as the host sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessRow {
    /// Process id.
    pub pid: u32,
    /// Parent's process id.
    pub parent: u32,
    /// User id.
    pub uid: u32,
    /// Clock ticks of CPU time.
    pub cpu_ticks: u64,
    /// Clock ticks from the host's start to the process's.
    pub start_ticks: u64,
    /// Its terminal, 0: none.
    pub terminal: u64,
    /// Command and arguments.
    pub command: String,
}

/// Titles, and a row a process.
pub type Table = (Vec<String>, Vec<Vec<String>>);

impl Engine {
    /// The processes of a container.
    ///
    /// # Errors
    /// If it does not run.
    pub async fn top(&self, text: &str) -> Result<Vec<ProcessRow>> {
        let pids = self.pids(text).await?;
        Ok(blocking(move || pids.into_iter().filter_map(process_row).collect()).await)
    }

    /// As [`Engine::top`], with the columns that `ps` has for these arguments.
    ///
    /// # Errors
    /// If it does not run, or the host's `ps` is missing or does not take the arguments.
    pub async fn top_by_ps(&self, text: &str, arguments: Vec<String>) -> Result<Table> {
        if arguments.len() > MAX_ARGUMENTS {
            return Err(EngineError::Invalid("too many arguments for ps".to_owned()));
        }
        let pids: BTreeSet<u32> = self.pids(text).await?.into_iter().collect();
        blocking(move || {
            let mut command = Command::new("ps");
            command.args(&arguments).stdin(Stdio::null()).env_clear().env("LC_ALL", "C");
            command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
            let output = command.output().map_err(|error| match error.kind() {
                std::io::ErrorKind::NotFound => EngineError::Unsupported(
                    "the host has no ps (package procps), which other arguments than -ef are for".to_owned(),
                ),
                _ => EngineError::io("cannot run ps")(error),
            })?;
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr);
                return Err(EngineError::Invalid(format!("error running ps: {}", said.trim())));
            }
            select(&String::from_utf8_lossy(&output.stdout), &pids).map_err(EngineError::Invalid)
        })
        .await
    }

    async fn pids(&self, text: &str) -> Result<Vec<u32>> {
        let (_, live) = self.inner.find_container(text)?.live(Verb::Resize).await?;
        live.task.pids().await.map_err(run::shim_failed("cannot list the processes"))
    }
}

/// The rows of what ps printed that are of these processes.
fn select(printed: &str, pids: &BTreeSet<u32>) -> std::result::Result<Table, String> {
    let mut lines = printed.lines();
    let titles: Vec<String> = lines.next().unwrap_or("").split_whitespace().map(str::to_owned).collect();
    let at = titles.iter().position(|title| title == "PID").ok_or("Couldn't find PID field in ps output")?;
    let row = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let pid = fields.get(at)?.parse().ok()?;
        if !pids.contains(&pid) {
            return None;
        }
        // The last column, the command, may have spaces.
        let last = titles.len() - 1;
        let (own, rest) = fields.split_at(last.min(fields.len()));
        Some(own.iter().map(|f| (*f).to_owned()).chain([rest.join(" ")]).collect())
    };
    Ok((titles.clone(), lines.filter_map(row).collect()))
}

/// A process of /proc; `None` if it has gone.
fn process_row(pid: u32) -> Option<ProcessRow> {
    use std::os::unix::fs::MetadataExt;
    let directory = std::path::PathBuf::from(format!("/proc/{pid}"));
    let uid = std::fs::metadata(&directory).ok()?.uid();
    let stat = std::fs::read_to_string(directory.join("stat")).ok()?;
    // The name in parentheses may hold anything, also parentheses (proc(5)).
    let (head, tail) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = tail.split_whitespace().collect();
    let number = |i: usize| fields.get(i).and_then(|f| f.parse::<u64>().ok());
    let arguments = std::fs::read(directory.join("cmdline")).ok()?;
    let command = if arguments.is_empty() {
        format!("[{}]", head.split_once('(').map_or("", |(_, name)| name))
    } else {
        String::from_utf8_lossy(&arguments).trim_end_matches('\0').replace('\0', " ")
    };
    Some(ProcessRow {
        pid,
        parent: u32::try_from(number(1)?).ok()?,
        uid,
        cpu_ticks: number(11)? + number(12)?,
        start_ticks: number(19)?,
        terminal: number(4).unwrap_or(0),
        command,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_a_row() {
        let row = process_row(std::process::id()).unwrap();
        assert!(row.start_ticks > 0 && !row.command.is_empty());
    }

    #[test]
    fn only_the_containers_rows_are_taken() {
        let printed = "  PID TTY      STAT   TIME COMMAND\n    1 ?        Ss     0:01 /sbin/init splash\n  77 pts/0    S      0:00 sh -c a b\n";
        let (titles, rows) = select(printed, &BTreeSet::from([77])).unwrap();
        assert_eq!(titles, ["PID", "TTY", "STAT", "TIME", "COMMAND"]);
        assert_eq!(rows, [["77", "pts/0", "S", "0:00", "sh -c a b"]]);
        assert!(select("USER CMD\n", &BTreeSet::new()).is_err());
    }
}
