//! The words of the command line, as Docker's client takes them: switches may have a value (`--rm=false`), the last of a
//! flag that is given twice counts, and exit codes tell wrong flags (125) from all else (1).

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, Command, CommandFactory, FromArgMatches};

/// Reads the words; the exit code if there is nothing left to do. To describe all verbs takes as long as asking the
/// daemon something, so `only` may describe the whole program as if it had only the one that is asked for. Whatever is
/// wrong then is told by the whole.
pub(crate) fn parse<T: CommandFactory + FromArgMatches>(
    only: impl FnOnce(&str) -> Option<Command>,
) -> Result<T, ExitCode> {
    let words: Vec<OsString> = std::env::args_os().collect();
    let read = |command: Command| {
        let command = command.args_override_self(true);
        let words = plain(&command, words.clone());
        command.try_get_matches_from(words).and_then(|matches| T::from_arg_matches(&matches))
    };
    let only = words.get(1).and_then(|word| word.to_str()).and_then(only);
    if let Some(Ok(arguments)) = only.map(read) {
        return Ok(arguments);
    }
    read(T::command()).map_err(|error| {
        // Where nobody listens, nobody misses it.
        let _ = error.print();
        ExitCode::from(exit_code(error.kind()))
    })
}

fn exit_code(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => 0,
        ErrorKind::UnknownArgument
        | ErrorKind::InvalidValue
        | ErrorKind::ValueValidation
        | ErrorKind::NoEquals
        | ErrorKind::TooManyValues
        | ErrorKind::ArgumentConflict
        | ErrorKind::InvalidUtf8 => 125,
        _ => 1,
    }
}

/// A word that says yes or no, as Go's flags take it.
fn switch(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn long<'c>(command: &'c Command, name: &str) -> Option<&'c Arg> {
    command.get_arguments().find(|arg| {
        arg.get_long() == Some(name) || arg.get_all_aliases().is_some_and(|all| all.contains(&name))
    })
}

fn short(command: &Command, letter: char) -> Option<&Arg> {
    command.get_arguments().find(|arg| arg.get_short() == Some(letter))
}

fn is_switch(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::SetTrue)
}

/// Whether the next word is this flag's value.
fn takes_next(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Set | ArgAction::Append) && !arg.is_require_equals_set()
}

