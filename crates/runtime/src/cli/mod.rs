//! runc's command line: global options, a command, its options.
//!
//! Errors go to the log and to standard error; the exit code is 1, but that of the container's process for `run` and
//! `exec`, and 255 if `exec` itself fails.

use std::io::Write;
use std::path::PathBuf;

use crate::error::Refused;
use crate::log::{Format, Log, say};
use crate::state::StateRoot;

pub mod arguments;
mod commands;
mod criu;
mod events;
mod features;
mod list;
mod process;
mod resources;
mod spec;
mod usage;

use arguments::{End, Known, Parsed, flag, parse, value};

/// Options before the command.
const GLOBAL: [Known; 9] = [
    flag("debug", "log what is done"),
    value("log", "FILE", "write the log to FILE instead of standard error"),
    value("log-format", "FORMAT", "`text` (default) or `json`"),
    value("root", "DIR", "where containers are remembered (default: /run/sampan-runtime)"),
    value("criu", "FILE", "the CRIU that checkpoint and restore use (default: the one in PATH)"),
    flag("systemd-cgroup", "let systemd make the cgroups; cgroupsPath is `slice:prefix:name` then"),
    value("rootless", "true|false|auto", "ignored: what the user may do is found out by trying"),
    flag("help", "show this help").or('h'),
    flag("version", "show the version").or('v'),
];

/// What every command gets.
struct Context {
    root: StateRoot,
    log: Log,
    /// Whether systemd makes the cgroups.
    systemd_cgroup: bool,
    /// The CRIU of `--criu`.
    criu: Option<PathBuf>,
}

/// How a command failed.
struct Failure {
    text: String,
    code: u8,
}

impl Failure {
    fn new(error: &dyn std::error::Error) -> Failure {
        Failure { text: chain(error), code: 1 }
    }

    /// As runc's callers know it: which command failed, then why.
    fn of(command: &str, error: &dyn std::error::Error) -> Failure {
        Failure { text: format!("{command} failed: {}", chain(error)), code: 1 }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure::new(&error)
    }
}

/// Runs the command that the process's arguments name. Returns the exit status.
pub fn main() -> u8 {
    let args: Result<Vec<String>, _> = std::env::args_os()
        .skip(1)
        .map(|arg| arg.into_string().map_err(|arg| arg.display().to_string()))
        .collect();
    match args {
        Ok(args) => run(&args),
        Err(arg) => {
            say(&format!("argument `{arg}` is not UTF-8"));
            1
        }
    }
}

/// Runs the command that `args` name, without the program's own name. Returns the exit status.
pub fn run(args: &[String]) -> u8 {
    let (context, parsed) = match global(args) {
        Ok(both) => both,
        Err(refused) => {
            Log::default().error(&refused.to_string());
            return 1;
        }
    };
    match dispatch(&context, &parsed) {
        Ok(code) => code,
        Err(failure) => {
            context.log.error(&failure.text);
            failure.code
        }
    }
}

fn global(args: &[String]) -> Result<(Context, Parsed), Refused> {
    let parsed = parse(&GLOBAL, args, End::FirstArgument)?;
    let format = match parsed.get("log-format") {
        None | Some("text") => Format::Text,
        Some("json") => Format::Json,
        Some(other) => return Err(Refused::Invalid(format!("unknown log format `{other}`"))),
    };
    let path = parsed.get("log").filter(|path| !path.is_empty()).map(PathBuf::from);
    let log = Log::open(path.as_deref(), format, parsed.has("debug"))
        .map_err(|e| Refused::Invalid(sampan_base::chain(&e)))?;
    let root = parsed.get("root").filter(|r| !r.is_empty());
    let root = root.map_or_else(StateRoot::default_for_user, |root| StateRoot(PathBuf::from(root)));
    let systemd_cgroup = parsed.has("systemd-cgroup");
    let criu = parsed.get("criu").filter(|path| !path.is_empty()).map(PathBuf::from);
    Ok((Context { root, log, systemd_cgroup, criu }, parsed))
}

fn dispatch(context: &Context, global: &Parsed) -> Result<u8, Failure> {
    if global.has("version") {
        print(&usage::version())?;
        return Ok(0);
    }
    let Some((name, args)) = global.rest.split_first() else {
        print(&usage::overview())?;
        return Ok(0);
    };
    if global.has("help") || matches!(name.as_str(), "help" | "h") {
        print(&usage::overview())?;
        return Ok(0);
    }
    let Some(command) = commands::COMMANDS.iter().find(|c| c.name == name) else {
        // As the command lines of this family have it, with a code of its own.
        const NO_SUCH_COMMAND: u8 = 3;
        return Err(Failure { text: format!("No help topic for '{name}'"), code: NO_SUCH_COMMAND });
    };
    // Behind the first argument they may be those of a container's command.
    let asks = |arg: &String| matches!(arg.as_str(), "--help" | "-h");
    let help = match command.end {
        End::Nowhere => args.iter().any(asks),
        End::FirstArgument => args.first().is_some_and(asks),
    };
    if help {
        print(&usage::command(command))?;
        return Ok(0);
    }
    let parsed = parse(command.options, args, command.end)?;
    let (least, most) = command.arguments;
    if parsed.rest.len() < least || parsed.rest.len() > most {
        let wanted = match (least, most) {
            (least, most) if least == most => format!("requires exactly {least} argument(s)"),
            (least, _) if parsed.rest.len() < least => format!("requires a minimum of {least} argument(s)"),
            (_, most) => format!("requires a maximum of {most} argument(s)"),
        };
        print(&format!("Incorrect Usage.\n\n{}", usage::command(command)))?;
        return Err(Refused::Invalid(format!("{}: \"{name}\" {wanted}", usage::name())).into());
    }
    (command.run)(context, &parsed)
}

/// Writes to standard output.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush())?;
    Ok(())
}

fn to_json(value: &impl serde::Serialize) -> Result<String, Failure> {
    Ok(serde_json::to_string(value)?)
}
