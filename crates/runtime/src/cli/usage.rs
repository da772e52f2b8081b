//! Help, made from the tables that the parser uses.

use sampan_oci::runtime::VERSION;

use super::GLOBAL;
use super::arguments::Known;
use super::commands::{COMMANDS, Command};

/// The name that this program was called by: engines install it as `runc`, too, and read it in the version.
pub(super) fn name() -> String {
    let path = std::env::args_os().next().map(std::path::PathBuf::from);
    let name =
        path.as_ref().and_then(|path| path.file_name()).map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|| "sampan-runtime".to_owned())
}

/// What `--version` shows: the lines are those that callers parse.
pub(super) fn version() -> String {
    let commit = option_env!("SAMPAN_COMMIT").unwrap_or("unknown");
    format!("{} version {}\ncommit: {commit}\nspec: {VERSION}\n", name(), env!("CARGO_PKG_VERSION"))
}

pub(super) fn overview() -> String {
    let name = name();
    let mut text = format!(
        "NAME:\n   {name} - Open Container Initiative runtime\n\nUSAGE:\n   {name} [global options] COMMAND [options] [arguments]\n\nCOMMANDS:\n",
    );
    for command in &COMMANDS {
        text.push_str(&format!("   {:<12} {}\n", command.name, command.help));
    }
    text.push_str("\nGLOBAL OPTIONS:\n");
    text.push_str(&options(&GLOBAL));
    text
}

pub(super) fn command(command: &Command) -> String {
    let (program, name) = (name(), command.name);
    let mut text = format!(
        "NAME:\n   {program} {name} - {}\n\nUSAGE:\n   {program} {name} {}\n",
        command.help, command.usage
    );
    if !command.options.is_empty() {
        text.push_str("\nOPTIONS:\n");
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
