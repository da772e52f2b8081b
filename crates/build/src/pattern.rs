//! Path patterns, as Go matches them: `*` and `?` stop at a slash, `[a-z]` and `[^a]` are classes, `\` escapes; and, in
//! `.dockerignore`, `**` is any number of directories.
//!
//! Our own, since `.dockerignore` treats a `**` inside a name (`a**b`) as crossing directories, which globset does not.

/// A pattern, taken apart.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pattern {
    tokens: Vec<Token>,
}

/// The pattern is none: a class or an escape does not end, or it is longer than a path.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("syntax error in pattern `{pattern}`")]
pub struct BadPattern {
    /// As written.
    pub pattern: String,
}

/// Matching goes as deep as the pattern is long.
const MAX_PATTERN_BYTES: usize = 1024;

#[derive(Clone, PartialEq, Eq, Debug)]
enum Token {
    Literal(char),
    /// `?`
    One,
    /// `*`
    Name,
    /// `[…]`
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
    /// `**` with something behind it: nothing, or anything up to a slash.
    Directories,
    /// `**` at the end: anything.
    Anything,
    /// An unescaped `^` outside a class: Docker makes it an anchor, which fits nothing but the very start.
    Start,
}

impl Pattern {
    /// A pattern of `COPY`: no `**`.
    ///
    /// # Errors
    /// If it is malformed.
    pub fn for_copy(text: &str) -> Result<Pattern, BadPattern> {
        parse(text, false)
    }

    /// A pattern of `.dockerignore`.
    ///
    /// # Errors
    /// If it is malformed.
    pub fn for_ignore(text: &str) -> Result<Pattern, BadPattern> {
        parse(text, true)
    }

    /// Whether the whole of `text` fits.
    pub fn matches(&self, text: &str) -> bool {
        let text: Vec<char> = text.chars().collect();
        let mut failed = vec![false; (self.tokens.len() + 1) * (text.len() + 1)];
        self.fits(0, &text, 0, &mut failed)
    }

    /// Each pair of positions is tried once: no pattern takes more than its length times the text's.
    fn fits(&self, token: usize, text: &[char], at: usize, failed: &mut [bool]) -> bool {
        let Some(current) = self.tokens.get(token) else { return at == text.len() };
        let state = token * (text.len() + 1) + at;
        if failed[state] {
            return false;
        }
        let rest = |next: usize, failed: &mut [bool]| self.fits(token + 1, text, next, failed);
        let here = text.get(at).copied();
        let found = match current {
            Token::Literal(c) => here == Some(*c) && rest(at + 1, failed),
            Token::One => here.is_some_and(|c| c != '/') && rest(at + 1, failed),
            Token::Class { negated, ranges } => {
                let within = |c: char| ranges.iter().any(|(from, to)| (*from..=*to).contains(&c));
                here.is_some_and(|c| within(c) != *negated) && rest(at + 1, failed)
            }
            Token::Name => {
                let end = text[at..].iter().position(|c| *c == '/').map_or(text.len(), |n| at + n);
                (at..=end).any(|next| rest(next, failed))
            }
            Token::Directories => {
                rest(at, failed) || (at..text.len()).any(|i| text[i] == '/' && rest(i + 1, failed))
            }
            Token::Anything => (at..=text.len()).any(|next| rest(next, failed)),
            Token::Start => at == 0 && rest(at, failed),
        };
        failed[state] = !found;
        found
    }
}

/// Whether a text has anything that makes it a pattern.
pub(crate) fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

fn parse(text: &str, double_star: bool) -> Result<Pattern, BadPattern> {
    let bad = || BadPattern { pattern: text.chars().take(200).collect() };
    if text.len() > MAX_PATTERN_BYTES {
        return Err(bad());
    }
    let plain = |text: &str| !text.contains(['*', '?', '[', ']', '\\']);
    // Docker compares these as texts, and makes regular expressions of the others.
    let ends_so = double_star && text.strip_prefix("**").is_some_and(plain);
    let compared = ends_so || plain(text.strip_suffix("**").unwrap_or(text));
    let mut chars = text.chars().peekable();
    let mut tokens = Vec::new();
    while let Some(c) = chars.next() {
        tokens.push(match c {
            '*' if double_star && chars.next_if_eq(&'*').is_some() => {
                let slash = chars.next_if_eq(&'/').is_some();
                let anything = chars.peek().is_none() || (ends_so && !slash);
                if anything { Token::Anything } else { Token::Directories }
            }
            '*' => Token::Name,
            '?' => Token::One,
            '\\' => Token::Literal(chars.next().ok_or_else(bad)?),
            '[' => class(&mut chars).ok_or_else(bad)?,
            '^' if double_star && !compared => Token::Start,
            c => Token::Literal(c),
        });
    }
    // Repeated stars are one, or matching would be cubic.
    tokens.dedup_by(|b, a| a == b && matches!(a, Token::Name | Token::Anything | Token::Directories));
    Ok(Pattern { tokens })
}

