//! What is wrong with a file, and where.

use std::path::Path;
use std::sync::Arc;

/// A line of a file.
#[derive(Clone, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: Arc<Path>,
    /// The line, from 1.
    pub line: usize,
}

impl Place {
    /// An error here.
    pub fn error(&self, what: impl Into<String>) -> ComposeError {
        ComposeError { place: Some(self.clone()), what: what.into() }
    }
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// Why a file can't be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ComposeError {
    pub(crate) place: Option<Place>,
    pub(crate) what: String,
}

impl ComposeError {
    /// An error of no line.
    pub fn new(what: impl Into<String>) -> ComposeError {
        ComposeError { place: None, what: what.into() }
    }

    /// The same at this place, if it has none yet.
    #[must_use]
    pub(crate) fn at(mut self, place: &Place) -> ComposeError {
        self.place.get_or_insert_with(|| place.clone());
        self
    }

    /// The same of a part: `services.web: …`.
    #[must_use]
    pub(crate) fn of(mut self, part: &str) -> ComposeError {
        self.what = format!("{part}: {}", self.what);
        self
    }
}

impl std::fmt::Display for ComposeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.place {
            Some(place) => write!(f, "{place:?}: {}", self.what),
            None => f.write_str(&self.what),
        }
    }
}

impl std::error::Error for ComposeError {}

impl serde::de::Error for ComposeError {
    fn custom<T: std::fmt::Display>(what: T) -> ComposeError {
        ComposeError::new(what.to_string())
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> ComposeError {
        ComposeError::new(format!("unknown field `{field}`{}", nearest(field, expected)))
    }

    fn unknown_variant(word: &str, expected: &'static [&'static str]) -> ComposeError {
        ComposeError::new(format!("unknown variant `{word}`: one of {}", expected.join(", ")))
    }
}

/// What somebody may have meant.
fn nearest(word: &str, known: &[&str]) -> String {
    let best = known.iter().map(|k| (distance(word, k), k)).min();
    match best {
        Some((distance, known)) if distance <= word.len().div_ceil(3) => format!(": did you mean `{known}`?"),
        _ if known.len() <= 12 => format!(": one of {}", known.join(", ")),
        _ => String::new(),
    }
}

/// How many letters must change to make one word another.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut before = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let cost = before + usize::from(x != *y);
            before = row[j + 1];
            row[j + 1] = cost.min(before + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
