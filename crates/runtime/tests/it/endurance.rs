//! The short form of the soak.

use crate::harness::eventually;
use crate::soak::{Numbers, Soak};

#[test]
fn many_in_a_row_and_at_once_leave_nothing() {
    let soak = Soak::new();
    soak.in_a_row("row", 40);
    soak.at_once(16, 3);
    eventually("nothing is left", || soak.left("").is_empty());
}

#[test]
fn what_a_killed_runtime_leaves_is_cleared_by_delete() {
    let soak = Soak::new();
    // Printed if the test fails.
    let seed = u64::from(std::process::id()) << 20 | 0x5eed;
    println!("seed {seed}");
    soak.killed("k", 60, &mut Numbers(seed));
    eventually("nothing is left", || soak.left("").is_empty());
}
