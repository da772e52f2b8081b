//! Which devices a container may use: a list in v1, a program in v2, the same rules.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use sampan_kernel::devices::{Access, DeviceKind, DeviceRule};
use sampan_oci::runtime::{self, defaults};

use super::write_each;
use crate::error::Step;

/// The rules of config.json, and after them those that every container has, whatever its config.json says: the
/// specification promises it the default devices.
pub(super) fn with_defaults(rules: &[runtime::DeviceRule]) -> Result<Vec<DeviceRule>, Step> {
    // The first default denies all, which is where both interfaces start here.
    let defaults = defaults::default_devices_cgroup();
    rules.iter().chain(defaults.iter().skip(1)).map(rule).collect()
}

fn rule(rule: &runtime::DeviceRule) -> Result<DeviceRule, Step> {
    let refuse = |why: String| Step::refused("apply linux.resources.devices", why);
    let kind = match rule.kind.as_deref() {
        None | Some("a" | "") => DeviceKind::Any,
        Some("b") => DeviceKind::Block,
        Some("c" | "u") => DeviceKind::Character,
        Some(other) => return Err(refuse(format!("`{other}` is no kind of device"))),
    };
    let number = |value: Option<i64>| match value {
        None | Some(-1) => Ok(None),
        Some(n) => u32::try_from(n).map(Some).map_err(|_| refuse(format!("{n} is no device number"))),
    };
    let mut access = Access::empty();
    let text = rule.access.as_deref().filter(|a| !a.is_empty()).unwrap_or("rwm");
    for letter in text.chars() {
        access |= match letter {
            'r' => Access::READ,
            'w' => Access::WRITE,
            'm' => Access::MAKE,
            // Seen in the wild; it has never meant anything.
            'a' => Access::empty(),
            other => return Err(refuse(format!("`{other}` is no access: r, w and m are"))),
        };
    }
    Ok(DeviceRule { allow: rule.allow, kind, major: number(rule.major)?, minor: number(rule.minor)?, access })
}

/// The rules as writes to the files of v1, in order.
fn writes(rules: &[DeviceRule]) -> Vec<(&'static str, String)> {
    // A rule about all devices makes everything before it void; v1 takes it for all access, whatever it says.
    let whole = |r: &DeviceRule| r.kind == DeviceKind::Any && r.major.is_none() && r.minor.is_none();
    let last_whole = rules.iter().rposition(|r| whole(r) && (r.allow || r.access == Access::all()));
    let (everything, rest) = match last_whole {
        Some(at) => (rules[at].allow, &rules[at + 1..]),
        None => (false, rules),
    };
    let file = |allow| if allow { "devices.allow" } else { "devices.deny" };
    let mut writes = vec![(file(everything), "a".to_owned())];
    for rule in rest.iter().filter(|r| r.allow != everything) {
        let number = |n: Option<u32>| n.map_or("*".to_owned(), |n| n.to_string());
        let (major, minor) = (number(rule.major), number(rule.minor));
        let letters = [(Access::READ, 'r'), (Access::WRITE, 'w'), (Access::MAKE, 'm')];
        let access: String =
            letters.iter().filter(|(bit, _)| rule.access.contains(*bit)).map(|(_, letter)| letter).collect();
        let kinds: &[char] = match rule.kind {
            DeviceKind::Any => &['b', 'c'],
            DeviceKind::Block => &['b'],
            DeviceKind::Character => &['c'],
        };
        writes
            .extend(kinds.iter().map(|kind| (file(rule.allow), format!("{kind} {major}:{minor} {access}"))));
    }
    writes
}

pub(super) fn apply_v1(directory: &Path, rules: &[DeviceRule]) -> Result<(), Step> {
    // Their order counts, so only neighbours go together.
    for run in writes(rules).chunk_by(|(one, _), (next, _)| one == next) {
        write_each(directory, run[0].0, run.iter().map(|(_, line)| line.as_str()))?;
    }
    Ok(())
}

pub(super) fn apply_v2(directory: &Path, rules: &[DeviceRule]) -> Result<(), Step> {
    let attach = || {
        let group = File::open(directory)?;
        sampan_kernel::devices::attach(group.as_fd(), rules)
    };
    attach().map_err(Step::on(|| format!("attach device rules to the cgroup `{}`", directory.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rules: &str, expected: &str) {
        let rules: Vec<runtime::DeviceRule> = serde_json::from_str(rules).unwrap();
        let rules: Vec<DeviceRule> = rules.iter().map(|r| rule(r).unwrap()).collect();
        let lines: Vec<String> =
            writes(&rules).into_iter().map(|(f, l)| format!("{} {l}", &f[8..])).collect();
        assert_eq!(lines.join("; "), expected);
    }

    #[test]
    fn rules_become_lines_of_v1() {
        check("[]", "deny a");
        check(
            r#"[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","access":"m"},
                {"allow":true,"type":"b","major":8,"minor":0}]"#,
            "deny a; allow c *:* m; allow b 8:0 rwm",
        );
        check(
            r#"[{"allow":true,"type":"c","major":1},{"allow":true,"type":"a","access":"rwm"},
                {"allow":true,"type":"c","major":5},{"allow":false,"type":"c","major":10,"minor":229}]"#,
            "allow a; deny c 10:229 rwm",
        );
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [r#"{"type":"x"}"#, r#"{"access":"rx"}"#, r#"{"major":-2}"#] {
            assert!(rule(&serde_json::from_str(text).unwrap()).is_err(), "{text}");
        }
    }
}
