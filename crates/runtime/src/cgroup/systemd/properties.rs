//! What systemd is told about a container's unit: its limits as unit properties, so that systemd knows them and does
//! not undo them when it writes a group's files again.

use std::collections::BTreeMap;

use sampan_oci::runtime::{Cpu, Memory, Resources};

use super::message::Value;
use crate::error::Step;

/// How the names of annotations begin that are properties as they are.
pub const ANNOTATION: &str = "org.systemd.property.";

/// A unit's property.
pub(super) type Property = (String, Value);

fn property(name: &str, value: Value) -> Property {
    (name.to_owned(), value)
}

/// Limits as properties. What has none is written to the groups' files only.
///
/// # Errors
/// If a limit makes no sense.
pub(super) fn of_resources(resources: &Resources, unified: bool) -> Result<Vec<Property>, Step> {
    let mut properties = Vec::new();
    if let Some(memory) = &resources.memory {
        of_memory(memory, unified, &mut properties)?;
    }
    if let Some(cpu) = &resources.cpu {
        of_cpu(cpu, unified, &mut properties)?;
    }
    if let Some(limit) = resources.pids.as_ref().and_then(|p| p.limit).filter(|limit| *limit != 0) {
        properties.push(property("TasksMax", Value::U64(amount(limit))));
    }
    if unified {
        of_unified(&resources.unified, &mut properties)?;
    }
    Ok(properties)
}

/// To systemd, no limit is the greatest number.
fn amount(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

fn of_memory(memory: &Memory, unified: bool, properties: &mut Vec<Property>) -> Result<(), Step> {
    let given = |value: Option<i64>| value.filter(|v| *v != 0);
    let limit = given(memory.limit);
    if !unified {
        properties.extend(limit.map(|limit| property("MemoryLimit", Value::U64(amount(limit)))));
        return Ok(());
    }
    properties.extend(limit.map(|limit| property("MemoryMax", Value::U64(amount(limit)))));
    let low = given(memory.reservation);
    properties.extend(low.map(|low| property("MemoryLow", Value::U64(amount(low)))));
    if let Some(swap) = super::super::v2::swap_alone(limit, given(memory.swap))? {
        properties.push(property("MemorySwapMax", Value::U64(swap.parse().unwrap_or(u64::MAX))));
    }
    Ok(())
}

fn of_cpu(cpu: &Cpu, unified: bool, properties: &mut Vec<Property>) -> Result<(), Step> {
    if let Some(shares) = cpu.shares.filter(|shares| *shares != 0) {
        properties.push(if unified {
            property("CPUWeight", Value::U64(super::super::v2::weight_of_shares(shares)))
        } else {
            property("CPUShares", Value::U64(shares))
        });
    }
    of_quota(cpu.quota.filter(|quota| *quota != 0), cpu.period.filter(|period| *period != 0), properties);
    for (name, list) in [("AllowedCPUs", &cpu.cpus), ("AllowedMemoryNodes", &cpu.mems)] {
        if let Some(list) = list.as_deref().filter(|list| !list.is_empty()) {
            properties.push(property(name, bits(list)?));
        }
    }
    Ok(())
}

fn of_quota(quota: Option<i64>, period: Option<u64>, properties: &mut Vec<Property>) {
    /// In microseconds: the kernel's period, if none is set.
    const PERIOD: u64 = 100_000;
    /// systemd counts in hundredths of a processor.
    const STEP: u64 = 10_000;
    properties.extend(period.map(|period| property("CPUQuotaPeriodUSec", Value::U64(period))));
    let Some(quota) = quota else { return };
    let per_second = match u64::try_from(quota) {
        Ok(quota) => {
            let exact = u128::from(quota) * 1_000_000 / u128::from(period.unwrap_or(PERIOD));
            u64::try_from(exact).unwrap_or(u64::MAX - STEP).next_multiple_of(STEP)
        }
        Err(_) => u64::MAX,
    };
    properties.push(property("CPUQuotaPerSecUSec", Value::U64(per_second)));
}

/// A list as `0-2,5` as bits, the lowest first.
fn bits(list: &str) -> Result<Value, Step> {
    /// Far beyond what a kernel can be built for.
    const MOST: usize = 65_536;
    let refuse = || Step::refused(format!("understand the list `{list}`"), "it is not like `0-2,5`");
    let number = |text: &str| text.trim().parse::<usize>().ok().filter(|n| *n < MOST).ok_or_else(refuse);
    let mut bytes: Vec<u8> = Vec::new();
    for part in list.trim().split(',').filter(|part| !part.trim().is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err(refuse());
        }
        bytes.resize(bytes.len().max(last / 8 + 1), 0);
        (first..=last).for_each(|bit| bytes[bit / 8] |= 1 << (bit % 8));
    }
    Ok(Value::Array("y", bytes.into_iter().map(Value::Byte).collect()))
}

