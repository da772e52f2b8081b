//! `.dockerignore`: which paths of the context are not there.
//!
//! Patterns count in order, the last one that fits decides; one with `!` brings back. A pattern that fits a
//! directory fits all that is in it.

use crate::pattern::{BadPattern, Pattern};

/// The rules of one file.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ignore {
    rules: Vec<(Pattern, bool)>,
}

/// How many patterns a file may have: each is tried on each path.
const MAX_PATTERNS: usize = 10_000;

/// What is wrong with a `.dockerignore`.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IgnoreError {
    /// A pattern is malformed.
    #[error("line {line}")]
    Pattern {
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        source: BadPattern,
    },
    /// `!` alone.
    #[error("line {line}: illegal exclusion pattern: `!`")]
    Exclusion {
        /// The line, from 1.
        line: usize,
    },
    /// More patterns than are tried on each path.
    #[error("more than {MAX_PATTERNS} patterns")]
    TooMany,
}

impl Ignore {
    /// Reads a `.dockerignore`.
    ///
    /// # Errors
    /// If a pattern is malformed.
    pub fn parse(text: &str) -> Result<Ignore, IgnoreError> {
        let mut rules = Vec::new();
        for (i, line) in text.strip_prefix('\u{feff}').unwrap_or(text).lines().enumerate() {
            let line_number = i + 1;
            if line.starts_with('#') {
                continue;
            }
            let line = line.trim();
            if line.is_empty() {
                continue;
            }
            let (pattern, back) = match line.strip_prefix('!') {
                Some(rest) => (rest.trim(), true),
                None => (line, false),
            };
            if pattern.is_empty() {
                return Err(IgnoreError::Exclusion { line: line_number });
            }
            let pattern = clean(pattern);
            // The context itself can't be left out.
            if pattern == "." {
                continue;
            }
            if rules.len() == MAX_PATTERNS {
                return Err(IgnoreError::TooMany);
            }
            let pattern = Pattern::for_ignore(&pattern)
                .map_err(|source| IgnoreError::Pattern { line: line_number, source })?;
            rules.push((pattern, back));
        }
        Ok(Ignore { rules })
    }

    /// The rules of `COPY --exclude`: each pattern one.
    ///
    /// # Errors
    /// If a pattern is malformed; the line is its number.
    pub fn of_patterns(patterns: &[String]) -> Result<Ignore, IgnoreError> {
        // A pattern has no line of its own that could end it, and none is a comment.
        let lines: Vec<String> = patterns.iter().map(|p| p.replace('\n', " ")).collect();
        Ignore::parse(&lines.iter().map(|line| format!(" {line}\n")).collect::<String>())
    }

    /// Whether it has no rules.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether a rule takes back what others leave out: then an excluded directory may hold files that stay.
    pub fn takes_back(&self) -> bool {
        self.rules.iter().any(|(_, back)| *back)
    }

    /// Whether `path`, relative and without `.` or `..`, is left out.
    pub fn excludes(&self, path: &str) -> bool {
        let mut excluded = false;
        for (pattern, back) in &self.rules {
            // A rule that would change nothing need not be tried.
            if *back != excluded {
                continue;
            }
            let parents = path.match_indices('/').map(|(end, _)| &path[..end]);
            if parents.chain([path]).any(|p| pattern.matches(p)) {
                excluded = !back;
            }
        }
        excluded
    }
}

/// As Go's `filepath.Clean`, then without leading slashes.
fn clean(pattern: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in pattern.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|p| *p != "..") => {
                parts.pop();
            }
            ".." if pattern.starts_with('/') => {}
            part => parts.push(part),
        }
    }
    if parts.is_empty() { ".".to_owned() } else { parts.join("/") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shows which of `paths` stay.
    fn check(rules: &str, paths: &[&str], kept: &[&str]) {
        let ignore = Ignore::parse(rules).unwrap();
        let stay: Vec<&str> = paths.iter().copied().filter(|p| !ignore.excludes(p)).collect();
        assert_eq!(stay, kept, "{rules}");
    }

    #[test]
    fn rules_of_docker() {
        let paths = ["a.md", "README.md", "d/a.md", "d/e/a.md", "temp", "temp/x", "d/temp", "foo/bar"];
        check("*.md", &paths, &["d/a.md", "d/e/a.md", "temp", "temp/x", "d/temp", "foo/bar"]);
        check(
            "*.md\n!README.md",
            &paths,
            &["README.md", "d/a.md", "d/e/a.md", "temp", "temp/x", "d/temp", "foo/bar"],
        );
        check("!README.md\n*.md", &paths, &["d/a.md", "d/e/a.md", "temp", "temp/x", "d/temp", "foo/bar"]);
        check("**/*.md", &paths, &["temp", "temp/x", "d/temp", "foo/bar"]);
        check("*/temp", &paths, &["a.md", "README.md", "d/a.md", "d/e/a.md", "temp", "temp/x", "foo/bar"]);
        check("temp", &paths, &["a.md", "README.md", "d/a.md", "d/e/a.md", "d/temp", "foo/bar"]);
        check("/temp/\n# c\n  foo  ", &paths, &["a.md", "README.md", "d/a.md", "d/e/a.md", "d/temp"]);
        check("*\n!d", &paths, &["d/a.md", "d/e/a.md", "d/temp"]);
        check("d\n!d/e/*.md", &paths, &["a.md", "README.md", "d/e/a.md", "temp", "temp/x", "foo/bar"]);
        check("te?p/**", &paths, &["a.md", "README.md", "d/a.md", "d/e/a.md", "temp", "d/temp", "foo/bar"]);
        check("./d/../foo", &paths, &["a.md", "README.md", "d/a.md", "d/e/a.md", "temp", "temp/x", "d/temp"]);
        check(".", &["a"], &["a"]);
    }

    #[test]
    fn bad_rules_name_their_line() {
        assert_eq!(Ignore::parse("a\n!").unwrap_err().to_string(), "line 2: illegal exclusion pattern: `!`");
        assert_eq!(
            sampan_base::chain(&Ignore::parse("\n[a").unwrap_err()),
            "line 2: syntax error in pattern `[a`"
        );
    }

    /// The rules again, read word by word: the last line that fits a path, or a directory that it is in, decides.
    fn plainly(rules: &str, path: &str) -> bool {
        let parts: Vec<&str> = path.split('/').collect();
        let mut ignored = false;
        for rule in rules.lines() {
            let (rule, back) = rule.strip_prefix('!').map_or((rule, false), |rule| (rule, true));
            let rule: Vec<char> = super::clean(rule).chars().collect();
            let fits = (1..=parts.len()).any(|n| {
                let path: Vec<char> = parts[..n].join("/").chars().collect();
                crate::pattern::tests::plainly(&rule, true, &path, 0)
            });
            if fits {
                ignored = !back;
            }
        }
        ignored
    }

    proptest::proptest! {
        #[test]
        fn any_rules_and_paths(rules in "[-ab*?!/.\\[\\]^\\\\\n# ]{0,40}", path in "[ab.]{1,4}(/[ab.]{1,4}){0,3}") {
            if let Ok(ignore) = Ignore::parse(&rules) {
                let _ = ignore.excludes(&path);
            }
        }

        #[test]
        fn the_last_rule_that_fits_decides(
            rules in "(!?/?[ab*?]{1,3}(/[ab*]{1,3}){0,2}/?\n){1,5}",
            path in "[ab]{1,2}(/[ab]{1,2}){0,3}",
        ) {
            let ignore = Ignore::parse(&rules).unwrap();
            proptest::prop_assert_eq!(ignore.excludes(&path), plainly(&rules, &path));
        }
    }
}
