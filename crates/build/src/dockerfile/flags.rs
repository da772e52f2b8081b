//! The options of an instruction: `--name=value` words before its arguments.

use super::Problem;
use super::near::suggest;

/// An option as written, quotes and backslashes gone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Flag {
    pub(super) name: String,
    /// `None`: there is no `=`.
    pub(super) value: Option<String>,
}

/// Takes the options off the start of `text`. Here a backslash always escapes, whatever the file's escape character.
pub(super) fn take(text: &str) -> (Vec<Flag>, &str) {
    let mut flags = Vec::new();
    let mut rest = text.trim_start();
    while rest.starts_with("--") {
        let (word, after) = first_word(rest);
        rest = after.trim_start();
        if word == "--" {
            break;
        }
        let word = &word[2..];
        flags.push(match word.split_once('=') {
            Some((name, value)) => Flag { name: name.to_owned(), value: Some(value.to_owned()) },
            None => Flag { name: word.to_owned(), value: None },
        });
    }
    (flags, rest)
}

/// The first word without its quotes and backslashes, and what follows it.
fn first_word(text: &str) -> (String, &str) {
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match quote {
            None if c.is_whitespace() => return (word, &text[at..]),
            None if c == '"' || c == '\'' => quote = Some(c),
            Some(q) if q == c => quote = None,
            _ if c == '\\' => word.extend(chars.next().map(|(_, c)| c)),
            _ => word.push(c),
        }
    }
    (word, "")
}

/// The options of one instruction; each is taken once, and in the end none may be left.
pub(super) struct Flags<'a> {
    instruction: &'a str,
    flags: Vec<Flag>,
    known: Vec<&'static str>,
}

impl<'a> Flags<'a> {
    pub(super) fn new(instruction: &'a str, flags: Vec<Flag>) -> Flags<'a> {
        Flags { instruction, flags, known: Vec::new() }
    }

    fn wrong(&self, what: &'static str, name: &str) -> Problem {
        Problem::Flag { instruction: self.instruction.to_owned(), what, flag: format!("--{name}") }
    }

    fn all_of(&mut self, name: &'static str) -> Vec<Flag> {
        self.known.push(name);
        self.flags.extract_if(.., |f| f.name == name).collect()
    }

    fn one(&mut self, name: &'static str) -> Result<Option<Flag>, Problem> {
        let mut all = self.all_of(name);
        if all.len() > 1 {
            return Err(self.wrong("duplicate flag specified:", name));
        }
        Ok(all.pop())
    }

    /// `--name=value`
    pub(super) fn text(&mut self, name: &'static str) -> Result<Option<String>, Problem> {
        match self.one(name)? {
            Some(Flag { value: None, .. }) => Err(self.wrong("missing a value on flag:", name)),
            flag => Ok(flag.and_then(|f| f.value)),
        }
    }

    /// `--name=value`, as often as wanted.
    pub(super) fn texts(&mut self, name: &'static str) -> Result<Vec<String>, Problem> {
        let values: Option<Vec<String>> = self.all_of(name).into_iter().map(|f| f.value).collect();
        values.ok_or_else(|| self.wrong("missing a value on flag:", name))
    }

    /// `--name`, `--name=true`, `--name=false`
    pub(super) fn bool(&mut self, name: &'static str) -> Result<Option<bool>, Problem> {
        let Some(flag) = self.one(name)? else { return Ok(None) };
        match flag.value.map(|v| v.to_ascii_lowercase()).as_deref() {
            None | Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some("") => Err(self.wrong("missing a value on flag:", name)),
            Some(_) => Err(self.wrong("expecting `true` or `false` as the value of", name)),
        }
    }

    /// All that are known were taken.
    pub(super) fn finish(self) -> Result<(), Problem> {
        let Some(flag) = self.flags.first() else { return Ok(()) };
        Err(Problem::UnknownFlag {
            instruction: self.instruction.to_owned(),
            suggestion: suggest(&flag.name, &self.known),
            flag: format!("--{}", flag.name.chars().take(100).collect::<String>()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_backslashes_hold_words_together() {
        let (flags, rest) = take(" --a=\"b c\" --d --e='f\\'' --g=\\\"h\\ i  -- --j k");
        let shown: Vec<(&str, Option<&str>)> =
            flags.iter().map(|f| (f.name.as_str(), f.value.as_deref())).collect();
        assert_eq!(shown, [("a", Some("b c")), ("d", None), ("e", Some("f'")), ("g", Some("\"h i"))]);
        assert_eq!(rest, "--j k");
    }
}
