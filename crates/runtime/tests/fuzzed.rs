//! A part of `make fuzz` for every run of the tests: its checks on the seeds, and on changes of them that are always the
//! same.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

#[path = "../../../fuzz/src/checks.rs"]
#[allow(unreachable_pub, clippy::unwrap_used, reason = "it is the public part of another crate")]
mod checks;

/// How many changes of each seed are tried.
const CHANGES: u32 = 400;

/// A generator of numbers, small and always the same.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % (limit.max(1) as u64)).unwrap_or(0)
    }
}

/// What JSON, paths and lists are made of, and what breaks them.
const PIECES: [&str; 24] = [
    "\"",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "null",
    "-1",
    "0",
    "4294967296",
    "18446744073709551615",
    "1e99",
    "..",
    "/",
    "\\u0000",
    "ro",
    "r",
    "-",
    "SCMP_ACT_ALLOW",
    "true",
    "\u{7f}",
    "ä",
    "=",
];

fn change(seed: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..1 + numbers.below(4) {
        let at = numbers.below(bytes.len() + 1);
        match numbers.below(5) {
            0 if at < bytes.len() => bytes[at] = numbers.next() as u8,
            1 => drop(bytes.splice(at..at, PIECES[numbers.below(PIECES.len())].bytes())),
            2 => {
                let end = (at + numbers.below(20)).min(bytes.len());
                drop(bytes.drain(at..end));
            }
            3 => {
                let (from, length) = (numbers.below(bytes.len()), numbers.below(60));
                let piece: Vec<u8> = bytes.iter().skip(from).take(length).copied().collect();
                drop(bytes.splice(at..at, piece));
            }
            _ => {
                let end = (at + PIECES[0].len()).min(bytes.len());
                drop(bytes.splice(at..end, PIECES[numbers.below(PIECES.len())].bytes()));
            }
        }
    }
    bytes
}

fn replay(target: &str, check: fn(&[u8])) {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(target);
    let mut numbers = Numbers(0x5a3d_70a1);
    let mut seen = 0;
    for seed in fs::read_dir(seeds).unwrap() {
        let seed = fs::read(seed.unwrap().path()).unwrap();
        check(&seed);
        for _ in 0..CHANGES {
            check(&change(&seed, &mut numbers));
        }
        seen += 1;
    }
    assert!(seen > 0, "{target} has no seeds");
}

#[test]
fn configurations_become_plans_or_errors() {
    replay("config", checks::config);
}

#[test]
fn processes_become_plans_or_errors() {
    replay("process", checks::process);
}

#[test]
fn records_are_read_as_they_are_written() {
    replay("record", checks::record);
}

#[test]
fn words_mean_something_or_nothing() {
    replay("words", checks::words);
}

#[test]
fn messages_are_understood_or_not() {
    replay("messages", checks::messages);
}

#[test]
fn mount_options_are_sorted() {
    replay("options", checks::options);
}

#[test]
fn compiled_filters_do_what_their_rules_say() {
    replay("seccomp", checks::seccomp);
}
