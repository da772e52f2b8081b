//! A command line in the manner of runc's: options with one dash or two, values after `=` or a space, options before
//! and after the other arguments (but for `exec`, whose command has options of its own).

use crate::error::Refused;

/// An option that a command knows.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// Its name, without dashes.
    pub name: &'static str,
    /// Its one-letter name.
    pub short: Option<char>,
    /// Whether it has a value, and if so what the value is called.
    pub value: Option<&'static str>,
    /// What it does.
    pub help: &'static str,
}

/// An option with a value.
pub const fn value(name: &'static str, value: &'static str, help: &'static str) -> Known {
    Known { name, short: None, value: Some(value), help }
}

/// An option that is there or not.
pub const fn flag(name: &'static str, help: &'static str) -> Known {
    Known { name, short: None, value: None, help }
}

impl Known {
    /// The same, with a one-letter name.
    pub const fn or(self, short: char) -> Known {
        Known { short: Some(short), ..self }
    }
}

/// A parsed command line.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Parsed {
    options: Vec<(&'static str, String)>,
    /// What is no option.
    pub rest: Vec<String>,
}

/// Where options end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// At the first argument that is none.
    FirstArgument,
    /// Nowhere, but at `--`.
    Nowhere,
}

/// Parses `args`.
///
/// # Errors
/// If an option is unknown or lacks its value.
pub fn parse(known: &[Known], args: &[String], end: End) -> Result<Parsed, Refused> {
    let mut parsed = Parsed::default();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let name = match arg.strip_prefix('-') {
            None | Some("") => {
                parsed.rest.push(arg.clone());
                if end == End::FirstArgument {
                    break;
                }
                continue;
            }
            Some("-") => break,
            Some(name) => name.strip_prefix('-').unwrap_or(name),
        };
        let (name, attached) = match name.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (name, None),
        };
        let is = |k: &&Known| k.name == name || k.short.is_some_and(|s| name.chars().eq([s]));
        let Some(option) = known.iter().find(is) else {
            return Err(Refused::Invalid(format!("unknown option `{arg}`")));
        };
        let value = match (option.value, attached) {
            (_, Some(value)) => value,
            (None, None) => "true".to_owned(),
            (Some(_), None) => match args.next() {
                Some(value) => value.clone(),
                None => return Err(Refused::Invalid(format!("option `{arg}` needs a value"))),
            },
        };
        parsed.options.push((option.name, value));
    }
    parsed.rest.extend(args.cloned());
    Ok(parsed)
}

impl Parsed {
    /// An option's value; the last one, if it is given more than once.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.options.iter().rev().find(|(n, _)| *n == name).map(|(_, value)| value.as_str())
    }

    /// All values of an option.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.options.iter().filter(move |(n, _)| *n == name).map(|(_, value)| value.as_str())
    }

    /// Whether an option is set.
    pub fn has(&self, name: &str) -> bool {
        !matches!(self.get(name), None | Some("false"))
    }

    /// An option's value as a number.
    ///
    /// # Errors
    /// If it is none.
    pub fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, Refused> {
        let number = |text: &str| {
            text.parse().map_err(|_| Refused::Invalid(format!("`--{name} {text}` is no number")))
        };
        self.get(name).map(number).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [Known; 3] =
        [value("bundle", "DIR", "").or('b'), flag("force", "").or('f'), value("env", "E", "")];

    fn check(args: &str, end: End) -> Result<Parsed, String> {
        let args: Vec<String> = args.split(' ').map(str::to_owned).collect();
        parse(&KNOWN, &args, end).map_err(|e| e.to_string())
    }

    #[test]
    fn options_stand_before_and_after_arguments() {
        for line in ["--bundle B -f ID", "ID -b B --force", "ID -b=B -force=true", "-bundle B --force -- ID"]
        {
            let parsed = check(line, End::Nowhere).unwrap();
            assert_eq!((parsed.get("bundle"), parsed.has("force")), (Some("B"), true), "{line}");
            assert_eq!(parsed.rest, ["ID"], "{line}");
        }
        assert!(!check("--force=false ID", End::Nowhere).unwrap().has("force"));
    }

    #[test]
    fn a_commands_own_options_are_left_alone() {
        let parsed = check("--env A --env B ID ls -b --force", End::FirstArgument).unwrap();
        assert_eq!(parsed.rest, ["ID", "ls", "-b", "--force"]);
        assert_eq!(parsed.all("env").collect::<Vec<_>>(), ["A", "B"]);
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!(check("--moon", End::Nowhere).unwrap_err(), "unknown option `--moon`");
        assert_eq!(check("ID -b", End::Nowhere).unwrap_err(), "option `-b` needs a value");
    }
}
