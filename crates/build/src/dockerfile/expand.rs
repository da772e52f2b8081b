//! Words: how a line is split, and what quotes, escapes and variables in it mean.
//!
//! `$x`, `${x}`, `${x:-word}`, `${x-word}`, `${x:+word}`, `${x+word}`, `${x:?word}`, `${x?word}`, `${x#pattern}`,
//! `${x##pattern}`, `${x%pattern}`, `${x%%pattern}`, `${x/pattern/word}`, `${x//pattern/word}`; a variable that is not
//! set is empty. Single quotes keep everything, double quotes everything but variables.

/// Why a word has no meaning.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WordError {
    /// A quote that does not end.
    #[error("unexpected end of statement while looking for matching {quote}-quote")]
    Unterminated {
        /// `single` or `double`.
        quote: &'static str,
    },
    /// `${` without its end, or without a name.
    #[error("bad substitution: `{text}`")]
    BadSubstitution {
        /// The text.
        text: String,
    },
    /// `${x:?word}` and x is not set.
    #[error("{name}: {message}")]
    Required {
        /// The variable.
        name: String,
        /// The word.
        message: String,
    },
    /// `${x` and something unknown.
    #[error("unsupported modifier ({modifier}) in substitution `{text}`")]
    Modifier {
        /// What follows the name.
        modifier: String,
        /// The text.
        text: String,
    },
    /// Substitutions within substitutions, without end.
    #[error("substitutions are nested too deep")]
    TooDeep,
}

/// How deep `${a:-${b:-…}}` may go: each level is a stack frame.
const MAX_DEPTH: usize = 50;

/// Gives the value of a variable, if it is set.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Expands one word: variables replaced, quotes and escapes gone.
///
/// # Errors
/// If a quote or substitution does not end.
pub fn word(text: &str, escape: char, lookup: Lookup<'_>) -> Result<String, WordError> {
    let words = expand(text, escape, lookup, false)?;
    Ok(words.into_iter().next().unwrap_or_default())
}

/// Expands a word that becomes several if a variable in it, outside quotes, has blanks.
///
/// # Errors
/// As [`word`].
pub fn words(text: &str, escape: char, lookup: Lookup<'_>) -> Result<Vec<String>, WordError> {
    expand(text, escape, lookup, true)
}

/// Expands only the variables: quotes stay as they are, an escape works before `$` only. For here-documents.
///
/// # Errors
/// As [`word`].
pub fn document(text: &str, escape: char, lookup: Lookup<'_>) -> Result<String, WordError> {
    let mut expander = Expander::new(text, escape, lookup);
    let mut out = String::new();
    while let Some(c) = expander.next() {
        if c == escape && expander.peek().is_some_and(|next| next == '$' || next == escape) {
            out.extend(expander.next());
        } else if c == '$' {
            out.push_str(&expander.dollar(0)?);
        } else {
            out.push(c);
        }
    }
    Ok(out)
}

fn expand(text: &str, escape: char, lookup: Lookup<'_>, split: bool) -> Result<Vec<String>, WordError> {
    let mut expander = Expander::new(text, escape, lookup);
    let mut out = Pieces { words: Vec::new(), current: None, split };
    expander.until(None, &mut out, 0)?;
    Ok(out.finish())
}

/// Collects what is expanded, split at blanks if that is wanted.
struct Pieces {
    words: Vec<String>,
    current: Option<String>,
    split: bool,
}

impl Pieces {
    /// Text that is never split: it was quoted or escaped.
    fn quoted(&mut self, text: &str) {
        self.current.get_or_insert_default().push_str(text);
    }

    fn plain(&mut self, text: &str) {
        for c in text.chars() {
            if self.split && c.is_whitespace() {
                self.words.extend(self.current.take());
            } else {
                self.current.get_or_insert_default().push(c);
            }
        }
    }

    fn finish(mut self) -> Vec<String> {
        self.words.extend(self.current.take());
        self.words
    }
}

struct Expander<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    text: &'a str,
    escape: char,
    lookup: Lookup<'a>,
}

