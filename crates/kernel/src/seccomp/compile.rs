//! From rules to a program: per architecture, ranges of call numbers with the same outcome, searched by halves.

use super::table::{Abi, Family, NATIVE, Row};
use super::{Action, Architecture, Condition, Instruction, Operator, Policy, Program, Rule};

/// A policy that can't be compiled.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// More instructions than the kernel takes.
    #[error("the seccomp rules need {instructions} instructions, the kernel takes {MAX_INSTRUCTIONS}")]
    TooLong {
        /// How many it would be.
        instructions: usize,
    },
    /// A condition on an argument that calls don't have.
    #[error("seccomp rules can't look at argument {index}: calls have arguments 0 to 5")]
    NoSuchArgument {
        /// The argument.
        index: u8,
    },
}

/// The kernel's BPF_MAXINSNS.
const MAX_INSTRUCTIONS: usize = 4096;
/// From here on, ARM has calls that no other architecture has.
const PRIVATE: u32 = 0xf_0000;
/// The number of a call that a tracer has cancelled: it is nobody's call and must not kill.
const CANCELLED: u32 = u32::MAX;

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const JUMP_GREATER: u16 = 0x25; // BPF_JMP | BPF_JGT | BPF_K
const JUMP_AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

/// Offsets in the kernel's `struct seccomp_data`.
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;
const ARGUMENTS_AT: u32 = 16;

/// Conditions, and what to do if all hold.
type Clause<'p> = (&'p [Condition], Action);

/// What happens to one call: the first clause whose conditions hold, or else the last word.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Outcome<'p> {
    clauses: Vec<Clause<'p>>,
    otherwise: Action,
}

impl Outcome<'_> {
    fn always(action: Action) -> Self {
        Outcome { clauses: Vec::new(), otherwise: action }
    }
}

/// From `first` up to the next range, calls have this outcome.
struct Range<'p> {
    first: u32,
    outcome: Outcome<'p>,
}

/// Compiles a policy for this machine.
///
/// # Errors
/// If the program would be too long, or a condition names an argument that there is not.
pub fn compile(policy: &Policy<'_>) -> Result<Program, CompileError> {
    compile_for(&NATIVE, policy)
}

fn compile_for(family: &Family, policy: &Policy<'_>) -> Result<Program, CompileError> {
    let conditions = || policy.rules.iter().flat_map(|rule| &rule.conditions);
    if let Some(wrong) = conditions().find(|c| c.argument > 5) {
        return Err(CompileError::NoSuchArgument { index: wrong.argument });
    }
    // Names are looked up once for all architectures: there are hundreds of them.
    let resolve =
        |rule| -> Resolved<'_> { (rule, rule.names.iter().filter_map(|name| family.row(name)).collect()) };
    let rules: Vec<Resolved<'_>> = policy.rules.iter().map(resolve).collect();
    let mut program = vec![load(ARCHITECTURE_AT)];
    for (at, group) in family.abis.chunk_by(|one, next| one.audit == next.audit).enumerate() {
        // The machine's own calls always go to the rules, the others if they are listed.
        let native = at == 0;
        let listed = |abi: &Abi| policy.architectures.contains(&abi.architecture);
        if !native && !group.iter().any(listed) {
            continue;
        }
        let mut ranges = Vec::new();
        for (place, abi) in group.iter().enumerate() {
            if (native && place == 0) || listed(abi) {
                ranges.extend(ranges_of(policy, &rules, abi));
            } else {
                ranges.push(Range { first: abi.mark, outcome: Outcome::always(Action::KillProcess) });
            }
        }
        if native {
            let outcome = Outcome::always(policy.unknown.unwrap_or(policy.default));
            ranges.push(Range { first: CANCELLED, outcome });
        }
        let wide = group.iter().all(|abi| abi.wide);
        let mut block = vec![load(NUMBER_AT)];
        search(&merge(ranges), wide, &mut block);
        program.push(jump_if(JUMP_EQUAL, group.first().map_or(0, |abi| abi.audit), 1, 0));
        program.push(jump(block.len()));
        program.append(&mut block);
    }
    program.push(ret(Action::KillProcess));
    if program.len() > MAX_INSTRUCTIONS {
        return Err(CompileError::TooLong { instructions: program.len() });
    }
    Ok(Program(program))
}

