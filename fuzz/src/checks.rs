//! One function a target: takes any bytes, and panics if the code under test does, or if it breaks a promise.

use std::path::{Component, Path};

use sampan_kernel::cgroup::{Hierarchy, Layout, Version};
use sampan_kernel::seccomp::{self, Action, Architecture, Condition, Operator, Policy, Rule};
use sampan_oci::runtime::{Process, Spec};
use sampan_runtime::cgroup::{self, GroupPath};
use sampan_runtime::container::exec::SubGroup;
use sampan_runtime::container::kill::parse_signal;
use sampan_runtime::init::{self, Switches};
use sampan_runtime::process::{self, numbers, plan::LinuxPart};
use sampan_runtime::rootfs::options::{self, MountOptions};
use sampan_runtime::state::Record;

/// config.json to a plan: whatever it says, it is a plan or an error, and no path of a plan leads upwards.
pub fn config(data: &[u8]) {
    let Ok(spec) = serde_json::from_slice::<Spec>(data) else { return };
    again(&spec);
    let group = spec.linux.as_ref().and_then(|linux| linux.cgroups_path.as_deref());
    group_path(group);
    let Ok(plan) = init::plan(&spec, Path::new("/bundle"), "id", &Switches::default()) else { return };
    let inside = |path: &Path| path.components().all(|part| matches!(part, Component::Normal(_)));
    for mount in &plan.rootfs.mounts {
        assert!(inside(&mount.destination), "{:?}", mount.destination);
    }
    for device in &plan.rootfs.devices {
        assert!(inside(&device.path) && device.mode <= 0o7777, "{device:?}");
    }
    for path in plan.rootfs.masked.iter().chain(&plan.rootfs.readonly_paths).chain([&plan.rootfs.cwd]) {
        assert!(inside(path), "{path:?}");
    }
    for (path, _) in &plan.sysctl {
        assert!(inside(path), "{path:?}");
    }
    for (_, path) in &plan.namespaces.join {
        assert!(path.is_absolute(), "{path:?}");
    }
}

/// A group is below its hierarchy, and not the hierarchy itself.
fn group_path(text: Option<&str>) {
    let hierarchy = Hierarchy {
        version: Version::V1,
        controllers: vec!["pids".to_owned()],
        mount: "/c/pids".into(),
        own: "/own".into(),
    };
    let Ok(path) = GroupPath::new(text, "id") else { return };
    for group in cgroup::plan(&Layout { hierarchies: vec![hierarchy] }, &path) {
        let below = group.path.strip_prefix("/c/pids").unwrap();
        assert!(below.components().next().is_some(), "{group:?}");
        assert!(below.components().all(|part| matches!(part, Component::Normal(_))), "{group:?}");
    }
}

/// The document of `exec --process`.
pub fn process(data: &[u8]) {
    let Ok(process) = serde_json::from_slice::<Process>(data) else { return };
    again(&process);
    let Ok(plan) = process::plan(&process, LinuxPart::of(&Spec::default())) else { return };
    assert!(plan.umask <= 0o777);
    assert!(plan.rlimits.iter().all(|(_, soft, hard)| soft <= hard));
    assert!(plan.args.iter().chain(&plan.env).all(|text| !text.contains('\0')));
}

/// state.json.
pub fn record(data: &[u8]) {
    let Ok(record) = serde_json::from_slice::<Record>(data) else { return };
    again(&record);
    let _ = (record.has_own_pids(), record.state(sampan_oci::runtime::Status::Running));
}

/// What is written is read as the same.
fn again<T: serde::Serialize + serde::de::DeserializeOwned>(value: &T) {
    let text = serde_json::to_string(value).unwrap();
    let read: T = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    assert_eq!(serde_json::to_string(&read).unwrap(), text);
}