impl<'a> Expander<'a> {
    fn new(text: &'a str, escape: char, lookup: Lookup<'a>) -> Expander<'a> {
        Expander { rest: text.chars().peekable(), text, escape, lookup }
    }

    fn next(&mut self) -> Option<char> {
        self.rest.next()
    }

    fn peek(&mut self) -> Option<char> {
        self.rest.peek().copied()
    }

    /// Up to `stop`, which is taken, or the end; `false` if `stop` did not come.
    fn until(&mut self, stop: Option<char>, out: &mut Pieces, depth: usize) -> Result<bool, WordError> {
        while let Some(c) = self.next() {
            if Some(c) == stop {
                return Ok(true);
            }
            match c {
                '\'' => self.single(out)?,
                '"' => self.double(out, depth)?,
                '$' => {
                    let value = self.dollar(depth)?;
                    out.plain(&value);
                }
                c if c == self.escape => {
                    // At the very end it stands for nothing.
                    if let Some(c) = self.next() {
                        out.quoted(c.encode_utf8(&mut [0; 4]));
                    }
                }
                c => out.plain(c.encode_utf8(&mut [0; 4])),
            }
        }
        Ok(stop.is_none())
    }

    fn single(&mut self, out: &mut Pieces) -> Result<(), WordError> {
        out.quoted("");
        loop {
            match self.next() {
                Some('\'') => return Ok(()),
                Some(c) => out.quoted(c.encode_utf8(&mut [0; 4])),
                None => return Err(WordError::Unterminated { quote: "single" }),
            }
        }
    }

    fn double(&mut self, out: &mut Pieces, depth: usize) -> Result<(), WordError> {
        out.quoted("");
        loop {
            match self.next() {
                Some('"') => return Ok(()),
                Some('$') => {
                    let value = self.dollar(depth)?;
                    out.quoted(&value);
                }
                Some(c) if c == self.escape => match self.peek() {
                    Some(next) if next == '"' || next == '$' || next == self.escape => {
                        self.next();
                        out.quoted(next.encode_utf8(&mut [0; 4]));
                    }
                    Some(_) => out.quoted(c.encode_utf8(&mut [0; 4])),
                    None => return Err(WordError::Unterminated { quote: "double" }),
                },
                Some(c) => out.quoted(c.encode_utf8(&mut [0; 4])),
                None => return Err(WordError::Unterminated { quote: "double" }),
            }
        }
    }

    /// What stands for the `$` just taken and what belongs to it.
    fn dollar(&mut self, depth: usize) -> Result<String, WordError> {
        if depth > MAX_DEPTH {
            return Err(WordError::TooDeep);
        }
        if self.peek() != Some('{') {
            let name = self.name();
            return Ok(if name.is_empty() {
                "$".to_owned()
            } else {
                (self.lookup)(&name).unwrap_or_default()
            });
        }
        self.next();
        let bad = |e: &Self| WordError::BadSubstitution { text: e.text.chars().take(200).collect() };
        let name = self.name();
        if name.is_empty() {
            return Err(bad(self));
        }
        let value = (self.lookup)(&name);
        match self.next() {
            Some('}') => Ok(value.unwrap_or_default()),
            Some(':') => {
                let modifier = self.next().ok_or_else(|| bad(self))?;
                let set = value.filter(|v| !v.is_empty());
                self.conditional(&name, modifier, ":", set, depth)
            }
            Some(modifier @ ('-' | '+' | '?')) => self.conditional(&name, modifier, "", value, depth),
            Some(end @ ('#' | '%')) => {
                let longest = self.peek() == Some(end);
                if longest {
                    self.next();
                }
                let pattern = self.argument('}', depth)?;
                Ok(trim(&value.unwrap_or_default(), &pattern, end == '#', longest))
            }
            Some('/') => {
                let all = self.peek() == Some('/');
                if all {
                    self.next();
                }
                let pattern = self.argument('/', depth)?;
                let by = self.argument('}', depth)?;
                Ok(replace(&value.unwrap_or_default(), &pattern, &by, all))
            }
            Some(other) => {
                let text = self.text.chars().take(200).collect();
                Err(WordError::Modifier { modifier: other.to_string(), text })
            }
            None => Err(bad(self)),
        }
    }

    fn conditional(
        &mut self,
        name: &str,
        modifier: char,
        colon: &str,
        set: Option<String>,
        depth: usize,
    ) -> Result<String, WordError> {
        let argument = self.argument('}', depth)?;
        match (modifier, set) {
            ('-' | '?', Some(value)) => Ok(value),
            ('-', None) | ('+', Some(_)) => Ok(argument),
            ('+', None) => Ok(String::new()),
            ('?', None) => {
                let message =
                    if argument.is_empty() { "is not allowed to be unset".to_owned() } else { argument };
                Err(WordError::Required { name: name.to_owned(), message })
            }
            (other, _) => {
                let text = self.text.chars().take(200).collect();
                Err(WordError::Modifier { modifier: format!("{colon}{other}"), text })
            }
        }
    }

    /// The word after a modifier, itself expanded.
    fn argument(&mut self, stop: char, depth: usize) -> Result<String, WordError> {
        let mut out = Pieces { words: Vec::new(), current: None, split: false };
        if !self.until(Some(stop), &mut out, depth + 1)? {
            return Err(WordError::BadSubstitution { text: self.text.chars().take(200).collect() });
        }
        Ok(out.finish().pop().unwrap_or_default())
    }

    /// A name, or one of the shell's single-character ones.
    fn name(&mut self) -> String {
        let mut name = String::new();
        match self.peek() {
            Some(c) if c.is_ascii_digit() || matches!(c, '@' | '*' | '#') => name.extend(self.next()),
            _ => {
                while let Some(c) = self.peek().filter(|c| c.is_ascii_alphanumeric() || *c == '_') {
                    name.push(c);
                    self.next();
                }
            }
        }
        name
    }
}

