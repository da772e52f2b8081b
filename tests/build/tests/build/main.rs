//! Builds the corpus. Without more, our side of each case is a test against what is recorded. With `BUILD_MATRIX`, a
//! file's name, all builders are asked; what they agree on is recorded, and the table is written there.
//! `BUILD_SHOW=text` prints what every builder makes of the cases whose names have that text.

#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout, reason = "tests")]

mod builders;
mod context;
mod corpus;
mod matrix;
mod recorded;
mod remote;
mod result;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use libtest_mimic::{Arguments, Failed, Trial};

use builders::{Builders, Outcome, Who};
use corpus::Case;
use recorded::Recorded;

/// How many builds run at once.
const THREADS: usize = 4;

fn directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Why nothing can be built here, if that is so.
fn missing() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root");
    }
    sampan_testkit::busybox::missing()
}

fn main() {
    // Modes that cases give are meant as they are.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let cases = corpus::read(&directory("corpus"));
    let recorded = Arc::new(Recorded::read(&directory("expected")));
    if let Ok(text) = std::env::var("BUILD_SHOW") {
        show(&cases, &text);
        return;
    }
    if let Ok(file) = std::env::var("BUILD_MATRIX") {
        assert_eq!(missing(), None);
        std::process::exit(matrix::write(&file, &cases, &directory("expected")));
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(THREADS);
    // One daemon for all: each case has its own names in it.
    let builders: Arc<OnceLock<Builders>> = Arc::default();
    let mut trials = Vec::new();
    for case in cases {
        for who in [Who::Sampan, Who::Client] {
            if who == Who::Client && !case.docker {
                continue;
            }
            let absent = (who == Who::Client && !Path::new("/usr/bin/docker").exists())
                .then_some("no /usr/bin/docker (package docker.io)");
            let reason = missing().or(absent);
            let name =
                if who == Who::Client { format!("{} by docker's client", case.id()) } else { case.id() };
            let (case, builders, recorded) = (case.clone(), Arc::clone(&builders), Arc::clone(&recorded));
            let trial = Trial::test(name, move || {
                test(builders.get_or_init(|| Builders::new(false)), &recorded, who, &case)
            });
            trials.push(match reason {
                Some(reason) => trial.with_ignored_flag(true).with_kind(reason),
                None => trial,
            });
        }
    }
    for (name, program, run) in remote::TESTS {
        let builders = Arc::clone(&builders);
        let absent = program.filter(|program| !has(program)).map(|program| format!("no {program}"));
        let trial = Trial::test(format!("remote::{name}"), move || {
            run(builders.get_or_init(|| Builders::new(false)));
            Ok(())
        });
        trials.push(match missing().map(str::to_owned).or(absent) {
            Some(reason) => trial.with_ignored_flag(true).with_kind(reason),
            None => trial,
        });
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    // The daemon ends before the process does: nobody drops what a static or a leaked Arc holds.
    drop(Arc::into_inner(builders));
    conclusion.exit();
}

fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).exists())
}

/// Ours against what is recorded.
fn test(builders: &Builders, recorded: &Recorded, who: Who, case: &Case) -> Result<(), Failed> {
    let outcome = builders.build(who, case);
    if let Outcome::Failed(said) = &outcome {
        for text in &case.says {
            if !said.contains(text) {
                return Err(format!("it does not say `{text}` but:\n{said}").into());
            }
        }
    }
    let expected = recorded.of(case).ok_or("nothing is recorded: run make conformance-build")?;
    let got = recorded::text(&outcome);
    if got == expected {
        return Ok(());
    }
    let said = if let Outcome::Failed(said) = outcome { said } else { String::new() };
    Err(format!("{}\n{said}", recorded::difference(&expected, &got)).into())
}

fn show(cases: &[Case], text: &str) {
    let builders = Builders::new(true);
    for case in cases.iter().filter(|c| c.id().contains(text)) {
        println!("##### {}\n{}", case.id(), case.dockerfile);
        let mut last = String::new();
        for who in Who::ALL {
            let text = match builders.build(who, case) {
                Outcome::Built(text) => text,
                Outcome::Failed(said) => format!("FAILED {said}\n"),
            };
            if text == last {
                println!("--- {}: the same", who.name());
            } else {
                println!("--- {}\n{text}", who.name());
            }
            last = text;
        }
    }
}
