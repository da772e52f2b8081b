//! `HEALTHCHECK`, and times as Go writes them.

use super::parse::Parts;
use super::{Command, Healthcheck, Problem};

impl Parts<'_> {
    pub(super) fn healthcheck(&mut self) -> Result<Healthcheck, Problem> {
        let mut time = |what: &'static str, flag: &'static str| match self.flags.text(flag)? {
            Some(text) if text.is_empty() => Ok(0),
            Some(text) => match duration(&text).filter(|d| *d == 0 || *d >= 1_000_000) {
                Some(nanos) => Ok(nanos),
                None => Err(Problem::Invalid { instruction: self.name.to_owned(), what, value: text }),
            },
            None => Ok(0),
        };
        let mut check = Healthcheck {
            command: None,
            interval: time("interval", "interval")?,
            timeout: time("timeout", "timeout")?,
            start_period: time("start period", "start-period")?,
            start_interval: time("start interval", "start-interval")?,
            retries: 0,
        };
        if let Some(text) = self.flags.text("retries")?.filter(|t| !t.is_empty()) {
            let number = text.parse::<i32>().ok().filter(|n| *n >= 0);
            check.retries = number.ok_or_else(|| self.invalid("number of retries", &text))?.into();
        }
        let (kind, rest) = self.rest.split_once(char::is_whitespace).unwrap_or((self.rest, ""));
        let rest = rest.trim();
        match kind.to_ascii_uppercase().as_str() {
            "NONE" if rest.is_empty() => return Ok(Healthcheck::default()),
            "NONE" => return Err(self.wrong("NONE takes no arguments")),
            "CMD" if rest.is_empty() => return Err(self.wrong("CMD requires a command")),
            "CMD" => {}
            "" => return Err(self.wrong("requires at least one argument")),
            _ => return Err(self.invalid("type", kind)),
        }
        check.command = Some(self.command_of(rest)?);
        if check.command == Some(Command::Exec(Vec::new())) {
            return Err(self.wrong("CMD requires a command"));
        }
        Ok(check)
    }
}

/// A time as Go writes it: `1h30m`, `1.5s`, `500ms`.
fn duration(text: &str) -> Option<i64> {
    if text == "0" {
        return Some(0);
    }
    let mut rest = text;
    let mut nanos = 0f64;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
        let value: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let units =
            [("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("ms", 1e6), ("h", 3.6e12), ("m", 6e10), ("s", 1e9)];
        let (unit, factor) = units.into_iter().find(|(unit, _)| rest.starts_with(unit))?;
        nanos += value * factor;
        rest = &rest[unit.len()..];
    }
    // Far below the limit: 292 years.
    (!text.is_empty() && nanos < 9e18).then_some(nanos.round() as i64)
}
