//! Words: how a line is split, and what quotes, escapes and variables in it mean.
//!
//! `$x`, `${x}`, `${x:-word}`, `${x-word}`, `${x:+word}`, `${x+word}`, `${x:?word}`, `${x?word}`, `${x#pattern}`,
//! `${x##pattern}`, `${x%pattern}`, `${x%%pattern}`, `${x/pattern/word}`, `${x//pattern/word}`; a variable that is not
//! set is empty. Single quotes keep everything, double quotes everything but variables. How values are cut and replaced
//! is in [`substitute`](super::substitute).

use super::substitute;

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
    /// A pattern with a `\` before something that needs none.
    #[error("invalid escape `\\{character}` in the pattern `{pattern}`")]
    Escape {
        /// What is escaped.
        character: char,
        /// The pattern.
        pattern: String,
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
    /// More text than [`MAX_EXPANDED_BYTES`].
    #[error("variables expand to more than {MAX_EXPANDED_BYTES} bytes")]
    TooLong,
    /// Substitutions within substitutions, without end.
    #[error("substitutions are nested too deep")]
    TooDeep,
}

/// How deep `${a:-${b:-…}}` may go: each level is a stack frame.
const MAX_DEPTH: usize = 50;

/// Bytes that variables of one word may expand to: `ENV a=$a$a` doubles each time, and no program can be given more.
pub const MAX_EXPANDED_BYTES: usize = 1024 * 1024;

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

/// Expands a here-document of `COPY`: quotes are text, a `\` takes away the meaning of what follows, whatever that is
/// and whatever the file's escape character.
///
/// # Errors
/// As [`word`].
pub fn document(text: &str, lookup: Lookup<'_>) -> Result<String, WordError> {
    let mut expander = Expander { quotes: false, ..Expander::new(text, '\\', lookup) };
    let mut out = Pieces::new(false);
    expander.until(None, &mut out, false, 0)?;
    Ok(out.finish().pop().unwrap_or_default())
}

fn expand(text: &str, escape: char, lookup: Lookup<'_>, split: bool) -> Result<Vec<String>, WordError> {
    let mut expander = Expander::new(text, escape, lookup);
    let mut out = Pieces::new(split);
    expander.until(None, &mut out, false, 0)?;
    Ok(out.finish())
}

/// Collects what is expanded, split at blanks if that is wanted.
struct Pieces {
    words: Vec<String>,
    current: String,
    split: bool,
}

impl Pieces {
    fn new(split: bool) -> Pieces {
        Pieces { words: Vec::new(), current: String::new(), split }
    }

    /// Text that is never split: it was quoted or escaped.
    fn quoted(&mut self, text: &str) {
        self.current.push_str(text);
    }

    fn plain(&mut self, text: &str) {
        for c in text.chars() {
            if self.split && c.is_whitespace() {
                self.end_word();
            } else {
                self.current.push(c);
            }
        }
    }

    /// An empty word is none, even if it was quoted.
    fn end_word(&mut self) {
        if !self.current.is_empty() {
            self.words.push(std::mem::take(&mut self.current));
        }
    }

    fn finish(mut self) -> Vec<String> {
        self.end_word();
        self.words
    }
}

struct Expander<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    text: &'a str,
    escape: char,
    /// Whether quotes have a meaning.
    quotes: bool,
    /// Bytes that variables gave so far.
    expanded: usize,
    lookup: Lookup<'a>,
}

