//! What a process does to itself between its birth and its program, once it is in the container: from all privileges
//! to those that it is to have. The order is the point; each step says why it is where it is.

use std::ffi::CString;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::process::{Gid, Rlimit, Uid};
use rustix::thread::CpuSet;
use sampan_base::Class;
use sampan_kernel::capabilities::{self, Set, Sets};
use sampan_kernel::process::{self as kernel, StringArray};
use sampan_kernel::seccomp;

use super::command::{self, CommandError};
use super::label::Labels;
use super::plan::{Plan, Seccomp};
use super::why;
use crate::error::Step;

/// A process that can't be made what it is to be.
#[derive(Debug, thiserror::Error)]
pub enum EnterError {
    /// A step failed.
    #[error(transparent)]
    Step(#[from] Step),
    /// Its program can't be run.
    #[error(transparent)]
    Command(#[from] CommandError),
}

impl EnterError {
    /// The class to report.
    pub fn class(&self) -> Class {
        match self {
            EnterError::Step(step) => step.class(),
            EnterError::Command(command) => command.class(),
        }
    }
}

/// Where the process tells what it can't keep to itself.
pub trait Tell {
    /// Something is done without.
    fn warn(&mut self, text: String);
    /// The descriptor of seccomp's notify.
    ///
    /// # Errors
    /// If nobody takes it.
    fn listener(&mut self, fd: OwnedFd) -> io::Result<()>;
    /// What it tells by, if that is a descriptor.
    fn descriptor(&self) -> Option<BorrowedFd<'_>>;
}

/// A process that has only its program to run yet.
#[derive(Debug)]
pub struct Ready {
    path: PathBuf,
    args: StringArray,
    env: StringArray,
    /// Loaded last, if it may be.
    seccomp: Option<Seccomp>,
    /// What is left of the capabilities then, if one more was kept to load it.
    sets: Option<Sets>,
}

/// Sets the CPUs that this process may run on, if there are any to set.
///
/// # Errors
/// If the kernel refuses: none of them is in the cgroup's set.
pub fn set_affinity(cpus: Option<&CpuSet>) -> Result<(), Step> {
    match cpus {
        Some(cpus) => {
            rustix::thread::sched_setaffinity(None, cpus).map_err(Step::on(|| "set the CPU affinity"))
        }
        None => Ok(()),
    }
}

/// Becomes the process of `plan`, up to its program. This process is in all of the container's namespaces, its root
/// is the container's, it leads a session, and has its standard streams. `gate` is what it still needs until then.
///
/// # Errors
/// If a step is refused, or the program is not there.
pub fn become_process(
    plan: &Plan,
    label: Option<Labels>,
    gate: Option<BorrowedFd<'_>>,
    tell: &mut dyn Tell,
) -> Result<Ready, EnterError> {
    // Before any path of the configuration is used, the working directory's or the program's: by `/proc/self/fd/7/..`
    // a descriptor that only waits to be closed by exec would lead out of the container (CVE-2024-21626).
    let keep = [tell.descriptor(), gate].into_iter().flatten();
    let keep: Vec<BorrowedFd<'_>> = keep.chain(label.iter().flat_map(Labels::descriptors)).collect();
    kernel::close_all_from(3 + plan.preserve_fds, &keep)
        .map_err(Step::on(|| "close the runtime's descriptors"))?;
    if plan.own_keyring {
        new_keyring(tell);
    }
    if let Some(domain) = plan.personality {
        kernel::set_personality(domain).map_err(Step::on(|| "set the personality"))?;
    }
    if let Some((mode, nodes)) = &plan.memory_policy {
        kernel::set_memory_policy(*mode, nodes).map_err(Step::on(|| "set the memory policy"))?;
    }
    // All that takes privileges comes before they go.
    if let Some(scheduling) = &plan.scheduling {
        kernel::set_scheduling(scheduling).map_err(Step::on(|| "set the scheduling policy"))?;
    }
    if let Some((class, priority)) = plan.io_priority {
        kernel::set_io_priority(class, priority).map_err(Step::on(|| "set the I/O priority"))?;
    }
    let mut env = plan.env.clone();
    if !env.iter().any(|e| e.starts_with("HOME=")) {
        env.push(format!("HOME={}", home_of(plan.uid)));
    }
    set_limits(plan, tell)?;
    own_streams(plan.uid);
    rustix::process::umask(Mode::from_raw_mode(plan.umask));
    // As the superuser, who may enter every directory; if it is one that only the user may enter, again below.
    let entered = rustix::process::chdir(plan.cwd.as_str());
    if let Some(labels) = label {
        labels.set()?;
    }
    if plan.no_new_privileges {
        rustix::thread::set_no_new_privs(true).map_err(Step::on(|| "set no_new_privs"))?;
    }
    capabilities::limit_bounding(plan.capabilities.bounding)
        .map_err(Step::on(|| "limit the bounding set"))?;
    change_user(plan)?;
    // The change of user took the effective set away; the next steps need it once more.
    capabilities::enable_permitted().map_err(Step::on(|| "keep the capabilities over the change of user"))?;
    if entered.is_err() {
        rustix::process::chdir(plan.cwd.as_str()).map_err(Step::on(|| why::not_entered(&plan.cwd)))?;
    }
    check_directory(plan)?;
    if let Some(rules) = &plan.landlock {
        rules.apply(tell)?;
    }
    let mut filter = plan.seccomp.clone();
    // A listener has to be handed over while the runtime is there to take it. Any other filter is loaded last of all,
    // so that it need not allow what is done until then.
    if filter.as_ref().is_some_and(|filter| filter.flags.contains(seccomp::Flags::NEW_LISTENER))
        && let Some(filter) = filter.take()
    {
        load(&filter, tell)?;
    }
    let have = capabilities::permitted().map_err(Step::on(|| "read the capabilities"))?;
    let sets = final_sets(&plan.capabilities, have);
    let missing = plan.capabilities.permitted.without(have);
    if !missing.is_empty() {
        let names: Vec<_> = missing.names().collect();
        tell.warn(format!(
            "the runtime has not all capabilities that it is to give; left out: {}",
            names.join(", ")
        ));
    }
    // Without no_new_privs, only who has CAP_SYS_ADMIN may load a filter. It is kept for that, not in force.
    let keeps = filter.is_some() && !plan.no_new_privileges;
    let keep = if keeps { Set::named("CAP_SYS_ADMIN").unwrap_or_default() } else { Set::default() };
    let for_now = Sets { permitted: sets.permitted.union(keep.intersection(have)), ..sets };
    capabilities::apply(&for_now).map_err(Step::on(|| "drop capabilities"))?;
    let path = match plan.args.first() {
        Some(name) => command::find(name, &env)?,
        None => PathBuf::new(),
    };
    kernel::close_from_on_exec(3 + plan.preserve_fds)
        .map_err(Step::on(|| "make the runtime's descriptors close on exec"))?;
    let args = StringArray::new(plan.args.iter().map(String::as_str));
    let env = StringArray::new(env.iter().map(String::as_str));
    let strings = |e| Step::on::<io::Error, _>(|| "pass arguments and environment")(e);
    Ok(Ready {
        path,
        args: args.map_err(strings)?,
        env: env.map_err(strings)?,
        seccomp: filter,
        sets: keeps.then_some(sets),
    })
}

impl Ready {
    /// Loads the filter, if it is not in force yet, and drops what it took to load it. What runs from here on in this
    /// process or its children is filtered.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn filter(&mut self, tell: &mut dyn Tell) -> Result<(), EnterError> {
        let Some(filter) = self.seccomp.take() else { return Ok(()) };
        // With no_new_privs the capabilities have gone before, and the filter need not allow that.
        let Some(sets) = self.sets.take() else { return Ok(load(&filter, tell)?) };
        capabilities::enable_permitted().map_err(Step::on(|| "put CAP_SYS_ADMIN in force"))?;
        load(&filter, tell)?;
        Ok(capabilities::apply(&sets).map_err(Step::on(|| "drop capabilities"))?)
    }

    /// Runs the program, filtered. Returns only if it can't be.
    pub fn execute(mut self, tell: &mut dyn Tell) -> EnterError {
        if let Err(error) = self.filter(tell) {
            return error;
        }
        if self.path.as_os_str().is_empty() {
            return Step::refused("start the container", "its config.json has no `process`").into();
        }
        let path = match CString::new(self.path.as_os_str().as_bytes()) {
            Ok(path) => path,
            Err(e) => return Step::on(|| "pass the program's path")(io::Error::from(e)).into(),
        };
        match kernel::execute(&path, &self.args, &self.env) {
            Err(error) => command::explain(&self.path, error).into(),
            Ok(never) => match never {},
        }
    }
}

fn new_keyring(tell: &mut dyn Tell) {
    if let Err(error) = kernel::new_session_keyring() {
        // Kernels without keyrings share none; quotas run out with many containers, and all can live with that.
        if error.raw_os_error() != Some(rustix::io::Errno::NOSYS.raw_os_error()) {
            tell.warn(format!("the session keyring is shared with the caller: {error}"));
        }
    }
}

/// Sets limits. A hard limit that may not be raised stays: a container with less is better than none.
fn set_limits(plan: &Plan, tell: &mut dyn Tell) -> Result<(), Step> {
    let limit = |n: u64| (n != u64::MAX).then_some(n);
    for &(resource, soft, hard) in &plan.rlimits {
        let wanted = Rlimit { current: limit(soft), maximum: limit(hard) };
        match rustix::process::setrlimit(resource, wanted) {
            Err(rustix::io::Errno::PERM) => {
                let ceiling = rustix::process::getrlimit(resource).maximum.unwrap_or(u64::MAX);
                let (soft, hard) = (soft.min(ceiling), hard.min(ceiling));
                let possible = Rlimit { current: limit(soft), maximum: limit(hard) };
                rustix::process::setrlimit(resource, possible)
                    .map_err(Step::on(|| format!("set the limit {resource:?}")))?;
                tell.warn(format!(
                    "the hard limit {resource:?} stays {ceiling}: raising it needs CAP_SYS_RESOURCE, which the runtime has not"
                ));
            }
            other => other.map_err(Step::on(|| format!("set the limit {resource:?} to {soft}:{hard}")))?,
        }
    }
    Ok(())
}

/// Pipes and terminals of the standard streams become the user's: else a program that opens `/dev/stdout` may not.
/// Files and devices stay whose they are.
fn own_streams(uid: u32) {
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    for stream in [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()] {
        let Ok(stat) = rustix::fs::fstat(stream) else { continue };
        const PTS_MAJORS: std::ops::Range<u32> = 136..144;
        let own = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Fifo => true,
            FileType::CharacterDevice => PTS_MAJORS.contains(&rustix::fs::major(stat.st_rdev)),
            _ => false,
        };
        if own && stat.st_uid != uid {
            // One that belongs to a user whom this namespace does not know stays as it is.
            let _ = rustix::fs::fchown(stream, Some(Uid::from_raw(uid)), None);
        }
    }
}

