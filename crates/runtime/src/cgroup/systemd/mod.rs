//! Control groups that systemd makes: a transient unit for each container, a scope.
//!
//! `cgroupsPath` is `slice:prefix:name` here: the unit is `prefix-name.scope` in that slice. (systemd itself knows that
//! `a-b.slice` lies in `a.slice`.) Life of a unit: [`Unit::start`] asks for it and waits until it is there, its limits
//! are properties of it ([`Unit::update`]) and are written to the group's files as well, for systemd does not know all
//! of them; [`Unit::stop`] takes it away.
//!
//! systemd makes no scope without a process in it, but the container's process is born in its groups. So a helper is
//! the first in the scope: it does nothing, and ends when the container's process is there.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use rustix::process::Pid;
use sampan_kernel::cgroup::Layout;
use sampan_kernel::process::{self as kernel, Child, Clone as CloneHow};
use sampan_oci::runtime::Resources;
use serde::{Deserialize, Serialize};

use super::{Group, GroupPath};
use crate::channel::Channel;
use crate::ending::wait_status;
use crate::error::{Refused, Step};

mod bus;
mod message;
mod properties;

use bus::{Bus, CallError, Whose};
use message::Value;
pub use properties::ANNOTATION;

const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";
const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";

/// A container's unit.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Unit {
    /// Its name, with `.scope` or `.slice`.
    pub name: String,
    /// The slice that it is in.
    pub slice: String,
    /// Whether it is one of the user's own systemd.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub user: bool,
}

impl Unit {
    /// The unit that config.json's `cgroupsPath` names.
    ///
    /// # Errors
    /// If it names none, or there is no systemd here.
    pub fn plan(path: Option<&str>, id: &str) -> Result<Unit, Refused> {
        // As systemd's own libraries tell it.
        if !Path::new("/run/systemd/system").is_dir() {
            return Err(Refused::Unsupported(
                "--systemd-cgroup on a host whose init is not systemd (there is no `/run/systemd/system`)"
                    .to_owned(),
            ));
        }
        Unit::named(path, id, !super::is_host_root())
    }

