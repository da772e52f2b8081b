//! `${VARIABLE:-default}` and its relatives in the values of a file.

use std::collections::BTreeMap;

use crate::error::ComposeError;
use crate::yaml::{Content, Node};

/// How deep a default may hold defaults.
const MAX_DEPTH: usize = 50;

/// What variables are, and which were wanted and are not there.
#[derive(Debug, Default)]
pub struct Variables<'v> {
    values: Vec<&'v BTreeMap<String, String>>,
    /// Names that stood for nothing.
    pub missing: Vec<String>,
    /// A dollar sign that begins no variable is one, as in files of variables.
    lenient: bool,
}

impl<'v> Variables<'v> {
    /// Variables out of these; the first that has one counts.
    pub fn new(values: Vec<&'v BTreeMap<String, String>>) -> Variables<'v> {
        Variables { values, missing: Vec::new(), lenient: false }
    }

    /// As in files of variables, where a dollar sign that begins no variable is one.
    #[must_use]
    pub(crate) fn lenient(mut self) -> Variables<'v> {
        self.lenient = true;
        self
    }

    fn get(&self, name: &str) -> Option<&'v str> {
        self.values.iter().find_map(|map| map.get(name)).map(String::as_str)
    }

    /// Replaces variables in all values of a tree; keys stay as they are.
    ///
    /// # Errors
    /// If a value is not well formed, or a variable must be there and is not.
    pub fn replace_in(&mut self, node: &mut Node) -> Result<(), ComposeError> {
        match &mut node.content {
            Content::Scalar { text, .. } if text.contains('$') => {
                *text = self.replace(text).map_err(|error| error.at(&node.place))?;
            }
            Content::Scalar { .. } => {}
            Content::List(items) => items.iter_mut().try_for_each(|item| self.replace_in(item))?,
            Content::Map(entries) => entries.iter_mut().try_for_each(|(_, value)| self.replace_in(value))?,
        }
        Ok(())
    }

    /// Replaces variables in a text.
    ///
    /// # Errors
    /// As [`Variables::replace_in`].
    pub fn replace(&mut self, text: &str) -> Result<String, ComposeError> {
        self.replace_to(text, 0)
    }

    fn replace_to(&mut self, text: &str, depth: usize) -> Result<String, ComposeError> {
        if depth > MAX_DEPTH {
            return Err(ComposeError::new("defaults are nested too deep"));
        }
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            out += before;
            let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
            if let Some(after) = after.strip_prefix('$') {
                out.push('$');
                rest = after;
            } else if let Some(inside) = after.strip_prefix('{') {
                let end = closing(inside).ok_or_else(|| malformed(text))?;
                out += &self.expression(&inside[..end], text, depth)?;
                rest = &inside[end + 1..];
            } else if after.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
                let end = after.find(|c| !is_name(c)).unwrap_or(after.len());
                out += &self.value_or_nothing(&after[..end]);
                rest = &after[end..];
            } else if self.lenient {
                out.push('$');
                rest = after;
            } else {
                return Err(malformed(text));
            }
        }
        out += rest;
        Ok(out)
    }

    fn value_or_nothing(&mut self, name: &str) -> String {
        match self.get(name) {
            Some(value) => value.to_owned(),
            None => {
                if !self.missing.iter().any(|known| known == name) {
                    self.missing.push(name.to_owned());
                }
                String::new()
            }
        }
    }

    /// What stands between the braces.
    fn expression(&mut self, inside: &str, whole: &str, depth: usize) -> Result<String, ComposeError> {
        let end = inside.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(inside.len());
        let (name, operator) = inside.split_at(end);
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(malformed(whole));
        }
        if operator.is_empty() {
            return Ok(self.value_or_nothing(name));
        }
        // With a colon a variable that is empty counts as none.
        let (strict, operator) = match operator.strip_prefix(':') {
            Some(operator) => (true, operator),
            None => (false, operator),
        };
        let value = self.get(name).filter(|value| !strict || !value.is_empty());
        let (kind, word) = match operator.chars().next() {
            Some(kind @ ('-' | '?' | '+')) => (kind, &operator[1..]),
            _ => return Err(malformed(whole)),
        };
        match (kind, value) {
            ('-' | '?', Some(value)) => Ok(value.to_owned()),
            ('-', None) => self.replace_to(word, depth + 1),
            ('+', Some(_)) => self.replace_to(word, depth + 1),
            ('+', None) => Ok(String::new()),
            _ => {
                let said = self.replace_to(word, depth + 1)?;
                Err(ComposeError::new(format!("required variable {name} is missing a value: {said}")))
            }
        }
    }
}

fn malformed(text: &str) -> ComposeError {
    ComposeError::new(format!(
        "invalid interpolation format: `{text}`: write $$ for a dollar sign, and ${{NAME}}, ${{NAME:-default}}, ${{NAME:?message}} or ${{NAME:+other}} for a variable"
    ))
}

/// Where the brace closes that was opened before `text`.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0usize;
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'$' if bytes.get(at + 1) == Some(&b'{') => {
                depth += 1;
                at += 1;
            }
            b'}' if depth == 0 => return Some(at),
            b'}' => depth -= 1,
            _ => {}
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replaced(text: &str) -> Result<(String, Vec<String>), String> {
        let values =
            BTreeMap::from([("A", "1"), ("EMPTY", ""), ("P", "p q")].map(|(k, v)| (k.into(), v.into())));
        let mut variables = Variables::new(vec![&values]);
        let out = variables.replace(text).map_err(|e| e.to_string())?;
        Ok((out, variables.missing))
    }

    #[test]
    fn variables_and_defaults() {
        for (text, expected) in [
            ("$A-${A}", "1-1"),
            ("$$A $${A}", "$A ${A}"),
            ("${NONE:-x}${NONE-y}${EMPTY:-z}[${EMPTY-z}]", "xyz[]"),
            ("${NONE:-${A}}", "1"),
            ("${NONE:-${NONE2:-${P}}}!", "p q!"),
            ("${A:+yes}${EMPTY:+no}[${EMPTY+set}]${NONE+no}", "yes[set]"),
            ("${A:?never} ${EMPTY?never}", "1 "),
            ("no variables", "no variables"),
            ("${NONE:-a:b-c}", "a:b-c"),
        ] {
            assert_eq!(replaced(text), Ok((expected.into(), vec![])), "{text}");
        }
        assert_eq!(replaced("[$NONE${NONE}]"), Ok(("[]".into(), vec!["NONE".into()])));
    }

    #[test]
    fn nonsense_and_what_must_be_there() {
        for (text, said) in [
            ("${NONE:?set it}", "NONE is missing a value: set it"),
            ("${EMPTY:?}", "EMPTY is missing"),
            ("${NONE?}", "NONE is missing"),
            ("$", "invalid interpolation"),
            ("${", "invalid interpolation"),
            ("${}", "invalid interpolation"),
            ("${A", "invalid interpolation"),
            ("${1}", "invalid interpolation"),
            ("${A!x}", "invalid interpolation"),
            ("$ 5", "invalid interpolation"),
        ] {
            let error = replaced(text).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
        let deep = format!("{}x{}", "${N:-".repeat(5000), "}".repeat(5000));
        assert!(replaced(&deep).unwrap_err().contains("too deep"));
    }
}