fn change_user(plan: &Plan) -> Result<(), Step> {
    let (uid, gid) = (Uid::from_raw(plan.uid), Gid::from_raw(plan.gid));
    let groups: Vec<Gid> = plan.groups.iter().map(|g| Gid::from_raw(*g)).collect();
    rustix::thread::set_keep_capabilities(true)
        .map_err(Step::on(|| "keep the capabilities over the change of user"))?;
    match rustix::thread::set_thread_groups(&groups) {
        // A user namespace of one mapped group may not change the others; there is nothing to lose then.
        Err(rustix::io::Errno::PERM) if groups.is_empty() => {}
        other => other.map_err(Step::on(|| format!("set the supplementary groups {:?}", plan.groups)))?,
    }
    rustix::thread::set_thread_res_gid(gid, gid, gid)
        .map_err(Step::on(|| format!("become group {}", plan.gid)))?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)
        .map_err(Step::on(|| format!("become user {}", plan.uid)))
}

/// The directory must be inside of the root: one that was reached by a descriptor of the host's is not.
fn check_directory(plan: &Plan) -> Result<(), Step> {
    let cwd = rustix::process::getcwd(Vec::new()).map_err(Step::on(|| "look where the process is"))?;
    if cwd.as_bytes().starts_with(b"/") {
        return Ok(());
    }
    Err(Step::refused(format!("change into `{}`", plan.cwd), "it is outside of the container's root"))
}