/// Lists of numbers, signals, ids, groups: the first byte says which.
pub fn words(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    match kind % 5 {
        0 => {
            let Ok(numbers) = numbers::parse("x", text) else { return };
            assert!(numbers.iter().all(|n| *n < numbers::MAX) && numbers.len() <= numbers::MAX as usize);
        }
        1 => {
            if let Some(signal) = parse_signal(text) {
                assert!((1..=64).contains(&signal.as_raw()));
            }
        }
        2 => {
            if let Ok(id) = text.parse::<sampan_base::ContainerId>() {
                assert_eq!(id.as_str(), text);
                assert!(Path::new(text).components().eq([Component::Normal(text.as_ref())]));
            }
        }
        3 => {
            if let Ok(group) = SubGroup::parse(text) {
                assert!(
                    group.path.components().all(|part| matches!(part, Component::Normal(_))),
                    "{group:?}"
                );
            }
        }
        _ => group_path(Some(text)),
    }
}

/// Messages of systemd's bus and of CRIU: the first byte says which.
pub fn messages(data: &[u8]) {
    match data.split_first() {
        Some((kind, rest)) if kind % 2 == 0 => _ = cgroup::systemd::is_message(rest),
        Some((_, rest)) => _ = sampan_runtime::criu::is_message(rest),
        None => {}
    }
}

/// Mount options, separated by commas.
pub fn options(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let words: Vec<String> = text.split(',').map(str::to_owned).collect();
    let _ = options::rootfs_propagation(Some(text));
    let options = MountOptions::parse(&words);
    let atime = sampan_kernel::mount::ATIME_MASK;
    for attributes in [options.attributes, options.recursive] {
        assert!(!(attributes.set - atime).intersects(attributes.clear - atime), "{options:?}");
        // A mode of access times is set by clearing all of them first.
        assert!(!attributes.set.intersects(atime) || attributes.clear.contains(atime), "{options:?}");
    }
    assert!(options.data.len() + options.superblock.len() + options.propagation.len() <= words.len());
}

/// Bytes as a source of choices.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn below(&mut self, limit: usize) -> usize {
        (usize::from(self.byte()) << 8 | usize::from(self.byte())) % limit.max(1)
    }

    fn long(&mut self) -> u64 {
        // Numbers near to each other and to the edges are where comparisons go wrong.
        let near =
            [0, 1, 5, 0xffff_ffff, 0x1_0000_0000, 0x7fff_ffff_ffff_ffff, 0x8000_0000_0000_0000, u64::MAX];
        match self.byte() {
            n @ 0..200 => near[usize::from(n) % 8].wrapping_add(u64::from(self.byte() % 3)).wrapping_sub(1),
            _ => (0..8).fold(0, |n, _| n << 8 | u64::from(self.byte())),
        }
    }

    fn action(&mut self) -> Action {
        let number = u16::from(self.byte());
        match self.byte() % 8 {
            0 => Action::KillProcess,
            1 => Action::KillThread,
            2 => Action::Trap(number),
            3 => Action::Errno(number),
            4 => Action::Trace(number),
            5 => Action::Notify,
            6 => Action::Log,
            _ => Action::Allow,
        }
    }

    fn condition(&mut self, argument: u8) -> Condition {
        let operator = match self.byte() % 7 {
            0 => Operator::NotEqual,
            1 => Operator::Less,
            2 => Operator::LessOrEqual,
            3 => Operator::Equal,
            4 => Operator::GreaterOrEqual,
            5 => Operator::Greater,
            _ => Operator::MaskedEqual { mask: self.long() },
        };
        Condition { argument, operator, value: self.long() }
    }
}

