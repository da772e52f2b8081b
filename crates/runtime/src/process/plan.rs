//! Decides how a process is started: every name is looked up, the seccomp program compiled.

use std::collections::BTreeMap;

use rustix::process::Resource;
use rustix::thread::CpuSet;
use sampan_kernel::capabilities::{Set, Sets};
use sampan_kernel::process::Scheduling;
use sampan_kernel::seccomp::{self, Action, Architecture, Condition, Flags, Operator, Policy, Program, Rule};
use sampan_oci::runtime::{
    Capabilities, ExecCpuAffinity, LinuxSeccomp, MemoryPolicy, Personality, Process, Rlimit, Scheduler,
    SeccompAction, SeccompArg, SeccompOperator, Spec,
};

use super::{landlock, numbers};
use crate::error::Refused;

/// How a process is started.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The program and its arguments.
    pub args: Vec<String>,
    /// The environment.
    pub env: Vec<String>,
    /// The working directory.
    pub cwd: String,
    /// The user.
    pub uid: u32,
    /// The primary group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// The file mode mask.
    pub umask: u32,
    /// The five capability sets.
    pub capabilities: Sets,
    /// Whether exec may never grant privileges.
    pub no_new_privileges: bool,
    /// Resource limits: which, soft, hard.
    pub rlimits: Vec<(Resource, u64, u64)>,
    /// `/proc/PID/oom_score_adj`.
    pub oom_score_adj: Option<i32>,
    /// Filter of system calls.
    pub seccomp: Option<Seccomp>,
    /// Scheduling.
    pub scheduling: Option<Scheduling>,
    /// I/O scheduling class and priority.
    pub io_priority: Option<(u16, u16)>,
    /// Execution domain.
    pub personality: Option<u32>,
    /// NUMA memory policy: the mode with its flags, and the nodes.
    pub memory_policy: Option<(u32, Vec<u64>)>,
    /// The CPUs of a process that is added, before it joins the cgroup and after.
    pub affinity: [Option<CpuSet>; 2],
    /// AppArmor profile.
    pub apparmor: Option<String>,
    /// SELinux context.
    pub selinux: Option<String>,
    /// What it may still do with files and ports.
    pub landlock: Option<landlock::Rules>,
    /// Whether it gets a terminal, and of what size.
    pub terminal: Option<Option<(u32, u32)>>,
    /// How many descriptors from 3 on it gets.
    pub preserve_fds: u32,
    /// Whether it gets a session keyring of its own, and not the caller's.
    pub own_keyring: bool,
    /// What is asked for and is done without.
    pub warnings: Vec<String>,
}

/// A compiled filter of system calls.
#[derive(Clone, Debug)]
pub struct Seccomp {
    /// The program.
    pub program: Program,
    /// How it is loaded.
    pub flags: Flags,
}

/// What of config.json is about all processes of a container.
#[derive(Clone, Copy, Debug, Default)]
pub struct LinuxPart<'a> {
    /// The filter.
    pub seccomp: Option<&'a LinuxSeccomp>,
    /// The execution domain.
    pub personality: Option<&'a Personality>,
    /// The NUMA memory policy.
    pub memory_policy: Option<&'a MemoryPolicy>,
    /// The annotations, of which one is about processes.
    pub annotations: Option<&'a BTreeMap<String, String>>,
}

