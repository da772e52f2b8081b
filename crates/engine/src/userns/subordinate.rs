//! Subordinate ids: which ranges of the host's ids a user may give away, as `/etc/subuid` and `/etc/subgid` list them.

use std::path::{Path, PathBuf};

use sampan_base::files as disk;
use sampan_image::{IdMapping, IdRange};

use crate::config::Remap;
use crate::error::{EngineError, Result};

/// Where subordinate ids are listed, and users and groups named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubordinateFiles {
    /// Ranges of users' ids. Default `/etc/subuid`.
    pub uids: PathBuf,
    /// Ranges of groups' ids. Default `/etc/subgid`.
    pub gids: PathBuf,
}

impl Default for SubordinateFiles {
    fn default() -> Self {
        SubordinateFiles { uids: "/etc/subuid".into(), gids: "/etc/subgid".into() }
    }
}

/// How much of a file is read.
const MAX_BYTES: u64 = 8 << 20;
/// So many ranges the kernel takes.
const MAX_RANGES: usize = 340;
/// Whose ids are taken if nobody is named: the first of them that has some.
const DEFAULT_USERS: [&str; 2] = ["sampan", "dockremap"];
/// How many ids a line should give, and the first that useradd(8) would give.
const SUGGESTED: (u32, u32) = (100_000, 65_536);

/// The mapping of the ids that `remap` names.
///
/// # Errors
/// If it has none, or they make no sense.
pub(super) fn mapping(remap: &Remap, files: &SubordinateFiles) -> Result<IdMapping> {
    let (uids, gids) = (read(&files.uids)?, read(&files.gids)?);
    let (passwd, group) = (read(Path::new("/etc/passwd"))?, read(Path::new("/etc/group"))?);
    let has = |user: &str| {
        !lines_of(&uids, &identities(user, &passwd)).is_empty()
            && !lines_of(&gids, &identities(user, &group)).is_empty()
    };
    let remap = if remap.is_default() {
        let user = DEFAULT_USERS.into_iter().find(|user| has(user)).unwrap_or(DEFAULT_USERS[0]);
        Remap { user: user.to_owned(), group: user.to_owned() }
    } else {
        remap.clone()
    };
    Ok(IdMapping {
        uids: ranges("user", &remap.user, &identities(&remap.user, &passwd), &uids, &files.uids)?,
        gids: ranges("group", &remap.group, &identities(&remap.group, &group), &gids, &files.gids)?,
    })
}

/// A file that may be missing: it then lists nothing.
fn read(path: &Path) -> Result<String> {
    match disk::read_limited(path, MAX_BYTES) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(EngineError::file(error)),
    }
}

/// What a user or group may be called in a line: as it was named, and by its number or name in `names` (passwd or group).
fn identities(named: &str, names: &str) -> Vec<String> {
    let mut all = vec![named.to_owned()];
    for line in names.lines() {
        let mut fields = line.split(':');
        let (Some(name), Some(number)) = (fields.next(), fields.nth(1)) else { continue };
        if name == named {
            all.push(number.to_owned());
        } else if number == named {
            all.push(name.to_owned());
        }
    }
    all
}

/// The ranges, as they are written, of the lines that one of `identities` has.
fn lines_of<'a>(text: &'a str, identities: &[String]) -> Vec<(&'a str, &'a str)> {
    let parse = |line: &'a str| {
        let (owner, range) = line.trim().split_once(':')?;
        let range = range.split_once(':').unwrap_or((range, ""));
        identities.iter().any(|identity| identity == owner).then_some(range)
    };
    text.lines().filter_map(parse).collect()
}