/// A seccomp policy, compiled and run, against a plain reading of its rules.
pub fn seccomp(data: &[u8]) {
    let mut choices = Choices(data);
    let all: Vec<&'static str> = seccomp::call_names().collect();
    let default = choices.action();
    let unknown = (choices.byte() % 2 == 0).then(|| choices.action());
    let listed = choices.byte();
    let possible = [Architecture::X86_64, Architecture::X86, Architecture::X32, Architecture::Foreign];
    let architectures: Vec<Architecture> =
        (0..4).filter(|bit| listed >> bit & 1 == 1).map(|bit| possible[bit]).collect();
    let mut rules: Vec<(Vec<String>, Action, Vec<Condition>)> = Vec::new();
    for _ in 0..choices.byte() % 24 {
        let (first, count, step) = (choices.below(all.len()), choices.byte() % 40, choices.byte() % 5);
        let names = (0..usize::from(count) + 1)
            .map(|n| all[(first + n * usize::from(step)) % all.len()].to_owned())
            .chain((choices.byte() % 8 == 0).then(|| "no_such_call".to_owned()))
            .collect();
        let arguments = choices.byte();
        // One condition an argument, which is what the compiler is promised.
        let conditions = if choices.byte() % 3 == 0 {
            (0..6u8).filter(|n| arguments >> n & 1 == 1).map(|n| choices.condition(n)).collect()
        } else {
            Vec::new()
        };
        rules.push((names, choices.action(), conditions));
    }
    let policy = Policy {
        default,
        unknown,
        architectures,
        rules: rules
            .iter()
            .map(|(names, action, conditions)| Rule {
                names,
                action: *action,
                conditions: conditions.clone(),
            })
            .collect(),
    };
    let Ok(program) = seccomp::compile(&policy) else { return };
    let ways = [Architecture::X86_64, Architecture::X86, Architecture::X32];
    // Looked up once: they are needed for each of the calls below.
    let numbers: Vec<Vec<Vec<u32>>> = ways
        .iter()
        .map(|way| {
            let of = |(names, ..): &(Vec<String>, Action, Vec<Condition>)| {
                names.iter().filter_map(|name| seccomp::call_number(*way, name)).collect()
            };
            rules.iter().map(of).collect()
        })
        .collect();
    for _ in 0..64 {
        let at = choices.below(3);
        let (way, numbers) = (ways[at], &numbers[at]);
        let number = match choices.byte() % 4 {
            0 => u32::from(choices.byte()) << 1,
            1 => u32::MAX,
            _ => {
                let named = rules
                    .get(choices.below(rules.len()))
                    .and_then(|(names, ..)| seccomp::call_number(way, &names[choices.below(names.len())]));
                named.unwrap_or(7).wrapping_add(u32::from(choices.byte() % 3)).wrapping_sub(1) & 0x0fff_ffff
            }
        };
        let arguments = [(); 6].map(|()| choices.long());
        let (audit, raw) = match way {
            Architecture::X86 => (0x4000_0003, number),
            Architecture::X32 if number != u32::MAX => (0xc000_003e, number | 0x4000_0000),
            _ => (0xc000_003e, number),
        };
        let got = seccomp::evaluate(&program, raw, audit, arguments);
        let expected = read(&policy, numbers, way, number, arguments);
        assert_eq!(got, Some(expected.code()), "{way:?} {number} {arguments:x?} of {policy:#?}");
    }
    // One that is listed nowhere.
    assert_eq!(seccomp::evaluate(&program, 0, 0xc000_00b7, [0; 6]), Some(Action::KillProcess.code()));
}

/// What a policy says about a call; `numbers` are those of each rule's names.
fn read(
    policy: &Policy<'_>,
    numbers: &[Vec<u32>],
    way: Architecture,
    number: u32,
    arguments: [u64; 6],
) -> Action {
    let unknown = policy.unknown.unwrap_or(policy.default);
    if number == u32::MAX && way != Architecture::X86 {
        return unknown;
    }
    if way != Architecture::X86_64 && !policy.architectures.contains(&way) {
        return Action::KillProcess;
    }
    let holds = |condition: &Condition| {
        let narrow = |n: u64| if way == Architecture::X86 { n & 0xffff_ffff } else { n };
        let argument = narrow(arguments[usize::from(condition.argument)]);
        let value = narrow(condition.value);
        match condition.operator {
            Operator::NotEqual => argument != value,
            Operator::Less => argument < value,
            Operator::LessOrEqual => argument <= value,
            Operator::Equal => argument == value,
            Operator::GreaterOrEqual => argument >= value,
            Operator::Greater => argument > value,
            Operator::MaskedEqual { mask } => argument & narrow(mask) == value,
        }
    };
    let named = policy
        .rules
        .iter()
        .zip(numbers)
        .find(|(rule, numbers)| numbers.contains(&number) && rule.conditions.iter().all(holds));
    if let Some((rule, _)) = named {
        return rule.action;
    }
    let highest = numbers.iter().flatten().max();
    if highest.is_none_or(|highest| number > *highest) { unknown } else { policy.default }
}
