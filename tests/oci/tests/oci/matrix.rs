//! The table of who does what, for docs/conformance-oci.md.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::CHAPTERS;
use crate::harness::{Bench, Runtime};
use crate::table::{Level, Test};

/// What became of a test with a runtime.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Outcome {
    Passed,
    Failed(String),
    Ignored(String),
}

const BEFORE: &str = include_str!("../../before.md");
const AFTER: &str = include_str!("../../after.md");

/// Asks every runtime about every sentence, and writes the table.
pub(crate) fn write(file: &str, runtimes: &[Runtime]) {
    // What a test says when it fails goes into the table, not to the screen.
    std::panic::set_hook(Box::new(|_| {}));
    let tests: Vec<(&str, &Test)> =
        CHAPTERS.iter().flat_map(|(c, _, tests)| tests.iter().map(move |t| (*c, t))).collect();
    let outcomes: Vec<Vec<Outcome>> = ask(&tests, runtimes);
    let mut text = BEFORE.to_owned();
    let versions: Vec<String> = runtimes.iter().map(Runtime::version).collect();
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let host = if std::path::Path::new("/sys/fs/cgroup/pids").exists() { "v1 (hybrid)" } else { "v2" };
    writeln!(text, "Asked: {}; kernel {}, cgroup {host}.\n", versions.join(", "), kernel.trim()).unwrap();
    summary(&mut text, &tests, runtimes, &outcomes);
    let mut notes: Vec<String> = Vec::new();
    for (chapter, title, _) in CHAPTERS {
        writeln!(
            text,
            "\n## {title}\n\n| place | | the runtime … | ours | runc | crun |\n|---|---|---|---|---|---|"
        )
        .unwrap();
        for ((_, test), outcomes) in tests.iter().zip(&outcomes).filter(|((c, _), _)| *c == chapter) {
            write!(text, "| {} | {} | {} ", test.place, test.level.name(), test.says).unwrap();
            for (runtime, outcome) in runtimes.iter().zip(outcomes) {
                let cell = match outcome {
                    Outcome::Passed => {
                        if test.but.iter().any(|(name, _)| *name == runtime.name) {
                            eprintln!(
                                "{chapter}::{}: {} passes, against what the table says",
                                test.name, runtime.name
                            );
                        }
                        "yes".to_owned()
                    }
                    Outcome::Ignored(_) => "–".to_owned(),
                    Outcome::Failed(said) => {
                        let known =
                            test.but.iter().find(|(name, _)| *name == runtime.name).map(|(_, why)| *why);
                        let why = known.map_or_else(|| format!("unexplained: {}", line(said)), str::to_owned);
                        notes.push(format!("`{chapter}::{}`, {}: {why}", test.name, runtime.name));
                        format!("**no** ({})", notes.len())
                    }
                };
                write!(text, "| {cell} ").unwrap();
            }
            text.push_str("|\n");
        }
    }
    let ignored: BTreeSet<String> = outcomes
        .iter()
        .flatten()
        .filter_map(|o| match o {
            Outcome::Ignored(why) => Some(why.clone()),
            _ => None,
        })
        .collect();
    writeln!(text, "\n–: this host lacks something: {}.", ignored.into_iter().collect::<Vec<_>>().join("; "))
        .unwrap();
    text.push_str("\n## Who does otherwise, and why\n\n");
    for (number, note) in notes.iter().enumerate() {
        writeln!(text, "{}. {note}", number + 1).unwrap();
    }
    text.push_str(AFTER);
    std::fs::write(file, text).unwrap();
}

fn summary(text: &mut String, tests: &[(&str, &Test)], runtimes: &[Runtime], outcomes: &[Vec<Outcome>]) {
    text.push_str("| | tests | ours | runc | crun |\n|---|---|---|---|---|\n");
    for level in [Level::Must, Level::Should, Level::May] {
        let rows = || tests.iter().zip(outcomes).filter(|((_, test), _)| test.level == level);
        let ran = rows().filter(|(_, o)| !o.iter().all(|o| matches!(o, Outcome::Ignored(_)))).count();
        write!(text, "| {} | {ran} of {} ", level.name(), rows().count()).unwrap();
        for at in 0..runtimes.len() {
            write!(text, "| {} ", rows().filter(|(_, o)| o[at] == Outcome::Passed).count()).unwrap();
        }
        text.push_str("|\n");
    }
}

/// One line, short enough for a note.
fn line(text: &str) -> String {
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().take(200).collect::<String>().replace('|', "\\|")
}

fn ask(tests: &[(&str, &Test)], runtimes: &[Runtime]) -> Vec<Vec<Outcome>> {
    const WORKERS: usize = 3;
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(vec![vec![Outcome::Passed; runtimes.len()]; tests.len()]);
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                loop {
                    let job = next.fetch_add(1, Ordering::Relaxed);
                    let (test, runtime) = (job / runtimes.len(), job % runtimes.len());
                    let Some((_, asked)) = tests.get(test) else { return };
                    let outcome = one(asked, &runtimes[runtime]);
                    outcomes.lock().unwrap()[test][runtime] = outcome;
                }
            });
        }
    });
    outcomes.into_inner().unwrap()
}

fn one(test: &Test, runtime: &Runtime) -> Outcome {
    if let Some(why) = crate::why_not(test) {
        return Outcome::Ignored(why);
    }
    match catch_unwind(AssertUnwindSafe(|| (test.run)(&mut Bench::new(runtime)))) {
        Ok(()) => Outcome::Passed,
        Err(panic) => {
            let said = panic.downcast_ref::<String>().cloned();
            Outcome::Failed(
                said.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default(),
            )
        }
    }
}
