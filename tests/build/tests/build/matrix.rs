//! Asks all builders, records what they agree on, and writes the table for docs/conformance-build.md.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::builders::{Builders, Outcome, Who};
use crate::corpus::Case;
use crate::recorded::{self, Recorded};

const BEFORE: &str = include_str!("../../before.md");

/// Answers an exit code: 1 if there is a difference that nobody explained.
pub(crate) fn write(file: &str, cases: &[Case], directory: &Path) -> i32 {
    let builders = Builders::new(true);
    let outcomes = ask(&builders, cases);
    let mut recorded = Recorded::read(directory);
    let mut unexplained = Vec::new();
    for (case, outcomes) in cases.iter().zip(&outcomes) {
        // BuildKit is who we want to be; where it is too old or odd, the others, and then the corpus itself.
        let differs = |who: Who| case.differs.iter().any(|(name, _)| name == who.name());
        let peers = [Who::BuildKit, Who::Classic, Who::Buildah];
        match peers.into_iter().find(|who| outcomes.contains_key(who) && !differs(*who)) {
            Some(who) => recorded.insert(case, recorded::text(&outcomes[&who])),
            None if case.own.is_none() => {
                unexplained.push(format!("{}: nobody to ask, and no @= lines", case.id()))
            }
            None => {}
        }
    }
    recorded.write(directory, cases);
    let mut text = BEFORE.to_owned();
    writeln!(text, "Asked: {}.\n", builders.versions().join(", ")).unwrap();
    let mut notes: Vec<String> = Vec::new();
    let mut counts: BTreeMap<Who, (usize, usize, usize)> = BTreeMap::new();
    let mut tables = String::new();
    let mut story = "";
    for (case, outcomes) in cases.iter().zip(&outcomes) {
        if case.story != story {
            story = &case.story;
            let names: Vec<&str> = Who::ALL.iter().map(|who| who.name()).collect();
            writeln!(tables, "\n## {story}\n\n| case | {} |\n|---|---|---|---|---|---|", names.join(" | "))
                .unwrap();
        }
        write!(tables, "| {} ", case.name.replace('|', "\\|")).unwrap();
        let expected = recorded.of(case).unwrap_or_default();
        for who in Who::ALL {
            let count = counts.entry(who).or_default();
            let known = case.differs.iter().find(|(name, _)| name == who.name()).map(|(_, why)| why.as_str());
            let cell = match outcomes.get(&who) {
                None => {
                    count.2 += 1;
                    "–".to_owned()
                }
                Some(outcome) if same(who, outcome, &expected) => {
                    count.0 += 1;
                    if known.is_some() {
                        eprintln!("{}: {} is the same, against what the corpus says", case.id(), who.name());
                    }
                    if expected == "fails\n" { "fails" } else { "=" }.to_owned()
                }
                Some(outcome) => {
                    count.1 += 1;
                    let why = known.map(str::to_owned).unwrap_or_else(|| {
                        let difference = recorded::difference(
                            &expected,
                            &recorded::comparable(who, &recorded::text(outcome)),
                        );
                        let said = if let Outcome::Failed(said) = outcome { said.trim_end() } else { "" };
                        unexplained.push(format!("{}, {}:\n{difference}{said}", case.id(), who.name()));
                        "unexplained".to_owned()
                    });
                    let same = notes.iter().position(|note| *note == format!("{}: {why}", who.name()));
                    let number = same.unwrap_or_else(|| {
                        notes.push(format!("{}: {why}", who.name()));
                        notes.len() - 1
                    });
                    format!("≠ ({})", number + 1)
                }
            };
            write!(tables, "| {cell} ").unwrap();
        }
        tables.push_str("|\n");
    }
    writeln!(text, "| | agrees | differs | not asked |\n|---|---|---|---|").unwrap();
    for (who, (same, other, unasked)) in &counts {
        writeln!(text, "| {} | {same} | {other} | {unasked} |", who.name()).unwrap();
    }
    let own = cases.iter().filter(|c| c.own.is_some()).count();
    writeln!(text, "\n{} cases, {own} of them with a result of their own.", cases.len()).unwrap();
    text += &tables;
    if !notes.is_empty() {
        text += "\n## Why they differ\n\n";
        for (number, note) in notes.iter().enumerate() {
            writeln!(text, "{}. {note}", number + 1).unwrap();
        }
    }
    let new: Vec<&Case> = cases.iter().filter(|c| c.not_for_peers().is_some()).collect();
    if !new.is_empty() {
        text += "\n## Why no peer was asked\n\n";
        for case in new {
            writeln!(text, "* {}: {}", case.id(), case.not_for_peers().unwrap_or_default()).unwrap();
        }
    }
    std::fs::write(file, text).unwrap();
    for line in &unexplained {
        eprintln!("unexplained: {line}");
    }
    i32::from(!unexplained.is_empty())
}

fn same(who: Who, outcome: &Outcome, expected: &str) -> bool {
    recorded::comparable(who, &recorded::text(outcome)) == recorded::comparable(who, expected)
}

fn ask(builders: &Builders, cases: &[Case]) -> Vec<BTreeMap<Who, Outcome>> {
    let work: Vec<(usize, Who)> = (0..cases.len())
        .flat_map(|i| Who::ALL.into_iter().map(move |who| (i, who)))
        .filter(|(i, who)| who.is_ours() || cases[*i].not_for_peers().is_none())
        // Options of the command line that only ours has.
        .filter(|(i, who)| *who != Who::Client || cases[*i].only_sampan.is_none())
        .collect();
    let (next, done) = (AtomicUsize::new(0), Mutex::new(vec![BTreeMap::new(); cases.len()]));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some((case, who)) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let build = || builders.build(*who, &cases[*case]);
                    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(build));
                    let outcome =
                        outcome.unwrap_or_else(|_| Outcome::Failed("a bug of this test".to_owned()));
                    done.lock().unwrap()[*case].insert(*who, outcome);
                }
            });
        }
    });
    done.into_inner().unwrap()
}
