//! Which stages a build needs.

use std::collections::BTreeSet;

use crate::dockerfile::{Dockerfile, Instruction};

/// The stage to build: by name, or the last.
pub(crate) fn target(file: &Dockerfile, name: Option<&str>) -> Option<usize> {
    match name.filter(|n| !n.is_empty()) {
        None => file.stages.len().checked_sub(1),
        Some(name) => stage_named(file, name, file.stages.len()),
    }
}

/// The stage before `before` that has this name; the last of them.
pub(crate) fn stage_named(file: &Dockerfile, name: &str, before: usize) -> Option<usize> {
    let name = name.to_lowercase();
    file.stages[..before].iter().rposition(|s| s.name.as_deref() == Some(name.as_str()))
}

/// The stage before `before` that `--from` means.
pub(crate) fn copied_stage(file: &Dockerfile, from: &str, before: usize) -> Option<usize> {
    stage_named(file, from, before).or_else(|| from.parse().ok().filter(|index| *index < before))
}

/// The stages that `target` needs, itself included, in the order to build them. `bases` are expanded.
pub(crate) fn needed(file: &Dockerfile, bases: &[String], target: usize) -> Vec<usize> {
    let mut needed = BTreeSet::new();
    let mut next = vec![target];
    while let Some(index) = next.pop() {
        // A stage needs only earlier ones, so this ends.
        if !needed.insert(index) {
            continue;
        }
        next.extend(stage_named(file, &bases[index], index));
        for located in &file.stages[index].instructions {
            let from: Vec<&String> = match &located.instruction {
                Instruction::Copy(copy) => copy.from.iter().collect(),
                Instruction::Run(run) => run.mounts.iter().filter_map(|m| m.from.as_ref()).collect(),
                _ => Vec::new(),
            };
            next.extend(from.iter().filter_map(|from| copied_stage(file, from, index)));
        }
    }
    needed.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_that_nothing_needs_are_left_out() {
        let file = Dockerfile::parse(
            "FROM a AS base\nFROM base AS one\nFROM x AS two\nCOPY --from=One /a /a\nFROM y AS three\nCOPY --from=0 /a /a\nFROM three",
        )
        .unwrap();
        let bases: Vec<String> = file.stages.iter().map(|s| s.base.clone()).collect();
        let of = |name: Option<&str>| target(&file, name).map(|t| needed(&file, &bases, t));
        assert_eq!(of(None).unwrap(), [0, 3, 4]);
        assert_eq!(of(Some("two")).unwrap(), [0, 1, 2]);
        assert_eq!(of(Some("1")), None);
        assert_eq!(of(Some("nothing")), None);
    }
}
