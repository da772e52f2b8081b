//! Text to logical lines: parser directives, comments, continuations, here-documents.

use super::expand::{self, WordError, split};
use super::flags;
use super::{Heredoc, MAX_HEREDOCS, ParseError, Problem};

/// A parser directive: `# name=value` at the very top.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Directive {
    /// Where it stands, from 1.
    pub line: usize,
    /// What it says.
    pub value: String,
}

/// The directives of a file.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Directives {
    /// How many lines they are.
    pub(super) lines: usize,
    pub(super) escape: Option<char>,
    pub(super) syntax: Option<Directive>,
    pub(super) check: Option<Directive>,
}

/// A line after joining what continues it, with the here-documents that follow it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Logical {
    /// Where it starts, from 1.
    pub(super) line: usize,
    /// Where it ends, here-documents included.
    pub(super) end: usize,
    pub(super) text: String,
    pub(super) heredocs: Vec<Heredoc>,
    /// The comments right above it.
    pub(super) comments: Vec<String>,
    /// The last line before the here-documents, if there are empty lines between those that belong together.
    pub(super) empty_continuation: Option<usize>,
}

/// All logical lines, and the directives.
pub(super) fn lines(text: &str) -> Result<(Directives, Vec<Logical>), ParseError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let ended: Vec<&str> = text.split_inclusive('\n').collect();
    let physical: Vec<&str> = ended.iter().map(|l| without_end(l)).collect();
    let directives = directives(&physical)?;
    let escape = directives.escape.unwrap_or('\\');
    let mut logical = Vec::new();
    let mut comments: Vec<String> = Vec::new();
    let mut at = 0;
    while at < physical.len() {
        let first = physical[at].trim_start();
        if first.is_empty() || first.starts_with('#') {
            match first.trim_start_matches('#').trim() {
                "" => comments.clear(),
                _ if at < directives.lines => {}
                comment => comments.push(comment.to_owned()),
            }
            at += 1;
            continue;
        }
        let line = at + 1;
        let mut joined = String::new();
        let mut next = first;
        let mut empty = false;
        loop {
            at += 1;
            let (part, continues) = continuation(next, escape);
            joined.push_str(part);
            if !continues {
                break;
            }
            // Comments and empty lines between are no part of the instruction and do not end it.
            while let Some(between) = physical.get(at).map(|l| l.trim_start()) {
                if !between.is_empty() && !between.starts_with('#') {
                    break;
                }
                empty |= between.is_empty();
                at += 1;
            }
            match physical.get(at) {
                Some(more) => next = more,
                None => break,
            }
        }
        if joined.trim().is_empty() {
            continue;
        }
        let empty_continuation = empty.then_some(at);
        let fail = |problem| ParseError { line, problem };
        let mut heredocs = Vec::new();
        for Opening { name, expand, chomp } in announced(&joined, escape) {
            if heredocs.len() == MAX_HEREDOCS {
                return Err(fail(Problem::Limit {
                    what: "here-documents in one instruction",
                    limit: MAX_HEREDOCS,
                }));
            }
            let mut content = String::new();
            loop {
                let Some(line) = physical.get(at) else {
                    return Err(fail(Problem::UnterminatedHeredoc { name }));
                };
                at += 1;
                let line = if chomp { line.trim_start_matches('\t') } else { line };
                if line == name {
                    break;
                }
                content.push_str(ended[at - 1]);
            }
            heredocs.push(Heredoc { name, expand, chomp, content });
        }
        logical.push(Logical {
            line,
            end: at,
            text: joined.trim_end().to_owned(),
            heredocs,
            comments: std::mem::take(&mut comments),
            empty_continuation,
        });
    }
    Ok((directives, logical))
}

fn without_end(line: &str) -> &str {
    let line = line.strip_suffix('\n').unwrap_or(line);
    line.strip_suffix('\r').unwrap_or(line)
}