impl<'a> LinuxPart<'a> {
    /// The part of a configuration.
    pub fn of(spec: &'a Spec) -> LinuxPart<'a> {
        let linux = spec.linux.as_ref();
        LinuxPart {
            annotations: Some(&spec.annotations),
            seccomp: linux.and_then(|l| l.seccomp.as_ref()),
            personality: linux.and_then(|l| l.personality.as_ref()),
            memory_policy: linux.and_then(|l| l.memory_policy.as_ref()),
        }
    }
}

/// Plans the first process of a container that has none to run: it can be created, but not started.
///
/// # Errors
/// As [`plan`].
pub fn without_program(linux: LinuxPart<'_>) -> Result<Plan, Refused> {
    let process = Process { args: vec!["-".to_owned()], cwd: "/".to_owned(), ..Process::default() };
    Ok(Plan { args: Vec::new(), ..plan(&process, linux)? })
}

/// Plans a process.
///
/// # Errors
/// If config.json asks for what makes no sense or is not supported.
pub fn plan(process: &Process, linux: LinuxPart<'_>) -> Result<Plan, Refused> {
    if process.args.is_empty() || process.args[0].is_empty() {
        return Err(Refused::Invalid("process.args names no program".to_owned()));
    }
    if !process.cwd.starts_with('/') {
        return Err(Refused::Invalid(format!("process.cwd `{}` is not absolute", process.cwd)));
    }
    for text in process.args.iter().chain(&process.env) {
        if text.contains('\0') {
            return Err(Refused::Invalid("process.args and process.env can't hold NUL bytes".to_owned()));
        }
    }
    let mut warnings = Vec::new();
    let size = process.console_size.map(|size| (size.height, size.width));
    Ok(Plan {
        args: process.args.clone(),
        env: environment(&process.env)?,
        cwd: process.cwd.clone(),
        uid: process.user.uid,
        gid: process.user.gid,
        groups: process.user.additional_gids.clone(),
        umask: process.user.umask.unwrap_or(0o022) & 0o777,
        capabilities: capabilities(process.capabilities.as_ref(), &mut warnings),
        no_new_privileges: process.no_new_privileges,
        rlimits: rlimits(&process.rlimits)?,
        oom_score_adj: process.oom_score_adj,
        seccomp: linux.seccomp.map(seccomp).transpose()?.flatten(),
        scheduling: process.scheduler.as_ref().map(scheduling).transpose()?,
        io_priority: process
            .io_priority
            .as_ref()
            .map(|io| io_priority(&io.class, io.priority))
            .transpose()?,
        personality: linux.personality.map(personality).transpose()?,
        memory_policy: linux.memory_policy.map(memory_policy).transpose()?,
        affinity: affinity(process.exec_cpu_affinity.as_ref())?,
        apparmor: process.apparmor_profile.clone().filter(|p| !p.is_empty()),
        selinux: process.selinux_label.clone().filter(|l| !l.is_empty()),
        landlock: linux.annotations.map(landlock::plan).transpose()?.flatten(),
        terminal: process.terminal.then_some(size),
        preserve_fds: 0,
        own_keyring: true,
        warnings,
    })
}

/// The environment, in which every name stands once: who looks one up would find the first, and means the last.
fn environment(given: &[String]) -> Result<Vec<String>, Refused> {
    let mut env: Vec<String> = Vec::with_capacity(given.len() + 1);
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    for variable in given {
        let Some((name, _)) = variable.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            return Err(Refused::Invalid(format!("process.env: `{variable}` is not of the form NAME=value")));
        };
        match places.get(name) {
            Some(&at) => env[at].clone_from(variable),
            None => {
                places.insert(name, env.len());
                env.push(variable.clone());
            }
        }
    }
    Ok(env)
}

/// Names become sets. Names that nobody knows are told and left out: a newer caller may know more of them than this
/// program, and to have fewer capabilities is safe.
fn capabilities(wanted: Option<&Capabilities>, warnings: &mut Vec<String>) -> Sets {
    let Some(wanted) = wanted else { return Sets::default() };
    let mut unknown: Vec<String> = Vec::new();
    let mut set = |names: &[String]| {
        let mut set = Set::default();
        for name in names {
            match Set::named(name) {
                Some(one) => set = set.union(one),
                None => unknown.push(name.clone()),
            }
        }
        set
    };
    let sets = Sets {
        bounding: set(&wanted.bounding),
        effective: set(&wanted.effective),
        permitted: set(&wanted.permitted),
        inheritable: set(&wanted.inheritable),
        ambient: set(&wanted.ambient),
    };
    unknown.sort_unstable();
    unknown.dedup();
    if !unknown.is_empty() {
        warnings.push(format!("unknown capabilities are left out: {}", unknown.join(", ")));
    }
    sets
}

/// Resource limits by name.
const RLIMITS: [(&str, Resource); 16] = [
    ("RLIMIT_AS", Resource::As),
    ("RLIMIT_CORE", Resource::Core),
    ("RLIMIT_CPU", Resource::Cpu),
    ("RLIMIT_DATA", Resource::Data),
    ("RLIMIT_FSIZE", Resource::Fsize),
    ("RLIMIT_LOCKS", Resource::Locks),
    ("RLIMIT_MEMLOCK", Resource::Memlock),
    ("RLIMIT_MSGQUEUE", Resource::Msgqueue),
    ("RLIMIT_NICE", Resource::Nice),
    ("RLIMIT_NOFILE", Resource::Nofile),
    ("RLIMIT_NPROC", Resource::Nproc),
    ("RLIMIT_RSS", Resource::Rss),
    ("RLIMIT_RTPRIO", Resource::Rtprio),
    ("RLIMIT_RTTIME", Resource::Rttime),
    ("RLIMIT_SIGPENDING", Resource::Sigpending),
    ("RLIMIT_STACK", Resource::Stack),
];