    fn named(path: Option<&str>, id: &str, user: bool) -> Result<Unit, Refused> {
        let path = path.unwrap_or_default();
        let parts: Vec<&str> =
            if path.is_empty() { vec!["", "sampan", id] } else { path.split(':').collect() };
        let [slice, prefix, name] = parts[..] else {
            return Err(Refused::Invalid(format!(
                "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got \"{path}\" instead"
            )));
        };
        let slice = match (slice, user) {
            ("", true) => "user.slice",
            ("", false) => "system.slice",
            (given, _) => given,
        };
        let name = match (name.ends_with(".slice"), prefix) {
            (true, _) => name.to_owned(),
            (false, "") => format!("{name}.scope"),
            (false, prefix) => format!("{prefix}-{name}.scope"),
        };
        check_slice(slice)?;
        /// systemd's own limit.
        const LONGEST: usize = 255;
        let valid = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte);
        if name.len() > LONGEST || !name.bytes().all(valid) {
            return Err(Refused::Invalid(format!("cgroupsPath `{path}`: `{name}` is no unit's name")));
        }
        Ok(Unit { name, slice: slice.to_owned(), user })
    }

    fn bus(&self) -> io::Result<Bus> {
        Bus::connect(if self.user { Whose::User } else { Whose::System })
    }

    /// Makes the unit, and returns its groups and what keeps it from ending before a process of the container is in
    /// it.
    ///
    /// # Errors
    /// If systemd refuses.
    pub fn start(
        &self,
        id: &str,
        resources: &Resources,
        annotations: &BTreeMap<String, String>,
        layout: &Layout,
    ) -> Result<(Vec<Group>, Keeper), Step> {
        let unified = layout.is_unified();
        let failed = || Step::on::<io::Error, _>(|| format!("start the systemd unit `{}`", self.name));
        let is_slice = self.name.ends_with(".slice");
        let mut properties = vec![
            ("Description".to_owned(), Value::Text(format!("container {id}"))),
            ("DefaultDependencies".to_owned(), Value::Bool(false)),
        ];
        if is_slice {
            let slice = Value::Array("s", vec![Value::Text(self.slice.clone())]);
            properties.push(("Wants".to_owned(), slice));
        } else {
            properties.push(("Slice".to_owned(), Value::Text(self.slice.clone())));
            properties.push(("Delegate".to_owned(), Value::Bool(true)));
        }
        let io = if unified { "IOAccounting" } else { "BlockIOAccounting" };
        for name in ["MemoryAccounting", "CPUAccounting", "TasksAccounting", io] {
            properties.push((name.to_owned(), Value::Bool(true)));
        }
        properties.extend(properties::of_resources(resources, unified)?);
        properties.extend(properties::of_annotations(annotations)?);
        let keeper = Keeper::begin().map_err(failed())?;
        if !is_slice {
            let pid = keeper.0.as_ref().map_or(0, |(child, _)| child.pid.as_raw_nonzero().get());
            properties.push(("PIDs".to_owned(), Value::Array("u", vec![Value::U32(pid.cast_unsigned())])));
        }
        let mut bus = self.bus().map_err(failed())?;
        match self.start_transient(&mut bus, &properties) {
            // One that has failed is kept by systemd until somebody has seen that.
            Err(CallError::Refused { name, .. }) if name == UNIT_EXISTS => {
                self.reset(&mut bus)?;
                self.start_transient(&mut bus, &properties).map_err(|e| failed()(e.into()))?;
            }
            other => other.map_err(|e| failed()(e.into()))?,
        }
        let group = self.group(&mut bus).inspect_err(|_| {
            // The first error is the one to report.
            let _ = self.stop();
        });
        let group = group.map_err(|e| failed()(e.into()))?;
        Ok((super::plan(layout, &GroupPath::given(&group)), keeper))
    }

    fn start_transient(&self, bus: &mut Bus, properties: &[properties::Property]) -> Result<(), CallError> {
        let answer = bus.call(MANAGER_PATH, MANAGER, "StartTransientUnit", "ssa(sv)a(sa(sv))", |body| {
            body.text(&self.name);
            body.text("replace");
            body.properties(properties);
            body.array(8, |_| {});
        })?;
        finish(bus, &answer.body().text()?)
    }

    /// The path of its group. systemd knows it best: it may have a root of its own in the hierarchy.
    fn group(&self, bus: &mut Bus) -> Result<PathBuf, CallError> {
        let kind = if self.name.ends_with(".slice") { "Slice" } else { "Scope" };
        let path = format!("/org/freedesktop/systemd1/unit/{}", escape(&self.name));
        let answer = bus.call(&path, "org.freedesktop.DBus.Properties", "Get", "ss", |body| {
            body.text(&format!("org.freedesktop.systemd1.{kind}"));
            body.text("ControlGroup");
        })?;
        let group = answer.body().variant_text()?;
        if group.is_empty() {
            return Err(CallError::Lost(io::Error::other("it has no control group")));
        }
        Ok(group.into())
    }

    /// Changes its properties to what `resources` say.
    ///
    /// # Errors
    /// If systemd refuses.
    pub fn update(&self, resources: &Resources, unified: bool) -> Result<(), Step> {
        let properties = properties::of_resources(resources, unified)?;
        if properties.is_empty() {
            return Ok(());
        }
        let set = || -> io::Result<()> {
            self.bus()?.call(MANAGER_PATH, MANAGER, "SetUnitProperties", "sba(sv)", |body| {
                body.text(&self.name);
                // Until the next boot: it does not live longer.
                body.u32(1);
                body.properties(&properties);
            })?;
            Ok(())
        };
        set().map_err(Step::on(|| format!("set limits of the systemd unit `{}`", self.name)))
    }

    /// Moves a process into its group, which not everybody may do without systemd.
    ///
    /// # Errors
    /// If systemd refuses.
    pub fn attach(&self, pid: Pid) -> Result<(), Step> {
        let attach = || -> io::Result<()> {
            self.bus()?.call(MANAGER_PATH, MANAGER, "AttachProcessesToUnit", "ssau", |body| {
                body.text(&self.name);
                body.text("");
                body.array(4, |body| body.u32(pid.as_raw_nonzero().get().cast_unsigned()));
            })?;
            Ok(())
        };
        attach().map_err(Step::on(|| format!("put the process into the systemd unit `{}`", self.name)))
    }

    /// Ends the unit and what runs in it, and makes systemd forget it. One that is gone is no error.
    ///
    /// # Errors
    /// If systemd refuses.
    pub fn stop(&self) -> Result<(), Step> {
        let failed = || Step::on::<io::Error, _>(|| format!("stop the systemd unit `{}`", self.name));
        let mut bus = self.bus().map_err(failed())?;
        let stopped = bus.call(MANAGER_PATH, MANAGER, "StopUnit", "ss", |body| {
            body.text(&self.name);
            body.text("replace");
        });
        match stopped {
            Ok(answer) => {
                let job = answer.body().text().map_err(failed())?;
                finish(&mut bus, &job).map_err(|e| failed()(e.into()))?;
            }
            Err(CallError::Refused { name, .. }) if name == NO_SUCH_UNIT => return Ok(()),
            Err(error) => return Err(failed()(error.into())),
        }
        self.reset(&mut bus)
    }

    fn reset(&self, bus: &mut Bus) -> Result<(), Step> {
        let reset = bus.call(MANAGER_PATH, MANAGER, "ResetFailedUnit", "s", |body| body.text(&self.name));
        match reset {
            Ok(_) => Ok(()),
            Err(CallError::Refused { name, .. }) if name == NO_SUCH_UNIT => Ok(()),
            Err(error) => Err(Step::on(|| format!("reset the systemd unit `{}`", self.name))(error)),
        }
    }
}