/// The names of all calls of this machine's family that policies can have rules for.
pub fn call_names() -> impl Iterator<Item = &'static str> {
    NATIVE.rows.iter().map(|row| row.0)
}

/// The number of a call, if this machine has the architecture and that the call; for x32 without the bit that marks it.
pub fn call_number(architecture: Architecture, name: &str) -> Option<u32> {
    let abi = NATIVE.abis.iter().find(|abi| abi.architecture == architecture)?;
    abi.number(NATIVE.row(name)?)
}

/// A rule, and the calls that it names.
type Resolved<'p> = (&'p Rule<'p>, Vec<&'static Row>);

/// The outcomes of an architecture's calls, all numbers from its mark on.
fn ranges_of<'p>(policy: &'p Policy<'_>, rules: &[Resolved<'p>], abi: &Abi) -> Vec<Range<'p>> {
    let base = abi.mark;
    let named = rules.iter().flat_map(|(rule, rows)| {
        rows.iter().filter_map(|row| abi.number(row)).map(move |number| (number, *rule))
    });
    let mut calls: Vec<(u32, &'p Rule<'p>)> = named.collect();
    // The rules of one call stay in their order.
    calls.sort_by_key(|(number, _)| *number);
    let default = || Outcome::always(policy.default);
    let mut ranges = vec![Range { first: base, outcome: default() }];
    let mut next = 0;
    for group in calls.chunk_by(|(one, _), (other, _)| one == other) {
        let number = group[0].0;
        if number > next {
            // Private calls of an architecture are not its newest.
            if let (Some(unknown), true) = (policy.unknown, number >= PRIVATE && next < PRIVATE) {
                ranges.push(Range { first: base + next, outcome: Outcome::always(unknown) });
                next = PRIVATE;
            }
            ranges.push(Range { first: base + next, outcome: default() });
        }
        // The first rule without conditions decides, and those after it are of no use.
        let decisive = group.iter().position(|(_, rule)| rule.conditions.is_empty());
        let otherwise = decisive.map_or(policy.default, |at| group[at].1.action);
        let before = &group[..decisive.unwrap_or(group.len())];
        let clauses = before.iter().map(|(_, rule)| (rule.conditions.as_slice(), rule.action)).collect();
        ranges.push(Range { first: base + number, outcome: Outcome { clauses, otherwise } });
        next = number + 1;
    }
    ranges.push(Range {
        first: base + next,
        outcome: Outcome::always(policy.unknown.unwrap_or(policy.default)),
    });
    ranges
}

/// Of several ranges that start at one number the last counts; neighbours with one outcome become one.
fn merge(ranges: Vec<Range<'_>>) -> Vec<Range<'_>> {
    let mut merged: Vec<Range<'_>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        if merged.last().is_some_and(|last| last.first == range.first) {
            merged.pop();
        }
        if merged.last().is_none_or(|last| last.outcome != range.outcome) {
            merged.push(range);
        }
    }
    merged
}

/// The farthest that a conditional jump reaches.
const REACH: usize = 255;

