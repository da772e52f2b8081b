//! config.json's `linux.intelRdt`: shares of the processor's caches and memory bandwidth, by the kernel's `resctrl`
//! file system.
//!
//! ```text
//! <resctrl>/                     the default class, `closID` = `/`
//!   schemata, tasks
//!   <closID or container id>/    a class of service
//!     schemata, tasks
//!     mon_groups/<container id>/ what is counted for one container
//!       tasks
//! ```
//! A class that the container's own id names is the container's, and goes with it; one that `closID` names is anybody's
//! and stays. Nothing here is touched, not even looked at, unless config.json asks for it.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Component, Path, PathBuf};

use sampan_oci::runtime::IntelRdt;
use serde::{Deserialize, Serialize};

use crate::error::{Refused, Step};

/// What a container has in resctrl, for those who join it and who clear up after it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Held {
    /// The directory of its class.
    pub class: PathBuf,
    /// Whether that was made for it alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub own_class: bool,
    /// Its monitoring group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monitor: Option<PathBuf>,
}

/// What a container asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// The class's name; the container's id if `None`. Empty for the default class.
    class: Option<String>,
    /// Lines for `schemata`.
    schemata: Vec<String>,
    monitor: bool,
}

/// Checks what is asked for.
///
/// # Errors
/// If a name or a line is none.
pub fn plan(wanted: Option<&IntelRdt>) -> Result<Option<Plan>, Refused> {
    let Some(wanted) = wanted else { return Ok(None) };
    let class = match wanted.clos_id.as_deref() {
        None | Some("") => None,
        Some("/") => Some(String::new()),
        Some(name) => {
            let one = matches!(Path::new(name).components().collect::<Vec<_>>()[..], [Component::Normal(_)]);
            if !one || name.contains('/') || matches!(name, "info" | "mon_groups" | "mon_data") {
                return Err(Refused::Invalid(format!(
                    "linux.intelRdt.closID `{name}` is no name of a class"
                )));
            }
            Some(name.to_owned())
        }
    };
    let schemata =
        schemata(wanted.l3_cache_schema.as_deref(), wanted.mem_bw_schema.as_deref(), &wanted.schemata)?;
    Ok(Some(Plan { class, schemata, monitor: wanted.enable_monitoring }))
}

/// The lines of `schemata`, in the order in which the specification has them written.
///
/// # Errors
/// If one is more than a line, or the bandwidth's does not say that it is about bandwidth.
pub fn schemata(l3: Option<&str>, bandwidth: Option<&str>, rest: &[String]) -> Result<Vec<String>, Refused> {
    let given = |line: Option<&str>| line.filter(|line| !line.is_empty()).map(str::to_owned);
    let (l3, bandwidth) = (given(l3), given(bandwidth));
    if bandwidth.as_ref().is_some_and(|line| !line.starts_with("MB:")) {
        return Err(Refused::Invalid("linux.intelRdt.memBwSchema must begin with `MB:`".to_owned()));
    }
    let lines: Vec<String> = l3.into_iter().chain(bandwidth).chain(rest.iter().cloned()).collect();
    match lines.iter().find(|line| line.contains('\n')) {
        Some(line) => Err(Refused::Invalid(format!("linux.intelRdt: `{line}` is more than one line"))),
        None => Ok(lines),
    }
}

/// Where the file system is mounted.
///
/// # Errors
/// If it is not.
pub fn mount_point() -> Result<PathBuf, Step> {
    let doing = || "apply linux.intelRdt";
    let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(Step::on(doing))?;
    find(&mounts).ok_or_else(|| {
        let why = "no resctrl file system is mounted on this host (the processor, the kernel or the mount is missing)";
        Step::refused(doing(), why)
    })
}

fn find(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let (kind, _) = after.split_once(' ')?;
        (kind == "resctrl").then(|| before.split(' ').nth(4)).flatten().map(PathBuf::from)
    })
}

