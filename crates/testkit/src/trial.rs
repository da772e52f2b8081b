//! Tests that say why they can't run.

use libtest_mimic::Trial;

/// A test, or, where it can't run on this host, an ignored one with the reason beside its name: never one that passed.
pub fn trial(
    name: impl Into<String>,
    missing: Option<impl Into<String>>,
    test: impl FnOnce() + Send + 'static,
) -> Trial {
    let trial = Trial::test(name, move || {
        test();
        Ok(())
    });
    match missing {
        Some(reason) => trial.with_ignored_flag(true).with_kind(reason),
        None => trial,
    }
}
