//! Text to logical lines: parser directives, comments, continuations, here-documents.

use super::{Heredoc, ParseError, Problem};

/// A line after joining what continues it, with the here-documents that follow it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Logical {
    /// Where it starts, from 1.
    pub(super) line: usize,
    pub(super) text: String,
    pub(super) heredocs: Vec<Heredoc>,
}

/// All logical lines, and the escape character.
pub(super) fn lines(text: &str) -> Result<(char, Vec<Logical>), ParseError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let physical: Vec<&str> = text.split('\n').map(|l| l.strip_suffix('\r').unwrap_or(l)).collect();
    let escape = directives(&physical)?;
    let mut logical = Vec::new();
    let mut at = 0;
    while at < physical.len() {
        let first = physical[at].trim_start();
        if first.trim().is_empty() || first.starts_with('#') {
            at += 1;
            continue;
        }
        let line = at + 1;
        let mut joined = String::new();
        let mut next = first;
        loop {
            at += 1;
            let (part, continues) = continuation(next, escape);
            joined.push_str(part);
            if !continues {
                break;
            }
            // Comments and empty lines between are no part of the instruction and do not end it.
            while physical.get(at).is_some_and(|l| l.trim().is_empty() || l.trim_start().starts_with('#')) {
                at += 1;
            }
            match physical.get(at) {
                Some(more) => next = more,
                None => break,
            }
        }
        let mut heredocs = Vec::new();
        if may_have_heredocs(&joined) {
            for (name, expand, tabs) in heredoc_words(&joined) {
                let mut content = String::new();
                loop {
                    let Some(physical) = physical.get(at) else {
                        return Err(ParseError { line, problem: Problem::UnterminatedHeredoc { name } });
                    };
                    at += 1;
                    let text = if tabs { physical.trim_start_matches('\t') } else { physical };
                    if text == name {
                        break;
                    }
                    content.push_str(text);
                    content.push('\n');
                }
                heredocs.push(Heredoc { name, expand, content });
            }
        }
        logical.push(Logical { line, text: joined.trim_end().to_owned(), heredocs });
    }
    Ok((escape, logical))
}

/// `# name=value` lines at the very top. Only `escape` changes how we read; `syntax` and `check` are known.
fn directives(lines: &[&str]) -> Result<char, ParseError> {
    let mut escape = None;
    for (i, line) in lines.iter().enumerate() {
        let Some((name, value)) = line.trim_start().strip_prefix('#').and_then(|l| l.split_once('=')) else {
            break;
        };
        let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
        let fail = |why| Err(ParseError { line: i + 1, problem: Problem::Directive { why } });
        match name.as_str() {
            "escape" if escape.is_some() => return fail("only one escape parser directive can be used"),
            "escape" => match value {
                "\\" | "`" => escape = value.chars().next(),
                _ => return fail("the escape character must be ` or \\"),
            },
            "syntax" | "check" => {}
            // Anything else is a comment, and ends the directives.
            _ => break,
        }
    }
    Ok(escape.unwrap_or('\\'))
}

/// A line without the escape character at its end, and whether there was one that continues it; two are none.
fn continuation(line: &str, escape: char) -> (&str, bool) {
    let trimmed = line.trim_end_matches([' ', '\t']);
    match trimmed.strip_suffix(escape) {
        Some(rest) if !rest.ends_with(escape) => (rest, true),
        _ => (line, false),
    }
}

/// Only these instructions have here-documents, perhaps behind `ONBUILD`.
fn may_have_heredocs(line: &str) -> bool {
    let mut words = line.split_whitespace();
    let mut first = words.next().unwrap_or("").to_ascii_uppercase();
    if first == "ONBUILD" {
        first = words.next().unwrap_or("").to_ascii_uppercase();
    }
    matches!(first.as_str(), "RUN" | "COPY" | "ADD")
}

/// The here-documents that a line announces: name, whether it is expanded, whether leading tabs go.
fn heredoc_words(line: &str) -> Vec<(String, bool, bool)> {
    let mut found = Vec::new();
    let mut quote: Option<char> = None;
    let mut rest = line.char_indices().peekable();
    while let Some((at, c)) = rest.next() {
        match (quote, c) {
            (None, '\\') => {
                rest.next();
            }
            (None, '\'' | '"') => quote = Some(c),
            (Some(q), c) if q == c => quote = None,
            (None, '<') if line[at..].starts_with("<<<") => {
                // A here-string belongs to the shell.
                rest.next();
                rest.next();
            }
            (None, '<') if line[at..].starts_with("<<") => {
                let after = &line[at + 2..];
                let (tabs, after) = match after.strip_prefix('-') {
                    Some(after) => (true, after),
                    None => (false, after),
                };
                let (name, quoted) = match after.chars().next() {
                    Some(q @ ('\'' | '"')) => match after[1..].split_once(q) {
                        Some((name, _)) => (name, true),
                        None => ("", true),
                    },
                    _ => {
                        let end =
                            after.find(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '.' | '-')));
                        (&after[..end.unwrap_or(after.len())], false)
                    }
                };
                // `1 << 2` is arithmetic, not a document.
                if !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit()) {
                    found.push((name.to_owned(), !quoted, tabs));
                }
                rest.next();
            }
            _ => {}
        }
    }
    found
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
    }

    #[test]
    fn heredocs_are_taken_along() {
        let text = "RUN cat <<A && cat <<-\"B\" <<<no $((1 << 2))\n$x\nA\n\ty\n\tB\nCMD z\nENV a=<<EOF";
        let (_, lines) = lines(text).unwrap();
        assert_eq!(lines.len(), 3);
        assert_eq!(
            lines[0].heredocs,
            [
                Heredoc { name: "A".into(), expand: true, content: "$x\n".into() },
                Heredoc { name: "B".into(), expand: false, content: "y\n".into() },
            ]
        );
        let error = super::lines("FROM a\nRUN <<EOF\nx").unwrap_err();
        assert_eq!((error.line, error.to_string().as_str()), (2, "unterminated heredoc `EOF`"));
    }
}
