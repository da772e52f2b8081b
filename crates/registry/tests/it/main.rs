//! The client against Debian's docker-registry, with what spoils transfers in between, and against servers that say what
//! they are told. Nobody waits for a back-off: the waits are counted.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "clippy knows tests by their attribute")]

mod auth;
mod docker_config;
mod download;
mod listing;
mod mirrors;
mod pull;
mod push;
mod resume;
mod support;
mod tls;

use libtest_mimic::Arguments;

/// Names a module's tests.
macro_rules! cases {
    ($($name:ident)*) => {
        pub(crate) const CASES: &[(&str, fn())] = &[$((stringify!($name), $name)),*];
    };
}
pub(crate) use cases;

fn main() {
    let modules = [
        ("auth", auth::CASES),
        ("docker_config", docker_config::CASES),
        ("download", download::CASES),
        ("listing", listing::CASES),
        ("mirrors", mirrors::CASES),
        ("pull", pull::CASES),
        ("push", push::CASES),
        ("resume", resume::CASES),
        ("tls", tls::CASES),
    ];
    let missing = sampan_testkit::registry::missing();
    let trials = modules.into_iter().flat_map(|(module, cases)| {
        cases.iter().map(move |&(name, test)| {
            let needs = if matches!(module, "docker_config" | "download") { None } else { missing };
            sampan_testkit::trial(format!("{module}::{name}"), needs, test)
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit();
}