/// `# name=value` lines at the very top; a first line `#!…` may stand above them.
fn directives(lines: &[&str]) -> Result<Directives, ParseError> {
    let mut found = Directives::default();
    let shebang = usize::from(lines.first().is_some_and(|l| l.starts_with("#!")));
    for (i, line) in lines.iter().enumerate().skip(shebang) {
        let Some((name, value)) = line.trim_start().strip_prefix('#').and_then(|l| l.split_once('=')) else {
            break;
        };
        let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
        if value.is_empty() {
            break;
        }
        let line = i + 1;
        let fail = |why| Err(ParseError { line, problem: Problem::Directive { why } });
        let directive = Directive { line, value: value.to_owned() };
        match name.as_str() {
            "escape" if found.escape.is_some() => {
                return fail("only one escape parser directive can be used");
            }
            "escape" => match value {
                "\\" | "`" => found.escape = value.chars().next(),
                _ => return fail("the escape character must be ` or \\"),
            },
            "syntax" if found.syntax.is_some() => {
                return fail("only one syntax parser directive can be used");
            }
            "syntax" => found.syntax = Some(directive),
            "check" if found.check.is_some() => return fail("only one check parser directive can be used"),
            "check" => found.check = Some(directive),
            // Anything else is a comment, and ends the directives.
            _ => break,
        }
        found.lines = line;
    }
    Ok(found)
}

/// A line without the escape character at its end, and whether there was one that continues it; two are none.
fn continuation(line: &str, escape: char) -> (&str, bool) {
    let trimmed = line.trim_end_matches([' ', '\t']);
    match trimmed.strip_suffix(escape) {
        Some(rest) if !rest.ends_with(escape) => (rest, true),
        _ => (line, false),
    }
}

/// A word that announces a here-document.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Opening {
    pub(super) name: String,
    pub(super) expand: bool,
    pub(super) chomp: bool,
}

/// Reads `<<word`, `<<-word`, `3<<"word"`: the whole word up to the next blank is the name.
pub(super) fn opening(word: &str, escape: char) -> Option<Opening> {
    let rest = word.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix("<<")?;
    let (chomp, rest) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    // A here-string belongs to the shell; a comparison is no document.
    if rest.is_empty() || rest.contains('<') {
        return None;
    }
    let unset = |_: &str| None;
    let [name] = <[String; 1]>::try_from(expand::words(rest, escape, &unset).ok()?).ok()?;
    // Any quote or escape in the word keeps the text as it is.
    let expand = !rest.contains(['\'', '"', escape]);
    Some(Opening { name, expand, chomp })
}

/// Whether a command is nothing but the announcement of a here-document.
pub fn heredoc_alone(command: &str) -> bool {
    // The escape only matters for the name.
    opening(command, '\\').is_some()
}