impl Plan {
    /// Makes what the container asks for, in the file system at `root`.
    ///
    /// # Errors
    /// If the kernel refuses, or a class that is there already is another than asked for. Nothing is left then.
    pub fn apply(&self, root: &Path, id: &str) -> Result<Held, Step> {
        let class = root.join(self.class.as_deref().unwrap_or(id));
        let mut held = Held { class, own_class: false, monitor: None };
        match self.fill(&mut held, id) {
            Ok(()) => Ok(held),
            Err(step) => {
                // The error that brought us here is the one to report.
                let _ = held.release();
                Err(step)
            }
        }
    }

    fn fill(&self, held: &mut Held, id: &str) -> Result<(), Step> {
        let class = held.class.clone();
        let there = class.is_dir();
        let named = self.class.is_some();
        if !there && named && self.schemata.is_empty() {
            let why = "it does not exist, and no schemata are given to make it with";
            return Err(Step::refused(format!("use the class of service `{}`", class.display()), why));
        }
        if !there {
            fs::create_dir(&class)
                .map_err(Step::on(|| format!("make the class of service `{}`", class.display())))?;
            // One that `closID` names stays, as soon as it is what it is to be.
            held.own_class = true;
        }
        let file = class.join("schemata");
        if there && named && !self.schemata.is_empty() {
            let now = fs::read_to_string(&file).map_err(Step::on(|| format!("read `{}`", file.display())))?;
            if let Some(line) = self.schemata.iter().find(|line| !is_in(line, &now)) {
                let why = format!("its schemata are others: there is no `{line}` in `{}`", file.display());
                return Err(Step::refused(format!("use the class of service `{}`", class.display()), why));
            }
        } else {
            write_schemata(&class, &self.schemata)?;
        }
        if self.monitor {
            let monitor = class.join("mon_groups").join(id);
            fs::create_dir(&monitor)
                .map_err(Step::on(|| format!("make the monitoring group `{}`", monitor.display())))?;
            held.monitor = Some(monitor);
        }
        if named {
            held.own_class = false;
        }
        Ok(())
    }
}

/// Writes lines to a class's `schemata`; nothing if there are none.
///
/// # Errors
/// If the kernel refuses.
pub fn write_schemata(class: &Path, lines: &[String]) -> Result<(), Step> {
    if lines.is_empty() {
        return Ok(());
    }
    let (file, text) = (class.join("schemata"), format!("{}\n", lines.join("\n")));
    fs::write(&file, text)
        .map_err(Step::on(|| format!("write `{}` to `{}`", lines.join("; "), file.display())))
}

/// Whether a line is in the file, as far as it goes: the file tells about every cache, the line perhaps not, and the
/// file pads its numbers.
fn is_in(line: &str, file: &str) -> bool {
    let parts = |line: &str| -> Option<(String, Vec<(u32, u64)>)> {
        let (name, values) = line.trim().split_once(':')?;
        let radix = if name.trim().starts_with("MB") { 10 } else { 16 };
        let pair = |pair: &str| {
            let (cache, value) = pair.split_once('=')?;
            Some((cache.trim().parse().ok()?, u64::from_str_radix(value.trim(), radix).ok()?))
        };
        let values = values.split(';').filter(|v| !v.trim().is_empty()).map(pair).collect::<Option<_>>()?;
        Some((name.trim().to_owned(), values))
    };
    let Some((name, wanted)) = parts(line) else { return false };
    file.lines()
        .filter_map(parts)
        .any(|(other, values)| other == name && wanted.iter().all(|v| values.contains(v)))
}