fn load(filter: &Seccomp, tell: &mut dyn Tell) -> Result<(), Step> {
    let loaded =
        seccomp::load(&filter.program, filter.flags).map_err(Step::on(|| "load the seccomp filter"))?;
    match loaded {
        Some(fd) => tell.listener(fd).map_err(Step::on(|| "hand over the seccomp listener")),
        None => Ok(()),
    }
}

/// What of the wanted sets a process can have that has `have`.
fn final_sets(wanted: &Sets, have: Set) -> Sets {
    let permitted = wanted.permitted.intersection(have);
    let inheritable = wanted.inheritable.intersection(have.union(wanted.bounding));
    Sets {
        bounding: wanted.bounding,
        effective: wanted.effective.intersection(permitted),
        permitted,
        inheritable,
        // The kernel takes only what is in both.
        ambient: wanted.ambient.intersection(permitted).intersection(inheritable),
    }
}

/// The user's home by the container's passwd, `/` if it does not tell.
fn home_of(uid: u32) -> String {
    // A fifo of that name must not hold us up, nor a huge file.
    const MAX_PASSWD: u64 = 1024 * 1024;
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let open = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open("/etc/passwd");
    let Ok(file) = open else { return "/".to_owned() };
    let mut text = Vec::new();
    let regular = file.metadata().is_ok_and(|m| m.is_file());
    if !regular || file.take(MAX_PASSWD).read_to_end(&mut text).is_err() {
        return "/".to_owned();
    }
    home_in(&String::from_utf8_lossy(&text), uid).unwrap_or_else(|| "/".to_owned())
}

fn home_in(passwd: &str, uid: u32) -> Option<String> {
    let of = |line: &str| {
        let mut fields = line.split(':');
        let id: u32 = fields.nth(2)?.parse().ok()?;
        let home = fields.nth(2).filter(|home| !home.is_empty())?;
        (id == uid).then(|| home.to_owned())
    };
    passwd.lines().find_map(of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn homes_are_found_by_number() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbroken\nweb:x:33:33::/var/www:\nno:x:5:5:::\n";
        assert_eq!(home_in(passwd, 0).as_deref(), Some("/root"));
        assert_eq!(home_in(passwd, 33).as_deref(), Some("/var/www"));
        assert_eq!(home_in(passwd, 5), None);
        assert_eq!(home_in(passwd, 99), None);
    }
}
