//! What `${x#p}`, `${x%p}` and `${x/p/r}` do with a value. Patterns have `*` and `?`, and `\\` before either.

use super::expand::{MAX_EXPANDED_BYTES, WordError};

/// Characters of a value in which parts are replaced: that takes up to its square.
const MAX_VALUE: usize = 16 * 1024;

/// A part of a pattern.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    Literal(char),
    /// `?`
    One,
    /// `*`
    Any,
}

fn parts(pattern: &str) -> Result<Vec<Part>, WordError> {
    let mut parts = Vec::new();
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        parts.push(match c {
            '*' => Part::Any,
            '?' => Part::One,
            '\\' => match chars.next() {
                // These two are escaped for the substitution around the pattern.
                Some(c @ ('*' | '?' | '\\' | '}' | '/')) => Part::Literal(c),
                other => {
                    let character = other.unwrap_or(' ');
                    let pattern = pattern.chars().take(200).collect();
                    return Err(WordError::Escape { character, pattern });
                }
            },
            c => Part::Literal(c),
        });
    }
    parts.dedup_by(|b, a| *a == Part::Any && *b == Part::Any);
    Ok(parts)
}

/// The shortest and the longest start of `text` that fits; `*` and `?` stay in one line.
fn starts(pattern: &[Part], text: &[char]) -> Option<(usize, usize)> {
    // Which parts of the pattern may come next, one character of the text after the other: no pattern takes more than
    // its length times the text's.
    let mut at = vec![false; pattern.len() + 1];
    at[0] = true;
    let mut found: Option<(usize, usize)> = None;
    for length in 0..=text.len() {
        // A `*` may stand for nothing.
        for p in 0..pattern.len() {
            at[p + 1] |= at[p] && pattern[p] == Part::Any;
        }
        if at[pattern.len()] {
            found = Some((found.map_or(length, |(shortest, _)| shortest), length));
        }
        let Some(c) = text.get(length) else { break };
        let mut next = vec![false; pattern.len() + 1];
        let mut alive = false;
        for p in (0..pattern.len()).filter(|p| at[*p]) {
            let (fits, to) = match pattern[p] {
                Part::Literal(literal) => (literal == *c, p + 1),
                Part::One => (*c != '\n', p + 1),
                Part::Any => (*c != '\n', p),
            };
            next[to] |= fits;
            alive |= fits;
        }
        if !alive {
            break;
        }
        at = next;
    }
    found
}

/// `${x#p}` and its kin: cuts what fits the pattern from the start or the end.
pub(super) fn trim(value: &str, pattern: &str, start: bool, longest: bool) -> Result<String, WordError> {
    let (mut value, mut pattern): (Vec<char>, Vec<Part>) = (value.chars().collect(), parts(pattern)?);
    // What fits at the end is what fits at the start of the reverse.
    if !start {
        value.reverse();
        pattern.reverse();
    }
    let cut = starts(&pattern, &value).map_or(0, |(short, long)| if longest { long } else { short });
    let mut kept = value.split_off(cut);
    if !start {
        kept.reverse();
    }
    Ok(kept.into_iter().collect())
}

/// `${x/p/w}`: the first, or each, longest part that fits. A pattern that fits nothing at all fits between characters.
pub(super) fn replace(value: &str, pattern: &str, by: &str, all: bool) -> Result<String, WordError> {
    let (value, pattern): (Vec<char>, Vec<Part>) = (value.chars().collect(), parts(pattern)?);
    if value.len() > MAX_VALUE {
        return Err(WordError::TooLong);
    }
    let mut out = String::new();
    let (mut at, mut done, mut after) = (0, false, false);
    while at <= value.len() {
        let found = if done { None } else { starts(&pattern, &value[at..]).map(|(_, longest)| longest) };
        // Right after a match nothing is found that is empty.
        if let Some(length) = found.filter(|length| *length > 0 || !after) {
            out.push_str(by);
            if out.len() > MAX_EXPANDED_BYTES {
                return Err(WordError::TooLong);
            }
            (done, after) = (!all, true);
            if length > 0 {
                at += length;
                continue;
            }
        }
        after = false;
        out.extend(value.get(at));
        at += 1;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_cut_and_replaced() {
        for (value, pattern, by, all, expected) in [
            ("banana", "an", "X", false, "bXana"),
            ("banana", "an", "X", true, "bXXa"),
            ("banana", "a*", "X", true, "bX"),
            ("abc", "", "-", false, "-abc"),
            ("abc", "", "-", true, "-a-b-c-"),
            ("abc", "*", "-", true, "-"),
            ("a\nb", "*", "-", true, "-\n-"),
            ("a*b", "\\*", "+", false, "a+b"),
        ] {
            assert_eq!(replace(value, pattern, by, all).unwrap(), expected, "{value} {pattern}");
        }
        for (value, pattern, start, longest, expected) in [
            ("a.b.c", "*.", true, false, "b.c"),
            ("a.b.c", "*.", true, true, "c"),
            ("a.b.c", ".*", false, false, "a.b"),
            ("a.b.c", ".*", false, true, "a"),
            ("abc", "", true, true, "abc"),
            ("a\nb", "*b", true, true, "a\nb"),
        ] {
            assert_eq!(trim(value, pattern, start, longest).unwrap(), expected, "{value} {pattern}");
        }
    }
}
