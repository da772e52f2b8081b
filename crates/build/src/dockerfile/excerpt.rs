//! The lines of a Dockerfile that a message is about, with their neighbours.

use std::fmt::Write as _;

/// As BuildKit shows them: the place, then the lines marked by `>>>`, and two lines around one, or one around several.
/// Nothing if there are no such lines.
pub fn excerpt(file: &str, text: &str, first: usize, last: usize) -> String {
    let lines: Vec<&str> = text.strip_prefix('\u{feff}').unwrap_or(text).split('\n').collect();
    if first == 0 || first > lines.len() {
        return String::new();
    }
    let last = last.clamp(first, lines.len());
    let around = if first == last { 2 } else { 1 };
    let rule = "--------------------";
    let mut out = format!("{file}:{first}\n{rule}\n");
    for number in first.saturating_sub(around).max(1)..=(last + around).min(lines.len()) {
        let mark = if (first..=last).contains(&number) { ">>>" } else { "   " };
        let line = lines[number - 1].trim_end_matches('\r');
        // Text can always be written to a text.
        let _ = writeln!(out, " {number:3} | {mark} {line}");
    }
    out + rule + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_shown_with_their_neighbours() {
        let text = "FROM a\nRUN b\nRUN c \\\n d\nRUN e\nRUN f";
        let rule = "--------------------\n";
        let check = |first, last, lines: &str| {
            assert_eq!(excerpt("D", text, first, last), format!("D:{first}\n{rule}{lines}{rule}"));
        };
        check(2, 2, "   1 |     FROM a\n   2 | >>> RUN b\n   3 |     RUN c \\\n   4 |      d\n");
        check(3, 4, "   2 |     RUN b\n   3 | >>> RUN c \\\n   4 | >>>  d\n   5 |     RUN e\n");
        check(6, 9, "   4 |      d\n   5 |     RUN e\n   6 | >>> RUN f\n");
        assert_eq!(excerpt("D", text, 0, 0), "");
        assert_eq!(excerpt("D", text, 7, 7), "");
    }
}
