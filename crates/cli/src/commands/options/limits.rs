//! Devices, limits, and how to find out whether a container is well.

use anyhow::{Context, Result, bail};
use sampan_docker_api::container::Healthcheck;
use sampan_docker_api::host_config::{DeviceMapping, ThrottleDevice, Ulimit, WeightDevice};
use sampan_docker_api::written;

use super::Options;
use crate::commands::parse_size;

/// A length of time that is not negative, for a flag.
pub(crate) fn parse_duration(text: &str) -> Result<i64, String> {
    written::duration(text).and_then(|ns| if ns < 0 { Err(format!("`{text}` is negative")) } else { Ok(ns) })
}

/// CPUs as the API takes them.
#[allow(clippy::cast_possible_truncation)]
pub(crate) fn nano_cpus(cpus: Option<f64>) -> i64 {
    (cpus.unwrap_or(0.0) * 1e9).round() as i64
}

/// `NAME=SOFT[:HARD]`; -1 stands for no limit.
fn ulimit(text: &str) -> Result<Ulimit> {
    let invalid = || format!("invalid --ulimit `{text}`: expected NAME=SOFT[:HARD]");
    let (name, values) = text.split_once('=').with_context(invalid)?;
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let (soft, hard): (i64, i64) = (soft.parse().with_context(invalid)?, hard.parse().with_context(invalid)?);
    if hard != -1 && (soft > hard || soft == -1) {
        bail!("ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}");
    }
    Ok(Ulimit { name: name.to_owned(), soft, hard })
}

/// All of them by name; the last of a name counts.
pub(crate) fn ulimits(list: &[String]) -> Result<Vec<Ulimit>> {
    let mut all = std::collections::BTreeMap::new();
    for text in list {
        let limit = ulimit(text)?;
        all.insert(limit.name.clone(), limit);
    }
    Ok(all.into_values().collect())
}

/// `HOST[:CONTAINER[:rwm]]` or `HOST:rwm`.
pub(crate) fn device(text: &str) -> Result<DeviceMapping> {
    let is_mode = |t: &str| !t.is_empty() && t.chars().all(|c| matches!(c, 'r' | 'w' | 'm'));
    let parts: Vec<&str> = text.split(':').collect();
    let (host, inside, permissions) = match parts[..] {
        [host] => (host, host, "rwm"),
        [host, mode] if is_mode(mode) => (host, host, mode),
        [host, inside] => (host, inside, "rwm"),
        [host, inside, mode] if is_mode(mode) => (host, inside, mode),
        _ => bail!("invalid device specification: {text}"),
    };
    if host.is_empty() || inside.is_empty() {
        bail!("invalid device specification: {text}");
    }
    Ok(DeviceMapping {
        path_on_host: host.to_owned(),
        path_in_container: inside.to_owned(),
        cgroup_permissions: permissions.to_owned(),
    })
}

/// `DEVICE:WEIGHT` each.
pub(crate) fn weights(list: &[String]) -> Result<Option<Vec<WeightDevice>>> {
    let read = |text: &String| {
        let invalid = || format!("invalid --blkio-weight-device `{text}`: it is DEVICE:WEIGHT, 10 to 1000");
        let (path, weight) = text.rsplit_once(':').with_context(invalid)?;
        let weight: u16 = weight.parse().with_context(invalid)?;
        if !path.starts_with("/dev/") || (weight > 0 && !(10..=1000).contains(&weight)) {
            bail!("{}", invalid());
        }
        Ok(WeightDevice { path: path.to_owned(), weight })
    };
    // Docker's client sends the empty list, too.
    list.iter().map(read).collect::<Result<Vec<_>>>().map(Some)
}

/// `DEVICE:RATE` each; a rate of bytes may have a unit.
pub(crate) fn throttles(flag: &str, list: &[String], in_bytes: bool) -> Result<Option<Vec<ThrottleDevice>>> {
    let read = |text: &String| {
        let unit = if in_bytes { "BYTES[kb|mb|gb]" } else { "NUMBER" };
        let invalid = || format!("invalid --{flag} `{text}`: it is DEVICE:{unit}");
        let (path, rate) = text.rsplit_once(':').with_context(invalid)?;
        if !path.starts_with("/dev/") {
            bail!("{}", invalid());
        }
        let rate = match in_bytes {
            true => parse_size(rate).ok().and_then(|n| u64::try_from(n).ok()).with_context(invalid)?,
            false => rate.parse().with_context(invalid)?,
        };
        Ok(ThrottleDevice { path: path.to_owned(), rate })
    };
    // Docker's client sends the empty list, too.
    list.iter().map(read).collect::<Result<Vec<_>>>().map(Some)
}

/// What `--health-…` and `--no-healthcheck` ask for.
pub(crate) fn health(options: &Options) -> Result<Option<Healthcheck>> {
    let o = options;
    let times = [o.health_interval, o.health_timeout, o.health_start_period, o.health_start_interval];
    let asked = !o.health_cmd.is_empty() || o.health_retries != 0 || times.iter().any(Option::is_some);
    if o.no_healthcheck {
        if asked {
            bail!("--no-healthcheck conflicts with --health-* options");
        }
        return Ok(Some(Healthcheck { test: Some(vec!["NONE".into()]), ..Healthcheck::default() }));
    }
    if o.health_retries < 0 {
        bail!("--health-retries cannot be negative");
    }
    let shell = |command: &String| vec!["CMD-SHELL".to_owned(), command.clone()];
    Ok(asked.then(|| Healthcheck {
        test: (!o.health_cmd.is_empty()).then(|| shell(&o.health_cmd)),
        interval: times[0].unwrap_or(0),
        timeout: times[1].unwrap_or(0),
        start_period: times[2].unwrap_or(0),
        start_interval: times[3].unwrap_or(0),
        retries: o.health_retries,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_and_limits() {
        let show = |t: &str| {
            device(t).map(|d| [d.path_on_host, d.path_in_container, d.cgroup_permissions].join(" "))
        };
        assert_eq!(show("/dev/a").unwrap(), "/dev/a /dev/a rwm");
        assert_eq!(show("/dev/a:r").unwrap(), "/dev/a /dev/a r");
        assert_eq!(show("/dev/a:/dev/b:rw").unwrap(), "/dev/a /dev/b rw");
        assert!(show("/dev/a:/dev/b:x").is_err() && show("").is_err());
        assert_eq!(ulimit("nofile=10:20").unwrap(), Ulimit { name: "nofile".into(), soft: 10, hard: 20 });
        assert!(ulimit("nofile=20:10").is_err() && ulimit("nofile").is_err() && ulimit("nofile=x").is_err());
        assert_eq!(throttles("f", &["/dev/a:1mb".into()], true).unwrap().unwrap()[0].rate, 1 << 20);
        assert!(throttles("f", &["/dev/a:1mb".into()], false).is_err());
        assert!(weights(&["/dev/a:5".into()]).is_err() && weights(&[]).unwrap().unwrap().is_empty());
    }

    #[test]
    fn health_is_asked_for_or_switched_off() {
        assert!(health(&Options::default()).unwrap().is_none());
        let off = Options { no_healthcheck: true, ..Options::default() };
        assert_eq!(health(&off).unwrap().unwrap().test.unwrap(), ["NONE"]);
        let both = Options { no_healthcheck: true, health_cmd: "x".into(), ..Options::default() };
        assert!(health(&both).is_err());
        let some = Options { health_cmd: "x y".into(), health_interval: Some(5), ..Options::default() };
        let check = health(&some).unwrap().unwrap();
        assert_eq!((check.test.unwrap().len(), check.interval), (2, 5));
    }
}
