//! What the targets about builds check: takes any bytes, and panics if the code under test does, or if it breaks a
//! promise.

use std::collections::BTreeMap;

use sampan_build::checks::{self, BaseFacts, Config, Inputs};
use sampan_build::dockerfile::expand::{self, MAX_EXPANDED_BYTES};
use sampan_build::dockerfile::{Dockerfile, Instruction, MAX_STAGES, excerpt};
use sampan_build::ignore::Ignore;

/// A Dockerfile: it is read or refused; lines are in the file, in order; what it says can be expanded and checked.
pub fn dockerfile(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let lines = text.split('\n').count();
    let file = match Dockerfile::parse(text) {
        Ok(file) => file,
        Err(error) => {
            assert!(error.line <= lines, "{error:?}");
            return;
        }
    };
    assert!(!file.stages.is_empty() && file.stages.len() <= MAX_STAGES);
    let mut last = 0;
    let all = file.stages.iter().flat_map(|stage| {
        std::iter::once((stage.line, stage.end)).chain(stage.instructions.iter().map(|i| (i.line, i.end)))
    });
    for (line, end) in all {
        assert!(last < line && line <= end && end <= lines, "{line}-{end} after {last} of {lines}");
        last = end;
    }
    let value = |name: &str| (!name.ends_with('_')).then(|| format!("{name} *?\n"));
    for located in file.stages.iter().flat_map(|s| &s.instructions) {
        // What an instruction was made of is enough to make it again, but for its here-documents.
        match &located.instruction {
            Instruction::Run(run) => {
                for mount in &run.mounts {
                    let _ = mount.resolve(&|word| expand::word(word, file.escape, &value));
                }
                run.heredocs.iter().for_each(|h| assert!(h.text().len() <= h.content.len()));
            }
            Instruction::Copy(copy) => {
                let words = copy.sources.iter().chain([&copy.destination]);
                for word in words {
                    if let Ok(expanded) = expand::word(word, file.escape, &value) {
                        assert!(expanded.len() <= word.len() + MAX_EXPANDED_BYTES);
                    }
                }
                for heredoc in &copy.heredocs {
                    let _ = expand::document(&heredoc.text(), &value);
                }
            }
            Instruction::Env(pairs) | Instruction::Label(pairs) => {
                for (key, value_) in pairs {
                    let _ =
                        (expand::word(key, file.escape, &value), expand::words(value_, file.escape, &value));
                }
            }
            _ => {}
        }
    }
    let platform = "linux/amd64".parse().unwrap();
    let build_args = BTreeMap::new();
    let base = |name: &str| (name.len() > 2).then(BaseFacts::default);
    let inputs = Inputs {
        build_args: &build_args,
        target: None,
        host: &platform,
        platform: &platform,
        ignore: None,
        base: &base,
    };
    for warning in checks::check(&file, &Config::default(), &inputs) {
        assert!(warning.line >= 1 && warning.line <= warning.end && warning.end <= lines, "{warning:?}");
        assert!(!excerpt("Dockerfile", text, warning.line, warning.end).is_empty());
    }
}

/// A `.dockerignore` and a path, with a zero between: what is left out is left out with all that is in it, unless
/// something brings it back.
pub fn ignore(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (rules, path) = text.split_once('\0').unwrap_or((text, "a/b"));
    let Ok(ignore) = Ignore::parse(rules) else { return };
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).take(20).collect();
    let path = parts.join("/").chars().take(500).collect::<String>();
    let excluded = ignore.excludes(&path);
    if excluded && !ignore.takes_back() {
        assert!(ignore.excludes(&format!("{path}/below")), "{rules:?} {path:?}");
    }
    assert!(!excluded || !ignore.is_empty());
}