fn ranges(kind: &str, named: &str, identities: &[String], text: &str, path: &Path) -> Result<Vec<IdRange>> {
    let lines = lines_of(text, identities);
    let path = path.display();
    if lines.is_empty() {
        let (start, length) = (free_start(text), SUGGESTED.1);
        return Err(EngineError::Invalid(format!(
            "the {kind} `{named}` has no subordinate ids to map containers to: add the line `{named}:{start}:{length}` to `{path}`"
        )));
    }
    let refuse = |why: String| Err(EngineError::Invalid(format!("the ids of `{named}` in `{path}`: {why}")));
    let mut hosts: Vec<(u32, u32)> = Vec::new();
    for (start, length) in lines {
        let parsed = start.parse::<u32>().ok().zip(length.parse::<u32>().ok());
        let Some((first, count)) = parsed.filter(|(first, count)| {
            // The last id of all stands for none.
            *count > 0 && first.checked_add(*count).is_some()
        }) else {
            return refuse(format!("`{start}:{length}` is no range"));
        };
        if first == 0 {
            return refuse(format!("`{start}:{length}` would make the host's root a user of containers"));
        }
        hosts.push((first, count));
    }
    hosts.sort_unstable();
    if hosts.len() > MAX_RANGES {
        return refuse(format!(
            "{} ranges are more than the {MAX_RANGES} that the kernel takes",
            hosts.len()
        ));
    }
    if let Some(pair) = hosts.windows(2).find(|pair| pair[0].0 + pair[0].1 > pair[1].0) {
        return refuse(format!("the ranges from {} and from {} overlap", pair[0].0, pair[1].0));
    }
    let mut inside: u32 = 0;
    let mut mapped = Vec::new();
    for (outside, length) in hosts {
        mapped.push(IdRange { inside, outside, length });
        // Ranges that don't overlap have together fewer ids than there are.
        inside += length;
    }
    Ok(mapped)
}

/// Where a new range can begin that meets none in the file.
fn free_start(text: &str) -> u32 {
    let end = |line: &str| {
        let mut numbers = line.trim().split(':').skip(1).map(str::parse::<u32>);
        numbers.next()?.ok()?.checked_add(numbers.next()?.ok()?)
    };
    text.lines().filter_map(end).fold(SUGGESTED.0, u32::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(remap: &str, uids: &str, gids: &str) -> String {
        let directory = tempfile::tempdir().unwrap();
        let files = SubordinateFiles { uids: directory.path().join("u"), gids: directory.path().join("g") };
        std::fs::write(&files.uids, uids).unwrap();
        std::fs::write(&files.gids, gids).unwrap();
        let show = |list: &[IdRange]| {
            let one = |r: &IdRange| format!("{}={}+{}", r.inside, r.outside, r.length);
            list.iter().map(one).collect::<Vec<_>>().join(" ")
        };
        match mapping(&remap.parse().unwrap(), &files) {
            Ok(mapping) => format!("{} / {}", show(&mapping.uids), show(&mapping.gids)),
            Err(error) => error.to_string().replace(directory.path().to_str().unwrap(), ""),
        }
    }

    #[test]
    fn ranges_follow_one_another_inside_in_the_order_of_the_host() {
        let ids = "other:100:5\nann:300000:10\n # nonsense\nann:200000:5\n";
        assert_eq!(check("ann", ids, "ann:1000:1\n"), "0=200000+5 5=300000+10 / 0=1000+1");
        assert_eq!(check("ann:other", ids, ids), "0=200000+5 5=300000+10 / 0=100+5");
        assert_eq!(check("4000:4001", "4000:9:1\n", "4001:8:2\n"), "0=9+1 / 0=8+2");
    }

    #[test]
    fn names_and_numbers_stand_for_each_other() {
        // As passwd(5) and group(5) have it everywhere.
        assert_eq!(check("root", "0:7:1\n", "root:8:1\n"), "0=7+1 / 0=8+1");
        assert_eq!(check("0", "root:7:1\n", "0:8:1\n"), "0=7+1 / 0=8+1");
    }

    #[test]
    fn the_default_is_whoever_has_ids() {
        let both = "dockremap:500000:5\nsampan:400000:5\n";
        assert_eq!(check("default", both, both), "0=400000+5 / 0=400000+5");
        let docker = "dockremap:500000:5\n";
        assert_eq!(check("default", docker, docker), "0=500000+5 / 0=500000+5");
        let said = "has no subordinate ids to map containers to: add the line";
        assert_eq!(
            check("default", "", ""),
            format!("the user `sampan` {said} `sampan:100000:65536` to `/u`")
        );
        let gone = check("default", "sampan:100000:65536\n", "x:100000:65536\n");
        assert_eq!(gone, format!("the group `sampan` {said} `sampan:165536:65536` to `/g`"));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (ids, why) in [
            ("a:0:65536", "would make the host's root a user of containers"),
            ("a:5", "`5:` is no range"),
            ("a:5:0", "`5:0` is no range"),
            ("a:-5:3", "`-5:3` is no range"),
            ("a:4294967295:1", "is no range"),
            ("a:10:5\na:14:5", "the ranges from 10 and from 14 overlap"),
        ] {
            let said = check("a", ids, "a:1:1");
            assert!(said.contains(why), "{said}");
        }
    }
}