impl<'a> Expander<'a> {
    fn new(text: &'a str, escape: char, lookup: Lookup<'a>) -> Expander<'a> {
        Expander { rest: text.chars().peekable(), text, escape, quotes: true, expanded: 0, lookup }
    }

    fn next(&mut self) -> Option<char> {
        self.rest.next()
    }

    fn peek(&mut self) -> Option<char> {
        self.rest.peek().copied()
    }

    /// Up to `stop`, which is taken, or the end; `false` if `stop` did not come. Raw text keeps its escapes: a pattern
    /// has its own use for them.
    fn until(
        &mut self,
        stop: Option<char>,
        out: &mut Pieces,
        raw: bool,
        depth: usize,
    ) -> Result<bool, WordError> {
        while let Some(c) = self.next() {
            if Some(c) == stop {
                return Ok(true);
            }
            match c {
                '\'' if self.quotes => self.single(out)?,
                '"' if self.quotes => self.double(out, raw, depth)?,
                '$' => {
                    let value = self.dollar(depth)?;
                    out.plain(&value);
                }
                c if c == self.escape => {
                    if raw {
                        out.quoted(c.encode_utf8(&mut [0; 4]));
                    }
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
        loop {
            match self.next() {
                Some('\'') => return Ok(()),
                Some(c) => out.quoted(c.encode_utf8(&mut [0; 4])),
                None => return Err(WordError::Unterminated { quote: "single" }),
            }
        }
    }

    fn double(&mut self, out: &mut Pieces, raw: bool, depth: usize) -> Result<(), WordError> {
        loop {
            match self.next() {
                Some('"') => return Ok(()),
                Some('$') => {
                    let value = self.dollar(depth)?;
                    out.quoted(&value);
                }
                Some(c) if c == self.escape => {
                    let known = self.peek().filter(|next| matches!(next, '"' | '$') || *next == self.escape);
                    if raw || known.is_none() {
                        out.quoted(c.encode_utf8(&mut [0; 4]));
                    }
                    if let Some(next) = known {
                        self.next();
                        out.quoted(next.encode_utf8(&mut [0; 4]));
                    }
                }
                Some(c) => out.quoted(c.encode_utf8(&mut [0; 4])),
                None => return Err(WordError::Unterminated { quote: "double" }),
            }
        }
    }

    fn bad(&self) -> WordError {
        WordError::BadSubstitution { text: self.shown() }
    }

    fn shown(&self) -> String {
        self.text.chars().take(200).collect()
    }

    /// What stands for the `$` just taken and what belongs to it.
    fn dollar(&mut self, depth: usize) -> Result<String, WordError> {
        let value = self.substituted(depth)?;
        self.expanded = self.expanded.saturating_add(value.len());
        if self.expanded > MAX_EXPANDED_BYTES { Err(WordError::TooLong) } else { Ok(value) }
    }

    fn substituted(&mut self, depth: usize) -> Result<String, WordError> {
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
        if matches!(self.peek(), None | Some('{' | '}' | ':')) {
            return Err(self.bad());
        }
        let name = self.name();
        let value = (self.lookup)(&name);
        match self.next() {
            Some('}') => Ok(value.unwrap_or_default()),
            Some(':') => {
                let modifier = self.next().ok_or_else(|| self.bad())?;
                self.modified(&name, modifier, true, value, depth)
            }
            Some(modifier @ ('-' | '+' | '?' | '#' | '%')) => {
                self.modified(&name, modifier, false, value, depth)
            }
            Some('/') => {
                let all = self.peek() == Some('/');
                if all {
                    self.next();
                }
                let pattern = self.argument('/', true, depth)?;
                let by = self.argument('}', true, depth)?;
                substitute::replace(&value.unwrap_or_default(), &pattern, &by, all)
            }
            Some(other) => Err(WordError::Modifier { modifier: other.to_string(), text: self.shown() }),
            None => Err(self.bad()),
        }
    }

    /// `${name`, perhaps a colon, the modifier: the rest. With a colon an empty value is none.
    fn modified(
        &mut self,
        name: &str,
        modifier: char,
        colon: bool,
        value: Option<String>,
        depth: usize,
    ) -> Result<String, WordError> {
        let cuts = matches!(modifier, '#' | '%');
        let argument = self.argument('}', cuts, depth)?;
        if cuts {
            let value = value.unwrap_or_default();
            return match argument.strip_prefix(modifier) {
                Some(pattern) => substitute::trim(&value, pattern, modifier == '#', true),
                None => substitute::trim(&value, &argument, modifier == '#', false),
            };
        }
        let unset = value.is_none();
        match (modifier, value.filter(|v| !colon || !v.is_empty())) {
            ('-' | '?', Some(value)) => Ok(value),
            ('-', None) | ('+', Some(_)) => Ok(argument),
            ('+', None) => Ok(String::new()),
            ('?', None) => {
                let message = match argument.as_str() {
                    "" if unset => "is not allowed to be unset",
                    "" => "is not allowed to be empty",
                    message => message,
                };
                Err(WordError::Required { name: name.to_owned(), message: message.to_owned() })
            }
            (other, _) => {
                let modifier = if colon { format!(":{other}") } else { other.to_string() };
                Err(WordError::Modifier { modifier, text: self.shown() })
            }
        }
    }

    /// The word after a modifier, itself expanded.
    fn argument(&mut self, stop: char, raw: bool, depth: usize) -> Result<String, WordError> {
        let mut out = Pieces::new(false);
        if !self.until(Some(stop), &mut out, raw, depth + 1)? {
            return Err(self.bad());
        }
        Ok(out.finish().pop().unwrap_or_default())
    }

    /// A name, a number, or one of the shell's special ones.
    fn name(&mut self) -> String {
        let mut name = String::new();
        match self.peek() {
            Some(c) if c.is_ascii_digit() => {
                while let Some(c) = self.rest.next_if(char::is_ascii_digit) {
                    name.push(c);
                }
            }
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => name.extend(self.next()),
            _ => {
                while let Some(c) = self.rest.next_if(|c| c.is_alphanumeric() || *c == '_') {
                    name.push(c);
                }
            }
        }
        name
    }
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
            ("5$12x", "5x"),
            ("$$x", "x"),
            ("$?$-a", "a"),
            ("${-}", ""),
            ("${x:#va}", "lue"),
            ("${path//\\//_}", "_usr_local_lib_a.tar.gz"),
            ("${x/*}/\\}}", "value"),
            ("${x/a/${x}}", "vvaluelue"),
            ("${x/?/}", "alue"),
            ("${x//l*/\"$path\"}", "va/usr/local/lib/a.tar.gz"),
            ("${x#'v*'}", "alue"),
            ("${none:-\"a ${x} b\"}", "a value b"),
            ("${none:-a\\}b}", "a}b"),
            ("\"${none:-'a'}\"", "a"),
            ("it\"'\"s", "it's"),
            ("", ""),
            ("end\\", "end"),
        ] {
            check(text, expected);
        }
        assert_eq!(words("\"\" $none '' a\"\"", '\\', &lookup).unwrap(), ["a"]);
        assert_eq!(words("$two \"$two\" c", '\\', &lookup).unwrap(), ["a", "b", "a b", "c"]);
        assert_eq!(word("C:\\$x`$x", '`', &lookup).unwrap(), "C:\\value$x");
        assert_eq!(
            document("\"$x\" 'y' \\$x \\\\ \\n ${none:-'z'} \\", &lookup).unwrap(),
            "\"value\" 'y' $x \\ n 'z' "
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
            ("${empty:?}", "empty: is not allowed to be empty"),
            ("${none?}", "none: is not allowed to be unset"),
            ("${:x}", "bad substitution"),
            ("${{x}", "bad substitution"),
            ("${x/a}", "bad substitution"),
            ("${x#\\a}", "invalid escape `\\a`"),
            (&"${a:-".repeat(100), "nested too deep"),
        ] {
            let error = word(text, '\\', &lookup).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn variables_do_not_grow_without_end() {
        let long = "x".repeat(600_000);
        let lookup = |_: &str| Some(long.clone());
        assert_eq!(word("$a", '\\', &lookup).unwrap().len(), 600_000);
        assert_eq!(word("$a$a", '\\', &lookup), Err(WordError::TooLong));
        assert_eq!(word("${a/x/y}", '\\', &lookup), Err(WordError::TooLong));
    }

    #[test]
    fn lines_split_outside_quotes() {
        assert_eq!(split(r#"a "b c" 'd  e'f g\ h"#, '\\'), ["a", "\"b c\"", "'d  e'f", "g\\ h"]);
    }
}