/// Words in which switches have no values.
fn plain(root: &Command, words: Vec<OsString>) -> Vec<OsString> {
    let mut command = root;
    let mut out = Vec::with_capacity(words.len());
    let mut words = words.into_iter();
    out.extend(words.next());
    while let Some(word) = words.next() {
        let Some(text) = word.to_str().map(str::to_owned) else {
            out.push(word);
            continue;
        };
        if text == "--" {
            out.push(word);
            break;
        }
        if let Some(flag) = text.strip_prefix("--") {
            let (name, value) = flag.split_once('=').map_or((flag, None), |(n, v)| (n, Some(v)));
            match (long(command, name), value) {
                (Some(arg), Some(value)) if is_switch(arg) => match switch(value) {
                    Some(true) => out.push(format!("--{name}").into()),
                    Some(false) => {}
                    None => out.push(word),
                },
                (Some(arg), None) if takes_next(arg) => {
                    out.push(word);
                    out.extend(words.next());
                }
                _ => out.push(word),
            }
            continue;
        }
        if let Some(letters) = text.strip_prefix('-').filter(|l| !l.is_empty()) {
            let mut kept = text.clone();
            let mut next = false;
            for (at, letter) in letters.char_indices() {
                let Some(arg) = short(command, letter) else { break };
                let rest = &letters[at + letter.len_utf8()..];
                if !is_switch(arg) {
                    next = rest.is_empty() && takes_next(arg);
                    break;
                }
                if let Some(value) = rest.strip_prefix('=').and_then(switch) {
                    let before = &letters[..at];
                    kept = if value { format!("-{before}{letter}") } else { format!("-{before}") };
                    break;
                }
            }
            if kept != "-" {
                out.push(kept.into());
            }
            if next {
                out.extend(words.next());
            }
            continue;
        }
        let verb = command.find_subcommand(&text);
        out.push(word);
        match verb {
            Some(verb) => command = verb,
            // What follows is the container's command.
            None if command.is_trailing_var_arg_set() => break,
            None => {}
        }
    }
    out.extend(words);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> String {
        let command = crate::Arguments::command();
        let all = plain(&command, line.split(' ').map(OsString::from).collect());
        all.into_iter().map(|w| w.into_string().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn switches_may_have_values() {
        for (line, expected) in [
            (
                "sampan run --rm=true -d=false --name x image --rm=false",
                "sampan run --rm --name x image --rm=false",
            ),
            ("sampan run --init=0 --name --rm=true image cmd", "sampan run --name --rm=true image cmd"),
            ("sampan ps -aq=true --no-trunc=1", "sampan ps -aq --no-trunc"),
            ("sampan ps --all=perhaps", "sampan ps --all=perhaps"),
            ("sampan run --sig-proxy=false i", "sampan run --sig-proxy=false i"),
            ("sampan run -e A=1 -itp 80:80 i -d=true", "sampan run -e A=1 -itp 80:80 i -d=true"),
            ("sampan -H unix:///x container rm --force=false a", "sampan -H unix:///x container rm a"),
            ("sampan rm -- --force=true", "sampan rm -- --force=true"),
        ] {
            assert_eq!(words(line), expected, "{line}");
        }
    }

    #[test]
    fn the_flags_fit_together() {
        crate::Arguments::command().debug_assert();
    }

    /// The verb, and what each of its arguments was given.
    fn given(matches: &clap::ArgMatches) -> (String, Vec<String>) {
        let (verb, given) = matches.subcommand().unwrap();
        let values = |id: &str| given.get_raw(id).map(|raw| raw.map(|v| v.display().to_string()).collect());
        let one = |id: &clap::Id| {
            let values: Option<Vec<String>> = values(id.as_str());
            format!("{id} {:?} {values:?}", given.value_source(id.as_str()))
        };
        (verb.to_owned(), given.ids().map(one).collect())
    }

    #[test]
    fn a_verb_alone_is_read_as_among_all() {
        for line in [
            "sampan run --rm -e A=1 --memory 5m --name x -it image sh -c ls",
            "sampan create --label a=b image",
            "sampan exec -it -u 5 c ls -l",
            "sampan ps -aq --filter name=x",
            "sampan start -a c",
            "sampan stop -t 5 c",
            "sampan kill -s HUP c",
            "sampan rm -fv c",
            "sampan wait c",
            "sampan logs -f --tail 5 c",
            "sampan inspect c",
            "sampan images -q",
        ] {
            let words = || line.split(' ').map(OsString::from);
            let verb = line.split(' ').nth(1).unwrap();
            let alone = crate::only(verb).unwrap().try_get_matches_from(words()).unwrap();
            let all = crate::Arguments::command().try_get_matches_from(words()).unwrap();
            assert_eq!(given(&alone), given(&all), "{line}");
            assert!(crate::Arguments::from_arg_matches(&alone).is_ok());
        }
        assert!(crate::only("container").is_none());
    }

    #[test]
    fn the_last_of_a_flag_counts() {
        let command = crate::Arguments::command().args_override_self(true);
        let read = command.try_get_matches_from([
            "sampan", "run", "--name", "a", "--name", "b", "--rm", "--rm", "-e", "A=1", "-e", "B=2", "i",
        ]);
        let read = read.unwrap();
        let (_, run) = read.subcommand().unwrap();
        assert_eq!(run.get_one::<String>("name").unwrap(), "b");
        assert_eq!(run.get_many::<String>("env").unwrap().count(), 2);
    }
}