/// Files of v2 that are properties, too.
fn of_unified(files: &BTreeMap<String, String>, properties: &mut Vec<Property>) -> Result<(), Step> {
    for (file, value) in files {
        let value = value.trim();
        let refuse =
            || Step::refused("apply linux.resources.unified", format!("`{value}` is no value for `{file}`"));
        let number = || match value {
            "max" => Ok(Value::U64(u64::MAX)),
            other => other.parse().map(Value::U64).map_err(|_| refuse()),
        };
        match file.as_str() {
            "memory.max" => properties.push(property("MemoryMax", number()?)),
            "memory.high" => properties.push(property("MemoryHigh", number()?)),
            "memory.low" => properties.push(property("MemoryLow", number()?)),
            "memory.min" => properties.push(property("MemoryMin", number()?)),
            "memory.swap.max" => properties.push(property("MemorySwapMax", number()?)),
            "cpu.weight" => properties.push(property("CPUWeight", number()?)),
            "pids.max" => properties.push(property("TasksMax", number()?)),
            "cpuset.cpus" => properties.push(property("AllowedCPUs", bits(value)?)),
            "cpuset.mems" => properties.push(property("AllowedMemoryNodes", bits(value)?)),
            "cpu.max" => {
                let (quota, period) = value.split_once(' ').unwrap_or((value, "100000"));
                let quota = if quota == "max" { Ok(-1) } else { quota.parse() };
                let (quota, period) = (quota.map_err(|_| refuse())?, period.parse().map_err(|_| refuse())?);
                of_quota(Some(quota), Some(period), properties);
            }
            // systemd has no name for it: only the file gets it.
            _ => {}
        }
    }
    Ok(())
}

/// Properties that annotations ask for: `org.systemd.property.TimeoutStopUSec: "uint64 123456789"`.
///
/// # Errors
/// If one is malformed.
pub(super) fn of_annotations(annotations: &BTreeMap<String, String>) -> Result<Vec<Property>, Step> {
    let mut properties = Vec::new();
    for (key, text) in annotations {
        let Some(name) = key.strip_prefix(ANNOTATION) else { continue };
        let refuse = |why: &str| Step::refused(format!("understand the annotation `{key}`"), why.to_owned());
        if name.len() < 3 || !name.bytes().all(|byte| byte.is_ascii_alphabetic()) {
            return Err(refuse("a property's name has letters only"));
        }
        let value = parse(text.trim()).ok_or_else(|| {
            refuse("its value is none of: true, false, 'text', 5, uint64 5 (or another number's type), ['a', 'b'], [1, 2]")
        })?;
        // Times are written in seconds, and meant in microseconds by the property of that name.
        match (name.strip_suffix("USec"), name.strip_suffix("Sec")) {
            (None, Some(stem)) => {
                let value = seconds(&value).ok_or_else(|| refuse("its value is no time in seconds"))?;
                properties.push((format!("{stem}USec"), value));
            }
            _ => properties.push((name.to_owned(), value)),
        }
    }
    Ok(properties)
}

fn seconds(value: &Value) -> Option<Value> {
    let whole = |n: u64| n.checked_mul(1_000_000);
    let micro = match *value {
        Value::I32(n) => whole(n.try_into().ok()?)?,
        Value::I64(n) => whole(n.try_into().ok()?)?,
        Value::U32(n) => whole(n.into())?,
        Value::U64(n) => whole(n)?,
        Value::F64(n) if (0.0..1e12).contains(&n) => (n * 1e6) as u64,
        _ => return None,
    };
    Some(Value::U64(micro))
}

/// A value as GLib writes variants.
fn parse(text: &str) -> Option<Value> {
    if let Some(inside) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
        let values: Vec<Value> = split(inside)?.into_iter().map(parse).collect::<Option<_>>()?;
        let kind = |value: &Value| match value {
            Value::Text(_) => Some("s"),
            Value::Bool(_) => Some("b"),
            Value::I32(_) => Some("i"),
            Value::U32(_) => Some("u"),
            Value::U64(_) => Some("t"),
            Value::I64(_) => Some("x"),
            Value::Byte(_) => Some("y"),
            _ => None,
        };
        let first = kind(values.first()?)?;
        return values.iter().all(|v| kind(v) == Some(first)).then_some(Value::Array(first, values));
    }
    for quote in ['\'', '"'] {
        if let Some(inside) = text.strip_prefix(quote) {
            let inside = inside.strip_suffix(quote)?;
            return (!inside.contains([quote, '\\'])).then(|| Value::Text(inside.to_owned()));
        }
    }
    match text {
        "true" => return Some(Value::Bool(true)),
        "false" => return Some(Value::Bool(false)),
        _ => {}
    }
    match text.split_once(' ') {
        Some(("uint64", number)) => number.trim().parse().ok().map(Value::U64),
        Some(("uint32", number)) => number.trim().parse().ok().map(Value::U32),
        Some(("int64", number)) => number.trim().parse().ok().map(Value::I64),
        Some(("int32", number)) => number.trim().parse().ok().map(Value::I32),
        Some(("byte", number)) => number.trim().parse().ok().map(Value::Byte),
        Some(("double", number)) => number.trim().parse().ok().map(Value::F64),
        Some(("boolean", value)) => value.trim().parse().ok().map(Value::Bool),
        Some(("string", text)) => parse(text.trim()).filter(|value| matches!(value, Value::Text(_))),
        Some(_) => None,
        None if text.contains('.') => text.parse().ok().map(Value::F64),
        None => text.parse().ok().map(Value::I32),
    }
}

