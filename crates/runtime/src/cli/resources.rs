//! `update`: new limits for a container.

use std::io::Read;
use std::path::Path;

use sampan_oci::runtime::{Resources, Status};

use super::arguments::{Known, Parsed, flag, value};
use super::{Context, Failure};
use crate::bundle;
use crate::cgroup;
use crate::error::{Refused, Step};
use crate::resctrl;
use crate::state::MAX_DOCUMENT;

/// update's options.
pub(super) const UPDATE_OPTIONS: [Known; 20] = [
    value("resources", "FILE", "limits as JSON, `-` from standard input").or('r'),
    value("blkio-weight", "N", "relative weight of block I/O, 10 to 1000"),
    value("cpu-period", "MICROSECONDS", "the period of the quota"),
    value("cpu-quota", "MICROSECONDS", "processor time per period"),
    value("cpu-burst", "MICROSECONDS", "unused quota that may be saved up"),
    value("cpu-share", "N", "relative weight of processor time"),
    value("cpu-rt-period", "MICROSECONDS", "the period of real-time scheduling"),
    value("cpu-rt-runtime", "MICROSECONDS", "real-time scheduling per period"),
    value("cpuset-cpus", "LIST", "processors to use"),
    value("cpuset-mems", "LIST", "memory nodes to use"),
    value("cpu-idle", "0|1", "run only when nothing else wants to"),
    value("kernel-memory", "BYTES", "ignored: the kernel has no such limit any more"),
    value("kernel-memory-tcp", "BYTES", "memory of TCP buffers"),
    value("memory", "BYTES", "memory"),
    value("memory-reservation", "BYTES", "memory that is kept under pressure"),
    value("memory-swap", "BYTES", "memory and swap together, -1 for no limit"),
    value("pids-limit", "N", "number of processes, -1 for no limit"),
    value("l3-cache-schema", "SCHEMA", "the schema of the level 3 cache (Intel RDT)"),
    value("mem-bw-schema", "SCHEMA", "the schema of the memory bandwidth (Intel RDT)"),
    flag("force-check", "refuse a memory limit below what is in use"),
];

pub(super) fn update(context: &Context, parsed: &Parsed) -> Result<u8, Failure> {
    let resources = match parsed.get("resources") {
        Some(file) => read(file)?,
        None => from_options(parsed)?,
    };
    let (directory, record) = context.root.find(&parsed.rest[0])?;
    let _lock = directory.lock()?;
    if directory.status(&record) == Status::Stopped {
        return Err(Refused::Invalid("container not running".to_owned()).into());
    }
    let schemata = resctrl::schemata(parsed.get("l3-cache-schema"), parsed.get("mem-bw-schema"), &[])?;
    match &record.resctrl {
        Some(held) => resctrl::write_schemata(&held.class, &schemata)?,
        None if schemata.is_empty() => {}
        None => {
            let why = "Intel RDT is not enabled: the container was created without linux.intelRdt";
            return Err(Refused::Invalid(why.to_owned()).into());
        }
    }
    if let Some(unit) = &record.unit {
        unit.update(&resources, record.cgroups.iter().any(|group| group.limits))?;
    }
    for warning in cgroup::apply(&record.cgroups, &resources)? {
        context.log.warn(&warning);
    }
    if !resources.devices.is_empty() {
        cgroup::apply_devices(&record.cgroups, &resources.devices)?;
    }
    Ok(0)
}

fn read(file: &str) -> Result<Resources, Failure> {
    let path = Path::new(file);
    if file != "-" {
        return Ok(bundle::parse(path, &bundle::read(path)?)?);
    }
    let mut bytes = Vec::new();
    std::io::stdin()
        .take(MAX_DOCUMENT)
        .read_to_end(&mut bytes)
        .map_err(Step::on(|| "read the limits from standard input"))?;
    Ok(bundle::parse(path, &bytes)?)
}

fn from_options(parsed: &Parsed) -> Result<Resources, Refused> {
    let text = |name| parsed.get(name).map(str::to_owned);
    let bytes = |name| parsed.get(name).map(|text| parse_bytes(name, text)).transpose();
    let mut resources = Resources::default();
    let cpu = resources.cpu.get_or_insert_default();
    cpu.period = parsed.number("cpu-period")?;
    cpu.quota = parsed.number("cpu-quota")?;
    cpu.burst = parsed.number("cpu-burst")?;
    cpu.shares = parsed.number("cpu-share")?;
    cpu.realtime_period = parsed.number("cpu-rt-period")?;
    cpu.realtime_runtime = parsed.number("cpu-rt-runtime")?;
    cpu.idle = parsed.number("cpu-idle")?;
    cpu.cpus = text("cpuset-cpus");
    cpu.mems = text("cpuset-mems");
    let memory = resources.memory.get_or_insert_default();
    memory.limit = bytes("memory")?;
    memory.reservation = bytes("memory-reservation")?;
    memory.swap = bytes("memory-swap")?;
    memory.kernel_tcp = bytes("kernel-memory-tcp")?;
    memory.check_before_update = parsed.has("force-check").then_some(true);
    resources.pids.get_or_insert_default().limit = parsed.number("pids-limit")?;
    resources.block_io.get_or_insert_default().weight = parsed.number("blkio-weight")?;
    Ok(resources)
}

/// A number of bytes with a unit: `64m`, `1GiB`, `-1`.
fn parse_bytes(name: &str, text: &str) -> Result<i64, Refused> {
    let refuse = || Refused::Invalid(format!("`--{name} {text}` is no amount of bytes"));
    if text == "-1" {
        return Ok(-1);
    }
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let shift = match unit.to_ascii_lowercase().trim_start().trim_end_matches("ib").trim_end_matches('b') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err(refuse()),
    };
    let number: i64 = number.parse().map_err(|_| refuse())?;
    number.checked_mul(1 << shift).ok_or_else(refuse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_units() {
        let bytes = |text| parse_bytes("memory", text).ok();
        assert_eq!(bytes("64m"), Some(64 << 20));
        assert_eq!(bytes("1GiB"), Some(1 << 30));
        assert_eq!(bytes("7"), Some(7));
        assert_eq!(bytes("5kb"), Some(5 << 10));
        assert_eq!(bytes("-1"), Some(-1));
        for text in ["", "m", "1x", "-2", "9999999999g", "1.5g"] {
            assert_eq!(bytes(text), None, "{text}");
        }
    }
}