impl Held {
    /// Puts a process into the class and the monitoring group.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn join(&self, pid: i32) -> Result<(), Step> {
        // The group's class is the same, and to be in the group is to be in the class; the class alone comes first
        // because the kernel moves a task to a group only from within its class.
        for directory in [Some(&self.class), self.monitor.as_ref()].into_iter().flatten() {
            let file = directory.join("tasks");
            fs::write(&file, pid.to_string())
                .map_err(Step::on(|| format!("write process {pid} to `{}`", file.display())))?;
        }
        Ok(())
    }

    /// Removes what was made for the container alone. What is gone already is no error.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn release(&self) -> Result<(), Step> {
        let own = self.own_class.then_some(&self.class);
        for directory in self.monitor.as_ref().into_iter().chain(own) {
            match remove(directory) {
                Err(e) if e.kind() != ErrorKind::NotFound => {
                    return Err(Step::on(|| format!("remove `{}`", directory.display()))(e));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// The kernel removes such a directory with the files in it.
#[cfg(not(test))]
fn remove(directory: &Path) -> io::Result<()> {
    fs::remove_dir(directory)
}

#[cfg(test)]
fn remove(directory: &Path) -> io::Result<()> {
    fs::remove_dir_all(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(rdt: &str) -> Result<Plan, String> {
        let rdt: IntelRdt = serde_json::from_str(rdt).unwrap();
        plan(Some(&rdt)).map(Option::unwrap).map_err(|e| e.to_string())
    }

    /// An ordinary directory stands for the kernel's: what is written to each file is looked at.
    fn root() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("there/mon_groups")).unwrap();
        fs::write(root.path().join("there/schemata"), "    L3:0=007f0;1=0001f\n    MB:0=  20;1=  70\n")
            .unwrap();
        root
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for (rdt, why) in [
            (r#"{"closID":"a/b"}"#, "`a/b` is no name"),
            (r#"{"closID":".."}"#, "`..` is no name"),
            (r#"{"closID":"info"}"#, "`info` is no name"),
            (r#"{"memBwSchema":"L3:0=1"}"#, "begin with `MB:`"),
            (r#"{"l3CacheSchema":"L3:0=1\nMB:0=1"}"#, "more than one line"),
            (r#"{"schemata":["a\nb"]}"#, "more than one line"),
        ] {
            let error = planned(rdt).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        assert_eq!(plan(None).unwrap(), None);
    }

    #[test]
    fn the_own_class_is_made_joined_and_removed() {
        let root = root();
        let plan =
            planned(r#"{"schemata":["L2:0=f"],"memBwSchema":"MB:0=20","l3CacheSchema":"L3:0=1"}"#).unwrap();
        let held = plan.apply(root.path(), "id").unwrap();
        let read = |file: &str| fs::read_to_string(root.path().join(file)).unwrap();
        assert_eq!(read("id/schemata"), "L3:0=1\nMB:0=20\nL2:0=f\n");
        held.join(7).unwrap();
        assert_eq!(read("id/tasks"), "7");
        held.release().unwrap();
        assert!(!root.path().join("id").exists());
        held.release().unwrap();
    }

    #[test]
    fn a_named_class_stays_and_must_be_as_asked_for() {
        let root = root();
        let apply =
            |rdt: &str| planned(rdt).unwrap().apply(root.path(), "id").map_err(|e| sampan_base::chain(&e));
        let held = apply(r#"{"closID":"there","l3CacheSchema":"L3:1=1f","enableMonitoring":true}"#).unwrap();
        held.join(7).unwrap();
        let group = root.path().join("there/mon_groups/id");
        assert_eq!(fs::read_to_string(group.join("tasks")).unwrap(), "7");
        held.release().unwrap();
        assert!(!group.exists() && root.path().join("there").exists());
        assert!(apply(r#"{"closID":"there","memBwSchema":"MB:0=30"}"#).unwrap_err().contains("MB:0=30"));
        assert!(apply(r#"{"closID":"new"}"#).unwrap_err().contains("does not exist"));
        let held = apply(r#"{"closID":"new","schemata":["L3:0=1"]}"#).unwrap();
        held.release().unwrap();
        assert!(root.path().join("new").exists());
        // A class of which a part could not be made is not left behind.
        assert!(apply(r#"{"closID":"newer","schemata":["L3:0=1"],"enableMonitoring":true}"#).is_err());
        assert!(!root.path().join("newer").exists());
        let held = apply(r#"{"closID":"/"}"#).unwrap();
        assert_eq!(held.class, root.path().join(""));
        held.release().unwrap();
        assert!(root.path().exists());
    }

    #[test]
    fn the_mount_is_found_by_its_type() {
        let line =
            |kind: &str| format!("30 20 0:26 / /sys/fs/resctrl rw,nosuid shared:5 - {kind} resctrl rw\n");
        assert_eq!(find(&line("resctrl")), Some("/sys/fs/resctrl".into()));
        assert_eq!(find(&line("tmpfs")), None);
    }
}