fn rlimits(wanted: &[Rlimit]) -> Result<Vec<(Resource, u64, u64)>, Refused> {
    let mut limits: Vec<(Resource, u64, u64)> = Vec::new();
    for Rlimit { kind, hard, soft } in wanted {
        let refuse = |why: &str| Refused::Invalid(format!("process.rlimits: `{kind}` {why}"));
        let (_, resource) =
            RLIMITS.iter().find(|(name, _)| name == kind).ok_or_else(|| refuse("is no resource limit"))?;
        if limits.iter().any(|(other, _, _)| other == resource) {
            return Err(refuse("is given twice"));
        }
        if soft > hard {
            return Err(refuse("has a soft limit above the hard one"));
        }
        limits.push((*resource, *soft, *hard));
    }
    Ok(limits)
}

fn scheduling(wanted: &Scheduler) -> Result<Scheduling, Refused> {
    let refuse = |word: &str| Refused::Invalid(format!("process.scheduler: `{word}` is not known"));
    let policy = match wanted.policy.as_str() {
        "SCHED_OTHER" => 0,
        "SCHED_FIFO" => 1,
        "SCHED_RR" => 2,
        "SCHED_BATCH" => 3,
        "SCHED_ISO" => 4,
        "SCHED_IDLE" => 5,
        "SCHED_DEADLINE" => 6,
        other => return Err(refuse(other)),
    };
    let mut flags = 0;
    for flag in &wanted.flags {
        flags |= match flag.as_str() {
            "SCHED_FLAG_RESET_ON_FORK" => 0x01,
            "SCHED_FLAG_RECLAIM" => 0x02,
            "SCHED_FLAG_DL_OVERRUN" => 0x04,
            "SCHED_FLAG_KEEP_POLICY" => 0x08,
            "SCHED_FLAG_KEEP_PARAMS" => 0x10,
            "SCHED_FLAG_UTIL_CLAMP_MIN" => 0x20,
            "SCHED_FLAG_UTIL_CLAMP_MAX" => 0x40,
            other => return Err(refuse(other)),
        };
    }
    Ok(Scheduling {
        policy,
        flags,
        nice: wanted.nice.unwrap_or(0),
        priority: wanted.priority.unwrap_or(0).max(0).cast_unsigned(),
        runtime: wanted.runtime.unwrap_or(0),
        deadline: wanted.deadline.unwrap_or(0),
        period: wanted.period.unwrap_or(0),
    })
}

fn io_priority(class: &str, priority: i32) -> Result<(u16, u16), Refused> {
    let number = match class {
        "IOPRIO_CLASS_RT" => 1,
        "IOPRIO_CLASS_BE" => 2,
        "IOPRIO_CLASS_IDLE" => 3,
        _ => return Err(Refused::Invalid(format!("process.ioPriority: `{class}` is no class"))),
    };
    match u16::try_from(priority) {
        Ok(level @ 0..=7) => Ok((number, level)),
        _ => Err(Refused::Invalid(format!("process.ioPriority: {priority} is not between 0 and 7"))),
    }
}

fn affinity(wanted: Option<&ExecCpuAffinity>) -> Result<[Option<CpuSet>; 2], Refused> {
    let set = |list: &Option<String>| -> Result<Option<CpuSet>, Refused> {
        let Some(list) = list.as_deref().filter(|list| !list.is_empty()) else { return Ok(None) };
        let mut set = CpuSet::new();
        for cpu in numbers::parse("process.execCPUAffinity", list)? {
            set.set(cpu as usize);
        }
        Ok(Some(set))
    };
    match wanted {
        Some(wanted) => Ok([set(&wanted.initial)?, set(&wanted.after)?]),
        None => Ok([None, None]),
    }
}

/// NUMA memory policies, by the kernel's numbers.
pub const MODES: [&str; 7] = [
    "MPOL_DEFAULT",
    "MPOL_PREFERRED",
    "MPOL_BIND",
    "MPOL_INTERLEAVE",
    "MPOL_LOCAL",
    "MPOL_PREFERRED_MANY",
    "MPOL_WEIGHTED_INTERLEAVE",
];
/// Flags of NUMA memory policies.
pub const FLAGS: [(&str, u32); 3] = [
    ("MPOL_F_STATIC_NODES", 1 << 15),
    ("MPOL_F_RELATIVE_NODES", 1 << 14),
    ("MPOL_F_NUMA_BALANCING", 1 << 13),
];

