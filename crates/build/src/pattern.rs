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
    /// `**/`: nothing, or whole directories.
    Directories,
    /// `**`: anything.
    Anything,
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
    let mut chars = text.chars().peekable();
    let mut tokens = Vec::new();
    while let Some(c) = chars.next() {
        tokens.push(match c {
            '*' if double_star && chars.peek() == Some(&'*') => {
                while chars.peek() == Some(&'*') {
                    chars.next();
                }
                if chars.peek() == Some(&'/') {
                    chars.next();
                    Token::Directories
                } else {
                    Token::Anything
                }
            }
            '*' => Token::Name,
            '?' => Token::One,
            '\\' => Token::Literal(chars.next().ok_or_else(bad)?),
            '[' => {
                let negated = chars.next_if_eq(&'^').is_some();
                let mut ranges = Vec::new();
                loop {
                    let mut one = || match chars.next() {
                        Some('\\') => chars.next().ok_or_else(bad),
                        Some(c) => Ok(c),
                        None => Err(bad()),
                    };
                    let from = one()?;
                    if from == ']' && !ranges.is_empty() {
                        break;
                    }
                    let mut to = from;
                    if chars.next_if_eq(&'-').is_some() {
                        to = match chars.next() {
                            Some('\\') => chars.next().ok_or_else(bad)?,
                            Some(c) if c != ']' => c,
                            _ => return Err(bad()),
                        };
                    }
                    ranges.push((from, to));
                }
                Token::Class { negated, ranges }
            }
            c => Token::Literal(c),
        });
    }
    // Repeated stars are one, or matching would be cubic.
    tokens.dedup_by(|b, a| a == b && matches!(a, Token::Name | Token::Anything | Token::Directories));
    Ok(Pattern { tokens })
}

#[cfg(test)]
mod tests {
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
            ("[]a]", "]", true),
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
            ("**/*.md", "r/a.md", true),
            ("a/**/b", "a/b", true),
            ("a/**/b", "a/x/y/b", true),
        ] {
            assert_eq!(Pattern::for_ignore(pattern).unwrap().matches(text), expected, "{pattern} {text}");
        }
        for bad in ["[a", "[", "a\\", "[a-]"] {
            assert!(Pattern::for_copy(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn hostile_patterns_take_no_time() {
        let pattern = Pattern::for_ignore(&format!("{}c", "*a**b".repeat(50))).unwrap();
        assert!(!pattern.matches(&"ab".repeat(500)));
    }
}
