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

/// What v1 keeps beside its default: a kind, numbers (all if absent), and for which access.
#[derive(Clone, Copy)]
struct Exception {
    kind: char,
    numbers: (Option<u32>, Option<u32>),
    access: Access,
}

impl Exception {
    fn line(&self) -> String {
        let number = |n: Option<u32>| n.map_or("*".to_owned(), |n| n.to_string());
        let letters = [(Access::READ, 'r'), (Access::WRITE, 'w'), (Access::MAKE, 'm')];
        let access: String =
            letters.iter().filter(|(bit, _)| self.access.contains(*bit)).map(|(_, letter)| letter).collect();
        format!("{} {}:{} {access}", self.kind, number(self.numbers.0), number(self.numbers.1))
    }

    /// Whether all that `other` is about is in this, and whether anything is.
    fn meets(&self, other: &Exception) -> (bool, bool) {
        let one = |own: Option<u32>, other: Option<u32>| match (own, other) {
            (None, _) => (true, true),
            (Some(_), None) => (false, true),
            (own, other) => (own == other, own == other),
        };
        let (major, minor) = (one(self.numbers.0, other.numbers.0), one(self.numbers.1, other.numbers.1));
        let alike = self.kind == other.kind && self.access.intersects(other.access);
        (alike && major.0 && minor.0, alike && major.1 && minor.1)
    }
}

/// The rules as writes to the files of v1, in order. v1 has a default and a list of exceptions from it; an exception is
/// taken back by its very numbers only. A device that is denied and could be used all the same is an error; one that is
/// allowed again and stays denied is not.
fn writes(rules: &[DeviceRule]) -> Result<Vec<(&'static str, String)>, Step> {
    // A rule about all devices makes everything before it void; v1 takes it for all access, whatever it says.
    let whole = |r: &DeviceRule| r.kind == DeviceKind::Any && r.major.is_none() && r.minor.is_none();
    let last_whole = rules.iter().rposition(|r| whole(r) && (r.allow || r.access == Access::all()));
    let (everything, rest) = match last_whole {
        Some(at) => (rules[at].allow, &rules[at + 1..]),
        None => (false, rules),
    };
    let file = |allow| if allow { "devices.allow" } else { "devices.deny" };
    let mut writes = vec![(file(everything), "a".to_owned())];
    let mut exceptions: Vec<Exception> = Vec::new();
    for rule in rest {
        let kinds: &[char] = match rule.kind {
            DeviceKind::Any => &['b', 'c'],
            DeviceKind::Block => &['b'],
            DeviceKind::Character => &['c'],
        };
        for &kind in kinds {
            let one = Exception { kind, numbers: (rule.major, rule.minor), access: rule.access };
            if rule.allow != everything {
                writes.push((file(rule.allow), one.line()));
                exceptions.push(one);
                continue;
            }
            for earlier in &exceptions {
                match one.meets(earlier) {
                    (true, _) => {
                        let access = one.access & earlier.access;
                        writes.push((file(rule.allow), Exception { access, ..*earlier }.line()));
                    }
                    // To make a node is not to use it.
                    (false, true)
                        if !rule.allow && one.access.intersection(earlier.access) != Access::MAKE =>
                    {
                        let doing = format!("deny the devices `{}` (linux.resources.devices)", one.line());
                        let why = format!("cgroup v1 can't deny a part of what `{}` allows", earlier.line());
                        return Err(Step::refused(doing, why));
                    }
                    _ => {}
                }
            }
        }
    }
    Ok(writes)
}

pub(super) fn apply_v1(directory: &Path, rules: &[DeviceRule]) -> Result<(), Step> {
    // Their order counts, so only neighbours go together.
    for run in writes(rules)?.chunk_by(|(one, _), (next, _)| one == next) {
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
            writes(&rules).unwrap().into_iter().map(|(f, l)| format!("{} {l}", &f[8..])).collect();
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
    fn what_was_allowed_is_denied_again() {
        check(
            r#"[{"allow":true,"type":"c","major":10,"minor":229},{"allow":true,"type":"c","major":10,"minor":200},
                {"allow":false,"type":"c","major":10,"minor":229,"access":"w"},{"allow":false,"type":"c","major":10,"access":"m"},
                {"allow":false,"type":"b","major":8}]"#,
            "deny a; allow c 10:229 rwm; allow c 10:200 rwm; deny c 10:229 w; deny c 10:229 m; deny c 10:200 m",
        );
        let rules =
            r#"[{"allow":true,"type":"c","major":10},{"allow":false,"type":"c","major":10,"minor":229}]"#;
        let rules: Vec<runtime::DeviceRule> = serde_json::from_str(rules).unwrap();
        let rules: Vec<DeviceRule> = rules.iter().map(|r| rule(r).unwrap()).collect();
        assert!(writes(&rules).unwrap_err().doing.contains("c 10:229 rwm"));
        check(
            r#"[{"allow":true},{"allow":false,"type":"c","major":10},{"allow":true,"type":"c","major":10,"minor":229},
                {"allow":false,"type":"b","major":8,"minor":1},{"allow":true,"type":"b","major":8,"minor":1}]"#,
            "allow a; deny c 10:* rwm; deny b 8:1 rwm; allow b 8:1 rwm",
        );
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [r#"{"type":"x"}"#, r#"{"access":"rx"}"#, r#"{"major":-2}"#] {
            assert!(rule(&serde_json::from_str(text).unwrap()).is_err(), "{text}");
        }
    }
}