fn memory_policy(wanted: &MemoryPolicy) -> Result<(u32, Vec<u64>), Refused> {
    let refuse = |word: &str| Refused::Invalid(format!("linux.memoryPolicy: `{word}` is not known"));
    let mode = MODES.iter().position(|mode| *mode == wanted.mode).ok_or_else(|| refuse(&wanted.mode))?;
    let mut mode = mode as u32;
    for flag in &wanted.flags {
        let (_, bit) = FLAGS.iter().find(|(name, _)| name == flag).ok_or_else(|| refuse(flag))?;
        mode |= bit;
    }
    let nodes = numbers::parse("linux.memoryPolicy", &wanted.nodes)?;
    let mut words = vec![0u64; nodes.iter().max().map_or(0, |highest| *highest as usize / 64 + 1)];
    for node in nodes {
        words[node as usize / 64] |= 1 << (node % 64);
    }
    Ok((mode, words))
}

fn personality(wanted: &Personality) -> Result<u32, Refused> {
    if let Some(flag) = wanted.flags.first() {
        return Err(Refused::Unsupported(format!("the personality flag `{flag}`")));
    }
    match wanted.domain.as_str() {
        "LINUX" => Ok(0),
        "LINUX32" => Ok(8),
        other => Err(Refused::Invalid(format!("linux.personality: `{other}` is no domain"))),
    }
}

const ENOSYS: u16 = 38;

/// Compiles a filter; `None` if it would let everything pass.
fn seccomp(wanted: &LinuxSeccomp) -> Result<Option<Seccomp>, Refused> {
    let invalid = |why: String| Refused::Invalid(format!("linux.seccomp: {why}"));
    let default = action(wanted.default_action, wanted.default_errno_ret);
    let mut architectures = Vec::new();
    for name in &wanted.architectures {
        match Architecture::named(name) {
            Some(architecture) => architectures.push(architecture),
            None => return Err(invalid(format!("`{name}` is no architecture"))),
        }
    }
    let mut flags = Flags::empty();
    for name in &wanted.flags {
        flags |= Flags::named(name).ok_or_else(|| invalid(format!("`{name}` is no flag")))?;
    }
    let mut rules = Vec::new();
    let mut notifies = wanted.default_action == SeccompAction::Notify;
    for call in &wanted.syscalls {
        notifies |= call.action == SeccompAction::Notify;
        let action = action(call.action, call.errno_ret);
        let conditions = call.args.iter().map(condition).collect::<Result<Vec<_>, _>>()?;
        // Two conditions on one argument have always been alternatives in OCI runtimes, because the library that
        // they use knows one condition per argument.
        let repeated = conditions.iter().enumerate().any(|(at, condition)| {
            conditions[..at].iter().any(|earlier| earlier.argument == condition.argument)
        });
        let names = call.names.as_slice();
        if repeated {
            rules.extend(conditions.into_iter().map(|c| Rule { names, action, conditions: vec![c] }));
        } else {
            rules.push(Rule { names, action, conditions });
        }
    }
    if notifies {
        if wanted.listener_path.as_deref().unwrap_or_default().is_empty() {
            return Err(invalid("SCMP_ACT_NOTIFY needs a listenerPath".to_owned()));
        }
        flags |= Flags::NEW_LISTENER;
    } else if wanted.flags.iter().any(|f| f == "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV") {
        return Err(invalid("SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV needs SCMP_ACT_NOTIFY".to_owned()));
    }
    if default == Action::Allow && rules.iter().all(|rule| rule.action == Action::Allow) {
        return Ok(None);
    }
    // A program that probes for a call that the profile's author did not know must see "no such call", not
    // "forbidden": else it does not fall back. Who says the error number ENOSYS himself, or lets calls pass, needs none.
    let permissive = matches!(
        default,
        Action::Allow | Action::Log | Action::Trace(_) | Action::Notify | Action::Errno(ENOSYS)
    );
    let unknown = (!permissive).then_some(Action::Errno(ENOSYS));
    let program = seccomp::compile(&Policy { default, unknown, architectures, rules })
        .map_err(|e| Refused::Invalid(e.to_string()))?;
    Ok(Some(Seccomp { program, flags }))
}