/// The here-documents that a line announces. Only some instructions have them, perhaps behind `ONBUILD`, and only in
/// their shell form.
fn announced(line: &str, escape: char) -> Vec<Opening> {
    if !line.contains("<<") {
        return Vec::new();
    }
    let mut rest = line;
    loop {
        let (name, after) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        let (_, after) = flags::take(after);
        match name.to_ascii_uppercase().as_str() {
            "ONBUILD" if rest.len() == line.len() => rest = after,
            "RUN" | "COPY" | "ADD" => {
                if after.starts_with('[') && serde_json::from_str::<Vec<String>>(after).is_ok() {
                    return Vec::new();
                }
                break;
            }
            _ => return Vec::new(),
        }
    }
    let words = split(line, escape);
    // A quote that does not end may hold anything; the shell will say so.
    if words.last().is_some_and(|last| {
        matches!(expand::word(last, escape, &|_| None), Err(WordError::Unterminated { .. }))
    }) {
        return Vec::new();
    }
    words.iter().filter_map(|word| opening(word, escape)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[(usize, &str)]) {
        let (_, lines) = lines(text).unwrap();
        let got: Vec<(usize, &str)> = lines.iter().map(|l| (l.line, l.text.as_str())).collect();
        assert_eq!(got, expected);
    }

    #[test]
    fn lines_continue_over_comments_and_empty_lines() {
        check(
            "\u{feff}# c\nFROM a\r\n\n  RUN a \\\n  # no\n\n    b \\  \n  c\nRUN x\\\\\nCMD y",
            &[(2, "FROM a"), (4, "RUN a     b   c"), (9, "RUN x\\\\"), (10, "CMD y")],
        );
        check("RUN a \\", &[(1, "RUN a")]);
        check("# escape=`\nRUN a `\n b\\", &[(2, "RUN a  b\\")]);
        check("# comment\n# escape=`\nRUN a \\\nb", &[(3, "RUN a b")]);
        check("\\\n\nFROM a", &[(1, "FROM a")]);
        let (_, lines) = lines("RUN a \\\n\n# c\n b <<E\nx\nE\nRUN a \\\n #c\n b").unwrap();
        assert_eq!(
            lines.iter().map(|l| (l.empty_continuation, l.end)).collect::<Vec<_>>(),
            [(Some(4), 6), (None, 9)]
        );
    }

    #[test]
    fn comments_above_stay_with_their_instruction() {
        let (_, lines) =
            lines("# syntax=a\n# a\n#\n# b c\n# d\nFROM x\nRUN y\n# e\n\nRUN z\n# check=x\nRUN a").unwrap();
        assert_eq!(lines[0].comments, ["b c", "d"]);
        assert!(lines[2].comments.is_empty());
        assert_eq!(lines[3].comments, ["check=x"]);
        assert!(lines[1].comments.is_empty());
    }

    #[test]
    fn directives_stand_at_the_top() {
        let of = |text: &str| match lines(text) {
            Ok((d, _)) => {
                let value =
                    |d: Option<Directive>| d.map_or("-".to_owned(), |d| format!("{}@{}", d.value, d.line));
                format!("{} {} {}", d.escape.unwrap_or('-'), value(d.syntax), value(d.check))
            }
            Err(e) => format!("{}: {e}", e.line),
        };
        for (text, expected) in [
            (
                "# syntax = docker/dockerfile:1 \n#escape=`\n#CHECK=skip=all;error=true\nFROM x",
                "` docker/dockerfile:1@1 skip=all;error=true@3",
            ),
            ("#!/usr/bin/env x\n# syntax=a", "- a@2 -"),
            ("# unknown=1\n# escape=`", "- - -"),
            ("\n# escape=`", "- - -"),
            ("FROM x\n# escape=`", "- - -"),
            ("# escape=\n# syntax=x", "- - -"),
            (
                "# escape=`\n# escape=`",
                "2: invalid parser directive: only one escape parser directive can be used",
            ),
            (
                "# syntax=a\n# syntax=b",
                "2: invalid parser directive: only one syntax parser directive can be used",
            ),
            ("# escape=ab", "1: invalid parser directive: the escape character must be ` or \\"),
        ] {
            assert_eq!(of(text), expected, "{text}");
        }
    }

    #[test]
    fn heredocs_are_taken_along() {
        let text = "RUN cat <<A && cat 3<<-\"B\" <<<no $((1 << 2)) '<<Q'\n$x\\\r\nA\n\ty\n\tB\nCMD z\nENV a=<<EOF\n\
                    RUN it's <<X\nONBUILD RUN --mount=x <<E\nE\nRUN [\"a\", \"<<E\"]";
        let (_, lines) = lines(text).unwrap();
        let heredoc = |name: &str, expand, chomp, content: &str| Heredoc {
            name: name.to_owned(),
            expand,
            chomp,
            content: content.to_owned(),
        };
        assert_eq!(
            lines[0].heredocs,
            [heredoc("A", true, false, "$x\\\r\n"), heredoc("B", false, true, "\ty\n")]
        );
        assert_eq!(lines[0].heredocs[1].text(), "y\n");
        assert_eq!(lines[4].heredocs, [heredoc("E", true, false, "")]);
        assert_eq!(lines.iter().map(|l| l.heredocs.len()).collect::<Vec<_>>(), [2, 0, 0, 0, 1, 0]);
        let error = super::lines("FROM a\nRUN <<EOF\nx").unwrap_err();
        assert_eq!((error.line, error.to_string().as_str()), (2, "unterminated heredoc `EOF`"));
    }
}