/// Waits for the end of a job.
fn finish(bus: &mut Bus, job: &str) -> Result<(), CallError> {
    // Its number, its path, its unit, its result.
    let result = bus.wait(|signal| {
        let mut body = signal.body();
        let ours = signal.member == "JobRemoved"
            && signal.signature == "uoss"
            && body.u32().is_ok()
            && body.text().is_ok_and(|path| path == job);
        if ours { body.text().and_then(|_| body.text()).ok() } else { None }
    })?;
    match result.as_str() {
        "done" => Ok(()),
        result => Err(CallError::Lost(io::Error::other(format!("systemd's job ended with `{result}`")))),
    }
}

/// A unit's name as part of an object's path: what is not a letter or digit is written as its number.
fn escape(name: &str) -> String {
    let mut path = String::new();
    for (at, byte) in name.bytes().enumerate() {
        if byte.is_ascii_alphabetic() || (byte.is_ascii_digit() && at > 0) {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("_{byte:02x}"));
        }
    }
    path
}

/// Checks a slice's name: `a-b.slice` is below `a.slice`, so no part may be empty.
fn check_slice(slice: &str) -> Result<(), Refused> {
    let stem = slice.strip_suffix(".slice").filter(|stem| !stem.contains('/'));
    match stem {
        Some("-") => Ok(()),
        Some(stem) if stem.split('-').all(|part| !part.is_empty()) => Ok(()),
        _ => Err(Refused::Invalid(format!("invalid slice name: {slice}"))),
    }
}

/// The first process of a scope. It ends when this is dropped, or when the runtime ends.
#[derive(Debug)]
pub struct Keeper(Option<(Child, Channel)>);

impl Keeper {
    fn begin() -> io::Result<Keeper> {
        use std::os::fd::AsFd;
        let (ours, theirs) = Channel::pair()?;
        let without = [ours.as_fd()];
        let how = CloneHow { without: &without, ..CloneHow::default() };
        // It hears nothing but that the other end is closed.
        let child = kernel::clone(&how, || i32::from(theirs.receive().is_err()))?;
        drop(theirs);
        Ok(Keeper(Some((child, ours))))
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if let Some((child, channel)) = self.0.take() {
            // By a signal, for the container's process may have a copy of the channel's end. It is our child, so it
            // can be signalled and there is an ending to take.
            let _ = rustix::process::pidfd_send_signal(&child.pidfd, rustix::process::Signal::KILL);
            let _ = wait_status(&child.pidfd);
            drop(channel);
        }
    }
}

/// Whether bytes can be understood as a message of the bus, with two texts in its body. (What fuzzing asks.)
pub fn is_message(bytes: &[u8]) -> bool {
    let Some(fixed) = bytes.first_chunk() else { return false };
    let length = message::Message::length(fixed);
    let Ok(message) = message::Message::decode(bytes) else { return false };
    let mut body = message.body();
    length.is_ok() && body.text().is_ok() && body.variant_text().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, user: bool) -> Result<String, String> {
        let path = Some(path).filter(|path| !path.is_empty());
        let unit = Unit::named(path, "id", user).map_err(|e| e.to_string())?;
        Ok(format!("{} {}", unit.slice, unit.name))
    }

    #[test]
    fn a_path_names_a_unit() {
        assert_eq!(check("a-b.slice:docker:x", false).unwrap(), "a-b.slice docker-x.scope");
        assert_eq!(check(":docker:x", false).unwrap(), "system.slice docker-x.scope");
        assert_eq!(check(":docker:x", true).unwrap(), "user.slice docker-x.scope");
        assert_eq!(check("", false).unwrap(), "system.slice sampan-id.scope");
        assert_eq!(check("-.slice::x", false).unwrap(), "-.slice x.scope");
        assert_eq!(check("a.slice:p:a-b.slice", false).unwrap(), "a.slice a-b.slice");
        for (path, why) in [
            ("/a/b", "slice:prefix:name"),
            ("a.slice:b", "slice:prefix:name"),
            ("a.slice:b:c:d", "slice:prefix:name"),
            ("a:b:c", "invalid slice"),
            ("a--b.slice:b:c", "invalid slice"),
            ("../a.slice:b:c", "invalid slice"),
            ("a.slice:b:../c", "no unit's name"),
        ] {
            assert!(check(path, false).unwrap_err().contains(why), "{path}");
        }
    }

    #[test]
    fn names_are_escaped() {
        assert_eq!(escape("a-1.scope"), "a_2d1_2escope");
        assert_eq!(escape("9"), "_39");
    }
}