fn action(action: SeccompAction, errno: Option<u32>) -> Action {
    const EPERM: u32 = 1;
    let number = |default| errno.unwrap_or(default).min(0xffff) as u16;
    match action {
        SeccompAction::Kill | SeccompAction::KillThread => Action::KillThread,
        SeccompAction::KillProcess => Action::KillProcess,
        SeccompAction::Trap => Action::Trap(0),
        SeccompAction::Errno => Action::Errno(number(EPERM)),
        SeccompAction::Trace => Action::Trace(number(EPERM)),
        SeccompAction::Allow => Action::Allow,
        SeccompAction::Log => Action::Log,
        SeccompAction::Notify => Action::Notify,
    }
}

fn condition(arg: &SeccompArg) -> Result<Condition, Refused> {
    let argument = u8::try_from(arg.index).ok().filter(|index| *index <= 5);
    let argument = argument.ok_or_else(|| {
        Refused::Invalid(format!("linux.seccomp: calls have arguments 0 to 5, not {}", arg.index))
    })?;
    let (operator, value) = match arg.op {
        SeccompOperator::NotEqual => (Operator::NotEqual, arg.value),
        SeccompOperator::Less => (Operator::Less, arg.value),
        SeccompOperator::LessOrEqual => (Operator::LessOrEqual, arg.value),
        SeccompOperator::Equal => (Operator::Equal, arg.value),
        SeccompOperator::GreaterOrEqual => (Operator::GreaterOrEqual, arg.value),
        SeccompOperator::Greater => (Operator::Greater, arg.value),
        SeccompOperator::MaskedEqual => {
            (Operator::MaskedEqual { mask: arg.value }, arg.value_two & arg.value)
        }
    };
    Ok(Condition { argument, operator, value })
}

#[cfg(test)]
mod tests {
    use super::*;
    use sampan_oci::runtime::defaults;

    fn check(process: &str, seccomp: &str) -> Result<Plan, String> {
        let process: Process = serde_json::from_str(process).unwrap();
        let seccomp: Option<LinuxSeccomp> = serde_json::from_str(seccomp).unwrap();
        let linux = LinuxPart { seccomp: seccomp.as_ref(), ..LinuxPart::default() };
        plan(&process, linux).map_err(|e| e.to_string())
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for (process, why) in [
            (r#"{"cwd":"/"}"#, "names no program"),
            (r#"{"args":["x"],"cwd":"x"}"#, "`x` is not absolute"),
            (r#"{"args":["x\u0000"],"cwd":"/"}"#, "NUL"),
            (
                r#"{"args":["x"],"cwd":"/","rlimits":[{"type":"RLIMIT_MOON","hard":1,"soft":1}]}"#,
                "`RLIMIT_MOON`",
            ),
            (
                r#"{"args":["x"],"cwd":"/","rlimits":[{"type":"RLIMIT_CPU","hard":1,"soft":2}]}"#,
                "soft limit above",
            ),
            (r#"{"args":["x"],"cwd":"/","scheduler":{"policy":"SCHED_MOON"}}"#, "`SCHED_MOON`"),
            (r#"{"args":["x"],"cwd":"/","ioPriority":{"class":"IOPRIO_CLASS_RT","priority":8}}"#, "8 is not"),
        ] {
            let error = check(process, "null").unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn seccomp_nonsense_is_refused_by_name() {
        for (seccomp, why) in [
            (r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_MOON"]}"#, "`SCMP_ARCH_MOON`"),
            (r#"{"defaultAction":"SCMP_ACT_ERRNO","flags":["MOON"]}"#, "`MOON`"),
            (r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#, "listenerPath"),
            (
                r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_KILL",
                    "args":[{"index":6,"value":0,"op":"SCMP_CMP_EQ"}]}]}"#,
                "not 6",
            ),
        ] {
            let error = check(r#"{"args":["x"],"cwd":"/"}"#, seccomp).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        let nothing = check(r#"{"args":["x"],"cwd":"/"}"#, r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#).unwrap();
        assert!(nothing.seccomp.is_none());
    }

    #[test]
    fn unknown_capabilities_are_told_and_left_out() {
        let plan = check(
            r#"{"args":["x"],"cwd":"/","capabilities":{"bounding":["CAP_MOON","CAP_KILL"],"permitted":["CAP_MOON"]}}"#,
            "null",
        )
        .unwrap();
        assert_eq!(plan.warnings, ["unknown capabilities are left out: CAP_MOON"]);
        assert_eq!(Some(plan.capabilities.bounding), Set::named("CAP_KILL"));
    }

    #[test]
    fn the_default_profile_is_small() {
        let profile = defaults::default_seccomp(&defaults::default_capabilities());
        let program = super::seccomp(&profile).unwrap().unwrap().program;
        assert!(program.len() < 700, "{} instructions", program.len());
    }
}
