//! Rules about what is written, whatever it means in a build.

use std::collections::BTreeSet;

use super::{Rule, Warning};
use crate::dockerfile::{Dockerfile, Instruction, Located, Stage};

pub(super) fn check(file: &Dockerfile, out: &mut Vec<Warning>) {
    for line in &file.empty_continuations {
        let text = "Empty continuation line".to_owned();
        out.push(Warning { line: *line, end: *line, rule: Rule::NoEmptyContinuation, text });
    }
    for located in &file.args {
        argument(located, out);
    }
    let mut names = BTreeSet::new();
    for stage in &file.stages {
        from(stage, &mut names, out);
        for located in &stage.instructions {
            instruction(located, out);
        }
    }
    casing(file, out);
}

/// The first word of an instruction, as written.
pub(super) fn keyword(text: &str) -> &str {
    text.split_whitespace().next().unwrap_or("")
}

fn is_lower(word: &str) -> bool {
    !word.contains(char::is_uppercase)
}

fn is_upper(word: &str) -> bool {
    !word.contains(char::is_lowercase)
}

fn from<'a>(stage: &'a Stage, names: &mut BTreeSet<&'a str>, out: &mut Vec<Warning>) {
    let mut warn = |rule, text| out.push(Warning { line: stage.line, end: stage.end, rule, text });
    let Some(name) = stage.name.as_deref() else { return };
    // The name is the last word, before it `AS`.
    let mut words = stage.text.split_whitespace().rev();
    let (written, r#as) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    if !is_lower(written) {
        warn(Rule::StageNameCasing, format!("Stage name '{written}' should be lowercase"));
    }
    let from = keyword(&stage.text);
    if (is_lower(from) && !is_lower(r#as)) || (is_upper(from) && !is_upper(r#as)) {
        warn(Rule::FromAsCasing, format!("'{as}' and '{from}' keywords' casing do not match", r#as = r#as));
    }
    if matches!(name, "scratch" | "context") {
        let text = format!("Stage name should not use the same name as reserved stage {name:?}");
        warn(Rule::ReservedStageName, text);
    }
    if !names.insert(name) {
        let text = format!("Duplicate stage name {name:?}, stage names should be unique");
        warn(Rule::DuplicateStageName, text);
    }
    if let Some(text) = described("FROM", &[name], &stage.comments) {
        warn(Rule::InvalidDefinitionDescription, text);
    }
}

fn instruction(located: &Located, out: &mut Vec<Warning>) {
    let name = keyword(&located.text);
    let mut warn = |rule, text| out.push(Warning { line: located.line, end: located.end, rule, text });
    match &located.instruction {
        Instruction::Maintainer(_) => {
            let text = "Maintainer instruction is deprecated in favor of using label";
            warn(Rule::MaintainerDeprecated, text.to_owned());
        }
        Instruction::Env(pairs) | Instruction::Label(pairs) => {
            // The old form has one pair, without `=` in the first word.
            let rest = located.text[name.len()..].trim_start();
            let first = rest.split_whitespace().next().unwrap_or("");
            if let [(key, _)] = pairs.as_slice()
                && first == key
            {
                let text = format!(
                    "\"{name} key=value\" should be used instead of legacy \"{name} key value\" format"
                );
                warn(Rule::LegacyKeyValueFormat, text);
            }
        }
        Instruction::Arg(_) => argument(located, out),
        _ => {}
    }
}

fn argument(located: &Located, out: &mut Vec<Warning>) {
    let Instruction::Arg(args) = &located.instruction else { return };
    let names: Vec<&str> = args.iter().map(|(name, _)| name.as_str()).collect();
    if let Some(text) = described("ARG", &names, &located.comments) {
        let rule = Rule::InvalidDefinitionDescription;
        out.push(Warning { line: located.line, end: located.end, rule, text });
    }
}

/// A comment right above a definition should begin with its name.
fn described(instruction: &str, names: &[&str], comments: &[String]) -> Option<String> {
    let comment = comments.last()?;
    if names.contains(&comment.split(' ').next().unwrap_or("")) {
        return None;
    }
    let example = if let [name] = names { name } else { "<arg_key>" };
    Some(format!("Comment for {instruction} should follow the format: `# {example} <description>`"))
}

/// All instructions are in upper case, or all in lower case.
fn casing(file: &Dockerfile, out: &mut Vec<Warning>) {
    let stages = file.stages.iter();
    let all: Vec<(&str, usize, usize)> = stages
        .flat_map(|stage| {
            let own = (keyword(&stage.text), stage.line, stage.end);
            let rest = stage.instructions.iter().map(|i| (keyword(&i.text), i.line, i.end));
            std::iter::once(own).chain(rest)
        })
        .collect();
    let lower = all.iter().filter(|(name, ..)| is_lower(name)).count();
    let upper = all.iter().filter(|(name, ..)| is_upper(name)).count();
    for (name, line, end) in all {
        let wanted = match lower > upper {
            true if !is_lower(name) => "lowercase",
            false if !is_upper(name) => "uppercase",
            _ => continue,
        };
        let text = format!("Command '{name}' should match the case of the command majority ({wanted})");
        out.push(Warning { line, end, rule: Rule::ConsistentInstructionCasing, text });
    }
}
