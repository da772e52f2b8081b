//! Files of variables: `.env` and `env_file`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::error::{ComposeError, Place};
use crate::interpolate::Variables;

/// Reads `NAME=value` lines: comments, `export`, quotes (double ones know escapes and variables, single ones neither), values
/// over several lines in quotes. A name alone takes its value from `outer`, if it is there.
///
/// # Errors
/// If a line is none of that, with its number.
pub fn parse(
    text: &str,
    file: &Path,
    outer: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, ComposeError> {
    let file: Arc<Path> = Arc::from(file);
    let mut values: BTreeMap<String, String> = BTreeMap::new();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).replace("\r\n", "\n");
    let mut rest = text.as_str();
    let mut line = 1;
    while !rest.is_empty() {
        let place = Place { file: Arc::clone(&file), line };
        let (first, after) = rest.split_once('\n').unwrap_or((rest, ""));
        let trimmed = first.trim_start();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            rest = after;
            line += 1;
            continue;
        }
        let trimmed = trimmed.strip_prefix("export ").map_or(trimmed, str::trim_start);
        let name_end = trimmed.find(['=', ':']).unwrap_or(trimmed.len());
        let name = trimmed[..name_end].trim_end();
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '[' | ']');
        if name.is_empty() || !name.chars().all(is_name) {
            return Err(place.error(format!("`{first}` is no NAME=value")));
        }
        if name_end == trimmed.len() {
            if let Some(value) = outer.get(name) {
                values.insert(name.to_owned(), value.clone());
            }
            rest = after;
            line += 1;
            continue;
        }
        let value_at = rest.len()
            - (trimmed.len() - name_end - 1)
            - if rest.len() > first.len() { after.len() + 1 } else { 0 };
        let value = rest[value_at..].trim_start_matches([' ', '\t']);
        let expand = |text: &str| {
            Variables::new(vec![outer, &values]).lenient().replace(text).map_err(|e| e.at(&place))
        };
        let (value, behind) = match value.chars().next() {
            Some(quote @ ('"' | '\'')) => {
                let (inside, behind) = quoted(&value[1..], quote)
                    .ok_or_else(|| place.error(format!("the quote of `{name}` does not end")))?;
                let value = if quote == '"' { expand(&unescape(inside))? } else { inside.to_owned() };
                (value, behind)
            }
            _ => {
                let end = value.find('\n').unwrap_or(value.len());
                let plain = &value[..end];
                // A comment begins behind a space.
                let plain = match plain.find(" #").or_else(|| plain.find("\t#")) {
                    Some(at) => &plain[..at],
                    None if plain.starts_with('#') => "",
                    None => plain,
                };
                (expand(plain.trim_end())?, &value[end..])
            }
        };
        values.insert(name.to_owned(), value);
        let used = rest.len() - behind.len();
        let (left, next) = behind.split_once('\n').unwrap_or((behind, ""));
        if !left.trim().is_empty() && !left.trim_start().starts_with('#') {
            return Err(place.error(format!("`{}` is behind the quote of `{name}`", left.trim())));
        }
        line += rest[..used].matches('\n').count() + 1;
        rest = next;
    }
    Ok(values)
}

/// What is in the quotes, and what is behind them.
fn quoted(text: &str, quote: char) -> Option<(&str, &str)> {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            '\\' if quote == '"' => escaped = !escaped,
            c if c == quote && !escaped => return Some((&text[..at], &text[at + 1..])),
            _ => escaped = false,
        }
    }
    None
}

fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match (c, c == '\\') {
            (_, true) => match characters.next() {
                Some('n') => out.push('\n'),
                Some('r') => out.push('\r'),
                Some('t') => out.push('\t'),
                // Left for the variables, where `$$` is a dollar sign.
                Some('$') => out += "$$",
                Some(other) if matches!(other, '"' | '\\' | '\'') => out.push(other),
                Some(other) => {
                    out.push('\\');
                    out.push(other);
                }
                None => out.push('\\'),
            },
            (c, false) => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<String, String> {
        let outer = BTreeMap::from([("HOME".to_owned(), "/root".to_owned())]);
        let values = parse(text, Path::new(".env"), &outer).map_err(|e| e.to_string())?;
        Ok(values.into_iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join("|"))
    }

    #[test]
    fn lines_of_all_kinds() {
        for (text, expected) in [
            ("A=1\nB=two words\n", "A=1|B=two words"),
            ("# note\n\n  A=1 # note\nB=a#b\nC=#x\n", "A=1|B=a#b|C="),
            ("export A=1\nB: 2\nHOME\nNONE\n", "A=1|B=2|HOME=/root"),
            (
                "A='raw $HOME \\n'\nB=\"x\\ty $HOME\"\nC=$HOME/${A:-}\n",
                "A=raw $HOME \\n|B=x\ty /root|C=/root/raw $HOME \\n",
            ),
            ("A=\"one\ntwo\"\nB='a\nb' # note\nC=3", "A=one\ntwo|B=a\nb|C=3"),
            ("A=\"say \\\"hi\\\" \\$HOME\"\r\nB=\r\n", "A=say \"hi\" $HOME|B="),
            ("A = spaced \n", "A=spaced"),
            ("A=p$ss$\n", "A=p$"),
            ("\u{feff}A=1", "A=1"),
        ] {
            assert_eq!(read(text).as_deref(), Ok(expected), "{text:?}");
        }
    }

    #[test]
    fn nonsense_has_its_line() {
        for (text, said) in [
            ("A=1\nno name=2\n", ".env:2: "),
            ("A=\"open\n", ".env:1: the quote"),
            ("A='x' y\n", "behind the quote"),
            ("A=1\n\n=x", ".env:3: "),
            ("A='a\nb'\n!\n", ".env:3: "),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(said), "{text:?}: {error}");
        }
    }
}
