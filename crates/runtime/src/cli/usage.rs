//! Help, made from the tables that the parser uses.

use sampan_oci::runtime::VERSION;

use super::GLOBAL;
use super::arguments::Known;
use super::commands::{COMMANDS, Command};

/// What `--version` shows: the first line is the one that callers parse.
pub(super) fn version() -> String {
    format!("sampan-runtime version {}\nspec: {VERSION}\n", env!("CARGO_PKG_VERSION"))
}

pub(super) fn overview() -> String {
    let mut text = String::from(
        "sampan-runtime - makes containers from OCI bundles\n\nUsage: sampan-runtime [global options] COMMAND [options] [arguments]\n\nCommands:\n",
    );
    for command in &COMMANDS {
        text.push_str(&format!("  {:<12} {}\n", command.name, command.help));
    }
    text.push_str("\nGlobal options:\n");
    text.push_str(&options(&GLOBAL));
    text
}

pub(super) fn command(command: &Command) -> String {
    let mut text = format!("Usage: sampan-runtime {} {}\n\n{}\n", command.name, command.usage, command.help);
    if !command.options.is_empty() {
        text.push_str("\nOptions:\n");
        text.push_str(&options(command.options));
    }
    text
}

fn options(known: &[Known]) -> String {
    let line = |option: &Known| {
        let short = option.short.map(|c| format!("-{c}, ")).unwrap_or_default();
        let value = option.value.map(|v| format!(" {v}")).unwrap_or_default();
        format!("  {:<32} {}\n", format!("{short}--{}{value}", option.name), option.help)
    };
    known.iter().map(line).collect()
}
