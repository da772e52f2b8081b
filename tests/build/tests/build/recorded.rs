//! What cases give, in files: `expected/story.txt`, a part a case.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::builders::{Outcome, Who};
use crate::corpus::Case;

#[derive(Debug, Default)]
pub(crate) struct Recorded(BTreeMap<String, String>);

/// An outcome as it is recorded. What is said of a failure is everyone's own.
pub(crate) fn text(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Built(text) => text.clone(),
        Outcome::Failed(_) => "fails\n".to_owned(),
    }
}

/// What of an expectation can be asked of a builder, or what of its result can be compared. Buildah has a history of
/// its own, and keeps the mount points of its containers.
pub(crate) fn comparable(who: Who, text: &str) -> String {
    let own = |line: &str| {
        line.starts_with("history: ")
            || ["hosts", "hostname", "resolv.conf"]
                .iter()
                .any(|f| line == format!("f /etc/{f} 755 0:0 0 \"\""))
    };
    text.split_inclusive('\n').filter(|line| who != Who::Buildah || !own(line.trim_end())).collect()
}

/// Lines, each with its end.
fn lines(text: &str) -> String {
    text.trim_end_matches('\n').split_inclusive('\n').collect::<String>()
        + if text.trim().is_empty() { "" } else { "\n" }
}

impl Recorded {
    pub(crate) fn read(directory: &Path) -> Recorded {
        let mut all = BTreeMap::new();
        for entry in std::fs::read_dir(directory).into_iter().flatten() {
            let path = entry.unwrap().path();
            let story = path.file_stem().unwrap().to_string_lossy().into_owned();
            let text = std::fs::read_to_string(&path).unwrap();
            for part in text.split("### ").skip(1) {
                let (name, text) = part.split_once('\n').unwrap();
                all.insert(format!("{story}::{name}"), lines(text));
            }
        }
        Recorded(all)
    }

    /// What a case is to give: what the corpus says, or what was recorded.
    pub(crate) fn of(&self, case: &Case) -> Option<String> {
        case.own.clone().or_else(|| self.0.get(&case.id()).cloned())
    }

    pub(crate) fn insert(&mut self, case: &Case, text: String) {
        self.0.insert(case.id(), text);
    }

    pub(crate) fn write(&self, directory: &Path, cases: &[Case]) {
        let stories: BTreeSet<&str> = cases.iter().map(|c| c.story.as_str()).collect();
        for story in stories {
            let mut out = String::new();
            for case in cases.iter().filter(|c| c.story == story && c.own.is_none()) {
                if let Some(text) = self.0.get(&case.id()) {
                    out += &format!("### {}\n{text}\n", case.name);
                }
            }
            std::fs::write(directory.join(format!("{story}.txt")), out.trim_end().to_owned() + "\n").unwrap();
        }
    }
}

/// The lines that only one of them has.
pub(crate) fn difference(expected: &str, got: &str) -> String {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let (expected, got) = (lines(expected), lines(got));
    let mut out = String::new();
    for line in expected.iter().filter(|l| !got.contains(l)) {
        out += &format!("expected  {line}\n");
    }
    for line in got.iter().filter(|l| !expected.contains(l)) {
        out += &format!("got       {line}\n");
    }
    if out.is_empty() { "the same lines in another order".to_owned() } else { out }
}