/// Parts between commas that are not inside quotes.
fn split(text: &str) -> Option<Vec<&str>> {
    let mut parts = Vec::new();
    let (mut begin, mut quote) = (0, None);
    for (at, character) in text.char_indices() {
        match (quote, character) {
            (None, '\'' | '"') => quote = Some(character),
            (Some(open), _) if open == character => quote = None,
            (None, ',') => {
                parts.push(text[begin..at].trim());
                begin = at + 1;
            }
            _ => {}
        }
    }
    parts.push(text[begin..].trim());
    quote.is_none().then_some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(resources: &str, expected: &str) {
        let properties = of_resources(&serde_json::from_str(resources).unwrap(), true).unwrap();
        let text: Vec<String> = properties.iter().map(|(name, value)| format!("{name} {value:?}")).collect();
        assert_eq!(text.join("; "), expected);
    }

    #[test]
    fn limits_become_properties() {
        check(
            r#"{"memory":{"limit":100,"swap":150,"reservation":50},"pids":{"limit":-1}}"#,
            &format!(
                "MemoryMax U64(100); MemoryLow U64(50); MemorySwapMax U64(50); TasksMax U64({})",
                u64::MAX
            ),
        );
        check(r#"{"memory":{"limit":0},"pids":{"limit":0},"cpu":{"shares":0,"quota":0}}"#, "");
        // 1.234 % is rounded up to 2 %.
        check(
            r#"{"cpu":{"shares":1024,"quota":1234,"period":100000}}"#,
            "CPUWeight U64(100); CPUQuotaPeriodUSec U64(100000); CPUQuotaPerSecUSec U64(20000)",
        );
        check(r#"{"cpu":{"cpus":"0-2,9"}}"#, r#"AllowedCPUs Array("y", [Byte(7), Byte(2)])"#);
        check(
            r#"{"unified":{"memory.high":"max","cpu.max":"50000 100000","io.max":"8:0 rbps=1"}}"#,
            &format!(
                "CPUQuotaPeriodUSec U64(100000); CPUQuotaPerSecUSec U64(500000); MemoryHigh U64({})",
                u64::MAX
            ),
        );
        for wrong in
            [r#"{"cpu":{"cpus":"2-1"}}"#, r#"{"cpu":{"cpus":"x"}}"#, r#"{"unified":{"pids.max":"-"}}"#]
        {
            assert!(of_resources(&serde_json::from_str(wrong).unwrap(), true).is_err(), "{wrong}");
        }
    }

    #[test]
    fn annotations_become_properties() {
        let of = |name: &str, value: &str| {
            let annotations = BTreeMap::from([(format!("{ANNOTATION}{name}"), value.to_owned())]);
            of_annotations(&annotations).ok().and_then(|mut properties| properties.pop())
        };
        let named = |name: &str, value| Some((name.to_owned(), value));
        assert_eq!(of("TimeoutStopUSec", "uint64 5"), named("TimeoutStopUSec", Value::U64(5)));
        assert_eq!(of("TimeoutStopSec", "1.5"), named("TimeoutStopUSec", Value::U64(1_500_000)));
        assert_eq!(of("CollectMode", "'inactive-or-failed'"), {
            named("CollectMode", Value::Text("inactive-or-failed".into()))
        });
        let units = Value::Array("s", vec![Value::Text("a.slice".into()), Value::Text("b, c".into())]);
        assert_eq!(of("After", "['a.slice', 'b, c']"), named("After", units));
        assert_eq!(of("SendSIGHUP", "true"), named("SendSIGHUP", Value::Bool(true)));
        for (name, value) in [
            ("x", "1"),
            ("Name1", "1"),
            ("Wants", "['a', 1]"),
            ("Some", "'a"),
            ("SomeSec", "'x'"),
            ("Some", "moon 1"),
        ] {
            assert_eq!(of(name, value), None, "{name}={value}");
        }
        assert_eq!(of_annotations(&BTreeMap::from([("other".into(), "x".into())])).unwrap(), []);
    }
}
