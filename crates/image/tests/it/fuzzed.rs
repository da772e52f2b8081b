//! A part of `make fuzz` for every run of the tests: its checks on the seeds, and on changes of them that are always the
//! same.

use std::fs;
use std::path::Path;

#[path = "../../../../fuzz/src/images.rs"]
#[allow(unreachable_pub, missing_docs, reason = "it is the public part of another crate")]
mod images;

/// How many changes of each seed are tried, unless `SAMPAN_FUZZ_CHANGES` says otherwise.
const CHANGES: u32 = 60;

/// Bytes that mean something in a header: kinds, flags, numbers in base 256, path parts.
const MEANING: &[u8] = b"0123456LKxgSV./\0\x80\xff7";

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
        let changes = std::env::var("SAMPAN_FUZZ_CHANGES").map_or(CHANGES, |n| n.parse().unwrap());
        for _ in 0..changes {
            let mut bytes = seed.clone();
            for _ in 0..1 + below(4) {
                let at = below(bytes.len());
                match below(4) {
                    0 => bytes[at] = MEANING[below(MEANING.len())],
                    // The fields of a header, where most of the meaning is.
                    1 => {
                        let meaning = MEANING[below(MEANING.len())];
                        if let Some(byte) = bytes.get_mut(at / 512 * 512 + 100 + below(57)) {
                            *byte = meaning;
                        }
                    }
                    2 => {
                        let block: Vec<u8> = bytes[at / 512 * 512..].iter().take(512).copied().collect();
                        let to = below(bytes.len()) / 512 * 512;
                        drop(bytes.splice(to..to, block));
                    }
                    _ => bytes.truncate(at.max(512)),
                }
            }
            check(&bytes);
        }
        seen += 1;
    }
    assert!(seen > 0, "{target} has no seeds");
}

#[test]
fn layer() {
    replay("layer", images::layer);
}

#[test]
fn archive() {
    replay("archive", images::archive);
}