/// A class, after its `[`.
fn class(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<Token> {
    let negated = chars.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    while ranges.is_empty() || chars.next_if_eq(&']').is_none() {
        let from = class_member(chars)?;
        let to = if chars.next_if_eq(&'-').is_some() { class_member(chars)? } else { from };
        ranges.push((from, to));
    }
    Some(Token::Class { negated, ranges })
}

fn class_member(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<char> {
    match chars.next()? {
        // These stand for themselves only behind a backslash.
        '-' | ']' => None,
        '\\' => chars.next(),
        c => Some(c),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    #[test]
    fn fits_as_go_does() {
        for (pattern, text, expected) in [
            ("*.go", "a.go", true),
            ("*.go", "d/a.go", false),
            ("d/*", "d/a", true),
            ("d/*", "d/a/b", false),
            ("a?c", "abc", true),
            ("a?c", "a/c", false),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("[\\]a]", "]", true),
            ("[a\\-c]", "-", true),
            ("a]", "a]", true),
            ("^a*", "^ab", true),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            ("", "", true),
            ("ab*b*b", "abbxb", true),
            ("a**b", "axyb", true),
            ("a**b", "a/b", false),
        ] {
            assert_eq!(Pattern::for_copy(pattern).unwrap().matches(text), expected, "{pattern} {text}");
        }
        for (pattern, text, expected) in [
            ("**/x", "x", true),
            ("**/x", "a/b/x", true),
            ("**/x", "a/bx", false),
            ("a/**", "a/b/c", true),
            ("a/**", "a", false),
            ("**", "a/b", true),
            ("a**b", "a/x/b", true),
            ("a**b", "ab", true),
            ("a**b", "axb", false),
            ("a**/b", "ab", true),
            ("**b", "ab", true),
            ("**b*", "ab", false),
            ("**b*", "a/bc", true),
            ("**/b", "ab", false),
            ("a**", "abc/d", true),
            ("***b", "xb", true),
            ("a^b", "a^b", true),
            ("^a*", "ab", true),
            ("a^b*", "a^b", false),
            ("**/*.md", "r/a.md", true),
            ("a/**/b", "a/b", true),
            ("a/**/b", "a/x/y/b", true),
        ] {
            assert_eq!(Pattern::for_ignore(pattern).unwrap().matches(text), expected, "{pattern} {text}");
        }
        for bad in ["[a", "[", "a\\", "[a-]", "[]a]", "[-a]", "[^]", "[]"] {
            assert!(Pattern::for_copy(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn hostile_patterns_take_no_time() {
        let pattern = Pattern::for_ignore(&format!("{}c", "*a**b".repeat(50))).unwrap();
        assert!(!pattern.matches(&"ab".repeat(500)));
    }

    /// Docker's rules once more, as plainly as can be: each character of the pattern, one after the other.
    pub(crate) fn plainly(pattern: &[char], first: bool, text: &[char], at: usize) -> bool {
        let here = text.get(at).copied();
        match pattern {
            [] => at == text.len(),
            ['*', '*', rest @ ..] => {
                let names: String = rest.iter().collect();
                if first && !names.starts_with('/') && !names.contains(['*', '?', '[', '\\']) {
                    return text.iter().collect::<String>().ends_with(&names);
                }
                let rest = rest.strip_prefix(&['/']).unwrap_or(rest);
                let slash = |i: &usize| i > &at && text[i - 1] == '/';
                rest.is_empty()
                    || plainly(rest, false, text, at)
                    || (at..=text.len()).filter(slash).any(|i| plainly(rest, false, text, i))
            }
            ['*', rest @ ..] => {
                plainly(rest, false, text, at)
                    || here.is_some_and(|c| c != '/') && plainly(pattern, false, text, at + 1)
            }
            ['?', rest @ ..] => here.is_some_and(|c| c != '/') && plainly(rest, false, text, at + 1),
            ['\\', c, rest @ ..] | [c, rest @ ..] => here == Some(*c) && plainly(rest, false, text, at + 1),
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(2000))]
        #[test]
        fn fits_as_plainly(pattern in "[ab*?/.]{0,8}(\\\\[*?ab])?[ab*/]{0,3}", text in "[ab*]{1,3}(/[ab.]{1,3}){0,3}") {
            let parsed = Pattern::for_ignore(&pattern).unwrap();
            let (p, t): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
            proptest::prop_assert_eq!(parsed.matches(&text), plainly(&p, true, &t, 0), "{} {}", pattern, text);
        }
    }
}
