//! `events`: what a container uses, and that it ran out of memory, one JSON object a line.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::fs::inotify;
use sampan_kernel::cgroup::Version;
use sampan_oci::runtime::Status;
use serde::Serialize;
use serde_json::Value;

use super::arguments::Parsed;
use super::{Context, Failure, print, to_json};
use crate::cgroup::{Group, stats};
use crate::error::{Refused, Step};
use crate::state;

const DEFAULT_INTERVAL: Duration = Duration::from_secs(5);

pub(super) fn events(context: &Context, parsed: &Parsed) -> Result<u8, Failure> {
    let interval = parsed.get("interval").map(parse_duration).transpose()?.unwrap_or(DEFAULT_INTERVAL);
    let (directory, record) = context.root.find(&parsed.rest[0])?;
    if directory.status(&record) == Status::Stopped {
        return Err(Refused::Invalid(format!("container with id {} is not running", record.id)).into());
    }
    let stats = || Event { kind: "stats", id: &record.id, data: Some(stats::read(&record.cgroups)) };
    if parsed.has("stats") {
        return tell(&stats());
    }
    let process = state::open_process(&record).map_err(Step::on(|| "open the container's process"))?;
    let Some(process) = process else { return Ok(0) };
    let mut watch = Watch::new(&record.cgroups).map_err(Step::on(|| "watch for lack of memory"))?;
    let mut next = Instant::now() + interval;
    loop {
        let (ended, notified) = wait(&process, watch.as_ref(), next)?;
        if notified
            && let Some(watch) = &mut watch
            && watch.happened().map_err(Step::on(|| "watch for lack of memory"))?
        {
            tell(&Event { kind: "oom", id: &record.id, data: None })?;
        }
        if ended {
            return Ok(0);
        }
        if Instant::now() >= next {
            tell(&stats())?;
            next += interval;
        }
    }
}

/// A line. Its fields are in the order in which readers by pattern expect them.
#[derive(Serialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Value>,
}

fn tell(event: &Event<'_>) -> Result<u8, Failure> {
    print(&format!("{}\n", to_json(event)?))?;
    Ok(0)
}

/// Waits for the container's end, for lack of memory, or until it is time.
fn wait(process: &OwnedFd, watch: Option<&Watch>, until: Instant) -> Result<(bool, bool), Step> {
    let left = until.saturating_duration_since(Instant::now());
    let timeout = Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(left.subsec_nanos()),
    };
    let mut fds = vec![PollFd::new(process, PollFlags::IN)];
    if let Some(watch) = watch {
        fds.push(PollFd::new(&watch.event, PollFlags::IN));
    }
    match rustix::event::poll(&mut fds, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(e) => return Err(Step::on(|| "wait for events")(e)),
    }
    let ready = |fd: Option<&PollFd<'_>>| fd.is_some_and(|fd| !fd.revents().is_empty());
    Ok((ready(fds.first()), ready(fds.get(1))))
}

/// Something that becomes readable when a container runs out of memory.
struct Watch {
    event: OwnedFd,
    kind: Kind,
}

enum Kind {
    /// An eventfd that the kernel was given; it also fires when the group is removed.
    V1 { control: PathBuf, _file: File },
    /// A file that changes, and the count of kills that was in it last.
    V2 { events: PathBuf, kills: u64 },
}

impl Watch {
    /// `None` if this host does not tell.
    fn new(groups: &[Group]) -> io::Result<Option<Watch>> {
        let v1 = groups.iter().find(|g| g.controllers.iter().any(|c| c == "memory"));
        if let Some(group) = v1 {
            let control = group.path.join("memory.oom_control");
            let file = File::open(&control)?;
            let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            let register = format!("{} {}", event.as_raw_fd(), file.as_raw_fd());
            OpenOptions::new()
                .write(true)
                .open(group.path.join("cgroup.event_control"))?
                .write_all(register.as_bytes())?;
            return Ok(Some(Watch { event, kind: Kind::V1 { control, _file: file } }));
        }
        let v2 = groups.iter().find(|g| g.version() == Version::V2 && g.limits);
        let Some(events) = v2.map(|g| g.path.join("memory.events")).filter(|file| file.exists()) else {
            return Ok(None);
        };
        let event = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        inotify::add_watch(&event, &events, inotify::WatchFlags::MODIFY)?;
        let kills = kills(&events);
        Ok(Some(Watch { event, kind: Kind::V2 { events, kills } }))
    }

    /// Takes the notification, and tells whether it means what it is for.
    fn happened(&mut self) -> io::Result<bool> {
        let mut buffer = [0u8; 4096];
        match rustix::io::read(self.event.as_fd(), &mut buffer) {
            Ok(_) | Err(rustix::io::Errno::AGAIN) => {}
            Err(e) => return Err(e.into()),
        }
        match &mut self.kind {
            Kind::V1 { control, .. } => Ok(control.exists()),
            Kind::V2 { events, kills: before } => {
                let now = kills(events);
                Ok(now > std::mem::replace(before, now))
            }
        }
    }
}

fn kills(events: &std::path::Path) -> u64 {
    let text = fs::read_to_string(events).unwrap_or_default();
    let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

/// A time as Go writes it: `5s`, `1m30s`, `100ms`.
fn parse_duration(text: &str) -> Result<Duration, Refused> {
    let refuse = || Refused::Invalid(format!("`--interval {text}` is no time"));
    let mut rest = text;
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(refuse)?;
        let (number, tail) = rest.split_at(digits);
        let unit_end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let unit = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            _ => return Err(refuse()),
        };
        let seconds = number.parse::<f64>().map_err(|_| refuse())? * unit;
        sum += Duration::try_from_secs_f64(seconds).map_err(|_| refuse())?;
        rest = tail;
    }
    if sum.is_zero() { Err(refuse()) } else { Ok(sum) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        let ms = |text| parse_duration(text).ok().map(|d| d.as_millis());
        assert_eq!(ms("5s"), Some(5000));
        assert_eq!(ms("1m30s"), Some(90_000));
        assert_eq!(ms("100ms"), Some(100));
        assert_eq!(ms("1.5s"), Some(1500));
        for text in ["", "5", "0s", "s", "-1s", "5x", "1e400s"] {
            assert_eq!(ms(text), None, "{text}");
        }
    }
}