/// Appends code that finds the range of the call number in the accumulator, by halves, and returns its outcome.
fn search(ranges: &[Range<'_>], wide: bool, code: &mut Vec<Instruction>) {
    // One range alone needs no jump, however long its outcome is.
    if ranges.len() == 1 || length(ranges, wide) <= REACH {
        return decide_among(ranges, wide, code);
    }
    let (lower, upper) = ranges.split_at(ranges.len() / 2);
    let first = upper.first().map_or(0, |range| range.first);
    let at = code.len();
    code.extend([jump_if(JUMP_AT_LEAST, first, 0, 1), jump(0)]);
    search(lower, wide, code);
    code[at + 1] = jump(code.len() - at - 2);
    search(upper, wide, code);
}

/// How long the code of [`decide_among`] is.
fn length(ranges: &[Range<'_>], wide: bool) -> usize {
    let mut outcomes: Vec<&Outcome<'_>> = Vec::new();
    for range in ranges {
        if !outcomes.contains(&&range.outcome) {
            outcomes.push(&range.outcome);
        }
    }
    let mut code = Vec::new();
    outcomes.into_iter().for_each(|outcome| decide(outcome, wide, &mut code));
    ranges.len() - 1 + code.len()
}

/// As [`search`], where all is in reach of all: first the comparisons, then each outcome once. The kernel checks,
/// translates and tries every instruction when it loads them, so half as many take half the time.
fn decide_among(ranges: &[Range<'_>], wide: bool, code: &mut Vec<Instruction>) {
    let mut exits = Vec::new();
    match ranges {
        [only] => return decide(&only.outcome, wide, code),
        _ => compare(ranges, code, &mut exits),
    }
    let mut placed: Vec<(&Outcome<'_>, usize)> = Vec::new();
    for (at, holds, outcome) in exits {
        let target = match placed.iter().find(|(other, _)| *other == outcome) {
            Some((_, target)) => *target,
            None => {
                placed.push((outcome, code.len()));
                decide(outcome, wide, code);
                placed[placed.len() - 1].1
            }
        };
        let distance = (target - at - 1) as u8;
        *(if holds { &mut code[at].if_true } else { &mut code[at].if_false }) = distance;
    }
}

/// Appends the comparisons among two ranges or more. `exits` gets the jumps that are to lead to an outcome: where they
/// are, and whether it is for numbers that are high enough.
fn compare<'r, 'p>(
    ranges: &'r [Range<'p>],
    code: &mut Vec<Instruction>,
    exits: &mut Vec<(usize, bool, &'r Outcome<'p>)>,
) {
    let (lower, upper) = ranges.split_at(ranges.len() / 2);
    let first = upper.first().map_or(0, |range| range.first);
    let at = code.len();
    code.push(jump_if(JUMP_AT_LEAST, first, 0, 0));
    match lower {
        [one] => exits.push((at, false, &one.outcome)),
        _ => compare(lower, code, exits),
    }
    match upper {
        [one] => exits.push((at, true, &one.outcome)),
        _ => {
            code[at].if_true = (code.len() - at - 1) as u8;
            compare(upper, code, exits);
        }
    }
}

/// Appends code that returns an outcome. It may use the accumulator: every path through it ends the program.
fn decide(outcome: &Outcome<'_>, wide: bool, code: &mut Vec<Instruction>) {
    for (conditions, action) in &outcome.clauses {
        let mut clause = vec![ret(*action)];
        for condition in conditions.iter().rev() {
            let mut test = test(condition, clause.len() as u8, wide);
            test.append(&mut clause);
            clause = test;
        }
        code.extend(clause);
    }
    code.push(ret(outcome.otherwise));
}

/// Code that goes on behind itself if the condition holds, and else skips `fail` instructions more. At most 6
/// conditions of at most 6 instructions come together in a clause (one per argument), so the distances fit.
fn test(condition: &Condition, fail: u8, wide: bool) -> Vec<Instruction> {
    let at = ARGUMENTS_AT + 8 * u32::from(condition.argument);
    let (low, high) = (at, at + 4);
    let value = condition.value;
    let (value_low, value_high) = (value as u32, (value >> 32) as u32);
    if !wide {
        let (code, holds) = match condition.operator {
            Operator::Equal => (JUMP_EQUAL, true),
            Operator::NotEqual => (JUMP_EQUAL, false),
            Operator::Greater => (JUMP_GREATER, true),
            Operator::LessOrEqual => (JUMP_GREATER, false),
            Operator::GreaterOrEqual => (JUMP_AT_LEAST, true),
            Operator::Less => (JUMP_AT_LEAST, false),
            Operator::MaskedEqual { mask } => {
                return vec![load(low), and(mask as u32), jump_if(JUMP_EQUAL, value_low, 0, fail)];
            }
        };
        let (if_true, if_false) = if holds { (0, fail) } else { (fail, 0) };
        return vec![load(low), jump_if(code, value_low, if_true, if_false)];
    }
    match condition.operator {
        Operator::Equal => vec![
            load(high),
            jump_if(JUMP_EQUAL, value_high, 0, 2 + fail),
            load(low),
            jump_if(JUMP_EQUAL, value_low, 0, fail),
        ],
        Operator::NotEqual => vec![
            load(high),
            jump_if(JUMP_EQUAL, value_high, 0, 2),
            load(low),
            jump_if(JUMP_EQUAL, value_low, fail, 0),
        ],
        Operator::Greater | Operator::GreaterOrEqual => {
            let code = if condition.operator == Operator::Greater { JUMP_GREATER } else { JUMP_AT_LEAST };
            vec![
                load(high),
                jump_if(JUMP_GREATER, value_high, 3, 0),
                jump_if(JUMP_EQUAL, value_high, 0, 2 + fail),
                load(low),
                jump_if(code, value_low, 0, fail),
            ]
        }
        Operator::Less | Operator::LessOrEqual => {
            let code = if condition.operator == Operator::Less { JUMP_AT_LEAST } else { JUMP_GREATER };
            vec![
                load(high),
                jump_if(JUMP_GREATER, value_high, 3 + fail, 0),
                jump_if(JUMP_EQUAL, value_high, 0, 2),
                load(low),
                jump_if(code, value_low, fail, 0),
            ]
        }
        Operator::MaskedEqual { mask } => vec![
            load(high),
            and((mask >> 32) as u32),
            jump_if(JUMP_EQUAL, value_high, 0, 3 + fail),
            load(low),
            and(mask as u32),
            jump_if(JUMP_EQUAL, value_low, 0, fail),
        ],
    }
}

fn load(offset: u32) -> Instruction {
    Instruction { code: LOAD, if_true: 0, if_false: 0, operand: offset }
}

fn and(mask: u32) -> Instruction {
    Instruction { code: AND, if_true: 0, if_false: 0, operand: mask }
}

fn jump(distance: usize) -> Instruction {
    Instruction { code: JUMP, if_true: 0, if_false: 0, operand: distance as u32 }
}

fn jump_if(code: u16, operand: u32, if_true: u8, if_false: u8) -> Instruction {
    Instruction { code, if_true, if_false, operand }
}

fn ret(action: Action) -> Instruction {
    Instruction { code: RETURN, if_true: 0, if_false: 0, operand: action.code() }
}

#[cfg(test)]
mod tests {
    use super::super::table::{ARM, LOONGARCH, RISCV, X32_BIT, X86};
    use super::*;

    fn run(program: &Program, number: u32, architecture: u32, arguments: [u64; 6]) -> u32 {
        super::super::evaluate(program, number, architecture, arguments).unwrap()
    }

    const ALL: [Architecture; 3] = [Architecture::X86_64, Architecture::X86, Architecture::X32];
    const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
    const AUDIT_ARCH_I386: u32 = 0x4000_0003;

    fn compile(policy: &Policy<'_>) -> Result<Program, CompileError> {
        compile_for(&X86, policy)
    }

    fn names(names: &str) -> Vec<String> {
        names.split_whitespace().map(str::to_owned).collect()
    }

    fn rule(names: &[String], action: Action) -> Rule<'_> {
        Rule { names, action, conditions: vec![] }
    }

    fn policy<'a>(architectures: &[Architecture], rules: Vec<Rule<'a>>) -> Policy<'a> {
        Policy { default: Action::Errno(1), unknown: None, architectures: architectures.to_vec(), rules }
    }

    /// Every call of every architecture ends as the rules say, by a naive reading of them.
    #[test]
    fn the_tree_agrees_with_the_list_for_every_number() {
        for family in [&X86, &ARM, &RISCV, &LOONGARCH] {
            let every_third: Vec<String> =
                family.rows.iter().step_by(3).map(|row| row.0.to_owned()).collect();
            let some: Vec<String> =
                family.rows.iter().skip(1).step_by(7).map(|row| row.0.to_owned()).collect();
            let all: Vec<Architecture> = family.abis.iter().map(|abi| abi.architecture).collect();
            let rules = vec![rule(&every_third, Action::Allow), rule(&some, Action::Errno(7))];
            let mut policy = policy(&all, rules);
            policy.unknown = Some(Action::Errno(38));
            let program = compile_for(family, &policy).unwrap();
            for abi in family.abis {
                let numbers = |names: &[String]| -> Vec<u32> {
                    names.iter().filter_map(|name| abi.number(family.row(name)?)).collect()
                };
                let (allowed, failing) = (numbers(&every_third), numbers(&some));
                let highest = |below: u32| {
                    allowed.iter().chain(&failing).filter(|n| **n < below).max().copied().unwrap()
                };
                let (last, last_private) = (highest(PRIVATE), highest(u32::MAX));
                for n in (0..1000).chain(0xf_0001..0xf_0010) {
                    let expected = if allowed.contains(&n) {
                        Action::Allow
                    } else if failing.contains(&n) {
                        Action::Errno(7)
                    } else if (n > last && n < PRIVATE) || n > last_private {
                        Action::Errno(38)
                    } else {
                        Action::Errno(1)
                    };
                    let got = run(&program, n | abi.mark, abi.audit, [0; 6]);
                    assert_eq!(got, expected.code(), "{:?} {n}", abi.architecture);
                }
            }
            assert_eq!(run(&program, u32::MAX, family.abis[0].audit, [0; 6]), Action::Errno(38).code());
        }
    }

    #[test]
    fn on_arm_the_32_bit_calls_go_to_the_rules_only_if_listed() {
        let read = names("read set_tls");
        let policy_of = |list: &[Architecture]| {
            compile_for(&ARM, &policy(list, vec![rule(&read, Action::Allow)])).unwrap()
        };
        let arm = 0x4000_0028;
        let (without, with) = (policy_of(&[Architecture::X86]), policy_of(&[Architecture::Arm]));
        assert_eq!(run(&without, 63, 0xc000_00b7, [0; 6]), Action::Allow.code());
        assert_eq!(run(&without, 3, arm, [0; 6]), Action::KillProcess.code());
        assert_eq!(run(&with, 3, arm, [0; 6]), Action::Allow.code());
        assert_eq!(run(&with, 0xf_0005, arm, [0; 6]), Action::Allow.code());
        assert_eq!(run(&with, 63, arm, [0; 6]), Action::Errno(1).code());
        assert_eq!(run(&with, 0, 0xc000_003e, [0; 6]), Action::KillProcess.code());
    }

    #[test]
    fn calls_of_architectures_that_are_not_listed_kill() {
        let read = names("read");
        let program = compile(&policy(&[], vec![rule(&read, Action::Allow)])).unwrap();
        assert_eq!(run(&program, 0, AUDIT_ARCH_X86_64, [0; 6]), Action::Allow.code());
        assert_eq!(run(&program, X32_BIT, AUDIT_ARCH_X86_64, [0; 6]), Action::KillProcess.code());
        assert_eq!(run(&program, 3, AUDIT_ARCH_I386, [0; 6]), Action::KillProcess.code());
        assert_eq!(run(&program, 0, 0xc000_00b7, [0; 6]), Action::KillProcess.code());
        assert_eq!(run(&program, u32::MAX, AUDIT_ARCH_X86_64, [0; 6]), Action::Errno(1).code());
    }

    #[test]
    fn operators_compare_64_bits_and_on_32_bit_architectures_the_low_half() {
        const VALUES: [u64; 9] = [
            0,
            1,
            5,
            0xffff_ffff,
            0x1_0000_0000,
            0x1_0000_0005,
            0x7fff_ffff_ffff_ffff,
            0x8000_0000_0000_0005,
            u64::MAX,
        ];
        let read = names("read");
        type Meaning = fn(u64, u64) -> bool;
        let operators: [(Operator, Meaning); 6] = [
            (Operator::NotEqual, |a, b| a != b),
            (Operator::Less, |a, b| a < b),
            (Operator::LessOrEqual, |a, b| a <= b),
            (Operator::Equal, |a, b| a == b),
            (Operator::GreaterOrEqual, |a, b| a >= b),
            (Operator::Greater, |a, b| a > b),
        ];
        for value in VALUES {
            for argument in VALUES {
                for (operator, meaning) in operators {
                    let mut rule = rule(&read, Action::Allow);
                    // The first condition always holds: what follows must not depend on where it left off.
                    rule.conditions = vec![
                        Condition { argument: 0, operator: Operator::Equal, value: 9 },
                        Condition { argument: 3, operator, value },
                    ];
                    let program = compile(&policy(&ALL, vec![rule])).unwrap();
                    let arguments = [9, 0, 0, argument, 0, 0];
                    let expect = |holds| if holds { Action::Allow } else { Action::Errno(1) }.code();
                    let wide = run(&program, 0, AUDIT_ARCH_X86_64, arguments);
                    assert_eq!(wide, expect(meaning(argument, value)), "{argument:x} {operator:?} {value:x}");
                    let low = |v: u64| v & 0xffff_ffff;
                    let narrow = run(&program, 3, AUDIT_ARCH_I386, arguments);
                    assert_eq!(narrow, expect(meaning(low(argument), low(value))), "32 bits {operator:?}");
                }
                let mask = 0xf_0000_000f;
                let mut rule = rule(&read, Action::Allow);
                let operator = Operator::MaskedEqual { mask };
                rule.conditions = vec![Condition { argument: 1, operator, value }];
                let program = compile(&policy(&[], vec![rule])).unwrap();
                let got = run(&program, 0, AUDIT_ARCH_X86_64, [0, argument, 0, 0, 0, 0]);
                assert_eq!(got == Action::Allow.code(), argument & mask == value);
            }
        }
    }

    #[test]
    fn the_first_rule_that_holds_decides() {
        let (read, both) = (names("read"), names("read write"));
        let mut first = rule(&read, Action::Errno(5));
        first.conditions = vec![Condition { argument: 0, operator: Operator::Equal, value: 1 }];
        let mut second = rule(&read, Action::KillThread);
        second.conditions = vec![Condition { argument: 0, operator: Operator::Less, value: 3 }];
        let rules = vec![first, second, rule(&both, Action::Allow), rule(&both, Action::Trap(0))];
        let program = compile(&policy(&[], rules)).unwrap();
        let read = |argument| run(&program, 0, AUDIT_ARCH_X86_64, [argument, 0, 0, 0, 0, 0]);
        assert_eq!(
            [read(1), read(2), read(3)],
            [Action::Errno(5), Action::KillThread, Action::Allow].map(Action::code)
        );
        assert_eq!(run(&program, 1, AUDIT_ARCH_X86_64, [0; 6]), Action::Allow.code());
    }

    #[test]
    fn too_much_is_an_error() {
        let all: Vec<String> = X86.rows.iter().map(|row| row.0.to_owned()).collect();
        let rules = all
            .chunks(1)
            .zip(0..)
            .map(|(names, value)| Rule {
                names,
                action: Action::Allow,
                conditions: vec![Condition { argument: 0, operator: Operator::Equal, value }],
            })
            .collect();
        assert!(matches!(compile(&policy(&ALL, rules)), Err(CompileError::TooLong { .. })));
    }
}
