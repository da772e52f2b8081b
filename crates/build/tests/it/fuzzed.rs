//! A part of `make fuzz` for every run of the tests: its checks on the seeds, and on changes of them that are always the
//! same.

use std::fs;
use std::path::Path;

#[path = "../../../../fuzz/src/builds.rs"]
#[allow(unreachable_pub, missing_docs, reason = "it is the public part of another crate")]
mod builds;

/// How many changes of each seed are tried.
const CHANGES: u32 = 300;

/// What means something in a Dockerfile or `.dockerignore`.
const MEANING: [&str; 30] = [
    "$", "${", "}", ":-", "%", "#", "/", "\"", "'", "\\", "`", "\n", "\\\n", "\\\n\n", "<<E", "<<-E ",
    "\nE\n", "--", "=", "[", "]", ",", "*", "**", "!", "\0", "FROM a\n", "RUN ", "COPY ", "é",
];

fn replay(target: &str, check: fn(&[u8])) {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(target);
    let mut state = 0x5a3d_70a1u64;
    let mut below = |limit: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % (limit.max(1) as u64)).unwrap()
    };
    let mut seen = 0;
    for seed in fs::read_dir(seeds).unwrap() {
        let seed = fs::read(seed.unwrap().path()).unwrap();
        check(&seed);
        for _ in 0..CHANGES {
            let mut bytes = seed.clone();
            for _ in 0..1 + below(5) {
                let (at, to) = (below(bytes.len() + 1), below(bytes.len() + 1));
                match below(4) {
                    0 | 1 => drop(bytes.splice(at..at, MEANING[below(MEANING.len())].bytes())),
                    2 => drop(bytes.drain(at.min(to)..at.max(to).min(at.min(to) + 8))),
                    _ => {
                        let part: Vec<u8> = bytes[at..].iter().take(below(40)).copied().collect();
                        drop(bytes.splice(to..to, part));
                    }
                }
            }
            check(&bytes);
        }
        seen += 1;
    }
    assert!(seen > 0, "{target} has no seeds");
}

#[test]
fn dockerfile() {
    replay("dockerfile", builds::dockerfile);
}

#[test]
fn ignore() {
    replay("ignore", builds::ignore);
}