/// Shell patterns in a substitution: `*` and `?`, and `\` before either.
fn matches(pattern: &[char], text: &[char]) -> bool {
    // Greedy with one step back: linear in pattern times text, whatever the pattern.
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        let escaped = pattern.get(p) == Some(&'\\') && p + 1 < pattern.len();
        let fits = if escaped {
            pattern[p + 1] == text[t]
        } else {
            pattern.get(p).is_some_and(|c| *c == text[t] || *c == '?')
        };
        if pattern.get(p) == Some(&'*') {
            star = Some((p, t));
            p += 1;
        } else if fits {
            p += if escaped { 2 } else { 1 };
            t += 1;
        } else if let Some((star_p, star_t)) = star {
            (p, t) = (star_p + 1, star_t + 1);
            star = Some((star_p, star_t + 1));
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// `${x#p}` and its kin: cuts what fits the pattern from the start or the end.
fn trim(value: &str, pattern: &str, start: bool, longest: bool) -> String {
    let (value, pattern): (Vec<char>, Vec<char>) = (value.chars().collect(), pattern.chars().collect());
    let mut lengths: Vec<usize> = (0..=value.len()).collect();
    if longest {
        lengths.reverse();
    }
    for length in lengths {
        let (cut, kept) = if start {
            (&value[..length], &value[length..])
        } else {
            (&value[value.len() - length..], &value[..value.len() - length])
        };
        if matches(&pattern, cut) {
            return kept.iter().collect();
        }
    }
    value.into_iter().collect()
}

/// `${x/p/w}`: the first, or each, longest part that fits.
fn replace(value: &str, pattern: &str, by: &str, all: bool) -> String {
    let (value, pattern): (Vec<char>, Vec<char>) = (value.chars().collect(), pattern.chars().collect());
    let mut out = String::new();
    let mut at = 0;
    let mut done = false;
    while at < value.len() {
        let end = if done {
            None
        } else {
            (at + 1..=value.len()).rev().find(|end| matches(&pattern, &value[at..*end]))
        };
        match end {
            Some(end) => {
                out.push_str(by);
                at = end;
                done = !all;
            }
            None => {
                out.push(value[at]);
                at += 1;
            }
        }
    }
    out
}

/// Splits a line at blanks outside quotes; quotes and escapes stay in the words.
pub(super) fn split(line: &str, escape: char) -> Vec<String> {
    let mut words = Vec::new();
    let mut current = String::new();
    let mut quote: Option<char> = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match quote {
            None if c.is_whitespace() => {
                if !current.is_empty() {
                    words.push(std::mem::take(&mut current));
                }
                continue;
            }
            None if c == '\'' || c == '"' => quote = Some(c),
            Some(q) if c == q => quote = None,
            _ => {}
        }
        current.push(c);
        // An escape takes the next character along; not in single quotes.
        if c == escape && quote != Some('\'') {
            current.extend(chars.next());
        }
    }
    if !current.is_empty() {
        words.push(current);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(name: &str) -> Option<String> {
        match name {
            "x" => Some("value".into()),
            "path" => Some("/usr/local/lib/a.tar.gz".into()),
            "empty" => Some(String::new()),
            "two" => Some("a b".into()),
            _ => None,
        }
    }

    fn check(text: &str, expected: &str) {
        assert_eq!(word(text, '\\', &lookup).unwrap(), expected, "{text}");
    }

    #[test]
    fn variables_in_all_their_forms() {
        for (text, expected) in [
            ("$x", "value"),
            ("${x}", "value"),
            ("a${x}b$x.c", "avalueb$x.c".replace("$x", "value").as_str()),
            ("$none", ""),
            ("${none:-d}", "d"),
            ("${empty:-d}", "d"),
            ("${empty-d}", ""),
            ("${x:-d}", "value"),
            ("${x:+alt}", "alt"),
            ("${none:+alt}", ""),
            ("${empty+alt}", "alt"),
            ("${empty:+alt}", ""),
            ("${none:-${x}}", "value"),
            ("${none:-$none2}", ""),
            ("${none:-'a b'}", "a b"),
            ("${path#*/}", "usr/local/lib/a.tar.gz"),
            ("${path##*/}", "a.tar.gz"),
            ("${path%.*}", "/usr/local/lib/a.tar"),
            ("${path%%.*}", "/usr/local/lib/a"),
            ("${path%nothing}", "/usr/local/lib/a.tar.gz"),
            ("${path/local/opt}", "/usr/opt/lib/a.tar.gz"),
            ("${path//a/A}", "/usr/locAl/lib/A.tAr.gz"),
            ("${x?needed}", "value"),
            ("\\$x", "$x"),
            ("'$x'", "$x"),
            ("\"$x y\"", "value y"),
            ("\"\\$x \\n\"", "$x \\n"),
            ("a\\ b", "a b"),
            ("$", "$"),
            ("a$", "a$"),
            ("$.", "$."),
            ("5$1x", "5x"),
            ("it\"'\"s", "it's"),
            ("", ""),
            ("end\\", "end"),
        ] {
            check(text, expected);
        }
        assert_eq!(words("$two \"$two\" c", '\\', &lookup).unwrap(), ["a", "b", "a b", "c"]);
        assert_eq!(word("C:\\$x`$x", '`', &lookup).unwrap(), "C:\\value$x");
        assert_eq!(
            document("\"$x\" 'y' \\$x \\n ${none:-z}", '\\', &lookup).unwrap(),
            "\"value\" 'y' $x \\n z"
        );
    }

    #[test]
    fn what_does_not_end_is_told() {
        for (text, why) in [
            ("'a", "single-quote"),
            ("\"a", "double-quote"),
            ("${x", "bad substitution"),
            ("${}", "bad substitution"),
            ("${x:-a", "bad substitution"),
            ("${x:a}", "unsupported modifier (:a)"),
            ("${x!}", "unsupported modifier (!)"),
            ("${none:?must be there}", "none: must be there"),
            (&"${a:-".repeat(100), "nested too deep"),
        ] {
            let error = word(text, '\\', &lookup).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn lines_split_outside_quotes() {
        assert_eq!(split(r#"a "b c" 'd  e'f g\ h"#, '\\'), ["a", "\"b c\"", "'d  e'f", "g\\ h"]);
    }
}
